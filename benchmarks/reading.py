"""What it takes to read an answer: microseconds a row, and how many times `json.loads` of such a text takes.

    python benchmarks/reading.py          # ten seconds

Each text is read for the first time, but for those read once more: readings of short answers are kept. The labels are
77 of two to six words; the schema has ten fields. A figure is the least of several rounds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from batcher.answer.labels import Labels
from batcher.answer.schema import Schema

ROUNDS = 7
ROWS = 2000
WORDS = ("card", "payment", "cash", "transfer", "limit", "rate", "refund", "top", "identity", "fee", "pin")
NAMES = [
    f"{one}_{two}" + ("_not_working_as_expected" if one > two else "") for one in WORDS for two in WORDS if one != two
]
NAMES = NAMES[:77]
LABELS = Labels.of(NAMES, "labels")

KINDS: list[dict[str, Any]] = [{"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}]
FIELDS = {"label": {"enum": NAMES}} | {f"field_{number}": KINDS[number % 4] for number in range(9)}
SCHEMA = Schema.of({"type": "object", "properties": FIELDS, "required": [*FIELDS]}, "schema")


def answer_of(row: int, number: object = None) -> str:
    values = ["some words of text", row if number is None else number, row / 7, row % 2 == 0]
    return json.dumps({"label": NAMES[row % 77]} | {f"field_{field}": values[field % 4] for field in range(9)})


def us(work: Callable[[str], object], texts: Sequence[str], before: Callable[[], object] = lambda: None) -> float:
    """Return the microseconds that a text takes."""
    best = float("inf")
    for _ in range(ROUNDS):
        before()
        start = time.perf_counter()
        for text in texts:
            work(text)
        best = min(best, time.perf_counter() - start)
    return best / len(texts) * 1e6


def fresh() -> None:
    """Forget the kept readings."""
    vars(LABELS).pop("_reads", None)
    LABELS.read("")


def line(what: str, took: float, unit: float) -> None:
    print(f"| {what} | {took:.2f} | {took / unit:.1f} |")


def main() -> None:
    unit = us(json.loads, [json.dumps({"label": name}) for name in NAMES])
    print("| labels | us/row | of `json.loads` |\n| --- | ---: | ---: |")
    line('`json.loads` of `{"label": "label"}`', unit, unit)
    line("the label as it is", us(LABELS.read, NAMES, fresh), unit)
    line("`**Label**` once more", us(LABELS.read, [f"**{name.title()}**" for name in NAMES] * 100, fresh), unit)
    words = [name.replace("_", " ").capitalize() for name in NAMES]
    line("`Label words.`", us(LABELS.read, [f"{each}." for each in words], fresh), unit)
    line("`Label: **Label words**`", us(LABELS.read, [f"Label: **{each}**" for each in words], fresh), unit)
    line('`{"label": "label"}`', us(LABELS.read, [json.dumps({"label": name}) for name in NAMES], fresh), unit)
    sentence = "The customer asks when the new card is going to arrive at home."
    line("a label and a sentence", us(LABELS.read, [f"{name}\n\n{sentence}" for name in NAMES], fresh), unit)
    line("nearly a label: invalid", us(LABELS.read, [f"{name}x" for name in NAMES], fresh), unit)
    line("a sentence: invalid", us(LABELS.read, [sentence + " " * number for number in range(77)], fresh), unit)
    answers = [answer_of(row) for row in range(ROWS)]
    unit = us(json.loads, answers)
    print("\n| a schema of ten fields | us/row | of `json.loads` |\n| --- | ---: | ---: |")
    line("`json.loads` of the text", unit, unit)
    line("read", us(SCHEMA.read, answers), unit)
    line("its cells", us(SCHEMA.cells, answers), unit)
    line("read in a fence", us(SCHEMA.read, [f"```json\n{each}\n```" for each in answers]), unit)
    line("read among words", us(SCHEMA.read, [f"Here it is: {each}. Anything else?" for each in answers]), unit)
    line("read and mended: three numbers as texts", us(SCHEMA.read, [answer_of(row, "7") for row in range(ROWS)]), unit)
    line("read and repaired: a comma too many", us(SCHEMA.read, [f"{each[:-1]},}}" for each in answers[:200]]), unit)


if __name__ == "__main__":
    main()

"""A complete run without a key or a network: a thousand sums, labelled by the embedded server, and marked.

Invariant: every row of the table is marked as exactly one of right, wrong and unparsable.
"""

from __future__ import annotations

import csv
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from batcher.words import print_out

PROMPT = 'Work out {expression} and reply with JSON only: {{"result": <number>}}'
KEYWORD = "arithmetic"
ROWS = 1000
TABLE = Path(__file__).parents[1] / "data" / "arithmetic.csv"
_SEED = 20261120
_OPERATORS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


class Sum(NamedTuple):
    """An expression of two operators, and its result."""

    expression: str
    result: int


def sums(count: int = ROWS, seed: int = _SEED) -> Iterator[Sum]:
    """Make expressions of two operators with whole results; the same ones each time."""
    draw = random.Random(seed)  # noqa: S311 - exercises, not secrets
    for _ in range(count):
        numbers = [draw.randint(2, 99) for _ in range(3)]
        first, second = draw.choice("+-*"), draw.choice("+-*")
        yield Sum(f"{numbers[0]} {first} {numbers[1]} {second} {numbers[2]}", _value(numbers, first, second))


def _value(numbers: list[int], first: str, second: str) -> int:
    """Multiply before adding, else go from left to right."""
    a, b, c = numbers
    if second == "*" and first != "*":
        return int(_OPERATORS[first](a, b * c))
    return int(_OPERATORS[second](_OPERATORS[first](a, b), c))


def write_table(path: Path) -> None:
    """Write the table that is in the repository as `data/arithmetic.csv`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Sum._fields)
        writer.writerows(sums())


def mark(answer: str, result: str) -> str:
    """Return `right`, `wrong` or `unparsable`."""
    try:
        given = json.loads(answer)["result"]
        return "right" if Fraction(str(given)) == Fraction(result) else "wrong"
    except (ValueError, TypeError, KeyError, ZeroDivisionError):
        return "unparsable"


def marks(path: Path) -> Counter[str]:
    """Mark every row of a result file."""
    with path.open(encoding="utf-8", newline="") as file:
        return Counter(mark(row["infer"], row["result"]) for row in csv.DictReader(file))


def demo(output_dir: Path) -> int:
    """Label the sums, print what came out, and return the exit status."""
    from batcher.engine.runner import run  # noqa: PLC0415 - the command line's help does not need it

    table = TABLE
    if not table.exists():  # installed without the repository
        output_dir.mkdir(parents=True, exist_ok=True)
        table = output_dir / TABLE.name
        write_table(table)
    print_out(f"$ batcher run {os.path.relpath(table)} \\\n    --prompt '{PROMPT}' \\\n    --provider offline")
    report = run(table, PROMPT, keyword=KEYWORD, output_dir=output_dir, provider="offline")
    print_out(report)
    if report.output is None:
        return 3
    found = marks(report.output)
    right, unparsable, wrong = (found[name] for name in ("right", "unparsable", "wrong"))
    print_out(f"\naccuracy {right / report.rows:.1%}: {right:,} right, {unparsable:,} unparsable, {wrong:,} wrong")
    print_out(f"\n$ ls {output_dir}")
    for entry in sorted(output_dir.iterdir(), key=_listed):
        if not entry.name.startswith("."):
            print_out(f"{entry.stat().st_size:>10,}  {entry.name}")
    return 0 if right == report.rows else 1


def _listed(path: Path) -> tuple[int, str]:
    """Order chunk files by their number."""
    number = path.name.partition("_")[0]
    return (int(number), path.name) if number.isdecimal() else (10**9, path.name)

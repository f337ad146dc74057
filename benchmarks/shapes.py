"""What labels and a schema cost a row of a whole run: CPU time beside the same run that takes any text.

    python benchmarks/shapes.py               # seven minutes
    python benchmarks/shapes.py --rounds 3 --rows 5000

Each pair has the same table, prompts, server and answers, and differs in the option alone: 77 labels of two to six
words, or a schema of ten fields. The runs of a round follow each other, so that whatever else the machine does meets
all of them, and each goes first in turn. A row's cost is the difference between a long and a short run, start-up
excluded, as in `compare.py`; the overhead is the median, over the rounds, of the differences within a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from harness import Server, batcher_run, check_answers, cost_of, machine, markdown, say, write_table
from server import LABELS

_FEW_ROWS = 500
_LISTED = f"Answer with exactly one of these labels and nothing else: {', '.join(LABELS)}\n\nAbout {{text}}"
_KINDS: list[dict[str, Any]] = [{"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}]
_FIELDS = {f"field_{number}": _KINDS[number % 4] for number in range(9)} | {"label": {"enum": LABELS}}
_SCHEMA = {"type": "object", "properties": _FIELDS, "required": [*_FIELDS], "additionalProperties": False}


class Pair(NamedTuple):
    """Two runs that are compared.

    Attributes:
        label: names the option in the table.
        model: of the server, which answers with a label or with fields.
        template: of the prompts.
        option: what the second run has in addition; a file of the work directory is named without it.
        goal_ms: the most milliseconds of CPU time that a row may cost in addition.
    """

    label: str
    model: str
    template: str
    option: tuple[str, str]
    goal_ms: float


_PAIRS = (
    Pair("77 labels", "labels", _LISTED, ("--labels", "labels.json"), 0.05),
    Pair("a schema of ten fields", "fields", "About {text}", ("--schema", "schema.json"), 0.15),
)


def row_cost_s(pair: Pair, *, has_option: bool, rows: int, server: Server, work: Path) -> float:
    """Return the CPU seconds of a row.

    Raises:
        Failed: an answer is wrong.
    """
    name, file = pair.option
    sign = "@" if name == "--labels" else ""
    options: tuple[str, ...] = ("--model", pair.model, "--prompt", pair.template, "--quiet")
    options += (name, f"{sign}{work / file}") if has_option else ()
    used = []
    for count in (_FEW_ROWS, rows):
        table = write_table(work / f"{count}.csv", count)
        with tempfile.TemporaryDirectory(dir=work) as directory:
            argv = batcher_run(table, Path(directory), server.base_url, *options)
            used.append(cost_of(argv, directory=work).cpu_s)
            check_answers(Path(directory) / "all_bench.csv", count, template=pair.template, model=pair.model)
    return (used[1] - used[0]) / (rows - _FEW_ROWS)


def main() -> None:
    parser = argparse.ArgumentParser(description="What labels and a schema cost a row.")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="the median of N rounds (7)")
    parser.add_argument("--rows", type=int, default=10_000, metavar="N", help="rows of a long run (10,000)")
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {pair.label: [] for pair in _PAIRS}
    with tempfile.TemporaryDirectory() as folder, Server.running() as server:
        work = Path(folder)
        (work / "labels.json").write_text(json.dumps(LABELS), encoding="utf-8")
        (work / "schema.json").write_text(json.dumps(_SCHEMA), encoding="utf-8")
        for number in range(1, options.rounds + 1):
            for pair in _PAIRS:
                cost_ms = {
                    has_option: 1000
                    * row_cost_s(pair, has_option=has_option, rows=options.rows, server=server, work=work)
                    for has_option in ((False, True) if number % 2 else (True, False))
                }
                without, with_option = cost_ms[False], cost_ms[True]
                found[pair.label].append((without, with_option))
                say(f"round {number}: {pair.label}: {without:.3f} ms without, {with_option:.3f} ms with")
    lines = []
    for pair in _PAIRS:
        rounds = found[pair.label]
        without, with_option = (statistics.median(each) for each in zip(*rounds, strict=True))
        more = statistics.median(after - before for before, after in rounds)
        figures = (f"{without:.3f}", f"{with_option:.3f}", f"{with_option / without:.2f}", f"{more:.3f}")
        lines.append((pair.label, *figures, f"{pair.goal_ms:.2f}"))
    print(machine())
    print(markdown(("", "CPU/row without, ms", "with, ms", "ratio", "overhead, ms", "goal, ms"), lines))


if __name__ == "__main__":
    main()

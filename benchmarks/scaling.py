"""The growth of the cost with the work: rows, calls in flight, chunk sizes, prompt sizes; and the cost of the start.

Invariant: each run is a process of its own whose answers are all checked; a limit that is broken is said so, and the
exit status is 1.

    python benchmarks/scaling.py [--quick] [--only PART,...] [--work DIRECTORY]

The whole takes half an hour and 3 GB of disk in the directory, `--quick` a minute.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from harness import (
    TEMPLATE,
    Cost,
    Server,
    batcher_run,
    check_answers,
    cost_of,
    machine,
    markdown,
    output_of,
    say,
    versions,
    write_table,
)

_FEW_ROWS = 50
_BASE_ROWS = 20_000
_TEXT_BYTES = 190  # about 200 bytes a line
_PACKAGES = ("batcher-llm", "aiohttp", "langchain-core", "langchain-openai")

# The limits, as the project's goals have them.
_MORE_MB = 60.0
_RESUME_S = 15.0
_STARTUP_S = 0.25
# "Linear" with room for a noisy machine and for caches that get too small.
_LINEAR = 1.5


class Sizes(NamedTuple):
    """How far each part goes; the first of each is what the others are compared with."""

    rows: tuple[int, ...] = (_BASE_ROWS, 1_000, 10_000, 100_000, 1_000_000)
    concurrency: tuple[int, ...] = (256, 16, 64, 1024, 2000, 4096)
    chunk_size: tuple[int, ...] = (500, 10, 100, 5_000, 100_000)
    chunk_rows: int = 100_000
    text_bytes: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    text_rows: int = 4_000
    starts: int = 15


_QUICK = Sizes(
    rows=(4_000, 20_000),
    concurrency=(256, 16, 4096),
    chunk_size=(500, 10, 100_000),
    chunk_rows=10_000,
    text_bytes=(100, 10_000),
    text_rows=2_000,
    starts=5,
)


class Bench:
    """Runs batcher and gathers which limits were broken.

    Args:
        server: what it calls.
        work: where everything is written.
        sizes: how far to go.
    """

    def __init__(self, server: Server, work: Path, sizes: Sizes) -> None:
        self.server = server
        self.work = work
        self.sizes = sizes
        self.broken: list[str] = []

    def table(self, rows: int, size: int = _TEXT_BYTES) -> Path:
        return write_table(self.work / f"{rows}x{size}.csv", rows, size)

    def run(self, rows: int, *options: str, size: int = _TEXT_BYTES) -> tuple[Cost, float]:
        """Do a whole run; return its cost, and the seconds of CPU time per row beyond those of a short run."""
        costs = []
        for count in (_FEW_ROWS, rows):
            output = self.work / "output"
            shutil.rmtree(output, ignore_errors=True)
            table = self.table(count, size)
            costs.append(cost_of(batcher_run(table, output, self.server.base_url, *options), directory=self.work))
            check_answers(output / "all_bench.csv", count)
        short, full = costs
        say(f"{rows:,} rows {' '.join(options)} of {size:,} B: {full.wall_s:.1f} s, {full.peak_mb:.0f} MiB")
        return full, (full.cpu_s - short.cpu_s) / (rows - _FEW_ROWS)

    def check(self, what: str, found: float, limit: float, unit: str) -> None:
        if found > limit:
            self.broken.append(f"{what}: {found:.3g} {unit}, the limit is {limit:.3g}")


def _line(name: str, rows: int, cost: Cost, cpu_s: float) -> tuple[str, ...]:
    return name, f"{rows / cost.wall_s:,.0f}", f"{1000 * cpu_s:.3f}", f"{cost.peak_mb:.0f}", f"{cost.wall_s:.1f}"


def _with_figures(*names: str) -> tuple[str, ...]:
    return *names, "rows/s, start included", "CPU/row, ms", "peak, MiB", "s"


# --- parts ---


def by_rows(bench: Bench) -> str:
    """From 1,000 to 1,000,000 rows; and of the smallest and the largest table what the other verbs take."""
    found: dict[int, tuple[Cost, float]] = {}
    verbs: dict[str, dict[int, Cost]] = {}
    base = bench.sizes.rows[0]
    for rows in bench.sizes.rows:
        found[rows] = bench.run(rows)
        if rows in {base, max(bench.sizes.rows)}:
            for verb, cost in _verbs(bench, rows):
                verbs.setdefault(verb, {})[rows] = cost
    for rows, (cost, cpu_s) in found.items():
        what = f"run, {rows:,} rows"
        bench.check(f"{what}, memory beyond {base:,}", cost.peak_mb - found[base][0].peak_mb, _MORE_MB, "MiB")
        bench.check(f"{what}, CPU/row to that of {base:,}", cpu_s / found[base][1], _LINEAR, "times")
    lines = [_line(f"{rows:,}", rows, *found[rows]) for rows in sorted(found)]
    return f"{markdown(_with_figures('rows'), lines)}\n\n{_table_of_verbs(bench, verbs)}"


def _verbs(bench: Bench, rows: int) -> Iterator[tuple[str, Cost]]:
    """Measure on a run that is finished what the other verbs take."""
    output = bench.work / "output"
    table = bench.table(rows)
    again = batcher_run(table, output, bench.server.base_url)
    [*program, _, _] = again[:5]
    known = output_of([*program, "--help"])
    (output / "all_bench.csv").replace(bench.work / "all_before.csv")
    commands = {
        "resume": again,
        "plan": [*program, "plan", *again[4:]],
        "verify": [*program, "verify", "bench", str(table), "--output-dir", str(output)],
        "merge": [*program, "merge", "bench", "--output-dir", str(output)],
        "status": [*program, "status", "bench", "--output-dir", str(output)],
    }
    for verb, argv in commands.items():
        if verb != "resume" and f"    {verb} " not in known:
            say(f"batcher has no verb {verb!r} yet: skipped")
            continue
        cost = cost_of(argv, directory=bench.work)
        say(f"{verb}, {rows:,} rows: {cost.wall_s:.1f} s, {cost.peak_mb:.0f} MiB")
        if verb in {"resume", "merge"}:
            _check_same(bench.work / "all_before.csv", output / "all_bench.csv", verb)
        yield verb, cost


def _check_same(before: Path, after: Path, verb: str) -> None:
    with before.open("rb") as first, after.open("rb") as second:
        while block := first.read(2**20):
            if block != second.read(2**20):
                raise SystemExit(f"{verb} has changed the result")


def _table_of_verbs(bench: Bench, verbs: dict[str, dict[int, Cost]]) -> str:
    small, large = bench.sizes.rows[0], max(bench.sizes.rows)
    lines = []
    for verb, costs in verbs.items():
        few, many = costs[small], costs[large]
        both = (
            f"{few.wall_s:.2f}",
            f"{many.wall_s:.2f}",
            f"{many.cpu_s:.2f}",
            f"{few.peak_mb:.0f}",
            f"{many.peak_mb:.0f}",
        )
        lines.append((f"`{verb}`", *both))
        bench.check(f"{verb}, {large:,} rows, memory beyond {small:,}", many.peak_mb - few.peak_mb, _MORE_MB, "MiB")
        if verb == "resume":
            bench.check(f"resume, {large:,} rows", many.wall_s, _RESUME_S, "s")
    titles = (
        f"{small:,} rows, s",
        f"{large:,} rows, s",
        "of it CPU, s",
        f"{small:,} rows, MiB",
        f"{large:,} rows, MiB",
    )
    return markdown(("of a finished run", *titles), lines)


def by_concurrency(bench: Bench) -> str:
    """From 16 to 4,096 calls in flight."""
    return _by_option(bench, bench.sizes.concurrency, "--max-concurrency", _BASE_ROWS, "in flight at most")


def by_chunk_size(bench: Bench) -> str:
    """From 10 to 100,000 rows in a chunk file; a small one pays for its file, a large one for being held."""
    return _by_option(bench, bench.sizes.chunk_size, "--chunk-size", bench.sizes.chunk_rows, "chunk size")


def _by_option(bench: Bench, values: tuple[int, ...], option: str, rows: int, title: str) -> str:
    found = {value: bench.run(rows, option, str(value)) for value in values}
    base = found[values[0]][1]
    for value, (_, cpu_s) in found.items():
        # A chunk file has a fixed cost, for any number of rows in it.
        limit = 2 * _LINEAR if option == "--chunk-size" and value < values[0] else _LINEAR
        bench.check(f"{option} {value:,}, CPU/row to that at {values[0]:,}", cpu_s / base, limit, "times")
    return markdown(_with_figures(title), [_line(f"{value:,}", rows, *found[value]) for value in sorted(found)])


def by_text(bench: Bench) -> str:
    """From 100 bytes to 100 kB of prompt: a cost per row, and a cost per byte."""
    lines = []
    costs: list[tuple[int, float]] = []
    for size in bench.sizes.text_bytes:
        rows = bench.sizes.text_rows if size < 100_000 else bench.sizes.text_rows // 2
        cost, cpu_s = bench.run(rows, size=size)
        lines.append(_line(f"{size:,}", rows, cost, cpu_s))
        costs.append((size, cpu_s))
    for (small, less), (large, more) in pairwise(costs):
        what = f"prompts of {large:,} B, CPU/byte to that of {small:,} B"
        bench.check(what, more / large / (less / small), 1, "times")
    return markdown(_with_figures("bytes of prompt"), lines)


def by_start(bench: Bench) -> str:
    """The time for loading, beyond a bare interpreter."""
    python = [sys.executable]
    commands = {
        "a bare interpreter": [*python, "-c", "pass"],
        "`import batcher`": [*python, "-c", "import batcher"],
        "`batcher --help`": [*python, "-m", "batcher", "--help"],
        "`batcher run --help`": [*python, "-m", "batcher", "run", "--help"],
    }
    medians = {
        name: statistics.median(cost_of(argv, directory=bench.work).wall_s for _ in range(bench.sizes.starts))
        for name, argv in commands.items()
    }
    bare = medians["a bare interpreter"]
    for name, seconds in medians.items():
        bench.check(f"{name} beyond a bare interpreter", seconds - bare, _STARTUP_S, "s")
    return markdown(("start", "s", "beyond bare, s"), [(n, f"{s:.3f}", f"{s - bare:.3f}") for n, s in medians.items()])


_PARTS: dict[str, Callable[[Bench], str]] = {
    "rows": by_rows,
    "concurrency": by_concurrency,
    "chunks": by_chunk_size,
    "text": by_text,
    "start": by_start,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure how batcher's cost grows with its work.")
    parser.add_argument("--quick", action="store_true", help="a minute instead of half an hour")
    parser.add_argument("--only", metavar="PART,...", default=",".join(_PARTS), help=f"of {', '.join(_PARTS)}")
    parser.add_argument("--work", metavar="DIRECTORY", type=Path, help="where to write (a temporary directory)")
    given = parser.parse_args()
    print(f"{machine()}; {versions(_PACKAGES)}.\nEach prompt is `{TEMPLATE}`.")
    with tempfile.TemporaryDirectory(dir=given.work) as work, Server.running() as server:
        bench = Bench(server, Path(work), _QUICK if given.quick else Sizes())
        for name in given.only.split(","):
            print(f"\n{_PARTS[name](bench)}", flush=True)
    print("\nNo limit is broken." if not bench.broken else "\nBROKEN LIMITS:\n" + "\n".join(bench.broken))
    return 1 if bench.broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""`make bench`: compares batcher with other tools for the job, in one run on one machine, as a table in Markdown.

Invariant: every contender is its own process on the same core, against the same server on another, and every answer is
checked; no figure counts that the server may have held back.

What each costs is the difference between a long and a short run, so that starting Python and loading libraries, which
has a column of its own, is in no row's figure; everything else is. For batcher that is all from the input file to
`all_`: planning, journal, chunk files. Where less than all of the core was used, the machine was busy with other
things, and rows/s say less than CPU time does.

    python benchmarks/compare.py [--rounds N] [--scale X] [--only NAME,...] [--with NAME=PYTHON ...]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from contenders import NOT_INSTALLED
from harness import (
    HERE,
    Cost,
    Server,
    batcher_run,
    check_answers,
    cost_of,
    machine,
    markdown,
    say,
    versions,
    write_table,
)

_FEW_ROWS = 200
_SERVER_SHARE = 1 / 3  # of the client's CPU time per row, at most
_PACKAGES = (
    "batcher-llm",
    "aiohttp",
    "langchain-core",
    "langchain-openai",
    "openai",
    "async-batch-llm",
    "saturate",
    "litellm",
)
_HEADER = (
    "",
    "rows/s",
    "of batcher's",
    "CPU/row, ms",
    "of batcher's",
    "of the core",
    "peak, MiB",
    "start, s",
    "server/row, ms",
)


class Contender(NamedTuple):
    """A program to be measured.

    Attributes:
        label: names it in the table.
        rows: of the long run: some seconds' worth of them.
        argv: makes its command line from the table, the directory it may write to, and the base URL.
        result: where it leaves its result, in that directory.
    """

    label: str
    rows: int
    argv: Callable[[Path, Path, str], list[str]]
    result: str


class Figures(NamedTuple):
    """The figures of a contender in one round, or their medians over several; per row if not named otherwise.

    Attributes:
        wall_s, cpu_s: of the contender.
        server_s: CPU time of the server.
        peak_mb: of the long run.
        start_s: until the first row, about.
    """

    wall_s: float
    cpu_s: float
    server_s: float
    peak_mb: float
    start_s: float


def batcher(concurrency: int, rows: int) -> Contender:
    """Return the whole tool with its default settings, the concurrency aside."""

    def argv(table: Path, directory: Path, base_url: str) -> list[str]:
        return batcher_run(table, directory, base_url, "--max-concurrency", str(concurrency))

    label = "batcher" if concurrency == 256 else f"batcher, {concurrency:,} in flight"
    return Contender(label, rows, argv, "all_bench.csv")


def other(name: str, label: str, rows: int, python: str = sys.executable) -> Contender:
    """Return a contender of `contenders.py` at concurrency 256."""

    def argv(table: Path, directory: Path, base_url: str) -> list[str]:
        script = str(HERE / "contenders.py")
        result = str(directory / "result.csv")
        return [python, script, name, str(table), result, "--base-url", base_url, "--concurrency", "256"]

    return Contender(label, rows, argv, "result.csv")


def contenders(pythons: dict[str, str]) -> dict[str, Contender]:
    """Return all of them by name. The rows are for some six seconds each."""

    def known(name: str, label: str, rows: int) -> tuple[str, Contender]:
        return name, other(name, label, rows, pythons.get(name, sys.executable))

    return dict(
        [
            ("batcher", batcher(256, 20_000)),
            ("batcher-2000", batcher(2000, 20_000)),
            known("aiohttp", "bare aiohttp: the ceiling", 40_000),
            known("gather", "`gather` over `agenerate`, chunk by chunk", 2_500),
            known("abatch", "LangChain's `abatch`", 2_500),
            known("async-batch-llm", "async-batch-llm", 4_000),
            known("saturate", "saturate", 4_000),
            known("litellm", "LiteLLM's `acompletion`", 3_000),
        ]
    )


def measure(contender: Contender, rows: int, server: Server, work: Path) -> Figures | None:
    """Measure one contender once; None if it is not installed.

    Raises:
        Failed: an answer is wrong.
    """
    short, server_short_s = _run(contender, _FEW_ROWS, server, work)
    if short.status == NOT_INSTALLED:
        return None
    full, server_full_s = _run(contender, rows, server, work)
    count = rows - _FEW_ROWS
    return Figures(
        wall_s=(full.wall_s - short.wall_s) / count,
        cpu_s=(full.cpu_s - short.cpu_s) / count,
        server_s=(server_full_s - server_short_s) / count,
        peak_mb=full.peak_mb,
        start_s=short.wall_s,
    )


def _run(contender: Contender, rows: int, server: Server, work: Path) -> tuple[Cost, float]:
    """Run a contender to its end; return what it used, and the CPU time in seconds that the server did."""
    table = write_table(work / f"{rows}.csv", rows)
    server.served()
    with tempfile.TemporaryDirectory(dir=work) as directory:
        argv = contender.argv(table, Path(directory), server.base_url)
        cost = cost_of(argv, {0, NOT_INSTALLED}, directory=work)
        if cost.status != NOT_INSTALLED:
            check_answers(Path(directory) / contender.result, rows)
    return cost, server.served().cpu_s


def median(rounds: Sequence[Figures]) -> Figures:
    return Figures(*(statistics.median(values) for values in zip(*rounds, strict=True)))


def table_of(found: dict[str, Figures | None], known: dict[str, Contender]) -> str:
    """Return the figures as a table, with ratios to batcher."""
    base = found.get("batcher")
    lines = []
    for name, figures in found.items():
        if figures is None:
            lines.append((known[name].label, "not installed", *[""] * (len(_HEADER) - 2)))
            continue
        wall_s, cpu_s, server_s, peak_mb, start_s = figures
        faster, dearer = (f"{base.wall_s / wall_s:.2f}", f"{cpu_s / base.cpu_s:.2f}") if base else ("", "")
        times = (f"{1 / wall_s:,.0f}", faster, f"{1000 * cpu_s:.3f}", dearer, f"{cpu_s / wall_s:.0%}")
        lines.append((known[name].label, *times, f"{peak_mb:.0f}", f"{start_s:.1f}", f"{1000 * server_s:.3f}"))
    return markdown(_HEADER, lines)


def held_back(found: dict[str, Figures | None]) -> list[str]:
    """Return the contenders that the server may have held back, the ceiling aside: it has no third more to lose."""
    return [
        name
        for name, figures in found.items()
        if figures and name != "aiohttp" and figures.server_s > _SERVER_SHARE * figures.cpu_s
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare batcher with other ways to do the job.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="the median of N rounds (3)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="X times as many rows (1)")
    parser.add_argument("--only", metavar="NAME,...", help="these contenders alone")
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="run a contender with another interpreter, as one that cannot be installed beside the others",
    )
    given = vars(parser.parse_args())
    known = contenders(dict(each.split("=", 1) for each in given["with"]))
    names = given["only"].split(",") if given["only"] else list(known)
    rounds: dict[str, list[Figures]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as work, Server.running() as server:
        for number in range(given["rounds"]):
            for name in list(names):
                rows = round(known[name].rows * given["scale"])
                figures = measure(known[name], rows, server, Path(work))
                if figures is None:
                    names.remove(name)
                    say(f"{name} is not installed")
                    continue
                rounds[name].append(figures)
                say(f"round {number + 1}, {name}: {1 / figures.wall_s:,.0f} rows/s, {1e3 * figures.cpu_s:.3f} ms/row")
    found = {name: median(each) if each else None for name, each in rounds.items()}
    print(f"{machine()}; {versions(_PACKAGES)}; median of {given['rounds']} rounds.\n\n{table_of(found, known)}")
    for name in held_back(found):
        say(f"{name}: the server may have held it back; its figure is not to be trusted")
    return 1 if held_back(found) else 0


if __name__ == "__main__":
    sys.exit(main())

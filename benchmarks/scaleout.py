"""Calls made by workers (`--ray`) beside calls made by one process, and where one engine is full.

1. Whole runs against a local server: one process without Ray, and one and two workers of `--ray local`, in turn.
2. What a row costs the engine: with calls that cost nothing, and with calls handed to workers that are simulated.
3. How many rows a second one engine does with 4 to 64 simulated workers, each as fast as a real one.
4. Two shards, each with an engine of its own, beside one engine.

    python benchmarks/scaleout.py [--quick]

Start-up is in the whole runs, and Ray's takes 5 to 10 s: that is what a run takes. It is not in the other figures.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import (
    HERE,
    Server,
    batcher_run,
    check_answers,
    machine,
    markdown,
    output_of,
    say,
    versions,
    write_table,
)

COLD_ROWS = 200


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def whole_runs(table: Path, cold: Path, rows: int, times: int, directory: Path) -> str:
    """Compare whole runs; what starting takes is measured by short ones, and taken off. No program has a core alone."""
    ways: dict[str, list[str]] = {"one process": []} | {
        f"{n} of Ray's workers": ["--ray", "local", "--ray-workers", str(n)] for n in (1, 2)
    }
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with Server.running() as server:
        for turn in range(times):
            for number, (way, options) in enumerate(ways.items()):
                say(f"{way}, {turn + 1} of {times}")
                spent = []
                for name, path, size in (("cold", cold, COLD_ROWS), ("whole", table, rows)):
                    output = directory / f"{name}-{turn}-{number}"
                    argv = batcher_run(path, output, server.base_url, "--quiet", "--canary", "0", *options)
                    spent.append(seconds(lambda argv=argv: subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)))  # type: ignore[misc]
                    check_answers(output / "all_bench.csv", size)
                more_s = spent[1] - spent[0]  # on a busy machine a small table may take no longer
                found[way].append(((rows - COLD_ROWS) / more_s if more_s > 0 else math.nan, spent[0]))
    base = statistics.median(each[0] for each in found["one process"])
    lines = []
    for way, each in found.items():
        rate, cold_s = (statistics.median(column) for column in zip(*each, strict=True))
        lines.append([way, f"{rate:,.0f}", f"{rate / base:.2f}", f"{cold_s:.1f}"])
    return markdown(["calls made by", "rows/s", "of one process", f"{COLD_ROWS} rows, s"], lines)


def engine(table: Path, workers: int, concurrency: int, directory: Path) -> dict[str, Any]:
    """Return what one run of the engine took."""
    output = tempfile.mkdtemp(dir=directory)
    argv = [sys.executable, str(HERE / "one_engine.py"), str(table), output, str(workers), str(concurrency)]
    found: dict[str, Any] = json.loads(output_of(argv).splitlines()[-1])
    return found


def engines(table: Path, sizes: list[int], times: int, directory: Path) -> str:
    """Compare the engine alone with the engine and more and more workers."""
    lines = []
    for workers in (0, *sizes):
        say(f"{workers} simulated workers")
        found = [engine(table, workers, max(64 * workers, 1024), directory) for _ in range(times)]
        means = {name: statistics.median(each[name] for each in found) for name in found[0]}
        name = f"{workers} workers" if workers else "none: calls that cost nothing"
        lines.append([name, f"{means['rows_a_second']:,.0f}", f"{means['loop_us']:.0f}", f"{means['process_us']:.0f}"])
    return markdown(["workers", "rows/s", "loop's thread, us a row", "all threads, us a row"], lines)


def shards(table: Path, times: int, directory: Path) -> str:
    """Compare two engines, each with half of the table, with one engine."""

    def of_shards(number: int) -> None:
        output = directory / f"shards-{number}"
        parts = [batcher_run(table, output, server.base_url, "--quiet", "--shard", f"{part}/2") for part in (1, 2)]
        programs = [subprocess.Popen(part, stdout=subprocess.DEVNULL) for part in parts]
        if any(program.wait() for program in programs):
            raise SystemExit("a shard failed")
        merged = [sys.executable, "-m", "batcher", "merge", "bench", "--output-dir", str(output)]
        subprocess.run(merged, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    found = []
    with Server.running() as server:
        for number in range(times):
            say(f"shards, {number + 1} of {times}")
            whole = batcher_run(table, directory / f"one-{number}", server.base_url, "--quiet")
            one = seconds(lambda argv=whole: subprocess.run(argv, check=True, stdout=subprocess.DEVNULL))  # type: ignore[misc]
            two = seconds(lambda place=number: of_shards(place))  # type: ignore[misc]
            found.append((one, two))
    one, two = (statistics.median(column) for column in zip(*found, strict=True))
    return f"One engine: {one:.1f} s. Two shards and `merge`: {two:.1f} s, {one / two:.2f} times as fast."


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small tables, once: shows that it works, and no figures")
    quick: bool = parser.parse_args().quick
    rows, times, sizes = (1_000, 1, [4]) if quick else (20_000, 3, [4, 8, 16, 32, 64])
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        table, cold = write_table(directory / "in.csv", rows), write_table(directory / "cold.csv", COLD_ROWS)
        print(f"{machine()}; {versions(('ray', 'langchain-openai', 'aiohttp'))}; {rows:,} rows, {times} times\n")
        print(f"{whole_runs(table, cold, rows, times, directory)}\n")
        # The limit of calls in flight doubles each half a second: a short run would measure that.
        large = write_table(directory / "large.csv", 3 * rows)
        print(f"{engines(large, sizes, times, directory)}\n")
        print(shards(table, times, directory))


if __name__ == "__main__":
    main()

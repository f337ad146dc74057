"""Calls made by workers (`--ray`) beside calls made by one process, and where one engine is full.

1. Whole runs against a local server: one process without Ray, and one and two workers of `--ray local`, in turn. The
   CPU time of the engine's process is apart from that of the workers and of the server; Linux alone says it.
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
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

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


class Run(NamedTuple):
    """What a whole run took.

    Attributes:
        wall_s: seconds from its start to its end.
        engine_s: CPU seconds of its own process, without those of Ray's processes.
        server_s: CPU seconds of the server meanwhile.
    """

    wall_s: float
    engine_s: float
    server_s: float


def whole_run(argv: Sequence[str], server: Server) -> Run:
    """Do a run, and look at its process when it has ended, before the system forgets it."""
    server.served()
    began = time.perf_counter()
    program = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
    wall_s = time.perf_counter() - began
    # Behind the name, which may hold anything: the process's own ticks in user and system mode, without its children's.
    ticks = Path(f"/proc/{program.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
    if program.wait():
        raise SystemExit(f"{' '.join(argv)}: exit status {program.returncode}")
    return Run(wall_s, sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), server.served().cpu_s)


def whole_runs(table: Path, cold: Path, rows: int, times: int, directory: Path) -> str:
    """Compare whole runs; what starting takes is measured by short ones, and taken off. No program has a core alone."""
    ways: dict[str, list[str]] = {"one process": []} | {
        f"{n} of Ray's workers": ["--ray", "local", "--ray-workers", str(n)] for n in (1, 2)
    }
    # Of each turn: rows a second, CPU seconds a row of the engine and of the server, seconds of a short run.
    found: dict[str, list[tuple[float, float, float, float]]] = {way: [] for way in ways}
    more = rows - COLD_ROWS
    with Server.running() as server:
        for turn in range(times):
            for number, (way, options) in enumerate(ways.items()):
                say(f"{way}, {turn + 1} of {times}")
                runs = []
                for name, path, size in (("cold", cold, COLD_ROWS), ("whole", table, rows)):
                    output = directory / f"{name}-{turn}-{number}"
                    argv = batcher_run(path, output, server.base_url, "--quiet", "--canary", "0", *options)
                    runs.append(whole_run(argv, server))
                    check_answers(output / "all_bench.csv", size)
                wall_s, engine_s, server_s = (whole - short for short, whole in zip(*runs, strict=True))
                rate = more / wall_s if wall_s > 0 else math.nan  # on a busy machine a small table may take no longer
                found[way].append((rate, engine_s / more, server_s / more, runs[0].wall_s))
    base = statistics.median(each[0] for each in found["one process"])
    lines = []
    for way, each in found.items():
        rate, engine_s, server_s, cold_s = (statistics.median(column) for column in zip(*each, strict=True))
        ratios = sorted(one[0] / beside[0] for one, beside in zip(each, found["one process"], strict=True))
        of_one = f"{rate / base:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        lines.append([way, f"{rate:,.0f}", of_one, f"{1000 * engine_s:.3f}", f"{1000 * server_s:.3f}", f"{cold_s:.1f}"])
    cpu = ("CPU of the engine's process, ms a row", "of the server")
    return markdown(["calls made by", "rows/s", "of one process", *cpu, f"{COLD_ROWS} rows, s"], lines)


def engine(tables: Sequence[Path], workers: int, concurrency: int, directory: Path) -> dict[str, float]:
    """Return the seconds that the engine takes for a row, by thread: how much longer it works for a longer table.

    So neither the start nor the seconds count in which the limit of calls in flight still grows: it doubles each half
    a second.
    """
    found: list[dict[str, float]] = []
    for table in tables:
        output = tempfile.mkdtemp(dir=directory)
        argv = [sys.executable, str(HERE / "one_engine.py"), str(table), output, str(workers), str(concurrency)]
        found.append(json.loads(output_of(argv).splitlines()[-1]))
        shutil.rmtree(output)
    short, long = found
    more = long.pop("rows") - short.pop("rows")
    return {name: (long[name] - short[name]) / more for name in long}


def engines(tables: Sequence[Path], sizes: list[int], times: int, directory: Path) -> str:
    """Compare the engine alone with the engine and more and more workers."""
    lines = []
    for workers in (0, *sizes):
        say(f"{workers} simulated workers")
        found = [engine(tables, workers, max(64 * workers, 1024), directory) for _ in range(times)]
        wall_s, loop_s, process_s = (statistics.median(each[name] for each in found) for name in found[0])
        name = f"{workers} workers" if workers else "none: calls that cost nothing"
        lines.append([name, f"{1 / wall_s:,.0f}", f"{1e6 * loop_s:.0f}", f"{1e6 * process_s:.0f}"])
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
        where = f"{machine().rpartition(';')[0]}; the server on one core, all else on both"
        print(f"{where}; {versions(('ray', 'langchain-openai', 'aiohttp'))}; {rows:,} rows, {times} times\n")
        print(f"{whole_runs(table, cold, rows, times, directory)}\n")
        large = write_table(directory / "large.csv", 4 * rows)
        print(f"{engines([table, large], sizes, times, directory)}\n")
        print(shards(table, times, directory))


if __name__ == "__main__":
    main()

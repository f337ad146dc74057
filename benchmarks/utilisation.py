"""How much of a rate limit a run uses: wall time against the ideal, by chunk size and number of keys.

    python benchmarks/utilisation.py
    python benchmarks/utilisation.py --rows 500 --keys 1 --chunk-sizes 50 500

The other side is `batcher serve --latency 1.5 --latency-sigma 0.8` in a process of its own, over loopback. It draws
each row's latency from its seed, so the ideal is known: no schedule that keeps the limit ends before

    max over the rows i = 0, 1, ... of (i / limit + latency of row i)

which is rows / limit plus the last answers' latency. By design the first row goes alone, so that a wrong key costs one
request; until it is answered the limit is idle. "first row" says how long that was, "over, without it" compares the
rest. The time is that of the report: from the plan's end to the result file.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

import batcher
from batcher.server.simulated import Knobs, draw


@contextlib.contextmanager
def served(knobs: Knobs) -> Iterator[str]:
    """Run the local server in a process of its own; yield its base URL."""
    command = [sys.executable, "-m", "batcher", "serve", "--port", "0"]
    command += ["--latency", str(knobs.latency), "--latency-sigma", str(knobs.latency_sigma)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            yield server.stdout.readline().strip() if server.stdout else ""
        finally:
            server.terminate()


def run(prompts: Sequence[str], base_url: str, limit: float, keys: int, chunk_size: int) -> float:
    """Ask about every prompt, `limit` requests a second over all keys; return the seconds from call to report."""
    endpoints = [batcher.Endpoint("sim", base_url, f"key-{number}", rps=limit / keys) for number in range(keys)]
    with tempfile.TemporaryDirectory() as directory:
        report = batcher.run(
            list(prompts), endpoints=endpoints, chunk_size=chunk_size, keyword="k", output_dir=directory, quiet=True
        )
    if report.ok != len(prompts):
        raise SystemExit(f"the run did not end well: {report}")
    return report.elapsed_s


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--limit", type=float, default=100.0, help="requests a second, over all keys")
    parser.add_argument("--keys", type=int, nargs="+", default=[1, 3, 10])
    parser.add_argument("--chunk-sizes", type=int, nargs="+", default=[50, 100, 500, 5000])
    parser.add_argument("--latency", type=float, default=1.5, help="seconds, median")
    parser.add_argument("--latency-sigma", type=float, default=0.8)
    options = parser.parse_args()

    knobs = Knobs(latency=options.latency, latency_sigma=options.latency_sigma)
    prompts = [f"What is the sum of {number} and 1?" for number in range(options.rows)]
    print(f"{options.rows:,} rows, {options.limit:g} requests/s, latency log-normal around {knobs.latency:g} s")
    print("| keys | chunk size | ideal, s | took, s | over | first row, s | over, without it |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for keys in options.keys:
        for chunk_size in options.chunk_sizes:
            with served(knobs) as base_url:
                run(["Hello"], base_url, options.limit, 1, 1)  # loads LangChain
                took = run(prompts, base_url, options.limit, keys, chunk_size)
            latencies = [draw(knobs, prompt, 0)[1] for prompt in prompts]
            ideal = max(number / options.limit + latency for number, latency in enumerate(latencies))
            alone = latencies[0]
            print(
                f"| {keys} | {chunk_size:,} | {ideal:.2f} | {took:.2f} | {took / ideal - 1:.1%} | {alone:.2f}"
                f" | {(took - alone) / ideal - 1:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Measures what `--hedge` makes of the end of a night, in virtual time: the last 1% of the rows, and what they cost.

Run `python benchmarks/hedging.py`. It takes two minutes. Latencies are log-normal with a median of 2 s, at two
endpoints; each figure is the mean over several nights.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conftest import Lab
from fake_service import Call, Service

from batcher.endpoint import Endpoint

_ROWS = 5000
_MEDIAN_S = 2.0
_PERCENTILES = (None, 99, 95, 90, 75, 50)
_NIGHTS = ((1.0, 32), (1.0, 128), (1.5, 128))


class Night(NamedTuple):
    """What became of one night: its seconds, those of the last 1% of its rows, and its second requests."""

    seconds: float
    last_s: float
    second: int


def night(percentile: float | None, sigma: float, width: int, seed: int) -> Night:
    """Let a night pass.

    Args:
        percentile: of `--hedge`; None: without it.
        sigma: of the log-normal latency.
        width: the most requests in flight at each endpoint.
        seed: draws the latencies.
    """
    prompts, draw = [f"question {number}" for number in range(_ROWS)], random.Random(seed)  # noqa: S311
    ends: dict[str, float] = {}

    def latency(call: Call) -> float:
        seconds = draw.lognormvariate(math.log(_MEDIAN_S), sigma)
        ends[call.prompt] = min(ends.get(call.prompt, math.inf), call.at + seconds)
        return seconds

    service = Service(prompts, latency)
    endpoints = [Endpoint(name, f"http://{name}/v1", max_concurrency=width) for name in ("one", "two")]
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(Path(directory) / "output")
        lab.run(prompts, service, endpoints=endpoints, hedge=percentile, timeout=1800)
    in_order = sorted(ends.values())
    return Night(lab.seconds, in_order[-1] - in_order[-1 - _ROWS // 100], len(service.calls) - _ROWS)


def main() -> None:
    """Print a table for each kind of night."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=5, help="how many nights of each kind")
    nights = parser.parse_args().nights
    print("| sigma | in flight | --hedge | whole run, s | last 1%, s | more requests |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for sigma, width in _NIGHTS:
        for percentile in _PERCENTILES:
            found = [night(percentile, sigma, width, seed) for seed in range(nights)]
            whole, last, more = (mean(each) for each in zip(*found, strict=True))
            share = f"{100 * more / _ROWS:.1f}%"
            print(f"| {sigma} | {2 * width} | {percentile or 'off'} | {whole:.0f} | {last:.0f} | {share} |", flush=True)


if __name__ == "__main__":
    main()

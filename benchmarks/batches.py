"""What filling and harvesting batches cost for each row, compared with asking online in the same process.

Both ways ask a service in memory that answers at once, so that nothing but batcher's own work is measured: planning is
in neither figure. The last line is the ratio that matters: how many rows a second go through batches, for each that
goes online.

    python benchmarks/batches.py [--rows N] [--rounds N]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from conftest import Lab  # noqa: E402 - the path is set above
from fake_service import Anything, Service  # noqa: E402

from batcher.server.batch_rules import BatchKnobs  # noqa: E402


def seconds(rows: int, via: str) -> float:
    """Return the CPU seconds of a run, all of its threads together."""
    service = Service([], latency=lambda _call: 0.0, batch_knobs=BatchKnobs())
    service.prompts = Anything()
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder) / "output")
        table = [f"row {number} of a table with a sentence or two, as reviews have them" for number in range(rows)]
        began = time.process_time()
        report = lab.run(table, service, via=via)
        took = time.process_time() - began
    if report.ok != rows:
        sys.exit(f"{report.ok} of {rows} rows are ok")
    return took


def per_row(rows: int, via: str) -> float:
    """Return the CPU seconds of a row: of a long run without a short one."""
    return (seconds(rows, via) - seconds(rows // 10, via)) / (rows - rows // 10)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found: dict[str, list[float]] = {"online": [], "batch": []}
    for _ in range(given.rounds):  # in turns, so that the machine is equally busy for both
        for via, each in found.items():
            each.append(per_row(given.rows, via))
    online, batch = (statistics.median(each) for each in found.values())
    print("| way | CPU/row, ms | rows/s of a core |")
    print("| --- | ---: | ---: |")
    for via, cost in (("online", online), ("batch", batch)):
        print(f"| {via} | {1000 * cost:.3f} | {1 / cost:,.0f} |")
    print(f"\nbatch : online = {online / batch:.2f} rows for one (the service's own work included, which is alike)")


if __name__ == "__main__":
    main()

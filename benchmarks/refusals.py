"""What refusals cost a night of 14,400 rows: rows answered, rows lost, requests, hours, exit status; in virtual time.

    python benchmarks/refusals.py

The other side is the tests' fake service, which answers after a second, 256 at a time. A night that does not end by
itself is stopped after twelve hours.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from batcher.endpoint import Endpoint
from batcher.errors import EndpointsLost, Interrupted
from batcher.records import Completion, Failure, Fault

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conftest import Lab
from fake_service import Call, Service

ROWS = 14_400
HOUR = 3600.0
LONGEST_S = 12 * HOUR
TABLE = [f"row {number}" for number in range(ROWS)]


class Night(NamedTuple):
    """What comes in a night, and how many keys there are."""

    name: str
    instead: Callable[[Call], Completion | Failure | None]
    keys: int = 1


def said(status: int, message: str = "no", code: str | None = None, retry_after: float | None = None) -> Failure:
    return Failure(Fault.STATUS, message, status, code, retry_after)


def to(rows: set[str], failure: Failure) -> Callable[[Call], Failure | None]:
    return lambda call: failure if call.prompt in rows else None


def between(start: float, end: float, failure: Failure) -> Callable[[Call], Failure | None]:
    return lambda call: failure if start <= call.at < end else None


PAGE = Failure(Fault.STATUS, "<html>Sorry, you have been blocked</html>", 403, words="", is_page=True)
FOREVER = float("inf")
NIGHTS = [
    Night("nothing", lambda _call: None),
    Night("a firewall's page (403) for one row, one key", to({TABLE[7000]}, PAGE)),
    Night("the same, ten keys", to({TABLE[7000]}, PAGE), keys=10),
    Night("row 0 fails for ever (500)", to({TABLE[0]}, said(500))),
    Night("one row is told to wait for ever (429, 5 s)", to({TABLE[7000]}, said(429, retry_after=5))),
    Night("one row is told to wait for a day (429)", to({TABLE[7000]}, said(429, retry_after=86_400))),
    Night("401 for ten minutes", between(20, 620, said(401))),
    Night(
        "a channel of a relay without quota, for ten minutes", between(20, 620, said(429, code="insufficient_quota"))
    ),
    Night("an account is closed, told in a 412", between(20, FOREVER, said(412, "shut by its owner"))),
    Night("an account is closed, told in a 400", between(20, FOREVER, said(400, "shut by its owner"))),
    Night("an account is closed, billing_not_active", between(20, FOREVER, said(429, code="billing_not_active"))),
    Night("a limit of a month (429)", between(20, FOREVER, said(429))),
    Night("the last three rows fail for ever (500)", to(set(TABLE[-3:]), said(500))),
    Night("the last twelve rows fail for ever (500)", to(set(TABLE[-12:]), said(500))),
    Night("sixty rows in a stretch are refused (403)", to(set(TABLE[7000:7060]), said(403))),
]


def spend(night: Night) -> str:
    """Run a night, and return its line."""
    service = Service(TABLE, instead=night.instead)
    endpoints = [
        Endpoint("m", api_key=f"key-{number}", max_concurrency=256 // night.keys) for number in range(night.keys)
    ]
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(Path(directory))
        try:
            report = lab.run(TABLE, service, endpoints=endpoints, at={LONGEST_S: lab.request_stop})
            status = 1 if report.error else 0
        except (EndpointsLost, Interrupted) as end:
            report, status = end.report, 3
        hours = lab.seconds / HOUR
    never = " (never)" if lab.seconds >= LONGEST_S else ""
    counts = f"{report.ok:,} | {report.error:,} | {report.left:,} | {report.requests:,}"
    return f"| {night.name} | {counts} | {hours:.2f}{never} | {status} |"


def main() -> None:
    """Print the table."""
    print("| what comes | answered | `error` | left | requests | hours | exit status |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for night in NIGHTS:
        print(spend(night), flush=True)


if __name__ == "__main__":
    main()

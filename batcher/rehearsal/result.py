"""How a rehearsal went, and how that is shown.

Invariant: a rehearsal is a value: it describes what happened, and reads nothing.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from batcher.words import counted, duration, elapsed


class FaultCount(NamedTuple):
    """A fault, and how many requests met it."""

    fault: str
    requests: int


@dataclass(frozen=True)
class Rehearsal:
    """How a rehearsal went.

    Attributes:
        keyword: of the run.
        rows: that were rehearsed.
        ok, invalid, error: rows by status.
        kills: how often the run was killed, of `kills_wanted`.
        starts: how often it was started.
        stops: why it stopped early by itself, each time.
        requests: that the server received.
        answered: answers that it sent.
        in_flight: requests without an end in the journal, because of a kill.
        twice: answers that were bought a second time.
        faults: what requests met.
        verified: `verify` found nothing.
        findings: what it found.
        disagreements: between the server's books and the journal.
        elapsed_s: seconds from start to end.
        rows_per_s: rows a second, from the first request of each start on.
        real_rows: rows of the real run, if its duration can be estimated.
        real_s: seconds that the limits impose on the real run; None without limits.
        directory: of the files; None if they are removed.
    """

    keyword: str
    rows: int
    ok: int
    invalid: int
    error: int
    kills: int
    kills_wanted: int
    starts: int
    stops: tuple[str, ...]
    requests: int
    answered: int
    in_flight: int
    twice: int
    faults: tuple[FaultCount, ...]
    verified: bool
    findings: tuple[str, ...]
    disagreements: tuple[str, ...]
    elapsed_s: float
    rows_per_s: float
    real_rows: int | None
    real_s: float | None
    directory: Path | None = None

    @property
    def passed(self) -> bool:
        """Whether `verify` found nothing, and books and journal agree."""
        return self.verified and not self.disagreements

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dictionary that JSON can hold."""
        values = asdict(self)
        values["passed"] = self.passed
        values["faults"] = [each._asdict() for each in self.faults]
        values["directory"] = None if self.directory is None else str(self.directory)
        return values

    def __str__(self) -> str:
        return "\n".join([f"{self.keyword}: the rehearsal {'passed' if self.passed else 'FAILED'}", *self._lines()])

    def _repr_html_(self) -> str:
        """Show it in a notebook as it is shown in a terminal."""
        return f"<pre>{html.escape(str(self))}</pre>"

    def _lines(self) -> Iterator[str]:
        yield f"  rows      {self.rows:,}: {self.ok:,} ok, {self.invalid:,} invalid, {self.error:,} error"
        yield f"  kills     {self.kills} of {self.kills_wanted}; {counted(self.starts, 'start')}"
        yield from (f"  stopped   {why}" for why in self.stops)
        yield (
            f"  requests  {self.requests:,} for {counted(self.rows, 'row')}: {self.answered:,} answered,"
            f" {self.in_flight:,} in flight at a kill"
        )
        for number, (fault, count) in enumerate(self.faults):
            yield f"  {'' if number else 'faults':<8}  {fault}: {counted(count, 'request')}"
        yield f"  verify    {'everything fits' if self.verified else 'NOT verified'}"
        yield from (f"    {each}" for each in self.findings)
        agree = f"books and journal agree; bought twice: {self.twice:,}, at most what was in flight at a kill"
        yield f"  books     {'books and journal DISAGREE' if self.disagreements else agree}"
        yield from (f"    {each}" for each in self.disagreements)
        yield f"  time      {elapsed(self.elapsed_s)}; {self.rows_per_s:,.0f} rows/s on this machine"
        if self.real_s is not None:
            yield f"  real run  {counted(self.real_rows or 0, 'row')} in {duration(self.real_s)} or more, by the limits"
        yield f"  files     {'removed' if self.directory is None else self.directory}"

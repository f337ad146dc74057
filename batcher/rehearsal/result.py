"""How a rehearsal went, and how that is shown.

Invariant: a rehearsal is a value: it describes what happened, and reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from batcher.tables import Described, Line
from batcher.words import counted, duration, elapsed


class FaultCount(NamedTuple):
    """A fault, and how many requests met it."""

    fault: str
    requests: int


@dataclass(frozen=True)
class Rehearsal(Described):
    """How a rehearsal went.

    Attributes:
        keyword: of the run.
        rows: that were rehearsed.
        ok, invalid, error: rows by status.
        kills: how often the run was killed, of `kills_wanted`.
        starts: how often it was started.
        stops: why it stopped early by itself, each time.
        requests: that the server received; each line of a batch is one.
        answered: answers that it sent.
        batches: batches that are over, by their last state.
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
    batches: Mapping[str, int]
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

    def _title(self) -> str:
        return f"{self.keyword}: the rehearsal {'passed' if self.passed else 'FAILED'}"

    def _lines(self) -> Iterator[Line]:
        yield Line("rows", f"{self.rows:,}: {self.ok:,} ok, {self.invalid:,} invalid, {self.error:,} error")
        yield Line("kills", f"{self.kills} of {self.kills_wanted}; {counted(self.starts, 'start')}")
        yield from (Line("stopped", why) for why in self.stops)
        ended = f"{self.answered:,} answered, {self.in_flight:,} in flight at a kill"
        yield Line("requests", f"{self.requests:,} for {counted(self.rows, 'row')}: {ended}")
        if self.batches:
            ends = ", ".join(f"{count:,} {state}" for state, count in self.batches.items())
            yield Line("batches", f"{sum(self.batches.values()):,}: {ends}")
        for number, (fault, count) in enumerate(self.faults):
            yield Line("" if number else "faults", f"{fault}: {counted(count, 'time' if self.batches else 'request')}")
        yield Line("verify", "everything fits" if self.verified else "NOT verified")
        yield from (Line("", each, is_part=True) for each in self.findings)
        agree = f"books and journal agree; bought twice: {self.twice:,}, at most what was in flight at a kill"
        yield Line("books", "books and journal DISAGREE" if self.disagreements else agree)
        yield from (Line("", each, is_part=True) for each in self.disagreements)
        yield Line("time", f"{elapsed(self.elapsed_s)}; {self.rows_per_s:,.0f} rows/s on this machine")
        if self.real_s is not None:
            real = f"{counted(self.real_rows or 0, 'row')} in {duration(self.real_s)} or more, by the limits"
            yield Line("real run", real)
        yield Line("files", "removed" if self.directory is None else str(self.directory))

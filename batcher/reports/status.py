"""The state of a run, read from its journal, also by another process while the run works.

Invariant: it only reads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from batcher.errors import outermost
from batcher.journal.entries import LastRun
from batcher.journal.opening import read_journal
from batcher.money.prices import NANO
from batcher.output.opening import opened
from batcher.tables import Described, Line
from batcher.words import counted, dollars, duration

_RATE_OVER_S = 60.0


@dataclass(frozen=True)
class RunStatus(Described):
    """The state of a run.

    Attributes:
        state: `running`, `done`, `stopped` (it ended early and recorded why) or `killed` (it ended without a record).
        rows, ok, invalid, error: all rows, and rows by status.
        cut: rows whose answer was cut off at `max_tokens`.
        chunks: chunk files written.
        requests: requests that the latest process sent.
        in_flight: requests among them without an end: in flight now, or when the process ended.
        cost_usd: the cost in US dollars of the answered requests of all processes, as far as their price is known.
        uncertain_usd: the most US dollars that requests without an answer may be billed in addition.
        unpriced: requests of an unknown price.
        rows_per_s: rows answered a second, over the last minute; 0 if no run is at work.
        left_s: seconds left at that rate, or None.
        failures: rows that ended as `invalid` or `error`, counted by reason, the most frequent first.
        paused: endpoints that do not answer, with the time and the reason; empty if no run is at work.
        reason: why the latest run stopped early, or empty.
        process: host and process id of the latest run.
    """

    keyword: str
    state: str
    rows: int
    ok: int
    invalid: int
    error: int
    cut: int
    chunks: int
    requests: int
    in_flight: int
    cost_usd: float
    uncertain_usd: float
    unpriced: int
    rows_per_s: float
    left_s: float | None
    failures: tuple[tuple[str, int], ...]
    paused: tuple[str, ...]
    reason: str
    process: str

    @property
    def left(self) -> int:
        """Rows that have no result yet."""
        return self.rows - self.ok - self.invalid - self.error

    def to_dict(self) -> dict[str, Any]:
        """Return the status as a dictionary that JSON can hold."""
        return asdict(self)

    def _money(self) -> str:
        parts = [f"{dollars(round(self.cost_usd * NANO))} for answers"] if self.cost_usd else []
        parts += [f"at most {dollars(round(self.uncertain_usd * NANO))} without one"] if self.uncertain_usd else []
        parts += [f"{counted(self.unpriced, 'request')} of unknown price"] if parts and self.unpriced else []
        return ", ".join(parts)

    def _title(self) -> str:
        return f"{self.keyword}: {self.state} ({self.process})"

    def _lines(self) -> Iterator[Line]:
        done = self.rows - self.left
        share = f"{100 * done // self.rows}%" if self.rows else "empty"
        time_left = f", {duration(self.left_s)} left" if self.left_s is not None else ""
        ended = f"{self.ok:,} ok, {self.invalid:,} invalid, {self.error:,} error"
        yield Line("rows", f"{done:,} of {self.rows:,} ({share}): {ended}")
        yield Line("chunks", f"{self.chunks:,} written")
        yield Line("requests", f"{self.requests:,} sent by this process, {self.in_flight:,} without an answer")
        if money := self._money():
            yield Line("money", money)
        if self.state == "running":
            yield Line("rate", f"{self.rows_per_s:,.1f} rows/s{time_left}")
        yield from (Line("paused", each) for each in self.paused)
        if self.cut:
            yield Line("cut off", f"{counted(self.cut, 'answer')} at max_tokens")
        if self.reason:
            yield Line("because", self.reason)
        yield from (Line("failed", f"{count:,} x {reason}") for reason, count in self.failures)


@outermost
def status(keyword: str, output_dir: str | os.PathLike[str] = "output") -> RunStatus:
    """Return the state of a keyword's run.

    Raises:
        SettingsError: the keyword is invalid.
        OutputError: there is no journal of that keyword, or it cannot be read.
    """
    with opened(keyword, output_dir, read_journal) as run:
        journal, last = run.journal, run.last()
        counts, spent = journal.counts(), journal.spent()
        state = _state(last, counts.left)
        now = time.time()
        seconds = max(1.0, min(_RATE_OVER_S, now - last.started))
        rate = journal.answered_since(now - seconds) / seconds if state == "running" else 0.0
        return RunStatus(
            keyword=keyword,
            state=state,
            rows=counts.rows,
            ok=counts.ok,
            invalid=counts.invalid,
            error=counts.error,
            cut=journal.cut(),
            chunks=len(journal.chunks()),
            requests=journal.requests(last.id),
            in_flight=journal.in_flight(last.id).requests,
            cost_usd=spent.answered / NANO,
            uncertain_usd=spent.uncertain / NANO,
            unpriced=spent.unpriced,
            rows_per_s=rate,
            left_s=counts.left / rate if rate else None,
            failures=tuple(journal.failures()),
            paused=tuple(_paused(*each) for each in journal.paused(last.id)) if state == "running" else (),
            reason=(last.outcome or "") if state == "stopped" else "",
            process=f"host {last.host}, process {last.pid}",
        )


def _paused(at: float, label: str, why: str) -> str:
    return f"{label} since {time.strftime('%H:%M:%S', time.localtime(at))}: {why}"


def _state(last: LastRun, left: int) -> str:
    if last.ended is not None:
        return "stopped" if left else "done"
    return "running" if last.is_at_work else "killed"

"""The batches of a run, as `status` and the report show them.

Invariant: it only reads. While a batch is out its counts are the service's, as it said them last; then they are those
of the lines that were fetched.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from batcher.journal.entries import BatchCounts, BatchState
from batcher.journal.reading import Reader
from batcher.money.prices import NANO
from batcher.records import Source
from batcher.tables import Line
from batcher.words import counted, dollars, duration

_MOST = 10  # batches that are shown one by one
_DAY_S = 86400.0
_NOT_THERE = {BatchState.MADE, BatchState.UPLOADING, BatchState.UPLOADED, BatchState.CREATING}


@dataclass(frozen=True)
class BatchLine:
    """A batch of a run.

    Attributes:
        id: its number in the journal.
        service_id: what its service calls it; empty if it has not been created yet.
        model, base_url: whom it asks.
        state: as the service said it last, such as `in_progress`; before that, and afterwards, as the journal has it:
            `made`, `uploading`, `uploaded`, `creating`, `done` or `dropped` (it never came to be).
        is_out: some of its rows have no end yet.
        rows: that are in it.
        answered: of them: while it is out as the service counts them; None if it has not said.
        failed: in the same way.
        unasked: rows that the service did not get to: the batch expired, was cancelled, or never came to be.
        lost: rows about which nothing came, although they may be billed.
        submitted, expires, ended: seconds since the epoch; None: not known, or not yet.
        cost_usd: US dollars for the answers, as far as prices are known.
        reserved_usd: the most US dollars that the rows without an answer may cost.
        why: why it failed as a whole, and what was odd about it; may be empty.
    """

    id: int
    service_id: str
    model: str
    base_url: str
    state: str
    is_out: bool
    rows: int
    answered: int | None
    failed: int | None
    unasked: int
    lost: int
    submitted: float | None
    expires: float | None
    ended: float | None
    cost_usd: float
    reserved_usd: float
    why: str

    @property
    def where(self) -> str:
        """Where it is, for people: the host of its service, or what the endpoint is called."""
        return urlsplit(self.base_url).hostname or self.base_url or self.model

    def in_words(self, now: float) -> str:
        """Return what there is to know of it while it is out.

        Args:
            now: seconds since the epoch.
        """
        name = self.service_id or f"(number {self.id}, not submitted yet)"
        said = f"{name} at {self.where}: {self.state}"
        if self.answered is not None:
            failed = f", {self.failed:,} failed" if self.failed else ""
            said += f", {self.answered:,} of {counted(self.rows, 'row')} answered{failed}"
        else:
            said += f", {counted(self.rows, 'row')}"
        times = [f"submitted {_clock(self.submitted, now)}"] if self.submitted and self.service_id else []
        times += [f"expires {_clock(self.expires, now)}"] if self.expires else []
        money = f"{dollars(round(self.reserved_usd * NANO))} reserved" if self.reserved_usd else ""
        return "; ".join(filter(None, (said, ", ".join(times), money)))


def batches_of(journal: Reader) -> tuple[BatchLine, ...]:
    """Return the batches of a run, the first one first."""
    counts = journal.batch_counts()
    if not counts:
        return ()
    sources = {number: journal.sources_of([number]) for number in {each.batch.source for each in counts}}
    return tuple(_line(each, next(iter(sources[each.batch.source]), Source("", ""))) for each in counts)


def _line(found: BatchCounts, source: Source) -> BatchLine:
    batch = found.batch
    is_out = batch.is_open
    state = batch.service_state if is_out and batch.state not in _NOT_THERE and batch.service_state else batch.state
    return BatchLine(
        id=batch.id,
        service_id=batch.service_id or "",
        model=source.model,
        base_url=source.base_url,
        state=str(state),
        is_out=is_out,
        rows=found.lines,
        answered=batch.completed if is_out else found.answered + found.unfit,
        failed=batch.failed if is_out else sum(found.failed.values()),
        unasked=found.expired + found.cancelled + found.unsent,
        lost=found.lost,
        submitted=batch.submitted,
        expires=batch.expires,
        ended=batch.ended,
        cost_usd=found.cost / NANO,
        reserved_usd=found.uncertain / NANO,
        why=batch.why,
    )


def lines_of(batches: Sequence[BatchLine], now: float) -> Iterator[Line]:
    """Yield the lines of `status` about batches."""
    if not batches:
        return
    out = [each for each in batches if each.is_out]
    yield Line("batches", _in_all(batches, out))
    yield from (Line("batch", each.in_words(now)) for each in out[:_MOST])
    if len(out) > _MOST:
        yield Line("", f"and {len(out) - _MOST:,} more", is_part=True)
    odd = [each for each in batches if each.why and not each.is_out]
    yield from (Line("odd", f"{each.service_id or f'batch {each.id}'}: {each.why}") for each in odd[-_MOST:])


def _in_all(batches: Sequence[BatchLine], out: Sequence[BatchLine]) -> str:
    """Return the sum of all batches, in words."""
    done = [each for each in batches if not each.is_out]
    parts = []
    if out:
        at = ", ".join(dict.fromkeys(each.where for each in out))
        rows, answered = sum(each.rows for each in out), sum(each.answered or 0 for each in out)
        money = sum(each.reserved_usd for each in out)
        reserved = f", {dollars(round(money * NANO))} reserved" if money else ""
        parts.append(f"{len(out):,} out at {at} with {counted(rows, 'row')}: {answered:,} answered so far{reserved}")
    if done:
        ends = {
            "answered": sum(each.answered or 0 for each in done),
            "failed": sum(each.failed or 0 for each in done),
            "not asked": sum(each.unasked for each in done),
            "lost": sum(each.lost for each in done),
        }
        ended = ", ".join(f"{number:,} {name}" for name, number in ends.items() if number)
        parts.append(f"{len(done):,} fetched with {counted(sum(each.rows for each in done), 'row')}: {ended}")
    return "; ".join(parts)


def out_in_words(batches: Sequence[BatchLine]) -> str:
    """Return in one sentence which batches of a run are out; empty if none is."""
    out = [each for each in batches if each.is_out]
    if not out:
        return ""
    at = ", ".join(dict.fromkeys(each.where for each in out))
    rows = counted(sum(each.rows for each in out), "row")
    return f"{counted(len(out), 'batch', 'batches')} with {rows} {'is' if len(out) == 1 else 'are'} out at {at}"


def _clock(at: float, now: float) -> str:
    """Return a moment for people: with the date unless it is within a day."""
    near = abs(at - now) < _DAY_S / 2
    ago = (
        f" ({duration(now - at)} ago)" if 0 <= now - at < _DAY_S else f" (in {duration(at - now)})" if at > now else ""
    )
    return time.strftime("%H:%M" if near else "%Y-%m-%d %H:%M", time.localtime(at)) + ago

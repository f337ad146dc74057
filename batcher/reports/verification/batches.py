"""Reconciles the batches of a run: what was sent, what came back, and what the service counted.

Invariant: each line of a batch has exactly one end, unless its batch is not over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from batcher.journal.entries import BatchCounts
from batcher.journal.evidence import Evidence, Unreconciled
from batcher.money.prices import NANO
from batcher.reports.verification.findings import Found, Kind
from batcher.tables import Line
from batcher.words import counted, dollars

_ENDS = ("expired", "cancelled", "lost", "unsent", "open")


def check_batches(journal: Evidence, found: Found) -> tuple[BatchCounts, ...]:
    """Return what became of the lines of each batch; lines that contradict their batch are findings."""
    for number in journal.unreconciled(Unreconciled.LINE_OTHER):
        found.requests(Kind.LINE_OTHER, number)
    counts = tuple(journal.batch_counts())
    for each in counts:
        if each.lines != each.batch.requests:
            place = f"batch {each.batch.id}: {each.batch.requests:,} lines, and the journal has {each.lines:,}"
            found.place(Kind.BATCH_LINES, place)
    return counts


def lines_of(batches: Sequence[BatchCounts]) -> Iterator[Line]:
    """Yield the lines of the outcome about batches: all of them, then each."""
    if not batches:
        return
    yield Line("batches", f"{counted(len(batches), 'batch', 'batches')}: {_sum_in_words(batches)}")
    for each in batches:
        batch = each.batch
        name = f"batch {batch.id} ({batch.service_id or batch.name}, {batch.state})"
        yield Line("", f"{name}: {_sum_in_words([each])}{_money(each)}", is_part=True)


def notes_on(batches: Sequence[BatchCounts]) -> Iterator[str]:
    """Yield what the services counted, if less came, and what was odd about batches."""
    for each in batches:
        batch = each.batch
        name = f"batch {batch.id} ({batch.service_id or batch.name})"
        came = each.answered + each.unfit + sum(each.failed.values())
        # A service may count lines as failed that it did not get to.
        completed, ended = batch.completed or 0, (batch.completed or 0) + (batch.failed or 0)
        if not batch.is_open and (completed > came or ended > each.lines - each.lost):
            yield (
                f"{name}: the service counts {batch.completed or 0:,} answered and {batch.failed or 0:,} failed, and"
                f" {came:,} came: {each.lost:,} lost."
            )
        if batch.why:
            yield f"{name}: {batch.why}"


def as_dict(each: BatchCounts) -> dict[str, Any]:
    """Return a batch as a dictionary that JSON can hold; money in US dollars."""
    batch = each.batch
    return {
        "id": batch.id,
        "name": batch.name,
        "service_id": batch.service_id,
        "state": batch.state.value,
        "service_state": batch.service_state,
        "lines": each.lines,
        "answered": each.answered,
        "unfit": each.unfit,
        "failed": dict(each.failed),
        **{name: getattr(each, name) for name in _ENDS},
        "counted_completed": batch.completed,
        "counted_failed": batch.failed,
        "cost_usd": each.cost / NANO,
        "uncertain_usd": each.uncertain / NANO,
        "why": batch.why,
    }


def _sum_in_words(batches: Sequence[BatchCounts]) -> str:
    """Return the equation of lines and their ends; each outcome that did not occur is left out, but for `answered`."""
    failed: Counter[str] = Counter()
    for each in batches:
        failed.update(each.failed)
    ends = [
        ("answered", _total(batches, "answered")),
        ("unfit", _total(batches, "unfit")),
        *((f"failed ({name})", count) for name, count in sorted(failed.items())),
        *(("not over" if name == "open" else name, _total(batches, name)) for name in _ENDS),
    ]
    parts = [f"{count:,} {name}" for name, count in ends if count or name == "answered"]
    return f"{counted(_total(batches, 'lines'), 'line')} = {' + '.join(parts)}"


def _total(batches: Sequence[BatchCounts], name: str) -> int:
    return sum(getattr(each, name) for each in batches)


def _money(each: BatchCounts) -> str:
    money = [f"{dollars(each.cost)} for answers"] if each.cost else []
    money += [f"at most {dollars(each.uncertain)} without one"] if each.uncertain else []
    return "".join(f"; {part}" for part in money)

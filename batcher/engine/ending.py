"""How a run ended: the report, or the error that carries it.

Invariant: the caller of the run learns what is saved, and what to do next.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from batcher.engine.stop import CANCELLED
from batcher.engine.telling import OfReports
from batcher.errors import (
    AnswersUnfit,
    BatcherError,
    BatchesOut,
    BudgetReached,
    DiskFull,
    EndpointsLost,
    Interrupted,
    RunStopped,
)
from batcher.journal.entries import BATCHES_CANCELLED, LastRun
from batcher.output.frames import Frames, Kept
from batcher.output.report import Report
from batcher.place import Displaced
from batcher.planning.job import Job
from batcher.records import Asked, EndpointCount
from batcher.words import as_given, by_reader, counted, in_notebook, option, same_command


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        is_done: every row has its result, and all of them are joined.
        trouble: the error that ended it early, if one did.
        out_of_money: a sentence that the budget ended it early; else empty.
        looks_wrong: why the answers so far ended it early; else empty.
        stopped_by: the origin of the stop request, such as `Ctrl-C`, if there was one.
        displaced: what became of the journal, if it is no longer in its place.
        is_planned: it had a plan when it ended.
        detached: where the batches are that go on at their services, and how to go on; empty if there are none.
        out_in_batches: the requests of this process that are in these batches.
        was_cancelled: its batches were cancelled by hand.
    """

    is_done: bool = False
    trouble: BatcherError | None = None
    out_of_money: str = ""
    looks_wrong: str = ""
    stopped_by: str = ""
    displaced: Displaced | None = None
    is_planned: bool = True
    detached: str = ""
    out_in_batches: int = 0
    was_cancelled: bool = False

    @property
    def has_lost_its_journal(self) -> bool:
        """Whether the journal was removed or replaced, and the answers of this run with it."""
        return self.displaced is not None and not self.displaced.is_kept

    def in_words(self, endpoints: tuple[EndpointCount, ...]) -> str:
        """Return why the run ended, for the journal."""
        if self.trouble:
            return str(self.trouble)
        if self.is_done:
            return "done"
        if self.stopped_by:
            return CANCELLED if self.stopped_by == CANCELLED else f"stopped by {self.stopped_by}"
        if self.looks_wrong:
            return self.looks_wrong.partition("\n")[0]
        if self.was_cancelled:
            return BATCHES_CANCELLED
        return self.out_of_money or self.detached.partition(":")[0] or _no_endpoint(endpoints)


class Ended(NamedTuple):
    """A run that has ended, with its report.

    Attributes:
        ending: how it ended.
        report: what it has done.
        room: the bytes that the rows left may need, if the disk is full; else 0.
    """

    ending: Ending
    report: Report
    room: int = 0

    def report_or_raise(self) -> Report:
        """Return the report of a run that is done, or raise what ended it early.

        Raises:
            RunStopped: an error, the budget, or the loss of the last endpoint ended it.
            Interrupted: it was asked to stop.
        """
        ending, report, _ = self
        if ending.trouble:
            others = (_lost(report.out_now - ending.out_in_batches), _room_needed(self.room), ending.detached)
            more = "".join(f"\n{each}" for each in others if each)
            saved = _saved(report, ending.displaced)
            raise RunStopped(f"{ending.trouble}\n{saved}{more}", report) from ending.trouble
        if ending.is_done:
            return report
        if ending.stopped_by:
            stopped = _stopped(ending.stopped_by)
            if not ending.is_planned:
                stopped += " before anything was sent"
            saved = _saved(report) if report.rows or ending.is_planned else f"{same_command()} begins anew"
            raise Interrupted("\n".join(filter(None, (f"{stopped}; {saved}", ending.detached))), report)
        if ending.out_of_money:
            saved = f"{_rows_saved(report)}; raise {as_given('budget')} to go on"
            raise BudgetReached(f"{ending.out_of_money}\n{saved}", report)
        if ending.looks_wrong:
            raise AnswersUnfit(f"{ending.looks_wrong}\n{_rows_saved(report)}", report)
        if ending.was_cancelled:
            saved = f"{_rows_saved(report)}, and {same_command()} asks the others"
            raise RunStopped(f"the batches were cancelled; {saved}", report)
        if ending.detached:
            raise BatchesOut(f"{ending.detached}\n{_rows_saved(report)}", report)
        if report.left == report.rows:  # no call has ever succeeded: the same command would fail in the same way
            again = by_reader(command_line="run the command again", python="run it again")
            saved = f"no row is answered: correct the cause, and {again}"
        else:
            saved = _saved(report)
        raise EndpointsLost(f"{_no_endpoint(report.endpoints)}\n{saved}", report)


def _lost(requests: int) -> str:
    """Say which answers could not be saved: the journal has no end of their requests, which are in no batch."""
    if requests <= 0:
        return ""
    were, they, are = ("was", "its answer", "is") if requests == 1 else ("were", "their answers", "are")
    return f"{counted(requests, 'request')} {were} out: {they} {are} lost, and may be billed twice"


def _room_needed(room: int) -> str:
    return f"make room: the rows that are left need about {max(round(room / 1e6), 1):,} MB" if room else ""


def room_needed(job: Job, figures: dict[str, Any], ending: Ending) -> int:
    """Return the bytes that the rows left may need, by what the others took; 0 if the disk is not full."""
    done: int = figures["ok"] + figures["invalid"] + figures["error"]
    left: int = figures["rows"] - done
    is_known = isinstance(ending.trouble, DiskFull) and done > 0
    return job.store.bytes_used() * left // done if is_known else 0


def report_of(
    job: Job,
    figures: dict[str, Any],
    ending: Ending,
    *,
    process: LastRun | None = None,
    asks: tuple[Asked, ...] = (),
    endpoints: tuple[EndpointCount, ...] = (),
    by_hand: tuple[str, ...] = (),
) -> Report:
    """Return the report of a run.

    Args:
        job: what it had to do.
        figures: what it has done, by `output.figures`.
        ending: how it ended.
        process: this process, as the journal has it; None if it was stopped before it had a plan.
        asks: whom it asked.
        endpoints: the counts of each.
        by_hand: what people changed while it worked.
    """
    is_done = ending.is_done and not ending.displaced
    report = Report(
        status="done" if is_done else "stopped",
        output=_result_of(job) if is_done else None,
        asks=asks,
        endpoints=endpoints,
        by_hand=by_hand,
        **figures,
    )
    labels = job.dataset.row_labels
    is_in_memory = not labels and job.question["input"] is None
    dataset = job.dataset if is_in_memory and not is_done else None
    kept = Kept(labels, dataset, job.selection.places, job.question["columns"])
    is_quiet = job.settings.quiet
    frames = Frames(job.store, process, report.rows, kept, is_whole=is_done, is_quiet=is_quiet)
    return report.with_frames(frames, OfReports())


def _result_of(job: Job) -> Path:
    return job.store.responses_path if job.settings.requests else job.store.all_path


def _stopped(by: str) -> str:
    """Say what stopped the run; a notebook's cell is interrupted by a button, not by Ctrl-C."""
    return "interrupted" if by == "Ctrl-C" and in_notebook() else f"stopped by {by}"


def _no_endpoint(endpoints: tuple[EndpointCount, ...]) -> str:
    reasons = (f"\n  {each.endpoint}: {each.out}" for each in endpoints if each.out)
    return f"no endpoint is left:{''.join(reasons)}"


def _saved(report: Report, displaced: Displaced | None = None) -> str:
    saved = _rows_saved(report)
    if displaced is None or displaced.is_log:
        return f"{saved}, and {same_command()} goes on from there"
    if not displaced.is_kept:
        return f"{saved}: the answers of this run are lost, but for chunk files that are left, and may be billed"
    other = f", or give {option('output_dir', str(displaced.path.parent))}" if displaced.path else ""
    return f"{saved} there: move it back, and {same_command()} goes on{other}"


def _rows_saved(report: Report) -> str:
    return f"{report.rows - report.left:,} of {counted(report.rows, 'row is', 'rows are')} saved"

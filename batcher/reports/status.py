"""The state of a run, read from its journal, also by another process while the run works.

Invariant: it only reads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from batcher.errors import OutputError, outermost
from batcher.journal.entries import Counts, LastRun
from batcher.journal.locking import holder_of
from batcher.journal.opening import read_journal
from batcher.journal.paces import Foreseen, foreseen
from batcher.journal.reading import Reader
from batcher.moments import ended_in_words, moment_as_text
from batcher.money.prices import NANO
from batcher.output.directory import Store
from batcher.output.figures import (
    Figures,
    figures_of,
    money_in_words,
    requests_in_words,
    tied_in_words,
    went_on_in_words,
    worker_lost_in_words,
)
from batcher.output.opening import opened
from batcher.output.shards import NotBegunError, unmerged
from batcher.reports.batches import BatchLine, batches_of, lines_of
from batcher.reports.by_hand import Unread, unread
from batcher.reports.runs import AT_WORK, Runs, runs_in, state_of
from batcher.tables import Described, Line
from batcher.words import counted, dollars, duration

_RATE_OVER_S = 60.0


@dataclass(frozen=True, kw_only=True)
class RunStatus(Figures, Described):
    """The state of a run.

    Attributes:
        state: `planning` (a new process reads the input; all else is of the run before it); `running`; `paused` (at
            work, and paused by hand); `done`; `stopped` (it ended early and recorded why);
            `killed` (it ended without a record); `unknown` (it has no end, and this machine cannot know whether it is
            at work).
        chunks: chunk files written.
        rows_per_s: rows that ended a second, over the last minute; 0 if no run is at work.
        left_s: seconds left at that rate, or None.
        failures: rows that ended as `invalid` or `error`, counted by reason, the most frequent first.
        paused: endpoints that do not answer, with the time and the reason; empty if no run is at work.
        reason: why the latest run stopped early, or empty.
        process: host and process id of the latest run; if it is `planning`, of the process that plans.
        by_hand: what `batcher limit`, `pause` and `resume` changed in the latest run, with the time of each.
        batches: of the run: those that are out, and those that are fetched.
        due: when the latest process was to be finished (`--by`, `--within`), ISO 8601; None: that was not given.
        expected_end: when its last row was expected, as it said last, ISO 8601; of a run that is done, when it was;
            None: not known.
        outlook: whether it expected to be in time: `in time`, `by batch` (only if batches come back in time) or `late`;
            empty: it said nothing.
        outlook_text: the same in words.
        notes: chunk files that people have changed, and that cannot be read; request parameters that a service
            accepts and ignores; rows without an answer of which a part is in the journal.
        tiers: the service tiers that answered, and how often, if a run asked for one (`--tier`); "": not said.
    """

    state: str
    chunks: int
    rows_per_s: float
    left_s: float | None
    failures: tuple[tuple[str, int], ...]
    paused: tuple[str, ...]
    reason: str
    process: str
    by_hand: tuple[str, ...] = ()
    batches: tuple[BatchLine, ...] = ()
    due: str | None = None
    expected_end: str | None = None
    outlook: str = ""
    outlook_text: str = ""
    notes: tuple[str, ...] = ()
    tiers: tuple[tuple[str, int], ...] = ()

    def _title(self) -> str:
        return f"{self.keyword}: {self.state} ({self.process})"

    def _lines(self) -> Iterator[Line]:
        done = self.rows - self.left
        share = f"{100 * done // self.rows}%" if self.rows else "empty"
        time_left = f", {duration(self.left_s)} left" if self.left_s is not None else ""
        ended = f"{self.ok:,} ok, {self.invalid:,} invalid, {self.error:,} error"
        yield Line("rows", f"{done:,} of {self.rows:,} ({share}): {ended}")
        if self.corrected:
            yield Line("corrected", f"{counted(self.corrected, 'answer')} by hand")
        yield Line("chunks", f"{self.chunks:,} written")
        yield Line("requests", requests_in_words(self))
        yield from self._money_lines()
        yield from lines_of(self.batches, time.time())
        if self.state in AT_WORK:
            yield Line("rate", f"{self.rows_per_s:,.1f} rows/s{time_left}")
        if self.due:
            yield Line("by", self.outlook_text or self.due)
        yield from (Line("by hand", each) for each in self.by_hand)
        yield from (Line("paused", each) for each in self.paused)
        if len(self.tiers) > 1:
            yield Line("tiers", ", ".join(f"{count:,} {tier or 'not said'}" for tier, count in self.tiers))
        if self.cut:
            yield Line("cut off", f"{counted(self.cut, 'answer')} at max_tokens")
        if self.tied:
            yield Line("tied", tied_in_words(self.tied))
        if self.went_on or self.kept:
            yield Line("went on", went_on_in_words(self.went_on, self.kept))
        if self.reason:
            yield Line("because", self.reason)
        yield from (Line("failed", f"{count:,} x {reason}") for reason, count in self.failures)
        yield from (Line("note", note) for note in self.notes)

    def _money_lines(self) -> Iterator[Line]:
        if money := money_in_words(self):
            yield Line("money", money)
        if self.worker_lost:
            yield Line("workers", worker_lost_in_words(self.worker_lost, self.worker_lost_usd))


@dataclass(frozen=True)
class ShardsStatus(Described):
    """The state of the shards of a run, which are not merged yet.

    Attributes:
        keyword: of the run.
        of: how many shards the table was split into.
        shards: the state of each that is there, by name, such as `2-of-8`.
        unreadable: why a shard that is there cannot be read, by name.
    """

    keyword: str
    of: int
    shards: Mapping[str, RunStatus]
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the sums and each shard as a dictionary that JSON can hold; money in US dollars.

        The sums are those of the shards that have begun in this directory and can be read; `not_begun` counts those
        that have not begun.
        """
        parts = [{"shard": name, **each.to_dict(), "left": each.left} for name, each in self.shards.items()]
        costs, lost = ([each[name] for each in parts] for name in ("cost_usd", "worker_lost_usd"))
        return {
            "keyword": self.keyword,
            "of": self.of,
            "not_begun": max(self.of - len(self.shards) - len(self.unreadable), 0),
            **{
                name: sum(getattr(each, name) for each in self.shards.values())
                for name in ("rows", "ok", "invalid", "error", "left", "requests", "worker_lost")
            },
            "cost_usd": None if None in costs else sum(costs),
            "worker_lost_usd": None if None in lost else sum(lost),
            "rows_per_s": sum(each["rows_per_s"] for each in parts),
            "left_s": self._left_s(),
            "shards": parts,
            "unreadable": [{"shard": name, "reason": reason} for name, reason in self.unreadable.items()],
        }

    def _left_s(self) -> float | None:
        """Return the seconds until the last shard is done; None if that is not known of one."""
        left = [each.left_s for each in self.shards.values() if each.left]
        return None if None in left else max((each for each in left if each is not None), default=0.0)

    def _title(self) -> str:
        there = len(self.shards) + len(self.unreadable)
        return f"{self.keyword}: {there:,} of {counted(self.of, 'shard')}, not merged yet"

    def _lines(self) -> Iterator[Line]:
        found = self.to_dict()
        done = found["rows"] - found["left"]
        ended = f"{found['ok']:,} ok, {found['invalid']:,} invalid, {found['error']:,} error"
        yield Line("rows", f"{done:,} of {found['rows']:,}: {ended}")
        if lacking := found["not_begun"]:
            one, many = "shard has not begun here: its rows are", "shards have not begun here: their rows are"
            yield Line("lacking", f"{counted(lacking, one, many)} not counted")
        if found["cost_usd"]:
            yield Line("money", dollars(round(found["cost_usd"] * NANO)))
        if found["worker_lost"]:
            yield Line("workers", worker_lost_in_words(found["worker_lost"], found["worker_lost_usd"]))
        if found["rows_per_s"]:
            left_s = found["left_s"]
            left = "" if left_s is None else f", {duration(left_s)} left"
            yield Line("rate", f"{found['rows_per_s']:,.1f} rows/s{left}")
        for name, each in self.shards.items():
            done = each.rows - each.left
            yield Line("", f"{name} {each.state}: {done:,} of {each.rows:,} rows", is_part=True)
        yield from (
            Line("", f"{name} unreadable, its rows are not counted: {reason}", is_part=True)
            for name, reason in self.unreadable.items()
        )


@overload
def status(keyword: str, output_dir: str | os.PathLike[str] = "output") -> RunStatus: ...


@overload
def status(keyword: None = None, output_dir: str | os.PathLike[str] = "output") -> Runs: ...


@outermost
def status(keyword: str | None = None, output_dir: str | os.PathLike[str] = "output") -> RunStatus | Runs:
    """Return the state of a keyword's run; without a keyword the runs of the directory, the latest first.

    Raises:
        SettingsError: the keyword is invalid.
        OutputError: there is no journal of that keyword, or it cannot be read; or there is no such directory.
    """
    if keyword is None:
        return runs_in(Path(output_dir))
    with opened(keyword, output_dir, read_journal) as run, run.journal.snapshot():
        journal, last = run.journal, run.last()
        holder, left = holder_of(run.store.journal_path), journal.left()
        by_hand = journal.by_hand(last.id)
        state = state_of(run.store.journal_path, last, left, by_hand, holder)
        process = holder if holder and state == "planning" else last
        is_at_work = state in AT_WORK
        by_files = Unread() if is_at_work else unread(run.store, journal, last)
        figures = figures_of(journal, keyword, last.id, is_at_work=is_at_work)
        figures |= by_files.counted(Counts(*(figures[name] for name in Counts._fields)))._asdict()
        figures["corrected"] += by_files.corrected
        now = time.time()
        seconds = max(1.0, min(_RATE_OVER_S, now - last.started))
        rate = journal.ended_since(now - seconds) / seconds if is_at_work else 0.0
        batches = batches_of(journal)
        # Rows of batches end thousands at a time: when the others come, no rate says.
        has_pace = rate and not any(each.is_out for each in batches)
        return RunStatus(
            **figures,
            state=state,
            chunks=len(journal.chunks()),
            rows_per_s=rate,
            left_s=left / rate if has_pace else None,
            failures=tuple(by_files.failures(journal)),
            paused=tuple(pause_in_words(*each) for each in journal.paused(last.id)) if is_at_work else (),
            reason=_reason(state, last),
            process=f"host {process.host}, process {process.pid}",
            **_outlook(journal, last, is_done=state == "done"),
            by_hand=tuple(f"{_clock(each.at)} {each.said}" for each in by_hand),
            batches=batches,
            notes=(*by_files.notes, *_notes(journal)),
            tiers=tuple(journal.answers_by_tier()) if journal.names_tiers() else (),
        )


@outermost
def status_of_shards(keyword: str, output_dir: str | os.PathLike[str] = "output") -> ShardsStatus | None:
    """Return the state of the shards of a keyword; None if it has none, or if they are merged.

    Raises:
        SettingsError: the keyword is invalid.
        OutputError: the directories of shards cannot be read.
    """
    if not (shards := unmerged(output_dir, keyword)):
        return None
    of = int(shards[0].name.rpartition("-")[2])
    found: dict[str, RunStatus] = {}
    unreadable: dict[str, str] = {}
    for each in shards:
        if not Store(each, keyword).journal_path.exists():
            continue
        try:
            found[each.name] = status(keyword, each)
        except NotBegunError:  # its first process reads the table
            continue
        except OutputError as error:
            unreadable[each.name] = str(error)
    return ShardsStatus(keyword, of, found, unreadable)


def _outlook(journal: Reader, last: LastRun, *, is_done: bool) -> dict[str, Any]:
    """Return when the latest process was to be finished, and what it said of that, or what became of it."""
    if (found := foreseen(journal, last.id)) is None:
        return {}
    if is_done and last.ended is not None:
        found = Foreseen(found.due, last.ended, "", ended_in_words(last.ended, found.due))
    return {
        "due": moment_as_text(found.due),
        "expected_end": None if found.end is None else moment_as_text(found.end),
        "outlook": found.state,
        "outlook_text": found.text,
    }


def _notes(journal: Reader) -> Iterator[str]:
    yield from (f"{endpoint} ignores {said}" for endpoint, said in journal.ignored())
    if begun := journal.begun_answers():
        rows = counted(begun, "row without an answer has", "rows without an answer have")
        yield f"{rows} a part of one, which was cut off: it is in `partials` of the journal"


def _reason(state: str, last: LastRun) -> str:
    if state == "unknown":
        return f"its lock is free here, but it ran on {last.host}, and this file system may not carry locks"
    return (last.outcome or "") if state == "stopped" else ""


def pause_in_words(at: float, label: str, why: str) -> str:
    """Return which endpoint pauses, since when, and why."""
    return f"{label} since {_clock(at)}: {why}"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))

"""Steers a run that shall be finished by a given time: what waits in batches, what is asked online, and in which tier.

Invariant: it only decides where rows are asked, by the rule of `planning.mix`; no row is asked twice because of it,
except rows of a batch that its service does not give back although it was cancelled, which are counted and said.

What it knows, the best first:

- How fast online requests are answered: what this process sees (calls that may be in flight now, divided by the seconds
  that an answer takes, within the accounts' limits; while it asks online, no more than what came in the last minutes);
  else what earlier processes saw (the median of spans of five minutes); else an assumption, 32 calls of 10 seconds. The
  rule counts on 80% of it. With a canary, its rows are asked online before anything goes into a batch, so that a rate
  is seen; without one, a few rows stay out of the batches for that.
- How long a cancelled batch takes to come back: the longest that this process saw, at first ten minutes.
- How fast the flex tier is: what this process saw of it, at first a third of the rate of the usual tier.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from batcher.engine.batching.submitting import Closed
from batcher.engine.progress import Progress, Tally
from batcher.errors import BatcherError
from batcher.journal.entries import DUE, FORECAST, Batch, BatchState
from batcher.journal.paces import durations, rates_of
from batcher.journal.writing import Journal
from batcher.moments import ended_in_words, moment_in_words
from batcher.planning.due import Due
from batcher.planning.job import Job
from batcher.planning.mix import (
    ASSUMED_RATE,
    FLEX_SHARE,
    HARVEST_S,
    PROBES,
    SAFETY,
    TICK_S,
    USEFUL_S,
    Pace,
    Work,
    idle_s,
    lines_of_a_batch,
    may_fill,
    tail_s,
    to_cancel,
)
from batcher.planning.plan import Plan
from batcher.planning.ways import DEFAULT
from batcher.pool.account import Account
from batcher.pool.pool import Pool
from batcher.settings import FLEX
from batcher.words import counted

_SEEN_S, _BUSY_S = 300.0, 60.0
_WARM = 10  # answers before which a run has not got going: its first row goes alone
_AGAIN_S = 900.0  # a change of an expected end is said at most so often
_SETTLES_S = 120.0  # ... and whether it is in time, so often
_NOTED_S = 300.0  # ... and recorded if it is as large as this
_STUCK = 2.0  # a batch is given up that takes this many times as long to be cancelled as expected
_FILES_S = 60.0  # for the files at the end
_CALM_S = 300.0  # the flex tier is asked again only if there is so much time to spare


class OfBatches(Protocol):
    """What it needs of `engine.batching.batches.Batches`."""

    keeps: bool
    most_lines: int
    most_rows: int | None
    changed: asyncio.Event

    @property
    def open(self) -> Sequence[Batch]: ...

    @property
    def is_filling_up(self) -> bool: ...

    async def cancel(self, batches: Collection[int] | None = None) -> None: ...

    async def ask_online(self) -> None: ...

    def give_up(self, batches: Collection[int]) -> None: ...


class Outlook(StrEnum):
    """Whether a run will be finished in time."""

    UNKNOWN = "unknown"
    IN_TIME = "in time"
    BY_BATCH = "by batch"
    LATE = "late"


class Forecast(NamedTuple):
    """What is expected now.

    Attributes:
        outlook: whether the run will be in time.
        end: when its last row is expected, in seconds since the epoch; None: not known.
        text: the same in words.
    """

    outlook: Outlook
    end: float | None
    text: str


class Clock:
    """The time left until a moment.

    It goes by the loop's clock, which nobody sets, and by the wall's, which does not stand still while a laptop sleeps:
    the one that has moved on further counts.
    """

    def __init__(self, due: float) -> None:
        self._due = due
        self._loop = asyncio.get_running_loop()
        self._wall, self._began = time.time(), self._loop.time()

    def now(self) -> float:
        """Return the present, in seconds since the epoch."""
        return self._wall + max(self._loop.time() - self._began, time.time() - self._wall)

    def left_s(self) -> float:
        """Return the seconds left; below 0 afterwards."""
        return self._due - self.now()


class Rates:
    """How many rows a second online requests answer, by what is known best.

    Args:
        pool: asks them.
        earlier: rates that earlier processes saw.
        per_row: answers that a row needs.
    """

    def __init__(self, pool: Pool, earlier: Sequence[float], per_row: float) -> None:
        self._pool = pool
        self._earlier = statistics.median(earlier) if earlier else None
        self._per_row = per_row
        self._looks: deque[tuple[float, int]] = deque()
        self._by_tier: dict[str, float] = {}
        self._has_changed_tier = False

    @property
    def is_known(self) -> bool:
        """Whether a request was answered, now or earlier."""
        return bool(self._by_tier) or self._earlier is not None

    def look(self, now: float, tier: str, *, is_busy: bool) -> None:
        """Look at what came since the last look.

        Args:
            now: the loop's time.
            tier: in which requests are asked now.
            is_busy: they have had work all the time.
        """
        answers = sum(member.answers for member in self._pool.of_tier(0))
        if not is_busy or answers < _WARM:
            self._looks.clear()
        self._looks.append((now, answers))
        while len(self._looks) > 2 and self._looks[1][0] <= now - _SEEN_S:
            self._looks.popleft()
        if not answers:
            return
        then, before = self._looks[0]
        seen = (answers - before) / (now - then) if now - then >= _BUSY_S else None
        if self._has_changed_tier:  # the seconds that an answer takes are still those of the other tier
            if seen is not None:
                self._by_tier[tier] = seen
            return
        possible = self._possible()
        self._by_tier[tier] = possible if seen is None else min(possible or seen, seen)

    def change_tier(self) -> None:
        """Count what comes of another tier from now on."""
        self._looks.clear()
        self._has_changed_tier = True

    def of(self, tier: str) -> float:
        """Return the rows a second of a tier, without a margin."""
        if tier in self._by_tier:
            return self._by_tier[tier] / self._per_row
        if tier == FLEX:
            return FLEX_SHARE * self.of(DEFAULT)
        return self._bounded(ASSUMED_RATE if self._earlier is None else self._earlier) / self._per_row

    def _accounts(self) -> list[Account]:
        return [*dict.fromkeys(each.account for each in self._pool.of_tier(0) if each.out is None)]

    def _bounded(self, rate: float) -> float:
        """Return a rate that was not seen in this process, within the limits of the accounts."""
        limits = [min((bound.rate / 60 for bound in each.bounds()), default=math.inf) for each in self._accounts()]
        return min(rate, sum(limits)) if limits else rate

    def _possible(self) -> float:
        """Return the answers a second that as many calls bring as may be in flight now."""
        total = 0.0
        for account in self._accounts():
            latencies = [each.latency_s for each in account.members if each.answers and each.latency_s]
            if latencies:
                at_once = min(account.concurrency.limit, account.max_concurrency)
                limits = [bound.rate / 60 for bound in account.bounds()]
                total += min([at_once / statistics.mean(latencies), *limits])
        return total


class Deadline:
    """Steers a run so that it is finished in time at the least cost.

    Args:
        job: the run.
        due: when it shall be finished.
        journal: gets the time, and each change of what is expected.
        planned: what is left to do.
        pool: asks online.
        tally: counts the rows, and shows what is expected.
        progress: shows messages.

    Attributes:
        batches: the batches of the run; None: no rows go into batches.
        cannot_cancel: rows of batches that were cancelled and not given back, which were asked online as well.
    """

    def __init__(
        self,
        job: Job,
        due: Due,
        journal: Journal,
        planned: Plan,
        *,
        pool: Pool,
        tally: Tally,
        progress: Progress,
    ) -> None:
        self.batches: OfBatches | None = None
        self.cannot_cancel = 0
        self._due = due
        self._job = job
        self._journal = journal
        self._pool = pool
        self._tally = tally
        self._progress = progress
        self._has_flex = any(FLEX in job.asked_in(each).names for each in job.tiers.first)
        self._clock = Clock(due.at)
        self._whole_s = max(self._clock.left_s(), 4 * TICK_S)
        self._loop = asyncio.get_running_loop()
        further = 0.0 if planned.cut is None else (0.5 if planned.cut.share is None else planned.cut.share)
        self._rates = Rates(pool, rates_of(journal, planned.first_sources), job.settings.samples + further)
        took = [each.seconds for each in durations(journal) if each.is_finished]
        self._useful_s = max(min(took), TICK_S) if took else USEFUL_S
        self._harvest_s = HARVEST_S
        self._seen_harvests: list[float] = []
        self._cancelled: dict[int, float] = {}
        self._given_up: set[int] = set()
        self._cancelling: set[asyncio.Task[None]] = set()
        self._taken_back = (0, 0)  # batches, and their rows without an answer
        self._tier = DEFAULT
        self._is_busy = False
        self._forecast = Forecast(Outlook.UNKNOWN, None, "")
        self._said_at = -math.inf
        self._is_past = False

    # -- What is known now

    def _pace(self, tier: str, rows: int) -> Pace:
        rate = SAFETY * self._rates.of(tier)
        bare = Pace(rate)
        margin = tail_s(bare.online_s(rows), self._job.settings.attempt_s, self._whole_s)
        return Pace(rate, min(self._harvest_s, self._whole_s / 4), margin)

    @property
    def _open(self) -> list[Batch]:
        """The batches whose rows may come back, those of which the least is done first."""
        found = [each for each in (self.batches.open if self.batches else ()) if each.id not in self._given_up]
        return sorted(found, key=lambda each: (_done(each), -each.id))

    def _work(self) -> tuple[Work, list[Batch]]:
        """Return the rows without an answer, and the batches that can be cancelled, in the order of the work."""
        samples = self._job.settings.samples
        found = self._open
        left = self._tally.left
        out = [each for each in found if each.id not in self._cancelled]
        held = sum(each.requests for each in out) / samples  # rows whose results come with their batch
        free = max(0, left - math.floor(held) - sum(_answered(each) for each in found if each.id in self._cancelled))
        unanswered = tuple(math.ceil((each.requests - _answered(each)) / samples) for each in out)
        return Work(free, unanswered, self._clock.left_s()), out

    def patience_s(self, most: float) -> float:
        """Return how long to wait for what is not needed any more, at most so long: not beyond the deadline."""
        return max(0.0, min(most, self._clock.left_s() - _FILES_S))

    # -- Steering

    def note(self) -> None:
        """Record when the run shall be finished."""
        self._journal.note(DUE, self._due.given, self._due.detail)

    async def begin(self) -> None:
        """Decide how many rows go into batches, before the first one is filled; and say what is expected."""
        self._rates.look(self._loop.time(), self._tier, is_busy=False)
        work, _ = self._work()
        if self.batches is not None:
            rows = work.free
            pace = self._pace(DEFAULT, work.rows)
            most = may_fill(rows, work.left_s, pace, self._useful_s)
            if not self._rates.is_known and most == rows:
                most = max(0, rows - PROBES)
            self.batches.most_rows = None if most == rows else most * self._job.settings.samples
            self.batches.most_lines = lines_of_a_batch(rows * self._job.settings.samples)
            self.batches.keeps = most > 0
        self._choose_tier(work)
        self._foresee(work)

    @contextlib.asynccontextmanager
    async def steering(self) -> AsyncIterator[None]:
        """Steer while the block runs."""
        await self.begin()
        watching = self._loop.create_task(self.watch())
        try:
            yield
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def watch(self) -> None:
        """Decide again and again, until it is cancelled."""
        try:
            while True:
                await self.decide()
                await asyncio.sleep(TICK_S)
        finally:
            for task in self._cancelling:
                task.cancel()

    async def decide(self) -> None:
        """Look at what has come, and do what the rule says."""
        self._rates.look(self._loop.time(), self._tier, is_busy=self._is_busy)
        self._see_harvests()
        work, out = self._work()
        self._choose_tier(work)
        if self.batches is not None:
            await self._take_back(self.batches, work, out)
        asks = self.batches is None or not self.batches.keeps
        self._is_busy = asks and self._pool.in_flight > 0
        self._foresee(self._work()[0])

    async def _take_back(self, batches: OfBatches, work: Work, out: Sequence[Batch]) -> None:
        """Let rows be asked online that can wait no longer."""
        pace = self._pace(self._tier, work.rows)
        count = to_cancel(work, pace)
        if count:
            await self._cancel(batches, out[:count])
        is_short = idle_s(work, pace) <= pace.tick_s
        # Rows that shall go into batches do so first: when all have, the others are asked online anyway.
        if batches.keeps and work.free and is_short and not batches.is_filling_up:
            await batches.ask_online()
        await self._give_up_stuck(batches, work, pace)

    async def _cancel(self, batches: OfBatches, wanted: Sequence[Batch]) -> None:
        now = self._loop.time()
        rows = sum(each.requests - _answered(each) for each in wanted)
        self._cancelled |= {each.id: now for each in wanted}
        if not self._taken_back[0]:
            self._progress.say(
                f"{counted(len(wanted), 'batch is', 'batches are')} cancelled, so that {counted(rows, 'row')} can be"
                f" asked online by {self._moment(self._due.at)}; others follow if they must."
            )
        self._taken_back = self._taken_back[0] + len(wanted), self._taken_back[1] + rows
        if batches.keeps:
            await batches.ask_online()
        # A service that does not take it must not hold up what is decided meanwhile.
        task = self._loop.create_task(_cancelled(batches, [each.id for each in wanted]))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    def _see_harvests(self) -> None:
        """Learn how long cancelled batches take to come back."""
        if not self._cancelled or self.batches is None:
            return
        there = {each.id for each in self.batches.open}
        now = self._loop.time()
        for number in [each for each in self._cancelled if each not in there]:
            self._seen_harvests.append(now - self._cancelled.pop(number))
            self._harvest_s = max(self._seen_harvests)

    async def _give_up_stuck(self, batches: OfBatches, work: Work, pace: Pace) -> None:
        """Ask online about rows of batches that are cancelled and do not come back, if there is nothing else to do."""
        now = self._loop.time()
        stuck = [
            each
            for each in batches.open
            if each.id in self._cancelled
            and each.id not in self._given_up
            and now - self._cancelled[each.id] > max(_STUCK * pace.harvest_s, 2 * TICK_S)
        ]
        waiting = sum(each.requests - _answered(each) for each in stuck)
        if not stuck or work.free - waiting > pace.rate * pace.tick_s:
            return
        self._given_up |= {each.id for each in stuck}
        rows = sum(each.requests for each in stuck)
        self.cannot_cancel += rows
        self._progress.say(
            f"{counted(len(stuck), 'batch was', 'batches were')} cancelled and"
            f" {'does' if len(stuck) == 1 else 'do'} not come back: {counted(rows, 'row is', 'rows are')} asked online"
            " as well. Answers that still come in it are kept, and may be billed.",
            "warning",
        )
        batches.give_up([each.id for each in stuck])
        await batches.ask_online()

    def _choose_tier(self, work: Work) -> None:
        """Ask in flex as long as the usual tier could still take over in time, when what is in flight has ended."""
        if not self._has_flex:
            return
        spare_s = idle_s(work, self._pace(DEFAULT, work.rows)) - self._job.settings.attempt_s_in(FLEX)
        tier = FLEX if spare_s > (0 if self._tier == FLEX else _CALM_S) else DEFAULT
        if tier != self._tier:
            self._tier = tier
            self._rates.change_tier()
        self._pool.tiers = (tier,)

    def ended(self) -> str:
        """Return whether the run, which is done, was in time."""
        said = f"{ended_in_words(self._clock.now(), self._due.at).capitalize()}."
        if self._taken_back[0]:
            batches, rows = self._taken_back
            said += (
                f" {counted(batches, 'batch was', 'batches were')} cancelled in time, and {counted(rows, 'row')} of"
                " them asked online."
            )
        if self.cannot_cancel:
            others = counted(self.cannot_cancel, "row was", "rows were")
            said += f" {others} asked online although a batch that could not be cancelled had them."
        return said

    # -- The forecast

    def _moment(self, at: float) -> str:
        return moment_in_words(at, self._clock.now())

    def _foresee(self, work: Work) -> None:
        """Update what is expected, and say and record it if it has changed."""
        now = self._clock.now()
        found = self._found(work, now)
        before, self._forecast = self._forecast, found
        self._tally.due, self._tally.end, self._tally.outlook = self._due.at, found.end, str(found.outlook)
        if found.outlook is Outlook.UNKNOWN or not work.rows:
            return
        is_new = found.outlook is not before.outlook
        if is_new and before.outlook is not Outlook.UNKNOWN and self._loop.time() - self._said_at < _SETTLES_S:
            self._forecast = before  # a rate goes up and down, and the next looks will tell
            return
        has_moved = _apart(found.end, before.end) >= _NOTED_S
        is_time = self._loop.time() - self._said_at >= _AGAIN_S
        is_past = work.left_s <= 0 and not self._is_past
        self._is_past = self._is_past or is_past
        if is_new or is_past or (has_moved and is_time):
            self._said_at = self._loop.time()
            self._journal.note(FORECAST, "", self._detail(found))
            self._progress.say(found.text, "info" if found.outlook is Outlook.IN_TIME else "warning")
        else:
            self._forecast = found if not has_moved else found._replace(end=before.end)

    def _detail(self, found: Forecast) -> str:
        return json.dumps(
            {"due": self._due.at, "end": found.end, "state": str(found.outlook), "text": found.text}, ensure_ascii=True
        )

    def _found(self, work: Work, now: float) -> Forecast:
        """Return what is expected of some work."""
        if not work.rows:
            return Forecast(Outlook.IN_TIME, now, "")
        # In flex there is time to spare: the usual tier could take over.
        rate = self._rates.of(DEFAULT)
        end: float | None = now + work.online_s(Pace(rate, self._harvest_s if work.out else 0.0))
        end = end if end is not None and math.isfinite(end) else None
        if work.left_s <= 0:
            return Forecast(Outlook.LATE, end, self._past(end))
        if not self._rates.is_known:
            return Forecast(Outlook.UNKNOWN, None, "")
        if end is not None and end <= self._due.at:
            return self._in_time(work, now, end)
        return self._too_late(work, end, rate)

    def _past(self, end: float | None) -> str:
        rows = counted(self._tally.left, "row is", "rows are")
        expected = f": the end is expected at {self._moment(end)}" if end is not None else ""
        return f"{self._moment(self._due.at)} is past, and {rows} left{expected}."

    def _in_time(self, work: Work, now: float, end: float) -> Forecast:
        due = self._moment(self._due.at)
        if self.batches is not None and self.batches.keeps:
            pace = self._pace(self._tier, work.rows)
            until = self._moment(now + max(idle_s(work, pace), 0.0))
            text = f"In time for {due}: batches may take until {until}; what is not back then is asked online."
            return Forecast(Outlook.IN_TIME, None, text)
        if work.out:
            rows = counted(sum(work.out), "row")
            text = f"In time for {due}: {rows} can still wait in batches, and the others are asked online."
            return Forecast(Outlook.IN_TIME, None, text)
        return Forecast(Outlook.IN_TIME, end, f"In time for {due}: the end is expected at {self._moment(end)}.")

    def _too_late(self, work: Work, end: float | None, rate: float) -> Forecast:
        due, rows = self._moment(self._due.at), counted(work.rows, "row")
        at_rate = f"online requests answer {rate * 60:,.3g} rows a minute"
        if work.out or (self.batches is not None and self.batches.keeps):
            until = f"{rows} would take until {self._moment(end)}" if end is not None else f"{rows} are left"
            held = f"{counted(sum(work.out), 'row is', 'rows are')} in batches" if work.out else "Some go into batches"
            text = (
                f"{due} can be met only if batches come back in time: {at_rate}, and {until}."
                f" {held}, and the others are asked online as fast as possible."
            )
            return Forecast(Outlook.BY_BATCH, end, text)
        expected = f"is expected at {self._moment(end)}" if end is not None else "cannot be foreseen"
        text = (
            f"{due} cannot be met: {at_rate}, and {rows} {'is' if work.rows == 1 else 'are'} left. The end {expected};"
            " the run goes on as fast as it can."
        )
        return Forecast(Outlook.LATE, end, text)


async def _cancelled(batches: OfBatches, numbers: Collection[int]) -> None:
    """Cancel batches; if their service does not take that, their rows are asked online later all the same."""
    with contextlib.suppress(Closed, BatcherError):
        await batches.cancel(numbers)


def _answered(batch: Batch) -> int:
    """Return the lines of a batch that its service has done."""
    return min((batch.completed or 0) + (batch.failed or 0), batch.requests)


def _done(batch: Batch) -> float:
    """Return the share of a batch that is done; below 0 if it is not at its service yet."""
    return _answered(batch) / max(batch.requests, 1) if batch.state is BatchState.SENT else -1.0


def _apart(end: float | None, before: float | None) -> float:
    if end is None or before is None:
        return 0.0 if end is before else math.inf
    return abs(end - before)

"""The passes of a run with batches: windows over the table while batches come back, and a last one.

Invariant: a pass leaves the rows that are out as they are. A file is written when each of its rows has its result, and
the result is joined when each row of the table has one.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Protocol

from batcher.calls.patience import Alarm
from batcher.engine.batching.batches import Batches
from batcher.engine.deadline import Deadline
from batcher.engine.ending import Ending
from batcher.engine.progress import Progress, Tally
from batcher.engine.stop import Stop
from batcher.engine.window import AT_ONCE_S, Window
from batcher.errors import BatcherError, OutputError, SettingsError
from batcher.money.budget import BudgetSpent
from batcher.money.spending import Spending, used_up
from batcher.words import counted

_OFTEN = 1 / 10
"""The share of the rows that must have come since the last pass before the next one: each reads the table."""
_LATE_S = 600.0
"""The most seconds for cancelled batches of rows that all have their results: services take up to ten minutes."""


class MakeWindow(Protocol):
    """Makes a window for a pass."""

    def __call__(self, *, asks: bool, settles: bool, is_first: bool = False) -> Window: ...


class Passes:
    """Lets batches work, and passes over the table meanwhile.

    Args:
        make: makes the window of a pass.
        batches: of the run.
        spending: says what was spent.
        tally: counts rows; is shown.
        progress: shows it.
        grace_s: the seconds for what is under way if the run is to stop.
        is_second: a second endpoint is asked at the end (`--then`).
        deadline: steers the batches; None: no time is given.
    """

    def __init__(
        self,
        make: MakeWindow,
        batches: Batches,
        *,
        spending: Spending,
        tally: Tally,
        progress: Progress,
        grace_s: float,
        is_second: bool,
        deadline: Deadline | None = None,
    ) -> None:
        self.batches = batches
        self._deadline = deadline
        self._make = make
        self._spending = spending
        self._tally = tally
        self._progress = progress
        self._grace_s = grace_s
        self._is_second = is_second
        self._window: Window | None = None
        self._working: asyncio.Task[None] | None = None
        self._steering: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._ending = Ending()
        self._at_last_pass = tally.done

    def widen(self) -> None:
        """Let more rows be asked at once, if a pass asks some."""
        if self._window:
            self._window.widen()

    async def work(self, stop: Stop) -> Ending:
        """Let the batches work until none is open; write every chunk that is complete, and join them at the end."""

        def listen() -> None:
            self._stop(stop.requests)

        with stop.calling(listen):
            async with self._progress.showing(self._tally, self._refresh):
                if self._deadline and not await self._begin(self._deadline):
                    return self._ended()
                self._working = asyncio.get_running_loop().create_task(self.batches.work())
                try:
                    await self._accompany(self._working)
                finally:
                    await self._end_work(self._working)
                last = await self._last_pass()
                await self._end_steering()
            if last is None:
                return self._ended()
            ending = await last.end()
            return ending if ending.is_done else self._ended(ending)

    # -- With a deadline

    async def _begin(self, deadline: Deadline) -> bool:
        """Ask a few rows online first, and decide what goes into batches; return whether the run may go on."""
        self._window = window = self._make(asks=True, settles=True, is_first=True)
        try:
            may_go_on = await window.sweep()
        finally:
            self._window = None
        if not may_go_on or self._is_stopping:
            self._ending = await window.end()
            return False
        await deadline.begin()
        self._steering = asyncio.get_running_loop().create_task(deadline.watch())
        return True

    async def _end_steering(self) -> None:
        """End the steering; raise what ended it before."""
        if steering := self._steering:
            steering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await steering

    # -- While batches are out

    async def _accompany(self, working: asyncio.Task[None]) -> None:
        """Pass over the table while batches are out: to ask rows that are in none, or to write chunks."""
        news = self.batches.changed
        while not working.done() and not self._is_stopping:
            news.clear()
            if self._asks:
                if not await self._pass(asks=True):
                    return
                if not self._tally.left:
                    await self._wait_for_late(working)
                    return
            elif self._tally.done - self._at_last_pass >= max(self._tally.rows * _OFTEN, 1) and not await self._pass(
                asks=False
            ):
                return
            if not news.is_set() and not working.done():
                await _first_of(working, news)

    @property
    def _asks(self) -> bool:
        """Whether rows are asked that are in no batch."""
        return self.batches.asks_online

    async def _pass(self, *, asks: bool, is_last: bool = False) -> bool:
        """Make a pass; return whether the run may go on."""
        self._at_last_pass = self._tally.done
        self._window = window = self._make(asks=asks, settles=is_last or asks or not self._is_second)
        try:
            may_go_on = await window.sweep()
        finally:
            if not is_last:
                self._window = None
        if not may_go_on:
            self._ending = _merged(self._ending, await window.end())
        return may_go_on

    async def _wait_for_late(self, working: asyncio.Task[None]) -> None:
        """Wait for the batches that were cancelled, although each row has its result: what they cost is known then."""
        late_s = self._deadline.patience_s(_LATE_S) if self._deadline else _LATE_S
        await asyncio.wait([working], timeout=late_s)

    async def _end_work(self, working: asyncio.Task[None]) -> None:
        """Let the work on batches come to its end, and record what ended it."""
        if not working.done():
            self.batches.close()
        try:
            await working
        except asyncio.CancelledError:
            if not working.cancelled():
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
                raise
        except BudgetSpent as end:
            self._ending = replace(self._ending, out_of_money=used_up(end))
        except BatcherError as error:
            self._ending = replace(self._ending, trouble=self._ending.trouble or error)

    # -- The end

    async def _last_pass(self) -> Window | None:
        """Make the last pass; None if the run is stopping, or cannot go on."""
        trouble = self._ending.trouble
        if self._is_stopping or self._ending.looks_wrong or isinstance(trouble, (OutputError, SettingsError)):
            return None
        asks = self._asks and trouble is None and not self.batches.open
        await self._pass(asks=asks, is_last=True)
        return self._window

    def _ended(self, ending: Ending | None = None) -> Ending:
        """Return how the run ended, if it is not done."""
        ended, batches = _merged(self._ending, ending or self._ending), self.batches
        return replace(
            ended,
            looks_wrong=ended.looks_wrong or batches.looks_wrong,
            detached=batches.detached,
            out_in_batches=batches.lines_out,
            was_cancelled=batches.was_cancelled,
        )

    # -- Stopping

    def _stop(self, requests: int) -> None:
        """Act on a request to stop: the first time wait for what is under way, the second time end at once."""
        self._is_stopping = True
        if self._steering:
            self._steering.cancel()
        seconds = self._grace_s if requests == 1 else 0.0
        if seconds and self.batches.steps_under_way:
            self._progress.say(
                f"Stopping: waiting up to {seconds:g} s for {counted(self.batches.steps_under_way, 'step')} of batches"
                " under way; once more stops at once."
            )
        self.batches.close()
        self.batches.changed.set()
        if self._window:
            self._window.stop(requests)
        Alarm(max(seconds, AT_ONCE_S), self._cancel)

    def _cancel(self) -> None:
        if self._working:
            self._working.cancel()

    def _refresh(self) -> None:
        """Bring the tally up to date."""
        tally = self._tally
        if self._window:
            self._window.refresh()
        else:
            tally.in_flight, tally.oldest_s, tally.waiting_for = 0, 0.0, ""
            tally.spent = self._spending.spent
        tally.lines_out = self.batches.rows_out
        tally.waiting_for = tally.waiting_for or str(self.batches)


def _merged(first: Ending, then: Ending) -> Ending:
    """Return how the run ended, if two of its parts have: what came first counts."""
    return replace(
        then,
        trouble=first.trouble or then.trouble,
        out_of_money=first.out_of_money or then.out_of_money,
        looks_wrong=first.looks_wrong or then.looks_wrong,
    )


async def _first_of(working: asyncio.Task[None], news: asyncio.Event) -> None:
    """Wait until the work is done, or there is news."""
    waiting = asyncio.get_running_loop().create_task(news.wait())
    try:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting

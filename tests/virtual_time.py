"""An event loop whose clock moves on instead of waiting: hours take milliseconds, and every run is the same.

Invariant: time stands still while a job is in a thread, so that no commit is jumped over; and if nothing would
ever happen again, the loop says so instead of hanging.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_TURN_S = 1e-9  # what a turn of the loop takes: with nothing, rounding could keep a timer from ever being due


class DeadlockError(Exception):
    """No event is scheduled and no work is under way."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Counts its own seconds, from 0.

    Args:
        lateness: draws the seconds by which the loop wakes up late; negative is early.
        resolution: of the clock, in seconds: a timer may fire so much early.
    """

    def __init__(self, lateness: Callable[[], float] = lambda: 0.0, resolution: float = _TURN_S) -> None:
        self._now = 0.0
        self._lateness = lateness
        self.jobs = 0
        super().__init__(_Selector(self))
        self._clock_resolution = resolution

    def time(self) -> float:
        return self._now

    def move_on(self, seconds: float) -> None:
        self._now += max(seconds + self._lateness(), _TURN_S) if seconds > 0 else _TURN_S

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        job = super().run_in_executor(executor, func, *args)
        self.jobs += 1
        job.add_done_callback(self._reported)
        return job

    def _reported(self, _job: asyncio.Future[Any]) -> None:
        self.jobs -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109 - asyncio's
        self.jobs += 1  # threads come to their end in real time
        await super().shutdown_default_executor()
        self.jobs -= 1


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        idle = timeout is None or timeout > 0
        events = super().select(None if idle and self._loop.jobs else 0)
        if not events:
            if timeout is None:
                raise DeadlockError("nothing is scheduled and nothing is under way: the program would hang")
            self._loop.move_on(timeout)
        return events


def run_virtually(
    work: Coroutine[Any, Any, T], lateness: Callable[[], float] = lambda: 0.0, resolution: float = _TURN_S
) -> tuple[T, float]:
    """Run a coroutine to its end; return its result and the virtual seconds that it took."""
    loop = VirtualLoop(lateness, resolution)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work), loop.time()

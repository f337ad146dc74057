"""Timeouts that count only the time in which this process could have read an answer.

Invariant: no answer that has arrived is lost to a timer. If the process is stopped, the machine sleeps or a function
blocks the loop, only 0.1 s of each stall count; before time is up, the sockets are read.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

# Seconds between two readings of the clock, and the most of them that count. A timer of the event loop wakes late, on a
# busy machine by tens of milliseconds; if it wakes even later, the loop was blocked.
_TICK_S = 0.05
_LONGEST_TICK_S = 0.1
# Turns of the loop before time is up. Each reads up to 256 KiB from a socket, or lets the reader process them.
_TURNS = 32


class _AwakeClock:
    """Counts the seconds in which a loop runs, while alarms use it.

    Attributes:
        users: the number of waiting alarms.
    """

    __slots__ = ("_is_ticking", "_read_at", "_seconds", "users")

    def __init__(self) -> None:
        self.users = 0
        self._seconds = 0.0
        self._read_at = 0.0
        self._is_ticking = False

    def start(self) -> None:
        self.users += 1
        if not self._is_ticking:
            self._is_ticking = True
            self._read_at = asyncio.get_running_loop().time()
            self._tick()

    def now(self) -> float:
        time = asyncio.get_running_loop().time()
        self._seconds += min(time - self._read_at, _LONGEST_TICK_S)
        self._read_at = time
        return self._seconds

    def _tick(self) -> None:
        self.now()
        self._is_ticking = self.users > 0
        if self._is_ticking:
            asyncio.get_running_loop().call_later(_TICK_S, self._tick)


# A clock does not refer to its loop, so that both are freed together.
_clocks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _AwakeClock] = weakref.WeakKeyDictionary()


class Alarm:
    """Calls back after a number of seconds in which the loop was running.

    At most 0.1 s of each stall count.

    Args:
        seconds: how long to wait; 0 calls back in the next turn of the loop.
        ring: what to call.
    """

    __slots__ = ("_clock", "_due", "_handle", "_is_over", "_ring")

    def __init__(self, seconds: float, ring: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        self._ring = ring
        self._is_over = False
        self._clock = _clocks.setdefault(loop, _AwakeClock())
        self._clock.start()
        self._due = self._clock.now() + seconds
        self._handle: asyncio.Handle
        if seconds > 0:
            self._handle = loop.call_later(seconds, self._wake)
        else:
            self._handle = loop.call_soon(self._read_first, 0)

    def cancel(self) -> None:
        self._handle.cancel()
        if not self._is_over:
            self._is_over = True
            self._clock.users -= 1

    def postpone(self, seconds: float) -> None:
        """Begin anew: call back after this many seconds from now, unless it has called back or is cancelled."""
        # The timer that is set wakes too early, and is then set again: this costs no timer for each part of a stream.
        self._due = self._clock.now() + seconds

    def _wake(self) -> None:
        if not self._waits_on():
            self._read_first(_TURNS)

    def _waits_on(self) -> bool:
        """Set the timer again if time is not up."""
        left = self._due - self._clock.now()
        if left > 0:
            self._handle = asyncio.get_running_loop().call_later(left, self._wake)
        return left > 0

    def _read_first(self, turns: int) -> None:
        """Let the loop read arrived data, and let its readers run."""
        if turns:
            self._handle = asyncio.get_running_loop().call_soon(self._read_first, turns - 1)
        elif not self._waits_on():  # what arrived meanwhile may have postponed it
            self.cancel()
            self._ring()


class Stopwatch:
    """Counts the seconds from now on in which the loop is running, as an `Alarm` does."""

    __slots__ = ("_began", "_clock")

    def __init__(self) -> None:
        self._clock = _clocks.setdefault(asyncio.get_running_loop(), _AwakeClock())
        self._clock.start()
        self._began = self._clock.now()

    def stop(self) -> float:
        """End the count, and return it; call it once."""
        self._clock.users -= 1
        return self._clock.now() - self._began


class Patience:
    """Like `asyncio.timeout`, but counts time as an `Alarm` does.

    Args:
        seconds: the most that the block may take, unless it is prolonged.

    Raises:
        TimeoutError: it took longer.
    """

    __slots__ = ("_alarm", "_seconds", "_timeout")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)

    @property
    def has_ended(self) -> bool:
        """Whether time was up."""
        return self._timeout.expired()

    def prolong(self, seconds: float) -> None:
        """Count anew: from now on, the block may take this many seconds. Call it within the block."""
        self._alarm.postpone(seconds)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._alarm = Alarm(self._seconds, self._end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._alarm.cancel()
        del self._alarm  # breaks a reference cycle: no call should leave work for the garbage collector
        await self._timeout.__aexit__(kind, error, trace)

    def _end(self) -> None:
        self._timeout.reschedule(0)  # long ago


class Signs:
    """The signs of life that a service gives while it answers a call.

    Attributes:
        have_come: there was one at least.
    """

    __slots__ = ("_idle_s", "_patience", "have_come")

    def __init__(self) -> None:
        self.have_come = False
        self._idle_s = 0.0
        self._patience: Patience | None = None

    def hear(self) -> None:
        """Record a sign."""
        self.have_come = True
        if self._patience:
            self._patience.prolong(self._idle_s)

    async def unless_silent(self, work: Awaitable[object], idle_s: float) -> None:
        """Wait for some work for as long as signs come.

        Raises:
            TimeoutError: none came for this many seconds.
        """
        patience = Patience(idle_s)
        try:
            async with patience:
                self._idle_s, self._patience = idle_s, patience
                try:
                    await work
                finally:
                    self._patience = None
        except TimeoutError:
            if not patience.has_ended:
                raise
            more = "nothing more" if self.have_come else "nothing"
            raise TimeoutError(f"{more} came for {idle_s:g} s (--idle-timeout allows more)") from None

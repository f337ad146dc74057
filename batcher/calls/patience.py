"""How long to wait for what others do: a timeout that counts only while this process could have read their answer.

Invariant: nothing that has arrived is lost to a timer. Seconds in which the process is stopped, the machine sleeps or a
function blocks the loop do not count, but for 0.1 of each stall; before time is up, what lies in the sockets is read.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Self

# Seconds between two readings of the clock, and what counts of them at most. A timer of the event loop wakes late, on a
# busy machine by tens of milliseconds; if it wakes later, the loop stood still.
_TICK_S = 0.05
_LONGEST_TICK_S = 0.1
# Turns of the loop before time is up. Each reads up to 256 KiB from a socket, or lets the reader take it over.
_TURNS = 32


class _AwakeClock:
    """Counts the seconds in which a loop runs; it ticks while alarms use it.

    Attributes:
        users: alarms that wait.
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


# A clock does not refer to its loop, and so both go together.
_clocks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _AwakeClock] = weakref.WeakKeyDictionary()


class Alarm:
    """Calls back when so many seconds have passed in which the loop was running.

    Of each stall, 0.1 s are counted at most.

    Args:
        seconds: to wait; 0 rings in the next turn of the loop.
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

    def _wake(self) -> None:
        left = self._due - self._clock.now()
        if left > 0:
            self._handle = asyncio.get_running_loop().call_later(left, self._wake)
        else:
            self._read_first(_TURNS)

    def _read_first(self, turns: int) -> None:
        """Let the loop read what has arrived, and those who wait for it go on."""
        if turns:
            self._handle = asyncio.get_running_loop().call_soon(self._read_first, turns - 1)
        else:
            self.cancel()
            self._ring()


class Patience:
    """Like `asyncio.timeout`, counted as an `Alarm` counts.

    Args:
        seconds: that the block may take.

    Raises:
        TimeoutError: it took longer.
    """

    __slots__ = ("_alarm", "_seconds", "_timeout")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._alarm = Alarm(self._seconds, self._end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._alarm.cancel()
        del self._alarm  # it refers to this: no call shall leave work for the collector of cycles
        await self._timeout.__aexit__(kind, error, trace)

    def _end(self) -> None:
        self._timeout.reschedule(0)  # long ago

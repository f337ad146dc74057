"""How long to wait for what others do: a timeout that counts only while this process could have read their answer.

Invariant: nothing that has arrived is lost to a timer. A process that is stopped, a machine that sleeps or a function
that blocks the loop is not the silence of a server, and before time is up, what lies in the sockets is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

# The wait is counted in slices, so that a stall is known to within one of them.
_SLICES = 8
# A timer of the event loop wakes late, on a busy machine by tens of milliseconds; beyond this the loop stood still.
_LATE_S = 0.1
# Turns of the loop before time is up. Each reads up to 256 KiB from a socket, or lets the reader take it over.
_TURNS = 32


class Alarm:
    """Calls back when so many seconds have passed in which the loop was running.

    Seconds are counted in slices. One that ends late counts for nothing: the loop stood still in it, nobody knows for
    how long. Of two in a row the second counts, so that a loop which is always late comes to an end as well.

    Args:
        seconds: to wait; 0 rings in the next turn of the loop.
        ring: what to call.
    """

    __slots__ = ("_due", "_handle", "_left", "_loop", "_ring", "_slice_s", "_was_late")

    def __init__(self, seconds: float, ring: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ring = ring
        self._slice_s = seconds / _SLICES
        self._left = _SLICES
        self._was_late = False
        self._due = 0.0
        self._handle: asyncio.Handle
        if seconds > 0:
            self._begin_slice()
        else:
            self._handle = self._loop.call_soon(ring)

    def cancel(self) -> None:
        self._handle.cancel()

    def _begin_slice(self) -> None:
        self._due = self._loop.time() + self._slice_s
        self._handle = self._loop.call_at(self._due, self._end_slice)

    def _end_slice(self) -> None:
        self._was_late = self._loop.time() - self._due > _LATE_S and not self._was_late
        self._left -= not self._was_late
        if self._left:
            self._begin_slice()
        else:
            self._read_first(_TURNS)

    def _read_first(self, turns: int) -> None:
        """Let the loop read what has arrived, and those who wait for it go on."""
        if turns:
            self._handle = self._loop.call_soon(self._read_first, turns - 1)
        else:
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

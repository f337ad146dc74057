"""The wish to stop: from a signal, or from the thread that waits for the run.

Invariant: wishes are only counted here; what they mean is decided by who listens, in the loop's own thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class Stop:
    """The wish to stop, from a signal or another thread: once is gentle, twice is at once."""

    def __init__(self) -> None:
        self.wishes = 0
        self.signal = signal.SIGINT
        self._tell: Callable[[], object] | None = None

    def wish(self, number: int = signal.SIGINT, _frame: object = None) -> None:
        """Ask to stop; fit to be a signal handler."""
        self.wishes += 1
        self.signal = signal.Signals(number)
        if self._tell:
            self._tell()

    @contextlib.contextmanager
    def heard_by(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call the listener in the running loop at each wish, and at once if there was one before."""
        loop = asyncio.get_running_loop()
        self._tell = lambda: loop.call_soon_threadsafe(listener)
        if self.wishes:
            listener()
        try:
            yield
        finally:
            self._tell = None

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Hear Ctrl-C and SIGTERM meanwhile. Only the main thread can, and handlers of the user's own are left."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        taken = []
        for number, default in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGTERM, signal.SIG_DFL),
        ):
            if signal.getsignal(number) is default:
                taken.append((number, signal.signal(number, self.wish)))
        try:
            yield
        finally:
            for number, before in taken:
                signal.signal(number, before)

"""Requests to stop: from a signal, or from the thread that waits for the run.

Invariant: requests are only counted here; the listener decides what they mean, in the loop's own thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: asyncio.Future[T]) -> T:
    """Wait for work that cannot be cancelled, such as a thread's, even if this task is cancelled repeatedly.

    Raises:
        asyncio.CancelledError: this task was cancelled meanwhile; the work is done.
    """
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # marks it as retrieved
        raise


CANCELLED = "cancelled"
"""The origin of a request to stop that came as the cancellation of the task that waits for the run."""


async def stopping_if_cancelled(work: asyncio.Future[T], stop: Stop) -> T:
    """Wait for a run in a task or a thread of its own; each cancellation of this task asks the run to stop.

    Raises:
        asyncio.CancelledError: this task was cancelled; the run has ended, and all that arrived is saved.
    """
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
            stop.cancel()
    if cancelled:
        # An error that ended the run as well is not lost: the cancellation names it as its cause.
        raise cancelled from None if work.cancelled() else work.exception()
    return work.result()


class Stop:
    """Counts requests to stop, from a signal or another thread: the first is gentle, the second takes effect at once.

    Attributes:
        requests: their number.
        name: the origin of the latest, such as `Ctrl-C`, `SIGTERM` or `CANCELLED`.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.name = "Ctrl-C"
        self._call: Callable[[], object] | None = None

    def request(self, number: int = signal.SIGINT, _frame: object = None) -> None:
        """Ask to stop; can serve as a signal handler."""
        self._ask("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)

    def cancel(self) -> None:
        """Ask to stop because the task that waits for the run was cancelled."""
        self._ask(CANCELLED)

    def _ask(self, name: str) -> None:
        self.requests += 1
        self.name = name
        if call := self._call:
            with contextlib.suppress(RuntimeError):  # the loop of the run, in another thread, has just been closed
                call()

    @contextlib.contextmanager
    def calling(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call the listener in the running loop at each request, and at once if there was a request before."""
        loop = asyncio.get_running_loop()
        self._call = lambda: loop.call_soon_threadsafe(listener)
        if self.requests:
            listener()
        try:
            yield
        finally:
            self._call = None

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Meanwhile treat Ctrl-C, SIGTERM and a closed terminal as requests to stop.

        Only the main thread can do so. The user's own handlers, and signals that `nohup` ignores, are left alone.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
        defaults = {signal.default_int_handler, signal.SIG_DFL}
        taken = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) in defaults}
        for number in taken:
            signal.signal(number, self.request)
        try:
            yield
        finally:
            for number, before in taken.items():
                signal.signal(number, before)

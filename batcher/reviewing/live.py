"""The run as it works: what the pages are told each second, and its pause.

Invariant: while no page listens, nothing is read; a look at the journal costs what has happened since the one before,
and takes at most a fifth of the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from batcher.engine import by_hand
from batcher.errors import BatcherError
from batcher.journal.entries import LastRun
from batcher.journal.following import Followed, Follower
from batcher.journal.locking import Holder, holder_of, is_locked
from batcher.journal.looking import Looks, RowReader
from batcher.money.prices import NANO
from batcher.output.directory import Store
from batcher.output.opening import PastRun
from batcher.reports.runs import AT_WORK, state_of
from batcher.reports.status import pause_in_words
from batcher.words import counted, duration

_LOOK_S = 1.0
_AT_REST_S = 5.0  # from one event to the next, if nothing changes
_PING_S = 15.0  # without an event: a connection that is gone is noticed
_SHARE = 5  # of the time, one part is for looking
_FAILURES = 3  # looks in a row, after which people are told

Queue = asyncio.Queue[tuple[str, Any]]


class Live:
    """Tells pages of the run as it works.

    Args:
        store: the files of the run.
        looks: at its journal.
        listening: gives a queue of the events of all tabs for a block (`Page.listening`).
        tell: puts an event into all of these queues.

    Attributes:
        pages: that listen.
    """

    def __init__(
        self,
        store: Store,
        looks: Looks,
        listening: Callable[[], AbstractContextManager[Queue]],
        tell: Callable[[str, Any], None],
    ) -> None:
        self._store, self._looks = store, looks
        self._listening, self._tell = listening, tell
        self._follower, self._counting = Follower(), threading.Lock()
        self.pages = 0
        self._ticking: asyncio.Task[None] | None = None
        self._now = asyncio.Event()
        self._latest: dict[str, Any] | None = None

    # -- The stream

    async def events(self) -> AsyncIterator[bytes]:
        """Yield server-sent events until the page goes away, which closes this."""
        with self._listening() as queue, self._ticks():
            if self._latest is not None:
                yield event("live", self._latest)
            while True:
                try:
                    name, values = await asyncio.wait_for(queue.get(), _PING_S)
                except TimeoutError:
                    name, values = "ping", {}
                yield event(name, values)

    @contextlib.contextmanager
    def _ticks(self) -> Iterator[None]:
        """Look at the run again and again while the block, or another one, works."""
        self.pages += 1
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().create_task(self._tick())
        else:
            self._now.set()
        try:
            yield
        finally:
            self.pages -= 1
            if not self.pages and self._ticking is not None:
                self._ticking.cancel()
                self._ticking = self._latest = None

    async def _tick(self) -> None:
        failures, seen, told = 0, object(), 0.0
        while True:
            began, now = time.monotonic(), (self._looks.stamp(), is_locked(self._store.journal_path))
            is_at_work = bool(self._latest and self._latest["at_work"])
            if is_at_work or now != seen or began - told >= _AT_REST_S:
                seen, told = now, began
                try:
                    self._latest = await asyncio.to_thread(self.state)
                    failures = 0
                    self._tell("live", self._latest)
                except BatcherError as error:  # it is written just now, or gone
                    failures += 1
                    if failures == _FAILURES:
                        self._tell("live", {"at_work": False, "state": "unknown", "said": str(error)})
            took = time.monotonic() - began
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._now.wait(), max(_LOOK_S - took, (_SHARE - 1) * took))
            self._now.clear()

    # -- The state

    def state(self) -> dict[str, Any]:
        """Return the state of the run now; it may take a while, in a thread.

        Raises:
            OutputError: the journal cannot be read.
        """
        return self._looks.look(self._state)

    def _state(self, journal: RowReader) -> dict[str, Any]:
        path, now = self._store.journal_path, time.time()
        with journal.snapshot():
            last, holder = PastRun(self._store, journal).last(), holder_of(path)
            with self._counting:  # an earlier look, given up meanwhile, may still be under way
                found = self._follower.look(journal, last.id, last.started, now)
            state = state_of(path, last, found.counts.left, journal.by_hand(last.id), holder)
            is_at_work = state in AT_WORK
            pauses = [pause_in_words(*each) for each in journal.paused(last.id)] if is_at_work else []
        rate = found.rate if is_at_work else 0.0
        left_s = found.counts.left / rate if rate and state == "running" else None
        counts = found.counts
        process = holder if holder and state == "planning" else last
        return {
            "at_work": is_at_work,
            "paused": state == "paused",
            "state": state,
            "process": process.process,
            "rows": counts.rows,
            "done": counts.rows - counts.left,
            "left": counts.left,
            "ok": counts.ok,
            "invalid": counts.invalid,
            "error": counts.error,
            "rate": round(rate, 2),
            "in_flight": found.in_flight if is_at_work else 0,
            "cost_usd": None if found.cost is None else found.cost / NANO,
            "left_s": left_s,
            "pauses": pauses,
            "said": _said(state, last, holder, found, left_s),
        }

    # -- Pause and resume

    async def pause(self) -> str:
        """Let the run at work send no further request, and return what changed.

        Raises:
            OutputError: no process runs it, or the process does not answer.
        """
        return await self._asked(by_hand.pause)

    async def resume(self) -> str:
        """Let the paused run go on, and return what changed.

        Raises:
            OutputError: no process runs it, or the process does not answer.
        """
        return await self._asked(by_hand.resume)

    async def _asked(self, verb: Callable[..., by_hand.Change]) -> str:
        change = await asyncio.to_thread(verb, self._store.keyword, self._store.directory)
        self._now.set()
        return str(change)


def event(name: str, values: Any) -> bytes:
    """Return a server-sent event."""
    return f"event: {name}\ndata: {json.dumps(values, ensure_ascii=True)}\n\n".encode()


def _said(state: str, last: LastRun, holder: Holder | None, found: Followed, left_s: float | None) -> str:
    """Return the state in words."""
    rows = f"{found.counts.rows - found.counts.left:,} of {counted(found.counts.rows, 'row')}"
    left = "" if left_s is None else f", about {duration(left_s)} left"
    said = {
        "planning": f"{(holder or last).process} reads the input, and sends nothing yet",
        "running": f"at work: {rows}, {found.rate:,.1f} rows/s{left}",
        "paused": f"paused by hand at {rows}",
        "stopped": f"stopped at {rows}: {last.outcome or 'nothing says why'}",
        "killed": f"{last.process} was killed at {rows}: the same command goes on",
        "unknown": f"it ran on {last.host}, and this machine cannot know whether it is still at work",
    }
    return said.get(state, f"done: {rows}")

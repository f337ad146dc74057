"""A batch that is not over, while a process tends it.

Invariant: what must outlive the process is in the journal; the rest is known anew at the next look.
"""

from __future__ import annotations

import asyncio

from batcher.calls.batch_service import Remote, RemoteState
from batcher.engine.batching.filling import Place
from batcher.journal.entries import Batch, BatchState

FIRST_ROOM_S = 30.0
"""The seconds of the first wait for a queue that is full although none of the run's batches is in it."""


class Tended:
    """A batch that is not over.

    Attributes:
        batch: as the journal has it.
        place: where it is, or goes.
        remote: as its service said last.
        over: is set when it is over there.
        is_kept_back: it waits for room in the queue.
        room_s: how long it waits the next time if none of the run's batches is there; waits: how often it did.
        is_cancelled: it is to be cancelled, or not to be created.
        is_forgotten: it is given up, and whatever came of it is lost.
        was_at_work: its service has begun to ask its lines.
        unknown_since: since when its service does not know it, by the loop's time; None: it does.
    """

    def __init__(self, batch: Batch, place: Place) -> None:
        self.batch = batch
        self.place = place
        self.remote: Remote | None = None
        self.over = asyncio.Event()
        self.is_kept_back = False
        self.room_s = FIRST_ROOM_S
        self.waits = 0
        self.is_cancelled = False
        self.is_forgotten = False
        self.was_at_work = False
        self.unknown_since: float | None = None

    @property
    def is_watched(self) -> bool:
        """Whether its service has to be asked how far it is."""
        return self.batch.state in {BatchState.SENT, BatchState.OVER} and not self.over.is_set()

    @property
    def is_taken(self) -> bool:
        """Whether its service has looked at it, and works on it."""
        is_there = self.remote is not None and self.remote.state is not RemoteState.VALIDATING
        return is_there and not self.over.is_set()

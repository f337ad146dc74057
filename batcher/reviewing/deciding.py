"""Brings what people decide on the page into the journal: corrections, their undoing, and hand labels.

Invariant: a decision that was acknowledged is in the journal exactly once, whatever ends or starts meanwhile; the lock
is held only for the moment in which it is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from batcher.errors import BatcherError
from batcher.journal.sampling import Gold
from batcher.output.directory import Store
from batcher.records import Result


class Changed(BatcherError):
    """The row has another result by now than the one that the person saw.

    Attributes:
        position: of the row.
        result: `results.id` of its present result; None: it has none.
    """

    def __init__(self, message: str, position: int, result: int | None) -> None:
        super().__init__(message)
        self.position = position
        self.result = result


class Decided(NamedTuple):
    """What became of a decision.

    Attributes:
        result: `results.id` of the row's new result; None for hand labels.
        via: `journal`: no run is at work, and it was written under the lock; `run`: the run at work has recorded it.
        said: this in words.
    """

    result: int | None
    via: str
    said: str


class Decisions:
    """Brings decisions into a journal; several requests may use it at once, and several processes have one each.

    Every method raises `KeywordBusy` if the journal cannot be written now, because a run is being planned or does not
    answer; `OutputError` if it cannot be written at all.

    Args:
        store: the files of the run.
        who: the name of the person.
    """

    def __init__(self, store: Store, who: str) -> None:
        self._store = store
        self._who = who
        self._turn = asyncio.Lock()

    async def correct(self, position: int, seen: int | None, result: Result, why: str = "") -> Decided:
        """Give a row the answer of a person.

        Args:
            position: of the row.
            seen: `results.id` of the result that the person saw.
            result: the answer; with a schema, JSON.
            why: what the person says about it.

        Raises:
            Changed: the row has another result by now.
            SettingsError: it is not a label, does not fit the schema, or there is no such row, or it has no result.
        """
        raise NotImplementedError

    async def undo(self, position: int, seen: int, why: str = "") -> Decided:
        """Bring the model's answer of a corrected row back; of a row whose correction was undone, the correction.

        Args:
            position: of the row.
            seen: `results.id` of the result that the person saw.
            why: what the person says about it.

        Raises:
            Changed: the row has another result by now.
            SettingsError: the row is not corrected, or no model has answered it.
        """
        raise NotImplementedError

    async def label(self, golds: Sequence[Gold]) -> Decided:
        """Record hand labels of rows of the sample; `who` is filled in if it is empty.

        Raises:
            SettingsError: there is no such row in the sample.
        """
        raise NotImplementedError

    async def finish(self) -> str:
        """Write the files that corrections have changed: chunk files, then the result; return what it did.

        Raises:
            KeywordBusy: a run is at work; it writes them itself when it ends.
        """
        raise NotImplementedError

    def pending(self) -> int:
        """Count the rows corrected on the page whose chunk files do not have that yet."""
        raise NotImplementedError

"""The batches of a run that are not over: adopted, filled, submitted, looked at and harvested.

Invariant: a batch that may be at a service is in the journal, and is looked for there before another one is made of its
rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from batcher.journal.entries import Batch


class Batches:
    """All batches of a run.

    Attributes:
        keeps: rows that a batch brings back without an answer go into another one, and what no batch has yet does.
            If it is False, they are left for online requests, and nothing more is submitted.
        most_lines: the most lines of the batches that are made from now on; 0: as many as the service takes.
        changed: is set when something came back, or when a batch was given up; whoever waits for it clears it.
        detached: why batches are left at the service, in words; empty: none is, or this is still at work.
    """

    keeps: bool
    most_lines: int
    changed: asyncio.Event
    detached: str

    @property
    def open(self) -> Sequence[Batch]:
        """The batches that are not done, as the service said last: with `completed` and `failed` lines."""
        raise NotImplementedError

    @property
    def rows_out(self) -> int:
        """The lines of these batches."""
        raise NotImplementedError

    async def work(self) -> None:
        """Adopt what earlier processes left; then fill, submit, look and harvest, until no batch is open and none is made.

        With `--wait no` it returns as soon as everything is submitted that the services take.

        Raises:
            BatcherError: a batch was refused as a whole, or cannot be found; the message says why, and what to do.
            OutputError: the journal or a file cannot be written.
            InputError: the input cannot be read, or was changed.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Submit nothing more, and leave what is out: `work` returns when the step that is under way has ended."""
        raise NotImplementedError

    async def cancel(self, batches: Collection[int] | None = None) -> None:
        """Cancel batches at their services; they are harvested as soon as they are over.

        Args:
            batches: their ids; None: all.
        """
        raise NotImplementedError

"""Asks rows once more that have their result (`--repeat-sample`): how many answers change by themselves.

Invariant: a row's result stays; what comes is journalled beside it, each answer before the next one is asked for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from functools import partial
from typing import NamedTuple

from batcher.engine.asked import End
from batcher.engine.asking import Asker
from batcher.engine.feed import Row
from batcher.engine.planned_input import PlannedInput
from batcher.engine.stop import to_the_end
from batcher.journal.writing import Journal
from batcher.planning.job import Job
from batcher.planning.opinions import rows_asked_again
from batcher.records import Result


class _Repeat(NamedTuple):
    """A row that is asked once more, the id of its result, and the answers that are missing."""

    row: Row
    result: int
    missing: int


class Repeats:
    """The rows of a run that are asked once more, when all rows have their result.

    Args:
        job: the run.
        journal: has the results, and gets the answers.
        planned_input: what the rows ask.
        asker: asks.
        sources: ids of the sources whose answers count.

    Attributes:
        left: how many rows lack an answer.
    """

    def __init__(
        self, job: Job, journal: Journal, planned_input: PlannedInput, asker: Asker, sources: Collection[int]
    ) -> None:
        self.left = 0
        self._job = job
        self._journal = journal
        self._input = planned_input
        self._asker = asker
        self._sources = sources
        self._waiting: deque[_Repeat] = deque()

    async def read(self) -> int:
        """Read the rows; return how many are asked.

        Raises:
            InputError: the input cannot be read, or was changed.
        """
        self._waiting += await to_the_end(asyncio.get_running_loop().run_in_executor(None, self._read))
        self.left = len(self._waiting)
        return self.left

    def _read(self) -> list[_Repeat]:
        """Read the input as far as needed; runs in a thread."""
        settings = self._job.settings
        drawn = rows_asked_again(settings, self._job.keyword, self._journal, self._input.rows, self._sources)
        wanted = {each.position: each for each in drawn if each.answers < settings.samples}
        repeats: list[_Repeat] = []
        for start, values in self._input.chunks() if wanted else ():
            for position in range(start, start + len(values)):
                again = wanted.get(position)
                if again is not None and again.result is not None:
                    question = self._input.question(position, values[position - start], again.key)
                    row = Row(position, again.key, question, None, 0)
                    repeats.append(_Repeat(row, again.result, settings.samples - again.answers))
            if len(repeats) == len(wanted):
                break
        return repeats

    async def ask_next(self) -> bool:
        """Ask the next row as often as answers are missing; return False if there is none.

        Raises:
            PoolClosed, PoolEmpty, BudgetClosed, BudgetSpent, OutputError: as `Asker.ask`.
        """
        if not self._waiting:
            return False
        row, result, missing = self._waiting.popleft()
        for _ in range(missing):
            await self._asker.ask(row, partial(self._keep, result))
        self.left -= 1
        return True

    async def _keep(self, of: int, end: End) -> Result:
        """Journal an answer beside the row's result."""
        _, request, outcome, result, is_kept = end
        outcome, result = self._journal.holdable(request, outcome, result)
        await self._journal.opined(request, outcome, result, repeats=of, is_kept=is_kept)
        if not is_kept:
            self._asker.count(outcome)
        return result

"""Puts together what a run works with: the window over its table, or batches and the passes beside them.

Invariant: nothing here waits or asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batcher.engine.batching.batches import Batches
from batcher.engine.batching.filling import Filler, Place
from batcher.engine.batching.harvesting import Harvester
from batcher.engine.batching.submitting import cancelling
from batcher.engine.canary import Canary
from batcher.engine.deadline import Deadline
from batcher.engine.passes import Passes
from batcher.engine.planned_input import PlannedInput
from batcher.engine.progress import Progress, Tally
from batcher.engine.window import Window
from batcher.errors import SettingsError
from batcher.journal.entries import Batch
from batcher.journal.writing import Journal
from batcher.money.spending import Spending
from batcher.planning.job import Job
from batcher.planning.plan import Plan
from batcher.planning.ways import takes_batches
from batcher.pool.pool import Pool
from batcher.records import Task
from batcher.words import counted

if TYPE_CHECKING:
    from batcher.calls.caller import Callers


@dataclass(frozen=True)
class Assembly:
    """A planned run, whose parts are put together."""

    job: Job
    planned: Plan
    journal: Journal
    progress: Progress
    tally: Tally

    def check_out(self, out: Sequence[Batch]) -> None:
        """Refuse to go on if batches are out at a source that is not asked any more: nobody could fetch them.

        Raises:
            SettingsError: the message names them, and what to do.
        """
        first = self.planned.first_sources
        if lost := [each for each in out if each.source not in first]:
            sources = self.journal.sources_of({each.source for each in lost})
            at = ", ".join(f"{each.model} at {each.base_url}" if each.base_url else each.model for each in sources)
            lines = counted(sum(each.requests for each in lost), "row")
            are = "is" if len(lost) == 1 else "are"
            raise SettingsError(
                f"{counted(len(lost), 'batch', 'batches')} with {lines} {are} out at {at},"
                " which is not among the endpoints of this run: add it, or give them up with"
                f" {cancelling(self.job.keyword)}"
            )

    def window(
        self,
        pool: Pool,
        spending: Spending,
        *,
        asks: bool = True,
        settles: bool = True,
        is_pass: bool = False,
        is_first: bool = False,
    ) -> Window:
        return Window(
            self.job,
            self.journal,
            self.planned,
            pool=pool,
            spending=spending,
            tally=self.tally,
            progress=self.progress,
            asks=asks,
            settles=settles,
            is_pass=is_pass,
            is_first=is_first,
        )

    def deadline(self, pool: Pool) -> Deadline | None:
        """Return what steers the run, if it shall be finished by a given time."""
        if self.job.due is None:
            return None
        deadline = Deadline(
            self.job, self.job.due, self.journal, self.planned, pool=pool, tally=self.tally, progress=self.progress
        )
        deadline.note()
        return deadline

    def _places(self, made: Callers, pool: Pool) -> list[Place]:
        """Return the endpoints that take batches, or have some out."""
        members = pool.of_tier(0)
        if self.job.due is not None and not self.job.settings.in_batches:
            out = {each.source for each in self.journal.batches(is_open=True)}
            settings = self.job.settings
            members = [each for each in members if takes_batches(each.endpoint, settings) or each.source in out]
        return [Place(member, made.batches(member.endpoint)) for member in members]

    def passes(self, made: Callers, pool: Pool, spending: Spending, deadline: Deadline | None) -> Passes:
        """Return what lets batches work, and passes over the table."""
        job, planned, progress = self.job, self.planned, self.progress
        places = self._places(made, pool)
        settings = job.settings
        canary = Canary(job.shape) if settings.canary and job.task is not Task.EMBEDDING else None
        filler = Filler(
            job,
            self.journal,
            PlannedInput(job, self.journal, planned.counts.rows),
            places,
            sources=planned.first_sources,
            others=planned.sources[len(planned.first_sources) :],
            spending=spending,
            tally=self.tally,
        )
        harvester = Harvester(
            self.journal,
            settings,
            directory=job.store.directory,
            keyword=job.keyword,
            shape=job.shape,
            read=job.read,
            scores=job.scores,
            is_one_of_several=settings.samples > 1 or planned.cut is not None,
            spending=spending,
            tally=self.tally,
            progress=progress,
            canary=canary,
        )
        batches = Batches(
            job.store,
            settings,
            self.journal,
            places,
            pool=pool,
            filler=filler,
            harvester=harvester,
            spending=spending,
            tally=self.tally,
            progress=progress,
            keeps=job.in_batches,
        )
        if deadline:
            deadline.batches = batches

        def window(*, asks: bool, settles: bool, is_first: bool = False) -> Window:
            return self.window(pool, spending, asks=asks, settles=settles, is_pass=True, is_first=is_first)

        return Passes(
            window,
            batches,
            spending=spending,
            tally=self.tally,
            progress=progress,
            grace_s=settings.grace,
            is_second=planned.cut is not None,
            deadline=deadline,
        )

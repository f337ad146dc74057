"""The window that slides over the input: workers take row after row, until no row is left or the run must stop.

Invariant: the number of rows in memory is bounded by the number of workers and witnesses, and no chunk waits for
another.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any

from batcher.calls.patience import Alarm, Patience
from batcher.engine.asking import Asker
from batcher.engine.canary import (
    WARNED,
    Canary,
    Expectation,
    first_rows_in_words,
    is_confirmed,
    may_be_asked,
    was_stopped,
)
from batcher.engine.chunks import Chunks, OpenChunk
from batcher.engine.ending import Ending
from batcher.engine.escalation import Escalation
from batcher.engine.feed import Feed, Row
from batcher.engine.hedging import Hedges
from batcher.engine.opinions import Opinions
from batcher.engine.planned_input import PlannedInput
from batcher.engine.progress import Progress, Tally
from batcher.engine.repeating import Repeats
from batcher.engine.stop import Stop, to_the_end
from batcher.errors import BatcherError
from batcher.input.selection import draw
from batcher.journal.writing import Journal
from batcher.money.budget import BudgetClosed, BudgetSpent
from batcher.money.spending import Spending, used_up
from batcher.planning.job import Job
from batcher.planning.plan import Plan, asked_by_canary
from batcher.pool.blame import History
from batcher.pool.member import SHORTEST_ROUND_S
from batcher.pool.pool import Pool, PoolClosed, PoolEmpty
from batcher.records import Result, RowState, Status, Task
from batcher.words import counted

# An answer may be in the socket's buffer already: an immediate stop still reads it.
AT_ONCE_S = 0.2
# The most rows that are asked beyond the window to find out whether an endpoint or the rows are at fault, and how far
# ahead the last of them may be.
_WITNESSES = 16
_FARTHEST = 8192
# Of the rows that are asked first, one in so many may take longer than the others.
_SLOW_SHARE = 10
# A row that waits before its next attempt stays in the window without a slot; others use the slot meanwhile.
_ROWS_PER_SLOT = 2
# The most rows whose embeddings are asked for at once, and the fewest requests for them.
_VECTORS = 8192
_FEWEST = 4


class Window:
    """One pass over what is left to ask: new rows are admitted while stragglers of older chunks are still out.

    Args:
        job: what to do.
        journal: of the run.
        planned: what is left to do.
        pool: grants the calls.
        spending: reserves and settles their cost.
        tally: counts rows and requests.
        progress: shows the tally.
        asks: rows are asked. Else those whose answers are all there get their result, and complete chunks their file.
        settles: rows get their result if all answers are there; a second endpoint is asked (`--then`).
        is_pass: one of several over the table: rows that are out, in batches, are left as they are.
        is_first: it asks the rows alone that are asked first (`--canary`).
    """

    def __init__(
        self,
        job: Job,
        journal: Journal,
        planned: Plan,
        *,
        pool: Pool,
        spending: Spending,
        tally: Tally,
        progress: Progress,
        asks: bool = True,
        settles: bool = True,
        is_pass: bool = False,
        is_first: bool = False,
    ) -> None:
        self._asks = asks
        self._settles = settles
        self._is_first = is_first
        self._tally = tally
        self._pool = pool
        self._is_embedding = job.task is Task.EMBEDDING
        self._workers_at_once = self._most_workers()
        planned_input = PlannedInput(job, journal, planned.counts.rows)
        self._journal = journal
        self._grace_s = job.settings.grace
        self._progress = progress
        self._chunks = Chunks(job, journal, planned, planned_input, progress)
        self._hedges = self._made_hedges(job.settings.hedge)
        self._askers = [
            Asker(
                job.settings,
                journal,
                shape=job.shape,
                read=job.read,
                scores=job.scores,
                tier=tier,
                pool=pool,
                spending=spending,
                tally=tally,
                progress=progress,
                hedges=self._hedges,
            )
            for tier in range(1 + (planned.cut is not None))
        ]
        self._asker = self._askers[0]
        self._planned_input = planned_input
        self._opinions = self._way_of_asking(job, planned)
        self._ask: Callable[[Row], Awaitable[Result | None]] = (self._opinions or self._asker).ask
        most_rows = self._workers_at_once * self._rows_of_worker
        self._feed = Feed(planned_input, journal, self._chunks, most_rows, self._skips if is_pass else None)
        self._repeats: Repeats | None = None
        self._workers: list[asyncio.Task[None]] = []
        self._ending = Ending()
        self._job = job
        self._sources = planned.sources
        # The vectors of embeddings cannot be looked at, and their rows share requests.
        self._canary = Canary(job.shape) if job.settings.canary and not self._is_embedding else None
        self._drawn = _drawn(job, planned) if self._canary and (is_first or not is_pass) else ()
        # Set when the rows that are asked first have shown that the others may be asked.
        self._is_cleared = asyncio.Event()
        self._closing = asyncio.Event()

    def _way_of_asking(self, job: Job, planned: Plan) -> Opinions | None:
        """Return what asks about a row several times, or a second endpoint, too; None: it is asked once."""
        cut, samples = planned.cut, job.settings.samples
        if samples == 1 and cut is None and (self._is_embedding or not self._journal.has_open_opinions()):
            return None
        beyond = None
        if cut is not None:
            has_scores = self._journal.has_scores(planned.first_sources)
            first = job.tiers.first[0].source.model
            beyond = Escalation(self._askers[1], cut, has_scores=has_scores, first=first)
        return Opinions(
            self._asker,
            self._journal,
            samples=samples,
            sources=planned.first_sources,
            shape=job.shape,
            tally=self._tally,
            beyond=beyond,
            asks=self._asks,
        )

    def _skips(self, position: int, state: RowState) -> bool:
        """Return whether this pass leaves a row without a result as it is. Runs in the thread that reads the input."""
        if state.out:
            return True
        if self._asks:
            return False
        return self._opinions is None or not self._settles or self._opinions.lacks(position, state)

    def _made_hedges(self, percentile: float | None) -> Hedges | None:
        """Make what decides on second requests, if answers after this percentile are late."""
        if percentile is None:
            return None
        shortest_s = SHORTEST_ROUND_S if any(each.distant for each in self._pool.members) else 0.0
        return Hedges(percentile, self._rows_left, lambda: self._pool.in_flight, shortest_s)

    async def work(self, stop: Stop) -> Ending:
        """Ask about every row that has no result, write every chunk that is complete, and join them.

        The workers take one row after another from the same feed. An endpoint that has never answered gets one of them
        at a time, so that a wrong key or model costs two requests.
        """

        def listen() -> None:
            self.stop(stop.requests)

        with stop.calling(listen):
            async with self._progress.showing(self._tally, self.refresh):
                await self.sweep()
            return await self.end()

    async def sweep(self) -> bool:
        """Ask about rows, and write chunks; return whether the run may go on."""
        followers = 0 if self._is_first else self._workers_at_once
        await self._supervise([self._lead(), *(self._follow() for _ in range(followers))])
        if self._job.settings.repeat_sample is not None and self._has_asked_all:
            await self._repeat()
        return not self._closing.is_set()

    async def end(self) -> Ending:
        """Join the chunks, if each row has its result, and return how that ended."""
        if self._hedges and (said := self._hedges.in_words()):
            self._progress.say(said)
        with self._ending_in_order():
            await self._journal.flush()
            if self._has_asked_all:
                await self._chunks.join()
                self._ending = Ending(is_done=True)
        return self._ending

    @property
    def _has_asked_all(self) -> bool:
        """Whether each row has its result and stands in its chunk file, and nothing stops the run."""
        return (
            self._feed.is_read
            and self._chunks.are_written
            and not self._ending.trouble
            and not (self._repeats and self._repeats.left)
        )

    async def _repeat(self) -> None:
        """Ask the rows once more that were drawn for it (`--repeat-sample`)."""
        self._repeats = Repeats(self._job, self._journal, self._planned_input, self._asker, self._sources)
        with self._ending_in_order():
            if rows := await self._repeats.read():
                self._progress.say(f"Each row has its result. Asking {counted(rows, 'row')} once more.")
                workers = max(min(self._pool.capacity * _ROWS_PER_SLOT, rows), 1)
                await self._supervise([self._follow_repeats(self._repeats) for _ in range(workers)])

    async def _follow_repeats(self, repeats: Repeats) -> None:
        with self._ending_in_order():
            while not self._closing.is_set() and await repeats.ask_next():
                pass

    def _rows_left(self) -> int:
        """Return the number of rows that have no result and are not asked."""
        return max(self._tally.left - sum(asker.awaited for asker in self._askers), 0)

    def refresh(self) -> None:
        """Bring the tally up to date."""
        self._asker.refresh(self._askers[1:])

    def widen(self) -> None:
        """Let more rows be asked at once if the pool's capacity has grown; a smaller one holds them back itself."""
        workers = self._most_workers()
        if workers > self._workers_at_once and self._at_work():
            self._feed.allow(workers * self._rows_of_worker)
            loop = asyncio.get_running_loop()
            self._workers += [loop.create_task(self._follow()) for _ in range(workers - self._workers_at_once)]
            self._workers_at_once = workers

    @property
    def _rows_of_worker(self) -> int:
        """The rows that a worker asks about at once."""
        return self._pool.size.inputs if self._is_embedding else 1

    def _most_workers(self) -> int:
        """Return the workers that find something to do; at least one, because chunks may still lack their files."""
        each = self._rows_of_worker
        most = self._pool.capacity * _ROWS_PER_SLOT
        if each > 1:  # a vector fills much memory, and a request of many rows is rarely the one that waits
            most = min(most, max(_VECTORS // each, _FEWEST))
        return max(min(most, -(-self._tally.left // each)), 1)

    async def _supervise(self, workers: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Run the workers to completion. If one fails unexpectedly, let the others finish what is in flight."""
        loop = asyncio.get_running_loop()
        self._workers = [loop.create_task(worker) for worker in workers]
        calling = [loop.create_task(self._call_witnesses(asker)) for asker in self._askers]
        try:
            # Witnesses join the workers meanwhile.
            while (others := self._at_work()) and not self._failed(calling):
                await asyncio.wait(others, return_when=asyncio.FIRST_EXCEPTION)
            if others := self._at_work():
                self._close()
                with contextlib.suppress(TimeoutError):
                    async with Patience(self._grace_s):
                        await asyncio.wait(others)
        finally:
            for worker in (*calling, *self._workers):
                worker.cancel()
            await asyncio.gather(*calling, *self._workers, return_exceptions=True)
            for asker in self._askers:
                await asker.ended()
        if failed := self._failed(calling):
            failed.result()

    def _at_work(self) -> list[asyncio.Task[None]]:
        return [worker for worker in self._workers if not worker.done()]

    def _failed(self, calling: Sequence[asyncio.Task[None]]) -> asyncio.Task[None] | None:
        """Return a task that a fault of batcher's own has ended, if there is one."""
        return next((task for task in (*calling, *self._workers) if task.done() and not _ended_well(task)), None)

    async def _lead(self) -> None:
        """Ask a few rows first; let the others follow if their answers can be used."""
        try:
            with self._ending_in_order():
                if self._canary and not await self._may_follow(self._canary):
                    self._close()
        except BaseException:
            self._close()  # first: the others must not ask what is not cleared
            raise
        finally:
            self._is_cleared.set()

    async def _may_follow(self, canary: Canary) -> bool:
        """Return whether all rows may be asked; ask a few of them first if that was not decided before."""
        if self._job.settings.retry_failed and self._tally.left:
            canary.failed_before = await to_the_end(
                asyncio.get_running_loop().run_in_executor(None, self._journal.failed_before, self._tally.rows)
            )
        if not self._drawn:
            return True
        if any(map(was_stopped, self._journal.outcomes_of_same_run())):
            self._progress.say(WARNED)
            return True
        return await self._is_well(canary)

    async def _is_well(self, canary: Canary) -> bool:
        """Ask the drawn rows, and return whether the run should go on. A few slow ones are not waited for."""
        drawn = self._with_questions_of_their_own()
        for position, result in zip(drawn, self._journal.results_at(drawn), strict=True):
            if result is not None and not self._may_be_broken(result):
                canary.see_first(position, result)
        tariffs = [member.tariff for member in self._pool.members]
        expectation = Expectation(self._job, self._journal, self._sources, tariffs)
        rows = await self._feed.early(drawn)
        loop = asyncio.get_running_loop()
        asked = [loop.create_task(self._ask_early(canary, row)) for row in rows]
        self._workers = [*self._workers, *asked]
        slow = len(asked) // _SLOW_SHARE
        while sum(not task.done() for task in asked) > slow and not self._failed_among(asked):
            await asyncio.wait([task for task in asked if not task.done()], return_when=asyncio.FIRST_COMPLETED)
        if self._failed_among(asked):
            return False
        if self._closing.is_set():
            return True  # the run is stopping, for another reason
        if (trouble := canary.verdict()) and not await self._goes_on(trouble):
            self._ending = replace(self._ending, looks_wrong=self._ending.looks_wrong or trouble)
            return False
        if canary.first:
            self.refresh()
            said = first_rows_in_words(self._job, self._tally, self._pool, canary.first, is_first_pass=self._is_first)
            for each in (said, *canary.remarks(self._tally, expectation.of([row.question.messages for row in rows]))):
                self._progress.say(each)
        return True

    def _with_questions_of_their_own(self) -> list[int]:
        """Return the rows that are asked first: in place of a drawn row that is not asked itself, its leader."""
        states = zip(self._drawn, self._journal.states_at(self._drawn), strict=True)
        return [*dict.fromkeys(position if state.leader is None else state.leader for position, state in states)]

    def _failed_among(self, tasks: Sequence[asyncio.Task[None]]) -> bool:
        return any(task.done() and not _ended_well(task) for task in tasks)

    async def _ask_early(self, canary: Canary, row: Row) -> None:
        with self._ending_in_order():
            result = await self._ask(row)
            await self._ended(row, result)
            if result and not row.question.fault:  # a row that cannot be asked says nothing of the answers
                canary.see_first(row.position, result)

    def _may_be_broken(self, result: Result) -> bool:
        """Return whether a row that ended in an earlier process may be a line that is no request."""
        return self._job.settings.requests and result.status is Status.ERROR

    async def _goes_on(self, trouble: str) -> bool:
        """Return whether a person at a terminal wants the run to go on although its answers cannot be used."""
        if not may_be_asked(self._job.settings):
            return False
        with self._progress.standing_still():
            self._progress.say(trouble, "warning")
            return await is_confirmed("Go on all the same?", self._closing)

    async def _follow(self) -> None:
        await self._is_cleared.wait()
        with self._ending_in_order():
            if self._is_embedding:
                await self._follow_in_batches()
                return
            while (item := self._feed.at_hand() or await self._feed.next()) is not None:
                await self._do(item)

    async def _follow_in_batches(self) -> None:
        """Ask about rows that share requests, one request after the other."""
        while (item := await self._feed.next_few(self._pool.size)) is not None:
            if isinstance(item, OpenChunk):
                await self._chunks.write(item)
            else:
                await self._do_rows(item)

    async def _do_rows(self, rows: Sequence[Row], before: History | None = None) -> None:
        """Ask about rows together; in halves, if one of them may be the reason that the others get no answer."""
        results = await self._asker.ask_together(rows, before)
        if isinstance(results, History):
            self.widen()  # more requests with fewer rows may be sent at once now
            middle = (len(rows) + 1) // 2
            await _all_of(self._do_rows(rows[:middle], results), self._do_rows(rows[middle:], results))
            return
        for row in rows:
            await self._close_chunks(row)

    async def _close_chunks(self, row: Row) -> None:
        """Write the chunks that lack only their files now that a row has its result."""
        for chunk in self._feed.finished_by(row):
            await self._chunks.write(chunk)

    async def _call_witnesses(self, asker: Asker) -> None:
        """While an endpoint that it asks may be at fault, ask rows from further and further on in the input."""
        witnesses: list[asyncio.Task[None]] = []
        ahead = 1
        with self._ending_in_order():
            while True:
                await asker.lacks_witness.wait()
                asker.lacks_witness.clear()
                witnesses = [each for each in witnesses if not each.done()]
                ahead = min(2 * ahead, _FARTHEST) if witnesses else 1
                if len(witnesses) >= _WITNESSES:
                    continue
                while (row := await self._feed.witness(ahead)) is None and self._reaches_on(ahead):
                    ahead *= 2
                # Its own failure shows the same as the lack of a row beyond it.
                asker.has_no_witness = row is None or not self._feed.holds(ahead)
                if row is not None:
                    witnesses.append(asyncio.get_running_loop().create_task(self._testify(row)))
                    self._workers = [*(each for each in self._workers if not _ended_well(each)), witnesses[-1]]

    def _reaches_on(self, ahead: int) -> bool:
        return ahead < _FARTHEST and self._feed.holds(ahead)

    async def _testify(self, row: Row) -> None:
        with self._ending_in_order():
            await self._do(row)

    async def _do(self, item: Row | OpenChunk) -> None:
        """Ask about a row, or write a chunk's file."""
        if isinstance(item, OpenChunk):
            await self._chunks.write(item)
            return
        result = await self._ask(item)
        await self._ended(item, result)
        if result and self._canary and (trouble := self._canary.see(item.position, result)):
            self._ending = replace(self._ending, looks_wrong=self._ending.looks_wrong or trouble)
            self._close()

    async def _ended(self, row: Row, result: Result | None) -> None:
        """Write the chunks that lack only their files now that a row was asked; None: it has no result."""
        if result is None:
            self._feed.leave(row)
        else:
            await self._close_chunks(row)

    # -- Stopping

    @contextlib.contextmanager
    def _ending_in_order(self) -> Iterator[None]:
        """End the run in order when an error, the budget or the pool stops it: requests in flight may still arrive."""
        try:
            yield
        except (PoolClosed, PoolEmpty, BudgetClosed):
            self._close()
        except BudgetSpent as end:
            self._ending = replace(self._ending, out_of_money=used_up(end))
            self._close()
        except BatcherError as error:
            self._ending = replace(self._ending, trouble=self._ending.trouble or error)
            self._close()

    def _close(self) -> None:
        self._closing.set()
        self._feed.close()
        for asker in self._askers:
            asker.close()

    def stop(self, requests: int) -> None:
        """Act on a request to stop: the first time wait for what is in flight, the second time end at once."""
        seconds = self._grace_s if requests == 1 else 0.0
        if seconds and self._pool.in_flight:
            self._progress.say(
                f"Stopping: waiting up to {seconds:g} s for {counted(self._pool.in_flight, 'request')} in flight;"
                " once more stops at once."
            )
        self._close()
        Alarm(max(seconds, AT_ONCE_S), self._cancel)

    def _cancel(self) -> None:
        self._close()
        for worker in self._workers:
            worker.cancel()


async def _all_of(*works: Coroutine[Any, Any, None]) -> None:
    """Do several things to their ends, at the same time, and raise the first error only then."""
    tasks = [asyncio.get_running_loop().create_task(work) for work in works]
    try:
        await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in filter(None, ended):
        raise error


def _drawn(job: Job, planned: Plan) -> Sequence[int]:
    """Return the positions of the rows that are asked first; none if the run is nearly done, or short, or past that."""
    count = asked_by_canary(job.settings, planned.counts)
    return draw(job.keyword, count, planned.counts.rows) if count else ()


def _ended_well(task: asyncio.Task[None]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is None)

"""The window that slides over the input: ask about every row that is left, save what comes. The only loop of calls.

Invariant: a row is counted, written to a file or told to anyone only when the journal has its result.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from batcher.answer.reading import read
from batcher.calls.patience import Alarm, Patience
from batcher.calls.retry import Decision, Fate, Policy, Record, decide
from batcher.engine.progress import Progress, Tally
from batcher.engine.stop import Stop, to_the_end
from batcher.errors import BatcherError, InputError, OutputError
from batcher.input.key import keyer
from batcher.input.marks import Marks
from batcher.journal.journal import UNSENT, Chunk, Journal, Outcome, Request
from batcher.money.account import Account
from batcher.money.budget import BudgetClosed, BudgetSpent
from batcher.money.tokens import Estimator
from batcher.output.directory import FileState
from batcher.planning.job import Job, chunks_of
from batcher.planning.plan import Plan
from batcher.pool.pool import Member, Permit, Pool, PoolClosed, PoolEmpty
from batcher.records import Bound, Completion, Failure, Message, Result, RowState, Slice, Status, Usage, Values
from batcher.words import dollars, duration

GRACE_S = 30.0
"""Seconds that requests in flight have to arrive after the first Ctrl-C."""

# An answer may lie in the socket's buffer already: "at once" still reads it.
_AT_ONCE_S = 0.2
# So many rows go alone at most. If all of them are refused in the same words, the request is wrong, not the rows.
_REFUSALS = 3
_SHORTEST_TIMEOUT_S = 0.001
# A row that waits before its next attempt stays in the window without a slot; others use the slot meanwhile.
_ROWS_PER_SLOT = 2
_ROWS_AT_ONCE = 500


class OpenChunk:
    """A chunk whose file is still to be written.

    Attributes:
        start: the position of its first row.
        lines: the input's part of each line of its file.
        pending: rows of it that have no result yet.
    """

    __slots__ = ("lines", "pending", "start")

    def __init__(self, start: int, lines: list[str], pending: int) -> None:
        self.start = start
        self.lines = lines
        self.pending = pending

    @property
    def stop(self) -> int:
        return self.start + len(self.lines)


class Asked(NamedTuple):
    """A row to be asked about, for itself and so many followers."""

    position: int
    key: bytes
    messages: list[Message]
    chunk: OpenChunk
    followers: int


class _Row(NamedTuple):
    """A row that has been read and has no result yet."""

    position: int
    values: Values
    state: RowState
    chunk: OpenChunk


class _Unsent(NamedTuple):
    """An attempt that was not made: its endpoint began to rest, or left, while the intent was being committed."""

    member: Member


class _Answered(NamedTuple):
    """An attempt that brought an answer, and what that cost."""

    member: Member
    request: Request
    completion: Completion
    cost: int | None


class _Failed(NamedTuple):
    """An attempt that brought none: how it ended, what the row has been through, and what comes of it."""

    member: Member
    request: Request
    outcome: Outcome
    record: Record
    decision: Decision


class Window:
    """One pass over what is left to ask: the next rows are admitted while stragglers of older chunks are still out.

    Attributes:
        job, pool, account: what it works with.
        tally: its counters.
        trouble: what ended it early, if it was not the user.
        out_of_money: in words, that the budget ended it early; else empty.
        is_done: every row has its result, and all of them are joined.
    """

    trouble: BatcherError | None = None
    out_of_money = ""
    is_done = False
    _is_read = False
    _unwritten = 0
    _led_rows = 0
    _width = 1
    _resting = 0
    _last_reason = ""

    def __init__(
        self, job: Job, journal: Journal, planned: Plan, *, pool: Pool, account: Account, progress: Progress
    ) -> None:
        rows, ok, invalid, error = planned.counts
        self.tally = Tally(rows=rows, ok=ok, invalid=invalid, error=error)
        self.job = job
        self._journal = journal
        self.pool = pool
        self.account = account
        self._progress = progress
        self._policy = Policy(job.settings.max_attempts, job.settings.deadline)
        self._loop = asyncio.get_running_loop()
        self._written = journal.chunks()
        self._intact = planned.intact
        self._marks = Marks(job.dataset.columns)
        self._key = keyer(job.settings.params)
        self._starts: list[int] = []
        self._parts = self._read()
        self._ready: collections.deque[_Row | OpenChunk] = collections.deque()
        # Of each row that is being asked for others as well: the chunks of those that have been read.
        self._led: dict[int, list[OpenChunk]] = {}
        self._led_changed = asyncio.Event()
        self._reading = asyncio.Lock()
        pool.rows_left = lambda: self.tally.rows - self.tally.done
        pool.tell = self._tell_of_pause
        self._estimator = Estimator(job.settings.params)
        pool.answer_tokens = self._estimator.answer
        self._implausible: set[Member] = set()
        # When each request that is under way began; the oldest one first.
        self._under_way: dict[int, float] = {}
        self._workers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    async def work(self, stop: Stop) -> None:
        """Ask about every row that has no result, write every chunk that is complete, and join them.

        The first row goes alone, so that a wrong key or model costs one request. Then as many workers as the window
        is wide take one row after another from the same queue: no more rows than that are in memory as tasks, and no
        chunk waits for another.
        """

        def hear() -> None:
            self._hear(stop.wishes)

        with stop.heard_by(hear):
            async with self._progress.showing(self.tally, self._refresh):
                await self._supervise([self._lead()])
                rows_left = self.tally.rows - self.tally.done
                # One at least: where no row is left, chunks may still lack their files.
                self._width = max(min(self.pool.capacity * _ROWS_PER_SLOT, rows_left), 1)
                await self._supervise([self._follow() for _ in range(self._width)])
            with self._ending_gently():
                await self._journal.flush()
                if self._is_read and not self._unwritten and not self.trouble:
                    await self._finish(self._join())
                    self.is_done = True

    # -- Workers

    async def _supervise(self, workers: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Let the workers work to their end; where one fails for no reason that we know, so far as others must."""
        self._workers = [self._loop.create_task(worker) for worker in workers]
        try:
            done, others = await asyncio.wait(self._workers, return_when=asyncio.FIRST_EXCEPTION)
            if others:
                self._close_pool()
                with contextlib.suppress(TimeoutError):
                    async with Patience(GRACE_S):
                        await asyncio.wait(others)
        finally:
            for worker in self._workers:
                worker.cancel()
            await asyncio.gather(*self._workers, return_exceptions=True)
        for worker in done:
            if not worker.cancelled():
                worker.result()

    async def _lead(self) -> None:
        """Ask about the first row alone; where it is refused, about the next ones, and end where all say the same."""
        refusals: list[str] = []
        with self._ending_gently():
            while (item := await self._next()) is not None:
                result = await self._do(item, alone=True)
                if result is None:
                    continue
                if result.status is not Status.ERROR:
                    return
                refusals.append(result.error)
                if len(refusals) == _REFUSALS:
                    break
            if len(refusals) == _REFUSALS and len(set(refusals)) == 1 and self.tally.done < self.tally.rows:
                for member in self.pool.members:
                    self.pool.put_out(member, f"the first {_REFUSALS} rows all ended so: {refusals[0]}")

    async def _follow(self) -> None:
        with self._ending_gently():
            while (item := await self._next()) is not None:
                await self._do(item)

    @contextlib.contextmanager
    def _ending_gently(self) -> Iterator[None]:
        """Turn what stops the run into its orderly end: what is in flight may still arrive."""
        try:
            yield
        except (PoolClosed, PoolEmpty, BudgetClosed):
            self._close_pool()
        except BudgetSpent as end:
            self.out_of_money = (
                f"the budget is used up: the next request may cost {dollars(end.needed)}, and"
                f" {dollars(max(end.left, 0))} are left. Raise --budget to go on"
            )
            self._close_pool()
        except BatcherError as error:
            self.trouble = self.trouble or error
            self._close_pool()

    def _close_pool(self) -> None:
        self._stopping.set()
        self._led_changed.set()
        self.pool.close()
        self.account.close()

    def _hear(self, wishes: int) -> None:
        """Act on a wish to stop: the first time wait for what is in flight, the second time end at once."""
        if wishes == 1:
            self._progress.say(
                f"Stopping: waiting up to {GRACE_S:.0f} s for {self.pool.in_flight} requests in flight;"
                " once more stops at once."
            )
            self._close_pool()
            Alarm(GRACE_S, self._cancel_workers)
        elif wishes > 1:
            self._close_pool()
            Alarm(_AT_ONCE_S, self._cancel_workers)

    def _cancel_workers(self) -> None:
        self._close_pool()
        for worker in self._workers:
            worker.cancel()

    def _refresh(self) -> None:
        """Bring up to date what the bar shows beside the counters."""
        self.tally.in_flight = self.pool.in_flight
        self.tally.oldest_s = self._loop.time() - next(iter(self._under_way.values()), self._loop.time())
        if cooling := self.pool.cooling():
            self.tally.waiting_for = f"{self._last_reason}: again in {duration(cooling)}"
        elif self._resting:
            self.tally.waiting_for = f"{self._resting:,} to try again ({self._last_reason})"
        else:
            self.tally.waiting_for = ""

    def _tell_of_pause(self, member: Member, since: float, why: str) -> None:
        """Tell people and the journal that an endpoint answers nobody, or answers again."""
        seconds = self._loop.time() - since
        if why:
            self._progress.say(
                f"Paused: {member.label} has answered nothing for {duration(seconds)} ({why}). Its rows wait and lose"
                " no attempt; it is asked again once a minute or more often."
            )
            self._journal.note("paused", member.label, why)
        else:
            self._progress.say(f"Going on: {member.label} answers again, after {duration(seconds)}.")
            self._journal.note("resumed", member.label)

    def _tell_of_usage(self, member: Member, usage: Usage) -> None:
        """Note each answer that is said to have used more than any call can; tell people of an endpoint's first one."""
        if not usage.implausible:
            return
        self._journal.note("implausible usage", member.label, usage.implausible)
        if member not in self._implausible:
            self._implausible.add(member)
            self._progress.say(
                f"{member.label} says that an answer used {usage.implausible}, more than any call can. batcher charges"
                " the maximum for such a request."
            )

    def _estimate(self, messages: Sequence[Message]) -> float | None:
        """Return the model tokens that a prompt is likely to have, where a limit asks for them."""
        return self._estimator.prompt(messages) if self.pool.counts_tokens else None

    # -- Rows

    async def _next(self) -> Asked | OpenChunk | None:
        """Return a row that has no result, or a chunk that lacks only its file; None at the end of the input.

        The input is read in a thread, a chunk at a time: a long stretch of finished chunks does not hold up the loop.
        """
        if (row := self._plain_row()) is not None:
            return self._asked(row)
        async with self._reading:
            while True:
                if not self._ready and not await self._read_on():
                    return None
                if not self._ready:
                    continue
                item = self._ready.popleft()
                if isinstance(item, OpenChunk):
                    return item
                if item.state.leader is None:
                    return self._asked(item)
                if await self._is_complete_with(item, item.state.leader):
                    return item.chunk

    def _plain_row(self) -> _Row | None:
        """Take the next row if it needs but to be asked: past the lock, which lets one pass in a turn of the loop."""
        if self._ready and isinstance(row := self._ready[0], _Row) and row.state.leader is None:
            self._ready.popleft()
            return row
        return None

    def _asked(self, row: _Row) -> Asked:
        position, values, state, chunk = row
        if state.followers:
            self._led[position] = []
        return Asked(position, state.key, self._messages(position, values, state.key), chunk, state.followers)

    async def _is_complete_with(self, row: _Row, leader: int) -> bool:
        """Let a row wait for the one that is asked in its place; tell whether that completes its chunk."""
        self._messages(row.position, row.values, row.state.key)
        # Rows that wait count as the window's own, or their chunks would fill the memory behind one slow answer.
        while self._led_rows >= self._width and leader in self._led and not self._stopping.is_set():
            self._led_changed.clear()
            await self._led_changed.wait()
        if leader in self._led:
            self._led[leader].append(row.chunk)
            self._led_rows += 1
            return False
        # It stands before this row: it is no longer asked, so it has its result, and this row has it as well.
        row.chunk.pending -= 1
        return not row.chunk.pending

    async def _read_on(self) -> bool:
        """Read as many rows as the window is wide, whole chunks of them; tell whether there were any."""
        if self._stopping.is_set():
            return False
        read = await to_the_end(self._loop.run_in_executor(None, self._next_chunks))
        self._ready += read
        return bool(read)

    def _next_chunks(self) -> list[_Row | OpenChunk]:
        """Read on; runs in a thread, and small chunks do not each cost the way there and back."""
        found: list[_Row | OpenChunk] = []
        for part in self._parts:
            found += part
            if len(found) >= min(self._width, _ROWS_AT_ONCE) or self._stopping.is_set():
                break
        return found

    def _read(self) -> Iterator[list[_Row | OpenChunk]]:
        """Read the input once more: yield, chunk by chunk, what there is to do; runs in a thread."""
        settings = self.job.settings
        end = 0
        for start, rows in self._slices(settings.chunk_size, settings.limit):
            end = start + len(rows)
            states = self._journal.states(start, end)
            if len(states) != len(rows):
                raise self._input_changed(start + len(states))
            chunk = OpenChunk(start, self.job.store.lines(rows), sum(state.result is None for state in states))
            self._starts.append(start)
            if chunk.pending or not self._is_written(chunk, states):
                self._unwritten += 1
                yield self._part(chunk, rows, states)
            else:
                yield []
        if end != self.tally.rows:
            raise self._input_changed(end)
        self._is_read = True

    def _slices(self, size: int, limit: int | None) -> Iterator[Slice]:
        """Read the input; if it has become unreadable, say that it was changed."""
        try:
            yield from self.job.dataset.slices(size, limit)
        except InputError as error:
            if self.job.dataset.has_changed():
                raise self._replaced() from error
            raise

    def _replaced(self) -> InputError:
        name, result = self.job.dataset.name, self.job.store.all_path.name
        return InputError(
            f"{name} was changed while the run worked, so {result} is not made of it."
            " What arrived is saved; run it again"
        )

    def _part(self, chunk: OpenChunk, rows: Sequence[Values], states: Sequence[RowState]) -> list[_Row | OpenChunk]:
        """Return what there is to do for a chunk that is not written."""
        part: list[_Row | OpenChunk] = []
        planned = self._journal.marks(chunk.start, chunk.stop)
        for position, (values, state, marks) in enumerate(zip(rows, states, planned, strict=True), chunk.start):
            if self._marks.of(values) != marks:  # also in a column that the question does not read
                raise self._input_changed(position)
            if state.result is None:
                part.append(_Row(position, values, state, chunk))
            else:  # the file will hold this row as it reads now, beside the answer that it had
                self._messages(position, values, state.key)
        return part if chunk.pending else [chunk]

    def _messages(self, position: int, values: Values, planned_key: bytes) -> list[Message]:
        """Make a row's messages once more.

        Raises:
            InputError: they are not those of the plan.
        """
        messages = self.job.messages(position, values)
        if self._key(messages) != planned_key:
            raise self._input_changed(position)
        return messages

    def _input_changed(self, position: int) -> InputError:
        return InputError(
            f"{self.job.dataset.where(position)} is not what it was when the run began. Was the input changed, or"
            " does the prompt function not always return the same? What arrived is saved; run it again"
        )

    async def _do(self, item: Asked | OpenChunk, *, alone: bool = False) -> Result | None:
        """Ask about a row and return its result, or write a chunk's file."""
        if isinstance(item, OpenChunk):
            await self._finish(self._write(item))
            return None
        result = await self._ask(item, alone=alone)
        for chunk in (item.chunk, *self._followers_of(item)):
            chunk.pending -= 1
            if not chunk.pending:
                await self._finish(self._write(chunk))
        return result

    def _followers_of(self, row: Asked) -> list[OpenChunk]:
        """Return the chunks of the rows that have waited for this one, and let go of them."""
        chunks = self._led.pop(row.position, [])
        self._led_rows -= len(chunks)
        self._led_changed.set()
        return chunks

    async def _ask(self, row: Asked, *, alone: bool) -> Result:
        """Make attempts at a row until it has its result.

        Raises:
            PoolClosed, PoolEmpty, BudgetClosed, BudgetSpent: it has none, because the run is stopping.
        """
        record = Record()
        after: Member | None = None
        while True:
            attempt = await self._attempt(row, record, after, alone=alone)
            after = attempt.member
            if isinstance(attempt, _Unsent):
                continue
            if isinstance(attempt, _Answered):
                outcome = Outcome("answered", attempt.completion.usage, attempt.cost)
                return await self._settle(row, attempt.request, read(attempt.completion), outcome)
            decision = attempt.decision
            if decision.fate is Fate.ROW_ENDS:
                ended = Result(Status.ERROR, "", decision.reason)
                return await self._settle(row, attempt.request, ended, attempt.outcome)
            self._journal.failed(attempt.request, attempt.outcome)
            if decision.fate is Fate.ENDPOINT_OUT:
                record = Record()
            else:
                record = attempt.record
                self._last_reason = decision.short
                await self._pause(decision.wait_s)

    async def _attempt(
        self, row: Asked, record: Record, after: Member | None, *, alone: bool
    ) -> _Answered | _Failed | _Unsent:
        """Find money and an endpoint for a row's request, and send it."""
        reserved = await self.account.reserve(row.messages)
        cost: int | None = 0
        try:
            permit = await self.pool.take(after=after, tokens=self._estimate(row.messages))
            member = permit.member
            try:
                bound = self.account.tariffs[member.number].bound(row.messages)
                request = await self._journal.sent(row.position, row.key, member.number, member.source, bound)
                if not self.pool.leave(permit):
                    self._journal.failed(request, Outcome(UNSENT, cost=0))
                    return _Unsent(member)
                self.tally.sent += 1
                self.tally.retries += after is not None
                cost = bound.cost  # until it is known
                attempt = await self._call(row, request, permit, record, bound, alone=alone)
                cost = attempt.cost if isinstance(attempt, _Answered) else attempt.outcome.cost
                return attempt
            finally:
                # Not before a failure is judged, or the next row would go to an endpoint that has asked for a rest.
                self.pool.give_back(permit)
        finally:
            self.account.settle(reserved, cost)

    async def _call(
        self, row: Asked, request: Request, permit: Permit, record: Record, bound: Bound, *, alone: bool
    ) -> _Answered | _Failed:
        """Send a request that is in the journal, and let its endpoint bear what comes of it."""
        settings = self.job.settings
        timeout = max(min(settings.timeout, settings.deadline - record.in_flight_s), _SHORTEST_TIMEOUT_S)
        member = permit.member
        began = self._under_way[request.id] = self._loop.time()
        try:
            came = await member.caller.call(row.messages, timeout)
        finally:
            del self._under_way[request.id]
        self.pool.hear(permit, came)
        if isinstance(came, Completion):
            self._estimator.learn(came.usage)
            self._tell_of_usage(member, came.usage)
            return _Answered(member, request, came, self.account.tariffs[member.number].cost(came, bound))
        # The first row is nobody's proof that the service is there at all.
        is_silent = not alone and self.pool.is_silent(member, came)
        # What is beyond the timeout is time in which this process stood still.
        seconds = min(self._loop.time() - began, timeout)
        record = record.after(came, seconds, is_silent=is_silent)
        decision = self._judge(came, record, member, alone=alone)
        billed = bound.cost if came.may_be_billed or bound.cost is None else 0
        return _Failed(member, request, Outcome(str(came.status or came.fault.value), cost=billed), record, decision)

    def _judge(self, failure: Failure, record: Record, member: Member, *, alone: bool) -> Decision:
        """Decide what a failed attempt leads to, and let its endpoint rest or leave."""
        decision = decide(failure, record, self._policy, random.random())  # noqa: S311 - spreads waits, guards nothing
        if decision.gave_up and alone:
            # A service that cannot do even the first row is of no use to the others.
            decision = replace(decision, fate=Fate.ENDPOINT_OUT)
        if decision.fate is Fate.ENDPOINT_OUT:
            # Of the last one, the end of the run says the same.
            if self.pool.put_out(member, decision.reason) and self.pool.capacity:
                self._progress.say(f"{member.label} leaves the pool: {decision.reason}")
            return decision
        if alone and decision.fate is Fate.AGAIN:
            self._progress.say(f"The first row: {decision.reason}; trying again.")
        return decision

    async def _settle(self, row: Asked, request: Request, result: Result, outcome: Outcome) -> Result:
        """Journal a row's result, and count it only then."""
        result = await self._journal.settled(request, outcome, result, followers=row.followers > 0)
        self.tally.prompt_tokens += outcome.usage.prompt_tokens or 0  # the tally is of what servers have said
        self.tally.completion_tokens += outcome.usage.completion_tokens or 0
        self.tally.count(result.status, 1 + row.followers)
        if outcome.name == "answered":  # and so paid, whatever became of the row
            self.account.count(outcome.cost)
        return result

    async def _pause(self, seconds: float) -> None:
        """Let a row wait; it holds no slot, and does not keep the run from stopping."""
        if not seconds:
            return
        self._resting += 1
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
        finally:
            self._resting -= 1

    # -- Files

    def _is_written(self, chunk: OpenChunk, states: Sequence[RowState]) -> bool:
        """Tell whether the chunk's file is there and says what the journal says, or what somebody made of that."""
        written = self._written.get(chunk.start)
        if written is None or written.origin != self.job.store.origin(chunk.lines, states):
            return False
        if chunk.start in self._intact:
            return True
        state = self.job.store.state(chunk.start, written.rows, written.sha256)
        return state in {FileState.INTACT, FileState.EDITED}

    async def _finish(self, writing: Coroutine[Any, Any, None]) -> None:
        """Write to the end even when cancelled: a thread goes on anyway, and must not do so after the run."""
        await to_the_end(self._loop.create_task(writing))

    async def _write(self, chunk: OpenChunk) -> None:
        """Write a chunk's file from the journal, and say so in the journal, before and after."""
        if chunk.start not in self._written:
            await self._journal.chunk_begun(chunk.start)
        record, copy = await self._loop.run_in_executor(None, self._write_file, chunk)
        await self._journal.chunk_written(chunk.start, record)
        self._written[chunk.start] = record
        self._unwritten -= 1
        self._tell_of(copy)

    def _write_file(self, chunk: OpenChunk) -> tuple[Chunk, Path | None]:
        """Do the part of `_write` that would hold up the loop; runs in a thread."""
        states = self._journal.states(chunk.start, chunk.stop)
        results = self._journal.results(chunk.start, chunk.stop)
        written = self._written.get(chunk.start)
        store = self.job.store
        self._journal.check_in_place()  # the directory may have gone, and another one may stand in its place
        sha256, copy = store.write_chunk(chunk.start, chunk.lines, results, written and written.sha256)
        return Chunk(len(results), store.origin(chunk.lines, states), sha256), copy

    async def _join(self) -> None:
        """Remove the chunk files that are no part of the result any more, and join the others."""
        self._journal.check_in_place()
        for start in (self._written.keys() | self.job.store.starts()) - set(self._starts):
            written = self._written.get(start)
            self._tell_of(self.job.store.remove_chunk(start, written and written.sha256))
            await self._journal.chunk_removed(start)
        await self._loop.run_in_executor(None, self._join_files)

    def _join_files(self) -> None:
        """Join the chunk files, if they and the input are still what they were; runs in a thread.

        Raises:
            InputError: the input was changed meanwhile.
            OutputError: the input's cells were changed in a chunk file meanwhile, or it is gone.
        """
        store = self.job.store
        changed = {start for start in self._starts if store.sha256(start) != self._written[start].sha256}
        for start in sorted(changed):
            if not store.chunk_path(start).exists():
                raise OutputError(
                    f"{store.chunk_path(start)} was removed while the run worked: run it again, to make it anew"
                )
        for start, rows in chunks_of(self.job, changed):
            if not store.check_cells(start, rows):
                raise OutputError(
                    f"{store.chunk_path(start)} was changed while the run worked, and is no longer whole: move it away,"
                    " and the next run makes it anew from the journal"
                )
        if self.job.dataset.has_changed():
            self._compare_input()
        store.join(self._starts)

    def _compare_input(self) -> None:
        """Read the input once more: its file may only have been touched, or copied over itself.

        Raises:
            InputError: it is not what it was.
        """
        settings, end = self.job.settings, 0
        for start, rows in self._slices(settings.chunk_size, settings.limit):
            end = start + len(rows)
            planned = self._journal.marks(start, end)
            for position, (values, marks) in enumerate(zip(rows, planned, strict=False), start):
                if self._marks.of(values) != marks:
                    raise self._input_changed(position)
        if end != self.tally.rows:
            raise self._replaced()

    def _tell_of(self, copy: Path | None) -> None:
        if copy:
            self._progress.say(
                f"A chunk file that somebody had changed is made anew; the changed one is kept as {copy},"
                " and what was corrected in it is not in the result."
            )

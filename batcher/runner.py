"""The run: ask about every row that is left, save what comes, stop when told. The only loop that calls a model.

Invariant: a row is counted, written to a file or told to anyone only when the journal has its result.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import random
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from batcher import plan
from batcher.answer import read
from batcher.config import OFFLINE, Options, Settings
from batcher.errors import BatcherError, EndpointsLost, InputError, Interrupted, RunStopped
from batcher.identity import keyer
from batcher.journal import Chunk, Journal, Outcome, Request
from batcher.pool import Member, Pool, PoolClosed, PoolEmpty
from batcher.progress import Progress, Tally, duration
from batcher.prompt import PromptFunction
from batcher.records import Completion, EndpointCount, Failure, Message, Report, Result, Status, Usage
from batcher.retry import Fate, Policy, Record, decide
from batcher.serve import embedded
from batcher.store import FileState

if TYPE_CHECKING:
    import os

    import pandas as pd

    from batcher.caller import Callers

    Data = str | os.PathLike[str] | pd.DataFrame | pd.Series[Any] | list[str]

GRACE_S = 30.0
"""Seconds that requests in flight have to arrive after the first Ctrl-C."""

_GO_ON = "everything that arrived is saved, and the same command goes on"
_NO_USAGE = Usage()
_SHORTEST_TIMEOUT_S = 0.001
# A row that waits before its next attempt stays in the window without a slot; others use the slot meanwhile.
_ROWS_PER_SLOT = 2


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
    """A row to be asked about."""

    position: int
    key: bytes
    messages: list[Message]
    chunk: OpenChunk


class _Attempt(NamedTuple):
    """An attempt that was made: its request, what came of it, and the seconds it was in flight."""

    request: Request
    outcome: Completion | Failure
    seconds: float


class Run:
    """One pass over what is left to ask.

    Attributes:
        tally: its counters.
        trouble: what ended it early, if it was not the user.
        is_done: every row has its result, and all of them are joined.
    """

    def __init__(self, job: plan.Job, journal: Journal, planned: plan.Plan, pool: Pool, progress: Progress) -> None:
        rows, ok, invalid, error = planned.counts
        self.tally = Tally(rows=rows, ok=ok, invalid=invalid, error=error)
        self.trouble: BatcherError | None = None
        self._job = job
        self._journal = journal
        self._pool = pool
        self._progress = progress
        self._policy = Policy(job.settings.max_attempts, job.settings.deadline)
        self._loop = asyncio.get_running_loop()
        self._written = journal.chunks()
        self._starts: list[int] = []
        self._workers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._last_reason = ""
        self.is_done = False

    async def work(self, stop: Stop) -> None:
        """Ask about every row that has no result, write every chunk that is complete, and join them.

        The first row goes alone, so that a wrong key or model costs one request. Then as many workers as the window
        is wide take one row after another from the same iterator: no more rows than that are in memory as tasks, and
        no chunk waits for another.
        """
        items = self._items()

        def hear() -> None:
            self._hear(stop.wishes)

        with stop.heard_by(hear):
            async with self._progress.showing(self.tally, self._refresh):
                await self._supervise([self._lead(items)])
                rows_left = self.tally.rows - self.tally.done
                width = min(self._pool.capacity * _ROWS_PER_SLOT, rows_left)
                await self._supervise([self._follow(items) for _ in range(width)])
            await self._journal.flush()
            if self.tally.done == self.tally.rows and not self.trouble:
                await self._join()
                self.is_done = True

    # -- Workers

    async def _supervise(self, workers: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Let the workers work; one that fails for no reason that we know ends all of them."""
        if not workers:
            return
        self._workers = [self._loop.create_task(worker) for worker in workers]
        try:
            done, _ = await asyncio.wait(self._workers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for worker in self._workers:
                worker.cancel()
            await asyncio.gather(*self._workers, return_exceptions=True)
        for worker in done:
            if not worker.cancelled():
                worker.result()

    async def _lead(self, items: Iterator[Asked | OpenChunk]) -> None:
        with self._ending_gently():
            for item in items:
                await self._do(item, alone=True)
                if isinstance(item, Asked):
                    return

    async def _follow(self, items: Iterator[Asked | OpenChunk]) -> None:
        with self._ending_gently():
            for item in items:
                await self._do(item)

    @contextlib.contextmanager
    def _ending_gently(self) -> Iterator[None]:
        """Turn what stops the run into its orderly end: what is in flight may still arrive."""
        try:
            yield
        except (PoolClosed, PoolEmpty):
            self._close_pool()
        except BatcherError as error:
            self.trouble = self.trouble or error
            self._close_pool()

    def _close_pool(self) -> None:
        self._stopping.set()
        self._pool.close()

    def _hear(self, wishes: int) -> None:
        """Act on a wish to stop: the first time let come what is in flight, the second time stop at once."""
        if wishes == 1 and not self._stopping.is_set():
            self._progress.say(
                f"Stopping: waiting up to {GRACE_S:.0f} s for {self._pool.in_flight} requests in flight;"
                " once more stops at once."
            )
            self._close_pool()
            self._loop.call_later(GRACE_S, self._cancel_workers)
        elif wishes > 1:
            self._cancel_workers()

    def _cancel_workers(self) -> None:
        self._close_pool()
        for worker in self._workers:
            worker.cancel()

    def _refresh(self) -> None:
        self.tally.in_flight = self._pool.in_flight
        cooling = self._pool.cooling()
        if cooling:
            self.tally.waiting_for = f"{self._last_reason}: again in {duration(cooling)}"
        else:
            nothing_yet = not self.tally.answered and self._last_reason
            self.tally.waiting_for = f"{self._last_reason}, trying again" if nothing_yet else ""

    # -- Rows

    def _items(self) -> Iterator[Asked | OpenChunk]:
        """Read the input once more: yield each row that has no result, and each chunk that lacks only its file."""
        settings = self._job.settings
        key = keyer(settings.params)
        for start, rows in self._job.dataset.slices(settings.chunk_size, settings.limit):
            states = self._journal.states(start, start + len(rows))
            if len(states) != len(rows):
                raise self._input_changed(start)
            chunk = OpenChunk(start, self._job.store.lines(rows), sum(result is None for _, result in states))
            self._starts.append(start)
            if not chunk.pending and not self._is_written(chunk, states):
                yield chunk
            for position, (values, (planned_key, result)) in enumerate(zip(rows, states, strict=True), start):
                if result is None:
                    messages = self._job.messages(position, values)
                    if key(messages) != planned_key:
                        raise self._input_changed(position)
                    yield Asked(position, planned_key, messages, chunk)

    def _input_changed(self, position: int) -> InputError:
        return InputError(
            f"{self._job.dataset.where(position)} is not what it was when the run began. Was the input changed, or"
            " does the prompt function not always return the same? What arrived is saved; run it again"
        )

    async def _do(self, item: Asked | OpenChunk, *, alone: bool = False) -> None:
        if isinstance(item, OpenChunk):
            await self._write(item)
            return
        await self._ask(item, alone=alone)
        item.chunk.pending -= 1
        if not item.chunk.pending:
            await self._write(item.chunk)

    async def _ask(self, row: Asked, *, alone: bool) -> Result:
        """Make attempts at a row until it has its result.

        Raises:
            PoolClosed, PoolEmpty: it has none, because the run is stopping.
        """
        record = Record()
        again = False
        while True:
            member = await self._pool.take(again=again)
            attempt = await self._attempt(row, member, record, again=again)
            if isinstance(attempt.outcome, Completion):
                return await self._settle(attempt.request, read(attempt.outcome), "answered", attempt.outcome.usage)
            failure = attempt.outcome
            record = record.after(failure, attempt.seconds)
            decision = decide(failure, record, self._policy, random.random())  # noqa: S311 - spreads waits, guards nothing
            # A service that cannot do even the first row is of no use to the others.
            endpoint_out = decision.fate is Fate.ENDPOINT_OUT or (decision.gave_up and alone)
            name = str(failure.status or failure.fault.value)
            if decision.fate is Fate.ROW_ENDS and not endpoint_out:
                return await self._settle(attempt.request, Result(Status.ERROR, "", decision.reason), name)
            self._journal.failed(attempt.request, Outcome(name))
            again = True
            if endpoint_out:
                self._put_out(member, decision.reason)
                record = Record()
            else:
                self._last_reason = decision.short
                self._pool.cool_down(member, decision.cooldown_s)
                await self._pause(decision.wait_s)

    async def _attempt(self, row: Asked, member: Member, record: Record, *, again: bool) -> _Attempt:
        """Send a row's request, journalled before it leaves."""
        settings = self._job.settings
        timeout = max(min(settings.timeout, settings.deadline - record.in_flight_s), _SHORTEST_TIMEOUT_S)
        try:
            request = await self._journal.sent(row.position, row.key, member.number, member.giver)
            self.tally.sent += 1
            self.tally.retries += again
            began = self._loop.time()
            outcome = await member.caller.call(row.messages, timeout)
            return _Attempt(request, outcome, self._loop.time() - began)
        finally:
            self._pool.give_back(member)

    async def _settle(self, request: Request, result: Result, outcome: str, usage: Usage = _NO_USAGE) -> Result:
        """Journal a row's result, and count it only then."""
        await self._journal.settled(request, Outcome(outcome, usage.prompt_tokens, usage.completion_tokens), result)
        self.tally.prompt_tokens += usage.prompt_tokens
        self.tally.completion_tokens += usage.completion_tokens
        self.tally.count(result.status)
        return result

    def _put_out(self, member: Member, reason: str) -> None:
        if self._pool.put_out(member, reason):
            self._progress.say(f"{member.label} leaves the pool: {reason}")

    async def _pause(self, seconds: float) -> None:
        """Let a row wait; it holds no slot, and does not keep the run from stopping."""
        if seconds:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    # -- Files

    def _is_written(self, chunk: OpenChunk, states: Sequence[tuple[bytes, int | None]]) -> bool:
        """Tell whether the chunk's file is there and says what the journal says, or what somebody made of that."""
        written = self._written.get(chunk.start)
        if written is None or written.origin != self._job.store.origin(chunk.lines, states):
            return False
        state = self._job.store.state(chunk.start, written.rows, written.sha256)
        return state in {FileState.INTACT, FileState.EDITED}

    async def _write(self, chunk: OpenChunk) -> None:
        """Write a chunk's file from the journal, then say so in the journal."""
        record, copy = await self._loop.run_in_executor(None, self._write_file, chunk)
        await self._journal.chunk_written(chunk.start, record)
        self._tell_of(copy)

    def _write_file(self, chunk: OpenChunk) -> tuple[Chunk, Path | None]:
        """Do the part of `_write` that would hold up the loop; runs in a thread."""
        states = self._journal.states(chunk.start, chunk.stop)
        results = self._journal.results(chunk.start, chunk.stop)
        written = self._written.get(chunk.start)
        store = self._job.store
        sha256, copy = store.write_chunk(chunk.start, chunk.lines, results, written and written.sha256)
        return Chunk(len(results), store.origin(chunk.lines, states), sha256), copy

    async def _join(self) -> None:
        """Remove the chunk files that are no part of the result any more, and join the others."""
        for start in self._written.keys() - set(self._starts):
            self._tell_of(self._job.store.remove_chunk(start, self._written[start].sha256))
            await self._journal.chunk_removed(start)
        await self._loop.run_in_executor(None, self._job.store.join, self._starts)

    def _tell_of(self, copy: Path | None) -> None:
        if copy:
            self._progress.say(f"A chunk file had been changed by somebody and is made anew; the old one is {copy}")


# -- The functions that people call


def run(data: Data, prompt: str | PromptFunction | None = None, **options: Unpack[Options]) -> Report:
    """Ask a model about every row of a table, and save the answers; the same call again goes on where it stopped.

    Args:
        data: the path of a .csv, .tsv, .parquet or .jsonl file; or a DataFrame, a Series or a list of strings.
        prompt: a template with `{column}` holes, or a function from a row (a dictionary) to a prompt or to a list of
            messages. It may be left out where an option names another source, or where `data` is a Series or a list
            of prompts.
        **options: see `batcher.Settings`; the command line has the same ones.

    Returns:
        What was done. Rows that failed do not raise; they are counted in it, and say why in the result.

    Raises:
        SettingsError: an option, the input or the prompt is wrong; nothing was sent.
        OutputError: the output directory cannot be used, or no longer.
        RunStopped: the run ended early, as when no endpoint is left; all that arrived is saved.
        Interrupted: Ctrl-C; all that arrived is saved.
    """
    settings = Settings.of(options)
    stop = Stop()

    def start() -> _End:
        return asyncio.run(execute(data, prompt, settings, stop))

    if _is_loop_running():
        return _in_thread(start, stop).report_or_raise()
    with stop.on_signals():
        return start().report_or_raise()


async def arun(data: Data, prompt: str | PromptFunction | None = None, **options: Unpack[Options]) -> Report:
    """Do what `run` does, in the loop that is running. Cancel it to stop: all that arrived is saved.

    See `run` for the arguments, the result and the errors.
    """
    end = await execute(data, prompt, Settings.of(options), Stop())
    return end.report_or_raise()


class _End(NamedTuple):
    """How a run ended."""

    report: Report
    trouble: BatcherError | None = None
    stopped_by: signal.Signals | None = None

    def report_or_raise(self) -> Report:
        if isinstance(self.trouble, RunStopped):
            raise self.trouble
        if self.trouble:
            raise RunStopped(f"{self.trouble}; {_GO_ON}", self.report) from self.trouble
        if self.stopped_by is not None:
            raise Interrupted(f"stopped by {self.stopped_by.name}; {_GO_ON}", self.report)
        return self.report


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_thread(start: Callable[[], _End], stop: Stop) -> _End:
    """Run beside a loop that is running already, as in a notebook cell; an interrupt of the cell is a wish to stop."""
    end: Future[_End] = Future()

    def work() -> None:
        try:
            end.set_result(start())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
            end.set_exception(error)

    threading.Thread(target=work, name="batcher", daemon=True).start()
    while True:
        try:
            return end.result()
        except KeyboardInterrupt:
            if end.done():
                raise
            stop.wish()


async def execute(
    data: Data,
    prompt: str | PromptFunction | None,
    settings: Settings,
    stop: Stop,
    callers: Callable[[], Callers] | None = None,
) -> _End:
    """Do a whole run in the running loop.

    Args:
        data: as in `run`.
        prompt: as in `run`.
        settings: the options.
        stop: how to end it early.
        callers: makes what calls the endpoints; default: `ChatOpenAI`.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    # Reading the input may take long, and the loop may be the caller's own: both steps run in a thread.
    job = await asyncio.to_thread(plan.prepare, data, prompt, settings)
    progress = Progress(job.keyword, no_progress=settings.no_progress, quiet=settings.quiet)
    await asyncio.to_thread(job.store.prepare)
    with Journal.open(job.store.journal_path) as journal:
        try:
            planned = await asyncio.to_thread(plan.make, job, journal, lambda: stop.wishes > 0)
        except plan.Stopped:
            return _End(_report(job, Tally(*journal.counts()), (), loop.time() - began, False), stopped_by=stop.signal)
        progress.say(plan.in_words(job.keyword, planned.counts))
        if planned.in_flight:
            progress.say(
                f"{planned.in_flight:,} requests were in flight when the last run ended and may be billed twice."
            )
        journal.start_run(job.settings.chunk_size, job.question)
        async with _pool(job, planned, callers) as pool:
            work = Run(job, journal, planned, pool, progress)
            try:
                await work.work(stop)
            finally:
                await asyncio.shield(journal.end_run(_outcome(work)))
            return _end(job, work, pool, stop, loop.time() - began)


@contextlib.asynccontextmanager
async def _pool(job: plan.Job, planned: plan.Plan, callers: Callable[[], Callers] | None) -> AsyncIterator[Pool]:
    """Open the endpoints; where nothing is left to ask there are none, and neither LangChain nor a server is loaded."""
    if not planned.counts.left:
        async with Pool([]) as pool:
            yield pool
        return
    with contextlib.ExitStack() as stack:
        if callers is None:
            offline_url = None
            if any(endpoint.base_url == OFFLINE for endpoint in job.endpoints):
                offline_url = stack.enter_context(embedded()).base_url
            module = await asyncio.to_thread(importlib.import_module, "batcher.caller")
            made: Callers = module.ChatCallers(job.settings.params, offline_url)
        else:
            made = callers()
        try:
            members = [
                Member(number, endpoint, giver, made.caller(endpoint))
                for number, (endpoint, giver) in enumerate(zip(job.endpoints, planned.givers, strict=True))
            ]
            async with Pool(members) as pool:
                yield pool
        finally:
            await made.close()


def _outcome(work: Run) -> str:
    if work.trouble:
        return f"stopped: {work.trouble}"
    return "done" if work.is_done else "stopped"


def _end(job: plan.Job, work: Run, pool: Pool, stop: Stop, elapsed_s: float) -> _End:
    report = _report(job, work.tally, pool.counts(), elapsed_s, work.is_done)
    if work.trouble:
        return _End(report, work.trouble)
    if work.is_done:
        return _End(report)
    if stop.wishes:
        return _End(report, stopped_by=stop.signal)
    reasons = "\n".join(f"  {each.endpoint}: {each.out}" for each in report.endpoints if each.out)
    message = f"no endpoint is left:\n{reasons}\n{report.rows - report.left:,} rows are saved; {_GO_ON}"
    return _End(report, EndpointsLost(message, report))


def _report(
    job: plan.Job, tally: Tally, endpoints: tuple[EndpointCount, ...], elapsed_s: float, is_done: bool
) -> Report:
    return Report(
        status="done" if is_done else "stopped",
        keyword=job.keyword,
        rows=tally.rows,
        ok=tally.ok,
        invalid=tally.invalid,
        error=tally.error,
        requests=tally.sent,
        retries=tally.retries,
        prompt_tokens=tally.prompt_tokens,
        completion_tokens=tally.completion_tokens,
        elapsed_s=elapsed_s,
        output=job.store.all_path if is_done else None,
        endpoints=endpoints,
    )

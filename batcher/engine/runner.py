"""`run` and `arun`: a whole run, from the options to the report.

Invariant: whatever happens, what was opened is closed, what arrived is in the journal, and the caller is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import math
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, NamedTuple, Unpack

from batcher.endpoint import OFFLINE, Endpoint
from batcher.engine.progress import Progress, Tally
from batcher.engine.stop import Stop, to_the_end
from batcher.engine.window import Window
from batcher.errors import (
    BatcherError,
    BudgetReached,
    EndpointsLost,
    Interrupted,
    OutputError,
    RunStopped,
    SettingsError,
)
from batcher.input.prompt import PromptFunction
from batcher.journal.journal import Counts, Journal, Spent
from batcher.money.account import Account, note_of_reserves
from batcher.money.prices import NANO, nano_dollars
from batcher.output.report import Report
from batcher.place import Displaced
from batcher.planning import plan as planning
from batcher.pool.pool import Member, Pool
from batcher.records import EndpointCount
from batcher.server.serve import embedded
from batcher.settings import Options, Settings

if TYPE_CHECKING:
    from batcher.calls.caller import Callers
    from batcher.input.dataset import Data


def run(data: Data, prompt: str | PromptFunction | None = None, **options: Unpack[Options]) -> Report:
    """Ask a model about every row of a table, and save the answers; the same call again goes on where it stopped.

    Args:
        data: the path of a .csv, .tsv, .parquet or .jsonl file; or a DataFrame, a Series or a list of strings.
        prompt: a template with `{column}` holes, or a function from a row (a dictionary) to a prompt or to a list of
            messages. It may be left out where an option names another source, or where `data` is a Series or a list
            of prompts.
        **options: see `batcher.settings.Settings`; the command line has the same ones.

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
    stopped_by: str | None = None
    displaced: Displaced | None = None

    def report_or_raise(self) -> Report:
        if isinstance(self.trouble, RunStopped):
            raise self.trouble
        if self.trouble:
            saved = _saved(self.report, self.displaced)
            raise RunStopped(f"{self.trouble}\n{saved}", self.report) from self.trouble
        if self.stopped_by is not None:
            raise Interrupted(f"stopped by {self.stopped_by}; {_saved(self.report)}", self.report)
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


_OTHER_FILES = 128
"""Files that a process has open beside its connections: the journal, chunk files, libraries."""

_RESTING = 512
"""Connections that may rest at least, beside those in use: at 5,000 answers a second each rests for a tenth of one."""


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
    # Reading the input may take long, and the loop may be the caller's own: these steps run in a thread.
    job = await asyncio.to_thread(planning.prepare, data, prompt, settings)
    progress = Progress(job.keyword, no_progress=settings.no_progress, quiet=settings.quiet)
    await asyncio.to_thread(job.store.prepare)
    with Journal.open(job.store.journal_path) as journal:
        await asyncio.to_thread(job.store.clear)
        try:
            planned = await _planned(job, journal, stop)
        except planning.Stopped:
            journal.check_in_place()
            return _End(_report(job, Tally(*journal.counts())), stopped_by=stop.name)
        progress.say(planning.in_words(job.keyword, planned))
        for note in planning.notes(job, planned):
            progress.say(note)
        try:
            account = await asyncio.to_thread(_account, job, planned, journal, progress)
            async with _pool(job, planned, callers) as pool:
                window = Window(job, journal, planned, pool=pool, account=account, progress=progress)
                return await _worked(window, journal, stop)
        except SettingsError as error:  # an endpoint cannot be used, or the system allows too little: nothing was sent
            await journal.end_run(str(error))
            raise


async def _worked(window: Window, journal: Journal, stop: Stop) -> _End:
    """Let the window work, and say how that ended."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        with _rare_collections(window.pool.capacity):
            await window.work(stop)
    finally:
        await asyncio.shield(_end_run(journal, window, stop))
    is_gone = journal.displaced is not None and not journal.displaced.is_kept
    tally = window.tally
    if window.trouble:
        counts = Counts(tally.rows, 0, 0, 0) if is_gone else journal.counts()
        tally = Tally(*counts, *tally.sums())
    report = _report(
        window.job,
        tally,
        window.pool.counts(),
        loop.time() - began,
        window.account.spent,
        is_done=window.is_done and not journal.displaced,
    )
    if window.trouble or window.is_done:
        return _End(report, window.trouble, displaced=journal.displaced)
    if window.out_of_money and not stop.wishes:
        return _End(report, BudgetReached(f"{window.out_of_money}\n{_saved(report)}", report))
    return _End(report, stopped_by=stop.name) if stop.wishes else _End(report, _endpoints_lost(report))


_OBJECTS_PER_CALL = 50
_FEWEST_OBJECTS = 50_000
"""Objects that come into being before Python's collector looks for cycles among them."""


class _Collector:
    """How Python's collector was before the first of the runs under way; the last one sets it back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.runs = 0
        self.before = gc.get_threshold()
        self.is_ours = False


_collector = _Collector()


@contextlib.contextmanager
def _rare_collections(width: int) -> Iterator[None]:
    """Let Python's collector of cycles look rarely while calls are in flight.

    A call makes some 50 objects that it looks after, hardly one of them in a cycle. By its defaults it looks after
    every 700, and at all that was imported as well: a quarter of the CPU time at 256 in flight, a third at 4,096.
    """
    with _collector.lock:
        _collector.runs += 1
        if _collector.runs == 1:
            _collector.before = gc.get_threshold()
            _collector.is_ours = gc.get_freeze_count() == 0  # else the caller froze, and for other reasons
            if _collector.is_ours:
                gc.freeze()
        if _collector.before[0]:  # else it is switched off
            objects = max(gc.get_threshold()[0], _FEWEST_OBJECTS, width * _OBJECTS_PER_CALL)
            gc.set_threshold(objects, *_collector.before[1:])
    try:
        yield
    finally:
        with _collector.lock:
            _collector.runs -= 1
            if not _collector.runs:
                gc.set_threshold(*_collector.before)
                if _collector.is_ours:
                    gc.unfreeze()


async def _planned(job: planning.Job, journal: Journal, stop: Stop) -> planning.Plan:
    """Plan in a thread; where this task is cancelled, wait for the thread: the journal must not be closed under it."""
    is_cancelled = threading.Event()

    def is_stopping() -> bool:
        return stop.wishes > 0 or is_cancelled.is_set()

    work = asyncio.get_running_loop().run_in_executor(None, planning.make, job, journal, is_stopping)
    try:
        return await asyncio.shield(work)
    finally:
        is_cancelled.set()
        with contextlib.suppress(planning.Stopped):
            await to_the_end(work)


def _account(job: planning.Job, planned: planning.Plan, journal: Journal, progress: Progress) -> Account:
    """Open the money of the run; where nothing is left to ask there is none, and no price table is loaded."""
    budget = job.settings.budget
    limit = None if budget is None else nano_dollars(budget)
    spent = Spent(0, 0, 0) if budget is None else journal.spent()
    if spent.unpriced:
        progress.say(f"Note: {spent.unpriced:,} earlier requests, of unknown price, do not count in the budget.")
    endpoints = job.endpoints if planned.counts.left else ()
    account = Account(endpoints, job.settings.params, limit, spent.total)
    if limit is not None and (note := note_of_reserves(endpoints, account.tariffs, limit - spent.total)):
        progress.say(note)
    return account


@contextlib.asynccontextmanager
async def _pool(
    job: planning.Job, planned: planning.Plan, callers: Callable[[], Callers] | None
) -> AsyncIterator[Pool]:
    """Open the endpoints; where nothing is left to ask there are none, and neither LangChain nor a server is loaded."""
    async with contextlib.AsyncExitStack() as stack:
        members = []
        if planned.counts.left:
            connections = _allow_connections(job.endpoints)
            made = callers() if callers else await _chat_callers(job, stack, connections)
            stack.push_async_callback(made.close)
            for number, (endpoint, source) in enumerate(zip(job.endpoints, planned.sources, strict=True)):
                members.append(Member(number, endpoint, source, made.caller(endpoint)))
        yield await stack.enter_async_context(Pool(members, job.settings.timeout))


def _allow_connections(endpoints: Sequence[Endpoint]) -> int:
    """Raise the process's limit of open files, 1,024 on many systems, to what the connections may need.

    Returns:
        How many connections may be open: one for each call in flight, and as many that rest as the system allows.

    Raises:
        SettingsError: the system does not allow even one for each call.
    """
    calls = sum(each.max_concurrency for each in endpoints)
    resting = max(calls, _RESTING)  # a connection rests for as long as its answer took
    if os.name != "posix":
        return calls + resting
    import resource  # noqa: PLC0415 - POSIX alone has it

    # The embedded server has the other end of each connection in this process.
    ends = [2 if each.base_url == OFFLINE else 1 for each in endpoints]
    needed = _OTHER_FILES + sum(each.max_concurrency * count for each, count in zip(endpoints, ends, strict=True))
    wanted = needed + resting * max(ends)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (math.inf if limit == resource.RLIM_INFINITY else limit for limit in before)
    if hard < needed:
        raise SettingsError(
            f"{needed:,} files and connections may be open at once, and the system allows {hard:,}: lower"
            " --max-concurrency, use fewer keys, or raise the limit (ulimit -n)"
        )
    allowed = min(wanted, hard)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(allowed), before[1]))
    return calls + int(allowed - needed) // max(ends)


async def _chat_callers(job: planning.Job, stack: contextlib.AsyncExitStack, connections: int) -> Callers:
    """Load LangChain and, where it is asked for, start the embedded server; both take a second."""
    offline_url = None
    if any(endpoint.base_url == OFFLINE for endpoint in job.endpoints):
        server = await asyncio.to_thread(stack.enter_context, embedded())
        offline_url = server.base_url
    module = await asyncio.to_thread(importlib.import_module, "batcher.calls.factory")
    most_bytes = int(job.settings.max_response_mb * 1e6)
    made: Callers = module.ChatCallers(job.settings.params, offline_url, most_bytes, connections)
    return made


async def _end_run(journal: Journal, window: Window, stop: Stop) -> None:
    """Note how the run ended; a disk that is full, for one, is then the trouble, not a failure of its own."""
    if window.trouble:
        outcome = str(window.trouble)
    elif window.is_done:
        outcome = "done"
    elif stop.wishes:
        outcome = f"stopped by {stop.name}"
    else:
        outcome = window.out_of_money or _no_endpoint(window.pool.counts())
    try:
        await journal.end_run(outcome)
        journal.check_in_place()
    except OutputError as error:
        # A file that could not be written says less than what became of its directory.
        window.trouble = error if journal.displaced else window.trouble or error


def _no_endpoint(endpoints: tuple[EndpointCount, ...]) -> str:
    reasons = (f"\n  {each.endpoint}: {each.out}" for each in endpoints if each.out)
    return f"no endpoint is left:{''.join(reasons)}"


def _endpoints_lost(report: Report) -> EndpointsLost:
    return EndpointsLost(f"{_no_endpoint(report.endpoints)}\n{_saved(report)}", report)


def _saved(report: Report, displaced: Displaced | None = None) -> str:
    saved = f"{report.rows - report.left:,} of {report.rows:,} rows are saved"
    if displaced is None or displaced.is_log:
        return f"{saved}, and the same command goes on from there"
    if not displaced.is_kept:
        return f"{saved}: the answers of this run are lost, but for chunk files that are left, and may be billed"
    other = f", or give --output-dir {displaced.path.parent}" if displaced.path else ""
    return f"{saved} there: move it back, and the same command goes on{other}"


def _report(
    job: planning.Job,
    tally: Tally,
    endpoints: tuple[EndpointCount, ...] = (),
    elapsed_s: float = 0.0,
    spent: int | None = None,
    *,
    is_done: bool = False,
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
        cost_usd=None if spent is None else spent / NANO,
        elapsed_s=elapsed_s,
        output=job.store.all_path if is_done else None,
        endpoints=endpoints,
    )

"""`run` and `arun`: a whole run, from the options to the report.

Invariant: in every case, opened resources are closed, arrived answers are in the journal, and the caller learns how the
run ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from batcher.calls.forms import Form, Wire
from batcher.endpoint import Endpoint
from batcher.engine.assembling import Assembly
from batcher.engine.callers import made_for
from batcher.engine.control import Control, Steering
from batcher.engine.drifting import drift_in
from batcher.engine.ending import Ended, Ending, report_of, room_needed
from batcher.engine.passes import Passes
from batcher.engine.process import rare_collections
from batcher.engine.progress import Progress, Tally
from batcher.engine.stop import CANCELLED, Stop, stopping_if_cancelled, to_the_end
from batcher.engine.window import Window
from batcher.errors import OutputError, SettingsError, outermost
from batcher.input.prompt import PromptFunction
from batcher.journal.entries import PLANNED, LastRun
from batcher.journal.opening import open_journal
from batcher.journal.writing import Journal
from batcher.money.prices import nano_dollars
from batcher.money.spending import MOST_LOST, Spending, note_of_reserves, note_of_tiers
from batcher.money.tariff import LESSONS, Tariff
from batcher.money.tokens import Estimator
from batcher.output.control import ControlFile
from batcher.output.figures import figures_of, unread, without_answers
from batcher.output.report import Report
from batcher.output.so_far import with_by
from batcher.planning.asking import forms_found, in_batches, tariffs_in_forms
from batcher.planning.expected import expected
from batcher.planning.job import Job, prepare
from batcher.planning.making import Stopped, make
from batcher.planning.plan import Plan
from batcher.planning.whom import asked_of
from batcher.planning.words import first_lines, notes
from batcher.pool.account import accounts_of
from batcher.pool.blame import Trial
from batcher.pool.forms import FormChoice
from batcher.pool.member import Member
from batcher.pool.pool import Pool
from batcher.pool.service_tiers import ServiceTiers
from batcher.settings import Options, Settings
from batcher.signatures import with_options
from batcher.words import counted

if TYPE_CHECKING:
    from batcher.calls.caller import Callers
    from batcher.input.opening import Data


@with_options
@outermost
def run(data: Data, prompt: str | PromptFunction | None = None, **options: Unpack[Options]) -> Report:
    """Ask a model about every row of a table, and save the answers; the same call resumes a run that stopped.

    Args:
        data: the path of a .csv, .tsv, .jsonl, .parquet or .xlsx file, of a directory of them, a pattern such as
            "data/*.parquet", or a list of `Path`; or a table in memory: a DataFrame (pandas, polars), a Series, an
            Arrow table, a `datasets.Dataset`, a list of strings or a list of dictionaries.
        prompt: a template with `{column}` holes, or a function from a row (a dictionary) to a prompt or to a list of
            messages. It may be left out if an option names another source, or if `data` is a Series or a list of
            prompts.
        **options: see below; the command line has the same ones.

    Returns:
        A report. Failed rows do not raise: the report counts them, and the result file holds their errors.

    Raises:
        SettingsError: an option, the input or the prompt is wrong; nothing was sent.
        OutputError: the output directory cannot be used, or became unusable.
        RunStopped: the run ended early, as when no endpoint is left; all that arrived is saved.
        Interrupted: Ctrl-C; all that arrived is saved.
    """
    settings = Settings.of(options)
    stop = Stop()

    def start() -> Ended:
        return asyncio.run(execute(data, prompt, settings, stop))

    if _is_loop_running():
        return _waited_for(_in_thread(start), stop).report_or_raise()
    with stop.on_signals():
        return start().report_or_raise()


@with_options
@outermost
async def arun(data: Data, prompt: str | PromptFunction | None = None, **options: Unpack[Options]) -> Report:
    """Do what `run` does, beside the loop that is running.

    Cancel it to stop, also by `asyncio.timeout`, a failing `TaskGroup` or the end of `asyncio.run`: requests in flight
    may still arrive for `grace` seconds, all that arrived is saved, and only then `CancelledError` is raised. Cancelled
    a second time it ends at once. See `run` for the arguments, the result and the other errors.

    It works in a thread and a loop of its own. With a chat model in `llm=`, which may belong to the loop that is
    running, it works in that loop; then the end of `asyncio.run` cuts what is in flight: cancel and await it before.
    """
    settings, stop = Settings.of(options), Stop()

    async def work() -> Ended:
        return await execute(data, prompt, settings, stop)

    if settings.asks_chat_model:
        end = await work()
    else:
        end = await stopping_if_cancelled(asyncio.wrap_future(_in_thread(lambda: asyncio.run(work()))), stop)
    return end.report_or_raise()


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_thread(start: Callable[[], Ended]) -> Future[Ended]:
    """Run in a thread beside a running loop, whose tasks others may cancel one by one."""
    end: Future[Ended] = Future()
    end.set_running_or_notify_cancel()  # from now on it cannot be cancelled

    def work() -> None:
        try:
            end.set_result(start())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
            end.set_exception(error)

    threading.Thread(target=work, name="batcher", daemon=True).start()
    return end


def _waited_for(end: Future[Ended], stop: Stop) -> Ended:
    """Wait for a run as a notebook's cell does: interrupting the cell is a stop request."""
    while True:
        try:
            return end.result()
        except KeyboardInterrupt:
            if end.done():
                raise
            stop.request()


async def execute(
    data: Data,
    prompt: str | PromptFunction | None,
    settings: Settings,
    stop: Stop,
    callers: Callable[[], Callers] | None = None,
) -> Ended:
    """Do a whole run in the running loop. If this task is cancelled, the run stops in order first.

    Args:
        data: as in `run`.
        prompt: as in `run`.
        settings: the options.
        stop: counts the requests to stop.
        callers: makes the callers of the endpoints; default: `ChatOpenAI`.
    """
    work = asyncio.get_running_loop().create_task(_execute(data, prompt, settings, stop, callers))
    return await stopping_if_cancelled(work, stop)


async def _execute(
    data: Data,
    prompt: str | PromptFunction | None,
    settings: Settings,
    stop: Stop,
    callers: Callable[[], Callers] | None,
) -> Ended:
    # Reading the input may take long, and the loop may be the user's own: these steps run in a thread.
    job = await asyncio.to_thread(prepare, data, prompt, settings)
    shown = {name: getattr(settings, name) for name in ("no_progress", "quiet", "log_json")}
    progress = Progress(job.keyword, **shown)
    with contextlib.ExitStack() as stack:
        journal = open_for_run(job, stack)
        try:
            planned = await _planned(job, journal, stop)
        except Stopped:
            journal.check_in_place()
            ending = Ending(stopped_by=stop.name, is_planned=False)
            figures = await asyncio.to_thread(figures_of, journal, job.keyword, None, is_at_work=False)
            return Ended(ending, report_of(job, figures, ending))
        await asyncio.to_thread(job.store.clear)
        progress.say(first_lines(job, planned))
        for note in notes(job, planned):
            progress.say(note)
        for start, corrections in planned.by_hand.workbooks.items():
            progress.say(await asyncio.to_thread(job.store.set_workbook_aside, start, corrections))
        try:
            return await _Run(job, planned, journal, progress, stop).work(callers)
        except SettingsError as error:  # a bad endpoint, or too few open files allowed: nothing was sent
            await journal.end_run(str(error))
            raise


def open_for_run(job: Job, stack: contextlib.ExitStack) -> Journal:
    """Make the output directory and open the journal in it; the stack closes both.

    A run that is refused at the same time removes the directory that it made, perhaps from under this one.
    """
    for is_last in (False, False, False, True):
        with contextlib.ExitStack() as opened:
            try:
                opened.enter_context(job.store.prepared())
                journal = opened.enter_context(open_journal(job.store.journal_path))
            except OutputError:
                if is_last or job.store.directory.exists():
                    raise
                continue
            stack.push(opened.pop_all())
            return journal
    raise AssertionError


async def _planned(job: Job, journal: Journal, stop: Stop) -> Plan:
    """Plan in a thread. If this task is cancelled, wait for the thread, which still uses the journal."""
    is_cancelled = threading.Event()

    def is_stopping() -> bool:
        return stop.requests > 0 or is_cancelled.is_set()

    work = asyncio.get_running_loop().run_in_executor(None, make, job, journal, is_stopping)
    try:
        return await asyncio.shield(work)
    finally:
        is_cancelled.set()
        with contextlib.suppress(Stopped):
            await to_the_end(work)


class _Worked(NamedTuple):
    """What a run has worked with, for its report."""

    spending: Spending
    tally: Tally
    pool: Pool
    process: LastRun | None
    endpoints: Sequence[Endpoint]
    by_hand: tuple[str, ...]


@dataclass(frozen=True)
class _Run:
    """A planned run, with all that it needs."""

    job: Job
    planned: Plan
    journal: Journal
    progress: Progress
    stop: Stop

    async def work(self, callers: Callable[[], Callers] | None) -> Ended:
        """Open the endpoints, let the window work, and return how that ended.

        Raises:
            SettingsError: an endpoint cannot be used, or the system allows too few connections; nothing was sent.
        """
        job, planned, tally = self.job, self.planned, await self._tally()
        assembly = Assembly(job, planned, self.journal, self.progress, tally)
        # If nothing is left to ask there are no endpoints, and no price table, LangChain or server is loaded.
        out = self.journal.batches(is_open=True)
        endpoints = job.endpoints if planned.asks or out else ()
        assembly.check_out(out)
        ladders = [job.ladder(endpoint) for endpoint in endpoints]
        by_form = await self._tariffs(endpoints, ladders)
        uses_batches = bool(endpoints) and (job.in_batches or bool(out))
        spending = self._spending(by_form, len(endpoints) - job.seconds, uses_batches=uses_batches)
        await self._record_plan(by_form, len(endpoints) - job.seconds)
        control = Control(ControlFile(job.store.control_path), self.journal, self.progress)
        # What a page decides does not wait until LangChain is loaded and the endpoints are open.
        async with control.listening(), contextlib.AsyncExitStack() as stack:
            made = await self._callers(callers, stack) if endpoints else None
            members = self._members(by_form, ladders, made) if made else []
            estimator = Estimator(job.settings.params)
            pool = await stack.enter_async_context(Pool(members, job.settings.attempt_s, estimator, lambda: tally.left))
            deadline = assembly.deadline(pool) if members else None
            if made and uses_batches:
                window: Window | Passes = assembly.passes(made, pool, spending, deadline)
            else:
                window = assembly.window(pool, spending)
            process = self.journal.last_run()
            control.steer(Steering(job.keyword, pool, window, self.progress))
            steering = deadline.steering() if deadline and isinstance(window, Window) else contextlib.nullcontext()
            async with steering:
                ending = await self._ending_of(window, pool)
            if deadline and ending.is_done:
                self.progress.say(deadline.ended())
            control.steer(None)
        return await self._ended(ending, _Worked(spending, tally, pool, process, endpoints, tuple(control.changes)))

    async def _tally(self) -> Tally:
        """Begin to count."""
        tally = Tally(*self.planned.counts)
        if self.progress.shows_figures:
            tally.sent_before, tally.spent_before = await asyncio.to_thread(self.journal.spent_before)
        return tally

    async def _tariffs(
        self, endpoints: Sequence[Endpoint], ladders: Sequence[Sequence[Wire]]
    ) -> Mapping[Form | None, Sequence[Tariff]]:
        """Return the tariffs of the endpoints, by the form in which they are asked."""
        learnt = self.journal.details(LESSONS) if endpoints else []
        return await asyncio.to_thread(tariffs_in_forms, self.job, endpoints, ladders, learnt)

    async def _ended(self, ending: Ending, worked: _Worked) -> Ended:
        """Say what is to be said at the end, and return how the run ended, with its report."""
        job = self.job
        spending, tally, pool, process, endpoints, by_hand = worked
        if (note := spending.note_of_excess()) and not ending.out_of_money:
            self.progress.say(note)
        # Whoever stops a run waits for its end.
        if tally.sent and not (ending.trouble or ending.displaced or ending.stopped_by):
            for warning in await asyncio.to_thread(drift_in, job, self.journal):
                self.progress.say(warning, "warning")
        figures = await asyncio.to_thread(self._figures, ending, process, pool)
        # People may have decided something on the page meanwhile, which gives the files another column.
        store, _ = await asyncio.to_thread(with_by, job.store, self.journal)
        report = report_of(
            replace(job, store=store),
            figures,
            ending,
            process=process,
            asks=asked_of(endpoints),
            endpoints=pool.counts(),
            by_hand=by_hand,
        )
        return Ended(ending, report, await asyncio.to_thread(room_needed, job, figures, ending))

    async def _record_plan(self, by_form: Mapping[Form | None, Sequence[Tariff]], firsts: int) -> None:
        """Record what is expected of the requests to the first endpoints, those that are asked about every row."""
        if tariffs := [tariff for each in by_form.values() for tariff in each[:firsts]]:
            found = await asyncio.to_thread(expected, self.job, self.journal, self.planned, tariffs)
            self.journal.note(PLANNED, "", found)

    def _figures(self, ending: Ending, process: LastRun | None, pool: Pool) -> dict[str, Any]:
        """Add up what the run has done; what is in a lost journal is not saved."""
        keyword, rows = self.job.keyword, self.planned.counts.rows
        try:
            figures = figures_of(self.journal, keyword, process and process.id, is_at_work=True)
        except OutputError:
            if ending.trouble is None:
                raise
            return unread(keyword, rows, sum(each.requests_now for each in pool.counts()))
        return without_answers(figures) if ending.has_lost_its_journal else figures

    def _spending(
        self, by_form: Mapping[Form | None, Sequence[Tariff]], firsts: int, *, uses_batches: bool
    ) -> Spending:
        """Open the run's money, and show what its budget covers."""
        tariffs = [tariff for each in by_form.values() for tariff in each]
        first = [tariff for each in by_form.values() for tariff in each[:firsts]]
        second = [tariff for each in by_form.values() for tariff in each[firsts:]]
        batch = in_batches(first) if uses_batches else []
        budget = self.job.settings.budget
        if budget is None:
            if note := note_of_tiers(tariffs):
                self.progress.say(note)
            return Spending(tariffs, second=second, batch=batch)
        limit, spent = nano_dollars(budget), self.journal.spent()
        if spent.unpriced:
            one, many = "earlier request, of unknown price, does", "earlier requests, of unknown price, do"
            self.progress.say(f"Note: {counted(spent.unpriced, one, many)} not count in the budget.")
        lost, by_row = self.journal.lost(MOST_LOST), bool(self.job.lengths)
        spending = Spending(tariffs, limit, spent.total, lost, by_row=by_row, second=second, batch=batch)
        if note := note_of_reserves(tariffs, limit - spent.total):
            self.progress.say(note)
        return spending

    async def _callers(self, callers: Callable[[], Callers] | None, stack: contextlib.AsyncExitStack) -> Callers:
        """Make the callers of the endpoints; the stack closes what they share.

        Args:
            callers: makes them; default: `ChatOpenAI`, in this process or in workers.
            stack: closes what they share.
        """
        made = callers() if callers else await made_for(self.job, stack, self.progress)
        stack.push_async_callback(made.close)
        return made

    def _members(
        self,
        by_form: Mapping[Form | None, Sequence[Tariff]],
        ladders: Sequence[Sequence[Wire]],
        made: Callers,
    ) -> list[Member]:
        """Open the endpoints.

        Args:
            by_form: the tariffs of the endpoints, by the form in which they are asked.
            ladders: the forms to try at each of them.
            made: makes their callers.
        """
        known = {source: self.journal.has_answered(source) for source in set(self.planned.sources)}
        endpoints = self.job.endpoints
        choices = self._choices(ladders)
        trial = Trial()
        tiers: dict[tuple[int, int], ServiceTiers] = {}
        for number, (endpoint, source) in enumerate(zip(endpoints, self.planned.sources, strict=True)):
            place = source, self.job.tier_of(number)
            tiers[place] = tiers.get(place) or ServiceTiers(*self.job.asked_in(endpoint))
        each = zip(endpoints, self.planned.sources, ladders, accounts_of(endpoints), strict=True)
        return [
            Member(
                number,
                endpoint,
                source,
                made.caller(endpoint),
                by_form[ladder[0].form if ladder else None][number],
                choice=choices.get(source),
                by_form={wire.form: by_form[wire.form][number] for wire in ladder if wire.form},
                account=account,
                # A name vouches for the answers, not for the server that has it today.
                is_known=known[source] and endpoint.name is None,
                size=self.job.size_at(endpoint),
                trial=trial,
                tier=self.job.tier_of(number),
                tiers=tiers[source, self.job.tier_of(number)],
            )
            for number, (endpoint, source, ladder, account) in enumerate(each)
        ]

    def _choices(self, ladders: Sequence[Sequence[Wire]]) -> dict[int, FormChoice]:
        """Return the choice of a form for each source that is asked for labels or fields."""
        known = forms_found(self.job, self.journal)
        choices: dict[int, FormChoice] = {}
        for source, ladder in zip(self.planned.sources, ladders, strict=True):
            if ladder:
                choices.setdefault(source, FormChoice(ladder, known.get(source, "")))
        return choices

    async def _ending_of(self, window: Window | Passes, pool: Pool) -> Ending:
        """Let the window work, and always record in the journal how that ended."""
        ending, why = Ending(), ""
        try:
            with rare_collections(pool.capacity):
                ending = await window.work(self.stop)
        except BaseException as error:
            # Its text may hold anything, and the journal no secret.
            why = CANCELLED if isinstance(error, asyncio.CancelledError) else f"a fault: {type(error).__name__}"
            raise
        finally:
            ending = replace(ending, stopped_by=self.stop.name if self.stop.requests else "")
            ending = await asyncio.shield(self._recorded(ending, why or ending.in_words(pool.counts())))
        return ending

    async def _recorded(self, ending: Ending, why: str) -> Ending:
        """Record how the run ended. If that fails, as on a full disk, the failure is how it ended."""
        trouble = ending.trouble
        try:
            await self.journal.end_run(why)
            self.journal.check_in_place()
        except OutputError as error:
            # What became of the directory explains more than a failed write.
            trouble = error if self.journal.displaced else trouble or error
        return replace(ending, trouble=trouble, displaced=self.journal.displaced)

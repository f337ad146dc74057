"""`cancel`: cancels the batches of a run at their services, and fetches what was answered.

Invariant: while a process works on the run, it alone does that, asked through the control file; else this process does,
under the lock of the journal. A batch that cannot be cancelled or fetched stays in the journal as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from batcher.answer.reading import read as as_result
from batcher.answer.shape import ReadAs, shape_of_recorded
from batcher.calls.batch_service import BatchLimits
from batcher.calls.endpoints import environment
from batcher.endpoint import OFFLINE, Endpoint
from batcher.engine.batching.batches import Batches
from batcher.engine.batching.cancelled import Cancellation
from batcher.engine.batching.filling import Place
from batcher.engine.batching.harvesting import Harvester
from batcher.engine.batching.reaching import asked_by, endpoints_for
from batcher.engine.batching.submitting import forgetting
from batcher.engine.by_hand import ask
from batcher.engine.process import allow_connections
from batcher.engine.progress import Progress, Tally
from batcher.errors import BatcherError, OutputError, SettingsError, outermost
from batcher.journal.entries import BY_HAND, READ_AS, Batch
from batcher.journal.locking import is_at_work
from batcher.journal.opening import open_journal, read_journal
from batcher.journal.reading import Reader
from batcher.journal.writing import Journal
from batcher.money.budget import BudgetSpent
from batcher.money.spending import Spending
from batcher.money.tariff import Tariff
from batcher.output.directory import Store
from batcher.output.opening import opened
from batcher.planning.asking import with_share
from batcher.planning.requests import read_body
from batcher.pool.account import accounts_of
from batcher.pool.member import Member
from batcher.pool.pool import Pool
from batcher.records import Completion, Failure, Fault, Result
from batcher.settings import NO_WAIT, OPTIONS, Settings
from batcher.words import counted, duration, option

if TYPE_CHECKING:
    from batcher.calls.batch_service import BatchService
    from batcher.calls.caller import Callers

_LOOK_S = 0.5
_FORGETS_AFTER_S = 60.0  # without an answer, if --wait does not say it
_MORE = 10_000  # the number of the first endpoint that the run has not had
_CANCELLED = BY_HAND[3]


@outermost
def cancel(
    keyword: str,
    *,
    wait: float | str | None = None,
    forget: bool = False,
    endpoints: str | os.PathLike[str] | Sequence[Endpoint] | None = None,
    provider: str | None = None,
    base_url: str | None = None,
    api_key_env: str | None = None,
    header: Mapping[str, str] | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    price_batch: float | None = None,
    output_dir: str | os.PathLike[str] = "output",
) -> Cancellation:
    """Cancel the batches of a run at their services, and fetch what was answered until then.

    If a process works on the run, it does that, and ends. Else the services are those at which the batches were made;
    their API keys are found as `run` finds them. The files are written by the next run, or by `merge(partial=True)`.

    Args:
        keyword: of the run.
        wait: the most seconds until all batches are fetched; `"no"`: cancel, and let the next run or call fetch them;
            default: as long as it takes, which may be ten minutes. An interrupt leaves the rest to the next call, too.
        forget: give up batches that their service does not know any more, or that cannot be asked or fetched, for a
            minute or as long as `wait` says: their rows are asked again, and may be billed twice.
        endpoints: a TOML file with `[[endpoint]]` tables, or a list of endpoints, as for `run`.
        provider: as for `run`.
        base_url: as for `run`; default: where each batch was made.
        api_key_env: the variable that holds the API keys, as for `run`.
        header: as for `run`.
        price_in: US dollars for a million prompt tokens, as for `run`; without a price, an answer counts as the most
            that it may cost.
        price_out: the same for answers.
        price_batch: what a request in a batch costs, as a share of the price.
        output_dir: the run's output directory.

    Raises:
        SettingsError: an option is wrong, or an API key is missing; nothing was done.
        OutputError: there is nothing to cancel, the journal cannot be used, or the process at work does not answer.
        BatcherError: no batch could be cancelled.
    """
    given = {
        "endpoints": endpoints,
        "provider": provider,
        "base_url": base_url,
        "api_key_env": api_key_env,
        "header": header,
        "price_in": price_in,
        "price_out": price_out,
        "price_batch": price_batch,
    }
    if wait is not None:
        OPTIONS["wait"].check(wait)
    wish = Wish(keyword, wait, forget, given)
    with opened(keyword, output_dir, read_journal) as run:
        store, last, out = run.store, run.last(), run.journal.batches(is_open=True)
    if not out:
        raise OutputError(f"{keyword!r} has no batch at a service: there is nothing to cancel")
    ids = [each.id for each in out]
    if is_at_work(store.journal_path, last):
        return _asked_for(wish, store, ids)
    try:
        return _in_own_loop(lambda: execute(wish, store, ids))
    except KeyboardInterrupt:  # what was fetched is in the journal; the rest is left to the next call
        return _of_journal(keyword, store, ids)


class Wish(NamedTuple):
    """What a person asks for.

    Attributes:
        keyword: of the run.
        wait: the most seconds to wait, or `no`; None: as long as it takes.
        forget: batches are given up that cannot be asked or fetched.
        given: how services are reached; see `reaching.OPTIONS`.
    """

    keyword: str
    wait: float | str | None
    forget: bool
    given: Mapping[str, Any]

    @property
    def seconds(self) -> float | None:
        """The most seconds to wait; None: any number."""
        return 0.0 if self.wait == NO_WAIT else None if self.wait is None else float(self.wait)


def _in_own_loop(start: Callable[[], Coroutine[Any, Any, Cancellation]]) -> Cancellation:
    """Do asynchronous work, also if a loop is running, as in a notebook: then in a thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(start())
    end: Future[Cancellation] = Future()

    def work() -> None:
        try:
            end.set_result(asyncio.run(start()))
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
            end.set_exception(error)

    threading.Thread(target=work, name="batcher", daemon=True).start()
    return end.result()


# -- Through the process at work


def _asked_for(wish: Wish, store: Store, ids: Collection[int]) -> Cancellation:
    """Ask the process that works on the run, and wait until it has fetched the batches, or has ended."""
    if wish.forget:
        raise SettingsError(
            f"{option('forget', value=True)} is for batches of a run that has ended, and a process works on"
            f" {wish.keyword!r}: stop it first"
        )
    change = ask(wish.keyword, store.directory, "cancel", {})
    until = None if wish.seconds is None else time.monotonic() + wish.seconds
    with contextlib.suppress(KeyboardInterrupt):  # the process goes on all the same
        while change.is_taken and (until is None or time.monotonic() < until):
            with read_journal(store.journal_path) as journal:
                is_over = not any(each.id in ids for each in journal.batches(is_open=True))
                last = journal.last_run()
            if is_over or last is None or not is_at_work(store.journal_path, last):
                break
            time.sleep(_LOOK_S)
    return _of_journal(wish.keyword, store, ids)


def _of_journal(keyword: str, store: Store, ids: Collection[int], trouble: str = "") -> Cancellation:
    with read_journal(store.journal_path) as journal:
        return Cancellation.of(keyword, journal.batch_counts(), ids, journal.left(), trouble=trouble)


# -- By this process


async def execute(
    wish: Wish, store: Store, ids: Collection[int], callers: Callable[[], Callers] | None = None
) -> Cancellation:
    """Cancel and fetch the batches of a run that no process works on.

    Args:
        wish: what is asked for.
        store: the output directory.
        ids: of the batches that are out.
        callers: makes the clients of services; default: those of `run`.
    """
    with open_journal(store.journal_path) as journal:
        last = journal.last_run()
        question = last.question if last else {}
        out = journal.batches(is_open=True)
        settings, reached = _settings(wish, journal, question), _reached(wish, journal, out)
        cancelling = _Cancelling(wish, store, journal, settings=settings, question=question, reached=reached)
        trouble = await cancelling.work(out, callers)
        still = {each.id for each in journal.batches(is_open=True)}
        if not still:
            await journal.end_batches()
    if trouble is not None and still >= set(ids):
        raise trouble
    return _of_journal(wish.keyword, store, ids, trouble=str(trouble or ""))


def _recorded(journal: Reader) -> dict[str, Any]:
    """Return how the latest run with batches reads answers, as it recorded that."""
    details = journal.details([READ_AS])
    found: dict[str, Any] = json.loads(details[-1]) if details else {}
    return found


def _settings(wish: Wish, journal: Reader, question: Mapping[str, Any]) -> Settings:
    """Return the options by which answers are read."""
    known = {name: value for name, value in _recorded(journal).items() if name in OPTIONS}
    known |= {name: question[name] for name in ("task", "requests", "params_column") if question.get(name)}
    if wish.wait not in {None, NO_WAIT}:
        known["wait"] = wish.wait
    elif wish.forget:
        known["wait"] = _FORGETS_AFTER_S
    return Settings.of(known)


class _Reached(NamedTuple):
    """An endpoint at which batches may be.

    Attributes:
        number: its place in the pool of the run.
        source: the journal's id of its source.
    """

    number: int
    source: int
    endpoint: Endpoint


def _reached(wish: Wish, journal: Reader, out: Sequence[Batch]) -> list[_Reached]:
    """Return the endpoints at which batches may be.

    Raises:
        SettingsError: a key is missing, or the embedded server had the batches.
    """
    questions, env = journal.questions_of({each.run for each in out}), environment()
    found: dict[int, list[_Reached]] = {}
    for batch in out:
        asked = asked_by(questions[batch.run], batch.endpoint)
        if batch.source in found:
            continue
        if asked.base_url == OFFLINE and not wish.forget:
            raise SettingsError(
                "the batches were at the embedded server, which has ended with the process of the run:"
                f" {forgetting(wish.keyword)} gives them up"
            )
        endpoints = endpoints_for(asked, wish.given, env)
        numbers = [*asked.numbers, *range(_MORE, _MORE + len(endpoints))]  # there may be more keys now
        each = zip(numbers, endpoints, strict=False)
        found[batch.source] = [_Reached(number, batch.source, endpoint) for number, endpoint in each]
    return [each for group in found.values() for each in group]


class _Cancelling:
    """Cancels and fetches batches.

    Args:
        wish: what is asked for.
        store: the output directory.
        journal: open to be written.
        settings: the options by which answers are read.
        question: of the latest run.
        reached: the endpoints at which the batches may be.
    """

    def __init__(
        self,
        wish: Wish,
        store: Store,
        journal: Journal,
        *,
        settings: Settings,
        question: Mapping[str, Any],
        reached: Sequence[_Reached],
    ) -> None:
        recorded = question.get("shape")
        self._wish = wish
        self._store = store
        self._journal = journal
        self._settings = settings
        self._reached = reached
        self._shape = shape_of_recorded(recorded) if recorded else None
        self._progress = Progress(wish.keyword, no_progress=True)

    async def work(self, out: Sequence[Batch], callers: Callable[[], Callers] | None) -> BatcherError | None:
        """Cancel the batches, and fetch them as long as the person waits; return what kept it from some of them."""
        endpoints = [each.endpoint for each in self._reached]
        connections = await asyncio.to_thread(allow_connections, endpoints)
        made = await _callers(self._settings, connections) if callers is None else callers()
        try:
            members = self._members(made)
            places = [Place(member, _service(made, member.endpoint)) for member in members]
            async with Pool(members) as pool:
                batches = self._batches(places, pool)
                rows = counted(sum(each.requests for each in out), "row")
                said = f"cancelling {counted(len(out), 'batch', 'batches')} with {rows}"
                self._journal.go_on(None if self._shape is None else ReadAs.of(self._shape))
                where = ", ".join(dict.fromkeys(each.where or each.real_source.model for each in endpoints))
                gives_up = f" What cannot be reached for {duration(self._settings.wait_s)} is given up."
                self._progress.say(f"{said.capitalize()} at {where}.{gives_up if self._wish.forget else ''}")
                trouble = await self._wait_for(batches)
                if trouble is None or len(self._journal.batches(is_open=True)) < len(out):
                    self._journal.note(_CANCELLED, uuid.uuid4().hex, said)
                return trouble
        finally:
            await asyncio.shield(made.close())

    async def _wait_for(self, batches: Batches) -> BatcherError | None:
        loop = asyncio.get_running_loop()
        work = loop.create_task(batches.work())
        until = None if self._wish.seconds is None else loop.time() + self._wish.seconds
        try:
            while not work.done() and (until is None or loop.time() < until or not batches.are_cancelled):
                await asyncio.wait([work], timeout=_LOOK_S)
        finally:
            batches.close()
            await asyncio.wait([work])
        error = work.exception()
        if error is None or isinstance(error, BatcherError):
            return error
        raise error

    def _members(self, made: Callers) -> list[Member]:
        endpoints = [each.endpoint for each in self._reached]
        accounts = accounts_of(endpoints)
        return [
            Member(
                each.number,
                each.endpoint,
                each.source,
                made.caller(each.endpoint),
                with_share(Tariff.of(each.endpoint, {})),
                account=account,
            )
            for each, account in zip(self._reached, accounts, strict=True)
        ]

    def _batches(self, places: Sequence[Place], pool: Pool) -> Batches:
        """Return the batches, all of which are cancelled when they begin to work, and none of which is made."""
        tally = Tally(*self._journal.counts())
        spending = Spending([member.tariff for member in pool.members])
        harvester = Harvester(
            self._journal,
            self._settings,
            directory=self._store.directory,
            keyword=self._wish.keyword,
            shape=self._shape,
            read=self._read,
            is_one_of_several=bool(_recorded(self._journal).get("is_one_of_several")),
            spending=spending,
            tally=tally,
            progress=self._progress,
        )
        batches = Batches(
            self._store,
            self._settings,
            self._journal,
            places,
            pool=pool,
            filler=_Nothing(),
            harvester=harvester,
            spending=spending,
            tally=tally,
            progress=self._progress,
            keeps=False,
            forgets=self._wish.forget,
        )
        batches.was_cancelled = True
        return batches

    def _read(self, completion: Completion) -> Result:
        return read_body(completion) if self._settings.requests else as_result(completion, self._shape)


class _Nothing:
    """Makes no batch."""

    short: BudgetSpent | None = None
    is_round_over = True

    def close(self) -> None: ...

    async def forget(self) -> None: ...

    async def make(self, most_lines: int = 0) -> Batch | None:  # noqa: ARG002 - it makes none of any size
        return None


class _Gone:
    """The batch API of a server that has ended: it knows nothing."""

    limits = BatchLimits(0, 0)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Failure]]:
        async def fail(*_given: object) -> Failure:
            return Failure(Fault.STATUS, "the embedded server has ended with the process of the run", 404)

        return fail


def _service(made: Callers, endpoint: Endpoint) -> BatchService:
    return cast("BatchService", _Gone()) if endpoint.base_url == OFFLINE else made.batches(endpoint)


async def _callers(settings: Settings, connections: int) -> Callers:
    module = await asyncio.to_thread(importlib.import_module, "batcher.calls.factory")
    made: Callers = module.ChatCallers(settings.params, None, int(settings.max_response_mb * 1e6), connections)
    return made

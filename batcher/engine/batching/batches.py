"""The batches of a run that are not over: adopted, filled, submitted, looked at and harvested.

Invariant: a batch that may be at a service is in the journal, and is looked for there before another one is made of its
rows. A failure never counts as the end of a batch: only what its service says does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol

from batcher.calls.batch_refusals import (
    QueueLimit,
    queue_limit_in,
    refused_as_full,
    refused_as_too_large,
    refused_for_good,
)
from batcher.calls.batch_service import Remote
from batcher.calls.forms import Form, may_be_of_form
from batcher.engine.batching.filling import Place, in_thread
from batcher.engine.batching.harvesting import Harvest, Harvester
from batcher.engine.batching.looking import Looker
from batcher.engine.batching.submitting import (
    Closed,
    Patience,
    Stand,
    Submitter,
    cancelling,
    did_nothing,
    forgetting,
)
from batcher.engine.batching.tending import Tended
from batcher.engine.progress import Progress, Tally
from batcher.errors import BatcherError, OutputError, SettingsError
from batcher.journal.entries import UNSENT, Batch, BatchState, Outcome
from batcher.journal.writing import Journal
from batcher.money.budget import BudgetSpent
from batcher.money.spending import Spending
from batcher.output.directory import Store
from batcher.pool.pool import Pool
from batcher.records import Failure, Result, Status
from batcher.settings import Settings
from batcher.words import counted, duration, option, same_command

_LONGEST_ROOM_S = 600.0
"""The most seconds of a wait for a queue that is full although none of the run's batches is in it."""
_WAITS = 2
"""The waits after which a batch that is alone in such a queue goes in halves: it may be larger than the queue."""
_ROOM_LOOK_S = 1.0
"""Seconds between two looks whether another batch of the run has come back."""
_NOT_CANCELLED = {400, 404, 409}
"""The statuses of a batch that cannot be cancelled: it is over already, or not known."""
_BARREN = 3
"""The batches of an endpoint, one after the other, of which no line was even asked, after which it takes no more."""
_ENOUGH = 1 / 10
"""The share of the lines that are out that must have come back without an answer before a round begins for them."""
_FEW = 1 / 10
"""The share of the first batch below which a later one is called small."""
_VALIDATES_S = 30.0
"""With `--wait no`, the seconds in which a service may refuse what it has taken."""


class Fills(Protocol):
    """Makes batches of the rows that lack lines; see `Filler`."""

    short: BudgetSpent | None

    @property
    def is_round_over(self) -> bool: ...

    def close(self) -> None: ...

    async def make(self, most_lines: int = 0) -> Batch | None: ...

    async def forget(self) -> None: ...


class Returned(NamedTuple):
    """What has come back so far: lines that were answered, and lines without an answer whose rows are left."""

    answered: int = 0
    others: int = 0


class Batches:
    """All batches of a run.

    Args:
        store: the output directory.
        settings: the options: how long to wait.
        journal: has the batches, and gets every step.
        places: the endpoints that take batches.
        pool: loses the endpoints that refuse them for good.
        filler: makes further batches.
        harvester: reads what came of them.
        spending: gets back what batches did not cost that never came to be.
        tally: is brought up to date for the display.
        progress: shows messages.
        keeps, forgets: as the attributes.

    Attributes:
        keeps: rows that a batch brings back without an answer go into another one, and what no batch has yet does.
            If it is False, they are left for online requests, and nothing more is submitted.
        most_lines: the most lines of the batches that are made from now on; 0: as many as the service takes.
        most_rows: how many further lines may be made; None: any number. When none is left, `keeps` becomes False.
        changed: is set when something came back, or when a batch was given up; whoever waits for it clears it.
        returned: what has come back so far.
        looks_wrong: why the run should stop because of the answers so far; else empty.
        was_cancelled: all batches were cancelled by hand, and no further one is made. If it is True before `work`, what
            that adopts is cancelled.
        forgets: a batch that its service does not know, or that cannot be asked or fetched, is given up: its lines are
            lost, and may be billed.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        journal: Journal,
        places: Sequence[Place],
        *,
        pool: Pool,
        filler: Fills,
        harvester: Harvester,
        spending: Spending,
        tally: Tally,
        progress: Progress,
        keeps: bool,
        forgets: bool = False,
    ) -> None:
        self.keeps = keeps
        self.most_lines = 0
        self.most_rows: int | None = None
        self.changed = asyncio.Event()
        self.returned = Returned()
        self.looks_wrong = ""
        self.was_cancelled = False
        self.forgets = forgets
        self._journal = journal
        self._store = store
        self._places = places
        self._pool = pool
        self._filler = filler
        self._harvester = harvester
        self._spending = spending
        self._tally = tally
        self._progress = progress
        self._closing = asyncio.Event()
        self._waits = settings.waits
        self._patience = Patience(self._closing, settings.wait_s)
        self._submitter = Submitter(journal, store, self._patience, self._closing, progress)
        self._tended: dict[int, Tended] = {}
        self._tasks: dict[asyncio.Task[None], Tended | None] = {}
        self._news = asyncio.Event()  # of this object alone: a task has ended, or there is room again
        self._harvesting = asyncio.Lock()
        self._barren: dict[Place, int] = {}
        self._looker = Looker(
            journal,
            places,
            self._patience,
            self._tended,
            start=self._start,
            give_up=self._give_up,
            news=self._news,
            keyword=store.keyword,
            forgets=forgets,
        )
        spending.may_come_back(lambda: bool(self._tended))

    _has_adopted = False  # what earlier processes left
    _is_filling = _has_begun = False
    _first = 0  # the lines of the first batch of this process
    _came_back = 0  # lines without an answer since the last round began
    _trouble: BatcherError | None = None

    # -- What others see

    @property
    def open(self) -> Sequence[Batch]:
        """The batches that are not done, as the service said last: with `completed` and `failed` lines."""
        return [each.batch for each in self._tended.values()]

    @property
    def rows_out(self) -> int:
        """The lines of these batches."""
        return sum(batch.requests for batch in self.open)

    def __str__(self) -> str:
        """Say where the batches are, for the progress of the run."""
        if troubled := next((each for each in self._places if each.trouble and self._is_used(each)), None):
            return f"{troubled.host} does not answer ({troubled.trouble})"
        sent = [each for each in self.open if each.state in {BatchState.SENT, BatchState.OVER}]
        if not sent:
            waiting = sum(each.is_kept_back for each in self._tended.values())
            if waiting:
                return f"{counted(waiting, 'batch', 'batches')} waiting for room in the queue"
            return "filling a batch" if self._is_filling else ("submitting" if self._tended else "")
        lines, done = (
            sum(each.requests for each in sent),
            sum((each.completed or 0) + (each.failed or 0) for each in sent),
        )
        hosts = dict.fromkeys(each.place.host for each in self._tended.values())
        wait_s = max(self._looker.next_look - asyncio.get_running_loop().time(), 0.0)
        return (
            f"{counted(len(sent), 'batch', 'batches')} at {', '.join(hosts)}: {done:,} of {counted(lines, 'line')}"
            f" answered, next look in {duration(wait_s)}"
        )

    @property
    def steps_under_way(self) -> int:
        """The batches of which something is sent, or read, just now."""
        return sum(each.batch.state is not BatchState.SENT and not each.is_kept_back for each in self._tended.values())

    @property
    def detached(self) -> str:
        """Where the batches are that this run leaves, and how to go on, in words; empty if it leaves none."""
        batches = self._journal.batches(is_open=True)
        if not batches:
            return ""
        created = [each for each in batches if each.service_id is not None]
        lines = sum(each.requests for each in batches)
        hosts = {each.member.number: each.host for each in self._places}
        at = ", ".join(dict.fromkeys(hosts.get(each.endpoint, "") for each in created if each.endpoint in hosts))
        count = counted(len(batches), "batch", "batches")
        goes, them = ("goes", "it") if len(batches) == 1 else ("go", "them")
        if not created:
            where = f"{count} with {counted(lines, 'row')} {'is' if len(batches) == 1 else 'are'} not submitted yet"
        else:
            where = f"{count} with {counted(lines, 'row')} {goes} on at {at}"
            if rest := len(batches) - len(created):
                where += f", {rest:,} of them not submitted yet"
        does = "submits" if not created else "fetches"
        return f"{where}: {same_command()} {does} {them}, and {cancelling(self._store.keyword)} cancels {them}"

    @property
    def lines_out(self) -> int:
        """The lines that this process has put into batches that are not over: they go on without it."""
        batches = self._journal.batches(is_open=True)
        return sum(each.requests for each in batches if each.run == self._journal.run)

    def _is_used(self, place: Place) -> bool:
        return any(each.place is place for each in self._tended.values())

    # -- Steering

    def close(self) -> None:
        """Submit nothing more, and leave what is out: `work` returns when the step that is under way has ended."""
        self._closing.set()
        self._filler.close()
        self._news.set()

    @property
    def are_cancelled(self) -> bool:
        """Whether each batch that is out was cancelled, and its service has said so."""
        are_known = self._has_adopted or self._closing.is_set()
        return are_known and all(each.remote is not None and each.is_cancelled for each in self._tended.values())

    def stop_filling(self) -> None:
        """Make no further batch; what is out is fetched."""
        self.keeps = False
        self._news.set()

    async def ask_online(self) -> None:
        """Make no further batch, and let the rows that are in none be asked online."""
        self.keeps = False
        await self._filler.forget()  # what it has read may be asked online now
        self._changed()

    @property
    def asks_online(self) -> bool:
        """Whether rows that are in no batch are asked online, because none can get into one any more."""
        return not (self.keeps or self._is_filling or self.was_cancelled or self.looks_wrong)

    @property
    def is_filling_up(self) -> bool:
        """Whether fewer rows have gone into batches than shall (`most_rows`), and the next one can be made now."""
        return self.most_rows is not None and (self._is_filling or self._may_fill())

    def give_up(self, batches: Collection[int]) -> None:
        """Let rows of batches that do not end be asked online as well; what still comes in them is kept."""
        self._journal.given_up = self._journal.given_up | {*batches}
        self._changed()

    async def cancel(self, batches: Collection[int] | None = None) -> None:
        """Cancel batches at their services; they are harvested as soon as they are over.

        Args:
            batches: their ids; None: all, and no further one is made.
        """
        if batches is None:
            self.was_cancelled = True
            self._filler.close()
        wanted = [each for each in self._tended.values() if batches is None or each.batch.id in batches]
        await asyncio.gather(*map(self._cancel, wanted))
        self._news.set()

    async def _cancel(self, tended: Tended) -> None:
        """Cancel a batch; one that is not created yet is dropped as soon as the step under way has ended."""
        tended.is_cancelled = True
        if tended.batch.state is BatchState.SENT and not tended.over.is_set():
            await self._cancel_there(tended)

    async def _cancel_there(self, tended: Tended) -> None:
        """Cancel a batch at its service; if it cannot be cancelled any more, looking at it shows why."""
        batch, place = tended.batch, tended.place

        async def cancel() -> Remote | Failure | None:
            came = await place.service.cancel(batch.service_id or "")
            is_refused = isinstance(came, Failure) and came.status in _NOT_CANCELLED
            return None if is_refused else came

        came = await self._patience.call(place, cancel)
        if isinstance(came, Remote):
            await self._looker.see(tended, came)
        self._looker.wake(place)

    # -- The work

    async def work(self) -> None:
        """Adopt what earlier processes left; then fill, submit, look and harvest, until no batch is open or made.

        With `--wait no` it returns as soon as everything is submitted that the services take.

        Raises:
            BatcherError: a batch was refused as a whole, or cannot be found; the message says why, and what to do.
            BudgetSpent: the budget does not cover what is left, and nothing is out any more.
            OutputError: the journal or a file cannot be written.
            InputError: the input cannot be read, or was changed.
        """
        try:
            await self._clear_files()
            for batch in self._journal.batches(is_open=True):
                self._adopt(batch)
            self._has_adopted = True
            await self._go_on()
        finally:
            await self._end_tasks()
            self._spending.may_come_back(lambda: False)
            self._spending.look_again()
            self.changed.set()
        if self._trouble:
            raise self._trouble

    async def _clear_files(self) -> None:
        """Remove the files of batches that are done, and those whose batch a kill kept out of the journal."""
        needed = {batch.name for batch in self._journal.batches(is_open=True)}
        for path, name in self._store.batch_files().items():
            if name not in needed:
                await in_thread(path.unlink, True)  # it may be gone

    def _adopt(self, batch: Batch) -> None:
        """Tend a batch of an earlier process, at the endpoint that has made it, or else at another of its source."""
        alike = [each for each in self._places if each.member.source == batch.source]
        place = next((each for each in alike if each.member.number == batch.endpoint), None) or alike[0]
        self._tend_to(batch, place, is_cancelled=self.was_cancelled)

    def _tend_to(self, batch: Batch, place: Place, *, is_cancelled: bool = False) -> Tended:
        tended = self._tended[batch.id] = Tended(batch, place)
        tended.is_cancelled = is_cancelled
        place.open += 1
        place.tokens_out += batch.tokens
        self._start(self._tend(tended), tended)
        return tended

    def _start(self, work: Coroutine[Any, Any, None], tended: Tended | None = None) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = tended
        task.add_done_callback(lambda _task: self._news.set())

    def _let_go(self, tended: Tended) -> None:
        """Tend a batch no more: it is done, or cut into halves."""
        del self._tended[tended.batch.id]
        tended.place.open -= 1
        tended.place.tokens_out -= tended.batch.tokens

    async def _go_on(self) -> None:
        """Make batches as long as there are rows for them, and wait for those that are out."""
        while not self._closing.is_set():
            self._news.clear()
            self._raise_failures()
            if self._may_fill() and (made := await self._filled()):
                self._tally.sent += made.requests
                self._tend_to(made, next(each for each in self._places if each.member.number == made.endpoint))
                continue
            if not self._tended:
                if self._filler.short and self.keeps:
                    raise self._filler.short
                if not self._may_fill() or not self._came_back:
                    return
                continue
            if not self._waits and await self._are_taken():
                return
            if not self._news.is_set():
                await self._news.wait()

    def _raise_failures(self) -> None:
        """Raise what ended a task; forget those that ended well."""
        for task in [each for each in self._tasks if each.done()]:
            del self._tasks[task]
            if not task.cancelled() and (error := task.exception()):
                raise error

    def _may_fill(self) -> bool:
        """Return whether a further batch may be made now."""
        if not self.keeps or self.was_cancelled or self.looks_wrong or all(each.out for each in self._places):
            return False
        if not any(each.takes_more for each in self._places) or any(
            each.is_kept_back for each in self._tended.values()
        ):
            return False
        if not self._filler.is_round_over:
            return True
        # A round reads the whole table: not for every few rows.
        return not self._has_begun or not self._tended or self._came_back > self.rows_out * _ENOUGH

    async def _filled(self) -> Batch | None:
        is_new = self._filler.is_round_over
        if is_new:
            self._came_back = 0
        self._has_begun = self._is_filling = True
        try:
            most = min(filter(None, (self.most_lines, self.most_rows)), default=0)
            made = await self._filler.make(most)
        finally:
            self._is_filling = False
        if made and is_new:
            self._say_round(made)
        if made and self.most_rows is not None:
            self.most_rows -= made.requests
            if self.most_rows <= 0:
                self.most_rows = None
                await self.ask_online()
        return made

    def _say_round(self, made: Batch) -> None:
        """Say it when only a few rows are left: a batch of theirs may take as long as a large one."""
        first, self._first = self._first, self._first or made.requests
        if not first or self._tended or made.requests >= first * _FEW:
            return
        self._progress.say(
            f"{counted(made.requests, 'row')} without an answer {'goes' if made.requests == 1 else 'go'} into another"
            f" batch, which may take as long as a large one. {cancelling(self._store.keyword)}, and then"
            f" {same_command()} with {option('via', 'online')}, asks at once, at the full price."
        )

    async def _are_taken(self) -> bool:
        """Return whether the services have taken all that they take now, and have not refused it at once."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _VALIDATES_S
        while loop.time() < until and not self._closing.is_set():
            self._raise_failures()
            unsettled = [each for each in self._tended.values() if not each.is_kept_back and not each.is_taken]
            if not unsettled:
                return not self._may_fill()
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), until - loop.time())
            except TimeoutError:
                break
        return True

    async def _end_tasks(self) -> None:
        """Let the steps under way end; what waits for a service is left to it."""
        tasks = [*self._tasks]
        self._closing.set()
        for task, tended in self._tasks.items():
            if tended is None or (tended.batch.state is BatchState.SENT and not tended.over.is_set()):
                task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) and self._trouble is None:
                self._trouble = error if isinstance(error, BatcherError) else None
                if self._trouble is None:
                    raise error

    # -- One batch

    async def _tend(self, tended: Tended) -> None:
        """Bring a batch to its end."""
        try:
            while await self._submitted(tended):
                await self._over(tended)
                if await self._ended(tended):
                    return
        except Closed:
            return
        except BatcherError as error:
            if isinstance(error, (OutputError, SettingsError)):
                raise
            self._give_up(tended, error)
            if tended.is_forgotten:
                await self._harvest(tended)

    async def _submitted(self, tended: Tended) -> bool:
        """Bring a batch to its service; return False if it never comes to be."""
        while tended.batch.state not in {BatchState.SENT, BatchState.OVER}:
            if tended.batch.state is BatchState.CREATING and await self._was_created(tended):
                continue
            if tended.is_cancelled:
                await self._drop(tended, "cancelled before it was created")
                return False
            came = await self._submitter.submit(tended.batch, tended.place)
            tended.batch = came.batch
            if came.stand is Stand.TOO_LARGE:
                return await self._halve(tended, came.why)
            if came.stand is Stand.GONE:
                await self._drop(tended, "its file is gone")
                return False
            if came.stand is Stand.REFUSED:
                await self._refuse(tended, came.why)
                return False
            if came.stand is Stand.FULL and not await self._waited_for_room(tended, came.why):
                return False
        if tended.is_cancelled and tended.batch.state is BatchState.SENT:
            await self._cancel_there(tended)
        self._looker.wake(tended.place)
        self._news.set()
        return True

    async def _was_created(self, tended: Tended) -> bool:
        """Return whether a batch exists whose creation had begun, with whichever key of its source; record that."""
        for place in (tended.place, *self._looker.others_of(tended)):
            if (found := await self._submitter.looked_for(tended.batch, place)) is not None:
                tended.batch = (await self._submitter.adopted(tended.batch, found)).batch
                if place is not tended.place:
                    self._looker.move(tended, place)
                return True
        return False

    async def _over(self, tended: Tended) -> None:
        """Wait until a batch is over at its service."""
        self._looker.watch(tended.place)
        await tended.over.wait()

    async def _ended(self, tended: Tended) -> bool:
        """Do what follows from the end of a batch; return False if it is to be submitted again."""
        remote = tended.remote
        if remote is None or not did_nothing(remote) or tended.is_cancelled:
            await self._harvest(tended)
            return True
        is_full, is_large = refused_as_full(remote), refused_as_too_large(remote)
        if tended.was_at_work and not is_full and not is_large:
            await self._harvest(tended)
            return True
        why = "; ".join(each.message or each.code for each in remote.errors) or "it says no reason"
        tended.over.clear()
        tended.remote = None
        if is_full:
            tended.batch = await self._submitter.renewed(tended.batch)
            return not await self._waited_for_room(tended, why)
        if is_large:
            return not await self._halve(tended, why)
        await self._refuse(tended, refused_for_good(remote) or why)
        return True

    def _others_out(self, tended: Tended) -> bool:
        """Return whether other batches of the same account are in the queue."""
        account = tended.place.member.account
        others = (each for each in self._tended.values() if each is not tended)
        return any(each.place.member.account is account and each.batch.state is BatchState.SENT for each in others)

    async def _waited_for_room(self, tended: Tended, why: str) -> bool:
        """Wait until there may be room in a queue; return False if there never is: then the batch goes in halves.

        Args:
            tended: was refused because the queue is full.
            why: what the service said.
        """
        is_larger = _is_larger(tended.batch, queue_limit_in(why))
        if is_larger is None and not self._others_out(tended):
            is_larger = tended.waits >= _WAITS  # nobody says how long the queue is
        if is_larger and tended.batch.requests > 1:
            return await self._halve(tended, why)
        tended.is_kept_back = tended.place.is_full = True
        self._news.set()
        loop = asyncio.get_running_loop()
        until = loop.time() + tended.room_s
        are_others = False
        try:
            # When another one comes back, there is room; without any, somebody else fills the queue.
            while tended.place.is_full and not tended.is_cancelled:
                are_others = self._others_out(tended)
                if not are_others and loop.time() >= until:
                    break
                await self._patience.sleep(_ROOM_LOOK_S)
        finally:
            tended.is_kept_back = tended.place.is_full = False
        if not are_others:
            tended.waits += 1
            tended.room_s = min(2 * tended.room_s, _LONGEST_ROOM_S)
        return True

    def _make_room(self, place: Place) -> None:
        """Let what waits for the queue of an account be submitted: one of its batches has come back."""
        for each in self._places:
            if each.member.account is place.member.account:
                each.is_full = False

    async def _halve(self, tended: Tended, why: str) -> bool:
        """Cut a batch into halves; one of a single line ends its row. Return False: it is tended no more."""
        batch, place = tended.batch, tended.place
        halves = await self._submitter.halved(batch)
        if halves is None and batch.requests == 1:
            await self._end_rows(tended, f"a batch of it alone is too large for the service: {why}")
            return False
        place.lower(batch)
        if halves is None:
            await self._drop(tended, "its file is gone")
            return False
        self._let_go(tended)
        for half in halves:
            self._tend_to(half, place).room_s = tended.room_s
        self._progress.say(
            f"{place.member.label} takes no batch of {counted(batch.requests, 'line')} ({why}): it goes in halves."
        )
        return False

    async def _end_rows(self, tended: Tended, why: str) -> None:
        """End the rows of a batch that can never be sent as errors."""
        for line in await in_thread(self._journal.lines, tended.batch.id):
            ended = Result(Status.ERROR, "", why)
            await self._journal.settled(
                line.request, Outcome(UNSENT, cost=0), ended, followers=bool(line.followers), is_late=line.is_answered
            )
            self._spending.give_back(line.bound.cost or 0)
            if not line.is_answered:
                self._tally.count(ended.status, 1 + int(line.followers))
        await self._drop(tended, why)

    async def _drop(self, tended: Tended, why: str) -> None:
        """Give up a batch that never came to be: nothing of it was asked, and its rows are left."""
        back = 0
        after = 0
        while lines := await in_thread(self._journal.lines, tended.batch.id, after):
            back += sum(line.bound.cost or 0 for line in lines)
            after = lines[-1].request.id
        tended.batch = await self._journal.batch_dropped(tended.batch, why=why)
        self._spending.give_back(back)
        await in_thread(self._store.batch_path(tended.batch.name).unlink, True)
        self._let_go(tended)
        self._came_back += tended.batch.requests
        self._changed()

    async def _refuse(self, tended: Tended, why: str) -> None:
        """Give up a batch that was refused as a whole, and its endpoint; if that was the last one, the run ends."""
        await self._drop(tended, why)
        self._leave(tended.place, f"its batch was refused: {why}")

    def _leave(self, place: Place, why: str) -> None:
        """Let an endpoint take no further batch, and no request either."""
        if place.out:
            return
        place.out = why
        self._pool.remove(place.member, why)
        left = any(not each.out for each in self._places)
        self._progress.say(f"{place.member.label} {'leaves the pool' if left else 'takes no batch'}: {why}", "warning")
        self._news.set()

    def _give_up(self, tended: Tended, error: BatcherError) -> None:
        """Leave a batch where it is: the others go on, and the run ends with the reason; or forget it."""
        if self.forgets:
            tended.is_forgotten, tended.remote = True, None
            tended.over.set()
            return
        if len(self._tended) > 1:  # else the run ends with it at once
            self._progress.say(str(error), "warning")
        self._trouble = self._trouble or error
        self._let_go(tended)
        self._filler.close()
        self._changed()

    def _changed(self) -> None:
        self.changed.set()
        self._news.set()

    # -- What came

    async def _harvest(self, tended: Tended) -> None:
        """Read what came of a batch; if a file cannot be downloaded, try again later."""
        place = tended.place
        if tended.batch.state is not BatchState.OVER:
            tended.batch = await self._journal.batch_moved(tended.batch, state=BatchState.OVER, ended=time.time())

        async def harvest() -> Harvest | Failure:
            async with self._harvesting:
                return await self._harvester.harvest(tended.batch, tended.remote, place.service, place.member)

        came = await self._patience.call(place, harvest)
        if isinstance(came, Failure):
            raise BatcherError(
                f"{place.member.label}: the results of batch {tended.batch.service_id} cannot be downloaded: {came}."
                f" {forgetting(self._store.keyword)} gives it up, and its rows are asked again"
            )
        await in_thread(self._store.batch_path(tended.batch.name).unlink, True)
        self._let_go(tended)
        self._make_room(place)
        await self._count(place, tended.batch, came)

    def _steps(self, place: Place, batch: Batch, failure: Failure | None) -> bool:
        """Ask in another form if a whole batch was refused for its form; return whether there is one."""
        choice = place.member.choice
        if choice is None or failure is None or not batch.form or not may_be_of_form(failure):
            return False
        refused = Form(batch.form)
        choice.leave(refused)
        if choice.form is not refused:
            self._progress.say(
                f"{place.member.label} refuses {refused.in_words} ({failure}): the next batch is asked with"
                f" {choice.form.in_words}."
            )
        return choice.form is not refused

    async def _count(self, place: Place, batch: Batch, came: Harvest) -> None:
        """Do what follows from a harvest."""
        back = came.unfit + came.failed - came.ended + came.expired + came.cancelled + came.lost
        back += came.unsent
        self._came_back += back
        self.returned = Returned(self.returned.answered + came.answered, self.returned.others + back)
        is_barren = not (came.answered or came.unfit or came.failed)
        self._barren[place] = self._barren.get(place, 0) + 1 if is_barren else 0
        if came.refused:
            if not self._steps(place, batch, came.failure):
                self._leave(place, f"every line of its batch was refused: {came.refused}")
        elif self._barren[place] >= _BARREN and self.keeps:
            self._leave(place, f"of its last {_BARREN} batches no line was asked")
        if came.looks_wrong and not self.looks_wrong:
            self.looks_wrong = came.looks_wrong
            self._filler.close()
            await self.cancel([each.id for each in self.open])
        self._changed()


def _is_larger(batch: Batch, limit: QueueLimit | None) -> bool | None:
    """Return whether a batch alone is larger than a queue; None: it is not known.

    Tokens are estimated, so a batch is known to fit only if it has less than half of what the queue takes.
    """
    if limit is None:
        return None
    if not limit.in_tokens:
        return batch.requests > limit.most
    return True if batch.tokens > limit.most else False if 2 * batch.tokens < limit.most else None

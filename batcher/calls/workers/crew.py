"""The workers of a run, seen from the engine: which of them makes which call, and what becomes of it.

Invariant: a call ends exactly once. Until its request has left a worker it may be handed to another one; from then on
it is out at that worker alone, and if the worker is lost it ends as a failure that says nothing about its row.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from batcher.calls.caller import CallCut
from batcher.calls.workers.reach import Reach, got_nowhere, shows_nothing
from batcher.calls.workers.setup import Setup
from batcher.calls.workers.wire import Call, Packer, unpack_news
from batcher.calls.workers.worker import Cluster, Link, WorkerLost
from batcher.errors import BatcherError
from batcher.records import Completion, Failure, Fault
from batcher.words import counted, duration

# How long a call may wait for others to be handed over together, in seconds, and the fewest calls of a group: each
# group costs as much as ten calls.
_GATHER_S = 0.002
_FEWEST = 16
# How long a worker gathers news, for each worker that there is, and at most.
_NEWS_S, _LONGEST_NEWS_S = 0.002, 0.05
# Workers tell something each second. One that is silent for so many of them is taken for lost.
_SILENT_S = 30
# A request that has not left its worker for so many seconds, while requests leave others, is taken back.
_RECALL_S = 15
# The seconds by which a call may outlast its timeout, before this process stops waiting for its worker.
_OVERTIME_S = 60
# How long answers may still come when the cluster is lost: its workers may be there yet.
_LAST_ANSWERS_S = 10
# How long a call that was cut may take to return what had come of its answer.
_CUT_S = 0.5

Say = Callable[[str, str], object]
"""Shows people a message: its text, and its level (`info` or `warning`)."""


# Workers that may take a call, as a heap: those that have the least to do first.
_Queue = list[tuple[int, int, int, int, "_Worker"]]


class _Ticket:
    """A call, from when it is asked for until it ends.

    Attributes:
        call: as the worker gets it.
        service: that it is made to.
        came: will hold what came.
        departed: is called once, when its request has left; or when one that was cut, or is out at a lost worker, ends.
        worker: that has it; None: it waits for one.
        handed_at: when it was handed over, in the crew's seconds.
        has_left: its request has left, or never will.
        is_cut: nothing waits for it any more, or it is taken back.
        is_recalled: it is taken back because its request does not leave.
        tried: the worker from which it did not get through, if there is one.
        failure: with which that ended.
    """

    __slots__ = (
        "call",
        "came",
        "departed",
        "failure",
        "handed_at",
        "has_left",
        "is_cut",
        "is_recalled",
        "service",
        "tried",
        "worker",
    )

    def __init__(
        self, call: Call, service: str, came: asyncio.Future[Completion | Failure | None], departed: Callable[[], None]
    ) -> None:
        self.call = call
        self.service = service
        self.came = came
        self.departed = departed
        self.worker: _Worker | None = None
        self.handed_at = 0
        self.has_left = False
        self.is_cut = False
        self.is_recalled = False
        self.tried: _Worker | None = None
        self.failure: Failure | None = None


class _Worker:
    """One worker, and the calls that it has.

    Attributes:
        link: to it.
        packer: of the groups that it gets.
        out: its calls, by id.
        unsent: how many of them have not left it.
        cuts: ids of calls that it is to cut off.
        silent_s: seconds since it last told something.
        reaches: what its calls to each service have shown.
        turn: the number of the last group that it got: among workers that have the same to do, the first goes next.
        drains: it gets no further call.
        reader: takes its news.
    """

    __slots__ = (
        "cuts",
        "drains",
        "link",
        "out",
        "packer",
        "reaches",
        "reader",
        "silent_s",
        "turn",
        "unsent",
    )

    def __init__(self, link: Link) -> None:
        self.link = link
        self.packer = Packer()
        self.out: dict[int, _Ticket] = {}
        self.unsent = 0
        self.cuts: list[int] = []
        self.silent_s = 0
        self.turn = 0
        self.drains = False
        self.reader: asyncio.Task[None] | None = None
        self.reaches: dict[str, Reach] = {}

    def reach(self, service: str) -> Reach:
        """Return what its calls to a service have shown."""
        return self.reaches.get(service) or self.reaches.setdefault(service, Reach())


class Crew:
    """Hands calls to workers, and takes their news; a `Watcher` of their cluster.

    Args:
        cluster: where the workers come from.
        say: shows people what becomes of workers.

    Attributes:
        losses: workers that were lost.
        repeated: calls that were out at them, and had to end without an answer.
    """

    def __init__(self, cluster: Cluster, say: Say = lambda _text, _level: None) -> None:
        self._cluster = cluster
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._workers: dict[Link, _Worker] = {}
        self._waiting: deque[_Ticket] = deque()
        self._ids = itertools.count(1)
        self._turns = itertools.count(1)
        self._flush: asyncio.TimerHandle | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._last: asyncio.TimerHandle | None = None
        # Seconds in which this process worked: those in which it, or the machine, stood still do not count.
        self._seconds = 0
        # The loop's time at which each worker was last answered by a service.
        self._answered: dict[str, dict[_Worker, float]] = {}
        self._gone: BatcherError | None = None
        self._is_closed = False
        self._lacks_workers = False
        self.losses = 0
        self.repeated = 0

    async def start(self, setup: Setup) -> None:
        """Start the workers, and return when the first one is ready.

        Raises:
            SettingsError: no worker can be had, or none can make the calls.
        """
        self._tick = self._loop.call_later(1, self._each_second)
        await self._cluster.start(setup, self)

    async def close(self) -> None:
        """End all workers."""
        self._is_closed = True
        for timer in filter(None, (self._tick, self._flush, self._last)):
            timer.cancel()
        readers = [worker.reader for worker in self._workers.values() if worker.reader]
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await self._cluster.close()

    def new_id(self) -> int:
        """Return an id that no other call of this crew has."""
        return next(self._ids)

    async def make(self, call: Call, service: str, departed: Callable[[], None]) -> Completion | Failure:
        """Let a worker make a call.

        Args:
            call: with an id of its own (`new_id`).
            service: that it is made to; the same for all endpoints with the same base URL.
            departed: as in `DistantCaller.call_away`.

        Raises:
            CallCut: it was cancelled, and a part of a streamed answer had come.
            BatcherError: the cluster is lost.
        """
        if self._gone:
            raise self._gone
        ticket = _Ticket(call, service, self._loop.create_future(), departed)
        self._waiting.append(ticket)
        self._flush_soon()
        try:
            came = await ticket.came
        except asyncio.CancelledError as cancelled:
            if (partial := await self._cut(ticket)) is not None:
                raise CallCut(partial) from cancelled
            raise
        if came is None:
            raise AssertionError(call.id)
        return came

    # -- What the cluster tells

    def joined(self, link: Link) -> None:
        worker = self._workers[link] = _Worker(link)
        worker.reader = self._loop.create_task(self._read(worker))
        if self._lacks_workers:
            self._lacks_workers = False
            self._say(f"{link.name} is there: going on.", "info")
        self._flush_soon()

    def drains(self, link: Link) -> None:
        worker = self._workers.get(link)
        if worker is None or worker.drains:
            return
        worker.drains = True
        self._flush_soon()  # a call may have waited for this one alone
        out = f"; {counted(len(worker.out), 'request')} in flight may finish" if worker.out else ""
        self._say(f"{link.name} has to go{out}.", "info")
        self._release_if_idle(worker)

    def lost(self, link: Link, why: str) -> None:
        if worker := self._workers.get(link):
            self._lose(worker, why)

    def gone(self, error: BatcherError) -> None:
        self._gone = error
        _fail(self._waiting, error)
        self._waiting.clear()
        if not self._is_closed:
            self._last = self._loop.call_later(_LAST_ANSWERS_S, self._give_up, error)

    def _give_up(self, error: BatcherError) -> None:
        for worker in self._workers.values():
            _fail(worker.out.values(), error)

    # -- Handing over

    def _flush_soon(self) -> None:
        if self._flush is None and not self._is_closed:
            self._flush = self._loop.call_later(_GATHER_S, self._hand_over)

    def _hand_over(self) -> None:
        """Give the calls that wait to workers: groups go to those that have the fewest calls which have not left."""
        self._flush = None
        if self._gone:
            _fail(self._waiting, self._gone)
            self._waiting.clear()
        groups: dict[_Worker, list[Call]] = {}
        now, left = self._loop.time(), deque[_Ticket]()
        size = max(_FEWEST, -(-len(self._waiting) // max(len(self._workers), 1)))
        queues: dict[tuple[str, _Worker | None], _Queue] = {}
        taken: dict[tuple[str, _Worker | None], int] = {}
        for ticket in self._waiting:
            kind = ticket.service, ticket.tried
            if kind not in queues:
                queues[kind] = self._queue(ticket, now)
            worker = self._next(queues[kind], ticket, now)
            if worker is None:
                if not self._has_no_other(ticket):
                    left.append(ticket)
                continue
            self._give(ticket, worker)
            groups.setdefault(worker, []).append(ticket.call)
            taken[kind] = taken.get(kind, 0) + 1
            if taken[kind] % size == 0:
                queues[kind] = self._queue(ticket, now)
        self._waiting = left
        for worker in {*groups, *(each for each in self._workers.values() if each.cuts)}:
            cuts, worker.cuts = worker.cuts, []
            worker.turn = next(self._turns)
            worker.link.send(worker.packer.pack(groups.get(worker, ()), cuts))
        if left and not self._lacks_workers and all(each.drains for each in self._workers.values()):
            self._lacks_workers = True
            self._say("No worker is left: waiting for one.", "warning")

    def _queue(self, ticket: _Ticket, now: float) -> _Queue:
        """Return the workers that may take a call, as a heap: the fewest calls first."""
        fit = [each for each in self._workers.values() if not each.drains and each is not ticket.tried]
        # If none reaches the service, that is not for this module to judge: the engine learns it from the failures.
        fit = [each for each in fit if each.reach(ticket.service).is_open(now)] or fit
        queue = [(each.unsent, len(each.out), each.turn, number, each) for number, each in enumerate(fit)]
        heapq.heapify(queue)
        return queue

    def _next(self, queue: _Queue, ticket: _Ticket, now: float) -> _Worker | None:
        """Return the worker that takes a call; None: each has as many as it can have."""
        while queue:
            worker = queue[0][-1]
            reach = worker.reaches.get(ticket.service)
            if len(worker.out) < worker.link.room and (reach is None or reach.probe is None):
                if reach and reach.has_rested and now >= reach.rests_until:
                    reach.probe = ticket.call.id
                return worker
            heapq.heappop(queue)
        return None

    def _has_no_other(self, ticket: _Ticket) -> bool:
        """End a call that did not get through from one worker if there is no other one left; return whether it has."""
        if ticket.failure is None or any(
            not each.drains and each is not ticket.tried for each in self._workers.values()
        ):
            return False
        self._acquit(ticket)
        _set(ticket.came, ticket.failure)
        return True

    def _give(self, ticket: _Ticket, worker: _Worker) -> None:
        ticket.worker = worker
        ticket.handed_at = self._seconds
        worker.out[ticket.call.id] = ticket
        worker.unsent += 1

    async def _cut(self, ticket: _Ticket) -> Completion | None:
        """Cut off a call that nothing waits for any more; return what had come of its answer."""
        if ticket.worker is None:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            self._acquit(ticket)
            _leave_behind(ticket)
            return None
        if ticket.worker.out.get(ticket.call.id) is not ticket:
            _leave_behind(ticket)
            return None
        ticket.is_cut, ticket.is_recalled = True, False  # what is taken back is made elsewhere; this is not
        came = ticket.came = self._loop.create_future()
        ticket.worker.cuts.append(ticket.call.id)
        self._flush_soon()
        try:
            async with asyncio.timeout(_CUT_S):
                partial = await came
        except (TimeoutError, asyncio.CancelledError, BatcherError):  # the last: the cluster is lost
            return None
        return partial if isinstance(partial, Completion) else getattr(partial, "partial", None)

    # -- News

    async def _read(self, worker: _Worker) -> None:
        """Take a worker's news until it is lost."""
        try:
            while True:
                news = await worker.link.news(min(_NEWS_S * len(self._workers), _LONGEST_NEWS_S))
                worker.silent_s = 0
                departed, ended = unpack_news(news)
                for call_id in departed:
                    if ticket := worker.out.get(call_id):
                        self._left(ticket, worker)
                for call_id, came in ended:
                    if ticket := worker.out.get(call_id):
                        self._ended(ticket, worker, came)
                if self._waiting:
                    self._flush_soon()
                if worker.drains and self._release_if_idle(worker):
                    return
        except WorkerLost as error:
            self._lose(worker, str(error))

    def _left(self, ticket: _Ticket, worker: _Worker) -> None:
        if ticket.has_left:
            return
        ticket.has_left = True
        worker.unsent -= 1
        worker.reach(ticket.service).left_at = self._seconds
        if ticket.tried:
            self._blame(ticket)
        ticket.departed()

    def _ended(self, ticket: _Ticket, worker: _Worker, came: Completion | Failure | None) -> None:
        """Record how a call ended at a worker; hand it to another one if it did not get through."""
        del worker.out[ticket.call.id]
        worker.unsent -= not ticket.has_left
        reach = worker.reach(ticket.service)
        if reach.probe == ticket.call.id:
            reach.probe = None
        if ticket.is_recalled and came is None and not ticket.has_left:
            came = Failure(Fault.TIMEOUT, f"{worker.link.name} got no connection within {_RECALL_S} s")
        if ticket.is_cut and not ticket.is_recalled:
            self._acquit(ticket)
            _leave_behind(ticket)
            _set(ticket.came, came)
            return
        if came is None:  # a worker that ends by itself cuts its calls off
            self._end_without_answer(ticket, worker, "it has cut the call off")
        elif isinstance(came, Failure) and got_nowhere(came) and not ticket.has_left:
            self._did_not_get_through(ticket, worker, came)
        else:
            _set(ticket.came, self._judged(ticket, worker, reach, came))

    def _judged(
        self, ticket: _Ticket, worker: _Worker, reach: Reach, came: Completion | Failure
    ) -> Completion | Failure:
        """Return what came, or the failure of a worker that gets nothing but pages while others are answered."""
        now = self._loop.time()
        if ticket.tried:
            self._blame(ticket)
        if shows_nothing(came):
            return came
        if isinstance(came, Completion) or not came.is_page:
            self._answered.setdefault(ticket.service, {})[worker] = now
            if reach.reached():
                self._say(f"{worker.link.name} reaches {ticket.service} again.", "info")
            return came
        reach.paged(now)
        answered = {each: at for each, at in self._answered.get(ticket.service, {}).items() if each is not worker}
        is_usual = any(each.reach(ticket.service).gets_pages_too(at, now) for each, at in answered.items())
        if not reach.gets_only_pages(max(answered.values(), default=-math.inf), is_usual=is_usual):
            return came
        self._rest(worker, ticket.service, str(came))
        return replace(came, fault=Fault.WORKER)

    def _did_not_get_through(self, ticket: _Ticket, worker: _Worker, failure: Failure) -> None:
        """Let another worker try, which shows whether this one or the service is to blame; else the engine judges."""
        now = self._loop.time()
        ticket.worker, ticket.is_recalled, ticket.is_cut = None, False, False
        others = [
            each
            for each in self._workers.values()
            if each is not worker and not each.drains and each.reach(ticket.service).is_open(now)
        ]
        if ticket.tried or not others:
            self._acquit(ticket)
            _set(ticket.came, failure)
            return
        worker.reach(ticket.service).suspicions += 1
        ticket.tried, ticket.failure = worker, failure
        self._waiting.appendleft(ticket)
        self._flush_soon()

    def _acquit(self, ticket: _Ticket) -> None:
        """End the suspicion against the worker from which a call did not get through: nothing was shown."""
        if ticket.tried:
            ticket.tried.reach(ticket.service).suspicions -= 1
            ticket.tried = None

    def _blame(self, ticket: _Ticket) -> None:
        """Let the worker rest from which a call did not get through: it did from another one."""
        if worker := ticket.tried:
            self._acquit(ticket)
            self._rest(worker, ticket.service, str(ticket.failure))

    def _rest(self, worker: _Worker, service: str, why: str) -> None:
        reach = worker.reach(service)
        is_first = not reach.has_rested
        seconds = reach.rest(self._loop.time())
        if is_first and worker.link in self._workers:
            self._say(f"{worker.link.name} does not reach {service} ({why}): it rests, and is tried again.", "warning")
        self._loop.call_later(seconds, self._flush_soon)

    # -- Workers that go

    def _release_if_idle(self, worker: _Worker) -> bool:
        """Give a worker back that has nothing in flight; return whether it has nothing."""
        if not worker.out and worker.link in self._workers:
            self._forget(worker)
            self._cluster.released(worker.link)
        return not worker.out

    def _lose(self, worker: _Worker, why: str) -> None:
        """End the calls of a worker that is lost: nobody knows what became of them."""
        if self._workers.get(worker.link) is not worker:
            return
        self._forget(worker)
        self.losses += 1
        out = [*worker.out.values()]
        repeated = [each for each in out if not each.is_cut or each.is_recalled]
        self.repeated += len(repeated)
        them = f": {counted(len(repeated), 'request')} that it had in flight will be repeated" if repeated else ""
        self._say(f"{worker.link.name} is lost ({why}){them}.", "warning")
        for ticket in out:
            del worker.out[ticket.call.id]
            self._end_without_answer(ticket, worker, why)
        self._flush_soon()
        worker.link.kill()
        self._cluster.released(worker.link)

    def _end_without_answer(self, ticket: _Ticket, worker: _Worker, why: str) -> None:
        self._acquit(ticket)
        _leave_behind(ticket)
        _set(ticket.came, Failure(Fault.WORKER, f"{worker.link.name} is lost: {why}", may_be_billed=True))

    def _forget(self, worker: _Worker) -> None:
        del self._workers[worker.link]
        for answered in self._answered.values():
            answered.pop(worker, None)
        if worker.reader and worker.reader is not asyncio.current_task():
            worker.reader.cancel()

    def _each_second(self) -> None:
        """Find workers that are silent, and calls that do not leave or do not end."""
        self._tick = self._loop.call_later(1, self._each_second)
        self._seconds += 1
        for worker in [*self._workers.values()]:
            worker.silent_s += 1
            if worker.silent_s > _SILENT_S:
                self._lose(worker, f"silent for {duration(_SILENT_S)}")
            elif late := next((each for each in worker.out.values() if self._is_late(each)), None):
                self._lose(worker, f"a call did not end within {duration(late.call.timeout_s + _OVERTIME_S)}")
            else:
                self._recall(worker)

    def _is_late(self, ticket: _Ticket) -> bool:
        return self._seconds - ticket.handed_at > ticket.call.timeout_s + _OVERTIME_S

    def _recall(self, worker: _Worker) -> None:
        """Take back calls that have not left a worker for long, while later ones to the service have left others."""
        for ticket in worker.out.values() if worker.unsent else ():
            if ticket.has_left or ticket.is_cut or self._seconds - ticket.handed_at < _RECALL_S:
                continue
            others = (each for each in self._workers.values() if each is not worker)
            if any(each.reach(ticket.service).left_at > ticket.handed_at for each in others):
                ticket.is_cut = ticket.is_recalled = True
                worker.cuts.append(ticket.call.id)
                self._flush_soon()


def _leave_behind(ticket: _Ticket) -> None:
    """Tell of a call that has not left as far as is known, and will not any more: its limits need not wait for it."""
    if not ticket.has_left:
        ticket.has_left = True
        ticket.departed()


def _fail(tickets: Iterable[_Ticket], error: BatcherError) -> None:
    for ticket in tickets:
        if not ticket.came.done():
            ticket.came.set_exception(error)


def _set(came: asyncio.Future[Completion | Failure | None], value: Completion | Failure | None) -> None:
    if not came.done():
        came.set_result(value)

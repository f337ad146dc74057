"""A request whose answer is late, and the second one that is made beside it (`--hedge`): the first answer counts.

Invariant: of the two one alone brings its rows an answer. The other one is cancelled, ends in the journal as `hedged`,
and costs the most that it may cost; a failure of one is no reason not to wait for the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from batcher.engine.asked import Answered, Asked, Failed, Refused, Tried
from batcher.engine.hedging import Hedges
from batcher.engine.progress import Tally
from batcher.engine.sending import Flight, Sender, failed
from batcher.errors import OutputError
from batcher.journal.entries import HEDGED, Outcome
from batcher.journal.writing import Journal
from batcher.money.spending import Spending
from batcher.pool.blame import History
from batcher.pool.member import Member
from batcher.pool.pool import Pool, PoolClosed, PoolEmpty
from batcher.records import Completion, Message


class Race:
    """A request, and the second one that may be made beside it because its answer is late.

    Attributes:
        first: the request.
        after: the endpoint at which its rows failed before, or None.
        left_s: the seconds that they had left when it left.
        began: the loop's time at which it left; if another process makes the call, at which that is known.
        task: makes the second request, from when the answer is late.
        is_leaving: the second request is being journalled: it is not cancelled, but must not leave if it is over.
        second: the second request, once it has left.
        answered: the second request's answer, if it came first.
        is_over: what came is decided.
    """

    __slots__ = ("after", "answered", "began", "first", "is_leaving", "is_over", "left_s", "second", "task")

    def __init__(self, first: Flight, after: Member | None, left_s: float) -> None:
        self.first = first
        self.after = after
        self.left_s = left_s
        self.began = asyncio.get_running_loop().time()
        self.task: asyncio.Task[None] | None = None
        self.is_leaving = False
        self.second: Flight | None = None
        self.answered: Answered | None = None
        self.is_over = False


class Races:
    """Sends requests beside which second ones may be sent.

    Args:
        hedges: says which rows are asked a second time.
        sender: sends both.
        landed: records what a request brought, and what it cost.
        estimate: returns the model tokens that a prompt is estimated to have, if that matters.
        tier: of the endpoints that are asked; see `Member`.
        journal: gets the ends of those that do not count.
        pool: grants the calls of second requests.
        spending: reserves and settles their cost.
        tally: knows how many rows are left.
    """

    def __init__(
        self,
        hedges: Hedges,
        sender: Sender,
        landed: Callable[[Asked, Flight, History], Tried],
        estimate: Callable[[Sequence[Message]], float | None],
        *,
        tier: int,
        journal: Journal,
        pool: Pool,
        spending: Spending,
        tally: Tally,
    ) -> None:
        self._hedges = hedges
        self._sender = sender
        self._landed = landed
        self._estimate = estimate
        self._tier = tier
        self._journal = journal
        self._pool = pool
        self._spending = spending
        self._tally = tally
        self._loop = asyncio.get_running_loop()
        # Calls that were cut off, and have not ended yet.
        self._ending: set[asyncio.Task[None]] = set()

    async def run(self, asked: Asked, race: Race, history: History) -> Tried:
        """Send a request beside which a second one may be sent if its answer is late; the first answer counts.

        If one of them fails, the other one is waited for. If both do, the rows are judged by the first one's failure.
        """
        first, hedges = race.first, self._hedges
        first.task = self._loop.create_task(self._sender.send(asked, first, race.left_s))
        begin = partial(self._begin_second, asked, race, history)
        if first.slot.member.distant is None:
            hedges.left(first.kind, first.request.id, begin)
        else:
            first.departed = partial(self._departed, race, begin)
        try:
            try:
                await first.task
            except asyncio.CancelledError:
                if race.answered is None:
                    raise
            if first.is_cut and race.answered:
                return race.answered
            return await self._first_ended(asked, race, history)
        finally:
            race.is_over = True
            came = isinstance(first.came, Completion) or first.is_cut
            hedges.ended(first.kind, first.request.id, first.seconds if came else None)
            for flight_task in (first.task, race.task):
                self._let_end(flight_task, is_leaving=race.is_leaving and flight_task is race.task)

    def _departed(self, race: Race, begin: Callable[[], None]) -> None:
        """Await the answer from now on: while a request waits for a worker, it is not late."""
        if not (race.is_over or race.first.is_cut):
            race.began = self._loop.time()
            self._hedges.left(race.first.kind, race.first.request.id, begin)

    async def _first_ended(self, asked: Asked, race: Race, history: History) -> Tried:
        """Record the end of a first request, and wait for the second one if there is no answer yet."""
        first = race.first
        if isinstance(first.came, Completion):
            if race.second:
                self._cut(race.second)
            return self._landed(asked, first, history)
        tried = self._landed(asked, first, history)
        if race.second is None or race.task is None:
            return tried
        self._pool.release(first.slot)
        since, counts = self._loop.time(), False
        try:
            await race.task
            counts = race.answered is None
        finally:
            # Also if a stop ends the wait: otherwise the journal would say that it may still be billed.
            if not counts and isinstance(tried, (Refused, Failed)):  # the ends of others are in the journal
                self._journal.failed(tried.request, tried.outcome)
        if race.answered is not None:
            return race.answered
        if not isinstance(tried, Refused):  # that uses up no time of the row
            history.in_flight_s += self._loop.time() - since
        return tried

    def _begin_second(self, asked: Asked, race: Race, history: History) -> None:
        race.task = self._loop.create_task(self._second(asked, race, history))

    async def _second(self, asked: Asked, race: Race, history: History) -> None:
        """Make a second request about rows whose answer is late, if there is a slot and money that no row needs."""
        terms, hedges = asked.row.question.terms, self._hedges
        try:
            slot = await self._pool.take_spare(
                race.first.slot,
                after=race.after,
                tokens=self._estimate(asked.messages),
                model=terms.model,
                tier=self._tier,
                lacked=asked.lacked,
            )
        except (PoolClosed, PoolEmpty):
            return
        member, wire = slot.member, asked.wire_at(slot.member)
        second = Flight(slot, wire, race.first.messages, self._sender.bound(asked, member, wire))
        reserved = None
        try:
            if hedges.may_begin and len(asked.rows) <= member.size.inputs:
                reserved = self._spending.reserve_spare(second.bound, self._tally.left)
            if reserved is None:
                hedges.again(race.first.kind, race.first.request.id, partial(self._begin_second, asked, race, history))
                return
            hedges.made += 1
            race.is_leaving = True
            has_left = await self._sender.depart(asked, second, lambda: not race.is_over)
            race.is_leaving = False
            if has_left:
                second.task, race.second = race.task, second
                await self._sender.send(asked, second, race.left_s - (self._loop.time() - race.began))
                self._second_ended(asked, race, history)
            else:
                hedges.made -= 1
        except OutputError:
            return  # the rows' own request gets the same error
        finally:
            self._pool.release(slot)
            self._spending.settle(reserved or 0, second.cost)

    def _second_ended(self, asked: Asked, race: Race, history: History) -> None:
        """Record the end of a second request; if its answer is the first one, it counts."""
        first, second = race.first, race.second
        if second is None or second.is_cut:
            return
        if isinstance(second.came, Completion) and not isinstance(first.came, Completion):
            if first.came is None:
                first.seconds = self._loop.time() - race.began
                self._cut(first)
            tried = self._landed(asked, second, history)
            race.answered = tried if isinstance(tried, Answered) else None
            self._hedges.won += 1
            return
        self._second_missed(asked, second, history)

    def _second_missed(self, asked: Asked, second: Flight, history: History) -> None:
        """Record the end of a second request that brought nothing that counts: it uses up nothing of the row."""
        came, request = second.came, second.request
        if isinstance(came, Completion):  # both answers came at once
            self._sender.record(asked, second, history)
            outcome = Outcome(HEDGED, came.usage, self._sender.answered(asked, second, came).cost)
        elif came is None:
            return
        elif refused := self._sender.set_aside(asked, second, came):
            outcome = refused.outcome
        else:
            self._sender.record(asked, second, history)
            outcome = failed(came, second.bound)
            self._sender.charge(second, outcome, came.partial, str(came))
        second.cost = outcome.cost
        self._journal.failed(request, outcome)

    def _cut(self, flight: Flight) -> None:
        """Cancel one of two requests, because the other one is answered; it may be billed all the same."""
        if flight.is_cut or flight.came is not None:
            return
        flight.is_cut = True
        outcome = Outcome(HEDGED, cost=flight.bound.cost)
        self._journal.failed(flight.request, outcome)
        self._sender.charge(flight, outcome, None, "")
        if flight.task:
            flight.task.cancel()

    def _let_end(self, task: asyncio.Task[None] | None, *, is_leaving: bool) -> None:
        """Cancel a task that nothing waits for any more; one that journals a request will not let it leave."""
        if task is None or task.done():
            return
        if not is_leaving:
            task.cancel()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def ended(self) -> None:
        """Wait for the calls that were cut off."""
        while self._ending:
            await asyncio.gather(*self._ending, return_exceptions=True)

"""One request on its way: its intent, its call, what it brought at its endpoint, and what it cost.

Invariant: a request leaves only after its intent is in the journal; from then on it costs its bound until its cost is
known.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from batcher.calls.batches import weight_of
from batcher.calls.caller import CallCut
from batcher.calls.fate import TIER_REFUSED, lacks_capacity, refuses_tier
from batcher.calls.forms import Wire
from batcher.calls.patience import Stopwatch
from batcher.engine.asked import Answered, Asked, Refused, Unloaded
from batcher.engine.feed import Row
from batcher.engine.hedging import Kind
from batcher.engine.notices import Notices
from batcher.engine.progress import Progress, Tally
from batcher.engine.stop import to_the_end
from batcher.input.images import holds_images, loaded
from batcher.input.picture import Unusable
from batcher.journal.entries import HEDGED, NO_CAPACITY, UNSENT, Outcome, Request, Sent
from batcher.journal.writing import Journal
from batcher.money.spending import Spending
from batcher.planning.service_tiers import PARAM
from batcher.pool.blame import History, backoff
from batcher.pool.member import Member, Slot
from batcher.pool.pool import Pool
from batcher.records import Bound, Completion, Failure, Fault, Message, Task
from batcher.settings import Settings

_SHORTEST_TIMEOUT_S = 0.001
# A row may be what ends workers: so often it is asked again because one was lost, and then that counts as its failure.
_LOSSES = 8
# Why a stream was cut off, if this process did it.
_STOPPED = "batcher was stopped"
# ... or if another endpoint was faster.
_OVERTAKEN = "the answer to a second request came first"


class Flight:
    """A request on its way.

    Attributes:
        slot: the right to make its call.
        wire: what it adds to the messages of its rows.
        messages: of its rows, with their images.
        bound: the most that it may cost.
        request: its line in the journal, once it has one.
        cost: nano-dollars: nothing before it leaves, then its bound until it is known; None: that is not known.
        came: what it brought; None: it is under way, or was cut off.
        was_refused: the service refused the answer, because it does not fit, and showed it in the refusal.
        seconds: that it took.
        task: makes its call, if a second request may race with it.
        departed: is called when its request leaves, if another process makes the call.
        is_cut: the answer to the other request overtook it.
    """

    __slots__ = (
        "bound",
        "came",
        "cost",
        "departed",
        "is_cut",
        "messages",
        "request",
        "seconds",
        "slot",
        "task",
        "was_refused",
        "wire",
    )

    request: Request

    def __init__(self, slot: Slot, wire: Wire, messages: list[Message], bound: Bound) -> None:
        self.slot = slot
        self.wire = wire
        self.messages = messages
        self.bound = bound
        self.cost: int | None = 0
        self.came: Completion | Failure | None = None
        self.was_refused = False
        self.seconds = 0.0
        self.task: asyncio.Task[Any] | None = None
        self.departed: Callable[[], None] | None = None
        self.is_cut = False

    @property
    def kind(self) -> Kind:
        """What its latency depends on."""
        return self.slot.member.source, self.wire.form, self.slot.tier


class _Departure:
    """Records that the request of a call which another process makes has left there; `at` is then the loop's time."""

    __slots__ = ("_flight", "_pool", "at")

    def __init__(self, pool: Pool, flight: Flight) -> None:
        self._pool = pool
        self._flight = flight
        self.at = 0.0

    def __call__(self) -> None:
        if not self._flight.slot.is_away:  # it is known already
            return
        self.at = asyncio.get_running_loop().time()
        self._pool.departed(self._flight.slot)
        if self._flight.departed:
            self._flight.departed()


class Sender:
    """Sends requests, any number of them at once, and records what each brought at its endpoint.

    Args:
        settings: the options.
        journal: gets every intent, and the ends of those that bring no answer.
        pool: has granted their slots.
        spending: is told what may be billed without an answer.
        tally: counts those that leave.
        progress: shows messages.
        notices: tells what is odd about answers and endpoints.
    """

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        *,
        pool: Pool,
        spending: Spending,
        tally: Tally,
        progress: Progress,
        notices: Notices,
    ) -> None:
        self._settings = settings
        self._is_embedding = settings.task == Task.EMBEDDING
        self._journal = journal
        self._pool = pool
        self._spending = spending
        self._tally = tally
        self._progress = progress
        self._notices = notices
        self._loop = asyncio.get_running_loop()
        # The start of each request that is under way; the oldest request first.
        self._under_way: dict[int, float] = {}
        # The further parameters of requests with the service tier that they ask for, by these parameters and the tier.
        self._in_tier: dict[tuple[int, str], tuple[Mapping[str, Any], Mapping[str, Any]]] = {}

    @property
    def oldest(self) -> float:
        """The loop's time at which the oldest request under way began; infinite without one."""
        return next(iter(self._under_way.values()), math.inf)

    def bound(self, asked: Asked, member: Member, wire: Wire) -> Bound:
        """Return the most that a request may cost."""
        return member.tariff_in(wire.form).on(asked.row.question.terms, asked.messages).bound(asked.messages)

    async def depart(self, asked: Asked, flight: Flight, may_leave: Callable[[], bool] = lambda: True) -> bool:
        """Journal a request and let it leave; return False if it must not leave after all.

        Args:
            asked: its rows.
            flight: the request.
            may_leave: returns whether it is still wanted when it is in the journal.
        """
        flight.request = await self._intend(asked.rows, flight.slot.member, flight.bound)
        if not may_leave() or not self._pool.leave(flight.slot):
            self._journal.failed(flight.request, Outcome(UNSENT, cost=0))
            return False
        self._tally.sent += 1
        flight.cost = flight.bound.cost
        return True

    async def loaded(self, messages: list[Message]) -> list[Message] | Unloaded:
        """Return messages with their images, which are read and decoded in a thread."""
        if not holds_images(messages):
            return messages
        try:
            return await to_the_end(self._loop.run_in_executor(None, loaded, messages))
        except Unusable as fault:
            return Unloaded(str(fault))

    def _intend(self, rows: Sequence[Row], member: Member, bound: Bound) -> Awaitable[Request]:
        """Record that a request is about to leave."""
        if len(rows) == 1:
            return self._journal.sent(rows[0].position, rows[0].key, member.number, member.source, bound)
        lines = [Sent(row.position, row.key, weight_of(row.question.messages)) for row in rows]
        return self._journal.sent_together(lines, member.number, member.source, bound)

    async def send(self, asked: Asked, flight: Flight, left_s: float) -> None:
        """Make a call, which may take the seconds that its rows have left; keep what came, and the seconds it took.

        Seconds in which the process stood still do not count.
        """
        request, slot, wire, terms = flight.request, flight.slot, flight.wire, asked.row.question.terms
        attempt_s = self._settings.attempt_s_in(self._own_tier(asked) or slot.tier)
        timeout = max(min(attempt_s, left_s), _SHORTEST_TIMEOUT_S)
        began = self._under_way[request.id] = self._loop.time()
        # A stream may take as long as its row has left, and a night in which the machine sleeps is no part of that.
        watch = Stopwatch() if self._settings.stream else None
        try:
            messages, params = wire.messages(flight.messages), self._params(wire, slot)
            if slot.member.distant is None:
                came = await slot.member.caller.call(messages, timeout, params, terms)
            else:
                # A row's time does not pass while its request waits for a worker.
                left = _Departure(self._pool, flight)
                came = await slot.member.distant.call_away(messages, timeout, params, terms, left)
                began = left.at or self._loop.time()
                self._pool.departed(slot, is_known=False)  # if nothing was told of that
        except CallCut as cut:
            if flight.is_cut:
                self.charge(flight, Outcome(HEDGED, cost=0), cut.partial, _OVERTAKEN)
            else:
                self._journal.partial(request, cut.partial, _STOPPED)
            raise
        finally:
            del self._under_way[request.id]
            timeout = min(timeout, watch.stop()) if watch else timeout
        flight.came, flight.seconds = self._as_asked(asked, flight, came), min(self._loop.time() - began, timeout)

    def _as_asked(self, asked: Asked, flight: Flight, came: Completion | Failure) -> Completion | Failure:
        """Return what came: a failure if the vectors are not those asked for, an answer if a refusal shows one."""
        if self._is_embedding and isinstance(came, Completion):
            # The vectors hold all of the body, which may have 10 MB: it must not stay until they are journalled.
            came = replace(came, raw=b"")
            if len(came.vectors) != len(asked.rows) or not any(came.vectors):
                came = Failure(Fault.PROTOCOL, "other vectors came than were asked for", may_be_billed=True)
        flight.was_refused = flight.wire.form is not None and isinstance(came, Failure) and came.generated != ""
        if isinstance(came, Failure) and flight.was_refused:
            came = Completion(came.generated, came.code, limits=came.limits, choices=0)
        return came

    def _params(self, wire: Wire, slot: Slot) -> Mapping[str, Any]:
        """Return the further parameters of a request: those of its form, and the service tier."""
        word = slot.member.tiers.word(slot.tier)
        if not word:
            return wire.params
        # The same few objects for all requests; the form's own is kept, so that its id is.
        key = id(wire.params), word
        if key not in self._in_tier:
            self._in_tier[key] = {**wire.params, PARAM: word}, wire.params
        return self._in_tier[key][0]

    def _own_tier(self, asked: Asked) -> str | None:
        """Return the service tier that a row asks for by a parameter of its own, which wins over all others."""
        own = asked.row.question.terms.params.get(PARAM)
        return None if own is None else str(own)

    def set_aside(self, asked: Asked, flight: Flight, came: Completion | Failure) -> Refused | None:
        """Record a failure that says nothing about the row and the endpoint; None: that is not what came."""
        if isinstance(came, Failure) and came.fault is Fault.WORKER and asked.losses < _LOSSES:
            asked.losses += 1
            asked.is_stepping = True
            outcome = failed(came, flight.bound)
            self.charge(flight, outcome, came.partial, str(came))
            # Rows that were out at one worker part, so that one which ends workers is not among the same ones again.
            jitter = random.random()  # noqa: S311 - spreads waits, guards nothing
            wait_s = backoff(asked.losses - 1, jitter) if asked.losses > 1 else 0.0
            return Refused(flight.slot.member, flight.request, outcome, wait_s, str(came))
        return self._of_tier(asked, flight.request, flight.slot, came)

    def _of_tier(self, asked: Asked, request: Request, slot: Slot, came: Completion | Failure) -> Refused | None:
        """Record a refusal that concerns the service tier of a request alone; None: that is not what came."""
        member, tier = slot.member, slot.tier
        if not isinstance(came, Failure) or self._own_tier(asked) is not None:
            return None
        if lacks_capacity(came, tier):
            self._pool.lacks_capacity(slot, came)
            times = asked.lacked[member.source, tier] = asked.lacked.get((member.source, tier), 0) + 1
            asked.is_stepping = True
            self._notices.of_no_capacity(member, tier, self._pool.now(), came)
            jitter = random.random()  # noqa: S311 - spreads waits, guards nothing
            wait_s = backoff(times, jitter)
            return Refused(member, request, Outcome(NO_CAPACITY, cost=0), wait_s, f"{tier} has no capacity")
        if refuses_tier(came, member.tiers.word(tier) or tier) and member.tiers.denied(tier):
            asked.is_stepping = True
            self._leave_tier(member, tier, came)
            return Refused(member, request, Outcome(str(came.status), cost=0))
        return None

    def _leave_tier(self, member: Member, tier: str, failure: Failure) -> None:
        """Go on in the next service tier, because the service does not have this one, or else without the endpoint."""
        if member.tiers.names:
            self._notices.of_denied_tier(member, tier, failure)
            return
        for each in self._pool.members:
            is_alike = each.tiers is member.tiers
            if is_alike and self._pool.remove(each, f"{TIER_REFUSED} ({tier}): {failure}") and self._pool.capacity:
                self._progress.say(f"{each.label} leaves the pool: {each.out}", "warning")

    def record(self, asked: Asked, flight: Flight, history: History) -> None:
        """Record what a request brought at its endpoint."""
        # What could not be used of a whole request counts once for its endpoint, and not again for each half.
        is_known = asked.before is not None and not asked.before.is_clean and history.is_clean
        if flight.came and (
            silence := self._pool.record(flight.slot, flight.came, asked.before if is_known else history)
        ):
            self._notices.of_silence(silence)

    def answered(self, asked: Asked, flight: Flight, came: Completion) -> Answered:
        """Learn from an answer what later requests may cost, and return it with its own cost."""
        request, slot, form = flight.request, flight.slot, flight.wire.form
        member = slot.member
        if (seconds := self._pool.has_capacity(slot)) is not None:
            self._notices.of_capacity(member, slot.tier, seconds)
        self._notices.of_answer(member, came, asked.row.question.terms)
        if self._settings.keep_thinking:
            came = came.as_it_came or came
        tariff = member.tariff_in(form).on(asked.row.question.terms, asked.messages)
        self._notices.of_lessons(member, tariff.learn(asked.messages, came))
        # Before its own cost is settled: a request that waits for the budget may need what comes back.
        if not request.shared:
            self._spending.refund(request.key, request.source, came.usage.prompt_tokens)
        return Answered(member, request, came, tariff.cost(came, flight.bound), form, flight.was_refused)

    def charge(self, flight: Flight, outcome: Outcome, partial: Completion | None, why: str) -> None:
        """Charge a request at its bound that may be billed and has no answer.

        Args:
            flight: the request.
            outcome: how it ended.
            partial: what had come of its answer. The tokens that it reported lower the charge, here and in the journal.
            why: it was cut off.
        """
        request = flight.request
        if outcome.cost and not request.shared:
            self._spending.lose(request.key, request.source, flight.bound)
        if partial:
            self._journal.partial(request, partial, why)
            self._spending.refund(request.key, request.source, partial.usage.prompt_tokens)


def failed(failure: Failure, bound: Bound) -> Outcome:
    """Return how a request ended that brought no answer; if it may be billed, it costs its bound."""
    billed = bound.cost if failure.may_be_billed or bound.cost is None else 0
    return Outcome(str(failure.status or failure.fault.value), cost=billed)

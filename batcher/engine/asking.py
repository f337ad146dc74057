"""One request at a time: reserve money and a slot, send it, judge its outcome, and settle the results of its rows.

A request is about one row, or about several whose embeddings are asked for together.

Invariant: a request leaves only after its intent is in the journal and its money is reserved; a row is counted only
when the journal has its result.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from batcher.answer.confidence import confidence_of
from batcher.answer.reading import is_whole
from batcher.answer.reading import read as as_result
from batcher.answer.shape import ReadAs, Shape
from batcher.calls.batches import is_of_one_row, is_too_large, lowered, weight_of
from batcher.calls.caller import CallCut
from batcher.calls.embeddings import NO_VECTOR
from batcher.calls.fate import TIER_REFUSED, lacks_capacity, refuses_tier
from batcher.calls.forms import AS_IT_COMES, Form, Wire, may_be_of_form
from batcher.calls.patience import Stopwatch
from batcher.engine.feed import Row
from batcher.engine.hedging import Flight, Hedges
from batcher.engine.notices import Notices
from batcher.engine.progress import Progress, Tally
from batcher.engine.stop import to_the_end
from batcher.errors import OutputError
from batcher.input.images import holds_images, loaded
from batcher.input.picture import Unusable
from batcher.journal.entries import HEDGED, NO_CAPACITY, UNSENT, Outcome, Request, Sent
from batcher.journal.writing import Journal
from batcher.money.spending import Spending
from batcher.planning.service_tiers import PARAM
from batcher.pool.blame import GIVES_UP_S, Attempt, Case, Decision, History, Policy, Scene, backoff, judge
from batcher.pool.member import Member, Slot
from batcher.pool.pool import ModelGone, Pool, PoolClosed, PoolEmpty
from batcher.records import Bound, Completion, Failure, Fault, Message, Result, Status, Task
from batcher.settings import Settings
from batcher.words import duration

_SHORTEST_TIMEOUT_S = 0.001
# Why a stream was cut off, if this process did it.
_STOPPED = "batcher was stopped"
# ... or if another endpoint was faster.
_OVERTAKEN = "the answer to a second request came first"


class End(NamedTuple):
    """How asking about a row ended.

    Attributes:
        row: that was asked.
        request: the one that brought the result.
        outcome: of that request.
        result: of the row.
        is_kept: the answer did not fit, no further one came, and it is journalled and counted already.
    """

    row: Row
    request: Request
    outcome: Outcome
    result: Result
    is_kept: bool = False


Settle = Callable[[End], Awaitable[Result]]
"""Journals how asking about a row ended, counts it only then, and returns what is in the journal."""


class _Unsent(NamedTuple):
    """An attempt that was not made: its endpoint began a cooldown, or left the pool, while the intent was committed."""

    member: Member


class _Unloaded(NamedTuple):
    """An attempt that was not made, because an image of the row cannot be sent."""

    fault: str


class _Answered(NamedTuple):
    """An attempt that brought an answer, its cost, and how it was asked for.

    `was_refused`: the service refused the answer, because it does not fit, and showed it in the refusal.
    """

    member: Member
    request: Request
    completion: Completion
    cost: int | None
    form: Form | None
    was_refused: bool = False


class _InHalves(NamedTuple):
    """Several rows that are asked again in halves, because one of them may be the reason that the others fail.

    Attributes:
        before: what was tried with all of them.
        outcome: of the latest attempt.
    """

    before: History
    outcome: Outcome = Outcome(UNSENT, cost=0)


class _Refused(NamedTuple):
    """An attempt that was refused for the form in which it was asked for, or for a parameter that batcher had added.

    The row is asked in another form, or without the parameter; if its service tier has no capacity, later. It uses up
    none of the row's attempts.
    """

    member: Member
    request: Request
    outcome: Outcome
    wait_s: float = 0.0


class _Failed(NamedTuple):
    """An attempt that brought no answer: its outcome, and the decision that follows."""

    member: Member
    request: Request
    outcome: Outcome
    decision: Decision


_Tried = _Answered | _Refused | _InHalves | _Failed | _Unsent | _Unloaded


class _Asked:
    """A row that is being asked, or several that share a request: the messages, and what was tried so far.

    Attributes:
        rows: that share the request; mostly one.
        row: the first of them.
        messages: its question, or a message for each of them; after an answer that did not fit also that answer, and
            what was wrong with it.
        repairs: how often that was asked for.
        wire: what the present request adds to them.
        is_stepping: it is asked in another way now, and before other rows: theirs depends on it.
        unfit: the latest answer that did not fit; the row ends with it if none comes that does.
        before: what was tried with the request of which they are a half; None: they are none.
        settle: takes how a row ends that has its request alone.
        lacked: how often each service tier of a source had no capacity for it.
    """

    __slots__ = (
        "_failed",
        "_steps",
        "before",
        "is_stepping",
        "lacked",
        "messages",
        "repairs",
        "row",
        "rows",
        "settle",
        "unfit",
        "wire",
    )

    def __init__(self, rows: Sequence[Row], settle: Settle) -> None:
        self.rows = rows
        self.settle = settle
        self.row = row = rows[0]
        self.messages = row.question.messages
        if len(rows) > 1:
            self.messages = [message for each in rows for message in each.question.messages]
        self.repairs = 0
        self.wire = AS_IT_COMES
        self.is_stepping = False
        self.unfit: tuple[Request, Outcome, Result] | None = None
        self.before: History | None = None
        self.lacked: dict[tuple[int, str], int] = {}
        # For each source that was asked: the first form that may still work for this row, and those that did not.
        self._steps: dict[int, int] = {}
        self._failed: dict[int, list[Form]] = {}

    def wire_at(self, member: Member) -> Wire:
        """Return what a request to an endpoint adds, in the form in which that should be asked."""
        return member.choice.wire(self._steps.get(member.source, 0)) if member.choice else self.wire

    def step(self, member: Member, form: Form, step: int) -> None:
        """Go on to a form, because another one did not work for this row."""
        self.is_stepping = True
        self._steps[member.source] = step
        self._failed.setdefault(member.source, []).append(form)

    def failed(self, member: Member) -> Sequence[Form]:
        """Return the forms that have not worked at an endpoint's source."""
        return self._failed.get(member.source, ())

    def repair(self, text: str, error: str) -> None:
        """Ask again, with the answer that came and what is wrong with it."""
        self.repairs += 1
        self.messages = repaired(self.row.question.messages, text, error)


def repaired(messages: Sequence[Message], text: str, error: str) -> list[Message]:
    """Return a row's messages with an answer that came, and what is wrong with it."""
    return [
        *messages,
        {"role": "assistant", "content": text},
        {"role": "user", "content": f"This answer does not fit: {error}. Answer again, and only as asked for."},
    ]


class _Race:
    """A request, and the second one that may be made beside it because its answer is late.

    Attributes:
        first: the request.
        after: the endpoint at which its rows failed before, or None.
        left_s: the seconds that they had left when it left.
        began: the loop's time at which it left.
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
        self.answered: _Answered | None = None
        self.is_over = False


class Waits(NamedTuple):
    """What the rows that are asked wait for.

    Attributes:
        oldest: the loop's time at which the oldest of their requests began; infinite without one.
        backing_off: rows that wait to be tried again.
        reason: why the last of these does.
    """

    oldest: float
    backing_off: int
    reason: str


class Asker:
    """Asks about rows, any number of them at once.

    Args:
        settings: the options.
        shape: what answers must be; None: any text will do.
        read: reads an answer; default: by the shape.
        scores: requests ask for log-probabilities.
        tier: of the endpoints that it asks; see `Member`.
        journal: gets every intent, failure and result.
        pool: grants the calls.
        spending: reserves and settles their cost.
        tally: counts them.
        progress: shows messages.
        hedges: says which rows are asked a second time; None: none.

    Attributes:
        lacks_witness: set if an endpoint may be at fault, so that a row from further on has to show whether it is.
        has_no_witness: there is no other row, or the farthest that can be reached has failed, too.
    """

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        *,
        shape: Shape | None = None,
        read: Callable[[Completion], Result] | None = None,
        scores: bool = False,
        tier: int = 0,
        pool: Pool,
        spending: Spending,
        tally: Tally,
        progress: Progress,
        hedges: Hedges | None = None,
    ) -> None:
        self.lacks_witness = asyncio.Event()
        self.has_no_witness = False
        self._settings = settings
        self._tier = tier
        self._is_embedding = settings.task == Task.EMBEDDING
        self._shape = shape
        self._read = read or (lambda completion: as_result(completion, shape))
        # What each form adds to a prompt, in estimated model tokens.
        self._tokens: dict[Form | None, float] = {}
        # Answers that did not fit, by their rows' keys, of rows that an earlier process has not ended.
        others = {member.source for member in pool.members if member not in pool.of_tier(tier)}
        self._unfit = journal.unfit_texts(others) if shape is not None and settings.repair else {}
        self._policy = Policy(settings.max_attempts, settings.deadline_s, settings.wait_s)
        # The further parameters of requests with the service tier that they ask for, by these parameters and the tier.
        self._in_tier: dict[tuple[int, str], tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
        self._journal = journal
        self._pool = pool
        self._spending = spending
        self._tally = tally
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._hedges = hedges
        # Calls that were cut off, and have not ended yet.
        self._ending: set[asyncio.Task[None]] = set()
        # The start of each request that is under way; the oldest request first.
        self._under_way: dict[int, float] = {}
        self._backing_off = 0
        self._last_reason = ""
        # The rows that are asked, those of them that have failed, and how many rows of the table wait for them.
        self._asked = 0
        self._troubled = 0
        self._awaited = 0
        read_as = None if shape is None else ReadAs.of(shape)
        self._notices = Notices(settings, journal, progress, read_as, scores=scores)

    def close(self) -> None:
        """Send no further request; those in flight may still arrive."""
        self._closing.set()
        self._pool.close()
        self._spending.close()

    @property
    def awaited(self) -> int:
        """The rows that are asked, and those that wait for their answers."""
        return self._awaited

    @property
    def waits(self) -> Waits:
        """What its rows wait for."""
        return Waits(next(iter(self._under_way.values()), math.inf), self._backing_off, self._last_reason)

    def refresh(self, others: Sequence[Asker] = ()) -> None:
        """Update the tally's figures of the requests under way, those of others that ask at the same pool included."""
        tally, now, waits = self._tally, self._loop.time(), [each.waits for each in (self, *others)]
        tally.in_flight, tally.spent = self._pool.in_flight, self._spending.spent
        tally.oldest_s = max(now - min(each.oldest for each in waits), 0.0)
        backing_off = sum(each.backing_off for each in waits)
        reason = next((each.reason for each in waits if each.backing_off), self._last_reason)
        full = self._pool.full()
        if self._pool.is_paused:
            tally.waiting_for = "paused by hand"
        elif full and full[1]:
            tally.waiting_for = f"{full[0]} has no capacity: again in {duration(full[1])}"
        elif full:
            tally.waiting_for = f"{full[0]} has no capacity: asking again"
        elif cooldown_s := self._pool.cooldown_s():
            tally.waiting_for = f"{reason}: again in {duration(cooldown_s)}"
        elif backing_off:
            tally.waiting_for = f"{backing_off:,} to try again ({reason})"
        else:
            tally.waiting_for = ""

    async def ask(self, row: Row, settle: Settle | None = None) -> Result:
        """Make attempts at a row until it has its result.

        Args:
            row: to be asked.
            settle: takes how that ends; default: it is the row's result (`settle`).

        Raises:
            PoolClosed, PoolEmpty, BudgetClosed, BudgetSpent: it has no result, because the run is stopping.
            OutputError: the journal cannot be written.
        """
        results = await self.ask_together((row,), settle=settle)
        if isinstance(results, History):
            raise AssertionError(row)  # noqa: TRY004 - one row has no halves
        return results[0]

    async def ask_together(
        self, rows: Sequence[Row], before: History | None = None, settle: Settle | None = None
    ) -> Sequence[Result] | History:
        """Make attempts at rows that share a request until they have their results.

        Args:
            rows: to be asked.
            before: what was tried with a request that they shared with others; None: nothing.
            settle: as in `ask`, for a single row that is not embedded.

        Returns:
            Their results; or what was tried, if one of several rows may be the reason that the others have none: each
            half of them has to be asked by itself.

        Raises:
            PoolClosed, PoolEmpty, BudgetClosed, BudgetSpent, OutputError: as for `ask`.
        """
        history = History(rows[0].position)
        if before is not None:
            history.attempts, history.in_flight_s = before.attempts, before.in_flight_s
        awaited = len(rows) + sum(row.followers for row in rows)
        self._asked += 1
        self._awaited += awaited
        self.lacks_witness.clear()
        settle = settle or self.settle
        try:
            return await self._ask(rows, history, before, settle)
        except ModelGone as gone:
            return [await self._refuse(row, str(gone), settle) for row in rows]
        finally:
            self._asked -= 1
            self._awaited -= awaited
            self._troubled -= not history.is_clean

    async def _ask(
        self, rows: Sequence[Row], history: History, before: History | None, settle: Settle
    ) -> Sequence[Result] | History:
        row = rows[0]
        if row.question.fault:
            return [await self._refuse(row, row.question.fault, settle)]
        after: Member | None = None
        asked = self._begun(rows, settle)
        asked.is_stepping = before is not None
        asked.before = before
        while True:
            attempt = await self._attempt(asked, history, after)
            if isinstance(attempt, _Refused):
                self._journal.failed(attempt.request, attempt.outcome)
                await self._back_off(attempt.wait_s)
                continue
            if isinstance(attempt, _InHalves):
                return attempt.before
            if isinstance(attempt, _Unloaded):
                unfit = asked.unfit
                return [
                    await (
                        settle(End(row, *unfit, is_kept=True)) if unfit else self._refuse(row, attempt.fault, settle)
                    )
                ]
            after = attempt.member
            if isinstance(attempt, _Unsent):
                continue
            if isinstance(attempt, _Answered):
                if (results := await self._judge_answer(asked, attempt)) is not None:
                    return results
                after = None
                continue
            decision = attempt.decision
            if decision.row_ends:
                return await self._end(asked, attempt, history)
            self._journal.failed(attempt.request, attempt.outcome)
            self._last_reason = decision.short
            await self._back_off(decision.wait_s)

    async def _end(self, asked: _Asked, attempt: _Failed, history: History) -> Sequence[Result] | History:
        """End rows after their last attempt; each half of several gets one more, because of the other."""
        if asked.unfit:
            self._journal.failed(attempt.request, attempt.outcome)
            return [await asked.settle(End(asked.row, *asked.unfit, is_kept=True))]
        if len(asked.rows) > 1 and history.in_flight_s < self._policy.deadline:
            self._journal.failed(attempt.request, attempt.outcome)
            return History(attempts=self._policy.max_attempts - 1, in_flight_s=history.in_flight_s)
        ended = Result(Status.ERROR, "", attempt.decision.reason)
        if len(asked.rows) > 1:
            return await self._settle_together(asked, attempt.request, [ended] * len(asked.rows), attempt.outcome)
        return [await asked.settle(End(asked.row, attempt.request, attempt.outcome, ended))]

    def _begun(self, rows: Sequence[Row], settle: Settle) -> _Asked:
        """Return rows to be asked; one that an earlier process asked goes on with the answer that did not fit."""
        asked, row = _Asked(rows, settle), rows[0]
        if self._shape and self._settings.repair and (text := self._unfit.pop(row.key, "")):
            asked.repair(text, self._shape.read(text).error)
        return asked

    async def _judge_answer(self, asked: _Asked, attempt: _Answered) -> Sequence[Result] | None:
        """Settle rows by what came; return None if a row is asked again because the answer does not fit."""
        self.has_no_witness = False
        member, completion, form, choice = attempt.member, attempt.completion, attempt.form, attempt.member.choice
        outcome = Outcome("answered", completion.usage, attempt.cost, completion, form)
        if self._is_embedding:
            self._notices.of_vector(member, next(filter(None, completion.vectors)))
            # One that is none is paid, like the others: asking for all of them again would pay for these twice.
            vectors = [_of_vector(vector) for vector in completion.vectors]
            return await self._settle_together(asked, attempt.request, vectors, outcome)
        result = self._read(completion)
        outcome = outcome._replace(confidence=confidence_of(completion, result, self._shape))
        if choice is None or form is None or self._shape is None:
            return [await asked.settle(End(asked.row, attempt.request, outcome, result))]
        if result.status is Status.OK:
            choice.held(form, asked.row.position, asked.failed(member))
            self._notices.of_form(member)
            return [await asked.settle(End(asked.row, attempt.request, outcome, result))]
        is_of_form = is_whole(completion) and choice.missed(form, asked.row.position)
        step = choice.step_after(form) if is_of_form or attempt.was_refused else None
        if step is not None:
            asked.step(member, form, step)
        elif asked.repairs < self._settings.repair and is_whole(completion) and result.answer.strip():
            asked.repair(completion.text or "", result.error)
        else:
            return [await asked.settle(End(asked.row, attempt.request, outcome, result))]
        await self._journal.unfit(attempt.request, outcome)
        self.count(outcome)
        asked.unfit = attempt.request, outcome, result
        return None

    async def _refuse(self, row: Row, fault: str, settle: Settle) -> Result:
        """End a row that cannot be asked; its request is recorded as one that never left."""
        request = await self.unsent(row)
        return await settle(End(row, request, Outcome(UNSENT, cost=0), Result(Status.ERROR, "", fault)))

    async def unsent(self, row: Row) -> Request:
        """Record a request for a row that ends without one; it never leaves."""
        member = self._pool.of_tier(self._tier)[0]
        return await self._journal.sent(row.position, row.key, member.number, member.source, Bound(cost=0))

    async def _attempt(self, asked: _Asked, history: History, after: Member | None) -> _Tried:
        """Reserve money and a slot for a request, and send it. Its images are in memory only meanwhile."""
        if len(asked.rows) > self._pool.size.inputs:
            return _InHalves(History(attempts=history.attempts, in_flight_s=history.in_flight_s))
        terms, flight = asked.row.question.terms, None
        reserved = await self._spending.reserve(asked.messages, terms, self._tier)
        try:
            tokens = self._estimate(asked.messages)
            slot = await self._pool.take(
                after=after,
                failures=history.failures,
                tokens=tokens,
                is_next=asked.is_stepping,
                model=terms.model,
                tier=self._tier,
                lacked=asked.lacked,
            )
            asked.is_stepping = False
            member = slot.member
            try:
                asked.wire = asked.wire_at(member)
                bound = self._bound(asked, member, asked.wire)
                if not self._spending.covers(reserved, bound) or len(asked.rows) > member.size.inputs:
                    return _Unsent(member)
                messages = await self._loaded(asked.messages)
                if isinstance(messages, _Unloaded):
                    return messages
                flight = Flight(slot, asked.wire, messages, bound)
                if not await self._depart(asked, flight):
                    return _Unsent(member)
                return await self._call(asked, flight, history, after)
            finally:
                # Only after a failure is judged: otherwise the next row would go to an endpoint that needs a cooldown.
                self._pool.release(slot)
        finally:
            self._spending.settle(reserved, flight.cost if flight else 0)

    def _bound(self, asked: _Asked, member: Member, wire: Wire) -> Bound:
        """Return the most that a request may cost."""
        return member.tariff_in(wire.form).on(asked.row.question.terms, asked.messages).bound(asked.messages)

    async def _depart(self, asked: _Asked, flight: Flight, race: _Race | None = None) -> bool:
        """Journal a request and let it leave; return False if it must not leave after all.

        Args:
            asked: its rows.
            flight: the request.
            race: that it takes part in as the second one, and that may end before it leaves.
        """
        flight.request = await self._intend(asked.rows, flight.slot.member, flight.bound)
        if (race and race.is_over) or not self._pool.leave(flight.slot):
            self._journal.failed(flight.request, Outcome(UNSENT, cost=0))
            return False
        self._tally.sent += 1
        flight.cost = flight.bound.cost
        return True

    async def _loaded(self, messages: list[Message]) -> list[Message] | _Unloaded:
        """Return messages with their images, which are read and decoded in a thread."""
        if not holds_images(messages):
            return messages
        try:
            return await to_the_end(self._loop.run_in_executor(None, loaded, messages))
        except Unusable as fault:
            return _Unloaded(str(fault))

    async def _intend(self, rows: Sequence[Row], member: Member, bound: Bound) -> Request:
        """Record that a request is about to leave."""
        if len(rows) == 1:
            return await self._journal.sent(rows[0].position, rows[0].key, member.number, member.source, bound)
        lines = [Sent(row.position, row.key, weight_of(row.question.messages)) for row in rows]
        return await self._journal.sent_together(lines, member.number, member.source, bound)

    async def _call(self, asked: _Asked, flight: Flight, history: History, after: Member | None) -> _Tried:
        """Send a request that is in the journal, and record its outcome at its endpoint."""
        left_s, terms = self._policy.deadline - history.in_flight_s, asked.row.question.terms
        if self._hedges is None or not self._pool.could_hedge(flight.slot.member, terms.model, self._tier):
            await self._send(asked, flight, left_s)
            return self._landed(asked, flight, history)
        return await self._race(asked, _Race(flight, after, left_s), history)

    def _landed(self, asked: _Asked, flight: Flight, history: History) -> _Tried:
        """Record what a request brought, and what it cost."""
        tried = self._outcome_of(asked, flight, history)
        flight.cost = tried.cost if isinstance(tried, _Answered) else tried.outcome.cost
        return tried

    def _outcome_of(
        self, asked: _Asked, flight: Flight, history: History
    ) -> _Answered | _Refused | _InHalves | _Failed:
        """Record what a request brought at its endpoint, and decide what follows from a failure."""
        request, slot, bound, came = flight.request, flight.slot, flight.bound, flight.came
        member, seconds = slot.member, flight.seconds
        if came is None:
            raise AssertionError(request)
        if refused := self._of_tier(asked, request, slot, came):
            return refused
        self._record(asked, flight, history)
        if isinstance(came, Completion):
            return self._answered(asked, flight, came)
        if self._is_without(came, asked, member) or self._is_of_form(came, asked, member):
            return _Refused(member, request, Outcome(str(came.status), cost=0))
        outcome = _failed(came, bound)
        if len(asked.rows) > 1 and is_of_one_row(came):
            self._lower_size(member, came, len(asked.rows))
            self._journal.failed(request, outcome)
            failures = int(came.status is None)  # else it is a refusal, which is none of the endpoint
            return _InHalves(History(in_flight_s=history.in_flight_s + seconds, failures=failures), outcome)
        decision = self._judge(came, slot, history, seconds, is_shared=len(asked.rows) > 1)
        self._charge(flight, outcome, came.partial, str(came))
        return _Failed(member, request, outcome, decision)

    def _record(self, asked: _Asked, flight: Flight, history: History) -> None:
        """Record what a request brought at its endpoint."""
        # What could not be used of a whole request counts once for its endpoint, and not again for each half.
        is_known = asked.before is not None and not asked.before.is_clean and history.is_clean
        if flight.came and (
            silence := self._pool.record(flight.slot, flight.came, asked.before if is_known else history)
        ):
            self._notices.of_silence(silence)

    def _charge(self, flight: Flight, outcome: Outcome, partial: Completion | None, why: str) -> None:
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

    # -- A second request about rows whose answer is late

    async def _race(self, asked: _Asked, race: _Race, history: History) -> _Tried:
        """Send a request beside which a second one may be sent if its answer is late; the first answer counts.

        If one of them fails, the other one is waited for. If both do, the rows are judged by the first one's failure.
        """
        first, hedges = race.first, self._hedges
        if hedges is None:
            raise AssertionError(race)
        first.task = self._loop.create_task(self._send(asked, first, race.left_s))
        hedges.left(first.kind, first.request.id, partial(self._begin_second, asked, race, history))
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

    async def _first_ended(self, asked: _Asked, race: _Race, history: History) -> _Tried:
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
            if not counts and isinstance(tried, (_Refused, _Failed)):  # the ends of others are in the journal
                self._journal.failed(tried.request, tried.outcome)
        if race.answered is not None:
            return race.answered
        history.in_flight_s += self._loop.time() - since
        return tried

    def _begin_second(self, asked: _Asked, race: _Race, history: History) -> None:
        race.task = self._loop.create_task(self._second(asked, race, history))

    async def _second(self, asked: _Asked, race: _Race, history: History) -> None:
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
        if hedges is None:
            raise AssertionError(race)
        member, wire = slot.member, asked.wire_at(slot.member)
        second = Flight(slot, wire, race.first.messages, self._bound(asked, member, wire))
        reserved = None
        try:
            if hedges.may_begin and len(asked.rows) <= member.size.inputs:
                reserved = self._spending.reserve_spare(second.bound, self._tally.left)
            if reserved is None:
                hedges.again(race.first.kind, race.first.request.id, partial(self._begin_second, asked, race, history))
                return
            hedges.made += 1
            race.is_leaving = True
            has_left = await self._depart(asked, second, race)
            race.is_leaving = False
            if has_left:
                second.task, race.second = race.task, second
                await self._send(asked, second, race.left_s - (self._loop.time() - race.began))
                self._second_ended(asked, race, history)
            else:
                hedges.made -= 1
        except OutputError:
            return  # the rows' own request gets the same error
        finally:
            self._pool.release(slot)
            self._spending.settle(reserved or 0, second.cost)

    def _second_ended(self, asked: _Asked, race: _Race, history: History) -> None:
        """Record the end of a second request; if its answer is the first one, it counts."""
        first, second = race.first, race.second
        if second is None or second.is_cut or self._hedges is None:
            return
        if isinstance(second.came, Completion) and not isinstance(first.came, Completion):
            if first.came is None:
                first.seconds = self._loop.time() - race.began
                self._cut(first)
            tried = self._landed(asked, second, history)
            race.answered = tried if isinstance(tried, _Answered) else None
            self._hedges.won += 1
            return
        self._second_missed(asked, second, history)

    def _second_missed(self, asked: _Asked, second: Flight, history: History) -> None:
        """Record the end of a second request that brought nothing that counts: it uses up nothing of the row."""
        came, request = second.came, second.request
        if isinstance(came, Completion):  # both answers came at once
            self._record(asked, second, history)
            outcome = Outcome(HEDGED, came.usage, self._answered(asked, second, came).cost)
        elif came is None:
            return
        elif refused := self._of_tier(asked, request, second.slot, came):
            outcome = refused.outcome
        else:
            self._record(asked, second, history)
            outcome = _failed(came, second.bound)
            self._charge(second, outcome, came.partial, str(came))
        second.cost = outcome.cost
        self._journal.failed(request, outcome)

    def _cut(self, flight: Flight) -> None:
        """Cancel one of two requests, because the other one is answered; it may be billed all the same."""
        if flight.is_cut or flight.came is not None:
            return
        flight.is_cut = True
        outcome = Outcome(HEDGED, cost=flight.bound.cost)
        self._journal.failed(flight.request, outcome)
        self._charge(flight, outcome, None, "")
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

    def _own_tier(self, asked: _Asked) -> str | None:
        """Return the service tier that a row asks for by a parameter of its own, which wins over all others."""
        own = asked.row.question.terms.params.get(PARAM)
        return None if own is None else str(own)

    def _of_tier(self, asked: _Asked, request: Request, slot: Slot, came: Completion | Failure) -> _Refused | None:
        """Record a refusal that concerns the service tier of a request alone; None: that is not what came."""
        member, tier = slot.member, slot.tier
        if not isinstance(came, Failure) or self._own_tier(asked) is not None:
            return None
        if lacks_capacity(came, tier):
            self._pool.lacks_capacity(slot, came)
            times = asked.lacked[member.source, tier] = asked.lacked.get((member.source, tier), 0) + 1
            asked.is_stepping = True
            self._last_reason = f"{tier} has no capacity"
            self._notices.of_no_capacity(member, tier, self._pool.now(), came)
            jitter = random.random()  # noqa: S311 - spreads waits, guards nothing
            wait_s = backoff(times, jitter)
            return _Refused(member, request, Outcome(NO_CAPACITY, cost=0), wait_s)
        if refuses_tier(came, member.tiers.word(tier) or tier) and member.tiers.denied(tier):
            asked.is_stepping = True
            self._leave_tier(member, tier, came)
            return _Refused(member, request, Outcome(str(came.status), cost=0))
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

    async def _send(self, asked: _Asked, flight: Flight, left_s: float) -> None:
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
            came = await slot.member.caller.call(
                wire.messages(flight.messages), timeout, self._params(wire, slot), terms
            )
        except CallCut as cut:
            if flight.is_cut:
                self._charge(flight, Outcome(HEDGED, cost=0), cut.partial, _OVERTAKEN)
            else:
                self._journal.partial(request, cut.partial, _STOPPED)
            raise
        finally:
            del self._under_way[request.id]
            timeout = min(timeout, watch.stop()) if watch else timeout
        if self._is_embedding and isinstance(came, Completion):
            # The vectors hold all of the body, which may have 10 MB: it must not stay until they are journalled.
            came = replace(came, raw=b"")
            if len(came.vectors) != len(asked.rows) or not any(came.vectors):
                came = Failure(Fault.PROTOCOL, "other vectors came than were asked for", may_be_billed=True)
        flight.was_refused = wire.form is not None and isinstance(came, Failure) and came.generated != ""
        if isinstance(came, Failure) and flight.was_refused:
            came = Completion(came.generated, came.code, limits=came.limits, choices=0)
        flight.came, flight.seconds = came, min(self._loop.time() - began, timeout)

    def _lower_size(self, member: Member, failure: Failure, rows: int) -> None:
        """Ask an endpoint about fewer rows in each request from now on, if it refused so many."""
        if not is_too_large(failure, rows):
            return
        size = lowered(member.size, failure, rows)
        alike = [each for each in self._pool.members if each.source == member.source and each.size.inputs > size.inputs]
        for each in alike:
            each.size = size
        if alike:
            self._notices.of_size(member, rows)

    def _answered(self, asked: _Asked, flight: Flight, came: Completion) -> _Answered:
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
        return _Answered(member, request, came, tariff.cost(came, flight.bound), form, flight.was_refused)

    def _is_without(self, failure: Failure, asked: _Asked, member: Member) -> bool:
        """Return whether a row that was refused is asked without a parameter that batcher had added."""
        if not failure.left_out:
            return False
        asked.is_stepping = True
        self._notices.of_left_out(member, failure)
        return True

    def _is_of_form(self, failure: Failure, asked: _Asked, member: Member) -> bool:
        """Return whether a row that was refused is asked in another form."""
        form = asked.wire.form
        if form is None or member.choice is None or not may_be_of_form(failure):
            return False
        step = member.choice.step_after(form, is_fresh=member.standing.is_fresh)
        if step is not None:
            asked.step(member, form, step)
        return step is not None

    def _estimate(self, messages: Sequence[Message]) -> float | None:
        """Return the estimated model tokens of a prompt with what its form adds, if an account has a limit of them."""
        tokens = self._pool.estimate(messages)
        if tokens is None or self._shape is None:
            return tokens
        wires = (member.choice.wire(0) for member in self._pool.of_tier(self._tier) if member.choice)
        return tokens + max(map(self._form_tokens, wires), default=0.0)

    def _form_tokens(self, wire: Wire) -> float:
        if wire.form not in self._tokens:
            text = json.dumps([*wire.params.values(), wire.line])
            self._tokens[wire.form] = self._pool.estimate([{"role": "user", "content": text}]) or 0.0
        return self._tokens[wire.form]

    def _judge(
        self, failure: Failure, slot: Slot, history: History, seconds: float, *, is_shared: bool = False
    ) -> Decision:
        """Decide what follows from a failed attempt, for its row and for its endpoint."""
        member, now = slot.member, self._pool.now()
        self._troubled += history.is_clean
        left = max(self._tally.left - self._awaited, 0)
        is_last = self._troubled == self._asked and (self.has_no_witness or not left)
        scene = Scene(is_last, self._troubled, left, is_shared)
        jitter = random.random()  # noqa: S311 - spreads waits, guards nothing
        attempt = Attempt(slot.left_at, now)
        if is_last and now - member.answered_at >= GIVES_UP_S:
            history.is_over = True
        is_silent = member.is_silent(failure, history)
        case = Case(failure, history, member.standing, attempt, scene, self._policy, jitter, is_silent)
        decision = judge(case, seconds)
        if not is_last and (self._troubled == self._asked or decision.rests or is_silent):
            self.lacks_witness.set()
        if decision.rests:
            self._pool.rest(member, decision.rest_s)
        if decision.out is not None:
            # If it was the last endpoint, the run's own ending reports the reason.
            if self._pool.remove(member, decision.out) and self._pool.capacity:
                self._progress.say(f"{member.label} leaves the pool: {decision.out}", "warning")
        elif member.standing.is_fresh and decision.rests:
            self._notices.of_start(member, failure, decision)
        return decision

    async def _settle_together(
        self, asked: _Asked, request: Request, results: Sequence[Result], outcome: Outcome
    ) -> Sequence[Result]:
        """Journal the results of rows that share a request, and count them only then."""
        await self._journal.settled_together(request, outcome, results, [row.followers > 0 for row in asked.rows])
        for row, result in zip(asked.rows, results, strict=True):
            self._tally.count(result.status, 1 + row.followers)
        self.count(outcome)
        return results

    async def settle(self, end: End) -> Result:
        """Journal a row's result, and count it only then."""
        row, request, outcome, result, is_kept = end
        result = await self._journal.settled(request, outcome, result, followers=row.followers > 0, is_kept=is_kept)
        self._tally.count(result.status, 1 + row.followers)
        if not is_kept:
            self.count(outcome)
        return result

    def count(self, outcome: Outcome) -> None:
        """Count what a request used and cost."""
        self._tally.cut += outcome.is_cut
        self._tally.prompt_tokens += outcome.usage.prompt_tokens or 0
        self._tally.completion_tokens += outcome.usage.completion_tokens or 0
        if outcome.name == "answered":  # and so paid, even if the row failed
            self._spending.count(outcome.cost)

    async def _back_off(self, seconds: float) -> None:
        """Let a row wait; it holds no slot, and does not keep the run from stopping."""
        if not seconds:
            return
        self._backing_off += 1
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return
        finally:
            self._backing_off -= 1


def _failed(failure: Failure, bound: Bound) -> Outcome:
    """Return how a request ended that brought no answer; if it may be billed, it costs its bound."""
    billed = bound.cost if failure.may_be_billed or bound.cost is None else 0
    return Outcome(str(failure.status or failure.fault.value), cost=billed)


def _of_vector(vector: str) -> Result:
    """Return the result of a row to which a vector came; empty if it is none."""
    return Result(Status.OK, vector, "") if vector else Result(Status.INVALID, "", NO_VECTOR)

"""Asks about a row until it has its result: reserves money and a slot for a request, and judges what that brought.

A request is about one row, or about several whose embeddings are asked for together.

Invariant: a request leaves only after its money is reserved; a row is counted only when the journal has its result.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from batcher.answer.confidence import confidence_of
from batcher.answer.reading import is_whole
from batcher.answer.reading import read as as_result
from batcher.answer.shape import ReadAs, Shape
from batcher.calls.batches import is_of_one_row, is_too_large, lowered
from batcher.calls.embeddings import NO_VECTOR
from batcher.calls.forms import Form, Wire, may_be_of_form
from batcher.engine.asked import Answered, Asked, End, Failed, InHalves, Refused, Settle, Tried, Unloaded, Unsent
from batcher.engine.feed import Row
from batcher.engine.hedging import Hedges
from batcher.engine.notices import Notices
from batcher.engine.progress import Progress, Tally
from batcher.engine.racing import Race, Races
from batcher.engine.sending import Flight, Sender, failed
from batcher.journal.entries import UNSENT, Outcome, Request
from batcher.journal.writing import Journal
from batcher.money.spending import Spending
from batcher.pool.blame import GIVES_UP_S, Attempt, Case, Decision, History, Policy, Scene, judge
from batcher.pool.member import Member, Slot
from batcher.pool.pool import ModelGone, Pool
from batcher.records import Bound, Completion, Failure, Message, Result, Status, Task
from batcher.settings import Settings
from batcher.words import duration


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
        self._journal = journal
        self._pool = pool
        self._spending = spending
        self._tally = tally
        self._progress = progress
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._backing_off = 0
        self._last_reason = ""
        # The rows that are asked, those of them that have failed, and how many rows of the table wait for them.
        self._asked = 0
        self._troubled = 0
        self._awaited = 0
        read_as = None if shape is None else ReadAs.of(shape)
        self._notices = Notices(settings, journal, progress, read_as, scores=scores)
        self._sender = Sender(
            settings,
            journal,
            pool=pool,
            spending=spending,
            tally=tally,
            progress=progress,
            notices=self._notices,
        )
        self._races: Races | None = None
        if hedges:
            self._races = Races(
                hedges,
                self._sender,
                self._landed,
                self._estimate,
                tier=tier,
                journal=journal,
                pool=pool,
                spending=spending,
                tally=tally,
            )

    def close(self) -> None:
        """Send no further request; those in flight may still arrive."""
        self._closing.set()
        self._pool.close()
        self._spending.close()

    async def ended(self) -> None:
        """Wait for the calls that were cut off."""
        if self._races:
            await self._races.ended()

    @property
    def awaited(self) -> int:
        """The rows that are asked, and those that wait for their answers."""
        return self._awaited

    @property
    def waits(self) -> Waits:
        """What its rows wait for."""
        return Waits(self._sender.oldest, self._backing_off, self._last_reason)

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
            if isinstance(attempt, Answered):
                if (results := await self._judge_answer(asked, attempt)) is not None:
                    return results
                after = None
                continue
            if isinstance(attempt, Refused):
                self._journal.failed(attempt.request, attempt.outcome)
                self._last_reason = attempt.why or self._last_reason
                await self._back_off(attempt.wait_s)
                continue
            if isinstance(attempt, InHalves):
                return attempt.before
            if isinstance(attempt, Unloaded):
                unfit = asked.unfit
                return [
                    await (
                        settle(End(row, *unfit, is_kept=True)) if unfit else self._refuse(row, attempt.fault, settle)
                    )
                ]
            after = attempt.member
            if isinstance(attempt, Unsent):
                continue
            decision = attempt.decision
            if decision.row_ends:
                return await self._end(asked, attempt, history)
            self._journal.failed(attempt.request, attempt.outcome)
            self._last_reason = decision.short
            await self._back_off(decision.wait_s)

    async def _end(self, asked: Asked, attempt: Failed, history: History) -> Sequence[Result] | History:
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

    def _begun(self, rows: Sequence[Row], settle: Settle) -> Asked:
        """Return rows to be asked; one that an earlier process asked goes on with the answer that did not fit."""
        asked, row = Asked(rows, settle), rows[0]
        if self._shape and self._settings.repair and (text := self._unfit.pop(row.key, "")):
            asked.repair(text, self._shape.read(text).error)
        return asked

    async def _judge_answer(self, asked: Asked, attempt: Answered) -> Sequence[Result] | None:
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
        if (confidence := confidence_of(completion, result, self._shape)) is not None:
            outcome = outcome._replace(confidence=confidence)
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

    async def _attempt(self, asked: Asked, history: History, after: Member | None) -> Tried:
        """Reserve money and a slot for a request, and send it. Its images are in memory only meanwhile."""
        if len(asked.rows) > 1 and len(asked.rows) > self._pool.size.inputs:
            return InHalves(History(attempts=history.attempts, in_flight_s=history.in_flight_s))
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
                bound = self._sender.bound(asked, member, asked.wire)
                if not self._spending.covers(reserved, bound) or len(asked.rows) > member.size.inputs:
                    return Unsent(member)
                messages = await self._sender.loaded(asked.messages)
                if isinstance(messages, Unloaded):
                    return messages
                flight = Flight(slot, asked.wire, messages, bound)
                if not await self._sender.depart(asked, flight):
                    return Unsent(member)
                left_s = self._policy.deadline - history.in_flight_s
                if self._races and self._pool.could_hedge(member, terms.model, self._tier):
                    return await self._races.run(asked, Race(flight, after, left_s), history)
                await self._sender.send(asked, flight, left_s)
                return self._landed(asked, flight, history)
            finally:
                # Only after a failure is judged: otherwise the next row would go to an endpoint that needs a cooldown.
                self._pool.release(slot)
        finally:
            self._spending.settle(reserved, flight.cost if flight else 0)

    def _landed(self, asked: Asked, flight: Flight, history: History) -> Tried:
        """Record what a request brought, and what it cost."""
        tried = self._outcome_of(asked, flight, history)
        flight.cost = tried.cost if isinstance(tried, Answered) else tried.outcome.cost
        return tried

    def _outcome_of(self, asked: Asked, flight: Flight, history: History) -> Answered | Refused | InHalves | Failed:
        """Record what a request brought at its endpoint, and decide what follows from a failure."""
        request, slot, bound, came = flight.request, flight.slot, flight.bound, flight.came
        member, seconds = slot.member, flight.seconds
        if came is None:
            raise AssertionError(request)
        if refused := self._sender.set_aside(asked, flight, came):
            return refused
        self._sender.record(asked, flight, history)
        if isinstance(came, Completion):
            return self._sender.answered(asked, flight, came)
        if self._is_without(came, asked, member) or self._is_of_form(came, asked, member):
            return Refused(member, request, Outcome(str(came.status), cost=0))
        outcome = failed(came, bound)
        if len(asked.rows) > 1 and is_of_one_row(came):
            self._lower_size(member, came, len(asked.rows))
            self._journal.failed(request, outcome)
            failures = int(came.status is None)  # else it is a refusal, which is none of the endpoint
            return InHalves(History(in_flight_s=history.in_flight_s + seconds, failures=failures), outcome)
        decision = self._judge(came, slot, history, seconds, is_shared=len(asked.rows) > 1)
        self._sender.charge(flight, outcome, came.partial, str(came))
        return Failed(member, request, outcome, decision)

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

    def _is_without(self, failure: Failure, asked: Asked, member: Member) -> bool:
        """Return whether a row that was refused is asked without a parameter that batcher had added."""
        if not failure.left_out:
            return False
        asked.is_stepping = True
        self._notices.of_left_out(member, failure)
        return True

    def _is_of_form(self, failure: Failure, asked: Asked, member: Member) -> bool:
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
        if is_last and now - member.silent_since >= GIVES_UP_S:
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
        self, asked: Asked, request: Request, results: Sequence[Result], outcome: Outcome
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


def _of_vector(vector: str) -> Result:
    """Return the result of a row to which a vector came; empty if it is none."""
    return Result(Status.OK, vector, "") if vector else Result(Status.INVALID, "", NO_VECTOR)

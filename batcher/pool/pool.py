"""The pool of endpoints: who takes the next call.

Invariant: a row waits in one queue, first come first served, and goes to the endpoint that can take it soonest; no
endpoint has more in flight, or more in a minute, than it may. A row that waits holds no slot.
"""

from __future__ import annotations

import asyncio
import collections
import math
import random
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from batcher.calls.retry import backoff, is_rate_limit
from batcher.endpoint import Endpoint
from batcher.pool.concurrency import Width
from batcher.pool.limiter import Limiter, Passage
from batcher.pool.server_limits import Stated
from batcher.records import Completion, EndpointCount, Failure, Fault, ServerLimits

if TYPE_CHECKING:
    from batcher.calls.caller import Caller  # loading LangChain takes a second


# So many failures in a row are the endpoint's, not the rows'.
_FAILURES = 8
# ... and so many are, where the request did not even get there.
_UNREACHED = 3
# Seconds without an answer, in the middle of failures, after which people are told.
_PAUSE_S = 30.0
# By these a server says that it has too much to do; 529 is Anthropic's.
_OVERLOADED = {503, 529}
# Of the latest call in what calls take on average.
_WEIGHT = 1 / 16
# Where an answer takes more of the timeout than this, more calls at once might run into it.
_SOON = 1 / 4
# An endpoint is slow, not just unlucky, where it takes so many times as long as the fastest.
_SLOW = 2.0


class PoolEmpty(Exception):
    """No endpoint is left."""


class PoolClosed(Exception):
    """The run is stopping: no further call may leave."""


class Member:
    """An endpoint at work.

    Attributes:
        number: its place in the pool, from 0.
        endpoint: its settings.
        source: the journal's id of who its answers come from.
        caller: makes its calls.
        limiter: its pace, or None without limits.
        width: the calls that it may have in flight.
        stated: what its server states of its limits: requests, tokens.
        in_flight: calls granted that have not ended.
        requests: calls that left in this run.
        answers: those of them that were answered.
        latency_s: what an answer takes, on a moving average; where it fails, at least as long as that took.
        tokens: model tokens that an answered call uses, on a moving average.
        failures: failed calls since the last answer.
        rests: cooldowns since the last answer.
        answered_at: the loop's time of the last answer; before the first one, of the beginning.
        is_paused: it has answered nobody for so long that people should know.
        cooldown_until: the loop's time before which it takes no call.
        out: why it has left the pool, or None.
        wanted: set while a row waits that it could take.
    """

    def __init__(self, number: int, endpoint: Endpoint, source: int, caller: Caller) -> None:
        self.number = number
        self.endpoint = endpoint
        self.source = source
        self.caller = caller
        self.limiter: Limiter | None = None
        self.width = Width(endpoint.max_concurrency)
        self.stated = (Stated(), Stated())
        self.in_flight = 0
        self.requests = 0
        self.answers = 0
        self.latency_s = 0.0
        self.tokens = 0.0
        self.failures = 0
        self.rests = 0
        self.answered_at = asyncio.get_running_loop().time()
        self.is_paused = False
        self.cooldown_until = 0.0
        self.out: str | None = None
        self.wanted = asyncio.Event()

    def __repr__(self) -> str:
        state = self.out or f"{self.in_flight} in flight, {self.requests} requests"
        return f"<Member {self.label}: {state}>"

    @property
    def label(self) -> str:
        """Name the endpoint for people; the number tells apart those that differ in their key alone."""
        model, base_url, _ = self.endpoint.source
        return (
            f"endpoint {self.number + 1} ({model} at {base_url})"
            if base_url
            else f"endpoint {self.number + 1} ({model})"
        )

    @property
    def limits(self) -> tuple[float | None, float | None, float | None]:
        """Requests a minute, requests a second, tokens a minute: what the user gave, else what the server states."""
        endpoint, (requests, tokens) = self.endpoint, self.stated
        rpm = endpoint.rpm if endpoint.rpm or endpoint.rps else requests.per_minute
        return rpm, endpoint.rps, endpoint.tpm or tokens.per_minute

    def can_take(self, now: float) -> bool:
        """Tell whether it may make a call, its pace aside."""
        return self.out is None and now >= self.cooldown_until and self.width.admits(self.in_flight)

    def answered(self, left_at: float, now: float, tokens: float) -> None:
        """Take note of an answer: when its call left, the present, and the tokens that it used."""
        weight = _WEIGHT if self.answers else 1.0
        self.answers += 1
        self.latency_s += weight * (now - left_at - self.latency_s)
        if tokens:
            self.tokens += weight * (tokens - self.tokens)
        self.failures = 0
        self.answered_at = now
        if left_at > self.width.turned_at:
            self.rests = 0


class Permit:
    """The right to make one call.

    Attributes:
        member: the endpoint that makes it.
        passage: what it takes of the endpoint's limits, if there are any.
        number: which of the endpoint's calls it is; 0 until it leaves.
        left_at: the loop's time at which it left.
    """

    __slots__ = ("left_at", "member", "number", "passage")

    def __init__(self, member: Member, passage: Passage | None) -> None:
        self.member = member
        self.passage = passage
        self.number = 0
        self.left_at = math.inf


class _Waiter(NamedTuple):
    """A row in the queue, the endpoint at which it has failed, and the tokens that its prompt is estimated to have."""

    permit: asyncio.Future[Permit]
    after: Member | None
    tokens: float | None

    def size(self, member: Member, answer_tokens: float) -> float:
        """Return the tokens of its call: where nothing is estimated, what calls have used there so far."""
        return member.tokens if self.tokens is None else self.tokens + answer_tokens


class Pool:
    """Hands out the right to make one call.

    All state changes in `_dispatch` or in the methods that call it at their end. An endpoint with limits has a task of
    its own, which asks its limiter while a row is waiting that the endpoint could take.

    Args:
        members: the endpoints.
        timeout_s: of a call, in seconds.

    Attributes:
        rows_left: returns how many rows have no result yet, so that the last ones can be kept from slow endpoints.
        answer_tokens: returns how many model tokens an answer is estimated to have, as far as answers have shown it.
        tell: is called with an endpoint, since when (the loop's time) and why when it pauses; without why when it goes
            on.
    """

    def __init__(self, members: Sequence[Member], timeout_s: float = math.inf) -> None:
        self.members = members
        self.rows_left: Callable[[], float] = lambda: 1e9  # a long run
        self.answer_tokens: Callable[[], float] = lambda: 0.0
        self.tell: Callable[[Member, float, str], None] = lambda _member, _since, _why: None
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._waiting: collections.deque[_Waiter] = collections.deque()
        self._closed = False
        self._fastest_s = 0.0
        self._limits: dict[Member, tuple[float | None, ...]] = {}
        self._pacers: dict[Member, asyncio.Task[None]] = {}
        for member in members:
            self._limit(member)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pacer in self._pacers.values():
            pacer.cancel()
        await asyncio.gather(*self._pacers.values(), return_exceptions=True)

    @property
    def in_flight(self) -> int:
        return sum(member.in_flight for member in self.members)

    @property
    def capacity(self) -> int:
        """Calls that may be in flight at once."""
        return sum(member.endpoint.max_concurrency for member in self.members if member.out is None)

    @property
    def counts_tokens(self) -> bool:
        """Tell whether an endpoint has a limit of model tokens."""
        return any(member.limits[2] for member in self.members)

    # -- A call: take, leave, hear, give_back

    async def take(self, *, after: Member | None = None, tokens: float | None = None) -> Permit:
        """Wait for the right to make one call.

        Args:
            after: the endpoint that the row comes back from. It goes to the front, so that its chunk can close, and
                to another endpoint if one is at work.
            tokens: model tokens that the prompt is estimated to have; None is what calls have used so far.

        Raises:
            PoolEmpty: no endpoint is left.
            PoolClosed: the run is stopping.
        """
        waiter = _Waiter(self._loop.create_future(), after, tokens)
        # What does not serve the last one in the queue does not serve this one either.
        is_hopeless = not after and len(self._waiting) > 0 and not self._waiting[-1].after and not self._closed
        # Where an endpoint fails and fails, the next to try is another row: is it the row, or the endpoint?
        if after and after.failures <= 1:
            self._waiting.appendleft(waiter)
        else:
            self._waiting.append(waiter)
        if not is_hopeless:
            self._dispatch()
        try:
            return await waiter.permit
        except asyncio.CancelledError:
            if waiter.permit.done() and not waiter.permit.cancelled() and waiter.permit.exception() is None:
                self.give_back(waiter.permit.result())  # granted and cancelled in one turn of the loop
            raise

    def leave(self, permit: Permit) -> bool:
        """Say that the call leaves now; return False if it must not any more: give the permit back then."""
        now = self._loop.time()
        member = permit.member
        if self._closed or member.out or now < member.cooldown_until:
            return False
        permit.left_at = now
        member.requests += 1
        permit.number = member.requests
        if permit.passage:
            permit.passage.leave(now)
        return True

    def hear(self, permit: Permit, outcome: Completion | Failure) -> None:
        """Take note of what came of a call before it is given back: what its endpoint may do next follows from it."""
        now, member = self._loop.time(), permit.member
        if isinstance(outcome, Completion):
            self._answered(permit, outcome, now)
        elif is_rate_limit(outcome) or outcome.status in _OVERLOADED:
            self._overloaded(permit, outcome, now)
        elif outcome.fault is not Fault.TOO_LONG and (outcome.status is None or outcome.status >= 500):
            self._failed(permit, outcome, now)
        if isinstance(outcome, Failure) and (member.rests or self.is_silent(member, outcome)):
            self._pause(member, str(outcome), now)
        if outcome.limits:
            self._heed(permit, outcome.limits, now)

    def is_silent(self, member: Member, failure: Failure) -> bool:
        """Tell whether an endpoint answers nobody, so that a row's failure there says nothing about the row.

        Few failures in a row tell so where no request can have reached it; else more must than one row has attempts.
        """
        never_left = failure.fault is Fault.CONNECTION and not failure.may_be_billed
        return member.failures >= (_UNREACHED if never_left else _FAILURES)

    def _pause(self, member: Member, why: str, now: float) -> None:
        if not member.is_paused and now - member.answered_at >= _PAUSE_S:
            member.is_paused = True
            self.tell(member, member.answered_at, why)

    def give_back(self, permit: Permit) -> None:
        """Say that the call has ended, or will not be made."""
        if not permit.number and permit.passage:
            permit.passage.withdraw()
        permit.member.in_flight -= 1
        self._dispatch()

    # -- What an endpoint goes through

    def _answered(self, permit: Permit, completion: Completion, now: float) -> None:
        member = permit.member
        used = completion.usage.total_tokens or 0  # where it is not known, the estimate stands
        if used and permit.passage:
            permit.passage.settle(used)
        if member.is_paused:
            member.is_paused = False
            self.tell(member, member.answered_at, "")
        member.answered(permit.left_at, now, used)
        self._fastest_s = min(each.latency_s for each in self.members if each.answers)
        is_soon = now - permit.left_at <= _SOON * self._timeout_s
        member.width.answered(permit.left_at, now, member.in_flight, may_grow=is_soon)
        for stated in member.stated:
            stated.proved(permit.left_at, was_refused=False)

    def _overloaded(self, permit: Permit, failure: Failure, now: float) -> None:
        """Narrow an endpoint that refuses; let it rest if it asks for that, or if narrowing has not helped."""
        member = permit.member
        rest_s = failure.retry_after or 0.0
        member.failures += not is_rate_limit(failure)
        if permit.left_at > member.width.turned_at and not member.width.has_recovered:
            member.rests += 1
            rest_s = rest_s or self._backoff(member)
        member.width.overloaded(permit.left_at, now, member.in_flight)
        self.rest(member, rest_s)
        for stated in member.stated:
            stated.proved(permit.left_at, was_refused=True)

    def _failed(self, permit: Permit, failure: Failure, now: float) -> None:
        """Let an endpoint rest that answers nothing any more, longer each time, and then begin with one call."""
        member = permit.member
        self.rest(member, failure.retry_after or 0.0)
        if permit.left_at <= member.width.turned_at:
            return
        member.failures += 1
        if member.failures >= _FAILURES or member.rests:
            member.rests += 1
            member.latency_s = max(member.latency_s, now - permit.left_at)
            member.width.failed(now)
            self.rest(member, self._backoff(member))

    def _backoff(self, member: Member) -> float:
        return backoff(member.rests, random.random())  # noqa: S311 - spreads waits, guards nothing

    def _heed(self, permit: Permit, limits: ServerLimits, now: float) -> None:
        """Heed what the server states of its limits."""
        member = permit.member
        later = member.requests - permit.number
        for stated, allowance, size in zip(member.stated, limits, (1.0, max(member.tokens, 1.0)), strict=True):
            if allowance:
                self.rest(member, stated.heard(allowance, later * size, size, now))
        self._limit(member)

    def rest(self, member: Member, seconds: float) -> None:
        """Let an endpoint take no call for a while."""
        until = self._loop.time() + seconds
        if seconds and until > member.cooldown_until:
            member.cooldown_until = until
            self._loop.call_at(until, self._end_rest, member, until)
            self._dispatch()  # to the others

    def _end_rest(self, member: Member, until: float) -> None:
        if member.cooldown_until == until:  # it was not prolonged
            member.cooldown_until = 0.0  # the timer may be early by the clock's resolution, and it rings only once
            self._dispatch()

    def put_out(self, member: Member, reason: str) -> bool:
        """Take an endpoint out of the pool for good; return whether it was in it."""
        was_in = member.out is None
        member.out = member.out or reason
        self._dispatch()
        return was_in

    def close(self) -> None:
        """Hand out no more calls; those under way go on."""
        self._closed = True
        self._dispatch()

    def counts(self) -> tuple[EndpointCount, ...]:
        """Return what each endpoint did."""
        return tuple(EndpointCount(member.label, member.requests, member.out) for member in self.members)

    def cooling(self) -> float:
        """Return the seconds until an endpoint takes calls again, if none does now, else 0."""
        now = self._loop.time()
        return max(0.0, min((m.cooldown_until - now for m in self.members if m.out is None), default=0.0))

    # -- Who takes the next call

    def _dispatch(self) -> None:
        """Give the oldest waiting rows to the endpoints that can take them now."""
        if self._closed or all(member.out is not None for member in self.members):
            self._refuse(PoolClosed if self._closed else PoolEmpty)
        unpaced = [member for member in self.members if not member.limiter]
        while free := [member for member in unpaced if self._oldest_for(member)]:
            member = min(free, key=lambda member: (member.in_flight, member.requests))
            if waiter := self._pop(member):
                self._grant(waiter, member)
        for member in self.members:
            if self._oldest_for(member):
                member.wanted.set()
            else:
                member.wanted.clear()

    def _oldest_for(self, member: Member) -> _Waiter | None:
        """Return the oldest row that an endpoint may serve, if it can make a call.

        A row that comes back goes elsewhere if another endpoint is at work.
        """
        if not self._waiting or not self._can_take(member):
            return None
        for waiter in self._waiting:  # those that come back mostly stand in front
            if not waiter.after:
                return waiter if self._is_worth_while(member) else None
            if waiter.after is not member or not self._others(member):
                return waiter
        return None

    def _pop(self, member: Member) -> _Waiter | None:
        if waiter := self._oldest_for(member):
            self._waiting.remove(waiter)
        return waiter

    def _can_take(self, member: Member) -> bool:
        return not self._closed and member.can_take(self._loop.time())

    def _others(self, member: Member) -> list[Member]:
        """Return the other endpoints that take calls."""
        now = self._loop.time()
        return [each for each in self.members if each is not member and not each.out and now >= each.cooldown_until]

    def _is_worth_while(self, member: Member) -> bool:
        """Tell whether a row is answered here before the other endpoints could do all that is left."""
        if member.latency_s <= _SLOW * self._fastest_s:
            return True
        others = [other for other in self._others(member) if other.answers]
        soon_s = _SLOW * min((other.latency_s for other in others), default=math.inf)
        if member.latency_s <= soon_s:
            return True
        s_per_row = (self._loop.time() - self._began) / sum(other.answers for other in others)
        return member.latency_s <= soon_s + self.rows_left() * s_per_row

    def _grant(self, waiter: _Waiter, member: Member) -> None:
        if waiter.permit.done():
            return
        passage = None
        if member.limiter:
            passage = member.limiter.enter(waiter.size(member, self.answer_tokens()))
        member.in_flight += 1
        waiter.permit.set_result(Permit(member, passage))

    def _refuse(self, error: type[Exception]) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.permit.done():
                waiter.permit.set_exception(error())

    # -- The pace

    def _limit(self, member: Member) -> None:
        """Pace an endpoint by its limits, which its server may have changed."""
        if self._limits.get(member) == member.limits:
            return
        self._limits[member] = member.limits
        if old := self._pacers.pop(member, None):
            old.cancel()
        member.limiter = Limiter(*member.limits) if any(member.limits) else None
        member.width.is_paced = member.limiter is not None
        if member.limiter:
            self._pacers[member] = self._loop.create_task(self._pace(member, member.limiter))

    async def _pace(self, member: Member, limiter: Limiter) -> None:
        """Grant calls to an endpoint as its limiter lets them pass."""
        while True:
            await member.wanted.wait()
            if not member.wanted.is_set():
                continue  # another endpoint that was woken with this one took the row; no passage is spent on it
            await limiter.ready()
            # Meanwhile another endpoint may have taken the row, or this one begun to cool down: then the passage is
            # lost rather than kept, because a kept one would leave as a burst later.
            if waiter := self._pop(member):
                await self._let_in(waiter, member, limiter)
            self._dispatch()

    async def _let_in(self, waiter: _Waiter, member: Member, limiter: Limiter) -> None:
        """Grant a call, whose turn it is, when there is room for it; meanwhile others serve the rows behind it."""
        fits = False
        try:
            while self._can_take(member) and not fits:
                wait = limiter.wait(waiter.size(member, self.answer_tokens()))
                fits = not wait
                if wait:
                    await asyncio.sleep(wait)
        finally:
            if fits:
                self._grant(waiter, member)
            else:
                self._waiting.appendleft(waiter)
                self._dispatch()  # this task may have been cancelled

"""An endpoint at work: its limits and its state, learned from its own calls.

Invariant: all that is known of an endpoint is in one object. Calls change it through its methods; the pool paces it,
ends its cooldowns and takes it out.
"""

from __future__ import annotations

import asyncio
import math
import random
from typing import TYPE_CHECKING, NamedTuple

from batcher.calls.fate import is_rate_limit
from batcher.endpoint import Endpoint
from batcher.money.tariff import Tariff
from batcher.pool.blame import LEAVES_S, OVERLOADED, History, Standing, backoff, has_left
from batcher.pool.concurrency import Concurrency
from batcher.pool.limiter import Limiter, Reservation
from batcher.pool.server_limits import ServerLimit
from batcher.records import Completion, Failure, Fault, ServerLimits

if TYPE_CHECKING:
    from batcher.calls.caller import Caller

# After failures of this many different rows, one after the other, the endpoint is the cause, not the rows ...
_FAILURES = 8
# ... and after this many if no request can have reached it.
_UNREACHED = 3
# Seconds of failures without an answer, after which people are told.
_UNRESPONSIVE_S = 30.0
# A longer wait than this is obeyed only if a second row is asked to wait, and one never longer than an hour: Azure asks
# for a day if a minute is enough.
_UNCONFIRMED_S = 60.0
_LONGEST_S = 3600.0
# The weight of the latest call in the moving averages.
_WEIGHT = 1 / 16
# If an answer takes a larger share of the timeout than this, more calls at once might run into the timeout.
_SOON = 1 / 4


class Silence(NamedTuple):
    """An endpoint has stopped answering, or answers again.

    Attributes:
        member: the endpoint.
        seconds: since its last answer.
        why: the reason of its latest failure; empty if it answers again.
    """

    member: Member
    seconds: float
    why: str


class Slot:
    """The right to make one call.

    Attributes:
        member: the endpoint that makes it.
        reservation: its share of the endpoint's rate limits, or None if there are none.
        number: its number among the endpoint's calls; 0 until it leaves.
        left_at: the loop's time at which it left.
    """

    __slots__ = ("left_at", "member", "number", "reservation")

    def __init__(self, member: Member, reservation: Reservation | None) -> None:
        self.member = member
        self.reservation = reservation
        self.number = 0
        self.left_at = math.inf


class Member:
    """An endpoint at work.

    Args:
        number: its place in the pool, from 0.
        endpoint: its settings.
        source: the journal's id of the source of its answers.
        caller: makes its calls.
        tariff: its prices.
        is_known: an earlier process got answers from its source.

    Attributes:
        standing: what its answers and refusals say about it.
        limiter: paces it by its rate limits, or None without limits.
        concurrency: its concurrency limit.
        server_limits: the limits of requests and of tokens that its server reports.
        in_flight: calls granted that have not ended.
        requests: calls that left in this run.
        answers: calls that were answered.
        latency_s: seconds to an answer, a moving average; if the endpoint fails, at least as long as a failure took.
        tokens: model tokens that an answered call uses, a moving average.
        failures: rows that have failed since the last answer, and not before; and calls that cannot have reached it.
        cooldowns: cooldowns since the last answer.
        cooldown_until: the loop's time before which it takes no call.
        answered_at: the loop's time of the last answer; before the first answer, of the start.
        is_unresponsive: people were told that it does not answer.
        out: why it has left the pool, or None.
        wanted: set while a row waits that the endpoint could take.
    """

    def __init__(
        self, number: int, endpoint: Endpoint, source: int, caller: Caller, tariff: Tariff, *, is_known: bool = False
    ) -> None:
        self.number = number
        self.endpoint = endpoint
        self.source = source
        self.caller = caller
        self.tariff = tariff
        self.limiter: Limiter | None = None
        self.concurrency = Concurrency(endpoint.max_concurrency)
        self.server_limits = (ServerLimit(), ServerLimit())
        self.in_flight = 0
        self.requests = 0
        self.answers = 0
        self.latency_s = 0.0
        self.tokens = 0.0
        self.failures = 0
        self.cooldowns = 0
        self.cooldown_until = 0.0
        self.answered_at = asyncio.get_running_loop().time()
        self.standing = Standing(self.answered_at, is_known=is_known)
        # The rows that were asked to wait since the last answer.
        self._waiters: set[int] = set()
        self.is_unresponsive = False
        self.out: str | None = None
        self.wanted = asyncio.Event()

    def __repr__(self) -> str:
        state = self.out or f"{self.in_flight} in flight, {self.requests} requests"
        return f"<Member {self.label}: {state}>"

    @property
    def label(self) -> str:
        """Its name for people; the number tells apart endpoints that differ in their key alone."""
        model, base_url, _ = self.endpoint.source
        at = f" at {base_url}" if base_url else ""
        return f"endpoint {self.number + 1} ({model}{at})"

    @property
    def limits(self) -> tuple[float | None, float | None, float | None]:
        """Requests a minute, requests a second, tokens a minute: as the user gave them, else as the server reports."""
        endpoint, (requests, tokens) = self.endpoint, self.server_limits
        rpm = endpoint.rpm if endpoint.rpm or endpoint.rps else requests.per_minute
        return rpm, endpoint.rps, endpoint.tpm or tokens.per_minute

    def can_take(self, now: float) -> bool:
        """Return whether it may make a call, apart from its rate limits."""
        if self.in_flight and self.standing.takes_one:
            return False
        return self.is_available(now) and self.concurrency.admits(self.in_flight)

    def is_available(self, now: float) -> bool:
        """Return whether it is in the pool and not in a cooldown."""
        return self.out is None and now >= self.cooldown_until

    @property
    def is_doubted(self) -> bool:
        """Whether it may answer no row at all, so that a row that has not failed before shows more than another."""
        return self.is_in_trouble or self.standing.is_fresh or len(self._waiters) == 1

    @property
    def is_in_trouble(self) -> bool:
        """Whether several rows have failed one after the other."""
        return self.failures >= _FAILURES or self.standing.is_suspect

    def is_silent(self, failure: Failure, history: History, now: float, *, is_last: bool) -> bool:
        """Return whether it answers no row at present, so that a failure does not count against the row.

        A few failures in a row are enough if no request can have reached it; otherwise failures of more rows than a bad
        stretch of the table mostly has.

        Args:
            failure: the latest one.
            history: of its row.
            now: the loop's time.
            is_last: every row that is left has failed: half an hour later they are the cause.
        """
        if self.standing.is_fresh:
            return False
        if not has_left(failure):
            return self.failures >= _UNREACHED
        is_over = is_last and now - self.answered_at >= LEAVES_S
        return self.failures >= _FAILURES and not history.is_odd and not is_over

    def reserve(self, tokens: float) -> Slot:
        """Grant a call of this many model tokens."""
        self.in_flight += 1
        return Slot(self, self.limiter.reserve(tokens) if self.limiter else None)

    def leave(self, slot: Slot, now: float) -> None:
        """Record that a call leaves."""
        slot.left_at = now
        self.requests += 1
        slot.number = self.requests
        if slot.reservation:
            slot.reservation.leave(now)

    def release(self, slot: Slot) -> None:
        """Record that a call has ended, or will not be made."""
        if not slot.number and slot.reservation:
            slot.reservation.withdraw()
        self.in_flight -= 1

    def cool_down(self, seconds: float, now: float) -> None:
        """Take no call for this many seconds; a cooldown under way is never shortened."""
        if seconds:
            self.cooldown_until = max(self.cooldown_until, now + seconds)

    def next_rest_s(self) -> float:
        """Return the seconds of a rest, more each time until it answers."""
        self.cooldowns += 1
        return self._backoff()

    def record(
        self, slot: Slot, outcome: Completion | Failure, history: History, now: float, timeout_s: float
    ) -> Silence | None:
        """Record a call's outcome, and adjust the endpoint's limits and cooldown.

        Args:
            slot: of the call.
            outcome: the completion or the failure.
            history: of the row, without this call.
            now: the loop's time.
            timeout_s: of a call, in seconds.

        Returns:
            A change for people to know, if there is one.
        """
        silence = None
        if isinstance(outcome, Completion):
            silence = self._record_answer(slot, outcome, history, now, timeout_s)
        elif is_rate_limit(outcome) or outcome.status in OVERLOADED:
            if not history.is_odd:
                self._record_overload(slot, outcome, history, now)
        elif _is_the_servers(outcome) and not (history.is_odd and has_left(outcome)):
            self._record_failure(slot, outcome, history, now)
        if isinstance(outcome, Failure) and (self.cooldowns or self.failures >= _FAILURES):
            silence = self._silence(str(outcome), now)
        if outcome.limits:
            self._obey(slot, outcome.limits, now)
        return silence

    def _record_answer(
        self, slot: Slot, completion: Completion, history: History, now: float, timeout_s: float
    ) -> Silence | None:
        used = completion.usage.total_tokens or 0  # if it is unknown, the estimate stands
        if used and slot.reservation:
            slot.reservation.settle(used)
        silence = Silence(self, now - self.answered_at, "") if self.is_unresponsive else None
        self.is_unresponsive = False
        weight = _WEIGHT if self.answers else 1.0
        self.answers += 1
        self.latency_s += weight * (now - slot.left_at - self.latency_s)
        if used:
            self.tokens += weight * (used - self.tokens)
        self.failures = 0
        self.answered_at = now
        self._waiters.clear()
        self.standing.answered(slot.left_at, is_clean=history.is_clean)
        if slot.left_at > self.concurrency.fell_at:
            self.cooldowns = 0
        is_soon = now - slot.left_at <= _SOON * timeout_s
        self.concurrency.answered(slot.left_at, now, self.in_flight, may_grow=is_soon)
        for limit in self.server_limits:
            limit.record_outcome(slot.left_at, was_refused=False)
        return silence

    def _record_overload(self, slot: Slot, failure: Failure, history: History, now: float) -> None:
        """Lower the concurrency limit; cool down if the server asks for it, or if a lower limit has not helped."""
        self.failures += history.is_clean and not is_rate_limit(failure)
        cooldown_s = self._asked_wait(failure, history)
        if slot.left_at > self.concurrency.fell_at and not self.concurrency.has_recovered:
            self.cooldowns += 1
            cooldown_s = cooldown_s or self._backoff()
        self.concurrency.overloaded(slot.left_at, now, self.in_flight)
        self.cool_down(cooldown_s, now)
        for limit in self.server_limits:
            limit.record_outcome(slot.left_at, was_refused=True)

    def _record_failure(self, slot: Slot, failure: Failure, history: History, now: float) -> None:
        """After failures of several rows, cool down, longer each time, and then start again with one call."""
        self.cool_down(self._asked_wait(failure, history), now)
        if slot.left_at <= self.concurrency.fell_at:
            return
        self.failures += history.is_clean or not has_left(failure)
        if self.failures >= _FAILURES or self.cooldowns:
            self.cooldowns += 1
            self.latency_s = max(self.latency_s, now - slot.left_at)
            self.concurrency.failed(now)
            self.cool_down(self._backoff(), now)

    def _asked_wait(self, failure: Failure, history: History) -> float:
        """Return the seconds that the server asks for, or as many of them as one row may cost all others."""
        self._waiters.add(history.row)
        return min(failure.retry_after or 0.0, _LONGEST_S if len(self._waiters) > 1 else _UNCONFIRMED_S)

    def _backoff(self) -> float:
        return backoff(self.cooldowns, random.random())  # noqa: S311 - spreads waits, guards nothing

    def _silence(self, why: str, now: float) -> Silence | None:
        seconds = now - self.answered_at
        if self.is_unresponsive or seconds < _UNRESPONSIVE_S:
            return None
        self.is_unresponsive = True
        return Silence(self, seconds, why)

    def _obey(self, slot: Slot, limits: ServerLimits, now: float) -> None:
        """Obey the rate-limit headers of a response."""
        later = self.requests - slot.number
        sizes = (1.0, max(self.tokens, 1.0))
        for limit, allowance, size in zip(self.server_limits, limits, sizes, strict=True):
            if allowance:
                self.cool_down(limit.record(allowance, later * size, size, now), now)


def _is_the_servers(failure: Failure) -> bool:
    """Return whether a failure is one of a server or of the way there, not a refusal."""
    if failure.fault is Fault.TOO_LONG:
        return False
    return failure.status is None or failure.status >= 500

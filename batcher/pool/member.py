"""An endpoint at work: its state, learned from its own calls. Its limits are its account's.

Invariant: all that is known of an endpoint alone is in one object. Calls change it through its methods; the pool ends
its cooldowns and takes it out.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from batcher.calls.batches import Size
from batcher.calls.caller import DistantCaller
from batcher.calls.fate import is_rate_limit
from batcher.endpoint import Endpoint
from batcher.money.tariff import Tariff
from batcher.pool.account import Account
from batcher.pool.blame import OVERLOADED, History, Standing, Trial, backoff, has_left
from batcher.pool.forms import FormChoice
from batcher.pool.limiter import Reservation
from batcher.pool.service_tiers import ServiceTiers
from batcher.records import Completion, Failure, Fault

if TYPE_CHECKING:
    from batcher.calls.caller import Caller

# After failures of this many different rows, one after the other, the endpoint is the cause, not the rows ...
_FAILURES = 8
# ... and after this many if no request can have reached it.
_UNREACHED = 3
# Seconds of failures without an answer, after which people are told.
_UNRESPONSIVE_S = 30.0
# The weight of the latest call in the moving average.
_WEIGHT = 1 / 16
# If an answer takes a larger share of the timeout than this, more calls at once might run into the timeout.
_SOON = 1 / 4

SHORTEST_ROUND_S = 0.5
"""Seconds that are measured at least if calls are made in other processes: of the rounds by which concurrency grows,
and until an answer is late."""


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
        reservation: its share of the account's rate limits, or None if there are none.
        number: its number among the account's calls; 0 until it leaves.
        left_at: the loop's time at which it left.
        tier: the service tier that it asks for; empty: none.
        is_away: it is handed to another process, which has not said yet that its request has left.
        is_released: the call has ended, or will not be made.
    """

    __slots__ = ("is_away", "is_released", "left_at", "member", "number", "reservation", "tier")

    def __init__(self, member: Member, reservation: Reservation | None, tier: str = "") -> None:
        self.member = member
        self.reservation = reservation
        self.tier = tier
        self.number = 0
        self.left_at = math.inf
        self.is_away = False
        self.is_released = False


class KeyConcurrency:
    """The calls that one key may have in flight: as its account allows, but one from when it fails until it answers.

    If all keys of an account fail, the account starts again with one call as well.

    Args:
        member: the endpoint that has the key.

    Attributes:
        is_failing: it has failed altogether, and not answered since.
    """

    __slots__ = ("_failed_at", "_member", "is_failing")

    def __init__(self, member: Member) -> None:
        self._member = member
        self.is_failing = False
        self._failed_at = -math.inf

    @property
    def limit(self) -> float:
        """Calls that may be in flight, with those of the account's other keys."""
        return self._member.account.concurrency.limit

    @property
    def fell_at(self) -> float:
        """The loop's time at which the limit of the key or of its account last fell."""
        return max(self._failed_at, self._member.account.concurrency.fell_at)

    def admits(self) -> bool:
        """Return whether one more call may be in flight."""
        return not (self.is_failing and self._member.in_flight) and self._member.account.admits()

    def answered(self) -> None:
        """Record the answer to a call that left after the limit fell."""
        self.is_failing = False

    def failed(self, now: float) -> None:
        """Record that the key no longer gets any answer."""
        self.is_failing = True
        self._failed_at = now
        account = self._member.account
        if all(each.concurrency.is_failing for each in account.members if each.out is None):
            account.concurrency.failed(now)


class Member:
    """An endpoint at work.

    Args:
        number: its place in the pool, from 0.
        endpoint: its settings.
        source: the journal's id of the source of its answers.
        caller: makes its calls.
        tariff: its prices, in the first form in which it may be asked.
        choice: the form in which it is asked for labels or fields; None: it is asked for any text.
        by_form: its tariff in each form.
        account: holds its limits, which other endpoints may share; default: an account of its own.
        is_known: an earlier process got answers from its base URL and model.
        size: the most that one of its requests for embeddings may hold.
        trial: the refusals at all endpoints of the pool; default: at this one alone.
        tier: 0: it is asked about every row; 1: about those whose answers at tier 0 are not certain enough (`--then`).
        tiers: the service tiers that its requests ask for, the same object for all keys of its source; default: none.

    Attributes:
        distant: its caller, if that makes the calls in another process.
        standing: what its answers and refusals say about it.
        concurrency: how many calls it may have in flight.
        in_flight: calls granted that have not ended.
        requests: calls that left in this run.
        answers: calls that were answered.
        latency_s: seconds to an answer, a moving average; if the endpoint fails, at least as long as a failure took.
        failures: rows that have failed since the last answer, and not before; and calls that cannot have reached it.
        cooldowns: cooldowns since the last answer.
        cooldown_until: the loop's time before which it takes no call, whatever its account does.
        silent_since: the loop's time since which it owes an answer: of the last one, or of a later request before which
            nothing was asked; before the first answer, of the start.
        is_unresponsive: people were told that it does not answer.
        out: why it has left the pool, or None.
    """

    def __init__(
        self,
        number: int,
        endpoint: Endpoint,
        source: int,
        caller: Caller,
        tariff: Tariff,
        *,
        choice: FormChoice | None = None,
        by_form: Mapping[str, Tariff] = MappingProxyType({}),
        account: Account | None = None,
        is_known: bool = False,
        size: Size = Size(),  # noqa: B008 - it is a tuple
        trial: Trial | None = None,
        tier: int = 0,
        tiers: ServiceTiers | None = None,
    ) -> None:
        self.number = number
        self.tier = tier
        self.tiers = tiers or ServiceTiers()
        self.endpoint = endpoint
        self.source = source
        self.caller = caller
        self.distant = caller if isinstance(caller, DistantCaller) else None
        self.tariff = tariff
        self.choice = choice
        self.size = size
        self._by_form = by_form
        self.account = account or Account(endpoint)
        self.account.members.append(self)
        if self.distant:
            self.account.concurrency.shortest_round_s = SHORTEST_ROUND_S
        self.concurrency = KeyConcurrency(self)
        self.in_flight = 0
        self.requests = 0
        self.answers = 0
        self.latency_s = 0.0
        self.failures = 0
        self.cooldowns = 0
        self.cooldown_until = 0.0
        self.silent_since = asyncio.get_running_loop().time()
        self.standing = Standing(self.silent_since, is_known=is_known, pool=trial, limit_time=self.account.limit_time)
        self.is_unresponsive = False
        self.out: str | None = None

    def tariff_in(self, form: str | None) -> Tariff:
        """Return the tariff of requests in a form."""
        return self.tariff if form is None else self._by_form.get(form, self.tariff)

    def __repr__(self) -> str:
        state = self.out or f"{self.in_flight} in flight, {self.requests} requests"
        return f"<Member {self.label}: {state}>"

    @property
    def label(self) -> str:
        """Its name for people; the number tells apart endpoints that differ in their key alone."""
        return f"endpoint {self.number + 1} ({self.name})"

    @property
    def name(self) -> str:
        """The name of its source for people, which endpoints share that differ in their key alone."""
        at = f" at {self.endpoint.where}" if self.endpoint.where else ""
        return f"{self.endpoint.source.model}{at}"

    def can_take(self, now: float) -> bool:
        """Return whether it may make a call, apart from its rate limits."""
        # What says no most often comes first: this is asked several times for each row.
        if not self.concurrency.admits() or not self.is_available(now):
            return False
        if self.in_flight and self.standing.takes_one:
            return False
        return not (self.choice and self.choice.is_busy) and self.tiers.is_open(now)

    def is_available(self, now: float) -> bool:
        """Return whether it is in the pool, and neither it nor its account is in a cooldown."""
        return self.out is None and now >= self.cooldown_until and now >= self.account.cooldown_until

    def cooldown_s(self, now: float) -> float:
        """Return the seconds until neither it nor its account is in a cooldown."""
        return max(self.cooldown_until, self.account.cooldown_until) - now

    @property
    def is_doubted(self) -> bool:
        """Whether it may answer no row at all, so that a row that has not failed before shows more than another."""
        return bool(self.cooldowns) or self.is_in_trouble or self.standing.is_fresh or self.account.is_asked_by_one

    @property
    def is_in_trouble(self) -> bool:
        """Whether several rows have failed one after the other."""
        return self.failures >= _FAILURES or self.standing.is_suspect

    def is_silent(self, failure: Failure, history: History) -> bool:
        """Return whether it answers no row at present, so that a failure does not count against the row.

        A few failures in a row are enough if no request can have reached it; otherwise failures of more rows than a bad
        stretch of the table mostly has.

        Args:
            failure: the latest one.
            history: of its row.
        """
        if self.standing.is_fresh:
            return False
        if not has_left(failure):
            return self.failures >= _UNREACHED
        return self.failures >= _FAILURES and not history.is_over

    def reserve(self, tokens: float, tier: str = "") -> Slot:
        """Grant a call of this many model tokens, which asks for a service tier."""
        self.in_flight += 1
        self.tiers.take(tier)
        if self.choice:
            self.choice.in_flight += 1
        return Slot(self, self.account.reserve(tokens), tier)

    def leave(self, slot: Slot, now: float) -> None:
        """Record that a call leaves."""
        slot.left_at = now
        self.requests += 1
        if self.in_flight == 1 and self.answers and not (self.failures or self.cooldowns):
            self.silent_since = now  # while batches are out, nothing may be asked for hours
        slot.number = self.account.leave()
        slot.is_away = self.distant is not None
        if slot.reservation and not slot.is_away:
            slot.reservation.leave()

    def departed(self, slot: Slot, now: float, *, is_known: bool = True) -> None:
        """Record that the request of a call in another process has left there, or may have: its limits count from now.

        It left earlier than this process learns of it, so that no window holds more than the limit. A call that was cut
        off may leave after it was released here.

        Args:
            slot: of the call.
            now: the loop's time.
            is_known: it has left; else it has ended, and nobody knows when it left, if it did.
        """
        if slot.is_away:
            slot.is_away = False
            # A failure tells of when its call was made, and not of what changed meanwhile.
            slot.left_at = now if is_known else slot.left_at
            if slot.reservation:
                slot.reservation.leave()

    def release(self, slot: Slot) -> None:
        """Record that a call has ended, or will not be made."""
        if not slot.number and slot.reservation:
            slot.reservation.withdraw()
        self.in_flight -= 1
        self.tiers.release(slot.tier)
        if self.choice:
            self.choice.in_flight -= 1
        self.account.release()

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
        """Record a call's outcome, and adjust the cooldowns and limits of the endpoint and its account.

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
            if not history.is_odd or history.is_over:
                self._record_overload(slot, outcome, history, now)
        elif _is_the_servers(outcome) and not (history.is_odd and has_left(outcome)):
            self._record_failure(slot, outcome, history, now)
        if isinstance(outcome, Failure) and (self.cooldowns or self.failures >= _FAILURES):
            silence = self._silence(str(outcome), now)
        if outcome.limits:
            self.account.obey(slot.number, outcome.limits, now)
        return silence

    def _record_answer(
        self, slot: Slot, completion: Completion, history: History, now: float, timeout_s: float
    ) -> Silence | None:
        used = completion.usage.total_tokens or 0  # if it is unknown, the estimate stands
        if used and slot.reservation:
            slot.reservation.settle(used)
        silence = Silence(self, now - self.silent_since, "") if self.is_unresponsive else None
        self.is_unresponsive = False
        weight = _WEIGHT if self.answers else 1.0
        self.answers += 1
        self.latency_s += weight * (now - slot.left_at - self.latency_s)
        self.failures = 0
        self.silent_since = now
        self.standing.answered(slot.left_at, is_clean=history.is_clean)
        if slot.left_at > self.concurrency.fell_at:
            self.cooldowns = 0
            self.concurrency.answered()
        is_soon = now - slot.left_at <= _SOON * timeout_s
        self.account.answered(slot.left_at, now, used, may_grow=is_soon)
        return silence

    def _record_overload(self, slot: Slot, failure: Failure, history: History, now: float) -> None:
        """Record a refusal that concerns every key of the account."""
        self.failures += history.is_clean and not is_rate_limit(failure)
        asked_s = self.account.asked_wait_s(history.row, failure.retry_after)
        self.cooldowns += self.account.overloaded(slot.left_at, now, asked_s, self.cooldowns)

    def _record_failure(self, slot: Slot, failure: Failure, history: History, now: float) -> None:
        """After failures of several rows, cool down, longer each time, and then start again with one call."""
        self.cool_down(self.account.asked_wait_s(history.row, failure.retry_after), now)
        if slot.left_at <= self.concurrency.fell_at:
            return
        self.failures += history.is_clean or not has_left(failure)
        if self.failures >= _FAILURES or self.cooldowns:
            self.cooldowns += 1
            self.latency_s = max(self.latency_s, now - slot.left_at)
            self.concurrency.failed(now)
            self.cool_down(self._backoff(), now)

    def _backoff(self) -> float:
        return backoff(self.cooldowns, random.random())  # noqa: S311 - spreads waits, guards nothing

    def _silence(self, why: str, now: float) -> Silence | None:
        seconds = now - self.silent_since
        if self.is_unresponsive or seconds < _UNRESPONSIVE_S:
            return None
        self.is_unresponsive = True
        return Silence(self, seconds, why)


def _is_the_servers(failure: Failure) -> bool:
    """Return whether a failure is one of a server or of the way there, not a refusal."""
    if failure.fault is Fault.TOO_LONG:
        return False
    return failure.status is None or failure.status >= 500

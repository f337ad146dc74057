"""An account at a service: the limits that its keys share, and its state, learned from the calls of all of them.

Invariant: no state of an account is kept for one of its keys; what one key learns holds for the others at once.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from batcher.calls.waits import LONGEST_ASKED_S
from batcher.endpoint import Endpoint
from batcher.pool.blame import SEVERAL, LimitTime, backoff
from batcher.pool.concurrency import Concurrency
from batcher.pool.limiter import Limiter, Reservation
from batcher.pool.server_limits import ServerLimit
from batcher.records import ServerLimits

if TYPE_CHECKING:
    from batcher.pool.member import Member

# A longer wait than this is obeyed only if several rows are asked for one.
_UNCONFIRMED_S = 60.0
# The weight of the latest call in the moving average.
_WEIGHT = 1 / 16


class Bound(NamedTuple):
    """A limit of an account, in requests a minute.

    Attributes:
        name: of the limit, as an endpoint has it; empty if it is the server's own.
        rate: the requests a minute that it allows; infinite if there is none, or it is not known.
        text: the limit in words.
    """

    name: str
    rate: float
    text: str


class Account:
    """The limits of one endpoint, or of several endpoints whose keys belong to one account.

    Args:
        endpoint: one of its endpoints; they all have the same limits.

    Attributes:
        members: its endpoints.
        max_concurrency: the most calls in flight.
        limiter: paces its calls by its rate limits, or None without limits.
        concurrency: its concurrency limit.
        server_limits: the limits of requests and of tokens that its server reports.
        in_flight: calls granted that have not ended.
        requests: calls that left in this run.
        answers: calls that were answered.
        tokens: model tokens that an answered call uses, a moving average.
        cooldowns: cooldowns since the last answer, if the server did not say how long they should take.
        cooldown_until: the loop's time before which none of its endpoints takes a call.
        limit_time: how long it has answered nothing because of a rate limit.
        wanted: set while a row waits that one of its endpoints could take.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.members: list[Member] = []
        self.max_concurrency = endpoint.max_concurrency
        self.limiter: Limiter | None = None
        self.concurrency = Concurrency(endpoint.max_concurrency)
        self.server_limits = (ServerLimit(), ServerLimit())
        self.in_flight = 0
        self.requests = 0
        self.answers = 0
        self.tokens = 0.0
        self.cooldowns = 0
        self.cooldown_until = 0.0
        self.limit_time = LimitTime()
        self.wanted = asyncio.Event()
        # The rows that were asked to wait since the last answer, and those of them that were asked to wait for long.
        self._asked: set[int] = set()
        self._long: set[int] = set()
        self._given = {"rpm": endpoint.rpm, "rps": endpoint.rps, "tpm": endpoint.tpm}

    @property
    def limits(self) -> tuple[float | None, float | None, float | None]:
        """Requests a minute, requests a second, tokens a minute: as the user gave them, else as the server reports."""
        (rpm, rps, tpm), (requests, tokens) = self._given.values(), self.server_limits
        return rpm if rpm or rps else requests.per_minute, rps, tpm or tokens.per_minute

    def given(self, name: str) -> float | None:
        """Return a limit as the user gave it: `rpm`, `rps`, `tpm` or `max_concurrency`."""
        return self.max_concurrency if name == "max_concurrency" else self._given[name]

    def limit(self, max_concurrency: int | None = None, **rates: float | None) -> None:
        """Change limits that the user gave, to None for no limit; those that are not given stay as they are."""
        if max_concurrency is not None:
            self.max_concurrency = max_concurrency
            self.concurrency.bound_by(max_concurrency)
        self._given |= rates

    def bounds(self) -> list[Bound]:
        """Return the limits that hold now, as far as it is known what they allow."""
        rpm, rps, tpm = self._given.values()
        requests, tokens = (limit.per_minute for limit in self.server_limits)
        found = [
            Bound("rpm", rpm or math.inf, f"rpm {rpm:,g}" if rpm else ""),
            Bound("rps", 60 * rps if rps else math.inf, f"rps {rps:,g}" if rps else ""),
            Bound("tpm", tpm / self.tokens if tpm and self.tokens else math.inf, f"tpm {tpm:,g}" if tpm else ""),
        ]
        if latencies := [member.latency_s for member in self.members if member.answers and member.latency_s]:
            rate = 60 * self.max_concurrency / min(latencies)
            found.append(Bound("max_concurrency", rate, f"max_concurrency {self.max_concurrency:,}"))
        if requests and not (rpm or rps):
            found.append(Bound("", requests, f"the service's limit of {requests:,g} requests a minute"))
        if tokens and self.tokens and not tpm:
            found.append(Bound("", tokens / self.tokens, f"the service's limit of {tokens:,g} tokens a minute"))
        return found

    def admits(self) -> bool:
        """Return whether one more call may be in flight."""
        return self.concurrency.admits(self.in_flight)

    def reserve(self, tokens: float) -> Reservation | None:
        """Grant a call of this many model tokens, and return its share of the rate limits, if there are any."""
        self.in_flight += 1
        return self.limiter.reserve(tokens) if self.limiter else None

    def leave(self) -> int:
        """Record that a call leaves, and return its number among the account's calls, from 1."""
        self.requests += 1
        return self.requests

    def release(self) -> None:
        """Record that a call has ended, or will not be made."""
        self.in_flight -= 1

    def cool_down(self, seconds: float, now: float) -> None:
        """Take no call for this many seconds; a cooldown under way is never shortened."""
        if seconds:
            self.cooldown_until = max(self.cooldown_until, now + seconds)

    def answered(self, left_at: float, now: float, used: int, *, may_grow: bool) -> None:
        """Record an answer.

        Args:
            left_at: when its call left.
            now: the loop's time.
            used: the model tokens that it used; 0 if they are unknown.
            may_grow: it came so early that later answers may take longer without a timeout.
        """
        weight = _WEIGHT if self.answers else 1.0
        self.answers += 1
        self._asked.clear()
        self._long.clear()
        if used:
            self.tokens += weight * (used - self.tokens)
        if left_at > self.concurrency.fell_at:
            self.cooldowns = 0
        self.concurrency.answered(left_at, now, self.in_flight, may_grow=may_grow)
        for limit in self.server_limits:
            limit.record_outcome(left_at, was_refused=False)

    @property
    def is_asked_by_one(self) -> bool:
        """Whether one row alone was asked to wait since the last answer."""
        return len(self._asked) == 1

    def asked_wait_s(self, row: int, retry_after: float | None) -> float:
        """Return the seconds that the server asks for, or as many of them as one row may cost all others."""
        asked_s = retry_after or 0.0
        if asked_s > _UNCONFIRMED_S:
            self._long.add(row)
        self._asked.add(row)
        return min(asked_s, _UNCONFIRMED_S if len(self._long) < SEVERAL else LONGEST_ASKED_S)

    def overloaded(self, left_at: float, now: float, asked_s: float, before: int) -> bool:
        """Lower the concurrency limit; cool down if the server asks for it, or if a lower limit has not helped.

        Args:
            left_at: when the refused call left.
            now: the loop's time.
            asked_s: the seconds that the server asks for; 0 if it does not.
            before: cooldowns of the call's endpoint since its last answer, for whatever reason.

        Returns:
            Whether a lower limit has not helped.
        """
        cooldown_s = asked_s
        has_not_helped = left_at > self.concurrency.fell_at and not self.concurrency.has_recovered
        if has_not_helped:
            self.cooldowns = max(self.cooldowns, before) + 1
            cooldown_s = cooldown_s or backoff(self.cooldowns, random.random())  # noqa: S311 - spreads waits
        self.concurrency.overloaded(left_at, now, self.in_flight)
        self.cool_down(cooldown_s, now)
        for limit in self.server_limits:
            limit.record_outcome(left_at, was_refused=True)
        return has_not_helped

    def obey(self, number: int, limits: ServerLimits, now: float) -> None:
        """Obey the rate-limit headers of the response to the call with this number."""
        later = self.requests - number
        sizes = (1.0, max(self.tokens, 1.0))
        for limit, allowance, size in zip(self.server_limits, limits, sizes, strict=True):
            if allowance:
                self.cool_down(limit.record(allowance, later * size, size, now), now)


def accounts_of(endpoints: Sequence[Endpoint]) -> list[Account]:
    """Return the account of each endpoint; endpoints whose keys belong to one account get the same object."""
    shared: dict[tuple[str, str], Account] = {}
    found = []
    for endpoint in endpoints:
        if (place := endpoint.shared_account) is None:
            found.append(Account(endpoint))
        else:
            found.append(shared.setdefault(place, Account(endpoint)))
    return found

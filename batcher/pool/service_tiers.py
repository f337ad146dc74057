"""The service tiers in which the endpoints of one source are asked, and which of them has no capacity at present.

Invariant: that a tier has no capacity says nothing of another one, nor of the endpoint. While it lasts, a few requests
at a time show whether it is over, however many rows wait.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from batcher.calls.waits import LONGEST_ASKED_S
from batcher.pool.blame import backoff

PROBES = 4
"""The requests at a time that show whether a tier has capacity again; each answer admits as many more."""

MOST_LACKED = 2
"""The refusals for lack of capacity after which a row goes on to the next tier."""

# After this many refusals without an answer between them the tier has no capacity. Fewer are bad luck: a tier that
# refuses every second request has capacity.
_FULL = 8
# The refusals of a tier that has never answered, after which it is no longer asked for.
_DENIALS = 2
# From so many times on, people are told as late as this time.
_MOST_TOLD = 6


class _Capacity:
    """What is known of the capacity of one tier.

    Attributes:
        in_flight: requests that ask for it and have not ended.
        answers: to requests that asked for it, in this run.
        closings: how often it was found to have none, one after the other.
        until: the loop's time before which it is not asked for.
        since: the loop's time of the first refusal since the last answer; None: it has capacity.
        is_told: people know that it has none.
        told: how often they were told; each time they are told after twice as long.
    """

    __slots__ = (
        "_closed_at",
        "_denials",
        "_limit",
        "_refusals",
        "answers",
        "closings",
        "in_flight",
        "is_told",
        "since",
        "told",
        "until",
    )

    def __init__(self) -> None:
        self.in_flight = self.answers = self.closings = self.told = 0
        self.until = 0.0
        self.since: float | None = None
        self.is_told = False
        self._limit = math.inf
        self._closed_at = -math.inf
        self._refusals = self._denials = 0

    def admits(self, now: float) -> bool:
        return now >= self.until and self.in_flight < self._limit

    def answered(self, left_at: float) -> None:
        self.answers += 1
        self._refusals = self._denials = 0
        self._limit += PROBES
        # An answer to a request that left before says less: the service may have no room for further ones.
        self.closings = 0 if left_at > self._closed_at else max(self.closings - 1, 0)
        if not self.closings:
            self.since = None
            self._limit = max(self._limit, self.in_flight + PROBES)

    def refused(self, left_at: float, now: float, jitter: float, asked_s: float) -> None:
        others = self.in_flight - 1
        self._limit = min(self._limit, others + PROBES)
        self.since = now if self.since is None else self.since
        if left_at <= self._closed_at:
            return
        self._refusals += 1
        if asked_s or not others or self._refusals >= (PROBES if self.closings else _FULL):
            self.closings += 1
            self._refusals = 0
            self._closed_at = now
            self.until = now + max(backoff(self.closings, jitter), min(asked_s, LONGEST_ASKED_S))

    def denied(self) -> bool:
        """Record a refusal of the tier itself; return whether it is no longer asked for."""
        self._denials += 1
        return not self.answers and self._denials >= _DENIALS


class ServiceTiers:
    """The service tiers of the endpoints of one source: its model has the same capacity for all keys.

    Args:
        names: in the order in which they are tried; empty: requests name no tier.
        words: the value of `service_tier` for each tier that the service has; an empty one is left out. Empty: the
            parameters of the requests say which tier they ask for, or it has none; then the names stay as they are.
    """

    def __init__(self, names: Sequence[str] = (), words: Mapping[str, str] = MappingProxyType({})) -> None:
        self._names = tuple(names)
        self._words = words
        self._capacities: dict[str, _Capacity] = {}
        self._gone: set[str] = set()

    def __repr__(self) -> str:
        return f"<ServiceTiers: {', '.join(self.names) or 'none'}>"

    @property
    def names(self) -> tuple[str, ...]:
        """The tiers that requests ask for, in the order in which they are tried."""
        return self._names

    @names.setter
    def names(self, names: Sequence[str]) -> None:
        """Let the next requests ask for other tiers; those that the service does not have are left out."""
        if self._words:
            self._names = tuple(name for name in names if name in self._words and name not in self._gone)

    def word(self, name: str) -> str:
        """Return the value of `service_tier` that a request needs besides its own parameters; empty: none."""
        return self._words.get(name, "")

    @property
    def answers(self) -> Counter[str]:
        """The answers of this run by the tier that their requests asked for; "": by those that named none."""
        return Counter({name: each.answers for name, each in self._capacities.items()})

    def is_open(self, now: float) -> bool:
        """Return whether a tier can be asked for."""
        return not self.names or any(self._of(name).admits(now) for name in self.names)

    def choose(self, now: float, lacked: Callable[[str], int] = lambda _name: 0) -> str:
        """Return the tier that the next request asks for; empty: none.

        Args:
            now: the loop's time.
            lacked: how often each tier has had no capacity for the row. One that it met once is tried once more, unless
                there is no other.
        """
        *firsts, last = self.names or ("",)
        for name in firsts:
            times = lacked(name)
            if 0 < times < MOST_LACKED or (not times and self._of(name).admits(now)):
                return name
        if not self._of(last).admits(now):
            return next((name for name in firsts if self._of(name).admits(now)), last)
        return last

    def take(self, name: str) -> None:
        """Record that a request for a tier is granted."""
        self._of(name).in_flight += 1

    def release(self, name: str) -> None:
        """Record that it has ended, or will not be made."""
        self._of(name).in_flight -= 1

    def answered(self, name: str, left_at: float) -> float | None:
        """Record an answer; return since when the tier had no capacity, if people know that and it is over."""
        capacity = self._of(name)
        since = capacity.since
        capacity.answered(left_at)
        if not capacity.is_told or capacity.since is not None:
            return None
        capacity.is_told = False
        return since

    def refused(self, name: str, left_at: float, now: float, jitter: float, asked_s: float = 0.0) -> float:
        """Record that a tier had no capacity for a request; return when it is asked for again, by the loop's time.

        Args:
            name: of the tier.
            left_at: when the request left.
            now: the present.
            jitter: a number drawn evenly from [0, 1).
            asked_s: the seconds that the service asks to wait; 0 if it does not.
        """
        capacity = self._of(name)
        capacity.refused(left_at, now, jitter, asked_s)
        return capacity.until

    def reopen(self, name: str, until: float) -> None:
        """Ask for a tier again, if that time was not prolonged; a timer may call early by the clock's resolution."""
        if self._of(name).until == until:
            self._of(name).until = 0.0

    def denied(self, name: str) -> bool:
        """Record that the service does not have a tier; return whether it is no longer among those to ask for."""
        if not self._of(name).denied():
            return False
        self._gone.add(name)
        self._names = tuple(each for each in self._names if each != name)
        return True

    def should_tell(self, name: str, seconds: float, now: float) -> bool:
        """Return whether a tier has had no capacity for so long that people should know, and do not yet."""
        capacity = self._of(name)
        if capacity.is_told or not capacity.closings or capacity.since is None:
            return False
        if now - capacity.since < seconds * 2**capacity.told:
            return False
        capacity.is_told = True
        capacity.told = min(capacity.told + 1, _MOST_TOLD)
        return True

    def full(self, now: float) -> tuple[str, float] | None:
        """Return the tier that has no capacity, and the seconds until it is asked for again; None if there is none."""
        found = next((name for name in self.names if self._of(name).closings), None)
        return None if found is None else (found, max(self._of(found).until - now, 0.0))

    def _of(self, name: str) -> _Capacity:
        if (capacity := self._capacities.get(name)) is None:  # asked several times for each request
            capacity = self._capacities[name] = _Capacity()
        return capacity

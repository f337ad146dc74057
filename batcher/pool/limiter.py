"""The limits of one endpoint: requests a second and a minute, and model tokens a minute.

Invariant: in no window of 60 s (of 1 s) does more than the limit leave, however late timers and commits are; and what
leaves is spread evenly over it.
"""

from __future__ import annotations

import asyncio
import collections
import math

from aiolimiter import AsyncLimiter

# Seconds that may be caught up after a timer of the event loop woke late, on a busy machine by tens of milliseconds.
# Otherwise each late timer would lose a part of the limit for good.
_CATCH_UP_S = 0.1
# The same for tokens: they come in large amounts, and the exact count holds each amount back until it fits.
_LUMPS_CATCH_UP_S = 6.0
# The share of each window that stays free. If a request is delayed on its way, later requests arrive closer to it, and
# the server could see its limit exceeded.
_MARGIN = 0.01
# Seconds after which a wait is computed again, or a tenth of the wait if that is longer: an answer may have returned
# tokens.
_RECHECK_S = 0.1


class Limiter:
    """Admits the calls of one endpoint one at a time: `ready`, then `wait` until it returns 0, then `reserve`.

    Two rules together. The pace spreads calls evenly. For requests it is aiolimiter's leaky bucket, which leaks
    limit / window a second and holds one request and what 100 ms bring. For tokens it is the same algorithm as one
    number, the moment at which all that passed is paid for (the "theoretical arrival time" of the generic cell rate
    algorithm, ITU-T I.371), because token amounts may exceed any bucket, and change when the answer comes. The exact
    count guarantees the limit for every window.

    The pace ignores the size of the next call: a large call waits only for its turn, and the call after it waits for
    both. A call that is larger than the whole limit passes when the window is empty.

    One task at a time may wait: `AsyncLimiter` serves its waiters smallest first, not first come first served.

    Args:
        rpm: requests a minute, or None.
        rps: requests a second, or None.
        tpm: model tokens a minute, or None.
    """

    def __init__(self, rpm: float | None = None, rps: float | None = None, tpm: float | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._requests: list[_Count] = []
        self._tokens: _Count | None = None
        self._paid_at = 0.0
        self._wanted_at = 0.0
        self._passed_at = -math.inf
        self.change(rpm, rps, tpm)
        self._is_changed = False  # the first call need not wait

    def change(self, rpm: float | None = None, rps: float | None = None, tpm: float | None = None) -> None:
        """Keep other limits from now on. The task that waits for the old ones must wait anew.

        Under a lower limit, a call that has left counts as the share of the window that it was of the old limit. So no
        window that begins after the change sees more than the new limit, and the pace goes on evenly: if such calls
        counted in full, none would leave for a while. Tokens that are owed are still owed.
        """
        limits = [(limit, window_s * (1 + _MARGIN)) for limit, window_s in ((rps, 1.0), (rpm, 60.0)) if limit]
        self._buckets = [_bucket(limit / window_s) for limit, window_s in limits]
        before = {count.window_s: count for count in self._requests}
        # At 1.5 a second, some seconds see two.
        self._requests = [_changed(before.get(window_s), math.ceil(limit), window_s) for limit, window_s in limits]
        if self._tokens and tpm:
            now = self.now()
            self._paid_at = now + (self._paid_at - now) * (self._tokens.limit / tpm if self._paid_at > now else 1)
        self._tokens = _changed(self._tokens, tpm, 60 * (1 + _MARGIN)) if tpm else None
        self._is_changed = True

    def now(self) -> float:
        """Return the loop's time, by which alone the limits are counted."""
        return self._loop.time()

    async def ready(self) -> None:
        """Wait until the pace lets one more call pass."""
        now = self.now()
        if now - self._passed_at > _CATCH_UP_S:  # otherwise a call has been waiting all the time
            self._wanted_at = now
        while (wait := self._paid_at - self.now()) > 0:  # noqa: ASYNC110 - answers change the moment
            await asyncio.sleep(_pause(wait))
        if self._is_changed:
            self._is_changed = False
            for bucket in self._buckets:
                await bucket.acquire(bucket.max_rate)  # as if a call had just left
        for bucket in self._buckets:
            await bucket.acquire()

    def wait(self, tokens: float) -> float:
        """Return 0 if a call of this many tokens may pass now, else the seconds after which to ask again."""
        now = self.now()
        waits = [count.wait(1, now) for count in self._requests]
        if self._tokens:
            waits.append(self._tokens.wait(tokens, now))
        return _pause(max(waits, default=0.0))

    def reserve(self, tokens: float) -> Reservation:
        """Admit a call of this many tokens."""
        self._passed_at = self.now()
        requests = [_Share(count, 1) for count in self._requests]
        if not self._tokens:
            return Reservation(self, requests)
        # Unused capacity is not saved up.
        self._paid_at = max(self._paid_at, self._wanted_at, self.now() - _LUMPS_CATCH_UP_S)
        self.owe(tokens)
        return Reservation(self, requests, _Share(self._tokens, tokens))

    def owe(self, tokens: float) -> None:
        """Add tokens that the next call must wait for; a negative number removes tokens."""
        if self._tokens:
            self._paid_at += tokens * self._tokens.window_s / self._tokens.limit


class Reservation:
    """The share of an endpoint's limits that one call takes, from its grant on."""

    __slots__ = ("_limiter", "_requests", "_tokens")

    def __init__(self, limiter: Limiter, requests: list[_Share], tokens: _Share | None = None) -> None:
        self._limiter = limiter
        self._requests = requests
        self._tokens = tokens

    def leave(self) -> None:
        """Record that the call leaves now, by the loop's own time: a server counts pauses by hand as well."""
        now = self._limiter.now()
        for share in self._requests:
            share.leave(now)
        if self._tokens:
            self._tokens.leave(now)

    def settle(self, tokens: float) -> None:
        """Replace the call's estimate by its real usage; the difference is owed or returned."""
        if self._tokens:
            self._limiter.owe(tokens - self._tokens.amount)
            self._tokens.settle(tokens)

    def withdraw(self) -> None:
        """Record that the call will not leave."""
        self.settle(0)
        for share in self._requests:
            share.settle(0)


def _pause(wait: float) -> float:
    return min(wait, max(wait / 10, _RECHECK_S))


def _bucket(per_s: float) -> AsyncLimiter:
    size = 1 + per_s * _CATCH_UP_S
    return AsyncLimiter(size, size / per_s)


def _changed(count: _Count | None, limit: float, window_s: float) -> _Count:
    """Return a count with another limit, or a new one."""
    if count is None:
        return _Count(limit, window_s)
    for share in count.left if limit < count.limit else ():
        share.weigh(limit / count.limit)
    count.limit = limit
    return count


class _Count:
    """An exact count of what left in the last `window_s` seconds or is about to leave.

    A call counts from its grant until one window after its departure. So calls that are delayed after the grant, by a
    commit or a stopped process, and then leave together, are counted together.
    """

    def __init__(self, limit: float, window_s: float) -> None:
        self.limit = limit
        self.window_s = window_s
        self.total = 0.0
        self.left: collections.deque[_Share] = collections.deque()

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until this amount fits, or until it is worth asking again."""
        while self.left and self.left[0].left_at + self.window_s <= now:
            self.left.popleft().expire()
        # A billionth of slack: adding and subtracting floats leaves rounding errors.
        excess = self.total + min(amount, self.limit) - self.limit * (1 + 1e-9)
        if excess <= 0:
            return 0.0
        for share in self.left:
            excess -= share.amount * share.weight
            if excess <= 0:
                return share.left_at + self.window_s - now
        return _RECHECK_S  # a granted call has not left yet


class _Share:
    """The share of one limit that one call takes.

    Attributes:
        weight: the part of its amount that counts, if the limit was lowered after it left.
    """

    __slots__ = ("_count", "amount", "counts", "left_at", "weight")

    def __init__(self, count: _Count, amount: float) -> None:
        self._count = count
        self.amount = amount
        self.counts = True
        self.weight = 1.0
        self.left_at = math.inf
        count.total += amount

    def leave(self, now: float) -> None:
        self.left_at = now
        self._count.left.append(self)

    def settle(self, amount: float) -> None:
        if self.counts:
            self._count.total += (amount - self.amount) * self.weight
        self.amount = amount

    def weigh(self, factor: float) -> None:
        self._count.total += self.amount * self.weight * (factor - 1)
        self.weight *= factor

    def expire(self) -> None:
        self._count.total -= self.amount * self.weight
        self.counts = False

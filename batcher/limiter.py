"""The pace of one API key: requests a minute and a second.

Invariant: in no window of 60 s (of 1 s) does more than the limit pass, and what passes is spread evenly over it.
"""

from __future__ import annotations

from aiolimiter import AsyncLimiter

# A timer of the event loop wakes late by a few milliseconds. So much time may be caught up, or every late wake-up
# would lose a part of the limit for good.
_CATCH_UP_S = 0.01
# Between its passage and the server a request may be held up, by a commit of the journal or on its way, and the later
# ones come closer to it. So much of each window is left free, or the server would see the limit broken.
_MARGIN = 0.01


class Limiter:
    """Lets one caller pass at a time, at an even pace.

    It is a leaky bucket (the generic cell rate algorithm, ITU-T I.371) of size b = 1 + rate * 10 ms that leaks
    r = (limit - (b - 1)) / (window + 1%) a second. From one passage on, b + r * window < limit + 1 fit into a window,
    so never more than the limit do (rounded up if it is no whole number), at no burst beyond the b - 1 that a late
    timer may catch up. What this costs is 1 to 2% of the limit.

    One task at a time may wait: `AsyncLimiter` serves its waiters smallest first, not first come first served.

    Args:
        rpm: requests a minute, or None.
        rps: requests a second, or None.
    """

    def __init__(self, rpm: float | None = None, rps: float | None = None) -> None:
        limits = ((rps, 1.0), (rpm, 60.0))
        self._buckets = [_bucket(limit, window_s) for limit, window_s in limits if limit is not None]

    async def acquire(self) -> None:
        """Wait until one more request may leave."""
        for bucket in self._buckets:
            await bucket.acquire()


def _bucket(limit: float, window_s: float) -> AsyncLimiter:
    size = 1 + limit / window_s * _CATCH_UP_S
    leak_per_s = (limit - (size - 1)) / (window_s * (1 + _MARGIN))
    return AsyncLimiter(size, size / leak_per_s)

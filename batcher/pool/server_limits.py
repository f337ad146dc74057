"""Decides which rate-limit headers (`x-ratelimit-*`) of a server to obey, for one of its limits.

Invariant: no report delays calls for longer than `LONGEST_COOLDOWN_S`, and a report that proved wrong is not obeyed
again.
"""

from __future__ import annotations

import math

from batcher.records import Allowance

LONGEST_COOLDOWN_S = 60.0

# Seconds within which a window is certainly a minute, and outside of which it certainly is not: reports are rounded.
_A_MINUTE = (45.0, 80.0)
_PERHAPS_A_MINUTE = (30.0, 120.0)


class ServerLimit:
    """One limit of one endpoint, of requests or of model tokens, as its server reports it.

    Attributes:
        per_minute: the limit, if it is one per minute that refills continuously; else None.
    """

    def __init__(self) -> None:
        self.per_minute: float | None = None
        self._may_be_refilled = True
        self._is_true: bool | None = None
        self._cooldown_until = -math.inf
        self._has_cooled_down = False
        self._tested = (math.inf, math.inf)

    def record(self, allowance: Allowance, later: float, size: float, now: float) -> float:
        """Record what a response reports, and return the seconds in which no call should leave.

        Args:
            allowance: what the response to a call reports.
            later: requests or tokens of calls that left after that call.
            size: requests or tokens of one call.
            now: the present, in seconds.
        """
        limit, remaining, reset_s = allowance
        if remaining is None or reset_s is None or reset_s <= 0:
            return 0.0
        if limit is not None and limit >= size:
            self._infer(limit, remaining, reset_s)
        if remaining - later >= size:
            return 0.0
        cooldown_s = reset_s if self.per_minute is None else 60 * size / self.per_minute
        return self._obey(min(cooldown_s, LONGEST_COOLDOWN_S), now)

    def _infer(self, limit: float, remaining: float, reset_s: float) -> None:
        """Find out whether the limit refills evenly within a minute: then used / limit = reset / minute.

        A daily limit in these headers fits a day. A limit per calendar minute, which comes back all at once, fits
        nothing. `remaining` is a rounded whole number.
        """
        used = limit - remaining
        if used <= 0:
            return
        shortest = reset_s * limit / (used + 1)
        longest = reset_s * limit / (used - 1) if used > 1 else math.inf
        if longest < _PERHAPS_A_MINUTE[0] or shortest > _PERHAPS_A_MINUTE[1]:
            self._may_be_refilled = False
            self.per_minute = None
        elif self._may_be_refilled and shortest >= _A_MINUTE[0] and longest <= _A_MINUTE[1]:
            self.per_minute = limit

    def _obey(self, cooldown_s: float, now: float) -> float:
        """Obey the first report that nothing is left; at the second one, let calls leave to see whether it is true."""
        if self._is_true is None and self._has_cooled_down and now >= self._cooldown_until:
            self._tested = (min(self._tested[0], now), now + cooldown_s)
            return 0.0
        if self._is_true is False:
            return 0.0
        self._has_cooled_down = True
        self._cooldown_until = now + cooldown_s
        return cooldown_s

    def record_outcome(self, left_at: float, *, was_refused: bool) -> None:
        """Record how a call ended: a call sent although nothing was left shows whether the report was true."""
        since, until = self._tested
        if self._is_true is None and since <= left_at < until:
            self._is_true = was_refused

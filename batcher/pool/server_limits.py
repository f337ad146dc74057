"""What a server states of one limit beside its answers (`x-ratelimit-*`), and what of it to believe.

Invariant: nothing that a server states keeps calls back for longer than `LONGEST_REST_S`, and what has proved wrong is
not believed again.
"""

from __future__ import annotations

import math

from batcher.records import Allowance

LONGEST_REST_S = 60.0

# Seconds that are certainly meant to be a minute, and those outside of which none is meant: what is stated is rounded.
_A_MINUTE = (45.0, 80.0)
_PERHAPS_A_MINUTE = (30.0, 120.0)


class Stated:
    """One limit of one endpoint, requests or model tokens, as its server states it.

    Attributes:
        per_minute: the limit, if it is one of a minute that is refilled all the time; else None.
    """

    def __init__(self) -> None:
        self.per_minute: float | None = None
        self._may_be_refilled = True
        self._is_true: bool | None = None
        self._rests_until = -math.inf
        self._has_rested = False
        self._tested = (math.inf, math.inf)

    def heard(self, allowance: Allowance, later: float, size: float, now: float) -> float:
        """Take note of what is stated; return the seconds in which no call should leave.

        Args:
            allowance: what is stated beside the answer to a call.
            later: how much has left after that call.
            size: what one call takes.
            now: the present, in seconds.
        """
        limit, remaining, reset_s = allowance
        if remaining is None or reset_s is None or reset_s <= 0:
            return 0.0
        if limit is not None and limit >= size:
            self._infer(limit, remaining, reset_s)
        if remaining - later >= size:
            return 0.0
        rest_s = reset_s if self.per_minute is None else 60 * size / self.per_minute
        return self._obey(min(rest_s, LONGEST_REST_S), now)

    def _infer(self, limit: float, remaining: float, reset_s: float) -> None:
        """Find out whether a limit is refilled evenly within a minute: then used / limit = reset / minute.

        A limit of a day in these headers fits a day, and one of a calendar minute, which comes back at once, fits
        nothing. `remaining` is a whole number, rounded.
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

    def _obey(self, rest_s: float, now: float) -> float:
        """Believe once that nothing is left; the second time see what happens, and believe that."""
        if self._is_true is None and self._has_rested and now >= self._rests_until:
            self._tested = (min(self._tested[0], now), now + rest_s)
            return 0.0
        if self._is_true is False:
            return 0.0
        self._has_rested = True
        self._rests_until = now + rest_s
        return rest_s

    def proved(self, left_at: float, *, was_refused: bool) -> None:
        """Take note of what came of a call: one that left when nothing was left says whether that was so."""
        since, until = self._tested
        if self._is_true is None and since <= left_at < until:
            self._is_true = was_refused

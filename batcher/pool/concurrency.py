"""The concurrency limit of one endpoint: it grows while throughput grows, and falls if the server refuses calls.

Invariant: the limit is never above its bound nor below 1. It falls once for all calls that were refused together, and
a call that left before it fell does not raise it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST_LIMIT = 32
# The ceiling after an overload, as a share of the calls in flight that the server did not refuse.
_SAFE = 0.975
# Two rounds are compared if the limit of one is 1.5 times that of the other; it must bring 1.25 times the answers
_PAYS = 1.25
_HIGHER = 1.5
# Seconds at the ceiling before a higher limit is tried, at first and at most.
_PATIENCE_S = 10.0
_MOST_PATIENCE_S = 60.0
# After this many successful tries in a row, the server's capacity has grown.
_TRIES = 3


@dataclass(slots=True)
class _Round:
    """A round: as many answers as the limit at its start, of which the last answers a call that left since then."""

    began: float
    limit: float
    answers: int = 0
    per_s: float = 0.0


@dataclass(slots=True)
class _Overload:
    """An overload: calls in flight at its start, the ceiling before it, and how many of the calls were not refused."""

    in_flight: int
    ceiling: float
    borne: int

    def ceiling_after_refusal(self) -> float:
        """Count one more refusal, and return the ceiling that follows from all of them.

        If most of what was in flight is refused, the number of calls in flight was not the reason.
        """
        self.borne -= 1
        return round(_SAFE * self.borne) if self.borne >= self.in_flight / 2 else self.ceiling


class Concurrency:
    """The number of calls that one endpoint may have in flight now.

    After TCP's congestion control (RFC 5681, 3.1), with calls in the place of segments. A round is as many answers as
    the limit; it counts only while no other limit holds calls back.

    - The limit starts at 32. Each answer admits one more call, so that a round doubles it, up to a ceiling, at first
      `most`. As in TCP Vegas (Brakmo and Peterson, 1995) doubling must pay: if the second of two rounds brings less
      than 1.25 times the answers a second, only the server's queue has grown, and the limit before becomes the ceiling.
    - An overload halves it, once for all calls that left before. 97.5% of the calls in flight that were not refused
      become the ceiling, up to which it doubles again. If most of them were refused, the rate was too high, not the
      number in flight, and the ceiling stays.
    - After 10 s at the ceiling it tries one call more, then two, four, ... every 10 s; twice the limit if doubling did
      not pay. Each failed try doubles that time, up to 60 s: an overload costs throughput, and most servers do not
      change.
    - An endpoint that fails altogether starts again with one call.

    If a rate limit paces the calls, they leave slowly anyway: with the first answer the limit rises to `most`, until
    the server refuses calls.

    Args:
        most: the highest limit.

    Attributes:
        limit: calls that may be in flight.
        is_paced: a rate limit keeps the calls apart.
        fell_at: the loop's time at which the limit last fell.
        has_recovered: a call that left after that was answered.
        shortest_round_s: seconds that a round takes at least. Answers that come from other processes come in groups:
            a short round would measure these, and not the server.
    """

    def __init__(self, most: int) -> None:
        self.limit: float = min(FIRST_LIMIT, most)
        self.is_paced = False
        self.fell_at = -math.inf
        self.has_recovered = False
        self.shortest_round_s = 0.0
        self._most = most
        self._ceiling: float = most
        self._lift_at = math.inf
        self._step = 1.0
        self._patience_s = _PATIENCE_S
        self._tries = 0
        self._overload: _Overload | None = None
        self._round: _Round | None = None
        self._last: _Round | None = None

    def bound_by(self, most: int) -> None:
        """Change the highest limit; one that was found to be too high stays so."""
        self._ceiling = most if self._ceiling >= self._most else min(self._ceiling, most)
        self._most = most
        self.limit = min(self.limit, most)
        self._round = self._last = None

    def admits(self, in_flight: int) -> bool:
        """Return whether one more call may be in flight."""
        return in_flight + 1 <= (self._most if self._is_open else self.limit)

    @property
    def _is_open(self) -> bool:
        return self.is_paced and self.has_recovered and self._ceiling == self._most

    def answered(self, left_at: float, now: float, in_flight: int, *, may_grow: bool = True) -> None:
        """Record an answer.

        Args:
            left_at: when its call left.
            now: the present.
            in_flight: calls in flight, this one included.
            may_grow: it came so early that later answers may take longer without a timeout.
        """
        if left_at <= self.fell_at:
            return
        self.has_recovered = True
        if self._is_open:
            self.limit = max(self.limit, in_flight)
        if in_flight + 1 <= self.limit:
            self._round = self._last = None
            return
        if self.limit >= self._ceiling and now >= self._lift_at:
            self._lift(now)
        this = self._round = self._round or _Round(left_at, self.limit)
        this.answers += 1
        if may_grow:
            self.limit = max(self.limit, min(self.limit + 1, 2 * this.limit, self._ceiling))
        is_long = now > left_at >= this.began and now - this.began >= self.shortest_round_s
        if this.answers >= this.limit and is_long:
            self._end(this, now)

    def overloaded(self, left_at: float, now: float, in_flight: int) -> None:
        """Record a refusal for overload.

        Args:
            left_at: when its call left.
            now: the present.
            in_flight: calls in flight, this one included.
        """
        if left_at > self.fell_at:
            overload = _Overload(in_flight, self._ceiling, in_flight) if self.has_recovered else None
            if overload:
                self._wait_at_ceiling(now, step=1)
            self._fall(min(self.limit, in_flight) / 2, now)
            self._overload = overload
        if self._overload:
            self._ceiling = self._overload.ceiling_after_refusal()

    def failed(self, now: float) -> None:
        """Record that the endpoint no longer answers any call."""
        self._fall(1.0, now)

    def _fall(self, limit: float, now: float) -> None:
        self.limit = max(limit, 1.0)
        self.fell_at = now
        self.has_recovered = False
        self._round = self._last = self._overload = None

    def _end(self, ended: _Round, now: float) -> None:
        """Compare a round with the one before it, and start the next."""
        ended.per_s = ended.answers / (now - ended.began)
        last = self._last
        if last and ended.limit >= _HIGHER * last.limit and ended.per_s < _PAYS * last.per_s:
            self.limit = self._ceiling = last.limit
            self._wait_at_ceiling(now, step=last.limit)
            self._round = self._last = None
        else:
            self._last, self._round = ended, _Round(now, self.limit)

    def _wait_at_ceiling(self, now: float, step: float) -> None:
        self._step = step
        self._tries = 0
        self._lift_at = now + self._patience_s
        self._patience_s = min(2 * self._patience_s, _MOST_PATIENCE_S)

    def _lift(self, now: float) -> None:
        """Try a little more."""
        self._ceiling = min(self._ceiling + self._step, self._most)
        self._step *= 2
        self._tries += 1
        if self._tries >= _TRIES:
            self._patience_s = _PATIENCE_S
        self._lift_at = now + self._patience_s

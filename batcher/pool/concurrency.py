"""How many calls one endpoint may have in flight: as many as pay, and no more than it bears.

Invariant: the width is never above its bound nor below 1, it falls once for all that was refused together, and what
left before it fell does not let it grow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST_WIDTH = 32
# Of the calls in flight that a server did not refuse, so many are the ceiling.
_SAFE = 0.975
# Twice the width must bring so many times the answers; rounds are compared where one is clearly wider than the other.
_PAYS = 1.25
_WIDER = 1.5
# Seconds at the ceiling before more is tried, at first and at most.
_PATIENCE_S = 10.0
_MOST_PATIENCE_S = 60.0
# So many tries in a row that went well are a server that bears more than it did.
_TRIES = 3


@dataclass(slots=True)
class _Round:
    """As many answers as the width was when it began, the last one to a call that left since then."""

    began: float
    width: float
    answers: int = 0
    per_s: float = 0.0


@dataclass(slots=True)
class _Episode:
    """An overload: calls in flight when it began, the ceiling before it, and how many of the calls were not refused."""

    in_flight: int
    ceiling: float
    borne: int

    def ceiling_after_refusal(self) -> float:
        """Take note of one more refusal; return the ceiling that comes of them.

        Where most of what was in flight is refused, it is not the number in flight that was too much.
        """
        self.borne -= 1
        return round(_SAFE * self.borne) if self.borne >= self.in_flight / 2 else self.ceiling


class Width:
    """How many calls one endpoint may have in flight now.

    After TCP's congestion control (RFC 5681, 3.1), with calls in the place of segments. A round is as many answers as
    the width; it counts only while the width is what limits.

    - It starts at 32. Each answer lets one call more leave, so that a round doubles it, up to a ceiling, at first
      `most`. As in TCP Vegas (Brakmo and Peterson, 1995) doubling must pay: where the wider round brings less than
      1.25 times the answers in a time, only the server's queue has grown, and the width before becomes the ceiling.
    - An overload halves it, once for all calls that left before. 97.5% of the calls in flight that were not refused
      become the ceiling, up to which it doubles again. Where most were refused, it is a rate that was too high, not the
      number in flight, and the ceiling stays.
    - After 10 s at the ceiling it tries one call more, then two, four, ... every 10 s; twice the width where more did
      not pay. After each time that was too much it waits twice as long, 60 s at most: an overload costs throughput, and
      most servers do not change.
    - An endpoint that fails altogether begins again with one call.

    Where a limit paces the calls, they come gently without a width: with the first answer it opens up to `most`, until
    the server objects.

    Args:
        most: it is never above this.

    Attributes:
        value: calls that may be in flight.
        is_paced: a limit keeps the calls apart.
        turned_at: the loop's time at which it last fell.
        has_recovered: a call that left after that was answered.
    """

    def __init__(self, most: int) -> None:
        self.value: float = min(FIRST_WIDTH, most)
        self.is_paced = False
        self.turned_at = -math.inf
        self.has_recovered = False
        self._most = most
        self._ceiling: float = most
        self._lift_at = math.inf
        self._step = 1.0
        self._patience_s = _PATIENCE_S
        self._tries = 0
        self._episode: _Episode | None = None
        self._round: _Round | None = None
        self._last: _Round | None = None

    def admits(self, in_flight: int) -> bool:
        """Tell whether one more call may be in flight."""
        return in_flight + 1 <= (self._most if self._is_open else self.value)

    @property
    def _is_open(self) -> bool:
        return self.is_paced and self.has_recovered and self._ceiling == self._most

    def answered(self, left_at: float, now: float, in_flight: int, *, may_grow: bool = True) -> None:
        """Take note of an answer.

        Args:
            left_at: when its call left.
            now: the present.
            in_flight: calls in flight, this one included.
            may_grow: it came so soon that the next ones may take longer.
        """
        if left_at <= self.turned_at:
            return
        self.has_recovered = True
        if self._is_open:
            self.value = max(self.value, in_flight)
        if in_flight + 1 <= self.value:
            self._round = self._last = None
            return
        if self.value >= self._ceiling and now >= self._lift_at:
            self._lift(now)
        this = self._round = self._round or _Round(left_at, self.value)
        this.answers += 1
        if may_grow:
            self.value = max(self.value, min(self.value + 1, 2 * this.width, self._ceiling))
        if this.answers >= this.width and now > left_at >= this.began:
            self._end(this, now)

    def overloaded(self, left_at: float, now: float, in_flight: int) -> None:
        """Take note of a refusal.

        Args:
            left_at: when its call left.
            now: the present.
            in_flight: calls in flight, this one included.
        """
        if left_at > self.turned_at:
            episode = _Episode(in_flight, self._ceiling, in_flight) if self.has_recovered else None
            if episode:
                self._be_patient(now, step=1)
            self._fall(min(self.value, in_flight) / 2, now)
            self._episode = episode
        if self._episode:
            self._ceiling = self._episode.ceiling_after_refusal()

    def failed(self, now: float) -> None:
        """Take note that nothing is answered any more."""
        self._fall(1.0, now)

    def _fall(self, value: float, now: float) -> None:
        self.value = max(value, 1.0)
        self.turned_at = now
        self.has_recovered = False
        self._round = self._last = self._episode = None

    def _end(self, ended: _Round, now: float) -> None:
        """Compare a round with the one before it, and begin the next."""
        ended.per_s = ended.answers / (now - ended.began)
        last = self._last
        if last and ended.width >= _WIDER * last.width and ended.per_s < _PAYS * last.per_s:
            self.value = self._ceiling = last.width
            self._be_patient(now, step=last.width)
            self._round = self._last = None
        else:
            self._last, self._round = ended, _Round(now, self.value)

    def _be_patient(self, now: float, step: float) -> None:
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

"""Answers that are numbers: how often each occurs, and the rows with a number by hand.

Invariant: memory is bound however many different numbers there are: beyond a limit they are rounded, all to one step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

_MOST = 50_000
"""Different numbers that are counted."""
_STEPS = 10_000
"""Steps between the least and the highest number, if they are rounded: less than any interval shows."""


def number_of(text: str | None) -> float | None:
    """Return the number that a text is; None if it is none."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


class NumberCounts:
    """Counts numbers.

    Attributes:
        counts: rows by number, under None those without one.
        step: to whose multiples numbers are rounded; 0 if they are not.
    """

    def __init__(self, most: int = _MOST) -> None:
        self.counts: Counter[float | None] = Counter()
        self.step = 0.0
        self._most = most

    def add(self, numbers: Iterable[float | None]) -> None:
        """Count numbers."""
        for number in numbers:
            self.counts[self.rounded(number)] += 1
            if len(self.counts) > self._most:
                self._coarsen()

    def rounded(self, number: float | None) -> float | None:
        """Return a number as it is counted."""
        return round(number / self.step) * self.step if self.step and number is not None else number

    def _coarsen(self) -> None:
        known = [each for each in self.counts if each is not None]
        self.step = max(2 * self.step, (max(known) - min(known)) / min(_STEPS, self._most / 2))
        counts: Counter[float | None] = Counter()
        for number, rows in self.counts.items():
            counts[self.rounded(number)] += rows
        self.counts = counts

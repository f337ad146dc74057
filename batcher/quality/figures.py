"""A figure with its interval, and the quantiles of draws that make one.

Invariant: a figure without an interval has neither limit, and one with an interval lies inside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

LEVEL = 0.95
"""How often an interval is to hold the truth: 2.5% of the draws lie on each side of it."""


@dataclass(frozen=True)
class Figure:
    """A number, and the 95% interval around it.

    Attributes:
        value: the estimate; None if the hand labels say nothing about it.
        low: the lower limit, None without an interval.
        high: the upper limit, None without an interval.
        more: how many further hand labels, drawn as those were, would about halve the interval; 0 if it has no width,
            None without an interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    more: int | None = None

    @property
    def width(self) -> float | None:
        """The interval's width, None without an interval."""
        return None if self.low is None or self.high is None else self.high - self.low


UNKNOWN = Figure(None)


def figure(value: float, low: float, high: float, more: int | None = None) -> Figure:
    """Return a figure with its interval, which is widened to hold the value.

    The value is the design's plain estimate, not the middle of the draws: with few hand labels it may lie a little
    outside them.
    """
    low, high = min(float(low), value), max(float(high), value)
    return Figure(float(value), low, high, 0 if high == low else more)


def limits(draws: Floats, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Return the equal-tailed limits of draws, along their first axis.

    Order statistics are taken as they are, the outer ones if a quantile falls between two, so that counts stay counts.
    """
    count = len(draws)
    first = math.floor((1 - level) / 2 * count)
    ordered = np.partition(draws, (first, count - 1 - first), axis=0)
    return ordered[first], ordered[count - 1 - first]


def to_halve(labelled: int, rows: int) -> int:
    """Return how many more hand labels halve an interval, if its width goes with their root.

    The square of the width goes with ``1/n - 1/N`` (n labels of N rows; Cochran 1977, section 2.6), so that n' labels
    with ``1/n' - 1/N = (1/n - 1/N) / 4`` halve it: three times n in a large table, fewer in a small one.

    Args:
        labelled: n, at least 1.
        rows: N, at least n.
    """
    return max(math.ceil(1 / ((1 / labelled - 1 / rows) / 4 + 1 / rows) - labelled), 0)

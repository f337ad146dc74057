"""A part of a table, known from a sample: what is expected and what is drawn for the rows without a hand label.

Invariant: rows with a hand label count as they are; only the others are predicted. `estimating` describes the method.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batcher.quality.figures import Bools, Floats, Ints

DRAWS = 4000
"""They leave a limit uncertain by some 2% of the interval's width."""


@dataclass(frozen=True)
class Part:
    """The sampled rows of one part of the table for each label, or of one stratum, weighted by what they stand for.

    Attributes:
        hits: weights of the rows that are counted, along the last axis if there are several labels.
        all: weights of all its rows.
        known: hand-labelled rows that are counted.
        missing: rows without a hand label.
        unit: the largest weight of a row; 1 if no row has any.
    """

    hits: Floats
    all: Floats
    known: Ints
    missing: Ints
    unit: Floats

    def expected(self, otherwise: Floats | float) -> Floats:
        """Return the rows that are counted, if the missing ones are like the sampled; without any, as `otherwise`."""
        return np.asarray(
            self.known + self.missing * np.where(self.all > 0, ratio_or_0(self.hits, self.all), otherwise), float
        )

    def drawn(self, rng: np.random.Generator, coin: Floats) -> Floats:
        """Draw the rows that are counted; the coins say what the one row more is."""
        unit = rng.standard_exponential(self.all.shape) * self.unit
        share = np.clip((self.hits + unit * coin) / (self.all + unit), 0, 1)
        return np.asarray(self.known + rng.binomial(self.missing, share), float)


def weights_of(chance: Floats, stratum: Ints, count: Ints, rows: Ints) -> Floats:
    """Return for how many unlabelled rows each row of a cell stands.

    A row that was certain to be drawn stands for none, since all rows like it are labelled. A stratum whose hand labels
    are all of such rows, and not of all its rows, was not drawn as its chances say, or they are not known: each stands
    for as many of its rows as any other.

    Args:
        chance: of the rows of each cell.
        stratum: of each cell.
        count: rows of each cell.
        rows: of the table in each stratum.
    """
    weight = 1 / chance - 1
    stands = np.bincount(stratum, weight * count, len(rows)) > 0
    sampled = np.bincount(stratum, count, len(rows))
    alike = ratio_or_0(np.asarray(rows - sampled, float), np.asarray(sampled, float))
    return np.where(sampled[stratum] == rows[stratum], 0.0, np.where(stands[stratum], weight, alike[stratum]))


def coins(rng: np.random.Generator, shape: tuple[int, ...], never: Bools | bool, always: Bools | bool) -> Floats:
    """Toss coins: 1 or 0, each half of the time, except if only one side is to be allowed for."""
    return np.where(always, 1.0, np.where(never, 0.0, rng.integers(0, 2, shape)))


def ratio_or_0(part: Floats, whole: Floats) -> Floats:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), 0.0)

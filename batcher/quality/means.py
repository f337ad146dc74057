"""Mean and quantiles of a table's numbers, from the model's numbers for all rows and hand-made ones for a sample.

Invariant: the model's numbers make an estimate narrower, never wrong: if they say nothing, what is left is the sample.

The mean is the regression estimator (Cochran 1977, chapter 7), which is PPI++ with its best weight (Angelopoulos, Duchi
and Zrnic 2023):

    b x mean of the model's numbers in the table + mean over the sample of (gold - b x model's number)

with the slope b of gold on the model's numbers in the sample, and means over the sample weighted by 1/chance. A row
without a number from the model takes their mean. The interval is that of Student's t with the residuals' variance for a
finite table, widened for errors of the model that are too rare for the sample: by the rule of three (Hanley and
Lippman-Hand 1983), 3 in n rows may have what none of n showed, and such an error is taken to be as large as the largest
residual, or as the standard deviation of the numbers. Without that, of 100 scores from a model that is wrong by 2 in 1%
of the rows the interval would have no width in a third of all samples.

It is still too short for few hand-made numbers with a long tail. `Numbers.enough` says from how many on it is good, by
Cochran's rule (1977, section 2.15): 25 times the squared skewness. The sample alone cannot show a tail that it missed,
so the model's numbers of all rows are looked at, too. The quantiles' intervals hold there.

A quantile is found by its test (Woodruff 1952): the share of rows with a true number of at most t is estimated as a
share of labels is (`estimating`: post-stratified by whether the model's number is at most t), and t is in the interval
of the quantile p if p is in the interval of that share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from batcher.quality.figures import LEVEL, UNKNOWN, Bools, Figure, Floats, Ints, figure, limits, to_halve
from batcher.quality.parts import DRAWS, Part, coins
from batcher.quality.special import t_quantile

QUANTILES = (0.1, 0.5, 0.9)
_PLACES = 200  # at which shares are estimated: all numbers, if they are not more
_ROUNDING = 1e-9
_COCHRAN = 25.0
_OF_THREE = 3.0
_DRAWN = 2**22  # numbers at a time: a large sample needs fewer draws


@dataclass(frozen=True)
class Measured:
    """A row with a number made by hand.

    Attributes:
        number: the model's, None if the row has no `ok` answer.
        gold: the hand-made one.
        chance: that this row was drawn and measured by hand, in (0, 1]; None if it is not known how it was chosen.
    """

    number: float | None
    gold: float
    chance: float | None


@dataclass(frozen=True)
class Quantile:
    """A quantile of the true numbers of the table.

    Attributes:
        p: the share of rows that are at most so large.
        raw: the same of the model's numbers; None without any.
        figure: the estimate.
    """

    p: float
    raw: float | None
    figure: Figure


@dataclass(frozen=True)
class Numbers:
    """What hand-made numbers say about a table of numbers.

    Attributes:
        rows: of the table.
        numbered: rows that have a number from the model.
        hand: hand-made numbers that the figures rest on.
        unused: hand-made numbers left out, because how their rows were chosen is not known, and of others it is.
        drawn: whether the chances are known; without, there is no interval.
        raw: mean of the model's numbers; None without any.
        mean: of the true numbers of all rows.
        bias: the mean of the model's numbers less the true ones, in the rows that have both.
        error: the mean distance of the two.
        enough: hand-made numbers from which on the interval of the mean is good; 0 if there are none, or of all rows.
        quantiles: of the true numbers.
    """

    rows: int
    numbered: int
    hand: int
    unused: int
    drawn: bool
    raw: float | None
    mean: Figure
    bias: Figure
    error: Figure
    enough: int
    quantiles: tuple[Quantile, ...]


def numbers(
    counts: Mapping[float | None, int],
    sampled: Iterable[Measured],
    *,
    quantiles: Sequence[float] = QUANTILES,
    seed: int = 0,
    draws: int = DRAWS,
) -> Numbers:
    """Estimate mean and quantiles.

    Args:
        counts: rows of the table by the model's number; under None those without an `ok` answer.
        sampled: the rows with a number made by hand. If the chance of some is known, only those are used.
        quantiles: which, each in (0, 1).
        seed: of the draws.
        draws: how many.

    Raises:
        ValueError: a chance is not in (0, 1].
    """
    given = list(sampled)
    known = [each for each in given if each.chance is not None]
    used = known or given
    sample = _Sample.of(counts, used)
    bias = error = mean = UNKNOWN
    if used:
        mean = sample.mean(sample.gold, sample.filled, sample.rows, drawn=bool(known))
        paired = ~np.isnan(sample.number)
        if paired.any():
            sure = sample.only(paired)
            distance = sure.number - sure.gold
            constant = np.zeros(len(distance))
            bias = sure.mean(distance, constant, sample.numbered, drawn=bool(known))
            error = _from_0(sure.mean(np.abs(distance), constant, sample.numbered, drawn=bool(known)))
    rng = np.random.default_rng(seed) if known else None
    return Numbers(
        rows=sample.rows,
        numbered=sample.numbered,
        hand=len(used),
        unused=len(given) - len(used),
        drawn=bool(known) or not given,
        raw=sample.raw if sample.numbered else None,
        mean=mean,
        bias=bias,
        error=error,
        enough=sample.enough() if 0 < len(used) < sample.rows else 0,
        quantiles=sample.quantiles(quantiles, rng, draws),
    )


@dataclass(frozen=True)
class _Sample:
    """The table's numbers and the sample.

    Attributes:
        values: the model's numbers in the table, ascending.
        held: rows that have each.
        rows: of the table.
        number: the model's number of each sampled row, NaN without one.
        gold: its hand-made number.
        weight: rows of the table for which it stands.
    """

    values: Floats
    held: Ints
    rows: int
    number: Floats
    gold: Floats
    weight: Floats

    @classmethod
    def of(cls, counts: Mapping[float | None, int], used: Sequence[Measured]) -> _Sample:
        chances = np.array([1.0 if each.chance is None else each.chance for each in used], float)
        if not ((chances > 0) & (chances <= 1)).all():
            raise ValueError("a chance must be above 0 and at most 1")
        ordered = sorted((number, rows) for number, rows in counts.items() if number is not None)
        return cls(
            np.array([number for number, _ in ordered], float),
            np.array([rows for _, rows in ordered], np.int64),
            sum(counts.values()),
            np.array([math.nan if each.number is None else each.number for each in used], float),
            np.array([each.gold for each in used], float),
            1 / chances,
        )

    def only(self, rows: Bools) -> _Sample:
        """Return some of the sampled rows."""
        return _Sample(self.values, self.held, self.rows, self.number[rows], self.gold[rows], self.weight[rows])

    @property
    def numbered(self) -> int:
        """Rows that have a number from the model."""
        return int(self.held.sum())

    @property
    def raw(self) -> float:
        """The mean of the model's numbers."""
        return float(np.average(self.values, weights=self.held)) if self.numbered else 0.0

    @property
    def filled(self) -> Floats:
        """The model's numbers of the sampled rows, less their mean in the table; 0 without one."""
        return np.where(np.isnan(self.number), 0.0, self.number - self.raw)

    def mean(self, gold: Floats, beside: Floats, rows: int, *, drawn: bool) -> Figure:
        """Return the regression estimate of a mean.

        Args:
            gold: of the sampled rows.
            beside: of the sampled rows, what is known of all; its mean in the table is 0.
            rows: of the table.
            drawn: whether there is an interval.
        """
        share, count = self.weight / self.weight.sum(), len(gold)
        at_gold, at_beside = float(share @ gold), float(share @ beside)
        varies = float(share @ (beside - at_beside) ** 2)
        helps = varies > 1e-12 * (1 + at_beside**2) and count > 3
        slope = float(share @ ((beside - at_beside) * (gold - at_gold))) / varies if helps else 0.0
        value = at_gold - slope * at_beside
        if not drawn:
            return Figure(value)
        if count == rows:
            return figure(value, value, value)
        freedom = 1 / float((share**2).sum()) - 1 - helps
        if freedom < 1:
            return Figure(value)
        left = (gold - at_gold) - slope * (beside - at_beside)
        spread = math.sqrt(float((share**2) @ left**2) * (freedom + 1 + helps) / freedom * (1 - count / rows))
        # Errors of the model that are rare may all be missing in the sample: three rows of the largest are allowed for.
        largest = max(float(np.abs(left).max()), float(self.gold.std()))
        unseen = _OF_THREE * float(share.max()) * largest * math.sqrt(1 - count / rows)
        reach = math.hypot(t_quantile((1 + LEVEL) / 2, freedom) * spread, unseen)
        return figure(value, value - reach, value + reach, to_halve(count, rows))

    def enough(self) -> int:
        """Return from how many hand-made numbers on the interval of the mean is good."""
        paired = ~np.isnan(self.number)
        error = (self.gold - self.number)[paired]
        skews = (_skewness(self.gold), _skewness(error), _skewness(self.values, self.held))
        return math.ceil(_COCHRAN * max(skews) ** 2)

    def quantiles(self, wanted: Sequence[float], rng: np.random.Generator | None, draws: int) -> tuple[Quantile, ...]:
        """Return quantiles, with intervals if there is something to draw by."""
        raws = [self._of_model(p) for p in wanted]
        if not len(self.gold):
            return tuple(Quantile(p, raw, UNKNOWN) for p, raw in zip(wanted, raws, strict=True))
        places = self._places()
        called, others = self._parts(places, self._weights())
        share = np.maximum.accumulate((called.expected(1.0) + others.expected(0.0)) / self.rows)
        ends = None
        if rng is not None:
            draws = min(draws, max(_DRAWN // len(self.gold), 500))
            exponentials = rng.standard_exponential((draws, len(self.gold)))
            called, others = self._parts(places, exponentials * self._weights())
            true = [each.drawn(rng, coins(rng, (draws, len(places)), False, False)) for each in (called, others)]
            low, high = (np.maximum.accumulate(each) for each in limits((true[0] + true[1]) / self.rows))
            ends = (low, high)
        more = to_halve(len(self.gold), self.rows)
        return tuple(
            Quantile(p, raw, _inverted(places, p, share, ends, more)) for p, raw in zip(wanted, raws, strict=True)
        )

    def _of_model(self, p: float) -> float | None:
        if not self.numbered:
            return None
        return float(self.values[np.searchsorted(self.held.cumsum(), p * self.numbered - _ROUNDING)])

    def _places(self) -> Floats:
        """Return the numbers at which shares are estimated, ascending: those of the sample, and many of the table's."""
        values, gold = self.values, np.sort(self.gold)
        if len(values) > _PLACES:
            values = values[np.searchsorted(self.held.cumsum(), np.linspace(1, self.numbered, _PLACES))]
        if len(gold) > _PLACES:
            gold = gold[np.linspace(0, len(gold) - 1, _PLACES).astype(int)]
        return np.unique(np.concatenate([values, gold]))

    def _weights(self) -> Floats:
        """Return how many rows without a hand-made number each sampled row stands for."""
        weights = self.weight - 1
        return weights if weights.any() else np.ones(len(weights))

    def _parts(self, places: Floats, values: Floats) -> tuple[Part, Part]:
        """Return, for each place, the rows with a number of the model up to it, and the others.

        Those are counted whose true number is up to it.
        """
        below = np.where(np.isnan(self.number), math.inf, self.number)[:, None] <= places
        true = self.gold[:, None] <= places
        held = np.concatenate([[0], self.held.cumsum()])[np.searchsorted(self.values, places, side="right")]
        return (
            self._part(values, below, true, held),
            self._part(values, ~below, true, self.rows - held),
        )

    def _part(self, values: Floats, cells: Bools, true: Bools, rows: Ints) -> Part:
        largest = np.where(cells, self._weights()[:, None], 0).max(0)
        return Part(
            values @ (cells & true).astype(float),
            values @ cells.astype(float),
            (cells & true).sum(0),
            rows - cells.sum(0),
            np.where(largest > 0, largest, 1.0),
        )


def _from_0(found: Figure) -> Figure:
    return found if found.low is None else replace(found, low=max(found.low, 0.0))


def _skewness(values: Floats, times: Ints | None = None) -> float:
    """Return how much longer one tail is than the other: 0 if they are alike, 2 of an exponential distribution."""
    if not len(values):
        return 0.0
    away = values - np.average(values, weights=times)
    spread = float(np.average(away**2, weights=times))
    least = 1e-24 * float(np.abs(values).max()) ** 2  # less is rounding
    return abs(float(np.average(away**3, weights=times))) / spread**1.5 if spread > least else 0.0


def _inverted(places: Floats, p: float, share: Floats, ends: tuple[Floats, Floats] | None, more: int) -> Figure:
    """Return the quantile p: the first place up to which the share is p, and its limits by those of the share."""

    def first(shares: Floats) -> float:
        return float(places[min(int(np.searchsorted(shares, p - _ROUNDING)), len(places) - 1)])

    if ends is None:
        return Figure(first(share))
    low, high = ends
    return figure(first(share), first(high), first(low), more)

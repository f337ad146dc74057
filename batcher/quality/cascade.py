"""Which rows a second endpoint is to be asked about: a threshold of a score that holds an accuracy.

Invariant: the order in which thresholds are tested, and where that begins, depend on the scores alone, never on which
answers are right.

The promise of `threshold`: with a chance of at least 95% over the drawing of the sample, the rows at or above the
threshold, as one whole, have at least the accuracy that was asked for. It is a fixed-sequence test (Learn then Test:
Angelopoulos, Bates, Candès, Jordan and Lei 2021; Maurer, Hothorn and Lehmacher 1995): thresholds are tested from the
highest to the lowest, each by a one-sided lower limit of 95%, and the first that fails ends it. Since a threshold is
tested only if all before it have passed, no correction for their number is needed. The limit is the exact one of
Clopper and Pearson, for a finite table and unequal chances as `estimating` describes it, with the one row more always
wrong.
"""

from __future__ import annotations

import bisect
import itertools
import math
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from batcher.quality.figures import LEVEL, UNKNOWN, Bools, Figure, Floats, Ints, figure, limits, to_halve
from batcher.quality.parts import DRAWS, Part, coins, weights_of
from batcher.quality.special import beta_cdf, beta_quantile

_STEPS = 20  # thresholds that are tested: more would keep hardly fewer rows, and each may end the sequence
_BINS, _LEAST_BINS, _PER_BIN = 10, 5, 20  # with fewer than 20 hand labels a bin says little


@dataclass(frozen=True)
class Scored:
    """A row with a hand label and a score.

    Attributes:
        score: of the first answer; higher is surer. None if it has none.
        right: whether the first answer is right.
        chance: that this row was drawn and labelled by hand, in (0, 1].
        second: whether the second answer is right, None if there is none yet.
    """

    score: float | None
    right: bool
    chance: float
    second: bool | None = None


@dataclass(frozen=True)
class Threshold:
    """The lowest threshold that holds an accuracy.

    Attributes:
        score: rows below it go on to the second endpoint; None if no threshold holds the accuracy, so that all go on.
        hold: the accuracy that was asked for.
        kept: rows at or above it, which keep their first answer.
        sent: rows below it, and rows without a score.
        checked: hand labels of kept rows.
        lower: the one-sided lower 95% limit of the accuracy of the kept rows, at least `hold`; 0 if none holds.
        accuracy: of the kept rows, with its two-sided interval; unknown if none holds.
        overall: of the whole table after the second answers; unknown unless all hand-labelled rows below the threshold
            have one.
        needed: hand labels of kept rows without which no sample could hold this accuracy, even if all are right.
        tried: thresholds that were tested.
        best: the best lower limit of all thresholds that could be tested; 0 if there were too few hand labels.
        best_score: the threshold of that limit, None if none could be tested.
    """

    score: float | None
    hold: float
    kept: int
    sent: int
    checked: int
    lower: float
    accuracy: Figure
    overall: Figure
    needed: int
    tried: int
    best: float
    best_score: float | None

    @property
    def share_sent(self) -> float:
        """The share of rows that go on."""
        return self.sent / max(self.kept + self.sent, 1)


def needed(hold: float, wrong: int = 0) -> int:
    """Return how many hand labels, of which `wrong` are wrong, put the one-sided lower 95% limit at `hold` or above.

    None wrong: the least n with ``hold^n <= 0.05``, which is 59 for 0.95.
    """
    count = math.ceil(math.log(1 - LEVEL) / math.log(hold))
    # P(at most `wrong` of n are wrong, each with the chance 1 - hold) = I_hold(n - wrong, wrong + 1)
    while beta_cdf(hold, count - wrong, wrong + 1) > 1 - LEVEL:
        count += 1
    return count


def threshold(
    scores: Mapping[float | None, int],
    sampled: Iterable[Scored],
    hold: float,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Threshold:
    """Find the lowest threshold above which the answers are right often enough.

    The first threshold that is tested is the highest one that keeps a third of the hand labels, and enough of them to
    pass with one wrong answer, or in a small sample with none (`needed`). Higher ones would hardly pass, and end the
    sequence.

    Args:
        scores: rows of the table by score; under None those without one, which always go on.
        sampled: the hand-labelled rows.
        hold: the accuracy that the kept rows must have, in (0, 1).
        seed: of the draws.
        draws: how many.

    Raises:
        ValueError: `hold` or a chance is out of range.
    """
    if not 0 < hold < 1:
        raise ValueError("the accuracy to hold must be above 0 and below 1")
    table = _Table.of(scores, list(sampled))
    rng = np.random.default_rng(seed)
    lower, checked = table.lower_limits(rng, draws), table.checked()
    hand = int(checked.max(initial=0))
    enough = max(hand / 3, needed(hold, wrong=1) if hand >= 2 * needed(hold, wrong=1) else needed(hold))
    order = [at for at in range(len(table.steps)) if checked[at] >= enough]
    failed = next((at for at in order if lower[at] < hold), None)
    passed = [at for at in order if failed is None or at < failed]
    best = max(order, key=lambda at: float(lower[at]), default=None)
    found = passed[-1] if passed else None
    kept = 0 if found is None else found + 1
    accuracy, overall = table.figures(kept, rng, draws)
    return Threshold(
        score=None if found is None else table.steps[found],
        hold=hold,
        kept=int(table.rows[:kept].sum()),
        sent=int(table.rows[kept:].sum()),
        checked=0 if found is None else int(checked[found]),
        lower=0.0 if found is None else float(lower[found]),
        accuracy=accuracy,
        overall=overall,
        needed=needed(hold),
        tried=len(passed) + (failed is not None),
        best=0.0 if best is None else float(lower[best]),
        best_score=None if best is None else table.steps[best],
    )


@dataclass(frozen=True)
class _Table:
    """The table by steps of the score, from the highest down; rows without a score are the last step.

    Attributes:
        steps: thresholds, descending, the last of which keeps all rows with a score.
        rows: of the table in each step: at or above its threshold, and below that before.
        step: of each cell of hand-labelled rows.
        right: whether the first answer is right, 0 or 1.
        second: whether the second answer is right, 0 or 1, or -1 without one.
        weight: rows without a hand label for which each row of a cell stands.
        count: its rows.
    """

    steps: tuple[float, ...]
    rows: Ints
    step: Ints
    right: Ints
    second: Ints
    weight: Floats
    count: Ints

    @classmethod
    def of(cls, scores: Mapping[float | None, int], sampled: Sequence[Scored]) -> _Table:
        if not all(0 < each.chance <= 1 for each in sampled):
            raise ValueError("a chance must be above 0 and at most 1")
        steps = _steps(scores)
        rows = np.zeros(len(steps) + 1, np.int64)
        for score, held in scores.items():
            rows[_step_of(steps, score)] += held
        cells = Counter(
            (_step_of(steps, each.score), each.right, -1 if each.second is None else each.second, each.chance)
            for each in sampled
        )
        columns = np.array(list(cells), float).reshape(-1, 4).T
        step, right, second = columns[:3].astype(np.int64)
        count = np.array(list(cells.values()), np.int64)
        labelled = np.bincount(step, count, len(rows)).astype(np.int64)
        if (labelled > rows).any():
            raise ValueError("more rows of a score have a hand label than the table has")
        return cls(steps, rows, step, right, second, weights_of(columns[3], step, count, rows), count)

    def checked(self) -> Ints:
        """Return the hand labels of the rows that each threshold keeps."""
        return np.bincount(self.step, self.count, len(self.rows)).astype(np.int64)[:-1].cumsum()

    def lower_limits(self, rng: np.random.Generator, draws: int) -> Floats:
        """Return the one-sided lower limits of the accuracy of the rows that each threshold keeps."""
        values, found = self._values(rng, draws), []
        for stop in range(1, len(self.rows)):
            right = self._part(values, self.right, 0, stop).drawn(rng, np.zeros(draws))
            found.append(limits(right, 2 * LEVEL - 1)[0] / max(self.rows[:stop].sum(), 1))
        return np.array(found)

    def figures(self, kept: int, rng: np.random.Generator, draws: int) -> tuple[Figure, Figure]:
        """Return the accuracy of the first steps, which are kept, and of the table after the second answers."""
        values, plain, end = self._values(rng, draws), self.weight * self.count, len(self.rows)
        accuracy, first, first_drawn = UNKNOWN, np.zeros(()), np.zeros(draws)
        if kept:
            first = self._part(plain, self.right, 0, kept).expected(0.0)
            first_drawn = self._part(values, self.right, 0, kept).drawn(rng, coins(rng, (draws,), False, False))
            accuracy = _figure(first, first_drawn, int(self.rows[:kept].sum()), int(self.count[self.step < kept].sum()))
        sent = self.step >= kept
        if (self.second[sent] < 0).any() or (self.rows[kept:].sum() and not sent.any()):
            return accuracy, UNKNOWN
        second = self._part(plain, self.second, kept, end).expected(0.0)
        second_drawn = self._part(values, self.second, kept, end).drawn(rng, coins(rng, (draws,), False, False))
        rows, hand = int(self.rows.sum()), int(self.count.sum())
        return accuracy, _figure(first + second, first_drawn + second_drawn, rows, hand) if hand else UNKNOWN

    def _values(self, rng: np.random.Generator, draws: int) -> Floats:
        return rng.standard_gamma(self.count, (draws, len(self.count))) * self.weight

    def _part(self, values: Floats, right: Ints, start: int, stop: int) -> Part:
        """Return the rows of some steps, of which those are counted that are right."""
        cells = (self.step >= start) & (self.step < stop)
        hits = cells & (right > 0)
        largest = self.weight[cells].max(initial=0)
        return Part(
            values[..., hits].sum(-1),
            values[..., cells].sum(-1),
            self.count[hits].sum(),
            self.rows[start:stop].sum() - self.count[cells].sum(),
            np.asarray(largest if largest > 0 else 1.0),
        )


def _steps(scores: Mapping[float | None, int]) -> tuple[float, ...]:
    """Choose the thresholds: each score of the table, or if they are many, those that keep equal shares of the rows."""
    ordered = sorted((score for score, rows in scores.items() if score is not None and rows), reverse=True)
    if len(ordered) <= _STEPS:
        return tuple(ordered)
    kept = np.cumsum([scores[score] for score in ordered])
    places = np.searchsorted(kept, kept[-1] * np.arange(1, _STEPS + 1) / _STEPS)
    return tuple(ordered[at] for at in sorted({min(int(at), len(ordered) - 1) for at in places}))


def _step_of(steps: tuple[float, ...], score: float | None) -> int:
    if score is None:
        return len(steps)
    # The first threshold that is not above the score; thresholds descend.
    return bisect.bisect_left(steps, -score, key=operator.neg)


def _figure(value: Floats, drawn: Floats, rows: int, hand: int) -> Figure:
    low, high = limits(drawn)
    return figure(float(value) / rows, float(low) / rows, float(high) / rows, to_halve(hand, rows))


@dataclass(frozen=True)
class Bin:
    """Hand-labelled rows with scores that are near each other.

    Attributes:
        low: the lowest score.
        high: the highest score.
        hand: hand labels.
        score: the mean score of the rows of the table for which they stand.
        accuracy: of those rows; calibrated scores are equal to it.
    """

    low: float
    high: float
    hand: int
    score: float
    accuracy: Figure


@dataclass(frozen=True)
class Calibration:
    """Whether scores say how often the answers are right.

    Attributes:
        bins: by score, ascending.
        error: expected calibration error: the mean distance of score and accuracy over the bins, by the rows for which
            they stand (Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017). Chance alone makes it positive. None
            without hand labels.
        surer: the chance that a right answer has a higher score than a wrong one, ties half (the area under the ROC
            curve; Hanley and McNeil 1982). 0.5 is no better than a coin. None if all answers are right, or none.
    """

    bins: tuple[Bin, ...]
    error: float | None
    surer: float | None


def calibration(sampled: Iterable[Scored], *, bins: int = _BINS) -> Calibration:
    """Compare scores with how often the answers are right.

    Each bin holds about equally many hand labels, and equal scores are never parted: agreement of three answers has
    three values, each of them a bin. Intervals are those of Clopper and Pearson, for unequal chances with Kish's
    effective size ``(sum of w)^2 / sum of w^2`` (Kish 1965).

    Args:
        sampled: the hand-labelled rows; those without a score are left out.
        bins: at most; with few hand labels fewer, of 20 each if that makes at least 5.
    """
    rows = sorted((each.score, each.right, 1 / each.chance) for each in sampled if each.score is not None)
    if not rows:
        return Calibration((), None, None)
    score, right, weight = (np.array(column, float) for column in zip(*rows, strict=True))
    bins = min(bins, max(_LEAST_BINS, len(score) // _PER_BIN))
    found = [_bin(score[cells], right[cells], weight[cells]) for cells in _binned(score, bins)]
    shares = np.array([weight[cells].sum() for cells in _binned(score, bins)]) / weight.sum()
    error = sum(
        share * abs(each.score - (each.accuracy.value or 0.0)) for share, each in zip(shares, found, strict=True)
    )
    return Calibration(tuple(found), float(error), _surer(score, right > 0, weight))


def _binned(score: Floats, bins: int) -> list[slice]:
    """Part ascending scores into bins of about equal size, between different scores."""
    values, starts = np.unique(score, return_index=True)
    if len(values) > bins:
        wanted = len(score) * np.arange(bins) / bins
        starts = np.unique(starts[np.searchsorted(starts, wanted, side="right") - 1])
    return [slice(int(a), int(b)) for a, b in itertools.pairwise([*starts, len(score)])]


def _bin(score: Floats, right: Floats, weight: Floats) -> Bin:
    share = float(np.average(right, weights=weight))
    size = weight.sum() ** 2 / (weight**2).sum()
    low = beta_quantile((1 - LEVEL) / 2, share * size, (1 - share) * size + 1) if share > 0 else 0.0
    high = beta_quantile((1 + LEVEL) / 2, share * size + 1, (1 - share) * size) if share < 1 else 1.0
    accuracy = figure(share, low, high, 3 * len(score))
    return Bin(float(score[0]), float(score[-1]), len(score), float(np.average(score, weights=weight)), accuracy)


def _surer(score: Floats, right: Bools, weight: Floats) -> float | None:
    if right.all() or not right.any():
        return None
    values, place = np.unique(score, return_inverse=True)
    wrongs = np.bincount(place, np.where(right, 0, weight), len(values))
    rights = np.bincount(place, np.where(right, weight, 0), len(values))
    below = wrongs.cumsum() - wrongs / 2
    return float((rights * below).sum() / (rights.sum() * wrongs.sum()))

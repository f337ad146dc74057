"""Agreement beyond chance between model and hand, and tests of two runs on the same hand labels.

Invariant: a measure that is not defined, because all rows have one label, is NaN here and None in a figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from batcher.quality.figures import UNKNOWN, Figure, Floats, Ints, figure, limits, to_halve
from batcher.quality.parts import DRAWS, Part, coins, ratio_or_0, weights_of
from batcher.quality.special import binomial_tails


@dataclass(frozen=True)
class Pair:
    """A row of two runs with a hand label.

    Attributes:
        first: the label that the first run gave, None without an `ok` label.
        second: that of the second run.
        gold: the hand label.
        chance: that this row was drawn and labelled by hand, in (0, 1]; None if it is not known how it was chosen.
    """

    first: str | None
    second: str | None
    gold: str
    chance: float | None


@dataclass(frozen=True)
class Paired:
    """Two runs on the same rows and the same hand labels; a row without a label is wrong.

    Attributes:
        rows: that both runs have.
        differ: of them those on which the labels differ.
        hand: hand labels that the figures rest on.
        unused: hand labels left out, because how their rows were chosen is not known, and of others it is.
        drawn: whether the chances are known; without, there is no interval.
        even: whether all chances are equal.
        first: accuracy of the first run.
        second: accuracy of the second run.
        difference: of the two, first minus second.
        only_first: hand-labelled rows that the first run alone has right.
        only_second: those that the second run alone has right.
        p: of the hypothesis that both runs are right equally often, two-sided. By McNemar's exact test if all chances
            are equal or unknown, otherwise from the draws of the difference.
    """

    rows: int
    differ: int
    hand: int
    unused: int
    drawn: bool
    even: bool
    first: Figure
    second: Figure
    difference: Figure
    only_first: int
    only_second: int
    p: float


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test (McNemar 1947).

    Of the rows that only one of the two has right, each has half of them, if they are equally good: twice the smaller
    tail of the binomial distribution, without the mid-p correction.
    """
    return binomial_tails(only_first, only_first + only_second)


def paired(rows: int, differ: int, pairs: Iterable[Pair], *, seed: int = 0, draws: int = DRAWS) -> Paired:
    """Compare the accuracy of two runs on the same rows.

    Only rows on which the labels differ can be right in one run alone, and how many those are is known for the whole
    table. So the table is split in two, where they agree and where they differ, and the difference is

        differ / rows x (share of rows that the first has right - share that the second has right, where they differ)

    Its draws are those of `estimating` (a Dirichlet over the sampled rows, and one row more, which the first or the
    second has right, as a coin says), so that the interval has a width also if all sampled rows agree.

    Args:
        rows: that both runs have.
        differ: of them those on which the labels differ, one of them being missing included.
        pairs: the rows with a hand label.
        seed: of the draws.
        draws: how many.

    Raises:
        ValueError: a chance is not in (0, 1], or there are more pairs of a kind than rows.
    """
    given = list(pairs)
    known = [each for each in given if each.chance is not None]
    sample = _Pairs.of(rows, differ, known or given)
    p = mcnemar(sample.only_first, sample.only_second)
    first, second, difference = (Figure(float(each)) for each in _expected(sample)) if sample.hand else [UNKNOWN] * 3
    if known:
        drawn = _drawn(sample, np.random.default_rng(seed), draws)
        first, second, difference = (
            _with_limits(value, each, to_halve(sample.hand, rows))
            for value, each in zip(_expected(sample), drawn, strict=True)
        )
        if not sample.even:
            p = float(min(1.0, 2 * min((drawn[2] <= 0).mean(), (drawn[2] >= 0).mean())))
    return Paired(
        rows=rows,
        differ=differ,
        hand=sample.hand,
        unused=len(given) - sample.hand,
        drawn=bool(known) or not given,
        even=sample.even,
        first=first,
        second=second,
        difference=difference,
        only_first=sample.only_first,
        only_second=sample.only_second,
        p=p,
    )


def _with_limits(value: Floats, drawn: Floats, more: int) -> Figure:
    low, high = limits(drawn)
    return figure(float(value), float(low), float(high), more)


@dataclass(frozen=True)
class _Pairs:
    """The hand-labelled rows of two runs in cells.

    Attributes:
        sizes: rows of the table on which the runs agree, and on which they differ.
        differ: whether they differ in a cell, 0 or 1.
        first: whether the first run is right, 0 or 1.
        second: whether the second run is right.
        weight: unlabelled rows for which each row of a cell stands.
        count: its rows.
        even: whether all rows had the same chance.
    """

    sizes: Ints
    differ: Ints
    first: Ints
    second: Ints
    weight: Floats
    count: Ints
    even: bool

    @classmethod
    def of(cls, rows: int, differ: int, used: Sequence[Pair]) -> _Pairs:
        sizes = np.array([rows - differ, differ], np.int64)
        cells = Counter(
            (
                int(each.first != each.second),
                int(each.first == each.gold),
                int(each.second == each.gold),
                1.0 if each.chance is None else each.chance,
            )
            for each in used
        )
        columns = np.array(list(cells)).reshape(-1, 4).T
        differs, first, second = columns[:3].astype(np.int64)
        if not ((columns[3] > 0) & (columns[3] <= 1)).all():
            raise ValueError("a chance must be above 0 and at most 1")
        count = np.array(list(cells.values()), np.int64)
        sampled = np.bincount(differs, count, 2).astype(np.int64)
        if (sampled > sizes).any():
            raise ValueError(f"there are {sampled.tolist()} hand labels of {sizes.tolist()} rows that agree and differ")
        weight = weights_of(columns[3], differs, count, sizes)
        return cls(sizes, differs, first, second, weight, count, len(set(columns[3])) < 2)

    @property
    def hand(self) -> int:
        return int(self.count.sum())

    @property
    def only_first(self) -> int:
        return int(self.count[self.first > self.second].sum())

    @property
    def only_second(self) -> int:
        return int(self.count[self.second > self.first].sum())


def _part(sample: _Pairs, values: Floats, *, differ: bool, right: Ints) -> Part:
    """Return one half of the table, of which the rows are counted that are right in some way, by cell."""
    cells = sample.differ == differ
    hits = cells & (right > 0)
    largest = sample.weight[cells].max(initial=0)
    return Part(
        values[..., hits].sum(-1),
        values[..., cells].sum(-1),
        sample.count[hits].sum(),
        sample.sizes[int(differ)] - sample.count[cells].sum(),
        np.asarray(largest if largest > 0 else 1.0),
    )


def _expected(sample: _Pairs) -> list[Floats]:
    """Return both accuracies and their difference."""
    values = sample.weight * sample.count
    both = _part(sample, values, differ=False, right=sample.first).expected(0.5)
    alone = (_part(sample, values, differ=True, right=each).expected(0.5) for each in (sample.first, sample.second))
    return _of_table(sample, both, *alone)


def _drawn(sample: _Pairs, rng: np.random.Generator, draws: int) -> list[Floats]:
    """Draw both accuracies and their difference."""
    values = rng.standard_gamma(sample.count, (draws, len(sample.count))) * sample.weight
    both = _part(sample, values, differ=False, right=sample.first).drawn(rng, coins(rng, (draws,), False, False))
    first, second = (_part(sample, values, differ=True, right=each) for each in (sample.first, sample.second))
    unit, coin = rng.standard_exponential(draws) * first.unit, coins(rng, (draws,), False, False)
    of_first = np.clip((first.hits + unit * coin) / (first.all + unit), 0, 1)
    of_second = np.clip((second.hits + unit * (1 - coin)) / (first.all + unit), 0, 1 - of_first)
    right: Ints = rng.binomial(first.missing, of_first)
    others = rng.binomial(first.missing - right, np.clip(ratio_or_0(of_second, 1 - of_first), 0, 1))
    return _of_table(sample, both, first.known + right, second.known + others)


def _of_table(sample: _Pairs, both: Floats, first: Floats | Ints, second: Floats | Ints) -> list[Floats]:
    rows = max(int(sample.sizes.sum()), 1)
    return [(both + first) / rows, (both + second) / rows, (first - second) / rows]


def kappa_of(agreed: Floats, model: Floats, gold: Floats) -> Floats:
    """Return Cohen's kappa, ``(a - e) / (1 - e)`` with ``e = sum of model x gold`` over the labels (Cohen 1960).

    Args:
        agreed: share of rows on which both agree, of any shape.
        model: shares of the labels by the one, along the last axis.
        gold: by the other.
    """
    by_chance = (model * gold).sum(-1)
    return _beyond(1 - agreed, 1 - by_chance)


def alpha_of(agreed: Floats, model: Floats, gold: Floats, rows: int) -> Floats:
    """Return Krippendorff's alpha for nominal labels and two raters without gaps, ``1 - observed / expected``.

    The expected disagreement is ``(1 - sum of p^2) 2N / (2N - 1)``, with p the mean share of a label by both raters
    and N the rows (Krippendorff 2011, "Computing Krippendorff's alpha-reliability").

    Args:
        agreed: share of rows on which both agree, of any shape.
        model: shares of the labels by the one, along the last axis.
        gold: by the other.
        rows: N.
    """
    expected = (1 - (((model + gold) / 2) ** 2).sum(-1)) * 2 * rows / max(2 * rows - 1, 1)
    return _beyond(1 - agreed, expected)


def _beyond(observed: Floats, expected: Floats) -> Floats:
    defined = expected > 1e-12  # below that there is one label, and rounding
    return np.where(defined, 1 - observed / np.where(defined, expected, 1), np.nan)

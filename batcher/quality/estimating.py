"""Accuracy, shares, and precision and recall of each label, with intervals, from a sample labelled by hand.

Invariant: what is grouped, merged or weighted is decided by the model's labels and the chances alone, never by the gold
labels; rows with a hand label count as they are, and only the others are predicted.

The method, for one label g. The table is split in two: the rows that the model called g, and all others. In each part
the sampled rows stand for the rest by their chances: a row with the chance c stands for ``1/c - 1`` unlabelled rows.
The share of g in the unlabelled rows of a part is drawn as

    (sum of w E over the sampled rows with gold g, + U if a coin says so) / (sum of w E over all sampled rows, + U)

with ``w = 1/c - 1``, independent standard exponentials E, and ``U = max(w) E'``: one row more than the sample has, of
the largest weight, with a label that a coin decides. The number of unlabelled rows with g is then binomial. So the
interval is one for this table, and it has no width if every row has a hand label.

- Without U this is the Bayesian bootstrap (Rubin 1981) for a finite table and unequal chances (Lo 1988; Cohen 1997):
  within a part, a Dirichlet over the sampled rows.
- With U and equal chances the draws are Beta(y, n - y + 1) or Beta(y + 1, n - y), each half of the time: the mid-p
  interval of y in n. On average it gives each outcome the weight 1/2 of Jeffreys' prior, but its coverage stays above
  0.92, while that of Jeffreys' interval falls to 0.87 at shares of some percent (Brown, Cai and DasGupta 2001).
- One U for a part, of the largest weight, instead of a prior in every stratum: Fay and Feuer 1997, for weighted sums of
  counts, with the mid-p of Fay and Kim 2017. With 77 labels and 30 hand labels, 1/2 in each cell would drown them.
- If no hand label at all says g, the coin always does, and the lower limit is 0: the exact limit of Clopper and
  Pearson 1934.

For accuracy, the model's labels are merged into two strata at most (collapsed strata, Cochran 1977, section 5A.12):
each U pulls the accuracy by half a row towards 1/2, all to the same side, so that one U for each of 77 strata would
bias it.

In large samples the interval of a share equals that of prediction-powered inference with the best weight (PPI++,
Angelopoulos, Duchi and Zrnic 2023; Angelopoulos et al. 2023), because that is post-stratification by the model's label;
see also Egami, Hinck, Stewart and Wei 2023. `benchmarks/coverage.py` measures the coverage of all this.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from batcher.quality import agreement
from batcher.quality.figures import UNKNOWN, Bools, Figure, Floats, Ints, figure, limits, to_halve
from batcher.quality.parts import DRAWS, Part, coins, ratio_or_0, weights_of

ENOUGH = 10
"""With fewer hand labels of a kind, a share of them is hardly known: 9 of 10 has the interval 0.60 to 0.99."""
_ALONE = 15  # hand labels that a stratum of the accuracy has at least
_REACHED = 4.0  # rows expected in a sample; that it has none of them has a chance of 2%
_BLOCK = 2**22  # numbers that are drawn at a time: 32 MiB

_Ends = tuple[Floats, Floats] | None


@dataclass(frozen=True)
class Sampled:
    """A row with a hand label.

    Attributes:
        label: the model's label as it is now, None if the row has no `ok` label.
        gold: the hand label.
        chance: that this row was drawn and labelled by hand, in (0, 1]; None if it is not known how the row was chosen.
            If a part of a sample is not labelled yet, each chance is smaller by that factor.
    """

    label: str | None
    gold: str
    chance: float | None


@dataclass(frozen=True)
class LabelFigures:
    """What the hand labels say about one label.

    Attributes:
        label: the label.
        rows: of the table that have it from the model.
        raw: their share in the rows that have a label; what one would count without hand labels.
        share: of the rows of the whole table whose true label it is; the shares of all labels add up to 1.
        precision: the share of its rows that are right.
        recall: the share of the rows with this true label that have it from the model; rows without a label are misses.
        f1: the harmonic mean of precision and recall.
        hand: hand labels that say it.
        checked: hand labels of rows that have it from the model.
        few: whether `hand` or `checked` is below `ENOUGH`, so that precision or recall is hardly known.
    """

    label: str
    rows: int
    raw: float
    share: Figure
    precision: Figure
    recall: Figure
    f1: Figure
    hand: int
    checked: int
    few: bool


@dataclass(frozen=True)
class Confusion:
    """The model's labels beside the hand labels.

    Attributes:
        model: of the lines, as in the table; None, if there is one, is last: the rows without a label.
        gold: of the columns.
        counted: hand-labelled rows, `counted[line][column]`.
        estimated: rows of the table, estimated; zeros in a line without a hand label.
    """

    model: tuple[str | None, ...]
    gold: tuple[str, ...]
    counted: tuple[tuple[int, ...], ...]
    estimated: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Estimate:
    """What a hand-labelled sample says about a table of labels.

    Attributes:
        rows: of the table.
        labelled: rows that have a label from the model.
        hand: hand labels that the figures rest on.
        unused: hand labels left out, because how their rows were chosen is not known, and of others it is.
        drawn: whether the chances are known; without, there is no interval.
        unreached: rows without a label from the model of which the sample holds none, though a random one would; the
            intervals of shares and recalls allow for any label in them.
        accuracy: the share of right labels in the rows that have one.
        kappa: Cohen's kappa between model and hand, in the rows that have a label.
        alpha: Krippendorff's alpha (nominal) of the same.
        labels: each label that model or hand gave, the most frequent of the model first.
        confusion: the matrix.
    """

    rows: int
    labelled: int
    hand: int
    unused: int
    drawn: bool
    unreached: int
    accuracy: Figure
    kappa: Figure
    alpha: Figure
    labels: tuple[LabelFigures, ...]
    confusion: Confusion

    @property
    def few(self) -> tuple[str, ...]:
        """The labels with too few hand labels."""
        return tuple(each.label for each in self.labels if each.few)

    def label(self, name: str) -> LabelFigures:
        """Return the figures of a label.

        Raises:
            KeyError: neither the model nor a hand gave it.
        """
        for each in self.labels:
            if each.label == name:
                return each
        raise KeyError(name)


def estimate(
    counts: Mapping[str | None, int], sampled: Iterable[Sampled], *, seed: int = 0, draws: int = DRAWS
) -> Estimate:
    """Estimate accuracy, shares and per-label figures of a table.

    Args:
        counts: rows of the table by the model's label; under None those without an `ok` label.
        sampled: the rows with a hand label. If the chance of some is known, only those are used.
        seed: of the draws; equal arguments give an equal result.
        draws: how many. 4,000 leave the limits uncertain by some 2% of the interval's width.

    Raises:
        ValueError: a chance is not in (0, 1], or more rows were sampled with a label than the table has.
    """
    given = list(sampled)
    known = [each for each in given if each.chance is not None]
    used = known or given
    sample = _Sample.of(counts, used)
    points = _points(sample)
    intervals = _intervals(sample, np.random.default_rng(seed), draws) if known else None

    def whole(name: str) -> Figure:
        ends = None if intervals is None else (getattr(intervals.low, name), getattr(intervals.high, name))
        return _one(getattr(points, name), ends, sample.more_labelled)

    return Estimate(
        rows=sample.rows,
        labelled=sample.labelled,
        hand=len(used),
        unused=len(given) - len(used),
        drawn=bool(known) or not given,
        unreached=sample.unreached,
        accuracy=whole("accuracy"),
        kappa=whole("kappa"),
        alpha=whole("alpha"),
        labels=tuple(_label(sample, points, intervals, at) for at in range(len(sample.names))),
        confusion=_confusion(sample),
    )


@dataclass(frozen=True)
class _Sample:
    """The sample in cells: rows with the same label, hand label and chance.

    Attributes:
        names: of the K labels.
        sizes: rows of the table by the model's label; the last of the K + 1 are those without one.
        model: the model's label of each cell, K for none.
        gold: its hand label.
        weight: unlabelled rows for which each of its rows stands.
        count: its rows.
        even: whether all rows had the same chance.
    """

    names: tuple[str, ...]
    sizes: Ints
    model: Ints
    gold: Ints
    weight: Floats
    count: Ints
    even: bool

    @classmethod
    def of(cls, counts: Mapping[str | None, int], used: Sequence[Sampled]) -> _Sample:
        by_model = sorted((-rows, name) for name, rows in counts.items() if name is not None)
        only_gold = {each.gold for each in used} - {name for _, name in by_model}
        only_model = (
            {each.label for each in used if each.label is not None} - {name for _, name in by_model} - only_gold
        )
        names = (*(name for _, name in by_model), *sorted(only_gold | only_model))
        place: dict[str | None, int] = {name: at for at, name in enumerate(names)}
        place[None] = len(names)
        sizes = np.array([*(counts.get(name, 0) for name in names), counts.get(None, 0)], np.int64)
        chances = [1.0 if each.chance is None else each.chance for each in used]
        if not all(0 < chance <= 1 for chance in chances):
            raise ValueError("a chance must be above 0 and at most 1")
        cells = Counter(
            (place[each.label], place[each.gold], chance) for each, chance in zip(used, chances, strict=True)
        )
        model, gold, chance = (np.array(column) for column in zip(*cells, strict=True)) if cells else _NO_CELLS
        count = np.array(list(cells.values()), np.int64)
        sampled = np.bincount(model, count, len(sizes)).astype(np.int64)
        if (sampled > sizes).any():
            at = int((sampled > sizes).argmax())
            raise ValueError(
                f"{sampled[at]} sampled rows have the label {[*names, None][at]!r}, but {sizes[at]} of the table"
            )
        weight = weights_of(chance, model, count, sizes)
        return cls(names, sizes, model, gold, weight, count, len(set(chances)) < 2)

    @cached_property
    def rows(self) -> int:
        """Rows of the table."""
        return int(self.sizes.sum())

    @cached_property
    def labelled(self) -> int:
        """Rows that have a label."""
        return int(self.sizes[:-1].sum())

    @cached_property
    def hand(self) -> int:
        """Hand labels."""
        return int(self.count.sum())

    @cached_property
    def checked(self) -> Ints:
        """Hand labels by the model's label, the last those of rows without one."""
        return np.bincount(self.model, self.count, len(self.sizes)).astype(np.int64)

    @cached_property
    def said(self) -> Ints:
        """Hand labels that say each label."""
        return np.bincount(self.gold, self.count, len(self.names)).astype(np.int64)

    @cached_property
    def right(self) -> Bools:
        """Whether the model is right in a cell."""
        return np.equal(self.model, self.gold)

    @cached_property
    def hits(self) -> Ints:
        """Hand labels that agree with the model, by label."""
        agreed = np.where(self.right, self.count, 0)
        return np.bincount(self.gold, agreed, len(self.names)).astype(np.int64)

    @cached_property
    def unreached(self) -> int:
        """Rows without a label, if the sample holds none of them and that is no chance."""
        rows = int(self.sizes[-1])
        if self.checked[-1] or not self.hand:
            return 0
        return rows if not self.even or rows * self.hand > _REACHED * self.rows else 0

    @property
    def more(self) -> int | None:
        """Hand labels that halve an interval of the whole table."""
        return to_halve(self.hand, self.rows) if self.hand else None

    @property
    def more_labelled(self) -> int | None:
        """Hand labels that halve an interval of the rows with a label."""
        hand = self.hand - int(self.checked[-1])
        return to_halve(hand, self.labelled) if hand else None


_NO_CELLS = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True)
class _Parts:
    """The table in parts, each with the sampled rows that stand for the rest of it.

    Attributes:
        called: for each label, the rows that the model called so; counted are the right ones.
        others: for each label, all other rows that the sample reaches; counted are those whose true label it is.
        strata: of the accuracy; counted are the right rows.
        gold: the shares of the true labels in the rows that have a label.
    """

    called: Part
    others: Part
    strata: list[Part]
    gold: Floats

    @classmethod
    def of(cls, sample: _Sample, values: Floats) -> _Parts:
        """Sum up the weights of the cells, which are the last axis of `values`."""
        labels = np.arange(len(sample.names))
        called, said = sample.model[:, None] == labels, sample.gold[:, None] == labels
        right, inside, everywhere = (values @ each.astype(float) for each in (called & said, called, said))
        outside = np.maximum(values.sum(-1)[..., None] - inside, 0)
        sizes, checked = sample.sizes[:-1], sample.checked[:-1]
        reached = sample.rows - sample.unreached
        return cls(
            Part(right, inside, sample.hits, sizes - checked, _largest(sample, called)),
            Part(
                np.clip(everywhere - right, 0, outside),
                outside,
                sample.said - sample.hits,
                (reached - sizes) - (sample.hand - checked),
                _largest(sample, ~called),
            ),
            [_stratum(sample, values, each) for each in _strata(sample)],
            _gold(sample, values, said),
        )


def _largest(sample: _Sample, cells: Bools) -> Floats:
    largest = np.where(cells, sample.weight[:, None], 0).max(0, initial=0)
    return np.where(largest > 0, largest, 1.0)


def _strata(sample: _Sample) -> list[slice]:
    """Split the labels, the most frequent first, in two, if each half has enough hand labels."""
    checked, whole = sample.checked[:-1].cumsum(), slice(0, len(sample.names))
    if not len(checked) or checked[-1] < 2 * _ALONE:
        return [whole]
    at = int((checked >= _ALONE).argmax()) + 1
    return [whole] if checked[-1] - checked[at - 1] < _ALONE else [slice(0, at), slice(at, whole.stop)]


def _stratum(sample: _Sample, values: Floats, labels: slice) -> Part:
    inside = (sample.model >= labels.start) & (sample.model < labels.stop)
    return Part(
        values[..., inside & sample.right].sum(-1),
        values[..., inside].sum(-1),
        sample.hits[labels].sum(),
        (sample.sizes - sample.checked)[labels].sum(),
        _largest(sample, inside[:, None])[0],
    )


def _gold(sample: _Sample, values: Floats, said: Bools) -> Floats:
    """Return the shares of the true labels in the rows that have a label from the model, which must be sampled."""
    named = sample.model < len(sample.names)
    known = np.bincount(sample.gold[named], sample.count[named], len(sample.names))
    weights = values[..., named] @ said[named].astype(float)
    total = weights.sum(-1, keepdims=True)
    missing = sample.labelled - known.sum()
    return _ratio(known + missing * ratio_or_0(weights, total), max(sample.labelled, 1))


@dataclass(frozen=True)
class _Numbers:
    """Estimates or draws of everything that is estimated; NaN if it is not known. Of each label along the last axis."""

    accuracy: Floats
    kappa: Floats
    alpha: Floats
    share: Floats
    precision: Floats
    recall: Floats
    f1: Floats

    @classmethod
    def of(cls, sample: _Sample, parts: _Parts, right: Floats, hits: Floats, misses: Floats) -> _Numbers:
        """Put the numbers together.

        Args:
            sample: the sample.
            parts: the table in parts.
            right: the rows that the model labelled rightly.
            hits: the same by label.
            misses: rows with each true label that the model labelled otherwise, or not.
        """
        sizes, true = sample.sizes[:-1], hits + misses
        seen = sample.said > 0
        accuracy = _ratio(right, sample.labelled)
        by_model = sizes / max(sample.labelled, 1)
        return cls(
            accuracy,
            agreement.kappa_of(accuracy, by_model, parts.gold),
            agreement.alpha_of(accuracy, by_model, parts.gold, sample.labelled),
            _ratio(true, sample.rows),
            np.where(sample.checked[:-1] > 0, _ratio(hits, sizes), np.nan),
            np.where(seen, _ratio(hits, true), np.nan),
            np.where(seen, _ratio(2 * hits, sizes + true), np.nan),
        )


def _ratio(part: Floats, whole: Floats | Ints | int) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(part / np.asarray(whole, float))


def _points(sample: _Sample) -> _Numbers:
    parts = _Parts.of(sample, sample.weight * sample.count)
    if not sample.hand > sample.checked[-1]:
        return _Numbers.of(sample, parts, np.array(np.nan), *np.full((2, len(sample.names)), np.nan))
    right = np.sum([each.expected(0.0) for each in parts.strata], axis=0)
    accuracy = float(right / sample.labelled)
    hits = parts.called.expected(accuracy)
    misses = parts.others.expected((1 - accuracy) / max(len(sample.names) - 1, 1))
    # Rows that the sample does not reach are taken to be like the others.
    misses = misses + (hits + misses) * sample.unreached / (sample.rows - sample.unreached)
    found = _Numbers.of(sample, parts, right, hits, misses)
    # Each label has parts of its own, so that the shares of many labels add up to nearly 1 only.
    return replace(found, share=found.share / found.share.sum())


@dataclass(frozen=True)
class _Intervals:
    """The limits of everything that is estimated."""

    low: _Numbers
    high: _Numbers


def _intervals(sample: _Sample, rng: np.random.Generator, draws: int) -> _Intervals | None:
    named = sample.hand - int(sample.checked[-1])
    if not named:
        return None
    block = max(1, min(draws, _BLOCK // max(len(sample.count), len(sample.names))))
    blocks = [_drawn(sample, rng, min(block, draws - at)) for at in range(0, draws, block)]
    ends = {
        each.name: limits(np.concatenate([getattr(block, each.name) for block in blocks])) for each in fields(_Numbers)
    }
    right = int(sample.hits.sum())
    low, high = ({name: end[side] for name, end in ends.items()} for side in (0, 1))
    # What no hand label shows may still not be there at all, and the other way round.
    low["share"], high["share"] = (
        np.where(sample.said == 0, 0.0, low["share"]),
        np.where(sample.said == sample.hand, 1.0, high["share"]),
    )
    if right == 0:
        low["accuracy"] = np.zeros(())
    if right == named:
        high["accuracy"] = np.ones(())
    return _Intervals(_Numbers(**low), _Numbers(**high))


def _drawn(sample: _Sample, rng: np.random.Generator, draws: int) -> _Numbers:
    """Draw the table."""
    parts = _Parts.of(sample, rng.standard_gamma(sample.count, (draws, len(sample.count))) * sample.weight)
    shape = (draws, len(sample.names))
    only, unseen = sample.said == sample.hand, sample.said == 0
    hits = parts.called.drawn(rng, coins(rng, shape, only, unseen))
    misses = parts.others.drawn(rng, coins(rng, shape, False, unseen))
    if sample.unreached:
        misses = misses + sample.unreached * coins(rng, shape, False, unseen)
    right, named = sample.hits.sum(), sample.hand - sample.checked[-1]
    of_all = [each.drawn(rng, coins(rng, (draws,), right == named, right == 0)) for each in parts.strata]
    return _Numbers.of(sample, parts, np.sum(of_all, axis=0), hits, misses)


def _one(value: Floats, ends: _Ends, more: int | None) -> Figure:
    """Return a figure of numbers, of which NaN are not known."""
    if math.isnan(value):
        return UNKNOWN
    if ends is None or math.isnan(ends[0]):
        return Figure(float(value))
    return figure(float(value), float(ends[0]), float(ends[1]), more)


def _label(sample: _Sample, points: _Numbers, intervals: _Intervals | None, at: int) -> LabelFigures:
    def shown(name: str, more: int | None) -> Figure:
        ends = None if intervals is None else (getattr(intervals.low, name)[at], getattr(intervals.high, name)[at])
        return _one(getattr(points, name)[at], ends, more)

    rows, checked, hand = int(sample.sizes[at]), int(sample.checked[at]), int(sample.said[at])
    return LabelFigures(
        label=sample.names[at],
        rows=rows,
        raw=rows / sample.labelled if sample.labelled else 0.0,
        share=shown("share", sample.more),
        precision=shown("precision", to_halve(checked, rows) if checked else None),
        recall=shown("recall", sample.more),
        f1=shown("f1", sample.more),
        hand=hand,
        checked=checked,
        few=sample.hand < sample.rows and (hand < ENOUGH or checked < min(ENOUGH, rows)),
    )


def _confusion(sample: _Sample) -> Confusion:
    lines = len(sample.sizes) if sample.sizes[-1] else len(sample.names)
    shape = (len(sample.sizes), len(sample.names))
    counted, weighted = np.zeros(shape, np.int64), np.zeros(shape)
    np.add.at(counted, (sample.model, sample.gold), sample.count)
    np.add.at(weighted, (sample.model, sample.gold), sample.count * sample.weight)
    missing = (sample.sizes - sample.checked)[:, None]
    estimated = counted + missing * ratio_or_0(weighted, weighted.sum(1, keepdims=True))
    return Confusion(
        (*sample.names, None)[:lines],
        sample.names,
        tuple(tuple(line) for line in counted[:lines].tolist()),
        tuple(tuple(line) for line in estimated[:lines].tolist()),
    )

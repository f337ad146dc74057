"""What the answers of a run are (labels, texts or numbers), and the numbers that the hand labels give about them.

Invariant: memory holds what is counted, the different answers and the rows with a hand label, but no table; each row
with a hand label counts once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

from batcher.answer.kinds import Kind as Column
from batcher.quality import estimating, means
from batcher.quality.cascade import Scored
from batcher.quality.estimating import Sampled
from batcher.quality.means import Measured
from batcher.reports.quality.estimated import Estimate, Kind, Quantity
from batcher.reports.quality.labelled import COLUMN, Labelled, LabelledRun
from batcher.reports.quality.numeric import NumberCounts, number_of
from batcher.words import counted

_MOST_LABELS = 100
_LOOKED_AT = 1000
_ANSWER, _OTHER = "answer", "other"  # what counts for texts: the same as by hand, or not


class Answers(NamedTuple):
    """The answers of all rows, and of those with a hand label.

    Attributes:
        kind: what they are.
        rows: that have one.
        counts: rows by answer, under None those without one; of texts and numbers there is one answer alone.
        sampled: the rows with a hand label.
        numbers: rows by number.
        measured: the rows with a number by hand.
    """

    kind: Kind
    rows: int
    counts: Mapping[str | None, int]
    sampled: Iterable[Sampled]
    numbers: Mapping[float | None, int] = MappingProxyType({})
    measured: Sequence[Measured] = ()


def answers_of(reads: LabelledRun, found: Labelled) -> Answers:
    """Return the answers of a run."""
    kind = kind_of(reads, found)
    if kind is Kind.NUMBERS:
        return _numbers(reads, found)
    counts = _stripped(found.counts) if found.counts is not None and not found.labels else found.counts
    rows = reads.journal.answered().ok if counts is None else found.rows - counts.get(None, 0)
    if kind is not Kind.LABELS or counts is None:
        counts = {_ANSWER: rows, None: found.rows - rows}
    return Answers(kind, rows, counts, sampled_of(reads, found, kind))


def _numbers(reads: LabelledRun, found: Labelled) -> Answers:
    counts = NumberCounts()
    counts.add(number_of(answer) for _, answer in reads.answers())
    rows = found.rows - counts.counts[None]
    measured = [
        Measured(counts.rounded(number_of(label)), gold, chance)
        for label, text, chance, times in _golds(reads, found)
        if (gold := number_of(text)) is not None
        for _ in range(times)
    ]
    alike = {_ANSWER: rows, None: found.rows - rows}
    return Answers(Kind.NUMBERS, rows, alike, sampled_of(reads, found, Kind.NUMBERS), counts.counts, measured)


def with_numbers(estimate: Estimate, answers: Answers, seed: int) -> Estimate:
    """Return an estimate with the numbers that the hand labels give."""
    made = estimating.estimate(answers.counts, answers.sampled, seed=seed)
    if answers.kind is Kind.NUMBERS:
        return _with_means(replace(estimate, accuracy=made.accuracy), answers, seed)
    if answers.kind is Kind.TEXT:
        return replace(estimate, accuracy=made.accuracy)
    return replace(
        estimate,
        accuracy=made.accuracy,
        labels=made.labels,
        confusion=made.confusion if made.hand else estimate.confusion,
        kappa=made.kappa,
        alpha=made.alpha,
    )


def _with_means(estimate: Estimate, answers: Answers, seed: int) -> Estimate:
    made = means.numbers(answers.numbers, answers.measured, seed=seed)
    quantiles = (
        Quantity("median" if each.p == 0.5 else f"{each.p:.0%} quantile", each.raw, each.figure)
        for each in made.quantiles
    )
    is_long = made.mean.low is not None and made.enough > made.hand
    return replace(
        estimate,
        quantities=(Quantity("mean", made.raw, made.mean), *quantiles),
        bias=made.bias,
        distance=made.error,
        warnings=(*estimate.warnings, _on_long_tail(made)) if is_long else estimate.warnings,
    )


def _on_long_tail(made: means.Numbers) -> str:
    return (
        f"the numbers, or the model's errors, have a long tail, of which {counted(made.hand, 'row')} by hand may hold"
        f" too little: the interval of the mean may be too short, and is good from about {made.enough:,} on (Cochran's"
        " rule). The intervals of the median and of the other quantiles are good"
    )


def kind_of(reads: LabelledRun, found: Labelled) -> Kind:
    """Return what the answers are: what the run asked for, or else what they look like."""
    if found.labels:
        return Kind.LABELS
    if reads.golds.shape is not None and reads.field is not None:
        column = reads.golds.shape.kinds[reads.golds.shape.fields.index(reads.field)]
        if column in {Column.INTEGER, Column.NUMBER}:
            return Kind.NUMBERS
    elif _are_numbers(reads, found):
        return Kind.NUMBERS
    if found.counts is None:
        return Kind.TEXT
    kinds = _stripped(found.counts).keys() - {None}
    labelled = found.rows - found.counts.get(None, 0)
    return Kind.LABELS if len(kinds) <= _MOST_LABELS and 2 * len(kinds) <= labelled else Kind.TEXT


def _are_numbers(reads: LabelledRun, found: Labelled) -> bool:
    """Return whether all answers and hand labels are numbers, as far as they are counted."""
    if found.counts is not None:
        answers: Iterable[str | None] = found.counts
    else:
        answers = islice((answer for _, answer in reads.answers()), _LOOKED_AT)
    known = [answer for answer in answers if answer is not None]
    gold = [text for _, text in found.pairs or ()]
    return bool(known) and all(number_of(text) is not None for text in (*known, *gold))


def _stripped(counts: Mapping[str | None, int]) -> dict[str | None, int]:
    found: Counter[str | None] = Counter()
    for answer, rows in counts.items():
        found[None if answer is None else answer.strip()] += rows
    return dict(found)


def sampled_of(reads: LabelledRun, found: Labelled, kind: Kind) -> Iterator[Sampled]:
    """Yield the rows with a hand label."""
    as_is = bool(found.labels)
    for label, gold, chance, rows in _golds(reads, found):
        if kind is Kind.LABELS:
            own = label if as_is or label is None else label.strip()
            each = Sampled(own, gold if as_is else gold.strip(), chance)
        else:
            is_right = label is not None and is_same(label, gold, kind)
            each = Sampled(None if label is None else _ANSWER, _ANSWER if is_right else _OTHER, chance)
        yield from (each for _ in range(rows))


def is_same(label: str, gold: str, kind: Kind) -> bool:
    """Return whether an answer is what the hand label says."""
    return label.strip() == gold.strip() or (kind is Kind.NUMBERS and number_of(label) == number_of(gold) is not None)


def scored(
    reads: LabelledRun, found: Labelled, kind: Kind, certainties: Iterable[tuple[int, float]]
) -> Iterator[Scored]:
    """Yield the rows with a hand label and a certainty.

    Args:
        reads: the labels of the run.
        found: the rows with a hand label.
        kind: what the answers are.
        certainties: of rows, in the order of positions.
    """
    known = iter(certainties)
    upcoming = next(known, None)
    for row in reads.gold_rows(found):
        while upcoming is not None and upcoming[0] < row.position:
            upcoming = next(known, None)
        if upcoming is None:
            return
        if upcoming[0] == row.position and row.label is not None:
            yield Scored(upcoming[1], is_same(row.label, row.gold, kind), row.chance or 1.0)


def _golds(reads: LabelledRun, found: Labelled) -> Iterator[tuple[str | None, str, float | None, int]]:
    """Yield the model's answer and the hand label of rows, the chance of each of them, and how many there are."""
    if found.source == COLUMN and found.pairs is not None:
        yield from ((label, gold, found.chance, rows) for (label, gold), rows in found.pairs.items())
    else:
        rows = reads.gold_rows(found) if found.source == COLUMN else found.sampled
        yield from ((each.label, each.gold, each.chance, 1) for each in rows)

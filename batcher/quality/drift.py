"""Drift along a run: whether labels, failures or latencies differ between stretches of it, or between endpoints.

Invariant: of all that is looked at together, a run without drift is called drifting with a chance of 5% at most.

A look is one test: of a whole table (stretch x label), or of one label in one stretch against all other stretches. The
looks of all tables are corrected together by Holm's procedure (Holm 1979; see `drift`). At a million rows everything
differs, so a finding needs an effect of a fixed size as well (`FLOOR`, `RANK_FLOOR`).

- Counts, the whole table: Pearson's chi-square; columns that are expected less than 5 times in a stretch are put
  together first (Cochran 1954).
- One column in one stretch: the exact hypergeometric test (Fisher), two-sided as twice the smaller tail. With hundreds
  of looks only tails far out count, for which the normal distribution is wrong.
- Latencies: ranks with ties, Kruskal and Wallis 1952 for the whole table, Mann and Whitney 1947 for one stretch.

The tests take rows to be exchangeable. If the input is sorted (by topic, by date), its labels differ along the run and
nothing is wrong: such a finding says that something changes, not what.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from batcher.quality.figures import Floats, Ints
from batcher.quality.special import chi_square_tail

LEVEL = 0.05
"""The chance of a false alarm in a run without drift, over all looks."""
FLOOR = 0.1
"""The least effect of a finding, half of what Cohen 1988 calls small: 50% and 55% are 0.1 apart, and 1% and 2.2%."""
RANK_FLOOR = 0.05
"""Of latencies: how far the chance that a row takes longer than one from elsewhere is from 1/2, at least."""
_EXPECTED = 5.0
_NEAR = 1.5  # standard deviations: a count that is nearer is no finding, and needs no exact tail
_TERMS = 4096  # of a tail at a time


@dataclass(frozen=True)
class Table:
    """What happened in each stretch.

    Attributes:
        by: what the stretches are of, such as `input`, `time`, `endpoint`.
        of: what is counted, such as `label`, `status`, `latency`.
        stretches: their names, in order.
        columns: what is counted apart: labels, or the classes of a latency, ascending.
        counts: rows, `counts[stretch][column]`.
        values: for latencies: the value of each class, in seconds; ranks are then compared, not shares.
    """

    by: str
    of: str
    stretches: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    values: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Look:
    """One test.

    Attributes:
        by: as in the table.
        of: as in the table.
        stretch: the stretch that is compared with all others; None if the whole table is tested.
        column: the label or status; None if it is the whole table or a latency.
        rows: of the stretch, or of the table.
        here: the share of the column in the stretch, or the median latency; None for a whole table.
        elsewhere: the same of all other stretches.
        effect: Cohen's h, positive if there are more here; for latencies the chance that a row here takes longer than
            one elsewhere, less 1/2; for a whole table Cohen's w, for latencies the eta of their ranks.
        p: of this test alone, two-sided.
        corrected: for the number of looks; at most 5% is significant.
        found: whether it is a finding: `corrected` is at most 5%, and the effect is not below its floor.
    """

    by: str
    of: str
    stretch: str | None
    column: str | None
    rows: int
    here: float | None
    elsewhere: float | None
    effect: float
    p: float
    corrected: float = 1.0
    found: bool = False


@dataclass(frozen=True)
class Drift:
    """What was looked at and what was found.

    Attributes:
        looks: all tests, the smallest p first.
    """

    looks: tuple[Look, ...]

    @property
    def findings(self) -> tuple[Look, ...]:
        """The stretches that differ, the largest effect first; a whole table only if none of its stretches does."""
        parts = [each for each in self.looks if each.found and each.stretch is not None]
        placed = {(each.by, each.of) for each in parts}
        wholes = [
            each for each in self.looks if each.found and each.stretch is None and (each.by, each.of) not in placed
        ]
        return tuple(sorted(parts + wholes, key=lambda each: -abs(each.effect)))


def drift(tables: Iterable[Table]) -> Drift:
    """Look for drift in all tables together.

    Half of the 5% is for whole tables, half for single stretches, and each half is shared out by Holm's procedure:
    hundreds of labels are not to hide a table that drifts as a whole.
    """
    looks = [look for table in tables for look in _looks(table)]
    wholes = [each for each in looks if each.stretch is None]
    parts = [each for each in looks if each.stretch is not None]
    judged = [
        replace(each, corrected=min(2 * p, 1.0), found=2 * p <= LEVEL and _is_large(each))
        for family in (wholes, parts)
        for each, p in zip(family, holm([look.p for look in family]), strict=True)
    ]
    return Drift(tuple(sorted(judged, key=lambda each: each.p)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in their order (Holm 1979).

    The smallest of m is multiplied by m, the next by m - 1, and so on, each at least as large as the one before.
    """
    found, least = [0.0] * len(p_values), 0.0
    for place, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, p_values[at] * (len(p_values) - place)))
        found[at] = least
    return found


def _is_large(look: Look) -> bool:
    of_ranks = look.column is None and look.stretch is not None
    return abs(look.effect) >= (RANK_FLOOR if of_ranks else FLOOR)


def _looks(table: Table) -> Iterator[Look]:
    counts = np.array(table.counts, np.int64).reshape(len(table.stretches), len(table.columns))
    kept = counts.sum(1) > 0
    names = [name for name, used in zip(table.stretches, kept, strict=True) if used]
    counts = counts[kept]
    if len(names) < 2:
        return
    if table.values is not None:
        yield from _ranked(table, names, counts)
        return
    yield from _whole(table, counts)
    columns = range(len(table.columns))
    if len(columns) == 2:  # what one of two columns has more, the other has less
        columns = range(1, 2) if counts[:, 1].sum() <= counts[:, 0].sum() else range(1)
    for stretch in _compared(names):
        for column in columns:
            yield from _one(table, names[stretch], counts, stretch, column)


def _compared(names: Sequence[str]) -> range:
    """Return the stretches that are compared with all others: of two, the later one."""
    return range(1, 2) if len(names) == 2 else range(len(names))


def _whole(table: Table, counts: Ints) -> Iterator[Look]:
    """Test a table by Pearson's chi-square."""
    rows, columns, total = counts.sum(1), counts.sum(0), int(counts.sum())
    rare = columns * (rows.min() / total) < _EXPECTED
    merged = np.column_stack([counts[:, ~rare], counts[:, rare].sum(1)]) if rare.any() else counts
    expected = np.outer(rows, merged.sum(0)) / total
    usable = expected.min(0) >= _EXPECTED
    if usable.sum() < 2:
        return
    # What is too rare even together is left out.
    merged = merged[:, usable]
    expected = np.outer(merged.sum(1), merged.sum(0)) / merged.sum()
    statistic = float(((merged - expected) ** 2 / expected).sum())
    p = chi_square_tail(statistic, (len(rows) - 1) * (merged.shape[1] - 1))
    effect = math.sqrt(statistic / int(merged.sum()))
    yield Look(table.by, table.of, None, None, total, None, None, effect, p)


def _one(table: Table, name: str, counts: Ints, stretch: int, column: int) -> Iterator[Look]:
    """Test one column of one stretch against all others."""
    rows, total = int(counts[stretch].sum()), int(counts.sum())
    with_it, here = int(counts[:, column].sum()), int(counts[stretch, column])
    if with_it in {0, total}:
        return
    share, other = here / rows, (with_it - here) / (total - rows)
    effect = 2 * (math.asin(math.sqrt(share)) - math.asin(math.sqrt(other)))
    p = _hypergeometric(here, rows, with_it, total)
    yield Look(table.by, table.of, name, table.columns[column], rows, share, other, effect, p)


def _hypergeometric(here: int, rows: int, with_it: int, total: int) -> float:
    """Return the two-sided p-value of `here` hits in `rows` drawn of `total`, of which `with_it` are hits."""
    mean = rows * with_it / total
    spread = math.sqrt(mean * (1 - with_it / total) * (total - rows) / max(total - 1, 1))
    distance = (abs(here - mean) - 0.5) / spread if spread else 0.0
    if distance < _NEAR:
        return chi_square_tail(max(distance, 0.0) ** 2, 1)
    if here < mean:  # the same question of the rows without it
        here, with_it = rows - here, total - with_it
    log = (_log_choose(with_it, here) + _log_choose(total - with_it, rows - here)) - _log_choose(total, rows)
    tail, term, at = 0.0, 1.0, here
    while term > 1e-18 * max(tail, 1.0):
        k = np.arange(at, at + _TERMS, dtype=float)
        ratios = (with_it - k) * (rows - k) / ((k + 1) * (total - with_it - rows + k + 1))
        terms = term * np.cumprod(np.maximum(ratios, 0))
        tail, term, at = tail + term + float(terms[:-1].sum()), float(terms[-1]), at + _TERMS
    return min(1.0, 2 * math.exp(log) * tail)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _ranked(table: Table, names: Sequence[str], counts: Ints) -> Iterator[Look]:
    """Test latencies by their ranks; equal classes are ties."""
    columns, rows, total = counts.sum(0), counts.sum(1), int(counts.sum())
    ranks = columns.cumsum() - (columns - 1) / 2
    ties = 1 - float((columns.astype(float) ** 3 - columns).sum()) / (float(total) ** 3 - total)
    if ties <= 0:
        return
    sums = counts @ ranks
    shift = sums / rows - (total + 1) / 2
    statistic = float(12 / (total * (total + 1)) * (rows * shift**2).sum() / ties)
    effect = math.sqrt(statistic / (total - 1))
    yield Look(table.by, table.of, None, None, total, None, None, effect, chi_square_tail(statistic, len(rows) - 1))
    for at in _compared(names):
        others = total - int(rows[at])
        longer = float(sums[at] - rows[at] * (rows[at] + 1) / 2) / (float(rows[at]) * others)
        spread = math.sqrt((total + 1) * ties / (12 * float(rows[at]) * others))
        distance = max(abs(longer - 0.5) - 0.5 / (float(rows[at]) * others), 0.0) / spread
        here, elsewhere = _median(table, counts[at]), _median(table, columns - counts[at])
        p = chi_square_tail(distance**2, 1)
        yield Look(table.by, table.of, names[at], None, int(rows[at]), here, elsewhere, longer - 0.5, p)


def _median(table: Table, counts: Ints) -> float:
    values: Floats = np.array(table.values)
    return float(values[np.searchsorted(counts.cumsum(), counts.sum() / 2)])

"""Whether rows that one endpoint answered, or that were asked at another time, differ from the rows beside them.

Invariant: rows are only compared with rows beside them in the table, so that no order of the table makes a difference;
memory holds one block of rows, and sums.

The rows of a table are in some order: by class, by day, by author. Labels then change along the table, and as rows are
asked in that order, they change with time too. That is no drift. But of 32 rows that stand side by side, a pool gives
each to the endpoint that is free, and a canary or an earlier sample has asked some long before. So the table is cut
into strata of 32 rows, and within each stratum the rows of one group are compared with the others: for each label the
test of Cochran, Mantel and Haenszel (Mantel 1963). Of at most 400 rows, such as a canary's, its exact distribution is
computed, a sum of hypergeometric ones; of more the normal one is used, from a variance of 5 on (Mantel and Fleiss
1980). If the strata differ among themselves by more than chance, as rows that are asked together may be alike, that
larger variance counts. All looks together are corrected by Holm's method. The difference is that of the shares,
weighted as Mantel and Haenszel do (Greenland and Robins 1985).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batcher.quality.drift import holm
from batcher.words import counted, option, percent, verb

STRATUM = 32
"""Rows beside each other that are compared."""
LEVEL = 0.001
"""How often there is a warning though nothing differs: one in a thousand runs."""
FLOOR = 0.03
"""A smaller difference of shares is no warning, however many rows show it."""
FEWEST = 200
"""Rows of a run below which nothing is said."""

# A pool may give each endpoint as many rows in a row as it has in flight: then strata are joined until they have both.
_SIZES = (1, 4, 16, 64)  # strata
_MIXED = 0.5  # of the weight that the largest strata have
_FEWEST_STRATA = 8  # with fewer, the difference may be one of two parts of the table
_LEAST_VARIANCE = 5.0
_MOST_SOURCES = 32  # from this one on, they count as one, which is compared with nothing
_MOST_LABELS = 200  # different answers; further ones count as one
_AWAY = 0.05  # of all requests: so much earlier than its neighbours a row was asked at another time
_LEAST_AWAY = 100  # requests
_MOST_EXACT = 400  # rows of a group whose exact distribution is computed

_Ints = npt.NDArray[np.int64]


class Block(NamedTuple):
    """Consecutive rows of a run, in the order of the table.

    Attributes:
        requests: the ids of the requests that brought their answers; they rise with time.
        sources: the ids of the sources that gave them.
        labels: their labels; None for an answer that is no label.
    """

    requests: Sequence[int]
    sources: Sequence[int]
    labels: Sequence[str | None]


@dataclass(frozen=True)
class Unlike:
    """Rows that differ from the rows beside them.

    Attributes:
        source: the id of the source that answered them; None: they were asked long before the others.
        rows: of that kind that have others beside them.
        label: the label whose share differs most; None: the share of answers that are no label.
        share: of the label among these rows.
        beside: its share among the rows beside them, as many of these as the strata ask for.
        p: of the test, corrected for all looks.
    """

    source: int | None
    rows: int
    label: str | None
    share: float
    beside: float
    p: float

    @property
    def what(self) -> str:
        """What differs, in words."""
        return "invalid" if self.label is None else repr(self.label)


class Neighbours:
    """Compares rows with those beside them; blocks are added in the order of the table.

    Args:
        requests: the highest id of a request.

    Attributes:
        rows: that were added.
    """

    def __init__(self, requests: int) -> None:
        self.rows = 0
        self._away = max(int(requests * _AWAY), _LEAST_AWAY)
        self._sources: dict[int, int] = {}
        self._labels: dict[str | None, int] = {None: 0}
        self._by_source = [_Sums(_MOST_SOURCES) for _ in _SIZES]  # in strata of each size
        self._by_time = _Sums(1)

    def add(self, block: Block) -> None:
        """Count rows; the first row of a block begins a stratum."""
        self.rows += len(block.requests)
        requests = np.asarray(block.requests, dtype=np.int64)
        sources = np.asarray([self._source(each) for each in block.sources], dtype=np.int64)
        labels = np.asarray([self._label(each) for each in block.labels], dtype=np.int64)
        strata = np.arange(len(requests)) // STRATUM
        groups, count = len(self._sources), len(self._labels)
        if groups > 1:
            table = _table(strata, sources, labels, groups, count)
            for size, sums in zip(_SIZES, self._by_source, strict=True):
                sums.add(_joined(table, size), groups)
        late = requests - _medians(requests)[strata]
        # A row that was asked much later than its neighbours had failed before, and is not like most.
        kept = late <= self._away
        was_early = late[kept] < -self._away
        if was_early.any():
            self._by_time.add(_table(strata[kept], 1 - was_early, labels[kept], 2, count), 1)

    def _source(self, source: int) -> int:
        return self._sources.setdefault(source, min(len(self._sources), _MOST_SOURCES - 1))

    def _label(self, label: str | None) -> int:
        if label not in self._labels and len(self._labels) > _MOST_LABELS:
            return _MOST_LABELS
        return self._labels.setdefault(label, len(self._labels))

    def unlike(self) -> list[Unlike]:
        """Return the sources whose rows differ from those beside them, then the rows that were asked long before."""
        if self.rows < FEWEST:
            return []
        labels: list[str | None] = [*self._labels]
        looks = [_Look(source, each) for source, group in self._compared() for each in self._mixed(group).looks(group)]
        looks += [_Look(None, each) for each in self._by_time.looks(0)]
        found: dict[int | None, Unlike] = {}
        for look, p in zip(looks, holm([each.test.p for each in looks]), strict=True):
            test, kind = look.test, look.source
            # Of many labels, those beyond the most are one, which has no name.
            is_named = test.label < len(labels) and test.label < _MOST_LABELS
            if p <= LEVEL and abs(test.difference) >= FLOOR and is_named and (kind not in found or p < found[kind].p):
                found[kind] = Unlike(kind, test.rows, labels[test.label], test.share, test.share - test.difference, p)
        return [*found.values()]

    def warnings(self, names: Mapping[int, str]) -> list[str]:
        """Return in words which rows differ, and what to do.

        Args:
            names: of the sources, by their ids.
        """
        return [
            _of_early_rows(each) if each.source is None else self._of_a_source(each, each.source, names)
            for each in self.unlike()
        ]

    def _of_a_source(self, found: Unlike, source: int, names: Mapping[int, str]) -> str:
        name, rows = names.get(source, "an endpoint"), counted(found.rows, "row")
        redo = f"add {option('on_change', 'redo')}: that asks its rows again, and no others"
        if len(self._sources) == 2:
            [other] = [names.get(each, "another one") for each in self._sources if each != source]
            return (
                f"{name} and {other} answer otherwise: {found.what} in {percent(found.share)} of {rows} of the first,"
                f" in {percent(found.beside)} of the rows beside them. If you trust one more, leave the other out, and"
                f" {redo}."
            )
        return (
            f"{name} answers otherwise than the other endpoints: {found.what} in {percent(found.share)} of its {rows},"
            f" in {percent(found.beside)} of the rows beside them. If you trust the others more, leave it out, and"
            f" {redo}."
        )

    def _compared(self) -> list[tuple[int, int]]:
        """Return the sources to compare with all others, with their places; of two sources only the smaller one."""
        sources = [(source, group) for source, group in self._sources.items() if group < _MOST_SOURCES - 1]
        if len(self._sources) == 2:
            return [min(self._sources.items(), key=lambda each: self._by_source[-1].rows[each[1]])]
        return sources

    def _mixed(self, group: int) -> _Sums:
        """Return the sums over the smallest strata in which a source's rows are well mixed with others."""
        enough = _MIXED * self._by_source[-1].weight[group]
        usable = [each for each in self._by_source if each.strata[group] >= _FEWEST_STRATA]
        mixed = [each for each in usable if each.weight[group] >= enough]
        return [*mixed[:1], *usable[::-1], *self._by_source][0]


class _Test(NamedTuple):
    """The test of one label in one group.

    Attributes:
        label: its place.
        rows: of the group.
        share: of the label in it.
        difference: by how much that is larger than beside them.
        p: the p-value.
    """

    label: int
    rows: int
    share: float
    difference: float
    p: float


class _Look(NamedTuple):
    """A test, and the source of the group; None: rows that were asked long before."""

    source: int | None
    test: _Test


class _Sums:
    """The sums of Mantel and Haenszel over strata of one size, for groups of rows that are compared with all others.

    Attributes:
        rows: of each group, that have others beside them.
        strata: in which each group has rows, and others have some.
        weight: of each group, in rows: half the harmonic mean of both kinds, summed over the strata.
    """

    def __init__(self, groups: int) -> None:
        labels = _MOST_LABELS + 1
        self.rows, self.strata, self.weight, self._weights = (np.zeros(groups) for _ in range(4))
        self._found, self._excess, self._variance, self._squares, self._products = (
            np.zeros((groups, labels)) for _ in range(5)
        )
        self._exact = _Exact(labels)

    def add(self, counts: _Ints, groups: int) -> None:
        """Add strata.

        Args:
            counts: rows by stratum, group and label.
            groups: of them, how many are compared: the first ones.
        """
        by_label = counts.sum(axis=1)
        rows = by_label.sum(axis=1)
        usable = rows > 1
        counts, by_label, rows = counts[usable][:, :groups], by_label[usable], rows[usable]
        own = counts.sum(axis=2)
        crossed = own * (rows[:, None] - own)
        weights = crossed / rows[:, None]
        spread = by_label * (rows[:, None] - by_label) / (rows**2 * (rows - 1))[:, None]
        excess = counts - (own / rows[:, None])[:, :, None] * by_label[:, None, :]
        part = (slice(groups), slice(by_label.shape[1]))
        self.rows[:groups] += np.where(crossed > 0, own, 0).sum(axis=0)
        self.strata[:groups] += (crossed > 0).sum(axis=0)
        self.weight[:groups] += weights.sum(axis=0)
        self._weights[:groups] += (weights**2).sum(axis=0)
        self._found[part] += (counts * (crossed > 0)[:, :, None]).sum(axis=0)
        self._variance[part] += crossed.T @ spread
        self._excess[part] += excess.sum(axis=0)
        self._squares[part] += (excess**2).sum(axis=0)
        self._products[part] += (excess * weights[:, :, None]).sum(axis=0)
        if len(self.rows) == 1 and self.rows[0] <= _MOST_EXACT:
            for stratum in np.flatnonzero(crossed[:, 0]):
                self._exact.add(int(rows[stratum]), int(own[stratum, 0]), by_label[stratum])

    def looks(self, group: int) -> list[_Test]:
        """Return the tests of one group, of all labels that are frequent enough."""
        rows, weight = int(self.rows[group]), self.weight[group]
        if self.strata[group] < _FEWEST_STRATA:
            return []
        excess, found = self._excess[group], self._found[group]
        if len(self.rows) == 1 and rows <= _MOST_EXACT:
            ps = self._exact.ps(found)
        else:
            variance = np.maximum(self._variance[group], self._spread(group))
            ps = {
                int(label): math.erfc(max(abs(excess[label]) - 0.5, 0.0) / math.sqrt(2 * variance[label]))
                for label in np.flatnonzero(variance >= _LEAST_VARIANCE)
            }
        return [
            _Test(label, rows, float(found[label]) / rows, float(excess[label]) / float(weight), p)
            for label, p in ps.items()
        ]

    def _spread(self, group: int) -> npt.NDArray[np.float64]:
        """Return the variance of the excess of each label as the strata show it, around the difference of all."""
        strata, difference = self.strata[group], self._excess[group] / self.weight[group]
        around = self._squares[group] - 2 * difference * self._products[group] + difference**2 * self._weights[group]
        spread: npt.NDArray[np.float64] = around * strata / (strata - 1)
        return spread


class _Exact:
    """The distribution of the rows of each label in a group, if its rows are any of their strata."""

    def __init__(self, labels: int) -> None:
        self._chances = np.zeros((labels, _MOST_EXACT + STRATUM + 1))
        self._chances[:, 0] = 1.0
        self._most = 0
        self._seen = 0

    def add(self, rows: int, own: int, by_label: _Ints) -> None:
        """Add a stratum: its rows, those of the group, and its rows by label."""
        if self._most + own >= self._chances.shape[1]:
            return
        before = self._chances[: len(by_label), : self._most + 1].copy()
        after = self._chances[: len(by_label), : self._most + own + 1]
        after[:] = 0.0
        for count in range(own + 1):
            chance = np.array([_hypergeometric(count, rows, own, int(each)) for each in by_label])
            after[:, count : count + self._most + 1] += before * chance[:, None]
        self._most += own
        self._seen = max(self._seen, len(by_label))

    def ps(self, found: npt.NDArray[np.float64]) -> dict[int, float]:
        """Return the two-sided p-value of each label that any of the rows could have had.

        Args:
            found: the rows of each label in the group.
        """
        ps = {}
        for label, chances in enumerate(self._chances[: self._seen]):
            count = int(found[label])
            if chances.max() < 1:
                ps[label] = float(min(1.0, 2 * min(chances[: count + 1].sum(), chances[count:].sum())))
        return ps


def _hypergeometric(count: int, rows: int, own: int, marked: int) -> float:
    """Return the chance that of `own` rows drawn from `rows`, of which some are marked, this many are marked."""
    return math.comb(marked, count) * math.comb(rows - marked, own - count) / math.comb(rows, own)


def _of_early_rows(found: Unlike) -> str:
    return (
        f"{counted(found.rows, 'row')} that were asked early (by the canary, or in an earlier sample) differ from the"
        f" rows beside them: {found.what} in {percent(found.share)}, beside them in {percent(found.beside)}. The"
        f" service may answer otherwise by now: {verb('run')} with {option('repeat_sample', 100)} asks some rows once"
        f" more, and {verb('compare')} shows how many of their answers change."
    )


def _table(strata: _Ints, groups: _Ints, labels: _Ints, of_groups: int, of_labels: int) -> _Ints:
    """Return the number of rows by stratum, group and label."""
    shape = (int(strata[-1]) + 1 if len(strata) else 0, of_groups, of_labels)
    places = (strata * of_groups + groups) * of_labels + labels
    return np.bincount(places, minlength=math.prod(shape)).reshape(shape)


def _joined(table: _Ints, size: int) -> _Ints:
    """Return a table of strata of which each is several of the given ones."""
    gap = -len(table) % size
    whole = np.concatenate([table, np.zeros((gap, *table.shape[1:]), dtype=table.dtype)]) if gap else table
    joined: _Ints = whole.reshape(-1, size, *table.shape[1:]).sum(axis=1)
    return joined


def _medians(requests: _Ints) -> _Ints:
    """Return the median id in each stratum; strata are consecutive, all but the last of the same size."""
    whole = len(requests) // STRATUM * STRATUM
    medians = np.sort(requests[:whole].reshape(-1, STRATUM), axis=1)[:, STRATUM // 2]
    if whole == len(requests):
        return medians
    return np.append(medians, np.sort(requests[whole:])[(len(requests) - whole) // 2])

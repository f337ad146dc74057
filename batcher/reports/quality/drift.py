"""How answers change along a run: labels, invalid answers and latency, by stretches of the table, by time, by endpoint.

Invariant: the rows are read once, and memory holds counts; what the order of the table may explain is no warning.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from batcher.journal.comparing import Answers, in_order, last_request, sent_at, source_names
from batcher.journal.reading import Reader
from batcher.quality.drift import Look, Table, drift
from batcher.quality.neighbours import FEWEST, Block, Neighbours
from batcher.reports.quality.along import Along, Change, Stretch

_MOST = 20
"""Stretches, at most; each has at least 100 rows."""
_FEWEST_ROWS = 100
_FINE = 512  # equal parts of the ids of requests, of which stretches of time are made
_MOST_LABELS = 100  # different answers; further ones count as one
_MOST_SOURCES = 32
_OTHERS = "(other answers)"
_TO = " to "
_NOWHERE = -1
_KINDS, _WRONG, _RIGHT = 3, 1, 2  # of rows: 0 has no hand label
_MOST_PARTS, _FEWEST_GOLD = 4, 25  # parts of the table whose accuracy is compared, and hand labels of each
_SAME = 0.8  # of the rows in the stretch of time that has the number of their stretch of the input: it is one order
# Classes of latency: eight for each doubling, from a millisecond to a day.
_SHORTEST_S, _PER_DOUBLING, _CLASSES = 0.001, 8, 216

_Ints = npt.NDArray[np.int64]


def drift_of(
    journal: Reader,
    rows: int,
    *,
    has_labels: bool,
    read: Callable[[str], str | None] | None = None,
    compares_endpoints: bool = True,
    golds: Iterable[tuple[int, bool]] = (),
) -> Along | None:
    """Return how the answers of a run change along it; None if it has too few.

    Args:
        journal: of the run; the caller holds a snapshot.
        rows: of the run.
        has_labels: the answers are labels, or texts of which few are different.
        read: returns what counts of an answer, such as a field; None: it lacks that. Default: the answer.
        compares_endpoints: rows may have been asked at any of the endpoints.
        golds: the position of each row with a hand label, and whether the answer is right.

    Raises:
        OutputError: the journal cannot be read.
    """
    count = min(_MOST, rows // _FEWEST_ROWS)
    if count < 2:
        return None
    counting = _Counting(
        rows, count, last_request(journal), has_labels=has_labels, compares_endpoints=compares_endpoints
    )
    for position, is_right in golds:
        counting.rights[position] = _RIGHT if is_right else _WRONG
    for part in in_order(journal, has_labels=has_labels, has_times=True):
        if read is not None:
            labels = [None if each is None else read(each) for each in part.labels]
            part = part._replace(labels=labels)  # noqa: PLW2901 - the same rows
        counting.add(part)
    return counting.made(journal) if counting.rows >= FEWEST else None


class _Counting:
    """Counts answers by stretches.

    Args:
        rows: of the run.
        count: stretches of the input, and at most as many of time.
        requests: the highest id of a request.
        has_labels: the answers are labels.
        compares_endpoints: rows may have been asked at any of the endpoints.

    Attributes:
        rows: that were added.
        rights: of each row of the run, whether its answer is right; a byte, which is 0 without a hand label.
    """

    def __init__(
        self, rows: int, count: int, requests: int, *, has_labels: bool, compares_endpoints: bool = True
    ) -> None:
        self.rows = 0
        self.rights = bytearray(rows)
        self._right_by_input = np.zeros((count, _KINDS), np.int64)
        self._right_by_source = np.zeros((_MOST_SOURCES, _KINDS), np.int64)
        self._of, self._count, self._requests = rows, count, requests + 1
        self._has_labels = has_labels
        self._compares_endpoints = compares_endpoints
        self._labels: dict[str, int] = {}
        self._sources: dict[int, int] = {}
        self._neighbours = Neighbours(requests)
        labels = _MOST_LABELS + 2  # the first is that of answers that are no label, the last of all others
        self._by_input = np.zeros((count, labels), np.int64)
        self._by_time = np.zeros((_FINE, labels), np.int64)
        self._crossed = np.zeros((count, _FINE), np.int64)
        self._seconds = np.zeros((_FINE, _CLASSES), np.int64)
        self._seconds_by_input = np.zeros((count, _CLASSES), np.int64)
        self._by_source = np.zeros((_MOST_SOURCES, labels), np.int64)
        self._seconds_by_source = np.zeros((_MOST_SOURCES, _CLASSES), np.int64)

    def add(self, part: Answers) -> None:
        """Count rows."""
        self.rows += len(part.positions)
        compared = part.sources if self._compares_endpoints else [0] * len(part.sources)
        self._neighbours.add(Block(part.requests, compared, part.labels))
        stretches = np.asarray(part.positions, np.int64) * self._count // self._of
        fine = np.asarray(part.requests, np.int64) * _FINE // self._requests
        labels = np.asarray([self._label(each) for each in part.labels], np.int64)
        sources = np.asarray([self._source(each) for each in part.sources], np.int64)
        is_timed = np.asarray([each is not None for each in part.seconds], bool)
        classes = _classes(np.asarray([each or 0.0 for each in part.seconds], float))
        _count(self._by_input, stretches, labels)
        _count(self._by_time, fine, labels)
        _count(self._by_source, sources, labels)
        _count(self._crossed, stretches, fine)
        rights = np.frombuffer(self.rights, np.uint8)[np.asarray(part.positions, np.int64)].astype(np.int64)
        _count(self._right_by_input, stretches, rights)
        _count(self._right_by_source, sources, rights)
        for counts, places in (
            (self._seconds, fine),
            (self._seconds_by_input, stretches),
            (self._seconds_by_source, sources),
        ):
            _count(counts, places[is_timed], classes[is_timed])

    def _label(self, label: str | None) -> int:
        if label is None:
            return 0
        if label not in self._labels and len(self._labels) >= _MOST_LABELS:
            return _MOST_LABELS + 1
        return self._labels.setdefault(label, len(self._labels) + 1)

    def _source(self, source: int) -> int:
        return self._sources.setdefault(source, min(len(self._sources), _MOST_SOURCES - 1))

    def made(self, journal: Reader) -> Along:
        names = source_names(journal)
        cuts = self._cuts()
        is_own_order = self._is_own_order(cuts)
        by_input = self._of_input()
        by_time = self._of_time(journal, cuts)
        by_source = self._of_sources(names)
        tables = [*self._tables("input", by_input, self._by_input, self._seconds_by_input)]
        if is_own_order:
            summed = (_summed(self._by_time, cuts), _summed(self._seconds, cuts))
            tables += self._tables("time", by_time, *summed)
        by_gold, right = self._of_gold(by_input)
        accuracies = _accuracies("part", right)
        if self._compares_endpoints:
            accuracies += _accuracies("endpoint", self._right_by_source[: len(by_source)])
        stretches = {"input": by_input, "time": by_time, "part": by_gold, "endpoint": by_source}
        # Hand labels are few: they are corrected for their own looks alone.
        looks = (*drift(accuracies).findings, *drift(tables).findings)
        return Along(
            rows=self.rows,
            labels=(*self._labels, *([_OTHERS] if self._by_input[:, -1].any() else [])) if self._has_labels else (),
            by_input=by_input,
            by_time=by_time,
            by_endpoint=by_source,
            is_one_order=not is_own_order,
            changes=tuple(_changes(looks, stretches)),
            warnings=tuple(self._neighbours.warnings(names)),
        )

    def _tables(self, by: str, stretches: Sequence[Stretch], counts: _Ints, seconds: _Ints) -> list[Table]:
        names = tuple(map(str, range(len(stretches))))  # those of people may be the same for several
        valid = counts[:, 1:].sum(axis=1)
        found = [Table(by, "status", names, ("ok", "invalid"), _rows(np.column_stack([valid, counts[:, 0]])))]
        if self._has_labels:
            used = np.flatnonzero(counts[:, 1:].sum(axis=0)) + 1
            labels = tuple([*self._labels, *[_OTHERS] * 2][place - 1] for place in used)
            found.append(Table(by, "label", names, labels, _rows(counts[:, used])))
        found.append(Table(by, "latency", names, _CLASS_NAMES, _rows(seconds), values=_VALUES))
        return found

    def _stretch(self, name: str, counts: _Ints, seconds: _Ints) -> Stretch:
        labels = [*self._labels, _OTHERS] if self._has_labels else []
        given = np.append(counts[1 : len(self._labels) + 1], counts[-1])
        shown = {label: int(count) for label, count in zip(labels, given, strict=False) if count}
        return Stretch(name, int(counts.sum()), int(counts[0]), shown, _median(seconds))

    def _of_input(self) -> tuple[Stretch, ...]:
        ends = [-(-place * self._of // self._count) for place in range(self._count + 1)]
        return tuple(
            self._stretch(f"rows {start:,}{_TO}{end - 1:,}", counts, seconds)
            for (start, end), counts, seconds in zip(
                pairwise(ends), self._by_input, self._seconds_by_input, strict=True
            )
        )

    def _of_gold(self, by_input: Sequence[Stretch]) -> tuple[tuple[Stretch, ...], _Ints]:
        """Return parts of the table of about as many rows with a hand label, and how many of these are right."""
        labelled = self._right_by_input[:, 1:].sum(axis=1)
        whole = int(labelled.sum())
        parts = min(_MOST_PARTS, whole // _FEWEST_GOLD)
        if parts < 2:
            return (), np.zeros((0, _KINDS), np.int64)
        ends = np.searchsorted(labelled.cumsum(), [whole * place / parts for place in range(1, parts)]) + 1
        cuts = sorted({0, *(int(end) for end in ends if end < self._count), self._count})
        names = [_joined(by_input[start].name, by_input[end - 1].name) for start, end in pairwise(cuts)]
        right = _summed(self._right_by_input, cuts)
        found = (Stretch(name, int(each[1:].sum()), 0, {}, None) for name, each in zip(names, right, strict=True))
        return tuple(found), right

    def _cuts(self) -> list[int]:
        """Return where stretches of time begin, and where the last ends, so that each has about as many rows."""
        rows = self._by_time.sum(axis=1).cumsum()
        ends = [int(np.searchsorted(rows, self.rows * place / self._count)) + 1 for place in range(1, self._count)]
        return sorted({0, *(end for end in ends if end < _FINE), _FINE})

    def _is_own_order(self, cuts: Sequence[int]) -> bool:
        """Return whether the order in which rows were asked is another than that of the table."""
        if len(cuts) - 1 != self._count:
            return False
        return bool(np.trace(_summed(self._crossed.T, cuts)) < _SAME * self.rows)

    def _of_time(self, journal: Reader, cuts: Sequence[int]) -> tuple[Stretch, ...]:
        moments = [_clock(sent_at(journal, -(-cut * self._requests // _FINE))) for cut in cuts[:-1]]
        ends = [*moments[1:], "the end"]
        return tuple(
            self._stretch(f"from {start}{_TO}{end}", counts, seconds)
            for start, end, counts, seconds in zip(
                moments, ends, _summed(self._by_time, cuts), _summed(self._seconds, cuts), strict=True
            )
        )

    def _of_sources(self, names: dict[int, str]) -> tuple[Stretch, ...]:
        return tuple(
            self._stretch(names.get(source, "an endpoint"), self._by_source[place], self._seconds_by_source[place])
            for source, place in self._sources.items()
        )


def _accuracies(by: str, right: _Ints) -> list[Table]:
    """Return the table of right and wrong answers, if there are several stretches."""
    if len(right) < 2 or not right[:, 1:].any():
        return []
    return [Table(by, "accuracy", tuple(map(str, range(len(right)))), ("wrong", "right"), _rows(right[:, 1:]))]


def _classes(seconds: npt.NDArray[np.float64]) -> _Ints:
    doublings = np.log2(np.maximum(seconds, _SHORTEST_S) / _SHORTEST_S)
    return np.minimum((doublings * _PER_DOUBLING).astype(np.int64), _CLASSES - 1)


_VALUES = tuple(_SHORTEST_S * 2 ** ((place + 0.5) / _PER_DOUBLING) for place in range(_CLASSES))
_CLASS_NAMES = tuple(f"{value:.3g} s" for value in _VALUES)


def _median(counts: _Ints) -> float | None:
    whole = int(counts.sum())
    return _VALUES[int(np.searchsorted(counts.cumsum(), whole / 2))] if whole else None


def _count(counts: _Ints, rows: _Ints, columns: _Ints) -> None:
    """Count pairs of a row and a column."""
    places = rows * counts.shape[1] + columns
    counts += np.bincount(places, minlength=counts.size).reshape(counts.shape)


def _summed(counts: _Ints, cuts: Sequence[int]) -> _Ints:
    """Add up consecutive rows between cuts."""
    return np.add.reduceat(counts, cuts[:-1], axis=0)


def _rows(counts: _Ints) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, counts.tolist()))


def _changes(looks: Sequence[Look], stretches: Mapping[str, Sequence[Stretch]]) -> list[Change]:
    """Return what was found, the largest effect first; stretches beside each other that differ alike are one."""
    by_kind: dict[tuple[str, str, str | None], dict[bool, dict[int, Look]]] = {}
    for look in looks:
        place = _NOWHERE if look.stretch is None else int(look.stretch)
        by_sign = by_kind.setdefault((look.by, look.of, look.column), {})
        by_sign.setdefault(look.effect > 0, {})[place] = look
    changes: list[tuple[float, Change]] = []
    for (by, _, _), by_sign in by_kind.items():
        of_each = (lambda places: [range(place, place + 1) for place in places]) if by == "endpoint" else _runs
        runs = sorted(((run, found) for found in by_sign.values() for run in of_each(sorted(found))), key=_start)
        if len(runs) == 2 and len(runs[0][0]) + len(runs[1][0]) == len(stretches[by]):
            runs = runs[1:]  # what the first part has less, the later one has more
        for run, found in runs:
            parts = [found[place] for place in run]
            changes.append((max(abs(look.effect) for look in parts), _change(parts, run, stretches[by])))
    return [change for _, change in sorted(changes, key=lambda pair: -pair[0])]


def _start(found: tuple[range, object]) -> int:
    return found[0].start


def _runs(places: Sequence[int]) -> list[range]:
    """Return the runs of consecutive numbers among rising ones."""
    found: list[range] = []
    for place in places:
        if found and found[-1].stop == place:
            found[-1] = range(found[-1].start, place + 1)
        else:
            found.append(range(place, place + 1))
    return found


def _change(looks: Sequence[Look], run: range, stretches: Sequence[Stretch]) -> Change:
    first, rows = looks[0], sum(look.rows for look in looks)
    name = None if first.stretch is None else _joined(stretches[run[0]].name, stretches[run[-1]].name)
    here, elsewhere = first.here, first.elsewhere
    if len(looks) > 1 and here is not None and elsewhere is not None:
        whole = sum(sum(each.labels.values()) if first.of == "label" else each.rows for each in stretches)
        here = sum((look.here or 0.0) * look.rows for look in looks) / rows
        with_it = (first.here or 0.0) * first.rows + elsewhere * (whole - first.rows)
        elsewhere = (with_it - here * rows) / max(whole - rows, 1) if first.of != "latency" else elsewhere
    return Change(first.by, first.of, name, first.column, rows, here, elsewhere, max(look.corrected for look in looks))


def _joined(first: str, last: str) -> str:
    """Return the name of consecutive stretches: `rows 0 to 99` and `rows 100 to 199` are `rows 0 to 199`."""
    start, _, end = first.partition(_TO)[0], *last.partition(_TO)[1:]
    return first if first == last else f"{start}{_TO}{end}"


def _clock(moment: float | None) -> str:
    if moment is None or not math.isfinite(moment):
        return "an unknown time"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))

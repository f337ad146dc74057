"""Pairs the rows of two runs by their cells, and counts how their answers agree.

Invariant: a row is paired only with a row of the same cells, each once; memory does not grow with the rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from batcher.journal.comparing import Marked
from batcher.reports.quality.numeric import number_of

MOST_PAIRS = 10_000
"""Different pairs of answers that are counted one by one; with labels there are far fewer."""
EXAMPLES = 3
"""Rows that are kept as examples of a pair of answers."""
_MOST_CATEGORIES = 200  # different answers: with more, they are texts and not categories
_MOST_FIELDS = 100  # of answers: a schema may leave their names to the model


class Pair(NamedTuple):
    """A row of each run, with the same cells; None if only the other run has the row."""

    first: Marked | None
    other: Marked | None


def paired(first: Iterable[Marked], other: Iterable[Marked]) -> Iterator[Pair]:
    """Pair rows that have the same mark: the first of them with the first, the second with the second.

    Args:
        first: the rows of one run, in the order of their marks.
        other: those of the other, in the same order.
    """
    these, those = iter(first), iter(other)
    this, that = next(these, None), next(those, None)
    while this is not None or that is not None:
        if that is None or (this is not None and this.mark < that.mark):
            yield Pair(this, None)
            this = next(these, None)
        elif this is None or that.mark < this.mark:
            yield Pair(None, that)
            that = next(those, None)
        else:
            yield Pair(this, that)
            this, that = next(these, None), next(those, None)


class Example(NamedTuple):
    """The positions of a row in the two runs."""

    first: int
    other: int


@dataclass
class Numbers:
    """Sums of answers that are numbers, of rows with one in both runs."""

    count: int = 0
    first: float = 0.0
    other: float = 0.0
    absolute: float = 0.0

    def add(self, first: float, other: float) -> None:
        self.count += 1
        self.first += first
        self.other += other
        self.absolute += abs(other - first)


@dataclass
class Agreement:
    """Counts of how the answers of two runs agree.

    Attributes:
        rows: paired.
        only_first, only_other: rows that only one run has.
        both: paired rows with an answer in both runs: it is `ok`, and has the field that is compared.
        agree: those of them with the same answer.
        first, other: paired rows by status, of each run; the status of a row without a result is empty.
        pairs: different pairs of answers and their rows; no further ones are counted from `MOST_PAIRS` on.
        is_whole: all pairs are counted.
        examples: rows of pairs of answers that differ.
        numbers: of the answers; None if one of them is no number.
        by_field: rows by field of the answers, and those that agree in it.
    """

    rows: int = 0
    only_first: int = 0
    only_other: int = 0
    both: int = 0
    agree: int = 0
    first: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    is_whole: bool = True
    examples: dict[tuple[str, str], list[Example]] = field(default_factory=dict)
    numbers: Numbers | None = field(default_factory=Numbers)
    by_field: dict[str, list[int]] = field(default_factory=dict)

    def add(self, first: Marked, other: Marked, read: Callable[[str], Any]) -> tuple[str | None, str | None]:
        """Count a pair of rows, and return the text of both answers; None for one that is not `ok`.

        Args:
            first: the row in one run.
            other: the row in the other.
            read: returns what is compared of an answer: a text, the fields of an object, or None if it lacks the field.
        """
        self.rows += 1
        self.first[first.status] += 1
        self.other[other.status] += 1
        this = read(first.answer) if first.status == "ok" else None
        that = read(other.answer) if other.status == "ok" else None
        first_text, other_text = _text_or_none(this), _text_or_none(that)
        if first_text is None or other_text is None:
            return first_text, other_text
        self.both += 1
        if isinstance(this, dict) and isinstance(that, dict):
            self._add_fields(this, that)
        if self.numbers is not None:
            self._add_numbers(first_text, other_text)
        self.agree += first_text == other_text
        self._add_pair((first_text, other_text), Example(first.position, other.position))
        return first_text, other_text

    def _add_pair(self, pair: tuple[str, str], example: Example) -> None:
        if pair not in self.pairs and len(self.pairs) >= MOST_PAIRS:
            self.is_whole = False
            return
        self.pairs[pair] += 1
        if pair[0] != pair[1] and len(held := self.examples.setdefault(pair, [])) < EXAMPLES:
            held.append(example)  # the rows come in the order of a hash, so these are drawn at random

    def _add_numbers(self, first: str, other: str) -> None:
        values = number_of(first), number_of(other)
        if values[0] is None or values[1] is None or self.numbers is None:
            self.numbers = None
        else:
            self.numbers.add(values[0], values[1])

    def _add_fields(self, first: dict[str, Any], other: dict[str, Any]) -> None:
        for name in first.keys() & other.keys():
            if name not in self.by_field and len(self.by_field) >= _MOST_FIELDS:
                continue
            counts = self.by_field.setdefault(name, [0, 0])
            counts[0] += 1
            counts[1] += first[name] == other[name]

    @property
    def categories(self) -> list[str]:
        """The different answers of both runs, if they are few enough to be categories; else none."""
        found = {answer for pair in self.pairs for answer in pair}
        return sorted(found) if self.is_whole and len(found) <= _MOST_CATEGORIES else []

    @property
    def differing(self) -> list[tuple[tuple[str, str], int]]:
        """The pairs of answers that differ, with their rows; the most frequent first."""
        found = [(pair, count) for pair, count in self.pairs.items() if pair[0] != pair[1]]
        return sorted(found, key=lambda each: (-each[1], each[0]))


def reading_of(field_name: str | None, *, is_object: bool) -> Callable[[str], Any]:
    """Return what reads the compared part of an answer.

    Args:
        field_name: the field that is compared; None: the whole answer.
        is_object: answers are JSON objects.
    """
    if not is_object:
        return lambda answer: answer
    if field_name is None:
        return _parsed
    return lambda answer: _field(answer, field_name)


def _parsed(answer: str) -> Any:
    try:
        return json.loads(answer)
    except ValueError:
        return answer


def _field(answer: str, name: str) -> str | None:
    found = _parsed(answer)
    value = found.get(name) if isinstance(found, dict) else None
    return None if value is None else _text(value)


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)

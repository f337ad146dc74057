"""Which rows a sample to be labelled by hand has, and which chance each row had.

Invariant: a row's number depends on the keyword, the seed, its cells and the equal rows before it alone, and a draw
takes the lowest numbers. So a larger draw holds a smaller one, also if rows were added, removed or moved meanwhile; and
within a stratum each draw is a simple random sample (Cochran 1977, chapters 2 and 5; permanent random numbers: Ohlsson
1995). Memory holds the rows that are drawn.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

from batcher.records import Stratum

_SPARE = 11
"""Of the digest's 64 bits: a float holds 53."""
_NUMBERS = 1 << 53


class Candidate(NamedTuple):
    """A row that may be drawn.

    Attributes:
        number: decides whether it is drawn; from 0 to 1.
        position: of the row.
        label: its stratum.
    """

    number: float
    position: int
    label: str | None = None


class Numbers:
    """Gives each row its number: 53 bits of the BLAKE2b of keyword, seed, the equal rows before it, and its cells.

    Args:
        keyword: of the run.
        seed: the user's.
    """

    def __init__(self, keyword: str, seed: int) -> None:
        self._seed = blake2b(f"{keyword}\0{seed}\0".encode("utf-8", "surrogatepass"), digest_size=8)

    def of(self, marks: bytes, before: int) -> float:
        """Return the number of a row, at least 0 and less than 1.

        Args:
            marks: of its cells.
            before: how many rows before it have the same marks.
        """
        digest = self._seed.copy()
        digest.update(b"%d\0" % before + marks)
        return (int.from_bytes(digest.digest()) >> _SPARE) / _NUMBERS

    def each(self, rows: Iterable[tuple[bytes, int, str | None]], *, per_label: bool) -> Iterator[Candidate]:
        """Give rows their numbers.

        Args:
            rows: the marks, the position and the label of each, in the order of marks and positions.
            per_label: each label is a stratum; else all rows are one.
        """
        latest, before = b"", 0
        for marks, position, label in rows:
            before = before + 1 if marks == latest else 0
            latest = marks
            yield Candidate(self.of(marks, before), position, label if per_label else None)

    def order(self, position: int) -> int:
        """Return what rows are sorted by for the eyes of people; it says nothing of their labels."""
        digest = self._seed.copy()
        digest.update(b"order\0%d" % position)
        return int.from_bytes(digest.digest())


class Drawn(NamedTuple):
    """What a draw took: the rows, and its strata, labels in alphabetical order, and last the rows without one."""

    rows: list[Candidate]
    strata: list[Stratum]


def draw(candidates: Iterable[Candidate], most: int) -> Drawn:
    """Draw rows at random, without replacement: of each stratum those with the lowest numbers.

    Args:
        candidates: all rows.
        most: how many to draw of each stratum; all if it has no more.
    """
    taken: dict[str | None, list[tuple[float, int]]] = {}
    rows: dict[str | None, int] = {}
    for number, position, label in candidates:
        rows[label] = rows.get(label, 0) + 1
        heap = taken.setdefault(label, [])
        if len(heap) < most:
            heapq.heappush(heap, (-number, position))
        elif heap and -heap[0][0] > number:
            heapq.heapreplace(heap, (-number, position))
    strata = sorted(taken, key=lambda label: (label is None, label))
    found = [Candidate(-number, position, label) for label in strata for number, position in taken[label]]
    return Drawn(found, [Stratum(label, rows[label], len(taken[label]), _highest(taken[label])) for label in strata])


def _highest(heap: Sequence[tuple[float, int]]) -> float:
    return -heap[0][0] if heap else 0.0


def chance_in(strata: Iterable[Stratum], number: float, label: str | None) -> float:
    """Return the chance that a row had in an earlier draw which did not take it.

    It is 0 if the draw would have taken the row's number: the row was not there then. The row is taken to have had the
    label that it has now.

    Args:
        strata: of the draw.
        number: of the row.
        label: the row's stratum.
    """
    for each in strata:
        if each.label == label:
            return each.chance if number > each.below else 0.0
    return 0.0

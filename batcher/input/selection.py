"""The rows of a table that a run is about: all of them, the first ones, a sample drawn at random, or a shard of these.

Invariant: the same keyword, number of rows and table select the same rows in every process, and a larger sample holds
the rows of a smaller one. Memory holds the places of the sample and one slice of the table.
"""

from __future__ import annotations

import heapq
import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from typing import Any

from batcher.input.dataset import Dataset
from batcher.records import Slice, Values
from batcher.shards import Part
from batcher.words import counted

_AT_ONCE = 100
"""Rows of the table in memory while those of the sample are picked from them."""

_NUMBERS = struct.Struct(">8Q")
"""The numbers in one digest of BLAKE2b: each decides about one row."""


def draw(keyword: str, rows: int, of: int) -> array[int]:
    """Draw rows at random, without replacement; return their places in the table, in ascending order.

    Each place has a number of 64 bits: eight places share a digest, the BLAKE2b of the keyword, a NUL and the place
    divided by eight, which holds their numbers in order, the highest byte first. The places with the lowest numbers are
    drawn. So a larger sample holds a smaller one, and rows that are appended to the table displace few others.

    Args:
        keyword: of the run.
        rows: how many to draw; all if the table has no more.
        of: rows of the table.
    """
    return array("q", sorted(in_drawn_order(keyword, rows, of)))


def in_drawn_order(keyword: str, rows: int, of: int) -> list[int]:
    """Return the places that `draw` draws, in the order in which larger and larger samples get them."""
    seed = blake2b(f"{keyword}\0".encode("utf-8", "surrogatepass"))

    def numbers() -> Iterator[int]:
        for block in range(-(-of // 8)):
            digest = seed.copy()
            digest.update(b"%d" % block)
            yield from _NUMBERS.unpack(digest.digest())

    lowest = heapq.nsmallest(rows, zip(numbers(), range(of), strict=False))
    return [place for _, place in lowest]


class Selection:
    """The rows of a table that a run is about. Their positions in the run are counted from 0, without gaps.

    Args:
        dataset: the table.
        keyword: of the run; it decides which rows a sample has.
        limit: only this many rows, the first ones.
        sample: only this many rows, drawn at random.
        of: rows of the table from which the sample is drawn; default: all, which are counted when it is drawn.
        part: only this part of these rows, or what makes it from their number; they are counted when it is needed.
    """

    def __init__(
        self,
        dataset: Dataset,
        keyword: str,
        *,
        limit: int | None = None,
        sample: int | None = None,
        of: int | None = None,
        part: Part | Callable[[int], Part] | None = None,
    ) -> None:
        self._dataset = dataset
        self._keyword = keyword
        self._limit = limit
        self._sample = sample
        self._given_of = of
        self._given_part = part

    @classmethod
    def recorded_in(cls, question: Mapping[str, Any], dataset: Dataset, keyword: str) -> Selection:
        """Return the selection of a run from its record, made by `recorded`."""
        drawn, mark = question.get("sample") or {}, question.get("shard")
        part = Part.recorded_in(mark) if mark else None
        limit, sample = question.get("limit"), drawn.get("rows")
        return cls(dataset, keyword, limit=limit, sample=sample, of=drawn.get("of"), part=part)

    def recorded(self) -> dict[str, Any]:
        """Return the selection as the journal records it with the run's question; counts the table if need be."""
        drawn = None if self._sample is None else {"rows": self._sample, "of": self._of}
        found: dict[str, Any] = {"limit": self._limit, "sample": drawn}
        return found if self.part is None else {**found, "shard": self.part.recorded()}

    @property
    def is_whole(self) -> bool:
        """Whether no row can be behind those of the run: all rows of the table are selected, or those of a shard."""
        return self._given_part is not None or (self._limit is None and self._sample is None)

    @property
    def places(self) -> Sequence[int] | None:
        """The places of the rows in the table, in ascending order; None if they are its first rows, or all."""
        if self._sample is not None:
            return self._places
        return None if self.part is None else range(self.part.start, self.part.start + self.part.rows)

    @property
    def drawn(self) -> int:
        """The number of rows of the sample; 0 without a sample."""
        return 0 if self._sample is None else len(self._places)

    @cached_property
    def part(self) -> Part | None:
        """The part of the rows that a shard has; None: all of them."""
        if not callable(self._given_part):
            return self._given_part
        return self._given_part(self._dataset.count(self._limit) if self._sample is None else len(self._all_places))

    def slices(self, size: int) -> Iterator[Slice]:
        """Read the selected rows in the table's order, `size` at a time; only the last slice may hold fewer.

        Raises:
            InputError: a row is invalid or the file cannot be read. What is behind the rows of the run is not checked.
        """
        is_from_start = self._sample is None and self.part is None
        return self._dataset.slices(size, self._limit) if is_from_start else self._slices(size)

    def place(self, position: int) -> int:
        """Return where a row of the run stands in the table, counted from 0."""
        places = self.places
        return position if places is None else places[position]

    def where(self, position: int) -> str:
        """Return the name of a row of the run for messages: it names the row's place in the table."""
        return self._dataset.where(self.place(position))

    def in_words(self, rows: int) -> str:
        """Return the number of rows of the run, and how they were selected: `20 rows, drawn from 3,080`."""
        drawn = "" if self._sample is None else f" drawn at random from {self._of:,}"
        part = "" if self.part is None else f" ({self.part.in_words()}{drawn})"
        return counted(rows, "row") + (part or drawn)

    @cached_property
    def _of(self) -> int:
        return self._dataset.count() if self._given_of is None else self._given_of

    @cached_property
    def _all_places(self) -> array[int]:
        return draw(self._keyword, self._sample or 0, self._of)

    @cached_property
    def _places(self) -> array[int]:
        part = self.part
        return self._all_places if part is None else self._all_places[part.start : part.start + part.rows]

    def _slices(self, size: int) -> Iterator[Slice]:
        rows, start = self._rows(), 0
        while block := list(islice(rows, size)):
            yield Slice(start, block)
            start += len(block)

    def _rows(self) -> Iterator[Values]:
        places = self.places or ()
        if isinstance(places, range):
            yield from self._rows_from(places)
            return
        begin = 0
        for part in self._dataset.slices(_AT_ONCE, places[-1] + 1 if places else 0):
            end = bisect_left(places, part.start + len(part.rows), begin)
            yield from (part.rows[place - part.start] for place in places[begin:end])
            begin = end

    def _rows_from(self, places: range) -> Iterator[Values]:
        for part in self._dataset.slices(_AT_ONCE, places.stop) if places else ():
            yield from part.rows[max(places.start - part.start, 0) :]

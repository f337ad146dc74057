"""The input's cells of a few rows, to show them beside their answers.

Invariant: cells are shown only if they are those that were asked about, by the journal's marks; they come from the
chunk files, and of rows without one from the input, if it is still there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import islice

from batcher.errors import BatcherError
from batcher.input.cell import cell, writable
from batcher.input.marks import Marks
from batcher.input.selection import Selection
from batcher.journal.entries import LastRun
from batcher.journal.reading import Reader
from batcher.output.directory import Store
from batcher.output.so_far import input_of, with_columns
from batcher.reports.pages.escape import whole
from batcher.reports.whole.facts import Cells

_LONGEST = 400
"""Characters of a cell."""
_MOST_CELLS = 6
_READ_AT_MOST = 100_000
"""Rows of the input that are read for those without a chunk file."""
_AT_ONCE = 1000


class InputCells:
    """Finds the cells of rows.

    Args:
        store: the run's files.
        journal: of the run.
        last: the latest process.
    """

    def __init__(self, store: Store, journal: Reader, last: LastRun) -> None:
        self._journal, self._question, self._size = journal, last.question, last.chunk_size
        self._chunks = journal.chunks()
        self._store = with_columns(store, self._chunks, last.question)
        self._marks = Marks(tuple(last.question.get("table", self._store.columns)))
        asked = [name for name in last.question.get("columns", ()) if name in self._marks.columns]
        others = [name for name in self._marks.columns if name not in asked]
        self._shown = [*asked, *others][: max(_MOST_CELLS, min(len(asked), 2 * _MOST_CELLS))]

    def at(self, positions: Collection[int]) -> dict[int, Cells]:
        """Return the cells of rows, as far as they are at hand, those that the question reads first."""
        found: dict[int, Sequence[str]] = {}
        for start in sorted({position - position % self._size for position in positions}):
            wanted = {position for position in positions if start <= position < start + self._size}
            found |= self._in_chunk(start, wanted)
        found |= self._in_input({*positions} - found.keys())
        return {position: tuple(self._cells(values)) for position, values in found.items()}

    def _in_chunk(self, start: int, wanted: Collection[int]) -> dict[int, Sequence[str]]:
        if start not in self._chunks or not wanted:
            return {}
        with suppress(BatcherError, OSError, ValueError), closing(self._store.lines_of(start)) as lines:
            upto = islice(enumerate(lines, start), max(wanted) - start + 1)
            split = self._store.answer_columns.split
            found = {position: split(line)[0] for position, line in upto if position in wanted}
            return {position: values for position, values in found.items() if self._is_asked(position, values)}
        return {}

    def _in_input(self, wanted: Collection[int]) -> dict[int, Sequence[str]]:
        within = {position for position in wanted if position < _READ_AT_MOST}
        if not within:
            return {}
        with suppress(BatcherError, OSError, ValueError):
            dataset = input_of(self._question)
            if dataset is None or dataset.columns != self._marks.columns:
                return {}
            found: dict[int, Sequence[str]] = {}
            selection = Selection.recorded_in(self._question, dataset, self._store.keyword)
            for start, rows in selection.slices(_AT_ONCE):
                for position in within.intersection(range(start, start + len(rows))):
                    found[position] = [writable(cell(value)) for value in rows[position - start]]
                if start + len(rows) > max(within):
                    break
            return {position: values for position, values in found.items() if self._is_asked(position, values)}
        return {}

    def _is_asked(self, position: int, values: Sequence[str]) -> bool:
        [*planned] = self._journal.marks(position, position + 1)
        return not planned or not planned[0] or self._marks.of(tuple(values)) == planned[0]

    def _cells(self, values: Sequence[str]) -> Iterator[tuple[str, str]]:
        row: Mapping[str, str] = dict(zip(self._marks.columns, values, strict=False))
        yield from ((name, cut(row[name])) for name in self._shown if row.get(name))


def cut(text: str, most: int = _LONGEST) -> str:
    """Return the beginning of a text, with what is left out counted; never half a character that UTF-8 could hold."""
    shown = whole(text)
    if len(shown) <= most:
        return shown
    return f"{shown[:most].rstrip()}\u2026 ({len(shown) - most:,} more characters)"

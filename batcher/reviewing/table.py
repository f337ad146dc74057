"""The input's cells of any row, at once: a temporary copy of the table, made beside the page's other work.

Invariant: cells are those of the plan, by their marks. Rows whose cells are not to be had are left out, never guessed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from batcher.errors import BatcherError
from batcher.input.dataset import Dataset
from batcher.input.marks import Marks
from batcher.journal.cells import Cells
from batcher.journal.entries import LastRun
from batcher.journal.looking import Looks
from batcher.output.cells_at import cells_in_chunks, cells_of_input
from batcher.output.directory import Store
from batcher.output.so_far import input_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_AT_ONCE = 500  # rows; copied in a few milliseconds, which a row that is asked for meanwhile may have to wait
_STILL = "the table is still being read"
_GONE = (
    "the cells of this row are not to be had: the input has changed or is gone, and no chunk file has the row. Give the"
    " input as it was: batcher review KEYWORD INPUT"
)


class Reading(NamedTuple):
    """How far the copy is: rows looked at, of all."""

    done: int
    of: int


class Table:
    """Copies the cells of a run's rows, and gives them out.

    Args:
        store: the files.
        looks: at the journal.
        last: the run.
        rows: of the plan.
        data: the input, if the user gave it.

    Attributes:
        columns: of the table.
        done: rows that were looked for in the input, from the first.
        is_whole: all rows were looked for wherever they may be.
        trouble: why the input cannot be read; empty if it can.
    """

    def __init__(self, store: Store, looks: Looks, last: LastRun, rows: int, data: Dataset | None = None) -> None:
        self.rows = rows
        self.done = 0
        self.is_whole = False
        self.trouble = ""
        self.columns = tuple(last.question.get("table") or store.columns)
        self._store, self._looks, self._last, self._data = store, looks, last, data
        self._marks = Marks(self.columns)
        self._cells = Cells()

    @property
    def reading(self) -> Reading | None:
        """How far the copy is; None if it is whole."""
        return None if self.is_whole else Reading(self.done, self.rows)

    def close(self) -> None:
        self._cells.close()

    # -- Making the copy

    def give_up(self, why: str) -> None:
        """Leave the copy as it is: the cells of other rows are looked for in chunk files."""
        self.trouble = why
        self.is_whole = True

    def copy(self, go_on: Callable[[], object], stops: Callable[[], bool]) -> None:
        """Copy all rows: from the input, and those that it does not have from chunk files.

        Args:
            go_on: is called when the first rows are there; the copy goes on when it returns.
            stops: says whether to stop.
        """
        try:
            dataset = self._data if self._data is not None else input_of(self._last.question)
            if dataset is not None and dataset.columns == self._marks.columns:
                self._copy_input(dataset, go_on, stops)
        except BatcherError as error:
            self.trouble = str(error)
        for start in range(0, self.rows, _AT_ONCE):
            if stops():
                return
            stop = min(start + _AT_ONCE, self.rows)
            if missing := self._cells.missing(start, stop):
                self._cells.add(self._in_chunks(missing).items())
            self._advance(stop)
        self.is_whole = True
        self._advance(self.rows)

    def _copy_input(self, dataset: Dataset, go_on: Callable[[], object], stops: Callable[[], bool]) -> None:
        for start, rows in cells_of_input(dataset, self._last, self._store.keyword, _AT_ONCE):
            if stops() or start >= self.rows:
                return
            self._cells.add(self._planned((start + number, cells) for number, cells in enumerate(rows)))
            self._advance(min(start + len(rows), self.rows))
            if start == _AT_ONCE:
                go_on()

    def _advance(self, done: int) -> None:
        self.done = max(self.done, done)

    def _planned(self, rows: Iterable[tuple[int, Sequence[str]]]) -> list[tuple[int, Sequence[str]]]:
        """Return those rows that are as they were planned."""
        rows = [*rows]
        if not rows:
            return []
        start, stop = rows[0][0], rows[-1][0] + 1
        planned = dict(enumerate(self._looks.look(lambda journal: journal.marks(start, stop)), start))
        return [(at, cells) for at, cells in rows if at in planned and self._marks.of(tuple(cells)) == planned[at]]

    def _in_chunks(self, positions: Sequence[int]) -> dict[int, list[str]]:
        def look(journal: object) -> dict[int, list[str]]:
            return cells_in_chunks(self._store, journal, self._last, positions)  # type: ignore[arg-type]

        with contextlib.suppress(BatcherError):
            return self._looks.look(look)
        return {}

    # -- Reading it

    def at(self, positions: Sequence[int]) -> dict[int, list[str]]:
        """Return the cells of rows, by their positions; those that are not to be had, or not yet, are left out."""
        found = self._cells.at(positions)
        if missing := [each for each in positions if each not in found]:
            found |= (late := self._in_chunks(missing))  # a run at work may have written a chunk file meanwhile
            if self.is_whole and late:
                with contextlib.suppress(BatcherError):  # without room in the copy they are read again
                    self._cells.add(late.items())
        return found

    def why_not(self, position: int) -> str:
        """Return why the cells of a row are not there."""
        if not self.is_whole and position >= self.done:
            return _STILL
        return f"{_GONE} ({self.trouble})" if self.trouble else _GONE

    def between(self, start: int, stop: int) -> dict[int, str]:
        """Return the cells of the rows in a range, each row in one text, with NUL between the cells."""
        return self._cells.between(start, stop)

    def text_of(self, start: int, stop: int) -> str:
        """Return all cells of the rows in a range in one text."""
        return self._cells.text_of(start, stop)

    def lacking(self, positions: NDArray[np.intp]) -> int:
        """Count the rows whose cells are not there, of some."""
        if self._cells.count() == self.rows:
            return 0
        parts = (positions[start : start + _AT_ONCE].tolist() for start in range(0, len(positions), _AT_ONCE))
        return sum(len(part) - len(self.at(part)) for part in parts)

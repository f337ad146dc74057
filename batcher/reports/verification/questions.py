"""The questions of INPUT's rows now, and in an earlier run.

Invariant: a question is made from the recorded prompt and parameters, never from the recorded keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from batcher.errors import InputError
from batcher.input.cell import cell, writable
from batcher.input.dataset import Dataset
from batcher.input.marks import Marks
from batcher.input.prompt import failed_on
from batcher.input.selection import Selection
from batcher.journal.entries import LastRun
from batcher.planning.job import ROWS_AT_ONCE
from batcher.planning.recorded import Prompt, Recorded
from batcher.records import Values


class InputRow(NamedTuple):
    """A row of INPUT.

    Attributes:
        position: from 0.
        values: as the table has them.
        cells: the values as a file holds them.
        key: of its question, or None if the question is unknown.
        hashes: without a key, the marks of the cells that the question uses.
        fault: why it could not be asked now, as far as that is known.
    """

    position: int
    values: Values
    cells: list[str]
    key: bytes | None
    hashes: bytes
    fault: str = ""


class Asked:
    """The questions of INPUT's rows.

    Args:
        dataset: INPUT.
        prompt: the function that made the prompts, or a template instead of the recorded one.
        last: the latest run.
        keyword: of the run.

    Attributes:
        dataset: INPUT.
        columns: of INPUT.
        question: their question, or None if the journal does not hold it and no prompt is given.

    Raises:
        InputError: INPUT lacks a column.
    """

    def __init__(self, dataset: Dataset, prompt: Prompt, last: LastRun, keyword: str) -> None:
        self.dataset = dataset
        self._selection = Selection.recorded_in(last.question, dataset, keyword)
        self.columns = dataset.columns
        self.question = Recorded.of(last.question, dataset, prompt)
        self._names = tuple(last.question.get("columns", ()))
        if gone := set(self._names) - set(dataset.columns):
            raise InputError(f"{dataset.name} has no column {min(gone)!r}, which the prompts used")
        self._marks = Marks(dataset.columns)
        self._marks_before = Marks(last.question.get("table", ()))

    def rows(self) -> Iterator[InputRow]:
        """Read INPUT.

        Raises:
            InputError: it cannot be read, or the prompt function failed on a row.
        """
        for start, rows in self._selection.slices(ROWS_AT_ONCE):
            if self.question and self.question.images:
                self.question.images.look_ahead(rows)
            for position, values in enumerate(rows, start):
                try:
                    row = self._row(position, values)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # a user's function may raise anything
                    raise failed_on(self._selection.where(position), error) from error
                yield row

    def _row(self, position: int, values: Values) -> InputRow:
        cells = [writable(cell(value)) for value in values]
        if self.question:
            key, fault = self.question.known(values)
            return InputRow(position, values, cells, key, b"", fault)
        return InputRow(position, values, cells, None, self._marks.cut(self._marks.of(values), self._names))

    def is_asked_by(self, row: InputRow, key: bytes, marks: bytes | None) -> bool:
        """Return whether a row of INPUT has the question of the journal's row, as far as the journal can tell.

        Args:
            row: of INPUT.
            key: of the journal's row; empty if the journal has lost it.
            marks: of the journal's row, or None if an older batcher wrote it.
        """
        if row.key is not None:
            return key in (row.key, b"")
        before = self._marks_before.cut(marks or b"", self._names)
        return not before or before == row.hashes

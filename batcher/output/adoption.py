"""Adopts chunk files that no journal knows: copied from elsewhere, left without it, or made by an older script.

Invariant: an answer is adopted only if the file fits the input; a file that does not fit is never adopted silently.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from batcher.answer.columns import AnswerColumns
from batcher.answer.reading import read, read_found
from batcher.errors import OutputError
from batcher.output.cells import difference
from batcher.output.directory import Store
from batcher.records import Completion, Result, Values
from batcher.words import as_given, counted


class AdoptedFile(NamedTuple):
    """A chunk file as it was found.

    Attributes:
        start: the position of its first row.
        rows: the number of its rows.
        sha256: of the file.
        has_input: it holds the input's columns, so that each row can be compared.
        has_status: it has the status of each row.
        added: its answer columns, if it has the status.
    """

    start: int
    rows: int
    sha256: bytes
    has_input: bool
    has_status: bool
    added: AnswerColumns = AnswerColumns()


class _Line(NamedTuple):
    """A row's line in a file: the row's position, and its cells."""

    position: int
    file: AdoptedFile
    cells: list[str]

    def __str__(self) -> str:
        return f"its row {self.position - self.file.start:,}"


class Adoption:
    """Reads chunk files together with the input, slice by slice.

    Args:
        store: the output directory.
        known: the chunk files that the journal knows, by their first row.
        chunk_size: rows per chunk; a file that holds only answers must have as many.
        is_strict: there is no journal, so each file must fit: otherwise rows would be paid for again. If False, files
            that do not fit are ignored.

    Attributes:
        files: the files that are read.

    Raises:
        OutputError: a file cannot be read, or does not fit.
    """

    def __init__(self, store: Store, known: set[int], chunk_size: int, *, is_strict: bool) -> None:
        self._store = store
        self._chunk_size = chunk_size
        self.is_strict = is_strict
        self.files: list[AdoptedFile] = []
        if is_strict and (workbooks := sorted(store.workbooks() - store.starts())):
            raise OutputError(
                f"{store.workbook_path(workbooks[0])} may hold answers, and a workbook without its journal is not read:"
                f" save it as {store.chunk_path(workbooks[0]).name} (CSV UTF-8), or move it away"
            )
        for start in sorted(store.starts() - known):
            try:
                self.files.append(self._looked_at(start))
            except OutputError:
                if is_strict:
                    raise
        self._lines = self._all_lines()
        self._line = next(self._lines, None)

    def _looked_at(self, start: int) -> AdoptedFile:
        columns, rows, sha256 = self._store.look(start)
        ours = self._store.answer_columns
        answer = ours.answer
        inputs = list(self._store.columns)
        added = AnswerColumns.ending(columns)
        if added and added.fields == ours.fields:
            added = replace(added, shape=ours.shape)  # a person may have corrected a field
        if added and columns == [*inputs, *added] and added.answer == answer:
            file = AdoptedFile(start, rows, sha256, has_input=True, has_status=True, added=added)
        elif columns == [*inputs, answer]:
            file = AdoptedFile(start, rows, sha256, has_input=True, has_status=False)
        elif columns in ([answer], ["", answer]):  # pandas writes the second: its index has no name
            file = AdoptedFile(start, rows, sha256, has_input=False, has_status=False)
            if start % self._chunk_size or rows > self._chunk_size or (rows < self._chunk_size and not self.is_strict):
                raise self._misfit(start, self._other_size(rows))
        else:
            raise self._misfit(start, f"its columns are {', '.join(map(repr, columns)) or 'missing'}")
        if self.files and self.files[-1].start + self.files[-1].rows > start:
            raise self._misfit(self.files[-1].start, f"it reaches into {self._store.chunk_path(start).name}")
        return file

    def _all_lines(self) -> Generator[_Line, None, None]:
        for file in self.files:
            for position, cells in enumerate(self._store.lines_of(file.start), file.start):
                yield _Line(position, file, cells)

    def results(self, start: int, rows: Sequence[Values]) -> Iterator[tuple[int, Result]]:
        """Return the files' results for the next slice of the input: each row's offset in it, and its result.

        Raises:
            OutputError: a row of a file differs from the input's.
        """
        while self._line and self._line.position < start + len(rows):
            offset = self._line.position - start
            if self._fits(self._line, rows[offset]):
                yield offset, self._result(self._line)
            self._line = next(self._lines, None)

    def end(self, rows: int) -> None:
        """Check the files against the number of rows of the input, when that is known.

        Raises:
            OutputError: a file holds more rows than the input, or fewer than its chunk.
        """
        self.close()
        for file in self.files if self.is_strict else ():
            if file.start + file.rows > rows:
                reach = f"it reaches to row {file.start + file.rows:,}"
                raise self._misfit(file.start, f"{reach}, and the input, or {as_given('limit')}, ends at row {rows:,}")
            if not file.has_input and file.rows < self._chunk_size and file.start + file.rows < rows:
                raise self._misfit(file.start, self._other_size(file.rows))

    def close(self) -> None:
        """Close the file that is being read."""
        self._lines.close()

    def _fits(self, line: _Line, values: Values) -> bool:
        differs = difference(self._store.columns, values, line.cells) if line.file.has_input else None
        if differs and self.is_strict:
            reason = f"{line} is not the input's row {line.position} (counted from 0): {differs}"
            raise self._misfit(line.file.start, reason)
        return differs is None

    def _result(self, line: _Line) -> Result:
        if not line.file.has_status:
            return read(Completion(line.cells[-1]), self._store.answer_columns.shape)
        added = line.file.added
        ending = added.split(line.cells)[1]
        try:
            return read_found(added.result_of(ending), self._store.answer_columns.shape)
        except ValueError:
            named = dict(zip(added, ending, strict=True))
            column = added.status
            raise self._misfit(line.file.start, f"{line} has {column} {named[column]!r}") from None

    def _other_size(self, rows: int) -> str:
        return f"it holds {counted(rows, 'answer')}, and a chunk {self._chunk_size:,} ({as_given('chunk_size')})"

    def _misfit(self, start: int, reason: str) -> OutputError:
        return OutputError(
            f"{self._store.chunk_file(start)} does not fit, and no journal tells what it answers: {reason}. Put its"
            f" journal back, move the file away, or choose another {as_given('keyword')} or {as_given('output_dir')}"
        )

"""Checks the chunk files against the journal and INPUT.

Invariant: a file is read once, together with its rows; the result must hold the same lines as the files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from batcher.input.marks import Marks
from batcher.journal.entries import Chunk
from batcher.output.csv_file import csv_line
from batcher.output.directory import Store
from batcher.output.edited import Known, Marked, UnfitError, read_edited
from batcher.records import RowState
from batcher.reports.verification.corrections import Corrections
from batcher.reports.verification.findings import Found, Kind
from batcher.reports.verification.lines import Line, Lines
from batcher.reports.verification.pairing import aligned
from batcher.reports.verification.result_file import ResultCells
from batcher.reports.verification.rows import Row
from batcher.words import counted, verb

_FORMS_KEPT = 5


class ChunkFiles:
    """Checks the chunk files.

    Args:
        store: the files.
        chunks: the files that the journal knows, by their first row.
        starts: the first row of each chunk of the latest run.
        is_finished: all rows have a result, so that every file should exist.
        result: gives the cells if INPUT is not given; None if it is.
        found: collects the findings.
        corrections: counts what was corrected by hand.

    Attributes:
        compared: the number of files that were compared.
    """

    def __init__(
        self,
        store: Store,
        chunks: dict[int, Chunk],
        starts: range,
        result: ResultCells | None,
        found: Found,
        *,
        corrections: Corrections,
        is_finished: bool,
    ) -> None:
        self._store = store
        self._chunks = chunks
        self._starts = starts
        self._result = result
        self._found = found
        self._corrections = corrections
        self._forms: list[str] = []
        self._is_finished = is_finished
        self.compared = 0

    def are_as_written(self) -> bool:
        """Return whether all files of the latest run exist unchanged."""
        return all(self._is_as_written(start, self._chunk_of(start)) for start in self._starts)

    def _is_as_written(self, start: int, chunk: Chunk | None) -> bool:
        return chunk is not None and bool(chunk.origin) and chunk.sha256 == self._store.sha256(start)

    def _chunk_of(self, start: int) -> Chunk | None:
        """Return the journal's record of a file of the latest run; None if its chunks had another size."""
        chunk = self._chunks.get(start)
        return chunk if chunk and chunk.rows == self._stop(start) - start else None

    def _stop(self, start: int) -> int:
        return min(start + self._starts.step, self._starts.stop)

    def name_others(self) -> None:
        """Report the chunk files that are not part of the result."""
        for start in sorted(self._store.starts() - set(self._starts)):
            self._found.place(Kind.FILE_EXTRA, str(self._store.chunk_path(start)))

    def notes(self) -> Iterator[str]:
        """Yield what is still to be read, or to be written in another form."""
        yield from self._forms
        for start in sorted(self._store.workbooks() & self._chunks.keys()):
            yield f"{self._store.workbook_path(start)} is not compared: {verb('run')} reads it."

    def compared_rows(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Compare the rows with their files, and yield each row as the result should hold it."""
        for start in self._starts:
            of_chunk = islice(rows, self._starts.step)
            yield from self._compared(start, of_chunk)
            yield from of_chunk  # if they could not be compared

    def _compared(self, start: int, rows: Iterator[Row]) -> Iterator[Row]:
        chunk, path = self._chunk_of(start), self._store.chunk_path(start)
        if chunk is None and not self._is_finished:
            return  # not written yet, or in chunks of another size
        sha256 = self._store.sha256(start)
        if chunk is None or sha256 is None:
            self._name_all(Kind.FILE_LOST, start, path)
            return
        self.compared += 1
        if not chunk.origin and sha256 == chunk.sha256:  # adopted, and to be written again
            self._name_all(Kind.FILE_OLD, start, path)
            return
        self._corrections.count_journalled(path, start, self._stop(start))
        if sha256 != chunk.sha256:
            yield from self._changed(start, chunk, list(rows), path)
            return
        with closing(Lines(path, self._store.answer_columns)) as lines:
            if lines.error is None and lines.header != self._store.all_columns:
                lacks_by = [*lines.header, f"{self._store.answer_columns.answer}_by"] == self._store.all_columns
                self._name_all(Kind.FILE_BEHIND if lacks_by else Kind.FILE_COLUMNS, start, path)
            else:
                yield from self._as_written(rows, lines, self._corrections.behind(start, chunk))
            if lines.error:
                self._name_all(Kind.FILE_BROKEN, start, lines.error)

    def _changed(self, start: int, chunk: Chunk, rows: list[Row], path: Path) -> list[Row]:
        """Compare a file that was changed since it was written."""
        with closing(Lines(path, self._store.answer_columns)) as lines:
            has_columns = lines.error is not None or lines.header == self._store.all_columns
            found = list(lines) if has_columns else []
            if has_columns and not lines.error:
                return self._edited(start, chunk, rows, found)
        if saved := self._in_another_form(rows, path):
            return self._edited(start, chunk, rows, saved)
        self._name_all(Kind.FILE_BROKEN if has_columns else Kind.FILE_COLUMNS, start, lines.error or path)
        return rows

    def _in_another_form(self, rows: Sequence[Row], path: Path) -> list[Line] | None:
        """Read a file that another program has saved in its own form; return None if it does not fit the rows."""
        store, added = self._store, self._store.answer_columns
        answers = [row.ending or row.journalled() or [""] * len(added) for row in rows]
        known = [row.cells for row in rows if row.cells is not None]
        marks = [(row.record and row.record.cells) or b"" for row in rows]
        originals: Known | Marked
        if len(known) == len(rows):
            originals = Known(store.columns, added, [tuple(cells) for cells in known], answers)
        else:
            originals = Marked(store.columns, added, Marks(store.columns), marks, answers)
        try:
            edited = read_edited(path, originals, is_own=store.is_own(path))
        except UnfitError:
            return None
        if not edited.is_whole:
            return None
        if len(self._forms) < _FORMS_KEPT:
            self._forms.append(f"{path} came back {edited.how}: {verb('run')} writes it in its own form again.")
        return [Line(number, *added.split(line)) for number, line in enumerate(edited.lines, 2)]

    def _name_all(self, kind: Kind, start: int, place: object) -> None:
        self._found.rows(kind, start, self._stop(start) - 1, str(place))

    def _as_written(self, rows: Iterator[Row], lines: Lines, behind: Collection[int]) -> Iterator[Row]:
        """Compare an unchanged file, which can only be older than the journal or INPUT."""
        for line, row in zip(lines, rows, strict=False):
            if not row.fits(line):
                row.name(self._found, Kind.FILE_BEHIND if row.position in behind else Kind.FILE_OLD)
            row.take(line)
            yield row

    def _edited(self, start: int, chunk: Chunk, rows: list[Row], lines: list[Line]) -> list[Row]:
        """Compare the lines of a file that was changed."""
        path = self._store.chunk_path(start)
        pairs = self._paired(start, rows, lines)
        if pairs is None:
            self._name_all(Kind.FILE_ROWS, start, f"{path} ({counted(len(lines), 'row')})")
            return rows
        in_order = [(row, line) for row, line in pairs if row and line]
        is_whole = len(in_order) == len(pairs)
        behind = self._corrections.behind(start, chunk)
        is_proven = is_whole and self._is_proven(in_order, chunk, behind)
        for row, line in pairs:
            if row and line and row.position in behind and not row.fits(line) and row.cells in (None, line.cells):
                row.name(self._found, Kind.FILE_BEHIND)
            else:
                self._compare(row, line, path, is_current=is_proven or not is_whole)
        if is_whole:
            if self._result and not is_proven and all(row.cells in (None, line.cells) for row, line in in_order):
                self._name_all(Kind.FILE_UNPROVEN, start, path)
            for row, line in in_order:
                row.take(line)
        return rows

    def _paired(self, start: int, rows: list[Row], lines: list[Line]) -> list[tuple[Row | None, Line | None]] | None:
        """Pair rows and lines by their cells; without cells by position, or return None if their numbers differ."""
        if self._result is None or self._result.fill(start, rows):
            return [*aligned(rows, lines, Row.is_in)]
        return [*zip(rows, lines, strict=True)] if len(rows) == len(lines) else None

    def _compare(self, row: Row | None, line: Line | None, path: Path, *, is_current: bool) -> None:
        """Compare a row with its line.

        Args:
            row: of the journal, or None.
            line: of the file, or None.
            path: of the file.
            is_current: the file was made from the journal's answers, so that another answer is a correction.
        """
        if row is None:
            self._found.place(Kind.FILE_MORE, f"{path}, line {line.number if line else 0}")
        elif line is None:
            row.name(self._found, Kind.FILE_LACKS, str(path))
        elif not row.fits(line):
            row.is_edited = True
            is_input = row.cells in (None, line.cells)
            if not is_input:
                row.name(self._found, Kind.FILE_CELLS, f"{path}, line {line.number}")
            elif not is_current:
                row.name(self._found, Kind.FILE_OLD, f"{path}, line {line.number}")
            elif not self._corrections.accept(path, row.ending or [], line.ending):
                row.name(self._found, Kind.FILE_ANSWER, f"{path}, line {line.number}")

    def _is_proven(self, pairs: list[tuple[Row, Line]], chunk: Chunk, behind: Mapping[int, int]) -> bool:
        """Return whether the file was made from these rows and from the answers that the journal has now.

        Those in `behind` were corrected since. Even if all answers are the same, they may be next to other cells than
        originally.
        """
        written = [csv_line(line.cells if row.cells is None else row.cells) for row, line in pairs]
        states = [
            RowState(row.record.key, behind.get(row.position, row.record.result)) if row.record else RowState(b"", None)
            for row, _ in pairs
        ]
        return any(chunk.made_from == store.origin(written, states) for store in self._store.in_each_encoding())

"""Checks the chunk files against the journal and INPUT.

Invariant: a file is read once, together with its rows; the result must hold the same lines as the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from batcher.journal.entries import Chunk
from batcher.output.csv_file import csv_line
from batcher.output.directory import Store
from batcher.records import RowState
from batcher.reports.verification.findings import Found, Kind
from batcher.reports.verification.lines import Line, Lines
from batcher.reports.verification.pairing import aligned
from batcher.reports.verification.result_file import ResultCells
from batcher.reports.verification.rows import Row
from batcher.words import counted


class ChunkFiles:
    """Checks the chunk files.

    Args:
        store: the files.
        chunks: the files that the journal knows, by their first row.
        starts: the first row of each chunk of the latest run.
        is_finished: all rows have a result, so that every file should exist.
        result: gives the cells if INPUT is not given; None if it is.
        found: collects the findings.

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
        is_finished: bool,
    ) -> None:
        self._store = store
        self._chunks = chunks
        self._starts = starts
        self._result = result
        self._found = found
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
        with closing(Lines(path, self._store.answer_columns)) as lines:
            if lines.error is None and lines.header != self._store.all_columns:
                self._name_all(Kind.FILE_COLUMNS, start, path)
            elif sha256 == chunk.sha256:
                yield from self._as_written(rows, lines)
            else:
                found = list(lines)
                if not lines.error:
                    yield from self._edited(start, chunk, list(rows), found)
            if lines.error:
                self._name_all(Kind.FILE_BROKEN, start, lines.error)

    def _name_all(self, kind: Kind, start: int, place: object) -> None:
        self._found.rows(kind, start, self._stop(start) - 1, str(place))

    def _as_written(self, rows: Iterator[Row], lines: Lines) -> Iterator[Row]:
        """Compare an unchanged file, which can only be older than the journal or INPUT."""
        for line, row in zip(lines, rows, strict=False):
            if not row.fits(line):
                row.name(self._found, Kind.FILE_OLD)
            row.take(line)
            yield row

    def _edited(self, start: int, chunk: Chunk, rows: list[Row], lines: list[Line]) -> list[Row]:
        """Compare a file that was changed since it was written."""
        path = self._store.chunk_path(start)
        pairs = self._paired(start, rows, lines)
        if pairs is None:
            self._name_all(Kind.FILE_ROWS, start, f"{path} ({counted(len(lines), 'row')})")
            return rows
        in_order = [(row, line) for row, line in pairs if row and line]
        for row, line in pairs:
            self._compare(row, line, path)
        if len(in_order) == len(pairs):
            if self._result and not self._is_proven(in_order, chunk):
                self._name_all(Kind.FILE_UNPROVEN, start, path)
            for row, line in in_order:
                row.take(line)
        return rows

    def _paired(self, start: int, rows: list[Row], lines: list[Line]) -> list[tuple[Row | None, Line | None]] | None:
        """Pair rows and lines by their cells; without cells by position, or return None if their numbers differ."""
        if self._result is None or self._result.fill(start, rows):
            return [*aligned(rows, lines, Row.is_in)]
        return [*zip(rows, lines, strict=True)] if len(rows) == len(lines) else None

    def _compare(self, row: Row | None, line: Line | None, path: Path) -> None:
        if row is None:
            self._found.place(Kind.FILE_MORE, f"{path}, line {line.number if line else 0}")
        elif line is None:
            row.name(self._found, Kind.FILE_LACKS, str(path))
        elif not row.fits(line):
            is_answer = row.ending not in (None, line.ending)
            row.name(self._found, Kind.FILE_ANSWER if is_answer else Kind.FILE_CELLS, f"{path}, line {line.number}")
            row.is_edited = True

    def _is_proven(self, pairs: list[tuple[Row, Line]], chunk: Chunk) -> bool:
        """Return whether the file has its original cells, or the differing ones have been reported.

        Even if all answers are the same, they may be next to other cells than originally.
        """
        if any(row.cells not in (None, line.cells) for row, line in pairs):
            return True
        written = [csv_line(line.cells) for _, line in pairs]
        records = [row.record for row, _ in pairs]
        states = [RowState(each.key, each.result) if each else RowState(b"", None) for each in records]
        return chunk.origin == self._store.origin(written, states)

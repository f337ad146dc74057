"""Checks `all_<keyword>.csv` against the chunk files, or against journal and INPUT if a chunk file cannot be compared.

Invariant: it is read line by line only if it differs, byte for byte, from the join of the chunk files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice

from batcher.output.directory import Store
from batcher.reports.verification.findings import Found, Kind
from batcher.reports.verification.lines import Line, Lines
from batcher.reports.verification.pairing import aligned
from batcher.reports.verification.rows import Row


def check_result(rows: Iterator[Row], store: Store, starts: Iterable[int], found: Found, *, is_read: bool) -> None:
    """Compare the result with the rows as it should hold them.

    Args:
        rows: read as far as the result is.
        store: the files.
        starts: the first row of each chunk.
        found: collects the findings.
        is_read: compare line by line even if it equals the join of the chunk files, because these may be wrong.
    """
    if not store.all_path.exists():
        found.place(Kind.ALL_LOST, str(store.all_path))
    elif is_read or not store.is_joined(starts):
        _compare(rows, store, found)


def _compare(rows: Iterator[Row], store: Store, found: Found) -> None:
    path = store.all_path
    with closing(Lines(path, store.answer_columns)) as lines:
        if lines.error is None and lines.header != store.all_columns:
            found.place(Kind.ALL_COLUMNS, str(path))
            return
        for row, line in aligned(rows, lines, Row.is_in):
            if row is None:
                found.place(Kind.ALL_MORE, f"{path}, line {line.number if line else 0}")
            elif line is None and lines.error is None:
                found.rows(Kind.ALL_LACKS, row.position, place=str(path))
            elif line and not row.fits(line) and not _is_of_before(row, line):
                found.rows(Kind.ALL_OTHER, row.position, place=f"{path}, line {line.number}")
        if lines.error:
            found.place(Kind.ALL_BROKEN, str(lines.error))


def _is_of_before(row: Row, line: Line) -> bool:
    """Return whether the result has a row as it was before a change of its chunk file, which is reported already."""
    return row.is_edited and row.journalled() in (None, line.ending)


class ResultCells:
    """Gives rows their cells from the result if INPUT is not given.

    Args:
        store: the files.
        rows: of the run. A result with more or fewer rows is not used: after a missing row all would seem to differ.
    """

    def __init__(self, store: Store, rows: int) -> None:
        self._store = store
        self._rows = rows
        self._end = 0
        self._lines: Iterator[Line] | None = None

    def fill(self, start: int, rows: list[Row]) -> bool:
        """Give rows their cells from the result, if its answers agree with the journal.

        Args:
            start: the position of the first; higher in each call than in the one before.
            rows: as the journal has them.
        """
        if self._lines is None:
            self._lines = self._open()
        deque(islice(self._lines, start - self._end), maxlen=0)
        self._end = start + len(rows)
        lines = list(islice(self._lines, len(rows)))
        if len(lines) != len(rows) or not all(map(Row.fits, rows, lines)):
            return False
        for row, line in zip(rows, lines, strict=True):
            row.cells = line.cells
        return True

    def _open(self) -> Iterator[Line]:
        path, added = self._store.all_path, self._store.answer_columns
        with closing(Lines(path, added)) as lines:
            is_whole = sum(1 for _ in lines) == self._rows and lines.error is None
        is_ours = lines.header == self._store.all_columns
        return iter(Lines(path, added)) if is_whole and is_ours else iter(())

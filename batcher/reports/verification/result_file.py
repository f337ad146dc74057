"""Checks `all_<keyword>.csv` against the chunk files, or against journal and INPUT if a chunk file cannot be compared.

Invariant: it is read line by line only if it differs, byte for byte, from the join of the chunk files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice

from batcher.errors import OutputError
from batcher.output.directory import Store
from batcher.planning.job import ROWS_AT_ONCE
from batcher.reports.verification.findings import Found, Kind
from batcher.reports.verification.lines import Line, Lines
from batcher.reports.verification.pairing import aligned
from batcher.reports.verification.rows import Row

FactsOf = Callable[[int, int, Sequence[str]], list[list[str]]]
"""Returns the cells of facts, which are named, for the rows in a range of positions."""


def _uncompared(_start: int, _stop: int, _names: Sequence[str]) -> list[list[str]]:
    return []


def check_result(
    rows: Iterator[Row],
    store: Store,
    starts: Iterable[int],
    found: Found,
    *,
    is_read: bool,
    facts_of: FactsOf = _uncompared,
) -> None:
    """Compare the result with the rows as it should hold them.

    Args:
        rows: read as far as the result is.
        store: the files.
        starts: the first row of each chunk.
        found: collects the findings.
        is_read: compare line by line even if it equals the join of the chunk files, because these may be wrong.
        facts_of: reads the facts in further columns; default: they are not compared.
    """
    if not store.all_path.exists():
        found.place(Kind.ALL_LOST, str(store.all_path))
    elif is_read or not store.is_joined(starts):
        _compare(rows, store, found, facts_of)


def _compare(rows: Iterator[Row], store: Store, found: Found, facts_of: FactsOf) -> None:
    path = store.all_path
    with closing(Lines(path, store.answer_columns, is_result=True)) as lines:
        if lines.error is None and lines.header != store.all_columns:
            found.place(Kind.ALL_COLUMNS, str(path))
            return
        facts = _Facts(facts_of, lines.facts)
        for row, line in aligned(rows, lines, Row.is_in):
            if row is None:
                found.place(Kind.ALL_MORE, f"{path}, line {line.number if line else 0}")
            elif line is None and lines.error is None:
                found.rows(Kind.ALL_LACKS, row.position, place=str(path))
            elif (line and not (row.fits(line) or _is_of_before(row, line))) or (line and not facts.fit(row, line)):
                found.rows(Kind.ALL_OTHER, row.position, place=f"{path}, line {line.number}")
        if lines.error:
            found.place(Kind.ALL_BROKEN, str(lines.error))


def _is_of_before(row: Row, line: Line) -> bool:
    """Return whether the result has a row as it was before a change of its chunk file, which is reported already."""
    return row.is_edited and row.journalled() in (None, line.ending)


def check_vectors(store: Store, found: Found) -> None:
    """Compare the file of all vectors with the result."""
    path = store.npy_path
    if not path.exists():
        found.place(Kind.NPY_LOST, str(path))
        return
    try:
        if not store.all_path.exists() or store.are_vectors_joined():
            return
    except OutputError:
        pass
    found.place(Kind.NPY_OTHER, str(path))


class _Facts:
    """Compares the further columns of a result with the journal.

    Args:
        read: reads facts of the journal.
        names: of the facts in these columns.
    """

    def __init__(self, read: FactsOf, names: Sequence[str]) -> None:
        self._read = read
        self._names = names
        self._start = 0
        self._cells: list[list[str]] = []

    def fit(self, row: Row, line: Line) -> bool:
        """Return whether a line has the facts of a row. Rows come in their order."""
        if not self._names:
            return True
        if not self._start <= row.position < self._start + len(self._cells):
            self._start = row.position
            self._cells = self._read(self._start, self._start + ROWS_AT_ONCE, self._names)
        at = row.position - self._start
        return at >= len(self._cells) or self._cells[at] == [*line.facts]


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
        with closing(Lines(path, added, is_result=True)) as lines:
            is_whole = sum(1 for _ in lines) == self._rows and lines.error is None
        is_ours = lines.header == self._store.all_columns
        return iter(Lines(path, added, is_result=True)) if is_whole and is_ours else iter(())

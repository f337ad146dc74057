"""Reads the rows of a run once: each row of the journal together with its row of INPUT.

Invariant: every position of the run comes once and in order, even if the journal or INPUT has lost its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from batcher.answer.columns import AnswerColumns
from batcher.input.cell import writable
from batcher.journal.entries import RowRecord
from batcher.journal.evidence import Evidence
from batcher.planning.job import ROWS_AT_ONCE
from batcher.reports.verification.findings import Found, Kind
from batcher.reports.verification.lines import Line
from batcher.reports.verification.pairing import aligned
from batcher.reports.verification.questions import Asked, InputRow


class Row:
    """A row that passes through the checks.

    Attributes:
        position: from 0.
        record: the journal's record, or None if the journal has lost the row.
        asked: its row of INPUT, or None.
        cells: the input's cells as a file holds them, or None if they are unknown.
        ending: the cells of the answer columns as a file holds them, or None if they are unknown.
        is_named: a check has reported it; later checks do not.
        is_edited: its line in the chunk file was changed.
    """

    __slots__ = ("_added", "asked", "cells", "ending", "is_edited", "is_named", "position", "record")

    def __init__(self, position: int, added: AnswerColumns, record: RowRecord | None = None) -> None:
        self.position = position
        self.record = record
        self._added = added
        self.asked: InputRow | None = None
        self.cells: list[str] | None = None
        self.ending: list[str] | None = None
        self.is_named = False
        self.is_edited = False

    def name(self, found: Found, kind: Kind, place: str = "") -> None:
        """Report its fault, unless an earlier check has reported the row."""
        if not self.is_named:
            found.rows(kind, self.position, place=place)
            self.is_named = True

    def fits(self, line: Line) -> bool:
        """Return whether a file's line agrees with the row, as far as the row is known."""
        return self.cells in (None, line.cells) and self.ending in (None, line.ending)

    def is_in(self, line: Line) -> bool:
        """Return whether a file's line is about this row; its answer may have been corrected by hand."""
        return self.fits(line) if self.cells is None else self.cells == line.cells

    def take(self, line: Line) -> None:
        """Expect from now on the contents of its line in the chunk file."""
        self.cells, self.ending = line.cells, line.ending

    def journalled(self) -> list[str] | None:
        """Return the cells of the answer columns from the journal, right or wrong; None if they are gone."""
        record = self.record
        if record is None or record.found is None:
            return None
        answer, status, error, *beside = (
            _text(part) for part in (record.answer, record.status, record.error, *record.beside)
        )
        return [*map(writable, self._added.cells(answer, status, error, beside))]


Check = Callable[[Row], Kind | None]
"""Returns the fault of a row, or None."""


def read_rows(journal: Evidence, scope: int, asked: Asked | None, found: Found, added: AnswerColumns) -> Iterator[Row]:
    """Read the rows of journal and INPUT together, and report rows that only INPUT has.

    Args:
        journal: of the run.
        scope: rows of the run.
        asked: the questions of INPUT, if it is given.
        found: collects the findings.
        added: the answer columns of the files.
    """
    if asked is None:
        yield from _journalled(journal, scope, added)
        return

    def same(row: Row, other: InputRow) -> bool:
        record = row.record
        return asked.is_asked_by(other, record.key, record.cells) if record else asked.is_asked_by(other, b"", None)

    for row, other in aligned(_journalled(journal, scope, added), asked.rows(), same):
        if row is not None:
            row.asked = other
            if other and same(row, other):
                row.cells = other.cells
            yield row
        elif other is not None:
            found.rows(Kind.INPUT_MORE, other.position)


def _journalled(journal: Evidence, scope: int, added: AnswerColumns) -> Iterator[Row]:
    end = 0
    for start in range(0, scope, ROWS_AT_ONCE):
        for record in journal.records(start, min(start + ROWS_AT_ONCE, scope), added.extras):
            yield from (Row(position, added) for position in range(end, record.position))
            end = record.position + 1
            yield Row(record.position, added, record)
    yield from (Row(position, added) for position in range(end, scope))


def checked(rows: Iterator[Row], checks: Sequence[Check], found: Found) -> Iterator[Row]:
    """Check each row, and report it with the first check that it fails."""
    for row in rows:
        for check in checks:
            if kind := check(row):
                row.name(found, kind)
                break
        yield row


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # a disk has changed it
        return value.decode("utf-8", "replace")

"""Compares the input's cells in a chunk file with the input.

Invariant: the first cell that differs is named.
"""

from __future__ import annotations

from collections.abc import Sequence

from batcher.input.cell import cell, writable
from batcher.input.marks import Marks
from batcher.records import Values

_LONGEST_SHOWN = 60  # characters of a cell in a message


def difference(columns: Sequence[str], values: Values, line: Sequence[str]) -> str | None:
    """Return in which cell a line differs from a row of the input, or None.

    Args:
        columns: of the input.
        values: of the row.
        line: its cells, the input's first.
    """
    expected = [writable(cell(value)) for value in values]
    if expected == [*line[: len(expected)]]:
        return None
    differing = (each for each in zip(columns, expected, line, strict=False) if each[1] != each[2])
    column, ours, theirs = next(differing)
    return f"column {column!r}: the file has {short(theirs)}, the input has {short(ours)}"


def difference_by_marks(marks: Marks, planned: bytes, cells: Sequence[str]) -> str | None:
    """Return in which column a line differs from a row of which only the marks are known, or None.

    Args:
        marks: makes the marks of the table.
        planned: the marks of the row.
        cells: the input's cells of the line.
    """
    changed = marks.differing(planned, marks.of(tuple(cells)))
    return f"column {changed[0]!r}: the cell differs from the input's" if changed else None


def short(text: str) -> str:
    return repr(text) if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]!r}..."

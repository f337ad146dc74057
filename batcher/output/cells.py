"""Checks that the input's cells in a chunk file are unchanged.

Invariant: only answers may be corrected by hand; the first other cell that differs is named, with its file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from batcher.errors import OutputError
from batcher.input.cell import cell, writable
from batcher.input.marks import Marks
from batcher.records import Values
from batcher.words import verb

T = TypeVar("T")

_LONGEST_SHOWN = 60  # characters of a cell in a message


def check_cells(
    path: Path,
    lines: Iterable[tuple[int, list[str]]],
    rows: Iterable[T],
    difference: Callable[[T, list[str]], str | None],
) -> None:
    """Check that the lines of a changed chunk file are about the rows of the run.

    Args:
        path: of the file.
        lines: its rows, each with the number of its first line.
        rows: the data of the input's rows; as many.
        difference: returns which cell of a line differs from its row, and how, or None.

    Raises:
        OutputError: a cell differs from the input's; the message names it.
    """
    for (number, line), row in zip(lines, rows, strict=True):
        if differs := difference(row, line):
            raise OutputError(
                f"{path}, line {number}, {differs}. In a chunk file only answers may be corrected: put the input's"
                f" cells back, or move the file away, and {verb('run')} writes it again from the journal"
            )


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
    return f"column {column!r}: the file has {_short(theirs)}, the input has {_short(ours)}"


def difference_by_marks(marks: Marks, planned: bytes, cells: Sequence[str]) -> str | None:
    """Return in which column a line differs from a row of which only the marks are known, or None.

    Args:
        marks: makes the marks of the table.
        planned: the marks of the row.
        cells: the input's cells of the line.
    """
    changed = marks.differing(planned, marks.of(tuple(cells)))
    return f"column {changed[0]!r}: the cell differs from the input's" if changed else None


def _short(text: str) -> str:
    return repr(text) if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]!r}..."

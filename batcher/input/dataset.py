"""The input table as the rest of batcher sees it, and what its kinds share.

Invariant: every pass yields the same rows, each exactly once, whole and in the table's order, or stops with an
InputError that names the place. No row is skipped, repaired or guessed, and at most one slice of a file is in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from batcher.errors import InputError
from batcher.input.labels import Labels
from batcher.input.types import Types
from batcher.records import Slice, Values
from batcher.words import counted

_AT_ONCE = 100
"""Rows in memory while they are counted."""


class Dataset(ABC):
    """A table that can be read from its start as often as needed.

    Attributes:
        name: its name in messages: a file's path as given, or for example `the DataFrame`.
        columns: the names of the columns, all different and none empty.
        row_labels: the index of its rows, if it has one; else rows are known by their number.
        paths: its files; none for a table in memory.
        is_copy: its file has no place of its own: it holds what came through a pipe.
        sheet: the name of the sheet, if it is in a workbook.
        may_hold_added_nulls: its values come from Arrow, which gives each dictionary in a list all keys of all others.
    """

    name: str
    columns: tuple[str, ...]
    row_labels: Labels | None = None
    paths: tuple[Path, ...] = ()
    is_copy: bool = False
    sheet: str | None = None
    may_hold_added_nulls = False

    def slices(self, size: int, limit: int | None = None) -> Iterator[Slice]:
        """Read the table from its beginning, `size` rows at a time; only the last slice may hold fewer.

        Args:
            size: rows in a slice, at least 1.
            limit: read at most the first `limit` rows; the rest of the file is not checked.

        Raises:
            InputError: a row is invalid or the file cannot be read; the message names the file and the line.
        """
        if size < 1:
            raise ValueError(f"a slice needs at least one row, not {size}")
        return self._cut(size, limit)

    def count(self, limit: int | None = None) -> int:
        """Count the rows, or at most so many: without reading them if the table knows their number.

        Raises:
            InputError: as for `slices`.
        """
        return sum(len(part.rows) for part in self.slices(_AT_ONCE, limit))

    def where(self, position: int) -> str:
        """Return the name of a row for messages."""
        return f"{self.name}, row {position} (counted from 0)"

    def _cut(self, size: int, limit: int | None) -> Iterator[Slice]:
        with closing(self._rows()) as rows:
            wanted = islice(rows, limit)
            start = 0
            while block := list(islice(wanted, size)):
                yield Slice(start, block)
                start += len(block)

    def has_changed(self) -> bool:
        """Return whether the file was replaced or written since it was opened; False for a table in memory."""
        return False

    def would_take(self, _path: Path) -> bool:
        """Return whether a new file at this path would become a part of the table."""
        return False

    def types(self) -> Types:
        """Return the types of the columns; text if the table does not say them."""
        return Types.of_texts(self.columns)

    @abstractmethod
    def _rows(self) -> Generator[Values, None, None]:
        """Read every row from the beginning."""


def columns_of(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Check that every column has a name of its own."""
    columns = tuple(names)
    if "" in columns:
        raise InputError(
            f"{name}: column {columns.index('') + 1} of {len(columns)} has no name: give it one, or drop it "
            "(pandas writes such a column unless told `to_csv(..., index=False)`)"
        )
    twice = [repr(column) for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise InputError(f"{name}: more than one column is named {', '.join(twice)}: rename all but one")
    return columns


def check_has_columns(name: str, columns: tuple[str, ...], rows: int) -> None:
    if rows and not columns:
        raise InputError(f"{name}: has {counted(rows, 'row')} but no column: there is nothing to send")

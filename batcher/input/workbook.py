"""A table in a sheet of an Excel workbook.

Invariant: a row of the table is a row of the sheet, and a cell that stands outside the named columns is an error that
names it. Rows are streamed.
"""

from __future__ import annotations

import difflib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from itertools import repeat
from pathlib import Path

from batcher.errors import InputError
from batcher.input.excel import UNREADABLE, Book, Merged, Uncomputed, cell_name
from batcher.input.file import FileDataset
from batcher.input.formats import OLE, format_of, trouble
from batcher.records import Values
from batcher.words import blamed


class WorkbookDataset(FileDataset):
    """A sheet of an .xlsx file; its first row that is not empty holds the names of the columns.

    Args:
        name: the path of the file.
        sheet: the name of the sheet; default: the first one that is not hidden.

    Raises:
        InputError: it is no workbook or has no such sheet, or a column has no name of its own.
    """

    sheet: str

    def __init__(self, name: str, sheet: str | None = None) -> None:
        super().__init__(name)
        with self._opened() as book:
            self.sheet = _chosen(self.name, book, sheet)
            self._merged = book.merged(self.sheet)
        with closing(self._lines()) as lines:
            self._header, cells = next(((number, row) for number, row in lines if any(row)), (0, []))
        if not cells:
            raise InputError(f"{self._place}: the sheet is empty: its first row must hold the names of the columns")
        self._first = next(number for number, text in enumerate(cells) if text)
        self.columns = self._names(cells)

    @property
    def _place(self) -> str:
        return f"{self.name}, sheet {self.sheet!r}"

    def where(self, position: int) -> str:
        return f"{self._place}, row {position} (counted from 0; row {self._header + 1 + position} of the sheet)"

    def _rows(self) -> Generator[Values, None, None]:
        end = self._first + len(self.columns)
        empty = ("",) * len(self.columns)
        expected = self._header + 1  # empty rows count only if another row follows
        with closing(self._lines()) as lines:
            for number, texts in lines:
                if number <= self._header or not any(texts):
                    continue
                for column, text in enumerate(texts):
                    if text and not self._first <= column < end:
                        raise self._outside(number, column)
                yield from repeat(empty, number - expected)
                expected = number + 1
                yield (*texts[self._first : end], *empty[len(texts) - self._first :])

    def _outside(self, number: int, column: int) -> InputError:
        return InputError(
            f"{self._place}: cell {cell_name(number, column)} has a value, but cell"
            f" {cell_name(self._header, column)} gives its column no name: name it, or move the cell to another sheet"
            " (a title above the names must go, too)"
        )

    def _names(self, cells: list[str]) -> tuple[str, ...]:
        """Return the names of the columns: the cells from the first to the last that is not empty."""
        places: dict[str, str] = {}
        last = max(column for column, name in enumerate(cells) if name)
        for column in range(self._first, last + 1):
            name, place = cells[column], cell_name(self._header, column)
            if not name:
                raise InputError(f"{self._place}: cell {place} is empty: it must hold the name of its column")
            if name in places:
                raise InputError(
                    f"{self._place}: cells {places[name]} and {place} both name a column {name!r}: rename one"
                )
            places[name] = place
        return tuple(places)

    @contextmanager
    def _opened(self) -> Iterator[Book]:
        try:
            opened = Path(self.path).open("rb")  # noqa: SIM115 - it is closed below
        except OSError as error:
            raise InputError(f"{self.name}: cannot be opened: {error.strerror}") from error
        with opened as file:
            if (beginning := file.read(len(OLE))) == OLE and (found := format_of(beginning, self.path)):
                raise InputError(f"{self.name}: is {found.refusal(self.name)}")
            try:
                yield Book(file)
            except ImportError as error:
                raise InputError(f'{self.name}: a workbook needs openpyxl: pip install "batcher-llm[excel]"') from error
            except UNREADABLE as error:
                said = trouble(self.name, self.path, "xlsx")
                raise InputError(f"{self.name}: cannot be read as an Excel workbook: {said}") from error

    def _lines(self) -> Generator[tuple[int, list[str]], None, None]:
        """Read the rows of the sheet that are not missing in the file, each with its number, from 1."""
        below = _Below(self._merged)
        with self._opened() as book:
            if self.sheet not in book.sheets:
                raise InputError(f"{self._place}: the sheet has gone since the file was opened: start again")
            try:
                for number, texts in book.rows(self.sheet):
                    yield from below.gap(number)
                    yield number, below.filled(number, texts)
                yield from below.gap(None)
            except Uncomputed as error:
                raise InputError(
                    f"{self._place}: cell {error} holds a formula that was never computed: open the file in Excel or"
                    " LibreOffice, and save it"
                ) from None


def _chosen(name: str, book: Book, wanted: str | None) -> str:
    sheets = book.sheets
    if not sheets:
        raise InputError(f"{name}: has no sheet with cells")
    if wanted is None:
        return next((title for title, is_visible in sheets.items() if is_visible), next(iter(sheets)))
    if wanted not in sheets:
        near = difflib.get_close_matches(wanted, sheets, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"{blamed('sheet')}: {name} has no sheet {wanted!r}; its sheets are: {', '.join(map(repr, sheets))}{meant}"
        )
    return wanted


class _Below:
    """Gives each row of merged cells the text of the first: the merged cell belongs to all of them."""

    def __init__(self, merged: list[Merged]) -> None:
        self._coming = iter(merged)
        self._next = next(self._coming, None)
        self._open: list[tuple[Merged, str]] = []
        self._number = 0  # of the last row

    def gap(self, number: int | None) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows before this one, or at the end, that have no cells of their own but a merged one's text."""
        last = max((merged.last for merged, text in self._open if text), default=0)
        for between in range(self._number + 1, min(last + 1, number or last + 1)):
            yield between, self.filled(between, [])

    def filled(self, number: int, texts: list[str]) -> list[str]:
        self._number = number
        self._open = [each for each in self._open if each[0].last >= number]
        for merged, text in self._open:
            texts += [""] * (merged.column + 1 - len(texts))
            texts[merged.column] = texts[merged.column] or text
        while self._next is not None and self._next.first <= number:
            if self._next.column < len(texts):
                self._open.append((self._next, texts[self._next.column]))
            self._next = next(self._coming, None)
        return texts

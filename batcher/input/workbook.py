"""A table in a sheet of an Excel workbook.

Invariant: a cell is the text that a person sees in it, and a cell that has no such text, or stands outside the table's
columns, is an error that names it. Rows are streamed; openpyxl holds the workbook's different texts.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
import warnings
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from itertools import repeat
from typing import Any, NamedTuple

from batcher.errors import InputError
from batcher.input.file import FileDataset, open_bytes
from batcher.records import Values
from batcher.words import option

_UNREADABLE = (OSError, ValueError, LookupError, TypeError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error)
"""What openpyxl raises for a broken workbook; a SyntaxError is one of its XML."""

_FORMULA = re.compile(rb"<(?:\w+:)?f[ >/]")
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell [^>]*?ref="([A-Z]+)([0-9]+):[A-Z]+([0-9]+)"')
_LONGEST_TAG = 256  # bytes; of those that are searched for
_PIECE = 2**20  # bytes of a sheet's XML in memory at a time
_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")
_ZEROS = re.compile("0{2,}")  # a number format that shows 7 as 007
_OLE = b"\xd0\xcf\x11\xe0"  # how .xls files begin, and encrypted workbooks


class Merged(NamedTuple):
    """Cells below each other that are merged: row numbers from 1, and the column, from 0."""

    first: int
    last: int
    column: int


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
            self.sheet = _chosen(name, book, sheet)
            self._has_formulas, self._merged = _facts(book, book[self.sheet])
        with closing(self._lines()) as lines:
            self._header, cells = next(((number, row) for number, row in lines if any(row)), (0, []))
        if not cells:
            raise InputError(f"{self._place}: the sheet is empty: its first row must hold the names of the columns")
        self._first = next(number for number, text in enumerate(cells) if text)
        self.columns = self._names(_without_end(cells))

    @property
    def _place(self) -> str:
        return f"{self.name}, sheet {self.sheet!r}"

    def where(self, position: int) -> str:
        return f"{self._place}, row {position} (counted from 0; row {self._header + 1 + position} of the sheet)"

    def _rows(self) -> Generator[Values, None, None]:
        end = self._first + len(self.columns)
        empty = ("",) * len(self.columns)
        waiting = 0  # empty rows, which count only if another row follows
        with closing(self._lines()) as lines:
            for number, texts in lines:
                if number <= self._header:
                    continue
                if not any(texts):
                    waiting += 1
                    continue
                for column, text in enumerate(texts):
                    if text and not self._first <= column < end:
                        raise self._outside(number, column)
                yield from repeat(empty, waiting)
                waiting = 0
                yield (*texts[self._first : end], *empty[len(texts) - self._first :])

    def _outside(self, number: int, column: int) -> InputError:
        return InputError(
            f"{self._place}: cell {_cell_name(number, column)} has a value, but cell"
            f" {_cell_name(self._header, column)} gives its column no name: name it, or move the cell to another sheet"
            " (a title above the names must go, too)"
        )

    def _names(self, cells: list[str]) -> tuple[str, ...]:
        places: dict[str, str] = {}
        for column, name in enumerate(cells):
            place = _cell_name(self._header, column)
            if column < self._first:
                continue
            if not name:
                raise InputError(f"{self._place}: cell {place} is empty: it must hold the name of its column")
            if name in places:
                raise InputError(
                    f"{self._place}: cells {places[name]} and {place} both name a column {name!r}: rename one"
                )
            places[name] = place
        return tuple(places)

    @contextmanager
    def _opened(self, *, formulas: bool = False) -> Iterator[Any]:
        """Open the workbook, for the values of its cells or for their formulas."""
        load_workbook = _openpyxl(self.name)
        with open_bytes(self.name) as file:
            is_ole = file.read(len(_OLE)) == _OLE
            if is_ole:
                raise InputError(
                    f"{self.name}: is encrypted, or an .xls file with another ending: save it as .xlsx without a"
                    " password"
                )
            try:
                book = load_workbook(file, read_only=True, data_only=not formulas, keep_links=False)
            except _UNREADABLE as error:
                raise InputError(f"{self.name}: cannot be read as an Excel workbook: {error}") from error
            try:
                yield book
            finally:
                book.close()

    def _lines(self) -> Generator[tuple[int, list[str]], None, None]:
        """Read every row of the sheet as texts, each with its number, from 1; a row ends with its last cell."""
        with self._opened() as book, self._formulas() as formulas:
            number = 0
            try:
                texts = _Texts()
                below = _Below(self._merged)
                for number, cells in enumerate(_unsized(book[self.sheet]), 1):
                    line = [texts.of(cell) for cell in cells]
                    if formulas is not None:
                        self._check_computed(number, cells, next(formulas, ()), book)
                    yield number, below.filled(number, line)
            except _UNREADABLE as error:
                raise InputError(f"{self._place}, behind row {number} of the sheet: cannot be read: {error}") from error

    @contextmanager
    def _formulas(self) -> Iterator[Iterator[Any] | None]:
        """Open the sheet a second time, for its formulas, if it has any."""
        if not self._has_formulas:
            yield None
            return
        with self._opened(formulas=True) as book:
            yield iter(_unsized(book[self.sheet]))

    def _check_computed(self, number: int, cells: Any, formulas: Any, book: Any) -> None:
        """Refuse a formula without a value: a program wrote it, and only a spreadsheet program computes it.

        Some programs write 0 for what they have not computed, and ask for it to be computed when the file is opened.
        """
        is_open = bool(getattr(book.calculation, "fullCalcOnLoad", False))
        for column, (cell, formula) in enumerate(zip(cells, formulas, strict=False)):
            if formula.data_type != "f":
                continue
            is_missing = cell.value is None and cell.data_type != "str"  # that is an empty text
            if is_missing or (is_open and cell.value == 0 and not isinstance(cell.value, bool)):
                raise InputError(
                    f"{self._place}: cell {_cell_name(number, column)} holds a formula that was never computed: open"
                    " the file in Excel or LibreOffice, and save it"
                )


def _openpyxl(name: str) -> Any:
    try:
        from openpyxl import load_workbook  # noqa: PLC0415 - an extra, and only this format needs it
    except ImportError as error:
        raise InputError(f'{name}: reading a workbook needs openpyxl: pip install "batcher-llm[excel]"') from error
    # It warns of what it cannot write again, such as rules for input, which nobody asked for.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"openpyxl\.")
    return load_workbook


def _chosen(name: str, book: Any, wanted: str | None) -> str:
    sheets: dict[str, bool] = {sheet.title: sheet.sheet_state == "visible" for sheet in book.worksheets}
    if not sheets:
        raise InputError(f"{name}: has no sheet with cells")
    if wanted is None:
        return next((title for title, is_visible in sheets.items() if is_visible), next(iter(sheets)))
    if wanted not in sheets:
        near = difflib.get_close_matches(wanted, sheets, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"{option('sheet')}: {name} has no sheet {wanted!r}; its sheets are: {', '.join(map(repr, sheets))}{meant}"
        )
    return wanted


def _facts(book: Any, sheet: Any) -> tuple[bool, list[Merged]]:
    """Search a sheet's XML for formulas and merged cells: openpyxl names the latter only after all rows."""
    has_formulas, merged, before = False, set(), b""
    try:
        with book._archive.open(sheet._worksheet_path) as file:  # noqa: SLF001 - it has no public name
            while piece := file.read(_PIECE):
                text = before + piece
                has_formulas = has_formulas or _FORMULA.search(text) is not None
                for letters, first, last in _MERGED.findall(text):
                    if first != last:
                        merged.add(Merged(int(first), int(last), _column_number(letters)))
                before = text[-_LONGEST_TAG:]
    except _UNREADABLE as error:
        raise InputError(f"cannot be read as an Excel workbook: {error}") from error
    return has_formulas, sorted(merged)


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - ord("A") + 1
    return number - 1


def _cell_name(row: int, column: int) -> str:
    from openpyxl.utils import get_column_letter  # noqa: PLC0415 - an extra

    return f"{get_column_letter(column + 1)}{row}"


def _unsized(sheet: Any) -> Iterator[Any]:
    """Return the rows of a sheet, which may say a wrong size of itself."""
    sheet.reset_dimensions()
    rows: Iterator[Any] = sheet.iter_rows()
    return rows


def _without_end(texts: list[str]) -> list[str]:
    end = len(texts)
    while end and not texts[end - 1]:
        end -= 1
    return texts[:end]


class _Below:
    """Gives each row of merged cells the text of the first: the merged cell belongs to all of them."""

    def __init__(self, merged: list[Merged]) -> None:
        self._coming = iter(merged)
        self._next = next(self._coming, None)
        self._open: list[tuple[Merged, str]] = []

    def filled(self, number: int, texts: list[str]) -> list[str]:
        self._open = [each for each in self._open if each[0].last >= number]
        for merged, text in self._open:
            texts += [""] * (merged.column + 1 - len(texts))
            texts[merged.column] = texts[merged.column] or text
        while self._next is not None and self._next.first <= number:
            if self._next.column < len(texts):
                self._open.append((self._next, texts[self._next.column]))
            self._next = next(self._coming, None)
        return texts


class _Texts:
    """Writes cells as a person sees them."""

    def __init__(self) -> None:
        from openpyxl.styles.numbers import is_datetime  # noqa: PLC0415 - an extra

        self._is_datetime = is_datetime

    def of(self, cell: Any) -> str:  # noqa: PLR0911 - one for each type
        value = cell.value
        if value is None:
            return ""
        if isinstance(value, str):
            return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), value) if "_x" in value else value
        if isinstance(value, bool):
            return "TRUE" if value else "FALSE"
        if isinstance(value, int | float):
            return _number(value, cell.number_format)
        if isinstance(value, dt.timedelta):
            return _hours(value)
        if isinstance(value, dt.datetime) and value.time() == dt.time() and self._is_day(cell.number_format):
            return str(value.date())
        return str(value)

    def _is_day(self, number_format: str) -> bool:
        return bool(self._is_datetime(number_format) == "date")


def _number(value: float, number_format: str) -> str:
    """Write a number with the 15 digits that Excel shows: 0.3 for 0.1 + 0.2."""
    number = float(f"{value:.15g}") if isinstance(value, float) else value
    if isinstance(number, float) and not (number.is_integer() and abs(number) < 1e15):
        return repr(number)
    digits = str(int(number))
    return digits.zfill(len(number_format)) if _ZEROS.fullmatch(number_format) and number >= 0 else digits


def _hours(value: dt.timedelta) -> str:
    """Write a duration, which Excel shows as `26:00:00`."""
    seconds = round(abs(value).total_seconds(), 3)
    minutes, rest = divmod(seconds, 60)
    sign = "-" if value < dt.timedelta() else ""
    shown = f"{rest:06.3f}".rstrip("0").rstrip(".") if rest % 1 else f"{int(rest):02}"
    return f"{sign}{int(minutes) // 60:02}:{int(minutes) % 60:02}:{shown}"

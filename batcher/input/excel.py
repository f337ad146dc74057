"""The sheets of an Excel workbook as rows of texts: openpyxl, made to hold no more than one row.

Invariant: a cell is the text that a person sees in it; a formula that was never computed has none, and is an error that
names its cell. openpyxl holds the workbook's shared texts.
"""

from __future__ import annotations

import datetime as dt
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple
from xml.etree.ElementTree import iterparse

UNREADABLE = (OSError, ValueError, LookupError, TypeError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error)
"""What reading a broken workbook raises; a SyntaxError is one of its XML."""

_MERGED = re.compile(rb'<(?:\w+:)?mergeCell [^>]*?ref="([A-Z]+)([0-9]+):[A-Z]+([0-9]+)"')
_LONGEST_TAG = 256  # bytes of what is searched for
_PIECE = 2**16  # bytes of a sheet's XML in memory at a time
_UNCOMPUTED = re.compile(rb"""fullCalcOnLoad=["'](?:1|true)""")
_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")
_ZEROS = re.compile("0{2,}")  # a number format that shows 7 as 007


class Uncomputed(Exception):
    """A formula without a value: a program wrote it, and only a spreadsheet program computes it. Names its cell."""


class Merged(NamedTuple):
    """Cells below each other that are merged: row numbers from 1, and the column, from 0."""

    first: int
    last: int
    column: int


class Book:
    """An open workbook.

    Args:
        file: the workbook, which stays open as long as this is used.

    Attributes:
        sheets: whether each sheet is visible, by name.

    Raises:
        ImportError: openpyxl is not installed.
    """

    def __init__(self, file: BinaryIO) -> None:
        from openpyxl.reader.excel import ExcelReader, apply_stylesheet  # noqa: PLC0415 - an extra

        # It warns of what it could not write again, such as rules for input, although nothing is written.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"openpyxl\.")
        # Its `load_workbook` reads all of each sheet that does not tell its size, and keeps an element for each row.
        self._reader = ExcelReader(file, read_only=True, data_only=True, keep_links=False)
        self._reader.read_manifest()
        self._reader.read_strings()
        self._reader.read_workbook()
        archive = self._archive = self._reader.archive
        apply_stylesheet(archive, self._reader.wb)
        found = [each for each in self._reader.parser.find_sheets() if "chartsheet" not in each[1].Type]
        self.sheets: dict[str, bool] = {sheet.name: sheet.state == "visible" for sheet, _ in found}
        self._paths = {sheet.name: part.target for sheet, part in found}
        self._formats = _formats(self._reader.wb)
        # The program that wrote it may have left 0 in the place of each formula's value.
        names = [name for name in archive.namelist() if name.endswith("workbook.xml")]
        self._has_zeros = not any(_UNCOMPUTED.search(archive.read(name)) for name in names)

    def merged(self, sheet: str) -> list[Merged]:
        """Search a sheet for merged cells, which its XML names after all rows."""
        merged, before = set(), b""
        with self._archive.open(self._paths[sheet]) as file:
            while piece := file.read(_PIECE):
                text = before + piece
                for letters, first, last in _MERGED.findall(text):
                    if first != last:
                        merged.add(Merged(int(first), int(last), _column_number(letters)))
                before = text[-_LONGEST_TAG:]
        return sorted(merged)

    def rows(self, sheet: str) -> Iterator[tuple[int, list[str]]]:
        """Read the rows of a sheet that have cells: their numbers, from 1, and texts, which end with the last cell.

        Raises:
            Uncomputed: a formula has no value.
        """
        with self._archive.open(self._paths[sheet]) as source:
            for number, cells in _parser(self._reader, source, has_zeros=self._has_zeros).parse():
                texts: list[str] = []
                for cell in cells:
                    texts += [""] * (cell["column"] - len(texts))
                    texts[cell["column"] - 1] = self._text(cell["value"], cell["style_id"])
                yield number, texts

    def _text(self, value: Any, style: int) -> str:
        """Write a cell as a person sees it."""
        if value is None:
            return ""
        if isinstance(value, str):
            return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), value) if "_x" in value else value
        if isinstance(value, bool):
            return "TRUE" if value else "FALSE"
        if isinstance(value, int | float):
            return _number(value, self._formats[style])
        if isinstance(value, dt.timedelta):
            return _hours(value)
        is_day = isinstance(value, dt.datetime) and value.time() == dt.time() and _is_day(self._formats[style])
        return str(value.date() if is_day else value)


def _formats(book: Any) -> list[str]:
    """Return the number format of each style."""
    from openpyxl.styles.numbers import BUILTIN_FORMATS, BUILTIN_FORMATS_MAX_SIZE  # noqa: PLC0415 - an extra

    numbers = [style.numFmtId for style in book._cell_styles]  # noqa: SLF001 - it has no public name
    own = dict(enumerate(book._number_formats, BUILTIN_FORMATS_MAX_SIZE))  # noqa: SLF001 - the same
    return [own.get(number) or BUILTIN_FORMATS.get(number, "General") for number in numbers]


def _parser(reader: Any, source: Any, *, has_zeros: bool) -> Any:
    """Return openpyxl's parser of a sheet, changed to forget the rows that it has read.

    Args:
        reader: of the workbook.
        source: the XML of the sheet.
        has_zeros: a formula may be 0; else 0 stands for what was not computed.
    """
    from openpyxl.worksheet import _reader  # noqa: PLC0415 - an extra

    class Parser(_reader.WorkSheetParser):  # type: ignore[misc] # it has no types
        def parse(self) -> Iterator[tuple[int, list[Any]]]:
            rows = None
            for event, element in iterparse(self.source, ("start", "end")):  # noqa: S314 - expat bounds entities
                if event == "start":
                    rows = element if element.tag == _reader.DATA_TAG else rows
                elif element.tag == _reader.ROW_TAG and rows is not None:
                    yield self.parse_row(element)
                    self.row_dimensions.clear()
                    rows.clear()
                elif element.tag == _reader.DATA_TAG:
                    return

        def parse_cell(self, element: Any) -> dict[str, Any]:
            cell: dict[str, Any] = super().parse_cell(element)
            if element.find(_reader.FORMULA_TAG) is not None:
                is_missing = cell["value"] is None and cell["data_type"] != "str"  # that is an empty text
                if is_missing or (not has_zeros and cell["value"] == 0 and cell["data_type"] == "n"):
                    raise Uncomputed(cell_name(cell["row"], cell["column"] - 1))
            return cell

    return Parser(
        source,
        reader.shared_strings,
        data_only=True,
        epoch=reader.wb.epoch,
        date_formats=reader.wb._date_formats,  # noqa: SLF001 - it has no public name
        timedelta_formats=reader.wb._timedelta_formats,  # noqa: SLF001 - the same
    )


def cell_name(row: int, column: int) -> str:
    """Return the name of a cell, such as B7 for row 7 and column 1."""
    letters = ""
    column += 1
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return f"{letters}{row}"


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - ord("A") + 1
    return number - 1


def _is_day(number_format: str) -> bool:
    from openpyxl.styles.numbers import is_datetime  # noqa: PLC0415 - an extra

    return bool(is_datetime(number_format) == "date")


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

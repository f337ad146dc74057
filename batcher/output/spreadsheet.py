"""Reads tables as spreadsheets and editors save them, and knows what these make of a cell.

Invariant: nothing is guessed: every way to read a file is offered, and the cells of the input decide which is right.
"""

from __future__ import annotations

import codecs
import csv
import datetime as dt
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from decimal import ROUND_DOWN, Decimal, InvalidOperation
from enum import IntEnum
from itertools import product
from pathlib import Path
from typing import NamedTuple

from batcher.answer.columns import AnswerColumns
from batcher.errors import OutputError
from batcher.input.excel import UNREADABLE, Book, Uncomputed
from batcher.output.file_format import read_table
from batcher.records import LARGEST_CELL

SEPARATORS = (",", ";", "\t", "|")
_TEXTS = (".csv", ".tsv", ".txt")
WORKBOOK = ""
"""In the place of a separator: the table is a sheet of a workbook, whose cells need none."""

_MARKS = (  # the longer ones first: UTF-32 begins like UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# The encodings in which Excel saves "CSV" by the language of the system: to read it, and to know what it cannot hold.
_OF_SYSTEMS = {
    "gb18030": "gbk",
    "cp950": "cp950",
    "cp932": "cp932",
    "cp949": "cp949",
    "cp1252": "cp1252",
    "cp1250": "cp1250",
    "cp1251": "cp1251",
    "cp1253": "cp1253",
    "cp1254": "cp1254",
    "cp1255": "cp1255",
    "cp1256": "cp1256",
    "cp1257": "cp1257",
    "cp1258": "cp1258",
    "cp874": "cp874",
    "mac_roman": "mac_roman",
}
_LONGEST = 32_767  # characters of a cell that Excel keeps
_DIGITS = 15  # of a number that Excel keeps
_FEWEST_DIGITS = 6  # that Excel shows of a number, and saves
_ERRORS = re.compile(r"#[A-Z/0!?]+[!?A0]")  # such as #NAME?, for a text that looks like a formula
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)?([.]\d*)?([eE][+-]?\d{1,3})?")
_ISO = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d)?)?")
_SLASHED = ("%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y")
_DASHED = ("%Y-%m-%d", "%d-%m-%Y", "%m-%d-%Y", "%d-%b-%y", "%d-%b-%Y")
_DAYS = (*_SLASHED, *_DASHED, "%d.%m.%Y", "%d.%m.%y", "%Y.%m.%d", "%Y年%m月%d日")
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_FORMATS = tuple(day + time for day, time in product(_DAYS, _TIMES))
# What pandas reads as missing, and writes as an empty cell.
_MISSING = {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
_MISSING |= {"NULL", "NaN", "None", "n/a", "nan", "null"}


class Sheet(NamedTuple):
    """One way to read a file.

    Attributes:
        encoding: in which it is read, as Python names it.
        is_certain: no other encoding is possible.
        separator: of the columns, or `WORKBOOK`.
        header: the names of the columns.
        lines: its rows, each with the number of its first line, from 1; without blank lines.
    """

    encoding: str
    is_certain: bool
    separator: str
    header: list[str]
    lines: list[tuple[int, list[str]]]


class Likeness(IntEnum):
    """How like a cell is to the original."""

    OTHER = 0
    LOSSY = 1
    """What a spreadsheet makes of the original, and perhaps of other texts, too."""
    SAME = 2


def sheets_of(path: Path, added: AnswerColumns) -> list[Sheet]:
    """Return every way to read a file in which the column of the answers is there.

    Raises:
        OutputError: there is none; the message says why, without the path.
    """
    column = added.answer
    if path.suffix == ".parquet":
        return _in_parquet(path, added)
    if path.suffix.lower() not in _TEXTS:
        return _in_workbook(path, column)
    found: list[Sheet] = []
    why = ""
    for encoding, text, is_certain in _decoded(path.read_bytes()):
        for separator in SEPARATORS:
            try:
                header, lines = _parsed(text, separator)
            except OutputError as error:
                why = why or str(error)
                continue
            if column in header:
                found.append(Sheet(encoding, is_certain, separator, header, lines))
            elif separator == "," and not why:
                why = _lacks(header, column)
    if not found:
        raise OutputError(why or "its encoding is not known")
    return found


def _in_parquet(path: Path, added: AnswerColumns) -> list[Sheet]:
    with closing(read_table(path, added)) as lines:
        _, header = next(lines)
        if added.answer not in header:
            raise OutputError(_lacks(header, added.answer))
        return [Sheet("utf-8", True, ",", header, [*lines])]


def _lacks(header: Sequence[str], column: str) -> str:
    names = ", ".join(map(repr, header[:20])) or "missing"
    return f"its columns are {names}, and {column!r} is not among them"


def _in_workbook(path: Path, column: str) -> list[Sheet]:
    """Return the sheets of a workbook in which a column of this name is there, as a CSV file has their cells.

    Raises:
        OutputError: there is none; the message says why, without the path.
    """
    found: list[Sheet] = []
    why = ""
    try:
        with path.open("rb") as file:
            book = Book(file)
            for name in book.sheets:
                lines = [(number, cells) for number, cells in book.rows(name) if any(cells)]
                header = lines[0][1] if lines else []
                if column in header:
                    rows = [(number, [*cells, *[""] * (len(header) - len(cells))]) for number, cells in lines[1:]]
                    found.append(Sheet("utf-8", True, WORKBOOK, header, rows))
                why = why or _lacks(header, column)
    except ImportError as error:
        needs = 'a workbook needs openpyxl: pip install "batcher-llm[excel]", or save it as CSV UTF-8'
        raise OutputError(needs) from error
    except Uncomputed as error:
        raise OutputError(f"cell {error} holds a formula that was never computed: save it in Excel again") from error
    except UNREADABLE as error:
        advice = "save it in a spreadsheet as .xlsx or as CSV UTF-8"
        raise OutputError(f"it is no workbook that can be read ({error}): {advice}") from error
    if len(found) > 1:
        raise OutputError(f"several of its sheets have a column {column!r}: leave one")
    if not found:
        raise OutputError(why or "it has no sheet")
    return found


def _decoded(content: bytes) -> Iterator[tuple[str, str, bool]]:
    """Yield the encodings in which a file can be read, its text in each, and whether that is certain."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            yield encoding, content.decode(encoding, "replace"), True
            return
    if b"\0" in content:  # in UTF-16 every second byte of most texts
        encoding = "utf-16-le" if content[1::2].count(0) >= content[::2].count(0) else "utf-16-be"
        yield encoding, content.decode(encoding, "replace"), True
        return
    try:
        yield "utf-8", content.decode(), True
    except UnicodeDecodeError:
        for encoding in _OF_SYSTEMS:
            try:
                yield encoding, content.decode(encoding), False
            except UnicodeDecodeError:
                continue


def _parsed(text: str, separator: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header and the rows of a text.

    Raises:
        OutputError: it is broken; the message names the line.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST_CELL))
    number = 1
    # Excel takes the separator from such a line, and keeps it.
    if given := re.match(r'"?sep=(.)"?\r?\n?', text, re.IGNORECASE):
        text, number = text[given.end() :], 2
    first = number
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            if any(cells):
                rows.append((number, cells))
            number = first + reader.line_num
    except csv.Error as error:
        raise OutputError(f"line {number}: {error}") from error
    if not rows:
        raise OutputError("it is empty")
    (_, header), *lines = rows
    return header, lines


# -- What becomes of a cell


class Reformatting:
    """Compares the cells of one column with their originals, as one program has saved all of them.

    Args:
        encoding: of the file.
        separator: of its columns; if it is not a comma, the decimal sign may be one.
    """

    def __init__(self, encoding: str, separator: str) -> None:
        self._loss = _OF_SYSTEMS.get(encoding)
        self._has_commas = separator != ","
        self._formats = frozenset(_FORMATS)

    def likeness(self, original: str, found: str) -> Likeness:
        """Return how like a cell is to its original."""
        if found == original or _plain(found) == _plain(original):
            return Likeness.SAME
        if likeness := max(
            self.text_likeness(original, found), self._number_likeness(original, found), self._date(original, found)
        ):
            return likeness
        is_bool = original.lower() in {"true", "false"} and found.lower() == original.lower()
        return Likeness.SAME if is_bool else Likeness.OTHER

    def text_likeness(self, original: str, found: str) -> Likeness:
        """Return how like a text is to its original: what can be lost, but no number that may be a correction."""
        is_lost = (
            (len(original) > _LONGEST and found == original[:_LONGEST])
            or (not found and original in _MISSING)
            or (original[:1] in {"=", "+", "-", "@"} and _ERRORS.fullmatch(found) is not None)
            or (self._loss is not None and found in _lossy(original, self._loss))
        )
        if found != original and is_lost:
            return Likeness.LOSSY
        return Likeness.SAME if _plain(found) == _plain(original) else Likeness.OTHER

    def _number_likeness(self, original: str, found: str) -> Likeness:
        ours, theirs = _number(original), _number(found)
        if theirs is None and self._has_commas:
            theirs = _number(found.replace(".", "").replace(",", "."))
        if ours is None or theirs is None:
            return Likeness.OTHER
        if ours == theirs:
            return Likeness.SAME
        return Likeness.LOSSY if _is_shortened(ours, theirs) else Likeness.OTHER

    def _date(self, original: str, found: str) -> Likeness:
        """Compare dates; all of a column must have the same format."""
        if not _ISO.fullmatch(original):
            return Likeness.OTHER
        moment = dt.datetime.fromisoformat(original)
        fitting = frozenset(each for each in self._formats if _is_date(found, each, moment))
        self._formats = fitting or self._formats
        return Likeness.SAME if fitting else Likeness.OTHER


def _plain(text: str) -> str:
    """Return a text with the line ends that every program writes."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _lossy(text: str, encoding: str) -> set[str]:
    """Return what a program may save of a text if the encoding lacks some of its characters: question marks."""
    if text.isascii():
        return set()
    made = set()
    for marks in (_one_mark, _mark_for_each_half):
        made.add("".join(char if _has(encoding, char) else marks(char) for char in text))
    return made - {text}


def _one_mark(_char: str) -> str:
    return "?"


def _mark_for_each_half(char: str) -> str:
    return "??" if ord(char) > 0xFFFF else "?"


def _has(encoding: str, char: str) -> bool:
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _number(text: str) -> Decimal | None:
    text = text.strip()
    if not _NUMBER.fullmatch(text) or not any(map(str.isdigit, text)):
        return None
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None


def _is_shortened(ours: Decimal, theirs: Decimal) -> bool:
    """Return whether a number is another one with fewer digits, as a cell shows it or a double can hold it."""
    digits = len(theirs.as_tuple().digits)
    if digits < _FEWEST_DIGITS or not theirs:
        return False
    step = Decimal((0, (1,), theirs.adjusted() - digits + 1))
    if abs(ours - theirs) <= step / 2 or float(ours) == float(theirs):
        return True
    kept = Decimal((0, (1,), ours.adjusted() - _DIGITS + 1))  # Excel makes zeros of what is beyond 15 digits
    return ours.quantize(kept, rounding=ROUND_DOWN) == theirs if ours.adjusted() >= _DIGITS else False


def _is_date(text: str, form: str, moment: dt.datetime) -> bool:
    try:
        found = dt.datetime.strptime(text, form)  # noqa: DTZ007 - neither has a zone
    except ValueError:
        return False
    if "%S" in form:
        return found == moment
    if "%H" in form or "%I" in form:
        return found == moment.replace(second=0)
    return found == moment.replace(hour=0, minute=0, second=0) and not (moment.hour or moment.minute or moment.second)


def first_twins(keys: Iterable[Sequence[object]], originals: Iterable[object]) -> tuple[int, int] | None:
    """Return two rows whose cells are the same although their originals differ, or None."""
    seen: dict[tuple[object, ...], tuple[int, object]] = {}
    for number, (key, original) in enumerate(zip(keys, originals, strict=True)):
        before, first = seen.setdefault(tuple(key), (number, original))
        if first != original:
            return before, number
    return None

"""The input table: a file, a DataFrame, a Series or a list of texts, read slice by slice.

Invariant: every pass yields the same rows, each exactly once, whole and in the table's order, or stops with an
InputError that names the place. No row is skipped, repaired or guessed, and at most one slice of a file is in memory.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import stat
import sys
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from batcher.errors import InputError
from batcher.nesting import TOO_DEEP, is_too_deep
from batcher.place import version_of
from batcher.records import LARGEST_CELL, Slice, Values

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    import pandas as pd

    Data = str | os.PathLike[str] | pd.DataFrame | pd.Series[Any] | list[str]
    """What `run`, `plan` and `verify` take as their input."""

_PARQUET_BATCH = 256
"""Rows decoded at a time: enough to make a batch's fixed cost small, and few enough for rows that are documents."""

_PARQUET_BUFFER = 2**20
"""Bytes read ahead in each Parquet column. Without it, or with pre_buffer, a row group is loaded whole: a file of 290
MB with one row group took 297 MB of memory, with it 8 MB. Threads slow small batches down."""

_FRAME_BATCH = 4096
"""Rows of a DataFrame turned into Python values at a time."""


class Dataset(ABC):
    """A table that can be read from its start as often as needed.

    Attributes:
        name: its name in messages: a file's path as given, or for example `the DataFrame`.
        columns: the names of the columns, all different and none empty.
    """

    name: str
    columns: tuple[str, ...]

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

    @abstractmethod
    def _rows(self) -> Generator[Values, None, None]:
        """Read every row from the beginning."""


def open_dataset(data: Data) -> Dataset:
    """Make a dataset of a table in a file or in memory.

    Args:
        data: the path of a `.csv`, `.tsv`, `.parquet` or `.jsonl` file, a pandas DataFrame or Series, or a
            list of strings. A list, and a Series without a name, become one column called `text`.

    Raises:
        InputError: it is none of these, the file cannot be read, or its column names are not unique.
    """
    if isinstance(data, str | os.PathLike):
        return _open_file(os.fsdecode(data))
    if isinstance(data, list):
        return _Texts(data)
    pandas = sys.modules.get("pandas")  # whoever has a DataFrame has loaded pandas
    if pandas is not None and isinstance(data, pandas.DataFrame):
        return _Frame("the DataFrame", data, data.columns)
    if pandas is not None and isinstance(data, pandas.Series):
        label = "text" if data.name is None else data.name
        return _Frame("the Series", data.to_frame("text"), [label])
    raise InputError(
        f"cannot read a table from {type(data).__module__}.{type(data).__qualname__}: give the path of a "
        ".csv, .tsv, .parquet or .jsonl file, a pandas DataFrame or Series, or a list of strings"
    )


def _open_file(name: str) -> Dataset:
    _open(name).close()  # a missing file is reported before an unknown ending
    ending = Path(name).suffix.lower()
    if ending in _TEXTS:
        _check_is_text(name)
    match ending:
        case ".csv":
            return _Csv(name, ",")
        case ".tsv":
            return _Csv(name, "\t")
        case ".jsonl":
            return _Jsonl(name)
        case ".parquet":
            return _Parquet(name)
        case _:
            what = f"the ending {ending} is not known" if ending else "the file name has no ending"
            advice = f"; {_FROM_EXCEL}" if ending in {".xlsx", ".xls"} else ""
            raise InputError(f"{name}: {what}: batcher reads .csv, .tsv, .parquet and .jsonl{advice}")


def _check_is_text(name: str) -> None:
    """Refuse a file that is named like a text file but has the first bytes of another format."""
    with _open(name) as file:
        beginning = file.read(4)
    for magic, what in _MAGIC.items():
        if beginning.startswith(magic):
            raise InputError(f"{name}: {what}")


class _File(Dataset):
    """A table in a file.

    Args:
        name: its path as it was given.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._version = _version(name)

    def has_changed(self) -> bool:
        return _version(self.name) != self._version


def _version(name: str) -> tuple[int, ...] | None:
    try:
        return version_of(Path(name))
    except OSError:  # it is gone
        return None


class _Csv(_File):
    """A CSV or TSV file, quoted by RFC 4180. Every cell is the text in the file.

    A blank line is never a row, at any place and with any number of columns: pandas skips it too, so that row numbers
    agree. An empty cell of a single column is written `""`, as csv.writer and pandas do.
    """

    def __init__(self, name: str, delimiter: str) -> None:
        super().__init__(name)
        self._delimiter = delimiter
        with closing(self._records()) as records:
            header = next(records, None)
        if header is None:
            raise InputError(f"{name}: the file is empty: its first line must hold the names of the columns")
        self.columns = _columns(name, header)

    def _rows(self) -> Generator[Values, None, None]:
        records = self._records()
        if next(records, None) != self.columns:
            raise InputError(f"{self.name}: the header has changed since the file was opened: start again")
        return records

    def _records(self) -> Generator[tuple[str, ...], None, None]:
        """Read the header, then every row; each has as many cells as the header."""
        # The limit is the whole process's, and other code may need a higher one: it is only raised.
        csv.field_size_limit(max(csv.field_size_limit(), LARGEST_CELL))
        width = 0  # until the header is read
        line = 1  # of the file, where the record begins
        with _open(self.name) as file:
            # Lines are split as bytes, only at \n, so that a lone \r inside quotes is kept.
            reader = csv.reader(map(bytes.decode, file), delimiter=self._delimiter, strict=True)
            try:
                for fields in reader:
                    if fields:  # a blank line has no fields
                        width = width or len(fields)
                        if len(fields) != width:
                            raise self._ragged(line, len(fields), width)
                        yield tuple(fields)
                    line = reader.line_num + 1
            except csv.Error as error:
                raise InputError(f"{self.name}, line {line}: {_csv_trouble(error)}") from error
            except UnicodeDecodeError as error:
                raise _not_utf8(self.name, reader.line_num + 1, error) from error

    def _ragged(self, line: int, found: int, width: int) -> InputError:
        return InputError(
            f"{self.name}, line {line}: the row has {_count(found, 'field')}, the header has {width}: "
            "is a quote or a delimiter missing, or one too many?"
        )


class _Jsonl(_File):
    """A file with one JSON object a line. Values keep their type; a key that a row lacks is None."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        found: dict[str, None] = {}  # a set that keeps the order of first appearance
        # Duplicate keys are searched for in the first pass only: the check makes reading 50% slower.
        for row in self._objects(json.JSONDecoder(object_pairs_hook=_object)):
            if not found.keys() >= row.keys():
                found.update(dict.fromkeys(row))
        self.columns = _columns(name, found)

    def _rows(self) -> Generator[Values, None, None]:
        columns = self.columns
        for row in self._objects(json.JSONDecoder()):
            yield tuple(map(row.get, columns))

    def _objects(self, decoder: json.JSONDecoder) -> Generator[dict[str, object], None, None]:
        with _open(self.name) as file:
            for number, line in enumerate(file, start=1):
                try:
                    text = line.rstrip().decode()  # else an error at the end would be on "line 2"
                    row = _decoded(text, decoder) if text else None
                except UnicodeDecodeError as error:
                    raise _not_utf8(self.name, number, error) from error
                except json.JSONDecodeError as error:
                    raise InputError(
                        f"{self.name}, line {number}, column {error.colno}: not JSON: {error.msg}: "
                        "each line must be one JSON object"
                    ) from error
                except (ValueError, RecursionError) as error:  # a number that Python refuses, or our own refusal
                    raise InputError(f"{self.name}, line {number}: the JSON cannot be read: {error}") from error
                if isinstance(row, dict):
                    yield row
                elif text:
                    raise InputError(
                        f"{self.name}, line {number}: each line must be one JSON object, "
                        f"this one is {_JSON_NAMES.get(type(row), 'a number')}"
                    )


class _Parquet(_File):
    """A Parquet file. Values are the Python values of their type; a row group is never held whole."""

    def __init__(self, name: str) -> None:
        from pyarrow import ArrowException  # noqa: PLC0415 - slow to load, and only this format needs it
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - the same

        super().__init__(name)
        try:
            with ParquetFile(name) as file:
                names, rows = file.schema_arrow.names, file.metadata.num_rows
        except (ArrowException, OSError) as error:
            raise InputError(f"{name}: cannot be read as Parquet: {error}") from error
        self.columns = _columns(name, names)
        _check_has_columns(name, self.columns, rows)

    def _rows(self) -> Generator[Values, None, None]:
        from pyarrow import ArrowException  # noqa: PLC0415 - slow to load, and only this format needs it
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - the same

        start = 0
        try:
            with ParquetFile(self.name, buffer_size=_PARQUET_BUFFER, pre_buffer=False) as file:
                for batch in file.iter_batches(_PARQUET_BATCH, use_threads=False):
                    yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
                    start += batch.num_rows
        # A ValueError or OverflowError means a value that Python cannot hold, such as a date after the year 9999.
        except (ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
            raise InputError(f"{self.where(start)} or one of the next: cannot be read: {error}") from error


class _Frame(Dataset):
    """The caller's DataFrame, which is only read; its index is not a column."""

    def __init__(self, name: str, frame: pd.DataFrame, labels: Iterable[object]) -> None:
        if getattr(labels, "nlevels", 1) > 1:
            raise InputError(f"{name}: the columns are a MultiIndex: give each column one name, as text")
        self.name = name
        self.columns = _columns(name, map(str, labels))
        self._frame = frame
        _check_has_columns(name, self.columns, len(frame))

    def _rows(self) -> Generator[Values, None, None]:
        for start in range(0, len(self._frame), _FRAME_BATCH):
            yield from self._frame.iloc[start : start + _FRAME_BATCH].itertuples(index=False, name=None)


class _Texts(Dataset):
    """A list of strings: one column, `text`."""

    def __init__(self, texts: list[str]) -> None:
        self.name = "the list"
        self.columns = ("text",)
        self._texts = list(texts)
        for position, text in enumerate(self._texts):
            if not isinstance(text, str):
                raise InputError(f"{self.where(position)}: must be a string, not of type {type(text).__qualname__}")

    def _rows(self) -> Generator[Values, None, None]:
        for text in self._texts:
            yield (text,)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object of any level; refuse a key that is there twice, because one value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [repr(key) for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueError(f"an object has more than one key {', '.join(twice)}: rename all but one")
    return found


def _decoded(text: str, decoder: json.JSONDecoder) -> object:
    if is_too_deep(text):
        raise ValueError(TOO_DEEP)
    row: object = decoder.decode(text)
    return row


_TEXTS = {".csv", ".tsv", ".jsonl"}

_FROM_EXCEL = 'save the sheet as "CSV UTF-8", or give the DataFrame that pandas.read_excel() returns'

_MAGIC = {
    b"\x1f\x8b": "is a gzip file: unpack it first",
    b"PK\x03\x04": f"is an Excel workbook or another ZIP file: {_FROM_EXCEL}",
    b"PAR1": "is a Parquet file: let its name end in .parquet",
}
"""The first bytes of other formats, and what to do about each."""

_JSON_NAMES = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}

_CSV_TROUBLES = {
    "unexpected end of data": "a quote that opens in this row is never closed",
    "field larger than": (f"a cell has more than {LARGEST_CELL:,} characters: is the quote that opens it ever closed?"),
    "new-line character": (
        "a carriage return (\\r) is outside quotes: put the cell in quotes, or, if \\r ends every line "
        "of the file (old Mac), convert the line ends to \\n"
    ),
}
"""Messages of the csv module, by their beginnings, and ours for them; its other errors are about quotes."""


def _csv_trouble(error: csv.Error) -> str:
    said = str(error)
    for beginning, ours in _CSV_TROUBLES.items():
        if said.startswith(beginning):
            return ours
    return f"there is text after a closing quote ({said}): a quote inside a quoted cell must be doubled"


def _not_utf8(name: str, line: int, error: UnicodeDecodeError) -> InputError:
    if line == 1 and error.object[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
        advice = 'this is UTF-16 (Excel\'s "Unicode Text"): save it as "CSV UTF-8"'
    else:
        advice = (
            'save it as "CSV UTF-8" in Excel, or read it in Python, from GBK for example with pandas.read_csv(path,'
            ' encoding="gbk"), and give the DataFrame'
        )
        if os.name == "posix":
            advice += "; or convert it, from GBK for example with `iconv -f GBK -t UTF-8`"
    return InputError(f"{name}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8: {advice}")


def _open(name: str) -> BinaryIO:
    """Open a file, and skip its byte order mark, if it has one."""
    try:
        mode = Path(name).stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{name}: is a directory: give the path of one file")
        if not stat.S_ISREG(mode):
            raise InputError(f"{name}: is not a regular file: the table is read more than once, save it to a file")
        file = Path(name).open("rb")  # noqa: SIM115 - every caller closes it
    except FileNotFoundError as error:
        if name == "-":
            raise InputError("-: standard input cannot be read twice, as a table is: save it to a file") from error
        raise InputError(f"{name}: there is no such file") from error
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the path
        raise InputError(f"{name}: cannot be opened: {error}") from error
    if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        file.seek(0)
    return file


def _columns(name: str, names: Iterable[str]) -> tuple[str, ...]:
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


def _check_has_columns(name: str, columns: tuple[str, ...], rows: int) -> None:
    if rows and not columns:
        raise InputError(f"{name}: has {_count(rows, 'row')} but no column: there is nothing to send")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"

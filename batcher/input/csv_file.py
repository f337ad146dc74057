"""A table in a CSV or TSV file.

Invariant: every cell is the text in the file; a record that is broken ends the pass, with the line at which it begins.
"""

from __future__ import annotations

import csv
from collections.abc import Generator
from contextlib import closing

from batcher.errors import InputError
from batcher.input.dataset import columns_of
from batcher.input.file import FileDataset, not_utf8, open_bytes
from batcher.records import LARGEST_CELL, Values
from batcher.words import counted

_CSV_TROUBLES = {
    "unexpected end of data": "a quote that opens in this row is never closed",
    "field larger than": (f"a cell has more than {LARGEST_CELL:,} characters: is the quote that opens it ever closed?"),
    "new-line character": (
        "a carriage return (\\r) is outside quotes: put the cell in quotes, or, if \\r ends every line "
        "of the file (old Mac), convert the line ends to \\n"
    ),
}
"""Messages of the csv module, by their beginnings, and ours for them; its other errors are about quotes."""


class CsvDataset(FileDataset):
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
        self.columns = columns_of(name, header)

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
        with open_bytes(self.name) as file:
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
                raise not_utf8(self.name, reader.line_num + 1, error) from error

    def _ragged(self, line: int, found: int, width: int) -> InputError:
        return InputError(
            f"{self.name}, line {line}: the row has {counted(found, 'field')}, the header has {width}: "
            "is a quote or a delimiter missing, or one too many?"
        )


def _csv_trouble(error: csv.Error) -> str:
    said = str(error)
    for beginning, ours in _CSV_TROUBLES.items():
        if said.startswith(beginning):
            return ours
    return f"there is text after a closing quote ({said}): a quote inside a quoted cell must be doubled"

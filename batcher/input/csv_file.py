"""A table in a CSV or TSV file.

Invariant: every cell is the text in the file; a record that is broken ends the pass, with the line at which it begins.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import chain

from batcher.errors import InputError
from batcher.input.csv_form import LONE, Form, Quotes, form_of, with_names
from batcher.input.dataset import columns_of
from batcher.input.file import FileDataset
from batcher.input.text_file import TextFile
from batcher.records import LARGEST_CELL, Values
from batcher.words import counted

_CSV_TROUBLES = {
    "unexpected end of data": "a quote that opens in this row is never closed",
    "field larger than": (f"a cell has more than {LARGEST_CELL:,} characters: is the quote that opens it ever closed?"),
    "new-line character": (
        "a line feed (\\n) is outside quotes, and the lines before it end in \\r: let all lines end in \\n"
    ),
}
"""Messages of the csv module, by their beginnings, and ours for them; its other errors are about quotes."""

_LONGEST_SEARCHED = 2**20  # characters of a broken record


class CsvDataset(FileDataset):
    """A CSV or TSV file, quoted by RFC 4180. Every cell is the text in the file.

    A blank line is never a row, at any place and with any number of columns: pandas skips it too, so that row numbers
    agree. An empty cell of a single column is written `""`, as csv.writer and pandas do.

    Args:
        text: the file.
        kind: the ending that files of its kind have: `.csv`, `.tsv` or `.txt`.
        separator: that the user gives, if any.
    """

    def __init__(self, text: TextFile, kind: str = ".csv", separator: str | None = None) -> None:
        super().__init__(text.name, text.path)
        self._text = text
        self._form = form_of(
            text.name,
            text.beginning,
            is_whole=text.is_whole,
            kind=kind,
            separator=separator,
            is_wide=text.encoding.is_wide,
        )
        text.forget_beginning()
        self._quotes = Quotes(self._form.separator)
        with closing(self._records()) as records:
            self._header = next(records, None)
        if self._header is None:
            raise InputError(f"{self.name}: the file is empty: its first line must hold the names of the columns")
        self.columns = columns_of(self.name, with_names(self._header))

    def _rows(self) -> Generator[Values, None, None]:
        records = self._records()
        if next(records, None) != self._header:
            raise InputError(f"{self.name}: the header has changed since the file was opened: start again")
        return records

    def _records(self) -> Generator[tuple[str, ...], None, None]:
        """Read the header, then every row; each has as many cells as the header."""
        # The limit is the whole process's, and other code may need a higher one: it is only raised.
        csv.field_size_limit(max(csv.field_size_limit(), LARGEST_CELL))
        width = 0  # until the header is read
        line = 1  # of the file, where the record begins
        lines = _Lines(self._text, self._form, self._quotes, lambda: line)
        with self._text.damage_first(), closing(lines):
            reader = csv.reader(lines, delimiter=self._form.separator, strict=True)
            doubtful = lines.doubtful
            try:
                if self._form.has_line_above:
                    next(reader)
                    line = 2
                for fields in reader:
                    if fields:  # a blank line has no fields
                        width = width or len(fields)
                        if len(fields) != width:
                            raise self._ragged(lines.record(reader.line_num), line, len(fields), width)
                        if doubtful:
                            yield self._checked(lines.record(reader.line_num), line, fields)
                        else:
                            yield tuple(fields)
                    line = reader.line_num + 1
            except csv.Error as error:
                record = lines.record(reader.line_num)[:_LONGEST_SEARCHED]
                said = self._quotes.trouble(record, is_broken=True) or _csv_trouble(error)
                raise InputError(f"{self.name}, line {line}: {said}") from error

    def _checked(self, record: str, line: int, fields: list[str]) -> tuple[str, ...]:
        """Return the cells of a record with its carriage returns, if all readers would agree about its quotes."""
        trouble = self._quotes.trouble(record, is_broken=False) if '"' in "".join(fields) else None
        if trouble:
            raise InputError(f"{self.name}, line {line}: {trouble}")
        return tuple([field.replace(LONE, "\r") for field in fields] if LONE in record else fields)

    def _ragged(self, record: str, line: int, found: int, width: int) -> InputError:
        trouble = self._quotes.trouble(record, is_broken=True) or (
            f"the row has {counted(found, 'field')}, the header has {width}: "
            "is a quote or a delimiter missing, or one too many?"
        )
        return InputError(f"{self.name}, line {line}: {trouble}")


class _Lines:
    """The lines of a CSV file, as the csv module takes them.

    Args:
        text: the file.
        form: of the file.
        quotes: finds doubtful ones.
        current: returns the number of the line at which the current record begins.

    Attributes:
        doubtful: not empty if the current record may hold a doubtful quote or a `LONE`.
    """

    def __init__(self, text: TextFile, form: Form, quotes: Quotes, current: Callable[[], int]) -> None:
        self._blocks = text.whole_lines(form.line_end)
        self._form = form
        self._quotes = quotes
        self._current = current
        self._held: list[tuple[int, list[str]]] = []  # the blocks of the current record, by their first lines
        self.doubtful: list[int] = []  # the first lines of those that may be

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._cut())

    def _cut(self) -> Iterator[list[str]]:
        first = 1
        for block in self._blocks:
            text = self._form.with_lone(block)
            lines = self._form.lines(text)
            self._held = [each for each in self._held if each[0] + len(each[1]) > self._current()]
            self.doubtful[:] = [each for each, _ in self._held if each in self.doubtful]
            self._held.append((first, lines))
            if LONE in text or self._quotes.may_be_in(text):
                self.doubtful.append(first)
            first += len(lines)
            yield lines

    def record(self, last: int) -> str:
        """Return the current record as it stands in the file.

        Args:
            last: the number of its last line.
        """
        current = self._current()
        return "".join(
            line for start, lines in self._held for line in lines[max(current - start, 0) : max(last - start + 1, 0)]
        )

    def close(self) -> None:
        self._blocks.close()


def _csv_trouble(error: csv.Error) -> str:
    said = str(error)
    for beginning, ours in _CSV_TROUBLES.items():
        if said.startswith(beginning):
            return ours
    return f"there is text after a closing quote ({said}): a quote inside a quoted cell must be doubled"

"""What the directory needs of a format of files, and the format CSV.

Invariant: the same rows give the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from batcher.answer.columns import AnswerColumns
from batcher.errors import OutputError
from batcher.input.cell import cell
from batcher.output.csv_file import (
    OURS,
    Hashing,
    as_output_errors,
    cells_of_lines,
    csv_line,
    encoded,
    ends_plainly,
    read_csv,
)
from batcher.records import Values

Cells = Sequence[Sequence[str]]


class Block(NamedTuple):
    """Rows to write.

    Attributes:
        cells: the input's cells of each, as text.
        values: the input's columns in their types, if the format has types and they are known.
        ends: the cells of the answer columns of each.
    """

    cells: Cells
    values: Any
    ends: Cells


class Joint(NamedTuple):
    """A chunk file that becomes a part of a result.

    Attributes:
        path: of the file.
        facts: the cells of further columns of each row, which the file lacks.
    """

    path: Path
    facts: Cells | None = None


class FileFormat(Protocol):
    """Writes the files of a run.

    Attributes:
        suffix: of their names.
        head: the bytes for the columns, of which the hash of a file's origin is made.
    """

    suffix: str
    head: bytes

    def lines(self, rows: Iterable[Values]) -> Sequence[str]:
        """Return the input's part of each row's line, as CSV has it."""

    def values(self, rows: Sequence[Values], /) -> Any:
        """Return the columns of rows in their types; None if the format has none."""

    def values_in(self, path: Path, /) -> Any:
        """Return the input's columns in a file, in their types; None if the format has none."""

    def content(self, lines: Sequence[str], ends: Cells) -> bytes:
        """Return a chunk file.

        Args:
            lines: as `lines` made them.
            ends: the cells of the answer columns of each row.
        """

    def edited(self, lines: Cells, rows: Sequence[Values] | None, path: Path, /) -> bytes:
        """Return a chunk file that a person has changed, in the form of a run's.

        Args:
            lines: all cells of its rows.
            rows: of the input, if they are known.
            path: of the file, which has them else.

        Raises:
            OutputError: it is to be made of the input's rows, and the file does not have them.
        """

    def is_own(self, path: Path) -> bool:
        """Return whether a file is of this format, with columns of its types."""

    def join(self, chunks: Iterable[Joint], file: Hashing, added: AnswerColumns) -> None:
        """Write a result from chunk files.

        Args:
            chunks: in order.
            file: to write.
            added: the answer columns of the result.

        Raises:
            OutputError: a chunk file has other columns, or cannot be read.
        """

    def write(self, blocks: Iterable[Block], file: Hashing, added: AnswerColumns) -> None:
        """Write rows of which not all are in chunk files."""

    def is_joined(self, path: Path, chunks: Sequence[Path]) -> bool:
        """Return whether a result is, byte for byte, the join of chunk files."""


class CsvFormat:
    """CSV files.

    Args:
        columns: the input's.
        added: the answer columns.
        encoding: `utf-8` or `utf-8-sig`.
    """

    suffix = ".csv"

    def __init__(self, columns: Sequence[str], added: AnswerColumns, encoding: str) -> None:
        self._columns = columns
        self._added = added
        self._encoding = encoding
        self.head = self._head(added)

    def _head(self, added: AnswerColumns) -> bytes:
        return (csv_line([*self._columns, *added]) + "\n").encode(self._encoding)

    def lines(self, rows: Iterable[Values]) -> Sequence[str]:
        return [csv_line(map(cell, values)) for values in rows]

    def values(self, _rows: Sequence[Values]) -> Any:
        return None

    def values_in(self, _path: Path) -> Any:
        return None

    def content(self, lines: Sequence[str], ends: Cells) -> bytes:
        body = [f"{line},{csv_line(end)}" for line, end in zip(lines, ends, strict=True)]
        return self.head + encoded("\n".join([*body, ""]))

    def edited(self, lines: Cells, _rows: Sequence[Values] | None, _path: Path) -> bytes:
        return self.head + encoded("".join(csv_line(line) + "\n" for line in lines))

    def is_own(self, path: Path) -> bool:
        return path.suffix == self.suffix

    def write(self, blocks: Iterable[Block], file: Hashing, added: AnswerColumns) -> None:
        file.write(self._head(added))
        for block in blocks:
            lines = (csv_line([*cells, *end]) for cells, end in zip(block.cells, block.ends, strict=True))
            file.write(encoded("\n".join([*lines, ""])))

    def join(self, chunks: Iterable[Joint], file: Hashing, added: AnswerColumns) -> None:
        file.write(self._head(added))
        for path, facts in chunks:
            if facts is None:
                self._append(path, file)
                continue
            with closing(self._rows(path)) as lines:
                for line, more in zip(lines, facts, strict=True):
                    file.write(encoded(csv_line([*line, *more]) + "\n"))

    def _append(self, path: Path, file: Hashing) -> None:
        with as_output_errors(path, "read"):
            chunk = path.open("rb")
        with chunk:
            if chunk.read(len(self.head)) == self.head and ends_plainly(chunk):
                chunk.seek(len(self.head))
                shutil.copyfileobj(chunk, file, 1 << 20)
                return
        for line in self._rows(path):
            file.write(encoded(csv_line(line) + "\n"))

    def _rows(self, path: Path) -> Generator[list[str], None, None]:
        """Read the rows of a chunk file that a spreadsheet or an editor has saved in its own format."""
        with closing(cells_of_lines(path)) as lines:
            header = next(lines, [])
            if header != [*self._columns, *self._added]:
                raise OutputError(f"{path} has other columns than this run: {csv_line(header)}")
            yield from lines

    def is_joined(self, path: Path, chunks: Sequence[Path]) -> bool:
        with as_output_errors(path, "compared"), path.open("rb") as whole:
            if whole.read(len(self.head)) != self.head:
                return False
            for each in chunks:
                if not each.exists():
                    return False
                with each.open("rb") as chunk:
                    if chunk.read(len(self.head)) != self.head:
                        return False
                    while block := chunk.read(1 << 20):
                        if whole.read(len(block)) != block:
                            return False
            return not whole.read(1)


def read_table(path: Path, added: AnswerColumns, advice: str = OURS) -> Generator[tuple[int, list[str]], None, None]:
    """Read the columns of a file, then every row as cells of text, each with the number of its line, from 1.

    Args:
        path: of the file; its ending tells the format.
        added: the answer columns, whose types have texts of their own.
        advice: what to do if it is damaged.

    Raises:
        OutputError: it is missing or damaged.
    """
    if path.suffix != ".parquet":
        return read_csv(path, advice)
    from batcher.output.parquet_file import read_parquet  # noqa: PLC0415 - PyArrow is slow to load

    return read_parquet(path, added, advice)

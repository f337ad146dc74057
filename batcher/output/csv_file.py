"""Writes CSV files, whole or not at all, and reads them.

Invariant: a file that exists is whole, and its text reads back as it was written, except for characters that UTF-8
files cannot hold.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import io
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from batcher.errors import OutputError, output_error
from batcher.input.cell import writable
from batcher.records import LARGEST_CELL

# The encoding must not read a byte order mark as part of the first column's name.
_BOM = "\ufeff"
OURS = "delete it, and the next run writes it again"
"""The advice about a damaged chunk file if the journal has its answers."""
FOREIGN = "repair it, move it away, or put its journal back beside it"
"""The advice about a damaged chunk file that no journal knows."""


def csv_line(cells: Iterable[str]) -> str:
    r"""Return a line of CSV without its end (RFC 4180, `\n` ends a line).

    The `csv` module leaves a lone `\r` unquoted up to Python 3.12, and such a file cannot be read back.
    """
    return ",".join('"' + text.replace('"', '""') + '"' if _is_quoted(text) else text for text in cells)


def _is_quoted(text: str) -> bool:
    # A regular expression would take a hundred times as long.
    return '"' in text or "," in text or "\n" in text or "\r" in text or _BOM in text


def encoded(text: str) -> bytes:
    """Return a text in the bytes that a file holds."""
    if "\0" not in text:
        with contextlib.suppress(UnicodeEncodeError):
            return text.encode()
    return writable(text).encode()


def read_csv(path: Path, advice: str = OURS) -> Generator[tuple[int, list[str]], None, None]:
    """Read the header of a CSV file, then every row, each with the number of its first line, from 1.

    Args:
        path: of the file.
        advice: what to do if it is damaged.

    Raises:
        OutputError: it is missing or not CSV, or a row has more or fewer fields than the header.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LARGEST_CELL))
    width, number = 0, 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for line in reader:
                if line:  # an editor may add empty lines; ours are never empty
                    width = width or len(line)
                    if len(line) != width:
                        fields = f"{len(line)} fields, the header has {width}"
                        raise OutputError(f"{path}, line {reader.line_num}: {fields}; {advice}")
                    yield number, line
                number = reader.line_num + 1
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise OutputError(f"{path} cannot be read: {error}; {advice}") from error


def cells_of_lines(path: Path, advice: str = OURS) -> Generator[list[str], None, None]:
    """Like `read_csv`, without the line numbers."""
    for _, line in read_csv(path, advice):
        yield line


def encoding_of(path: Path) -> str:
    """Return the encoding of one of our files, by its first bytes."""
    with path.open("rb") as file:
        return "utf-8-sig" if file.read(3) == codecs.BOM_UTF8 else "utf-8"


def ends_plainly(file: BinaryIO) -> bool:
    """Return whether a file ends as we write it: an editor may drop the last line's end, or add an empty line."""
    file.seek(-2, os.SEEK_END)
    ending = file.read()
    return ending.endswith(b"\n") and ending != b"\n\n"


def sha256_of(path: Path) -> bytes:
    """Return the hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def replace(
    path: Path, write: Callable[[BinaryIO], object], name: str = "", before: Callable[[], object] = lambda: None
) -> None:
    """Write a temporary file, flush it to disk, and rename it to the path.

    Args:
        path: of the file.
        write: writes its content.
        name: tells the temporary files of several processes apart, if several write it.
        before: is called before the renaming.

    Raises:
        OutputError: the disk is full, the directory is read-only, ...; the old file is unchanged.
    """
    temporary = path.with_name(f".{path.name}{name}.tmp")
    try:
        with as_output_errors(path, "written"), temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        before()
        with as_output_errors(path, "written"):
            temporary.replace(path)
            _sync_directory(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


class Nowhere(io.RawIOBase):
    """A file that keeps nothing."""

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        return len(content)


class Hashing(io.RawIOBase):
    """Writes to a file, and hashes what it writes.

    Attributes:
        sha256: of all that was written.
    """

    def __init__(self, file: BinaryIO | Nowhere) -> None:
        self._file = file
        self._end = 0
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._end

    def write(self, content: Any) -> int:
        self.sha256.update(content)
        self._end += len(content)
        return self._file.write(content) or 0


@contextlib.contextmanager
def as_output_errors(what: object, doing: str) -> Iterator[None]:
    """Raise an error of the system as an `OutputError` that tells what failed, and why."""
    try:
        yield
    except OSError as error:
        raise output_error(f"{what} cannot be {doing}: {error.strerror}", error) from error


def _sync_directory(directory: Path) -> None:
    """Make a rename durable, on systems that can open a directory."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

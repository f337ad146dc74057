"""The output directory: the names in it, chunk files, and `all_<keyword>.csv`.

Invariant: a file that exists is whole, and one that somebody has changed is never overwritten without a copy.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import BinaryIO

from batcher.cell import cell
from batcher.errors import InputError, OutputError
from batcher.records import Result, Values

# A byte order mark in front of the first column's name would not be read as a part of it.
_QUOTED = re.compile('[",\r\n\ufeff]')
# What no UTF-8 file and few readers of CSV can hold; the journal keeps the text as it came.
_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")
_LARGEST_CELL = 2**25  # characters; the csv module's own limit of 131,072 is less than one long answer


class FileState(Enum):
    """What became of a chunk file since it was written."""

    INTACT = auto()
    EDITED = auto()
    BROKEN = auto()
    MISSING = auto()


def csv_line(cells: Iterable[str]) -> str:
    r"""Return a line of CSV without its end (RFC 4180, `\n` ends a line).

    The `csv` module leaves a lone `\r` unquoted up to Python 3.12, and such a file cannot be read back.
    """
    return ",".join('"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text for text in cells)


class Store:
    """The files of one keyword in one directory.

    Args:
        directory: made if it is missing.
        keyword: checked already.
        columns: the input's columns.
        answer_columns: those that are added: answer, status, error.

    Raises:
        InputError: an added column is among the input's.
    """

    def __init__(
        self, directory: Path, keyword: str, columns: Sequence[str] = (), answer_columns: Sequence[str] = ()
    ) -> None:
        for column in answer_columns:
            if column in columns:
                raise InputError(f"the input has a column {column!r} already: choose another --answer-column")
        self.directory = directory
        self.keyword = keyword
        self.header = _writable(csv_line((*columns, *answer_columns)))

    @property
    def journal_path(self) -> Path:
        return self.directory / f"journal_{self.keyword}.sqlite"

    @property
    def all_path(self) -> Path:
        return self.directory / f"all_{self.keyword}.csv"

    def chunk_path(self, start: int) -> Path:
        return self.directory / f"{start}_{self.keyword}.csv"

    def prepare(self) -> None:
        """Make the directory, and clear away what a killed process left half written.

        Raises:
            OutputError: it cannot be made or written; or it holds files of this keyword without a journal.
        """
        if self.directory.exists() and not self.directory.is_dir():
            raise OutputError(f"{self.directory} is no directory: choose another --output-dir")
        with _errors_told(f"the output directory {self.directory}", "used"):
            self.directory.mkdir(parents=True, exist_ok=True)
            for leftover in self._matching(r"\.([0-9]+|all)", r"\.csv\.tmp"):
                leftover.unlink()
            results = self._matching("([0-9]+|all)", r"\.csv")
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise OutputError(f"the output directory {self.directory} cannot be written: check its permissions")
        if results and not self.journal_path.exists():
            raise OutputError(
                f"{min(results)} is there, but {self.journal_path.name}, which knows what it answers, is not: put the"
                " journal back, or choose another --keyword or --output-dir"
            )

    def _matching(self, head: str, tail: str) -> list[Path]:
        """Return the files of this keyword; other keywords may end or begin with it, and their runs may be writing."""
        name = re.compile(f"{head}_{re.escape(self.keyword)}{tail}")
        return [path for path in self.directory.iterdir() if name.fullmatch(path.name)]

    def lines(self, rows: Iterable[Values]) -> list[str]:
        """Return the input's part of each row's line."""
        return [csv_line(map(cell, values)) for values in rows]

    def origin(self, lines: Sequence[str], states: Sequence[tuple[bytes, int | None]]) -> bytes:
        """Return the hash of all that a chunk file is made from: its rows, their keys and their results' ids."""
        digest = hashlib.blake2b(self.header.encode("utf-8", "surrogatepass"), digest_size=16)
        digest.update("\n".join(lines).encode("utf-8", "surrogatepass"))
        digest.update(b"".join(key for key, _ in states))
        digest.update(",".join(str(result) for _, result in states).encode())
        return digest.digest()

    def state(self, start: int, rows: int, sha256: bytes) -> FileState:
        """Tell what became of a chunk file since it was written."""
        path = self.chunk_path(start)
        with _errors_told(path, "read"):
            if not path.exists():
                return FileState.MISSING
            if _sha256(path) == sha256:
                return FileState.INTACT
        try:
            found = sum(1 for _ in self._read_lines(path))
        except OutputError:
            return FileState.BROKEN
        return FileState.EDITED if found == rows else FileState.BROKEN

    def write_chunk(
        self, start: int, lines: Sequence[str], results: Sequence[Result], known_sha256: bytes | None
    ) -> tuple[bytes, Path | None]:
        """Write a chunk file, whole or not at all.

        Args:
            start: the position of its first row.
            lines: the input's part of each line.
            results: how each row ended.
            known_sha256: of the file that we wrote there before, if we did.

        Returns:
            The new file's SHA-256, and the copy that was made of a file which somebody had changed.

        Raises:
            OutputError: the disk is full, the directory read-only, ...; what was there stands, maybe as that copy.
        """
        ends = (csv_line((result.answer, result.status.value, result.error)) for result in results)
        body = [f"{line},{end}" for line, end in zip(lines, ends, strict=True)]
        content = _encoded("\n".join([self.header, *body, ""]))
        sha256 = hashlib.sha256(content).digest()
        copy = self._keep_changed(self.chunk_path(start), {known_sha256, sha256})
        _replace(self.chunk_path(start), lambda file: file.write(content))
        return sha256, copy

    def remove_chunk(self, start: int, known_sha256: bytes) -> Path | None:
        """Remove a chunk file that is no part of the result any more; return the copy, if one was made."""
        path = self.chunk_path(start)
        copy = self._keep_changed(path, {known_sha256})
        with _errors_told(path, "removed"):
            path.unlink(missing_ok=True)
        return copy

    def join(self, starts: Sequence[int]) -> Path:
        """Write `all_<keyword>.csv` from the chunk files as they are.

        Raises:
            OutputError: a chunk file has other columns, or cannot be read.
        """

        def write(file: BinaryIO) -> None:
            file.write(_encoded(self.header + "\n"))
            for start in starts:
                self._append(self.chunk_path(start), file)

        _replace(self.all_path, write)
        return self.all_path

    def _append(self, path: Path, file: BinaryIO) -> None:
        header = _encoded(self.header + "\n")
        with _errors_told(path, "read"):
            chunk = path.open("rb")
        with chunk:
            if chunk.read(len(header)) == header and _ends_plainly(chunk):
                chunk.seek(len(header))
                shutil.copyfileobj(chunk, file, 1 << 20)
                return
        file.writelines(_encoded(csv_line(line) + "\n") for line in self._read_lines(path))

    def _read_lines(self, path: Path) -> Iterator[list[str]]:
        """Read a chunk file that a spreadsheet or an editor has saved in its own manner."""
        csv.field_size_limit(max(csv.field_size_limit(), _LARGEST_CELL))
        [expected] = csv.reader([self.header], strict=True)
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, strict=True)
                header = next(reader, [])
                if header != expected:
                    raise OutputError(f"{path} has other columns than this run: {csv_line(header)}")
                for line in filter(None, reader):  # an editor may leave empty lines; ours are never empty
                    if len(line) != len(header):
                        raise OutputError(
                            f"{path}, line {reader.line_num}: {len(line)} fields, the header has {len(header)}"
                        )
                    yield line
        except (OSError, csv.Error, UnicodeDecodeError) as error:
            raise OutputError(f"{path} cannot be read: {error}; delete it, and the next run makes it anew") from error

    def _keep_changed(self, path: Path, known: set[bytes | None]) -> Path | None:
        with _errors_told(path, "replaced"):
            if not path.exists() or _sha256(path) in known:
                return None
            copies = (path.with_name(f"{path.name}.bak{number or ''}") for number in itertools.count())
            copy = next(candidate for candidate in copies if not candidate.exists())
            path.replace(copy)
            return copy


def _writable(text: str) -> str:
    return _UNWRITABLE.sub("\ufffd", text)


def _encoded(text: str) -> bytes:
    return _writable(text).encode()


def _ends_plainly(file: BinaryIO) -> bool:
    """Tell whether a file ends as ours do: an editor may drop the last line's end, or add an empty line."""
    file.seek(-2, os.SEEK_END)
    ending = file.read()
    return ending.endswith(b"\n") and ending != b"\n\n"


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside its place, flush it to disk, and rename it.

    Raises:
        OutputError: the disk is full, the directory read-only, ...; the old file stands as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with _errors_told(path, "written"):
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_directory(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _errors_told(what: object, doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{what} cannot be {doing}: {error.strerror}") from error


def _sync_directory(directory: Path) -> None:
    """Make a rename last; not every system opens directories."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

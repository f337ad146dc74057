"""The output directory: the names in it, chunk files, and `all_<keyword>.csv`.

Invariant: a file that exists is whole, and a file changed by hand is never overwritten without a copy.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, NamedTuple

from batcher.answer.columns import AnswerColumns
from batcher.errors import InputError, OutputError, SettingsError
from batcher.input.cell import cell, writable
from batcher.output.csv_file import (
    FOREIGN,
    Hashing,
    as_output_errors,
    cells_of_lines,
    csv_line,
    encoded,
    encoding_of,
    ends_plainly,
    read_csv,
    replace,
    sha256_of,
)
from batcher.output.edited import Edited, Known, read_edited
from batcher.place import identity
from batcher.records import Beside, Result, RowState, Values
from batcher.words import as_given, by_reader, counted, option


def set_aside(path: Path) -> Path:
    """Rename a file or a directory to `.bak`, `.bak1`, ..., the first name that is free, and return it."""
    copies = (path.with_name(f"{path.name}.bak{number or ''}") for number in itertools.count())
    copy = next(candidate for candidate in copies if not candidate.exists())
    return path.replace(copy)


def came_back(path: Path, how: str, corrections: int) -> str:
    """Return what people are told of a chunk file that came back in another form, before they learn of its copy."""
    corrected = f"; {counted(corrections, 'row was', 'rows were')} corrected" if corrections else ""
    return f"{path} came back {how}{corrected}. It is written in its own form again, with the corrections"


def workbook_read(path: Path, result: Path, corrections: int, copy: object) -> str:
    """Return what people are told of a workbook beside a chunk file."""
    corrected = f"{counted(corrections, 'row was', 'rows were')} corrected" if corrections else "nothing is new in it"
    return f"{path} is read: {corrected}. {result.name} has its answers, and your workbook is kept as {copy}."


def result_changed(path: Path, copy: Path) -> str:
    """Return what people are told if a result that is written again had been changed."""
    return (
        f"{path} was changed since it was written: your version is kept as {copy}. Correct answers in the chunk files:"
        " every later result is joined from them."
    )


ENCODINGS = ("utf-8", "utf-8-sig")
"""The encodings of files."""


def _taken(columns: Sequence[str]) -> str:
    """Return the message about columns of the input that the result would have twice."""
    *some, last = map(repr, columns)
    it, has = ("them", f"columns {', '.join(some)} and {last}") if some else ("it", f"a column {last}")
    dropped = json.dumps(columns[0] if len(columns) == 1 else list(columns), ensure_ascii=False)
    out = by_reader(command_line=f"leave {it} out", python=f"leave {it} out: df.drop(columns={dropped})")
    return f"the input has {has} already: choose another {as_given('answer_column')}, or {out}"


class Facts(NamedTuple):
    """Facts of the journal in further columns of a result, which the chunk files lack.

    Attributes:
        names: fields of `Beside`.
        of: returns their cells in each row of the chunk that begins at a position.
    """

    names: Sequence[str] = ()
    of: Callable[[int], Iterable[Sequence[str]]] = lambda _start: ()


_NO_FACTS = Facts()


class Store:
    """The files of one keyword in one directory.

    Args:
        directory: created if it is missing.
        keyword: checked already.
        columns: the input's columns.
        answer_columns: the columns that are added; default: the standard names.
        encoding: of the files: `utf-8` or `utf-8-sig`.

    Raises:
        InputError: an added column is among the input's.
    """

    def __init__(
        self,
        directory: Path,
        keyword: str,
        columns: Sequence[str] = (),
        answer_columns: AnswerColumns | None = None,
        encoding: str = "utf-8",
    ) -> None:
        added = answer_columns or AnswerColumns()
        if taken := [column for column in added if column in columns]:
            raise InputError(_taken(taken))
        self.directory = directory
        self.keyword = keyword
        self.columns = tuple(map(writable, columns))
        self.answer_columns = added.in_files(writable)
        self.encoding = encoding
        self.all_columns = [*self.columns, *self.answer_columns]
        self.header = csv_line(self.all_columns)
        self._head = (self.header + "\n").encode(encoding)

    def in_each_encoding(self) -> Iterator[Store]:
        """Yield the store as it may have written: a spreadsheet may since have added or dropped a byte order mark."""
        for encoding in ENCODINGS:
            yield Store(self.directory, self.keyword, self.columns, self.answer_columns, encoding)

    def with_facts(self, names: Iterable[str]) -> Store:
        """Return the store of a result with further facts behind the columns.

        Raises:
            SettingsError: the result would have a column twice.
        """
        added = self.answer_columns.with_facts(names)
        if twin := next((name for name in added if name in self.columns), None):
            fact = twin.removeprefix(f"{added.answer}_")
            raise SettingsError(f"{option('with_')}: the table has a column {twin!r} already: leave {fact!r} out")
        return Store(self.directory, self.keyword, self.columns, added, self.encoding)

    @property
    def journal_path(self) -> Path:
        return self.directory / f"journal_{self.keyword}.sqlite"

    @property
    def all_path(self) -> Path:
        return self.directory / f"all_{self.keyword}.csv"

    @property
    def partial_path(self) -> Path:
        return self.directory / f"partial_{self.keyword}.csv"

    @property
    def control_path(self) -> Path:
        return self.directory / f"control_{self.keyword}.json"

    def bytes_used(self) -> int:
        """Return the bytes of the journal, its log and the chunk files."""
        name = glob.escape(self.keyword)
        found = [*self.directory.glob(f"journal_{name}.sqlite*"), *self.directory.glob(f"[0-9]*_{name}.csv")]
        return sum(path.stat().st_size for path in found)

    def chunk_path(self, start: int) -> Path:
        return self.directory / f"{start}_{self.keyword}.csv"

    def workbook_path(self, part: int | str) -> Path:
        """Return where a person finds it natural to save a chunk file, or the result, as a workbook."""
        return self.directory / f"{part}_{self.keyword}.xlsx"

    def is_ours(self, path: Path) -> bool:
        """Return whether a file is one that a run of this keyword writes."""
        path = path.resolve()
        name = re.compile(rf"(?:0|[1-9][0-9]*|all|partial)_{re.escape(self.keyword)}\.csv")
        return path.parent == self.directory.resolve() and name.fullmatch(path.name) is not None

    def check(self) -> None:
        """Check that the directory can be used or created, and write nothing.

        Raises:
            OutputError: it cannot, or it holds a result of this keyword without its journal and chunk files.
        """
        with as_output_errors(f"the output directory {self.directory}", "used"):
            found = next(each for each in (self.directory, *self.directory.absolute().parents) if each.exists())
        if not found.is_dir():
            raise OutputError(f"{found} is not a directory: choose another {as_given('output_dir')}")
        if not os.access(found, os.W_OK | os.X_OK):
            raise OutputError(f"the output directory {found} cannot be written: check its permissions")
        if self.all_path.exists() and not self.journal_path.exists() and not self.starts():
            raise OutputError(
                f"{self.all_path} exists, but neither its journal ({self.journal_path.name}) nor a"
                f" chunk file: put the journal back, or choose another {as_given('keyword')} or"
                f" {as_given('output_dir')}"
            )

    def starts(self) -> set[int]:
        """Return the first row of each existing chunk file."""
        if not self.directory.exists():
            return set()
        with as_output_errors(f"the output directory {self.directory}", "read"):
            names = [path.name for path in self._matching("(0|[1-9][0-9]*)", r"\.csv")]
        return {int(name.partition("_")[0]) for name in names}

    def workbooks(self) -> set[int]:
        """Return the first row of each chunk file that somebody has saved as a workbook."""
        if not self.directory.exists():
            return set()
        with as_output_errors(f"the output directory {self.directory}", "read"):
            names = [path.name for path in self._matching("(0|[1-9][0-9]*)", r"\.xlsx")]
        return {int(name.partition("_")[0]) for name in names}

    def set_workbook_aside(self, start: int, corrections: int) -> str:
        """Rename the workbook beside a chunk file, when its corrections are safe; return what people are told."""
        path = self.workbook_path(start)
        with as_output_errors(path, "renamed"):
            return workbook_read(path, self.chunk_path(start), corrections, set_aside(path))

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """Make the directory for the block; if nothing is in it at the end, remove it again.

        Raises:
            OutputError: it cannot be created or written, or `check` refuses it.
        """
        self.check()
        made: list[tuple[Path, tuple[int, int] | None]] = []
        try:
            with as_output_errors(f"the output directory {self.directory}", "used"):
                missing = [each for each in (self.directory, *self.directory.parents) if not each.exists()]
                for directory in reversed(missing):
                    directory.mkdir(exist_ok=True)
                    made.append((directory, identity(directory)))
            yield
        finally:
            for directory, itself in reversed(made):
                with contextlib.suppress(OSError):  # it is not empty, or gone
                    if identity(directory) == itself:  # else it was moved, and this one was made by someone else
                        directory.rmdir()

    def clear(self) -> None:
        """Remove the temporary files of a killed process; call it only when no other process can be writing them.

        Raises:
            OutputError: one cannot be removed.
        """
        with as_output_errors(f"the output directory {self.directory}", "used"):
            for leftover in self._matching(r"\.([0-9]+|all|partial)", r"\.csv(\.[0-9]+)?\.tmp"):
                leftover.unlink()

    def _matching(self, head: str, tail: str) -> list[Path]:
        """Return the files of exactly this keyword: others may begin or end with it, and their runs may be at work."""
        name = re.compile(f"{head}_{re.escape(self.keyword)}{tail}")
        return [path for path in self.directory.iterdir() if name.fullmatch(path.name)]

    def lines(self, rows: Iterable[Values]) -> list[str]:
        """Return the input's part of each row's line."""
        return [csv_line(map(cell, values)) for values in rows]

    def origin(self, lines: Sequence[str], states: Sequence[RowState]) -> bytes:
        """Return the hash of all that a chunk file is made from: its rows, with the key and the result's id of each."""
        digest = hashlib.blake2b(self._head, digest_size=16)
        digest.update("\n".join(lines).encode("utf-8", "surrogatepass"))
        digest.update(b"".join(state.key for state in states))
        digest.update(",".join(str(state.result) for state in states).encode())
        return digest.digest()

    def look(self, start: int) -> tuple[list[str], int, bytes]:
        """Return the columns of a chunk file, its number of rows, and its SHA-256.

        Raises:
            OutputError: it cannot be read.
        """
        path = self.chunk_path(start)
        with as_output_errors(path, "read"):
            sha256 = sha256_of(path)
        with closing(cells_of_lines(path, FOREIGN)) as lines:
            columns = next(lines, [])
            return columns, sum(1 for _ in lines), sha256

    def lines_of(self, start: int) -> Generator[list[str], None, None]:
        """Read the rows of a chunk file with any columns.

        Raises:
            OutputError: it cannot be read.
        """
        lines = cells_of_lines(self.chunk_path(start), FOREIGN)
        next(lines, None)
        return lines

    def sha256(self, start: int) -> bytes | None:
        """Return the hash of a chunk file, or None if there is none."""
        path = self.chunk_path(start)
        with as_output_errors(path, "read"):
            return sha256_of(path) if path.exists() else None

    def as_found(self, starts: Iterable[int], answer_column: str | None) -> Store:
        """Return a store with the columns of its files, for use without the input.

        Args:
            starts: of the chunk files.
            answer_column: the name of the answer column, if it is known.
        """
        for path in (*map(self.chunk_path, starts), self.all_path):
            with contextlib.suppress(OutputError), closing(read_csv(path)) as lines:
                _, columns = next(lines, (0, []))
                added = AnswerColumns.ending(columns)
                is_unique = len(set(columns)) == len(columns)
                if added and is_unique and answer_column in {None, added.answer}:
                    return Store(self.directory, self.keyword, added.split(columns)[0], added, encoding_of(path))
        return self

    def is_joined(self, starts: Iterable[int]) -> bool:
        """Return whether `all_<keyword>.csv` equals, byte for byte, the join of these chunk files."""
        with as_output_errors(self.all_path, "compared"), self.all_path.open("rb") as whole:
            if whole.read(len(self._head)) != self._head:
                return False
            for start in starts:
                if not self.chunk_path(start).exists():
                    return False
                with self.chunk_path(start).open("rb") as chunk:
                    if chunk.read(len(self._head)) != self._head:
                        return False
                    while block := chunk.read(1 << 20):
                        if whole.read(len(block)) != block:
                            return False
            return not whole.read(1)

    def is_empty(self, start: int) -> bool:
        """Return whether a chunk file is missing or holds nothing, so that no correction can be in it."""
        path = self.chunk_path(start)
        with as_output_errors(path, "read"):
            return not path.exists() or not path.stat().st_size

    def answers(self, results: Sequence[Result], beside: Iterable[Beside] | None = None) -> list[list[str]]:
        """Return the cells of the answer columns of rows.

        Args:
            results: how each row ended.
            beside: what came beside each answer; needed for the columns of `--with`.
        """
        pairs = zip(results, itertools.repeat(Beside()) if beside is None else beside, strict=False)
        return [[*map(writable, self.answer_columns.cells_of(*each))] for each in pairs]

    def read_edited(self, start: int, rows: Sequence[Values], answers: Sequence[Sequence[str]]) -> Edited:
        """Read a chunk file that was changed, with the corrections of its answers.

        Args:
            start: the position of its first row.
            rows: the input's.
            answers: the cells of their answer columns by the journal.

        Raises:
            UnfitError: it is not certain which corrections it holds.
        """
        return read_edited(self.chunk_path(start), Known(self.columns, self.answer_columns, rows, answers))

    def write_edited(self, start: int, lines: Sequence[Sequence[str]], known: Collection[bytes] = ()) -> Path | None:
        """Write a chunk file that was changed in the form of a run's files again, with its corrections.

        Args:
            start: the position of its first row.
            lines: all cells of its rows.
            known: the SHA-256 of a file there that holds no corrections.

        Returns:
            The path of the copy of the file that was there.
        """
        path = self.chunk_path(start)
        content = self._head + encoded("".join(csv_line(line) + "\n" for line in lines))
        copy = self._keep_changed(path, {*known, hashlib.sha256(content).digest()})
        replace(path, lambda file: file.write(content))
        return copy

    def write_chunk(
        self,
        start: int,
        lines: Sequence[str],
        results: Sequence[Result],
        known_sha256: bytes | None,
        beside: Iterable[Beside] | None = None,
    ) -> tuple[bytes, Path | None]:
        """Write a chunk file, whole or not at all.

        Args:
            start: the position of its first row.
            lines: the input's part of each line.
            results: how each row ended.
            known_sha256: of our own earlier file there, if there was one.
            beside: what came beside each answer; needed for the columns of `--with`.

        Returns:
            The new file's SHA-256, and the path of the copy, if an existing file had been changed.

        Raises:
            OutputError: the disk is full, the directory is read-only, ...; the old file is still there, perhaps as the
                copy.
        """
        pairs = zip(results, itertools.repeat(Beside()) if beside is None else beside, strict=False)
        ends = (csv_line(self.answer_columns.cells_of(*each)) for each in pairs)
        body = [f"{line},{end}" for line, end in zip(lines, ends, strict=True)]
        content = self._head + encoded("\n".join([*body, ""]))
        sha256 = hashlib.sha256(content).digest()
        copy = self._keep_changed(self.chunk_path(start), {known_sha256, sha256})
        replace(self.chunk_path(start), lambda file: file.write(content))
        return sha256, copy

    def remove_chunk(self, start: int, known_sha256: bytes | None) -> Path | None:
        """Remove a chunk file that is no longer part of the result; return the copy, if one was made."""
        path = self.chunk_path(start)
        copy = self._keep_changed(path, {known_sha256})
        with as_output_errors(path, "removed"):
            path.unlink(missing_ok=True)
        return copy

    def join(
        self,
        starts: Sequence[int],
        path: Path | None = None,
        *,
        known: Collection[bytes] = (),
        record: Callable[[bytes], object] = lambda _sha256: None,
        facts: Facts = _NO_FACTS,
    ) -> tuple[Path, Path | None]:
        """Write `all_<keyword>.csv`, or another file, from the chunk files as they are.

        Args:
            starts: of the chunk files.
            path: of the file.
            known: the SHA-256 of each file that was ever written there; another one was changed by hand.
            record: is called with the new file's SHA-256 before the file is in its place, so that the file is known
                even if the process ends then.
            facts: further columns of it.

        Returns:
            The path of the file, and of the copy, if the file there had been changed.

        Raises:
            OutputError: a chunk file has other columns, or cannot be read.
        """
        path = path or self.all_path
        digest, copy = hashlib.sha256(), None

        def write(file: BinaryIO) -> None:
            nonlocal digest
            hashing = Hashing(file)
            hashing.write(self.with_facts(facts.names)._head)  # noqa: SLF001 - a store of the same files
            for start in starts:
                if facts.names:
                    self._append_with(facts.of(start), self.chunk_path(start), hashing)
                else:
                    self._append(self.chunk_path(start), hashing)
            digest = hashing.sha256

        def keep() -> None:
            nonlocal copy
            if digest.digest() not in known:
                record(digest.digest())
            copy = self._keep_changed(path, {*known, digest.digest()})

        replace(path, write, before=keep)
        return path, copy

    def _append(self, path: Path, file: Hashing) -> None:
        with as_output_errors(path, "read"):
            chunk = path.open("rb")
        with chunk:
            if chunk.read(len(self._head)) == self._head and ends_plainly(chunk):
                chunk.seek(len(self._head))
                shutil.copyfileobj(chunk, file, 1 << 20)
                return
        for line in self._read_lines(path):
            file.write(encoded(csv_line(line) + "\n"))

    def _append_with(self, facts: Iterable[Sequence[str]], path: Path, file: Hashing) -> None:
        with closing(self._read_lines(path)) as lines:
            for line, more in zip(lines, facts, strict=True):
                file.write(encoded(csv_line([*line, *more]) + "\n"))

    def _read_lines(self, path: Path) -> Generator[list[str], None, None]:
        """Read the rows of a chunk file that a spreadsheet or an editor has saved in its own format."""
        lines = cells_of_lines(path)
        header = next(lines, [])
        if header != self.all_columns:
            lines.close()
            raise OutputError(f"{path} has other columns than this run: {csv_line(header)}")
        return lines

    def _keep_changed(self, path: Path, known: set[bytes | None]) -> Path | None:
        with as_output_errors(path, "replaced"):
            return None if not path.exists() or sha256_of(path) in known else set_aside(path)

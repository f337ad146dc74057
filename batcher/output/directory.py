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
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from batcher.answer.columns import AnswerColumns
from batcher.errors import InputError, OutputError, SettingsError
from batcher.input.cell import writable
from batcher.input.types import Types
from batcher.output.csv_file import FOREIGN, OURS, Hashing, Nowhere, as_output_errors, encoding_of, replace, sha256_of
from batcher.output.edited import Edited, Known, read_edited
from batcher.output.file_format import Block, CsvFormat, FileFormat, Joint, read_table
from batcher.place import identity
from batcher.records import Beside, Result, RowState, Values
from batcher.words import as_given, by_reader, counted, option


def _format_of(store: Store) -> FileFormat:
    if store.types is None:
        return CsvFormat(store.columns, store.answer_columns, store.encoding)
    from batcher.output.parquet_file import ParquetFormat  # noqa: PLC0415 - PyArrow is slow to load

    return ParquetFormat(store.types, store.answer_columns)


def journals_in(directory: Path) -> dict[str, Path]:
    """Return the journals of a directory by the keywords of their runs, in the order of these.

    Raises:
        OSError: it cannot be read.
    """
    found = ((match[1], path) for path in directory.iterdir() if (match := _JOURNAL.fullmatch(path.name)))
    return dict(sorted(found))


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


SUFFIXES = (CsvFormat.suffix, ".parquet")
RESPONSES = ".jsonl"
"""The ending of the files of responses."""
NPY_SUFFIX = ".npy"
_JOURNAL = re.compile(r"journal_(.+)\.sqlite")
_ENDINGS = "(?:{})".format("|".join(map(re.escape, SUFFIXES)))


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
        encoding: of CSV files: `utf-8` or `utf-8-sig`.
        types: of the input's columns, for Parquet files; None: the files are CSV.

    Raises:
        InputError: an added column is among the input's, or two of the input's have one name in a file.
    """

    def __init__(
        self,
        directory: Path,
        keyword: str,
        columns: Sequence[str] = (),
        answer_columns: AnswerColumns | None = None,
        encoding: str = "utf-8",
        *,
        types: Types | None = None,
    ) -> None:
        added = answer_columns or AnswerColumns()
        if taken := [column for column in added if column in columns]:
            raise InputError(_taken(taken))
        self.directory = directory
        self.keyword = keyword
        self.columns = tuple(map(writable, columns))
        if len(set(self.columns)) < len(self.columns) == len(set(columns)):
            twins = [name for name in columns if self.columns.count(writable(name)) > 1]
            raise InputError(
                f"the columns {', '.join(map(repr, twins))} would have the same name in the files, which hold no NUL"
                " and no lone surrogate: give them other names"
            )
        self.answer_columns = added.in_files(writable)
        self.encoding = encoding
        self.all_columns = [*self.columns, *self.answer_columns]
        self.types = types and types.named(self.columns)
        self._format = _format_of(self)

    def in_each_encoding(self) -> Iterator[Store]:
        """Yield the store as it may have written: a spreadsheet may since have added or dropped a byte order mark."""
        for encoding in ENCODINGS:
            yield Store(self.directory, self.keyword, self.columns, self.answer_columns, encoding, types=self.types)

    def with_facts(self, names: Iterable[str]) -> Store:
        """Return the store of a result with further facts behind the columns.

        Raises:
            SettingsError: the result would have a column twice.
        """
        added = self.answer_columns.with_facts(names)
        if twin := next((name for name in added if name in self.columns), None):
            fact = twin.removeprefix(f"{added.answer}_")
            raise SettingsError(f"{option('with_')}: the table has a column {twin!r} already: leave {fact!r} out")
        return Store(self.directory, self.keyword, self.columns, added, self.encoding, types=self.types)

    @property
    def journal_path(self) -> Path:
        return self.directory / f"journal_{self.keyword}.sqlite"

    @property
    def suffix(self) -> str:
        """The ending of the files' names."""
        return self._format.suffix

    @property
    def all_path(self) -> Path:
        return self._path("all")

    @property
    def responses_path(self) -> Path:
        """Where the responses to the lines of a requests file are."""
        return self._path("all", RESPONSES)

    @property
    def partial_responses_path(self) -> Path:
        return self._path("partial", RESPONSES)

    @property
    def npy_path(self) -> Path:
        """Where all vectors are in a file of NumPy."""
        return self._path("all", NPY_SUFFIX)

    def _path(self, part: int | str, suffix: str | None = None) -> Path:
        return self.directory / f"{part}_{self.keyword}{suffix or self.suffix}"

    def _in_other_format(self, part: int | str) -> list[Path]:
        """Return where the file is that a run with another format wrote."""
        return [self._path(part, suffix) for suffix in SUFFIXES if suffix != self.suffix]

    def results(self) -> list[Path]:
        """Return where the result is, in each format."""
        return [self.all_path, *self._in_other_format("all")]

    @property
    def partial_path(self) -> Path:
        return self._path("partial")

    @property
    def sample_path(self) -> Path:
        """Where people label a sample by hand."""
        return self._path("sample", CsvFormat.suffix)

    @property
    def report_path(self) -> Path:
        """Where the report of the run is written (`batcher report`)."""
        return self.directory / f"report_{self.keyword}.html"

    @property
    def control_path(self) -> Path:
        return self.directory / f"control_{self.keyword}.json"

    def batch_path(self, name: str, what: str = "") -> Path:
        """Return where the lines of a batch are while they are needed, or what came of them.

        Args:
            name: of the batch.
            what: came of it: `_output` or `_error`.
        """
        return self.directory / f"batch_{self.keyword}_{name}{what}.jsonl"

    def batch_files(self) -> dict[Path, str]:
        """Return the files of batches, with the name of the batch of each."""
        if not self.directory.exists():
            return {}
        with as_output_errors(f"the output directory {self.directory}", "read"):
            found = [*self.directory.iterdir()]
        name = re.compile(rf"batch_{re.escape(self.keyword)}_([0-9a-f]{{16}})(_output|_error)?\.jsonl")
        return {path: match[1] for path in found if (match := name.fullmatch(path.name))}

    def bytes_used(self) -> int:
        """Return the bytes of the journal, its log and the chunk files."""
        name = glob.escape(self.keyword)
        found = [*self.directory.glob(f"journal_{name}.sqlite*"), *self.directory.glob(f"[0-9]*_{name}.*")]
        return sum(path.stat().st_size for path in found)

    def chunk_path(self, start: int) -> Path:
        return self._path(start)

    def chunk_file(self, start: int) -> Path:
        """Return the path of a chunk file that exists, if only in another format; else the path that it will have."""
        own = self.chunk_path(start)
        return own if own.exists() else next(filter(Path.exists, self._in_other_format(start)), own)

    def read(self, path: Path, advice: str = OURS) -> Generator[tuple[int, list[str]], None, None]:
        """Read the columns of a file, then every row as cells of text, each with the number of its line, from 1.

        Raises:
            OutputError: it is missing or damaged.
        """
        return read_table(path, self.answer_columns, advice)

    def cells(self, path: Path) -> Generator[list[str], None, None]:
        """Like `read`, without the numbers."""
        for _, line in self.read(path, FOREIGN):
            yield line

    def is_own(self, path: Path) -> bool:
        """Return whether a file has the format of the run's, and columns of the run's types."""
        return self._format.is_own(path)

    def workbook_path(self, part: int | str) -> Path:
        """Return where a person finds it natural to save a chunk file, or the result, as a workbook."""
        return self.directory / f"{part}_{self.keyword}.xlsx"

    def is_ours(self, path: Path) -> bool:
        """Return whether a file is one that a run of this keyword writes."""
        path = path.resolve()
        keyword, responses = re.escape(self.keyword), re.escape(RESPONSES)
        name = re.compile(
            rf"(?:0|[1-9][0-9]*|all|partial)_{keyword}{_ENDINGS}|(?:all|partial)_{keyword}{responses}"
            rf"|sample_{keyword}\.csv"
            rf"|control_{keyword}\.json|all_{keyword}{re.escape(NPY_SUFFIX)}"
            rf"|batch_{keyword}_[0-9a-f]{{16}}(?:_output|_error)?\.jsonl"
        )
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
        results = [path for path in self.results() if path.exists()]
        if results and not self.journal_path.exists() and not self.starts():
            raise OutputError(
                f"{results[0]} exists, but neither its journal ({self.journal_path.name}) nor a"
                f" chunk file: put the journal back, or choose another {as_given('keyword')} or"
                f" {as_given('output_dir')}"
            )

    def starts(self) -> set[int]:
        """Return the first row of each existing chunk file."""
        if not self.directory.exists():
            return set()
        with as_output_errors(f"the output directory {self.directory}", "read"):
            names = [path.name for path in self._matching("(0|[1-9][0-9]*)", _ENDINGS)]
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
            ending = f"(?:{_ENDINGS}|{re.escape(NPY_SUFFIX)}|{re.escape(RESPONSES)})"
            for leftover in self._matching(r"\.([0-9]+|all|partial|sample)", ending + r"(\.[0-9]+)?\.tmp"):
                leftover.unlink()
            for leftover in self._matching(r"\.batch", r"_[0-9a-f]{16}(_output|_error)?\.jsonl(\.[0-9]+)?\.tmp"):
                leftover.unlink()

    def _matching(self, head: str, tail: str) -> list[Path]:
        """Return the files of exactly this keyword: others may begin or end with it, and their runs may be at work."""
        name = re.compile(f"{head}_{re.escape(self.keyword)}{tail}")
        return [path for path in self.directory.iterdir() if name.fullmatch(path.name)]

    def lines(self, rows: Iterable[Values]) -> Sequence[str]:
        """Return the input's part of each row's line, as `write_chunk` needs it."""
        return self._format.lines(rows)

    def values(self, rows: Sequence[Values]) -> Any:
        """Return the columns of rows in the types of the files; None if these have none."""
        return self._format.values(rows)

    def values_in(self, path: Path) -> Any:
        """Return the input's columns in a file, in the types of the files; None if these have none."""
        return self._format.values_in(path)

    def origin(self, lines: Sequence[str], states: Sequence[RowState]) -> bytes:
        """Return the hash of all that a chunk file is made from: its rows, with the key and the result's id of each."""
        digest = hashlib.blake2b(self._format.head, digest_size=16)
        digest.update("\n".join(lines).encode("utf-8", "surrogatepass"))
        digest.update(b"".join(state.key for state in states))
        digest.update(",".join(str(state.result) for state in states).encode())
        return digest.digest()

    def look(self, start: int) -> tuple[list[str], int, bytes]:
        """Return the columns of a chunk file, its number of rows, and its SHA-256.

        Raises:
            OutputError: it cannot be read.
        """
        path = self.chunk_file(start)
        with as_output_errors(path, "read"):
            sha256 = sha256_of(path)
        with closing(self.cells(path)) as lines:
            columns = next(lines, [])
            return columns, sum(1 for _ in lines), sha256

    def lines_of(self, start: int) -> Generator[list[str], None, None]:
        """Read the rows of a chunk file with any columns.

        Raises:
            OutputError: it cannot be read.
        """
        lines = self.cells(self.chunk_file(start))
        next(lines, None)
        return lines

    def sha256(self, start: int) -> bytes | None:
        """Return the hash of a chunk file, or None if there is none."""
        path = self.chunk_file(start)
        with as_output_errors(path, "read"):
            return sha256_of(path) if path.exists() else None

    def as_found(self, starts: Iterable[int], answer_column: str | None) -> Store:
        """Return a store with the columns of its files, for use without the input.

        Args:
            starts: of the chunk files.
            answer_column: the name of the answer column, if it is known.
        """
        for path in (*map(self.chunk_file, starts), self.all_path):
            with contextlib.suppress(OutputError), closing(self.read(path)) as lines:
                _, columns = next(lines, (0, []))
                added = AnswerColumns.ending(columns)
                is_unique = len(set(columns)) == len(columns)
                if added and is_unique and answer_column in {None, added.answer}:
                    return Store(self.directory, self.keyword, added.split(columns)[0], added, encoding_of(path))
        return self

    def is_joined(self, starts: Iterable[int]) -> bool:
        """Return whether the result equals, byte for byte, the join of these chunk files."""
        return self._format.is_joined(self.all_path, [*map(self.chunk_path, starts)])

    def is_empty(self, start: int) -> bool:
        """Return whether a chunk file is missing or holds nothing, so that no correction can be in it."""
        path = self.chunk_file(start)
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
        path, known = self.chunk_file(start), Known(self.columns, self.answer_columns, rows, answers)
        return read_edited(path, known, is_own=self.is_own(path))

    def write_edited(
        self,
        start: int,
        lines: Sequence[Sequence[str]],
        known: Collection[bytes] = (),
        rows: Sequence[Values] | None = None,
    ) -> Path | None:
        """Write a chunk file that was changed in the form of a run's files again, with its corrections.

        Args:
            start: the position of its first row.
            lines: all cells of its rows.
            known: the SHA-256 of a file there that holds no corrections.
            rows: of the input, if they are known.

        Raises:
            OutputError: it cannot be written, or the input is needed for it.

        Returns:
            The path of the copy of the file that was there.
        """
        path = self.chunk_path(start)
        content = self._format.edited(lines, rows, path)
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
        content = self._format.content(lines, [self.answer_columns.cells_of(*each) for each in pairs])
        sha256 = hashlib.sha256(content).digest()
        copy = self._keep_changed(self.chunk_path(start), {known_sha256, sha256})
        replace(self.chunk_path(start), lambda file: file.write(content))
        return sha256, copy

    def remove_chunk(self, start: int, known_sha256: bytes | None) -> Path | None:
        """Remove a chunk file that is no longer part of the result; return the copy, if one was made."""
        paths = (self.chunk_path(start), *self._in_other_format(start))
        copies = [copy for path in paths if (copy := self._remove(path, {known_sha256}))]
        return copies[0] if copies else None

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

        def write(file: Hashing) -> None:
            chunks = (Joint(self.chunk_path(start), [*facts.of(start)] if facts.names else None) for start in starts)
            self._format.join(chunks, file, self.answer_columns.with_facts(facts.names))

        return path, self._put(path, write, known=known, record=record)

    def join_responses(
        self, lines: Iterable[bytes], *, known: Collection[bytes], record: Callable[[bytes], object]
    ) -> Path | None:
        """Write the responses to the lines of a requests file; return the copy, if the file there had been changed.

        Args:
            lines: of the file.
            known: as for `join`.
            record: as for `join`.
        """
        return self._put(self.responses_path, lambda file: file.writelines(lines), known=known, record=record)

    def _put(
        self,
        path: Path,
        write_to: Callable[[Hashing], object],
        *,
        known: Collection[bytes],
        record: Callable[[bytes], object],
    ) -> Path | None:
        """Write a result, whole or not at all; return the copy, if the file there had been changed."""
        digest, copy = hashlib.sha256(), None

        def write(file: BinaryIO) -> None:
            nonlocal digest
            hashing = Hashing(file)
            write_to(hashing)
            digest = hashing.sha256

        def keep() -> None:
            nonlocal copy
            if digest.digest() not in known:
                record(digest.digest())
            copy = self._keep_changed(path, {*known, digest.digest()})

        replace(path, write, before=keep)
        return copy

    def write_responses(self, lines: Iterable[bytes]) -> Path:
        """Write the responses that are there so far; several processes may write.

        Raises:
            OutputError: the disk is full, the directory is read-only, ...
        """
        replace(self.partial_responses_path, lambda file: file.writelines(lines), f".{os.getpid()}")
        return self.partial_responses_path

    def join_vectors(
        self, known: Collection[bytes], record: Callable[[bytes], object] = lambda _sha256: None
    ) -> Path | None:
        """Write the vectors of the result as a file of NumPy; return the copy of the file there, if it was changed.

        Args:
            known: the SHA-256 of each file that was ever written there.
            record: is called with the new file's SHA-256 before the file is in its place.

        Raises:
            OutputError: the vectors have different lengths, or the disk is full, ...
        """
        from batcher.output.vector_column import write_npy  # noqa: PLC0415 - NumPy is slow to load

        digest, copy = hashlib.sha256(), None

        def write(file: BinaryIO) -> None:
            nonlocal digest
            hashing = Hashing(file)
            write_npy(self.all_path, self.answer_columns.answer, hashing)  # type: ignore[arg-type]
            digest = hashing.sha256

        def keep() -> None:
            nonlocal copy
            if digest.digest() not in known:
                record(digest.digest())
            copy = self._keep_changed(self.npy_path, {*known, digest.digest()})

        replace(self.npy_path, write, before=keep)
        return copy

    def are_vectors_joined(self) -> bool:
        """Return whether the file of NumPy has, byte for byte, the vectors of the result.

        Raises:
            OutputError: a file cannot be read.
        """
        from batcher.output.vector_column import write_npy  # noqa: PLC0415 - NumPy is slow to load

        made = Hashing(Nowhere())
        write_npy(self.all_path, self.answer_columns.answer, made)  # type: ignore[arg-type]
        with as_output_errors(self.npy_path, "read"):
            return made.sha256.digest() == sha256_of(self.npy_path)

    def remove_vectors(self, known: Collection[bytes]) -> list[Path]:
        """Remove the file of NumPy that an earlier run wrote; return the copy, if it was changed."""
        copy = self._remove(self.npy_path, {*known}) if self.npy_path.exists() else None
        return [copy] if copy else []

    def write_rows(self, path: Path, blocks: Iterable[Block], names: Iterable[str] = ()) -> None:
        """Write rows that need not be in chunk files, with further facts of these names; several processes may write.

        Raises:
            OutputError: the disk is full, the directory is read-only, ...
        """
        added = self.answer_columns.with_facts(names)
        replace(path, lambda file: self._format.write(blocks, Hashing(file), added), f".{os.getpid()}")

    def remove_other_format(self, start: int, known: Collection[bytes | None]) -> list[Path]:
        """Remove the chunk file that a run with another format wrote; return the copy, if it was changed."""
        return [copy for path in self._in_other_format(start) if (copy := self._remove(path, {*known}))]

    def remove_other_results(self, joined: Callable[[str], Collection[bytes]]) -> list[Path]:
        """Remove the result that a run with another format wrote; return the copy, if it was changed.

        Args:
            joined: returns the SHA-256 of each file that was ever written under a name.
        """
        return [copy for path in self._in_other_format("all") if (copy := self._remove(path, {*joined(path.name)}))]

    def _remove(self, path: Path, known: set[bytes | None]) -> Path | None:
        copy = self._keep_changed(path, known)
        with as_output_errors(path, "removed"):
            path.unlink(missing_ok=True)
        return copy

    def _keep_changed(self, path: Path, known: set[bytes | None]) -> Path | None:
        with as_output_errors(path, "replaced"):
            return None if not path.exists() or sha256_of(path) in known else set_aside(path)

"""A table in several files of one schema: a directory, a pattern such as `data/*.parquet`, or a list of paths.

Invariant: every file is read once a pass, in one order; a file that came, went or has other columns is an error that
names it.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from batcher.errors import InputError
from batcher.input.compressed import packing_by_ending
from batcher.input.dataset import Dataset
from batcher.input.spool import STDIN
from batcher.input.types import Types
from batcher.records import Values
from batcher.visible import on_one_line
from batcher.words import counted, escape_hint

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_SYSTEM_FILES = {"Thumbs.db", "ehthumbs.db", "desktop.ini", "Icon\r"}


class Part(NamedTuple):
    """A file of the table.

    Attributes:
        path: as it is shown and opened.
        partitions: the values that its directories give, such as `year=2024`, by column.
    """

    path: str
    partitions: dict[str, str | None]


class SeveralDataset(Dataset):
    """Files of one schema, read one after the other. A column is found by its name, at any place.

    Args:
        given: the paths of files and directories, and patterns.
        open_file: makes the dataset of a file.

    Raises:
        InputError: there is no file, or two files differ in format or columns; the message names both.
    """

    def __init__(self, given: Sequence[str], open_file: Callable[[str], Dataset]) -> None:
        first_given = on_one_line(given[0])
        self.name = first_given if len(given) == 1 else f"{first_given} and {counted(len(given) - 1, 'other input')}"
        self._given = tuple(given)
        self._parts = parts_of(given)
        _check_formats(self._parts)
        self._tables = [open_file(part.path) for part in self._parts]
        self._starts = [0]  # the position of each file's first row, as far as a pass has come
        # A file of JSON objects without a row has no columns either: it fits any table.
        number = next((number for number, table in enumerate(self._tables) if table.columns), 0)
        first = self._tables[number]
        self.columns = _with_partitions(first.columns, self._parts[number])
        self.paths = tuple(Path(part.path) for part in self._parts)
        self.sheet = first.sheet
        self.may_hold_added_nulls = first.may_hold_added_nulls
        for part, table in zip(self._parts, self._tables, strict=True):
            if table.columns:
                _check_columns(self._parts[number].path, self.columns, part.path, _with_partitions(table.columns, part))

    def types(self) -> Types:
        return Types.of_parts([each.types() for each in self._tables if each.columns], self.columns)

    def count(self, limit: int | None = None) -> int:
        self._check_listing()
        found = 0
        for table in self._tables:
            found += table.count(None if limit is None else limit - found)
        return found

    def has_changed(self) -> bool:
        return self._listing_now() != self._parts or any(table.has_changed() for table in self._tables)

    def would_take(self, path: Path) -> bool:
        return any(_takes(given, path) for given in self._given)

    def where(self, position: int) -> str:
        number = bisect_right(self._starts, position) - 1
        return self._tables[number].where(position - self._starts[number])

    def _listing_now(self) -> list[Part]:
        try:
            return parts_of(self._given)
        except InputError:  # everything is gone
            return []

    def _rows(self) -> Generator[Values, None, None]:
        self._check_listing()
        position = 0
        for number, (part, table) in enumerate(zip(self._parts, self._tables, strict=True)):
            if number == len(self._starts):
                self._starts.append(position)
            with closing(table._rows()) as rows:  # noqa: SLF001 - slices would read ahead of the limit
                for values in _arranged(rows, self.columns, part, table):
                    position += 1
                    yield values

    def _check_listing(self) -> None:
        before, now = ({part.path for part in parts} for parts in (self._parts, self._listing_now()))
        if before != now:
            path = min(before ^ now)
            what = "is gone" if path in before else "is new"
            raise InputError(f"{self.name}: {on_one_line(path)} {what} since the input was opened: start again")


def _arranged(rows: Iterator[Values], columns: Sequence[str], part: Part, table: Dataset) -> Iterator[Values]:
    """Return rows with the table's columns in their order."""
    if not table.columns or table.columns == columns:
        return rows
    places = {name: number for number, name in enumerate((*table.columns, *part.partitions))}
    order = [places[name] for name in columns]
    added = tuple(part.partitions.values())
    whole = (values + added for values in rows)
    return whole if order == list(range(len(places))) else (tuple([each[n] for n in order]) for each in whole)


def _with_partitions(columns: tuple[str, ...], part: Part) -> tuple[str, ...]:
    """Return a file's columns with those of its directories; a column that the file has itself stays the file's."""
    return (*columns, *(name for name in part.partitions if name not in columns))


def _check_columns(first: str, columns: Sequence[str], other: str, found: Sequence[str]) -> None:
    missing, more = ([name for name in ours if name not in theirs] for ours, theirs in _both_ways(columns, found))
    if missing or more:
        lacks = [f"lacks {', '.join(map(repr, missing[:5]))}"] if missing else []
        has = [f"has {', '.join(map(repr, more[:5]))} besides"] if more else []
        raise InputError(
            f"{on_one_line(other)} {' and '.join([*lacks, *has])}, compared with the columns of {on_one_line(first)}:"
            " all files of one table need the same columns"
        )


def _both_ways(first: Sequence[str], other: Sequence[str]) -> tuple[tuple[Sequence[str], set[str]], ...]:
    return (first, set(other)), (other, set(first))


def is_pattern(given: str) -> bool:
    """Return whether a path names files by wildcards; a file of just that name is itself."""
    return glob.has_magic(given) and not Path(given).exists()


def parts_of(given: Sequence[str]) -> list[Part]:
    """List the files of inputs: in the order given, and in a directory or pattern in the order of their paths.

    Raises:
        InputError: an input holds no file, or a file is there twice.
    """
    if STDIN in given and len(given) > 1:
        raise InputError("-: standard input is a table of its own: give no other INPUT beside it, and give it once")
    folders = [Path(each).absolute().parent for each in given if not (is_pattern(each) or Path(each).is_dir())]
    shared = Path(os.path.commonpath(folders)) if folders else Path()
    parts: dict[Path, Part] = {}
    for each in given:
        root, paths = _files_of(each, shared)
        if not paths:
            root = _fixed(Path(each)) if is_pattern(each) else Path(each)
            gone = "" if root.is_dir() else f": there is no directory {on_one_line(str(root))}"
            what = "holds no file to read" if root == Path(each) else f"matches no file{gone}"
            raise InputError(f"{on_one_line(each)}: {what}{escape_hint(each)}")
        for path in paths:
            part = Part(str(path), _partitions(path.absolute().relative_to(root.absolute())))
            if parts.setdefault(path.resolve(), part) is not part:
                raise InputError(f"{on_one_line(part.path)} is given twice: its rows would be sent twice")
    return list(parts.values())


def _files_of(given: str, shared: Path) -> tuple[Path, list[Path]]:
    """Return the directory below which directories are partitions, and the files."""
    path = Path(given)
    if path.is_dir():
        return path, _sorted(_below(path))
    if not is_pattern(given):
        return shared, [path]
    root = _fixed(path)
    found = [each for each in map(Path, glob.glob(given, recursive=True)) if not _is_hidden_below(each, root, given)]  # noqa: PTH207 - Path.glob cannot begin at the root
    files = [each for each in found if each.is_file()]
    if "**" not in path.parts:  # which finds what is in the directories itself
        files += [file for each in found if each.is_dir() for file in _below(each)]
    return root, _sorted(files)


def _sorted(paths: Sequence[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.parts)


def _fixed(pattern: Path) -> Path:
    """Return the part of a pattern that has no wildcard."""
    return next(each for each in pattern.parents if not glob.has_magic(str(each)))


def _below(root: Path) -> list[Path]:
    """Return the files in a directory and its directories, except hidden ones."""
    found = []
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_raise):
        if "_delta_log" in folders:
            raise InputError(
                f"{folder}: is a Delta table, whose files may hold deleted rows: give"
                " deltalake.DeltaTable(path).to_pyarrow_table(), in Python"
            )
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in folders:
            link = Path(folder, name)
            if link.is_symlink() and Path(folder).resolve().is_relative_to(link.resolve()):
                raise InputError(f"{link}: is a link to a directory that it is in")
        found += [Path(folder, name) for name in names if not _is_hidden(name)]
    return found


def _raise(error: OSError) -> None:
    raise InputError(f"{on_one_line(str(error.filename))}: cannot be read: {error.strerror}") from error


def _is_hidden(name: str) -> bool:
    """Return whether a name is not data: hidden, of the system, or like `_SUCCESS` (but not `_day=1`, a partition)."""
    is_copy = name.endswith("~") or (name.startswith("#") and name.endswith("#"))  # as editors leave them
    is_marked = name.startswith((".", "~$")) or (name.startswith("_") and "=" not in name)
    return is_marked or is_copy or name in _SYSTEM_FILES


def _is_hidden_below(path: Path, root: Path, pattern: str) -> bool:
    """Return whether what a pattern found is hidden; a name that the pattern spells, such as `_x*.csv`, is not."""
    spelled = [part for part in Path(pattern).parts if _is_hidden(part)]
    return any(
        _is_hidden(name) and not any(fnmatch.fnmatch(name, part) for part in spelled)
        for name in path.relative_to(root).parts
    )


def _partitions(path: Path) -> dict[str, str | None]:
    """Return the columns that the directories of a path give, as Hive names them."""
    pairs = (name.split("=", 1) for name in path.parts[:-1] if "=" in name.lstrip("="))
    return {unquote(name): None if value == _NO_VALUE else unquote(value) for name, value in pairs}


def _takes(given: str, path: Path) -> bool:
    """Return whether a new file would be listed for an input."""
    whole, own = Path(given).absolute(), path.absolute()
    if not is_pattern(given):
        root = whole.resolve()
        own = own.resolve()
        return own.is_relative_to(root) and not any(map(_is_hidden, own.relative_to(root).parts))
    return _matches(own.parts, whole.parts)


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:  # a directory that matches is listed with all that is in it
        return True
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _check_formats(parts: Sequence[Part]) -> None:
    first = parts[0].path
    for part in parts:
        if _format(part.path) != _format(first):
            raise InputError(
                f"{on_one_line(first)} and {on_one_line(part.path)} are of different formats: all files of one table"
                " need the same ending; a pattern chooses some of a directory, as in 'data/*.csv' (with the quotes)"
            )


def _format(path: str) -> str:
    """Return the ending of a file, without that of its compression."""
    *_, before, last = ("", "", *(ending.lower() for ending in Path(path).suffixes))
    found = before if packing_by_ending(last) else last
    return ".jsonl" if found in {".ndjson", ".json"} else found

"""Makes a dataset of what a user gives: finds its kind by its type, its ending and its first bytes.

Invariant: nothing is guessed; what is not certain is refused with what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from batcher.checks import TAB_WORDS
from batcher.errors import InputError
from batcher.input.compressed import Packing, packing_by_ending, packing_by_magic
from batcher.input.csv_file import CsvDataset
from batcher.input.dataset import Dataset
from batcher.input.file import check_is_file, keyword_of
from batcher.input.formats import refusal_of
from batcher.input.in_memory import open_in_memory
from batcher.input.jsonl_file import JsonlDataset
from batcher.input.parquet_file import ParquetDataset
from batcher.input.requests_file import RequestsFile, RequestsList, SeveralRequests
from batcher.input.several import SeveralDataset, is_pattern
from batcher.input.spool import STDIN, Spool, is_nameless
from batcher.input.text_file import TextFile
from batcher.input.workbook import WorkbookDataset
from batcher.settings import home_expanded
from batcher.visible import on_one_line
from batcher.words import as_given, blamed, origin

if TYPE_CHECKING:
    import pandas as pd

    class ArrowStream(Protocol):
        """A table that speaks the Arrow PyCapsule protocol, such as one of Arrow, polars or DuckDB."""

        def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...

    Path_ = str | os.PathLike[str]
    Data = (
        Path_
        | Sequence[os.PathLike[str]]
        | pd.DataFrame
        | pd.Series[Any]
        | ArrowStream
        | list[str]
        | Iterable[Mapping[str, Any]]
    )
    """What `run`, `plan` and `verify` take as their input."""

TEXTS = {".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json"}
"""The endings of text files, before that of a compressed one."""

_KNOWN = ".csv, .tsv, .txt, .jsonl, .json, .parquet and .xlsx; the texts also as .gz, .bz2 and .zst"

_MAGIC_BYTES = 8
_JSON = re.compile(r'\s*(?:\[\s*)?\{\s*"[^"\n]*"\s*:')


class Reading(NamedTuple):
    """How the user wants a file to be read.

    Attributes:
        encoding: the name of the encoding of a text file.
        separator: the character between the columns of a CSV file.
        sheet: the name of the sheet of a workbook; default: its first one.
        requests: it is a requests file.
    """

    encoding: str | None = None
    separator: str | None = None
    sheet: str | None = None
    requests: bool = False

    @classmethod
    def of(
        cls, encoding: str | None, separator: str | None, sheet: str | None = None, *, requests: bool = False
    ) -> Reading:
        """Return it for the values of the options, in which a tab may be written in words."""
        return cls(encoding, "\t" if separator in TAB_WORDS else separator, sheet, requests)

    @classmethod
    def recorded_in(cls, question: Mapping[str, Any]) -> Reading:
        """Return how a run read its input, from its record."""
        given = (question.get(name) for name in ("input_encoding", "separator", "sheet"))
        return cls.of(*given, requests=bool(question.get("requests")))

    def check_is_unused(self, name: str) -> None:
        """Refuse the separator for a table that has none."""
        if self.separator is not None:
            raise InputError(f"{name}: only a CSV file has a separator: leave out {as_given('separator')}")


def open_dataset(data: Data, reading: Reading = Reading(), *, name: str = "data") -> Dataset:  # noqa: B008 - immutable
    """Make a dataset of a table in files or in memory.

    Args:
        data: one of these. Files: the path of a file (`-` is standard input), a directory or a pattern, or a list of
            paths (`Path`, because a list of strings is a list of texts). In memory: a DataFrame of pandas or polars, a
            Series, an Arrow table, a `datasets.Dataset`, another table that gives an Arrow stream as often as asked, a
            list of strings, or dictionaries. Strings, and a Series without a name, become one column called `text`.
        reading: how the user wants files to be read.
        name: of the option that gives it, for messages.

    Raises:
        InputError: it is none of these, a file cannot be read, or the column names are not unique.
    """
    try:
        return _opened(data, reading)
    except InputError as error:
        place = origin(name) if name == "data" else f"{blamed(name)}: "
        if place and not str(error).startswith(blamed("sheet")):
            raise InputError(f"{place}{error}") from error.__cause__
        raise


def _opened(data: Data, reading: Reading) -> Dataset:
    if isinstance(data, str | os.PathLike):
        return _open_path(home_expanded(data), reading)
    if isinstance(data, list | tuple) and data and any(isinstance(each, os.PathLike) for each in data):
        return _open_paths(data, reading)
    if reading.requests:
        return _open_requests_in_memory(data)
    if (dataset := open_in_memory(data)) is not None:
        reading.check_is_unused(dataset.name)
        return dataset
    raise InputError(
        f"cannot read a table from {type(data).__module__}.{type(data).__qualname__}: give the path of a file"
        f" ({_KNOWN}), a DataFrame, a Series, an Arrow table, a list of strings or a list of dictionaries"
        f"{'; .tolist() makes a list of it' if hasattr(data, 'tolist') else ''}"
    )


def _open_requests_in_memory(data: Any) -> RequestsList:
    """Open requests in a list, or in what gives them anew for each pass."""
    is_several = isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping | Iterator)
    if not is_several or hasattr(data, "columns") or hasattr(data, "__arrow_c_stream__"):
        raise InputError(
            f"requests cannot be read from {type(data).__module__}.{type(data).__qualname__}: give the path of a JSONL"
            " file, or a list of dictionaries, each a request"
        )
    return RequestsList(data)


def default_keyword(data: object) -> str | None:
    """Return the name of a run that has no keyword: that of its file without the endings, or of its directory."""
    if not isinstance(data, str | os.PathLike):
        return None
    path = Path(home_expanded(data))
    if path.is_dir():
        return path.resolve().name
    return None if is_pattern(str(path)) else keyword_of(path)


def as_arguments(data: object) -> list[str] | None:
    """Return the arguments that give the same files to a command line in any directory.

    None: it is no file, or one that another process cannot read again, as a pipe.
    """
    if isinstance(data, str | os.PathLike):
        data = [Path(data)]
    if not isinstance(data, list | tuple) or not data or not isinstance(data[0], os.PathLike):
        return None
    paths = [home_expanded(each) for each in data]
    if any(is_nameless(path) or Path(path).is_fifo() for path in paths):
        return None
    return [str(Path(path).absolute()) for path in paths]


def _open_paths(paths: Sequence[Any], reading: Reading) -> Dataset:
    for position, path in enumerate(paths):
        if not isinstance(path, os.PathLike):
            kind = type(path).__qualname__
            raise InputError(f"the list, item {position}: must be a Path, as others are, not of type {kind}")
    given = [home_expanded(path) for path in paths]
    return _open_path(given[0], reading) if len(given) == 1 else _open_several(given, reading)


def _open_path(name: str, reading: Reading) -> Dataset:
    try:
        is_several = Path(name).is_dir() or is_pattern(name)
    except (OSError, ValueError):  # a NUL in the path, or a name that is too long: `_open_file` says so
        is_several = False
    return _open_several([name], reading) if is_several else _open_file(name, reading)


def _open_several(given: list[str], reading: Reading) -> Dataset:
    kind = SeveralRequests if reading.requests else SeveralDataset
    return kind(given, partial(_open_file, reading=reading))


def _open_file(name: str, reading: Reading) -> Dataset:
    _check_is_no_lock(name)
    check_is_file(name)  # a missing file is reported before an unknown ending
    shown = on_one_line(name)
    ending, packing = Path(name).suffix.lower(), None
    if packing := packing_by_ending(ending):
        ending = Path(name).with_suffix("").suffix.lower()
    if is_nameless(name):
        return _open_by_content(name, reading)
    if reading.requests and (ending in TEXTS or not ending):
        path = Spool(name)
        _check_packing(shown, path.path, packing)
        return RequestsFile(shown, path, packing, reading.encoding)
    if reading.requests:
        raise InputError(f"{shown}: a requests file is a text with a JSON object on each line, such as requests.jsonl")
    if ending in TEXTS:
        path = Spool(name)
        _check_packing(shown, path.path, packing)
        text = TextFile(shown, path, packing, reading.encoding)
        return _open_text(text, ending, reading)
    if ending == ".parquet" and packing is None:
        reading.check_is_unused(shown)
        return ParquetDataset(name)
    if ending in {".xlsx", ".xlsm"} and packing is None:
        reading.check_is_unused(shown)
        return WorkbookDataset(name, reading.sheet)
    if packing is None and (said := refusal_of(shown, ending)):
        raise InputError(f"{shown}: {said}")
    whole = f"{ending}{packing.ending}" if packing else ending
    what = (
        f"the ending {on_one_line(whole)} is not known"
        if ending
        else f"the file name has no ending{' before ' * bool(whole)}{whole}"
    )
    unpack = f"; unpack it first: only texts are read as {packing.ending}" if packing and ending else ""
    raise InputError(f"{shown}: {what}: batcher reads {_KNOWN}{unpack}")


def _check_is_no_lock(name: str) -> None:
    path = Path(name)
    for mark, end in (("~$", ""), (".~lock.", "#")):
        if path.name.startswith(mark) and path.name.endswith(end):
            own = path.with_name(path.name.removeprefix(mark).removesuffix(end))
            shown = on_one_line(str(own))
            raise InputError(
                f"{on_one_line(name)}: only shows that a program has {on_one_line(own.name)} open: give {shown}"
            )


def _open_by_content(name: str, reading: Reading) -> Dataset:
    """Open standard input, or another file that has no name, by its first bytes."""
    path = Spool(name)
    name = "standard input" if name == STDIN else name
    with Path(path.path).open("rb") as file:
        packing = packing_by_magic(file.read(_MAGIC_BYTES))
    if reading.requests:
        return RequestsFile(name, path, packing, reading.encoding)
    text = TextFile(name, path, packing, reading.encoding)
    return _open_text(text, ".csv", reading, is_by_content=True)


def _open_text(text: TextFile, ending: str, reading: Reading, *, is_by_content: bool = False) -> Dataset:
    """Open a text file.

    Args:
        text: the file.
        ending: of its kind.
        reading: how the user wants it to be read.
        is_by_content: it is JSON, whatever the ending, if its first character is `{` or `[`.
    """
    is_json = ending in {".jsonl", ".ndjson", ".json"}
    if is_by_content or ending == ".txt":
        is_json = text.beginning.lstrip()[:1] in {"{", "["}
    if not is_json and _JSON.match(text.beginning):
        raise InputError(f"{text.name}: holds JSON, not {ending[1:].upper()}: let its name end in .json")
    if not is_json:
        return CsvDataset(text, ending, reading.separator)
    reading.check_is_unused(text.name)
    return JsonlDataset(text, ending)


def _check_packing(name: str, path: str, packing: Packing | None) -> None:
    """Refuse a file whose name and first bytes disagree about its compression."""
    try:
        with Path(path).open("rb") as file:
            beginning = file.read(_MAGIC_BYTES)
    except OSError as error:
        raise InputError(f"{name}: cannot be opened: {error}") from error
    found = packing_by_magic(beginning)
    if found is packing:
        return
    if packing is None and found is not None:
        raise InputError(f"{name} is a {found.name} file: name it {Path(name).name}{found.ending}")
    if packing is not None and not beginning:
        raise InputError(f"{name}: the file is empty: copy or download it again")
    if packing is not None:
        right = Path(name).with_suffix("").name + (found.ending if found else "")
        raise InputError(
            f"{name} is {f'a {found.name}' if found else 'no ' + packing.name} file: if it is complete, name it {right}"
        )

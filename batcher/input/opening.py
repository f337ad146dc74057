"""Makes a dataset of what a user gives: finds its kind by its type, its ending and its first bytes.

Invariant: nothing is guessed; what is not certain is refused with what to do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from batcher.errors import InputError
from batcher.input.csv_file import CsvDataset
from batcher.input.dataset import Dataset
from batcher.input.file import open_bytes
from batcher.input.in_memory import open_in_memory
from batcher.input.jsonl_file import JsonlDataset
from batcher.input.parquet_file import ParquetDataset
from batcher.input.several import SeveralDataset, is_pattern
from batcher.input.workbook import WorkbookDataset
from batcher.settings import home_expanded

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

KINDS = ".csv, .tsv, .jsonl, .parquet and .xlsx"
"""The endings of the files that batcher reads."""

_TEXTS = {".csv", ".tsv", ".jsonl"}

_NOT_XLSX = "save it as .xlsx, or give the DataFrame that pandas.read_excel() returns"

_FROM_EXCEL = 'save the sheet as "CSV UTF-8", or give the DataFrame that pandas.read_excel() returns'

_MAGIC = {
    b"\x1f\x8b": "is a gzip file: unpack it first",
    b"PK\x03\x04": f"is an Excel workbook or another ZIP file: {_FROM_EXCEL}",
    b"PAR1": "is a Parquet file: let its name end in .parquet",
}
"""The first bytes of other formats, and what to do about each."""


class Reading(NamedTuple):
    """How the user wants files to be read.

    Attributes:
        sheet: the name of the sheet of a workbook; default: its first one.
    """

    sheet: str | None = None


def open_dataset(data: Data, reading: Reading = Reading()) -> Dataset:  # noqa: B008 - immutable
    """Make a dataset of a table in files or in memory.

    Args:
        data: one of these. Files: the path of a file, a directory or a pattern, or a list of paths (`Path`, because a
            list of strings is a list of texts). In memory: a DataFrame of pandas or polars, a Series, an Arrow table, a
            `datasets.Dataset`, another table that gives an Arrow stream as often as asked, a list of strings, or
            dictionaries. Strings, and a Series without a name, become one column called `text`.
        reading: how the user wants files to be read.

    Raises:
        InputError: it is none of these, a file cannot be read, or the column names are not unique.
    """
    if isinstance(data, str | os.PathLike):
        return _open_path(home_expanded(data), reading)
    if isinstance(data, list | tuple) and data and any(isinstance(each, os.PathLike) for each in data):
        return _open_paths(data, reading)
    if (dataset := open_in_memory(data)) is not None:
        return dataset
    raise InputError(
        f"cannot read a table from {type(data).__module__}.{type(data).__qualname__}: give the path of a {KINDS} file,"
        " a DataFrame, a Series, an Arrow table, a list of strings or a list of dictionaries"
    )


def keyword_of(data: object) -> str | None:
    """Return the name of a run that has no keyword: of its file without the ending, or of its directory."""
    if not isinstance(data, str | os.PathLike):
        return None
    path = Path(home_expanded(data))
    if is_pattern(str(path)):
        return None
    return path.resolve().name if path.is_dir() else path.stem


def as_arguments(data: object) -> list[str] | None:
    """Return the arguments that give the same files to a command line in any directory; None if it is no file."""
    if isinstance(data, str | os.PathLike):
        data = [Path(data)]
    if not isinstance(data, list | tuple) or not data or not isinstance(data[0], os.PathLike):
        return None
    return [str(Path(home_expanded(each)).absolute()) for each in data]


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
    return SeveralDataset(given, partial(_open_file, reading=reading))


def _open_file(name: str, reading: Reading) -> Dataset:
    open_bytes(name).close()  # a missing file is reported before an unknown ending
    ending = Path(name).suffix.lower()
    if ending in _TEXTS:
        _check_is_text(name)
    match ending:
        case ".csv":
            return CsvDataset(name, ",")
        case ".tsv":
            return CsvDataset(name, "\t")
        case ".jsonl":
            return JsonlDataset(name)
        case ".parquet":
            return ParquetDataset(name)
        case ".xlsx" | ".xlsm":
            return WorkbookDataset(name, reading.sheet)
        case _:
            what = f"the ending {ending} is not known" if ending else "the file name has no ending"
            advice = f"; {_NOT_XLSX}" if ending in {".xls", ".xlsb", ".ods"} else ""
            raise InputError(f"{name}: {what}: batcher reads {KINDS}{advice}")


def _check_is_text(name: str) -> None:
    """Refuse a file that is named like a text file but has the first bytes of another format."""
    with open_bytes(name) as file:
        beginning = file.read(4)
    for magic, what in _MAGIC.items():
        if beginning.startswith(magic):
            raise InputError(f"{name}: {what}")

"""Makes a dataset of what a user gives: finds its kind by its type, its ending and its first bytes.

Invariant: nothing is guessed; what is not certain is refused with what to do.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batcher.checks import TAB_WORDS
from batcher.errors import InputError
from batcher.input.compressed import Packing, packing_by_ending, packing_by_magic
from batcher.input.csv_file import CsvDataset
from batcher.input.dataset import Dataset
from batcher.input.file import check_is_file
from batcher.input.in_memory import FrameDataset, TextsDataset
from batcher.input.jsonl_file import JsonlDataset
from batcher.input.parquet_file import ParquetDataset
from batcher.input.spool import STDIN, Spool, is_nameless
from batcher.input.text_file import TextFile
from batcher.words import option

if TYPE_CHECKING:
    import pandas as pd

    Data = str | os.PathLike[str] | pd.DataFrame | pd.Series[Any] | list[str]
    """What `run`, `plan` and `verify` take as their input."""

TEXTS = {".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json"}
"""The endings of text files, before that of a compressed one."""

_KNOWN = ".csv, .tsv, .txt, .jsonl, .json and .parquet; the texts also as .gz, .bz2 and .zst"

_FROM_EXCEL = 'save the sheet as "CSV UTF-8", or give the DataFrame that pandas.read_excel() returns'

_MAGIC = {
    b"PK\x03\x04": f"is an Excel workbook or another ZIP file: {_FROM_EXCEL}, or unpack the ZIP file first",
    b"PAR1": "is a Parquet file: save it to a file whose name ends in .parquet",
    b"\xfd7zXZ": "is an xz file: unpack it first",
    b"\xd0\xcf\x11\xe0": f"is an old Excel workbook: {_FROM_EXCEL}",
}
"""The first bytes of other formats, and what to do about each."""

_MAGIC_BYTES = 8

_ADVICE = {
    ".xlsx": f"; {_FROM_EXCEL}",
    ".xls": f"; {_FROM_EXCEL}",
    ".zip": "; unpack it first: a ZIP file may hold several tables",
    ".xz": "; unpack it first",
    ".tgz": "; unpack it first",
}
"""What else to do about a file of a kind that is not read, by its ending."""


class Reading(NamedTuple):
    """How the user wants a text file to be read.

    Attributes:
        encoding: the name of its encoding.
        separator: the character between the columns of a CSV file.
    """

    encoding: str | None = None
    separator: str | None = None

    @classmethod
    def of(cls, encoding: str | None, separator: str | None) -> Reading:
        """Return it for the values of the options, in which a tab may be written in words."""
        return cls(encoding, "\t" if separator in TAB_WORDS else separator)

    def check_is_unused(self, name: str) -> None:
        """Refuse the separator for a table that has none."""
        if self.separator is not None:
            raise InputError(f"{name}: only a CSV file has a separator: leave out {option('separator')}")


def open_dataset(data: Data, reading: Reading = Reading()) -> Dataset:  # noqa: B008 - immutable
    """Make a dataset of a table in a file or in memory.

    Args:
        data: the path of a `.csv`, `.tsv`, `.txt`, `.jsonl`, `.json` or `.parquet` file, `-` for standard input, a
            pandas DataFrame or Series, or a list of strings. A list, and a Series without a name, become one column
            called `text`.
        reading: how the user wants a text file to be read.

    Raises:
        InputError: it is none of these, the file cannot be read, or its column names are not unique.
    """
    if isinstance(data, str | os.PathLike):
        return _open_file(os.fsdecode(data), reading)
    if isinstance(data, list):
        return TextsDataset(data)
    pandas = sys.modules.get("pandas")  # whoever has a DataFrame has loaded pandas
    if pandas is not None and isinstance(data, pandas.DataFrame):
        return FrameDataset("the DataFrame", data, data.columns)
    if pandas is not None and isinstance(data, pandas.Series):
        label = "text" if data.name is None else data.name
        return FrameDataset("the Series", data.to_frame("text"), [label])
    raise InputError(
        f"cannot read a table from {type(data).__module__}.{type(data).__qualname__}: give the path of a "
        ".csv, .tsv, .parquet or .jsonl file, a pandas DataFrame or Series, or a list of strings"
    )


def _open_file(name: str, reading: Reading) -> Dataset:
    check_is_file(name)  # a missing file is reported before an unknown ending
    ending, packing = Path(name).suffix.lower(), None
    if packing := packing_by_ending(ending):
        ending = Path(name).with_suffix("").suffix.lower()
    if is_nameless(name):
        return _open_by_content(name, reading)
    if ending in TEXTS:
        path = Spool(name)
        _check_packing(name, path.path, packing)
        text = TextFile(name, path, packing, reading.encoding)
        _check_is_text(text)
        return _open_text(text, ending, reading)
    if ending == ".parquet" and packing is None:
        reading.check_is_unused(name)
        return ParquetDataset(name)
    shown = f"{ending}{packing.ending}" if packing else ending
    what = (
        f"the ending {shown} is not known"
        if ending
        else f"the file name has no ending{' before ' * bool(shown)}{shown}"
    )
    raise InputError(f"{name}: {what}: batcher reads {_KNOWN}{_ADVICE.get(ending, '')}")


def _open_by_content(name: str, reading: Reading) -> Dataset:
    """Open standard input, or another file that has no name, by its first bytes."""
    path = Spool(name)
    name = "standard input" if name == STDIN else name
    with Path(path.path).open("rb") as file:
        packing = packing_by_magic(file.read(_MAGIC_BYTES))
    text = TextFile(name, path, packing, reading.encoding)
    _check_is_text(text)
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
    if packing is not None:
        right = Path(name).with_suffix("").name + (found.ending if found else "")
        raise InputError(
            f"{name} is {f'a {found.name}' if found else 'no ' + packing.name} file: if it is complete, name it {right}"
        )


def _check_is_text(text: TextFile) -> None:
    """Refuse a file that is named like a text file but has the first bytes of another format."""
    inner = packing_by_magic(text.raw_beginning)
    if inner and text.packing:
        raise InputError(f"{text.name}: is a {inner.name} file inside a {text.packing.name} file: unpack it first")
    for magic, what in _MAGIC.items():
        if text.raw_beginning.startswith(magic):
            raise InputError(f"{text.name}: {what}")

"""Makes a dataset of what a user gives: finds its kind by its type, its ending and its first bytes.

Invariant: nothing is guessed; what is not certain is refused with what to do.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batcher.errors import InputError
from batcher.input.csv_file import CsvDataset
from batcher.input.dataset import Dataset
from batcher.input.file import open_bytes
from batcher.input.in_memory import FrameDataset, TextsDataset
from batcher.input.jsonl_file import JsonlDataset
from batcher.input.parquet_file import ParquetDataset

if TYPE_CHECKING:
    import pandas as pd

    Data = str | os.PathLike[str] | pd.DataFrame | pd.Series[Any] | list[str]
    """What `run`, `plan` and `verify` take as their input."""

_TEXTS = {".csv", ".tsv", ".jsonl"}

_FROM_EXCEL = 'save the sheet as "CSV UTF-8", or give the DataFrame that pandas.read_excel() returns'

_MAGIC = {
    b"\x1f\x8b": "is a gzip file: unpack it first",
    b"PK\x03\x04": f"is an Excel workbook or another ZIP file: {_FROM_EXCEL}",
    b"PAR1": "is a Parquet file: let its name end in .parquet",
}
"""The first bytes of other formats, and what to do about each."""


def open_dataset(data: Data) -> Dataset:
    """Make a dataset of a table in a file or in memory.

    Args:
        data: the path of a `.csv`, `.tsv`, `.parquet` or `.jsonl` file, a pandas DataFrame or Series, or a
            list of strings. A list, and a Series without a name, become one column called `text`.

    Raises:
        InputError: it is none of these, the file cannot be read, or its column names are not unique.
    """
    if isinstance(data, str | os.PathLike):
        return _open_file(os.fsdecode(data))
    if isinstance(data, list):
        return TextsDataset(data)
    pandas = sys.modules.get("pandas")  # whoever has a DataFrame has loaded pandas
    if pandas is not None and isinstance(data, pandas.DataFrame):
        return FrameDataset("the DataFrame", data, data.columns)
    if pandas is not None and isinstance(data, pandas.Series):
        label = "text" if data.name is None else data.name
        return FrameDataset("the Series", data.to_frame("text"), [label], data)
    raise InputError(
        f"cannot read a table from {type(data).__module__}.{type(data).__qualname__}: give the path of a "
        ".csv, .tsv, .parquet or .jsonl file, a pandas DataFrame or Series, or a list of strings"
    )


def _open_file(name: str) -> Dataset:
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
        case _:
            what = f"the ending {ending} is not known" if ending else "the file name has no ending"
            advice = f"; {_FROM_EXCEL}" if ending in {".xlsx", ".xls"} else ""
            raise InputError(f"{name}: {what}: batcher reads .csv, .tsv, .parquet and .jsonl{advice}")


def _check_is_text(name: str) -> None:
    """Refuse a file that is named like a text file but has the first bytes of another format."""
    with open_bytes(name) as file:
        beginning = file.read(4)
    for magic, what in _MAGIC.items():
        if beginning.startswith(magic):
            raise InputError(f"{name}: {what}")

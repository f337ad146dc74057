"""A table in the caller's memory: frames of pandas and polars, Arrow tables, texts and dictionaries.

Invariant: it is only read.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from batcher.errors import InputError
from batcher.input.arrow import BATCH, ArrowDataset, only_once, shortener
from batcher.input.dataset import Dataset, check_has_columns, columns_of
from batcher.input.labels import Labels
from batcher.input.types import Types
from batcher.records import Values

if TYPE_CHECKING:
    import pandas as pd

    Read = Callable[[pd.Series[Any]], Iterable[Any]]
    """Returns the values of a part of a column."""

_FRAME_BATCH = 4096
"""Rows of a DataFrame turned into Python values at a time."""

_ONCE = {
    "DictReader": "give list(reader), which holds a dictionary for each row, or the path of the file",
    "reader": "give the path of the file, or pandas.DataFrame(list(reader)[1:], columns=...)",
    **dict.fromkeys(
        ("TextIOWrapper", "BufferedReader", "FileIO", "GzipFile", "BZ2File", "_TemporaryFileWrapper"),
        "give the path of the file",
    ),
    **dict.fromkeys(
        ("StringIO", "BytesIO"), "give pandas.read_csv(...) of it, or write it to a file and give the path"
    ),
    "zip": "give pandas.DataFrame(list(rows), columns=[...])",
}
"""What to give instead of what can be read only once, by the name of its type."""

_ADVICE = {
    ("polars", "LazyFrame"): "call .collect() on it, and give the DataFrame",
    ("datasets", "DatasetDict"): 'give one of its splits, as in data["train"]',
    ("datasets", "IterableDatasetDict"): 'give one of its splits, as in data["train"]',
    ("builtins", "dict"): "give pandas.DataFrame(data), or a list of dictionaries, one for each row",
    ("datasets", "IterableDataset"): "give datasets.Dataset.from_list(list(data))",
    ("numpy", "ndarray"): "give data.tolist() if it holds texts, or pandas.DataFrame(data, columns=[...])",
    ("numpy", "recarray"): "give pandas.DataFrame(data)",
    ("pandas", "Index"): "give data.to_series(), or data.tolist() if it holds texts",
    ("pandas", "MultiIndex"): "give data.to_frame()",
    ("pandas", "DataFrameGroupBy"): "give the DataFrame itself",
    ("pandas", "SeriesGroupBy"): "give the Series itself",
    ("polars", "LazyGroupBy"): "call .agg(...).collect() on it, and give the DataFrame",
    ("polars", "GroupBy"): "give the DataFrame itself",
    ("builtins", "set"): "give sorted(data): a set has another order in each process",
    ("builtins", "frozenset"): "give sorted(data): a set has another order in each process",
    ("builtins", "range"): "give a list of texts: list(map(str, data))",
    ("collections", "deque"): "give list(data)",
    ("builtins", "bytes"): "give the path of a file as text",
}
"""What to give instead of other types, by their package and name."""


def open_in_memory(data: Any) -> Dataset | None:
    """Make a dataset of a table in memory; None if it is none that batcher knows.

    Raises:
        InputError: it can be read only once, or its columns have no names of their own.
    """
    package, kind = type(data).__module__.partition(".")[0], type(data).__name__
    if advice := _ADVICE.get((package, kind)):
        raise InputError(f"cannot read a table from {package}.{kind}: {advice}")
    if isinstance(data, list | tuple):
        return _open_list(data)
    for open_it in (_open_pandas, _open_arrow, _open_stream):
        if (dataset := open_it(data)) is not None:
            return dataset
    return _open_iterable(data)


def _open_list(data: list[Any] | tuple[Any, ...]) -> Dataset:
    if data and isinstance(data[0], Mapping):
        return DictionariesDataset("the list", list(data))
    return TextsDataset(list(data))


def _open_pandas(data: Any) -> Dataset | None:
    pandas = sys.modules.get("pandas")  # whoever has a DataFrame has loaded pandas
    if pandas is not None and isinstance(data, pandas.DataFrame):
        return FrameDataset("the DataFrame", data, data.columns)
    if pandas is not None and isinstance(data, pandas.Series):
        label = "text" if data.name is None else data.name
        return FrameDataset("the Series", data.to_frame("text"), [label], data)
    return None


def _open_arrow(data: Any) -> Dataset | None:
    """Open what Arrow and polars hold in memory, and a `datasets.Dataset`, which is an Arrow table in files."""
    polars, datasets, arrow = (sys.modules.get(name) for name in ("polars", "datasets", "pyarrow"))
    if polars is not None and isinstance(data, polars.Series):
        data = data.to_frame(data.name or "text")
    if polars is not None and isinstance(data, polars.DataFrame):
        return ArrowDataset("the DataFrame", _stream_of(data), is_held=True)
    if datasets is not None and isinstance(data, datasets.Dataset):
        return ArrowDataset("the Dataset", _stream_of_slices(data), is_held=True)
    if arrow is None:
        return None
    if isinstance(data, arrow.RecordBatchReader):
        raise only_once("the RecordBatchReader")
    if isinstance(data, arrow.Array | arrow.ChunkedArray) and not isinstance(data, arrow.StructArray):
        data = arrow.table({"text": data})
    elif isinstance(data, arrow.RecordBatch | arrow.StructArray):
        data = arrow.Table.from_batches([arrow.record_batch(data)])
    if isinstance(data, arrow.Table):
        return ArrowDataset("the Table", lambda: data.to_reader(BATCH), is_held=True)
    return None


def _open_stream(data: Any) -> Dataset | None:
    """Open what speaks the Arrow PyCapsule protocol, such as a relation of DuckDB."""
    if not hasattr(data, "__arrow_c_stream__") or isinstance(data, type):
        return None
    return ArrowDataset(f"the {type(data).__name__}", _stream_of(data), is_held=False)


def _open_iterable(data: Any) -> Dataset | None:
    """Open dictionaries that are in no list; what they are in must give them anew for each pass."""
    if isinstance(data, str | bytes | Mapping | type) or not isinstance(data, Iterable):
        return None
    name = f"the {type(data).__name__}"
    if isinstance(data, Iterator | io.IOBase):
        raise only_once(name, _ONCE.get(type(data).__name__))
    if not isinstance(next(iter(data), None), Mapping):
        return None
    return DictionariesDataset(name, data)


def _stream_of(data: Any) -> Callable[[], Any]:
    def begin() -> Any:
        import pyarrow as pa  # noqa: PLC0415 - slow to load

        return pa.RecordBatchReader.from_stream(data)

    return begin


def _stream_of_slices(data: Any) -> Callable[[], Any]:
    """Return what begins a stream of a `datasets.Dataset`, in the order that `shuffle` or `select` gave it."""

    def begin() -> Any:
        import pyarrow as pa  # noqa: PLC0415 - slow to load

        schema = data.features.arrow_schema
        parts = data.with_format("arrow").iter(BATCH)
        batches = (batch for part in parts for batch in part.cast(schema).to_batches())
        return pa.RecordBatchReader.from_batches(schema, batches)

    return begin


class FrameDataset(Dataset):
    """The caller's DataFrame, which is only read; its index is not a column.

    Args:
        name: of the table.
        frame: its values.
        labels: the names of its columns.
        table: the caller's own, which has the index; default: the frame.
    """

    may_hold_added_nulls = True

    def __init__(
        self, name: str, frame: pd.DataFrame, labels: Iterable[object], table: pd.Series[Any] | None = None
    ) -> None:
        if getattr(labels, "nlevels", 1) > 1:
            raise InputError(
                f"{name}: the columns are a MultiIndex: give each column one name, as text, for example with"
                " df.columns = ['_'.join(map(str, names)) for names in df.columns]"
            )
        self.name = name
        self.columns = columns_of(name, map(str, labels))
        self._frame = frame
        self.row_labels = Labels(name, frame if table is None else table)
        self._reads: list[Read] = [_reading(dtype) for dtype in frame.dtypes]
        check_has_columns(name, self.columns, len(frame))

    def types(self) -> Types:
        return Types.of_frame(self._frame, self.columns)

    def where(self, position: int) -> str:
        if self.row_labels is None or self.row_labels.are_numbers:
            return super().where(position)
        return f"{self.name}, row {position} (counted from 0; index {self.row_labels.at(position)!r:.80})"

    def _rows(self) -> Generator[Values, None, None]:
        for start in range(0, len(self._frame), _FRAME_BATCH):
            part = self._frame.iloc[start : start + _FRAME_BATCH]
            yield from zip(*(read(part.iloc[:, number]) for number, read in enumerate(self._reads)), strict=True)


def _reading(dtype: Any) -> Read:
    """Return what reads a column of a type; pandas makes 0.10000000149011612 of a 0.1 of 32 bits."""
    kind, plain = getattr(dtype, "pyarrow_dtype", None), dtype
    if hasattr(dtype, "categories"):
        plain = dtype.categories.dtype
    if str(plain) in {"float32", "float16"}:
        import pyarrow as pa  # noqa: PLC0415 - slow to load

        kind = pa.from_numpy_dtype(plain)
    shorten = None if kind is None else shortener(kind)
    return (lambda column: map(shorten, column)) if shorten else iter


class TextsDataset(Dataset):
    """A list of strings: one column, `text`."""

    def __init__(self, texts: list[str]) -> None:
        self.name = "the list"
        self.columns = ("text",)
        self._texts = texts
        for position, text in enumerate(self._texts):
            if not isinstance(text, str):
                what = type(text).__qualname__
                raise InputError(f"{self.where(position)}: must be a string, not of type {what}{_instead_of(text)}")

    def _rows(self) -> Generator[Values, None, None]:
        for text in self._texts:
            yield (text,)


def _instead_of(item: object) -> str:
    """Return what to do about a list of other things than texts."""
    if item is None:
        return ": a missing text is ''"
    if isinstance(item, int | float):
        return ": list(map(str, data)) makes texts of all"
    if hasattr(item, "_asdict"):
        return ": give pandas.DataFrame(data), or [row._asdict() for row in data]"
    if isinstance(item, list | tuple):
        return ": give pandas.DataFrame(data, columns=[...]), or a dictionary for each row"
    if {"iloc", "to_pandas", "__arrow_c_stream__"} & {*dir(item)}:
        kind = type(item).__name__
        return f": give one table, as pandas.{'concat' if kind == 'DataFrame' else 'DataFrame'}(data) makes it"
    return ": give a list of texts, or of dictionaries, one for each row"


class DictionariesDataset(Dataset):
    """Dictionaries, one for each row. The columns are the keys in order of appearance; a missing key is None."""

    def __init__(self, name: str, rows: Iterable[Mapping[Any, Any]]) -> None:
        self.name = name
        self._source = rows
        keys: dict[Any, None] = {}  # a set that keeps the order
        self._count = 0
        for row in self._dictionaries():
            self._count += 1
            if not keys.keys() >= row.keys():
                keys.update(dict.fromkeys(row))
        self.columns = columns_of(name, map(str, keys))
        self._keys = tuple(keys)
        check_has_columns(name, self.columns, self._count)

    def _dictionaries(self) -> Generator[Mapping[Any, Any], None, None]:
        for position, row in enumerate(self._source):
            if not isinstance(row, Mapping):
                what = type(row).__qualname__
                raise InputError(f"{self.where(position)}: must be a dictionary, as the first is, not of type {what}")
            yield row

    def _rows(self) -> Generator[Values, None, None]:
        count = 0
        for row in self._dictionaries():
            yield tuple(map(row.get, self._keys))
            count += 1
        if count != self._count:
            raise only_once(self.name)

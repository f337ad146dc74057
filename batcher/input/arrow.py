"""Arrow data as rows of Python values: of a Parquet file, a table in memory, or a stream of batches.

Invariant: a few rows at a time become Python values, and a number of 16 or 32 bits is the shortest one that reads back
as the same: 0.1, not 0.10000000149011612.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from batcher.errors import InputError, in_words
from batcher.input.dataset import Dataset, check_has_columns, columns_of
from batcher.input.types import Types
from batcher.records import Values
from batcher.scalars import is_whole, shortest

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 256
"""Rows decoded at a time: enough to make a batch's fixed cost small, and few enough for rows that are documents."""

Shorten = Callable[[Any], Any]
"""Makes the numbers in a value short; other values, such as a missing one, stay as they are."""


def shortener(kind: pa.DataType) -> Shorten | None:  # noqa: PLR0911 - one for each kind of type
    """Return what makes the numbers of 16 and 32 bits in values of a type short; None if the type holds none."""
    from pyarrow import types  # noqa: PLC0415 - slow to load

    if types.is_float32(kind) or types.is_float16(kind):
        return _number("float32" if types.is_float32(kind) else "float16")
    if types.is_struct(kind):
        fields = {kind.field(number).name: shortener(kind.field(number).type) for number in range(kind.num_fields)}
        return _struct({name: shorten for name, shorten in fields.items() if shorten})
    if types.is_map(kind):
        pair = (shortener(kind.key_type), shortener(kind.item_type))
        return _map(pair) if any(pair) else None
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return shortener(kind.value_type)
    if hasattr(kind, "storage_type"):  # an extension type
        return shortener(kind.storage_type)
    if hasattr(kind, "value_type"):  # all kinds of lists
        inner = shortener(kind.value_type)
        return _list(kind.value_type, inner) if inner else None
    return None


def _number(dtype: str) -> Shorten:
    import numpy as np  # noqa: PLC0415 - slow to load

    scalar = np.dtype(dtype).type
    return lambda value: shortest(scalar(value)) if isinstance(value, (float, np.floating)) else value


def _list(kind: pa.DataType, inner: Shorten) -> Shorten:
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    if not pa.types.is_float32(kind):
        return lambda value: [inner(each) for each in value] if isinstance(value, list) else value

    def shorten(value: Any) -> Any:
        """Let Arrow do it: embeddings have thousands of numbers, and Python takes three times as long."""
        if not isinstance(value, list):
            return value
        short = pa.array(value, pa.float32()).cast(pa.string()).cast(pa.float64()).to_pylist()
        return [old if old is None or is_whole(old) else new for old, new in zip(value, short, strict=True)]

    return shorten


def _struct(fields: dict[str, Shorten]) -> Shorten | None:
    if not fields:
        return None

    def shorten(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return value | {name: inner(value[name]) for name, inner in fields.items() if name in value}

    return shorten


def _map(pair: tuple[Shorten | None, Shorten | None]) -> Shorten:
    key, item = (shorten or (lambda value: value) for shorten in pair)
    return lambda value: [(key(each), item(of)) for each, of in value] if isinstance(value, list) else value


class Decoder:
    """Makes rows of Arrow batches.

    Args:
        schema: of the batches.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._shorteners = [shortener(kind) for kind in schema.types]

    def rows(self, batch: pa.RecordBatch) -> Iterator[Values]:
        """Return the rows of a batch, which should hold `BATCH` rows at most."""
        columns = zip(batch.columns, self._shorteners, strict=True)
        return zip(*(_decoded(column, shorten) for column, shorten in columns), strict=True)


def decoded(column: pa.Array) -> list[Any]:
    """Return the values of a column."""
    return _decoded(column, shortener(column.type))


def _decoded(column: pa.Array, shorten: Shorten | None) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return list(map(shorten, values)) if shorten else values


class ArrowDataset(Dataset):
    """A table that comes as a stream of Arrow batches, a new one for each pass.

    Args:
        name: its name in messages.
        begin: returns a stream from the table's beginning, as a `RecordBatchReader`.
        is_held: the table is in memory, so that each stream is the same; else that is checked.
    """

    may_hold_added_nulls = True

    def __init__(self, name: str, begin: Callable[[], pa.RecordBatchReader], *, is_held: bool) -> None:
        self.name = name
        self._begin = begin
        self._count: int | None = None if is_held else -1  # of the first whole pass; -1: there was none
        schema, first = self._beginning()
        self.columns = columns_of(name, schema.names)
        self._schema = schema
        check_has_columns(name, self.columns, first.num_rows if first else 0)
        self._decoder = Decoder(schema)
        if not is_held and first is not None and not _are_equal(first, self._beginning()[1]):
            raise only_once(name)

    def _beginning(self) -> tuple[pa.Schema, pa.RecordBatch | None]:
        """Return the schema and the first batch; a stream that is open may block the next one, so it is closed."""
        try:
            with self._begin() as stream:
                return stream.schema, next(iter(stream), None)
        except Exception as error:  # a library's own, whatever it raises
            raise InputError(f"{self.name} cannot be read: {in_words(error)}") from error

    def types(self) -> Types:
        return Types.of_schema(self._schema)

    def _rows(self) -> Generator[Values, None, None]:
        start = 0
        try:
            with self._begin() as stream:
                for batch in stream:
                    for at in range(0, batch.num_rows, BATCH):
                        yield from self._decoder.rows(batch.slice(at, BATCH))
                        start += min(BATCH, batch.num_rows - at)
        except InputError:
            raise
        except Exception as error:  # a library's own, and a value that Python cannot hold
            raise InputError(f"{self.where(start)} or one of the next: cannot be read: {in_words(error)}") from error
        if self._count is not None:
            if self._count not in {-1, start}:
                raise only_once(self.name)
            self._count = start


def _are_equal(first: pa.RecordBatch, again: pa.RecordBatch | None) -> bool:
    """Return whether two streams begin alike; NaN, which differs from itself, is compared by its place."""
    if again is None or again.num_rows != first.num_rows:
        return False
    few = min(first.num_rows, BATCH)
    return str(first.slice(0, few).to_pylist()) == str(again.slice(0, few).to_pylist())


def only_once(name: str, instead: str | None = None) -> InputError:
    """Return the error about data that cannot be read again.

    Args:
        name: of the data.
        instead: what to give instead, if that is known.
    """
    instead = instead or (
        "give a table instead (`reader.read_all()` for an Arrow reader, `list(rows)` for a generator), or write it to a"
        " file"
    )
    return InputError(f"{name} can be read only once, and batcher reads a table more than once: {instead}")

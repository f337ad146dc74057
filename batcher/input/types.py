"""The types of a table's columns, for files that keep them (Parquet).

Invariant: a value that is written in its column's type reads back as the same text, as `cell` writes it: a column of
which that is not certain is text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from batcher.errors import InputError
from batcher.input.cell import cell, writable
from batcher.scalars import is_missing

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from batcher.records import Values

_MARK = b"nan_is_missing"
_CHECKED = 4096
"""Values of a column compared at a time."""


class Types:
    """The types of a table's columns.

    Args:
        schema: the columns with their types, all of which a Parquet file can hold.
        nan_is_missing: NaN in a column of numbers stands for a missing value, as in pandas.
    """

    def __init__(self, schema: pa.Schema, *, nan_is_missing: bool = False) -> None:
        self.schema = schema
        self._nan_is_missing = nan_is_missing

    @classmethod
    def of_schema(cls, schema: pa.Schema) -> Types:
        """Return the types of Arrow data, as a file can hold them."""
        import pyarrow as pa  # noqa: PLC0415 - slow to load

        return cls(pa.schema([(field.name, storable(field.type)) for field in schema]))

    @classmethod
    def of_texts(cls, columns: Sequence[str]) -> Types:
        """Return the types of a table that is text, or has values of different types in a column."""
        import pyarrow as pa  # noqa: PLC0415 - slow to load

        return cls(pa.schema([(name, pa.string()) for name in columns]))

    @classmethod
    def of_frame(cls, frame: pd.DataFrame, columns: Sequence[str]) -> Types:
        """Return the types of a DataFrame's columns, which get these names."""
        import pyarrow as pa  # noqa: PLC0415 - slow to load

        kinds = [_kind_of(frame.iloc[:, number]) for number in range(len(columns))]
        return cls(pa.schema(list(zip(columns, kinds, strict=True))), nan_is_missing=True)

    @classmethod
    def of_parts(cls, parts: Sequence[Types], columns: Sequence[str]) -> Types:
        """Return the types of a table in parts; a column of which they differ, or that one lacks, is text."""
        import pyarrow as pa  # noqa: PLC0415 - slow to load

        def kind(name: str) -> pa.DataType:
            found = [each.schema.field(name).type if name in each.schema.names else None for each in parts]
            is_one = bool(found) and all(each is not None and each.equals(found[0]) for each in found)
            return found[0] if is_one else pa.string()

        return cls(pa.schema([(name, kind(name)) for name in columns]))

    @classmethod
    def recorded_in(cls, question: Mapping[str, Any]) -> Types | None:
        """Return the types of a run whose question holds them; None if its files have none."""
        if (recorded := question.get("types")) is None:
            return None
        import pyarrow as pa  # noqa: PLC0415 - slow to load

        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(recorded)))
        return cls(schema.remove_metadata(), nan_is_missing=_MARK in (schema.metadata or {}))

    @cached_property
    def recorded(self) -> str:
        """The types as text: an Arrow schema in its IPC form, in base64."""
        schema = self.schema.with_metadata({_MARK: b""}) if self._nan_is_missing else self.schema
        return base64.b64encode(schema.serialize().to_pybytes()).decode()

    def of_columns(self, columns: Sequence[str]) -> Types:
        """Return the types of some of the columns."""
        import pyarrow as pa  # noqa: PLC0415 - slow to load

        return Types(pa.schema([self.schema.field(name) for name in columns]), nan_is_missing=self._nan_is_missing)

    def named(self, columns: Sequence[str]) -> Types:
        """Return the types for columns of other names."""
        import pyarrow as pa  # noqa: PLC0415 - slow to load

        schema = pa.schema(list(zip(columns, self.schema.types, strict=True)))
        return Types(schema, nan_is_missing=self._nan_is_missing)

    def arrays(self, rows: Sequence[Values]) -> list[pa.Array]:
        """Return rows as columns.

        Raises:
            InputError: a value is none of its column's type.
        """
        columns: Iterable[Sequence[object]] = zip(*rows, strict=True) if rows else [()] * len(self.schema)
        return [self._array(field, values) for field, values in zip(self.schema, columns, strict=True)]

    def _array(self, field: pa.Field, values: Sequence[object]) -> pa.Array:
        import pyarrow as pa  # noqa: PLC0415 - slow to load

        if field.type.equals(pa.string()):
            return pa.array(map(_text, values), pa.string())
        try:
            return pa.array(values, field.type, from_pandas=self._nan_is_missing)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"column {field.name!r}: a value is not of type {field.type}: {error}") from error


def _text(value: object) -> str | None:
    if type(value) is str:
        return writable(value)
    return None if value is None or is_missing(value) else writable(cell(value))


def storable(kind: pa.DataType) -> pa.DataType:
    """Return the type in which a file keeps the values of a type: text if Parquet has none for them."""
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    plain = _plain(kind)
    if plain is None:
        return pa.string()
    try:
        _write_none(plain)
    except (pa.ArrowException, OSError):
        return pa.string()
    return plain


def _write_none(kind: pa.DataType) -> None:
    """Write a missing value of a type into a Parquet file in memory."""
    import pyarrow as pa  # noqa: PLC0415 - slow to load
    from pyarrow import parquet  # noqa: PLC0415 - slow to load

    parquet.write_table(pa.table({"column": pa.nulls(1, kind)}), io.BytesIO())


def _plain(kind: pa.DataType) -> pa.DataType | None:  # noqa: PLR0911 - one for each kind of type
    """Return the type without what only memory knows: dictionaries, views, large offsets. None: it has no such form."""
    import pyarrow as pa  # noqa: PLC0415 - slow to load
    from pyarrow import types  # noqa: PLC0415 - slow to load

    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _plain(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if types.is_struct(kind):
        inner = {kind.field(at).name: _plain(kind.field(at).type) for at in range(kind.num_fields)}
        is_whole = len(inner) == kind.num_fields > 0 and all(each is not None for each in inner.values())
        return pa.struct(list(inner.items())) if is_whole else None
    if types.is_map(kind):
        pair = (_plain(kind.key_type), _plain(kind.item_type))
        return None if None in pair else pa.map_(*pair)
    if types.is_fixed_size_list(kind):
        value = _plain(kind.value_type)
        return None if value is None else pa.list_(value, kind.list_size)
    if hasattr(kind, "value_type"):  # all other lists
        value = _plain(kind.value_type)
        return None if value is None else pa.list_(value)
    return None if hasattr(kind, "storage_type") or types.is_union(kind) or types.is_null(kind) else kind


def _kind_of(column: pd.Series[Any]) -> pa.DataType:
    """Return the type that keeps a column of pandas: the texts of its values must be the same."""
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    values = column.iloc[:0] if column.dtype.kind in "iufb" else column
    try:
        array = pa.array(values, from_pandas=True)
        kind = storable(array.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, UnicodeError):
        return pa.string()
    if column.dtype.kind in "iufb" or kind.equals(pa.string()):
        return kind
    return kind if _are_kept(column, kind) else pa.string()


def _are_kept(column: pd.Series[Any], kind: pa.DataType) -> bool:
    """Return whether all values of a column have the same text when they are read back from a type."""
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    for start in range(0, len(column), _CHECKED):
        values = [*column.iloc[start : start + _CHECKED]]
        try:
            back = texts_of(pa.array(values, kind, from_pandas=True))
            if [*map(_as_written, values)] != [*back]:
                return False
        except (pa.ArrowException, TypeError, ValueError, OverflowError, UnicodeError, InputError):
            return False
    return True


def _as_written(value: object) -> str:
    return writable(cell(value))


def texts_of(array: pa.Array) -> Iterator[str]:
    """Return the values of a column as a CSV file would have them."""
    from batcher.input.arrow import decoded  # noqa: PLC0415 - it imports datasets, which have types

    return map(_as_written, decoded(array))

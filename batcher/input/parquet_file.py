"""A table in a Parquet file.

Invariant: a row group is never held whole.
"""

from __future__ import annotations

from collections.abc import Generator

from batcher.errors import InputError
from batcher.input.arrow import BATCH, Decoder
from batcher.input.dataset import check_has_columns, columns_of
from batcher.input.file import FileDataset
from batcher.input.formats import trouble
from batcher.input.types import Types
from batcher.records import Values

_PARQUET_BUFFER = 2**20
"""Bytes read ahead in each Parquet column. Without it, or with pre_buffer, a row group is loaded whole: a file of 290
MB with one row group took 297 MB of memory, with it 8 MB. Threads slow small batches down."""


class ParquetDataset(FileDataset):
    """A Parquet file. Values are the Python values of their type; a row group is never held whole."""

    may_hold_added_nulls = True

    def __init__(self, name: str) -> None:
        from pyarrow import ArrowException  # noqa: PLC0415 - slow to load, and only this format needs it
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - the same

        super().__init__(name)
        try:
            with ParquetFile(self.path) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
        except (ArrowException, OSError) as error:
            said = trouble(self.name, self.path, "parquet")
            raise InputError(f"{self.name}: cannot be read as Parquet: {said}") from error
        self.columns = columns_of(self.name, schema.names)
        check_has_columns(self.name, self.columns, rows)
        self._decoder = Decoder(schema)
        self._schema = schema
        self._count = int(rows)

    def count(self, limit: int | None = None) -> int:
        return self._count if limit is None else min(limit, self._count)

    def types(self) -> Types:
        return Types.of_schema(self._schema)

    def _rows(self) -> Generator[Values, None, None]:
        from pyarrow import ArrowException  # noqa: PLC0415 - slow to load, and only this format needs it
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - the same

        start = 0
        try:
            with ParquetFile(self.path, buffer_size=_PARQUET_BUFFER, pre_buffer=False) as file:
                for batch in file.iter_batches(BATCH, use_threads=False):
                    yield from self._decoder.rows(batch)
                    start += batch.num_rows
        # A ValueError or OverflowError means a value that Python cannot hold, such as a date after the year 9999.
        except (ArrowException, OSError, ValueError, OverflowError, RecursionError) as error:
            raise InputError(f"{self.where(start)} or one of the next: cannot be read: {error}") from error

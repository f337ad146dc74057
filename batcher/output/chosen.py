"""Writes some rows of a run as CSV or Parquet, in the columns of its result, to a file that may be a stream.

Invariant: the cells are those that the result has, text exactly as it is; a block of rows is the most in memory.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from batcher.errors import OutputError
from batcher.input.types import Types
from batcher.journal.reading import Reader
from batcher.output.changed import answer_cells
from batcher.output.csv_file import Hashing
from batcher.output.directory import Store
from batcher.output.file_format import Block, Cells, CsvFormat

if TYPE_CHECKING:
    import pyarrow as pa

CSV, PARQUET = "csv", "parquet"
FORMATS = (CSV, PARQUET)
_DENSE = 4  # a range of positions is read at once if it has at most this many times the rows that are wanted


def write_chosen(file: BinaryIO, store: Store, kind: str, blocks: Iterable[Block]) -> None:
    """Write rows.

    Args:
        file: to write; it is only written, from its beginning to its end.
        store: of the run, with its columns.
        kind: `csv` or `parquet`.
        blocks: the rows, with their cells as text.

    Raises:
        OutputError: a cell cannot have the type of its column.
    """
    if kind == CSV:
        form = CsvFormat(store.columns, store.answer_columns, store.encoding)
        form.write(blocks, Hashing(file), store.answer_columns)
        return
    from batcher.output.parquet_file import ParquetFormat  # noqa: PLC0415 - PyArrow is slow to load

    types = store.types or Types.of_texts(store.columns)
    typed = (block._replace(values=_typed(types, block.cells)) for block in blocks)
    ParquetFormat(types, store.answer_columns).write(typed, Hashing(file), store.answer_columns)


def ends_of(store: Store, journal: Reader, positions: Sequence[int]) -> Cells:
    """Return the cells of the answer columns of rows.

    Args:
        store: of the run, with its columns.
        journal: of the run.
        positions: of the rows, ascending.
    """
    added = store.answer_columns
    ends: list[list[str]] = []
    for start, stop in _ranges(positions):
        beside = journal.beside(start, stop, added.extras)
        found = zip(journal.results_so_far(start, stop), beside, strict=True)
        ends += [answer_cells(added, *each) for at, each in enumerate(found, start) if _has(positions, at)]
    return ends


def _has(positions: Sequence[int], position: int) -> bool:
    place = bisect_left(positions, position)
    return place < len(positions) and positions[place] == position


def _ranges(positions: Sequence[int]) -> list[tuple[int, int]]:
    if positions and positions[-1] - positions[0] < _DENSE * len(positions):
        return [(positions[0], positions[-1] + 1)]
    return [(each, each + 1) for each in positions]


def _typed(types: Types, cells: Cells) -> list[pa.Array]:
    """Return columns of text in their types: what a typed column writes as text is read back.

    Raises:
        OutputError: a text cannot be read so.
    """
    columns: Iterable[Sequence[str]] = zip(*cells, strict=True) if cells else [()] * len(types.schema)
    return [_column(field, texts) for field, texts in zip(types.schema, columns, strict=True)]


def _column(field: Any, texts: Sequence[str]) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    text = pa.array(texts, pa.string())
    if field.type.equals(pa.string()):
        return text
    try:
        if pa.types.is_nested(field.type):
            return pa.array([json.loads(each) if each else None for each in texts], field.type)
        if pa.types.is_boolean(field.type):
            return pa.array([{"True": True, "False": False}.get(each) for each in texts], field.type)
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            return pa.array([each.encode() for each in texts], field.type)
        return pa.array([each or None for each in texts], pa.string()).cast(field.type)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise OutputError(
            f"column {field.name!r}: a cell cannot be read as {field.type}: take CSV, or the run's own file ({error})"
        ) from error

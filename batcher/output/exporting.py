"""Writes the whole table of a run with further columns to a file of its own, as CSV or as Parquet.

Invariant: the file exists only whole, and takes the place of no file but an earlier one of its kind. A block of rows is
the most in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from batcher.answer.kinds import Kind, value_of
from batcher.errors import OutputError, SettingsError
from batcher.input.cell import writable
from batcher.output.csv_file import csv_line, encoded, read_csv, replace
from batcher.output.file_format import Block, Cells
from batcher.words import as_given

if TYPE_CHECKING:
    import pyarrow as pa

    from batcher.output.directory import Store

_PARQUET = ".parquet"
SUFFIXES = (".csv", _PARQUET)


class Added(NamedTuple):
    """A further column: its name, and what it holds."""

    name: str
    kind: Kind


class Wider(NamedTuple):
    """Rows of a run with the cells of their further columns, as text."""

    block: Block
    more: Cells


def check_target(path: Path, own: Sequence[str]) -> None:
    """Check, before anything is done, that a file may be written.

    Args:
        path: of the file.
        own: names of columns by which an earlier file of its kind is known.

    Raises:
        SettingsError: the ending is unknown, or a file of another kind is there.
    """
    where = as_given("export")
    if path.suffix not in SUFFIXES:
        raise SettingsError(f"{where}: {path} must end in {' or '.join(SUFFIXES)}, which says the format")
    if not path.parent.is_dir():
        raise SettingsError(f"{where}: there is no directory {path.parent}")
    if path.exists() and not {*own} <= {*_columns_of(path)}:
        raise SettingsError(f"{where}: {path} is there, and is no earlier export: name another file, or move it away")


def _columns_of(path: Path) -> Sequence[str]:
    """Return the names of a file's columns; none if it is no table."""
    if path.suffix == _PARQUET:
        import pyarrow as pa  # noqa: PLC0415 - slow to load
        from pyarrow import parquet  # noqa: PLC0415 - slow to load

        with contextlib.suppress(pa.ArrowException, OSError):
            return list(parquet.read_schema(path).names)
        return ()
    with contextlib.suppress(OutputError), contextlib.closing(read_csv(path)) as lines:
        return next(lines, (0, []))[1]
    return ()


def export(path: Path, store: Store, added: Sequence[Added], rows: Iterable[Wider]) -> None:
    """Write the table.

    Args:
        path: of the file; its ending says the format.
        store: has the columns of the run.
        added: the further columns.
        rows: all rows, in order.

    Raises:
        OutputError: it cannot be written.
    """
    write = _write_parquet if path.suffix == _PARQUET else _write_csv
    replace(path, lambda file: write(file, store, added, rows))


def _write_csv(file: BinaryIO, store: Store, added: Sequence[Added], rows: Iterable[Wider]) -> None:
    names = [*store.all_columns, *(writable(each.name) for each in added)]
    file.write((csv_line(names) + "\n").encode(store.encoding))
    for (cells, _, ends), more in rows:
        lines = [csv_line([*each, *end, *map(writable, own)]) for each, end, own in zip(cells, ends, more, strict=True)]
        file.write(encoded("\n".join([*lines, ""])))


def _write_parquet(file: BinaryIO, store: Store, added: Sequence[Added], rows: Iterable[Wider]) -> None:
    """Write Parquet: the input's columns have their types if the files of the run have, and else are text."""
    import pyarrow as pa  # noqa: PLC0415 - slow to load
    from pyarrow import parquet  # noqa: PLC0415 - slow to load

    from batcher.output.parquet_file import arrow_type  # noqa: PLC0415 - PyArrow is slow to load

    given = (
        [pa.field(name, pa.string()) for name in map(writable, store.columns)]
        if store.types is None
        else [*store.types.schema]
    )
    kinds = [*store.answer_columns.kinds, *(each.kind for each in added)]
    names = [*store.answer_columns, *(writable(each.name) for each in added)]
    schema = pa.schema([*given, *(pa.field(name, arrow_type(kind)) for name, kind in zip(names, kinds, strict=True))])
    with parquet.ParquetWriter(pa.PythonFile(file, mode="w"), schema) as writer:
        for (cells, values, ends), more in rows:
            inputs = _texts(cells, len(given)) if values is None else values
            columns = [*_by_column(ends, len(kinds) - len(added)), *_by_column(more, len(added))]
            answers = [_typed(kind, texts) for kind, texts in zip(kinds, columns, strict=True)]
            writer.write_table(pa.table([*inputs, *answers], schema=schema))


def _by_column(cells: Cells, columns: int) -> Iterator[Sequence[str]]:
    yield from zip(*cells, strict=True) if cells else [()] * columns


def _texts(cells: Cells, columns: int) -> list[pa.Array]:
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    return [pa.array(texts, pa.string()) for texts in _by_column(cells, columns)]


def _typed(kind: Kind, texts: Sequence[str]) -> Any:
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    from batcher.output.parquet_file import arrow_type  # noqa: PLC0415 - PyArrow is slow to load
    from batcher.output.vector_column import vectors_of_texts  # noqa: PLC0415 - NumPy is slow to load

    if kind is Kind.VECTOR:
        return vectors_of_texts(texts)
    return pa.array((value_of(kind, writable(text)) for text in texts), arrow_type(kind))

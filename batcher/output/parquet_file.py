"""Writes Parquet files with the types of the input's columns, and reads them as the cells of a CSV file.

Invariant: the same rows give the same bytes: the options of the writer are fixed, and a result's row groups do not
depend on its chunks. A chunk file, or a row group of a result, is the most in memory.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batcher.answer.columns import AnswerColumns
from batcher.answer.kinds import Kind, text_of, value_of
from batcher.errors import OutputError
from batcher.input.cell import cell, writable
from batcher.input.types import Types, texts_of
from batcher.output.csv_file import OURS, Hashing, Nowhere, csv_line, sha256_of
from batcher.output.file_format import Block, Cells, Joint
from batcher.output.vector_column import texts_of_vectors, vector_type, vectors_of_texts
from batcher.records import Values
from batcher.words import verb

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_OF_GROUP = 8192
_VECTORS_OF_GROUP = 1024
_ROWS_READ = 256  # at a time
_OPTIONS: Mapping[str, Any] = {"version": "2.6", "compression": "snappy", "write_statistics": True}


class TypedLines(list[str]):
    """The input's part of each row's line, as CSV has it, with the columns in their types beside it.

    Attributes:
        values: the columns.
    """

    values: Sequence[pa.Array]


def arrow_type(kind: Kind) -> pa.DataType:
    """Return the type of an answer column."""
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    types = {Kind.INTEGER: pa.int64(), Kind.NUMBER: pa.float64(), Kind.BOOLEAN: pa.bool_()}
    return vector_type() if kind is Kind.VECTOR else types.get(kind, pa.string())


class ParquetFormat:
    """Parquet files.

    Args:
        types: of the input's columns, by the names that the files have.
        added: the answer columns.
    """

    suffix = ".parquet"

    def __init__(self, types: Types, added: AnswerColumns) -> None:
        self._types = types
        self._added = added
        self._columns = types.schema.names
        self.schema = self._schema(added)
        names = csv_line([*self._columns, *added])
        self.head = f"{names}\n{self.schema.types}\n".encode("utf-8", "surrogatepass")

    def _schema(self, added: AnswerColumns) -> pa.Schema:
        import pyarrow as pa  # noqa: PLC0415 - slow to load

        kinds = map(arrow_type, added.kinds)
        return pa.schema([*self._types.schema, *map(pa.field, added, kinds)])

    def lines(self, rows: Iterable[Values]) -> Sequence[str]:
        rows = [*rows]
        lines = TypedLines(csv_line(map(cell, values)) for values in rows)
        lines.values = self.values(rows)
        return lines

    def values(self, rows: Sequence[Values]) -> Any:
        return self._types.arrays(rows)

    def content(self, lines: Sequence[str], ends: Cells) -> bytes:
        if not isinstance(lines, TypedLines):
            raise TypeError("these lines were made by another format")
        return self._content(lines.values, ends)

    def edited(self, lines: Cells, rows: Sequence[Values] | None, path: Path) -> bytes:
        ends = [self._added.split(line)[1] for line in lines]
        return self._content(self.values_in(path) if rows is None else self.values(rows), ends)

    def _content(self, values: Sequence[pa.Array], ends: Cells) -> bytes:
        file = io.BytesIO()
        self._write([self._table(values, ends, self._added)], file, self.schema)
        return file.getvalue()

    def _table(self, values: Sequence[pa.Array | pa.ChunkedArray], ends: Cells, added: AnswerColumns) -> pa.Table:
        import pyarrow as pa  # noqa: PLC0415 - slow to load

        return pa.table([*values, *_columns(ends, added, added.kinds)], schema=self._schema(added))

    def values_in(self, path: Path) -> Sequence[pa.ChunkedArray]:
        """Return the input's columns in a chunk file, which another program may have saved.

        Raises:
            OutputError: they are not there in their types.
        """
        import pyarrow as pa  # noqa: PLC0415 - slow to load
        from pyarrow import parquet  # noqa: PLC0415 - slow to load

        try:
            table = parquet.read_table(path, columns=self._columns, use_threads=False)
            return [table.column(field.name).cast(field.type) for field in self._types.schema]
        except (pa.ArrowException, OSError, KeyError) as error:
            raise OutputError(
                f"{path}: its columns have other types than the run's: {verb('run')}, which has the input, writes it"
                f" again ({error})"
            ) from error

    def is_own(self, path: Path) -> bool:
        import pyarrow as pa  # noqa: PLC0415 - slow to load
        from pyarrow import parquet  # noqa: PLC0415 - slow to load

        if path.suffix != self.suffix:
            return False
        try:
            return bool(parquet.read_schema(path).equals(self.schema))
        except (pa.ArrowException, OSError):
            return False

    def join(self, chunks: Iterable[Joint], file: Hashing, added: AnswerColumns) -> None:
        self._write((self._joint(each, added) for each in chunks), file, self._schema(added))

    def _joint(self, chunk: Joint, added: AnswerColumns) -> pa.Table:
        import pyarrow as pa  # noqa: PLC0415 - slow to load
        from pyarrow import parquet  # noqa: PLC0415 - slow to load

        path, facts = chunk
        try:
            table = parquet.read_table(path, use_threads=False).replace_schema_metadata(None)
        except (pa.ArrowException, OSError) as error:
            raise OutputError(f"{path} cannot be read: {error}; {OURS}") from error
        if not table.schema.equals(self.schema):
            raise OutputError(f"{path} has other columns than this run: {csv_line(table.schema.names)}")
        if facts is None:
            return table
        more = _columns(facts, added, added.kinds[len(self._added) :])
        return pa.table([*table.columns, *more], schema=self._schema(added))

    def write(self, blocks: Iterable[Block], file: Hashing, added: AnswerColumns) -> None:
        tables = (self._table(each.values, each.ends, added) for each in blocks)
        self._write(tables, file, self._schema(added))

    def is_joined(self, path: Path, chunks: Sequence[Path]) -> bool:
        import pyarrow as pa  # noqa: PLC0415 - slow to load

        made = Hashing(Nowhere())
        try:
            self.join(map(Joint, chunks), made, self._added)
        except (OutputError, pa.ArrowException):
            return False
        return made.sha256.digest() == sha256_of(path)

    def _write(self, tables: Iterable[pa.Table], file: Any, schema: pa.Schema) -> None:
        """Write tables in row groups that do not depend on where one table ends and the next begins."""
        import pyarrow as pa  # noqa: PLC0415 - slow to load
        from pyarrow import parquet  # noqa: PLC0415 - slow to load

        most = _VECTORS_OF_GROUP if self._added.is_vector else _ROWS_OF_GROUP
        with parquet.ParquetWriter(pa.PythonFile(file, mode="w"), schema, **_OPTIONS) as writer:
            for group in _groups(tables, most):
                writer.write_table(group, row_group_size=most)


def _groups(tables: Iterable[pa.Table], most: int) -> Iterator[pa.Table]:
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        if count < most:
            continue
        whole = pa.concat_tables(waiting)
        ends = range(most, count + 1, most)
        yield from (whole.slice(end - most, most).combine_chunks() for end in ends)
        waiting = [whole.slice(ends[-1])]
        count -= ends[-1]
    if count:
        yield pa.concat_tables(waiting).combine_chunks()


def _columns(cells: Cells, added: AnswerColumns, kinds: Sequence[Kind]) -> list[pa.Array]:
    """Return the cells of the last answer columns, as many as there are kinds, in their types."""
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    names = [*added][len(added) - len(kinds) :]
    columns: Iterable[Sequence[str]] = zip(*cells, strict=True) if cells else [()] * len(kinds)
    made = []
    for name, kind, texts in zip(names, kinds, columns, strict=True):
        if kind is Kind.VECTOR:
            made.append(vectors_of_texts(texts))
        elif name in added.always:
            made.append(pa.array(map(writable, texts), pa.string()))
        else:
            made.append(pa.array((value_of(kind, writable(text)) for text in texts), arrow_type(kind)))
    return made


def read_parquet(path: Path, added: AnswerColumns, advice: str = OURS) -> Generator[tuple[int, list[str]], None, None]:
    """Read the columns of a Parquet file, then every row as the cells of a CSV file, each with its number, from 2.

    Args:
        path: of the file.
        added: the answer columns, if it has such.
        advice: what to do if it is damaged.

    Raises:
        OutputError: it is missing, or not Parquet.
    """
    import pyarrow as pa  # noqa: PLC0415 - slow to load
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - slow to load

    kinds = dict(zip(added, added.kinds, strict=True)) | added.kinds_of_facts
    number = 2
    try:
        with ParquetFile(path, pre_buffer=False) as file:
            names = file.schema_arrow.names
            yield 1, names
            for batch in file.iter_batches(_ROWS_READ, use_threads=False):
                columns = [
                    map(writable, _texts(column, kinds[name])) if name in kinds else texts_of(column)
                    for name, column in zip(names, batch.columns, strict=True)
                ]
                for cells in zip(*columns, strict=True):
                    yield number, [*cells]
                    number += 1
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise OutputError(f"{path} cannot be read: {error}; {advice}") from error


def _texts(column: pa.Array, kind: Kind) -> Iterator[str]:
    if kind is Kind.VECTOR and column.type.equals(vector_type()):
        return texts_of_vectors(column)
    return (text_of(kind, value) for value in column.to_pylist())

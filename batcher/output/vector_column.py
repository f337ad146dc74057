"""The column of vectors in a Parquet file: made of texts, read as texts, as a matrix, and as a file of NumPy.

Invariant: one row group, or one chunk, is the most in memory, except for a matrix, which is all vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from batcher.answer.vectors import bytes_of, text_of
from batcher.errors import OutputError
from batcher.words import option

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]

_ROWS_READ = 256  # at a time
_BYTES = 4  # of a number


def vector_type() -> pa.DataType:
    """Return the type of a column of vectors."""
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    return pa.list_(pa.field("element", pa.float32()))  # the name that Parquet gives it


def vectors_of_texts(texts: Sequence[str]) -> pa.Array:
    """Return vectors, given as texts, as a column; a text that is none is a missing value."""
    import numpy as np  # noqa: PLC0415 - slow to load
    import pyarrow as pa  # noqa: PLC0415 - slow to load

    found = [bytes_of(text) for text in texts]
    ends = [0, *itertools.accumulate(len(each or b"") // _BYTES for each in found)]
    offsets = [None if each is None else start for start, each in zip(ends, found, strict=False)] + ends[-1:]
    numbers = np.frombuffer(b"".join(each or b"" for each in found), dtype="<f4")
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(numbers, pa.float32()), type=vector_type())


def texts_of_vectors(column: pa.Array) -> Iterator[str]:
    """Yield the vectors of a column as texts; a missing one is empty."""
    return ("" if each is None else text_of(each.tobytes()) for each in _vectors_in(column))


def _vectors_in(column: pa.Array) -> Iterator[np.ndarray[Any, Any] | None]:
    """Yield the numbers of each vector of a column."""
    numbers = column.values.to_numpy(zero_copy_only=False).astype("<f4", copy=False)
    starts = column.offsets.to_pylist()
    for row, is_there in enumerate(column.is_valid().to_pylist()):
        yield numbers[starts[row] : starts[row + 1]] if is_there else None


def vectors_in(path: Path, name: str) -> Iterator[np.ndarray[Any, Any] | None]:
    """Read the vectors of a result, row by row; None for a row that has none.

    Args:
        path: of the result, a Parquet file.
        name: of the column.

    Raises:
        OutputError: it cannot be read, or the column does not hold vectors.
    """
    import pyarrow as pa  # noqa: PLC0415 - slow to load
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - slow to load

    try:
        with ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(_ROWS_READ, columns=[name], use_threads=False):
                yield from _vectors_in(batch.column(0))
    except (pa.ArrowException, OSError, AttributeError) as error:
        raise OutputError(f"{path} cannot be read: {error}") from error


def vectors_of(texts: Iterable[str]) -> Iterator[np.ndarray[Any, Any] | None]:
    """Yield the numbers of vectors that are given as texts; None for a text that is none."""
    import numpy as np  # noqa: PLC0415 - slow to load

    for text in texts:
        raw = bytes_of(text)
        yield None if raw is None else np.frombuffer(raw, "<f4")


def rows_in(path: Path) -> int:
    """Return the rows of a result.

    Raises:
        OutputError: it cannot be read.
    """
    import pyarrow as pa  # noqa: PLC0415 - slow to load
    from pyarrow import parquet  # noqa: PLC0415 - slow to load

    try:
        return int(parquet.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise OutputError(f"{path} cannot be read: {error}") from error


def matrix_of(vectors: Iterator[np.ndarray[Any, Any] | None], rows: int) -> Matrix:
    """Return vectors as a matrix of 32-bit floats, a row for each; a row without a vector is NaN in all columns.

    Raises:
        OutputError: they have different lengths.
    """
    import numpy as np  # noqa: PLC0415 - slow to load

    matrix: Matrix | None = None
    for row, vector in enumerate(vectors):
        if vector is None:
            continue
        if matrix is None:
            matrix = np.full((rows, len(vector)), np.nan, np.float32)
        if len(vector) != matrix.shape[1]:
            raise _different(row, len(vector), matrix.shape[1])
        matrix[row] = vector
    return np.full((rows, 0), np.nan, np.float32) if matrix is None else matrix


def write_npy(result: Path, name: str, file: BinaryIO) -> None:
    """Write the vectors of a result as a file of NumPy, like `matrix_of`, row by row.

    Raises:
        OutputError: they have different lengths, or the result cannot be read.
    """
    import numpy as np  # noqa: PLC0415 - slow to load

    length = next((len(each) for each in vectors_in(result, name) if each is not None), 0)
    shape = {"descr": "<f4", "fortran_order": False, "shape": (rows_in(result), length)}
    np.lib.format.write_array_header_1_0(file, shape)
    missing = np.full(length, np.nan, "<f4").tobytes()
    for row, vector in enumerate(vectors_in(result, name)):
        if vector is not None and len(vector) != length:
            raise _different(row, len(vector), length)
        file.write(missing if vector is None else vector.tobytes())


def _different(row: int, length: int, first: int) -> OutputError:
    return OutputError(
        f"the vectors have different lengths ({length:,} numbers in row {row:,}, counted from 0, and {first:,} before):"
        " they came from different models or with different dimensions, and make no matrix. The"
        f" result has them as lists: leave {option('with_', 'npy')} out, or ask one model alone under another keyword"
    )

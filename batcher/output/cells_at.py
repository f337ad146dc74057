"""The input's cells of a few rows of a run: from chunk files, or else from the input.

Invariant: cells are those of the plan, by their marks; rows whose cells are not to be had are left out.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from batcher.errors import BatcherError, InputError
from batcher.input.cell import cell, writable
from batcher.input.dataset import Dataset
from batcher.input.marks import Marks
from batcher.input.selection import Selection
from batcher.journal.entries import LastRun
from batcher.journal.reading import Reader
from batcher.output.directory import Store
from batcher.output.so_far import input_of, with_columns

_AT_ONCE = 1000  # rows in memory


def cells_at(
    store: Store, journal: Reader, last: LastRun, planned: Mapping[int, bytes], data: Dataset | None = None
) -> dict[int, list[str]]:
    """Return the input's cells of rows, as a file holds them, by their positions.

    Args:
        store: the files of the run.
        journal: of the run.
        last: the run.
        planned: the marks of each row that is asked for, by its position.
        data: the input, if the user gave it: it is read first.

    Raises:
        InputError: the given input is not the run's.
    """
    marks = Marks(last.question.get("table", ()))
    if data is not None and data.columns != marks.columns:
        raise InputError(
            f"{data.name} has other columns than the table that was asked:"
            f" {', '.join(map(repr, data.columns))} instead of {', '.join(map(repr, marks.columns))}"
        )
    found: dict[int, list[str]] = {}

    def missing() -> list[int]:
        return [position for position in sorted(planned) if position not in found]

    def keep(rows: Iterator[tuple[int, list[str]]]) -> None:
        found.update((position, cells) for position, cells in rows if marks.of(tuple(cells)) == planned[position])

    if data is not None:
        keep(_of_input(data, last, store.keyword, missing()))
    keep(_of_chunks(store, journal, last, missing()))
    if data is None and (left := missing()):
        with contextlib.suppress(BatcherError):  # it may have changed since, or be broken
            dataset = input_of(last.question)
            if dataset is not None and dataset.columns == marks.columns:
                keep(_of_input(dataset, last, store.keyword, left))
    return found


def cells_in_chunks(store: Store, journal: Reader, last: LastRun, positions: Sequence[int]) -> dict[int, list[str]]:
    """Return the cells of rows that chunk files have as they were planned, by their positions, ascending."""
    marks, planned = Marks(last.question.get("table", ())), dict[int, bytes]()
    for position in positions:
        planned.update(zip([position], journal.marks(position, position + 1), strict=False))
    return {
        position: cells
        for position, cells in _of_chunks(store, journal, last, sorted(planned))
        if marks.of(tuple(cells)) == planned[position]
    }


def cells_of_input(dataset: Dataset, last: LastRun, keyword: str, size: int) -> Iterator[tuple[int, list[list[str]]]]:
    """Yield the rows of a run's input, `size` at a time: the position of the first, and the cells of each.

    Raises:
        InputError: it cannot be read.
    """
    for start, rows in Selection.recorded_in(last.question, dataset, keyword).slices(size):
        yield start, [[writable(cell(value)) for value in values] for values in rows]


def _of_input(dataset: Dataset, last: LastRun, keyword: str, asked: Sequence[int]) -> Iterator[tuple[int, list[str]]]:
    selection, coming = Selection.recorded_in(last.question, dataset, keyword), [*reversed(asked)]
    for start, rows in selection.slices(_AT_ONCE):
        while coming and coming[-1] < start + len(rows):
            position = coming.pop()
            yield position, [writable(cell(value)) for value in rows[position - start]]
        if not coming:
            return


def _of_chunks(store: Store, journal: Reader, last: LastRun, asked: Sequence[int]) -> Iterator[tuple[int, list[str]]]:
    chunks = journal.chunks()
    starts, files = sorted(chunks), with_columns(store, chunks, last.question)
    wanted: dict[int, set[int]] = {}
    for position in asked:
        start = starts[bisect_right(starts, position) - 1] if starts and starts[0] <= position else None
        if start is not None and position < start + chunks[start].rows:
            wanted.setdefault(start, set()).add(position)
    for start, positions in wanted.items():
        with contextlib.suppress(BatcherError), closing(files.lines_of(start)) as lines:  # it may be gone, or changed
            for position, line in enumerate(lines, start):
                if position in positions:
                    yield position, files.answer_columns.split(line)[0]

"""The cells of a few rows, for people to read: from the chunk files, or from the input if it is still there.

Invariant: cells are shown only of the row that was asked, which its marks prove; a row without such cells has no text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing

from batcher.errors import BatcherError
from batcher.input.cell import cell, writable
from batcher.input.marks import Marks
from batcher.input.selection import Selection
from batcher.output.opening import PastRun, R
from batcher.output.so_far import input_of, with_columns

_SLICE = 1000  # rows of the input in memory


def texts_at(run: PastRun[R], positions: Collection[int], columns: Sequence[str]) -> dict[int, str]:
    """Return what rows hold in some columns, in one line each; a row whose cells are gone is left out.

    Args:
        run: its rows.
        positions: of the rows.
        columns: of the table. If there are several, their names stand before their cells.
    """
    last = run.last()
    table = tuple(last.question.get("table", ()))
    marks, wanted = Marks(table), sorted(set(positions))
    places = [place for place, name in enumerate(table) if name in columns]
    planned = {position: run.journal.marks(position, position + 1) for position in wanted}

    def is_own(position: int, cells: Sequence[str]) -> bool:
        return len(cells) == len(table) and planned[position] == [marks.of(tuple(cells))]

    found: dict[int, list[str]] = {}
    for cells_of in (_in_chunks, _in_input):
        missing = [position for position in wanted if position not in found]
        with contextlib.suppress(BatcherError, OSError):  # a file that cannot be read has no examples
            found |= {position: cells for position, cells in cells_of(run, missing) if is_own(position, cells)}
    names = [writable(table[place]) for place in places]
    return {position: _in_line(names, [cells[place] for place in places]) for position, cells in found.items()}


_Found = Iterator[tuple[int, list[str]]]


def _in_chunks(run: PastRun[R], positions: Sequence[int]) -> _Found:
    """Yield the cells of rows that chunk files hold."""
    last, chunks = run.last(), run.journal.chunks()
    store = with_columns(run.store, chunks, last.question)
    by_chunk: dict[int, list[int]] = {}
    for position in positions:
        by_chunk.setdefault(position // last.chunk_size * last.chunk_size, []).append(position)
    for start, wanted in by_chunk.items():
        if start in chunks and store.chunk_file(start).exists():
            with closing(store.lines_of(start)) as lines:
                yield from _picked(((start, [store.answer_columns.split(line)[0] for line in lines]),), wanted)


def _in_input(run: PastRun[R], positions: Sequence[int]) -> _Found:
    """Yield the cells of rows of the input."""
    question = run.last().question
    if not positions or (dataset := input_of(question)) is None:
        return
    slices = Selection.recorded_in(question, dataset, run.store.keyword).slices(_SLICE)
    yield from _picked(
        ((start, [[writable(cell(value)) for value in row] for row in rows]) for start, rows in slices), positions
    )


def _picked(slices: Iterable[tuple[int, list[list[str]]]], positions: Sequence[int]) -> _Found:
    """Yield the rows at some positions, which rise."""
    left = list(positions)
    for start, rows in slices:
        while left and left[0] < start + len(rows):
            position = left.pop(0)
            if position >= start:
                yield position, rows[position - start]
        if not left:
            return


def _in_line(names: Sequence[str], cells: Sequence[str]) -> str:
    texts = [" ".join(each.split()) for each in cells]
    if len(texts) == 1:
        return texts[0]
    return "; ".join(f"{name}: {text}" for name, text in zip(names, texts, strict=True))

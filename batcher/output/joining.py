"""`merge`: joins the chunk files as they are, so that corrections by hand get into the result.

Invariant: a result is never made of fewer or older rows than the journal has; an error names the reason.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from batcher.answer.columns import cells_of, split
from batcher.errors import OutputError, outermost
from batcher.input.cell import writable
from batcher.input.marks import Marks
from batcher.journal.entries import Chunk
from batcher.journal.opening import read_journal
from batcher.journal.reading import Reader
from batcher.output.cells import check_cells, difference_by_marks
from batcher.output.csv_file import read_csv
from batcher.output.directory import FileState, Store
from batcher.output.opening import opened
from batcher.words import counted, option, verb


@outermost
def merge(keyword: str, output_dir: str | os.PathLike[str] = "output", *, partial: bool = False) -> Path:
    """Join the chunk files as they are, and return the path of the result.

    Args:
        keyword: names the run.
        output_dir: the run's output directory.
        partial: write the finished chunks to `partial_<keyword>.csv`, instead of all to `all_<keyword>.csv`.

    Raises:
        SettingsError: the keyword is invalid.
        OutputError: there is no run, a run is writing, rows are left, or a chunk file is missing, damaged or older than
            the journal.
    """
    with opened(keyword, output_dir, functools.partial(read_journal, alone=True)) as run:
        store, journal, last = run.store, run.journal, run.last()
        rows, left = journal.scope(), journal.left()
        if left and not partial:
            raise OutputError(
                f"{left:,} of {counted(rows, 'row')} of {keyword!r} {'has' if left == 1 else 'have'} no result yet:"
                f" run it again, or give {option('partial', value=True)} for what is finished"
            )
        marks = Marks(last.question.get("table", ()))
        starts = list(_finished(store, journal, range(0, rows, last.chunk_size), rows, marks, partial=partial))
        store = store.as_found(starts, last.question.get("answer_column"))
        if not store.columns or (partial and not starts):
            raise OutputError(f"no chunk of {keyword!r} is finished yet: run it again")
        return store.join(starts, store.partial_path if partial else store.all_path)


def _finished(store: Store, journal: Reader, starts: range, rows: int, marks: Marks, *, partial: bool) -> Iterator[int]:
    """Yield the chunks to join, after checking each.

    Raises:
        OutputError: a chunk file is missing, damaged or older than the journal, or its cells differ from the input's.
    """
    found = store.as_found(starts, None)
    chunks = journal.chunks()
    for start in starts:
        stop = min(start + starts.step, rows)
        path = store.chunk_path(start)
        chunk = chunks.get(start)
        if partial and (chunk is None or not path.exists() or journal.left(start, stop)):
            continue
        if chunk is None or chunk.rows != stop - start:
            raise OutputError(f"no chunk file holds exactly rows {start:,} to {stop - 1:,}: {_anew()}")
        state = found.state(start, chunk.rows, chunk.sha256)
        if state is FileState.MISSING:
            raise OutputError(f"{path} is missing: {_anew()}")
        if state is FileState.BROKEN:
            raise OutputError(f"{path} cannot be read, or has other columns or another number of rows: {_anew()}")
        if state is FileState.INTACT and not _is_current(found, journal, start, chunk):
            raise OutputError(f"{path} is older than the answers in the journal: {_anew()}")
        if state is FileState.EDITED:
            _check_cells(found, journal, start, marks)
        yield start


def _is_current(store: Store, journal: Reader, start: int, chunk: Chunk) -> bool:
    """Return whether an unchanged chunk file holds the present answers of the journal."""
    results = journal.results(start, start + chunk.rows)
    expected = [[*map(writable, cells_of(each))] for each in results]
    with closing(store.lines_of(start)) as lines:
        return expected == [split(line)[1] for line in lines]


def _check_cells(store: Store, journal: Reader, start: int, marks: Marks) -> None:
    """Check that the lines of a changed chunk file are about the rows of the run; answers may be corrected.

    Raises:
        OutputError: a cell differs from the input's.
    """
    path = store.chunk_path(start)
    with closing(read_csv(path)) as lines:
        next(lines)
        rows = [(number, split(line)[0]) for number, line in lines]
    check_cells(path, rows, journal.marks(start, start + len(rows)), functools.partial(difference_by_marks, marks))


def _anew() -> str:
    return f"{verb('run')} writes it again, without a call"

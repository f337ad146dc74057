"""`merge`: join the chunk files as they are, so that what was corrected in them by hand is in the result.

Invariant: a result is never made of fewer rows, or of older ones, than the journal has; what keeps it from being made
is named.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from batcher.answer.columns import cells_of, split
from batcher.errors import OutputError
from batcher.input.cell import writable
from batcher.input.marks import Marks
from batcher.journal.journal import Chunk, Journal
from batcher.output.directory import FileState, Store, read_csv
from batcher.settings import check_keyword
from batcher.words import option

_ANEW = "`batcher run` makes it anew, without a call"


def merge(keyword: str, output_dir: str | os.PathLike[str] = "output", *, partial: bool = False) -> Path:
    """Join the chunk files as they are, and return the path of what was written.

    Args:
        keyword: names the run.
        output_dir: where it writes.
        partial: write `partial_<keyword>.csv` of the chunks that are finished, instead of `all_<keyword>.csv`.

    Raises:
        SettingsError: the keyword cannot be one.
        OutputError: there is no run, it is being written, rows are left, or a chunk file is missing, broken or older
            than the journal.
    """
    check_keyword(keyword)
    store = Store(Path(output_dir), keyword)
    with Journal.read(store.existing_journal(), alone=True) as journal:
        last = journal.last_run()
        if last is None:
            raise OutputError(f"{store.journal_path} holds no run yet")
        rows, left = journal.scope(), journal.left()
        if left and not partial:
            raise OutputError(
                f"{left:,} of {rows:,} rows of {keyword!r} have no result yet: run it again, or give"
                f" {option('partial', value=True)} for what is finished"
            )
        marks = Marks(last.question.get("table", ()))
        starts = list(_finished(store, journal, range(0, rows, last.chunk_size), rows, marks, partial=partial))
        store = store.as_found(starts, last.question.get("answer_column"))
        if not store.columns or (partial and not starts):
            raise OutputError(f"no chunk of {keyword!r} is finished yet: run it again")
        return store.join(starts, store.partial_path if partial else store.all_path)


def _finished(
    store: Store, journal: Journal, starts: range, rows: int, marks: Marks, *, partial: bool
) -> Iterator[int]:
    """Yield the chunks to join, each looked at before.

    Raises:
        OutputError: a chunk file is missing, broken or older than the journal, or not all of its cells are the input's.
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
            raise OutputError(f"no chunk file holds rows {start:,} to {stop - 1:,} by themselves: {_ANEW}")
        state = found.state(start, chunk.rows, chunk.sha256)
        if state is FileState.MISSING:
            raise OutputError(f"{path} is missing: {_ANEW}")
        if state is FileState.BROKEN:
            raise OutputError(f"{path} cannot be read, or has other columns or another number of rows: {_ANEW}")
        if state is FileState.INTACT and not _is_current(found, journal, start, chunk):
            raise OutputError(f"{path} is older than the answers in the journal: {_ANEW}")
        if state is FileState.EDITED:
            _check_cells(found, journal, start, marks)
        yield start


def _is_current(store: Store, journal: Journal, start: int, chunk: Chunk) -> bool:
    """Tell whether a chunk file that nobody has changed holds the answers that the journal has now."""
    results = journal.results(start, start + chunk.rows)
    expected = [[*map(writable, cells_of(each))] for each in results]
    with closing(store.lines_of(start)) as lines:
        return expected == [split(line)[1] for line in lines]


def _check_cells(store: Store, journal: Journal, start: int, marks: Marks) -> None:
    """Check that the lines of a changed chunk file are about the rows of the run; answers may be corrected.

    Raises:
        OutputError: a cell is not the input's.
    """
    path = store.chunk_path(start)
    with closing(read_csv(path)) as lines:
        next(lines)
        rows = list(lines)
    for (number, line), planned in zip(rows, journal.marks(start, start + len(rows)), strict=True):
        if changed := marks.differing(planned, marks.of(tuple(split(line)[0]))):
            raise OutputError(
                f"{path}, line {number}, column {changed[0]!r}: the cell is not the input's. In a chunk file only"
                " answers may be corrected: put the input's cells back, or move the file away, and `batcher run`"
                " makes it anew"
            )

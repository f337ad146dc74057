"""`merge`: joins the chunk files as they are, so that corrections by hand get into the result.

Invariant: a result is never made of fewer or older rows than the journal has; an error names the reason.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from batcher.answer.columns import AnswerColumns
from batcher.errors import OutputError
from batcher.input.marks import Marks
from batcher.journal.entries import Chunk, LastRun
from batcher.journal.opening import read_journal, record_joined
from batcher.journal.reading import Reader
from batcher.output.directory import Store, result_changed
from batcher.output.edited import Marked, UnfitError, message, read_edited
from batcher.output.opening import opened
from batcher.words import counted, option, say

_ANEW = "`batcher run` writes it again, without a call"


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
        store = _with_columns(store, last, range(0, rows, last.chunk_size))
        starts = list(_finished(store, journal, range(0, rows, last.chunk_size), rows, marks, partial=partial))
        if not store.columns or (partial and not starts):
            raise OutputError(f"no chunk of {keyword!r} is finished yet: run it again")
        path = store.partial_path if partial else store.all_path
        record = functools.partial(record_joined, journal.path, last.id, path.name)
        _, copy = store.join(starts, path, known=journal.joined(path.name), record=record)
        if copy:
            say(result_changed(path, copy))
        return path


def _finished(store: Store, journal: Reader, starts: range, rows: int, marks: Marks, *, partial: bool) -> Iterator[int]:
    """Yield the chunks to join, after checking each.

    Raises:
        OutputError: a chunk file is missing, damaged or older than the journal, or its cells differ from the input's.
    """
    chunks = journal.chunks()
    for start in starts:
        stop = min(start + starts.step, rows)
        path = store.chunk_path(start)
        chunk = chunks.get(start)
        if partial and (chunk is None or not path.exists() or journal.left(start, stop)):
            continue
        if chunk is None or chunk.rows != stop - start:
            raise OutputError(f"no chunk file holds exactly rows {start:,} to {stop - 1:,}: {_ANEW}")
        if store.is_empty(start):
            raise OutputError(f"{path} is missing, or empty: {_ANEW}")
        if store.sha256(start) != chunk.sha256:
            _take_corrections(store, journal, start, chunk, marks)
        elif not _is_current(store, journal, start, chunk):
            raise OutputError(f"{path} is older than the answers in the journal: {_ANEW}")
        yield start


def _with_columns(store: Store, last: LastRun, starts: range) -> Store:
    """Return the files with their columns: the journal's, or if an older batcher wrote it, those that they have."""
    answer, table = last.question.get("answer_column"), last.question.get("table")
    found = store.as_found(starts, answer)
    if answer is None or not table:
        return found
    added = AnswerColumns(answer, tuple(last.question.get("with") or ()))
    return Store(store.directory, store.keyword, table, added, found.encoding)


def _is_current(store: Store, journal: Reader, start: int, chunk: Chunk) -> bool:
    """Return whether an unchanged chunk file holds the present answers of the journal."""
    with closing(store.lines_of(start)) as lines:
        return _answers(store, journal, start, chunk) == [store.answer_columns.split(line)[1] for line in lines]


def _answers(store: Store, journal: Reader, start: int, chunk: Chunk) -> list[list[str]]:
    stop = start + chunk.rows
    return store.answers(journal.results(start, stop), journal.beside(start, stop))


def _take_corrections(store: Store, journal: Reader, start: int, chunk: Chunk, marks: Marks) -> None:
    """Read a chunk file that was changed, and write it in its own form if it cannot be joined as it is.

    Raises:
        OutputError: it is not certain which corrections it holds.
    """
    path, planned = store.chunk_path(start), journal.marks(start, start + chunk.rows)
    rows = Marked(store.columns, store.answer_columns, marks, planned, _answers(store, journal, start, chunk))
    try:
        edited = read_edited(path, rows)
    except UnfitError as error:
        raise OutputError(message(path, error)) from error
    if edited.how:
        say(store.write_edited(start, edited))

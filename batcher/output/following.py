"""Lets the files of a run follow what people have decided on the page: chunk files are written again from the journal.

Invariant: a file that a person has changed meanwhile is read before it is written, so that nothing is lost; a file that
follows already stays as it is, byte for byte.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing
from typing import NamedTuple

from batcher.input.marks import Marks
from batcher.journal.deciding import Pen
from batcher.journal.entries import Chunk, LastRun
from batcher.journal.reading import Reader
from batcher.output.changed import Changed, ChangedFiles
from batcher.output.csv_file import csv_line
from batcher.output.directory import Store, came_back
from batcher.output.so_far import forms_of, input_of, recorded_with, with_by, with_columns
from batcher.words import counted


class Written(NamedTuple):
    """A chunk file that was written again.

    Attributes:
        chunk: as it is recorded.
        said: what people are told; empty if there is nothing.
    """

    chunk: Chunk
    said: str = ""


def is_behind(store: Store, start: int, chunk: Chunk) -> bool:
    """Return whether a chunk file lacks corrections, or a column."""
    if chunk.lacks is not None:
        return True
    with closing(store.read(store.chunk_path(start))) as lines:
        _, columns = next(lines, (0, []))
    return columns != store.all_columns


class Following:
    """Writes chunk files again with the answers that the journal has now, and with the columns of `store`.

    Args:
        store: the files with the columns that they get.
        journal: of the run.
        marks: makes the marks of the table.
    """

    def __init__(self, store: Store, journal: Reader, marks: Marks) -> None:
        self._store = store
        self._journal = journal
        self._marks = marks

    def write(self, start: int, chunk: Chunk, changed: Changed | None = None) -> Written | None:
        """Write a chunk file; return None if the next run has to, which knows the rows.

        Args:
            start: the position of its first row.
            chunk: as the journal has it.
            changed: the file as a person changed it, whose corrections are in the journal.
        """
        stop = start + chunk.rows
        if self._journal.left(start, stop) or (inputs := self._inputs(start, changed)) is None:
            return None
        planned = self._journal.marks(start, stop)
        if len(inputs) != len(planned) or any(
            had and self._marks.of(tuple(cells)) != had for cells, had in zip(inputs, planned, strict=True)
        ):
            return None
        # First the states: what is decided meanwhile is in the file then, but not in its origin, never the other way.
        states = self._journal.states(start, stop)
        added = self._store.answer_columns
        beside = self._journal.beside(start, stop, added.extras)
        answers = self._store.answers(self._journal.results(start, stop), beside)
        lines = [[*cells, *ending] for cells, ending in zip(inputs, answers, strict=True)]
        is_kept = changed is not None and changed.how and not changed.is_workbook
        known = {chunk.sha256} if changed is None or is_kept else {chunk.sha256, changed.sha256}
        copy = self._store.write_edited(start, lines, known)
        origin = self._store.origin([csv_line(cells) for cells in inputs], states)
        written = Chunk(chunk.rows, origin, self._store.sha256(start) or b"")
        said = came_back(changed.path, changed.how, len(changed.corrections)) if changed and copy else ""
        return Written(written, f"{said}; your version is kept as {copy}." if said else "")

    def _inputs(self, start: int, changed: Changed | None) -> list[list[str]] | None:
        """Return the input's cells of the rows of a chunk file; None if it is not there in the run's format."""
        path = self._store.chunk_path(start)
        if self._store.is_empty(start) or not path.exists():
            return None
        if changed is not None:
            return [changed.store.answer_columns.split(line)[0] for line in changed.lines]
        with closing(self._store.read(path)) as lines:
            _, columns = next(lines, (0, []))
            store = next((each for each in forms_of(self._store) if each.all_columns == columns), None)
            return None if store is None else [store.answer_columns.split(line)[0] for _, line in lines]


def follow(store: Store, pen: Pen, *, is_reviewed: bool = False) -> str:
    """Write the chunk files that lack what people have decided on the page; return what was done, in words.

    Args:
        store: the files.
        pen: the journal of the run, which no run has open.
        is_reviewed: people have decided something in another shard of the run: the files get the same columns.

    Raises:
        OutputError: a file cannot be read or written, or it is not certain what was corrected in it.
    """
    last, chunks = pen.last_run(), pen.chunks()
    if last is None or not (is_reviewed or pen.is_reviewed()):
        return ""
    before = with_columns(store, chunks, last.question)
    after, clash = with_by(before, pen, is_reviewed=is_reviewed)
    if after is not before:
        pen.files_have(last.id, recorded_with(last.question, after))
    behind = {start for start, each in chunks.items() if _is_there(after, start) and is_behind(after, start, each)}
    if not behind:
        return clash
    said, written = [clash] if clash else [], 0
    changed = dict(_changed(before, pen, last, behind))
    following = Following(after, pen, Marks(last.question.get("table", after.columns)))
    for start in sorted(behind):
        of_person = changed.get(start)
        if of_person is not None:
            pen.correct(of_person.corrections, last.id)
        done = following.write(start, pen.chunks()[start] if of_person else chunks[start], of_person)
        if done is None:
            continue
        pen.chunk_written(start, done.chunk)
        written += 1
        said += [done.said] if done.said else []
        if of_person is not None and of_person.workbook:
            pen.read(of_person.workbook, last.id)
            said.append(after.set_workbook_aside(start, len(of_person.corrections)))
    return " ".join([f"{counted(written, 'chunk file')} written again.", *said]) if written else " ".join(said)


def _is_there(store: Store, start: int) -> bool:
    return store.chunk_path(start).exists() and not store.is_empty(start)


def _changed(store: Store, pen: Pen, last: LastRun, starts: Collection[int]) -> Iterator[tuple[int, Changed]]:
    """Read those of the chunk files that people have changed."""
    files = ChangedFiles(store, pen, last, only=starts)
    if files:
        files.read_beside(input_of(last.question))
        yield from ((each.start, each) for each in files)

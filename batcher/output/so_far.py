"""The rows of a run with the results that they have so far, also while the run works.

Invariant: a row's cells and its result belong together: cells that are not those of the plan are refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batcher.answer.columns import AnswerColumns
from batcher.errors import InputError, SettingsError
from batcher.input.cell import cell, writable
from batcher.input.dataset import Dataset
from batcher.input.marks import Marks
from batcher.input.narrowed import narrowed
from batcher.input.opening import Reading, open_dataset
from batcher.input.selection import Selection
from batcher.input.several import is_pattern
from batcher.input.types import Types
from batcher.journal.entries import Chunk, LastRun
from batcher.journal.reading import Reader
from batcher.output.changed import Changed, Layout, answer_cells
from batcher.output.changed import Reading as ChangedReading
from batcher.output.directory import Store
from batcher.words import counted, verb

if TYPE_CHECKING:
    from batcher.input.opening import Data


_BY = "by"


class ChunkSoFar(NamedTuple):
    """The rows of one chunk.

    Attributes:
        start: the position of the first.
        inputs: the input's cells of each, as a file holds them; None if they are not known.
        answers: the answer's cells of each; empty if the row has no result.
        values: the input's columns in the types of the files, if these have types.
    """

    start: int
    inputs: list[list[str]] | None
    answers: list[list[str]]
    values: Any = None


class SoFar:
    """Reads the rows of a run in slices, each a chunk. Finished chunk files are read as they are, with corrections.

    Args:
        store: the files.
        journal: of the run.
        last: the run.
        dataset: the run's input; without it, only chunk files have the input's cells.
        is_reviewed: other rows of the same table have a column that says who gave an answer: these get it, too.
    """

    def __init__(
        self,
        store: Store,
        journal: Reader,
        last: LastRun,
        dataset: Dataset | None = None,
        *,
        is_reviewed: bool = False,
    ) -> None:
        self.rows = journal.scope()
        self._journal = journal
        self._chunk_size = last.chunk_size
        self._question = last.question
        self._chunks = journal.chunks()
        self._dataset = dataset
        found = with_columns(store, self._chunks, last.question)
        self.store, _ = with_by(found, journal, is_reviewed=is_reviewed)
        table = tuple(last.question.get("table", self.store.columns))
        self._marks = Marks(table)
        self._workbooks = self.store.workbooks()
        self._changed = ChangedReading([Layout(each, table) for each in forms_of(self.store)], journal)
        if dataset is not None and dataset.columns != self._marks.columns:
            raise InputError(
                f"{dataset.name} has other columns than the table that was asked:"
                f" {', '.join(map(repr, dataset.columns))} instead of {', '.join(map(repr, self._marks.columns))}"
            )

    def parts(self) -> Iterator[ChunkSoFar]:
        """Read all rows of the plan.

        Raises:
            InputError: a row of the input has changed, or is gone.
            OutputError: a chunk file is damaged, or cells of the input were changed in it.
        """
        known = itertools.repeat((None, None)) if self._dataset is None else self._inputs(self._dataset)
        for start, (inputs, values) in zip(range(0, self.rows, self._chunk_size), known, strict=False):
            stop = min(start + self._chunk_size, self.rows)
            added = self.store.answer_columns
            if lines := self._lines_of_file(start, stop):
                cells, answers = zip(*map(added.split, lines), strict=True)
                path = self.store.chunk_path(start)
                own = self.store.values_in(path) if path.exists() else values
                is_known = self.store.types is None or own is not None
                yield ChunkSoFar(start, [*cells] if is_known else None, [*answers], own)
            else:
                beside = self._journal.beside(start, stop, added.extras)
                found = zip(self._journal.results_so_far(start, stop), beside, strict=True)
                yield ChunkSoFar(start, inputs, [answer_cells(added, *each) for each in found], values)

    def _inputs(self, dataset: Dataset) -> Iterator[tuple[list[list[str]], Any]]:
        """Read the cells of the input, chunk by chunk, and compare them with the plan."""
        end = 0
        selection = Selection.recorded_in(self._question, dataset, self.store.keyword)
        for start, found in selection.slices(self._chunk_size):
            rows = found[: self.rows - start]  # the table may have grown since
            end = start + len(rows)
            for position, (values, planned) in enumerate(
                zip(rows, self._journal.marks(start, end), strict=True), start
            ):
                if self._marks.of(values) != planned:
                    changed = self._marks.differing(planned, self._marks.of(values))
                    column = f" (column {changed[0]!r})" if changed else ""
                    raise InputError(
                        f"{selection.where(position)} has changed since it was asked{column}: give the input as it was,"
                        " or run it again"
                    )
            if rows and len(rows) == min(self._chunk_size, self.rows - start):
                yield [[writable(cell(value)) for value in values] for values in rows], self.store.values(rows)
        if end < self.rows:
            raise InputError(
                f"{dataset.name} has {counted(end, 'row')}, and the run asked about {self.rows:,}: give the input as it"
                " was, or run it again"
            )

    def _lines_of_file(self, start: int, stop: int) -> list[list[str]] | None:
        """Return the lines of a chunk file; None if the journal knows better."""
        chunk = self._chunks.get(start)
        if chunk is None or chunk.rows != stop - start or self._journal.left(start, stop):
            return None
        if start in self._workbooks:
            return self._as_changed(self._changed.read(start, chunk, self.store.workbook_path(start), None))
        if self.store.is_empty(start) or not self.store.chunk_path(start).exists():
            return None
        if self.store.sha256(start) != chunk.sha256:
            return self._as_changed(self._changed.read(start, chunk, self.store.chunk_path(start), None))
        return self._as_written(start, chunk)

    def _as_written(self, start: int, chunk: Chunk) -> list[list[str]] | None:
        """Return the lines of an unchanged chunk file, with what people have decided on the page since."""
        with closing(self.store.cells(self.store.chunk_file(start))) as lines:
            columns = next(lines, [])
            store = next((each for each in forms_of(self.store) if each.all_columns == columns), None)
            found = [store.answer_columns.split(line) for line in lines] if store else []
        inputs = [cells for cells, _ in found]
        if [self._marks.of(tuple(cells)) for cells in inputs] != self._journal.marks(start, start + chunk.rows):
            return None
        answers = _answers(self.store, self._journal, start, chunk)
        # Those of another plan may be in the file; those that people have decided on the page are not there yet.
        is_behind = chunk.lacks is not None or store is not self.store
        if not is_behind and [ending for _, ending in found] != answers:
            return None
        return [[*cells, *ending] for cells, ending in zip(inputs, answers, strict=True)]

    def _as_changed(self, changed: Changed) -> list[list[str]]:
        """Return the lines of a file that a person has changed, with the column that it lacks."""
        if changed.store is self.store:
            return changed.lines
        corrected = {each.position for each in changed.corrections}
        beside = self._journal.beside(changed.start, changed.start + len(changed.lines), [_BY])
        by = ("hand" if at in corrected else each.by for at, each in enumerate(beside, changed.start))
        return [[*line, writable(name)] for line, name in zip(changed.lines, by, strict=True)]


def input_of(question: dict[str, Any], data: Data | None = None) -> Dataset | None:
    """Open the input of a run again, read as the run read it.

    Args:
        question: as the journal has it.
        data: the input, if it is not where it was; in memory, it may have more columns by now.

    Returns:
        The input; None if it was no file, or is gone.
    """
    reading = Reading.recorded_in(question)
    if data is not None:
        return narrowed(open_dataset(data, reading), question.get("table", ()))
    paths = question.get("input")
    if not paths or not any(is_pattern(each) or Path(each).exists() for each in paths):
        return None
    return open_dataset(paths[0] if len(paths) == 1 else [*map(Path, paths)], reading)


def anew() -> str:
    """Return what to do about a chunk file that cannot be used."""
    return f"{verb('run')} writes it again, without a call"


def with_columns(store: Store, starts: Iterable[int], question: dict[str, Any]) -> Store:
    """Return the files with the columns of a run's table, or if an old journal lacks them, with those they have."""
    found = store.as_found(starts, question.get("answer_column"))
    if not question.get("table") or "answer_column" not in question:
        return found
    columns = AnswerColumns.recorded_in(question)
    encoding = found.encoding if found.columns else question.get("encoding", found.encoding)
    types = Types.recorded_in(question)
    return Store(store.directory, store.keyword, question["table"], columns, encoding, types=types)


def with_by(store: Store, journal: Reader, *, is_reviewed: bool = False) -> tuple[Store, str]:
    """Return the files with the column that says who gave an answer, if people have decided something on the page.

    The second part says why they do not get it; it is empty if they do, or need not.

    Args:
        store: the files.
        journal: of the run.
        is_reviewed: they get it in any case.
    """
    if _BY in store.answer_columns.extras or not (is_reviewed or journal.is_reviewed()):
        return store, ""
    try:
        return store.with_facts([_BY]), ""
    except SettingsError:
        name = f"{store.answer_columns.answer}_{_BY}"
        return store, f"The table has a column {name!r} already, so the files do not say which answers are by hand."


def forms_of(store: Store) -> list[Store]:
    """Return the files with their columns, and with those that they had before a person decided something."""
    added = store.answer_columns
    if added.extras[-1:] != (_BY,):
        return [store]
    before = replace(added, extras=added.extras[:-1])
    columns = store.columns
    return [store, Store(store.directory, store.keyword, columns, before, store.encoding, types=store.types)]


def recorded_with(question: Mapping[str, object], store: Store) -> dict[str, object]:
    """Return a run's question with what the files hold now beside the answers."""
    return {**question, "with": [*store.answer_columns.extras]}


def facts_of(journal: Reader, store: Store, start: int, stop: int, names: Sequence[str]) -> list[list[str]]:
    """Return facts of the journal about the answers of rows, as a file holds them."""
    beside = journal.beside(start, stop, names)
    return [[*map(writable, store.answer_columns.fact_cells(each, names))] for each in beside]


def is_current(store: Store, journal: Reader, start: int, chunk: Chunk) -> bool:
    """Return whether an unchanged chunk file holds the present answers of the journal."""
    with closing(store.lines_of(start)) as lines:
        return _answers(store, journal, start, chunk) == [store.answer_columns.split(line)[1] for line in lines]


def _answers(store: Store, journal: Reader, start: int, chunk: Chunk) -> list[list[str]]:
    stop = start + chunk.rows
    return store.answers(journal.results(start, stop), journal.beside(start, stop, store.answer_columns.extras))

"""Reads the chunk files that people have changed since the run wrote them, and finds what they corrected.

Invariant: an answer is a correction only if it is certain that it is no answer of the run's own, saved once more by a
program that had the file open; if that is not certain, the reason is named. Nothing is written.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from batcher.answer.columns import AnswerColumns
from batcher.errors import InputError, OutputError
from batcher.input.cell import writable
from batcher.input.dataset import Dataset
from batcher.input.marks import Marks
from batcher.input.selection import Selection
from batcher.input.types import Types
from batcher.journal.entries import UNWRITTEN, Chunk, Correction, LastRun, Workbook
from batcher.journal.reading import Reader
from batcher.output.csv_file import as_output_errors, csv_line, sha256_of
from batcher.output.directory import Store
from batcher.output.edited import Known, Marked, UnfitError, message, read_edited
from batcher.output.spreadsheet import sheets_of
from batcher.records import Beside, Result, RowState, Slice, Status, Values
from batcher.words import counted, verb

_ROWS_AT_ONCE = 100


class Layout(NamedTuple):
    """Columns that files may have.

    Attributes:
        store: the files with these columns.
        table: the columns of the table, as it names them.
    """

    store: Store
    table: tuple[str, ...]


class Changed(NamedTuple):
    """A chunk file, or a workbook beside it, that was changed.

    Attributes:
        start: the position of its first row.
        path: of the file.
        sha256: of the file.
        before: the chunk file as the journal has it.
        store: the files with its columns.
        inputs: the input's part of each line.
        lines: all cells of its rows, in the run's columns; answers that are only old are the journal's.
        how: how it differs in form from a file of the run; empty if it can be joined as it is.
        corrections: the answers that people gave.
        is_fresh: it was made from the answers that the journal has now, but for the corrections in it.
    """

    start: int
    path: Path
    sha256: bytes
    before: Chunk
    store: Store
    inputs: Sequence[str]
    lines: list[list[str]]
    how: str
    corrections: list[Correction]
    is_fresh: bool

    @property
    def is_workbook(self) -> bool:
        return self.path.suffix == ".xlsx"

    @property
    def workbook(self) -> Workbook | None:
        """The workbook, if it is one."""
        return Workbook(self.path.name, self.sha256) if self.is_workbook else None

    def chunk(self, states: Sequence[RowState]) -> Chunk:
        """Return what the journal records of the chunk file once it has the corrections.

        Args:
            states: of its rows, with the corrections.
        """
        if self.is_workbook:  # the chunk file beside it is to be written
            return self.before._replace(origin=b"") if self.corrections else self.before
        if self.how:
            return UNWRITTEN
        # Whoever corrects an answer leaves the column as it is that says who gave it: then the file is written again.
        is_whole = self.is_fresh and not (self.corrections and "by" in self.store.answer_columns.extras)
        origin = self.store.origin(self.inputs, states) if is_whole else b""
        return Chunk(self.before.rows, origin, self.sha256)


class ChangedFiles:
    """The chunk files of a run, and the workbooks beside them, compared with what the journal has of them.

    Args:
        store: the files.
        journal: of the run.
        last: its latest process.
        dataset: the input, if it is there: without it, only files that have every cell of it as it was can be read.
        since: files that have not changed since this moment are not compared, in seconds since the epoch.
        only: the first rows of the chunk files to compare; default: all.

    Attributes:
        intact: the first rows of the chunk files that are unchanged.
        known_workbooks: those of the workbooks whose corrections the journal has already.

    Raises:
        OutputError: a file cannot be read; or chunk file and workbook were both changed.
    """

    def __init__(
        self,
        store: Store,
        journal: Reader,
        last: LastRun,
        dataset: Dataset | None = None,
        since: float = 0.0,
        *,
        only: Collection[int] | None = None,
    ) -> None:
        self._store = store
        self._journal = journal
        self._last = last
        self._dataset = dataset
        self.intact: set[int] = set()
        self.known_workbooks: list[int] = []
        self._changed: dict[int, tuple[Chunk, Path]] = {}
        chunks = {start: each for start, each in journal.chunks().items() if only is None or start in only}
        for start, chunk in chunks.items():
            if _is_older(store.chunk_file(start), since) or store.sha256(start) == chunk.sha256:
                self.intact.add(start)
            elif not store.is_empty(start):
                self._changed[start] = chunk, store.chunk_file(start)
        self._look_for_workbooks(chunks)

    def __bool__(self) -> bool:
        """Return whether there is anything to read."""
        return bool(self._changed)

    def read_beside(self, dataset: Dataset | None) -> None:
        """Let the files be compared with the rows of the input."""
        self._dataset = dataset

    def _look_for_workbooks(self, chunks: Mapping[int, Chunk]) -> None:
        there = sorted(self._store.workbooks() & chunks.keys())
        read = self._journal.workbooks_read() if there else set()
        for start in there:
            path = self._store.workbook_path(start)
            with as_output_errors(path, "read"):
                is_known = Workbook(path.name, sha256_of(path)) in read
            if is_known:
                self.known_workbooks.append(start)
            elif start in self._changed:
                raise both_changed(self._store.chunk_file(start), path)
            else:
                self._changed[start] = chunks[start], path

    def __iter__(self) -> Iterator[Changed]:
        """Read the files that were changed.

        Raises:
            InputError: the input cannot be read.
            OutputError: it is not certain what was corrected.
        """
        reading = Reading(layouts_of(self._store, self._journal, self._changed), self._journal)
        left = dict(self._changed)
        for start, rows in self._rows():
            yield reading.read(start, *left.pop(start), rows)
        for start in [*left]:
            yield reading.read(start, *left.pop(start), None)

    def each(self) -> Iterator[Changed | OutputError]:
        """Read the files that were changed, each by itself: one that cannot be read does not hide the others."""
        reading = Reading(layouts_of(self._store, self._journal, self._changed), self._journal)
        left = dict(self._changed)

        def read(start: int, rows: Sequence[Values] | None) -> Changed | OutputError:
            try:
                return reading.read(start, *left.pop(start), rows)
            except OutputError as error:
                return error

        with contextlib.suppress(InputError):  # the input has changed: perhaps the files alone can be read
            for start, rows in self._rows():
                yield read(start, rows)
        for start in [*left]:
            yield read(start, None)

    def _rows(self) -> Iterator[tuple[int, list[Values]]]:
        """Read the rows of the input that stand where the files' rows stood."""
        if self._dataset is None or not self._changed:
            return
        selection = Selection.recorded_in(self._last.question, self._dataset, self._store.keyword)
        wanted = {start: chunk.rows for start, (chunk, _) in self._changed.items()}
        yield from _windows(selection.slices(_ROWS_AT_ONCE), wanted)


class Reading:
    """Reads changed files with what the journal has of their rows.

    Args:
        layouts: the columns that the files may have, the likeliest first.
        journal: of the run.
    """

    def __init__(self, layouts: Sequence[Layout], journal: Reader) -> None:
        self._layouts = layouts
        self._journal = journal

    def read(self, start: int, chunk: Chunk, path: Path, rows: Sequence[Values] | None) -> Changed:
        """Read a file.

        Args:
            start: the position of its first row.
            chunk: the chunk file as the journal has it.
            path: of the file.
            rows: of the input, at its rows' places; None if they are not known.

        Raises:
            OutputError: it is not certain what was corrected.
        """
        with as_output_errors(path, "read"):
            sha256 = sha256_of(path)
        self._journal.recall(start, start + chunk.rows)
        try:
            layout = self._layout_of(path)
            store, added = layout.store, layout.store.answer_columns
            ours = OfJournal.read(self._journal, added, start, chunk)
            if len(ours.states) != chunk.rows:
                raise _is_old(path)
            rows = self._as_planned(layout, start, rows)
            edited = read_edited(path, self._originals(layout, ours, rows), is_own=store.is_own(path))
        except UnfitError as error:
            raise OutputError(message(path, error)) from error
        lines = edited.lines
        inputs = [csv_line(added.split(line)[0]) for line in lines] if rows is None else store.lines(rows)
        is_known = self._is_known(chunk, store, inputs, ours.written)
        other = ours.corrections(added, lines, path.name)
        if other and not is_known and not self._asks_as_ever:
            raise _is_old(path)
        old = self._old([each for each in other if not is_known or each.result.status is not Status.OK])
        is_fresh = is_known and not ours.lacked
        for at in {each.position for each in old} | ours.lacked.keys() - {each.position for each in other}:
            lines[at - start][-len(added) :] = ours.answers[at - start]
        forms = [edited.how] if edited.how else []
        forms += [f"with {counted(len(old), 'row')} as of before another answer came"] if old else []
        corrections = [each for each in other if each not in old]
        return Changed(start, path, sha256, chunk, store, inputs, lines, ", ".join(forms), corrections, is_fresh)

    def _layout_of(self, path: Path) -> Layout:
        """Return the columns of which the file has most.

        Raises:
            UnfitError: it has no column of answers, or cannot be read.
        """
        found: list[tuple[tuple[int, bool, int], Layout]] = []
        why: Exception | None = None
        for layout in self._layouts:
            try:
                [sheet, *_] = sheets_of(path, layout.store.answer_columns)
            except OutputError as error:
                why = why or error
                continue
            except OSError as error:
                raise UnfitError(f"{error.strerror}") from error
            columns, header = {*layout.store.all_columns}, {*sheet.header}
            is_own = layout.store.suffix == path.suffix
            found.append(((len(columns & header), is_own, -len(columns - header)), layout))
        if not found:
            raise UnfitError(str(why)) from why
        return max(found, key=lambda each: each[0])[1]

    def _as_planned(self, layout: Layout, start: int, rows: Sequence[Values] | None) -> Sequence[Values] | None:
        """Return the rows of the input if they still are those that the run asked about."""
        if rows is None or (rows and len(rows[0]) != len(layout.table)):
            return None
        marks, planned = Marks(layout.table), self._journal.marks(start, start + len(rows))
        is_same = all(not had or marks.of(values) == had for values, had in zip(rows, planned, strict=True))
        return rows if is_same else None

    def _originals(self, layout: Layout, ours: OfJournal, rows: Sequence[Values] | None) -> Known | Marked:
        """Return what a file with such columns is compared with."""
        store = layout.store
        if rows is not None:
            return Known(store.columns, store.answer_columns, rows, ours.in_file)
        planned = self._journal.marks(ours.start, ours.start + len(ours.states))
        return Marked(store.columns, store.answer_columns, Marks(layout.table), planned, ours.in_file)

    def _is_known(self, chunk: Chunk, store: Store, inputs: Sequence[str], states: Sequence[RowState]) -> bool:
        """Return whether a chunk file was made from these answers, in any run's columns."""
        alike = (each.store for each in self._layouts if each.store.columns == store.columns)
        return any(chunk.made_from == each.origin(inputs, states) for each in alike)

    @cached_property
    def _asks_as_ever(self) -> bool:
        """Whether every process asked the same of a row, so that the journal knows each answer that a file had."""
        names = ("prompt_option", "prompt", "system", "params")
        asked = {json.dumps([each.get(name) for name in names], sort_keys=True) for each in self._journal.questions()}
        return len(asked) == 1 and all(each.get("prompt_option") != "function" for each in self._journal.questions())

    def _old(self, doubted: Sequence[Correction]) -> list[Correction]:
        """Return those that are earlier answers of the run's: a program that had the file open has saved them again."""
        # A person may take a correction back in the file, but has not seen those that were made on the page.
        ids = {each.replaces for each in doubted if each.replaces is not None and each.replaces < 0}
        others = ids - self._journal.of_page(ids) if ids else set()
        doubted = [each for each in doubted if each.replaces not in others]
        known = self._journal.earlier({each.key for each in doubted}) if doubted else set()
        texts = {(key, *_written(result)) for key, result in known}
        return [each for each in doubted if (each.key, *_written(each.result)) in texts]


def layouts_of(store: Store, journal: Reader, starts: Sequence[int] | Mapping[int, object]) -> list[Layout]:
    """Return the columns that chunk files of a keyword may have: those of each run, the latest first."""
    found: dict[tuple[object, ...], Layout] = {}
    for question in journal.questions():
        if question.get("table") and "answer_column" in question:
            table = tuple(question["table"])
            added = AnswerColumns.recorded_in(question)
            encoding = question.get("encoding", store.encoding)
            types = Types.recorded_in(question)
            # Files from before a person's decision on the page lack the column of that.
            without = replace(added, extras=tuple(each for each in added.extras if each != "by"))
            for columns in dict.fromkeys((added, without)):
                made = Store(store.directory, store.keyword, table, columns, encoding, types=types)
                found.setdefault((table, columns, encoding, types and types.recorded), Layout(made, table))
    if found:
        return [*found.values()]
    as_found = store.as_found(starts, None)  # an older batcher did not record them
    return [Layout(as_found, as_found.columns)]


def answer_cells(added: AnswerColumns, result: Result | None, beside: Beside) -> list[str]:
    """Return the answer's cells of a row, as a file holds them."""
    return [""] * len(added) if result is None else [*map(writable, added.cells_of(result, beside))]


def _is_new(line: Sequence[str], ours: Sequence[str], added: AnswerColumns) -> bool:
    ending = [*line[len(line) - len(ours) :]]
    return ending != [*ours] and bool(added.status_in(ending))  # a row without a status has no result


class OfJournal(NamedTuple):
    """What the journal has of the rows of a file.

    Attributes:
        start: the position of the first.
        states: of the rows.
        answers: the cells of their answer columns.
        beside: what came beside their answers.
        lacked: the cells that the file was made with, of rows that were corrected on the page since, by position.
        written: the states that the file was made from.
    """

    start: int
    states: Sequence[RowState]
    answers: Sequence[list[str]]
    beside: Sequence[Beside]
    lacked: Mapping[int, list[str]]
    written: Sequence[RowState]

    @property
    def in_file(self) -> Sequence[list[str]]:
        """The cells of the answer columns that the file was made with."""
        return [self.lacked.get(position, cells) for position, cells in enumerate(self.answers, self.start)]

    @classmethod
    def read(cls, journal: Reader, added: AnswerColumns, start: int, chunk: Chunk) -> OfJournal:
        """Read what a journal has of the rows of a chunk file.

        A row that is to be asked again has the result that it had, which is what its line in the file was made from.
        """
        stop = start + chunk.rows
        states, beside = journal.states(start, stop), journal.beside(start, stop, Beside._fields)
        had = dict(journal.earlier({each.key for each in states if each.result is None}))
        results = zip(states, journal.results_so_far(start, stop), strict=True)
        ended = (had.get(state.key) if result is None else result for state, result in results)
        answers = [answer_cells(added, *each) for each in zip(ended, beside, strict=True)]
        before = journal.lacked(start, chunk)
        texts = journal.results_of({*before.values()}) if before else {}
        by = journal.models_of({*before.values()}) if before else {}
        lacked = {
            position: answer_cells(added, texts.get(was), beside[position - start]._replace(by=by.get(was, "")))
            for position, was in before.items()
        }
        written = [each._replace(result=before.get(at, each.result)) for at, each in enumerate(states, start)]
        return cls(start, states, answers, beside, lacked, written)

    def corrections(self, added: AnswerColumns, lines: Sequence[Sequence[str]], origin: str) -> list[Correction]:
        """Return the answers that people gave in a file of this name, with these answer columns and lines."""
        rows = zip(self.states, self.in_file, self.answers, self.beside, lines, strict=True)
        return [
            _correction(position, state, line, beside, added)._replace(origin=origin)
            for position, (state, had, ours, beside, line) in enumerate(rows, self.start)
            if _is_new(line, had, added) and _is_new(line, ours, added)
        ]


def _correction(
    position: int, state: RowState, line: Sequence[str], beside: Beside, added: AnswerColumns
) -> Correction:
    ending = added.split(line)[1]
    stays = beside._replace(**dict(zip(added.extras, ending[len(ending) - len(added.extras) :], strict=True)))
    return Correction(position, state.key, added.result_of(ending), stays, state.result, "")


def _written(result: Result) -> tuple[str, ...]:
    """Return a result as a file holds it."""
    return result.status.value, writable(result.answer), writable(result.error)


def both_changed(path: Path, workbook: Path) -> OutputError:
    return OutputError(
        f"{path} was changed, and beside it is a workbook of the same rows, {workbook.name}: move one of them away"
    )


def _is_old(path: Path) -> OutputError:
    return OutputError(
        f"{path} was changed, and its answers are older than the journal's, so that it is not certain what was"
        f" corrected: move it away, and {verb('run')} writes it again; then correct it once more"
    )


def _is_older(path: Path, moment: float) -> bool:
    if not moment:
        return False
    try:
        found = path.stat()
    except OSError:
        return False
    return max(found.st_mtime, found.st_ctime) < moment


def _windows(slices: Iterator[Slice], wanted: Mapping[int, int]) -> Iterator[tuple[int, list[Values]]]:
    """Read some ranges of rows, which may overlap: the number of rows of each, by its first."""
    coming = sorted(wanted, reverse=True)
    open_: dict[int, list[Values]] = {}
    for begin, rows in slices:
        while coming and coming[-1] < begin + len(rows):
            open_[coming.pop()] = []
        for start in [*open_]:
            open_[start] += rows[max(start - begin, 0) : start + wanted[start] - begin]
            if len(open_[start]) == wanted[start]:
                yield start, open_.pop(start)
        if not coming and not open_:
            return

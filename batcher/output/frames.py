"""A run's rows and answers for pandas: from the result file, or as far as they are there from chunk files and journal.

Invariant: an answer stands at the label of its own row; if that is not certain, it is refused.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batcher.answer.vectors import unpacked
from batcher.errors import InputError, OutputError, SettingsError
from batcher.input.cell import cell, writable
from batcher.input.dataset import Dataset
from batcher.input.labels import Labels
from batcher.input.marks import Marks
from batcher.input.opening import open_dataset
from batcher.input.selection import Selection
from batcher.journal.entries import LastRun
from batcher.journal.opening import read_journal
from batcher.journal.reading import Reader
from batcher.output.cells import difference_by_marks
from batcher.output.csv_file import as_output_errors, read_csv
from batcher.output.directory import Store
from batcher.output.opening import PastRun, opened
from batcher.output.so_far import SoFar, input_of
from batcher.place import version_of
from batcher.words import counted, option, say, verb

if TYPE_CHECKING:
    import pandas as pd

    from batcher.output.vector_column import Matrix

    Table = pd.DataFrame | pd.Series[Any]

_SLICE = 10_000
"""Rows of the result file that are compared at a time."""


class Kept(NamedTuple):
    """What a report keeps of the input, to put answers beside its rows.

    Attributes:
        labels: the index of a DataFrame or Series; it holds a DataFrame only weakly.
        dataset: another input that is in no file, while rows are left.
        places: of the run's rows in the table, if they are a sample of it.
        asked: the columns that the prompts use.
    """

    labels: Labels | None = None
    dataset: Dataset | None = None
    places: Sequence[int] | None = None
    asked: Sequence[str] = ()


class Frames:
    """Reads the rows and answers of one run.

    Args:
        store: the files.
        process: the run's process; None if it was stopped before it had a plan.
        rows: of the run.
        kept: of its input.
        is_whole: the result file was just written.
        is_quiet: say nothing but what may make answers wrong.
    """

    def __init__(
        self,
        store: Store,
        process: LastRun | None,
        rows: int,
        kept: Kept,
        *,
        is_whole: bool,
        is_quiet: bool = False,
    ) -> None:
        # The caller may change the working directory.
        directory = store.directory.absolute()
        self._store = Store(directory, store.keyword, store.columns, store.answer_columns, types=store.types)
        self._process = process and (process.id, process.started)
        self._rows = rows
        self._kept = kept
        self._is_whole = is_whole
        self._version = _version(self._store.all_path) if is_whole else None
        self._is_quiet = is_quiet
        self._has_lost_labels = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is kept of the input: it may be large, and a weak reference cannot be pickled."""
        has_lost = self._has_lost_labels or self._kept.labels is not None
        return self.__dict__ | {"_kept": Kept(), "_has_lost_labels": has_lost}

    def answers(self) -> pd.Series[str]:
        """Read the answers.

        If only a part of the table was asked, and labels of it occur more than once, they have the whole table's index:
        the labels of the part would name other rows, too.

        Raises:
            InputError, OutputError: as for `frame`.
        """
        table = self._table()
        column = self._store.answer_columns.answer
        if self._has_result():
            self._check_result()
            if table is not None:
                self._changed(table, self._kept.asked)
            return self._labelled(self._read_result([column]))[column]
        with self._run() as run:
            if table is not None:
                self._check_asked(table, run)
            parts = SoFar(run.store, run.journal, run.last()).parts()
            texts = [cells[0] for part in parts for cells in part.answers]
        return self._labelled(self._with_lists(_text_frame([column], [texts])))[column]

    def matrix(self) -> Matrix:
        """Read the vectors of embeddings as a matrix.

        Raises:
            SettingsError: the run did not ask for embeddings.
            OutputError: as for `frame`; or the vectors have different lengths.
        """
        from batcher.output.vector_column import matrix_of, vectors_in, vectors_of  # noqa: PLC0415 - NumPy is slow to load

        if not self._store.answer_columns.is_vector:
            raise SettingsError("the answers of this run are no vectors: report.matrix() needs task='embedding'")
        if self._is_whole:
            self._check_result()
            return matrix_of(vectors_in(self._store.all_path, self._store.answer_columns.answer), self._rows)
        self._table()
        with self._run() as run:
            parts = SoFar(run.store, run.journal, run.last()).parts()
            return matrix_of(vectors_of(cells[0] for part in parts for cells in part.answers), self._rows)

    def _with_lists(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return a frame in which vectors are lists of numbers; None if a row has none."""
        column = self._store.answer_columns.answer
        if self._store.answer_columns.is_vector and column in frame:
            frame[column] = _objects([_as_list(each) for each in frame[column]], frame.index)
        return frame

    def frame(self) -> pd.DataFrame:
        """Read the answers, and put them beside the rows of the input.

        Raises:
            InputError: the input was changed, or labels do not tell the rows that were asked from others.
            OutputError: another run has worked here since, or a file is gone or was changed.
        """
        table = self._table()
        if self._is_ambiguous_part:
            raise InputError(
                f"labels of {self._labels.name} occur more than once, and {self._rows:,} of"
                f" {counted(len(self._labels.index), 'row')} were asked: their labels name other rows, too. Take"
                " report.answers, which has the index of all rows; or number the rows before the run:"
                " df.reset_index(drop=True)"
            )
        frame = self._labelled(self._whole(table) if self._has_result() else self._so_far(table))
        if not frame.index.is_unique:
            warnings.warn(
                f"labels of {self._labels.name} occur more than once, and join and merge pair each of them with each:"
                ' df["label"] = report.answers goes by the order of the rows',
                stacklevel=3,
            )
        return frame

    def checked_directory(self) -> Path:
        """Return the directory of the run.

        Raises:
            OutputError: another run has worked there since, or the journal is gone.
        """
        with self._run():
            return self._store.directory

    # -- From the result file

    def _whole(self, table: Table | None) -> pd.DataFrame:
        columns, own = self._store.all_columns, {} if table is None else self._own_columns(table)
        self._check_result()
        if changed := [] if table is None else self._changed(table, [*own]):
            names = ", ".join(map(repr, changed))
            self._say(f"the values in {names} were changed since the run: the frame has what was asked, as text")
        own = {name: column for name, column in own.items() if name not in changed}
        return _joined(columns, own, self._read_result([name for name in columns if name not in own]))

    def _read_result(self, columns: Sequence[str]) -> pd.DataFrame:
        """Read columns of the result file."""
        import pandas as pd  # noqa: PLC0415 - slow to load, and few callers want it

        if self._store.types is not None:
            return self._with_lists(self._read_typed(columns))
        with as_output_errors(self._store.all_path, "read"):
            texts: pd.DataFrame = pd.read_csv(self._store.all_path, usecols=[*columns], **self._format())
        return texts

    def _read_typed(self, columns: Sequence[str]) -> pd.DataFrame:
        import pandas as pd  # noqa: PLC0415 - slow to load, and few callers want it

        path = self._store.all_path
        try:
            with as_output_errors(path, "read"):
                return pd.read_parquet(path, columns=[*columns], engine="pyarrow")
        except ValueError as error:  # PyArrow's own are such
            raise OutputError(f"{path} cannot be read: {error}") from error

    def _texts(self, columns: Sequence[str]) -> Iterator[dict[str, list[str]]]:
        """Read columns of the result file as text, slice by slice."""
        import pandas as pd  # noqa: PLC0415 - slow to load, and few callers want it

        path = self._store.all_path
        if self._store.types is None:
            files = pd.read_csv(path, usecols=[*columns], chunksize=_SLICE, **self._format())
            with as_output_errors(path, "read"), files:
                yield from ({name: texts[name].tolist() for name in columns} for texts in files)
            return
        with closing(self._store.read(path)) as lines:
            places = [self._store.columns.index(name) for name in columns]
            next(lines, None)
            while rows := [[line[place] for place in places] for _, line in islice(lines, _SLICE)]:
                yield dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))

    def _format(self) -> dict[str, Any]:
        """Return how to read the result file, of which `merge` may have made one with further columns."""
        with closing(read_csv(self._store.all_path)) as lines:
            _, header = next(lines, (0, []))
        names = [*self._store.all_columns, *self._further(header)]
        return {"header": 0, "names": names, "dtype": str, "keep_default_na": False}

    def _further(self, header: Sequence[str]) -> Sequence[str]:
        """Return the columns of further facts in a header of the result file."""
        return header[len(header) - len(self._store.answer_columns.facts_behind(header)) :]

    def _changed(self, table: Table, names: Sequence[str]) -> list[str]:
        """Return which of some columns of the caller's table have other values than the result file.

        Raises:
            InputError: the prompts use such a column.
        """
        part = self._asked_rows(_columns_of(table, names))
        if not part.size:
            return []
        dataset = open_dataset(part)
        same = {writable(name): place for place, name in enumerate(dataset.columns)}
        compared = [*same]
        for (start, rows), texts in zip(dataset.slices(_SLICE), self._texts(compared), strict=False):
            for name, place in [*same.items()]:
                other = _first_other((row[place] for row in rows), texts[name])
                if other is not None:
                    self._check_is_free(name, start + other)
                    del same[name]
        return [name for name in compared if name not in same]

    def _check_is_free(self, name: str, position: int) -> None:
        """Refuse a row with another value in a column that the prompts use."""
        if name in map(writable, self._kept.asked):
            place = position if self._kept.places is None else self._kept.places[position]
            raise self._labels.changed(f"row {place} (counted from 0) has another value in {name!r} than was asked")

    def _has_result(self) -> bool:
        """Return whether the result file was written, and has what people have decided on the page since."""
        if not self._is_whole:
            return False
        with contextlib.suppress(OutputError), self._run() as run:
            return run.journal.behind() == 0
        return True  # without the journal, the result is all there is

    def _check_result(self) -> None:
        """If the result file is not as the run left it, check that it still has the rows of the run.

        Raises:
            OutputError: another run has replaced it, a cell of the input was changed in it, or it is gone.
        """
        path = self._store.all_path
        if (now := _version(path)) == self._version:
            return
        with self._run() as run:
            if now is None:
                raise OutputError(f"{path} is gone: {verb('merge')} writes it again")
            self._check_lines(path, run)

    def _check_lines(self, path: Path, run: PastRun[Reader]) -> None:
        marks = Marks(run.last().question.get("table", self._store.columns))
        planned = (
            each
            for start in range(0, self._rows, _SLICE)
            for each in run.journal.marks(start, min(start + _SLICE, self._rows))
        )
        with closing(self._store.read(path)) as lines:
            _, header = next(lines, (0, []))
            width = len(self._store.columns)
            cells = ((number, line[:width]) for number, line in lines)
            try:
                if header != [*self._store.all_columns, *self._further(header)]:
                    raise OutputError(f"{path} has other columns than the run: call run again to write it anew")
                for (number, line), row in zip(cells, planned, strict=True):
                    if differs := difference_by_marks(marks, row, line):
                        raise OutputError(f"{path}, line {number}, {differs}: call run again to write it anew")
            except ValueError as error:  # one has more rows than the other
                raise OutputError(f"{path} has other rows than the run: call run again to write it anew") from error

    # -- While rows are left

    def _so_far(self, table: Table | None) -> pd.DataFrame:
        inputs: list[list[str] | list[None]] = []
        answers: list[list[str]] = []
        without, blank = 0, [None] * len(self._store.columns)
        with self._run() as run:
            last = run.last()
            if table is None:
                dataset = input_of(last.question) or self._kept.dataset
            else:
                dataset = open_dataset(_columns_of(table, self._store.columns))
            so_far = SoFar(run.store, run.journal, last, dataset)
            for part in so_far.parts():
                answers += part.answers
                if table is None:
                    without += len(part.answers) if part.inputs is None else 0
                    inputs += [blank] * len(part.answers) if part.inputs is None else part.inputs
        if without:
            rows = counted(without, "row")
            self._say(f"the cells of {rows} are missing: the input is gone, and no file holds them yet")
        columns = so_far.store.all_columns
        if table is None:
            cells = [[*cells, *answer] for cells, answer in zip(inputs, answers, strict=True)]
            return self._with_lists(_text_frame(columns, list(zip(*cells, strict=True))))
        own = self._own_columns(table)
        texts = _text_frame([*so_far.store.answer_columns], list(zip(*answers, strict=True)))
        return _joined(columns, own, self._with_lists(texts))

    def _check_asked(self, table: Table, run: PastRun[Reader]) -> None:
        """Compare the columns that the prompts use with those of the plan.

        Raises:
            InputError: a value has changed.
        """
        question = run.last().question
        marks = Marks(question.get("table", self._store.columns))
        dataset = open_dataset(_columns_of(table, marks.columns))
        there = {name: place for place, name in enumerate(dataset.columns)}
        asked = [name for name in self._kept.asked if name in there]
        places = [there.get(name) for name in marks.columns]
        for start, rows in Selection.recorded_in(question, dataset, self._store.keyword).slices(_SLICE):
            planned = run.journal.marks(start, min(start + len(rows), self._rows))
            for position, (values, before) in enumerate(zip(rows, planned, strict=False), start):
                now = marks.of(tuple([None if place is None else values[place] for place in places]))
                for name in asked:
                    if marks.cut(now, [name]) != marks.cut(before, [name]):
                        self._check_is_free(writable(name), position)

    # -- What it belongs to

    @property
    def _labels(self) -> Labels:
        if self._kept.labels is None:
            raise AssertionError
        return self._kept.labels

    @property
    def _is_ambiguous_part(self) -> bool:
        """Whether only a part of the table was asked, and its labels may name other rows of the table, too."""
        labels = self._kept.labels
        return labels is not None and len(labels.index) > self._rows and not labels.index.is_unique

    def _table(self) -> Table | None:
        """Return the caller's table; None if it is gone, or there was none.

        Raises:
            InputError: it was changed, or its index is not known.
            OutputError: the run was stopped before it had a plan.
        """
        if self._process is None and not self._is_whole:
            raise OutputError(
                "this run was stopped before anything was sent, and has no rows yet: call run again, or read what"
                f" earlier ones have answered by {verb('merge')} with {option('partial', value=True)}"
            )
        if self._has_lost_labels:
            raise InputError(
                "this report was pickled, and the index of the DataFrame is not in it: call run again (an answered row"
                f" costs nothing), or read {self._store.all_path}"
            )
        labels = self._kept.labels
        if labels is None:
            return None
        if doubt := labels.doubt():
            # The line of the caller, above `Report.answers` or `Report.frame` and the method of its name here.
            warnings.warn(
                f"{labels.name} that was given to run is gone, and {doubt}: call run with that one (an answered row"
                " costs nothing)",
                stacklevel=4,
            )
        return labels.table()

    def _labelled(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Give a frame the labels of the input."""
        if len(frame) != self._rows:
            raise OutputError(
                f"{self._store.all_path} has {counted(len(frame), 'row')}, and the run had {self._rows:,}: call run"
                " again to write it anew"
            )
        if self._kept.labels is None:
            return frame
        import pandas as pd  # noqa: PLC0415 - slow to load, and few callers want it

        index, places = self._kept.labels.index, self._kept.places
        if self._is_ambiguous_part:
            there = range(len(frame)) if places is None else places
            frame = frame.set_axis(pd.Index(there), axis=0).reindex(range(len(index)))
        elif len(frame) < len(index):
            index = index[: len(frame)] if places is None else index.take(places)
        frame.index = index
        return frame

    def _own_columns(self, table: Table) -> dict[str, pd.Series[Any]]:
        """Return the columns of the caller's table that have the names of the run's now, with the run's rows."""
        import pandas as pd  # noqa: PLC0415 - slow to load, and few callers want it

        part = self._asked_rows(_columns_of(table, self._store.columns))
        if isinstance(part, pd.Series):
            return {self._store.columns[0]: part}
        return {writable(str(label)): column for label, column in part.items()}

    def _asked_rows(self, table: Table) -> Table:
        """Return the rows of the caller's table that were asked."""
        places = self._kept.places
        return table.iloc[: self._rows] if places is None else table.iloc[[*places]]

    @contextlib.contextmanager
    def _run(self) -> Iterator[PastRun[Reader]]:
        """Open the journal for the block, in the state of one moment.

        Raises:
            OutputError: it is gone, or another run has worked in it since.
        """
        keyword, directory = self._store.keyword, self._store.directory
        with opened(keyword, directory, read_journal) as run, run.journal.snapshot():
            last = run.last()
            if (last.id, last.started) != self._process:
                raise OutputError(
                    f"another run of {keyword!r} has worked in {directory} since: use its report, or call run again (an"
                    " answered row costs nothing)"
                )
            yield run

    def _say(self, note: str) -> None:
        if not self._is_quiet:
            say(f"Note: {note}.")


def _version(path: Path) -> tuple[int, ...] | None:
    try:
        return version_of(path)
    except OSError:  # it is gone
        return None


def _columns_of(table: Table, names: Sequence[str]) -> Table:
    """Return the caller's table with those of its columns that have these names now."""
    import pandas as pd  # noqa: PLC0415 - slow to load, and few callers want it

    if isinstance(table, pd.Series):
        return table
    labels = [writable(str(label)) for label in table.columns]
    return table.iloc[:, [labels.index(name) for name in map(writable, names) if labels.count(name) == 1]]


def _first_other(values: Iterable[object], texts: Iterable[str]) -> int | None:
    """Return the place of the first value that is not written as its text; None if all are."""
    for place, (value, text) in enumerate(zip(values, texts, strict=False)):
        if (type(value) is not str or value != text) and writable(cell(value)) != text:
            return place
    return None


def _as_list(vector: Any) -> list[float] | None:
    """Return a vector as a list of numbers, given as a text or as an array."""
    numbers = unpacked(vector) if isinstance(vector, str) else vector
    return None if numbers is None else list(map(float, numbers))


def _objects(values: Sequence[Any], index: Any) -> pd.Series[Any]:
    """Return a column of any objects."""
    import pandas as pd  # noqa: PLC0415 - slow to load, and few callers want it

    return pd.Series(values, index=index, dtype=object)


def _text_frame(columns: Sequence[str], texts: Sequence[Sequence[str | None]]) -> pd.DataFrame:
    """Make a frame of texts, column by column."""
    import pandas as pd  # noqa: PLC0415 - slow to load, and few callers want it

    return pd.DataFrame(dict(zip(columns, texts or [()] * len(columns), strict=True)), dtype=str, columns=[*columns])


def _joined(columns: Sequence[str], own: Mapping[str, pd.Series[Any]], texts: pd.DataFrame) -> pd.DataFrame:
    """Put columns of the caller's and texts beside one another, row by row; the caller's are copied."""
    import pandas as pd  # noqa: PLC0415 - slow to load, and few callers want it

    there = {name: own[name].iloc[: len(texts)].reset_index(drop=True) for name in own}
    return pd.DataFrame({name: there[name] if name in there else texts[name] for name in columns})

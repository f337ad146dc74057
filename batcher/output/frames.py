"""A run's rows and answers for pandas: from the result file, or as far as they are there from chunk files and journal.

Invariant: an answer stands at the label of its own row; if that is not certain, it is refused.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batcher.errors import InputError, OutputError
from batcher.input.cell import cell, writable
from batcher.input.dataset import Dataset
from batcher.input.labels import Labels
from batcher.input.marks import Marks
from batcher.input.opening import open_dataset
from batcher.journal.entries import LastRun
from batcher.journal.opening import read_journal
from batcher.journal.reading import Reader
from batcher.output.cells import difference_by_marks
from batcher.output.csv_file import as_output_errors, read_csv
from batcher.output.directory import Store
from batcher.output.opening import PastRun, opened
from batcher.output.so_far import SoFar, input_of
from batcher.place import version_of
from batcher.words import counted, say, verb

if TYPE_CHECKING:
    import pandas as pd

_SLICE = 10_000
"""Rows of the result file that are compared at a time."""


class Kept(NamedTuple):
    """What a report keeps of the input, to put answers beside its rows.

    Attributes:
        labels: the index of a DataFrame or Series; it holds the table itself only weakly.
        dataset: another input, while rows are left that no file holds.
        places: of the run's rows in the table, if they are a sample of it.
    """

    labels: Labels | None = None
    dataset: Dataset | None = None
    places: Sequence[int] | None = None


class Frames:
    """Reads the rows and answers of one run.

    Args:
        store: the files.
        process: the run's process; None if it did not begin.
        rows: of the run.
        kept: of its input.
        is_whole: the result file was just written.
        is_quiet: say nothing.
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
        self._store = Store(store.directory.absolute(), store.keyword, store.columns, store.answer_columns)
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

        Raises:
            InputError, OutputError: as for `frame`.
        """
        self._table()
        column = self._store.answer_columns.answer
        if self._is_whole:
            self._check_result()
            return self._labelled(self._read_result([column]))[column]
        with self._run() as run:
            parts = SoFar(run.store, run.journal, run.last()).parts()
            texts = [cells[0] for part in parts for cells in part.answers]
        return self._labelled(_text_frame([column], [texts]))[column]

    def frame(self) -> pd.DataFrame:
        """Read the answers, and put them beside the rows of the input.

        Raises:
            InputError: the input was changed, or is gone while rows are left.
            OutputError: another run has worked here since, or a file is gone or was changed.
        """
        frame = self._labelled(self._whole() if self._is_whole else self._so_far())
        if not frame.index.is_unique:
            self._say(
                "labels of the index occur more than once, and join pairs each of them with each:"
                ' df["label"] = report.answers goes by the rows'
            )
        return frame

    # -- From the result file

    def _whole(self) -> pd.DataFrame:
        table, columns = self._table(), self._store.all_columns
        own = {} if table is None else self._own_columns(table)
        self._check_result()
        if changed := self._changed(own):
            names = ", ".join(map(repr, changed))
            self._say(f"the values in {names} were changed since the run: the frame has what was asked, as text")
        own = {name: column for name, column in own.items() if name not in changed}
        return _joined(columns, own, self._read_result([name for name in columns if name not in own]))

    def _read_result(self, columns: Sequence[str]) -> pd.DataFrame:
        """Read columns of the result file."""
        import pandas as pd  # noqa: PLC0415 - slow to load, and few callers want it

        with as_output_errors(self._store.all_path, "read"):
            texts: pd.DataFrame = pd.read_csv(self._store.all_path, usecols=[*columns], **self._format)
        return texts

    @property
    def _format(self) -> dict[str, Any]:
        return {"header": 0, "names": self._store.all_columns, "dtype": str, "keep_default_na": False}

    def _changed(self, own: Mapping[str, pd.Series[Any]]) -> list[str]:
        """Return the columns of the caller's table whose values are not those of the result file."""
        import pandas as pd  # noqa: PLC0415 - slow to load, and few callers want it

        if not own:
            return []
        same, start = set(own), 0
        with pd.read_csv(self._store.all_path, usecols=[*own], chunksize=_SLICE, **self._format) as slices:
            for texts in slices:
                stop = start + len(texts)
                same = {name for name in same if _are_same(own[name].iloc[start:stop], texts[name])}
                start = stop
        return [name for name in own if name not in same]

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
        with closing(read_csv(path)) as lines:
            _, header = next(lines, (0, []))
            cells = ((number, self._store.answer_columns.split(line)[0]) for number, line in lines)
            try:
                if header != self._store.all_columns:
                    raise OutputError(f"{path} has other columns than the run: call run again to write it anew")
                for (number, line), row in zip(cells, planned, strict=True):
                    if differs := difference_by_marks(marks, row, line):
                        raise OutputError(f"{path}, line {number}, {differs}: call run again to write it anew")
            except ValueError as error:  # one has more rows than the other
                raise OutputError(f"{path} has other rows than the run: call run again to write it anew") from error

    # -- While rows are left

    def _so_far(self) -> pd.DataFrame:
        table, dataset = None, self._kept.dataset
        if self._kept.labels:
            table = self._kept.labels.own_table()
            dataset = open_dataset(_asked_part(table, self._store.columns))
        inputs: list[list[str]] = []
        answers: list[list[str]] = []
        with self._run() as run:
            last = run.last()
            for part in SoFar(run.store, run.journal, last, dataset or input_of(last.question)).parts():
                if part.inputs is None:
                    raise InputError("the input is gone, and no file holds all of its rows yet: see report.answers")
                inputs += part.inputs if table is None else []
                answers += part.answers
        columns = self._store.all_columns
        if table is None:
            cells = [[*cells, *answer] for cells, answer in zip(inputs, answers, strict=True)]
            return _text_frame(columns, list(zip(*cells, strict=True)))
        own = self._own_columns(table)
        return _joined(columns, own, _text_frame([*self._store.answer_columns], list(zip(*answers, strict=True))))

    # -- What it belongs to

    def _table(self) -> pd.DataFrame | pd.Series[Any] | None:
        """Return the caller's table; None if it is gone, or there was none.

        Raises:
            InputError: it was changed, or its index is not known.
        """
        if self._has_lost_labels:
            raise InputError(
                "this report was pickled, and the index of the DataFrame is not in it: call run again (an answered row"
                f" costs nothing), or read {self._store.all_path}"
            )
        labels = self._kept.labels
        table = labels.table() if labels else None
        if labels and table is None and labels.are_numbers:
            warnings.warn(
                f"{labels.name} that was given to run is gone, and its labels are row numbers: the answers belong to"
                " its rows, in its order. One that was filtered or sorted since and numbered anew (reset_index) has"
                " other rows at these numbers: call run with that one (an answered row costs nothing)",
                stacklevel=4,
            )
        return table

    def _labelled(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Give a frame the labels of the input."""
        if len(frame) != self._rows:
            raise OutputError(
                f"{self._store.all_path} has {counted(len(frame), 'row')}, and the run had {self._rows:,}: call run"
                " again to write it anew"
            )
        if self._kept.labels:
            index = self._kept.labels.index
            if self._kept.places is not None:
                index = index.take(self._kept.places)
            frame.index = index if len(index) == len(frame) else index[: len(frame)]
        return frame

    def _own_columns(self, table: pd.DataFrame | pd.Series[Any]) -> dict[str, pd.Series[Any]]:
        """Return the columns of the caller's table that have the names of the run's now, with the run's rows."""
        columns, places = _columns_of(table, self._store.columns), self._kept.places
        return columns if places is None else {name: each.iloc[[*places]] for name, each in columns.items()}

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


def _asked_part(table: pd.DataFrame | pd.Series[Any], names: Sequence[str]) -> pd.DataFrame | pd.Series[Any]:
    """Return the caller's table without the columns that it got since the run began."""
    import pandas as pd  # noqa: PLC0415 - slow to load, and few callers want it

    if isinstance(table, pd.Series):
        return table
    labels = [writable(str(label)) for label in table.columns]
    return table.iloc[:, [labels.index(name) for name in names if labels.count(name) == 1]]


def _columns_of(table: pd.DataFrame | pd.Series[Any], names: Sequence[str]) -> dict[str, pd.Series[Any]]:
    """Return the columns of the caller's table that have these names now."""
    import pandas as pd  # noqa: PLC0415 - slow to load, and few callers want it

    if isinstance(table, pd.Series):
        return {names[0]: table}
    part = _asked_part(table, names)
    return {writable(str(label)): column for label, column in part.items()}


def _are_same(values: pd.Series[Any], texts: pd.Series[str]) -> bool:
    """Return whether values are written as these texts."""
    return len(values) == len(texts) and all(
        (type(value) is str and value == text) or writable(cell(value)) == text
        for value, text in zip(values, texts, strict=True)
    )


def _text_frame(columns: Sequence[str], texts: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Make a frame of texts, column by column."""
    import pandas as pd  # noqa: PLC0415 - slow to load, and few callers want it

    return pd.DataFrame(dict(zip(columns, texts or [()] * len(columns), strict=True)), dtype=str, columns=[*columns])


def _joined(columns: Sequence[str], own: Mapping[str, pd.Series[Any]], texts: pd.DataFrame) -> pd.DataFrame:
    """Put columns of the caller's and texts beside one another, row by row; the caller's are copied."""
    import pandas as pd  # noqa: PLC0415 - slow to load, and few callers want it

    there = {name: own[name].iloc[: len(texts)].reset_index(drop=True) for name in own}
    return pd.DataFrame({name: there[name] if name in there else texts[name] for name in columns})

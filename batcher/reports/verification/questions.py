"""The questions of INPUT's rows now, and in an earlier run.

Invariant: a question is made from the recorded prompt and parameters, never from the recorded keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from batcher.answer.shape import shape_of_recorded
from batcher.errors import InputError
from batcher.input.cell import cell, writable
from batcher.input.dataset import Dataset
from batcher.input.examples import Examples
from batcher.input.images import Images
from batcher.input.key import Keyer, keyer
from batcher.input.marks import Marks
from batcher.input.prompt import PromptFunction, failed_on, from_function, with_system
from batcher.input.question import asking
from batcher.input.request_line import asking_with
from batcher.input.selection import Selection
from batcher.input.stating import Stating
from batcher.journal.entries import LastRun
from batcher.planning.job import ROWS_AT_ONCE
from batcher.planning.own import row_params
from batcher.planning.prompts import prompts_of
from batcher.records import Question, Task, Values
from batcher.words import option

Prompt = str | PromptFunction | None
"""The caller's replacement for the recorded prompt."""


class InputRow(NamedTuple):
    """A row of INPUT.

    Attributes:
        position: from 0.
        values: as the table has them.
        cells: the values as a file holds them.
        key: of its question, or None if the question is unknown.
        hashes: without a key, the marks of the cells that the question uses.
        fault: why it could not be asked now, as far as that is known.
    """

    position: int
    values: Values
    cells: list[str]
    key: bytes | None
    hashes: bytes
    fault: str = ""


class Recorded(NamedTuple):
    """A question that a run has recorded, asked about the rows of INPUT.

    Attributes:
        ask: makes the question of a row.
        key: makes its key.
        images: puts the rows' images into their questions; None: there are none.
    """

    ask: Callable[[Values], Question]
    key: Keyer
    images: Images | None = None

    @classmethod
    def of(cls, recorded: Mapping[str, Any], dataset: Dataset, prompt: Prompt = None) -> Recorded | None:
        """Make it from a run's record; None if the run used a function and no prompt is given.

        Raises:
            InputError: INPUT lacks a column.
        """
        if recorded.get("requests"):
            return cls(asking_with(recorded.get("params", {})), keyer({}))
        columns, system, shape = dataset.columns, recorded.get("system"), recorded.get("shape")
        stating = Stating(None if shape is None else shape_of_recorded(shape), columns)
        if callable(prompt):
            render = stating.completing(from_function(prompt, columns), system)
        elif prompt is not None:
            render = prompts_of("--prompt", prompt, dataset, stating, system=system, source="prompt").render
        elif recorded.get("prompt_option", "function") != "function":
            text = recorded.get("prompt", "")
            render = prompts_of(recorded["prompt_option"], text, dataset, stating, system=system).render
        else:
            return None
        if system is not None:
            render = with_system(render, stating.filled(system), option("system"), columns)
        if (examples := Examples.recorded_in(recorded)) is not None:
            render = examples.before(render)
        shared = examples.messages if examples else ()
        named = recorded.get("params_column")
        terms = row_params(named, dataset).terms if named else None
        images, task = Images.recorded_in(recorded, dataset), Task(recorded.get("task", Task.CHAT))
        ask = asking(render, terms, task=task, images=images)
        return cls(ask, keyer(recorded.get("params", {}), shape, shared), images)

    def about(self, values: Values) -> bytes:
        """Return the key of the question about a row; empty if the row gives no prompt."""
        return self.known(values)[0]

    def known(self, values: Values) -> tuple[bytes, str]:
        """Return the key of the question about a row, as `about`, and why the row cannot be asked; empty if it can."""
        try:
            question = self.ask(values)
        except InputError:
            return b"", ""
        return self.key(question.messages, question.terms), question.fault


class Asked:
    """The questions of INPUT's rows.

    Args:
        dataset: INPUT.
        prompt: the function that made the prompts, or a template instead of the recorded one.
        last: the latest run.
        keyword: of the run.

    Attributes:
        dataset: INPUT.
        columns: of INPUT.
        question: their question, or None if the journal does not hold it and no prompt is given.

    Raises:
        InputError: INPUT lacks a column.
    """

    def __init__(self, dataset: Dataset, prompt: Prompt, last: LastRun, keyword: str) -> None:
        self.dataset = dataset
        self._selection = Selection.recorded_in(last.question, dataset, keyword)
        self.columns = dataset.columns
        self.question = Recorded.of(last.question, dataset, prompt)
        self._names = tuple(last.question.get("columns", ()))
        if gone := set(self._names) - set(dataset.columns):
            raise InputError(f"{dataset.name} has no column {min(gone)!r}, which the prompts used")
        self._marks = Marks(dataset.columns)
        self._marks_before = Marks(last.question.get("table", ()))

    def rows(self) -> Iterator[InputRow]:
        """Read INPUT.

        Raises:
            InputError: it cannot be read, or the prompt function failed on a row.
        """
        for start, rows in self._selection.slices(ROWS_AT_ONCE):
            if self.question and self.question.images:
                self.question.images.look_ahead(rows)
            for position, values in enumerate(rows, start):
                try:
                    row = self._row(position, values)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # a user's function may raise anything
                    raise failed_on(self._selection.where(position), error) from error
                yield row

    def _row(self, position: int, values: Values) -> InputRow:
        cells = [writable(cell(value)) for value in values]
        if self.question:
            key, fault = self.question.known(values)
            return InputRow(position, values, cells, key, b"", fault)
        return InputRow(position, values, cells, None, self._marks.cut(self._marks.of(values), self._names))

    def is_asked_by(self, row: InputRow, key: bytes, marks: bytes | None) -> bool:
        """Return whether a row of INPUT has the question of the journal's row, as far as the journal can tell.

        Args:
            row: of INPUT.
            key: of the journal's row; empty if the journal has lost it.
            marks: of the journal's row, or None if an older batcher wrote it.
        """
        if row.key is not None:
            return key in (row.key, b"")
        before = self._marks_before.cut(marks or b"", self._names)
        return not before or before == row.hashes

"""Reads the examples that stand before each row, and checks them.

Invariant: each example has an answer that a row could have, and no two of them contradict each other.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from batcher.answer.labels import Labels
from batcher.answer.shape import Shape
from batcher.errors import InputError, SettingsError
from batcher.input.cell import cell
from batcher.input.column_names import meant
from batcher.input.dataset import Dataset
from batcher.input.encodings import is_valid_utf8
from batcher.input.examples import Example, Examples
from batcher.input.opening import Reading, open_dataset
from batcher.input.prompt import Renderer, failed_on
from batcher.records import Status, Values
from batcher.settings import OPTIONS, Settings, home_expanded
from batcher.words import as_given, blamed, by_reader, option

_ANSWERS = ("label", "gold", "answer")
"""The names that the column of the right answers may have, besides that of the answer column."""

_AT_ONCE = 100  # rows in memory


class Renderers(NamedTuple):
    """What makes the prompts of a table's rows.

    Attributes:
        plain: without what states the labels, if the user has not written it.
        asked: as rows are asked.
    """

    plain: Renderer
    asked: Renderer


def examples_of(
    settings: Settings, columns: Collection[str] | None, shape: Shape | None, prompts: Callable[[Dataset], Renderers]
) -> Examples | None:
    """Return the examples of a run; None if it has none.

    Args:
        settings: the options.
        columns: that the prompts use; None if a function makes them.
        shape: what answers must be.
        prompts: returns what makes the prompts of the rows of a table that has these columns.

    Raises:
        SettingsError: the options cannot be used.
        InputError: the table cannot be read, or an example cannot be used; the message names its row.
    """
    if settings.examples is None:
        if settings.shots != OPTIONS["shots"].default:
            was = by_reader(command_line=" (the name of the run is --keyword NAME)", python="")
            raise SettingsError(f"{as_given('shots')} needs {option('examples')}{was}")
        return None
    dataset = _opened(settings)
    for name in columns or ():
        if name not in dataset.columns:
            said = f"has no column {name!r}, which the prompt uses{meant(name, dataset.columns)}"
            raise InputError(f"{blamed('examples')}: {dataset.name} {said}")
    column = dataset.columns.index(_column_of_answers(dataset, settings, columns or ()))
    labels = shape.names if isinstance(shape, Labels) else ()
    found = _Reader(dataset, column, shape, prompts(dataset)).examples()
    examples = Examples.chosen(dataset.name, found, settings.shots, labels)
    if not examples.rows:
        raise InputError(f"{blamed('examples')}: {dataset.name} has no rows")
    return examples


def _opened(settings: Settings) -> Dataset:
    """Open the table; as for a prompt's file, the encoding of the input counts only if it is not UTF-8."""
    given, encoding = settings.examples, settings.input_encoding
    if encoding is not None and isinstance(given, str | os.PathLike):
        with contextlib.suppress(OSError, ValueError):  # `open_dataset` says what is wrong with the path
            encoding = None if is_valid_utf8(Path(home_expanded(given)).read_bytes()) else encoding
    return open_dataset(given, Reading(encoding), name="examples")


def _column_of_answers(dataset: Dataset, settings: Settings, used: Collection[str]) -> str:
    """Return the column that holds the right answers.

    Raises:
        InputError: there is none, or more than one may be meant.
    """
    names = [name for name in dict.fromkeys((*_ANSWERS, settings.answer_column)) if name not in used]
    found = [name for name in names if name in dataset.columns]
    if len(found) == 1:
        return found[0]
    place = f"{blamed('examples')}: {dataset.name}"
    if found:
        raise InputError(
            f"{place} has {len(found)} columns that may hold the right answers, {' and '.join(map(repr, found))}:"
            " keep one of them, or give the others another name"
        )
    raise InputError(
        f"{place} has no column of right answers: name it {' or '.join(map(repr, names))}{meant('', dataset.columns)}"
    )


class _Reader:
    """Reads examples from a table.

    Args:
        dataset: the table.
        column: the place of the column of right answers.
        shape: what answers must be.
        renderers: of the prompts.
    """

    def __init__(self, dataset: Dataset, column: int, shape: Shape | None, renderers: Renderers) -> None:
        self._dataset = dataset
        self._column = column
        self._shape = shape
        self._renderers = renderers

    def examples(self) -> Iterator[tuple[str, Example]]:
        """Yield each example with its label; of those that ask and answer the same only the first one.

        Raises:
            InputError: a row has no question or no usable answer, or contradicts another one.
        """
        seen: dict[str, tuple[int, str]] = {}
        for part in self._dataset.slices(_AT_ONCE):
            for row, values in enumerate(part.rows, part.start):
                answer = self._answer(row, values)
                example, meaning = self._example(row, values, answer), self._meaning(answer)
                before, meant_before = seen.setdefault(example.asked, (row, meaning))
                if meant_before != meaning:
                    raise InputError(
                        f"{blamed('examples')}: rows {before} and {row} of {self._dataset.name} (counted from 0) ask"
                        f" the same and have different answers, {_short(meant_before)} and {_short(meaning)}: keep one"
                        " of them"
                    )
                if before == row:
                    yield meaning, example

    def _answer(self, row: int, values: Values) -> str:
        text = cell(values[self._column])
        if not text.strip():
            said = f"column {self._dataset.columns[self._column]!r} is empty: give the right answer, or drop the row"
            raise InputError(f"{self._place(row)}: {said}")
        if self._shape is None:
            return text
        read = self._shape.read(text)
        if read.status is not Status.OK:
            near = f" (did you mean {label!r}?)" if (label := self._shape.near(text)) else ""
            raise InputError(f"{self._place(row)}: {_short(text)} cannot be an answer: {read.error}{near}")
        return read.answer

    def _meaning(self, answer: str) -> str:
        """Return what two answers have in common that say the same."""
        if self._shape is not None and self._shape.fields:
            return json.dumps(self._shape.values(answer), sort_keys=True, ensure_ascii=False)
        return answer.strip()

    def _example(self, row: int, values: Values, answer: str) -> Example:
        try:
            return Example.of(row, self._renderers.plain(values), self._renderers.asked(values), answer)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a user's function may raise anything, even SystemExit
            raise failed_on(self._place(row), error) from error

    def _place(self, row: int) -> str:
        return f"{blamed('examples')}: {self._dataset.where(row)}"


def _short(text: str) -> str:
    return f"{text!r:.60}" if len(text) <= 60 else f"{text[:57]!r}..."

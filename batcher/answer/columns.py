"""The answer columns, which a chunk file adds to the input's columns.

Invariant: only this module knows their names, their number and their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from batcher.records import Result, Status
from batcher.settings import Settings

_ENDINGS = ("", "_status", "_error")

COUNT = len(_ENDINGS)
"""The number of answer columns. They are the last columns of a line."""


@dataclass(frozen=True)
class AnswerColumns:
    """The answer columns of a run, named after the first of them, which holds the answer."""

    answer: str = Settings.answer_column

    @classmethod
    def ending(cls, columns: Sequence[str]) -> AnswerColumns | None:
        """Return the answer columns that a header ends with, or None if it ends otherwise."""
        if len(columns) < COUNT:
            return None
        found = cls(columns[-COUNT])
        return found if [*found] == [*columns[-COUNT:]] else None

    def __iter__(self) -> Iterator[str]:
        """Yield their names."""
        return (self.answer + ending for ending in _ENDINGS)

    @property
    def status(self) -> str:
        """The name of the column that says how a row ended."""
        return self.answer + _ENDINGS[1]


def split(cells: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a line, or a header, into the input's cells and the answer's."""
    return [*cells[:-COUNT]], [*cells[-COUNT:]]


def cells_of(result: Result) -> tuple[str, ...]:
    """Return the answer's cells of a row's line."""
    return result.answer, result.status.value, result.error


def result_of(cells: Sequence[str]) -> Result:
    """Return the result in the answer's cells of a line.

    Raises:
        ValueError: the status is unknown.
    """
    answer, status, error = cells
    return Result(Status(status), answer, error)

"""The answer columns, which a chunk file adds to the input's columns.

Invariant: only this module knows their names, their number and their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from batcher.records import Beside, Result, Status
from batcher.settings import Settings

_ENDINGS = ("", "_status", "_error")
_NOTHING = Beside()


@dataclass(frozen=True)
class AnswerColumns:
    """The answer columns of a run, named after the first of them, which holds the answer. They are a line's last ones.

    Attributes:
        answer: the name of the first.
        extras: what the last ones hold (`--with`): names of `Beside`.
    """

    answer: str = Settings.answer_column
    extras: tuple[str, ...] = ()

    @classmethod
    def ending(cls, columns: Sequence[str]) -> AnswerColumns | None:
        """Return the answer columns that a header ends with, or None if it ends otherwise."""
        for count in range(len(Beside._fields) + 1):
            start = len(columns) - len(_ENDINGS) - count
            if start < 0:
                break
            answer, extras = columns[start], columns[start + len(_ENDINGS) :]
            found = cls(answer, tuple(name.removeprefix(f"{answer}_") for name in extras))
            if [*found] == [*columns[start:]] and set(found.extras) <= set(Beside._fields):
                return found
        return None

    def __iter__(self) -> Iterator[str]:
        """Yield their names."""
        yield from (self.answer + ending for ending in _ENDINGS)
        yield from (f"{self.answer}_{name}" for name in self.extras)

    def __len__(self) -> int:
        """Return their number."""
        return len(_ENDINGS) + len(self.extras)

    @property
    def status(self) -> str:
        """The name of the column that says how a row ended."""
        return self.answer + _ENDINGS[1]

    def split(self, cells: Sequence[str]) -> tuple[list[str], list[str]]:
        """Split a line, or a header, into the input's cells and the answer's."""
        return [*cells[: -len(self)]], [*cells[-len(self) :]]

    def cells_of(self, result: Result, beside: Beside = _NOTHING) -> tuple[str, ...]:
        """Return the answer's cells of a row's line."""
        return result.answer, result.status.value, result.error, *(getattr(beside, name) for name in self.extras)


def result_of(cells: Sequence[str]) -> Result:
    """Return the result in the answer's cells of a line.

    Raises:
        ValueError: the status is unknown.
    """
    answer, status, error = cells[: len(_ENDINGS)]
    return Result(Status(status), answer, error)

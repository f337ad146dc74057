"""Reads the lines of a file in the output directory.

Invariant: a file that cannot be read to its end gives the lines before the fault, and the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from batcher.answer.columns import AnswerColumns
from batcher.errors import OutputError
from batcher.output.file_format import read_table


class Line(NamedTuple):
    """A row of a file.

    Attributes:
        number: of its first line, from 1.
        cells: the input's cells.
        ending: the cells of the answer columns.
        facts: the cells of further columns, which only a result has.
    """

    number: int
    cells: list[str]
    ending: list[str]
    facts: Sequence[str] = ()


class Lines:
    """Reads a CSV file.

    Args:
        path: of the file.
        added: its answer columns.
        is_result: facts may be in further columns behind them (`merge --with`).

    Attributes:
        header: its columns, without those of further facts; empty if the file is empty or cannot be read.
        facts: the names of further facts.
        error: why it could not be read to its end, or None.
    """

    def __init__(self, path: Path, added: AnswerColumns, *, is_result: bool = False) -> None:
        self._added = added
        self.facts: tuple[str, ...] = ()
        self.error: OutputError | None = None
        self._lines = read_table(path, added)
        self.header: list[str] = []
        try:
            _, self.header = next(self._lines, (0, []))
        except OutputError as error:
            self.error = error
        if is_result:
            self.facts = added.facts_behind(self.header)
            self.header = self.header[: len(self.header) - len(self.facts)]

    def __iter__(self) -> Iterator[Line]:
        try:
            for number, cells in self._lines:
                end = len(cells) - len(self.facts)
                yield Line(number, *self._added.split(cells[:end]), cells[end:])
        except OutputError as error:
            self.error = error

    def close(self) -> None:
        self._lines.close()

"""The column of the table that holds right answers (`--gold`): checks it, and says how its rows were chosen.

Invariant: the model never sees it, and it is no part of a row's key: it may be added to a run that is done.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from batcher.answer.gold import Golds, NoGold, is_known
from batcher.answer.shape import Shape
from batcher.errors import InputError, SettingsError
from batcher.input.cell import cell, writable
from batcher.input.column_names import column_index
from batcher.records import Task, Values
from batcher.settings import Settings
from batcher.words import as_given, blamed, counted, option

ALL, UNKNOWN = "all", "unknown"
_MOST_TEXTS = 10_000
"""Different texts of labels that are recorded; labels have few ways to be written."""


def check_gold(settings: Settings, columns: Collection[str], used: Collection[str]) -> None:
    """Refuse a column of right answers that is not there, or that the model would see.

    Args:
        settings: the options.
        columns: of the table.
        used: the columns that the questions use.

    Raises:
        SettingsError, InputError: it cannot be used.
    """
    name = settings.gold
    if name is None:
        return
    column_index(name, [*columns], blamed("gold"))
    if settings.task == Task.EMBEDDING:
        raise SettingsError(f"{as_given('gold')} is for answers that can be right or wrong, and these are vectors")
    if name in used:
        raise SettingsError(
            f"{blamed('gold')}: the question of each row holds column {name!r}, so that the model would see the right"
            " answer: take it out of the prompt"
        )


class GoldColumn:
    """Reads the right answers of the rows, as they are planned.

    Args:
        settings: the options.
        columns: of the table.
        shape: what answers must be.
    """

    def __init__(self, settings: Settings, columns: Collection[str], shape: Shape | None) -> None:
        self._name = settings.gold or ""
        self._place = [*columns].index(self._name)
        self._given = settings.gold_drawn
        self._golds = Golds(shape)
        self._read: dict[str, str] = {}
        self._rows = self._known = 0

    def add(self, values: Values, where: str) -> None:
        """Read the right answer of a row.

        Args:
            values: of the row.
            where: its name in messages.

        Raises:
            InputError: it cannot be an answer, or is missing although each row should have one.
        """
        text = writable(cell(values[self._place]))
        self._rows += 1
        self._known += is_known(text)
        if self._given == ALL and not is_known(text):
            raise InputError(
                f"{where}: column {self._name!r} is empty, and {as_given('gold_drawn', ALL)} says that each row has its"
                f" right answer: fill it, or say how the rows that have one were chosen"
                f" ({option('gold_drawn', 'random')}, if at random)"
            )
        if text not in self._read:
            gold = self._checked(text, where) if is_known(text) else ""
            if len(self._read) <= _MOST_TEXTS:
                self._read[text] = gold

    def _checked(self, text: str, where: str) -> str:
        try:
            return self._golds.read_whole(text)
        except NoGold as error:
            raise InputError(f"{where}, column {self._name!r} ({blamed('gold')}): {error}") from error

    @property
    def drawn(self) -> str:
        """How the rows were chosen: as the user says, or `all` if each row has a right answer."""
        return self._given or (ALL if self._known == self._rows and self._rows else UNKNOWN)

    def recorded(self) -> dict[str, Any]:
        """Return what the journal has of it, with the run's question."""
        found: dict[str, Any] = {"column": self._name, "drawn": self.drawn}
        if self._golds.labels and len(self._read) <= _MOST_TEXTS:
            found["texts"] = self._read
        return found

    def in_words(self) -> str:
        """Return what people are told of it."""
        known = f"{self._known:,} of {counted(self._rows, 'row')}"
        said = f"Column {self._name!r} has the right answer of {known}; it is not sent."
        if self._known == 0:
            return f"Note: column {self._name!r} ({option('gold')}) is empty in all rows."
        if self.drawn != UNKNOWN:
            return said
        random = option("gold_drawn", "random")
        return f"{said} How these rows were chosen is not known, so there will be no intervals: if at random, {random}."

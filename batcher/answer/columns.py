"""The answer columns, which a chunk file adds to the input's columns.

Invariant: only this module knows their names, their number and their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from batcher.answer.kinds import Kind, plain
from batcher.answer.shape import Shape, shape_of_recorded
from batcher.errors import SettingsError
from batcher.records import Beside, Result, Status, Task
from batcher.settings import FACTS_BEFORE, Settings
from batcher.words import option

_STATUS, _ERROR = "_status", "_error"
_NOTHING = Beside()
_KINDS = {
    **dict.fromkeys(("tokens", "prompt_tokens", "completion_tokens", "attempts"), Kind.INTEGER),
    **dict.fromkeys(("cost", "latency", "agreement", "confidence"), Kind.NUMBER),
}
PARQUET = "parquet"


@dataclass(frozen=True)
class AnswerColumns:
    """The answer columns of a run, named after the first of them, which holds the answer. They are a line's last ones.

    Attributes:
        answer: the name of the first.
        extras: what the last ones hold (`--with`): names of `Beside`.
        fields: the fields of the schema, each of which has a column behind the answer's.
        shape: reads the fields in an answer; None: nothing does, and their cells are empty.
        is_typed: the files have types; cells are what such a column makes of their text.
        is_vector: the answers are embeddings.
    """

    answer: str = Settings.answer_column
    extras: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    shape: Shape | None = field(default=None, compare=False)
    is_typed: bool = False
    is_vector: bool = False

    @classmethod
    def of(
        cls,
        answer: str,
        extras: tuple[str, ...],
        shape: Shape | None,
        *,
        is_typed: bool = False,
        is_vector: bool = False,
    ) -> AnswerColumns:
        """Return the columns of a run.

        Raises:
            SettingsError: two of them have the same name, because of a field's name.
        """
        columns = cls(answer, extras, () if shape is None else shape.fields, shape, is_typed, is_vector)
        names = [*columns]
        if twin := next((name for number, name in enumerate(names) if name in names[:number]), None):
            named = twin.removeprefix(f"{answer}_")
            raise SettingsError(
                f"{option('schema')}: the field {named!r} would get the column {twin!r}, which batcher writes itself:"
                " give the field another name"
            )
        return columns

    @classmethod
    def recorded_in(cls, question: Mapping[str, Any]) -> AnswerColumns:
        """Return the columns of a run whose question holds their names."""
        shape = question.get("shape")
        return cls.of(
            question["answer_column"],
            tuple(FACTS_BEFORE.get(name, name) for name in question.get("with") or ()),
            None if shape is None else shape_of_recorded(shape),
            is_typed=question.get("format") == PARQUET,
            is_vector=question.get("task") == Task.EMBEDDING,
        )

    def in_files(self, writable: Callable[[str], str]) -> AnswerColumns:
        """Return the columns with names that a file can hold."""
        return replace(self, answer=writable(self.answer), fields=tuple(map(writable, self.fields)))

    @classmethod
    def ending(cls, columns: Sequence[str]) -> AnswerColumns | None:
        """Return the answer columns that a header ends with, or None if it ends otherwise."""
        for count in range(len(Beside._fields) + 1):
            at = len(columns) - count - 2
            if at < 1:
                break
            answer = columns[at].removesuffix(_STATUS)
            start = next((place for place in range(at - 1, -1, -1) if columns[place] == answer), None)
            if start is None:
                continue
            names = [name.removeprefix(f"{answer}_") for name in columns[start + 1 :]]
            found = cls(answer, tuple(names[at - start + 1 :]), tuple(names[: at - start - 1]))
            if [*found] == [*columns[start:]] and set(found.extras) <= set(Beside._fields):
                return found
        return None

    def with_facts(self, names: Iterable[str]) -> AnswerColumns:
        """Return the columns with further facts behind them, of those that they lack.

        Raises:
            SettingsError: a field of the schema has the name of one.
        """
        extras = (*self.extras, *(name for name in names if name not in self.extras))
        if twin := next((name for name in extras if name in self.fields), None):
            raise SettingsError(
                f"{option('with_')}: {twin!r} is a field of the schema, and both would be in the column"
                f" {f'{self.answer}_{twin}'!r}: leave it out"
            )
        return replace(self, extras=extras)

    def facts_behind(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Return the facts in further columns behind these, as a header has them; empty if it has none."""
        prefix = f"{self.answer}_"
        for count in range(1, min(len(Beside._fields), len(columns) - len(self)) + 1):
            names = tuple(name.removeprefix(prefix) for name in columns[-count:])
            if names[0] not in Beside._fields or f"{prefix}{names[0]}" != columns[-count]:
                return ()
            if [*columns[-count - len(self) : -count]] == [*self]:
                return () if set(names) & set(self.extras) else names
        return ()

    def __iter__(self) -> Iterator[str]:
        """Yield their names."""
        yield self.answer
        yield from (f"{self.answer}_{name}" for name in self.fields)
        yield from (self.answer + _STATUS, self.answer + _ERROR)
        yield from (f"{self.answer}_{name}" for name in self.extras)

    def __len__(self) -> int:
        """Return their number."""
        return 3 + len(self.fields) + len(self.extras)

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """What each of the columns holds, if the files have types."""
        of_fields = (Kind.TEXT,) * len(self.fields) if self.shape is None else self.shape.kinds
        of_facts = (_KINDS.get(name, Kind.TEXT) for name in self.extras)
        return Kind.VECTOR if self.is_vector else Kind.TEXT, *of_fields, Kind.TEXT, Kind.TEXT, *of_facts

    @cached_property
    def kinds_of_facts(self) -> dict[str, Kind]:
        """What the columns of all facts hold that a result may have."""
        own = {f"{self.answer}_{name}" for name in self.fields}
        named = {f"{self.answer}_{name}": _KINDS.get(name, Kind.TEXT) for name in Beside._fields}
        return {name: kind for name, kind in named.items() if name not in own}

    @property
    def always(self) -> tuple[str, str, str]:
        """The names of the columns that have a text in every row, if only an empty one."""
        return self.answer, self.status, self.answer + _ERROR

    @property
    def status(self) -> str:
        """The name of the column that says how a row ended."""
        return self.answer + _STATUS

    def status_in(self, cells: Sequence[str]) -> str:
        """Return the status in the answer's cells of a line."""
        return cells[len(self.fields) + 1]

    def split(self, cells: Sequence[str]) -> tuple[list[str], list[str]]:
        """Split a line, or a header, into the input's cells and the answer's."""
        return [*cells[: -len(self)]], [*cells[-len(self) :]]

    def cells_of(self, result: Result, beside: Beside = _NOTHING) -> tuple[str, ...]:
        """Return the answer's cells of a row's line."""
        facts = [getattr(beside, name) for name in self.extras]
        return self.cells(result.answer, result.status.value, result.error, facts)

    def cells(self, answer: str, status: str, error: str, facts: Iterable[str]) -> tuple[str, ...]:
        """Return the cells of a row's line, from their texts; the fields are read in the answer."""
        if not self.fields:
            return self._as_typed(answer, status, error, *facts)
        is_read = self.shape is not None and status == Status.OK.value
        fields = self.shape.cells(answer) if is_read and self.shape else ("",) * len(self.fields)
        return self._as_typed(answer, *fields, status, error, *facts)

    def fact_cells(self, beside: Beside, names: Sequence[str]) -> tuple[str, ...]:
        """Return the cells of some facts."""
        texts = ((_KINDS.get(name, Kind.TEXT), getattr(beside, name)) for name in names)
        return tuple([plain(kind, text) if self.is_typed else text for kind, text in texts])

    def _as_read(self, answer: str, fields: Sequence[str]) -> Sequence[str]:
        """Return the fields of a line as the shape writes them: those that are the answer's, as they are in it."""
        if not self.is_typed or self.shape is None:
            return fields
        read = zip(self.shape.kinds, self.shape.cells(answer), fields, strict=True)
        return [own if plain(kind, own) == text else text for kind, own, text in read]

    def _as_typed(self, *texts: str) -> tuple[str, ...]:
        return tuple(map(plain, self.kinds, texts)) if self.is_typed else texts

    def result_of(self, cells: Sequence[str]) -> Result:
        """Return the result in the answer's cells of a line.

        Raises:
            ValueError: the status is unknown.
        """
        answer, fields = cells[0], cells[1 : len(self.fields) + 1]
        status, error = cells[len(self.fields) + 1 : len(self.fields) + 3]
        ended = Status(status)
        if fields and self.shape is not None and ended is Status.OK:
            answer = self.shape.with_cells(answer, self._as_read(answer, fields))
        return Result(ended, answer, error)

"""Reads what people say that the right answer is: a label, the fields of a schema, or a text.

Invariant: it is read as the model's answers are, or refused with what was probably meant.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from batcher.answer.document import top_level
from batcher.answer.labels import Labels
from batcher.answer.schema import Schema
from batcher.answer.shape import Shape
from batcher.records import Status

_NOT_KNOWN = frozenset({"", "?"})
_SHARED = ("$defs", "definitions", "$schema")
_LONGEST_SHOWN, _MOST_SHOWN = 60, 6  # characters of a text, and labels, in a message


class NoGold(ValueError):
    """A text cannot be the right answer; it says why, without the place."""


def is_known(text: str) -> bool:
    """Return whether a cell says anything: an empty one and `?` do not."""
    return text.strip() not in _NOT_KNOWN


class Golds:
    """Reads the right answers to the rows of a run.

    Args:
        shape: what answers must be; None: any text.

    Attributes:
        shape: the same.
    """

    def __init__(self, shape: Shape | None) -> None:
        self.shape = shape

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the schema, each of which has a right answer of its own; none without a schema."""
        return self.shape.fields if self.shape is not None else ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels; none if any text, or a schema, is the answer."""
        return self.shape.names if isinstance(self.shape, Labels) else ()

    def read(self, text: str, field: str | None = None) -> str:
        """Read the right answer in a cell, which says one.

        Args:
            text: of the cell.
            field: of the schema.

        Raises:
            NoGold: it cannot be the answer.
        """
        if field is not None and self._of_fields:
            return self._read_field(text, field)
        if self.shape is None or self.fields:
            return text.strip()
        read = self.shape.read(text)
        if read.status is not Status.OK:
            raise NoGold(f"{_short(text)} is none of the labels{self._meant(text)}")
        return read.answer

    def read_whole(self, text: str) -> str:
        """Read the right answer in a cell that holds all of it: with a schema, JSON with its fields, or some of them.

        Raises:
            NoGold: it cannot be the answer.
        """
        if not self.fields:
            return self.read(text)
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise NoGold(f"{_short(text)} is no JSON object with fields of the schema")
        if other := next((name for name in found if name not in self.fields), None):
            raise NoGold(f"the schema has no field {other!r}; it has {', '.join(self.fields)}")
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}
        known = {name: text for name, text in texts.items() if is_known(text) and text != "null"}
        return self.joined({name: self.read(text, name) for name, text in known.items()})

    def joined(self, found: Mapping[str, str]) -> str:
        """Return the fields' right answers as the journal has them; empty without any."""
        known = {name: found[name] for name in self.fields if found.get(name)}
        return json.dumps(known, ensure_ascii=False) if known else ""

    @staticmethod
    def of_field(gold: str, field: str | None) -> str:
        """Return the right answer of a field, or the whole if there is no field; empty if there is none."""
        if field is None or not gold:
            return gold
        found = json.loads(gold)
        return str(found.get(field, "")) if isinstance(found, dict) else ""

    def _read_field(self, text: str, field: str) -> str:
        schema = self._of_fields[field]
        read = schema.read(json.dumps({field: schema.typed(field, text.strip())}, ensure_ascii=False))
        if read.status is not Status.OK:
            raise NoGold(f"{_short(text)} cannot be {field!r}: {read.error}")
        return schema.cells(read.answer)[0]

    @cached_property
    def _of_fields(self) -> dict[str, Schema]:
        """A schema for each field alone."""
        if not isinstance(self.shape, Schema):
            return {}
        document = self.shape.document
        shared = {name: document[name] for name in _SHARED if name in document}
        return {
            name: Schema({**shared, "type": "object", "properties": {name: field}, "required": [name]})
            for name, field in top_level(document).items()
        }

    def _meant(self, text: str) -> str:
        near = self.shape.near(text) if self.shape is not None else ""
        if near:
            return f": did you mean {near!r}?"
        return f" ({listed(self.labels)})"


def listed(labels: Iterable[str]) -> str:
    """Return labels for a message: the first few of them."""
    names = [*labels]
    more = f", ... ({len(names):,} labels)" if len(names) > _MOST_SHOWN else ""
    return ", ".join(map(repr, names[:_MOST_SHOWN])) + more


def _short(text: str) -> str:
    return repr(text) if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]!r}..."


def gold_of(question: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what a run's record says of the column that holds right answers; None if it had none.

    It has `column`, `drawn` (how its rows were chosen), and with labels `texts`: the label for each text in the column.
    """
    found = question.get("gold")
    return found if isinstance(found, dict) else None


def examples_in(question: Mapping[str, Any]) -> tuple[bytes, ...]:
    """Return the keys of the rows that ask what an example in the prompt asks: they are no sample of the others."""
    return tuple(bytes.fromhex(each) for each in (question.get("examples") or {}).get("keys", ()))

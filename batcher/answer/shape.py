"""What every answer of a run must be: the interface of labels and of a schema.

Invariant: a text is read only by itself and by the shape, so that reading it again gives the same. Whoever changes what
a text is read as raises `READER`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from batcher.answer.kinds import Kind
from batcher.records import Status

READER = 1
"""The version of the reading: kept texts that were read by another one are read anew."""


class Read(NamedTuple):
    """A text as it was read.

    Attributes:
        status: `ok` or `invalid`.
        answer: the label as the user wrote it; with a schema, or if it is invalid, the text as it came.
        error: why it does not fit; empty if it does.
    """

    status: Status
    answer: str
    error: str


def as_text(recorded: Mapping[str, Any] | None) -> str:
    """Return a recorded shape as JSON in the user's order: a model writes fields in the order of the schema."""
    return "" if recorded is None else json.dumps(recorded, separators=(",", ":"))


class ReadAs(NamedTuple):
    """What answers are read as.

    Attributes:
        shape: the shape as it is recorded; see `as_text`.
        reader: the version of the reading.
    """

    shape: str
    reader: int

    @classmethod
    def of(cls, shape: Shape) -> ReadAs:
        return cls(as_text(shape.recorded), READER)


class Shape(Protocol):
    """What every answer of a run must be."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the top level, each of which gets a column, in their order; none for labels."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What the column of each field holds in a file that has types."""

    @property
    def recorded(self) -> dict[str, Any]:
        """The shape as the user gave it, as JSON: `shape_of_recorded` makes it again."""

    def read(self, text: str) -> Read:
        """Read an answer's text. Any text gives a `Read`."""

    def near(self, text: str) -> str:
        """Return the label that an invalid text comes close to, if there is one: a slip of the model, or an alias.

        It takes a millisecond, and is not for every row.
        """

    def place(self, text: str, answer: str) -> tuple[int, int] | None:
        """Return where a text that was read as a label says it: the label's first character, and the one behind it.

        None: it is not certain, or the shape has no labels.
        """

    def cells(self, answer: str) -> tuple[str, ...]:
        """Return the text of each field of an `ok` answer: numbers, booleans, lists and objects as JSON.

        A field that is missing or null is the empty text.
        """

    def with_cells(self, answer: str, cells: Sequence[str]) -> str:
        """Return an answer with the fields that a line of a file has: a person may have corrected them."""

    def values(self, answer: str) -> tuple[object, ...]:
        """Return the value of each field of an `ok` answer; None for one that is missing."""

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema to ask for it; a user's schema is returned as it is."""

    def strict_schema(self) -> dict[str, Any] | None:
        """Return the schema in the form that services demand for `strict`, or None if there is no such form.

        It may admit what the shape does not: an answer is always read by the shape itself.
        """


def shape_of_recorded(recorded: Mapping[str, Any]) -> Shape:
    """Return the shape that was recorded.

    Raises:
        SettingsError: it is none.
    """
    from batcher.answer.labels import Labels  # noqa: PLC0415 - they import this module
    from batcher.answer.schema import Schema  # noqa: PLC0415

    if "schema" in recorded:
        return Schema.of(recorded["schema"], "the recorded schema")
    return Labels.of(recorded, "the recorded labels")

"""A schema: the JSON that every answer must be, and how a text is read as it.

Invariant: an answer is checked against the user's own schema, whatever form of it a service was sent.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from batcher.answer.document import document_of, pointed, top_level, validator
from batcher.answer.json_in_text import found
from batcher.answer.kinds import Kind
from batcher.answer.mending import mended, place
from batcher.answer.shape import Read
from batcher.answer.strict import strict
from batcher.records import Status

_MOST_ERRORS = 100  # of one value that are looked at
_LONGEST_KEPT, _MOST_KEPT = 2000, 1000  # characters of an answer whose cells are kept, and answers: at most 8 MB
_TURNS = 3  # a value that was mended in one place may show an error in another
_MOST_MENDED = 20  # values of one text
_LONGEST_ERROR = 300  # characters: an error quotes the value, which may be long

_DECISION = re.compile(
    "labels?|answer|categor(?:y|ies)|class|classification|sentiment|emotion|intent|topic|type|verdict|decision|result"
    "|prediction|choice|option|rating|score|stance|polarity|judge?ment|conclusion"
    "|标签|答案|类别|分类|情感|意图|结果|评分|结论|判断"
)
_REASON = re.compile(
    "reasons?|reasoning|explain|explanations?|rationale|thoughts?|thinking|evidence|justifications?|analysis|steps|why"
    "|because|cot|理由|原因|解释|分析|推理|依据|思考|说明|证据"
)
_NAME_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_a-zA-Z]+")
_written = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True)
class Schema:
    """The JSON Schema of a run.

    Attributes:
        document: as the user gave it.
    """

    document: dict[str, Any]

    @classmethod
    def of(cls, value: object, where: str) -> Schema:
        """Return the schema that a user gave.

        Args:
            value: the path of a JSON file, a dictionary, a pydantic model or a dataclass (the class itself).
            where: the option's name in messages.

        Raises:
            SettingsError: it is no JSON Schema, constrains nothing, or a field cannot be a column; it names the place.
        """
        return cls(document_of(value, where))

    @cached_property
    def fields(self) -> tuple[str, ...]:
        return tuple(top_level(self.document))

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(_kind_of(self._types(field)) for field in top_level(self.document).values())

    @property
    def recorded(self) -> dict[str, Any]:
        return {"schema": self.json_schema()}

    @cached_property
    def text(self) -> str:
        """The schema for a prompt: JSON without blanks."""
        return json.dumps(self.document, ensure_ascii=False, separators=(",", ":"))

    @property
    def line(self) -> str:
        """What a prompt that does not hold the schema is told at its end."""
        return f"Answer with nothing but JSON that fits this JSON Schema: {self.text}"

    def late_reasons(self) -> tuple[str, str] | None:
        """Return the field of a label and that of its reason, if the label stands first."""
        reason = next((name for name in self.fields if _has(name, _REASON)), None)
        if reason is None:
            return None
        before = self.fields[: self.fields.index(reason)]
        label = next((name for name in before if _has(name, _DECISION) or self._is_choice(name)), None)
        return (label, reason) if label is not None else None

    def json_schema(self) -> dict[str, Any]:
        return copy.deepcopy(self.document)

    def strict_schema(self) -> dict[str, Any] | None:
        return strict(self.document)

    def read(self, text: str) -> Read:
        """Read an answer's text: the first JSON in it that fits.

        What fits but for numbers and booleans written as texts, the case of a choice, or nulls of fields that may be
        absent, fits. The answer is the text as it came.
        """
        error, value = self._first(text)
        if error:
            return Read(Status.INVALID, text, error)
        if len(text) <= _LONGEST_KEPT:
            if len(self._kept) >= _MOST_KEPT and text not in self._kept:
                self._kept.clear()
            self._kept[text] = self._cells(value)
        return Read(Status.OK, text, "")

    def near(self, text: str) -> str:  # noqa: ARG002 - as of every shape
        return ""

    def values(self, answer: str) -> tuple[object, ...]:
        return self._values(self._first(answer)[1])

    def _values(self, value: Any) -> tuple[object, ...]:
        if not isinstance(value, dict):
            return (None,) * len(self.fields)
        return tuple(
            int(each) if isinstance(each := value.get(name), float) and name in self._whole_numbers else each
            for name in self.fields
        )

    def place(self, text: str, answer: str) -> None:
        """Return None: a schema has no label."""

    def cells(self, answer: str) -> tuple[str, ...]:
        kept = self._kept.get(answer)
        return self._cells(self._first(answer)[1]) if kept is None else kept

    def _cells(self, value: Any) -> tuple[str, ...]:
        return tuple(map(_cell, self._values(value)))

    def with_cells(self, answer: str, cells: Sequence[str]) -> str:
        """Return an answer, as JSON, with the fields that a line of a file has: a person may have corrected them."""
        before = self.cells(answer)
        if before == tuple(cells):
            return answer
        _, value = self._first(answer)
        changed = dict(value) if isinstance(value, dict) else {}
        for name, was, cell in zip(self.fields, before, cells, strict=True):
            if cell and cell != was:
                changed[name] = self.typed(name, cell)
            elif cell != was:
                changed.pop(name, None)
        return json.dumps(changed, ensure_ascii=False)

    def typed(self, name: str, cell: str) -> object:
        """Return the value that a cell of a field stands for."""
        types = self._types(top_level(self.document)[name])
        if types and "string" not in types:
            with contextlib.suppress(ValueError):
                return json.loads(cell)
        return cell

    @cached_property
    def _kept(self) -> dict[str, tuple[str, ...]]:
        """The cells of answers that were just read, which a file will soon ask for."""
        return {}

    @cached_property
    def _validator(self) -> Any:
        return validator(self.document)

    @cached_property
    def _whole_numbers(self) -> frozenset[str]:
        """The fields that take whole numbers alone: 3.0 is one."""
        return frozenset(name for name, field in top_level(self.document).items() if self._types(field) == {"integer"})

    def _types(self, field: Any) -> set[str]:
        """Return the types that a field is said to have, but for null."""
        field = pointed(self.document, field)
        if not isinstance(field, dict):
            return set()
        said = field.get("type", [])
        types = {said} if isinstance(said, str) else {*said}
        for each in field.get("anyOf") or field.get("oneOf") or ():
            types |= {each["type"]} if isinstance(each, dict) and isinstance(each.get("type"), str) else {"?"}
        return types - {"null"}

    def _is_choice(self, name: str) -> bool:
        """Return whether a field takes one of a few values."""
        field = pointed(self.document, top_level(self.document)[name])
        return isinstance(field, dict) and ("enum" in field or "const" in field or field.get("type") == "boolean")

    def _first(self, text: str) -> tuple[str, Any]:
        """Return the value of the first JSON in a text that fits, or why the first one does not."""
        first = ""
        for number, each in enumerate(found(text)):
            error, value = (
                (each.error, None) if each.error else self._fitted(each.value, is_mended=number < _MOST_MENDED)
            )
            if not error:
                return "", value
            first = first or error
        return first or ("the answer holds no JSON" if text.strip() else "the answer is empty"), None

    def _fitted(self, value: Any, *, is_mended: bool) -> tuple[str, Any]:
        """Return a value that fits, mended if it must and may be; or why it does not fit."""
        if self._validator.is_valid(value):
            return "", value
        if not is_mended:
            return "no JSON in the answer fits", None
        holder = [copy.deepcopy(value)]
        first = ""
        for _ in range(_TURNS):
            errors = [*itertools.islice(self._validator.iter_errors(holder[0]), _MOST_ERRORS)]
            if not errors:
                return "", holder[0]
            first = first or f"{place(errors[0].instance_path)}: {errors[0].message}"
            changes = [mended(holder, error) for error in errors]
            if not any(changes):
                break
        return first if len(first) <= _LONGEST_ERROR else f"{first[:_LONGEST_ERROR]}...", None


def _kind_of(types: set[str]) -> Kind:
    """Return what a column holds for values of these JSON types."""
    if types and types <= {"integer", "number"}:
        return Kind.INTEGER if types == {"integer"} else Kind.NUMBER
    return Kind.BOOLEAN if types == {"boolean"} else Kind.TEXT


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    # What JSON writes for the numbers that it knows, a third of the encoder's time.
    return repr(value) if type(value) in {int, float} else _written(value)


def _has(name: str, words: re.Pattern[str]) -> bool:
    return any(words.fullmatch(part.lower()) for part in _NAME_PARTS.findall(name))

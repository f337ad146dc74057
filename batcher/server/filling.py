"""Makes values that fit a JSON Schema from the answer to a question.

Invariant: any JSON value is taken as a schema, one that refers to itself too; the same question gets the same value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

_DEPTH = 20  # levels, references included: a schema may refer to itself
_NODES = 2_000  # values in one answer, for the same reason
_ITEMS = 100  # of an array, at most
_LENGTH = 10_000  # characters of a text that a schema wants longer, at most
_BRANCHES = ("allOf", "anyOf", "oneOf")
_ASKED = re.compile(
    r"answer|result|value|output|label|categor|class|sentiment|infer|答案|结果|类别|标签", re.IGNORECASE
)
_FORMATS = {
    "date": "2026-11-30",
    "time": "12:00:00Z",
    "date-time": "2026-11-30T12:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


class Question(Protocol):
    """What is asked, and what the model makes of it."""

    @property
    def echo(self) -> str:
        """A text for any field."""

    @property
    def result(self) -> tuple[str, Fraction | None]:
        """The value of the sum in the prompt, as a text and as a number; an empty text if there is none."""

    @property
    def label(self) -> str:
        """One of the labels that the prompt offers, or an empty text."""

    def among(self, options: Sequence[Any]) -> Any:
        """Choose one of the options."""

    def pick(self, count: int, salt: str) -> int:
        """Choose a number below `count`."""


class Filler:
    """Fills one schema.

    Args:
        question: gives the values.
        schema: the root, to which references go.
    """

    def __init__(self, question: Question, schema: Mapping[str, Any]) -> None:
        self._question = question
        self._root = schema
        self._left = _NODES

    def value(self, schema: object, name: str = "", depth: int = 0) -> object:
        """Return a value that fits.

        Args:
            schema: or a part of it.
            name: of the field.
            depth: of the part.
        """
        self._left -= 1
        if depth > _DEPTH or self._left < 0:
            return None
        rules = as_dict(schema)
        if "$ref" in rules:
            rest = {key: each for key, each in rules.items() if key != "$ref"}
            return self.value(_merged(self._target(rules["$ref"]), rest), name, depth + 1)
        for key in _BRANCHES:
            if parts := self._chosen(rules, key):
                rest = {other: each for other, each in rules.items() if other != key}
                return self.value(_merged(rest, *parts), name, depth + 1)
        if "const" in rules:
            return rules["const"]
        if isinstance(rules.get("enum"), list) and rules["enum"]:
            return self._question.among(rules["enum"])
        return self._of_kind(rules, name, depth)

    def _chosen(self, rules: dict[str, Any], key: str) -> list[dict[str, Any]]:
        """Return the parts of a branch that hold: all of `allOf`, else the first that is not null."""
        parts = [part for part in _list(rules.get(key)) if isinstance(part, dict)]
        if key == "allOf":
            return [self._target(part["$ref"]) if "$ref" in part else part for part in parts]
        return [part for part in parts if part.get("type") != "null" and part.get("const", "") is not None][:1]

    def _target(self, reference: object) -> dict[str, Any]:
        found: object = self._root
        for step in str(reference).split("/")[1:]:
            found = as_dict(found).get(step.replace("~1", "/").replace("~0", "~"))
        return as_dict(found)

    def _of_kind(self, rules: dict[str, Any], name: str, depth: int) -> object:
        question = self._question
        kinds = rules.get("type")
        kind = next((each for each in kinds if each != "null"), "null") if isinstance(kinds, list) else kinds
        if kind == "object" or (kind is None and "properties" in rules):
            properties = as_dict(rules.get("properties"))
            names = [*properties, *_list(rules.get("required"))]
            named = dict.fromkeys(each for each in names if isinstance(each, str))
            return {each: self.value(properties.get(each), each, depth + 1) for each in named}
        if kind == "array" or (kind is None and ("items" in rules or "prefixItems" in rules)):
            return self._array(rules, name, depth)
        if kind in ("integer", "number"):
            return self._some_number(rules, name, whole=kind == "integer")
        if kind in ("boolean", "null"):
            return question.pick(2, name) == 1 if kind == "boolean" else None
        text, number = question.result
        if kind == "string":
            is_asked = _ASKED.search(f"{name} {rules.get('title', '')}")
            return self._text(rules, (is_asked and (question.label or text)) or question.echo)
        return question.label or (text if number is None else as_number(number)) or question.echo

    def _array(self, rules: dict[str, Any], name: str, depth: int) -> list[object]:
        first = _list(rules.get("prefixItems"))
        least, most = _count(rules.get("minItems"), 1), _count(rules.get("maxItems"), _ITEMS)
        count = min(max(least, len(first)), max(most, 0), _ITEMS)
        schemas = [*first, *[rules.get("items")] * max(count - len(first), 0)][:count]
        values = [self.value(schema, name, depth + 1) for schema in schemas]
        return self._distinct(rules, values) if rules.get("uniqueItems") is True else values

    def _distinct(self, rules: dict[str, Any], values: list[object]) -> list[object]:
        """Make equal items different."""
        item = as_dict(rules.get("items"))
        options = as_dict(self._target(item["$ref"]) if "$ref" in item else item).get("enum")
        if isinstance(options, list) and values and values[0] in options:
            start = options.index(values[0])
            return [*options[start:], *options[:start]][: len(values)]
        return [_changed(value, number) for number, value in enumerate(values)]

    def _text(self, rules: dict[str, Any], text: str) -> str:
        kind = rules.get("format")
        text = _FORMATS.get(kind, text) if isinstance(kind, str) else text
        least, most = _count(rules.get("minLength"), 0), _count(rules.get("maxLength"), len(text) + _LENGTH)
        return text.ljust(min(least, _LENGTH), ".")[: max(most, 0)]

    def _some_number(self, rules: dict[str, Any], name: str, *, whole: bool) -> int | float:
        low, high = _bound(rules.get("minimum"), -math.inf), _bound(rules.get("maximum"), math.inf)
        above, below = _bound(rules.get("exclusiveMinimum"), -math.inf), _bound(rules.get("exclusiveMaximum"), math.inf)
        step = _bound(rules.get("multipleOf"), 0)
        number = self._question.result[1]
        fits = number is not None and low <= number <= high and above < number < below
        if number is not None and fits and not (whole and number.denominator > 1) and (step <= 0 or number % step == 0):
            return as_number(number)
        low, high = _whole(low, high, above, below) if whole else _inside(low, high, above, below)
        first = math.ceil(max(low, min(high - 100, 0)))
        found = min(first + self._question.pick(max(math.floor(min(high, first + 100)) - first, 0) + 1, name), high)
        if step <= 0:
            return found
        multiple = math.ceil(found / step) * step
        multiple = multiple if multiple <= high else math.floor(found / step) * step
        return int(multiple) if whole else multiple


def as_dict(value: object) -> dict[str, Any]:
    """Return an object; anything else as an empty one."""
    return value if isinstance(value, dict) else {}


def as_number(value: Fraction) -> int | float:
    """Return a fraction as JSON has it."""
    return int(value) if value.denominator == 1 else float(value)


def _merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return one schema that wants what all parts want; of two values for one rule the later counts."""
    whole: dict[str, Any] = {}
    for part in parts:
        properties = {**as_dict(whole.get("properties"))}
        for name, rules in as_dict(part.get("properties")).items():
            properties[name] = _merged(as_dict(properties.get(name)), as_dict(rules))
        required = [*_list(whole.get("required")), *_list(part.get("required"))]
        whole = {**whole, **part}
        whole |= ({"properties": properties} if properties else {}) | ({"required": required} if required else {})
    return whole


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _changed(value: object, number: int) -> object:
    if number == 0 or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return f"{value} {number}"
    if isinstance(value, int | float):
        return value + number
    return value


def _whole(low: float, high: float, above: float, below: float) -> tuple[float, float]:
    """Return bounds of whole numbers that belong to the range, of bounds that may not."""
    least = low if above == -math.inf else max(low, math.floor(above) + 1)
    return least, high if below == math.inf else min(high, math.ceil(below) - 1)


def _inside(low: float, high: float, above: float, below: float) -> tuple[float, float]:
    """Return bounds that belong to the range, of bounds that may not."""
    if above >= low:
        low = (above + min(high, below)) / 2 if min(high, below) < math.inf else above + 1
    if below <= high:
        high = (below + max(low, above)) / 2 if max(low, above) > -math.inf else below - 1
    return low, max(low, high)


def _count(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _bound(value: object, default: float) -> float:
    """Return a number of a schema, or the default: Python's JSON also allows NaN."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15 else default

"""What the simulated model fills into a JSON Schema fits it, by a validator that is not ours."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batcher.server.answers import answer, label_for

jsonschema: Any = pytest.importorskip("jsonschema")

PROMPTS = ["hello", "What is 6 * 7?", "1/3 + 1", "one of: a, b", *(f"row {number}" for number in range(12))]
COLOURS = {"enum": ["red", "green", "blue"]}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2, "maxLength": 10},
        "age": {"type": "integer", "minimum": 0},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def fill(prompt: str, schema: dict[str, Any], *, strict: bool = True) -> Any:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": strict}}
    return json.loads(answer({"messages": [{"role": "user", "content": prompt}], "response_format": wanted}))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"reason": {"type": "string"}, "label": COLOURS}, "required": ["label"]},
        {"type": "string", "minLength": 500},
        {"type": "array", "items": {"type": "string"}, "minItems": 3, "maxItems": 5, "uniqueItems": True},
        {"type": "array", "items": COLOURS, "minItems": 2, "maxItems": 3, "uniqueItems": True},
        {"type": "array", "items": {"type": "integer"}, "minItems": 4, "uniqueItems": True},
        {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}], "minItems": 2, "items": False},
        {"type": "array", "items": {"type": "string"}, "maxItems": 0},
        {"type": "array", "items": {"$ref": "#/$defs/person"}, "minItems": 2, "$defs": {"person": PERSON}},
        {"properties": {"a": {"$ref": "#/definitions/a~1b"}}, "definitions": {"a/b": {"const": 7}}},
        {"anyOf": [{"type": "null"}, PERSON]},
        {"type": "object", "properties": {"a": COLOURS}, "anyOf": [{"required": ["x"]}]},
        {"allOf": [PERSON, {"properties": {"age": {"maximum": 3}}}]},
        {"oneOf": [{"type": "string", "format": "date"}, {"type": "number"}]},
        {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"type": "number", "exclusiveMinimum": 41.5},
        {"type": "number", "minimum": 0, "exclusiveMaximum": 0.5},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        {"type": "integer", "multipleOf": 5, "minimum": 1, "maximum": 12},
        {"type": "integer", "multipleOf": 50, "minimum": -70, "maximum": -10},
        {"type": "string", "maxLength": 3},
        {"type": ["null", "integer"], "minimum": 1, "maximum": 2},
        {"enum": [1, "1", True, None]},
        {"$ref": "#/$defs/x", "$defs": {"x": {"type": "object", "properties": {"of": COLOURS}, "required": ["of"]}}},
    ],
)  # fmt: skip
def test_the_answer_fits_the_schema(schema: dict[str, Any]) -> None:
    for prompt in PROMPTS:
        jsonschema.validate(fill(prompt, schema), schema, format_checker=jsonschema.FormatChecker())


def test_fields_come_in_the_order_of_the_schema() -> None:
    properties = {name: {"type": "string"} for name in ("reason", "label", "also")}
    assert list(fill("p", {"type": "object", "properties": properties})) == ["reason", "label", "also"]


def test_every_enum_of_a_schema_has_the_label_of_the_prompt() -> None:
    schema = {"type": "object", "properties": {"why": {"type": "string"}, "of": {"properties": {"colour": COLOURS}}}}
    for prompt in PROMPTS:
        assert fill(prompt, schema)["of"]["colour"] == label_for(prompt, COLOURS["enum"])


@pytest.mark.parametrize("odd", ["x", None, [], {}, -1, 10**30, 1.5, True])
@pytest.mark.parametrize(
    "word", ["minItems", "maxItems", "minLength", "maxLength", "multipleOf", "exclusiveMinimum", "format"]
)
def test_a_rule_that_means_nothing_is_passed_over(word: str, odd: object) -> None:
    for kind, expected in {"array": list, "string": str, "integer": int, "number": (int, float)}.items():
        assert isinstance(fill("p", {"type": kind, word: odd}), expected)  # type: ignore[arg-type]

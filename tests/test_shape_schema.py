"""An answer is read by the user's schema: the first JSON that fits, or almost does; columns get values of its types."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from batcher.answer.schema import Schema
from batcher.answer.shape import Read, shape_of_recorded
from batcher.errors import SettingsError
from batcher.records import Status

OUTSIDE = "--schema is not a valid JSON Schema, $: "
DOCUMENT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "label": {"enum": ["card_arrival", "other"]},
        "score": {"type": "integer", "maximum": 10},
        "sure": {"type": "boolean"},
        "share": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "day": {"type": "string", "format": "date"},
        "either": {"type": ["string", "integer"]},
        "of_three": {"enum": [1, 2, 3]},
        "version": {"const": "1"},
    },
    "required": ["label", "score"],
}
SCHEMA = Schema.of(DOCUMENT, "--schema")


class Inner(BaseModel):
    reason: str
    label: Literal["a", "b"]
    number: int = 3
    share: float | None = None


class Outer(BaseModel):
    verdict: Literal["yes", "no"] = Field(description="what holds", default="yes")
    inner: Inner = Field(description="more")
    inners: list[Inner] = []
    explanation: str = Field(min_length=1)


@dataclass
class Plain:
    reason: str
    number: int
    tags: list[str] = field(default_factory=list)


def fields(text: str) -> dict[str, Any] | str:
    """Return what the fields of an answer hold, or the error."""
    read = SCHEMA.read(text)
    assert read.answer == text
    if read.status is Status.INVALID:
        return read.error
    known = {name: value for name, value in zip(SCHEMA.fields, SCHEMA.values(text), strict=True) if value is not None}
    cells = {name: cell for name, cell in zip(SCHEMA.fields, SCHEMA.cells(text), strict=True) if cell}
    assert {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in known.items()
    } == cells
    return known


LEAST = {"label": "other", "score": 1}


@pytest.mark.parametrize(
    ("given_as", "read_as"),
    [
        ({}, {}),
        ({"score": 10}, {"score": 10}),
        ({"score": -(10**40)}, {"score": -(10**40)}),
        ({"score": 3.0}, {"score": 3}),
        ({"score": "3"}, {"score": 3}),
        ({"score": " -7 "}, {"score": -7}),
        ({"share": 0.5, "sure": False, "tags": ["ä", "}"]}, {"share": 0.5, "sure": False, "tags": ["ä", "}"]}),
        ({"share": "2.5", "sure": "True", "tags": '["a"]'}, {"share": 2.5, "sure": True, "tags": ["a"]}),
        ({"share": None}, {}),
        ({"share": "null"}, {}),
        ({"reason": None, "tags": None, "day": None}, {}),
        ({"label": "Card arrival."}, {"label": "card_arrival"}),
        ({"of_three": "3", "version": 1}, {"of_three": 3, "version": "1"}),
        ({"either": "3"}, {"either": "3"}),
        ({"day": "2026-02-28"}, {"day": "2026-02-28"}),
        ({"more": 1}, {}),
    ],
)
def test_an_answer_that_says_what_fits_is_read_in_the_types_of_the_schema(
    given_as: dict[str, Any], read_as: dict[str, Any]
) -> None:
    text = json.dumps(LEAST | given_as)
    expected = LEAST | read_as
    for answer in (text, f"```json\n{text}\n```", f"See [1]. It is {text}, is it not?", text[:-1] + ",}"):
        assert fields(answer) == expected


@pytest.mark.parametrize(
    ("given_as", "error"),
    [
        ({"score": 11}, "$.score: 11 is greater than the maximum of 10"),
        ({"score": "11"}, '$.score: "11" is not of type "integer"'),
        ({"score": 3.5}, '$.score: 3.5 is not of type "integer"'),
        ({"score": "3 of 10"}, '$.score: "3 of 10" is not of type "integer"'),
        ({"score": "1e999"}, '$.score: "1e999" is not of type "integer"'),
        ({"score": True}, '$.score: true is not of type "integer"'),
        ({"score": None}, '$.score: null is not of type "integer"'),
        ({"label": "not other"}, '$.label: "not other" is not one of "card_arrival" or "other"'),
        ({"reason": 3}, '$.reason: 3 is not of type "string"'),
        ({"tags": ["a", 2]}, '$.tags[1]: 2 is not of type "string"'),
        ({"day": "tomorrow"}, '$.day: "tomorrow" is not a "date"'),
        ({"sure": "maybe"}, '$.sure: "maybe" is not of type "boolean"'),
    ],
)
def test_an_answer_that_does_not_fit_is_invalid_and_the_error_names_the_place(
    given_as: dict[str, Any], error: str
) -> None:
    assert fields(json.dumps(LEAST | given_as)) == error


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "the answer is empty"),
        ("I do not know.", "the answer holds no JSON"),
        ('{"label": "other"}', '$: "score" is a required property'),
        ('{"label": "other", "score": NaN}', "NaN is no number of JSON"),
        ('{"label": "other", "score": 1, "score": 2}', "the key 'score' comes twice, with different values"),
        ('{"label": "other", "score": 1', "the JSON is not closed: was the answer cut off?"),
        ('[{"label": "other", "score": 1}]', '$: [{"label":"other","score":1}] is not of type "object"'),
    ],
)
def test_what_holds_no_json_that_fits_is_invalid(text: str, error: str) -> None:
    assert fields(text) == error


def test_the_first_json_that_fits_is_the_answer() -> None:
    assert fields('{"label": "x"} {"label": "other", "score": 2} {"label": "other", "score": 3}') == {
        "label": "other",
        "score": 2,
    }


def test_a_long_value_is_not_quoted_whole() -> None:
    assert len(str(fields(json.dumps(LEAST | {"label": "x" * 10_000})))) < 400


@given(
    st.text()
    | st.lists(st.sampled_from(['{"label": "other", ', '"score": ', "1", '"2"', "null", "}", ",", "\ud800"])).map(
        "".join
    )
)
def test_any_text_gives_a_reading(text: str) -> None:
    read = SCHEMA.read(text)
    assert read.answer == text
    assert len(SCHEMA.cells(text)) == len(SCHEMA.values(text)) == len(SCHEMA.fields)
    "".join(SCHEMA.cells(text)).encode()


def test_many_objects_in_a_text_do_not_take_long() -> None:
    assert SCHEMA.read('{"a":1}' * 20_000).status is Status.INVALID


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"type": "array", "items": {"type": "integer"}}, '[1, "2"]'),
        ({"type": "number"}, "42"),
        ({"type": "number"}, '"42"'),
        ({"enum": ["a", "b"]}, '"A"'),
        ({"type": "string"}, '"x"'),
        ({"type": ["object", "null"], "additionalProperties": {"type": "integer"}}, "null"),
    ],
)
def test_a_schema_of_no_fields_has_no_columns(document: dict[str, Any], text: str) -> None:
    schema = Schema.of(document, "--schema")
    assert schema.read(text) == Read(Status.OK, text, "")
    assert (schema.fields, schema.cells(text), schema.values(text)) == ((), (), ())


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ({"$ref": "#/$defs/A", "$defs": {"A": {"properties": {"b": {}, "a": {}}}}}, ("b", "a")),
        (
            {"allOf": [{"properties": {"a": {}}}, {"$ref": "#/$defs/A"}], "$defs": {"A": {"properties": {"b": {}}}}},
            ("a", "b"),
        ),
        ({"oneOf": [{"properties": {"kind": {}, "a": {}}}, {"properties": {"kind": {}, "b": {}}}]}, ("kind", "a", "b")),
        (
            {"$ref": "#/$defs/~01%25/allOf/0", "$defs": {"~1%": {"allOf": [{"properties": {"a": {"$ref": "#"}}}]}}},
            ("a",),
        ),
    ],
)
def test_fields_are_found_in_their_order_wherever_the_document_has_them(
    document: dict[str, Any], names: tuple[str, ...]
) -> None:
    assert Schema.of(document, "--schema").fields == names


def test_a_schema_is_given_as_a_file_a_text_a_dictionary_a_model_or_a_dataclass(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(DOCUMENT), encoding="utf-8-sig")
    for value in (file, str(file), f"@{file}", json.dumps(DOCUMENT), DOCUMENT):
        assert Schema.of(value, "schema") == SCHEMA
    assert Schema.of(Outer, "schema").fields == ("verdict", "inner", "inners", "explanation")
    assert Schema.of(Plain, "schema").fields == ("reason", "number", "tags")


def test_a_dictionary_that_changes_afterwards_changes_no_schema() -> None:
    document = copy.deepcopy(DOCUMENT)
    schema = Schema.of(document, "schema")
    document["properties"].clear()
    schema.json_schema()["properties"].clear()
    schema.recorded["schema"]["properties"].clear()
    assert schema == SCHEMA


@pytest.mark.parametrize("value", [DOCUMENT, Outer, Plain])
def test_what_was_recorded_makes_the_schema_again(value: object) -> None:
    schema = Schema.of(value, "schema")
    again = shape_of_recorded(json.loads(json.dumps(schema.recorded)))
    assert again == schema
    assert again.fields == schema.fields
    assert json.loads(schema.text) == schema.json_schema() == again.json_schema()
    assert schema.line.endswith(schema.text)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"type": "objekt"}, "--schema is not a valid JSON Schema, $.type: the type must be string, number, "),
        ({"properties": {"a": {"pattern": "("}}}, "--schema is not a valid JSON Schema, $"),
        ({"$ref": "#/$defs/x"}, "--schema is not a valid JSON Schema, $: Pointer '/$defs/x' does not exist"),
        ({"$ref": "http://example.com/x"}, f"{OUTSIDE}http://example.com/x is outside of the schema: copy"),
        ({"$ref": "file:///etc/passwd"}, f"{OUTSIDE}file:///etc/passwd is outside of the schema: copy"),
        ({"label": "string"}, "--schema says nothing of what an answer must be"),
        (
            {"name": "x", "strict": True, "schema": DOCUMENT},
            "--schema is a request's response format: give the object in",
        ),
        ({"type": "json_schema", "json_schema": {}}, "--schema is a request's response format: give the object in"),
        ({"properties": {"": {}}}, "--schema: the field '' cannot name a column"),
        ({"properties": {"a\nb": {}}}, "--schema: the field 'a\\nb' cannot name a column"),
        ({"type": "object", "maximum": float("nan")}, "--schema cannot be made a JSON Schema"),
        (
            Plain("x", 1),
            "--schema must be a file, a dictionary, a pydantic model or a dataclass; it is an object of Plain",
        ),
        (int, "--schema must be a file, a dictionary, a pydantic model or a dataclass; it is the class int"),
        (
            Inner(reason="x", label="a"),
            "--schema must be a file, a dictionary, a pydantic model or a dataclass; it is an object of Inner",
        ),
        (
            {"type": "object", "properties": {"a": int}},
            "--schema is not JSON: it holds the class int, which JSON cannot; a type is written as a text: string, ",
        ),
        (["a"], "--schema must be a file, a dictionary, a pydantic model or a dataclass; it is of type list"),
        ("nowhere.json", "--schema: 'nowhere.json' cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_schema_is_refused_with_the_option_and_the_place(value: object, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Schema.of(value, "--schema")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"type":\n"object",}', "--schema: {}, line 2: it is not JSON: "),
        ('{"type": "object", "type": "array"}', "--schema: {}: 'type' is given twice"),
        ('["a", "b"]', '--schema: {} must be a JSON Schema, an object such as {{"type": "object", '),
        ('{"type": "objekt"}', "--schema: {} is not a valid JSON Schema, $.type: "),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_it(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        Schema.of(str(file), "--schema")
    assert str(caught.value).startswith(message.format(file))


@pytest.mark.parametrize(
    ("properties", "late"),
    [
        ({"label": {}, "reason": {}}, ("label", "reason")),
        ({"reason": {}, "label": {}}, None),
        ({"id": {}, "finalAnswer": {}, "chain_of_thought": {}, "evidence": {}}, ("finalAnswer", "chain_of_thought")),
        ({"spam": {"type": "boolean"}, "explanation": {}}, ("spam", "explanation")),
        ({"kind": {"$ref": "#/$defs/Kind"}, "why": {}}, ("kind", "why")),
        ({"情感": {}, "理由": {}}, ("情感", "理由")),
        ({"reason": {}, "label": {}, "evidence": {}}, None),
        ({"name": {}, "reason": {}}, None),
        ({"label": {}}, None),
    ],
)
def test_a_reason_that_comes_after_its_label_is_late(properties: dict[str, Any], late: tuple[str, str] | None) -> None:
    schema = Schema.of({"properties": properties, "$defs": {"Kind": {"enum": ["a"]}}}, "--schema")
    assert schema.late_reasons() == late


OBJECT = {"type": "object", "additionalProperties": False}


@pytest.mark.parametrize(
    ("document", "form"),
    [
        (
            {
                "properties": {"a": {"type": "string", "minLength": 1, "default": "x"}, "b": {"const": 1}},
                "required": ["b"],
            },
            {
                **OBJECT,
                "properties": {"a": {"type": ["string", "null"]}, "b": {"enum": [1], "type": "integer"}},
                "required": ["a", "b"],
            },
        ),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "$ref": "#/definitions/A",
                "definitions": {"A": {"type": "object", "properties": {"next": {"$ref": "#/definitions/A"}}}},
            },
            {
                **OBJECT,
                "properties": {"next": {"anyOf": [{"$ref": "#/definitions/A"}, {"type": "null"}]}},
                "required": ["next"],
                "definitions": {
                    "A": {
                        **OBJECT,
                        "properties": {"next": {"anyOf": [{"$ref": "#/definitions/A"}, {"type": "null"}]}},
                        "required": ["next"],
                    }
                },
            },
        ),
        (
            {
                "type": "object",
                "properties": {
                    "a": {
                        "allOf": [{"type": "object", "properties": {"x": {"enum": ["u", "v"]}}}, {"required": ["x"]}]
                    },
                    "b": {"oneOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]},
                    "$ref": {"type": "string", "format": "uri"},
                },
                "required": ["a", "b", "$ref"],
            },
            {
                **OBJECT,
                "properties": {
                    "a": {**OBJECT, "properties": {"x": {"enum": ["u", "v"], "type": "string"}}, "required": ["x"]},
                    "b": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]},
                    "$ref": {"type": "string"},
                },
                "required": ["a", "b", "$ref"],
            },
        ),
        ({"type": "object", "additionalProperties": {"type": "string"}}, None),
        ({"type": "array", "items": {"type": "string"}}, None),
        (
            {"properties": {"a": {"type": ["number", "null"]}}},
            {
                "type": "object",
                "properties": {"a": {"type": ["number", "null"]}},
                "required": ["a"],
                "additionalProperties": False,
            },
        ),
        ({"properties": {"a": {}}}, None),
        ({"properties": {"a": {"type": "array", "prefixItems": [{"type": "string"}]}}}, None),
        ({"anyOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"b": {"type": "string"}}}]}, None),
    ],
)
def test_the_strict_form_closes_objects_and_requires_every_field_or_there_is_none(
    document: dict[str, Any], form: dict[str, Any] | None
) -> None:
    before = copy.deepcopy(document)
    schema = Schema.of(document, "--schema")
    assert schema.strict_schema() == form
    assert schema.json_schema() == document == before


@pytest.mark.parametrize(
    ("value", "answer", "full"),
    [
        (
            Outer,
            {"inner": {"reason": "r", "label": "a", "share": None}, "explanation": "e"},
            {
                "verdict": None,
                "inner": {"reason": "r", "label": "a", "number": None, "share": None},
                "inners": None,
                "explanation": "e",
            },
        ),
        (Plain, {"reason": "r", "number": 1}, {"reason": "r", "number": 1, "tags": None}),
    ],
)
def test_what_fits_the_strict_form_of_a_model_is_read_as_what_fits_the_model(
    value: object, answer: dict[str, Any], full: dict[str, Any]
) -> None:
    schema = Schema.of(value, "schema")
    strict = schema.strict_schema()
    assert strict
    assert '"default"' not in json.dumps(strict)
    assert jsonschema_rs.is_valid(strict, full)
    assert not jsonschema_rs.is_valid(strict, answer)
    assert schema.read(json.dumps(full)).status is schema.read(json.dumps(answer)).status is Status.OK
    assert schema.values(json.dumps(full)) == schema.values(json.dumps(answer))


def test_the_cells_of_an_answer_that_was_just_read_are_those_of_its_text_after_any_number_of_others() -> None:
    one = Schema.of({"type": "object", "properties": {"n": {"type": "integer"}, "t": {}}, "required": ["n"]}, "schema")
    texts = [json.dumps({"n": str(number), "t": [number]}) for number in range(2500)]
    assert {one.read(text).status for text in texts} == {Status.OK}
    assert [one.cells(text) for text in texts] == [(str(number), f"[{number}]") for number in range(2500)]
    assert one.values(texts[-1]) == (2499, [2499])

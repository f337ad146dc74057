"""The document of a JSON Schema as a user gives it, and what stands where in it.

Invariant: a document is valid JSON Schema, refers to nothing outside of itself, and says something of an answer; an
error names the option and the place.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from batcher.answer.given_file import json_of, text_of
from batcher.answer.mending import place
from batcher.errors import SettingsError, in_words
from batcher.nesting import TOO_DEEP, is_too_deep

_SAYING = {
    "type",
    "properties",
    "required",
    "enum",
    "const",
    "items",
    "prefixItems",
    "$ref",
    "$dynamicRef",
    "not",
    "if",
}
_SAYING |= {"anyOf", "oneOf", "allOf", "additionalProperties", "patternProperties", "minimum", "maximum", "pattern"}
_IS_OUTSIDE = "is outside of the schema: copy it into its '$defs'"
_OUTSIDE = re.compile(rf"(\S+) {re.escape(_IS_OUTSIDE)}")
_UNITED = ("allOf", "anyOf", "oneOf")
_EXAMPLE = '{"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}'
_TYPES = "string, number, integer, boolean, object, array or null"


def document_of(value: object, where: str) -> dict[str, Any]:
    """Return the document that a user gave. See `Schema.of`.

    Raises:
        SettingsError: it cannot be used.
    """
    if isinstance(value, (str, os.PathLike)):
        document, where = _of_text(os.fspath(value), where)
    else:
        document = _of_value(value, where)
    if not isinstance(document, dict):
        raise SettingsError(f"{where} must be a JSON Schema, an object such as {_EXAMPLE}")
    _check(document, where)
    return document


def _of_text(text: str, where: str) -> tuple[Any, str]:
    if text.lstrip().startswith("{"):
        return json_of(text, "the text", where), where
    path = text.strip().removeprefix("@")
    return json_of(text_of(path, where), path, where), f"{where}: {path}"


def _of_value(value: Any, where: str) -> Any:
    try:
        if isinstance(value, Mapping):
            text = json.dumps(value, allow_nan=False, default=_plain)
            return copy.deepcopy(json.loads(text))
        if isinstance(value, type) and hasattr(value, "model_json_schema"):
            return value.model_json_schema()
        if isinstance(value, type) and dataclasses.is_dataclass(value):
            from pydantic import TypeAdapter  # noqa: PLC0415 - only for dataclasses

            return TypeAdapter(value).json_schema()
    except TypeError as error:
        if isinstance(value, Mapping):
            raise SettingsError(f"{where} is not JSON: {error}") from error
        raise SettingsError(f"{where} cannot be made a JSON Schema: {in_words(error)}") from error
    except Exception as error:
        raise SettingsError(f"{where} cannot be made a JSON Schema: {in_words(error)}") from error
    kind = type(value)
    is_object = not isinstance(value, type) and (dataclasses.is_dataclass(kind) or hasattr(kind, "model_json_schema"))
    what = f"an object of {kind.__name__}: give the class itself" if is_object else f"of type {kind.__name__}"
    what = f"the class {value.__name__}" if isinstance(value, type) else what
    raise SettingsError(f"{where} must be a file, a dictionary, a pydantic model or a dataclass; it is {what}")


def _plain(value: Any) -> Any:
    """Return a value that JSON does not know as one that it does.

    Raises:
        TypeError: it has no form in JSON.
    """
    if isinstance(value, Mapping):
        return dict(value)
    what = f"the class {value.__name__}" if isinstance(value, type) else f"a value of type {type(value).__name__}"
    raise TypeError(f"it holds {what}, which JSON cannot; a type is written as a text: {_TYPES}")


def _check(document: dict[str, Any], where: str) -> None:
    if is_too_deep(json.dumps(document)):
        raise SettingsError(f"{where}: {TOO_DEEP}")
    for wrapper in ("json_schema", "schema"):
        if isinstance(document.get(wrapper), dict) and not _SAYING & {*document} - {"type"}:
            raise SettingsError(f"{where} is a request's response format: give the object in its {wrapper!r} alone")
    if not _SAYING & {*document}:
        raise SettingsError(f"{where} says nothing of what an answer must be; a JSON Schema is for example {_EXAMPLE}")
    validator(document, where)
    for name in top_level(document):
        if not name.strip() or name != " ".join(name.splitlines()):
            raise SettingsError(f"{where}: the field {name!r} cannot name a column: it is empty or holds a line break")


def validator(document: dict[str, Any], where: str = "the schema") -> Any:
    """Return what checks values against a document; formats such as `date` are checked, too.

    Raises:
        SettingsError: the document is not valid.
    """
    import jsonschema_rs  # noqa: PLC0415 - only runs with a schema need it

    try:
        return jsonschema_rs.validator_for(document, validate_formats=True, retriever=_outside)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        said = getattr(error, "message", None) or str(error)
        said = f"{outside[1]} {_IS_OUTSIDE}" if (outside := _OUTSIDE.search(said)) else said
        path = [*getattr(error, "instance_path", ())]
        if (path and path[-1] == "type") or path[-2:-1] == ["type"]:
            said = f"the type must be {_TYPES}"
        raise SettingsError(f"{where} is not a valid JSON Schema, {place(path)}: {said:.300}") from None


def _outside(uri: str) -> Any:
    raise ValueError(f"{uri} {_IS_OUTSIDE}")


def pointed(document: dict[str, Any], schema: Any) -> Any:
    """Return what a schema's `$ref` within a document points to, or the schema itself if it has none."""
    for _ in range(len(document) + 10):
        if not (isinstance(schema, dict) and isinstance(schema.get("$ref"), str)):
            return schema
        target: Any = document
        for part in unquote(schema["$ref"].removeprefix("#")).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and name.isdecimal() and int(name) < len(target):
                target = target[int(name)]
            else:
                target = target.get(name) if isinstance(target, dict) else None
        schema = target
    return None  # it goes round in a circle


def top_level(document: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that an answer may have at its top level, in order, each with its schema."""
    fields: dict[str, Any] = {}
    left: list[Any] = [document]
    seen: list[int] = []
    while left:
        schema = left.pop(0)
        if not isinstance(schema, dict) or id(schema) in seen:
            continue
        seen.append(id(schema))
        properties = schema.get("properties")
        for name, field in properties.items() if isinstance(properties, dict) else ():
            fields.setdefault(name, field)
        united = [each for word in _UNITED for each in schema.get(word) or ()]
        left[:0] = [pointed(document, schema), *united]
    return fields

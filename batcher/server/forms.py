"""The form in which a chat request asks for its answer: a list of choices, a JSON Schema, JSON mode, the prompt alone.

Invariant: every request has one form; a request whose fields for it are malformed is refused before it is answered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

FIELDS = ("structured_outputs", "guided_choice", "response_format")
"""The fields of a request that ask for a form."""

_TYPES = ("json_object", "json_schema", "text")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class Form(StrEnum):
    """How a request asks for its answer; the first that a request has, in this order."""

    CHOICE = "choice"  # structured_outputs: {"choice": [...]}, of vLLM
    GUIDED = "guided"  # guided_choice: [...], of vLLM before 0.12
    STRICT = "strict"  # response_format of type json_schema, with strict: true
    SCHEMA = "schema"  # the same without it
    JSON = "json"  # response_format of type json_object
    PROMPT = "prompt"  # no field asks for a form


class Wanted(NamedTuple):
    """What a request asks for.

    Attributes:
        form: the form.
        choices: of which the answer must be one; empty in other forms.
        schema: that the answer must fit; empty in other forms.
        name: of the schema.
    """

    form: Form
    choices: tuple[str, ...] = ()
    schema: Mapping[str, Any] = {}
    name: str = ""


def wanted_of(body: Mapping[str, Any]) -> Wanted:
    """Return what a request asks for."""
    structured = body.get("structured_outputs")
    choices = _texts(structured.get("choice")) if isinstance(structured, dict) else ()
    if choices:
        return Wanted(Form.CHOICE, choices)
    if choices := _texts(body.get("guided_choice")):
        return Wanted(Form.GUIDED, choices)
    wanted = body.get("response_format")
    wanted = wanted if isinstance(wanted, dict) else {}
    kind = wanted.get("type")
    if kind == "json_schema":
        given = wanted.get("json_schema")
        given = given if isinstance(given, dict) else {}
        schema = given.get("schema")
        form = Form.STRICT if given.get("strict") is True else Form.SCHEMA
        return Wanted(form, (), schema if isinstance(schema, dict) else {}, str(given.get("name", "")))
    return Wanted(Form.JSON if kind == "json_object" else Form.PROMPT)


def without_form(body: Mapping[str, Any], response_format: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a request without the fields for a form, or with another `response_format`."""
    kept = {name: value for name, value in body.items() if name not in FIELDS}
    return kept if response_format is None else kept | {"response_format": response_format}


def malformed(body: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what is wrong with the fields for a form, and the field; None if nothing is."""
    structured, choices, wanted = (body.get(name) for name in FIELDS)
    if structured is not None and not isinstance(structured, dict):
        return "'structured_outputs' must be an object.", "structured_outputs"
    for field, value in (("structured_outputs", (structured or {}).get("choice")), ("guided_choice", choices)):
        if value is not None and not _texts(value):
            return "A list of choices must hold texts, and at least one.", field
    if wanted is None:
        return None
    if not isinstance(wanted, dict) or wanted.get("type") not in _TYPES:
        known = ", ".join(map(repr, _TYPES))
        return f"Invalid value for 'response_format.type'. Supported values are: {known}.", "response_format.type"
    return _wrong_schema(wanted.get("json_schema")) if wanted["type"] == "json_schema" else None


def _wrong_schema(given: object) -> tuple[str, str] | None:
    field = "response_format.json_schema"
    if not isinstance(given, dict):
        return f"Missing required parameter: '{field}'.", field
    name, schema, strict = given.get("name"), given.get("schema"), given.get("strict")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"Invalid '{field}.name': it must match '^{_NAME.pattern}$'.", f"{field}.name"
    if not isinstance(schema, dict):
        return f"Invalid '{field}.schema': it must be an object.", f"{field}.schema"
    if strict is not None and not isinstance(strict, bool):
        return f"Invalid '{field}.strict': it must be true or false.", f"{field}.strict"
    return None


def _texts(value: object) -> tuple[str, ...]:
    """Return a list of texts; nothing if it is not one."""
    return tuple(value) if isinstance(value, list) and all(isinstance(each, str) for each in value) else ()

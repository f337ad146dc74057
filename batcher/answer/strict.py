"""The form of a schema that services demand for `strict`: every object closed, every field required.

Invariant: the user's document is never changed. What a service refuses is left out if the form then only admits more,
or fewer answers that fit all the same; if it would say something else, there is no form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batcher.answer.document import pointed

# What OpenAI's strict mode takes; all other words only narrow a schema, or are notes.
_TAKEN = {"title", "description", "type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_TAKEN |= {"multipleOf", "pattern", "minItems", "maxItems"}
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
_DEFINITIONS = ("$defs", "definitions")
_DYNAMIC = ("$dynamicRef", "$recursiveRef", "prefixItems")
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


class _NoFormError(Exception):
    """The schema says what the strict form cannot say."""


def strict(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the strict form of a document, or None if it has none."""
    try:
        return _Maker(dict(document)).made()
    except _NoFormError:
        return None


class _Maker:
    """Makes the strict form of one document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._within: list[str] = []  # references that are being written out, so that none is within itself

    def made(self) -> dict[str, Any]:
        """Return the form.

        Raises:
            _NoFormError: there is none.
        """
        top = self._document
        if "$ref" in top:
            top = {**self._target(top["$ref"]), **{word: top[word] for word in _DEFINITIONS if word in top}}
        form = self._form(top)
        if form.get("type") != "object":  # not in services' strict mode: choices between objects, lists, texts
            raise _NoFormError
        for word in _DEFINITIONS:
            if word in self._document:
                form[word] = {name: self._form(each) for name, each in self._document[word].items()}
        return form

    def _target(self, reference: str) -> dict[str, Any]:
        target = pointed(self._document, {"$ref": reference}) if reference.startswith("#") else None
        if not isinstance(target, dict) or not (reference == "#" or reference.startswith("#/")):
            raise _NoFormError
        return target

    def _form(self, schema: Any) -> dict[str, Any]:
        if not isinstance(schema, dict) or any(word in schema for word in _DYNAMIC):
            raise _NoFormError
        if "$ref" in schema:
            return self._of_reference(schema)
        if "allOf" in schema:
            return self._form(
                _merged([{**schema, "allOf": None}, *(self._written_out(each) for each in schema["allOf"])])
            )
        form = {word: value for word, value in schema.items() if word in _TAKEN}
        if schema.get("format") in _FORMATS:
            form["format"] = schema["format"]
        if "const" in schema:
            form["enum"] = [schema["const"]]
        if choices := schema.get("anyOf") or schema.get("oneOf"):
            if "properties" in schema:
                raise _NoFormError
            form = {word: form[word] for word in ("title", "description") if word in form}
            return form | {"anyOf": [self._form(each) for each in choices]}
        return self._of_type(schema, form)

    def _of_type(self, schema: dict[str, Any], form: dict[str, Any]) -> dict[str, Any]:
        if "type" not in form:
            form["type"] = _guessed(schema, form)
        types = form["type"] if isinstance(form["type"], list) else [form["type"]]
        if "object" in types:
            form.update(self._closed(schema))
        if "array" in types:
            form["items"] = self._form(schema.get("items"))
        return form

    def _of_reference(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return a reference, which may have no words beside it: what it points to is written out, with these."""
        reference = schema["$ref"]
        target = self._target(reference)
        beside = {word: value for word, value in schema.items() if word in _TAKEN and word != "title"}
        if not beside or reference in self._within:
            return {"$ref": reference}
        self._within.append(reference)
        form = self._form({**target, **beside})
        self._within.pop()
        return form

    def _written_out(self, schema: Any) -> dict[str, Any]:
        if not isinstance(schema, dict):
            raise _NoFormError
        return (
            {**self._target(schema["$ref"]), **{k: v for k, v in schema.items() if k != "$ref"}}
            if "$ref" in schema
            else schema
        )

    def _closed(self, schema: dict[str, Any]) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = schema.get("required") or []
        is_open = bool(schema.get("additionalProperties", True)) or "patternProperties" in schema
        if (is_open and not properties) or not {*required} <= {*properties}:
            raise _NoFormError  # an object with any keys
        forms = {name: self._form(each) for name, each in properties.items()}
        forms = {name: form if name in required else _or_null(form) for name, form in forms.items()}
        return {"properties": forms, "required": [*forms], "additionalProperties": False}


def _or_null(form: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" in form:
        has_null = any(each.get("type") == "null" for each in form["anyOf"])
        return form if has_null else {**form, "anyOf": [*form["anyOf"], {"type": "null"}]}
    if "$ref" in form or form.get("type") in ("object", "array"):  # it may be a list
        return {"anyOf": [form, {"type": "null"}]}
    types = form["type"] if isinstance(form["type"], list) else [form["type"]]
    nullable = {**form, "type": [*dict.fromkeys([*types, "null"])]}
    if "enum" in form and None not in form["enum"]:
        nullable["enum"] = [*form["enum"], None]
    return nullable


def _guessed(schema: dict[str, Any], form: dict[str, Any]) -> str | list[str]:
    """Return the type that a schema means but does not say; services demand one."""
    if "enum" in form:
        types = [*dict.fromkeys(_TYPES.get(type(option), "") for option in form["enum"])]
        if "" in types or not types:
            raise _NoFormError
        return types if len(types) > 1 else types[0]
    if "properties" in schema:
        return "object"
    if "items" in schema:
        return "array"
    if "pattern" in schema or "format" in schema or "minLength" in schema or "maxLength" in schema:
        return "string"
    if "minimum" in schema or "maximum" in schema:
        return "number"
    raise _NoFormError


def _merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the schema that says what all parts say.

    Raises:
        _NoFormError: they say different things of the same.
    """
    merged: dict[str, Any] = {}
    for part in parts:
        for word, value in part.items():
            if word == "allOf":
                if value is not None:
                    raise _NoFormError
            elif word == "properties":
                known = merged.setdefault(word, {})
                if any(name in known and known[name] != each for name, each in value.items()):
                    raise _NoFormError
                known.update(value)
            elif word == "required":
                merged[word] = [*dict.fromkeys([*merged.get(word, []), *value])]
            elif word in merged and merged[word] != value and word not in {"title", "description"}:
                raise _NoFormError
            else:
                merged.setdefault(word, value)
    return merged

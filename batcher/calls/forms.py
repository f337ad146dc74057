"""The forms in which an endpoint is asked for a label or for fields, from the strictest to plain words.

Invariant: a form changes what goes over the wire, never the row's question; the user's own schema stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from batcher.answer.shape import Shape
from batcher.calls.fate import Fate, meaning_of
from batcher.records import Failure, Message

STRUCTURED = ("auto", "choice", "schema", "json", "prompt")
"""The values of the option `structured`."""

PARAMS = ("response_format", "structured_outputs", "guided_choice", "guided_json", "guided_regex", "guided_grammar")
"""The request parameters that a form sets."""

_NAME = "answer"  # of the schema, which services demand
# A refusal with one of these words is about the form, not about the row.
_WORDS = (
    *("response_format", "response format", "json_schema", "json schema", "json_object", "json mode", "jsonschema"),
    *("structured", "guided", "schema", "grammar", "additionalproperties", "'json'", '"json"', "word json"),
)
_SUSPICIOUS = {400, 404, 405, 406, 412, 415, 422, 500, 501}


class Form(StrEnum):
    """How an endpoint is asked, the strictest first."""

    CHOICE = "choice"
    """A list of choices (vLLM's `structured_outputs`)."""

    STRICT = "strict"
    """A JSON Schema that the service enforces."""

    SCHEMA = "schema"
    """A JSON Schema."""

    JSON = "json"
    """JSON mode, with the schema in the prompt."""

    PROMPT = "prompt"
    """Words in the prompt alone."""

    @property
    def in_words(self) -> str:
        return _IN_WORDS[self]


_IN_WORDS = {
    Form.CHOICE: "a list of choices",
    Form.STRICT: "a strict JSON Schema",
    Form.SCHEMA: "a JSON Schema",
    Form.JSON: "JSON mode",
    Form.PROMPT: "words in the prompt alone",
}
_MEANT = {
    "choice": (Form.CHOICE,),
    "schema": (Form.STRICT, Form.SCHEMA),
    "json": (Form.JSON,),
    "prompt": (Form.PROMPT,),
}


class Wire(NamedTuple):
    """What a form adds to a request.

    Attributes:
        form: which it is.
        params: further request parameters.
        line: is added to the prompt; empty if the prompt says enough.
    """

    form: Form
    params: Mapping[str, Any]
    line: str = ""

    def messages(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return a row's messages as they go out."""
        return with_line(messages, self.line) if self.line else messages


def wire_of(shape: Shape, form: Form) -> Wire | None:
    """Return what a form adds to a request; None if it cannot ask for this."""
    if form is Form.CHOICE:
        return Wire(form, {"structured_outputs": {"choice": list(shape.choices)}}) if shape.choices else None
    if form is Form.STRICT:
        strict = shape.strict_schema()
        return Wire(form, _as_format(strict, strict=True)) if strict is not None else None
    if form is Form.SCHEMA:
        return Wire(form, _as_format(shape.json_schema()))
    if form is Form.JSON:
        return Wire(form, {"response_format": {"type": "json_object"}}, shape.json_line)
    return Wire(form, {}, shape.prompt_line)


def _as_format(schema: Mapping[str, Any], **more: bool) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": _NAME, **more, "schema": schema}}}


def ladder_of(shape: Shape, structured: str = "auto", first: Form = Form.CHOICE) -> tuple[Wire, ...]:
    """Return the forms to try at an endpoint, the strictest first.

    Args:
        shape: what answers must be.
        structured: the option: `auto` tries all from the first on, another value those that it names.
        first: the strictest form that the service is said to support.
    """
    forms = [*Form][[*Form].index(first) :] if structured == "auto" else _MEANT[structured]
    return tuple(wire for form in forms if (wire := wire_of(shape, form)))


def with_line(messages: Sequence[Message], line: str) -> list[Message]:
    """Add a line to the last message of the user, or to the last message if none is the user's."""
    at = max((number for number, each in enumerate(messages) if each["role"] == "user"), default=len(messages) - 1)
    content = messages[at].get("content")
    longer: Any = [*content, {"type": "text", "text": line}] if isinstance(content, list) else f"{content or ''}\n\n{line}"
    return [*messages[:at], {**messages[at], "content": longer}, *messages[at + 1 :]]


def says_form(failure: Failure) -> bool:
    """Return whether a refusal speaks of the form."""
    is_refusal = failure.status in _SUSPICIOUS or failure.status in {403, 424}
    return is_refusal and not failure.is_page and any(word in failure.said for word in _WORDS)


def may_be_of_form(failure: Failure) -> bool:
    """Return whether the form may be the reason of a refusal."""
    if failure.status not in _SUSPICIOUS:
        return False
    return says_form(failure) or meaning_of(failure).fate is Fate.ROW_REFUSED or failure.status in {404, 405, 501}

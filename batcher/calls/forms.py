"""The forms in which an endpoint is asked for a label or for fields, from the strictest to plain words.

Invariant: a form changes what goes over the wire, never the row's question; the user's own schema stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from batcher.answer.labels import Labels
from batcher.answer.schema import Schema
from batcher.answer.shape import Shape
from batcher.calls.fate import Fate, meaning_of
from batcher.calls.services import KEY, MODEL, says, service_at
from batcher.endpoint import Endpoint
from batcher.input.messages import with_line
from batcher.records import NO_PARAMS, Failure, Message

PARAMS = ("response_format", "structured_outputs", "guided_choice", "guided_json", "guided_regex", "guided_grammar")
"""The request parameters that forms, or users instead of them, set."""

_AS_OBJECT = "Answer with JSON and nothing else."
_LABEL_AS_OBJECT = 'Write the label as a JSON object: {"label": "..."}'
_NAME = "answer"  # of the schema, which services demand
# A refusal with one of these words is about the form, not about the row.
_WORDS = (
    *("response_format", "response format", "json_schema", "json schema", "json_object", "json mode", "jsonschema"),
    *("structured", "guided", "schema", "grammar", "additionalproperties", "'json'", '"json"', "word json"),
)
# Validators name the field in quotes, which are no part of the words: llama-cpp-python's server does under a 500.
_FIELD = re.compile(r"""(['"`])(?:response_format|json_schema|json_object|structured_outputs|guided_\w+)\1""")
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
        form: which it is; None: any text will do.
        params: further request parameters.
        line: is added to the prompt; empty if the prompt says enough.
    """

    form: Form | None
    params: Mapping[str, Any] = NO_PARAMS
    line: str = ""

    def messages(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return a row's messages as they go out."""
        return with_line(messages, self.line) if self.line else messages


AS_IT_COMES = Wire(None)
"""What a request adds if any text will do: nothing."""


def wire_of(shape: Shape, form: Form, *, is_stated: bool) -> Wire | None:
    """Return what a form adds to a request; None if it cannot ask for this.

    Args:
        shape: what answers must be.
        form: the form.
        is_stated: the prompt holds the schema already.
    """
    if form is Form.CHOICE:
        if not isinstance(shape, Labels):
            return None
        return Wire(form, {"structured_outputs": {"choice": [*shape.names]}})
    if form is Form.STRICT:
        strict = shape.strict_schema()
        return Wire(form, _as_format(strict, strict=True)) if strict is not None else None
    if form is Form.SCHEMA:
        return Wire(form, _as_format(shape.json_schema()))
    if form is Form.JSON:
        return Wire(form, {"response_format": {"type": "json_object"}}, _line(shape, is_stated=is_stated))
    return Wire(form, {}, "" if isinstance(shape, Labels) else _line(shape, is_stated=is_stated))


def _line(shape: Shape, *, is_stated: bool) -> str:
    """Return what the prompt must say if JSON is asked for; services demand the word itself."""
    if isinstance(shape, Schema) and not is_stated:
        return shape.line
    return _AS_OBJECT if isinstance(shape, Schema) else _LABEL_AS_OBJECT


def _as_format(schema: Mapping[str, Any], **more: bool) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": _NAME, **more, "schema": schema}}}


def ladder_of(
    shape: Shape, structured: str = "auto", first: Form = Form.CHOICE, *, is_stated: bool = False
) -> tuple[Wire, ...]:
    """Return the forms to try at an endpoint, the strictest first.

    Args:
        shape: what answers must be.
        structured: the option: `auto` tries all from the first on, another value those that it names.
        first: the strictest form that the service is said to support.
        is_stated: the prompt holds the schema already.
    """
    forms = [*Form][[*Form].index(first) :] if structured == "auto" else _MEANT[structured]
    return tuple(wire for form in forms if (wire := wire_of(shape, form, is_stated=is_stated)))


def ladder_for(
    endpoint: Endpoint, shape: Shape, structured: str = "auto", *, is_stated: bool = False
) -> tuple[Wire, ...]:
    """Return the forms to try at an endpoint, the strictest first.

    A server of the user's own may be a vLLM; another unknown one is asked by a schema first.
    """
    first = Form.STRICT
    if endpoint.llm is not None:
        kinds = {each.__name__ for each in type(endpoint.llm).__mro__}
        first = Form.STRICT if "BaseChatOpenAI" in kinds else Form.PROMPT
    elif service := service_at(endpoint.base_url):
        first = Form(service.structured)
    elif endpoint.base_url.startswith("http:"):
        first = Form.CHOICE
    return ladder_of(shape, structured, first, is_stated=is_stated)


def _says_form(failure: Failure) -> bool:
    return any(word in failure.said for word in _WORDS) or _FIELD.search(failure.message) is not None


def may_be_of_form(failure: Failure) -> bool:
    """Return whether the form may be the reason of a refusal."""
    if says(failure, MODEL) or says(failure, KEY):
        return False
    if failure.is_page or failure.status not in _SUSPICIOUS:
        return False
    return _says_form(failure) or meaning_of(failure).fate is Fate.ROW_REFUSED or failure.status in {404, 405, 501}

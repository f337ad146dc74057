"""How services treat the forms of structured output: one table by name.

Invariant: a refusal has the status, the codes and the wording of the service that it is named after, as far as they are
known; a way decides by the request alone.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from batcher.errors import SettingsError
from batcher.server.answers import text_of
from batcher.server.error_shapes import coded_error, openai_error
from batcher.server.faults import Reply
from batcher.server.forms import Form, Wanted
from batcher.words import by_reader, option

_JSON_FORMS = (Form.STRICT, Form.SCHEMA, Form.JSON)
_INVALID = "invalid_request_error"


class Treatment(StrEnum):
    """What becomes of a form that is not refused."""

    ANSWER = "answer"  # the answer fits what was asked for
    UNSEEN = "unseen"  # answered as if the field were not there
    PROSE = "prose"  # answered with a sentence
    BLANK = "blank"  # answered with white space, or nothing
    LOOSE = "loose"  # a schema, taken as JSON mode
    ONE_IN_TEN = "one in ten"  # refused, for one prompt in ten


Demand = Callable[[Wanted, Mapping[str, Any]], Reply | None]
"""Returns the refusal of a request that lacks what the service demands of it."""


class Way(NamedTuple):
    """How a service treats the forms.

    Attributes:
        what: it is like, for people.
        forms: what becomes of each form; one that is not named here is answered.
        demands: on requests that are not refused for their form.
    """

    what: str
    forms: Mapping[Form, Treatment | Reply] = {}
    demands: tuple[Demand, ...] = ()

    def refusal(self, wanted: Wanted, body: Mapping[str, Any]) -> Reply | None:
        """Return the refusal of a request before it is answered, if it is refused."""
        met = self.forms.get(wanted.form)
        if isinstance(met, Reply):
            return met
        return (
            None if met is Treatment.UNSEEN else next(filter(None, (ask(wanted, body) for ask in self.demands)), None)
        )

    def treatment(self, form: Form) -> Treatment:
        """Return what becomes of a form that is not refused."""
        met = self.forms.get(form, Treatment.ANSWER)
        return Treatment.ANSWER if isinstance(met, Reply) else met


# --- what services demand ---


def _says_json(refusal: Reply, *forms: Form) -> Demand:
    """Demand the word JSON in a message, in any case."""

    def ask(wanted: Wanted, body: Mapping[str, Any]) -> Reply | None:
        texts = (text_of(message) for message in body["messages"] if isinstance(message, dict))
        return refusal if wanted.form in forms and not any("json" in text.lower() for text in texts) else None

    return ask


def _strict(wanted: Wanted, _: Mapping[str, Any]) -> Reply | None:
    """Demand of a strict schema what OpenAI does."""
    wrong = _lack(wanted.schema, (), is_root=True) if wanted.form is Form.STRICT else None
    if wrong is None:
        return None
    said = f"Invalid schema for response_format '{wanted.name}': {wrong}"
    return Reply(400, openai_error(said, _INVALID, None, "response_format"))


def _lack(schema: Mapping[str, Any], at: tuple[str, ...], *, is_root: bool = False) -> str | None:
    """Return the first thing that a strict schema must not be, or lacks; None if all is well."""
    context = f"In context={at},"
    if is_root and schema.get("type") != "object":
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{schema.get('type')}\"'."
    for word in ("default", "allOf", "oneOf"):
        if word in schema:
            return f"{context} '{word}' is not permitted."
    if schema.get("type") == "object" or "properties" in schema:
        if schema.get("additionalProperties") is not False:
            return f"{context} 'additionalProperties' is required to be supplied and to be false."
        required = schema.get("required")
        missing = [
            name for name in schema.get("properties", {}) if not isinstance(required, list) or name not in required
        ]
        if missing:
            return (
                f"{context} 'required' is required to be supplied and to be an array including every key in properties."
                f" Missing '{missing[0]}'."
            )
    return next(filter(None, (_lack(part, (*at, *place)) for place, part in _parts(schema))), None)


def _parts(schema: Mapping[str, Any]) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Return the schemas inside one, each with its place."""
    found: list[tuple[tuple[str, ...], object]] = [(("items",), schema.get("items"))]
    for word in ("properties", "$defs", "definitions"):
        inner = schema.get(word)
        found += [((word, name), part) for name, part in inner.items()] if isinstance(inner, dict) else []
    branches = schema.get("anyOf")
    found += [(("anyOf", str(n)), part) for n, part in enumerate(branches)] if isinstance(branches, list) else []
    return [(place, part) for place, part in found if isinstance(part, dict)]


# --- their refusals ---


def _unknown(refuse: Callable[[str], Reply] | None = None) -> dict[Form, Treatment | Reply]:
    """Return what becomes of the fields of vLLM at a service that does not know them: refused, or not seen."""
    fields = {Form.CHOICE: "structured_outputs", Form.GUIDED: "guided_choice"}
    return {form: Treatment.UNSEEN if refuse is None else refuse(field) for form, field in fields.items()}


def _openai_unknown(field: str) -> Reply:
    return Reply(400, openai_error(f"Unrecognized request argument supplied: {field}", _INVALID))


def _groq_unknown(field: str) -> Reply:
    return Reply(400, {"error": {"message": f"property '{field}' is unsupported", "type": _INVALID}})


def _mistral_unknown(field: str) -> Reply:
    detail = [{"type": "extra_forbidden", "loc": ["body", field], "msg": "Extra inputs are not permitted", "input": {}}]
    return Reply(422, {"object": "error", "message": {"detail": detail}, "type": _INVALID, "param": None, "code": None})


def _gemini_unknown(field: str) -> Reply:
    said = f'Invalid JSON payload received. Unknown name "{field}": Cannot find field.'
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"description": said}]}]
    return Reply(400, [{"error": {"code": 400, "message": said, "status": "INVALID_ARGUMENT", "details": details}}])


def _dashscope(message: str) -> Reply:
    error = openai_error(f"<400> InternalError.Algo.InvalidParameter: {message}", _INVALID, "invalid_parameter_error")
    return Reply(400, error | {"id": "chatcmpl-0", "request_id": "0"})


def _unsupported(kind: str) -> Reply:
    said = f"Invalid parameter: 'response_format' of type '{kind}' is not supported with this model."
    return Reply(400, openai_error(said, _INVALID, None, "response_format"))


def failed(generation: str) -> Reply:
    """Return Groq's refusal of an answer that is not the JSON that it should be; the answer is in it."""
    said = "Failed to generate JSON. Please adjust your prompt. See 'failed_generation' for more details."
    error = {"message": said, "type": _INVALID, "code": "json_validate_failed", "failed_generation": generation}
    return Reply(400, {"error": error})


_WORD = "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
_OPENAI_WORD = Reply(400, openai_error(_WORD, _INVALID, None, "messages"))
_DEEPSEEK_WORD = Reply(
    400,
    openai_error(
        "Prompt must contain the word 'json' in some form to use 'response_format' of type 'json_object'.",
        _INVALID,
        _INVALID,
    ),
)
_DEEPSEEK = Reply(400, openai_error("This response_format type is unavailable now", _INVALID, _INVALID))
_DEEPSEEK_422 = Reply(
    422,
    openai_error(
        "Failed to deserialize the JSON body into the target type: response_format: response_format.type `json_schema`"
        " is unavailable now at line 1 column 1193",
        _INVALID,
        _INVALID,
    ),
)
_AZURE = Reply(
    400,
    coded_error(
        "BadRequest",
        "response_format value as json_schema is enabled only for api versions 2024-08-01-preview and later",
        type=None,
        param=None,
    ),
)
_SILICONFLOW = Reply(400, {"code": 20024, "message": "Json mode is not supported for this model.", "data": None})
_LMSTUDIO = Reply(400, {"error": "'response_format.type' must be 'json_schema' or 'text'"})
_GROQ = Reply(
    400,
    openai_error(
        "This model does not support response format `json_schema`. See the supported models in the documentation.",
        _INVALID,
        None,
        "response_format",
    ),
)
_OPENROUTER = Reply(404, coded_error(404, "No endpoints found that can handle the requested parameters."))
_NOT_STRICT = Reply(400, openai_error("strict mode is not supported by this model", _INVALID, None, "response_format"))


def _schemas(met: Treatment | Reply) -> dict[Form, Treatment | Reply]:
    return {Form.STRICT: met, Form.SCHEMA: met}


WAYS: dict[str, Way] = {
    "full": Way("every form works"),
    "ignore": Way(
        "every form is accepted and ignored: the answer is a sentence",
        {form: Treatment.PROSE for form in Form if form is not Form.PROMPT},
    ),
    "empty": Way(
        "schemas are refused, and JSON mode is answered with nothing but white space, as DeepSeek does now and then",
        {**_unknown(), **_schemas(_DEEPSEEK), Form.JSON: Treatment.BLANK},
        (_says_json(_DEEPSEEK_WORD, Form.JSON),),
    ),
    "one_in_ten": Way(
        "JSON works, but one prompt in ten is refused with the answer in the refusal, as by Groq",
        {**_unknown(_groq_unknown), **dict.fromkeys(_JSON_FORMS, Treatment.ONE_IN_TEN)},
        (_says_json(_OPENAI_WORD, Form.JSON),),
    ),
    "prompt_only": Way(
        "no form works, as with older models of OpenAI",
        {
            **_unknown(_openai_unknown),
            **_schemas(_unsupported("json_schema")),
            Form.JSON: _unsupported("json_object"),
        },
    ),
    "not_strict": Way("a schema works, but not with strict: true", {**_unknown(), Form.STRICT: _NOT_STRICT}),
    "vllm": Way("all but guided_choice, which it does not see any more", {Form.GUIDED: Treatment.UNSEEN}),
    "vllm_old": Way("vLLM before 0.12: it knows guided_choice alone", {Form.CHOICE: Treatment.UNSEEN}),
    "openai": Way(
        "no choices; a strict schema must have additionalProperties: false, all of its fields required, and no default",
        _unknown(_openai_unknown),
        (_strict, _says_json(_OPENAI_WORD, Form.JSON)),
    ),
    "azure_old": Way(
        "an older version of Azure's interface: JSON mode alone",
        {**_unknown(_openai_unknown), **_schemas(_AZURE)},
        (_says_json(_OPENAI_WORD, Form.JSON),),
    ),
    "deepseek": Way(
        "JSON mode alone, if a message says JSON",
        {**_unknown(), **_schemas(_DEEPSEEK)},
        (_says_json(_DEEPSEEK_WORD, Form.JSON),),
    ),
    "deepseek_old": Way(
        "the same in its older words, with 422",
        {**_unknown(), **_schemas(_DEEPSEEK_422)},
        (_says_json(_DEEPSEEK_WORD, Form.JSON),),
    ),
    "dashscope": Way(
        "JSON mode, if a message says JSON; a schema is taken as JSON mode",
        {**_unknown(), **_schemas(Treatment.LOOSE)},
        (_says_json(_dashscope(_WORD), *_JSON_FORMS),),
    ),
    "siliconflow": Way(
        "no JSON, with some of its models",
        {**_unknown(), **dict.fromkeys(_JSON_FORMS, _SILICONFLOW)},
    ),
    "groq": Way(
        "JSON mode alone, with most of its models",
        {**_unknown(_groq_unknown), **_schemas(_GROQ)},
        (_says_json(_OPENAI_WORD, Form.JSON),),
    ),
    "openrouter": Way(
        "JSON mode alone, if no provider behind it takes a schema: refused with 404",
        {**_unknown(), **_schemas(_OPENROUTER)},
    ),
    "mistral": Way("schemas and JSON mode; an unknown field is refused with 422", _unknown(_mistral_unknown)),
    "gemini": Way("schemas and JSON mode; an unknown field is refused", _unknown(_gemini_unknown)),
    "lmstudio": Way("schemas, but no JSON mode", {**_unknown(), Form.JSON: _LMSTUDIO}),
    "ollama": Way("schemas and JSON mode; llama.cpp is the same", _unknown()),
}
"""The ways, by name."""


def schedule_of(text: str) -> tuple[tuple[int, str], ...]:
    """Read which way holds when: `full`, or `full,200:deepseek` for `deepseek` after 200 requests.

    Returns:
        The number of requests before each way, from 0, and its name.

    Raises:
        SettingsError: a name or a number is wrong.
    """
    found: list[tuple[int, str]] = []
    for number, part in enumerate(text.split(",")):
        match = re.fullmatch(r"\s*(?:([0-9]{1,9})\s*:)?\s*([^\s:]+)\s*", part)
        if not match or bool(match[1]) != bool(number):
            raise SettingsError(
                f"{knob('forms')} must be a way, or ways with the requests before them, such as 'full,200:deepseek',"
                f" not {text!r}"
            )
        found.append((int(match[1] or 0), checked(match[2], knob("forms"))))
        if number and found[-1][0] <= found[-2][0]:
            raise SettingsError(f"{knob('forms')}: the numbers of {text!r} must rise")
    return tuple(found)


def knob(name: str) -> str:
    """Return a knob of the simulator for the beginning of a message, as the reader would write it."""
    return by_reader(command_line=option(name), python=f"simulator: {name}")


def way_of(name: str, where: str = "forms") -> Way:
    """Return the way of a name.

    Raises:
        SettingsError: there is no such way.
    """
    return WAYS[checked(name, where)]


def checked(name: str, where: str) -> str:
    """Return the name of a way as the table has it.

    Args:
        name: with underscores or hyphens.
        where: of it, in the message.

    Raises:
        SettingsError: there is no such way.
    """
    known = name.replace("-", "_")
    if known in WAYS:
        return known
    near = difflib.get_close_matches(known, WAYS, 1)
    advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(WAYS)}"
    raise SettingsError(f"{where}: there is no way {name!r}: {advice}")

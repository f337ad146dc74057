"""Request parameters: what may be one, what is an option of the SDK or of LangChain instead, and how one is written.

Invariant: what a check accepts is sent in the body of each request under the name given; what is meant for the client
is never sent, nor is a name that is a slip for a known one.
"""

from __future__ import annotations

import ast
import difflib
import functools
import json
import math
import re
import shlex
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from batcher.errors import SettingsError
from batcher.hiding import holds_key
from batcher.nesting import TOO_DEEP, is_too_deep
from batcher.scalars import is_missing, without_numpy
from batcher.visible import on_one_line
from batcher.words import by_reader, option


class _Type(NamedTuple):
    """What a parameter's value can be; null is always possible.

    Attributes:
        name: in messages.
        holds: returns whether a value is of this type.
    """

    name: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_ANY = _Type("", lambda _: True)
_NUMBER = _Type("a number", _is_number)
_WHOLE = _Type("a whole number", lambda value: _is_number(value) and value == int(value))
_SWITCH = _Type("true or false", lambda value: isinstance(value, bool))
_OBJECT = _Type("an object, with names and values", lambda value: isinstance(value, dict))
_LIST = _Type("a list", lambda value: isinstance(value, list))

PARAMS: dict[str, _Type] = {
    # OpenAI
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "temperature", "top_p"), _NUMBER),
    **dict.fromkeys(("max_completion_tokens", "max_tokens", "n", "seed", "top_logprobs"), _WHOLE),
    **dict.fromkeys(("parallel_tool_calls", "store", "stream"), _SWITCH),
    **dict.fromkeys(("audio", "logit_bias", "response_format", "stream_options"), _OBJECT),
    **dict.fromkeys(("functions", "modalities", "tools"), _LIST),
    **dict.fromkeys(("function_call", "logprobs", "metadata", "moderation", "prediction"), _ANY),
    **dict.fromkeys(("prompt_cache_key", "prompt_cache_retention", "reasoning_effort", "safety_identifier"), _ANY),
    **dict.fromkeys(("service_tier", "stop", "tool_choice", "user", "verbosity", "web_search_options"), _ANY),
    # vLLM and SGLang
    **dict.fromkeys(("length_penalty", "min_p", "repetition_penalty", "typical_p"), _NUMBER),
    **dict.fromkeys(("min_tokens", "top_k"), _WHOLE),
    **dict.fromkeys(("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"), _SWITCH),
    **dict.fromkeys(("chat_template_kwargs", "mm_processor_kwargs", "structured_outputs"), _OBJECT),
    **dict.fromkeys(("allowed_token_ids", "bad_words", "stop_token_ids"), _LIST),
    **dict.fromkeys(("add_generation_prompt", "add_special_tokens", "best_of", "cache_salt", "chat_template"), _ANY),
    **dict.fromkeys(("continue_final_message", "documents", "guided_choice", "guided_decoding_backend"), _ANY),
    **dict.fromkeys(("guided_grammar", "guided_json", "guided_regex", "guided_whitespace_pattern"), _ANY),
    **dict.fromkeys(("include_reasoning", "json_schema", "kv_transfer_params", "logits_processors"), _ANY),
    **dict.fromkeys(("lora_path", "media_io_kwargs", "min_new_tokens", "max_new_tokens", "no_stop_trim"), _ANY),
    **dict.fromkeys(("priority", "prompt_logprobs", "return_token_ids", "return_tokens_as_token_ids"), _ANY),
    **dict.fromkeys(("separate_reasoning", "session_params", "spaces_between_special_tokens", "stop_regex"), _ANY),
    **dict.fromkeys(("stream_reasoning", "structural_tag", "truncate_prompt_tokens", "use_beam_search"), _ANY),
    **dict.fromkeys(("vllm_xargs",), _ANY),
    # DashScope, DeepSeek, Zhipu, Moonshot and others in China
    **dict.fromkeys(("thinking_budget",), _WHOLE),
    **dict.fromkeys(("do_sample", "enable_search", "enable_thinking"), _SWITCH),
    **dict.fromkeys(("search_options", "translation_options"), _OBJECT),
    **dict.fromkeys(("asr_options", "enable_code_interpreter", "enable_citation", "incremental_output"), _ANY),
    **dict.fromkeys(("max_input_tokens", "penalty_score", "preserve_thinking", "reasoning_split", "request_id"), _ANY),
    **dict.fromkeys(("result_format", "thinking", "tool_stream", "user_id", "vl_high_resolution_images"), _ANY),
    # OpenRouter, Groq, Mistral, Together, Fireworks, xAI, Perplexity, llama.cpp
    **dict.fromkeys(("random_seed", "repeat_last_n"), _WHOLE),
    **dict.fromkeys(("repeat_penalty", "top_a"), _NUMBER),
    **dict.fromkeys(("citation_options", "context_length_exceeded_behavior", "max_output_tokens", "mode"), _ANY),
    **dict.fromkeys(("models", "prompt_mode", "prompt_truncate_len", "reasoning", "reasoning_budget"), _ANY),
    **dict.fromkeys(("reasoning_format", "safe_prompt", "search_mode", "search_parameters", "search_settings"), _ANY),
}
"""The parameters of a chat completion that services know. A type is given if no service takes another one."""

REQUEST_PARAMS = frozenset({*PARAMS, "extra_body"})
"""Their names, and the one that holds others."""

RESERVED_PARAMS = {
    "model": ("model",),
    "messages": ("prompt", "messages_column"),
    "api_key": ("api_key_env",),
}
"""Request parameters that batcher sets, and the options that set them."""

_FOLDED = ("extra_body", "model_kwargs")
"""The names under which OpenAI's SDK and LangChain take parameters that they do not know: their content is sent."""

INSTEAD = {
    **dict.fromkeys(("model_name",), ("model",)),
    **dict.fromkeys(("timeout", "request_timeout"), ("timeout",)),
    **dict.fromkeys(("max_retries", "num_retries"), ("max_attempts",)),
    **dict.fromkeys(("extra_headers", "default_headers", "headers"), ("header",)),
    **dict.fromkeys(("base_url", "api_base", "openai_api_base", "azure_endpoint"), ("base_url",)),
    **dict.fromkeys(("openai_api_key",), ("api_key_env",)),
    **dict.fromkeys(("max_concurrency", "max_parallel_requests"), ("max_concurrency",)),
    "rpm": ("rpm",),
    "tpm": ("tpm",),
}
"""Options of the SDK and of LangChain, and ours that do the same."""

_NOT_SENT = {
    **dict.fromkeys(("extra_query", "default_query"), "a request has no query but the ?api-version= of its base URL"),
    **dict.fromkeys(("openai_organization", "organization"), "it is the header OpenAI-Organization"),
    **dict.fromkeys(("streaming",), "the parameter is `stream`"),
    **dict.fromkeys(
        ("http_client", "http_async_client", "http_socket_options"), "batcher has an HTTP client of its own"
    ),
    **dict.fromkeys(("openai_proxy", "proxy", "proxies"), "a proxy is named by HTTPS_PROXY in the environment"),
    **dict.fromkeys(("api_version", "openai_api_version"), "the version is a part of the base URL: ?api-version="),
    **dict.fromkeys(
        ("callbacks", "verbose", "rate_limiter", "stream_usage", "disable_streaming", "use_responses_api"),
        "it is an option of LangChain: give the chat model in batcher.Endpoint(llm=...)",
    ),
}
"""Other options of the SDK and of LangChain, and what to know instead."""

_SHORTEST_SLIP = 3  # letters of a name: shorter ones are like each other by chance
_LONG_NAME = 8  # letters
_LONGEST_SHOWN = 200  # characters of a value in a message


def check_params(params: object, where: str, *, for_llm: bool = False) -> None:
    """Refuse what cannot be request parameters.

    Args:
        params: by name.
        where: their name in messages.
        for_llm: they are the arguments of a chat model's `agenerate`, which has options besides parameters.

    Raises:
        SettingsError: the message names the parameter, and the option that is meant.
    """
    if not isinstance(params, Mapping) or not all(isinstance(name, str) and name for name in params):
        raise SettingsError(f"{where} must hold parameters by name, as in {{'temperature': 0}}")
    given = as_json(params, where)
    flat = given if for_llm else unfolded(given, where)
    for name, options in RESERVED_PARAMS.items():
        if name in flat:
            advice = f"use {' or '.join(map(option, options))}"
            raise SettingsError(f"{where}: {name!r} is not a parameter that can be set here: {advice}")
    try:
        text = json.dumps(flat, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise SettingsError(f"{where}: the parameters cannot be written as JSON: {error}") from error
    if is_too_deep(text):
        raise SettingsError(f"{where}: the parameters cannot be written as JSON: {TOO_DEEP}")
    if not for_llm and not isinstance(params, Unfolded):
        for name, value in given.items():
            _check_is_for_service(name, where)
            _check_is_no_slip(name, where)
            if not (value is None or (known := PARAMS.get(name, _ANY)).holds(value)):
                raise SettingsError(f"{where}: {name} must be {known.name}, not {_in_short(value)}")


def holds_value(name: str, value: object) -> bool:
    """Return whether a parameter can have a value, as far as its name tells."""
    return value is None or PARAMS.get(name, _ANY).holds(value)


def as_json(params: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a copy of the parameters as JSON has them, with Python values for those of NumPy.

    Raises:
        SettingsError: JSON cannot hold a value; the message names the parameter.
    """
    try:
        return {name: _json_value(name, value) for name, value in params.items()}
    except (TypeError, ValueError, RecursionError) as error:
        raise SettingsError(f"{where}: the parameters cannot be written as JSON: {error}") from error


def _json_value(name: str, value: Any) -> Any:
    plain = without_numpy(value)
    if is_missing(plain) or (isinstance(plain, float) and not math.isfinite(plain)):
        raise ValueError(f"{name} is {plain}")
    if isinstance(plain, Mapping):
        return {without_numpy(key): _json_value(f"{name}: {key}", each) for key, each in plain.items()}
    if isinstance(plain, (list, tuple)):
        return [_json_value(f"{name}, item {number}", each) for number, each in enumerate(plain)]
    is_time = plain is not value and not isinstance(value, str) and (plain is None or isinstance(plain, str))
    if is_time or not (plain is None or isinstance(plain, (str, int, float))):
        raise ValueError(f"{name} is of type {type(value).__name__}")
    return plain


def _check_is_for_service(name: str, where: str) -> None:
    """Refuse options of a client; inside `extra_body` any name is a parameter."""
    about = f"{where}: {name!r} is an option of the SDK or of LangChain, and no parameter of a request"
    anyway = f" (to send it all the same: {_inside(name)})"
    if name in INSTEAD:
        raise SettingsError(f"{about}: use {' or '.join(map(option, INSTEAD[name]))}{anyway}")
    if name in _NOT_SENT:
        raise SettingsError(f"{about}: {_NOT_SENT[name]}{anyway}")


def _check_is_no_slip(name: str, where: str) -> None:
    """Refuse what is nearly the name of a known parameter, or no name at all: services ignore what they do not know."""
    anyway = f"If the service really takes it, write {_inside(name)}"
    if holds_key(name):
        raise SettingsError(f"{where}: the name of a parameter looks like an API key, and is not shown")
    if meant := _meant(name):
        raise SettingsError(f"{where}: there is no parameter {name!r}; did you mean {meant!r}? {anyway}")
    if any(char.isspace() or not char.isprintable() for char in name):
        raise SettingsError(
            f"{where}: {name!r} holds a space or a control character, and no parameter has one in its name. {anyway}"
        )


def _inside(name: str) -> str:
    """Return how to send a parameter under a name that is refused."""
    inner = f"{{{json.dumps(name, ensure_ascii=False)}: ...}}"
    return by_reader(
        command_line=f"{option('param')} {shlex.quote(f'extra_body={inner}')}", python=f'"extra_body": {inner}'
    )


def _meant(name: str) -> str:
    """Return the known name that another one is a slip for; empty if there is none.

    A slip is another way to write it (`max-tokens`, `maxTokens`), or one letter wrong, in long names two.
    """
    known = _names()
    if name in known.values():
        return ""
    folded = _folded(name)
    if folded in known:
        return known[folded]
    if len(folded) < _SHORTEST_SLIP:
        return ""
    edits = {each: _edits(folded, each) for each in known if len(each) > _SHORTEST_SLIP}
    nearest = min(edits, key=lambda each: edits[each])
    return known[nearest] if edits[nearest] <= (1 if len(nearest) < _LONG_NAME else 2) else ""


@functools.cache
def _names() -> dict[str, str]:
    """Return the names of parameters and of a client's options, by what is left of them without their writing."""
    return {_folded(name): name for name in (*_FOLDED, *_NOT_SENT, *INSTEAD, *RESERVED_PARAMS, *PARAMS)}


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _edits(one: str, other: str) -> int:
    """Return how many letters have to be changed, added or taken away."""
    steps = difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    return sum(max(to - at, upto - begin) for kind, at, to, begin, upto in steps if kind != "equal")


def _in_short(value: Any) -> str:
    """Return a value for a message; a key that was given in the wrong place is not shown."""
    text = repr(value)
    if holds_key(text):
        return "what looks like an API key, and is not shown"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


class Unfolded(dict[str, Any]):
    """Checked parameters whose names are all meant, those from inside `extra_body` among them."""


def unfolded(params: Mapping[str, Any], where: str = "params") -> Unfolded:
    """Return the parameters with the content of `extra_body` and `model_kwargs` beside the others.

    Raises:
        SettingsError: it holds no parameters, or one that is given twice.
    """
    flat = Unfolded({name: value for name, value in params.items() if name not in _FOLDED})
    for name in _FOLDED:
        if params.get(name) is None:
            continue
        inner = params[name]
        if not isinstance(inner, Mapping) or not all(isinstance(each, str) for each in inner):
            example = option("param", {name: '{"enable_thinking": false}'})
            raise SettingsError(f"{where}: {name} must hold parameters by name, as in {example}")
        for each, value in unfolded(inner, f"{where}: {name}").items():
            if each in flat:
                raise SettingsError(f"{where}: {each!r} is given twice, once in {name}: leave one of them out")
            flat[each] = value
    return flat


# -- How the command line writes them

_WORDS = {
    **dict.fromkeys(("True", "TRUE"), "true"),
    **dict.fromkeys(("False", "FALSE"), "false"),
    **dict.fromkeys(("None", "Null", "NULL", "nil", "undefined"), "null"),
}
_NO_NUMBER = {"nan", "inf", "infinity"}
_LIKE_A_NUMBER = re.compile(
    r"[+-]?(?:(?:\d+(?:[_' ]\d+)*|\d{1,3}(?:,\d{3})+)?(?:[.,]\d*)?|\d{1,3}(?:\.\d{3})+,\d+)(?:[eE][+-]?\d*)?"
    r"|[+-]?0[xXoObB][0-9a-fA-F_]+"
)
_QUOTES = "'\"\u201c\u201d\u2018\u2019`"


def param_of(name: str, text: str, where: str) -> Any:
    """Return the value of a parameter as the command line gives it: JSON, or else a text.

    Args:
        name: of the parameter.
        text: its value.
        where: the option, for messages.

    Raises:
        SettingsError: it looks like JSON or Python, and is no JSON; the message has the place and what to write.
    """
    if is_too_deep(text):
        raise SettingsError(f"{where} {name}: the value cannot be read as JSON: {TOO_DEEP}")
    try:
        return _read(text)
    except (ValueError, RecursionError) as error:
        place = error.colno if isinstance(error, json.JSONDecodeError) and error.lineno == 1 else 0
        if (written := _slip(text)) is None:
            return text
    if holds_key(text):
        raise SettingsError(f"{where} {name}: the value is no JSON, and is not shown: it may hold an API key")
    at = f", character {place}" if place and not written else ""
    unclear = " (its names and texts have double quotes)" if text.lstrip()[:1] in {"{", "["} else ""
    instead = f": write {shlex.quote(f'{name}={written}')}" if written else unclear
    cut = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
    shown, as_text = on_one_line(cut), json.dumps(cut, ensure_ascii=False)
    raise SettingsError(
        f"{where} {name}={shown}{at}: the value is no JSON{instead}, or for the text {shlex.quote(f'{name}={as_text}')}"
    )


def _read(text: str) -> Any:
    value = json.loads(text, parse_constant=_refuse_constant)
    json.dumps(value, allow_nan=False)  # JSON can write numbers that are too large for a request
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")


def _slip(text: str) -> str | None:
    """Return what a text that is no JSON should be; empty if that is unclear, None if it is meant as a text."""
    bare = unicodedata.normalize("NFKC", text.strip()).replace("\u2212", "-")
    if bare in _WORDS:
        return _WORDS[bare]
    if bare.lstrip("+-").lower() in _NO_NUMBER:
        return ""
    if _LIKE_A_NUMBER.fullmatch(bare) and any(map(str.isdigit, bare)):
        return _as_number(bare)
    is_quoted = bare[:1] == '"' or (len(bare) > 1 and bare[:1] in _QUOTES and bare[-1:] in _QUOTES)
    if bare.startswith(("{", "[")) or is_quoted or (bare[:1] == "(" and _as_python(bare)):
        return _as_python(bare)
    return None


def _as_number(text: str) -> str:
    """Return a number as JSON has it; empty if it is not clear which number it is."""
    text = text.removeprefix("+")
    if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+(?:\.\d*)?", text):
        text = text.replace(",", "")
    elif re.fullmatch(r"-?\d{1,3}(?:\.\d{3})+,\d+", text):
        text = text.replace(".", "").replace(",", ".")
    elif text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    text = re.sub(r"[ ']", "", text)
    text = re.sub(r"^(-?)0+(?=\d)", r"\1", text)
    return _as_python(text)


def _as_python(text: str) -> str:
    """Return a literal of Python as JSON; empty if it is none."""
    try:
        return json.dumps(ast.literal_eval(text), ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ""

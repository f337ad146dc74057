"""Request parameters: what may be one, what is an option of the SDK or of LangChain instead, and how one is written.

Invariant: what a check accepts is sent in the body of each request under the name given; what is meant for the client
is never sent.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import unicodedata
from collections.abc import Mapping
from typing import Any, NoReturn

from batcher.errors import SettingsError
from batcher.hiding import holds_key
from batcher.nesting import TOO_DEEP, is_too_deep
from batcher.words import by_reader, option

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

REQUEST_PARAMS = {
    *("enable_thinking", "extra_body", "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens"),
    *("max_tokens", "min_p", "modalities", "n", "parallel_tool_calls", "presence_penalty", "prompt_cache_key"),
    *("reasoning_effort", "repetition_penalty", "response_format", "safety_identifier", "seed", "service_tier"),
    *("stop", "store", "stream", "temperature", "thinking", "tool_choice", "tools", "top_k", "top_logprobs", "top_p"),
    *("user", "verbosity", "web_search_options"),
}
"""The parameters of a chat completion request that services know."""

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
    flat = dict(params) if for_llm else unfolded(params, where)
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
    if not for_llm:
        _check_is_for_service(params, where)


def _check_is_for_service(params: Mapping[str, Any], where: str) -> None:
    """Refuse options of a client; inside `extra_body` any name is a parameter."""
    for name in params:
        about = f"{where}: {name!r} is an option of the SDK or of LangChain, and no parameter of a request"
        inside = by_reader(
            command_line=f"{option('param')} 'extra_body={{\"{name}\": ...}}'",
            python=f'"extra_body": {{"{name}": ...}}',
        )
        anyway = f" (to send it all the same: {inside})"
        if name in INSTEAD:
            raise SettingsError(f"{about}: use {' or '.join(map(option, INSTEAD[name]))}{anyway}")
        if name in _NOT_SENT:
            raise SettingsError(f"{about}: {_NOT_SENT[name]}{anyway}")


def unfolded(params: Mapping[str, Any], where: str = "params") -> dict[str, Any]:
    """Return the parameters with the content of `extra_body` and `model_kwargs` beside the others.

    Raises:
        SettingsError: it holds no parameters, or one that is given twice.
    """
    flat = {name: value for name, value in params.items() if name not in _FOLDED}
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
_NUMBER = re.compile(
    r"[+-]?(?:(?:\d+(?:[_' ]\d+)*|\d{1,3}(?:,\d{3})+)?(?:[.,]\d*)?|\d{1,3}(?:\.\d{3})+,\d+)(?:[eE][+-]?\d*)?"
    r"|[+-]?0[xXoObB][0-9a-fA-F_]+"
)
_LONGEST_SHOWN = 200  # characters of a value in a message
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
    shown = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
    as_text = json.dumps(shown, ensure_ascii=False)
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
    if _NUMBER.fullmatch(bare) and any(map(str.isdigit, bare)):
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

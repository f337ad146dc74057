"""Reads the requests of the OpenAI protocol: bytes in, what is asked for out, or the refusal of a wrong request.

Invariant: every parameter of a request that is returned has the type and the range of the protocol, every message has a
text or a tool call, and a value that is null counts as not given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from batcher.nesting import DEEPEST, is_too_deep
from batcher.server.forms import malformed
from batcher.server.responses import Refusal, bad

MOST_INPUTS = 2048
"""Inputs of an embeddings request, and prompts of a completion, at most."""

_CHOICES = 128  # the protocol's limit for `n`
_STOPS = 16  # of DeepSeek; OpenAI takes 4, vLLM any number
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_WORDLESS = ("tool_calls", "function_call", "refusal", "audio")  # of a message of the assistant, instead of a text

TextOrTokens = str | tuple[int, ...]
"""A prompt or an input: a text, or the tokens of one."""


class Options(NamedTuple):
    """The parameters of a chat or a completion; one that is None was not given.

    Attributes:
        max_tokens: the lower one of `max_tokens` and `max_completion_tokens`.
        top_k: 0 if it is switched off (0 or -1).
        stop: texts that end an answer; they are no part of it.
        logprobs: the number of alternatives wanted for each token; 0: the log-probability of the token alone.
        is_streamed: as server-sent events.
        with_usage: the stream is to end with the usage.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    num_beams: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    do_sample: bool | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    is_streamed: bool = False
    with_usage: bool = False


class Tool(NamedTuple):
    """A function that the model may call: its name, and the JSON Schema of its arguments."""

    name: str
    parameters: Mapping[str, Any]


class Tools(NamedTuple):
    """The functions that the model may call.

    Attributes:
        offered: in their order.
        choice: `none`, `auto` or `required`.
        are_functions: the request names them in the older way (`functions`), and expects that way in the answer.
    """

    offered: tuple[Tool, ...] = ()
    choice: str = "none"
    are_functions: bool = False


class ChatRequest(NamedTuple):
    """A chat.

    Attributes:
        model: as the path or the body names it; empty if neither does.
        messages: each with a role, and its text under `content`.
        options: its parameters.
        tools: that may be called; if the request names one that must be, it is the only one.
        body: the request's JSON, with those messages and that model.
    """

    model: str
    messages: list[dict[str, Any]]
    options: Options
    tools: Tools
    body: dict[str, Any]


class CompletionRequest(NamedTuple):
    """A completion.

    Attributes:
        model: as the path or the body names it; empty if neither does.
        prompts: at least one; each gets `n` choices.
        options: its parameters.
        is_echoed: the prompt stands before its completion.
        body: the request's JSON, with that model.
    """

    model: str
    prompts: tuple[TextOrTokens, ...]
    options: Options
    is_echoed: bool
    body: dict[str, Any]


class EmbeddingRequest(NamedTuple):
    """Inputs to embed.

    Attributes:
        model: as the path or the body names it; empty if neither does.
        inputs: at least one, none of them empty.
        dimensions: the length of the vectors; None: the model's.
        as_base64: the vectors are wanted as the base64 of 32-bit floats.
        body: the request's JSON, with that model.
    """

    model: str
    inputs: tuple[TextOrTokens, ...]
    dimensions: int | None
    as_base64: bool
    body: dict[str, Any]


def read_chat(raw: bytes, model: str = "") -> ChatRequest | Refusal:
    """Read a chat request.

    Messages may come as older clients send them: as one text, or with their text under `message`.

    Args:
        raw: the body.
        model: that the path names, as of a deployment; it counts, whatever the body says.
    """
    body = _body(raw, model)
    if isinstance(body, Refusal):
        return body
    options = _options(body)
    if isinstance(options, Refusal):
        return options
    messages = _messages(body.get("messages"))
    if isinstance(messages, Refusal):
        return messages
    tools = _tools(body)
    if isinstance(tools, Refusal):
        return tools
    body["messages"] = messages
    return ChatRequest(body["model"], messages, options, tools, body)


def read_completion(raw: bytes, model: str = "") -> CompletionRequest | Refusal:
    """Read the request of a text completion; arguments as of `read_chat`."""
    body = _body(raw, model)
    if isinstance(body, Refusal):
        return body
    options = _options(body, _TEXT_RULES)
    if isinstance(options, Refusal):
        return options
    best = body.get("best_of")
    if best is not None and best < options.n:
        return bad("'best_of' must not be less than 'n'.", "best_of")
    prompts = _texts(body.get("prompt"), "prompt")
    if isinstance(prompts, Refusal):
        return prompts
    return CompletionRequest(body["model"], prompts, options, body.get("echo") is True, body)


def read_embedding(raw: bytes, model: str = "") -> EmbeddingRequest | Refusal:
    """Read the request of embeddings; arguments as of `read_chat`."""
    body = _body(raw, model)
    if isinstance(body, Refusal):
        return body
    wrong = _wrong(body, _EMBEDDING_RULES)
    if wrong:
        return wrong
    inputs = _texts(body.get("input"), "input")
    if isinstance(inputs, Refusal):
        return inputs
    for place, each in enumerate(inputs):
        if not each:
            name = f"input[{place}]" if isinstance(body["input"], list) and len(inputs) > 1 else "input"
            return bad(f"Invalid '{name}': input cannot be an empty string.", "input")
    return EmbeddingRequest(
        body["model"], inputs, body.get("dimensions"), body.get("encoding_format") == "base64", body
    )


# --- the body ---


def _body(raw: bytes, model: str) -> dict[str, Any] | Refusal:
    """Read the JSON of a body, and put the model into it."""
    if raw.count(b"[") + raw.count(b"{") > DEEPEST and is_too_deep(raw.decode("latin-1")):
        return bad(f"Your request is nested too deeply: {DEEPEST} levels are the limit.")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):  # ValueError: not JSON, not UTF-8, or a number of more than 4,300 digits
        return bad("We could not parse the JSON body of your request.")
    if not isinstance(body, dict):
        return bad("The body of your request must be a JSON object.")
    named = body.get("model")
    if named is not None and (not isinstance(named, str) or not named):
        return bad("'model' must be the name of a model.", "model")
    body["model"] = model or named or ""
    return body


class _Rule(NamedTuple):
    """What a parameter must be."""

    fits: Callable[[Any], bool]
    what: str


def _whole(low: int, high: int | None = None) -> _Rule:
    if high is None:
        return _Rule(lambda value: type(value) is int and value >= low, f"a whole number, {low} or more")
    return _Rule(lambda value: type(value) is int and low <= value <= high, f"a whole number from {low} to {high}")


def _number(low: float, high: float) -> _Rule:
    return _Rule(
        lambda value: type(value) in (int, float) and low <= value <= high, f"a number from {low:g} to {high:g}"
    )


def _is_stop(value: object) -> bool:
    stops = value if isinstance(value, list) else [value]
    return len(stops) <= _STOPS and all(isinstance(each, str) for each in stops)


_BOOL = _Rule(lambda value: isinstance(value, bool), "true or false")
_OBJECT = _Rule(lambda value: isinstance(value, dict), "an object")
_TEXT = _Rule(lambda value: isinstance(value, str), "a text")

_RULES: dict[str, _Rule] = {
    "max_tokens": _whole(1),
    "max_completion_tokens": _whole(1),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "top_k": _whole(-1),
    "num_beams": _whole(1, 128),
    "repetition_penalty": _Rule(
        lambda value: type(value) in (int, float) and 0 < value <= 100, "a number above 0, of 100 at most"
    ),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "do_sample": _BOOL,
    "n": _whole(1, _CHOICES),
    "stop": _Rule(_is_stop, f"a text, or a list of {_STOPS} texts at most"),
    "seed": _Rule(lambda value: type(value) is int and -(2**63) <= value < 2**63, "a whole number of 64 bits"),
    "stream": _BOOL,
    "stream_options": _OBJECT,
    "logit_bias": _OBJECT,
    "user": _TEXT,
}
_CHAT_RULES = _RULES | {"logprobs": _BOOL, "top_logprobs": _whole(0, 20)}
_TEXT_RULES = _RULES | {
    "logprobs": _Rule(lambda value: type(value) is int and 0 <= value <= 5, "a whole number from 0 to 5"),
    "echo": _BOOL,
    "best_of": _whole(1, _CHOICES),
    "suffix": _Rule(lambda value: value == "", "empty: this server does not insert text"),
}
_EMBEDDING_RULES = {
    "dimensions": _whole(1, 65_536),
    "encoding_format": _Rule(lambda value: value in ("float", "base64"), "'float' or 'base64'"),
    "user": _TEXT,
}

# Those that are handed on as they are.
_PLAIN = frozenset(Options._fields) - {"max_tokens", "top_k", "stop", "logprobs"}


def _wrong(body: Mapping[str, Any], rules: Mapping[str, _Rule]) -> Refusal | None:
    for name, value in body.items():
        rule = rules.get(name)
        if rule is not None and value is not None and not rule.fits(value):
            return bad(f"{name!r} must be {rule.what}.", name)
    return None


def _options(body: Mapping[str, Any], rules: Mapping[str, _Rule] = _CHAT_RULES) -> Options | Refusal:
    """Read the parameters that chats and completions share."""
    wrong = _wrong(body, rules)
    if wrong:
        return wrong
    given: dict[str, Any] = {name: value for name, value in body.items() if name in _PLAIN and value is not None}
    limits = [body[name] for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
    if limits:
        given["max_tokens"] = min(limits)
    if body.get("top_k") is not None:
        given["top_k"] = max(body["top_k"], 0)
    if stop := body.get("stop"):
        given["stop"] = tuple(filter(None, stop)) if isinstance(stop, list) else (stop,)
    wrong = _read_logprobs(body, given, is_chat=rules is _CHAT_RULES) or _read_streaming(body, given)
    if wrong:
        return wrong
    form = malformed(body)
    return bad(*form) if form else Options(**given)


def _read_logprobs(body: Mapping[str, Any], given: dict[str, Any], *, is_chat: bool) -> Refusal | None:
    wanted, alternatives = body.get("logprobs"), body.get("top_logprobs")
    if alternatives and not wanted and is_chat:
        return bad("'top_logprobs' needs 'logprobs': true beside it.", "top_logprobs")
    if is_chat and wanted:
        given["logprobs"] = alternatives or 0
    elif not is_chat and wanted is not None:
        given["logprobs"] = wanted
    return None


def _read_streaming(body: Mapping[str, Any], given: dict[str, Any]) -> Refusal | None:
    given["is_streamed"] = bool(body.get("stream"))
    options = body.get("stream_options")
    if options is None:
        return None
    if not given["is_streamed"]:
        return bad("'stream_options' is only allowed when 'stream' is true.", "stream_options")
    usage = options.get("include_usage")
    if usage is not None and not isinstance(usage, bool):
        return bad("'stream_options.include_usage' must be true or false.", "stream_options.include_usage")
    given["with_usage"] = bool(usage)
    return None


# --- messages ---


def _messages(given: object) -> list[dict[str, Any]] | Refusal:
    """Read the messages of a chat, in today's shape or in an older one."""
    if isinstance(given, str) and given:
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        return bad("'messages' must be a list that is not empty.", "messages")
    messages: list[dict[str, Any]] = []
    for place, message in enumerate(given):
        if not isinstance(message, dict):
            return bad("Every item of 'messages' must be an object.", "messages")
        messages.append(_as_today(message))
        if messages[-1]["role"] not in _ROLES:
            return bad(f"The role of a message must be one of {', '.join(_ROLES)}.", f"messages.[{place}].role")
        wrong = _wrong_content(messages[-1])
        if wrong:
            return bad(f"Invalid value for 'messages[{place}].content': {wrong}.", f"messages.[{place}].content")
    return messages


def _as_today(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with a role, and with its text under `content`."""
    has_text = message.get("content") or not isinstance(message.get("message"), str)
    if has_text and message.get("role") is not None:
        return message
    made = dict(message)
    if made.get("role") is None:
        made["role"] = "user"
    if not has_text:
        made["content"] = made.pop("message")
    return made


def _wrong_content(message: Mapping[str, Any]) -> str | None:
    content = message.get("content")
    if isinstance(content, str):
        return None
    if content is None:
        wordless = message.get("role") == "assistant" and any(message.get(name) for name in _WORDLESS)
        return None if wordless else "a text or a list of parts is expected, not null"
    if not isinstance(content, list) or not content:
        return "a text or a list of parts is expected"
    for part in content:
        if isinstance(part, str):
            continue
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            return "every part is a text, or an object with a type"
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            return "a part of type text needs a text"
    return None


# --- tools ---


_WORDS = {"none": "none", "auto": "auto", "required": "required", "any": "required"}  # "any" is Mistral's word


def _tools(body: Mapping[str, Any]) -> Tools | Refusal:
    """Read the tools that may be called, or the functions of older clients."""
    if not body.get("tools") and not body.get("functions"):
        if body.get("tool_choice") not in (None, "none", "auto"):
            return bad("'tool_choice' is only allowed when 'tools' are specified.", "tool_choice")
        return Tools()
    is_old = not body.get("tools")
    field = "functions" if is_old else "tools"
    offered = _offered(body[field], field)
    if isinstance(offered, Refusal):
        return offered
    choice_field = "function_call" if is_old else "tool_choice"
    choice = body.get(choice_field)
    word = "auto" if choice is None else _WORDS.get(choice) if isinstance(choice, str) else None
    if word and not (is_old and word == "required"):
        return Tools(offered, word, is_old)
    wanted = choice if is_old else choice.get("function") if isinstance(choice, dict) else None
    name = wanted.get("name") if isinstance(wanted, dict) else None
    named = tuple(tool for tool in offered if tool.name == name)
    if not named:
        return bad(
            f"{choice_field!r} must be one of the words of the protocol, or name one of '{field}'.", choice_field
        )
    return Tools(named[:1], "required", is_old)


def _offered(given: object, field: str) -> tuple[Tool, ...] | Refusal:
    if not isinstance(given, list):
        return bad(f"{field!r} must be a list.", field)
    found = []
    for place, each in enumerate(given):
        where = f"{field}[{place}]"
        if not isinstance(each, dict):
            return bad(f"{where!r} must be an object.", where)
        function = each if field == "functions" else each.get("function")
        if field == "tools" and each.get("type") != "function":
            return bad(f"Invalid value for '{where}.type'. Supported values are: 'function'.", f"{where}.type")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            return bad(f"Missing required parameter: '{where}.function.name'.", f"{where}.function.name")
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            return bad(f"'{where}.function.parameters' must be an object.", f"{where}.function.parameters")
        found.append(Tool(function["name"], parameters or {}))
    return tuple(found)


# --- prompts and inputs ---


def _texts(given: object, name: str) -> tuple[TextOrTokens, ...] | Refusal:
    """Read a text, a list of texts, a list of tokens, or a list of such lists."""
    if given is None:
        return bad(f"You must provide a parameter {name!r}.", name)
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, list) or not given:
        return bad(f"{name!r} must be a text, a list of texts, or lists of tokens, and not empty.", name)
    if all(map(_is_token, given)):
        return (tuple(given),)
    if len(given) > MOST_INPUTS:
        return bad(f"Invalid {name!r}: a list of {MOST_INPUTS} at most is taken, and this one has {len(given)}.", name)
    found = tuple(_text_or_tokens(given))
    return (
        found if len(found) == len(given) else bad(f"'{name}[{len(found)}]' must be a text or a list of tokens.", name)
    )


def _text_or_tokens(given: Sequence[object]) -> Iterator[TextOrTokens]:
    """Yield the items of a list up to the first that is wrong."""
    for each in given:
        if isinstance(each, str):
            yield each
        elif isinstance(each, list) and all(map(_is_token, each)):
            yield tuple(each)
        else:
            return


def _is_token(value: object) -> bool:
    return type(value) is int and value >= 0

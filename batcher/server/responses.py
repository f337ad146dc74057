"""The responses of the OpenAI protocol, made of plain values, as a whole or as the events of a stream.

Invariant: nothing here knows which backend made the values, and a whole response and its stream hold the same.
"""

from __future__ import annotations

import base64
import json
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from batcher.server.error_shapes import openai_error

DONE = b"data: [DONE]\n\n"
"""The last event of every stream."""

_BYTES = re.compile(r"bytes:(?:\\x[0-9a-f]{2})+")

INVALID = "invalid_request_error"


class Refusal(NamedTuple):
    """An error in OpenAI's shape."""

    status: int
    message: str
    kind: str = INVALID
    param: str | None = None
    code: str | None = None
    retry_after: int | None = None  # seconds

    def body(self) -> bytes:
        return json.dumps(openai_error(self.message, self.kind, self.code, self.param)).encode()

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [] if self.retry_after is None else [(b"retry-after", str(self.retry_after).encode())]


def bad(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """Refuse a request that is wrong, with status 400."""
    return Refusal(400, message, INVALID, param, code)


class Usage(NamedTuple):
    """Tokens of a request and of all that was made for it."""

    prompt: int
    completion: int = 0

    def to_dict(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


class Token(NamedTuple):
    """A token of an answer with its log-probability.

    Attributes:
        text: of it.
        logprob: natural logarithm of its probability; None for the first token of a prompt.
        top: the likeliest tokens at its place, the likeliest first; empty if none were asked for.
    """

    text: str
    logprob: float | None
    top: Sequence[tuple[str, float]] = ()


class ToolCall(NamedTuple):
    """A tool that the model wants to be called, with its arguments as JSON text."""

    id: str
    name: str
    arguments: str


class Choice(NamedTuple):
    """One answer to a request.

    Attributes:
        text: of it; it is None in the message of a chat if there are tool calls and no text.
        finish: `stop`, `length`, `tool_calls`, `function_call` or `content_filter`.
        tokens: with their log-probabilities, if they were asked for.
        tool_calls: of a chat.
        is_function: the call is written as older clients expect it that asked with `functions`.
    """

    text: str
    finish: str = "stop"
    tokens: Sequence[Token] | None = None
    tool_calls: Sequence[ToolCall] = ()
    is_function: bool = False


class Head(NamedTuple):
    """What every event of a stream repeats: an id, the model, and Unix time in seconds."""

    id: str
    model: str
    created: int


# --- whole responses ---


def chat_completion(head: Head, choices: Iterable[Choice], usage: Usage) -> dict[str, Any]:
    """Return the body of a chat completion."""
    return {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": [
            {
                "index": index,
                "message": _message(choice),
                "logprobs": _chat_logprobs(choice.tokens),
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(choices)
        ],
        "usage": usage.to_dict(),
    }


def text_completion(head: Head, choices: Iterable[Choice], usage: Usage) -> dict[str, Any]:
    """Return the body of a text completion; choices of several prompts follow each other."""
    return {
        "id": head.id,
        "object": "text_completion",
        "created": head.created,
        "model": head.model,
        "choices": [
            {
                "index": index,
                "text": choice.text,
                "logprobs": _text_logprobs(choice.tokens, 0),
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(choices)
        ],
        "usage": usage.to_dict(),
    }


def embedding_list(
    model: str, vectors: Iterable[Sequence[float]], tokens: int, *, as_base64: bool = False
) -> dict[str, Any]:
    """Return the body of an embeddings response.

    Args:
        model: its name.
        vectors: one for each input, in their order.
        tokens: of all inputs.
        as_base64: as the bytes of little-endian 32-bit floats, for which OpenAI's own client asks; else as numbers.
    """
    data = [
        {"object": "embedding", "index": index, "embedding": packed(vector) if as_base64 else list(vector)}
        for index, vector in enumerate(vectors)
    ]
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def packed(vector: Sequence[float]) -> str:
    """Write a vector as the base64 of little-endian 32-bit floats."""
    floats = array("f", vector)
    if array("H", [1]).tobytes() != b"\x01\x00":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()


def model_list(names: Iterable[str]) -> dict[str, Any]:
    """Return the body of the list of models."""
    return {"object": "list", "data": [model_card(name) for name in names]}


def model_card(name: str) -> dict[str, Any]:
    """Return the body for one model."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "batcher"}


def _message(choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.tool_calls:
        message["content"] = choice.text or None
        message |= _called(choice)
    return message


def _called(choice: Choice) -> dict[str, Any]:
    calls = choice.tool_calls
    if choice.is_function:
        return {"function_call": {"name": calls[0].name, "arguments": calls[0].arguments}}
    return {
        "tool_calls": [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    }


def _chat_logprobs(tokens: Sequence[Token] | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    content = [
        _likely(token.text, token.logprob) | {"top_logprobs": [_likely(*each) for each in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _likely(text: str, logprob: float | None) -> dict[str, Any]:
    # A prompt, and so an echo of it, may hold half of a surrogate pair.
    raw = _in_bytes(text) or text.encode("utf-8", "surrogatepass")
    return {"token": text, "logprob": logprob, "bytes": list(raw)}


def as_bytes(raw: bytes) -> str:
    r"""Write a token that is a part of a character as OpenAI does, such as `bytes:\xe4`."""
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _in_bytes(text: str) -> bytes:
    """Return the bytes of a token that is written by them; none of any other."""
    return bytes.fromhex(text[6:].replace("\\x", "")) if _BYTES.fullmatch(text) else b""


def _text_logprobs(tokens: Sequence[Token] | None, offset: int) -> dict[str, Any] | None:
    if tokens is None:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [dict(token.top) or None for token in tokens] if any(token.top for token in tokens) else None,
        "text_offset": offsets,
    }


# --- streams ---


def event(data: str) -> bytes:
    """Return a server-sent event."""
    return f"data: {data}\n\n".encode()


class _Events:
    """Writes the data of the events of a stream."""

    kind: str

    def __init__(self, head: Head, *, with_usage: bool = False) -> None:
        self._head: dict[str, Any] = {"id": head.id, "object": self.kind, "created": head.created, "model": head.model}
        self._with_usage = with_usage
        if with_usage:
            self._head["usage"] = None

    def usage(self, usage: Usage) -> list[str]:
        """Return the event of the usage; nothing if it was not asked for."""
        return [json.dumps(self._head | {"choices": [], "usage": usage.to_dict()})] if self._with_usage else []

    def _event(
        self, index: int, part: Mapping[str, Any], logprobs: Mapping[str, Any] | None = None, finish: str | None = None
    ) -> str:
        choice = {"index": index, **part, "logprobs": logprobs, "finish_reason": finish}
        return json.dumps(self._head | {"choices": [choice]})


class ChatEvents(_Events):
    """Writes the data of the events of a streamed chat completion.

    For each choice: `begin`, any number of `piece` and `calls`, `end`; then `usage`, and `DONE` at last. Choices may
    come one after another or mixed.

    Args:
        head: that every event repeats.
        with_usage: the request asked for the usage (`stream_options.include_usage`).
    """

    kind = "chat.completion.chunk"

    def begin(self, index: int) -> str:
        """Return the first event of a choice."""
        return self._event(index, {"delta": {"role": "assistant", "content": ""}})

    def piece(self, index: int, text: str, tokens: Sequence[Token] | None = None) -> str:
        """Return the event of a piece of text, with its tokens if log-probabilities were asked for."""
        return self._event(index, {"delta": {"content": text}}, _chat_logprobs(tokens))

    def calls(self, index: int, calls: Sequence[ToolCall], *, are_functions: bool = False) -> str:
        """Return the event of tool calls."""
        called = _called(Choice("", tool_calls=calls, is_function=are_functions))
        for place, call in enumerate(called.get("tool_calls", ())):
            call["index"] = place
        return self._event(index, {"delta": called})

    def end(self, index: int, finish: str) -> str:
        """Return the last event of a choice."""
        return self._event(index, {"delta": {}}, None, finish)


class TextEvents(_Events):
    """Writes the data of the events of a streamed text completion: `piece`, `end` for each choice, `usage`, `DONE`.

    Args:
        head: that every event repeats.
        with_usage: the request asked for the usage (`stream_options.include_usage`).
    """

    kind = "text_completion"

    def __init__(self, head: Head, *, with_usage: bool = False) -> None:
        super().__init__(head, with_usage=with_usage)
        self._lengths: dict[int, int] = {}  # characters of each choice so far

    def piece(self, index: int, text: str, tokens: Sequence[Token] | None = None) -> str:
        """Return the event of a piece of text, with its tokens if log-probabilities were asked for."""
        offset = self._lengths.get(index, 0)
        self._lengths[index] = offset + len(text)
        return self._event(index, {"text": text}, _text_logprobs(tokens, offset))

    def end(self, index: int, finish: str) -> str:
        """Return the last event of a choice."""
        return self._event(index, {"text": ""}, None, finish)

"""The chat completions of the simulated model, in OpenAI's shape, as a whole or as the events of a stream.

Invariant: the usage counts the text of all choices that were made, as they were cut.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

from batcher.server.answers import answer, images_of, text_of
from batcher.server.faults import Fate

LIMITS = ("max_completion_tokens", "max_tokens")
"""The parameters of a request that limit the tokens of an answer."""

_CHARACTERS = 4  # that count as a model token
_IMAGE_TOKENS = 765  # of any image: as one of 1024 x 1024 at gpt-4o
_SEVERAL = 3  # choices of an answer with more of them than were asked for
_PIECES = 20  # of a choice in a stream, at most: enough for a stream of any length


def completion(
    body: Mapping[str, Any], number: int, fate: Fate = Fate.ANSWER, said: str | None = None
) -> dict[str, Any]:
    """Answer a chat request: `n` choices, each cut off at the request's limit of tokens.

    Args:
        body: the request's JSON; its `n` and its limits are whole numbers, 1 or more, or None.
        number: goes into the completion's id.
        fate: `EMPTY` leaves out the choices, `LENGTH` cuts them off in the middle, `CHOICES` makes several of them.
        said: the text of the answer; default: the simulated model's.

    Raises:
        RecursionError: the messages are nested too deeply to be written as JSON.
    """
    text, finish = _cut(answer(body) if said is None else said, body, fate)
    count = max(body.get("n") or 1, _SEVERAL if fate is Fate.CHOICES else 1)
    images = sum(len(images_of(message)) for message in body["messages"])
    asked = _tokens(sum(len(text_of(message)) for message in body["messages"])) + images * _IMAGE_TOKENS
    given = count * _tokens(len(text))
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": f"chatcmpl-sim-{number}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "choices": [
            {"index": index, "message": message, "logprobs": None, "finish_reason": finish}
            for index in range(0 if fate is Fate.EMPTY else count)
        ],
        "usage": {"prompt_tokens": asked, "completion_tokens": given, "total_tokens": asked + given},
    }


def events(whole: Mapping[str, Any], body: Mapping[str, Any], fate: Fate = Fate.ANSWER) -> Iterator[str]:
    """Yield the data of each event of a stream.

    Args:
        whole: the completion.
        body: the request's JSON, which may ask for the usage.
        fate: `HOLE` breaks off the event with the first piece of text, so that it is no JSON.
    """
    for place, event in enumerate(_chunks(whole, body)):
        yield event[: len(event) // 2] if fate is Fate.HOLE and place == 1 else event


def _cut(text: str, body: Mapping[str, Any], fate: Fate) -> tuple[str, str]:
    """Cut a text off at the limit; return it with the reason for its end."""
    limits = [body[name] for name in LIMITS if body.get(name) is not None]
    kept = text[: _CHARACTERS * min(limits)] if limits else text
    if fate is Fate.LENGTH:
        return kept[: max(len(kept) // 2, 1)], "length"
    return kept, "length" if len(kept) < len(text) else "stop"


def _tokens(characters: int) -> int:
    return max(math.ceil(characters / _CHARACTERS), 1)


def _chunks(whole: Mapping[str, Any], body: Mapping[str, Any]) -> Iterator[str]:
    options = body.get("stream_options")
    with_usage = isinstance(options, dict) and bool(options.get("include_usage"))
    head = {name: whole[name] for name in ("id", "created", "model")}
    head |= {"object": "chat.completion.chunk"} | ({"usage": None} if with_usage else {})

    def chunk(index: int, delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return json.dumps(head | {"choices": [choice]})

    for choice in whole["choices"]:
        text = choice["message"]["content"]
        yield chunk(choice["index"], {"role": "assistant", "content": ""})
        size = max(math.ceil(len(text) / _PIECES), _CHARACTERS)
        for start in range(0, len(text), size):
            yield chunk(choice["index"], {"content": text[start : start + size]})
        yield chunk(choice["index"], {}, choice["finish_reason"])
    if with_usage:
        yield json.dumps(head | {"choices": [], "usage": whole["usage"]})

"""Reads the log-probabilities of an answer's tokens, as chats and text completions have them.

Invariant: reading never raises, for any JSON; a list that is not wholly understood counts as none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from batcher.records import ModelToken

_UNKNOWN = float("nan")  # the first token of a prompt has none
# A token of a text completion that is part of a character: `bytes:\xe6\xad`.
_BYTES = re.compile(r"bytes:((?:\\x[0-9a-fA-F]{2})+)")


def logprobs_in(found: object) -> tuple[ModelToken, ...]:
    """Return the tokens of a choice's `logprobs`; none if it has none, or some cannot be read."""
    match found:
        case {"content": list(content)}:
            scored = [_of_chat(each) for each in content]
        case {"tokens": list(texts), "token_logprobs": list(numbers)} if len(texts) == len(numbers):
            scored = [_of_text(*each) for each in zip(texts, numbers, strict=True)]
        case _:
            return ()
    known = [each for each in scored if each is not None]
    return tuple(known) if len(known) == len(scored) else ()


def _of_chat(found: object) -> ModelToken | None:
    match found:
        case {"token": str(text), "logprob": number, **rest}:
            return ModelToken(_as_bytes(rest.get("bytes"), text), _as_number(number))
    return None


def _as_number(found: object) -> float:
    try:
        return float(found) if isinstance(found, (float, int)) else _UNKNOWN
    except OverflowError:
        return _UNKNOWN


def _as_bytes(found: Any, text: str) -> bytes:
    """Return the bytes of a token; those of its text if it has no others."""
    try:
        return bytes(found) if isinstance(found, list) else text.encode("utf-8", "surrogatepass")
    except (TypeError, ValueError):
        return text.encode("utf-8", "surrogatepass")


def _of_text(text: object, number: object) -> ModelToken | None:
    if not isinstance(text, str):
        return None
    spelled = _BYTES.fullmatch(text)
    raw = bytes.fromhex(spelled[1].replace("\\x", "")) if spelled else text.encode("utf-8", "surrogatepass")
    return ModelToken(raw, _as_number(number))


def joined(chunks: Iterable[object]) -> dict[str, Any] | None:
    """Join the `logprobs` of the chunks of a stream into what an answer in one piece has; None if there are none."""
    whole: dict[str, list[Any]] = {}
    for chunk in chunks:
        if isinstance(chunk, Mapping):
            for name in ("content", "tokens", "token_logprobs"):
                if isinstance(part := chunk.get(name), list):
                    whole.setdefault(name, []).extend(part)
    return whole or None

"""The key of a row: a hash of its question alone.

Invariant: the same messages and parameters give the same key in every process, at every position, with any limits, API
keys, chunk size or file name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from batcher.answer.shape import as_text
from batcher.equality import plain
from batcher.records import NO_TERMS, Message, Terms

KEY_BYTES = 16

# ASCII escapes keep lone surrogates hashable; with sorted keys, two spellings of an object are equal.
_encode = json.JSONEncoder(ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode


def _written(message: Message) -> str:
    """Return what `_encode` does, at once for the message that nearly every row has: the encoder is slow to begin."""
    content, role = message.get("content"), message.get("role")
    if len(message) == 2 and isinstance(content, str) and isinstance(role, str):
        return f'{{"content":{_encode(content)},"role":{_encode(role)}}}'
    return _encode(message)


class Keyer(Protocol):
    """Returns the key of a row's messages, and of its terms if they differ from those of other rows."""

    def __call__(self, messages: Sequence[Message], terms: Terms = ...) -> bytes: ...


def keyer(params: Mapping[str, Any], shape: Mapping[str, Any] | None = None, shared: Sequence[Message] = ()) -> Keyer:
    """Return a function that maps a row's messages to its key of 16 bytes (BLAKE2b, RFC 7693).

    Args:
        params: the request parameters that all rows share.
        shape: the labels or the schema that answers must fit, if there are any, as the journal records them; their
            order is a part of the question.
        shared: the very messages that are in every row's; they are encoded once.
    """
    # A version that changes the meaning of keys must change `person`, so that old keys never match.
    asked = _encode(params) + as_text(shape)
    base = hashlib.blake2b(asked.encode(), digest_size=KEY_BYTES, person=b"batcher.row.1")

    encoded = {id(message): _encode(message) for message in shared}  # `shared` keeps them, and so their ids

    def written(messages: Sequence[Message]) -> str:
        texts = [encoded.get(id(message)) or _written(message) for message in messages]
        return f"[{','.join(texts)}]"

    def key(messages: Sequence[Message], terms: Terms = NO_TERMS) -> bytes:
        digest = base.copy()
        digest.update(written(messages).encode())
        if terms != NO_TERMS:
            digest.update(_encode({**terms._asdict(), "params": plain(dict(terms.params))}).encode())
        return digest.digest()

    return key

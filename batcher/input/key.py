"""The key of a row: a hash of its question alone.

Invariant: the same messages and parameters give the same key in every process, at every position, with any limits, API
keys, chunk size or file name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batcher.answer.shape import as_text
from batcher.records import Message

KEY_BYTES = 16

# ASCII escapes keep lone surrogates hashable; with sorted keys, two spellings of an object are equal.
_encode = json.JSONEncoder(ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode


def keyer(
    params: Mapping[str, Any], shape: Mapping[str, Any] | None = None, shared: Sequence[Message] = ()
) -> Callable[[Sequence[Message]], bytes]:
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

    def key(messages: Sequence[Message]) -> bytes:
        digest = base.copy()
        digest.update(_encode(messages).encode())
        return digest.digest()

    def key_of_long(messages: Sequence[Message]) -> bytes:
        digest = base.copy()
        texts = [encoded.get(id(message)) or _encode(message) for message in messages]
        digest.update(f"[{','.join(texts)}]".encode())
        return digest.digest()

    return key_of_long if shared else key

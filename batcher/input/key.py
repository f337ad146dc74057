"""The key of a row: a hash of its question and of nothing else.

Invariant: the same messages and parameters give the same key in every process, at every position, whatever the
limits, API keys, chunk size or file name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batcher.records import Message

KEY_BYTES = 16

# ASCII escapes keep lone surrogates hashable; sorted keys make two spellings of one object equal.
_encode = json.JSONEncoder(ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode


def keyer(params: Mapping[str, Any]) -> Callable[[Sequence[Message]], bytes]:
    """Return the function from a row's messages to its key of 16 bytes (BLAKE2b, RFC 7693).

    Args:
        params: the request parameters that all rows share.
    """
    # Whatever changes the meaning of a key in a later version changes `person`, so that old keys never match.
    base = hashlib.blake2b(_encode(params).encode(), digest_size=KEY_BYTES, person=b"batcher.row.1")

    def key(messages: Sequence[Message]) -> bytes:
        digest = base.copy()
        digest.update(_encode(messages).encode())
        return digest.digest()

    return key

"""Reads a response, in whatever dialect: a completion, whole or streamed, or a failure.

Invariant: reading never raises, for any bytes; the text that is shown of them is one printable line without API key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batcher.calls.choices import (
    body_without_keys,
    broken_off,
    completion_in,
)
from batcher.calls.embeddings import embeddings_in
from batcher.calls.error_bodies import failure_in
from batcher.calls.streams import Stream, is_stream, too_many_parts
from batcher.calls.texts import has_too_many_parts, json_in
from batcher.records import Completion, Failure, Fault


def answer_in(
    status: int,
    headers: Mapping[str, str],
    raw: bytes,
    secrets: Sequence[str] = (),
    *,
    wants_all: bool = False,
    inputs: int | None = None,
) -> Completion | Failure:
    """Read a response of the server.

    Args:
        status: its HTTP status.
        headers: its headers; their names in lower case, or case-insensitive.
        raw: its body.
        secrets: texts that must not be shown; some servers repeat the API key.
        wants_all: the request asked for several answers.
        inputs: the number of texts whose embeddings the request asked for; None: it asked for a completion.
    """
    if not 200 <= status < 300:
        return failure_in(status, headers, raw, secrets)
    if inputs is not None:
        return embeddings_in(headers, raw, secrets, inputs=inputs)
    if is_stream(raw):
        stream = Stream(wants_all=wants_all)
        stream.add(raw)
        return stream.answer(headers, secrets)
    if has_too_many_parts(raw):
        return too_many_parts()
    kept = body_without_keys(raw, secrets)
    completion = completion_in(json_in(raw), headers, secrets, wants_all=wants_all, raw=kept)
    if completion is None:
        return failure_in(status, headers, raw, secrets)
    return broken_off(completion) or completion


def too_long(most_bytes: int) -> Failure:
    """Return the failure of a response that has too many bytes when unpacked."""
    message = f"it is longer than {most_bytes / 1e6:g} MB (--max-response-mb allows more)"
    return Failure(Fault.TOO_LONG, message, may_be_billed=True)

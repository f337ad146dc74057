"""Reads a response with embeddings.

Invariant: reading never raises, for any bytes. A response has exactly one item for each input, and its vectors are of
one length, or it is a failure: no input ever gets the vector of another one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from batcher.answer.vectors import packed, repacked
from batcher.calls.choices import body_without_keys, usage_in
from batcher.calls.error_bodies import failure_in, is_error
from batcher.calls.texts import LONGEST_CODE, one_line
from batcher.calls.waits import limits_in
from batcher.records import Completion, Failure, Fault, Usage

MOST_NUMBERS = 16_000_000
"""The most numbers of a response: more fill gigabytes of memory while they are parsed."""


def inputs_in(asked: Any) -> int:
    """Return the number of inputs in the `input` of a request: a text or a list of model tokens is one."""
    if isinstance(asked, list) and not all(type(each) is int for each in asked):
        return len(asked)
    return 1


def embeddings_in(
    headers: Mapping[str, str], raw: bytes, secrets: Sequence[str] = (), *, inputs: int
) -> Completion | Failure:
    """Read the embeddings of some inputs. An input whose vector is none has an empty text among the vectors.

    Args:
        headers: the response's headers; their names in lower case, or case-insensitive.
        raw: its body.
        secrets: texts that must not be shown.
        inputs: the number of texts that were asked about.
    """
    if raw.count(b",") > MOST_NUMBERS:
        return Failure(Fault.TOO_LONG, f"it has more than {MOST_NUMBERS:,} numbers", may_be_billed=True)
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("data"), list) or is_error(body):
        failure = failure_in(200, headers, raw[:LONGEST_BODY], secrets)
        is_unknown = failure.fault is Fault.PROTOCOL and failure.code is None
        return replace(failure, code=UNUSABLE) if is_unknown else failure
    if said := _misfit(body["data"], inputs):
        return Failure(Fault.PROTOCOL, said, code=NOT_ONE_EACH, limits=limits_in(headers), may_be_billed=True)
    vectors = _in_order(body["data"], inputs)
    if isinstance(vectors, str):
        return Failure(Fault.PROTOCOL, vectors, code=UNUSABLE, limits=limits_in(headers), may_be_billed=True)
    model = body.get("model")
    return Completion(
        vectors[0] if len(vectors) == 1 else json.dumps(vectors),
        usage=_usage(body.get("usage")),
        limits=limits_in(headers),
        id=body["id"] if isinstance(body.get("id"), str) else "",
        model=one_line(model, secrets, LONGEST_CODE) if isinstance(model, str) else "",
        raw=body_without_keys(raw, secrets),
        vectors=tuple(vectors),
    )


LONGEST_BODY = 2**20
"""The bytes of a body without embeddings that are searched for an error."""

NO_VECTOR = "the vector is no list of finite numbers"
"""Why an input has no vector although an item came for it."""
UNUSABLE = "unusable_vectors"
"""The code of a failure because a response holds no vectors, or something that is none."""
NOT_ONE_EACH = "not_one_vector_each"
"""The code of a failure because it is not certain which vector is which input's."""


def _misfit(data: Sequence[Any], inputs: int) -> str:
    """Return why it is not certain which vector is which input's; empty if it is."""
    if len(data) != inputs:
        return f"{len(data):,} came for {inputs:,} inputs"
    seen: set[int] = set()
    for number, item in enumerate(data):
        index = _index(item, inputs)
        if index is None:
            return f"item {number} has no index of an input"
        if index in seen:
            return f"two have the index {index}"
        seen.add(index)
    return ""


def _index(item: Any, inputs: int) -> int | None:
    """Return the index of the input to which a vector belongs; a single one needs none."""
    index = item.get("index", 0 if inputs == 1 else None) if isinstance(item, dict) else None
    return index if type(index) is int and 0 <= index < inputs else None


def _in_order(data: Sequence[Any], inputs: int) -> list[str] | str:
    """Return the vectors in the order of their inputs, or why none can be used."""
    vectors = [""] * inputs
    for item in data:
        vectors[_index(item, inputs) or 0] = _vector(item.get("embedding")) or ""
    lengths = {*map(len, filter(None, vectors))}
    if not lengths:
        return NO_VECTOR if inputs == 1 else f"of {inputs:,} vectors none is a list of finite numbers"
    return vectors if len(lengths) == 1 else "they have different lengths"


def _vector(came: object) -> str | None:
    """Return a vector, which came as a list of numbers or in base64, as text."""
    if isinstance(came, list):
        return packed(came)
    return repacked(came) if isinstance(came, str) else None


def _usage(said: object) -> Usage:
    """Return what was used: of inputs alone, which some services name only as the total."""
    usage = usage_in(said)
    if usage.prompt_tokens is None and isinstance(said, dict):
        usage = replace(usage_in({"prompt_tokens": said.get("total_tokens")}), implausible=usage.implausible)
    return replace(usage, completion_tokens=usage.completion_tokens or 0)

"""How many rows may share one request for embeddings, and what a service says of its limit.

Invariant: the limits depend on the endpoint and the options alone, until its service refuses a request for its size.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from batcher.calls.embeddings import NOT_ONE_EACH
from batcher.calls.fate import Fate, meaning_of
from batcher.calls.services import service_at
from batcher.endpoint import Endpoint
from batcher.records import Failure, Fault, Message

MOST_INPUTS = 256
"""Rows in one request, whatever more a service allows: more of them are not faster, and a lost response costs more."""

_AT_UNKNOWN = 64
_BYTES_PER_TOKEN = 3  # a model token of any text has more, on the average
_TOO_MANY = (
    *("batch size", "batch_size", "too many input", "array too long", "too many embedding", "too many texts"),
    *("requests can be in one batch", "maximum number of inputs", "input array", "number of inputs"),
    *("max_tokens_per_request", "tokens per request", "too many tokens in batch", "too many tokens in the batch"),
)
_WHOLE = re.compile(r"(?<![\w.])\d{1,4}(?![\w.]*\w)")


class Size(NamedTuple):
    """The most that one request may hold.

    Attributes:
        inputs: rows.
        tokens: model tokens, estimated from their length; 0: any number.
    """

    inputs: int = 1
    tokens: int = 0


class Filling:
    """A request that is being filled with rows.

    Args:
        size: the most that it may hold.
    """

    def __init__(self, size: Size) -> None:
        self._size = size
        self._rows = 0
        self._tokens = 0

    @property
    def is_full(self) -> bool:
        return self._rows >= self._size.inputs

    def takes(self, messages: list[Message]) -> bool:
        """Add a row if it fits; the first one always does."""
        tokens = weight_of(messages) // _BYTES_PER_TOKEN + 1 if self._size.tokens else 0
        if self._rows and (self.is_full or self._tokens + tokens > (self._size.tokens or self._tokens + tokens)):
            return False
        self._rows += 1
        self._tokens += tokens
        return True


def weight_of(messages: list[Message]) -> int:
    """Return the bytes of a row's text, by which what a request uses is divided among its rows; at least 1."""
    text = messages[0]["content"]
    return max(len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")), 1)


def size_at(endpoint: Endpoint, most: int | None) -> Size:
    """Return the most that one request to an endpoint may hold.

    Args:
        endpoint: its base URL tells the service.
        most: rows, as the user gives it.
    """
    service = service_at(endpoint.base_url)
    known = service.inputs_of(endpoint.model or "") if service else 0
    tokens = [each for each in (service.input_tokens if service else 0, endpoint.tpm) if each]
    return Size(most or min(known or _AT_UNKNOWN, MOST_INPUTS), int(min(tokens, default=0)))


def smallest(sizes: list[Size]) -> Size:
    """Return the most that a request may hold to be sent to any of several endpoints."""
    tokens = [each.tokens for each in sizes if each.tokens]
    return Size(min((each.inputs for each in sizes), default=MOST_INPUTS), min(tokens, default=0))


def is_too_large(failure: Failure, rows: int = 0) -> bool:
    """Return whether a service says that a request has too many rows, or too much text in all of them.

    So does one that cannot give even two rows a vector each.
    """
    if failure.code == NOT_ONE_EACH:
        return rows == 2
    if failure.fault is not Fault.STATUS or failure.status not in {400, 413, 422}:
        return failure.fault is Fault.TOO_LONG
    return failure.status == 413 or any(words in failure.said for words in _TOO_MANY)


def lowered(size: Size, failure: Failure, rows: int) -> Size:
    """Return the size to use after a request with some rows was too large: as the service says, else half of it."""
    said = map(int, _WHOLE.findall(failure.message) if failure.status else ())
    stated = [number for number in said if 0 < number < rows and number != failure.status]
    return size._replace(inputs=max(min(max(stated, default=rows // 2), size.inputs), 1))


def is_of_one_row(failure: Failure) -> bool:
    """Return whether one row of several may be the reason of a failure, so that they are asked in halves.

    So may a response whose vectors cannot be used: one of them may be no vector.
    """
    if failure.fault is Fault.PROTOCOL and failure.status is None:
        return meaning_of(failure).fate is Fate.AGAIN
    return meaning_of(failure).fate in {Fate.ROW_ENDS, Fate.ROW_REFUSED}

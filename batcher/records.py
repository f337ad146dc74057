"""The values that pass between the modules: small, frozen, and free of behaviour that needs a library."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

Message = dict[str, Any]
"""One message of a chat, as the protocol has it: at least `role` and `content`."""

Values = tuple[object, ...]
"""The values of one input row, in the order of the table's columns."""


class Slice(NamedTuple):
    """Consecutive input rows: `rows[0]` stands at position `start` of the table, counted from 0."""

    start: int
    rows: list[Values]


GAVE_UP = "; gave up after "
"""What stands between the cause of a row's error and how long it was tried."""


class Status(StrEnum):
    """How a row ended: the value of `infer_status`."""

    OK = "ok"
    INVALID = "invalid"
    ERROR = "error"


class Result(NamedTuple):
    """How a row ended, as its line in a chunk file says it."""

    status: Status
    answer: str
    error: str


class RowState(NamedTuple):
    """How a row stands.

    Attributes:
        key: of its question.
        result: the id of its result, or None.
        leader: the position of the row that is asked in its place, or None.
        followers: how many rows it is asked for beside itself.
    """

    key: bytes
    result: int | None
    leader: int | None = None
    followers: int = 0


LARGEST_CELL = 2**25
"""Characters of a cell of a CSV file: more than any model reads or writes, and little enough (128 MiB while it is
parsed) that a quote which is never closed does not swallow the memory before it is noticed."""

MOST_TOKENS = 2**24
"""Model tokens that one call can use at most: the longest context window on sale has 10 million."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server says that a call used, in model tokens.

    Attributes:
        prompt_tokens: of the question; None where the server does not say it.
        completion_tokens: of the answer, as they are billed: reasoning included; None where the server does not say it.
        cached_tokens: those of `prompt_tokens` that came from the server's cache.
        reasoning_tokens: those of `completion_tokens` that the model thought with.
        implausible: what the server said of more than `MOST_TOKENS`, as text; such a number counts as not said.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    implausible: str = field(default="", compare=False)

    @property
    def total_tokens(self) -> int | None:
        """Those of question and answer, or None where one of the two is not known."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens


class Bound(NamedTuple):
    """The most that a request may use and cost; None where nothing bounds it, or no price is known.

    Attributes:
        prompt_tokens: of its question.
        completion_tokens: of all its answers.
        cost: in nano-dollars.
        answer_cost: the part of `cost`, in nano-dollars, that is the same whatever the question's length; None where
            the two cannot be told apart.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: int | None = None
    answer_cost: int | None = None


class Allowance(NamedTuple):
    """One limit as a server states it: how much of it, what is left, and the seconds until it is whole again."""

    limit: float | None
    remaining: float | None
    reset_s: float | None


class ServerLimits(NamedTuple):
    """The limits that a server states beside an answer or a refusal; None where it says nothing of one."""

    requests: Allowance | None
    tokens: Allowance | None


@dataclass(frozen=True, slots=True)
class Completion:
    """What a call returned.

    Attributes:
        text: the answer's text, or its tool calls as JSON; None where the server sent no content at all.
        finish_reason: why the model stopped, if the server said it.
        usage: what the call used.
        refusal: what the model said instead of an answer, if it refused.
        limits: what the server says of its limits, if it does.
        id: what the server calls the answer, or empty; two completions that differ in it alone are equal.
    """

    text: str | None
    finish_reason: str | None = None
    usage: Usage = Usage()
    refusal: str | None = None
    limits: ServerLimits | None = None
    id: str = field(default="", compare=False)


class Fault(StrEnum):
    """Where an attempt failed, when it was not an HTTP status that says so.

    `MIXED_UP` is a response that belongs to another request, `TOO_LONG` one of more bytes than it may have.
    """

    STATUS = "status"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    PROTOCOL = "protocol"
    MIXED_UP = "mixed up"
    TOO_LONG = "too long"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt.

    Attributes:
        fault: what kind of failure; `Fault.STATUS` where the server answered with an HTTP status.
        message: what the server or the library said, in one line.
        status: the HTTP status, if there was one.
        code: the `code` or `type` of the server's error object, if it sent one.
        retry_after: seconds that the server asked us to wait, if it did.
        limits: what the server says of its limits, if it does.
        may_be_billed: the request had left and no HTTP error came back for it, so that the server may have answered.
    """

    fault: Fault
    message: str
    status: int | None = None
    code: str | None = None
    retry_after: float | None = None
    limits: ServerLimits | None = None
    may_be_billed: bool = False

    def __str__(self) -> str:
        if self.status is None:
            return self.message
        code = f" ({self.code})" if self.code else ""
        return f"HTTP {self.status}{code}: {self.message}"


class Source(NamedTuple):
    """Who gave an answer. Two endpoints that differ in API key or limits alone are one source.

    `params` are the endpoint's own request parameters as canonical JSON, or empty.
    """

    model: str
    base_url: str
    params: str = ""


@dataclass(frozen=True, slots=True)
class EndpointCount:
    """What one endpoint did in this run: its label, requests sent, and why it left the pool if it did."""

    endpoint: str
    requests: int
    out: str | None = None

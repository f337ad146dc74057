"""The values that pass between the modules: small, frozen, and free of behaviour that needs a library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

Message = dict[str, Any]
"""One message of a chat, as the protocol has it: at least `role` and `content`."""

Values = tuple[object, ...]
"""The values of one input row, in the order of the table's columns."""


class Image(dict[str, Any]):
    """A part of a message that stands for an image, until its request leaves.

    Its items say what it shows (the SHA-256 of its bytes) and in which size it is sent. So a key that is made of them
    does not depend on the image's place.

    Args:
        items: of the part.
        name: for people: its path, or what else it is.
        content: its bytes, or the path of its file.
    """

    __slots__ = ("content", "name")

    def __init__(self, items: Mapping[str, Any], name: str, content: bytes | str) -> None:
        super().__init__(items)
        self.name = name
        self.content = content


NO_PARAMS: Mapping[str, Any] = MappingProxyType({})


class Task(StrEnum):
    """What a model is to do with a row. A completion or an embedding has one message, whose content is its text."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"


class Terms(NamedTuple):
    """How a row asks, if it differs from the other rows of its run.

    Attributes:
        task: what to do.
        model: the one to ask if an endpoint has it; empty: any.
        params: request parameters of its own, which win over those of the run.
    """

    task: Task = Task.CHAT
    model: str = ""
    params: Mapping[str, Any] = NO_PARAMS


NO_TERMS = Terms()


class Stratum(NamedTuple):
    """Rows of which one draw has taken some at random.

    Attributes:
        label: the model's label of all of them; None: they have none, or the draw was from all rows.
        rows: their number.
        drawn: how many of them the draw took.
        below: the highest number among those it took (`batcher.quality.drawing`): it took all up to that.
    """

    label: str | None
    rows: int
    drawn: int
    below: float

    @property
    def chance(self) -> float:
        """The chance of each of the rows to be drawn."""
        return self.drawn / self.rows if self.rows else 0.0


class Question(NamedTuple):
    """What a row asks.

    Attributes:
        messages: of the chat; of another task one message.
        terms: how it asks.
        fault: why it cannot be asked, so that it ends as an error; empty if it can.
    """

    messages: list[Message]
    terms: Terms = NO_TERMS
    fault: str = ""


class Slice(NamedTuple):
    """Consecutive input rows: `rows[0]` stands at position `start` of the table, counted from 0."""

    start: int
    rows: list[Values]


GAVE_UP = "; gave up after "
"""The words between the cause of a row's error and the attempts and seconds spent on the row."""


OF_AN_IMAGE = "image "
"""The word before the name of an image in a row's error; behind the name come `: ` and the cause."""


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


class Beside(NamedTuple):
    """What the journal has of an answer, as `--with` names it; empty if it is not known.

    Attributes:
        raw: the answer's text as the model wrote it, without its thoughts.
        reasoning: what the model thought before it answered.
        tokens: model tokens of prompt and answer together.
        prompt_tokens, completion_tokens: the two parts of it.
        cost: in US dollars.
        latency: seconds from the request to the answer.
        model: the model that answered, as the service names it.
        attempts: the requests that were sent for the row's question.
        finish: why the model stopped.
        form: how labels or a schema were asked for.
        request_id: what the service calls the answer.
        agreement: the share of the answers to the row that agree with the one that most agree on, from 0 to 1.
        votes: the answers to the row and how often each came, as JSON.
        confidence: how likely the model finds its label, from 0 to 1.
        by: who gave the answer: the model that was asked, or `hand`.
        tier: the service tier that answered, as the service names it; `batch`: it came with a batch.
    """

    raw: str = ""
    reasoning: str = ""
    tokens: str = ""
    prompt_tokens: str = ""
    completion_tokens: str = ""
    cost: str = ""
    latency: str = ""
    model: str = ""
    attempts: str = ""
    finish: str = ""
    form: str = ""
    request_id: str = ""
    agreement: str = ""
    votes: str = ""
    confidence: str = ""
    by: str = ""
    tier: str = ""


class RowState(NamedTuple):
    """The state of a row.

    Attributes:
        key: of its question.
        result: the id of its result, or None.
        leader: the position of the row that is asked in its place, or None.
        followers: the number of other rows that get its answer.
        out: how many lines of batches about it have no end yet; 0 if it has its result.
    """

    key: bytes
    result: int | None
    leader: int | None = None
    followers: int = 0
    out: int = 0


LARGEST_CELL = 2**25
"""The most characters in a cell of a CSV file: more than any model reads or writes, but few enough (128 MiB while it is
parsed) that an unclosed quote is noticed before it fills the memory."""

MOST_TOKENS = 2**24
"""Model tokens that one call can use at most: the longest context window on sale has 10 million."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The model tokens that a call used, as the server reports them.

    Attributes:
        prompt_tokens: of the prompt; None if the server does not report them.
        completion_tokens: of the answer, as they are billed: reasoning included; None if the server does not report
            them.
        cached_tokens: those of `prompt_tokens` that came from the server's cache.
        reasoning_tokens: those of `completion_tokens` that the model used for reasoning.
        implausible: reported numbers above `MOST_TOKENS`, as text; such a number counts as not reported.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    implausible: str = field(default="", compare=False)

    @property
    def total_tokens(self) -> int | None:
        """Prompt and completion tokens together, or None if either is unknown."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens


class Bound(NamedTuple):
    """The most that a request may use and cost; None if nothing bounds it, or no price is known.

    Attributes:
        prompt_tokens: of its prompt.
        completion_tokens: of all its answers.
        cost: in nano-dollars.
        answer_cost: the part of `cost`, in nano-dollars, that does not depend on the length of the prompt; None if the
            parts cannot be separated.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: int | None = None
    answer_cost: int | None = None

    def saving(self, prompt_tokens: int) -> int:
        """Return the nano-dollars by which the cost is lower for a prompt that is known to have this many tokens."""
        if self.cost is None or self.answer_cost is None or not self.prompt_tokens:
            return 0
        of_prompt = self.cost - self.answer_cost
        return max(of_prompt * (self.prompt_tokens - prompt_tokens) // self.prompt_tokens, 0)


class Allowance(NamedTuple):
    """One limit from rate-limit headers: its size, what is left of it, and the seconds until it is full again."""

    limit: float | None
    remaining: float | None
    reset_s: float | None


class ServerLimits(NamedTuple):
    """The limits in the rate-limit headers of a response; None for a limit that they do not report."""

    requests: Allowance | None
    tokens: Allowance | None


class ModelToken(NamedTuple):
    """A token of an answer.

    Attributes:
        text: its bytes, which may be a part of a character.
        logprob: the natural logarithm of its probability, given all before it; NaN if it is not known.
    """

    text: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Completion:
    """What a call returned.

    Two completions that differ only in `id`, `model`, `reasoning`, `raw`, `choices` or `scored` are equal.

    Attributes:
        text: the answer's text, its tool calls as JSON, or a JSON list of several answers; None if the server sent no
            content at all.
        finish_reason: why the model stopped, if the server said it.
        usage: what the call used.
        refusal: what the model said instead of an answer, if it refused.
        limits: the limits in its rate-limit headers, if it sent any.
        id: what the server calls the answer, or empty.
        service_tier: the service tier that served the request, if the server named it.
        model: the model that answered, as the server names it, or empty.
        reasoning: what the model thought before it answered, if the server sent it; of several answers a JSON list.
        raw: the body of the response without API keys; empty if the caller does not see it.
        vectors: of embeddings, one for each input, in their order: little-endian 32-bit floats in base64
            (`batcher.answer.vectors`). `text` is then the only one, or a JSON list of all.
        is_open: all that came is a thought that never closes.
        as_it_came: the same with the thoughts still in the text; None if there were none.
        choices: the number of answers that came.
        scored: the tokens that the model wrote, its thoughts perhaps among them, if it was asked for `logprobs`; of
            several answers none.
    """

    text: str | None
    finish_reason: str | None = None
    usage: Usage = Usage()
    refusal: str | None = None
    limits: ServerLimits | None = None
    id: str = field(default="", compare=False)
    service_tier: str | None = None
    model: str = field(default="", compare=False)
    reasoning: str = field(default="", compare=False)
    raw: bytes = field(default=b"", compare=False, repr=False)
    vectors: tuple[str, ...] = field(default=(), repr=False)
    is_open: bool = False
    as_it_came: Completion | None = field(default=None, compare=False, repr=False)
    choices: int = field(default=1, compare=False)
    scored: tuple[ModelToken, ...] = field(default=(), compare=False, repr=False)

    @property
    def characters(self) -> int:
        """The length of its text and its reasoning."""
        return len(self.text or "") + len(self.reasoning)


class Fault(StrEnum):
    """The kind of a failure.

    `MIXED_UP` is a response that belongs to another request, `TOO_LONG` one of more bytes than it may have.
    `UNREACHABLE` is a failed connection that no wait heals: a certificate, an unknown host name, a proxy's password.
    `WORKER` says nothing about the row or the service: the process elsewhere that made the call was lost, or does not
    reach the service while others do.
    """

    STATUS = "status"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    UNREACHABLE = "unreachable"
    PROTOCOL = "protocol"
    MIXED_UP = "mixed up"
    TOO_LONG = "too long"
    WORKER = "worker lost"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt.

    Two failures that differ only in `codes`, `words`, `is_page`, `is_final` or a later attribute are equal.

    Attributes:
        fault: the kind of failure; `Fault.STATUS` if the server answered with an HTTP status.
        message: what the server or the library said, in one line.
        status: the HTTP status, if there was one.
        code: the `code` or `type` of the server's error object, if it sent one.
        retry_after: seconds that the server asked us to wait, if it did.
        limits: the limits in its rate-limit headers, if it sent any.
        may_be_billed: the request had left and no HTTP error came back for it, so that the server may have answered.
        codes: every code, type and reason of the error object, the most precise first, in lower case.
        words: the message in lower case, without the parts that quote the request; None: it was not read so.
        is_page: the body of an HTTP error is a page or a text, not an error object of an API.
        is_final: the server asks not to try again.
        generated: what the model wrote, if the service refused to pass it on as an answer (Groq's
            `json_validate_failed`).
        partial: what had come of a streamed answer that was cut off; None if nothing had.
        left_out: the parameter that was refused and that batcher itself had added: it is not sent there any more, so
            that the same row is asked again without it.
    """

    fault: Fault
    message: str
    status: int | None = None
    code: str | None = None
    retry_after: float | None = None
    limits: ServerLimits | None = None
    may_be_billed: bool = False
    codes: tuple[str, ...] = field(default=(), compare=False)
    words: str | None = field(default=None, compare=False)
    is_page: bool = field(default=False, compare=False)
    is_final: bool = field(default=False, compare=False)
    generated: str = field(default="", compare=False)
    partial: Completion | None = field(default=None, compare=False, repr=False)
    left_out: str = field(default="", compare=False)

    @property
    def said(self) -> str:
        """Codes and words together in lower case, to search in."""
        codes = self.codes or ((self.code or "").lower(),)
        return f"{' '.join(codes)} {self.message.lower() if self.words is None else self.words}"

    def __str__(self) -> str:
        if self.status is None:
            return self.message
        code = f" ({self.code})" if self.code else ""
        return f"HTTP {self.status}{code}: {self.message}"


class Source(NamedTuple):
    """The origin of an answer. Endpoints that differ only in API key or limits are one source.

    `base_url` is the name of an endpoint that has one. `params` are the endpoint's own request parameters as canonical
    JSON, or empty.
    """

    model: str
    base_url: str
    params: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom a run asks: a model at a base URL, and where its API keys came from.

    Attributes:
        model: its name.
        base_url: without user and query; empty if it is not known.
        keys: the number of API keys; 0 if none is sent, or a chat model of the user's has its own.
        keys_from: the origin of each group of keys, in words; never a key.
        missing: the variables that `run` needs and that are not set, in words; empty if nothing is missing.
    """

    model: str
    base_url: str
    keys: int
    keys_from: tuple[str, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointCount:
    """What one endpoint did in this process: its label, requests sent, and why it left the pool if it did."""

    endpoint: str
    requests_now: int
    out: str | None = None

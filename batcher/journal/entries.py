"""The values that go into the journal and come out of it.

Invariant: they are frozen, and know neither SQLite nor the file.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Any, NamedTuple

from batcher.answer.reading import is_cut
from batcher.equality import rewritten
from batcher.records import Beside, Bound, Completion, Fault, Result, Source, Usage

_HASH = 16  # bytes of the hash of a chunk file's origin

UNSENT = "unsent"
"""The outcome of an intent whose request did not leave."""
NO_CAPACITY = "no capacity"
"""The outcome of a request that was refused because its service tier had no capacity; it cost nothing."""
UNFIT = "unfit"
"""The outcome of a request whose answer did not fit, so that its row was asked again."""
HEDGED = "hedged"
"""The outcome of one of two requests about a row (`--hedge`), if the answer to the other one overtook it."""
WORKER_LOST = Fault.WORKER.value
"""The outcome of a request that was out at a worker that was lost (`--ray`); its row is asked again."""
TOO_LARGE = "too large"
"""The outcome of a request whose answer is too large for SQLite or a CSV file."""
EXPIRED = "expired"
"""The outcome of a line of a batch that the service did not get to in time."""
CANCELLED = "cancelled"
"""The outcome of a line of a batch that was cancelled before the service got to it."""
LOST = "lost"
"""The outcome of a line about which the service said nothing, although its batch is over."""


class Request(NamedTuple):
    """An attempt that is about to leave.

    Attributes:
        id: its number in the journal.
        position: of the row.
        key: of the row's question.
        endpoint: the endpoint's place in the pool, from 0.
        source: the id of its source.
        shared: all lines of a request that several rows share, the first of which is this one; none if the row has it
            alone.
        weight: the row's share of what the request uses and costs, compared with those of the others.
        sent_in: the id of the batch that it is a line of, as `Reader.lines` returns it; None: it was sent by itself.
    """

    id: int
    position: int
    key: bytes
    endpoint: int
    source: int
    shared: tuple[Request, ...] = ()
    weight: int = 1
    sent_in: int | None = None


class BatchState(StrEnum):
    """How far a batch is; see the table `batches`."""

    MADE = "made"
    """It is recorded, and nothing of it has left."""
    UPLOADING = "uploading"
    """Its file is about to go up, or may be there."""
    UPLOADED = "uploaded"
    """The service has its file."""
    CREATING = "creating"
    """It is about to be created, or may have been."""
    SENT = "sent"
    """The service has it."""
    OVER = "over"
    """The service is done with it, and what came is being read."""
    DONE = "done"
    """Each of its lines has an end."""
    DROPPED = "dropped"
    """It never came to be: each of its lines is `unsent`."""


_Hash = bytes  # `Batch` has a column of that name


class Batch(NamedTuple):
    """A job of a service's batch API; see the table `batches`, whose columns these are.

    Attributes:
        id: 0 until it is recorded.
        run: 0 until it is recorded.
    """

    id: int = 0
    run: int = 0
    endpoint: int = 0
    source: int = 0
    name: str = ""
    made: float = 0.0
    state: BatchState = BatchState.MADE
    url: str = ""
    form: str = ""
    requests: int = 0
    bytes: int = 0
    tokens: int = 0
    sha256: _Hash = b""
    input_file: str | None = None
    service_id: str | None = None
    service_state: str = ""
    submitted: float | None = None
    expires: float | None = None
    ended: float | None = None
    completed: int | None = None
    failed: int | None = None
    output_file: str | None = None
    error_file: str | None = None
    why: str = ""

    @property
    def is_open(self) -> bool:
        """Whether one of its lines may have no end yet."""
        return self.state not in {BatchState.DONE, BatchState.DROPPED}


class Line(NamedTuple):
    """A line of a batch.

    Attributes:
        request: what is recorded of it; its position is where its row stands now.
        bound: the most that it may use and cost: it is charged that much.
        followers: the number of rows with the same question that are not sent and get its result too.
        is_answered: no row waits for it: its row has a result by now, is gone, or asks something else.
        has_ended: it has its end; `bound` is then what it cost.
    """

    request: Request
    bound: Bound
    followers: int
    is_answered: bool
    has_ended: bool = False


class BatchCounts(NamedTuple):
    """What became of the lines of a batch.

    Attributes:
        batch: the batch.
        lines: that the journal has of it.
        answered: that have an answer, `too large` ones included.
        unfit: whose answer did not fit.
        failed: by outcome, an HTTP status or the name of another failure, how many lines ended so.
        expired, cancelled, lost, unsent: lines with these outcomes.
        open: lines without an end.
        cost: nano-dollars of the answers, as far as prices are known.
        uncertain: the most nano-dollars of the others that may be billed, open ones included.
        unpriced: lines of an unknown price that were answered, or may be billed.
    """

    batch: Batch
    lines: int
    answered: int
    unfit: int
    failed: Mapping[str, int]
    expired: int
    cancelled: int
    lost: int
    unsent: int
    open: int
    cost: int
    uncertain: int
    unpriced: int


class Sent(NamedTuple):
    """A row that is about to share a request with others; see `Request`."""

    position: int
    key: bytes
    weight: int


class Outcome(NamedTuple):
    """How an attempt ended.

    Attributes:
        name: `answered`, `UNFIT`, or the name of the failure.
        usage: the model tokens that the attempt used.
        cost: in nano-dollars; None if it is unknown.
        completion: what came, if it was answered: what the result does not hold is kept beside it.
        form: how the answer was asked for; None: as it comes.
        confidence: how likely the model finds its label; None: not known.
    """

    name: str
    usage: Usage = Usage()
    cost: int | None = None
    completion: Completion | None = None
    form: str | None = None
    confidence: float | None = None

    @property
    def is_cut(self) -> bool:
        """Whether an answer came that was cut off at the most tokens that it may have."""
        return self.completion is not None and is_cut(self.completion)

    def divided(self, requests: Sequence[Request]) -> list[Outcome]:
        """Return the outcome of each of the lines that are one request: tokens and cost are divided among them."""
        weights, used = [request.weight for request in requests], self.usage
        counts = (used.prompt_tokens, used.completion_tokens, used.cached_tokens, used.reasoning_tokens, self.cost)
        each = zip(*(divided(count, weights) for count in counts), strict=True)
        usages = [
            (Usage(prompt, given, cached or 0, thought or 0), cost) for prompt, given, cached, thought, cost in each
        ]
        return [self._replace(usage=usage, cost=cost) for usage, cost in usages]


def divided(total: int | None, weights: Sequence[int]) -> list[int] | list[None]:
    """Divide a number by weights into whole numbers whose sum is exactly that number; None is unknown for all."""
    if total is None:
        return [None] * len(weights)
    whole, ends = max(sum(weights), 1), [0]
    for weight in weights:
        ends.append(ends[-1] + weight)
    ends[-1] = whole
    return [total * end // whole - total * start // whole for start, end in pairwise(ends)]


class Opinion(NamedTuple):
    """One of several answers to a row; see the table `opinions`.

    Attributes:
        id: of the request that brought it.
        source: the id of its source.
        result: how asking ended.
        confidence: how likely the model finds its label; None: not known.
    """

    id: int
    source: int
    result: Result
    confidence: float | None = None


class Votes(NamedTuple):
    """What a result is made of; see the table `votes`.

    Attributes:
        answers: how many came.
        for_it: how many of them agree.
        is_tied: another answer has as many.
        confidence: the mean of those `for_it`; None: not known.
        source: the id of the source of the answer that counts.
        opinions: the ids of the answers that are in the journal already.
        own: the answer that the result's own request brought, if it is one of those voted on, or a second endpoint's
            that is no result, because it does not fit or none came.
    """

    answers: int
    for_it: int
    is_tied: bool
    confidence: float | None
    source: int
    opinions: tuple[int, ...] = ()
    own: Result | None = None


class Again(NamedTuple):
    """A row that is asked once more although it has its result (`--repeat-sample`).

    Attributes:
        position, key: of the row.
        result: the id of its result; None: it has none yet.
        answers: how many answers to asking it again are there.
    """

    position: int
    key: bytes
    result: int | None
    answers: int


class Repeated(NamedTuple):
    """A row that was asked once more (`--repeat-sample`), and what came of it.

    Attributes:
        position: of the row.
        result: of the row: a model's, also if a person has corrected it since.
        again: the result of asking it once more, in the same way: with several answers to a row, what they agree on.
    """

    position: int
    result: Result
    again: Result


class InFlight(NamedTuple):
    """Requests that have no recorded end.

    Attributes:
        requests: their number.
        most: the most nano-dollars that they may cost; None if the price of any is unknown.
    """

    requests: int
    most: int | None


class Response(NamedTuple):
    """What the journal has of the response to a row.

    Attributes:
        result: how the row ended.
        is_by_hand: a person gave that result; the rest is of the answer that it replaces.
        body: as it came, compressed (zlib); None if it is not kept.
        request_id: what the service calls the answer.
        model: that answered, as the service names it.
        finish_reason: why the model stopped, if the service said it.
    """

    result: Result
    is_by_hand: bool
    body: bytes | None
    request_id: str
    model: str
    finish_reason: str | None


class Usual(NamedTuple):
    """The averages of an answer: model tokens, and nano-dollars; `cost` is None if no price was known."""

    prompt_tokens: float
    completion_tokens: float
    cost: float | None


class Spent(NamedTuple):
    """The money spent, in nano-dollars, as far as prices are known.

    Attributes:
        answered: for requests that were answered.
        uncertain: the most for requests without an answer that may be billed.
        unpriced_answers: answered requests of an unknown price.
        unpriced_others: requests without an answer of an unknown price.
    """

    answered: int
    uncertain: int
    unpriced_answers: int
    unpriced_others: int

    @property
    def total(self) -> int:
        return self.answered + self.uncertain

    @property
    def cost(self) -> int | None:
        """What the answers cost; None if the price of some is unknown."""
        return None if self.unpriced_answers else self.answered

    @property
    def unpriced(self) -> int:
        """The number of requests of an unknown price."""
        return self.unpriced_answers + self.unpriced_others


class Totals(NamedTuple):
    """What one process of a run, or all of them, sent and got.

    Attributes:
        requests: that were sent; each was answered, failed, was overtaken by the answer to another (`hedged`), was out
            at a worker that was lost (`worker_lost`), or has no end.
        retries: those of them that were a further attempt of their process at a row, without those overtaken and lost.
        prompt_tokens, completion_tokens: model tokens of the answers; None if a server did not report some.
        spent: their cost.
        worker_lost_most: the most nano-dollars that those lost may cost, which `spent` has, too; None if the price of
            any is unknown.
    """

    requests: int
    answered: int
    failed: int
    out: int
    retries: int
    prompt_tokens: int | None
    completion_tokens: int | None
    spent: Spent
    hedged: int = 0
    worker_lost: int = 0
    worker_lost_most: int | None = 0


class Chunk(NamedTuple):
    """A chunk file as it was last written.

    Attributes:
        rows: the number of its rows.
        origin: a hash of all that it was made from; empty if the file was adopted as it is. With `lacking` behind it,
            rows were corrected on the page since.
        sha256: of the file.
    """

    rows: int
    origin: bytes
    sha256: bytes

    @property
    def made_from(self) -> bytes:
        """The hash alone."""
        return self.origin[:_HASH]

    @property
    def lacks(self) -> int | None:
        """The id of the first correction on the page that the file lacks; None if it lacks none."""
        return -int.from_bytes(self.origin[_HASH:]) if len(self.origin) > _HASH else None


def lacking(number: int) -> bytes:
    """Return what stands behind a chunk file's origin if it lacks a correction of this id, and later ones."""
    return (-number).to_bytes(8)


UNWRITTEN = Chunk(0, b"", b"")
"""A chunk file that is about to be written: if there is a file, a copy of it is kept."""


class Counts(NamedTuple):
    """Rows by how they ended."""

    rows: int
    ok: int
    invalid: int
    error: int

    @property
    def left(self) -> int:
        return self.rows - self.ok - self.invalid - self.error


class LastRun(NamedTuple):
    """The latest process that worked on a keyword; `started` and `ended` are seconds since the epoch."""

    id: int
    host: str
    pid: int
    started: float
    ended: float | None
    outcome: str | None
    chunk_size: int
    question: dict[str, Any]

    @property
    def is_here(self) -> bool:
        """Whether it ran on this machine."""
        return self.host == socket.gethostname()

    @property
    def may_be_at_work(self) -> bool:
        """Whether it may be running although its lock file is gone; `locking.is_at_work` asks the lock.

        It errs on the safe side: another program may have its process id by now, and other hosts cannot be seen.
        """
        return self.ended is None and (not self.is_here or _is_alive(self.pid))

    @property
    def process(self) -> str:
        return f"process {self.pid} on {self.host}"


def _is_alive(pid: int) -> bool:
    """Return whether a process runs on this machine. On Windows there is no safe way to ask: assume it does."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


BY_HAND = ("limited by hand", "paused by hand", "resumed by hand", "cancelled by hand")
"""The kinds of events that record what people changed in a run at work, and that they cancelled its batches."""
BATCHES_CANCELLED = "its batches were cancelled"
"""How a run ended whose batches were cancelled by hand."""
READ_AS = "read as"
"""The kind of an event that records how answers in batches are read, besides the labels or the schema."""
JOINED = "joined"
"""The kind of an event that records a result file before it is in its place."""
REFUSED_BY_HAND = "refused by hand"
"""The kind of an event that records why a run did not do what was asked for."""
UNCHANGED_BY_HAND = "unchanged by hand"
"""The kind of an event that records that what was asked for was so already."""
DECIDED = "decided by hand"
"""The kind of an event that records that a run has taken what a person decided on the page."""
OVERTAKEN = "overtaken by hand"
"""The kind of an event that records that a row had another result by then than the person saw."""
CORRECTED = "corrected by hand"
"""The kind of an event that records which result a person's correction replaces."""
READ = "workbook read"
"""The kind of an event that records a workbook whose corrections are in the journal."""
LEFT_OUT = "left out"
"""The kind of an event that records a parameter of batcher's own that an endpoint refuses, and is asked without."""
IGNORED = "ignored"
"""The kind of an event that records a parameter that an endpoint accepts and ignores."""
DUE = "due"
"""The kind of the journal's events that hold the moment by which a run shall be finished (`--by`, `--within`)."""
FORECAST = "forecast"
"""The kind of the journal's events that say whether a run will be finished by then."""
RESERVED = "numbers reserved"
"""The kind of an event that records ids of requests that are for batches, whether or not they are made."""
PLANNED = "planned"
"""The kind of an event that records what a process expects before its first request, and with which versions."""


class Correction(NamedTuple):
    """An answer that a person has given a row in a chunk file.

    Attributes:
        position, key: of the row.
        result: as the file has it.
        beside: what stays beside the answer.
        replaces: the id of the result that the row had; None if it had none.
        origin: the name of the file.
    """

    position: int
    key: bytes
    result: Result
    beside: Beside
    replaces: int | None
    origin: str


class Decision(NamedTuple):
    """What a person has decided about a row on the page.

    Attributes:
        position: of the row.
        seen: the id of the result that the person saw; None: the row had none.
        result: the answer of the person; None: the latest decision about the row is taken back.
        who: the name of the person.
        why: what the person says about it.
    """

    position: int
    seen: int | None
    result: Result | None
    who: str
    why: str


class Workbook(NamedTuple):
    """A workbook that a person saved beside a chunk file: its name, and its SHA-256."""

    name: str
    sha256: bytes


class ByHand(NamedTuple):
    """What a person changed in a run at work, or asked for in vain.

    Attributes:
        at: the time, in seconds since the epoch.
        kind: of the event.
        request: the id of the request.
        said: what changed, such as `rpm 600 -> 300`; or what was so already; or why it was refused.
    """

    at: float
    kind: str
    request: str
    said: str

    @property
    def is_refused(self) -> bool:
        return self.kind == REFUSED_BY_HAND

    @property
    def is_pause(self) -> bool:
        return self.kind == BY_HAND[1]

    @property
    def is_resumption(self) -> bool:
        return self.kind == BY_HAND[2]


class RowRecord(NamedTuple):
    """A row and its result as the journal holds them; the texts are bytes.

    Attributes:
        position, key: of the row.
        cells: the marks of its cells; see `batcher.input.marks`.
        is_kept: if the row keeps an answer to an earlier question, the proof that the answer is its own (see `kept`); 1
            if an older batcher decided it.
        result: the id that it points at, or None.
        found: the same id, or None if that result does not exist.
        answered: the key of the question that the result answers.
        source: the id of its source.
        run: the process that asked, or None if it was not brought by a request.
        sealed: the result's seal, or None if an older batcher wrote it.
        status, answer, error: how the row ended.
        beside: what else the files hold of it (`--with`), in the order of their columns.
    """

    position: int
    key: bytes
    cells: bytes | None
    is_kept: bytes | int | None
    result: int | None
    found: int | None
    answered: bytes
    source: int
    run: int | None
    sealed: bytes | None
    status: bytes
    answer: bytes
    error: bytes
    beside: tuple[bytes, ...] = ()


class EndpointTotals(NamedTuple):
    """The totals of one endpoint's requests to one source; money in nano-dollars.

    Attributes:
        endpoint: its place in the pool, from 0.
        model, base_url: of the source.
        sent: requests; each was answered, failed, was overtaken by the answer to another (`hedged`), was out at a
            worker that was lost (`worker_lost`), or has no end.
        cost: of the answered requests, as far as their price is known.
        uncertain: the most that the others may be billed.
        unpriced: requests of an unknown price.
    """

    endpoint: int
    model: str
    base_url: str
    sent: int
    answered: int
    failed: int
    in_flight: int
    cost: int
    uncertain: int
    unpriced: int
    hedged: int = 0
    worker_lost: int = 0


def source_of(recorded: Sequence[Any]) -> Source:
    """Return a source as it is recorded: model, base URL and parameters. Equal numbers in its parameters are equal."""
    model, base_url, params = recorded
    return Source(model, base_url, rewritten(params))


class Proof(StrEnum):
    """The proof that an answer to an earlier question is a row's own."""

    COLUMNS = "c"
    """The columns that the earlier question used are unchanged."""

    ID = "i"
    """The row has the same id, in a column that the user named."""

    OLDER = "o"
    """An older batcher decided it, and may have gone by the row's position."""


def kept(proof: str, key: bytes, result: int) -> bytes:
    """Return a row's value of `is_kept`: the proof, and a hash that binds the kept answer to the row's question.

    Args:
        proof: one of `Proof`.
        key: of the row's question now.
        result: the id of the answer.
    """
    text = proof.encode()
    return text + hashlib.blake2b(b"%s %s %d" % (text, key, result), digest_size=8).digest()


def seal(key: bytes, result: Result) -> bytes:
    """Return a hash that binds a result to its question, so that `verify` detects changes by a disk or by hand."""
    text = f"{result.status}\0{result.answer}\0{result.error}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(key + text, digest_size=8).digest()


def is_sealed(row: RowRecord) -> bool:
    """Return whether a row's result is unchanged since it was sealed."""
    text = b"\0".join((row.status, row.answer, row.error))
    return row.sealed == hashlib.blake2b(row.answered + text, digest_size=8).digest()

"""The values that the journal takes and gives.

Invariant: they are frozen, and know neither SQLite nor the file.
"""

from __future__ import annotations

import hashlib
import os
import socket
from enum import StrEnum
from typing import Any, NamedTuple

from batcher.records import Result, Usage

UNSENT = "unsent"
"""The outcome of an intent that came to nothing: the request did not leave."""
TOO_LARGE = "too large"
"""The outcome of a request whose answer neither SQLite nor a CSV file can hold."""


class Request(NamedTuple):
    """An attempt that is about to leave.

    Attributes:
        id: its number in the journal.
        position: of the row.
        key: of the row's question.
        endpoint: the endpoint's place in the pool, from 0.
        source: the id of its source.
    """

    id: int
    position: int
    key: bytes
    endpoint: int
    source: int


class Outcome(NamedTuple):
    """How an attempt ended.

    Attributes:
        name: `answered`, or the name of the failure.
        usage: what the attempt used.
        cost: in nano-dollars; None if it is not known.
    """

    name: str
    usage: Usage = Usage()
    cost: int | None = None


class InFlight(NamedTuple):
    """Requests without an end.

    Attributes:
        requests: how many there are.
        most: nano-dollars that they may cost at most; None if the price of one is not known.
    """

    requests: int
    most: int | None


class Usual(NamedTuple):
    """What an answer takes on average: model tokens, and nano-dollars; `cost` is None if no price was known."""

    prompt_tokens: float
    completion_tokens: float
    cost: float | None


class Spent(NamedTuple):
    """What was paid, in nano-dollars.

    Attributes:
        answered: for requests that were answered.
        uncertain: at most, for those that may be billed though no answer came.
        unpriced: requests of an unknown price.
    """

    answered: int
    uncertain: int
    unpriced: int

    @property
    def total(self) -> int:
        return self.answered + self.uncertain


class Chunk(NamedTuple):
    """A chunk file as it was last written.

    Attributes:
        rows: how many it holds.
        origin: a hash of what it was made from; empty if the file was adopted as it is.
        sha256: of the file.
    """

    rows: int
    origin: bytes
    sha256: bytes


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
    def is_at_work(self) -> bool:
        """Whether it has not ended, as far as this machine can see: on another host it may have been killed."""
        return self.ended is None and (not self.is_here or _is_alive(self.pid))

    @property
    def process(self) -> str:
        return f"process {self.pid} on {self.host}"


def _is_alive(pid: int) -> bool:
    """Return whether a process runs on this machine. On Windows there is no harmless way to ask: assume it does."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class RowRecord(NamedTuple):
    """A row and the result that it points at, as the journal has them; the texts are bytes.

    Attributes:
        position, key: of the row.
        cells: the marks of its cells; see `batcher.input.marks`.
        is_kept: if it keeps an answer to an earlier question, how that answer is known to be its own (see `kept`); 1 if
            an older batcher decided it.
        result: the id that it points at, or None.
        found: the same id, or None if there is no such result.
        answered: the key of the question that the result answers.
        source: the id of who gave it.
        run: the process that asked, or None if no request brought it.
        sealed: the result's seal, or None if an older batcher wrote it.
        status, answer, error: how the row ended.
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


class EndpointTotals(NamedTuple):
    """The requests of one endpoint to one source, added up; money in nano-dollars.

    Attributes:
        endpoint: its place in the pool, from 0.
        model, base_url: of the source.
        sent: requests; each was answered, failed, or has no end.
        cost: of the answered ones, as far as their price is known.
        uncertain: what the others may be billed at most.
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


class Proof(StrEnum):
    """How an answer to an earlier question is known to be a row's own."""

    COLUMNS = "c"
    """The columns that the earlier question read are the same."""

    ID = "i"
    """The row has the same id, in a column that the user named."""

    OLDER = "o"
    """An older batcher decided it, and may have gone by the row's position."""


def kept(proof: str, key: bytes, result: int) -> bytes:
    """Return what a row says of an answer that it keeps: the proof, and a hash that binds the answer to its question.

    Args:
        proof: one of `Proof`.
        key: of the row's question now.
        result: the id of the answer.
    """
    text = proof.encode()
    return text + hashlib.blake2b(b"%s %s %d" % (text, key, result), digest_size=8).digest()


def seal(key: bytes, result: Result) -> bytes:
    """Return a hash that binds a result to its question, so that `verify` sees what a disk or a hand has changed."""
    text = f"{result.status.value}\0{result.answer}\0{result.error}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(key + text, digest_size=8).digest()


def is_sealed(row: RowRecord) -> bool:
    """Return whether a row's result is as it was when it was sealed."""
    text = b"\0".join((row.status, row.answer, row.error))
    return row.sealed == hashlib.blake2b(row.answered + text, digest_size=8).digest()

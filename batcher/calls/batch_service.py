"""A run's view of a service's batch API: the Protocol of its client, and what is said through it.

Invariant: this module holds Protocols and records alone. A call never raises for an error of the service or the network
or of a file there; it returns a `Failure`. It raises only cancellation, and `OSError` for a local file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from batcher.records import NO_PARAMS, NO_TERMS, Completion, Failure, Message, Terms

NAME, KEYWORD = "batcher_batch", "batcher_keyword"
"""The keys of a batch's metadata that hold its name and the run's keyword."""

LINE_EXPIRED, LINE_CANCELLED = "batch_expired", "batch_cancelled"
"""The codes of the failure of a line that the service did not ask, because time was up or its batch was cancelled.
Whatever a service calls these two, a line that is read has these codes."""


class RemoteState(StrEnum):
    """The state of a batch as its service says it, in OpenAI's words; `UNKNOWN` is a word that is not known."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def is_over(self) -> bool:
        """Whether the batch will not change any more."""
        return self in (RemoteState.COMPLETED, RemoteState.FAILED, RemoteState.EXPIRED, RemoteState.CANCELLED)


class BatchError(NamedTuple):
    """An error of a batch as a whole, or of a line that made the service refuse it.

    Attributes:
        code: the service's, or empty.
        message: what it said, in one line without API keys.
        line: the number of the line of its file, from 1 on, if the service named one.
    """

    code: str
    message: str
    line: int | None = None


class Remote(NamedTuple):
    """A batch as its service describes it.

    Attributes:
        id: the service's name of it.
        state: in OpenAI's words.
        name: of its local record, from its metadata; empty if the service keeps none.
        input_file: the id of the file of its lines; empty if it is not said.
        created, expires, ended: times in seconds since the epoch; None: not said.
        total, completed, failed: lines, as the service counts them; None: not said.
        output_file, error_file: ids of the files with its results; empty: there is none (yet).
        errors: why it failed as a whole.
        said: the state in the service's own spelling.
        retry_after: the seconds after which the service wants to be asked again, if it said so.
    """

    id: str
    state: RemoteState
    name: str = ""
    input_file: str = ""
    created: float | None = None
    expires: float | None = None
    ended: float | None = None
    total: int | None = None
    completed: int | None = None
    failed: int | None = None
    output_file: str = ""
    error_file: str = ""
    errors: tuple[BatchError, ...] = ()
    said: str = ""
    retry_after: float | None = None


class BatchLimits(NamedTuple):
    """The most that a service takes; 0: not known, or no limit.

    Attributes:
        requests: lines of a batch.
        bytes: of its file.
        tokens: prompt tokens of a batch, or of all that wait together.
        at_once: batches that are not over at the same time.
        inputs: texts for embeddings in a batch.
        line_bytes: of a line.
    """

    requests: int
    bytes: int
    tokens: int = 0
    at_once: int = 0
    inputs: int = 0
    line_bytes: int = 0


class Answer(NamedTuple):
    """A line of a batch's output or error file.

    Attributes:
        custom_id: of the line that it answers.
        outcome: as if the line had been asked by itself. A failure has the status of the line's response, if there was
            one, and the code `LINE_EXPIRED` or `LINE_CANCELLED` if the service did not ask it.
    """

    custom_id: str
    outcome: Completion | Failure


class BatchService(Protocol):
    """The batch API of one endpoint.

    Attributes:
        limits: the most that the service takes.
    """

    @property
    def limits(self) -> BatchLimits: ...

    def line(
        self,
        custom_id: str,
        messages: Sequence[Message],
        params: Mapping[str, Any] = NO_PARAMS,
        terms: Terms = NO_TERMS,
    ) -> bytes:
        """Return a line of a batch's file, with its line break.

        Its body is that of a request which is sent by itself, byte for byte, except that a stream is never asked for.

        Args:
            custom_id: names the line.
            messages: of the row.
            params: further request parameters.
            terms: how the row asks.
        """

    def url(self, terms: Terms = NO_TERMS) -> str:
        """Return the path that the lines of such rows, and their batch, ask. A batch has lines of one path alone."""

    def read(self, line: bytes) -> Answer | None:
        """Read a line of an output or error file; None: it is empty, or the result of no line (cut off, no JSON)."""

    async def upload(self, path: Path, filename: str) -> str | Failure:
        """Upload a file of lines, in pieces, and return its id.

        Args:
            path: of the file.
            filename: its name at the service, by which `find_file` finds it.

        Raises:
            OSError: the file cannot be read.
        """

    async def find_file(self, filename: str) -> str | Failure | None:
        """Return the id of the newest uploaded file of a name; None: there is none, or the service lists no files."""

    async def create(self, input_file: str, name: str, url: str, keyword: str) -> Remote | Failure:
        """Make a batch of an uploaded file.

        Args:
            input_file: the file's id.
            name: of the batch's local record: in its metadata, and as the idempotency key.
            url: of its lines.
            keyword: of the run, in its metadata; without the characters that a service does not take.
        """

    async def find(self, name: str, input_file: str, since: float) -> list[Remote] | Failure:
        """Return the batches of a name or of an input file, the oldest first.

        Args:
            name: of the local record.
            input_file: the id of its file; empty: unknown.
            since: when the file was made, in seconds since the epoch: batches that are more than an hour older are not
                looked at.
        """

    async def look(self, batch: str) -> Remote | Failure:
        """Return what the service says of a batch; one that it does not know is a failure with the status 404."""

    async def cancel(self, batch: str) -> Remote | Failure:
        """Ask the service to cancel a batch, and return what it says then: often that it is being cancelled."""

    async def download(self, file: str, path: Path) -> Failure | None:
        """Write an output or error file into a local one, which exists only whole. An empty file is a file, too.

        Args:
            file: its id.
            path: of the local file; one that is there is replaced.

        Raises:
            OSError: the local file cannot be written.
        """

"""Brings batches to their services: the upload, the creation, and what a kill left of either.

Invariant: the journal has each step before it is taken and after it. A batch that may have been created is looked for
at the service, and made again only if it is not there; so there is never a second one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shlex
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from batcher.calls.batch_refusals import lacks_file, refused_as_full, refused_as_too_large, refused_for_good
from batcher.calls.batch_service import Remote, RemoteState
from batcher.engine.batching.filling import Place, in_thread
from batcher.engine.batching.lines import new_name
from batcher.engine.progress import Progress
from batcher.errors import BatcherError
from batcher.journal.entries import Batch, BatchState
from batcher.journal.writing import Journal
from batcher.output.csv_file import as_output_errors, replace, sha256_of
from batcher.output.directory import Store
from batcher.pool.blame import GIVES_UP_S, LEAVES_S, backoff
from batcher.records import Failure, Fault
from batcher.words import by_reader, counted, duration

T = TypeVar("T")

_LOOKS_S = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0)
"""The waits before each look for a batch that may have been created: a listing may lag behind."""
_LISTED_S = sum(_LOOKS_S)
"""The seconds after which a listing has what was created."""
_REFUSALS = 5
"""The refusals after which a call is not made again: a file that was just uploaded may not be known yet."""
_PASSING = {408, 409, 425, 429}
_UNLISTED = {404, 405, 501}


class Closed(Exception):
    """The run is stopping: what waited is left as the journal has it."""


class Stand(Enum):
    """How far a batch came."""

    SENT = auto()
    FULL = auto()
    """The queue of the service has no room: the file stays, and goes later."""
    TOO_LARGE = auto()
    REFUSED = auto()
    GONE = auto()
    """Its file is gone, and nothing of it has been created."""


class Submitted(NamedTuple):
    """What came of submitting a batch.

    Attributes:
        batch: as the journal has it now.
        stand: how far it came.
        why: it was refused.
    """

    batch: Batch
    stand: Stand
    why: str = ""


def file_name(batch: Batch) -> str:
    """Return the name of a batch's file at the service."""
    return f"batcher_{batch.name}.jsonl"


def did_nothing(remote: Remote) -> bool:
    """Return whether a batch was refused before a line of it was asked."""
    came = remote.output_file or remote.error_file or remote.completed or remote.failed
    return remote.state is RemoteState.FAILED and not came


def is_passing(failure: Failure) -> bool:
    """Return whether a call that failed so is worth making again, however often it fails."""
    if failure.status is None:
        return failure.fault is not Fault.UNREACHABLE
    return failure.status >= 500 or failure.status in _PASSING


class Patience:
    """Makes calls again that fail in a way that passes.

    Args:
        closing: set when the run is stopping.
        wait_s: the most seconds for a service that has not answered at all yet.
    """

    def __init__(self, closing: asyncio.Event, wait_s: float) -> None:
        self._closing = closing
        self._wait_s = wait_s
        self._answered: set[Place] = set()

    def record(self, place: Place) -> None:
        """Record that a service has answered."""
        self._answered.add(place)

    def has_answered(self, place: Place) -> bool:
        """Return whether a service has answered in this process."""
        return place in self._answered

    async def call(
        self, place: Place, make: Callable[[], Awaitable[T | Failure]], *, may_be_full: bool = False
    ) -> T | Failure:
        """Make a call until it succeeds, or fails in a way that no wait heals.

        Args:
            place: whose service is called.
            make: makes the call.
            may_be_full: the failure is returned, too, if it says that the queue is full.

        Raises:
            Closed: the run is stopping.
            BatcherError: the service has not answered for too long.
        """
        loop = asyncio.get_running_loop()
        began, failures = loop.time(), 0
        while True:
            came = await make()
            if not isinstance(came, Failure) or (may_be_full and refused_as_full(came)) or not is_passing(came):
                if not isinstance(came, Failure):
                    self.record(place)
                place.trouble = ""
                return came
            failures += 1
            if failures >= _REFUSALS and loop.time() - began >= self._most_s(place, came):
                place.trouble = ""
                raise BatcherError(f"{place.member.label} has not answered for {duration(loop.time() - began)}: {came}")
            wait_s = came.retry_after or backoff(failures, random.random())  # noqa: S311 - spreads waits
            place.trouble = f"{came}; again in {duration(wait_s)}"
            await self.sleep(wait_s)

    def _most_s(self, place: Place, failure: Failure) -> float:
        if place in self._answered or place.member.standing.is_known:
            return GIVES_UP_S
        return self._wait_s if failure.status is None or failure.status >= 500 else LEAVES_S

    async def sleep(self, seconds: float) -> None:
        """Wait.

        Raises:
            Closed: the run is stopping.
        """
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return
        raise Closed


class Submitter:
    """Submits batches, from wherever they stand.

    Args:
        journal: gets each step.
        store: has the files.
        patience: makes calls again.
        closing: set when the run is stopping: no further step is taken.
        progress: tells people what is odd.
    """

    def __init__(
        self, journal: Journal, store: Store, patience: Patience, closing: asyncio.Event, progress: Progress
    ) -> None:
        self._journal = journal
        self._store = store
        self._patience = patience
        self._closing = closing
        self._progress = progress

    async def submit(self, batch: Batch, place: Place) -> Submitted:
        """Upload the file of a batch, and create it.

        Args:
            batch: if its creation had begun before, `looked_for` has not found it.
            place: where it goes.

        Raises:
            Closed: the run is stopping.
            BatcherError: the service does not answer, or does not say which batches it has; or it is not known whether
                it has this one.
            OutputError: the journal cannot be written.
        """
        if batch.state in {BatchState.MADE, BatchState.UPLOADING}:
            uploaded = await self._upload(batch, place)
            if isinstance(uploaded, Submitted):
                return uploaded
            batch = uploaded
        return await self._create(batch, place)

    # -- The file

    async def _upload(self, batch: Batch, place: Place) -> Batch | Submitted:
        """Upload the file; return what came of the batch if that ends here."""
        service, name = place.service, file_name(batch)
        if batch.state is BatchState.UPLOADING:  # an earlier process may have done it
            found = await self._patience.call(place, lambda: service.find_file(name))
            if isinstance(found, str):
                return await self._journal.batch_moved(batch, state=BatchState.UPLOADED, input_file=found)
        path = self._store.batch_path(batch.name)
        if not await in_thread(_is_whole, path, batch):
            return Submitted(batch, Stand.GONE)
        batch = await self._journal.batch_moved(batch, state=BatchState.UPLOADING)
        for refusals in range(1, _REFUSALS + 1):
            self._check()
            with as_output_errors(path, "read"):
                came = await self._patience.call(place, lambda: service.upload(path, name), may_be_full=True)
            if isinstance(came, str):
                return await self._journal.batch_moved(batch, state=BatchState.UPLOADED, input_file=came)
            if end := await self._refused(batch, came, is_last=refusals == _REFUSALS):
                return end
            await self._patience.sleep(backoff(refusals, 1.0))
        raise AssertionError

    # -- The batch

    async def _create(self, batch: Batch, place: Place) -> Submitted:
        """Create a batch of an uploaded file."""
        is_unsure = batch.state is BatchState.CREATING
        loop = asyncio.get_running_loop()
        began, refusals, failures = loop.time(), 0, 0
        while True:
            self._check()
            batch = await self._journal.batch_moved(batch, state=BatchState.CREATING, submitted=time.time())
            came = await place.service.create(batch.input_file or "", batch.name, batch.url, self._store.keyword)
            if isinstance(came, Remote):
                place.trouble = ""
                return await self.adopted(batch, came)
            failures += 1
            if refused_as_full(came) or not is_passing(came):
                refusals += 1
                if end := await self._refused(batch, came, is_last=refusals >= _REFUSALS):
                    if is_unsure and end.stand is Stand.REFUSED and lacks_file(came):
                        raise _unknown(place, batch, self._store.keyword, f"{came}: is it the key of another account?")
                    return end
            elif came.may_be_billed or came.status is not None:
                is_unsure = True
                place.trouble = f"{came}; looking for the batch"
                if found := await self.looked_for(batch, place):
                    place.trouble = ""
                    return await self.adopted(batch, found)
            if loop.time() - began >= GIVES_UP_S:
                raise BatcherError(f"{place.member.label} makes no batch: {came}")
            wait_s = came.retry_after or backoff(failures, 1.0)
            place.trouble = f"{came}; again in {duration(wait_s)}"
            await self._patience.sleep(wait_s)

    async def _refused(self, batch: Batch, failure: Failure, *, is_last: bool) -> Submitted | None:
        """Return what a refusal means for a batch; None: the call is worth another attempt."""
        if refused_as_full(failure):
            is_uploaded = batch.input_file is not None
            state = BatchState.UPLOADED if is_uploaded else BatchState.MADE
            batch = await self._journal.batch_moved(batch, state=state, submitted=None)
            return Submitted(batch, Stand.FULL, str(failure))
        if refused_as_too_large(failure):
            return Submitted(batch, Stand.TOO_LARGE, str(failure))
        if why := refused_for_good(failure):
            return Submitted(batch, Stand.REFUSED, why)
        return Submitted(batch, Stand.REFUSED, str(failure)) if is_last or failure.status is None else None

    async def looked_for(self, batch: Batch, place: Place) -> Remote | None:
        """Look for a batch that may have been created; several times, because a listing may lag behind.

        Raises:
            BatcherError: the service does not say which batches it has.
        """
        age_s = time.time() - batch.submitted if batch.submitted else 0.0
        for wait_s in _LOOKS_S:
            if wait_s and age_s >= _LISTED_S:
                break
            if wait_s:
                await self._patience.sleep(wait_s)
                age_s += wait_s
            found = await self._patience.call(
                place, lambda: place.service.find(batch.name, batch.input_file or "", batch.made)
            )
            if isinstance(found, Failure):
                why = str(found) if found.status not in _UNLISTED else "the service does not list its batches"
                raise _unknown(place, batch, self._store.keyword, why)
            if live := [each for each in found if not did_nothing(each)]:
                await self._cancel_others(place, live)
                return live[0]
        return None

    async def _cancel_others(self, place: Place, found: Sequence[Remote]) -> None:
        """Cancel all but the first batch of a name: the service made several of one request."""
        for other in found[1:]:
            self._progress.say(
                f"{place.member.label} has made a batch twice: {other.id} is cancelled, {found[0].id} counts.",
                "warning",
            )
            if not other.state.is_over:
                await self._patience.call(place, partial(place.service.cancel, other.id))

    async def adopted(self, batch: Batch, remote: Remote) -> Submitted:
        """Record what the service calls a batch."""
        batch = await self._journal.batch_moved(
            batch,
            state=BatchState.SENT,
            service_id=remote.id,
            service_state=remote.said or remote.state.value,
            input_file=batch.input_file or remote.input_file or None,
            submitted=batch.submitted or time.time(),
            expires=remote.expires,
        )
        return Submitted(batch, Stand.SENT)

    async def renewed(self, batch: Batch) -> Batch:
        """Let a batch that was created, and refused before a line was asked, be created again: under another name.

        Services that go by the idempotency key would return the refused one for the old name.
        """
        old, name = self._store.batch_path(batch.name), new_name()
        batch = await self._journal.batch_moved(
            batch, state=BatchState.UPLOADED, name=name, service_id=None, submitted=None, expires=None
        )
        with contextlib.suppress(OSError):  # it is needed only if the batch is cut into halves
            await in_thread(old.replace, self._store.batch_path(name))
        return batch

    def _check(self) -> None:
        if self._closing.is_set():
            raise Closed

    # -- Halves

    async def halved(self, batch: Batch) -> tuple[Batch, Batch] | None:
        """Cut a batch that is too large into two; None: it has one line, or its file is gone.

        Raises:
            OutputError: the journal or a file cannot be written.
        """
        path = self._store.batch_path(batch.name)
        if batch.requests < 2 or not await in_thread(_is_whole, path, batch):
            return None
        lines = await in_thread(self._journal.lines, batch.id, 0, batch.requests)
        middle = len(lines) // 2
        parts = await in_thread(self._cut, path, batch, middle)
        halves = await self._journal.batch_split(batch, parts, [line.request.id for line in lines[middle:]])
        await in_thread(path.unlink)
        return halves

    def _cut(self, path: Path, batch: Batch, middle: int) -> tuple[Batch, Batch]:
        """Write two files of the lines of one; runs in a thread."""
        with as_output_errors(path, "read"):
            lines = path.read_bytes().splitlines(keepends=True)
        first, second = (self._part(batch, part) for part in (lines[:middle], lines[middle:]))
        return first, second

    def _part(self, batch: Batch, lines: Sequence[bytes]) -> Batch:
        name, content = new_name(), b"".join(lines)
        path = self._store.batch_path(name)
        replace(path, lambda file: file.write(content))
        return batch._replace(
            name=name,
            state=BatchState.MADE,
            requests=len(lines),
            bytes=len(content),
            tokens=batch.tokens * len(lines) // max(batch.requests, 1),
            sha256=sha256_of(path),
            input_file=None,
            service_id=None,
            service_state="",
            submitted=None,
            expires=None,
            completed=None,
            failed=None,
        )


def cancelling(keyword: str) -> str:
    """Return the command that cancels the batches of a run."""
    return by_reader(command_line=f"`batcher cancel {shlex.quote(keyword)}`", python=f"`batcher.cancel({keyword!r})`")


def forgetting(keyword: str) -> str:
    """Return the command that gives up batches that cannot be found."""
    return by_reader(
        command_line=f"`batcher cancel {shlex.quote(keyword)} --forget`",
        python=f"`batcher.cancel({keyword!r}, forget=True)`",
    )


def _unknown(place: Place, batch: Batch, keyword: str, why: str) -> BatcherError:
    """Say that a batch may have been created."""
    return BatcherError(
        f"{place.member.label}: it is not known whether batch {batch.name} of {counted(batch.requests, 'line')} was"
        f" created ({why}). Look for it at the service; {forgetting(keyword)} gives it up"
    )


def _is_whole(path: Path, batch: Batch) -> bool:
    """Return whether the file of a batch is there, as it was made; runs in a thread."""
    with as_output_errors(path, "read"):
        return path.exists() and sha256_of(path) == batch.sha256

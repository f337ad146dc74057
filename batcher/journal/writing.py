"""The journal of a run: records every request before it leaves, and every answer before it counts.

Invariant: when `sent` or `settled` returns, its record is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from batcher.answer.shape import ReadAs
from batcher.errors import OutputError
from batcher.input.marks import Comparison
from batcher.journal import batches
from batcher.journal.committing import GroupCommit, Statement
from batcher.journal.corrections import LOWEST, correcting, deciding
from batcher.journal.entries import (
    BATCHES_CANCELLED,
    DECIDED,
    JOINED,
    LOST,
    RESERVED,
    TOO_LARGE,
    UNFIT,
    UNSENT,
    Batch,
    BatchState,
    Chunk,
    Correction,
    Decision,
    LastRun,
    Outcome,
    Request,
    Sent,
    Votes,
    divided,
    lacking,
    seal,
)
from batcher.journal.locking import Lock, Work
from batcher.journal.matching import Matching, Planner
from batcher.journal.rereading import reading_id
from batcher.journal.sampling import Gold, labelling
from batcher.journal.schema import as_output_errors, raise_generation
from batcher.journal.schema import bound as storable
from batcher.journal.statements import NOTE
from batcher.journal.watching import Watch
from batcher.place import Displaced
from batcher.records import LARGEST_CELL, Bound, Completion, Result, Status

_SEND = (
    "INSERT INTO requests (id, run, endpoint, source, position, key, sent, cost, prompt_most, answer_cost, batch)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SEND_IN = (
    "INSERT INTO requests (id, run, endpoint, source, position, key, sent, cost, prompt_most, answer_cost, sent_in)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_END = (
    "UPDATE requests SET ended = ?, outcome = ?, prompt_tokens = ?, completion_tokens = ?, cached_tokens = ?,"
    " reasoning_tokens = ?, cost = ? WHERE id = ?"
)
_RESULT = "INSERT INTO results (id, key, source, status, answer, error, seal, reading) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_RESPONSE = (
    "INSERT INTO responses"
    " (id, finish_reason, is_cut, model, reasoning, body, text, form, request_id, confidence, tier)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_PARTIAL = (
    "INSERT OR REPLACE INTO partials (id, at, why, text, reasoning, characters, prompt_tokens, completion_tokens)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_OPINION = (
    "INSERT INTO opinions (id, key, position, source, status, answer, error, round, result)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_VOTES = "INSERT INTO votes (id, answers, for_it, is_tied, confidence) VALUES (?, ?, ?, ?, ?)"
_CLAIM = "UPDATE opinions SET result = ? WHERE id = ?"
# The first answer to a row counts: of a batch, a second one may come later, or the row may ask something else then.
_POINT = "UPDATE rows SET result = ? WHERE position = ? AND key = ? AND result IS NULL"
_POINT_SAME = (
    "UPDATE rows SET result = ? WHERE position IN (SELECT position FROM same WHERE leader = ?) AND key = ?"
    " AND result IS NULL"
)

_LARGEST = 2**63 - 1
_BESIDE_TEXTS = 128
"""The most bytes of a result's row besides its texts and its key."""
_LONGEST_ID = 200  # characters of what a service calls an answer
_LONGEST_PARTIAL = 2**18  # characters that are kept of an answer that was cut off, and of its reasoning
_RESERVED = 10_000  # ids of requests that are taken for batches at once
_UNBOUNDED = Bound()
_FAST = 1  # the level of compression: others take longer, and make the body of one answer hardly smaller


class _Packed:
    """A body that is compressed when it is written, and so in the thread that commits."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def __conform__(self, _protocol: object) -> bytes:
        return zlib.compress(self._raw, _FAST)


class Journal(Planner):
    """The journal of one keyword in the only process that writes it; `opening.open_journal` opens it.

    Before and after the run, plain calls read it and make plans in it. During the run, `sent`, `failed`, `settled` and
    `note` pass statements to a group commit, so that durability costs no throughput.

    Args:
        path: of the journal.
        connection: for writing.
        reader: a connection for reading what is committed.
        resources: are closed with it.
        watch: checks whether it is still in its place.
        lock: says what this process does.

    Attributes:
        decided: the rows about which people have decided something since their files were written: position and result.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        reader: sqlite3.Connection,
        resources: contextlib.ExitStack,
        *,
        watch: Watch,
        lock: Lock,
    ) -> None:
        super().__init__(path, connection, reader, resources)
        [first] = self._db.one("SELECT coalesce(max(id), 0) + 1 FROM requests")
        self._ids: Iterator[int] = itertools.count(first)
        self._line_ids: Iterator[int] = iter(())
        [first] = self._db.one("SELECT coalesce(max(id), 0) + 1 FROM batches")
        self._batch_ids: Iterator[int] = itertools.count(first)
        self._watch = watch
        self._lock = lock
        self._commits = GroupCommit(path, connection, watch)
        self._by_people = asyncio.Lock()  # each decision is about the result that the one before it left
        self.decided: dict[int, int] = {}

    def close(self) -> None:
        """Write the entries that are not on disk yet, and close the file.

        Raises:
            OutputError: they could not be written, and no caller has been told yet.
        """
        try:
            self._commits.close()
        finally:
            super().close()

    @property
    def run(self) -> int:
        """The number of the run that this process has begun in it; 0 if it has begun none."""
        return self._run

    @property
    def has_begun(self) -> bool:
        """Whether this process has begun a run in it."""
        return self._run > 0

    @contextlib.contextmanager
    def planning(self, comparison: Comparison) -> Iterator[Matching]:
        """Make the block one transaction: the plan takes effect as a whole, or not at all.

        Args:
            comparison: tells rows from one another, and what of them changed.

        Raises:
            OutputError: the lock file was removed, or the plan cannot be written.
        """
        with super().planning(comparison) as matching:
            # A second process that finds no lock file sees this transaction, and later the run, and is refused; but it
            # may have started before this transaction.
            self._watch.check_lock()
            before = self._db.connection.total_changes
            yield matching
            if self._db.connection.total_changes != before:
                with as_output_errors(self.path, "written"):
                    raise_generation(self._db.connection)
        if self.has_begun:
            self._lock.says(Work.RUNS)

    def go_on(self, reading: ReadAs | None) -> LastRun:
        """Go on with the latest run, whose process has ended, to fetch its batches: events are recorded as its own.

        Args:
            reading: what its answers are read as; None: they stay as they come.

        Raises:
            OutputError: no run has begun in it, or it cannot be written.
        """
        last = self.last_run()
        if last is None:
            raise OutputError(f"{self.path} holds no run yet")
        self._run = last.id
        with as_output_errors(self.path, "written"):
            self.reading = reading_id(self._db, reading)
        self._lock.says(Work.FETCHES)
        return last

    # -- Requests

    async def sent(self, position: int, key: bytes, endpoint: int, source: int, bound: Bound = _UNBOUNDED) -> Request:
        """Record that a request is about to leave; when this returns, that is on disk.

        Args:
            position: of the row.
            key: of the row's question.
            endpoint: the endpoint's place in the pool.
            source: the id of its source.
            bound: the most that the request may use and cost.

        Raises:
            OutputError: it, or an entry before it, could not be written, or the journal is no longer in its place: the
                request must not leave.
        """
        self._commits.check()
        self._watch.check()
        request = Request(next(self._ids), position, key, endpoint, source)
        await self._leave(request, self._intent(request, bound, time.time()))
        return request

    async def sent_together(
        self, rows: Sequence[Sent], endpoint: int, source: int, bound: Bound = _UNBOUNDED
    ) -> Request:
        """Record that a request for several rows is about to leave; when this returns, that is on disk.

        Args:
            rows: that share it.
            endpoint: the endpoint's place in the pool.
            source: the id of its source.
            bound: the most that the request may use and cost.

        Returns:
            The line of the first row, which has all of them.

        Raises:
            OutputError: as for `sent`.
        """
        self._commits.check()
        self._watch.check()
        lines = [
            Request(next(self._ids), each.position, each.key, endpoint, source, weight=each.weight) for each in rows
        ]
        weights = [each.weight for each in rows]
        costs, tokens = divided(bound.cost, weights), divided(bound.prompt_tokens, weights)
        now = time.time()
        intents = [
            self._intent(line, Bound(most, None, cost), now, lines[0].id)
            for line, most, cost in zip(lines, tokens, costs, strict=True)
        ]
        request = lines[0]._replace(shared=tuple(lines))
        await self._leave(request, *intents)
        return request

    def _intent(
        self, request: Request, bound: Bound, now: float, batch: int | None = None, sent_in: int | None = None
    ) -> Statement:
        number, position, key, endpoint, source = request[:5]
        most = _fitting(bound.cost, bound.prompt_tokens, bound.answer_cost)
        values = (number, self._run, endpoint, source, position, key, now, *most)
        return (_SEND, (*values, batch)) if sent_in is None else (_SEND_IN, (*values, sent_in))

    async def _leave(self, request: Request, *intents: Statement) -> None:
        """Write what is about to leave; if the journal is no longer in its place, it must not."""
        try:
            await self._commits.write(*intents, is_intent=True)
        finally:
            if self._watch.displaced:
                self.failed(request, Outcome(UNSENT, cost=0))
        self._watch.check()

    def failed(self, request: Request, outcome: Outcome) -> None:
        """Record that a request brought no answer; it reaches the disk with the next commit."""
        if not request.shared:
            self._commits.note(_ending(request, outcome))
            return
        self._commits.note(*map(_ending, request.shared, outcome.divided(request.shared)))

    def partial(self, request: Request, came: Completion, why: str) -> None:
        """Record what had come of an answer that was cut off; it reaches the disk with the next commit.

        Args:
            request: the one that was cut off.
            came: text, reasoning and usage until then.
            why: it was cut off.
        """
        texts = [storable(text[:_LONGEST_PARTIAL]) for text in (came.text or "", came.reasoning)]
        tokens = _fitting(came.usage.prompt_tokens, came.usage.completion_tokens)
        self._commits.note((_PARTIAL, (request.id, time.time(), storable(why), *texts, came.characters, *tokens)))

    async def unfit(self, request: Request, outcome: Outcome) -> None:
        """Record that an answer did not fit, and keep it; when this returns, that is on disk.

        Args:
            request: the one that brought it.
            outcome: how the request ended, with the completion.

        Raises:
            OutputError: it could not be written.
        """
        if request.sent_in is None:
            self._has_unfit = True
        outcome = outcome._replace(name=UNFIT)
        came = outcome.completion
        kept = [self._response(request, outcome, came, "", is_cut=outcome.is_cut)] if came else []
        await self._commits.write(_ending(request, outcome), *kept)

    async def opined(
        self,
        request: Request,
        outcome: Outcome,
        result: Result,
        *,
        repeats: int | None = None,
        is_kept: bool = False,
    ) -> None:
        """Record one of several answers to a row, which are no result yet; when this returns, that is on disk.

        Args:
            request: the one that brought it.
            outcome: how the request ended.
            result: how asking ended, as `holdable` returns it.
            repeats: the id of the result of the row, if the row has it and was asked once more; None: it has none.
            is_kept: as in `settled`.

        Raises:
            OutputError: it could not be written.
        """
        round_ = int(repeats is not None)
        await self._commits.write(
            *self._ended(request, outcome, result, is_kept=is_kept), _opinion(request, result, round_, repeats)
        )

    async def settled(
        self,
        request: Request,
        outcome: Outcome,
        result: Result,
        *,
        followers: bool = False,
        is_kept: bool = False,
        votes: Votes | None = None,
        is_late: bool = False,
    ) -> Result:
        """Record that a row has its result; when this returns, that is on disk.

        Args:
            request: the one that brought it, or of several answers the last one.
            outcome: how the request ended.
            result: how the row ended.
            followers: rows with the same question that are not sent get the result too.
            is_kept: what came is in the journal already, by `unfit`.
            votes: what the result is made of; None: it is what the request brought, and nothing else came.
            is_late: no row waits for it, so that none gets it now; a later plan may give it to one that asks the same.

        Returns:
            The row's result: an error if the answer is too large for SQLite or a CSV file.

        Raises:
            OutputError: it could not be written.
        """
        outcome, held = self.holdable(request, outcome, result)
        own = held if votes is None or votes.own is None else votes.own
        source = request.source if votes is None else votes.source
        texts = (str(held.status), storable(held.answer), storable(held.error))
        reading = None if held.status is Status.ERROR else self.reading
        await self._commits.write(
            *self._ended(request, outcome, own, is_kept=is_kept),
            (_RESULT, (request.id, request.key, source, *texts, seal(request.key, held), reading)),
            *(_made_of(request, votes) if votes else ()),
            *([] if is_late else _pointing(request, followers=followers)),
        )
        return held

    def _ended(self, request: Request, outcome: Outcome, result: Result, *, is_kept: bool) -> list[Statement]:
        """Return the statements that record how a request ended, and keep what came."""
        ending = _ending(request, outcome)
        if is_kept or outcome.completion is None:
            return [ending]
        is_cut = outcome.is_cut and outcome.name != TOO_LARGE
        return [ending, self._response(request, outcome, outcome.completion, result.answer, is_cut=is_cut)]

    async def settled_together(
        self, request: Request, outcome: Outcome, results: Sequence[Result], followers: Sequence[bool]
    ) -> None:
        """Record that the rows that share a request have their results; when this returns, that is on disk.

        Args:
            request: the one that brought them.
            outcome: how the request ended; the body of what came is not kept, because the results hold all of it.
            results: of the rows, in their order: vectors, or one error for all of them.
            followers: whether rows with the same question as each of them get its result too.

        Raises:
            OutputError: they could not be written.
        """
        lines = request.shared or (request,)
        came = outcome.completion
        model, name = (came.model, came.id[:_LONGEST_ID]) if came else ("", "")
        statements: list[Statement] = []
        each = zip(lines, outcome.divided(lines), results, followers, strict=True)
        for line, ended, result, is_led in each:
            texts = (result.status.value, result.answer, storable(result.error))
            statements += [
                _ending(line, ended),
                (_RESULT, (line.id, line.key, line.source, *texts, seal(line.key, result), None)),
                *_pointing(line, followers=is_led),
            ]
            if came:
                tier = _tier(line, came)
                statements.append((_RESPONSE, (line.id, None, False, model, "", None, None, None, name, None, tier)))
        await self._commits.write(*statements)

    def _response(
        self, request: Request, outcome: Outcome, came: Completion, answer: str, *, is_cut: bool
    ) -> Statement:
        """Return the statement that keeps what came beside an answer, as far as SQLite can hold it."""
        most = self._db.connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) - _BESIDE_TEXTS
        beside = 4 * (len(came.model) + len(came.finish_reason or ""))
        is_short = len(came.reasoning) <= LARGEST_CELL  # `--with reasoning` puts it into a cell
        reasoning = came.reasoning if is_short and 4 * len(came.reasoning) + beside <= most else ""
        text = came.text or ""
        is_other = text != answer and len(text) <= LARGEST_CELL
        text = text if is_other and 4 * (len(text) + len(reasoning)) + beside <= most else ""
        # Compressed, a body may be a little longer than it was.
        fits = came.raw and 2 * len(came.raw) + 4 * (len(text) + len(reasoning)) + beside <= most
        body = _Packed(came.raw) if fits else None
        values = (request.id, came.finish_reason, is_cut, came.model, storable(reasoning), body)
        shown = (storable(text) if text else None, outcome.form, came.id[:_LONGEST_ID], outcome.confidence)
        return _RESPONSE, (*values, *shown, _tier(request, came))

    def holdable(self, request: Request, outcome: Outcome, result: Result) -> tuple[Outcome, Result]:
        """Return what the journal and the files can hold: an error replaces an answer that is too large."""
        if not (fault := self._excess(request, result)):
            return outcome, result
        return outcome._replace(name=TOO_LARGE), Result(Status.ERROR, "", fault)

    def _excess(self, request: Request, result: Result) -> str:
        """Return in words that an answer is too large; empty if it is not."""
        if len(result.answer) > LARGEST_CELL:
            return f"the answer has {len(result.answer):,} characters, and a cell of a CSV file holds {LARGEST_CELL:,}"
        most = self._db.connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) - len(request.key) - _BESIDE_TEXTS
        if 4 * (len(result.answer) + len(result.error)) <= most:  # UTF-8 takes at most four bytes a character
            return ""
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in (result.answer, result.error))
        if size <= most:
            return ""
        return f"the answer has {size:,} bytes, and the journal can hold {max(most, 0):,}"

    # -- Batches

    def number(self) -> int:
        """Return the id of a request that `batch_made` may record; one that it does not stays free."""
        if (number := next(self._line_ids, None)) is not None:
            return number
        first = next(self._ids)
        self._line_ids, self._ids = iter(range(first, first + _RESERVED)), itertools.count(first + _RESERVED)
        # Before any later request, so that no gap looks like a request that was lost.
        self.note(RESERVED, f"{first}-{first + _RESERVED - 1}")
        return next(self._line_ids)

    async def batch_made(self, batch: Batch, lines: Sequence[tuple[Request, Bound]]) -> Batch:
        """Record a batch and its requests, before anything of it leaves; when this returns, that is on disk.

        Args:
            batch: without `id`, `run`, `made` and `requests`.
            lines: its requests, each with an id by `number`, and the most that it may use and cost.

        Returns:
            The batch as it is recorded.

        Raises:
            OutputError: as for `sent`: nothing of the batch must leave.
        """
        self._commits.check()
        self._watch.check()
        now = time.time()
        batch = batch._replace(id=next(self._batch_ids), run=self._run, made=now, requests=len(lines))
        intents = [self._intent(request, bound, now, sent_in=batch.id) for request, bound in lines]
        try:
            await self._commits.write(batches.making(batch), *intents, is_intent=True)
        finally:
            if self._watch.displaced:
                self._commits.note(*_dropping(batch))
        self._watch.check()
        return batch

    async def batch_moved(self, batch: Batch, **changes: Any) -> Batch:
        """Record how far a batch is; when this returns, that is on disk.

        Args:
            batch: as it was recorded last.
            changes: columns of the table `batches`, with their new values.

        Returns:
            The batch as it is recorded now.

        Raises:
            OutputError: it could not be written: a step that was to follow must not be taken.
            ValueError: there is no such column.
        """
        batch = batch._replace(**changes)
        await self._commits.write(batches.moving(batch))
        return batch

    async def batch_split(
        self, batch: Batch, halves: tuple[Batch, Batch], of_second: Sequence[int]
    ) -> tuple[Batch, Batch]:
        """Record that a batch is cut into two, in one commit; when this returns, that is on disk.

        Args:
            batch: as it was recorded last.
            halves: the two, with names and files of their own; the first one keeps the id of the batch.
            of_second: the ids of the requests that go into the second one.

        Returns:
            Both as they are recorded.

        Raises:
            OutputError: it could not be written.
        """
        self._commits.check()
        self._watch.check()
        moved = len(of_second)
        first = halves[0]._replace(id=batch.id, run=batch.run, made=batch.made, requests=batch.requests - moved)
        second = halves[1]._replace(
            id=next(self._batch_ids), run=self._run, made=time.time(), requests=moved, source=batch.source
        )
        await self._commits.write(*batches.splitting(first, second, of_second), is_intent=True)
        return first, second

    async def batch_dropped(self, batch: Batch, **changes: Any) -> Batch:
        """Record that a batch never came to be, so that no line of it was sent; when this returns, that is on disk.

        Args:
            batch: as it was recorded last.
            changes: further columns, such as `why`.

        Raises:
            OutputError: it could not be written.
        """
        batch = batch._replace(**changes, state=BatchState.DROPPED)
        await self._commits.write(*_dropping(batch))
        return batch

    async def batch_done(self, batch: Batch, left: str = LOST, cost: int | None = None, **changes: Any) -> Batch:
        """Record that a batch is over and read; when this returns, that is on disk.

        Args:
            batch: as it was recorded last.
            left: the outcome of the lines that have no end yet: `EXPIRED`, `CANCELLED` or `LOST`.
            cost: of each of these, in nano-dollars; None: the most that it may cost, as it is charged.
            changes: further columns, such as `completed` and `why`.

        Raises:
            OutputError: it could not be written.
        """
        batch = batch._replace(**changes, state=BatchState.DONE)
        await self._commits.write(batches.ending_all(batch, left, cost), batches.moving(batch))
        return batch

    # -- Chunk files, events, and the run itself

    async def chunk_begun(self, start: int) -> None:
        """Record that a chunk file is about to be written, so that it is ours even if the process ends now."""
        await self._commits.write(("INSERT OR IGNORE INTO chunks VALUES (?, 0, x'', x'')", (start,)))

    async def chunk_written(self, start: int, chunk: Chunk) -> None:
        """Record that a chunk file is in its place; it may lack what was decided while it was written."""
        late = [number for at, number in [*self.decided.items()] if start <= at < start + chunk.rows]
        if late:
            chunk = chunk._replace(origin=chunk.made_from + lacking(max(late)))
        statement = "INSERT OR REPLACE INTO chunks (start, rows, origin, sha256) VALUES (?, ?, ?, ?)"
        await self._commits.write((statement, (start, *chunk)))

    async def chunk_removed(self, start: int) -> None:
        """Record that a chunk file is no longer part of the result."""
        await self._commits.write(("DELETE FROM chunks WHERE start = ?", (start,)))

    async def corrected_by_hand(self, corrections: Sequence[Correction]) -> None:
        """Give rows that have their result the answers of people; when this returns, that is on disk."""
        if not corrections:
            return
        async with self._by_people:
            [(lowest,)] = self._all(LOWEST)
            # A person may have decided something about such a row since the file was read.
            now = [state.result for state in self.states_at([each.position for each in corrections])]
            latest = [each._replace(replaces=result) for each, result in zip(corrections, now, strict=True)]
            await self._commits.write(*correcting(latest, lowest, self._run))

    async def decide(self, decision: Decision, request: str) -> int:
        """Record what a person has decided about a row; when this returns, that is on disk.

        Args:
            decision: of a person.
            request: the id of the request to this run.

        Returns:
            The id of the row's new result.

        Raises:
            Overtaken: the row has another result than the person saw.
            SettingsError: see `corrections.deciding`.
            OutputError: it could not be written, and will not be.
        """
        async with self._by_people:
            number, statements = deciding(self._all, decision)
            done = NOTE, (self._run, time.time(), DECIDED, request, str(number))
            await self._commits.write(*statements, done, is_intent=True)
            self.decided[decision.position] = number
        return number

    async def label(self, golds: Sequence[Gold], request: str) -> None:
        """Record hand labels; when this returns, that is on disk.

        Args:
            golds: the labels.
            request: the id of the request to this run.

        Raises:
            OutputError: they could not be written, and will not be.
        """
        done = NOTE, (self._run, time.time(), DECIDED, request, "")
        await self._commits.write(*labelling(golds), done, is_intent=True)

    async def files_have(self, question: Mapping[str, Any]) -> None:
        """Record what the files of the run hold beside the answers."""
        await self._commits.write(("UPDATE runs SET question = ? WHERE id = ?", (json.dumps(question), self._run)))

    async def joining(self, name: str, sha256: bytes) -> None:
        """Record the SHA-256 of a result file that is about to be in its place."""
        await self._commits.write((NOTE, (self._run, time.time(), JOINED, name, sha256.hex())))

    def note(self, kind: str, subject: str, detail: str = "") -> None:
        """Record an event of the run; it reaches the disk with the next commit.

        Args:
            kind: such as `paused` or `resumed`.
            subject: what it concerns, such as an endpoint.
            detail: why.
        """
        self._commits.note((NOTE, (self._run, time.time(), kind, storable(subject), storable(detail))))

    async def flush(self) -> None:
        """Wait until every entry is on disk.

        Raises:
            OutputError: an entry could not be written.
        """
        await self._commits.flush()

    async def end_run(self, outcome: str) -> None:
        """Record how this process ended: `done`, or why it stopped."""
        values = (time.time(), storable(outcome), self._run)
        await self._commits.write(("UPDATE runs SET ended = ?, outcome = ? WHERE id = ?", values))

    async def end_batches(self) -> None:
        """Record that the latest run ended with its batches cancelled, although its process left them out."""
        await self._commits.write(
            ("UPDATE runs SET outcome = ? WHERE id = ? AND ended IS NOT NULL", (BATCHES_CANCELLED, self._run))
        )

    # -- Its place

    @property
    def displaced(self) -> Displaced | None:
        """What became of the journal, if it was not in its place at the last check."""
        return self._watch.displaced

    def check_in_place(self) -> None:
        """Check that the journal is in its place, so that files written now land beside it.

        Raises:
            OutputError: it was removed, replaced or moved, or the file system cannot say.
        """
        self._watch.look()
        self._watch.check()


def _dropping(batch: Batch) -> list[Statement]:
    """Return the statements that record that a batch never came to be."""
    dropped = batch._replace(state=BatchState.DROPPED)
    return [batches.ending_all(dropped, UNSENT, 0), batches.moving(dropped)]


def _pointing(request: Request, *, followers: bool) -> list[Statement]:
    """Return the statements that give a row its result, and to those with the same question that are not sent."""
    each = (_POINT, _POINT_SAME) if followers else (_POINT,)
    return [(statement, (request.id, request.position, request.key)) for statement in each]


def _tier(request: Request, came: Completion) -> str:
    """Return the service tier that answered, as `responses.tier` has it."""
    return "batch" if request.sent_in is not None else (came.service_tier or "").encode("ascii", "replace").decode()


def _opinion(request: Request, result: Result, round_: int, of: int | None) -> Statement:
    texts = (result.status.value, storable(result.answer), storable(result.error))
    return _OPINION, (request.id, request.key, request.position, request.source, *texts, round_, of)


def _made_of(request: Request, votes: Votes) -> Iterator[Statement]:
    """Yield the statements that record what a result is made of."""
    if votes.own is not None:
        yield _opinion(request, votes.own, 0, request.id)
    yield from ((_CLAIM, (request.id, number)) for number in votes.opinions)
    yield _VOTES, (request.id, votes.answers, votes.for_it, votes.is_tied, votes.confidence)


def _ending(request: Request, outcome: Outcome) -> Statement:
    used = outcome.usage
    # In SQLite's range: a number that is too large must not prevent the saving of an answer.
    numbers = _fitting(
        used.prompt_tokens, used.completion_tokens, used.cached_tokens, used.reasoning_tokens, outcome.cost
    )
    return _END, (time.time(), outcome.name, *numbers, request.id)


def _fitting(*numbers: int | None) -> list[int | None]:
    return [number if number is None or number <= _LARGEST else _LARGEST for number in numbers]

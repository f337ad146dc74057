"""The journal: every request before it leaves and every answer before it counts, in one SQLite file.

Invariant: what was committed is never changed or removed; a row's result is only ever pointed at another answer.

    rows       what the input's rows ask now: position -> key, and the result that answers it (or none yet)
    scope      how many of them, from the first, the last plan was about
    same       rows that are not asked, because an earlier row asks the same (`--dedup`)
    results    every answer, and every error that ended a row, under the key of its question
    requests   every attempt: sent, and how it ended; no end means that it was in flight when the process ended
    chunks     the chunk files that were written, and from what
    runs       every process that worked on this keyword
    events     what else is worth knowing of a run: when it paused, and why

Of a row, `cells` are its marks (see `marks`). `is_kept` says, if it keeps an answer to an earlier question, how that is
known to be its own (see `matching.kept`). A result has the id of the request that brought it; adopted ones, which no
request brought, count down from -1. Money is in nano-dollars: a request's `cost` is the most that it may cost until it
has ended, and NULL if it is not known; of that, `answer_cost` does not depend on the question's length, which is
`prompt_most` model tokens at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from filelock import FileLock, Timeout

from batcher.errors import KeywordBusy, OutputError
from batcher.input.marks import Comparison
from batcher.journal.access import Opened, check_pair, claim, is_as_before, is_for_reading_only, log_path, open_to_read
from batcher.journal.matching import Matching
from batcher.journal.schema import (
    ADOPTED,
    COPY,
    IN_SCOPE,
    bound,
    bring_up_to_date,
    check_readable,
    check_whole,
    connect,
    errors_told,
    exact_sum,
    make_durable,
    raise_generation,
    seal,
    text_of,
    version_of,
    whole,
)
from batcher.place import Displaced, Place
from batcher.records import GAVE_UP, LARGEST_CELL, Bound, Result, RowState, Source, Status, Usage

UNSENT = "unsent"
"""The outcome of an intent that came to nothing: the request did not leave."""
_TOO_LARGE = "too large"
"""The outcome of a request that brought more than SQLite or a file can hold."""

_SEND = (
    "INSERT INTO requests (id, run, endpoint, source, position, key, sent, cost, prompt_most, answer_cost)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_END = (
    "UPDATE requests SET ended = ?, outcome = ?, prompt_tokens = ?, completion_tokens = ?, cached_tokens = ?,"
    " reasoning_tokens = ?, cost = ? WHERE id = ?"
)
_RESULT = "INSERT INTO results (id, key, source, status, answer, error, seal) VALUES (?, ?, ?, ?, ?, ?, ?)"
_POINT = "UPDATE rows SET result = ? WHERE position = ?"
_POINT_SAME = "UPDATE rows SET result = ? WHERE position IN (SELECT position FROM same WHERE leader = ?)"

_LARGEST = 2**63 - 1
_BESIDE_TEXTS = 128
"""Bytes that a result's row has at most beside its texts and its key."""

# What SQLite, or Python on its way there, says of a value that it will never take; other errors are of the whole file.
_NEVER_WRITTEN = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeError,
    MemoryError,
)
_UNBOUNDED = Bound()

# Requests: whether each `is_paid`, because it brought an answer, and what it is `charged`: its cost, which in one
# without an answer is the bound. If the same source answered the same question at another time, the question's model
# tokens are known, and the part of the bound that is in proportion to them shrinks to that. Quotient and remainder
# apart, so that no product is too large for SQLite.
_PAID = f"outcome IN ('answered', '{_TOO_LARGE}')"
_CHARGED = f"""
(
    WITH asked AS (SELECT DISTINCT key, source FROM requests WHERE ({_PAID}) IS NOT TRUE AND answer_cost < cost),
    told AS (SELECT key, source, max(prompt_tokens) AS tokens FROM requests
        WHERE {_PAID} AND prompt_tokens > 0 AND (key, source) IN (SELECT key, source FROM asked)
        GROUP BY key, source)
    SELECT q.id, q.run, q.endpoint, q.source, q.ended, q.outcome, q.cost,
        ({_PAID}) IS TRUE AS is_paid,
        CASE WHEN q.answer_cost < q.cost AND t.tokens < q.prompt_most
        THEN q.answer_cost + (q.cost - q.answer_cost) / q.prompt_most * t.tokens
            + ((q.cost - q.answer_cost) % q.prompt_most * t.tokens + q.prompt_most - 1) / q.prompt_most
        ELSE q.cost END AS charged
    FROM requests q LEFT JOIN told t ON ({_PAID}) IS NOT TRUE AND t.key = q.key AND t.source = q.source
)
"""


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
    """How an attempt ended: `answered`, or the name of its failure; what it used, and its cost, if that is known."""

    name: str
    usage: Usage = Usage()
    cost: int | None = None


class InFlight(NamedTuple):
    """Requests without an end: how many, and the most that they may cost, or None where that is not known."""

    requests: int
    most: int | None


class Usual(NamedTuple):
    """What an answer takes on average: model tokens, and nano-dollars where a price was known."""

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
        origin: a hash of what it was made from.
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
    """The latest process that worked on a keyword."""

    id: int
    host: str
    pid: int
    started: float
    ended: float | None
    outcome: str | None
    chunk_size: int
    question: dict[str, Any]

    @property
    def is_at_work(self) -> bool:
        """Whether it has not ended, as far as can be told: on another host it may have been killed."""
        return self.ended is None and (self.host != socket.gethostname() or _is_alive(self.pid))


class RowRecord(NamedTuple):
    """A row and the result that it points at, as the journal has them; the texts are bytes.

    Attributes:
        position, key, cells: of the row; see `plan_keys`.
        is_kept: if it keeps an answer to an earlier question, how that is known to be its own (`matching.kept`); 1 if
            an older batcher decided it.
        result: the id that it points at, or None.
        found: the same id, or None where there is no such result.
        answered: the key of the question that the result answers.
        source: the id of who gave it.
        run: the process that asked, or None if no request brought it.
        sealed: the result's seal, or None where an older batcher wrote it.
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


class EndpointAccount(NamedTuple):
    """The requests of one endpoint to one source; money in nano-dollars.

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


class Unreconciled(Enum):
    """In what ways requests and results may not fit together."""

    BROUGHT_NONE = (
        "SELECT id FROM requests q WHERE outcome = 'answered'"
        " AND NOT EXISTS (SELECT 1 FROM results a WHERE a.id = q.id)"
    )
    BROUGHT_BY_NONE = (
        "SELECT a.id FROM results a LEFT JOIN requests q ON q.id = a.id WHERE CASE WHEN a.id > 0 THEN q.id IS NULL"
        " ELSE a.source IS NOT (SELECT id FROM sources WHERE model = ? AND base_url = '' AND params = '') END"
    )
    OTHER_QUESTION = (
        "SELECT a.id FROM results a JOIN requests q ON q.id = a.id WHERE a.key <> q.key OR a.source <> q.source"
    )
    OTHER_OUTCOME = (
        "SELECT a.id FROM results a JOIN requests q ON q.id = a.id"
        " WHERE q.outcome IS NULL OR (q.outcome = 'answered') = (a.status = 'error')"
    )
    NEVER_ENDED = (
        "SELECT q.id FROM requests q JOIN runs r ON r.id = q.run WHERE q.outcome IS NULL AND r.outcome = 'done'"
        " UNION SELECT id FROM requests WHERE (ended IS NULL) <> (outcome IS NULL)"
    )
    OF_NOBODY = (
        "SELECT id FROM requests WHERE run NOT IN (SELECT id FROM runs) OR source NOT IN (SELECT id FROM sources)"
    )


class _Entry(NamedTuple):
    """Statements that are written together or not at all, and who waits for that."""

    statements: tuple[tuple[str, tuple[Any, ...]], ...]
    done: asyncio.Future[None] | None = None


class Journal(Matching):
    """The journal of one keyword; one process writes it, any number may read.

    Reading and planning are plain calls, made before and after the run. While it runs, `sent`, `failed` and `settled`
    put statements into a batch, and one thread commits batch after batch: whatever gathers during a commit goes into
    the next one (group commit), so that durability costs the run no throughput.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, opened: Opened | None = None) -> None:
        super().__init__(path, connection)
        self._file = opened
        self._opened = contextlib.ExitStack()
        self._place: Place | None = None
        self._log: Place | None = None
        self._locked: Place | None = None
        self._displaced: Displaced | None = None
        self._reading = threading.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="batcher-journal")
        self._broken: BaseException | None = None
        self._closed: BaseException | None = None
        self._unsaved: list[_Entry] = []
        self._batch: list[_Entry] = []
        self._flusher: asyncio.Task[None] | None = None
        self._run = 0
        self._ids: Iterator[int] = itertools.count(self._one("SELECT coalesce(max(id), 0) + 1 FROM requests")[0])
        self._reader = connection

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the journal for writing, or make a new one. One that is refused is left as it is.

        A new one in which no run begins is removed when it is closed: a run that is refused leaves no file.

        Raises:
            OutputError: it cannot be opened, is no journal, was written by a newer batcher, is damaged, or its log
                belongs to another one.
            KeywordBusy: another process, which the message names, is writing it.
        """
        with errors_told(path, "opened"), contextlib.ExitStack() as stack:
            check_pair(path)  # even the lock would leave a file there
            has_lock = _lock_path(path).exists()
            lock = Place(_lock(path, stack))
            stack.callback(lock.close)
            if not path.exists():
                stack.callback(_remove_unused, path, lock, has_lock=has_lock)
            _check(path)
            has_log = log_path(path).exists()
            if not claim(path):
                _check_nobody_writes(path, has_log=has_log)
            db = stack.enter_context(closing(connect(path, "mode=rw")))
            db.execute("PRAGMA journal_mode = WAL")
            make_durable(db)
            bring_up_to_date(db, version_of(db, path))
            place = Place(path)
            stack.callback(place.close)
            journal = cls(path, db)
            journal._locked = lock
            journal._reader = stack.enter_context(closing(connect(path, "mode=ro")))
            journal._place = place
            journal._opened = stack.pop_all()
        return journal

    @classmethod
    def read(cls, path: Path, *, alone: bool = False) -> Self:
        """Open the journal for reading; a run may be writing it. Nothing in its directory changes.

        Args:
            path: of the journal.
            alone: keep every run from writing it meanwhile.

        Raises:
            OutputError: it is not there, is no journal, was written by another version, or its log belongs to another
                journal.
            KeywordBusy: with `alone`, a run is writing it.
        """
        with errors_told(path, "read"), contextlib.ExitStack() as stack:
            if alone:
                check_pair(path)
                _lock(path, stack)
                if _is_at_work_here(path) and not claim(path):
                    _check_nobody_writes(path)
            opened = open_to_read(path, stack)
            check_readable(version_of(opened.db, path), path)
            journal = cls(path, opened.db, opened)
            journal._opened = stack.pop_all()
        return journal

    @classmethod
    def rehearse(cls, path: Path) -> Self:
        """Open a copy to plan in, without the answers' texts; neither the journal nor its directory is written.

        SQLite keeps what does not fit into memory in a nameless file, which ends with the process.

        Raises:
            OutputError: the journal cannot be read, or was written by another version, or its log belongs to another
                journal.
        """
        with errors_told(path, "read"), contextlib.ExitStack() as stack:
            opened = open_to_read(path, stack) if path.exists() or check_pair(path).commits else None
            db = stack.enter_context(
                closing(sqlite3.connect("file:", uri=True, check_same_thread=False, isolation_level=None))
            )
            bring_up_to_date(db, 0)
            if opened:
                db.execute("ATTACH ? AS original", (opened.uri,))
                check_readable(version_of(db, path, "original"), path)
                db.executescript(COPY)
            journal = cls(path, db, opened)
            journal._opened = stack.pop_all()
        return journal

    def close(self) -> None:
        """Close the file. What was noted and is not on disk yet goes there first, whoever waits for it or not.

        Raises:
            OutputError: it could not be written, and nobody has been told so yet.
        """
        self._writer.shutdown()
        batch = self._take()
        self._closed = OutputError(f"the journal {self.path} is closed")
        try:
            if self._unsaved or batch:
                _wake(batch, self._commit(batch))
        except OutputError:
            if not self._broken:
                raise
        finally:
            _wake_all(batch, self._broken or self._closed)
            with self._reading:  # a thread may be about to end its reading
                self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def planned_counts(self) -> Counts:
        """Count the rows by how they ended, as far as the plan has been made."""
        with errors_told(self.path, "read"):
            return _counts(self._db)

    def planned_states(self, start: int, stop: int) -> list[RowState]:
        """Return the key and the result of each row in a range of positions, as far as the plan has been made."""
        query = "SELECT key, result FROM rows WHERE position >= ? AND position < ? ORDER BY position"
        return [RowState(key, result) for key, result in self._do(query, (start, stop))]

    @contextlib.contextmanager
    def planning(self, comparison: Comparison) -> Iterator[None]:
        """Make the block one transaction: the plan takes effect as a whole, or not at all.

        Args:
            comparison: tells rows from one another, and what of them changed.
        """
        with super().planning(comparison):
            # Who comes after us sees the transaction, and then the run, if we have lost the lock file. Before that,
            # somebody else may have come.
            with errors_told(self.path, "locked"):
                if self._locked and self._locked.displaced():
                    raise OutputError(f"the lock file of {self.path} was removed: run it again")
            before = self._db.total_changes
            yield
            if self._db.total_changes != before:
                with errors_told(self.path, "written"):
                    raise_generation(self._db)

    # -- Reading what is committed; from any thread, also while a run writes

    def counts(self) -> Counts:
        """Count the rows by how they ended."""
        with self._asking():
            return _counts(self._reader)

    def states(self, start: int, stop: int) -> list[RowState]:
        """Return how each row in a range of positions stands."""
        found = self._all(
            "SELECT r.key, r.result, s.leader, (SELECT count(*) FROM same f WHERE f.leader = r.position)"
            " FROM rows r LEFT JOIN same s USING (position)"
            " WHERE r.position >= ? AND r.position < ? ORDER BY r.position",
            (start, stop),
        )
        return [RowState(*values) for values in found]

    def marks(self, start: int, stop: int) -> list[bytes]:
        """Return the marks of each row in a range of positions."""
        found = self._all(
            "SELECT coalesce(cells, x'') FROM rows WHERE position >= ? AND position < ? ORDER BY position",
            (start, stop),
        )
        return [cells for (cells,) in found]

    def results(self, start: int, stop: int) -> list[Result]:
        """Return the results of a range of positions, all of which have one."""
        found = self._all(
            "SELECT a.status, a.answer, a.error FROM rows r JOIN results a ON a.id = r.result"
            " WHERE r.position >= ? AND r.position < ? ORDER BY r.position",
            (start, stop),
        )
        return [Result(Status(status), text_of(answer), text_of(error)) for status, answer, error in found]

    def chunks(self) -> dict[int, Chunk]:
        """Return the chunk files that were written, by the position of their first row."""
        found = self._all("SELECT start, rows, origin, sha256 FROM chunks WHERE sha256 <> x'' ORDER BY start")
        return {start: Chunk(*rest) for start, *rest in found}

    def chunk_starts(self) -> set[int]:
        """Return where the chunk files begin that are ours, those included that a killed process may have written."""
        return {start for (start,) in self._all("SELECT start FROM chunks")}

    def last_run(self) -> LastRun | None:
        """Return the latest process that worked on this keyword."""
        found = self._all(
            "SELECT id, host, pid, started, ended, outcome, chunk_size, question FROM runs ORDER BY id DESC LIMIT 1"
        )
        if not found:
            return None
        number, host, pid, started, ended, outcome, chunk_size, question = found[0]
        outcome = None if outcome is None else text_of(outcome)
        try:
            asked = json.loads(question)
        except (TypeError, ValueError) as error:  # a disk has changed it
            raise OutputError(f"the journal {self.path} is damaged: run {number} has no question: {error}") from error
        return LastRun(number, host, pid, started, ended, outcome, chunk_size, asked)

    def question(self, run: int) -> dict[str, Any]:
        """Return what a process asked, and whom; empty if the journal cannot tell."""
        found = self._all("SELECT question FROM runs WHERE id = ?", (run,))
        return _question(found[0][0]) if found else {}

    def questions(self) -> list[dict[str, Any]]:
        """Return the different questions that were asked, and whom."""
        return [_question(text) for (text,) in self._all("SELECT DISTINCT question FROM runs")]

    def sources(self) -> dict[int, Source]:
        """Return who gave answers, by id."""
        return {number: Source(*rest) for number, *rest in self._all("SELECT id, model, base_url, params FROM sources")}

    def askers(self) -> list[tuple[int, int, int]]:
        """Return which process asked whom: its id, the endpoint's place in its pool, and the source's id."""
        return self._all("SELECT DISTINCT run, endpoint, source FROM requests")

    def requests_to(self, run: int, endpoint: int, source: int) -> list[int]:
        """Return the ids of the requests of one process to one endpoint and source."""
        query = "SELECT id FROM requests WHERE run = ? AND endpoint = ? AND source = ?"
        return [number for (number,) in self._all(query, (run, endpoint, source))]

    def in_flight(self, run: int) -> InFlight:
        """Count the requests of one process that have no end: in flight now, or when it ended."""
        query = (
            f"SELECT count(*), count(charged), {exact_sum('charged')} FROM {_CHARGED} WHERE ended IS NULL AND run = ?"
        )
        [(count, priced, *most)] = self._all(query, (run,))
        return InFlight(count, whole(*most) if count == priced else None)

    def paused(self, run: int) -> list[tuple[float, str, str]]:
        """Return the endpoints of one process that have paused and not gone on: since when, which, and why."""
        found = self._all(
            "SELECT at, subject, detail FROM events e WHERE run = ? AND kind = 'paused' AND NOT EXISTS"
            " (SELECT 1 FROM events r WHERE r.run = e.run AND r.kind = 'resumed' AND r.subject = e.subject"
            " AND r.id > e.id) ORDER BY id",
            (run,),
        )
        return [(at, text_of(subject), text_of(detail)) for at, subject, detail in found]

    def spent(self) -> Spent:
        """Add up what all requests of this keyword cost."""
        answered = exact_sum("charged", "is_paid")
        uncertain = exact_sum("charged", "NOT is_paid")
        [found] = self._all(f"SELECT {answered}, {uncertain}, count(*) - count(charged) FROM {_CHARGED}")
        return Spent(whole(*found[:2]), whole(*found[2:4]), found[4])

    def usual(self) -> Usual | None:
        """Return what an answer takes, on average; None before the first one that told."""
        query = (
            "SELECT avg(prompt_tokens), avg(completion_tokens), avg(cost) FROM requests"
            " WHERE completion_tokens > 0 AND prompt_tokens IS NOT NULL"
        )
        [found] = self._all(query)
        return None if found[0] is None else Usual(*found)

    def answered_since(self, moment: float) -> int:
        """Count the answers that came after a moment, in seconds since the epoch."""
        query = "SELECT count(*) FROM requests WHERE outcome = 'answered' AND ended > ?"
        return int(self._all(query, (moment,))[0][0])

    def failures(self) -> list[tuple[str, int]]:
        """Count the rows that ended as `invalid` or `error`, by cause; the ten most frequent first."""
        found = self._all(
            # The casts cut between characters, also where a text is kept as bytes. What follows the cause, how long a
            # row was tried, differs from row to row.
            "SELECT cast(substr(text, 1, coalesce(nullif(instr(text, ?), 0) - 1, 200)) AS BLOB) AS reason,"
            " count(*) AS n"
            " FROM (SELECT cast(a.error AS TEXT) AS text FROM rows r JOIN results a ON a.id = r.result"
            f" WHERE a.status <> 'ok' AND {IN_SCOPE}) GROUP BY reason ORDER BY n DESC, reason LIMIT 10",
            (GAVE_UP,),
        )
        return [(text_of(reason), count) for reason, count in found]

    def requests(self, run: int) -> int:
        """Count the requests that one process sent."""
        return int(self._all("SELECT count(*) FROM requests WHERE run = ? AND outcome IS NOT ?", (run, UNSENT))[0][0])

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let the block read what is committed now, whatever a run commits meanwhile."""
        self._all("BEGIN")
        try:
            yield
        finally:
            self._all("ROLLBACK")

    def damage(self) -> list[str]:
        """Return what SQLite finds wrong with the file's structure, at most five findings."""
        return [str(line) for (line,) in self._all("PRAGMA integrity_check(5)") if line != "ok"]

    def scope(self) -> int:
        """Return how many rows, from the first, the last plan was about."""
        return int(self._all("SELECT coalesce(max(rows), 0) FROM scope")[0][0])

    def left(self, start: int = 0, stop: int | None = None) -> int:
        """Count the rows in a range of positions, or of all, that point at no result."""
        query = f"SELECT count(*) FROM rows WHERE result IS NULL AND {IN_SCOPE} AND position >= ?"
        where, values = ("", [start]) if stop is None else (" AND position < ?", [start, stop])
        return int(self._all(query + where, values)[0][0])

    def records(self, start: int, stop: int) -> list[RowRecord]:
        """Return the rows in a range of positions, each with its result, as the journal has them, right or wrong."""
        found = self._all(
            # As bytes: what a disk has changed may be no text any more.
            "SELECT r.position, r.key, r.cells, r.is_kept, r.result, a.id, a.key, a.source, q.run, a.seal,"
            " iif(typeof(a.status) = 'text', cast(a.status AS BLOB), x''),"
            " cast(a.answer AS BLOB), cast(a.error AS BLOB)"
            " FROM rows r LEFT JOIN results a ON a.id = r.result LEFT JOIN requests q ON q.id = a.id"
            " WHERE r.position >= ? AND r.position < ? ORDER BY r.position",
            (start, stop),
        )
        return [RowRecord(*values) for values in found]

    def endpoint_accounts(self) -> list[EndpointAccount]:
        """Count the requests of each endpoint and source by how they ended."""
        answered = exact_sum("charged", "is_paid")
        uncertain = exact_sum("charged", "NOT is_paid")
        found = self._all(
            "SELECT q.endpoint, coalesce(g.model, ''), coalesce(g.base_url, ''), count(*),"
            " count(*) FILTER (WHERE outcome = 'answered'), count(*) FILTER (WHERE outcome <> 'answered'),"
            " count(*) FILTER (WHERE outcome IS NULL),"
            f" {answered}, {uncertain}, count(*) - count(charged)"
            f" FROM {_CHARGED} q LEFT JOIN sources g ON g.id = q.source WHERE outcome IS NOT ?"
            " GROUP BY q.endpoint, q.source ORDER BY 1, q.source",
            (UNSENT,),
        )
        return [EndpointAccount._make([*each[:7], whole(*each[7:9]), whole(*each[9:11]), each[11]]) for each in found]

    def unreconciled(self, query: Unreconciled) -> list[int]:
        """Return the ids of the requests, or of the results, that do not fit together in one way."""
        values = (ADOPTED.model,) if query is Unreconciled.BROUGHT_BY_NONE else ()
        return [number or 0 for (number,) in self._all(query.value, values)]  # none where a disk has changed it

    def missing_requests(self) -> list[tuple[int, int]]:
        """Return the gaps in the requests' ids: the first and the last of each."""
        return self._all(
            "SELECT before + 1, id - 1 FROM (SELECT id, lag(id, 1, 0) OVER (ORDER BY id) AS before FROM requests)"
            " WHERE id > before + 1"
        )

    # -- A run

    def start_run(self, chunk_size: int, question: Mapping[str, Any]) -> None:
        """Note that this process begins to work."""
        started = (socket.gethostname(), os.getpid(), time.time(), chunk_size, json.dumps(question))
        cursor = self._do("INSERT INTO runs (host, pid, started, chunk_size, question) VALUES (?, ?, ?, ?, ?)", started)
        self._run = int(cursor.lastrowid or 0)

    async def end_run(self, outcome: str) -> None:
        """Note how this process ended."""
        values = (time.time(), bound(outcome), self._run)
        await self._write(("UPDATE runs SET ended = ?, outcome = ? WHERE id = ?", values))

    async def sent(self, position: int, key: bytes, endpoint: int, source: int, bound: Bound = _UNBOUNDED) -> Request:
        """Note that a request is about to leave; when this returns, that is on disk.

        Args:
            position: of the row.
            key: of the row's question.
            endpoint: the endpoint's place in the pool.
            source: the id of its source.
            bound: what the request may use and cost at most.

        Raises:
            OutputError: it could not be written, or what came before could not, or the journal is no longer in its
                place: the request must not leave.
        """
        if self._broken:
            raise self._broken
        if self._displaced:
            raise self._displacement(self._displaced)
        request = Request(next(self._ids), position, key, endpoint, source)
        values = (request.id, self._run, endpoint, source, position, key, time.time())
        try:
            await self._write((_SEND, (*values, *_fitting(bound.cost, bound.prompt_tokens, bound.answer_cost))))
        finally:
            if self._displaced:
                self.failed(request, Outcome(UNSENT, cost=0))
        if self._displaced:
            raise self._displacement(self._displaced)
        return request

    def failed(self, request: Request, outcome: Outcome) -> None:
        """Note that a request brought no answer; it reaches the disk with the next commit."""
        self._put(_Entry((_ending(request, outcome),)))

    async def settled(self, request: Request, outcome: Outcome, result: Result, *, followers: bool = False) -> Result:
        """Note that a row has its result; when this returns, that is on disk.

        Args:
            request: the one that brought it.
            outcome: how the request ended.
            result: how the row ended.
            followers: rows that are not asked, because this one asks the same, have it too.

        Returns:
            The result that the row has: an error in place of texts that are more than SQLite can hold.

        Raises:
            OutputError: it could not be written.
        """
        kept = self._holdable(request, result)
        if kept is not result:
            outcome = outcome._replace(name=_TOO_LARGE)
        answer, error = bound(kept.answer), bound(kept.error)
        sealed = seal(request.key, kept)
        await self._write(
            _ending(request, outcome),
            (_RESULT, (request.id, request.key, request.source, kept.status.value, answer, error, sealed)),
            (_POINT, (request.id, request.position)),
            *([(_POINT_SAME, (request.id, request.position))] if followers else []),
        )
        return kept

    def _holdable(self, request: Request, result: Result) -> Result:
        """Return a result as the journal and the files can hold it: without an answer that is too large."""
        if len(result.answer) > LARGEST_CELL:
            said = f"the answer has {len(result.answer):,} characters, and a cell of a CSV file holds {LARGEST_CELL:,}"
            return Result(Status.ERROR, "", said)
        most = self._db.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) - len(request.key) - _BESIDE_TEXTS
        if 4 * (len(result.answer) + len(result.error)) <= most:  # UTF-8 takes four bytes for a character at most
            return result
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in (result.answer, result.error))
        if size <= most:
            return result
        return Result(Status.ERROR, "", f"the answer has {size:,} bytes, and the journal can hold {max(most, 0):,}")

    def note(self, kind: str, subject: str, detail: str = "") -> None:
        """Note an event of the run; it reaches the disk with the next commit.

        Args:
            kind: such as `paused` or `resumed`.
            subject: what it happened to.
            detail: why.
        """
        values = (self._run, time.time(), kind, bound(subject), bound(detail))
        self._put(_Entry((("INSERT INTO events (run, at, kind, subject, detail) VALUES (?, ?, ?, ?, ?)", values),)))

    async def chunk_begun(self, start: int) -> None:
        """Note that a chunk file is about to be there, so that it is ours also where the process ends in between."""
        await self._write(("INSERT OR IGNORE INTO chunks VALUES (?, 0, x'', x'')", (start,)))

    async def chunk_written(self, start: int, chunk: Chunk) -> None:
        """Note that a chunk file is in its place."""
        statement = "INSERT OR REPLACE INTO chunks (start, rows, origin, sha256) VALUES (?, ?, ?, ?)"
        await self._write((statement, (start, *chunk)))

    async def chunk_removed(self, start: int) -> None:
        """Note that a chunk file is no longer part of the result."""
        await self._write(("DELETE FROM chunks WHERE start = ?", (start,)))

    async def flush(self) -> None:
        """Wait until everything that was noted is on disk.

        Raises:
            OutputError: something could not be written.
        """
        while self._flusher is not None and not self._flusher.done():
            await asyncio.shield(self._flusher)
        if self._broken:
            raise self._broken

    @property
    def displaced(self) -> Displaced | None:
        """What became of the journal, if it was no longer in its place when that was last looked at."""
        return self._displaced

    def check_in_place(self) -> None:
        """Look whether the journal is in its place, so that what is written beside it now is written beside it.

        Raises:
            OutputError: it was removed, replaced or moved, or the file system cannot say.
        """
        self._look()
        if self._displaced:
            raise self._displacement(self._displaced)

    def _look(self) -> None:
        if self._place:
            with errors_told(self.path, "found"):
                self._displaced = self._place.displaced() or self._displaced_log()

    def _displaced_log(self) -> Displaced | None:
        """Say whether the log was removed or replaced: a second writer, or the next run after a kill, lacks it."""
        if self._log is None and log_path(self.path).exists():  # from the first commit on
            self._log = Place(log_path(self.path))
            self._opened.callback(self._log.close)
        return Displaced(is_kept=True, is_log=True) if self._log and self._log.displaced() else None

    def _displacement(self, displaced: Displaced) -> OutputError:
        if displaced.is_log:
            return OutputError(
                f"the log {log_path(self.path)} of the journal was removed or replaced while the run worked"
            )
        if not displaced.is_kept:
            return OutputError(f"the journal {self.path} was removed or replaced while the run worked")
        now = displaced.path or "wherever its directory is"
        return OutputError(
            f"the journal {self.path} is {now} now: its directory was moved, or the working directory changed, while"
            " the run worked"
        )

    def _put(self, entry: _Entry) -> None:
        self._batch.append(entry)
        # It is done and not None where somebody cancelled every task of the loop, as `asyncio.run` does at its end.
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.get_running_loop().create_task(self._flush_batches())

    async def _write(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(_Entry(statements, done))
        await done

    def _take(self) -> list[_Entry]:
        """Return what has gathered."""
        taken, self._batch = self._batch, []
        return taken

    async def _flush_batches(self) -> None:
        loop = asyncio.get_running_loop()
        while self._batch:
            batch = self._take()
            error = self._closed
            if not error:
                commit = loop.run_in_executor(self._writer, self._commit, batch)
                await asyncio.wait([commit])
                error = self._broken = commit.exception()
                if not error:
                    refused = commit.result()
                    # Nobody waits for such an entry: the next request is told.
                    self._broken = next((why for entry, why in refused if not entry.done), None)
                    _wake(batch, refused)
            _wake_all(batch, error)
        self._flusher = None

    def _commit(self, batch: Sequence[_Entry]) -> list[tuple[_Entry, OutputError]]:
        """Write what could not be saved before and one batch, in the order in which it was noted.

        Runs in the journal's thread. What cannot be saved now goes with the next batch: the disk may have room again.
        Only requests are left out: one whose intent could not be written does not leave.

        Returns:
            The entries that can never be written, each with the reason.

        Raises:
            OutputError: nothing could be written, or not where the journal was opened.
        """
        batch = [*self._unsaved, *batch]
        self._unsaved = [entry for entry in batch if entry.statements[0][0] is not _SEND]
        with errors_told(self.path, "written"):
            try:
                with self._transaction():
                    for entry in batch:
                        self._execute(entry)
                refused = []
            except _NEVER_WRITTEN:
                refused = self._commit_each(batch)
        self._unsaved = []
        self._look()
        if self._displaced and not self._displaced.is_kept:
            raise self._displacement(self._displaced)
        return refused

    def _commit_each(self, batch: Sequence[_Entry]) -> list[tuple[_Entry, OutputError]]:
        """Write a batch, and leave out as a whole each entry that cannot be written; see `_commit`."""
        refused = []
        with self._transaction():
            for entry in batch:
                self._db.execute("SAVEPOINT entry")
                try:
                    self._execute(entry)
                except _NEVER_WRITTEN as error:
                    self._db.execute("ROLLBACK TO entry")
                    refused.append((entry, OutputError(f"the journal {self.path} cannot be written: {error}")))
                self._db.execute("RELEASE entry")
        return refused

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            raise_generation(self._db)
            yield

    def _execute(self, entry: _Entry) -> None:
        for statement, values in entry.statements:
            self._db.execute(statement, values)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Let the block ask for what is committed, from any thread, while the writer writes.

        Raises:
            OutputError: it cannot be read, or was written meanwhile where nothing holds it as it was.
        """
        with self._reading, errors_told(self.path, "read"):
            try:
                yield
            finally:
                if self._file and not is_as_before(self.path, self._file):
                    raise OutputError(f"the journal {self.path} was written while it was read: do it again")

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Ask for what is committed."""
        with self._asking():
            return self._reader.execute(query, values).fetchall()


def _check(path: Path) -> None:
    """Refuse what is no journal of ours, newer or damaged.

    Raises:
        OutputError: it is one of these.
    """
    if not path.exists():
        return
    with contextlib.ExitStack() as stack:
        opened = open_to_read(path, stack)
        version_of(opened.db, path)
        check_whole(opened.db, path)


def _lock(path: Path, stack: contextlib.ExitStack) -> Path:
    """Be the one process that writes a journal; the system frees the lock when a process ends, in whatever way.

    Args:
        path: of the journal.
        stack: frees the lock.

    Returns:
        The path of the lock file.

    Raises:
        KeywordBusy: another process, or another run in this one, writes it.
        OutputError: it cannot be locked.
    """
    # SQLite's own locks are on the journal itself, and closing another descriptor of it would drop them.
    lock = FileLock(_lock_path(path))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise KeywordBusy(f"{path} is being written by {_writer_of(path)}") from None
    except OSError as error:
        raise OutputError(f"{path} cannot be locked: {error.strerror}") from error
    stack.callback(lock.release)
    return Path(lock.lock_file)


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.lock")


def _remove_unused(path: Path, lock: Place, *, has_lock: bool) -> None:
    """Remove a journal that this process has made and closed, and its lock file, if it holds nothing.

    Args:
        path: of the journal.
        lock: the lock file, which is still locked.
        has_lock: the lock file was there before, and stays.
    """
    with contextlib.suppress(OSError, OutputError, sqlite3.Error):  # left, it is in nobody's way
        if lock.displaced() or log_path(path).exists():  # another process has it in its hands
            return
        with closing(connect(path, "immutable=1")) as db:
            if version_of(db, path) and any(
                db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in ("runs", "rows", "results")
            ):
                return
        path.unlink()
        if not has_lock:
            _lock_path(path).unlink()


def _last_run_of(path: Path) -> LastRun | None:
    try:
        with Journal.read(path) as journal:
            return journal.last_run()
    except OutputError:
        return None


def _writer_of(path: Path) -> str:
    """Name who is writing a journal, and say what to do about it."""
    last = _last_run_of(path)
    return _named(last) if last and last.ended is None else "another process: wait for its end, or stop it"


def _named(run: LastRun, beside: str = "") -> str:
    if (run.pid, run.host) == (os.getpid(), socket.gethostname()):
        return f"process {run.pid} on {run.host}{beside}, by another run in this process: await it, or cancel it"
    return f"process {run.pid} on {run.host}{beside}: wait for its end, or stop it"


def _check_nobody_writes(path: Path, *, has_log: bool = True) -> None:
    """Refuse to go on beside a run that has lost its lock file; who only reads is welcome.

    Args:
        path: of a journal that another program has open.
        has_log: its log is there. Without it the journal cannot tell what the other one does.

    Raises:
        KeywordBusy: a run is at work, or is being planned; or the journal cannot be brought up to date meanwhile.
    """
    last = _last_run_of(path)
    if last and last.is_at_work:
        raise KeywordBusy(f"{path} is being written by {_named(last, ', though its lock file is gone')}")
    if not has_log or not is_for_reading_only(path):
        raise KeywordBusy(
            f"{path} is open in another program, such as a run, a database browser or a notebook: close it there, or"
            " wait for its end"
        )


def _is_at_work_here(path: Path) -> bool:
    """Tell whether a run seems to be at work on this machine; its number may be another program's by now."""
    last = _last_run_of(path)
    return last is not None and last.host == socket.gethostname() and last.is_at_work and log_path(path).exists()


def _wake(batch: Iterable[_Entry], refused: Iterable[tuple[_Entry, OutputError]]) -> None:
    """Tell those who wait for a batch that it is written, or why their entry is not."""
    for entry, error in refused:
        _wake_all([entry], error)
    _wake_all(batch, None)


def _wake_all(batch: Iterable[_Entry], error: BaseException | None) -> None:
    for _, waiter in batch:
        if waiter is None or waiter.done():
            continue  # its task was cancelled meanwhile
        if error:
            waiter.set_exception(error)
        else:
            waiter.set_result(None)


def _question(text: Any) -> dict[str, Any]:
    with contextlib.suppress(TypeError, ValueError):  # a disk has changed it
        question = json.loads(text)
        return question if isinstance(question, dict) else {}
    return {}


def _counts(db: sqlite3.Connection) -> Counts:
    total = db.execute(f"SELECT count(*) FROM rows WHERE {IN_SCOPE}").fetchone()[0]
    ended = dict(
        db.execute(
            "SELECT a.status, count(*) FROM rows r JOIN results a ON a.id = r.result"
            f" WHERE {IN_SCOPE} GROUP BY a.status"
        ).fetchall()
    )
    return Counts(total, *(ended.get(status.value, 0) for status in (Status.OK, Status.INVALID, Status.ERROR)))


def _ending(request: Request, outcome: Outcome) -> tuple[str, tuple[Any, ...]]:
    return _END, (time.time(), outcome.name, *_numbers_of(outcome), request.id)


def _numbers_of(outcome: Outcome) -> list[int | None]:
    """Return what a request used and cost, as SQLite can hold it: no number may keep an answer from being saved."""
    usage = outcome.usage
    return _fitting(
        usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens, outcome.cost
    )


def _fitting(*numbers: int | None) -> list[int | None]:
    return [None if number is None else min(number, _LARGEST) for number in numbers]


def is_sealed(row: RowRecord) -> bool:
    """Tell whether a row's result is as it was when it was sealed."""
    text = b"\0".join((row.status, row.answer, row.error))
    return row.sealed == hashlib.blake2b(row.answered + text, digest_size=8).digest()


def _is_alive(pid: int) -> bool:
    """Tell whether a process runs on this machine. On Windows there is no harmless way to ask: assume it does."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""The journal: every request before it leaves and every answer before it counts, in one SQLite file.

Invariant: what was committed is never changed or removed; a row's result is only ever pointed at another answer.

    rows       what the input's rows ask now: position -> key, and the result that answers it (or none yet)
    results    every answer, and every error that ended a row, under the key of its question
    requests   every attempt: sent, and how it ended; no end means that it was in flight when the process ended
    chunks     the chunk files that were written, and from what
    runs       every process that worked on this keyword
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from filelock import FileLock, Timeout

from batcher.errors import OutputError
from batcher.records import GAVE_UP, Giver, Result, Status

VERSION = 1
_APPLICATION_ID = 0x62_74_63_68  # "btch": tells our files from other SQLite files

_SCHEMA = """
CREATE TABLE runs (id INTEGER PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, started REAL NOT NULL,
    ended REAL, outcome TEXT, chunk_size INTEGER NOT NULL, question TEXT NOT NULL);
CREATE TABLE givers (id INTEGER PRIMARY KEY, model TEXT NOT NULL, base_url TEXT NOT NULL, params TEXT NOT NULL,
    UNIQUE (model, base_url, params));
CREATE TABLE requests (id INTEGER PRIMARY KEY, run INTEGER NOT NULL, endpoint INTEGER NOT NULL,
    giver INTEGER NOT NULL, position INTEGER NOT NULL, key BLOB NOT NULL, sent REAL NOT NULL, ended REAL,
    outcome TEXT, prompt_tokens INTEGER, completion_tokens INTEGER);
CREATE TABLE results (id INTEGER PRIMARY KEY, key BLOB NOT NULL, giver INTEGER NOT NULL, status TEXT NOT NULL,
    answer TEXT NOT NULL, error TEXT NOT NULL);
CREATE TABLE rows (position INTEGER PRIMARY KEY, key BLOB NOT NULL, result INTEGER);
CREATE TABLE chunks (start INTEGER PRIMARY KEY, rows INTEGER NOT NULL, origin BLOB NOT NULL, sha256 BLOB NOT NULL);
"""

_SEND = "INSERT INTO requests (id, run, endpoint, giver, position, key, sent) VALUES (?, ?, ?, ?, ?, ?, ?)"
_END = "UPDATE requests SET ended = ?, outcome = ?, prompt_tokens = ?, completion_tokens = ? WHERE id = ?"
_RESULT = "INSERT INTO results (id, key, giver, status, answer, error) VALUES (?, ?, ?, ?, ?, ?)"
_POINT = "UPDATE rows SET result = ? WHERE position = ?"


_CHANGED = """
FROM moved m JOIN rows r USING (position) JOIN results a ON a.id = m.result
WHERE r.result IS NULL AND a.status <> 'error'
AND m.result NOT IN (SELECT result FROM rows WHERE result IS NOT NULL)
"""


class Request(NamedTuple):
    """An attempt that is about to leave.

    Attributes:
        id: its number in the journal.
        position: of the row.
        key: of the row's question.
        endpoint: the endpoint's place in the pool, from 0.
        giver: the id of its giver.
    """

    id: int
    position: int
    key: bytes
    endpoint: int
    giver: int


class Outcome(NamedTuple):
    """How an attempt ended: `answered`, or the name of its failure; and the model tokens it used."""

    name: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


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


class Journal:
    """The journal of one keyword; one process writes it, any number may read.

    Reading and planning are plain calls, made before and after the run. While it runs, `sent`, `failed` and `settled`
    put statements into a batch, and one thread commits batch after batch: whatever gathers during a commit goes into
    the next one (group commit), so that durability costs the run no throughput.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: FileLock | None = None) -> None:
        self.path = path
        self._db = connection
        self._lock = lock
        self._reading = threading.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="batcher-journal")
        self._broken: BaseException | None = None
        self._batch: list[tuple[str, tuple[Any, ...]]] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._run = 0
        self._ids: Iterator[int] = itertools.count(self._one("SELECT coalesce(max(id), 0) + 1 FROM requests")[0])
        self._reader = _connect(path, "ro")

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the journal for writing, or make a new one.

        Raises:
            OutputError: it cannot be opened, is no journal, was written by a newer batcher, or another process, which
                the message names, is writing it.
        """
        with _errors_told(path, "opened"), contextlib.ExitStack() as stack:
            lock = _lock(path)
            stack.callback(lock.release)
            db = stack.enter_context(contextlib.closing(_connect(path, "rwc")))
            version = _version(db, path)  # before anything is written: the file may be somebody else's
            db.execute("PRAGMA journal_mode = WAL")
            # A process that is killed loses nothing; a power cut may lose the last moment, never the file.
            db.execute("PRAGMA synchronous = NORMAL")
            if version == 0:
                db.executescript(
                    f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {_APPLICATION_ID};"
                    f" PRAGMA user_version = {VERSION}; COMMIT;"
                )
            journal = cls(path, db, lock)
            stack.pop_all()
        return journal

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open the journal for reading; a run may be writing it.

        Raises:
            OutputError: it is not there, is no journal, or was written by a newer batcher.
        """
        with _errors_told(path, "read"), contextlib.ExitStack() as stack:
            # Not "ro": what opens the file so leaves two more beside it when it closes last.
            db = stack.enter_context(contextlib.closing(_connect(path, "rw")))
            db.execute("PRAGMA query_only = ON")
            if _version(db, path) == 0:
                raise OutputError(f"{path} is no journal of batcher")
            journal = cls(path, db)
            stack.pop_all()
        return journal

    def close(self) -> None:
        """Close the file. What was noted and is not on disk yet goes there first, whoever waits for it or not.

        Raises:
            OutputError: it could not be written.
        """
        self._writer.shutdown()
        batch, waiters = self._take()
        try:
            if batch and not self._broken:
                self._commit(batch)
                _wake(waiters, None)
        finally:
            self._broken = self._broken or OutputError(f"the journal {self.path} is closed")
            _wake(waiters, self._broken)
            with self._reading:  # a thread may be about to end its reading
                self._reader.close()
            self._db.close()
            if self._lock:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- Planning: which rows there are, and which have an answer

    @contextlib.contextmanager
    def planning(self) -> Iterator[None]:
        """Make the block one transaction: the plan takes effect as a whole, or not at all."""
        # What rows had and lost in this plan, and what nobody has.
        self._do("CREATE TEMP TABLE IF NOT EXISTS moved (position INTEGER PRIMARY KEY, result INTEGER NOT NULL)")
        self._do(
            "CREATE TEMP TABLE IF NOT EXISTS free (key BLOB, nth INTEGER, id INTEGER, PRIMARY KEY (key, nth))"
            " WITHOUT ROWID"
        )
        self._do("BEGIN IMMEDIATE")
        try:
            self._do("DELETE FROM moved")
            self._do("DELETE FROM free")
            yield
            self._do("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.rollback()

    def plan_keys(self, start: int, keys: Sequence[bytes]) -> None:
        """Say what the rows from `start` on ask now. A row that asks something else loses its result for now."""
        known = self._do(
            "SELECT position, key FROM rows WHERE position >= ? AND position < ?", (start, start + len(keys))
        )
        old = dict(known)
        changed = [(start + i, key) for i, key in enumerate(keys) if old.get(start + i) != key]
        if not changed:
            return
        positions = [(position,) for position, _ in changed if position in old]
        with _errors_told(self.path, "written"):
            self._db.executemany(
                "INSERT INTO moved SELECT position, result FROM rows WHERE position = ? AND result IS NOT NULL",
                positions,
            )
            self._db.executemany("INSERT OR REPLACE INTO rows (position, key, result) VALUES (?, ?, NULL)", changed)

    def plan_end(self, rows: int, *, givers: Iterable[int], retry_failed: bool) -> int:
        """Finish the plan: give every row without a result an answer to its question, if there is one left.

        A row that has only moved stays an `error` where it was one.

        Args:
            rows: how many rows there are now; those behind them are forgotten, their answers are kept.
            givers: whose answers may be used.
            retry_failed: ask the rows again that ended as `error` or `invalid`.

        Returns:
            How many rows had an answer, and now ask something else or would ask somebody else.
        """
        self._do(
            "INSERT INTO moved SELECT position, result FROM rows WHERE position >= ? AND result IS NOT NULL", (rows,)
        )
        self._do("DELETE FROM rows WHERE position >= ?", (rows,))
        if retry_failed:
            failed = "(SELECT id FROM results WHERE status <> 'ok')"
            self._do(f"UPDATE rows SET result = NULL WHERE result IN {failed}")  # noqa: S608 - a constant
            self._do(f"DELETE FROM moved WHERE result IN {failed}")  # noqa: S608 - a constant
        allowed = ",".join(str(int(giver)) for giver in givers)
        self._do(
            f"""
            INSERT INTO moved SELECT r.position, r.result FROM rows r JOIN results a ON a.id = r.result
            WHERE a.giver NOT IN ({allowed}) AND a.status <> 'error'
            """  # noqa: S608 - integers only
        )
        self._do("UPDATE rows SET result = NULL WHERE position IN (SELECT position FROM moved)")
        self._reuse(allowed, "'ok'" if retry_failed else "'ok', 'invalid'")
        return int(self._one(f"SELECT count(*) {_CHANGED}")[0])

    def keep_changed(self) -> None:
        """Let the rows that `plan_end` counted keep the answers to their old questions."""
        self._do(
            f"""
            UPDATE rows SET result = (SELECT result FROM moved WHERE moved.position = rows.position)
            WHERE position IN (SELECT r.position {_CHANGED})
            """  # noqa: S608 - a constant
        )

    def _reuse(self, allowed: str, statuses: str) -> None:
        """Match rows and unused answers of equal keys, each in order; then rows and the errors that moved."""
        if not self._one("SELECT EXISTS (SELECT 1 FROM rows WHERE result IS NULL)")[0]:
            return
        found = self._do(
            f"""
            INSERT INTO free
            SELECT key, row_number() OVER (PARTITION BY key ORDER BY status = 'error', id), id FROM results
            WHERE (giver IN ({allowed}) AND status IN ({statuses})
                OR status = 'error' AND id IN (SELECT result FROM moved))
            AND id NOT IN (SELECT result FROM rows WHERE result IS NOT NULL)
            """  # noqa: S608 - integers and constants only
        )
        if not found.rowcount:
            return
        self._do(
            """
            UPDATE rows SET result = free.id
            FROM (
                SELECT position AS place, key, row_number() OVER (PARTITION BY key ORDER BY position) AS nth
                FROM rows WHERE result IS NULL) AS asked
            JOIN free USING (key, nth)
            WHERE rows.position = asked.place
            """
        )

    def giver_ids(self, givers: Sequence[Giver]) -> list[int]:
        """Return the id of each giver, made where it is new."""
        ids = []
        for giver in givers:
            self._do("INSERT OR IGNORE INTO givers (model, base_url, params) VALUES (?, ?, ?)", giver)
            found = self._one("SELECT id FROM givers WHERE model = ? AND base_url = ? AND params = ?", giver)
            ids.append(int(found[0]))
        return ids

    def planned_counts(self) -> Counts:
        """Count the rows by how they ended, as far as the plan has been made."""
        with _errors_told(self.path, "read"):
            return _counts(self._db)

    # -- Reading what is committed; from any thread, also while a run writes

    def counts(self) -> Counts:
        """Count the rows by how they ended."""
        with self._reading, _errors_told(self.path, "read"):
            return _counts(self._reader)

    def states(self, start: int, stop: int) -> list[tuple[bytes, int | None]]:
        """Return the key and the result's id, or None, of each row in a range of positions."""
        query = "SELECT key, result FROM rows WHERE position >= ? AND position < ? ORDER BY position"
        return [(key, result) for key, result in self._all(query, (start, stop))]

    def results(self, start: int, stop: int) -> list[Result]:
        """Return the results of a range of positions, all of which have one."""
        found = self._all(
            "SELECT a.status, a.answer, a.error FROM rows r JOIN results a ON a.id = r.result"
            " WHERE r.position >= ? AND r.position < ? ORDER BY r.position",
            (start, stop),
        )
        return [Result(Status(status), _text(answer), _text(error)) for status, answer, error in found]

    def chunks(self) -> dict[int, Chunk]:
        """Return the chunk files that were written, by the position of their first row."""
        found = self._all("SELECT start, rows, origin, sha256 FROM chunks ORDER BY start")
        return {start: Chunk(*rest) for start, *rest in found}

    def last_run(self) -> LastRun | None:
        """Return the latest process that worked on this keyword."""
        found = self._all(
            "SELECT id, host, pid, started, ended, outcome, chunk_size, question FROM runs ORDER BY id DESC LIMIT 1"
        )
        if not found:
            return None
        number, host, pid, started, ended, outcome, chunk_size, question = found[0]
        outcome = None if outcome is None else _text(outcome)
        return LastRun(number, host, pid, started, ended, outcome, chunk_size, json.loads(question))

    def in_flight(self, run: int) -> int:
        """Count the requests of one process that have no end: in flight now, or when it ended."""
        return int(self._all("SELECT count(*) FROM requests WHERE ended IS NULL AND run = ?", (run,))[0][0])

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
            " WHERE a.status <> 'ok') GROUP BY reason ORDER BY n DESC, reason LIMIT 10",
            (GAVE_UP,),
        )
        return [(_text(reason), count) for reason, count in found]

    def requests(self, run: int) -> int:
        """Count the requests that one process sent."""
        return int(self._all("SELECT count(*) FROM requests WHERE run = ?", (run,))[0][0])

    # -- A run

    def start_run(self, chunk_size: int, question: Mapping[str, Any]) -> None:
        """Note that this process begins to work."""
        started = (socket.gethostname(), os.getpid(), time.time(), chunk_size, json.dumps(question))
        cursor = self._do("INSERT INTO runs (host, pid, started, chunk_size, question) VALUES (?, ?, ?, ?, ?)", started)
        self._run = int(cursor.lastrowid or 0)

    async def end_run(self, outcome: str) -> None:
        """Note how this process ended."""
        values = (time.time(), _bound(outcome), self._run)
        await self._write(("UPDATE runs SET ended = ?, outcome = ? WHERE id = ?", values))

    async def sent(self, position: int, key: bytes, endpoint: int, giver: int) -> Request:
        """Note that a request is about to leave; when this returns, that is on disk."""
        request = Request(next(self._ids), position, key, endpoint, giver)
        await self._write((_SEND, (request.id, self._run, endpoint, giver, position, key, time.time())))
        return request

    def failed(self, request: Request, outcome: Outcome) -> None:
        """Note that a request brought no answer; it reaches the disk with the next commit."""
        self._put((_END, (time.time(), outcome.name, outcome.prompt_tokens, outcome.completion_tokens, request.id)))

    async def settled(self, request: Request, outcome: Outcome, result: Result) -> None:
        """Note that a row has its result; when this returns, that is on disk."""
        answer, error = _bound(result.answer), _bound(result.error)
        self.failed(request, outcome)
        await self._write(
            (_RESULT, (request.id, request.key, request.giver, result.status.value, answer, error)),
            (_POINT, (request.id, request.position)),
        )

    async def chunk_written(self, start: int, chunk: Chunk) -> None:
        """Note that a chunk file is in its place."""
        await self._write(
            (
                "INSERT OR REPLACE INTO chunks (start, rows, origin, sha256) VALUES (?, ?, ?, ?)",
                (start, *chunk),
            )
        )

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

    def _put(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        self._batch += statements
        # It is done and not None where somebody cancelled every task of the loop, as `asyncio.run` does at its end.
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.get_running_loop().create_task(self._flush_batches())

    async def _write(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        if self._broken:
            raise self._broken
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(done)
        self._put(*statements)
        await done

    def _take(self) -> tuple[list[tuple[str, tuple[Any, ...]]], list[asyncio.Future[None]]]:
        """Return what has gathered, and who waits for it."""
        taken = self._batch, self._waiters
        self._batch, self._waiters = [], []
        return taken

    async def _flush_batches(self) -> None:
        loop = asyncio.get_running_loop()
        while self._batch:
            batch, waiters = self._take()
            error = self._broken
            if not error:
                commit = loop.run_in_executor(self._writer, self._commit, batch)
                await asyncio.wait([commit])
                error = commit.exception()
                self._broken = self._broken or error
            _wake(waiters, error)
        self._flusher = None

    def _commit(self, batch: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        """Write one batch, in the order in which it was noted; runs in the journal's thread."""
        with _errors_told(self.path, "written"), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for statement, values in batch:
                self._db.execute(statement, values)

    def _do(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Execute one statement at once, within the plan's transaction where there is one."""
        with _errors_told(self.path, "written"):
            return self._db.execute(statement, values)

    def _one(self, query: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
        """Ask for one line, within the plan's transaction where there is one."""
        found: tuple[Any, ...] = self._do(query, values).fetchone()
        return found

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Ask for what is committed, from any thread, while the writer writes."""
        with self._reading, _errors_told(self.path, "read"):
            return self._reader.execute(query, values).fetchall()


@contextlib.contextmanager
def _errors_told(path: Path, doing: str) -> Iterator[None]:
    """Raise as `OutputError` what SQLite, or Python on its way there, has to say."""
    try:
        yield
    except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
        raise OutputError(f"the journal {path} cannot be {doing}: {error}") from error


def _lock(path: Path) -> FileLock:
    """Be the one process that writes a journal; the system frees the lock when a process ends, in whatever way."""
    # SQLite's own locks are on the journal itself, and closing another descriptor of it would drop them.
    lock = FileLock(path.with_name(f".{path.stem}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise OutputError(f"{path} is being written by {_writer_of(path)}: wait for its end, or stop it") from None
    except OSError as error:
        raise OutputError(f"{path} cannot be locked: {error.strerror}") from error
    return lock


def _writer_of(path: Path) -> str:
    try:
        with Journal.read(path) as journal:
            last = journal.last_run()
    except OutputError:
        last = None
    return f"process {last.pid} on {last.host}" if last and last.ended is None else "another process"


def _wake(waiters: Iterable[asyncio.Future[None]], error: BaseException | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue  # its task was cancelled meanwhile
        if error:
            waiter.set_exception(error)
        else:
            waiter.set_result(None)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # Planning and the writer thread take turns: the run starts when the plan is committed.
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}",
        uri=True,
        check_same_thread=False,
        timeout=30,
        isolation_level=None,
    )


def _version(db: sqlite3.Connection, path: Path) -> int:
    """Return the journal's version; 0 for a new file.

    Raises:
        OutputError: the file is something else, or too new.
    """
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    application = int(db.execute("PRAGMA application_id").fetchone()[0])
    tables = int(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if application != _APPLICATION_ID and (tables or application or version):
        raise OutputError(f"{path} is no journal of batcher")
    if version > VERSION:
        raise OutputError(
            f"{path} was written by a newer batcher (version {version}, this one reads {VERSION}): update"
        )
    return version


def _counts(db: sqlite3.Connection) -> Counts:
    total = db.execute("SELECT count(*) FROM rows").fetchone()[0]
    ended = dict(
        db.execute(
            "SELECT a.status, count(*) FROM rows r JOIN results a ON a.id = r.result GROUP BY a.status"
        ).fetchall()
    )
    return Counts(total, *(ended.get(status.value, 0) for status in (Status.OK, Status.INVALID, Status.ERROR)))


def _bound(text: str) -> str | bytes:
    """Return a text as SQLite can keep it: one with lone surrogates goes as bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value

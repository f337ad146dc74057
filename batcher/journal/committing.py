"""Group commit: one thread writes batch after batch, and what gathers during a commit goes into the next one.

Invariant: entries are written in the order in which they were noted, each as a whole or not at all, and who waits for
one hears of it only when it is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from batcher.errors import OutputError
from batcher.journal.schema import errors_told, raise_generation
from batcher.journal.watching import Watch

Statement = tuple[str, tuple[Any, ...]]

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


class _Entry(NamedTuple):
    """Statements that are written together or not at all.

    Attributes:
        done: who waits for them; None if nothing does.
        is_intent: not to be written later, if that was not possible at once.
    """

    statements: tuple[Statement, ...]
    done: asyncio.Future[None] | None = None
    is_intent: bool = False


class GroupCommit:
    """Commits what is noted in one connection, without keeping the event loop.

    Args:
        path: of the journal.
        connection: which no other thread uses meanwhile.
        watch: looks after each commit whether the file is still in its place.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, watch: Watch) -> None:
        self._path = path
        self._db = connection
        self._watch = watch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batcher-journal")
        self._batch: list[_Entry] = []
        self._unsaved: list[_Entry] = []
        self._flusher: asyncio.Task[None] | None = None
        self._broken: BaseException | None = None
        self._closed: BaseException | None = None

    def check(self) -> None:
        """Raise if the last commit failed.

        Raises:
            OutputError: it did.
        """
        if self._broken:
            raise self._broken

    def note(self, statement: Statement) -> None:
        """Write a statement with the next commit, and do not wait for it."""
        self._put(_Entry((statement,)))

    async def write(self, *statements: Statement, is_intent: bool = False) -> None:
        """Write statements together, and wait until they are on disk.

        Args:
            statements: each with its values.
            is_intent: they say what the caller is about to do. If they cannot be written at once the caller does not
                do it, and they are not written later.

        Raises:
            OutputError: they could not be written.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(_Entry(statements, done, is_intent))
        await done

    async def flush(self) -> None:
        """Wait until everything that was noted is on disk.

        Raises:
            OutputError: something could not be written.
        """
        while self._flusher is not None and not self._flusher.done():
            await asyncio.shield(self._flusher)
        self.check()

    def close(self) -> None:
        """Write what was noted and is not on disk yet, whoever waits for it or not.

        Raises:
            OutputError: it could not be written, and no caller has been told so yet.
        """
        self._thread.shutdown()
        batch = self._take()
        self._closed = OutputError(f"the journal {self._path} is closed")
        try:
            if self._unsaved or batch:
                _wake(batch, self._commit(batch))
        except OutputError:
            if not self._broken:
                raise
        finally:
            _wake_all(batch, self._broken or self._closed)

    def _put(self, entry: _Entry) -> None:
        self._batch.append(entry)
        # It is done and not None if every task of the loop was cancelled, as `asyncio.run` does at its end.
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.get_running_loop().create_task(self._flush_batches())

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
                commit = loop.run_in_executor(self._thread, self._commit, batch)
                await asyncio.wait([commit])
                error = self._broken = commit.exception()
                if not error:
                    refused = commit.result()
                    # Nothing waits for such an entry: the next request is told.
                    self._broken = next((why for entry, why in refused if not entry.done), None)
                    _wake(batch, refused)
            _wake_all(batch, error)
        self._flusher = None

    def _commit(self, batch: Sequence[_Entry]) -> list[tuple[_Entry, OutputError]]:
        """Write what could not be saved before and one batch, in the order in which it was noted.

        Runs in the thread. What cannot be saved now goes with the next batch, but for intents: the disk may have room
        again.

        Returns:
            The entries that can never be written, each with the reason.

        Raises:
            OutputError: nothing could be written, or the file is gone.
        """
        batch = [*self._unsaved, *batch]
        self._unsaved = [entry for entry in batch if not entry.is_intent]
        with errors_told(self._path, "written"):
            try:
                with self._transaction():
                    for entry in batch:
                        self._execute(entry)
                refused = []
            except _NEVER_WRITTEN:
                refused = self._commit_each(batch)
        self._unsaved = []
        self._watch.look()
        self._watch.check_is_there()
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
                    refused.append((entry, OutputError(f"the journal {self._path} cannot be written: {error}")))
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


def _wake(batch: Iterable[_Entry], refused: Iterable[tuple[_Entry, OutputError]]) -> None:
    """Tell those who wait for a batch that it is written, or why their entry is not."""
    for entry, error in refused:
        _wake_all([entry], error)
    _wake_all(batch, None)


def _wake_all(batch: Iterable[_Entry], error: BaseException | None) -> None:
    for _, waiter, _ in batch:
        if waiter is None or waiter.done():
            continue  # its task was cancelled meanwhile
        if error:
            waiter.set_exception(error)
        else:
            waiter.set_result(None)

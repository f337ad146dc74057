"""Group commit: one thread writes batch after batch; entries that arrive during a commit go into the next one.

Invariant: entries are written in the order of their arrival, each as a whole or not at all, and a caller that waits for
one is told only when it is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from batcher.errors import OutputError, output_error
from batcher.journal.schema import as_output_errors, raise_generation
from batcher.journal.watching import Watch

Statement = tuple[str, tuple[Any, ...]]

# The errors of SQLite, or of Python's module for it, for a value that can never be written; other errors concern the
# whole file.
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
        done: set when they are written; None if nothing waits for them.
        is_intent: they must be written at once or never.
    """

    statements: tuple[Statement, ...]
    done: asyncio.Future[None] | None = None
    is_intent: bool = False


class GroupCommit:
    """Commits entries in one connection, without blocking the event loop.

    Args:
        path: of the journal.
        connection: no other thread uses it meanwhile.
        watch: checks after each commit whether the file is still in its place.
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
            OutputError: the last commit failed.
        """
        if self._broken:
            raise self._broken

    def note(self, *statements: Statement) -> None:
        """Add statements, which are written together, to the next commit, without waiting for it."""
        self._put(_Entry(statements))

    def write(self, *statements: Statement, is_intent: bool = False) -> asyncio.Future[None]:
        """Write statements together; the future that is returned is done when they are on disk.

        Args:
            statements: each with its values.
            is_intent: they record what the caller is about to do. If they cannot be written at once, the caller does
                not do it, and they are not written later.

        Raises:
            OutputError: they could not be written.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(_Entry(statements, done, is_intent))
        return done

    async def flush(self) -> None:
        """Wait until every entry is on disk.

        Raises:
            OutputError: an entry could not be written.
        """
        while self._flusher is not None and not self._flusher.done():
            await asyncio.shield(self._flusher)
        self.check()

    def close(self) -> None:
        """Write the entries that are not on disk yet.

        Raises:
            OutputError: they could not be written, and no caller has been told yet.
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
        # The task is done and not None if all tasks of the loop were cancelled, as `asyncio.run` does at its end.
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.get_running_loop().create_task(self._flush_batches())

    def _take(self) -> list[_Entry]:
        """Return the entries that have gathered."""
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
                    # Nothing waits for such an entry: the next request gets the error.
                    self._broken = next((why for entry, why in refused if not entry.done), None)
                    _wake(batch, refused)
            _wake_all(batch, error)
        self._flusher = None

    def _commit(self, batch: Sequence[_Entry]) -> list[tuple[_Entry, OutputError]]:
        """Write the entries that could not be saved before, then one batch, all in the order of their arrival.

        Runs in the thread. Entries that cannot be saved now, except intents, are tried again with the next batch: the
        disk may have room then.

        Returns:
            The entries that can never be written, each with the reason.

        Raises:
            OutputError: nothing could be written, or the file is gone.
        """
        batch = [*self._unsaved, *batch]
        self._unsaved = [entry for entry in batch if not entry.is_intent]
        with as_output_errors(self._path, "written"):
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
        """Write a batch, except for entries that cannot be written; see `_commit`."""
        refused = []
        with self._transaction():
            for entry in batch:
                self._db.execute("SAVEPOINT entry")
                try:
                    self._execute(entry)
                except _NEVER_WRITTEN as error:
                    self._db.execute("ROLLBACK TO entry")
                    refused.append((entry, output_error(f"the journal {self._path} cannot be written: {error}", error)))
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
    """Tell the waiting callers of a batch that it is written, or why their entry is not."""
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

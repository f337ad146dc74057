"""Executes statements on a connection at once, in the current transaction if there is one.

Invariant: an error of SQLite is raised as an error that names the journal.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from batcher.journal.schema import as_output_errors

NOTE = "INSERT INTO events (run, at, kind, subject, detail) VALUES (?, ?, ?, ?, ?)"
"""Records an event."""


class Statements:
    """Executes statements in one connection.

    Args:
        path: of the journal.
        connection: no other thread uses it meanwhile.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.connection = connection

    def do(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        with as_output_errors(self.path, "written"):
            return self.connection.execute(statement, values)

    def do_many(self, statement: str, values: Iterable[Sequence[Any]]) -> None:
        with as_output_errors(self.path, "written"):
            self.connection.executemany(statement, values)

    def script(self, statements: str) -> None:
        """Execute several statements; a transaction under way is committed before."""
        with as_output_errors(self.path, "written"):
            self.connection.executescript(statements)

    def one(self, query: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
        """Return the first row of a query's result."""
        found: tuple[Any, ...] = self.do(query, values).fetchone()
        return found

    def is_any(self, query: str, values: Sequence[Any] = ()) -> bool:
        """Return whether a query finds a row."""
        return bool(self.one(f"SELECT EXISTS ({query})", values)[0])

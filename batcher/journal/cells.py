"""A temporary copy of the cells of a table, to read any row at once and to search in.

Invariant: it is an unnamed database of SQLite, which is gone with the process; no journal is touched.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence

from batcher.errors import output_error

_BETWEEN = "\0"  # no cell of a file holds it
_MOST_VALUES = 900  # in one statement


class Cells:
    """The cells of rows, as a file holds them. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._lock = threading.Lock()
        with self._using():
            # Nothing of it outlives the process.
            for pragma in ("journal_mode = MEMORY", "synchronous = OFF", "cache_size = -16000"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.execute("CREATE TABLE cells (position INTEGER PRIMARY KEY, texts TEXT NOT NULL)")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def add(self, rows: Iterable[tuple[int, Sequence[str]]]) -> None:
        """Add rows, or replace them."""
        joined = [(position, _BETWEEN.join(cells)) for position, cells in rows]
        with self._using():
            self._db.execute("BEGIN")
            try:
                self._db.executemany("INSERT OR REPLACE INTO cells VALUES (?, ?)", joined)
                self._db.execute("COMMIT")
            except sqlite3.Error:  # the disk is full
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def count(self) -> int:
        """Return the number of rows that it has."""
        with self._using():
            return int(self._db.execute("SELECT count(*) FROM cells").fetchone()[0])

    def at(self, positions: Sequence[int]) -> dict[int, list[str]]:
        """Return the cells of rows, by their positions; rows that it does not have are left out."""
        found: dict[int, list[str]] = {}
        for start in range(0, len(positions), _MOST_VALUES):
            part = positions[start : start + _MOST_VALUES]
            marks = ", ".join("?" * len(part))
            with self._using():
                lines = self._db.execute(f"SELECT position, texts FROM cells WHERE position IN ({marks})", part)
                found.update((position, texts.split(_BETWEEN)) for position, texts in lines)
        return found

    def between(self, start: int, stop: int) -> dict[int, str]:
        """Return the cells of the rows in a range of positions, each row in one text, with NUL between the cells."""
        with self._using():
            found = self._db.execute(
                "SELECT position, texts FROM cells WHERE position >= ? AND position < ?", (start, stop)
            )
            return dict(found.fetchall())

    def text_of(self, start: int, stop: int) -> str:
        """Return all cells of the rows in a range of positions in one text, to look whether a text may be in them."""
        with self._using():
            found = self._db.execute(
                "SELECT coalesce(group_concat(texts, char(1)), '') FROM cells WHERE position >= ? AND position < ?",
                (start, stop),
            )
            return str(found.fetchone()[0])

    def missing(self, start: int, stop: int) -> list[int]:
        """Return the positions in a range that it does not have."""
        there = self.between(start, stop)
        return [position for position in range(start, stop) if position not in there]

    @contextlib.contextmanager
    def _using(self) -> Iterator[None]:
        """Let the block use the connection alone.

        Raises:
            OutputError: the temporary directory is full, or the copy is closed.
        """
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise output_error(f"the temporary copy of the table cannot be used: {error}", error) from error

"""Which row has which answer: a plan, made in the journal.

Invariant: a plan takes effect as a whole or not at all, and no answer is ever changed or removed by it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from batcher.input.marks import EMPTY, Comparison
from batcher.journal import rules as rule
from batcher.journal.access import Opened
from batcher.journal.entries import Counts, kept, seal
from batcher.journal.pairing import pair
from batcher.journal.reading import Reader, counts
from batcher.journal.rules import Rules
from batcher.journal.schema import bound, errors_told
from batcher.journal.scratch import BARE, has_bare_rows, scratch
from batcher.journal.statements import Statements
from batcher.records import Result, RowState, Source


class Matched(NamedTuple):
    """What came of matching rows and answers.

    Attributes:
        changed: how many rows had an answer, and now ask something else or would ask somebody else: counted by the
            columns that changed, as a bit mask in the order of the columns asked about; 0 if it is not the columns.
        own: those of them whose earlier answer is provably their own, so that `reuse` lets them keep it.
        gone: answered rows that are gone, each of which may be one of the new rows, edited.
        adopted: rows whose result was found in a chunk file.
        same: rows without a result that ask what another one asks.
    """

    changed: dict[int, int]
    own: int
    gone: int
    adopted: int
    same: int


class Matching:
    """Matches the rows of a table with the answers there are; made by `Planner.planning`.

    First it is told of all rows, slice by slice (`add_rows`, `add_found`, `add_file`); then `finish` gives each row its
    answer.

    Args:
        db: the plan's connection, in which the tables of `scratch` are.
        comparison: tells rows from one another, and what of them changed.
    """

    def __init__(self, db: Statements, comparison: Comparison) -> None:
        self._db = db
        self._comparison = comparison

    def source_ids(self, sources: Sequence[Source]) -> list[int]:
        """Return the id of each source; a new one gets one."""
        return [rule.source_id(self._db, source) for source in sources]

    # -- What there is

    def add_rows(self, start: int, keys: Sequence[bytes], cells: Sequence[bytes]) -> None:
        """Record what the rows from `start` on ask now. A row that asks something else loses its result for now.

        Args:
            start: the position of the first.
            keys: of their questions.
            cells: the marks of the rows.
        """
        known = self._db.do(
            "SELECT position, key, cells, is_kept FROM rows WHERE position >= ? AND position < ?",
            (start, start + len(keys)),
        )
        old = {position: (key, cells or b"", is_kept) for position, key, cells, is_kept in known}
        moved, renewed, noted = [], [], []
        for position, key, cell in zip(itertools.count(start), keys, cells, strict=False):
            had = old.get(position)
            # Rows that ask the same now may keep answers to earlier questions, which were not the same.
            if had is None or had[0] != key or (had[2] is not None and not self._comparison.may_keep(had[1], cell)):
                renewed.append((position, key, cell))
                if had is not None:
                    moved.append((position,))
            elif had[1] != cell:
                noted.append((cell, position))
        self._db.do_many(
            "INSERT INTO moved SELECT position, result, key, cells, is_kept FROM rows"
            " WHERE position = ? AND result IS NOT NULL",
            moved,
        )
        self._db.do_many("INSERT INTO renewed VALUES (?)", moved)
        self._db.do_many("INSERT INTO open SELECT key FROM rows WHERE position = ? AND result IS NULL", moved)
        self._db.do_many("INSERT OR REPLACE INTO rows (position, key, cells) VALUES (?, ?, ?)", renewed)
        self._db.do_many("UPDATE rows SET cells = ? WHERE position = ?", noted)

    def add_found(self, found: Iterable[tuple[int, bytes, Result]]) -> None:
        """Record which results chunk files hold: position, key and result of each.

        They are for rows that have never had one: what the journal has asked, it knows better than a file.
        """
        values = (
            (position, result.status.value, bound(result.answer), bound(result.error), seal(key, result), position)
            for position, key, result in found
        )
        self._db.do_many(
            "INSERT INTO found SELECT ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM rows LEFT JOIN moved m"
            " USING (position) WHERE position = ? AND rows.result IS NULL AND m.result IS NULL)",
            values,
        )

    def add_file(self, start: int, rows: int, sha256: bytes) -> None:
        """Record a chunk file that the journal does not know, and that was adopted as it is."""
        self._db.do("INSERT OR IGNORE INTO chunks VALUES (?, ?, x'', ?)", (start, rows, sha256))

    def twins(self, rows: int, mark: str) -> tuple[int, int] | None:
        """Return the positions of two rows that have the same mark, or None if there are none; an empty cell has none.

        Args:
            rows: how many rows there are now.
            mark: the expression that makes it, of a row's `cells`.
        """
        found = self._db.do(
            f"SELECT min(position), max(position) FROM rows WHERE position < ? AND {mark} <> x'{EMPTY.hex()}'"
            f" GROUP BY {mark} HAVING count(*) > 1 ORDER BY 1 LIMIT 1",
            (rows,),
        ).fetchone()
        return found and (int(found[0]), int(found[1]))

    # -- Which row gets which answer

    def finish(self, rows: int, rules: Rules) -> Matched:
        """Give every row the answer to its question, if there is one that the rules let it have.

        Args:
            rows: how many rows there are now.
            rules: which answers they may have.
        """
        db = self._db
        # First, the rows that lose their result.
        rule.plan_for(db, rows)
        if not rules.is_limited:
            rule.remove_rows_behind(db, rows)
        if rules.retry_failed:
            rule.retry_failed(db)
        rule.drop_answers_of_sources_that_left(db, rules)
        if rules.on_change == "redo":
            rule.redo_kept_answers(db)
        rule.clear_dropped(db)
        # Then, the rows that get one.
        if has_bare_rows(db):
            rule.reuse_by_key(db, rules)
            if rules.on_change != "redo":
                rule.move_kept_answers(db, self._comparison)
        adopted = rule.adopt_from_files(db)
        if rules.retry_failed:
            rule.retry_failed(db)  # also those that were adopted as such
        if rules.dedup:
            rule.share_answers(db, rules)
        # At last, the rows and the answers that are left over.
        paired = pair(db, self._comparison)
        if rules.on_change == "reuse":
            rule.keep_own_answers(db)
        if rules.dedup:
            rule.prefer_ok_answers(db, rules)
        rule.choose_who_asks(db, dedup=rules.dedup)
        [same] = db.one(f"SELECT count(*) - count(DISTINCT key) FROM rows WHERE {BARE}")
        return Matched(*paired, adopted, int(same))

    # -- What came of it

    def counts(self) -> Counts:
        """Count the rows by how they ended, as far as the plan has been made."""
        with errors_told(self._db.path, "read"):
            return counts(self._db.connection)

    def states(self, start: int, stop: int) -> list[RowState]:
        """Return the key and the result of each row in a range of positions, as far as the plan has been made."""
        query = "SELECT key, result FROM rows WHERE position >= ? AND position < ? ORDER BY position"
        return [RowState(key, result) for key, result in self._db.do(query, (start, stop))]


class Planner(Reader):
    """A journal in which a plan can be made: that of a run, or a copy of it.

    Args:
        path: of the journal.
        connection: in which plans are made; no other thread uses it meanwhile.
        reader: for what is committed; may be the same one.
        resources: are closed with it.
        opened: how the file was opened, if nothing keeps others from writing it.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        reader: sqlite3.Connection,
        resources: contextlib.ExitStack,
        *,
        opened: Opened | None = None,
    ) -> None:
        super().__init__(path, reader, resources, opened=opened)
        self._db = Statements(path, connection)
        self._run = 0

    @contextlib.contextmanager
    def planning(self, comparison: Comparison) -> Iterator[Matching]:
        """Make the block one transaction: the plan takes effect as a whole, or not at all.

        Args:
            comparison: tells rows from one another, and what of them changed.
        """
        db = self._db.connection
        db.create_function("differing", 2, comparison.differing, deterministic=True)
        db.create_function("kept", 3, kept, deterministic=True)
        run = self._run
        with scratch(self._db):
            self._db.do("BEGIN IMMEDIATE")
            try:
                yield Matching(self._db, comparison)
                self._db.do("COMMIT")
            except BaseException:
                self._run = run  # one that was started in the block is not in the file
                raise
            finally:
                if db.in_transaction:
                    db.rollback()

    def start_run(self, chunk_size: int, question: Mapping[str, Any]) -> None:
        """Record that this process begins to work; in a plan's block, together with the plan."""
        started = (socket.gethostname(), os.getpid(), time.time(), chunk_size, json.dumps(question))
        statement = "INSERT INTO runs (host, pid, started, chunk_size, question) VALUES (?, ?, ?, ?, ?)"
        self._run = int(self._db.do(statement, started).lastrowid or 0)

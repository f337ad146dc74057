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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from batcher.input.marks import EMPTY, Comparison
from batcher.journal.access import Opened
from batcher.journal.entries import Counts, kept, seal
from batcher.journal.pairing import pair
from batcher.journal.reading import Reader, counts
from batcher.journal.schema import ADOPTED, IN_SCOPE, bound, errors_told
from batcher.journal.scratch import BARE, has_bare_rows, scratch
from batcher.journal.statements import Statements
from batcher.records import Result, RowState, Source

_NOT_OK = "(SELECT id FROM results WHERE status <> 'ok')"


@dataclass(frozen=True)
class Rules:
    """Which answers a plan's rows may have.

    Attributes:
        sources: ids of the sources whose answers may be used.
        on_change: what becomes of answers to earlier questions. With `reuse` a row keeps the one that is provably its
            own, and from then on also with `abort`; with `redo` it is asked again.
        retry_failed: rows that ended as `error` or `invalid` are asked again.
        dedup: one answer may serve all rows that ask the same.
        is_limited: the table has more rows behind those of the plan. They stay as they are, but for answers that the
            plan's rows need. Without a limit, rows behind those of the plan are removed; their answers stay.
    """

    sources: frozenset[int]
    on_change: str = "abort"
    retry_failed: bool = False
    dedup: bool = False
    is_limited: bool = False

    @property
    def is_of_pool(self) -> str:
        """The condition for a result whose source is in the pool."""
        return f"source IN ({','.join(str(int(source)) for source in sorted(self.sources))})"

    @property
    def is_usable(self) -> str:
        """The condition for a result that a row may take whose question it answers."""
        return f"{self.is_of_pool} AND status " + ("= 'ok'" if self.retry_failed else "<> 'error'")


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
        ids = []
        for source in sources:
            self._db.do("INSERT OR IGNORE INTO sources (model, base_url, params) VALUES (?, ?, ?)", source)
            found = self._db.one("SELECT id FROM sources WHERE model = ? AND base_url = ? AND params = ?", source)
            ids.append(int(found[0]))
        return ids

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
        # First, the rows that lose their result.
        self._plan_for(rows)
        if not rules.is_limited:
            self._remove_rows_behind(rows)
        if rules.retry_failed:
            self._retry_failed()
        self._drop_answers_of_sources_that_left(rules)
        if rules.on_change == "redo":
            self._redo_kept_answers()
        self._clear_dropped()
        # Then, the rows that get one.
        if has_bare_rows(self._db):
            self._reuse_by_key(rules)
            if rules.on_change != "redo":
                self._move_kept_answers()
        adopted = self._adopt_from_files()
        if rules.retry_failed:
            self._retry_failed()  # also those that were adopted as such
        if rules.dedup:
            self._share_answers(rules)
        # At last, the rows and the answers that are left over.
        paired = pair(self._db, self._comparison)
        if rules.on_change == "reuse":
            self._keep_own_answers()
        if rules.dedup:
            self._prefer_ok_answers(rules)
        self._choose_who_asks(dedup=rules.dedup)
        [same] = self._db.one(f"SELECT count(*) - count(DISTINCT key) FROM rows WHERE {BARE}")
        return Matched(*paired, adopted, int(same))

    def _plan_for(self, rows: int) -> None:
        self._db.do("UPDATE scope SET rows = ? WHERE rows <> ?", (rows, rows))
        self._db.do("INSERT INTO open SELECT key FROM rows WHERE position >= ? AND result IS NULL", (rows,))

    def _remove_rows_behind(self, rows: int) -> None:
        """Remove the rows that the table does not have any more; other rows may get their answers."""
        self._drop("position >= ?", rows)
        self._db.do("DELETE FROM rows WHERE position >= ?", (rows,))

    def _retry_failed(self) -> None:
        """Take the result from every row that ended as `error` or `invalid`, for good."""
        self._db.do(f"UPDATE rows SET result = NULL, is_kept = NULL WHERE {IN_SCOPE} AND result IN {_NOT_OK}")
        self._db.do(f"INSERT INTO open SELECT key FROM moved WHERE result IN {_NOT_OK}")
        self._db.do(f"DELETE FROM moved WHERE result IN {_NOT_OK}")
        self._db.do(f"DELETE FROM given WHERE id IN {_NOT_OK}")

    def _drop_answers_of_sources_that_left(self, rules: Rules) -> None:
        """Take from rows the answers whose source is not in the pool; errors and kept answers stay."""
        left = f"(SELECT id FROM results WHERE status <> 'error' AND NOT {rules.is_of_pool})"
        self._drop(f"{IN_SCOPE} AND result IN {left} AND is_kept IS NULL")

    def _redo_kept_answers(self) -> None:
        """Take from rows the answers to earlier questions that they keep."""
        self._drop(f"{IN_SCOPE} AND is_kept IS NOT NULL")

    def _drop(self, where: str, *values: int) -> None:
        """Note which rows lose their result; the answers are then free for other rows."""
        self._db.do(
            "INSERT OR IGNORE INTO moved SELECT position, result, key, cells, is_kept FROM rows"
            f" WHERE result IS NOT NULL AND {where}",
            values,
        )

    def _clear_dropped(self) -> None:
        self._db.do("UPDATE rows SET result = NULL, is_kept = NULL WHERE position IN (SELECT position FROM moved)")

    def _reuse_by_key(self, rules: Rules) -> None:
        """Give rows the unused answers to their questions, wherever those stood, each in order.

        Unused are those of rows that have moved or changed, of rows that were removed earlier, and of rows behind a
        limit. A row that has only moved stays an `error` if it was one.
        """
        found = self._db.do(
            f"""
            INSERT INTO free
            SELECT key, row_number() OVER (
                PARTITION BY key ORDER BY status = 'error', spared_by IS NOT NULL, status <> 'ok', id, spared_by),
                id, spared_by
            FROM (
                SELECT a.key, a.status, a.id, NULL AS spared_by FROM moved m JOIN results a ON a.id = m.result
                WHERE {rules.is_usable} OR status = 'error'
                UNION ALL
                SELECT key, status, id, NULL FROM results WHERE {rules.is_usable}
                AND id NOT IN (SELECT result FROM moved)
                AND id NOT IN (SELECT result FROM rows WHERE result IS NOT NULL)
                UNION ALL
                SELECT a.key, a.status, a.id, r.position FROM rows r JOIN results a ON a.id = r.result
                WHERE NOT r.{IN_SCOPE} AND {rules.is_usable})
            """
        )
        if not found.rowcount:
            return
        self._db.do(
            f"""
            INSERT INTO given SELECT asked.position, free.id, free.spared_by, NULL FROM (
                SELECT position, key, row_number() OVER (PARTITION BY key ORDER BY position) AS nth
                FROM rows WHERE {BARE}) AS asked
            JOIN free USING (key, nth)
            """
        )
        self._hand_out()

    def _move_kept_answers(self) -> None:
        """Let rows that keep an answer to an earlier question, and have only moved, keep it where they stand now."""
        if not self._db.is_any("SELECT 1 FROM moved WHERE is_kept IS NOT NULL"):
            return
        mark = self._comparison.sql(self._comparison.asked_ever)
        self._db.do(
            f"""
            INSERT INTO given SELECT asked.position, kept.result, NULL, kept.is_kept FROM (
                SELECT position, key, {mark} AS mark,
                    row_number() OVER (PARTITION BY key, {mark} ORDER BY position) AS nth
                FROM rows WHERE {BARE}) AS asked
            JOIN (SELECT result, key, is_kept, {mark} AS mark,
                    row_number() OVER (PARTITION BY key, {mark} ORDER BY position) AS nth
                FROM moved WHERE is_kept IS NOT NULL) AS kept USING (key, mark, nth)
            """
        )
        self._hand_out()

    def _adopt_from_files(self) -> int:
        """Give rows that have no result what chunk files hold for them; return how many such rows there are."""
        if not self._db.is_any("SELECT 1 FROM found"):
            return 0
        [source] = self.source_ids([ADOPTED])
        [lowest] = self._db.one("SELECT min(0, coalesce(min(id), 0)) FROM results")
        self._db.do(
            f"""
            INSERT INTO given SELECT position, ? - row_number() OVER (ORDER BY position), NULL, NULL
            FROM found JOIN rows USING (position) WHERE {BARE}
            """,
            (lowest,),
        )
        self._db.do(
            "INSERT INTO results (id, key, source, status, answer, error, seal)"
            " SELECT g.id, r.key, ?, f.status, f.answer, f.error, f.seal"
            " FROM given g JOIN found f USING (position) JOIN rows r USING (position) WHERE g.id < ?",
            (source, lowest),
        )
        self._hand_out()
        [adopted] = self._db.one("SELECT count(*) FROM given WHERE id < ?", (lowest,))
        return int(adopted)

    def _share_answers(self, rules: Rules) -> None:
        """Give rows an answer that another row has already, if they ask the same."""
        self._db.do(
            f"""
            INSERT INTO given SELECT position, id, NULL, NULL FROM rows
            JOIN (SELECT key, coalesce(min(iif(status = 'ok', id, NULL)), min(id)) AS id
                FROM results WHERE {rules.is_usable} GROUP BY key) USING (key) WHERE {BARE}
            """
        )
        self._hand_out()

    def _keep_own_answers(self) -> None:
        """Let rows keep the answers to their earlier questions that are provably their own."""
        self._db.do("DELETE FROM given")
        self._db.do(
            "INSERT INTO given SELECT p.position, l.result, iif(l.is_spared, l.position, NULL),"
            " kept(p.proof, r.key, l.result) FROM pairs p JOIN lost l ON l.id = p.lost JOIN rows r USING (position)"
            " WHERE p.proof IS NOT NULL"
        )
        self._hand_out()

    def _prefer_ok_answers(self, rules: Rules) -> None:
        """Give rows that failed the `ok` answer to their question, if another row got one."""
        self._db.do(
            f"""
            UPDATE rows SET result = better.id FROM (
                SELECT key, min(id) AS id FROM results WHERE {rules.is_usable} AND status = 'ok' GROUP BY key) AS better
            WHERE better.key = rows.key AND rows.{IN_SCOPE} AND rows.is_kept IS NULL AND rows.result IN {_NOT_OK}
            """
        )

    def _choose_who_asks(self, *, dedup: bool) -> None:
        """Let the first of the rows that ask the same ask for all of them; without `dedup` each asks for itself."""
        if self._db.is_any("SELECT 1 FROM same"):
            self._db.do("DELETE FROM same")
        if dedup:
            self._db.do(
                f"""
                INSERT INTO same SELECT position, leader FROM (
                    SELECT position, min(position) OVER (PARTITION BY key) AS leader FROM rows WHERE {BARE})
                WHERE position > leader
                """
            )

    def _hand_out(self) -> None:
        """Point rows at what they were given; a row behind the limit loses what it could spare."""
        self._db.do(
            "UPDATE rows SET result = g.id, is_kept = g.is_kept FROM given g WHERE g.position = rows.position"
            " AND rows.result IS NULL"
        )
        self._db.do(
            "UPDATE rows SET result = NULL, is_kept = NULL WHERE position IN (SELECT spared_by FROM given)"
            f" AND NOT {IN_SCOPE}"
        )

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
        with scratch(self._db):
            self._db.do("BEGIN IMMEDIATE")
            try:
                yield Matching(self._db, comparison)
                self._db.do("COMMIT")
            finally:
                if db.in_transaction:
                    db.rollback()

    def start_run(self, chunk_size: int, question: Mapping[str, Any]) -> None:
        """Record that this process begins to work; in a plan's block, together with the plan."""
        started = (socket.gethostname(), os.getpid(), time.time(), chunk_size, json.dumps(question))
        statement = "INSERT INTO runs (host, pid, started, chunk_size, question) VALUES (?, ?, ?, ?, ?)"
        self._run = int(self._db.do(statement, started).lastrowid or 0)

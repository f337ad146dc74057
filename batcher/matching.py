"""Which row has which answer: the part of the journal that plans.

Invariant: a plan takes effect as a whole or not at all, and no answer is ever changed or removed by it.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from batcher.records import Giver, Result
from batcher.tables import ADOPTED, CELL_BYTES, IN_SCOPE, bound, errors_told, seal

_BARE = f"rows.result IS NULL AND rows.{IN_SCOPE}"

# What the plan needs to know for its own time only: which result a row had and lost, what it had asked, and which of
# its columns changed, as a bit mask; the results that nobody has, or that a row behind the limit can spare; which of
# them went where; and what was found in chunk files.
_SCRATCH = """
CREATE TEMP TABLE moved (position INTEGER PRIMARY KEY, result INTEGER NOT NULL, columns INTEGER NOT NULL,
    key BLOB NOT NULL, cells BLOB, is_kept INTEGER);
CREATE TEMP TABLE free (key BLOB, nth INTEGER, id INTEGER, spared_by INTEGER, PRIMARY KEY (key, nth)) WITHOUT ROWID;
CREATE TEMP TABLE given (position INTEGER PRIMARY KEY, id INTEGER NOT NULL, spared_by INTEGER);
CREATE TEMP TABLE found (position INTEGER PRIMARY KEY, status TEXT, answer TEXT, error TEXT, seal BLOB);
"""
_SCRATCH_NAMES = ("moved", "free", "given", "found")

# Answers that have gone to no other row. One may have served several rows (`--dedup`): so many of them are left out as
# have it again, those first that need it least.
_LOST = """
(
    SELECT position, result, columns, cells, is_bare FROM (
        SELECT m.*, r.position IS NOT NULL AND r.result IS NULL AS is_bare, coalesce(g.count, 0) AS again,
            row_number() OVER (
                PARTITION BY m.result ORDER BY r.position IS NOT NULL AND r.result IS NULL, m.position) AS nth
        FROM moved m LEFT JOIN (SELECT position, result FROM rows WHERE position < (SELECT rows FROM scope)) r
            USING (position)
        LEFT JOIN (SELECT id, count(*) AS count FROM given GROUP BY id) g ON g.id = m.result)
    WHERE nth > again AND result IN (SELECT id FROM results WHERE status <> 'error')
)
"""
_CHANGED = f"{_LOST} WHERE is_bare"


class Matched(NamedTuple):
    """What came of matching rows and answers.

    Attributes:
        changed: how many rows had an answer, and now ask something else or would ask somebody else: counted by the
            columns that changed, as a bit mask in the order of their cells; 0 where it is not the columns.
        adopted: rows whose result was found in a chunk file.
        same: rows without a result that ask what another one asks.
    """

    changed: dict[int, int]
    adopted: int
    same: int


class Matching:
    """Matches rows and answers, in the journal's own connection.

    Args:
        path: of the journal.
        connection: which nobody else uses meanwhile.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection

    @contextlib.contextmanager
    def planning(self) -> Iterator[None]:
        """Make the block one transaction: the plan takes effect as a whole, or not at all."""
        self._forget_scratch()
        with errors_told(self.path, "written"):
            self._db.executescript(_SCRATCH)
        self._do("BEGIN IMMEDIATE")
        try:
            yield
            self._do("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.rollback()
            self._forget_scratch()

    def _forget_scratch(self) -> None:
        for name in _SCRATCH_NAMES:
            self._do(f"DROP TABLE IF EXISTS temp.{name}")

    def plan_keys(self, start: int, keys: Sequence[bytes], cells: Sequence[bytes]) -> None:
        """Say what the rows from `start` on ask now. A row that asks something else loses its result for now.

        Args:
            start: the position of the first.
            keys: of their questions.
            cells: what each question is made of: four bytes for each column, the same ones for the same value.
        """
        known = self._do(
            "SELECT position, key, cells FROM rows WHERE position >= ? AND position < ?", (start, start + len(keys))
        )
        old = {position: (key, cells or b"") for position, key, cells in known}
        moved, renewed, noted = [], [], []
        for position, key, cell in zip(itertools.count(start), keys, cells, strict=False):
            had = old.get(position)
            if had is None or had[0] != key:
                renewed.append((position, key, cell))
                if had is not None:
                    moved.append((_differing(had[1], cell), position))
            elif had[1] != cell:
                noted.append((cell, position))
        with errors_told(self.path, "written"):
            self._db.executemany(
                "INSERT INTO moved SELECT position, result, ?, key, cells, is_kept FROM rows"
                " WHERE position = ? AND result IS NOT NULL",
                moved,
            )
            self._db.executemany("INSERT OR REPLACE INTO rows (position, key, cells) VALUES (?, ?, ?)", renewed)
            self._db.executemany("UPDATE rows SET cells = ? WHERE position = ?", noted)

    def plan_found(self, found: Iterable[tuple[int, bytes, Result]]) -> None:
        """Say which results chunk files hold: position, key and result of each.

        They are for rows that have never had one: what the journal has asked, it knows better than a file.
        """
        values = (
            (position, result.status.value, bound(result.answer), bound(result.error), seal(key, result), position)
            for position, key, result in found
        )
        with errors_told(self.path, "written"):
            self._db.executemany(
                "INSERT INTO found SELECT ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM rows LEFT JOIN moved m"
                " USING (position) WHERE position = ? AND rows.result IS NULL AND m.result IS NULL)",
                values,
            )

    def plan_file(self, start: int, rows: int, sha256: bytes) -> None:
        """Say which chunk file that the journal does not know was taken over as it is."""
        self._do("INSERT OR IGNORE INTO chunks VALUES (?, ?, x'', ?)", (start, rows, sha256))

    def plan_end(
        self,
        rows: int,
        *,
        givers: Iterable[int],
        is_limited: bool = False,
        retry_failed: bool = False,
        redo: bool = False,
        reuse: bool = False,
        dedup: bool = False,
    ) -> Matched:
        """Finish the plan: give every row without a result an answer to its question, if there is one left.

        A row that has only moved stays an `error` where it was one.

        Args:
            rows: how many rows there are now.
            givers: whose answers may be used.
            is_limited: there are more rows behind them, which stay as they are; else those are forgotten. All answers
                are kept either way.
            retry_failed: ask the rows again that ended as `error` or `invalid`.
            redo: ask the rows again that keep an answer to an earlier question.
            reuse: let the rows that are counted as changed keep the answers to their old questions.
            dedup: one answer may serve all rows that ask the same.
        """
        allowed = ",".join(str(int(giver)) for giver in givers)
        fits = f"giver IN ({allowed}) AND status " + ("= 'ok'" if retry_failed else "<> 'error'")
        self._do("UPDATE scope SET rows = ? WHERE rows <> ?", (rows, rows))
        if not is_limited:
            self._move("position >= ?", rows)
            self._do("DELETE FROM rows WHERE position >= ?", (rows,))
        if retry_failed:
            self._forget_failed()
        self._move(
            f"{IN_SCOPE} AND result IN (SELECT id FROM results WHERE status <> 'error' AND giver NOT IN ({allowed}))"
            " AND is_kept IS NULL"
        )
        if redo:
            self._move(f"{IN_SCOPE} AND is_kept")
        self._do("UPDATE rows SET result = NULL, is_kept = NULL WHERE position IN (SELECT position FROM moved)")
        if self._has_bare_rows():
            self._reuse(fits)
            if not redo:
                self._keep_moved()
        adopted = self._adopt()
        if retry_failed:
            self._forget_failed()
        if dedup:
            self._share(fits)
        changed = dict(self._do(f"SELECT columns, count(*) FROM {_CHANGED} GROUP BY 1"))
        if reuse:
            self._keep_changed()
        self._follow(is_wanted=dedup)
        [same] = self._one(f"SELECT count(*) - count(DISTINCT key) FROM rows WHERE {_BARE}")
        return Matched(changed, adopted, int(same))

    def _keep_changed(self) -> None:
        """Let rows that ask something else keep the answers to their old questions.

        A row is known again by the columns that its question is made of, wherever it stands now, else by its position.
        """
        self._do(
            f"""
            INSERT INTO given SELECT asked.position, lost.result, NULL FROM (
                SELECT position, cells, row_number() OVER (PARTITION BY cells ORDER BY position) AS nth
                FROM rows WHERE {_BARE} AND cells <> x'') AS asked
            JOIN (SELECT result, cells, row_number() OVER (PARTITION BY cells ORDER BY position) AS nth
                FROM {_LOST}) AS lost USING (cells, nth)
            """
        )
        self._point_given(is_kept=True)
        self._do(f"INSERT INTO given SELECT position, result, NULL FROM {_CHANGED}")
        self._point_given(is_kept=True)

    def _move(self, where: str, *values: int) -> None:
        """Note which rows lose their result."""
        self._do(
            "INSERT OR IGNORE INTO moved SELECT position, result, 0, key, cells, is_kept FROM rows"
            f" WHERE result IS NOT NULL AND {where}",
            values,
        )

    def _forget_failed(self) -> None:
        failed = "(SELECT id FROM results WHERE status <> 'ok')"
        self._do(f"UPDATE rows SET result = NULL, is_kept = NULL WHERE {IN_SCOPE} AND result IN {failed}")
        self._do(f"DELETE FROM moved WHERE result IN {failed}")
        self._do(f"DELETE FROM given WHERE id IN {failed}")

    def _point_given(self, *, is_kept: bool = False) -> None:
        self._do(
            "UPDATE rows SET result = g.id, is_kept = ? FROM given g WHERE g.position = rows.position"
            " AND rows.result IS NULL",
            (1 if is_kept else None,),
        )

    def _has_bare_rows(self) -> bool:
        return bool(self._one(f"SELECT EXISTS (SELECT 1 FROM rows WHERE {_BARE})")[0])

    def _reuse(self, fits: str) -> None:
        """Match rows and unused answers of equal keys, each in order; then rows and the errors that moved."""
        found = self._do(
            f"""
            INSERT INTO free
            SELECT key, row_number() OVER (
                PARTITION BY key ORDER BY status = 'error', spared_by IS NOT NULL, id, spared_by), id, spared_by
            FROM (
                SELECT a.key, a.status, a.id, NULL AS spared_by FROM moved m JOIN results a ON a.id = m.result
                WHERE {fits} OR status = 'error'
                UNION ALL
                SELECT key, status, id, NULL FROM results WHERE {fits} AND id NOT IN (SELECT result FROM moved)
                AND id NOT IN (SELECT result FROM rows WHERE result IS NOT NULL)
                UNION ALL
                SELECT a.key, a.status, a.id, r.position FROM rows r JOIN results a ON a.id = r.result
                WHERE NOT r.{IN_SCOPE} AND {fits})
            """
        )
        if not found.rowcount:
            return
        self._do(
            f"""
            INSERT INTO given SELECT asked.position, free.id, free.spared_by FROM (
                SELECT position, key, row_number() OVER (PARTITION BY key ORDER BY position) AS nth
                FROM rows WHERE {_BARE}) AS asked
            JOIN free USING (key, nth)
            """
        )
        self._point_given()
        self._do("UPDATE rows SET result = NULL, is_kept = NULL WHERE position IN (SELECT spared_by FROM given)")

    def _keep_moved(self) -> None:
        """Let rows that keep an answer to an earlier question, and have only moved, keep it where they stand now."""
        if not self._one("SELECT EXISTS (SELECT 1 FROM moved WHERE is_kept)")[0]:
            return
        self._do(
            f"""
            INSERT INTO given SELECT asked.position, kept.result, NULL FROM (
                SELECT position, key, row_number() OVER (PARTITION BY key ORDER BY position) AS nth
                FROM rows WHERE {_BARE}) AS asked
            JOIN (SELECT result, key, row_number() OVER (PARTITION BY key ORDER BY position) AS nth
                FROM moved WHERE is_kept) AS kept USING (key, nth)
            """
        )
        self._point_given(is_kept=True)

    def _adopt(self) -> int:
        """Take what chunk files hold for rows that have no result; return how many such rows there are."""
        if not self._one("SELECT EXISTS (SELECT 1 FROM found)")[0]:
            return 0
        [giver] = self.giver_ids([ADOPTED])
        lowest = self._one("SELECT min(0, coalesce(min(id), 0)) FROM results")[0]
        self._do(
            f"""
            INSERT INTO given SELECT position, ? - row_number() OVER (ORDER BY position), NULL
            FROM found JOIN rows USING (position) WHERE {_BARE}
            """,
            (lowest,),
        )
        self._do(
            "INSERT INTO results (id, key, giver, status, answer, error, seal)"
            " SELECT g.id, r.key, ?, f.status, f.answer, f.error, f.seal"
            " FROM given g JOIN found f USING (position) JOIN rows r USING (position) WHERE g.id < ?",
            (giver, lowest),
        )
        self._point_given()
        return int(self._one("SELECT count(*) FROM given WHERE id < ?", (lowest,))[0])

    def _share(self, fits: str) -> None:
        """Let rows that ask the same have one answer, where there is one."""
        self._do(
            f"""
            INSERT INTO given SELECT position, id, NULL FROM rows
            JOIN (SELECT key, min(id) AS id FROM results WHERE {fits} GROUP BY key) USING (key) WHERE {_BARE}
            """
        )
        self._point_given()

    def _follow(self, *, is_wanted: bool) -> None:
        """Let the first of the rows that ask the same ask for all of them, or each for itself."""
        if self._one("SELECT EXISTS (SELECT 1 FROM same)")[0]:
            self._do("DELETE FROM same")
        if not is_wanted:
            return
        self._do(
            f"""
            INSERT INTO same SELECT position, leader FROM (
                SELECT position, min(position) OVER (PARTITION BY key) AS leader FROM rows WHERE {_BARE})
            WHERE position > leader
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

    def _do(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Execute one statement at once, within the plan's transaction where there is one."""
        with errors_told(self.path, "written"):
            return self._db.execute(statement, values)

    def _one(self, query: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
        """Ask for one line, within the plan's transaction where there is one."""
        found: tuple[Any, ...] = self._do(query, values).fetchone()
        return found


def _differing(before: bytes, now: bytes) -> int:
    """Return which cells differ, as a bit mask; 0 where they cannot be compared."""
    if len(before) != len(now):
        return 0
    size = CELL_BYTES
    return sum(1 << n // size for n in range(0, len(now), size) if before[n : n + size] != now[n : n + size])

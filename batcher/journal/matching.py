"""Which row has which answer: the part of the journal that plans.

Invariant: a plan takes effect as a whole or not at all, and no answer is ever changed or removed by it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from batcher.input.marks import EMPTY, Comparison, Marks
from batcher.journal.schema import ADOPTED, IN_SCOPE, bound, errors_told, seal
from batcher.records import Result, Source

_BARE = f"rows.result IS NULL AND rows.{IN_SCOPE}"
_NEW = "(position IN (SELECT position FROM renewed) OR position >= (SELECT rows FROM known))"

# What the plan needs to know for its own time only.
#     moved     the results that rows had and lost
#     renewed   where another question stands than before
#     known     how many rows there were, and how many of them the last plan was about
#     open      questions that were waiting for an answer, of rows that stand there no more
#     free      the results that nobody has, or that a row behind the limit can spare
#     given     which of them went where
#     found     what chunk files hold
#     lost      the answers that went nowhere
#     pairs     the row that each of those belongs to, and the proof; without one it is only likely
_SCRATCH = """
CREATE TEMP TABLE moved (position INTEGER PRIMARY KEY, result INTEGER NOT NULL, key BLOB NOT NULL, cells BLOB,
    is_kept BLOB);
CREATE TEMP TABLE renewed (position INTEGER PRIMARY KEY);
CREATE TEMP TABLE known AS
    SELECT coalesce(max(position) + 1, 0) AS rows, (SELECT rows FROM main.scope) AS scope FROM main.rows;
CREATE TEMP TABLE open (key BLOB NOT NULL);
CREATE TEMP TABLE free (key BLOB, nth INTEGER, id INTEGER, spared_by INTEGER, PRIMARY KEY (key, nth)) WITHOUT ROWID;
CREATE TEMP TABLE given (position INTEGER PRIMARY KEY, id INTEGER NOT NULL, spared_by INTEGER, is_kept BLOB);
CREATE TEMP TABLE found (position INTEGER PRIMARY KEY, status TEXT, answer TEXT, error TEXT, seal BLOB);
CREATE TEMP TABLE lost (id INTEGER PRIMARY KEY, position INTEGER NOT NULL, result INTEGER NOT NULL, key BLOB,
    cells BLOB, is_kept BLOB, is_spared INTEGER NOT NULL);
CREATE TEMP TABLE pairs (position INTEGER PRIMARY KEY, lost INTEGER NOT NULL, proof TEXT, columns INTEGER NOT NULL);
"""
_SCRATCH_NAMES = ("moved", "renewed", "known", "open", "free", "given", "found", "lost", "pairs")

# Answers of this plan's rows that have gone to no other row. One may have served several rows (`--dedup`): so many of
# them are left out as have it again, those first whose row has it again, and last those in whose place a row has none.
_LOST = f"""
    SELECT position, result, key, cells, is_kept, 0 FROM (
        SELECT m.*, coalesce(g.count, 0) AS again,
            row_number() OVER (
                PARTITION BY m.result ORDER BY h.result IS NULL, r.position IS NOT NULL, m.position) AS nth
        FROM moved m
        LEFT JOIN (SELECT id, count(*) AS count FROM given GROUP BY id) g ON g.id = m.result
        LEFT JOIN (SELECT DISTINCT given.id AS result, cells FROM given JOIN rows USING (position)) h
            USING (result, cells)
        LEFT JOIN (SELECT position FROM rows WHERE result IS NULL AND {IN_SCOPE}) r ON r.position = m.position)
    WHERE nth > again
    UNION ALL
    SELECT position, result, key, cells, is_kept, 1 FROM rows WHERE result IS NOT NULL AND NOT {IN_SCOPE}
"""


class Proof(StrEnum):
    """How an answer to an earlier question is known to be a row's own."""

    COLUMNS = "c"
    """The columns that the earlier question read are the same."""

    ID = "i"
    """The row has the same id, in a column that the user named."""

    OLDER = "o"
    """An older batcher decided it, and may have gone by the row's position."""


# Of an answer that a row keeps already, the proof stays what it was.
_PROOF = (
    f"CASE typeof(lost.is_kept) WHEN 'null' THEN '{Proof.COLUMNS}'"
    f" WHEN 'blob' THEN cast(substr(lost.is_kept, 1, 1) AS TEXT) ELSE '{Proof.OLDER}' END"
)


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
    """Matches rows and answers, in the journal's own connection.

    Args:
        path: of the journal.
        connection: which nobody else uses meanwhile.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        self._comparison = Comparison(Marks(()))

    @contextlib.contextmanager
    def planning(self, comparison: Comparison) -> Iterator[None]:
        """Make the block one transaction: the plan takes effect as a whole, or not at all.

        Args:
            comparison: tells rows from one another, and what of them changed.
        """
        self._comparison = comparison
        self._db.create_function("differing", 2, comparison.differing, deterministic=True)
        self._db.create_function("kept", 3, kept, deterministic=True)
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
            cells: the marks of the rows.
        """
        known = self._do(
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
        with errors_told(self.path, "written"):
            self._db.executemany(
                "INSERT INTO moved SELECT position, result, key, cells, is_kept FROM rows"
                " WHERE position = ? AND result IS NOT NULL",
                moved,
            )
            self._db.executemany("INSERT INTO renewed VALUES (?)", moved)
            self._db.executemany("INSERT INTO open SELECT key FROM rows WHERE position = ? AND result IS NULL", moved)
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

    def planned_twins(self, rows: int, mark: str) -> tuple[int, int] | None:
        """Return the positions of two rows that have the same mark, or None if there are none; an empty cell has none.

        Args:
            rows: how many rows there are now.
            mark: the expression that makes it, of a row's `cells`.
        """
        found = self._do(
            f"SELECT min(position), max(position) FROM rows WHERE position < ? AND {mark} <> x'{EMPTY.hex()}'"
            f" GROUP BY {mark} HAVING count(*) > 1 ORDER BY 1 LIMIT 1",
            (rows,),
        ).fetchone()
        return found and (int(found[0]), int(found[1]))

    def plan_end(
        self,
        rows: int,
        *,
        sources: Iterable[int],
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
            sources: whose answers may be used.
            is_limited: there are more rows behind them, which stay as they are; else those are forgotten. All answers
                are kept either way.
            retry_failed: ask the rows again that ended as `error` or `invalid`.
            redo: ask the rows again that keep an answer to an earlier question.
            reuse: let rows keep the answers to their old questions that are provably their own.
            dedup: one answer may serve all rows that ask the same.
        """
        allowed = ",".join(str(int(source)) for source in sources)
        fits = f"source IN ({allowed}) AND status " + ("= 'ok'" if retry_failed else "<> 'error'")
        self._do("UPDATE scope SET rows = ? WHERE rows <> ?", (rows, rows))
        self._do("INSERT INTO open SELECT key FROM rows WHERE position >= ? AND result IS NULL", (rows,))
        if not is_limited:
            self._move("position >= ?", rows)
            self._do("DELETE FROM rows WHERE position >= ?", (rows,))
        if retry_failed:
            self._forget_failed()
        self._move(
            f"{IN_SCOPE} AND result IN (SELECT id FROM results WHERE status <> 'error' AND source NOT IN ({allowed}))"
            " AND is_kept IS NULL"
        )
        if redo:
            self._move(f"{IN_SCOPE} AND is_kept IS NOT NULL")
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
        changed, own, gone = self._compare()
        if reuse:
            self._keep_own()
        if dedup:
            self._improve(fits)
        self._follow(is_wanted=dedup)
        [same] = self._one(f"SELECT count(*) - count(DISTINCT key) FROM rows WHERE {_BARE}")
        return Matched(changed, own, gone, adopted, int(same))

    def _compare(self) -> tuple[dict[int, int], int, int]:
        """Find out which of the answers that went nowhere belong to which rows that have none.

        Returns:
            The rows that changed, by their columns; how many answers are provably a row's own; how many answers are
            left over while there are new rows.
        """
        self._do(
            f"INSERT INTO lost (position, result, key, cells, is_kept, is_spared) SELECT * FROM ({_LOST})"
            " WHERE result IN (SELECT id FROM results WHERE status <> 'error')"
        )
        if not self._one("SELECT EXISTS (SELECT 1 FROM lost)")[0] or not self._has_bare_rows():
            return {}, 0, 0
        self._pair_own()
        self._pair_likely()
        changed = dict(self._do("SELECT columns, count(*) FROM pairs GROUP BY 1"))
        [own] = self._one("SELECT count(*) FROM pairs WHERE proof IS NOT NULL")
        [gone] = self._one("SELECT count(*) FROM lost WHERE NOT is_spared AND id NOT IN (SELECT lost FROM pairs)")
        return changed, int(own), int(gone) if self._has_new_rows() else 0

    def _has_new_rows(self) -> bool:
        """Return whether rows without a pair ask what no row asked before; others were only waiting to be asked."""
        [found] = self._one(
            f"""
            SELECT EXISTS (
                SELECT 1 FROM (SELECT key, row_number() OVER (PARTITION BY key ORDER BY position) AS nth FROM rows
                    WHERE {_BARE} AND {_NEW} AND position NOT IN (SELECT position FROM pairs))
                LEFT JOIN (SELECT key, count(*) AS count FROM open GROUP BY key) USING (key)
                WHERE nth > coalesce(count, 0))
            """
        )
        return bool(found)

    def _pair_own(self) -> None:
        """Pair rows with the answers that are provably their own, wherever the rows stand.

        A row that asks what it asked only wants another source. Then rows that are the same in every column come
        first, so that of two rows with one text each keeps its own answer. What a row keeps already, or has from before
        a limit left it behind, answers a question before the last one, of columns that may be others.
        """
        comparison = self._comparison
        self._do(
            f"""
            INSERT INTO pairs SELECT position, lost.id, {_PROOF}, 0 FROM lost JOIN rows USING (position, key)
            WHERE {_BARE} AND (lost.is_kept IS NULL OR lost.cells = rows.cells)
            """
        )
        if comparison.before:
            self._pair(comparison.sql(comparison.before.columns), _PROOF)
            is_latest = "is_kept IS NULL AND position < (SELECT scope FROM known)"
            self._pair(comparison.sql(comparison.asked_before), _PROOF, where=is_latest)
            self._pair(comparison.sql(comparison.asked_ever), _PROOF, where=f"NOT ({is_latest})")
        if comparison.id_column:
            mark = comparison.sql([comparison.id_column])
            self._pair(mark, f"'{Proof.ID}'", where=f"{mark} <> x'{EMPTY.hex()}'", is_unique=True)

    def _pair_likely(self) -> None:
        """Pair rows with the answers of rows that they may have been, before somebody edited them.

        They have the same other columns, which no other row has; or the same place, and nothing says that they differ.
        """
        others = self._comparison.sql(self._comparison.others_before)
        if self._comparison.others_before:
            self._pair(others, "NULL", is_unique=True, of=_NEW)
        self._do(
            f"""
            INSERT INTO pairs SELECT position, l.id, NULL, differing(l.cells, r.cells)
            FROM (SELECT position, cells, {others} AS mark FROM rows
                WHERE {_BARE} AND {_NEW} AND position NOT IN (SELECT position FROM pairs)) r
            JOIN (SELECT id, position, cells, {others} AS mark FROM lost
                WHERE NOT is_spared AND id NOT IN (SELECT lost FROM pairs)) l USING (position)
            WHERE r.mark = l.mark OR r.mark IS NULL OR l.mark IS NULL
            """
        )

    def _pair(self, mark: str, proof: str, *, where: str = "TRUE", of: str = "TRUE", is_unique: bool = False) -> None:
        """Pair rows without a result and lost answers that have the same mark, each in order.

        Args:
            mark: the expression that makes it, of a row's `cells`.
            proof: the expression that says how the answer is known to be the row's own.
            where: which of the lost answers to look at.
            of: which of the rows.
            is_unique: pair only what has its mark alone.
        """
        alone = "AND asked.count = 1 AND had.count = 1" if is_unique else ""
        self._do(
            f"""
            INSERT INTO pairs SELECT asked.position, had.id, had.proof, differing(had.cells, asked.cells) FROM (
                SELECT position, cells, mark, count, row_number() OVER (PARTITION BY mark ORDER BY position) AS nth
                FROM (SELECT position, cells, {mark} AS mark, count(*) OVER (PARTITION BY {mark}) AS count
                    FROM rows WHERE {_BARE} AND {of})
                WHERE position NOT IN (SELECT position FROM pairs)) AS asked
            JOIN (
                SELECT id, cells, mark, count, proof,
                    row_number() OVER (PARTITION BY mark ORDER BY is_spared, position) AS nth
                FROM (SELECT id, position, cells, is_spared, {mark} AS mark, {proof} AS proof,
                        count(*) OVER (PARTITION BY {mark}) AS count
                    FROM lost WHERE {where})
                WHERE id NOT IN (SELECT lost FROM pairs)) AS had
            USING (mark, nth) WHERE TRUE {alone}
            """
        )

    def _keep_own(self) -> None:
        """Let rows keep the answers to their old questions that are provably their own."""
        self._do("DELETE FROM given")
        self._do(
            "INSERT INTO given SELECT p.position, l.result, iif(l.is_spared, l.position, NULL),"
            " kept(p.proof, r.key, l.result) FROM pairs p JOIN lost l ON l.id = p.lost JOIN rows r USING (position)"
            " WHERE p.proof IS NOT NULL"
        )
        self._point_given()

    def _move(self, where: str, *values: int) -> None:
        """Note which rows lose their result."""
        self._do(
            "INSERT OR IGNORE INTO moved SELECT position, result, key, cells, is_kept FROM rows"
            f" WHERE result IS NOT NULL AND {where}",
            values,
        )

    def _forget_failed(self) -> None:
        failed = "(SELECT id FROM results WHERE status <> 'ok')"
        self._do(f"UPDATE rows SET result = NULL, is_kept = NULL WHERE {IN_SCOPE} AND result IN {failed}")
        self._do(f"INSERT INTO open SELECT key FROM moved WHERE result IN {failed}")
        self._do(f"DELETE FROM moved WHERE result IN {failed}")
        self._do(f"DELETE FROM given WHERE id IN {failed}")

    def _point_given(self) -> None:
        self._do(
            "UPDATE rows SET result = g.id, is_kept = g.is_kept FROM given g WHERE g.position = rows.position"
            " AND rows.result IS NULL"
        )
        self._do(
            "UPDATE rows SET result = NULL, is_kept = NULL WHERE position IN (SELECT spared_by FROM given)"
            " AND NOT " + IN_SCOPE
        )

    def _has_bare_rows(self) -> bool:
        return bool(self._one(f"SELECT EXISTS (SELECT 1 FROM rows WHERE {_BARE})")[0])

    def _reuse(self, fits: str) -> None:
        """Match rows and unused answers of equal keys, each in order; then rows and the errors that moved."""
        found = self._do(
            f"""
            INSERT INTO free
            SELECT key, row_number() OVER (
                PARTITION BY key ORDER BY status = 'error', spared_by IS NOT NULL, status <> 'ok', id, spared_by),
                id, spared_by
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
            INSERT INTO given SELECT asked.position, free.id, free.spared_by, NULL FROM (
                SELECT position, key, row_number() OVER (PARTITION BY key ORDER BY position) AS nth
                FROM rows WHERE {_BARE}) AS asked
            JOIN free USING (key, nth)
            """
        )
        self._point_given()

    def _keep_moved(self) -> None:
        """Let rows that keep an answer to an earlier question, and have only moved, keep it where they stand now."""
        if not self._one("SELECT EXISTS (SELECT 1 FROM moved WHERE is_kept IS NOT NULL)")[0]:
            return
        mark = self._comparison.sql(self._comparison.asked_ever)
        self._do(
            f"""
            INSERT INTO given SELECT asked.position, kept.result, NULL, kept.is_kept FROM (
                SELECT position, key, {mark} AS mark,
                    row_number() OVER (PARTITION BY key, {mark} ORDER BY position) AS nth
                FROM rows WHERE {_BARE}) AS asked
            JOIN (SELECT result, key, is_kept, {mark} AS mark,
                    row_number() OVER (PARTITION BY key, {mark} ORDER BY position) AS nth
                FROM moved WHERE is_kept IS NOT NULL) AS kept USING (key, mark, nth)
            """
        )
        self._point_given()

    def _adopt(self) -> int:
        """Take what chunk files hold for rows that have no result; return how many such rows there are."""
        if not self._one("SELECT EXISTS (SELECT 1 FROM found)")[0]:
            return 0
        [source] = self.source_ids([ADOPTED])
        lowest = self._one("SELECT min(0, coalesce(min(id), 0)) FROM results")[0]
        self._do(
            f"""
            INSERT INTO given SELECT position, ? - row_number() OVER (ORDER BY position), NULL, NULL
            FROM found JOIN rows USING (position) WHERE {_BARE}
            """,
            (lowest,),
        )
        self._do(
            "INSERT INTO results (id, key, source, status, answer, error, seal)"
            " SELECT g.id, r.key, ?, f.status, f.answer, f.error, f.seal"
            " FROM given g JOIN found f USING (position) JOIN rows r USING (position) WHERE g.id < ?",
            (source, lowest),
        )
        self._point_given()
        return int(self._one("SELECT count(*) FROM given WHERE id < ?", (lowest,))[0])

    def _share(self, fits: str) -> None:
        """Let rows that ask the same have one answer, if there is one."""
        self._do(
            f"""
            INSERT INTO given SELECT position, id, NULL, NULL FROM rows
            JOIN (SELECT key, coalesce(min(iif(status = 'ok', id, NULL)), min(id)) AS id
                FROM results WHERE {fits} GROUP BY key) USING (key) WHERE {_BARE}
            """
        )
        self._point_given()

    def _improve(self, fits: str) -> None:
        """Let rows that failed have the `ok` answer to their question, if another row got one."""
        self._do(
            f"""
            UPDATE rows SET result = better.id FROM (
                SELECT key, min(id) AS id FROM results WHERE {fits} AND status = 'ok' GROUP BY key) AS better
            WHERE better.key = rows.key AND rows.{IN_SCOPE} AND rows.is_kept IS NULL
            AND rows.result IN (SELECT id FROM results WHERE status <> 'ok')
            """
        )

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

    def source_ids(self, sources: Sequence[Source]) -> list[int]:
        """Return the id of each source, made where it is new."""
        ids = []
        for source in sources:
            self._do("INSERT OR IGNORE INTO sources (model, base_url, params) VALUES (?, ?, ?)", source)
            found = self._one("SELECT id FROM sources WHERE model = ? AND base_url = ? AND params = ?", source)
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


def kept(proof: str, key: bytes, result: int) -> bytes:
    """Return what a row says of an answer that it keeps: the proof, and a hash that binds the answer to its question.

    Args:
        proof: one of `Proof`.
        key: of the row's question now.
        result: the id of the answer.
    """
    text = proof.encode()
    return text + hashlib.blake2b(b"%s %s %d" % (text, key, result), digest_size=8).digest()

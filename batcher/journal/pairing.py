"""Finds the rows of answers that no row has got: the row was changed, moved or removed.

Invariant: an answer is a row's own only with a proof; a row's position is not a proof.
"""

from __future__ import annotations

from typing import NamedTuple

from batcher.input.marks import EMPTY, Comparison
from batcher.journal.entries import Proof
from batcher.journal.schema import IN_SCOPE
from batcher.journal.scratch import BARE, NEW, OUT, has_bare_rows
from batcher.journal.statements import Statements

# Answers of this plan's rows that no other row has got. One answer may have served several rows (`--dedup`): of those
# rows, as many are left out as have the answer again. Rows that have it again themselves are left out first, rows whose
# place now has no result last.
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

# If a row keeps an answer already, the proof stays the same.
_PROOF = (
    f"CASE typeof(lost.is_kept) WHEN 'null' THEN '{Proof.COLUMNS}'"
    f" WHEN 'blob' THEN cast(substr(lost.is_kept, 1, 1) AS TEXT) ELSE '{Proof.OLDER}' END"
)


# A row that is out is not asked, and needs no other answer.
_ASKED = f"{BARE} AND rows.position NOT IN {OUT}"
_OF_ANSWERS, _OF_LINES = "lost", "(SELECT * FROM lost WHERE is_line)"


class Paired(NamedTuple):
    """The outcome of pairing.

    Attributes:
        changed: the rows that had an answer and have none now, counted by the columns that changed.
        own: answers that are provably a row's own.
        gone: answers that are left over although there are new rows.
    """

    changed: dict[int, int]
    own: int
    gone: int


def pair(db: Statements, comparison: Comparison) -> Paired:
    """Pair the answers that no row has got with the rows without an answer that they belong to.

    The pairs are written into the table `pairs`.

    Args:
        db: has the tables of `scratch`.
        comparison: tells rows from one another, and what of them changed.
    """
    db.do(
        f"INSERT INTO lost (position, result, key, cells, is_kept, is_spared) SELECT * FROM ({_LOST})"
        " WHERE result IN (SELECT id FROM results WHERE status <> 'error')"
    )
    if not db.is_any("SELECT 1 FROM lost") or not has_bare_rows(db):
        return Paired({}, 0, 0)
    _pair_own(db, comparison, _OF_ANSWERS)
    _pair_likely(db, comparison, _OF_ANSWERS)
    changed = dict(db.do("SELECT columns, count(*) FROM pairs GROUP BY 1"))
    [own] = db.one("SELECT count(*) FROM pairs WHERE proof IS NOT NULL")
    [gone] = db.one("SELECT count(*) FROM lost WHERE NOT is_spared AND id NOT IN (SELECT lost FROM pairs)")
    return Paired(changed, int(own), int(gone) if _has_new_rows(db) else 0)


def pair_lines(db: Statements, comparison: Comparison) -> Paired:
    """Pair the lines of batches that no row waits for with the rows without an answer that they belong to.

    Such a row asks something else by now. The pairs are added to the table `pairs`.

    Args:
        db: has the tables of `scratch`.
        comparison: tells rows from one another, and what of them changed.
    """
    db.do(
        "INSERT INTO lost (position, result, key, cells, is_kept, is_spared, is_line)"
        " SELECT l.position, min(l.id), l.key, coalesce(f.cells, r.cells), NULL, 0, 1 FROM lines l"
        " LEFT JOIN left_out f USING (position, key)"
        " LEFT JOIN rows r ON r.position = l.position AND r.key = l.key AND r.result IS NULL"
        " WHERE l.at IS NULL AND (f.position IS NOT NULL OR r.position IS NOT NULL) GROUP BY l.position, l.key"
    )
    if not db.is_any("SELECT 1 FROM lost WHERE is_line"):
        return Paired({}, 0, 0)
    _pair_own(db, comparison, _OF_LINES)
    _pair_likely(db, comparison, _OF_LINES)
    of_lines = "lost IN (SELECT id FROM lost WHERE is_line)"
    changed = dict(db.do(f"SELECT columns, count(*) FROM pairs WHERE {of_lines} GROUP BY 1"))
    [own] = db.one(f"SELECT count(*) FROM pairs WHERE {of_lines} AND proof IS NOT NULL")
    return Paired(changed, int(own), 0)


def _has_new_rows(db: Statements) -> bool:
    """Return whether unpaired rows have a question that no row had before; others only waited for an answer."""
    return db.is_any(
        f"""
        SELECT 1 FROM (SELECT key, row_number() OVER (PARTITION BY key ORDER BY position) AS nth FROM rows
            WHERE {_ASKED} AND {NEW} AND position NOT IN (SELECT position FROM pairs))
        LEFT JOIN (SELECT key, count(*) AS count FROM open GROUP BY key) USING (key)
        WHERE nth > coalesce(count, 0)
        """
    )


def _pair_own(db: Statements, comparison: Comparison, lost: str) -> None:
    """Pair rows with the answers that are provably their own, at any position.

    First come rows with the same question, which only need another source; then rows that are the same in every column,
    so that of two rows with equal texts each keeps its own answer. An answer that a row keeps already, or had before
    `--limit` left the row out, may belong to a question before the last one, which may have used other columns.
    """
    db.do(
        f"""
        INSERT OR IGNORE INTO pairs SELECT position, lost.id, {_PROOF}, 0
        FROM {lost} AS lost JOIN rows USING (position, key)
        WHERE {_ASKED} AND (lost.is_kept IS NULL OR lost.cells = rows.cells)
        """
    )
    if comparison.before:
        _pair_by(db, comparison.sql(comparison.before.columns), _PROOF, lost)
        is_latest = "is_kept IS NULL AND position < (SELECT scope FROM known)"
        _pair_by(db, comparison.sql(comparison.asked_before), _PROOF, lost, where=is_latest)
        _pair_by(db, comparison.sql(comparison.asked_ever), _PROOF, lost, where=f"NOT ({is_latest})")
    if comparison.id_column:
        mark = comparison.sql([comparison.id_column])
        _pair_by(db, mark, f"'{Proof.ID}'", lost, where=f"{mark} <> x'{EMPTY.hex()}'", is_unique=True)


def _pair_likely(db: Statements, comparison: Comparison, lost: str) -> None:
    """Pair rows with the answers of rows that they may have been before an edit.

    Such rows agree, uniquely, in the columns that the prompt does not use; or they have the same position, and no known
    difference in those columns.
    """
    others = comparison.sql(comparison.others_before)
    if comparison.others_before:
        _pair_by(db, others, "NULL", lost, is_unique=True, of=NEW)
    db.do(
        f"""
        INSERT INTO pairs SELECT position, l.id, NULL, differing(l.cells, r.cells)
        FROM (SELECT position, cells, {others} AS mark FROM rows
            WHERE {_ASKED} AND {NEW} AND position NOT IN (SELECT position FROM pairs)) r
        JOIN (SELECT id, position, cells, {others} AS mark FROM {lost}
            WHERE NOT is_spared AND id NOT IN (SELECT lost FROM pairs)) l USING (position)
        WHERE r.mark = l.mark OR r.mark IS NULL OR l.mark IS NULL
        """
    )


def _pair_by(
    db: Statements, mark: str, proof: str, lost: str, *, where: str = "TRUE", of: str = "TRUE", is_unique: bool = False
) -> None:
    """Pair rows without a result and lost answers that have the same mark, each in order.

    Args:
        db: in which the tables are.
        mark: the SQL expression of the mark, from a row's `cells`.
        proof: the SQL expression of the proof that the answer is the row's own.
        lost: the table of the lost answers.
        where: the condition for them.
        of: the condition for the rows.
        is_unique: pair only rows and answers whose mark is unique.
    """
    alone = "AND asked.count = 1 AND had.count = 1" if is_unique else ""
    db.do(
        f"""
        INSERT INTO pairs SELECT asked.position, had.id, had.proof, differing(had.cells, asked.cells) FROM (
            SELECT position, cells, mark, count, row_number() OVER (PARTITION BY mark ORDER BY position) AS nth
            FROM (SELECT position, cells, {mark} AS mark, count(*) OVER (PARTITION BY {mark}) AS count
                FROM rows WHERE {_ASKED} AND {of})
            WHERE position NOT IN (SELECT position FROM pairs)) AS asked
        JOIN (
            SELECT id, cells, mark, count, proof,
                row_number() OVER (PARTITION BY mark ORDER BY is_spared, position) AS nth
            FROM (SELECT id, position, cells, is_spared, {mark} AS mark, {proof} AS proof,
                    count(*) OVER (PARTITION BY {mark}) AS count
                FROM {lost} AS lost WHERE {where})
            WHERE id NOT IN (SELECT lost FROM pairs)) AS had
        USING (mark, nth) WHERE TRUE {alone}
        """
    )

"""Reads kept answers again, for nothing: for other labels, for another schema, or by a newer reader.

Invariant: an answer is never changed or removed; a new reading is a result of its own, and takes the place of the one
before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from batcher.answer.shape import ReadAs
from batcher.journal.corrections import BY_HAND
from batcher.journal.entries import seal
from batcher.journal.schema import IN_SCOPE, bound, text_of
from batcher.journal.statements import Statements
from batcher.records import Completion, Result, Status

OUTDATED = "(SELECT before FROM rereads)"
"""The ids of the results that a later reading, or a person, has replaced."""

_ROWS_AT_ONCE = 500


def reading_id(db: Statements, reading: ReadAs | None) -> int | None:
    """Return the id of what answers are read as; None: they stay as they come."""
    if reading is None:
        return None
    known = db.do("SELECT id FROM readings WHERE shape = ? AND reader = ?", reading).fetchone()
    return int(known[0]) if known else db.do("INSERT INTO readings (shape, reader) VALUES (?, ?)", reading).lastrowid


def read_again(db: Statements, reading: int | None, read: Callable[[Completion], Result], texts: str) -> None:
    """Read every answer again that was read as something else, and let rows point at the new results.

    The ids of results that differ from the ones before them are in the table `reread` afterwards.

    Args:
        db: has the tables of `scratch`.
        reading: the id of what answers are read as now.
        read: reads an answer.
        texts: the table that has the results' texts: a copy has none of its own.
    """
    [lowest] = db.one("SELECT min(0, coalesce(min(id), 0)) FROM results")
    query = f"""
        SELECT a.id, a.key, a.source, a.status, b.answer, a.error, coalesce(w.root, a.id),
            coalesce(s.text, o.answer), s.finish_reason
        FROM results a JOIN {texts} b USING (id) LEFT JOIN rereads w USING (id)
        JOIN {texts} o ON o.id = coalesce(w.root, a.id) LEFT JOIN responses s ON s.id = coalesce(w.root, a.id)
        WHERE a.id > ? AND a.status <> 'error' AND a.reading IS NOT ? AND a.source IS NOT {BY_HAND}
            AND a.id NOT IN {OUTDATED}
        ORDER BY a.id LIMIT {_ROWS_AT_ONCE}
    """
    after, free = lowest - 1, lowest
    while found := db.do(query, (after, reading)).fetchall():
        after = found[-1][0]
        free -= len(found)
        _add(db, reading, [(free + number, *each) for number, each in enumerate(found)], read)
    if free < lowest:
        _point(db, "rows", lowest)
        _point(db, "moved", lowest)


def _add(
    db: Statements, reading: int | None, found: Sequence[tuple[object, ...]], read: Callable[[Completion], Result]
) -> None:
    results, rereads, changed = [], [], []
    for number, before, key, source, status, answer, error, root, text, finish_reason in found:
        had = Result(Status(status), text_of(answer), text_of(error))  # type: ignore[arg-type]
        kept = text_of(text)  # type: ignore[arg-type]
        # Why an answer is empty cannot be read again.
        now = read(Completion(kept, finish_reason)) if kept.strip() else had  # type: ignore[arg-type]
        texts = (now.status.value, bound(now.answer), bound(now.error))
        results.append((number, key, source, *texts, seal(key, now), reading))  # type: ignore[arg-type]
        rereads.append((number, root, before))
        if now != had:
            changed.append((number,))
    statement = "INSERT INTO results (id, key, source, status, answer, error, seal, reading) VALUES (?,?,?,?,?,?,?,?)"
    db.do_many(statement, results)
    db.do_many("INSERT INTO rereads VALUES (?, ?, ?)", rereads)
    db.do_many("INSERT INTO reread VALUES (?)", changed)


def _point(db: Statements, table: str, lowest: int) -> None:
    """Let the rows of a table point at the results that replace theirs; kept answers stay bound to their questions."""
    db.do(
        f"""
        UPDATE {table} SET result = w.id, is_kept = CASE typeof(is_kept) WHEN 'blob'
            THEN kept(cast(substr(is_kept, 1, 1) AS TEXT), key, w.id) ELSE is_kept END
        FROM rereads w WHERE w.before = {table}.result AND w.id < ?
        """,
        (lowest,),
    )


def changed_rows(db: Statements) -> int:
    """Return how many rows of the plan have another result because their answer was read again."""
    [count] = db.one(f"SELECT count(*) FROM rows WHERE {IN_SCOPE} AND result IN (SELECT id FROM reread)")
    return int(count)

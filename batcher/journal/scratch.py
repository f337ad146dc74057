"""The temporary tables of a plan, in the connection that makes the plan.

Invariant: they are empty when a plan begins, and gone when it has ended, even by an error.

    moved     the results that rows had and lost
    renewed   positions whose question has changed
    known     the number of earlier rows, and how many of them the last plan covered; rows set aside do not count
    open      the questions of rows that waited for an answer, and no longer exist
    free      the results that no row has, and those that a row behind the limit can give up, each with its number among
              those that answer the same question
    given     which row gets which of them
    found     the results in chunk files; `offered` is the id of one that stood elsewhere
    offered   results that stand elsewhere, by the question that they answer, with what came with them
    lost      the answers that no row has got, and the lines of batches whose answer no row will get (`is_line`)
    pairs     the row that each of those belongs to, and the proof; without a proof it is only likely
    reread    the results that were read again and differ from what they were
    former    questions whose answers wait for others, each with the question that a row asks now: the same, but for the
              labels or the schema
    waiting   the answers among those that are read again for it, by the number that each gets, from 0
    few       the results that are made of fewer answers than a row should have (`--samples`)
    superseded  the results whose answers wait for others, or are a part of a later result
    lines     the lines of batches that have no end, each with the place of its row as it was recorded, and where (`at`)
              that row is now; without one no row waits for it
    left_out  the rows that waited for such a line, and asked something else or were gone when the plan began
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from batcher.journal.schema import IN_SCOPE
from batcher.journal.statements import Statements

SET_ASIDE = 2**40
"""The position from which rows are set aside, when rows of another selection take their positions (`--sample`)."""
BARE = f"rows.result IS NULL AND rows.{IN_SCOPE}"
"""The condition for a row of the plan that has no result."""
NEW = "(position IN (SELECT position FROM renewed) OR position >= (SELECT rows FROM known))"
"""The condition for a row whose position had another question, or none, before."""

_NAMES = (
    "moved",
    "renewed",
    "known",
    "open",
    "free",
    "given",
    "found",
    "offered",
    "lost",
    "pairs",
    "reread",
    "former",
    "waiting",
    "few",
    "superseded",
    "lines",
    "left_out",
)
_TABLES = f"""
CREATE TEMP TABLE moved (position INTEGER PRIMARY KEY, result INTEGER NOT NULL, key BLOB NOT NULL, cells BLOB,
    is_kept BLOB);
CREATE TEMP TABLE renewed (position INTEGER PRIMARY KEY);
CREATE TEMP TABLE known AS
    SELECT coalesce(max(position) + 1, 0) AS rows, (SELECT rows FROM main.scope) AS scope FROM main.rows
    WHERE position < {SET_ASIDE};
CREATE TEMP TABLE open (key BLOB NOT NULL);
CREATE TEMP TABLE free (key BLOB, nth INTEGER, id INTEGER, spared_by INTEGER, PRIMARY KEY (key, nth)) WITHOUT ROWID;
CREATE TEMP TABLE given (position INTEGER PRIMARY KEY, id INTEGER NOT NULL, spared_by INTEGER, is_kept BLOB);
CREATE TEMP TABLE found (position INTEGER PRIMARY KEY, status TEXT, answer TEXT, error TEXT, seal BLOB,
    offered INTEGER);
CREATE TEMP TABLE offered (id INTEGER PRIMARY KEY, key BLOB NOT NULL, answer TEXT, seal BLOB, finish_reason TEXT,
    is_cut INTEGER, model TEXT, body BLOB, request_id TEXT);
CREATE TEMP TABLE lost (id INTEGER PRIMARY KEY, position INTEGER NOT NULL, result INTEGER NOT NULL, key BLOB,
    cells BLOB, is_kept BLOB, is_spared INTEGER NOT NULL, is_line INTEGER NOT NULL DEFAULT 0);
CREATE TEMP TABLE pairs (position INTEGER PRIMARY KEY, lost INTEGER NOT NULL, proof TEXT, columns INTEGER NOT NULL);
CREATE TEMP TABLE reread (id INTEGER PRIMARY KEY);
CREATE TEMP TABLE former (was BLOB, now BLOB, PRIMARY KEY (was, now)) WITHOUT ROWID;
CREATE TEMP TABLE waiting (nth INTEGER PRIMARY KEY, id INTEGER NOT NULL, root INTEGER NOT NULL, now BLOB NOT NULL);
CREATE TEMP TABLE superseded (id INTEGER PRIMARY KEY);
INSERT INTO superseded SELECT p.id FROM main.opinions p JOIN main.results USING (id) WHERE p.round = 0
    AND p.result IS NOT p.id;
INSERT OR IGNORE INTO superseded SELECT id FROM main.votes v WHERE NOT EXISTS
    (SELECT 1 FROM main.opinions p WHERE p.result = v.id AND p.round = 0);
CREATE TEMP TABLE lines (id INTEGER PRIMARY KEY, position INTEGER NOT NULL, key BLOB NOT NULL, source INTEGER NOT NULL,
    at INTEGER);
CREATE TEMP TABLE left_out (position INTEGER, key BLOB, cells BLOB, PRIMARY KEY (position, key)) WITHOUT ROWID;
CREATE TEMP TABLE few (id INTEGER PRIMARY KEY, is_voted INTEGER NOT NULL);
"""


@contextlib.contextmanager
def scratch(db: Statements) -> Iterator[None]:
    """Create the tables for the block."""
    _drop(db)
    db.script(_TABLES)
    try:
        yield
    finally:
        _drop(db)


def _drop(db: Statements) -> None:
    for name in _NAMES:
        db.do(f"DROP TABLE IF EXISTS temp.{name}")


OUT = "(SELECT at FROM lines WHERE at IS NOT NULL)"
"""The positions of the rows that are out: they have no result yet, and a line of a batch is about them."""


def has_bare_rows(db: Statements) -> bool:
    """Return whether a row of the plan has no result."""
    return db.is_any(f"SELECT 1 FROM rows WHERE {BARE}")

"""What a journal records of corrections by hand: the statements that write it, and the queries that find it.

Invariant: a correction is a result of its own; the one that it replaces stays, and no row gets that one again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from batcher.journal.committing import Statement
from batcher.journal.entries import CORRECTED, READ, Correction, Workbook, seal
from batcher.journal.schema import PERSON, bound
from batcher.journal.statements import NOTE

REVIEW = "review"
"""The origin of what people decide on the page."""

BY_HAND = f"(SELECT id FROM sources WHERE model = '{PERSON.model}' AND base_url = '' AND params = '')"
"""The id of the source of corrections; NULL if there was none yet."""
LOWEST = "SELECT min(0, coalesce((SELECT min(id) FROM results), 0), coalesce((SELECT min(id) FROM opinions), 0))"
"""The lowest id of a result or of an answer among several, or 0: those that no request brought count down from it."""
AS_ANSWERED = f"""(SELECT position, key, cells, is_kept,
    CASE WHEN result < 0 AND result IN (SELECT id FROM results WHERE id < 0 AND source = {BY_HAND}) THEN (
        WITH RECURSIVE earlier (id) AS (
            SELECT rows.result UNION ALL
            SELECT w.before FROM earlier e JOIN results c ON c.id = e.id AND c.source = {BY_HAND}
            JOIN rereads w ON w.id = e.id)
        SELECT e.id FROM earlier e JOIN results c ON c.id = e.id AND c.source <> {BY_HAND})
    ELSE result END AS result FROM rows)"""
"""The rows with the results that a model gave: of a row that a person has corrected the one before, if there is one.

People correct what they have seen to be wrong, which is what a sample shows first. So how good a model is cannot be
seen in the corrected answers.
"""

_RESULT = f"INSERT INTO results (id, key, source, status, answer, error, seal) VALUES (?, ?, {BY_HAND}, ?, ?, ?, ?)"
# A plan's copy hides its own table of responses.
_RESPONSE = (
    "INSERT INTO main.responses (id, finish_reason, is_cut, model, reasoning, body) VALUES (?, ?, 0, ?, ?, NULL)"
)

_REPLACING = "INSERT INTO rereads VALUES (?, coalesce((SELECT root FROM rereads WHERE id = ?), ?), ?)"


def correcting(corrections: Sequence[Correction], lowest: int, run: int) -> Iterator[Statement]:
    """Yield the statements that give rows the answers of people.

    Args:
        corrections: the answers.
        lowest: what `LOWEST` finds.
        run: the latest process.
    """
    if corrections:
        yield "INSERT OR IGNORE INTO sources (model, base_url, params) VALUES (?, ?, ?)", tuple(PERSON)
    for number, each in enumerate(corrections, 1):
        result, own_id = each.result, lowest - number
        texts = (result.status.value, bound(result.answer), bound(result.error))
        yield _RESULT, (own_id, each.key, *texts, seal(each.key, result))
        beside = each.beside
        if beside.reasoning or beside.model or beside.finish:
            yield _RESPONSE, (own_id, beside.finish or None, beside.model, bound(beside.reasoning))
        if each.replaces is not None:
            yield _REPLACING, (own_id, each.replaces, each.replaces, each.replaces)
        yield "UPDATE rows SET result = ?, is_kept = NULL WHERE position = ?", (own_id, each.position)
        replaced = "" if each.replaces is None else str(each.replaces)
        yield NOTE, (run, time.time(), CORRECTED, str(own_id), replaced)


def having_read(workbook: Workbook, run: int) -> Statement:
    """Return the statement that records a workbook whose corrections are in the journal."""
    return NOTE, (run, time.time(), READ, workbook.name, workbook.sha256.hex())

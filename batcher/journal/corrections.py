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

BY_HAND = f"(SELECT id FROM sources WHERE model = '{PERSON.model}' AND base_url = '' AND params = '')"
"""The id of the source of corrections; NULL if there was none yet."""
LOWEST = "SELECT min(0, min(coalesce(min(id), 0), (SELECT coalesce(min(id), 0) FROM opinions))) FROM results"
"""The lowest id of a result or of one of several answers, or 0: those that no request brought count down from it."""

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

"""Decides whether a line that brought no answer ends its row, or the row goes into the next batch.

Invariant: what the service did not try never counts: lines that expired, were cancelled, or were lost.
"""

from __future__ import annotations

from batcher.calls.batch_service import LINE_CANCELLED, LINE_EXPIRED
from batcher.pool.blame import REFUSALS
from batcher.records import GAVE_UP, Failure
from batcher.words import counted

_PASSING = {408, 409, 425, 429}
"""The statuses below 500 of failures that the row has no part in."""


def counts(failure: Failure) -> bool:
    """Return whether a failure counts against its row: the service tried to answer."""
    return failure.code not in {LINE_EXPIRED, LINE_CANCELLED}


def error_of(failure: Failure, before: int, max_attempts: int) -> str | None:
    """Return why a row ends with a line that failed; None: the row goes into the next batch.

    Call this only if other lines are answered: a batch of which every line is refused says nothing of its rows.

    Args:
        failure: what came in place of an answer.
        before: how often lines, or requests, about its question have failed since the last answer to it.
        max_attempts: the most attempts at a row (`--max-attempts`).
    """
    if not counts(failure):
        return None
    attempts = before + 1
    status = failure.status or 0
    is_refusal = 400 <= status < 500 and status not in _PASSING
    if attempts < (min(REFUSALS, max_attempts) if is_refusal else max_attempts):
        return None
    return f"{failure}{GAVE_UP}{counted(attempts, 'attempt')}"

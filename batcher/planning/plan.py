"""A plan: what is left to do, and what a person should know of it before the first call.

Invariant: a plan is a value; what it counts does not change.
"""

from __future__ import annotations

from typing import NamedTuple

from batcher.journal.entries import Counts, InFlight


class Plan(NamedTuple):
    """What is left to do.

    Attributes:
        sources: the journal's id of each endpoint's source.
        counts: the rows by how they ended so far.
        changed: rows that are left and have an answer to another question.
        own: the rows among them whose earlier answer is provably their own, so that `reuse` keeps it.
        gone: answered rows that are gone while there are new ones, which may be the same rows, edited.
        reasons: what changed, in words.
        adopted: rows whose result was found in a chunk file.
        same: rows that are left and have the same question as another row.
        reread: rows whose result changes because their answer was read again, as another label or by another schema.
        in_flight: requests that were in flight when the last process ended.
        has_marks: the journal can tell which rows are the same; an older batcher did not record that.
        intact: the unchanged chunk files, by their first row.
    """

    sources: tuple[int, ...]
    counts: Counts
    changed: int
    own: int
    gone: int
    reasons: tuple[str, ...]
    adopted: int
    same: int
    reread: int
    in_flight: InFlight
    has_marks: bool
    intact: frozenset[int]

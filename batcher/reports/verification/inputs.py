"""Checks INPUT against the questions in the journal.

Invariant: a row with a different question is reported; for the other rows, a kept answer is checked as well.
"""

from __future__ import annotations

from batcher.reports.verification.findings import Kind
from batcher.reports.verification.kept import KeptAnswers
from batcher.reports.verification.rows import Row


class Inputs:
    """Checks each row against the row of INPUT beside it."""

    def __init__(self, kept: KeptAnswers) -> None:
        self._kept = kept

    def check(self, row: Row) -> Kind | None:
        """Return the fault of a row's question, or None."""
        if row.asked is None:
            return Kind.INPUT_LACKS
        if row.cells is None:
            return Kind.INPUT_FAULTY if row.asked.fault else Kind.INPUT_OTHER
        record = row.record
        is_kept = record is not None and record.is_kept is not None
        return Kind.OTHER_ROW if record and is_kept and not self._kept.is_own(record, row.asked.values) else None

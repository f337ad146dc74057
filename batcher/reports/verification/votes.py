"""Votes again on the answers of each row that has several.

Invariant: a vote is judged by the answers in the journal alone.
"""

from __future__ import annotations

from batcher.answer.shape import shape_of_recorded
from batcher.answer.voting import sameness, vote
from batcher.journal.entries import LastRun
from batcher.journal.evidence import Evidence
from batcher.journal.schema import PERSON
from batcher.records import Status
from batcher.reports.verification.findings import Kind
from batcher.reports.verification.rows import Row

_ERROR = Status.ERROR.value.encode()


class VotesOfRows:
    """Checks the results that are made of several answers.

    Attributes:
        are_there: there is something to check.
    """

    def __init__(self, journal: Evidence, last: LastRun) -> None:
        self._journal = journal
        self._samples = int(last.question.get("samples", 1))
        self.are_there = self._samples > 1 or journal.has_votes()
        shape = last.question.get("shape")
        self._same = sameness(None if shape is None else shape_of_recorded(shape))
        self._people = {number for number, source in journal.sources().items() if source == PERSON}

    def check(self, row: Row) -> Kind | None:
        """Return the fault of a row's vote, or None."""
        record = row.record
        if record is None or record.result is None or record.source in self._people:
            return None
        had = self._journal.opinions(record.result)
        is_counted = record.is_kept is None and record.status != _ERROR
        if had is None:
            return Kind.TOO_FEW if is_counted and self._samples > 1 else None
        said, opinions = had
        if is_counted and len(opinions) < self._samples:
            return Kind.TOO_FEW
        if not opinions:
            return Kind.OTHER_VOTE
        found = vote([opinion.result for opinion in opinions], self._same)
        if said != (found.answers, found.for_it, found.is_tied):
            return Kind.OTHER_VOTE
        counts = opinions[found.chosen]
        texts = (counts.result.status.value, counts.result.answer, counts.result.error)
        has = tuple(each.decode("utf-8", "surrogatepass") for each in (record.status, record.answer, record.error))
        # If the source is none of theirs, it is the second endpoint's, whose answer counts.
        is_of_them = record.source in {opinion.source for opinion in opinions}
        return Kind.OTHER_VOTE if is_of_them and has != texts else None

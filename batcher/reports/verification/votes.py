"""Votes again on the answers of each row that has several.

Invariant: a vote is judged by the answers in the journal alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batcher.answer.shape import shape_of_recorded
from batcher.answer.voting import sameness, vote
from batcher.journal.entries import LastRun, RowRecord, source_of
from batcher.journal.evidence import Evidence
from batcher.journal.rules import Least
from batcher.journal.schema import PERSON
from batcher.records import Status
from batcher.reports.verification.findings import Kind
from batcher.reports.verification.rows import Row

_ERROR = Status.ERROR.value.encode()


def least_of(question: Mapping[str, Any], journal: Evidence) -> Least | None:
    """Return what the answers of a run's first endpoints need to count; None if it never had second ones."""
    then, before = question.get("then") or {}, question.get("then_before") or ()
    if not then and not before:
        return None
    by_source = {source: number for number, source in journal.sources().items()}
    second, were_second = (
        frozenset(by_source[source] for each in sources if (source := source_of(each)) in by_source)
        for sources in (then.get("sources", ()), before)
    )
    return Least(float(then.get("threshold", 0.0)), question.get("samples", 1) == 1, second, were_second)


class VotesOfRows:
    """Checks the results that are made of several answers.

    Attributes:
        are_there: there is something to check.
    """

    def __init__(self, journal: Evidence, last: LastRun) -> None:
        self._journal = journal
        self._samples = int(last.question.get("samples", 1))
        least = least_of(last.question, journal)
        self._second = frozenset() if least is None else least.second | least.were_second
        self._uncertain = set() if least is None or last.question.get("then") is None else journal.uncertain(least)
        self.are_there = self._samples > 1 or journal.has_votes() or bool(self._uncertain)
        shape = last.question.get("shape")
        self._same = sameness(None if shape is None else shape_of_recorded(shape))
        self._people = {number for number, source in journal.sources().items() if source == PERSON}

    def check(self, row: Row) -> Kind | None:
        """Return the fault of a row's vote, or None."""
        record = row.record
        if record is None or record.result is None or record.source in self._people:
            return None
        return Kind.UNCERTAIN if record.result in self._uncertain else self._fault_of(record, record.result)

    def _fault_of(self, record: RowRecord, result: int) -> Kind | None:
        had = self._journal.opinions(result)
        # A second endpoint's answer stands, however many the first ones gave before.
        is_counted = record.is_kept is None and record.status != _ERROR and record.source not in self._second
        if had is None:
            return Kind.TOO_FEW if is_counted and self._samples > 1 else None
        said, opinions = had
        opinions = [opinion for opinion in opinions if opinion.source not in self._second]
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

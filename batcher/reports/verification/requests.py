"""Reconciles the requests of a run with their answers.

Invariant: a fault of a request is reported for the request, and for the row that has its answer.
"""

from __future__ import annotations

from batcher.journal.entries import source_of
from batcher.journal.evidence import Evidence, Unreconciled
from batcher.reports.verification.findings import Found, Kind
from batcher.reports.verification.rows import Row

_KINDS = {
    Unreconciled.BROUGHT_BY_NONE: Kind.BROUGHT_BY_NONE,
    Unreconciled.OTHER_QUESTION: Kind.REQUEST_OTHER,
    Unreconciled.OTHER_OUTCOME: Kind.OUTCOME,
    Unreconciled.NEVER_ENDED: Kind.NEVER_ENDED,
    Unreconciled.OPINION_OF_NONE: Kind.OPINION_OF_NONE,
    Unreconciled.COUNTED_TWICE: Kind.COUNTED_TWICE,
    Unreconciled.OTHER_BATCH: Kind.BATCH_OTHER,
    Unreconciled.OF_NOBODY: Kind.OF_NOBODY,
    Unreconciled.CUT_OFF: Kind.CUT_OFF,
}


class Requests:
    """Checks the requests by themselves, then the rows that have their answers."""

    def __init__(self, journal: Evidence, found: Found) -> None:
        self._found = found
        # The faults of requests, by the id that a request and its result share.
        self._suspects: dict[int, Kind] = {}
        self._without_result = set(journal.unreconciled(Unreconciled.BROUGHT_NONE))
        for first, last in journal.missing_requests():
            found.requests(Kind.REQUEST_LOST, first, last)
        for query, kind in _KINDS.items():
            self._name(kind, journal.unreconciled(query))
        self._check_sources(journal)

    def _check_sources(self, journal: Evidence) -> None:
        """Compare the sources that each process asked with its recorded pool."""
        sources = journal.sources()
        for run, endpoint, source in journal.askers():
            pool = journal.question(run).get("pool")
            if (
                pool is None
                or source not in sources
                or sources[source] in map(source_of, pool[endpoint : endpoint + 1])
            ):
                continue
            self._name(Kind.ASKED_OTHER, journal.requests_to(run, endpoint, source))

    def _name(self, kind: Kind, numbers: list[int]) -> None:
        for number in numbers:
            self._found.requests(kind, number)
            self._suspects.setdefault(number, kind)

    def check(self, row: Row) -> None:
        """Report a row whose request has a fault; the row itself may still be right."""
        if row.record and (kind := self._suspects.get(row.record.result or 0)):
            self._found.rows(kind, row.position)

    def lost_answer_of(self, number: int) -> None:
        """Leave out a request whose answer is gone: the row that had the answer is reported instead."""
        self._without_result.discard(number)

    def end(self) -> None:
        """Report the requests whose answers are gone and belonged to no row."""
        for number in self._without_result:
            self._found.requests(Kind.BROUGHT_NONE, number)

"""Checks the results of the rows: each exists, is sealed, has one of the run's sources and answers the row's question.

Invariant: a result is judged by the journal alone, and each part of it is checked by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from batcher.answer.shape import READER, Shape, shape_of_recorded
from batcher.journal.entries import Counts, LastRun, RowRecord, is_sealed, source_of
from batcher.journal.evidence import Evidence
from batcher.journal.schema import ADOPTED, PERSON
from batcher.records import Status
from batcher.reports.verification.findings import Kind
from batcher.reports.verification.kept import KeptAnswers
from batcher.reports.verification.requests import Requests
from batcher.reports.verification.rows import Row
from batcher.words import counted

_STATUSES = {status.value.encode(): status for status in Status}


class Results:
    """Checks the result of each row, and counts the rows by status."""

    def __init__(self, journal: Evidence, last: LastRun, requests: Requests, kept: KeptAnswers) -> None:
        self._requests = requests
        self._kept = kept
        # The answers of a second endpoint stay, also without it.
        sources = [*map(source_of, [*last.question.get("sources", ()), *last.question.get("then_before", ())])]
        known = journal.sources().items() if sources else ()
        self._strangers = {number for number, source in known if source not in [*sources, ADOPTED, PERSON]}
        self._adopters = {number for number, source in journal.sources().items() if source == ADOPTED}
        self._people = {number for number, source in journal.sources().items() if source == PERSON}
        self._shape = _shape_of(last)
        self._ended = dict.fromkeys(Status, 0)
        self._adopted = self._unsealed = 0

    def check(self, row: Row) -> Kind | None:
        """Return the fault of a row's result; without a fault, the files should hold the result."""
        record = row.record
        if record is None:
            return Kind.ROW_LOST
        if record.result is None:
            return Kind.LEFT
        if record.found is None:
            self._requests.lost_answer_of(record.result)
            return Kind.ANSWER_LOST
        if kind := self._fault_of(record):
            return kind
        row.ending = row.journalled()
        return None

    def _fault_of(self, record: RowRecord) -> Kind | None:
        status = _STATUSES.get(record.status)
        if status is not None:
            self._ended[status] += 1
        if record.is_kept is not None:
            if not self._kept.is_proven(record):
                return Kind.OTHER_ROW
        elif record.answered != record.key:
            return Kind.OTHER_QUESTION
        elif record.source in self._strangers and status is not Status.ERROR:
            return Kind.OTHER_SOURCE
        self._adopted += record.source in self._adopters
        self._unsealed += record.sealed is None
        is_whole = record.sealed is None or is_sealed(record)
        if status is None or not is_whole:
            return Kind.CHANGED
        return None if status is not Status.OK or self._fits(record) else Kind.UNFIT

    def _fits(self, record: RowRecord) -> bool:
        """Return whether an `ok` answer is one of the labels, or fits the schema; a person's need not."""
        if self._shape is None or record.source in self._people or record.sealed is None:
            return True
        text = record.answer.decode("utf-8", "surrogatepass")
        read = self._shape.read(text)
        return (read.status, read.answer) == (Status.OK, text)

    def recount(self, was: Status, now: Status) -> None:
        """Count a row by the status that a person gave it in its file."""
        self._ended[was] -= 1
        self._ended[now] += 1

    def counts(self, scope: int) -> Counts:
        return Counts(scope, *(self._ended[status] for status in (Status.OK, Status.INVALID, Status.ERROR)))

    def notes(self) -> Iterator[str]:
        if self._adopted:
            answers = counted(self._adopted, "answer was", "answers were")
            yield f"{answers} adopted from files: their source and their questions are unknown."
        if self._unsealed:
            what = "and has no seal to check it by" if self._unsealed == 1 else "and have no seal to check them by"
            yield f"{counted(self._unsealed, 'answer was', 'answers were')} journalled by an older batcher {what}."


def _shape_of(last: LastRun) -> Shape | None:
    """Return what answers are read as; None: any text will do, or a batcher with another reader has read them."""
    shape = last.question.get("shape")
    return shape_of_recorded(shape) if shape is not None and last.question.get("reader") == READER else None

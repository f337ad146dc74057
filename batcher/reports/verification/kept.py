"""Checks that answers to earlier questions which rows keep (`--on-change reuse`) are the rows' own.

Invariant: an answer is a row's own by the proof in the journal, never by the row's position.
"""

from __future__ import annotations

from collections.abc import Iterator

from batcher.errors import InputError
from batcher.input.dataset import Dataset
from batcher.journal.entries import Proof, RowRecord, kept
from batcher.journal.evidence import Evidence
from batcher.planning.recorded import Recorded
from batcher.records import Values
from batcher.words import counted, option


class KeptAnswers:
    """Checks the answers that rows keep, and counts them by their proof.

    Args:
        journal: of the run.
        dataset: INPUT, if it is given.
    """

    def __init__(self, journal: Evidence, dataset: Dataset | None) -> None:
        self._journal = journal
        self._dataset = dataset
        self._count = dict.fromkeys(Proof, 0)
        self._earlier: dict[int, Recorded | None] = {}
        self._unmade = 0  # rows whose earlier question cannot be made again

    def is_proven(self, record: RowRecord) -> bool:
        """Return whether the journal's proof belongs to this row, its question and this answer."""
        proof = _proof_of(record)
        if proof is not None:
            self._count[proof] += 1
        return proof is not None

    def is_own(self, record: RowRecord, values: Values) -> bool:
        """Return whether the earlier question, if it can be made again, was about this row of INPUT."""
        if record.answered == record.key or _proof_of(record) is not Proof.COLUMNS:
            return True
        run = record.run or 0
        if run not in self._earlier:
            self._earlier[run] = self._question_of(run)
        question = self._earlier[run]
        self._unmade += question is None
        return question is None or question.about(values) == record.answered

    def _question_of(self, run: int) -> Recorded | None:
        """Return a process's question, or None if INPUT lacks one of its columns, or a function made the prompts."""
        try:
            return Recorded.of(self._journal.question(run), self._dataset) if run and self._dataset else None
        except InputError:
            return None

    def notes(self) -> Iterator[str]:
        if count := sum(self._count.values()):
            by_id, unmade = self._count[Proof.ID], self._count[Proof.OLDER] + self._unmade
            reuse = option("on_change", "reuse")
            yield (
                f"{counted(count, 'row keeps', 'rows keep')} an answer to an earlier question, as {reuse} asked for."
                + (
                    f" {counted(by_id, 'of them was', 'of them were')} edited, and recognised by the id alone."
                    if by_id
                    else ""
                )
                + (f" The earlier question of {counted(unmade, 'row')} cannot be made again." if unmade else "")
            )


def _proof_of(record: RowRecord) -> Proof | None:
    """Return the proof that the answer that a row keeps is its own; None if it was kept for another row."""
    if not isinstance(record.is_kept, bytes):
        return Proof.OLDER
    return next((proof for proof in Proof if record.is_kept == kept(proof, record.key, record.result or 0)), None)

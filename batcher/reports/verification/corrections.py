"""Counts the answers that people corrected in chunk files: a correction is no contradiction.

Invariant: an answer by hand counts once, whether the journal has it already or only the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from batcher.answer.columns import AnswerColumns
from batcher.journal.entries import Chunk
from batcher.journal.evidence import Evidence
from batcher.output.edited import UnfitError, settled
from batcher.records import Status
from batcher.reports.verification.results import Results


class CorrectedFile(NamedTuple):
    """A chunk file with corrections.

    Attributes:
        path: of the file.
        rows: whose answer was corrected.
        cells: that were corrected: of one row perhaps the answer, its status and its error.
    """

    path: str
    rows: int
    cells: int


class Corrections:
    """Counts corrections, file by file.

    Args:
        journal: of the run.
        results: counts the rows by status.
        added: the answer columns.
    """

    def __init__(self, journal: Evidence, results: Results, added: AnswerColumns) -> None:
        self._journal = journal
        self._results = results
        self._added = added
        self._is_any = journal.corrected() > 0
        self._files: dict[Path, CorrectedFile] = {}

    def count_journalled(self, path: Path, start: int, stop: int) -> None:
        """Count those of a chunk that the journal has."""
        rows, cells = self._journal.corrections(start, stop) if self._is_any else (0, 0)
        self._add(path, rows, cells)

    def behind(self, start: int, chunk: Chunk) -> Mapping[int, int]:
        """Return which rows of a chunk file were corrected on the page since: by position the result in the file."""
        return self._journal.lacked(start, chunk)

    def accept(self, path: Path, ours: Sequence[str], theirs: Sequence[str]) -> bool:
        """Count the correction of a row that only its file has; return False if it is none.

        Args:
            path: of the file.
            ours: the cells of its answer columns by the journal.
            theirs: the same cells in the file.
        """
        try:
            meant = settled(self._added, ours, theirs)
            was, now = (Status(self._added.status_in(cells)) for cells in (ours, meant))
        except (UnfitError, ValueError):
            return False
        if meant != [*ours]:
            self._results.recount(was, now)
            self._add(path, 1, sum(one != other for one, other in zip(ours, theirs, strict=True)))
        return True

    def files(self) -> tuple[CorrectedFile, ...]:
        return tuple(self._files.values())

    def _add(self, path: Path, rows: int, cells: int) -> None:
        if rows:
            before = self._files.get(path, CorrectedFile(str(path), 0, 0))
            self._files[path] = CorrectedFile(str(path), before.rows + rows, before.cells + cells)

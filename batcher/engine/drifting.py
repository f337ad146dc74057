"""Looks at the end of a run whether one endpoint answers otherwise than the others, or answers have changed meanwhile.

Invariant: it only reads the journal, and says nothing that the order of the table may explain.
"""

from __future__ import annotations

from batcher.answer.labels import Labels
from batcher.journal.comparing import in_order, last_request, source_names
from batcher.journal.reading import Reader
from batcher.planning.job import Job
from batcher.records import Task

_FEWEST = 200
"""Rows with an answer below which nothing is said, and NumPy is not loaded."""


def drift_in(job: Job, journal: Reader) -> list[str]:
    """Return warnings about the answers of a run; it takes a microsecond a row.

    Args:
        job: what the run had to do.
        journal: of the run.

    Raises:
        OutputError: the journal cannot be read.
    """
    counts = journal.counts()
    has_labels = isinstance(job.shape, Labels)
    is_for_looks = job.task is Task.CHAT and not job.settings.requests and (has_labels or counts.invalid > 0)
    if not is_for_looks or counts.ok + counts.invalid < _FEWEST:
        return []
    from batcher.quality.neighbours import Block, Neighbours  # noqa: PLC0415 - NumPy is slow to load

    found = Neighbours(last_request(journal))
    with journal.snapshot():
        for part in in_order(journal, has_labels=has_labels):
            # A row that names its model itself is asked where that is, whatever the others are asked.
            sources = [0] * len(part.sources) if job.settings.param_columns else part.sources
            found.add(Block(part.requests, sources, part.labels))
        return found.warnings(source_names(journal))

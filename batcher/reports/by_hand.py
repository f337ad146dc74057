"""The corrections in chunk files that no run has read yet, so that a report agrees with the files.

Invariant: it only reads.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from batcher.errors import BatcherError, OutputError
from batcher.input.dataset import Dataset
from batcher.journal.entries import Counts, LastRun
from batcher.journal.reading import Reader
from batcher.output.changed import Changed, ChangedFiles
from batcher.output.directory import Store
from batcher.output.so_far import input_of
from batcher.records import GAVE_UP, Result, Status

_SLACK_S = 60.0
"""Clocks of disks and machines differ: files from shortly before the end of the run are compared, too."""
_LONGEST = 200  # characters of a cause


@dataclass
class Unread:
    """What people corrected since the latest run.

    Attributes:
        ended: rows by status: how many more, or fewer, than the journal has.
        corrected: rows whose answer the journal does not know to be a person's.
        healed: rows that failed by the journal and have not by the files, by cause.
        notes: why a file cannot be read.
    """

    ended: Counter[str] = field(default_factory=Counter)
    corrected: int = 0
    healed: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def counted(self, counts: Counts) -> Counts:
        """Return the journal's counts with the corrections."""
        ok, invalid, error = (self.ended[status.value] for status in Status)
        return Counts(counts.rows, counts.ok + ok, counts.invalid + invalid, counts.error + error)

    def failures(self, journal: Reader, most: int = 10) -> list[tuple[str, int]]:
        """Count the rows that ended as `invalid` or `error`, by cause, as `Reader.failures` does."""
        found = Counter(dict(journal.failures(most + len(self.healed))))
        found.subtract(self.healed)
        return sorted(
            ((why, count) for why, count in found.items() if count > 0), key=lambda each: (-each[1], each[0])
        )[:most]

    def add(self, changed: Changed, before: Sequence[Result | None], rows: int, people: Collection[int]) -> None:
        """Add the corrections in a file.

        Args:
            changed: the file.
            before: the results of its rows by the journal.
            rows: of the run; the others count no more.
            people: the ids of those of the results that people gave.
        """
        for each in changed.corrections:
            if each.position >= rows:
                continue
            was = before[each.position - changed.start]
            self.corrected += each.replaces not in people
            self.ended[each.result.status.value] += 1
            _count_cause(self.healed, each.result, -1)
            if was is not None:
                self.ended[was.status.value] -= 1
                _count_cause(self.healed, was, 1)


def unread(store: Store, journal: Reader, last: LastRun) -> Unread:
    """Read the files that have changed since a run that is not at work any more.

    Args:
        store: the files.
        journal: of the run.
        last: its latest process.
    """
    found, rows = Unread(), journal.scope()
    try:
        files = ChangedFiles(store, journal, last, since=(last.ended or last.started) - _SLACK_S)
        if files:
            files.read_beside(_input_of(last))
        for changed in files.each():
            if isinstance(changed, OutputError):
                found.notes.append(str(changed))
            else:
                stop = changed.start + changed.before.rows
                replaced = {each.replaces for each in changed.corrections if each.replaces is not None}
                people = journal.of_people(replaced)
                found.add(changed, journal.results_so_far(changed.start, stop), rows, people)
    except OutputError as error:
        found.notes.append(str(error))
    return found


def _input_of(last: LastRun) -> Dataset | None:
    with contextlib.suppress(BatcherError):
        return input_of(last.question)
    return None


def _count_cause(causes: Counter[str], result: Result, count: int) -> None:
    if result.status is not Status.OK:
        causes[result.error.partition(GAVE_UP)[0][:_LONGEST]] += count

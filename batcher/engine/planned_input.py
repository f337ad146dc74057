"""Reads the input again, and checks that it is as it was when the run was planned.

Invariant: a row that was changed is neither asked nor joined into the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batcher.errors import InputError
from batcher.input.marks import Marks
from batcher.journal.writing import Journal
from batcher.planning.job import Job
from batcher.records import Question, Slice, Values


class PlannedInput:
    """Reads the input of a job, and compares it with the plan in the journal.

    Args:
        job: with the input.
        journal: with the plan.
        rows: the number of planned rows.

    Attributes:
        rows: as given.
        reads_files: a row's question needs files besides the input, so that making it takes a while.
    """

    def __init__(self, job: Job, journal: Journal, rows: int) -> None:
        self.rows = rows
        self.reads_files = job.images is not None
        self._job = job
        self._journal = journal
        self._marks = Marks(job.dataset.columns)
        run = journal.last_run()  # of this process: its plan recorded the parameters as the keys have them
        self._key = job.keyer(run.question["params"] if run else job.settings.params)

    def chunks(self) -> Iterator[Slice]:
        """Read the input, a chunk at a time.

        Raises:
            InputError: it cannot be read, or was changed.
        """
        try:
            yield from self._job.selection.slices(self._job.settings.chunk_size)
        except InputError as error:
            if self._job.dataset.has_changed():
                raise self._replaced() from error
            raise

    def question(self, position: int, values: Values, key: bytes) -> Question:
        """Make a row's question once more. If its image has changed since the plan, that is the question's fault.

        Raises:
            InputError: it differs from the plan's.
        """
        question = self._job.question_of(position, values)
        if self._key(question.messages, question.terms) == key:
            return question
        if not self.reads_files:
            raise self.changed(position)
        return question._replace(fault=question.fault or "its image was changed while the run worked: run it again")

    def check(self, start: int, rows: Sequence[Values]) -> None:
        """Compare rows with the plan, column by column, including columns that the prompt does not use.

        Raises:
            InputError: a row was changed.
        """
        planned = self._journal.marks(start, start + len(rows))
        for position, (values, marks) in enumerate(zip(rows, planned, strict=False), start):
            if self._marks.of(values) != marks:
                raise self.changed(position)

    def check_all(self) -> None:
        """If the file was written or replaced, read and compare the whole input: its content may be the same.

        Raises:
            InputError: a row was changed.
        """
        if not self._job.dataset.has_changed():
            return
        end = 0
        for start, rows in self.chunks():
            end = start + len(rows)
            self.check(start, rows)
        if end != self.rows:
            raise self._replaced()

    def changed(self, position: int) -> InputError:
        """Return the error that names a changed row."""
        return InputError(
            f"{self._job.selection.where(position)} has changed since the run began. Was the input changed, or"
            " does the prompt function return something else each time? What arrived is saved; run it again"
        )

    def _replaced(self) -> InputError:
        name, result = self._job.dataset.name, self._job.store.all_path.name
        return InputError(
            f"{name} was changed while the run worked, so {result} was not written. What arrived is saved; run it again"
        )

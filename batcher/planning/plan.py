"""A plan: what is left to do, and what a person should know of it before the first call.

Invariant: a plan is a value; what it counts does not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from batcher.journal.entries import Counts, InFlight
from batcher.planning.escalation import Cut
from batcher.records import Task
from batcher.settings import Settings


class ByHand(NamedTuple):
    """What people did in the files, as far as the plan has to do with it.

    Attributes:
        corrected: rows whose answer a person gave.
        lost: answers by hand of rows that are asked again, or are gone.
        kept: the chunk files that hold those: copies of them are kept.
        came_back: what is said of each chunk file that came back in another form, by its first row.
        workbooks: what was corrected in each workbook beside a chunk file, by the chunk's first row.
    """

    corrected: int = 0
    lost: int = 0
    kept: tuple[Path, ...] = ()
    came_back: Mapping[int, str] = MappingProxyType({})
    workbooks: Mapping[int, int] = MappingProxyType({})


class Older(NamedTuple):
    """What results files of older scripts hold.

    Attributes:
        paths: of the files.
        answers: lines with an answer.
        others: lines without one.
    """

    paths: tuple[Path, ...]
    answers: int
    others: int


class Plan(NamedTuple):
    """What is left to do.

    Attributes:
        sources: the journal's id of each endpoint's source.
        counts: the rows by how they ended so far.
        changed: rows that are left and have an answer to another question.
        own: the rows among them whose earlier answer is provably their own, so that `reuse` keeps it.
        gone: answered rows that are gone while there are new ones, which may be the same rows, edited.
        reasons: what changed, in words.
        adopted: rows whose result was found in a chunk file.
        same: rows that are left and have the same question as another row.
        reread: rows whose result changes because their answer was read again, as another label or by another schema.
        few: rows that are left and have answers, but no result, because they should have more (`--samples`).
        missing: the answers that these rows lack.
        repeats: the answers that rows are still asked for once more (`--repeat-sample`).
        cut: which answers count without a second endpoint; None: there is no second one (`--then`).
        seconds: how many of the sources, the last ones, are those of second endpoints.
        out: rows that are left and are in batches that are not over.
        batches: how many batches these are.
        changed_out: of the changed rows, those whose earlier question is in such a batch, so that its answer comes.
        own_out: those of them whose answer will provably be their own.
        prompts: the estimated model tokens of the first prompts of the table.
        beyond: rows that are left, have all their answers, and are not certain enough: the second endpoint is asked.
        in_flight: requests that were in flight when the last process ended.
        has_marks: the journal can tell which rows are the same; an older batcher did not record that.
        intact: the chunk files, by their first row, that hold nothing that the journal does not know.
        by_hand: what people did in the files.
        faulty: the rows of the table that cannot be asked.
        fault: the first of them, and why; empty if there is none.
        older: what results files of older scripts hold; None if none were read.
        twins: the positions of two lines of a requests file with the same custom_id.
        gold: what people are told of the column that holds right answers; empty if there is none.
    """

    sources: tuple[int, ...]
    counts: Counts
    changed: int
    own: int
    gone: int
    reasons: tuple[str, ...]
    adopted: int
    same: int
    reread: int
    in_flight: InFlight
    has_marks: bool
    intact: frozenset[int]
    by_hand: ByHand = ByHand()
    faulty: int = 0
    fault: str = ""
    older: Older | None = None
    twins: tuple[int, int] | None = None
    gold: str = ""
    few: int = 0
    missing: int = 0
    repeats: int = 0
    cut: Cut | None = None
    seconds: int = 0
    beyond: int = 0
    prompts: tuple[int, ...] = ()
    out: int = 0
    batches: int = 0
    changed_out: int = 0
    own_out: int = 0

    @property
    def first_sources(self) -> tuple[int, ...]:
        """The ids of the sources that are asked about every row."""
        return self.sources[: len(self.sources) - self.seconds]

    @property
    def asks(self) -> bool:
        """Whether something is asked."""
        return self.counts.left > 0 or self.repeats > 0


def asked_by_canary(settings: Settings, counts: Counts) -> int:
    """Return how many rows are asked first; 0 if the run is nearly done, or short, or past that."""
    most = 0 if Task(settings.task) is Task.EMBEDDING else settings.canary
    ended = counts.rows - counts.left
    return 0 if counts.left <= 2 * most or ended > 2 * most else most

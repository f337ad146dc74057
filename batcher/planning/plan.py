"""What a run has to do: the input read once, and each row matched with the answer it may have.

Invariant: planning calls no endpoint, and until it has succeeded the journal says what it said before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import NamedTuple

from batcher.errors import ChangedError, InputError
from batcher.input.key import keyer
from batcher.input.marks import Comparison, Marks
from batcher.journal.entries import Counts, InFlight, LastRun
from batcher.journal.matching import Matched, Matching, Planner
from batcher.journal.reading import Reader
from batcher.journal.rules import Rules
from batcher.journal.schema import ADOPTED
from batcher.output.adoption import Adoption
from batcher.planning.job import ROWS_AT_ONCE, Job, chunks_of
from batcher.planning.words import explained, reasons_of


class Stopped(Exception):
    """The user wants to stop while the plan is being made."""


class Plan(NamedTuple):
    """What is left to do.

    Attributes:
        sources: the journal's id of each endpoint's source.
        counts: the rows by how they ended so far.
        changed: rows that are left, and have an answer to another question.
        own: those of them whose earlier answer is provably their own, so that `reuse` keeps it.
        gone: answered rows that are gone while there are new ones, which may be the same rows, edited.
        reasons: what changed, in words.
        adopted: rows whose result was found in a chunk file.
        same: rows that are left and ask what another one asks.
        in_flight: requests that were in flight when the last process ended.
        has_marks: the journal can tell which rows are the same; an older batcher did not note it.
        intact: the chunk files that are as they were written, by their first row.
    """

    sources: tuple[int, ...]
    counts: Counts
    changed: int
    own: int
    gone: int
    reasons: tuple[str, ...]
    adopted: int
    same: int
    in_flight: InFlight
    has_marks: bool
    intact: frozenset[int]


def make(job: Job, journal: Planner, is_stopping: Callable[[], bool], *, is_rehearsal: bool = False) -> Plan:
    """Read the whole input, match its rows with the answers there are, and write that into the journal.

    A rehearsal, on a copy of the journal, does not mind rows that have an answer to a different question.

    Raises:
        InputError: a row is broken.
        OutputError: a chunk file that the journal does not know does not fit the input, or cells of the input were
            changed in one.
        ChangedError: rows have an answer to a different question.
        Stopped: `is_stopping` said so.
    """
    last = journal.last_run()
    comparison = _comparison(job, journal, last)
    with journal.planning(comparison) as matching:
        sources = matching.source_ids([*(endpoint.source for endpoint in job.endpoints), ADOPTED])
        rows = _read_rows(job, journal, matching, is_stopping, is_first=last is None)
        if job.settings.id_column is not None:
            _check_ids(job, matching, rows, comparison)
        matched = matching.finish(rows, _rules(job, sources))
        plan = _plan_of(job, journal, matching, matched, last=last, comparison=comparison, sources=sources[:-1])
        if is_rehearsal:
            return plan
        is_asked_first = job.settings.on_change == "abort" or (job.settings.on_change == "reuse" and not plan.has_marks)
        if (plan.changed or plan.gone) and is_asked_first:
            raise ChangedError(explained(job, plan, journal.usual()))
        # With the plan, or none of both: `verify` reads from here what the rows ask.
        journal.start_run(job.settings.chunk_size, job.question)
    return plan


def _read_rows(
    job: Job, journal: Reader, matching: Matching, is_stopping: Callable[[], bool], *, is_first: bool
) -> int:
    """Note each row, and what chunk files without a journal hold for it; return how many rows there are."""
    known = journal.chunk_starts()
    with closing(Adoption(job.store, known, job.settings.chunk_size, is_strict=is_first)) as adoption:
        rows = _plan_rows(job, matching, adoption, is_stopping)
        adoption.end(rows)
    return rows


def _rules(job: Job, sources: Sequence[int]) -> Rules:
    """Return by which rules rows and answers are matched, as the options say."""
    settings = job.settings
    return Rules(
        frozenset(sources),
        on_change=settings.on_change,
        retry_failed=settings.retry_failed,
        dedup=settings.dedup,
        is_limited=settings.limit is not None,
    )


def _plan_of(
    job: Job,
    journal: Reader,
    matching: Matching,
    matched: Matched,
    *,
    last: LastRun | None,
    comparison: Comparison,
    sources: Sequence[int],
) -> Plan:
    """Put together what is left to do.

    Raises:
        OutputError: cells of the input were changed in a chunk file.
    """
    changed, gone = sum(matched.changed.values()), matched.gone
    if job.settings.on_change == "reuse":
        changed, gone = 0, gone + changed - matched.own
    return Plan(
        sources=tuple(sources),
        counts=matching.counts(),
        changed=changed,
        own=matched.own,
        gone=gone,
        reasons=reasons_of(last.question if last else {}, job.question, matched.changed),
        adopted=matched.adopted,
        same=matched.same,
        in_flight=journal.in_flight(last.id) if last else InFlight(0, 0),
        has_marks=last is None or comparison.before is not None,
        intact=_checked_files(job, journal, matching),
    )


def _plan_rows(job: Job, matching: Matching, adoption: Adoption, is_stopping: Callable[[], bool]) -> int:
    """Record what each row asks, and what chunk files hold for it; return how many rows there are."""
    key = keyer(job.settings.params)
    marks = Marks(job.dataset.columns)
    end = 0
    for start, rows in job.dataset.slices(ROWS_AT_ONCE, job.settings.limit):
        if is_stopping():
            raise Stopped
        keys = [key(job.messages(start + offset, values)) for offset, values in enumerate(rows)]
        matching.add_rows(start, keys, job.of_rows(start, rows, marks.of))
        matching.add_found((start + offset, keys[offset], result) for offset, result in adoption.results(start, rows))
        end = start + len(rows)
    if adoption.is_strict:
        for file in adoption.files:
            matching.add_file(file.start, file.rows, file.sha256)
    return end


def _checked_files(job: Job, journal: Reader, matching: Matching) -> frozenset[int]:
    """Return which chunk files are as they were written, after a look at the input's cells in the others.

    A file that has to be made anew anyway, because rows or answers have changed since, is left alone.

    Raises:
        OutputError: a changed file would go into the result, and its cells are not the input's.
    """
    intact, changed = set(), {}
    for start, chunk in journal.chunks().items():
        sha256 = job.store.sha256(start)
        if sha256 == chunk.sha256:
            intact.add(start)
        elif sha256 is not None:
            changed[start] = chunk
    for start, rows in chunks_of(job, changed):
        states = matching.states(start, start + len(rows))
        if changed[start].origin == job.store.origin(job.store.lines(rows), states):
            job.store.check_cells(start, rows)
    return frozenset(intact)


def _comparison(job: Job, journal: Reader, last: LastRun | None) -> Comparison:
    """Return how the rows are compared with those of the last run."""
    before = last.question if last else {}
    ever = (name for question in journal.questions() for name in question.get("columns", ()))
    table = before.get("table")
    return Comparison(
        Marks(job.dataset.columns),
        tuple(job.question["columns"]),
        None if table is None else Marks(table),
        tuple(before.get("columns", ())),
        tuple(sorted(set(ever))),
        job.settings.id_column,
    )


def _check_ids(job: Job, matching: Matching, rows: int, comparison: Comparison) -> None:
    """Refuse an id column in which two rows have the same id.

    Raises:
        InputError: they are named.
    """
    name = job.settings.id_column or ""
    if twins := matching.twins(rows, comparison.sql([name])):
        first, second = twins
        raise InputError(
            f"--id-column: rows {first} and {second} of {job.dataset.name} (counted from 0) have the same {name!r}:"
            " name a column whose values are unique"
        )

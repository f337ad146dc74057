"""Makes the plan of a run: reads the input once, and matches each row with the answer that it may have.

Invariant: planning calls no endpoint, and leaves the journal unchanged until it has succeeded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from batcher.answer.shape import as_text
from batcher.answer.voting import sameness
from batcher.equality import plain, same
from batcher.errors import ChangedError, InputError, SettingsError
from batcher.input.key import Keyer
from batcher.input.marks import Comparison, Marks
from batcher.journal.entries import InFlight, LastRun
from batcher.journal.matching import Matched, Matching, Planner
from batcher.journal.reading import Reader
from batcher.journal.rereading import Readers
from batcher.journal.rules import Least, Rules
from batcher.journal.schema import ADOPTED
from batcher.output.adoption import Adoption
from batcher.output.changed import ChangedFiles
from batcher.output.directory import came_back as came_back_as
from batcher.output.older_results import OlderResults
from batcher.planning.escalation import Cut, check_scores, cut_of, recorded_cut, then_before
from batcher.planning.gold import GoldColumn
from batcher.planning.job import ROWS_AT_ONCE, Job
from batcher.planning.lengths import Lengths
from batcher.planning.opinions import rows_asked_again
from batcher.planning.plan import ByHand, Older, Plan
from batcher.planning.recorded import Recorded
from batcher.planning.same_shard import check_longest, check_same_shard
from batcher.planning.words import explained, not_here_yet, reasons_of
from batcher.records import Task
from batcher.words import as_given, blamed, option


class _Taken(NamedTuple):
    """What was taken in from changed files; see `Plan.intact` and `ByHand`."""

    intact: frozenset[int]
    came_back: Mapping[int, str]
    workbooks: Mapping[int, int]


class _Read(NamedTuple):
    """The input, as it was read.

    Attributes:
        rows: their number.
        examples: the keys of the rows that ask what an example asks, as the journal keeps them.
        faulty, fault: as `Plan` has them.
        prompts: as `Plan` has them.
        gold: the right answers in a column of it; None without one.
    """

    rows: int
    examples: list[str]
    faulty: int
    fault: str
    prompts: tuple[int, ...]
    gold: GoldColumn | None = None

    def recorded(self, job: Job) -> dict[str, Any]:
        """Return what the journal has of it, with the run's question."""
        found: dict[str, Any] = {}
        if job.examples is not None:
            found["examples"] = {**job.question["examples"], "keys": self.examples}
        if self.gold is not None:
            found["gold"] = self.gold.recorded()
        return found


class Stopped(Exception):
    """The user asked to stop while the plan was being made."""


def make(job: Job, journal: Planner, is_stopping: Callable[[], bool], *, is_rehearsal: bool = False) -> Plan:
    """Make a plan, and write it into the journal; see `_matched` for what it raises."""
    plan = _matched(job, journal, is_stopping, is_rehearsal=is_rehearsal)
    again = rows_asked_again(job.settings, job.keyword, journal, plan.counts.rows, plan.sources)
    return plan._replace(repeats=sum(max(job.settings.samples - each.answers, 0) for each in again))


def _matched(job: Job, journal: Planner, is_stopping: Callable[[], bool], *, is_rehearsal: bool) -> Plan:
    """Read the whole input, match its rows with the journal's answers, and write the plan into the journal.

    A rehearsal, on a copy of the journal, accepts rows that have an answer to a different question.

    Raises:
        InputError: a row is invalid.
        OutputError: a chunk file that the journal does not know does not fit the input, or it is not certain what was
            corrected in one.
        ChangedError: rows have an answer to a different question.
        Stopped: `is_stopping` returned True.
    """
    last = _last_run(job, journal)
    params = _as_asked(job.settings.params, journal)
    comparison = _comparison(job, journal, last)
    cut = cut_of(job, journal)
    with journal.planning(comparison) as matching:
        taken = _take_in(job, journal, matching, last)
        sources = matching.source_ids(
            [*(endpoint.source for endpoint in job.endpoints), *then_before(journal), ADOPTED]
        )
        is_redrawn = _is_redrawn(job, matching, last)
        keys = _keys(job, journal, params)
        read = _read_rows(job, journal, matching, is_stopping, keys, is_first=last is None)
        older = _add_older(job, matching, keys.now)
        journal.reading = matching.reading_id(job.reading)
        readers = Readers(journal.reading, job.read, sameness(job.shape), _second(job, sources))
        if last is not None and _reads_otherwise(last.question, job.question):
            matching.read_again(readers)
        matching.read_waiting_again(readers)
        if job.settings.id_column is not None:
            _check_ids(job, matching, read.rows, comparison)
        rules = _rules(job, sources, cut, is_redrawn=is_redrawn)
        matched = matching.finish(read.rows, rules, journal.reading)
        check_scores(job, journal, cut, sources, matching.waiting())
        plan = _plan_of(
            job,
            journal,
            matching,
            matched,
            last=last,
            comparison=comparison,
            sources=sources[: len(job.endpoints)],
            taken=taken,
            cut=cut,
        )._replace(
            faulty=read.faulty,
            fault=read.fault,
            prompts=read.prompts,
            older=older,
            twins=_twins(job, matching, read.rows, comparison),
            gold=read.gold.in_words() if read.gold else "",
        )
        if is_rehearsal:
            return plan
        _check_changes(job, plan, journal)
        # In the same transaction as the plan, because `verify` reads the question from here.
        recorded = {**job.selection.recorded(), **recorded_cut(job, journal, cut), **read.recorded(job)}
        journal.start_run(job.settings.chunk_size, {**job.question, **recorded, "params": params})
    return plan


def _last_run(job: Job, journal: Planner) -> LastRun | None:
    """Return the last run, unless this one cannot go on with it.

    Raises:
        SettingsError: it was another shard, or had another task.
    """
    last = journal.last_run()
    check_same_shard(job, last)
    if last is not None:
        _check_reuse(job, last)
    return last


def _is_redrawn(job: Job, matching: Matching, last: LastRun | None) -> bool:
    """Return whether the last plan was about another sample of rows; then its rows are set aside."""
    before = last.question.get("sample") if last else None
    is_redrawn = last is not None and before != job.selection.recorded()["sample"]
    if is_redrawn:
        matching.set_aside(job.selection.drawn, is_all=before is not None)
    return is_redrawn


def _check_changes(job: Job, plan: Plan, journal: Reader) -> None:
    """Refuse rows that have an answer to a different question, if the user has not said what to do about them.

    Raises:
        ChangedError: there are some.
    """
    is_asked_first = job.settings.on_change == "abort" or (job.settings.on_change == "reuse" and not plan.has_marks)
    if (plan.changed or plan.gone) and is_asked_first:
        raise ChangedError(explained(job, plan, journal.usual()))
    if plan.own_out and job.settings.on_change == "reuse":
        raise ChangedError(not_here_yet(job, plan))


def _check_reuse(job: Job, last: LastRun) -> None:
    """Refuse to keep texts as vectors, and vectors as texts.

    Raises:
        SettingsError: the last run had another task, of which answers are to be kept.
    """
    before, now = last.question.get("task", Task.CHAT.value), job.task.value
    if job.settings.on_change == "reuse" and before != now:
        raise SettingsError(
            f"{as_given('on_change', 'reuse')}: answers of a {before} cannot be kept for a {now}: take"
            f" {option('on_change', 'redo')}, or another {as_given('keyword')}"
        )


def _reads_otherwise(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether answers are read as something else than by the last run, which has read all of them."""
    shapes = [as_text(question.get("shape")) for question in (before, now)]
    return shapes[0] != shapes[1] or before.get("reader") != now.get("reader")


class _Keys(NamedTuple):
    """What makes the keys of rows.

    Attributes:
        now: of their questions.
        former: their questions under the labels or the schema of earlier runs, if answers to these are to count again.
    """

    now: Keyer
    former: tuple[Recorded, ...] = ()


def _keys(job: Job, journal: Reader, params: dict[str, Any]) -> _Keys:
    """Return what makes the keys; those of earlier runs are for `reuse` and answers that wait for others alone."""
    now = job.keyer(params)
    if job.settings.on_change != "reuse" or job.images is not None or not journal.has_open_opinions():
        return _Keys(now)
    shapes = {as_text(question.get("shape")): question.get("shape") for question in journal.questions()}
    shapes.pop(as_text(job.question.get("shape")), None)
    asked = {**job.question, "params": params}
    former = (Recorded.of({**asked, "shape": shape}, job.dataset, job.function) for shape in shapes.values())
    return _Keys(now, tuple(each for each in former if each is not None))


def _as_asked(params: dict[str, Any], journal: Reader) -> dict[str, Any]:
    """Return the parameters as keys are made of them: as an earlier run wrote the same ones.

    Equal numbers are one question (`temperature` 0 and 0.0), and their spelling is a part of the keys in the journal.
    """
    before = (question.get("params") for question in journal.questions())
    return next((each for each in before if isinstance(each, dict) and same(each, params)), plain(params))


def _read_rows(
    job: Job,
    journal: Reader,
    matching: Matching,
    is_stopping: Callable[[], bool],
    keys: _Keys,
    *,
    is_first: bool,
) -> _Read:
    """Record each row, and its results in chunk files without a journal."""
    known = journal.chunk_starts()
    with closing(Adoption(job.store, known, job.settings.chunk_size, is_strict=is_first)) as adoption:
        read = _plan_rows(job, matching, adoption, is_stopping, keys)
        adoption.end(read.rows)
    check_longest(job, read.prompts)
    return read


def _add_older(job: Job, matching: Matching, key: Keyer) -> Older | None:
    """Offer the answers of older scripts to the rows, if rows lack a result; return what was found."""
    if not job.older or not matching.lacks_results():
        return None
    found = OlderResults(job.older)
    matching.add_offered((key(question.messages, question.terms), came) for question, came in found)
    return Older(job.older, found.answers, found.others)


def _twins(job: Job, matching: Matching, rows: int, comparison: Comparison) -> tuple[int, int] | None:
    """Return the positions of two lines of a requests file that have the same custom_id, if there are any."""
    return matching.twins(rows, comparison.sql(["custom_id"])) if job.settings.requests else None


def _second(job: Job, sources: Sequence[int]) -> frozenset[int]:
    """Return the ids of the sources that are second, or were in an earlier run and are not asked first now."""
    first = len(job.endpoints) - job.seconds
    return frozenset(sources[first:-1]).difference(sources[:first])


def _rules(job: Job, sources: Sequence[int], cut: Cut | None, *, is_redrawn: bool) -> Rules:
    """Return the rules for matching rows and answers that the options ask for."""
    settings, asked = job.settings, len(job.endpoints)
    least = None
    if cut is not None:
        second = sources[asked - job.seconds : asked]
        least = Least(cut.threshold, cut.by_confidence, frozenset(second), _second(job, sources).difference(second))
    return Rules(
        frozenset(sources),
        on_change=settings.on_change,
        retry_failed=settings.retry_failed,
        dedup=settings.dedup,
        is_limited=not job.selection.is_whole,
        samples=settings.samples,
        is_redrawn=is_redrawn,
        least=least,
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
    taken: _Taken,
    cut: Cut | None,
) -> Plan:
    """Return what is left to do."""
    kept = map(job.store.chunk_path, matching.give_up(matched.corrections_lost))
    changed, gone = sum(matched.changed.values()), matched.gone
    if job.settings.on_change == "reuse":
        changed, gone = 0, gone + changed - matched.own
    return Plan(
        sources=tuple(sources),
        counts=matching.counts(),
        changed=changed,
        own=matched.own,
        gone=gone,
        reasons=_reasons(job, journal, matching, matched, last),
        adopted=matched.adopted,
        same=matched.same,
        reread=matched.reread,
        few=matched.few,
        missing=matched.missing,
        cut=cut,
        seconds=job.seconds,
        beyond=matched.enough if job.seconds else 0,
        out=matched.out,
        batches=matched.batches,
        changed_out=matched.changed_out,
        own_out=matched.own_out,
        in_flight=journal.in_flight(last.id) if last else InFlight(0, 0),
        has_marks=last is None or comparison.before is not None,
        intact=taken.intact,
        by_hand=ByHand(
            matching.corrected(),
            len(matched.corrections_lost),
            tuple(path for path in kept if path.exists()),
            taken.came_back,
            taken.workbooks,
        ),
    )


def _reasons(job: Job, journal: Reader, matching: Matching, matched: Matched, last: LastRun | None) -> tuple[str, ...]:
    """Return why rows have an answer to another question: each answer is compared with the process that asked it."""
    if not matched.changed:
        return ()
    causes = matching.causes()
    asked = journal.questions_of({each.run for each in causes if each.run is not None})
    latest = last.question if last else {}
    compared = [(each, latest if each.run is None else asked.get(each.run, latest)) for each in causes]
    return reasons_of(compared, job.question, matched.changed)


def _plan_rows(
    job: Job,
    matching: Matching,
    adoption: Adoption,
    is_stopping: Callable[[], bool],
    keys: _Keys,
) -> _Read:
    """Record each row's question, and its results in chunk files."""
    marks = Marks(job.dataset.columns)
    examples: set[bytes] = set()
    gold = None if job.settings.gold is None else GoldColumn(job.settings, job.dataset.columns, job.shape)
    faulty, fault, end, lengths = 0, "", 0, Lengths(job)
    for start, rows in job.selection.slices(ROWS_AT_ONCE):
        if is_stopping():
            raise Stopped
        asked, were = [], []
        job.look_ahead(rows)
        for position, values in enumerate(rows, start):
            question, is_example = job.stated(position, values)
            asked.append(keys.now(question.messages, question.terms))
            were += [(each.about(values), asked[-1]) for each in keys.former]
            lengths.add(question)
            if is_example:
                examples.add(asked[-1])
            elif gold is not None:
                gold.add(values, job.selection.where(position))
            if question.fault:
                faulty += 1
                fault = fault or f"{job.selection.where(position)}: {question.fault}"
        matching.add_rows(start, asked, job.of_rows(start, rows, marks.of))
        matching.add_former(were)
        matching.add_found((start + offset, asked[offset], result) for offset, result in adoption.results(start, rows))
        end = start + len(rows)
    if adoption.is_strict:
        # The journal will not hold what a file has of `--with`: to the run such a file is a stranger's, and is kept.
        for file in (each for each in adoption.files if not each.added.extras):
            matching.add_file(file.start, file.rows, file.sha256)
    return _Read(end, sorted(each.hex() for each in examples), faulty, fault, tuple(lengths.tokens), gold)


def _take_in(job: Job, journal: Planner, matching: Matching, last: LastRun | None) -> _Taken:
    """Take the corrections in chunk files into the plan, before its rows are added.

    Raises:
        OutputError: it is not certain what was corrected.
    """
    if last is None:
        return _Taken(frozenset(), {}, {})
    files = ChangedFiles(job.store, journal, last, job.dataset)
    intact, came_back, workbooks = {*files.intact}, {}, dict.fromkeys(files.known_workbooks, 0)
    for changed in files:
        states = matching.take_in(changed.start, changed.corrections, last.id)
        matching.set_chunk(changed.start, changed.chunk(states))
        if workbook := changed.workbook:
            matching.note_workbook(workbook, last.id)
            workbooks[changed.start] = len(changed.corrections)
        elif changed.how:
            came_back[changed.start] = came_back_as(changed.path, changed.how, len(changed.corrections))
        else:
            intact.add(changed.start)
    return _Taken(frozenset(intact), came_back, workbooks)


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
        InputError: the message names the rows.
    """
    name = job.settings.id_column or ""
    if twins := matching.twins(rows, comparison.sql([name])):
        first, second = twins
        raise InputError(
            f"{blamed('id_column')}: rows {first} and {second} of {job.dataset.name} (counted from 0) have the same"
            f" {name!r}: name a column whose values are unique"
        )

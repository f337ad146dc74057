"""Gathers what the report of a run shows.

Invariant: it only reads, and what cannot be had is left out and said; memory holds a few numbers of each request.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

from batcher.answer.labels import Labels
from batcher.answer.shape import shape_of_recorded
from batcher.errors import BatcherError
from batcher.journal import showing, times
from batcher.journal.certainty import AGREEMENT, kinds_of_certainty, least_certain
from batcher.journal.entries import HEDGED, WORKER_LOST, LastRun
from batcher.journal.locking import holder_of
from batcher.journal.sampling import SampleReader
from batcher.money.prices import NANO
from batcher.output.figures import Figures, figures_of
from batcher.output.opening import PastRun
from batcher.records import Source, Task
from batcher.reports.batches import batches_of
from batcher.reports.quality.estimate import Estimating
from batcher.reports.quality.estimated import Estimate, shown_label
from batcher.reports.quality.labelled import GoldRow
from batcher.reports.runs import AT_WORK, state_of
from batcher.reports.whole.facts import Endpoint, Endpoints, Example, Facts, Failure
from batcher.reports.whole.hints import hints_of
from batcher.reports.whole.input_cells import InputCells, cut
from batcher.reports.whole.ran import name_of, ran_of
from batcher.reports.whole.timeline import Latencies, WorkTime, timeline_of
from batcher.version import __version__

_MOST_FAILURES, _EXAMPLES = 20, 3
_MOST_ROWS = 20
"""Rows of each list of rows."""
_MOST_ENDPOINTS = 30
_MOST_FIELDS = 8
_MOST_READ = 2_000_000
"""Answers of a schema that are read for the estimates of its fields: each field reads all rows."""
_MOST_TEXTS = 400
"""Different invalid answers that are compared with the labels."""
_AT_ONCE = 1000
_LONGEST = 300
"""Characters of an answer."""


def gathered(run: PastRun[SampleReader]) -> Facts:
    """Return what is known of a run; the caller holds a snapshot.

    Raises:
        OutputError: there was no run, or the journal cannot be read.
    """
    last = run.last()
    return _Gathering(run, last).facts()


class _Judged(NamedTuple):
    """How good the answers are.

    Attributes:
        estimates: of the fields, or of the answers.
        why_not: why there is none, or why some are missing.
        disagreeing: rows whose hand label is not the model's: position, the model's, by hand.
        disagreements: how many there are.
    """

    estimates: tuple[Estimate, ...] = ()
    why_not: str = ""
    disagreeing: tuple[tuple[int, str, str], ...] = ()
    disagreements: int = 0


@dataclass(frozen=True)
class _Gathering:
    run: PastRun[SampleReader]
    last: LastRun

    def facts(self) -> Facts:
        run, journal, last = self.run, self.run.journal, self.last
        path, now = run.store.journal_path, time.time()
        state = state_of(path, last, journal.left(), journal.by_hand(last.id), holder_of(path))
        is_at_work = state in AT_WORK
        figures = Figures(**figures_of(journal, run.store.keyword, last.id, is_at_work=is_at_work))
        used, processes = times.used(journal), times.processes(journal)
        moments = times.moments(journal)
        work = WorkTime(processes, moments, now if is_at_work else None)
        judged = self._judged(figures)
        failed = showing.failed(journal, _EXAMPLES)
        doubted = self._doubted(judged)
        corrected = showing.corrected(journal, _MOST_ROWS)
        cells = self._cells(failed, judged, doubted, corrected)
        facts = Facts(
            keyword=run.store.keyword,
            output_dir=run.store.directory,
            version=__version__,
            at=now,
            state=state,
            figures=figures,
            tiers=tuple(journal.answers_by_tier()) if journal.names_tiers() else (),
            ran=ran_of(run.store, journal, last, processes, used),
            estimates=judged.estimates,
            no_estimate=judged.why_not,
            sample=next(iter(each.steps[0] for each in judged.estimates if each.steps), ""),
            timeline=timeline_of(work, moments, times.pauses(journal)),
            endpoints=self._endpoints(used, Latencies(moments)),
            failures=tuple(self._failures(failed[:_MOST_FAILURES], cells)),
            failures_left=max(0, len(failed) - _MOST_FAILURES),
            uncertain=self._uncertain(doubted, cells),
            disagreeing=tuple(
                Example(position, cut(label, _LONGEST), cells.get(position, ()), cut(gold, _LONGEST))
                for position, label, gold in judged.disagreeing
            ),
            disagreements=judged.disagreements,
            split=tuple(self._split(doubted.get(AGREEMENT, ()), cells)),
            corrected=tuple(self._corrected(corrected, cells)),
            near=tuple(self._near()),
            batches=batches_of(journal),
            empty=0 if self._is_embedding else showing.empty_answers(journal),
        )
        return replace(facts, hints=tuple(hints_of(facts)))

    @property
    def _is_embedding(self) -> bool:
        return self.last.question.get("task") == Task.EMBEDDING

    # -- How good the answers are

    def _judged(self, figures: Figures) -> _Judged:
        if self._is_embedding:
            return _Judged(why_not="The answers are vectors: there is nothing to estimate.")
        if not figures.rows:
            return _Judged(why_not="The run has no rows.")
        fields = self._fields()
        most = max(1, min(_MOST_FIELDS, _MOST_READ // figures.rows))
        found: list[Estimate] = []
        rows: list[tuple[int, str, str]] = []
        disagreements, why_not = 0, ""
        for field in fields[:most]:
            try:
                estimating = Estimating(self.run, field)
                made = estimating.made()
            except BatcherError as error:
                why_not = f"{error}."
                continue
            found.append(made)
            if made.gold:
                for row in self._with_result(estimating.disagreeing(made.kind)):
                    disagreements += 1
                    if len(rows) < _MOST_ROWS:
                        name = f"{field}: " if field is not None and len(fields) > 1 else ""
                        rows.append((row.position, name + shown_label(row.label), shown_label(row.gold)))
        if len(fields) > most:
            why_not = f"{len(fields) - most:,} more fields are not shown here: give their names to `batcher estimate`."
        return _Judged(tuple(found), why_not, tuple(rows), disagreements)

    def _with_result(self, rows: Iterator[GoldRow]) -> Iterator[GoldRow]:
        """Yield the rows that have a result: a row that was not asked yet differs from nothing."""
        while some := [*islice(rows, _AT_ONCE)]:
            bare = {row.position for row in some if row.label is None}
            bare -= showing.answers_at(self.run.journal, bare).keys()
            yield from (row for row in some if row.position not in bare)

    def _fields(self) -> Sequence[str | None]:
        shape = self._shape()
        return tuple(shape.fields) if shape is not None and shape.fields else (None,)

    def _shape(self) -> Any:
        recorded = self.last.question.get("shape")
        return shape_of_recorded(recorded) if recorded else None

    # -- Endpoints

    def _endpoints(self, used: Sequence[times.Used], latencies: Latencies) -> Endpoints:
        known = times.sources(self.run.journal)
        by_source: dict[int, list[times.Used]] = {}
        for each in used:
            by_source.setdefault(each.source, []).append(each)
        found = [self._endpoint(known.get(source), parts, latencies) for source, parts in by_source.items()]
        found.sort(key=lambda each: -each.requests)
        return Endpoints(
            each=tuple(found[:_MOST_ENDPOINTS]),
            left_out=max(0, len(found) - _MOST_ENDPOINTS),
            shortest=latencies.shortest,
            longest=latencies.longest,
        )

    def _endpoint(self, source: Source | None, parts: Sequence[times.Used], latencies: Latencies) -> Endpoint:
        answered = [each for each in parts if each.is_answered]
        failures: Counter[str] = Counter()
        for each in parts:
            if each.is_failed and each.outcome is not None:
                failures[each.outcome] += each.requests
        quantiles, histogram = latencies.of(parts[0].source)
        is_priced = any(each.requests > each.unpriced for each in answered)
        return Endpoint(
            name=name_of(source.model, source.base_url, self.last.question) if source else "unknown",
            requests=sum(each.requests for each in parts),
            answered=sum(each.requests for each in answered),
            failed=failures.total(),
            out=sum(each.requests for each in parts if each.outcome is None),
            limited=failures["429"],
            failures=tuple(failures.most_common(12)),
            prompt_tokens=sum(each.prompt_tokens for each in answered),
            completion_tokens=sum(each.completion_tokens for each in answered),
            cached_tokens=sum(each.cached_tokens for each in answered),
            reasoning_tokens=sum(each.reasoning_tokens for each in answered),
            cost_usd=sum(each.cost for each in answered) / NANO if is_priced else None,
            quantiles=quantiles,
            histogram=histogram,
            overtaken=sum(each.requests for each in parts if each.outcome == HEDGED),
            worker_lost=sum(each.requests for each in parts if each.outcome == WORKER_LOST),
        )

    # -- Rows to show

    def _doubted(self, judged: _Judged) -> Mapping[str, Sequence[Any]]:
        """Return the rows with the least certain answers, by what says so; an estimate has looked for them already."""
        if judged.estimates:
            return {each.by: each.least[:_MOST_ROWS] for each in judged.estimates[0].certainty}
        journal = self.run.journal
        return {by: least_certain(journal, by, _MOST_ROWS)[1] for by in kinds_of_certainty(journal)}

    def _cells(
        self,
        failed: Sequence[showing.Failed],
        judged: _Judged,
        doubted: Mapping[str, Sequence[Any]],
        corrected: Sequence[showing.Corrected],
    ) -> Mapping[int, Any]:
        positions = {place for each in failed[:_MOST_FAILURES] for place in each.positions}
        positions |= {each[0] for each in judged.disagreeing}
        positions |= {each.position for rows in doubted.values() for each in rows}
        positions |= {each.position for each in corrected}
        return InputCells(self.run.store, self.run.journal, self.last).at(positions) if positions else {}

    def _failures(self, failed: Sequence[showing.Failed], cells: Mapping[int, Any]) -> Iterator[Failure]:
        places = [place for each in failed for place in each.positions]
        answers = showing.answers_at(self.run.journal, places)
        for each in failed:
            examples = tuple(
                Example(place, cut(answers.get(place, ("", ""))[1], _LONGEST), cells.get(place, ()))
                for place in each.positions
            )
            yield Failure(cut(each.reason, _LONGEST), each.status, each.rows, examples)

    def _uncertain(
        self, doubted: Mapping[str, Sequence[Any]], cells: Mapping[int, Any]
    ) -> Mapping[str, tuple[Example, ...]]:
        return {
            by: tuple(
                Example(
                    each.position, cut(each.answer, _LONGEST), cells.get(each.position, ()), certainty=each.certainty
                )
                for each in rows
                if each.certainty < 1
            )
            for by, rows in doubted.items()
            if by != AGREEMENT
        }

    def _split(self, rows: Sequence[Any], cells: Mapping[int, Any]) -> Iterator[Example]:
        """Yield the rows whose answers are not all the same, the least certain first."""
        votes = showing.votes_at(self.run.journal, [each.position for each in rows])
        for each in rows:
            if each.certainty < 1:
                yield Example(
                    each.position,
                    cut(each.answer, _LONGEST),
                    cells.get(each.position, ()),
                    certainty=each.certainty,
                    votes=tuple((cut(answer, _LONGEST), times) for answer, times in votes.get(each.position, ())),
                )

    def _corrected(self, rows: Sequence[showing.Corrected], cells: Mapping[int, Any]) -> Iterator[Example]:
        for each in rows:
            before = "(no answer)" if each.before is None else each.before
            who = ", ".join(
                part
                for part in (
                    each.who and f"by {each.who}",
                    time.strftime("%Y-%m-%d %H:%M", time.localtime(each.at)) if each.at else "",
                    each.why,
                )
                if part
            )
            yield Example(
                each.position, cut(before, _LONGEST), cells.get(each.position, ()), cut(each.after, _LONGEST), note=who
            )

    def _near(self) -> Iterator[tuple[str, int]]:
        """Yield the labels that invalid answers nearly say, the most frequent first."""
        shape = self._shape()
        if not isinstance(shape, Labels):
            return
        found: Counter[str] = Counter()
        for text, rows in showing.invalid_texts(self.run.journal, _MOST_TEXTS):
            if label := shape.near(text):
                found[label] += rows
        yield from found.most_common(20)

"""`compare`: two runs on one table, such as two prompts or two models, paired row by row.

Invariant: rows are paired by the cells that the questions read, never by their position; it only reads.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from batcher.answer.shape import shape_of_recorded
from batcher.answer.voting import sameness
from batcher.errors import InputError, OutputError, SettingsError, outermost
from batcher.input.cell import writable
from batcher.input.marks import Marks
from batcher.journal.comparing import by_marks
from batcher.journal.opening import read_samples
from batcher.journal.sampling import SampleReader
from batcher.output.cells_at import cells_at
from batcher.output.figures import figures_of
from batcher.output.opening import PastRun, opened
from batcher.quality.agreement import kappa_of
from batcher.quality.special import clopper_pearson
from batcher.records import Result, Status
from batcher.reports.pages.files import page_path, write_page
from batcher.reports.quality.compared import (
    Compared,
    Crossed,
    Difference,
    Example,
    FieldAgreement,
    InNumbers,
    Noise,
    Ranged,
    Side,
    how_to_measure,
    noise_in_words,
)
from batcher.reports.quality.compared_page import page_of
from batcher.reports.quality.gold_at import GoldAt
from batcher.reports.quality.pairs import Agreement, paired, reading_of
from batcher.words import blamed, by_reader, counted, option, percent

_DIFFERENCES = 20
"""Pairs of answers that differ, of which the rows are shown."""
_MOST_CROSSED = 100  # different answers whose pairs are a table
_ON_ACCURACY = (
    "the accuracies count a row without an answer as wrong, and use where the runs agree; `estimate` does neither, so"
    " that its accuracy may be a little different"
)
_NAMES = ("prompt", "system", "examples", "labels", "schema", "parameters", "model")


@outermost
def compare(
    keyword: str,
    other: str,
    output_dir: str | os.PathLike[str] = "output",
    *,
    other_dir: str | os.PathLike[str] | None = None,
    field: str | None = None,
    html: str | os.PathLike[str] | None = None,
) -> Compared:
    """Compare two runs on one table: two prompts, two models, or two days.

    Args:
        keyword: names one run.
        other: names the other.
        output_dir: of the first.
        other_dir: of the other; default: the same.
        field: of the answers that is compared, if they are objects; default: the whole answer.
        html: a file to write the comparison to, as a page.

    Raises:
        SettingsError: a keyword is invalid, both name one run, the answers have no such field, or a file of another
            kind is where the page is to be written.
        InputError: the runs are of different tables.
        OutputError: there is no such run, or its journal cannot be read.
    """
    page = None if html is None else page_path(html)
    with ExitStack() as stack:
        runs = [
            stack.enter_context(opened(name, place, read_samples))
            for name, place in ((keyword, output_dir), (other, output_dir if other_dir is None else other_dir))
        ]
        if runs[0].store.journal_path.resolve() == runs[1].store.journal_path.resolve():
            raise SettingsError(
                f"{keyword!r} is one run: compare it with another one. How many of its answers change when the same is"
                f" asked again is measured by {how_to_measure(keyword)}"
            )
        for run in runs:
            stack.enter_context(run.journal.snapshot())
        first, second = map(to_compare, runs)
        found = _Comparison(first, second, field or _only_field(first, second)).made()
    if page is not None:
        write_page(page, page_of(found))
    return found


class RunToCompare(NamedTuple):
    """A run with what its journal says of its question."""

    files: PastRun[SampleReader]
    question: dict[str, Any]
    marks: Marks

    @property
    def keyword(self) -> str:
        return self.files.store.keyword

    @property
    def journal(self) -> SampleReader:
        return self.files.journal

    @property
    def shape(self) -> dict[str, Any]:
        """The labels or the schema of the answers; empty if any text will do."""
        return self.question.get("shape") or {}

    @property
    def fields(self) -> list[str]:
        """The fields that the schema of the answers names."""
        return [*self.shape.get("schema", {}).get("properties", {})]


def to_compare(run: PastRun[SampleReader]) -> RunToCompare:
    """Return a run with its question.

    Raises:
        SettingsError: its answers are vectors.
        OutputError: an older batcher wrote its journal, so that its rows have no marks.
    """
    question = run.last().question
    if question.get("task") == "embedding":
        raise SettingsError(
            f"the answers of {run.store.keyword!r} are vectors, and no labels: there is nothing to compare"
        )
    if not question.get("table") or "columns" not in question:
        raise OutputError(
            f"{run.store.journal_path} was written by an older batcher, which kept no marks of the rows: run its"
            " command once (an answered row costs nothing), then compare"
        )
    return RunToCompare(run, question, Marks(question["table"]))


def columns_to_pair(first: RunToCompare, other: RunToCompare) -> list[str]:
    """Return the columns by which rows are paired: all that a question of either run reads.

    If no question reads any, they are all columns that both tables have.

    Raises:
        InputError: a table lacks one of them.
    """
    read = dict.fromkeys((*first.question["columns"], *other.question["columns"]))
    columns = [*read] or [name for name in first.marks.columns if name in other.marks.columns]
    for run, asks in ((first, other), (other, first)):
        missing = [name for name in columns if name not in run.marks.columns]
        if missing:
            raise InputError(
                f"{first.keyword} and {other.keyword} are of different tables: the question of {asks.keyword} reads"
                f" column {missing[0]!r}, which the table of {run.keyword} lacks; its columns are:"
                f" {', '.join(map(repr, run.marks.columns[:20]))}"
            )
    return columns


def _only_field(first: RunToCompare, other: RunToCompare) -> str | None:
    """Return the field of the answers, if both runs have that one alone."""
    return first.fields[0] if len(first.fields) == 1 and first.fields == other.fields else None


@dataclass(frozen=True)
class _Comparison:
    """Makes the comparison of two runs."""

    first: RunToCompare
    other: RunToCompare
    field: str | None

    def made(self) -> Compared:
        runs = (self.first, self.other)
        columns, read = columns_to_pair(self.first, self.other), self._reading()
        gold = GoldAt.of(runs[0].files, runs[1].files, self.field)
        found = self._agreement(columns, read, gold)
        noises = [_noise(run, read) for run in runs]
        on_gold, *accuracies = gold.compared(found.rows) if gold else (None, None, None)
        sides = [
            _side(run, counts, accuracy, noise)
            for run, counts, accuracy, noise in zip(runs, (found.first, found.other), accuracies, noises, strict=True)
        ]
        differing = found.differing
        return Compared(
            first=sides[0],
            other=sides[1],
            field=self.field,
            columns=tuple(columns),
            differ_in=tuple(_differing(self.first.question, self.other.question)),
            rows=found.rows,
            only_first=found.only_first,
            only_other=found.only_other,
            both=found.both,
            agree=found.agree,
            kappa=_kappa(found),
            differences=self._differences(found, columns),
            kinds=len(differing) if found.is_whole else None,
            crossed=_crossed(found),
            on_gold=on_gold,
            hint="" if on_gold else self._hint(),
            numbers=_numbers(found),
            fields=tuple(FieldAgreement(name, *counts) for name, counts in found.by_field.items()),
            verdict=verdict_on(found.agree / found.both if found.both else None, noises, self.first.keyword),
            notes=(*self._notes(), *([] if on_gold is None else [_ON_ACCURACY])),
        )

    def _reading(self) -> Callable[[str], Any]:
        """Return what reads the compared part of an answer.

        Raises:
            SettingsError: the answers have no such field.
        """
        fields = [name for name in self.first.fields if name in self.other.fields]
        if self.field is not None and self.field not in fields:
            known = f"fields of both are: {', '.join(map(repr, fields))}" if fields else "they have no fields"
            raise SettingsError(f"{blamed('field')}: the answers of both runs have no field {self.field!r}; {known}")
        return reading_of(self.field, is_object="schema" in self.first.shape and "schema" in self.other.shape)

    def _agreement(self, columns: Sequence[str], read: Callable[[str], Any], gold: GoldAt | None) -> Agreement:
        """Pair the rows, and count how their answers agree, and how often they are right.

        Raises:
            InputError: the runs have no row in common.
            OutputError: rows have no marks.
        """
        found = Agreement()
        rows = [by_marks(run.journal, run.marks, columns) for run in (self.first, self.other)]
        for first, other in paired(*rows):
            if first is None:
                found.only_other += 1
            elif other is None:
                found.only_first += 1
            else:
                answers = found.add(first, other, read)
                if gold is not None:
                    gold.add((first.position, other.position), answers)
        if not found.rows:
            by = f"they were compared by {', '.join(map(repr, columns))}"
            raise InputError(
                f"{self.first.keyword} and {self.other.keyword} are of different tables: none of the"
                f" {counted(found.only_first, 'row')} of the one is among the {found.only_other:,} of the other; {by}"
            )
        return found

    def _differences(self, found: Agreement, columns: Sequence[str]) -> tuple[Difference, ...]:
        differing = found.differing[:_DIFFERENCES]
        examples = [example for pair, _ in differing for example in found.examples[pair]]
        texts = _texts_at(self.first, [example.first for example in examples], columns)
        missing = [example for example in examples if example.first not in texts]
        of_other = _texts_at(self.other, [example.other for example in missing], columns)
        return tuple(
            Difference(
                *pair,
                count,
                tuple(Example(*each, texts.get(each.first, of_other.get(each.other))) for each in found.examples[pair]),
            )
            for pair, count in differing
        )

    def _hint(self) -> str:
        """Return why the accuracy is not known, and how to get it."""
        if self.field is None and (self.first.fields or self.other.fields):
            return f"not known: a hand label is of one field, so give {option('field', 'NAME')}"
        draws = by_reader(
            command_line=f"`batcher sample {shlex.quote(self.first.keyword)} -n 100`",
            python=f"`batcher.sample({self.first.keyword!r}, 100)`",
        )
        return f"not known without hand labels: {draws} draws rows to label, and they serve both runs"

    def _notes(self) -> Iterable[str]:
        labels = [[*run.shape.get("labels", ())] for run in (self.first, self.other)]
        for run, own, others in ((self.first, labels[0], labels[1]), (self.other, labels[1], labels[0])):
            if own and others and (alone := [each for each in own if each not in others]):
                more = f" and {len(alone) - 5} more" if len(alone) > 5 else ""
                answers = f"{', '.join(map(repr, alone[:5]))}{more}"
                yield f"only {run.keyword} may answer {answers}: a row with such an answer never agrees"
        for run in (self.first, self.other):
            if by_hand := run.journal.corrected():
                were = counted(by_hand, "answer was", "answers were")
                yield f"{were} corrected by hand in {run.keyword}: what the model answered before is compared"


def _texts_at(run: RunToCompare, positions: Iterable[int], columns: Sequence[str]) -> dict[int, str]:
    """Return what rows hold in some columns, in one line each; a row whose cells are gone is left out."""
    planned = {position: run.journal.marks(position, position + 1)[0] for position in positions}
    cells = cells_at(run.files.store, run.journal, run.files.last(), planned)
    places = [place for place, name in enumerate(run.marks.columns) if name in columns]

    def in_line(row: Sequence[str]) -> str:
        texts = [" ".join(row[place].split()) for place in places]
        names = [writable(run.marks.columns[place]) for place in places]
        return (
            texts[0]
            if len(texts) == 1
            else "; ".join(f"{name}: {text}" for name, text in zip(names, texts, strict=True))
        )

    return {position: in_line(row) for position, row in cells.items()}


def _differing(first: dict[str, Any], other: dict[str, Any]) -> Iterable[str]:
    """Yield in what two questions differ."""
    values = [
        (
            (question.get("prompt_option"), question.get("prompt")),
            question.get("system"),
            (question.get("examples") or {}).get("of"),
            (question.get("shape") or {}).get("labels"),
            (question.get("shape") or {}).get("schema"),
            question.get("params"),
            question.get("sources"),
        )
        for question in (first, other)
    ]
    return [name for name, this, that in zip(_NAMES, *values, strict=True) if this != that]


def _side(run: RunToCompare, counts: Any, accuracy: Ranged | None, noise: Noise | None) -> Side:
    figures = figures_of(run.journal, run.keyword, None, is_at_work=False)
    return Side(
        keyword=run.keyword,
        directory=str(run.files.store.directory),
        asks=tuple(dict.fromkeys(source[0] for source in run.question.get("pool", ()))),
        rows=sum(counts.values()),
        ok=counts["ok"],
        invalid=counts["invalid"],
        error=counts["error"],
        left=counts[""],
        accuracy=accuracy,
        noise=noise,
        **{name: figures[name] for name in ("cost_usd", "prompt_tokens", "completion_tokens", "elapsed_s")},
    )


def _numbers(found: Agreement) -> InNumbers | None:
    sums = found.numbers
    if sums is None or not sums.count:
        return None
    first, other, absolute = (each / sums.count for each in (sums.first, sums.other, sums.absolute))
    return InNumbers(sums.count, first, other, other - first, absolute)


def _noise(run: RunToCompare, read: Callable[[str], Any]) -> Noise | None:
    """Return how many answers of a run change when asked again; None if no question was asked again."""
    same = sameness(shape_of_recorded(run.shape) if run.shape else None)
    asked_again = run.journal.repeated(same)
    if not asked_again:
        return None
    changed = sum(_as_compared(had, read) != _as_compared(again, read) for _, had, again in asked_again)
    rows = len(asked_again)
    return Noise(rows, changed, Ranged(changed / rows, *clopper_pearson(changed, rows)))


def _as_compared(result: Result, read: Callable[[str], Any]) -> tuple[Status, Any]:
    """Return what of a result counts; of an answer that is not `ok` only that."""
    return result.status, read(result.answer) if result.status is Status.OK else None


def verdict_on(agreement: float | None, noises: Sequence[Noise | None], keyword: str) -> str:
    """Return what the noise says about the difference between two runs.

    Args:
        agreement: the share of rows on which they agree; None if no row has an answer in both.
        noises: of each run, if it was measured.
        keyword: of the run to measure it in.
    """
    known = [noise for noise in noises if noise is not None]
    if not known:
        return (
            f"not known: how many answers change when the same is asked again is measured by {how_to_measure(keyword)};"
            " a difference below that says nothing"
        )
    noise = max(known, key=lambda each: each.share.value)
    said = f"asked again, {noise_in_words(noise)}"
    if agreement is None:
        return said
    differ = 1 - agreement
    if noise.share.high is not None and differ <= noise.share.high:
        return (
            f"{said}. The runs differ in {percent(differ)}: no more than one run may differ from itself, so only hand"
            " labels show which is better"
        )
    return f"{said}. The runs differ in {percent(differ)}: more than one run differs from itself"


def _crossed(found: Agreement) -> Crossed:
    answers = found.categories
    if len(answers) > _MOST_CROSSED:
        return Crossed()
    return Crossed(tuple(answers), tuple(tuple(found.pairs[this, that] for that in answers) for this in answers))


def _kappa(found: Agreement) -> float | None:
    """Return Cohen's kappa between two runs; None if their answers are no categories."""
    categories = {answer: place for place, answer in enumerate(found.categories)}
    if not categories:
        return None
    shares = np.zeros((2, len(categories)))
    for (first, other), count in found.pairs.items():
        shares[0, categories[first]] += count / found.both
        shares[1, categories[other]] += count / found.both
    kappa = float(kappa_of(np.asarray(found.agree / found.both), *shares))
    return None if math.isnan(kappa) else kappa

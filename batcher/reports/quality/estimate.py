"""`estimate`: how good the answers of a run are, from the rows with a hand label.

Invariant: it only reads, except for the files that the caller names; a number has an interval only if it is known how
its rows were chosen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batcher.errors import SettingsError, outermost
from batcher.input.dataset import Dataset
from batcher.journal.certainty import certainties, kinds_of_certainty, least_certain
from batcher.journal.opening import read_samples
from batcher.journal.sampling import SampleReader
from batcher.output.opening import PastRun, opened
from batcher.output.so_far import input_of
from batcher.quality.cascade import Calibration, Scored, calibration
from batcher.quality.figures import Figure
from batcher.records import Task
from batcher.reports.pages.files import page_path, path_of, write_page
from batcher.reports.quality.along import Along
from batcher.reports.quality.answers import answers_of, is_same, scored, with_numbers
from batcher.reports.quality.drift import drift_of
from batcher.reports.quality.estimated import Certainty, Design, Estimate, Kind, Uncertain
from batcher.reports.quality.estimated_page import page_of
from batcher.reports.quality.export import Exporting, default_path
from batcher.reports.quality.labelled import SAMPLE, GoldRow, Labelled, LabelledRun
from batcher.reports.quality.pairs import reading_of
from batcher.reports.quality.texts import command_of
from batcher.shards import Part
from batcher.words import blamed, counted, option, verb

if TYPE_CHECKING:
    from batcher.input.opening import Data

_MOST_LEAST = 1000
_DRAWN = 100
"""Rows that are proposed for a sample."""


@outermost
def estimate(
    keyword: str,
    output_dir: str | os.PathLike[str] = "output",
    *,
    seed: int = 0,
    field: str | None = None,
    data: Data | None = None,
    export: str | os.PathLike[str] | bool | None = None,
    html: str | os.PathLike[str] | None = None,
) -> Estimate:
    """Return how good the answers of a run are, and what that means for the whole table.

    It goes by the rows with a hand label: those that `sample` drew, or a column of the table (`gold` of `run`). Without
    any it returns what can be counted, and says how to get an interval.

    Args:
        keyword: names the run.
        output_dir: the run's output directory.
        seed: of the numbers drawn for the intervals; the same seed gives the same intervals.
        field: of the schema that it is about, if the answers have several.
        data: the run's input, if right answers other than labels are in a column of it, and it was in memory or is not
            where it was.
        export: a .csv or .parquet file to write the whole table to, with a pseudo-outcome for each label, of which a
            regression is right; True: `export_<keyword>.csv` in the output directory.
        html: a file to write the estimate to, as a page.

    Raises:
        SettingsError: the keyword or an option is wrong, or a file of another kind is where one is to be written.
        InputError: hand labels are in a column of the input, which was changed.
        OutputError: there is no run, or its journal cannot be read.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise SettingsError(f"{blamed('seed')} must be a whole number from 0, not {seed!r:.80}")
    page = None if html is None else page_path(html)
    table = None if export is None or isinstance(export, bool) else path_of(export, "export")
    with opened(keyword, output_dir, read_samples) as run, run.journal.snapshot():
        given = None if data is None else input_of(run.last().question, data)
        estimating = Estimating(run, field, seed, given)
        found = estimating.made()
        if table is not None or export is True:
            found = estimating.exported(found, table or default_path(run.store))
        if page is not None:
            write_page(page, page_of(found))
        return found


class Estimating:
    """Makes the estimate of a run.

    Args:
        run: opened with `journal.opening.read_samples`; the caller holds a snapshot.
        field: of the schema that it is about, if the answers have several.
        seed: of the numbers drawn for the intervals.
        data: the run's input, if hand labels are in a column of it, and it is not where it was.

    Raises:
        SettingsError: the answers are vectors, or there is no such field.
    """

    def __init__(
        self, run: PastRun[SampleReader], field: str | None = None, seed: int = 0, data: Dataset | None = None
    ) -> None:
        if run.last().question.get("task") == Task.EMBEDDING:
            raise SettingsError(f"the answers of {run.store.keyword!r} are vectors: there is nothing to estimate")
        self._run = run
        self._reads = LabelledRun(run, field, data)
        self._seed = seed
        self._found = self._reads.found()

    def disagreeing(self, kind: Kind) -> Iterator[GoldRow]:
        """Yield the rows whose hand label is not the model's, in the order of their positions."""
        for row in self._reads.gold_rows(self._found):
            if row.label is None or not is_same(row.label, row.gold, kind):
                yield row

    def made(self) -> Estimate:
        """Return the estimate."""
        found = self._found
        counts, answers = self._run.journal.answered(), answers_of(self._reads, found)
        estimate = Estimate(
            keyword=self._run.store.keyword,
            output_dir=self._run.store.directory,
            field=self._reads.field,
            kind=answers.kind,
            rows=found.rows,
            ok=answers.rows,
            invalid=counts.invalid,
            error=counts.error,
            left=counts.rows - counts.ok - counts.invalid - counts.error,
            design=Design(found.kind, found.drawn, found.gold, found.seed, found.column, found.design),
            certainty=tuple(self._certainties(answers.kind)),
            drift=self._drift(answers.kind, counts.rows),
            seed=self._seed,
        )
        estimate = with_numbers(estimate, answers, self._seed)
        return replace(
            estimate,
            warnings=(*estimate.warnings, *warnings_of(estimate, found)),
            notes=(
                *found.notes,
                *notes_on_part(self._reads.last.question, found),
                *notes_of(estimate, found, self._run.journal.corrected()),
            ),
            steps=tuple(steps_of(estimate, self._run.store.sample_path)),
        )

    def _drift(self, kind: Kind, rows: int) -> Along | None:
        """Return how the answers change along the run; None if it has too few."""
        read = None if self._reads.field is None else reading_of(self._reads.field, is_object=True)
        question = self._reads.last.question
        # A row that names its model itself is asked where that is, whatever the others are asked.
        is_one_pool = not question.get("params_column") and not question.get("requests")
        return drift_of(
            self._run.journal,
            rows,
            has_labels=kind is Kind.LABELS,
            read=read,
            compares_endpoints=is_one_pool,
            golds=(
                (each.position, each.label is not None and is_same(each.label, each.gold, kind))
                for each in self._reads.gold_rows(self._found)
            ),
        )

    def exported(self, estimate: Estimate, path: Path) -> Estimate:
        """Write the table with its pseudo-outcomes, and return the estimate with what to know about that."""
        done = Exporting(self._run, self._reads, self._found, estimate).write(path)
        return replace(estimate, export=done.path, notes=(*estimate.notes, *done.notes))

    def _certainties(self, kind: Kind) -> Iterator[Certainty]:
        journal, found = self._run.journal, self._found
        # Of a sample the few rows are looked up; a column may have hand labels for all rows.
        places = sorted(each.position for each in found.sampled) if found.source == SAMPLE else None
        for by in kinds_of_certainty(journal):
            rows, least = least_certain(journal, by, _MOST_LEAST, self._reads.without)
            known = certainties(journal, by, places)
            yield Certainty(
                by=by,
                rows=rows,
                calibration=_calibrated(scored(self._reads, found, kind, known), found) if found.gold else None,
                least=tuple(Uncertain(*each) for each in least),
            )


def _calibrated(rows: Iterable[Scored], found: Labelled) -> Calibration:
    """Return how often answers are right, by certainty: without intervals if how the rows were chosen is not known."""
    made = calibration(rows)
    if found.kind != "unknown":
        return made
    bins = tuple(replace(each, accuracy=Figure(each.accuracy.value)) for each in made.bins)
    return replace(made, bins=bins)


# -- What else to know


def warnings_of(estimate: Estimate, found: Labelled) -> Iterator[str]:
    """Yield what makes the numbers doubtful."""
    if estimate.left:
        rows = f"{estimate.left:,} of {counted(found.rows, 'row has', 'rows have')}"
        yield f"the run is not finished: {rows} no result yet, and count as rows without an answer"
    if found.never:
        rows = counted(found.never, "row was", "rows were")
        yield f"{rows} added to the table after the rows to label were drawn: the numbers say nothing about them"
    if estimate.drift is not None:
        yield from estimate.drift.warnings
    if found.kind == "unknown":
        yield (
            "how the rows with a hand label were chosen is not known, so there is no interval: rows that were picked"
            " may be easier or harder than the others, and nothing here says by how much"
        )


def notes_on_part(question: Mapping[str, Any], found: Labelled) -> Iterator[str]:
    """Yield which part of the table the numbers are about, if the run asked about a part alone."""
    rows = found.rows + found.examples
    if mark := question.get("shard"):
        yield f"the numbers are about {Part.recorded_in(mark).in_words()}, and not about the others"
    if drawn := question.get("sample"):
        if drawn["of"] > rows:
            said = f"drawn at random ({option('sample', drawn['rows'])}) from {drawn['of']:,}"
            yield f"the numbers are about the {rows:,} rows of the run, {said}, and not about the others"
    elif question.get("limit") == rows:
        yield f"the numbers are about the first {rows:,} rows of the table ({option('limit', rows)}), and no others"


def notes_of(estimate: Estimate, found: Labelled, corrected: int) -> Iterator[str]:
    """Yield what else to know about the numbers."""
    if not found.gold:
        yield "no number has an interval: only hand labels show how often an answer is wrong"
    if found.gold and found.waiting:
        rows = counted(found.waiting, "row that was drawn has", "rows that were drawn have")
        yield f"{rows} no hand label yet; until then the numbers take it that these are no harder than the others"
    if found.gone:
        yield f"{counted(found.gone, 'row that was drawn is', 'rows that were drawn are')} no longer in the table"
    if corrected:
        rows = counted(corrected, "answer was", "answers were")
        yield (
            f"{rows} corrected by hand: the numbers are about what the model answered before, because corrections of"
            " rows that people looked at say nothing about the others"
        )
    yield from _notes_on_kind(estimate, found)
    if found.gold and estimate.kind is Kind.LABELS and estimate.ok < estimate.rows:
        rows = counted(estimate.rows - estimate.ok, "row without a label counts", "rows without a label count")
        yield f"{rows} in the shares and in the recall, and not in the accuracy"


def _notes_on_kind(estimate: Estimate, found: Labelled) -> Iterator[str]:
    if estimate.kind is Kind.LABELS and not found.labels:
        answers = counted(
            sum(each.rows > 0 for each in estimate.labels), "different answer counts", "different answers count"
        )
        yield f"the run has no list of labels: its {answers} as labels"
    if estimate.kind is Kind.TEXT:
        yield "the answers are free text: right is what is the same as by hand, apart from spaces around it"
    if estimate.kind is Kind.NUMBERS and estimate.field is None:
        yield f"the answers are numbers; to count them as labels, give {option('labels')} to {verb('run')}"


def steps_of(estimate: Estimate, path: Path) -> Iterator[str]:
    """Yield the commands that lead to an interval, if there is none.

    Args:
        estimate: of the run.
        path: of the sample's file.
    """
    design = estimate.design
    if estimate.gold and design.kind != "unknown":
        return
    again = command_of(estimate, "estimate")
    if design.kind in {"", "unknown"}:
        rows = min(_DRAWN, estimate.rows)
        yield f"{command_of(estimate, 'sample', rows)}  # then fill the column gold of {path}"
        yield again
    else:
        yield f"{again}  # when {path} is filled in"

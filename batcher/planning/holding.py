"""Chooses from hand labels which answers of the first endpoint count without a second one (`--hold`).

Invariant: it reads the answers that are there, and asks nothing; without enough hand labels it chooses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from batcher.answer.gold import Golds, NoGold, gold_of, is_known
from batcher.errors import SettingsError
from batcher.input.cell import cell, writable
from batcher.input.marks import Marks
from batcher.input.selection import draw
from batcher.journal.sampling import chances_of_labelled
from batcher.journal.scores import ScoreReader
from batcher.planning.job import ROWS_AT_ONCE, Job
from batcher.quality.cascade import Scored, Threshold, threshold
from batcher.records import Values
from batcher.words import as_given, blamed, by_reader, counted, option

_MOST_ROWS = 50_000
"""Rows of a column of hand labels that are looked at, drawn at random if it has more."""


class GoldAt(NamedTuple):
    """A row with a hand label.

    Attributes:
        position: of the row.
        gold: its label.
        chance: of the row to be drawn and labelled.
    """

    position: int
    gold: str
    chance: float


class Held(NamedTuple):
    """A threshold that was chosen, with what it rests on.

    Attributes:
        figures: of the threshold.
        gold: a hash of the hand labels.
    """

    figures: Threshold
    gold: str


def hold(job: Job, journal: ScoreReader, share: float, known: Mapping[str, Any]) -> Held | float:
    """Choose the threshold that holds an accuracy.

    Args:
        job: the run.
        journal: has the first endpoint's answers, and the hand labels.
        share: the accuracy.
        known: what the last run has recorded of its own choice.

    Returns:
        What was chosen; or the last run's threshold, if it was chosen from the same hand labels.

    Raises:
        SettingsError: there are no hand labels, or too few, or no threshold holds the accuracy.
    """
    rows = _golds(job, journal)
    if not rows:
        raise SettingsError(f"{blamed('hold')}: {steps(job)}")
    digest = blake2b(repr(sorted(row[:2] for row in rows)).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    by_confidence = job.goes_by_confidence
    if (known.get("hold"), known.get("gold"), known.get("by_confidence")) == (share, digest, by_confidence):
        return float(known["threshold"])
    second = journal.second_sources(each.source for each in job.tiers.second)
    scores = journal.count_scores(second, by_confidence=by_confidence)
    if not any(score is not None for score in scores):
        raise SettingsError(f"{blamed('hold')}: no answer that is there has its {score_of(job)}. {_first(job)}")
    sampled = scored_rows(journal, rows, second, by_confidence=by_confidence)
    found = threshold(scores, sampled, share)
    if found.score is None:
        raise SettingsError(f"{blamed('hold')}: {_why_none(found, len(sampled), share)}")
    return Held(found, digest)


def scored_rows(
    journal: ScoreReader, rows: Sequence[GoldAt], second: Iterable[int], *, by_confidence: bool
) -> list[Scored]:
    """Return the hand-labelled rows that the first endpoint has answered, with the scores of its answers.

    Args:
        journal: has the answers.
        rows: with a hand label.
        second: ids of the sources that are not first.
        by_confidence: the score is the confidence, and not the agreement.
    """
    answers = journal.first_answers((row.position for row in rows), [*second], by_confidence=by_confidence)
    return [
        Scored(
            found.score,
            found.answer == row.gold,
            row.chance,
            None if found.second is None else found.second == row.gold,
        )
        for row in rows
        if (found := answers.get(row.position)) is not None
    ]


def _golds(job: Job, journal: ScoreReader) -> list[GoldAt]:
    """Return the rows with a hand label: those of the sample, or else those of the column."""
    drawn, golds = journal.drawn(), journal.gold()
    places = journal.places(drawn)
    labelled = {number for number in places if number in golds and golds[number].text}
    chances = chances_of_labelled(journal.draws(), drawn, places, labelled)
    sample = [
        GoldAt(places[each.id].position, golds[each.id].text, chances[each.id]) for each in drawn if each.id in labelled
    ]
    return sample or _of_column(job, journal)


def _of_column(job: Job, journal: ScoreReader) -> list[GoldAt]:
    """Return the rows of the table with a hand label in a column, as far as they are where they were."""
    last = journal.last_run()
    question = last.question if last else {}
    recorded = gold_of(question) or {}
    name = job.settings.gold or recorded.get("column")
    if name is None or name not in job.dataset.columns:
        return []
    found, known, of = _Column(job, journal, name, question.get("table", ())).read()
    drawn = recorded.get("drawn") if recorded.get("column") == name else None
    how = job.settings.gold_drawn or drawn or ("all" if known == of else "unknown")
    if found and how == "unknown":
        raise SettingsError(
            f"{blamed('hold')}: how the rows with a hand label in column {name!r} were chosen is not known, so they say"
            f" nothing about the others: {option('gold_drawn', 'random')} if at random, or draw a sample"
            f" ({by_reader(command_line='batcher sample', python='batcher.sample')})"
        )
    chance = len(found) / max(of, 1)
    return [each._replace(chance=chance) for each in found]


class _Column:
    """Reads the hand labels in a column of the table.

    Args:
        job: the run.
        journal: has the rows of the last run.
        name: of the column.
        before: the columns of the table of the last run.
    """

    def __init__(self, job: Job, journal: ScoreReader, name: str, before: Sequence[str]) -> None:
        self._job = job
        self._journal = journal
        self._place = job.dataset.columns.index(name)
        self._golds = Golds(job.shape)
        self._now, self._before = Marks(job.dataset.columns), Marks(before)
        # A row is the same if all else in it is: a hand label may have been corrected since.
        self._others = [each for each in self._now.alone if each != name and each in self._before.alone]

    def read(self) -> tuple[list[GoldAt], int, int]:
        """Return the rows with a hand label, at most so many; how many there are; and how many rows there are."""
        scope, known, of = self._journal.scope(), 0, 0
        drawn = {*draw(f"{self._job.keyword}\0hold", _MOST_ROWS, scope)} if scope > _MOST_ROWS else None
        found: list[GoldAt] = []
        for start, rows in self._job.selection.slices(ROWS_AT_ONCE):
            texts = {position: writable(cell(row[self._place])) for position, row in enumerate(rows, start)}
            labelled = {position: text for position, text in texts.items() if is_known(text)}
            known, of = known + len(labelled), of + len(rows)
            places = [position for position in labelled if drawn is None or position in drawn]
            there = self._journal.rows_at(places)
            found += [
                GoldAt(position, gold, 1.0)
                for position in places
                if position in there
                and self._is_same(there[position].cells, rows[position - start])
                and (gold := self._read(labelled[position]))
            ]
        return found, known, of

    def _read(self, text: str) -> str:
        """Return a hand label; empty if it is none, which the reading of the rows refuses, with the row's name."""
        try:
            return self._golds.read_whole(text)
        except NoGold:
            return ""

    def _is_same(self, cells: bytes, row: Values) -> bool:
        return self._before.cut(cells, self._others) == self._now.cut(self._now.of(row), self._others)


def score_of(job: Job) -> str:
    """Return what says how certain an answer is, for people."""
    return "confidence" if job.goes_by_confidence else "agreement"


def steps(job: Job) -> str:
    """Return what to do before a threshold can be chosen."""
    sample = by_reader(
        command_line=f"batcher sample {job.keyword} -n 200", python=f"batcher.sample({job.keyword!r}, n=200)"
    )
    return (
        f"there are no hand labels to choose a threshold by. {_first(job)} Then draw rows ({sample}), label them by"
        f" hand, give the file back, and run this command again. {option('threshold', 0.8)} needs no hand labels."
    )


def _first(job: Job) -> str:
    """Return the first step: answers with a score."""
    score = option("with_", "confidence") if job.goes_by_confidence else option("samples", job.settings.samples)
    return f"First run without {as_given('then')} and {as_given('hold')}, but with {score}."


def _why_none(found: Threshold, hand: int, share: float) -> str:
    """Return why no threshold holds an accuracy, and what to do."""
    labels = counted(hand, "hand label")
    if hand < found.needed:
        return (
            f"{labels} of rows that are answered are too few for {share:g}: {found.needed:,} would be the least, if all"
            " answers are right; draw and label more"
        )
    best = (
        ""
        if found.best_score is None
        else f": with 95% certainty the best has {found.best:.3f} (from {found.best_score:g} on)"
    )
    return (
        f"no threshold holds {share:g} by {labels}{best}. Hold less, label more rows, or let the second endpoint answer"
        f" all ({option('threshold', 1)})"
    )

"""Which answers of the first endpoint count, and which rows a second one is asked about (`--then`).

Invariant: a threshold is chosen once, from hand labels; a resume keeps it until the hand labels or the wish change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from batcher.errors import SettingsError
from batcher.journal.entries import source_of
from batcher.journal.opening import read_scores
from batcher.journal.reading import Reader
from batcher.planning.job import Job
from batcher.records import Source
from batcher.words import as_given, blamed, option

ENOUGH = 3
"""The answers without a confidence, if there is none with it, that show that there will be none."""

if TYPE_CHECKING:
    from batcher.quality.cascade import Threshold


class Cut(NamedTuple):
    """What is certain enough.

    Attributes:
        threshold: the least agreement or confidence of an answer that counts.
        by_confidence: the confidence of an answer counts, and not the agreement of several.
        hold: the accuracy for which the threshold was chosen; None: the user gave the threshold.
        held: how it was chosen, if it was just now; None: the last run chose it from the same hand labels.
        gold: a hash of the hand labels.
        was: the threshold that the last run chose from other hand labels, or for another accuracy.
        share: of the first answers that are there, those that do not count; None if there are none.
        kept: rows whose first answer is there, and counts.
    """

    threshold: float
    by_confidence: bool
    hold: float | None = None
    held: Threshold | None = None
    gold: str = ""
    was: float | None = None
    share: float | None = None
    kept: int = 0

    @property
    def score(self) -> str:
        """What is compared with the threshold, for people."""
        return "confidence" if self.by_confidence else "agreement"


def cut_of(job: Job, journal: Reader) -> Cut | None:
    """Return which answers count without a second endpoint; None if there is no second one.

    Raises:
        SettingsError: the threshold cannot be chosen.
    """
    settings, by_confidence = job.settings, job.goes_by_confidence
    if not job.seconds:
        return None
    if settings.hold is None:
        return _with_share(job, journal, Cut(settings.threshold or 0.0, by_confidence))
    from batcher.planning.holding import Held, hold, steps  # noqa: PLC0415 - it loads numpy

    last = journal.last_run()
    if last is None:
        raise SettingsError(f"{blamed('hold')}: {steps(job)}")
    known = last.question.get("then") or {}
    with read_scores(journal.path) as reader:
        found = hold(job, reader, settings.hold, known)
    if not isinstance(found, Held):
        return _with_share(job, journal, Cut(found, by_confidence, settings.hold, gold=known["gold"]))
    was = known.get("threshold") if known.get("hold") is not None else None
    threshold = found.figures.score or 0.0
    was = None if was == threshold else was
    figures = found.figures
    return Cut(
        threshold, by_confidence, settings.hold, figures, found.gold, was, share=figures.share_sent, kept=figures.kept
    )


def _with_share(job: Job, journal: Reader, cut: Cut) -> Cut:
    """Return the same with the share of the answers so far that do not count, if there are any with a score."""
    if journal.last_run() is None:
        return cut
    with read_scores(journal.path) as reader:
        second = reader.second_sources(each.source for each in job.tiers.second)
        scores = reader.count_scores(second, by_confidence=cut.by_confidence)
    rows = sum(scores.values())
    below = sum(count for score, count in scores.items() if score is None or score < cut.threshold)
    return cut._replace(share=below / rows, kept=rows - below) if rows > scores.get(None, 0) else cut


def recorded_cut(job: Job, journal: Reader, cut: Cut | None) -> dict[str, Any]:
    """Return what the journal stores of the second endpoints, of this run and of earlier ones."""
    recorded: dict[str, Any] = {}
    if before := [source for source in then_before(journal) if source not in {each.source for each in job.endpoints}]:
        recorded["then_before"] = [[*each] for each in before]
    if cut is not None:
        sources = sorted({each.source for each in job.tiers.second})
        recorded["then"] = {
            "sources": [[*each] for each in sources],
            "threshold": cut.threshold,
            "by_confidence": cut.by_confidence,
            "hold": cut.hold,
            "gold": cut.gold,
        }
    return recorded


def then_before(journal: Reader) -> list[Source]:
    """Return the sources of the second endpoints of earlier runs: their answers stay, whatever is asked now."""
    found = (each for question in journal.questions() for each in (question.get("then") or {}).get("sources", ()))
    return [*dict.fromkeys(map(source_of, found))]


def check_scores(job: Job, journal: Reader, cut: Cut | None, sources: Sequence[int], waiting: int) -> None:
    """Refuse to ask the second endpoint about all rows, because none of their answers has a score.

    Args:
        job: the run.
        journal: has the answers.
        cut: what is certain enough; None: there is no second endpoint.
        sources: ids of the endpoints' sources, the first ones first.
        waiting: `ok` answers that are there and would not count.

    Raises:
        SettingsError: that is so.
    """
    first = sources[: len(job.endpoints) - job.seconds]
    if cut is None or not cut.by_confidence or waiting < ENOUGH or journal.has_scores(first):
        return
    model = job.tiers.first[0].source.model
    raise SettingsError(
        f"{blamed('then')}: the {waiting:,} answers of {model} have no confidence, because they were asked for"
        f" without it ({option('with_', 'confidence')}), so each of these rows would be asked a second time."
        f" {option('samples', 3)} asks {model} for two more answers a row, and goes by their agreement; another"
        f" {as_given('keyword')} asks for all anew"
    )

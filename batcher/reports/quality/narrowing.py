"""How wide the interval of the accuracy is while a sample is labelled, without saying where it lies.

Invariant: it says nothing about a single row. A width that followed each label would: it grows if the label is not the
model's. So it is taken after every ten labels, and once taken it stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from batcher.answer.gold import Golds
from batcher.journal.sampling import Draw, DrawnRow, RowNow, chances_of_labelled
from batcher.quality import estimating
from batcher.reports.quality.answers import answers_of, sampled_of
from batcher.reports.quality.labelled import SAMPLE, GoldRow, LabelledRun

EVERY = 10
"""Hand labels from one width to the next."""
_DRAWS = 1000  # for each width: they leave it uncertain by some 4%
_MOST_WIDTHS = 20  # of those labels that were there at first


class Narrowing:
    """Takes the widths of one sample of labels, or of a field of a schema.

    Args:
        reads: of the run, for the field; the caller holds a snapshot. It is not used any more afterwards.
        draws: of the sample.
        drawn: its rows.
        here: where they are; those that are gone are left out.
    """

    def __init__(
        self, reads: LabelledRun, draws: list[Draw], drawn: list[DrawnRow], here: Mapping[int, RowNow]
    ) -> None:
        self._reads, self._draws, self._drawn, self._here = reads, draws, drawn, here
        self._found = reads.without_gold()
        self._counts = answers_of(reads, self._found)

    def width(self, gold: Mapping[int, str]) -> float | None:
        """Return half the width of the 95% interval of the accuracy, in percentage points; None if there is none.

        Args:
            gold: hand labels by `DrawnRow.id`; with a schema, of all fields.
        """
        texts = {number: Golds.of_field(text, self._reads.field) for number, text in gold.items()}
        texts = {number: text for number, text in texts.items() if text and number in self._here}
        chances = chances_of_labelled(self._draws, self._drawn, self._here, texts)
        rows = (
            GoldRow(self._here[number].position, self._reads.label_of(self._here[number].label), text, chances[number])
            for number, text in texts.items()
        )
        found = replace(self._found, source=SAMPLE, kind="random", sampled=tuple(rows))
        sampled = sampled_of(self._reads, found, self._counts.kind)
        accuracy = estimating.estimate(self._counts.counts, sampled, draws=_DRAWS).accuracy
        return None if accuracy.width is None else 50 * accuracy.width

"""How wide the interval of the accuracy is while a sample is labelled, without saying where it lies.

Invariant: it says nothing about a single row. A width that followed each label would: it grows if the label is not the
model's. So it is taken after every ten labels, and once taken it stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import islice

from batcher.answer.gold import Golds
from batcher.journal.sampling import Draw, DrawnRow, RowNow, chances_of_labelled
from batcher.quality import estimating
from batcher.quality.figures import to_halve
from batcher.reports.quality.answers import answers_of, sampled_of
from batcher.reports.quality.labelled import SAMPLE, GoldRow, LabelledRun
from batcher.words import counted

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


class Widths:
    """The widths of the interval of the accuracy, as labels were given; of several fields the widest.

    Attributes:
        series: hand labels, and the width with them.
    """

    def __init__(self) -> None:
        self.series: list[tuple[int, float]] = []
        self._taken = 0

    def is_due(self, done: int, rows: int) -> bool:
        """Return whether there are labels enough for the next width.

        Args:
            done: rows with a hand label.
            rows: that can have one.
        """
        return bool(self._due(done, rows))

    def take(self, parts: Collection[Narrowing], gold: Mapping[int, str], rows: int) -> None:
        """Take the widths that are due.

        Args:
            parts: one, or one for each field.
            gold: the hand labels by `DrawnRow.id`, the first one given first.
            rows: that can have one.
        """
        due, found = self._due(len(gold), rows), list[tuple[int, float]]()
        # Of many that are due at once some are taken, the last one in any case.
        for labels in due[:: -max(1, -(-len(due) // _MOST_WIDTHS))]:
            each = (part.width(dict(islice(gold.items(), labels))) for part in parts)
            widest = max((width for width in each if width is not None), default=None)
            if widest is not None:
                found.append((labels, round(widest, 2)))
        self.series += found[::-1]
        self._taken = due[-1] if due else self._taken

    def _due(self, done: int, rows: int) -> list[int]:
        """Return the numbers of labels whose widths are due: multiples of ten, and all, if some more than the last."""
        steps = [*range(EVERY, rows - EVERY // 2 + 1, EVERY), *([rows] if rows >= EVERY // 2 else [])]
        return [each for each in steps if self._taken < each <= done]


def how_many_more(done: int, rows: int, population: int, drawn: int) -> tuple[str, tuple[int, int] | None]:
    """Return in words how many labels halve the interval; and that number, with the size of a sample that has them.

    It goes by the numbers of rows alone, so that it says nothing about their answers.

    Args:
        done: rows with a hand label.
        rows: of the sample that can have one.
        population: the rows of the table that could be drawn.
        drawn: all rows of the sample.
    """
    if not done:
        return f"The width of the interval is shown after {min(EVERY, rows)} labels.", None
    more, left = to_halve(done, max(population, done)), rows - done
    if not more:
        return "All rows of the table are labelled.", None
    said = f"About {counted(more, 'more label')} would halve the interval"
    if more <= left:
        return f"{said}; {counted(left, 'row is', 'rows are')} waiting.", (more, drawn)
    size = drawn + more - left
    waiting = f"{counted(left, 'row is', 'rows are')} waiting" if left else "none is waiting"
    return f"{said}; {waiting}, so draw {size - drawn:,} more for that.", (more, size)

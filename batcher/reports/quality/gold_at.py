"""The hand labels of two runs' rows, and which of the two is right about them.

Invariant: the hand labels are those of one run, and each stays with its row by that run's positions; memory holds four
bytes a row.
"""

from __future__ import annotations

from array import array
from collections import Counter
from itertools import chain, repeat

from batcher.journal.sampling import SampleReader
from batcher.output.opening import PastRun
from batcher.quality.agreement import Pair, Paired
from batcher.quality.agreement import paired as compared
from batcher.quality.figures import Figure
from batcher.reports.quality.answers import is_same, kind_of
from batcher.reports.quality.compared import OnGold, Ranged
from batcher.reports.quality.estimated import Kind
from batcher.reports.quality.labelled import LabelledRun

_NONE = -1
# What A's and B's answers may be beside the hand label, if only right, wrong and different count.
_RIGHT, _WRONG, _OTHER = "right", "wrong", "wrong in another way"


class GoldAt:
    """The hand labels of one of two runs, by its rows' positions.

    Args:
        side: of which run they are: 0 or 1.
        rows: of that run.
    """

    def __init__(self, side: int, rows: int) -> None:
        self._side = side
        self._codes = array("i", [_NONE]) * rows
        self._golds: dict[tuple[str, float | None], int] = {}
        self._known: list[tuple[str, float | None]] = []
        self._pairs: Counter[tuple[str, str, float | None]] = Counter()
        self._differ = 0
        self._kind = Kind.LABELS

    @classmethod
    def of(cls, first: PastRun[SampleReader], other: PastRun[SampleReader], field: str | None) -> GoldAt | None:
        """Read the hand labels of the first run that has some; None if no run has any, or the field is not said.

        Args:
            first: a run.
            other: the other one.
            field: of the answers that is compared; None: the whole answer.

        Raises:
            InputError, OutputError: the column of the hand labels cannot be read.
        """
        for side, run in enumerate((first, other)):
            if field is None and (run.last().question.get("shape") or {}).get("schema") is not None:
                continue  # a hand label is of one field
            made = cls(side, run.journal.scope())
            if made._read(LabelledRun(run, field)):
                return made
        return None

    def _read(self, labelled: LabelledRun) -> bool:
        """Read the hand labels, and return whether there are any."""
        found = labelled.found()
        if found.gold:
            self._kind = kind_of(labelled, found)
        for each in labelled.gold_rows(found):
            self._set(each.position, each.gold, each.chance)
        return bool(self._known)

    def _set(self, position: int, gold: str, chance: float | None) -> None:
        code = self._golds.setdefault((gold, chance), len(self._golds))
        if code == len(self._known):
            self._known.append((gold, chance))
        self._codes[position] = code

    def add(self, positions: tuple[int, int], answers: tuple[str | None, str | None]) -> None:
        """Count a row.

        Args:
            positions: of the row, in each run.
            answers: of each run; None: it has none.
        """
        alike = answers[0] == answers[1] or self._is_same(*answers)
        self._differ += not alike
        code = self._codes[positions[self._side]]
        if code == _NONE:
            return
        gold, chance = self._known[code]
        first, other = (_RIGHT if self._is_same(each, gold) else _WRONG for each in answers)
        if alike:
            other = first
        elif first == other:
            other = _OTHER
        self._pairs[first, other, chance] += 1

    def _is_same(self, answer: str | None, other: str | None) -> bool:
        return answer is not None and other is not None and is_same(answer, other, self._kind)

    def compared(self, rows: int) -> tuple[OnGold | None, Ranged | None, Ranged | None]:
        """Return what the hand labels say about both runs, and the accuracy of each; None if no row has one.

        Args:
            rows: that both runs have.
        """
        if not self._pairs:
            return None, None, None
        given = (
            repeat(Pair(first, other, _RIGHT, chance), count) for (first, other, chance), count in self._pairs.items()
        )
        found = compared(rows, self._differ, chain.from_iterable(given))
        return self._on_gold(found), _ranged(found.first), _ranged(found.second)

    def _on_gold(self, found: Paired) -> OnGold:
        right: Counter[tuple[bool, bool]] = Counter()
        for (first, other, chance), count in self._pairs.items():
            if chance is not None or not found.drawn:
                right[first == _RIGHT, other == _RIGHT] += count
        notes = [] if found.drawn else ["how the rows with a hand label were chosen is unknown: there is no interval"]
        if found.unused:
            notes.append(f"{found.unused:,} hand labels of rows that were not drawn do not count")
        difference = found.difference
        value = 0.0 if difference.value is None else -difference.value
        low = None if difference.high is None else -difference.high
        return OnGold(
            rows=found.hand,
            both=right[True, True],
            only_first=found.only_first,
            only_other=found.only_second,
            neither=right[False, False],
            difference=Ranged(value, low, None if difference.low is None else -difference.low),
            p=found.p,
            test="exact McNemar test" if found.even else "test by the chances of the rows",
            note="; ".join(notes),
        )


def _ranged(figure: Figure) -> Ranged | None:
    return None if figure.value is None else Ranged(figure.value, figure.low, figure.high)

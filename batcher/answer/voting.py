"""The vote over several answers to one question (`--samples`).

Invariant: which answer counts depends on the answers and, if two have equally many votes, on their order; on nothing
else.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from batcher.answer.labels import Labels
from batcher.answer.shape import Shape
from batcher.equality import rewritten
from batcher.records import Result, Status


class Vote(NamedTuple):
    """The outcome of a vote.

    Attributes:
        chosen: the place of the result that counts: the first of those that agree; without an `ok` one the first that
            is `invalid`, or else the first.
        agreeing: the places of the `ok` answers that agree on it; none without an `ok` answer.
        answers: how many answers came: those that are `ok` or `invalid`.
        is_tied: another answer has as many votes, and came later.
    """

    chosen: int
    agreeing: tuple[int, ...]
    answers: int
    is_tied: bool

    @property
    def for_it(self) -> int:
        """How many answers agree on the one that counts."""
        return len(self.agreeing)

    @property
    def agreement(self) -> float:
        """The share of the answers that agree on the one that counts; 0 if none came."""
        return self.for_it / self.answers if self.answers else 0.0

    def confidence(self, of: Sequence[float | None]) -> float | None:
        """Return the mean confidence of the answers that agree; None if it is not known of any.

        Args:
            of: the confidence of each result; None: not known.
        """
        known = [confidence for place in self.agreeing if (confidence := of[place]) is not None]
        return statistics.fmean(known) if known else None


def vote(results: Sequence[Result], same: Callable[[str], str]) -> Vote:
    """Return which of several results counts.

    Only `ok` answers are candidates. The one with the most votes counts; of those that have equally many, the one that
    came first.

    Args:
        results: at least one, in the order in which they came.
        same: returns the same text for answers that are equal (`sameness`).
    """
    candidates: dict[str, list[int]] = {}
    for place, result in enumerate(results):
        if result.status is Status.OK:
            candidates.setdefault(same(result.answer), []).append(place)
    answers = sum(result.status is not Status.ERROR for result in results)
    if not candidates:
        invalid = (place for place, result in enumerate(results) if result.status is Status.INVALID)
        return Vote(next(invalid, 0), (), answers, is_tied=False)
    most = max(map(len, candidates.values()))
    first, *others = (places for places in candidates.values() if len(places) == most)
    return Vote(first[0], tuple(first), answers, is_tied=bool(others))


def sameness(shape: Shape | None) -> Callable[[str], str]:
    """Return what makes one text of equal answers: a label is itself, JSON is written in one way, a text is stripped.

    Args:
        shape: what answers must be; None: any text will do.
    """
    if shape is None:
        return str.strip
    return str if isinstance(shape, Labels) else rewritten

"""Asks a second endpoint about the rows whose answers at the first are not certain enough (`--then`).

Invariant: the answers of the first endpoint are in the journal before the second is asked; an answer that is certain
enough is never asked about again.
"""

from __future__ import annotations

from batcher.answer.voting import Vote
from batcher.engine.asked import Settle
from batcher.engine.asking import Asker
from batcher.engine.feed import Row
from batcher.engine.opinions import Poll
from batcher.errors import BatcherError
from batcher.planning.escalation import ENOUGH, Cut
from batcher.records import Result, Status
from batcher.words import as_given, option


class Escalation:
    """Decides which rows the second endpoint is asked about, and asks.

    Args:
        asker: of the second endpoint.
        cut: what is certain enough.
        has_scores: the journal has an answer with a confidence.
        first: the first endpoint's name, for messages.
    """

    def __init__(self, asker: Asker, cut: Cut, *, has_scores: bool, first: str) -> None:
        self._asker = asker
        self._cut = cut
        self._has_scores = has_scores or not cut.by_confidence
        self._first = first
        self._unknown = 0

    def decides(self, poll: Poll, vote: Vote) -> bool:
        """Return whether the answers to a row are certain enough."""
        score = poll.confidence(vote) if self._cut.by_confidence else vote.agreement
        is_ok = poll.chosen(vote).result.status is Status.OK
        self._has_scores = self._has_scores or score is not None
        self._unknown += is_ok and score is None
        return is_ok and score is not None and score >= self._cut.threshold

    async def ask(self, row: Row, settle: Settle) -> Result:
        """Ask the second endpoint about a row.

        Raises:
            BatcherError: no answer of the first endpoint has a confidence, so every row would be asked twice.
        """
        if not self._has_scores and self._unknown >= ENOUGH:
            raise BatcherError(
                f"{self._first} gives no log-probabilities, so no answer has a confidence, and every row would be asked"
                f" a second time: {option('samples', 3)} goes by the agreement of several answers instead of"
                f" {as_given('threshold')}, or leave {as_given('then')} out"
            )
        return await self._asker.ask(row, settle)

"""Asks about each row several times, one answer after the other, and makes the row's result of them (`--samples`).

Invariant: each answer is in the journal before it counts and before the next one is asked for; the last one comes with
the result, in one entry. An answer that an earlier process paid for is taken up by one row, and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Protocol

from batcher.answer.shape import Shape
from batcher.answer.voting import Vote, sameness, vote
from batcher.engine.asked import End, Settle
from batcher.engine.asking import Asker
from batcher.engine.feed import Row
from batcher.engine.progress import Tally
from batcher.journal.entries import UNSENT, Opinion, Outcome, Votes
from batcher.journal.writing import Journal
from batcher.records import Result, RowState, Status


class Beyond(Protocol):
    """Asks someone else about the rows whose answers do not decide."""

    def decides(self, poll: Poll, vote: Vote) -> bool:
        """Return whether a row's result is what its answers agree on."""

    async def ask(self, row: Row, settle: Settle) -> Result:
        """Ask someone else about a row, and hand how that ended to `settle`."""


class Poll:
    """The answers to a row so far.

    Args:
        row: that is asked.
        opinions: that are in the journal already.
        same: see `vote`.

    Attributes:
        result: of the row; None: it has none yet.
        is_old: all of its answers are an earlier process's.
    """

    __slots__ = ("_same", "is_old", "opinions", "result", "row")

    def __init__(self, row: Row, opinions: list[Opinion], same: Callable[[str], str]) -> None:
        self.row = row
        self.opinions = opinions
        self.result: Result | None = None
        self.is_old = True
        self._same = same

    def vote(self) -> Vote:
        """Return which of the answers counts; there is at least one."""
        return vote([opinion.result for opinion in self.opinions], self._same)

    def confidence(self, vote: Vote) -> float | None:
        """Return the mean confidence of the answers that agree; None if it is not known of any."""
        return vote.confidence([opinion.confidence for opinion in self.opinions])

    def chosen(self, vote: Vote) -> Opinion:
        """Return the answer that counts."""
        return self.opinions[vote.chosen]

    def votes(self, vote: Vote, source: int, *, own: Result | None = None) -> Votes:
        """Return what the journal records of the vote.

        Args:
            vote: over the answers.
            source: the id of the source of the answer that is the result.
            own: the last of the answers, if it is not in the journal yet.
        """
        known = tuple(opinion.id for opinion in self.opinions[: None if own is None else -1])
        return Votes(vote.answers, vote.for_it, vote.is_tied, self.confidence(vote), source, known, own)


class Opinions:
    """Asks about rows until each has as many answers as it should have.

    Args:
        asker: asks once.
        journal: gets every answer, and has those of earlier processes.
        samples: how many answers a row should have.
        sources: ids of the sources whose answers count.
        shape: what answers must be; None: any text will do.
        tally: counts rows.
        beyond: asks someone else about rows whose answers do not decide; default: they always do.
        asks: rows are asked that lack answers; else they are left as they are.
    """

    def __init__(
        self,
        asker: Asker,
        journal: Journal,
        *,
        samples: int,
        sources: Collection[int],
        shape: Shape | None,
        tally: Tally,
        beyond: Beyond | None = None,
        asks: bool = True,
    ) -> None:
        self._asks = asks
        # What `lacks` has promised to rows.
        self._promised: set[int] = set()
        self._asker = asker
        self._journal = journal
        self._samples = samples
        self._sources = sources
        self._same = sameness(shape)
        self._tally = tally
        self._beyond = beyond
        self._may_be_there = journal.has_open_opinions()
        # The answers that rows under way have taken up: until their results are on disk, the journal has them as free.
        self._claimed: set[int] = set()

    def lacks(self, position: int, state: RowState) -> bool:
        """Return whether a row lacks answers, so that it can have no result yet. Call it once for each, in order."""
        own, others = self._journal.open_opinions(position, state.key, self._sources)
        free = [each.id for each in others if each.id not in self._promised][: max(self._samples - len(own), 0)]
        if len(own) + len(free) < self._samples:
            return True
        self._promised.update(free)
        return False

    async def ask(self, row: Row) -> Result | None:
        """Return a row's result, made of the answers that are there and of those that are missing.

        If some are missing, and nothing is asked, it has none.

        Raises:
            PoolClosed, PoolEmpty, BudgetClosed, BudgetSpent, OutputError: as `Asker.ask`.
        """
        if row.question.fault:
            return await self._asker.ask(row)
        poll = Poll(row, self._open(row), self._same)
        taken_up = {opinion.id for opinion in poll.opinions}
        try:
            while len(poll.opinions) < self._samples:
                if not self._asks:
                    return None
                poll.is_old = False
                await self._asker.ask(row, partial(self._take, poll))
                if poll.result is not None:
                    return poll.result
            found = poll.vote()
            # An answer that was asked for just now has been judged: it does not decide.
            if self._beyond is None or (poll.is_old and self._beyond.decides(poll, found)):
                return await self._settle_as_it_is(poll, found)
            return await self._beyond.ask(row, partial(self._settle_beyond, poll, found))
        finally:
            self._claimed -= taken_up

    def _open(self, row: Row) -> list[Opinion]:
        """Return the answers to a row that are there: all of its own, and of others as many as it lacks."""
        if not self._may_be_there:
            return []
        own, others = self._journal.open_opinions(row.position, row.key, self._sources)
        own = [each for each in own if each.id not in self._claimed]
        others = [each for each in others if each.id not in self._claimed]
        taken = sorted([*own, *others[: max(self._samples - len(own), 0)]])
        self._claimed.update(opinion.id for opinion in taken)
        return taken

    async def _take(self, poll: Poll, end: End) -> Result:
        """Journal an answer: with the row's result, if it was the last one and they decide; else by itself."""
        _, request, outcome, result, is_kept = end
        outcome, result = self._journal.holdable(request, outcome, result)
        sure = outcome.confidence
        poll.opinions.append(Opinion(request.id, request.source, result, sure))
        found = poll.vote()
        if len(poll.opinions) >= self._samples and (self._beyond is None or self._beyond.decides(poll, found)):
            counts = poll.chosen(found)
            votes = poll.votes(found, counts.source, own=result) if len(poll.opinions) > 1 else None
            poll.result = await self._settle(end._replace(outcome=outcome, result=counts.result), votes)
        else:
            await self._journal.opined(request, outcome, result, is_kept=is_kept)
        if not is_kept:
            self._asker.count(outcome)
        return result

    async def _settle_as_it_is(self, poll: Poll, found: Vote) -> Result:
        """Settle a row whose answers were all there before."""
        request, counts = await self._asker.unsent(poll.row), poll.chosen(found)
        end = End(poll.row, request, Outcome(UNSENT, cost=0), counts.result)
        return await self._settle(end, poll.votes(found, counts.source))

    async def _settle_beyond(self, poll: Poll, found: Vote, end: End) -> Result:
        """Settle a row by the answer of someone else; its own answers stay beside it.

        If no usable one came, and its own answers have one, that one counts; what came stays beside it as well.
        """
        outcome, came = self._journal.holdable(end.request, end.outcome, end.result)
        end, counts = end._replace(outcome=outcome, result=came), poll.chosen(found)
        votes = poll.votes(found, end.request.source)
        if came.status is not Status.OK and counts.result.status is Status.OK:
            end, votes = end._replace(result=counts.result), votes._replace(source=counts.source, own=came)
        result = await self._settle(end, votes)
        if not end.is_kept:
            self._asker.count(end.outcome)
        return result

    async def _settle(self, end: End, votes: Votes | None) -> Result:
        row, request, outcome, result, is_kept = end
        result = await self._journal.settled(
            request, outcome, result, followers=row.followers > 0, is_kept=is_kept, votes=votes
        )
        self._tally.count(result.status, 1 + row.followers)
        return result

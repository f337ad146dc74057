"""The rows that are asked, what was tried with them so far, and what each attempt at them brings.

Invariant: a row that is asked again knows which forms and service tiers have not worked for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from batcher.calls.forms import AS_IT_COMES, Form, Wire
from batcher.engine.feed import Row
from batcher.journal.entries import UNSENT, Outcome, Request
from batcher.pool.blame import Decision, History
from batcher.pool.member import Member
from batcher.records import Completion, Message, Result


class End(NamedTuple):
    """How asking about a row ended.

    Attributes:
        row: that was asked.
        request: the one that brought the result.
        outcome: of that request.
        result: of the row.
        is_kept: the answer did not fit, no further one came, and it is journalled and counted already.
    """

    row: Row
    request: Request
    outcome: Outcome
    result: Result
    is_kept: bool = False


Settle = Callable[[End], Awaitable[Result]]
"""Journals how asking about a row ended, counts it only then, and returns what is in the journal."""


class Unsent(NamedTuple):
    """An attempt that was not made: its endpoint began a cooldown, or left the pool, while the intent was committed."""

    member: Member


class Unloaded(NamedTuple):
    """An attempt that was not made, because an image of the row cannot be sent."""

    fault: str


class Answered(NamedTuple):
    """An attempt that brought an answer, its cost, and how it was asked for.

    `was_refused`: the service refused the answer, because it does not fit, and showed it in the refusal.
    """

    member: Member
    request: Request
    completion: Completion
    cost: int | None
    form: Form | None
    was_refused: bool = False


class InHalves(NamedTuple):
    """Several rows that are asked again in halves, because one of them may be the reason that the others fail.

    Attributes:
        before: what was tried with all of them.
        outcome: of the latest attempt.
    """

    before: History
    outcome: Outcome = Outcome(UNSENT, cost=0)


class Refused(NamedTuple):
    """An attempt that was refused for the form in which it was asked for, or for a parameter that batcher had added.

    The row is asked in another form, or without the parameter; if its service tier has no capacity, later; if the
    worker that had it is lost, once more. It uses up none of the row's attempts.
    """

    member: Member
    request: Request
    outcome: Outcome
    wait_s: float = 0.0
    why: str = ""


class Failed(NamedTuple):
    """An attempt that brought no answer: its outcome, and the decision that follows."""

    member: Member
    request: Request
    outcome: Outcome
    decision: Decision


Tried = Answered | Refused | InHalves | Failed | Unsent | Unloaded


class Asked:
    """A row that is being asked, or several that share a request: the messages, and what was tried so far.

    Attributes:
        rows: that share the request; mostly one.
        row: the first of them.
        messages: its question, or a message for each of them; after an answer that did not fit also that answer, and
            what was wrong with it.
        repairs: how often that was asked for.
        wire: what the present request adds to them.
        is_stepping: it is asked in another way now, and before other rows: theirs depends on it.
        unfit: the latest answer that did not fit; the row ends with it if none comes that does.
        before: what was tried with the request of which they are a half; None: they are none.
        settle: takes how a row ends that has its request alone.
        lacked: how often each service tier of a source had no capacity for it.
        losses: how often it was out at a worker that was lost.
    """

    __slots__ = (
        "_failed",
        "_steps",
        "before",
        "is_stepping",
        "lacked",
        "losses",
        "messages",
        "repairs",
        "row",
        "rows",
        "settle",
        "unfit",
        "wire",
    )

    def __init__(self, rows: Sequence[Row], settle: Settle) -> None:
        self.rows = rows
        self.settle = settle
        self.row = row = rows[0]
        self.messages = row.question.messages
        if len(rows) > 1:
            self.messages = [message for each in rows for message in each.question.messages]
        self.repairs = 0
        self.wire = AS_IT_COMES
        self.is_stepping = False
        self.unfit: tuple[Request, Outcome, Result] | None = None
        self.before: History | None = None
        self.lacked: dict[tuple[int, str], int] = {}
        self.losses = 0
        # For each source that was asked: the first form that may still work for this row, and those that did not.
        self._steps: dict[int, int] = {}
        self._failed: dict[int, list[Form]] = {}

    def wire_at(self, member: Member) -> Wire:
        """Return what a request to an endpoint adds, in the form in which that should be asked."""
        return member.choice.wire(self._steps.get(member.source, 0)) if member.choice else self.wire

    def step(self, member: Member, form: Form, step: int) -> None:
        """Go on to a form, because another one did not work for this row."""
        self.is_stepping = True
        self._steps[member.source] = step
        self._failed.setdefault(member.source, []).append(form)

    def failed(self, member: Member) -> Sequence[Form]:
        """Return the forms that have not worked at an endpoint's source."""
        return self._failed.get(member.source, ())

    def repair(self, text: str, error: str) -> None:
        """Ask again, with the answer that came and what is wrong with it."""
        self.repairs += 1
        self.messages = repaired(self.row.question.messages, text, error)


def repaired(messages: Sequence[Message], text: str, error: str) -> list[Message]:
    """Return a row's messages with an answer that came, and what is wrong with it."""
    return [
        *messages,
        {"role": "assistant", "content": text},
        {"role": "user", "content": f"This answer does not fit: {error}. Answer again, and only as asked for."},
    ]

"""The model tokens that a source's prompts have beside the rows' own text, learnt from its answers.

Invariant: under the assumptions of `Overhead`, no prompt has more model tokens than its bound. An answer that breaks
them widens the bound for good.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batcher.money.tokens import text_bytes
from batcher.records import Message

# Model tokens by which the marks around a message may differ from prompt to prompt: next to a row's own text a mark
# such as "\n" or " [/INST]" may be merged with it, and a chat template may show the date.
_MARKS = 8
# Answers that have to agree before they narrow the bound: prompts that a service extends for some rows only, as with
# documents that it finds for them, hardly ever agree for longer.
_AGREEING = 20
# The most bytes of a model token in any table that is known; they are spaces.
_LONGEST_TOKEN = 128
# Shapes of prompts to remember; a run whose rows have more of them learns nothing about the others.
_MOST_SHAPES = 64

_Shape = tuple[tuple[str | None, ...], ...]
"""The role and the names of the fields of each message of a prompt."""


@dataclass(slots=True)
class _Known:
    """What the answers to prompts of one shape prove about their overhead, in model tokens.

    Attributes:
        name: a hash of all that the overhead depends on.
        least: no prompt's overhead can be below it: the highest `tokens - own bytes` of an answer.
        most: none can be above it, apart from the marks: the lowest `tokens` of an answer.
        answers: the number of answers.
        marks: the part by which the overheads of two prompts may differ.
    """

    name: str
    least: float
    most: float
    answers: int
    marks: int

    def bound(self, widest: int) -> int:
        """Return the highest overhead of a prompt.

        Args:
            widest: the overhead to assume if nothing is learnt.
        """
        if self.least > self.most + self.marks:  # the answers contradict each other
            return max(widest, int(self.least) + self.marks)
        if self.least > widest:  # the service adds more to a prompt than any chat template
            return int(self.most) + self.marks
        return min(widest, int(self.most) + self.marks) if self.answers >= _AGREEING else widest


class Overhead:
    """The overhead of a source's prompts: the chat template, tools, and the fixed words of the user's prompt.

    The proof. A prompt of row r has F(r) + o(r) model tokens: o(r) for its own text, F(r) for the overhead. Assumed is

    1. that a model token stands for at least one byte, so that 0 <= o(r) <= b(r), the bytes of its own text;
    2. that prompts of one shape (the same source, parameters, roles and fields) have the same overhead, apart from
       the marks next to a row's own text, m tokens at most (`_MARKS` for a message): F(r) <= F(a) + m for any a. Of
       the fixed words only those count that tokenizers split from the row's own (`Template.fixed_bytes`);
    3. that the service charges the tokens that it reports.

    An answer to row a reported t(a) = F(a) + o(a) >= F(a). So t(r) = F(r) + o(r) <= F(a) + m + b(r) <= t(a) + m + b(r),
    for every answer; the lowest t(a) gives the bound. Any part of the answers is enough, and no order is needed.

    The same answers test the assumptions, because they also prove F(a) >= t(a) - b(a). If that is above another
    answer's t + m, the overheads are not the same, and the bound is never below the widest one again; nor is it before
    `_AGREEING` answers have agreed. The answers in flight at that moment are the only ones whose bound was too low.
    A prompt without a number of tokens, or with fewer than its bytes can have, teaches nothing.

    Args:
        question: all that the overhead depends on besides the shape, as text.
        fixed_bytes: the bytes of the prompts' fixed words.
    """

    def __init__(self, question: str = "", fixed_bytes: int = 0) -> None:
        self._question = question
        self._fixed_bytes = fixed_bytes
        self._shapes: dict[_Shape, _Known] = {}
        self._recalled: dict[str, tuple[int, int]] = {}

    def most(self, messages: Sequence[Message], widest: int) -> int:
        """Return the most model tokens of a prompt.

        Args:
            messages: of the prompt; they are text.
            widest: the bound if nothing is learnt.
        """
        known = self._known(messages)
        if known is None:
            return widest
        own = self._own_bytes(messages)
        return own + known.bound(widest - own)

    def learn(self, messages: Sequence[Message], tokens: int, widest: int) -> dict[str, Any] | None:
        """Record the model tokens that a server reported for a prompt.

        Args:
            messages: of the prompt; they are text.
            tokens: as reported.
            widest: as for `most`.

        Returns:
            What to pass to `recall` in the next process, if the bound has changed.
        """
        known = self._known(messages)
        own = self._own_bytes(messages)
        if known is None or tokens * _LONGEST_TOKEN < own + self._fixed_bytes:
            return None
        before = known.bound(widest - own)
        known.answers += 1
        known.least = max(known.least, tokens - own)
        known.most = min(known.most, tokens)
        if known.bound(widest - own) == before:
            return None
        return {"of": known.name, "least": known.least, "most": known.most}

    def recall(self, state: object) -> None:
        """Learn what an earlier process returned from `learn`; the state of another question is ignored."""
        match state:
            case {"of": str(name), "least": int(least), "most": int(most)}:
                low, high = self._recalled.get(name, (least, most))
                self._recalled[name] = max(low, least), min(high, most)

    def _known(self, messages: Sequence[Message]) -> _Known | None:
        """Return what is known of prompts of this shape, or None if nothing can be learnt of it."""
        shape = _shape(messages)
        if shape is None:
            return None
        if shape not in self._shapes:
            if len(self._shapes) >= _MOST_SHAPES:
                return None
            of = json.dumps([self._question, shape])
            name = hashlib.blake2b(of.encode(), digest_size=8).hexdigest()
            least, most = self._recalled.get(name, (-math.inf, math.inf))
            answers = _AGREEING if name in self._recalled else 0
            self._shapes[shape] = _Known(name, least, most, answers, _MARKS * len(messages))
        return self._shapes[shape]

    def _own_bytes(self, messages: Sequence[Message]) -> int:
        roles = sum(len(str(message.get("role"))) for message in messages)  # ASCII, and a part of the shape
        return max((text_bytes(messages) or 0) - roles - self._fixed_bytes, 0)


def _shape(messages: Sequence[Message]) -> _Shape | None:
    """Return what a chat template can tell of messages besides their texts, or None if it may read more than texts."""
    for message in messages:
        for value in message.values():
            if not isinstance(value, str):
                return None
    return tuple((message.get("role"), *message) for message in messages)

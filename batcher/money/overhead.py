"""The model tokens that a source's prompts have beside the rows' own text, learnt from its answers.

Invariant: under the assumptions of `Overhead`, no prompt has more model tokens than its bound, even if fewer than
`_AGREEING` answers report too few. An answer that breaks the assumptions widens the bound for good.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from batcher.money.tokens import text_bytes
from batcher.records import Message

# Model tokens by which the marks around a message may differ from prompt to prompt: next to a row's own text a mark
# such as "\n" or " [/INST]" may be merged with it, and a chat template may show the date.
_MARKS = 8
# Answers that have to agree on a bound: prompts that a service extends for some rows only, as with documents that it
# finds for them, hardly ever agree for longer; and this many wrong reports are no accident.
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
        recalled: what `most` was in an earlier process; infinite if nothing is known of one.
        marks: the part by which the overheads of two prompts may differ.
        lowest: the lowest `tokens` of this process's answers, `_AGREEING` of them, in order.
    """

    name: str
    least: float
    recalled: float
    marks: int
    lowest: list[int] = field(default_factory=list)

    @property
    def is_agreed(self) -> bool:
        return len(self.lowest) == _AGREEING or self.recalled < math.inf

    @property
    def most(self) -> float:
        """No overhead can be above it, apart from the marks: the most tokens of the lowest answers.

        Fewer answers than have to agree lower nothing that an earlier process has learnt.
        """
        is_known = self.recalled < math.inf and len(self.lowest) < _AGREEING
        return self.recalled if is_known or not self.lowest else min(self.recalled, self.lowest[-1])

    def learn(self, tokens: int, own: int) -> None:
        """Record an answer to a prompt with this many tokens and bytes of its row's own text."""
        self.least = max(self.least, tokens - own)
        bisect.insort(self.lowest, tokens)
        del self.lowest[_AGREEING:]

    def bound(self, widest: int) -> int:
        """Return the highest overhead of a prompt.

        Args:
            widest: the overhead to assume if nothing is learnt.
        """
        if self.least > self.most + self.marks:  # the answers contradict each other
            return max(widest, int(self.least) + self.marks)
        if self.least > widest:  # the service adds more to a prompt than any chat template
            return int(self.most) + self.marks
        return min(widest, int(self.most) + self.marks) if self.is_agreed else widest


class Overhead:
    """The overhead of a source's prompts: the chat template, tools, and the fixed words of the user's prompt.

    The proof. A prompt of row r has F(r) + o(r) model tokens: o(r) for its own text, F(r) for the overhead. Assumed is

    1. that a model token stands for at least one byte, so that 0 <= o(r) <= b(r), the bytes of its own text;
    2. that prompts of one shape (the same source, parameters, roles and fields) have the same overhead, apart from
       the marks next to a row's own text, m tokens at most (`_MARKS` for a message, and once `differing`, because the
       examples in two prompts may differ by one): F(r) <= F(a) + m for any a. Of
       the fixed words only those count that tokenizers split from the row's own (`Template.fixed_bytes`);
    3. that the service charges the tokens that it reports.

    An answer to row a reported t(a) = F(a) + o(a) >= F(a). So t(r) = F(r) + o(r) <= F(a) + m + b(r) <= t(a) + m + b(r),
    for every answer. Any part of the answers is enough, and no order is needed.

    The lowest t(a) would give the narrowest bound, but then one report that is too low, such as one that leaves out
    what came from a cache, would bound all prompts after it. So the bound is the `_AGREEING`-th lowest, t: it is not
    below any of that many answers. If fewer of them reported too few tokens, one of them, a, is right, and t(a) <= t.
    Before there are that many answers, the bound is the widest one. What a process has learnt is such a bound, and the
    next one begins with it: the smaller of several right bounds is right.

    The same answers test the assumptions, because they also prove F(a) >= t(a) - b(a). If that is above t + m, the
    overheads are not the same, and the bound is never below the widest one again. The answers in flight at that moment
    are the only ones whose bound was too low. A prompt without a number of tokens, or with fewer than its bytes can
    have, teaches nothing.

    The tokens of images are bounded by the formulas that services document. If an answer exceeds that bound, all later
    bounds on prompts with images grow by the same factor.

    Args:
        question: all that the overhead depends on besides the shape, as text.
        fixed_bytes: the bytes of the prompts' fixed words.
        differing: the model tokens by which the fixed words of two prompts may differ.
    """

    def __init__(self, question: str = "", fixed_bytes: int = 0, differing: int = 0) -> None:
        self._question = question
        self._fixed_bytes = fixed_bytes
        self._differing = differing
        self._shapes: dict[_Shape, _Known] = {}
        self._recalled: dict[str, tuple[int, int]] = {}
        # For prompts with images: by how much an answer has exceeded the bound that the formulas give.
        self._excess = 1.0

    def most(self, messages: Sequence[Message], widest: int) -> int:
        """Return the most model tokens of a prompt.

        Args:
            messages: of the prompt.
            widest: the bound if nothing is learnt.
        """
        known = self._known(messages)
        if known is None:
            return widest if self._excess == 1.0 or _shape(messages) else math.ceil(widest * self._excess)
        own = self._own_bytes(messages)
        return own + known.bound(widest - own)

    def learn(self, messages: Sequence[Message], tokens: int, widest: int) -> dict[str, Any] | None:
        """Record the model tokens that a server reported for a prompt.

        Args:
            messages: of the prompt.
            tokens: as reported.
            widest: as for `most`.

        Returns:
            What to pass to `recall` in the next process, if the bound has changed.
        """
        if _shape(messages) is None:
            if tokens <= widest * self._excess:
                return None
            self._excess = tokens / widest
            return {"of": self._name(None), "excess": self._excess}
        known = self._known(messages)
        own = self._own_bytes(messages)
        if known is None or tokens * _LONGEST_TOKEN < own + self._fixed_bytes:
            return None
        before = known.bound(widest - own)
        known.learn(tokens, own)
        if known.bound(widest - own) == before:
            return None
        return {"of": known.name, "least": known.least, "most": known.most}

    def recall(self, state: object) -> None:
        """Learn what an earlier process returned from `learn`; the state of another question is ignored."""
        match state:
            case {"of": str(name), "least": int(least), "most": int(most)}:
                low, high = self._recalled.get(name, (least, most))
                self._recalled[name] = max(low, least), min(high, most)
            case {"of": str(name), "excess": float(excess)} if name == self._name(None):
                self._excess = max(self._excess, excess)

    def _known(self, messages: Sequence[Message]) -> _Known | None:
        """Return what is known of prompts of this shape, or None if nothing can be learnt of it."""
        shape = _shape(messages)
        if shape is None:
            return None
        if shape not in self._shapes:
            if len(self._shapes) >= _MOST_SHAPES:
                return None
            name = self._name(shape)
            least, most = self._recalled.get(name, (-math.inf, math.inf))
            self._shapes[shape] = _Known(name, least, most, _MARKS * len(messages) + self._differing)
        return self._shapes[shape]

    def _name(self, shape: _Shape | None) -> str:
        of = json.dumps([self._question, shape])
        return hashlib.blake2b(of.encode(), digest_size=8).hexdigest()

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

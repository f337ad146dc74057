"""A choice: one of the answers that a request gets, as far as it has come.

Invariant: it ends once, and what it reports is whole characters without end marks or stop strings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from batcher.server.hf.held import Held
from batcher.server.hf.sampling import Chosen, Past, Sampling
from batcher.server.hf.texts import Text, bytes_of
from batcher.server.responses import Token, as_bytes


class Piece(NamedTuple):
    """News of a choice.

    Attributes:
        place: of the choice among those of its request.
        text: that has come since the last piece.
        tokens: of that text, if log-probabilities were asked for.
        length: tokens that were generated so far, an end mark among them.
        finish: `stop` or `length` in the last piece; "" before.
        fault: why there is no answer; "" if nothing is wrong.
    """

    place: int
    text: str = ""
    tokens: Sequence[Token] | None = None
    length: int = 0
    finish: str = ""
    fault: str = ""


class Order(NamedTuple):
    """What a request asks of the model for one prompt.

    Attributes:
        prompt: its tokens; at least one.
        sampling: how the answer is chosen.
        choices: how many it wants.
        first: the place of the first one among the choices of the request.
        tell: is called with every piece, in the thread that generates.
        is_streamed: it wants pieces as they come; else one at the end.
        is_trimmed: an answer does not begin with white space.
        held: makes what holds an answer to its form; None: answers are free.
    """

    prompt: Sequence[int]
    sampling: Sampling
    choices: int
    first: int
    tell: Callable[[Piece], None]
    is_streamed: bool = False
    is_trimmed: bool = False
    held: Callable[[], Held] | None = None


class Choice:
    """One choice of an order.

    Args:
        order: what is asked for.
        place: among the choices of the order.
        tokenizer: of the model.
        ends: tokens that end an answer.
    """

    def __init__(self, order: Order, place: int, tokenizer: Any, ends: frozenset[int]) -> None:
        self.order = order
        self.answer: list[int] = []
        self.is_over = False  # it has ended, or its client has left
        self.held = order.held() if order.held is not None else None
        self._index = order.first + place
        self._tokenizer = tokenizer
        self._ends = ends
        self._draws = order.sampling.draws(place)
        self._text = Text(tokenizer, order.prompt, order.sampling.stop, is_trimmed=order.is_trimmed)
        self._tokens: list[tuple[int, Token]] = []  # not reported yet, with the place at which their text begins

    @property
    def length(self) -> int:
        """Tokens of its prompt and its answer so far."""
        return len(self.order.prompt) + len(self.answer)

    @property
    def ids(self) -> list[int]:
        return [*self.order.prompt, *self.answer]

    @property
    def past(self) -> Past:
        return Past(self.order.sampling, self._draws, self.order.prompt, self.answer, self.held)

    def add(self, chosen: Chosen, context: int | None) -> None:
        """Add a token; it may end the choice.

        Args:
            chosen: the token.
            context: the most tokens of a prompt with its answer.
        """
        self.answer.append(chosen.token)
        if chosen.token in self._ends:
            self._end("stop")
            return
        if self.order.sampling.logprobs is not None:
            self._tokens.append((len(self._text.whole), self._token(chosen)))
        if self.held is not None:
            self.held.take(chosen.token)
        self._text.push(chosen.token)
        if self._text.is_stopped:
            self._end("stop")
        elif len(self.answer) >= self.order.sampling.max_tokens or (context is not None and self.length >= context):
            self._end("length")
        elif self.order.is_streamed and (text := self._text.take()):
            self.order.tell(Piece(self._index, text, self._reported(), len(self.answer)))

    def fill(self, answer: Sequence[int]) -> None:
        """Take over a whole answer, with or without the token that ends it."""
        for token in answer:
            if not self.is_over:
                self.add(Chosen(token), None)
        if not self.is_over:
            self._end("length")

    def fail(self, why: str) -> None:
        """End without an answer."""
        if not self.is_over:
            self.is_over = True
            self.order.tell(Piece(self._index, fault=why))

    def _end(self, finish: str) -> None:
        if not self._text.is_stopped:
            self._text.end()
        finish = "stop" if self._text.is_stopped else finish
        text = self._text.take(is_last=True)
        self.is_over = True
        self.order.tell(Piece(self._index, text, self._reported(), len(self.answer), finish))

    def _reported(self) -> list[Token] | None:
        """Return the tokens whose text begins before the end of the whole, which are not reported yet."""
        if self.order.sampling.logprobs is None:
            return None
        tokens, self._tokens = self._tokens, []
        return [token for start, token in tokens if start < len(self._text.whole) or not self._text.is_stopped]

    def _token(self, chosen: Chosen) -> Token:
        top = tuple((self._written(token), logprob) for token, logprob in chosen.top)
        return Token(self._written(chosen.token), chosen.logprob, top)

    def _written(self, token: int) -> str:
        raw = bytes_of(self._tokenizer, token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return as_bytes(raw)

"""Generates: one thread takes a step for all choices that are running, which others join and leave at any step.

Invariant: only this thread uses the model; a choice's tokens are those that it would get alone, to within rounding.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from batcher.errors import in_words
from batcher.server.hf import cache as caches
from batcher.server.hf.beams import search
from batcher.server.hf.choice import Choice, Order
from batcher.server.hf.embedding import embed
from batcher.server.hf.loading import Model
from batcher.server.hf.sampling import choose
from batcher.words import counted, print_err, say

MOST_ROWS = 64
"""Choices that are generated together, at most; the rest wait."""

_MOST_PROMPT = 8_192  # tokens, padding among them, that are read in one step: bounds its memory
_PATIENCE_S = 10  # for the step that is under way at the end
_NO_MEMORY = "the model ran out of memory on this request alone"


class Inputs(NamedTuple):
    """Inputs to embed.

    Attributes:
        ids: the tokens of each.
        tell: is called with their vectors, or with the reason why there are none, in the engine's thread.
        is_over: returns whether their client has left.
    """

    ids: Sequence[Sequence[int]]
    tell: Callable[[list[list[float]] | str], None]
    is_over: Callable[[], bool]


class Ticket:
    """What was handed in: it can be taken back."""

    def __init__(self) -> None:
        self.is_over = False

    def cancel(self) -> None:
        """Stop generating for it at the next step."""
        self.is_over = True


class Engine:
    """Runs a model.

    Args:
        model: is used by this engine alone.
        most: choices that are generated together.
    """

    def __init__(self, model: Model, most: int = MOST_ROWS) -> None:
        self._model = model
        self.most = most if model.can_join else 1
        self._wake = threading.Condition()
        # Shared with other threads, under `_wake`.
        self._waiting: deque[_Row] = deque()
        self._inputs: deque[Inputs] = deque()
        self._searches: deque[tuple[Order, Ticket]] = deque()
        self._is_closing = False
        # The thread's own.
        self._rows: list[_Row] = []
        self._cache: Any = None
        self._thread = threading.Thread(target=self._work, name="batcher-generate", daemon=True)
        self.most_together = 0
        self.answered = 0

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End; what is running gets no answer."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._thread.join(timeout=_PATIENCE_S)

    def order(self, order: Order) -> Ticket:
        """Have an answer generated. It begins at the next step that has room."""
        ticket = Ticket()
        with self._wake:
            if order.sampling.num_beams > 1:
                self._searches.append((order, ticket))
            else:
                self._waiting.extend(_Row(self._choice(order, place), ticket) for place in range(order.choices))
            self._wake.notify()
        return ticket

    def embed(self, inputs: Inputs) -> None:
        """Have inputs embedded; between their steps the running choices take theirs."""
        with self._wake:
            self._inputs.append(inputs)
            self._wake.notify()

    def counts(self) -> dict[str, int]:
        """Return what runs, what waits and what has been, in choices."""
        with self._wake:
            waiting = len(self._waiting) + sum(order.choices for order, _ in self._searches)
        return {
            "running": len(self._rows),
            "waiting": waiting,
            "answered": self.answered,
            "most_together": self.most_together,
        }

    def _choice(self, order: Order, place: int) -> Choice:
        return Choice(order, place, self._model.tokenizer, self._model.ends)

    # --- in the thread ---

    def _work(self) -> None:
        with torch.inference_mode():
            while self._has_work():
                self._embed()
                self._turn()
                self._search()

    def _has_work(self) -> bool:
        """Wait for work; return False at the end."""
        with self._wake:
            self._wake.wait_for(
                lambda: self._is_closing or self._waiting or self._inputs or self._searches or self._rows
            )
            return not self._is_closing

    def _turn(self) -> None:
        """Let choices join, and take a step for all that are running."""
        try:
            self._join()
            self._step()
        except torch.OutOfMemoryError:
            self._shrink()
        except Exception as error:  # noqa: BLE001 - a fault of the model must not end the server: it is said, and told
            _fail(self._rows, error)
            self._rows, self._cache = [], None

    def _join(self) -> None:
        """Read the prompts of choices that wait, as far as there is room."""
        while new := self._next():
            try:
                cache, rows = self._read(new)
            except torch.OutOfMemoryError:
                self._put_back(new)
                raise
            except Exception as error:  # noqa: BLE001 - as in `_turn`
                _fail(new, error)
                continue
            if self._rows and rows:
                caches.join(self._cache, cache)
            elif rows:
                self._cache = cache
            self._rows += rows
            self.most_together = max(self.most_together, len(self._rows))

    def _put_back(self, rows: Sequence[_Row]) -> None:
        with self._wake:
            self._waiting.extendleft(reversed(rows))

    def _next(self) -> list[_Row]:
        """Take choices that fit beside those that are running, and whose prompts fit into one step."""
        new: list[_Row] = []
        longest = 0
        with self._wake:
            while self._waiting and len(self._rows) + len(new) < self.most:
                row = self._waiting[0]
                if not row.is_over:
                    longest = max(longest, row.choice.length)
                    if new and longest * (len(new) + 1) > _MOST_PROMPT:
                        break
                    new.append(row)
                self._waiting.popleft()
        return new

    def _read(self, rows: list[_Row]) -> tuple[Any, list[_Row]]:
        """Read prompts and choose the first token after each; equal ones are read once.

        Returns:
            Their cache, and the choices that go on.
        """
        prompts: dict[tuple[int, ...], int] = {}
        places = [prompts.setdefault(tuple(row.choice.ids), len(prompts)) for row in rows]
        longest = max(map(len, prompts))
        ids = torch.tensor([[*[0] * (longest - len(each)), *each] for each in prompts], device=self._model.device)
        cache = self._model.new_cache()
        logits = self._model.forward(ids, self._mask([len(each) for each in prompts]), cache)
        left = self._choose(logits[torch.tensor(places, device=logits.device)], rows)
        # The token just chosen is not in the cache yet.
        if left and (len(prompts) > 1 or places != [0] or len(left) < len(rows)):
            caches.keep(cache, [places[at] for at in left], max(rows[at].choice.length for at in left) - 1)
        return cache, [rows[at] for at in left]

    def _step(self) -> None:
        """Generate one token for each running choice."""
        self._drop([at for at, row in enumerate(self._rows) if not row.is_over])
        if not self._rows:
            return
        lengths = [row.choice.length for row in self._rows]
        ids = torch.tensor([[row.choice.answer[-1]] for row in self._rows], device=self._model.device)
        logits = self._model.forward(ids, self._mask(lengths), self._cache)
        self._drop(self._choose(logits, self._rows))

    def _mask(self, lengths: Sequence[int]) -> torch.Tensor:
        """1 for the tokens of each row, at its right end."""
        places = torch.arange(max(lengths), device=self._model.device)
        starts = max(lengths) - torch.tensor(lengths, device=self._model.device)
        return (places[None] >= starts[:, None]).long()

    def _choose(self, logits: torch.Tensor, rows: Sequence[_Row]) -> list[int]:
        """Choose a token for each row; return the places of those that go on."""
        for row, chosen in zip(rows, choose(logits, [row.choice.past for row in rows]), strict=True):
            row.choice.add(chosen, self._model.context)
            self.answered += row.choice.is_over
        return [at for at, row in enumerate(rows) if not row.is_over]

    def _drop(self, left: list[int]) -> None:
        """Keep the rows at these places."""
        if len(left) == len(self._rows):
            return
        self._rows = [self._rows[at] for at in left]
        if self._rows:
            caches.keep(self._cache, left, max(row.choice.length for row in self._rows) - 1)
        else:
            self._cache = None

    def _shrink(self) -> None:
        """After a lack of memory: let all begin again where they are, fewer at a time."""
        self._put_back(self._rows)
        self._rows, self._cache = [], None
        with self._wake:
            count = min(self.most, len(self._waiting))
            alone = self._waiting.popleft() if count == 1 else None
        if alone is not None:
            alone.choice.fail(_NO_MEMORY)
        else:
            self.most = count // 2
            say(f"The memory is full: {counted(self.most, 'choice')} at a time from now on.", "warning")
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _embed(self) -> None:
        while True:
            with self._wake:
                waiting = list(self._inputs)
                self._inputs.clear()
            waiting = [each for each in waiting if not each.is_over()]
            if not waiting:
                return
            embed(self._model, waiting, self._turn)

    def _search(self) -> None:
        """Make the first search with beams that waits; between its steps the running choices take theirs."""
        with self._wake:
            found = self._searches.popleft() if self._searches else None
        if found is None:
            return
        order, ticket = found
        choices = [self._choice(order, place) for place in range(order.choices)]

        def between() -> bool:
            self._embed()
            self._turn()
            return ticket.is_over or self._is_closing

        try:
            for choice, answer in zip(choices, search(self._model, order, between), strict=True):
                choice.fill(answer)
                self.answered += 1
        except torch.OutOfMemoryError:
            for choice in choices:
                choice.fail(_NO_MEMORY)
        except Exception as error:  # noqa: BLE001 - as in `_turn`
            _fail([_Row(choice, ticket) for choice in choices], error)


class _Row(NamedTuple):
    """A choice, and whether it is still wanted."""

    choice: Choice
    ticket: Ticket

    @property
    def is_over(self) -> bool:
        return self.choice.is_over or self.ticket.is_over


def _fail(rows: Sequence[_Row], error: Exception) -> None:
    print_err(traceback.format_exc())
    for row in rows:
        row.choice.fail(f"the model failed: {in_words(error)}")

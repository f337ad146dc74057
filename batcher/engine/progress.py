"""A run at work: its counters, and the task that shows them.

Invariant: showing reads counters and never slows a row down.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from batcher.engine.bar import State
from batcher.engine.displays import Display, chosen
from batcher.errors import in_words
from batcher.records import Status
from batcher.words import about

_RATE_OVER_S = 60.0
_SHORTEST_S = 0.1  # over less than this a rate says nothing


@dataclass
class Tally:
    """The counters of a run for its display, changed by its rows as they end.

    Attributes:
        sent: requests of this process; prompt_tokens, completion_tokens: of their answers, as far as servers report.
        cut: answers that were cut off at the most tokens that they may have.
        spent: nano-dollars for the answers of this process; None if a price is unknown.
        lines_out: lines of batches that are at a service.
        sent_before, spent_before: requests and nano-dollars of earlier processes.
        due: when the run shall be finished, and `end`, when it is expected to be, in seconds since the epoch; None: not
            given, not known.
        outlook: whether it will be finished in time (`deadline.Outlook`); empty if no time is given.
    """

    rows: int = 0
    ok: int = 0
    invalid: int = 0
    error: int = 0
    in_flight: int = 0
    oldest_s: float = 0.0
    waiting_for: str = ""
    sent: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    spent: int | None = None
    cut: int = 0
    lines_out: int = 0
    sent_before: int = 0
    spent_before: int | None = 0
    due: float | None = None
    end: float | None = None
    outlook: str = ""

    @property
    def done(self) -> int:
        return self.ok + self.invalid + self.error

    @property
    def left(self) -> int:
        """Rows that have no result yet."""
        return self.rows - self.done

    @property
    def cost(self) -> int | None:
        """Nano-dollars for the answers of all processes; None if a price is unknown."""
        return None if self.spent is None or self.spent_before is None else self.spent_before + self.spent

    def tokens_of(self, requests: int) -> int:
        """Return the model tokens that further requests may use, if they use as many as those so far."""
        return round((self.prompt_tokens + self.completion_tokens) * requests / max(self.sent, 1))

    def count(self, status: Status, rows: int = 1) -> None:
        """Count rows that have ended."""
        if status is Status.OK:
            self.ok += rows
        elif status is Status.INVALID:
            self.invalid += rows
        else:
            self.error += rows


@dataclass
class _Watch:
    """Looks at a tally now and then, and remembers the last minute."""

    keyword: str
    tally: Tally
    refresh: Callable[[], None]
    began: float
    looks: deque[tuple[float, int]] = field(default_factory=deque)
    stands_still: bool = False

    def state(self) -> State:
        """Return the run as it is now."""
        self.refresh()
        tally, now = self.tally, asyncio.get_running_loop().time()
        return State(
            keyword=self.keyword,
            rows=tally.rows,
            ok=tally.ok,
            invalid=tally.invalid,
            error=tally.error,
            requests=tally.sent_before + tally.sent,
            cost=tally.cost,
            tokens=tally.prompt_tokens + tally.completion_tokens,
            # Answers of batches come all at once: that is no rate.
            rate=0.0 if tally.lines_out else self._rate(now),
            in_flight=tally.in_flight,
            oldest_s=tally.oldest_s,
            waiting_for=tally.waiting_for,
            lines_out=tally.lines_out,
            elapsed_s=now - self.began,
            due=tally.due,
            end=tally.end,
            outlook=tally.outlook,
        )

    def _rate(self, now: float) -> float:
        """Return the rows a second since the last look that is a minute old, or since the first."""
        self.looks.append((now, self.tally.done))
        while len(self.looks) > 2 and self.looks[1][0] <= now - _RATE_OVER_S:
            self.looks.popleft()
        then, done = self.looks[0]
        return (self.tally.done - done) / (now - then) if now - then >= _SHORTEST_S else 0.0


class Progress:
    """Shows a run while it works, and its messages.

    Args:
        keyword: names the run.
        no_progress: no bar and no lines, messages only.
        quiet: no output at all.
        log_json: JSON lines instead of text.

    Attributes:
        shows_figures: the run is shown, not only its messages; or its messages have its figures beside them.
    """

    def __init__(self, keyword: str, *, no_progress: bool = False, quiet: bool = False, log_json: bool = False) -> None:
        self._keyword = keyword
        self.shows_figures = not quiet and (log_json or not no_progress)
        self._display = None if quiet else chosen(keyword, has_progress=not no_progress, is_json=log_json)
        about(keyword)
        self._watch: _Watch | None = None

    def say(self, message: str, level: str = "info") -> None:
        """Show a message to people.

        Args:
            message: to show.
            level: `info`, or `warning`: the run goes on, but somebody should look at it.
        """
        if self._display is not None:
            watch = self._watch
            self._display.say(message, level, None if watch is None or watch.stands_still else watch.state())

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Show messages alone while a person is asked a question: the bar would be drawn over it."""
        if watch := self._watch:
            watch.stands_still = True
        try:
            yield
        finally:
            if watch:
                watch.stands_still = False

    @contextlib.asynccontextmanager
    async def showing(self, tally: Tally, refresh: Callable[[], None]) -> AsyncIterator[None]:
        """Show a tally while the block runs.

        Args:
            tally: what to show.
            refresh: brings the tally's `in_flight`, `waiting_for` and `spent` up to date.
        """
        display = self._display
        if display is None:
            yield
            return
        loop = asyncio.get_running_loop()
        self._watch = watch = _Watch(self._keyword, tally, refresh, loop.time())
        shower = loop.create_task(_show(display, watch))
        try:
            yield
        finally:
            shower.cancel()
            [trouble] = await asyncio.gather(shower, return_exceptions=True)
            self._watch = None
            if isinstance(trouble, asyncio.CancelledError):
                display.close(watch.state())
            else:  # a library that draws in notebooks; the run itself does not suffer from it
                display.say(f"The progress could not be shown: {in_words(trouble)}", "warning", None)


async def _show(display: Display, watch: _Watch) -> NoReturn:
    while True:
        if not watch.stands_still:
            display.show(watch.state())
        await asyncio.sleep(display.every_s)

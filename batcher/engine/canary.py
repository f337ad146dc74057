"""The canary: looks at the answers to a few rows first, later at the latest ones, and stops a run that goes wrong.

Invariant: it only looks at results that are in the journal; whatever it decides, they are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import math
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from batcher.answer.labels import Labels
from batcher.answer.shape import Shape
from batcher.calls.forms import AS_IT_COMES
from batcher.engine.progress import Tally
from batcher.journal.reading import Reader
from batcher.money.tariff import Tariff
from batcher.money.tokens import ESTIMATE, prompt_tokens
from batcher.planning.costs import Load, costs_of, pace_of, tokens_of_an_answer
from batcher.planning.first import typical_answer
from batcher.planning.job import Job
from batcher.pool.pool import Pool
from batcher.records import GAVE_UP, Message, Result, Status
from batcher.settings import Settings
from batcher.words import counted, dollars, has_command_line, option, print_err, same_command

MOST_BAD = 0.25
"""The share of rows without a usable answer that is too large for a run."""
_DOUBT = 0.05
"""The chance that a run with just that share is stopped by one look at it."""

WINDOW = 500
"""The latest rows at which it looks while the run works, and the fewest for a judgement."""

WARNED = (
    "The canary has stopped this run before, and goes on now as it said; it looks at the latest"
    f" {WINDOW:,} answers as they come."
)
_STOPPED = "brought no usable answer"
_LONGEST_LINE = 4096  # bytes; terminals allow no longer one
_EXAMPLES = 3
_SHOWN = 160  # characters of an example
_MUCH = 2  # times the cost that the plan expects
_OFTEN = 3  # near misses of one label, from which on an alias is suggested


def may_be_asked(settings: Settings) -> bool:
    """Return whether somebody sits at a terminal and may be asked a question."""
    is_told_not_to = settings.yes or settings.quiet or settings.log_json
    at_terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty()
    return at_terminal and not is_told_not_to and has_command_line()


async def is_confirmed(question: str, over: asyncio.Event) -> bool:
    """Ask a question at the terminal; the answer is no unless somebody types yes before an event makes it needless."""
    print_err(f"{question} [y/N] ", end="")
    with _line_typed() as line:
        needless = asyncio.get_running_loop().create_task(over.wait())
        either: list[asyncio.Future[Any]] = [line, needless]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            needless.cancel()
        if not line.done():
            print_err("")
            return False
        return line.result().strip().lower() in {b"y", b"yes"}


@contextlib.contextmanager
def _line_typed() -> Iterator[asyncio.Future[bytes]]:
    """Read a line of the terminal meanwhile, past the buffer of `sys.stdin`, which a thread that waits would lock."""
    loop, number = asyncio.get_running_loop(), sys.stdin.fileno()
    line: asyncio.Future[bytes] = loop.create_future()

    def take(typed: bytes) -> None:
        if not line.done():
            line.set_result(typed)

    def wait() -> None:
        typed = _read_line(number)
        with contextlib.suppress(RuntimeError):  # the loop was closed: the run has ended without an answer
            loop.call_soon_threadsafe(take, typed)

    try:
        loop.add_reader(number, lambda: take(_read_line(number)))
    except NotImplementedError:  # Windows: the thread ends with the process, or with the next line
        threading.Thread(target=wait, daemon=True).start()
        yield line
        return
    try:
        yield line
    finally:
        loop.remove_reader(number)


def _read_line(number: int) -> bytes:
    try:
        return os.read(number, _LONGEST_LINE)
    except OSError:  # the terminal was closed
        return b""


def first_rows_in_words(job: Job, tally: Tally, pool: Pool, first: Sequence[Seen], *, is_first_pass: bool) -> str:
    """Return how the first rows ended, what the whole run will cost, and when it will be done.

    Args:
        job: the run.
        tally: counts its rows.
        pool: asks them.
        first: the rows.
        is_first_pass: the others go into batches, or where they are cheapest: their price and time are not known.
    """
    count = Counter(seen.result.status for seen in first)
    ended = ", ".join(f"{count[status]:,} {status.value}" for status in Status if count[status])
    said = f"The first {counted(len(first), 'row')}, drawn at random: {ended}."
    if is_first_pass:
        return said
    done = max(tally.done, 1)
    ahead = [f"cost about {dollars(round(tally.cost / done * tally.rows))}"] if tally.cost else []
    latency_s = max((member.latency_s for member in pool.members if member.answers), default=0.0)
    free_s = latency_s * tally.left / max(pool.capacity, 1)
    limit_s = pace_of(job.endpoints, Load(tally.left, tally.tokens_of(tally.left), None, 0.0)).seconds or 0.0
    done_at = time.strftime("%a %H:%M", time.localtime(time.time() + max(free_s, limit_s)))
    ahead.append(f"be done by {done_at} at the earliest")
    return f"{said} All {tally.rows:,} will {' and '.join(ahead)}."


@functools.cache
def fewest_bad(rows: int) -> int:
    """Return how many rows without a usable answer, of this many, stop a run: more than chance would bring.

    From that number on, the lower end of the one-sided 95% confidence interval of their share is above 25%. It is the
    exact interval of Clopper and Pearson (The use of confidence or fiducial limits illustrated in the case of the
    binomial, Biometrika 26, 1934): as many or more have a chance below 5% if the share is 25%.
    """
    chance, bad = 0.0, rows + 1
    while bad and chance < _DOUBT:
        bad -= 1
        ways = math.lgamma(rows + 1) - math.lgamma(bad + 1) - math.lgamma(rows - bad + 1)
        chance += math.exp(ways + bad * math.log(MOST_BAD) + (rows - bad) * math.log(1 - MOST_BAD))
    return bad + 1


def was_stopped(outcome: str) -> bool:
    """Return whether the outcome of a process says that a canary stopped it."""
    return _STOPPED in outcome


class Expectation:
    """What a plan expects that a request costs, made before the first answer of a run: later ones would count.

    Args:
        job: what the run asks, and whom.
        journal: holds the answers of earlier processes.
        sources: that are asked.
        tariffs: of the pool.
    """

    def __init__(self, job: Job, journal: Reader, sources: Sequence[int], tariffs: Sequence[Tariff]) -> None:
        self._tariffs = tariffs
        # By length: to load the tables of tiktoken takes longer than such a rough comparison deserves.
        count = ESTIMATE.seeing(job.endpoints[0].real_source.model)
        self._count = count.knowing(job.examples.texts if job.examples else ())
        typical = None if job.shape is None else ESTIMATE.count(typical_answer(job.shape)) + 1
        self._answer_tokens = tokens_of_an_answer(journal, sources, tariffs, typical)
        wire = next((wire for endpoint in job.endpoints for wire in job.ladder(endpoint)[:1]), AS_IT_COMES)
        self._more = ESTIMATE.count(json.dumps([*wire.params.values(), wire.line])) if wire.form else 0

    def of(self, questions: Sequence[Sequence[Message]]) -> int | None:
        """Return the nano-dollars of one of some requests; None if the length of answers, or a price, is unknown."""
        if not questions:
            return None
        tokens = sum(prompt_tokens(messages, self._count) + self._more for messages in questions)
        whole = costs_of(Load(len(questions), tokens, None, self._answer_tokens), self._tariffs, None, "").all
        return None if whole is None else round(whole / len(questions))


class Seen(NamedTuple):
    """A row that has ended.

    Attributes:
        position: of the row.
        result: how it ended.
    """

    position: int
    result: Result


class Canary:
    """The rows that a run asks first, and the latest ones afterwards.

    Args:
        shape: what answers must be; None: any text will do.

    Attributes:
        first: the first rows that have ended.
        failed_before: a bit for each row, the lowest first: 1 if an earlier answer to its question failed. The canary
            does not look at these rows: they are the hard ones, and say nothing of the others.
    """

    def __init__(self, shape: Shape | None) -> None:
        self.first: list[Seen] = []
        self.failed_before = bytearray()
        self._shape = shape
        self._latest: deque[Seen] = deque(maxlen=WINDOW)
        self._bad = 0

    def see_first(self, position: int, result: Result) -> None:
        """Record one of the rows that are asked first."""
        if not self._has_failed_before(position):
            self.first.append(Seen(position, result))

    def see(self, position: int, result: Result) -> str:
        """Record a row that has ended; return why the run should stop, or empty.

        Answers count that came and cannot be used. Rows without an answer cost nothing, and `pool.blame` decides what
        follows from them: a long stretch of rows that a service refuses must not end a night.
        """
        if result.status is Status.ERROR or self._has_failed_before(position):
            return ""
        latest = self._latest
        if len(latest) == WINDOW:
            self._bad -= latest[0].result.status is Status.INVALID
        latest.append(Seen(position, result))
        self._bad += result.status is Status.INVALID
        if len(latest) < WINDOW or self._bad < fewest_bad(WINDOW):
            return ""
        return self._trouble(latest, f"of the latest {WINDOW:,} answers")

    def _has_failed_before(self, position: int) -> bool:
        bits, byte = self.failed_before, position >> 3
        return byte < len(bits) and bool(bits[byte] >> (position & 7) & 1)

    def verdict(self) -> str:
        """Return why the run should stop after its first rows, or empty."""
        bad = sum(seen.result.status is not Status.OK for seen in self.first)
        return (
            self._trouble(self.first, f"of the first {counted(len(self.first), 'row')}, drawn at random,")
            if bad >= fewest_bad(len(self.first))
            else ""
        )

    def remarks(self, tally: Tally, expected: int | None) -> list[str]:
        """Return what is odd about the first rows although the run goes on.

        Args:
            tally: what they used.
            expected: nano-dollars that the plan expects of a request; None if it cannot know.
        """
        found = []
        ended = tally.sent - tally.in_flight
        if self._shape is None and tally.cut > MOST_BAD * ended:
            found.append(
                f"Note: {tally.cut:,} of {counted(ended, 'answer was', 'answers were')} cut off at the most tokens that"
                f" they may have; {option('param', {'max_tokens': '...'})} with a higher number allows longer ones."
            )
        if expected and tally.spent and tally.spent > _MUCH * expected * ended:
            found.append(
                f"Note: a request costs about {dollars(round(tally.spent / ended))}, more than twice the"
                f" {dollars(expected)} that the plan expects. Are the answers longer, or does the model think first?"
            )
        labels = Counter(seen.result.answer for seen in self.first if seen.result.status is Status.OK)
        if isinstance(self._shape, Labels) and len(labels) == 1 and len(self.first) > 1:
            [label] = labels
            found.append(f"Note: the answer to each of them is {label!r}. Is that what the prompt should bring?")
        return found

    def _trouble(self, rows: list[Seen] | deque[Seen], which: str) -> str:
        def by_position(seen: Seen) -> int:
            return seen.position

        bad = [seen for seen in rows if seen.result.status is not Status.OK]
        causes = Counter(seen.result.error.partition(GAVE_UP)[0] for seen in bad)
        fewest = f"{fewest_bad(len(rows)):,} or more of {len(rows):,} stop the run"
        lines = [f"{len(bad):,} {which} {_STOPPED}; {fewest}:"]
        lines += [f"  {count:,}: {cause}" for cause, count in causes.most_common(_EXAMPLES)]
        lines += [f"  {self._example(seen)}" for seen in sorted(bad, key=by_position)[:_EXAMPLES]]
        lines += [f"  {advice}" for advice in self._advice(bad)]
        return "\n".join(lines)

    def _example(self, seen: Seen) -> str:
        text = " ".join(seen.result.answer.split())
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        return (
            f"row {seen.position} (counted from 0): {shown!r}"
            if shown
            else (f"row {seen.position} (counted from 0): no answer")
        )

    def _advice(self, bad: list[Seen]) -> list[str]:
        """Return what may help, by the causes."""
        found = []
        near: Counter[tuple[str, str]] = Counter()
        if self._shape is not None:
            for seen in bad:
                if label := self._shape.near(seen.result.answer):
                    near[" ".join(seen.result.answer.split())[:_SHOWN], label] += 1
        for (text, label), count in near.most_common(_EXAMPLES):
            if count >= _OFTEN:
                found.append(f"{text!r} came {count:,} times: an alias of {label!r}?")
        said = " ".join(seen.result.error for seen in bad)
        if "max_tokens" in said:
            found.append(f"Answers were cut off: allow more tokens ({option('param', {'max_tokens': '...'})}).")
        if "refused" in said or "content filter" in said:
            found.append("Refusals: does the prompt ask for something that the model, or its service, does not answer?")
        if "only thought" in said or "while thinking" in said:
            found.append("The model thinks: allow more tokens, or switch thinking off.")
        found.append(
            f"Change the prompt, the model or the labels; or run it again: {same_command()} goes on all the same, and"
            f" looks at the latest {WINDOW:,} answers as they come ({option('canary', 0)}: at none)."
        )
        return found

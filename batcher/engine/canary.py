"""The canary: looks at the answers to a few rows first, later at the latest ones, and stops a run that goes wrong.

Invariant: it only looks at results that are in the journal; whatever it decides, they are kept.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

from batcher.answer.labels import Labels
from batcher.answer.shape import Shape
from batcher.engine.progress import Tally
from batcher.planning.costs import Load, pace_of
from batcher.planning.job import Job
from batcher.pool.pool import Pool
from batcher.records import GAVE_UP, Result, Status
from batcher.settings import Settings
from batcher.words import by_reader, counted, dollars, option

MOST_BAD = 0.25
"""The largest share of rows without a usable answer that a run goes on with."""

WINDOW = 500
"""The latest rows at which it looks while the run works, and the fewest for a judgement."""

_EXAMPLES = 3
_SHOWN = 160  # characters of an example
_OFTEN = 3  # near misses of one label, from which on an alias is suggested


def may_be_asked(settings: Settings) -> bool:
    """Return whether somebody sits at a terminal and may be asked a question."""
    is_told_not_to = settings.yes or settings.quiet or settings.log_json
    at_terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty()
    return at_terminal and not is_told_not_to and bool(by_reader(command_line="a person", python=""))


def wants_to_go_on(trouble: str) -> bool:
    """Show what is wrong, and ask at the terminal whether the run should go on."""
    sys.stderr.write(f"\n{trouble}\nGo on all the same? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def first_rows_in_words(job: Job, tally: Tally, pool: Pool, first: Sequence[Seen]) -> str:
    """Return how the first rows ended, what the whole run will cost, and when it will be done."""
    count = Counter(seen.result.status for seen in first)
    ended = ", ".join(f"{count[status]:,} {status.value}" for status in Status if count[status])
    said = f"The first {counted(len(first), 'row')}, drawn at random: {ended}."
    done = max(tally.done, 1)
    ahead = [f"cost about {dollars(round(tally.cost / done * tally.rows))}"] if tally.cost else []
    latency_s = max((member.latency_s for member in pool.members if member.answers), default=0.0)
    free_s = latency_s * tally.left / max(pool.capacity, 1)
    limit_s = pace_of(job.endpoints, Load(tally.left, tally.tokens_of(tally.left), None, 0.0)).seconds or 0.0
    done_at = time.strftime("%a %H:%M", time.localtime(time.time() + max(free_s, limit_s)))
    ahead.append(f"be done by {done_at} at the earliest")
    return f"{said} All {tally.rows:,} will {' and '.join(ahead)}."


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
    """

    def __init__(self, shape: Shape | None) -> None:
        self.first: list[Seen] = []
        self._shape = shape
        self._latest: deque[Seen] = deque(maxlen=WINDOW)
        self._bad = 0

    def see_first(self, position: int, result: Result) -> None:
        """Record one of the rows that are asked first."""
        self.first.append(Seen(position, result))

    def see(self, position: int, result: Result) -> str:
        """Record a row that has ended; return why the run should stop, or empty.

        Answers count that came and cannot be used. Rows without an answer cost nothing, and `pool.blame` decides what
        follows from them: a long stretch of rows that a service refuses must not end a night.
        """
        if result.status is Status.ERROR:
            return ""
        latest = self._latest
        if len(latest) == WINDOW:
            self._bad -= latest[0].result.status is Status.INVALID
        latest.append(Seen(position, result))
        self._bad += result.status is Status.INVALID
        if len(latest) < WINDOW or self._bad <= MOST_BAD * WINDOW:
            return ""
        return self._trouble(latest, f"of the latest {WINDOW:,} answers")

    def verdict(self) -> str:
        """Return why the run should stop after its first rows, or empty."""
        bad = sum(seen.result.status is not Status.OK for seen in self.first)
        return (
            self._trouble(self.first, f"of the first {counted(len(self.first), 'row')}, drawn at random,")
            if (bad > MOST_BAD * len(self.first))
            else ""
        )

    def remarks(self) -> list[str]:
        """Return what is odd about the first rows although the run goes on."""
        found = []
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
        lines = [f"{len(bad):,} {which} brought no usable answer; more than {MOST_BAD:.0%} stop the run:"]
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
            f"Change the prompt, the model or the labels; or let it go on with {option('canary', 0)}, which looks at"
            " nothing. What was answered is kept."
        )
        return found

"""Which rows wait in a batch, and which are asked online, so that a run is finished by a given time at the least cost.

Invariant: as long as the rows without an answer could be asked online in the time that is left, at the rate that is
known, rows stay where they are cheapest; no more is taken back from there than that needs, and no later.

The rule. Online requests are certain and dear, batches are cheap and come back when they come back. Let

- `free` be the rows that may be asked online now, and `out` the unanswered rows of each batch that is out,
- `rate` the rows a second that online requests answer, `harvest_s` the time from cancelling a batch until its rows may
  be asked, `tail_s` what the last rows may take longer than others, and `tick_s` the time until the next decision.

If batches that hold k rows are cancelled now, online requests have work for

    busy(k) = max(free / rate, harvest_s if k else 0) + k / rate.

The other rows, `rest` of them, can be cancelled later without a loss if online requests have work until those come
back, busy(k) >= harvest_s + tick_s, or if there is time to idle: max(busy(k), harvest_s + tick_s) + rest / rate +
tail_s <= left_s. The least number of batches for which one of both holds is cancelled, beginning with the one of which
the least is done. So batches are taken back one after the other, each just in time; and if the time cannot be kept at
all, online requests are never idle, and the batches that are left still go on.

Rows go into batches if they may stay there for `useful_s` before the rule would take them back: a batch that is
cancelled at once only costs time. If the time is so short that none may, all are asked online.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

HARVEST_S = 600.0
"""Seconds from cancelling a batch until its rows may be asked, before any was cancelled: a service may take up to ten
minutes (OpenAI's documentation of `cancelling`)."""
USEFUL_S = 600.0
"""The seconds for which a batch must be able to stay out, before the duration of any is known: few take less."""
TICK_S = 10.0
"""Seconds between two decisions."""
SAFETY = 0.8
"""The share of the rate known that is counted on: a service is slower at another hour."""
ASSUMED_RATE = 3.2
"""Answers a second before any came: 32 calls in flight, with which a run begins, of 10 seconds each."""
PROBES = 20
"""Rows that stay out of the batches to see how fast online requests are, if nothing tells."""
FLEX_SHARE = 1 / 3
"""The rate of the flex tier as a share of that of the usual one, before any of its answers came."""
PIECES = 10
"""Into how many batches the rows of a run are divided if some may have to be taken back."""
FEWEST_LINES = 100
"""Of a batch that is made smaller for that reason."""
_TAIL_S, _TAIL_SHARE = 60.0, 0.05
_MOST_MARGIN = 1 / 4  # of the whole time: for a short deadline, the margin is not most of it


class Pace(NamedTuple):
    """How fast rows can be asked online, and batches taken back.

    Attributes:
        rate: rows a second that online requests answer; 0 if none do.
        harvest_s: seconds from cancelling a batch until its rows may be asked.
        tail_s: seconds that the last rows may take longer.
        tick_s: seconds until the next decision.
    """

    rate: float
    harvest_s: float = HARVEST_S
    tail_s: float = 0.0
    tick_s: float = TICK_S

    def online_s(self, rows: float) -> float:
        """Return the seconds in which rows are answered online."""
        if not rows:
            return 0.0
        return rows / self.rate if self.rate > 0 else math.inf


class Work(NamedTuple):
    """The rows that have no answer yet.

    Attributes:
        free: rows that may be asked online now.
        out: the unanswered rows of each batch that is out, the one of which the least is done first.
        left_s: seconds until the rows must be answered; below 0 after that.
    """

    free: int
    out: tuple[int, ...]
    left_s: float

    @property
    def rows(self) -> int:
        return self.free + sum(self.out)

    def online_s(self, pace: Pace, batches: int | None = None) -> float:
        """Return the seconds in which online requests answer the free rows, and those of the first batches.

        Args:
            pace: how fast that is.
            batches: how many are cancelled now; default: all.
        """
        taken = self.out if batches is None else self.out[:batches]
        waits_s = pace.harvest_s if taken else 0.0
        return max(pace.online_s(self.free), waits_s) + pace.online_s(sum(taken))


def fits(work: Work, pace: Pace, batches: int) -> bool:
    """Return whether all but the first batches may stay out until the next decision."""
    rest = sum(work.out[batches:])
    if not rest:
        return True
    busy_s, soon_s = work.online_s(pace, batches), pace.harvest_s + pace.tick_s
    return busy_s >= soon_s or max(busy_s, soon_s) + pace.online_s(rest) + pace.tail_s <= work.left_s


def to_cancel(work: Work, pace: Pace) -> int:
    """Return how many batches, the first ones, must be cancelled now."""
    return next(count for count in range(len(work.out) + 1) if fits(work, pace, count))


def idle_s(work: Work, pace: Pace) -> float:
    """Return the seconds for which everything may stay as it is, if no batch comes back; 0 or less: act now."""
    if not work.rows:
        return math.inf
    soon_s = pace.harvest_s + pace.tick_s if work.out else 0.0
    busy_s = max(pace.online_s(work.free), soon_s)
    return work.left_s - pace.tail_s - busy_s - pace.online_s(sum(work.out))


def may_fill(rows: int, left_s: float, pace: Pace, useful_s: float = USEFUL_S) -> int:
    """Return how many rows may go into batches; the others are to be asked online at once.

    Args:
        rows: without an answer.
        left_s: seconds until they must be answered.
        pace: how fast rows are asked online.
        useful_s: seconds for which a batch must be able to stay out.
    """
    if pace.rate <= 0:  # nothing is known, and online requests cannot save anything
        return rows
    # They may stay because there is time to idle, or because online requests have other rows to ask meanwhile.
    by_time = pace.rate * (left_s - pace.tail_s - pace.harvest_s - pace.tick_s - useful_s)
    by_work = rows - pace.rate * (pace.harvest_s + pace.tick_s + useful_s)
    return max(0, min(rows, math.floor(max(by_time, by_work))))


def rate_needed(rows: int, left_s: float, pace: Pace, until_s: float = 0.0) -> float:
    """Return the rows a second that online requests must answer if no batch comes back.

    They have the time that is left when the batches are cancelled and have come back, and not the whole night.

    Args:
        rows: without an answer.
        left_s: seconds until they must be answered.
        pace: how long a batch takes to be cancelled.
        until_s: seconds for which batches may stay out; 0: online requests begin at once.
    """
    online_s = left_s - (until_s + pace.harvest_s + pace.tick_s if until_s else 0.0)
    return rows / online_s if online_s > 0 else math.inf


def lines_of_a_batch(rows: int) -> int:
    """Return the most lines that a batch shall have, so that a part of the rows can be taken back."""
    return max(FEWEST_LINES, math.ceil(rows / PIECES))


def tail_s(online_s: float, attempt_s: float, whole_s: float) -> float:
    """Return the margin for the last rows.

    It covers one attempt that ends by its timeout, and one more; a twentieth of the work; and a minute for the files.

    Args:
        online_s: seconds that online requests need for all rows.
        attempt_s: the most seconds that an attempt may take.
        whole_s: seconds from the start of the run until the rows must be answered.
    """
    wanted = _TAIL_S + attempt_s + (_TAIL_SHARE * online_s if math.isfinite(online_s) else 0.0)
    return max(0.0, min(wanted, _MOST_MARGIN * whole_s))


class Chance(NamedTuple):
    """How likely something is in time, by what was seen earlier.

    The share of earlier cases that would have been in time, with half a case added to either side: the mean under
    Jeffreys' prior Beta(1/2, 1/2) for a share. So a few cases never make anything certain.

    Attributes:
        in_time: earlier cases that would have been in time.
        seen: all of them; none: nothing is known.
    """

    in_time: int
    seen: int

    @property
    def value(self) -> float | None:
        """The chance from 0 to 1, or None if nothing is known."""
        return (self.in_time + 0.5) / (self.seen + 1) if self.seen else None

    @classmethod
    def that_at_most(cls, seconds: Sequence[float], most: float) -> Chance:
        """Return the chance that something takes at most so long, by how long it took before."""
        return cls(sum(each <= most for each in seconds), len(seconds))

    @classmethod
    def that_at_least(cls, rates: Sequence[float], least: float) -> Chance:
        """Return the chance that something is at least so fast, by how fast it was before."""
        return cls(sum(each >= least for each in rates), len(rates))


def either(batches: Chance, online: Chance) -> float | None:
    """Return the chance that batches alone are in time, or online requests are instead; None if nothing is known.

    Both are taken as independent of each other. If one is not known, it counts as 0: then it is the least chance.
    """
    known = [each.value for each in (batches, online) if each.value is not None]
    return 1 - math.prod(1 - each for each in known) if known else None

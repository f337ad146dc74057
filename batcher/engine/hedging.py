"""Decides which requests are late, and whether a second one may be made about their rows (`--hedge`).

Invariant: of all requests that leave, at most one in 21 is a second one: 5% more than without. It holds no more than a
few numbers of each request under way, and of the latest answers of each source.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import math
from bisect import bisect_left, insort
from collections.abc import Callable
from typing import NamedTuple

from batcher.settings import HEDGED_OF
from batcher.words import counted

Kind = tuple[int, str | None, str]
"""What latencies depend on: the id of the source, the form in which it is asked, and the service tier."""

# The latest answers by which it is known what is late, and the fewest.
_LATEST = 1024
_FEWEST = 30
# Seconds by which a timer of the event loop may fire early.
_EARLY_S = 1e-6


class Latencies:
    """The percentile of the latest latencies, which follows them as they drift over a night.

    It is the nearest-rank percentile of a sliding window, kept in order. A request that was overtaken has shown that
    its latency is at least as long as it was out. That counts like a latency: without it, the slow answers, of which
    most are overtaken, would be missing, and ever more requests would seem late.

    Args:
        percentile: from 50 to under 100.
    """

    def __init__(self, percentile: float) -> None:
        self._share = percentile / 100
        self._enough = min(max(_FEWEST, math.ceil(1 / (1 - self._share) - 1e-9)), _LATEST)
        self._latest: collections.deque[float] = collections.deque()
        self._in_order: list[float] = []

    def add(self, seconds: float) -> None:
        """Record the latency of an answer."""
        if len(self._latest) == _LATEST:
            del self._in_order[bisect_left(self._in_order, self._latest.popleft())]
        self._latest.append(seconds)
        insort(self._in_order, seconds)

    @property
    def late_s(self) -> float:
        """The seconds after which an answer is late; infinite until enough are known."""
        count = len(self._in_order)
        return self._in_order[math.ceil(self._share * count) - 1] if count >= self._enough else math.inf


class _Out(NamedTuple):
    """A request under way.

    Attributes:
        since: the loop's time at which it left, or at which it was late and no second request could be made.
        begin: makes a second request about its rows.
    """

    since: float
    begin: Callable[[], None]


class _Alike:
    """The requests to one source in one form: how long their answers take, and those that are under way, in order."""

    def __init__(self, percentile: float) -> None:
        self.latencies = Latencies(percentile)
        self.out: dict[int, _Out] = {}
        self.timer: asyncio.TimerHandle | None = None


class Hedges:
    """Second requests about rows whose answer is late; the first answer of the two counts.

    These are the "hedged requests" of Dean and Barroso, "The Tail at Scale" (Communications of the ACM, 2013): a second
    request that leaves only when the first has been out for longer than most take shortens the tail at the cost of a
    few requests. Here they mostly leave at the end of a run: before, rows wait for each slot. So the share that they
    may have is saved for that: as long as rows are left, one second request for each request in flight stays unused.

    Args:
        percentile: of the latencies of a source and form; an answer that takes longer is late.
        rows_left: returns the number of rows that have not been asked.
        in_flight: returns the number of requests under way.
        shortest_s: seconds before which no answer is late. What other processes tell comes in groups: a shorter wait
            would measure these, and not the service.

    Attributes:
        made: second requests that left.
        won: those of them whose answer counts.
    """

    def __init__(
        self, percentile: float, rows_left: Callable[[], int], in_flight: Callable[[], int], shortest_s: float = 0.0
    ) -> None:
        self.made = 0
        self.won = 0
        self._shortest_s = shortest_s
        self._percentile = percentile
        self._rows_left = rows_left
        self._in_flight = in_flight
        self._others = 0
        self._alike: dict[Kind, _Alike] = {}
        self._loop = asyncio.get_running_loop()

    @property
    def may_begin(self) -> bool:
        """Whether one more second request may leave now."""
        saved = self._in_flight() if self._rows_left() > 0 else 0
        return (self.made + 1 + saved) * HEDGED_OF <= self._others

    def in_words(self) -> str:
        """Return what came of them; empty if there were none."""
        if not self.made:
            return ""
        requests = counted(self.made, "late request was", "late requests were")
        return f"{requests} made a second time, at another endpoint; {self.won:,} of the second answers came first."

    def left(self, kind: Kind, request: int, begin: Callable[[], None]) -> None:
        """Record that a first request left.

        Args:
            kind: of the request.
            request: its id.
            begin: is called when its answer is late.
        """
        self._others += 1
        self._await(self._of(kind), request, begin)

    def again(self, kind: Kind, request: int, begin: Callable[[], None]) -> None:
        """Let a second request be tried again later: its share was used up, or there was no money for it."""
        self._await(self._of(kind), request, begin)

    def ended(self, kind: Kind, request: int, seconds: float | None = None) -> None:
        """Record that a first request ended.

        Args:
            kind: of the request.
            request: its id.
            seconds: until its answer came, or until another answer overtook it; None: it brought none.
        """
        alike = self._of(kind)
        alike.out.pop(request, None)
        if seconds is not None:
            alike.latencies.add(seconds)
            if alike.timer is None:
                self._set_timer(alike)

    def _of(self, kind: Kind) -> _Alike:
        if (alike := self._alike.get(kind)) is None:
            alike = self._alike[kind] = _Alike(self._percentile)
        return alike

    def _await(self, alike: _Alike, request: int, begin: Callable[[], None]) -> None:
        alike.out[request] = _Out(self._loop.time(), begin)
        if alike.timer is None:
            self._set_timer(alike)

    def _set_timer(self, alike: _Alike) -> None:
        """Let the oldest request be looked at when it is late."""
        late_s = max(alike.latencies.late_s, self._shortest_s)
        if alike.out and late_s < math.inf:
            oldest = next(iter(alike.out.values()))
            alike.timer = self._loop.call_at(oldest.since + late_s, self._look, alike)

    def _look(self, alike: _Alike) -> None:
        """Begin a second request beside each that is late."""
        alike.timer = None
        late_s, now = max(alike.latencies.late_s, self._shortest_s), self._loop.time()
        late = [*itertools.takewhile(lambda each: each[1].since + late_s <= now + _EARLY_S, alike.out.items())]
        for request, out in late:
            del alike.out[request]
            if self.may_begin:
                out.begin()
            else:
                self._await(alike, request, out.begin)
        if alike.timer is None:
            self._set_timer(alike)

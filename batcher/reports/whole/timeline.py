"""What happened over time, in a few hundred bins; and how long answers took.

Invariant: the time between two processes is left out, and a clock that was set back breaks nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from batcher.journal.times import ANSWERED, FAILED, FURTHER, LIMITED, Event, Moments, Process
from batcher.reports.whole.facts import Begun, Pause, Timeline

BINS = 240
"""At most, in a picture over time."""
HISTOGRAM = 48
"""Bins of a picture of latencies."""
_MOST_MARKS = 60
"""Pauses, and further processes, of a picture."""
_SHORTEST_S = 0.001


class WorkTime:
    """Puts the times at work of several processes one behind the other.

    Args:
        processes: that worked on the run, in their order.
        moments: of their requests.
        now: the end of a process that is at work; None: none is.
    """

    def __init__(self, processes: Sequence[Process], moments: Moments, now: float | None) -> None:
        latest = _latest_of(moments)
        self._starts: dict[int, tuple[float, float, float]] = {}  # where it begins here, its start and its end
        place = 0.0
        asked = [each for each in processes if each.id in latest]
        for each in asked:
            first, last = latest[each.id]
            start = min(each.started, first)
            end = each.ended if each.ended is not None else now if now and each is asked[-1] else last
            end = max(end, last, start)
            self._starts[each.id] = (place, start, end)
            place += end - start
        self.seconds = place

    def __bool__(self) -> bool:
        return bool(self._starts)

    def of(self, run: int, at: float) -> float | None:
        """Return when something happened; None if its process sent nothing."""
        if run not in self._starts:
            return None
        place, start, end = self._starts[run]
        return place + min(max(at, start), end) - start

    def end_of(self, run: int) -> float:
        place, start, end = self._starts[run]
        return place + end - start

    def begun(self) -> Iterator[Begun]:
        """Yield when further processes began."""
        for place, start, _ in [*self._starts.values()][1:]:
            yield Begun(place, start)

    def placed(self, runs: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Return when requests were sent, or ended; not a number stays so."""
        shift = np.full(max(self._starts) + 1, np.nan)
        for run, (place, start, _) in self._starts.items():
            shift[run] = place - start
        known = (runs >= 0) & (runs < len(shift))
        return np.where(known, at + shift[np.where(known, runs, 0)], np.nan)


def _latest_of(moments: Moments) -> Mapping[int, tuple[float, float]]:
    """Return the first and the last moment of each process that sent something."""
    found: dict[int, tuple[float, float]] = {}
    if not len(moments):
        return found
    runs, places = np.unique(moments["run"], return_inverse=True)
    first, last = np.full(len(runs), np.inf), np.full(len(runs), -np.inf)
    np.minimum.at(first, places, moments["sent"])
    np.maximum.at(last, places, np.fmax(moments["sent"], moments["ended"]))
    return {int(run): (float(a), float(b)) for run, a, b in zip(runs, first, last, strict=True)}


def timeline_of(work: WorkTime, moments: Moments, events: Sequence[Event]) -> Timeline | None:
    """Return what happened over time; None if nothing was sent."""
    if not work or not len(moments):
        return None
    seconds = max(work.seconds, _SHORTEST_S)
    bins = max(1, min(BINS, round(seconds / 0.1)))
    edges = np.linspace(0.0, seconds, bins + 1)
    width = seconds / bins
    runs, how = moments["run"], moments["how"]
    ended = np.clip(work.placed(runs, moments["ended"]), 0.0, seconds)
    sent = np.clip(work.placed(runs, moments["sent"]), 0.0, seconds)
    kind, is_first = how % FURTHER, how < FURTHER
    rates = [
        tuple((np.histogram(ended[which & ~np.isnan(ended)], edges)[0] / width).round(4).tolist())
        for which in (kind == ANSWERED, (kind == LIMITED) & is_first, (kind == FAILED) & is_first)
    ]
    # A request without an end is in flight to the end of its process, as far as is known.
    until = np.where(np.isnan(ended), _ends(work, runs), ended)
    in_flight = np.diff(_overlap(sent[is_first], edges) - _overlap(until[is_first], edges)) / width
    pauses, begun = [*_pauses(work, events)], [*work.begun()]
    return Timeline(
        seconds=seconds,
        width=width,
        answered=rates[0],
        in_flight=tuple(np.maximum(in_flight, 0.0).round(3).tolist()),
        limited=rates[1],
        failed=rates[2],
        pauses=tuple(sorted(pauses, key=lambda each: each.start - each.end)[:_MOST_MARKS]),
        begun=tuple(begun[:_MOST_MARKS]),
    )


def _ends(work: WorkTime, runs: np.ndarray) -> np.ndarray:
    known, places = np.unique(runs, return_inverse=True)
    return np.array([work.end_of(int(run)) for run in known])[places]


def _overlap(starts: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return, for each edge, the sum of the times from these moments to it."""
    ordered = np.sort(starts[~np.isnan(starts)])
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    before = np.searchsorted(ordered, edges, side="right")
    return edges * before - sums[before]


def _pauses(work: WorkTime, events: Sequence[Event]) -> Iterator[Pause]:
    """Yield when an endpoint, or people, paused a process."""
    open_: dict[tuple[int, str], tuple[float, str]] = {}
    for each in events:
        by_hand = each.kind.endswith("by hand")
        who = (each.run, "by hand" if by_hand else each.subject)
        at = work.of(each.run, each.at)
        if at is None:
            continue
        if each.kind.startswith("paused"):
            open_.setdefault(who, (at, each.detail))
        elif begun := open_.pop(who, None):
            yield Pause(begun[0], at, who[1], begun[1])
    for (run, name), (at, why) in open_.items():
        yield Pause(at, work.end_of(run), name, why)


class Latencies:
    """How long answers took, by source.

    Args:
        moments: of all requests.
    """

    def __init__(self, moments: Moments) -> None:
        answered = moments[moments["how"] == ANSWERED]
        took = answered["ended"] - answered["sent"]
        good = np.isfinite(took) & (took >= 0)
        self._took, self._sources = np.maximum(took[good], 1e-6), answered["source"][good]
        self.shortest = self.longest = 0.0
        if len(self._took):
            self.shortest, self.longest = self._ends()

    def _ends(self) -> tuple[float, float]:
        low, high = float(np.quantile(self._took, 0.001)), float(self._took.max())
        low = max(low, high / 1e5)
        return (low, high) if high > low * 1.5 else (low / 1.5, high * 1.5)

    def of(self, source: int) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Return p50, p90, p95, p99 and the most, in seconds; and a histogram between `shortest` and `longest`."""
        took = self._took[self._sources == source]
        if not len(took):
            return (), ()
        quantiles = (*np.quantile(took, (0.5, 0.9, 0.95, 0.99)).tolist(), float(took.max()))
        edges = np.geomspace(self.shortest, self.longest, HISTOGRAM + 1)
        counts = np.histogram(np.clip(took, self.shortest, self.longest), edges)[0]
        return tuple(round(each, 4) for each in quantiles), tuple(counts.tolist())

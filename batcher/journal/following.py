"""Follows a run at work: its rows by status, its requests in flight and its money, from what a journal has got anew.

Invariant: it only reads, and a look costs what has happened since the one before, not what the journal holds. If
that cannot be known (another run has begun), everything is counted again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

from batcher.journal.batches import IS_LINE_OUT
from batcher.journal.entries import Counts
from batcher.journal.reading import PAID, Reader
from batcher.journal.schema import IN_SCOPE, exact_sum, whole
from batcher.records import Status

RATE_OVER_S = 60.0
_MOST_NEW = 50_000
"""Requests that ended since the last look; if there are more, counting everything again is faster."""
_RECENT = 20_000  # requests from which the first rate is taken

_ENDED = f"SELECT q.id, q.ended IS NOT NULL, q.batch IS NULL OR q.batch = q.id, ({PAID}) IS TRUE, q.cost"
_BY_STATUS = "SELECT a.status, count(*) FROM results a JOIN requests q ON q.id = a.id"
_OWN = f"{_BY_STATUS} JOIN rows r ON r.position = q.position AND r.result = a.id WHERE a.id IN ({{}})"
# Rows that are not sent, because an earlier one has the same question.
_OF_FOLLOWERS = (
    f"{_BY_STATUS} JOIN same s ON s.leader = q.position JOIN rows r ON r.position = s.position AND r.result = a.id"
    " WHERE a.id IN ({})"
)
_REPLACED = (
    "SELECT b.status, c.status, count(*) FROM results c LEFT JOIN rereads w ON w.id = c.id"
    " LEFT JOIN results b ON b.id = w.before WHERE c.id < ? GROUP BY 1, 2"
)


class Followed(NamedTuple):
    """The state of a run by its journal.

    Attributes:
        counts: rows by status.
        rate: rows that got their result, a second, over the last minute.
        in_flight: requests of the run without an end.
        cost: nano-dollars for the answers of all runs; None if the price of some is unknown.
    """

    counts: Counts
    rate: float
    in_flight: int
    cost: int | None


class Follower:
    """Looks at a journal again and again, and adds up what is new."""

    def __init__(self) -> None:
        self._of: tuple[int, float] | None = None
        self._rows = 0
        self._ended: Counter[str] = Counter()
        self._open: dict[int, bool] = {}  # requests without an end; whether it is the first row of its request
        self._last = self._lowest = 0
        self._cost = self._unpriced = 0
        self._seen: deque[tuple[float, int]] = deque()  # moments, and the rows that had a result then
        self._batches = (0, 0)

    def look(self, journal: Reader, run: int, started: float, now: float) -> Followed:
        """Return the present state.

        Args:
            journal: opened for this look; the caller holds a snapshot.
            run: the latest process that worked on it.
            started: when it began.
            now: seconds since the epoch.

        Raises:
            OutputError: the journal cannot be read.
        """
        if self._of != (run, started) or not self._add_new(journal, run):
            self._count_all(journal, run, now)
            self._of = run, started
        done = self._ended.total()
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - RATE_OVER_S:
            self._seen.popleft()
        since, had = self._seen[0]
        rate = max(done - had, 0) / (now - since) if now > since else 0.0
        ended = (self._ended[each.value] for each in (Status.OK, Status.INVALID, Status.ERROR))
        cost = None if self._unpriced else self._cost
        return Followed(Counts(self._rows, *ended), rate, sum(self._open.values()), cost)

    def _count_all(self, journal: Reader, run: int, now: float) -> None:
        counts = journal.counts()
        self._rows, self._batches = counts.rows, _batches(journal)
        self._ended = Counter(ok=counts.ok, invalid=counts.invalid, error=counts.error)
        query = (
            f"SELECT coalesce(max(id), 0), {exact_sum('cost', PAID)},"
            f" count(*) FILTER (WHERE {PAID} AND cost IS NULL) FROM requests"
        )
        [(self._last, upper, lower, self._unpriced)] = journal.stream(query)
        self._cost = whole(upper, lower)
        self._lowest = _lowest(journal)
        open_ = journal.stream(
            "SELECT id, batch IS NULL OR batch = id FROM requests WHERE ended IS NULL AND run = ? AND sent_in IS NULL",
            (run,),
        )
        self._open = {number: bool(is_first) for number, is_first in open_}
        self._seen.clear()
        query = "SELECT count(*), min(sent) FROM requests WHERE id > ? AND ended > ? AND run = ? AND sent_in IS NULL"
        [(ended, sent)] = journal.stream(query, (self._last - _RECENT, now - RATE_OVER_S, run))
        if ended and sent < now:
            since = max(sent, now - RATE_OVER_S)
            self._seen.append((since, self._ended.total() - min(ended, self._ended.total())))

    def _add_new(self, journal: Reader, run: int) -> bool:
        """Add what is new; return False if everything is to be counted again."""
        [(rows,)] = journal.stream("SELECT coalesce(max(rows), 0) FROM scope")
        if rows != self._rows or _batches(journal) != self._batches:
            return False
        new = "q.id > ? AND q.run = ? AND q.sent_in IS NULL"
        query = f"{_ENDED} FROM requests q WHERE {new} ORDER BY q.id LIMIT {_MOST_NEW + 1}"
        lines = [*journal.stream(query, (self._last, run))]
        if len(lines) > _MOST_NEW:
            return False
        self._last = max((number for number, *_ in lines), default=self._last)
        of_open = f"{_ENDED} FROM requests q WHERE q.id IN ({{}}) AND q.ended IS NOT NULL"
        lines += journal.look_up(of_open, [*self._open])
        ended = []
        for number, is_ended, is_first, is_paid, cost in lines:
            if not is_ended:
                self._open[number] = bool(is_first)
                continue
            self._open.pop(number, None)
            ended.append(number)
            if is_paid:
                self._cost += cost or 0
                self._unpriced += cost is None
        self._add_results(journal, ended)
        self._add_replaced(journal)
        return True

    def _add_results(self, journal: Reader, ended: Sequence[int]) -> None:
        """Count the rows whose results these requests brought."""
        for query in (_OWN, _OF_FOLLOWERS):
            for status, rows in journal.look_up(f"{query} AND r.{IN_SCOPE} GROUP BY 1", ended):
                self._ended[status] += rows

    def _add_replaced(self, journal: Reader) -> None:
        """Count the rows that people have given another answer, or that got back the one before."""
        lowest = _lowest(journal)
        if lowest >= self._lowest:
            return
        for before, after, rows in journal.stream(_REPLACED, (self._lowest,)):
            self._ended[after] += rows
            if before is not None:
                self._ended[before] -= rows
        self._lowest = lowest


def _batches(journal: Reader) -> tuple[int, int]:
    """Return how many batches there are, and how many requests in those that are not over have no end."""
    lines = f"SELECT count(*) FROM requests q WHERE {IS_LINE_OUT}"
    [found] = journal.stream(f"SELECT (SELECT count(*) FROM batches), ({lines})")
    return found[0], found[1]


def _lowest(journal: Reader) -> int:
    """Return the lowest id of a result: those of people count down."""
    [(lowest,)] = journal.stream("SELECT min(0, coalesce(min(id), 0)) FROM results")
    return int(lowest)

"""The requests of a journal over time, and what they used: for pictures of a run, and for its money.

Invariant: a request that several rows share counts once, and each of its rows counts as a row; nothing is held but a
few numbers of each request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from batcher.journal.entries import HEDGED, PLANNED, WORKER_LOST
from batcher.journal.reading import WAS_ASKED, Reader, question_of
from batcher.journal.schema import exact_sum, text_of, whole
from batcher.records import Source

OUT, ANSWERED, LIMITED, FAILED, OVERTAKEN, AT_LOST_WORKER, FURTHER = 0, 1, 2, 3, 4, 5, 8
"""How a request ended: it did not, it was answered, refused as too many (429) or because its service tier had no
capacity, failed, was overtaken by another, or was out at a worker that was lost; `FURTHER` is added for a line that
shares the request of another."""

_ENDED = (
    "CASE WHEN outcome IS NULL THEN 0 WHEN outcome IN ('answered', 'unfit', 'too large') THEN 1"
    f" WHEN outcome IN ('429', 'no capacity') THEN 2 WHEN outcome = '{HEDGED}' THEN 4"
    f" WHEN outcome = '{WORKER_LOST}' THEN 5 ELSE 3 END"
)
_MOST_EVENTS = 2000
_MOST_PROCESSES = 100_000

Moments = np.ndarray[Any, np.dtype[np.void]]
_MOMENT = np.dtype([("run", "i4"), ("source", "i4"), ("sent", "f8"), ("ended", "f8"), ("how", "u1")])


def moments(journal: Reader) -> Moments:
    """Return process, source, moments and end of each line of `requests`; an end that is not there is not a number.

    What was sent in batches is not among them: it waits for hours, without a process.
    """
    lines = journal.stream(
        f"SELECT run, source, sent, coalesce(ended, 1e999), {_ENDED} + iif(batch IS NULL OR batch = id, 0, {FURTHER})"
        f" FROM requests WHERE {WAS_ASKED} AND sent_in IS NULL"
    )
    found = np.fromiter(lines, _MOMENT)
    found["ended"][np.isinf(found["ended"])] = np.nan
    return found


class Used(NamedTuple):
    """What the requests of one process to one source, with one outcome, used.

    Attributes:
        run, source: `runs.id` and `sources.id`.
        outcome: as in `requests`; None: they have no end.
        requests: their number.
        rows: the lines that they have.
        prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens: as far as they are known.
        cost: nano-dollars, as far as they are known; of requests without an answer what they may cost at most.
        unpriced: requests without a known price.
    """

    run: int
    source: int
    outcome: str | None
    requests: int
    rows: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost: int
    unpriced: int

    @property
    def is_answered(self) -> bool:
        return self.outcome in {"answered", "unfit", "too large"}

    @property
    def is_failed(self) -> bool:
        return not self.is_answered and self.outcome not in {None, HEDGED, WORKER_LOST}


def used(journal: Reader) -> list[Used]:
    """Return what requests used, by process, source and outcome."""
    first = "(batch IS NULL OR batch = id)"
    tokens = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
    sums = ", ".join(f"coalesce(sum({each}), 0)" for each in tokens)
    lines = journal.stream(
        f"SELECT run, source, outcome, count(*) FILTER (WHERE {first}), count(*), {sums},"
        f" count(*) FILTER (WHERE {first} AND cost IS NULL), {exact_sum('cost')}"
        f" FROM requests WHERE {WAS_ASKED} GROUP BY run, source, outcome ORDER BY run, source, outcome"
    )
    return [
        Used._make((run, source, outcome, *counts, whole(upper, lower), unpriced))
        for run, source, outcome, *counts, unpriced, upper, lower in lines
    ]


def sources(journal: Reader) -> dict[int, Source]:
    """Return the sources by their ids."""
    lines = journal.stream("SELECT id, model, base_url, params FROM sources ORDER BY id")
    return {number: Source(text_of(model), text_of(url), text_of(params)) for number, model, url, params in lines}


class Process(NamedTuple):
    """A process that worked on the run; moments are seconds since the epoch.

    Attributes:
        ended: None: it is at work, or was killed.
        outcome: how it ended, empty if that is not known.
        question: what it asked.
        planned: what it recorded before its first request; empty if it did not.
    """

    id: int
    host: str
    pid: int
    started: float
    ended: float | None
    outcome: str
    question: Mapping[str, Any]
    planned: Mapping[str, Any]


def processes(journal: Reader) -> list[Process]:
    """Return the processes that worked on the run, the first one first."""
    lines = journal.stream(
        "SELECT r.id, r.host, r.pid, r.started, r.ended, r.outcome, r.question, (SELECT e.detail FROM events e"
        f" WHERE e.run = r.id AND e.kind = '{PLANNED}' ORDER BY e.id LIMIT 1) FROM runs r ORDER BY r.id DESC"
        f" LIMIT {_MOST_PROCESSES}"
    )
    found = [
        Process(number, str(host), pid, started, ended, text_of(outcome or ""), question_of(question), _planned(detail))
        for number, host, pid, started, ended, outcome, question, detail in lines
    ]
    return found[::-1]


def _planned(detail: Any) -> Mapping[str, Any]:
    """Return what a process recorded; nothing if it is not what this version writes."""
    try:
        found = json.loads(text_of(detail)) if detail else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Event(NamedTuple):
    """What happened in a run; `subject` and `detail` are as in the table `events`."""

    run: int
    at: float
    kind: str
    subject: str
    detail: str


def pauses(journal: Reader) -> list[Event]:
    """Return when endpoints or people paused the run, and when it went on: the latest of them, in order."""
    lines = journal.stream(
        "SELECT run, at, kind, subject, detail FROM events"
        " WHERE kind IN ('paused', 'resumed', 'paused by hand', 'resumed by hand')"
        f" ORDER BY id DESC LIMIT {_MOST_EVENTS}"
    )
    found = [Event(run, at, kind, text_of(subject), text_of(detail)) for run, at, kind, subject, detail in lines]
    return found[::-1]

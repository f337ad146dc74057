"""How fast earlier requests were answered, how long batches took, and by when a run was to be finished.

Invariant: what it returns is what happened; whoever counts on it adds the margin.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import NamedTuple

from batcher.journal.entries import DUE, FORECAST, Batch, BatchState
from batcher.journal.reading import Reader
from batcher.journal.schema import text_of

_SPAN_S = 300
_LATEST = 100_000  # requests that are looked at: of a long run, its last hours
_MOST_SPANS = 200
_FEWEST = 10  # answers in a span that is counted; in a run's last minutes few rows are left to ask


class Noted(NamedTuple):
    """The moment by which an earlier process was to be finished.

    Attributes:
        given: as the user gave it.
        at: seconds since the epoch.
        is_done: the process was finished, so that the next one has a moment of its own.
    """

    given: str
    at: float
    is_done: bool


def noted(journal: Reader) -> Noted | None:
    """Return the moment by which the latest process that had one was to be finished, if there is one."""
    query = (
        "SELECT e.subject, e.detail, (SELECT outcome FROM runs ORDER BY id DESC LIMIT 1) FROM events e"
        " WHERE e.kind = ? ORDER BY e.id DESC LIMIT 1"
    )
    for given, detail, outcome in journal.stream(query, (DUE,)):
        try:
            at = float(json.loads(text_of(detail))["at"])
        except (ValueError, TypeError, LookupError):  # a disk has changed it
            return None
        return Noted(text_of(given), at, outcome is not None and text_of(outcome) == "done")
    return None


class Foreseen(NamedTuple):
    """What a process said of its end.

    Attributes:
        due: when it shall be finished, in seconds since the epoch.
        end: when its last row was expected; None: not known.
        state: `in time`, `by batch`, `late`; empty: nothing was said yet.
        text: the same in words.
    """

    due: float
    end: float | None = None
    state: str = ""
    text: str = ""


def foreseen(journal: Reader, run: int) -> Foreseen | None:
    """Return what a process said last of its end; None if it has no time to be finished by."""
    found: Foreseen | None = None
    query = "SELECT kind, detail FROM events WHERE run = ? AND kind IN (?, ?) ORDER BY id"
    for kind, detail in journal.stream(query, (run, DUE, FORECAST)):
        try:
            said = json.loads(text_of(detail))
            if text_of(kind) == DUE:
                found = Foreseen(float(said["at"]))
            elif found:
                end = said["end"]
                found = Foreseen(found.due, None if end is None else float(end), str(said["state"]), str(said["text"]))
        except (ValueError, TypeError, LookupError):  # a disk has changed it
            continue
    return found


def rates_of(journal: Reader, sources: Collection[int]) -> list[float]:
    """Return how many online requests a second were answered, in spans of five minutes, the latest first.

    Args:
        journal: of the run.
        sources: ids of those that are asked.
    """
    among = ", ".join("?" * len(sources))
    query = (
        "SELECT count(*), max(ended) - min(sent) FROM requests"
        " WHERE id > (SELECT coalesce(max(id), 0) FROM requests) - ? AND outcome IN ('answered', 'unfit')"
        f" AND sent_in IS NULL AND (batch IS NULL OR batch = id) AND source IN ({among})"
        f" GROUP BY run, CAST(ended / {_SPAN_S} AS INTEGER) ORDER BY max(id) DESC LIMIT ?"
    )
    found = [*journal.stream(query, (_LATEST, *sources, _MOST_SPANS))]
    return [count / seconds for count, seconds in found if count >= _FEWEST and seconds > 0]


class Took(NamedTuple):
    """How long batches were out, in seconds, and whether all were finished; else one expired or was cancelled."""

    seconds: float
    is_finished: bool


def durations(journal: Reader) -> list[Took]:
    """Return how long each batch was out, the latest first."""
    ended = (each for each in reversed(journal.batches(is_open=False)) if each.state is BatchState.DONE)
    return [
        Took(each.ended - each.submitted, each.service_state.lower() == "completed")
        for each in ended
        if each.submitted is not None and each.ended is not None
    ]


def together(journal: Reader) -> list[Took]:
    """Return how long all batches of each process were out together, from the first submission to the last end.

    Those of one process are one case: they wait in the same queue on the same night, and all of them must be in time.
    """
    runs: dict[int, list[Batch]] = {}
    for each in journal.batches(is_open=False):
        if each.state is BatchState.DONE and each.submitted is not None and each.ended is not None:
            runs.setdefault(each.run, []).append(each)
    return [
        Took(
            max(each.ended or 0.0 for each in batches) - min(each.submitted or 0.0 for each in batches),
            all(each.service_state.lower() == "completed" for each in batches),
        )
        for batches in runs.values()
    ]

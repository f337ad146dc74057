"""The findings of `verify`, and their names.

Invariant: each kind has one finding, which names every row and request that it concerns.
"""

from __future__ import annotations

from array import array
from enum import Enum
from typing import NamedTuple

from batcher.words import by_reader

_RANGES_SHOWN = 20
_PLACES_KEPT = 5


_IN_PYTHON = {
    "`batcher run`": "`batcher.run`",
    "`batcher merge`": "`batcher.merge`",
    "`--samples`": "`samples`",
    "INPUT": "`data`",
}


class Kind(Enum):
    """The kinds of findings, in words."""

    DAMAGED = "the journal file is damaged, so nothing else was checked"
    LEFT = "no result yet; run the same `batcher run` again to continue"
    SHARDS = "the shards are not one run yet"
    ROW_LOST = "missing from the journal"
    ANSWER_LOST = "the answer is missing from the journal"
    OTHER_QUESTION = "the answer belongs to a different question"
    OTHER_ROW = "the answer to an earlier question that this row keeps belongs to another row"
    OTHER_SOURCE = "the answer comes from a model or base URL that the run does not ask"
    UNFIT = "ok, but the answer does not fit the labels or the schema of the run"
    OTHER_VOTE = "the answer is not the one that most of the row's answers agree on, or their count is wrong"
    TOO_FEW = "fewer answers than `--samples` asks for; run the same `batcher run` again to continue"
    UNCERTAIN = "not certain enough without the second endpoint; run the same `batcher run` again to continue"
    CHANGED = "the answer or its seal was changed in the journal"
    BODY_OTHER = "the answer or its reasoning is not what the kept response holds"
    INPUT_OTHER = "these rows ask a different question in INPUT now than when they were sent"
    INPUT_FAULTY = "these rows could not be asked now, for example because an image is gone: `batcher plan` says why"
    INPUT_LACKS = "no longer in INPUT"
    INPUT_MORE = "in INPUT, but not in the run"
    FILE_LOST = "the chunk file of these rows is missing; `batcher run` writes it"
    FILE_BROKEN = "the chunk file cannot be read"
    FILE_COLUMNS = "the chunk file has other columns"
    FILE_ROWS = "the chunk file has more or fewer rows than it had; give INPUT to find out which"
    FILE_OLD = "the chunk file is older than the row or its answer; `batcher run` writes it again"
    FILE_BEHIND = "corrected on the page, and the chunk file does not have it yet; `batcher merge` writes it"
    FILE_ANSWER = "the status in the chunk file is none: write ok, invalid or error"
    FILE_CELLS = "the input's cells were changed in the chunk file"
    FILE_UNPROVEN = "the chunk file was changed; give INPUT to check that its rows are still the input's"
    FILE_LACKS = "missing from the chunk file"
    FILE_MORE = "extra lines in a chunk file"
    FILE_EXTRA = "a chunk file that does not belong to the result; `batcher run` removes it"
    ALL_LOST = "the result is missing; `batcher run` or `batcher merge` writes it"
    ALL_BROKEN = "the result cannot be read; `batcher run` or `batcher merge` writes it again"
    ALL_COLUMNS = "the result has other columns than the chunk files"
    ALL_OTHER = "the result differs from the chunk file; `batcher run` or `batcher merge` writes it again"
    ALL_LACKS = "missing from the result; `batcher run` or `batcher merge` writes it again"
    ALL_MORE = "extra lines in the result; `batcher run` or `batcher merge` writes it again"
    RESPONSES_LOST = "the file of responses is missing; `batcher run` or `batcher merge` writes it"
    RESPONSES_OTHER = "the file of responses differs; `batcher run` or `batcher merge` writes it again"
    NPY_LOST = "the file of vectors is missing; `batcher run` or `batcher merge` writes it"
    NPY_OTHER = "the file of vectors differs from the result; `batcher run` or `batcher merge` writes it again"
    REQUEST_LOST = "requests that are missing from the journal, or could not be written to a full disk"
    BROUGHT_NONE = "requests that were answered, but the answer is missing from the journal"
    BROUGHT_BY_NONE = "answers without a request that brought them"
    REQUEST_OTHER = "answers to a different question, or from a different source, than their request"
    ASKED_OTHER = "requests to a different model or base URL than their run's endpoint has"
    OUTCOME = "the recorded outcome of the request contradicts the row's status"
    NEVER_ENDED = "requests without an end, although their run ended in order"
    OPINION_OF_NONE = "several answers to a row, of which one has no request that brought it, or no result"
    COUNTED_TWICE = "answers that count for two results"
    BATCH_OTHER = "rows that share a request, but not its endpoint, its time or its outcome"
    LINE_OTHER = "requests of a batch that is unknown, asks another source, or is over, although they have no end"
    BATCH_LINES = "batches with more or fewer requests than they had"
    OF_NOBODY = "requests of a run or a source that the journal does not know"
    CUT_OFF = "parts of answers that were cut off, of requests that were answered or that the journal does not know"
    SAMPLE_OTHER = "lines of the sample in the journal that contradict others (table and id)"
    CORRECTION_OTHER = "corrections in the journal that contradict the results (table and id)"

    @property
    def slug(self) -> str:
        """The kind's name in JSON."""
        return self.name.lower().replace("_", "-")

    def in_words(self) -> str:
        """Return the kind as the reader would speak of it; its value is for the command line."""
        text: str = self.value
        in_python = text
        for said, instead in _IN_PYTHON.items():
            in_python = in_python.replace(said, instead)
        return by_reader(command_line=text, python=in_python)


Ranges = tuple[tuple[int, int], ...]
"""Numbers in ascending order, as the first and the last of each range of consecutive ones."""


class Finding(NamedTuple):
    """A reason why promise 1 is not proven.

    Attributes:
        kind: its name.
        what: the same in words.
        rows: positions of the rows that it concerns, counted from 0.
        requests: ids in the journal of the requests, or of their answers, that it concerns.
        places: files and lines that it concerns; the first five.
    """

    kind: str
    what: str
    rows: Ranges = ()
    requests: Ranges = ()
    places: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [_in_words("row", self.rows)] if self.rows else []
        parts += [_in_words("request", self.requests)] if self.requests else []
        parts += [", ".join(self.places)] if self.places else []
        return f"{self.what}: {'; '.join(parts)}"


def _in_words(name: str, ranges: Ranges) -> str:
    """Write numbers as `rows 3, 7-9`."""
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:_RANGES_SHOWN]]
    more = sum(last - first + 1 for first, last in ranges[_RANGES_SHOWN:])
    plural = "s" if len(ranges) > 1 or ranges[0][0] < ranges[0][1] else ""
    place = by_reader(command_line="--json", python=f"`{name}s` of the finding")
    return f"{name}{plural} {', '.join(shown)}" + (f" and {more:,} more ({place} has them all)" if more else "")


class Numbers:
    """Collects numbers; each range of consecutive ones takes 16 bytes."""

    def __init__(self) -> None:
        self._ends = array("q")

    def add(self, first: int, last: int) -> None:
        if self._ends and self._ends[-1] == first - 1:
            self._ends[-1] = last
        else:
            self._ends.extend((first, last))

    def ranges(self) -> Ranges:
        merged: list[tuple[int, int]] = []
        for first, last in sorted(zip(self._ends[::2], self._ends[1::2], strict=True)):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = merged[-1][0], max(last, merged[-1][1])
            else:
                merged.append((first, last))
        return tuple(merged)


class Found:
    """Collects findings by their kind."""

    def __init__(self) -> None:
        self._rows: dict[Kind, Numbers] = {}
        self._requests: dict[Kind, Numbers] = {}
        self._places: dict[Kind, list[str]] = {}

    def rows(self, kind: Kind, first: int, last: int | None = None, place: str = "") -> None:
        self._rows.setdefault(kind, Numbers()).add(first, first if last is None else last)
        if place:
            self.place(kind, place)

    def requests(self, kind: Kind, first: int, last: int | None = None) -> None:
        self._requests.setdefault(kind, Numbers()).add(first, first if last is None else last)

    def place(self, kind: Kind, place: str) -> None:
        places = self._places.setdefault(kind, [])
        if len(places) < _PLACES_KEPT:
            places.append(place)

    def findings(self) -> tuple[Finding, ...]:
        none = Numbers()
        return tuple(
            Finding(
                kind.slug,
                kind.in_words(),
                self._rows.get(kind, none).ranges(),
                self._requests.get(kind, none).ranges(),
                tuple(self._places.get(kind, ())),
            )
            for kind in Kind
            if kind in self._rows or kind in self._requests or kind in self._places
        )

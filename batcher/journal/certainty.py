"""How certain the answers of a run are: the agreement of several answers, and the confidence of a model.

Invariant: only rows that are `ok` count, each once, and only if their answer is the one that the certainty is about:
not if a second endpoint or a person gave another. Nothing is held but what is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from batcher.journal.reading import ROOT, Reader
from batcher.journal.schema import IN_SCOPE, PERSON, text_of

AGREEMENT, CONFIDENCE = "agreement", "confidence"
_LOOKED_AT = 1000
_MOST_VALUES = 900  # SQLite takes no more in one statement, if it is old
_VALUE = {
    AGREEMENT: "v.for_it * 1.0 / v.answers",
    CONFIDENCE: "coalesce(v.confidence, s.confidence)",
}
_CERTAIN = {
    AGREEMENT: "v.answers > 1",
    CONFIDENCE: "coalesce(v.confidence, s.confidence) IS NOT NULL",
}
# An answer of the second endpoint (`--then`) is beside opinions of the first, none of which has its source.
_IS_ITS_OWN = (
    "(v.id IS NULL OR NOT EXISTS (SELECT 1 FROM opinions p WHERE p.result = v.id AND p.round = 0)"
    " OR EXISTS (SELECT 1 FROM opinions p WHERE p.result = v.id AND p.round = 0 AND p.source = a.source))"
    f" AND a.source NOT IN (SELECT id FROM sources WHERE model = '{PERSON.model}')"
)


class Certain(NamedTuple):
    """A row with its answer, and how certain that is, from 0 to 1."""

    position: int
    answer: str
    certainty: float


def kinds_of_certainty(journal: Reader) -> Iterator[str]:
    """Yield what is known of the answers, by the latest of them: `agreement`, `confidence`."""
    latest = {
        AGREEMENT: f"SELECT 1 FROM votes v WHERE {_CERTAIN[AGREEMENT]} LIMIT 1",
        # A condition on all responses would read all bodies.
        CONFIDENCE: f"SELECT 1 FROM (SELECT confidence FROM responses ORDER BY id DESC LIMIT {_LOOKED_AT})"
        " WHERE confidence IS NOT NULL LIMIT 1",
    }
    yield from (kind for kind, query in latest.items() if [*journal.stream(query)])


def count_certain(journal: Reader, kind: str) -> int:
    """Count the rows whose certainty is known."""
    [(rows,)] = journal.stream(f"SELECT count(*) {_of(kind)}")
    return int(rows)


def least_certain(journal: Reader, kind: str, most: int, without: Collection[bytes] = ()) -> list[Certain]:
    """Return the rows with the least certain answers, the least certain first.

    Args:
        journal: of the run.
        kind: what certainty goes by.
        most: rows to return.
        without: keys of rows to leave out.
    """
    found = journal.stream(
        f"SELECT r.position, a.answer, {_VALUE[kind]} {_of(kind, without)} ORDER BY 3, r.position LIMIT {most}"
    )
    return [Certain(position, text_of(answer), certainty) for position, answer, certainty in found]


def certainties(journal: Reader, kind: str, positions: Sequence[int] | None = None) -> Iterator[tuple[int, float]]:
    """Yield the position of each row whose certainty is known, and its certainty, in the order of positions.

    Args:
        journal: of the run.
        kind: what certainty goes by.
        positions: of the rows, ascending; None: all rows.
    """
    query = f"SELECT r.position, {_VALUE[kind]} {_of(kind)}"
    if positions is None:
        yield from journal.stream(f"{query} ORDER BY r.position")
        return
    for start in range(0, len(positions), _MOST_VALUES):
        part = positions[start : start + _MOST_VALUES]
        marks = ", ".join("?" * len(part))
        yield from journal.stream(f"{query} AND r.position IN ({marks}) ORDER BY r.position", part)


def _of(kind: str, without: Collection[bytes] = ()) -> str:
    responses = "" if kind == AGREEMENT else f" LEFT JOIN responses s ON s.id = {ROOT.format('r.result')}"
    keys = ", ".join(f"x'{each.hex()}'" for each in without)
    return (
        f"FROM rows r JOIN results a ON a.id = r.result LEFT JOIN votes v ON v.id = r.result{responses}"
        f" WHERE r.{IN_SCOPE} AND a.status = 'ok' AND {_CERTAIN[kind]} AND {_IS_ITS_OWN}"
        + (f" AND r.key NOT IN ({keys})" if keys else "")
    )

"""How certain the answers of a run are: the agreement of several answers, and the confidence of a model.

Invariant: only rows that are `ok` count, each once, and only if their answer is the one that the certainty is about:
not if a second endpoint or a person gave another. Nothing is held but what is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from batcher.journal.reading import ROOT, Reader, facts
from batcher.journal.schema import IN_SCOPE, PERSON, text_of

AGREEMENT, CONFIDENCE = "agreement", "confidence"
_LOOKED_AT = 1000
_MOST_VALUES = 900  # SQLite takes no more in one statement, if it is old
# The agreement is that of the first endpoint's answers (`--then`), which the result may not be one of.
_MEANT = {AGREEMENT: "v.answers > 1 AND c.id IS NOT NULL", CONFIDENCE: "true"}


class Certain(NamedTuple):
    """A row with its answer, and how certain that is, from 0 to 1."""

    position: int
    answer: str
    certainty: float


def kinds_of_certainty(journal: Reader) -> Iterator[str]:
    """Yield what is known of the answers, by the latest of them: `agreement`, `confidence`."""
    latest = {
        AGREEMENT: "SELECT 1 FROM votes WHERE answers > 1 LIMIT 1",
        # A condition on all responses would read all bodies.
        CONFIDENCE: f"SELECT 1 FROM (SELECT confidence FROM responses ORDER BY id DESC LIMIT {_LOOKED_AT})"
        " WHERE confidence IS NOT NULL LIMIT 1",
    }
    yield from (kind for kind, query in latest.items() if [*journal.stream(query)])


def least_certain(journal: Reader, kind: str, most: int, without: Collection[bytes] = ()) -> tuple[int, list[Certain]]:
    """Return how many rows have a certainty, and those with the least certain answers, the least certain first.

    Args:
        journal: of the run.
        kind: what certainty goes by.
        most: rows to return.
        without: keys of rows to leave out.
    """
    # What is used twice is made once.
    found = [
        *journal.stream(
            f"WITH known AS (SELECT r.position AS position, r.result AS result, {_value(kind)} AS certainty"
            f" {_of(kind, without)}) SELECT k.position, w.answer, k.certainty, (SELECT count(*) FROM known)"
            f" FROM known k JOIN results w ON w.id = k.result ORDER BY k.certainty, k.position LIMIT {most}"
        )
    ]
    rows = found[0][3] if found else 0
    return rows, [Certain(position, text_of(answer), certainty) for position, answer, certainty, _ in found]


def certainties(journal: Reader, kind: str, positions: Sequence[int] | None = None) -> Iterator[tuple[int, float]]:
    """Yield the position of each row whose certainty is known, and its certainty, in the order of positions.

    Args:
        journal: of the run.
        kind: what certainty goes by.
        positions: of the rows, ascending; None: all rows.
    """
    query = f"SELECT r.position, {_value(kind)} {_of(kind)}"
    if positions is None:
        yield from journal.stream(f"{query} ORDER BY r.position")
        return
    for start in range(0, len(positions), _MOST_VALUES):
        part = positions[start : start + _MOST_VALUES]
        marks = ", ".join("?" * len(part))
        yield from journal.stream(f"{query} AND r.position IN ({marks}) ORDER BY r.position", part)


def _value(kind: str) -> str:
    [fact], _ = facts([kind], ROOT.format("r.result"))
    return f"cast({fact} AS REAL)"


def _of(kind: str, without: Collection[bytes] = ()) -> str:
    [fact], joins = facts([kind], ROOT.format("r.result"))
    keys = ", ".join(f"x'{each.hex()}'" for each in without)
    return (
        f"FROM rows r JOIN results a ON a.id = r.result{joins} WHERE r.{IN_SCOPE} AND a.status = 'ok' AND {fact} != ''"
        f" AND {_MEANT[kind]} AND a.source NOT IN (SELECT id FROM sources WHERE model = '{PERSON.model}')"
        + (f" AND r.key NOT IN ({keys})" if keys else "")
    )

"""Rows of a journal to show as examples: failures, invalid answers, and the corrections of people.

Invariant: it only reads; what is held is bounded, however many rows there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from batcher.journal.corrections import BY_HAND
from batcher.journal.reading import FAILED, OF_FAILED, ROOT, Reader
from batcher.journal.schema import IN_SCOPE, text_of

_MOST_REASONS = 10_000


class Failed(NamedTuple):
    """Rows that ended for one reason.

    Attributes:
        reason: in words.
        status: `invalid` or `error`.
        rows: their number.
        positions: of the first of them.
    """

    reason: str
    status: str
    rows: int
    positions: tuple[int, ...]


def failed(journal: Reader, examples: int) -> list[Failed]:
    """Return the rows without an answer that is `ok`, by reason, the most frequent first.

    Args:
        journal: of the run.
        examples: positions to return of each reason.
    """
    counts: dict[tuple[str, bytes], int] = {}
    first: dict[tuple[str, bytes], list[int]] = {}
    for position, status, reason in journal.stream(f"SELECT position, status, reason FROM {FAILED}", OF_FAILED):
        kind = (status, reason)
        if kind not in counts and len(counts) >= _MOST_REASONS:
            kind = (status, b"other reasons")
        counts[kind] = counts.get(kind, 0) + 1
        if len(places := first.setdefault(kind, [])) < examples:
            places.append(position)
    found = [
        Failed(text_of(reason), status, rows, tuple(first[status, reason])) for (status, reason), rows in counts.items()
    ]
    return sorted(found, key=lambda each: (-each.rows, each.reason))


def invalid_texts(journal: Reader, most: int) -> list[tuple[str, int]]:
    """Return the different answers of rows that are `invalid`, and how many rows have each, the most frequent first."""
    lines = journal.stream(
        "SELECT a.answer, count(*) AS n FROM rows r JOIN results a ON a.id = r.result"
        f" WHERE a.status = 'invalid' AND r.{IN_SCOPE} GROUP BY a.answer ORDER BY n DESC LIMIT {most}"
    )
    return [(text_of(answer), rows) for answer, rows in lines]


def empty_answers(journal: Reader) -> int:
    """Count the rows that were answered with nothing but blanks."""
    [(rows,)] = journal.stream(
        "SELECT count(*) FROM rows r JOIN results a ON a.id = r.result"
        f" WHERE a.status IN ('ok', 'invalid') AND trim(a.answer, char(9, 10, 13, 32)) = '' AND r.{IN_SCOPE}"
    )
    return int(rows)


class Corrected(NamedTuple):
    """A row whose answer a person gave; `before` is what the model answered, None if it had no answer.

    Attributes:
        at: when, in seconds since the epoch; None: not known.
        who, why: if the person said it.
    """

    position: int
    before: str | None
    after: str
    at: float | None = None
    who: str = ""
    why: str = ""


def corrected(journal: Reader, most: int) -> list[Corrected]:
    """Return rows whose answer a person gave, the latest first."""
    lines = journal.stream(
        "SELECT r.position, b.answer, a.answer, c.at, c.who, c.why FROM rows r JOIN results a ON a.id = r.result"
        " LEFT JOIN rereads w ON w.id = a.id LEFT JOIN results b ON b.id = w.before"
        f" LEFT JOIN corrections c ON c.id = a.id WHERE a.id < 0 AND a.source = {BY_HAND} AND r.{IN_SCOPE}"
        f" ORDER BY a.id LIMIT {most}"
    )
    return [
        Corrected(position, _text(before), text_of(after), at, _text(who) or "", _text(why) or "")
        for position, before, after, at, who, why in lines
    ]


def answers_at(journal: Reader, positions: Iterable[int]) -> dict[int, tuple[str, str]]:
    """Return the status and the answer, or the error, of rows at some positions."""
    lines = journal.look_up(
        "SELECT r.position, a.status, iif(a.status = 'error', a.error, a.answer) FROM rows r"
        f" JOIN results a ON a.id = r.result WHERE r.position IN ({{}}) AND r.{IN_SCOPE}",
        sorted(positions),
    )
    return {position: (status, text_of(text)) for position, status, text in lines}


def votes_at(journal: Reader, positions: Iterable[int]) -> dict[int, list[tuple[str, int]]]:
    """Return the answers that those of rows are made of, each with its number, the most frequent first."""
    before, root = "(SELECT before FROM rereads WHERE id = r.result)", ROOT.format("r.result")
    found: dict[int, list[tuple[str, int]]] = {}
    for position, answer, times in journal.look_up(
        "SELECT r.position, iif(p.status = 'ok', p.answer, p.status) AS said, count(*) AS n FROM rows r"
        f" JOIN opinions p ON p.result IN (r.result, {before}, {root}) AND p.round = 0"
        f" WHERE r.position IN ({{}}) AND r.{IN_SCOPE}"
        " GROUP BY r.position, said ORDER BY r.position, n DESC, min(p.id)",
        sorted(positions),
    ):
        found.setdefault(position, []).append((text_of(answer), times))
    return found


def _text(value: str | bytes | None) -> str | None:
    return None if value is None else text_of(value)


def label_counts(journal: Reader) -> list[tuple[str, int]]:
    """Return the different answers of rows that are `ok`, and how many rows have each, the most frequent first."""
    lines = journal.stream(
        "SELECT a.answer, count(*) AS n FROM rows r JOIN results a ON a.id = r.result"
        f" WHERE a.status = 'ok' AND r.{IN_SCOPE} GROUP BY a.answer ORDER BY n DESC, a.answer"
    )
    return [(text_of(answer), rows) for answer, rows in lines]

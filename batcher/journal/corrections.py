"""What a journal records of corrections by hand: the statements that write it, and the queries that find it.

Invariant: a correction is a result of its own; the one that it replaces stays, and no row gets that one again. One that
is taken back stays, too: the model's answer is then a result once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from batcher.errors import SettingsError
from batcher.journal.committing import Statement
from batcher.journal.entries import CORRECTED, READ, Correction, Decision, Workbook, kept, lacking, seal
from batcher.journal.schema import IN_SCOPE, PERSON, bound, text_of
from batcher.journal.statements import NOTE
from batcher.records import Result, Status

REVIEW = "review"
"""The origin of what people decide on the page."""

BY_HAND = f"(SELECT id FROM sources WHERE model = '{PERSON.model}' AND base_url = '' AND params = '')"
"""The id of the source of corrections; NULL if there was none yet."""
LOWEST = "SELECT min(0, coalesce((SELECT min(id) FROM results), 0), coalesce((SELECT min(id) FROM opinions), 0))"
"""The lowest id of a result or of an answer among several, or 0: those that no request brought count down from it."""
AS_ANSWERED = f"""(SELECT position, key, cells, is_kept,
    CASE WHEN result < 0 AND result IN (SELECT id FROM results WHERE id < 0 AND source = {BY_HAND}) THEN (
        WITH RECURSIVE earlier (id) AS (
            SELECT rows.result UNION ALL
            SELECT w.before FROM earlier e JOIN results c ON c.id = e.id AND c.source = {BY_HAND}
            JOIN rereads w ON w.id = e.id)
        SELECT e.id FROM earlier e JOIN results c ON c.id = e.id AND c.source <> {BY_HAND})
    ELSE result END AS result FROM rows)"""
"""The rows with the results that a model gave: of a row that a person has corrected the one before, if there is one.

People correct what they have seen to be wrong, which is what a sample shows first. So how good a model is cannot be
seen in the corrected answers.
"""

_RESULT = f"INSERT INTO results (id, key, source, status, answer, error, seal) VALUES (?, ?, {BY_HAND}, ?, ?, ?, ?)"
# A plan's copy hides its own table of responses.
_RESPONSE = (
    "INSERT INTO main.responses (id, finish_reason, is_cut, model, reasoning, body) VALUES (?, ?, 0, ?, ?, NULL)"
)

_REPLACING = "INSERT INTO rereads VALUES (?, coalesce((SELECT root FROM rereads WHERE id = ?), ?), ?)"
_PERSON = "INSERT OR IGNORE INTO sources (model, base_url, params) VALUES (?, ?, ?)"
_LINE = (
    "INSERT INTO corrections (id, at, who, why, origin, is_undo, was_kept)"
    " VALUES (?, ?, ?, ?, ?, ?, (SELECT is_kept FROM rows WHERE position = ?))"
)
_POINT = "UPDATE rows SET result = ?, is_kept = ? WHERE position = ?"
_CHUNKS = (
    "SELECT start, origin FROM chunks WHERE length(origin) = 16 AND start <= ? AND start + rows > ?"
    " AND start > ? - (SELECT max(chunk_size) FROM runs)"
)
_MARK = "UPDATE chunks SET origin = ? WHERE start = ? AND origin = ?"  # if it was not written meanwhile
_MODEL = f"""
WITH RECURSIVE earlier (id, was_kept) AS (
    SELECT ?, NULL UNION ALL
    SELECT w.before, coalesce(e.was_kept, c.was_kept) FROM earlier e JOIN results a ON a.id = e.id
    AND a.source = {BY_HAND} JOIN rereads w ON w.id = e.id LEFT JOIN corrections c ON c.id = e.id)
SELECT e.id, a.key, e.was_kept FROM earlier e JOIN results a ON a.id = e.id AND a.source <> {BY_HAND}
"""

Ask = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
"""Reads what a query finds."""


class Overtaken(Exception):
    """The row has another result than the person saw.

    Attributes:
        result: its id; None: the row has none.
    """

    def __init__(self, result: int | None) -> None:
        super().__init__()
        self.result = result


def correcting(corrections: Sequence[Correction], lowest: int, run: int) -> Iterator[Statement]:
    """Yield the statements that give rows the answers of people.

    Args:
        corrections: the answers.
        lowest: what `LOWEST` finds.
        run: the latest process.
    """
    if corrections:
        yield _PERSON, tuple(PERSON)
    for number, each in enumerate(corrections, 1):
        own_id, beside = lowest - number, each.beside
        yield _answer(own_id, each.key, each.result)
        if beside.reasoning or beside.model or beside.finish:
            yield _RESPONSE, (own_id, beside.finish or None, beside.model, bound(beside.reasoning))
        if each.replaces is not None:
            yield _REPLACING, (own_id, each.replaces, each.replaces, each.replaces)
        yield _LINE, (own_id, time.time(), "", "", bound(each.origin), 0, each.position)
        yield _POINT, (own_id, None, each.position)
        replaced = "" if each.replaces is None else str(each.replaces)
        yield NOTE, (run, time.time(), CORRECTED, str(own_id), replaced)


def _answer(own_id: int, key: bytes, result: Result) -> Statement:
    texts = (result.status.value, bound(result.answer), bound(result.error))
    return _RESULT, (own_id, key, *texts, seal(key, result))


def deciding(ask: Ask, decision: Decision) -> tuple[int, list[Statement]]:
    """Return the id of the result that a decision makes, and the statements that record it.

    Args:
        ask: reads the journal; no other decision is made meanwhile.
        decision: of a person.

    Raises:
        Overtaken: the row has another result than the person saw.
        SettingsError: there is no such row, it has no result, or there is nothing to take back.
    """
    position = decision.position
    found = ask(f"SELECT key, result, is_kept FROM rows WHERE {IN_SCOPE} AND position = ?", (position,))
    if not found:
        raise SettingsError(f"the run has no row {position:,}")
    [(key, now, is_kept)] = found
    if now != decision.seen:
        raise Overtaken(now)
    if now is None:
        raise SettingsError(f"row {position:,} has no result yet, so there is nothing to correct: run it first")
    [(lowest, run)] = ask(f"SELECT ({LOWEST}), (SELECT coalesce(max(id), 0) FROM runs)", ())
    made = _Making(ask, position, key, now, is_kept, lowest - 1, run)
    statements = made.corrected(decision.result) if decision.result else made.undone()
    said = (bound(decision.who), bound(decision.why), REVIEW, int(decision.result is None))
    return made.id, [
        (_PERSON, tuple(PERSON)),
        (_LINE, (made.id, time.time(), *said, position)),
        *statements,
        *((_MARK, (origin + lacking(made.id), start, origin)) for start, origin in ask(_CHUNKS, (position,) * 3)),
    ]


class _Making(NamedTuple):
    """Makes the result of a decision.

    Attributes:
        ask: reads the journal.
        position, key, now, is_kept: of the row; `now` is the id of its result.
        id: of the new result; further ones are below it.
        run: the latest process.
    """

    ask: Ask
    position: int
    key: bytes
    now: int
    is_kept: bytes | int | None
    id: int
    run: int

    def corrected(self, result: Result) -> list[Statement]:
        """Return the statements that give the row the answer of a person."""
        return [
            _answer(self.id, self.key, result),
            self._replacing(self.now),
            (_POINT, (self.id, None, self.position)),
            (NOTE, (self.run, time.time(), CORRECTED, str(self.id), str(self.now))),
        ]

    def undone(self) -> list[Statement]:
        """Return the statements that take the latest decision back.

        Raises:
            SettingsError: there is none, or no model has answered the row.
        """
        [(is_by_hand, is_undo, before)] = self.ask(
            f"SELECT a.source IS {BY_HAND}, coalesce(c.is_undo, 0), w.before FROM results a"
            " LEFT JOIN corrections c USING (id) LEFT JOIN rereads w USING (id) WHERE a.id = ?",
            (self.now,),
        )
        if is_by_hand:
            return self._back()
        if is_undo:
            [(status, answer, error)] = self.ask("SELECT status, answer, error FROM results WHERE id = ?", (before,))
            return self.corrected(Result(Status(status), text_of(answer), text_of(error)))
        raise SettingsError(f"row {self.position:,} is not corrected: there is nothing to take back")

    def _back(self) -> list[Statement]:
        """Return the statements that bring the model's answer back, with all that belongs to it."""
        if not (found := self.ask(_MODEL, (self.now,))):
            raise SettingsError(
                f"row {self.position:,} never had another answer than a person's: there is none to go back to"
            )
        [(model, key, was_kept)] = found
        is_kept = None
        if key != self.key:  # it answers an earlier question, and is the row's own by a proof
            proof = next((each[:1].decode() for each in (self.is_kept, was_kept) if isinstance(each, bytes)), "o")
            is_kept = kept(proof, self.key, self.id)
        statements: list[Statement] = [
            (_copy("results", "key, source, status, answer, error, seal, reading"), (self.id, model)),
            (_copy("votes", "answers, for_it, is_tied, confidence"), (self.id, model)),
            (_REPLACING, (self.id, model, model, self.now)),
            (_POINT, (self.id, is_kept, self.position)),
        ]
        if not self.ask("SELECT 1 FROM rows WHERE result = ? LIMIT 1", (model,)):
            # They go on to count for this row: if it is to have more answers, these are not asked for again.
            return [*statements, ("UPDATE opinions SET result = ? WHERE result = ?", (self.id, model))]
        opinions = self.ask("SELECT id FROM opinions WHERE result = ? ORDER BY id", (model,))
        for own_id, (each,) in enumerate(opinions, self.id - len(opinions)):
            statements += [
                (_copy("opinions", "key, position, source, status, answer, error, round"), (own_id, each)),
                ("UPDATE opinions SET result = ? WHERE id = ?", (self.id, own_id)),
                (_REPLACING, (own_id, each, each, each)),
            ]
        return statements

    def _replacing(self, before: int) -> Statement:
        return _REPLACING, (self.id, before, before, before)


def _copy(table: str, columns: str) -> str:
    return f"INSERT INTO {table} (id, {columns}) SELECT ?, {columns} FROM {table} WHERE id = ?"


def having_read(workbook: Workbook, run: int) -> Statement:
    """Return the statement that records a workbook whose corrections are in the journal."""
    return NOTE, (run, time.time(), READ, workbook.name, workbook.sha256.hex())

"""Reads kept answers again, for nothing: for other labels, for another schema, or by a newer reader.

Invariant: an answer is never changed or removed; a new reading is a result of its own, and takes the place of the one
before it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from batcher.answer.shape import ReadAs
from batcher.answer.voting import vote
from batcher.journal.corrections import BY_HAND, LOWEST
from batcher.journal.entries import seal
from batcher.journal.schema import IN_SCOPE, bound, text_of
from batcher.journal.statements import Statements
from batcher.records import Completion, Result, Status

OUTDATED = "(SELECT before FROM rereads)"
"""The ids of the results that a later reading, or a person, has replaced."""

_ROWS_AT_ONCE = 500


def reading_id(db: Statements, reading: ReadAs | None) -> int | None:
    """Return the id of what answers are read as; None: they stay as they come."""
    if reading is None:
        return None
    known = db.do("SELECT id FROM readings WHERE shape = ? AND reader = ?", reading).fetchone()
    return int(known[0]) if known else db.do("INSERT INTO readings (shape, reader) VALUES (?, ?)", reading).lastrowid


class Readers(NamedTuple):
    """What the answers of a run are read by.

    Attributes:
        reading: the id of what they are read as.
        read: reads an answer.
        same: returns the same text for answers that are equal (`sameness`).
        second: ids of the sources whose answers are not voted on (`--then`).
    """

    reading: int | None
    read: Callable[[Completion], Result]
    same: Callable[[str], str]
    second: Collection[int] = ()

    def result(self, text: str, finish_reason: str | None, had: Result) -> Result:
        """Read a kept text again. Why an answer is empty cannot be read again."""
        return self.read(Completion(text, finish_reason)) if text.strip() else had


def read_again(db: Statements, readers: Readers, texts: str) -> None:
    """Read every answer again that was read as something else, and let rows point at the new results.

    The ids of results that differ from the ones before them are in the table `reread` afterwards.

    Args:
        db: has the tables of `scratch`.
        readers: read them. One that a person has replaced may still be that of another row (`--dedup`).
        texts: the table that has the results' texts: a copy has none of its own.
    """
    [lowest] = db.one(LOWEST)
    query = f"""
        SELECT a.id, a.key, a.source, a.status, b.answer, a.error, coalesce(w.root, a.id),
            coalesce(s.text, x.answer, o.answer), s.finish_reason
        FROM results a JOIN {texts} b USING (id) LEFT JOIN rereads w USING (id)
        JOIN {texts} o ON o.id = coalesce(w.root, a.id) LEFT JOIN responses s ON s.id = coalesce(w.root, a.id)
        LEFT JOIN {_of_opinions(db, texts)} x ON x.id = coalesce(w.root, a.id)
        WHERE a.id > ? AND a.status <> 'error' AND a.reading IS NOT ? AND a.source IS NOT {BY_HAND}
            AND (a.id NOT IN {OUTDATED} OR a.id IN (SELECT result FROM rows))
        ORDER BY a.id LIMIT {_ROWS_AT_ONCE}
    """
    [after], free = db.one("SELECT min(0, coalesce(min(id), 0)) - 1 FROM results"), lowest
    while found := db.do(query, (after, readers.reading)).fetchall():
        votes = _vote_again(db, readers, texts, [each[0] for each in found], free)
        free -= votes.ids + len(found)
        after = found[-1][0]
        _add(db, readers, [(free + number, *each) for number, each in enumerate(found)], votes)
    if free < lowest:
        _point(db, "rows", lowest)
        _point(db, "moved", lowest)


def _of_opinions(db: Statements, texts: str) -> str:
    """Return the table that has the texts of several answers to a row; a copy has them only if there are any."""
    return texts.replace("results", "opinions") if db.is_any("SELECT 1 FROM opinions") else "opinions"


class _Reread(NamedTuple):
    """One of several answers to a row that was read again: its new number, the old one, and all else that it has."""

    id: int
    before: int
    root: int
    key: bytes
    position: int
    source: int
    round: int
    result: Result
    confidence: float | None


class _Votes:
    """The answers of results that are made of several, read again.

    Args:
        of: the answers, by the id of the result that they belonged to.
        second: see `Readers`.

    Attributes:
        ids: how many numbers they take.
    """

    def __init__(self, of: Mapping[int, Sequence[_Reread]], second: Collection[int]) -> None:
        self.ids = sum(map(len, of.values()))
        self._of = of
        self._second = second

    def opinions(self, before: int) -> Sequence[_Reread]:
        """Return the answers that belonged to a result, those to a second round included."""
        return self._of.get(before, ())

    def candidates(self, before: int) -> list[_Reread]:
        """Return the answers that are voted on."""
        return [each for each in self.opinions(before) if each.round == 0 and each.source not in self._second]

    def beyond(self, before: int) -> _Reread | None:
        """Return the answer of a second endpoint that can be used now, and could not before, if there is one."""
        second = (each for each in self.opinions(before) if each.round == 0 and each.source in self._second)
        return next((each for each in second if each.result.status is Status.OK), None)


def _vote_again(db: Statements, readers: Readers, texts: str, results: Sequence[int], free: int) -> _Votes:
    """Read the answers again that some results are made of; their new numbers are those below `free`."""
    marks = ", ".join("?" * len(results))
    found = db.do(
        f"""
        SELECT p.result, p.id, coalesce(w.root, p.id), p.key, p.position, p.source, p.round, p.status, b.answer,
            b.error, coalesce(s.text, x.answer, o.answer), s.finish_reason, s.confidence
        FROM opinions p JOIN {_of_opinions(db, texts)} b USING (id) LEFT JOIN rereads w USING (id)
        LEFT JOIN {_of_opinions(db, texts)} x ON x.id = coalesce(w.root, p.id)
        LEFT JOIN {texts} o ON o.id = coalesce(w.root, p.id)
        LEFT JOIN responses s ON s.id = coalesce(w.root, p.id) WHERE p.result IN ({marks}) ORDER BY p.id
        """,
        (*results,),
    ).fetchall()
    of: dict[int, list[_Reread]] = {}
    for number, (before, *each, status, answer, error, text, finish_reason, sure) in enumerate(found):
        had = Result(Status(status), text_of(answer), text_of(error))
        now = had if had.status is Status.ERROR else readers.result(text_of(text or ""), finish_reason, had)
        of.setdefault(before, []).append(_Reread._make([free - len(found) + number, *each, now, sure]))
    return _Votes(of, readers.second)


def _add(db: Statements, readers: Readers, found: Sequence[tuple[object, ...]], votes: _Votes) -> None:
    results, rereads, changed, opinions, voted = [], [], [], [], []
    for number, before, key, of_source, status, answer, error, root, text, finish_reason in found:
        had = Result(Status(status), text_of(answer), text_of(error))  # type: ignore[arg-type]
        now, source = readers.result(text_of(text), finish_reason, had), of_source  # type: ignore[arg-type]
        if candidates := votes.candidates(before):  # type: ignore[arg-type]
            went = vote([each.result for each in candidates], readers.same)
            sure = went.confidence([each.confidence for each in candidates])
            voted.append((number, went.answers, went.for_it, went.is_tied, sure))
            if source in {each.source for each in candidates}:  # else it is the answer of a second endpoint
                chosen = votes.beyond(before) or candidates[went.chosen]  # type: ignore[arg-type]
                now, source = chosen.result, chosen.source
        texts = (now.status.value, bound(now.answer), bound(now.error))
        results.append((number, key, source, *texts, seal(key, now), readers.reading))  # type: ignore[arg-type]
        rereads.append((number, root, before))
        if now != had:
            changed.append((number,))
        for each in votes.opinions(before):  # type: ignore[arg-type]
            read = (each.result.status.value, bound(each.result.answer), bound(each.result.error))
            opinions.append((each.id, each.key, each.position, each.source, *read, each.round, number))
            rereads.append((each.id, each.root, each.before))
    statement = "INSERT INTO results (id, key, source, status, answer, error, seal, reading) VALUES (?,?,?,?,?,?,?,?)"
    db.do_many(statement, results)
    db.do_many("INSERT INTO rereads VALUES (?, ?, ?)", rereads)
    db.do_many("INSERT INTO reread VALUES (?)", changed)
    db.do_many("INSERT INTO opinions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", opinions)
    db.do_many("INSERT INTO votes VALUES (?, ?, ?, ?, ?)", voted)


def read_waiting_again(db: Statements, readers: Readers, texts: str) -> None:
    """Read the answers again that wait for others to the same question, but for labels or schema (`former`).

    A new reading waits in the place of the answer, under the question that its row asks now. One that is there already,
    or whose answer a result is made of, is not made again: no answer counts twice.

    Args:
        db: has the tables of `scratch`.
        readers: read them.
        texts: the table that has the results' texts: a copy has none of its own.
    """
    root = "coalesce(w.root, p.id)"
    of_roots = f"SELECT {root} FROM opinions p LEFT JOIN rereads w USING (id) WHERE p.result IS NOT NULL"
    there = f"SELECT p.key, {root} FROM opinions p LEFT JOIN rereads w USING (id) WHERE p.result IS NULL"
    db.do(
        f"""
        INSERT INTO waiting SELECT row_number() OVER (ORDER BY root, id) - 1, id, root, now FROM (
            SELECT p.id, {root} AS root, f.now,
                row_number() OVER (PARTITION BY {root}, f.now ORDER BY p.id DESC) AS nth
            FROM former f JOIN opinions p ON p.key = f.was AND p.result IS NULL AND p.round = 0
            LEFT JOIN rereads w USING (id)
            WHERE {root} NOT IN ({of_roots}) AND (f.now, {root}) NOT IN ({there}))
        WHERE nth = 1
        """
    )
    [count], [lowest] = db.one("SELECT count(*) FROM waiting"), db.one(LOWEST)
    found = f"""
        SELECT w.nth, w.id, w.root, w.now, p.position, p.source, p.status, b.answer, b.error,
            coalesce(s.text, x.answer, o.answer), s.finish_reason
        FROM waiting w JOIN opinions p USING (id) JOIN {_of_opinions(db, texts)} b USING (id)
        LEFT JOIN {_of_opinions(db, texts)} x ON x.id = w.root LEFT JOIN {texts} o ON o.id = w.root
        LEFT JOIN responses s ON s.id = w.root WHERE w.nth >= ? ORDER BY w.nth LIMIT {_ROWS_AT_ONCE}
    """
    for start in range(0, count, _ROWS_AT_ONCE):
        opinions, rereads = [], []
        for nth, before, root_of, key, position, source, status, answer, error, text, finish_reason in db.do(
            found, (start,)
        ).fetchall():
            had = Result(Status(status), text_of(answer), text_of(error))
            now = had if had.status is Status.ERROR else readers.result(text_of(text or ""), finish_reason, had)
            number = lowest - count + nth
            opinions.append((number, key, position, source, now.status.value, bound(now.answer), bound(now.error)))
            rereads.append((number, root_of, before))
        db.do_many("INSERT INTO opinions VALUES (?, ?, ?, ?, ?, ?, ?, 0, NULL)", opinions)
        db.do_many("INSERT INTO rereads VALUES (?, ?, ?)", rereads)


def _point(db: Statements, table: str, lowest: int) -> None:
    """Let the rows of a table point at the results that replace theirs; kept answers stay bound to their questions."""
    db.do(
        f"""
        UPDATE {table} SET result = w.id, is_kept = CASE typeof(is_kept) WHEN 'blob'
            THEN kept(cast(substr(is_kept, 1, 1) AS TEXT), key, w.id) ELSE is_kept END
        FROM rereads w WHERE w.before = {table}.result AND w.id < ? AND w.id IN (SELECT id FROM results)
        """,
        (lowest,),
    )


def changed_rows(db: Statements) -> int:
    """Return how many rows of the plan have another result because their answer was read again."""
    [count] = db.one(f"SELECT count(*) FROM rows WHERE {IN_SCOPE} AND result IN (SELECT id FROM reread)")
    return int(count)

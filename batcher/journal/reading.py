"""Queries of what is committed in a journal.

Invariant: a reader cannot write, and sees only what is committed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from batcher.answer.voting import vote
from batcher.errors import OutputError
from batcher.journal import batches as batch_queries
from batcher.journal.access import Opened, is_as_before
from batcher.journal.corrections import AS_ANSWERED, REVIEW
from batcher.journal.corrections import BY_HAND as OF_PEOPLE
from batcher.journal.entries import (
    BY_HAND,
    CANCELLED,
    CORRECTED,
    EXPIRED,
    HEDGED,
    IGNORED,
    JOINED,
    READ,
    TOO_LARGE,
    UNFIT,
    UNSENT,
    WORKER_LOST,
    Again,
    Batch,
    BatchCounts,
    ByHand,
    Chunk,
    Counts,
    InFlight,
    LastRun,
    Line,
    Opinion,
    Outcome,
    Repeated,
    Request,
    Response,
    Spent,
    Totals,
    Usual,
    Workbook,
    source_of,
)
from batcher.journal.schema import ADOPTED, IN_SCOPE, PERSON, as_output_errors, exact_sum, text_of, waiting, whole
from batcher.records import GAVE_UP, OF_AN_IMAGE, Beside, Bound, Result, RowState, Source, Status

_IS_OPEN_LINE = "sent_in IS NOT NULL AND ended IS NULL"
# Requests: whether each `is_paid`, because it brought an answer, and the amount `charged`: its cost, or without an
# answer its bound. If the same source answered the same question at another time, or began to and reported its tokens,
# the question's model tokens are known, and the part of the bound that is proportional to them is reduced to that
# number. Quotient and remainder are computed apart, so that no product is too large for SQLite.
WAS_ASKED = f"coalesce(outcome, '') NOT IN ('{UNSENT}', '{EXPIRED}', '{CANCELLED}')"
"""The condition for a request that left, and that its service did not leave unasked."""
_ANSWERED = f"outcome IN ('answered', '{UNFIT}')"
PAID = f"outcome IN ('answered', '{UNFIT}', '{TOO_LARGE}')"
CHARGED = f"""
(
    WITH asked AS (SELECT DISTINCT key, source FROM requests WHERE ({PAID}) IS NOT TRUE AND answer_cost < cost),
    known AS (SELECT key, source, prompt_tokens AS tokens FROM requests WHERE {PAID}
        UNION ALL SELECT key, source, p.prompt_tokens FROM partials p JOIN requests USING (id)),
    reported AS (SELECT key, source, max(tokens) AS tokens FROM known
        WHERE tokens > 0 AND (key, source) IN (SELECT key, source FROM asked)
        GROUP BY key, source)
    SELECT q.id, q.run, q.endpoint, q.source, q.position, q.ended, q.outcome, q.sent_in, q.prompt_tokens,
        q.completion_tokens,
        ({PAID}) IS TRUE AS is_paid, q.batch IS NULL OR q.batch = q.id AS is_first,
        CASE WHEN q.answer_cost < q.cost AND t.tokens < q.prompt_most AND (q.sent_in IS NULL OR q.ended IS NOT NULL)
        THEN q.answer_cost + (q.cost - q.answer_cost) / q.prompt_most * t.tokens
            + ((q.cost - q.answer_cost) % q.prompt_most * t.tokens + q.prompt_most - 1) / q.prompt_most
        ELSE q.cost END AS charged
    FROM requests q LEFT JOIN reported t ON ({PAID}) IS NOT TRUE AND t.key = q.key AND t.source = q.source
)
"""
# Of `CHARGED`, for `spent_of`: the cost of answered requests, and the possible cost of the others, two columns each;
# and of both the number without a known price.
SPENT = ", ".join(
    [
        exact_sum("charged", "is_paid"),
        exact_sum("charged", "NOT is_paid"),
        "count(*) FILTER (WHERE is_first AND is_paid AND charged IS NULL)",
        "count(*) FILTER (WHERE is_first AND NOT is_paid AND charged IS NULL)",
    ]
)
# The number of requests, of which one that several rows share is one: all, answered, failed, without an end, overtaken
# by another, and out at a worker that was lost.
SENT = (
    f"count(*) FILTER (WHERE is_first), count(*) FILTER (WHERE is_first AND {_ANSWERED}),"
    f" count(*) FILTER (WHERE is_first AND NOT {_ANSWERED} AND outcome NOT IN ('{HEDGED}', '{WORKER_LOST}')),"
    " count(*) FILTER (WHERE is_first AND outcome IS NULL),"
    f" count(*) FILTER (WHERE is_first AND outcome = '{HEDGED}'),"
    f" count(*) FILTER (WHERE is_first AND outcome = '{WORKER_LOST}')"
)
# Of those at lost workers the number without a known price, and what they may cost.
_AT_LOST = f"outcome = '{WORKER_LOST}'"
_LOST_MOST = f"count(*) FILTER (WHERE {_AT_LOST} AND charged IS NULL), {exact_sum('charged', _AT_LOST)}"
# Several lines about a row (`--samples`) are no further attempts, and a request at a lost worker is none at all.
_IS_ATTEMPT = f"NOT ({_IS_OPEN_LINE}) AND outcome IS NOT '{WORKER_LOST}'"


def _sum(column: str) -> str:
    """Return the SQL expression of a sum over the answers that a result is made of; NULL if one of them is unknown."""
    unknown = f"count(*) FILTER (WHERE {PAID} AND {column} IS NULL)"
    root = "coalesce((SELECT root FROM rereads w WHERE w.id = p.id), p.id)"
    ids = f"SELECT {root} FROM opinions p WHERE p.result = v.id AND p.round = 0 UNION SELECT f.id"
    return (
        f"CASE WHEN v.id IS NULL THEN f.{column}"
        f" ELSE (SELECT iif({unknown}, NULL, sum({column})) FROM requests WHERE id IN ({ids})) END"
    )


# That of the answers that agree, unless the result is none of them, but a second endpoint's.
_CONFIDENCE = (
    "CASE WHEN v.id IS NOT NULL AND c.id IS NULL THEN s.confidence ELSE coalesce(v.confidence, s.confidence) END"
)
# What `--with` may ask for, as text.
FACTS = {
    "raw": "coalesce(s.text, x.answer, o.answer)",
    "reasoning": "s.reasoning",
    "tokens": f"cast({_sum('prompt_tokens')} + {_sum('completion_tokens')} AS TEXT)",
    "prompt_tokens": f"cast({_sum('prompt_tokens')} AS TEXT)",
    "completion_tokens": f"cast({_sum('completion_tokens')} AS TEXT)",
    # SQLite writes an unknown number as 0, and an unknown cost or latency is none.
    "cost": (
        "(SELECT CASE WHEN cost IS NOT NULL THEN"
        " rtrim(rtrim(printf('%d.%09d', cost / 1000000000, cost % 1000000000), '0'), '.') END"
        f" FROM (SELECT {_sum('cost')} AS cost))"
    ),
    # A line of a batch waits for others, and has no latency of its own.
    "latency": (
        "CASE WHEN f.ended - f.sent IS NOT NULL AND f.sent_in IS NULL THEN printf('%.3f', f.ended - f.sent) END"
    ),
    "model": "s.model",
    # Those in batches until the answer came: others may be open when it does.
    "attempts": (
        "cast(nullif(coalesce(t.requests, 0) + (SELECT count(*) FROM requests l WHERE l.sent_in IS NOT NULL"
        f" AND l.key = f.key AND l.position = f.position AND l.ended <= f.ended AND l.outcome <> '{UNSENT}'), 0)"
        " AS TEXT)"
    ),
    "finish": "s.finish_reason",
    "form": "s.form",
    "request_id": "s.request_id",
    "agreement": "CASE WHEN v.answers > 0 THEN printf('%.4g', v.for_it * 1.0 / v.answers) END",
    "votes": (
        # An odd text is a BLOB, which JSON refuses; as text it may be none that can be decoded, hence the outer cast.
        "CASE WHEN v.id IS NOT NULL THEN (SELECT cast(json_group_object(answer, n) AS BLOB) FROM (SELECT"
        " iif(status = 'ok', cast(answer AS TEXT), status) AS answer, count(*) AS n FROM opinions"
        " WHERE result = v.id AND round = 0 GROUP BY 1 ORDER BY 2 DESC, min(id))) END"
    ),
    "confidence": f"CASE WHEN {_CONFIDENCE} IS NOT NULL THEN printf('%.4g', {_CONFIDENCE}) END",
    "by": f"CASE g.model WHEN '{PERSON.model}' THEN 'hand' ELSE g.model END",
    "tier": "s.tier",
}
_ADOPTED = f"(SELECT id FROM sources WHERE model = '{ADOPTED.model}' AND base_url = '' AND params = '')"
# Of the answers that a result is made of, the one that it is: what came with that one is what the facts are about. If
# the first endpoint's answers are beside a result of the second, it is none of them.
_CHOSEN = (
    "SELECT p.id FROM opinions p JOIN results w ON w.id = p.result AND w.source = p.source AND w.status = p.status"
    " AND w.answer = p.answer WHERE p.result = v.id AND p.round = 0 ORDER BY p.id LIMIT 1"
)
# The requests for each question at each position, as far as they were counted, in a table of the connection alone.
_ATTEMPTS = """
CREATE TEMP TABLE IF NOT EXISTS attempts (position INTEGER, key BLOB, requests INTEGER NOT NULL,
    PRIMARY KEY (position, key)) WITHOUT ROWID;
CREATE TEMP TABLE IF NOT EXISTS attempts_until (id INTEGER NOT NULL);
CREATE TEMP TABLE IF NOT EXISTS attempts_open (id INTEGER PRIMARY KEY);
"""


_VOTES_OF = "SELECT id FROM votes WHERE id = {}"
HAS_VOTES = "SELECT EXISTS (SELECT 1 FROM votes)"
"""Finds whether a result is made of several answers."""


def facts(names: Sequence[str], root: str, *, has_votes: bool = True) -> tuple[list[str], str]:
    """Return the expressions of facts about a result, in SQL, and the joins of the tables that they are in.

    Args:
        names: of `FACTS`; `attempts` needs `count_attempts` first.
        root: the expression of the id of the request that brought the answer of the row `r`.
        has_votes: a result may be made of several answers; if none is, not looking for them is faster.
    """
    at, joins = root, " LEFT JOIN votes v ON v.id = NULL LEFT JOIN opinions c ON c.id = NULL"
    if has_votes:
        # Its own votes, or those of the answer that a person has replaced.
        of = ("r.result", "(SELECT before FROM rereads WHERE id = r.result)", root)
        at = f"coalesce((SELECT root FROM rereads WHERE id = c.id), c.id, {root})"
        joins = (
            f" LEFT JOIN votes v ON v.id = coalesce({', '.join(f'({_VOTES_OF.format(each)})' for each in of)})"
            f" LEFT JOIN opinions c ON c.id = CASE WHEN v.id IS NOT NULL THEN ({_CHOSEN}) END"
        )
    joins += f" LEFT JOIN responses s ON s.id = {at} LEFT JOIN requests f ON f.id = {at}"
    if "raw" in names:
        joins += f" LEFT JOIN results o ON o.id = {at} LEFT JOIN opinions x ON x.id = {at}"
    if "attempts" in names:
        joins += " LEFT JOIN temp.attempts t ON t.position = f.position AND t.key = f.key"
    if "by" in names:
        joins += " LEFT JOIN results w ON w.id = r.result LEFT JOIN sources g ON g.id = w.source"
    return [f"coalesce({FACTS[name]}, '')" for name in names], joins


def count_attempts(db: sqlite3.Connection) -> None:
    """Count the requests that were added since the last time, but for those that repeat an answered question.

    Lines of batches are not among them: their ids may be lower than those of requests that are counted already.
    """
    db.execute("PRAGMA query_only = OFF")  # a table of the connection alone is written
    for statement in _ATTEMPTS.split(";"):
        db.execute(statement)
    [after] = db.execute("SELECT coalesce(max(id), 0) FROM temp.attempts_until").fetchone()
    [until] = db.execute("SELECT coalesce(max(id), 0) FROM requests").fetchone()
    # Those that had no end may have turned out not to have left.
    ended = "FROM requests WHERE id IN (SELECT id FROM temp.attempts_open) AND outcome"
    db.execute(
        f"INSERT INTO temp.attempts SELECT position, key, -count(*) {ended} = ? GROUP BY position, key"
        " ON CONFLICT DO UPDATE SET requests = requests + excluded.requests",
        (UNSENT,),
    )
    db.execute(f"DELETE FROM temp.attempts_open WHERE id IN (SELECT id {ended} IS NOT NULL)")
    db.execute(
        "INSERT INTO temp.attempts_open SELECT id FROM requests WHERE id > ? AND id <= ? AND outcome IS NULL"
        " AND sent_in IS NULL",
        (after, until),
    )
    db.execute(
        "INSERT INTO temp.attempts SELECT q.position, q.key, count(*) FROM requests q WHERE q.id > ? AND q.id <= ?"
        f" AND q.outcome IS NOT ? AND q.sent_in IS NULL AND q.id NOT IN ({_OF_REPEATS}) GROUP BY q.position, q.key"
        " ON CONFLICT DO UPDATE SET requests = requests + excluded.requests",
        (after, until, UNSENT),
    )
    db.execute("INSERT INTO temp.attempts_until VALUES (?)", (until,))


ROOT = "coalesce((SELECT root FROM rereads WHERE id = {0}), {0})"
"""The id under which `responses` has what came with a result."""
_CURRENT_REPEATS = "p.round = 1 AND p.id NOT IN (SELECT before FROM rereads)"
_AT_ITS_PLACE = f"(SELECT position FROM rows WHERE position = p.position AND key = p.key AND {IN_SCOPE})"
# The requests of rows that were asked once more: each belongs to the end that came next at its row, of the repeat or of
# its result.
_OF_REPEATS = (
    "WITH again AS MATERIALIZED (SELECT DISTINCT position, key FROM opinions WHERE round = 1),"
    " of_them AS MATERIALIZED (SELECT q.id, q.position, q.key, p.round,"
    " p.id IS NOT NULL OR q.id IN (SELECT id FROM results) AS is_end"
    " FROM again CROSS JOIN requests q USING (position, key) LEFT JOIN opinions p ON p.id = q.id)"
    " SELECT id FROM of_them q WHERE 1 = (SELECT e.round FROM of_them e WHERE e.position = q.position"
    " AND e.key = q.key AND e.is_end AND e.id >= q.id ORDER BY e.id LIMIT 1)"
)
# The casts make the cut fall between characters, also in a text that is stored as bytes. The part behind the cause, the
# attempts and seconds, differs from row to row, and so does the name of an image before it.
FAILED = (
    "(SELECT position, status, cast(substr(text, 1, coalesce(nullif(instr(text, ?), 0) - 1, 200)) AS BLOB) AS reason"
    " FROM (SELECT position, status, iif(instr(text, ?) = 1 AND instr(text, ': '),"
    " 'image: ' || substr(text, instr(text, ': ') + 2), text) AS text"
    " FROM (SELECT r.position, a.status, cast(a.error AS TEXT) AS text FROM rows r JOIN results a ON a.id = r.result"
    f" WHERE a.status <> 'ok' AND {IN_SCOPE})))"
)
"""The rows that ended as `invalid` or `error`, with the cause; its parameters are `OF_FAILED`."""
OF_FAILED = (GAVE_UP, OF_AN_IMAGE)
# SQLite takes no more in one statement, if it is old.
_MOST_VALUES = 900
_LINES_AT_ONCE = 1000


def spent_of(found: Sequence[int]) -> Spent:
    """Return what the columns of `SPENT` say."""
    return Spent(whole(*found[:2]), whole(*found[2:4]), *found[4:6])


def _tokens(column: str) -> str:
    """Return the SQL expression of the tokens of all answers; NULL if those of one are not known."""
    paid = f"count(*) FILTER (WHERE is_paid AND {column} IS NULL)"
    return f"CASE {paid} WHEN 0 THEN coalesce(sum({column}) FILTER (WHERE is_paid), 0) END"


class Reader:
    """Reads what is committed, from any thread, also while a run writes the journal.

    Each query raises `OutputError` if the file cannot be read, or if it was written meanwhile and no lock prevents
    that.

    Args:
        path: of the journal.
        connection: to it.
        resources: are closed with the reader.
        opened: how the file was opened, if nothing keeps others from writing it.
    """

    _texts = "results"  # the table that has the results' texts
    given_up: frozenset[int] = frozenset()
    """Ids of batches whose lines do not count as out: their rows are asked online as well."""
    _lines = "requests"  # the one that has the lines of batches without an end, where a plan has moved them

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        resources: contextlib.ExitStack,
        *,
        opened: Opened | None = None,
    ) -> None:
        self.path = path
        self._reader = connection
        self._resources = resources
        self._opened = opened
        self._reading = threading.Lock()
        self._has_unfit: bool | None = None  # an answer to a request that was sent by itself did not fit; None: unknown

    def close(self) -> None:
        with self._reading:  # a thread may still be reading
            self._resources.close()

    @property
    def holds_no_lock(self) -> bool:
        """Whether it keeps no other process from writing the journal while it is open."""
        return self._opened is not None and (self._opened.watched is not None or self._opened.is_copy)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let the block read the present state, even if a run commits meanwhile."""
        self._all("BEGIN")
        try:
            yield
        finally:
            self._all("ROLLBACK")

    # -- Rows

    def counts(self) -> Counts:
        """Count the rows by how they ended."""
        with self._asking():
            return counts(self._reader)

    def cut(self) -> int:
        """Count the rows whose answer was cut off at the most tokens that it may have."""
        alone = "NOT EXISTS (SELECT 1 FROM opinions p WHERE p.id = s.id)"
        cut = f"SELECT id FROM responses s WHERE is_cut AND {alone}"
        again = f"SELECT id FROM rereads WHERE root IN ({cut})"
        of_several = (
            "SELECT p.result FROM responses s JOIN opinions p USING (id) JOIN results w ON w.id = p.result"
            " AND w.source = p.source AND w.status = p.status AND w.answer = p.answer WHERE s.is_cut AND p.round = 0"
        )
        ids = f"{cut} UNION ALL {again} UNION ALL {of_several}"
        return int(self._all(f"SELECT count(*) FROM rows WHERE {IN_SCOPE} AND result IN ({ids})")[0][0])

    def answers_by_tier(self) -> list[tuple[str, int]]:
        """Count the answers by the service tier that gave them, the most frequent first; "": it was not said."""
        said = "SELECT tier, count(*) FROM responses WHERE tier IS NOT NULL GROUP BY tier"
        found = self._all(f"{said} ORDER BY count(*) DESC, tier")
        return [(text_of(tier), int(count)) for tier, count in found]

    def names_tiers(self) -> bool:
        """Return whether a run asked for a service tier: else nothing has to be counted by it, which takes long."""
        return any("tier" in question for question in self.questions())

    def second_sources(self, now: Iterable[Source] = ()) -> frozenset[int]:
        """Return the ids of the sources that were second in any run (`--then`), and of these."""
        asked = (each for question in self.questions() for each in (question.get("then") or {}).get("sources", ()))
        second = {*map(source_of, asked), *now}
        found = self._all("SELECT id, model, base_url, params FROM sources") if second else ()
        return frozenset(number for number, *source in found if source_of(source) in second)

    def went_on(self) -> tuple[int, int]:
        """Count the rows that a second endpoint answered, and those that it was asked about in vain (`--then`)."""
        if not (second := self.second_sources()):
            return 0, 0
        listed = ", ".join(map(str, sorted(second)))
        beyond = f"SELECT v.id FROM votes v JOIN results a USING (id) WHERE a.source IN ({listed})"
        in_vain = f"SELECT result FROM opinions WHERE round = 0 AND source IN ({listed}) AND result = id"
        query = f"SELECT count(*) FROM rows WHERE {IN_SCOPE} AND result IN ({{}})"
        answered, failed = (int(self._all(query.format(each))[0][0]) for each in (beyond, in_vain))
        return answered, failed

    def tied(self) -> int:
        """Count the rows of several answers of which another has as many votes as the one that counts."""
        joined = "opinions p JOIN results w ON w.id = p.result AND w.source = p.source"
        of_them = f"EXISTS (SELECT 1 FROM {joined} WHERE w.id = v.id)"  # else the second endpoint has decided
        tied = f"SELECT id FROM votes v WHERE is_tied AND {of_them}"
        return int(self._all(f"SELECT count(*) FROM rows WHERE {IN_SCOPE} AND result IN ({tied})")[0][0])

    def corrected(self) -> int:
        """Count the rows whose answer a person gave."""
        with self._asking():
            return corrected(self._reader)

    def workbooks_read(self) -> set[Workbook]:
        """Return the workbooks whose corrections are in the journal."""
        found = self._all("SELECT subject, detail FROM events WHERE kind = ?", (READ,))
        return {Workbook(text_of(name), bytes.fromhex(text_of(sha256))) for name, sha256 in found}

    def recall(self, start: int, stop: int) -> None:
        """Make sure that the texts of the results of rows in a range of positions can be read: a copy lacks them."""

    def earlier(self, keys: Collection[bytes]) -> list[tuple[bytes, Result]]:
        """Return each result of these questions that no person gave, with its key; of one question the latest last."""
        lines = self.look_up(
            f"SELECT key, status, answer, error FROM {self._texts} WHERE key IN ({{}})"
            f" AND id NOT IN (SELECT cast(subject AS INTEGER) FROM events WHERE kind = '{CORRECTED}')"
            " ORDER BY id",
            [*keys],
        )
        return [(key, _result(*rest)) for key, *rest in lines]

    def states(self, start: int, stop: int) -> list[RowState]:
        """Return the state of each row in a range of positions."""
        found = self._all(
            "SELECT r.key, r.result, s.leader, (SELECT count(*) FROM same f WHERE f.leader = r.position)"
            f"{self._out()} FROM rows r LEFT JOIN same s USING (position)"
            " WHERE r.position >= ? AND r.position < ? ORDER BY r.position",
            (start, stop),
        )
        return [RowState(*values) for values in found]

    def _out(self) -> str:
        """Return the column that counts the open lines of batches about a row; nothing if no batch is open."""
        if not self._all(f"SELECT EXISTS {batch_queries.OPEN}")[0][0]:
            return ""
        lines = f"SELECT count(*) FROM {self._lines} q WHERE q.sent_in IS NOT NULL AND q.ended IS NULL"
        if self.given_up:
            lines += f" AND q.sent_in NOT IN ({', '.join(map(str, self.given_up))})"
        return f", iif(r.result IS NULL, ({lines} AND q.key = r.key AND q.position = r.position), 0)"

    def states_at(self, positions: Sequence[int]) -> list[RowState]:
        """Return the states of the rows at some positions, in order."""
        return [state for position in positions for state in self.states(position, position + 1)]

    def results_at(self, positions: Sequence[int]) -> list[Result | None]:
        """Return the results of the rows at some positions, in order; None for a row without one."""
        return [result for position in positions for result in self.results_so_far(position, position + 1)]

    def marks(self, start: int, stop: int) -> list[bytes]:
        """Return the marks of each row in a range of positions."""
        found = self._all(
            "SELECT coalesce(cells, x'') FROM rows WHERE position >= ? AND position < ? ORDER BY position",
            (start, stop),
        )
        return [cells for (cells,) in found]

    def results(self, start: int, stop: int) -> list[Result]:
        """Return the results of the rows in a range of positions, all of which have a result."""
        with self._asking():
            return results(self._reader, start, stop)

    def results_so_far(self, start: int, stop: int) -> list[Result | None]:
        """Return the results of the rows in a range of positions; None for a row without one."""
        found = self._all(
            "SELECT a.status, a.answer, a.error FROM rows r LEFT JOIN results a ON a.id = r.result"
            " WHERE r.position >= ? AND r.position < ? ORDER BY r.position",
            (start, stop),
        )
        return [None if each[0] is None else _result(*each) for each in found]

    def beside(self, start: int, stop: int, names: Sequence[str]) -> list[Beside]:
        """Return facts about the answers of the rows in a range of positions.

        Args:
            start: the first position.
            stop: the position after the last.
            names: of the facts, fields of `Beside`; the others are empty.
        """
        with self._asking():
            return beside(self._reader, start, stop, names)

    def responses(self, start: int, stop: int) -> list[Response | None]:
        """Return what the journal has of the responses to the rows in a range of positions; None without a result."""
        root = ROOT.format("a.id")
        found = self._all(
            f"SELECT a.status, a.answer, a.error, a.id < 0 AND a.source IN {OF_PEOPLE}, s.body,"
            " coalesce(s.request_id, ''), coalesce(s.model, ''), s.finish_reason"
            f" FROM rows r LEFT JOIN results a ON a.id = r.result LEFT JOIN responses s ON s.id = {root}"
            " WHERE r.position >= ? AND r.position < ? ORDER BY r.position",
            (start, stop),
        )
        return [None if each[0] is None else Response(_result(*each[:3]), bool(each[3]), *each[4:]) for each in found]

    def scope(self) -> int:
        """Return the number of rows, from the first, that the last plan covered."""
        return int(self._all("SELECT coalesce(max(rows), 0) FROM scope")[0][0])

    def left(self, start: int = 0, stop: int | None = None) -> int:
        """Count the rows in a range of positions, or of all, that point at no result."""
        query = f"SELECT count(*) FROM rows WHERE result IS NULL AND {IN_SCOPE} AND position >= ?"
        end, values = ("", [start]) if stop is None else (" AND position < ?", [start, stop])
        return int(self._all(query + end, values)[0][0])

    def failures(self, most: int = 10) -> list[tuple[str, int]]:
        """Count the rows that ended as `invalid` or `error`, by cause; the most frequent first, of this many causes."""
        found = self._all(
            f"SELECT reason, count(*) AS n FROM {FAILED} GROUP BY reason ORDER BY n DESC, reason LIMIT ?",
            (*OF_FAILED, most),
        )
        return [(text_of(reason), count) for reason, count in found]

    # -- Chunk files

    def behind(self) -> int:
        """Count the rows that were corrected on the page, or taken back, since their chunk files were written."""
        query = (
            "SELECT count(*) FROM rows r JOIN corrections c ON c.id = r.result AND c.origin = ?"
            f" WHERE r.position >= ? AND r.position < ? AND r.result <= ? AND r.{IN_SCOPE}"
        )
        late = ((start, chunk) for start, chunk in self.chunks().items() if chunk.lacks is not None)
        return sum(self._all(query, (REVIEW, start, start + each.rows, each.lacks))[0][0] for start, each in late)

    def is_reviewed(self) -> bool:
        """Return whether a person has ever decided something about a row on the page."""
        return bool(self._all("SELECT EXISTS (SELECT 1 FROM corrections WHERE origin = ?)", (REVIEW,))[0][0])

    def lacked(self, start: int, chunk: Chunk) -> dict[int, int]:
        """Return which rows of a chunk file were corrected on the page since: by position the result in the file."""
        if chunk.lacks is None:
            return {}
        found = self._all(
            """
            WITH RECURSIVE made (position, id, before) AS (
                SELECT r.position, c.id, w.before FROM rows r JOIN corrections c ON c.id = r.result
                JOIN rereads w ON w.id = c.id WHERE r.position >= ? AND r.position < ? AND r.result < 0 AND c.origin = ?
                UNION ALL SELECT m.position, c.id, w.before FROM made m JOIN corrections c ON c.id = m.before
                JOIN rereads w ON w.id = c.id WHERE c.origin = ?)
            SELECT position, before FROM made WHERE id <= ? ORDER BY id
            """,
            (start, start + chunk.rows, REVIEW, REVIEW, chunk.lacks),
        )
        return dict(found)  # the earliest of a row comes last

    def decided_at(self, start: int, stop: int) -> dict[int, int]:
        """Return the rows in a range of positions whose result was decided on the page: position and result."""
        return dict(
            self._all(
                "SELECT r.position, r.result FROM rows r JOIN corrections c ON c.id = r.result AND c.origin = ?"
                " WHERE r.position >= ? AND r.position < ? AND r.result < 0",
                (REVIEW, start, stop),
            )
        )

    def results_of(self, ids: Collection[int]) -> dict[int, Result]:
        """Return some results, by their ids."""
        found = self.look_up(f"SELECT id, status, answer, error FROM {self._texts} WHERE id IN ({{}})", [*ids])
        return {number: _result(*texts) for number, *texts in found}

    def models_of(self, ids: Collection[int]) -> dict[int, str]:
        """Return who gave some results, as `Beside.by` has it, by their ids."""
        query = f"SELECT a.id, {FACTS['by']} FROM results a JOIN sources g ON g.id = a.source WHERE a.id IN ({{}})"
        return {number: text_of(name) for number, name in self.look_up(query, [*ids])}

    def of_people(self, ids: Collection[int]) -> set[int]:
        """Return those of some results that a person gave."""
        found = self.look_up(f"SELECT id FROM results WHERE source IN {OF_PEOPLE} AND id IN ({{}})", [*ids])
        return {number for (number,) in found}

    def of_page(self, ids: Collection[int]) -> set[int]:
        """Return those of some results that were made on the page."""
        found = self.look_up(f"SELECT id FROM corrections WHERE origin = '{REVIEW}' AND id IN ({{}})", [*ids])
        return {number for (number,) in found}

    def chunks(self) -> dict[int, Chunk]:
        """Return the chunk files that were written, by the position of their first row."""
        found = self._all("SELECT start, rows, origin, sha256 FROM chunks WHERE sha256 <> x'' ORDER BY start")
        return {start: Chunk(*rest) for start, *rest in found}

    def joined(self, name: str) -> set[bytes]:
        """Return the SHA-256 of each result of this name that was joined, or was about to be when the process ended."""
        found = self._all("SELECT detail FROM events WHERE kind = ? AND subject = ?", (JOINED, name))
        return {bytes.fromhex(text_of(detail)) for (detail,) in found}

    def chunk_starts(self) -> set[int]:
        """Return the first positions of our chunk files, including files that a killed process may have written."""
        return {start for (start,) in self._all("SELECT start FROM chunks")}

    # -- Runs

    def last_run(self) -> LastRun | None:
        """Return the latest process that worked on this keyword."""
        found = self._all(
            "SELECT id, host, pid, started, ended, outcome, chunk_size, question FROM runs ORDER BY id DESC LIMIT 1"
        )
        if not found:
            return None
        number, host, pid, started, ended, outcome, chunk_size, question = found[0]
        outcome = None if outcome is None else text_of(outcome)
        try:
            asked = json.loads(question)
        except (TypeError, ValueError) as error:  # a disk has changed it
            raise OutputError(f"the journal {self.path} is damaged: run {number} has no question: {error}") from error
        return LastRun(number, host, pid, started, ended, outcome, chunk_size, asked)

    def outcomes_of_same_run(self) -> list[str]:
        """Return how earlier processes ended that asked the same as the latest, and the same services."""
        latest = "(SELECT question FROM runs ORDER BY id DESC LIMIT 1)"
        found = self._all(f"SELECT outcome FROM runs WHERE outcome IS NOT NULL AND question = {latest} ORDER BY id")
        return [text_of(outcome) for (outcome,) in found]

    def failed_before(self, rows: int) -> bytearray:
        """Return a bit for each row, the lowest first: 1 if it has no result, and an answer to its question failed."""
        query = (
            f"SELECT f.position FROM results a JOIN requests f ON f.id = {ROOT.format('a.id')}"
            " JOIN rows r ON r.position = f.position AND r.key = f.key"
            " WHERE a.status <> 'ok' AND r.result IS NULL AND f.position < ?"
        )
        bits = bytearray(rows // 8 + 1)
        with self._asking():
            for (position,) in self._reader.execute(query, (rows,)):
                bits[position >> 3] |= 1 << (position & 7)
        return bits

    def questions(self) -> list[dict[str, Any]]:
        """Return the different questions that were asked, with their sources; the latest first."""
        found = self._all("SELECT question FROM runs GROUP BY question ORDER BY max(id) DESC")
        return [question_of(text) for (text,) in found]

    def questions_of(self, runs: Collection[int]) -> dict[int, dict[str, Any]]:
        """Return the questions of some processes, with their sources."""
        marks = ", ".join("?" * len(runs))
        found = self._all(f"SELECT id, question FROM runs WHERE id IN ({marks})", (*runs,))
        return {number: question_of(text) for number, text in found}

    def paused(self, run: int) -> list[tuple[float, str, str]]:
        """Return the endpoints of one process that have paused and not resumed: time, endpoint and reason."""
        found = self._all(
            "SELECT at, subject, detail FROM events e WHERE run = ? AND kind = 'paused' AND NOT EXISTS"
            " (SELECT 1 FROM events r WHERE r.run = e.run AND r.kind = 'resumed' AND r.subject = e.subject"
            " AND r.id > e.id) ORDER BY id",
            (run,),
        )
        return [(at, text_of(subject), text_of(detail)) for at, subject, detail in found]

    def by_hand(self, run: int, kinds: Sequence[str] = BY_HAND) -> list[ByHand]:
        """Return what people changed in one process while it worked, in the order in which it happened.

        Args:
            run: the process.
            kinds: of the events.
        """
        marks = ", ".join("?" * len(kinds))
        found = self._all(
            f"SELECT at, kind, subject, detail FROM events WHERE run = ? AND kind IN ({marks}) ORDER BY id",
            (run, *kinds),
        )
        return [ByHand(at, kind, text_of(subject), text_of(detail)) for at, kind, subject, detail in found]

    def ignored(self) -> list[tuple[str, str]]:
        """Return the request parameters that services ignore: the endpoint, and what became of which parameter."""
        found = self._all(
            "SELECT subject, detail FROM events WHERE kind = ? GROUP BY subject, detail ORDER BY min(id)", (IGNORED,)
        )
        return [(text_of(subject), text_of(detail)) for subject, detail in found]

    def begun_answers(self) -> int:
        """Count the rows without an answer that have a part of one, which was cut off."""
        query = (
            "SELECT count(DISTINCT r.position) FROM partials JOIN requests q USING (id)"
            " JOIN rows r ON r.position = q.position AND r.key = q.key LEFT JOIN results a ON a.id = r.result"
            f" WHERE r.{IN_SCOPE} AND coalesce(a.status, 'error') = 'error'"
        )
        return int(self._all(query)[0][0])

    # -- Requests

    def totals(self, run: int | None = None) -> Totals:
        """Add up the requests of one process, or of all."""
        # A row is the same in one process only: the next one may find another row at its position.
        rows = f"count(DISTINCT run << 40 | position) FILTER (WHERE {_IS_ATTEMPT})"
        of_run = "" if run is None else " AND run = ?"
        [found] = self._all(
            f"SELECT {SENT}, {_LOST_MOST}, count(*) FILTER (WHERE {_IS_OPEN_LINE}), {rows},"
            f" count(*) FILTER (WHERE NOT is_first), {_tokens('prompt_tokens')}, {_tokens('completion_tokens')},"
            f" {SPENT} FROM {CHARGED} WHERE {WAS_ASKED}{of_run}",
            () if run is None else (run,),
        )
        sent, answered, failed, out, hedged, lost = found[:6]
        lost_most = None if found[6] else whole(*found[7:9])
        lines, first, others, prompt_tokens, completion_tokens = found[9:14]
        of_run += f" AND {_IS_ATTEMPT}"
        if others:  # rows have shared requests: the first attempts are those whose first row was not asked before
            [(first,)] = self._all(
                f"SELECT count(*) FROM (SELECT min(id) AS id, batch FROM requests WHERE {WAS_ASKED}{of_run}"
                " GROUP BY run, position) WHERE batch IS NULL OR batch = id",
                () if run is None else (run,),
            )
        if self._has_opinions():  # a row was asked several times: the first attempt of each time is no retry
            first = self._asks(of_run, run)
        retries, spent = max(sent - lines - first - hedged - lost, 0), spent_of(found[14:])
        return Totals(
            sent, answered, failed, out, retries, prompt_tokens, completion_tokens, spent, hedged, lost, lost_most
        )

    def _has_opinions(self) -> bool:
        return bool(self._all("SELECT EXISTS (SELECT 1 FROM opinions)")[0][0])

    def _asks(self, of_run: str, run: int | None) -> int:
        """Count how often rows were asked, each time with one request or more: each has an end, or is under way."""
        ended = "id IN (SELECT id FROM opinions) OR id IN (SELECT id FROM results)"
        each = f"SELECT id, run, position, {ended} AS is_end FROM requests WHERE {WAS_ASKED}{of_run}"
        [(asks,)] = self._all(
            "SELECT coalesce(sum(ends + (latest > latest_end)), 0) FROM (SELECT count(*) FILTER (WHERE is_end) AS ends,"
            " max(id) AS latest, coalesce(max(id) FILTER (WHERE is_end), 0) AS latest_end"
            f" FROM ({each}) GROUP BY run, position)",
            () if run is None else (run,),
        )
        return int(asks)

    def seconds(self, at_work: int | None = None) -> dict[int, float]:
        """Return how long each process worked, in seconds; a killed process until the last that the journal has of it.

        Args:
            at_work: the process that works now.
        """
        found = self._all(
            "SELECT id, started, CASE WHEN id = ? AND ended IS NULL THEN ? ELSE coalesce(ended, latest, started) END"
            " FROM runs LEFT JOIN (SELECT run, max(iif(sent_in IS NULL, coalesce(ended, sent), sent)) AS latest"
            " FROM requests"
            " WHERE run IN (SELECT id FROM runs WHERE ended IS NULL) GROUP BY run) ON run = id",
            (at_work, time.time()),
        )
        return {run: max(until - started, 0.0) for run, started, until in found}  # a clock may be set back

    def in_flight(self, run: int) -> InFlight:
        """Count the requests of one process without an end: in flight now, or when the process ended.

        Those in a batch are not in flight: they go on without a process.
        """
        query = (
            f"SELECT count(*) FILTER (WHERE is_first), count(charged) FILTER (WHERE is_first), {exact_sum('charged')}"
            f" FROM {CHARGED} WHERE ended IS NULL AND sent_in IS NULL AND run = ?"
        )
        [(count, priced, *most)] = self._all(query, (run,))
        return InFlight(count, whole(*most) if count == priced else None)

    def rows_in_flight(self) -> int:
        """Count the rows of requests in flight, of all processes; several rows may share a request."""
        return int(self._all("SELECT count(*) FROM requests WHERE ended IS NULL AND sent_in IS NULL")[0][0])

    # -- Batches

    def batches(self, *, is_open: bool | None = None) -> list[Batch]:
        """Return the batches, the first one first.

        Args:
            is_open: only those of which a line may have no end, or only the others; None: all.
        """
        return batch_queries.batches(self._all, is_open=is_open)

    def lines(self, batch: int, after: int = 0, most: int = 10_000) -> list[Line]:
        """Return the lines of a batch that have no end yet, in the order of their ids.

        Args:
            batch: its id.
            after: only those with a higher id.
            most: how many at most.
        """
        return batch_queries.lines(self._all, batch, after, most)

    def lines_of(self, batch: int, ids: Sequence[int]) -> dict[int, Line]:
        """Return those of some requests that are lines of a batch, by their ids, those that have their end included."""
        return batch_queries.lines_of(self._all, batch, ids)

    def latest_unfit(self, line: Request) -> tuple[Request, Outcome, str] | None:
        """Return the latest answer that did not fit, to the question and the row of a request; None if there is none.

        It is its own request, how that would end if its answer counted, and the answer's text.
        """
        if self._has_unfit is None:
            query = "SELECT EXISTS (SELECT 1 FROM requests WHERE outcome = ? AND sent_in IS NULL)"
            self._has_unfit = bool(self._all(query, (UNFIT,))[0][0])
        return batch_queries.latest_unfit(self._all, line, is_online=self._has_unfit)

    def batch_counts(self) -> list[BatchCounts]:
        """Return what became of the lines of each batch, the first batch first."""
        return batch_queries.counts(self._all, CHARGED)

    def refusals_of(self, key: bytes, position: int | None = None) -> dict[str, int]:
        """Count the lines about a question that ended without an answer since one of them was answered, by outcome.

        Lines whose answer did not fit count as `unfit`.

        Args:
            key: of the question.
            position: only those about the row that stood here when they ended; None: about any row.
        """
        return batch_queries.refusals(self._all, key, position)

    def has_answered(self, source: int) -> bool:
        """Return whether this source has ever answered."""
        query = f"SELECT EXISTS (SELECT 1 FROM requests WHERE source = ? AND {_ANSWERED})"
        return bool(self._all(query, (source,))[0][0])

    def spent(self) -> Spent:
        """Add up what all requests of this keyword cost."""
        [found] = self._all(f"SELECT {SPENT} FROM {CHARGED}")
        return spent_of(found)

    def spent_before(self) -> tuple[int, int | None]:
        """Return the requests so far, and the nano-dollars for their answers; None if the price of some is unknown."""
        spent = self.spent()
        query = f"SELECT count(*) FROM requests WHERE {WAS_ASKED} AND (batch IS NULL OR batch = id)"
        [(requests,)] = self._all(query)
        return requests, spent.cost

    def lost(self, most: int) -> list[tuple[bytes, int, Bound]]:
        """Return the latest requests, this many at most, that are charged at their bounds for want of an answer.

        Of each the key of the question, the id of the source, and the bound. A request is left out if its question has
        been answered at another time, or if it is in a batch that is not over.
        """
        found = self._all(
            "WITH lost AS MATERIALIZED (SELECT key, source, prompt_most, cost, answer_cost FROM requests"
            f" WHERE ({PAID}) IS NOT TRUE AND answer_cost < cost AND (sent_in IS NULL OR ended IS NOT NULL)"
            " ORDER BY id DESC LIMIT ?)"
            " SELECT * FROM lost WHERE (key, source) NOT IN (SELECT key, source FROM requests"
            f" WHERE {PAID} AND prompt_tokens > 0 AND (key, source) IN (SELECT key, source FROM lost))"
            " AND (key, source) NOT IN (SELECT key, source FROM partials p JOIN requests USING (id)"
            " WHERE p.prompt_tokens > 0)",
            (most,),
        )
        return [(key, source, Bound(most, None, cost, answer)) for key, source, most, cost, answer in found]

    def unfit_texts(self, without: Collection[int] = ()) -> dict[bytes, str]:
        """Return the latest answer that did not fit of each row that has no result, by the row's key.

        Args:
            without: ids of sources whose answers are left out.
        """
        others = ", ".join(map(str, sorted(without)))
        found = self._all(
            "SELECT q.key, coalesce(s.text, '') FROM requests q JOIN responses s USING (id) WHERE q.outcome = ?"
            f" AND q.key IN (SELECT key FROM rows WHERE result IS NULL AND {IN_SCOPE})"
            " AND NOT EXISTS (SELECT 1 FROM opinions p WHERE p.key = q.key AND p.result IS NULL AND p.id >= q.id)"
            f" AND q.source NOT IN ({others}) ORDER BY q.id",
            (UNFIT,),
        )
        return {key: text_of(text) for key, text in found}

    def sources_of(self, ids: Collection[int]) -> list[Source]:
        """Return sources by their ids."""
        marks = ", ".join("?" * len(ids))
        found = self._all(f"SELECT model, base_url, params FROM sources WHERE id IN ({marks}) ORDER BY id", (*ids,))
        return [Source(*map(text_of, each)) for each in found]

    def has_open_opinions(self) -> bool:
        """Return whether there is an answer that waits for others to its question (`--samples`)."""
        return bool(self._all("SELECT EXISTS (SELECT 1 FROM opinions WHERE result IS NULL)")[0][0])

    def answered_from(self, endpoint: int) -> list[int]:
        """Return the positions of the rows whose result came with an answer of an endpoint from this place on."""
        query = (
            f"SELECT r.position FROM rows r JOIN requests q ON q.id = r.result WHERE r.{IN_SCOPE} AND q.endpoint >= ?"
            " AND q.outcome = 'answered' ORDER BY r.position"
        )
        return [position for (position,) in self._all(query, (endpoint,))]

    def has_scores(self, sources: Collection[int]) -> bool:
        """Return whether an answer of these sources has a confidence."""
        marks = ", ".join("?" * len(sources))
        query = (
            "SELECT EXISTS (SELECT 1 FROM responses s JOIN requests q USING (id)"
            f" WHERE s.confidence IS NOT NULL AND q.source IN ({marks}))"
        )
        return bool(self._all(query, (*sources,))[0][0])

    def open_opinions(self, position: int, key: bytes, sources: Collection[int]) -> tuple[list[Opinion], list[Opinion]]:
        """Return the answers to a row's question that belong to no result yet, in the order in which they came.

        The first list has the row's own. The second has those of other rows, none of which waits for them.

        Args:
            position: of the row.
            key: of its question.
            sources: ids of those whose answers count; answers adopted from files count, too.
        """
        marks = ", ".join("?" * len(sources))
        found = self._all(
            "SELECT p.position = ?, p.id, p.source, p.status, p.answer, p.error, s.confidence"
            " FROM opinions p LEFT JOIN rereads w USING (id) LEFT JOIN responses s ON s.id = coalesce(w.root, p.id)"
            f" WHERE p.key = ? AND {waiting('p')} AND (p.source IN ({marks}) OR p.source IN {_ADOPTED})"
            " AND (p.position = ? OR NOT EXISTS"
            " (SELECT 1 FROM rows r WHERE r.position = p.position AND r.key = p.key AND r.result IS NULL"
            f" AND r.{IN_SCOPE} AND r.position NOT IN (SELECT position FROM same))) ORDER BY p.id",
            (position, key, *sources, position),
        )
        each = [(own, Opinion(number, source, _result(*texts), sure)) for own, number, source, *texts, sure in found]
        return [opinion for own, opinion in each if own], [opinion for own, opinion in each if not own]

    def repeated(self, same: Callable[[str], str]) -> list[Repeated]:
        """Return the rows that were asked once more, in the order of their positions, each with both results.

        Args:
            same: returns the same text for answers that are equal (`sameness`): several answers vote.
        """
        # Whatever the result is made of meanwhile: each is an answer to the same question.
        elsewhere = "(SELECT min(position) FROM rows WHERE key = p.key)"
        found = self._all(
            "SELECT r.position, a.status, a.answer, a.error, p.status, p.answer, p.error FROM opinions p"
            f" JOIN {AS_ANSWERED} r ON r.position = coalesce({_AT_ITS_PLACE}, {elsewhere})"
            " JOIN results a ON a.id = r.result"
            f" WHERE {_CURRENT_REPEATS} AND r.{IN_SCOPE} AND r.is_kept IS NULL AND {self._is_of_pool()}"
            " ORDER BY r.position, p.id"
        )
        repeated = []
        for position, lines in itertools.groupby(found, itemgetter(0)):
            (_, *had, status, answer, error), *more = lines
            again = [_result(status, answer, error), *(_result(*line[4:]) for line in more)]
            repeated.append(Repeated(position, _result(*had), again[vote(again, same).chosen]))
        return repeated

    def asked_again(self, positions: Iterable[int], sources: Collection[int], samples: int) -> Iterator[Again]:
        """Yield what is known of asking rows once more, of those that may be (`--repeat-sample`), in the order given.

        A row may be if its result is a model's answer to its question, or is not there yet.

        Args:
            positions: of the rows.
            sources: ids of those whose answers count.
            samples: how many answers a row should have to asking it again.
        """
        strangers = f"(a.source IN {OF_PEOPLE} OR a.source IN {_ADOPTED})"
        counted = f"{_CURRENT_REPEATS} AND p.source IN ({', '.join(str(int(each)) for each in sources)})"
        # Answers to rows that stand elsewhere now: those of each place are taken by one row that lacks some.
        moved: dict[bytes, list[int]] = {}
        for key, answers in self._all(
            f"SELECT p.key, count(*) FROM opinions p WHERE {counted} AND {_AT_ITS_PLACE} IS NULL"
            " GROUP BY p.key, p.position ORDER BY p.position"
        ):
            moved.setdefault(key, []).append(answers)
        query = (
            "SELECT r.position, r.key, r.result, (SELECT count(*) FROM opinions p WHERE p.key = r.key"
            f" AND p.position = r.position AND {counted}) FROM rows r LEFT JOIN results a ON a.id = r.result"
            " WHERE r.position = ? AND r.is_kept IS NULL"
            f" AND (r.result IS NULL OR (a.status <> 'error' AND NOT {strangers}))"
        )
        for position in positions:
            for line in self._all(query, (position,)):
                again = Again._make(line)
                while again.answers < samples and (others := moved.get(again.key)):
                    again = again._replace(answers=again.answers + others.pop(0))
                yield again

    def _is_of_pool(self) -> str:
        """Return the condition for an answer `p` of a source that the last run asked."""
        last = self.last_run()
        asked = {source_of(each) for each in (last.question.get("sources") or ())} if last else set()
        found = self._all("SELECT id, model, base_url, params FROM sources")
        return f"p.source IN ({', '.join(str(number) for number, *source in found if source_of(source) in asked)})"

    def details(self, kinds: Collection[str]) -> list[str]:
        """Return the details of the events of these kinds, in the order in which they happened."""
        marks = ", ".join("?" * len(kinds))
        found = self._all(f"SELECT detail FROM events WHERE kind IN ({marks}) ORDER BY id", (*kinds,))
        return [text_of(detail) for (detail,) in found]

    def usual(self, sources: Collection[int] | None = None) -> Usual | None:
        """Return the averages of an answer; None before the first answer whose usage is known.

        Args:
            sources: ids of those whose answers count; default: all.
        """
        of = "" if sources is None else f" AND source IN ({', '.join('?' * len(sources))})"
        query = (
            "SELECT avg(prompt_tokens), avg(completion_tokens), avg(cost) FROM requests"
            f" WHERE completion_tokens > 0 AND prompt_tokens IS NOT NULL{of}"
        )
        [found] = self._all(query, tuple(sources or ()))
        return None if found[0] is None else Usual(*found)

    def ended_since(self, moment: float) -> int:
        """Count the rows whose result came after a moment, in seconds since the epoch; rows may share a request.

        Those that came with a batch do not count: they come all at once.
        """
        latest = "SELECT id FROM requests WHERE ended > ? AND sent_in IS NULL"
        query = f"SELECT count(*) FROM rows WHERE {IN_SCOPE} AND result IN ({latest})"
        return int(self._all(query, (moment,))[0][0])

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Let the block query, one thread at a time.

        Raises:
            OutputError: the file cannot be read, or was written meanwhile and no lock prevents that.
        """
        with self._reading, as_output_errors(self.path, "read"):
            try:
                yield
            finally:
                if self._opened and not is_as_before(self.path, self._opened):
                    raise OutputError(f"the journal {self.path} was written while it was read: do it again")

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._asking():
            return self._reader.execute(query, values).fetchall()

    def stream(self, query: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield what a query finds, some lines at a time; it is for functions of this package."""
        with self._asking():
            cursor = self._reader.execute(query, values)
        while True:
            with self._asking():
                found = cursor.fetchmany(_LINES_AT_ONCE)
            if not found:
                return
            yield from found

    def look_up(self, query: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """Yield what a query finds for many values, part by part; they stand for `{}`. It is for this package."""
        for start in range(0, len(values), _MOST_VALUES):
            part = values[start : start + _MOST_VALUES]
            yield from self._all(query.format(", ".join("?" * len(part))), part)


def _result(status: str, answer: str | bytes, error: str | bytes) -> Result:
    return Result(Status(status), text_of(answer), text_of(error))


def counts(db: sqlite3.Connection) -> Counts:
    """Count the rows by how they ended, as one connection sees them."""
    total = db.execute(f"SELECT count(*) FROM rows WHERE {IN_SCOPE}").fetchone()[0]
    ended = dict(
        db.execute(
            "SELECT a.status, count(*) FROM rows r JOIN results a ON a.id = r.result"
            f" WHERE {IN_SCOPE} GROUP BY a.status"
        ).fetchall()
    )
    return Counts(total, *(ended.get(status.value, 0) for status in (Status.OK, Status.INVALID, Status.ERROR)))


def corrected(db: sqlite3.Connection) -> int:
    """Count the rows whose answer a person gave, as one connection sees them."""
    source = db.execute("SELECT id FROM sources WHERE model = ? AND base_url = '' AND params = ''", PERSON[:1])
    if (found := source.fetchone()) is None:
        return 0
    query = f"SELECT count(*) FROM rows r JOIN results a ON a.id = r.result WHERE {IN_SCOPE} AND result < 0"
    return int(db.execute(f"{query} AND a.source = ?", found).fetchone()[0])


def results(db: sqlite3.Connection, start: int, stop: int) -> list[Result]:
    """Return the results of the rows in a range of positions, as one connection sees them."""
    found = db.execute(
        "SELECT a.status, a.answer, a.error FROM rows r JOIN results a ON a.id = r.result"
        " WHERE r.position >= ? AND r.position < ? ORDER BY r.position",
        (start, stop),
    )
    return [Result(Status(status), text_of(answer), text_of(error)) for status, answer, error in found]


def beside(db: sqlite3.Connection, start: int, stop: int, names: Sequence[str]) -> list[Beside]:
    """Return facts about the answers of the rows in a range of positions, as one connection sees them."""
    if "attempts" in names:
        count_attempts(db)
    if not names:
        return [Beside()] * (stop - start)
    [has_votes] = db.execute(HAS_VOTES).fetchone()
    columns, joins = facts(names, ROOT.format("r.result"), has_votes=bool(has_votes))
    found = db.execute(
        f"SELECT {', '.join(columns)} FROM rows r{joins} WHERE r.position >= ? AND r.position < ? ORDER BY r.position",
        (start, stop),
    )
    return [Beside(**dict(zip(names, map(text_of, values), strict=True))) for values in found]


def question_of(text: Any) -> dict[str, Any]:
    """Return a process's question and sources; empty if a disk has changed it."""
    with contextlib.suppress(TypeError, ValueError):
        question = json.loads(text)
        return question if isinstance(question, dict) else {}
    return {}

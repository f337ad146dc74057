"""Reads a journal for `verify`: rows, results and requests as they are in the file, right or wrong.

Invariant: values changed by a disk or by hand do not stop the reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Any

from batcher.journal.corrections import BY_HAND, REVIEW
from batcher.journal.entries import (
    CORRECTED,
    RESERVED,
    TOO_LARGE,
    UNFIT,
    UNSENT,
    BatchState,
    EndpointTotals,
    Opinion,
    RowRecord,
    source_of,
)
from batcher.journal.reading import (
    CHARGED,
    HAS_VOTES,
    ROOT,
    SENT,
    SPENT,
    WAS_ASKED,
    Reader,
    count_attempts,
    facts,
    question_of,
    spent_of,
)
from batcher.journal.rules import Least
from batcher.journal.schema import ADOPTED, IN_SCOPE, PERSON
from batcher.records import Result, Source, Status

# Results that answers have been voted on for, and not those of a second endpoint, whose own answer is the result.
_OF_A_VOTE = (
    "(SELECT v.id FROM votes v LEFT JOIN requests q USING (id)"
    f" WHERE q.outcome = '{UNSENT}' OR v.id IN (SELECT id FROM opinions))"
)


_STATUSES = {status.value.encode(): status for status in Status}


class Unreconciled(Enum):
    """The ways in which requests and results may contradict each other; each is the query that finds their ids."""

    BROUGHT_NONE = (
        "SELECT id FROM requests q WHERE outcome = 'answered'"
        " AND NOT EXISTS (SELECT 1 FROM results a WHERE a.id = q.id)"
        " AND NOT EXISTS (SELECT 1 FROM opinions p WHERE p.id = q.id)"
    )
    BROUGHT_BY_NONE = (
        "SELECT a.id FROM results a LEFT JOIN requests q ON q.id = a.id WHERE CASE WHEN a.id > 0 THEN q.id IS NULL"
        " WHEN a.id IN (SELECT id FROM rereads) THEN NOT EXISTS (SELECT 1 FROM rereads w JOIN results o"
        f" ON o.id = w.root WHERE w.id = a.id AND (a.source = {BY_HAND} OR o.key = a.key"
        " AND (a.source = o.source OR a.id IN (SELECT id FROM votes)))"
        f" AND (o.id NOT IN (SELECT id FROM rereads) OR o.source = {BY_HAND}))"
        " ELSE coalesce(a.source, 0) NOT IN"
        " (SELECT id FROM sources WHERE model IN (?, ?) AND base_url = '' AND params = '') END"
    )
    OTHER_QUESTION = (
        "SELECT a.id FROM results a JOIN requests q ON q.id = a.id WHERE a.key <> q.key"
        f" OR a.source <> q.source AND a.id NOT IN {_OF_A_VOTE}"
        " UNION SELECT p.id FROM opinions p JOIN requests q USING (id) WHERE p.key <> q.key OR p.source <> q.source"
    )
    OTHER_OUTCOME = (
        "SELECT a.id FROM results a JOIN requests q ON q.id = a.id"
        " WHERE (q.outcome IS NULL OR (q.outcome = 'answered') = (a.status = 'error'))"
        f" AND a.id NOT IN {_OF_A_VOTE}"
        " UNION SELECT p.id FROM opinions p JOIN requests q USING (id)"
        " WHERE q.outcome IS NULL OR (q.outcome = 'answered') = (p.status = 'error')"
    )
    NEVER_ENDED = (
        "SELECT q.id FROM requests q JOIN runs r ON r.id = q.run WHERE q.outcome IS NULL AND r.outcome = 'done'"
        " AND q.sent_in IS NULL"
        " UNION SELECT id FROM requests WHERE (ended IS NULL) <> (outcome IS NULL)"
    )
    OF_NOBODY = (
        "SELECT id FROM requests WHERE run NOT IN (SELECT id FROM runs) OR source NOT IN (SELECT id FROM sources)"
    )
    CUT_OFF = (
        "SELECT p.id FROM partials p LEFT JOIN requests q USING (id)"
        f" WHERE q.id IS NULL OR q.outcome IN ('answered', '{UNFIT}', '{TOO_LARGE}')"
    )

    LINE_OTHER = (
        "SELECT q.id FROM requests q LEFT JOIN batches b ON b.id = q.sent_in"
        " WHERE q.sent_in IS NOT NULL AND (b.id IS NULL"
        f" OR b.state = '{BatchState.DONE}' AND q.outcome IS NULL"
        f" OR b.state = '{BatchState.DROPPED}' AND q.outcome IS NOT '{UNSENT}'"
        " OR b.source <> q.source)"
    )
    OPINION_OF_NONE = (
        "SELECT p.id FROM opinions p WHERE CASE WHEN p.id > 0 THEN p.id NOT IN (SELECT id FROM requests)"
        " ELSE p.id NOT IN (SELECT id FROM rereads) AND p.id NOT IN (SELECT id FROM results) END"
        " OR p.result NOT IN (SELECT id FROM results)"
    )
    COUNTED_TWICE = (
        "SELECT p.id FROM opinions p JOIN results a USING (id) WHERE p.round <> 0"
        " OR p.id NOT IN (SELECT id FROM votes) AND (p.status <> a.status OR p.answer <> a.answer)"
        " UNION SELECT id FROM opinions WHERE round = 0 AND result IS NOT id AND id IN (SELECT result FROM rows)"
    )
    OTHER_BATCH = (
        "SELECT q.id FROM requests q LEFT JOIN requests h ON h.id = q.batch WHERE q.batch IS NOT NULL"
        " AND (h.batch IS NOT h.id OR h.run <> q.run OR h.endpoint <> q.endpoint OR h.source <> q.source"
        " OR h.sent <> q.sent OR h.outcome IS NOT q.outcome OR q.id < h.id)"
    )


class Evidence(Reader):
    """A reader with the queries of `verify`."""

    def damage(self) -> list[str]:
        """Return SQLite's findings about the file's structure, at most five."""
        return [str(line) for (line,) in self._all("PRAGMA integrity_check(5)") if line != "ok"]

    def records(self, start: int, stop: int, extras: Sequence[str] = ()) -> list[RowRecord]:
        """Return the rows in a range of positions, each with its result, as the journal has them, right or wrong.

        Args:
            start: the first position.
            stop: the position after the last.
            extras: facts to read as well, fields of `Beside`.
        """
        if "attempts" in extras:
            with self._asking():
                count_attempts(self._reader)
        columns, joins = facts(extras, ROOT.format("r.result"), has_votes=self.has_votes()) if extras else ([], "")
        more = "".join(f", cast({column} AS BLOB)" for column in columns)
        found = self._all(
            # As bytes: a text that a disk has changed may not be valid any more.
            "SELECT r.position, r.key, r.cells, r.is_kept, r.result, a.id, a.key, a.source, q.run, a.seal,"
            " iif(typeof(a.status) = 'text', cast(a.status AS BLOB), x''),"
            f" cast(a.answer AS BLOB), cast(a.error AS BLOB){more}"
            f" FROM rows r LEFT JOIN results a ON a.id = r.result LEFT JOIN requests q"
            f" ON q.id = {ROOT.format('a.id')}{joins}"
            " WHERE r.position >= ? AND r.position < ? ORDER BY r.position",
            (start, stop),
        )
        width = len(RowRecord._fields) - 1
        return [RowRecord._make([*values[:width], tuple(values[width:])]) for values in found]

    def thoughts(self, start: int, stop: int) -> list[tuple[int, bytes, bytes, bytes]]:
        """Return the answers with reasoning in a range of positions whose body is kept.

        Of each the position, the answer, the reasoning and the compressed body, right or wrong.
        """
        return self._all(
            "SELECT r.position, cast(coalesce(s.text, p.answer, a.answer) AS BLOB), cast(s.reasoning AS BLOB),"
            " cast(s.body AS BLOB) FROM (SELECT position, {} AS root FROM rows) r".format(ROOT.format("result"))
            + " JOIN results a ON a.id = r.root JOIN responses s ON s.id = r.root LEFT JOIN opinions p ON p.id = r.root"
            " WHERE r.position >= ? AND r.position < ? AND s.reasoning <> '' AND s.body IS NOT NULL",
            (start, stop),
        )

    def opinions(self, result: int) -> tuple[tuple[int, int, bool], list[Opinion]] | None:
        """Return how a vote for a result went, and the answers that it was about, right or wrong.

        The first part is what the journal says: how many answers came, how many agree, and whether another has as many.
        None if the result is made of one answer.
        """
        votes = self._all("SELECT answers, for_it, is_tied FROM votes WHERE id = ?", (result,))
        if not votes:
            return None
        found = self._all(
            "SELECT id, source, cast(status AS BLOB), cast(answer AS BLOB), cast(error AS BLOB) FROM opinions"
            " WHERE result = ? AND round = 0 ORDER BY id",
            (result,),
        )
        opinions = [
            Opinion(number, source, Result(_STATUSES.get(status, Status.ERROR), *(map(_text, texts))))
            for number, source, status, *texts in found
        ]
        answers, for_it, is_tied = votes[0]
        return (answers, for_it, bool(is_tied)), opinions

    def uncertain(self, least: Least) -> set[int]:
        """Return the ids of the results of rows that need a second endpoint's answer, and have none."""
        joins, too_few = least.too_few()
        found = self._all(
            f"SELECT a.id FROM rows r JOIN results a ON a.id = r.result {joins}"
            f" WHERE r.is_kept IS NULL AND r.{IN_SCOPE} AND {too_few}"
        )
        return {number for (number,) in found}

    def has_votes(self) -> bool:
        """Return whether a result is made of several answers."""
        return bool(self._all(HAS_VOTES)[0][0])

    def corrections(self, start: int, stop: int) -> tuple[int, int]:
        """Count the rows in a range of positions whose answer a person gave, and the cells that it changed."""
        [(rows, cells)] = self._all(
            "SELECT count(*), coalesce(sum(iif(o.id IS NULL, 1,"
            " (a.answer <> o.answer) + (a.status <> o.status) + (a.error <> o.error))), 0)"
            " FROM rows r JOIN results a ON a.id = r.result"
            f" LEFT JOIN (SELECT cast(subject AS INTEGER) AS id, cast(detail AS INTEGER) AS was FROM events"
            f" WHERE kind = '{CORRECTED}') e ON e.id = a.id LEFT JOIN results o ON o.id = e.was"
            f" WHERE r.position >= ? AND r.position < ? AND r.result < 0 AND a.source IN {BY_HAND}",
            (start, stop),
        )
        return rows, cells

    def sample_faults(self) -> list[str]:
        """Return the lines of the sample that contradict others, by their tables and ids."""
        found = self._all(
            "SELECT 'draws', id FROM draws d WHERE NOT json_valid(strata) OR iif(json_valid(strata), EXISTS (SELECT 1"
            " FROM json_each(d.strata) s WHERE json_extract(s.value, '$[2]') > json_extract(s.value, '$[1]')), 0)"
            " OR seed <> (SELECT seed FROM draws ORDER BY id LIMIT 1)"
            " UNION ALL SELECT 'drawn', id FROM drawn WHERE draw NOT IN (SELECT id FROM draws)"
            " OR NOT (typeof(chance) = 'real' AND chance > 0 AND chance <= 1)"
            " UNION ALL SELECT 'gold', id FROM gold WHERE drawn NOT IN (SELECT id FROM drawn)"
        )
        return [f"{table} {number}" for table, number in found]

    def correction_faults(self) -> list[str]:
        """Return the lines about corrections that contradict the results, by their ids.

        The result of each must be a person's, or if the model's answer was brought back, equal to it.
        """
        same = "o.key IS a.key AND o.source IS a.source AND o.status IS a.status AND o.answer IS a.answer"
        found = self._all(
            "SELECT c.id FROM corrections c LEFT JOIN results a USING (id) LEFT JOIN rereads w USING (id)"
            f" WHERE a.id IS NULL OR c.id >= 0 OR a.source IS NOT {BY_HAND} AND NOT (c.is_undo AND EXISTS ("
            f" WITH RECURSIVE earlier (id) AS (SELECT w.before UNION ALL SELECT r.before FROM earlier e"
            f" JOIN results b ON b.id = e.id AND b.source IS {BY_HAND} JOIN rereads r ON r.id = e.id)"
            f" SELECT 1 FROM earlier e JOIN results o USING (id) WHERE {same} AND o.error IS a.error))"
            f" OR c.origin = '{REVIEW}' AND (w.id IS NULL OR c.is_undo AND a.source IS {BY_HAND} AND NOT EXISTS ("
            "SELECT 1 FROM rereads p JOIN results o ON o.id = p.before WHERE p.id = w.before"
            " AND o.source IS a.source AND o.status IS a.status AND o.answer IS a.answer))"
            " OR typeof(c.at) <> 'real' OR c.is_undo NOT IN (0, 1) ORDER BY c.id DESC LIMIT 100"
        )
        return [f"corrections {number}" for (number,) in found]

    def question(self, run: int) -> dict[str, Any]:
        """Return a process's question and sources; empty if the journal has lost it."""
        found = self._all("SELECT question FROM runs WHERE id = ?", (run,))
        return question_of(found[0][0]) if found else {}

    def sources(self) -> dict[int, Source]:
        """Return the sources of answers, by id."""
        found = self._all("SELECT id, model, base_url, params FROM sources")
        return {number: source_of(rest) for number, *rest in found}

    def askers(self) -> list[tuple[int, int, int]]:
        """Return which run asked which source: the run's id, the endpoint's place in its pool, the source's id."""
        return self._all("SELECT DISTINCT run, endpoint, source FROM requests")

    def requests_to(self, run: int, endpoint: int, source: int) -> list[int]:
        """Return the ids of the requests of one process to one endpoint and source."""
        query = "SELECT id FROM requests WHERE run = ? AND endpoint = ? AND source = ?"
        return [number for (number,) in self._all(query, (run, endpoint, source))]

    def endpoint_totals(self) -> list[EndpointTotals]:
        """Return the totals of the requests of each endpoint and source."""
        found = self._all(
            f"SELECT q.endpoint, coalesce(g.model, ''), coalesce(g.base_url, ''), {SENT}, {SPENT}"
            f" FROM {CHARGED} q LEFT JOIN sources g ON g.id = q.source WHERE {WAS_ASKED}"
            " GROUP BY q.endpoint, q.source ORDER BY 1, q.source"
        )
        totals = ((each[:7], each[7:9], spent_of(each[9:])) for each in found)
        return [EndpointTotals._make([*sent, *money[:2], money.unpriced, *apart]) for sent, apart, money in totals]

    def unreconciled(self, query: Unreconciled) -> list[int]:
        """Return the ids of the requests or results that such a query finds."""
        values = (ADOPTED.model, PERSON.model) if query is Unreconciled.BROUGHT_BY_NONE else ()
        return [number or 0 for (number,) in self._all(query.value, values)]  # None if a disk has changed it

    def missing_requests(self) -> list[tuple[int, int]]:
        """Return the gaps in the requests' ids: the first and the last of each; ids reserved for batches are none."""
        gaps = self._all(
            "SELECT before + 1, id - 1 FROM (SELECT id, lag(id, 1, 0) OVER (ORDER BY id) AS before FROM requests)"
            " WHERE id > before + 1"
        )
        found = self._all("SELECT cast(subject AS TEXT) FROM events WHERE kind = ? ORDER BY id", (RESERVED,))
        for (each,) in found if gaps else ():
            first, _, last = each.partition("-")
            if first.isdigit() and last.isdigit():
                gaps = [*_without(gaps, int(first), int(last))]
        return gaps


def _without(gaps: Iterable[tuple[int, int]], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield what is left of ranges without one of them."""
    for start, end in gaps:
        if start < first:
            yield start, min(end, first - 1)
        if end > last:
            yield max(start, last + 1), end


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogatepass" if _is_text(value) else "replace")


def _is_text(value: bytes) -> bool:
    """Return whether bytes are a text, perhaps with lone surrogates; a disk may have changed them."""
    try:
        value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True

"""What a journal records of batches: the statements that write it, and the queries that find it.

Invariant: each line of a batch gets exactly one end, and all statements of one step are committed together.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from batcher.journal.committing import Statement
from batcher.journal.entries import (
    CANCELLED,
    EXPIRED,
    LOST,
    TOO_LARGE,
    UNFIT,
    UNSENT,
    Batch,
    BatchCounts,
    BatchState,
    Line,
    Outcome,
    Request,
)
from batcher.journal.schema import bound as storable
from batcher.journal.schema import exact_sum, text_of, whole
from batcher.records import Bound, Usage

_COLUMNS = Batch._fields
_MAKE = f"INSERT INTO batches ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_MOVE = f"UPDATE batches SET {', '.join(f'{name} = ?' for name in _COLUMNS[1:])} WHERE id = ?"
_SPLIT = (
    "UPDATE requests SET sent_in = ? WHERE sent_in = ? AND ended IS NULL AND id IN (SELECT value FROM json_each(?))"
)
# What it may cost stays, if that is not known to be another amount.
_END_ALL = (
    "UPDATE requests SET ended = ?, outcome = ?, cached_tokens = 0, reasoning_tokens = 0, cost = {}"
    " WHERE sent_in = ? AND ended IS NULL"
)
OPEN = f"(SELECT id FROM batches WHERE state NOT IN ('{BatchState.DONE}', '{BatchState.DROPPED}'))"
"""The ids of the batches that are not over."""
IS_LINE_OUT = f"q.sent_in IN {OPEN} AND q.ended IS NULL"
"""The condition for a request `q` that is a line of a batch and has no end yet."""
_BILLED = ("answered", UNFIT, TOO_LARGE)
_TEXTS = ("name", "url", "form", "input_file", "service_id", "service_state", "output_file", "error_file", "why")

Ask = Callable[[str, Sequence[Any]], Iterable[tuple[Any, ...]]]
"""Reads what a query finds."""


# -- Writing


def making(batch: Batch) -> Statement:
    """Return the statement that records a new batch."""
    return _MAKE, _values(batch)


def moving(batch: Batch) -> Statement:
    """Return the statement that records the present state of a batch."""
    number, *rest = _values(batch)
    return _MOVE, (*rest, number)


def splitting(first: Batch, second: Batch, of_second: Sequence[int]) -> list[Statement]:
    """Return the statements that put requests of one batch into a second one, which is new."""
    return [moving(first), making(second), (_SPLIT, (second.id, first.id, json.dumps([*of_second])))]


def ending_all(batch: Batch, outcome: str, cost: int | None) -> Statement:
    """Return the statement that gives each line of a batch without an end this one; see `Journal.batch_done`."""
    values = [time.time(), outcome, *([] if cost is None else [cost]), batch.id]
    return _END_ALL.format("cost" if cost is None else "?"), tuple(values)


def _values(batch: Batch) -> tuple[Any, ...]:
    shown = batch._replace(state=BatchState(batch.state))
    values = shown._asdict()
    return tuple(storable(value) if isinstance(value, str) else value for value in values.values())


# -- Reading


def batches(ask: Ask, *, is_open: bool | None) -> list[Batch]:
    """Return the batches, the first one first; see `Reader.batches`."""
    which = "" if is_open is None else f" WHERE id {'' if is_open else 'NOT '}IN {OPEN}"
    return [_batch(values) for values in ask(f"SELECT {', '.join(_COLUMNS)} FROM batches{which} ORDER BY id", ())]


def _batch(values: Sequence[Any]) -> Batch:
    of = dict(zip(_COLUMNS, values, strict=True))
    of |= {name: text_of(of[name]) for name in _TEXTS if of[name] is not None}
    return Batch(**of)._replace(state=BatchState(text_of(of["state"])))


_LINES = (
    "SELECT q.id, q.position, q.key, q.endpoint, q.source, q.prompt_most, q.cost, q.answer_cost,"
    " (SELECT count(*) FROM same s WHERE s.leader = q.position), r.position IS NULL OR r.result IS NOT NULL,"
    " q.ended IS NOT NULL FROM requests q LEFT JOIN rows r ON r.position = q.position AND r.key = q.key"
    " WHERE q.sent_in = ?"
)


def lines(ask: Ask, batch: int, after: int, most: int) -> list[Line]:
    """Return lines of a batch that have no end; see `Reader.lines`."""
    found = ask(f"{_LINES} AND q.id > ? AND q.ended IS NULL ORDER BY q.id LIMIT ?", (batch, after, most))
    return [_line(batch, values) for values in found]


def lines_of(ask: Ask, batch: int, ids: Sequence[int]) -> dict[int, Line]:
    """Return lines of a batch by their ids; see `Reader.lines_of`."""
    found = ask(f"{_LINES} AND q.id IN (SELECT value FROM json_each(?))", (batch, json.dumps([*ids])))
    return {line.request.id: line for line in (_line(batch, values) for values in found)}


def _line(batch: int, values: Sequence[Any]) -> Line:
    number, position, key, endpoint, source, prompt, cost, answer, followers, is_answered, has_ended = values
    return Line(
        Request(number, position, key, endpoint, source, sent_in=batch),
        Bound(prompt, None, cost, answer),
        0 if is_answered else followers,
        bool(is_answered),
        bool(has_ended),
    )


def latest_unfit(ask: Ask, line: Request, *, is_online: bool) -> tuple[Request, Outcome, str] | None:
    """Return the latest answer to a row that did not fit; see `Reader.latest_unfit`.

    Args:
        ask: reads the journal.
        line: asks the same.
        is_online: also look at requests that were sent by themselves, all of which are read.
    """
    where = "" if is_online else " AND q.sent_in IS NOT NULL"
    for number, endpoint, sent_in, prompt, given, cached, thought, cost, form, text in ask(
        "SELECT q.id, q.endpoint, q.sent_in, q.prompt_tokens, q.completion_tokens, q.cached_tokens,"
        " q.reasoning_tokens, q.cost, s.form, coalesce(s.text, '') FROM requests q JOIN responses s USING (id)"
        f" WHERE q.key = ? AND q.source = ? AND q.position = ? AND q.outcome = ?{where} ORDER BY q.id DESC LIMIT 1",
        (line.key, line.source, line.position, UNFIT),
    ):
        usage = Usage(prompt, given, cached or 0, thought or 0)
        request = line._replace(id=number, endpoint=endpoint, sent_in=sent_in)
        return request, Outcome("answered", usage, cost, form=form), text_of(text)
    return None


def counts(ask: Ask, charged: str) -> list[BatchCounts]:
    """Return what became of the lines of each batch; see `Reader.batch_counts`.

    Args:
        ask: reads the journal.
        charged: the SQL expression of all requests with what each is charged.
    """
    sums: dict[int, dict[str | None, tuple[int, int, int]]] = {}
    for number, outcome, count, unpriced, upper, lower in ask(
        f"SELECT sent_in, outcome, count(*), count(*) FILTER (WHERE charged IS NULL), {exact_sum('charged')}"
        f" FROM {charged} WHERE sent_in IS NOT NULL GROUP BY sent_in, outcome ORDER BY sent_in, outcome",
        (),
    ):
        name = None if outcome is None else text_of(outcome)
        sums.setdefault(number, {})[name] = (count, whole(upper, lower), unpriced)
    return [_counted(batch, sums.get(batch.id, {})) for batch in batches(ask, is_open=None)]


def _counted(batch: Batch, of: Mapping[str | None, tuple[int, int, int]]) -> BatchCounts:
    """Return what became of the lines of a batch, from number, cost and lines of unknown cost by outcome."""
    lines_of = {name: count for name, (count, *_) in of.items()}
    known = {None, *_BILLED, EXPIRED, CANCELLED, LOST, UNSENT}
    return BatchCounts(
        batch,
        lines=sum(lines_of.values()),
        answered=lines_of.get("answered", 0) + lines_of.get(TOO_LARGE, 0),
        unfit=lines_of.get(UNFIT, 0),
        failed={str(name): count for name, count in lines_of.items() if name not in known},
        expired=lines_of.get(EXPIRED, 0),
        cancelled=lines_of.get(CANCELLED, 0),
        lost=lines_of.get(LOST, 0),
        unsent=lines_of.get(UNSENT, 0),
        open=lines_of.get(None, 0),
        cost=sum(cost for name, (_, cost, _) in of.items() if name in _BILLED),
        uncertain=sum(cost for name, (_, cost, _) in of.items() if name not in _BILLED),
        unpriced=sum(unpriced for _, _, unpriced in of.values()),
    )


def refusals(ask: Ask, key: bytes, position: int | None) -> dict[str, int]:
    """Return how often lines about a question ended without an answer; see `Reader.refusals_of`."""
    of = f"sent_in IS NOT NULL AND key = ?{'' if position is None else ' AND position = ?'}"
    values = [key] if position is None else [key, position]
    found = ask(
        f"SELECT outcome, count(*) FROM requests WHERE {of} AND outcome NOT IN ('answered', '{TOO_LARGE}')"
        f" AND ended > coalesce((SELECT max(ended) FROM requests WHERE {of}"
        f" AND outcome IN ('answered', '{TOO_LARGE}')), 0) GROUP BY outcome ORDER BY outcome",
        (*values, *values),
    )
    return {text_of(outcome): count for outcome, count in found}

"""The list of rows, and one row with all that the journal has of it, as JSON.

Invariant: texts are sent as they are; the page shows them as text. No API key is in them, because no journal holds one.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import Sequence
from typing import Any

from batcher.journal.certainty import AGREEMENT, CONFIDENCE, kinds_of_certainty
from batcher.journal.looking import Attempt, RowFacts, RowLine, RowReader, Step
from batcher.records import Beside, Result, Task
from batcher.reviewing.exchange import Reply, Request, Routes, as_json, gone, whole
from batcher.reviewing.filters import Filters, Shown
from batcher.reviewing.page import Page, View
from batcher.reviewing.prompts import Prompts

_LONGEST = 300  # characters of a text in the list
_MOST_ROWS, _ROWS = 1000, 200
_MOST_AT_ONCE = 50
_LOOKS, _SOON_S = 10, 0.01
_JOURNAL = re.compile(r"journal_(.+)\.sqlite", re.DOTALL)
_FACTS = ("raw", "reasoning", "model", "finish", "form", "request_id", "cost", "by")
_NANO = 1e9


# -- The run


async def _run(page: Page, _request: Request) -> Reply:
    view, index = page.view, page.view.index
    others = await asyncio.to_thread(_others, page)
    pending, at_work = await asyncio.gather(asyncio.to_thread(page.decisions.pending), page.is_at_work())
    has = await page.read(_has)
    return as_json(
        {
            "keyword": view.store.keyword,
            "directory": str(view.store.directory),
            "who": page.who,
            "rows": index.rows,
            "columns": [*view.table.columns],
            "prompt_columns": [*view.question.get("columns", ())],
            "answer_column": view.store.answer_columns.answer,
            "labels": [*view.golds.labels] or None,
            "fields": [*index.fields],
            "schema": _schema(view),
            "task": view.question.get("task", Task.CHAT),
            "has": has,
            "at_work": at_work,
            "reading": _reading(view),
            "indexing": _indexing(view),
            "trouble": view.trouble or view.table.trouble,
            "pending": pending,
            "others": others,
            "version": importlib.import_module("batcher").__version__,
        }
    )


def _has(journal: RowReader) -> dict[str, bool]:
    known = {*kinds_of_certainty(journal)}
    return {
        **{kind: kind in known for kind in (AGREEMENT, CONFIDENCE)},
        "sample": bool(journal.latest().gold[0]),
        "gold": bool(journal.latest().gold[2]),
        "reasoning": journal.has_reasoning(),
        "votes": journal.has_votes(),
    }


def _others(page: Page) -> list[str]:
    """Return the keywords of the other runs in the directory."""
    found = (_JOURNAL.fullmatch(path.name) for path in page.store.directory.iterdir())
    return sorted(match[1] for match in found if match and match[1] != page.store.keyword)


def _schema(view: View) -> dict[str, Any] | None:
    document = getattr(view.shape, "document", None)
    if not view.index.fields or not isinstance(document, dict):
        return None
    fields = document.get("properties", {})
    return {name: fields[name] for name in view.index.fields if isinstance(fields.get(name), dict)}


def _reading(view: View) -> dict[str, int] | None:
    reading = view.table.reading
    return None if reading is None else reading._asdict()


def _indexing(view: View) -> dict[str, int] | None:
    index = view.index
    return None if view.indexed.is_set() else {"done": index.done, "of": index.rows}


# -- The list


async def shown_by(page: Page, view: View, filters: Filters) -> tuple[Shown, dict[str, int] | None]:
    """Return the rows that filters show so far, and how far the search for their text is; None: it is done."""
    search = view.searches.for_text(filters.text) if filters.text else None
    for _ in range(_LOOKS):
        if search is None or search.searching is None:
            break
        await asyncio.sleep(_SOON_S)  # a short table is searched by then

    def work() -> Shown:
        def with_answer(text: str) -> Sequence[int]:
            return page.looks.look(lambda journal: journal.with_answer(text))

        # A row that is searched later is not there yet.
        return Shown(view.index, filters, search.hits if search else None, with_answer)

    searching = search.searching if search else None  # what is found meanwhile may be missing
    return await asyncio.to_thread(work), None if searching is None else searching._asdict()


async def _list(page: Page, request: Request) -> Reply:
    view, filters = page.view, Filters.of(request)
    start, limit = request.number("from", 0), max(request.number("limit", _ROWS, _MOST_ROWS), 1)
    # How far things are before they are looked at: what is done meanwhile may be missing.
    reading, indexing = _reading(view), _indexing(view)
    shown, searching = await shown_by(page, view, filters)
    positions, place = await asyncio.to_thread(shown.page, start, limit)
    if not filters.are_any and indexing:  # all rows, of which the index has read some
        positions, place = _plain_page(view.index.rows, start, limit)
    lines, counts = await asyncio.gather(_lines(page, positions), asyncio.to_thread(shown.counts))
    more = {"counts": counts, "searching": searching, "reading": reading, "indexing": indexing}
    return as_json({**place, "rows": lines, **more, "trouble": view.trouble or view.table.trouble})


def _plain_page(rows: int, start: int, limit: int) -> tuple[list[int], dict[str, int | None]]:
    start = min(start, rows)
    stop = min(start + limit, rows)
    return [*range(start, stop)], {
        "total": rows,
        "before": start,
        "next": stop if stop < rows else None,
        "previous": max(start - limit, 0) if start else None,
        "last": (rows - 1) // limit * limit if rows else None,
    }


async def _lines(page: Page, positions: Sequence[int]) -> list[dict[str, Any]]:
    view = page.view
    if not positions:
        return []

    def look(journal: RowReader) -> tuple[dict[int, RowLine], dict[int, str]]:
        return journal.lines_at(positions), journal.sources(positions)

    with view.way.first():
        (lines, sources), cells = await asyncio.gather(page.read(look), asyncio.to_thread(view.table.at, positions))
    return [_line(view, line, cells.get(at), sources.get(at, "")) for at in positions if (line := lines.get(at))]


def _line(view: View, line: RowLine, cells: Sequence[str] | None, by: str) -> dict[str, Any]:
    index, at = view.index, line.position
    fields = _fields(view, line.status, line.answer)
    return {
        "position": at,
        "result": line.result,
        "cells": None if cells is None else [_cut(cell) for cell in cells],
        "status": line.status,
        "answer": _cut(line.answer),
        "fields": None if fields is None else {name: _cut(text) for name, text in fields.items()},
        "error": _cut(line.error),
        "agreement": index.certainty(AGREEMENT, at) if at < index.done else None,
        "confidence": index.certainty(CONFIDENCE, at) if at < index.done else None,
        "by": by,
        "is_corrected": line.is_by_hand,
        "in_sample": index.is_in_sample(at),
    }


def _fields(view: View, status: str, answer: str) -> dict[str, str] | None:
    if not view.index.fields or view.shape is None or status != "ok":
        return None
    return dict(zip(view.index.fields, view.shape.cells(answer), strict=True))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


# -- One row


async def _row(page: Page, request: Request) -> Reply:
    return as_json(await row_of(page, whole(request.rest, "the position")))


async def _rowset(page: Page, request: Request) -> Reply:
    return as_json({"rows": await rows_of(page, request.numbers("at", _MOST_AT_ONCE))})


async def row_of(page: Page, position: int) -> dict[str, Any]:
    """Return a row with all that the journal has of it.

    Raises:
        NotServed: there is none.
    """
    found = await rows_of(page, [position])
    if not found:
        raise gone(f"there is no row at position {position}; the run has {page.view.index.rows:,}")
    return found[0]


async def rows_of(page: Page, positions: Sequence[int]) -> list[dict[str, Any]]:
    """Return rows with all that the journal has of them; those that are not there are left out."""
    view = page.view

    def work() -> list[dict[str, Any]]:
        cells = view.table.at(positions)
        return page.looks.look(
            lambda journal: [row for at in positions if (row := _whole_row(view, journal, at, cells.get(at)))]
        )

    with view.way.first():
        return await asyncio.to_thread(work)


def _whole_row(view: View, journal: RowReader, at: int, cells: Sequence[str] | None) -> dict[str, Any] | None:
    facts = journal.facts_of(at) if at < view.index.rows else None
    if facts is None:
        return None
    index, ended = view.index, facts.ended
    [beside] = journal.beside(at, at + 1, _FACTS)
    earlier = [] if facts.result is None else journal.results_before(facts.result)
    history = journal.history_of(earlier)
    prompt = _prompts(view, journal).of(view.table.columns, cells, facts.answered or facts.key)
    keys = {facts.key, facts.answered or facts.key}
    attempts = journal.attempts_at([*index.requests.at(at), *journal.in_batches_at(at, keys), facts.root], keys)
    status, answer = (ended.status.value, ended.answer) if ended else ("", "")
    return {
        "position": at,
        "result": facts.result,
        "cells": None if cells is None else [[*each] for each in zip(view.table.columns, cells, strict=True)],
        "cells_why": "" if cells is not None else view.table.why_not(at),
        "status": status,
        "answer": answer,
        "fields": _fields(view, status, answer),
        "error": ended.error if ended else "",
        **_beside(facts, beside),
        AGREEMENT: index.certainty(AGREEMENT, at) if at < index.done else None,
        CONFIDENCE: index.certainty(CONFIDENCE, at) if at < index.done else None,
        "votes": _votes(journal, earlier),
        "prompt": prompt.messages,
        "prompt_why": prompt.why,
        "params": dict(prompt.params) if prompt.messages else {},
        "attempts": [*map(_attempt, attempts)],
        "cost_usd": float(beside.cost) if beside.cost else None,
        "history": [*map(_step, history)],
        "is_corrected": beside.by == "hand",
        "is_kept": facts.is_kept,
        "sample": _in_sample(view, journal, at) if index.is_in_sample(at) else None,
    }


def _prompts(view: View, journal: RowReader) -> Prompts:
    if view.prompts is None:
        view.prompts = Prompts(journal.questions())
    return view.prompts


def _beside(facts: RowFacts, beside: Beside) -> dict[str, Any]:
    return {
        "raw": beside.raw or None,
        "reasoning": beside.reasoning,
        "by": beside.by,
        "model": beside.model,
        "base_url": facts.source.base_url if facts.source else "",
        "finish_reason": beside.finish,
        "form": beside.form,
        "request_id": beside.request_id,
        "is_cut": facts.is_cut,
    }


def _votes(journal: RowReader, results: Sequence[int]) -> list[dict[str, Any]]:
    for number in results:
        if found := journal.votes_of(number):
            return [
                {"answer": each.result.answer, "status": each.result.status, "error": each.result.error}
                | {"model": each.model, "confidence": each.confidence}
                for each in found
            ]
    return []


def _attempt(each: Attempt) -> dict[str, Any]:
    seconds = None if each.ended is None else max(each.ended - each.sent, 0.0)
    return {
        "sent": each.sent,
        "seconds": seconds,
        "outcome": each.outcome or "no end",
        "model": each.model,
        "url": each.base_url,
        "prompt_tokens": each.prompt_tokens,
        "completion_tokens": each.completion_tokens,
        "reasoning_tokens": each.reasoning_tokens,
        "cached_tokens": each.cached_tokens,
        "cost_usd": None if each.cost is None else each.cost / _NANO,
        "is_paid": each.is_paid,
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "at": step.at,
        "who": step.who,
        "origin": step.origin,
        "why": step.why,
        "is_undo": step.is_undo,
        "from": _result(step.before),
        "to": _result(step.after),
    }


def _result(result: Result | None) -> dict[str, str] | None:
    return None if result is None else {"status": result.status.value, "answer": result.answer}


def _in_sample(view: View, journal: RowReader, at: int) -> dict[str, Any] | None:
    """Return what is known of a row in the sample; of a row without a hand label only that it was drawn."""
    drawn = view.drawn_at(at)
    if drawn is None:
        return None
    gold = journal.gold().get(drawn)
    if gold is None or not gold.text:
        return {"drawn": drawn}
    return {"drawn": drawn, "gold": gold.text, "note": gold.note, "who": gold.who, "at": gold.at}


ROUTES: Routes = {
    ("GET", "api/run"): _run,
    ("GET", "api/rows"): _list,
    ("GET", "api/row/*"): _row,
    ("GET", "api/rowset"): _rowset,
}

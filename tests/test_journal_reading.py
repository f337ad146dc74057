"""A journal gives back what was recorded in it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import ROWS, ask, ended, key, look, plan, send

from batcher.journal.entries import Outcome
from batcher.journal.opening import open_journal, read_evidence, read_journal
from batcher.journal.reading import Reader
from batcher.journal.writing import Journal
from batcher.records import Bound, Result, Status, Usage

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too


async def test_sums_of_money_go_beyond_what_sqlite_can_add_up(journal: Journal, path: Path) -> None:
    most = 2**63 - 1
    for position in range(2):
        request = await send(journal, position)
        await journal.settled(request, Outcome("answered", cost=most), ended())
    for position in (2, 3):
        await journal.sent(position, key(position), endpoint=0, source=1, bound=Bound(cost=most))
    assert (journal.spent().answered, journal.spent().uncertain, journal.spent().total) == (
        2 * most,
        2 * most,
        4 * most,
    )
    assert journal.in_flight(1) == (2, 2 * most)
    with read_evidence(path) as evidence:
        [totals] = evidence.endpoint_totals()
    assert (totals.sent, totals.cost, totals.uncertain) == (4, 2 * most, 2 * most)


async def test_what_is_lost_is_charged_at_its_bound_until_its_source_answers_its_question(journal: Journal) -> None:
    bound = Bound(prompt_tokens=100, cost=1000, answer_cost=200)
    for position, source in ((0, 1), (1, 1), (1, 1), (2, 1), (3, 1), (4, 1)):
        await journal.sent(position, key(position), 0, source, bound)
    await journal.sent(5, key(5), 0, 1, Bound(cost=1000))  # of a price whose parts cannot be told apart
    failed = await journal.sent(6, key(6), 0, 1, bound)
    journal.failed(failed, Outcome("503", cost=0))
    for position, source, usage in ((2, 1, Usage(10, 5)), (3, 2, Usage(10, 5)), (4, 1, Usage(None, 5))):
        request = await journal.sent(position, key(position), 0, source, bound)
        await journal.settled(request, Outcome("answered", usage, 280), ended())
    kept = bound._replace(completion_tokens=None)
    assert journal.lost(10) == [(key(position), 1, kept) for position in (4, 3, 1, 1, 0)]
    assert journal.lost(2) == [(key(4), 1, kept), (key(3), 1, kept)]
    refund = bound.saving(10)
    assert journal.spent().uncertain == 6 * 1000 - refund + 1000
    assert refund == 720


@pytest.mark.parametrize(
    ("bound", "tokens", "saved"),
    [
        (Bound(100, 5, 1000, 200), 100, 0),
        (Bound(100, 5, 1000, 200), 99, 8),
        (Bound(100, 5, 1001, 200), 99, 8),
        (Bound(100, 5, 1000, 200), 101, 0),
        (Bound(100, 5, 1000, None), 10, 0),
        (Bound(None, 5, None, None), 10, 0),
        (Bound(0, 5, 200, 200), 10, 0),
    ],
)
def test_a_known_prompt_saves_its_part_of_the_bound_rounded_down(bound: Bound, tokens: int, saved: int) -> None:
    assert bound.saving(tokens) == saved


async def test_the_details_of_events_come_back_by_their_kinds_in_their_order(journal: Journal) -> None:
    for kind, detail in (
        ("paused", "a"),
        ("prompt overhead", "\ud800"),
        ("service tier", "c"),
        ("prompt overhead", "d"),
    ):
        journal.note(kind, "endpoint 1", detail)
    await journal.flush()
    assert journal.details(("prompt overhead", "service tier")) == ["\ud800", "c", "d"]
    assert journal.details(("resumed",)) == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=5))
def test_any_text_comes_back_as_it_was(texts: list[tuple[str, str]]) -> None:
    given_results = [Result(Status.INVALID, *pair) for pair in [*texts, ("\0a\ud800b😀", "数" * 99 + "\udfff")]]

    async def work(journal: Journal) -> None:
        await asyncio.gather(*(ask(journal, position, result) for position, result in enumerate(given_results)))
        await journal.end_run(given_results[-1].error)

    with tempfile.TemporaryDirectory() as folder, open_journal(Path(folder) / "j") as journal:
        plan(journal, range(len(given_results)))
        journal.start_run(500, {"prompt": "\ud800"})
        asyncio.run(work(journal))
        last = journal.last_run()
        assert last
        assert (last.outcome, last.question) == (given_results[-1].error, {"prompt": "\ud800"})
        assert journal.results(0, 99) == given_results
        assert sum(count for _, count in journal.failures()) == len(given_results)


async def test_a_run_leaves_its_books(journal: Journal, path: Path) -> None:
    before = journal.last_run()
    assert before
    assert (before.pid, before.ended, before.outcome, before.chunk_size) == (os.getpid(), None, None, 500)
    for position, status in enumerate(["ok", "ok", "invalid", "error", "error"]):
        await ask(journal, position, ended(status))
    journal.failed(await send(journal, 5), Outcome("429"))
    await send(journal, 5)
    await journal.end_run("stopped")
    after = journal.last_run()
    assert after
    assert after.outcome == "stopped"
    assert after.ended
    assert after._replace(ended=None, outcome=None) == before
    assert journal.counts() == (ROWS, 2, 1, 2)
    assert journal.counts().left == ROWS - 5
    assert (journal.totals(before.id).requests, journal.totals(before.id + 1).requests) == (7, 0)
    assert journal.totals(before.id)[:5] == (7, 5, 1, 1, 1), "one row was sent twice"
    assert journal.in_flight(before.id) == (1, None)
    assert (journal.ended_since(before.started - 1), journal.ended_since(after.ended + 1)) == (5, 0)
    assert journal.failures() == [("this row is error", 2), ("this row is invalid", 1)]
    books = "SELECT id, outcome, prompt_tokens, completion_tokens FROM requests WHERE id IN (1, 6, 7)"
    assert look(path, books) == [(1, "answered", 10, 5), (6, "429", None, None), (7, None, None, None)]


@pytest.mark.parametrize("opening", [read_journal, read_evidence])
def test_what_only_reads_cannot_write(journal: Journal, path: Path, opening: Callable[[Path], Reader]) -> None:
    with opening(path) as reader:
        for each in (reader, journal):  # a run reads in a connection of its own
            with pytest.raises(sqlite3.OperationalError, match="readonly database"):
                each._reader.execute("DELETE FROM rows")
    assert journal.counts().rows == ROWS

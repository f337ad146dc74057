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
from batcher.records import Bound, Result, Status

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
    assert (journal.requests(before.id), journal.requests(before.id + 1)) == (7, 0)
    assert journal.in_flight(before.id) == (1, None)
    assert (journal.answered_since(before.started - 1), journal.answered_since(after.ended + 1)) == (5, 0)
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

"""Acknowledged entries are on disk, and callers that wait get the error of a failing disk."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from journals import ROWS, ask, ended, full_disk, key, look, send, slow_disk, turns

from batcher.errors import OutputError
from batcher.journal.entries import Chunk, Outcome, is_sealed
from batcher.journal.evidence import Unreconciled
from batcher.journal.opening import read_evidence
from batcher.journal.writing import Journal
from batcher.records import LARGEST_CELL, Bound, Completion, Result, Status, Usage


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """asyncio logs no exception as never retrieved."""
    caplog.set_level(logging.DEBUG, "asyncio")
    yield
    gc.collect()
    assert [record.message for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_a_result_is_sealed_with_its_question(journal: Journal, path: Path) -> None:
    texts = [("yes", ""), ("no", ""), ("", "HTTP 400"), ("\ud800\0", "é")]
    for position, (text, error) in enumerate(texts):
        await ask(journal, position, Result(Status.INVALID, text, error))
    found = look(path, "SELECT key, seal FROM results ORDER BY id")
    for (own_key, own_seal), (text, error) in zip(found, texts, strict=True):
        sealed = own_key + f"invalid\0{text}\0{error}".encode("utf-8", "surrogatepass")
        assert own_seal == hashlib.blake2b(sealed, digest_size=8).digest()
    assert len({own_seal for _, own_seal in found}) == len(texts)


async def test_sent_returns_when_others_can_see_the_request(journal: Journal, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as other:

        async def check(position: int) -> None:
            request = await send(journal, position)
            found = other.execute("SELECT position, key FROM requests WHERE id = ?", (request.id,)).fetchall()
            assert found == [(position, key(position))]

        await asyncio.gather(*map(check, range(ROWS)))


async def test_settled_returns_when_others_can_see_the_result(journal: Journal, path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as other:

        async def check(position: int) -> None:
            number = await ask(journal, position, ended(answer=str(position)))
            query = "SELECT answer FROM rows JOIN results ON results.id = result WHERE position = ? AND result = ?"
            assert other.execute(query, (position, number)).fetchall() == [(str(position),)]

        await asyncio.gather(*map(check, range(ROWS)))


async def test_what_gathers_during_a_commit_is_the_next_commit(journal: Journal, path: Path) -> None:
    statements: list[str] = []
    journal._db.connection.set_trace_callback(statements.append)
    with slow_disk(path):
        first = asyncio.create_task(send(journal, 0))
        await turns()
        others = [asyncio.create_task(send(journal, position)) for position in range(1, ROWS)]
        await turns()
    await asyncio.gather(first, *others)
    assert statements.count("COMMIT") == 2


async def test_statements_are_committed_in_the_order_in_which_they_were_noted(journal: Journal, path: Path) -> None:
    requests = [await send(journal, 7) for _ in range(3)]
    assert [request.id for request in requests] == [1, 2, 3]
    old, new = Chunk(500, b"old", b"1"), Chunk(500, b"new", b"2")
    await asyncio.gather(
        *(journal.settled(request, Outcome("answered"), ended()) for request in reversed(requests)),
        journal.chunk_written(0, old),
        journal.chunk_removed(0),
        journal.chunk_written(500, old),
        journal.chunk_written(500, new),
    )
    assert look(path, "SELECT result FROM rows WHERE position = 7") == [(3,)]  # the first answer counts
    assert journal.chunks() == {500: new}


@pytest.mark.usefixtures("quiet")
async def test_a_full_disk_tells_everybody_and_keeps_nobody_waiting(journal: Journal, path: Path) -> None:
    fine = await send(journal, 0)
    with full_disk(path):
        with slow_disk(path):
            waiting: list[asyncio.Task[Any]] = [asyncio.create_task(send(journal, position)) for position in (2, 1, 3)]
            await turns()
            waiting += [asyncio.create_task(send(journal, 4))]  # these stand behind what is about to fail
            waiting += [asyncio.create_task(journal.end_run("done"))]
            await turns()
            journal.failed(fine, Outcome("timeout"))
        for later in (*waiting, send(journal, 5), journal.settled(fine, Outcome("answered"), ended()), journal.flush()):
            with pytest.raises(OutputError, match=rf"{path.name} cannot be written: "):
                await later
    assert look(path, "SELECT position, ended FROM requests") == [(0, None)]


@pytest.mark.parametrize("later", ["the next batch", "the end"])
async def test_what_a_full_disk_refused_is_saved_once_there_is_room_again(
    journal: Journal, path: Path, later: str
) -> None:
    first, second, third = [await send(journal, position) for position in range(3)]
    with full_disk(path):
        with pytest.raises(OutputError):
            await send(journal, 3)
        for request in (first, second):
            with pytest.raises(OutputError):
                await journal.settled(request, Outcome("answered"), ended(answer=f"answer {request.position}"))
        journal.failed(third, Outcome("timeout"))
    assert look(path, "SELECT count(*) FROM results") == [(0,)]
    if later == "the next batch":
        await journal.chunk_written(0, Chunk(1, b"", b"sha"))
    else:
        journal.close()
    assert look(path, "SELECT position, answer FROM rows JOIN results ON results.id = result") == [
        (0, "answer 0"),
        (1, "answer 1"),
    ]
    assert look(path, "SELECT position, outcome FROM requests") == [(0, "answered"), (1, "answered"), (2, "timeout")]
    if later == "the next batch":
        await send(journal, 3)


def test_what_fails_behind_a_loop_that_has_ended_is_saved_at_the_end(journal: Journal, path: Path) -> None:
    async def work() -> None:
        request = await send(journal, 0)
        lock.enter_context(slow_disk(path))
        task = asyncio.create_task(journal.settled(request, Outcome("answered"), ended()))
        await turns()
        assert not task.done()

    with contextlib.ExitStack() as lock:
        asyncio.run(work())
        with full_disk(path):
            lock.close()
            journal._commits._thread.submit(lambda: None).result()
    assert look(path, "SELECT count(*) FROM results") == [(0,)]
    journal.close()
    assert look(path, "SELECT count(*) FROM results") == [(1,)]


async def test_no_number_keeps_an_answer_from_being_saved(journal: Journal, path: Path) -> None:
    request = await send(journal, 0)
    await journal.settled(request, Outcome("answered", Usage(2**64), cost=2**70), ended())
    assert look(path, "SELECT prompt_tokens, cost FROM requests") == [(2**63 - 1, 2**63 - 1)]
    assert journal.counts().ok == 1


async def test_an_answer_that_no_csv_file_can_hold_ends_its_row(journal: Journal) -> None:
    most = ["x" * LARGEST_CELL, "x" * (LARGEST_CELL + 1)]
    kept = [await journal.settled(await send(journal, n), Outcome("answered"), ended(answer=most[n])) for n in (0, 1)]
    assert kept[0].answer == most[0]
    assert kept[1] == Result(
        Status.ERROR, "", "the answer has 33,554,433 characters, and a cell of a CSV file holds 33,554,432"
    )
    assert journal.results(0, 2) == kept


@pytest.mark.parametrize("text", ["y" * 5000, "数" * 1700, "\ud800" * 1700])
async def test_an_answer_that_sqlite_cannot_hold_ends_its_row_and_no_other(
    journal: Journal, path: Path, text: str
) -> None:
    journal._db.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5000)
    requests = [await send(journal, position) for position in range(3)]
    kept = await asyncio.gather(
        *(
            journal.settled(request, Outcome("answered", Usage(10, 5), 7), ended(answer=answer))
            for request, answer in zip(requests, ("before", text, "after"), strict=True)
        )
    )
    size = len(text.encode("utf-8", "surrogatepass"))
    assert kept[0::2] == [ended(answer="before"), ended(answer="after")]
    assert kept[1].status is Status.ERROR
    assert kept[1].error.startswith(f"the answer has {size:,} bytes, and the journal can hold 4,")
    assert journal.results(0, 3) == kept
    assert look(path, "SELECT outcome, completion_tokens, cost FROM requests ORDER BY id") == [
        ("answered", 5, 7),
        ("too large", 5, 7),
        ("answered", 5, 7),
    ]
    with read_evidence(path) as evidence:
        assert all(is_sealed(record) for record in evidence.records(0, 3))
        assert not any(evidence.unreconciled(query) for query in Unreconciled)


async def test_an_answer_that_sqlite_cannot_hold_is_paid_at_its_cost(journal: Journal, path: Path) -> None:
    journal._db.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5000)
    for answer, tokens in (("fits", 10), ("y" * 5000, 50)):
        request = await journal.sent(0, key(0), 0, 1, Bound(prompt_tokens=100, cost=1000, answer_cost=200))
        await journal.settled(request, Outcome("answered", Usage(tokens, 5), 900), ended(answer=answer))
    assert (journal.spent().answered, journal.spent().uncertain) == (1800, 0)
    with read_evidence(path) as evidence:
        [totals] = evidence.endpoint_totals()
    assert (totals.cost, totals.uncertain) == (1800, 0)


KEPT = "SELECT finish_reason, is_cut, model, reasoning, body FROM responses"


async def test_what_came_beside_an_answer_is_kept_with_it(journal: Journal, path: Path) -> None:
    came = Completion("yes", "length", model="m-1", reasoning="half \ud83d", raw=b'{"x": 1}' * 1000)
    await journal.settled(await send(journal, 0), Outcome("answered", completion=came), ended())
    await journal.settled(await send(journal, 1), Outcome("answered", completion=Completion("yes")), ended())
    await journal.settled(await send(journal, 2), Outcome("400"), ended("error"))
    [(*first, body), second] = look(path, KEPT)
    assert first == ["length", 1, "m-1", "half \ud83d".encode("utf-8", "surrogatepass")]
    assert zlib.decompress(body) == came.raw
    assert second == (None, 0, "", "", None)
    assert journal.cut() == 1


@pytest.mark.parametrize(
    ("completion", "reasoning", "has_body"),
    [
        (Completion("yes", raw=b"x" * 2000), "", True),
        (Completion("yes", raw=b"x" * 3000), "", False),
        (Completion("yes", reasoning="y" * 1000, raw=b"x" * 1000), "y" * 1000, False),
        (Completion("yes", reasoning="y" * 3000, raw=b"x" * 1000), "", True),
    ],
)
async def test_what_sqlite_cannot_hold_of_a_response_does_not_cost_its_answer(
    journal: Journal, path: Path, completion: Completion, reasoning: str, *, has_body: bool
) -> None:
    journal._db.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5000)
    request = await send(journal, 0)
    await journal.settled(request, Outcome("answered", completion=completion), ended())
    [(_, _, _, kept, body)] = look(path, KEPT)
    assert (kept, body is not None) == (reasoning, has_body)
    assert journal.counts().ok == 1


async def test_the_body_of_an_answer_that_no_csv_file_can_hold_is_kept(journal: Journal, path: Path) -> None:
    text = "x" * (LARGEST_CELL + 1)
    came = Completion(text, "length", raw=text.encode())
    await journal.settled(await send(journal, 0), Outcome("answered", completion=came), ended(answer=text))
    [(reason, is_cut, _, _, body)] = look(path, KEPT)
    assert (reason, is_cut, zlib.decompress(body)) == ("length", 0, came.raw)


async def test_the_largest_answer_that_sqlite_holds_is_kept(journal: Journal) -> None:
    journal._db.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5000)
    result = ended(answer="y" * 4850)
    assert await journal.settled(await send(journal, 0), Outcome("answered"), result) is result
    assert journal.results(0, 1) == [result]


@pytest.mark.usefixtures("quiet")
async def test_what_can_never_be_written_keeps_nothing_else_from_being_written(journal: Journal, path: Path) -> None:
    first, second = [await send(journal, position) for position in range(2)]
    await journal.settled(first, Outcome("answered"), ended(answer="first"))
    never: list[asyncio.Task[Any]] = []
    with slow_disk(path):
        journal.note("paused", "somebody")  # it is being committed while the others gather
        await turns()
        never += [
            asyncio.create_task(journal.chunk_written(2**70, Chunk(1, b"", b""))),
            asyncio.create_task(journal.settled(first, Outcome("429"), ended(answer="again"))),
        ]
        fine = asyncio.create_task(journal.settled(second, Outcome("answered"), ended(answer="second")))
        await turns()
    for task in never:
        with pytest.raises(OutputError, match=rf"{path.name} cannot be written: "):
            await task
    await fine
    assert journal.results(0, 2) == [ended(answer="first"), ended(answer="second")]
    assert look(path, "SELECT outcome FROM requests") == [("answered",), ("answered",)], "an entry is one or none"
    await journal.flush()
    await send(journal, 3)


async def test_who_sends_is_told_of_what_nobody_waits_for(journal: Journal, path: Path) -> None:
    journal._db.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5000)
    journal.note("paused", "somebody", "y" * 5000)
    with pytest.raises(OutputError, match=rf"{path.name} cannot be written: "):
        await journal.flush()
    assert look(path, "SELECT count(*) FROM events") == [(0,)]


@pytest.mark.usefixtures("quiet")
async def test_who_is_cancelled_while_waiting_loses_nothing(journal: Journal, path: Path) -> None:
    requests = [await send(journal, position) for position in range(4)]
    tasks = []
    with slow_disk(path):
        for request in requests:  # the first is being committed, the others wait for the next commit
            tasks.append(asyncio.create_task(journal.settled(request, Outcome("answered"), ended())))
            await turns()
        for task in (tasks[0], tasks[2]):
            task.cancel()
        await turns()
    await journal.flush()
    assert [task.cancelled() for task in tasks] == [True, False, True, False]
    await asyncio.gather(tasks[1], tasks[3])
    assert look(path, "SELECT count(*) FROM rows WHERE result IS NOT NULL") == [(4,)]


@pytest.mark.usefixtures("quiet")
async def test_closing_writes_what_was_noted_last(journal: Journal, path: Path) -> None:
    first, second = [await send(journal, position) for position in range(2)]
    tasks = []
    with slow_disk(path):
        for request in (first, second):
            tasks.append(asyncio.create_task(journal.settled(request, Outcome("answered"), ended())))
            await turns()
    journal.close()
    assert look(path, "SELECT position FROM rows WHERE result IS NOT NULL") == [(0,), (1,)]
    await asyncio.gather(*tasks)
    with pytest.raises(OutputError, match="closed"):
        await send(journal, 2)

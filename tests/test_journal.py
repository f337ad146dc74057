"""What the journal has acknowledged is there after any end, and a plan gives each row the answer to its question."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import environment

from batcher.errors import OutputError
from batcher.journal import Chunk, Journal, Outcome, Request
from batcher.records import Giver, Result, Status

ROWS = 400
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too


def key(question: object) -> bytes:
    return str(question).encode().rjust(16, b"\0")


def plan(
    journal: Journal, questions: Sequence[object], models: Sequence[str] = "m", *, retry_failed: bool = False
) -> int:
    """Plan as a run does, in slices; return how many rows are answered to another question."""
    with journal.planning():
        givers = journal.giver_ids([Giver(model, "http://somewhere") for model in models])
        for start in range(0, len(questions), 3):
            journal.plan_keys(start, [key(question) for question in questions[start : start + 3]])
        return journal.plan_end(len(questions), givers=givers, retry_failed=retry_failed)


def ended(status: str = "ok", answer: str = "yes") -> Result:
    return Result(Status(status), answer, "" if status == "ok" else f"this row is {status}")


async def send(journal: Journal, position: int) -> Request:
    return await journal.sent(position, key(position), endpoint=0, giver=1)


async def ask(journal: Journal, position: int, result: Result) -> int:
    """Send a row's request and settle it; return the result's id."""
    [(own_key, _)] = journal.states(position, position + 1)
    request = await journal.sent(position, own_key, endpoint=0, giver=1)
    await journal.settled(request, Outcome("answered", 10, 5), result)
    return request.id


def answer(journal: Journal, *statuses: str | None) -> None:
    """Settle the rows from the first on, one status each; None leaves a row open."""

    async def work() -> None:
        for position, status in enumerate(statuses):
            if status:
                await ask(journal, position, ended(status))

    asyncio.run(work())


def results(journal: Journal) -> list[int | None]:
    return [result for _, result in journal.states(0, 10**6)]


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name != ".journal_x.lock")


def look(path: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def change(path: Path, script: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(script)


@contextlib.contextmanager
def slow_disk(path: Path) -> Iterator[None]:
    """No commit ends before the block does."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield


async def turns() -> None:
    """Let everything begin that can."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal_x.sqlite"


@pytest.fixture
def empty(path: Path) -> Iterator[Journal]:
    with Journal.open(path) as journal:
        yield journal


@pytest.fixture
def journal(empty: Journal) -> Journal:
    """One whose run has begun."""
    plan(empty, range(ROWS))
    empty.start_run(500, {"prompt": "Is it good?"})
    return empty


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """asyncio logs no exception that nobody has retrieved."""
    caplog.set_level(logging.DEBUG, "asyncio")
    yield
    gc.collect()
    assert [record.message for record in caplog.records if record.levelno > logging.DEBUG] == []


# -- The file

WRITER = """
import asyncio, sys
from pathlib import Path
from batcher.journal import Journal, Outcome
from batcher.records import Giver, Result, Status

async def ask(journal, position):
    request = await journal.sent(position, position.to_bytes(16, "big"), 0, 1)
    print("sent", request.id, flush=True)
    await journal.settled(request, Outcome("answered"), Result(Status.OK, "yes" * position, ""))
    print("settled", position, flush=True)

async def work(journal):
    for start in range(0, 1000, 50):
        await asyncio.gather(*(ask(journal, position) for position in range(start, start + 50)))

print("begins", flush=True)
with Journal.open(Path(sys.argv[1])) as journal:
    print("opened", flush=True)
    with journal.planning():
        givers = journal.giver_ids([Giver("m", "")])
        journal.plan_keys(0, [position.to_bytes(16, "big") for position in range(1000)])
        print("planning", flush=True)
        journal.plan_end(1000, givers=givers, retry_failed=False)
    print("planned", flush=True)
    journal.start_run(500, {})
    asyncio.run(work(journal))
"""


@pytest.mark.parametrize("moment", ["begins", "opened", "planning", "planned", "sent 1", "settled 60", "settled 700"])
def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(path: Path, moment: str) -> None:
    said = []
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True, env=environment()
    ) as writer:
        assert writer.stdout
        for line in writer.stdout:
            if not line.endswith("\n"):
                break  # cut off by the kill
            said.append(line.strip())
            if said[-1] == moment:
                os.kill(writer.pid, signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    if "planned" in said:
        with Journal.read(path) as journal:
            assert journal.counts().rows == 1000
    with Journal.open(path) as journal:
        counts = journal.counts()
    assert names(path.parent) == [path.name]
    assert look(path, "PRAGMA integrity_check") == [("ok",)]
    assert counts.rows in ({1000} if "planned" in said else {0, 1000})
    numbers = {word: {int(line.split()[1]) for line in said if line.startswith(word)} for word in ("sent", "settled")}
    sent = [number for (number,) in look(path, "SELECT id FROM requests ORDER BY id")]
    assert sent == list(range(1, len(sent) + 1))
    assert numbers["sent"] <= set(sent)
    there = look(
        path,
        "SELECT position, answer, ended FROM rows JOIN results ON results.id = result"
        " JOIN requests USING (id, position)",
    )
    assert numbers["settled"] <= {position for position, _, _ in there}
    assert all(text == "yes" * position and moment for position, text, moment in there)
    assert counts.ok == len(there)


def foreign(path: Path) -> None:
    change(path, "CREATE TABLE photos (id)")


def foreign_without_tables(path: Path) -> None:
    change(path, "PRAGMA user_version = 1")


def text_file(path: Path) -> None:
    path.write_text("not a database, " * 100)


def newer(path: Path) -> None:
    Journal.open(path).close()
    change(path, "PRAGMA user_version = 2")


@pytest.mark.parametrize("opening", [Journal.open, Journal.read])
@pytest.mark.parametrize("make", [foreign, foreign_without_tables, text_file, newer, Path.mkdir])
def test_what_is_no_journal_of_ours_is_refused_and_left_as_it_is(
    path: Path, make: Callable[[Path], None], opening: Callable[[Path], Journal]
) -> None:
    make(path)
    before = path.is_file() and path.read_bytes()
    with pytest.raises(OutputError, match=path.name) as caught:
        opening(path)
    assert ("newer batcher" in str(caught.value)) == (make is newer)
    assert names(path.parent) == [path.name]
    assert (path.is_file() and path.read_bytes()) == before


def test_reading_a_journal_that_is_not_there_makes_none(path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be read"):
        Journal.read(path)
    assert names(path.parent) == []


def test_a_damaged_journal_is_an_output_error(path: Path) -> None:
    Journal.open(path).close()
    change(path, "DROP TABLE rows")
    with Journal.open(path) as journal, pytest.raises(OutputError, match="no such table"):
        journal.counts()
    change(path, "DROP TABLE requests")
    with pytest.raises(OutputError, match="no such table"):
        Journal.open(path)


def test_an_orderly_end_leaves_one_file(journal: Journal, path: Path) -> None:
    answer(journal, "ok", "error")
    with Journal.read(path) as other:
        assert other.counts() == (ROWS, 1, 0, 1)
    journal.close()
    assert names(path.parent) == [path.name]
    with Journal.read(path) as other:
        assert other.counts() == (ROWS, 1, 0, 1)
    assert names(path.parent) == [path.name]


def test_others_read_what_is_committed_while_a_commit_is_under_way(journal: Journal, path: Path) -> None:
    answer(journal, "ok")
    with slow_disk(path), Journal.read(path) as other:
        assert other.counts().ok == journal.counts().ok == 1


# -- Writing


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
    journal._db.set_trace_callback(statements.append)
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
    assert look(path, "SELECT result FROM rows WHERE position = 7") == [(1,)]
    assert journal.chunks() == {500: new}


@pytest.mark.usefixtures("quiet")
async def test_a_disk_that_fails_tells_everybody_and_keeps_nobody_waiting(journal: Journal, path: Path) -> None:
    change(
        path, "CREATE TRIGGER t BEFORE INSERT ON requests WHEN NEW.position = 1 BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    fine = await send(journal, 0)
    with slow_disk(path):
        waiting: list[asyncio.Task[Any]] = [asyncio.create_task(send(journal, position)) for position in (2, 1, 3)]
        await turns()
        waiting += [asyncio.create_task(send(journal, 4))]  # these have not failed, but stand behind what has
        waiting += [asyncio.create_task(journal.end_run("done"))]
        await turns()
        journal.failed(fine, Outcome("timeout"))
    for later in (*waiting, send(journal, 5), journal.settled(fine, Outcome("answered"), ended()), journal.flush()):
        with pytest.raises(OutputError, match=rf"{path.name} cannot be written: full"):
            await later
    assert look(path, "SELECT position, ended FROM requests") == [(0, None)]


async def test_a_number_that_sqlite_cannot_hold_is_an_error_too(journal: Journal) -> None:
    request = await send(journal, 0)
    with pytest.raises(OutputError, match="too large"):
        await journal.settled(request, Outcome("answered", prompt_tokens=2**64), ended())


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


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=5))
def test_any_text_comes_back_as_it_was(texts: list[tuple[str, str]]) -> None:
    given_results = [Result(Status.INVALID, *pair) for pair in [*texts, ("\0a\ud800b😀", "数" * 99 + "\udfff")]]

    async def work(journal: Journal) -> None:
        await asyncio.gather(*(ask(journal, position, result) for position, result in enumerate(given_results)))
        await journal.end_run(given_results[-1].error)

    with tempfile.TemporaryDirectory() as folder, Journal.open(Path(folder) / "j") as journal:
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
    assert journal.in_flight(before.id) == 1
    assert (journal.answered_since(before.started - 1), journal.answered_since(after.ended + 1)) == (5, 0)
    assert journal.failures() == [("this row is error", 2), ("this row is invalid", 1)]
    books = "SELECT id, outcome, prompt_tokens, completion_tokens FROM requests WHERE id IN (1, 6, 7)"
    assert look(path, books) == [(1, "answered", 10, 5), (6, "429", 0, 0), (7, None, None, None)]


# -- Planning


@pytest.mark.parametrize(
    ("before", "now", "expected", "changed"),
    [
        ("abc", "abc", [1, 2, 3], 0),
        ("abc", "cab", [3, 1, 2], 0),
        ("abc", "bc", [2, 3], 0),
        ("abc", "", [], 0),
        ("abc", "abcd", [1, 2, 3, None], 0),
        ("abc", "xabc", [None, 1, 2, 3], 0),
        ("abc", "abx", [1, 2, None], 1),
        ("abc", "xyz", [None, None, None], 3),
        ("aab", "baa", [3, 2, 1], 0),
        ("aab", "xaab", [None, 2, 1, 3], 0),
        ("ab", "aabb", [1, None, 2, None], 0),
    ],
)
def test_an_answer_goes_where_its_question_stands(
    empty: Journal, before: str, now: str, expected: list[int | None], changed: int
) -> None:
    plan(empty, before)
    answer(empty, *["ok"] * len(before))
    assert plan(empty, now) == changed
    assert results(empty) == expected


def test_answers_of_removed_rows_wait_for_their_return(empty: Journal) -> None:
    plan(empty, "abc")
    answer(empty, "ok", "invalid", "ok")
    plan(empty, "a")
    assert plan(empty, "acb") == 0
    assert results(empty) == [1, 3, 2]


@pytest.mark.parametrize(("models", "changed"), [("m", 0), ("mn", 0), ("n", 2)])
def test_answers_count_as_long_as_their_giver_is_in_the_pool(empty: Journal, models: str, changed: int) -> None:
    plan(empty, "abc")
    answer(empty, "ok", "invalid", "error")
    assert plan(empty, "abc", models) == changed
    assert results(empty) == ([None, None, 3] if changed else [1, 2, 3])


@pytest.mark.parametrize("now", ["abc", "cba"])
def test_retry_failed_clears_errors_and_invalid_answers_alone(empty: Journal, now: str) -> None:
    plan(empty, "abc")
    answer(empty, "ok", "invalid", "error")
    assert plan(empty, now, retry_failed=True) == 0
    assert dict(zip(now, results(empty), strict=True)) == {"a": 1, "b": None, "c": None}


def test_an_invalid_answer_of_a_giver_that_left_can_be_retried(empty: Journal) -> None:
    plan(empty, "ab")
    answer(empty, "invalid", "error")
    assert plan(empty, "xb", "n", retry_failed=True) == 0


def test_an_error_moves_with_its_row_but_a_new_row_is_asked(empty: Journal) -> None:
    plan(empty, "abc")
    answer(empty, "ok", "ok", "error")
    assert plan(empty, "cabc") == 0
    assert results(empty) == [3, 1, 2, None]


def test_an_answer_is_used_before_an_error(empty: Journal) -> None:
    plan(empty, "aa")
    answer(empty, "error", "ok")
    plan(empty, "xya")
    assert results(empty) == [None, None, 2]


def test_an_error_that_was_retried_is_never_used_again(empty: Journal) -> None:
    plan(empty, "a")
    answer(empty, "error")
    plan(empty, "a", retry_failed=True)
    answer(empty, "ok")
    assert plan(empty, "xaa") == 0
    assert results(empty) == [None, 2, None]


class Step(NamedTuple):
    """A plan, and the run after it: how each open row ends, as long as that lasts."""

    questions: str
    models: str
    retry_failed: bool
    kept: bool
    statuses: list[str | None]


class Known(NamedTuple):
    """A result, as the model sees it."""

    question: str
    giver: str
    status: str


STEPS = st.lists(
    st.builds(
        Step,
        st.text("abcd", max_size=9),
        st.sampled_from(["m", "n", "mn"]),
        st.booleans(),
        st.booleans(),
        st.lists(st.sampled_from(["ok", "ok", "invalid", "error", None])),
    ),
    max_size=5,
)
Rows = list[tuple[str, int | None]]


def modelled(rows: Rows, known: dict[int, Known], step: Step) -> tuple[Rows, int]:
    """Return what the rows should have after a plan, and how many are answered to another question."""
    good = {"ok"} if step.retry_failed else {"ok", "invalid"}
    had = [result for _, result in rows]

    def is_answer(result: int | None) -> bool:
        return result is not None and known[result].status in good

    def may_be_used(result: int | None) -> bool:
        if result is None or known[result].status == "error":
            return result in had and not step.retry_failed
        return is_answer(result) and known[result].giver in step.models

    now = [
        old[1] if old and old[0] == question and may_be_used(old[1]) else None
        for question, old in itertools.zip_longest(step.questions, rows[: len(step.questions)])
    ]
    free = sorted(set(known) - set(now), key=lambda result: (known[result].status == "error", result))
    for place, question in enumerate(step.questions):
        if now[place] is None:
            fitting = (each for each in free if known[each].question == question and may_be_used(each))
            now[place] = next(fitting, None)
            free = [each for each in free if each != now[place]]
    lost = [old for old, new in zip(had, now, strict=False) if new is None and is_answer(old) and old not in now]
    return list(zip(step.questions, now, strict=True)), len(lost)


@settings(max_examples=80, deadline=None)
@given(STEPS)
def test_any_series_of_plans_does_what_the_rules_say(steps: list[Step]) -> None:
    rows: Rows = []
    known: dict[int, Known] = {}

    async def finish(journal: Journal, step: Step) -> None:
        giver = {"m": 1, "n": 2}[step.models[0]]
        still_open = [place for place, (_, result) in enumerate(rows) if result is None]
        for place, status in zip(still_open, step.statuses, strict=False):
            question = rows[place][0]
            request = await journal.sent(place, key(question), 0, giver)
            if status:
                await journal.settled(request, Outcome("answered"), ended(status))
                known[request.id] = Known(question, step.models[0], status)
                rows[place] = (question, request.id)

    with tempfile.TemporaryDirectory() as folder, Journal.open(Path(folder) / "j") as journal:
        plan(journal, "", "mn")
        for step in steps:
            expected, changed = modelled(rows, known, step)
            with contextlib.suppress(KeyError), journal.planning():
                givers = journal.giver_ids([Giver(model, "http://somewhere") for model in step.models])
                journal.plan_keys(0, [key(question) for question in step.questions])
                assert journal.plan_end(len(step.questions), givers=givers, retry_failed=step.retry_failed) == changed
                if not step.kept:
                    raise KeyError
                rows = expected
            asyncio.run(finish(journal, step))
            assert journal.states(0, 99) == [(key(question), result) for question, result in rows]
            used = [result for _, result in rows if result is not None]
            assert len(used) == len(set(used))
            assert all(known[result].question == question for question, result in rows if result is not None)


def test_a_plan_that_fails_leaves_everything_as_it_was(empty: Journal, path: Path) -> None:
    plan(empty, "abc")
    answer(empty, "ok", "ok", "error")
    with contextlib.closing(sqlite3.connect(path)) as other:
        before = list(other.iterdump())
        change(path, "CREATE TRIGGER t BEFORE DELETE ON rows BEGIN SELECT RAISE(ABORT, 'full'); END")
        with pytest.raises(OutputError, match="full"):
            plan(empty, "xa", "n")
        change(path, "DROP TRIGGER t")
        assert list(other.iterdump()) == before
    assert plan(empty, "abc") == 0  # and the next one works


def test_planning_an_unchanged_table_writes_nothing(empty: Journal, path: Path) -> None:
    plan(empty, "abc")
    answer(empty, "ok", "invalid", "error")
    with contextlib.closing(sqlite3.connect(path)) as other:
        [before] = other.execute("PRAGMA data_version")
        assert plan(empty, "abc") == 0
        assert list(other.execute("PRAGMA data_version")) == [before]
        plan(empty, "abcd")  # to see that it would be seen
        assert list(other.execute("PRAGMA data_version")) != [before]


def test_the_work_of_a_plan_grows_with_its_rows_only(empty: Journal) -> None:
    """Counted in steps of SQLite's machine, where the order of all rows is turned around."""
    work = []
    for rows in (500, 1000):
        plan(empty, range(rows))
        answer(empty, *["ok"] * rows)
        steps: list[None] = []
        empty._db.set_progress_handler(lambda steps=steps: steps.append(None), 100)  # type: ignore[misc]
        assert plan(empty, range(rows)[::-1]) == 0
        empty._db.set_progress_handler(None, 0)
        work.append(len(steps))
    assert work[1] < 2.5 * work[0]


def test_a_second_writer_is_refused_and_told_who_holds_the_journal(path: Path) -> None:
    with Journal.open(path) as journal:
        with pytest.raises(OutputError, match="is being written by another process: wait for its end, or stop it"):
            Journal.open(path)
        journal.start_run(500, {})
        with pytest.raises(OutputError, match=f"is being written by process {os.getpid()} on "):
            Journal.open(path)
        with Journal.read(path) as reader:
            assert reader.last_run() is not None
    Journal.open(path).close()


def test_a_crash_frees_the_lock(path: Path) -> None:
    program = (
        "import os, pathlib, sys; from batcher.journal import Journal;"
        " journal = Journal.open(pathlib.Path(sys.argv[1])); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], env=environment(), check=False)
    assert done.returncode == 9
    Journal.open(path).close()


def test_a_directory_that_refuses_the_lock_is_named(path: Path) -> None:
    path.with_name(".journal_x.lock").mkdir()
    with pytest.raises(OutputError, match="cannot be locked"):
        Journal.open(path)

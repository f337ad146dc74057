"""What the journal has acknowledged is there after any end, and a plan gives each row the answer to its question."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import itertools
import logging
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import environment

from batcher.errors import OutputError
from batcher.input.marks import Comparison, Marks
from batcher.journal.journal import Chunk, Journal, Outcome, Request, Unreconciled, is_sealed
from batcher.journal.matching import Matched
from batcher.journal.schema import ADOPTED
from batcher.records import LARGEST_CELL, Bound, Result, RowState, Source, Status, Usage

ROWS = 400
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too


def key(question: object) -> bytes:
    return str(question).encode().rjust(16, b"\0")


MARKS = Marks(["text"])
COMPARISON = Comparison(MARKS, ("text",), MARKS, ("text",), ("text",))


def cells(question: object) -> bytes:
    """Return the marks of a row: its question's first letter is its text, the others are the prompt's."""
    return MARKS.of((str(question)[:1],))


def say(
    journal: Journal,
    questions: Sequence[object],
    models: Sequence[str] = "m",
    limit: int | None = None,
    found: Iterable[tuple[int, str]] = (),
    **how: bool,
) -> Matched:
    """Say what the rows ask, in slices as a run does, and how those ended that were found in chunk files."""
    sources = journal.source_ids([*(Source(model, "http://somewhere") for model in models), ADOPTED])
    questions = questions[:limit]
    for start in range(0, len(questions), 3):
        asked = questions[start : start + 3]
        journal.plan_keys(start, list(map(key, asked)), list(map(cells, asked)))
        inside = ((n, key(questions[n]), ended(status)) for n, status in found if start <= n < start + len(asked))
        journal.plan_found(inside)
    return journal.plan_end(len(questions), sources=sources, is_limited=limit is not None, **how)


def plan(journal: Journal, questions: Sequence[object], models: Sequence[str] = "m", **how: Any) -> int:
    """Plan as a run does; return how many rows are answered to another question."""
    with journal.planning(COMPARISON):
        return sum(say(journal, questions, models, **how).changed.values())


def ended(status: str = "ok", answer: str = "yes") -> Result:
    return Result(Status(status), answer, "" if status == "ok" else f"this row is {status}")


async def send(journal: Journal, position: int) -> Request:
    return await journal.sent(position, key(position), endpoint=0, source=1)


async def ask(journal: Journal, position: int, result: Result) -> int:
    """Send a row's request and settle it; return the result's id."""
    [state] = journal.states(position, position + 1)
    request = await journal.sent(position, state.key, endpoint=0, source=1)
    await journal.settled(request, Outcome("answered", Usage(10, 5)), result)
    return request.id


def answer(journal: Journal, *statuses: str | None) -> None:
    """Settle the rows from the first on, one status each; None leaves a row open."""

    async def work() -> None:
        await asyncio.gather(*(ask(journal, n, ended(status)) for n, status in enumerate(statuses) if status))

    asyncio.run(work())


def results(journal: Journal) -> list[int | None]:
    return [state.result for state in journal.states(0, 10**6)]


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


@contextlib.contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """No file of this process grows until the block ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name(f"{path.name}-wal").stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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
from batcher.journal.journal import Journal, Outcome
from batcher.input.marks import Comparison, Marks
from batcher.records import Source, Result, Status

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
    with journal.planning(Comparison(Marks(["text"]))):
        sources = journal.source_ids([Source("m", "")])
        journal.plan_keys(0, [position.to_bytes(16, "big") for position in range(1000)], [b""] * 1000)
        print("planning", flush=True)
        journal.plan_end(1000, sources=sources)
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
    change(path, "PRAGMA user_version = 99")


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


FIRST_VERSION = """
CREATE TABLE runs (id INTEGER PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, started REAL NOT NULL,
    ended REAL, outcome TEXT, chunk_size INTEGER NOT NULL, question TEXT NOT NULL);
CREATE TABLE givers (id INTEGER PRIMARY KEY, model TEXT NOT NULL, base_url TEXT NOT NULL, params TEXT NOT NULL,
    UNIQUE (model, base_url, params));
CREATE TABLE requests (id INTEGER PRIMARY KEY, run INTEGER NOT NULL, endpoint INTEGER NOT NULL,
    giver INTEGER NOT NULL, position INTEGER NOT NULL, key BLOB NOT NULL, sent REAL NOT NULL, ended REAL,
    outcome TEXT, prompt_tokens INTEGER, completion_tokens INTEGER);
CREATE TABLE results (id INTEGER PRIMARY KEY, key BLOB NOT NULL, giver INTEGER NOT NULL, status TEXT NOT NULL,
    answer TEXT NOT NULL, error TEXT NOT NULL);
CREATE TABLE rows (position INTEGER PRIMARY KEY, key BLOB NOT NULL, result INTEGER);
CREATE TABLE chunks (start INTEGER PRIMARY KEY, rows INTEGER NOT NULL, origin BLOB NOT NULL, sha256 BLOB NOT NULL);
INSERT INTO runs VALUES (1, 'host', 5, 1.5, 2.5, 'done', 2, '{"source": "--prompt", "prompt": "Is it?", "givers": []}');
INSERT INTO givers VALUES (1, 'm', 'http://somewhere', '');
INSERT INTO requests VALUES (1, 1, 0, 1, 0, :a, 1.6, 1.7, 'answered', 10, 5),
    (2, 1, 0, 1, 1, :b, 1.6, 1.8, '400', 0, 0), (3, 1, 0, 1, 2, :c, 1.6, NULL, NULL, NULL, NULL);
INSERT INTO results VALUES (1, :a, 1, 'ok', 'yes', ''), (2, :b, 1, 'error', '', 'HTTP 400');
INSERT INTO rows VALUES (0, :a, 1), (1, :b, 2), (2, :c, NULL);
INSERT INTO chunks VALUES (0, 2, x'01', x'02');
PRAGMA application_id = 0x62746368; PRAGMA user_version = 1; PRAGMA journal_mode = WAL;
"""


def test_a_journal_of_the_first_version_is_brought_up_to_date_by_its_own_command_alone(path: Path) -> None:
    script = FIRST_VERSION
    for letter in "abc":
        script = script.replace(f":{letter}", f"x'{key(letter).hex()}'")
    change(path, script)
    before = path.read_bytes()
    for reading in (Journal.read, Journal.rehearse):
        with pytest.raises(OutputError, match="written by an older batcher: run its command once to bring it up to"):
            reading(path)
    assert (names(path.parent), path.read_bytes()) == ([path.name], before)
    asked = {"prompt_option": "--prompt", "prompt": "Is it?", "sources": []}
    for _ in range(2):
        with Journal.open(path) as journal:
            assert journal.counts() == (3, 1, 0, 1)
            assert plan(journal, "abc") == 0
            assert journal.states(0, 9) == [RowState(key("a"), 1), RowState(key("b"), 2), RowState(key("c"), None)]
            assert journal.results(0, 2) == [ended(), Result(Status.ERROR, "", "HTTP 400")]
            assert journal.chunks() == {0: (2, b"\1", b"\2")}
            assert journal.last_run() == (1, "host", 5, 1.5, 2.5, "done", 2, asked)
            assert journal.in_flight(1) == (1, None)
            assert plan(journal, "xbc", reuse=True) == 1
            assert plan(journal, "abc") == 0
    [(stamp,)] = look(path, "PRAGMA user_version")
    assert stamp % 256 == 4
    with Journal.read(path) as journal, Journal.rehearse(path) as copy:
        assert journal.counts() == copy.counts() == (3, 1, 0, 1)


def state_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return all that can be seen of a directory."""
    paths = [folder, *folder.iterdir()]
    return {path.name: (b"" if path.is_dir() else path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


@contextlib.contextmanager
def at_rest(path: Path) -> Iterator[None]:
    with Journal.open(path) as journal:
        plan(journal, "abbc")
        journal.start_run(2, {})
        answer(journal, "ok", "invalid", "error")
    yield


@contextlib.contextmanager
def written_meanwhile(path: Path) -> Iterator[None]:
    with at_rest(path), Journal.open(path) as journal:
        answer(journal, None, None, None, "ok")
        with slow_disk(path):
            yield


@contextlib.contextmanager
def killed(path: Path) -> Iterator[None]:
    with at_rest(path):
        program = (
            "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
            " db.execute('UPDATE requests SET ended = NULL WHERE id = 3'); os._exit(9)"
        )
        done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
        assert done.returncode == 9
    yield


@contextlib.contextmanager
def nowhere(path: Path) -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    ("there", "files"),
    [(nowhere, 0), (at_rest, 1), (written_meanwhile, 3), (killed, 3)],
)
def test_a_rehearsal_plans_as_a_run_does_and_leaves_no_trace(
    path: Path, tmp_path: Path, there: Callable[[Path], contextlib.AbstractContextManager[None]], files: int
) -> None:
    with there(path):
        before = state_of(tmp_path)
        assert len(names(tmp_path)) == files
        with Journal.rehearse(path) as copy:
            told = (copy.counts(), copy.last_run(), copy.chunks(), copy.in_flight(1), copy.spent())
            with copy.planning(COMPARISON):
                rehearsed = [say(copy, "xabcbb", dedup=True), copy.states(0, 9), copy.planned_counts()]
            assert copy.counts() == copy.planned_counts()
        assert state_of(tmp_path) == before
    with Journal.open(path) as journal:
        assert told == (journal.counts(), journal.last_run(), journal.chunks(), journal.in_flight(1), journal.spent())
        with journal.planning(COMPARISON):
            assert (say(journal, "xabcbb", dedup=True), journal.planned_counts()) == (rehearsed[0], rehearsed[2])
        assert journal.states(0, 9) == rehearsed[1]


async def test_a_result_is_sealed_with_its_question(journal: Journal, path: Path) -> None:
    texts = [("yes", ""), ("no", ""), ("", "HTTP 400"), ("\ud800\0", "é")]
    for position, (text, error) in enumerate(texts):
        await ask(journal, position, Result(Status.INVALID, text, error))
    found = look(path, "SELECT key, seal FROM results ORDER BY id")
    for (own_key, own_seal), (text, error) in zip(found, texts, strict=True):
        sealed = own_key + f"invalid\0{text}\0{error}".encode("utf-8", "surrogatepass")
        assert own_seal == hashlib.blake2b(sealed, digest_size=8).digest()
    assert len({own_seal for _, own_seal in found}) == len(texts)


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
            journal._writer.submit(lambda: None).result()
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


async def test_sums_of_money_go_beyond_what_sqlite_can_add_up(journal: Journal) -> None:
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
    [account] = journal.endpoint_accounts()
    assert (account.sent, account.cost, account.uncertain) == (4, 2 * most, 2 * most)


@pytest.mark.parametrize("text", ["y" * 5000, "数" * 1700, "\ud800" * 1700])
async def test_an_answer_that_sqlite_cannot_hold_ends_its_row_and_no_other(
    journal: Journal, path: Path, text: str
) -> None:
    journal._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5000)
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
    assert all(is_sealed(record) for record in journal.records(0, 3))
    assert not any(journal.unreconciled(query) for query in Unreconciled)


async def test_an_answer_that_sqlite_cannot_hold_is_paid_at_its_cost(journal: Journal) -> None:
    journal._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5000)
    for answer, tokens in (("fits", 10), ("y" * 5000, 50)):
        request = await journal.sent(0, key(0), 0, 1, Bound(prompt_tokens=100, cost=1000, answer_cost=200))
        await journal.settled(request, Outcome("answered", Usage(tokens, 5), 900), ended(answer=answer))
    assert (journal.spent().answered, journal.spent().uncertain) == (1800, 0)
    [account] = journal.endpoint_accounts()
    assert (account.cost, account.uncertain) == (1800, 0)


async def test_the_largest_answer_that_sqlite_holds_is_kept(journal: Journal) -> None:
    journal._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5000)
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
    journal._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5000)
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
    assert journal.in_flight(before.id) == (1, None)
    assert (journal.answered_since(before.started - 1), journal.answered_since(after.ended + 1)) == (5, 0)
    assert journal.failures() == [("this row is error", 2), ("this row is invalid", 1)]
    books = "SELECT id, outcome, prompt_tokens, completion_tokens FROM requests WHERE id IN (1, 6, 7)"
    assert look(path, books) == [(1, "answered", 10, 5), (6, "429", None, None), (7, None, None, None)]


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
def test_answers_count_as_long_as_their_source_is_in_the_pool(empty: Journal, models: str, changed: int) -> None:
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


def test_an_invalid_answer_of_a_source_that_left_can_be_retried(empty: Journal) -> None:
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


def test_a_limit_leaves_the_rows_behind_it_as_they_are_but_for_what_it_needs(empty: Journal) -> None:
    plan(empty, "abcdd")
    answer(empty, *["ok"] * 5)
    assert plan(empty, "da", limit=2) == 0
    assert results(empty) == [4, 1, 3, None, 5]
    assert empty.counts() == (2, 2, 0, 0)
    assert plan(empty, "dabcd") == 0
    assert results(empty) == [4, 1, 2, 3, 5]


def test_one_answer_for_several_rows_is_spared_once(empty: Journal) -> None:
    plan(empty, "abbb", dedup=True)

    async def work() -> None:
        requests = [await empty.sent(position, key("ab"[position]), 0, 1) for position in range(2)]
        await asyncio.gather(*(empty.settled(each, Outcome("answered"), ended(), followers=True) for each in requests))

    asyncio.run(work())
    assert results(empty) == [1, 2, 2, 2]
    assert plan(empty, "b", limit=1) == 0
    assert results(empty) == [2, None, 2, 2], "one row gives up what is now in front"
    assert plan(empty, "babb") == 0
    assert results(empty) == [2, 1, 2, 2]


def test_a_kept_answer_that_is_retried_is_a_new_one(empty: Journal) -> None:
    plan(empty, ["a1"])
    answer(empty, "invalid")
    assert plan(empty, ["a2"], reuse=True) == 1
    plan(empty, ["a2"], retry_failed=True)
    answer(empty, "ok")
    assert plan(empty, ["a2"], "n") == 1


def test_a_row_that_keeps_an_old_answer_is_not_changed_until_it_is_redone(empty: Journal) -> None:
    plan(empty, ["a1", "b1"])
    answer(empty, "ok", "ok")
    assert plan(empty, ["a2", "b2"], reuse=True) == 2
    for questions, models in (["a2", "b2"], "m"), (["a2", "b2"], "n"), (["b2", "c2", "a2"], "n"):
        assert plan(empty, questions, models) == 0
    assert results(empty) == [2, None, 1]
    assert plan(empty, ["b2", "c2", "a2"], redo=True) == 2
    assert results(empty) == [None, None, None]


class Step(NamedTuple):
    """A plan, and the run after it: how each row that is sent ends, as long as that lasts.

    A question is a row's text and the prompt's number, such as `a1`. `found` is what chunk files hold, by position.
    """

    texts: str
    prompt: str
    models: str
    limit: int | None
    how: dict[str, bool]
    found: dict[int, str]
    is_kept: bool
    statuses: list[str | None]

    @property
    def questions(self) -> list[str]:
        return [text + self.prompt for text in self.texts[: self.limit]]


ENDS = ["ok", "ok", "invalid", "error"]
STEPS = st.lists(
    st.builds(
        Step,
        st.text("abc", min_size=1, max_size=7),
        st.sampled_from("112"),
        st.sampled_from(["m", "mn", "n"]),
        st.none() | st.integers(1, 4),
        st.fixed_dictionaries({}, optional=dict.fromkeys(["retry_failed", "redo", "reuse", "dedup"], st.just(True))),
        st.dictionaries(st.integers(0, 6), st.sampled_from(ENDS), max_size=2),
        st.sampled_from([True, True, False]),
        st.lists(st.sampled_from([*ENDS, None]), min_size=4),
    ),
    min_size=2,
    max_size=5,
)


class Known(NamedTuple):
    """A result, as the model sees it."""

    question: str
    source: str
    status: str


class Row(NamedTuple):
    """A row, as the model sees it; `leader` is the row that is asked in its place."""

    question: str
    result: int | None = None
    keeps_old: bool = False
    leader: int | None = None


class Model:
    """What the rules say, row by row and in plain words.

    Attributes:
        rows: those of the last plan, and behind them those that its limit left as they were.
        scope: how many of them the last plan was about.
        known: every result there ever was.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.scope = 0
        self.known: dict[int, Known] = {}

    def plan(self, step: Step) -> tuple[Model, Matched]:
        """Return what should be there after a plan, and what should be told of it."""
        after = Model()
        after.known = dict(self.known)
        return after, after._planned(self.rows, step)

    def _planned(self, had: list[Row], step: Step) -> Matched:
        self.scope = len(step.questions)
        self.rows = [
            Row(question, old.result, old.keeps_old) if old and self._stays(old, question, step) else Row(question)
            for question, old in itertools.zip_longest(step.questions, had[: self.scope])
        ] + [Row(*row[:3]) for row in had[self.scope :] if step.limit]
        moved = {place: row for place, row in enumerate(had) if row.result and row.result != self._result(place)}
        gone = [row for place, row in enumerate(had) if row.question != self._question(place) or place >= self.scope]
        waiting = Counter(row.question for row in gone if row.result is None)
        if step.how.get("retry_failed"):
            failed = [place for place, row in moved.items() if self.known[row.result or 0].status != "ok"]
            waiting += Counter(row.question for row in map(moved.pop, failed) if row in gone)
        given = self._reuse(moved, step)
        if not step.how.get("redo"):
            kept = [(row.question, row.result) for row in moved.values() if row.keeps_old]
            given += self._pair(kept, lambda row: row.question, keeps_old=True)
        adopted = self._adopt(had, step)
        given += self._share(step)
        lost = {place: moved[place] for place in self._lost(moved, given)}
        spared = {n: row for n, row in enumerate(self.rows) if n >= self.scope and self._is_answered(row)}
        own = self._own(lost | spared)
        new = {n for n in self._bare() if n >= len(had) or had[n].question != self.rows[n].question}
        likely = {n for n in lost.keys() - set(own.values()) if n in new - own.keys()}
        left = Counter(self.rows[n].question for n in new - own.keys() - likely) - waiting
        over = lost.keys() - set(own.values()) - likely
        masks = Counter([0] * len(own) + [int(self.rows[n].question[0] != lost[n].question[0]) for n in likely])
        if step.how.get("reuse"):
            for place, source in own.items():
                self._give(place, (lost | spared)[source].result, keeps_old=True)
                if source in spared:
                    self._give(source, None)
        if step.how.get("dedup"):
            self._improve(step)
            self._follow()
        bare = [self.rows[place].question for place in self._bare()]
        return Matched(dict(masks), len(own), len(over) if left else 0, adopted, len(bare) - len(set(bare)))

    def _question(self, place: int) -> str | None:
        return self.rows[place].question if place < len(self.rows) else None

    def _is_answered(self, row: Row) -> bool:
        return row.result is not None and self.known[row.result].status != "error"

    def _own(self, lost: dict[int, Row]) -> dict[int, int]:
        """Say whose answer each row may keep: where it stands and asks the same, else in order where its text stood."""
        own = {n: n for n in self._bare() if n in lost and lost[n].question == self.rows[n].question}
        behind = range(self.scope, len(self.rows))
        left = sorted(lost.keys() - own.keys(), key=lambda n: (n in behind, n))
        for place in self._bare():
            fitting = (n for n in left if lost[n].question[0] == self.rows[place].question[0])
            if place not in own and (source := next(fitting, None)) is not None:
                left.remove(source)
                own[place] = source
        return own

    def _result(self, place: int) -> int | None:
        return self.rows[place].result if place < len(self.rows) else None

    def _give(self, place: int, result: int | None, *, keeps_old: bool = False) -> None:
        self.rows[place] = Row(self.rows[place].question, result, keeps_old)

    def _fits(self, result: int, step: Step) -> bool:
        _, source, status = self.known[result]
        is_good = status == "ok" or (status == "invalid" and not step.how.get("retry_failed"))
        return is_good and source in step.models + "files"

    def _worth(self, result: int) -> tuple[bool, int]:
        """Return the order in which answers are used: those that are ok first."""
        return self.known[result].status != "ok", result

    def _stays(self, old: Row, question: str | None, step: Step) -> bool:
        """Say whether a row that has not moved keeps its result."""
        if old.result is None or old.question != question:
            return False
        status = self.known[old.result].status
        if step.how.get("retry_failed") and status != "ok":
            return False
        return status == "error" or (not step.how.get("redo") if old.keeps_old else self._fits(old.result, step))

    def _bare(self) -> list[int]:
        return [place for place, row in enumerate(self.rows[: self.scope]) if row.result is None]

    def _pair(
        self, answers: list[tuple[str, int | None]], of: Callable[[Row], str], *, keeps_old: bool = False
    ) -> list[int]:
        """Give rows without a result the answers that fit, first come first served; return those that were given."""
        given = []
        for place in self._bare():
            fitting = (answer for answer in answers if answer[0] == of(self.rows[place]))
            if answer := next(fitting, None):
                answers.remove(answer)
                self._give(place, answer[1], keeps_old=keeps_old)
                given.append(answer[1] or 0)
        return given

    def _reuse(self, moved: dict[int, Row], step: Step) -> list[int]:
        """Each answer that has lost a row, or has none, goes to a row that asks its question; each in order."""
        holders = [row.result or 0 for row in moved.values()]
        had = {row.result for row in self.rows} | set(holders)
        free = [each for each in [*holders, *set(self.known).difference(had)] if self._fits(each, step)]
        free.sort(key=self._worth)
        given = self._pair([(self.known[each].question, each) for each in free], lambda row: row.question)
        behind = [(row.result, place) for place, row in enumerate(self.rows) if place >= self.scope and row.result]
        for result, place in sorted(
            behind, key=lambda each: (*self._worth(each[0] or 0), each[1])
        ):  # what a row behind the limit has is of more use to one within it
            if self._fits(result, step) and self._pair(
                [(self.known[result].question, result)], lambda row: row.question
            ):
                self._give(place, None)
                given.append(result)
        errors = sorted(each for each in holders if self.known[each].status == "error")
        return given + self._pair([(self.known[each].question, each) for each in errors], lambda row: row.question)

    def _adopt(self, had: list[Row], step: Step) -> int:
        """Rows that never had a result take what a chunk file holds."""
        taken = [n for n in self._bare() if n in step.found and not (n < len(had) and had[n].result)]
        lowest = min([0, *self.known])
        for number, place in enumerate(taken, 1):
            self.known[lowest - number] = Known(self.rows[place].question, "files", step.found[place])
            if step.found[place] == "ok" or not step.how.get("retry_failed"):
                self._give(place, lowest - number)
        return len(taken)

    def _share(self, step: Step) -> list[int]:
        """Rows that ask the same have one answer."""
        given = []
        for place in self._bare() if step.how.get("dedup") else ():
            question = self.rows[place].question
            answers = [n for n, known in self.known.items() if known.question == question and self._fits(n, step)]
            if answers:
                best = min(answers, key=self._worth)
                self._give(place, best)
                given.append(best)
        return given

    def _improve(self, step: Step) -> None:
        """A row that failed has the answer that is ok, if another row that asks the same got one."""
        for place, row in enumerate(self.rows[: self.scope]):
            if row.result and not row.keeps_old and self.known[row.result].status != "ok":
                same = [n for n, known in self.known.items() if known.question == row.question and known.status == "ok"]
                self._give(place, min((n for n in same if self._fits(n, step)), default=row.result))

    def _follow(self) -> None:
        """Rows that ask the same wait for the first of them."""
        first: dict[str, int] = {}
        for place in self._bare():
            question = self.rows[place].question
            if first.setdefault(question, place) != place:
                self.rows[place] = Row(question, leader=first[question])

    def _lost(self, moved: dict[int, Row], given: list[int]) -> list[int]:
        """Return which rows' answers went nowhere; where one served several rows, those that need it most."""
        again, lost = Counter(given), []
        for place in sorted(moved, key=lambda place: (place in self._bare(), place)):
            result = moved[place].result or 0
            if again[result]:
                again[result] -= 1
            elif self.known[result].status != "error":
                lost.append(place)
        return sorted(lost)

    def states(self) -> list[RowState]:
        leaders = [row.leader for row in self.rows]
        return [
            RowState(key(row.question), row.result, row.leader, leaders.count(place))
            for place, row in enumerate(self.rows)
        ]


async def finish(journal: Journal, model: Model, step: Step) -> None:
    """Send the rows that are left, as a run does."""
    source = {"m": 1, "n": 2}[step.models[0]]

    async def send_one(place: int, status: str | None) -> None:
        question = model.rows[place].question
        request = await journal.sent(place, key(question), 0, source)
        if status:
            followers = [n for n, row in enumerate(model.rows) if row.leader == place]
            await journal.settled(request, Outcome("answered"), ended(status), followers=bool(followers))
            model.known[request.id] = Known(question, step.models[0], status)
            for row in (place, *followers):
                model.rows[row] = model.rows[row]._replace(result=request.id)

    asked = [place for place in model._bare() if model.rows[place].leader is None]
    await asyncio.gather(*map(send_one, asked, step.statuses))


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_any_series_of_plans_does_what_the_rules_say(steps: list[Step]) -> None:
    model = Model()
    with tempfile.TemporaryDirectory() as folder, Journal.open(path := Path(folder) / "j") as journal:
        plan(journal, "", "mn")
        for step in steps:
            after, expected = model.plan(step)
            with contextlib.suppress(KeyError), journal.planning(COMPARISON):
                questions = [text + step.prompt for text in step.texts]
                matched = say(journal, questions, step.models, step.limit, list(step.found.items()), **step.how)
                assert matched == expected
                if not step.is_kept:
                    raise KeyError
                model = after
            asyncio.run(finish(journal, model, step))
            assert [state[:2] for state in journal.states(0, 99)] == [state[:2] for state in model.states()]
            assert journal.states(0, model.scope) == model.states()[: model.scope]
            answers = [row for row in model.rows if row.result is not None and not row.keeps_old]
            assert all(model.known[row.result or 0].question == row.question for row in answers)
            assert look(path, "SELECT id FROM results ORDER BY id") == [(n,) for n in sorted(model.known)]


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
        "import os, pathlib, sys; from batcher.journal.journal import Journal;"
        " journal = Journal.open(pathlib.Path(sys.argv[1])); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], env=environment(), check=False)
    assert done.returncode == 9
    Journal.open(path).close()


def test_a_directory_that_refuses_the_lock_is_named(path: Path) -> None:
    path.with_name(".journal_x.lock").mkdir()
    with pytest.raises(OutputError, match="cannot be locked"):
        Journal.open(path)

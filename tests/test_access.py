"""Reading a journal leaves no trace, a log counts only beside its own file, and one process writes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import environment

import batcher
from batcher.errors import OutputError
from batcher.input.marks import Comparison, Marks
from batcher.journal.access import Log, _State, check_pair
from batcher.journal.opening import open_journal, read_journal, rehearse
from batcher.journal.reading import Reader
from batcher.journal.schema import GENERATIONS, VERSION
from batcher.reports.status import status

OPENINGS: dict[str, Callable[[Path], Reader]] = {
    "open": open_journal,
    "read": read_journal,
    "read alone": lambda path: read_journal(path, alone=True),
    "rehearse": rehearse,
}
UNTOLD = Comparison(Marks(()))
READINGS = {name: OPENINGS[name] for name in ("read", "rehearse")}

# Answers a given number of rows, and ends like a killed process; or prints a line, and waits for one before it goes on.
WRITER = """
import asyncio, os, sys
from pathlib import Path
from batcher.journal.entries import Outcome
from batcher.journal.rules import Rules
from batcher.journal.opening import open_journal
from batcher.input.marks import Comparison, Marks
from batcher.records import Source, Result, Status

async def ask(journal, position):
    request = await journal.sent(position, bytes([position]), 0, 1)
    await journal.settled(request, Outcome("answered"), Result(Status.OK, str(position) * 1000, ""))

async def work(journal, start, stop):
    for position in range(start, stop):
        await ask(journal, position)

path, start, stop, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
with open_journal(path) as journal:
    with journal.planning(Comparison(Marks(()))) as matching:
        sources = matching.source_ids([Source("m", "")])
        matching.add_rows(0, [bytes([position]) for position in range(200)], [b""] * 200)
        matching.finish(200, Rules(frozenset(sources)))
        journal.start_run(500, {})
    asyncio.run(work(journal, start, stop))
    if end == "killed":
        os._exit(9)
    if end == "waits":
        print("there", flush=True)
        sys.stdin.readline()
        asyncio.run(work(journal, stop, 200))
    asyncio.run(journal.end_run("done"))
"""


def write(path: Path, start: int, stop: int, end: str = "closed") -> None:
    """Answer the rows from `start` to `stop` in another process."""
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(path), str(start), str(stop), end],
        env=environment(),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == (9 if end == "killed" else 0), done.stderr


@contextlib.contextmanager
def writing(path: Path, rows: int) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold the journal open, with this many answers; it ends the run after the block."""
    program = [sys.executable, "-c", WRITER, str(path), "0", str(rows), "waits"]
    with subprocess.Popen(
        program, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "there\n"
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)  # it may have been stopped
            process.communicate("go on\n")
        assert process.returncode == 0


def state_of(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Return all that can be seen of a directory."""
    paths = [folder, *folder.iterdir()]
    return {
        path.name: (b"" if path.is_dir() else path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
        for path in paths
    }


def look(path: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}-{ending}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "output").mkdir()
    return tmp_path / "output" / "journal_k.sqlite"


# -- The file and its log


def an_older_copy(path: Path) -> None:
    write(path, 0, 5)
    older = path.read_bytes()
    write(path, 5, 10)
    write(path, 10, 15, "killed")
    path.write_bytes(older)


def an_older_log(path: Path) -> None:
    write(path, 0, 5, "killed")
    log = beside(path, "wal").read_bytes()
    write(path, 5, 10)
    beside(path, "wal").write_bytes(log)


def the_log_of_another_journal(path: Path) -> None:
    other = path.with_name("journal_other.sqlite")
    write(other, 0, 5, "killed")
    write(path, 0, 5)
    beside(other, "wal").rename(beside(path, "wal"))
    shutil.rmtree(path.parent / "other", ignore_errors=True)


def an_emptied_file(path: Path) -> None:
    write(path, 0, 5, "killed")
    os.truncate(path, 0)


def no_file(path: Path) -> None:
    write(path, 0, 5, "killed")
    path.unlink()


def a_copy_from_before_the_log_began_anew(path: Path) -> None:
    write(path, 0, 5)
    older = path.read_bytes()
    with open_journal(path) as journal:
        journal._db.do("PRAGMA wal_autocheckpoint = 1")
        for _ in range(3):
            with journal.planning(UNTOLD):
                journal.start_run(500, {})
        for file in (path, beside(path, "wal"), beside(path, "shm")):
            shutil.copy(file, path.parent.parent)
    shutil.copy(path.parent.parent / f"{path.name}-wal", path.parent)
    path.write_bytes(older)


MISFITS = [
    an_older_copy,
    an_older_log,
    the_log_of_another_journal,
    an_emptied_file,
    no_file,
    a_copy_from_before_the_log_began_anew,
]


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize("misfit", MISFITS)
def test_a_log_beside_another_state_of_its_file_is_refused_and_nothing_is_changed(
    path: Path, misfit: Callable[[Path], None], opening: str
) -> None:
    misfit(path)
    before = state_of(path.parent)
    is_gone = misfit is no_file
    said = "is gone, but its log .* is there" if is_gone else "does not belong to the journal beside it"
    with pytest.raises(OutputError, match=said) as caught:
        OPENINGS[opening](path)
    assert f"{path.name}-wal" in str(caught.value)
    assert f"{path.name}-shm away" in str(caught.value)
    assert state_of(path.parent) == before


def test_what_is_to_be_done_about_such_a_log_helps(path: Path) -> None:
    an_older_copy(path)
    for ending in ("wal", "shm"):
        beside(path, ending).unlink()
    with open_journal(path) as journal:
        assert journal.counts().ok == 5
    assert look(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("opening", OPENINGS)
def test_a_copy_from_just_before_the_log_began_is_as_good_as_the_file(path: Path, opening: str) -> None:
    write(path, 0, 5)
    older = path.read_bytes()
    write(path, 5, 10, "killed")
    path.write_bytes(older)
    with OPENINGS[opening](path) as journal:
        assert journal.counts().ok == 10


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_a_log_fits_whatever_part_of_it_has_been_moved_into_the_file(path: Path, moved: int) -> None:
    """A kill may come before, during or after the move; then only the first page, or more pages, are new."""
    write(path, 0, 5)
    write(path, 5, 10, "killed")
    copy = path.parent.parent / path.name
    for file in path.parent.iterdir():
        shutil.copy(file, path.parent.parent)
    look(copy, "SELECT 1 FROM runs")  # who closes it last moves all of its log into it
    whole, old = copy.read_bytes(), path.read_bytes()
    size = moved * 4096
    path.write_bytes(whole[:size] + old[size:])
    with read_journal(path) as journal:
        assert journal.counts().ok == 10
    with open_journal(path) as journal:
        assert journal.counts().ok == 10
    assert look(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize(
    ("generation", "first", "last", "fits"),
    [
        (4, 5, 9, True),
        (7, 5, 9, True),
        (9, 5, 9, True),
        (3, 5, 9, False),
        (10, 5, 9, False),
        (0, 5, 9, False),
        (5, 0, 0, False),
        (0, 0, 0, True),
        (GENERATIONS, 1, 2, True),
        (GENERATIONS - 1, GENERATIONS, 3, True),
        (3, GENERATIONS, 3, True),
        (4, GENERATIONS, 3, False),
        (GENERATIONS - 2, GENERATIONS, 3, False),
    ],
)
def test_generations_are_a_ring(generation: int, first: int, last: int, *, fits: bool) -> None:
    assert Log(b"", 1, first, last, 7).fits(_State(generation, 7)) == fits


def test_a_log_without_the_first_page_belongs_to_a_file_of_its_size(path: Path) -> None:
    """Another program has changed the journal and was killed, or an older batcher."""
    write(path, 0, 5)
    program = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
        " db.execute('UPDATE runs SET outcome = \"mine\"'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    with read_journal(path) as journal:
        last = journal.last_run()
        assert last
        assert last.outcome == "mine"
    log = beside(path, "wal").read_bytes()
    write(path, 5, 100)
    beside(path, "wal").write_bytes(log)
    with pytest.raises(OutputError, match="does not belong to the journal"):
        read_journal(path)


@pytest.mark.parametrize("grows", [False, True])
def test_a_killed_run_of_an_older_batcher_opens_as_before(path: Path, *, grows: bool) -> None:
    program = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
        " [db.execute(line) for line in sys.argv[2:]]; os._exit(9)"
    )
    write(path, 0, 5)
    version = f"PRAGMA user_version = {VERSION}"  # without a generation
    look(path, version)
    more = "INSERT INTO events VALUES (9, 1, 1, 'x', 'y', hex(zeroblob(20000)))"
    statement = more if grows else "UPDATE runs SET outcome = 'old'"
    subprocess.run([sys.executable, "-c", program, str(path), statement], check=False)
    before = state_of(path.parent)
    with read_journal(path) as journal:
        assert journal.counts().ok == 5
    assert state_of(path.parent) == before
    with open_journal(path) as journal:
        assert journal.counts().ok == 5
    [(number,)] = look(path, "PRAGMA user_version")
    assert (number & 0xFF, number >> 8 > 0) == (VERSION, True)


def test_every_commit_of_ours_has_the_next_generation(path: Path) -> None:
    write(path, 0, 5)
    [(number,)] = look(path, "PRAGMA user_version")
    write(path, 5, 10, "killed")
    log = check_pair(path)
    assert log.first == (number >> 8) + 1
    assert log.last == (number >> 8) + log.commits
    assert log.commits == 1 + 2 * 5


def test_two_journals_begin_with_other_generations(path: Path) -> None:
    numbers = set()
    for name in "abc":
        with open_journal(path.with_name(name)) as journal:
            journal.start_run(500, {})
        numbers |= {number >> 8 for (number,) in look(path.with_name(name), "PRAGMA user_version")}
    assert len(numbers) == 3


# -- Reading


@contextlib.contextmanager
def at_rest(path: Path) -> Iterator[None]:
    write(path, 0, 5)
    yield


@contextlib.contextmanager
def at_work(path: Path) -> Iterator[None]:
    with writing(path, 5):
        yield


@contextlib.contextmanager
def at_work_here(path: Path) -> Iterator[None]:
    write(path, 0, 5)
    with open_journal(path) as journal, journal.planning(UNTOLD):
        journal.start_run(500, {})
        yield


@contextlib.contextmanager
def killed(path: Path) -> Iterator[None]:
    write(path, 0, 5, "killed")
    yield


@contextlib.contextmanager
def killed_and_copied_without_the_index(path: Path) -> Iterator[None]:
    write(path, 0, 5, "killed")
    beside(path, "shm").unlink()
    yield


@contextlib.contextmanager
def killed_in_moving_its_log(path: Path) -> Iterator[None]:
    """The first page is new, and the file is shorter than it says."""
    write(path, 0, 5, "killed")
    copy = shutil.copytree(path.parent, path.parent.parent / "copy")
    look(copy / path.name, "SELECT 1 FROM runs")
    path.write_bytes((copy / path.name).read_bytes()[:4097])
    yield


@contextlib.contextmanager
def killed_in_moving_its_log_and_copied_without_the_index(path: Path) -> Iterator[None]:
    with killed_in_moving_its_log(path):
        beside(path, "shm").unlink()
        yield


@contextlib.contextmanager
def with_an_empty_log(path: Path) -> Iterator[None]:
    write(path, 0, 5)
    beside(path, "wal").touch()
    beside(path, "shm").touch()
    yield


@contextlib.contextmanager
def killed_before_the_first_commit_in_its_log(path: Path) -> Iterator[None]:
    with killed(path):
        copy = shutil.copytree(path.parent, path.parent.parent / "copy")
        look(copy / path.name, "SELECT 1 FROM runs")
        shutil.copy(copy / path.name, path)
        os.truncate(beside(path, "wal"), 32)
    yield


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize(
    "there",
    [
        at_rest,
        at_work,
        at_work_here,
        killed,
        killed_and_copied_without_the_index,
        killed_in_moving_its_log,
        killed_in_moving_its_log_and_copied_without_the_index,
        with_an_empty_log,
        killed_before_the_first_commit_in_its_log,
    ],
)
def test_reading_changes_no_name_no_byte_and_no_time(
    path: Path, there: Callable[[Path], contextlib.AbstractContextManager[None]], reading: str
) -> None:
    with there(path):
        before = state_of(path.parent)
        with READINGS[reading](path) as journal:
            assert journal.counts().ok == 5
            assert journal.last_run()
        assert state_of(path.parent) == before


@pytest.mark.parametrize("verb", ["status", "verify", "plan", "merge", "run"])
def test_no_verb_changes_anything_beside_a_log_that_does_not_fit(path: Path, verb: str) -> None:
    an_older_copy(path)
    before = state_of(path.parent)
    asked: dict[str, Any] = {"keyword": "k", "provider": "offline", "output_dir": path.parent}
    verbs: dict[str, Callable[[], object]] = {
        "status": lambda: status("k", path.parent),
        "verify": lambda: batcher.verify("k", output_dir=path.parent),
        "merge": lambda: batcher.merge("k", path.parent),
        "plan": lambda: batcher.plan(["a"], **asked),
        "run": lambda: batcher.run(["a"], **asked),
    }
    with pytest.raises(OutputError, match="does not belong to the journal beside it"):
        verbs[verb]()
    assert state_of(path.parent) == before


def test_a_run_that_takes_over_while_a_journal_at_rest_is_read_is_told_and_no_garbage_is(path: Path) -> None:
    write(path, 0, 5)
    with read_journal(path) as journal:
        assert journal.counts().ok == 5
        write(path, 5, 10)
        with pytest.raises(OutputError, match="was written while it was read: do it again"):
            journal.counts()
    with read_journal(path) as journal:
        assert journal.counts().ok == 10


def test_who_reads_beside_a_run_that_begins_its_log_anew_again_and_again_sees_no_misfit(path: Path) -> None:
    with open_journal(path) as journal:
        journal._db.do("PRAGMA wal_autocheckpoint = 2")
        journal.start_run(500, {})
        is_done = threading.Event()

        def work() -> None:
            while not is_done.is_set():
                with journal.planning(UNTOLD):
                    journal.start_run(500, {})

        writer = threading.Thread(target=work)
        writer.start()
        seen, said = [0], set[str]()
        try:
            while len(seen) < 300:
                try:
                    with read_journal(path) as reader:
                        last = reader.last_run()
                    seen.append(last.id if last else 0)
                except OutputError as error:
                    said.add(str(error))
        finally:
            is_done.set()
            writer.join()
    assert seen == sorted(seen)
    # At most that the log held nothing, and the file was written meanwhile.
    assert said <= {f"the journal {path} was written while it was read: do it again"}


def test_a_look_at_the_file_takes_no_lock_from_a_run_in_the_same_process(path: Path) -> None:
    with open_journal(path):
        for reading in READINGS.values():
            reading(path).close()
        program = (
            "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], timeout=0);"
            " db.execute('PRAGMA locking_mode = EXCLUSIVE'); db.execute('BEGIN EXCLUSIVE')"
        )
        done = subprocess.run([sys.executable, "-c", program, path], check=False, capture_output=True, text=True)
        assert "database is locked" in done.stderr


# -- Writing


@pytest.mark.parametrize("is_stopped", [False, True])
@pytest.mark.parametrize("opening", ["open", "read alone"])
def test_a_second_writer_is_refused_though_the_lock_file_is_gone(path: Path, opening: str, *, is_stopped: bool) -> None:
    with writing(path, 5) as first:
        path.with_name(".journal_k.lock").unlink()
        if is_stopped:
            first.send_signal(signal.SIGSTOP)
        before = {name: seen for name, seen in state_of(path.parent).items() if name.startswith("journal")}
        with pytest.raises(OutputError, match=f"is being written by process {first.pid} on .* its lock file is gone"):
            OPENINGS[opening](path)
        assert {name: seen for name, seen in state_of(path.parent).items() if name.startswith("journal")} == before
    answers = look(path, "SELECT position, answer FROM rows JOIN results ON results.id = result ORDER BY position")
    assert answers == [(position, str(position) * 1000) for position in range(200)]
    assert look(path, "PRAGMA integrity_check") == [("ok",)]
    with open_journal(path) as journal:
        assert journal.counts().ok == 200


@pytest.mark.parametrize("opening", ["open", "read alone"])
def test_a_second_writer_in_the_same_process_is_refused_though_the_lock_file_is_gone(path: Path, opening: str) -> None:
    with open_journal(path) as journal:
        journal.start_run(500, {})
        path.with_name(".journal_k.lock").unlink()
        with pytest.raises(OutputError, match="by another run in this process, though its lock file is gone: await"):
            OPENINGS[opening](path)
        journal.start_run(500, {})
    with open_journal(path):
        assert look(path, "SELECT count(*) FROM runs") == [(2,)]


@contextlib.contextmanager
def browsing(path: Path) -> Iterator[sqlite3.Connection]:
    """Let another program have the journal open."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as browser:
        browser.execute("SELECT 1 FROM runs").fetchall()
        yield browser


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_who_only_reads_a_journal_keeps_no_run_from_writing_it(path: Path, end: str) -> None:
    write(path, 0, 5, end)
    with browsing(path) as browser:
        write(path, 5, 10)
        assert browser.execute("SELECT count(*) FROM results").fetchall() == [(10,)]
    assert look(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_run_that_is_still_being_planned_is_seen_though_its_lock_file_is_gone(path: Path) -> None:
    write(path, 0, 5)
    with open_journal(path) as journal, journal.planning(UNTOLD):
        path.with_name(".journal_k.lock").unlink()
        with pytest.raises(OutputError, match="is open in another program, such as a run"):
            open_journal(path)
        journal.start_run(500, {})


def test_a_run_that_lost_its_lock_file_before_it_was_planned_is_not_begun(path: Path) -> None:
    write(path, 0, 5)
    with open_journal(path) as journal:
        path.with_name(".journal_k.lock").unlink()
        write(path, 5, 10)
        with (
            pytest.raises(OutputError, match=r"the lock file of .* was removed: run it again"),
            journal.planning(UNTOLD),
        ):
            journal.start_run(500, {})
    with open_journal(path) as journal:
        assert journal.counts().ok == 10


def test_a_journal_that_is_to_be_brought_up_to_date_must_be_open_nowhere_else(path: Path) -> None:
    write(path, 0, 5)
    look(path, f"PRAGMA user_version = {VERSION}")  # without a generation
    with (
        browsing(path),
        pytest.raises(OutputError, match=r"is open in another program, .*: close it there, or wait for its end"),
    ):
        open_journal(path)
    open_journal(path).close()


@pytest.mark.parametrize("is_alive", [False, True])
def test_a_killed_run_can_be_merged_even_if_its_number_is_that_of_another_process_by_now(
    path: Path, *, is_alive: bool
) -> None:
    write(path, 0, 5, "killed")
    if is_alive:
        # With the generation that a run gives, in a commit of the same log.
        program = (
            "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
            " db.execute('UPDATE runs SET pid = ?', (os.getppid(),)); os._exit(9)"
        )
        subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    before = state_of(path.parent)
    with read_journal(path, alone=True) as journal:
        assert journal.counts().ok == 5
        with pytest.raises(OutputError, match="is being written by"):
            open_journal(path)
    if not is_alive:
        assert state_of(path.parent) == before

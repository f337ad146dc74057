"""A journal opens after any end, for one writer and any number of readers, and what is not ours stays as it is."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Lab
from fake_service import Service, refusal
from filelock import FileLock
from journals import (
    COMPARISON,
    ROWS,
    answer,
    change,
    ended,
    key,
    look,
    names,
    plan,
    say,
    slow_disk,
)
from programs import environment

import batcher
from batcher.endpoint import Endpoint
from batcher.errors import KeywordBusy, OutputError
from batcher.journal.locking import Patience, holder_of
from batcher.journal.opening import open_journal, open_to_decide, read_journal, rehearse
from batcher.journal.reading import Reader
from batcher.journal.writing import Journal
from batcher.records import Result, RowState, Status
from batcher.reports.whole.report import page_of_run

WRITER = """
import asyncio, sys
from pathlib import Path
from batcher.journal.entries import Outcome
from batcher.journal.rules import Rules
from batcher.journal.opening import open_journal
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
with open_journal(Path(sys.argv[1])) as journal:
    print("opened", flush=True)
    with journal.planning(Comparison(Marks(["text"]))) as matching:
        sources = matching.source_ids([Source("m", "")])
        matching.add_rows(0, [position.to_bytes(16, "big") for position in range(1000)], [b""] * 1000)
        print("planning", flush=True)
        matching.finish(1000, Rules(frozenset(sources)))
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
        with read_journal(path) as journal:
            assert journal.counts().rows == 1000
    with open_journal(path) as journal:
        counts = journal.counts()
        if not said or said == ["begins"]:
            journal.start_run(500, {})  # it may have been made just now, and one without a run does not stay
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


def make_used(path: Path) -> None:
    """Make a journal that stays: one in which no run begins does not."""
    with open_journal(path) as journal:
        journal.start_run(500, {})


def newer(path: Path) -> None:
    make_used(path)
    change(path, "PRAGMA user_version = 99")


@pytest.mark.parametrize("opening", [open_journal, read_journal])
@pytest.mark.parametrize("make", [foreign, foreign_without_tables, text_file, newer, Path.mkdir])
def test_what_is_no_journal_of_ours_is_refused_and_left_as_it_is(
    path: Path, make: Callable[[Path], None], opening: Callable[[Path], Reader]
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
        read_journal(path)
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
    for reading in (read_journal, rehearse):
        with pytest.raises(OutputError, match="written by an older batcher: run its command once to bring it up to"):
            reading(path)
    assert (names(path.parent), path.read_bytes()) == ([path.name], before)
    asked = {"prompt_option": "--prompt", "prompt": "Is it?", "sources": []}
    for _ in range(2):
        with open_journal(path) as journal:
            assert journal.counts() == (3, 1, 0, 1)
            assert plan(journal, "abc") == 0
            assert journal.states(0, 9) == [RowState(key("a"), 1), RowState(key("b"), 2), RowState(key("c"), None)]
            assert journal.results(0, 2) == [ended(), Result(Status.ERROR, "", "HTTP 400")]
            assert journal.chunks() == {0: (2, b"\1", b"\2")}
            assert journal.last_run() == (1, "host", 5, 1.5, 2.5, "done", 2, asked)
            assert journal.in_flight(1) == (1, None)
            assert plan(journal, "xbc", on_change="reuse") == 1
            assert plan(journal, "abc") == 0
    [(stamp,)] = look(path, "PRAGMA user_version")
    assert stamp % 256 == 10
    with read_journal(path) as journal, rehearse(path) as copy:
        assert journal.counts() == copy.counts() == (3, 1, 0, 1)


def state_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return all that can be seen of a directory."""
    paths = [folder, *folder.iterdir()]
    return {path.name: (b"" if path.is_dir() else path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


@contextlib.contextmanager
def at_rest(path: Path) -> Iterator[None]:
    with open_journal(path) as journal:
        plan(journal, "abbc")
        journal.start_run(2, {})
        answer(journal, "ok", "invalid", "error")
    yield


@contextlib.contextmanager
def written_meanwhile(path: Path) -> Iterator[None]:
    with at_rest(path), open_journal(path) as journal:
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
        with rehearse(path) as copy:
            told = (copy.counts(), copy.last_run(), copy.chunks(), copy.in_flight(1), copy.spent())
            with copy.planning(COMPARISON) as matching:
                rehearsed = [say(matching, "xabcbb", dedup=True), copy.states(0, 9), matching.counts()]
            assert copy.counts() == rehearsed[2]
        assert state_of(tmp_path) == before
    with open_journal(path) as journal:
        assert told == (journal.counts(), journal.last_run(), journal.chunks(), journal.in_flight(1), journal.spent())
        with journal.planning(COMPARISON) as matching:
            assert (say(matching, "xabcbb", dedup=True), matching.counts()) == (rehearsed[0], rehearsed[2])
        assert journal.states(0, 9) == rehearsed[1]


def test_a_damaged_journal_is_an_output_error(path: Path) -> None:
    make_used(path)
    change(path, "DROP TABLE rows")
    with open_journal(path) as journal, pytest.raises(OutputError, match="no such table"):
        journal.counts()
    change(path, "DROP TABLE requests")
    with pytest.raises(OutputError, match="no such table"):
        open_journal(path)


def test_an_orderly_end_leaves_one_file(journal: Journal, path: Path) -> None:
    answer(journal, "ok", "error")
    with read_journal(path) as other:
        assert other.counts() == (ROWS, 1, 0, 1)
    journal.close()
    assert names(path.parent) == [path.name]
    with read_journal(path) as other:
        assert other.counts() == (ROWS, 1, 0, 1)
    assert names(path.parent) == [path.name]


def test_others_read_what_is_committed_while_a_commit_is_under_way(journal: Journal, path: Path) -> None:
    answer(journal, "ok")
    with slow_disk(path), read_journal(path) as other:
        assert other.counts().ok == journal.counts().ok == 1


def test_a_second_writer_is_refused_and_told_who_holds_the_journal(path: Path) -> None:
    here = "journal_x.sqlite: another run in this process has it: await it or cancel it$"
    with open_journal(path) as journal:
        with pytest.raises(OutputError, match=here):
            open_journal(path)
        journal.start_run(500, {})
        with pytest.raises(OutputError, match=here):
            open_journal(path)
        with read_journal(path) as reader:
            assert reader.last_run() is not None
    open_journal(path).close()
    with (
        read_journal(path, alone=True),
        pytest.raises(OutputError, match=f"by process {os.getpid()} on .*: wait for its end, or stop it"),
    ):
        open_journal(path)


def test_a_crash_frees_the_lock(path: Path) -> None:
    program = (
        "import os, pathlib, sys; from batcher.journal.opening import open_journal;"
        " journal = open_journal(pathlib.Path(sys.argv[1])); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], env=environment(), check=False)
    assert done.returncode == 9
    open_journal(path).close()


def test_a_directory_that_refuses_the_lock_is_named(path: Path) -> None:
    path.with_name(".journal_x.lock").mkdir()
    with pytest.raises(OutputError, match="cannot be locked"):
        open_journal(path)


# -- A journal that was made for nothing


def files(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def test_a_new_journal_without_a_run_is_removed_with_its_lock_when_it_is_closed(path: Path) -> None:
    with open_journal(path):
        assert path.exists()
        with pytest.raises(KeywordBusy):
            open_journal(path)
        assert path.exists(), "a process that was refused removes nothing"
    assert files(path.parent) == []


def test_a_journal_that_was_there_before_stays_and_so_does_its_lock(path: Path) -> None:
    make_used(path)
    before = files(path.parent)
    open_journal(path).close()
    assert files(path.parent) == before == [".journal_x.lock", path.name]


def test_a_lock_file_that_was_there_before_stays(path: Path) -> None:
    path.with_name(".journal_x.lock").touch()
    open_journal(path).close()
    assert files(path.parent) == [".journal_x.lock"]


def test_a_new_journal_whose_lock_file_was_taken_away_is_left_to_the_process_that_has_it_now(path: Path) -> None:
    with open_journal(path):
        path.with_name(".journal_x.lock").unlink()
        path.with_name(".journal_x.lock").touch()
    assert files(path.parent) == [".journal_x.lock", path.name]


# -- A journal of an older version

AS_NINTH_VERSION = """
DROP INDEX requests_batch;
DROP INDEX requests_line;
DROP TABLE batches;
ALTER TABLE requests DROP COLUMN sent_in;
ALTER TABLE responses DROP COLUMN tier;
"""
AS_EIGHTH_VERSION = f"""{AS_NINTH_VERSION}
DROP TABLE corrections;
ALTER TABLE gold DROP COLUMN who;
ALTER TABLE gold DROP COLUMN note;
"""
AS_SEVENTH_VERSION = f"""{AS_EIGHTH_VERSION}
ALTER TABLE responses DROP COLUMN confidence;
DROP TABLE opinions;
DROP TABLE votes;
DROP TABLE draws;
DROP TABLE drawn;
DROP TABLE gold;
"""
AS_SIXTH_VERSION = f"""{AS_SEVENTH_VERSION}
DROP TABLE partials;
ALTER TABLE requests DROP COLUMN batch;
"""
AS_FIFTH_VERSION = f"""{AS_SIXTH_VERSION}
DROP TABLE readings;
DROP TABLE rereads;
ALTER TABLE results DROP COLUMN reading;
ALTER TABLE responses DROP COLUMN text;
ALTER TABLE responses DROP COLUMN form;
ALTER TABLE responses DROP COLUMN request_id;
"""
AS_FOURTH_VERSION = f"{AS_FIFTH_VERSION} DROP TABLE responses;"
AS_THIRD_VERSION = (
    AS_FOURTH_VERSION
    + """
ALTER TABLE sources RENAME TO givers;
ALTER TABLE requests RENAME COLUMN source TO giver;
ALTER TABLE results RENAME COLUMN source TO giver;
UPDATE runs SET question = replace(replace(question, '"prompt_option"', '"source"'), '"sources"', '"givers"');
"""
)


def as_version(version: int, script: str, path: Path) -> None:
    """Write a journal as an older version did."""
    [(stamp,)] = look(path, "PRAGMA user_version")
    stamp -= stamp % 256 - version
    change(path, f"{script} PRAGMA user_version = {stamp}; PRAGMA wal_checkpoint(TRUNCATE);")


@pytest.mark.parametrize(
    ("version", "script"),
    [
        (3, AS_THIRD_VERSION),
        (4, AS_FOURTH_VERSION),
        (5, AS_FIFTH_VERSION),
        (6, AS_SIXTH_VERSION),
        (7, AS_SEVENTH_VERSION),
        (8, AS_EIGHTH_VERSION),
        (9, AS_NINTH_VERSION),
    ],
)
def test_a_journal_of_an_older_version_is_read_and_planned_as_it_is_and_goes_on(
    lab: Lab, version: int, script: str
) -> None:
    texts = ["a", "b", "c"]
    lab.run(texts, Service(texts, instead=lambda call: refusal(413) if call.prompt == "b" else None), "{text}")
    path = lab.directory / "journal_k.sqlite"
    as_version(version, script, path)
    before = state_of(lab.directory)
    status, found = batcher.status("k", lab.directory), batcher.verify("k", texts, output_dir=lab.directory)
    planned = batcher.plan(texts, "{text}", keyword="k", output_dir=lab.directory, endpoints=[Endpoint("m")])
    assert (status.cut, status.ok, status.error, found.ok, [each.sent for each in found.endpoints]) == (
        0,
        2,
        1,
        True,
        [3],
    )
    assert (planned.answered, planned.error, planned.new) == (2, 1, 0)
    batcher.merge("k", lab.directory)
    assert "2 of 3 rows" in page_of_run("k", lab.directory)
    after = state_of(lab.directory)
    assert after.pop(path.name) == before.pop(path.name)
    assert lab.run(texts, Service([]), "{text}").requests_now == 0
    [(stamp,)] = look(path, "PRAGMA user_version")
    assert stamp % 256 == 10
    assert batcher.verify("k", texts, output_dir=lab.directory).ok


# -- A lock that others hold for a moment


def test_a_lock_is_waited_for_unless_two_looks_show_the_same_run(path: Path) -> None:
    file = path.with_name(".journal_x.lock")

    def says(work: str) -> None:
        file.write_bytes(b"\0" + json.dumps(["elsewhere", 1, work]).encode() if work else b"")

    says("runs")  # left by a run that was killed
    assert holder_of(path) is None
    with FileLock(file):
        looks = Patience()
        for work in ("runs", "decides", "decides", "runs", "", "runs", "plans"):
            says(work)
            assert not looks.is_over(path), work
        assert looks.is_over(path)


@pytest.mark.parametrize("left", ["runs", "decides"])
def test_a_decision_leaves_nothing_in_the_lock_file_that_a_killed_process_has_written(path: Path, left: str) -> None:
    make_used(path)
    file = path.with_name(".journal_x.lock")
    file.write_bytes(b"\0" + json.dumps(["elsewhere", 1, left]).encode())
    with open_to_decide(path):
        assert (holder := holder_of(path))
        assert (holder.pid, holder.work) == (os.getpid(), "decides")
    assert file.read_bytes() == b""

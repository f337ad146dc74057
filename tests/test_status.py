"""Whether a run is at work is asked of its lock, without a trace; and the runs of a directory are listed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Service, refusal
from filelock import FileLock
from programs import call, local_server, started, write_table

import batcher
from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.errors import KeywordBusy, OutputError
from batcher.input.marks import Comparison, Marks
from batcher.journal.locking import is_locked, kind_of
from batcher.journal.opening import open_journal, read_journal

TEXTS = ["a", "b", "c"]


@pytest.fixture
def unended(lab: Lab) -> Lab:
    """A run without an end, whose process id is that of a living process: ours."""
    lab.run(TEXTS, Service(TEXTS))
    lab.change(f"UPDATE runs SET ended = NULL, outcome = NULL, pid = {os.getpid()}")  # noqa: S608 - our own
    return lab


def state(lab: Lab) -> str:
    return batcher.status("k", lab.directory).state


def seen(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} | {
        "": (b"", folder.stat().st_mtime_ns)
    }


# -- At work or not


def test_a_killed_run_is_not_running_though_another_process_has_its_number(unended: Lab) -> None:
    before = seen(unended.directory)
    assert state(unended) == "killed"
    assert batcher.status(output_dir=unended.directory)[0].is_running is False
    assert seen(unended.directory) == before


def test_a_run_is_running_as_long_as_its_lock_is_held_though_no_process_has_its_number(unended: Lab) -> None:
    with open_journal(unended.directory / "journal_k.sqlite") as journal:
        with journal.planning(Comparison(Marks(()))):
            journal.start_run(500, {})
        unended.change("UPDATE runs SET pid = 4194304")
        state(unended)  # SQLite's index of the log then says how far it has been read
        before = seen(unended.directory)
        assert state(unended) == "running"
        assert batcher.status(output_dir=unended.directory)[0].is_running is True
        assert seen(unended.directory) == before
    assert state(unended) == "killed"


def test_while_a_killed_run_is_planned_again_the_process_that_plans_is_named(unended: Lab) -> None:
    unended.change("UPDATE runs SET pid = 4194304")
    path = unended.directory / "journal_k.sqlite"
    with open_journal(path):
        before = seen(unended.directory)
        found = batcher.status("k", unended.directory)
        assert (found.state, found.process) == ("planning", f"host {socket.gethostname()}, process {os.getpid()}")
        assert (found.rows, found.ok, found.rows_per_s, found.left_s) == (3, 3, 0, None)
        [line] = batcher.status(output_dir=unended.directory)
        assert (line.state, line.is_running, line.ok) == ("planning", True, 3)
        with pytest.raises(OutputError, match=rf"not sending yet: process {os.getpid()} on .* is still planning"):
            batcher.pause("k", unended.directory)
        with pytest.raises(KeywordBusy, match="another run in this process has it"):
            open_journal(path)
        assert seen(unended.directory) == before
    assert state(unended) == "killed"


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_run_that_ended_is_planning_while_it_is_planned_again_but_not_while_it_is_joined(
    lab: Lab, is_killed: bool
) -> None:
    lab.run(TEXTS, Service(TEXTS))
    if is_killed:
        lab.change("UPDATE runs SET ended = NULL, outcome = NULL")
    path = lab.directory / "journal_k.sqlite"
    ended = state(lab)
    assert ended == ("killed" if is_killed else "done")
    with open_journal(path):
        assert state(lab) == "planning"
    with read_journal(path, alone=True):
        assert state(lab) == ended
        with pytest.raises(OutputError, match="no process runs 'k'"):
            batcher.pause("k", lab.directory)
    assert state(lab) == ended


@pytest.mark.parametrize("content", ["", "\0", "\0[1", '\0["host", 5, "sleeps"]', "\0[5]", "\0null"])
def test_a_lock_that_does_not_say_who_holds_it_is_that_of_the_latest_run(unended: Lab, content: str) -> None:
    """An older batcher holds it."""
    lock = unended.directory / ".journal_k.lock"
    lock.write_text(content)
    with FileLock(lock):
        assert state(unended) == "running"
        with pytest.raises(KeywordBusy, match=f"process {os.getpid()}"):
            open_journal(unended.directory / "journal_k.sqlite")
    assert state(unended) == "killed"


def test_a_real_process_that_plans_after_a_kill_is_seen_and_named(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ["text"], [[f"text {number}"] for number in range(3)])
    program = (
        "import batcher, sys, time\n"
        "def prompt(row):\n"
        "    if len(sys.argv) > 1: print('plans', flush=True); time.sleep(1e6)\n"
        "    return row['text']\n"
        "batcher.run('t.csv', prompt, provider='offline', quiet=True)\n"
    )
    (tmp_path / "script.py").write_text(program)
    call("script.py", cwd=tmp_path)
    with started("script.py", "slowly", cwd=tmp_path) as planning:
        assert planning.stdout
        assert planning.stdout.readline() == "plans\n"
        found = batcher.status("t", tmp_path / "output")
        assert (found.state, found.process) == ("planning", f"host {socket.gethostname()}, process {planning.pid}")
        refused = call("script.py", cwd=tmp_path)
        assert f"is being written by process {planning.pid} on " in refused.stderr
        planning.send_signal(signal.SIGKILL)
        planning.wait()
    assert batcher.status("t", tmp_path / "output").state == "done"
    assert call("script.py", cwd=tmp_path).status == 0


def test_a_run_of_another_host_that_shares_this_file_system_alone_is_dead_if_its_lock_is_free(unended: Lab) -> None:
    """As after a container was started again: its name was another one."""
    unended.change("UPDATE runs SET host = 'a container'")
    kind = kind_of(unended.directory, Path("/proc/self/mountinfo").read_text())
    expected = "killed" if kind in {"tmpfs", "overlay", "ext4", "xfs", "btrfs"} else "unknown"
    assert state(unended) == expected


@pytest.mark.parametrize(("has_log", "expected"), [(True, "unknown"), (False, "killed")])
def test_without_its_lock_file_a_run_is_unknown_unless_it_cannot_be_writing(
    unended: Lab, has_log: bool, expected: str
) -> None:
    path = unended.directory / "journal_k.sqlite"
    path.with_name(".journal_k.lock").unlink()
    if has_log:
        path.with_name("journal_k.sqlite-wal").touch()
    assert state(unended) == expected
    [line] = batcher.status(output_dir=unended.directory)
    assert (line.state, line.is_running) == (expected, None if has_log else False)
    said = str(batcher.status("k", unended.directory))
    assert ("because" in said) == has_log


def test_a_lock_that_cannot_be_opened_says_nothing(unended: Lab) -> None:
    lock = unended.directory / ".journal_k.lock"
    lock.unlink()
    lock.symlink_to(lock.name)  # a loop
    assert is_locked(unended.directory / "journal_k.sqlite") is None
    assert state(unended) == "unknown"


def test_who_asks_keeps_no_run_from_starting(unended: Lab) -> None:
    path = unended.directory / "journal_k.sqlite"
    is_over = threading.Event()
    answers: set[bool | None] = set()

    def ask() -> None:
        while not is_over.is_set():
            answers.add(is_locked(path))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(100):
            open_journal(path).close()
    finally:
        is_over.set()
        asking.join()
    assert answers == {True, False}


@pytest.mark.parametrize(
    ("directory", "kind"),
    [("/", "overlay"), ("/home/me", "overlay"), ("/data", "nfs4"), ("/data/sub/x", "ext4"), ("/a b/c", "fuse.sshfs")],
)
def test_the_file_system_of_a_directory_is_the_nearest_that_is_mounted(directory: str, kind: str) -> None:
    mounts = (
        "1 0 0:1 / / rw,relatime master:1 - overlay overlay rw\n"
        "2 1 0:2 / /data rw - nfs4 server:/data rw\n"
        "3 2 8:1 / /data/sub rw shared:2 - ext4 /dev/sda1 rw\n"
        "4 1 0:3 / /a\\040b rw - fuse.sshfs x rw\n"
    )
    assert kind_of(Path(directory), mounts) == kind
    assert kind_of(Path(directory), "") == ""


def test_a_real_process_is_running_until_it_is_killed(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ["text"], [[f"text {number}"] for number in range(20)])
    with local_server("--hang-rate", "1", cwd=tmp_path) as server:
        options = ("--prompt", "{text}", "--base-url", server.base_url, "--model", "m")
        with started("run", "t.csv", *options, cwd=tmp_path) as run:
            while not server.books()["requests"]:
                assert run.poll() is None
            assert batcher.status("t", tmp_path / "output").state == "running"
            run.send_signal(signal.SIGKILL)
            run.wait()
            found = batcher.status("t", tmp_path / "output")
            assert (found.state, found.process) == ("killed", f"host {socket.gethostname()}, process {run.pid}")


# -- Numbers


def test_the_rate_counts_rows_that_ended_not_requests(lab: Lab) -> None:
    """Rows that ask the same end together, a failed attempt ends none, and rows that end as error have ended."""
    prompts = [f"{number // 4}" for number in range(400)]
    failures = {0: refusal(413), 1: refusal(500)}  # always, and at the first attempt
    service = Service(prompts, instead=lambda call: failures.get(int(call.prompt) % 3) if call.nth == 1 else None)
    found: list[Any] = []
    at: dict[float, Any] = {20.5: lambda: found.append(batcher.status("k", lab.directory))}
    lab.run(prompts, service, at=at, dedup=True, endpoints=[Endpoint("m", rps=2)])
    [during] = found
    ended = during.rows - during.left
    assert during.error > 0
    assert ended > 1.5 * during.requests
    assert during.rows_per_s * max(during.elapsed_s_now, 1.0) == pytest.approx(ended, rel=0.05)
    assert during.left_s == pytest.approx(during.left / during.rows_per_s)


def test_a_cost_is_known_everywhere_or_nowhere(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """An answer of unknown price makes it unknown; a lost request of unknown price does not."""
    priced: dict[str, Any] = {"endpoints": [Endpoint("m", prices={"in": 1e6, "out": 0})]}

    def costs(**options: Any) -> set[float | None]:
        lab.run(TEXTS, Service(TEXTS), quiet=False, log_json=True, **options)
        last = json.loads(capsys.readouterr().err.splitlines()[-1])
        [line] = batcher.status(output_dir=lab.directory)
        return {last["cost_usd"], line.cost_usd, batcher.status("k", lab.directory).cost_usd}

    lab.run(TEXTS, Service(TEXTS), limit=1, **priced)
    lab.change("UPDATE requests SET cost = NULL, outcome = 'timeout'")
    assert costs(limit=2, **priced) == {10.0}
    assert costs() == {None}


# -- The list


@pytest.fixture
def several(lab: Lab) -> Lab:
    prices: dict[str, Any] = {"prices": {"in": 1.0, "out": 1000.0}}
    lab.run(TEXTS, Service(TEXTS), keyword="数学", endpoints=[Endpoint("m", **prices)])
    with pytest.raises(batcher.Interrupted):
        lab.run(TEXTS, Service(TEXTS), keyword="stopped", at={0.5: lab.request_stop})
    lab.run(TEXTS, Service(TEXTS, instead=lambda call: refusal(413) if call.prompt == "b" else None), keyword="done")
    (lab.directory / "journal_broken.sqlite").write_text("this is no journal, and long enough to look at" * 100)
    for age, keyword in enumerate(("done", "stopped", "数学", "broken"), 1):
        os.utime(lab.directory / f"journal_{keyword}.sqlite", (1e9 - age, 1e9 - age))
    return lab


def test_the_runs_of_a_directory_are_listed_the_latest_first(several: Lab) -> None:
    before = seen(several.directory)
    runs = batcher.status(output_dir=several.directory)
    assert [each.keyword for each in runs] == ["done", "stopped", "数学", "broken"]
    done, stopped, _, broken = runs
    assert (done.state, done.rows, done.ok, done.invalid, done.error, done.left) == ("done", 3, 2, 0, 1, 0)
    assert (stopped.state, stopped.is_running, stopped.ok, stopped.left) == ("stopped", False, 1, 2)
    assert runs[2].cost_usd == pytest.approx(3 * (10 + 2000) / 1e6)
    assert (done.cost_usd, done.changed) == (None, 1e9 - 1)
    assert (broken.state, broken.rows, broken.cost_usd) == ("unreadable", None, None)
    assert "journal_broken.sqlite" in broken.reason
    assert (len(runs), runs[1:3]) == (4, (stopped, runs[2]))
    assert seen(several.directory) == before


def test_the_list_shows_itself_as_a_table(several: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--output-dir", str(several.directory)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == [
        *["keyword", "state", "rows", "ok", "invalid", "error", "left", "money", "last", "change"]
    ]
    assert shown[1].split()[:7] == ["done", "done", "3", "2", "0", "1", "0"]
    assert shown[3].startswith("数学     done ")
    assert shown[3].split()[7] == "$0.006"
    assert shown[4].split()[:2] == ["broken", "unreadable"]
    assert shown[5].startswith("broken: ")
    assert all(re.search(r"  2001-09-09 \d\d:46$", each) for each in shown[1:5])
    table = batcher.status(output_dir=several.directory)._repr_html_()
    assert table.count("<tr") == 5
    assert '>数学</th><td style="text-align: left">done</td>' in table


def test_the_list_as_json_has_null_for_what_is_not_known(several: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json", "--output-dir", str(several.directory)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["output_dir"] == str(several.directory)
    assert [each["keyword"] for each in found["runs"]] == ["done", "stopped", "数学", "broken"]
    assert (found["runs"][3]["rows"], found["runs"][0]["cost_usd"]) == (None, None)


def test_a_run_that_is_being_planned_and_an_empty_journal_are_lines_too(lab: Lab) -> None:
    lab.directory.mkdir()
    path = lab.directory / "journal_k.sqlite"
    with open_journal(path):
        [line] = batcher.status(output_dir=lab.directory)
        assert (line.state, line.is_running, line.rows) == ("planning", True, None)


def test_no_run_is_an_empty_list_and_no_directory_is_exit_2(tmp_path: Path) -> None:
    assert str(batcher.status(output_dir=tmp_path)) == f"{tmp_path}: no run"
    assert call("status", "--json", "--output-dir", tmp_path, cwd=tmp_path).stdout == (
        f'{{"output_dir": "{tmp_path}", "runs": []}}\n'
    )
    done = call("status", cwd=tmp_path)
    assert (done.status, done.stdout) == (2, "")
    assert "there is no directory output yet, so no run has begun in it" in done.stderr
    with pytest.raises(OutputError):
        batcher.status(output_dir=tmp_path / "none")


# -- A keyword that has no run


@pytest.mark.parametrize("verb", ["status", "verify", "merge", "sample", "estimate", "pause"])
def test_a_missing_keyword_is_answered_by_that_which_was_meant_and_by_those_that_there_are(
    lab: Lab, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    lab.run(TEXTS, Service(TEXTS), keyword="mood")
    lab.run(TEXTS, Service(TEXTS), keyword="topics")
    before = seen(lab.directory)
    main([verb, "Mod", "--output-dir", str(lab.directory)])
    said = f"there is no run 'Mod' in {lab.directory} (did you mean 'mood'?); its runs are: 'mood', 'topics'\n"
    assert capsys.readouterr().err == f"batcher: {said}"
    assert seen(lab.directory) == before


def test_of_many_runs_the_nearest_are_listed(lab: Lab, tmp_path: Path) -> None:
    tmp_path.joinpath("many").mkdir()
    for number in range(30):
        tmp_path.joinpath("many", f"journal_run {number:02}.sqlite").touch()
    with pytest.raises(OutputError) as many:
        batcher.status("RUN 17", tmp_path / "many")
    assert "(did you mean 'run 17'?); its runs are: 'run 17', " in str(many.value)
    assert str(many.value).endswith(" and 20 more")
    lab.run(TEXTS, Service(TEXTS))
    with pytest.raises(OutputError, match=r"in [^ ]+; its only run is 'k'$"):
        batcher.status("nothing alike", lab.directory)
    with pytest.raises(OutputError, match=r"journal_k\.sqlite does not exist$"):
        batcher.status("k", tmp_path / "none")

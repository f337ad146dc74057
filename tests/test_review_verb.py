"""`batcher review` as a program, and `batcher.review` in Python."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from conftest import Lab
from page_client import Client, page_of, said
from programs import Program, finish, started

import batcher
from batcher.cli.verbs import main
from batcher.reviewing.review import _has_browser, _name

posix = pytest.mark.skipif(os.name != "posix", reason="signals")


@pytest.fixture
def ran(lab: Lab) -> Lab:
    lab.run(pd.DataFrame({"text": ["a", "b"]}), said({"a": "yes", "b": "no"}), "{text}", labels=["yes", "no"])
    return lab


def url_of(program: Program) -> str:
    assert program.stdout
    return program.stdout.readline().strip()


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_address_is_all_of_stdout_and_a_signal_ends_it_with_the_files_written(ran: Lab, number: int) -> None:
    arguments = ("review", "k", "--output-dir", ran.directory, "--no-browser", "--who", "Ada")
    with started(*arguments, cwd=ran.directory) as program:
        url = url_of(program)
        client = Client(url)
        seen = client.get("api/row/0")["result"]
        client.post("api/correct", position=0, seen=seen, answer="no", why="")
        program.send_signal(number)
        done = finish(program)

    assert (done.status, done.stdout) == (0, "")
    assert client.token not in done.stderr
    assert "Ctrl-C ends it" in done.stderr
    assert "token" in done.stderr
    assert "Traceback" not in done.stderr
    assert ran.rows()[0]["infer"] == "no"
    assert ran.query("SELECT who FROM corrections") == [("Ada",)]


@posix
def test_beyond_this_machine_it_says_what_that_means(ran: Lab) -> None:
    arguments = ("review", "k", "--output-dir", ran.directory, "--no-browser", "--host", "0.0.0.0")  # noqa: S104
    with started(*arguments, cwd=ran.directory) as program:
        assert url_of(program).startswith("http://127.0.0.1:")
        program.send_signal(signal.SIGTERM)
        said_ = finish(program).stderr

    assert "beyond this machine" in said_
    assert "not" in said_
    assert "encrypted" in said_


def test_what_cannot_be_shown_is_said_with_exit_status_2(
    ran: Lab, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        assert main(["review", *arguments, "--no-browser"]) == 2
        said_ = capfd.readouterr()
        assert said_.out == ""
        return said_.err

    inside = ("--output-dir", str(ran.directory))
    assert "there is no run 'other'" in refused("other", *inside)
    assert "there is no run 'k'" in refused("k", "--output-dir", str(tmp_path / "elsewhere"))
    assert "a port is a number" in refused("k", *inside, "--port", "70000")
    assert "--host takes an address of this machine" in refused("k", *inside, "--host", "no.such.host.invalid")
    assert "give a name" in refused("k", *inside, "--who", " ")
    assert "there is no such file" in refused("k", str(tmp_path / "gone.csv"), *inside)
    journal = ran.directory / "journal_k.sqlite"
    (ran.directory / "journal_torn.sqlite").write_bytes(journal.read_bytes()[:3000])
    (ran.directory / "journal_text.sqlite").write_text("no journal\n" * 500, encoding="utf-8")
    (ran.directory / "journal_new.sqlite").write_bytes(journal.read_bytes())
    with closing(sqlite3.connect(ran.directory / "journal_new.sqlite")) as db:
        db.execute("PRAGMA user_version = 250")
    assert "journal_torn.sqlite cannot be read" in refused("torn", *inside)
    assert "journal_text.sqlite" in refused("text", *inside)
    assert "newer batcher" in refused("new", *inside)


@posix
def test_in_python_it_blocks_until_it_is_interrupted_also_where_a_loop_runs(ran: Lab, tmp_path: Path) -> None:
    script = tmp_path / "cell.py"
    script.write_text(
        "import asyncio, batcher\n"
        "async def cell():\n"
        f"    return batcher.review('k', output_dir={str(ran.directory)!r}, browser=False)\n"
        "print(repr(asyncio.run(cell())))\n",
        encoding="utf-8",
    )
    with started(script, cwd=tmp_path) as program:
        assert Client(url_of(program)).get("api/run")["rows"] == 2
        program.send_signal(signal.SIGINT)
        done = finish(program)

    assert "interrupting it ends it" in done.stderr
    assert "The page ends." in done.stderr
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")  # asyncio's own, after the page has ended


def test_no_browser_is_opened_over_ssh_or_without_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSH_CONNECTION", "SSH_TTY", "SSH_CLIENT", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform.startswith("linux"):
        assert not _has_browser()
        monkeypatch.setenv("DISPLAY", ":0")
    assert _has_browser()
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 22")
    assert not _has_browser()


def test_the_name_is_the_login_name_unless_one_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "grace")

    assert _name(None) == "grace"
    assert _name(" 王芳 ") == "王芳"
    for wrong in ("", "a\nb", "x" * 101):
        with pytest.raises(batcher.SettingsError, match="who: give a name"):
            _name(wrong)


def test_pages_of_one_run_do_not_wait_for_each_other(ran: Lab) -> None:
    before = threading.active_count()
    with page_of(ran.directory) as (one, _), page_of(ran.directory) as (two, _):
        assert one.url != two.url
        assert one.rows()["total"] == two.rows()["total"] == 2
    assert threading.active_count() == before

"""The display of a run at work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import Lab
from fake_service import Call, Service, refusal
from hypothesis import given
from hypothesis import strategies as st
from programs import environment, local_server, write_table

from batcher.endpoint import Endpoint
from batcher.engine.progress import Tally, _state
from batcher.records import Completion, Failure
from batcher.words import duration


def test_without_a_terminal_there_is_one_plain_line_every_30_s(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = [f"p{n}" for n in range(100)]
    lab.run(prompts, Service(prompts), quiet=False, endpoints=[Endpoint("m", rps=1)])
    said = capsys.readouterr()
    assert said.out == ""
    first, *lines = said.err.splitlines()
    assert first == "k: 100 rows: 100 new; asks m at https://api.openai.com/v1, no key"
    assert len(lines) == lab.seconds // 30
    done = [int(line.split()[1]) for line in lines]
    assert done == sorted(done)
    assert re.fullmatch(r"k: \d+ of 100 rows \(\d+%\), 1\.0 rows/s, \d?m? ?\d+s left, \d in flight", lines[0])


def test_it_says_what_it_waits_for(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    def instead(call: Call) -> Completion | Failure | None:
        return refusal(429, retry_after=60) if call.prompt == "b" and call.nth == 1 else None

    lab.run(["a", "b", "c"], Service("abc", instead=instead), quiet=False, endpoints=[Endpoint("m", max_concurrency=1)])
    lines = capsys.readouterr().err.splitlines()[1:]
    assert "1 of 3 rows" in lines[0]
    assert lines[0].endswith("rate limited: again in 32s, 0 in flight")


def test_quiet_says_nothing_and_no_progress_only_what_matters(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = [f"p{n}" for n in range(100)]
    slow = [Endpoint("m", rps=1)]
    lab.run(prompts, Service(prompts), quiet=True, endpoints=slow)
    assert capsys.readouterr() == ("", "")
    lab.run([*prompts, "q"], Service([*prompts, "q"]), quiet=False, no_progress=True, endpoints=slow)
    assert capsys.readouterr().err == "k: 101 rows: 100 answered, 1 new; asks m at https://api.openai.com/v1, no key\n"


def test_on_a_terminal_of_80_columns_there_is_a_bar_that_fits(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ["text"], [[f"item {n}"] for n in range(200)])
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with local_server("--latency", "0.05", cwd=tmp_path) as server:
        arguments = ["run", "t.csv", "--prompt-column", "text", "--base-url", server.base_url, "--model", "m"]
        with subprocess.Popen(
            [sys.executable, "-m", "batcher", *arguments, "--max-concurrency", "10"],
            cwd=tmp_path,
            env=environment(TERM="xterm"),
            stdout=subprocess.DEVNULL,
            stderr=theirs,
        ) as program:
            os.close(theirs)
            shown = _everything(ours)
            assert program.wait() == 0
    pieces = re.split(r"[\r\n]+", shown)
    bars = [piece for piece in pieces if " rows/s" in piece]
    assert len(bars) > 2
    assert all(len(bar) <= 80 for bar in bars)
    assert any("10 in flight" in bar for bar in bars)
    assert "100%" in bars[-1]
    assert "200/200" in bars[-1]


def _everything(terminal: int) -> str:
    """Read a terminal until its writers have closed it."""
    parts = []
    try:
        while part := os.read(terminal, 4096):
            parts.append(part)
    except OSError:  # Linux's way to say that the other side is closed
        pass
    finally:
        os.close(terminal)
    return b"".join(parts).decode()


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (725, "12m 05s"), (12_000, "3h 20m")]
)
def test_a_duration_is_said_for_people(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@given(st.floats(0, 1e9))
def test_no_duration_has_more_than_59_of_the_smaller_unit(seconds: float) -> None:
    assert all(int(part) < 60 for part in re.findall(r" (\d+)", duration(seconds)))


@pytest.mark.parametrize(("oldest_s", "shown"), [(9.0, "3 in flight"), (75.0, "3 in flight (1m 15s)")])
def test_the_age_of_the_oldest_request_in_flight_is_shown_where_it_is_old(oldest_s: float, shown: str) -> None:
    assert _state(Tally(rows=9, in_flight=3, oldest_s=oldest_s)) == shown

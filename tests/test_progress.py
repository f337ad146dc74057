"""The display of a run at work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from conftest import Lab
from fake_service import Call, Service, refusal
from hypothesis import given
from hypothesis import strategies as st
from programs import call, environment, local_server, write_table

import batcher
from batcher.endpoint import Endpoint
from batcher.engine.bar import ORDER, State, in_words, line
from batcher.engine.displays import Bar, Lines, chosen
from batcher.json_lines import FIELDS
from batcher.records import Completion, Failure
from batcher.tables import width
from batcher.words import duration

ERASE = "\x1b[J"  # from the cursor to the end of the screen


def test_without_a_terminal_there_is_one_plain_line_every_30_s(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = [f"p{n}" for n in range(100)]
    lab.run(prompts, Service(prompts), quiet=False, endpoints=[Endpoint("m", rps=1)])
    said = capsys.readouterr()
    assert said.out == ""
    first, *lines = said.err.splitlines()
    assert first == "k: 100 rows: 100 new; asks m at https://api.openai.com/v1, no key"
    assert len(lines) == lab.seconds // 30
    done = [int(line.split()[2]) for line in lines]
    assert done == sorted(done)
    times = [datetime.fromisoformat(line.partition(" ")[0]) for line in lines]
    assert all(time.utcoffset() is not None and not time.microsecond for time in times)
    lines = [line.partition(" ")[2] for line in lines]
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
    pieces = re.split(r"[\r\n]+", shown.replace(ERASE, ""))
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


# --- the line of the bar ---

FULL = "\u2588"

WORKING = State(
    keyword="sentiment",
    rows=50_000,
    ok=22_500,
    cost=210_000_000,
    tokens=1_234_567,
    rate=31.24,
    in_flight=256,
    elapsed_s=725,
)
WAITING = replace(WORKING, error=100, invalid=20, oldest_s=75.0, waiting_for="rate limited: again in 32s")


def test_at_120_columns_the_bar_shows_everything() -> None:
    drawn = f"{6 * FULL}\u258e       "
    assert line(WORKING, 119) == (
        f"sentiment 45%|{drawn}|22,500/50,000  31.2 rows/s  14m 40s left  $0.21  1.2M tokens  256 in flight"
        "  after 12m 05s"
    )
    assert "|22,620/50,000" in line(WAITING, 119)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (79, "45% 22,620/50,000  14m 36s left  $0.21  120 failed  rate limited: again in 32s"),
        (59, "45% 22,620/50,000  120 failed  rate limited: again in 32s"),
        (39, "45%  $0.21  rate limited: again in 32s"),
        (19, "45%  rate limited:\u2026"),
        (3, "45%"),
    ],
)
def test_a_narrow_bar_keeps_what_it_waits_for(columns: int, shown: str) -> None:
    assert line(WAITING, columns) == shown


def test_at_40_columns_the_bar_shows_the_keyword_if_there_is_room() -> None:
    small = State(keyword="tone", rows=1000, ok=20, cost=10_000_000, rate=1.0, in_flight=32, elapsed_s=20)
    assert line(small, 39) == "tone 2% 20/1,000  16m 20s left  $0.01"
    assert line(replace(small, keyword="a long keyword"), 39) == "a lon\u2026 2% 20/1,000  16m 20s left  $0.01"
    assert line(replace(small, keyword="a long keyword"), 36) == "2% 20/1,000  16m 20s left  $0.01"
    emoji = replace(small, keyword="\u2764\ufe0f" * 6)  # two columns each in some terminals, one in others
    assert all(2 * line(emoji, columns).count("\ufe0f") <= columns for columns in range(3, 120))
    assert width("\u2764\ufe0f") == 2


def test_a_narrow_bar_leaves_out_the_least_important_first() -> None:
    marks = {
        "share": "45%",
        "rows": "22,500/50,000",
        "money": "$0.21",
        "left": "left",
        "name": "sentiment",
        "bar": "|",
        "rate": "rows/s",
        "in flight": "in flight",
        "tokens": "tokens",
        "elapsed": "after",
    }
    assert [name for name in ORDER if name in marks] == list(marks)
    lines = {columns: line(WORKING, columns) for columns in range(140)}
    # From which width on each of them stays: a short one may show before, in room that another does not need.
    widths = [max(columns for columns in lines if mark not in lines[columns]) for mark in marks.values()]
    assert widths == sorted(set(widths))


def test_chinese_characters_take_two_columns_and_accents_none() -> None:
    for keyword in ("\u6570\u5b66\u8ba1\u7b97\u4e00\u4e8c\u4e09", "cafe\u0301 \u0e01\u0e33"):
        for columns in range(3, 130):
            assert width(line(replace(WAITING, keyword=keyword), columns)) <= columns
    assert line(replace(WORKING, keyword="\u6570" * 9), 99).startswith("\u6570\u6570\u6570\u6570\u6570\u2026 45%|")


@given(
    st.integers(3, 200),
    st.text(min_size=1, max_size=30),
    st.text(max_size=60).filter(lambda text: text.isprintable()),
    st.integers(0, 10**8),
    st.integers(0, 10**8),
)
def test_no_bar_is_wider_than_its_terminal(columns: int, keyword: str, waiting: str, ok: int, left: int) -> None:
    state = replace(WAITING, keyword=keyword, waiting_for=waiting, ok=ok, rows=ok + left + 120)
    assert width(line(state, max(columns, len("100%")))) <= max(columns, len("100%"))


def test_a_terminal_without_blocks_shows_ascii() -> None:
    shown = line(replace(WAITING, keyword="sentiments and more"), 140, is_ascii=True)
    assert shown.isascii()
    assert shown.startswith("sentiments~ 45%|#")


@pytest.mark.parametrize(("rows", "ok", "share"), [(1000, 999, "99%"), (1000, 1000, "100%"), (0, 0, "100%")])
def test_the_share_is_100_only_if_nothing_is_left(rows: int, ok: int, share: str) -> None:
    assert f"{share}|" in line(State(keyword="k", rows=rows, ok=ok), 79)


@pytest.mark.parametrize(("oldest_s", "shown"), [(9.0, "3 in flight"), (75.0, "3 in flight (1m 15s)")])
def test_the_age_of_the_oldest_request_in_flight_is_shown_where_it_is_old(oldest_s: float, shown: str) -> None:
    assert in_words(State(keyword="k", rows=9, in_flight=3, oldest_s=oldest_s)).endswith(f", {shown}")
    assert f"  {shown}" in line(State(keyword="k", rows=9, in_flight=3, oldest_s=oldest_s), 79)


class FakeTerminal(io.StringIO):
    """A stream that is a terminal of one line."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """Return the lines that it shows."""
        lines = [""]
        for mark in re.split(rf"({re.escape(ERASE)}|\r|\n)", self.getvalue()):
            if mark == ERASE:
                lines[-1] = ""
            elif mark == "\n":
                lines.append("")
            elif mark != "\r":
                lines[-1] = mark + lines[-1][len(mark) :]
        return lines


@pytest.mark.skipif(os.name != "posix", reason="a console of Windows is padded")
def test_a_message_stands_above_the_bar_and_nothing_of_the_bar_is_left_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = FakeTerminal()
    monkeypatch.setattr("sys.stderr", terminal)
    bar = chosen("k", has_progress=True, is_json=False)
    bar.show(WORKING)
    bar.say("Note: one.", "info", WORKING)
    bar.show(WAITING)
    written = terminal.tell()
    bar.show(WAITING)
    assert terminal.tell() == written
    bar.close(WAITING)
    assert terminal.screen() == ["Note: one.", line(WAITING, 79), ""]


@pytest.mark.parametrize("name", ["TERM", None])
def test_a_terminal_that_knows_no_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    monkeypatch.setattr("sys.stderr", FakeTerminal())
    monkeypatch.setenv("TERM", "dumb" if name else "xterm")
    assert type(chosen("k", has_progress=True, is_json=False)) is (Lines if name else Bar)


# --- a log for programs ---


def test_a_log_of_json_lines_has_one_schema(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = [f"p{n}" for n in range(70)]
    priced = Endpoint("m", rps=1, prices={"in": 1, "out": 2})
    lab.run(prompts, Service(prompts), quiet=False, log_json=True, endpoints=[priced])
    said = capsys.readouterr()
    lines = [json.loads(each) for each in said.err.splitlines()]
    assert said.out == ""
    assert all(list(each) == list(FIELDS) for each in lines)
    plan, start, *middle, end = lines
    assert (plan["kind"], plan["level"], plan["message"]) == (
        "message",
        "info",
        "k: 70 rows: 70 new; asks m at https://api.openai.com/v1, no key",
    )
    assert plan["rows"] is plan["cost_usd"] is None
    assert (start["rows"], start["left"], start["kind"], start["eta_s"]) == (70, 70, "progress", None)
    assert len(middle) == lab.seconds // 30
    first = middle[0]
    assert 1 <= first["in_flight"] <= 2
    assert first["rate"] == pytest.approx(1, abs=0.1)
    assert first["eta_s"] == pytest.approx(40, abs=2)
    assert first["requests"] - first["in_flight"] == first["ok"] == 70 - first["left"]
    assert (end["ok"], end["left"], end["requests"], end["waiting_for"]) == (70, 0, 70, "")
    assert end["cost_usd"] == pytest.approx(lab.run(prompts, Service(prompts)).cost_usd or end["cost_usd"])
    assert datetime.fromisoformat(end["ts"]).utcoffset() is not None


def test_money_and_requests_of_a_resumed_run_are_those_of_all_its_processes(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"endpoints": [Endpoint("m", rps=1, prices={"in": 1e6, "out": 0})]}
    prompts = [f"p{n}" for n in range(40)]
    lab.run(prompts[:20], Service(prompts), **options)
    lab.run(prompts, Service(prompts), quiet=False, log_json=True, **options)
    _, start, *_, end = [json.loads(each) for each in capsys.readouterr().err.splitlines()]
    assert (start["requests"], end["requests"]) == (20, 40)
    assert end["cost_usd"] == 2 * start["cost_usd"] > 0
    [charged] = lab.query("SELECT sum(cost) FROM requests")
    assert end["cost_usd"] == charged[0] / 1e9


@pytest.mark.parametrize("options", [{"no_progress": True}, {}])
def test_the_figures_beside_a_message_are_those_of_all_processes_and_it_names_the_run(
    lab: Lab, capsys: pytest.CaptureFixture[str], options: dict[str, Any]
) -> None:
    options |= {"endpoints": [Endpoint("m", rps=1, prices={"in": 1e6, "out": 0})]}
    prompts = [f"p{n}" for n in range(40)]
    lab.run(prompts[:20], Service(prompts), **options)
    with pytest.raises(batcher.Interrupted):
        lab.run(prompts, Service(prompts), at={5.5: lab.request_stop}, quiet=False, log_json=True, **options)
    lines = [json.loads(each) for each in capsys.readouterr().err.splitlines()]
    assert {each["keyword"] for each in lines} == {"k"}
    [stopping] = [each for each in lines if each["message"].startswith("Stopping")]
    assert stopping["requests"] == 20 + len(prompts[20:26])
    assert stopping["cost_usd"] == 10 * (stopping["requests"] - stopping["in_flight"])
    lab.run(prompts[:20], Service(prompts), quiet=False, log_json=True, limit=20, **options)
    [*_, end] = [json.loads(each) for each in capsys.readouterr().err.splitlines()]
    if "no_progress" not in options:
        assert (end["requests"], end["cost_usd"]) == (26, 260), "also if nothing is left to ask"


def test_an_error_in_a_log_of_json_lines_names_its_run(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ["text"], [["a"], ["b"]])
    command = ["run", "t.csv", "--prompt-column", "text", "--log-json", "--base-url", "http://127.0.0.1:9/v1"]
    done = call(*command, "--model", "m", "--wait", "0", cwd=tmp_path)
    lines = [json.loads(each) for each in done.stderr.splitlines()]
    assert lines[-1]["level"] == "error"
    assert {each["keyword"] for each in lines} == {"t"}
    [early] = call("run", "none.csv", *command[2:], cwd=tmp_path).stderr.splitlines()
    assert json.loads(early)["keyword"] is None


def test_the_command_line_writes_all_its_messages_as_json_lines(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ["text"], [["a"], ["b"]])
    command = ["run", "t.csv", "--prompt-column", "text", "--provider", "offline", "--log-json"]
    done = call(*command, "--retry-failed", cwd=tmp_path)
    lines = [json.loads(each) for each in done.stderr.splitlines()]
    assert [each["kind"] for each in lines] == ["message", "progress", "progress", "message"]
    assert lines[-1]["message"].startswith("t: 2 rows, 2 ok;")
    assert done.stdout.strip() == str(Path("output", "all_t.csv"))
    [refused] = call(*command, "--prompt-file", "none.txt", cwd=tmp_path).stderr.splitlines()
    assert json.loads(refused)["level"] == "error"
    assert "message" in json.loads(refused)
    assert call(*command, "--quiet", cwd=tmp_path).stderr == ""


# --- a notebook ---


class FakeNotebook:
    """The part of IPython that a bar without widgets uses.

    Attributes:
        shown: what its one output showed, with the moment.
        is_broken: showing anything fails.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_broken: bool = False) -> None:
        self.shown: list[tuple[float, str]] = []
        self.is_broken = is_broken
        monkeypatch.setitem(sys.modules, "IPython", cast("ModuleType", SimpleNamespace(get_ipython=lambda: self)))
        monkeypatch.setitem(sys.modules, "IPython.display", cast("ModuleType", SimpleNamespace(display=self.display)))
        monkeypatch.setenv("VSCODE_PID", "1")
        self.config: dict[str, object] = {"IPKernelApp": {}}

    def display(self, bundle: dict[str, str], *, raw: bool, display_id: bool) -> FakeNotebook:
        assert raw
        assert display_id
        assert not self.shown
        if self.is_broken:
            raise RuntimeError("no frontend")
        self.update(bundle, raw=True)
        return self

    def update(self, bundle: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append((asyncio.get_running_loop().time(), bundle["text/plain"]))


def test_a_notebook_has_one_bar_that_changes_once_a_second_at_most_and_only_with_the_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = FakeNotebook(monkeypatch)
    prompts = [f"p{n}" for n in range(100)]

    def instead(call: Call) -> Completion | Failure | None:
        return refusal(429, retry_after=60) if call.prompt == "p50" and call.nth == 1 else None

    lab.run(prompts, Service(prompts, instead=instead), quiet=False, endpoints=[Endpoint("m", rps=5)])
    said = capsys.readouterr()
    assert (said.out, said.err) == ("k: 100 rows: 100 new; asks m at https://api.openai.com/v1, no key\n", "")
    moments, texts = zip(*notebook.shown, strict=True)
    pauses = [after - before for before, after in pairwise(moments[:-1])]
    assert min(pauses) > 0.99
    assert len(moments) < lab.seconds + 2
    assert texts[-1].startswith("k: 100 of 100 rows (100%)")


def test_a_notebook_that_shows_nothing_does_not_stop_the_run(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeNotebook(monkeypatch, is_broken=True)
    assert lab.run(["a"], Service("a"), quiet=False).ok == 1
    assert capsys.readouterr().out.splitlines()[1:] == ["The progress could not be shown: RuntimeError: no frontend"]


def test_a_notebook_keeps_its_bar_while_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = FakeNotebook(monkeypatch)
    bar = chosen("k", has_progress=True, is_json=False)

    async def show() -> None:
        for seconds in (1.0, 2.0, 3.0):
            bar.show(replace(WORKING, elapsed_s=seconds, rate=9 / seconds))
        bar.show(replace(WORKING, in_flight=3))

    asyncio.run(show())
    assert len(notebook.shown) == 2

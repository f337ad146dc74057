"""A message shows what a terminal would obey: escape sequences, tabs and line breaks in what the user gave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import fault
from hypothesis import given
from hypothesis import strategies as st

import batcher
from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.errors import InputError
from batcher.settings import Settings
from batcher.tables import Described, Line
from batcher.visible import harmless, holds_controls, on_one_line
from batcher.words import say

ODD = "\x1b[31mX\nY\tZ"
SHOWN = r"\x1b[31mX\nY\tZ"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("text\na\nb\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("数据 é 👨‍👩‍👧 a\u3000b", "数据 é 👨‍👩‍👧 a\u3000b"),
        (ODD, SHOWN),
        ("a\rb\x7f\x9b31m\u202eb\u2028", r"a\rb\x7f\x9b31m\u202eb\u2028"),
    ],
)
def test_what_a_terminal_obeys_is_written_as_python_writes_it(text: str, shown: str) -> None:
    assert on_one_line(text) == shown
    assert str(InputError(text)) == harmless(text) == shown.replace(r"\n", "\n")


@given(st.text())
def test_a_shown_text_has_no_control_and_stays_as_it_is_when_shown_again(text: str) -> None:
    assert not holds_controls(on_one_line(text))
    assert on_one_line(on_one_line(text)) == on_one_line(text)


RUN = ["run", "t.csv", "-p", "{text}", "--provider", "offline"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", f"{ODD}/x.csv", "-p", "{text}", "--provider", "offline"],
        ["run", "t.csv", f"{ODD}/x.csv", "-p", "{text}", "--provider", "offline"],
        ["run", f"{ODD}.foo", "-p", "{text}", "--provider", "offline"],
        ["run", "t.csv", "-p", f"{{{ODD}}}", "--provider", "offline"],
        ["run", "t.csv", "--prompt-file", ODD, "--provider", "offline"],
        ["run", "t.csv", "-p", "{text}", "--provider", ODD],
        ["run", "t.csv", "-p", "{text}", "-m", "m", "--base-url", ODD],
        ["run", "t.csv", "-p", "{text}", "--endpoints", ODD],
        ["run", "t.csv", "--config", ODD],
        [*RUN, "--keyword", ODD],
        [*RUN, "-o", ODD],
        [*RUN, "--id-column", ODD],
        [*RUN, "--on-change", ODD],
        [*RUN, "--param", f"{ODD}=1"],
        [*RUN, "--param", f"x=[{ODD}"],
        [*RUN, f"--{ODD}"],
        [*RUN, "--rpm", ODD],
        [ODD],
        ["status", "-o", ODD],
        ["status", "k", "-o", ODD],
        ["rehearse", *RUN[1:], "--faults", ODD],
        ["completion", ODD],
    ],
    ids=str,
)
def test_every_message_of_the_command_line_shows_it_on_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = int(ended.code or 0)
    said = capsys.readouterr().err
    assert status == 2
    assert r"\x1b[31mX\nY\tZ" in said or r"\u001b[31mX\nY\tZ" in said
    assert not {"\x1b", "\t"} & set(said)


def test_messages_and_results_of_several_lines_keep_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    class Result(Described):
        def _title(self) -> str:
            return "a\x1b[2J"

        def _lines(self) -> Iterator[Line]:
            yield Line("b", "c\x1b[0m\td")

    assert str(Result()) == "a\\x1b[2J\n  b         c\\x1b[0m\\td"
    assert "\x1b" not in Result()._repr_html_()
    say("one\ntwo\x1b[1m")
    assert capsys.readouterr().err == "one\ntwo\\x1b[1m\n"


def test_a_path_of_python_with_an_escape_in_it_says_what_to_write() -> None:
    hint = 'in a text of Python a backslash begins an escape: write r"...", or /'
    missing = r"C:\new\table.csv: there is no such file: " + hint
    assert fault(lambda: batcher.plan("C:\new\table.csv", "{text}", provider="offline")) == missing
    said = fault(lambda: batcher.plan("t.csv", prompt_file="C:\new.txt", provider="offline"))
    assert said == r"prompt_file C:\new.txt cannot be read: No such file or directory: " + hint
    assert fault(lambda: Settings(output_dir="C:\new")).endswith(hint)
    with pytest.raises(batcher.SettingsError, match="backslash begins an escape"):
        batcher.status("k", "C:\new")


def test_a_file_whose_name_holds_a_line_break_is_read(folder: Path) -> None:
    (folder / "a\nb.csv").write_text("text\na\nb\n")
    assert batcher.plan("a\nb.csv", "{text}", keyword="k", endpoints=[Endpoint("m", "http://h/v1")]).rows == 2
    said = fault(lambda: batcher.plan("a\nb.csv", "{txet}", keyword="k", provider="offline"))
    assert said.startswith("prompt: the table has no column 'txet'")
    (folder / "a\nb.csv").write_text('text\n"a\n')
    assert r"a\nb.csv" in fault(lambda: batcher.plan("a\nb.csv", "{text}", keyword="k", provider="offline"))

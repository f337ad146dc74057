"""A prompt that asks every row the same is refused before it is paid for, and its likely slip is named."""

from __future__ import annotations

import csv
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from faults import fault

import batcher
from batcher.input.column_names import column_index
from batcher.words import command_line

WIDE = "\uff5b\u8bc4\u8bba\uff5d"  # {评论} in full-width braces


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    with Path("t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "text", "评论"], ["1", "a", "b"], ["2", "c", "d"]])
    Path("p.txt").write_text("Rate: {text}")
    return "t.csv"


def plan(table: Any, prompt: Any, **options: Any) -> batcher.Forecast:
    return batcher.plan(table, prompt, **{"provider": "offline", "keyword": "k"} | options)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("Rate {{ text }}", "'{{ text }}' is not a hole: write {text}"),
        ("Rate {{text}}", "'{{text}}' is not a hole: write {text}"),
        ("Rate {{ row['text'] | trim }}", "is not a hole: write {text}"),
        ("Rate {{ txt }}", "'{{ txt }}' is not a hole, and the table has no column 'txt' (did you mean 'text'?)"),
        (f"Rate {WIDE}", f"'{WIDE}' is not a hole: write {{评论}}"),
        ("Rate $text", "'$text' is not a hole: write {text}"),
        ("Rate %(text)s", "'%(text)s' is not a hole: write {text}"),
        ("Rate <text>", "'<text>' is not a hole: write {text}"),
        ("Rate [Text]", "'[Text]' is not a hole: write {text}"),
        ("给【评论】打分", "'【评论】' is not a hole: write {评论}"),
        ("p.txt", "there is a file p.txt: --prompt-file p.txt reads it"),
        ("@p.txt", "there is a file p.txt: --prompt-file p.txt reads it"),
        ("q.md", "there is no file q.md: --prompt-file FILE reads one"),
        ("text", "'text' is a column: write {text} or --prompt-column text"),
        ("Rate the text", "'text' is a column, and a hole has braces: write {text} where its text belongs"),
        ("给评论打分", "'评论' is a column, and a hole has braces: write {评论} where"),
        ('{{"id": 1}} fits the id', "'id' is a column, and a hole has braces: write {id} where its text belongs"),
        ("Hello", "in braces, as in {id}; of the table its columns are: 'id', 'text', '评论'"),
    ],
)
def test_a_prompt_without_a_hole_is_refused_with_its_slip(table: str, prompt: str, said: str) -> None:
    with command_line():
        refused = fault(lambda: plan(table, prompt))
    assert refused.startswith("--prompt has no hole, so every row would ask the same: ")
    assert said in refused
    assert refused.endswith("If every row shall ask the same, add --same-prompt")


def test_a_slip_is_found_in_a_system_message_and_in_a_file_too(table: str) -> None:
    Path("s.txt").write_text("Rate {{ text }}")
    said = "'{{ text }}' is not a hole: write {text}"
    assert said in fault(lambda: plan(table, "Hello", system_file="s.txt"))
    assert f"prompt_file has no hole, so every row would ask the same: {said}" in fault(
        lambda: plan(table, None, prompt_file="s.txt")
    )
    assert "there is a file s.txt: system_file=" in fault(lambda: plan(table, "Hello", system="s.txt"))


def test_one_row_and_rows_that_shall_ask_the_same_are_let_through(table: str) -> None:
    assert plan(table, "Hello", same_prompt=True).requests == 2
    assert plan(table, "Hello", limit=1).requests == plan(["one"], "Hello").requests == 1
    assert plan(table, "Hello", sample=1).requests == 1
    assert plan(table, "Hello", system="About {text}").requests == 2
    assert plan(table, None, prompt_column="text").requests == 2


@pytest.mark.parametrize(
    ("prompt", "note"),
    [
        ("{id}: {{ text }}", "'{{ text }}' is no hole, and is sent as a text: a hole is {text}"),
        ("{id}: $text", "'$text' is no hole, and is sent as a text: a hole is {text}"),
        ("Price: ${id}", "of '${id}' the $ is sent, too: a hole is {id}"),
        ("{text} {{label}} <id>{id}</id> [x] $5 {{}}", ""),
        ("Answer {{text}} about {text}", ""),
        ('Reply {{"id": "a|b"}}: {text}', ""),
    ],
)
def test_beside_a_hole_a_slip_is_only_noted(table: str, prompt: str, note: str) -> None:
    said = plan(table, prompt).summary.partition("\n")[2]
    assert said == (f"Note: prompt: {note}." if note else "")


def test_a_system_message_that_names_a_file_is_noted_beside_a_prompt_with_holes(table: str) -> None:
    assert "Note: system: there is a file p.txt: system_file=" in plan(table, "{text}", system="p.txt").summary


def test_a_function_that_says_the_same_of_each_row_is_noted(table: str) -> None:
    note = "Note: all 2 rows ask the same question: it could be sent once (dedup=True)."
    assert note in plan(table, lambda _row: "Hello").summary


# -- The names of columns


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("text", " text "),
        ("text", "Text"),
        ("text", "\ufefftext"),
        ("text", "te\u200bxt"),
        ("text", "\uff54\uff45\uff58\uff54"),
        (" text ", "text"),
        ("评论", "评论内容"),
        ("text:>10", "text"),
        ("row.txet", "row.text"),
        ("text.strip()", "text"),
    ],
)
def test_the_column_that_is_meant_is_named_in_quotes(name: str, column: str) -> None:
    columns = ["id", *(f"column {number}" for number in range(40)), column]
    said = fault(lambda: column_index(name, columns, "x"))
    assert f"x: the table has no column {name!r} (did you mean {column!r}?)" in said
    assert "and 22 more" in said


def test_names_that_look_the_same_are_told_apart() -> None:
    name = "caf\u00e9"
    said = fault(lambda: column_index(name, ["id", unicodedata.normalize("NFD", name)], "x"))
    assert "It looks the same and has other code points (Unicode's NFC and NFD)" in said


@pytest.mark.parametrize("option", ["prompt_column", "messages_column", "id_column"])
def test_each_option_that_names_a_column_says_so(table: str, option: str) -> None:
    prompt = "{text}" if option == "id_column" else None
    said = fault(lambda: plan(table, prompt, **{option: "Text"}))
    assert (
        said
        == f"{option}: the table has no column 'Text' (did you mean 'text'?); its columns are: 'text', 'id', '评论'"
    )

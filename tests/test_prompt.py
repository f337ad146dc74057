"""A row's messages follow the source letter for letter, and an error shows the place of a source's fault."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from batcher.errors import InputError
from batcher.input.opening import open_dataset
from batcher.input.prompt import Renderer, from_column, from_function, from_messages_column, from_template, with_system
from batcher.planning.prompts import prompts_of
from batcher.records import Message
from batcher.words import command_line

ODD_COLUMNS = ("a b", " ", "数学", "v1.2", "a:b", "a!r", "x[0]", "'q'", "a\nb", "0", "😀", "%s")


def asked(render: Renderer, *values: object) -> str:
    """Return the text of the only message of a row."""
    (message,) = render(values)
    assert message["role"] == "user"
    content = message["content"]
    assert isinstance(content, str)
    return content


def fault(make: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        make()
    return str(caught.value)


# --- templates ---


@given(st.text(st.characters() | st.sampled_from("{}"), max_size=50))
def test_any_text_with_doubled_braces_renders_to_itself(text: str) -> None:
    doubled = text.replace("{", "{{").replace("}", "}}")
    if text.strip():
        assert asked(from_template(doubled, "--prompt", [])) == text
    else:
        assert fault(lambda: from_template(doubled, "--prompt", [])) == "--prompt is empty"


@given(st.text(), st.text(), st.text())
def test_what_fills_a_hole_is_not_read_as_a_template(before: str, value: str, after: str) -> None:
    escaped = [text.replace("{", "{{").replace("}", "}}") for text in (before, after)]
    assert asked(from_template("{text}".join(escaped), "--prompt", ["text"]), value) == before + value + after


@pytest.mark.parametrize("name", ODD_COLUMNS)
def test_a_hole_may_name_any_column(name: str) -> None:
    values = [f"<{each}>" for each in ODD_COLUMNS]
    assert asked(from_template(f"[{{{name}}}]", "--prompt", ODD_COLUMNS), *values) == f"[<{name}>]"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{a}{b}{a}", "121"),
        ("{{{a}}}", "{1}"),
        ("{{a}}", "{a}"),
        ("{{{{{a}}}}}", "{{1}}"),
        ('{{"label": "{a}"}}', '{"label": "1"}'),
        ("no hole", "no hole"),
    ],
)
def test_holes_and_braces_stand_beside_each_other(template: str, text: str) -> None:
    assert asked(from_template(template, "--prompt", ["a", "b"]), "1", "2") == text


def test_values_that_are_no_text_read_as_in_the_file() -> None:
    render = from_template("{a}|{b}|{c}|{d}", "--prompt", ["a", "b", "c", "d"])
    assert asked(render, None, 1.0, ["数", None], float("nan")) == '|1.0|["数", null]|'


@pytest.mark.parametrize(
    ("template", "place", "what", "shown"),
    [
        ("Rate {text", "line 1, column 6", "a single '{'", ["Rate {text", "     ^"]),
        ("a } b", "line 1, column 3", "a single '}'", ["a } b", "  ^"]),
        ("{}", "line 1, column 1", "a hole without a column name", ["{}", "^"]),
        ("{a}}", "line 1, column 4", "a single '}'", ["{a}}", "   ^"]),
        ("one\ntwo {\nthree", "line 2, column 5", "a single '{'", ["two {", "    ^"]),
        ("one\r\n\ttwo {\r\nthree", "line 2, column 6", "a single '{'", [" two {", "     ^"]),
        ("old\rMac {", "line 1, column 9", "a single '{'", ["old Mac {", "        ^"]),
        ("评分：{", "line 1, column 4", "a single '{'", ["评分：{", "      ^"]),  # noqa: RUF001 - two columns wide
        ("{\n" + '  "label": {a}\n}', "line 1, column 1", "a single '{'", ["{", "^"]),
        ('{"a": {"b": 1}}', "line 1, column 1", "a single '{'", ['{"a": {"b": 1}}', "^"]),
        (
            "x" * 500 + "}" + "y" * 500,
            "line 1, column 501",
            "a single '}'",
            ["x" * 40 + "}" + "y" * 29, " " * 40 + "^"],
        ),
        ("\n" * 9 + "x" * 99 + "{", "line 10, column 100", "a single '{'", ["x" * 40 + "{", " " * 40 + "^"]),
    ],
)
def test_a_stray_brace_is_shown_in_its_line_with_a_caret_below(
    template: str, place: str, what: str, shown: list[str]
) -> None:
    said, *picture = fault(lambda: from_template(template, "--prompt-file", ["a"])).split("\n")
    assert said == f"--prompt-file, {place}: {what}; write {{{{ or }}}} for a brace itself"
    assert picture == [f"  {line}" for line in shown]


@given(st.text("ab \n\t", max_size=120), st.text("ab \n\t", max_size=120))
def test_the_caret_stands_below_the_brace_wherever_that_is(before: str, after: str) -> None:
    said, line, caret = fault(lambda: from_template(f"{before}{{{after}", "--prompt", [])).split("\n")
    assert line[len(caret) - 1] == "{"
    assert caret.strip() == "^"
    assert f", line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}: " in said


def test_a_hole_that_names_no_column_is_answered_with_the_columns() -> None:
    assert fault(lambda: from_template("{txt}", "--prompt", ["id", "text"])) == (
        "--prompt: the table has no column 'txt' (did you mean 'text'?); its columns are: 'text', 'id'"
    )
    assert "its columns are: none" in fault(lambda: from_template("{txt}", "--prompt", []))


def test_columns_keep_the_order_of_the_table_if_no_name_is_similar() -> None:
    message = fault(lambda: from_template("{text}", "--prompt", ["id", "review", "label"]))
    assert message.endswith("its columns are: 'id', 'review', 'label'")


def test_a_source_is_named_as_its_reader_would_write_it() -> None:
    assert fault(lambda: from_column("a", ["b"])).startswith("prompt_column: ")
    with command_line():
        assert fault(lambda: from_column("a", ["b"])).startswith("--prompt-column: ")


def test_of_many_columns_the_twenty_most_similar_are_named_with_their_spaces() -> None:
    columns = [f"column {number}" for number in range(40)] + [" text "]
    message = fault(lambda: from_template("{text}", "--prompt", columns))
    assert "its columns are: ' text ', 'column" in message
    assert message.endswith(" and 21 more")
    assert message.count("'column ") == 19


@pytest.mark.parametrize(
    ("column", "shown", "given"), [("id;text", "';'", '";"'), ("id\ttext", "a tab", '"tab"'), ("id|text", "'|'", '"|"')]
)
def test_one_column_that_holds_a_separator_is_asked_about(column: str, shown: str, given: str) -> None:
    message = fault(lambda: from_template("{text}", "--prompt", [column]))
    assert f"its only column is {column!r}: if {shown} separates the columns, add separator={given}" in message


@pytest.mark.parametrize("template", ['{"label": "x"}', "{'label'}", "{label: x}", "{\n}"])
def test_a_hole_that_looks_like_json_gets_a_hint(template: str) -> None:
    message = fault(lambda: from_template(template, "--prompt", ["text"]))
    assert message.endswith("its only column is 'text'; write {{ and }} for braces that are no holes")


# --- columns ---


def test_a_column_of_prompts_is_asked_as_it_is() -> None:
    render = from_column("ask", ["id", "ask"])
    assert asked(render, 7, "2 {x} + 2?") == "2 {x} + 2?"
    assert asked(render, 8, None) == ""
    assert fault(lambda: from_column("prompt", ["id"])).startswith("prompt_column: the table has no column 'prompt'")


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CHATS: list[list[Message]] = [
    [{"role": "user", "content": "hi"}],
    [{"role": role, "content": ""} for role in ("system", "developer", "user", "assistant", "tool", "function")],
    [{"role": "user", "content": [{"type": "text", "text": "数"}, {"type": "image_url", "image_url": {"url": "u"}}]}],
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "", "tool_call_id": "c1"},
    ],
    [{"role": "assistant", "tool_calls": [CALL]}],
    [{"role": "user", "content": "\ud800", "name": "n", "weight": 0.5}],
]


@pytest.mark.parametrize("chat", CHATS)
def test_messages_come_from_json_from_lists_and_from_functions_unchanged(chat: list[Message]) -> None:
    render = from_messages_column("chat", ["id", "chat"])
    assert render((1, json.dumps(chat))) == chat
    assert render((1, chat)) == chat
    assert from_function(lambda row: row["chat"], ["id", "chat"])((1, chat)) == chat


def test_messages_that_pandas_made_arrays_of_are_lists_again() -> None:
    """Lists of structs in a Parquet file reach a DataFrame as NumPy arrays, the lists in them as well."""
    parts = np.array([{"type": "text", "text": "x"}], dtype=object)
    chat = np.array([{"role": "user", "content": parts}], dtype=object)
    expected = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    assert from_messages_column("chat", ["chat"])((chat,)) == expected


NO_CHATS: list[tuple[object, str]] = [
    ({"role": "user", "content": "x"}, " must be a list of messages, not {'role': 'user', 'content': 'x'}"),
    ([], " must be a list of messages, not []"),
    (7, " must be a list of messages, not 7"),
    (["hi"], ", message 1: it needs a role out of system, developer, user, assistant, tool, function"),
    ([{"content": "x"}], ", message 1: it needs a role"),
    ([{"role": "user", "content": "x"}, {"role": "human", "content": "x"}], ", message 2: it needs a role"),
    ([{"role": ["user"], "content": "x"}], ", message 1: it needs a role"),
    ([{"role": "user"}], ", message 1: its content must be a text or a list of parts"),
    ([{"role": "user", "content": None}], ", message 1: its content must be"),
    ([{"role": "user", "content": {"text": "x"}}], ", message 1: its content must be"),
    ([{"role": "assistant", "content": None, "tool_calls": []}], ", message 1: its content must be"),
]


@pytest.mark.parametrize(("chat", "said"), NO_CHATS)
def test_what_is_no_list_of_messages_is_refused_with_its_place(chat: object, said: str) -> None:
    render = from_messages_column("chat", ["chat"])
    for value in (chat, json.dumps(chat)):
        assert fault(partial(render, (value,))).startswith(f"column 'chat'{said}")
    function = from_function(lambda row: row["chat"], ["chat"])
    said = said.replace("must be a list", "must be a string or a list")
    assert fault(lambda: function((chat,))).startswith(f"the prompt function's result{said}")


@pytest.mark.parametrize("value", ["hi", "", None, '[{"role": "user"', "{'role': 'user'}", "[" * 100_000, "9" * 5000])
def test_broken_json_in_a_messages_column_is_refused(value: object) -> None:
    render = from_messages_column("chat", ["chat"])
    assert fault(lambda: render((value,))).startswith("column 'chat' is not valid JSON: ")


@pytest.mark.parametrize(
    "value",
    [
        str([{"role": "user", "content": "it's hi"}]),
        str(({"role": "user", "content": "x"},)),
        str(np.array([{"role": "user", "content": "x"}, {"role": "user", "content": "y"}])),
        repr(np.array([{"role": "user", "content": "x"}])),
        "[HumanMessage(content='hi', additional_kwargs={})]",
    ],
)
def test_messages_as_python_writes_them_are_named_with_what_to_write(value: str) -> None:
    render = from_messages_column("chat", ["chat"])
    assert fault(lambda: render((value,))) == (
        "column 'chat' is not valid JSON: it is a Python literal, with Python's quotes: write the column with"
        " json.dumps, as in df['chat'] = df['chat'].map(json.dumps)"
    )


CLEAN: list[list[Message]] = [
    [{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "u"}}]}],
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": [{"type": "text", "text": "r"}], "tool_call_id": "c1"},
    ],
]


def test_nulls_that_arrow_filled_into_messages_are_not_sent(tmp_path: Path) -> None:
    table = pa.table({"chat": CLEAN})
    assert "tool_call_id" in table["chat"][0].as_py()[0]
    parquet.write_table(table, tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"chat": chat}) + "\n" for chat in table["chat"].to_pylist()))
    for data in (table, tmp_path / "t.parquet", pd.read_parquet(tmp_path / "t.parquet"), table.to_pandas()):
        dataset = open_dataset(data)
        render = prompts_of("--messages-column", "chat", dataset).render
        assert [render(row) for part in dataset.slices(2) for row in part.rows] == CLEAN
    written = open_dataset(tmp_path / "t.jsonl")
    render = prompts_of("--messages-column", "chat", written).render
    [first, _] = [render(row) for part in written.slices(2) for row in part.rows]
    assert first[0]["tool_calls"] is None, "somebody wrote it, and its key must stay as it is"


def test_a_messages_column_that_is_not_there_is_named_with_its_option() -> None:
    message = fault(lambda: from_messages_column("chat", ["id"]))
    assert message == "messages_column: the table has no column 'chat'; its only column is 'id'"


# --- functions and system messages ---


def test_a_function_gets_the_row_as_it_is_and_returns_a_text() -> None:
    def ask(row: dict[str, Any]) -> str:
        assert row == {"a": 1, "b": None}
        return f"{row['a']} {{b}}"

    assert asked(from_function(ask, ["a", "b"]), 1, None) == "1 {b}"


def test_a_function_may_return_any_kind_of_list_and_mapping() -> None:
    def ask(_: Mapping[str, Any]) -> tuple[Mapping[str, str], ...]:
        return (MappingProxyType({"role": "user", "content": "x"}),)

    assert from_function(ask, [])(()) == [{"role": "user", "content": "x"}]


@pytest.mark.parametrize("returned", [None, 7, b"text", {"role": "user"}, [], np.array(["x"])])
def test_a_function_that_returns_neither_text_nor_messages_is_told_so(returned: Any) -> None:
    message = fault(lambda: from_function(lambda _: returned, [])(()))
    assert message == f"the prompt function's result must be a string or a list of messages, not {returned!r}"


@pytest.mark.parametrize("part", [{1, 2}, object(), b"x", np.int64(1), {1: "x", "1": "y"}])
def test_messages_that_json_cannot_hold_are_refused_before_they_are_sent(part: object) -> None:
    render = from_function(lambda _: [{"role": "user", "content": [part]}], [])
    assert "cannot be written as JSON" in fault(lambda: render(()))


def test_what_a_function_raises_is_left_to_the_user() -> None:
    with pytest.raises(KeyError, match="titel"):
        from_function(lambda row: str(row["titel"]), ["title"])(("x",))


def test_a_system_message_is_a_template_before_the_messages() -> None:
    render = with_system(from_column("q", ["lang", "q"]), "Answer in {lang}.", "--system", ["lang", "q"])
    assert render(("中文", "Why?")) == [
        {"role": "system", "content": "Answer in 中文."},
        {"role": "user", "content": "Why?"},
    ]
    assert fault(lambda: with_system(render, "{", "--system", [])).startswith("--system, line 1, column 1: ")

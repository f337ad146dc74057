"""Tokens are counted if tiktoken's table is at hand, estimated otherwise, and bounded if money depends on them."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import example, given
from hypothesis import strategies as st

from batcher.money.tokens import (
    ESTIMATE,
    TABLES,
    Counter,
    Table,
    counter,
    counter_of,
    encoding_of,
    is_at_hand,
    most_completion_tokens,
    most_prompt_tokens,
    prompt_tokens,
)

# The worst tokenizer that there can be: each byte is a token of its own. It is tiktoken's code with no table.
BYTES = tiktoken.Encoding(
    "bytes",
    pat_str=r"\s+(?!\S)|\s+|\S+",
    mergeable_ranks={bytes([byte]): byte for byte in range(256)},
    special_tokens={"<|endoftext|>": 256},
)
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": "é"}'}}

texts = st.text(st.characters(), max_size=40) | st.text(st.characters(), max_size=3).map(lambda text: text * 1000)
contents = (
    texts | st.none() | st.lists(texts | st.builds(lambda text: {"type": "text", "text": text}, texts), max_size=3)
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": contents},
        optional={"name": texts, "reasoning_content": texts, "tool_calls": st.just([CALL])},
    ),
    max_size=4,
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of tiktoken's that holds nothing."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    return tmp_path


def place(directory: Path, url: str, content: bytes) -> Path:
    """Put a file into tiktoken's cache, under the name for a URL."""
    path = directory / hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    path.write_bytes(content)
    return path


def said(content: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content, **more}]


def text_of(message: dict[str, Any]) -> str:
    """Write all that a message says in one text."""
    parts = message["content"] if isinstance(message["content"], list) else [message["content"] or ""]
    words = [part if isinstance(part, str) else part["text"] for part in parts]
    words += [message["role"], message.get("name", ""), message.get("reasoning_content", "")]
    return "".join(words) + (json.dumps(message["tool_calls"], ensure_ascii=False) if "tool_calls" in message else "")


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o-mini", "o200k_base"),
        ("openai/gpt-4o", "o200k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("deepseek-chat", None),
        ("davinci", None),
        ("", None),
    ],
)
def test_a_model_has_the_encoding_that_tiktoken_gives_it(model: str, encoding: str | None) -> None:
    assert encoding_of(model) == encoding


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4", "deepseek-chat"])
def test_without_a_table_tokens_are_estimated(cache: Path, model: str) -> None:
    assert counter(model) is ESTIMATE
    assert ESTIMATE.name == "estimated"
    assert not list(cache.iterdir())


def test_a_damaged_table_is_not_used_and_not_touched(cache: Path) -> None:
    path = place(cache, TABLES["o200k_base"].url, b"cut sho")
    assert counter("gpt-4o-mini") is ESTIMATE
    assert path.read_bytes() == b"cut sho"


@pytest.mark.skipif(not is_at_hand(TABLES["o200k_base"]), reason="tiktoken's table is not on this machine")
def test_with_its_table_tiktoken_counts() -> None:
    exact = counter("openai/gpt-4o-mini")
    assert exact.name == "tiktoken"
    assert exact.count("hello world") == 2


@pytest.mark.parametrize(
    ("variables", "looked_in"),
    [
        ({"TIKTOKEN_CACHE_DIR": "a", "DATA_GYM_CACHE_DIR": "b"}, "a"),
        ({"DATA_GYM_CACHE_DIR": "b"}, "b"),
        ({}, "data-gym-cache"),
        ({"TIKTOKEN_CACHE_DIR": "", "DATA_GYM_CACHE_DIR": "b"}, None),
    ],
)
def test_a_table_is_looked_for_where_tiktoken_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], looked_in: str | None
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
        if name in variables:
            monkeypatch.setenv(name, variables[name] and str(tmp_path / variables[name]))
    table = Table("https://example.com/table", hashlib.sha256(b"table").hexdigest())
    for directory in ("a", "b", "data-gym-cache"):
        (tmp_path / directory).mkdir()
        path = place(tmp_path / directory, table.url, b"table")
        assert is_at_hand(table) == (directory == looked_in)
        path.unlink()
    place(tmp_path, table.url, b"table")
    assert not is_at_hand(table)


def test_the_tables_are_those_of_tiktoken() -> None:
    source = inspect.getsource(importlib.import_module("tiktoken_ext.openai_public"))
    for table in TABLES.values():
        assert table.url in source
        assert table.sha256 in source


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("a", 1), ("Classify: ", 3), ("a" * 400, 100), ("情感" * 100, 150), ("\ud800", 1)]
)
def test_an_estimate_goes_by_the_bytes(text: str, tokens: int) -> None:
    assert ESTIMATE.count(text) == tokens


def test_a_text_of_any_kind_and_length_is_counted() -> None:
    exact = counter_of(BYTES)
    assert exact.name == "tiktoken"
    assert exact.count("<|endoftext|>") == 13
    assert exact.count("\ud800") == 3
    for length in (9_999, 10_000, 10_001, 1_000_000):
        assert exact.count(" " * length) == length


def test_a_prompt_is_its_texts_and_the_marks_between_them() -> None:
    characters = Counter("tiktoken", len)
    one = prompt_tokens(said("four"), characters)
    assert one == len("user") + len("four") + 3 + 3
    assert prompt_tokens(said("four") * 2, characters) == 2 * one - 3
    assert prompt_tokens(said(["four"]), characters) == one
    assert prompt_tokens(said([{"type": "text", "text": "four"}]), characters) == one
    assert prompt_tokens(said("four", name="Ada"), characters) == one + 3
    assert prompt_tokens(said("four", tool_calls=[CALL]), characters) == one + len(
        json.dumps([CALL], ensure_ascii=False)
    )
    assert prompt_tokens(said(["four", IMAGE]), characters) > one + 100


@given(messages, st.integers(0, 5000))
@example([{"role": "user", "content": "\ud800" * 1000}], 0)
def test_no_tokenizer_makes_more_of_a_prompt_than_the_bound(messages: list[dict[str, Any]], params_bytes: int) -> None:
    most = most_prompt_tokens(messages, params_bytes)
    template = "<|start|>" * len(messages)  # a mark that the tokenizer does not know as one
    worst = len(BYTES.encode_ordinary("".join(map(text_of, messages)) + template)) + params_bytes
    assert most is not None
    assert worst + 500 <= most  # a template with tools may take that much
    assert prompt_tokens(messages, ESTIMATE) <= most


@pytest.mark.parametrize(
    "message",
    [
        {"content": [IMAGE]},
        {"content": ["look:", {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]},
        {"content": [{"type": "file", "file": {"file_id": "f"}}]},
        {"content": [{"type": "text"}]},
        {"content": [None]},
        {"content": IMAGE},
        {"content": None, "audio": {"id": "a"}},
    ],
)
def test_what_is_not_text_has_no_bound(message: dict[str, Any]) -> None:
    assert most_prompt_tokens([{"role": "user", "content": "x"}, {"role": "user", **message}], 0) is None


@pytest.mark.parametrize(
    ("params", "window", "most"),
    [
        ({}, None, None),
        ({}, 128_000, 128_000),
        ({"n": 3}, 128_000, 384_000),
        ({"n": 3}, None, None),
        ({"max_tokens": 200}, None, 200),
        ({"max_tokens": 200, "n": 5}, 128_000, 1000),
        ({"max_completion_tokens": 300}, 128_000, 300),
        ({"max_completion_tokens": 300, "max_tokens": 200}, None, 300),
        ({"max_completion_tokens": 100, "max_tokens": 200}, None, 200),
        ({"max_tokens": None, "n": None}, 8000, 8000),
        ({"max_tokens": -1, "n": 0}, 8000, 8000),
        ({"max_tokens": "200"}, 8000, 8000),
        ({"max_tokens": True}, 8000, 8000),
        ({"max_tokens": 200.0, "n": 5.0}, None, 1000),
        ({"max_tokens": 200, "n": 2, "best_of": 4}, None, 800),
        ({"max_tokens": 200, "candidate_count": 3}, None, 600),
        # What else bounds a part of the answer comes on top.
        ({"max_tokens": 200, "thinking_budget": 1000, "enable_thinking": True}, None, 1200),
        ({"max_tokens": 200, "thinking": {"type": "enabled", "budget_tokens": 1000}}, None, 1200),
        ({"max_tokens": 200, "extra": [{"google": {"thinking_config": {"thinkingBudget": 0}}}]}, None, 200),
        ({"max_tokens": 200, "n_predict": 5000}, None, 5200),
        ({"max_new_tokens": 200}, None, None),
        ({"max_tokens": 200, "stop_token_ids": [9], "tools": [{"properties": {"budget": {"minimum": 9}}}]}, None, 200),
        # Parameters that only describe, or are passed through, do not set a length.
        ({"max_tokens": 200, "metadata": {"budget": "research"}}, None, 200),
        ({"max_tokens": 200, "metadata": {"max_tokens_of_team": 5000}, "user": "budget"}, None, 200),
        ({"max_tokens": 200, "tools": [{"function": {"parameters": {"properties": {"budget": 9}}}}]}, None, 200),
        ({"max_tokens": 200, "response_format": {"json_schema": {"max_tokens": "x"}}}, None, 200),
        ({"max_tokens": 200, "extra_body": {"metadata": {"budget": "x"}, "thinking_budget": 100}}, None, 300),
        ({"max_tokens": 200, "guided_json": {"default": {"budget": 12}}}, None, 200),
        # A value that is not a number bounds nothing: a server may read it in any way.
        ({"max_tokens": 200, "max_completion_tokens": "5000"}, None, None),
        ({"max_tokens": 200, "max_completion_tokens": -1}, 8000, 8000),
        ({"max_tokens": 200.5}, None, None),
        ({"max_tokens": 200, "n": "5"}, 8000, None),
        ({"max_tokens": 200, "n": True}, 8000, None),
        ({"max_tokens": 200, "thinking_budget": -1}, None, None),
        ({"max_tokens": 200, "enable_thinking": True}, 8000, 8000),
        ({"max_tokens": 200, "enable_thinking": False}, None, 200),
    ],
)
def test_an_answer_is_bounded_by_the_parameters_or_the_context(
    params: dict[str, Any], window: int | None, most: int | None
) -> None:
    assert most_completion_tokens(params, window) == most

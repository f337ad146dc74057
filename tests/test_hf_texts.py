"""The text of tokens: whole characters, stop strings, bytes."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies
from tiny_model import _tokenizer

from batcher.server.hf.texts import Text, bytes_of


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return _tokenizer()


def pieces_of(tokenizer: Any, text: str, stops: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """Return the pieces that a stream of a text's tokens would have, and whether a stop string has ended it."""
    made = Text(tokenizer, tokenizer("before")["input_ids"], stops)
    pieces = []
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        made.push(token)
        pieces.append(made.take())
        if made.is_stopped:
            break
    else:
        made.end()
    return [*pieces, made.take(is_last=True)], made.is_stopped


@hypothesis.given(text=strategies.text(max_size=30))
def test_the_pieces_are_the_text_and_hold_whole_characters(tokenizer: Any, text: str) -> None:
    pieces, _ = pieces_of(tokenizer, text)
    assert "".join(pieces) == text


@hypothesis.given(text=strategies.text("ab数€", max_size=30), stop=strategies.text("ab数€", min_size=1, max_size=4))
def test_nothing_of_a_stop_string_leaves(tokenizer: Any, text: str, stop: str) -> None:
    pieces, is_stopped = pieces_of(tokenizer, text, (stop, "never"))
    assert "".join(pieces) == text.partition(stop)[0]
    assert is_stopped == (stop in text)


def test_the_earliest_of_several_stop_strings_counts(tokenizer: Any) -> None:
    pieces, _ = pieces_of(tokenizer, "one two three", ("three", "two", "wo"))
    assert "".join(pieces) == "one "


def test_half_a_character_at_the_end_is_shown_as_such(tokenizer: Any) -> None:
    ids = tokenizer("€", add_special_tokens=False)["input_ids"]
    assert len(ids) > 1
    made = Text(tokenizer, [], ())
    made.push(ids[0])
    assert made.take() == ""
    made.end()
    assert made.take(is_last=True) == "\ufffd"


@hypothesis.given(text=strategies.text(max_size=30))
def test_the_bytes_of_the_tokens_are_those_of_the_text(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert b"".join(bytes_of(tokenizer, each) for each in ids) == text.encode()


def test_json_is_written_in_bytes_too(tokenizer: Any) -> None:
    text = json.dumps({"a": "数"}, ensure_ascii=False)
    assert b"".join(bytes_of(tokenizer, each) for each in tokenizer(text, add_special_tokens=False)["input_ids"]) == (
        text.encode()
    )

"""The completions of texts: asked at their own place, and read like the answers of chats."""

from __future__ import annotations

import json
from typing import Any

from canned_server import events

from batcher.calls.dialect import answer_in
from batcher.records import Completion, Usage


def choice(text: str, reason: str | None = "stop", index: int = 0) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason}


def body(*choices: dict[str, Any]) -> dict[str, Any]:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"id": "cmpl-1", "object": "text_completion", "model": "m", "choices": [*choices], "usage": usage}


def test_the_completion_of_a_text_is_read_with_its_reason_and_usage() -> None:
    answer = answer_in(200, {}, json.dumps(body(choice(" world", "length"))).encode())
    assert answer == Completion(" world", "length", Usage(3, 2))


def test_several_completions_are_a_list_in_their_order() -> None:
    came = body(choice("b", index=1), choice("a"))
    answer = answer_in(200, {}, json.dumps(came).encode(), wants_all=True)
    assert isinstance(answer, Completion)
    assert answer.text == '["a", "b"]'


def test_a_streamed_completion_is_the_one_that_it_would_have_been_in_one_piece() -> None:
    pieces = [body(choice(" wor", None)), body(choice("ld", None)), body(choice("", "length"))]
    assert answer_in(200, {}, events(*pieces)) == Completion(" world", "length", Usage(3, 2))

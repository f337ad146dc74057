"""A paid answer is kept, and an empty answer does not count as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.answer.reading import read
from batcher.records import Completion, Result, Status, Usage


@given(st.text(), st.none() | st.sampled_from(["stop", "length"]))
def test_the_text_that_arrived_is_the_answer_to_the_letter(text: str, finish_reason: str | None) -> None:
    result = read(Completion(text, finish_reason))
    assert result.answer == text
    assert (result.status is Status.OK) == bool(text.strip()) == (not result.error)


@pytest.mark.parametrize("reason", ["content_filter", "sensitive"])
def test_an_answer_that_a_filter_cut_off_is_kept_and_is_not_ok(reason: str) -> None:
    error = f"a content filter cut the answer off (finish_reason {reason})"
    assert read(Completion("half an", reason)) == Result(Status.INVALID, "half an", error)


@pytest.mark.parametrize("text", [None, "", " ", "\n\t\u3000"])
def test_a_completion_without_text_is_invalid_and_says_why(text: str | None) -> None:
    assert read(Completion(text)) == Result(Status.INVALID, text or "", "the answer is empty")
    assert read(Completion(text, "length")).error == "the answer is empty (finish_reason length)"


@pytest.mark.parametrize(
    ("completion", "error"),
    [
        (
            Completion("", "length", Usage(9, 812), reasoning="hm"),
            "the model only thought (812 tokens, cut off at max_tokens): raise max_tokens, or switch thinking off",
        ),
        (
            Completion("", "length", Usage(9, 812), reasoning="hm", is_open=True),
            "cut off while thinking (812 tokens, max_tokens): raise max_tokens, or switch thinking off",
        ),
        (
            Completion("", "length", is_open=True),
            "cut off while thinking (max_tokens): raise max_tokens, or switch thinking off",
        ),
        (
            Completion(None, "stop", Usage(9, 812), reasoning="positive"),
            (
                "the model only thought (finish_reason stop): switch thinking off, or the reasoning parser of your"
                " server, which may have taken the answer for a thought"
            ),
        ),
    ],
)
def test_a_completion_that_is_only_a_thought_is_invalid_and_says_what_to_do(completion: Completion, error: str) -> None:
    assert read(completion) == Result(Status.INVALID, "", error)


def test_a_refusal_is_invalid_and_says_what_the_model_said() -> None:
    refused = Completion(None, "stop", refusal="I cannot")
    assert read(refused) == Result(Status.INVALID, "", "the model refused: I cannot")

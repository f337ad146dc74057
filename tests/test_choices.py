"""What was paid for is an answer: without a text, with several texts, or with one of another type."""

from __future__ import annotations

import json
from typing import Any

import pytest
from canned_server import completion

from batcher.answer.reading import read
from batcher.calls.choices import completion_in
from batcher.calls.dialect import answer_in
from batcher.records import Completion, Failure, Status, Usage

USED = {"prompt_tokens": 3, "completion_tokens": 0}


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [], "usage": USED},
        {"choices": None, "usage": USED},
        {"choices": [{}], "usage": USED},
        {"choices": [], "id": "chatcmpl-1"},
        {"choices": [{"message": None, "finish_reason": "stop"}]},
        completion(None),
        completion(""),
        completion(" \n"),
        completion([]),
        completion(None, usage=USED, reasoning_content="hm", finish_reason="length"),
    ],
)
def test_an_answer_without_a_text_was_paid_for_and_is_invalid(body: object) -> None:
    answer = answer_in(200, {}, json.dumps(body).encode())
    assert isinstance(answer, Completion)
    assert read(answer).status is Status.INVALID


@pytest.mark.parametrize(
    "body",
    [
        {"choices": []},
        {"choices": [], "id": "", "usage": {}},
        {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}},
        {"choices": [], "id": "x", "usage": USED, "error": {"message": "no"}},
        {"choices": [], "id": "x", "base_resp": {"status_code": 1002, "status_msg": "no"}},
        {"usage": 3, "choices": None},
        {"id": "x"},
    ],
)
def test_nothing_paid_or_an_error_is_no_answer(body: object) -> None:
    assert isinstance(answer_in(200, {}, json.dumps(body).encode()), Failure)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (completion(None, function_call={"name": "f", "arguments": "{}"}), '{"name": "f", "arguments": "{}"}'),
        (completion({"label": "é"}), '{"label": "é"}'),
        (completion(0), "0"),
        (completion(4.5), "4.5"),
        (completion(False), "false"),
        (completion([0.1, 0.2]), "[0.1, 0.2]"),
        (completion([{"label": "a"}]), '[{"label": "a"}]'),
    ],
)
def test_content_of_another_type_is_kept_as_json(body: object, text: str) -> None:
    assert answer_in(200, {}, json.dumps(body).encode()) == Completion(text, "stop")


def choices(*texts: Any, reasons: tuple[str, ...] = (), **rest: Any) -> dict[str, Any]:
    ends = [*reasons, *["stop"] * len(texts)]
    found = [
        {"index": index, "message": {"role": "assistant", "content": text, **rest}, "finish_reason": reason}
        for index, (text, reason) in enumerate(zip(texts, ends, strict=False))
    ]
    return {"choices": found}


def test_several_answers_are_a_json_list_of_their_texts() -> None:
    assert completion_in(choices("a", 'b "é"', None), {}) == Completion('["a", "b \\"é\\"", ""]', "stop")
    turned = {"choices": choices("a", "b")["choices"][::-1]}
    assert completion_in(turned, {}) == Completion('["a", "b"]', "stop")
    thought = completion_in(choices("a", "b", reasoning="hm"), {})
    assert thought is not None
    assert thought.reasoning == '["hm", "hm"]'


def test_several_answers_without_numbers_are_kept_if_the_request_asked_for_them() -> None:
    body = choices("a", "b")
    for choice in body["choices"]:
        choice["index"] = 0
    assert completion_in(body, {}) == Completion("a", "stop")
    assert completion_in(body, {}, wants_all=True) == Completion('["a", "b"]', "stop")
    assert completion_in(choices("a"), {}, wants_all=True) == Completion("a", "stop")


def test_several_empty_answers_are_an_empty_one() -> None:
    answer = completion_in(choices("", None, " "), {})
    assert answer == Completion("", "stop")
    assert read(answer).status is Status.INVALID


@pytest.mark.parametrize(
    ("reasons", "reason"),
    [(("stop", "length"), "length"), (("stop", "content_filter", "length"), "content_filter"), ((), "stop")],
)
def test_several_answers_ended_as_the_one_that_did_not_end_by_itself(reasons: tuple[str, ...], reason: str) -> None:
    answer = completion_in(choices("a", "b", "c", reasons=reasons), {})
    assert answer is not None
    assert answer.finish_reason == reason


def test_several_answers_of_which_one_broke_off_are_none() -> None:
    assert isinstance(answer_in(200, {}, json.dumps(choices("a", "b", reasons=("stop", "ERROR"))).encode()), Failure)


@pytest.mark.parametrize("role", ["user", "system", "User"])
def test_the_question_that_an_older_server_repeats_is_no_answer(role: str) -> None:
    asked = {"index": 0, "message": {"role": role, "content": "fine?"}}
    body = {"choices": [asked, *completion("fine")["choices"]]}
    assert completion_in(body, {}) == Completion("fine", "stop")
    assert completion_in({"choices": [asked]}, {}) is None


@pytest.mark.parametrize("reason", ["ERROR", "Abort", "Network_Error"])
def test_a_finish_reason_is_compared_without_case(reason: str) -> None:
    assert isinstance(answer_in(200, {}, json.dumps(completion("half", finish_reason=reason)).encode()), Failure)
    filtered = answer_in(200, {}, json.dumps(completion("half", finish_reason="Content_Filter")).encode())
    assert isinstance(filtered, Completion)
    assert read(filtered).status is Status.INVALID


@pytest.mark.parametrize(
    ("message", "reasoning"),
    [
        ({"reasoning_content": "because"}, "because"),
        ({"reasoning": "because"}, "because"),
        ({"thinking": "because"}, "because"),
        ({"reasoning_content": "", "reasoning": "because"}, "because"),
        ({"content": [{"type": "thinking", "thinking": "because"}, {"type": "text", "text": "so"}]}, "because"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "because"}]}]}, "because"),
        ({"reasoning": {"effort": "high"}}, ""),
        ({}, ""),
    ],
)
def test_what_the_model_thought_is_kept(message: dict[str, Any], reasoning: str) -> None:
    answer = completion_in(completion(**{"content": "so", **message}) | {"model": "m-2026"}, {})
    assert answer is not None
    assert (answer.reasoning, answer.model) == (reasoning, "m-2026")


KEY = "sk-5ecret/With+all=kinds"


@pytest.mark.parametrize(
    "spelled", [KEY, KEY.replace("/", "\\/"), "".join(f"\\u{ord(char):04x}" for char in KEY), "\\u0073" + KEY[1:]]
)
def test_a_key_is_hidden_in_the_kept_body_however_it_is_spelled(spelled: str) -> None:
    raw = json.dumps(completion("KEY", usage=USED)).replace("KEY", spelled).encode()
    answer = answer_in(200, {}, raw, [KEY])
    assert isinstance(answer, Completion)
    assert answer.text == "[API key]"
    assert json.loads(answer.raw) == completion("[API key]", usage=USED)


def test_a_body_without_a_key_is_kept_as_it_came() -> None:
    raw = json.dumps(completion('a "/" \\ \u00e9 \u4f60 <b>\n')).replace("/", "\\/").replace("<", "\\u003c").encode()
    answer = answer_in(200, {}, raw, [KEY])
    assert isinstance(answer, Completion)
    assert answer.raw == raw
    assert answer.text == 'a "/" \\ \u00e9 \u4f60 <b>\n'


def test_an_error_object_without_a_value_is_none() -> None:
    body = completion("fine") | {"error": {"message": "", "type": "", "param": "", "code": None}}
    assert answer_in(200, {}, json.dumps(body).encode()) == Completion("fine", "stop")


def test_usage_stands_beside_several_answers() -> None:
    assert completion_in(
        {**choices("a", "b"), "usage": {"prompt_tokens": 3, "completion_tokens": 2}}, {}
    ) == Completion('["a", "b"]', "stop", Usage(3, 2))

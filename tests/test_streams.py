"""A stream is read as the WHATWG has it, whatever stands around its data; a stream with a hole is no answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from canned_server import completion
from hypothesis import given
from hypothesis import strategies as st

from batcher.calls.dialect import answer_in
from batcher.calls.streams import Stream
from batcher.records import Completion, Failure, Fault, Usage

FINE = Completion("fine", "stop", Usage(3, 2))


def chunk(content: str | None = None, reason: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": content, **delta}, "finish_reason": reason}]}


def lines(*chunks: object) -> list[str]:
    return [f"data: {each if isinstance(each, str) else json.dumps(each)}" for each in chunks]


USED = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
DATA = lines(chunk("fi", role="assistant"), chunk("ne"), chunk("", "stop"), USED, "[DONE]")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "first",
    [
        "",
        ": OPENROUTER PROCESSING",
        "\n",
        "id: 1",
        "event: message",
        "retry: 3",
        "\ufeff",
        "\ufeff: x",
        ":HTTP_STATUS/200",
    ],
)
def test_a_stream_is_read_whatever_stands_before_its_data(end: str, first: str) -> None:
    around = [first, "", *(line for each in DATA for line in (": ping", "id:7", "event:result", each, ""))]
    assert answer_in(200, {}, end.join(around).encode()) == FINE


SEPARATORS = st.sampled_from(["\n\n", "\r\n\r\n", "\r\r", "\n", "\r\n", "\r", "\n: x\n", "\r\n\r\ndata:\r\n"])


@given(st.lists(SEPARATORS, min_size=5, max_size=5), st.lists(st.integers(0, 600)), st.booleans())
def test_a_stream_reads_the_same_however_its_bytes_are_cut(ends: list[str], cuts: list[int], hole: bool) -> None:
    data = [*DATA[:2], *lines('{"choices": [')[:hole], *DATA[2:]]
    raw = "".join(map("".join, zip(data, [*ends, "\n\n"], strict=False))).encode()
    whole, parts = Stream(), Stream()
    whole.add(raw)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), len(raw)], strict=True):
        parts.add(raw[start:stop])
    answer = whole.answer({})
    assert parts.answer({}) == answer
    assert (answer == FINE) != hole


@given(st.binary(), st.lists(st.integers(0, 40)))
def test_any_bytes_read_the_same_however_they_are_cut(raw: bytes, cuts: list[int]) -> None:
    whole, parts = Stream(), Stream()
    whole.add(b"data: " + raw)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), len(raw) + 6], strict=True):
        parts.add((b"data: " + raw)[start:stop])
    assert parts.answer({}) == whole.answer({})


@pytest.mark.parametrize("hole", ['{"choices": [{"index": 0, "del', "x", '"fine"', "null", "[]", "7", "fine}", "[DONE"])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_line_of_data_that_is_no_object_breaks_the_stream(hole: str, place: int) -> None:
    data = [*DATA[:place], *lines(hole), *DATA[place:]]
    for end in ("\n\n", "\n"):
        answer = answer_in(200, {}, "".join(line + end for line in data).encode())
        assert isinstance(answer, Failure)
        assert (answer.fault, answer.status, answer.may_be_billed) == (Fault.PROTOCOL, None, True)
        assert answer.message.startswith("the stream is broken: a line of data is not JSON: ")


def test_an_object_may_stand_in_several_lines_of_one_event() -> None:
    pretty = json.dumps(chunk("fine", "stop"), indent=1).replace("\n", "\ndata: ")
    assert answer_in(200, {}, f"data: {pretty}\n\ndata: [DONE]\n\n".encode()) == Completion("fine", "stop")


def test_what_follows_the_end_is_not_read() -> None:
    raw = "\n\n".join([*DATA, "data: x", *lines(chunk("more"))]).encode()
    assert answer_in(200, {}, raw) == FINE


@pytest.mark.parametrize(
    ("event", "failure"),
    [
        (
            "id:1\nevent:error\n:HTTP_STATUS/429\ndata:" + json.dumps({"code": "Throttling", "message": "Slow"}),
            Failure(Fault.STATUS, "Slow", 429, "Throttling"),
        ),
        (
            "event: error\ndata: " + json.dumps({"type": "error", "error": {"type": "overloaded", "message": "Busy"}}),
            Failure(Fault.PROTOCOL, "Busy", None, "overloaded"),
        ),
        ("event: error\ndata: " + json.dumps({"said": "no"}), Failure(Fault.PROTOCOL, '{"said": "no"}')),
        ("data: " + json.dumps({"code": "x", "message": "No"}), Failure(Fault.PROTOCOL, "No", None, "x")),
        (
            "data: " + json.dumps({"base_resp": {"status_code": 1002, "status_msg": "No"}}),
            Failure(Fault.PROTOCOL, "No", None, "1002"),
        ),
        (
            "data: " + json.dumps({"choices": [{"error": {"code": 429, "message": "No"}}]}),
            Failure(Fault.STATUS, "No", 429, "429"),
        ),
        (json.dumps({"error": {"message": "No", "code": 500}}), Failure(Fault.STATUS, "No", 500, "500")),
    ],
)
def test_an_error_breaks_a_stream_however_it_is_told(event: str, failure: Failure) -> None:
    for before in ([], DATA[:1]):
        answer = answer_in(200, {}, "\n\n".join([": x", *before, event, *DATA[1:]]).encode())
        assert isinstance(answer, Failure)
        assert (answer.fault, answer.message, answer.status, answer.code) == (
            failure.fault,
            failure.message,
            failure.status,
            failure.code,
        )
        if before:
            assert answer.may_be_billed  # some text had come


def test_a_data_line_in_a_json_string_makes_no_stream() -> None:
    body = completion("a\ndata: b")
    assert answer_in(200, {}, json.dumps(body, indent=1).encode()) == Completion("a\ndata: b", "stop")
    assert answer_in(200, {}, b"\r\n" + json.dumps(body).encode()) == Completion("a\ndata: b", "stop")


def test_a_stream_without_a_choice_that_was_billed_is_an_answer_without_a_text() -> None:
    answer = answer_in(200, {}, "\n\n".join(lines(USED, "[DONE]")).encode())
    assert answer == Completion(None, None, Usage(3, 2))
    assert isinstance(answer_in(200, {}, "\n\n".join(lines(USED)).encode()), Failure)
    assert isinstance(answer_in(200, {}, "\n\n".join(lines({"choices": []}, "[DONE]")).encode()), Failure)


def test_several_answers_are_kept_in_their_order_and_each_must_end() -> None:
    told = [chunk("b", None, 1), chunk("a", "stop"), chunk("c", "length", 2)]
    assert answer_in(200, {}, "\n\n".join(lines(*told, chunk("b", "stop", 1), "[DONE]")).encode()) == Completion(
        '["a", "bb", "c"]', "length"
    )
    assert isinstance(answer_in(200, {}, "\n\n".join(lines(*told, "[DONE]")).encode()), Failure)


def test_the_question_that_an_older_server_repeats_is_no_answer() -> None:
    told = [chunk("fine?", None, 0, role="user"), chunk("fi", None, 1, role="assistant"), chunk("ne", "stop", 1)]
    assert answer_in(200, {}, "\n\n".join(lines(*told, "[DONE]")).encode()) == Completion("fine", "stop")


def test_the_pieces_of_a_function_call_are_joined() -> None:
    told = [
        chunk(None, role="assistant", function_call={"name": "add", "arguments": ""}),
        chunk(None, function_call={"arguments": '{"a"'}),
        chunk(None, "function_call", function_call={"arguments": ": 1}"}),
    ]
    answer = answer_in(200, {}, "\n\n".join(lines(*told)).encode())
    assert answer == Completion('{"name": "add", "arguments": "{\\"a\\": 1}"}', "function_call")


def test_what_a_stream_tells_beside_the_text_is_kept() -> None:
    told = [
        {**chunk(None, reasoning_content="be"), "model": "m-7"},
        chunk(None, reasoning="cause"),
        chunk("so", "stop"),
    ]
    raw = "\n\n".join(lines(*told)).encode()
    answer = answer_in(200, {}, raw)
    assert isinstance(answer, Completion)
    assert (answer.text, answer.reasoning, answer.model, answer.raw) == ("so", "because", "m-7", raw)


def test_a_key_that_comes_in_pieces_is_in_nothing_that_is_kept() -> None:
    key = "sk-5ecret/With+all=kinds"
    raw = "\n\n".join(lines(chunk(key[:9]), chunk(key[9:], "stop"))).encode()
    answer = answer_in(200, {}, raw, [key])
    assert isinstance(answer, Completion)
    assert (answer.text, answer.raw) == ("[API key]", b"")

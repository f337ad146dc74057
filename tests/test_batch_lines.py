"""Lines of batches ask what online requests ask, byte for byte, and their results are read as online answers are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from canned_server import canned, completion, http
from hypothesis import given
from hypothesis import strategies as st

from batcher.calls.batch_lines import Lines
from batcher.calls.batch_service import LINE_CANCELLED, LINE_EXPIRED, Answer
from batcher.calls.dialect import answer_in
from batcher.calls.factory import ChatCallers
from batcher.calls.fate import Fate, meaning_of
from batcher.endpoint import Endpoint
from batcher.records import NO_PARAMS, NO_TERMS, Completion, Failure, Fault, Message, Task, Terms, Usage

KEY = "sk-lines-secret-4711"
LINES = Lines("m", {}, secrets=(KEY,))


def asking(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


# --- what is asked ---


@pytest.mark.parametrize(
    ("messages", "params", "further", "terms"),
    [
        (asking("hi"), {}, {}, NO_TERMS),
        (asking('数学 👍 \ud800 "\\\n'), {"temperature": 0, "max_tokens": 5}, {}, NO_TERMS),
        (asking("hi"), {"temperature": 0.5}, {"response_format": {"type": "json_object"}}, NO_TERMS),
        (asking("hi"), {"n": 2, "seed": 1}, {}, Terms(params={"seed": 2, "model": "other"})),
        ([{"role": "user", "content": "text"}], {}, {}, Terms(Task.EMBEDDING)),
        ([{"role": "user", "content": "Once"}], {"max_tokens": 5}, {}, Terms(Task.COMPLETION)),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}], {"model": "mine"}, {}, NO_TERMS),
    ],
)
@pytest.mark.parametrize("scores", [False, True])
async def test_a_line_has_the_body_of_a_request_that_is_sent_by_itself(
    messages: list[Message],
    params: Mapping[str, Any],
    further: Mapping[str, Any],
    terms: Terms,
    scores: bool,
) -> None:
    async with canned(http(200, completion())) as server:
        callers = ChatCallers(params, scores=scores)
        endpoint = Endpoint("m", server.base_url, KEY, params={"top_p": 1})
        await callers.caller(endpoint).call(messages, 5, further, terms)
        line = callers.batches(endpoint).line("row-1", messages, further, terms)
        await callers.close()
        body = server.asked[0].raw
        assert server.asked[0].line.split(" ")[1] == json.loads(line)["url"]
    assert line.endswith(b', "body": ' + body + b"}\n")
    assert line.count(b"\n") == 1
    assert {name: value for name, value in json.loads(line).items() if name in {"custom_id", "method"}} == {
        "custom_id": "row-1",
        "method": "POST",
    }


def test_a_line_never_asks_for_a_stream() -> None:
    lines = Lines("m", {"stream": True, "stream_options": {"include_usage": True}, "seed": 1})
    made = lines.line("1", "/u", asking("x"), {}, Terms(params={"stream": True, "top_k": 5}))
    assert json.loads(made)["body"] == {"model": "m", "messages": asking("x"), "seed": 1, "top_k": 5}


# --- what came ---


def result(body: object, status: int = 200, **more: Any) -> bytes:
    said = {"id": "r", "custom_id": "7", "response": {"status_code": status, "request_id": "q", "body": body}}
    return json.dumps({**said, "error": None, **more}).encode() + b"\n"


def read(line: bytes, lines: Lines = LINES) -> Completion | Failure:
    answer = lines.read(line)
    assert answer is not None
    assert answer.custom_id == "7"
    return answer.outcome


TOOL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]}
VECTORS = {
    "object": "list",
    "model": "e",
    "data": [{"index": 0, "embedding": [0.5, -1.0]}],
    "usage": {"prompt_tokens": 3},
}
BODIES: list[Any] = [
    completion("fine", usage={"prompt_tokens": 5, "completion_tokens": 2}),
    completion("<think>hm</think>fine"),
    completion("fine", reasoning_content="hm"),
    completion(None, refusal="I will not"),
    completion(finish_reason="length"),
    completion(""),
    {"choices": [{"message": TOOL, "finish_reason": "tool_calls"}], "service_tier": "default", "model": "m-2"},
    {"choices": [{"text": "upon a time"}]},
    {"choices": []},
    {"error": {"message": "the model is overloaded", "code": "overloaded"}},
    {"what": "ever"},
    completion("👍 \ud83d"),
]


@pytest.mark.parametrize("body", BODIES)
def test_a_result_is_read_as_the_answer_to_a_request_is(body: Any) -> None:
    online = answer_in(200, NO_PARAMS, json.dumps(body).encode())
    outcome = read(result(body))
    assert outcome == online
    if isinstance(online, Completion):
        assert isinstance(outcome, Completion)
        assert (outcome.model, outcome.id, outcome.reasoning) == (online.model, online.id, online.reasoning)
        assert json.loads(outcome.raw) == body


def test_embeddings_are_read_as_vectors() -> None:
    outcome = read(result(VECTORS))
    assert outcome == answer_in(200, NO_PARAMS, json.dumps(VECTORS).encode(), inputs=1)
    assert isinstance(outcome, Completion)
    assert (len(outcome.vectors), outcome.usage.prompt_tokens) == (1, 3)
    assert isinstance(read(result({"object": "list", "data": []})), Failure)


def test_several_answers_are_read_if_several_were_asked_for() -> None:
    body = {"choices": [{"index": at, "message": {"content": text}} for at, text in enumerate("ab")]}
    outcome = read(result(body), Lines("m", {"n": 2}))
    assert isinstance(outcome, Completion)
    assert json.loads(outcome.text or "") == ["a", "b"]


FINE = completion("fine")


@pytest.mark.parametrize(
    "line",
    [
        # Zhipu: no `error`, no `request_id`, an `id` that is the batch's.
        {"custom_id": "7", "id": "batch_1", "response": {"status_code": 200, "body": FINE}},
        {"custom_id": 7, "response": {"status_code": "200", "body": FINE}, "error": {}},
        {"custom_id": "7", "response": {"status_code": 200, "body": json.dumps(FINE)}, "error": ""},
        {"custom_id": "7", "response": {"body": FINE}},
        {"custom_id": "7", "response": FINE},
        {"custom_id": "7", "body": FINE},
    ],
)
def test_an_answer_is_found_wherever_a_service_puts_it(line: Any) -> None:
    outcome = read(json.dumps(line).encode())
    assert isinstance(outcome, Completion)
    assert outcome.text == "fine"


def failed(error: object, response: object = None) -> bytes:
    return json.dumps({"custom_id": "7", "response": response, "error": error}).encode()


@pytest.mark.parametrize(
    ("line", "status", "code", "said"),
    [
        (result({"error": {"message": "bad", "code": "c"}}, 400), 400, "c", "bad"),
        (result({"error": {"message": "slow", "code": "rate_limit"}}, 429), 429, "rate_limit", "slow"),
        (result(None, 500), 500, None, ""),
        # vLLM: the error is a text, and there is a status.
        (result(None, 400, error="prompt too long"), 400, None, "prompt too long"),
        (result(None, 400, error={"object": "error", "message": "no", "type": "Bad"}), 400, "Bad", "no"),
        (failed({"code": "server_error", "message": "boom"}), None, "server_error", "boom"),
        (failed("boom"), None, None, "boom"),
        (b'{"custom_id": "7", "error": {"message": "boom"}}', None, None, "boom"),
        (b'{"custom_id": "7"}', None, None, ""),
        (failed([], []), None, None, ""),
        (failed(None, {"status_code": 999, "body": 5}), None, None, ""),
        (failed({"code": "batch_expired", "message": "late"}), None, LINE_EXPIRED, "late"),
        (failed({"code": "BATCH_CANCELED", "message": "x"}), None, LINE_CANCELLED, "x"),
        (failed({"code": "expired"}, {"status_code": 408, "body": None}), 408, LINE_EXPIRED, ""),
    ],
)
def test_a_failed_line_has_status_and_code(line: bytes, status: int | None, code: str | None, said: str) -> None:
    outcome = read(line)
    assert isinstance(outcome, Failure)
    assert (outcome.status, outcome.code) == (status, code)
    assert said in outcome.message
    assert not outcome.may_be_billed


def test_what_a_failed_line_means_is_decided_as_online() -> None:
    for body, status in (
        ({"error": {"message": "x", "code": "content_filter"}}, 400),
        ({"error": {"message": "x"}}, 429),
    ):
        online = answer_in(status, NO_PARAMS, json.dumps(body).encode())
        assert isinstance(online, Failure)
        outcome = read(result(body, status))
        assert isinstance(outcome, Failure)
        assert meaning_of(outcome) == meaning_of(online)
    lost = read(b'{"custom_id": "7", "response": null, "error": {"code": "internal", "message": "lost"}}')
    assert isinstance(lost, Failure)
    assert meaning_of(lost).fate is Fate.AGAIN


def test_an_answer_under_200_that_cannot_be_read_may_be_billed() -> None:
    outcome = read(result({"what": "ever", "usage": {"total_tokens": 5}}))
    assert isinstance(outcome, Failure)
    assert (outcome.fault, outcome.may_be_billed) == (Fault.PROTOCOL, True)


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"  \r\n", b"\xef\xbb\xbf\n", b"5", b"[]", b'{"custom_id": "7", "resp', b"\xff\xfe", b"null"]
)
def test_what_is_no_result_is_none(line: bytes) -> None:
    assert LINES.read(line) is None


@pytest.mark.parametrize(
    "line", [b"{}", b'{"custom_id": null}', b'{"custom_id": ["7"]}', b'{"id": "x", "response": 5}']
)
def test_a_result_without_a_name_fits_no_row(line: bytes) -> None:
    answer = LINES.read(line)
    assert isinstance(answer, Answer)
    assert answer.custom_id == ""


def test_a_line_with_a_mark_in_front_and_a_windows_end_is_read() -> None:
    assert isinstance(read(b"\xef\xbb\xbf" + result(FINE).rstrip() + b"\r\n"), Completion)


def test_a_result_of_too_many_parts_is_a_failure_of_its_row() -> None:
    line = b'{"custom_id": "7", "response": {"body": [' + b"[]," * 2_100_000 + b"[]]}}"
    outcome = read(line)
    assert isinstance(outcome, Failure)
    assert outcome.fault is Fault.TOO_LONG


NAMES = ("custom_id", "response", "body", "error", "status_code", "choices", "data", "embedding", "code", "message")
VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["200", "7", 200])


@given(st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(NAMES), inner)))
def test_no_line_raises(said: Any) -> None:
    answer = LINES.read(json.dumps(said).encode())
    assert (answer is None) == (not isinstance(said, dict))


@given(st.binary(max_size=200))
def test_no_bytes_raise(line: bytes) -> None:
    answer = LINES.read(line)
    assert answer is None or isinstance(answer.outcome, Completion | Failure)


def test_a_key_in_a_result_is_not_shown() -> None:
    said = {"error": {"message": f"key {KEY} has no quota", "code": KEY}}
    for line in (result(said, 401), result(completion(f"your key is {KEY}"))):
        outcome = read(line)
        assert KEY not in f"{outcome} {outcome!r}"
        assert isinstance(outcome, Failure) or KEY.encode() not in outcome.raw


def test_scores_that_a_service_refuses_are_asked_for_no_more() -> None:
    lines = Lines("m", {}, scores=True)

    def asked() -> Any:
        return json.loads(lines.line("1", "/u", asking("x"), NO_PARAMS, NO_TERMS))["body"].get("logprobs")

    assert asked() is True
    other = read(result({"error": {"message": "bad request"}}, 400), lines)
    assert isinstance(other, Failure)
    assert (other.left_out, asked()) == ("", True)
    refusal = result({"error": {"message": "logprobs are not supported by this model"}}, 400)
    for _ in range(2):  # every line of the batch asked for them
        refused = read(refusal, lines)
        assert isinstance(refused, Failure)
        assert refused.left_out == "logprobs"
    assert asked() is None


def test_usage_and_tier_are_those_of_the_line() -> None:
    outcome = read(result({**FINE, "usage": {"prompt_tokens": 9, "completion_tokens": 1}, "service_tier": "default"}))
    assert isinstance(outcome, Completion)
    assert (outcome.usage, outcome.service_tier) == (Usage(9, 1), "default")

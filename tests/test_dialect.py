"""The responses of all servers are understood: answers, refusals, limits, and the fate of the row."""

from __future__ import annotations

import datetime as dt
import email.utils
import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
from canned_server import completion, events
from hypothesis import given
from hypothesis import strategies as st

from batcher.calls.choices import completion_in, is_used, usage_in
from batcher.calls.dialect import answer_in
from batcher.calls.error_bodies import failure_in
from batcher.calls.fate import Fate, meaning_of
from batcher.calls.streams import Stream
from batcher.calls.texts import one_line
from batcher.calls.waits import LONGEST_ASKED_S, limits_in, wait_in
from batcher.records import Allowance, Completion, Failure, Fault, ServerLimits, Usage

AGAIN, WAIT, ROW_ENDS, ROW, ENDPOINT, OUT = Fate
KEY = "sk-5ecret/With+all=kinds"
FINE = Completion("fine", "stop")
YEAR_S = 366 * 86400.0
NOW = 1_700_000_000.0


def raw(body: object) -> bytes:
    """Encode a body: bytes as they are, text as UTF-8, anything else as JSON."""
    if isinstance(body, bytes):
        return body
    return (body if isinstance(body, str) else json.dumps(body)).encode()


# --- the dialects of failure ---


class Said(NamedTuple):
    """What a server says, and what it means: the fate of the row and why; the seconds that it asks us to wait."""

    status: int
    body: object
    means: tuple[Fate, str]
    wait: float | None = None
    headers: Mapping[str, str] = {}


LIMITED, FAILED = (WAIT, "rate limited"), (AGAIN, "the server failed")
NO_ANSWER = AGAIN, "the answer was no chat completion"
REFUSED = ROW, "the request was refused"
OVERLONG, UNSAFE = (ROW_ENDS, "the request is too long"), (ROW_ENDS, "the content was refused")
NO_QUOTA, WRONG_KEY = (ENDPOINT, "no quota is left"), (ENDPOINT, "the API key was refused")
CLOSED = OUT, "the account is closed or empty"
WRONG_MODEL = ENDPOINT, "the model is unknown there"
NOT_FOUND = ENDPOINT, "the model or the base URL is unknown there (does it lack /v1?)"


def error(message: str, **rest: object) -> dict[str, Any]:
    return {"error": {"message": message, **rest}}


EMPTY = "You exceeded your current quota, please check your plan and billing details."
TOO_LONG = "This model's maximum context length is 32768 tokens. However, you requested 39197 tokens in the messages"
TOO_LARGE = "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 30601."
FILTERED = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
AZURE = "Requests to the ChatCompletions_Create Operation have exceeded token rate limit. Please retry after"
GEMINI = f"{EMPTY} * Quota exceeded for metric: generate_content_free_tier_requests, limit:"
NO_DEPLOYMENT = "The API deployment for this resource does not exist."
NO_BALANCE = "Your paid balance is insufficient. Please top up and try again."
ARREARS = "Access denied, please make sure your account is in good standing."
HTML = "<html>\r\n<title>502 Bad Gateway</title>\r\n</html>"


def native(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message, "request_id": "r"}


def dashscope(code: str, message: str) -> dict[str, Any]:
    return {**error(message, type=code, code=code, param=None), "id": "chatcmpl-1", "request_id": "1"}


def gemini(message: str) -> list[object]:
    return [error(f"{GEMINI} {message}", code=429, status="RESOURCE_EXHAUSTED")]


# As manuals and issues show them, shortened.
DIALECTS = {
    "openai: rate limit": Said(
        429, error("Rate limit reached. Please try again in 644ms.", code="rate_limit_exceeded"), LIMITED, 0.644
    ),
    "openai: no money": Said(429, error(EMPTY, type="insufficient_quota", code="insufficient_quota"), NO_QUOTA),
    "openai: no money, older": Said(429, error(EMPTY, type="insufficient_quota", code=None), NO_QUOTA),
    "openai: too much for any minute": Said(
        429,
        error(TOO_LARGE, type="tokens", code="rate_limit_exceeded"),
        OVERLONG,
    ),
    "openai: wrong key": Said(401, error("Incorrect API key provided", code="invalid_api_key"), WRONG_KEY),
    "openai: wrong model": Said(404, error("The model `m` does not exist", code="model_not_found"), NOT_FOUND),
    "openai: too long": Said(400, error(TOO_LONG, code="context_length_exceeded"), OVERLONG),
    "moonshot: rate limit": Said(
        429,
        error("reached max RPM: 3, please try again after 1 seconds", type="rate_limit_reached_error"),
        LIMITED,
        1.0,
    ),
    "siliconflow: no money": Said(403, {"code": 30011, "message": NO_BALANCE, "data": None}, NO_QUOTA),
    "openrouter: rate limit of an upstream": Said(
        200, error("Provider returned error", code=429), LIMITED, 7.0, {"retry-after": "7"}
    ),
    "azure: wrong deployment": Said(404, error(NO_DEPLOYMENT, code="DeploymentNotFound"), NOT_FOUND),
    "azure: rate limit": Said(429, error(f"{AZURE} 9 seconds.", code="429"), LIMITED, 9.0),
    "azure: a day's wait": Said(429, error(f"{AZURE} 86400 seconds.", code="429"), LIMITED, 86400.0),
    "azure: content filter": Said(
        400, error(FILTERED, code="content_filter", status=400, innererror={"code": "ResponsibleAI"}), UNSAFE
    ),
    "dashscope: requests a minute": Said(
        429, dashscope("limit_requests", "You exceeded your current requests list."), LIMITED
    ),
    "dashscope: requests a minute, native": Said(
        429, native("Throttling.RateQuota", "Requests rate limit exceeded, please try again later."), LIMITED
    ),
    "dashscope: a burst": Said(429, dashscope("limit_burst_rate", "Request rate increased too quickly."), LIMITED),
    "dashscope: tokens a minute": Said(429, dashscope("insufficient_quota", EMPTY), LIMITED),
    "dashscope: tokens a minute, through a relay": Said(
        429, error(f"{EMPTY} For details, see: https://a.b/error-code#token-limit", code="insufficient_quota"), LIMITED
    ),
    "dashscope: tokens a minute, native": Said(
        429, native("Throttling.AllocationQuota", "Allocated quota exceeded, please increase your quota."), LIMITED
    ),
    "dashscope: the free tier is used up": Said(
        403, dashscope("AllocationQuota.FreeTierOnly", "The free tier of the model has been exhausted."), CLOSED
    ),
    "dashscope: the free quota is used up": Said(
        429, native("Throttling.AllocationQuota", "Free allocated quota exceeded."), CLOSED
    ),
    "dashscope: a bill is overdue": Said(429, native("PostpaidBillOverdue", "The postpaid bill is overdue."), CLOSED),
    "dashscope: no money": Said(400, dashscope("Arrearage", ARREARS), CLOSED),
    "dashscope: wrong key": Said(401, native("InvalidApiKey", "Invalid API-key provided."), WRONG_KEY),
    "dashscope: inspection": Said(
        400, dashscope("data_inspection_failed", "Input data may contain inappropriate content."), UNSAFE
    ),
    "dashscope: overload": Said(503, native("ModelUnavailable", "Model is unavailable."), FAILED),
    "deepseek: no money": Said(402, error("Insufficient Balance", code="invalid_request_error"), NO_QUOTA),
    "deepseek: no money, through a relay": Said(400, error("Insufficient Balance", type="unknown_error"), NO_QUOTA),
    "deepseek: wrong key": Said(401, error("Authentication Fails", type="authentication_error"), WRONG_KEY),
    "deepseek: wrong model": Said(400, error("Model Not Exist", type="invalid_request_error"), WRONG_MODEL),
    "deepseek: wrong parameter": Said(422, error("Invalid temperature", type="invalid_request_error"), REFUSED),
    "deepseek: overload": Said(503, error("Service is too busy", type="service_unavailable_error"), FAILED),
    "deepseek: out of resources half way": Said(
        200, completion("The answ", finish_reason="insufficient_system_resource"), NO_ANSWER
    ),
    "zhipu: no money": Said(429, error("余额不足或无可用资源包,请充值。", code="1113"), CLOSED),
    "zhipu: no money, older": Said(429, error("您的账户已欠费,请充值后重试。", code="1113"), CLOSED),
    "zhipu: no money, in English": Said(429, error("Insufficient balance or no package.", code="1113"), CLOSED),
    "zhipu: requests": Said(429, {**error("您的账户已达到速率限制", code="1302"), "request_id": "2"}, LIMITED),
    "zhipu: frequency": Said(429, error("High frequency usage of this API", code="1303"), LIMITED),
    "zhipu: overload": Said(429, error("该模型当前访问量过大", code="1305"), LIMITED),
    "zhipu: content": Said(400, error("系统检测到输入或生成内容可能包含不安全或敏感内容", code="1301"), UNSAFE),
    "zhipu: wrong model": Said(400, error("模型不存在", code="1211"), WRONG_MODEL),
    "zhipu: wrong model, in English": Said(400, error("Unknown Model, check the model code", code="1211"), WRONG_MODEL),
    "gemini: a limit of a minute": Said(429, gemini("10\nPlease retry in 17.5s."), LIMITED, 17.5),
    "gemini: a model that is not free": Said(429, gemini("0, model: pro\nPlease retry in 17.5s."), CLOSED, 17.5),
    "vllm 0.10.0: too long": Said(
        400,
        {"object": "error", "message": TOO_LONG, "type": "BadRequestError", "param": None, "code": 400},
        OVERLONG,
    ),
    "vllm 0.10.1: too long": Said(400, error(TOO_LONG, type="BadRequestError", param=None, code=400), OVERLONG),
    "vllm 0.10.0: wrong model": Said(
        404, {"object": "error", "message": "The model `m` does not exist.", "type": "NotFound", "code": 404}, NOT_FOUND
    ),
    "vllm 0.10.1: wrong model": Said(404, error("The model `m` does not exist.", type="NotFound", code=404), NOT_FOUND),
    "vllm: wrong key": Said(401, {"error": "Unauthorized"}, WRONG_KEY),
    "vllm: no choices": Said(200, {"choices": None}, NO_ANSWER),
    "llama-factory: too long": Said(400, {"detail": "Invalid length"}, REFUSED),
    "fastapi: wrong parameter": Said(
        422, {"detail": [{"type": "missing", "loc": ["body", "model"], "msg": "Field required"}]}, REFUSED
    ),
    "fastapi: wrong base url": Said(404, {"detail": "Not Found"}, NOT_FOUND),
    "ollama: wrong model": Said(404, error('model "m" not found, try pulling it', type="api_error"), NOT_FOUND),
    "ollama: wrong model, older": Said(404, {"error": "model 'm' not found"}, NOT_FOUND),
    "a proxy: no upstream": Said(502, HTML, FAILED),
    "a proxy: an empty body": Said(503, "", FAILED),
    "a proxy: a page under 200": Said(200, HTML, NO_ANSWER),
    "cut short: an answer": Said(200, raw(completion())[:70], NO_ANSWER),
    "cut short: a refusal": Said(500, '{"error": {"message": "cu', FAILED),
    "under 200: an error": Said(200, error("Sorry", type="oops"), NO_ANSWER),
    "under 200: an empty body": Said(200, "", NO_ANSWER),
    "under 200: no choices": Said(200, {"choices": []}, NO_ANSWER),
}


@pytest.mark.parametrize("said", DIALECTS.values(), ids=DIALECTS)
def test_a_failure_is_understood_in_this_dialect(said: Said) -> None:
    failure = answer_in(said.status, said.headers, raw(said.body))
    assert isinstance(failure, Failure)
    assert meaning_of(failure) == said.means
    assert failure.retry_after == said.wait
    # Under 200 an error object alone was not billed; what cannot be read may have been.
    assert failure.may_be_billed == (failure.status is None and said.body != error("Sorry", type="oops"))


@pytest.mark.parametrize("reason", ["insufficient_system_resource", "network_error", "error", "abort"])
def test_an_answer_that_the_server_broke_off_is_none(reason: str) -> None:
    message = f"the server broke off its answer (finish_reason {reason})"
    broken = Failure(Fault.PROTOCOL, message, may_be_billed=True)
    assert answer_in(200, {}, raw(completion("half", finish_reason=reason))) == broken
    assert answer_in(200, {}, events({"choices": [{"delta": {"content": "half"}, "finish_reason": reason}]})) == broken


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", "tool_calls", "sensitive"])
def test_how_a_whole_answer_ended_is_kept_beside_it(reason: str) -> None:
    assert answer_in(200, {}, raw(completion("fine", finish_reason=reason))) == Completion("fine", reason)
    assert answer_in(200, {}, raw(completion("", finish_reason=reason))) == Completion("", reason)


# --- refusals: message and code ---


@pytest.mark.parametrize(
    ("status", "body", "message", "code"),
    [
        (429, error("Empty", type="no_quota", code=None), "Empty", "no_quota"),
        (400, {"object": "error", "message": "Long", "code": 400}, "Long", "400"),
        (422, {"detail": [{"loc": ["body"], "msg": "no"}]}, '[{"loc": ["body"], "msg": "no"}]', None),
        (401, {"statusCode": 401, "message": "Unauthorized"}, "Unauthorized", None),
        (404, {"error": "model 'x' not found"}, "model 'x' not found", None),
        (401, {"error": "无效或已停用", "code": "api_key_invalid"}, "无效或已停用", "api_key_invalid"),
        (500, {"code": 50001, "msg": "busy", "data": None}, "busy", "50001"),
        (500, {"error": {"message": {"text": "odd"}}}, '{"text": "odd"}', None),
        (500, {"error": True, "message": "odd"}, "odd", None),
        (500, {"error": {}}, '{"error": {}}', None),
        (503, "no healthy upstream", "no healthy upstream", None),
        (502, HTML, "<html> <title>502 Bad Gateway</title> </html>", None),
        (500, "", "an empty body", None),
        (500, " \n", "an empty body", None),
        (500, "null", "null", None),
        (500, "[]", "[]", None),
        (500, "超时".encode("gbk"), "\ufffd\ufffd\u02b1", None),
        (500, b"[" * 100_000, "[" * 500 + " ...", None),
    ],
)
def test_a_refusal_is_shown_in_its_own_words(status: int, body: object, message: str, code: str | None) -> None:
    assert answer_in(status, {}, raw(body)) == Failure(Fault.STATUS, message, status, code)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (error("Sorry", code=429), 429, "429"),
        (error("Sorry", code="429", type="limit"), 429, "limit"),
        ({"object": "error", "message": "Sorry", "code": 400}, 400, "400"),
        ({"code": 500, "msg": "Sorry", "success": False}, 500, "500"),
        (error("Sorry", type="server_error"), None, "server_error"),
        (error("Sorry", code="1302"), None, "1302"),
        (error("Sorry", code=200), None, "200"),
        (completion() | error("Sorry"), None, None),
    ],
)
def test_a_200_may_hold_an_error_with_the_status_of_an_upstream(
    body: object, status: int | None, code: str | None
) -> None:
    """It was not billed, unless an answer stands beside it."""
    is_answered = isinstance(body, dict) and "choices" in body
    failure = Failure(Fault.STATUS if status else Fault.PROTOCOL, "Sorry", status, code, may_be_billed=is_answered)
    assert answer_in(200, {}, raw(body)) == failure


@pytest.mark.parametrize(
    "body",
    [
        '{"choices": [{}]}',
        '{"choices": {"message": {}}}',
        '{"choices": ""}',
        '{"choices": [], "id": "", "usage": {"total_tokens": 0}}',
        '{"choices": [',
        "null",
    ],
)
def test_a_200_that_is_no_completion_is_shown(body: str) -> None:
    assert answer_in(200, {}, raw(body)) == Failure(Fault.PROTOCOL, body, may_be_billed=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(
    JSON.map(json.dumps).map(str.encode) | st.binary(),
    st.sampled_from([200, 204, 301, 400, 429, 500, 599]),
    st.dictionaries(st.sampled_from(["retry-after", "x-ratelimit-remaining", "x-ratelimit-reset"]), st.text()),
)
def test_any_body_makes_a_short_printable_line(body: bytes, status: int, headers: dict[str, str]) -> None:
    failure = answer_in(status, headers, body)
    assert isinstance(failure, Failure)
    assert failure.message
    for text in (failure.message, failure.code or ""):
        assert text.isprintable()
        assert len(text) <= 504
        text.encode()


def test_what_is_too_long_is_cut() -> None:
    def shown(body: object) -> Failure:
        return failure_in(500, {}, raw(body))

    assert shown("x" * 500).message == "x" * 500
    assert shown("x" * 501).message == "x" * 500 + " ..."
    assert shown(" " * 9_000 + "x").message == "x"
    assert shown(error("m", code="c" * 200)).code == "c" * 80 + " ..."


def test_a_line_holds_nothing_that_a_terminal_obeys() -> None:
    assert one_line("a\x1b[2J\x00\u202eb\n\ud83dc 你 👋") == "a [2J b c 你 👋"


@pytest.mark.parametrize(
    "body",
    [
        error(f"Incorrect API key provided: {KEY}.", code=f"no_{KEY}"),
        {"detail": [{"headers": {"authorization": f"Bearer {KEY}"}}]},
        {"error": {"type": KEY}},
        "x" * 490 + KEY,
        f'{{"error": "cut {KEY}',
        f'data: {{"said": "{KEY}"}}\n\n',
        f'data: {{"error": "{KEY}"}}\n\n',
    ],
)
@pytest.mark.parametrize("status", [401, 200])
def test_a_key_that_the_server_repeats_is_hidden(status: int, body: object) -> None:
    assert KEY[:8] not in repr(answer_in(status, {}, raw(body), [KEY]))


# --- completions ---


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (completion(""), Completion("", "stop")),
        (completion(None), Completion(None, "stop")),
        (completion(None, refusal="I cannot"), Completion(None, "stop", refusal="I cannot")),
        (completion(None, tool_calls=[{"id": "é"}]), Completion('[{"id": "é"}]', "stop")),
        (completion("so", tool_calls=[{"id": "é"}]), Completion("so", "stop")),
        (completion("so", reasoning_content="because"), Completion("so", "stop")),
        (completion("so", role=None, name=7, tool_calls="odd", audio=3), Completion("so", "stop")),
        (completion([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, "c"]), Completion("abc", "stop")),
        (completion([{"type": "thinking", "text": "?"}, {"type": "text", "text": "a"}, 7]), Completion("a", "stop")),
        (completion(finish_reason=None), Completion("fine")),
        (completion(finish_reason=7), Completion("fine")),
        (completion() | {"error": None}, FINE),
        (completion("half \ud83d"), Completion("half \ud83d", "stop")),
        ({"choices": [{"message": {"content": "one"}}, {"message": {"content": "two"}}]}, Completion("one")),
        ({"choices": [{"message": {}}]}, Completion(None)),
    ],
)
def test_a_completion_is_read(body: object, read: Completion) -> None:
    assert completion_in(body, {}) == read


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 2}, Usage(3, 2)),
        ({"prompt_tokens": 3.0, "completion_tokens": None}, Usage(3)),
        ({"prompt_tokens": -1, "completion_tokens": 10**30}, Usage()),
        ({"completion_tokens": 2}, Usage(None, 2)),
        ({"prompt_tokens": "3", "completion_tokens": True}, Usage()),
        ({"prompt_tokens": math.nan, "completion_tokens": 2.5}, Usage()),
        ({"prompt_tokens": 2**53, "completion_tokens": 1e300}, Usage()),
        ({"prompt_tokens": 2**24, "completion_tokens": 2**24 + 1}, Usage(2**24)),
        # How much of the total is the answer, it does not say.
        ({"prompt_tokens": 3, "total_tokens": 3}, Usage(3)),
        ({"total_tokens": 9}, Usage()),
        ({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 2**53}, Usage(3, 2)),
        ("none", Usage()),
        (None, Usage()),
        # OpenAI: reasoning is part of the completion.
        (
            {
                "prompt_tokens": 2006,
                "completion_tokens": 300,
                "total_tokens": 2306,
                "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 256},
            },
            Usage(2006, 300, 1920, 256),
        ),
        # DeepSeek
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 20,
                "total_tokens": 120,
                "prompt_cache_hit_tokens": 64,
                "prompt_cache_miss_tokens": 36,
            },
            Usage(100, 20, 64),
        ),
        # xAI: it stands beside it, and is billed.
        (
            {
                "prompt_tokens": 10120,
                "completion_tokens": 1499,
                "total_tokens": 14428,
                "prompt_tokens_details": {"cached_tokens": 128},
                "completion_tokens_details": {"reasoning_tokens": 2809},
            },
            Usage(10120, 1499 + 2809, 128, 2809),
        ),
        # Gemini: it is in the total alone.
        ({"prompt_tokens": 8, "completion_tokens": 9, "total_tokens": 1038}, Usage(8, 1030, 0, 1021)),
        ({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 1, "prompt_tokens_details": 7}, Usage(3, 2)),
        ({"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(3, 2, 3)),
    ],
)
def test_what_is_billed_is_read(said: object, usage: Usage) -> None:
    assert usage_in(said) == usage


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({"prompt_tokens": 2**53}, "prompt_tokens 9007199254740992"),
        ({"prompt_tokens": 2**24, "completion_tokens": 1e300}, "completion_tokens 1e+300"),
        (
            {"completion_tokens": 10**5000, "total_tokens": 2**24 + 1},
            "completion_tokens above 10^40, total_tokens 16777217",
        ),
        ({"prompt_tokens": "9007199254740992", "completion_tokens": -(2**53), "total_tokens": math.nan}, ""),
    ],
)
def test_a_number_beyond_what_a_call_can_use_is_kept_as_text(said: object, shown: str) -> None:
    assert usage_in(said).implausible == shown


def test_a_number_that_python_does_not_read_costs_no_answer() -> None:
    body = json.dumps(completion(usage={"prompt_tokens": 12345, "completion_tokens": 2})).replace("12345", "9" * 5000)
    assert answer_in(200, {}, body.encode()) == Completion("fine", "stop", Usage(None, 2))


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("content", "role", "tool_calls"), JSON)) | JSON, JSON, JSON)
def test_no_oddity_of_a_body_costs_an_answer_or_raises(message: object, reason: object, usage: object) -> None:
    read = completion_in({"choices": [{"message": message, "finish_reason": reason}], "usage": usage}, {})
    assert (read is not None) == (message is None or isinstance(message, dict) or is_used(usage))
    if read is not None:
        assert isinstance(read.text, (str, type(None)))
        assert isinstance(read.finish_reason, (str, type(None)))
        for tokens in (read.usage.prompt_tokens, read.usage.completion_tokens):
            assert tokens is None or 0 <= tokens <= 2**24


# --- streamed completions ---


def delta(content: object = None, finish_reason: object = None, index: object = 0, **rest: object) -> dict[str, object]:
    """Make a chunk of a stream; `rest` goes into its delta."""
    choice = {"index": index, "delta": {"content": content, **rest}, "finish_reason": finish_reason}
    return {"object": "chat.completion.chunk", "choices": [choice]}


def call(index: int, **function: str) -> dict[str, object]:
    return {"index": index, "id": None, "type": None, "function": function}


USED: dict[str, object] = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
STREAM = events(delta("", role="assistant"), delta("fi"), delta("ne 👋"), delta(None, "stop"), USED)


@pytest.mark.parametrize(
    ("stream", "read"),
    [
        (STREAM, Completion("fine 👋", "stop", Usage(3, 2))),
        (STREAM.replace(b"\n", b"\r\n"), Completion("fine 👋", "stop", Usage(3, 2))),
        (STREAM.replace(b"data: ", b"data:"), Completion("fine 👋", "stop", Usage(3, 2))),
        (
            STREAM.replace(b"data: ", b": keep-alive\n\nid: 1\nevent: x\ndata: "),
            Completion("fine 👋", "stop", Usage(3, 2)),
        ),
        (STREAM.removesuffix(b"data: [DONE]\n\n").rstrip(), Completion("fine 👋", "stop", Usage(3, 2))),
        (events(delta("a", "length")), Completion("a", "length")),
        (events(delta("b", "stop", 1), delta("a", "stop"), delta("b", None, 1)), Completion('["a", "bb"]', "stop")),
        (events(delta("a", "stop", None)), Completion("a", "stop")),
        (
            events(delta(None, refusal="I can"), delta(None, "stop", refusal="not")),
            Completion("", "stop", refusal="I cannot"),
        ),
        (events(delta("so", reasoning_content="because"), delta("", "stop")), Completion("so", "stop")),
        (
            events(
                delta(tool_calls=[{**call(0, name="add", arguments=""), "id": "1", "type": "function"}]),
                delta(tool_calls=[call(0, arguments='{"a"'), call(1, name="sub", arguments="{}")]),
                delta(tool_calls=[call(0, arguments=":1}")]),
                delta(None, "tool_calls"),
            ),
            Completion(
                '[{"function": {"arguments": "{\\"a\\":1}", "name": "add"}, "id": "1", "type": "function"},'
                ' {"function": {"arguments": "{}", "name": "sub"}}]',
                "tool_calls",
            ),
        ),
        (events(completion("at once")), Completion("at once", "stop")),
    ],
)
def test_a_stream_reads_as_the_answer_in_one_piece(stream: bytes, read: Completion) -> None:
    folded = Stream()
    folded.add(stream)
    assert folded.answer({}) == read


@given(st.lists(st.integers(0, len(STREAM))))
def test_a_stream_may_be_cut_into_any_parts(cuts: list[int]) -> None:
    folded = Stream()
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(STREAM)], strict=True):
        folded.add(STREAM[start:end])
    assert folded.answer({}) == Completion("fine 👋", "stop", Usage(3, 2))


@given(st.integers(0, len(STREAM)))
def test_a_stream_that_ends_early_is_never_half_an_answer(length: int) -> None:
    folded = Stream()
    folded.add(STREAM[:length])
    answer = folded.answer({})
    if isinstance(answer, Completion):
        assert (answer.text, answer.finish_reason) == ("fine 👋", "stop")
    else:
        assert (answer.fault, answer.status, answer.may_be_billed) == (Fault.PROTOCOL, None, True)
        assert answer.message.startswith("the stream ended before the answer did")


@pytest.mark.parametrize(
    "reason", [None, "", "null", 7], ids=["no reason", "an empty reason", "DashScope's null", "an odd reason"]
)
def test_done_without_a_reason_is_no_end(reason: object) -> None:
    """Relays send it after an answer that broke off, too."""
    assert isinstance(answer_in(200, {}, events(delta("half", reason))), Failure)


@pytest.mark.parametrize(
    ("event", "failure"),
    [
        (error("Sorry"), Failure(Fault.PROTOCOL, "Sorry", may_be_billed=True)),
        (error("Sorry", code=502), Failure(Fault.STATUS, "Sorry", 502, "502", may_be_billed=True)),
        (
            {"object": "error", "message": "Sorry", "code": 400},
            Failure(Fault.STATUS, "Sorry", 400, "400", may_be_billed=True),
        ),
    ],
)
def test_an_error_within_a_stream_is_a_failure(event: object, failure: Failure) -> None:
    assert answer_in(200, {}, events(delta("half"), event, delta("", "stop"))) == failure


@given(st.lists(JSON), JSON, JSON)
def test_no_oddity_of_a_stream_raises(oddities: list[object], choice: object, delta: object) -> None:
    chunks = [{"choices": [choice, {"delta": delta, "finish_reason": choice}], "usage": delta}, *oddities]
    assert isinstance(answer_in(200, {}, events(*chunks)), (Completion, Failure))


# --- waits ---


def date(seconds: float) -> str:
    return email.utils.format_datetime(dt.datetime.fromtimestamp(NOW + seconds, dt.UTC), usegmt=True)


@pytest.fixture
def in_shanghai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Shanghai")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="this system cannot change its time zone")
@pytest.mark.usefixtures("in_shanghai")
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "20"}, 20.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "2m0s"}, 120.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "1"}, 1.0),
        ({"retry-after": date(90)}, 90.0),
        ({"retry-after": date(-90)}, 0.0),
        ({"retry-after": "Tue Nov 14 22:13:50 2023"}, 30.0),  # names no zone: UTC, wherever this runs
        ({"retry-after": "Wed, 15 Nov 2023 06:13:50 +0800"}, 30.0),
        ({"retry-after": "86400"}, 86400.0),
        ({"retry-after": date(90_000)}, 90_000.0),
        ({"retry-after-ms": "86400000"}, 86400.0),
        ({"retry-after": "999999999"}, LONGEST_ASKED_S),  # 31 years
        *(
            ({"retry-after": nonsense}, None)
            for nonsense in ("", "soon", "-5", "nan", "inf", "1e999", "Tue, 99 Foo", "Mon, 01 Jan 99999 00:00:00 GMT")
        ),
    ],
)
def test_retry_after_reads_as_seconds(headers: Mapping[str, str], seconds: float | None) -> None:
    assert wait_in(headers, "", NOW) == seconds


@pytest.mark.parametrize("hour_s", [-3600, 0, 3600])
def test_a_moment_is_by_the_servers_clock_where_it_says_what_time_it_is(hour_s: float) -> None:
    headers = {"date": date(hour_s), "retry-after": date(hour_s + 5), "x-ratelimit-remaining-requests": "0"}
    assert wait_in(headers, "", NOW) == 5.0
    for reset in (str(NOW + hour_s + 5), str(1000 * (NOW + hour_s + 5)), date(hour_s + 5)):
        limits = limits_in({**headers, "x-ratelimit-reset-requests": reset})
        assert limits is not None
        assert limits.requests == Allowance(None, 0.0, 5.0)
    assert wait_in({**headers, "date": "soon", "retry-after": date(5)}, "", NOW) == 5.0
    assert wait_in({**headers, "retry-after": "7"}, "", NOW) == 7.0


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Rate limit reached. Please try again in 8.5s. Visit the site.", 8.5),
        ("Please try again in 8.5 s", 8.5),
        ("Please retry after 20 seconds.", 20.0),
        ("please try again after 1 seconds", 1.0),
        ("Please try again in 6m0s.", 360.0),
        ("Please try again in 1h2m3.5s", 3723.5),
        ("Please try again in 50m3.5s", 3003.5),
        ("retry in 250ms", 0.25),
        ("Retry in 250 milliseconds", 0.25),
        ("try again in 1 minute and 20 seconds", 80.0),
        ("try again in 1 minute, 20 seconds", 80.0),
        ("Please retry after 86400 seconds", 86400.0),
        ("try again in 2 days", 172_800.0),
        ("try again in 24h0m0s", 86400.0),
        ("try again in 400 days", None),
        ("please wait a moment and try again", None),
        ("created within the last 5 minutes", None),
        ("retry in 3 miles", None),
        ("try again in s", None),
        ("x" * 500 + " retry in 1s", None),  # far below is perhaps the prompt
    ],
)
def test_a_wait_may_stand_in_the_message(message: str, seconds: float | None) -> None:
    assert wait_in({}, message, NOW) == seconds
    assert wait_in({"retry-after": "7"}, message, NOW) == 7.0


pieces = [
    "Mon,",
    "01",
    "Jan",
    "0",
    "24",
    "9999",
    "00:00:00",
    "99:99",
    "+99",
    "GMT",
    "-0000",
    "again in ",
    "5",
    "m",
    "ms",
]
words = st.text() | st.lists(st.sampled_from(pieces)).map(" ".join) | st.lists(st.sampled_from(pieces)).map("".join)


@given(words, words, words)
def test_nonsense_is_no_wait_and_no_error(seconds: str, millis: str, message: str) -> None:
    asked = wait_in({"retry-after": seconds, "retry-after-ms": millis}, message, NOW)
    assert asked is None or 0 <= asked <= YEAR_S


# --- limits ---


def stated(remaining: str = "9", reset: str | None = None, limit: str = "10") -> Allowance | None:
    """Return what is read of a limit of requests, as OpenAI names the headers."""
    headers = {"x-ratelimit-limit-requests": limit, "x-ratelimit-remaining-requests": remaining}
    limits = limits_in(headers if reset is None else {**headers, "x-ratelimit-reset-requests": reset})
    return limits and limits.requests


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        (None, None),
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("250ms", 0.25),
        ("1h2m3s", 3723.0),
        ("2m59.56s", 179.56),
        ("1d2h", 93600.0),
        ("0s", 0.0),
        ("33011.382867", 33011.382867),
        ("60", 60.0),
        ("12:30", None),
        ("soon", None),
        ("", None),
        ("-1", None),
        ("6m0", None),
    ],
)
def test_the_time_until_a_limit_is_whole_is_read(reset: str | None, seconds: float | None) -> None:
    assert stated(reset=reset) == Allowance(10.0, 9.0, seconds)


@pytest.mark.parametrize("spelling", ["{s:.0f}", "{ms:.0f}", "{iso}", "{http}"])
def test_a_limit_may_name_the_moment_at_which_it_is_whole(spelling: str) -> None:
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    seconds = moment.timestamp()
    http_date = email.utils.format_datetime(moment, usegmt=True)
    spelt = spelling.format(s=seconds, ms=seconds * 1000, iso=moment.isoformat(), http=http_date)
    allowance = stated(reset=spelt)
    assert allowance is not None
    assert allowance.reset_s is not None
    assert 3590 < allowance.reset_s <= 3601
    assert stated(reset=spelling.format(s=1.7e9, ms=1.7e12, iso="2023-11-14T22:13:20Z", http=date(0))) == Allowance(
        10.0, 9.0, 0.0
    )


REQUESTS, TOKENS = Allowance(10.0, 9.0, 1.0), Allowance(200.0, 150.0, 60.0)
TEN = {"limit": "10", "remaining": "9", "reset": "1"}
TWO_HUNDRED = {"limit": "200", "remaining": "150", "reset": "60"}


def named(family: str, values: Mapping[str, str]) -> dict[str, str]:
    return {family.format(kind): value for kind, value in values.items()}


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        ({}, None),
        ({"x-request-id": "1", "date": "x"}, None),
        (
            named("x-ratelimit-{}-requests", TEN) | named("x-ratelimit-{}-tokens", TWO_HUNDRED),
            ServerLimits(REQUESTS, TOKENS),
        ),
        (named("x-ratelimit-{}-tokens", TWO_HUNDRED), ServerLimits(None, TOKENS)),
        # Mistral names no reset, Azure at times neither limit nor reset.
        (
            {"x-ratelimit-limit-req-minute": "720", "x-ratelimit-remaining-req-minute": "717"},
            ServerLimits(Allowance(720.0, 717.0, None), None),
        ),
        ({"x-ratelimit-remaining-requests": "19"}, ServerLimits(Allowance(None, 19.0, None), None)),
        (named("x-ratelimit-{}-tokens-minute", TWO_HUNDRED), ServerLimits(None, TOKENS)),
        (named("x-ratelimit-{}", TEN), ServerLimits(REQUESTS, None)),
        (named("ratelimit-{}", TEN | {"limit": "10, 10;w=1"}), ServerLimits(REQUESTS, None)),
        ({"x-ratelimit-remaining-requests": "-1"}, ServerLimits(Allowance(None, None, None), None)),
    ],
)
def test_the_limits_that_a_server_states_are_read(headers: dict[str, str], limits: ServerLimits | None) -> None:
    assert limits_in(headers) == limits
    answers: list[Any] = [
        answer_in(200, headers, raw(completion())),
        answer_in(200, headers, STREAM),
        answer_in(200, headers, STREAM[:90]),
        answer_in(429, headers, b""),
        answer_in(200, headers, raw(completion(finish_reason="abort"))),
    ]
    assert [answer.limits for answer in answers] == [limits] * len(answers)


@given(words, words, words)
def test_nonsense_is_no_limit_and_no_error(limit: str, remaining: str, reset: str) -> None:
    allowance = stated(remaining, reset, limit)
    assert allowance is not None
    assert all(value is None or (value >= 0 and math.isfinite(value)) for value in allowance)


# --- keys ---


def test_a_key_stands_in_nothing_that_a_response_says() -> None:
    message = {"content": f"it is {KEY}", "refusal": f"no {KEY}"}
    told = {"choices": [{"message": message, "finish_reason": f"stop {KEY}"}]}
    calls = {"choices": [{"message": {"content": None, "tool_calls": [{"function": {"arguments": KEY}}]}}]}
    streamed = {"choices": [{"index": 0, "delta": message, "finish_reason": KEY}]}
    called = {"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"name": KEY}}]}, "finish_reason": "x"}]}
    raws = [json.dumps(each).encode() for each in (told, calls)]
    raws += [f"data: {json.dumps(each)}\n\n".encode() for each in (streamed, called)]
    for raw in raws:
        completion = answer_in(200, {}, raw, [KEY])
        assert isinstance(completion, Completion)
        assert KEY not in repr(completion)
        assert "[API key]" in repr(completion)


def test_a_reason_is_one_short_line() -> None:
    body = {"choices": [{"message": {"content": "x"}, "finish_reason": "so\n" * 1000}]}
    completion = answer_in(200, {}, json.dumps(body).encode())
    assert isinstance(completion, Completion)
    assert completion.finish_reason is not None
    assert completion.finish_reason.isprintable()
    assert len(completion.finish_reason) < 100


def test_a_line_of_a_stream_is_read_however_it_is_cut() -> None:
    raw = b'data: {"choices": [{"index": 0, "delta": {"content": "fine"}, "finish_reason": "stop"}]}\n\ndata: [DONE]'
    for size in (1, 3, 50, 500):
        stream = Stream()
        for at in range(0, len(raw), size):
            stream.add(raw[at : at + size])
        assert stream.answer({}) == Completion("fine", "stop")

"""What an error object says is read whole, and what it repeats of the question decides nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.calls.dialect import answer_in
from batcher.calls.error_bodies import failure_in, without_echo
from batcher.records import Failure

OWN = "my card was declined: insufficient balance"


def refusal(body: object, status: int = 400, **headers: str) -> Failure:
    raw = body if isinstance(body, (bytes, str)) else json.dumps(body, ensure_ascii=False)
    return failure_in(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def error(message: object, **rest: object) -> dict[str, Any]:
    return {"error": {"message": message, **rest}}


# --- codes ---


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        (error("no", code="rate_limit_exceeded", type="tokens"), ("rate_limit_exceeded", "tokens")),
        (error("no", code=None, type="insufficient_quota"), ("insufficient_quota",)),
        (error("no", code="401") | {"status": 401}, ("401",)),
        (error("no", code="None", type=None), ()),
        (
            [error("no", code=400, status="INVALID_ARGUMENT", details=[{"@type": "x", "reason": "API_KEY_INVALID"}])],
            ("400", "invalid_argument", "api_key_invalid"),
        ),
        (
            [error("no", code=429, details=[{"violations": [{"quotaId": "PerDay"}]}, {"retryDelay": "3s"}])],
            ("429", "perday"),
        ),
        (error("no", code=412, metadata={"error_type": "precondition_failed"}), ("412", "precondition_failed")),
        (
            error("no", code=429, metadata={"raw": '{"error": {"code": "insufficient_quota", "message": "m"}}'}),
            ("429", "insufficient_quota"),
        ),
        (error("no", code="content_filter", innererror={"code": "Policy"}), ("content_filter", "policy")),
        ({"type": "error", "error": {"type": "billing", "details": {"error_code": "limit"}}}, ("billing", "limit")),
        ({"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, ("1008",)),
        ({"error_code": 18, "error_msg": "qps"}, ("18",)),
        ({"Response": {"Error": {"Code": "RequestLimitExceeded", "Message": "m"}}}, ("requestlimitexceeded",)),
        ({"ResponseMetadata": {"Error": {"Code": "Denied", "Message": "m"}}}, ("denied",)),
        ({"code": 11202, "message": "second level limit", "sid": "x"}, ("11202",)),
        ({"code": "permission-denied", "error": "Content violates"}, ("permission-denied",)),
        ({"errors": [{"code": 10000, "message": "Authentication error"}], "success": False}, ("10000",)),
        ({"choices": [{"message": {}, "error": {"code": 429, "message": "m"}}]}, ("429",)),
        ({"fault": {"faultstring": "m", "detail": {"errorcode": "QuotaViolation"}}}, ("quotaviolation",)),
        (
            {"detail": [{"type": "missing", "msg": "m", "input": {"code": "mine"}, "ctx": {"code": "mine"}}]},
            ("missing",),
        ),
        (error("no", code=True, type={"a": 1}), ()),
        ("<html>", ()),
    ],
)
def test_all_codes_are_read_the_most_precise_first(body: object, codes: tuple[str, ...]) -> None:
    assert refusal(body).codes == codes


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"detail": {"error": "Model busy"}}, "Model busy"),
        ({"base_resp": {"status_code": 1004, "status_msg": "not authorized"}}, "not authorized"),
        ({"error_code": 18, "error_msg": "qps limit"}, "qps limit"),
        ({"Response": {"Error": {"Code": "x", "Message": "频率限制"}}}, "频率限制"),
        ({"status": 429, "title": "Too Many Requests"}, "Too Many Requests"),
        ({"status": 403, "title": "Forbidden", "detail": "Authorization failed"}, "Authorization failed"),
        ('"Invalid token"', "Invalid token"),
        (error("outer", detail={"message": "inner"}), "outer"),
        ({"message": "outer", "error": {"message": "inner"}}, "inner"),
    ],
)
def test_the_message_is_found_in_every_dialect(body: object, message: str) -> None:
    failure = refusal(body)
    assert failure.message == message
    assert failure.words == message.lower()


@pytest.mark.parametrize(
    ("body", "status", "code", "is_billed"),
    [
        ({"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, None, "1002", False),
        ({"choices": None, "base_resp": {"status_code": 1026, "status_msg": "input"}}, None, "1026", False),
        ({"error_code": 18, "error_msg": "qps"}, None, "18", False),
        ({"Response": {"Error": {"Code": "Limit", "Message": "m"}}}, None, "Limit", False),
        ({"code": 11202, "message": "limit"}, None, "11202", False),
        ({"choices": [{"message": {"content": ""}, "error": {"code": 429, "message": "m"}}]}, 429, "429", False),
        ({"choices": [{"message": {"content": "half"}, "error": {"code": 502, "message": "m"}}]}, 502, "502", True),
        (error("m", code="x") | {"usage": {"total_tokens": 3}}, None, "x", True),
        ({"code": 200, "msg": "success", "data": {}}, None, "200", True),
        ({"message": {"role": "assistant", "content": "fine"}}, None, None, True),
    ],
)
def test_an_error_under_200_was_billed_only_if_an_answer_stands_beside_it(
    body: object, status: int | None, code: str | None, is_billed: bool
) -> None:
    failure = answer_in(200, {}, json.dumps(body).encode())
    assert isinstance(failure, Failure)
    assert (failure.status, failure.code, failure.may_be_billed) == (status, code, is_billed)


# --- words ---


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Insufficient Balance", "insufficient balance"),
        (f"duplicate document ID '{OWN}' at index 1 and 0", "duplicate document id at index 1 and 0"),
        (f'duplicate "{OWN}" here', "duplicate here"),
        (f'duplicate "he said \\"{OWN}\\" twice" here', "duplicate here"),
        (f"duplicate `{OWN}` here", "duplicate here"),
        (f"duplicate \u201c{OWN}\u201d here", "duplicate here"),
        (f"duplicate \u2018{OWN}\u2019 here", "duplicate here"),
        ("输入「账户余额不足」无效", "输入 无效"),
        ("duplicate 'it isn't my insufficient balance' here", "duplicate here"),
        (f"cut in the middle of '{OWN}", "cut in the middle of"),
        ("You don't have access to the users' models", "you don't have access to the users' models"),
        ("The model 'm-1' does not exist", "the model does not exist"),
        (
            f"1 validation error\n  Input should be a string [type=s, input_value={{'text': {OWN!r}}}, input_type=d]",
            "1 validation error input should be a string [type=s, , input_type=d]",
        ),
        (f"no such thing, input: {OWN}", "no such thing,"),
        ("Invalid prompt: your prompt was flagged", "invalid prompt: your prompt was flagged"),
    ],
)
def test_what_a_message_quotes_is_not_among_its_words(message: str, words: str) -> None:
    failure = refusal(error(message))
    assert failure.words == words
    assert failure.message == " ".join(message.split())


def test_fields_that_repeat_the_request_are_not_among_the_words() -> None:
    item = {
        "type": "string_type",
        "loc": ["body", OWN],
        "msg": "Input should be valid",
        "input": OWN,
        "ctx": {"x": OWN},
    }
    assert refusal({"detail": [item, item]}, 422).words == "input should be valid input should be valid"
    flagged = error("Your input was flagged", code=403, metadata={"flagged_input": OWN, "reasons": [OWN]})
    assert refusal(flagged, 403).words == "your input was flagged"


def test_the_words_of_an_upstream_are_among_them() -> None:
    raw = json.dumps(error("Insufficient Balance"))
    assert refusal(error("Provider returned error", metadata={"raw": raw})).words == (
        "provider returned error insufficient balance"
    )
    assert refusal(error("Provider returned error", metadata={"raw": "m is rate-limited upstream"})).words == (
        "provider returned error m is rate-limited upstream"
    )


def test_words_are_bounded() -> None:
    assert len(refusal(error("word " * 10_000)).words or "") <= 1000


@pytest.mark.parametrize(
    ("message", "content", "words"),
    [
        (f"Rejected: {OWN} is not allowed", f"Classify: {OWN}", "rejected is not allowed"),
        ("rejected: 账户余额不足", [{"type": "text", "text": "我的账户余额不足"}], "rejected:"),
        ("insufficient balance", "something else", "insufficient balance"),
        ("Insufficient Balance", None, "insufficient balance"),
        (f"Rejected: {OWN[:30]}...", OWN, "rejected: ..."),
        ("no such model", "is it no?", "no such model"),
    ],
)
def test_what_a_server_repeats_without_quotes_is_not_among_the_words(message: str, content: Any, words: str) -> None:
    failure = without_echo(refusal(error(message)), [{"role": "user", "content": content}])
    assert failure.words == words
    assert failure.message == message


@given(st.text(min_size=8), st.text("ab ", max_size=20), st.text("ab ", max_size=20))
def test_no_repeated_question_is_left_in_the_words(content: str, before: str, after: str) -> None:
    messages = [{"role": "user", "content": content}]
    words = without_echo(refusal(error(f"{before}{content}{after}")), messages).words
    asked = " ".join(content.lower().split())
    assert len(asked) < 8 or asked not in (words or "")


def test_a_long_question_is_compared_within_a_bound() -> None:
    failure = refusal(error("far down: insufficient balance"))
    long = "x" * 20_000
    for content, words in (
        (f"{long} insufficient balance {long}", "far down: insufficient balance"),
        (f"insufficient balance {long}", "far down:"),
        (f"{long} insufficient balance", "far down:"),
    ):
        assert without_echo(failure, [{"role": "user", "content": content}]).words == words


# --- the kind of a body, and whether to try again ---


@pytest.mark.parametrize(
    ("body", "is_page"),
    [
        ("<!DOCTYPE html><title>Attention Required!</title>", True),
        ("default backend - 404", True),
        ("", True),
        ("null", True),
        ("[]", True),
        ('"Forbidden"', False),
        (error("no"), False),
        ([error("no")], False),
        ({"detail": "Not Found"}, False),
        ({"status": 429}, False),
    ],
)
def test_a_body_that_is_no_error_object_is_a_page(body: object, is_page: bool) -> None:
    assert refusal(body).is_page == is_page
    assert refusal(body, 200).is_page is False


@pytest.mark.parametrize(("value", "is_final"), [("false", True), (" False", True), ("true", False), ("", False)])
def test_a_server_may_ask_not_to_try_again(value: str, is_final: bool) -> None:
    assert refusal(error("no"), x_should_retry=value).is_final == is_final


NAMES = [
    "error",
    "errors",
    "message",
    "code",
    "type",
    "detail",
    "details",
    "metadata",
    "raw",
    "base_resp",
    "status_code",
]
NAMES += [
    "status_msg",
    "Response",
    "Error",
    "choices",
    "delta",
    "content",
    "retry_after",
    "headers",
    "violations",
    "usage",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.sampled_from([200, 400, 429]))
def test_no_oddity_of_an_error_raises(body: object, status: int) -> None:
    answer = answer_in(status, {}, json.dumps(body).encode())
    if isinstance(answer, Failure):
        assert all(code and code == code.lower() for code in answer.codes)
        assert answer.retry_after is None or answer.retry_after >= 0
        without_echo(answer, [{"role": "user", "content": body}])

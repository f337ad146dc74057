"""Every failure has one fate by itself, whatever service sent it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.calls.dialect import answer_in
from batcher.calls.fate import Fate, Meaning, meaning_of
from batcher.calls.services import SERVICES
from batcher.records import Failure, Fault

AGAIN, WAIT, ROW_ENDS, ROW, ENDPOINT, OUT = Fate

TABLE = Path(__file__).parents[2] / "shared" / "data" / "dialects.jsonl"
NO_MONEY = "You exceeded your current quota, please check your plan and billing details."


def status(number: int, message: str = "", code: str | None = None) -> Failure:
    return Failure(Fault.STATUS, message, number, code)


def page(number: int) -> Failure:
    return Failure(Fault.STATUS, "<html><title>Blocked</title></html>", number, words="", is_page=True)


@pytest.mark.parametrize(
    ("failure", "fate", "said"),
    [
        # The endpoint is of no use to any row, and no wait helps.
        (status(429, "Your account is not active", "billing_not_active"), OUT, "the account is closed or empty"),
        (status(429, "no", "project_spend_limit_exceeded"), OUT, "the account is closed or empty"),
        (status(400, "Access denied.", "Arrearage"), OUT, "the account is closed or empty"),
        (status(422, "Budget has been exceeded!", "budget_exceeded"), OUT, "the account is closed or empty"),
        (Failure(Fault.PROTOCOL, "insufficient balance", code="1008"), OUT, "the account is closed or empty"),
        (Failure(Fault.UNREACHABLE, "the host name is unknown"), OUT, "the service cannot be reached"),
        # The endpoint is of no use to any row, if it says the same to others.
        (status(401, "Incorrect API key provided"), ENDPOINT, "the API key was refused"),
        (status(400, "API key not valid.", "API_KEY_INVALID"), ENDPOINT, "the API key was refused"),
        (status(402, "Insufficient Balance"), ENDPOINT, "no quota is left"),
        (status(429, NO_MONEY, "insufficient_quota"), ENDPOINT, "no quota is left"),
        (status(429, NO_MONEY.upper()), ENDPOINT, "no quota is left"),
        (status(429, "no (request id: 2026x)", "billing_not_active"), ENDPOINT, "no quota is left"),
        (status(412, "Account x is suspended, possibly due to reaching a limit"), ENDPOINT, "no quota is left"),
        (status(403, "Country not supported"), ENDPOINT, "access was refused"),
        (status(403, "Your account was flagged for suspicious activity"), ENDPOINT, "access was refused"),
        (status(403, "Your organization is under moderation review"), ENDPOINT, "access was refused"),
        (status(403, "You are not authorized to discuss this topic"), ENDPOINT, "access was refused"),
        (
            status(404, "The model `m` does not exist", "model_not_found"),
            ENDPOINT,
            "the model or the base URL is unknown",
        ),
        (page(404), ENDPOINT, "the model or the base URL is unknown"),
        (status(405), ENDPOINT, "takes no chat requests"),
        (status(407), ENDPOINT, "the proxy wants a user and a password"),
        (status(410, "retired"), ENDPOINT, "the model or the base URL is unknown"),
        (status(301), ENDPOINT, "the base URL leads elsewhere"),
        (status(307), ENDPOINT, "the base URL leads elsewhere"),
        (status(400, "Model Not Exist"), ENDPOINT, "the model is unknown there"),
        (status(400, "No models loaded. Please load a model"), ENDPOINT, "the model is unknown there"),
        (page(401), ENDPOINT, "the API key was refused"),
        # The row is of no use to any endpoint.
        (status(400, "maximum context length is 8192 tokens", "context_length_exceeded"), ROW_ENDS, "too long"),
        (status(403, "must be less than the context length of the model"), ROW_ENDS, "too long"),
        (status(413), ROW_ENDS, "too long"),
        (status(429, "Request too large on tokens per min: Limit 3, Requested 4."), ROW_ENDS, "too long"),
        (status(400, "Output data may contain inappropriate content", "DataInspectionFailed"), ROW_ENDS, "content"),
        (status(403, "your input was flagged"), ROW_ENDS, "the content was refused"),
        (status(403, "Content violates usage guidelines.", "permission-denied"), ROW_ENDS, "the content was refused"),
        (Failure(Fault.PROTOCOL, "input new_sensitive", code="1026"), ROW_ENDS, "the content was refused"),
        (Failure(Fault.TOO_LONG, "it has more than 64 MB"), ROW_ENDS, "the response is too long"),
        (Failure(Fault.OTHER, "KeyError: 'x'"), ROW_ENDS, "the call failed"),
        # More likely the row's fault.
        (status(400, "temperature should not exceed 2"), ROW, "the request was refused"),
        (status(400, "parameter names are case sensitive"), ROW, "the request was refused"),
        (status(400, "content_filter is not supported by this model"), ROW, "the request was refused"),
        (status(400, "Unknown parameter: context_length"), ROW, "the request was refused"),
        (status(400), ROW, "the request was refused"),
        (status(422), ROW, "the request was refused"),
        (page(400), ROW, "not in the API's words"),
        (page(403), ROW, "not in the API's words"),
        (page(405), ROW, "not in the API's words"),
        (Failure(Fault.STATUS, "down", 500, is_final=True), ROW, "asks not to try again"),
        # It may go well the next time.
        (status(429, "Rate limit reached for gpt-4o"), WAIT, "rate limited"),
        (status(429), WAIT, "rate limited"),
        (status(429, "Requests per minute must not exceed 60"), WAIT, "rate limited"),
        (status(429, "Rate limit: remaining 0, limit: 0, reset in 3s"), WAIT, "rate limited"),
        (Failure(Fault.STATUS, "Quota will be replenished in 00:12:34", 403, retry_after=754), WAIT, "rate limited"),
        (Failure(Fault.PROTOCOL, "rate limit exceeded(RPM)", code="1002"), WAIT, "rate limited"),
        (status(408), AGAIN, "the server asked to try again"),
        (status(409), AGAIN, "the server asked to try again"),
        (status(424), AGAIN, "the server asked to try again"),
        (status(498, "Flex tier capacity exceeded"), AGAIN, "the server asked to try again"),
        (status(499), AGAIN, "the server asked to try again"),
        (status(400, "bad response status code 400", "bad_response_status_code"), AGAIN, "asked to try again"),
        (status(500), AGAIN, "the server failed"),
        (status(502), AGAIN, "the server failed"),
        (page(502), AGAIN, "the server failed"),
        (status(503, NO_MONEY), AGAIN, "the server failed"),
        (status(529, "overloaded_error"), AGAIN, "the server failed"),
        (Failure(Fault.TIMEOUT, "nothing came within 2 s"), AGAIN, "no answer in time"),
        (Failure(Fault.CONNECTION, "refused"), AGAIN, "the connection failed"),
        (Failure(Fault.PROTOCOL, "<html>"), AGAIN, "the answer was no chat completion"),
        (Failure(Fault.MIXED_UP, "it names another"), AGAIN, "the response belongs to another request"),
    ],
)
def test_a_failure_has_this_fate(failure: Failure, fate: Fate, said: str) -> None:
    assert meaning_of(failure).fate is fate
    assert said in meaning_of(failure).reason


@pytest.mark.skipif(not TABLE.exists(), reason="the table of answers is not at hand")
def test_each_answer_of_the_shared_table_has_its_fate() -> None:
    """A refusal counts for the more likely of the two; in mid-run either of them only makes the row wait."""
    right: dict[str, set[Any]] = {
        "again": {AGAIN},
        "wait": {WAIT},
        "row_ends": {ROW_ENDS, ROW},
        "endpoint_out": {OUT, ENDPOINT},
        "answer": {"answer"},
    }
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        body = case["body"] if isinstance(case["body"], str) else json.dumps(case["body"])
        headers = {name.lower(): value for name, value in case["headers"].items()}
        came = answer_in(case["status"], headers, body.encode())
        found = meaning_of(came).fate if isinstance(came, Failure) else "answer"
        wanted = right[case["right_fate"]] | ({ROW, ENDPOINT} if case["when"] == "mid-run" else set())
        assert found in wanted, f"{case['provider']}: {case['name']}"


@pytest.mark.parametrize("said", ["'insufficient balance on my card'", "余额不足", "your input was flagged"])
def test_what_a_failure_quotes_is_not_searched(said: str) -> None:
    quoted = Failure(Fault.STATUS, f"invalid document ID {said}", 400, words="invalid document id")
    assert meaning_of(quoted) == Meaning(ROW, "the request was refused")


GROUPS = {
    "closed": {OUT},
    "empty_account": {ENDPOINT},
    "throttle": {WAIT},
    "unknown_model": {ENDPOINT},
    "wrong_key": {ENDPOINT},
    "filtered": {ROW_ENDS},
    "too_long": {ROW_ENDS},
}


@pytest.mark.parametrize(
    ("group", "word"),
    sorted({(group, word) for service in SERVICES.values() for group in GROUPS for word in getattr(service, group)}),
)
def test_each_word_of_a_service_means_what_its_column_says(group: str, word: str) -> None:
    number = 429 if group == "throttle" else 400
    assert meaning_of(Failure(Fault.STATUS, word, number, word, codes=(word.lower(),))).fate in GROUPS[group]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (429, "insufficient_quota"),
        (429, "exceeded your current quota"),
        (429, "exceeded_current_quota_error"),
        (429, "1113: Your account is in arrears"),
        (429, "欠费"),
        (429, "PrepaidBillOverdue"),
        (429, "CommodityNotPurchased"),
        (429, "Free allocated quota exceeded"),
        (429, "limit: 0, model: m"),
        (400, "Insufficient Balance"),
        (403, "insufficient_balance"),
        (403, "Your balance is insufficient"),
        (403, "insufficient_user_quota"),
        (403, "AllocationQuota.FreeTierOnly"),
        (403, "余额不足"),
        (400, "billing_hard_limit_reached"),
        (400, "Billing hard limit has been reached"),
    ],
)
@pytest.mark.parametrize("is_code", [False, True])
def test_an_empty_account_is_known_in_every_dialect(number: int, said: str, *, is_code: bool) -> None:
    meaning = meaning_of(status(number, code=said) if is_code else status(number, said))
    assert meaning.fate in {OUT, ENDPOINT}
    assert meaning.reason in {"no quota is left", "the account is closed or empty"}


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (f"{NO_MONEY} For details, see: https://a.b/error-code#token-limit", "insufficient_quota"),
        (f"{NO_MONEY} For details, see: https://a.b/error-code#rate-limit", "insufficient_quota"),
        (NO_MONEY, "Throttling.AllocationQuota"),
        (NO_MONEY, "RESOURCE_EXHAUSTED"),
        (f"{NO_MONEY} Please retry in 17.3s.", None),
        (f"{NO_MONEY} Please retry after 20 seconds.", None),
        (f"{NO_MONEY} Please try again in 6m0s.", None),
        (f"{NO_MONEY} Please try again after 1 seconds.", None),
    ],
)
def test_a_rate_limit_is_no_empty_account_though_it_says_so(said: str, code: str | None) -> None:
    failure = status(429, said, code)
    assert meaning_of(failure) == Meaning(WAIT, "rate limited")


@pytest.mark.parametrize(
    "said",
    [
        "model_not_found",
        "Model Not Exist",
        "model_not_exist",
        "Model does not exist",
        "Unknown model",
        "does not exist or you do not have access",
        "模型不存在",
    ],
)
def test_an_unknown_model_is_known_in_every_dialect(said: str) -> None:
    assert (
        meaning_of(status(400, said)).reason
        == meaning_of(status(400, code=said)).reason
        == "the model is unknown there"
    )


@pytest.mark.parametrize("said", ["Your input was flagged", "requires moderation", "content_policy_violation"])
def test_a_row_that_a_filter_refuses_does_not_cost_the_endpoint(said: str) -> None:
    assert meaning_of(status(403, said)).fate is ROW_ENDS
    assert meaning_of(status(403, code="content_filter")).fate is ROW_ENDS


@pytest.mark.parametrize("number", range(300, 600))
def test_every_status_has_a_fate_of_its_class(number: int) -> None:
    fate = meaning_of(status(number)).fate
    if number in {408, 409, 424, 425, 498, 499} or number >= 500:
        assert fate is AGAIN
    elif number == 429:
        assert fate is WAIT
    elif number < 400 or number in {401, 402, 403, 404, 405, 407, 410}:
        assert fate is ENDPOINT
    else:
        assert fate is (ROW_ENDS if number in {413, 414, 431} else ROW)


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_has_a_fate(fault: Fault) -> None:
    assert meaning_of(Failure(fault, "x")).reason


@given(st.integers(0, 599), st.text(), st.none() | st.text(), st.floats(0, 1e9), st.booleans())
def test_whatever_a_server_says_it_has_a_meaning(
    number: int, message: str, code: str | None, asked: float, is_page: bool
) -> None:
    failure = Failure(Fault.STATUS, message, number or None, code, asked, is_page=is_page)
    assert meaning_of(failure).reason

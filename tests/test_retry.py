"""Every failure has one fate, and every wait has bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.calls.retry import (
    FIRST_WAIT_S,
    LONGEST_WAIT_S,
    Decision,
    Fate,
    Policy,
    Record,
    backoff,
    decide,
    is_rate_limit,
)
from batcher.records import Failure, Fault
from batcher.settings import Settings

AGAIN, ROW_ENDS, OUT = Fate.AGAIN, Fate.ROW_ENDS, Fate.ENDPOINT_OUT
POLICY = Policy(max_attempts=6, deadline=1800.0)

RATE_LIMIT = Failure(Fault.STATUS, "slow down", 429)
OVERLOAD = Failure(Fault.STATUS, "overloaded", 503)
NO_MONEY = "You exceeded your current quota, please check your plan and billing details."

jitters = st.floats(0, 1, exclude_max=True)


def status(number: int, message: str = "", code: str | None = None) -> Failure:
    return Failure(Fault.STATUS, message, number, code)


def fate_of(failure: Failure) -> Decision:
    """Decide about a row's first failure."""
    return decide(failure, Record().after(failure, 1.0), POLICY, 0.5)


@pytest.mark.parametrize(
    ("failure", "fate", "said"),
    [
        # The endpoint is of no use to any row.
        (status(401, "Incorrect API key provided"), OUT, "the API key was refused: HTTP 401: Incorrect API key"),
        (status(402, "Insufficient Balance"), OUT, "no quota is left"),
        (status(403, "Country not supported"), OUT, "access was refused"),
        (status(404, "The model `m` does not exist", "model_not_found"), OUT, "the model or the base URL is unknown"),
        (status(405), OUT, "takes no chat requests"),
        (status(410, "retired"), OUT, "the model or the base URL is unknown"),
        (status(301), OUT, "the base URL leads elsewhere"),
        (status(307), OUT, "the base URL leads elsewhere"),
        (status(400, "Model Not Exist"), OUT, "the model is unknown there"),
        (status(400, "Access denied.", "Arrearage"), OUT, "no quota is left"),
        (status(429, NO_MONEY, "insufficient_quota"), OUT, "no quota is left"),
        (status(429, NO_MONEY.upper()), OUT, "no quota is left"),
        # The row is at fault, or no retry can help.
        (status(400, "maximum context length is 8192 tokens", "context_length_exceeded"), ROW_ENDS, "was refused"),
        (status(400, "Output data may contain inappropriate content", "DataInspectionFailed"), ROW_ENDS, "was refused"),
        (status(403, "your input was flagged"), ROW_ENDS, "the content was refused"),
        (status(413), ROW_ENDS, "the request was refused"),
        (status(422), ROW_ENDS, "the request was refused"),
        (Failure(Fault.TOO_LONG, "it has more than 64 MB"), ROW_ENDS, "the response is too long"),
        (Failure(Fault.OTHER, "KeyError: 'x'"), ROW_ENDS, "the call failed: KeyError: 'x'"),
        # It may go well the next time.
        (status(429, "Rate limit reached for gpt-4o"), AGAIN, "rate limited"),
        (status(429), AGAIN, "rate limited"),
        (status(408), AGAIN, "the server asked to try again"),
        (status(409), AGAIN, "the server asked to try again"),
        (status(500), AGAIN, "the server failed"),
        (status(502), AGAIN, "the server failed"),
        (status(503, NO_MONEY), AGAIN, "the server failed"),
        (status(529, "overloaded_error"), AGAIN, "the server failed"),
        (Failure(Fault.TIMEOUT, "nothing came within 2 s"), AGAIN, "no answer in time: nothing came"),
        (Failure(Fault.CONNECTION, "refused"), AGAIN, "the connection failed"),
        (Failure(Fault.UNREACHABLE, "a certificate"), OUT, "the service cannot be reached"),
        (Failure(Fault.PROTOCOL, "<html>"), AGAIN, "the answer was no chat completion"),
        (Failure(Fault.MIXED_UP, "it names another"), AGAIN, "the response belongs to another request"),
    ],
)
def test_a_failure_has_this_fate(failure: Failure, fate: Fate, said: str) -> None:
    decision = fate_of(failure)
    assert decision.fate is fate
    assert said in decision.reason
    assert decision.reason == f"{decision.short}: {failure}"
    assert not decision.gave_up


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
    decision = fate_of(status(number, code=said) if is_code else status(number, said))
    assert (decision.fate, decision.short) == (OUT, "no quota is left")


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
    assert (fate_of(failure).fate, fate_of(failure).short) == (AGAIN, "rate limited")
    assert Record().after(failure, 1.0).attempts == 0


def test_a_request_that_no_minute_can_take_is_not_tried_for_ever() -> None:
    too_large = status(429, "Request too large on tokens per min: Limit 30000, Requested 30601.", "rate_limit_exceeded")
    assert fate_of(too_large).fate is ROW_ENDS
    assert Record().after(too_large, 1.0).attempts == 1


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
    assert fate_of(status(400, said)).short == fate_of(status(400, code=said)).short == "the model is unknown there"


@pytest.mark.parametrize("said", ["Your input was flagged", "requires moderation", "content_filter", "content_policy"])
def test_a_row_that_a_filter_refuses_does_not_cost_the_endpoint(said: str) -> None:
    assert fate_of(status(403, said)).fate is ROW_ENDS


@pytest.mark.parametrize("number", range(300, 600))
def test_every_status_has_a_fate_of_its_class(number: int) -> None:
    fate = fate_of(status(number)).fate
    if number in {408, 409, 425, 429} or number >= 500:
        assert fate is AGAIN
    elif number < 400 or number in {401, 402, 403, 404, 405, 407, 410}:
        assert fate is OUT
    else:
        assert fate is ROW_ENDS


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_has_a_fate(fault: Fault) -> None:
    assert fate_of(Failure(fault, "x")).short


@given(st.integers(0, 599), st.text(), st.none() | st.text(), st.floats(0, 1e9), jitters)
def test_whatever_a_server_says_there_is_a_decision(
    number: int, message: str, code: str | None, asked: float, jitter: float
) -> None:
    failure = Failure(Fault.STATUS, message, number or None, code, asked)
    decision = decide(failure, Record().after(failure, 1.0), POLICY, jitter)
    assert (decision.wait_s > 0) == (decision.fate is AGAIN and not is_rate_limit(failure))


# --- how long a row is tried ---


def tried(policy: Policy, *failures: tuple[Failure, float]) -> Decision:
    """Return the decision about the last of some failures of a row."""
    record = Record()
    for failure, seconds in failures:
        record = record.after(failure, seconds)
    return decide(failures[-1][0], record, policy, 0.5)


def test_the_last_attempt_ends_the_row() -> None:
    assert tried(POLICY, *[(OVERLOAD, 1.0)] * 5).fate is AGAIN
    last = tried(POLICY, *[(OVERLOAD, 1.0)] * 6)
    assert (last.fate, last.gave_up) == (ROW_ENDS, True)
    assert last.reason == "the server failed: HTTP 503: overloaded; gave up after 6 attempts, 6 s in flight"


def test_the_deadline_ends_the_row() -> None:
    timeout = Failure(Fault.TIMEOUT, "nothing came")
    policy = Policy(max_attempts=100, deadline=300.0)
    assert tried(policy, (timeout, 120.0), (timeout, 120.0)).fate is AGAIN
    last = tried(policy, (timeout, 120.0), (timeout, 120.0), (timeout, 60.0))
    assert (last.fate, last.gave_up) == (ROW_ENDS, True)


def test_a_policy_begins_with_the_defaults_of_the_settings() -> None:
    settings = Settings()
    assert Policy() == Policy(settings.max_attempts, settings.deadline)


def test_one_attempt_is_all_where_no_more_are_allowed() -> None:
    assert tried(Policy(max_attempts=1), (OVERLOAD, 1.0)).gave_up
    assert tried(Policy(max_attempts=1), (RATE_LIMIT, 1.0)).fate is AGAIN


@given(st.integers(0, 5), st.floats(0, 1e6), jitters)
def test_a_rate_limit_uses_up_neither_attempts_nor_time(attempts: int, seconds: float, jitter: float) -> None:
    before = Record(attempts, in_flight_s=10.0)
    assert before.after(RATE_LIMIT, seconds) == before
    assert decide(RATE_LIMIT, before, POLICY, jitter).fate is AGAIN


@given(st.integers(0, 5), st.floats(0, 1e3))
def test_where_nobody_is_answered_no_attempt_is_held_against_the_row_but_its_time_is(
    attempts: int, seconds: float
) -> None:
    before = Record(attempts, in_flight_s=10.0)
    assert before.after(OVERLOAD, seconds, is_silent=True) == Record(0, in_flight_s=10.0 + seconds)


def test_an_empty_account_is_no_rate_limit() -> None:
    assert Record().after(status(429, NO_MONEY), 2.0) == Record(attempts=1, in_flight_s=2.0)


# --- how long it waits ---


@given(st.integers(1, 10**9), jitters)
def test_a_wait_stays_within_its_bounds(attempt: int, jitter: float) -> None:
    wait = backoff(attempt, jitter)
    assert FIRST_WAIT_S / 2 <= wait <= LONGEST_WAIT_S
    assert wait <= FIRST_WAIT_S * 2.0 ** min(attempt - 1, 100)
    assert backoff(attempt, 0) <= wait <= backoff(attempt + 1, jitter)


def test_waits_double_and_spread() -> None:
    assert [backoff(attempt, 0) for attempt in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff(3, 0.5) == 3.0


@pytest.mark.parametrize(
    ("failure", "asked", "wait_s"),
    [
        (OVERLOAD, None, 0.75),
        (OVERLOAD, 0.2, 0.75),
        (OVERLOAD, 40.0, 40.0),
        (RATE_LIMIT, None, 0.0),  # the endpoint waits, the row may go to another
        (RATE_LIMIT, 40.0, 0.0),
    ],
)
def test_a_row_waits_as_long_as_the_server_asks(failure: Failure, asked: float | None, wait_s: float) -> None:
    failure = Failure(failure.fault, failure.message, failure.status, retry_after=asked)
    assert fate_of(failure).wait_s == wait_s

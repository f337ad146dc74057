"""How long a server asks us to wait is read wherever it says so, in its true length."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.calls.error_bodies import failure_in
from batcher.calls.waits import LONGEST_ASKED_S, wait_in

NOW = 1_795_603_355.0  # 2026-11-25 10:42:35 UTC
DATE = {"date": "Wed, 25 Nov 2026 10:42:35 GMT"}
YEAR_S = 366 * 86400.0


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Too many requests. Please wait 20 seconds and try again.", 20.0),
        ("exceeded for UserByMinute. Please wait 9 seconds before retrying.", 9.0),
        ("Please wait for 2 minutes", 120.0),
        ("Please wait at least 1 hour", 3600.0),
        ("Quota will be replenished in 00:12:34.", 754.0),
        ("Quota will be replenished in 20.09:58:55.", 20 * 86400 + 35_935.0),
        ("Daily limit reached, resets in 2h5m.", 7500.0),
        ("The limit will reset after 3 days", 259_200.0),
        ("available again in about 90 sec", 90.0),
        ("Retry-After: 15 s", 15.0),
        ("请求过于频繁:请在 30 秒后重试", 30.0),
        ("请求过于频繁:请1分30秒之后再试", 90.0),
        ("请等待 2 小时", 7200.0),
        ("限额将于 1.5 天后重置", 129_600.0),
        ("稍等500毫秒", 0.5),
        ("您的限额将在 2026-11-25 19:27:35 重置。", 2700.0),
        ("限额将于 2026年11月25日 19:27 恢复", 2665.0),
        ("Limit resets at: 2026-11-25 10:43:20 UTC", 45.0),
        ("Limit resets at 2026-11-25T10:43:20Z", 45.0),
        ("Limit resets at 2026-11-25T18:43:20+08:00", 45.0),
        ("Limit resets at 2026-11-25 11:42:35", 3600.0),
        ("You will regain access on 2026-12-01 at 00:00 UTC.", 5 * 86400 + 47_845.0),
        ("You will regain access on 2026-12-01.", 5 * 86400 + 47_845.0),
        ("Used since 2026-11-24, try again after 2026-11-26 10:42:35", 86400.0),
    ],
)
def test_a_wait_is_read_in_words(message: str, seconds: float) -> None:
    assert wait_in({}, message, NOW) == seconds
    assert wait_in(DATE, message, 0.0) == seconds  # by the server's clock


@pytest.mark.parametrize(
    "message",
    [
        "maintain a consistent rate for at least 15 minutes",
        "Timed out after waiting 60 seconds",
        "1分钟内最多请求60次",
        "已达到 5 小时的使用上限。",
        "您的套餐将在 30 天后到期",
        "Rate limit of 24 per 60s exceeded",
        "model gpt-4o-2024-08-06 was used before, try again",
        "try again after 2026-02-31 at 00:00",
        "released on 2027-03-01",
        "try again in 400 days",
        "resets at 2099-01-01 00:00:00",
        "limit 9999999999999999999999 s",
    ],
)
def test_other_times_are_no_wait(message: str) -> None:
    assert wait_in({}, message, NOW) is None


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"retry_after": 17}, 17.0),
        ({"retry_after_seconds": "2.5"}, 2.5),
        ({"retry_after_ms": 250}, 0.25),
        ({"retryAfter": "7m12s"}, 432.0),
        ({"details": [{"@type": "RetryInfo", "retryDelay": "37s"}]}, 37.0),
        ({"details": [{"retry_delay": {"seconds": 12}}]}, 12.0),
        ({"metadata": {"headers": {"X-RateLimit-Limit": "20", "X-RateLimit-Reset": str(int(NOW + 40) * 1000)}}}, 40.0),
        ({"metadata": {"headers": {"Retry-After": "8"}}}, 8.0),
        ({"reset_at": "2026-11-25T10:43:20Z"}, 45.0),
        ({"resets_at": NOW + 60}, 60.0),
        ({"retry_after": -5}, None),
        ({"retry_after": True}, None),
        ({"retry_after": "soon"}, None),
        ({"retry_after": 10**9 - 1}, None),
        ({"retry_after": float("nan")}, None),
        ({"X-RateLimit-Reset": "5"}, None),  # outside of headers it may be anything
        ({"input": {"retry_after": 5}, "ctx": [{"retry_after": 5}], "messages": [{"retry_after": 5}]}, None),
    ],
)
def test_a_wait_is_read_in_the_fields_of_an_error(body: dict[str, Any], seconds: float | None) -> None:
    said = {"error": {"message": "rate limited", **body}}
    assert failure_in(429, DATE, json.dumps(said)).retry_after == seconds
    assert failure_in(429, DATE | {"retry-after": "3"}, json.dumps(said)).retry_after == 3.0


def test_words_tell_the_fraction_of_a_field_and_no_more() -> None:
    body = {"details": [{"retryDelay": "37s"}]}
    assert wait_in({}, "Please retry in 37.12s", NOW, body=body) == 37.12
    assert wait_in({}, "Please retry in 2 hours", NOW, body=body) == 37.0


@pytest.mark.parametrize(
    "quoted", ["'try again in 3 days'", '"try again in 3 days"', "`wait 3 days`", "「请3天后重试」"]
)
def test_a_wait_that_is_quoted_is_the_rows_own(quoted: str) -> None:
    body = {"error": {"message": f"duplicate {quoted}"}}
    assert failure_in(429, {}, json.dumps(body)).retry_after is None


@pytest.mark.parametrize(
    ("headers", "status", "seconds"),
    [
        ({"x-ratelimit-reset-after": "3.5", "x-ratelimit-remaining": "0"}, 429, 3.5),
        ({"x-ratelimit-reset": "3"}, 429, 3.0),
        ({"x-ratelimit-reset": str(int(NOW) + 30)}, 429, 30.0),
        ({"ratelimit-reset": "42"}, 429, 42.0),
        ({"x-ratelimit-reset": "3", "x-ratelimit-remaining": "0"}, 429, None),
        ({"x-ratelimit-reset": "3"}, 400, None),
        ({"x-ratelimit-reset": "3", "retry-after": "7"}, 429, 7.0),
        ({"retry-after": "604800"}, 429, 604_800.0),
        ({"retry-after": "999999999"}, 429, LONGEST_ASKED_S),
        ({"retry-after": "30, 60"}, 429, 30.0),
        ({"retry-after": "-5"}, 429, None),
    ],
)
def test_a_wait_is_read_in_headers(headers: Mapping[str, str], status: int, seconds: float | None) -> None:
    assert failure_in(status, {**DATE, **headers}, '{"error": {"message": "slow"}}').retry_after == seconds


PIECES = [
    "wait ",
    "again in ",
    "resets ",
    "1",
    "99",
    "2026-11-25 ",
    "19:27:35",
    "20.09:58:55",
    " s",
    "m",
    "秒",
    "后重试",
    "年",
]


@given(st.lists(st.sampled_from(PIECES)).map("".join) | st.text(), st.floats() | st.integers() | st.text())
def test_no_words_and_no_field_make_an_impossible_wait(message: str, field: object) -> None:
    asked = wait_in({}, message, NOW, body={"error": {"retry_after": field, "reset_at": field}})
    assert asked is None or 0 <= asked <= YEAR_S

"""When a run shall be finished: how a moment and a span are read."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

import batcher
from batcher.errors import SettingsError
from batcher.moments import moment_as_text, moment_in_words, moment_of, past, span_of
from batcher.settings import Settings
from batcher.words import command_line


@contextmanager
def zone(name: str) -> Iterator[None]:
    """Let the process be in another time zone."""
    if not hasattr(time, "tzset"):
        pytest.skip("this system has no tzset")
    with mock.patch.dict(os.environ, TZ=name):
        time.tzset()
        yield
    time.tzset()


def utc(text: str) -> float:
    return dt.datetime.fromisoformat(f"{text}+00:00").timestamp()


@pytest.mark.parametrize(
    ("given_as", "now", "expected"),
    [
        ("07:00", "2026-11-30 21:00", "2026-12-01 06:00"),  # Berlin is an hour ahead of UTC in winter
        ("7:00", "2026-11-30 05:59:59", "2026-11-30 06:00"),
        ("07:00", "2026-11-30 06:00", "2026-12-01 06:00"),
        ("23:30:15", "2026-11-30 21:00", "2026-11-30 22:30:15"),
        (" 2026-12-01 07:00 ", "2026-11-30 21:00", "2026-12-01 06:00"),
        ("2026-12-01T07:00:30", "2026-11-30 21:00", "2026-12-01 06:00:30"),
        ("2026-12-01 07:00-05:00", "2026-11-30 21:00", "2026-12-01 12:00"),
        ("2026-12-01t07:00z", "2026-11-30 21:00", "2026-12-01 07:00"),
        ("07:00Z", "2026-11-30 21:00", "2026-12-01 07:00"),
        ("00:15+09:00", "2026-11-30 21:00", "2026-12-01 15:15"),
        (dt.time(7), "2026-11-30 21:00", "2026-12-01 06:00"),
        (dt.datetime(2026, 12, 1, 7), "2026-11-30 21:00", "2026-12-01 06:00"),  # noqa: DTZ001 - local time
        (dt.datetime(2026, 12, 1, 7, tzinfo=dt.UTC), "2026-11-30 21:00", "2026-12-01 07:00"),
        ("2026-11-30 07:00", "2026-11-30 21:00", "2026-11-30 06:00"),  # past: whoever asks for it says so
        # The clock is put forward at 2:00 on 29 March, and back at 3:00 on 25 October.
        ("07:00", "2026-03-28 21:00", "2026-03-29 05:00"),
        ("07:00", "2026-10-24 21:00", "2026-10-25 06:00"),
        ("02:30", "2026-03-28 21:00", "2026-03-29 01:30"),  # is skipped: 3:30 is meant
        ("02:30", "2026-10-24 21:00", "2026-10-25 00:30"),  # happens twice: the first
        ("02:30", "2026-10-25 00:45", "2026-10-25 01:30"),  # the first is past
        ("2026-10-25 02:30", "2026-10-25 00:45", "2026-10-25 01:30"),
    ],
)
def test_a_time_is_the_next_one_by_the_local_clock(given_as: Any, now: str, expected: str) -> None:
    with zone("Europe/Berlin"):
        assert moment_of(given_as, "--by", utc(now)) == utc(expected)


@given(st.integers(0, 86399), st.integers(0, 400 * 86400), st.sampled_from(["Europe/Berlin", "Asia/Kolkata", "UTC"]))
def test_a_time_of_day_is_less_than_two_days_away_and_shown_by_the_clock(second: int, later: int, where: str) -> None:
    now = utc("2026-01-01 00:00") + later
    clock = (dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=second)).time()
    with zone(where):
        found = moment_of(f"{clock:%H:%M:%S}", "--by", now)
        shown = dt.datetime.fromtimestamp(found).astimezone().time()
    assert now < found <= now + 25 * 3600
    is_skipped = shown.hour == clock.hour + 1 == 3
    assert shown == clock or is_skipped


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("7am", "--by must be a time such as 07:00 or"),
        ("25:00", "--by must be a time such as"),
        ("2026-02-30 07:00", "--by must be a time such as"),
        ("2026-12-01", "is a day: give the time, too, as in '2026-12-01 07:00'"),
        ("9999-12-01 07:00", "is more than a year away"),
        ("2062-12-01 07:00", "is more than a year away: is the date right?"),
        (7, "not 7"),
        ("", "not ''"),
    ],
)
def test_what_is_no_time_is_refused_with_an_example(wrong: Any, said: str) -> None:
    with command_line(), pytest.raises(SettingsError, match="--by") as refused:
        Settings(by=wrong)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("given_as", "seconds"),
    [
        ("8h", 28800),
        ("90m", 5400),
        ("1h30m", 5400),
        ("1h 30min", 5400),
        ("1.5h", 5400),
        ("2d", 172800),
        ("45s", 45),
        ("1H", 3600),
        (dt.timedelta(hours=8), 28800),
    ],
)
def test_a_span_has_units(given_as: Any, seconds: float) -> None:
    assert span_of(given_as, "--within") == seconds


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("8", "--within must be a span of time such as 8h, 90m or 1h30m, not '8': is it 8h or 8m?"),
        (8, "is it 8h or 8m?"),
        ("30m1h", "not '30m1h'"),
        ("1h1h", "not '1h1h'"),
        ("soon", "not 'soon'"),
        ("0h", "must be a span of time above 0"),
        (dt.timedelta(-1), "must be a span of time above 0"),
        ("1000d", "is more than a year: is the unit right?"),
    ],
)
def test_what_is_no_span_is_refused_with_an_example(wrong: Any, said: str) -> None:
    with command_line(), pytest.raises(SettingsError, match="--within") as refused:
        Settings(within=wrong)
    assert said in str(refused.value)


def test_a_time_and_a_span_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match="by and within exclude each other"):
        batcher.plan(["a"], "{text}", by="07:00", within="8h")


def test_a_moment_is_told_with_its_day_if_that_is_not_plain() -> None:
    with zone("Europe/Berlin"):
        now = utc("2026-11-30 21:00")
        assert moment_in_words(now + 9 * 3600, now) == "07:00"
        assert moment_in_words(now + 33 * 3600, now) == "2026-12-02 07:00"
        assert moment_as_text(now + 9 * 3600) == "2026-12-01T07:00:00+01:00"
        assert past(now - 3600, now) == "21:00 is past (1h 00m ago)"

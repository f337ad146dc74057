from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.pool.server_limits import LONGEST_COOLDOWN_S, ServerLimit
from batcher.records import Allowance


@pytest.mark.parametrize(
    ("allowance", "per_minute"),
    [
        (Allowance(500, 480, 2.4), 500),  # refilled within a minute: 20 of 500 are back in 2.4 s
        (Allowance(200_000, 199_000, 0.3), 200_000),
        (Allowance(500, 499, 0.12), None),  # perhaps; it may be almost two of 500
        (Allowance(10_000, 9_980, 17.28), None),  # of a day
        (Allowance(100, 80, 0.2), None),  # of a second
        (Allowance(600, 580, 43.0), None),  # of a calendar minute
        (Allowance(500, 500, 0.0), None),
        (Allowance(None, 480, 2.4), None),
        (Allowance(500, None, None), None),
        (Allowance(-5, -20, 12.0), None),
        (Allowance(0, 0, 60.0), None),
        (Allowance(0.001, -20, 60.0), None),
    ],
)
def test_a_limit_is_paced_where_what_is_stated_fits_one_that_is_refilled_within_a_minute(
    allowance: Allowance, per_minute: float | None
) -> None:
    stated = ServerLimit()
    stated.record(allowance, later=0, size=1, now=0)
    assert stated.per_minute == per_minute


def test_a_limit_that_changes_is_followed_and_one_that_proves_to_be_of_a_day_is_let_go() -> None:
    stated = ServerLimit()
    for allowance, per_minute in (
        (Allowance(500, 450, 6.0), 500),
        (Allowance(500, 499, 0.06), 500),
        (Allowance(250, 200, 12.0), 250),
        (Allowance(250, 200, 3600.0), None),
        (Allowance(250, 200, 12.0), None),
    ):
        stated.record(allowance, later=0, size=1, now=0)
        assert stated.per_minute == per_minute


@pytest.mark.parametrize(
    ("allowance", "later", "size", "rest_s"),
    [
        (Allowance(None, 1, 20.0), 0, 1, 0.0),
        (Allowance(None, 0, 20.0), 0, 1, 20.0),
        (Allowance(None, 5, 20.0), 4, 1, 0.0),
        (Allowance(None, 5, 20.0), 5, 1, 20.0),  # five have left since then
        (Allowance(None, 900, 20.0), 0, 1000, 20.0),  # tokens for less than a call
        (Allowance(None, 0, 86_400.0), 0, 1, LONGEST_COOLDOWN_S),
        (Allowance(60, 0, 60.0), 0, 1, 1.0),  # refilled: the next one is there after a second
        (Allowance(None, 0, None), 0, 1, 0.0),
        (Allowance(None, 0, 0.0), 0, 1, 0.0),
    ],
)
def test_where_nothing_is_left_an_endpoint_rests_until_there_is(
    allowance: Allowance, later: float, size: float, rest_s: float
) -> None:
    assert ServerLimit().record(allowance, later, size, now=100.0) == rest_s


@pytest.mark.parametrize("was_refused", [True, False])
def test_that_nothing_is_left_is_believed_once_and_then_what_comes_of_a_call(was_refused: bool) -> None:
    nothing_left = Allowance(None, 0, 20.0)
    stated = ServerLimit()

    def rest(now: float) -> float:
        return stated.record(nothing_left, later=0, size=1, now=now)

    assert [rest(0), rest(1), rest(5)] == [20, 20, 20]
    stated.record_outcome(left_at=2, was_refused=False)  # it left before the rest that it says something about
    assert rest(30) == 0
    stated.record_outcome(left_at=29, was_refused=not was_refused)
    stated.record_outcome(left_at=31, was_refused=was_refused)
    assert [rest(32), rest(60), rest(1000)] == ([20, 20, 20] if was_refused else [0, 0, 0])


numbers = st.none() | st.floats(allow_nan=False) | st.integers(-10, 1000).map(float)


@given(st.lists(st.tuples(st.builds(Allowance, numbers, numbers, numbers), st.floats(0, 1e6), st.floats(1, 1e6))))
def test_whatever_a_server_states_no_rest_is_longer_than_a_minute_and_no_pace_is_slower_than_a_call_a_minute(
    heard: list[tuple[Allowance, float, float]],
) -> None:
    stated = ServerLimit()
    for number, (allowance, later, size) in enumerate(heard):
        assert 0 <= stated.record(allowance, later, size, now=number) <= LONGEST_COOLDOWN_S
        assert stated.per_minute is None or 1 <= stated.per_minute < math.inf

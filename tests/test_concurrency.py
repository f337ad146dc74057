from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from itertools import count
from statistics import mean
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.pool.concurrency import FIRST_LIMIT, Concurrency


class Server(NamedTuple):
    """What answers.

    Attributes:
        bears: calls that it has at most; it refuses more.
        at_once: calls that it works at; the others wait for their turn.
        latency: draws the seconds that it works at a call.
    """

    bears: float = math.inf
    at_once: int = 1000
    latency: Callable[[], float] = lambda: 1.0


class Moment(NamedTuple):
    """The end of a call: when, the limit then, the calls that the server had, and whether it refused this one."""

    at: float
    limit: float
    served: int
    was_refused: bool


def under_load(limit: Concurrency, server: Server, seconds: float, begins: float = 0.0) -> list[Moment]:
    """Let a call leave whenever the limit admits one."""
    moments: list[Moment] = []
    calls: list[tuple[float, int, float, bool]] = []
    free_at = [0.0] * server.at_once
    number, served, now = count(), 0, begins
    while now < begins + seconds:
        while limit.admits(len(calls)):
            is_refused = served >= server.bears
            if is_refused:
                ends = now + 0.02
            else:
                served += 1
                ends = max(heapq.heappop(free_at), now) + server.latency()
                heapq.heappush(free_at, ends)
            heapq.heappush(calls, (ends, next(number), now, is_refused))
            now += 1e-6  # no two things happen at once
        ends, _, left_at, is_refused = calls[0]
        now = max(now, ends)
        if is_refused:
            limit.overloaded(left_at, now, len(calls))
        else:
            limit.answered(left_at, now, len(calls))
        heapq.heappop(calls)
        moments.append(Moment(now, limit.limit, served, is_refused))
        served -= not is_refused
    return moments


def lognormal(median: float, seed: int = 1) -> Callable[[], float]:
    draw = random.Random(seed)
    return lambda: draw.lognormvariate(math.log(median), 0.8)


@pytest.mark.parametrize("most", [256, 100, 32, 8, 1])
def test_it_starts_at_32_and_doubles_round_by_round_up_to_what_the_user_allows(most: int) -> None:
    limit = Concurrency(most)
    assert limit.limit == min(32, most)
    moments = under_load(limit, Server(), 4.9)
    for rounds in range(1, 5):
        last = max(moment.limit for moment in moments if moment.at < rounds + 0.9)
        assert last == min(32 * 2**rounds, most)


def test_it_grows_only_where_it_is_what_limits_and_where_answers_come_soon() -> None:
    limit = Concurrency(256)
    for _ in range(100):
        limit.answered(0, 1, 31)
        limit.answered(0, 1, 32, may_grow=False)
    assert limit.limit == FIRST_LIMIT


def test_it_halves_once_for_all_that_left_before_and_what_comes_of_those_does_not_let_it_grow() -> None:
    limit = Concurrency(256)
    limit.answered(1, 2, 10)
    for refused in range(3):
        limit.overloaded(3, 4, 32 - refused)
        limit.answered(3.5, 4, 31)
        assert limit.limit == 16
    limit.overloaded(5, 6, 16)
    assert limit.limit == 8


def test_a_server_that_refuses_everything_is_asked_by_one_call_at_a_time_and_then_by_as_many_as_before() -> None:
    limit = Concurrency(256)
    under_load(limit, Server(bears=40), 8)
    under_load(limit, Server(bears=0), 1, begins=8)
    assert limit.limit == 1
    assert under_load(limit, Server(bears=40), 20, begins=9)[-1].limit >= 32


def test_an_endpoint_that_failed_begins_again_with_one_call() -> None:
    limit = Concurrency(256)
    under_load(limit, Server(), 3)
    limit.failed(3)
    assert limit.limit == 1
    assert under_load(limit, Server(), 6.5, begins=3.01)[-1].limit == 65


@pytest.mark.parametrize("latency", [lambda: 1.0, lognormal(1), lognormal(8)], ids=["even", "log-normal", "slow"])
def test_it_settles_at_what_a_server_bears_and_uses_nine_tenths_of_it(latency: Callable[[], float]) -> None:
    moments = under_load(Concurrency(256), Server(bears=40, latency=latency), 600)
    settled = [moment for moment in moments if moment.at > 60]
    assert 32 <= mean(moment.limit for moment in settled) <= 48
    assert mean(moment.served for moment in settled) >= 0.9 * 40
    assert sum(moment.was_refused for moment in settled) < 60


def test_it_finds_out_when_the_server_bears_more_than_it_did() -> None:
    limit = Concurrency(256)
    under_load(limit, Server(bears=40, latency=lognormal(1)), 300)
    assert under_load(limit, Server(latency=lognormal(1)), 300, begins=300)[-1].limit > 200


@pytest.mark.parametrize("at_once", [8, 32])
def test_it_stops_growing_where_more_calls_get_no_more_answers(at_once: int) -> None:
    limit = Concurrency(256)
    moments = under_load(limit, Server(at_once=at_once), 120)
    assert mean(moment.limit for moment in moments) < 80
    assert under_load(limit, Server(), 300, begins=120)[-1].limit > 200, "and goes on where they do"


def test_where_a_limit_paces_the_calls_it_opens_with_the_first_answer_until_the_server_objects() -> None:
    limit = Concurrency(256)
    limit.is_paced = True
    assert not limit.admits(FIRST_LIMIT)
    limit.answered(0, 1, 10)
    assert limit.admits(255)
    assert not limit.admits(256)
    limit.answered(0, 1, 200)
    limit.overloaded(1, 2, 101)
    assert limit.limit == 50.5
    assert not limit.admits(60)


happenings = st.lists(
    st.tuples(
        st.sampled_from(["answer", "overload", "failure"]),
        st.floats(0, 30),  # seconds since the last one
        st.floats(0, 60),  # seconds that the call took
        st.integers(1, 70),
        st.booleans(),
    ),
    max_size=200,
)


@given(st.integers(1, 64), happenings, st.booleans())
def test_whatever_happens_it_is_one_at_least_and_never_more_than_the_user_allows(
    most: int, happenings: list[tuple[str, float, float, int, bool]], is_paced: bool
) -> None:
    limit = Concurrency(most)
    limit.is_paced = is_paced
    now = 0.0
    for what, gap, took, in_flight, may_grow in happenings:
        now += gap
        if what == "answer":
            limit.answered(now - took, now, min(in_flight, most), may_grow=may_grow)
        elif what == "overload":
            limit.overloaded(now - took, now, min(in_flight, most))
        else:
            limit.failed(now)
        assert 1 <= limit.limit <= most
        assert limit.admits(0)
        assert not limit.admits(most)

from __future__ import annotations

import asyncio
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import run_virtually

from batcher.pool.limiter import Limiter, Reservation

WINDOWS = {"rps": 1.0, "rpm": 60.0}


class Wish(NamedTuple):
    """A call to be made.

    Attributes:
        gap: seconds since the one before it passed.
        estimate, used: tokens, before and after.
        held_up: seconds between its grant and its departure, in which its intent is committed.
        takes: seconds from its departure to its answer.
    """

    gap: float = 0.0
    estimate: float = 0.0
    used: float = 0.0
    held_up: float = 0.0
    takes: float = 0.0


class Made(NamedTuple):
    """A call that was made, and the loop's times at which it was granted, left and was answered."""

    wish: Wish
    granted: float
    left: float
    answered: float

    def known_at(self, moment: float) -> float:
        """Return the tokens that it counted for; what happened in the same moment may have been before or after."""
        if self.answered == moment:
            return min(self.wish.used, self.wish.estimate)
        return self.wish.used if self.answered < moment else self.wish.estimate


def now() -> float:
    return asyncio.get_running_loop().time()


def made(wishes: Iterable[Wish], lateness: Callable[[], float] = lambda: 0.0, **limits: float | None) -> list[Made]:
    """Let calls pass a limiter, one after the other, in virtual time."""

    async def make(wish: Wish, reservation: Reservation, granted: float) -> Made:
        await asyncio.sleep(wish.held_up)
        left = now()
        reservation.leave()
        await asyncio.sleep(wish.takes)
        reservation.settle(wish.used)
        return Made(wish, granted, left, now())

    async def work() -> list[Made]:
        limiter = Limiter(**limits)
        calls = []
        for wish in wishes:
            if wish.gap:
                await asyncio.sleep(wish.gap)
            await limiter.ready()
            while wait := limiter.wait(wish.estimate):  # noqa: ASYNC110 - time decides, no event
                await asyncio.sleep(wait)
            calls.append(asyncio.ensure_future(make(wish, limiter.reserve(wish.estimate), now())))
            await asyncio.sleep(0)
        return await asyncio.gather(*calls)

    return run_virtually(work(), lateness)[0]


def departures(
    wishes: Iterable[Wish], lateness: Callable[[], float] = lambda: 0.0, **limits: float | None
) -> list[float]:
    return sorted(call.left for call in made(wishes, lateness, **limits))


def most_within(seconds: float, times: Sequence[float], amounts: Sequence[float] | None = None) -> float:
    """Return what leaves in the fullest window [t, t + seconds)."""
    sums = [0.0, *accumulate(amounts or [1.0] * len(times))]
    return max(sums[bisect_left(times, start + seconds)] - sums[i] for i, start in enumerate(times))


def late_by_up_to(seconds: float) -> Callable[[], float]:
    draw = random.Random(8)
    return lambda: draw.uniform(0, seconds)


# A throng, a trickle, pauses of up to two windows.
gaps = st.one_of(st.just(0.0), st.floats(0, 0.3), st.floats(0, 120))
# An intent is committed at once, in a few milliseconds, or when the disk or the process goes on again.
delays = st.one_of(st.just(0.0), st.floats(0, 0.02), st.floats(0, 10))
nothing = st.just(0.0)
limits = st.none() | st.integers(1, 60) | st.floats(0.2, 60)
latenesses = st.sampled_from([0.0, 0.008, 5.0])


# -- Requests


@settings(deadline=None)
@given(
    limits,
    limits,
    st.lists(st.builds(Wish, gaps, nothing, nothing, delays, nothing), min_size=1, max_size=40),
    latenesses,
)
def test_in_no_window_do_more_requests_leave_than_allowed_however_late_timers_and_commits_are(
    rps: float | None, rpm: float | None, wishes: list[Wish], lateness: float
) -> None:
    times = departures(wishes, late_by_up_to(lateness), rps=rps, rpm=rpm)
    for limit, window in ((rps, 1), (rpm, 60)):
        assert limit is None or most_within(window, times) <= math.ceil(limit)


@pytest.mark.parametrize("lateness", [0.0, 0.008], ids=["punctual", "late"])
@pytest.mark.parametrize(
    ("unit", "limit"), [("rps", 1), ("rps", 10), ("rps", 100), ("rps", 1000), ("rpm", 60), ("rpm", 5000)]
)
def test_under_constant_demand_the_limit_is_used_evenly(unit: str, limit: int, lateness: float) -> None:
    window = WINDOWS[unit]
    times = departures([Wish()] * (3 * limit + 20), late_by_up_to(lateness), **{unit: limit})
    assert most_within(window, times) <= limit
    assert (len(times) - 1) / (times[-1] - times[0]) >= 0.98 * limit / window
    burst = 1 + 0.1 * limit / window  # what timers that are late may catch up
    for part in (0.02, 0.1, 0.5):
        assert most_within(part * window, times) <= part * limit + burst


@pytest.mark.parametrize("limit", [10, 100, 1000])
def test_a_loop_that_wakes_up_late_loses_next_to_nothing(limit: int) -> None:
    demand = [Wish()] * (5 * limit)
    late = departures(demand, late_by_up_to(0.008), rps=limit)[-1]
    assert late <= 1.005 * departures(demand, rps=limit)[-1] + 0.01


def test_what_was_not_used_is_not_saved_up() -> None:
    times = departures([Wish(), Wish(gap=3600), *[Wish()] * 10], rps=10)
    assert times[-1] - times[1] > 0.85, "but for one call"
    times = departures([Wish(0, 100, 100), Wish(3600, 100, 100), *[Wish(0, 100, 100)] * 10], tpm=6000)
    assert times[-1] - times[1] >= 10


@pytest.mark.parametrize(("unit", "limit", "held_up"), [("rps", 20, 0.009), ("rps", 500, 0.009), ("rpm", 60, 0.5)])
def test_requests_that_catch_up_with_a_late_one_on_its_way_break_no_limit(
    unit: str, limit: int, held_up: float
) -> None:
    left = departures([Wish()] * (2 * limit), lambda: 0.0, **{unit: limit})
    assert most_within(WINDOWS[unit], [left[0] + held_up, *left[1:]]) <= limit


def test_requests_that_a_stalled_disk_held_up_leave_together_but_no_more_than_allowed() -> None:
    """The intents of three seconds are committed at once."""
    stalled = [Wish(held_up=3 - i / 20) for i in range(20)]
    times = departures([*stalled, *[Wish()] * 100], rps=20)
    assert most_within(1, times) == 20
    assert times[-1] < 4.1 + 100 * 1.01 / 20


def test_a_limiter_without_limits_lets_all_pass() -> None:
    assert departures([Wish(estimate=1e9)] * 100)[-1] < 1e-6


# -- Tokens


amounts = st.integers(0, 3000)
tokens_strategy = st.lists(st.builds(Wish, gaps, amounts, amounts, delays, delays), min_size=1, max_size=30)


@settings(deadline=None)
@given(st.integers(1, 1000), limits, limits, tokens_strategy, latenesses)
def test_at_every_grant_what_left_in_the_minute_before_and_the_call_itself_are_within_the_limit(
    tpm: int, rps: float | None, rpm: float | None, wishes: list[Wish], lateness: float
) -> None:
    """A call counts with its estimate until it is answered, then with what it used; a larger one goes alone."""
    calls = made(wishes, late_by_up_to(lateness), tpm=tpm, rps=rps, rpm=rpm)
    for i, call in enumerate(calls):
        others = [each for each in calls[:i] if each.left > call.granted - 60]
        known = sum(each.known_at(call.granted) for each in others)
        assert known + call.wish.estimate <= tpm or known == 0
    for limit, window in ((rps, 1), (rpm, 60)):
        assert limit is None or most_within(window, sorted(call.left for call in calls)) <= math.ceil(limit)


@settings(deadline=None)
@given(st.integers(1, 1000), tokens_strategy, latenesses)
def test_in_no_minute_do_more_tokens_leave_than_the_limit_where_no_estimate_is_too_low(
    tpm: int, wishes: list[Wish], lateness: float
) -> None:
    wishes = [
        wish._replace(estimate=min(wish.estimate, tpm), used=min(wish.estimate, wish.used, tpm)) for wish in wishes
    ]
    calls = sorted(made(wishes, late_by_up_to(lateness), tpm=tpm), key=lambda call: call.left)
    assert most_within(60, [call.left for call in calls], [call.wish.used for call in calls]) <= tpm


@pytest.mark.parametrize("lateness", [0.0, 0.008], ids=["punctual", "late"])
def test_tokens_are_used_evenly_from_the_first_minute_on(lateness: float) -> None:
    draw = random.Random(3)
    sizes = [draw.lognormvariate(6, 0.5) for _ in range(600)]
    calls = made([Wish(0, size, size) for size in sizes], late_by_up_to(lateness), tpm=100_000)
    times = [call.left for call in calls]
    assert sum(sizes[:-1]) / times[-1] >= 0.96 * 100_000 / 60
    for seconds in (1, 6, 30):
        # What the exact count held back, 6 s of it at most, may be caught up.
        assert most_within(seconds, times, sizes) <= (seconds + 6) / 60 * 100_000 + max(sizes)
    assert most_within(10, times[:100], sizes) <= 10 / 60 * 100_000 + max(sizes), "no burst at the start"


@pytest.mark.parametrize(("size", "waits"), [(300, 0.0), (3000, 27.27), (6000, 60.6), (18_000, 60.6)])
def test_a_large_call_waits_no_longer_than_its_room_takes_and_is_paid_for_before_the_next(
    size: int, waits: float
) -> None:
    small = [Wish(0, 300, 300)] * 40
    times = departures([*small, Wish(0, size, size), *small], tpm=6000)
    turn = times[39] + 3.03
    assert times[40] - turn == pytest.approx(waits, abs=3.1)
    assert times[41] - times[40] == pytest.approx(max(size / 100 * 1.01 - 6, 3.03), abs=6.1)
    if size >= 6000:
        assert times[40] - times[39] >= 60, "alone"


@pytest.mark.parametrize(("estimate", "share"), [(100, 0.85), (25, 0.97), (400, 0.85)])
def test_what_an_estimate_was_too_high_comes_back_and_what_it_was_too_low_is_owed(estimate: int, share: float) -> None:
    draw = random.Random(4)
    wishes = [Wish(0, estimate, 100, 0.004, draw.lognormvariate(0.4, 0.8)) for _ in range(3000)]
    times = departures(wishes, tpm=60_000)
    assert share * 1000 <= (len(times) * 100) / times[-1] <= 1010
    assert most_within(60, times) * 100 <= 60_000 * 1.05, (
        "a call whose estimate is too low is known as such when it ends"
    )


def test_a_call_that_does_not_leave_takes_nothing() -> None:
    async def work() -> float:
        limiter = Limiter(rps=1, tpm=600)
        for _ in range(50):
            await limiter.ready()
            assert limiter.wait(600) == 0
            limiter.reserve(600).withdraw()
        return asyncio.get_running_loop().time()

    assert run_virtually(work())[0] == pytest.approx(49 * 1.01, rel=0.02), "the pace of requests alone"

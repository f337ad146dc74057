from __future__ import annotations

import asyncio
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import run_virtually

from batcher.limiter import Limiter

WINDOWS = {"rps": 1.0, "rpm": 60.0}

limits = st.one_of(st.integers(1, 60), st.floats(0.2, 60))
# Seconds between one passage and the next wish for one: a throng, a trickle, pauses of up to two windows.
gaps = st.lists(st.one_of(st.just(0.0), st.floats(0, 0.3), st.floats(0, 120)), min_size=1, max_size=200)


def passages(limiter: Limiter, gaps: Iterable[float], lateness: Callable[[], float] = lambda: 0.0) -> list[float]:
    async def work() -> list[float]:
        times = []
        for gap in gaps:
            if gap:
                await asyncio.sleep(gap)
            await limiter.acquire()
            times.append(asyncio.get_running_loop().time())
        return times

    return run_virtually(work(), lateness)[0]


def most_within(seconds: float, times: list[float]) -> int:
    """Count the passages of the fullest window [t, t + seconds)."""
    return max(bisect_left(times, start + seconds) - i for i, start in enumerate(times))


def late_by_up_to_8_ms() -> Callable[[], float]:
    draw = random.Random(8)
    return lambda: draw.uniform(0, 0.008)


@given(limits, gaps, st.sampled_from(["rps", "rpm"]))
def test_no_window_lets_more_than_the_limit_pass(limit: float, gaps: list[float], unit: str) -> None:
    times = passages(Limiter(**{unit: limit}), gaps)
    assert most_within(WINDOWS[unit], times) <= math.ceil(limit)


@given(limits, st.integers(1, 3000), gaps)
def test_two_limits_hold_at_once(rps: float, rpm: float, gaps: list[float]) -> None:
    times = passages(Limiter(rpm, rps), gaps)
    assert most_within(1, times) <= math.ceil(rps)
    assert most_within(60, times) <= math.ceil(rpm)


@pytest.mark.parametrize("lateness", [lambda: 0.0, late_by_up_to_8_ms()], ids=["punctual", "late"])
@pytest.mark.parametrize(
    ("unit", "limit"), [("rps", 1), ("rps", 10), ("rps", 100), ("rps", 1000), ("rpm", 60), ("rpm", 5000)]
)
def test_under_constant_demand_the_limit_is_used_evenly(unit: str, limit: int, lateness: Callable[[], float]) -> None:
    window = WINDOWS[unit]
    times = passages(Limiter(**{unit: limit}), [0.0] * (3 * limit + 20), lateness)
    assert most_within(window, times) <= limit
    assert (len(times) - 1) / (times[-1] - times[0]) >= 0.97 * limit / window
    burst = 1 + 0.01 * limit / window  # what a timer that is late may catch up
    for part in (0.02, 0.1, 0.5):
        assert most_within(part * window, times) <= part * limit + burst


@pytest.mark.parametrize("limit", [10, 100, 1000])
def test_a_loop_that_wakes_up_late_loses_next_to_nothing(limit: int) -> None:
    demand = [0.0] * (5 * limit)
    punctual = passages(Limiter(rps=limit), demand)[-1]
    late = passages(Limiter(rps=limit), demand, late_by_up_to_8_ms())[-1]
    assert late <= 1.005 * punctual + 0.01


def test_what_was_not_used_is_not_saved_up() -> None:
    times = passages(Limiter(rps=10), [0.0, 3600.0, *[0.0] * 9])
    assert times[2] - times[1] > 0.08
    assert times[-1] - times[1] > 0.85


@pytest.mark.parametrize(("unit", "limit", "hold_up_s"), [("rps", 20, 0.009), ("rps", 500, 0.009), ("rpm", 60, 0.5)])
def test_requests_that_catch_up_with_a_late_one_break_no_limit(unit: str, limit: int, hold_up_s: float) -> None:
    left = passages(Limiter(**{unit: limit}), [0.0] * (2 * limit))
    assert most_within(WINDOWS[unit], [left[0] + hold_up_s, *left[1:]]) <= limit


def test_a_limiter_without_limits_lets_all_pass() -> None:
    assert passages(Limiter(), [0.0] * 100)[-1] < 1e-6

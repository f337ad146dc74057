"""The rule by which rows wait in batches or are asked online."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batcher.planning.mix import (
    Chance,
    Pace,
    Work,
    either,
    fits,
    idle_s,
    lines_of_a_batch,
    may_fill,
    rate_needed,
    tail_s,
    to_cancel,
)

PACES = st.builds(
    Pace,
    rate=st.floats(0.5, 50),
    harvest_s=st.floats(0, 1200),
    tail_s=st.floats(0, 300),
    tick_s=st.floats(5, 60),
)
BATCHES = st.lists(st.integers(1, 1000), max_size=10).map(tuple)
WORKS = st.builds(Work, free=st.integers(0, 5000), out=BATCHES, left_s=st.floats(-3600, 40000))


@given(WORKS, PACES)
def test_no_more_is_taken_back_than_is_needed(work: Work, pace: Pace) -> None:
    count = to_cancel(work, pace)
    assert fits(work, pace, count)
    assert all(not fits(work, pace, fewer) for fewer in range(count))


@given(WORKS, PACES)
def test_nothing_is_taken_back_while_there_is_time_to_idle(work: Work, pace: Pace) -> None:
    assume(idle_s(work, pace) >= 0)
    assert to_cancel(work, pace) == 0


@dataclass
class Night:
    """A night in which the rule decides, and the batches come back or do not.

    Attributes:
        free: rows that may be asked online.
        out: the unanswered rows of each batch.
        coming: rows of cancelled batches, and when they may be asked.
        cancelled: rows that were taken back.
        idle: seconds in which online requests had nothing to do.
    """

    pace: Pace
    free: float
    out: list[int]
    left_s: float
    now: float = 0.0
    coming: list[tuple[float, int]] = field(default_factory=list)
    cancelled: int = 0
    idle: float = 0.0

    def work(self) -> Work:
        return Work(
            math.ceil(self.free - 1e-6) + sum(rows for _, rows in self.coming), tuple(self.out), self.left_s - self.now
        )

    def tick(self) -> None:
        count = to_cancel(self.work(), self.pace)
        taken, self.out = self.out[:count], self.out[count:]
        self.cancelled += sum(taken)
        self.coming += [(self.now + self.pace.harvest_s, rows) for rows in taken]
        self.now += self.pace.tick_s
        asked = self.pace.rate * self.pace.tick_s
        self.idle += max(0.0, (asked - self.free) / self.pace.rate)
        self.free = max(0.0, self.free - asked)
        self.free += sum(rows for at, rows in self.coming if at <= self.now)
        self.coming = [(at, rows) for at, rows in self.coming if at > self.now]

    @property
    def is_done(self) -> bool:
        return self.work().rows == 0


@given(BATCHES, st.integers(0, 3000), PACES, st.floats(0, 20000))
def test_rows_of_batches_that_never_come_back_are_asked_in_time(
    out: tuple[int, ...], free: int, pace: Pace, spare_s: float
) -> None:
    """What was in time stays in time: only the ticks cost a little, one for each batch that is taken back."""
    need_s = Work(free, out, 0).online_s(pace._replace(harvest_s=pace.harvest_s + pace.tick_s)) + pace.tail_s
    night = Night(pace, free, list(out), left_s=need_s + spare_s)
    ticks = 0
    while not night.is_done and ticks < 10000:
        night.tick()
        ticks += 1
    assert night.is_done
    lost_s = (len(out) + 2) * (pace.tick_s + 1 / pace.rate)
    assert night.now <= night.left_s - pace.tail_s + lost_s


@given(BATCHES.filter(bool), PACES)
def test_online_requests_are_not_idle_if_the_time_cannot_be_kept(out: tuple[int, ...], pace: Pace) -> None:
    night = Night(pace, 0, list(out), left_s=-1)
    ticks = 0
    while not night.is_done and ticks < 10000:
        night.tick()
        ticks += 1
    assert night.is_done
    assert night.idle <= pace.harvest_s + (len(out) + 2) * (pace.tick_s + 1 / pace.rate)


def test_batches_are_taken_back_one_after_the_other_just_in_time() -> None:
    pace = Pace(rate=1.0, harvest_s=100, tail_s=0, tick_s=10)
    night = Night(pace, 0, [1000] * 5, left_s=10000)
    seen = []
    while not night.is_done:
        before = len(night.out)
        night.tick()
        if len(night.out) < before:
            seen.append(night.now - pace.tick_s)
    # 5,000 s of work must begin at 5,000, and the rows are there 100 s after the batch is cancelled.
    assert seen == [4900, 5900, 6900, 7900, 8900]
    assert 9980 <= night.now <= 10010


def test_a_batch_that_is_nearly_done_is_left_alone_if_others_bring_enough_rows() -> None:
    pace = Pace(rate=1.0, harvest_s=0, tail_s=0, tick_s=10)
    assert to_cancel(Work(0, (500, 20), 500), pace) == 1
    assert to_cancel(Work(0, (500, 20), 600), pace) == 0


@given(st.integers(0, 10**6), st.floats(-3600, 10**5), PACES)
def test_rows_that_go_into_batches_may_stay_there_for_a_while(rows: int, left_s: float, pace: Pace) -> None:
    filled = may_fill(rows, left_s, pace, useful_s=600)
    assert 0 <= filled <= rows
    if not filled:
        return
    later = 600 - pace.tick_s  # a moment before
    free = max(0, math.ceil(rows - filled - later * pace.rate))
    assert to_cancel(Work(free, (filled,), left_s - later), pace) == 0 or pace.tick_s > 600


def test_rows_go_into_batches_as_far_as_there_is_time() -> None:
    pace = Pace(rate=1.0, harvest_s=600, tail_s=0, tick_s=0)
    assert may_fill(1000, 9 * 3600, pace) == 1000
    assert may_fill(1000, 2300, pace) == 1000
    assert may_fill(1000, 2000, pace) == 800  # 200 are asked online at once
    assert may_fill(1000, 900, pace) == 0
    assert may_fill(100_000, 900, pace) == 98_800  # cannot be met: online takes what it can, and batches the rest
    assert may_fill(1000, 2000, Pace(rate=0.0)) == 1000


def test_a_run_is_divided_into_several_batches() -> None:
    assert lines_of_a_batch(3080) == 308
    assert lines_of_a_batch(50) == 100


def test_the_margin_is_never_most_of_the_time() -> None:
    assert tail_s(3600, 120, 36000) == 60 + 120 + 180
    assert tail_s(3600, 120, 400) == 100
    assert tail_s(math.inf, 120, 36000) == 180
    assert tail_s(3600, 120, -10) == 0


def test_a_chance_is_the_share_of_earlier_cases_and_never_certain() -> None:
    assert Chance.that_at_most([], 10).value is None
    assert Chance.that_at_most([1, 2, 30], 10).value == pytest.approx(2.5 / 4)
    assert Chance.that_at_least([5.0] * 9, 4).value == pytest.approx(0.95)
    assert either(Chance(0, 0), Chance(0, 0)) is None
    assert either(Chance(0, 0), Chance(9, 9)) == pytest.approx(0.95)
    assert either(Chance(1, 1), Chance(1, 1)) == pytest.approx(1 - 1 / 16)


def test_online_requests_must_be_as_fast_as_the_rule_counts_on_in_the_time_that_batches_leave_them() -> None:
    pace = Pace(rate=2.0, harvest_s=600, tail_s=0, tick_s=10)
    until_s = idle_s(Work(0, (1000,), 36000), pace)
    assert rate_needed(1000, 36000, pace, until_s) == pytest.approx(2.0)
    assert rate_needed(1000, 500, pace) == pytest.approx(2.0)
    assert rate_needed(1000, 0, pace) == math.inf

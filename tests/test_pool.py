from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

import pytest
from fake_service import Service
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import run_virtually

from batcher.config import Endpoint
from batcher.pool import Member, Pool, PoolClosed, PoolEmpty

T = TypeVar("T")


def now() -> float:
    return asyncio.get_running_loop().time()


def with_pool(endpoints: Sequence[Endpoint], work: Callable[[Pool], Awaitable[T]], **clock: Any) -> T:
    """Do some work with a pool in virtual time."""

    async def open_and_work() -> T:
        callers = Service([])()
        members = [Member(i, each, 0, callers.caller(each)) for i, each in enumerate(endpoints)]
        async with Pool(members) as pool:
            return await work(pool)

    return run_virtually(open_and_work(), **clock)[0]


async def call(pool: Pool, seconds: float, *, again: bool = False) -> Member:
    member = await pool.take(again=again)
    await asyncio.sleep(seconds)
    pool.give_back(member)
    return member


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    return await asyncio.gather(*work)


def test_rows_are_served_first_come_first_served_and_those_that_come_again_first() -> None:
    async def work(pool: Pool) -> list[str]:
        served = []

        async def row(name: str, *, again: bool = False) -> None:
            await call(pool, 1, again=again)
            served.append(name)

        await together(row("first"), *(row(str(i)) for i in range(5)), row("retried", again=True))
        return served

    assert with_pool([Endpoint("m", max_concurrency=1)], work) == ["first", "retried", *"01234"]


def test_endpoints_get_rows_in_proportion_to_their_limits() -> None:
    async def work(pool: Pool) -> tuple[list[int], float]:
        await together(*(call(pool, 0.1) for _ in range(1100)))
        return [member.requests for member in pool.members], now()

    (slow, fast), seconds = with_pool([Endpoint("slow", rps=10), Endpoint("fast", rps=100)], work)
    assert fast / slow == pytest.approx(10, rel=0.02)
    assert seconds == pytest.approx(10, rel=0.03)


def test_a_row_goes_to_the_endpoint_that_can_take_it_soonest() -> None:
    async def work(pool: Pool) -> list[str]:
        return [(await call(pool, seconds)).label for seconds in (0, 0.1, 0, 0)]

    minutely, secondly = Endpoint("minutely", "http://a/v1", rpm=1), Endpoint("secondly", "http://b/v1", rps=1)
    first, *others = with_pool([minutely, secondly], work)
    assert "minutely" in first
    assert all("secondly" in label for label in others)


def test_endpoints_without_limits_share_evenly() -> None:
    async def work(pool: Pool) -> list[int]:
        draw = random.Random(1)
        await together(*(call(pool, draw.uniform(0.5, 1.5)) for _ in range(300)))
        for _ in range(300):
            await call(pool, 0)
        return [member.requests for member in pool.members]

    counts = with_pool([Endpoint(name, max_concurrency=10) for name in "abc"], work)
    assert counts == pytest.approx([200, 200, 200], rel=0.1)


def test_an_idle_endpoint_saves_up_no_burst() -> None:
    async def work(pool: Pool) -> list[float]:
        times: list[float] = []

        async def row() -> None:
            await call(pool, 0)
            times.append(now())

        for pause in (0, 30, 0.05, 7):
            await asyncio.sleep(pause)
            await together(*(row() for _ in range(12)))
        return times

    times = with_pool([Endpoint("m", rps=10)], work)
    assert min(later - time for time, later in zip(times, times[2:], strict=False)) > 0.1


def test_a_cooling_endpoint_takes_no_call_and_the_others_take_over() -> None:
    async def work(pool: Pool) -> None:
        resting, working = pool.members
        for seconds in (5, 20, 6):  # a longer one prolongs it, a shorter one shortens nothing
            pool.cool_down(resting, seconds)
        assert pool.cooling() == 0
        assert {await call(pool, 1) for _ in range(10)} == {working}
        pool.cool_down(working, 30)
        assert pool.cooling() == pytest.approx(10)
        assert await call(pool, 0) is resting
        assert now() == pytest.approx(20)

    with_pool([Endpoint("a", max_concurrency=1), Endpoint("b")], work)


def test_a_passage_that_comes_during_a_cooldown_is_not_used() -> None:
    async def work(pool: Pool) -> None:
        [member] = pool.members
        await call(pool, 0)
        waiting = asyncio.ensure_future(call(pool, 0))
        await asyncio.sleep(0.5)
        pool.cool_down(member, 10)  # the limiter would let the row pass at 1.0
        await waiting
        assert 10.5 <= now() < 11.6

    with_pool([Endpoint("m", rps=1)], work)


def test_a_timer_that_fires_early_still_ends_a_cooldown() -> None:
    """A loop's timer may fire early by the clock's resolution, 16 ms on Windows."""

    async def work(pool: Pool) -> None:
        pool.cool_down(pool.members[0], 20)
        await call(pool, 0)
        assert now() == pytest.approx(20, abs=0.016)

    with_pool([Endpoint("m")], work, lateness=lambda: -0.01, resolution=0.016)


def test_an_endpoint_that_is_out_gets_no_more_rows_and_without_any_the_rows_are_told() -> None:
    async def work(pool: Pool) -> None:
        bad, good = pool.members
        under_way = await pool.take()
        assert pool.put_out(bad, "the API key was refused")
        assert not pool.put_out(bad, "once more")
        assert bad.out == "the API key was refused"
        assert pool.capacity == 3
        assert await together(*(call(pool, 1) for _ in range(6))) == [good] * 6
        pool.cool_down(good, 100)
        waiting = [asyncio.ensure_future(pool.take()) for _ in range(4)]
        await asyncio.sleep(1)
        assert pool.put_out(good, "no quota is left")
        ends = await asyncio.gather(*waiting, pool.take(), return_exceptions=True)
        assert [type(end) for end in ends] == [PoolEmpty] * 5
        pool.give_back(under_way)
        assert pool.in_flight == 0
        assert [count.out for count in pool.counts()] == ["the API key was refused", "no quota is left"]

    with_pool([Endpoint("bad", max_concurrency=5), Endpoint("good", max_concurrency=3)], work)


def test_a_pool_without_endpoints_is_empty() -> None:
    async def work(pool: Pool) -> None:
        with pytest.raises(PoolEmpty):
            await pool.take()

    with_pool([], work)


@pytest.mark.parametrize("endpoint", [Endpoint("m", max_concurrency=2), Endpoint("m", rps=1, max_concurrency=2)])
def test_a_closed_pool_hands_out_nothing_and_lets_come_what_is_under_way(endpoint: Endpoint) -> None:
    async def work(pool: Pool) -> None:
        rows = [asyncio.ensure_future(call(pool, 50)) for _ in range(5)]
        await asyncio.sleep(10)
        pool.close()
        ends = await asyncio.gather(*rows, pool.take(), return_exceptions=True)
        assert Counter(type(end) for end in ends) == {Member: 2, PoolClosed: 4}
        assert pool.in_flight == 0

    with_pool([endpoint], work)


def test_a_row_cancelled_in_the_moment_of_its_grant_gives_the_call_back() -> None:
    async def work(pool: Pool) -> None:
        first = await pool.take()
        cancelled, patient = (asyncio.ensure_future(pool.take()) for _ in range(2))
        await asyncio.sleep(1)
        pool.give_back(first)
        cancelled.cancel()
        member = await patient
        assert cancelled.cancelled()
        pool.give_back(member)
        assert pool.in_flight == 0
        assert member.requests == 2

    with_pool([Endpoint("m", max_concurrency=1)], work)


def test_the_repr_tells_the_state_and_no_key() -> None:
    async def work(pool: Pool) -> str:
        await pool.take()
        pool.put_out(pool.members[1], "the API key was refused")
        return repr(pool.members)

    shown = with_pool([Endpoint("m", "http://a/v1", "sk-secret"), Endpoint(llm=object())], work)
    assert shown == (
        "[<Member endpoint 1 (m at http://a/v1): 1 in flight, 1 requests>,"
        " <Member endpoint 2 (object): the API key was refused>]"
    )


class Row(NamedTuple):
    """When a row comes, how long its call takes, whether it comes again, and when it is cancelled if it is."""

    comes: float
    takes: float
    again: bool
    cancelled: float | None

    async def travel(self, pool: Pool) -> bool:
        """Make the call; return whether it was made."""
        await asyncio.sleep(self.comes)
        try:
            member = await pool.take(again=self.again)
        except PoolEmpty:
            return False
        try:
            assert member.out is None
            assert member.in_flight <= member.endpoint.max_concurrency
            assert member.cooldown_until <= now()
            await asyncio.sleep(self.takes)
        finally:
            pool.give_back(member)
        return True


class Trouble(NamedTuple):
    """What befalls an endpoint, and when."""

    comes: float
    number: int
    is_out: bool

    async def befall(self, pool: Pool) -> None:
        await asyncio.sleep(self.comes)
        member = pool.members[self.number % len(pool.members)]
        if self.is_out:
            pool.put_out(member, "out")
        else:
            pool.cool_down(member, 0.83)  # does not end in a moment at which something else happens


# Few different moments, so that much happens in one turn of the loop.
moments = st.integers(0, 12).map(lambda quarters: quarters / 4)
endpoints_strategy = st.lists(
    st.builds(
        Endpoint, st.just("m"), rps=st.none() | st.sampled_from([0.5, 4, 100]), max_concurrency=st.integers(1, 4)
    ),
    min_size=1,
    max_size=3,
)
rows_strategy = st.lists(st.builds(Row, moments, moments, st.booleans(), st.none() | moments), max_size=40)
# Between those moments: a row that was granted its call in the very turn of the loop may still make it.
between = moments.map(lambda moment: moment + 0.1)
troubles_strategy = st.lists(st.builds(Trouble, between, st.integers(0, 2), st.booleans()), max_size=4)


@given(endpoints_strategy, rows_strategy, troubles_strategy)
def test_whatever_happens_no_call_leaks_and_every_row_is_served(
    endpoints: list[Endpoint], rows: list[Row], troubles: list[Trouble]
) -> None:
    async def work(pool: Pool) -> None:
        travels = [asyncio.ensure_future(row.travel(pool)) for row in rows]
        for row, travel in zip(rows, travels, strict=True):
            if row.cancelled is not None:
                asyncio.get_running_loop().call_later(row.cancelled, travel.cancel)
        await together(*(trouble.befall(pool) for trouble in troubles))
        ends = await asyncio.gather(*travels, return_exceptions=True)
        assert pool.in_flight == 0
        lost = all(member.out for member in pool.members)
        for row, end in zip(rows, ends, strict=True):
            assert end is True or (end is False and lost) or (row.cancelled is not None and _is_cancelled(end))

    with_pool(endpoints, work)


def _is_cancelled(end: object) -> bool:
    return isinstance(end, asyncio.CancelledError)


# -- How many at once


def test_the_width_starts_small_and_grows_only_where_it_is_what_limits() -> None:
    async def work(pool: Pool) -> list[float]:
        [member] = pool.members

        async def round_of(calls: int) -> float:
            taken = [await pool.take() for _ in range(calls)]
            for each in taken:
                pool.succeeded(each)
                pool.give_back(each)
            return member.width

        return [member.width, await round_of(10), await round_of(32), await round_of(32)]

    first, idle, full, after = with_pool([Endpoint("m")], work)
    assert (first, idle) == (32, 32)
    assert 32 < full == after, "ten, or 32 of 33, are no full width"


def test_a_service_under_load_is_asked_less_once_for_all_that_it_refused_together() -> None:
    async def work(pool: Pool) -> list[float]:
        [member] = pool.members
        widths = []
        for seconds in (1, 2, 1):  # three refusals of one burst
            pool.cool_down(member, seconds)
            pool.succeeded(member)  # what comes meanwhile says nothing
            widths.append(member.width)
        await asyncio.sleep(3)
        pool.cool_down(member, 1)
        return [*widths, member.width]

    assert with_pool([Endpoint("m", max_concurrency=8)], work) == [4, 4, 4, 2]


def test_the_width_settles_near_what_a_service_can_do_at_once() -> None:
    can_do = 40

    async def work(pool: Pool) -> tuple[int, int, float]:
        [member] = pool.members
        refused = peak = 0

        async def row() -> None:
            nonlocal refused, peak
            while True:
                await pool.take()
                peak = max(peak, member.in_flight)
                if member.in_flight > can_do:
                    refused += 1
                    pool.cool_down(member, 0.5)
                    pool.give_back(member)
                    continue
                await asyncio.sleep(1)
                pool.succeeded(member)
                pool.give_back(member)
                return

        await together(*(row() for _ in range(4000)))
        return refused, peak, now()

    refused, peak, seconds = with_pool([Endpoint("m")], work)
    assert refused < 100
    assert peak < 2 * can_do
    assert seconds < 2 * 4000 / can_do


def test_ten_paced_keys_are_ten_times_as_fast_as_one() -> None:
    async def work(pool: Pool) -> float:
        await together(*(call(pool, 0.1) for _ in range(20)))
        return now()

    keys = [Endpoint("m", api_key=f"k{n}", rpm=6) for n in range(10)]
    assert with_pool(keys, work) == pytest.approx(10.2, abs=0.3), "two calls each, ten seconds apart"

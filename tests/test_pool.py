from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from statistics import mean
from typing import Any, NamedTuple, TypeVar

import pytest
from conftest import Lab
from fake_service import Service
from hypothesis import given
from hypothesis import strategies as st
from pools import (
    ANSWER,
    Came,
    call,
    end,
    lognormal,
    member_of,
    now,
    refused,
    serve_rows,
    taken,
    through,
    together,
    with_pool,
)
from virtual_time import run_virtually

from batcher.calls.factory import ChatCallers
from batcher.endpoint import Endpoint
from batcher.money.tariff import Tariff
from batcher.pool.blame import History
from batcher.pool.member import Member, Silence
from batcher.pool.pool import ModelGone, Pool, PoolClosed, PoolEmpty
from batcher.records import Allowance, Completion, Failure, Fault, ServerLimits, Usage
from batcher.server.serve import embedded
from batcher.server.simulated import Knobs

T = TypeVar("T")


def test_rows_are_served_first_come_first_served_and_those_that_come_back_first() -> None:
    async def work(pool: Pool) -> list[str]:
        served = []

        async def row(name: str, after: Member | None = None) -> None:
            await call(pool, 1, after=after)
            served.append(name)

        await together(row("first"), *(row(str(i)) for i in range(5)), row("back", pool.members[0]))
        return served

    assert with_pool([Endpoint("m", max_concurrency=1)], work) == ["first", "back", *"01234"]


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
        assert pool.cooldown_s() == 0
        assert {await call(pool, 1) for _ in range(10)} == {working}
        pool.cool_down(working, 30)
        assert pool.cooldown_s() == pytest.approx(10)
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


@pytest.mark.parametrize("status", [429, 500, 503, 529])
def test_an_endpoint_that_asks_for_a_rest_gets_it(status: int) -> None:
    async def work(pool: Pool) -> None:
        await call(pool, 1)
        await call(pool, 1, refused(status, 20))
        await call(pool, 0)
        assert now() == pytest.approx(22)

    with_pool([Endpoint("m")], work)


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
        under_way = await taken(pool)
        assert pool.remove(bad, "the API key was refused")
        assert not pool.remove(bad, "once more")
        assert bad.out == "the API key was refused"
        assert pool.capacity == 3
        assert await together(*(call(pool, 1) for _ in range(6))) == [good] * 6
        pool.cool_down(good, 100)
        waiting = [asyncio.ensure_future(pool.take()) for _ in range(4)]
        await asyncio.sleep(1)
        assert pool.remove(good, "no quota is left")
        ends = await asyncio.gather(*waiting, pool.take(), return_exceptions=True)
        assert [type(end) for end in ends] == [PoolEmpty] * 5
        pool.release(under_way)
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
        first = await taken(pool)
        cancelled, patient = (asyncio.ensure_future(pool.take()) for _ in range(2))
        await asyncio.sleep(1)
        pool.release(first)
        cancelled.cancel()
        slot = await patient
        assert cancelled.cancelled()
        assert pool.leave(slot)
        pool.release(slot)
        assert pool.in_flight == 0
        assert slot.member.requests == 2

    with_pool([Endpoint("m", max_concurrency=1)], work)


def test_the_repr_tells_the_state_and_no_key() -> None:
    async def work(pool: Pool) -> str:
        await taken(pool)
        pool.remove(pool.members[1], "the API key was refused")
        return repr(pool.members)

    shown = with_pool([Endpoint("m", "http://a/v1", "sk-secret"), Endpoint(llm=object())], work)
    assert shown == (
        "[<Member endpoint 1 (m at http://a/v1): 1 in flight, 1 requests>,"
        " <Member endpoint 2 (object): the API key was refused>]"
    )


class Row(NamedTuple):
    """When a row comes, how long its call takes, its tokens, whether it is back, and when it is cancelled if it is."""

    comes: float
    takes: float
    tokens: int | None
    again: bool
    cancelled: float | None

    async def travel(self, pool: Pool) -> bool:
        """Make the call; return whether it was made."""
        await asyncio.sleep(self.comes)
        try:
            slot = await pool.take(after=pool.members[0] if self.again else None, tokens=self.tokens)
        except PoolEmpty:
            return False
        try:
            member = slot.member
            assert member.out is None
            assert member.in_flight <= member.account.in_flight <= member.endpoint.max_concurrency
            assert member.cooldown_until <= now()
            assert pool.leave(slot)
            await asyncio.sleep(self.takes)
            pool.record(slot, Completion("fine", usage=Usage(1, 1)))
        finally:
            pool.release(slot)
        return True


class Trouble(NamedTuple):
    """An event at an endpoint, and its time."""

    comes: float
    number: int
    is_out: bool

    async def befall(self, pool: Pool) -> None:
        await asyncio.sleep(self.comes)
        member = pool.members[self.number % len(pool.members)]
        if self.is_out:
            pool.remove(member, "out")
        else:
            pool.cool_down(member, 0.83)  # does not end in a moment at which something else happens


# Few different moments, so that much happens in one turn of the loop.
moments = st.integers(0, 12).map(lambda quarters: quarters / 4)
sizes = st.none() | st.sampled_from([0, 1, 50, 100])
endpoint_strategy = st.builds(
    Endpoint,
    st.just("m"),
    rps=st.none() | st.sampled_from([0.5, 4, 100]),
    tpm=st.none() | st.sampled_from([60, 6000]),
    max_concurrency=st.integers(1, 4),
)
# Two keys of one account, and perhaps a third endpoint with limits of its own.
shared_strategy = st.builds(
    lambda key, others: [replace(key, account="a")] * 2 + others,
    endpoint_strategy,
    st.lists(endpoint_strategy, max_size=1),
)
endpoints_strategy = st.lists(endpoint_strategy, min_size=1, max_size=3) | shared_strategy
rows_strategy = st.lists(st.builds(Row, moments, moments, sizes, st.booleans(), st.none() | moments), max_size=40)
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
        for row, came in zip(rows, ends, strict=True):
            assert came is True or (came is False and lost) or (row.cancelled is not None and _is_cancelled(came))

    with_pool(endpoints, work)


def _is_cancelled(end: object) -> bool:
    return isinstance(end, asyncio.CancelledError)


# -- From the grant to the departure


@pytest.mark.parametrize("happens", ["rests", "is out", "is closed"])
def test_a_call_whose_endpoint_is_lost_while_its_intent_is_committed_does_not_leave(happens: str) -> None:
    async def work(pool: Pool) -> None:
        [member] = pool.members
        slot = await pool.take(tokens=100)
        {
            "rests": lambda: pool.cool_down(member, 5),
            "is out": lambda: pool.remove(member, "out"),
            "is closed": pool.close,
        }[happens]()
        assert not pool.leave(slot)
        pool.release(slot)
        assert (pool.in_flight, member.requests) == (0, 0)
        if happens == "rests":
            await call(pool, 0, tokens=100)
            assert now() == pytest.approx(5), "what did not leave took nothing of the limit"

    with_pool([Endpoint("m", tpm=100)], work)


def test_calls_whose_intents_are_committed_together_break_no_limit() -> None:
    async def work(pool: Pool) -> list[float]:
        left = []

        async def row(number: int) -> None:
            slot = await pool.take()
            await asyncio.sleep(max(0.0, 7 - now()))  # the disk stands still for seven seconds
            assert pool.leave(slot)
            left.append(now())
            end(pool, slot)

        await together(*(row(number) for number in range(200)))
        return left

    left = with_pool([Endpoint("m", rps=10)], work)
    assert max(sum(time <= other < time + 1 for other in left) for time in left) == 10
    assert left[-1] < 7 + 1.1 + 190 / 9.9


# -- Tokens


def test_a_large_call_among_a_thousand_small_ones_waits_no_longer_than_its_turn() -> None:
    async def work(pool: Pool) -> list[tuple[int, float]]:
        left = []

        async def row(number: int, tokens: int) -> None:
            slot = await taken(pool, tokens=tokens)
            left.append((number, now()))
            end(pool, slot, Completion("fine", usage=Usage(tokens, 0)))

        await together(*(row(number, 20_000 if number == 500 else 100) for number in range(1001)))
        return left

    left = with_pool([Endpoint("m", tpm=60_000)], work)
    assert [number for number, _ in left] == list(range(1001))
    turn, time = left[499][1], left[500][1]
    assert time - turn < 20_000 / 60_000 * 60 * 1.02


def test_a_call_larger_than_the_limit_of_a_minute_goes_alone_and_keeps_no_other_endpoint_waiting() -> None:
    async def work(pool: Pool) -> list[tuple[float, Member, int]]:
        left = []

        async def row(tokens: int) -> None:
            slot = await taken(pool, tokens=tokens)
            left.append((now(), slot.member, tokens))
            await asyncio.sleep(1)
            end(pool, slot, Completion("fine", usage=Usage(tokens, 0)))

        await together(*(row(2500 if number == 40 else 100) for number in range(200)))
        return left

    left = with_pool([Endpoint("m", tpm=1000), Endpoint("m", tpm=1000)], work)
    [(huge_left, its_member, _)] = [each for each in left if each[2] == 2500]
    gaps = [time - huge_left for time, member, _ in left if member is its_member]
    assert max(gap for gap in gaps if gap < 0) < -60
    assert 140 < min(gap for gap in gaps if gap > 0) < 152
    others = [time for time, member, _ in left if member is not its_member]
    assert max(later - time for time, later in pairwise(others)) < 13


def test_where_nothing_is_estimated_a_call_counts_as_what_calls_have_used_so_far() -> None:
    async def work(pool: Pool) -> float:
        async def row() -> None:
            slot = await taken(pool)
            await asyncio.sleep(0.5)
            end(pool, slot, Completion("fine", usage=Usage(90, 10)))

        await together(*(row() for _ in range(200)))
        return now()

    assert with_pool([Endpoint("m", tpm=6000)], work) == pytest.approx(200, rel=0.03)


# -- Rows through services in virtual time


def late_by_up_to_8_ms() -> Callable[[], float]:
    draw = random.Random(8)
    return lambda: draw.uniform(0, 0.008)


@pytest.mark.parametrize("clock", [{}, {"lateness": late_by_up_to_8_ms()}], ids=["punctual", "late"])
@pytest.mark.parametrize("keys", [1, 3, 10])
def test_the_limit_is_the_only_limit(keys: int, clock: Any) -> None:
    draw = lognormal(1.5)
    latencies = [draw() for _ in range(2000)]

    async def serve(_member: Member, row: int) -> Came:
        await asyncio.sleep(latencies[row])
        return ANSWER

    ideal = max(row / 100 + latency for row, latency in enumerate(latencies))
    served = serve_rows([Endpoint("m", rps=100 / keys)] * keys, 2000, serve, **clock)
    assert ideal - 0.1 <= served.seconds <= 1.015 * ideal, "100 ms may be caught up"


@pytest.mark.parametrize(("keys", "chunk_size"), [(1, 50), (3, 100), (10, 500), (1, 5000)])
def test_a_run_uses_the_limit_whatever_the_chunk_size(lab: Lab, keys: int, chunk_size: int) -> None:
    draw = lognormal(1.5)
    rows = [f"row {number}" for number in range(2000)]
    latencies = {row: draw() for row in rows}
    # The first row goes alone.
    ideal = latencies[rows[0]] + max(number / 100 + latencies[row] for number, row in enumerate(rows[1:]))
    lab.run(
        rows,
        Service(rows, latency=lambda call: latencies[call.prompt]),
        endpoints=[Endpoint("m", api_key=f"k{number}", rps=100 / keys) for number in range(keys)],
        chunk_size=chunk_size,
    )
    assert ideal - 0.1 <= lab.seconds <= 1.015 * ideal


# -- As many at once as a service bears


class Slots:
    """A service that bears a number of calls at once and refuses more.

    Attributes:
        use: its slots in use, weighed with the time, by the number of the row that was being served.
    """

    def __init__(self, slots: int, latency: Callable[[], float], refusal: Failure, way_s: float) -> None:
        self._slots = slots
        self._latency = latency
        self._refusal = refusal
        self._way_s = way_s
        self._busy = 0
        self._since = 0.0
        self._area = 0.0
        self.areas: list[tuple[float, float]] = []

    async def __call__(self, _member: Member, _row: int) -> Came:
        await asyncio.sleep(self._way_s)
        if self._busy >= self._slots:
            await asyncio.sleep(self._way_s)
            return self._refusal
        self._count(1)
        await asyncio.sleep(self._latency())
        self._count(-1)
        await asyncio.sleep(self._way_s)
        return ANSWER

    def _count(self, change: int) -> None:
        self._area += self._busy * (now() - self._since)
        self._since = now()
        self._busy += change
        self.areas.append((now(), self._area))

    def use(self, since: float, until: float) -> float:
        """Return the share of the slots that were busy between two moments, as shares of the run."""
        last = self.areas[-1][0]
        inside = [area for area in self.areas if since * last <= area[0] <= until * last]
        (begin, before), (end_, after) = inside[0], inside[-1]
        return (after - before) / (end_ - begin) / self._slots


@pytest.mark.parametrize("latency", [lambda: 1.0, lognormal(1.5)], ids=["even", "log-normal"])
@pytest.mark.parametrize("way_s", [0.0, 0.025])
@pytest.mark.parametrize("retry_after", [None, 1])
@pytest.mark.parametrize("status", [429, 503])
def test_an_endpoint_that_bears_40_at_once_gets_about_40_and_nine_tenths_of_them_work(
    status: int, retry_after: float | None, way_s: float, latency: Callable[[], float]
) -> None:
    service = Slots(40, latency, refused(status, retry_after), way_s)
    served = serve_rows([Endpoint("m")], 3000, service)
    assert 32 <= served.members[0].concurrency.limit <= 48
    assert service.use(0.1, 0.8) >= 0.9
    assert served.refused < 60
    assert served.failures <= 1, "a row has six attempts"


async def test_a_real_server_that_bears_40_at_once_gets_about_40() -> None:
    limits = []
    callers = ChatCallers({})

    async def serve(member: Member, row: int) -> Came:
        if row > 500:
            limits.append(member.concurrency.limit)
        return await member.caller.call([{"role": "user", "content": str(row)}], 120)

    # So slow that the processor, which other tests use as well, is not what holds the answers back.
    with embedded(Knobs(max_in_flight=40, latency=0.4, latency_sigma=0.5)) as server:
        endpoint = Endpoint("m", server.base_url)
        members = [member_of(0, endpoint, callers.caller(endpoint))]
        done: list[int] = []
        async with Pool(members, timeout_s=120, rows_left=lambda: 1000 - len(done)) as pool:
            served = await through(pool, 1000, serve, done)
        await callers.close()
        assert server.books.by_status == {200: 1000, 429: served.refused}
    assert 32 <= mean(limits) <= 48
    assert served.refused < 100


def test_a_pace_that_is_too_quick_for_an_endpoint_ends_in_the_same() -> None:
    service = Slots(40, lognormal(1.5), refused(), 0.025)
    serve_rows([Endpoint("m", rps=100)], 3000, service)
    assert service.use(0.1, 0.8) >= 0.9


def test_where_more_calls_only_queue_the_width_stays_and_no_call_comes_near_its_timeout() -> None:
    at_once = asyncio.Semaphore(4)
    waits = []

    async def serve(_member: Member, _row: int) -> Came:
        began = now()
        async with at_once:
            await asyncio.sleep(5)
        waits.append(now() - began)
        return ANSWER

    served = serve_rows([Endpoint("m")], 400, serve)
    assert served.seconds == pytest.approx(400 / 4 * 5, rel=0.01)
    assert max(waits) < 120 / 1.5
    assert served.members[0].concurrency.limit < 64


def test_an_endpoint_that_refuses_everything_is_asked_ever_less_often_until_it_is_back() -> None:
    times = []

    async def serve(_member: Member, _row: int) -> Came:
        times.append(now())
        await asyncio.sleep(0.1)
        return refused() if 1 < now() < 600 else ANSWER

    served = serve_rows([Endpoint("m")], 3000, serve)
    outage = [time for time in times if 10 < time < 590]
    assert len(outage) < 30
    assert served.seconds < 600 + 60 + 20


# -- What a server states


def test_a_limit_that_only_the_server_states_is_kept_and_used() -> None:
    """A bucket of 600 calls, ten more a second; it reports its limits as OpenAI does."""
    level, since, times = 600.0, 0.0, []

    async def serve(_member: Member, _row: int) -> Came:
        nonlocal level, since
        level, since = min(600.0, level + 10 * (now() - since)), now()
        fits = level >= 1
        level -= fits
        times.append(now())
        limits = ServerLimits(Allowance(600, math.floor(level), round((600 - level) / 10, 3)), None)
        await asyncio.sleep(0.3)
        return Completion("fine", limits=limits) if fits else Failure(Fault.STATUS, "no", 429, limits=limits)

    served = serve_rows([Endpoint("m")], 3000, serve)
    assert served.refused == 0
    assert served.seconds == pytest.approx(300, rel=0.03)
    assert max(sum(time <= other < time + 60 for other in times) for time in times[::50]) <= 600 + 32


def test_a_calendar_minute_that_only_the_server_states_is_used_up_and_waited_for() -> None:
    used: Counter[int] = Counter()

    async def serve(_member: Member, _row: int) -> Came:
        minute, into = divmod(now() + 20, 60)
        used[int(minute)] += 1
        left = 600 - used[int(minute)]
        limits = ServerLimits(Allowance(600, max(left, 0), round(60 - into, 3)), None)
        await asyncio.sleep(0.3)
        return Completion("fine", limits=limits) if left >= 0 else Failure(Fault.STATUS, "no", 429, limits=limits)

    served = serve_rows([Endpoint("m")], 3000, serve)
    assert served.seconds < 40 + 3 * 60 + 30, "600 rows in each minute, of which the first is the last third"
    assert served.refused < 2 * 256, "it is put to the test once"


@pytest.mark.parametrize(
    "allowance",
    [Allowance(500, 0, 60.0), Allowance(10, 0, 1e9), Allowance(None, 0, 60.0), Allowance(-1, -1, 60.0)],
    ids=str,
)
def test_a_server_that_always_states_that_nothing_is_left_costs_a_minute_at_most(allowance: Allowance) -> None:
    async def serve(_member: Member, _row: int) -> Came:
        await asyncio.sleep(1)
        return Completion("fine", limits=ServerLimits(None, allowance))

    assert serve_rows([Endpoint("m")], 2000, serve).seconds < 60 + 2000 / 32


def test_what_the_user_says_of_a_limit_counts_not_what_the_server_states() -> None:
    async def serve(_member: Member, row: int) -> Came:
        await asyncio.sleep(0.1)
        return Completion("fine", limits=ServerLimits(Allowance(60, 40, 20.0), None))

    assert serve_rows([Endpoint("m", rpm=600)], 200, serve).seconds == pytest.approx(20, rel=0.05)


def test_a_row_whose_turn_it_is_when_the_server_changes_its_limit_keeps_it() -> None:
    def states(limit: float) -> Completion:
        return Completion("fine", limits=ServerLimits(None, Allowance(limit, 0.9 * limit, 6.0)))

    async def work(pool: Pool) -> None:
        first, second = await taken(pool), await taken(pool)
        end(pool, first, states(1000))
        await call(pool, 1, tokens=900)
        next_one = asyncio.ensure_future(taken(pool, tokens=900))
        await asyncio.sleep(57)  # it has been paid for, and waits until there is room
        end(pool, second, states(2000))
        await next_one
        assert now() == pytest.approx(58)

    with_pool([Endpoint("m")], work)


# -- One bad endpoint of three


async def _answers_late(_row: int) -> Came:
    await asyncio.sleep(60)
    return ANSWER


async def _fails_at_once(_row: int) -> Came:
    await asyncio.sleep(0.05)
    return refused(500)


async def _fails_often(row: int) -> Came:
    await asyncio.sleep(0.05)
    return refused(500) if row % 2 else ANSWER


async def _hangs(_row: int) -> Came:
    await asyncio.sleep(120)
    return Failure(Fault.TIMEOUT, "nothing came")


async def _is_not_there(_row: int) -> Came:
    await asyncio.sleep(0)
    return Failure(Fault.CONNECTION, "nobody listens")


async def _refuses(_row: int) -> Came:
    await asyncio.sleep(0.05)
    return refused()


@pytest.mark.parametrize("bad", [_answers_late, _fails_at_once, _fails_often, _hangs, _is_not_there, _refuses])
@pytest.mark.parametrize("limits", [{"rps": 10}, {"max_concurrency": 20}], ids=["paced", "free"])
def test_one_bad_endpoint_of_three_costs_no_more_than_its_share(
    bad: Callable[[int], Awaitable[Came]], limits: Any
) -> None:
    """At worst the other two endpoints do all the work; an early call at the bad endpoint may end the run."""
    rows = 6000

    async def serve(member: Member, row: int) -> Came:
        if member.number == 0:
            return await bad(row)
        await asyncio.sleep(1.5)
        return ANSWER

    served = serve_rows([Endpoint("m", **limits)] * 3, rows, serve)
    alone = rows / 20 if "rps" in limits else rows / (40 / 1.5)
    assert served.seconds < 1.03 * alone + 3
    assert served.failures <= 1, "a row that failed goes to another endpoint"
    assert served.refused < 100 or bad is _fails_often


def test_an_endpoint_that_failed_for_an_hour_is_used_again() -> None:
    times: Counter[int] = Counter()

    async def serve(member: Member, _row: int) -> Came:
        await asyncio.sleep(1)
        if member.number == 0 and now() < 3600:
            return refused(500)
        times[member.number] += now() > 3800
        return ANSWER

    serve_rows([Endpoint("m", rps=1)] * 2, 5000, serve)
    assert times[0] == pytest.approx(times[1], rel=0.1)


def test_endpoints_with_different_models_and_urls_work_together() -> None:
    async def serve(member: Member, _row: int) -> Came:
        await asyncio.sleep(1)
        return ANSWER

    endpoints = [Endpoint("a", "http://a/v1", rps=10), Endpoint("b", "http://b/v1", tpm=10**6), Endpoint(llm=object())]
    served = serve_rows(endpoints, 600, serve)
    assert all(member.requests > 10 for member in served.members)


def test_ten_paced_keys_are_ten_times_as_fast_as_one() -> None:
    async def work(pool: Pool) -> float:
        await together(*(call(pool, 0.1) for _ in range(20)))
        return now()

    keys = [Endpoint("m", api_key=f"k{n}", rpm=6) for n in range(10)]
    assert with_pool(keys, work) == pytest.approx(10.2, abs=0.3), "two calls each, ten seconds apart"


# -- Rows that name their model


def test_a_row_that_names_a_model_waits_for_its_endpoint_and_others_pass_it() -> None:
    async def work(pool: Pool) -> list[tuple[str, str, float]]:
        served: list[tuple[str, str, float]] = []

        async def row(name: str, seconds: float, model: str = "") -> None:
            member = await call(pool, seconds, model=model)
            served.append((name, member.endpoint.real_source.model, now()))

        await together(
            *(row(f"a{number}", 10, "a") for number in range(3)),
            row("b", 1, "b"),
            row("any", 1),
            row("strange", 1, "c"),
        )
        return served

    served = with_pool([Endpoint("a", max_concurrency=1), Endpoint("b", max_concurrency=1)], work)
    assert {name: model for name, model, _ in served} == {
        **dict.fromkeys(("a0", "a1", "a2"), "a"),
        **dict.fromkeys(("b", "any", "strange"), "b"),
    }
    assert [round(at) for name, _, at in served if name in {"b", "any", "strange"}] == [1, 2, 3]


def test_each_account_with_a_limit_is_paced_by_the_rows_of_its_own_model() -> None:
    async def work(pool: Pool) -> Counter[tuple[str, str]]:
        served: Counter[tuple[str, str]] = Counter()

        async def row(model: str) -> None:
            served[model, (await call(pool, 0.1, model=model)).endpoint.real_source.model] += 1

        await together(*(row("ab"[number % 2]) for number in range(200)))
        assert now() == pytest.approx(100 / 5, abs=2)
        return served

    endpoints = [Endpoint("a", rps=5), Endpoint("b", rps=10)]
    assert with_pool(endpoints, work) == {("a", "a"): 100, ("b", "b"): 100}


def test_keys_of_one_model_share_its_rows_and_a_failed_row_goes_to_the_other_key() -> None:
    async def work(pool: Pool) -> list[int]:
        first = await call(pool, 1, refused(500), model="a")
        members = [await call(pool, 1, after=first, failures=1, model="a") for _ in range(4)]
        assert {member.endpoint.real_source.model for member in members} == {"a"}
        assert first not in members
        return [member.requests for member in pool.members]

    endpoints = [Endpoint("b"), Endpoint("a", api_key="one"), Endpoint("a", api_key="two")]
    assert with_pool(endpoints, work)[0] == 0


def test_rows_whose_endpoint_has_left_are_refused_and_the_others_go_on() -> None:
    async def work(pool: Pool) -> tuple[list[str], int]:
        slot = await taken(pool, model="b")
        waiting = [asyncio.ensure_future(pool.take(model="b")) for _ in range(3)]
        await asyncio.sleep(0)
        pool.remove(pool.members[1], "no such model")
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(each, ModelGone) for each in ended)
        end(pool, slot)
        with pytest.raises(ModelGone, match="no such model"):
            await pool.take(model="b")
        await call(pool, 1, model="c")
        pool.remove(pool.members[0], "gone")
        with pytest.raises(PoolEmpty):
            await pool.take(model="b")
        return [str(each) for each in ended], pool.members[0].requests

    said, others = with_pool([Endpoint("a"), Endpoint("b", max_concurrency=1)], work)
    assert said == ["endpoint 2 (b at https://api.openai.com/v1) has left the pool: no such model"] * 3
    assert others == 1


def test_models_do_not_matter_in_a_pool_of_one() -> None:
    async def work(pool: Pool) -> int:
        await together(*(call(pool, 1, model="xyz"[number % 3]) for number in range(30)))
        return pool.members[0].requests

    assert with_pool([Endpoint("a")], work) == 30


# -- Tiers


def tiered(work: Callable[[Pool], Awaitable[T]]) -> T:
    """Do some work with a pool of two endpoints that are asked about every row, and one that is asked then."""

    async def open_and_work() -> T:
        callers = Service([])()
        endpoints = [Endpoint(name, max_concurrency=1) for name in ("a", "b", "c")]
        members = [
            Member(number, each, 0, callers.caller(each), Tariff.of(each, {}), is_known=True, tier=int(number == 2))
            for number, each in enumerate(endpoints)
        ]
        async with Pool(members, timeout_s=120) as pool:
            return await work(pool)

    return run_virtually(open_and_work())[0]


def test_a_row_goes_to_an_endpoint_of_its_tier_alone() -> None:
    async def work(pool: Pool) -> list[str | None]:
        asked = [call(pool, 1, tier=tier) for tier in (0, 1, 0, 1, 0, 0, 1)]
        return [member.endpoint.model for member in await together(*asked)]

    first, then, *others = tiered(work)
    assert (then, others[1], others[4]) == ("c", "c", "c")
    assert {first, others[0], others[2], others[3]} == {"a", "b"}


def test_a_tier_whose_endpoints_are_gone_is_an_empty_pool_for_its_rows_and_for_no_others() -> None:
    async def work(pool: Pool) -> tuple[bool, str | None]:
        held = await taken(pool, tier=1)
        waiting = asyncio.ensure_future(pool.take(tier=1))
        await asyncio.sleep(0)
        pool.remove(pool.members[2], "it is gone")
        end(pool, held)
        with pytest.raises(PoolEmpty):
            await waiting
        with pytest.raises(PoolEmpty):
            await pool.take(tier=1)
        return waiting.done(), (await call(pool, 1)).endpoint.model

    assert tiered(work) == (True, "a")


def test_a_slow_endpoint_of_another_tier_is_no_reason_to_leave_its_rows_waiting() -> None:
    async def work(pool: Pool) -> float:
        await together(*(call(pool, 0.1) for _ in range(4)))
        began = now()
        await together(*(call(pool, 60, tier=1) for _ in range(2)))
        return now() - began

    assert tiered(work) == pytest.approx(120)


def test_hours_in_which_nothing_is_asked_are_no_silence() -> None:
    async def work(pool: Pool) -> Silence | None:
        await call(pool, 1.0)
        await asyncio.sleep(7 * 3600.0)
        heard: list[Silence | None] = []
        for row in range(20):
            slot = await taken(pool)
            await asyncio.sleep(5.0)
            heard.append(pool.record(slot, refused(500), History(row)))
            pool.release(slot)
        return next(filter(None, heard), None)

    said = with_pool([Endpoint("m", max_concurrency=1)], work)
    assert said is not None
    assert 30 <= said.seconds < 600

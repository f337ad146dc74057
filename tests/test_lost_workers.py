"""Workers, limits and second requests together: however calls are delayed, lost or cut off, no limit is exceeded."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Service, answer_to
from fake_workers import Away
from hypothesis import given, settings
from hypothesis import strategies as st
from pools import member_of, now
from virtual_time import run_virtually

import batcher
from batcher.calls.workers.callers import WorkerCaller
from batcher.endpoint import Endpoint
from batcher.pool.limiter import Limiter
from batcher.pool.member import Member, Slot
from batcher.records import NO_PARAMS, NO_TERMS, Completion, Failure, Message


def rows(count: int) -> list[str]:
    return [f"question {number}" for number in range(count)]


def two(**options: Any) -> list[Endpoint]:
    return [Endpoint(name, base_url=f"http://{name}/v1", **options) for name in ("one", "two")]


def outcomes(lab: Lab) -> Counter[str]:
    return Counter(outcome for (outcome,) in lab.query("SELECT outcome FROM requests"))


def most_in_a_window(service: Service, endpoint: str, window_s: float) -> int:
    times = sorted(service.times(endpoint))
    return max((sum(begin <= at < begin + window_s for at in times) for begin in times), default=0)


_SECONDS = st.integers(5, 400).map(lambda tenths: tenths / 10)
_EVENTS = st.tuples(
    st.sampled_from(["kill", "drain", "slow", "fast", "add"]),
    st.integers(0, 9),
    st.sampled_from([0.1, 0.9, 3.0]),
)


def act(away: Away, what: str, place: int, seconds: float) -> None:
    alive = [each for each in away.cluster.links if not each.is_dead]
    if what == "add" or not alive:
        away.add()
    elif what == "kill":
        alive[place % len(alive)].kill()
    elif what == "drain":
        away.cluster.drain(alive[place % len(alive)])
        away.add()
    else:
        alive[place % len(alive)].slow_s = seconds if what == "slow" else 0.0


@settings(max_examples=20)
@given(st.data())
def test_in_no_window_does_more_reach_the_service_than_its_limit(data: st.DataObject) -> None:
    prompts = rows(data.draw(st.integers(60, 160), label="rows"))
    late = set(data.draw(st.lists(st.sampled_from(prompts), max_size=12), label="late"))
    service = Service(prompts, latency=lambda call: 30.0 if call.prompt in late and call.nth == 1 else 0.3)
    name, limit = data.draw(st.sampled_from([("rps", 4), ("rpm", 60)]), label="limit")
    workers = data.draw(st.integers(1, 3), label="workers")
    away = Away(service, workers, way_s=data.draw(st.sampled_from([0.001, 0.05, 0.4, 1.5]), label="way"))
    hedge = data.draw(st.sampled_from([None, 50, 90]), label="hedge")
    events = data.draw(st.dictionaries(_SECONDS, _EVENTS, max_size=10), label="events")
    at: dict[float, Any] = {second: partial(act, away, *each) for second, each in events.items()}
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(Path(directory))
        endpoints = two(max_concurrency=16, **{name: limit})
        report = lab.run(prompts, away, at=at, endpoints=endpoints, hedge=hedge, max_attempts=50)
        assert list(report.answers) == [answer_to(prompt) for prompt in prompts]
        ends = outcomes(lab)
        assert sum(service.asked.values()) <= len(prompts) + ends["worker lost"] + ends["hedged"]
        for each in endpoints:
            assert most_in_a_window(service, each.model or "", 1.0 if name == "rps" else 60.0) <= limit
        assert batcher.verify("k", output_dir=directory).ok


def test_requests_that_wait_for_a_worker_are_neither_late_nor_out_of_time(lab: Lab) -> None:
    prompts = rows(400)
    away = Away(Service(prompts), workers=1, replaces=False)
    at = {30.5: away.kill, 2000.0: away.add}
    report = lab.run(prompts, away, at=at, endpoints=two(max_concurrency=4), hedge=50, timeout=60)
    assert list(report.answers) == [answer_to(prompt) for prompt in prompts]
    assert lab.seconds > 2000
    assert set(outcomes(lab)) == {"answered", "worker lost"}


def test_answers_that_are_told_together_with_their_departure_are_not_all_late(lab: Lab) -> None:
    prompts = rows(300)
    away = Away(Service(prompts, latency=lambda _call: 0.001), workers=2, way_s=0.01)
    lab.run(prompts, away, endpoints=two(max_concurrency=8), hedge=50)
    assert set(outcomes(lab)) == {"answered"}


class Cut:
    """A call at a limit of one a second, which can be cut off; the engine's own accounts of it."""

    def __init__(self, away: Away) -> None:
        endpoint = Endpoint("m", rps=1)
        self.member = member_of(0, endpoint, away().caller(endpoint))
        self.limiter = self.member.account.limiter = Limiter(rps=1)
        self.slot: Slot
        self.task: asyncio.Task[Completion | Failure]

    def begin(self) -> None:
        self.slot = self.member.reserve(0)
        self.member.leave(self.slot, now())
        caller: WorkerCaller = self.member.caller  # type: ignore[assignment]
        departed = partial(tell, self.member, self.slot)
        self.task = asyncio.ensure_future(caller.call_away(asking("q"), 100.0, NO_PARAMS, NO_TERMS, departed))

    async def cut_off(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        self.member.release(self.slot)


def asking(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def tell(member: Member, slot: Slot) -> None:
    member.departed(slot, now())


def test_a_call_that_was_cut_off_counts_until_a_window_after_it_left_its_worker() -> None:
    async def work() -> None:
        service = Service(["q"], latency=lambda _call: 60.0)
        away = Away(service, workers=1, way_s=3.0)
        call = Cut(away)
        await asyncio.sleep(0.1)
        call.begin()
        await asyncio.sleep(0.2)
        await call.cut_off()
        while not service.calls or now() < service.calls[0].at + 1.0:
            assert call.limiter.wait(0) > 0
            await asyncio.sleep(0.1)
        await asyncio.sleep(20)
        assert call.limiter.wait(0) == 0
        await away.crew.close()

    run_virtually(work())


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_call_that_was_cut_off_and_never_left_gives_its_share_back_once(*, is_lost: bool) -> None:
    async def work() -> None:
        service = Service(["q"])
        away = Away(service, workers=1)
        call = Cut(away)
        await asyncio.sleep(0.1)
        away.cluster.links[0].slow_s = 50.0
        call.begin()
        await asyncio.sleep(0.1)
        if is_lost:
            away.stop()
            await asyncio.sleep(2)
        await call.cut_off()
        if is_lost:
            await asyncio.sleep(5)
            assert call.limiter.wait(0) > 0
            away.kill()
        await asyncio.sleep(5)
        assert not service.calls
        assert call.limiter.wait(0) == 0
        call.limiter.reserve(0).leave()
        assert call.limiter.wait(0) > 0
        await away.crew.close()

    run_virtually(work())


def test_a_failure_without_a_departure_tells_of_when_its_call_was_handed_over() -> None:
    async def work() -> None:
        call = Cut(Away(Service([])))
        slot = call.member.reserve(0)
        call.member.leave(slot, 5.0)
        call.member.departed(slot, 9.0, is_known=False)
        assert slot.left_at == 5.0
        assert call.limiter.wait(0) > 0
        call.member.departed(slot, 12.0)
        assert slot.left_at == 5.0

    run_virtually(work())

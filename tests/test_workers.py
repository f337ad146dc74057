"""A run whose calls workers make: whatever becomes of them, each row gets its own answer, and nothing is exceeded."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Call, Service, answer_to
from fake_workers import Away, FakeLink, no_connection
from hypothesis import given, settings
from hypothesis import strategies as st

import batcher
from batcher.calls.caller import CallCut
from batcher.endpoint import Endpoint
from batcher.errors import RunStopped
from batcher.output.report import Report
from batcher.records import Completion, Failure, Fault, Usage

PRICES = {"in": 1.0, "out": 10.0}
BOUND: dict[str, Any] = {"param": {"max_tokens": 8}}


def rows(count: int) -> list[str]:
    return [f"question {number}" for number in range(count)]


def run(lab: Lab, away: Away, prompts: list[str], at: Any = None, **options: Any) -> Report:
    return lab.run(prompts, away, at=at, **{"endpoints": [Endpoint("m", max_concurrency=32)]} | options)


def answers(report: Report) -> list[str]:
    return list(report.answers)


def outcomes(lab: Lab) -> Counter[str]:
    with sqlite3.connect(lab.directory / "journal_k.sqlite") as journal:
        return Counter(outcome for (outcome,) in journal.execute("SELECT outcome FROM requests"))


def test_workers_answer_each_row_with_its_own_answer_and_share_the_calls(lab: Lab) -> None:
    prompts = rows(400)
    away = Away(Service(prompts), workers=4)
    report = run(lab, away, prompts)
    assert answers(report) == [answer_to(prompt) for prompt in prompts]
    assert all(count == 1 for count in away.service.asked.values())
    assert all(link.calls > 20 for link in away.cluster.links)
    assert away.cluster.is_closed


def test_a_slow_worker_gets_less(lab: Lab) -> None:
    prompts = rows(600)
    away = Away(Service(prompts), workers=2)
    report = run(lab, away, prompts, at={0.01: lambda: setattr(away.cluster.links[0], "slow_s", 9.0)})
    assert report.ok == 600
    slow, fast = away.cluster.links
    assert slow.calls * 3 < fast.calls


@pytest.mark.parametrize("when", [0.5, 1.002, 2.5])
def test_what_a_dead_worker_had_in_flight_is_repeated_and_uses_up_no_attempts(lab: Lab, when: float) -> None:
    prompts = rows(200)
    away = Away(Service(prompts), workers=2)
    report = run(lab, away, prompts, at={when: away.kill}, max_attempts=1)
    assert answers(report) == [answer_to(prompt) for prompt in prompts]
    lost = outcomes(lab)["worker lost"]
    assert 0 < lost <= 32
    assert outcomes(lab) == {"answered": 200, "worker lost": lost}
    assert sum(away.service.asked.values()) <= 200 + lost
    (said,) = [each for each in away.said if "is lost" in each]
    assert f"{lost} request" in said
    assert report.endpoints[0].out is None


def test_lost_requests_cost_their_bound_because_they_may_be_billed(lab: Lab) -> None:
    prompts = rows(64)
    away = Away(Service(prompts, usage=lambda _call: Usage(10, 2)), workers=2)
    endpoint = Endpoint("m", max_concurrency=8, prices=PRICES)
    run(lab, away, prompts, at={0.5: away.kill}, endpoints=[endpoint], budget=1.0, **BOUND)
    with sqlite3.connect(lab.directory / "journal_k.sqlite") as journal:
        lost = journal.execute("SELECT cost, prompt_most FROM requests WHERE outcome = 'worker lost'").fetchall()
    assert lost
    assert all(cost == prompt_most * 1000 + 8 * 10_000 for cost, prompt_most in lost)


def test_the_budget_holds_when_workers_die(lab: Lab) -> None:
    prompts = rows(400)
    away = Away(Service(prompts, usage=lambda _call: Usage(10, 8)), workers=3)
    endpoint = Endpoint("m", max_concurrency=16, prices=PRICES)
    kills = {0.5 + second: away.kill_last for second in range(8)}
    with pytest.raises(RunStopped):
        run(lab, away, prompts, at=kills, endpoints=[endpoint], budget=0.02, **BOUND)
    billed = sum(10 * 1.0 + 8 * 10.0 for _ in away.service.calls) / 1e6
    assert billed <= 0.02


def test_a_row_that_ends_every_worker_ends_as_error_and_the_others_are_answered(lab: Lab) -> None:
    prompts = rows(40)

    def instead(call: Call) -> None:
        if call.prompt == "question 7":
            for link in away.cluster.links:
                link.kill()

    away = Away(Service(prompts, latency=lambda call: 0.1 if call.prompt == "question 7" else 1.0, instead=instead))
    report = run(lab, away, prompts, max_attempts=2)
    assert report.ok == 39
    assert report.error == 1
    assert "worker" in str(report.frame().iloc[7]["infer_error"])


def test_a_run_without_workers_waits_for_one(lab: Lab) -> None:
    prompts = rows(40)
    away = Away(Service(prompts), workers=1, replaces=False)

    report = run(lab, away, prompts, at={0.5: away.kill, 9000.0: away.add}, max_attempts=1)
    assert report.ok == 40
    assert [each for each in away.said if "No worker is left" in each]
    assert [each for each in away.said if "going on" in each]
    assert lab.seconds > 9000


def test_a_worker_that_joins_is_used_at_once(lab: Lab) -> None:
    prompts = rows(400)
    away = Away(Service(prompts), workers=1)
    report = run(lab, away, prompts, at={2.5: away.add})
    assert report.ok == 400
    assert away.cluster.links[1].calls > 100


def test_a_worker_that_drains_gets_no_further_call_and_finishes_its_own(lab: Lab) -> None:
    prompts = rows(400)
    away = Away(Service(prompts), workers=2)
    calls: list[int] = []

    def drain() -> None:
        calls.append(away.cluster.links[0].calls)
        away.cluster.drain(away.cluster.links[0])

    report = run(lab, away, prompts, at={2.5: drain})
    assert report.ok == 400
    assert outcomes(lab) == {"answered": 400}
    assert away.cluster.links[0].calls <= calls[0] + 32  # a group may have been on its way
    assert away.cluster.given_back == [away.cluster.links[0]]


def test_a_worker_that_does_not_reach_the_service_rests_and_no_row_and_no_endpoint_is_blamed(lab: Lab) -> None:
    prompts = rows(300)
    away = Away(Service(prompts), workers=3)
    cut_off: list[FakeLink] = []

    def cut() -> None:
        cut_off.append(away.cluster.links[0])
        cut_off[0].instead = no_connection

    def heal() -> None:
        cut_off[0].instead = lambda: None

    report = run(lab, away, prompts, at={0.01: cut, 5.0: heal}, max_attempts=1)
    assert answers(report) == [answer_to(prompt) for prompt in prompts]
    assert outcomes(lab) == {"answered": 300}
    assert report.endpoints[0].out is None
    assert len([each for each in away.said if "does not reach" in each]) == 1
    assert [each for each in away.said if "reaches" in each and "again" in each]


def test_if_no_worker_reaches_the_service_the_service_is_judged_as_ever(lab: Lab) -> None:
    prompts = rows(60)
    away = Away(Service(prompts), workers=3)

    def each(instead: Any) -> None:
        for link in away.cluster.links:
            link.instead = instead

    report = run(lab, away, prompts, at={1.5: lambda: each(no_connection), 200.0: lambda: each(lambda: None)})
    assert answers(report) == [answer_to(prompt) for prompt in prompts]
    assert not [said for said in away.said if "does not reach" in said]
    assert outcomes(lab)["connection"] > 0


def test_pages_of_a_firewall_at_one_worker_end_no_row(lab: Lab) -> None:
    prompts = rows(300)
    page = Failure(Fault.STATUS, "<html>no</html>", 403, is_page=True)
    away = Away(Service(prompts), workers=3)
    report = run(lab, away, prompts, at={1.5: lambda: setattr(away.cluster.links[0], "instead", lambda: page)})
    assert answers(report) == [answer_to(prompt) for prompt in prompts]
    assert report.endpoints[0].out is None
    assert [each for each in away.said if "does not reach" in each]


def test_a_worker_that_stands_still_is_taken_for_lost_after_half_a_minute(lab: Lab) -> None:
    prompts = rows(200)
    away = Away(Service(prompts), workers=2)
    report = run(lab, away, prompts, at={1.5: away.stop})
    assert answers(report) == [answer_to(prompt) for prompt in prompts]
    assert [each for each in away.said if "silent" in each]
    assert away.cluster.links[0].is_dead


def test_a_call_that_does_not_leave_a_worker_is_taken_back_while_others_leave(lab: Lab) -> None:
    prompts = rows(200)
    service = Service(prompts)
    away = Away(service, workers=2)

    async def never(*_: Any, **__: Any) -> Completion:
        await asyncio.sleep(1e6)
        raise AssertionError

    def block() -> None:
        hands: Any = away.cluster.links[0]._hands
        made = hands._make

        async def stuck(call: Any) -> Completion | Failure:
            if blocked:
                return await never()
            found: Completion | Failure = await made(call)
            return found

        hands._make = stuck

    blocked = [True]
    report = run(lab, away, prompts, at={1.5: block, 100.0: blocked.clear}, timeout=50)
    assert answers(report) == [answer_to(prompt) for prompt in prompts]
    assert outcomes(lab)["worker lost"] == 0
    assert lab.seconds < 90


@pytest.mark.parametrize("limits", [{"rps": 20.0}, {"rpm": 300.0}, {"tpm": 3600.0}])
def test_limits_hold_at_the_service_however_long_calls_are_on_their_way(lab: Lab, limits: dict[str, Any]) -> None:
    prompts = rows(330)
    service = Service(prompts, latency=lambda _call: 0.2, usage=lambda _call: Usage(10, 2))
    away = Away(service, workers=3, way_s=0.07)
    slow = {second: (lambda: setattr(away.cluster.links[0], "slow_s", 0.3)) for second in (2.0,)}
    fast = {second: (lambda: setattr(away.cluster.links[0], "slow_s", 0.0)) for second in (7.0,)}
    run(lab, away, prompts, at=slow | fast, endpoints=[Endpoint("m", max_concurrency=64, **limits)])
    (name, most), times = next(iter(limits.items())), sorted(service.times())
    window, each = (1.0, 1) if name == "rps" else (60.0, 12 if name == "tpm" else 1)
    for place, begin in enumerate(times):
        inside = sum(1 for at in times[place:] if at < begin + window)
        assert inside * each <= most
    pace = most / each / window
    assert lab.seconds < 330 / pace * 1.35 + 5


def test_a_stop_brings_home_what_had_come_of_a_streamed_answer() -> None:
    async def cut() -> None:
        raise CallCut(Completion("half an ans"))

    async def work() -> None:
        service = Service(["q"])
        away = Away(service, workers=1)
        caller = away().caller(Endpoint("m"))
        await asyncio.sleep(0.01)
        hands: Any = away.cluster.links[0]._hands

        async def partial(_call: Any) -> None:
            try:
                await asyncio.sleep(99)
            except asyncio.CancelledError:
                await cut()

        hands._make = partial
        task = asyncio.ensure_future(caller.call([{"role": "user", "content": "q"}], 100.0))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(CallCut) as caught:
            await task
        assert caught.value.partial.text == "half an ans"
        await away.crew.close()

    asyncio.run(work())


def act(away: Away, what: str, place: int) -> None:
    """Let something happen to one of the workers that there are."""
    alive = [each for each in away.cluster.links if not each.is_dead]
    if what == "add" or not alive:
        away.add()
        return
    link = alive[place % len(alive)]
    if what == "kill":
        link.kill()
    elif what == "drain":
        away.cluster.drain(link)
        away.add()
    elif what == "cut off":
        link.instead = no_connection
    elif what == "slow":
        link.slow_s = 2.0
    else:
        link.instead, link.slow_s = (lambda: None), 0.0


@settings(max_examples=40)
@given(st.data())
def test_whatever_becomes_of_workers_each_row_gets_its_own_answer(data: st.DataObject) -> None:
    prompts = rows(data.draw(st.integers(1, 60), label="rows"))
    service = Service(prompts, latency=lambda call: 0.05 + len(call.prompt) % 3)
    away = Away(service, workers=data.draw(st.integers(1, 4), label="workers"))

    what = st.sampled_from(["kill", "kill", "drain", "cut off", "heal", "slow", "add"])
    drawn = data.draw(
        st.lists(st.tuples(st.floats(0.001, 20), what, st.integers(0, 9)), max_size=12, unique_by=lambda each: each[0])
    )
    at: dict[float, Any] = {second: (lambda w=what, p=place: act(away, w, p)) for second, what, place in drawn}

    def heal() -> None:
        for link in away.cluster.links:
            link.instead = lambda: None

    at[25.0] = heal
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(Path(directory))
        report = run(lab, away, prompts, at=at, endpoints=[Endpoint("m", max_concurrency=8)], max_attempts=50)
        assert answers(report) == [answer_to(prompt) for prompt in prompts]
        lost = outcomes(lab)["worker lost"]
        assert sum(service.asked.values()) <= len(prompts) + lost
        assert batcher.verify("k", output_dir=directory).ok

"""The keys of one account share its limits, and nothing else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from conftest import Lab
from fake_service import Service, answer_to, refusal
from faults import fault
from hypothesis import given
from hypothesis import strategies as st
from pools import ANSWER, Came, call, lognormal, now, refused, serve_rows, taken, together, with_pool
from programs import ROOT

import batcher
from batcher.calls.endpoints import endpoints_of, environment
from batcher.calls.services import AZURE, SERVICES
from batcher.endpoint import OFFLINE, Endpoint
from batcher.planning.refusals import check_open_files
from batcher.pool.member import Member
from batcher.pool.pool import Pool, PoolEmpty
from batcher.records import Allowance, Completion, Failure, Fault, ServerLimits, Usage
from batcher.settings import Settings
from batcher.words import command_line

MINUTE = 60.0


def keys(count: int, account: str | None = "a", **limits: Any) -> list[Endpoint]:
    return [Endpoint("m", api_key=f"k{number}", account=account, **limits) for number in range(count)]


def most_within(seconds: float, times: list[float]) -> int:
    """Return the most calls that left in any window of this length."""
    first = most = 0
    for last, time in enumerate(times):
        while times[first] <= time - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


# -- What the keys of an account share


@given(st.integers(1, 10), st.sampled_from([6, 30, 90]), st.integers(1, 250), st.randoms(use_true_random=False))
def test_no_minute_sees_more_requests_of_all_keys_than_the_account_may_send(
    count: int, rpm: int, rows: int, draw: random.Random
) -> None:
    async def work(pool: Pool) -> list[float]:
        left = []

        async def row() -> None:
            slot = await pool.take()
            await asyncio.sleep(draw.choice([0, 0, 0.01, 5]))  # until the intent is on the disk
            while not pool.leave(slot):  # the account rests meanwhile
                pool.release(slot)
                slot = await pool.take(after=slot.member)
            left.append(now())
            await asyncio.sleep(draw.uniform(0, 20))
            came: list[Came] = [ANSWER, ANSWER, refused(), refused(500)]
            pool.record(slot, draw.choice(came))
            pool.release(slot)

        await together(*(row() for _ in range(rows)))
        return sorted(left)

    assert most_within(MINUTE, with_pool(keys(count, rpm=rpm), work)) <= rpm


def test_ten_keys_of_one_account_are_as_fast_as_one_and_take_turns(lab: Lab) -> None:
    settings = Settings(provider="dashscope", model="q", rpm=600)
    endpoints = endpoints_of(settings, {"DASHSCOPE_API_KEY": ",".join(f"k{number}" for number in range(10))})
    prompts = [f"row {number}" for number in range(1500)]
    service = Service(prompts, latency=lambda _call: 1.0)
    report = lab.run(prompts, service, endpoints=list(endpoints))
    assert report.ok == 1500
    assert most_within(MINUTE, service.times()) <= 600
    assert lab.seconds == pytest.approx(1500 / 10, rel=0.03)
    assert [each.requests_now for each in report.endpoints] == pytest.approx([150] * 10, abs=2)


def test_rows_leave_in_the_order_in_which_they_came_whichever_key_takes_them() -> None:
    async def work(pool: Pool) -> list[tuple[str, float]]:
        left: list[tuple[str, float]] = []

        async def row(name: str, after: Member | None = None) -> None:
            slot = await taken(pool, after=after)
            left.append((name, now()))
            await asyncio.sleep(3)
            pool.record(slot, ANSWER)
            pool.release(slot)

        backs = [row(f"back {number}", pool.members[number % 3]) for number in range(3)]
        await together(*(row(str(number)) for number in range(9)), *backs)
        return left

    left = with_pool(keys(3, rps=1), work)
    names, times = zip(*left, strict=True)
    assert names == ("back 2", "back 1", "back 0", *"012345678")
    gaps = [later - time for time, later in pairwise(times)]
    assert gaps == pytest.approx([1.01] * 11, abs=0.11), "100 ms may be caught up"


@pytest.mark.parametrize("limits", [{}, {"rps": 100}], ids=["free", "paced"])
def test_requests_in_flight_are_those_of_all_keys(limits: dict[str, Any]) -> None:
    peak = in_flight = 0

    async def serve(_member: Member, _row: int) -> Came:
        nonlocal peak, in_flight
        in_flight += 1
        peak = max(peak, in_flight)
        await asyncio.sleep(1)
        in_flight -= 1
        return ANSWER

    served = serve_rows(keys(5, max_concurrency=7, **limits), 140, serve)
    assert peak == 7
    assert served.seconds == pytest.approx(20, abs=1)
    assert [member.requests for member in served.members] == pytest.approx([28] * 5, abs=1)


def test_a_limit_of_tokens_is_one_for_all_keys() -> None:
    async def work(pool: Pool) -> float:
        async def row() -> None:
            slot = await taken(pool, tokens=100)
            await asyncio.sleep(0.5)
            pool.record(slot, Completion("fine", usage=Usage(90, 10)))
            pool.release(slot)

        await together(*(row() for _ in range(200)))
        return now()

    assert with_pool(keys(4, tpm=6000), work) == pytest.approx(200, rel=0.03)


@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_rest_that_the_service_asks_of_one_key_is_a_rest_of_all(status: int) -> None:
    async def work(pool: Pool) -> None:
        *members, other = pool.members
        assert await call(pool, 1, refused(status, 20)) is members[0]
        assert pool.cooldown_s() == 0, "the other account is at work"
        pool.cool_down(other, 100)
        assert pool.cooldown_s() == pytest.approx(20)
        assert not any(member.is_available(now()) for member in pool.members)
        assert await call(pool, 0) in members
        assert now() == pytest.approx(21)

    with_pool([*keys(3), Endpoint("other", max_concurrency=1)], work)


def test_keys_that_are_refused_one_after_the_other_rest_longer_each_time() -> None:
    times = []

    async def serve(_member: Member, _row: int) -> Came:
        times.append(now())
        await asyncio.sleep(0.1)
        return refused() if 1 < now() < 600 else ANSWER

    served = serve_rows(keys(10), 3000, serve)
    assert len([time for time in times if 10 < time < 590]) < 30, "as few as with one key"
    assert served.seconds < 600 + 60 + 20


@pytest.mark.parametrize("count", [1, 10])
def test_an_account_that_bears_40_at_once_gets_about_40_however_many_keys_it_has(count: int) -> None:
    draw = lognormal(1.5)
    busy, seen = 0, []

    async def serve(_member: Member, row: int) -> Came:
        nonlocal busy
        await asyncio.sleep(0.025)
        if busy >= 40:
            return refused()
        busy += 1
        await asyncio.sleep(draw())
        busy -= 1
        if row > 500:
            seen.append(busy)
        return ANSWER

    served = serve_rows(keys(count), 3000, serve)
    assert 32 <= served.members[0].account.concurrency.limit <= 48
    assert served.refused < 60
    assert mean(seen) > 30


def test_a_limit_that_the_service_states_to_one_key_paces_all() -> None:
    states = ServerLimits(Allowance(60, 40, 20.0), None)

    async def work(pool: Pool) -> float:
        await call(pool, 0, Completion("fine", limits=states))
        await together(*(call(pool, 0) for _ in range(30)))
        return now()

    assert with_pool(keys(3), work) == pytest.approx(30, rel=0.05)


# -- What they do not share


def test_a_key_that_is_refused_leaves_and_the_others_work_on_at_the_whole_limit(lab: Lab) -> None:
    prompts = [f"row {number}" for number in range(600)]
    service = Service(
        prompts, latency=lambda _call: 1.0, instead=lambda call: refusal(401) if call.endpoint == "b" else None
    )
    endpoints = [Endpoint(model, account="a", rps=10) for model in "abc"]
    report = lab.run(prompts, service, endpoints=endpoints)
    assert [row["infer"] for row in lab.rows()] == [answer_to(prompt) for prompt in prompts]
    assert [bool(each.out) for each in report.endpoints] == [False, True, False]
    assert lab.seconds == pytest.approx(62, rel=0.05)


def test_an_account_whose_keys_have_all_left_takes_no_row() -> None:
    async def work(pool: Pool) -> None:
        first, second, other = pool.members
        assert pool.capacity == 256 + 3
        for number, member in enumerate((first, second)):
            assert pool.capacity == 256 + 3, f"{number} of 2 keys have left"
            pool.remove(member, "the API key was refused")
        assert pool.capacity == 3
        assert await together(*(call(pool, 1) for _ in range(6))) == [other] * 6
        pool.remove(other, "the API key was refused")
        with pytest.raises(PoolEmpty):
            await pool.take()

    with_pool([*keys(2, rps=5), Endpoint("m", max_concurrency=3)], work)


async def _fails(_row: int) -> Came:
    await asyncio.sleep(0.05)
    return refused(500)


async def _hangs(_row: int) -> Came:
    await asyncio.sleep(120)
    return Failure(Fault.TIMEOUT, "nothing came")


@pytest.mark.parametrize("bad", [_fails, _hangs])
def test_a_key_that_fails_rests_by_itself_and_the_others_do_its_work(bad: Callable[[int], Awaitable[Came]]) -> None:
    async def serve(member: Member, row: int) -> Came:
        if member.number == 0:
            return await bad(row)
        await asyncio.sleep(1.5)
        return ANSWER

    served = serve_rows(keys(3, rps=10), 2000, serve)
    assert served.failures <= 1
    assert served.seconds < 1.1 * 200 + 120
    assert served.members[0].requests < 150
    assert served.members[0].latency_s != served.members[1].latency_s


def test_an_account_whose_keys_all_fail_begins_again_with_one_request() -> None:
    limits, at_once = set(), []

    async def serve(member: Member, _row: int) -> Came:
        if 60 < now() < 600:
            limits.add(member.account.concurrency.limit)
            at_once.append(member.account.in_flight)
        await asyncio.sleep(0.1)
        return refused(500) if 1 < now() < 600 else ANSWER

    served = serve_rows(keys(3), 3000, serve)
    assert limits == {1.0}
    assert set(at_once) == {1}
    assert served.seconds < 600 + 60 + 20


# -- Which keys are of one account


def accounts(env: Mapping[str, str], **options: Any) -> list[tuple[str, str] | None]:
    return [each.shared_account for each in endpoints_of(Settings.of(options), env)]


def groups(found: list[tuple[str, str] | None]) -> int:
    """Return the number of accounts; an endpoint without a shared account has its own."""
    return len({each or number for number, each in enumerate(found)})


OF_THE_KEY = {"nvidia", "litellm", "infini"}
"""Each of their keys has limits of its own, or it is not known what their limits are per."""


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in (AZURE, OFFLINE)])
def test_keys_of_one_variable_share_an_account_if_the_services_limits_are_not_a_keys(name: str) -> None:
    options: dict[str, Any] = {"provider": name, "model": "m", "api_key_env": "MINE"}
    assert groups(accounts({"MINE": "k1,k2,k3"}, **options)) == (3 if name in OF_THE_KEY else 1)
    assert accounts({"MINE": "k1"}, **options) == [None]
    by_url = options | {"provider": None, "base_url": SERVICES[name].base_url}
    assert groups(accounts({"MINE": "k1,k2,k3"}, **by_url)) == (3 if name in OF_THE_KEY else 1)


def test_the_keys_of_a_deployment_share_its_limits() -> None:
    env = {"AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com", "OPENAI_API_VERSION": "2024-10-21", "K": "k1,k2"}
    assert groups(accounts(env, provider=AZURE, model="d", api_key_env="K")) == 1


@pytest.mark.parametrize("base_url", ["https://relay.example.com/v1", "http://127.0.0.1:3000/v1"])
def test_at_any_other_base_url_each_key_has_its_own_account(base_url: str) -> None:
    assert accounts({"API_KEY": "k1,k2,k3"}, base_url=base_url, model="m") == [None] * 3


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"provider": "dashscope", "limits_per": "key"}, 3),
        ({"provider": "dashscope", "limits_per": "account"}, 1),
        ({"base_url": "https://relay.example.com/v1", "limits_per": "account"}, 1),
        ({"provider": "nvidia", "limits_per": "account"}, 1),
    ],
)
def test_what_the_user_says_of_the_keys_goes_before_the_table(options: dict[str, Any], count: int) -> None:
    assert groups(accounts({"K": "k1,k2,k3"}, model="m", api_key_env="K", **options)) == count


def from_file(folder: Path, content: str, env: Mapping[str, str], **options: Any) -> tuple[Endpoint, ...]:
    path = folder / "pool.toml"
    path.write_text(content, encoding="utf-8")
    return endpoints_of(Settings.of({"endpoints": path, **options}), env)


TWO_VARIABLES = """
    [[endpoint]]
    model = "q"
    base_url = "https://dashscope.aliyuncs.com/compatible-mode/v1"
    api_key_env = "FIRST"
    rpm = 100
    {first}
    [[endpoint]]
    model = "{model}"
    base_url = "https://dashscope.aliyuncs.com/compatible-mode/v1"
    api_key_env = "SECOND"
    rpm = 100
    {second}
"""


@pytest.mark.parametrize(
    ("table", "options", "count"),
    [
        ({}, {}, 2),
        ({"first": 'account = "a"'}, {}, 2),
        ({"first": 'account = "a"', "second": 'account = "a"'}, {}, 1),
        ({"first": 'account = "a"', "second": 'account = "b"'}, {}, 2),
        ({"first": 'account = "a"', "second": 'account = "a"'}, {"limits_per": "key"}, 1),
        ({}, {"limits_per": "key"}, 3),
        ({"model": "r"}, {}, 2),
    ],
)
def test_a_file_says_which_of_its_keys_are_of_one_account(
    tmp_path: Path, table: dict[str, str], options: dict[str, Any], count: int
) -> None:
    content = TWO_VARIABLES.format(**({"first": "", "second": "", "model": "q"} | table))
    found = from_file(tmp_path, content, {"FIRST": "k1,k2", "SECOND": "k3"}, **options)
    assert groups([each.shared_account for each in found]) == count


def test_two_models_of_one_variable_have_limits_of_their_own(tmp_path: Path) -> None:
    content = TWO_VARIABLES.format(first="", second="tpm = 5000", model="r").replace("SECOND", "FIRST")
    first, second, third, fourth = from_file(tmp_path, content, {"FIRST": "k1,k2"})
    assert first.shared_account == second.shared_account != third.shared_account == fourth.shared_account


def test_one_name_at_two_base_urls_is_two_accounts() -> None:
    one, other = Endpoint("m", "http://a/v1", account="a", rpm=1), Endpoint("m", "http://b/v1", account="a", rpm=2)
    assert len(endpoints_of(Settings(endpoints=[one, other]), {})) == 2
    assert one.shared_account != other.shared_account


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("rpm = 50", "rpm is 100 in the first and 50 in the other"),
        ("rpm = 100\nrps = 0.5", "rps is not given in the first and 0.5 in the other"),
        ("rpm = 100\nmax_concurrency = 9", "max_concurrency is 256 in the first and 9 in the other"),
    ],
)
def test_entries_of_one_account_that_differ_in_a_limit_are_refused_by_their_numbers(
    tmp_path: Path, limit: str, said: str
) -> None:
    first = "model = 'q'\nbase_url = 'http://h'\napi_key_env = 'FIRST'\naccount = 'a'\nrpm = 100"
    content = f"[[endpoint]]\n{first}\n[[endpoint]]\n{first.replace('rpm = 100', limit).replace('FIRST', 'SECOND')}"
    with command_line():
        message = fault(lambda: from_file(tmp_path, content, {"FIRST": "k1,k2", "SECOND": "k3"}))
    assert message == (
        f"--endpoints {tmp_path / 'pool.toml'}: endpoints 1 and 2 are of one account, 'a', but {said}: give both the"
        " same, or two accounts"
    )


def test_endpoint_objects_of_one_account_that_differ_in_a_limit_are_refused_by_their_numbers() -> None:
    endpoints = [Endpoint("x"), *keys(2, tpm=9), Endpoint("y", account="a")]
    message = fault(lambda: endpoints_of(Settings(endpoints=endpoints), {}))
    assert message.startswith("endpoints: endpoints 2 and 4 are of one account, 'a', but tpm is 9 in the first and not")
    said = fault(lambda: endpoints_of(Settings(endpoints=keys(2), limits_per="key"), {}))
    assert said == "limits_per and endpoints= exclude each other: name the account in the endpoints"


def test_an_account_is_no_part_of_a_question_or_a_source(lab: Lab) -> None:
    prompts = ["a", "b", "c"]
    lab.run(prompts, Service(prompts), endpoints=keys(2))
    again = Service(prompts)
    assert lab.run(prompts, again, endpoints=keys(3, "b", rpm=5)).ok == 3
    assert again.calls == []
    assert Endpoint("m", account="a").source == Endpoint("m").source
    assert "account" in fault(lambda: Endpoint("m", account=" "))


# -- What follows elsewhere


def plan(lab: Lab, monkeypatch: pytest.MonkeyPatch, env: Mapping[str, str], **options: Any) -> batcher.Forecast:
    lab.directory.parent.mkdir(exist_ok=True)
    monkeypatch.chdir(lab.directory.parent)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    given: dict[str, Any] = {"keyword": "k", "output_dir": lab.directory, "model": "q"}
    return batcher.plan([f"row {number}" for number in range(200)], **(given | options))


@pytest.mark.parametrize(
    ("options", "seconds", "said"),
    [
        ({"rpm": 1200}, 10, "3 keys of one account share 1,200 requests a minute, 256 in flight."),
        ({"rpm": 100}, 120, "3 keys of one account share 100 requests a minute, 256 in flight."),
        (
            {"rps": 2, "tpm": 90_000, "max_concurrency": 9},
            100,
            "3 keys of one account share 2 requests a second, 90,000 model tokens a minute, 9 in flight.",
        ),
        ({}, None, "3 keys of one account share 256 requests in flight."),
        ({"rpm": 100, "limits_per": "key"}, 40, None),
    ],
)
def test_the_plan_says_what_the_keys_share_and_counts_with_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], seconds: float | None, said: str | None
) -> None:
    found = plan(lab, monkeypatch, {"DASHSCOPE_API_KEY": "k1,k2,k3"}, provider="dashscope", **options)
    assert found.seconds == seconds
    otherwise = 'If they belong to different accounts, limits_per="key" gives each key these limits.'
    assert found.summary.splitlines()[1:] == ([f"{said} {otherwise}"] if said else [])


def test_the_plan_names_no_way_out_if_the_user_has_named_the_accounts(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints = [*keys(2, rpm=5), Endpoint("x", rpm=9, account="b"), Endpoint("y", rpm=9, account="b")]
    found = plan(lab, monkeypatch, {}, endpoints=endpoints, model=None)
    assert found.summary.splitlines()[1:] == [
        "2 keys of one account share 5 requests a minute, 256 in flight.",
        "2 endpoints of one account share 9 requests a minute, 256 in flight.",
    ]


def test_keys_of_one_account_need_the_connections_of_one() -> None:
    assert check_open_files(keys(10)) == check_open_files(keys(1))
    assert check_open_files(keys(10, None)) == check_open_files(keys(1)) + 9 * 256


def test_what_a_kill_may_cost_counts_an_accounts_requests_in_flight_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"provider": "openai", "model": "gpt-4o-mini", "budget": 100}
    shared = plan(lab, monkeypatch, {"OPENAI_API_KEY": "k1,k2,k3"}, **options)
    assert "a kill with up to 256 requests in flight" in shared.summary
    assert "a kill with up to 768 requests in flight" in plan(lab, monkeypatch, {}, **options, limits_per="key").summary


# -- The example of the README


def test_the_example_with_several_keys_has_one_account_and_each_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MODEL", "BASE_URL", "API_KEY"):
        monkeypatch.delenv(name, raising=False)
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    (tmp_path / ".env").write_text(example, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = endpoints_of(Settings(rpm=500), environment())
    assert len(found) > 1
    assert groups([each.shared_account for each in found]) == 1
    for page in ("README.md", "README.zh-CN.md", ".env.example"):
        assert "--limits-per key" in (ROOT / page).read_text(encoding="utf-8"), page

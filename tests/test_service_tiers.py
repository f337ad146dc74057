"""`--tier`: what is asked in which service tier, and how a run waits for one that has no capacity."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Anything, Call, Service, answer_to
from langchain_openai import ChatOpenAI
from pools import now, with_pool
from programs import call, local_server, table, write_table
from pydantic import SecretStr
from virtual_time import run_virtually

import batcher
from batcher.calls.fate import lacks_capacity, refuses_tier
from batcher.calls.services import SERVICES
from batcher.endpoint import Endpoint
from batcher.errors import RunStopped, SettingsError
from batcher.money.prices import price_of
from batcher.planning.service_tiers import words_at
from batcher.pool.service_tiers import PROBES, ServiceTiers
from batcher.records import Completion, Failure, Fault, Usage
from batcher.settings import Settings

OPENAI = "https://api.openai.com/v1"
GROQ = "https://api.groq.com/openai/v1"
MODEL = "gpt-5-mini"
HOUR = 3600.0
LATENCY = 10.0


def full(status: int = 429, code: str = "resource_unavailable", message: str = "Flex is full") -> Failure:
    return Failure(Fault.STATUS, message, status, code, codes=(code,))


def tier_of(call: Call) -> str:
    return str(call.params.get("service_tier", ""))


class Night(Service):
    """A service whose flex tier has no capacity for some requests, and which names the tier that answers."""

    def __init__(self, is_full: Callable[[Call], bool], refused: Failure | None = None) -> None:
        def refuses(call: Call) -> bool:
            return tier_of(call) == "flex" and is_full(call)

        def instead(call: Call) -> Completion | Failure:
            if refuses(call):
                return refused or full()
            return Completion(answer_to(call.prompt), "stop", Usage(10, 2), service_tier=tier_of(call) or None)

        super().__init__([], lambda call: 0.2 if refuses(call) else LATENCY, instead)
        self.prompts = Anything()

    @property
    def by_tier(self) -> Counter[str]:
        return Counter(map(tier_of, self.calls))


def prompts(rows: int) -> list[str]:
    return [f"question {number}" for number in range(rows)]


def night(lab: Lab, rows: int, is_full: Callable[[Call], bool], tier: str = "flex", **options: Any) -> Night:
    service = Night(is_full)
    endpoints = [Endpoint("m", max_concurrency=32)]
    report = lab.run(prompts(rows), service, **{"tier": tier, "endpoints": endpoints} | options)
    assert (report.ok, report.left) == (rows, 0)
    return service


def half(seed: int, share: float = 0.5) -> Callable[[Call], bool]:
    """Return whether a request meets a full tier, drawn for each anew."""
    draws, drawn = random.Random(seed), dict[tuple[str, int], bool]()
    return lambda call: drawn.setdefault((call.prompt, call.nth), draws.random() < share)


# --- the option ---


@pytest.mark.parametrize(
    ("tier", "said"),
    [
        ("felx", "did you mean flex?"),
        ("flex,defualt", "did you mean default?"),
        ("standard", "did you mean default?"),
        ("batch", 'via="batch"'),
        ("", "must be out of flex, priority, default"),
    ],
)
def test_a_tier_that_there_is_not_is_named_with_what_was_meant(tier: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Settings(tier=tier)


def test_a_batch_has_no_tier_unless_a_deadline_asks_online_as_well() -> None:
    with pytest.raises(SettingsError, match="tier is for requests that are sent one by one"):
        Settings(tier="flex", via="batch")
    assert Settings(tier="flex", via="batch", within="8h").tiers == ("flex",)


def test_tiers_come_as_a_text_or_a_list_in_their_order() -> None:
    assert Settings(tier="flex, default").tiers == ("flex", "default") == Settings(tier=["flex", "default"]).tiers
    assert Settings().tiers == ()


def test_an_attempt_in_flex_may_take_15_minutes_unless_a_timeout_is_given() -> None:
    settings = Settings(tier="flex,default")
    assert (settings.timeout_in("flex"), settings.timeout_in("default")) == (900, 120)
    assert Settings(tier="flex", timeout=120).timeout_in("flex") == 120
    assert Settings(tier="flex", stream=True).idle_s == 900
    assert Settings(param={"service_tier": "flex"}).deadline_s == 5400


def test_the_deadline_of_a_row_lets_all_attempts_in_flex_take_their_time() -> None:
    assert Settings(tier="flex").deadline_s == 6 * 900
    assert Settings(tier="priority").deadline_s == 1800
    assert Settings(tier="flex", deadline=1800).deadline_s == 1800


@pytest.mark.parametrize(
    ("endpoint", "options", "said"),
    [
        (Endpoint(MODEL), {"param": {"service_tier": "flex"}}, "tier and the parameter service_tier of param exclude"),
        (Endpoint(MODEL, params={"service_tier": "flex"}), {}, "service_tier in params of endpoint 1 exclude"),
        (
            Endpoint(llm=ChatOpenAI(api_key=SecretStr("-"), service_tier="flex")),
            {},
            "in the chat model in llm= exclude",
        ),
        (Endpoint("gpt-4o"), {}, "openai sells gpt-4o without the tier flex, by the price table; it has priority"),
        (Endpoint("deepseek-chat", "https://api.deepseek.com/v1"), {}, "no service tiers of deepseek: leave it out"),
        (
            Endpoint("grok-4.3", "https://api.x.ai/v1"),
            {},
            'xai has no tier flex; it has priority, default. tier="default" would do',
        ),
    ],
)
def test_a_tier_that_cannot_be_asked_for_is_refused_before_any_call(
    lab: Lab, endpoint: Endpoint, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        lab.run(prompts(1), Service([]), endpoints=[endpoint], tier="flex", **options)
    assert not lab.directory.exists()


def test_prices_say_that_a_model_has_a_tier_that_the_table_lacks(lab: Lab) -> None:
    priced = Endpoint("gpt-4o", prices={"in": 1, "out": 1})
    assert night(lab, 1, lambda _: False, endpoints=[priced]).by_tier == {"flex": 1}


def test_each_service_gets_its_own_word_for_a_tier(lab: Lab) -> None:
    model = Endpoint("llama-3.3-70b-versatile", GROQ)
    assert night(lab, 1, lambda _: True, "flex,default", endpoints=[model]).by_tier == {"flex": 2, "on_demand": 1}
    assert words_at(Endpoint("m", "https://relay.example/v1"))["performance"] == "performance"
    assert words_at(Endpoint("m", "https://api.fireworks.ai/inference/v1")) == {"priority": "priority", "default": ""}
    assert {name for name, service in SERVICES.items() if service.tiers} == {
        *("openai", "azure", "openrouter", "fireworks", "groq", "cerebras", "xai")
    }


def test_without_the_option_no_tier_is_asked_for(lab: Lab) -> None:
    assert night(lab, 2, lambda _: True, tier=None).by_tier == {"": 2}  # type: ignore[arg-type]


def test_a_resume_in_another_tier_asks_nothing_again(lab: Lab) -> None:
    night(lab, 5, lambda _: False, "flex")
    keys = lab.query("SELECT key FROM rows ORDER BY position")
    assert night(lab, 5, lambda _: False, "default").calls == []
    assert night(lab, 5, lambda _: False, tier=None).calls == []  # type: ignore[arg-type]
    assert lab.query("SELECT key FROM rows ORDER BY position") == keys


def test_the_tier_that_answered_is_in_the_result_and_empty_if_the_service_does_not_say_it(lab: Lab) -> None:
    options: dict[str, Any] = {"endpoints": [Endpoint("m")], "with_": "tier"}
    lab.run(prompts(1), Night(lambda _: True), tier="flex,default", **options)
    lab.run(prompts(2), Service(prompts(2)), tier="flex,default", **options)
    assert [row["infer_tier"] for row in lab.rows()] == ["default", ""]


def test_a_row_with_a_tier_of_its_own_is_asked_in_that(lab: Lab) -> None:
    rows = [{"text": "a", "more": '{"service_tier": "priority"}'}, {"text": "b", "more": ""}]
    service = Night(lambda _: False)
    report = lab.run(rows, service, "{text}", tier="flex", params_column="more")
    assert report.ok == 2
    assert sorted(map(tier_of, service.calls)) == ["flex", "priority"]


def test_a_second_endpoint_keeps_the_ordinary_tier_unless_its_own_parameters_name_one(lab: Lab) -> None:
    for number, params in enumerate(({}, {"service_tier": "priority"})):
        service = Night(lambda _: False)
        second = Endpoint("better", params=params)
        options: dict[str, Any] = {"samples": 3, "threshold": 1.0, "keyword": f"k{number}"}
        spoken = iter("1234567890" * 9)
        service.instead = lambda _, spoken=spoken: Completion(next(spoken), "stop", Usage(1, 1))  # type: ignore[misc]
        lab.run(prompts(2), service, endpoints=[Endpoint("m")], then=second, tier="flex", **options)
        asked = {(call.endpoint, tier_of(call)) for call in service.calls}
        assert ("m", "flex") in asked
        assert {tier for endpoint, tier in asked if endpoint == "better"} <= {""}  # the params are the caller's own


# --- nights without capacity ---


@pytest.mark.parametrize("begins", [0.0, 60.0])
def test_a_run_waits_for_hours_and_goes_on_by_itself(lab: Lab, begins: float) -> None:
    service = night(lab, 400, lambda call: begins <= call.at < 3 * HOUR)
    assert 3 * HOUR < lab.seconds < 3 * HOUR + 600
    assert set(service.by_tier) == {"flex"}
    # A few at a time, and more and more seldom: not each row by itself.
    refused = [call.at for call in service.calls if begins <= call.at < 3 * HOUR]
    assert len(refused) < 2500
    assert len([at for at in refused if 2 * HOUR <= at < 2 * HOUR + 60]) <= 4 * PROBES
    assert lab.query("SELECT outcome, sum(cost) FROM requests GROUP BY outcome HAVING outcome = 'no capacity'") == [
        ("no capacity", 0)
    ]
    assert [kind for (kind,) in lab.query("SELECT kind FROM events WHERE kind IN ('paused', 'resumed')")] == [
        "paused",
        "resumed",
    ]


def test_no_attempt_of_a_row_and_no_second_of_its_deadline_is_used_up(lab: Lab) -> None:
    night(lab, 5, lambda call: call.at < HOUR, max_attempts=1, deadline=20)


def test_a_tier_that_refuses_every_second_request_is_not_waited_for(lab: Lab) -> None:
    night(lab, 640, half(1))
    # 640 rows, 32 at a time, take 200 s without a refusal.
    assert lab.seconds < 600


def test_a_tier_of_few_places_is_filled_and_not_hammered(lab: Lab) -> None:
    service = Night(lambda _: False)
    at_work: list[float] = []

    def latency(call: Call) -> float:
        at_work[:] = [end for end in at_work if end > call.at]
        if len(at_work) >= 8:
            return 0.2
        at_work.append(call.at + LATENCY)
        return LATENCY

    service.latency = latency
    took: dict[tuple[str, int], float] = {}
    service.latency = lambda call: took.setdefault((call.prompt, call.nth), latency(call))
    service.instead = lambda call: full() if took[call.prompt, call.nth] < LATENCY else None
    report = lab.run(prompts(200), service, tier="flex", endpoints=[Endpoint("m", max_concurrency=64)])
    assert report.ok == 200
    assert lab.seconds < 3 * 200 / 8 * LATENCY
    assert len(service.calls) < 200 * 8


def test_the_bar_says_what_is_waited_for(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    night(lab, 5, lambda call: call.at < 900, quiet=False, log_json=True)
    said = capsys.readouterr().err
    assert "flex has no capacity: again in " in said
    assert "Paused: flex has no capacity at m at" in said
    assert "--tier flex,default" in said or 'tier=\\"flex,default\\"' in said
    assert "Going on: flex has capacity again" in said


# --- the next tier ---


def test_a_row_goes_on_in_the_next_tier_after_two_refusals(lab: Lab) -> None:
    service = night(lab, 1, lambda _: True, "flex,default")
    assert [tier_of(call) for call in service.calls] == ["flex", "flex", "default"]


def test_the_pool_remembers_that_a_tier_is_full(lab: Lab) -> None:
    service = night(lab, 1000, lambda _: True, "flex,default")
    assert service.by_tier["default"] == 1000
    assert service.by_tier["flex"] < 150
    assert lab.seconds < 1.2 * 1000 / 32 * LATENCY
    assert max(Counter(call.prompt for call in service.calls if tier_of(call) == "flex").values()) == 2


def test_it_comes_back_to_the_cheaper_tier(lab: Lab) -> None:
    service = night(lab, 1000, lambda call: 30 < call.at < 150, "flex,default")
    late = Counter(tier_of(call) for call in service.calls if call.at > 240)
    assert late["flex"] > late["default"]


def test_only_the_list_lets_rows_be_asked_in_another_tier(lab: Lab) -> None:
    assert set(night(lab, 20, lambda call: call.at < HOUR).by_tier) == {"flex"}


def test_one_tier_without_capacity_spoils_nothing_for_the_other(lab: Lab) -> None:
    service = night(lab, 320, lambda _: True, "flex,default")
    assert service.peak == 32
    assert lab.query("SELECT count(*) FROM events WHERE kind = 'paused'") == [(0,)]


def test_the_tiers_of_a_run_at_work_can_be_changed() -> None:
    async def work() -> list[str]:
        tiers = ServiceTiers(("flex",), {"flex": "flex", "default": "default"})
        tiers.take("flex")
        tiers.refused("flex", now(), now(), 0.5)
        found = [str(tiers.is_open(now()))]
        tiers.names = ("default", "no such tier")
        return [*found, str(tiers.is_open(now())), tiers.choose(now()), *tiers.names]

    found, _ = run_virtually(work())
    assert found == ["False", "True", "default", "default"]


def test_the_pool_counts_the_answers_by_the_tier_that_was_asked_for() -> None:
    async def work(pool: Any) -> tuple[Any, ...]:
        pool.tiers = ("flex",)  # the endpoint has no tiers to choose from: nothing changes
        return pool.tiers, pool.answers_in(), pool.full(), pool.full_s()

    assert with_pool([Endpoint("m")], work) == ((), Counter(), None, 0.0)


# --- a tier that the service does not have ---


@pytest.mark.parametrize(("tier", "goes_on"), [("flex", False), ("flex,default", True)])
def test_a_tier_that_the_service_refuses_ends_the_run_before_many_rows_or_goes_on_in_the_next(
    lab: Lab, tier: str, goes_on: bool
) -> None:
    refused = Failure(Fault.STATUS, "Unsupported service_tier: flex", 400, "invalid_request_error")
    service = Night(lambda _: True, refused)
    if goes_on:
        assert lab.run(prompts(50), service, tier=tier).ok == 50
    else:
        with pytest.raises(RunStopped, match=r"the service tier was refused \(flex\): HTTP 400"):
            lab.run(prompts(50), service, tier=tier)
    assert service.by_tier["flex"] <= 4


# --- what refusals mean ---


@pytest.mark.parametrize(
    ("failure", "tier", "is_full"),
    [
        (full(), "flex", True),
        (full(), "priority", True),
        (full(), "default", False),
        (full(), "", False),
        (full(498, "capacity_exceeded"), "flex", True),
        (full(498, "capacity_exceeded"), "on_demand", False),
        (full(429, "rate_limit_exceeded", "Rate limit reached"), "flex", False),
        (full(429, "insufficient_quota", "You exceeded your current quota"), "flex", False),
        (full(503, "unavailable", "This model is overloaded"), "flex", True),
        (full(503, "unavailable", "This model is overloaded"), "priority", False),
        (full(500, "server_error", "at capacity"), "flex", False),
        (Failure(Fault.STATUS, "<html>", 503, is_page=True), "flex", False),
    ],
)
def test_what_is_a_tier_without_capacity(failure: Failure, tier: str, is_full: bool) -> None:
    assert lacks_capacity(failure, tier) is is_full


def test_what_is_a_tier_that_a_service_does_not_have() -> None:
    said = [
        Failure(Fault.STATUS, "Unsupported service_tier: flex", 400, "invalid_request_error"),
        Failure(Fault.STATUS, "Flex API is not supported for model: m", 400),
    ]
    assert all(refuses_tier(each, "flex") for each in said)
    assert not refuses_tier(Failure(Fault.STATUS, "temperature is not supported", 400), "flex")
    assert not refuses_tier(said[0], "")
    common = Failure(Fault.STATUS, "'temperature' does not support 0. Only the default (1) value is supported.", 400)
    assert not refuses_tier(common, "default")
    assert refuses_tier(Failure(Fault.STATUS, "Invalid value for 'service_tier': default", 400), "default")


# --- money ---


def cost(tier: str) -> int:
    price = price_of(MODEL, OPENAI, tier)
    assert price
    return price.cost(Usage(10, 2))


@pytest.mark.parametrize(("tier", "served"), [("flex", "default"), ("flex,default", "default"), ("flex", "flex")])
def test_no_budget_is_exceeded_if_a_dearer_tier_answers(lab: Lab, tier: str, served: str) -> None:
    def instead(call: Call) -> Completion:
        return Completion(answer_to(call.prompt), "stop", Usage(10, 2), service_tier=served)

    budget = 40 * cost("default") / 1e9
    options: dict[str, Any] = {"param": {"max_tokens": 2}, "budget": budget, "endpoints": [Endpoint(MODEL)]}
    with pytest.raises(RunStopped, match="budget"):
        lab.run(prompts(2000), Service(prompts(2000), instead=instead), tier=tier, **options)
    spent = lab.query("SELECT sum(cost), min(cost) FROM requests WHERE outcome = 'answered'")
    assert spent[0][0] <= budget * 1e9
    assert spent[0][1] == cost(served)


def test_the_bound_is_that_of_the_dearest_tier_in_the_list(lab: Lab) -> None:
    plans = {
        tier: batcher.plan(
            prompts(10),
            keyword="p",
            output_dir=lab.directory,
            endpoints=[Endpoint(MODEL)],
            param={"max_tokens": 5},
            tier=tier,
        )
        for tier in ("flex", "default", "flex,default", "priority", "flex,priority")
    }
    most = {tier: plan.most_usd or 0.0 for tier, plan in plans.items()}
    assert most["flex"] == most["default"] == most["flex,default"] < most["priority"] == most["flex,priority"]
    assert (plans["flex"].prompts_usd or 0) < (plans["default"].prompts_usd or 0)


def test_a_tier_without_a_price_is_said(lab: Lab) -> None:
    azure = Endpoint(MODEL, "https://mine.openai.azure.com/openai/v1")
    options: dict[str, Any] = {"keyword": "p", "output_dir": lab.directory, "endpoints": [azure], "tier": "flex"}
    said = "in the service tier 'flex' is unknown, so the cost is unknown too"
    assert said in batcher.plan(prompts(1), **options).summary


# --- a real server ---


def test_the_local_server_plays_a_full_tier(tmp_path: Path) -> None:
    (tmp_path / "faults.toml").write_text('[[fault]]\ntier = "flex"\nservice = "openai"\ncase = "flex"\ntimes = 2\n')
    rows: Sequence[Sequence[str]] = [[f"q{number}"] for number in range(6)]
    write_table(tmp_path / "t.csv", ["text"], rows)
    with local_server("--faults", "faults.toml", cwd=tmp_path) as server:
        job = ["run", "t.csv", "--prompt-column", "text", "--model", "m", "--base-url", server.base_url]
        done = call(*job, "--tier", "flex,default", "--with", "tier", "--keyword", "k", cwd=tmp_path)
        assert done.status == 0, done.stderr
        met = server.books()["by_fault"]
    tiers = Counter(row["infer_tier"] for row in table(tmp_path / "output" / "all_k.csv"))
    assert tiers["default"] == 6
    # Each row that flex has refused twice goes on in default; the others hear of it.
    assert 2 <= sum(met.values()) <= 12
    assert "6 default" not in call("status", "k", cwd=tmp_path).stdout  # one tier alone is not said


def test_status_and_report_count_the_answers_by_tier(lab: Lab) -> None:
    night(lab, 40, lambda call: call.at < 20, "flex,default")
    (flex,) = lab.query("SELECT count(*) FROM responses WHERE tier = 'flex'")[0]
    assert 0 < flex < 40
    said = str(batcher.status("k", lab.directory))
    assert f"{flex} flex" in said
    assert f"{40 - flex} default" in said
    page = Path(batcher.report("k", lab.directory).path).read_text(encoding="utf-8")
    assert f"{flex} flex" in page

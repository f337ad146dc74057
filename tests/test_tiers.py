"""A request costs what the service tier that serves it costs, and its bound covers every tier that may serve it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from canned_server import completion
from conftest import Lab
from fake_service import Call, Service, answer_to
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult

import batcher
from batcher.calls.chat_caller import completion_of
from batcher.calls.choices import completion_in
from batcher.calls.streams import Stream
from batcher.endpoint import Endpoint
from batcher.errors import SettingsError
from batcher.money.prices import price_of, tiers_of
from batcher.money.tiers import Tiers
from batcher.records import Completion, Usage

OPENAI = "https://api.openai.com/v1"
MODEL = "gpt-5-mini"
USAGE = Usage(1000, 1000)
PROMPTS = [f"question {number}" for number in range(10)]
ASKED = [None, "default", "auto", "flex", "priority", "fast"]
SERVED = {
    "auto": [None, "default", "flex", "priority", "fast", "standard", "scale"],
    "flex": [None, "flex", "default", "standard", "scale"],
}


def cost(tier: str | None) -> int:
    price = price_of(MODEL, OPENAI, tier)
    assert price
    return price.cost(USAGE)


def tiers(asked: str | None) -> Tiers:
    found = Tiers.of(MODEL, OPENAI, asked)
    assert found
    return found


def serving(tier: str | None) -> Service:
    """Return a service that names this tier in its answers."""

    def answer(call: Call) -> Completion:
        return Completion(answer_to(call.prompt), "stop", Usage(10, 2), service_tier=tier)

    return Service(PROMPTS, instead=answer)


def test_the_table_sells_tiers_of_different_prices() -> None:
    assert tiers_of(MODEL, OPENAI) == ["flex", "priority", "fast"]
    assert cost("flex") < cost("default") < cost("priority") == cost("fast")
    assert tiers_of("deepseek-chat", "https://api.deepseek.com/v1") == []


@pytest.mark.parametrize("asked", ASKED)
@given(st.integers(0, 10**6), st.integers(0, 10**5), st.data())
def test_no_tier_that_may_serve_a_request_costs_more_than_its_bound(
    asked: str | None, prompt: int, answer: int, data: st.DataObject
) -> None:
    served = data.draw(st.sampled_from(SERVED.get(asked or "", [None, asked, "default", "standard", "scale"])))
    found = tiers(asked)
    most = found.most(prompt, answer)
    assert found.cost(Usage(prompt, answer), served) <= most
    of_answer = found.most_of_answer(prompt, answer)
    if of_answer is not None and prompt:
        shorter = data.draw(st.integers(0, prompt))
        charged = of_answer + -(-(most - of_answer) * shorter // prompt)
        assert found.cost(Usage(shorter, answer), served) <= charged


@pytest.mark.parametrize(
    ("asked", "served", "charged"),
    [
        ("flex", "flex", "flex"),
        ("flex", "default", "default"),  # a service that has no room for flex
        ("flex", None, "default"),
        ("priority", "default", "default"),
        ("priority", "priority", "priority"),
        ("priority", None, "priority"),
        ("auto", "default", "default"),
        ("auto", "priority", "priority"),
        ("auto", None, "priority"),
        (None, None, "default"),
        (None, "default", "default"),
        (None, "flex", "flex"),
        (None, "a name of tomorrow", "default"),
    ],
)
def test_an_answer_costs_what_the_tier_costs_that_it_names_and_else_the_dearest(
    asked: str | None, served: str | None, charged: str
) -> None:
    assert tiers(asked).cost(USAGE, served) == cost(charged)


def test_a_dearer_tier_than_asked_for_is_charged_and_from_then_on_in_the_bound() -> None:
    found = tiers(None)
    assert found.most(1000, 1000) == cost("default")
    assert found.cost(USAGE, "priority") == cost("priority")
    assert found.admit("priority")
    assert not found.admit("priority")
    assert not found.admit("a name of tomorrow")
    assert not found.admit(None)
    assert found.most(1000, 1000) == cost("priority")


def test_a_tier_at_the_normal_price_is_not_unknown() -> None:
    groq, model = "https://api.groq.com/openai/v1", "llama-3.3-70b-versatile"
    normal = price_of(model, groq)
    assert normal
    for tier in ("on_demand", "flex", "auto"):
        assert price_of(model, groq, tier) == normal
    assert price_of(model, groq, "performance") is None


def test_auto_has_no_price_where_the_table_lacks_the_tiers_of_the_service() -> None:
    azure = "https://mine.openai.azure.com/openai/v1"
    assert price_of(MODEL, azure)
    assert price_of(MODEL, azure, "auto") is None


@pytest.mark.parametrize("tier", ["batch", "scale", "no-such-tier", 5])
def test_a_budget_in_a_tier_of_unknown_price_is_refused_by_its_name_with_what_to_do(lab: Lab, tier: object) -> None:
    said = f"the price of gpt-5-mini at {OPENAI} in the service tier '{tier}' is unknown: leave service_tier out, or"
    param = {"max_tokens": 5, "service_tier": tier}
    with pytest.raises(SettingsError, match=f"{said} give price_in"):
        lab.run(PROMPTS, Service([]), endpoints=[Endpoint(MODEL)], param=param, budget=5)


def test_without_a_budget_a_tier_of_unknown_price_has_an_unknown_cost_and_a_note_says_why(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"endpoints": [Endpoint(MODEL)], "param": {"service_tier": "scale"}}
    report = lab.run(PROMPTS, Service(PROMPTS), quiet=False, no_progress=True, **options)
    assert report.cost_usd is None
    said = (
        f"Note: the price of gpt-5-mini at {OPENAI} in the service tier 'scale' is unknown, so the cost is unknown too"
    )
    assert said in capsys.readouterr().err
    planned = batcher.plan(PROMPTS, keyword="other", output_dir=lab.directory, **options)
    assert said in planned.summary
    assert planned.most_usd is None


def test_a_price_that_the_user_gives_holds_for_every_tier(lab: Lab) -> None:
    priced = Endpoint(MODEL, prices={"in": 1, "out": 1})
    param = {"max_tokens": 5, "service_tier": "scale"}
    report = lab.run(PROMPTS, serving("priority"), endpoints=[priced], param=param, budget=1)
    assert report.cost_usd == pytest.approx(10 * 12 / 1e6)


@pytest.mark.parametrize(("asked", "served"), [("flex", "default"), ("priority", "default"), (None, "priority")])
def test_the_report_counts_the_tier_that_answered(lab: Lab, asked: str | None, served: str) -> None:
    param = {"max_tokens": 5} | ({} if asked is None else {"service_tier": asked})
    report = lab.run(PROMPTS, serving(served), endpoints=[Endpoint(MODEL)], param=param, budget=1)
    price = price_of(MODEL, OPENAI, served)
    assert price
    assert lab.query("SELECT DISTINCT cost FROM requests") == [(price.cost(Usage(10, 2)),)]
    assert report.cost_usd == pytest.approx(10 * price.cost(Usage(10, 2)) / 1e9)


def test_a_tier_that_was_not_asked_for_is_said_once_and_known_to_the_next_process(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"endpoints": [Endpoint(MODEL), Endpoint(MODEL, api_key="sk-2")]}
    options |= {"param": {"max_tokens": 5}, "budget": 1, "quiet": False, "no_progress": True}
    first = batcher.plan(PROMPTS, keyword="k", output_dir=lab.directory, **{**options, "quiet": True}).most_usd
    lab.run(PROMPTS, serving("priority"), limit=5, **options)
    assert capsys.readouterr().err.count("answered in the service tier 'priority', which was not asked for") == 1
    assert lab.query("SELECT count(*) FROM events WHERE kind = 'service tier'") == [(1,)]
    later = batcher.plan(PROMPTS, keyword="k", output_dir=lab.directory, **{**options, "quiet": True})
    assert first
    assert later.most_usd
    assert later.most_usd / 5 > 1.5 * first / 10
    lab.run(PROMPTS, serving("priority"), **options)
    assert "answered in the service tier" not in capsys.readouterr().err


def test_the_tier_is_read_from_a_body_from_a_stream_and_from_langchain() -> None:
    body = completion("yes") | {"service_tier": "flex"}
    found = completion_in(body, {})
    assert found
    assert found.service_tier == "flex"
    stream = Stream()
    for tier, choice in (
        ("auto", {"delta": {"content": "yes"}}),
        ("default", {"delta": {}, "finish_reason": "stop"}),
    ):
        stream.add(f"data: {json.dumps({'service_tier': tier, 'choices': [choice]})}\n\n".encode())
    streamed = stream.answer({})
    assert isinstance(streamed, Completion)
    assert streamed.service_tier == "default"
    message = AIMessage("yes", response_metadata={"service_tier": "priority", "finish_reason": "stop"})
    generated = completion_of(LLMResult(generations=[[ChatGeneration(message=message)]]))
    assert isinstance(generated, Completion)
    assert generated.service_tier == "priority"


@pytest.mark.parametrize("tier", [5, None, ["flex"], {}])
def test_a_tier_that_is_no_text_is_none(tier: object) -> None:
    found = completion_in(completion("yes") | {"service_tier": tier}, {})
    assert found
    assert found.service_tier is None

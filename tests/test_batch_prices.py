"""What requests cost in batches: by the user's word, the price table, or what is known of the service; bounds hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults import fault
from hypothesis import given
from hypothesis import strategies as st

from batcher.calls.endpoints import endpoints_of, tables_of
from batcher.calls.forms import Form, Wire
from batcher.calls.services import SERVICES, batch_share
from batcher.endpoint import OPENAI_URL, Endpoint
from batcher.money.budget import BudgetSpent
from batcher.money.prices import price_of
from batcher.money.spending import Spending
from batcher.money.tariff import NO_WORDING, Tariff, distinct, tariffs_of
from batcher.money.tiers import Tiers
from batcher.planning.asking import in_batches, tariffs_in_forms
from batcher.planning.job import prepare
from batcher.records import Completion, Task, Terms, Usage
from batcher.settings import Settings

LIMITED = {"max_tokens": 100}
MESSAGES = [{"role": "user", "content": "How much?"}]
DASHSCOPE = SERVICES["dashscope"].base_url
GIVEN = {"in": 1.0, "out": 4.0}


MILLION = Usage(1_000_000, 1_000_000)


def costs(endpoint: Endpoint, usage: Usage = MILLION) -> tuple[Any, ...]:
    """Return what an answer costs online and in a batch, in dollars."""
    tariff = Tariff.of(endpoint, LIMITED)
    (batch,) = in_batches([tariff])
    return tuple(None if each.tiers is None else each.tiers.cost(usage, "default") / 1e9 for each in (tariff, batch))


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        (Endpoint("m", OPENAI_URL, prices=GIVEN), (5.0, 2.5)),
        (Endpoint("m", SERVICES["moonshot"].base_url, prices=GIVEN), (5.0, 3.0)),
        (Endpoint("m", SERVICES["together"].base_url, prices=GIVEN), (5.0, 5.0)),
        (Endpoint("m", "https://relay.example/v1", prices=GIVEN), (5.0, 5.0)),
        (Endpoint("m", "https://relay.example/v1", prices=GIVEN | {"batch": 0.4}), (5.0, 2.0)),
        (Endpoint("m", OPENAI_URL, prices=GIVEN | {"batch": 1}), (5.0, 5.0)),
        (Endpoint("m", "https://relay.example/v1", prices={"batch": 0.4}), (None, None)),
        (Endpoint("m", "https://relay.example/v1"), (None, None)),
        (Endpoint("m", OPENAI_URL, prices={"in": 0, "out": 0}), (0.0, 0.0)),
    ],
)
def test_a_batch_costs_what_the_user_says_or_the_service_asks(endpoint: Endpoint, expected: tuple[Any, Any]) -> None:
    assert costs(endpoint) == expected


def test_the_price_table_goes_before_the_share_of_the_service_and_the_users_word_before_the_table() -> None:
    table = price_of("gpt-4o-mini", OPENAI_URL, in_batch=True)
    assert table
    online, batch = costs(Endpoint("gpt-4o-mini", OPENAI_URL))
    assert batch == table.cost(MILLION) / 1e9 == online / 2
    assert costs(Endpoint("gpt-4o-mini", OPENAI_URL, prices={"batch": 0.25}))[1] == online / 4
    # At Groq, tokens from the cache cost in a batch what all others do.
    cached = Usage(1_000_000, 0, cached_tokens=1_000_000)
    online, batch = costs(Endpoint("openai/gpt-oss-120b", SERVICES["groq"].base_url), cached)
    assert batch == online


def test_a_model_without_a_price_for_batches_in_the_table_costs_the_share_of_its_service() -> None:
    assert price_of("qwen-plus", DASHSCOPE, in_batch=True) is None
    online, batch = costs(Endpoint("qwen-plus", DASHSCOPE, prices=GIVEN))
    assert batch == online / 2
    assert batch_share("http://127.0.0.1:9999/v1") == 1.0


@pytest.mark.parametrize("tier", [None, "auto", "priority"])
@pytest.mark.parametrize("own", [None, 0.5])
@given(
    st.integers(0, 10**6), st.integers(0, 10**5), st.sampled_from([None, "default", "flex", "priority", "batch", ""])
)
def test_no_answer_of_a_batch_costs_more_than_its_bound(
    tier: str | None, own: float | None, prompt: int, answer: int, named: str | None
) -> None:
    online = Tiers.of("gpt-5-mini", OPENAI_URL, tier)
    assert online
    batch = online.in_batches(own, 0.5)
    assert batch.most(prompt, answer) <= online.most(prompt, answer)
    if named in {"priority", "flex"} and tier != "auto":
        batch.admit(named)  # as its first answer does
    assert batch.cost(Usage(prompt, answer), named) <= batch.most(prompt, answer)


@given(st.integers(0, 10**6), st.integers(0, 10**5), st.floats(0.001, 1))
def test_a_share_is_never_rounded_down(prompt: int, answer: int, share: float) -> None:
    online = price_of("gpt-5-mini", OPENAI_URL)
    assert online
    whole, part = online.most(prompt, answer), online.scaled(share).most(prompt, answer)
    assert whole * share * (1 - 1e-9) - 1 <= part <= whole + 1


def test_tariffs_of_one_source_stay_one_and_learn_together_in_batches() -> None:
    endpoints = [Endpoint("gpt-4o-mini", OPENAI_URL, key) for key in ("sk-a", "sk-b")]
    online = tariffs_of(endpoints, LIMITED, NO_WORDING)
    batch = in_batches(online)
    assert len(distinct(batch)) == len(distinct([*in_batches(online), *batch])) == 1
    assert batch[0].overhead is online[0].overhead


def test_vectors_cost_their_share_too() -> None:
    (batch,) = in_batches([Tariff.of(Endpoint("text-embedding-3-small", OPENAI_URL), {})])
    online = Tariff.of(Endpoint("text-embedding-3-small", OPENAI_URL), {})
    terms, came = Terms(Task.EMBEDDING), Completion("[]", usage=Usage(1_000_000, 0))
    on, off = online.on(terms), batch.on(terms)
    assert on.cost(came, on.bound(MESSAGES)) == 2 * (off.cost(came, off.bound(MESSAGES)) or 0) > 0


async def test_a_batch_is_charged_at_its_own_price_and_gives_back_what_it_did_not_cost() -> None:
    tariff = Tariff.of(Endpoint("m", OPENAI_URL, prices=GIVEN), LIMITED)
    batch = in_batches([tariff])
    bound, most = batch[0].bound(MESSAGES), tariff.most(MESSAGES) or 0
    assert bound.cost == most // 2
    spending = Spending([tariff], limit=most, batch=batch)
    assert [spending.charge(bound) for _ in range(3)] == [True, True, False]
    with pytest.raises(BudgetSpent):
        await spending.reserve(MESSAGES)
    again = Spending([tariff], limit=most, spent=most, batch=batch)  # as the next process finds it
    again.give_back(most)
    assert await again.reserve(MESSAGES) == most
    Spending([tariff], batch=batch).give_back(5)  # without a budget nothing is counted


def test_a_budget_needs_a_price_for_batches_as_well() -> None:
    tariff = Tariff.of(Endpoint("m", "https://relay.example/v1"), LIMITED)
    priced = Tariff.of(Endpoint("m", "https://relay.example/v1", prices=GIVEN), LIMITED)
    assert fault(lambda: Spending([priced], 1, batch=[tariff])).startswith("budget: the price of m at https://relay")
    assert Spending([priced], batch=[tariff]).spent is None


# --- how it is given ---


def prices_of(**options: Any) -> Any:
    return endpoints_of(Settings.of(options), {"API_KEY": "sk-price-batch-1"})[0].prices


def test_the_option_is_the_share_of_whatever_price_counts() -> None:
    options = {"model": "m", "base_url": "https://relay.example/v1", "price_batch": 0.3}
    assert prices_of(**options) == {"batch": 0.3}
    assert prices_of(**options, price_in=1, price_out=4) == {"in": 1, "out": 4, "batch": 0.3}


@pytest.mark.parametrize(
    ("in_file", "given", "expected"),
    [
        (
            "prices = { in = 1, out = 4, cached = 0.5 }",
            {"batch": 0.3},
            {"in": 1, "out": 4, "cached": 0.5, "batch": 0.3},
        ),
        ("prices = { batch = 0.9 }", {"batch": 0.3}, {"batch": 0.3}),
        ("", {"batch": 0.3}, {"batch": 0.3}),
        ("prices = { in = 1, out = 4, batch = 0.9 }", {"in": 2, "out": 3}, {"in": 2, "out": 3}),
        ("prices = { batch = 0.9 }", {}, {"batch": 0.9}),
    ],
)
def test_what_the_command_line_says_of_prices_goes_before_the_endpoints_of_a_file(
    in_file: str, given: dict[str, float], expected: dict[str, float], tmp_path: Path
) -> None:
    path = tmp_path / "e.toml"
    path.write_text(f'[[endpoint]]\nmodel = "m"\nbase_url = "https://relay.example/v1"\n{in_file}\n')
    tables = tables_of(path)
    tables = replace(tables, instead={"prices": given}) if given else tables
    assert prices_of(endpoints=tables) == expected


def test_the_tariffs_of_a_run_know_what_their_services_ask_in_batches(tmp_path: Path) -> None:
    options = {"provider": "moonshot", "model": "m", "price_in": 1.0, "price_out": 4.0, "output_dir": tmp_path / "o"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOONSHOT_API_KEY", "sk-moonshot-secret-1")
        job = prepare(["a", "b"], "{text}", Settings.of({**options, "keyword": "k"}))
    for ladder in ((), (Wire(Form.SCHEMA),)):
        for tariffs in tariffs_in_forms(job, job.endpoints, [ladder], ()).values():
            assert tariffs[0].in_batches() == in_batches(tariffs)[0]
            batch = tariffs[0].in_batches().tiers
            assert batch is not None
            assert batch.cost(MILLION) == 3 * 10**9

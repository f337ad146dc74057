"""Costs are those of the price table, to the nano-dollar, and no request costs more than its bound."""

from __future__ import annotations

import datetime as dt
import math
import time
from decimal import Decimal

import genai_prices
import pytest
from genai_prices.data import providers
from hypothesis import example, given
from hypothesis import strategies as st

from batcher.money.prices import (
    NANO,
    Period,
    Price,
    Rates,
    context_window_of,
    nano_dollars,
    price_of,
)
from batcher.money.prices import given as price_given
from batcher.records import Usage
from batcher.words import dollars

DAY_S = 86400
OPENAI = "https://api.openai.com/v1"
DEEPSEEK = "https://api.deepseek.com/v1"
GOOGLE = "https://generativelanguage.googleapis.com/v1beta/openai"
URLS = {
    "openai": OPENAI,
    "deepseek": DEEPSEEK,
    "azure": "https://mine.openai.azure.com/openai/v1",
    "google": GOOGLE,
    "groq": "https://api.groq.com/openai/v1",
    "mistral": "https://api.mistral.ai/v1",
    "moonshotai": "https://api.moonshot.cn/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "perplexity": "https://api.perplexity.ai",
    "together": "https://api.together.xyz/v1",
    "x-ai": "https://api.x.ai/v1",
    "zhipuai": "https://open.bigmodel.cn/api/paas/v4",
}
CHEAP = Rates(0, 10**15, 10**15, 10**15, 10**15)  # a nano-dollar a token
DEAR = Rates(0, *[2 * 10**15] * 4)
# Above ten tokens, questions are cheaper and answers dearer.
TWISTED = Price("", (Period(0, 0, (CHEAP._replace(prompt=2 * 10**15), Rates(10, *[10**15] * 2, *[2 * 10**15] * 2))),))
MODELS = [(URLS[provider.id], model.id) for provider in providers if provider.id in URLS for model in provider.models]
PRICES = {(url, model): price for url, model in MODELS if (price := price_of(model, url))}
NOW = time.time()
MIDNIGHT = NOW // DAY_S * DAY_S

counts = st.integers(0, 300) | st.integers(0, 2_000_000)
usages = st.builds(
    lambda prompt, completion, cached, reasoning: Usage(
        prompt, completion, min(cached, prompt), min(reasoning, completion)
    ),
    *[counts] * 4,
)
moments = st.builds(lambda days, second: NOW + days * DAY_S + second, st.integers(0, 400), st.integers(0, DAY_S))
rates = st.decimals(0, 200, places=6).map(float)
prices = st.sampled_from(list(PRICES.values())) | st.builds(price_given, rates, rates, st.none() | rates)


def charged(url: str, model: str, usage: Usage, at: float, *, written: int) -> int:
    """Return genai-prices' cost of a request with a number of tokens written into the server's cache."""
    total = genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=usage.prompt_tokens,
            cache_read_tokens=usage.cached_tokens,
            cache_write_tokens=written,
            output_tokens=usage.completion_tokens,
            output_reasoning_tokens=usage.reasoning_tokens,
        ),
        model,
        provider_api_url=url,
        genai_request_timestamp=dt.datetime.fromtimestamp(at, dt.UTC),
    ).total_price
    return math.ceil(total * NANO)


def test_most_of_what_the_table_lists_has_a_price() -> None:
    assert len(PRICES) > 0.7 * len(MODELS) > 500


@given(st.sampled_from(list(PRICES)), usages, moments)
@example((DEEPSEEK, "deepseek-chat"), Usage(1000, 1000, 500), MIDNIGHT + DAY_S + 8 * 3600)
@example((DEEPSEEK, "deepseek-chat"), Usage(1000, 1000, 500), MIDNIGHT + DAY_S + 20 * 3600)
@example((URLS["perplexity"], "sonar-deep-research"), Usage(10, 1000, 0, 900), NOW)
@example((GOOGLE, "gemini-2.5-pro"), Usage(200_000, 10), NOW)
@example((GOOGLE, "gemini-2.5-pro"), Usage(200_001, 10), NOW)
def test_a_cost_is_that_of_the_table_to_the_nano_dollar(sold: tuple[str, str], usage: Usage, at: float) -> None:
    uncached = (usage.prompt_tokens or 0) - usage.cached_tokens
    assert PRICES[sold].cost(usage, at) == max(charged(*sold, usage, at, written=written) for written in (0, uncached))


@given(prices, usages, st.integers(0, 10**6), moments)
def test_no_request_costs_more_than_was_foreseen(price: Price, usage: Usage, spare: int, at: float) -> None:
    most = price.most((usage.prompt_tokens or 0) + spare, (usage.completion_tokens or 0) + spare)
    assert 0 <= price.cost(usage, at) <= most


@given(prices, usages, st.integers(0, 10**6), moments)
@example(TWISTED, Usage(10, 10), 10, NOW)
def test_a_shorter_question_costs_no_more_than_its_part_of_the_bound(
    price: Price, usage: Usage, spare: int, at: float
) -> None:
    prompt, completion = (usage.prompt_tokens or 0) + spare, (usage.completion_tokens or 0) + spare
    most, answer = price.most(prompt, completion), price.most_of_answer(prompt, completion)
    if answer is not None and prompt:
        charged = answer + -(-(most - answer) * (usage.prompt_tokens or 0) // prompt)
        assert price.cost(usage, at) <= charged <= most


def test_a_bound_has_no_parts_where_rates_of_questions_and_answers_do_not_rise_together() -> None:
    assert TWISTED.most_of_answer(20, 20) is None
    assert TWISTED.most_of_answer(10, 20) == TWISTED.most(0, 20)


def test_a_cost_is_counted_at_the_moment_of_the_answer_and_foreseen_at_the_dearest() -> None:
    noon, tomorrow = DAY_S / 2, MIDNIGHT + DAY_S
    price = Price(
        "test",
        (
            Period(0, 0, (CHEAP,)),
            Period(0, noon, (DEAR,)),
            Period(tomorrow, 0, (DEAR,)),
            Period(tomorrow, noon, (CHEAP,)),
        ),
    )
    for hour, cost in (
        (0, 1000),
        (11.9, 1000),
        (12, 2000),
        (23.9, 2000),
        (24, 2000),
        (35.9, 2000),
        (36, 1000),
        (72, 2000),
    ):
        assert price.cost(Usage(1000, 0), MIDNIGHT + hour * 3600) == cost
    assert price.cost(Usage(1000, 0)) in {1000, 2000}
    assert price.most(1000, 0) == 2000


def test_thoughts_may_have_a_rate_of_their_own() -> None:
    price = Price("test", (Period(0, 0, (CHEAP._replace(reasoning=DEAR.reasoning),)),))
    assert [price.cost(Usage(0, 100, 0, thoughts)) for thoughts in (0, 90, 100, 5000)] == [100, 190, 200, 200]
    assert price.most(0, 100) == 200


@pytest.mark.parametrize(("tokens", "cost"), [(0, 0), (1, 1), (100, 100), (101, 202), (1000, 2000)])
def test_a_long_prompt_costs_its_tier_from_the_first_token_on(tokens: int, cost: int) -> None:
    price = Price("test", (Period(0, 0, (CHEAP, DEAR._replace(above=100))),))
    assert price.cost(Usage(tokens, 0)) == price.most(tokens, 0) == cost


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage(0, 0), 0),
        (Usage(1000, 100), 150_000 + 60_000),
        (Usage(1000, 100, cached_tokens=400), 90_000 + 30_000 + 60_000),
        (Usage(1000, 100, reasoning_tokens=90), 150_000 + 60_000),
        (Usage(1000, 100, cached_tokens=5000, reasoning_tokens=5000), 75_000 + 60_000),  # a server that cannot count
        (Usage(1, 0), 150),
    ],
)
def test_a_cost_is_tokens_times_price(usage: Usage, cost: int) -> None:
    assert price_given(0.15, 0.60, 0.075).cost(usage) == cost


def test_a_cost_is_rounded_up() -> None:
    price = price_given(0.0001, 0.0001)
    assert [price.cost(Usage(tokens, 0)) for tokens in (0, 1, 10, 11)] == [0, 1, 1, 2]
    assert [price.most(tokens, 0) for tokens in (0, 1, 10, 11)] == [0, 1, 1, 2]


@pytest.mark.parametrize("usage", [Usage(), Usage(10), Usage(None, 10)])
def test_what_was_not_counted_has_no_cost(usage: Usage) -> None:
    with pytest.raises(ValueError, match="is not known"):
        price_given(1, 1).cost(usage)


def test_a_fee_for_each_request_counts() -> None:
    free = price_given(0, 0)
    assert free.cost(Usage(1000, 1000)) == free.most(1000, 1000) == 0
    sonar = PRICES[URLS["perplexity"], "sonar"]
    assert sonar.cost(Usage(0, 0)) == sonar.most(0, 0) > NANO // 1000


@pytest.mark.parametrize(
    ("url", "model"),
    [
        (OPENAI, "gpt-4o-mini"),
        (OPENAI, "gpt-4o-mini-2024-07-18"),
        ("https://API.OpenAI.com", "gpt-4o-mini"),
        ("https://api.openai.com:443/v1", "gpt-4o-mini"),
        (URLS["azure"], "gpt-4o-mini"),
        (URLS["openrouter"], "openai/gpt-4o-mini"),
    ],
)
def test_the_base_url_finds_the_price(url: str, model: str) -> None:
    price = price_of(model, url)
    assert price
    assert price.cost(Usage(1000, 1000)) == price_given(0.15, 0.60).cost(Usage(1000, 1000))
    assert "gpt-4o-mini" in price.source
    assert context_window_of(model, url) == 128_000


@pytest.mark.parametrize(
    ("url", "model"),
    [
        ("https://relay.example/v1", "gpt-4o-mini"),
        ("https://api.openai.com.relay.example/v1", "gpt-4o-mini"),
        ("https://relay.example/api.openai.com/v1", "gpt-4o-mini"),
        ("http://127.0.0.1:8000/v1", "gpt-4o-mini"),
        ("offline", "gpt-4o-mini"),
        ("", "gpt-4o-mini"),
        (OPENAI, "deepseek-chat"),
        (OPENAI, "no-such-model"),
        (URLS["azure"], "my-deployment"),
        (OPENAI, "text-embedding-3-small"),  # has no answers
    ],
)
def test_a_price_is_never_guessed(url: str, model: str) -> None:
    assert price_of(model, url) is None


def test_a_service_tier_has_its_own_price_or_none() -> None:
    usage = Usage(1000, 1000)
    normal, flex, priority = (
        price.cost(usage) for tier in (None, "flex", "priority") if (price := price_of("gpt-5-mini", OPENAI, tier))
    )
    assert flex < normal < priority
    assert price_of("gpt-5-mini", OPENAI, "auto") == price_of("gpt-5-mini", OPENAI, "default")
    assert price_of("gpt-5-mini", OPENAI, "auto") == price_of("gpt-5-mini", OPENAI)
    assert price_of("gpt-5-mini", OPENAI, "no-such-tier") is None
    assert price_of("gpt-5-mini", URLS["azure"], "priority") is None  # the table has OpenAI's rates, not Azure's


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (400_000, "$0.0004"),
        (425_000, "$0.00042"),
        (9_600_000, "$0.0096"),
        (12_300_000, "$0.012"),
        (50_000_000, "$0.05"),
        (99_600_000, "$0.10"),
        (210_000_000, "$0.21"),
        (999_999_999, "$1.00"),
        (5 * NANO, "$5.00"),
        (1_234_500_000_000, "$1,234.50"),
        (-210_000_000, "-$0.21"),
    ],
)
def test_amounts_are_written_for_people(nano: int, text: str) -> None:
    assert dollars(nano) == text


@given(st.integers(-(10**16), 10**16))
def test_an_amount_is_written_to_within_a_twentieth_and_never_as_nothing(nano: int) -> None:
    text = dollars(nano)
    shown = Decimal(text.replace("$", "").replace(",", "")) * NANO
    assert abs(shown - nano) <= Decimal(abs(nano)) / 20
    assert len(text.partition(".")[2]) >= 2


@pytest.mark.parametrize(
    ("amount", "nano"), [(5, 5 * NANO), (0.1, 100_000_000), (19.99, 19_990_000_000), (1e-9, 1), (1.9e-9, 1), (0, 0)]
)
def test_a_budget_is_read_exactly(amount: float, nano: int) -> None:
    assert nano_dollars(amount) == nano

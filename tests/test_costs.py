"""What a plan says of money and time names what is known, what bounds it, and only what is missing."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Lab
from fake_service import Service

import batcher
from batcher.endpoint import Endpoint
from batcher.money.tariff import Tariff
from batcher.planning.costs import Costs, Load, costs_of, pace_of
from batcher.planning.forecast import Forecast

TEXTS = [f"question {number:02}" for number in range(40)]
PRICED = Endpoint("m", "http://h/v1", prices={"in": 1000, "out": 10_000})
OTHER = Endpoint("n", "http://h/v1")
FREE = Endpoint("sim", "offline")
CENT = 10**7  # in nano-dollars
MAX_TOKENS = {"max_tokens": 7}
LONG = Load(1570, 15_700, 15_700 * CENT, 2.0)
UNKNOWN = Load(100, 1000, 900 * CENT, None)


def costs(
    load: Load, *endpoints: Endpoint, left: int | None = None, params: dict[str, Any] | None = None
) -> tuple[Costs, str]:
    tariffs = [Tariff.of(endpoint, params or {}) for endpoint in endpoints]
    found = costs_of(load, tariffs, left, "price_in, price_out")
    return found, found.in_words(load.requests)


def plan(lab: Lab, data: Any = TEXTS, **options: Any) -> Forecast:
    given: dict[str, Any] = {"keyword": "k", "output_dir": lab.directory} | options
    return batcher.plan(data, "{text}", **given)


@pytest.mark.parametrize(
    ("load", "endpoints", "params", "said"),
    [
        (Load(0, 0, 0, None), [PRICED], {}, "none: nothing is sent"),
        (Load(5, 50, 0, None), [FREE], {}, "none: the endpoints are free"),
        (
            Load(100, 1000, None, None),
            [PRICED],
            {},
            "$1.00 for the prompts; answers unknown until some are there (limit=20); no bound without param={",
        ),
        (
            Load(100, 1000, 900 * CENT, None),
            [PRICED],
            MAX_TOKENS,
            "$1.00 for the prompts; answers unknown until some are there (limit=20); at most $9.00",
        ),
        (
            Load(20, 200, 900 * CENT, None),
            [PRICED],
            MAX_TOKENS,
            "$0.20 for the prompts; answers unknown until some are there; at most $9.00",
        ),
        (
            Load(100, 1000, 900 * CENT, 2.0),
            [PRICED],
            MAX_TOKENS,
            "about $3.00, $1.00 for the prompts; at most $9.00",
        ),
        (Load(100, 1000, None, 2.0), [PRICED], MAX_TOKENS, "about $3.00, $1.00 for the prompts; no bound, because ima"),
        (Load(100, 1000, None, 2.0), [OTHER], MAX_TOKENS, "the price of n is unknown (price_in, price_out)"),
        (
            Load(100, 1000, None, None),
            [PRICED, OTHER, FREE],
            {},
            "the price of n is unknown (1 of 3 models; price_in, price_out)",
        ),
    ],
)
def test_money_names_only_what_is_missing(
    load: Load, endpoints: list[Endpoint], params: dict[str, Any], said: str
) -> None:
    assert costs(load, *endpoints, params=params)[1].startswith(said)


@pytest.mark.parametrize(
    ("load", "left", "params", "enough_for", "said"),
    [
        (LONG, 1482 * CENT, MAX_TOKENS, 494, "$14.82 left, enough for about 494 of 1,570 rows"),
        (Load(100, 1000, 900 * CENT, 2.0), 300 * CENT, MAX_TOKENS, 100, "$3.00 left, enough for all 100 rows"),
        (Load(1, 10, 9 * CENT, 2.0), 300 * CENT, MAX_TOKENS, 1, "$3.00 left, enough for the row"),
        (UNKNOWN, 300 * CENT, MAX_TOKENS, 33, "$3.00 left, enough for at least 33 of 100 rows"),
        (Load(100, 1000, 900 * CENT, 2.0), 8 * CENT, MAX_TOKENS, 2, "$0.08 left, and one request may cost $0.09"),
        (Load(100, 1000, 900 * CENT, 2.0), 0, MAX_TOKENS, 0, "used up"),
        (Load(0, 0, 0, 2.0), 5 * CENT, MAX_TOKENS, None, ""),
        (Load(100, 1000, 900 * CENT, 2.0), None, MAX_TOKENS, None, ""),
    ],
)
def test_the_budget_says_for_how_many_rows_it_is_enough(
    load: Load, left: int | None, params: dict[str, Any], enough_for: int | None, said: str
) -> None:
    found, _ = costs(load, PRICED, left=left, params=params)
    assert (found.enough_for, found.budget_in_words(load.requests, "row")) == (enough_for, said)


def test_a_bound_by_the_context_window_alone_says_nothing_of_the_rows_that_a_budget_covers() -> None:
    found, _ = costs(Load(10, 100, 900 * CENT, None), Endpoint("gpt-4o-mini"), left=500 * CENT)
    assert (found.enough_for, found.budget_in_words(10, "row")) == (None, "$5.00 left")


def test_a_budget_is_what_earlier_processes_left_of_it(lab: Lab) -> None:
    options: dict[str, Any] = {"endpoints": [PRICED], "param": MAX_TOKENS, "budget": 10.0}
    report = lab.run(TEXTS, Service(TEXTS), "{text}", limit=10, **options)
    found = plan(lab, **options)
    assert report.cost_usd
    assert found.left_usd == pytest.approx(10.0 - report.cost_usd)
    assert found.to_dict()["enough_for"] == found.enough_for == 30
    assert found.completion_tokens == 30 * 2
    assert found.prompts_usd
    assert found.cost_usd == pytest.approx(found.prompts_usd + 60 * 0.01)


def test_only_the_answers_of_the_models_that_are_asked_tell_the_length_of_the_next(lab: Lab) -> None:
    lab.run(TEXTS, Service(TEXTS), "{text}", limit=10, endpoints=[PRICED])
    other = Endpoint("other", "http://h/v1", prices={"in": 1, "out": 1})
    assert plan(lab, endpoints=[PRICED]).completion_tokens == 60
    assert plan(lab, endpoints=[other], on_change="reuse").completion_tokens is None
    assert plan(lab, endpoints=[PRICED, other]).completion_tokens == 60


def test_an_answer_is_expected_to_be_no_longer_than_it_may_be(lab: Lab) -> None:
    lab.run(TEXTS, Service(TEXTS), "{text}", limit=10, endpoints=[PRICED])
    found = plan(lab, endpoints=[PRICED], param={"max_tokens": 1}, on_change="reuse")
    assert found.completion_tokens == found.requests


@pytest.mark.parametrize(
    ("endpoints", "said"),
    [
        ([Endpoint("m")], "as the service allows (no limit is given)"),
        ([Endpoint("m", rpm=600), Endpoint("n")], "as the service allows (n has no limit)"),
        ([Endpoint("m", rpm=600)], "10s, at 600 requests a minute"),
        ([Endpoint("m", rpm=600, rps=5)], "20s, at 5 requests a second"),
        ([Endpoint("m", rpm=600, tpm=12_000)], "10s, at 600 requests a minute"),
        ([Endpoint("m", rpm=600, tpm=6000)], "20s, at 6,000 model tokens a minute"),
        (
            [Endpoint("m", rps=5), Endpoint("n", rpm=300)],
            "10s, at 5 requests a second for each account and 300 requests a minute for each account",
        ),
    ],
)
def test_time_names_the_limit_that_makes_it(endpoints: list[Endpoint], said: str) -> None:
    load = Load(100, 1000, None, 10.0)
    assert pace_of(endpoints, load).in_words(load.requests) == said


def test_a_time_by_tokens_before_the_first_answer_is_that_of_the_prompts() -> None:
    found = pace_of([Endpoint("m", tpm=6000)], Load(100, 1000, None, None))
    assert found.in_words(100) == "10s, at 6,000 model tokens a minute (prompts alone)"


def test_an_offline_plan_shows_no_money(lab: Lab) -> None:
    found = plan(lab, provider="offline", budget=1.0)
    assert "$" not in str(found)
    assert "none: the endpoints are free" in str(found)

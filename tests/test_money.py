"""What a run costs, and the budget that it keeps, against what the service would bill."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Call, Service, answer_to
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.config import Endpoint
from batcher.errors import BudgetReached, InputError, Interrupted, SettingsError
from batcher.prices import NANO
from batcher.records import Completion, Failure, Fault, Usage

PROMPTS = [f"question {number}" for number in range(20)]
# A tenth of a dollar for a prompt's token and a whole one for an answer's: sums are easy to see.
PRICED = Endpoint("m", prices={"in": 100_000, "out": 1_000_000, "cached": 10_000})
SHORT = {"max_tokens": 2}
REUSE: dict[str, Any] = {"param": SHORT, "on_change": "reuse"}


def bill(used: list[Usage]) -> int:
    """Add up what the service would charge, in nano-dollars, by a formula of its own."""
    return sum(((each.prompt_tokens or 0) * NANO // 10) + (each.completion_tokens or 0) * NANO for each in used)


def cut_off(call: Call) -> Failure:
    return Failure(Fault.CONNECTION, "cut off", may_be_billed=True)


@contextmanager
def fresh_lab() -> Iterator[Lab]:
    with tempfile.TemporaryDirectory() as directory:
        yield Lab(Path(directory) / "output")


def test_an_answer_costs_what_the_server_says_that_it_used(lab: Lab) -> None:
    usages = {PROMPTS[0]: Usage(100, 10), PROMPTS[1]: Usage(100, 10, cached_tokens=60), PROMPTS[2]: Usage(50, 7, 0, 5)}
    service = Service(PROMPTS[:3], usage=lambda call: usages[call.prompt])
    report = lab.run(PROMPTS[:3], service, endpoints=[PRICED])
    assert report.cost_usd == pytest.approx(20.0 + (4 + 0.6 + 10) + 12.0)
    assert lab.query("SELECT cost FROM requests ORDER BY position") == [
        (20 * NANO,),
        (14_600_000_000,),
        (12 * NANO,),
    ]
    assert lab.query("SELECT cached_tokens, reasoning_tokens FROM requests ORDER BY position") == [
        (0, 0),
        (60, 0),
        (0, 5),
    ]


def test_what_a_model_costs_that_nobody_knows_is_not_made_up(lab: Lab) -> None:
    report = lab.run(PROMPTS, Service(PROMPTS))
    assert report.cost_usd is None
    assert set(lab.query("SELECT cost FROM requests")) == {(None,)}


def test_a_known_model_is_priced_without_a_word(lab: Lab) -> None:
    report = lab.run(PROMPTS, Service(PROMPTS), endpoints=[Endpoint("gpt-4o-mini")])
    assert report.cost_usd == pytest.approx(20 * (10 * 0.15 + 2 * 0.60) / 1e6)


def test_a_server_that_does_not_say_what_it_used_counts_as_the_most(lab: Lab) -> None:
    service = Service(PROMPTS[:1], usage=lambda _call: Usage())
    lab.run(PROMPTS[:1], service, endpoints=[PRICED], param=SHORT)
    [(cost,)] = lab.query("SELECT cost FROM requests")
    assert cost >= bill([Usage(len(PROMPTS[0]), 2)])


@pytest.mark.parametrize(
    ("failure", "is_billed"),
    [
        (Failure(Fault.STATUS, "no", 500), False),
        (Failure(Fault.CONNECTION, "nobody listens"), False),
        (Failure(Fault.CONNECTION, "cut off", may_be_billed=True), True),
        (Failure(Fault.PROTOCOL, "half an answer", may_be_billed=True), True),
    ],
)
def test_an_attempt_counts_as_its_most_where_it_may_be_billed(lab: Lab, failure: Failure, is_billed: bool) -> None:
    service = Service(PROMPTS[:1], instead=lambda call: failure if call.nth == 1 else None)
    lab.run(PROMPTS[:1], service, endpoints=[PRICED], param=SHORT)
    [(failed,), (answered,)] = lab.query("SELECT cost FROM requests ORDER BY id")
    assert answered == 3 * NANO
    assert (failed > answered) is is_billed
    assert is_billed or failed == 0


# -- The budget


def test_the_end_of_the_budget_stops_the_run_and_a_larger_one_goes_on(lab: Lab) -> None:
    service = Service(PROMPTS, usage=lambda _call: Usage(10, 2))  # three dollars each
    with pytest.raises(BudgetReached, match=r"the budget is used up.*\n.* of 20 rows are saved") as caught:
        lab.run(PROMPTS, service, endpoints=[PRICED], param=SHORT, budget=100)
    assert bill(service.used) <= 100 * NANO
    assert caught.value.report.cost_usd == bill(service.used) / NANO
    assert lab.query("SELECT outcome FROM runs")[0][0].startswith("the budget is used up")
    with pytest.raises(BudgetReached):
        lab.run(PROMPTS, service, endpoints=[PRICED], param=SHORT, budget=100)
    assert lab.run(PROMPTS, service, endpoints=[PRICED], param=SHORT, budget=1000).ok == 20
    assert service.asked.total() == 20
    assert [row["infer"] for row in lab.rows()] == [answer_to(prompt) for prompt in PROMPTS]


def test_what_was_in_flight_at_a_stop_is_spent_for_good(lab: Lab) -> None:
    service = Service(PROMPTS, lambda call: 1 if call.prompt == PROMPTS[0] else 1e6)
    stops: dict[float, Any] = {10: lab.wish_to_stop, 20: lab.wish_to_stop}
    with pytest.raises(Interrupted):
        lab.run(PROMPTS, service, at=stops, endpoints=[PRICED], param=SHORT, budget=1e6, timeout=1e6)
    most = sum(cost for (cost,) in lab.query("SELECT cost FROM requests WHERE ended IS NULL"))
    assert most >= bill(service.used[1:])
    spent = 3 * NANO + most
    with pytest.raises(BudgetReached):  # nothing is left: not a single call
        lab.run(PROMPTS, Service([]), endpoints=[PRICED], param=SHORT, budget=spent / NANO)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_run_with_all_its_resumes_is_billed_more_than_the_budget(data: st.DataObject) -> None:
    """Whatever fails, hangs or is stopped, and even if the service charges for every call that it has seen."""
    budget = data.draw(st.integers(1, 4000), "budget")
    # A generator of its own: how often it is asked depends on when commits end, which hypothesis would call flaky.
    seed = random.Random(data.draw(st.integers(0, 2**32), "seed"))
    width = data.draw(st.integers(1, 8), "concurrency")

    def usage(call: Call) -> Usage:
        return Usage(seed.randint(0, len(call.prompt)), seed.randint(0, 2))

    def instead(call: Call) -> Completion | Failure | None:
        return cut_off(call) if seed.random() < 0.2 else None

    service = Service(PROMPTS, lambda _call: seed.choice([0.1, 1, 5, 100]), instead, usage)
    with fresh_lab() as lab:
        for _ in range(data.draw(st.integers(1, 4), "resumes")):
            stops: dict[float, Any] = {seed.uniform(0, 20): lab.wish_to_stop} if seed.random() < 0.5 else {}
            stops |= {at + 1: lab.wish_to_stop for at in list(stops)}
            try:
                lab.run(
                    PROMPTS,
                    service,
                    at=stops,
                    endpoints=[Endpoint("m", prices=PRICED.prices, max_concurrency=width)],
                    param=SHORT,
                    budget=budget,
                    timeout=50,
                )
            except (BudgetReached, Interrupted):
                continue
            finally:
                assert bill(service.used) <= budget * NANO


def test_one_row_at_a_time_goes_where_the_budget_covers_no_more(lab: Lab) -> None:
    service = Service(PROMPTS)
    [most] = {tariff_most(prompt) for prompt in PROMPTS[:10]}
    lab.run(PROMPTS[:10], service, endpoints=[PRICED], param=SHORT, budget=(9 * 3 * NANO + most) / NANO)
    assert service.peak == 1
    assert service.answered.total() == 10


def tariff_most(prompt: str) -> int:
    from batcher.account import Tariff  # noqa: PLC0415 - for this one bound

    most = Tariff.of(PRICED, SHORT).most([{"role": "user", "content": prompt}])
    assert most is not None
    return most


@pytest.mark.parametrize(
    ("endpoint", "param", "said"),
    [
        (Endpoint("m", base_url="http://127.0.0.1:1/v1"), SHORT, "the price of m at http://127.0.0.1:1/v1 is not kno"),
        (Endpoint("m", prices={"in": 1, "out": 1}), {}, "nothing bounds how long an answer of m may be.*max_tokens"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(
    lab: Lab, endpoint: Endpoint, param: dict[str, int], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        lab.run(PROMPTS, Service([]), endpoints=[endpoint], param=param, budget=5)


def test_requests_whose_price_was_not_known_are_told_where_a_budget_comes_later(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.run(PROMPTS, Service(PROMPTS), limit=5)
    lab.run(PROMPTS, Service(PROMPTS), endpoints=[PRICED], budget=1000, quiet=False, no_progress=True, **REUSE)
    assert "5 earlier requests, of unknown price, do not count in the budget" in capsys.readouterr().err


def test_what_is_free_needs_no_bound(lab: Lab) -> None:
    report = lab.run(PROMPTS, Service(PROMPTS), endpoints=[Endpoint("m", prices={"in": 0, "out": 0})], budget=0.01)
    assert (report.ok, report.cost_usd) == (20, 0.0)


def test_a_budget_for_images_is_refused_with_their_row(lab: Lab) -> None:
    def prompt(row: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": row["text"]}}]}]

    with pytest.raises(InputError, match=r"row 0 .*image"):
        lab.run(PROMPTS, Service([]), prompt, endpoints=[PRICED], param=SHORT, budget=5)

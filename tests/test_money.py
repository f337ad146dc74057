"""What a run costs, and the budget that it keeps, against what the service would bill."""

from __future__ import annotations

import contextlib
import json
import math
import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from canned_server import completion
from conftest import Lab
from fake_service import Call, Service, answer_to
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models import FakeListChatModel
from langchain_openai import ChatOpenAI

import batcher
from batcher.calls.choices import completion_in
from batcher.endpoint import Endpoint
from batcher.errors import BudgetReached, EndpointsLost, InputError, Interrupted, SettingsError
from batcher.journal.opening import read_journal
from batcher.money.prices import NANO
from batcher.money.tariff import Tariff
from batcher.records import Bound, Completion, Failure, Fault, Usage
from batcher.reports.status import status
from batcher.reports.verification.verify import verify

PROMPTS = [f"question {number}" for number in range(20)]
# A tenth of a dollar for a prompt's token and a whole one for an answer's: sums are easy to see.
PRICED = Endpoint("m", prices={"in": 100_000, "out": 1_000_000, "cached": 10_000})
SHORT = {"max_tokens": 2}
REUSE: dict[str, Any] = {"param": SHORT, "on_change": "reuse"}


def chat(**options: Any) -> Endpoint:
    """Make an endpoint of a chat model of the user's own, with the prices of `PRICED`."""
    given: dict[str, Any] = {"model": "m", "api_key": "sk-1", "max_retries": 0}
    return Endpoint(llm=ChatOpenAI(**(given | options)), prices=PRICED.prices)


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


# Of $2 for each answer at most: what costs the answers of five questions buys no sixth.
ANSWERS_ONLY = Endpoint("m", prices={"in": 0, "out": 1_000_000})
UNTOLD: list[object] = [
    None,
    "none",
    {},
    {"prompt_tokens": 10},
    {"prompt_tokens": 10, "total_tokens": 10},
    {"prompt_tokens": 10, "completion_tokens": None},
    {"prompt_tokens": 10, "completion_tokens": "1"},
    {"prompt_tokens": 10, "completion_tokens": True},
    {"prompt_tokens": 10, "completion_tokens": -1},
    {"prompt_tokens": 10, "completion_tokens": 0.5},
    {"prompt_tokens": 10, "completion_tokens": 1e300},
    {"prompt_tokens": 10, "completion_tokens": math.nan},
    {"prompt_tokens": 2**53, "completion_tokens": 2**53},
    {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    {"prompt_tokens": 10, "completion_tokens": 0},
]


def saying(usage: Callable[[Call], object]) -> Callable[[Call], Completion | None]:
    """Answer as a server does that says so of what it used."""
    return lambda call: completion_in(completion(answer_to(call.prompt), usage=usage(call)), {})


@pytest.mark.parametrize("usage", UNTOLD, ids=str)
def test_a_budget_for_five_answers_buys_five_whatever_the_server_says_or_does_not(lab: Lab, usage: object) -> None:
    service = Service(PROMPTS, instead=saying(lambda _call: usage))
    with pytest.raises(BudgetReached):
        lab.run(PROMPTS, service, endpoints=[ANSWERS_ONLY], param=SHORT, budget=10)
    assert service.asked.total() == 5
    assert lab.query("SELECT sum(cost) FROM requests") == [(10 * NANO,)]


def test_each_number_that_the_server_does_not_say_counts_as_its_most(lab: Lab) -> None:
    said: dict[str, object] = {PROMPTS[0]: {"completion_tokens": 1}, PROMPTS[1]: {"prompt_tokens": 10}}
    lab.run(
        PROMPTS[:2], Service(PROMPTS, instead=saying(lambda call: said[call.prompt])), endpoints=[PRICED], param=SHORT
    )
    [(question, first), (_, second)] = lab.query("SELECT prompt_most, cost FROM requests ORDER BY position")
    assert question >= len(PROMPTS[0])
    assert (first, second) == (question * NANO // 10 + NANO, NANO + 2 * NANO)


def test_what_nothing_bounds_and_no_server_says_is_not_known_to_cost_nothing(lab: Lab) -> None:
    usages = {PROMPTS[0]: Usage(10, 2), PROMPTS[1]: Usage(10)}
    report = lab.run(PROMPTS[:2], Service(PROMPTS, usage=lambda call: usages[call.prompt]), endpoints=[PRICED])
    assert report.cost_usd is None
    assert lab.query("SELECT cost FROM requests ORDER BY position") == [(3 * NANO,), (None,)]


def test_a_number_that_no_call_can_use_is_told_once_and_kept_as_text_for_each_request(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Service(PROMPTS, instead=saying(lambda _call: {"prompt_tokens": 2**53, "completion_tokens": 1}))
    report = lab.run(PROMPTS, service, endpoints=[PRICED], param=SHORT, quiet=False, no_progress=True)
    assert (
        capsys.readouterr().err.count("endpoint 1 (m at https://api.openai.com/v1) says that an answer used prompt_")
        == 1
    )
    events = lab.query("SELECT kind, detail FROM events WHERE kind NOT IN ('planned', 'joined')")
    assert events == [("implausible usage", "prompt_tokens 9007199254740992")] * len(PROMPTS)
    assert set(lab.query("SELECT prompt_tokens, completion_tokens FROM requests")) == {(None, 1)}
    assert (report.prompt_tokens, report.completion_tokens) == (None, 20)
    found = status("k", lab.directory)
    assert found.cost_usd == pytest.approx(report.cost_usd)


names = st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens", "prompt_cache_hit_tokens", "odd"])
numbers = st.integers(-3, 60) | st.integers() | st.floats() | st.booleans() | st.none() | st.text(max_size=3)
usages = st.dictionaries(names, numbers | st.lists(numbers, max_size=2)) | st.lists(numbers, max_size=2) | numbers


def told(usage: object, name: str, most: int) -> int:
    """Return a service's bill: its reported usage if that is a number, else the maximum; never more than that."""
    said = usage.get(name) if isinstance(usage, dict) else None
    is_number = isinstance(said, (int, float)) and not isinstance(said, bool) and 0 <= said <= most
    return int(said) if is_number and said % 1 == 0 else most  # type: ignore[arg-type, operator]


@given(st.integers(1, 2000), st.lists(usages, min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_no_usage_that_a_server_may_send_lets_a_budget_be_exceeded(budget: int, said: list[object]) -> None:
    def usage(call: Call) -> object:
        return said[PROMPTS.index(call.prompt) % len(said)]

    service = Service(PROMPTS, instead=saying(usage))
    with fresh_lab() as lab:
        for _ in range(2):
            with contextlib.suppress(BudgetReached):
                lab.run(PROMPTS, service, endpoints=[PRICED], param=SHORT, budget=budget)
        billed = 0
        for call in service.calls:
            question = bound_of(call.prompt).prompt_tokens or 0
            billed += told(usage(call), "prompt_tokens", question) * NANO // 10
            billed += told(usage(call), "completion_tokens", 2) * NANO
        assert billed <= budget * NANO
        status("k", lab.directory)


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


def test_an_answer_that_sqlite_cannot_hold_is_in_the_reports_cost(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def small(*args: Any, **options: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(*args, **options)
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
        return db

    monkeypatch.setattr(sqlite3, "connect", small)
    service = Service(PROMPTS[:2], instead=lambda _call: Completion("y" * 200_000, "stop", Usage(10, 2)))
    report = lab.run(PROMPTS[:2], service, endpoints=[PRICED], param=SHORT)
    assert report.error == 2
    found = status("k", lab.directory)
    assert (report.cost_usd, found.cost_usd, found.uncertain_usd) == (6, 6, 0)


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
    stops: dict[float, Any] = {10: lab.request_stop, 20: lab.request_stop}
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
        return Usage(len(call.prompt) // 2, seed.randint(0, 2))  # the same question has the same model tokens

    def instead(call: Call) -> Completion | Failure | None:
        return cut_off(call) if seed.random() < 0.2 else None

    service = Service(PROMPTS, lambda _call: seed.choice([0.1, 1, 5, 100]), instead, usage)
    with fresh_lab() as lab:
        for _ in range(data.draw(st.integers(1, 4), "resumes")):
            stops: dict[float, Any] = {seed.uniform(0, 20): lab.request_stop} if seed.random() < 0.5 else {}
            stops |= {at + 1: lab.request_stop for at in list(stops)}
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
            except (BudgetReached, Interrupted, EndpointsLost):  # the last: six failures of the first row
                continue
            finally:
                with read_journal(lab.directory / "journal_k.sqlite") as journal:
                    assert bill(service.used) <= journal.spent().total <= budget * NANO


WORDS = "Is it good or bad? {}. One word: "
AGREEING = 20  # answers before a learnt bound counts
MANY = [WORDS.format(number % 7 * "é " + str(number)) for number in range(60)]


class Tokenizer:
    """A service's tokenizer, as bad as a learnt bound assumes; a prompt has the same tokens each time.

    Args:
        overhead: tokens of the chat template and of what is fixed in the prompts.
        fixed_bytes: of what is fixed.
        seed: of all the rest.
    """

    def __init__(self, overhead: int, fixed_bytes: int, seed: int) -> None:
        self.overhead = overhead
        self.fixed_bytes = fixed_bytes
        self.seed = seed

    def usage(self, call: Call) -> Usage:
        draw = random.Random(f"{self.seed} {call.prompt}")
        own = len(call.prompt.encode()) - self.fixed_bytes
        tokens = self.overhead + draw.choice([0, 8]) + draw.choice([0, draw.randint(0, own), own])
        return Usage(max(tokens, 1), draw.randint(0, 2))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_run_is_billed_more_than_the_budget_by_bounds_that_it_has_learnt(data: st.DataObject) -> None:
    """Whatever is stopped, with any tokenizer, and even if the service charges for every call that it has seen."""
    seed = random.Random(data.draw(st.integers(0, 2**32), "seed"))
    fixed = len("Is it good or bad?") + len(" One word: ")  # what stands before and behind the hole and its marks
    service = Service(
        MANY,
        lambda _call: seed.choice([0.1, 1, 5, 100]),
        lambda call: cut_off(call) if seed.random() < 0.1 else None,
        Tokenizer(data.draw(st.integers(0, 500), "overhead"), fixed, seed.randrange(2**32)).usage,
    )
    rows = [{"text": prompt[len("Is it good or bad? ") : -len(". One word: ")]} for prompt in MANY]
    # From a budget for no answer to one for all of them.
    budget = data.draw(st.integers(1, 5000), "budget")
    with fresh_lab() as lab:
        for _ in range(data.draw(st.integers(1, 5), "resumes")):
            stops: dict[float, Any] = {seed.uniform(0, 60): lab.request_stop} if seed.random() < 0.7 else {}
            stops |= {at + 1: lab.request_stop for at in list(stops)}
            try:
                lab.run(
                    pd.DataFrame(rows),
                    service,
                    WORDS.format("{text}"),
                    at=stops,
                    endpoints=[Endpoint("m", prices=PRICED.prices, max_concurrency=8)],
                    param=SHORT,
                    budget=budget,
                    timeout=50,
                )
            except (BudgetReached, Interrupted, EndpointsLost):
                continue
            finally:
                with read_journal(lab.directory / "journal_k.sqlite") as journal:
                    assert bill(service.used) <= journal.spent().total <= budget * NANO


def test_what_is_learnt_of_prompts_bounds_requests_in_this_process_and_the_next(lab: Lab) -> None:
    service = Service(MANY, usage=Tokenizer(40, 0, 1).usage)
    lab.run(MANY, service, endpoints=[PRICED], param=SHORT, limit=30)
    [(learnt,)] = lab.query("SELECT detail FROM events WHERE kind = 'prompt overhead' ORDER BY id DESC LIMIT 1")
    shorter = json.loads(learnt)["most"]
    assert shorter == sorted(count for (count,) in lab.query("SELECT prompt_tokens FROM requests"))[AGREEING - 1]
    lab.run(MANY, service, endpoints=[PRICED], param=SHORT)
    bounds = dict(lab.query("SELECT position, prompt_most FROM requests"))
    wide = {position: bound_of(MANY[position]).prompt_tokens for position in bounds}
    assert bounds[0] == wide[0]
    for position in range(30, 32):
        assert bounds[position] == shorter + 8 + len(MANY[position].encode())
    planned = [
        batcher.plan(MANY, keyword=keyword, output_dir=lab.directory, endpoints=[PRICED], param=SHORT, limit=40)
        for keyword in ("k", "other")
    ]
    assert planned[0].most_usd == 0
    assert planned[1].most_usd == sum(tariff_most(prompt) for prompt in MANY[:40]) / NANO


def test_the_words_that_all_prompts_share_are_not_in_a_rows_own_part_of_the_bound(lab: Lab) -> None:
    prompts = [f"Rate this film: {word * 9}. Answer with a number." for word in ALPHABET]
    service = Service(prompts, usage=lambda _call: Usage(40, 2))
    lab.run(
        pd.DataFrame({"word": [word * 9 for word in ALPHABET]}),
        service,
        "Rate this film: {word}. Answer with a number.",
        system="Be brief.",
        endpoints=[Endpoint("m", prices=PRICED.prices, max_concurrency=1)],
        param=SHORT,
    )
    # Of the template ' ' and '.' stand next to the hole, where they may be part of the same tokens.
    assert lab.query("SELECT prompt_most FROM requests ORDER BY id DESC LIMIT 1") == [(40 + 2 * 8 + len(" .") + 9,)]


@pytest.mark.parametrize("place", [0, 25, 39])
@pytest.mark.parametrize("left", range(70, 190, 20))
def test_a_budget_is_kept_although_a_server_reports_too_few_tokens_once(lab: Lab, left: int, place: int) -> None:
    """Long rows contradict no false report, and the short ones behind them would have a bound far below their cost."""
    prompts = [f"question {number} {'x' * 400}" for number in range(40)] + [f"question {n}" for n in range(40, 60)]

    def usage(call: Call) -> Usage:
        return Usage(20 if call.prompt == prompts[place] else 200 + len(call.prompt) // 4, 2)

    service = Service(prompts, usage=usage)
    budget = 1280 + left  # of which the long rows take some $1,240
    endpoint = Endpoint("m", prices=PRICED.prices, max_concurrency=8)
    with pytest.raises(BudgetReached):
        lab.run(prompts, service, endpoints=[endpoint], param=SHORT, budget=budget)
    assert bill(service.used) <= budget * NANO
    assert service.asked[prompts[39]] == 1


ALPHABET = "abcdefghijklmnopqrstuvwxyz"
LONGER = 400


@pytest.mark.parametrize("budget", [130, 500])
def test_a_service_that_makes_prompts_longer_at_once_costs_no_more_than_what_was_in_flight(
    lab: Lab, capsys: pytest.CaptureFixture[str], budget: int
) -> None:
    """As one does that begins to add documents to them; with 130, other rows have reserved the last dollars by then."""

    def usage(call: Call) -> Usage:
        number = int(call.prompt.rpartition(" ")[2])
        return Usage(10 if number < 30 else LONGER, 2)

    prompts = [f"question {number}" for number in range(60)]
    service = Service(prompts, usage=usage)
    width = 4
    options: dict[str, Any] = {"param": SHORT, "budget": budget, "quiet": False, "no_progress": True}
    endpoint = Endpoint("m", prices=PRICED.prices, max_concurrency=width)
    with pytest.raises(BudgetReached):
        lab.run(prompts, service, endpoints=[endpoint], **options)
    at_risk = width * LONGER * NANO // 10
    assert bill(service.used) <= budget * NANO + at_risk
    said = capsys.readouterr().err
    assert said.count("counted 400 tokens for a prompt that could have 29 at most. From now on") == 1
    bounds = [most for (most,) in lab.query("SELECT prompt_most FROM requests ORDER BY id")]
    first = next(number for number, used in enumerate(service.used) if used.prompt_tokens == LONGER)
    assert set(bounds[20 + width : first]) == {29}
    later = bounds[first + width :]
    assert bool(later) is (budget == 500)
    assert all(most > LONGER for most in later)
    with pytest.raises(BudgetReached):
        lab.run(prompts, Service([]), endpoints=[endpoint], **options)


EXCEEDED = "a server charged for more tokens, or for a dearer service tier, than the requests allowed"


def test_the_end_of_a_budget_says_by_how_much_a_server_exceeded_it(lab: Lab) -> None:
    """An answer has 50 tokens although two were allowed, so it costs $51, of which $30 were left."""
    service = Service(PROMPTS, usage=lambda _call: Usage(10, 50))
    options: dict[str, Any] = {"endpoints": [Endpoint("m", prices=ANSWERS_ONLY.prices, max_concurrency=1)]}
    with pytest.raises(BudgetReached) as caught:
        lab.run(PROMPTS, service, param=SHORT, budget=30, **options)
    said = f"the budget is used up and exceeded by $20.00: {EXCEEDED}"
    assert str(caught.value).splitlines()[0] == said
    assert caught.value.report.cost_usd == 50
    assert status("k", lab.directory).to_dict()["reason"] == said
    with pytest.raises(BudgetReached) as caught:
        lab.run(PROMPTS, Service([]), param=SHORT, budget=30, **options)
    said = "the budget is used up: with what earlier runs may have cost, it is exceeded by $20.00"
    assert str(caught.value).splitlines()[0] == said


def test_a_smaller_budget_than_was_spent_blames_no_server(lab: Lab) -> None:
    service = Service(PROMPTS, usage=lambda _call: Usage(10, 2))
    lab.run(PROMPTS, service, endpoints=[PRICED], param=SHORT, budget=1000, limit=10)  # $30
    with pytest.raises(BudgetReached, match=r"with what earlier runs may have cost, it is exceeded by \$9\.50\n"):
        lab.run(PROMPTS, service, endpoints=[PRICED], param=SHORT, budget=20.5)


def test_a_run_that_is_done_says_by_how_much_a_server_exceeded_its_budget(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Service(PROMPTS, usage=lambda _call: Usage(10, 50))
    report = lab.run(
        PROMPTS[:1], service, endpoints=[ANSWERS_ONLY], param=SHORT, budget=30, quiet=False, no_progress=True
    )
    assert report.status == "done"
    assert f"Note: the budget is exceeded by $20.00: {EXCEEDED}." in capsys.readouterr().err


def test_a_bound_that_widens_again_and_again_is_said_once_within_the_widest_and_once_beyond() -> None:
    tariff, asked = Tariff.of(PRICED, SHORT), [{"role": "user", "content": PROMPTS[0]}]
    counts = [*[10] * 20, *range(400, 5000, 100)]
    lessons = [lesson for count in counts for lesson in tariff.learn(asked, Completion("x", "stop", Usage(count, 1)))]
    assert len(lessons) > 30
    assert [lesson.said[:20] for lesson in lessons if lesson.said] == ["counted 400 tokens f", "counted 600 tokens f"]
    later = Tariff.of(PRICED, SHORT)
    for lesson in lessons:
        later.recall(lesson.detail)
    later.recall("not JSON")
    assert later.bound(asked) == tariff.bound(asked)


# -- Requests without an end


def killed_and_finished(lab: Lab) -> Service:
    """Run to the end what was stopped with ten requests in flight; return the service, which has seen all of them."""
    service = Service(PROMPTS, lambda call: 1e6 if call.prompt != PROMPTS[0] else 1)
    stops: dict[float, Any] = {10: lab.request_stop, 20: lab.request_stop}
    width = [Endpoint("m", prices=PRICED.prices, max_concurrency=10)]
    with pytest.raises(Interrupted):
        lab.run(PROMPTS, service, at=stops, endpoints=width, param=SHORT, timeout=1e6)
    service.latency = lambda _call: 1
    lab.run(PROMPTS, service, endpoints=width, param=SHORT)
    return service


LOST = "SELECT cost, prompt_most, answer_cost FROM requests WHERE outcome IS NULL ORDER BY id"


def test_a_request_without_an_end_is_charged_by_the_tokens_of_its_questions_answer(lab: Lab) -> None:
    service = killed_and_finished(lab)
    lost = lab.query(LOST)
    assert len(lost) == 10
    shrunk = [answer + -(-(cost - answer) * 10 // question) for cost, question, answer in lost]
    assert shrunk == [3 * NANO] * 10  # of $58 for the bytes of the question and $2 for the answer
    assert sum(cost for cost, *_ in lost) > 15 * sum(shrunk)
    found, proof = status("k", lab.directory), verify("k", output_dir=lab.directory)
    assert found.uncertain_usd == sum(shrunk) / NANO
    assert sum(each.uncertain for each in proof.endpoints) == sum(shrunk)
    spent = bill(service.used)
    assert found.cost_usd is not None
    assert found.uncertain_usd is not None
    assert round((found.cost_usd + found.uncertain_usd) * NANO) == spent
    report = lab.run([*PROMPTS, "more"], Service(["more"]), endpoints=[PRICED], param=SHORT, budget=spent / NANO + 60)
    assert report.ok == 21


def test_the_answer_to_a_lost_requests_question_returns_what_was_charged_for_its_length_at_once(lab: Lab) -> None:
    """Nothing is left after the stop but the bound of one request: enough to ask the lost ones again, one by one."""
    service = Service(PROMPTS, lambda call: 1e6 if call.prompt != PROMPTS[0] else 1)
    stops: dict[float, Any] = {10: lab.request_stop, 20: lab.request_stop}
    width = [Endpoint("m", prices=PRICED.prices, max_concurrency=10)]
    with pytest.raises(Interrupted):
        lab.run(PROMPTS, service, at=stops, endpoints=width, param=SHORT, timeout=1e6, budget=1e6)
    service.latency = lambda _call: 1
    [(spent,)] = lab.query("SELECT sum(cost) FROM requests")
    most = max(cost for (cost,) in lab.query("SELECT cost FROM requests WHERE ended IS NULL"))
    budget = (spent + most) / NANO
    assert lab.run(PROMPTS, service, endpoints=width, param=SHORT, budget=budget).ok == 20
    with read_journal(lab.directory / "journal_k.sqlite") as journal:
        assert bill(service.used) <= journal.spent().total == (20 + 10) * 3 * NANO
        assert journal.lost(100) == []


def test_a_request_that_failed_and_may_be_billed_is_charged_by_the_tokens_of_the_next_answer(lab: Lab) -> None:
    service = Service(PROMPTS, instead=lambda call: cut_off(call) if call.nth == 1 else None)
    [most] = {tariff_most(prompt) for prompt in PROMPTS[:10]}
    # Each row costs $6: 3 for the attempt that was cut off, and 3 for the answer. Both need $57.90 at first.
    # Six rows of ten may have lost one at a time: the two under way, and those that are asked to see what is wrong.
    budget = (10 * 6 * NANO + 6 * most) / NANO
    one = [Endpoint("m", prices=PRICED.prices, max_concurrency=1)]
    assert lab.run(PROMPTS[:10], service, endpoints=one, param=SHORT, budget=budget).ok == 10
    with read_journal(lab.directory / "journal_k.sqlite") as journal:
        assert journal.spent().total == 10 * 6 * NANO


def forget(lab: Lab) -> None:
    lab.change("UPDATE requests SET prompt_most = NULL, answer_cost = NULL")


def tell_too_much(lab: Lab) -> None:
    lab.change("UPDATE requests SET prompt_tokens = 10000 WHERE outcome = 'answered'")


def tell_nothing(lab: Lab) -> None:
    lab.change("UPDATE requests SET prompt_tokens = NULL WHERE id % 2")
    lab.change("UPDATE requests SET prompt_tokens = 0 WHERE outcome = 'answered' AND id % 2 = 0")


def ask_another(lab: Lab) -> None:
    lab.change("UPDATE requests SET source = source + 1 WHERE outcome = 'answered'")


@pytest.mark.parametrize("change", [forget, tell_too_much, tell_nothing, ask_another])
def test_where_a_questions_tokens_are_not_known_its_request_is_charged_at_the_bound(
    lab: Lab, change: Callable[[Lab], None]
) -> None:
    killed_and_finished(lab)
    change(lab)
    bounds = sum(cost for cost, *_ in lab.query("SELECT cost FROM requests WHERE outcome IS NULL"))
    assert status("k", lab.directory).uncertain_usd == bounds / NANO


OPEN = "without max_tokens an answer may be as long as the model allows"


def test_a_budget_without_max_tokens_says_what_it_reserves_and_what_a_kill_may_cost(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"endpoints": [Endpoint("gpt-4o-mini")], "quiet": False, "no_progress": True}
    lab.run(PROMPTS, Service(PROMPTS), limit=1, budget=100, **options)
    said = capsys.readouterr().err
    assert OPEN in said
    assert "each request reserves $0.077 of the budget or more" in said  # 128,000 tokens at $0.60 a million
    assert 'a kill with up to 256 requests in flight may cost $19.66. param={"max_tokens": N} lowers both' in said
    planned = batcher.plan(PROMPTS, keyword="k", output_dir=lab.directory, endpoints=options["endpoints"], budget=5)
    assert "may cost $5.00" in planned.summary  # no more than is left
    lab.run(PROMPTS, Service(PROMPTS), limit=2, budget=100, param={"max_tokens": 9}, on_change="redo", **options)
    lab.run(PROMPTS, Service(PROMPTS), limit=3, on_change="redo", **options)
    assert OPEN not in capsys.readouterr().err


# -- What bounds a request


def test_one_row_at_a_time_goes_where_the_budget_covers_no_more(lab: Lab) -> None:
    service = Service(PROMPTS)
    [most] = {tariff_most(prompt) for prompt in PROMPTS[:10]}
    lab.run(PROMPTS[:10], service, endpoints=[PRICED], param=SHORT, budget=(9 * 3 * NANO + most) / NANO)
    assert service.peak == 1
    assert service.answered.total() == 10


def bound_of(prompt: str) -> Bound:
    return Tariff.of(PRICED, SHORT).bound([{"role": "user", "content": prompt}])


def tariff_most(prompt: str) -> int:
    most = bound_of(prompt).cost
    assert most is not None
    return most


@pytest.mark.parametrize(
    ("endpoint", "param", "said"),
    [
        (
            Endpoint("m", base_url="http://127.0.0.1:1/v1"),
            SHORT,
            "the price of m at http://127.0.0.1:1/v1 is unknown: ",
        ),
        (Endpoint("m", prices={"in": 1, "out": 1}), {}, "nothing bounds how long an answer of m may be.*max_tokens"),
        (
            PRICED,
            {**SHORT, "extra_body": {"n": "5"}},
            "nothing bounds how long an answer of m may be.*n, thinking_budget",
        ),
        (PRICED, {"extra_body": {"max_tokens": "2"}}, "nothing bounds how long an answer of m may be"),
        (chat(max_retries=None, max_tokens=2), {}, "the chat model m retries a failed request itself, 2 times, .*=0"),
        (chat(), {}, "nothing bounds how long an answer of m may be"),
        (
            Endpoint(llm=FakeListChatModel(responses=[]), prices=PRICED.prices),
            SHORT,
            "FakeListChatModel in llm= does not",
        ),
        (chat(use_responses_api=True, max_tokens=2), {}, "ChatOpenAI in llm= does not show .* run without budget"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(
    lab: Lab, endpoint: Endpoint, param: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        lab.run(PROMPTS, Service([]), endpoints=[endpoint], param=param, budget=5)


def test_the_answers_that_a_chat_model_asks_for_are_all_in_the_bound(lab: Lab) -> None:
    service = Service(PROMPTS, usage=lambda _call: Usage(10, 5 * 2))  # five answers of two tokens each
    with pytest.raises(BudgetReached):
        lab.run(PROMPTS, service, endpoints=[chat(n=5, max_tokens=2)], budget=200)
    assert service.used
    assert bill(service.used) <= 200 * NANO


def test_a_model_that_retries_by_itself_is_told_of_where_no_limit_forbids_it(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoints = [chat(max_retries=None)]
    lab.run(PROMPTS[:1], Service(PROMPTS), endpoints=endpoints, quiet=False, no_progress=True)
    assert "the chat model m retries failed requests itself" in capsys.readouterr().err
    planned = batcher.plan(PROMPTS, keyword="k", output_dir=lab.directory, endpoints=endpoints)
    assert "create it with max_retries=0" in planned.summary


def test_requests_whose_price_was_not_known_are_told_where_a_budget_comes_later(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.run(PROMPTS, Service(PROMPTS), limit=5)
    lab.run(PROMPTS, Service(PROMPTS), endpoints=[PRICED], budget=1000, quiet=False, no_progress=True, **REUSE)
    assert "5 earlier requests, of unknown price, do not count in the budget" in capsys.readouterr().err


FREE = {"in": 0, "out": 0}


@pytest.mark.parametrize(
    "endpoint", [Endpoint("m", prices=FREE), Endpoint(llm=FakeListChatModel(responses=[]), prices=FREE)]
)
def test_what_is_free_needs_no_bound(lab: Lab, endpoint: Endpoint) -> None:
    report = lab.run(PROMPTS, Service(PROMPTS), endpoints=[endpoint], budget=0.01)
    assert (report.ok, report.cost_usd) == (20, 0.0)


def test_a_budget_for_images_is_refused_with_their_row(lab: Lab) -> None:
    def prompt(row: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": row["text"]}}]}]

    with pytest.raises(InputError, match=r"row 0 .*image"):
        lab.run(PROMPTS, Service([]), prompt, endpoints=[PRICED], param=SHORT, budget=5)

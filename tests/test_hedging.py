"""A row whose answer is late is asked a second time, at another endpoint: the first answer counts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Anything, Call, Service, answer_to, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

import batcher
from batcher.answer.vectors import packed
from batcher.calls.batch_service import BatchService
from batcher.calls.caller import CallCut
from batcher.endpoint import Endpoint
from batcher.engine.hedging import Latencies
from batcher.errors import SettingsError
from batcher.records import NO_PARAMS, NO_TERMS, Completion, Failure, Fault, Message, Usage
from batcher.settings import HEDGED_OF, Settings

HOUR = 3600.0
PRICES = {"in": 1.0, "out": 10.0}
USAGE = Usage(prompt_tokens=10, completion_tokens=2)
BOUND: dict[str, Any] = {"param": {"max_tokens": 8}}


def rows(count: int) -> list[str]:
    return [f"question {number}" for number in range(count)]


def two(width: int = 32, **options: Any) -> list[Endpoint]:
    """Return two endpoints at two servers."""
    return [Endpoint(name, base_url=f"http://{name}/v1", max_concurrency=width, **options) for name in ("one", "two")]


class Slow(Service):
    """A service that remembers when it would have answered each prompt."""

    def __init__(self, prompts: list[str], latency: Callable[[Call], float], **options: Any) -> None:
        super().__init__(prompts, self._noted, usage=lambda _call: USAGE, **options)
        self.ends: dict[str, float] = {}
        self._seconds = latency

    def _noted(self, call: Call) -> float:
        seconds = self._seconds(call)
        self.ends[call.prompt] = min(self.ends.get(call.prompt, math.inf), call.at + seconds)
        return seconds

    def seconds_of_last(self, share: float) -> float:
        """Return the seconds in which the last rows got their answers."""
        ends = sorted(self.ends.values())
        return ends[-1] - ends[-1 - round(share * len(ends))]


def usual(call: Call) -> float:
    """Return a latency of about a second; that of later rows is lower, so that none of them is late."""
    return 1.0 - 0.001 * int(call.prompt.split()[-1])


def slow_on(prompt: str, *seconds: float) -> Callable[[Call], float]:
    """Return a latency for which the first calls about one row take so long."""
    return lambda call: seconds[call.nth - 1] if call.prompt == prompt and call.nth <= len(seconds) else usual(call)


def lognormal(sigma: float, seed: int) -> Callable[[Call], float]:
    draw = random.Random(seed)
    return lambda _call: draw.lognormvariate(math.log(2.0), sigma)


def check_right(lab: Lab, prompts: list[str]) -> None:
    assert [(row["infer"], row["infer_status"]) for row in lab.rows()] == [(answer_to(p), "ok") for p in prompts]


def outcomes(lab: Lab) -> Counter[Any]:
    return Counter(outcome for (outcome,) in lab.query("SELECT outcome FROM requests"))


def verified(lab: Lab) -> batcher.Verification:
    found = batcher.verify("k", output_dir=lab.directory)
    assert found.ok, str(found)
    return found


# -- What is late


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=3000), st.floats(50, 99.9))
@settings(max_examples=50)
def test_what_is_late_is_the_percentile_of_the_latest_answers(seconds: list[float], percentile: float) -> None:
    latencies = Latencies(percentile)
    for each in seconds:
        latencies.add(each)
    latest = sorted(seconds[-1024:])
    if latencies.late_s == math.inf:
        assert len(latest) < max(30, math.ceil(100 / (100 - percentile)))
    else:
        assert sum(each <= latencies.late_s for each in latest) >= percentile / 100 * len(latest) * (1 - 1e-9)
        assert sum(each < latencies.late_s for each in latest) <= percentile / 100 * len(latest)


def test_it_follows_latencies_that_drift() -> None:
    latencies = Latencies(90)
    draw = random.Random(1)
    for median in (1.0, 10.0, 0.5):
        for _ in range(1024):
            latencies.add(draw.lognormvariate(math.log(median), 0.5))
        assert latencies.late_s == pytest.approx(median * math.exp(0.5 * 1.2816), rel=0.15)


@pytest.mark.parametrize("value", [49, 100, 0, -1, "much", True, math.nan])
def test_what_is_no_percentile_is_refused(value: object) -> None:
    with pytest.raises(SettingsError, match="hedge"):
        Settings.of({"hedge": value})


def test_a_batch_has_no_late_rows() -> None:
    with pytest.raises(SettingsError, match=r"hedge.* is for requests that are sent one by one"):
        Settings.of({"hedge": 90, "via": "batch"})
    Settings.of({"hedge": 90, "via": "batch", "within": "8h"})


# -- The end of a night


@pytest.mark.parametrize(("sigma", "faster"), [(1.0, 2.0), (1.5, 3.0)])
def test_it_shortens_the_tail_of_a_night(tmp_path: Path, sigma: float, faster: float) -> None:
    prompts = rows(5_000)
    last, whole = [], []
    for hedge in (None, 90):
        lab, service = Lab(tmp_path / str(hedge)), Slow(prompts, lognormal(sigma, seed=4))
        lab.run(prompts, service, endpoints=two(64), hedge=hedge, chunk_size=1000)
        check_right(lab, prompts)
        assert len(service.calls) <= 5_000 * (1 + 1 / HEDGED_OF)
        last.append(service.seconds_of_last(0.01))
        whole.append(lab.seconds)
    assert last[0] > faster * last[1]
    assert whole[1] < whole[0]


@pytest.mark.parametrize("hangs_at", [20, 58])
def test_an_endpoint_that_hangs_altogether_gets_no_more_than_its_share_asked_again(lab: Lab, hangs_at: float) -> None:
    prompts = rows(1_000)
    service = Slow(prompts, lambda call: HOUR if call.endpoint == "one" and call.at > hangs_at else 1.0)
    lab.run(prompts, service, endpoints=two(8), hedge=75, timeout=200)
    check_right(lab, prompts)
    ends = outcomes(lab)
    second = len(service.calls) - 1_000 - ends["timeout"]
    assert second <= (1_000 + ends["timeout"]) / HEDGED_OF
    if hangs_at > 50:  # near its end, the run waits for no timeout
        assert (second, ends["hedged"], ends["timeout"]) == (8, 8, 0)
        assert lab.seconds < 80


def test_rows_that_wait_come_first(lab: Lab) -> None:
    """As long as each slot is wanted by a row, none is given to a second request."""
    prompts = rows(600)
    draw = random.Random(2)
    service = Slow(prompts, lambda _call: draw.lognormvariate(0, 1.2))
    lab.run(prompts, service, endpoints=two(4, rps=3), hedge=50)
    check_right(lab, prompts)
    seconds = [call.at for call in service.calls if call.nth == 2]
    firsts = [call.at for call in service.calls if call.nth == 1]
    assert seconds
    assert min(seconds) >= firsts[-1]
    for name in ("one", "two"):  # and none goes beyond a limit
        times = service.times(name)
        assert all(sum(at <= each < at + 1 for each in times) <= 3 for at in times)


# -- What becomes of the two


def test_the_first_answer_counts_and_the_other_request_is_paid_at_most(lab: Lab) -> None:
    prompts = rows(100)
    service = Slow(prompts, slow_on(prompts[-1], 1000))
    report = lab.run(prompts, service, endpoints=two(4, prices=PRICES), hedge=90, budget=1.0, **BOUND)
    check_right(lab, prompts)
    assert lab.seconds < 100
    assert (report.requests, report.answered, report.failed, report.hedged, report.retries) == (101, 100, 0, 1, 0)
    assert service.cut == {prompts[-1]: 1}
    first, second = (call for call in service.calls if call.prompt == prompts[-1])
    assert first.endpoint != second.endpoint
    [(outcome, cost, prompt_tokens)] = lab.query(
        "SELECT outcome, cost, prompt_tokens FROM requests WHERE outcome <> 'answered'"
    )
    assert (outcome, prompt_tokens) == ("hedged", None)
    assert cost > 10 * 8 * 1000  # eight tokens of an answer at most, and a prompt
    assert report.uncertain_usd == pytest.approx(cost / 1e9)
    assert report.cost_usd == pytest.approx(100 * (10 + 10 * 2) / 1e6)
    found = verified(lab)
    assert "100 answered + 0 failed + 0 without an end + 1 overtaken by a second request" in str(found)
    assert sum(each.hedged for each in found.endpoints) == 1


def test_if_the_second_request_is_slower_it_is_the_one_that_is_cancelled(lab: Lab) -> None:
    prompts = rows(100)
    last = prompts[-1]
    service = Slow(prompts, slow_on(last, 5, 100))
    lab.run(prompts, service, endpoints=two(4), hedge=90)
    check_right(lab, prompts)
    assert lab.query("SELECT outcome FROM requests WHERE position = 99 ORDER BY id") == [("answered",), ("hedged",)]
    verified(lab)


@pytest.mark.parametrize("failure", [refusal(500), refusal(400), refusal(429), refusal(401)])
@pytest.mark.parametrize("fails", [1, 2])
def test_if_one_of_the_two_fails_the_other_one_is_waited_for(lab: Lab, failure: Failure, fails: int) -> None:
    prompts = rows(100)
    last = prompts[-1]
    service = Slow(
        prompts,
        slow_on(last, *((10, 20) if fails == 1 else (20, 10))),
        instead=lambda call: failure if call.prompt == last and call.nth == fails else None,
    )
    report = lab.run(prompts, service, endpoints=two(4), hedge=90)
    check_right(lab, prompts)
    assert service.asked[last] == 2
    assert (report.answered, report.failed, report.hedged) == (100, 1, 0)
    assert all(each.out is None for each in report.endpoints)
    verified(lab)


def test_if_both_fail_that_is_one_attempt_of_the_row(lab: Lab) -> None:
    prompts = rows(100)
    last = prompts[-1]
    service = Slow(
        prompts,
        slow_on(last, 10, 10, 10, 10),
        instead=lambda call: refusal(500) if call.prompt == last else None,
    )
    report = lab.run(prompts, service, endpoints=two(4), hedge=90, max_attempts=2)
    assert (report.ok, report.error) == (99, 1)
    assert "2 attempts" in lab.rows()[-1]["infer_error"]
    assert 3 <= service.asked[last] <= 4
    assert all(each.out is None for each in report.endpoints)
    verified(lab)


# -- Money


def test_a_budget_that_is_just_enough_for_the_rows_leaves_nothing_for_second_requests(lab: Lab) -> None:
    prompts = rows(100)
    service = Slow(prompts, slow_on(prompts[-1], 50))
    report = lab.run(prompts, service, endpoints=two(1, prices=PRICES), hedge=90, budget=0.0032, **BOUND)
    assert report.ok == 100
    assert len(service.calls) == 100


@pytest.mark.parametrize("seed", range(3))
def test_it_never_spends_more_than_the_budget(lab: Lab, seed: int) -> None:
    prompts = rows(400)
    service = Slow(prompts, lognormal(1.5, seed))
    budget = 0.0133  # the answers cost 0.012
    report = lab.run(prompts, service, endpoints=two(16, prices=PRICES), hedge=50, budget=budget, **BOUND)
    assert report.ok == 400
    [(spent,)] = lab.query("SELECT sum(cost) FROM requests")
    assert 0.012e9 <= spent <= budget * 1e9
    verified(lab)


# -- Whoever stops it


def test_after_a_stop_with_both_out_the_plan_says_what_may_be_billed_twice(lab: Lab) -> None:
    prompts = rows(100)
    last = prompts[-1]
    service = Slow(prompts, slow_on(last, HOUR, HOUR))
    options: dict[str, Any] = {"endpoints": two(4), "hedge": 90}
    with pytest.raises(KeyboardInterrupt):
        lab.run(prompts, service, at={60: lab.request_stop, 70: lab.request_stop}, **options)
    assert outcomes(lab) == {"answered": 99, None: 2}
    forecast = batcher.plan(prompts, **options, keyword="k", output_dir=lab.directory)
    assert "2 requests were in flight when the last process ended" in str(forecast)
    assert service.cut == {last: 2}
    lab.run(prompts, service, **options)
    check_right(lab, prompts)
    verified(lab)


@pytest.mark.parametrize("fails", [1, 2])
def test_after_a_stop_a_request_that_had_failed_is_not_one_that_may_be_billed(lab: Lab, fails: int) -> None:
    prompts = rows(100)
    last = prompts[-1]
    service = Slow(
        prompts,
        slow_on(last, *((10, HOUR) if fails == 1 else (HOUR, 10))),
        instead=lambda call: refusal(500) if call.prompt == last and call.nth == fails else None,
    )
    with pytest.raises(KeyboardInterrupt):
        lab.run(prompts, service, at={60: lab.request_stop, 70: lab.request_stop}, endpoints=two(4), hedge=90)
    assert outcomes(lab) == {"answered": 99, "500": 1, None: 1}


def test_a_stop_waits_for_the_answer_of_either(lab: Lab) -> None:
    prompts = rows(100)
    last = prompts[-1]
    service = Slow(prompts, slow_on(last, HOUR, 20))
    lab.run(prompts, service, at={25: lab.request_stop}, endpoints=two(4), hedge=90)
    check_right(lab, prompts)
    assert service.asked[last] == 2


@given(st.integers(0, 10**6))
@settings(max_examples=15)
def test_whatever_happens_each_row_has_its_answer_and_the_books_agree(seed: int) -> None:
    draw = random.Random(seed)
    prompts = rows(150)

    def instead(_call: Call) -> Completion | Failure | None:
        if draw.random() > 0.1:
            return None
        return draw.choice(
            [refusal(500), refusal(429), refusal(400), Failure(Fault.CONNECTION, "cut", may_be_billed=True)]
        )

    service = Slow(prompts, lambda _call: draw.lognormvariate(0, 1.5), instead=instead)
    endpoints = two(draw.choice([1, 4, 32]), prices=PRICES, rps=draw.choice([None, 20]))
    options: dict[str, Any] = {"endpoints": endpoints, "hedge": draw.choice([50, 75, 90]), "timeout": 30, **BOUND}
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(Path(directory) / "output")
        for _ in range(2):
            moment = draw.uniform(0, 30)
            at = {moment: lab.request_stop, moment + draw.choice([0.1, 5]): lab.request_stop}
            with contextlib.suppress(KeyboardInterrupt):
                lab.run(prompts, service, at=at, **options)
            assert service.in_flight == 0
        report = lab.run(prompts, service, retry_failed=True, **options)
        assert report.ok + report.error == 150
        found = verified(lab)
        assert sum(each.sent for each in found.endpoints) == len(service.calls)
        by_prompt = {row["text"]: row["infer"] for row in lab.rows() if row["infer_status"] == "ok"}
        assert all(answer == answer_to(prompt) for prompt, answer in by_prompt.items())
        assert report.requests == report.answered + report.failed + report.hedged + report.out
        # No row was paid more than once but for those that both endpoints were answering.
        assert report.answered == 150 - report.error
        assert report.hedged <= len(service.calls) / HEDGED_OF


# -- With other options


def test_with_one_endpoint_the_plan_says_that_nothing_is_asked_twice(lab: Lab) -> None:
    prompts = rows(100)
    service = Slow(prompts, slow_on(prompts[-1], 50))
    options: dict[str, Any] = {"endpoints": two(4)[:1], "hedge": 90}
    said = str(batcher.plan(prompts, **options, keyword="k", output_dir=lab.directory))
    assert "hedge=90 does nothing here" in said
    lab.run(prompts, service, **options)
    check_right(lab, prompts)
    assert len(service.calls) == 100


def test_the_plan_says_what_it_does_and_counts_it_in_the_highest_cost(lab: Lab) -> None:
    options: dict[str, Any] = {"endpoints": two(4, prices=PRICES), "keyword": "k", "output_dir": lab.directory, **BOUND}
    plain = batcher.plan(rows(100), **options)
    hedged = batcher.plan(rows(100), **options, hedge=90)
    assert "takes longer than 90% of the latest is asked a second time" in str(hedged)
    assert plain.most_usd
    assert hedged.most_usd == pytest.approx(1.05 * plain.most_usd, rel=0.01)
    assert hedged.cost_usd == plain.cost_usd


def test_another_server_goes_before_another_key_of_the_same_one(lab: Lab) -> None:
    prompts = rows(100)
    service = Slow(prompts, slow_on(prompts[-1], HOUR))
    same = [Endpoint("one", base_url="http://one/v1", api_key=key, account="a", max_concurrency=4) for key in "xy"]
    lab.run(prompts, service, endpoints=[*same, two()[1]], hedge=90)
    check_right(lab, prompts)
    [(outcome, url)] = lab.query(
        "SELECT q.outcome, s.base_url FROM requests q JOIN sources s ON s.id = q.source"
        " WHERE position = 99 ORDER BY q.id DESC LIMIT 1"
    )
    first = next(call.endpoint for call in service.calls if call.prompt == prompts[-1])
    assert (outcome, url) == ("answered", "http://two/v1" if first == "one" else "http://one/v1")


def test_another_key_of_the_same_server_will_do(lab: Lab) -> None:
    prompts = rows(100)
    service = Slow(prompts, slow_on(prompts[-1], HOUR))
    keys = [Endpoint("one", base_url="http://one/v1", api_key=key, max_concurrency=4, prices=PRICES) for key in "xy"]
    report = lab.run(prompts, service, endpoints=keys, hedge=90, budget=1.0, **BOUND)
    check_right(lab, prompts)
    # The same source counts a question's tokens alike: the answer lowers what the other request may cost.
    [(cost, most, of_answer)] = lab.query(
        "SELECT cost, prompt_most, answer_cost FROM requests WHERE outcome = 'hedged'"
    )
    assert most > 10
    assert report.uncertain_usd == pytest.approx((of_answer + (cost - of_answer) / most * 10) / 1e9, abs=1e-8)


def test_a_row_that_names_its_model_is_asked_again_where_that_model_is(lab: Lab) -> None:
    table = [{"text": prompt, "model": "one" if number % 2 else "two"} for number, prompt in enumerate(rows(100))]
    service = Slow(rows(100), slow_on("question 99", 30))
    lab.run(table, service, "{text}", params_column="model", endpoints=two(4), hedge=90)
    assert len(service.calls) == 100  # there is one endpoint for each model


@pytest.mark.parametrize(
    "options",
    [{"samples": 3}, {"dedup": True}, {"stream": True}, {"repeat_sample": 10}, {"retry_failed": True}],
)
def test_it_goes_with_other_options(lab: Lab, options: dict[str, Any]) -> None:
    prompts = [*rows(100), "question 5", "question 6"]
    service = Slow(rows(100), lognormal(1.5, seed=5))
    lab.run(prompts, service, endpoints=two(8), hedge=75, **options)
    check_right(lab, prompts)
    assert 0 < outcomes(lab)["hedged"] <= len(service.calls) / HEDGED_OF
    verified(lab)


def test_it_is_asked_again_only_in_the_same_tier(lab: Lab) -> None:
    prompts = rows(200)
    firsts, second = two(8), Endpoint("better", base_url="http://better/v1", max_concurrency=8)
    service = Slow(prompts, lognormal(1.5, seed=6))
    lab.run(prompts, service, endpoints=[*firsts, second], then="better", samples=2, threshold=0.5, hedge=75)
    assert [row["infer"] for row in lab.rows()] == [*map(answer_to, prompts)]
    assert outcomes(lab)["hedged"] > 0
    assert not service.times("better")
    verified(lab)


def test_off_it_makes_no_task_and_no_timer(lab: Lab) -> None:
    prompts = rows(50)
    tasks: list[int] = []

    def latency(_call: Call) -> float:
        tasks.append(len(asyncio.all_tasks()))
        return 1.0

    most = []
    for hedge in (None, 90):
        lab.run(prompts, Slow(prompts, latency), endpoints=two(4), hedge=hedge, keyword=f"k{hedge}")
        most.append(max(tasks))
        tasks.clear()
    assert most[0] < most[1]


class Streams(Service):
    """A service whose streams say what had come of them when they are cancelled."""

    async def answer(self, *args: Any, **more: Any) -> Completion | Failure:
        try:
            return await super().answer(*args, **more)
        except asyncio.CancelledError:
            raise CallCut(Completion("half of", usage=Usage(7, 3))) from None


def test_what_had_come_of_the_stream_that_is_cancelled_is_kept_and_lowers_its_charge(lab: Lab) -> None:
    prompts = rows(100)
    service = Streams(prompts, slow_on(prompts[-1], HOUR))
    report = lab.run(prompts, service, endpoints=two(4, prices=PRICES), hedge=90, stream=True, budget=1.0, **BOUND)
    check_right(lab, prompts)
    [(why, text)] = lab.query("SELECT why, text FROM partials")
    assert (why, text) == ("the answer to a second request came first", "half of")
    assert report.uncertain_usd == pytest.approx((7 * 1 + 8 * 10) / 1e6)
    verified(lab)


def test_an_answer_that_does_not_fit_is_repaired_whichever_of_the_two_it_came_from(lab: Lab) -> None:
    prompts = rows(150)
    draw = random.Random(8)

    def instead(call: Call) -> Completion:
        is_fit = call.prompt.startswith("This answer does not fit") or draw.random() < 0.8
        return Completion("yes" if is_fit else "perhaps", "stop", USAGE)

    service = Service(Anything(), lambda _call: draw.lognormvariate(0, 1.5), instead)
    service.prompts = Anything()
    report = lab.run(
        prompts, service, "{text}", endpoints=two(8), hedge=75, labels=["yes", "no"], repair=2, structured="prompt"
    )
    assert report.ok == 150
    ends = outcomes(lab)
    assert ends["hedged"] > 0
    assert ends["unfit"] > 0
    verified(lab)


class Vectors:
    """A service that embeds texts; the first request about one text takes long."""

    def __init__(self, slow: str) -> None:
        self.asked: list[tuple[str, ...]] = []
        self._slow = slow

    def __call__(self) -> Vectors:
        return self

    def caller(self, _endpoint: Endpoint) -> Vectors:
        return self

    def batches(self, endpoint: Endpoint) -> BatchService:
        raise AssertionError(endpoint)

    async def close(self) -> None:
        pass

    async def call(
        self, messages: Sequence[Message], _timeout_s: float, _params: object = NO_PARAMS, _terms: object = NO_TERMS
    ) -> Completion:
        texts = tuple(message["content"] for message in messages)
        is_slow = self._slow in texts and texts not in self.asked
        self.asked.append(texts)
        await asyncio.sleep(100 if is_slow else 1 - len(self.asked) / 1000)
        vectors = tuple(packed([float(len(text)), 1.0]) or "" for text in texts)
        return Completion(vectors[0], usage=Usage(10 * len(texts), 0), vectors=vectors)


def test_a_request_for_the_vectors_of_several_rows_is_made_again_as_a_whole(lab: Lab) -> None:
    prompts = rows(400)
    service = Vectors(prompts[-1])
    options: dict[str, Any] = {"task": "embedding", "inputs_per_request": 4, "budget": 1.0}
    endpoints = two(4, prices={"in": 1.0, "out": 0.0})
    report = lab.run(prompts, service, "{text}", endpoints=endpoints, hedge=90, **options)
    assert (report.ok, report.requests, report.hedged, report.answered) == (400, 101, 1, 100)
    assert Counter(service.asked)[tuple(prompts[-4:])] == 2
    assert [count for (count,) in lab.query("SELECT count(*) FROM requests WHERE outcome = 'hedged'")] == [4]
    assert lab.seconds < 60
    verified(lab)


def test_the_lines_of_a_requests_file_are_asked_again_as_well(lab: Lab, tmp_path: Path) -> None:
    prompts = rows(100)
    lines = [{"model": "one", "messages": [{"role": "user", "content": prompt}]} for prompt in prompts]
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    service = Slow(prompts, slow_on(prompts[-1], HOUR))
    endpoints = [Endpoint("one", base_url=f"http://{name}/v1", max_concurrency=4) for name in ("here", "there")]
    report = lab.run(path, service, requests=True, endpoints=endpoints, hedge=90)
    assert (report.ok, report.hedged) == (100, 1)
    assert lab.seconds < 100

"""What a run's other options mean in batches."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from conftest import Lab
from fake_service import Anything, Call, Service, answer_to, refusal
from test_batches import HOUR_S, LIMITS, PROMPTS, check, run, service_of, states

import batcher
from batcher.calls.batch_service import BatchLimits
from batcher.endpoint import Endpoint
from batcher.errors import AnswersUnfit, BatchesOut, BudgetReached, ChangedError, SettingsError
from batcher.records import Completion, Failure, Usage
from batcher.server.batch_rules import BatchKnobs, BatchRule, State

PRICED = Endpoint("m", prices={"in": 1.0, "out": 4.0, "batch": 0.5})
USAGE = Usage(prompt_tokens=10, completion_tokens=2)


# -- Money


def spent(lab: Lab) -> float:
    """Return the US dollars of all answers, and of what may be billed."""
    [(total,)] = lab.query("SELECT coalesce(sum(cost), 0) FROM requests")
    return float(total) / 1e9


def test_answers_cost_what_batches_cost(lab: Lab) -> None:
    service = service_of()
    run(lab, service, endpoints=[PRICED])
    assert spent(lab) == pytest.approx(20 * (10 * 1.0 + 2 * 4.0) / 1e6 / 2)


def test_a_budget_is_never_exceeded_and_what_came_back_pays_for_more(lab: Lab) -> None:
    """A line reserves 42 tokens or so of a prompt, and 50 of an answer; it costs 10 and 2."""
    service = service_of()
    seen: list[float] = []
    options: dict[str, Any] = {"endpoints": [PRICED], "param": {"max_tokens": 50}, "budget": 0.001}
    looks = {float(second): lambda: seen.append(spent(lab)) for second in range(60, 7200, 60)}
    run(lab, service, at=looks, **options)
    check(lab, service)
    assert max(seen) <= 0.001
    assert service.queue.books.made > 1


def test_a_budget_that_is_too_small_ends_the_run_when_all_that_was_out_is_in(lab: Lab) -> None:
    service = service_of()
    options: dict[str, Any] = {"endpoints": [PRICED], "param": {"max_tokens": 50}}
    with pytest.raises(BudgetReached, match="the next request may cost"):
        run(lab, service, budget=0.0004, **options)
    done = len(lab.query("SELECT 1 FROM results"))
    assert 0 < done < 20
    assert set(states(lab)) == {"done"}
    with pytest.raises(BudgetReached):
        run(lab, service, budget=0.0004, **options)
    assert len(lab.query("SELECT 1 FROM results")) == done
    run(lab, service, budget=0.002, **options)
    check(lab, service)


def test_a_budget_holds_over_a_stop_and_a_start(lab: Lab) -> None:
    service = service_of(BatchRule(end=State.EXPIRED, answered=0.5, last=1))
    options: dict[str, Any] = {"endpoints": [PRICED], "param": {"max_tokens": 50}, "budget": 0.00105}
    with pytest.raises(BatchesOut):
        run(lab, service, wait="no", **options)
    out = spent(lab)
    assert 0 < out <= 0.00105
    service.pass_by(25 * HOUR_S)
    run(lab, service, **options)
    check(lab, service)
    assert spent(lab) < out / 2


# -- Rows


def test_with_dedup_equal_prompts_have_one_line(lab: Lab) -> None:
    service = service_of()
    table = [prompt for prompt in PROMPTS for _ in range(2)]
    report = run(lab, service, table, dedup=True)
    assert (report.ok, service.billed) == (40, Counter(PROMPTS))
    assert [row["infer"] for row in lab.rows()] == [answer_to(prompt) for prompt in table]


def test_with_dedup_rows_wait_for_the_line_of_another(lab: Lab) -> None:
    service = service_of(BatchRule(takes=3 * HOUR_S, first=2), limits=BatchLimits(requests=10, bytes=10**6))
    table = [*PROMPTS, *PROMPTS[15:], *PROMPTS[:5]]
    seen: list[set[str]] = []
    run(lab, service, table, dedup=True, at={2 * HOUR_S: lambda: seen.append({*lab.files()})})
    assert seen == [{"0_k.csv", "28_k.csv"}]
    assert [row["infer"] for row in lab.rows()] == [answer_to(prompt) for prompt in table]


def test_a_limit_and_a_sample_ask_those_rows_alone(lab: Lab) -> None:
    service = service_of()
    run(lab, service, limit=5)
    assert service.billed == Counter(PROMPTS[:5])
    run(lab, service, sample=8)
    assert (len(service.billed), max(service.billed.values())) == (len({*service.billed}), 1)
    run(lab, service)
    check(lab, service)


def test_rows_that_changed_while_their_batch_was_out_are_asked_anew_and_no_row_gets_a_foreign_answer(lab: Lab) -> None:
    service = service_of()
    with pytest.raises(BatchesOut):
        run(lab, service, wait="no")
    changed = [*reversed(PROMPTS[:10]), *PROMPTS[10:15], *(f"new {number}" for number in range(5))]
    service.prompts |= {*changed}
    service.pass_by(HOUR_S)
    with pytest.raises(ChangedError, match="out in 1 batch"):
        run(lab, service, changed)
    report = run(lab, service, changed, on_change="redo")
    assert report.ok == 20
    assert [row["infer"] for row in lab.rows()] == [answer_to(prompt) for prompt in changed]
    assert service.billed == Counter([*PROMPTS, *changed[15:]])


def test_retrying_and_changing_never_asks_again_about_an_answered_row_unasked(lab: Lab) -> None:
    run(lab, service_of())
    with pytest.raises(ChangedError):
        run(lab, service_of(), [f"{prompt}?" for prompt in PROMPTS])


# -- Answers


LABELS = ["yes", "no"]


def labelled(says: Any, **options: Any) -> Service:
    return Service(PROMPTS, instead=says, batch_limits=LIMITS, batch_knobs=BatchKnobs(latency=600.0), **options)


def test_several_answers_to_a_row_have_a_line_each(lab: Lab) -> None:
    said = {1: "yes", 2: "no", 3: "yes"}
    service = Service([f"{prompt}: yes, no?" for prompt in PROMPTS], batch_knobs=BatchKnobs(latency=600.0))
    service.instead = lambda call: Completion(said[call.nth], "stop", USAGE)
    options: dict[str, Any] = {"prompt": "{text}: {labels}?", "labels": LABELS, "structured": "prompt", "samples": 3}
    report = lab.run([{"text": prompt} for prompt in PROMPTS], service, via="batch", chunk_size=7, **options)
    assert (report.ok, set(service.billed.values())) == (20, {3})
    assert {row["infer"] for row in lab.rows()} == {"yes"}
    assert service.queue.books.made == 1


def test_several_answers_of_which_some_are_missing_are_completed(lab: Lab) -> None:
    service = service_of(BatchRule(end=State.EXPIRED, answered=0.5, last=1))
    report = run(lab, service, samples=3)
    assert (report.ok, set(service.billed.values())) == (20, {3})
    assert service.queue.books.made == 2


def test_a_second_endpoint_is_asked_online_when_the_batches_are_in(lab: Lab) -> None:
    prompts = [f"{prompt}: yes, no?" for prompt in PROMPTS]
    service = Service(prompts, batch_knobs=BatchKnobs(latency=600.0))

    def says(call: Call) -> Completion:
        if call.endpoint == "dear":
            return Completion("no", "stop", USAGE)
        split = call.nth == 3 and call.prompt in prompts[:5]
        return Completion("no" if split else "yes", "stop", USAGE)

    service.instead = says
    options: dict[str, Any] = {"labels": LABELS, "structured": "prompt", "samples": 3, "threshold": 0.9}
    endpoints = [Endpoint("m"), Endpoint("dear")]
    table = [{"text": prompt} for prompt in PROMPTS]
    report = lab.run(table, service, "{text}: {labels}?", via="batch", endpoints=endpoints, then="dear", **options)
    assert report.ok == 20
    assert sorted(call.prompt for call in service.calls) == sorted(prompts[:5])
    assert {call.endpoint for call in service.calls} == {"dear"}
    assert [row["infer"] for row in lab.rows()] == ["no"] * 5 + ["yes"] * 15


def test_an_answer_that_does_not_fit_is_mended_in_the_next_batch(lab: Lab) -> None:
    prompts = [f"{prompt}: yes, no?" for prompt in PROMPTS]
    shown = "This answer does not fit: the answer is not one of the labels. Answer again, and only as asked for."
    service = Service([*prompts], batch_knobs=BatchKnobs(latency=600.0))
    asked: list[str] = []

    def says(call: Call) -> Completion:
        asked.append(call.prompt)
        return Completion("perhaps" if call.prompt == prompts[2] else "yes", "stop", USAGE)

    service.instead = says
    service.prompts.add(shown)
    options: dict[str, Any] = {"labels": LABELS, "structured": "prompt", "repair": 1}
    report = lab.run([{"text": prompt} for prompt in PROMPTS], service, "{text}: {labels}?", via="batch", **options)
    assert (report.ok, service.queue.books.made, len(asked)) == (20, 2, 21)


def test_a_form_that_all_lines_are_refused_for_gives_way_to_the_next(lab: Lab) -> None:
    service = Service([], batch_knobs=BatchKnobs(latency=600.0))
    service.prompts = Anything()

    def says(call: Call) -> Completion | Failure:
        if "response_format" in call.params:
            return Failure(refusal(400).fault, "response_format is not supported", 400)
        return Completion("yes", "stop", USAGE)

    service.instead = says
    table = [{"text": prompt} for prompt in PROMPTS]
    report = lab.run(table, service, "{text}: {labels}?", via="batch", labels=LABELS)
    assert report.ok == 20
    assert all(count == 1 for count in service.billed.values())


def test_answers_that_cannot_be_used_stop_the_run_and_the_other_batches(lab: Lab) -> None:
    prompts = [f"row {number}" for number in range(300)]
    limits = BatchLimits(requests=100, bytes=10**6)
    rules = (BatchRule(takes=10 * HOUR_S, first=2),)
    service = Service(prompts, batch_limits=limits, batch_knobs=BatchKnobs(latency=600.0, rules=rules))
    service.prompts = {f"{prompt}: yes, no?" for prompt in prompts}
    options: dict[str, Any] = {"labels": LABELS, "structured": "prompt", "canary": 20}
    with pytest.raises(AnswersUnfit):
        lab.run([{"text": prompt} for prompt in prompts], service, "{text}: {labels}?", via="batch", **options)
    assert lab.seconds < HOUR_S
    assert set(states(lab)) == {"done"}


# -- Endpoints


def test_two_accounts_share_the_batches(lab: Lab) -> None:
    service = service_of(limits=BatchLimits(requests=5, bytes=10**6, at_once=1))
    endpoints = [Endpoint("m", base_url=f"https://{name}.example/v1", api_key=name) for name in ("one", "two")]
    report = run(lab, service, endpoints=endpoints)
    assert report.ok == 20
    assert service.billed == Counter(PROMPTS)
    assert [queue.books.made for queue in service.queues] == [2, 2]


# -- What does not go together


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stream": True}, 'stream and via="batch" exclude each other'),
        ({"repeat_sample": 3}, "repeat_sample"),
        ({"via": None, "wait": "no"}, 'wait: no goes with via="batch"'),
    ],
)
def test_options_that_do_not_go_with_batches_are_refused_in_words(lab: Lab, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        run(lab, service_of(), **options)
    assert not lab.directory.exists()


def test_verify_finds_nothing_wrong(lab: Lab) -> None:
    run(lab, service_of(BatchRule(end=State.EXPIRED, answered=0.5, last=1)))
    found = batcher.verify("k", PROMPTS, output_dir=lab.directory)
    assert found.ok, found

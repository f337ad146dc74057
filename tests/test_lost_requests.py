"""Requests that were out at lost workers are told apart from failures, with their most cost; a plan names workers."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import pytest
from conftest import Lab
from fake_service import Service, refusal
from fake_workers import Away

import batcher
from batcher.endpoint import Endpoint
from batcher.errors import Interrupted
from batcher.journal.opening import read_samples
from batcher.output.figures import worker_lost_in_words
from batcher.output.opening import opened
from batcher.output.report import Report
from batcher.records import Usage
from batcher.reports.status import ShardsStatus
from batcher.reports.whole.facts import Facts
from batcher.reports.whole.gathering import gathered
from batcher.reports.whole.page import page_of
from batcher.words import dollars

PRICES = {"in": 1.0, "out": 10.0}
BOUND: dict[str, Any] = {"param": {"max_tokens": 8}}


def rows(count: int) -> list[str]:
    return [f"question {number}" for number in range(count)]


def run(lab: Lab, away: Away, prompts: list[str], at: Any = None, **options: Any) -> Report:
    return lab.run(prompts, away, at=at, **{"endpoints": [Endpoint("m", max_concurrency=32)]} | options)


def lost_in(lab: Lab) -> int:
    [(found,)] = lab.query("SELECT count(*) FROM requests WHERE outcome = 'worker lost'")
    return int(found)


def facts_of(lab: Lab) -> Facts:
    with opened("k", lab.directory, read_samples) as past, past.journal.snapshot():
        return gathered(past)


def run_with_losses_and_failures(lab: Lab) -> tuple[Report, int, int]:
    """Run 200 rows, ten of which fail once, and lose a worker; return the report, how many were lost, their bound."""
    prompts = rows(200)
    stumbling = set(prompts[150:160])
    service = Service(
        prompts,
        usage=lambda _call: Usage(10, 2),
        instead=lambda call: refusal(500) if call.prompt in stumbling and call.nth == 1 else None,
    )
    away = Away(service, workers=2)
    endpoint = Endpoint("m", max_concurrency=32, prices=PRICES)
    report = run(lab, away, prompts, at={2.5: away.kill}, endpoints=[endpoint], **BOUND)
    lost = lost_in(lab)
    assert lost > 1
    # The answers to the same questions say how many tokens the prompts have; an answer may have eight.
    return report, lost, lost * (10 * 1_000 + 8 * 10_000)


def test_requests_at_lost_workers_are_no_failures_and_no_further_attempts(lab: Lab) -> None:
    report, lost, most = run_with_losses_and_failures(lab)
    assert (report.requests, report.answered, report.failed, report.out) == (210 + lost, 200, 10, 0)
    assert (report.worker_lost, report.worker_lost_now, report.retries, report.retries_now) == (lost, lost, 10, 10)
    assert report.worker_lost_usd == report.worker_lost_usd_now == report.uncertain_usd == pytest.approx(most / 1e9)
    status = batcher.status("k", output_dir=lab.directory).to_dict()
    assert (status["worker_lost"], status["worker_lost_usd"], status["failed"]) == (lost, report.worker_lost_usd, 10)
    found = batcher.verify("k", output_dir=lab.directory)
    assert [(each.failed, each.worker_lost) for each in found.endpoints] == [(10, lost)]
    facts = facts_of(lab)
    [each] = facts.endpoints.each
    assert (each.requests, each.failed, each.worker_lost, each.failures) == (210 + lost, 10, lost, (("500", 10),))
    assert facts.timeline
    assert sum(facts.timeline.failed) * facts.timeline.width == pytest.approx(10, abs=0.01)


def test_status_summary_report_page_and_verification_name_the_requests_at_lost_workers(lab: Lab) -> None:
    report, lost, most = run_with_losses_and_failures(lab)
    words = f"{lost} requests were out at workers that were lost; they may cost at most {dollars(most)}"
    status, facts = batcher.status("k", output_dir=lab.directory), facts_of(lab)
    for said in (str(report), report._repr_html_(), str(status), page_of(facts)):
        assert words in said
    assert f"{210 + lost}: 200 answered, 10 failed, {lost} at lost workers, 0 out" in str(status)
    assert "<th" in page_of(facts).partition("at lost workers</th>")[0]
    verified = str(batcher.verify("k", output_dir=lab.directory))
    assert f"= 200 answered + 10 failed + 0 without an end + {lost} at workers that were lost" in verified


def test_without_lost_workers_no_report_speaks_of_them(lab: Lab) -> None:
    prompts = rows(20)
    report = run(lab, Away(Service(prompts), workers=2), prompts)
    said = (report, batcher.status("k", output_dir=lab.directory), batcher.verify("k", output_dir=lab.directory))
    assert report.worker_lost == 0
    for each in (*map(str, said), page_of(facts_of(lab))):
        assert "lost" not in each.replace("test_without_lost", "")


def test_what_lost_requests_may_cost_is_unknown_without_prices(lab: Lab) -> None:
    prompts = rows(40)
    away = Away(Service(prompts), workers=2)
    report = run(lab, away, prompts, at={1.5: away.kill})
    assert report.worker_lost > 1
    assert report.worker_lost_usd is None
    assert "were lost; what they may cost is not known" in str(batcher.status("k", output_dir=lab.directory))


def test_one_lost_request_and_those_that_cannot_be_billed_are_said_in_words() -> None:
    one = "1 request was out at a worker that was lost"
    assert worker_lost_in_words(1, 0.25) == f"{one}; it may cost at most $0.25"
    assert worker_lost_in_words(1, None) == f"{one}; what it may cost is not known"
    assert worker_lost_in_words(1, 0.0) == f"{one}, and cost nothing"
    assert worker_lost_in_words(1200, 0.0) == "1,200 requests were out at workers that were lost, and cost nothing"


def test_rows_that_were_out_at_lost_workers_alone_hide_no_further_attempts_of_others(lab: Lab) -> None:
    prompts = rows(200)
    stumbling = set(prompts[20:24])
    service = Service(
        prompts, instead=lambda call: refusal(500) if call.prompt in stumbling and call.nth == 1 else None
    )
    away = Away(service, workers=1, replaces=False)
    stops = {10.5: away.kill, 11.0: lab.request_stop}
    with pytest.raises(Interrupted) as stopped:
        run(lab, away, prompts, at=stops, endpoints=[Endpoint("m", max_concurrency=8)])
    report = stopped.value.report
    assert report.worker_lost > 4
    assert sum(service.asked[each] for each in stumbling) == 8
    assert (report.failed, report.retries) == (4, 4)
    assert report.requests == report.answered + report.failed + report.worker_lost + report.out


def test_the_sums_of_shards_have_their_lost_requests(lab: Lab) -> None:
    prompts = rows(40)
    away = Away(Service(prompts), workers=2)
    run(lab, away, prompts, at={1.5: away.kill}, endpoints=[Endpoint("m", max_concurrency=32, prices=PRICES)], **BOUND)
    one = batcher.status("k", output_dir=lab.directory)
    both = ShardsStatus("k", 2, {"1-of-2": one, "2-of-2": one})
    assert both.to_dict()["worker_lost"] == 2 * one.worker_lost
    assert both.to_dict()["worker_lost_usd"] == pytest.approx(2 * (one.worker_lost_usd or 0))
    assert f"{2 * one.worker_lost} requests were out at workers that were lost; they may cost at most" in str(both)
    unknown = replace(one, worker_lost_usd=None)
    assert ShardsStatus("k", 2, {"1-of-2": one, "2-of-2": unknown}).to_dict()["worker_lost_usd"] is None


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        (None, "Calls are made by workers of Ray (127.0.0.1:1), as many as it has CPUs, less one for this process."),
        (1, "Calls are made by 1 worker of Ray (127.0.0.1:1)."),
        (8, "Calls are made by up to 8 workers of Ray (127.0.0.1:1)."),
    ],
)
def test_the_plan_and_the_first_lines_of_a_run_say_from_where_calls_are_made(
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    workers: int | None,
    said: str,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: find("json" if name == "ray" else name, *rest))
    prompts = rows(4)
    options: dict[str, Any] = {"ray": "127.0.0.1:1", "ray_workers": workers}
    # Nothing listens at that address: a plan does not connect.
    plan = batcher.plan(prompts, keyword="k", output_dir=lab.directory, endpoints=[Endpoint("m")], **options)
    assert said in str(plan)
    run(lab, Away(Service(prompts), workers=1), prompts, quiet=False, no_progress=True, **options)
    assert said in capsys.readouterr().err
    run(lab, Away(Service(prompts), workers=1), prompts, quiet=False, no_progress=True, **options)
    assert "Calls are made" not in capsys.readouterr().err  # nothing is asked any more

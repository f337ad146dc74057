"""Runs that shall be finished by a given time: virtual nights."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from conftest import Lab
from fake_service import Call, Service, answer_to

from batcher.calls.batch_service import BatchLimits
from batcher.endpoint import Endpoint
from batcher.engine.bar import State as Shown
from batcher.engine.bar import line
from batcher.errors import Interrupted
from batcher.output.report import Report
from batcher.records import Usage
from batcher.server.batch_rules import BatchKnobs, BatchRule, Place, State
from batcher.server.faults import Fate, Reply

ROWS = 500
PROMPTS = [f"question {number}" for number in range(ROWS)]
ONLINE, BATCH = 12_000, 6_000
"""Nano-dollars of a row."""
POOL = [Endpoint("m", prices={"in": 1, "out": 1, "batch": 0.5}, max_concurrency=4)]
HOUR = 3600.0


def night(lab: Lab, service: Service, within: str = "8h", **options: Any) -> Report:
    """Run the table by a deadline: online, four requests of 20 s at once answer 0.2 rows a second."""
    run: Any = lab.run
    report: Report = run(
        PROMPTS,
        service,
        **{"within": within, "endpoints": POOL, "canary": 20, "no_progress": True, "quiet": False} | options,
    )
    return report


def served(knobs: BatchKnobs, **options: Any) -> Service:
    usual: dict[str, Any] = {"latency": lambda _call: 20.0, "batch_knobs": knobs}
    return Service(PROMPTS, **usual | options)


def spent(lab: Lab) -> int:
    [(cost,)] = lab.query("SELECT sum(cost) FROM requests")
    return int(cost)


def forecasts(lab: Lab) -> list[str]:
    found = lab.query("SELECT detail FROM events WHERE kind = 'forecast' ORDER BY id")
    return [json.loads(detail)["state"] for (detail,) in found]


def check(lab: Lab, service: Service) -> None:
    """Each row is there once, with its own answer, and was billed once."""
    assert [row["infer"] for row in lab.rows()] == [answer_to(prompt) for prompt in PROMPTS]
    assert service.billed == Counter(PROMPTS)


def test_a_night_that_batches_alone_finish_costs_half(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    service = served(BatchKnobs(latency=2 * HOUR))
    report = night(lab, service)
    assert (report.status, report.ok) == ("done", ROWS)
    check(lab, service)
    assert lab.seconds < 2.5 * HOUR
    assert len(service.calls) == 20  # the rows that are asked first
    assert spent(lab) == 20 * ONLINE + (ROWS - 20) * BATCH
    assert forecasts(lab) == ["in time"]
    said = capsys.readouterr().err
    assert "In time for" in said
    assert "Finished 5h" in said


def test_a_night_that_is_just_met_takes_back_as_many_batches_as_it_must(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some batches come back in time, others never: their rows are asked online, and the deadline is met."""
    slow = BatchRule(takes=30 * HOUR, first=3)
    service = served(BatchKnobs(latency=HOUR, rules=(slow,)))
    report = night(lab, service)
    assert (report.status, report.ok) == ("done", ROWS)
    check(lab, service)
    assert 6.5 * HOUR < lab.seconds < 8 * HOUR
    assert 20 * ONLINE + (ROWS - 20) * BATCH < spent(lab) < ROWS * ONLINE
    assert "cancelled, so that" in capsys.readouterr().err


def test_only_as_many_rows_go_into_batches_as_have_time_there(lab: Lab) -> None:
    service = served(BatchKnobs(latency=HOUR))
    report = night(lab, service, within="1h")
    assert report.ok == ROWS
    check(lab, service)
    assert lab.seconds < HOUR
    assert set(forecasts(lab)) == {"in time"}
    [(lines, rows)] = lab.query("SELECT sum(requests), (SELECT count(*) FROM rows) FROM batches")
    assert 100 < lines < rows - 100


def test_a_night_that_cannot_be_met_says_so_at_once_and_goes_on(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    service = served(BatchKnobs(latency=30 * HOUR))
    report = night(lab, service, within="20m")
    assert (report.status, report.ok) == ("done", ROWS)
    check(lab, service)
    assert lab.seconds < HOUR  # 42 minutes of work, and a batch that comes back
    assert forecasts(lab)[0] in {"late", "by batch"}
    said = capsys.readouterr().err
    assert "cannot be met" in said or "only if batches" in said
    assert "Finished" in said
    assert " after " in said


def test_an_online_service_that_slows_down_is_said_as_soon_as_it_is_seen(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """From three o'clock on, a request takes three times as long; the batches never come back."""
    service = served(BatchKnobs(latency=40 * HOUR), latency=lambda call: 20.0 if call.at < 5 * HOUR else 60.0)
    report = night(lab, service)
    assert (report.status, report.ok) == ("done", ROWS)
    check(lab, service)
    states = forecasts(lab)
    assert states[0] == "in time"
    assert states[-1] == "late"
    said = capsys.readouterr().err
    assert said.index("can be met only if batches") < said.index(" is past, and ")
    assert 8 * HOUR < lab.seconds < 10 * HOUR


def test_a_batch_that_cannot_be_cancelled_is_asked_online_and_its_late_answers_are_kept(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """The service refuses to cancel, and the answers come after all, when their rows have others."""
    reply = Reply(409, {"error": {"message": "cannot be cancelled"}})
    refusing = BatchRule(at=Place.CANCEL, does=Fate.ERROR, reply=reply)
    service = served(BatchKnobs(latency=12 * HOUR, rules=(refusing,)))
    report = night(lab, service)
    assert (report.status, report.ok) == ("done", ROWS)
    assert [row["infer"] for row in lab.rows()] == [answer_to(prompt) for prompt in PROMPTS]
    assert lab.seconds < 9 * HOUR
    said = capsys.readouterr().err
    assert "asked online as well" in said
    assert "could not be cancelled had them" in said
    assert len(service.calls) == ROWS

    service.pass_by(6 * HOUR)
    again = night(lab, service)
    assert (again.status, again.ok, len(service.calls)) == ("done", ROWS, ROWS)
    twice = {prompt for prompt, times in service.billed.items() if times == 2}
    assert max(service.billed.values()) == 2
    late = lab.query(
        "SELECT count(*) FROM results WHERE id IN (SELECT id FROM requests WHERE sent_in > 0)"
        " AND id NOT IN (SELECT result FROM rows)"
    )
    assert late == [(len(twice),)]
    assert spent(lab) == ROWS * ONLINE + len(twice) * BATCH


def test_a_time_too_short_for_online_requests_alone_is_met_with_batches_beside_them(lab: Lab) -> None:
    """Online requests alone take 42 minutes; batches of 36 minutes beside them save the night."""
    service = served(BatchKnobs(latency=0.6 * HOUR, cancelling=600))
    report = night(lab, service, within="40m")
    assert report.ok == ROWS
    check(lab, service)
    assert lab.seconds < 40 * 60
    assert forecasts(lab)[0] == "by batch"
    answered = service.queue.books.answered
    assert answered > 50
    assert spent(lab) == answered * BATCH + (ROWS - answered) * ONLINE


def test_a_few_rows_go_online_alone_if_there_is_no_time_for_a_batch(lab: Lab) -> None:
    service = served(BatchKnobs(latency=HOUR))
    prompts = PROMPTS[:100]
    report = lab.run(prompts, service, within="20m", endpoints=POOL, canary=20)
    assert (report.ok, len(service.calls)) == (100, 100)
    assert service.queues[0].books.made == 0
    assert lab.seconds < 600


def test_a_service_without_batches_is_asked_online_and_late_is_said_at_once(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    service = served(BatchKnobs())
    pool = [Endpoint("m", base_url="http://localhost:9/v1", max_concurrency=4)]
    report = night(lab, service, within="10m", endpoints=pool)
    assert (report.ok, len(service.calls)) == (ROWS, ROWS)
    assert forecasts(lab)[0] == "late"
    said = capsys.readouterr().err
    assert "cannot be met" in said
    assert "Finished" in said


def test_via_online_asks_nothing_in_batches(lab: Lab) -> None:
    service = served(BatchKnobs())
    report = lab.run(PROMPTS[:50], service, within="8h", via="online", endpoints=POOL)
    assert (report.ok, len(service.calls)) == (50, 50)


def test_a_budget_covers_both_ways_together(lab: Lab) -> None:
    """What the batches that are taken back do not cost pays for the online requests."""
    service = served(BatchKnobs(latency=40 * HOUR), usage=lambda _call: Usage(prompt_tokens=10, completion_tokens=2))
    report = night(lab, service, budget=1.0, param={"max_tokens": 10})
    assert report.ok == ROWS
    check(lab, service)
    assert spent(lab) <= 10**9


def test_a_run_that_is_stopped_keeps_its_time_and_finds_its_batches(lab: Lab) -> None:
    service = served(BatchKnobs(latency=2 * HOUR))
    with pytest.raises(Interrupted):
        night(lab, service, at={0.5 * HOUR: lab.request_stop})
    service.pass_by(HOUR)
    [(first,)] = lab.query("SELECT detail FROM events WHERE kind = 'due'")
    report = night(lab, service)
    assert (report.status, report.ok) == ("done", ROWS)
    check(lab, service)
    assert [detail for (detail,) in lab.query("SELECT detail FROM events WHERE kind = 'due'")] == [first, first]


FLEX_POOL = [Endpoint("gpt-5-mini", base_url="https://api.openai.com/v1", max_concurrency=4)]


def tiers(service: Service) -> Counter[str]:
    """Count the requests by the tier that they ask for."""
    return Counter(str(call.params.get("service_tier", "")) for call in service.calls)


def in_tier(call: Call) -> float:
    """Return the seconds of a call: flex takes three times as long."""
    return 60.0 if call.params.get("service_tier") == "flex" else 20.0


def test_a_night_in_flex_costs_half_if_there_is_time(lab: Lab) -> None:
    service = served(BatchKnobs(), latency=in_tier)
    report = night(lab, service, via="online", endpoints=FLEX_POOL)
    assert report.ok == ROWS
    check(lab, service)
    assert tiers(service)["flex"] > 0.95 * ROWS
    assert lab.seconds < 2.5 * HOUR


def test_flex_gives_way_to_the_usual_tier_just_in_time(lab: Lab) -> None:
    """In flex the rows take two hours, in the usual tier 42 minutes: within 100 minutes it takes both."""
    service = served(BatchKnobs(), latency=in_tier)
    report = night(lab, service, within="100m", via="online", endpoints=FLEX_POOL)
    assert report.ok == ROWS
    check(lab, service)
    found = tiers(service)
    assert found["flex"] > 0.2 * ROWS
    assert found["default"] > 0.2 * ROWS
    assert lab.seconds < 100 * 60
    assert set(forecasts(lab)) == {"in time"}


def test_rows_of_batches_that_are_taken_back_go_to_flex_first(lab: Lab) -> None:
    service = served(BatchKnobs(latency=40 * HOUR), latency=in_tier)
    report = night(lab, service, endpoints=FLEX_POOL)
    assert report.ok == ROWS
    check(lab, service)
    assert tiers(service)["flex"] > 0.5 * ROWS
    assert lab.seconds < 8 * HOUR


def test_a_tier_that_the_user_names_is_kept(lab: Lab) -> None:
    service = served(BatchKnobs(), latency=in_tier)
    report = night(lab, service, via="online", endpoints=FLEX_POOL, tier="priority")
    assert report.ok == ROWS
    assert set(tiers(service)) == {"priority"}


def test_rows_for_which_the_queue_had_no_room_are_asked_online_in_time(lab: Lab) -> None:
    """Two batches at a time, of three hours each: five of them would take nine hours."""
    service = served(BatchKnobs(latency=3 * HOUR), batch_limits=BatchLimits(requests=50_000, bytes=10**8, at_once=2))
    report = night(lab, service)
    assert report.ok == ROWS
    check(lab, service)
    assert lab.seconds < 8 * HOUR
    assert 0.5 * ROWS < service.queue.books.answered < 0.95 * ROWS


def test_without_a_canary_a_few_rows_show_how_fast_online_requests_are(lab: Lab) -> None:
    service = served(BatchKnobs(latency=2 * HOUR))
    report = night(lab, service, canary=0)
    assert report.ok == ROWS
    check(lab, service)
    assert len(service.calls) == 20
    assert forecasts(lab) == ["in time"]


def test_rows_of_a_batch_that_expires_are_asked_again_in_time(lab: Lab) -> None:
    expiring = BatchRule(end=State.EXPIRED, answered=0.5, last=2)
    service = served(BatchKnobs(latency=HOUR, rules=(expiring,)))
    report = night(lab, service)
    assert report.ok == ROWS
    check(lab, service)
    assert lab.seconds < 8 * HOUR
    assert len(service.calls) == 20


def test_several_answers_to_each_row_count_in_the_time_that_is_needed(lab: Lab) -> None:
    """Three answers to each of 150 rows take as long as 450 rows: the batches never come back."""
    service = served(BatchKnobs(latency=40 * HOUR))
    run: Any = lab.run
    report = run(PROMPTS[:150], service, within="3h", endpoints=POOL, canary=20, samples=3)
    assert report.ok == 150
    assert set(service.billed.values()) == {3}
    assert lab.seconds < 3 * HOUR
    assert set(forecasts(lab)) == {"in time"}


def test_the_log_has_the_time_and_what_is_expected(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    service = served(BatchKnobs())
    night(lab, service, within="10m", via="online", log_json=True, no_progress=False)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    shown = [line for line in lines if line["kind"] == "progress" and line["outlook"] == "late"]
    assert shown
    assert shown[0]["due"] < shown[0]["expected_end"]
    assert "late: " in shown[0]["message"]


def test_the_bar_says_whether_the_run_is_in_time() -> None:
    now = time.time()
    state = Shown(keyword="k", rows=10, due=now + 60, end=now + 120, outlook="late")
    late = line(state, 100)
    assert "late: " in late
    assert "(by " in late
    assert " by " in line(replace(state, outlook="in time"), 100)
    assert "if batches are" in line(replace(state, outlook="by batch"), 100)
    assert "by" not in line(replace(state, due=None), 100)

"""Runs that shall be finished by a given time: virtual nights."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from conftest import Lab
from fake_service import Service, answer_to

from batcher.endpoint import Endpoint
from batcher.output.report import Report
from batcher.server.batch_rules import BatchKnobs, BatchRule

PROMPTS = [f"question {number}" for number in range(1000)]
ONLINE, BATCH = 12_000, 6_000
"""Nano-dollars of a row."""
POOL = [Endpoint("m", prices={"in": 1, "out": 1, "batch": 0.5}, max_concurrency=4)]
HOUR = 3600.0


def night(lab: Lab, service: Service, within: str = "8h", **options: Any) -> Report:
    """Run the table by a deadline: online, four requests of 10 s at once answer 0.4 rows a second."""
    return lab.run(
        PROMPTS,
        service,
        **{"within": within, "endpoints": POOL, "canary": 20, "no_progress": True, "quiet": False} | options,
    )


def served(knobs: BatchKnobs, **options: Any) -> Service:
    return Service(PROMPTS, **{"latency": lambda _call: 10.0, "batch_knobs": knobs} | options)


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
    assert (report.status, report.ok) == ("done", 1000)
    check(lab, service)
    assert lab.seconds < 2.5 * HOUR
    assert len(service.calls) == 20  # the rows that are asked first
    assert spent(lab) == 20 * ONLINE + 980 * BATCH
    assert forecasts(lab) == ["in time"]
    said = capsys.readouterr().err
    assert "In time for" in said
    assert "Finished 5h" in said


def test_a_night_that_is_just_met_takes_back_as_many_batches_as_it_must(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some batches come back in time, others never: their rows are asked online, and the deadline is met."""
    slow = BatchRule(takes=30 * HOUR, first=4)
    service = served(BatchKnobs(latency=HOUR, rules=(slow,)))
    report = night(lab, service)
    assert (report.status, report.ok) == ("done", 1000)
    check(lab, service)
    assert 6.5 * HOUR < lab.seconds < 8 * HOUR
    assert 20 * ONLINE + 980 * BATCH < spent(lab) < 1000 * ONLINE
    assert "cancelled, so that" in capsys.readouterr().err


def test_what_is_too_short_for_batches_is_asked_online_from_the_start(lab: Lab) -> None:
    service = served(BatchKnobs(latency=HOUR))
    report = night(lab, service, within="1h")
    assert report.ok == 1000
    check(lab, service)
    assert lab.seconds < HOUR
    assert forecasts(lab) == ["in time"]


def test_a_night_that_cannot_be_met_says_so_at_once_and_goes_on(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    service = served(BatchKnobs(latency=30 * HOUR))
    report = night(lab, service, within="20m")
    assert (report.status, report.ok) == ("done", 1000)
    check(lab, service)
    assert lab.seconds < HOUR  # 42 minutes of work, and a batch that comes back
    assert forecasts(lab)[0] in {"late", "by batch"}
    said = capsys.readouterr().err
    assert "cannot be met" in said or "only if batches" in said
    assert "Finished" in said
    assert " after " in said

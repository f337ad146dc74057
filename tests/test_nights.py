"""Long nights in virtual time: outages cost time, never rows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Call, Service, answer_to, refusal

from batcher.endpoint import Endpoint
from batcher.records import Completion, Failure, Fault, Usage

MINUTE, HOUR = 60.0, 3600.0
REFUSED = Failure(Fault.CONNECTION, "nobody listens")
CUT = Failure(Fault.CONNECTION, "cut off", may_be_billed=True)


def during(start: float, stop: float, failure: Failure) -> Callable[[Call], Completion | Failure | None]:
    return lambda call: failure if start <= call.at < stop else None


def rows(count: int) -> list[str]:
    return [f"question {number}" for number in range(count)]


def check_whole(lab: Lab, prompts: list[str], service: Service) -> None:
    assert [(row["infer"], row["infer_status"]) for row in lab.rows()] == [(answer_to(p), "ok") for p in prompts]
    assert service.answered == Counter(prompts)


@pytest.mark.parametrize(
    ("failure", "seconds"),
    [
        (refusal(429), 10 * MINUTE),
        (refusal(429, retry_after=7), 10 * MINUTE),
        (REFUSED, HOUR),
        (CUT, HOUR),
        (refusal(500), HOUR),
        (refusal(503), HOUR),
        (Failure(Fault.TIMEOUT, "nothing came", may_be_billed=True), HOUR),
    ],
)
@pytest.mark.parametrize("width", [1, 64])
def test_an_outage_costs_time_and_no_row(
    lab: Lab, failure: Failure, seconds: float, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = rows(300)
    service = Service(prompts, instead=during(2.5, 2.5 + seconds, failure))
    options: dict[str, Any] = {"endpoints": [Endpoint("m", max_concurrency=width)], "quiet": False, "no_progress": True}
    report = lab.run(prompts, service, **options)
    assert report.ok == 300
    check_whole(lab, prompts, service)
    assert seconds < lab.seconds < seconds + 300 / width + 2 * MINUTE
    # It was asked now and then, by one call at a time, and not by every row over and over.
    asked = sum(2.5 <= at < 2.5 + seconds for at in service.times())
    assert asked <= 2 * width + 12 + seconds / 7
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said if line.startswith(("Paused", "Going on"))] == ["Paused", "Going on"]
    kinds = lab.query("SELECT kind FROM events WHERE kind NOT IN ('planned', 'joined') ORDER BY id")
    assert kinds == [("paused",), ("resumed",)]


def test_the_last_row_waits_for_a_service_that_is_gone_but_not_for_one_that_fails_on_it(lab: Lab) -> None:
    prompts = rows(20)
    gone = Service(prompts, instead=lambda call: REFUSED if call.prompt == prompts[-1] and call.at < HOUR else None)
    assert lab.run(prompts, gone).ok == 20
    poison = Service(prompts, instead=lambda call: refusal(500) if call.prompt == prompts[-1] else None)
    report = lab.run(prompts, poison, keyword="poison")
    assert (report.ok, report.error, poison.asked[prompts[-1]]) == (19, 1, 6)


def test_status_says_that_a_run_is_paused(lab: Lab) -> None:
    import batcher  # noqa: PLC0415 - for this look from outside

    prompts = rows(50)
    seen: list[Any] = []
    service = Service(prompts, instead=during(1.5, 600, refusal(503)))
    at: dict[float, Any] = {moment: lambda: seen.append(batcher.status("k", lab.directory)) for moment in (300, 660)}
    lab.run(prompts, service, at=at, endpoints=[Endpoint("m", max_concurrency=4)])
    paused, *_ = seen
    assert paused.state == "running"
    [said] = paused.paused
    assert "endpoint 1 (m at https://api.openai.com/v1) since" in said
    assert "HTTP 503" in said
    assert batcher.status("k", lab.directory).paused == ()


def test_a_night_with_everything_in_it(lab: Lab, tmp_path: Path) -> None:
    """10,000 rows, three keys, an outage, a storm of 429s, stragglers, a revoked key, a limit halved half way.

    Calls take long, so that a hundred are in flight at each key.
    """
    prompts = rows(10_000)
    draw = random.Random(7)
    recent: list[float] = []

    def latency(_call: Call) -> float:
        return 100.0 if draw.random() < 0.003 else draw.lognormvariate(1.6, 0.8)

    def instead(call: Call) -> Completion | Failure | None:
        if call.endpoint == "revoked" and call.at > 50:
            return refusal(401)
        if 100 <= call.at < 700:
            return REFUSED
        if 720 <= call.at < 760 and draw.random() < 0.7:
            return refusal(429)
        if call.at > 850:  # from here on half as many are allowed, of both keys together
            recent[:] = [at for at in recent[-18:] if at > call.at - 1]
            if len(recent) >= 18:
                return refusal(429, retry_after=1)
            recent.append(call.at)
        return refusal(500) if draw.random() < 0.006 else None

    service = Service(prompts, latency, instead, lambda _call: Usage(10, 2))
    endpoints = [Endpoint(name, rps=18, max_concurrency=256) for name in ("one", "two", "revoked")]
    report = lab.run(prompts, service, endpoints=endpoints, chunk_size=1_000)
    assert (report.ok, report.error, report.invalid) == (10_000, 0, 0)
    check_whole(lab, prompts, service)
    # The key that was revoked was asked now and then by one row, for half an hour at most.
    revoked = [call.at for call in service.calls if call.endpoint == "revoked" and call.at > 60]
    assert 0 < len(revoked) < 100
    assert report.requests < 12_000


@pytest.mark.parametrize("seed", range(5))
def test_no_minute_of_a_run_sees_more_tokens_than_its_limit(lab: Lab, seed: int) -> None:
    prompts = rows(200)
    draw = random.Random(seed)
    # Answers are shorter than `max_tokens` allows, and the estimate learns that.
    service = Service(prompts, lambda _call: draw.uniform(1, 20), usage=lambda _call: Usage(8, draw.randint(5, 30)))
    lab.run(prompts, service, endpoints=[Endpoint("m", tpm=1000)], param={"max_tokens": 30})
    spent = sorted(zip(service.times(), (use.total_tokens or 0 for use in service.used), strict=True))
    for number, (start, _) in enumerate(spent):
        assert sum(tokens for at, tokens in spent[number:] if at < start + MINUTE) <= 1000
    total = sum(tokens for _, tokens in spent)
    assert lab.seconds < 1.15 * total / 1000 * MINUTE + 30

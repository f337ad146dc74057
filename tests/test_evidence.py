"""One answer to one row never decides over an endpoint, and many like answers do: whole nights in virtual time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Call, Service, answer_to, refusal

from batcher.endpoint import Endpoint
from batcher.errors import EndpointsLost, Interrupted
from batcher.records import Completion, Failure, Fault

MINUTE, HOUR = 60.0, 3600.0
NIGHT = 14_400
Instead = Callable[[Call], Completion | Failure | None]

PAGE = Failure(Fault.STATUS, "<html> Sorry, you have been blocked </html>", 403, words="", is_page=True)
GUARDRAIL = Failure(Fault.STATUS, "this prompt is not allowed here", 403, "forbidden")
INSULT = Failure(Fault.STATUS, "be polite", 400, "policy")
TOO_MANY_TOKENS = Failure(Fault.STATUS, "limit reached", 429)
HUNG = Failure(Fault.TIMEOUT, "nothing came within 120 s", may_be_billed=True)
NO_CHOICES = Failure(Fault.PROTOCOL, '{"choices": null}', may_be_billed=True)
CUT = Failure(Fault.CONNECTION, "the connection was closed early", may_be_billed=True)
NOBODY = Failure(Fault.CONNECTION, "nobody listens")
CLOSED_ACCOUNT = Failure(Fault.STATUS, "Account x has been shut down by its owner", 412, "precondition_failed")


def prompts(count: int) -> list[str]:
    return [f"row {number}" for number in range(count)]


def of(bad: Collection[str], failure: Failure) -> Instead:
    """Refuse these rows for ever, and no others."""
    return lambda call: failure if call.prompt in bad else None


def check(lab: Lab, rows: list[str], bad: Collection[str], said: str = "") -> None:
    """Check that these rows alone are errors, and that each other one has its own answer."""
    for row, prompt in zip(lab.rows(), rows, strict=True):
        if prompt in bad:
            assert (row["infer"], row["infer_status"]) == ("", "error")
            assert said in row["infer_error"]
        else:
            assert (row["infer"], row["infer_status"]) == (answer_to(prompt), "ok")


# -- One row that is refused, or fails, for ever


@pytest.mark.parametrize("failure", [PAGE, GUARDRAIL, INSULT, refusal(401), refusal(404), refusal(405), refusal(422)])
@pytest.mark.parametrize("keys", [1, 10])
@pytest.mark.parametrize("width", [1, 16])
def test_a_row_that_is_refused_takes_out_no_endpoint(lab: Lab, failure: Failure, keys: int, width: int) -> None:
    rows = prompts(600)
    bad = [rows[200]]
    service = Service(rows, instead=of(bad, failure))
    endpoints = [Endpoint("m", api_key=f"key-{number}", max_concurrency=width) for number in range(keys)]
    report = lab.run(rows, service, endpoints=endpoints)
    check(lab, rows, bad, str(failure))
    assert [each.out for each in report.endpoints] == [None] * keys
    assert service.asked[bad[0]] == 3
    assert service.answered.total() == 599


@pytest.mark.parametrize("failure", [PAGE, GUARDRAIL, refusal(400), refusal(401), refusal(500), NO_CHOICES, CUT, HUNG])
@pytest.mark.parametrize("width", [1, 16])
def test_the_first_row_may_be_the_bad_one(lab: Lab, failure: Failure, width: int) -> None:
    rows = prompts(60)
    service = Service(rows, instead=of(rows[:1], failure))
    lab.run(rows, service, endpoints=[Endpoint("m", max_concurrency=width)])
    check(lab, rows, rows[:1], str(failure))
    assert service.asked[rows[0]] == (6 if failure in {refusal(500), NO_CHOICES, CUT, HUNG} else 3)
    assert service.answered.total() == 59


@pytest.mark.parametrize("retry_after", [None, 5, 86_400])
@pytest.mark.parametrize("width", [1, 16])
def test_a_row_that_is_always_told_to_wait_lets_the_others_go_on(
    lab: Lab, retry_after: float | None, width: int
) -> None:
    rows = prompts(400)
    bad = [rows[100]]
    service = Service(rows, instead=of(bad, refusal(429, retry_after)))
    lab.run(rows, service, endpoints=[Endpoint("m", max_concurrency=width)])
    check(lab, rows, bad, "while other rows were answered")
    assert service.asked[bad[0]] <= 12
    alone = Service(rows)
    lab.run(rows, alone, keyword="alone", endpoints=[Endpoint("m", max_concurrency=width)])
    answered = [call.at for call in service.calls if call.prompt not in bad]
    assert max(answered) < max(alone.times()) + 3 * MINUTE


def test_one_row_in_a_hundred_that_ten_keys_refuse_ends_as_error_and_no_other(lab: Lab) -> None:
    rows = prompts(5000)
    bad = rows[3::100]
    content = Failure(Fault.STATUS, "Content violates usage guidelines.", 403, "permission-denied")
    service = Service(rows, instead=of(bad, content))
    report = lab.run(rows, service, endpoints=[Endpoint("m", api_key=f"key-{n}") for n in range(10)])
    check(lab, rows, bad, "Content violates usage guidelines")
    assert [each.out for each in report.endpoints] == [None] * 10
    assert report.requests_now == 5000, "the words are known: no row is asked twice"


# -- Many rows, one after the other


@pytest.mark.parametrize(
    ("failure", "start"),
    [
        (failure, start)
        for failure in (PAGE, GUARDRAIL, INSULT, refusal(404), refusal(500), HUNG)
        for start in (0, 200, 540)
        # No row is the cause of a 404, and at the end no other one can show it: see the test of such a stretch below.
        if (failure.status, start) != (404, 540)
    ],
)
@pytest.mark.parametrize("width", [1, 8, 256])
def test_a_stretch_of_sixty_bad_rows_costs_sixty_errors(lab: Lab, failure: Failure, start: int, width: int) -> None:
    """At the start of the table, in its middle, and at its end, where no row further on can bear witness."""
    rows = prompts(600)
    bad = rows[start : start + 60]
    service = Service(rows, instead=of(bad, failure))
    options: dict[str, Any] = {"endpoints": [Endpoint("m", max_concurrency=width)], "timeout": 10}
    if start == 0:  # or else the first three rows show a wrong request
        lab.run(rows[300:], Service(rows), **options)
    lab.run(rows, service, **options)
    check(lab, rows, bad, str(failure))


@pytest.mark.parametrize("failure", [PAGE, GUARDRAIL, refusal(500), Failure(Fault.STATUS, "no", 400, "content_filter")])
@pytest.mark.parametrize("width", [1, 16])
def test_a_stretch_longer_than_the_window_costs_its_rows_and_no_other(lab: Lab, failure: Failure, width: int) -> None:
    rows = prompts(900)
    bad = rows[200:500]
    lab.run(rows, Service(rows, instead=of(bad, failure)), endpoints=[Endpoint("m", max_concurrency=width)])
    check(lab, rows, bad, str(failure))


@pytest.mark.parametrize("failure", [PAGE, refusal(500), refusal(429)])
def test_a_bad_question_that_many_rows_ask_ends_for_all_of_them(lab: Lab, failure: Failure) -> None:
    rows = ["bad"] * 300 + prompts(300)
    service = Service({"bad", *rows}, instead=of(["bad"], failure))
    lab.run(rows, service, dedup=True, endpoints=[Endpoint("m", max_concurrency=4)])
    check(lab, rows, ["bad"], str(failure))


@pytest.mark.parametrize("width", [1, 4])
def test_an_account_of_ten_keys_that_closes_ends_no_row(lab: Lab, width: int) -> None:
    rows = prompts(1000)
    service = Service(rows, instead=lambda call: refusal(402) if call.at >= 10 else None)
    endpoints = [Endpoint("m", api_key=f"key-{number}", max_concurrency=width) for number in range(10)]
    with pytest.raises(EndpointsLost, match="no row was answered for 30m") as lost:
        lab.run(rows, service, endpoints=endpoints)
    assert lost.value.report.error == 0
    assert lab.seconds < 40 * MINUTE


@pytest.mark.parametrize("failure", [refusal(404), refusal(401), refusal(402)])
def test_a_stretch_at_the_end_whose_refusals_name_key_model_or_money_is_left_to_ask(lab: Lab, failure: Failure) -> None:
    rows = prompts(600)
    with pytest.raises(EndpointsLost, match="no row was answered for 30m") as lost:
        lab.run(rows, Service(rows, instead=of(rows[540:], failure)))
    assert (lost.value.report.ok, lost.value.report.error, lost.value.report.left) == (540, 0, 60)


@pytest.mark.parametrize("count", [2, 3, 12])
@pytest.mark.parametrize("failure", [refusal(500), refusal(503), HUNG, CUT, NO_CHOICES])
@pytest.mark.parametrize("width", [1, 4, 64])
def test_rows_that_a_server_always_fails_on_end_after_their_attempts(
    lab: Lab, failure: Failure, count: int, width: int
) -> None:
    rows = prompts(60)
    bad = rows[5 :: 60 // count][: count - 1] + rows[-1:]
    service = Service(rows, instead=of(bad, failure))
    lab.run(rows, service, endpoints=[Endpoint("m", max_concurrency=width)], timeout=10)
    check(lab, rows, bad, "gave up after 6 attempts")
    assert {service.asked[row] for row in bad} == {6}


# -- An endpoint that refuses every row


@pytest.mark.parametrize(
    "failure",
    [
        refusal(401),
        refusal(403),
        refusal(404),
        refusal(302),
        PAGE,
        Failure(Fault.STATUS, "You exceeded your current quota", 429, "insufficient_quota"),
        Failure(Fault.STATUS, "Organization has been restricted. (request id: 2026x)", 400, "organization_restricted"),
    ],
)
@pytest.mark.parametrize("seconds", [5, 10 * MINUTE])
@pytest.mark.parametrize("width", [1, 64])
def test_a_refusal_that_passes_costs_time_and_no_row(lab: Lab, failure: Failure, seconds: float, width: int) -> None:
    rows = prompts(300)
    service = Service(rows, instead=lambda call: failure if 2.5 <= call.at < 2.5 + seconds else None)
    report = lab.run(rows, service, endpoints=[Endpoint("m", max_concurrency=width)])
    check(lab, rows, [])
    assert report.endpoints[0].out is None
    assert lab.seconds < 300 / width + 2 * seconds + 2 * MINUTE


CLOSED = [
    CLOSED_ACCOUNT,
    Failure(Fault.STATUS, "the shop is closed", 400),
    Failure(Fault.STATUS, "the shop is closed", 422),
    Failure(Fault.STATUS, "No models loaded. Please load a model.", 400, "invalid_request_error"),
    Failure(Fault.STATUS, "API key not valid. Please pass a valid API key.", 400, "400"),
    PAGE,
    refusal(401),
    refusal(403),
]
"""What an account may say that is empty or closed, or whose model is not loaded."""

# The width, the second at which the account closes, and the rows: far more are left then than may be asked in vain.
NIGHTS = [(1, 20, 600), (16, 20, 1200), (256, 5, 3000)]


@pytest.mark.parametrize(
    ("failure", "width", "closes", "count"),
    [*((failure, *night) for failure in CLOSED for night in NIGHTS), (CLOSED_ACCOUNT, 16, 20, NIGHT)],
)
def test_an_account_that_closes_in_the_night_ends_the_run_and_no_row(
    lab: Lab, failure: Failure, width: int, closes: float, count: int
) -> None:
    rows = prompts(count)
    service = Service(rows, instead=lambda call: failure if call.at >= closes else None)
    with pytest.raises(EndpointsLost, match="no row was answered for 3") as lost:
        lab.run(rows, service, endpoints=[Endpoint("m", max_concurrency=width)])
    report = lost.value.report
    assert (report.error, report.invalid) == (0, 0)
    assert report.ok == service.answered.total()
    assert closes + 30 * MINUTE <= lab.seconds < closes + 35 * MINUTE
    refused = [call for call in service.calls if call.at >= closes]
    assert len(refused) <= 2 * width + 60
    assert report.left > 2 * len(refused)
    healed = Service(rows)
    assert lab.run(rows, healed, endpoints=[Endpoint("m", max_concurrency=width)]).ok == len(rows)
    assert healed.answered.total() == len(rows) - report.ok


@pytest.mark.parametrize(
    ("code", "status"),
    [("billing_not_active", 429), ("project_spend_limit_exceeded", 429), ("Arrearage", 400), ("SetLimitExceeded", 429)],
)
def test_an_account_of_which_the_code_says_that_it_is_closed_ends_the_run_at_once(
    lab: Lab, code: str, status: int
) -> None:
    rows = prompts(1000)
    closed = Failure(Fault.STATUS, "no", status, code)
    service = Service(rows, instead=lambda call: closed if call.at >= 5 else None)
    with pytest.raises(EndpointsLost, match=code) as lost:
        lab.run(rows, service, endpoints=[Endpoint("m", max_concurrency=16)])
    assert lab.seconds < 20
    assert lost.value.report.error == 0


def test_a_limit_that_no_wait_heals_ends_the_run_after_six_hours(lab: Lab) -> None:
    rows = prompts(1000)
    service = Service(rows, instead=lambda call: TOO_MANY_TOKENS if call.at >= 5 else None)
    with pytest.raises(EndpointsLost, match="no wait has healed it for 6h") as lost:
        lab.run(rows, service, endpoints=[Endpoint("m", max_concurrency=16)])
    assert 6 * HOUR <= lab.seconds < 6.2 * HOUR
    assert lost.value.report.error == 0
    assert sum(call.at >= 5 for call in service.calls) < 600


def test_the_six_hours_are_the_accounts_whichever_of_its_keys_was_asked(lab: Lab) -> None:
    rows = prompts(1000)
    service = Service(rows, instead=lambda call: TOO_MANY_TOKENS if call.at >= 5 else None)
    keys = [Endpoint("m", api_key=f"key-{number}", account="a", max_concurrency=16) for number in range(10)]
    with pytest.raises(EndpointsLost, match="no wait has healed it for 6h"):
        lab.run(rows, service, endpoints=keys)
    assert 6 * HOUR <= lab.seconds < 6.5 * HOUR


@pytest.mark.parametrize("failure", [PAGE, refusal(404), refusal(500)])
def test_a_stretch_of_many_hundred_bad_rows_costs_its_rows_and_no_other(lab: Lab, failure: Failure) -> None:
    rows = prompts(1600)
    bad = set(rows[100:700])
    lab.run(rows, Service(rows, instead=of(bad, failure)), endpoints=[Endpoint("m", max_concurrency=4)])
    check(lab, rows, bad, str(failure))


def test_an_outage_does_not_read_long_rows_into_the_memory(lab: Lab, tmp_path: Path) -> None:
    rows = prompts(500)
    path = tmp_path / "long.csv"
    path.write_text("question,long\n" + "".join(f"{row},{'x' * 100_000}\n" for row in rows))
    service = Service(rows, instead=lambda call: refusal(500) if 5 <= call.at < HOUR else None)
    peaks: list[int] = []
    moments = {
        2.0: tracemalloc.start,
        10 * MINUTE: lambda: peaks.append(tracemalloc.get_traced_memory()[1]),
        11 * MINUTE: tracemalloc.stop,
    }
    endpoints = [Endpoint("m", max_concurrency=8)]
    report = lab.run(path, service, "{question}", endpoints=endpoints, chunk_size=10, at=moments)
    assert report.ok == 500
    assert peaks[0] < 50_000_000  # the file has 50 MB, and each row is there as a line and as values


@pytest.mark.parametrize(
    ("status", "said"),
    [(400, "No connected db."), (400, "Invalid model name"), (400, "Server is pinned to m2"), (401, "no")],
)
def test_what_ends_a_run_at_its_start_leaves_its_rows_to_ask(lab: Lab, status: int, said: str) -> None:
    rows = prompts(50)
    wrong = Failure(Fault.STATUS, said, status)
    service = Service(rows, instead=lambda _call: wrong)
    with pytest.raises(EndpointsLost, match=said):
        lab.run(rows, service)
    assert len(service.calls) == 2
    mended = Service(rows)
    assert lab.run(rows, mended).ok == 50
    assert mended.answered.total() == 50


# -- A service that is not up yet


@pytest.mark.parametrize("failure", [NOBODY, refusal(503)])
def test_a_service_that_is_not_up_yet_is_waited_for(lab: Lab, failure: Failure) -> None:
    rows = prompts(50)
    service = Service(rows, instead=lambda call: failure if call.at < 5 * MINUTE else None)
    assert lab.run(rows, service).ok == 50
    assert 5 * MINUTE <= lab.seconds < 7 * MINUTE
    assert len(service.calls) < 50 + 40


@pytest.mark.parametrize("wait", [0, 30, 600])
@pytest.mark.parametrize("failure", [NOBODY, refusal(503)])
def test_a_service_that_does_not_come_up_ends_the_run_when_the_wait_is_over(
    lab: Lab, failure: Failure, wait: float
) -> None:
    rows = prompts(50)
    with pytest.raises(EndpointsLost, match="was not up after") as lost:
        lab.run(rows, Service(rows, latency=lambda _call: 0.01, instead=lambda _call: failure), wait=wait)
    assert wait <= lab.seconds <= wait + MINUTE + 5
    assert (lost.value.report.error, lost.value.report.left) == (0, 50)


# -- A resume


@pytest.mark.parametrize("failure", [PAGE, GUARDRAIL, refusal(400), refusal(404), refusal(500)])
def test_a_resume_is_not_stuck_at_a_bad_row_and_needs_no_lone_first_row(lab: Lab, failure: Failure) -> None:
    rows = prompts(300)
    bad = rows[100:102]
    with pytest.raises(Interrupted):
        lab.run(rows, Service(rows), at={1.5: lab.request_stop}, endpoints=[Endpoint("m", max_concurrency=100)])
    service = Service(rows, instead=of(bad, failure))
    lab.run(rows, service, endpoints=[Endpoint("m", max_concurrency=100)])
    check(lab, rows, bad, str(failure))
    before_an_answer = min(service.times()) + 1
    assert sum(at < before_an_answer for at in service.times()) > 1


def test_a_key_that_became_wrong_ends_a_resume_at_once(lab: Lab) -> None:
    rows = prompts(300)
    with pytest.raises(Interrupted):
        lab.run(rows, Service(rows), at={1.5: lab.request_stop}, endpoints=[Endpoint("m", max_concurrency=100)])
    with pytest.raises(EndpointsLost, match="HTTP 401") as lost:
        lab.run(rows, Service(rows, instead=lambda _call: refusal(401)))
    assert lab.seconds < 3
    assert lost.value.report.error == 0


def test_a_fault_at_a_witness_ends_the_run_as_any_other(lab: Lab) -> None:
    rows = prompts(50)
    service = Service(rows[:2], instead=lambda _call: refusal(500))
    with pytest.raises(AssertionError, match="nobody should have asked 'row 2'"):
        lab.run(rows, service, endpoints=[Endpoint("m", max_concurrency=1)])
    assert lab.seconds < HOUR

"""Runs through a service's batch API, in virtual time: whatever the service does, each row gets its own answer."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Call, Service, answer_to, refusal

from batcher.calls.batch_service import BatchLimits
from batcher.endpoint import Endpoint
from batcher.errors import BatchesOut, EndpointsLost, Interrupted, RunStopped, SettingsError
from batcher.records import Completion, Failure
from batcher.server.batch_rules import BatchKnobs, BatchRule, Place, Slip, State
from batcher.server.faults import Fate, Reply

PROMPTS = [f"question {number}" for number in range(20)]
ONCE = Counter(PROMPTS)
HOUR_S = 3600.0
LIMITS = BatchLimits(requests=50_000, bytes=200_000_000)


def service_of(
    *rules: BatchRule,
    instead: Callable[[Call], Completion | Failure | None] = lambda _call: None,
    limits: BatchLimits = LIMITS,
    **knobs: Any,
) -> Service:
    return Service(
        PROMPTS, instead=instead, batch_limits=limits, batch_knobs=BatchKnobs(**{"latency": 600.0} | knobs, rules=rules)
    )


def run(lab: Lab, service: Service, data: Sequence[str] = PROMPTS, **options: Any) -> Any:
    given: dict[str, Any] = {"via": "batch", "chunk_size": 7}
    return lab.run(data, service, **(given | options))


def check(lab: Lab, service: Service, prompts: Sequence[str] = PROMPTS) -> None:
    """Each row has its own answer, and each was billed once."""
    assert [(row["text"], row["infer"], row["infer_status"]) for row in lab.rows()] == [
        (prompt, answer_to(prompt), "ok") for prompt in prompts
    ]
    assert service.billed == Counter(prompts)
    assert not [*lab.directory.glob("*batch_*")]


def states(lab: Lab) -> list[str]:
    return [state for (state,) in lab.query("SELECT state FROM batches ORDER BY id")]


# -- One batch, or several


def test_a_table_goes_through_one_batch_and_each_row_gets_its_own_answer(lab: Lab) -> None:
    service = service_of()
    report = run(lab, service)
    assert (report.status, report.ok, report.requests_now) == ("done", 20, 20)
    check(lab, service)
    assert service.calls == []
    assert (service.queue.books.made, states(lab)) == (1, ["done"])


def test_the_result_is_the_same_as_online(lab: Lab, tmp_path: Path) -> None:
    run(lab, service_of())
    online = Lab(tmp_path / "online")
    online.run(PROMPTS, Service(PROMPTS), chunk_size=7)
    assert lab.files() == online.files()


def test_nothing_is_asked_again_when_all_is_there(lab: Lab) -> None:
    service = service_of()
    run(lab, service)
    before = lab.files()
    report = run(lab, service)
    assert (report.status, report.requests_now, service.queue.books.made) == ("done", 0, 1)
    assert lab.files() == before


@pytest.mark.parametrize(
    "limits",
    [
        BatchLimits(requests=6, bytes=10**6),
        BatchLimits(requests=100, bytes=900),
        BatchLimits(100, 10**6, at_once=2, tokens=80),
    ],
)
def test_files_keep_within_the_limits_of_the_service(lab: Lab, limits: BatchLimits) -> None:
    service = service_of(limits=limits)
    run(lab, service)
    check(lab, service)
    made = lab.query("SELECT requests, bytes, tokens FROM batches")
    assert len(made) > 2
    for requests, size, tokens in made:
        assert requests <= limits.requests
        assert size <= limits.bytes
        assert not limits.tokens or tokens <= limits.tokens


def test_a_row_that_is_too_large_for_any_file_ends_as_error(lab: Lab) -> None:
    prompts = ["short", "long " * 200, "also short"]
    service = Service(prompts, batch_limits=BatchLimits(requests=100, bytes=500))
    report = run(lab, service, prompts)
    assert (report.ok, report.error) == (2, 1)
    assert re.search(
        r"its request has 1,\d{3} bytes, and a line of a batch .* at most 500", lab.rows()[1]["infer_error"]
    )


def test_chunk_files_are_written_while_other_batches_are_out(lab: Lab) -> None:
    service = service_of(BatchRule(takes=10 * HOUR_S, first=3), limits=BatchLimits(requests=7, bytes=10**6))
    seen: list[set[str]] = []
    run(lab, service, at={2 * HOUR_S: lambda: seen.append({*lab.files()})})
    assert seen == [{"0_k.csv", "7_k.csv"}]
    check(lab, service)


# -- What services do with lines


def test_lines_that_are_shuffled_doubled_broken_or_of_others_do_no_harm(lab: Lab) -> None:
    service = service_of(
        BatchRule(lines=Slip.DOUBLE, share=0.3),
        BatchRule(lines=Slip.FOREIGN, share=0.3),
        BatchRule(lines=Slip.BROKEN, share=0.2, last=1),
    )
    report = run(lab, service)
    assert report.ok == 20
    assert [row["infer"] for row in lab.rows()] == [answer_to(prompt) for prompt in PROMPTS]


def test_lines_that_are_missing_are_asked_again(lab: Lab) -> None:
    service = service_of(BatchRule(lines=Slip.DROP, share=0.3, last=1))
    report = run(lab, service)
    assert (report.ok, service.queue.books.made) == (20, 2)
    lost = {prompt for prompt, count in service.asked.items() if count == 2}
    assert 0 < len(lost) < 20


@pytest.mark.parametrize("answered", [0.0, 0.6])
@pytest.mark.parametrize("end", [State.EXPIRED, State.CANCELLED])
def test_what_a_batch_left_undone_goes_into_the_next_one(lab: Lab, end: State, answered: float) -> None:
    service = service_of(BatchRule(end=end, answered=answered, last=1))
    run(lab, service)
    check(lab, service)
    assert service.queue.books.made == 2


def test_a_batch_that_fails_at_work_is_made_again(lab: Lab) -> None:
    service = service_of(BatchRule(end=State.FAILED, answered=0.4, last=1))
    report = run(lab, service)
    assert (report.ok, service.queue.books.made) == (20, 2)
    assert [row["infer"] for row in lab.rows()] == [answer_to(prompt) for prompt in PROMPTS]


def test_a_line_that_is_refused_again_and_again_ends_as_error_while_others_are_answered(lab: Lab) -> None:
    refuse = lambda call: refusal(400) if call.prompt == PROMPTS[3] else None  # noqa: E731
    report = run(lab, service_of(instead=refuse))
    assert (report.ok, report.error) == (19, 1)
    [row] = [row for row in lab.rows() if row["infer_status"] == "error"]
    assert row["text"] == PROMPTS[3]
    assert "gave up after 3 attempts" in row["infer_error"]


def test_a_line_whose_service_fails_ends_as_error_after_max_attempts(lab: Lab) -> None:
    fail = lambda call: refusal(503) if call.prompt == PROMPTS[3] else None  # noqa: E731
    service = service_of(instead=fail)
    report = run(lab, service, max_attempts=4)
    assert (report.ok, report.error, service.asked[PROMPTS[3]]) == (19, 1, 4)


def test_retry_failed_asks_the_failed_rows_alone(lab: Lab) -> None:
    broken = [True]
    service = service_of(instead=lambda call: refusal(400) if broken[0] and call.prompt == PROMPTS[3] else None)
    assert run(lab, service).error == 1
    broken[0] = False
    assert run(lab, service, retry_failed=True).ok == 20
    check(lab, service)


# -- What services do with batches


def test_a_full_queue_is_a_wait(lab: Lab) -> None:
    service = service_of(limits=BatchLimits(requests=6, bytes=10**6), queue_requests=12)
    run(lab, service)
    check(lab, service)
    assert lab.query("SELECT count(*) FROM batches WHERE state = 'dropped'") == [(0,)]
    assert lab.query("SELECT sum(requests) FROM batches") == [(20,)]


def test_a_batch_that_alone_fills_more_than_the_queue_is_halved(lab: Lab) -> None:
    service = service_of(queue_requests=6)
    run(lab, service)
    check(lab, service)
    assert all(lines <= 6 for (lines,) in lab.query("SELECT requests FROM batches"))


def test_a_batch_that_waits_for_the_queue_goes_as_soon_as_another_one_comes_back(lab: Lab) -> None:
    slow = BatchRule(takes=10 * HOUR_S, first=2, last=2)
    service = service_of(slow, limits=BatchLimits(requests=6, bytes=10**6), queue_requests=12)
    seen: list[int] = []
    run(lab, service, at={HOUR_S: lambda: seen.append(sum(service.queue.books.answered_by_prompt.values()))})
    assert seen == [14]
    check(lab, service)


def full(message: str, times: int) -> Service:
    """Return a service that refuses the first batches because its queue is full."""
    return service_of(BatchRule(end=State.FAILED, code="token_limit_exceeded", message=message, last=times))


def test_a_batch_alone_in_a_queue_that_stays_full_is_halved_if_it_may_be_larger_than_the_queue(lab: Lab) -> None:
    service = full("The queue is full.", 3)
    run(lab, service)
    check(lab, service)
    assert lab.query("SELECT requests FROM batches") == [(10,), (10,)]


def test_a_batch_that_others_leave_no_room_is_never_halved(lab: Lab) -> None:
    service = full("Limit: 9,000 enqueued tokens.", 9)
    run(lab, service)
    check(lab, service)
    assert lab.query("SELECT requests FROM batches") == [(20,)]


def test_of_rows_that_never_left_nothing_is_said_to_be_billed(lab: Lab) -> None:
    with pytest.raises(RunStopped) as caught:
        run(lab, service_of(BatchRule(at=Place.UPLOAD, does=Fate.DROP)), wait=2)
    assert "billed" not in str(caught.value)
    assert "not submitted yet" in str(caught.value)


@pytest.mark.parametrize("knobs", [{"file_requests": 6}, {"file_bytes": 1000}])
def test_a_file_that_is_too_large_is_halved(lab: Lab, knobs: dict[str, Any]) -> None:
    service = service_of(**knobs)
    run(lab, service)
    check(lab, service)


def test_a_line_that_alone_is_too_large_ends_its_row(lab: Lab) -> None:
    prompts = [*PROMPTS[:5], "long " * 300]
    service = Service(prompts, batch_limits=LIMITS, batch_knobs=BatchKnobs(file_bytes=1000))
    report = run(lab, service, prompts)
    assert (report.ok, report.error) == (5, 1)
    assert "too large" in lab.rows()[5]["infer_error"]


def test_a_batch_that_is_refused_as_a_whole_ends_the_run_at_once_and_says_why(lab: Lab) -> None:
    error = {
        "error": {"message": "Incorrect API key provided", "code": "invalid_api_key", "type": "invalid_request_error"}
    }
    service = service_of(BatchRule(at=Place.UPLOAD, does=Fate.ERROR, reply=Reply(401, error), last=1))
    with pytest.raises(EndpointsLost, match="key"):
        run(lab, service)
    assert lab.seconds < 60
    run(lab, service)  # the key is right now
    check(lab, service)


def test_every_line_refused_ends_the_run_and_no_row(lab: Lab) -> None:
    broken = [True]
    service = service_of(instead=lambda _call: refusal(404) if broken[0] else None)
    with pytest.raises(EndpointsLost, match="404"):
        run(lab, service)
    assert lab.query("SELECT count(*) FROM results") == [(0,)]
    broken[0] = False
    run(lab, service)
    check(lab, service)


FLAKY = [
    BatchRule(at=place, does=Fate.ERROR, reply=Reply(503, {"error": {"message": "down"}}), last=3)
    for place in (Place.UPLOAD, Place.CREATE, Place.LOOK, Place.CONTENT)
]


@pytest.mark.parametrize("rule", FLAKY, ids=str)
def test_a_service_that_is_down_for_a_while_is_waited_for(lab: Lab, rule: BatchRule) -> None:
    service = service_of(rule)
    run(lab, service)
    check(lab, service)
    assert service.queue.books.made == 1


@pytest.mark.parametrize("place", [Place.UPLOAD, Place.CREATE])
@pytest.mark.parametrize("does", [Fate.CUT, Fate.HANG])
@pytest.mark.parametrize("is_done", [True, False])
def test_a_call_whose_answer_is_lost_makes_no_second_batch(lab: Lab, place: Place, does: Fate, is_done: bool) -> None:
    service = service_of(BatchRule(at=place, does=does, is_done=is_done, last=1))
    run(lab, service)
    check(lab, service)
    assert service.queue.books.made == 1


# -- Stopping and going on


def test_ctrl_c_detaches_and_the_same_command_fetches(lab: Lab) -> None:
    service = service_of()
    with pytest.raises(Interrupted, match=r"1 batch with 20 rows goes on at .*: the same call fetches it"):
        run(lab, service, at={100.0: lab.request_stop})
    assert lab.seconds < 101
    service.pass_by(HOUR_S)
    run(lab, service)
    check(lab, service)
    assert service.queue.books.made == 1


def test_without_waiting_the_run_submits_and_the_same_command_fetches(lab: Lab) -> None:
    service = service_of()
    with pytest.raises(BatchesOut, match=r"1 batch with 20 rows goes on at"):
        run(lab, service, wait="no")
    assert lab.seconds < 60
    with pytest.raises(BatchesOut, match=r"0 of 20 rows are saved"):
        run(lab, service, wait="no")
    service.pass_by(HOUR_S)
    assert run(lab, service, wait="no").status == "done"
    check(lab, service)
    assert service.queue.books.made == 1


def test_a_run_without_via_fetches_what_is_out_and_asks_the_others_online(lab: Lab) -> None:
    service = service_of(BatchRule(end=State.EXPIRED, answered=0.5, last=1))
    with pytest.raises(BatchesOut):
        run(lab, service, PROMPTS[:10], wait="no")
    run(lab, service, via=None)
    check(lab, service)
    assert service.queue.books.made == 1
    assert {call.prompt for call in service.calls} >= {*PROMPTS[10:]}


def test_a_batch_of_another_account_is_said_with_what_to_do(lab: Lab) -> None:
    with pytest.raises(BatchesOut):
        run(lab, service_of(), wait="no")
    with pytest.raises(RunStopped, match=r"is not known at .*key of another account.*forget"):
        run(lab, service_of())
    assert states(lab) == ["sent"]


def test_batches_at_a_source_that_is_not_asked_any_more_are_refused_in_words(lab: Lab) -> None:
    with pytest.raises(BatchesOut):
        run(lab, service_of(), wait="no")
    with pytest.raises(SettingsError, match="1 batch with 20 rows is out at m"):
        run(lab, service_of(), endpoints=[Endpoint("other")], on_change="redo")


MOMENTS = [0.02, 0.08, 0.12, 0.18, 0.25, 1.0, 300.0, 605.0, 660.0]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stop_at_any_moment_makes_no_second_batch(lab: Lab, moment: float) -> None:
    service = service_of()

    def stop_at_once() -> None:
        lab.request_stop()
        lab.request_stop()

    try:
        run(lab, service, at={moment: stop_at_once})
    except Interrupted:
        service.pass_by(HOUR_S)
        run(lab, service)
    check(lab, service)
    assert service.queue.books.made == 1


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_the_disk_held_at_any_moment_is_enough_to_go_on(lab: Lab, tmp_path: Path, moment: float) -> None:
    """As after a kill: the service has gone on, and the directory is as it was at some moment."""
    service = service_of()
    kept = Lab(tmp_path / "kept")

    def die() -> None:
        shutil.copytree(lab.directory, kept.directory)
        lab.request_stop()
        lab.request_stop()

    try:
        run(lab, service, at={moment: die})
    except Interrupted:
        service.pass_by(10.0)
        run(kept, service)
        check(kept, service)
        assert service.queue.books.made == 1

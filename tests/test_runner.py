from __future__ import annotations

import asyncio
import contextlib
import csv
import itertools
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from conftest import Lab
from fake_service import Call, Service, answer_to, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.endpoint import Endpoint
from batcher.engine.stop import Stop
from batcher.errors import (
    ChangedError,
    EndpointsLost,
    InputError,
    Interrupted,
    OutputError,
    RunStopped,
    SettingsError,
)
from batcher.journal.opening import open_journal
from batcher.records import Completion, Failure, Fault
from batcher.settings import ENCODINGS

PROMPTS = [f"question {number}" for number in range(20)]
ONCE = Counter(PROMPTS)


def one(concurrency: int) -> list[Endpoint]:
    return [Endpoint("m", max_concurrency=concurrency)]


def expected(prompts: Sequence[str]) -> list[dict[str, str]]:
    return [{"text": p, "infer": answer_to(p), "infer_status": "ok", "infer_error": ""} for p in prompts]


def refuse(status: int, *prompts: str, times: int = 1000) -> Callable[[Call], Failure | None]:
    """Refuse the first calls about some prompts."""
    return lambda call: refusal(status) if call.prompt in prompts and call.nth <= times else None


def random_latency(seed: int, longest: float = 5.0) -> Callable[[Call], float]:
    draw = random.Random(seed)
    return lambda _call: draw.uniform(0.1, longest)


# -- Rows and chunks


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 19, 20, 21, 500])
def test_every_row_is_there_once_in_order_with_the_answer_to_its_own_prompt(lab: Lab, chunk_size: int) -> None:
    service = Service(PROMPTS, random_latency(chunk_size))
    report = lab.run(PROMPTS, service, chunk_size=chunk_size, endpoints=one(4))
    assert (report.status, report.rows, report.ok, report.requests_now) == ("done", 20, 20, 20)
    assert report.output == lab.path()
    assert lab.rows() == expected(PROMPTS)
    assert service.asked == ONCE
    starts = range(0, 20, chunk_size)
    assert set(lab.files()) == {"all_k.csv", *(f"{start}_k.csv" for start in starts)}
    for start in starts:
        assert lab.rows(start) == expected(PROMPTS[start : start + chunk_size])


def test_a_straggler_holds_up_no_other_chunk(lab: Lab) -> None:
    seen: list[set[str]] = []
    service = Service(PROMPTS, lambda call: 100 if call.prompt == PROMPTS[1] else 1)
    lab.run(PROMPTS, service, at={50: lambda: seen.append(set(lab.files()))}, chunk_size=2, endpoints=one(4))
    assert max(service.times()) < 10
    assert seen == [{f"{start}_k.csv" for start in range(2, 20, 2)}]
    assert lab.rows() == expected(PROMPTS)


def test_the_first_row_goes_alone(lab: Lab) -> None:
    service = Service(PROMPTS, lambda _call: 3)
    lab.run(PROMPTS, service)
    assert [round(at) for at in service.times()] == [0, *[3] * 19]


def test_no_more_rows_are_under_way_than_twice_the_slots_and_a_few_witnesses(lab: Lab) -> None:
    prompts = [f"question {number}" for number in range(300)]
    service = Service(prompts, lambda call: call.nth, refuse(500, *prompts[5:50], times=2))
    rendered, under_way = 0, []

    def prompt(row: dict[str, Any]) -> str:
        nonlocal rendered
        rendered += 1
        under_way.append(rendered - len(prompts) - service.answered.total())
        text: str = row["text"]
        return text

    lab.run(prompts, service, prompt, endpoints=one(5), chunk_size=100)
    assert rendered == 2 * len(prompts)
    assert max(under_way) <= 2 * 5 + 16


def test_equal_prompts_get_an_answer_each(lab: Lab) -> None:
    prompts = ["same", "other", "same", "same"]
    service = Service(prompts)
    lab.run(prompts, service, chunk_size=3)
    assert lab.rows() == expected(prompts)
    assert service.asked == {"same": 3, "other": 1}
    lab.run(["same", *prompts], service, chunk_size=3)
    assert lab.rows() == expected(["same", *prompts])
    assert service.asked == {"same": 4, "other": 1}


def test_an_empty_table_gives_a_header(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("id,text\n")
    report = lab.run(tmp_path / "empty.csv", Service([]), "{text}")
    assert (report.status, report.rows, report.requests_now) == ("done", 0, 0)
    assert lab.files() == {"all_k.csv": b"id,text,infer,infer_status,infer_error\n"}


# -- Failures


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_wrong_key_or_model_costs_two_requests(lab: Lab, status: int) -> None:
    service = Service(PROMPTS, instead=refuse(status, *PROMPTS))
    with pytest.raises(EndpointsLost, match=f"HTTP {status}") as lost:
        lab.run(PROMPTS, service)
    assert [call.prompt for call in service.calls] == PROMPTS[:2]
    assert (lost.value.report.status, lost.value.report.left, lost.value.report.requests_now) == ("stopped", 20, 2)
    assert lab.files() == {}


@pytest.mark.parametrize("bad", ["a", "b", "c"])
def test_a_bad_key_leaves_the_pool_and_its_rows_go_to_the_others(lab: Lab, bad: str) -> None:
    service = Service(PROMPTS, instead=lambda call: refusal(401) if call.endpoint == bad else None)
    report = lab.run(PROMPTS, service, endpoints=[Endpoint(name, max_concurrency=2) for name in "abc"])
    assert lab.rows() == expected(PROMPTS)
    assert len(service.times(bad)) == 2
    assert [each.out is not None for each in report.endpoints] == [name == bad for name in "abc"]
    assert [each.requests_now for each in report.endpoints] == [len(service.times(name)) for name in "abc"]


def test_a_refused_row_ends_as_error_and_stops_no_other(lab: Lab) -> None:
    bad = [PROMPTS[0], PROMPTS[7], PROMPTS[19]]
    service = Service(PROMPTS, instead=refuse(400, *bad))
    report = lab.run(PROMPTS, service, chunk_size=5)
    assert (report.status, report.ok, report.error, report.left) == ("done", 17, 3, 0)
    # It may be the endpoint that refuses them, so they are tried again.
    assert service.asked == ONCE + Counter(dict.fromkeys(bad, 2))
    for row, good in zip(lab.rows(), expected(PROMPTS), strict=True):
        if row["text"] in bad:
            assert (row["infer"], row["infer_status"]) == ("", "error")
            assert "said the service (400)" in row["infer_error"]
        else:
            assert row == good


def test_an_empty_answer_is_invalid_and_not_bought_again(lab: Lab) -> None:
    empty = Completion(None, "content_filter")
    service = Service(PROMPTS, instead=lambda call: empty if call.prompt == PROMPTS[3] else None)
    assert lab.run(PROMPTS, service).invalid == 1
    row = lab.rows()[3]
    assert (row["infer"], row["infer_status"]) == ("", "invalid")
    assert "content_filter" in row["infer_error"]
    assert lab.run(PROMPTS, service).requests_now == 0


def test_a_rate_limit_uses_up_no_attempt_and_silences_its_endpoint_as_long_as_it_asks(lab: Lab) -> None:
    def instead(call: Call) -> Failure | None:
        return refusal(429, retry_after=7) if call.endpoint == "a" and 1 < call.at < 8 else None

    service = Service(PROMPTS, instead=instead)
    endpoints = [Endpoint(name, max_concurrency=1) for name in "ab"]
    report = lab.run(PROMPTS, service, max_attempts=1, endpoints=endpoints)
    assert report.ok == 20
    assert lab.rows() == expected(PROMPTS)
    [refused] = [call.at for call in service.calls if instead(call)]
    asked_again = next(at for at in service.times("a") if at > refused)
    assert asked_again - refused == pytest.approx(1 + 7)
    assert sum(refused + 0.5 < at < refused + 7.5 for at in service.times("b")) == 7


def test_a_service_that_only_refuses_for_a_while_costs_no_row(lab: Lab) -> None:
    service = Service(PROMPTS, instead=lambda call: refusal(429) if 3 < call.at < 600 else None)
    assert lab.run(PROMPTS, service, max_attempts=2, endpoints=one(2)).ok == 20
    assert sum(3 < at < 600 for at in service.times()) < 45


def test_a_failing_row_waits_ever_longer_and_ends_with_its_reason(lab: Lab) -> None:
    bad = PROMPTS[4]
    report = lab.run(PROMPTS, service := Service(PROMPTS, instead=refuse(503, bad)), max_attempts=5)
    times = [call.at for call in service.calls if call.prompt == bad]
    waits = [later - time - 1 for time, later in itertools.pairwise(times)]
    assert len(waits) == 4
    for wait, ceiling in zip(waits, [1, 2, 4, 8], strict=True):
        assert ceiling / 2 <= wait <= ceiling + 1e-6
    assert (report.error, report.ok, report.retries) == (1, 19, 4)
    assert lab.rows()[4]["infer_error"] == f"the server failed: {refusal(503)}; gave up after 5 attempts, 5 s in flight"


def test_a_row_that_waits_to_be_tried_again_holds_no_slot(lab: Lab) -> None:
    service = Service(PROMPTS, lambda _call: 0.1, refuse(503, PROMPTS[1], times=3))
    lab.run(PROMPTS, service, endpoints=one(1))
    assert service.peak == 1
    assert lab.rows() == expected(PROMPTS)
    gaps = [later - time for time, later in itertools.pairwise(service.times()[:15])]
    assert max(gaps) == pytest.approx(0.1)


def test_a_row_is_in_flight_no_longer_than_its_deadline(lab: Lab) -> None:
    slow = PROMPTS[4]
    service = Service(PROMPTS, lambda call: 1000 if call.prompt == slow else 1)
    report = lab.run(PROMPTS, service, timeout=30, deadline=70)
    assert service.asked[slow] == 3
    assert report.error == 1
    assert "70 s in flight" in lab.rows()[4]["infer_error"]
    assert "nothing came within 10 s" in lab.rows()[4]["infer_error"]


@pytest.mark.parametrize("names", ["a", "abc"])
def test_a_service_that_is_down_from_the_start_costs_no_row(lab: Lab, names: str) -> None:
    endpoints = [Endpoint(name) for name in names]
    with pytest.raises(EndpointsLost) as lost:
        lab.run(PROMPTS, down := Service(PROMPTS, instead=refuse(502, *PROMPTS)), max_attempts=3, endpoints=endpoints)
    assert [len(down.times(name)) for name in names] == [3] * len(names)
    assert (lost.value.report.error, lost.value.report.left) == (0, 20)
    service = Service(PROMPTS)
    lab.run(PROMPTS, service, endpoints=endpoints)
    assert service.asked == ONCE
    assert lab.rows() == expected(PROMPTS)


class Speechless(Exception):
    def __str__(self) -> str:
        raise StopIteration


def sink(depth: int) -> int:
    return sink(depth + 1)


class Wordless:
    def __str__(self) -> str:
        raise SystemExit("no words")


# Exceptions of a user's function, and their messages.
ERRORS = [
    (lambda _row: 1 / 0, "ZeroDivisionError: division by zero"),
    (lambda _row: next(iter(())), "StopIteration"),
    (lambda _row: (_ for _ in ()).throw(GeneratorExit), "GeneratorExit"),
    (lambda _row: sys.exit("bye"), "SystemExit: bye"),
    (lambda _row: sink(0), "RecursionError: maximum recursion depth exceeded"),
    (lambda _row: (_ for _ in ()).throw(asyncio.CancelledError), "CancelledError"),
    (lambda _row: (_ for _ in ()).throw(Speechless), "Speechless"),
    (lambda _row: (_ for _ in ()).throw(ValueError("\ud800 long\n" + "x" * 600)), "ValueError: long " + "x" * 490),
    (lambda _row: str(Wordless()), "SystemExit: no words"),
]


def only_at_row_3(fail: Callable[[dict[str, Any]], Any], calls: int = 0) -> Callable[[dict[str, Any]], Any]:
    """Make a prompt function that fails on one row after a number of successful calls there."""
    left = [calls]

    def prompt(row: dict[str, Any]) -> Any:
        if row["text"] == PROMPTS[3]:
            left[0] -= 1
            if left[0] < 0:
                return fail(row)
        return row["text"]

    return prompt


@pytest.mark.parametrize(("fail", "told"), ERRORS)
def test_a_prompt_function_that_fails_ends_the_plan_with_row_and_cause(lab: Lab, fail: Any, told: str) -> None:
    with pytest.raises(InputError) as raised:
        lab.run(PROMPTS, Service([]), only_at_row_3(fail))
    assert str(raised.value).startswith(f"the prompt function failed on the list, row 3 (counted from 0): {told}")
    assert type(raised.value.__cause__).__name__ == told.partition(":")[0]
    assert not lab.directory.exists()


@pytest.mark.parametrize(("fail", "told"), ERRORS)
def test_a_prompt_function_that_fails_later_ends_the_run_with_what_arrived(lab: Lab, fail: Any, told: str) -> None:
    service = Service(PROMPTS)
    with pytest.raises(RunStopped) as raised:
        lab.run(PROMPTS, service, only_at_row_3(fail, calls=1))
    assert f"row 3 (counted from 0): {told}" in str(raised.value)
    assert service.answered.total() == service.asked.total() == lab.query("SELECT count(*) FROM results")[0][0]
    assert lab.run(PROMPTS, service, lambda row: row["text"]).ok == 20
    assert service.asked == ONCE


def test_what_a_prompt_function_returns_may_be_wrong(lab: Lab) -> None:
    with pytest.raises(InputError, match=r"row 3 .*must be a string or a list of messages, not 5"):
        lab.run(PROMPTS, Service([]), only_at_row_3(lambda _row: 5))


@pytest.mark.parametrize("value", [Wordless(), {"a": [Wordless()]}, 10**5000], ids=["own", "nested", "number"])
def test_a_value_that_has_no_text_ends_the_plan_with_its_row(lab: Lab, value: object) -> None:
    frame = pd.DataFrame({"text": [*PROMPTS[:3], value]}, dtype=object)
    with pytest.raises(InputError, match=r"DataFrame, row 3 .*: a value of type \w+ cannot be written as text: \w+:"):
        lab.run(frame, Service([]), "{text}")


# -- Going on


def test_a_finished_run_sends_nothing_and_changes_nothing(lab: Lab) -> None:
    lab.run(PROMPTS, Service(PROMPTS), chunk_size=3)
    before = lab.files()
    report = lab.run(PROMPTS, Service([]), chunk_size=3)
    assert (report.status, report.ok, report.requests_now) == ("done", 20, 0)
    assert lab.files() == before


def test_a_request_stop_lets_come_what_is_in_flight(lab: Lab) -> None:
    service = Service(PROMPTS)
    with pytest.raises(Interrupted) as stopped:
        lab.run(PROMPTS, service, at={2.5: lab.request_stop}, endpoints=one(4), chunk_size=3)
    assert lab.seconds == pytest.approx(3)
    assert (stopped.value.report.ok, stopped.value.report.left) == (9, 11)
    assert service.answered == Counter(PROMPTS[:9])
    assert set(lab.files()) == {"0_k.csv", "3_k.csv", "6_k.csv"}
    lab.run(PROMPTS, service, endpoints=one(4), chunk_size=3)
    assert service.asked == ONCE
    assert lab.rows() == expected(PROMPTS)


def remove(directory: Path) -> None:
    shutil.rmtree(directory)


def move(directory: Path) -> None:
    directory.rename(directory.with_name("moved"))


def replace(directory: Path) -> None:
    move(directory)
    directory.mkdir()


@pytest.mark.parametrize(("happens", "saved"), [(remove, 0), (move, 9), (replace, 9)])
def test_the_report_of_a_run_whose_directory_goes_away_counts_what_is_saved(
    lab: Lab, happens: Callable[[Path], None], saved: int
) -> None:
    service = Service(PROMPTS)
    with pytest.raises(RunStopped, match=f"\n{saved} of 20 rows are saved") as stopped:
        lab.run(PROMPTS, service, at={2.5: lambda: happens(lab.directory)}, endpoints=one(4), chunk_size=3)
    report = stopped.value.report
    assert (report.status, report.ok, report.left, report.output) == ("stopped", saved, 20 - saved, None)
    assert service.answered == Counter(PROMPTS[:9]), "those in flight come to their end, and no other one leaves"
    if saved:
        moved = Lab(lab.directory.with_name("moved"))
        moved.run(PROMPTS, service, chunk_size=3)
        assert moved.rows() == expected(PROMPTS)
        assert service.asked == ONCE


def test_a_run_that_is_refused_leaves_alone_what_the_first_one_is_just_writing(lab: Lab) -> None:
    lab.run(PROMPTS, Service(PROMPTS))
    half = lab.directory / ".0_k.csv.tmp"
    with open_journal(lab.directory / "journal_k.sqlite"):
        half.write_text("half a chunk")
        with pytest.raises(OutputError, match="another run in this process has it"):
            lab.run(PROMPTS, Service([]))
        assert half.read_text() == "half a chunk"
    lab.run(PROMPTS, Service([]))
    assert not half.exists()


@pytest.mark.parametrize(("requests", "ends"), [([2.5], 32.5), ([2.5, 4], 4.0), ([2.5, 2.5001], 2.5001), ([3.5], 33.5)])
def test_what_does_not_come_is_cut_after_30_seconds_or_at_the_second_wish(
    lab: Lab, requests: list[float], ends: float
) -> None:
    service = Service(PROMPTS, lambda call: 100 if call.prompt in PROMPTS[5:8] else 1)
    with pytest.raises(Interrupted) as stopped:
        lab.run(PROMPTS, service, at=dict.fromkeys(requests, lab.request_stop), endpoints=one(4))
    assert ends <= lab.seconds < ends + 0.5
    assert stopped.value.report.ok == service.answered.total()
    cut = service.cut
    assert cut
    service.latency = lambda _call: 1
    lab.run(PROMPTS, service, endpoints=one(4))
    assert service.asked == ONCE + cut
    assert lab.rows() == expected(PROMPTS)


def test_a_cancelled_run_keeps_all_that_arrived(lab: Lab) -> None:
    service = Service(PROMPTS)
    with pytest.raises(asyncio.CancelledError):
        lab.run(PROMPTS, service, at={2.5: lab.cancel}, endpoints=one(4), grace=0)
    assert 2.5 <= lab.seconds < 3
    assert (service.answered.total(), service.cut.total()) == (5, 4)
    cut = Counter(service.cut)
    lab.run(PROMPTS, service, endpoints=one(4))
    assert service.asked == ONCE + cut
    assert lab.rows() == expected(PROMPTS)


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_run_cancelled_twice_keeps_all_that_arrived(lab: Lab, turns: int) -> None:
    """The second time comes some turns of the loop after the first, while the last answers are being saved."""

    def cancel_in(turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(cancel_in, turns - 1)
        else:
            lab.cancel()

    def cancel_twice(call: Call) -> None:
        if call.prompt == PROMPTS[6]:
            cancel_in(1)
            cancel_in(2 + turns)

    service = Service(PROMPTS, instead=cancel_twice)
    with pytest.raises(asyncio.CancelledError):
        lab.run(PROMPTS, service, endpoints=one(4))
    service.instead = lambda _call: None
    cut = Counter(service.cut)
    lab.run(PROMPTS, service, endpoints=one(4))
    assert service.asked == ONCE + cut


def test_a_file_that_is_being_written_when_the_run_is_cancelled_is_finished_and_noted(lab: Lab) -> None:
    def cancel_when_written() -> None:
        if lab.path(0).exists():
            lab.cancel()
        else:
            asyncio.get_running_loop().call_soon(cancel_when_written)

    with pytest.raises(asyncio.CancelledError):
        lab.run(PROMPTS, Service(PROMPTS), at={1: cancel_when_written}, chunk_size=1, endpoints=one(1))
    assert set(lab.files()) == {f"{start}_k.csv" for (start,) in lab.query("SELECT start FROM chunks")}


def test_a_run_that_is_to_stop_before_it_begins_sends_nothing(lab: Lab) -> None:
    lab.request_stop()
    with pytest.raises(Interrupted):
        lab.run(PROMPTS, service := Service(PROMPTS))
    assert not service.calls


def test_a_row_that_waits_does_not_keep_a_run_from_stopping(lab: Lab) -> None:
    service = Service(PROMPTS, instead=refuse(503, PROMPTS[1]))
    with pytest.raises(Interrupted) as stopped:
        lab.run(PROMPTS, service, at={20: lab.request_stop}, max_attempts=50)
    assert lab.seconds < 22
    assert (stopped.value.report.error, stopped.value.report.left) == (0, 1)


@pytest.mark.parametrize("failed", [[2], [19], [0, 7, 8, 19]])
@pytest.mark.parametrize("instead", [refusal(400), Completion("")], ids=["error", "invalid"])
def test_failed_rows_are_sent_again_only_when_asked(lab: Lab, failed: list[int], instead: Completion | Failure) -> None:
    again = [PROMPTS[number] for number in failed]
    lab.run(PROMPTS, Service(PROMPTS, instead=lambda call: instead if call.prompt in again else None), chunk_size=3)
    assert lab.run(PROMPTS, Service([]), chunk_size=3).requests_now == 0
    service = Service(again)
    report = lab.run(PROMPTS, service, chunk_size=3, retry_failed=True)
    assert (report.ok, report.requests_now) == (20, len(again))
    assert lab.rows() == expected(PROMPTS)
    assert lab.rows(18) == expected(PROMPTS[18:])
    assert len(lab.files()) == 7 + 1


def test_a_limit_is_only_a_beginning(lab: Lab) -> None:
    service = Service(PROMPTS)
    for limit in (5, 12, None):
        assert lab.run(PROMPTS, service, limit=limit, chunk_size=4).rows == (limit or 20)
        assert lab.rows() == expected(PROMPTS[:limit])
    assert service.asked == ONCE


def test_another_chunk_size_reuses_every_answer_and_leaves_no_old_chunk(lab: Lab) -> None:
    lab.run(PROMPTS, Service(PROMPTS), chunk_size=3)
    for chunk_size in (7, 1, 500, 3):
        assert lab.run(PROMPTS, Service([]), chunk_size=chunk_size).requests_now == 0
        assert set(lab.files()) == {"all_k.csv", *(f"{start}_k.csv" for start in range(0, 20, chunk_size))}
        assert lab.rows() == expected(PROMPTS)


def test_deleted_files_are_made_anew_at_no_cost(lab: Lab) -> None:
    lab.run(PROMPTS, Service(PROMPTS), chunk_size=3)
    before = lab.files()
    for part in (3, 18, "all"):
        lab.path(part).unlink()
    report = lab.run(PROMPTS, Service([]), chunk_size=3)
    assert report.requests_now == 0
    assert lab.files() == before


def test_a_label_corrected_by_hand_survives(lab: Lab) -> None:
    lab.run(PROMPTS, Service(PROMPTS), chunk_size=3)
    edited = lab.path(6).read_text().replace(answer_to(PROMPTS[7]), "by hand")
    lab.path(6).write_text(edited)
    lab.path().unlink()
    lab.run([*PROMPTS, "one more"], Service(["one more"]), chunk_size=3)
    assert [row["infer"] for row in lab.rows()][6:9] == [answer_to(PROMPTS[6]), "by hand", answer_to(PROMPTS[8])]
    assert lab.path(6).read_text() == edited


def test_an_edited_chunk_that_must_change_keeps_its_corrections(lab: Lab) -> None:
    lab.run(PROMPTS, Service(PROMPTS, instead=refuse(400, PROMPTS[8])), chunk_size=3)
    edited = lab.path(6).read_text().replace(answer_to(PROMPTS[7]), "by hand")
    lab.path(6).write_text(edited)
    lab.run(PROMPTS, Service([PROMPTS[8]]), chunk_size=3, retry_failed=True)
    wanted = expected(PROMPTS)
    wanted[7]["infer"] = "by hand"
    assert lab.rows() == wanted
    assert [name for name in lab.files() if "bak" in name] == []


Lines = list[list[str]]


def rewrite(path: Path, change: Callable[[Lines], object]) -> bytes:
    """Change a file as a spreadsheet does: with other quotes, other line ends and a byte order mark."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    change(lines)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(lines)
    return path.read_bytes()


NUMBERED = [[f"00{n}", prompt] for n, prompt in enumerate(PROMPTS[:9])]


def write_numbered(path: Path, rows: Sequence[Sequence[str]] = NUMBERED) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *rows])
    return path


def as_other_numbers(lines: Lines) -> None:
    for line in lines[1:]:
        line[0] = str(int(line[0]) + 10)


def swap_files(lab: Lab) -> None:
    one, other = lab.path(0).read_bytes(), lab.path(3).read_bytes()
    lab.path(0).write_bytes(other)
    lab.path(3).write_bytes(one)


CHANGES: dict[str, tuple[Callable[[Lab], object], str]] = {
    "other numbers": (
        lambda lab: rewrite(lab.path(3), as_other_numbers),
        "3_k.csv, line 2, column 'id': the file has '13', the input has '003'",
    ),
    "sorted": (
        lambda lab: rewrite(lab.path(3), lambda lines: lines.sort(key=lambda line: line[0] == "003")),
        "3_k.csv, line 2, column 'id': the file has '004', the input has '003'",
    ),
    "pasted over": (
        lambda lab: rewrite(lab.path(6), lambda lines: lines[2].__setitem__(1, "something else")),
        "6_k.csv, line 3, column 'text': the file has 'something else', the input has 'question 7'",
    ),
    "two files swapped": (swap_files, "0_k.csv, line 2, column 'id': the file has '003', the input has '000'"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("is_unfinished", [False, True])
def test_a_chunk_file_with_cells_that_are_not_the_inputs_is_refused(
    lab: Lab, tmp_path: Path, name: str, is_unfinished: bool
) -> None:
    change, said = CHANGES[name]
    table = write_numbered(tmp_path / "table.csv")
    lab.run(table, Service(PROMPTS), "{text}", chunk_size=3)
    change(lab)
    if is_unfinished:
        write_numbered(table, [*NUMBERED, ["009", "more"]])
    files, journal = lab.files(), lab.journal()
    with pytest.raises(OutputError, match=re.escape(said)) as caught:
        lab.run(table, Service([]), "{text}", chunk_size=3)
    assert "move the file away" in str(caught.value)
    assert (lab.files(), lab.journal()) == (files, journal)
    for start in (0, 3, 6):
        lab.path(start).unlink()
    lab.run(table, Service(["more"]), "{text}", chunk_size=3)
    assert [(row["id"], row["infer"]) for row in lab.rows()][:9] == [(n, answer_to(text)) for n, text in NUMBERED]


def test_answers_may_be_corrected_in_a_spreadsheet(lab: Lab, tmp_path: Path) -> None:
    table = write_numbered(tmp_path / "table.csv")
    lab.run(table, Service(PROMPTS), "{text}", chunk_size=3)
    edited = rewrite(lab.path(3), lambda lines: lines[1].__setitem__(2, "by hand"))
    lab.run(table, Service([]), "{text}", chunk_size=3)
    assert [row["infer"] for row in lab.rows()][3] == "by hand"
    assert lab.path(3).read_bytes() == edited


@pytest.mark.parametrize("name", CHANGES)
def test_a_chunk_file_that_is_changed_while_the_run_works_is_not_joined(lab: Lab, tmp_path: Path, name: str) -> None:
    change, said = CHANGES[name]
    table = write_numbered(tmp_path / "table.csv")
    service = Service(PROMPTS, lambda call: 100 if call.prompt == PROMPTS[2] else 1)
    slow: dict[str, Any] = {"endpoints": one(4), "chunk_size": 3, "timeout": 1000}
    if name == "two files swapped":
        service.latency = lambda call: 100 if call.prompt == PROMPTS[8] else 1
    with pytest.raises(RunStopped, match=re.escape(said)):
        lab.run(table, service, "{text}", at={50: lambda: change(lab)}, **slow)
    assert not lab.path().exists()
    lab.path(6 if name == "pasted over" else 3).unlink()
    lab.path(0).unlink()
    assert lab.run(table, service, "{text}", **slow).requests_now == 0
    assert [(row["id"], row["infer"]) for row in lab.rows()] == [(n, answer_to(text)) for n, text in NUMBERED]


def test_a_chunk_file_that_is_removed_while_the_run_works_is_made_anew_by_the_next_run(lab: Lab) -> None:
    service = Service(PROMPTS, lambda call: 100 if call.prompt == PROMPTS[9] else 1)
    with pytest.raises(RunStopped, match=r"3_k\.csv was removed while the run worked: run it again"):
        lab.run(PROMPTS, service, at={50: lambda: lab.path(3).unlink()}, chunk_size=3, endpoints=one(4))
    assert lab.run(PROMPTS, Service([]), chunk_size=3).requests_now == 0
    assert lab.rows() == expected(PROMPTS)


@pytest.mark.parametrize("others", [[], ["-shm"], ["-shm", "lock"]])
def test_a_log_that_is_removed_ends_the_run_and_loses_nothing(lab: Lab, others: list[str]) -> None:
    """A second run that begins meanwhile does not buy anything either."""
    journal = lab.directory / "journal_k.sqlite"
    second = Lab(lab.directory)
    refusals = []

    def remove() -> None:
        for name in ["-wal", *others]:
            path = lab.directory / ".journal_k.lock" if name == "lock" else journal.with_name(journal.name + name)
            path.unlink()
        if "lock" in others:
            try:
                open_journal(journal).close()
            except OutputError as error:
                refusals.append(str(error))

    service = Service(PROMPTS)
    with pytest.raises(RunStopped, match=r"the log .* was removed or replaced while the run worked") as stopped:
        lab.run(PROMPTS, service, at={3.5: remove}, endpoints=one(1))
    assert len(service.calls) <= 5
    assert stopped.value.report.ok == len(service.calls)
    assert len(refusals) == ("lock" in others)
    second.run(PROMPTS, service, endpoints=one(1))
    assert service.asked == ONCE
    assert lab.rows() == expected(PROMPTS)


def test_a_chunk_file_that_loses_a_row_while_the_run_works_is_not_joined(lab: Lab) -> None:
    service = Service(PROMPTS, lambda call: 100 if call.prompt == PROMPTS[9] else 1)
    with pytest.raises(RunStopped, match=r"3_k\.csv was changed while the run worked, and is damaged"):
        lab.run(PROMPTS, service, at={50: lambda: rewrite(lab.path(3), list.pop)}, chunk_size=3, endpoints=one(4))


# -- Changes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": "Really, {text}"}, "the prompt changed"),
        ({"system": "Be brief."}, "the system message changed"),
        ({"param": {"temperature": 0}}, "temperature is new"),
        ({"endpoints": [Endpoint("n")]}, "model was m, is n"),
    ],
)
def test_another_question_is_refused_before_anything_is_sent(lab: Lab, change: dict[str, Any], said: str) -> None:
    lab.run(PROMPTS, Service(PROMPTS), "{text}")
    files, journal = lab.files(), lab.journal()
    with pytest.raises(ChangedError, match=f"20 answered to another question .*{said}"):
        lab.run(PROMPTS, Service([]), **{"prompt": "{text}", **change})
    assert (lab.files(), lab.journal()) == (files, journal)
    assert lab.run(PROMPTS, Service([]), "{text}").ok == 20


@pytest.mark.parametrize(
    ("prompts", "new"),
    [
        ([*PROMPTS, "x", "y"], ["x", "y"]),
        (["x", *PROMPTS], ["x"]),
        ([*PROMPTS[:7], "x", *PROMPTS[7:]], ["x"]),
        (PROMPTS[3:], []),
        (PROMPTS[:5] + PROMPTS[9:], []),
        (PROMPTS[::-1], []),
        ([*PROMPTS[10:], "x", *PROMPTS[:10]], ["x"]),
        (PROMPTS * 2, PROMPTS),
    ],
    ids=["appended", "in front", "between", "first removed", "some removed", "reversed", "moved", "doubled"],
)
def test_only_new_rows_are_sent(lab: Lab, prompts: list[str], new: list[str]) -> None:
    lab.run(PROMPTS, Service(PROMPTS), chunk_size=3)
    service = Service(new)
    lab.run(prompts, service, chunk_size=3)
    assert service.asked == Counter(new)
    assert lab.rows() == expected(prompts)
    assert len(lab.files()) == -(-len(prompts) // 3) + 1


def test_an_edited_row_stops_the_run_and_an_edit_beside_the_prompt_costs_nothing(lab: Lab, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("id,text\n1,a\n2,b\n3,c\n")
    lab.run(table, Service("abc"), "{text}", chunk_size=2)
    table.write_text("id,text\n1,a\n2,b\n3,x\n")
    with pytest.raises(ChangedError, match="2 answered, 0 new, 1 answered to another question"):
        lab.run(table, Service([]), "{text}", chunk_size=2)
    table.write_text("id,text\n1,a\n2,b\n9,c\n")
    assert lab.run(table, Service([]), "{text}", chunk_size=2).requests_now == 0
    assert [(row["id"], row["infer"]) for row in lab.rows()] == [
        (n, answer_to(t)) for n, t in zip("129", "abc", strict=True)
    ]


def write(path: Path, prompts: Sequence[str]) -> None:
    """Write a table that is much larger than what is read at once."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "more"], *([prompt, "x" * 20_000] for prompt in prompts)])


@pytest.mark.parametrize(
    "changed",
    [
        [*PROMPTS[:17], "x", *PROMPTS[18:]],
        [*PROMPTS[:15], "x", *PROMPTS[16:]],
        PROMPTS[:15],
        PROMPTS[:16],
        [*PROMPTS, "x"],
        [*PROMPTS, "x", "y"],
    ],
    ids=["edited", "edited where answered", "cut at a chunk", "cut in a chunk", "grown in a chunk", "grown"],
)
def test_an_input_that_changes_during_the_run_stops_it_and_loses_nothing(
    lab: Lab, tmp_path: Path, changed: list[str]
) -> None:
    table = tmp_path / "table.csv"
    write(table, PROMPTS[14:17])
    service = Service(PROMPTS)
    lab.run(table, service, "{text}", chunk_size=3)
    write(table, PROMPTS)
    with pytest.raises(RunStopped, match="has changed since the run began"):
        lab.run(table, service, "{text}", at={0.5: lambda: write(table, changed)}, chunk_size=3, endpoints=one(1))
    for name in lab.files():
        part = name.partition("_")[0]
        assert all(row["infer"] == answer_to(row["text"]) for row in lab.rows(part))
    write(table, PROMPTS)
    lab.run(table, service, "{text}", chunk_size=3)
    assert service.asked == ONCE
    assert [row["infer"] for row in lab.rows()] == [answer_to(prompt) for prompt in PROMPTS]


BESIDE: dict[str, Callable[[list[list[str]]], object]] = {
    "every id": lambda rows: [row.__setitem__(0, f"x{row[0]}") for row in rows],
    "the last id": lambda rows: rows[-1].__setitem__(0, "x"),
    "an id doubled": lambda rows: rows[7].__setitem__(0, "006"),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("moment", [0.5, 4.5, 8.5])
def test_no_result_is_mixed_of_two_versions_of_the_input(lab: Lab, tmp_path: Path, name: str, moment: float) -> None:
    table, rows = write_numbered(tmp_path / "table.csv"), [list(row) for row in NUMBERED]
    BESIDE[name](rows)
    service = Service(PROMPTS)
    slow: dict[str, Any] = {"endpoints": one(1), "chunk_size": 2}
    with pytest.raises(RunStopped, match=r"has changed since the run began|was changed while the run worked"):
        lab.run(table, service, "{text}", at={moment: lambda: write_numbered(table, rows)}, **slow)
    assert not lab.path().exists()
    lab.run(table, service, "{text}", **slow)
    assert [(row["id"], row["infer"]) for row in lab.rows()] == [(n, answer_to(text)) for n, text in rows]
    assert service.asked == Counter(PROMPTS[:9])


def test_a_dataframe_that_changes_during_the_run_stops_it(lab: Lab) -> None:
    count = 4100  # rows; 4,096 are read at once
    frame = pd.DataFrame({"id": range(count), "text": ["same"] * count})

    def change() -> None:
        frame.loc[count - 1, "id"] = 0

    with pytest.raises(RunStopped, match=rf"row {count - 1} .* has changed since the run began"):
        lab.run(frame, Service(["same"]), "{text}", at={0.5: change})


@pytest.mark.parametrize("connections", [1, 4])
def test_rows_whose_leader_asks_something_else_now_are_not_taken_for_answered(lab: Lab, connections: int) -> None:
    made: Counter[int] = Counter()

    def prompt(row: Mapping[str, Any]) -> str:
        made[row["id"]] += 1
        return "changed" if row["id"] == 1 and made[1] > 1 else str(row["text"])

    frame = pd.DataFrame({"id": range(6), "text": ["a", "b", "c", "d", "b", "b"]})
    with pytest.raises(RunStopped, match=r"row 1 .* has changed since the run began"):
        lab.run(frame, Service(["a", "b", "c", "d"]), prompt, chunk_size=2, dedup=True, endpoints=one(connections))
    assert not lab.path().exists()


@pytest.mark.parametrize("name", ["0_k.csv", "4_k.csv", "all_k.csv", "partial_k.csv"])
def test_a_file_that_the_run_writes_itself_is_no_input_for_it(lab: Lab, name: str) -> None:
    lab.run(PROMPTS, Service(PROMPTS), chunk_size=4)
    (lab.directory / "partial_k.csv").write_bytes(lab.path().read_bytes())
    files = lab.files()
    with pytest.raises(SettingsError, match=f"{name} is a file that the run 'k' writes itself"):
        lab.run(lab.directory / name, Service([]), "{text}")
    assert lab.files() == files


@pytest.mark.parametrize("first", ["a", "b"])
def test_an_ok_answer_is_used_before_an_invalid_one(lab: Lab, first: str) -> None:
    service = Service(["same"], instead=lambda call: Completion(" ") if call.nth == 1 + "ab".index(first) else None)
    lab.run(["same", "same"], service, endpoints=one(1))
    assert sorted(row["infer_status"] for row in lab.rows()) == ["invalid", "ok"]
    lab.run(["same", "other", "same", "same"], Service(["other"]), dedup=True)
    assert [row["infer_status"] for row in lab.rows()] == ["ok"] * 4


@pytest.mark.parametrize("failed", ["a", "b"])
def test_one_row_that_is_left_gets_the_ok_answer(lab: Lab, failed: str) -> None:
    service = Service(["same"], instead=lambda call: Completion(" ") if call.nth == 1 + "ab".index(failed) else None)
    lab.run(["same", "same"], service, endpoints=one(1))
    lab.run(["other"], Service(["other"]), on_change="redo")
    lab.run(["same"], Service([]), on_change="redo")
    assert lab.rows() == expected(["same"])


def test_an_input_that_was_only_touched_or_copied_over_itself_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    table = write_numbered(tmp_path / "table.csv")
    for seconds, change in ((0.5, lambda: os.utime(table, (1, 1))), (4.5, lambda: write_numbered(table))):
        report = lab.run(table, Service(PROMPTS), "{text}", at={seconds: change}, endpoints=one(1), on_change="redo")
        assert report.status == "done"
    assert [(row["id"], row["infer"]) for row in lab.rows()] == [(n, answer_to(text)) for n, text in NUMBERED]


# -- Stop


def test_signals_are_wishes_and_handlers_of_the_users_own_are_left() -> None:
    stop, heard = Stop(), []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))
    try:
        with stop.on_signals():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
        assert (stop.requests, stop.name, heard) == (1, "Ctrl-C", [signal.SIGTERM])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


# -- Everything at once


class Session(NamedTuple):
    """One call of `run` in a scenario: how it is set up, and how it is stopped."""

    chunk_size: int
    endpoints: int
    concurrency: int
    seed: int
    fails: float
    requests: list[float]
    cancelled: float | None

    def service(self, prompts: Sequence[str]) -> Service:
        draw = random.Random(self.seed)
        statuses = [429, 429, 500, 503]

        def instead(call: Call) -> Failure | None:
            return refusal(draw.choice(statuses)) if draw.random() < self.fails else None

        return Service(prompts, random_latency(self.seed, 3), instead)

    def at(self, lab: Lab) -> dict[float, Callable[[], object]]:
        events: dict[float, Callable[[], object]] = dict.fromkeys(self.requests, lab.request_stop)
        return events | ({} if self.cancelled is None else {self.cancelled: lab.cancel})


moments = st.floats(0, 15)
sessions = st.builds(
    Session,
    chunk_size=st.integers(1, 7),
    endpoints=st.integers(1, 3),
    concurrency=st.integers(1, 4),
    seed=st.integers(0, 1000),
    fails=st.sampled_from([0, 0.2, 0.5]),
    requests=st.lists(moments, max_size=2, unique=True),
    cancelled=st.none() | moments,
)
tables = st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=15)


@settings(max_examples=20, deadline=None)
@given(tables, st.lists(sessions, max_size=3))
def test_whatever_happens_every_row_is_answered_once_and_paid_once(prompts: list[str], sessions: list[Session]) -> None:
    """Only calls that were cut while they were in flight are made again."""
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(Path(directory))
        answered: Counter[str] = Counter()
        calls = 0
        last = Session(3, 1, 4, 0, 0, [], None)
        for session in [*sessions, last]:
            service = session.service(prompts)
            endpoints = [
                Endpoint("m", api_key=f"key-{n}", max_concurrency=session.concurrency) for n in range(session.endpoints)
            ]
            try:
                report = lab.run(
                    prompts,
                    service,
                    at=session.at(lab),
                    chunk_size=session.chunk_size,
                    endpoints=endpoints,
                    max_attempts=1000,
                )
                assert report.requests_now == len(service.calls) == sum(each.requests_now for each in report.endpoints)
            except (Interrupted, asyncio.CancelledError):
                pass
            answered += service.answered
            calls += len(service.calls)
        assert answered == Counter(prompts)
        assert lab.rows() == expected(prompts)
        assert set(lab.files()) == {
            "all_k.csv",
            *(f"{start}_k.csv" for start in range(0, len(prompts), last.chunk_size)),
        }
        [(sent, ended)] = lab.query("SELECT count(*), count(ended) FROM requests")
        assert sent >= calls >= ended
        assert lab.query("SELECT count(*) FROM results") == [(len(prompts),)]


def test_a_file_is_known_to_be_ours_before_it_is_there(lab: Lab) -> None:
    known = []

    def look() -> None:
        if lab.path(0).exists():
            known.append(lab.query("SELECT count(*) FROM chunks WHERE start = 0"))
        else:
            asyncio.get_running_loop().call_soon(look)

    lab.run(PROMPTS, Service(PROMPTS), at={1: look}, chunk_size=1, endpoints=one(1))
    assert known == [[(1,)]]


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=9)  # lone surrogates too
AWKWARD = st.sampled_from(["NA", "007", '"', "\r", "\r\n", "\0", "\ud800", "\ufeff", "é😀", "", " "])
CELL = ANY_TEXT | AWKWARD


def bare(text: str) -> str:
    """Return a text as a file may hold it."""
    return re.sub("[\0\ud800-\udfff]", "\ufffd", text)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6), st.sampled_from(ENCODINGS), st.integers(1, 4))
def test_any_text_survives_answer_journal_files_and_resume(
    rows: list[tuple[str, str]], encoding: str, chunk_size: int
) -> None:
    texts = [f"{number}{text}" for number, (text, _) in enumerate(rows)]
    answers = {text: f"!{answer}" for text, (_, answer) in zip(texts, rows, strict=True)}
    service = Service(texts, instead=lambda call: Completion(answers[call.prompt]))
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(Path(directory))
        lab.run(texts, service, encoding=encoding, chunk_size=chunk_size)
        kept = lab.query("SELECT cast(answer AS BLOB) FROM rows JOIN results ON results.id = result ORDER BY position")
        assert [blob.decode("utf-8", "surrogatepass") for (blob,) in kept] == list(answers.values())
        found = [(row["text"], row["infer"]) for row in lab.rows(encoding=encoding)]
        assert found == [(bare(text), bare(answer)) for text, answer in answers.items()]
        assert lab.rows(0, encoding) == lab.rows(encoding=encoding)[:chunk_size]
        before = lab.files()
        service.prompts = set()
        lab.run(texts, service, encoding="utf-8" if encoding != "utf-8" else "utf-8-sig", chunk_size=chunk_size)
        assert all((content + b"___")[:3] == b"\xef\xbb\xbf" for content in lab.files().values()) == (
            encoding == "utf-8"
        )
        lab.path(0).unlink()
        lab.run(texts, service, encoding=encoding, chunk_size=chunk_size)
        assert lab.files() == before


# -- Another question


def test_on_change_redo_asks_the_changed_rows_again_and_no_others(lab: Lab) -> None:
    service = Service(["a", "b", "c", "x"])
    lab.run(["a", "b", "c"], service)
    with pytest.raises(
        ChangedError, match=r'2 answered, 0 new, 1 answered to another question .*\n.*`on_change="redo"` asks 1 again'
    ):
        lab.run(["a", "x", "c"], service)
    assert lab.run(["a", "x", "c"], service, on_change="redo").requests_now == 1
    assert [row["infer"] for row in lab.rows()] == [answer_to(prompt) for prompt in "axc"]
    assert lab.run(["a", "b", "c"], service, on_change="redo").requests_now == 0, "the journal has the old answer"


def test_on_change_reuse_asks_an_edited_row_of_which_nothing_tells_whose_answer_is_its_own(lab: Lab) -> None:
    service = Service(["a", "b", "c", "x", "new"])
    lab.run(["a", "b", "c"], service)
    assert lab.run(["a", "x", "c", "new"], service, on_change="reuse").requests_now == 2
    assert lab.rows() == expected(["a", "x", "c", "new"])


class Table:
    """A table with an id, a text and a note, of which the prompt reads the text; and the answers that it has.

    Attributes:
        service: answers any text; its books are the answers' price.
    """

    def __init__(self, lab: Lab, path: Path) -> None:
        self._lab = lab
        self._path = path
        self.service = Service([])

    def run(self, rows: Sequence[Sequence[str]], prompt: str = "{text}", **options: Any) -> list[str]:
        """Run these rows; return what was sent."""
        before = len(self.service.calls)
        with self._path.open("w", newline="") as file:
            csv.writer(file).writerows([["id", "text", "note"], *rows])
        self.service.prompts |= {prompt.format(text=row[1], note=row[2]) for row in rows}
        self._lab.run(self._path, self.service, prompt, **{"chunk_size": 2, **options})
        return sorted(call.prompt for call in self.service.calls[before:])

    def refused(self, rows: Sequence[Sequence[str]], **options: Any) -> str:
        """Run these rows, and return why nothing was sent."""
        files, calls = self._lab.files(), len(self.service.calls)
        with pytest.raises(ChangedError) as caught:
            self.run(rows, **options)
        assert (self._lab.files(), len(self.service.calls)) == (files, calls)
        return str(caught.value)

    def answers(self) -> dict[str, str]:
        """Return the answer of each id."""
        return {row["id"]: row["infer"].removeprefix("answer to ") for row in self._lab.rows()}


@pytest.fixture
def fruit(lab: Lab, tmp_path: Path) -> Table:
    table = Table(lab, tmp_path / "table.csv")
    table.run(FRUIT)
    return table


FRUIT = [("1", " apple ", "red"), ("2", " bear ", "brown"), ("3", " corn ", "yellow"), ("4", " date ", "brown")]
STRIPPED = [(number, text.strip(), note) for number, text, note in FRUIT]
REUSE_BY_ID = {"on_change": "reuse", "id_column": "id"}


def test_texts_that_were_stripped_get_no_answer_of_the_row_that_stood_there(fruit: Table) -> None:
    said = fruit.refused(STRIPPED[1:])
    assert "0 new, 3 answered to another question (column text changed)" in said
    assert "and so does `reuse`, because a row's position does not show which answer is its own" in said
    assert '`on_change="reuse", id_column=COLUMN` keeps their answers' in said
    assert fruit.run(STRIPPED[1:], on_change="reuse") == ["bear", "corn", "date"]
    assert fruit.answers() == {"2": "bear", "3": "corn", "4": "date"}


@pytest.mark.parametrize("rows", [STRIPPED, STRIPPED[1:], STRIPPED[::-1]], ids=["in place", "moved", "reversed"])
def test_an_edited_row_keeps_its_answer_by_its_id_wherever_it_stands(fruit: Table, rows: list[tuple[str, ...]]) -> None:
    assert fruit.run(rows, **REUSE_BY_ID) == []
    assert fruit.answers() == {number: text for number, text, _ in FRUIT if number in {row[0] for row in rows}}
    assert fruit.run(rows) == [], "and the same again costs nothing"
    assert fruit.run(rows, "{text}?", on_change="reuse") == [], "the row is the same; only the prompt changed"
    assert fruit.answers()["2"] == " bear "


def test_a_new_id_and_an_empty_one_keep_nothing(fruit: Table) -> None:
    rows = [("1", "apple", "red"), ("9", "bear", "brown"), ("", "corn", "yellow"), ("", "date", "brown")]
    assert fruit.run(rows, **REUSE_BY_ID) == ["bear", "corn", "date"]


def test_an_id_that_two_rows_have_is_refused(fruit: Table, lab: Lab) -> None:
    before = lab.journal()
    with pytest.raises(InputError, match=r"rows 1 and 3 of .*table.csv \(counted from 0\) have the same 'note'"):
        fruit.run(FRUIT, on_change="reuse", id_column="note")
    with pytest.raises(InputError, match="id_column: the table has no column 'key'"):
        fruit.run(FRUIT, id_column="key")
    assert lab.journal() == before


def test_a_row_that_takes_the_place_of_another_gets_nothing_of_it(lab: Lab, tmp_path: Path) -> None:
    table = Table(lab, tmp_path / "table.csv")
    table.service.instead = lambda call: refusal(413) if "corn" in call.prompt and call.nth == 1 else None
    table.run(FRUIT)
    rows = [FRUIT[0], FRUIT[2], ("5", "egg", "white")]
    assert "1 new, and 2 answered rows are gone: edited?" in table.refused(rows)
    for options in (REUSE, REUSE_BY_ID):
        assert table.run(rows, **options) == ([] if options is REUSE_BY_ID else ["egg"])
        assert table.answers() == {"1": " apple ", "3": "", "5": "egg"}


def test_a_row_gets_its_own_answer_though_that_stands_behind_the_limit(fruit: Table) -> None:
    rows = [FRUIT[3], FRUIT[0], FRUIT[1], FRUIT[2]]
    assert fruit.run(rows, "{text}!", limit=2, on_change="reuse") == []
    assert fruit.answers() == {"4": " date ", "1": " apple "}


def test_an_answer_from_before_a_limit_is_kept_by_the_columns_that_its_own_question_read(
    fruit: Table, lab: Lab
) -> None:
    """The last run asked another question, and only of the first row."""
    fruit.run(FRUIT, "{text} {note}", on_change="redo")
    fruit.run(FRUIT, "{text}", limit=1, on_change="redo")
    rows = [FRUIT[0], ("2", " bear ", "white"), *FRUIT[2:]]
    assert fruit.run(rows, "{text}!", on_change="reuse") == [" bear !"]
    assert fruit.answers() == {"1": " apple ", "2": " bear !", "3": " corn  yellow", "4": " date  brown"}


def test_of_two_rows_with_one_text_each_keeps_its_own_answer(lab: Lab, tmp_path: Path) -> None:
    table = Table(lab, tmp_path / "table.csv")
    twice = [("1", "apple", "red"), ("2", "apple", "green"), ("3", "apple", "brown")]
    table.service.instead = lambda call: Completion(f"{call.prompt}, asked for the {call.nth}. time")
    table.run(twice, endpoints=one(1))
    before = table.answers()
    assert len(set(before.values())) == 3
    assert table.run([twice[2], twice[0], twice[1]], "{text}?", on_change="reuse") == []
    assert table.answers() == before


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        pytest.param(
            [FRUIT[0], ("2", "berry", "brown"), *FRUIT[2:]],
            "0 new, 1 answered to another question",
            id="where it stood",
        ),
        pytest.param(
            [("0", "egg", "white"), FRUIT[0], ("2", "berry", "brown"), *FRUIT[2:]],
            "1 new, 1 answered to another question (column text changed)",
            id="behind a new row",
        ),
        pytest.param(
            [FRUIT[0], *FRUIT[3:], ("2", "berry", "brown")], "1 answered to another question", id="behind a gap"
        ),
        pytest.param(
            [*FRUIT[2:], ("2", "berry", "brown"), FRUIT[0]],
            "0 new, 1 answered to another question (column text changed)",
            id="in another order",
        ),
        pytest.param(
            [("7", "berry", "blue"), FRUIT[3], FRUIT[2], FRUIT[0]],
            "1 new, and 1 answered row is gone: edited?",
            id="with every cell changed",
        ),
    ],
)
def test_an_edited_row_is_not_bought_unasked_wherever_it_stands(
    fruit: Table, rows: list[tuple[str, ...]], said: str
) -> None:
    assert said in fruit.refused(rows)
    new = sorted({text for _, text, _ in rows} - {text for _, text, _ in FRUIT})
    assert fruit.run(rows, on_change="redo") == new
    assert fruit.answers() == {number: text for number, text, _ in rows}


@pytest.mark.parametrize(
    ("rows", "sent"),
    [
        ([*FRUIT, ("5", "egg", "white")], ["egg"]),
        ([("5", "egg", "white"), *FRUIT], ["egg"]),
        (FRUIT[1:3], []),
        ([*FRUIT[::-1], ("5", "egg", "white")], ["egg"]),
        ([(number, text, "new") for number, text, _ in FRUIT[1:]], []),
    ],
    ids=["appended", "in front", "removed", "sorted and appended", "removed and edited beside the prompt"],
)
def test_to_append_or_to_remove_is_no_question(fruit: Table, rows: list[tuple[str, ...]], sent: list[str]) -> None:
    assert fruit.run(rows) == sent


def test_rows_that_were_still_waiting_are_no_new_ones(lab: Lab, tmp_path: Path) -> None:
    """A run is interrupted, answered rows are removed, and it goes on; or rows failed and are sent again."""
    table = Table(lab, tmp_path / "table.csv")
    table.service.instead = lambda call: refusal(413) if "date" in call.prompt and call.nth == 1 else None
    with pytest.raises(Interrupted):
        table.run(FRUIT, endpoints=one(1), at={1.5: lab.request_stop})
    assert table.run(FRUIT[1:]) == [" corn ", " date "]
    assert table.run(FRUIT[2:], retry_failed=True) == [" date "]


def test_answers_stay_with_their_rows_when_the_prompt_function_changes(lab: Lab) -> None:
    service = Service(["apple", "bear", "corn", "DATE"])
    lab.run(["apple", "bear", "corn"], service, lambda row: row["text"])
    lab.run(["bear", "date", "corn"], service, lambda row: row["text"].upper(), on_change="reuse")
    assert [row["infer"] for row in lab.rows()] == [answer_to(prompt) for prompt in ("bear", "DATE", "corn")]


def test_a_journal_that_does_not_know_what_tells_rows_apart_is_told_how_to_learn_it(lab: Lab) -> None:
    """Earlier versions did not record it: `reuse` would have to ask every row."""
    lab.run(PROMPTS, Service(PROMPTS), "{text}")
    lab.change("UPDATE runs SET question = json_remove(question, '$.table')")
    lab.change("UPDATE rows SET cells = NULL")
    for on_change in ("abort", "reuse"):
        with pytest.raises(ChangedError, match=r"an older batcher wrote this journal\. Run the earlier command once"):
            lab.run(PROMPTS, Service([]), "{text}!", on_change=on_change)
    assert lab.run(PROMPTS, Service([]), "{text}").requests_now == 0
    assert lab.run(PROMPTS, Service([]), "{text}!", on_change="reuse").requests_now == 0
    assert lab.rows() == expected(PROMPTS)


def test_another_model_may_be_asked_again_or_take_over_the_answers(lab: Lab) -> None:
    service = Service(["a", "b"])
    lab.run(["a", "b"], service)
    assert lab.run(["a", "b"], service, on_change="reuse", endpoints=[Endpoint("other")]).requests_now == 0
    assert lab.run(["a", "b"], service, on_change="redo", endpoints=[Endpoint("other")]).requests_now == 2


# -- What a change costs

TEXTS = PROMPTS[:10]
ALL_AGAIN = [f"{text}!" for text in TEXTS]
OTHER = {"prompt": "{text}!"}
EDITED = {"rows": [*TEXTS[:4], "x", *TEXTS[5:]]}
HOTTER = {"param": {"temperature": 1}}
ANOTHER = {"endpoints": [Endpoint("n")]}
REDO, REUSE = {"on_change": "redo"}, {"on_change": "reuse"}


@pytest.mark.parametrize(
    ("change", "sent"),
    [
        pytest.param({"rows": [*TEXTS, "x", "y"]}, ["x", "y"], id="rows at the end"),
        pytest.param({"rows": ["x", *TEXTS]}, ["x"], id="a row in front"),
        pytest.param({"rows": [*TEXTS[:5], "x", *TEXTS[5:]]}, ["x"], id="a row in the middle"),
        pytest.param({"rows": TEXTS[:3] + TEXTS[5:]}, [], id="rows removed"),
        pytest.param({"rows": TEXTS[::-1]}, [], id="another order"),
        pytest.param({"rows": TEXTS * 2}, TEXTS, id="each row twice"),
        pytest.param({"rows": TEXTS * 2, "dedup": True}, [], id="each row twice, sent once"),
        pytest.param(EDITED, None, id="a row edited"),
        pytest.param(EDITED | REDO, ["x"], id="a row edited, redo"),
        pytest.param(EDITED | REUSE, ["x"], id="a row edited, reuse"),
        pytest.param(EDITED | REUSE | {"id_column": "id"}, [], id="a row edited, reuse by its id"),
        pytest.param({"chunk_size": 7}, [], id="chunk size"),
        pytest.param({"endpoints": [Endpoint("m", api_key="another")]}, [], id="API key"),
        pytest.param({"endpoints": [Endpoint("n"), Endpoint("m")]}, [], id="an endpoint more"),
        pytest.param({"endpoints": [Endpoint("m", rpm=6, max_concurrency=1)]}, [], id="limits"),
        pytest.param({"timeout": 1, "deadline": 2, "max_attempts": 1}, [], id="timeouts"),
        pytest.param({"limit": 4}, [], id="a limit"),
        pytest.param({"limit": 4, "rows": TEXTS[::-1]}, [], id="a limit and another order"),
        pytest.param({"name": "other.csv"}, [], id="file name"),
        pytest.param({"answer_column": "label"}, [], id="answer column"),
        pytest.param({"encoding": "utf-8-sig"}, [], id="encoding"),
        pytest.param(OTHER, None, id="prompt"),
        pytest.param(OTHER | REDO, ALL_AGAIN, id="prompt, redo"),
        pytest.param(OTHER | REUSE, [], id="prompt, reuse"),
        pytest.param(HOTTER, None, id="parameter"),
        pytest.param(HOTTER | REDO, TEXTS, id="parameter, redo"),
        pytest.param(HOTTER | REUSE, [], id="parameter, reuse"),
        pytest.param(ANOTHER, None, id="model"),
        pytest.param(ANOTHER | REDO, TEXTS, id="model, redo"),
        pytest.param(ANOTHER | REUSE, [], id="model, reuse"),
    ],
)
def test_what_a_change_costs(lab: Lab, tmp_path: Path, change: dict[str, Any], sent: list[str] | None) -> None:
    service = Service([*TEXTS, *ALL_AGAIN, "x", "y"])

    def run(rows: list[str] = TEXTS, name: str = "table.csv", prompt: str = "{text}", **options: Any) -> list[str]:
        """Run it; return what was sent."""
        before = len(service.calls)
        write_rows(tmp_path / name, rows)
        lab.run(tmp_path / name, service, prompt, **{"chunk_size": 3, **options})
        return sorted(call.prompt for call in service.calls[before:])

    assert run() == TEXTS
    first = lab.files()
    if sent is None:
        with pytest.raises(ChangedError):
            run(**change)
        assert lab.files() == first
    else:
        assert run(**change) == sorted(sent)
        assert run(**change) == [], "and the same again costs nothing"
        rows = change.get("rows", TEXTS)[: change.get("limit")]
        asked = rows if "on_change" not in change or sent else TEXTS
        mark = "!" if sent == ALL_AGAIN else ""
        encoding, column = change.get("encoding", "utf-8"), change.get("answer_column", "infer")
        found = [(row["text"], row[column]) for row in lab.rows(encoding=encoding)]
        assert found == [(text, answer_to(old + mark)) for text, old in zip(rows, asked, strict=True)]
    assert lab.query("SELECT count(*) FROM results") == [(len(service.calls),)], "no answer is ever lost"
    assert run(on_change="redo") == [], "and back again costs nothing"
    assert lab.files() == first


def write_rows(path: Path, texts: Sequence[str]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(texts)])


def test_answers_to_the_old_question_stay_with_their_rows_wherever_those_stand(lab: Lab) -> None:
    service = Service([*"abc", "x!", "y!", "A!", "b!", "c!"])
    lab.run([*"abc"], service, "{text}")
    assert lab.run([*"xabc"], service, "{text}!", on_change="reuse").requests_now == 1
    assert lab.run([*"cybxa"], service, "{text}!").requests_now == 1
    assert [(row["text"], row["infer"]) for row in lab.rows()] == [
        ("c", answer_to("c")),
        ("y", answer_to("y!")),
        ("b", answer_to("b")),
        ("x", answer_to("x!")),
        ("a", answer_to("a")),
    ]
    with pytest.raises(
        ChangedError, match=r"4 answered, 0 new, 1 answered to another question \(column text changed\)"
    ):
        lab.run([*"cybxA"], service, "{text}!")
    assert lab.run([*"cybxA"], service, "{text}!", on_change="redo").requests_now == 3, "redo means those rows, too"
    assert lab.run([*"cybxA"], service, "{text}!").requests_now == 0


# -- Rows that ask the same

SAME = ["a", "b", "a", "a", "c", "b", "a", "c", "a"]


@pytest.mark.parametrize("chunk_size", range(1, len(SAME) + 1))
def test_rows_that_ask_the_same_are_sent_once(lab: Lab, chunk_size: int) -> None:
    service = Service("abc", random_latency(chunk_size))
    report = lab.run(SAME, service, dedup=True, chunk_size=chunk_size)
    assert service.asked == Counter("abc")
    assert (report.requests_now, report.ok) == (3, len(SAME))
    assert lab.rows() == expected(SAME)
    service.prompts = set()
    assert lab.run(SAME, service, chunk_size=chunk_size).requests_now == 0
    assert lab.run(SAME[::-1], service, chunk_size=chunk_size).requests_now == 0, (
        "each row keeps the answer that it had"
    )
    assert lab.rows() == expected(SAME[::-1])


def test_rows_that_ask_the_same_fail_alike_and_are_tried_again_once(lab: Lab) -> None:
    fates: dict[str, Completion | Failure] = {"a": refusal(413), "b": Completion("")}
    service = Service("abc", instead=lambda call: fates.get(call.prompt))
    report = lab.run(SAME, service, dedup=True, chunk_size=2)
    # A new endpoint may be the cause: the first row is asked again when another one has been answered.
    assert (report.requests_now, report.error, report.invalid, report.ok) == (4, 5, 2, 2)
    statuses = {"a": "error", "b": "invalid", "c": "ok"}
    assert [row["infer_status"] for row in lab.rows()] == [statuses[text] for text in SAME]
    service.instead = lambda _call: None
    report = lab.run(SAME, service, dedup=True, retry_failed=True, chunk_size=2)
    assert (report.requests_now, report.ok) == (2, len(SAME))
    assert lab.rows() == expected(SAME)


@pytest.mark.parametrize("limit", range(1, len(SAME)))
def test_a_limit_holds_for_rows_that_ask_the_same(lab: Lab, limit: int) -> None:
    service = Service("abc")
    for end in (limit, None, limit):
        lab.run(SAME, service, dedup=True, limit=end, chunk_size=2)
        assert lab.rows() == expected(SAME[:end])
    assert service.asked == Counter("abc")


def test_rows_that_wait_for_a_slow_one_are_no_more_than_the_window_holds(lab: Lab) -> None:
    prompts = ["first", *["same"] * 2000]
    rendered: list[float] = []

    def prompt(row: dict[str, Any]) -> str:
        rendered.append(asyncio.get_running_loop().time() if threading.current_thread() is main else -1)
        text: str = row["text"]
        return text

    main = threading.current_thread()
    service = Service(prompts, lambda call: 100 if call.prompt == "same" else 1)
    lab.run(prompts, service, prompt, dedup=True, endpoints=one(5), chunk_size=100)
    assert service.asked == {"first": 1, "same": 1}
    assert lab.rows() == expected(prompts)
    # The first one, the one that is asked, those that wait for it, and one for each other worker.
    assert sum(0 <= moment < 100 for moment in rendered) == 1 + 1 + 2 * 5 + (2 * 5 - 1)


@settings(max_examples=20, deadline=None)
@given(tables, st.lists(sessions, max_size=3))
def test_whatever_happens_rows_that_ask_the_same_are_paid_once(prompts: list[str], sessions: list[Session]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(Path(directory))
        answered: Counter[str] = Counter()
        for session in [*sessions, Session(3, 1, 4, 0, 0, [], None)]:
            service = session.service(prompts)
            with contextlib.suppress(Interrupted, asyncio.CancelledError):
                lab.run(
                    prompts,
                    service,
                    at=session.at(lab),
                    chunk_size=session.chunk_size,
                    endpoints=one(session.concurrency),
                    max_attempts=1000,
                    dedup=True,
                )
            answered += service.answered
        assert answered == Counter(set(prompts))
        assert lab.rows() == expected(prompts)
        assert lab.run(prompts[::-1], Service([])).requests_now == 0


def test_a_prompt_without_a_hole_is_remarked_on(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.run(["a", "b"], Service(["same"]), "same", quiet=False, same_prompt=True)
    assert "no {column} hole" in capsys.readouterr().err
    lab.run(["a", "b"], Service(["same", "a", "b"]), "{text}", quiet=False, on_change="redo")
    assert "hole" not in capsys.readouterr().err


def test_a_request_that_is_wrong_for_every_row_ends_the_run_after_three(lab: Lab) -> None:
    prompts = [f"p{n}" for n in range(50)]
    wrong = Service(prompts, instead=lambda _call: refusal(400))
    with pytest.raises(EndpointsLost, match=r"the request was refused: HTTP 400: .* \(3 different rows were told so\)"):
        lab.run(prompts, wrong)
    assert len(wrong.calls) == 3
    right = Service(prompts)
    assert lab.run(prompts, right).ok == 50, "what ended the run left its rows to ask"


def test_rows_that_are_refused_in_words_of_their_own_stop_nothing(lab: Lab) -> None:
    def instead(call: Call) -> Failure | None:
        return Failure(Fault.STATUS, f"too long: {call.prompt}", 400)

    prompts = [f"p{n}" for n in range(20)]
    report = lab.run(prompts, Service(prompts, instead=instead))
    assert (report.error, report.left) == (20, 0)


def test_a_table_of_refused_rows_alone_is_finished(lab: Lab) -> None:
    report = lab.run(["a", "b", "c"], Service("abc", instead=lambda _call: refusal(400)))
    assert (report.error, report.status) == (3, "done")

"""Rows that are asked once more: their results stay, and what came is beside them."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Lab
from fake_service import Call, Service, refusal

import batcher
from batcher.endpoint import Endpoint
from batcher.errors import Interrupted, RunStopped
from batcher.journal.entries import Repeated
from batcher.journal.opening import read_journal
from batcher.records import Completion, Failure, Result, Status, Usage

ROWS = [{"text": f"t{number}"} for number in range(30)]
PROMPT = "{text}"


def said(call: Call) -> Completion | Failure:
    """Answer with how often this was asked; of t7 to t9 nothing ever comes."""
    if call.prompt in {"t7", "t8", "t9"}:
        return refusal(400)
    return Completion(str(call.nth), "stop", Usage(10, 2))


def service() -> Service:
    return Service([row["text"] for row in ROWS], instead=said)


def run(lab: Lab, asked: Service, **options: Any) -> dict[str, bytes]:
    given: dict[str, Any] = {"prompt": PROMPT, "chunk_size": 10, "repeat_sample": 6} | options
    lab.run(ROWS, asked, **given)
    return lab.files()


def again(lab: Lab) -> list[Repeated]:
    with read_journal(lab.directory / "journal_k.sqlite") as journal:
        return journal.repeated(str.strip)


def check(lab: Lab) -> None:
    found = batcher.verify("k", ROWS, output_dir=lab.directory)
    assert found.ok, str(found)


def positions(lab: Lab) -> list[int]:
    return [each.position for each in again(lab)]


def test_drawn_rows_with_an_answer_are_asked_once_more_and_their_results_stay(lab: Lab) -> None:
    asked = service()
    files = run(lab, asked, with_="attempts,tokens")
    answered = {row["text"] for row in ROWS} - {"t7", "t8", "t9"}
    assert {prompt for prompt in answered if asked.asked[prompt] == 2} == {f"t{each}" for each in positions(lab)}
    assert len(positions(lab)) == 6
    assert all(row["infer"] in {"1", ""} and row["infer_attempts"] in {"1", "3"} for row in lab.rows())
    assert {each.result for each in again(lab)} == {Result(Status.OK, "1", "")}
    assert {each.again for each in again(lab)} == {Result(Status.OK, "2", "")}
    check(lab)
    calls = len(asked.calls)
    assert run(lab, asked, with_="attempts,tokens") == files
    assert len(asked.calls) == calls


def test_a_finished_run_may_repeat_rows_later_and_more_of_them_contain_the_earlier_ones(lab: Lab) -> None:
    asked = service()
    files = run(lab, asked, repeat_sample=None)
    sizes = {}
    for size in (4, 9, 5, 30):
        assert run(lab, asked, repeat_sample=size) == files
        sizes[size] = positions(lab)
    assert [len(sizes[size]) for size in (4, 9, 5, 30)] == [4, 9, 9, 27]
    assert {*sizes[4]} < {*sizes[9]} == {*sizes[5]} < {*sizes[30]}
    assert len(asked.calls) == 27 * 2 + 3 * 3
    check(lab)


def test_the_plan_counts_the_rows_that_are_asked_once_more(lab: Lab) -> None:
    options: dict[str, Any] = {"keyword": "k", "output_dir": lab.directory, "endpoints": [Endpoint("m")]}
    forecast = batcher.plan(ROWS, PROMPT, repeat_sample=6, samples=2, **options)
    assert forecast.requests == (30 + 6) * 2
    assert "6 rows drawn at random are asked once more" in forecast.summary
    run(lab, service(), repeat_sample=4)
    assert batcher.plan(ROWS, PROMPT, repeat_sample=6, **options).requests == 2
    assert batcher.plan(ROWS, PROMPT, repeat_sample=4, **options).requests == 0


@pytest.mark.parametrize("samples", [1, 3])
def test_a_stop_while_rows_are_repeated_pays_nothing_twice(lab: Lab, samples: int) -> None:
    repeats: list[Call] = []

    def seconds(call: Call) -> float:
        if call.nth > samples and call.prompt not in {"t7", "t8", "t9"}:
            repeats.append(call)
            if len(repeats) == 3:  # two have been answered
                lab.request_stop()
        return 1.0

    asked = Service([row["text"] for row in ROWS], seconds, said)
    options: dict[str, Any] = {"samples": samples, "endpoints": [Endpoint("m", max_concurrency=2)]}
    with pytest.raises(Interrupted):
        run(lab, asked, grace=0.0, **options)
    assert len(again(lab)) == 2
    assert "all_k.csv" not in lab.files()
    run(lab, asked, **options)
    assert len(positions(lab)) == 6
    assert lab.query("SELECT count(*) FROM opinions WHERE round = 1") == [(6 * samples,)]
    assert 1 <= asked.cut.total() <= 2
    assert len(repeats) == 6 * samples + asked.cut.total()
    check(lab)


def test_several_answers_are_asked_for_as_often_again_and_vote(lab: Lab) -> None:
    said = {"t0": iter(["a", "b", "b", "b", "c", "c"])}
    asked = Service(["t0"], instead=lambda call: Completion(next(said[call.prompt]), "stop", Usage(10, 2)))
    lab.run(ROWS[:1], asked, prompt=PROMPT, samples=3, repeat_sample=1)
    assert again(lab) == [Repeated(0, Result(Status.OK, "b", ""), Result(Status.OK, "c", ""))]


def test_a_row_that_a_person_answered_is_not_asked_once_more(lab: Lab) -> None:
    asked = service()
    run(lab, asked, repeat_sample=None)
    path = lab.path(0)
    path.write_text(path.read_text().replace("t3,1,", "t3,by hand,"))
    run(lab, asked, repeat_sample=30)
    assert asked.asked["t3"] == 1
    assert 3 not in positions(lab)
    check(lab)


def test_a_budget_ends_the_repeats_and_more_money_goes_on(lab: Lab) -> None:
    endpoint = Endpoint("m", prices={"in": 1.0, "out": 1.0})
    options: dict[str, Any] = {"endpoints": [endpoint], "param": {"max_tokens": 2}}
    asked = service()
    run(lab, asked, repeat_sample=None, **options)
    with pytest.raises(RunStopped, match="budget"):
        run(lab, asked, budget=0.00038, **options)
    run(lab, asked, budget=1.0, **options)
    assert len(positions(lab)) == 6
    check(lab)


def test_a_repeat_without_an_answer_is_kept_as_such(lab: Lab) -> None:
    asked = Service(["t0"], instead=lambda call: None if call.nth == 1 else refusal(400))
    lab.run(ROWS[:1], asked, prompt=PROMPT, repeat_sample=1)
    [repeated] = again(lab)
    assert (repeated.result.status, repeated.again.status) == (Status.OK, Status.ERROR)
    calls = len(asked.calls)
    lab.run(ROWS[:1], asked, prompt=PROMPT, repeat_sample=1)
    assert len(asked.calls) == calls


def test_more_answers_to_each_row_keep_the_repeats_that_are_there(lab: Lab) -> None:
    asked = service()
    run(lab, asked)
    before = len(asked.calls)
    run(lab, asked, samples=3)
    assert len(asked.calls) - before == 27 * 2 + 6 * 2
    assert len(positions(lab)) == 6
    assert lab.query("SELECT count(*) FROM opinions WHERE round = 1") == [(6 * 3,)]
    check(lab)


def test_equal_rows_that_move_take_the_repeats_with_them(lab: Lab) -> None:
    rows = [{"text": text} for text in ("t0", "t0", "t1", "t1")]
    asked = service()
    for table, calls in ((rows, 8), (rows[::-1], 8), (rows, 8)):
        lab.run(table, asked, prompt=PROMPT, repeat_sample=4, with_="attempts")
        assert len(asked.calls) == calls
        assert len(again(lab)) == 4 or table != rows
        assert [row["infer_attempts"] for row in lab.rows()] == ["1"] * 4
        found = batcher.verify("k", table, output_dir=lab.directory)
        assert found.ok, str(found)


def test_repeats_of_a_model_that_left_the_pool_do_not_count(lab: Lab) -> None:
    asked = service()
    run(lab, asked)
    before = len(asked.calls)
    run(lab, asked, endpoints=[Endpoint("other")], on_change="redo")
    assert len(asked.calls) - before >= 27 + 6
    assert len(positions(lab)) == 6
    check(lab)

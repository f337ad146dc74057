"""The canary: a few rows first, the latest answers all along, and a run that stops before the money is gone."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Lab
from fake_service import Call, Service
from test_structured import answering, look

import batcher
from batcher.engine.canary import WINDOW
from batcher.errors import AnswersUnfit
from batcher.input.selection import draw
from batcher.records import Completion, Failure, Fault, Usage

TEXTS = [f"row {number}" for number in range(300)]
OPTIONS: dict[str, Any] = {"labels": ["card arrival", "lost"], "structured": "prompt", "canary": 20}


def position(call: Call) -> int:
    return int(call.prompt.splitlines()[0].removeprefix("row "))


def test_the_first_rows_are_drawn_from_the_whole_table_and_kept(lab: Lab) -> None:
    service = answering(lambda call: "lost" if position(call) % 2 else "card arrival")
    report = lab.run(TEXTS, service, "{text}", **OPTIONS)
    assert sorted(map(position, service.calls[:20])) == [*draw("k", 20, len(TEXTS))]
    assert (report.ok, report.requests) == (len(TEXTS), len(TEXTS))
    assert [row["text"] for row in lab.rows()] == TEXTS
    assert all(row["infer"] == ("lost" if number % 2 else "card arrival") for number, row in enumerate(lab.rows()))
    assert batcher.verify("k", TEXTS, output_dir=lab.directory).ok


@pytest.mark.parametrize("bad", [5, 6])
def test_more_than_a_quarter_of_unusable_answers_stops_the_run_and_says_what_to_do(lab: Lab, bad: int) -> None:
    wrong = set([*draw("k", 20, len(TEXTS))][:bad])
    service = answering(lambda call: "Card arrived!!" if position(call) in wrong else "lost")
    if bad == 5:
        assert lab.run(TEXTS, service, "{text}", **OPTIONS).invalid == 5
        return
    with pytest.raises(AnswersUnfit) as stopped:
        lab.run(TEXTS, service, "{text}", **OPTIONS)
    said = str(stopped.value)
    assert "6 of the first 20 rows, drawn at random, brought no usable answer; more than 25% stop the run:" in said
    assert said.count("(counted from 0): 'Card arrived!!'") == 3
    assert "'Card arrived!!' came 6 times: an alias of 'card arrival'?" in said
    assert "canary=0" in said
    assert "20 of 300 rows are saved" in said
    assert len(service.calls) == 20
    assert stopped.value.report.requests == 20
    # The rows are kept: the same call stops at once and asks nothing, and without the canary the rest is asked.
    with pytest.raises(AnswersUnfit):
        lab.run(TEXTS, Service([]), "{text}", **OPTIONS)
    report = lab.run(TEXTS, answering(lambda _: "lost"), "{text}", **(OPTIONS | {"canary": 0}))
    assert (report.ok, report.invalid, report.requests) == (294, 6, 300)


def test_an_alias_mends_what_the_canary_found_for_nothing(lab: Lab) -> None:
    service = answering(lambda _: "card arrived")
    with pytest.raises(AnswersUnfit):
        lab.run(TEXTS, service, "{text}", **OPTIONS)
    labels = {"labels": OPTIONS["labels"], "aliases": {"card arrived": "card arrival"}}
    report = lab.run(TEXTS, service, "{text}", **(OPTIONS | {"labels": labels, "on_change": "reuse"}))
    assert (report.ok, report.requests) == (300, 300)


@pytest.mark.parametrize(
    ("came", "said"),
    [
        (Completion("", "stop", Usage(10, 0)), "the answer is empty"),
        (Completion("card arriv", "length", Usage(10, 3)), "Answers were cut off: allow more tokens (param={"),
        (Completion(None, "stop", Usage(10, 0), refusal="I will not"), "Refusals: does the prompt ask"),
        (Failure(Fault.STATUS, "too long", 413), "HTTP 413"),
    ],
)
def test_each_kind_of_unusable_answer_has_its_advice(lab: Lab, came: Completion | Failure, said: str) -> None:
    service = answering(lambda _: "")
    known = {*draw("k", 20, len(TEXTS))}
    service.instead = lambda call: came if position(call) in known and position(call) % 3 else Completion("lost")
    with pytest.raises(AnswersUnfit) as stopped:
        lab.run(TEXTS, service, "{text}", **OPTIONS)
    assert said in str(stopped.value)


def test_a_run_without_labels_is_looked_at_too(lab: Lab) -> None:
    service = answering(lambda _: " ")
    with pytest.raises(AnswersUnfit, match="brought no usable answer"):
        lab.run(TEXTS, service, "{text}", canary=20)
    assert len(service.calls) == 20


def test_a_few_slow_rows_are_not_waited_for(lab: Lab) -> None:
    slow = {*[*draw("k", 20, len(TEXTS))][-2:]}
    service = answering(lambda _: "lost")
    service.latency = lambda call: 100.0 if position(call) in slow else 1.0
    report = lab.run(TEXTS, service, "{text}", **OPTIONS)
    assert (report.ok, report.requests) == (300, 300)
    assert lab.seconds < 110
    assert sum(call.at < 50 for call in service.calls) == 300


def test_a_short_table_is_asked_as_it_is(lab: Lab) -> None:
    service = answering(lambda _: "?")
    assert lab.run(TEXTS[:20], service, "{text}", **OPTIONS).invalid == 20


def test_the_gates_go_on_while_the_run_works(lab: Lab) -> None:
    texts = [f"row {number}" for number in range(4 * WINDOW)]
    service = answering(lambda call: "lost" if position(call) < WINDOW else "card")
    service.instead = lambda call: Completion(
        "lost" if len(service.calls) < WINDOW or position(call) % 20 else "?", "stop", Usage(1, 1)
    )
    assert lab.run(texts, service, "{text}", **OPTIONS).ok > 0
    service = answering(lambda _: "?")
    service.instead = lambda _: Completion("lost" if len(service.calls) <= 600 else "?", "stop", Usage(1, 1))
    with pytest.raises(AnswersUnfit, match=f"of the latest {WINDOW} answers brought no usable answer"):
        lab.run([f"{text} " for text in texts], service, "{text}", keyword="other", **OPTIONS)
    assert 700 < len(service.calls) < 1300


def test_a_long_stretch_of_refused_rows_ends_no_run(lab: Lab) -> None:
    texts = [f"row {number}" for number in range(3 * WINDOW)]
    service = answering(lambda _: "lost")
    service.instead = lambda call: (
        Failure(Fault.STATUS, "too long", 413)
        if WINDOW <= position(call) < 1.8 * WINDOW and len(service.calls) > 20
        else Completion("lost")
    )
    report = lab.run(texts, service, "{text}", **OPTIONS)
    assert report.error >= 0.75 * WINDOW


def test_a_good_beginning_is_said_in_one_line_with_what_comes(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    endpoints = [batcher.Endpoint("m", base_url="http://127.0.0.1:9/v1", prices={"in": 1.0, "out": 1.0})]
    options = OPTIONS | {"quiet": False, "no_progress": True, "endpoints": endpoints}
    lab.run(TEXTS, answering(lambda call: "lost" if position(call) % 2 else "card arrival"), "{text}", **options)
    said = capsys.readouterr().err
    assert "The first 20 rows, drawn at random: " in said
    assert "All 300 will cost about $0.0045 and be done by " in said
    lab.run(TEXTS, answering(lambda _: "lost"), "{text}", keyword="one", **options)
    assert "Note: the answer to each of them is 'lost'." in capsys.readouterr().err


def test_the_journal_says_why_the_run_stopped(lab: Lab) -> None:
    with pytest.raises(AnswersUnfit):
        lab.run(TEXTS, answering(lambda _: "?"), "{text}", **OPTIONS)
    [(outcome,)] = look(lab.directory, "SELECT outcome FROM runs")
    assert outcome.startswith("20 of the first 20 rows, drawn at random, brought no usable answer")

"""The canary: a few rows first, the latest answers all along, and a run that stops before the money is gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import pty
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Call
from programs import environment, local_server, write_table
from test_structured import answering, look
from virtual_time import run_virtually

import batcher
from batcher.engine.canary import WINDOW, fewest_bad, is_confirmed
from batcher.engine.progress import Progress, Tally
from batcher.errors import AnswersUnfit, Interrupted
from batcher.input.selection import draw
from batcher.records import Completion, Failure, Fault, Usage

TEXTS = [f"row {number}" for number in range(300)]
OPTIONS: dict[str, Any] = {"labels": ["card arrival", "lost"], "structured": "prompt", "canary": 20}
SCHEMA = json.dumps({"type": "object", "properties": {"reason": {"type": "string"}}, "required": ["reason"]})


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


@pytest.mark.parametrize("bad", [8, 9])
def test_clearly_more_than_a_quarter_of_unusable_answers_stops_the_run_and_says_what_to_do(lab: Lab, bad: int) -> None:
    wrong = set([*draw("k", 20, len(TEXTS))][:bad])
    service = answering(lambda call: "Card arrived!!" if position(call) in wrong else "lost")
    if bad == 8:
        assert lab.run(TEXTS, service, "{text}", **OPTIONS).invalid == 8
        return
    with pytest.raises(AnswersUnfit) as stopped:
        lab.run(TEXTS, service, "{text}", **OPTIONS)
    said = str(stopped.value)
    assert "9 of the first 20 rows, drawn at random, brought no usable answer; 9 or more of 20 stop the run:" in said
    assert said.count("(counted from 0): 'Card arrived!!'") == 3
    assert "'Card arrived!!' came 9 times: an alias of 'card arrival'?" in said
    assert "or run it again: the same call goes on all the same" in said
    assert "canary=0" in said
    assert "20 of 300 rows are saved" in said
    assert len(service.calls) == 20
    assert stopped.value.report.requests == 20
    # The rows are kept, and the same call asks the rest, also if it is stopped in between.
    slow = answering(lambda _: "lost")
    slow.latency = lambda call: 1.0 if position(call) == 0 else 50.0
    with pytest.raises(Interrupted):
        lab.run(TEXTS, slow, "{text}", {5.0: lab.request_stop}, **(OPTIONS | {"grace": 1}))
    report = lab.run(TEXTS, answering(lambda _: "lost"), "{text}", **OPTIONS)
    assert (report.ok, report.invalid, report.left) == (291, 9, 0)


def test_another_prompt_is_looked_at_anew_after_a_stop(lab: Lab) -> None:
    service = answering(lambda _: "?")
    for prompt in ("{text}", "{text}\n"):
        with pytest.raises(AnswersUnfit, match="of the first 20 rows"):
            lab.run(TEXTS, service, prompt, on_change="redo", **OPTIONS)
    assert len(service.calls) == 40


def test_the_window_stays_on_and_counts_anew_when_the_same_call_goes_on(lab: Lab) -> None:
    texts = [f"row {number}" for number in range(5 * WINDOW)]
    service = answering(lambda _: "?")
    with pytest.raises(AnswersUnfit, match="of the first 20 rows"):
        lab.run(texts, service, "{text}", **OPTIONS)
    for times in (1, 2):
        with pytest.raises(AnswersUnfit, match=f"of the latest {WINDOW} answers"):
            lab.run(texts, service, "{text}", **OPTIONS)
        assert 20 + times * WINDOW <= len(service.calls) < 20 + times * 1.9 * WINDOW  # with those in flight


def test_rows_that_failed_before_stop_no_run(lab: Lab) -> None:
    texts = [f"row {number}" for number in range(5 * WINDOW)]
    service = answering(lambda call: "?" if position(call) % 5 == 0 else "lost")
    assert lab.run(texts, service, "{text}", **OPTIONS).invalid == WINDOW
    report = lab.run(texts, service, "{text}", retry_failed=True, **OPTIONS)
    assert (report.invalid, report.requests) == (WINDOW, 6 * WINDOW)


def test_the_first_rows_stop_a_run_from_where_chance_cannot_explain_them() -> None:
    def chance(bad: int, rows: int) -> Fraction:
        """Return how likely so many or more are if the share is a quarter."""
        return sum((Fraction(math.comb(rows, n) * 3 ** (rows - n), 4**rows) for n in range(bad, rows + 1)), Fraction())

    for rows in (3, 10, 20, 50, 100, 500):
        fewest = fewest_bad(rows)
        assert chance(fewest, rows) < Fraction(1, 20) <= chance(fewest - 1, rows)
    assert [fewest_bad(rows) for rows in (0, 1, 2, 3, 20, 500)] == [1, 2, 3, 3, 9, 142]
    assert 0.25 * 5000 < fewest_bad(5000) < 0.27 * 5000


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


def test_with_dedup_the_first_questions_are_looked_at(lab: Lab) -> None:
    texts = [f"row {number // 3}" for number in range(len(TEXTS))]
    service = answering(lambda _: "?")
    with pytest.raises(AnswersUnfit, match="drawn at random, brought no usable answer"):
        lab.run(texts, service, "{text}", dedup=True, **OPTIONS)
    assert len(service.calls) == len({number // 3 for number in draw("k", 20, len(texts))})
    report = lab.run(texts, answering(lambda _: "lost"), "{text}", keyword="good", dedup=True, **OPTIONS)
    assert (report.ok, report.requests) == (300, 100)


def test_a_fault_among_the_first_rows_lets_no_other_row_be_asked(lab: Lab) -> None:
    def fail(_: Call) -> Completion:
        raise ZeroDivisionError

    service = answering(lambda _: "lost")
    service.instead = fail
    with pytest.raises(ZeroDivisionError):
        lab.run(TEXTS, service, "{text}", **OPTIONS)
    assert len(service.calls) <= 20


def test_a_question_at_the_terminal_keeps_no_run_from_being_stopped(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ["text"], [[text] for text in TEXTS[:60]])
    ours, theirs = pty.openpty()
    with local_server(cwd=tmp_path) as server:
        options = ["--prompt", "{text}", "--schema", SCHEMA, "--structured", "prompt", "--param", "max_tokens=1"]
        command = ["run", "t.csv", *options, "--base-url", server.base_url, "--model", "m", "--keyword", "k"]
        with subprocess.Popen(
            [sys.executable, "-m", "batcher", *command],
            cwd=tmp_path,
            env=environment(TERM="xterm"),
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            start_new_session=True,
        ) as program:
            os.close(theirs)
            shown = b""
            while b"Go on all the same? [y/N] " not in shown:
                shown += os.read(ours, 4096)
            program.send_signal(signal.SIGTERM)
            with contextlib.suppress(OSError):  # Linux's way to say that the other side is closed
                while os.read(ours, 4096):
                    pass
    os.close(ours)
    [(outcome,)] = look(tmp_path / "output", "SELECT outcome FROM runs")
    assert outcome == "stopped by SIGTERM"


@pytest.mark.parametrize(("typed", "goes_on"), [(b"y\n", True), (b" YES \n", True), (b"\n", False), (b"\x04", False)])
def test_a_person_at_the_terminal_decides_whether_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, typed: bytes, goes_on: bool
) -> None:
    ours, theirs = pty.openpty()
    with open(theirs, closefd=True) as terminal:  # noqa: PTH123 - it has no path
        monkeypatch.setattr(sys, "stdin", terminal)

        async def work() -> None:
            over = asyncio.Event()
            asking = asyncio.ensure_future(is_confirmed("Go on?", over))
            os.write(ours, typed)
            assert await asking is goes_on
            asking = asyncio.ensure_future(is_confirmed("Go on?", over))
            over.set()
            assert await asking is False

        asyncio.run(work())
    os.close(ours)


def test_nothing_is_drawn_while_a_person_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    async def work() -> None:
        progress = Progress("k", log_json=True)
        async with progress.showing(Tally(rows=1), lambda: None):
            await asyncio.sleep(1)
            with progress.standing_still():
                capsys.readouterr()
                await asyncio.sleep(100)
                progress.say("still here")
                assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == ["still here"]
            await asyncio.sleep(100)
            assert len(capsys.readouterr().err.splitlines()) >= 3

    run_virtually(work())


PRICED = [batcher.Endpoint("m", base_url="http://127.0.0.1:9/v1", prices={"in": 1.0, "out": 1.0})]


@pytest.mark.parametrize(("of_20", "is_said"), [(5, False), (6, True)])
def test_answers_without_labels_that_are_cut_off_are_remarked_on(
    lab: Lab, capsys: pytest.CaptureFixture[str], of_20: int, is_said: bool
) -> None:
    cut = {*[*draw("k", 20, len(TEXTS))][:of_20]}
    service = answering(lambda _: "")
    service.instead = lambda call: Completion("It is", "length" if position(call) in cut else "stop", Usage(10, 2))
    assert lab.run(TEXTS, service, "{text}", canary=20, quiet=False, no_progress=True).ok == 300
    said = capsys.readouterr().err
    assert ("Note: 6 of 20 answers were cut off at the most tokens that they may have; param={" in said) is is_said
    assert ("cut off" in said) is is_said


@pytest.mark.parametrize(("tokens", "is_said"), [(10, False), (400, True)])
def test_a_cost_of_more_than_twice_the_plan_s_is_remarked_on(
    lab: Lab, capsys: pytest.CaptureFixture[str], tokens: int, is_said: bool
) -> None:
    service = answering(lambda _: "")
    service.instead = lambda call: Completion(["lost", "card arrival"][position(call) % 2], "stop", Usage(40, tokens))
    options = OPTIONS | {"endpoints": PRICED, "quiet": False, "no_progress": True}
    assert lab.run(TEXTS, service, "{text}", **options).ok == 300
    said = capsys.readouterr().err
    assert ("Note: a request costs about $0.00044, more than twice the $0.0000" in said) is is_said
    assert ("more than twice" in said) is is_said

"""The completions of texts: asked at their own place, and read like the answers of chats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from canned_server import events
from conftest import Lab
from fake_service import Service

import batcher
from batcher.calls.dialect import answer_in
from batcher.endpoint import Endpoint
from batcher.errors import SettingsError
from batcher.records import Completion, Usage
from batcher.server.serve import embedded
from batcher.server.simulated import Knobs


def choice(text: str, reason: str | None = "stop", index: int = 0) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason}


def body(*choices: dict[str, Any]) -> dict[str, Any]:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"id": "cmpl-1", "object": "text_completion", "model": "m", "choices": [*choices], "usage": usage}


def test_the_completion_of_a_text_is_read_with_its_reason_and_usage() -> None:
    answer = answer_in(200, {}, json.dumps(body(choice(" world", "length"))).encode())
    assert answer == Completion(" world", "length", Usage(3, 2))


def test_several_completions_are_a_list_in_their_order() -> None:
    came = body(choice("b", index=1), choice("a"))
    answer = answer_in(200, {}, json.dumps(came).encode(), wants_all=True)
    assert isinstance(answer, Completion)
    assert answer.text == '["a", "b"]'


def test_a_streamed_completion_is_the_one_that_it_would_have_been_in_one_piece() -> None:
    pieces = [body(choice(" wor", None)), body(choice("ld", None)), body(choice("", "length"))]
    assert answer_in(200, {}, events(*pieces)) == Completion(" world", "length", Usage(3, 2))


def test_a_table_is_asked_for_completions_at_their_own_place_and_resumes(tmp_path: Path) -> None:
    df = pd.DataFrame({"city": ["Bonn", "Ulm", "Jena"]})
    with embedded(Knobs()) as server:
        options: dict[str, Any] = {"keyword": "c", "output_dir": tmp_path, "task": "completion", "quiet": True}
        options |= {"model": "sim", "base_url": server.base_url, "param": {"max_tokens": 50}}
        report = batcher.run(df, "The river of {city} is the", limit=2, **options)
        assert (report.ok, dict(server.books.by_route)) == (2, {"completions": 2})
        report = batcher.run(df, "The river of {city} is the", **options)
        assert (report.ok, report.requests_now) == (3, 1)
        prompts = [f"The river of {city} is the" for city in df["city"]]
        assert {*server.books.answered_by_prompt} == {*prompts}
    verified = batcher.verify("c", df, output_dir=tmp_path)
    assert verified.ok, str(verified)
    assert report.answers.map(bool).all()
    assert report.cut == 0


def test_completions_are_streamed_if_that_is_wanted(tmp_path: Path) -> None:
    options: dict[str, Any] = {"keyword": "s", "output_dir": tmp_path, "task": "completion", "quiet": True}
    report = batcher.run(["Say it"], provider="offline", stream=True, param={"max_tokens": 50}, **options)
    whole = batcher.run(["Say it"], provider="offline", param={"max_tokens": 50}, **{**options, "keyword": "w"})
    assert (report.ok, [*report.answers]) == (1, [*whole.answers])


def test_an_answer_that_the_service_cut_at_its_own_length_is_counted_and_said_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"keyword": "c", "output_dir": tmp_path, "task": "completion", "no_progress": True}
    report = batcher.run(["Say a long sentence about it"], provider="offline", **options, param={"max_tokens": 1})
    assert report.cut == 1
    assert "16 tokens" not in capsys.readouterr().err
    planned = batcher.plan(["Say it"], provider="offline", **{**options, "keyword": "d"})
    assert "OpenAI's cuts it after 16 tokens" in planned.summary


def test_a_completion_is_another_question_than_a_chat_with_the_same_words(lab: Lab) -> None:
    lab.run(["a"], Service(["a"]))
    with pytest.raises(batcher.BatcherError, match="the task was chat, is completion"):
        lab.run(["a"], Service(["a"]), task="completion")
    report = lab.run(["a"], Service(["a"]), task="completion", on_change="redo")
    assert report.ok == 1
    assert batcher.verify("k", ["a"], output_dir=lab.directory).ok


def test_labels_of_completions_are_asked_for_in_words_alone(lab: Lab) -> None:
    service = Service(
        ["Is a good? One of: yes, no."], instead=lambda _call: Completion("yes, it is", "stop", Usage(5, 2))
    )
    report = lab.run(
        pd.DataFrame({"text": ["a"]}),
        service,
        "Is {text} good? One of: {labels}.",
        labels=["yes", "no"],
        task="completion",
    )
    assert report.ok + report.invalid == 1
    assert [call.params for call in service.calls] == [{}]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"system": "be brief"}, "system is for chats"),
        ({"schema": {"type": "object"}}, "schema is for chats"),
        ({"examples": pd.DataFrame({"text": ["a"], "label": ["b"]})}, "examples is for chats"),
        ({"labels": "a,b", "structured": "json"}, "in words alone"),
        ({"labels": "a,b", "repair": 1}, "repair is for chats"),
        ({"param": {"tools": []}}, "tools is no parameter of"),
        ({"endpoints": [Endpoint("m", params={"response_format": {"type": "json_object"}})]}, "response_format is no"),
        ({"task": "embed"}, "task must be one of"),
    ],
)
def test_what_makes_no_sense_for_completions_is_refused_before_anything_is_sent(
    lab: Lab, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        lab.run(pd.DataFrame({"text": ["a"]}), Service([]), "{text}", **{"task": "completion", **options})
    assert not lab.directory.exists()


def test_a_prompt_function_must_give_one_text(lab: Lab) -> None:
    def messages(row: dict[str, Any]) -> list[dict[str, str]]:
        return [{"role": "system", "content": "x"}, {"role": "user", "content": row["text"]}]

    with pytest.raises(batcher.BatcherError, match="the prompt must be one text"):
        lab.run(pd.DataFrame({"text": ["a"]}), Service([]), messages, task="completion")

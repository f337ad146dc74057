"""What was paid for is bought once, and all of it is kept: in runs over real sockets, and through a kill."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from canned_server import Then, completion, http, stream
from hostile_server import Ask, HostileServer, Script, Step, answer_to, answered, hostile
from programs import call, started, table, write_table

import batcher
from batcher.errors import EndpointsLost

USED = {"prompt_tokens": 9, "completion_tokens": 0}
KEY = "sk-5ecret/With+all=kinds"


def run(script: Script, folder: Path, prompts: list[str], **options: Any) -> tuple[batcher.Report, HostileServer]:
    with hostile(script) as server:
        endpoint = batcher.Endpoint("m", base_url=server.base_url, api_key=KEY)
        report = batcher.run(prompts, keyword="k", output_dir=folder, endpoints=[endpoint], quiet=True, **options)
    return report, server


def responses(path: Path) -> list[dict[str, Any]]:
    """Read with SQLite alone what the journal keeps of each answer, in the order of the rows."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        query = "SELECT p.*, a.answer FROM rows r JOIN results a ON a.id = r.result JOIN responses p ON p.id = a.id"
        found = [dict(row) for row in db.execute(f"{query} ORDER BY r.position")]
    return [{**each, "body": each["body"] and zlib.decompress(each["body"])} for each in found]


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [], "usage": USED},
        {"choices": [], "id": "chatcmpl-1"},
        {"choices": [{"index": 0, "message": None, "finish_reason": "stop"}]},
        completion(None),
        completion(""),
    ],
)
def test_an_answer_without_a_text_is_bought_once_and_is_invalid(tmp_path: Path, body: object) -> None:
    def script(ask: Ask) -> Iterator[Step]:
        yield http(200, body).data if ask.prompt == "odd" else answered(ask)

    report, server = run(script, tmp_path, ["a", "odd", "b"])
    assert (report.ok, report.invalid, report.requests_now) == (2, 1, 3)
    assert server.asked["odd"] == 1
    assert json.loads(responses(tmp_path / "journal_k.sqlite")[1]["body"]) == body


def test_all_of_several_answers_are_kept(tmp_path: Path) -> None:
    def script(ask: Ask) -> Iterator[Step]:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": f"{ask.prompt} {index}"},
                "finish_reason": "stop",
            }
            for index in range(3)
        ]
        yield answered(ask, choices=choices)

    report, _ = run(script, tmp_path, ["a", "b"], param={"n": 3})
    assert report.ok == 2
    assert [json.loads(row["infer"]) for row in table(tmp_path / "all_k.csv")] == [
        ["a 0", "a 1", "a 2"],
        ["b 0", "b 1", "b 2"],
    ]
    for kept in responses(tmp_path / "journal_k.sqlite"):
        assert [each["message"]["content"] for each in json.loads(kept["body"])["choices"]] == json.loads(
            kept["answer"]
        )


def chunk(content: str, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": reason}]}


@pytest.mark.parametrize("asked_for", [True, False], ids=["asked for", "asked for by none"])
def test_a_stream_with_a_broken_line_is_asked_again_and_is_never_an_answer(tmp_path: Path, asked_for: bool) -> None:
    def script(ask: Ask) -> Iterator[Step]:
        whole = stream(chunk("answer "), chunk("to "), chunk(ask.prompt, "stop")).data
        if not asked_for:
            whole = whole.replace(b"text/event-stream; charset=utf-8", b"application/json")
        is_fine = ask.nth > 2 or ask.prompt == "row 0"
        yield whole if is_fine else whole.replace(b'"content": "to "}', b'"content": "to "]')
        yield Then.GO_ON

    prompts = [f"row {number}" for number in range(5)]
    report, server = run(script, tmp_path, prompts, param={"stream": True} if asked_for else {})
    assert report.ok == 5
    assert [server.asked[prompt] for prompt in prompts] == [1, 3, 3, 3, 3]
    assert [row["infer"] for row in table(tmp_path / "all_k.csv")] == list(map(answer_to, prompts))


def test_a_stream_that_is_always_broken_is_no_answer(tmp_path: Path) -> None:
    def script(ask: Ask) -> Iterator[Step]:
        yield stream(chunk("half "), chunk("way", "stop")).data.replace(b'"way"', b'"way')
        yield Then.GO_ON

    with pytest.raises(EndpointsLost, match="the stream is broken: a line of data is not JSON"):
        run(script, tmp_path, ["a"], max_attempts=1)


def test_what_was_cut_off_is_counted_in_the_report_and_in_the_status(tmp_path: Path) -> None:
    def script(ask: Ask) -> Iterator[Step]:
        yield http(200, completion(answer_to(ask.prompt), finish_reason="LENGTH" if ask.prompt < "c" else "stop")).data

    with hostile(script) as server:
        endpoint = batcher.Endpoint("m", base_url=server.base_url)
        reports = [
            batcher.run(prompts, keyword="k", output_dir=tmp_path, endpoints=[endpoint], quiet=True, dedup=True)
            for prompts in (["a", "b", "a", "c"], ["a", "b", "a", "c", "bb"])
        ]
    assert [(report.ok, report.cut, report.requests_now) for report in reports] == [(4, 3, 3), (5, 4, 1)]
    assert str(reports[0]).endswith(f"; 3 answers were cut off at max_tokens -> {tmp_path / 'all_k.csv'}")
    status = batcher.status("k", tmp_path)
    assert (status.cut, status.to_dict()["cut"], reports[1].to_dict()["cut"]) == (4, 4, 4)
    assert "  cut off   4 answers at max_tokens" in str(status)


def test_nothing_is_said_of_answers_that_were_not_cut_off(tmp_path: Path) -> None:
    report, _ = run(lambda ask: [answered(ask)], tmp_path, ["a"])
    assert report.cut == 0
    assert "cut" not in str(report) + str(batcher.status("k", tmp_path))


def test_the_command_line_counts_what_was_cut_off(tmp_path: Path) -> None:
    write_table(tmp_path / "items.csv", ["item"], [["a"]])
    with hostile(lambda _: [http(200, completion("x", finish_reason="max_tokens")).data]) as server:
        options = ["--prompt", "{item}", "--keyword", "k", "--base-url", server.base_url, "--model", "m", "--json"]
        done = call("run", "items.csv", *options, cwd=tmp_path)
    assert json.loads(done.stdout)["cut"] == 1
    assert "1 answer was cut off at max_tokens" in done.stderr
    assert json.loads(call("status", "k", "--json", cwd=tmp_path).stdout)["cut"] == 1


def test_the_journal_keeps_all_that_came_through_a_kill(tmp_path: Path) -> None:
    def script(ask: Ask) -> Iterator[Step]:
        if ask.number == 4 and ask.nth == 1:
            yield 600.0  # in flight at the kill
        message = {"role": "assistant", "content": answer_to(ask.prompt), "reasoning_content": f"so {ask.prompt}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": {"x": [KEY]}}
        yield answered(ask, choices=[choice], model="m-2026-11-01", system_fingerprint=f"fp {ask.prompt}")

    write_table(tmp_path / "items.csv", ["item"], [["a"], ["b"], ["c"], ["d"]])
    with hostile(script) as server:
        options = ["--prompt", "{item}", "--keyword", "k", "--base-url", server.base_url, "--model", "m"]
        options += ["--max-concurrency", "1"]
        with started("run", "items.csv", *options, cwd=tmp_path, API_KEY=KEY) as program:
            server.wait_for(4)
            program.send_signal(signal.SIGKILL)
            program.wait()
        kept = responses(tmp_path / "output" / "journal_k.sqlite")
        assert [each["answer"] for each in kept] == list(map(answer_to, "abc"))
        done = call("run", "items.csv", *options, cwd=tmp_path, API_KEY=KEY)
        assert done.status == 0, done.stderr
        assert server.asked == {"a": 1, "b": 1, "c": 1, "d": 2}
    kept = responses(tmp_path / "output" / "journal_k.sqlite")
    assert [(each["model"], each["finish_reason"], each["is_cut"]) for each in kept] == [
        ("m-2026-11-01", "stop", 0)
    ] * 4
    assert [each["reasoning"] for each in kept] == ["so a", "so b", "so c", "so d"]
    bodies = [json.loads(each["body"]) for each in kept]
    assert [each["system_fingerprint"] for each in bodies] == ["fp a", "fp b", "fp c", "fp d"]
    assert [each["choices"][0]["logprobs"] for each in bodies] == [{"x": ["[API key]"]}] * 4


def test_a_streams_body_is_kept_as_it_came(tmp_path: Path) -> None:
    run(lambda ask: [stream(chunk("answer "), chunk(ask.prompt, "stop")).data], tmp_path, ["a"], param={"stream": True})
    [kept] = responses(tmp_path / "journal_k.sqlite")
    assert kept["body"].decode().splitlines()[0] == f"data: {json.dumps(chunk('answer '))}"
    assert kept["body"].endswith(b"data: [DONE]\n\n")

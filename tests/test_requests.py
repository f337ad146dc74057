"""A requests file: each line is asked as it stands, and has its response or its error in the file of responses."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Call, Service, answer_to, refusal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import batcher
from batcher.calls.endpoints import endpoints_of
from batcher.endpoint import Endpoint
from batcher.errors import BudgetReached, ChangedError, EndpointsLost, InputError, Interrupted, SettingsError
from batcher.input.opening import Reading, open_dataset
from batcher.input.request_line import question_of
from batcher.records import Completion, Failure, Fault, Task
from batcher.settings import Settings

Line = dict[str, Any] | str


def chat(prompt: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], **more}


def batch(name: str, body: dict[str, Any], url: str = "/v1/chat/completions", **more: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": body, **more}


def write(path: Path, lines: Iterable[Line]) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def responses(lab: Lab, name: str = "all") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (lab.directory / f"{name}_k.jsonl").read_text("utf-8").splitlines()]


def body_of(call: Call) -> dict[str, Any]:
    return {
        "id": f"id of {call.prompt}",
        "choices": [{"message": {"content": answer_to(call.prompt)}}],
        "extra": [1.50],
    }


def with_body(call: Call) -> Completion:
    body = body_of(call)
    return Completion(answer_to(call.prompt), "stop", id=body["id"], raw=json.dumps(body, indent=1).encode())


def service(*prompts: str) -> Service:
    return Service(prompts, instead=with_body)


def rows_of(path: Path, **reading: Any) -> list[Any]:
    dataset = open_dataset(path, Reading(requests=True, **reading))
    return [values for part in dataset.slices(100) for values in part.rows]


def fault_of(line: Line, tmp_path: Path) -> str:
    [values] = rows_of(write(tmp_path / "one.jsonl", [line]))
    return question_of(values).fault


# -- What goes out


def test_both_forms_of_a_line_are_asked_with_all_of_their_parameters(lab: Lab, tmp_path: Path) -> None:
    own = {"temperature": 0.5, "top_logprobs": 3, "x_unknown": {"deep": [1, None]}}
    lines: list[Any] = [batch("a", chat("p0", model="m", **own)), "", "   ", chat("p1", **own, metadata={"row": 7})]
    asked = service("p0", "p1")
    report = lab.run(write(tmp_path / "r.jsonl", lines), asked, requests=True)
    assert (report.ok, report.rows) == (2, 2), "blank lines are none"
    assert [(call.params, call.terms.task) for call in asked.calls] == [(own, Task.CHAT)] * 2
    assert report.output == lab.directory / "all_k.jsonl"
    assert responses(lab) == [
        {
            "id": "k-0",
            "line": 1,
            "custom_id": "a",
            "request": lines[0]["body"],
            "response": {"status_code": 200, "request_id": "id of p0", "body": body_of(asked.calls[0])},
            "error": None,
        },
        {
            "id": "k-1",
            "line": 4,
            "metadata": {"row": 7},
            "request": chat("p1", **own),
            "response": {"status_code": 200, "request_id": "id of p1", "body": body_of(asked.calls[1])},
            "error": None,
        },
    ]
    assert [(row["line"], row["custom_id"], row["infer"], row["infer_status"]) for row in lab.rows()] == [
        ("1", "a", "answer to p0", "ok"),
        ("4", "", "answer to p1", "ok"),
    ]


def test_a_param_of_the_run_is_a_default_that_a_line_overrides(lab: Lab) -> None:
    asked = service("p0", "p1")
    lab.run([chat("p0", seed=3), chat("p1")], asked, requests=True, param={"seed": 1, "top_p": 0.5})
    assert [dict(call.params) for call in asked.calls] == [{"seed": 3, "top_p": 0.5}, {"seed": 1, "top_p": 0.5}]
    again = service("p1")
    lab.run([chat("p0", seed=3.0), chat("p1")], again, requests=True, param={"seed": 2, "top_p": 0.5}, on_change="redo")
    assert [call.prompt for call in again.calls] == ["p1"], "the question of the first line is the same"


@pytest.mark.parametrize(
    ("line", "task", "asked", "model"),
    [
        (chat("p", model="a"), Task.CHAT, "p", "a"),
        ({"prompt": "p", "model": "a"}, Task.COMPLETION, "p", "a"),
        ({"prompt": ["p", "q"]}, Task.COMPLETION, ["p", "q"], ""),
        ({"input": "p"}, Task.EMBEDDING, "p", ""),
        ({"input": [[1, 2], [3]]}, Task.EMBEDDING, [[1, 2], [3]], ""),
        (batch("a", {"input": [1, 2]}, "https://api.openai.com/v1/embeddings"), Task.EMBEDDING, [1, 2], ""),
        (batch("a", {"prompt": "p"}, "/v1/completions"), Task.COMPLETION, "p", ""),
        (batch("a", chat("p"), "/openai/deployments/x/chat/completions?api-version=2024-10-21"), Task.CHAT, "p", ""),
        ({"body": chat("p")}, Task.CHAT, "p", ""),
    ],
)
def test_the_url_or_else_the_shape_says_what_is_asked(
    line: Line, task: Task, asked: object, model: str, tmp_path: Path
) -> None:
    [values] = rows_of(write(tmp_path / "r.jsonl", [line]))
    question = question_of(values)
    assert (question.fault, question.terms.task, question.terms.model) == ("", task, model)
    assert question.messages[0]["content"] == asked


def test_a_stream_is_not_asked_for_and_the_plan_says_so(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    asked = service("p0")
    lines = [chat("p0", stream=True, stream_options={"include_usage": True}, seed=1)]
    lab.run(lines, asked, requests=True, quiet=False)
    assert dict(asked.calls[0].params) == {"seed": 1}
    assert "1 line asks for a stream" in capsys.readouterr().err
    assert responses(lab)[0]["request"] == lines[0], "the request is shown as it was"


# -- Which model


def at(*models: str) -> dict[str, Any]:
    return {"endpoints": [Endpoint(model) for model in models]}


def test_a_model_is_obeyed_if_an_endpoint_has_it(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["a", "b", "b", "a", "c", None] * 10
    lines = [chat(f"p{number}", **({"model": name} if name else {})) for number, name in enumerate(names)]
    asked = service(*(f"p{number}" for number in range(len(lines))))
    assert lab.run(lines, asked, requests=True, quiet=False, **at("a", "b")).ok == len(lines)
    by_prompt = {call.prompt: call.endpoint for call in asked.calls}
    assert all(by_prompt[f"p{n}"] == name for n, name in enumerate(names) if name in {"a", "b"})
    said = capsys.readouterr().err
    assert "10 lines name the model c, which no endpoint has: they are asked at any of a, b." in said
    assert "10 lines name no model: they are asked at any of a, b." in said


def test_models_of_lines_become_endpoints_if_no_option_names_one(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODEL", raising=False)
    write(tmp_path / "r.jsonl", [chat("p", model="a"), chat("q", model="b"), chat("r", model="a")])
    forecast = batcher.plan("r.jsonl", requests=True, base_url="http://127.0.0.1:1/v1")
    assert [each.model for each in forecast.asks] == ["a", "b"]
    one = batcher.plan("r.jsonl", requests=True, base_url="http://127.0.0.1:1/v1", model="a")
    assert [each.model for each in one.asks] == ["a"]
    assert "1 line names the model b, which no endpoint has: it is asked at a." in one.summary
    write(tmp_path / "r.jsonl", [chat("p")])
    with pytest.raises(SettingsError, match="no model"):
        batcher.plan("r.jsonl", requests=True, base_url="http://127.0.0.1:1/v1")
    write(tmp_path / "r.jsonl", [chat("p", model=f"m{number}") for number in range(200)])
    with pytest.raises(InputError, match="name more than 100 models"):
        batcher.plan("r.jsonl", requests=True, base_url="http://127.0.0.1:1/v1")


@pytest.mark.parametrize(
    ("options", "keys", "accounts"),
    [
        ({}, "k1", {None}),
        ({"rpm": 60}, "k1", {"key 1 of the run"}),
        ({"tpm": 60}, "k1,k2", {"key 1 of the run", "key 2 of the run"}),
        ({"max_concurrency": 5, "limits_per": "account"}, "k1,k2", {"all keys of the run"}),
    ],
)
def test_models_of_lines_share_the_limits_of_the_run(options: Any, keys: str, accounts: set[str | None]) -> None:
    asked = Settings(base_url="http://127.0.0.1:1/v1", api_key_env="K", **options)
    made = endpoints_of(asked, {"K": keys}, models=["a", "b"])
    assert [each.model for each in made] == ["a"] * len(keys.split(",")) + ["b"] * len(keys.split(","))
    assert {each.account for each in made} == accounts


def test_lines_whose_endpoint_leaves_end_as_errors_and_the_others_go_on(lab: Lab) -> None:
    def fail(call: Call) -> Completion | Failure:
        refused = Failure(Fault.STATUS, "the model does not exist", 404, code="model_not_found")
        return refused if call.endpoint == "b" else with_body(call)

    lines = [chat(f"p{number}", model="ab"[number % 2]) for number in range(40)]
    report = lab.run(lines, Service([f"p{n}" for n in range(40)], instead=fail), requests=True, **at("a", "b"))
    assert (report.ok, report.error) == (20, 20)
    found = responses(lab)
    assert all(each["error"] is None for each in found[::2])
    assert all("the model does not exist" in each["error"]["message"] for each in found[1::2])
    again = service(*(f"p{n}" for n in range(1, 40, 2)))
    assert lab.run(lines, again, requests=True, retry_failed=True, **at("a", "b")).ok == 40


# -- Broken lines

BROKEN = {
    "not json": "not JSON",
    '{"messages": ': "does not end on its line",
    "[1, 2]": "an object, this one is a list",
    '"text"': "this one is a text",
    "7": "this one is a number",
    "null": "this one is null",
    '{"a": 1, "a": 2}': "more than one key 'a'",
    '{"messages": [{"role": "user", "content": "p"}], "seed": NaN}': "JSON has no NaN",
    '{"messages": [{"role": "user", "content": "p"}], "seed": 1e999}': "not JSON",
    "[" * 3000 + "]" * 3000: "nested deeper",
    "{}": "it asks nothing",
    '{"messages": []}': "messages must be a list",
    '{"messages": "hello"}': "messages must be a list",
    '{"messages": [{"content": "p"}]}': "an object with a role",
    '{"messages": [{"role": "user"}]}': "message 1 has no content",
    '{"messages": [{"role": "user", "content": "p"}], "prompt": "p"}': "both messages and prompt",
    '{"prompt": 5}': "prompt must be a text",
    '{"input": []}': "input must be a text",
    '{"input": "p", "model": 5}': "the model is 5",
    '{"custom_id": "x", "method": "GET", "url": "/v1/embeddings", "body": {"input": "p"}}': 'the method is "GET"',
    '{"custom_id": "x", "url": "/v1/images", "body": {"input": "p"}}': 'the url "/v1/images" is not known',
    '{"custom_id": "x", "url": "/v1/completions", "body": {"input": "p"}}': "it has no prompt",
    '{"custom_id": "x", "url": "/v1/chat/completions"}': "it has no body",
    '{"custom_id": "x", "body": [1]}': "its body is no object",
    '{"custom_id": ["x"], "body": {"input": "p"}}': "the custom_id is",
    '{"input": "p", "api_key": "sk-0123456789abcdefghijklmn"}': "it holds an API key",
}


@pytest.mark.parametrize(("line", "said"), BROKEN.items(), ids=range(len(BROKEN)))
def test_a_broken_line_says_what_is_wrong(line: str, said: str, tmp_path: Path) -> None:
    fault = fault_of(line, tmp_path)
    assert fault.startswith("line 1: ")
    assert said in fault


def test_broken_lines_are_errors_with_their_number_and_stop_nothing(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "r.jsonl", [chat("p0"), "", "broken", batch("x", {"nothing": 1}), chat("p1")])
    report = lab.run(path, service("p0", "p1"), requests=True, quiet=False)
    assert (report.ok, report.error, report.requests) == (2, 2, 2), "no request is sent for them"
    assert "2 lines are broken, and end as error, without a request: line 3: not JSON" in capsys.readouterr().err
    found = responses(lab)
    assert [each["error"] and each["error"]["code"] for each in found] == [None, "broken_line", "broken_line", None]
    assert found[1]["request"] == "broken"
    assert found[1]["error"]["message"].startswith("line 3: ")
    assert found[2]["custom_id"] == "x"
    assert lab.run(path, service(), requests=True).error == 2, "they stay as they are"
    assert batcher.verify("k", path, output_dir=lab.directory).ok

    write(path, [chat("p0"), "", chat("p2"), batch("x", {"nothing": 1}), chat("p1")])
    report = lab.run(path, service("p2"), requests=True)
    assert (report.ok, report.error) == (3, 1), "a line that was mended is a new question"


def test_no_share_of_broken_lines_stops_a_run(lab: Lab) -> None:
    lines = [chat(f"p{number}") if number % 10 == 0 else {"broken": number} for number in range(200)]
    report = lab.run(lines, service(*(f"p{number}" for number in range(200))), requests=True, canary=20)
    assert (report.ok, report.error) == (20, 180)


def test_a_key_in_a_line_reaches_no_file(lab: Lab) -> None:
    key = "sk-0123456789abcdefghijklmn"
    lab.run([{**chat("p0"), "api_key": key}, f'{{"api_key": "{key}"', chat("p1")], service("p1"), requests=True)
    for path in lab.directory.iterdir():
        assert key.encode() not in path.read_bytes()


def test_line_ends_byte_order_marks_and_encodings_of_every_kind_are_read(tmp_path: Path) -> None:
    texts = [json.dumps(chat(each), ensure_ascii=False) for each in ("p0", "日本", "é")]
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(texts).encode() + b"\n\xef\xbb\xbf" + texts[0].encode())
    rows = rows_of(path)
    assert [question_of(row).messages[0]["content"] for row in rows] == ["p0", "日本", "é", "p0"]
    for encoding, said in (("utf-16", None), ("gb18030", "gb18030"), ("utf-8", "utf-8")):
        path.write_bytes("\n".join(texts).encode(encoding))
        found = rows_of(path, encoding=said)
        assert [question_of(row).messages[0]["content"] for row in found] == ["p0", "日本", "é"]
    path.write_bytes(b"\n".join([texts[0].encode(), texts[1].encode("gb18030"), texts[2].encode()]))
    faults = [question_of(row).fault for row in rows_of(path)]
    assert [bool(fault) for fault in faults] == [False, True, False]
    assert "is not UTF-8" in faults[1]


def test_a_huge_line_is_one_error_and_is_not_kept_whole(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with path.open("w") as file:
        file.write(json.dumps(chat("p0")) + "\n")
        for _ in range(36):
            file.write("x" * 1_000_000)
        file.write("\n" + json.dumps(chat("p1")))
    rows = rows_of(path)
    assert [bool(question_of(row).fault) for row in rows] == [False, True, False]
    assert "36,000,000 bytes" in question_of(rows[1]).fault
    assert len(str(rows[1][-1])) < 20_000


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.binary(max_size=40), st.just(b'{"input": "p"}'), st.just(b"")), max_size=8))
def test_whatever_the_bytes_each_line_has_its_row(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "r.jsonl"
    content = b'{"input": "first"}\n' + b"\n".join(lines)
    path.write_bytes(content)
    rows = rows_of(path)
    numbers = [row[0] for row in rows]
    assert numbers == sorted({*numbers})
    blank = b" \t\n\r\x0b\x0c"
    kept = [number for number, line in enumerate(content.split(b"\n"), 1) if _visible(line).strip(blank)]
    assert numbers == kept
    for row, again in zip(rows, rows_of(path), strict=True):
        fault = question_of(row).fault
        assert not fault or fault.startswith(f"line {row[0]}: ")
        assert (str(row[-1]), fault) == (str(again[-1]), question_of(again).fault)


def _visible(line: bytes) -> bytes:
    return line.replace(b"\xef\xbb\xbf", b"")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=30), max_size=6))
def test_whatever_the_bytes_a_run_ends_and_is_verified(tmp_path_factory: Any, lines: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    path, lab = folder / "r.jsonl", Lab(folder / "output")
    path.write_bytes(json.dumps(chat("p0")).encode() + b"\n" + b"\n".join(lines))
    report = lab.run(path, service("p0"), requests=True)
    assert report.left == 0
    assert len(responses(lab)) == report.rows == len(rows_of(path))
    assert batcher.verify("k", path, output_dir=lab.directory).ok


# -- Rows, resumes and files


def test_two_lines_with_one_body_are_two_rows(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [batch("a", chat("p")), batch("a", chat("p")), batch("b", chat("p"))]
    asked = service("p")
    assert lab.run(lines, asked, requests=True, quiet=False).rows == 3
    assert len(asked.calls) == 3
    assert "have the same custom_id" in capsys.readouterr().err
    assert [each["custom_id"] for each in responses(lab)] == ["a", "a", "b"]


def test_dedup_asks_equal_bodies_once(lab: Lab) -> None:
    asked = service("p")
    assert lab.run([batch("a", chat("p")), batch("b", chat("p"))], asked, requests=True, dedup=True).ok == 2
    assert len(asked.calls) == 1
    assert [each["response"]["request_id"] for each in responses(lab)] == ["id of p"] * 2


def test_names_and_order_are_no_part_of_a_question(lab: Lab, tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [batch("a", chat("p0", seed=1)), chat("p1", metadata={"n": 1})])
    lab.run(path, service("p0", "p1"), requests=True)
    write(path, ["", chat("p1", metadata={"n": 2}), batch("other", {"seed": 1, **chat("p0")})])
    report = lab.run(path, service(), requests=True, timeout=5)
    assert report.requests_now == 0
    assert [each.get("custom_id", each.get("metadata")) for each in responses(lab)] == [{"n": 2}, "other"]
    write(path, ["", chat("p1", metadata={"n": 2}), batch("other", {"seed": 2, **chat("p0")})])
    with pytest.raises(ChangedError, match="column request changed"):
        lab.run(path, service(), requests=True)


def test_only_errors_are_asked_again(lab: Lab) -> None:
    lines = [chat("p0"), chat("p1"), "broken"]
    failing = Service(["p0", "p1"], instead=lambda call: refusal(400) if call.prompt == "p1" else with_body(call))
    assert lab.run(lines, failing, requests=True).error == 2
    again = service("p1")
    assert lab.run(lines, again, requests=True, retry_failed=True).error == 1
    assert [call.prompt for call in again.calls] == ["p1"]


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(lab: Lab, tmp_path: Path) -> None:
    lines: list[Line] = [batch(f"c{n}", chat(f"p{n}", seed=n)) if n % 7 else "broken" for n in range(60)]
    path = write(tmp_path / "r.jsonl", lines)
    prompts = [f"p{number}" for number in range(60)]
    whole = Lab(tmp_path / "whole")
    whole.run(path, service(*prompts), requests=True, chunk_size=8)
    wanted = (whole.directory / "all_k.jsonl").read_bytes()
    limited: dict[str, Any] = {"requests": True, "chunk_size": 8, "endpoints": [Endpoint("m", max_concurrency=4)]}
    with pytest.raises(Interrupted):
        lab.run(path, service(*prompts), at={3.5: lab.request_stop}, **limited)
    partial = batcher.merge("k", lab.directory, partial=True)
    assert partial == lab.directory / "partial_k.jsonl"
    so_far = responses(lab, "partial")
    assert len(so_far) == 60
    assert 0 < sum(each["response"] is not None for each in so_far) < 50
    assert all(json.loads(line) in so_far for line in wanted.splitlines()[:3])
    lab.run(path, service(*prompts), **limited)
    assert (lab.directory / "all_k.jsonl").read_bytes() == wanted
    (lab.directory / "all_k.jsonl").unlink()
    assert batcher.merge("k", lab.directory) == lab.directory / "all_k.jsonl"
    assert (lab.directory / "all_k.jsonl").read_bytes() == wanted


def test_verify_finds_responses_that_were_changed_or_are_gone(lab: Lab, tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [chat("p0"), chat("p1")])
    lab.run(path, service("p0", "p1"), requests=True)
    result = lab.directory / "all_k.jsonl"
    written = result.read_bytes()
    result.write_bytes(written.replace(b"answer to p1", b"answer to p2"))
    [finding] = batcher.verify("k", path, output_dir=lab.directory).findings
    assert (finding.kind, finding.rows) == ("responses-other", ((1, 1),))
    lab.run(path, service(), requests=True)
    assert result.read_bytes() == written
    assert result.with_name("all_k.jsonl.bak").exists(), "what somebody changed is kept"
    result.unlink()
    [finding] = batcher.verify("k", path, output_dir=lab.directory).findings
    assert finding.kind == "responses-lost"


def test_an_answer_by_hand_stands_beside_the_response_of_the_model(lab: Lab) -> None:
    lab.run([chat("p0"), chat("p1")], service("p0", "p1"), requests=True)
    chunk = lab.path(0)
    chunk.write_text(chunk.read_text("utf-8").replace("answer to p1", "by hand"), "utf-8")
    lab.run([chat("p0"), chat("p1")], service(), requests=True)
    first, second = responses(lab)
    assert "corrected" not in first
    assert second["corrected"]["answer"] == "by hand"
    assert second["response"]["body"]["choices"][0]["message"]["content"] == "answer to p1"


def test_a_response_that_nothing_could_keep_is_made_of_its_answer(lab: Lab) -> None:
    lab.run([chat("p0"), {"prompt": "p1"}], Service(["p0", "p1"]), requests=True)
    first, second = (each["response"]["body"]["choices"][0] for each in responses(lab))
    assert first["message"] == {"role": "assistant", "content": "answer to p0"}
    assert (second["text"], second["finish_reason"]) == ("answer to p1", "stop")


def test_an_answer_without_a_text_is_ok_because_its_body_counts(lab: Lab) -> None:
    raw = b'{"choices": [{"message": {"role": "assistant", "content": null}, "finish_reason": "length"}]}'
    empty = Service(["p0"], instead=lambda _: Completion(None, "length", raw=raw))
    assert lab.run([chat("p0")], empty, requests=True).ok == 1
    assert responses(lab)[0]["response"]["body"] == json.loads(raw)


def test_parquet_and_a_sample_work_as_with_tables(lab: Lab) -> None:
    lines = [chat(f"p{number}") for number in range(30)]
    asked = service(*(f"p{number}" for number in range(30)))
    report = lab.run(lines, asked, requests=True, format="parquet", sample=5)
    assert (report.rows, len(asked.calls), len(responses(lab))) == (5, 5, 5)
    assert (lab.directory / "all_k.parquet").exists()
    assert report.frame()["infer"].tolist() == [
        each["response"]["body"]["choices"][0]["message"]["content"] for each in responses(lab)
    ]


def test_the_input_is_never_written_to(lab: Lab, tmp_path: Path) -> None:
    lab.directory.mkdir()
    for name in ("all_k.jsonl", "partial_k.jsonl", "control_k.json"):
        path = write(lab.directory / name, [chat("p0")])
        before = path.read_bytes()
        with pytest.raises(SettingsError, match="is a file that the run 'k' writes itself"):
            lab.run(path, service("p0"), requests=True)
        assert path.read_bytes() == before
        assert [each.name for each in lab.directory.iterdir()] == [name], "nothing is written"
        path.unlink()
    path = write(lab.directory / "k_results.jsonl", [chat("p0")])
    before = path.read_bytes()
    lab.run(path, service("p0"), requests=True)
    assert path.read_bytes() == before
    with pytest.raises(SettingsError, match="would become a part of the input"):
        lab.run(str(lab.directory / "*.jsonl"), service("p0"), requests=True, keyword="k2")


def test_several_files_are_one_run(lab: Lab, tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", [chat("p0")]), write(tmp_path / "b.jsonl", ["broken", chat("p1")])
    assert lab.run([first, second], service("p0", "p1"), requests=True).ok == 2
    assert [(each["id"], each["line"]) for each in responses(lab)] == [("k-0", 1), ("k-1", 1), ("k-2", 2)]


def test_requests_in_memory_are_dictionaries_or_texts(lab: Lab) -> None:
    report = lab.run([chat("p0"), json.dumps(chat("p1")), 7, {"input": {1, 2}}], service("p0", "p1"), requests=True)
    assert (report.ok, report.error) == (2, 2)
    messages = [each["error"]["message"] for each in responses(lab)[2:]]
    assert messages[0] == "item 3: a request is a dictionary, this one is of type int"
    assert messages[1].startswith("item 4: it cannot be written as JSON")
    assert batcher.status("k", lab.directory).ok == 2


# -- Options


@pytest.mark.parametrize(
    "option",
    [
        {"prompt": "{request}"},
        {"prompt_column": "request"},
        {"system": "be short"},
        {"labels": ["a", "b"]},
        {"schema": {"type": "object", "properties": {"a": {"type": "string"}}}},
        {"params_column": "line"},
        {"separator": ";"},
        {"param": {"stream": True}},
    ],
    ids=lambda option: next(iter(option)),
)
def test_options_without_a_meaning_are_refused(lab: Lab, option: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="exclude each other"):
        lab.run([chat("p0")], service(), requests=True, **option)
    assert not lab.directory.exists()


def test_a_budget_is_bounded_by_the_lines_own_max_tokens(lab: Lab) -> None:
    priced: dict[str, Any] = {"endpoints": [Endpoint("m", prices={"in": 1, "out": 1})], "requests": True, "budget": 1}
    with pytest.raises(InputError, match=r"row 1 .*nothing bounds how long its answer may be"):
        lab.run([chat("p0", max_tokens=5), chat("p1")], service("p0", "p1"), **priced)
    assert lab.run([chat("p0", max_tokens=5), "broken"], service("p0"), **priced).ok == 1
    assert lab.run(
        [chat("p0", max_tokens=5), chat("p1")], service("p1"), param={"max_tokens": 9}, on_change="redo", **priced
    ).ok

    # 6,000 tokens of answers are more than the budget: the second line is not asked.
    dear = priced | {"budget": 0.004, "keyword": "dear"}
    with pytest.raises(BudgetReached):
        lab.run([chat("p0", max_tokens=10), chat("p1", max_tokens=6000)], service("p0", "p1"), **dear)


def test_a_table_that_is_a_requests_file_is_met_with_a_word(lab: Lab, tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [chat("p0", model="m", temperature=0)])
    with pytest.raises(SettingsError, match="looks like a requests file: requests=True asks each line as it stands"):
        lab.run(path, service())
    with pytest.raises(SettingsError, match="adopt needs requests=True"):
        lab.run(path, service(), "{model}", adopt=path)


def test_all_endpoints_lost_ends_a_run_as_ever(lab: Lab) -> None:
    lines = [chat(f"p{number}", model="ab"[number % 2]) for number in range(8)]
    refused = Service([f"p{n}" for n in range(8)], instead=lambda _: Failure(Fault.STATUS, "no", 401))
    with pytest.raises(EndpointsLost):
        lab.run(lines, refused, requests=True, **at("a", "b"))

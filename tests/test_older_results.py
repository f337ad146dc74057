"""What older scripts left is taken over: results files of requests, and chunk files of `AsyncLLMAPI.async_run`."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Lab
from fake_service import Service
from test_requests import chat, responses, service, write

import batcher
from batcher.cli import main
from batcher.errors import Interrupted, SettingsError


def response(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": f"old {text}", "model": "m-2024", "choices": choices, "usage": {"prompt_tokens": 3}}


def older(path: Path, results: Sequence[Any]) -> Path:
    """Write a results file as the script does: it appends each result when it has come."""
    with path.open("a", encoding="utf-8") as file:
        for result in results:
            file.write((result if isinstance(result, str) else json.dumps(result)) + "\n")
    return path


def test_what_has_an_answer_in_the_results_beside_the_input_is_not_asked(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [chat("p0", metadata={"row": 0}), chat("p1", seed=1), chat("p2"), chat("p3", model="m")]
    path = write(tmp_path / "r.jsonl", lines)
    results = [
        [chat("p3", model="m"), response("3")],
        [chat("p2"), ["TimeoutError()"]],
        [chat("p0"), response("0"), {"row": 0}],
        [chat("p1", seed=2), response("another question")],
        [chat("p2"), {"error": {"message": "server error"}}, {"row": 2}],
        '[{"messages": [{"role"',
    ]
    older(tmp_path / "r_results.jsonl", results)
    asked = service("p1", "p2")
    report = lab.run(path, asked, requests=True, quiet=False)
    assert sorted(call.prompt for call in asked.calls) == ["p1", "p2"]
    assert (report.ok, report.requests) == (4, 2)
    said = capsys.readouterr().err
    assert f"2 rows adopted from {tmp_path / 'r_results.jsonl'}" in said
    assert "3 answers and 3 lines without one; 2 rows adopted." in said
    found = responses(lab)
    assert found[0]["metadata"] == {"row": 0}
    assert found[0]["response"] == {"status_code": 200, "request_id": "old 0", "body": response("0")}
    assert [row["infer"] for row in lab.rows()] == ["0", "answer to p1", "answer to p2", "3"]
    assert batcher.verify("k", path, output_dir=lab.directory).ok
    assert lab.run(path, service(), requests=True, quiet=False).requests_now == 0
    assert "adopted" not in capsys.readouterr().err, "the file is not read again"
    adopted = "SELECT count(*) FROM results WHERE source IN (SELECT id FROM sources WHERE model = 'adopted from files')"
    assert lab.query(adopted) == [(2,)]


def test_results_beside_a_compressed_input_and_beside_each_of_several_are_found(lab: Lab, tmp_path: Path) -> None:
    for name, prompt in (("a", "p0"), ("b", "p1")):
        folder = tmp_path / name
        folder.mkdir()
        text = write(folder / "r.jsonl", [chat(prompt), chat("p2")]).read_bytes()
        (folder / "r.jsonl").unlink()
        (folder / "r.jsonl.gz").write_bytes(gzip.compress(text))
        older(folder / "r_results.jsonl", [[chat(prompt), response(prompt)]])
    one = Lab(tmp_path / "one")
    one.run(tmp_path / "a" / "r.jsonl.gz", service("p2"), requests=True)
    assert [row["infer"] for row in one.rows()] == ["p0", "answer to p2"]
    lab.run([tmp_path / "a" / "r.jsonl.gz", tmp_path / "b" / "r.jsonl.gz"], service("p2"), requests=True)
    assert [row["infer"] for row in lab.rows()] == ["p0", "answer to p2", "p1", "answer to p2"]


def test_files_are_named_by_an_option_and_answers_are_used_once(lab: Lab, tmp_path: Path) -> None:
    lines = [chat("p0"), chat("p0"), chat("p0"), chat("p1")]
    first = older(tmp_path / "one.jsonl", [[chat("p0"), response("first")]])
    second = older(tmp_path / "two.jsonl", [[chat("p0"), response("second")]])
    slow = Service(["p0", "p1"], latency=lambda _: 50.0)
    with pytest.raises(Interrupted):
        lab.run(lines, slow, requests=True, adopt=[first, second], grace=0, at={1.0: lab.request_stop})
    asked = service("p0", "p1")
    lab.run(lines, asked, requests=True, adopt=[first, second])
    assert sorted(call.prompt for call in asked.calls) == ["p0", "p1"], "an answer is not handed out twice"
    assert [row["infer"] for row in lab.rows()] == ["first", "second", "answer to p0", "answer to p1"]


def test_a_default_of_the_run_makes_another_question(lab: Lab, tmp_path: Path) -> None:
    file = older(tmp_path / "r.jsonl", [[chat("p0"), response("0")], [chat("p1", seed=1), response("1")]])
    asked = service("p0", "p1")
    lab.run([chat("p0"), chat("p1", seed=1)], asked, requests=True, adopt=file, param={"seed": 5})
    assert [call.prompt for call in asked.calls] == ["p0"], "the older script did not send a seed for it"


def test_embeddings_completions_and_our_own_results_are_taken_over(lab: Lab, tmp_path: Path) -> None:
    embedding = {"object": "list", "data": [{"index": 0, "embedding": [0.5, 0.25]}], "model": "e"}
    text = {"id": "t", "choices": [{"index": 0, "text": "done", "finish_reason": "length"}]}
    file = older(tmp_path / "r.jsonl", [[{"input": "p"}, embedding], [{"prompt": "p"}, text]])
    lines = [{"input": "p"}, {"prompt": "p"}]
    lab.run(lines, Service([]), requests=True, adopt=file)
    assert [each["response"]["body"] for each in responses(lab)] == [embedding, text]
    other = Lab(tmp_path / "other")
    other.run([*lines[::-1], {"prompt": "q"}], Service(["q"]), requests=True, adopt=lab.directory / "all_k.jsonl")
    assert [each["response"]["body"] for each in responses(other)][:2] == [text, embedding]


def test_a_plan_counts_what_a_run_takes_over(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "r.jsonl", [chat("p0", model="m"), chat("p1", model="m")])
    older(tmp_path / "r_results.jsonl", [[chat("p0", model="m"), response("0")]])
    found = batcher.plan("r.jsonl", requests=True, base_url="http://127.0.0.1:1/v1")
    assert (found.adopted, found.new, found.requests) == (1, 1, 1)
    assert not (tmp_path / "output").exists()


def test_a_results_file_that_is_missing_is_named(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"adopt: .*none\.jsonl is no file"):
        lab.run([chat("p0")], service(), requests=True, adopt=tmp_path / "none.jsonl")


def test_chunk_files_of_async_run_are_taken_over(lab: Lab) -> None:
    texts = [f"question {number}" for number in range(23)]
    answers = [f"{number}, NA\n" if number % 3 else "NA" for number in range(23)]
    lab.directory.mkdir()
    frames = []
    for start in (0, 5, 15, 20):  # the script was stopped in the chunk from 10 on, and went on with another
        frames.append(pd.DataFrame({"infer": answers[start : start + 5]}))
        frames[-1].to_csv(lab.path(start), index=False)
    pd.concat(frames).to_csv(lab.path(), index=False)
    asked = Service(texts[10:15])
    report = lab.run(texts, asked, chunk_size=5)
    assert (report.ok, len(asked.calls)) == (23, 5)
    got = [row["infer"] for row in lab.rows()]
    assert [*got[:10], *got[15:]] == [*answers[:10], *answers[15:]]


def test_a_result_that_lost_its_journal_gives_its_responses_back(lab: Lab) -> None:
    lines = [chat("p0"), chat("p1"), "broken"]
    lab.run(lines, service("p0", "p1"), requests=True)
    before = responses(lab)
    (lab.directory / "journal_k.sqlite").unlink()
    assert lab.run(lines, service(), requests=True).requests_now == 0
    assert responses(lab) == before
    (lab.directory / "journal_k.sqlite").unlink()
    lab.path(0).unlink()
    lab.path().unlink()
    assert lab.run(lines, service(), requests=True).requests_now == 0
    assert responses(lab) == before


def test_a_job_in_a_file_names_results_from_its_own_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "job"
    folder.mkdir()
    write(folder / "r.jsonl", [chat("p0", model="m"), chat("p1", model="m")])
    older(folder / "one.jsonl", [[chat("p0", model="m"), response("0")]])
    job = 'input = "r.jsonl"\nrequests = true\nprovider = "offline"\nadopt = ["one.jsonl"]\n'
    (folder / "batcher.toml").write_text(job, encoding="utf-8")
    assert main(["plan", "--config", "job/batcher.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["adopted"] == 1

"""Requests files from the command line: real processes, kills among them, against the local server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import LocalServer, call, environment, local_server

KILLED = Path(__file__).with_name("killed.py")
ROWS = 60
LINES: list[dict[str, Any] | str] = [
    {"custom_id": f"c{n}", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "a", "messages": [
        {"role": "user", "content": f"What is {n} + 1?"}], "max_tokens": 50}} if n % 4 == 0
    else {"model": "b", "prompt": f"What is {n} + 1?", "metadata": {"row": n}} if n % 4 == 1
    else {"custom_id": f"e{n}", "url": "/v1/embeddings", "body": {"model": "e", "input": [f"text {n}", f"more {n}"]}}
    if n % 4 == 2
    else {"model": "a", "messages": [{"role": "user", "content": f"What is {n} + 1?"}], "temperature": 0.5}
    for n in range(ROWS)
]  # fmt: skip
LINES[7] = "broken"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with local_server("--latency", "0.01", cwd=tmp_path_factory.mktemp("server")) as server:
        yield server


def options(server: LocalServer) -> list[str]:
    return ["--requests", "--base-url", server.base_url, "--chunk-size", "8", "--max-concurrency", "4", "--canary", "0"]


def written(folder: Path) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in LINES)
    path = folder / "r.jsonl"
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def found(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "output" / "all_r.jsonl").read_text("utf-8").splitlines()]


def test_chats_completions_and_embeddings_of_one_file_get_their_responses(tmp_path: Path, server: LocalServer) -> None:
    written(tmp_path)
    server.reset()
    done = call("run", "r.jsonl", *options(server), cwd=tmp_path)
    assert (done.status, done.stdout.strip()) == (1, "output/all_r.jsonl"), done.stderr
    lines = found(tmp_path)
    assert [line["id"] for line in lines] == [f"r-{number}" for number in range(ROWS)]
    for number, (line, asked) in enumerate(zip(lines, LINES, strict=True)):
        if isinstance(asked, str):
            assert (line["request"], line["error"]["code"]) == ("broken", "broken_line")
            continue
        body = line["response"]["body"]
        assert line["request"] == asked.get("body", {n: each for n, each in asked.items() if n != "metadata"})
        assert line.get("custom_id") == asked.get("custom_id")
        assert line.get("metadata") == asked.get("metadata")
        assert body["model"] == line["request"]["model"]
        if "data" in body:
            assert [len(each["embedding"]) > 1 for each in body["data"]] == [True, True]
        else:
            choice = body["choices"][0]
            assert choice.get("text", choice.get("message", {}).get("content")) == str(number + 1)
    assert server.books()["requests"] == ROWS - 1
    assert call("verify", "r", "r.jsonl", cwd=tmp_path).status == 0
    assert call("run", "r.jsonl", *options(server), cwd=tmp_path).status == 1
    assert server.books()["requests"] == ROWS - 1
    assert '"rows": 60' in call("status", "r", "--json", cwd=tmp_path).stdout


@pytest.mark.skipif(os.name != "posix", reason="a process ends itself with SIGKILL")
@pytest.mark.parametrize(
    "moment",
    [
        ("batcher-journal", "execute", 60),
        ("os.rename", "/.16_r.csv.tmp", 1),
        ("open", "/.all_r.jsonl.tmp", 1),
        ("os.rename", "/.all_r.jsonl.tmp", 1),
        ("os.rename", "/.all_r.csv.tmp", 1),
    ],
    ids=["in the middle", "a chunk is written", "responses begin", "responses are written", "the table is written"],
)
def test_a_kill_loses_nothing_and_the_responses_are_whole(
    tmp_path: Path, server: LocalServer, moment: tuple[str, str, int]
) -> None:
    written(tmp_path)
    server.reset()
    arguments = ["run", "r.jsonl", *options(server)]
    order = json.dumps({"arguments": arguments, "folder": str(tmp_path), "at": moment})
    done = subprocess.run(
        [sys.executable, KILLED], input=order + "\n", capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stdout.split()[1] == str(-signal.SIGKILL)
    result = tmp_path / "output" / "all_r.jsonl"
    assert not result.exists() or len(found(tmp_path)) == ROWS
    ended = call(*arguments, cwd=tmp_path)
    assert ended.status == 1, ended.stderr
    lines = found(tmp_path)
    assert sum(line["response"] is not None for line in lines) == ROWS - 1
    assert call("verify", "r", "r.jsonl", cwd=tmp_path).status == 0
    assert not list(tmp_path.glob("output/*.bak*"))
    assert not list(tmp_path.glob("output/.*.tmp"))
    before = result.read_bytes()
    call(*arguments, cwd=tmp_path)
    assert result.read_bytes() == before
    assert call("merge", "r", cwd=tmp_path).stdout.strip() == "output/all_r.jsonl"
    assert result.read_bytes() == before

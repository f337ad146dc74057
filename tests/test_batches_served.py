"""Batches at the local server: what goes over the wire for each kind of input, and how a process ends."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from programs import finish, started, write_table

import batcher
from batcher.server.batch_rules import BatchKnobs, BatchRule, Place
from batcher.server.faults import Fate
from batcher.server.serve import Server, embedded
from batcher.server.simulated import Knobs

TABLE = pd.DataFrame({"text": [f"message {number}" for number in range(12)]})


@pytest.fixture
def server() -> Iterator[Server]:
    with embedded(Knobs(batches=BatchKnobs())) as server:
        yield server


def run(
    folder: Path, server: Server, data: Any = TABLE, prompt: str | None = "{text}", **options: Any
) -> batcher.Report:
    endpoints = [batcher.Endpoint("m", base_url=server.base_url)]
    given: dict[str, Any] = {
        "keyword": "k",
        "output_dir": folder,
        "quiet": True,
        "endpoints": endpoints,
        "via": "batch",
    }
    return batcher.run(data, prompt, **(given | options))


def batches(folder: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "journal_k.sqlite") as journal:
        return journal.execute("SELECT url, requests, state, form FROM batches ORDER BY id").fetchall()


def test_labels_are_asked_for_and_read_as_they_are_online(server: Server, tmp_path: Path) -> None:
    labels = ["card", "cash", "top up"]
    by_batch = run(tmp_path / "batch", server, labels=labels).frame()
    online = run(tmp_path / "online", server, labels=labels, via="online").frame()
    pd.testing.assert_frame_equal(by_batch, online)
    assert batcher.verify("k", TABLE, output_dir=tmp_path / "batch").ok


def test_a_schema_gives_its_columns(server: Server, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
    found = run(tmp_path, server, schema=schema).frame()
    assert set(found["infer_status"]) == {"ok"}
    assert found["infer_score"].notna().all()


def test_a_requests_file_makes_a_batch_for_each_path(server: Server, tmp_path: Path) -> None:
    lines = [
        {
            "custom_id": f"a{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": f"say {n}"}]},
        }
        for n in range(4)
    ] + [
        {"custom_id": f"b{n}", "method": "POST", "url": "/v1/embeddings", "body": {"input": f"text {n}"}}
        for n in range(3)
    ]
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert run(tmp_path / "output", server, path, None, requests=True).ok == 7
    assert sorted(batches(tmp_path / "output"))[:2] == [
        ("/v1/chat/completions", 4, "done", ""),
        ("/v1/embeddings", 3, "done", ""),
    ]
    responses = [json.loads(line) for line in (tmp_path / "output" / "all_k.jsonl").read_text().splitlines()]
    assert [each["custom_id"] for each in responses] == [line["custom_id"] for line in lines]
    assert all(each["response"]["status_code"] == 200 for each in responses)


def test_embeddings_have_a_line_for_each_row_and_the_vectors_of_online_requests(server: Server, tmp_path: Path) -> None:
    by_batch = run(tmp_path / "batch", server, task="embedding")
    online = run(tmp_path / "online", server, task="embedding", via="online")
    assert by_batch.ok == online.ok == 12
    assert [*map(list, by_batch.frame()["infer"])] == [*map(list, online.frame()["infer"])]
    assert [each[:3] for each in batches(tmp_path / "batch")] == [("/v1/embeddings", 12, "done")]


def test_images_are_sent_and_a_missing_one_ends_its_row(server: Server, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    table = pd.DataFrame({"text": ["a", "b"], "image": [str(tmp_path / "red.png"), str(tmp_path / "none.png")]})
    report = run(tmp_path / "output", server, table, image_column="image")
    assert (report.ok, report.error) == (1, 1)
    assert [each[1] for each in batches(tmp_path / "output")] == [1]


def test_a_cancelled_task_leaves_the_batch_where_it_is(tmp_path: Path) -> None:
    with embedded(Knobs(batches=BatchKnobs(latency=1e5))) as server:
        endpoints = [batcher.Endpoint("m", base_url=server.base_url)]
        options: dict[str, Any] = {"keyword": "k", "output_dir": tmp_path, "quiet": True, "endpoints": endpoints}

        async def work() -> None:
            task = asyncio.create_task(batcher.arun(TABLE, "{text}", via="batch", **options))
            while not server.books.batches.by_call[Place.LOOK]:  # noqa: ASYNC110 - the server is another thread's
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(work())
        assert server.books.batches.made == 1
        assert [each[2] for each in batches(tmp_path)] == ["sent"]


COMMAND = ("run", "t.csv", "--prompt", "{text}", "--keyword", "k", "--model", "m", "--via", "batch", "--base-url")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_detaches_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    write_table(tmp_path / "t.csv", ["text"], [[text] for text in TABLE["text"]])
    knobs = Knobs(batches=BatchKnobs(latency=1e5))
    with embedded(knobs) as server, started(*COMMAND, server.base_url, cwd=tmp_path) as program:
        while not server.books.batches.by_call[Place.LOOK]:
            time.sleep(0.01)
        program.send_signal(number)
        done = finish(program)
    assert done.status == 3
    assert "1 batch with 12 rows goes on at 127.0.0.1" in done.stderr
    assert "the same command fetches it, and `batcher cancel k` cancels it" in done.stderr


def test_a_signal_during_the_upload_lets_it_end_and_two_do_not(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", ["text"], [[text] for text in TABLE["text"]])
    rule = BatchRule(at=Place.UPLOAD, does=Fate.HANG, last=1)
    with embedded(Knobs(batches=BatchKnobs(rules=(rule,)))) as server:
        with started(*COMMAND, server.base_url, cwd=tmp_path) as program:
            while not server.books.batches.by_call[Place.UPLOAD]:
                time.sleep(0.01)
            program.send_signal(signal.SIGINT)
            assert program.stderr
            while "Stopping: waiting up to 30 s" not in program.stderr.readline():
                pass
            program.send_signal(signal.SIGINT)
            done = finish(program)
        assert done.status == 3
        assert "1 batch with 12 rows is not submitted yet: the same command submits it" in done.stderr
        with started(*COMMAND, server.base_url, "--log-json", cwd=tmp_path) as program:
            done = finish(program)
        assert done.status == 0
        assert server.books.batches.billed_by_prompt == Counter(TABLE["text"])
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        assert any("batch" in str(line.get("waiting_for")) for line in lines) or lines

"""A response that does not end costs its row and nothing else: no memory, no waiting, no other row."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from canned_server import completion, http
from hostile_server import Ask, Script, Step, answered, bomb, chunked, endless, hostile, refused
from langchain_core.language_models import FakeListChatModel
from programs import call

import batcher
from batcher.calls.streams import Stream
from batcher.errors import EndpointsLost
from batcher.records import Failure, Fault

ROWS = 30
ODD = "row 7"


def run(script: Script, folder: Path, asked: int = 1, **options: Any) -> dict[str, dict[str, str]]:
    """Run a table in which one row is answered by the script; return the rows by their text.

    Args:
        script: answers the row.
        folder: for the output.
        asked: how often the row is asked.
        **options: of the run.
    """

    def one_is_odd(ask: Ask) -> Iterator[Step]:
        yield from script(ask) if ask.prompt == ODD else [answered(ask)]

    with hostile(one_is_odd) as server:
        endpoint = batcher.Endpoint("m", base_url=server.base_url, max_concurrency=3)
        settings: dict[str, Any] = {"max_response_mb": 1, "timeout": 60, "quiet": True, **options}
        prompts = [f"row {number}" for number in range(ROWS)]
        report = batcher.run(prompts, keyword="k", output_dir=folder, endpoints=[endpoint], **settings)
        assert report.ok == ROWS - 1
        assert server.asked[ODD] == asked
        assert server.sent < 2**25  # what is too long is not taken from the server, the sockets' buffers aside
    with (folder / "all_k.csv").open(encoding="utf-8", newline="") as file:
        return {row["text"]: row for row in csv.DictReader(file, strict=True)}


def endless_interim(_ask: Ask) -> Iterator[bytes]:
    return itertools.repeat(b"HTTP/1.1 102 Processing\r\n\r\n" * 1000)


def endless_extension(_ask: Ask) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x="
    yield from endless(b"x" * 2**16)


TOO_LONG: dict[str, Script] = {
    "by its length": lambda ask: [answered(ask, text="x" * 1_000_001)],
    "a length that is not sent": lambda _: [b"HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n"],
    "endless chunks": lambda _: chunked(endless()),
    "endless body": lambda _: [b"HTTP/1.1 200 OK\r\n\r\n", *itertools.repeat(b" " * 2**20, 8)],
    "a bomb": lambda _: [http(200, bomb(2**26), ["Content-Encoding: gzip"]).data],
    "interim responses": endless_interim,
    "a chunk's extension": endless_extension,
}


@pytest.mark.parametrize("way", TOO_LONG)
def test_a_response_that_is_too_long_ends_its_row_with_the_bound_and_the_option(tmp_path: Path, way: str) -> None:
    row = run(TOO_LONG[way], tmp_path)[ODD]
    assert row["infer_status"] == "error"
    assert row["infer_error"] == "the response is too long: it is longer than 1 MB (--max-response-mb allows more)"


STREAMS: dict[str, Script] = {
    "a line without end": lambda _: chunked(
        itertools.chain([b"data: "], endless(b"x" * 2**16)), "Content-Type: text/event-stream"
    ),
    "lines without end": lambda _: chunked(
        itertools.repeat(b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\n' * 500),
        "Content-Type: text/event-stream",
    ),
}


@pytest.mark.parametrize("way", STREAMS)
def test_a_stream_that_is_too_long_ends_its_row(tmp_path: Path, way: str) -> None:
    row = run(STREAMS[way], tmp_path, param={"stream": True})[ODD]
    assert (row["infer_status"], row["infer_error"][:24]) == ("error", "the response is too long")


@pytest.mark.parametrize("headers", [(), ("Content-Encoding: br",)])
def test_a_refusal_counts_though_its_words_do_not_end(tmp_path: Path, headers: tuple[str, ...]) -> None:
    row = run(lambda _: chunked(endless(b"no " * 2**14), *headers, status=400), tmp_path, asked=3)[ODD]
    assert row["infer_error"].startswith("the request was refused, not in the API's words: HTTP 400: ")


def test_a_refusal_counts_though_its_words_never_come(tmp_path: Path) -> None:
    row = run(lambda _: [b"HTTP/1.1 400 No\r\nContent-Length: 9\r\n\r\n"], tmp_path, asked=3, timeout=0.5)[ODD]
    said = "the request was refused, not in the API's words: HTTP 400: an empty body; gave up after 3 refusals"
    assert row["infer_error"] == said


def test_endless_headers_end_with_their_row(tmp_path: Path) -> None:
    def script(_ask: Ask) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n"
        yield from itertools.repeat(b"X-More: of it\r\n" * 4000)

    assert run(script, tmp_path, max_attempts=1)[ODD]["infer_status"] == "error"


def test_a_response_of_just_the_bound_is_an_answer(tmp_path: Path) -> None:
    around = len(json.dumps(completion("") | {"id": "x"}))
    text = "x" * (1_000_000 - around)
    with hostile(lambda ask: [answered(ask, text=text, id="x")]) as server:
        endpoint = batcher.Endpoint("m", base_url=server.base_url)
        report = batcher.run(["one"], keyword="k", output_dir=tmp_path, endpoints=[endpoint], max_response_mb=1)
        assert report.ok == 1


def test_an_answer_of_a_users_own_model_that_is_too_long_ends_its_row(tmp_path: Path) -> None:
    endpoint = batcher.Endpoint(llm=FakeListChatModel(responses=["short", "long " * 300, "short"]), max_concurrency=1)
    prompts = ["a", "b", "c"]
    report = batcher.run(prompts, keyword="k", output_dir=tmp_path, endpoints=[endpoint], max_response_mb=0.001)
    assert (report.ok, report.error) == (2, 1)


MEMORY = """
import pathlib, re, sys, batcher
endpoint = batcher.Endpoint("m", base_url=sys.argv[1], max_concurrency=int(sys.argv[2]))
options = {"max_response_mb": float(sys.argv[3]), "param": {"stream": True} if sys.argv[4:] else {}}
report = batcher.run(["row 0", *["bomb"] * 5], keyword="k", endpoints=[endpoint], quiet=True, **options)
status = pathlib.Path("/proc/self/status").read_text()
print(report.error, int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) // 1024)
"""


def most_memory(folder: Path, data: bytes, *arguments: str) -> int:
    """Return the MiB that a run needs in which five rows get a response that ends them."""
    (folder / "script.py").write_text(MEMORY)
    with hostile(lambda ask: [data if ask.prompt == "bomb" else answered(ask)]) as server:
        done = call("script.py", server.base_url, *arguments, cwd=folder)
    assert done.stdout, done.stderr
    errors, mib = map(int, done.stdout.split())
    assert errors == 5
    return mib


linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the most memory that this program had")


@linux
def test_bombs_of_a_gigabyte_cost_no_memory(tmp_path: Path) -> None:
    assert most_memory(tmp_path, http(200, bomb(2**30), ["Content-Encoding: gzip"]).data, "32", "4") < 300


_EMPTY_OBJECTS = b'{"x":[' + b"{}," * 7_000_000 + b"{}]}"


@linux
@pytest.mark.parametrize("body", [_EMPTY_OBJECTS, b"data:" + _EMPTY_OBJECTS], ids=["an object", "a line"])
def test_a_body_of_small_objects_costs_no_more_memory_than_its_length(tmp_path: Path, body: bytes) -> None:
    assert most_memory(tmp_path, http(200, body).data, "1", "64") < 350


@linux
def test_a_streams_line_of_small_objects_costs_no_more_memory_than_its_length(tmp_path: Path) -> None:
    data = http(200, b"data:" + _EMPTY_OBJECTS + b"\n\n", ["Content-Type: text/event-stream"]).data
    assert most_memory(tmp_path, data, "1", "64", "stream") < 350


def test_a_stream_of_endless_tool_calls_is_too_long() -> None:
    read = Stream()
    for first in range(0, 100_000, 1000):
        calls = [{"index": index} for index in range(first, first + 1000)]
        line = json.dumps({"choices": [{"delta": {"tool_calls": calls}, "finish_reason": "stop"}]})
        read.add(f"data: {line}\n".encode())
    outcome = read.answer({})
    assert isinstance(outcome, Failure)
    assert outcome.fault is Fault.TOO_LONG


def test_a_refusal_after_too_long_words_keeps_no_connection(tmp_path: Path) -> None:
    def script(ask: Ask) -> Iterator[Step]:
        yield refused(400, "no " * 2**16) if ask.nth_there == 1 else answered(ask)

    with hostile(script) as server:
        endpoint = batcher.Endpoint("m", base_url=server.base_url, max_concurrency=2)
        prompts = [f"row {number}" for number in range(5)]
        with pytest.raises(EndpointsLost):
            batcher.run(prompts, keyword="k", output_dir=tmp_path, endpoints=[endpoint], quiet=True)
        assert {ask.nth_there for ask in server.asks} == {1}

"""The client of batch APIs against a server on a real socket, in the dialects of several services and on bad days."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import tracemalloc
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from canned_server import Asked, CannedServer, Reply, Then, canned, closed_port, http
from certificates import authority_in, serving
from proxy_server import proxying

from batcher.calls.batch_facts import GROQ, SILICONFLOW, TOGETHER, ZHIPU, BatchFacts
from batcher.calls.batch_lines import Lines
from batcher.calls.batch_refusals import refused_for_good
from batcher.calls.batch_service import KEYWORD, NAME, BatchError, BatchService, Remote, RemoteState
from batcher.calls.caller import Callers
from batcher.calls.factory import ChatCallers
from batcher.calls.openai_batches import OpenAIBatches
from batcher.calls.services import SERVICES
from batcher.endpoint import OPENAI_URL, Endpoint
from batcher.errors import SettingsError
from batcher.records import Failure, Fault, Task, Terms

KEY = "sk-batch-secret-4711"
BATCH = {
    "id": "batch_1",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "errors": None,
    "input_file_id": "file-1",
    "status": "in_progress",
    "output_file_id": None,
    "error_file_id": None,
    "created_at": 1_700_000_000,
    "expires_at": 1_700_086_400,
    "request_counts": {"total": 3, "completed": 1, "failed": 0},
    "metadata": {NAME: "a1b2", KEYWORD: "sentiment"},
}
PAGE = b"<html><head><title>502</title></head><body>Bad gateway</body></html>"


@contextlib.asynccontextmanager
async def client(
    server: CannedServer, facts: BatchFacts | None = None, *, params: Any = None, model: str = "m", **more: Any
) -> AsyncIterator[OpenAIBatches]:
    callers = ChatCallers(params or {})
    made = callers.batches(Endpoint(model, server.base_url, **({"api_key": KEY} | more)))
    if facts is not None:
        link, place = made._link, made._place
        made = OpenAIBatches(place, link, Lines(model, params or {}, secrets=link.secrets), facts, model)
    yield made
    await callers.close()


def path_of(asked: Asked) -> str:
    return asked.line.split(" ")[1]


async def test_a_batch_is_uploaded_made_watched_cancelled_and_fetched(tmp_path: Path) -> None:
    lines = b'{"custom_id": "1"}\n' * 3
    (tmp_path / "in.jsonl").write_bytes(lines)
    done = {**BATCH, "status": "completed", "output_file_id": "file-2", "completed_at": 1_700_000_900}
    replies = [
        http(200, {"id": "file-1", "object": "file", "bytes": len(lines)}),
        http(200, {**BATCH, "status": "validating"}),
        http(200, BATCH),
        http(200, {**BATCH, "status": "cancelling"}),
        http(200, done),
        http(200, b'{"custom_id": "1", "response": null}\n'),
    ]
    async with canned(*replies) as server, client(server) as service:
        assert await service.upload(tmp_path / "in.jsonl", "batch_x.jsonl") == "file-1"
        made = await service.create("file-1", "a1b2", service.url(), "sentiment")
        looked = await service.look("batch_1")
        cancelling, ended = await service.cancel("batch_1"), await service.look("batch_1")
        assert await service.download("file-2", tmp_path / "out.jsonl") is None
    assert isinstance(made, Remote)
    assert isinstance(looked, Remote)
    assert (made.state, looked.state) == (RemoteState.VALIDATING, RemoteState.IN_PROGRESS)
    assert looked[:8] == ("batch_1", "in_progress", "a1b2", "file-1", 1_700_000_000, 1_700_086_400, None, 3)
    assert isinstance(cancelling, Remote)
    assert isinstance(ended, Remote)
    assert (cancelling.state.is_over, ended.state.is_over, ended.ended) == (False, True, 1_700_000_900)
    assert (ended.output_file, ended.error_file) == ("file-2", "")
    assert (tmp_path / "out.jsonl").read_bytes() == b'{"custom_id": "1", "response": null}\n'
    upload, create, *others = server.asked
    assert path_of(upload) == "/v1/files"
    assert b'name="purpose"\r\n\r\nbatch\r\n' in upload.raw
    assert b'filename="batch_x.jsonl"' in upload.raw
    assert lines in upload.raw
    assert create.json == {
        "input_file_id": "file-1",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {NAME: "a1b2", KEYWORD: "sentiment"},
    }
    assert create.headers["idempotency-key"] == "a1b2"
    assert [each.line.rsplit(" ", 1)[0] for each in others] == [
        "GET /v1/batches/batch_1",
        "POST /v1/batches/batch_1/cancel",
        "GET /v1/batches/batch_1",
        "GET /v1/files/file-2/content",
    ]
    assert {each.headers["authorization"] for each in server.asked} == {f"Bearer {KEY}"}


# --- dialects ---


@pytest.mark.parametrize(
    ("facts", "sent"),
    [
        (ZHIPU, {"auto_delete_input_file": False, "metadata": {NAME: "n", KEYWORD: "k"}}),
        (TOGETHER, {"completion_window": "24h"}),
        (GROQ, {"completion_window": "24h", "metadata": {NAME: "n", KEYWORD: "k"}}),
    ],
)
async def test_a_service_is_asked_for_a_batch_as_it_wants(facts: BatchFacts, sent: dict[str, Any]) -> None:
    async with canned(http(200, BATCH)) as server, client(server, facts) as service:
        await service.create("f", "n", "/u", "k")
        assert server.asked[0].json == {"input_file_id": "f", "endpoint": "/u"} | sent


async def test_together_takes_uploads_elsewhere_for_another_purpose(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"{}\n")
    async with (
        canned(http(200, {"id": "file-9", "filename": "x.jsonl"})) as server,
        client(server, TOGETHER) as service,
    ):
        assert await service.upload(tmp_path / "in.jsonl", "x.jsonl") == "file-9"
        assert path_of(server.asked[0]) == "/v1/files/upload"
        for part in (b'"purpose"\r\n\r\nbatch-api\r\n', b'"file_name"\r\n\r\nx.jsonl\r\n', b'filename="x.jsonl"'):
            assert part in server.asked[0].raw


async def test_an_upload_that_is_answered_in_a_wrapper_has_its_id(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"{}\n")
    wrapped = {"code": 20000, "message": "Ok", "status": True, "data": {"id": "file-9", "createdAt": 1, "bytes": 3}}
    async with canned(http(200, wrapped)) as server, client(server, SILICONFLOW) as service:
        assert await service.upload(tmp_path / "in.jsonl", "x.jsonl") == "file-9"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"status": "Validating", "created_at": "2025-05-14T20:16:17Z"}, (RemoteState.VALIDATING, 1_747_253_777.0)),
        ({"status": "IN_PROGRESS", "created_at": "1700000000"}, (RemoteState.IN_PROGRESS, 1.7e9)),
        ({"status": "PROGRESS", "created_at": 1_700_000_000_000}, (RemoteState.IN_PROGRESS, 1.7e9)),
        ({"status": "in_queue", "created_at": 0}, (RemoteState.VALIDATING, None)),
        ({"status": "canceled", "created_at": "yesterday"}, (RemoteState.CANCELLED, None)),
        ({"status": "TIMEOUT_EXCEEDED", "created_at": True}, (RemoteState.EXPIRED, None)),
        ({"status": "JOB_STATE_SUCCEEDED", "created_at": {}}, (RemoteState.COMPLETED, None)),
        ({"status": "resting", "created_at": "nan"}, (RemoteState.UNKNOWN, None)),
        ({"status": None, "created_at": -5}, (RemoteState.UNKNOWN, None)),
        ({}, (RemoteState.UNKNOWN, None)),
    ],
)
async def test_states_and_times_are_read_in_every_spelling(said: dict[str, Any], meant: tuple[Any, Any]) -> None:
    async with canned(http(200, {"id": "batch_1", **said})) as server, client(server) as service:
        looked = await service.look("batch_1")
    assert isinstance(looked, Remote)
    assert (looked.state, looked.created) == meant
    assert (looked.name, looked.input_file, looked.total, looked.output_file) == ("", "", None, "")
    assert looked.said == (said.get("status") or "")


@pytest.mark.parametrize(
    ("said", "errors"),
    [
        (
            {"errors": {"object": "list", "data": [{"code": "c", "message": "no\nway", "line": 7, "param": None}]}},
            [BatchError("c", "no way", 7)],
        ),
        (
            {"errors": [{"code": "invalid_method", "message": "GET", "line": "x"}]},
            [BatchError("invalid_method", "GET")],
        ),
        ({"errors": ["too large", ""]}, [BatchError("", "too large")]),
        ({"errors": None, "error": "boom"}, [BatchError("", "boom")]),
        ({"error": {"type": "t", "detail": 5}}, [BatchError("t", '{"type": "t", "detail": 5}')]),
        ({"errors": {"data": [None, 5]}}, []),
        ({"errors": {}}, []),
    ],
)
async def test_errors_of_a_batch_are_read_in_every_form(said: dict[str, Any], errors: list[BatchError]) -> None:
    async with canned(http(200, {**BATCH, "status": "failed", **said})) as server, client(server) as service:
        looked = await service.look("batch_1")
    assert isinstance(looked, Remote)
    assert [*looked.errors] == errors


async def test_the_service_may_say_when_it_wants_to_be_asked_again() -> None:
    async with canned(http(200, BATCH, ["Retry-After: 42"]), http(200, BATCH)) as server, client(server) as service:
        waits = [looked.retry_after for _ in range(2) if isinstance(looked := await service.look("b"), Remote)]
    assert waits == [42.0, None]


async def test_a_job_in_a_wrapper_is_a_batch() -> None:
    job = {"id": "b", "status": "COMPLETED", "progress": 100, "output_file_id": "o", "completed_at": "2025-01-01"}
    async with canned(http(200, {"job": job, "warning": ""})) as server, client(server, TOGETHER) as service:
        made = await service.create("f", "n", "/v1/chat/completions", "k")
    assert isinstance(made, Remote)
    assert (made.id, made.state, made.output_file, made.total) == ("b", RemoteState.COMPLETED, "o", None)


def row(number: int, **said: Any) -> dict[str, Any]:
    return {"id": f"b{number}", "status": "completed", "created_at": 2_000_000_000 - number, **said}


async def test_a_batch_is_found_on_the_third_page_by_its_name() -> None:
    pages = [
        {"data": [row(1), row(2)], "has_more": True, "last_id": "b2"},
        {"data": [row(3), row(4)], "has_more": True},
        {"data": [row(5), row(6, metadata={NAME: "ours"})], "has_more": False},
    ]
    async with canned(*(http(200, {"object": "list", **page}) for page in pages)) as server, client(server) as service:
        found = await service.find("ours", "", since=1_000_000_000)
        assert [*map(path_of, server.asked)] == [
            "/v1/batches?limit=100",
            "/v1/batches?limit=100&after=b2",
            "/v1/batches?limit=100&after=b4",
        ]
    assert isinstance(found, list)
    assert [batch.id for batch in found] == ["b6"]


async def test_a_batch_without_metadata_is_found_by_its_file_and_another_name_is_not_ours() -> None:
    rows = [row(1, input_file_id="f", metadata={NAME: "theirs"}), row(2, input_file_id="f"), row(3, input_file_id="g")]
    async with canned(http(200, {"object": "list", "data": rows})) as server, client(server) as service:
        by_file, by_nothing = await service.find("ours", "f", since=0), await service.find("ours", "", since=0)
    assert isinstance(by_file, list)
    assert [batch.id for batch in by_file] == ["b2"]
    assert by_nothing == []


async def test_a_list_is_left_where_it_is_older_than_the_file_unless_the_oldest_come_first() -> None:
    newest_first = {"data": [row(1), row(7200)], "has_more": True}
    oldest_first = {"data": [row(7200), row(1)], "has_more": True}
    last = {"data": [row(0, metadata={NAME: "ours"})], "has_more": False}
    async with canned(http(200, newest_first), http(200, last)) as server, client(server) as service:
        assert await service.find("ours", "", since=2_000_000_000 + 5000) == []
        assert len(server.asked) == 1
    async with canned(http(200, oldest_first), http(200, last)) as server, client(server) as service:
        assert await service.find("ours", "", since=2_000_000_000 + 5000) != []


async def test_lists_go_on_by_marks_in_one_piece_and_never_in_a_circle() -> None:
    marked = [{"data": [row(1)], "paging": {"next_cursor": "c2"}}, {"data": [row(2, input_file_id="f")], "paging": {}}]
    async with canned(*(http(200, page) for page in marked)) as server, client(server, GROQ) as service:
        found = await service.find("n", "f", since=0)
        assert [*map(path_of, server.asked)][1:] == ["/v1/batches?limit=100&cursor=c2"]
    assert isinstance(found, list)
    assert len(found) == 1
    async with canned(http(200, [row(1, input_file_id="f"), 5, {"no": "id"}])) as server, client(server) as service:
        assert await service.find("n", "f", since=0) == [found[0]._replace(id="b1", created=1_999_999_999)]
    circle = http(200, {"data": [row(1)], "has_more": True})
    async with canned(circle) as server, client(server) as service:
        assert await service.find("n", "f", since=0) == []
        assert len(server.asked) == 2


async def test_a_file_is_found_by_its_name() -> None:
    files = [
        {"id": "f1", "filename": "other.jsonl", "created_at": 5},
        {"id": "f2", "filename": "ours.jsonl", "created_at": 3},
        {"id": "f3", "filename": "ours.jsonl", "created_at": 4},
    ]
    async with canned(http(200, {"object": "list", "data": files})) as server, client(server) as service:
        assert await service.find_file("ours.jsonl") == "f3"
        assert await service.find_file("nobodys.jsonl") is None
        assert path_of(server.asked[0]) == "/v1/files?purpose=batch"
    async with canned(http(404, {"error": {"message": "no route"}})) as server, client(server) as service:
        assert await service.find_file("ours.jsonl") is None
    async with canned(http(500, PAGE)) as server, client(server) as service:
        assert isinstance(await service.find_file("ours.jsonl"), Failure)


# --- bad days ---


@pytest.mark.parametrize(
    ("reply", "status", "said"),
    [
        (http(502, PAGE), 502, "Bad gateway"),
        (http(413, "<html>413 Request Entity Too Large</html>"), 413, "Too Large"),
        (http(200, PAGE), None, "Bad gateway"),
        (http(200, b"{broken"), None, "{broken"),
        (http(200, b""), None, "an empty body"),
        (http(200, "null"), None, "null"),
        (http(200, {"error": {"message": "no such batch", "code": "nope"}}), None, "no such batch"),
        (http(200, {"code": 20012, "message": "Model does not exist", "data": None}), None, "Model does not exist"),
        (http(401, '"Invalid token"'), 401, "Invalid token"),
        (http(200, {"object": "batch", "status": "completed"}), None, "does not describe a batch"),
        (http(307, b"", ["Location: http://127.0.0.1:1/v1/x?k=1"]), 307, "leads elsewhere, to http://127.0.0.1:1/v1/x"),
        (Reply(b"", Then.CLOSE), None, ""),
        (Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", Then.CLOSE), None, ""),
        (Reply(b"", Then.RESET), None, ""),
        (Reply(b"what?\r\n\r\n", Then.CLOSE), None, ""),
    ],
)
async def test_an_odd_answer_is_a_failure(reply: Reply, status: int | None, said: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"{}\n")
    calls: list[Callable[[BatchService], Any]] = [
        lambda service: service.look("b"),
        lambda service: service.cancel("b"),
        lambda service: service.create("f", "n", "/u", "k"),
        lambda service: service.upload(tmp_path / "in.jsonl", "x.jsonl"),
        lambda service: service.find("n", "f", 0),
    ]
    for call in calls:
        async with canned(reply) as server, client(server) as service:
            failure = await call(service)
            assert len(server.asked) == 1  # nothing is sent again by itself
        assert isinstance(failure, Failure)
        assert failure.status == status
        assert said.replace("a batch", "") in failure.message


async def test_the_wait_and_the_code_of_a_refusal_are_known() -> None:
    body = {"error": {"message": "Slow down", "type": "requests", "code": "rate_limit_exceeded"}}
    async with canned(http(429, body, ["Retry-After: 7"])) as server, client(server) as service:
        failure = await service.create("f", "n", "/u", "k")
    assert isinstance(failure, Failure)
    assert (failure.status, failure.code, failure.retry_after) == (429, "rate_limit_exceeded", 7.0)
    assert not failure.may_be_billed


@pytest.mark.parametrize(
    ("reply", "may_be"),
    [
        (http(400, {"error": {"message": "no"}}), False),
        (http(504, PAGE), True),
        (Reply(b"", Then.RESET), True),
        (http(200, {"object": "batch"}), True),
    ],
)
async def test_a_create_says_whether_there_may_be_a_batch(reply: Reply, may_be: bool) -> None:
    async with canned(reply) as server, client(server) as service:
        failure = await service.create("f", "n", "/u", "k")
    assert isinstance(failure, Failure)
    assert failure.may_be_billed is may_be


async def test_headers_of_the_users_go_along_and_what_the_sdk_adds_of_its_own_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-another-account")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-account-1")
    async with canned(http(200, BATCH)) as server:
        for headers, sent in (({}, None), ({"openai-organization": "org-mine"}, "org-mine")):
            async with client(server, api_key=None, headers=headers) as service:
                await service.look("b")
            assert server.asked[-1].headers.get("openai-organization") == sent
            assert "authorization" not in server.asked[-1].headers


async def test_a_batch_that_is_not_there_is_a_404() -> None:
    gone = http(404, {"error": {"message": "No batch found with id 'b'"}})
    async with canned(gone) as server, client(server) as service:
        failure = await service.look("../b?x")
        assert path_of(server.asked[0]) == "/v1/batches/..%2Fb%3Fx"
        assert isinstance(failure, Failure)
        assert failure.status == 404


async def test_the_key_is_in_no_message_no_log_and_no_repr(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    echo = http(401, {"error": {"message": f"Incorrect API key provided: {KEY}", "code": KEY}})
    caplog.set_level(logging.DEBUG)
    shown: list[object] = []
    async with canned(echo) as server, client(server, headers={"X-Team": "team-secret-0815"}) as service:
        shown += [await service.look("b"), await service.create("f", "n", "/u", "k"), await service.find("n", "f", 0)]
        shown += [
            await service.download("f", tmp_path / "out"),
            service.read(f'{{"custom_id": "1", "error": "{KEY}"}}'.encode()),
        ]
        shown += [service, service._link]
        assert server.asked[0].headers["x-team"] == "team-secret-0815"
    said = f"{shown} {caplog.text}"
    assert "[API key]" in said
    assert KEY not in said
    assert "team-secret-0815" not in said


async def test_a_call_that_is_cancelled_ends_at_once() -> None:
    async with canned(Reply(b"", Then.HANG)) as server, client(server) as service:
        call = asyncio.ensure_future(service.look("b"))
        await server.came.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.left.wait()


# --- downloads ---

LINES = b"".join(b'{"custom_id": "%d"}\n' % number for number in range(5000))
HEAD = b"HTTP/1.1 200 OK\r\n"


def in_chunks(data: bytes, *, ends: bool = True) -> Reply:
    chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
    sent = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n" * ends
    return Reply(sent, Then.GO_ON if ends else Then.CLOSE)


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(HEAD + b"Content-Length: %d\r\n\r\n" % len(LINES) + LINES[:70_000], Then.CLOSE),
        Reply(HEAD + b"Content-Length: %d\r\n\r\n" % len(LINES) + LINES[:70_000], Then.RESET),
        in_chunks(LINES[:70_000], ends=False),
        http(200, PAGE),
        http(200, PAGE, ["Content-Type: text/html"]),
        http(200, {"error": {"message": "File not ready"}}),
        http(200, b'[{"custom_id": "1"}]'),
        http(404, {"error": {"message": "No such File object"}}),
        http(500, PAGE),
        http(206, LINES),
        http(302, b"", ["Location: /v1/files/f/content"]),
        http(302, b""),
    ],
)
async def test_a_download_that_is_not_whole_is_not_there(reply: Reply, tmp_path: Path) -> None:
    (tmp_path / "before").write_bytes(b"old")
    async with canned(reply) as server, client(server) as service:
        for name in ("out", "before"):
            assert isinstance(await service.download("f", tmp_path / name), Failure)
    assert names_in(tmp_path) == ["before"]
    assert (tmp_path / "before").read_bytes() == b"old"


@pytest.mark.parametrize("size", [len(LINES), len(LINES) + 5, None])
async def test_a_download_whose_end_nothing_marks_is_checked_by_the_size_of_the_file(
    size: int | None, tmp_path: Path
) -> None:
    replies = [Reply(HEAD + b"Connection: close\r\n\r\n" + LINES, Then.CLOSE), http(200, {"id": "f", "bytes": size})]
    async with canned(*replies) as server, client(server) as service:
        failure = await service.download("f", tmp_path / "out")
    assert (failure is None) == (names_in(tmp_path) == ["out"]) == (size in {len(LINES), None})


@pytest.mark.parametrize("data", [b"", LINES, b"\xef\xbb\xbf" + LINES, b'\n{"custom_id": "1"}'])
@pytest.mark.parametrize("frame", [partial(http, 200), in_chunks], ids=["length", "chunks"])
async def test_a_whole_download_is_there_as_it_came(
    data: bytes, frame: Callable[[bytes], Reply], tmp_path: Path
) -> None:
    async with canned(frame(data)) as server, client(server) as service:
        assert await service.download("f/../x", tmp_path / "out") is None
        assert path_of(server.asked[0]) == "/v1/files/f%2F..%2Fx/content"
    assert (tmp_path / "out").read_bytes() == data
    assert names_in(tmp_path) == ["out"]


async def test_a_redirect_is_followed_and_another_host_gets_no_key(tmp_path: Path) -> None:
    async with canned(http(200, LINES)) as storage:
        there = f"{storage.base_url}/signed?token=1"
        replies = [http(302, b"", ["Location: /elsewhere"]), http(307, b"", [f"Location: {there}"])]
        async with canned(*replies) as server, client(server, headers={"X-Team": "team-secret-0815"}) as service:
            assert await service.download("f", tmp_path / "out") is None
            assert [*map(path_of, server.asked)] == ["/v1/files/f/content", "/elsewhere"]
            assert {each.headers.get("authorization") for each in server.asked} == {f"Bearer {KEY}"}
        assert path_of(storage.asked[0]) == "/v1/signed?token=1"
        assert not {"authorization", "api-key", "x-team"} & storage.asked[0].headers.keys()
    assert (tmp_path / "out").read_bytes() == LINES


async def test_a_download_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async with (
        canned(Reply(HEAD + b"Content-Length: 200000\r\n\r\n" + LINES, Then.HANG)) as server,
        client(server) as service,
    ):
        call = asyncio.ensure_future(service.download("f", tmp_path / "out"))
        await server.came.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert names_in(tmp_path) == []


async def test_a_local_file_that_cannot_be_read_or_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    async with canned(http(200, LINES)) as server, client(server) as service:
        with pytest.raises(FileNotFoundError):
            await service.upload(tmp_path / "none.jsonl", "x.jsonl")
        with pytest.raises(FileNotFoundError):
            await service.download("f", tmp_path / "none" / "out")
        assert server.asked == []


class Taker:
    """Takes uploads, and sends files of 24 MB, piece by piece.

    Attributes:
        came: the bytes that came.
    """

    def __init__(self) -> None:
        self.came = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                left = int(head.partition("content-length: ")[2].split("\r\n")[0] or 0)
                while left:
                    piece = await reader.read(min(left, 65_536))
                    left -= len(piece)
                    self.came += len(piece)
                await (self._answer(writer) if head.startswith("post") else self._send(writer))

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        writer.write(http(200, {"id": "f"}).data)

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: 24000000\r\n\r\n")
        for _ in range(1000):
            writer.write(LINES[:24_000])
            await writer.drain()


async def test_files_are_not_held_in_memory(tmp_path: Path) -> None:
    line = b'{"custom_id": "%s"}\n' % (b"x" * 980)
    (tmp_path / "in.jsonl").write_bytes(line * 24_000)
    callers, taker = ChatCallers({}), Taker()
    async with await asyncio.start_server(taker.connected, "127.0.0.1", 0) as server:
        service = callers.batches(Endpoint("m", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"))
        tracemalloc.start()
        assert await service.upload(tmp_path / "in.jsonl", "x.jsonl") == "f"
        assert await service.download("f", tmp_path / "out.jsonl") is None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        await callers.close()
    assert taker.came > 24_000 * len(line)
    assert (tmp_path / "out.jsonl").stat().st_size == 24_000_000
    assert peak < 8_000_000


# --- which service it is ---


Make = Callable[..., BatchService]


@pytest.fixture
async def batches() -> AsyncIterator[Make]:
    callers: Callers = ChatCallers({})
    yield lambda model, base_url, **more: callers.batches(Endpoint(model, base_url, **more))
    await callers.close()


@pytest.mark.parametrize(
    ("base_url", "path"),
    [
        ("https://api.openai.com/v1", "/v1/chat/completions"),
        ("https://mine.openai.azure.com/openai/deployments/my%20gpt?api-version=2024-10-21", "/chat/completions"),
        ("https://mine.openai.azure.com/openai/v1", "/chat/completions"),
        ("https://dashscope.aliyuncs.com/compatible-mode/v1", "/v1/chat/completions"),
        ("https://open.bigmodel.cn/api/paas/v4", "/v4/chat/completions"),
        ("https://api.groq.com/openai/v1", "/v1/chat/completions"),
        ("https://qianfan.baidubce.com/v2", "/v2/chat/completions"),
        ("https://relay.example/api/v1", "/v1/chat/completions"),
        ("https://relay.example/openai", "/v1/chat/completions"),
    ],
)
async def test_lines_name_the_path_that_their_service_wants(base_url: str, path: str, batches: Make) -> None:
    service = batches("m", base_url)
    assert service.url() == path
    assert json.loads(service.line("7", [{"role": "user", "content": "hi"}]))["url"] == path


async def test_tasks_have_paths_of_their_own(batches: Make) -> None:
    service = batches("m", OPENAI_URL)
    assert service.url(Terms(Task.EMBEDDING)) == "/v1/embeddings"
    assert service.url(Terms(Task.COMPLETION)) == "/v1/completions"


async def test_the_free_test_model_has_a_path_and_limits_of_its_own(batches: Make) -> None:
    base_url = "https://dashscope.aliyuncs.com/compatible-mode/v1"
    service, real = batches("batch-test-model", base_url), batches("qwen-plus", base_url)
    assert service.url() == "/v1/chat/ds-test"
    assert service.limits[:4] == (100, 1_000_000, 0, 2)
    assert (real.url(), real.limits.requests) == ("/v1/chat/completions", 50_000)


async def test_the_model_of_a_line_at_azure_is_the_deployment_and_the_key_goes_into_its_header() -> None:
    async with canned(http(200, BATCH)) as server:
        base_url = server.base_url.removesuffix("/v1") + "/openai/deployments/my%20gpt?api-version=2024-10-21"
        callers = ChatCallers({})
        service = callers.batches(Endpoint("gpt-4o", base_url, KEY))
        assert json.loads(service.line("7", []))["body"]["model"] == "my gpt"
        await service.look("b")
        await callers.close()
        assert path_of(server.asked[0]) == "/openai/batches/b?api-version=2024-10-21"
        assert server.asked[0].headers["api-key"] == KEY
        assert "authorization" not in server.asked[0].headers


@pytest.mark.parametrize("name", ["mistral", "fireworks", "ark", "gemini"])
async def test_a_service_that_is_known_to_have_no_such_api_is_refused_with_the_reason(name: str, batches: Make) -> None:
    with pytest.raises(SettingsError, match=rf'via="batch": {name} cannot be used by batches: .*; leave via out'):
        batches("m", SERVICES[name].base_url)


async def test_a_chat_model_has_no_batches(batches: Make) -> None:
    with pytest.raises(SettingsError, match="a chat model in llm= has no batches"):
        batches(None, OPENAI_URL, llm=object())


# --- the way there ---


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Remove what this machine sets for proxies and certificates."""
    for name in [*os.environ]:
        if name.lower().endswith("_proxy") or name in {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}:
            monkeypatch.delenv(name)
    return monkeypatch


async def test_a_proxy_tunnels_calls_and_files_and_only_the_service_gets_the_key(
    variables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variables.setenv("SSL_CERT_FILE", str(authority_in(tmp_path)))
    replies = [http(200, BATCH), http(200, LINES)]
    async with (
        canned(*replies, tls=serving("model.example")) as server,
        proxying(server.base_url, "me:p@ss/word") as proxy,
    ):
        variables.setenv("HTTPS_PROXY", proxy.url.replace("://", "://me:p%40ss%2Fword@"))
        server.base_url = "https://model.example/v1"
        async with client(server) as service:
            assert isinstance(await service.look("b"), Remote)
            assert await service.download("f", tmp_path / "out") is None
    assert {*proxy.lines} == {"CONNECT model.example:443 HTTP/1.1"}
    for asked in server.asked:
        assert asked.headers["authorization"] == f"Bearer {KEY}"
        assert "proxy-authorization" not in asked.headers


async def test_a_proxy_that_wants_another_password_is_named_without_it(
    variables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with canned(http(200, BATCH)) as server, proxying(server.base_url, "me:right-one") as proxy:
        variables.setenv("HTTP_PROXY", proxy.url.replace("://", "://me:wrong-one@"))
        server.base_url = "http://model.example/v1"
        async with client(server) as service:
            for failure in (await service.look("b"), await service.download("f", tmp_path / "out")):
                assert isinstance(failure, Failure)
                assert "wrong-one" not in f"{failure}"
                assert "HTTP_PROXY" in failure.message
                assert refused_for_good(failure)
    assert server.asked == []


@pytest.mark.usefixtures("variables")
async def test_a_certificate_that_cannot_be_trusted_ends_it_in_words() -> None:
    async with canned(http(200, BATCH), tls=serving("127.0.0.1")) as server, client(server) as service:
        failure = await service.look("b")
    assert isinstance(failure, Failure)
    assert (failure.fault, failure.may_be_billed) == (Fault.UNREACHABLE, False)
    assert "signed by an authority that this machine does not know" in failure.message
    assert server.asked == []


async def test_nothing_listens_in_words(batches: Make) -> None:
    failure = await batches("m", f"http://127.0.0.1:{closed_port()}/v1").look("b")
    assert isinstance(failure, Failure)
    assert failure.fault is Fault.CONNECTION
    assert not failure.may_be_billed
    assert failure.message.startswith("nothing listens at http://127.0.0.1:")

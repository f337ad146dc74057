from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import finish, started
from server_client import chat, request, stats_when, unanswered

from batcher.cli.parser import build_parser
from batcher.errors import SettingsError
from batcher.server.answers import answer
from batcher.server.books import Books
from batcher.server.completions import chat_body, chat_events, make_chat
from batcher.server.faults import Bucket, Fate
from batcher.server.listening import PORT, listen
from batcher.server.requests import read_chat
from batcher.server.responses import Refusal
from batcher.server.serve import Server, build_app, embedded, serve
from batcher.server.simulated import Knobs

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[Server]:
    with embedded() as running:
        yield running


# --- the protocol ---


def test_an_answer_has_the_shape_of_openai(server: Server) -> None:
    reply = chat(server.base_url, "What is 2 + 3?")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json["id"].startswith("chatcmpl-")
    assert reply.json["object"] == "chat.completion"
    assert reply.json["model"] == "m"
    assert isinstance(reply.json["created"], int)
    choice = reply.json["choices"][0]
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert (choice["message"]["role"], choice["message"]["content"]) == ("assistant", "5")
    assert reply.json["usage"] == {"prompt_tokens": 4, "completion_tokens": 1, "total_tokens": 5}


@pytest.mark.parametrize("body", [{"model": "m", "messages": [{"role": "user", "content": "hello"}]}, {}])
def test_an_answer_and_a_refusal_name_their_request(server: Server, body: object) -> None:
    connection = http.client.HTTPConnection(urlsplit(server.base_url).netloc)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"X-Request-ID": "mine"})
        assert connection.getresponse().getheader("X-Request-ID") == "mine"


def test_as_many_choices_come_as_are_wanted(server: Server) -> None:
    reply = chat(server.base_url, n=3)
    assert [choice["index"] for choice in reply.json["choices"]] == [0, 1, 2]
    assert reply.json["usage"]["completion_tokens"] == 3 * chat(server.base_url).json["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    "prompt", ["你好", "👋🏽", "half \ud83d of a pair", 'quoted "x"\n', [{"type": "text", "text": "p"}]]
)
def test_any_text_survives_the_way(server: Server, prompt: object) -> None:
    assert chat(server.base_url, prompt).text == answer({"messages": [{"role": "user", "content": prompt}]})
    assert request(server.base_url, "GET", "/stats").json == server.books.to_dict()


def test_a_stream_adds_up_to_the_answer(server: Server) -> None:
    prompt = "a long prompt with 👋 " * 10
    reply = chat(server.base_url, prompt, stream=True, stream_options={"include_usage": True}, n=2)
    assert reply.headers["content-type"].startswith("text/event-stream")
    *events, done = [event.removeprefix("data: ") for event in reply.body.decode().split("\n\n") if event]
    assert done == "[DONE]"
    *chunks, last = map(json.loads, events)
    whole = chat(server.base_url, prompt, n=2).json
    for index in range(2):
        parts = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert (
            "".join(part["delta"].get("content", "") for part in parts) == whole["choices"][index]["message"]["content"]
        )
        assert [part["finish_reason"] for part in parts][-1] == "stop"
    assert {chunk["object"] for chunk in [*chunks, last]} == {"chat.completion.chunk"}
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert server.books.answered == 2


@pytest.mark.parametrize(
    ("limits", "tokens"),
    [
        ({"max_tokens": 3}, 3),
        ({"max_completion_tokens": 3}, 3),
        ({"max_completion_tokens": 7, "max_tokens": 2}, 2),
        ({"max_completion_tokens": 1, "max_tokens": None}, 1),
    ],
)
def test_an_answer_is_cut_off_at_the_limit_that_the_request_sets(
    server: Server, limits: dict[str, Any], tokens: int
) -> None:
    whole = chat(server.base_url, "one two three four").text
    cut = chat(server.base_url, "one two three four", n=2, **limits).json
    assert [choice["message"]["content"] for choice in cut["choices"]] == [whole[: 4 * tokens]] * 2
    assert [choice["finish_reason"] for choice in cut["choices"]] == ["length"] * 2
    usage = cut["usage"]
    assert usage["completion_tokens"] == 2 * tokens
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_limit_that_the_answer_just_keeps_does_not_cut_it(server: Server) -> None:
    whole = chat(server.base_url).json
    tokens = whole["usage"]["completion_tokens"]
    for limit in (tokens, 10**30):
        same = chat(server.base_url, max_tokens=limit).json
        assert (same["choices"], same["usage"]) == (whole["choices"], whole["usage"])
    assert chat(server.base_url, max_tokens=tokens - 1).json["choices"][0]["finish_reason"] == "length"


@given(
    st.text(min_size=1, max_size=200),
    st.none() | st.integers(1, 5),
    st.none() | st.integers(1, 30),
    st.sampled_from([Fate.ANSWER, Fate.LENGTH, Fate.CHOICES]),
)
def test_whole_or_as_a_stream_the_choices_and_the_usage_agree(
    prompt: str, n: int | None, limit: int | None, fate: Fate
) -> None:
    messages = [{"role": "user", "content": prompt}]
    options = {"n": n, "max_tokens": limit, "stream": True, "stream_options": {"include_usage": True}}
    request = read_chat(json.dumps({"model": "m", "messages": messages, **options}).encode())
    assert not isinstance(request, Refusal)
    made = make_chat(request, 1, fate)
    whole = chat_body(made)
    texts = [choice["message"]["content"] for choice in whole["choices"]]
    assert len(texts) == max(n or 1, 3 if fate is Fate.CHOICES else 1)
    assert whole["usage"]["completion_tokens"] == sum(max(-(-len(text) // 4), 1) for text in texts)
    assert all(text and (limit is None or len(text) <= 4 * limit) for text in texts)
    *chunks, last = map(json.loads, chat_events(made, request.options, fate))
    streamed = ["" for _ in texts]
    ends = [None for _ in texts]
    for chunk in chunks:
        [part] = chunk["choices"]
        streamed[part["index"]] += part["delta"].get("content", "")
        ends[part["index"]] = part["finish_reason"]
    assert streamed == texts
    assert ends == [choice["finish_reason"] for choice in whole["choices"]]
    assert last["usage"] == whole["usage"]


def test_a_stream_has_no_usage_unless_it_is_wanted(server: Server) -> None:
    assert b"usage" not in chat(server.base_url, stream=True).body


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"\xff\xfe\xfd", None),
        (b"[]", None),
        (b"[" * 200_000, None),
        (b'{"model": "", "messages": [{"role": "user", "content": "p"}]}', "model"),
        (b'{"model": 7, "messages": [{"role": "user", "content": "p"}]}', "model"),
        (b'{"model": "m"}', "messages"),
        (b'{"model": "m", "messages": []}', "messages"),
        (b'{"model": "m", "messages": ["p"]}', "messages"),
        (b'{"model": "m", "messages": [{}], "n": 0}', "n"),
        (b'{"model": "m", "messages": [{}], "n": true}', "n"),
        (b'{"model": "m", "messages": [{}], "n": ' + b"9" * 5_000 + b"}", None),
        (b'{"model": "m", "messages": [{}], "max_tokens": 0}', "max_tokens"),
        (b'{"model": "m", "messages": [{}], "max_tokens": "5"}', "max_tokens"),
        (b'{"model": "m", "messages": [{}], "max_tokens": 5, "max_completion_tokens": 1.5}', "max_completion_tokens"),
        (b'{"model": "m", "messages": [{}], "max_completion_tokens": true}', "max_completion_tokens"),
    ],
)
def test_a_bad_request_is_told_why(server: Server, body: bytes, param: str | None) -> None:
    reply = request(server.base_url, "POST", "/v1/chat/completions", body)
    assert reply.status == 400
    error = reply.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert (server.books.by_status, server.books.in_flight) == ({400: 1}, 0)


@pytest.mark.parametrize("depth", [300, 600, 900, 940, 960, 980, 990, 2_000])
def test_deep_nesting_is_answered_or_refused_but_never_a_crash(server: Server, depth: int) -> None:
    body = b'{"model": "m", "messages": [{"content": ' + b"[" * depth + b"]" * depth + b"}]}"
    assert request(server.base_url, "POST", "/v1/chat/completions", body).status in (200, 400)
    assert (server.books.requests, server.books.in_flight) == (1, 0)


def test_the_small_routes_answer() -> None:
    with embedded(Knobs(model="sim-1")) as server:
        assert request(server.base_url, "GET", "/health").json == {"status": "ok"}
        assert request(server.base_url, "GET", "/v1/models").json["data"][0]["id"] == "sim-1"
        assert request(server.base_url, "GET", "/stats").json["requests"] == 0


def test_an_unknown_route_is_an_error_of_the_same_shape(server: Server) -> None:
    reply = request(server.base_url, "POST", "/chat/completions", b"{}")
    assert (reply.status, reply.json["error"]["type"]) == (404, "invalid_request_error")
    assert request(server.base_url, "GET", "/v1/chat/completions").status == 405


def test_the_books_can_be_reset(server: Server) -> None:
    chat(server.base_url)
    assert request(server.base_url, "POST", "/stats/reset").status == 200
    assert request(server.base_url, "GET", "/stats").json["requests"] == 0


# --- the knobs, with the books as evidence ---


def test_a_wrong_key_is_refused() -> None:
    with embedded(Knobs(keys=("sk-1", "sk-2"))) as server:
        replies = [chat(server.base_url, key=key) for key in ("sk-1", "sk-2", "sk-3", "")]
        assert [reply.status for reply in replies] == [200, 200, 401, 401]
        assert replies[2].json["error"]["code"] == "invalid_api_key"
        assert server.books.by_status == {200: 2, 401: 2}
        assert request(server.base_url, "POST", "/v1/chat/completions", b"{").status == 401
        assert len(server.books.by_key) == 4
        assert "sk-" not in json.dumps(server.books.to_dict())


def test_an_unknown_model_is_refused() -> None:
    with embedded(Knobs(model="sim-1")) as server:
        reply = chat(server.base_url)
        assert (reply.status, reply.json["error"]["code"]) == (404, "model_not_found")
        assert chat(server.base_url, model="sim-1").status == 200
        assert server.books.by_status == {404: 1, 200: 1}


def test_requests_beyond_the_limit_are_told_when_to_come_back() -> None:
    with embedded(Knobs(rpm=0.06)) as server:  # one in 1,000 seconds
        first, second = chat(server.base_url), chat(server.base_url)
        assert (first.status, second.status) == (200, 429)
        assert 900 < int(second.headers["retry-after"]) <= 1_000
        assert second.json["error"]["code"] == "rate_limit_exceeded"
        assert server.books.by_status == {200: 1, 429: 1}
        assert server.books.requests_by_prompt == {"hello": 2}
        assert server.books.answered_by_prompt == {"hello": 1}


def test_more_than_it_can_do_at_a_time_is_refused_until_something_ends() -> None:
    with embedded(Knobs(hang_rate=1, max_in_flight=2)) as server:
        connections = [http.client.HTTPConnection(urlsplit(server.base_url).netloc) for _ in range(2)]
        for connection in connections:
            body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
            connection.request("POST", "/v1/chat/completions", body)
        stats_when(server.base_url, "hung", 2)
        refused = chat(server.base_url)
        assert refused.status == 429
        assert "retry-after" not in refused.headers
        assert refused.json["error"]["message"] == "Too many requests: 2 at a time."
        for connection in connections:
            connection.close()
        stats_when(server.base_url, "in_flight", 0)
        assert server.books.by_status == {429: 1}


def test_the_limit_is_an_even_pace_with_one_second_of_credit() -> None:
    now = 0.0
    bucket = Bucket(120, lambda: now)
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.5]
    now = 0.25
    assert bucket.take() == 0.25
    now = 0.5
    assert [bucket.take(), bucket.take()] == [0, 0.5]
    now = 1_000.0
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.5]


def test_a_minute_holds_no_more_than_the_limit() -> None:
    now = 0.0
    bucket = Bucket(600, lambda: now)
    passed = 0
    for _ in range(60_000):
        now += 0.001
        passed += bucket.take() == 0
    assert 600 <= passed <= 600 + 11


def test_a_share_of_requests_fails_and_a_retry_draws_anew() -> None:
    with embedded(Knobs(error_rate=0.5, seed=3)) as server:
        statuses = [chat(server.base_url).status for _ in range(20)]
        assert set(statuses) == {200, 500}
        request(server.base_url, "POST", "/stats/reset")
        assert [chat(server.base_url).status for _ in range(20)] == statuses
        assert server.books.by_status == {status: statuses.count(status) for status in (200, 500)}
    with embedded(Knobs(error_rate=1)) as server:
        assert chat(server.base_url).json["error"]["type"] == "server_error"


def test_a_dropped_connection_ends_without_a_byte(capfd: pytest.CaptureFixture[str]) -> None:
    with embedded(Knobs(drop_rate=1)) as server:
        with unanswered(server.base_url) as client:
            assert client.recv(1) == b""
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            chat(server.base_url)
        assert (server.books.dropped, server.books.in_flight, server.books.by_status) == (2, 0, {})
    assert capfd.readouterr() == ("", "")


def test_a_response_that_is_cut_ends_half_way(capfd: pytest.CaptureFixture[str]) -> None:
    with embedded(Knobs(cut_rate=1)) as server:
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            chat(server.base_url)
        assert (server.books.dropped, server.books.in_flight, server.books.by_status) == (1, 0, {})
    assert capfd.readouterr() == ("", "")


def test_a_hung_request_is_never_answered_and_ends_with_its_client(capfd: pytest.CaptureFixture[str]) -> None:
    with embedded(Knobs(hang_rate=1)) as server:
        with unanswered(server.base_url):
            assert stats_when(server.base_url, "hung", 1)["in_flight"] == 1
        assert stats_when(server.base_url, "in_flight", 0)["by_status"] == {}
    assert capfd.readouterr() == ("", "")


def test_the_end_of_the_server_ends_hung_requests(capfd: pytest.CaptureFixture[str]) -> None:
    with contextlib.ExitStack() as clients:
        with embedded(Knobs(hang_rate=1)) as server:
            held = [clients.enter_context(unanswered(server.base_url)) for _ in range(5)]
            stats_when(server.base_url, "hung", 5)
        assert [client.recv(1) for client in held] == [b""] * 5
    assert (server.books.in_flight, server.books.peak_in_flight, server.books.requests) == (0, 5, 5)
    assert capfd.readouterr() == ("", "")


def test_a_client_that_does_not_wait_out_the_latency_is_written_down() -> None:
    with embedded(Knobs(latency=3_600)) as server:
        with unanswered(server.base_url, "slow"):
            assert stats_when(server.base_url, "in_flight", 1)["requests_by_prompt"] == {"slow": 1}
        stats = stats_when(server.base_url, "in_flight", 0)
        assert (stats["abandoned"], stats["answered"], stats["hung"]) == (1, 0, 0)


def test_requests_wait_out_their_latency_side_by_side() -> None:
    with embedded(Knobs(latency=0.2, latency_sigma=0.3)) as server, ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda number: chat(server.base_url, f"p{number}"), range(8)))
        assert [reply.status for reply in replies] == [200] * 8
        assert server.books.peak_in_flight > 1
        assert server.books.in_flight == 0


def test_the_fates_are_the_same_whatever_the_order() -> None:
    def run(prompts: list[str]) -> dict[str, int]:
        with embedded(Knobs(error_rate=0.4, seed=5)) as server:
            return {prompt: chat(server.base_url, prompt).status for prompt in prompts}

    prompts = [f"p{number}" for number in range(20)]
    assert run(prompts) == run(prompts[::-1])


async def test_every_request_of_many_at_once_is_in_the_books() -> None:
    knobs = Knobs(error_rate=0.1, drop_rate=0.1, latency=0.001, latency_sigma=1, seed=1)

    async def ask(session: aiohttp.ClientSession, url: str, number: int) -> int:
        body = {"model": "m", "messages": [{"role": "user", "content": f"row {number}"}]}
        try:
            async with session.post(f"{url}/chat/completions", json=body) as response:
                await response.read()
                return response.status
        except aiohttp.ClientConnectionError:
            return 0

    with embedded(knobs) as server:
        # Nothing is kept alive: on a reused connection the client would send a dropped request twice.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            statuses = await asyncio.gather(*(ask(session, server.base_url, number) for number in range(500)))
        books = server.books
        assert books.requests == 500
        assert books.by_status == {200: statuses.count(200), 500: statuses.count(500)}
        assert books.dropped == statuses.count(0) > 0
        assert books.answered == statuses.count(200)
        assert sum(books.per_second) == 500
        assert books.in_flight == 0


# --- the life of a server ---


def test_several_servers_live_side_by_side_and_one_after_another() -> None:
    for _ in range(2):
        with embedded() as one, embedded(Knobs(error_rate=1)) as other:
            assert one.base_url != other.base_url
            assert (chat(one.base_url).status, chat(other.base_url).status) == (200, 500)
            assert (one.books.answered, other.books.answered) == (1, 0)


async def test_a_server_starts_where_a_loop_is_already_running() -> None:
    with embedded() as server:
        async with aiohttp.ClientSession() as session, session.get(f"{server.base_url}/models") as response:
            assert response.status == 200


def test_an_embedded_server_leaves_no_thread_port_or_signal_handler_behind() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with embedded() as server:
        chat(server.base_url)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    where = urlsplit(server.base_url)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((where.hostname or "", where.port or 0))


def test_an_error_in_the_block_still_ends_the_server() -> None:
    running: list[str] = []

    def fail() -> None:
        with embedded() as server:
            running.append(server.base_url)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(ConnectionRefusedError):
        chat(running[0])


def test_the_offline_server_counts_no_prompts() -> None:
    with embedded() as server:
        assert chat(server.base_url).status == 200
        assert (server.books.answered, server.books.answered_by_prompt) == (1, {})


def test_the_listener_says_that_it_is_tcp_since_asyncio_would_delay_each_answer_by_40_ms() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_taken_port_is_said_so() -> None:
    with embedded() as server:
        port = urlsplit(server.base_url).port or 0
        with pytest.raises(SettingsError, match=f"cannot listen at port {port} .*Choose another --port"):
            serve(Knobs(), port=port)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("127.0.0.1", -1), ("192.0.2.1", 0)])
def test_an_impossible_address_is_said_so(host: str, port: int) -> None:
    with pytest.raises(SettingsError, match="cannot listen at"):
        serve(Knobs(), host=host, port=port)


def test_the_app_works_in_another_asgi_server_too() -> None:
    sent: list[dict[str, Any]] = []
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "2 + 3"}]}).encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [], "query_string": b""}
    books = Books()
    asyncio.run(build_app(Knobs(), books)(scope, receive, send))
    assert json.loads(sent[1]["body"])["choices"][0]["message"]["content"] == "5"
    assert books.answered == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_prints_its_address_and_ends_at_a_signal_with_status_0(number: signal.Signals) -> None:
    code = (
        "from batcher.server.serve import serve; from batcher.server.simulated import Knobs;"
        " serve(Knobs(hang_rate=0.5, seed=1), port=0)"
    )
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        base_url = program.stdout.readline().strip()
        assert base_url.startswith("http://127.0.0.1:")
        assert base_url.endswith("/v1")
        with contextlib.ExitStack() as clients:
            for prompt in range(8):
                clients.enter_context(unanswered(base_url, f"p{prompt}"))
            stats = stats_when(base_url, "requests", 8)
            assert stats["hung"] == stats["in_flight"] > 0
            program.send_signal(number)
            out, err = program.communicate()
    assert (program.returncode, out) == (0, "")
    assert "Traceback" not in err
    assert "8 requests" in err


ANY_HOST = ["--host", "0.0.0.0"]  # noqa: S104 - what is tried


@pytest.mark.parametrize(
    ("options", "is_said"), [(ANY_HOST, True), ([], False), ([*ANY_HOST, "--api-key-env", "KEY"], False)]
)
def test_a_server_that_others_can_use_without_a_key_says_so(tmp_path: Path, options: list[str], is_said: bool) -> None:
    with started("serve", "--port", "0", *options, cwd=tmp_path, KEY="secret") as program:
        assert program.stdout is not None
        assert program.stdout.readline().startswith("http://127.0.0.1:")
        program.terminate()
        done = finish(program)
    assert done.status == 0
    assert ("It is open: whoever reaches this address may use it without a key." in done.stderr) == is_said


def test_the_command_line_and_python_listen_at_the_same_port() -> None:
    assert build_parser().parse_args(["serve"]).port == PORT == 19_327

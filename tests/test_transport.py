"""A request is sent as it was given; every outcome, also a failing network's, tells whether it may have been billed."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from canned_server import CannedServer, Reply, Then, canned, closed_port, completion, http, stream

from batcher.calls.connections import QUIET_S, Connector
from batcher.calls.transport import Attempt, Completions, open_session
from batcher.calls.ways import proxy_for
from batcher.errors import SettingsError
from batcher.hiding import Secret
from batcher.records import Allowance, Completion, Failure, Fault, ServerLimits, Task, Terms, Usage

if TYPE_CHECKING:
    import aiohttp

KEY = "sk-5ecret/With+all=kinds"
HELLO = [{"role": "user", "content": "hello"}]
FINE = Completion("fine", "stop")
OK = http(200, completion())


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as opened:
        yield opened


async def asked(
    session: aiohttp.ClientSession, base_url: str, api_key: str | None = KEY, **params: Any
) -> Completion | Failure:
    attempt = Attempt(HELLO)
    await Completions(session, base_url, api_key, "m", params).send(attempt)
    assert attempt.outcome is not None
    return attempt.outcome


async def answer_to(session: aiohttp.ClientSession, reply: Reply, **params: Any) -> Completion | Failure:
    async with canned(reply) as server:
        return await asked(session, server.base_url, **params)


# --- what goes out ---


async def test_a_request_holds_what_was_given_and_nothing_else(session: aiohttp.ClientSession) -> None:
    async with canned(OK) as server:
        assert await asked(session, server.base_url, temperature=0) == FINE
    (request,) = server.asked
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert request.json == {"model": "m", "messages": HELLO, "temperature": 0}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == f"Bearer {KEY}"


async def test_each_task_has_its_place_and_its_body_and_a_row_has_parameters_of_its_own(
    session: aiohttp.ClientSession,
) -> None:
    async with canned(OK, OK, OK, OK) as server:
        completions = Completions(session, server.base_url, KEY, "m", {"temperature": 0})
        for terms in (
            Terms(),
            Terms(params={"temperature": 1, "seed": 7}),
            Terms(Task.COMPLETION),
            Terms(Task.EMBEDDING, params={"dimensions": 3}),
        ):
            await completions.send(Attempt(HELLO, {"n": 2}, terms))
    assert [(request.line.split()[1], request.json) for request in server.asked] == [
        ("/v1/chat/completions", {"model": "m", "messages": HELLO, "temperature": 0, "n": 2}),
        ("/v1/chat/completions", {"model": "m", "messages": HELLO, "temperature": 1, "n": 2, "seed": 7}),
        ("/v1/completions", {"model": "m", "prompt": "hello", "temperature": 0, "n": 2}),
        ("/v1/embeddings", {"model": "m", "input": "hello", "temperature": 0, "n": 2, "dimensions": 3}),
    ]


async def test_headers_of_an_endpoint_go_out_beside_its_key(session: aiohttp.ClientSession) -> None:
    attempt = Attempt(HELLO)
    headers = {"X-Team": "labels", "User-Agent": "mine"}
    async with canned(OK) as server:
        await Completions(session, server.base_url, KEY, "m", {}, headers=headers).send(attempt)
    sent = server.asked[0].headers
    assert (sent["x-team"], sent["user-agent"], sent["authorization"]) == ("labels", "mine", f"Bearer {KEY}")


async def test_a_base_url_that_names_the_version_of_an_api_gets_its_path_before_it_and_the_key_in_its_own_header(
    session: aiohttp.ClientSession,
) -> None:
    async with canned(OK) as server:
        assert await asked(session, f"{server.base_url}?api-version=2024-10-21") == FINE
    (request,) = server.asked
    assert request.line == "POST /v1/chat/completions?api-version=2024-10-21 HTTP/1.1"
    assert request.headers["api-key"] == KEY
    assert "authorization" not in request.headers


@pytest.mark.parametrize("headers", [{"X-Whatever": Secret("sk-5ecret-header")}, {"X-Api-Key": "sk-5ecret-header"}])
async def test_a_key_in_a_header_is_hidden_in_whatever_the_server_says(
    session: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    said = "your key is sk-5ecret-header, your team is labels"
    hidden = "your key is [API key], your team is labels"
    for reply in (http(400, said), http(200, completion(said))):
        attempt = Attempt(HELLO)
        async with canned(reply) as server:
            completions = Completions(session, server.base_url, None, "m", {}, headers={**headers, "X-Team": "labels"})
            await completions.send(attempt)
        assert hidden in str(attempt.outcome)
        assert "5ecret" not in str(attempt.outcome)


async def test_a_refusal_of_a_request_without_a_key_says_that_none_was_sent(session: aiohttp.ClientSession) -> None:
    said = (
        "you must provide an API key (no API key was sent: --api-key-env NAME sends the one in the variable NAME of the"
        " environment or .env; in Python api_key_env, or api_key of the Endpoint)"
    )
    reply = http(401, {"error": {"message": "you must provide an API key"}})
    async with canned(reply) as server:
        assert await asked(session, server.base_url, None) == Failure(Fault.STATUS, said, 401)
        assert await asked(session, server.base_url) == Failure(Fault.STATUS, "you must provide an API key", 401)


@pytest.mark.parametrize("api_key", [None, ""])
async def test_without_a_key_no_authorization_is_sent(session: aiohttp.ClientSession, api_key: str | None) -> None:
    async with canned(OK) as server:
        await asked(session, server.base_url, api_key)
    assert "authorization" not in server.asked[0].headers


async def test_a_request_of_megabytes_goes_out_without_a_warning(session: aiohttp.ClientSession) -> None:
    attempt = Attempt([{"role": "user", "content": "x" * 3_000_000}])
    async with canned(OK) as server:
        await Completions(session, server.base_url, None, "m", {}).send(attempt)
    assert attempt.outcome == FINE
    assert server.asked[0].json["messages"] == attempt.messages


async def test_a_connection_serves_many_requests_until_one_fails(session: aiohttp.ClientSession) -> None:
    """A gateway may refuse a request and pass its answer on later; only refusals for a rate limit are too many."""
    async with canned(OK, http(429, "no"), OK, http(400, "no"), http(500, "no"), OK) as server:
        for _ in range(7):
            await asked(session, server.base_url)
            await asyncio.sleep(1.5 * QUIET_S)  # that long it rests
    assert (len(server.asked), server.connections) == (7, 3)


async def test_a_redirect_is_not_followed(session: aiohttp.ClientSession) -> None:
    async with canned(OK) as elsewhere:
        moved = http(307, "", [f"Location: {elsewhere.base_url}/chat/completions"])
        assert await answer_to(session, moved) == Failure(Fault.STATUS, "an empty body", 307)
    assert elsewhere.asked == []


# --- what comes back ---


async def test_compressed_and_chunked_answers_are_read(session: aiohttp.ClientSession) -> None:
    raw = json.dumps(completion("你好 👋")).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (raw[:9], raw[9:])) + b"0\r\n\r\n"
    zipped = http(200, gzip.compress(raw), ["Content-Encoding: gzip"])
    chunked = Reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    padded = http(200, b"\n\n\n" + raw)  # DeepSeek sends empty lines while one waits
    for reply in (zipped, chunked, padded, http(201, raw)):
        assert await answer_to(session, reply) == Completion("你好 👋", "stop")


async def test_a_refusal_is_read_with_what_the_server_asks_for(session: aiohttp.ClientSession) -> None:
    reply = http(429, {"error": {"message": "Slow", "code": "limit"}}, ["Retry-After: 7", "X-RateLimit-Remaining: 0"])
    limits = ServerLimits(Allowance(None, 0.0, None), None)
    assert await answer_to(session, reply) == Failure(Fault.STATUS, "Slow", 429, "limit", 7.0, limits)


async def test_a_200_that_is_no_completion_may_be_billed(session: aiohttp.ClientSession) -> None:
    said = Failure(Fault.PROTOCOL, "<html>Log in</html>", may_be_billed=True)
    assert await answer_to(session, http(200, "<html>Log in</html>")) == said


@pytest.mark.parametrize(("reply", "is_taken"), [(OK, False), (http(413, "too large"), True)])
async def test_an_answer_to_a_request_that_is_not_written_yet_belongs_to_another_one(
    session: aiohttp.ClientSession, reply: Reply, *, is_taken: bool
) -> None:
    """The server reads the head of a request that is larger than the sockets hold, and answers at once."""

    left = asyncio.Event()

    async def answer_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(reply.data)
            while await reader.read(2**16):
                pass
        left.set()

    attempt = Attempt([{"role": "user", "content": "x" * 30_000_000}])
    async with await asyncio.start_server(answer_early, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await Completions(session, f"http://127.0.0.1:{port}/v1", None, "m", {}).send(attempt)
        await left.wait()
    said = Failure(Fault.MIXED_UP, "it came before the request had been sent", may_be_billed=True)
    assert attempt.outcome == (Failure(Fault.STATUS, "too large", 413) if is_taken else said)


# --- streams ---


def piece(content: str | None, finish_reason: str | None = None) -> object:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}]}


USED = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
WHOLE = (piece("fi"), piece("ne"), piece(None, "stop"), USED)


@pytest.mark.parametrize(
    ("options", "sent"),
    [({}, {"include_usage": True}), ({"stream_options": None}, None), ({"stream_options": {"a": 1}}, {"a": 1})],
)
async def test_a_stream_that_was_asked_for_is_read(
    session: aiohttp.ClientSession, options: dict[str, Any], sent: object
) -> None:
    """Only with `stream_options` do servers say what a stream used; a server that refuses it can be told null."""
    async with canned(stream(*WHOLE), stream(*WHOLE)) as server:
        for _ in range(2):
            answer = await asked(session, server.base_url, stream=True, **options)
            assert answer == Completion("fine", "stop", Usage(3, 2))
            await asyncio.sleep(1.5 * QUIET_S)
    assert server.asked[0].json == {"model": "m", "messages": HELLO, "stream": True, "stream_options": sent}
    assert server.connections == 1


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
@pytest.mark.parametrize("pieces", range(4))
async def test_a_cut_stream_is_a_failure_until_the_answer_is_whole(
    session: aiohttp.ClientSession, pieces: int, then: Then
) -> None:
    answer = await answer_to(session, stream(*WHOLE[:pieces], then=then, end=False), stream=True)
    if pieces == 3:  # what the answer used is lost, but not the answer
        assert answer == FINE
    else:
        assert isinstance(answer, Failure)
        assert (answer.fault, answer.may_be_billed) == (Fault.CONNECTION, True)


async def test_a_stream_that_ends_without_its_end_is_a_failure(session: aiohttp.ClientSession) -> None:
    answer = await answer_to(session, stream(*WHOLE[:2]), stream=True)
    assert isinstance(answer, Failure)
    assert (answer.fault, answer.may_be_billed) == (Fault.PROTOCOL, True)
    assert answer.message.startswith("the stream ended before the answer did; the last of it was {")


async def test_a_server_may_stream_or_not_whatever_was_asked(session: aiohttp.ClientSession) -> None:
    assert await answer_to(session, OK, stream=True) == FINE
    assert await answer_to(session, stream(*WHOLE)) == Completion("fine", "stop", Usage(3, 2))
    refused = Failure(Fault.STATUS, "Slow", 429)
    assert await answer_to(session, http(429, {"error": {"message": "Slow"}}), stream=True) == refused


# --- no answer ---


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"", Then.CLOSE),
        Reply(b"", Then.RESET),
        Reply(b"HTTP/1.1 200", Then.CLOSE),
        Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{", Then.CLOSE),
        Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{", Then.RESET),
        Reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{", Then.CLOSE),
        Reply(f"this is no HTTP, {KEY}\r\n\r\n".encode(), Then.CLOSE),
        http(200, b"this is not compressed", ["Content-Encoding: gzip"]),
    ],
    ids=["closed", "reset", "cut head", "cut body", "reset body", "cut chunk", "no HTTP", "not compressed"],
)
async def test_a_broken_answer_is_a_failed_connection_that_may_be_billed(
    session: aiohttp.ClientSession, reply: Reply
) -> None:
    failure = await answer_to(session, reply)
    assert isinstance(failure, Failure)
    assert (failure.fault, failure.status, failure.may_be_billed) == (Fault.CONNECTION, None, True)
    assert failure.message
    assert failure.message.isprintable()
    assert KEY[:8] not in repr(failure)


async def test_a_refusal_counts_though_its_words_are_cut_off(session: aiohttp.ClientSession) -> None:
    cut = Reply(b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 400\r\n\r\n{", Then.CLOSE)
    assert await answer_to(session, cut) == Failure(Fault.STATUS, "an empty body", 429, retry_after=7.0)


@pytest.mark.parametrize(
    ("place", "faults", "said"),
    [
        ("127.0.0.1:{closed}", {Fault.CONNECTION}, "nothing listens at http://127.0.0.1:{closed} (connection refused)"),
        ("localhost:{closed}", {Fault.CONNECTION}, "nothing listens at http://localhost:{closed} (connection refused)"),
        # A resolver without a network says that it cannot tell.
        ("nowhere.invalid", {Fault.CONNECTION, Fault.UNREACHABLE}, "the host name of http://nowhere.invalid "),
        ("a..b", {Fault.UNREACHABLE}, "the host name of http://a..b is not a valid one: check the base URL"),
        ("x" * 70 + ".invalid", {Fault.UNREACHABLE}, "the host name of http://xxxx"),
    ],
)
async def test_a_host_that_is_not_there_is_a_failed_connection_that_costs_nothing_and_is_named(
    session: aiohttp.ClientSession, place: str, faults: set[Fault], said: str
) -> None:
    failure = await asked(session, f"http://{place.format(closed=closed_port())}/v1")
    assert isinstance(failure, Failure)
    assert failure.fault in faults
    assert failure.message.startswith(said.format(closed=closed_port()))
    assert not failure.may_be_billed


async def test_a_request_has_left_from_when_it_is_written(session: aiohttp.ClientSession) -> None:
    attempt = Attempt(HELLO)
    async with canned(Reply(b"", Then.HANG)) as server:
        sending = asyncio.ensure_future(Completions(session, server.base_url, KEY, "m", {}).send(attempt))
        assert not attempt.has_left
        await server.came.wait()
        assert attempt.has_left
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    assert attempt.outcome is None


async def test_nothing_shows_the_api_key(session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with canned(http(401, f"Not with {KEY}", [f"X-Key: {KEY}"])) as server:
        completions = Completions(session, server.base_url, KEY, "m", {})
        attempt = Attempt(HELLO)
        await completions.send(attempt)
    assert attempt.outcome == Failure(Fault.STATUS, "Not with [API key]", 401)
    assert KEY not in repr(completions) + repr(attempt) + caplog.text


# --- proxies ---


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def through(monkeypatch: pytest.MonkeyPatch, proxy: CannedServer) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.base_url.removesuffix("/v1"))


async def test_a_proxy_is_asked_by_name(session: aiohttp.ClientSession, no_proxies: pytest.MonkeyPatch) -> None:
    async with canned(OK) as proxy:
        through(no_proxies, proxy)
        assert await asked(session, "http://model.invalid/v1") == FINE
    assert proxy.asked[0].line == "POST http://model.invalid/v1/chat/completions HTTP/1.1"
    assert proxy.asked[0].headers["host"] == "model.invalid"


async def test_a_cookie_is_not_sent_back(session: aiohttp.ClientSession, no_proxies: pytest.MonkeyPatch) -> None:
    async with canned(http(200, completion(), ["Set-Cookie: who=key-one"])) as proxy:
        through(no_proxies, proxy)  # so that the server has a name: aiohttp takes no cookie from an address
        for key in ("key-one", "key-two"):
            assert await asked(session, "http://model.invalid/v1", key) == FINE
    assert "cookie" not in proxy.asked[1].headers


async def test_loopback_is_never_proxied(session: aiohttp.ClientSession, no_proxies: pytest.MonkeyPatch) -> None:
    async with canned(http(500, "the proxy")) as proxy, canned(OK) as server:
        through(no_proxies, proxy)
        assert await asked(session, server.base_url) == FINE
    assert proxy.asked == []


@pytest.mark.parametrize(
    ("url", "proxied"),
    [
        ("http://model.example/v1", True),
        ("https://model.example/v1", False),  # there is none for https
        ("http://inside.example/v1", False),
        ("http://model.example:8000/v1", False),
        ("http://127.0.0.1:8000/v1", False),
        ("http://127.8.9.1/v1", False),
        ("http://[::1]:8000/v1", False),
        ("http://localhost:11434/v1", False),
        ("http://10.0.0.7/v1", True),
    ],
)
def test_the_environment_says_what_is_proxied(no_proxies: pytest.MonkeyPatch, url: str, proxied: bool) -> None:
    no_proxies.setenv("http_proxy", "10.1.1.1:3128")
    no_proxies.setenv("no_proxy", "inside.example,model.example:8000")
    proxy = proxy_for(url)
    assert (proxy and proxy.url) == ("http://10.1.1.1:3128" if proxied else None)


async def test_a_proxy_of_another_kind_is_refused_at_once(
    session: aiohttp.ClientSession, no_proxies: pytest.MonkeyPatch
) -> None:
    no_proxies.setenv("HTTPS_PROXY", "socks5://me:password@127.0.0.1:7890")
    with pytest.raises(SettingsError, match="HTTPS_PROXY names a socks5 proxy") as caught:
        Completions(session, "https://model.example/v1", KEY, "m", {})
    assert "password" not in str(caught.value)
    Completions(session, "http://model.example/v1", KEY, "m", {})


async def test_a_connection_that_the_server_closes_while_it_rests_is_not_open_any_more(
    session: aiohttp.ClientSession,
) -> None:
    connector = session.connector
    assert isinstance(connector, Connector)
    async with canned(OK) as server:
        assert await asked(session, server.base_url) == FINE
        assert connector.lines == 1
    while connector.lines:  # noqa: ASYNC110 - until the loop reads the end of the connection
        await asyncio.sleep(0)

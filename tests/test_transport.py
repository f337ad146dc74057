from __future__ import annotations

import gzip
import json
import logging
import traceback
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest
from canned_server import CannedServer, Reply, Then, canned, closed_port, completion, http
from hypothesis import given
from hypothesis import strategies as st

from batcher.errors import SettingsError
from batcher.records import Completion, Failure, Fault, Usage
from batcher.transport import CallFailed, Completions, completion_in, one_line, open_session, proxy_for, status_failure

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


async def asked(session: aiohttp.ClientSession, base_url: str, api_key: str | None = KEY) -> Completion | Failure:
    try:
        return await Completions(session, base_url, api_key, "m", {"temperature": 0}).create(HELLO)
    except CallFailed as error:
        return error.failure


async def answer_to(session: aiohttp.ClientSession, reply: Reply) -> Completion | Failure:
    async with canned(reply) as server:
        return await asked(session, server.base_url)


def failed(status: int, body: object, *headers: str) -> Failure:
    """Read a refusal whose headers are given as lines."""
    raw = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return status_failure(status, dict(line.lower().split(": ") for line in headers), raw, [KEY])


# --- what goes out ---


async def test_a_request_holds_what_was_given_and_nothing_else(session: aiohttp.ClientSession) -> None:
    async with canned(OK) as server:
        assert await asked(session, server.base_url) == FINE
    (request,) = server.asked
    assert request.line == "POST /v1/chat/completions HTTP/1.1"
    assert request.json == {"model": "m", "messages": HELLO, "temperature": 0}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("api_key", [None, ""])
async def test_without_a_key_no_authorization_is_sent(session: aiohttp.ClientSession, api_key: str | None) -> None:
    async with canned(OK) as server:
        await asked(session, server.base_url, api_key)
    assert "authorization" not in server.asked[0].headers


async def test_a_request_of_megabytes_goes_out_without_a_warning(session: aiohttp.ClientSession) -> None:
    messages = [{"role": "user", "content": "x" * 3_000_000}]
    async with canned(OK) as server:
        assert await Completions(session, server.base_url, None, "m", {}).create(messages) == FINE
    assert server.asked[0].json["messages"] == messages


async def test_a_connection_serves_many_requests(session: aiohttp.ClientSession) -> None:
    async with canned(OK, http(500, "no"), OK) as server:
        for _ in range(5):
            await asked(session, server.base_url)
    assert (len(server.asked), server.connections) == (5, 1)


async def test_a_redirect_is_not_followed(session: aiohttp.ClientSession) -> None:
    async with canned(OK) as elsewhere:
        moved = http(307, "", [f"Location: {elsewhere.base_url}/chat/completions"])
        assert await answer_to(session, moved) == Failure(Fault.STATUS, "an empty body", 307)
    assert elsewhere.asked == []


# --- completions ---


async def test_compressed_and_chunked_answers_are_read(session: aiohttp.ClientSession) -> None:
    raw = json.dumps(completion("你好 👋")).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (raw[:9], raw[9:])) + b"0\r\n\r\n"
    zipped = http(200, gzip.compress(raw), ["Content-Encoding: gzip"])
    chunked = Reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    padded = http(200, b"\n\n\n" + raw)  # DeepSeek sends empty lines while one waits
    for reply in (zipped, chunked, padded, http(201, raw)):
        assert await answer_to(session, reply) == Completion("你好 👋", "stop")


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (completion(""), Completion("", "stop")),
        (completion(None), Completion(None, "stop")),
        (completion(None, refusal="I cannot"), Completion(None, "stop", refusal="I cannot")),
        (completion(None, tool_calls=[{"id": "é"}]), Completion('[{"id": "é"}]', "stop")),
        (completion("so", tool_calls=[{"id": "é"}]), Completion("so", "stop")),
        (completion(None, finish_reason="content_filter"), Completion(None, "content_filter")),
        (completion("cut", finish_reason="length"), Completion("cut", "length")),
        (completion("so", reasoning_content="because"), Completion("so", "stop")),
        (completion("so", role=None, name=7, tool_calls="odd", audio=3), Completion("so", "stop")),
        (completion([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, "c"]), Completion("abc", "stop")),
        (completion([{"type": "thinking", "text": "?"}, {"type": "text", "text": "a"}, 7]), Completion("a", "stop")),
        (completion(finish_reason=None), Completion("fine")),
        (completion(finish_reason=7), Completion("fine")),
        (completion() | {"error": None}, FINE),
        (completion("half \ud83d"), Completion("half \ud83d", "stop")),
        (completion(usage={"prompt_tokens": 3, "completion_tokens": 2}), Completion("fine", "stop", Usage(3, 2))),
        (completion(usage={"prompt_tokens": 3.0, "completion_tokens": None}), Completion("fine", "stop", Usage(3, 0))),
        (completion(usage={"prompt_tokens": -1, "completion_tokens": 10**30}), FINE),
        (completion(usage="none"), FINE),
        ({"choices": [{"message": {"content": "one"}}, {"message": {"content": "two"}}]}, Completion("one")),
        ({"choices": [{"message": {}}]}, Completion(None)),
    ],
)
def test_a_completion_is_read(body: object, read: Completion) -> None:
    assert completion_in(body) == read


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("content", "role", "tool_calls"), JSON)) | JSON, JSON, JSON)
def test_no_oddity_of_a_body_costs_an_answer_or_raises(message: object, reason: object, usage: object) -> None:
    read = completion_in({"choices": [{"message": message, "finish_reason": reason}], "usage": usage})
    legible = isinstance(message, dict) and isinstance(message.get("content"), (str, list, type(None)))
    assert (read is not None) == legible
    if read is not None:
        assert isinstance(read.text, (str, type(None)))
        assert isinstance(read.finish_reason, (str, type(None)))
        assert 0 <= min(read.usage.prompt_tokens, read.usage.completion_tokens) < 2**63


# --- no connection ---


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
async def test_a_broken_answer_is_a_failed_connection(session: aiohttp.ClientSession, reply: Reply) -> None:
    async with canned(reply) as server:
        with pytest.raises(CallFailed) as caught:
            await Completions(session, server.base_url, KEY, "m", {}).create(HELLO)
    failure = caught.value.failure
    assert (failure.fault, failure.status) == (Fault.CONNECTION, None)
    assert failure.message
    assert failure.message.isprintable()
    assert_hidden(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1:{closed}", "nowhere.invalid", "a..b", "x" * 70 + ".invalid"])
async def test_a_host_that_is_not_there_is_a_failed_connection(session: aiohttp.ClientSession, host: str) -> None:
    failure = await asked(session, f"http://{host.format(closed=closed_port())}/v1")
    assert isinstance(failure, Failure)
    assert (failure.fault, bool(failure.message)) == (Fault.CONNECTION, True)


# --- refusals ---

HTML = "<html>\r\n\t<title>502 Bad Gateway</title>\r\n</html>"


@pytest.mark.parametrize(
    ("status", "body", "message", "code"),
    [
        (401, {"error": {"message": "Wrong key", "type": "invalid", "code": "bad_key"}}, "Wrong key", "bad_key"),
        (429, {"error": {"message": "Empty", "type": "no_quota", "code": None}}, "Empty", "no_quota"),
        (400, {"object": "error", "message": "Long", "type": "BadRequest", "code": 400}, "Long", "BadRequest"),
        (404, {"error": {"message": "No model", "type": "NotFound", "code": 404}}, "No model", "NotFound"),
        (400, {"object": "error", "message": "Long", "code": 400}, "Long", "400"),
        (404, {"detail": "Not Found"}, "Not Found", None),
        (422, {"detail": [{"loc": ["body"], "msg": "no"}]}, '[{"loc": ["body"], "msg": "no"}]', None),
        (400, {"code": "InvalidApiKey", "message": "无效", "request_id": "r"}, "无效", "InvalidApiKey"),
        (400, {"error": {"code": "content_filter", "message": "Bad", "status": 400}}, "Bad", "content_filter"),
        (429, {"error": {"code": "429", "message": "Slow down"}}, "Slow down", "429"),
        (401, {"statusCode": 401, "message": "Unauthorized"}, "Unauthorized", None),
        (429, {"error": {"code": "1302", "message": "并发"}}, "并发", "1302"),
        (400, [{"error": {"code": 400, "message": "Bad", "status": "INVALID"}}], "Bad", "INVALID"),
        (404, {"error": "model 'x' not found"}, "model 'x' not found", None),
        (500, {"code": 50001, "msg": "busy", "data": None}, "busy", "50001"),
        (500, {"error": {"message": {"text": "odd"}}}, '{"text": "odd"}', None),
        (500, {"error": True, "message": "odd"}, "odd", None),
        (500, {"error": {}}, '{"error": {}}', None),
        (503, "no healthy upstream", "no healthy upstream", None),
        (502, HTML, "<html> <title>502 Bad Gateway</title> </html>", None),
        (500, "", "an empty body", None),
        (500, " \n", "an empty body", None),
        (500, '{"error": {"message": "cu', '{"error": {"message": "cu', None),
        (500, "null", "null", None),
        (500, "[]", "[]", None),
        (500, "超时".encode("gbk"), "\ufffd\ufffd\u02b1", None),
        (500, b"[" * 100_000, "[" * 500 + " ...", None),
    ],
)
async def test_a_refusal_is_read_in_every_dialect(
    session: aiohttp.ClientSession, status: int, body: object, message: str, code: str | None
) -> None:
    assert await answer_to(session, http(status, body)) == Failure(Fault.STATUS, message, status, code)


@pytest.mark.parametrize(
    ("body", "status", "message", "code"),
    [
        ({"error": {"message": "Slow", "code": 429}}, 429, "Slow", "429"),
        ({"error": {"message": "Slow", "code": "429", "type": "limit"}}, 429, "Slow", "limit"),
        ({"object": "error", "message": "Bad", "code": 400}, 400, "Bad", "400"),
        ({"code": 500, "msg": "Sorry", "success": False}, 500, "Sorry", "500"),
        ({"error": {"message": "Sorry", "type": "server_error"}}, None, "Sorry", "server_error"),
        ({"error": {"message": "Slow", "code": "1302"}}, None, "Slow", "1302"),
        ({"error": {"message": "Odd", "code": 200}}, None, "Odd", "200"),
        (completion() | {"error": {"message": "Sorry"}}, None, "Sorry", None),
    ],
)
async def test_a_200_may_hold_an_error_with_the_status_of_an_upstream(
    session: aiohttp.ClientSession, body: object, status: int | None, message: str, code: str | None
) -> None:
    fault = Fault.STATUS if status else Fault.PROTOCOL
    answer = await answer_to(session, http(200, body, ["Retry-After: 7"]))
    assert answer == Failure(fault, message, status, code, 7.0)


@pytest.mark.parametrize(
    "body",
    [
        '{"choices": null}',
        '{"choices": []}',
        '{"choices": [{}]}',
        '{"choices": {"message": {}}}',
        '{"choices": [{"message": null}]}',
        '{"choices": [{"message": {"content": 1}}]}',
        '{"choices": [',
        "data: {}",
        "<html>Log in</html>",
        "null",
    ],
)
async def test_a_200_that_is_no_completion_is_shown(session: aiohttp.ClientSession, body: str) -> None:
    assert await answer_to(session, http(200, body)) == Failure(Fault.PROTOCOL, body)
    assert await answer_to(session, http(200, "")) == Failure(Fault.PROTOCOL, "an empty body")


def test_the_wait_that_a_server_asks_for_is_read() -> None:
    assert failed(429, "", "Retry-After: 2.5").retry_after == 2.5
    assert failed(429, "", "retry-after-ms: 1500", "retry-after: 2").retry_after == 1.5
    assert failed(503, "", "retry-after: soon").retry_after is None
    assert failed(503, "", f"retry-after: {formatdate(0, usegmt=True)}").retry_after == 0.0
    assert failed(503, "").retry_after is None


@given(JSON.map(json.dumps).map(str.encode) | st.binary(), st.sampled_from([200, 204, 301, 400, 429, 500, 599]))
def test_any_body_makes_a_short_printable_line(raw: bytes, status: int) -> None:
    failure = status_failure(status, {}, raw)
    assert failure.message
    for text in (failure.message, failure.code or ""):
        assert text.isprintable()
        assert len(text) <= 504
        text.encode()


def test_what_is_too_long_is_cut() -> None:
    assert failed(500, "x" * 500).message == "x" * 500
    assert failed(500, "x" * 501).message == "x" * 500 + " ..."
    assert failed(500, " " * 9_000 + "x").message == "x"
    assert failed(500, {"error": {"message": "m", "code": "c" * 200}}).code == "c" * 80 + " ..."


def test_a_line_holds_nothing_that_a_terminal_obeys() -> None:
    assert one_line("a\x1b[2J\x00\u202eb\n\ud83dc 你 👋") == "a [2J b c 你 👋"


# --- the API key ---


def assert_hidden(error: BaseException) -> None:
    """Look for the key in all that an error can show of itself, and in the errors behind it."""
    shown = ["".join(traceback.format_exception(error))]
    behind: BaseException | None = error
    while behind is not None:
        shown += [repr(behind), str(behind), repr(vars(behind))]
        behind = behind.__cause__ or behind.__context__
    assert not [text for text in shown if KEY[:8] in text]


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": f"Incorrect API key provided: {KEY}.", "code": f"no_{KEY}"}},
        {"detail": [{"headers": {"authorization": f"Bearer {KEY}"}}]},
        {"error": {"type": KEY}},
        "x" * 490 + KEY,
        f'{{"error": "cut {KEY}',
        f"<p>{KEY}</p>",
    ],
)
@pytest.mark.parametrize("status", [401, 200])
async def test_a_key_that_the_server_repeats_is_hidden(
    session: aiohttp.ClientSession, status: int, body: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with canned(http(status, body, [f"X-Key: {KEY}"])) as server:
        completions = Completions(session, server.base_url, KEY, "m", {})
        with pytest.raises(CallFailed) as caught:
            await completions.create(HELLO)
    assert_hidden(caught.value)
    assert KEY not in repr(completions)
    assert KEY not in caplog.text


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
    assert proxy_for(url) == ("http://10.1.1.1:3128" if proxied else None)


async def test_a_proxy_of_another_kind_is_refused_at_once(
    session: aiohttp.ClientSession, no_proxies: pytest.MonkeyPatch
) -> None:
    no_proxies.setenv("HTTPS_PROXY", "socks5://me:password@127.0.0.1:7890")
    with pytest.raises(SettingsError, match="HTTPS_PROXY names a socks5 proxy") as caught:
        Completions(session, "https://model.example/v1", KEY, "m", {})
    assert "password" not in str(caught.value)
    Completions(session, "http://model.example/v1", KEY, "m", {})

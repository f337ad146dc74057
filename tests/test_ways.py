"""The way to a service: through proxies, with certificates as the system knows them, and in plain words if there is
none."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import re
import shutil
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import aiohttp
import httpx
import pytest
from canned_server import Reply, Then, canned, closed_port, completion, http
from certificates import authority_in, serving, serving_self_signed
from programs import ROOT, call, write_table
from proxy_server import Refusal, proxying

from batcher.calls import certificates
from batcher.calls.connections import QUIET_S
from batcher.calls.factory import ChatCallers
from batcher.calls.failures import failure_of
from batcher.calls.fate import Fate, meaning_of
from batcher.calls.transport import Attempt, Completions, open_session
from batcher.calls.unreached import Cause, cause_of
from batcher.calls.ways import Proxy, Way, proxy_for
from batcher.endpoint import Endpoint
from batcher.errors import SettingsError
from batcher.records import Completion, Failure, Fault

HELLO = [{"role": "user", "content": "hello"}]
FINE = Completion("fine", "stop")
OK = http(200, completion())


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Take away what this machine says of proxies and certificates."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in certificates.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as opened:
        yield opened


async def asked(session: aiohttp.ClientSession, base_url: str) -> Completion | Failure:
    attempt = Attempt(HELLO)
    tls = certificates.trusted() if base_url.startswith("https:") else None
    await Completions(session, base_url, "sk-5ecret", "m", {}, tls=tls).send(attempt)
    assert attempt.outcome is not None
    return attempt.outcome


async def unreachable(session: aiohttp.ClientSession, base_url: str) -> str:
    """Ask, be told that no wait helps, and return what is told."""
    failure = await asked(session, base_url)
    assert isinstance(failure, Failure)
    assert (failure.fault, failure.may_be_billed) == (Fault.UNREACHABLE, False)
    assert meaning_of(failure).fate is Fate.ENDPOINT_OUT
    return failure.message


def at_home(base_url: str) -> str:
    """Return the scheme, the host and the port."""
    return base_url.removesuffix("/v1")


# --- certificates ---


async def test_an_authority_that_the_machine_does_not_know_is_named_with_what_to_do(
    session: aiohttp.ClientSession,
) -> None:
    async with canned(OK, tls=serving("127.0.0.1")) as server:
        assert await unreachable(session, server.base_url) == (
            f"the certificate of {at_home(server.base_url)} is signed by an authority that this machine does not know:"
            " set SSL_CERT_FILE to a file (PEM) that holds the authority's certificate"
        )
    assert server.asked == []


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
async def test_a_variable_makes_an_authority_known(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    variables.setenv(name, str(authority_in(tmp_path)))
    async with canned(OK, tls=serving("127.0.0.1")) as server:
        assert await asked(session, server.base_url) == FINE


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs the openssl command")
@pytest.mark.parametrize("name", ["SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"])
async def test_a_directory_of_authorities_makes_them_known(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    rehash = ("openssl", "rehash", authority_in(tmp_path).parent)
    assert await (await asyncio.create_subprocess_exec(*rehash)).wait() == 0
    variables.setenv(name, str(tmp_path))
    async with canned(OK, tls=serving("127.0.0.1")) as server:
        assert await asked(session, server.base_url) == FINE


async def test_a_certificate_that_names_another_host_or_is_out_of_date_is_refused_and_says_so(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variables.setenv("SSL_CERT_FILE", str(authority_in(tmp_path)))
    cases = {
        "is for another host name (": serving("other.example"),
        "has expired: ": serving("127.0.0.1", begins=-9, ends=-1),
        "is not valid yet: check the clock of this machine": serving("127.0.0.1", begins=1),
        "is signed by itself: set SSL_CERT_FILE to": serving_self_signed(tmp_path),
    }
    for said, tls in cases.items():
        async with canned(OK, tls=tls) as server:
            message = await unreachable(session, server.base_url)
            assert message.startswith(f"the certificate of {at_home(server.base_url)} {said}")


NO_CERTIFICATES = {
    "missing": "No such file or directory; correct it, or unset {name}",
    "empty": "holds no certificate in PEM format: correct it, or unset {name}",
    "text": "holds no certificate in PEM format: correct it, or unset {name}",
}


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("kind", NO_CERTIFICATES)
def test_a_variable_that_leads_to_no_certificate_is_refused_and_named(
    variables: pytest.MonkeyPatch, tmp_path: Path, name: str, kind: str
) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no certificate\n")
    variables.setenv(name, str(tmp_path / kind))
    for refuse in (certificates.check_variables, certificates.trusted):
        with pytest.raises(SettingsError) as caught:
            refuse()
        assert str(caught.value).startswith(f"{name} names {tmp_path / kind}")
        assert str(caught.value).endswith(NO_CERTIFICATES[kind].format(name=name))


def test_a_directory_without_a_certificate_is_refused_and_named(variables: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "authority.crt").touch()
    variables.setenv("SSL_CERT_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match=r"SSL_CERT_DIR names .* holds no certificate that `openssl rehash` has"):
        certificates.check_variables()
    variables.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match=r"SSL_CERT_DIR names .*: No such file or directory"):
        certificates.check_variables()


def test_directories_that_do_not_exist_are_skipped_beside_one_with_a_certificate(
    variables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "01234567.0").touch()
    for text in (f"{tmp_path / 'none'}:{tmp_path}", f"{tmp_path}:{tmp_path / 'none'}", f":{tmp_path}:"):
        variables.setenv("SSL_CERT_DIR", text.replace(":", os.pathsep))
        certificates.check_variables()


def test_every_context_verifies_the_certificate_and_the_name() -> None:
    for context in (certificates.trusted(), certificates.trusted()):
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


# --- TLS and its absence ---


async def test_tls_with_a_port_that_speaks_none_says_so(session: aiohttp.ClientSession) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        place = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        said = await unreachable(session, f"{place}/v1")
    assert said == f"{place} does not speak TLS: begin the base URL with http://"


@pytest.mark.parametrize(
    "reply",
    [
        http(400, "<html><title>400 The plain HTTP request was sent to HTTPS port</title></html>"),
        http(400, "Client sent an HTTP request to an HTTPS server.\n"),
        Reply(b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n", Then.CLOSE),
    ],
    ids=["nginx", "Go", "an alert"],
)
async def test_plain_http_with_a_port_that_speaks_tls_says_so(session: aiohttp.ClientSession, reply: Reply) -> None:
    async with canned(reply) as server:
        said = await unreachable(session, server.base_url)
    assert said == f"{at_home(server.base_url)} expects TLS: begin the base URL with https://"


async def test_an_api_that_quotes_such_words_from_a_row_refuses_that_row(session: aiohttp.ClientSession) -> None:
    said = "bad input: The plain HTTP request was sent to HTTPS port"
    async with canned(http(400, {"error": {"message": said}})) as server:
        assert await asked(session, server.base_url) == Failure(Fault.STATUS, said, 400)


# --- headers ---


@pytest.mark.parametrize(
    "headers",
    [[f"X-Long: {'x' * 60_000}"], [f"X-{number}: {'x' * 90}" for number in range(600)]],
    ids=["one long", "many"],
)
async def test_headers_of_60_kb_are_read(session: aiohttp.ClientSession, headers: list[str]) -> None:
    async with canned(http(200, completion(), headers)) as server:
        assert await asked(session, server.base_url) == FINE


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(b"", Then.CLOSE), "{} closed the connection without an answer"),
        (Reply(b"", Then.RESET), "the connection to {} was reset"),
        (
            Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{", Then.CLOSE),
            "{} closed the connection before its answer had ended",
        ),
        (Reply(b"SSH-2.0-server\r\n\r\n", Then.CLOSE), "{} answered in invalid HTTP: "),
        (
            http(200, b"no", ["Content-Encoding: gzip"]),
            "the answer of {} cannot be read: the body cannot be unpacked: ",
        ),
    ],
    ids=["closed", "reset", "cut", "another protocol", "not compressed"],
)
async def test_a_broken_answer_is_said_in_plain_words_with_the_place(
    session: aiohttp.ClientSession, reply: Reply, said: str
) -> None:
    async with canned(reply) as server:
        failure = await asked(session, server.base_url)
    assert isinstance(failure, Failure)
    assert failure.message.startswith(said.format(at_home(server.base_url)))


async def test_longer_headers_end_the_row_in_plain_words(session: aiohttp.ClientSession) -> None:
    async with canned(http(200, completion(), [f"X-Long: {'x' * 70_000}"])) as server:
        failure = await asked(session, server.base_url)
    assert isinstance(failure, Failure)
    assert (failure.fault, failure.may_be_billed) == (Fault.TOO_LONG, True)
    assert failure.message == "its headers are longer than 64 KB, or more than 1,024"


# --- proxies ---


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"])
async def test_a_proxy_passes_requests_on_with_its_password(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch, name: str
) -> None:
    async with canned(OK) as server, proxying(server.base_url, "me:p@ss/wörd") as proxy:
        variables.setenv(name, proxy.url.replace("://", "://me:p%40ss%2Fw%C3%B6rd@"))
        assert await asked(session, "http://model.example/v1") == FINE
    assert proxy.lines == ["POST http://model.example/v1/chat/completions HTTP/1.1"]
    assert "proxy-authorization" not in server.asked[0].headers


@pytest.mark.skipif(
    tuple(map(int, aiohttp.__version__.split(".")[:2])) < (3, 14),
    reason="older releases of aiohttp close each connection to a proxy",
)
async def test_a_connection_to_a_proxy_serves_many_requests_each_with_the_password(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch
) -> None:
    async with canned(OK) as server, proxying(server.base_url, "me:p4ssword") as proxy:
        variables.setenv("HTTP_PROXY", proxy.url.replace("://", "://me:p4ssword@"))
        for _ in range(3):
            assert await asked(session, "http://model.example/v1") == FINE
            await asyncio.sleep(10 * QUIET_S)  # as long as the request took, at least, it rests
    assert (len(proxy.credentials), proxy.connections) == (3, 1)


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"])
async def test_a_proxy_tunnels_tls_and_only_the_service_gets_the_key(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    variables.setenv("SSL_CERT_FILE", str(authority_in(tmp_path)))
    tls = serving("model.example")
    async with canned(OK, tls=tls) as server, proxying(server.base_url, "me:p@ss/word") as proxy:
        variables.setenv(name, proxy.url.replace("://", "://me:p%40ss%2Fword@"))
        assert await asked(session, "https://model.example/v1") == FINE
    assert proxy.lines == ["CONNECT model.example:443 HTTP/1.1"]
    assert server.asked[0].headers["authorization"] == "Bearer sk-5ecret"
    assert "proxy-authorization" not in server.asked[0].headers


async def test_a_wrong_certificate_behind_a_proxy_is_that_of_the_service(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch
) -> None:
    async with canned(OK, tls=serving("model.example")) as server, proxying(server.base_url) as proxy:
        variables.setenv("HTTPS_PROXY", proxy.url)
        said = await unreachable(session, "https://model.example/v1")
    assert said.startswith("the certificate of https://model.example is signed by an authority that")


@pytest.mark.parametrize(
    ("given", "url", "source"),
    [
        ({"ALL_PROXY": "http://a:1"}, "https://model.example/v1", "ALL_PROXY"),
        ({"ALL_PROXY": "http://a:1", "HTTPS_PROXY": "http://b:2"}, "https://model.example/v1", "HTTPS_PROXY"),
        ({"ALL_PROXY": "http://a:1", "HTTPS_PROXY": "http://b:2"}, "http://model.example/v1", "ALL_PROXY"),
        ({"ALL_PROXY": "http://a:1", "https_proxy": ""}, "https://model.example/v1", "ALL_PROXY"),
        ({"all_proxy": "http://a:1", "ALL_PROXY": "http://b:2"}, "https://model.example/v1", "all_proxy"),
        ({"ALL_PROXY": "http://a:1", "NO_PROXY": "model.example"}, "https://model.example/v1", None),
        ({"ALL_PROXY": "http://a:1", "NO_PROXY": "*"}, "https://model.example/v1", None),
        ({"ALL_PROXY": "http://a:1"}, "http://127.0.0.1:8000/v1", None),
        ({"ALL_PROXY": "socks5://a:1", "HTTPS_PROXY": "http://b:2"}, "https://model.example/v1", "HTTPS_PROXY"),
    ],
)
def test_the_proxy_of_a_scheme_goes_before_the_one_for_all(
    variables: pytest.MonkeyPatch, given: dict[str, str], url: str, source: str | None
) -> None:
    for name, value in given.items():
        variables.setenv(name, value)
    proxy = proxy_for(url)
    assert (proxy and proxy.source) == source
    assert (proxy and proxy.url) == (given[source] if source else None)


@pytest.mark.parametrize("kind", ["socks5", "socks5h", "socks4", "socks4a", "socks"])
@pytest.mark.parametrize("name", ["ALL_PROXY", "HTTPS_PROXY"])
async def test_a_socks_proxy_is_refused_in_the_same_words_everywhere(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    variables.setenv(name, f"{kind}://me:p4ssword@127.0.0.1:7890")
    callers = ChatCallers({})
    endpoint = Endpoint("m", "https://model.example/v1", "sk-5ecret")
    ways = (
        lambda: Completions(session, "https://model.example/v1", None, "m", {}),
        lambda: callers.caller(endpoint),
        lambda: callers._through_the_sdk(endpoint, endpoint.base_url, {}, RuntimeError("gone")),
    )
    said = set()
    for way in ways:
        with pytest.raises(SettingsError) as caught, warnings.catch_warnings(action="ignore"):
            way()
        said.add(str(caught.value))
    await callers.close()
    [message] = said
    assert message == (
        f"{name} names a {kind} proxy, which cannot be used: name one of http:// (most proxy programs offer both), or"
        " set NO_PROXY=model.example"
    )


@pytest.mark.parametrize(
    "value", ["http://me:p4ss/word@proxy:3128", "http://", "http://proxy:notaport", "me:p4ss://x@proxy:3128"]
)
def test_a_proxy_that_is_no_url_is_refused_unshown(variables: pytest.MonkeyPatch, value: str) -> None:
    variables.setenv("ALL_PROXY", value)
    with pytest.raises(SettingsError, match=r"ALL_PROXY must look like http://HOST:PORT or ") as caught:
        proxy_for("https://model.example/v1")
    assert "p4ss" not in str(caught.value)
    assert "notaport" not in str(caught.value)


def test_a_user_without_a_password_is_sent_as_curl_sends_it() -> None:
    header = Proxy("http://t%40ken@proxy:3128", "ALL_PROXY").authorization
    assert header == {"Proxy-Authorization": f"Basic {base64.b64encode(b't@ken:').decode()}"}


def test_no_repr_shows_the_password_of_a_proxy() -> None:
    proxy = Proxy("http://alice:p4ssword@proxy:3128", "ALL_PROXY")
    way = Way("https://model.example/v1", proxy)
    assert way.first == "the proxy at http://proxy:3128 (ALL_PROXY)"
    for shown in (repr(proxy), repr(way), way.whole):
        assert "p4ssword" not in shown
        assert "alice" not in shown


AROUND = "set NO_PROXY=model.example to go around the proxy"
WANTED = (
    "requires a user and a password (HTTP 407): write them into {name}, as in http://USER:PASSWORD@HOST:PORT,"
    f" or {AROUND}"
)
REFUSED = f"refused the user and the password in {{name}} (HTTP 407): correct them, or {AROUND}"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("user", "said"), [("", WANTED), ("me:wrong@", REFUSED)])
async def test_a_proxy_that_wants_a_password_is_named_with_what_to_do(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch, scheme: str, user: str, said: str
) -> None:
    name = f"{scheme.upper()}_PROXY"
    async with canned(OK) as server, proxying(server.base_url, "me:right") as proxy:
        variables.setenv(name, proxy.url.replace("://", f"://{user}"))
        message = await unreachable(session, f"{scheme}://model.example/v1")
    assert message == f"the proxy at {proxy.url} ({name}) {said.format(name=name)}"


@pytest.mark.parametrize(
    ("status", "fault"), [(403, Fault.UNREACHABLE), (502, Fault.CONNECTION), (503, Fault.CONNECTION)]
)
async def test_a_proxy_that_refuses_a_tunnel_is_named(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch, status: int, fault: Fault
) -> None:
    async with proxying("http://127.0.0.1:1", refusal=Refusal(status)) as proxy:
        variables.setenv("HTTPS_PROXY", proxy.url)
        failure = await asked(session, "https://model.example/v1")
    said = f"the proxy at {proxy.url} (HTTPS_PROXY) refused a connection to https://model.example (HTTP {status})"
    assert failure == Failure(fault, f"{said}: correct HTTPS_PROXY, or {AROUND}")


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize("body", ["", "<html>No way</html>"])
@pytest.mark.parametrize("name", ["HTTP_PROXY", "all_proxy"])
async def test_a_page_that_may_be_the_proxys_is_not_told_as_the_services_alone(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch, name: str, body: str, status: int
) -> None:
    async with proxying("http://127.0.0.1:1", refusal=Refusal(status, body=body)) as proxy:
        variables.setenv(name, proxy.url)
        base_url = "http://model.example/v1"
        own, sdks = await asked(session, base_url), await through_the_sdk(base_url)
    message = f"the proxy at {proxy.url} ({name}), or the service behind it, answered: {body or 'an empty body'}"
    expected = Failure(Fault.STATUS, f"{message}; if it was the proxy, correct {name}, or {AROUND}", status)
    assert own == expected
    if body:  # of an empty body the SDK says the status
        assert sdks == expected
    assert meaning_of(expected).fate is Fate.AGAIN


async def test_a_proxy_that_wants_a_password_is_named_through_the_sdk_too(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch
) -> None:
    async with proxying("http://127.0.0.1:1", "me:right") as proxy:
        variables.setenv("HTTP_PROXY", proxy.url)
        base_url = "http://model.example/v1"
        own, sdks = await asked(session, base_url), await through_the_sdk(base_url)
    said = f"the proxy at {proxy.url} (HTTP_PROXY) {WANTED.format(name='HTTP_PROXY')}"
    assert own == sdks == Failure(Fault.UNREACHABLE, said)


API_ERROR = {"error": {"message": "overloaded", "code": "busy"}}


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [(503, json.dumps(API_ERROR), "overloaded"), (500, "no", "no"), (429, "no", "no"), (404, "no", "no")],
)
async def test_what_only_the_service_can_say_is_told_as_its_own_through_a_proxy(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch, status: int, body: str, said: str
) -> None:
    async with canned(http(status, body)) as server, proxying(server.base_url) as proxy:
        variables.setenv("HTTP_PROXY", proxy.url)
        failure = await asked(session, "http://model.example/v1")
    assert isinstance(failure, Failure)
    assert (failure.message, failure.status) == (said, status)


async def test_a_page_through_a_tunnel_is_the_services(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variables.setenv("SSL_CERT_FILE", str(authority_in(tmp_path)))
    async with canned(http(503, "no"), tls=serving("model.example")) as server, proxying(server.base_url) as proxy:
        variables.setenv("HTTPS_PROXY", proxy.url)
        assert await asked(session, "https://model.example/v1") == Failure(Fault.STATUS, "no", 503)


# --- secrets that are words ---


class Said(NamedTuple):
    """A reply to a request through a proxy, and what stands before and behind the foreign part of its message."""

    reply: Callable[[str], Reply]
    before: str
    behind: str = ""

    @property
    def words(self) -> set[str]:
        return set(re.findall(r"\w+", f"{self.before} {self.behind}"))


PROXY, SERVICE = "the proxy at PROXY (HTTP_PROXY)", "http://model.example"
THROUGH = f"{SERVICE} (through {PROXY})"
SAYINGS = {
    "a page": Said(
        lambda said: http(503, f"({said})"),
        f"{PROXY}, or the service behind it, answered: (",
        f"); if it was the proxy, correct HTTP_PROXY, or {AROUND}",
    ),
    "a password": Said(lambda said: http(407, said), f"{PROXY} {REFUSED}".format(name="HTTP_PROXY")),
    "an error object": Said(lambda said: http(500, {"error": {"message": said}}), ""),
    "another protocol": Said(
        lambda said: Reply(f"SSH-2.0 ({said})\r\n\r\n".encode(), Then.CLOSE), f"{THROUGH} answered in invalid HTTP: "
    ),
    "an encoding": Said(
        lambda said: http(200, b"no", [f"Content-Encoding: {said}"]),
        "it is compressed with '",
        "', which was not asked for",
    ),
    "a stream with a hole": Said(
        lambda said: http(200, f"data: {{{said}\n\ndata: [DONE]\n\n", ["Content-Type: text/event-stream"]),
        "the stream is broken: a line of data is not JSON: {",
    ),
    "nothing": Said(lambda _: Reply(b"", Then.CLOSE), f"{THROUGH} closed the connection without an answer"),
    "a reset": Said(lambda _: Reply(b"", Then.RESET), f"the connection to {THROUGH} was reset"),
}


@pytest.mark.parametrize("kind", SAYINGS)
async def test_a_secret_that_is_one_of_our_words_is_hidden_in_what_others_say_and_nowhere_else(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch, kind: str
) -> None:
    expected = SAYINGS[kind]
    for word in sorted(expected.words | {"the", "refused", "proxy", "connection"}):
        async with canned(expected.reply(word)) as proxy:
            place = at_home(proxy.base_url)
            variables.setenv("HTTP_PROXY", place.replace("://", f"://{word}:{word}@"))
            failure = await asked(session, f"{SERVICE}/v1")
        assert isinstance(failure, Failure)
        message = failure.message.replace(place, "PROXY")
        assert message.startswith(expected.before)
        assert message.endswith(expected.behind)
        foreign = message.removeprefix(expected.before).removesuffix(expected.behind)
        assert not re.search(rf"(?<![\w/-]){word}(?![\w/-])", foreign), foreign
        if foreign:
            assert "[API key]" in foreign


HERE = Way("https://model.example:8443/v1")
PLACE = "https://model.example:8443"


def not_verified(code: int, said: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, said)
    error.verify_code, error.verify_message = code, said
    return error


BEHIND_PROXY = Way("https://model.example:8443/v1", Proxy("http://a:b@proxy.example:3128", "HTTPS_PROXY"))
RAISED: dict[str, Callable[[str], Exception]] = {
    "not accepted": lambda said: not_verified(23, said),
    "another name": lambda said: not_verified(62, said),
    "no authority": lambda said: not_verified(20, said),
    "expired": lambda said: not_verified(10, said),
    "TLS": ssl.SSLError,
    "refused": lambda said: OSError(errno.ECONNREFUSED, said),
    "no route": lambda said: OSError(errno.EHOSTUNREACH, said),
    "no answer": lambda said: OSError(errno.ETIMEDOUT, said),
    "a host": lambda said: socket.gaierror(socket.EAI_NONAME, said),
    "a look-up": lambda said: socket.gaierror(socket.EAI_AGAIN, said),
    "a password": lambda said: httpx.ProxyError(f"407 {said}"),
    "a tunnel": lambda said: httpx.ProxyError(f"503 {said}"),
    "an end": lambda said: httpx.RemoteProtocolError(f"peer closed connection {said}"),
    "a URL": httpx.InvalidURL,
}


@pytest.mark.parametrize("kind", RAISED)
def test_an_exception_is_said_in_the_same_words_whatever_the_secrets_are(kind: str) -> None:
    for way in (HERE, BEHIND_PROXY):
        plain = cause_of(RAISED[kind]("[API key]"), way)
        assert plain is not None
        for word in {*re.findall(r"\w+", plain.words.replace("[API key]", "")), "unspeakable"}:
            assert cause_of(RAISED[kind](word), replace(way, secrets=(word,))) == plain


def test_a_key_in_a_host_name_is_hidden_and_a_word_in_one_is_not() -> None:
    way = replace(Way("https://sk-5ecret.proxy.example/v1"), secrets=("sk-5ecret", "proxy"))
    assert (way.place, way.host) == ("https://[API key].proxy.example", "[API key].proxy.example")


async def test_a_proxy_that_does_not_listen_is_named_and_not_the_service(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch
) -> None:
    variables.setenv("ALL_PROXY", f"http://me:p4ssword@127.0.0.1:{closed_port()}")
    for scheme in ("http", "https"):
        failure = await asked(session, f"{scheme}://model.example/v1")
        said = f"nothing listens at http://127.0.0.1:{closed_port()} (connection refused), the proxy of ALL_PROXY"
        assert failure == Failure(Fault.CONNECTION, said)


# --- the words ---


FURTHER = "SSL_CERT_FILE may name a file (PEM) with further authorities"


@pytest.mark.parametrize(
    ("error", "fault", "said"),
    [
        (OSError(errno.ECONNREFUSED, "x"), Fault.CONNECTION, f"nothing listens at {PLACE} (connection refused)"),
        (
            OSError(f"Multiple exceptions: [Errno {errno.EADDRNOTAVAIL}] x, [Errno {errno.ECONNREFUSED}] y"),
            Fault.CONNECTION,
            f"nothing listens at {PLACE} (connection refused)",
        ),
        (OSError(errno.EHOSTUNREACH, "x"), Fault.CONNECTION, f"there is no route to {PLACE}; is this machine online?"),
        (OSError(errno.ENETUNREACH, "x"), Fault.CONNECTION, f"there is no route to {PLACE}; is this machine online?"),
        (OSError(errno.ECONNRESET, "x"), Fault.CONNECTION, f"the connection to {PLACE} was reset"),
        (BrokenPipeError(), Fault.CONNECTION, f"the connection to {PLACE} was reset"),
        (OSError(errno.ETIMEDOUT, "x"), Fault.CONNECTION, f"{PLACE} does not answer"),
        (
            socket.gaierror(socket.EAI_NONAME, "x"),
            Fault.UNREACHABLE,
            f"the host name of {PLACE} is unknown: check the base URL",
        ),
        (
            socket.gaierror(socket.EAI_AGAIN, "x"),
            Fault.CONNECTION,
            f"the host name of {PLACE} cannot be looked up now; is this machine online?",
        ),
        (
            not_verified(23, "certificate revoked"),
            Fault.UNREACHABLE,
            f"the certificate of {PLACE} is not accepted: certificate revoked. {FURTHER}",
        ),
        (ssl.SSLEOFError(8, "x"), Fault.CONNECTION, f"{PLACE} closed the connection during TLS"),
        (httpx.ProxyError("407 no"), Fault.UNREACHABLE, f"the proxy refused a connection to {PLACE} (HTTP 407)"),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), Fault.CONNECTION, None),
        (ValueError("x"), None, None),
        (FileNotFoundError(errno.ENOENT, "x"), None, None),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), None, None),
    ],
    ids=repr,
)
def test_an_exception_is_said_in_plain_words(error: Exception, fault: Fault | None, said: str | None) -> None:
    for raised in (error, _wrapped(error), _holding(error)):
        cause = cause_of(raised, HERE)
        assert (cause and cause.fault) == fault
        assert said is None or (cause and cause.words) == said


def _wrapped(error: Exception) -> Exception:
    outer = RuntimeError("wrapped")
    outer.__cause__ = ExceptionGroup("several", [error])
    return outer


def _holding(error: Exception) -> Exception:
    """Wrap an error as urllib3 does."""
    return RuntimeError(error)


def test_an_unknown_host_of_a_proxy_is_the_proxys() -> None:
    way = Way("https://model.example/v1", Proxy("http://me:p4ssword@proxy:3128", "HTTPS_PROXY"))
    assert cause_of(socket.gaierror(socket.EAI_NONAME, "x"), way) == Cause(
        Fault.UNREACHABLE,
        "the host name of the proxy at http://proxy:3128 (HTTPS_PROXY) is unknown: check HTTPS_PROXY",
    )


def test_the_url_of_a_failed_request_is_taken_from_its_exception() -> None:
    error = httpx.ConnectError("x", request=httpx.Request("POST", f"{PLACE}/v1/chat/completions?key=5ecret"))
    error.__cause__ = ConnectionRefusedError(errno.ECONNREFUSED, "x")
    assert failure_of(error, 1.0) == Failure(Fault.CONNECTION, f"nothing listens at {PLACE} (connection refused)")


# --- through the SDK ---


async def through_the_sdk(base_url: str) -> Completion | Failure:
    callers = ChatCallers({})
    with pytest.warns(RuntimeWarning, match="the slower one of the SDK takes over"):
        caller = callers._through_the_sdk(Endpoint("m", base_url, "sk-5ecret"), base_url, {}, RuntimeError("gone"))
    try:
        return await caller.call(HELLO, 60)
    finally:
        await callers.close()


async def test_the_sdk_takes_the_same_ways_and_says_the_same(
    session: aiohttp.ClientSession, variables: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tls = serving("model.example", "127.0.0.1")
    async with canned(OK, tls=tls) as server, proxying(server.base_url, "me:p4ssword") as proxy:
        urls = [server.base_url, f"https://127.0.0.1:{closed_port()}/v1", "https://nowhere.invalid/v1"]
        for url in urls:
            own, sdks = await asked(session, url), await through_the_sdk(url)
            assert own == sdks
        variables.setenv("SSL_CERT_FILE", str(authority_in(tmp_path)))
        assert await through_the_sdk(server.base_url) == FINE
        variables.setenv("ALL_PROXY", proxy.url.replace("://", "://me:p4ssword@"))
        assert await through_the_sdk("https://model.example/v1") == FINE
        variables.setenv("ALL_PROXY", proxy.url.replace("://", "://me:other-p4ssword@"))
        assert await through_the_sdk("https://model.example/v1") == await asked(session, "https://model.example/v1")


# --- whole runs ---


def table_of(folder: Path) -> Path:
    return write_table(folder / "rows.csv", ["text"], [[f"row {number}"] for number in range(20)])


async def test_an_unknown_authority_ends_a_run_at_once(tmp_path: Path) -> None:
    rows = table_of(tmp_path)
    async with canned(OK, tls=serving("127.0.0.1")) as server:
        arguments = ("run", rows, "--prompt", "{text}", "--base-url", server.base_url, "--model", "m", "--json")
        done = await asyncio.to_thread(call, *arguments, cwd=tmp_path)
        assert done.status == 3
        assert json.loads(done.stdout)["requests"] == 1
        assert "set SSL_CERT_FILE to a file (PEM) that holds the authority's certificate" in done.stderr
        again = await asyncio.to_thread(call, *arguments, cwd=tmp_path, SSL_CERT_FILE=str(authority_in(tmp_path)))
    assert again.status == 0, again.stderr


@pytest.mark.parametrize(
    "given",
    [
        {"SSL_CERT_FILE": "none.pem"},
        {"REQUESTS_CA_BUNDLE": "rows.csv"},
        {"ALL_PROXY": "socks5://me:p4ssword@127.0.0.1:7890"},
        {"https_proxy": "http://"},
    ],
    ids=str,
)
def test_run_and_plan_refuse_a_way_that_cannot_be_gone_in_the_same_words(tmp_path: Path, given: dict[str, str]) -> None:
    rows = table_of(tmp_path)
    options = (rows, "--prompt", "{text}", "--model", "m", "--base-url", "https://model.example/v1")
    ran, planned = (call(verb, *options, cwd=tmp_path, NO_PROXY="", no_proxy="", **given) for verb in ("run", "plan"))
    assert ran == planned
    assert (ran.status, ran.stdout) == (2, "")
    assert next(iter(given)) in ran.stderr
    assert "p4ssword" not in ran.stderr
    assert not (tmp_path / "output").exists()


def test_what_no_way_needs_is_not_read(tmp_path: Path) -> None:
    given = {"SSL_CERT_FILE": "none.pem", "ALL_PROXY": "socks5://127.0.0.1:7890"}
    options = ("--prompt", "{text}", "--provider", "offline")
    assert call("run", table_of(tmp_path), *options, cwd=tmp_path, **given).status == 0


def test_the_help_loads_nothing_of_this(tmp_path: Path) -> None:
    (tmp_path / "help.py").write_text(HELP)
    done = call("help.py", cwd=tmp_path, PYTHONPATH=str(ROOT))  # in a new interpreter
    assert done.stdout.splitlines()[-1] == "[]"


HELP = """
import sys
from batcher.cli import main
try:
    main(["run", "--help"])
except SystemExit:
    print([name for name in ("ssl", "truststore", "aiohttp", "urllib.request") if name in sys.modules])
"""

"""Who may ask the page: the token, the Host header, and changes that another site asks for."""

from __future__ import annotations

import contextlib
import http.client
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pytest
from conftest import Lab
from page_client import JSON, Client, page_of, said
from programs import started

from batcher.errors import SettingsError
from batcher.output.directory import Store
from batcher.reviewing.guard import MOST_BYTES, HandOver, Hosts
from batcher.reviewing.review import served_page


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lab = Lab(tmp_path_factory.mktemp("run") / "output")
    texts = ["fine", "bad"]
    lab.run(pd.DataFrame({"text": texts}), said(dict.fromkeys(texts, "yes")), "{text}")
    return lab.directory


@pytest.fixture(scope="module")
def client(directory: Path) -> Iterator[Client]:
    with page_of(directory) as (client, _):
        yield client


def api(client: Client, path: str = "api/run") -> str:
    return f"/{client.token}/{path}"


def test_the_token_opens_the_page(client: Client) -> None:
    assert client.ask("GET", api(client, "")).headers["content-type"] == "text/html; charset=utf-8"
    assert client.get("api/run")["rows"] == 2
    assert len(client.token) >= 32


@pytest.mark.parametrize(
    "path",
    ["/", "/api/run", "/x/api/run", "//api/run", "/{half}/api/run", "/{token}x/api/run", "/{upper}/api/run", "/%00/"],
)
def test_without_the_token_nothing_is_served(client: Client, path: str) -> None:
    token = client.token
    reply = client.ask("GET", path.format(token=token, half=token[:20], upper=token.swapcase()))

    assert reply.status == 403
    assert b"token" in reply.body
    assert reply.headers["content-type"].startswith("text/plain")


def test_the_address_that_a_browser_is_given_leads_to_the_page_once(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with page_of(directory) as (client, served):
        once = urlsplit(served.url_for_once()).path
        assert client.token not in once
        assert client.ask("HEAD", once).status == client.ask("POST", once, b"{}", JSON).status == 403
        assert client.ask("GET", once, headers={"host": "evil.example"}).status == 403
        assert client.ask("GET", f"{once[:-2]}/").status == 403
        first = client.ask("GET", once)
        assert (first.status, first.headers["location"]) == (307, f"/{client.token}/")
        assert first.headers["referrer-policy"] == "no-referrer"
        assert "opened again" not in capsys.readouterr().err
        assert client.ask("GET", once).status == 403
        assert "opened again" in capsys.readouterr().err
        other = urlsplit(served.url_for_once()).path
        assert client.ask("GET", once).status == 403
        assert client.ask("GET", other).status == 307


def test_the_address_that_a_browser_is_given_leads_nowhere_after_a_while() -> None:
    assert not HandOver(lasts_s=0.0).is_due()


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="a browser is opened in another way")
def test_no_process_has_the_token_among_its_arguments(lab: Lab, tmp_path: Path) -> None:
    lab.run(pd.DataFrame({"text": ["a"]}), said({"a": "yes"}), "{text}")
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/began && mv {tmp_path}/began {tmp_path}/given\n")
    browser.chmod(0o700)
    screen = {"DISPLAY": ":0", "BROWSER": str(browser), "SSH_CONNECTION": "", "SSH_TTY": "", "SSH_CLIENT": ""}
    with started("review", "k", "--output-dir", lab.directory, cwd=tmp_path, **screen) as page:
        assert page.stdout
        client = Client(page.stdout.readline().strip())
        while not (tmp_path / "given").exists():
            assert page.poll() is None
            client.get("api/run")
        [given] = (tmp_path / "given").read_text().splitlines()
        assert client.token not in given
        assert client.ask("GET", urlsplit(given).path).headers["location"] == f"/{client.token}/"
        page.terminate()
        assert page.wait() == 0


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", ""])
def test_a_name_of_another_site_that_leads_here_is_refused(client: Client, host: str) -> None:
    reply = client.ask("GET", api(client), headers={"host": host})

    assert reply.status in {400, 403}  # without a host it is no request of HTTP/1.1
    assert b"keyword" not in reply.body


def test_without_its_last_slash_the_address_leads_to_the_page(client: Client) -> None:
    reply = client.ask("GET", f"/{client.token}")

    assert (reply.status, reply.headers["location"]) == (307, f"/{client.token}/")


def test_two_host_headers_are_refused(client: Client) -> None:
    with contextlib.closing(http.client.HTTPConnection(client.place)) as connection:
        connection.putrequest("GET", api(client), skip_host=True)
        connection.putheader("host", client.place)
        connection.putheader("host", "evil.example")
        connection.endheaders()
        assert connection.getresponse().status in {400, 403}


def test_the_ways_to_name_this_machine_are_taken_whatever_port_leads_here(client: Client) -> None:
    port = client.place.rpartition(":")[2]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost:8888", "LocalHost"):
        assert client.ask("GET", api(client), headers={"host": host}).status == 200, host


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({}, 415),
        ({**JSON, "origin": "http://evil.example"}, 403),
        ({**JSON, "origin": "null"}, 403),
        ({**JSON, "origin": "http://127.0.0.1:1"}, 403),
        ({**JSON, "origin": "http://localhost"}, 403),
        ({**JSON, "sec-fetch-site": "cross-site"}, 403),
        ({**JSON, "sec-fetch-site": "same-site"}, 403),
    ],
)
def test_a_change_that_another_site_asks_for_is_not_made(client: Client, headers: dict[str, str], status: int) -> None:
    body = b'{"position": 0, "seen": 1, "answer": "no", "why": ""}'

    assert client.ask("POST", api(client, "api/correct"), body, headers).status == status
    assert client.get("api/row/0")["answer"] == "yes"


def test_a_change_that_the_page_itself_asks_for_passes(client: Client) -> None:
    own = {**JSON, "origin": f"http://{client.place}", "sec-fetch-site": "same-origin"}

    reply = client.ask("POST", api(client, "api/correct"), b'{"position": 9}', own)

    assert (reply.status, reply.json["kind"]) == (404, "gone")


def test_no_other_site_may_ask_first(client: Client) -> None:
    reply = client.ask("OPTIONS", api(client), headers={"origin": "http://evil.example"})

    assert reply.status == 405
    assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT"])
def test_other_methods_are_refused(client: Client, method: str) -> None:
    assert client.ask(method, api(client)).status in {400, 405}


def test_head_has_the_headers_alone(client: Client) -> None:
    reply = client.ask("HEAD", api(client))

    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.parametrize(
    "name",
    [
        "../app.py",
        "..%2fapp.py",
        "%2e%2e/%2e%2e/errors.py",
        "/etc/passwd",
        "..",
        ".",
        "",
        "index.html/",
        "%5c..%5capp.py",
    ],
)
def test_only_the_files_of_the_page_are_served(client: Client, name: str) -> None:
    reply = client.ask("GET", api(client, f"static/{name}"))

    assert reply.status == 404, reply
    assert b"import" not in reply.body


def test_every_reply_tells_the_browser_to_load_nothing_else(client: Client) -> None:
    for path in ("/x/", api(client, ""), api(client), api(client, "static/none"), api(client, "api/export")):
        headers = client.ask("GET", path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_a_huge_body_is_not_read(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", int(client.place.rpartition(":")[2]))) as raw:
        head = (
            f"POST {api(client, 'api/correct')} HTTP/1.1\r\nhost: {client.place}\r\n"
            "content-type: application/json\r\ncontent-length: 99999999999\r\n\r\n"
        )
        raw.sendall(head.encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_a_body_that_hides_its_length_ends_at_the_limit(client: Client) -> None:
    parts = (b"x" * 2**20 for _ in range(MOST_BYTES // 2**20 + 1))
    with contextlib.closing(http.client.HTTPConnection(client.place)) as connection:
        with contextlib.suppress(ConnectionError):  # it is cut before all of it is sent
            connection.request("POST", api(client, "api/correct"), parts, JSON, encode_chunked=True)
        with contextlib.suppress(ConnectionError):
            assert connection.getresponse().status == 413
    assert client.get("api/run")["rows"] == 2


@pytest.mark.parametrize("body", [b"{", b"[1]", b"\xff", b'"x"', b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(client: Client, body: bytes) -> None:
    assert client.ask("POST", api(client, "api/undo"), body, JSON).status == 400


@pytest.mark.allow_hosts(["127.0.0.1", "::1"])
def test_the_page_is_served_on_the_loopback_of_ipv6(directory: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with served_page(Store(directory, "k"), "ada", host="::1") as served:
        client = Client(served.url)
        assert client.place.startswith("[::1]:")
        assert client.get("api/run")["rows"] == 2
        assert client.ask("GET", api(client), headers={"host": "evil.example"}).status == 403


def test_beyond_this_machine_an_address_is_taken_and_a_foreign_name_is_not(directory: Path) -> None:
    with served_page(Store(directory, "k"), "ada", host="0.0.0.0") as served:  # noqa: S104 - what is tested
        client = Client(served.url)
        for host, status in (("10.1.2.3:80", 200), (socket.gethostname(), 200), ("evil.example", 403)):
            assert client.ask("GET", api(client), headers={"host": host}).status == status, host


def test_a_host_that_was_asked_for_is_a_name_of_the_page() -> None:
    hosts = Hosts("box.lan")

    assert hosts.has("box.lan:8000")
    assert hosts.has("BOX.LAN")
    assert not hosts.has("10.1.2.3")
    assert not hosts.has("user@box.lan")
    assert not hosts.has("box.lan/x")
    assert not hosts.has("box.lan:x")


@pytest.mark.parametrize(
    ("host", "words"), [("no.such.host.invalid", "no such host"), ("203.0.113.7", "--host 0.0.0.0")]
)
def test_an_address_that_this_machine_has_not_is_named(directory: Path, host: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words), served_page(Store(directory, "k"), "ada", host=host):
        pass


def test_a_taken_port_is_named(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        page = served_page(Store(directory, "k"), "ada", port=port)
        with pytest.raises(SettingsError, match="another program listens there"), page:
            pass


def test_who_asks_for_the_head_of_a_stream_or_of_a_file_gets_no_more(directory: Path) -> None:
    with page_of(directory) as (client, served):
        stream = client.ask("HEAD", f"/{client.token}/api/live")
        assert (stream.status, stream.headers["content-type"], stream.body) == (200, "text/event-stream", b"")
        assert served.page.live.pages == 0
        assert client.ask("HEAD", f"/{client.token}/api/export").status == 200
        assert "batcher-review-export" not in {each.name for each in threading.enumerate()}


def test_what_one_header_says_is_not_outdone_by_another(client: Client) -> None:
    path = f"/{client.token}/api/files"
    connection = http.client.HTTPConnection(client.place)
    with contextlib.closing(connection):
        connection.putrequest("POST", path)
        for name, value in [("Content-Type", "application/json"), ("Content-Length", "2")]:
            connection.putheader(name, value)
        connection.putheader("Sec-Fetch-Site", "same-origin")
        connection.putheader("Sec-Fetch-Site", "cross-site")
        connection.endheaders(b"{}")
        assert connection.getresponse().status == 403

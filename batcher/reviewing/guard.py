"""The guard before the page: who may ask, and what every reply says to the browser.

Invariant: nothing behind it runs for a request without the token, with a foreign Host, or with a change that another
page has asked for; and every reply, refusals included, has the same headers.

- The token is the first part of the path, and 32 random bytes.
- The browser is given another address, which leads to the page once: whoever is on the machine can read the arguments
  of its processes.
- A foreign name in Host is how DNS rebinding shows: a page of another site whose name now leads here.
- Only JSON is taken, which no form of another site can send without asking first (CORS), and that is never allowed.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import secrets
import socket
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from batcher.server.asgi import App, Receive, Scope, Send
from batcher.words import say

MOST_BYTES = 4 * 2**20
"""The largest body of a request: an answer that a person gave, with room to spare."""

_HEADERS = (
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:;"
            b" base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_METHODS = ("GET", "HEAD", "POST")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ANY = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not listened on


def new_token() -> str:
    """Return a token of 43 random characters that a URL can hold."""
    return secrets.token_urlsafe(32)


class Refused(NamedTuple):
    """A request that is refused: the status of HTTP, and why."""

    status: int
    why: str


class Guarded(NamedTuple):
    """A request that has passed.

    Attributes:
        path: below the token, without a slash before it.
        body: of a POST: a JSON object; else empty.
    """

    path: str
    body: Mapping[str, Any]


class HandOver:
    """An address that leads to the page once, and only for a while; for the arguments of a process.

    Args:
        lasts_s: how long it leads there, from now on.

    Attributes:
        token: its path.
    """

    def __init__(self, lasts_s: float = 60.0) -> None:
        self.token = new_token()
        self._until = time.monotonic() + lasts_s

    def is_due(self) -> bool:
        """Return whether it leads to the page; no longer after that."""
        is_due = time.monotonic() < self._until
        self._until = 0.0
        return is_due


class Hosts:
    """The names by which the page may be called.

    Args:
        host: that the user gave: the address to listen on.
    """

    def __init__(self, host: str) -> None:
        self._is_any = host in _ANY
        self._names = {*_LOOPBACK, host.lower(), socket.gethostname().lower()} if self._is_any else set(_LOOPBACK)
        if not self._is_any:
            self._names.add(host.lower())

    def has(self, header: str) -> bool:
        """Return whether the value of a Host header names this page. Its port is free: SSH may have forwarded it."""
        try:
            found = urlsplit(f"//{header}")
            name, _ = found.hostname or "", found.port
        except ValueError:
            return False
        if found.netloc != header or found.username is not None or not name:
            return False
        return name in self._names or (self._is_any and _is_address(name))


def _is_address(name: str) -> bool:
    """Return whether a name is an IP address, which no DNS server can turn to another."""
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


class Guard:
    """An ASGI app around the page's.

    Args:
        app: of the page; finds a `Guarded` under `guarded` in the scope.
        token: that the path must begin with.
        hosts: the names by which the page may be called.

    Attributes:
        hand_over: the address that a browser is given, if one is.
    """

    def __init__(self, app: App, token: str, hosts: Hosts) -> None:
        self.hand_over: HandOver | None = None
        self._app = app
        self._token = token.encode()
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"no events of type {scope['type']}")

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        headers = _Headers(scope["headers"])
        path = self._path(scope, headers)
        if isinstance(path, str):
            refused = _checked(scope["method"], headers)
            found = refused or (await _read(receive, headers) if scope["method"] == "POST" else {})
        else:
            found = path
        if path is None or (isinstance(path, str) and "/" not in str(scope["path"])[1:]):
            # What the page links begins below the token.
            await _redirect(f"/{self._token.decode()}/", guarded)
        elif isinstance(found, Refused):
            await _refuse(found, guarded)
        elif found is not None:  # else the client has left
            await self._app({**scope, "guarded": Guarded(str(path), found)}, receive, guarded)

    def _path(self, scope: Scope, headers: _Headers) -> str | Refused | None:
        """Return the path below the token, or why there is none; None: the browser that was opened comes for it."""
        hosts = headers.all(b"host")
        if len(hosts) != 1 or not self._hosts.has(hosts[0]):
            return Refused(
                403,
                "This page does not answer to the name in the Host header: open the address that `batcher review`"
                " printed.",
            )
        token, _, path = str(scope["path"]).removeprefix("/").partition("/")
        given = token.encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._token):
            if scope["method"] == "GET" and self._hands_over(given):
                return None
            return Refused(
                403, "The address lacks the token, or has an old one: open the address that `batcher review` printed."
            )
        return path

    def _hands_over(self, given: bytes) -> bool:
        """Return whether this is the address that the browser was given, for the first time."""
        own = self.hand_over
        if own is None or not hmac.compare_digest(given, own.token.encode()):
            return False
        if own.is_due():
            return True
        say(
            "The address that the browser was given was opened again, or late. If that was not you, another user of"
            " this machine may have read it, and may have the page: end it, and start it with --no-browser.",
            "warning",
        )
        return False


class _Headers:
    def __init__(self, found: Any) -> None:
        self._found = found

    def all(self, name: bytes) -> list[str]:
        return [value.decode("latin-1").strip() for key, value in self._found if key == name]

    def one(self, name: bytes) -> str:
        return next(iter(self.all(name)), "")


def _checked(method: str, headers: _Headers) -> Refused | None:
    """Return why a request with the token is refused, if it is."""
    if method not in _METHODS:
        return Refused(405, f"{method} is not used here.")
    if method != "POST":
        return None
    if headers.one(b"content-type").partition(";")[0].strip().lower() != "application/json":
        return Refused(415, "A change must be sent as application/json.")
    if not {each.lower() for each in headers.all(b"sec-fetch-site")} <= {"", "same-origin", "none"}:
        return Refused(403, "Another page asked for this change: it is not made.")
    for origin in headers.all(b"origin"):
        scheme, _, place = origin.partition("://")
        if scheme not in {"http", "https"} or place.lower() != headers.one(b"host").lower():
            return Refused(403, "Another page asked for this change: it is not made.")
    return None


async def _read(receive: Receive, headers: _Headers) -> dict[str, Any] | Refused | None:
    """Read the body of a POST; None if the client left before its end."""
    too_large = Refused(413, f"A request may have at most {MOST_BYTES:,} bytes.")
    stated = headers.one(b"content-length")
    if stated.isdecimal() and int(stated[:19]) > MOST_BYTES:
        return too_large
    content = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        content += message.get("body", b"")
        if len(content) > MOST_BYTES:
            return too_large
        if not message.get("more_body"):
            break
    try:
        found = json.loads(bytes(content) or b"{}")
    except (ValueError, RecursionError):
        return Refused(400, "The body is no JSON.")
    return found if isinstance(found, dict) else Refused(400, "The body is no JSON object.")


async def _redirect(path: str, send: Send) -> None:
    headers = [(b"location", path.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 307, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(refused: Refused, send: Send) -> None:
    body = refused.why.encode()
    headers = [_TEXT, (b"content-length", str(len(body)).encode())]
    if refused.status in {413, 415, 405, 400}:
        headers.append((b"connection", b"close"))  # what it still sends is not read
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""The way to the server: one request on aiohttp, whole or streamed answers.

The SDK's own client costs several times the CPU time per call, and its connection pool is slow when it is large.

Invariant: what the network or the server does ends as an attempt's outcome, never as an exception; no API key is part
of it, and it says whether the request had left.
"""

from __future__ import annotations

import ipaddress
import json
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from batcher.dialect import Stream, answer_in, one_line
from batcher.errors import SettingsError
from batcher.records import Completion, Failure, Fault, Message

# A server may close an idle connection while a request is on its way on it. uvicorn, and so vLLM, closes after 5 s.
_KEEPALIVE_S = 4.0
_CONNECT_S = 30.0
_PIECE = 2**18  # bytes of a request written at once


class Attempt:
    """One request: what it asks, how far it has come, and what came of it.

    Attributes:
        messages: what it asks.
        has_begun: our client has it.
        has_left: it is being written to the server, which may answer from now on, and bill.
        outcome: what came of it, or None.
    """

    __slots__ = ("has_begun", "has_left", "messages", "outcome")

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.has_begun = False
        self.has_left = False
        self.outcome: Completion | Failure | None = None


class _Body(aiohttp.Payload):
    """The body of a request, which takes note when it leaves."""

    def __init__(self, value: bytes, attempt: Attempt) -> None:
        super().__init__(value, content_type="application/json")
        self._size = len(value)
        self._attempt = attempt

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._attempt.has_left = True
        for start in range(0, len(self._value), _PIECE):
            await writer.write(self._value[start : start + _PIECE])


class Completions:
    """Posts to `<base_url>/chat/completions` with one API key.

    Args:
        session: the run's session; its owner closes it.
        base_url: such as `https://api.deepseek.com/v1`.
        api_key: sent as a bearer; None sends no `Authorization` at all.
        model: the model's name.
        params: request parameters, sent under the names given.

    Raises:
        SettingsError: the way there leads through a proxy of a kind that cannot be used.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        api_key: str | None,
        model: str,
        params: Mapping[str, Any],
    ) -> None:
        self._session = session
        self._url = f"{base_url}/chat/completions"
        self._proxy = proxy_for(self._url)
        self._model = model
        self._params = dict(params)
        self._streams = params.get("stream") is True
        if self._streams:
            self._params.setdefault("stream_options", {"include_usage": True})  # or no server would say what it cost
        self._secrets = (api_key,) if api_key else ()
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def send(self, attempt: Attempt) -> None:
        """Send one request: the model, the messages and the parameters as the user wrote them, and read what comes."""
        attempt.has_begun = True
        # In ASCII: half of a surrogate pair can be sent in no other way.
        question = json.dumps({"model": self._model, "messages": attempt.messages, **self._params}).encode()
        try:
            async with self._session.post(
                self._url,
                data=_Body(question, attempt),
                headers=self._headers,
                proxy=self._proxy,
                allow_redirects=False,
            ) as response:
                attempt.outcome = await self._read(response)
        except (aiohttp.ClientError, OSError, UnicodeError) as error:  # the last: a host name that cannot be one
            attempt.outcome = Failure(
                Fault.CONNECTION,
                one_line(str(error), self._secrets) or type(error).__name__,
                may_be_billed=attempt.has_left,
            )

    async def _read(self, response: aiohttp.ClientResponse) -> Completion | Failure:
        if self._streams and response.content_type == "text/event-stream" and response.status < 300:
            return await self._read_stream(response)
        try:
            raw = await response.read()
        except (aiohttp.ClientError, OSError):
            if response.status < 300:
                raise
            raw = b""  # the status says enough
        return answer_in(response.status, response.headers, raw, self._secrets)

    async def _read_stream(self, response: aiohttp.ClientResponse) -> Completion | Failure:
        """Read a stream as it comes: the many small objects of an answer need not be in memory together."""
        stream = Stream()
        try:
            async for part in response.content.iter_any():
                stream.add(part)
        except (aiohttp.ClientError, OSError):
            if not stream.is_whole:  # else only what follows the answer was cut off
                raise
        return stream.answer(response.headers, self._secrets)


def open_session() -> aiohttp.ClientSession:
    """Open the HTTP client of a run, bound to the running loop. The pool's limits are its only limits."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S, ttl_dns_cache=300)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
    # No cookies: what a server sets for one API key is not sent with another.
    return aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment or the system names for a URL, or None; loopback needs none.

    aiohttp's own `trust_env` looks it up, and reads `~/.netrc`, in each request.

    Raises:
        SettingsError: it is no HTTP proxy.
    """
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or _is_loopback(parts.hostname or "") or urllib.request.proxy_bypass(parts.netloc):
        return None
    kind, separator, _ = proxy.partition("://")
    if separator and kind.lower() not in {"http", "https"}:
        name = f"{parts.scheme.upper()}_PROXY"
        raise SettingsError(f"{name} names a {kind} proxy, which cannot be used: give one of http://, or set NO_PROXY")
    return proxy if separator else f"http://{proxy}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""The way to the server: a light client on aiohttp in the place of the SDK's own.

`ChatOpenAI` takes any object as its `async_client` that has `with_raw_response.create(**payload)`. This one costs a
sixth of the SDK's CPU time per call, and its connection pool does not slow down when it is large.

Invariant: `create` returns a chat completion that LangChain can read, or raises `CallFailed` with what went wrong;
no API key is ever part of it.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Mapping
from typing import Any, Self, TypeGuard
from urllib.parse import urlsplit

import aiohttp

from batcher.records import Failure, Fault
from batcher.retry import retry_after

# A server may close an idle connection while a request is on its way on it. uvicorn, and so vLLM, closes after 5 s.
_KEEPALIVE_S = 4.0
_CONNECT_S = 30.0
_LONGEST_MESSAGE = 500

# What the SDK's client takes as arguments of the call and does not send in the body.
_NOT_SENT = ("extra_body", "extra_headers", "extra_query", "timeout")
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class CallFailed(Exception):
    """A call did not bring a chat completion."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class RawResponse:
    """What `with_raw_response.create` returns: the body, read already, and the headers."""

    __slots__ = ("_body", "headers")

    def __init__(self, body: dict[str, Any], headers: Mapping[str, str]) -> None:
        self._body = body
        self.headers = headers

    def parse(self) -> dict[str, Any]:
        return self._body


class Completions:
    """Posts to `<base_url>/chat/completions` with one API key.

    Args:
        session: the run's session; its owner closes it.
        base_url: such as `https://api.deepseek.com/v1`.
        api_key: sent as a bearer; None sends no `Authorization` at all.
    """

    def __init__(self, session: aiohttp.ClientSession, base_url: str, api_key: str | None) -> None:
        self._session = session
        self._url = f"{base_url}/chat/completions"
        self._api_key = api_key
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._proxy = proxy_for(self._url)

    @property
    def with_raw_response(self) -> Self:
        return self

    @property
    def chat(self) -> Self:
        """Stand in for the SDK's root client, whose completions are at `chat.completions`."""
        return self

    @property
    def completions(self) -> Self:
        return self

    async def create(self, **payload: Any) -> RawResponse:
        """Send one request and read its whole answer.

        Raises:
            CallFailed: no connection, an HTTP status other than 2xx, or a body that is no chat completion.
        """
        body = {name: value for name, value in payload.items() if name not in _NOT_SENT}
        if not body.get("stream"):
            body.pop("stream", None)
        body |= payload.get("extra_body") or {}
        try:
            async with self._session.post(
                self._url,
                data=json.dumps(body).encode(),
                headers=self._headers | (payload.get("extra_headers") or {}),
                params=payload.get("extra_query"),
                proxy=self._proxy,
                allow_redirects=False,
            ) as response:
                raw = await response.read()
        except (aiohttp.ClientError, ConnectionError) as error:
            raise CallFailed(self._hide_key(connection_failure(error))) from error
        if not 200 <= response.status < 300:
            raise CallFailed(self._hide_key(status_failure(response.status, response.headers, raw)))
        return RawResponse(self._checked(raw), response.headers)

    def _checked(self, raw: bytes) -> dict[str, Any]:
        """Return the body where LangChain can read it, so that it never meets one that it cannot."""
        body = _json(raw)
        if _is_completion(body):
            return body
        failure = status_failure(200, {}, raw)
        if failure.code is not None and failure.code.isdecimal() and 400 <= int(failure.code) < 600:
            # Some relays answer 200 and put the upstream's status into the body.
            failure = Failure(Fault.STATUS, failure.message, int(failure.code))
        else:
            failure = Failure(Fault.PROTOCOL, failure.message, code=failure.code)
        raise CallFailed(self._hide_key(failure))

    def _hide_key(self, failure: Failure) -> Failure:
        """Take the API key out of what the server said; some repeat it in their errors."""
        if not self._api_key or self._api_key not in failure.message:
            return failure
        said = failure.message.replace(self._api_key, "[API key]")
        return Failure(failure.fault, said, failure.status, failure.code, failure.retry_after)


def _json(raw: bytes | str) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _is_completion(body: Any) -> TypeGuard[dict[str, Any]]:
    if not isinstance(body, dict) or body.get("error") or not isinstance(body.get("choices"), list):
        return False
    choices = body["choices"]
    return bool(choices) and all(isinstance(each, dict) and isinstance(each.get("message"), dict) for each in choices)


def open_session() -> aiohttp.ClientSession:
    """Open the HTTP client of a run, bound to the running loop. The pool's limits are its only limits."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S, ttl_dns_cache=300)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
    return aiohttp.ClientSession(connector=connector, timeout=timeout)


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment or the system names for a URL, or None.

    aiohttp's own `trust_env` looks it up, and reads `~/.netrc`, in each request.
    """
    host = urlsplit(url).hostname or ""
    if host in _LOOPBACK or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(urlsplit(url).scheme)


def connection_failure(error: BaseException) -> Failure:
    """Say in one line why there was no answer."""
    return Failure(Fault.CONNECTION, _one_line(str(error)) or type(error).__name__)


def status_failure(status: int, headers: Mapping[str, str], raw: bytes | str) -> Failure:
    """Read a refusal: an error object in one of its dialects, or any other body."""
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    message, code = error_of(_json(text))
    return Failure(
        Fault.STATUS,
        _one_line(message or text) or "an empty body",
        status,
        code,
        retry_after(headers, time.time()),
    )


def error_of(body: object) -> tuple[str, str | None]:
    """Return the message and the code of an error body: nested, flat, or `{"detail": ...}`."""
    if not isinstance(body, dict):
        return "", None
    error = body.get("error")
    if isinstance(error, str):
        return error, None
    if not isinstance(error, dict):
        error = body
    said = error.get("message") or error.get("detail") or error.get("msg") or ""
    code = error.get("code") or error.get("type")
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False), None if code is None else str(code)


def _one_line(text: str) -> str:
    """Fold white space and cut what is too long to show."""
    folded = " ".join(text.split())
    return folded if len(folded) <= _LONGEST_MESSAGE else f"{folded[:_LONGEST_MESSAGE]} ..."

"""The way to the server: one request on aiohttp, and what came back, read in all its dialects.

The SDK's own client costs several times the CPU time per call, and its connection pool is slow when it is large.

Invariant: `create` returns a completion or raises `CallFailed` with what went wrong; no API key is ever part of it.
"""

from __future__ import annotations

import io
import ipaddress
import json
import time
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from batcher.errors import SettingsError
from batcher.records import Completion, Failure, Fault, Message, Usage
from batcher.retry import retry_after

# A server may close an idle connection while a request is on its way on it. uvicorn, and so vLLM, closes after 5 s.
_KEEPALIVE_S = 4.0
_CONNECT_S = 30.0
_LONGEST_MESSAGE = 500
_LONGEST_CODE = 80
_LONG_BODY = 2**20  # bytes; of a longer one that is no file, aiohttp warns


class CallFailed(Exception):
    """A call did not bring a chat completion."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


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
        self._secrets = (api_key,) if api_key else ()
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    async def create(self, messages: Sequence[Message]) -> Completion:
        """Send one request: the model, the messages and the parameters as the user wrote them, nothing else.

        Raises:
            CallFailed: no connection, an HTTP status other than 2xx, or a body that is no chat completion.
        """
        outcome = await self._ask(messages)
        if isinstance(outcome, Failure):
            # Raised here, not where aiohttp's error is caught: that one holds the request's headers.
            raise CallFailed(outcome)
        return outcome

    async def _ask(self, messages: Sequence[Message]) -> Completion | Failure:
        # In ASCII: half of a surrogate pair can be sent in no other way.
        body = json.dumps({"model": self._model, "messages": messages, **self._params}).encode()
        try:
            async with self._session.post(
                self._url,
                data=body if len(body) < _LONG_BODY else io.BytesIO(body),
                headers=self._headers,
                proxy=self._proxy,
                allow_redirects=False,
            ) as response:
                raw = await response.read()
        except (aiohttp.ClientError, OSError, UnicodeError) as error:  # the last: a host name that cannot be one
            return connection_failure(error, self._secrets)
        completion = completion_in(_json(raw)) if 200 <= response.status < 300 else None
        if completion is None:
            return status_failure(response.status, response.headers, raw, self._secrets)
        return completion


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


# --- reading a completion ---


def completion_in(body: object) -> Completion | None:
    """Read the first choice of a chat completion, or return None where the body is none.

    What is not needed is not looked at, so that no oddity in it costs an answer.
    """
    match body:
        case {"error": error} if error:
            return None
        case {"choices": [{"message": {**message}, **choice}, *_], **rest}:
            content, reason = message.get("content"), choice.get("finish_reason")
        case _:
            return None
    if content is not None and not isinstance(content, (str, list)):
        return None
    text = "".join(map(_text, content)) if isinstance(content, list) else content
    if not text and (tool_calls := message.get("tool_calls")) and isinstance(tool_calls, list):
        text = json.dumps(tool_calls, ensure_ascii=False)  # the model answered with calls of the user's tools
    refusal = message.get("refusal")
    return Completion(
        text,
        reason if isinstance(reason, str) else None,
        _usage(rest.get("usage")),
        refusal if isinstance(refusal, str) else None,
    )


def _text(part: object) -> str:
    """Return the text of a content part; a part of another kind, such as `thinking`, has none."""
    match part:
        case str(text) | {"type": "text", "text": str(text)}:
            return text
    return ""


def _usage(usage: object) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    counts = (usage.get(name) for name in ("prompt_tokens", "completion_tokens"))
    return Usage(*(int(count) if isinstance(count, (int, float)) and 0 <= count < 2**53 else 0 for count in counts))


# --- reading a failure ---


def connection_failure(error: BaseException, secrets: Sequence[str] = ()) -> Failure:
    """Say in one line why there was no answer."""
    return Failure(Fault.CONNECTION, one_line(str(error), secrets) or type(error).__name__)


def status_failure(status: int, headers: Mapping[str, str], raw: bytes | str, secrets: Sequence[str] = ()) -> Failure:
    """Read an answer that is no completion: an error object in one of its dialects, or any other body.

    Args:
        status: the HTTP status. Under a 2xx, some relays put that of their upstream into the body.
        headers: the response's headers; their names in lower case, or case-insensitive.
        raw: the body.
        secrets: what must not be shown; some servers repeat the API key in their errors.
    """
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    said, codes = error_of(_json(text))
    if status < 300:
        inner = next((int(code) for code in codes if code.isdecimal() and len(code) == 3 and "400" <= code < "600"), 0)
        status = inner or status
    # A code that only repeats the status hides a better one.
    code = next((code for code in codes if code != str(status)), codes[0] if codes else None)
    return Failure(
        Fault.PROTOCOL if status < 300 else Fault.STATUS,
        one_line(said or text, secrets) or "an empty body",
        None if status < 300 else status,
        None if code is None else one_line(code, secrets, _LONGEST_CODE),
        retry_after(headers, time.time()),
    )


def error_of(body: object) -> tuple[str, list[str]]:
    """Return the message of an error body and what it has of codes, the most precise first.

    The dialects: `{"error": {...}}` (OpenAI and most), a list of it (Gemini), `{"error": "..."}` (Ollama), a flat
    object (vLLM, DashScope), `{"detail": ...}` (FastAPI).
    """
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return "", []
    error = body.get("error")
    if isinstance(error, str):
        return error, []
    if not isinstance(error, dict):
        error = body
    said = error.get("message") or error.get("detail") or error.get("msg") or ""
    codes = (error.get(name) for name in ("code", "type", "status"))
    return (
        said if isinstance(said, str) else json.dumps(said, ensure_ascii=False),
        [str(code) for code in codes if isinstance(code, (int, str)) and code],
    )


def one_line(text: str, secrets: Sequence[str] = (), longest: int = _LONGEST_MESSAGE) -> str:
    """Fold what is not printable, and cut what is too long to show; hide the secrets first, so that none is cut."""
    for secret in secrets:
        text = text.replace(secret, "[API key]")
    text = text.strip()
    head = text[: 10 * longest]  # a page of HTML may be large
    folded = " ".join("".join(char if char.isprintable() else " " for char in head).split())
    return folded if len(folded) <= longest and len(head) == len(text) else f"{folded[:longest]} ..."


def _json(raw: bytes | str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None

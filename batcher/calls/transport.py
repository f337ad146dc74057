"""Sends requests to the server through aiohttp, and reads whole or streamed answers.

The SDK's own client costs several times the CPU time per call, and its connection pool is slow when it is large.

Invariant: errors of the network or the server become an attempt's outcome, never an exception. An outcome holds no API
key and says whether the request had left; no response is read beyond its bound.
"""

from __future__ import annotations

import contextlib
import inspect
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from batcher.calls import body
from batcher.calls.connections import Connector, Exchange
from batcher.calls.dialect import answer_in, too_long
from batcher.calls.embeddings import inputs_in
from batcher.calls.error_bodies import without_echo
from batcher.calls.patience import Signs
from batcher.calls.request_body import PATHS, RequestBody, asked_in
from batcher.calls.streaming import STREAM, Added
from batcher.calls.streams import Stream, is_stream
from batcher.calls.unreached import (
    Cause,
    cause_of,
    causes_of,
    perhaps_of_proxy,
    speaks_tls,
    tls_expected,
    too_much_head,
)
from batcher.calls.ways import Way, way_to
from batcher.chat_model import keys_in
from batcher.endpoint import key_header
from batcher.hiding import longest_first, secrets_among
from batcher.records import NO_PARAMS, NO_TERMS, Completion, Failure, Fault, Message, Task, Terms

MOST_BYTES = 64_000_000
MOST_CONNECTIONS = 768
"""The default bounds of a response's bytes and of open connections."""

# It goes into files, too, which are the same whoever started the run: so it names the ways of both readers.
_NO_KEY = (
    "(no API key was sent: --api-key-env NAME sends the one in the variable NAME of the environment or .env; in Python"
    " api_key_env, or api_key of the Endpoint)"
)
_PIECE = 2**18  # bytes of a request written at once
# The most bytes of a refusal that are read.
_REFUSAL_BYTES = 2**16
# The bytes that a response may have on the wire besides its body: a chunk of one byte takes six, and headers are added.
_FRAMES, _HEADERS = 6, 2**20
# The most bytes of one header of a response, and the most headers.
_HEADER_BYTES, _HEADER_COUNT = 2**16, 2**10
# Older releases of aiohttp do not count them.
_COUNTS_HEADERS = "max_headers" in inspect.signature(aiohttp.ClientSession).parameters


class Attempt:
    """One request: its messages, its progress and its outcome.

    Attributes:
        messages: the messages to send.
        params: further request parameters.
        terms: how the row asks.
        has_begun: our client has received it.
        has_left: it is being written to the server, which may answer and bill from now on.
        departed: is called when it is about to be written, if anybody wants to know.
        outcome: its outcome, or None before its end.
        signs: of life: each part of the response is one.
        so_far: returns what has come of a streamed answer, or None.
    """

    __slots__ = ("departed", "has_begun", "has_left", "messages", "outcome", "params", "signs", "so_far", "terms")

    def __init__(
        self,
        messages: Sequence[Message],
        params: Mapping[str, Any] = NO_PARAMS,
        terms: Terms = NO_TERMS,
        departed: Callable[[], None] | None = None,
    ) -> None:
        self.messages = messages
        self.params = params
        self.terms = terms
        self.departed = departed
        self.has_begun = False
        self.has_left = False
        self.outcome: Completion | Failure | None = None
        self.signs = Signs()
        self.so_far: Callable[[], Completion | None] = _nothing


def _nothing() -> None:
    """Return None: nothing has come."""


class _Body(aiohttp.Payload):
    """The body of a request, which records when it leaves, and when it has been written."""

    def __init__(self, value: bytes, attempt: Attempt, exchange: Exchange) -> None:
        super().__init__(value, content_type="application/json")
        self._size = len(value)
        self._attempt = attempt
        self._exchange = exchange

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._attempt.has_left = True
        if self._attempt.departed:
            self._attempt.departed()
        for start in range(0, len(self._value), _PIECE):
            await writer.write(self._value[start : start + _PIECE])
        self._exchange.is_written = True


class Completions:
    """Posts to `<base_url>/chat/completions`, or to the place of another task, with one API key.

    Args:
        session: the run's session; its owner closes it.
        base_url: such as `https://api.deepseek.com/v1`.
        api_key: sent in the base URL's header for keys; None sends no such header.
        model: the model's name.
        params: request parameters, sent under the names given.
        headers: sent besides the key's header.
        most_bytes: the most bytes of a response, unpacked.
        tls: verifies certificates; default: aiohttp's own.
        is_streamed: ask for streamed answers, unless `params` says otherwise.
        scores: ask for the log-probabilities of the tokens of answers.

    Attributes:
        added: the parameters that batcher adds.

    Raises:
        SettingsError: the environment names a proxy that cannot be used.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        api_key: str | None,
        model: str,
        params: Mapping[str, Any],
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        most_bytes: int = MOST_BYTES,
        tls: ssl.SSLContext | None = None,
        is_streamed: bool = False,
        scores: bool = False,
    ) -> None:
        self._session = session
        place, mark, version = base_url.partition("?")
        self._urls = {task: f"{place}/{path}{mark}{version}" for task, path in PATHS.items()}
        way = way_to(self._urls[Task.CHAT])
        self._body = RequestBody(model, params)
        self.added = Added(params, is_wanted=is_streamed, scores=scores)
        wanted = params.get("n")
        self._wants_all = isinstance(wanted, int) and wanted > 1
        self._most = most_bytes
        keys = keys_in(headers)
        proxy = way.proxy
        self._secrets = longest_first([*secrets_among([api_key or "", *keys]), *(proxy.secrets if proxy else ())])
        self._way = replace(way, secrets=self._secrets)
        self._route = _route(way, tls)
        self._has_key = bool(api_key or keys)
        self._headers = {**headers, **authorization(base_url, api_key)}
        if proxy and not self._way.is_tunnelled:
            self._headers |= proxy.authorization

    async def send(self, attempt: Attempt) -> None:
        """Send one request, with model, messages and parameters as the user wrote them, and read the response."""
        attempt.has_begun = True
        added = self.added.to(attempt.terms)
        question = self._body.of(attempt.messages, added, attempt.params, attempt.terms)
        with Exchange(question, _FRAMES * self._most + _HEADERS) as exchange:
            try:
                async with self._session.post(
                    self._urls[attempt.terms.task],
                    data=_Body(question, attempt, exchange),
                    headers={**self._headers, "X-Request-ID": exchange.id},
                    allow_redirects=False,
                    **self._route,
                ) as response:
                    if response.status >= 300:
                        # The status is enough if the body breaks off or takes too long.
                        attempt.outcome = self._refusal(response, b"")
                    outcome = await self._read(response, attempt)
                    if isinstance(outcome, Failure):
                        outcome = without_echo(outcome, attempt.messages)
                        before = {*self.added.params}
                        outcome = replace(outcome, left_out=self.added.refused(outcome, added))
                        if before != {*self.added.params}:
                            self._body.forget()
                    attempt.outcome = self._judge(exchange, response, outcome)
            except (aiohttp.ClientError, OSError, UnicodeError) as error:  # UnicodeError: an impossible host name
                attempt.outcome = attempt.outcome or self._failed(error, attempt, exchange)

    def asks_for_stream(self, terms: Terms) -> bool:
        """Return whether a request asks for a stream, and the endpoint is not known to answer in one piece."""
        is_asked = terms.params.get(STREAM, self.added.streams) is True
        return is_asked and terms.task is not Task.EMBEDDING and not self.added.is_whole

    def _failed(self, error: Exception, attempt: Attempt, exchange: Exchange) -> Failure:
        if exchange.is_too_long:
            return replace(too_long(self._most), partial=attempt.so_far())
        if too_much_head(error):
            message = f"its headers are longer than {_HEADER_BYTES // 2**10} KB, or more than {_HEADER_COUNT:,}"
            return Failure(Fault.TOO_LONG, message, may_be_billed=attempt.has_left)
        cause = cause_of(error, self._way) or self._unknown(error)
        is_billed = attempt.has_left and cause.fault is not Fault.UNREACHABLE
        return Failure(cause.fault, cause.words, may_be_billed=is_billed, partial=attempt.so_far())

    def _unknown(self, error: Exception) -> Cause:
        told = self._way.told
        if isinstance(error, TimeoutError):
            return Cause(Fault.CONNECTION, f"{self._way.first} did not take a connection in time")
        if isinstance(error, aiohttp.ClientPayloadError):
            return Cause(Fault.CONNECTION, f"the answer of {self._way.whole} cannot be read: {told(error)}")
        deepest = list(causes_of(error))[-1]
        if isinstance(error, aiohttp.ClientResponseError):
            said = getattr(deepest, "message", "")
            return Cause(Fault.CONNECTION, f"{self._way.whole} answered in invalid HTTP: {told(said)}")
        said = getattr(deepest, "strerror", None) or str(deepest) or type(deepest).__name__
        return Cause(Fault.CONNECTION, f"the connection to {self._way.whole} failed: {told(said)}")

    def _judge(
        self, exchange: Exchange, response: aiohttp.ClientResponse, outcome: Completion | Failure
    ) -> Completion | Failure:
        """Refuse a response that belongs to another request; keep the connection if all went well."""
        answer = (outcome.id, outcome.text or "") if isinstance(outcome, Completion) else None
        if why := exchange.foreign(response, answer):
            return Failure(Fault.MIXED_UP, why, may_be_billed=True)
        # After any other failure a gateway may still pass on an answer. Refusals for a rate limit are frequent, and
        # come from the gateway itself.
        if (isinstance(outcome, Completion) and outcome.text) or response.status == HTTPStatus.TOO_MANY_REQUESTS:
            exchange.keep()
        return outcome

    async def _read(self, response: aiohttp.ClientResponse, attempt: Attempt) -> Completion | Failure:
        attempt.signs.hear()
        if response.status >= 300:
            return await self._read_refusal(response)
        try:
            # Not by the parsed type, which costs as much as the rest of the headers.
            if response.headers.get("Content-Type", "").lower().startswith("text/event-stream"):
                return await self._read_stream(response, attempt)
            raw = await self._read_whole(response, attempt)
        except body.TooLong:
            return replace(too_long(self._most), partial=attempt.so_far())
        except body.UnknownEncoding as error:
            said = f"it is compressed with '{self._way.told(error)}', which was not asked for"
            return Failure(Fault.PROTOCOL, said, may_be_billed=True)
        task = attempt.terms.task
        return answer_in(
            response.status,
            response.headers,
            raw,
            self._secrets,
            wants_all=self._wants_all,
            inputs=inputs_in(asked_in(attempt.messages, task)) if task is Task.EMBEDDING else None,
        )

    async def _read_refusal(self, response: aiohttp.ClientResponse) -> Completion | Failure:
        try:
            raw = await body.beginning(response, _REFUSAL_BYTES)
        except (aiohttp.ClientError, OSError, body.UnknownEncoding):
            raw = b""  # the status says enough
        return self._refusal(response, raw)

    def _refusal(self, response: aiohttp.ClientResponse, raw: bytes) -> Completion | Failure:
        """Read a response that is not the model's; if a key is missing, add that none was sent."""
        if response.status == HTTPStatus.BAD_REQUEST and not self._way.needs_tls and speaks_tls(raw):
            return Failure(*tls_expected(self._way))
        outcome = answer_in(response.status, response.headers, raw, self._secrets)
        if not isinstance(outcome, Failure):
            return outcome
        if outcome.status == HTTPStatus.UNAUTHORIZED and not self._has_key:
            return replace(outcome, message=f"{outcome.message} {_NO_KEY}")
        return perhaps_of_proxy(outcome, self._way)

    async def _read_whole(self, response: aiohttp.ClientResponse, attempt: Attempt) -> bytes:
        """Read an answer in one piece, or a stream that does not say that it is one."""
        if not self.asks_for_stream(attempt.terms):
            raw = await body.read(response, self._most)
            self.added.answered()
            return raw
        found = []
        async with contextlib.aclosing(body.parts(response, self._most)) as parts:
            async for part in parts:
                attempt.signs.hear()
                found.append(part)
        raw = b"".join(found)
        self.added.answered(is_stream=is_stream(raw))
        return raw

    async def _read_stream(self, response: aiohttp.ClientResponse, attempt: Attempt) -> Completion | Failure:
        """Read a stream as it arrives, so that the many small objects of an answer are not in memory together."""
        stream = Stream(wants_all=self._wants_all)
        attempt.so_far = lambda: stream.so_far(self._secrets)
        try:
            async with contextlib.aclosing(body.parts(response, self._most)) as parts:
                async for part in parts:
                    attempt.signs.hear()
                    stream.add(part)
        except (aiohttp.ClientError, OSError):
            if not stream.is_whole:  # otherwise only data after the answer was cut off
                raise
        answer = stream.answer(response.headers, self._secrets)
        if isinstance(answer, Completion):
            self.added.answered(is_stream=True)
        return answer


def _route(way: Way, tls: ssl.SSLContext | None) -> dict[str, Any]:
    """Return aiohttp's arguments for a way. The password goes into headers alone: aiohttp shows the proxy's URL."""
    options: dict[str, Any] = {"ssl": tls or True}
    if way.proxy:
        options["proxy"] = way.proxy.place
        if way.is_tunnelled:
            options["proxy_headers"] = way.proxy.authorization
    return options


def authorization(base_url: str, api_key: str | None) -> dict[str, str]:
    """Return the header that carries an API key to a base URL."""
    name = key_header(base_url)
    return {name: api_key if name != "Authorization" else f"Bearer {api_key}"} if api_key else {}


def open_session(most_connections: int = MOST_CONNECTIONS) -> aiohttp.ClientSession:
    """Open the HTTP client of a run, bound to the running loop. The pool's limits are its only limits.

    Args:
        most_connections: the most that may be open at once, resting connections included.
    """
    more: dict[str, Any] = {"max_headers": _HEADER_COUNT} if _COUNTS_HEADERS else {}
    return aiohttp.ClientSession(
        connector=Connector(most_connections),
        timeout=aiohttp.ClientTimeout(total=None),
        # No cookies: what a server sets for one API key is not sent with another.
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": body.ENCODINGS},
        auto_decompress=False,
        max_line_size=_HEADER_BYTES,
        max_field_size=_HEADER_BYTES,
        **more,
    )

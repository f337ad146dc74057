"""The local server: the simulated model behind the OpenAI protocol, as a program or inside another program.

Invariant: the books are written before the bytes leave, so that they count every answer that a client has.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from batcher.server.answers import prompt_of
from batcher.server.asgi import App, Receive, Scope, Send
from batcher.server.books import Books
from batcher.server.completions import LIMITS, completion, events
from batcher.server.faults import Bucket, Fate, Faults, Met, Reply
from batcher.server.forms import Form, Wanted, malformed, wanted_of
from batcher.server.listening import PORT, serve_app, served
from batcher.server.replying import reply_to
from batcher.server.responses import Refusal
from batcher.server.simulated import Knobs, draw
from batcher.server.ways import Way, way_of
from batcher.words import counted, say

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

MODEL = "sim"
"""The name of the served model if `Knobs.model` is empty."""

_CHOICES = 128  # the protocol's limit for `n`
_JSON = (b"content-type", b"application/json")


_NO_TUNNEL = Refusal(405, "This server opens no tunnels: begin the base URL with http://", "invalid_request_error")


class _Asked(NamedTuple):
    """A chat request that could be read, with the ways of ASGI to answer it."""

    scope: Scope
    receive: Receive
    send: Send
    body: dict[str, Any]
    prompt: str
    key: str
    wanted: Wanted = Wanted(Form.PROMPT)
    way: Way | None = None  # of a fault; None: the server's own


class _Chat:
    """`/v1/chat/completions` as bare ASGI: FastAPI's routing costs more than the answer."""

    def __init__(self, knobs: Knobs, books: Books) -> None:
        self._knobs = knobs
        self._books = books
        self._bucket = Bucket(knobs.rpm)
        self._faults = Faults(knobs.faults, knobs.seed)
        self._slips = knobs.slips
        self._admitted = 0  # requests that no fault, key or limit has stopped
        self._number = 0

    def reset(self) -> None:
        """Let the times and counts of the faults, and the requests before a change of forms, begin anew."""
        self._faults.reset()
        self._admitted = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if name := _header(scope, b"x-request-id"):
            send = _naming(send, name)
        raw = await _read(receive)
        if raw is None:
            return  # the client left before its request was complete
        body = _parse(raw)
        key = _key(scope)
        if isinstance(body, Refusal):
            self._books.arrive(None, key)
            await self._respond(send, self._refuse_key(key) or body)
            return
        prompt = prompt_of(body)
        self._books.arrive(prompt, key)
        wanted = wanted_of(body)
        self._books.ask_for(wanted.form, prompt)
        met = self._faults.meet(prompt, body["model"], key)
        way = way_of(met.rule.forms) if met and met.rule.forms else None
        asked = _Asked(scope, receive, send, body, prompt, key, wanted, way)
        if met and not await self._goes_on(asked, met):
            return
        refusal = self._refuse_key(key) or self._refuse(body["model"])
        if refusal:
            await self._respond(send, refusal)
        else:
            await self._let_through(asked)

    async def refuse_tunnel(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a CONNECT request as the fault that it meets says, or because nothing here speaks TLS."""
        place, key = scope["path"], _key(scope)
        self._books.arrive(None, key)
        met = self._faults.meet(place, key=key, is_tunnel=True)
        if not met or await self._goes_on(_Asked(scope, receive, send, {"model": ""}, place, key), met):
            await self._respond(send, _NO_TUNNEL)

    async def _goes_on(self, asked: _Asked, met: Met) -> bool:
        """Let a request meet a fault; return whether it goes on, because the fault only delayed it."""
        rule = met.rule
        if not rule.forms:  # which changes nothing by itself
            self._books.meet(met.label, asked.prompt)
        if rule.delay and await _gone(asked.receive, rule.delay):
            self._books.abandon()
        elif rule.does is Fate.ANSWER:
            return True
        elif rule.reply is None:
            await self._happen(asked, rule.does)
        else:
            if rule.is_paid:
                self._books.lose()
            await self._reply(asked, rule.reply, met.wait_s)
        return False

    def _refuse_key(self, key: str) -> Refusal | None:
        if not self._knobs.keys or key in self._knobs.keys:
            return None
        said = "Incorrect API key provided." if key else "You didn't provide an API key."
        return Refusal(401, said, "invalid_request_error", code="invalid_api_key")

    def _refuse(self, wanted: str) -> Refusal | None:
        model = self._knobs.model
        if model and wanted != model:
            said = f"The model {json.dumps(wanted)} does not exist: this server has {json.dumps(model)}."
            return Refusal(404, said, "invalid_request_error", "model", "model_not_found")
        most = self._knobs.max_in_flight
        if 0 < most < self._books.in_flight:  # includes this request
            return Refusal(429, f"Too many requests: {most} at a time.", "requests", code="rate_limit_exceeded")
        wait = self._bucket.take()
        if wait:
            rpm = self._knobs.rpm
            said = f"Rate limit reached: {rpm:g} request{'' if rpm == 1 else 's'} a minute."
            return Refusal(429, said, "requests", code="rate_limit_exceeded", retry_after=math.ceil(wait))
        return None

    async def _let_through(self, asked: _Asked) -> None:
        asked = asked._replace(way=self._way(asked))
        self._admitted += 1
        if refusal := self._way(asked).refusal(asked.wanted, asked.body):
            await self._refuse_form(asked, refusal)
            return
        fate, latency = draw(self._knobs, asked.prompt, self._books.admit(asked.prompt))
        if latency and fate is not Fate.HANG and await _gone(asked.receive, latency):
            self._books.abandon()
        else:
            await self._happen(asked, fate)

    async def _happen(self, asked: _Asked, fate: Fate) -> None:
        """End a request that gets no reply of a fault."""
        if fate is Fate.HANG:
            self._books.hang()
            await _gone(asked.receive)
            self._books.let_go()
        elif fate in {Fate.DROP, Fate.CUT}:
            await self._cut(asked, fate)
        elif fate is Fate.ERROR:
            await self._respond(asked.send, Refusal(500, "The server had an error (simulated).", "server_error"))
        else:
            await self._answer(asked, fate)

    async def _cut(self, asked: _Asked, fate: Fate) -> None:
        """Cut the connection, with or without half an answer."""
        self._books.drop()
        if fate is Fate.CUT:
            self._books.lose()
            await _send_half(asked.send, json.dumps(completion(asked.body, 0)).encode())
        cut = asked.scope.get("state", {}).get("cut")
        if cut is not None:  # otherwise the ASGI server cannot cut a connection
            cut()
            await _gone(asked.receive)

    async def _answer(self, asked: _Asked, fate: Fate) -> None:
        self._number += 1
        try:
            said = reply_to(asked.body, asked.wanted, self._way(asked), self._slips)
        except RecursionError:  # JSON that could be read cannot always be written
            await self._respond(asked.send, _bad("Your request is nested too deeply."))
            return
        if isinstance(said, Reply):
            self._books.lose()  # the refusal holds the answer
            await self._refuse_form(asked, said)
            return
        whole = completion(asked.body, self._number, fate, said.text)
        if not said.fits:
            self._books.misfit(asked.prompt)
        if fate in {Fate.EMPTY, Fate.HOLE}:
            self._books.respond(200)
            self._books.lose()
        else:
            self._books.respond(200, asked.prompt)
            self._faults.answered(asked.key)
        if asked.body.get("stream") or fate is Fate.HOLE:
            await _stream(asked.send, events(whole, asked.body, fate))
        else:
            await _send(asked.send, 200, json.dumps(whole).encode(), [_JSON])

    def _way(self, asked: _Asked) -> Way:
        return asked.way or self._knobs.way_after(self._admitted)

    async def _refuse_form(self, asked: _Asked, reply: Reply) -> None:
        self._books.refuse_form(asked.wanted.form, asked.prompt)
        await self._reply(asked, reply, 0)

    async def _reply(self, asked: _Asked, reply: Reply, wait_s: float) -> None:
        """Send the reply of a fault, with the wait until its limit admits a request again."""
        headers = reply.header_lines
        if wait_s and not any(name == b"retry-after" for name, _ in headers):
            headers.append((b"retry-after", str(math.ceil(wait_s)).encode()))
        self._books.reply(reply.status)
        await _send(asked.send, reply.status, reply.raw(asked.prompt, asked.body["model"]), headers)

    async def _respond(self, send: Send, refusal: Refusal) -> None:
        self._books.respond(refusal.status)
        await _send(send, refusal.status, refusal.body(), [_JSON, *refusal.headers()])


class _AsProxy:
    """Makes the server a proxy, too: it answers itself, whatever host a URL names."""

    def __init__(self, app: App, chat: _Chat) -> None:
        self._app = app
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope.get("method") == "CONNECT":
            await self._chat.refuse_tunnel(scope, receive, send)
        elif path.startswith(("http://", "https://")):
            await self._app({**scope, "path": urlsplit(path).path}, receive, send)
        else:
            await self._app(scope, receive, send)


# --- reading a request ---


async def _read(receive: Receive) -> bytes | None:
    """Read the body; None if the client left before its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _gone(receive: Receive, seconds: float | None = None) -> bool:
    """Wait until the client or the server ends the connection; return False if it is still open after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")


def _key(scope: Scope) -> str:
    return _header(scope, b"authorization").decode("latin-1").removeprefix("Bearer ").strip()


def _bad(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, message, "invalid_request_error", param)


def _parse(raw: bytes) -> dict[str, Any] | Refusal:
    """Read a chat request, or return the refusal of a wrong one."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):  # ValueError: not JSON, not UTF-8, or a number of more than 4,300 digits
        return _bad("We could not parse the JSON body of your request.")
    if not isinstance(body, dict):
        return _bad("The body of your request must be a JSON object.")
    return _wrong(body) or body


def _wrong(body: dict[str, Any]) -> Refusal | None:
    model, messages, count = body.get("model"), body.get("messages"), body.get("n")
    if not isinstance(model, str) or not model:
        return _bad("You must provide a model parameter.", "model")
    if not isinstance(messages, list) or not messages:
        return _bad("'messages' must be a list that is not empty.", "messages")
    if not all(isinstance(message, dict) for message in messages):
        return _bad("Every item of 'messages' must be an object.", "messages")
    if count is not None and (type(count) is not int or not 1 <= count <= _CHOICES):
        return _bad(f"'n' must be a whole number from 1 to {_CHOICES}.", "n")
    for name in LIMITS:
        limit = body.get(name)
        if limit is not None and (type(limit) is not int or limit < 1):
            return _bad(f"{name!r} must be a whole number, 1 or more.", name)
    wrong = malformed(body)
    return _bad(*wrong) if wrong else None


# --- writing a response ---


def _naming(send: Send, name: bytes) -> Send:
    """Add the request's id to the response, so that the client can match them."""

    async def send_named(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-request-id", name)]
        await send(message)

    return send_named


async def _send_half(send: Send, body: bytes) -> None:
    """Announce a body, and send only its first half."""
    headers = [_JSON, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})


async def _send(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def _stream(send: Send, lines: Iterator[str]) -> None:
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for line in lines:
        await send({"type": "http.response.body", "body": f"data: {line}\n\n".encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


# --- the app ---


def build_app(knobs: Knobs, books: Books) -> FastAPI:
    """Build the server's app: the OpenAI routes, `/health`, `/stats` and `POST /stats/reset`.

    Only the server that `serve` and `embedded` put around the app can drop a connection; another ASGI server sends a
    500 instead.

    Args:
        knobs: how the model behaves.
        books: the counts that the app keeps.
    """
    from fastapi import FastAPI  # noqa: PLC0415 - half a second to load, needed only for serving
    from starlette.exceptions import HTTPException  # noqa: PLC0415 - the same
    from starlette.responses import Response  # noqa: PLC0415 - the same
    from starlette.routing import Route  # noqa: PLC0415 - the same

    chat = _Chat(knobs, books)

    def reply(value: object, status: int = 200) -> Response:
        # Not FastAPI's own JSON, which cannot hold a prompt with half of a surrogate pair.
        return Response(json.dumps(value), status, media_type="application/json")

    async def models(_: Request) -> Response:
        model = {"id": knobs.model or MODEL, "object": "model", "created": 0, "owned_by": "batcher"}
        return reply({"object": "list", "data": [model]})

    async def health(_: Request) -> Response:
        return reply({"status": "ok"})

    async def stats(_: Request) -> Response:
        return reply(books.to_dict())

    async def reset(_: Request) -> Response:
        books.reset()
        chat.reset()
        return reply({"status": "ok"})

    async def unknown(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        said = f"No such route: {request.method} {request.url.path}"
        return Response(Refusal(status, said, "invalid_request_error").body(), status, media_type="application/json")

    routes = [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/models", models),
        Route("/health", health),
        Route("/stats", stats),
        Route("/stats/reset", reset, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {HTTPException: unknown}
    app = FastAPI(routes=list(routes), exception_handlers=handlers, openapi_url=None)
    app.add_middleware(_AsProxy, chat=chat)
    return app


# --- the server ---


@dataclass(frozen=True)
class Server:
    """A running server: its base URL, such as `http://127.0.0.1:43121/v1`, and its books."""

    base_url: str
    books: Books


def serve(knobs: Knobs, host: str = "127.0.0.1", port: int = PORT) -> None:
    """Serve until Ctrl-C or SIGTERM. When the server listens, it prints its base URL, the only line on stdout.

    Args:
        knobs: how the simulated model behaves.
        host: the address to listen on.
        port: the port to listen on; 0 takes a free one.

    Raises:
        SettingsError: it cannot listen on that address.
    """
    books = Books()

    def announce() -> None:
        say(f"A simulated model listens: {knobs}. Ctrl-C ends it.")
        for number, rule in enumerate(knobs.faults, 1):
            say(f"  fault {number}: {rule.in_words()}")

    serve_app(build_app(knobs, books), host, port, announce, is_open=not knobs.keys)
    say(f"{counted(books.requests, 'request')}, {books.answered:,} answered.")
    for fault, count in books.by_fault.items():
        say(f"  fault {fault}: {counted(count, 'request')}")


@contextlib.contextmanager
def embedded(knobs: Knobs | None = None) -> Iterator[Server]:
    """Serve from a thread of this process, on a free port of 127.0.0.1, during a `with` block.

    Args:
        knobs: how the simulated model behaves; default: every knob off, and no counts by prompt in the books.

    Yields:
        The running server.
    """
    # Without knobs it serves batcher's own run, and counts by prompt would grow with the table.
    books = Books(by_prompt=knobs is not None)
    with served(build_app(knobs or Knobs(), books)) as base_url:
        yield Server(base_url, books)

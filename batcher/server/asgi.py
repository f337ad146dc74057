"""The routes of the OpenAI protocol as a bare ASGI app, and one exchange of a request and its response.

Invariant: an error of the app itself has OpenAI's shape, and every response names the request if the client named it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from batcher.calls.services import SERVICES
from batcher.server.responses import Refusal

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers = list[tuple[bytes, bytes]]
JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
_EVENTS: Headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


class ClientLeft(Exception):
    """The client left before its request was complete."""


class Exchange:
    """A request and the way to answer it.

    Args:
        scope, receive, send: of ASGI.
        name: in its path: of a deployment of Azure, or of the model, the file or the batch that is asked for; else
            empty.

    Attributes:
        headers: of its response, besides those that belong to the body.
    """

    __slots__ = ("_receive", "_send", "headers", "name", "scope")

    def __init__(self, scope: Scope, receive: Receive, send: Send, name: str = "") -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self.name = name
        given = self._header(b"x-request-id")
        self.headers: Headers = [(b"x-request-id", given)] if given else []

    @property
    def key(self) -> str:
        """The API key: a bearer token, or as Azure's clients send it."""
        given = self._header(b"authorization").decode("latin-1").removeprefix("Bearer ").strip()
        return given or self._header(b"api-key").decode("latin-1").strip()

    @property
    def path(self) -> str:
        """The path of its URL."""
        return str(self.scope["path"])

    def _header(self, wanted: bytes) -> bytes:
        return next((value for name, value in self.scope["headers"] if name == wanted), b"")

    @property
    def query(self) -> dict[str, str]:
        """The parameters in its URL; of equal names the last one."""
        return dict(parse_qsl(bytes(self.scope.get("query_string", b"")).decode("latin-1"), keep_blank_values=True))

    @property
    def content_type(self) -> str:
        """The type of its body."""
        return self._header(b"content-type").decode("latin-1")

    async def read(self) -> bytes | None:
        """Read the body; None if the client left before its end."""
        try:
            return b"".join([part async for part in self.parts()])
        except ClientLeft:
            return None

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the parts of the body as they arrive.

        Raises:
            ClientLeft: the client left before the end.
        """
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            yield message.get("body", b"")
            if not message.get("more_body"):
                return

    async def gone(self, seconds: float | None = None) -> bool:
        """Wait until the client or the server ends the connection; return False if it is open after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return False
        return True

    async def respond(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]] = (JSON,)) -> None:
        """Send a whole response."""
        length = (b"content-length", str(len(body)).encode())
        await self.begin(status, [*headers, length])
        await self.end(body)

    async def refuse(self, refusal: Refusal) -> None:
        """Send an error."""
        await self.respond(refusal.status, refusal.body(), [JSON, *refusal.headers()])

    async def begin(self, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = _EVENTS) -> None:
        """Begin a response that comes in parts; by default a stream of events. Then `put`, and `end` at last."""
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self.headers]})

    async def put(self, part: bytes) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def end(self, part: bytes = b"") -> None:
        """Send the last part of the body."""
        await self._send({"type": "http.response.body", "body": part})

    async def cut(self) -> None:
        """Cut the connection; another ASGI server than ours ends the response instead."""
        cut = self.scope.get("state", {}).get("cut")
        if cut is not None:
            cut()
            await self.gone()


Handler = Callable[[Exchange], Awaitable[None]]

CHAT, COMPLETIONS, EMBEDDINGS, MODELS = "chat/completions", "completions", "embeddings", "models"
"""The routes that every service has below its prefix."""

FILES, FILE, CONTENT = "files", "files/*", "files/*/content"
BATCHES, BATCH, CANCEL = "batches", "batches/*", "batches/*/cancel"
"""The routes of batches below the same prefixes; the star is the name of a file or a batch."""

_ROUTES = (CHAT, COMPLETIONS, EMBEDDINGS, MODELS)
# Those of the services known by name, and further ones of the same services.
_PREFIXES = {
    *(path for service in SERVICES.values() if (path := urlsplit(service.base_url).path) and "DEPLOYMENT" not in path),
    "/openai",
    "/openai/v1",
    "/api/coding/paas/v4",
    "/v1",
}
_PLACES = {f"{prefix}/{route}": route for prefix in _PREFIXES for route in _ROUTES}
_DEPLOYMENT = re.compile(rf"/openai/deployments/(.+?)/({'|'.join(_ROUTES)})")
_PREFIX = rf"(?:{'|'.join(sorted(_PREFIXES, key=len, reverse=True))})"
_MODEL = re.compile(rf"{_PREFIX}/models/(.+)")
_STORED = re.compile(rf"{_PREFIX}/(files|batches)(?:/([^/]+)(/content|/cancel)?)?")


def place_of(path: str) -> tuple[str, str]:
    """Return the route that a path leads to, and the name in it.

    Returns:
        One of the routes for a path below the prefix of a service, with the name of Azure's deployment or of the model,
        the file or the batch asked for; any other path as it is.
    """
    found = _PLACES.get(path)
    if found:
        return found, ""
    path = path.rstrip("/")
    if match := _DEPLOYMENT.fullmatch(path):
        return match[2], match[1]
    if match := _MODEL.fullmatch(path):
        return MODELS, match[1]
    if match := _STORED.fullmatch(path):
        return f"{match[1]}{'/*' if match[2] else ''}{match[3] or ''}", match[2] or ""
    return _PLACES.get(path, path), ""


class Api:
    """An ASGI app of routes.

    It is a forward proxy for http:// as well: it answers itself, whatever host a URL names.

    Args:
        handlers: by method and route, as `place_of` has them; those of GET also answer HEAD.
        refuse_tunnel: answers CONNECT requests.
    """

    def __init__(self, handlers: Mapping[tuple[str, str], Handler], refuse_tunnel: Handler | None = None) -> None:
        self._handlers = handlers
        self._places = {place for _, place in handlers}
        self._refuse_tunnel = refuse_tunnel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"no events of type {scope['type']}")
        method, path = scope["method"], scope["path"]
        if method == "CONNECT" and self._refuse_tunnel:
            await self._refuse_tunnel(Exchange(scope, receive, send))
            return
        if path.startswith(("http://", "https://")):
            path = urlsplit(path).path
        place, name = place_of(path)
        exchange = Exchange(scope, receive, send, name)
        handler = self._handlers.get(("GET" if method == "HEAD" else method, place))
        if handler:
            await handler(exchange)
        else:
            await exchange.refuse(Refusal(405 if place in self._places else 404, f"No such route: {method} {path}"))

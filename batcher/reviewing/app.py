"""The page as an ASGI app: its routes, and replies to what they return or raise.

Invariant: it is only reached through the guard; an error that is foreseen is a reply that says what to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import mimetypes
import traceback
from collections.abc import AsyncGenerator, AsyncIterator
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

from batcher.errors import BatcherError, KeywordBusy, SettingsError
from batcher.reviewing import changes, export, rows, tabs
from batcher.reviewing.deciding import Changed
from batcher.reviewing.exchange import NotServed, Reply, Request, Routes, gone, invalid
from batcher.reviewing.guard import Guarded
from batcher.reviewing.page import Page
from batcher.server.asgi import Receive, Scope, Send
from batcher.words import say

ROUTES: Routes = {
    **rows.ROUTES,
    **changes.ROUTES,
    **export.ROUTES,
    **tabs.ROUTES,
}
"""All routes below the token, but for the page itself and its files; each module has its own."""

_ANY = "*"
_MOST_PARAMETERS = 1000
_KINDS = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


class App:
    """The ASGI app of a page.

    Args:
        page: what it shows.
        routes: its routes.
    """

    def __init__(self, page: Page, routes: Routes = ROUTES) -> None:
        self._page = page
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded: Guarded = scope["guarded"]
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        reply = await self._reply(method, guarded, scope["query_string"].decode("latin-1"))
        try:
            await (_send_head if scope["method"] == "HEAD" else _send)(reply, receive, send)
        except (BatcherError, OSError) as error:  # in the middle of a file: it must not seem to be whole
            say(f"batcher: a download broke off: {error}", "error")
            cut = scope.get("state", {}).get("cut")
            if cut is not None:
                cut()

    async def _reply(self, method: str, guarded: Guarded, query: str) -> Reply:
        try:
            return await self._handled(method, Request(guarded.path, _parsed(query), guarded.body))
        except NotServed as error:
            return error.reply()
        except Changed as error:
            row = await rows.row_of(self._page, error.position)
            return NotServed(409, "changed", str(error), row=row).reply()
        except BatcherError as error:
            return _of_ours(error).reply()
        except Exception as error:  # noqa: BLE001 - a fault of ours is told, and the page goes on
            say(f"{traceback.format_exc()}batcher: this is a fault in batcher; the page goes on", "error")
            return NotServed(500, "internal", f"a fault in batcher: {type(error).__name__}: see the terminal").reply()

    async def _handled(self, method: str, request: Request) -> Reply:
        if method == "GET" and not request.path:
            return static("index.html")
        parent, _, name = request.path.rpartition("/")
        if method == "GET" and parent == "static":
            return static(name)
        if handler := self._routes.get((method, request.path)):
            return await handler(self._page, request)
        if handler := self._routes.get((method, f"{parent}/{_ANY}")):
            return await handler(self._page, request._replace(rest=name))
        raise gone(f"there is no {method} {request.path[:100]!r} here")


def _parsed(query: str) -> dict[str, list[str]]:
    """Return the parameters of a query.

    Raises:
        NotServed: there are too many.
    """
    try:
        return parse_qs(query, max_num_fields=_MOST_PARAMETERS)
    except ValueError as error:
        raise invalid(f"the address has more than {_MOST_PARAMETERS:,} parameters") from error


def _of_ours(error: BatcherError) -> NotServed:
    if isinstance(error, KeywordBusy):
        return NotServed(423, "busy", str(error))
    if isinstance(error, SettingsError):
        return invalid(str(error))
    return NotServed(500, "internal", str(error))  # of the journal, the input or the disk


def static(name: str) -> Reply:
    """Return a file of the page.

    Raises:
        NotServed: there is none of this name.
    """
    file = files("batcher.reviewing").joinpath("static")
    if name not in {each.name for each in file.iterdir() if each.is_file()}:
        raise gone(f"there is no file {name[:100]!r} here")
    ending = name[name.rfind(".") :]
    kind = _KINDS.get(ending) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    text = "; charset=utf-8" if kind.startswith("text/") else ""
    return Reply(file.joinpath(name).read_bytes(), kind + text)


def _start(reply: Reply) -> dict[str, Any]:
    headers = [(b"content-type", reply.kind.encode())]
    headers += [(name.encode(), value.encode("latin-1")) for name, value in reply.headers]
    if isinstance(reply.body, bytes):
        headers.append((b"content-length", str(len(reply.body)).encode()))
    return {"type": "http.response.start", "status": reply.status, "headers": headers}


async def _send_head(reply: Reply, _receive: Receive, send: Send) -> None:
    """Send a reply without its body, which is not made if it would come in parts."""
    if isinstance(reply.body, AsyncGenerator):
        await reply.body.aclose()
    await send(_start(reply))
    await send({"type": "http.response.body", "body": b""})


async def _send(reply: Reply, receive: Receive, send: Send) -> None:
    """Send a reply; one that comes in parts ends when the client leaves."""
    await send(_start(reply))
    if isinstance(reply.body, bytes):
        await send({"type": "http.response.body", "body": reply.body})
        return
    sending = asyncio.ensure_future(_send_parts(reply.body, send))
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
    finally:
        for each in (sending, leaving):
            each.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await each


async def _send_parts(parts: AsyncIterator[bytes], send: Send) -> None:
    async for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

"""A server on a real socket that answers with canned bytes, and records its requests."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple


class Then(Enum):
    """What the server does after the bytes."""

    GO_ON = auto()
    CLOSE = auto()
    RESET = auto()
    HANG = auto()


class Reply(NamedTuple):
    data: bytes
    then: Then = Then.GO_ON


class Asked(NamedTuple):
    """A request as it came: its first line, its headers by lower-case name, its body."""

    line: str
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


def http(status: int, body: object, headers: Sequence[str] = ()) -> Reply:
    """Frame a body: bytes as they are, text as UTF-8, anything else as JSON."""
    if not isinstance(body, (bytes, str)):
        body = json.dumps(body)
    data = body if isinstance(body, bytes) else body.encode()
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(data)}", *headers, "", ""]
    return Reply("\r\n".join(lines).encode() + data)


def completion(content: object = "fine", *, usage: object = None, finish_reason: object = "stop", **rest: Any) -> Any:
    """Make the body of a chat completion; `rest` goes into its message."""
    message = {"role": "assistant", "content": content, **rest}
    body = {"id": "c", "object": "chat.completion", "model": "m", "choices": [{"index": 0, "message": message}]}
    body["choices"][0]["finish_reason"] = finish_reason  # type: ignore[index]
    return body if usage is None else {**body, "usage": usage}


def events(*chunks: object) -> bytes:
    """Make an event stream of chunks, with its end."""
    return b"".join(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks) + b"data: [DONE]\n\n"


def stream(*chunks: object, then: Then = Then.GO_ON, end: bool = True) -> Reply:
    """Stream each chunk in its own frame; without an end, the frame that ends the body is missing."""
    frames = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks] + [b"data: [DONE]\n\n"] * end
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(frame), frame) for frame in frames)
    return Reply(head + body + b"0\r\n\r\n" * end, then)


async def read_request(reader: asyncio.StreamReader) -> Asked | None:
    """Read the next request of a connection; None if its client has left."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head.decode().strip().split("\r\n")
        headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
        return Asked(line, headers, await reader.readexactly(int(headers.get("content-length", 0))))
    except asyncio.IncompleteReadError:
        return None


def end_connection(writer: asyncio.StreamWriter, then: Then) -> None:
    """Close a connection, or reset it; the others go on."""
    if then is Then.RESET:
        linger = struct.pack("ii", 1, 0)  # with no time to linger, closing resets
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    if then in {Then.RESET, Then.CLOSE}:
        writer.close()


class CannedServer:
    """Answers its requests one after the other; the last reply serves all that follow.

    Attributes:
        asked: every request.
        connections: how many were opened.
        left: set when a client has closed a connection.
    """

    def __init__(self, replies: Sequence[Reply]) -> None:
        self._replies = list(replies)
        self._tasks: set[asyncio.Task[None]] = set()
        self.asked: list[Asked] = []
        self.came = asyncio.Event()
        self.left = asyncio.Event()
        self.connections = 0
        self.base_url = ""

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        with contextlib.closing(writer), contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        then = Then.GO_ON
        while then is Then.GO_ON:
            request = await read_request(reader)
            if request is None:
                self.left.set()
                return
            self.asked.append(request)
            self.came.set()
            data, then = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
            writer.write(data)
        if then is Then.HANG:
            with contextlib.suppress(ConnectionError):  # it may leave with bytes unread
                await reader.read()
            self.left.set()
        end_connection(writer, then)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks)


@contextlib.asynccontextmanager
async def canned(*replies: Reply, tls: ssl.SSLContext | None = None) -> AsyncIterator[CannedServer]:
    """Serve on a free port of 127.0.0.1 during the block."""
    canned_server = CannedServer(replies)
    async with await asyncio.start_server(canned_server.connected, "127.0.0.1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        canned_server.base_url = f"http{'s' if tls else ''}://127.0.0.1:{port}/v1"
        yield canned_server
        await canned_server.end()


@functools.cache
def closed_port() -> int:
    """Return a port without a listener: it stays bound, so that no server of another test gets it."""
    _BOUND.append(socket.socket())
    _BOUND[0].bind(("127.0.0.1", 0))
    return int(_BOUND[0].getsockname()[1])


_BOUND: list[socket.socket] = []

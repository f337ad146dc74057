"""An HTTP proxy on a real socket: it passes requests and tunnels on to one place, whatever host they name."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import urlsplit


class Refusal(NamedTuple):
    """What the proxy says instead of passing a request on; `{credentials}` stands for those that came with it."""

    status: int
    reason: str = "No"
    body: str = ""


class ProxyServer:
    """Passes on what comes.

    Attributes:
        url: where it listens.
        lines: the first line of each request that it understood.
        credentials: those that came with each, as their header has them.
        connections: how many were opened.
    """

    def __init__(self, to: str, user: str, refusal: Refusal | None) -> None:
        parts = urlsplit(to)
        self._to = (parts.hostname, parts.port)
        self._needed = f"Basic {base64.b64encode(user.encode()).decode()}" if user else ""
        self._refusal = refusal
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""
        self.lines: list[str] = []
        self.credentials: list[str] = []
        self.connections = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        with (
            contextlib.closing(writer),
            contextlib.suppress(asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError),
        ):
            while await self._serve(reader, writer):
                pass

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head.decode().strip().split("\r\n")
        headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.lines.append(line)
        came = headers.get("proxy-authorization", "")
        self.credentials.append(came)
        refusal = self._refusal or (Refusal(407) if came != self._needed else None)
        if refusal:
            said = refusal.body.format(credentials=came, plain=base64.b64decode(came[6:]).decode()).encode()
            reason = refusal.reason.format(credentials=came, plain=base64.b64decode(came[6:]).decode())
            writer.write(f"HTTP/1.1 {refusal.status} {reason}\r\nX-Came: {came}\r\n".encode())
            writer.write(f"Content-Length: {len(said)}\r\n\r\n".encode() + said)
            await writer.drain()
            return not line.startswith("CONNECT")
        there, back = await asyncio.open_connection(*self._to)
        with contextlib.closing(back):
            if line.startswith("CONNECT"):
                writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
                await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))
                return False
            kept = [each for each in fields if not each.lower().startswith("proxy-")]
            method, url, version = line.split()
            back.write("\r\n".join([f"{method} {urlsplit(url).path} {version}", *kept, "", ""]).encode() + body)
            answer = await there.readuntil(b"\r\n\r\n")
            length = next(each for each in answer.decode().split("\r\n") if each.startswith("Content-Length: "))
            writer.write(answer + await there.readexactly(int(length.split(": ")[1])))
            await writer.drain()
        return True

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(2**16):
            writer.write(part)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def proxying(to: str, user: str = "", refusal: Refusal | None = None) -> AsyncIterator[ProxyServer]:
    """Serve on a free port of 127.0.0.1 during the block.

    Args:
        to: the URL of the server that every host name stands for.
        user: `name:password` that each request must bring.
        refusal: the answer to every request.
    """
    proxy = ProxyServer(to, user, refusal)
    async with await asyncio.start_server(proxy.connected, "127.0.0.1", 0) as server:
        proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield proxy
        await proxy.end()

"""A server on real sockets that misbehaves as servers do on bad nights, and keeps books of it.

What it does to a request is a script: bytes to send, seconds to wait, and how the connection ends. A script goes on
while the next requests come on the same connection, so that what it sends may arrive unasked. The
answer to a prompt names the prompt (`answer_to`), so that a test can check each row.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from canned_server import Then, completion, end_connection, http, read_request

Step = bytes | float | Then
"""Bytes to send, seconds to wait, or how the connection ends."""


class Ask(NamedTuple):
    """A request as the server sees it.

    Attributes:
        prompt: the text of its last message.
        number: which of the server's requests it is, from 1.
        nth: how often this prompt has been asked, this time included.
        connection: which of the server's connections it came on, from 1.
        nth_there: how many requests that connection has had, this one included.
        headers: by lower-case name.
    """

    prompt: str
    number: int
    nth: int
    connection: int
    nth_there: int
    headers: dict[str, str]

    @property
    def key(self) -> str:
        """The API key that came with it."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")


Script = Callable[[Ask], Iterable[Step]]


def answer_to(prompt: str) -> str:
    """Return the one right answer."""
    return f"answer to {prompt}"


def answered(ask: Ask, *headers: str, text: str | None = None, **body: Any) -> bytes:
    """Answer a request rightly; `body` goes over the completion, such as `id` or `usage`."""
    whole = completion(answer_to(ask.prompt) if text is None else text) | {"id": f"chatcmpl-{ask.number}"} | body
    return http(200, {name: value for name, value in whole.items() if value is not None}, headers).data


def refused(status: int, message: str = "no", *headers: str) -> bytes:
    return http(status, {"error": {"message": message, "code": "code"}}, headers).data


def chunked(parts: Iterable[bytes], *headers: str, status: int = 200) -> Iterator[bytes]:
    """Frame a body of any length, endless ones too, as it comes; it has no end of its own."""
    yield "\r\n".join([f"HTTP/1.1 {status} Whatever", "Transfer-Encoding: chunked", *headers, "", ""]).encode()
    for part in parts:
        yield b"%x\r\n%b\r\n" % (len(part), part)


def endless(part: bytes = b" " * 2**16) -> Iterator[bytes]:
    return itertools.repeat(part)


def bomb(unpacked: int, encoding: str = "gzip") -> bytes:
    """Compress this many zeros to a thousandth: one mebibyte of them, over and over."""
    zeros, count = bytes(2**20), unpacked >> 20
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)  # the next one begins anew
    packed = block * count + packer.flush()
    if encoding == "gzip":
        check = functools.reduce(lambda before, _: zlib.crc32(zeros, before), range(count), 0)
        return b"\x1f\x8b\x08\0\0\0\0\0\2\xff" + packed + struct.pack("<II", check, unpacked)
    check = functools.reduce(lambda before, _: zlib.adler32(zeros, before), range(count), 1)
    return b"\x78\xda" + packed + struct.pack(">I", check)


class HostileServer:
    """Follows a script for each request.

    Attributes:
        base_url: where it listens.
        asks: every request, in the order of arrival.
        connections: how many were opened.
        sent: bytes that have left for clients, framing included.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: Counter[str] = Counter()
        self._came = threading.Condition()
        self.base_url = ""
        self.asks: list[Ask] = []
        self.connections = 0
        self.sent = 0

    @property
    def asked(self) -> Counter[str]:
        """How often each prompt was asked."""
        return Counter(self._asked)

    def wait_for(self, requests: int) -> None:
        """Return when this many requests have come; call it from other threads than the server's."""
        with self._came:
            self._came.wait_for(lambda: len(self.asks) >= requests)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        self._note(asyncio.current_task())
        with contextlib.closing(writer), contextlib.suppress(asyncio.CancelledError, ConnectionError):
            for nth_there in itertools.count(1):
                request = await read_request(reader)
                if request is None:
                    return
                prompt = request.json["messages"][-1]["content"]
                self._asked[prompt] += 1
                ask = Ask(prompt, len(self.asks) + 1, self._asked[prompt], connection, nth_there, request.headers)
                with self._came:
                    self.asks.append(ask)
                    self._came.notify_all()
                self._note(asyncio.create_task(self._follow(ask, writer)))

    def _note(self, task: asyncio.Task[Any] | None) -> None:
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, ask: Ask, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            for step in self._script(ask):
                if isinstance(step, Then):
                    end_connection(writer, step)
                elif isinstance(step, bytes):
                    writer.write(step)
                    self.sent += len(step)
                    await writer.drain()
                else:
                    await asyncio.sleep(step)

    async def end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def hostile(script: Script) -> Iterator[HostileServer]:
    """Serve from a thread, on a free port of 127.0.0.1, during the block."""
    server = HostileServer(script)
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        async with await asyncio.start_server(server.connected, "127.0.0.1", 0, backlog=1024) as listener:
            server.base_url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
            ready.set()
            await over.wait()
            await server.end()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, name="hostile-server", daemon=True)
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()

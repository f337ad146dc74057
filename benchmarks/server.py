"""The server that benchmarks call: it answers `/chat/completions` at once, on a bare asyncio protocol.

Invariant: an answer is bound to its prompt (see `answer_to`), so that a client which mixes up its rows is found out;
and the server costs several times less CPU time than any client, which `compare` checks.

    python benchmarks/server.py [--latency SECONDS]     prints its base URL, and serves until its stdin is closed

`GET /stats` returns what it has counted: requests, connections, its CPU time in seconds, requests in flight at most.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import time
from typing import Any, cast

_WORDS = ("card", "payment", "cash", "transfer", "limit", "rate", "refund", "top", "identity", "fee", "pin")
LABELS = [
    f"{one}_{two}" + ("_not_working_as_expected" if one > two else "") for one in _WORDS for two in _WORDS if one != two
][:77]
"""The labels that the model `labels` answers with."""

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"
_EXPECTS_CONTINUE = b"\r\nexpect: 100-continue"
_BACKLOG = 8192
"""Connections that may wait to be accepted: every client opens thousands at once."""


def answer_to(prompt: str, model: str = "bench") -> str:
    """Return the one right answer of a model to a prompt.

    It is one of `LABELS` of the model `labels`, JSON of ten fields of the model `fields`, else 16 hexadecimal digits.
    """
    digits = hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    if model == "labels":
        return LABELS[int(digits, 16) % len(LABELS)]
    if model == "fields":
        number = int(digits[:4], 16)
        values = ("some words of text", number, number / 7, number % 2 == 0)
        fields = {f"field_{each}": values[each % 4] for each in range(9)}
        return json.dumps({**fields, "label": LABELS[number % len(LABELS)]})
    return digits


class Counts:
    """What the server has seen."""

    def __init__(self) -> None:
        self.requests = 0
        self.connections = 0
        self.in_flight = 0
        self.in_flight_at_most = 0

    def to_json(self) -> bytes:
        return json.dumps({**vars(self), "cpu_s": time.process_time()}).encode()


class Server(asyncio.Protocol):
    """One connection. Requests on it are answered in their order, however the network cuts or joins them.

    Args:
        counts: shared by all connections.
        latency_s: seconds from a request to its answer.
    """

    def __init__(self, counts: Counts, latency_s: float) -> None:
        self._counts = counts
        self._latency_s = latency_s
        self._loop = asyncio.get_running_loop()
        self._unread = bytearray()
        self._needed = 0  # bytes that must have come before it is worth looking again

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._counts.connections += 1

    def data_received(self, data: bytes) -> None:
        self._unread += data
        answers = []
        while len(self._unread) >= self._needed and (request := self._next_request()):
            answers.append(self._respond(*request))
        if not answers:
            return
        if self._latency_s:
            self._loop.call_later(self._latency_s, self._write, b"".join(answers), len(answers))
        else:
            self._write(b"".join(answers), len(answers))

    def _next_request(self) -> tuple[bytes, bytes] | None:
        """Take one whole request, head and body, from the arrived data; None if it is not whole yet."""
        end = self._unread.find(_HEAD_END)
        if end < 0:
            return None
        head = bytes(self._unread[:end]).lower()
        at = head.find(_LENGTH)
        length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        body = end + len(_HEAD_END)
        self._needed = body + length
        if len(self._unread) < self._needed:
            if _EXPECTS_CONTINUE in head and len(self._unread) == body:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        request = head, bytes(self._unread[body : self._needed])
        del self._unread[: self._needed]
        self._needed = 0
        return request

    def _respond(self, head: bytes, body: bytes) -> bytes:
        counts = self._counts
        counts.in_flight += 1
        counts.in_flight_at_most = max(counts.in_flight_at_most, counts.in_flight)
        if head.startswith(b"post "):
            counts.requests += 1
            return _response(_completion(json.loads(body), counts.requests))
        return _response(counts.to_json())

    def _write(self, answers: bytes, count: int) -> None:
        self._counts.in_flight -= count
        self._transport.write(answers)  # to a client that has gone it does nothing


def _response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def _completion(request: dict[str, Any], number: int) -> bytes:
    prompt = request["messages"][-1]["content"]
    text = prompt if isinstance(prompt, str) else "".join(part["text"] for part in prompt)
    answer = json.dumps(answer_to(text, request["model"]))
    tokens = len(text) // 4
    return (
        f'{{"id":"chatcmpl-{number}","object":"chat.completion","created":1,"model":"bench","choices":[{{"index":0,'
        f'"message":{{"role":"assistant","content":{answer}}},"finish_reason":"stop","logprobs":null}}],'
        f'"usage":{{"prompt_tokens":{tokens},"completion_tokens":8,"total_tokens":{tokens + 8}}}}}'
    ).encode()


async def serve(latency_s: float) -> None:
    """Serve on a free port of the loopback, and print the base URL, until stdin is closed: the parent has ended."""
    loop = asyncio.get_running_loop()
    counts = Counts()
    server = await loop.create_server(lambda: Server(counts, latency_s), "127.0.0.1", 0, backlog=_BACKLOG)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    async with server:
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    parser = argparse.ArgumentParser(description="A server that answers at once.")
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="seconds to an answer (0)")
    asyncio.run(serve(parser.parse_args().latency))


if __name__ == "__main__":
    main()

"""The local server with the simulated model, as a program or inside another program.

Invariant: whatever serves it, the app answers alike; only the server that is put around it here can cut a connection.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

from batcher.server.asgi import CHAT, COMPLETIONS, EMBEDDINGS, MODELS, Api, Exchange
from batcher.server.batch_queue import BatchQueue
from batcher.server.batch_routes import BatchRoutes
from batcher.server.books import Books
from batcher.server.listening import PORT, serve_app, served
from batcher.server.service import SimulatedService
from batcher.server.simulated import Knobs
from batcher.words import counted, say

_LINES_AT_ONCE = 200
"""Lines of batches that are answered between two looks at other requests."""


def build_app(knobs: Knobs, books: Books) -> Api:
    """Build the server's app: the OpenAI routes, with files and batches, `/health`, `/stats` and `POST /stats/reset`.

    Only the server that `serve` and `embedded` put around the app can drop a connection; another ASGI server sends a
    500 instead.

    Args:
        knobs: how the model behaves.
        books: the counts that the app keeps.
    """
    service = SimulatedService(knobs, books)
    queue = BatchQueue(
        knobs.batches, service.lines, time.time, books=books.batches, served=knobs.model, at_once=_LINES_AT_ONCE
    )

    async def health(exchange: Exchange) -> None:
        await exchange.respond(200, b'{"status": "ok"}')

    async def stats(exchange: Exchange) -> None:
        queue.advance()
        await exchange.respond(200, json.dumps(books.to_dict()).encode())

    async def reset(exchange: Exchange) -> None:
        books.reset()
        service.reset()
        queue.reset()
        await health(exchange)

    return Api(
        {
            ("POST", CHAT): service.chat,
            ("POST", COMPLETIONS): service.complete,
            ("POST", EMBEDDINGS): service.embed,
            ("GET", MODELS): service.models,
            **BatchRoutes(queue, service.refuse_key).handlers,
            ("GET", "/health"): health,
            ("GET", "/stats"): stats,
            ("POST", "/stats/reset"): reset,
        },
        service.refuse_tunnel,
    )


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
        how = f": {knobs.in_words}" if knobs.in_words else " and answers at once"
        say(f"A simulated model listens{how}. Ctrl-C ends it.")
        if knobs.confusion:
            say(f"  It knows {knobs.confusion.in_words()}.")
        for number, rule in enumerate(knobs.faults, 1):
            say(f"  fault {number}: {rule.in_words()}")
        for number, each in enumerate(knobs.batches.rules, 1):
            say(f"  fault of batches {number}: {each.in_words()}")

    serve_app(build_app(knobs, books), host, port, announce, is_open=not knobs.keys)
    say(f"{counted(books.requests, 'request')}, {books.answered:,} answered.")
    if books.batches.made:
        lines = counted(books.batches.lines, "line")
        say(f"{counted(books.batches.made, 'batch', 'batches')} of {lines}, {books.batches.answered:,} answered.")
    if books.without_truth:
        say(f"  The true label of {counted(books.without_truth, 'prompt')} was not known: they got other answers.")
    for fault, count in books.by_fault.items():
        say(f"  fault {fault}: {counted(count, 'request')}")
    for fault, count in books.batches.by_fault.items():
        say(f"  fault of batches {fault}: {counted(count, 'time')}")


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

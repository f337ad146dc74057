"""From the pieces that the engine tells to the response of a request, as a whole or as a stream.

Invariant: what is generated for a client that has left is cancelled; a whole response and its stream hold the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from batcher.server.asgi import Exchange
from batcher.server.hf.asking import Asked
from batcher.server.hf.choice import Piece
from batcher.server.hf.engine import Engine
from batcher.server.requests import Options
from batcher.server.responses import (
    DONE,
    ChatEvents,
    Choice,
    Head,
    Refusal,
    TextEvents,
    Token,
    Usage,
    chat_completion,
    event,
    text_completion,
)


class ClientLeftError(Exception):
    """The client has closed its connection, or the server ends."""


class FaultError(Exception):
    """The model gave no answer."""

    @property
    def refusal(self) -> Refusal:
        return Refusal(500, f"There is no answer: {self}.", "server_error")


class Channel:
    """Takes what the engine's thread tells to the coroutine of one request."""

    def __init__(self) -> None:
        self.is_over = False
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def tell(self, news: object) -> None:
        """Hand news over; may be called in any thread, also after the end."""
        if not self.is_over:
            with contextlib.suppress(RuntimeError):  # the loop has ended since
                self._loop.call_soon_threadsafe(self._queue.put_nowait, news)

    async def get(self) -> Any:
        """Wait for news.

        Raises:
            ClientLeftError: nobody waits for an answer any more.
        """
        news = await self._queue.get()
        if isinstance(news, ClientLeftError):
            raise news
        return news

    async def watch(self, exchange: Exchange) -> None:
        """Tell it as news if the client leaves."""
        await exchange.gone()
        self._queue.put_nowait(ClientLeftError())


@contextlib.contextmanager
def channel(exchange: Exchange) -> Iterator[Channel]:
    """Open a channel; if the client leaves, the block ends."""
    opened = Channel()
    watching = asyncio.create_task(opened.watch(exchange))
    try:
        with contextlib.suppress(ClientLeftError):
            yield opened
    finally:
        opened.is_over = True
        watching.cancel()


async def answer(exchange: Exchange, engine: Engine, asked: Asked, options: Options, model: str) -> None:
    """Have the choices of a request generated, and send them.

    Args:
        exchange: whose request it is.
        engine: that generates.
        asked: what the model is asked.
        options: of the request.
        model: the name of the model.
    """
    head = Head(f"{'chatcmpl' if asked.is_chat else 'cmpl'}-{uuid.uuid4().hex}", model, int(time.time()))
    count = len(asked.prompts) * asked.count_each
    with channel(exchange) as news:
        tickets = [engine.order(order) for order in asked.orders(options, news.tell)]
        try:
            if options.is_streamed:
                await _stream(exchange, _Events(head, asked, options), _pieces(news, count))
            else:
                await _whole(exchange, head, asked, _pieces(news, count))
        except FaultError as fault:
            await exchange.refuse(fault.refusal)
        finally:
            for ticket in tickets:
                ticket.cancel()


async def _pieces(news: Channel, count: int) -> AsyncIterator[Piece]:
    """Yield pieces until all choices have ended.

    Raises:
        ClientLeftError: the client has left.
        FaultError: a choice has failed.
    """
    while count:
        piece: Piece = await news.get()
        if piece.fault:
            raise FaultError(piece.fault)
        yield piece
        count -= bool(piece.finish)


@dataclass
class _Answer:
    """A choice as it comes together."""

    text: str
    tokens: list[Token] | None = None
    count: int = 0
    finish: str = ""

    def take(self, piece: Piece) -> None:
        self.text += piece.text
        if piece.tokens is not None:
            self.tokens = [*(self.tokens or ()), *piece.tokens]
        self.count, self.finish = piece.length, piece.finish


async def _whole(exchange: Exchange, head: Head, asked: Asked, pieces: AsyncIterator[Piece]) -> None:
    answers: dict[int, _Answer] = {}
    async for piece in pieces:
        answers.setdefault(piece.place, _Answer(asked.echo(piece.place))).take(piece)
    ordered = [answers[index] for index in sorted(answers)]
    choices = [Choice(each.text, each.finish, each.tokens) for each in ordered]
    usage = Usage(asked.prompt_tokens, sum(each.count for each in ordered))
    write = chat_completion if asked.is_chat else text_completion
    await exchange.respond(200, json.dumps(write(head, choices, usage)).encode())


async def _stream(exchange: Exchange, events: _Events, pieces: AsyncIterator[Piece]) -> None:
    """Send pieces as they come. The response begins with the first one: a fault before it has its own status."""
    try:
        async for piece in pieces:
            if not events.has_begun:
                await exchange.begin()
            await exchange.put(events.of(piece))
    except FaultError as fault:
        if not events.has_begun:
            raise
        await exchange.end(event(fault.refusal.body().decode()))
    else:
        await exchange.end(events.usage() + DONE)


class _Events:
    """Writes the events of a stream, with what stands before the first piece of each choice."""

    def __init__(self, head: Head, asked: Asked, options: Options) -> None:
        self._chat = ChatEvents(head, with_usage=options.with_usage) if asked.is_chat else None
        self._text = TextEvents(head, with_usage=options.with_usage)
        self._asked = asked
        self._counts: dict[int, int] = {}  # tokens of each choice

    @property
    def has_begun(self) -> bool:
        return bool(self._counts)

    def of(self, piece: Piece) -> bytes:
        """Return the events of a piece."""
        events = self._chat or self._text
        index, lines = piece.place, []
        if index not in self._counts:
            echo = self._asked.echo(index)
            lines += [self._chat.begin(index)] if self._chat else [self._text.piece(index, echo)] if echo else []
        if piece.text or piece.tokens:
            lines.append(events.piece(index, piece.text, piece.tokens))
        if piece.finish:
            lines.append(events.end(index, piece.finish))
        self._counts[index] = piece.length
        return b"".join(map(event, lines))

    def usage(self) -> bytes:
        """Return the event of the usage, if it was asked for."""
        usage = Usage(self._asked.prompt_tokens, sum(self._counts.values()))
        return b"".join(map(event, (self._chat or self._text).usage(usage)))

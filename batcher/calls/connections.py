"""Connections to servers: chooses one for each request, and checks that a response belongs to its request.

HTTP/1.1 has no ids: a response belongs to the oldest request on its connection that has no response yet. If a server
answers twice, or a gateway passes an answer on after its 504, the next row gets another row's answer.

Invariant: a request uses an open connection again only if the last response on it was an answer or a 429, was read to
its end, and nothing has arrived since, for a time in which a second response would have arrived. A response that shows
in any way that it belongs to another question is refused.

This module uses private parts of aiohttp, because there is no public way: `TCPConnector.connect` and its arguments, the
request's
`connection_key`, the protocol's `should_close` and `is_connected()`, and that a response gives its connection back by
`release` or `close` as soon as it has been read.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import random
import re
import select
from collections.abc import Coroutine
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Self, cast

import aiohttp

from batcher.calls.patience import Patience

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest, ClientResponse
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

QUIET_S = 0.1
"""The fewest seconds that a connection rests after a response: a duplicate response mostly follows at once. It rests as
long as the response took, because a duplicate hardly takes longer."""

# A server may close an idle connection while a request travels on it. uvicorn, and so vLLM, closes after 5 s.
_KEEPALIVE_S = 4.0
# After a slower response the connection is closed: it would rest too long, and opening a new one costs little.
_SLOW_S = _KEEPALIVE_S / 2
_CONNECT_S = 30.0
# The number of answer ids kept for each host, to find out whether they differ.
_IDS = 1000
# Our request ids name the question and the attempt. They are UUIDs of version 4, because some servers, such as
# llama-cpp-python's, refuse all others: by a 400 without a body.
_MARK = "ba7c4e12"
# Tells the attempts at a question apart. Asking the system each time would take 13 microseconds of a row.
_attempts = random.Random()  # noqa: S311 - it guards nothing
_OURS = re.compile(f"{_MARK}-?([0-9a-f]{{4}})-?4([0-9a-f]{{3}})-?8([0-9a-f]{{3}})-?([0-9a-f]{{6}})[0-9a-f]{{6}}")

_current: ContextVar[Exchange | None] = ContextVar("batcher_exchange", default=None)


class Exchange:
    """The context in which one request is sent and its response read. To aiohttp it is the request's connection.

    Its connection is closed at the end, unless `keep` was called and the connection is still fit.

    Args:
        question: the body of the request.
        most: the most bytes of the whole response on the wire.

    Attributes:
        id: of the request, to be sent as `X-Request-ID`.
        is_written: set when the whole request has been handed to the system.
        is_too_long: the response had too many bytes; its connection was cut.
        protocol: aiohttp's, of the connection.
    """

    __slots__ = (
        "_came",
        "_came_early",
        "_has_begun",
        "_has_more",
        "_is_kept",
        "_is_over",
        "_line",
        "_most",
        "_question",
        "_token",
        "id",
        "is_too_long",
        "is_written",
        "protocol",
    )

    def __init__(self, question: bytes, most: int) -> None:
        self._question = hashlib.blake2b(question, digest_size=8).hexdigest()
        name, attempt = self._question, _attempts.getrandbits(24)
        self.id = f"{_MARK}-{name[:4]}-4{name[4:7]}-8{name[7:10]}-{name[10:]}{attempt:06x}"
        self.is_written = False
        self.is_too_long = False
        self.protocol: Any = None
        self._most = most
        self._came = 0
        self._has_begun = False
        self._came_early = False
        self._has_more = False
        self._is_over = False
        self._is_kept = False
        self._line: _Line | None = None
        self._token: Token[Exchange | None] | None = None

    # -- For the sender of the request

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._token:
            _current.reset(self._token)
        if line := self._line:
            line.exchange = None
            if self._is_kept and self._is_over and self.is_written:
                line.rest()
            else:
                line.close()

    def keep(self) -> None:
        """Record that nothing more is expected after the response."""
        self._is_kept = True

    def foreign(self, response: ClientResponse, answer: tuple[str, str] | None) -> str | None:
        """Return why a response, which has been read, does not belong to this request; None if nothing shows that.

        Args:
            response: aiohttp's.
            answer: the server's id of the answer, and its text; None if it is not a completion.
        """
        line = self._line
        if line is None:
            return None
        name = answer[0] if answer else ""
        if self._is_named_otherwise(response.headers.get("X-Request-ID")) or self._is_named_otherwise(name):
            return "it names another request as its own"
        # A refusal may come early: the server need not read the whole request before it refuses it.
        if self._came_early and response.status < 300:
            return "it came before the request had been sent"
        if line.is_spoilt or (self._has_more and not _says_close(response)):
            line.place.distrust()
            if line.uses > 1:
                return "two responses came to one request"
        if name and line.repeats(hash(answer), self._question, name):
            return "it repeats the response before it on this connection"
        return None

    def _is_named_otherwise(self, name: str | None) -> bool:
        """Return whether an id names another question's request; earlier attempts at this question do not count."""
        if name is None or _MARK not in name:
            return False
        return any("".join(parts) != self._question for parts in _OURS.findall(name))

    # -- For aiohttp

    def __getattr__(self, name: str) -> Any:
        """Pass everything else on to aiohttp's connection."""
        if self._line is None:
            raise AttributeError(name)
        return getattr(self._line.connection, name)

    def release(self) -> None:
        """Record that aiohttp has finished reading; the connection is given back at the end of the context."""
        if self._is_over or not self._line:
            return
        self._is_over = True
        self._line.exchange = None  # data from now on was not asked for
        if self.protocol.should_close:
            self._has_more = self.protocol.is_connected()
            self._line.close()

    def close(self) -> None:
        self._is_over = True
        if self._line:
            self._line.close()

    # -- For the connection

    def begin(self, line: _Line) -> None:
        self._line = line
        self.protocol = line.protocol
        line.exchange = self
        line.begun = asyncio.get_running_loop().time()
        line.uses += 1

    def arrived(self, data: bytes, transport: asyncio.Transport) -> None:
        """Record that a part of the response has arrived. Some servers send interim responses (1xx) at any time."""
        if not self._has_begun and not data.startswith(b"HTTP/1.1 1"):
            self._has_begun = True
            self._came_early = not self.is_written or transport.get_write_buffer_size() > 0
        self._came += len(data)
        if self._came > self._most:
            self.is_too_long = True
            transport.abort()


def _says_close(response: ClientResponse) -> bool:
    version = response.version
    is_old = version is None or version < aiohttp.HttpVersion11
    return is_old or "close" in response.headers.get("Connection", "").lower()


class _Line(asyncio.Protocol):
    """One connection, between its transport and aiohttp's protocol: it sees all data that arrives.

    Attributes:
        connection: aiohttp's.
        protocol: aiohttp's.
        place: its host.
        exchange: the request that is under way on it, until its response has been read.
        uses: the number of its requests.
        begun: the loop's time at which the last request was about to be sent.
        rests_since: the loop's time at which the response to it had been read.
        is_spoilt: data arrived that was not asked for.
        is_closed: it has been given back to aiohttp to be closed.
    """

    def __init__(self, connection: Connection, place: _Place) -> None:
        self.connection = connection
        self.protocol: Any = connection.protocol
        self.place = place
        self.exchange: Exchange | None = None
        self.uses = 0
        self.begun = self.rests_since = 0.0
        self.is_spoilt = False
        self.is_closed = False
        self._last: tuple[int, str] | None = None
        self._transport = cast("asyncio.Transport", connection.transport)
        self._transport.set_protocol(self)
        self._socket = self._transport.get_extra_info("socket")
        place.connector.lines += 1

    def data_received(self, data: bytes) -> None:
        if self.exchange:
            self.exchange.arrived(data, self._transport)
            self.protocol.data_received(data)
        else:
            self.is_spoilt = True
            self.place.distrust()
            self.close()

    def eof_received(self) -> bool | None:
        return cast("bool | None", self.protocol.eof_received())

    def connection_lost(self, exc: BaseException | None) -> None:
        self.protocol.connection_lost(exc)
        if not self.exchange:
            self.close()

    def pause_writing(self) -> None:
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        self.protocol.resume_writing()

    @property
    def is_fit(self) -> bool:
        """Whether another request may use it."""
        return not (self.is_closed or self._transport.is_closing() or self.protocol.should_close)

    @property
    def is_quiet(self) -> bool:
        """Whether the system's buffer holds no data that the loop has not read yet."""
        if not hasattr(select, "poll"):  # it is Windows, where `select` takes a socket of any number
            return not select.select([self._socket], [], [], 0)[0]
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def rest(self) -> None:
        self.rests_since = asyncio.get_running_loop().time()
        took_s = self.rests_since - self.begun
        if self.place.is_trusted and not self.is_closed and took_s <= _SLOW_S:
            self.place.let_rest(self, self.rests_since + max(took_s, QUIET_S))
        else:
            self.close()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.place.connector.lines -= 1
            self.connection.close()

    def repeats(self, answer: int, question: str, name: str) -> bool:
        """Return whether an answer repeats the previous one on this connection, which was to another question.

        It can be true only if the server's ids are known to differ: other servers may give the same answer twice in a
        row.
        """
        if self.uses == 1:
            self.place.learn(name)
        last, self._last = self._last, (answer, question)
        return self.place.ids_differ and last is not None and last[0] == answer and last[1] != question


class _Place:
    """The facts known of a host, and the connections to it.

    Attributes:
        connector: the owner of the connections.
        resting: a heap of the connections that no request uses, each with the loop's time until which it rests.
        is_trusted: the host has sent no data that was not asked for. A server that does may do so at any time, so that
            each request to it needs its own connection.
    """

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self.resting: list[tuple[float, int, _Line]] = []
        self.is_trusted = True
        self._ids: set[str] = set()
        self._has_repeated = False

    @property
    def ids_differ(self) -> bool:
        return len(self._ids) > 1 and not self._has_repeated

    def learn(self, name: str) -> None:
        """Record the id of the first answer on a connection, which cannot belong to another request."""
        self._has_repeated = self._has_repeated or name in self._ids
        if len(self._ids) < _IDS:
            self._ids.add(name)

    def distrust(self) -> None:
        self.is_trusted = False
        self.close()

    def close(self) -> None:
        """Close the connections that rest."""
        while self.resting:
            self.resting.pop()[2].close()

    def let_rest(self, line: _Line, until: float) -> None:
        heapq.heappush(self.resting, (until, id(line), line))

    def next(self, now: float) -> _Line | None:
        """Take a connection that has rested long enough, if there is one."""
        while self.resting and self.resting[0][0] <= now:
            line = heapq.heappop(self.resting)[2]
            if now - line.rests_since > _KEEPALIVE_S or not line.is_fit:
                line.close()
            elif line.is_quiet:
                return line
            else:  # the loop will read the data, and judge it
                self.let_rest(line, now + QUIET_S)
        return None


class Connector(aiohttp.TCPConnector):
    """Hands out connections to exchanges. To aiohttp, resting connections are in use: its own pool stays empty.

    Args:
        most: connections that may be open at once. If all are in use or resting, a resting one is closed for a new one;
            more requests than that at once are not refused.

    Attributes:
        lines: the open connections.
    """

    def __init__(self, most: int) -> None:
        self.lines = 0
        # Names are looked up as the system does: aiodns, if it is installed, raises errors of its own.
        resolver = aiohttp.ThreadedResolver()
        super().__init__(limit=0, keepalive_timeout=_KEEPALIVE_S, ttl_dns_cache=300, resolver=resolver)
        self._most = most
        self._places: dict[Any, _Place] = {}

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's name
    ) -> Connection:
        """Find or open the connection of a request that is sent in an `Exchange`.

        Raises:
            TimeoutError: the host does not answer.
            aiohttp.ClientError: it cannot be reached.
        """
        exchange = _current.get()
        if exchange is None:
            return await super().connect(req, traces, timeout)
        place = self._places.get(req.connection_key)
        if place is None:
            place = self._places[req.connection_key] = _Place(self)
        line = place.next(asyncio.get_running_loop().time())
        if line is None:
            if self.lines >= self._most:
                self._make_room()
            async with Patience(_CONNECT_S):
                line = _Line(await super().connect(req, traces, timeout), place)
        exchange.begin(line)
        return cast("Connection", exchange)

    def _make_room(self) -> None:
        """Close a resting connection to any host."""
        for place in self._places.values():
            while place.resting:
                line = heapq.heappop(place.resting)[2]
                if not line.is_closed:
                    line.close()
                    return

    def close(self, **options: Any) -> Coroutine[Any, Any, None]:
        """Close all connections; see aiohttp for the options and for what to await."""
        for place in self._places.values():
            place.close()
        return super().close(**options)

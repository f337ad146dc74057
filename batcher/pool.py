"""The pool of endpoints: who takes the next call.

Invariant: a row waits in one queue, first come first served, and goes to the endpoint that can take it soonest; no
endpoint has more in flight, or more in a minute, than it may. A row that waits holds no slot.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from batcher.config import Endpoint
from batcher.limiter import Limiter
from batcher.records import EndpointCount

if TYPE_CHECKING:
    from batcher.caller import Caller  # loading LangChain takes a second


_FIRST_WIDTH = 32


class PoolEmpty(Exception):
    """No endpoint is left."""


class PoolClosed(Exception):
    """The run is stopping: no further call may leave."""


class Member:
    """An endpoint at work.

    Attributes:
        number: its place in the pool, from 0.
        endpoint: its settings.
        giver: the journal's id of who its answers come from.
        caller: makes its calls.
        in_flight: calls under way.
        requests: calls made in this run.
        cooldown_until: the loop's time before which it takes no call.
        width: calls that it may have in flight now; it adapts below `max_concurrency`.
        out: why it has left the pool, or None.
    """

    def __init__(self, number: int, endpoint: Endpoint, giver: int, caller: Caller) -> None:
        self.number = number
        self.endpoint = endpoint
        self.giver = giver
        self.caller = caller
        self.limiter = Limiter(endpoint.rpm, endpoint.rps) if endpoint.rpm or endpoint.rps else None
        self.in_flight = 0
        self.requests = 0
        self.cooldown_until = 0.0
        self.width: float = min(_FIRST_WIDTH, endpoint.max_concurrency)
        self._steady_from: float = endpoint.max_concurrency
        self.out: str | None = None
        self.wanted = asyncio.Event()

    def __repr__(self) -> str:
        state = self.out or f"{self.in_flight} in flight, {self.requests} requests"
        return f"<Member {self.label}: {state}>"

    @property
    def label(self) -> str:
        """Name the endpoint for people; the number tells apart those that differ in their key alone."""
        model, base_url, _ = self.endpoint.giver
        return (
            f"endpoint {self.number + 1} ({model} at {base_url})"
            if base_url
            else f"endpoint {self.number + 1} ({model})"
        )

    def can_take(self, now: float) -> bool:
        """Tell whether it may make a call, its pace aside."""
        return self.out is None and self.in_flight + 1 <= self.width and now >= self.cooldown_until

    def widen(self) -> None:
        """Take note of a success where the width is what limits: slow start, then one more call a round.

        After TCP's congestion control (RFC 5681, 3.1), with calls in the place of segments.
        """
        if self.in_flight + 1 > self.width:
            self.width += 1 if self.width < self._steady_from else 1 / self.width
            self.width = min(self.width, self.endpoint.max_concurrency)

    def narrow(self) -> None:
        """Take note of an overload: halve the width, and grow slowly from there."""
        self.width = self._steady_from = max(1.0, self.width / 2)


class Pool:
    """Hands out the right to make one call.

    All state changes in `_dispatch` or in the methods that call it at their end. An endpoint with a limiter has a
    task of its own, which asks the limiter while a row is waiting that the endpoint could take.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self._loop = asyncio.get_running_loop()
        self._waiting: collections.deque[asyncio.Future[Member]] = collections.deque()
        self._closed = False
        self._pacers = [self._loop.create_task(self._pace(each, each.limiter)) for each in members if each.limiter]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pacer in self._pacers:
            pacer.cancel()
        await asyncio.gather(*self._pacers, return_exceptions=True)

    @property
    def in_flight(self) -> int:
        return sum(member.in_flight for member in self.members)

    @property
    def capacity(self) -> int:
        """Calls that may be in flight at once."""
        return sum(member.endpoint.max_concurrency for member in self.members if member.out is None)

    async def take(self, *, again: bool = False) -> Member:
        """Wait for the right to make one call, and return the endpoint that makes it.

        Args:
            again: the row has been in the queue before; it goes to the front, so that its chunk can close.

        Raises:
            PoolEmpty: no endpoint is left.
            PoolClosed: the run is stopping.
        """
        waiter: asyncio.Future[Member] = self._loop.create_future()
        if again:
            self._waiting.appendleft(waiter)
        else:
            self._waiting.append(waiter)
        self._dispatch()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                member = waiter.result()  # granted and cancelled in one turn of the loop
                member.requests -= 1
                self.give_back(member)
            raise

    def give_back(self, member: Member) -> None:
        """Say that the call has ended."""
        member.in_flight -= 1
        self._dispatch()

    def succeeded(self, member: Member) -> None:
        """Say that a call brought an answer. What comes during a cooldown says nothing about the load after it."""
        if not member.cooldown_until:
            member.widen()

    def cool_down(self, member: Member, seconds: float) -> None:
        """Let an endpoint take no call for a while, and then fewer at once; once for all that failed together."""
        until = self._loop.time() + seconds
        if seconds and not member.cooldown_until:
            member.narrow()
        if seconds and until > member.cooldown_until:
            member.cooldown_until = until
            self._loop.call_at(until, self._end_cooldown, member, until)

    def _end_cooldown(self, member: Member, until: float) -> None:
        if member.cooldown_until == until:  # it was not prolonged
            member.cooldown_until = 0.0  # the timer may be early by the clock's resolution, and it rings only once
            self._dispatch()

    def put_out(self, member: Member, reason: str) -> bool:
        """Take an endpoint out of the pool for good; return whether it was in it."""
        was_in = member.out is None
        member.out = member.out or reason
        self._dispatch()
        return was_in

    def close(self) -> None:
        """Hand out no more calls; those under way go on."""
        self._closed = True
        self._dispatch()

    def counts(self) -> tuple[EndpointCount, ...]:
        """Return what each endpoint did."""
        return tuple(EndpointCount(member.label, member.requests, member.out) for member in self.members)

    def cooling(self) -> float:
        """Return the seconds until an endpoint takes calls again, if none does now, else 0."""
        now = self._loop.time()
        return max(0.0, min((m.cooldown_until - now for m in self.members if m.out is None), default=0.0))

    def _dispatch(self) -> None:
        """Give the oldest waiting rows to the endpoints that can take them now."""
        now = self._loop.time()
        if self._closed or all(member.out is not None for member in self.members):
            self._refuse(PoolClosed if self._closed else PoolEmpty)
        while self._waiting:
            free = [member for member in self.members if member.limiter is None and member.can_take(now)]
            if not free:
                break
            self._grant(min(free, key=lambda member: (member.in_flight, member.requests)))
        for member in self.members:
            if self._waiting and member.can_take(now):
                member.wanted.set()
            else:
                member.wanted.clear()

    def _grant(self, member: Member) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                member.in_flight += 1
                member.requests += 1
                waiter.set_result(member)
                return

    def _refuse(self, error: type[Exception]) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(error())

    async def _pace(self, member: Member, limiter: Limiter) -> None:
        """Grant calls to an endpoint as its limiter lets them pass."""
        while True:
            await member.wanted.wait()
            if not member.wanted.is_set():
                continue  # another endpoint that was woken with this one took the row; no passage is spent on it
            await limiter.acquire()
            # Meanwhile another endpoint may have taken the row, or this one begun to cool down: then the passage is
            # lost rather than kept, because a kept one would leave as a burst later.
            if member.can_take(self._loop.time()):
                self._grant(member)
            self._dispatch()

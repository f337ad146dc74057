"""Workers in virtual time: each is the real worker's code over a caller that knows its answers, and a way there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from fake_service import Service

from batcher.calls.batch_service import BatchService
from batcher.calls.workers.callers import WorkerCaller, WorkerCallers
from batcher.calls.workers.crew import Crew
from batcher.calls.workers.hands import Hands
from batcher.calls.workers.setup import Setup
from batcher.calls.workers.worker import Link, Watcher, WorkerLost
from batcher.endpoint import Endpoint
from batcher.records import NO_PARAMS, NO_TERMS, Completion, Failure, Fault, Message

DEAD = "it was killed"


def no_connection() -> Failure:
    return Failure(Fault.CONNECTION, "nothing listens there")


class FakeLink:
    """One worker.

    Args:
        name: of it.
        setup: as it gets it.
        service: that its calls reach.
        way_s: seconds that anything takes between it and this process.
        room: calls that it may have in flight.

    Attributes:
        instead: returns what its calls bring in place of an answer, before anything has left; None: they get through.
        is_dead: it was killed.
        goes_on: it does not stand still.
        slow_s: seconds before a call leaves it.
        calls: that it has begun.
    """

    def __init__(self, name: str, setup: bytes, service: Service, way_s: float = 0.001, room: int = 10_000) -> None:
        self.name = name
        self.room = room
        self.instead: Callable[[], Failure | None] = lambda: None
        self.is_dead = False
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.slow_s = 0.0
        self.calls = 0
        self._way_s = way_s
        self._loop = asyncio.get_running_loop()
        self._hands = Hands(setup, 100, lambda _setup, _connections: _Calls(self, service))
        self._died = asyncio.Event()

    def send(self, group: bytes) -> None:
        self._loop.call_later(self._way_s, self._arrive, group)

    def _arrive(self, group: bytes) -> None:
        if not self.is_dead:
            self._hands.take(group)

    async def news(self, gather_s: float) -> bytes:
        await asyncio.sleep(self._way_s)
        tells = asyncio.ensure_future(self._tell(gather_s))
        dies = asyncio.ensure_future(self._died.wait())
        try:
            await asyncio.wait({tells, dies}, return_when=asyncio.FIRST_COMPLETED)
            if self.is_dead:
                raise WorkerLost(DEAD)
            return tells.result()
        finally:
            tells.cancel()
            dies.cancel()

    async def _tell(self, gather_s: float) -> bytes:
        await self.goes_on.wait()
        news = await self._hands.news(gather_s)
        await asyncio.sleep(self._way_s)
        return news

    def kill(self) -> None:
        """Let it die: what it had in flight may still have reached the service."""
        if not self.is_dead:
            self.is_dead = True
            self._died.set()
            self._loop.create_task(self._hands.close())


class _Calls:
    """The callers in a worker."""

    def __init__(self, link: FakeLink, service: Service) -> None:
        self._link = link
        self._service = service

    def caller(self, endpoint: Endpoint) -> _Call:
        return _Call(self._link, self._service.caller(endpoint))

    def batches(self, endpoint: Endpoint) -> BatchService:
        raise NotImplementedError

    async def close(self) -> None:
        pass


class _Call:
    def __init__(self, link: FakeLink, caller: Any) -> None:
        self._link = link
        self._caller = caller

    async def call(
        self, messages: Sequence[Message], timeout_s: float, params: Any = NO_PARAMS, terms: Any = NO_TERMS
    ) -> Completion | Failure:
        return await self.call_telling(messages, timeout_s, params, terms, lambda: None)

    async def call_telling(
        self, messages: Sequence[Message], timeout_s: float, params: Any, terms: Any, departed: Callable[[], None]
    ) -> Completion | Failure:
        self._link.calls += 1
        if (failure := self._link.instead()) is not None:
            if failure.status:
                departed()
            return failure
        await asyncio.sleep(self._link.slow_s)
        departed()
        came: Completion | Failure = await self._caller.call(messages, timeout_s, params, terms)
        return came


class FakeCluster:
    """Has workers that tests add, kill and let go.

    Attributes:
        links: all that there ever were, in their order.
        released: those that were given back.
    """

    name = "a cluster"

    def __init__(self, service: Service, workers: int, way_s: float = 0.001, *, replaces: bool = True) -> None:
        self._service = service
        self._workers = workers
        self._way_s = way_s
        self._replaces = replaces
        self.links: list[FakeLink] = []
        self.given_back: list[Link] = []
        self.is_closed = False
        self._setup: bytes | None = None
        self.watcher: Watcher | None = None

    async def start(self, setup: Setup, watcher: Watcher) -> None:
        self._setup, self.watcher = setup.packed(), watcher
        for _ in range(self._workers):
            self.add()

    def add(self, room: int = 10_000) -> FakeLink:
        assert self._setup is not None
        assert self.watcher is not None
        link = FakeLink(f"worker {len(self.links) + 1}", self._setup, self._service, self._way_s, room)
        self.links.append(link)
        self.watcher.joined(link)
        return link

    def drain(self, link: FakeLink) -> None:
        assert self.watcher is not None
        self.watcher.drains(link)

    def released(self, link: Link) -> None:
        self.given_back.append(link)
        assert isinstance(link, FakeLink)
        is_loss = link.is_dead
        link.kill()
        if self._replaces and is_loss and not self.is_closed:
            asyncio.get_running_loop().call_later(2, self._replace)

    def _replace(self) -> None:
        if not self.is_closed:
            self.add()

    async def close(self) -> None:
        self.is_closed = True
        for link in self.links:
            link.kill()


class Away:
    """Makes the callers of a run whose calls workers make; `Lab.run(..., service=Away(service, ...))`.

    Attributes:
        cluster: of the run under way, or of the last one.
        said: what people were told about workers.
    """

    def __init__(self, service: Service, workers: int = 2, **options: Any) -> None:
        self.service = service
        self.workers = workers
        self.options = options
        self.said: list[str] = []
        self.cluster: FakeCluster
        self.crew: Crew

    def kill(self, place: int = 0) -> None:
        self.cluster.links[place].kill()

    def kill_last(self) -> None:
        self.kill(-1)

    def add(self) -> None:
        self.cluster.add()

    def stop(self, place: int = 0) -> None:
        self.cluster.links[place].goes_on.clear()

    def __call__(self) -> _AwayCallers:
        self.service.is_open = True
        self.cluster = FakeCluster(self.service, self.workers, **self.options)
        self.crew = Crew(self.cluster, lambda text, _level: self.said.append(text))
        return _AwayCallers(self.crew)


class _AwayCallers:
    """The real callers over workers, which begin when the endpoints are known."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._endpoints: list[Endpoint] = []
        self._made = WorkerCallers(crew, Setup(self._endpoints, {}))
        asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._beginning = asyncio.ensure_future(self._crew.start(Setup(tuple(self._endpoints), {})))

    def caller(self, endpoint: Endpoint) -> WorkerCaller:
        self._endpoints.append(endpoint)
        return self._made.caller(endpoint)

    def batches(self, endpoint: Endpoint) -> BatchService:
        return self._made.batches(endpoint)

    async def close(self) -> None:
        await self._beginning
        await self._made.close()

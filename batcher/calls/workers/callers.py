"""The callers of a run whose calls are made by workers.

Invariant: nothing here loads LangChain, unless batches are used: their files leave from this process.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batcher.calls.workers.crew import Crew
from batcher.calls.workers.wire import Call
from batcher.endpoint import Endpoint
from batcher.hiding import public_url
from batcher.records import NO_PARAMS, NO_TERMS, Completion, Failure, Message, Terms

if TYPE_CHECKING:
    from batcher.calls.batch_service import BatchService
    from batcher.calls.caller import Callers
    from batcher.calls.workers.setup import Setup


def _nothing() -> None:
    """Tell nobody that a request has left."""


class WorkerCaller:
    """Lets a crew make the calls of one endpoint; a `DistantCaller`.

    Args:
        crew: makes them.
        number: the endpoint's place in the crew's setup.
        service: what is reached; the same for all endpoints with the same base URL.
    """

    def __init__(self, crew: Crew, number: int, service: str) -> None:
        self._crew = crew
        self._number = number
        self._service = service

    async def call(
        self,
        messages: Sequence[Message],
        timeout_s: float,
        params: Mapping[str, Any] = NO_PARAMS,
        terms: Terms = NO_TERMS,
    ) -> Completion | Failure:
        return await self.call_away(messages, timeout_s, params, terms, _nothing)

    async def call_away(
        self,
        messages: Sequence[Message],
        timeout_s: float,
        params: Mapping[str, Any],
        terms: Terms,
        departed: Callable[[], None],
    ) -> Completion | Failure:
        call = Call(self._crew.new_id(), self._number, messages, timeout_s, params, terms)
        return await self._crew.make(call, self._service, departed)


class WorkerCallers:
    """Makes the callers of a run over a crew.

    Args:
        crew: at work already.
        setup: with which it was started.
    """

    def __init__(self, crew: Crew, setup: Setup) -> None:
        self._crew = crew
        self._setup = setup
        self._own: Callers | None = None

    def caller(self, endpoint: Endpoint) -> WorkerCaller:
        """Make the caller of an endpoint of the setup."""
        return WorkerCaller(self._crew, self._setup.endpoints.index(endpoint), public_url(endpoint.base_url))

    def batches(self, endpoint: Endpoint) -> BatchService:
        """Make the client of an endpoint's batch API; its requests leave from this process.

        Raises:
            SettingsError: its service is known to have none, or its proxy cannot be used.
        """
        if self._own is None:
            factory = importlib.import_module("batcher.calls.factory")
            setup = self._setup
            self._own = factory.ChatCallers(setup.params, setup.offline_url, setup.most_bytes, scores=setup.scores)
        return self._own.batches(endpoint)

    async def close(self) -> None:
        if self._own:
            await self._own.close()
        await self._crew.close()

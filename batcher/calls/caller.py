"""A run's view of a model: the Protocols of a caller, and of the maker of a run's callers.

Invariant: this module holds Protocols, and what is said through them, so that other kinds of callers need no
LangChain. A call never raises for an error of the server, the network or the model; it returns a `Failure`. It raises
only cancellation. An answer that has arrived is returned, even if something fails afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from batcher.calls.batch_service import BatchService
from batcher.endpoint import Endpoint
from batcher.records import Completion, Failure, Message, Terms


class Streaming(NamedTuple):
    """How long a streamed call (`--stream`) may be silent.

    Attributes:
        idle_s: the most seconds without a byte from the service, before the first one as well.
        whole_s: the most seconds for an answer in one piece, at an endpoint that does not stream.
    """

    idle_s: float
    whole_s: float


class CallCut(asyncio.CancelledError):
    """A call was cancelled in the middle of a streamed answer.

    Attributes:
        partial: what had come of it.
    """

    def __init__(self, partial: Completion) -> None:
        super().__init__()
        self.partial = partial


class Caller(Protocol):
    """Makes the calls of one endpoint."""

    async def call(
        self, messages: Sequence[Message], timeout_s: float, params: Mapping[str, Any] = ..., terms: Terms = ...
    ) -> Completion | Failure:
        """Make one attempt.

        Args:
            messages: of the row.
            timeout_s: the most seconds that it may take.
            params: further request parameters; if there are many calls, always the same few objects.
            terms: how the row asks, if it differs from others.

        Raises:
            CallCut: it was cancelled, and a part of a streamed answer had come.
        """


@runtime_checkable
class TellingCaller(Caller, Protocol):
    """Makes the calls of one endpoint in this process, and tells when each request is about to be written."""

    async def call_telling(
        self,
        messages: Sequence[Message],
        timeout_s: float,
        params: Mapping[str, Any],
        terms: Terms,
        departed: Callable[[], None],
    ) -> Completion | Failure:
        """Make one attempt, as `call` does, and call `departed` once, if the request leaves."""


@runtime_checkable
class DistantCaller(Caller, Protocol):
    """Makes the calls of one endpoint in another process, and says when each of them leaves that process."""

    async def call_away(
        self,
        messages: Sequence[Message],
        timeout_s: float,
        params: Mapping[str, Any],
        terms: Terms,
        departed: Callable[[], None],
    ) -> Completion | Failure:
        """Make one attempt, as `call` does.

        Args:
            messages: as in `call`.
            timeout_s: as in `call`; it counts from when the other process makes the call.
            params: as in `call`.
            terms: as in `call`.
            departed: is called once, when this process learns that the request has left; never before it has. If the
                attempt is cancelled, it is called in any case, maybe later: when the request has left, or never will.
        """


class Callers(Protocol):
    """Makes the callers of a run, and frees what they share at its end."""

    def caller(self, endpoint: Endpoint) -> Caller: ...

    def batches(self, endpoint: Endpoint) -> BatchService:
        """Make the client of an endpoint's batch API.

        Raises:
            SettingsError: its service is known to have none, or a chat model in `llm=` is asked.
        """

    async def close(self) -> None: ...

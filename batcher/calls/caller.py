"""A run's view of a model: the Protocols of a caller, and of the maker of a run's callers.

Invariant: this module holds Protocols only, so that other kinds of callers need no LangChain. A call never raises for
an error of the server, the network or the model; it returns a `Failure`. It raises only cancellation. An answer that
has arrived is returned, even if something fails afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from batcher.endpoint import Endpoint
from batcher.records import Completion, Failure, Message, Terms


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
        """


class Callers(Protocol):
    """Makes the callers of a run, and frees what they share at its end."""

    def caller(self, endpoint: Endpoint) -> Caller: ...

    async def close(self) -> None: ...

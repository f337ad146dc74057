"""What a run knows of a model: whatever makes a call, and whatever makes the callers of a run.

Invariant: nothing but Protocols stands here, so that what calls in another way needs no LangChain. A call never raises
for what the server, the network or the model did; it returns a `Failure`. What it raises is cancellation. An answer
that has arrived is returned, whatever happens after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from batcher.endpoint import Endpoint
from batcher.records import Completion, Failure, Message


class Caller(Protocol):
    """Makes the calls of one endpoint."""

    async def call(self, messages: Sequence[Message], timeout_s: float) -> Completion | Failure:
        """Make one attempt that takes at most `timeout_s` seconds."""


class Callers(Protocol):
    """Makes the callers of a run, and frees what they share at its end."""

    def caller(self, endpoint: Endpoint) -> Caller: ...

    async def close(self) -> None: ...

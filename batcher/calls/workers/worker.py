"""A worker as the engine sees it, and where workers come from.

Invariant: this module holds Protocols and what is said through them; nothing here knows Ray.
"""

from __future__ import annotations

from typing import Protocol

from batcher.calls.workers.setup import Setup
from batcher.errors import BatcherError


class WorkerLost(Exception):
    """A worker is dead, or cannot be reached any more; the text says why."""


class Link(Protocol):
    """One worker.

    Attributes:
        name: for people, such as `worker 3 on 10.0.0.7`.
        room: the most calls that it may have in flight.
    """

    name: str
    room: int

    def send(self, group: bytes) -> None:
        """Hand over calls, and what is to be cut off (`wire.pack_group`). If that fails, `news` says so."""

    async def news(self, gather_s: float) -> bytes:
        """Return what has become of calls (`wire.pack_news`), within a second also if there is nothing to tell.

        Args:
            gather_s: how long what happens after the first of it may still join it, in seconds.

        Raises:
            WorkerLost: it is dead.
        """

    def kill(self) -> None:
        """End it at once."""


class Watcher(Protocol):
    """Learns from a cluster which workers there are."""

    def joined(self, link: Link) -> None:
        """A worker is ready."""

    def drains(self, link: Link) -> None:
        """A worker has to go: it takes no further call, and is released when it has no more in flight."""

    def lost(self, link: Link, why: str) -> None:
        """A worker is dead. It may be told more than once, and in any order with `Link.news`."""

    def gone(self, error: BatcherError) -> None:
        """The cluster itself is lost: the run has to stop, with this error; what is in flight may still be answered."""


class Cluster(Protocol):
    """Starts workers, and watches them.

    Attributes:
        name: for people, such as `Ray (auto)`.
    """

    name: str

    async def start(self, setup: Setup, watcher: Watcher) -> None:
        """Start workers, and return when the first one is ready.

        Raises:
            SettingsError: there is no such cluster, or none of its workers can make calls.
        """

    def released(self, link: Link) -> None:
        """A worker that had to go has nothing in flight any more, or one is lost: end it, and replace it."""

    async def close(self) -> None:
        """End all workers."""

"""The service tiers in which the endpoints of one source are asked, and which of them has no capacity at present.

Invariant: that a tier has no capacity says nothing of another one, nor of the endpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence


class ServiceTiers:
    """The service tiers of the endpoints of one source: its model has the same capacity for all keys.

    Args:
        names: as the service knows them, in the order in which they are tried; empty: requests name no tier.

    Attributes:
        names: as given. They may be changed at any time: the next requests go by the new ones.
        answers: the answers in this run, by the tier that their requests asked for.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = tuple(names)
        self.answers: dict[str, int] = {}

    def choose(self, now: float, refused: Collection[str] = ()) -> str:
        """Return the tier that the next request asks for; empty: none.

        Args:
            now: the loop's time.
            refused: the tiers that have had no capacity for the row often enough.
        """
        raise NotImplementedError

    def full_s(self, now: float) -> float:
        """Return the seconds until a tier is asked for again that has no capacity; 0 if there is none."""
        raise NotImplementedError

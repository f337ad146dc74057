"""The prices of a model by the service tier that serves a request.

Invariant: no request costs more than `most` for its tokens. The exception are requests that are served in a dearer tier
than asked for, until the first answer that says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from batcher.money.prices import NORMAL_TIER, Price, normal_tier, price_of, tiers_of
from batcher.records import Usage


class Tiers:
    """The prices that a request may be charged at.

    Args:
        price: of the tier that the request asks for.
        by_tier: the prices of all tiers, by the name that answers give them; default: there is one tier.
        may_serve: the tiers that may serve the request.
        batch: the price in the service's batches, if the table has it.

    Attributes:
        price: as given.
    """

    def __init__(
        self,
        price: Price,
        by_tier: Mapping[str, Price] | None = None,
        may_serve: Iterable[str] = (NORMAL_TIER,),
        batch: Price | None = None,
    ) -> None:
        self.price = price
        self._by_tier = by_tier or {NORMAL_TIER: price}
        self._may_serve = set(may_serve)
        self._in_batches: Tiers | None = Tiers(batch) if batch else None
        self._scaled: dict[float, Tiers] = {}

    @classmethod
    def of(
        cls, model: str, base_url: str, service_tier: str | None, *others: str | None, writes: bool = True
    ) -> Tiers | None:
        """Return the prices of a model in the table, or None if it lacks that of a tier asked for.

        A service may serve a request in its normal tier instead of the one asked for. `auto` leaves the choice to the
        settings of the user's project, so that it may be any tier. Without the parameter the normal tier is assumed
        until an answer names another.

        Args:
            model: as the service knows it.
            base_url: of the endpoint.
            service_tier: the request parameter of that name.
            *others: further values of it: any of them may be in a request.
            writes: it is to answer, so that it needs a rate for answers.
        """
        asked = (service_tier, *others)
        price, *rest = (price_of(model, base_url, each, writes=writes) for each in asked)
        if price is None or None in rest:
            return None
        names = (NORMAL_TIER, *tiers_of(model, base_url))
        by_tier = {name: found for name in names if (found := price_of(model, base_url, name, writes=writes))}
        named = {NORMAL_TIER, *map(normal_tier, asked)}
        batch = price_of(model, base_url, service_tier, writes=writes, in_batch=True)
        return cls(price, by_tier, by_tier if "auto" in asked else named & by_tier.keys(), batch)

    def scaled(self, share: float) -> Tiers:
        """Return the prices times a share, above 0 to 1: for the same share always the same object."""
        if share not in self._scaled:
            by_tier = {name: price.scaled(share) for name, price in self._by_tier.items()}
            self._scaled[share] = Tiers(self.price.scaled(share), by_tier, self._may_serve)
        return self._scaled[share]

    def in_batches(self, share: float | None, otherwise: float) -> Tiers:
        """Return the prices in a service's batches: always the same object for the same arguments.

        Args:
            share: of the price outside of batches, as the user gave it; None: what the table has counts.
            otherwise: the share if the table has no price of the model in batches.
        """
        if share is None and self._in_batches:
            return self._in_batches
        return self.scaled(otherwise if share is None else share)

    def most(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Return the highest cost of a request, in nano-dollars, as `Price.most` does."""
        return max(price.most(prompt_tokens, completion_tokens) for price in self._possible())

    def most_of_answer(self, prompt_tokens: int, completion_tokens: int) -> int | None:
        """Return the part of `most` that does not depend on the prompt's length, as `Price.most_of_answer` does.

        It may be another tier's than the whole is: the straight line from this part to the whole lies above the line of
        each tier at both ends, and so between them.
        """
        parts = [price.most_of_answer(prompt_tokens, completion_tokens) for price in self._possible()]
        known = [part for part in parts if part is not None]
        return max(known) if len(known) == len(parts) else None

    def cost(self, usage: Usage, tier: str | None = None) -> int:
        """Return the cost of an answer, in nano-dollars.

        Args:
            usage: as for `Price.cost`.
            tier: as the answer names it. If it names none that has a price, the dearest one that may serve counts.
        """
        named = self._by_tier.get(normal_tier(tier)) if tier else None
        return named.cost(usage) if named else max(price.cost(usage) for price in self._possible())

    def admit(self, tier: str | None) -> bool:
        """Let `most` cover the tier that an answer names; return whether it did not before."""
        is_new = tier in self._by_tier and tier not in self._may_serve
        if tier is not None and is_new:
            self._may_serve.add(tier)
        return is_new

    def _possible(self) -> list[Price]:
        return [self._by_tier[name] for name in self._may_serve]

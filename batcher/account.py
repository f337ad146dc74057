"""The money of a run: what each request may cost before it leaves, what it did cost after, and the budget for both.

Invariant: with a budget no request leaves before the most that it may cost is reserved. What may be billed without an
answer counts as its most.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from batcher.budget import Budget
from batcher.config import OFFLINE, Endpoint
from batcher.errors import SettingsError
from batcher.prices import NANO, Price, context_window_of, given, price_of
from batcher.records import Message, Usage
from batcher.tokens import most_completion_tokens, most_prompt_tokens

_NO_USAGE = Usage()


class Tariff(NamedTuple):
    """What an endpoint charges.

    Attributes:
        price: of its model tokens, or None where nobody knows.
        completion_tokens: the most that the answers to one request may have, or None where nothing bounds them.
        params_bytes: the length of its request parameters; schemas and tools are a part of the prompt.
    """

    price: Price | None
    completion_tokens: int | None
    params_bytes: int

    @classmethod
    def of(cls, endpoint: Endpoint, params: Mapping[str, Any]) -> Tariff:
        """Return an endpoint's tariff.

        Args:
            endpoint: with its own prices and parameters, if it has them.
            params: the request parameters of every row.
        """
        model, base_url, _ = endpoint.giver
        asked = {"max_tokens": getattr(endpoint.llm, "max_tokens", None), **params, **endpoint.params}
        if endpoint.prices is not None:
            price: Price | None = given(endpoint.prices["in"], endpoint.prices["out"], endpoint.prices.get("cached"))
        elif endpoint.base_url == OFFLINE:
            price = given(0, 0)
        else:
            price = price_of(model, base_url, asked.get("service_tier"))
        return cls(price, most_completion_tokens(asked, context_window_of(model, base_url)), len(json.dumps(asked)))

    @property
    def is_free(self) -> bool:
        return self.price is not None and not self.price.most(NANO, NANO)

    def most(self, messages: Sequence[Message]) -> int | None:
        """Return the most that a request may cost, in nano-dollars, or None where nothing bounds it."""
        if self.price is None:
            return None
        if self.is_free:
            return 0
        if self.completion_tokens is None:
            return None
        prompt = most_prompt_tokens(messages, self.params_bytes)
        return None if prompt is None else self.price.most(prompt, self.completion_tokens)

    def cost(self, usage: Usage, most: int | None) -> int | None:
        """Return what an answer cost, in nano-dollars; a server that does not say what it used may charge the most."""
        if self.price is None:
            return None
        return most if usage == _NO_USAGE else self.price.cost(usage)


class Account:
    """Reserves and settles what requests cost.

    Args:
        endpoints: of the pool.
        params: the request parameters of every row.
        limit: the budget of the run with all its resumes, in nano-dollars, or None.
        spent: what was spent before, in nano-dollars.

    Attributes:
        tariffs: of the endpoints, in the pool's order.
        spent: what this process has spent on answers, in nano-dollars, as far as it is known.
        budget: what is left, or None.

    Raises:
        SettingsError: there is a budget, and nobody knows what an endpoint charges, or how long its answers may be.
    """

    def __init__(self, endpoints: Sequence[Endpoint], params: Mapping[str, Any], limit: int | None, spent: int) -> None:
        self.tariffs = [Tariff.of(endpoint, params) for endpoint in endpoints]
        self.budget = None if limit is None else Budget(limit, spent)
        self.spent: int | None = 0 if all(tariff.price for tariff in self.tariffs) else None
        if limit is not None:
            for endpoint, tariff in zip(endpoints, self.tariffs, strict=True):
                _check(endpoint, tariff)

    async def reserve(self, messages: Sequence[Message]) -> int:
        """Wait until the budget covers a request, whoever is going to answer it; return what is reserved.

        Raises:
            BudgetSpent, BudgetClosed: it must not leave.
        """
        if self.budget is None:
            return 0
        most = max(tariff.most(messages) or 0 for tariff in self.tariffs)
        await self.budget.reserve(most)
        return most

    def settle(self, reserved: int, cost: int | None) -> None:
        """Count what a request cost in place of what was reserved for it."""
        if self.budget is not None:
            self.budget.settle(reserved, cost or 0)

    def count(self, cost: int | None) -> None:
        """Count an answer's cost."""
        if self.spent is not None and cost is not None:
            self.spent += cost

    def close(self) -> None:
        """Let no further request leave."""
        if self.budget is not None:
            self.budget.close()


def is_bounded(messages: Sequence[Message]) -> bool:
    """Tell whether it is known before what messages cost: images and audio are not text."""
    return most_prompt_tokens(messages, 0) is not None


def _check(endpoint: Endpoint, tariff: Tariff) -> None:
    name = endpoint.giver.model
    if tariff.price is None:
        raise SettingsError(
            f"--budget: the price of {name} at {endpoint.giver.base_url or 'its own place'} is not known: give"
            " --price-in and --price-out (dollars per million tokens), or prices in the endpoint"
        )
    if tariff.completion_tokens is None and not tariff.is_free:
        raise SettingsError(
            f"--budget: nothing bounds how long an answer of {name} may be, so a request may cost anything: give"
            " --param max_tokens=N"
        )

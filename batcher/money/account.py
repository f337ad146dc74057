"""The money of a run: what each request may cost before it leaves, what it did cost after, and the budget for both.

Invariant: with a budget no request leaves before the most that it may cost is reserved. What may be billed without an
answer counts as its most.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from batcher.chat_model import request_of, retries_of
from batcher.endpoint import OFFLINE, Endpoint
from batcher.errors import SettingsError
from batcher.money.budget import Budget
from batcher.money.prices import NANO, Price, context_window_of, dollars, given, price_of
from batcher.money.tokens import most_completion_tokens, most_prompt_tokens
from batcher.records import Bound, Completion, Message

_UNBOUNDED = Bound()


class Tariff(NamedTuple):
    """What an endpoint charges.

    Attributes:
        price: of its model tokens, or None if it is not known.
        completion_tokens: the most that the answers to one request may have, or None if nothing bounds them.
        params_bytes: the length of its request parameters; schemas and tools are a part of the prompt.
        is_told: it is known before a call what the request holds beside the messages.
        is_as_long_as_can_be: only the model's context window bounds its answers.
    """

    price: Price | None
    completion_tokens: int | None
    params_bytes: int
    is_told: bool = True
    is_as_long_as_can_be: bool = False

    @classmethod
    def of(cls, endpoint: Endpoint, params: Mapping[str, Any]) -> Tariff:
        """Return an endpoint's tariff.

        Args:
            endpoint: with its own prices and parameters, if it has them.
            params: the request parameters of every row.
        """
        model, base_url, _ = endpoint.source
        sent = {**params, **endpoint.params} if endpoint.llm is None else request_of(endpoint.llm, params)
        asked = sent or {}
        model = asked.get("model") or model  # of a chat model, `extra_body` may name another
        if endpoint.prices is not None:
            price: Price | None = given(endpoint.prices["in"], endpoint.prices["out"], endpoint.prices.get("cached"))
        elif endpoint.llm is None and endpoint.base_url == OFFLINE:
            price = given(0, 0)
        else:
            price = price_of(model, base_url, asked.get("service_tier"))
        if sent is None:
            return cls(price, None, 0, is_told=False)
        most = most_completion_tokens(asked, context_window_of(model, base_url))
        is_open = most_completion_tokens(asked, None) is None
        return cls(price, most, len(json.dumps(asked)), is_as_long_as_can_be=most is not None and is_open)

    @property
    def is_free(self) -> bool:
        return self.price is not None and not self.price.most(NANO, NANO)

    def bound(self, messages: Sequence[Message]) -> Bound:
        """Return the most that a request may use and cost."""
        if self.price is None:
            return _UNBOUNDED
        if self.is_free:
            return Bound(cost=0)
        prompt = most_prompt_tokens(messages, self.params_bytes) if self.is_told else None
        if prompt is None or self.completion_tokens is None:
            return Bound(prompt, self.completion_tokens)
        cost = self.price.most(prompt, self.completion_tokens)
        return Bound(prompt, self.completion_tokens, cost, self.price.most_of_answer(prompt, self.completion_tokens))

    def most(self, messages: Sequence[Message]) -> int | None:
        """Return the most that a request may cost, in nano-dollars, or None if nothing bounds it."""
        return self.bound(messages).cost

    def cost(self, completion: Completion, bound: Bound) -> int | None:
        """Return what an answer cost, in nano-dollars, or None if that is not known.

        If the server does not report the tokens of the question, or of the answer, their maximum is charged. A count of
        0 for a question, or for an answer with a text, is taken for not reported: servers that do not count send 0.
        """
        if self.price is None:
            return None
        if self.is_free:
            return 0
        usage = completion.usage
        is_empty = not completion.text and not completion.refusal
        given = usage.completion_tokens or (usage.completion_tokens if is_empty else None)
        given = bound.completion_tokens if given is None else given
        if given is None:
            return None
        if usage.prompt_tokens:
            return self.price.cost(replace(usage, completion_tokens=given))
        return None if bound.prompt_tokens is None else self.price.most(bound.prompt_tokens, given)

    @property
    def most_of_answer(self) -> int | None:
        """The most that the answers to one request may cost, in nano-dollars, whatever the question."""
        if self.price is None or self.completion_tokens is None:
            return None
        return self.price.most(0, self.completion_tokens)


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
        SettingsError: there is a budget, and it is not known what an endpoint charges, or how long its answers may be.
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
        """Add an answer's cost to what is spent; after one that is not known, the sum is unknown."""
        self.spent = None if self.spent is None or cost is None else self.spent + cost

    def close(self) -> None:
        """Let no further request leave."""
        if self.budget is not None:
            self.budget.close()


def is_bounded(messages: Sequence[Message]) -> bool:
    """Tell whether it is known before what messages cost: images and audio are not text."""
    return most_prompt_tokens(messages, 0) is not None


def note_of_reserves(endpoints: Sequence[Endpoint], tariffs: Sequence[Tariff], left: int) -> str:
    """Say what a budget reserves for each request if only the context window bounds its answers; else return "".

    Args:
        endpoints: of the pool.
        tariffs: theirs, in their order.
        left: of the budget, in nano-dollars.
    """
    pairs = [(each, tariff.most_of_answer or 0) for each, tariff in zip(endpoints, tariffs, strict=True)]
    if not any(tariff.is_as_long_as_can_be and not tariff.is_free for tariff in tariffs):
        return ""
    most = max(cost for _, cost in pairs)
    at_once = sum(each.max_concurrency for each in endpoints)
    lost = min(sum(each.max_concurrency * cost for each, cost in pairs), max(left, 0))
    return (
        "Note: without max_tokens an answer may be as long as the model can make it. So each request reserves"
        f" {dollars(most)} of the budget or more, and a kill, with up to {at_once:,} of them in flight, may cost"
        f" {dollars(lost)}. --param max_tokens=N lowers both."
    )


def _check(endpoint: Endpoint, tariff: Tariff) -> None:
    """Refuse an endpoint if the cost of its requests cannot be bounded before they leave.

    Raises:
        SettingsError: the cost of its requests cannot be bounded.
    """
    name = endpoint.source.model
    if tariff.price is None:
        raise SettingsError(
            f"--budget: the price of {name} at {endpoint.source.base_url or 'its own place'} is not known: give"
            " --price-in and --price-out (dollars per million tokens), or prices in the endpoint"
        )
    if tariff.is_free:
        return
    if endpoint.llm is not None and (retries := retries_of(endpoint.llm)):
        raise SettingsError(
            f"--budget: the chat model {name} sends a failed request again by itself, {retries:g} times, and no budget"
            " can count that: make it with max_retries=0; batcher tries again"
        )
    if not tariff.is_told:
        raise SettingsError(
            f"--budget: {type(endpoint.llm).__name__} in llm= does not tell before a call what it will send, so a"
            " request may cost anything: give the model and its base URL instead of llm=, or run without --budget"
        )
    if tariff.completion_tokens is None:
        raise SettingsError(
            f"--budget: nothing bounds how long an answer of {name} may be, so a request may cost anything: give"
            " --param max_tokens=N, and other numbers of tokens or answers (n, thinking_budget) as numbers too"
        )

"""The tariff of an endpoint: the highest cost of a request before it leaves, and its cost afterwards.

Invariant: no answer costs more than the bound of its request, unless its server ignores the request's parameters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from batcher.chat_model import request_of
from batcher.endpoint import OFFLINE, Endpoint
from batcher.money.prices import NANO, Price, context_window_of, given, price_of
from batcher.money.tokens import most_completion_tokens, most_prompt_tokens
from batcher.records import Bound, Completion, Message

_UNBOUNDED = Bound()


class Tariff(NamedTuple):
    """The tariff of an endpoint.

    Attributes:
        endpoint: the endpoint of the tariff.
        price: of its model tokens, or None if it is unknown.
        completion_tokens: the most tokens that the answers to one request may have, or None if nothing bounds them.
        params_bytes: the length of its request parameters, because schemas and tools become part of the prompt.
        is_request_known: the request's parameters are known before a call.
        is_as_long_as_can_be: only the model's context window bounds its answers.
    """

    endpoint: Endpoint
    price: Price | None
    completion_tokens: int | None
    params_bytes: int
    is_request_known: bool = True
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
        model = asked.get("model") or model  # `extra_body` of a chat model may name another
        if endpoint.prices is not None:
            price: Price | None = given(endpoint.prices["in"], endpoint.prices["out"], endpoint.prices.get("cached"))
        elif endpoint.llm is None and endpoint.base_url == OFFLINE:
            price = given(0, 0)
        else:
            price = price_of(model, base_url, asked.get("service_tier"))
        if sent is None:
            return cls(endpoint, price, None, 0, is_request_known=False)
        most = most_completion_tokens(asked, context_window_of(model, base_url))
        is_open = most_completion_tokens(asked, None) is None
        return cls(endpoint, price, most, len(json.dumps(asked)), is_as_long_as_can_be=most is not None and is_open)

    @property
    def is_free(self) -> bool:
        return self.price is not None and not self.price.most(NANO, NANO)

    def bound(self, messages: Sequence[Message]) -> Bound:
        """Return the most that a request may use and cost."""
        if self.price is None:
            return _UNBOUNDED
        if self.is_free:
            return Bound(cost=0)
        prompt = most_prompt_tokens(messages, self.params_bytes) if self.is_request_known else None
        if prompt is None or self.completion_tokens is None:
            return Bound(prompt, self.completion_tokens)
        cost = self.price.most(prompt, self.completion_tokens)
        return Bound(prompt, self.completion_tokens, cost, self.price.most_of_answer(prompt, self.completion_tokens))

    def most(self, messages: Sequence[Message]) -> int | None:
        """Return the highest cost of a request, in nano-dollars, or None if nothing bounds it."""
        return self.bound(messages).cost

    def cost(self, completion: Completion, bound: Bound) -> int | None:
        """Return the cost of an answer, in nano-dollars, or None if it is unknown.

        If the server does not report the tokens of the prompt, or of the answer, their maximum is charged. A count of 0
        for a prompt, or for an answer with a text, counts as not reported: servers that do not count send 0.
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
        """The highest cost of the answers to one request with any prompt, in nano-dollars."""
        if self.price is None or self.completion_tokens is None:
            return None
        return self.price.most(0, self.completion_tokens)


def is_bounded(messages: Sequence[Message]) -> bool:
    """Return whether the cost of messages can be bounded in advance: images and audio are not text."""
    return most_prompt_tokens(messages, 0) is not None

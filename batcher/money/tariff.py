"""The tariff of an endpoint: the highest cost of a request before it leaves, and its cost afterwards.

Invariant: no answer costs more than the bound of its request, unless its server ignores the request's parameters or
breaks an assumption of `Overhead` or `Tiers`; then the bound widens.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from batcher.chat_model import request_of
from batcher.endpoint import OFFLINE, Endpoint
from batcher.money.overhead import Overhead
from batcher.money.prices import NANO, Price, context_window_of, given, price_of
from batcher.money.tiers import Tiers
from batcher.money.tokens import most_completion_tokens, most_prompt_tokens, prompts_in
from batcher.money.vision import UNKNOWN, Vision, vision_of
from batcher.params import unfolded
from batcher.records import NO_PARAMS, NO_TERMS, Bound, Completion, Message, Task, Terms

OVERHEAD = "prompt overhead"
"""The kind of the journal's events that hold the overhead of prompts."""
TIER = "service tier"
"""The kind of the journal's events that hold a service tier which a request did not ask for."""

LESSONS = (OVERHEAD, TIER)

_UNBOUNDED = Bound()


class Wording(NamedTuple):
    """What all prompts of a run share.

    Attributes:
        text: the prompt's template and the like, to tell one run's prompts from another's.
        fixed_bytes: the bytes of the template's words that tokenizers keep apart from a row's own text.
        differing: the model tokens by which the fixed words of two prompts may differ.
    """

    text: str = ""
    fixed_bytes: int = 0
    differing: int = 0


NO_WORDING = Wording()


class Lesson(NamedTuple):
    """Something that an answer taught and the next process should know.

    Attributes:
        kind: of the journal's event.
        detail: of the event, JSON.
        said: what people should know of the endpoint, or empty.
    """

    kind: str
    detail: str
    said: str


class Tariff(NamedTuple):
    """The tariff of an endpoint.

    Attributes:
        endpoint: the endpoint of the tariff.
        tiers: the prices of its model tokens, or None if they are unknown.
        completion_tokens: the most tokens that the answers to one request may have, or None if nothing bounds them.
        params_bytes: the length of its request parameters, because schemas and tools become part of the prompt.
        overhead: what its prompts have beside the rows' own text.
        is_request_known: the request's parameters are known before a call.
        is_as_long_as_can_be: only the model's context window bounds its answers.
        params: request parameters of every row, as far as they are known.
        window: the most tokens of prompt and answer together, if the model is known.
        vision: how the model counts images.
        unpriced_tier: the service tier asked for, if the price table has the model but not that tier; else empty.
        of_vectors: the prices of a model that has none for answers, because it makes embeddings alone.
        batch_share: what the service is known to ask in its batches, as a share of the price.
    """

    endpoint: Endpoint
    tiers: Tiers | None
    completion_tokens: int | None
    params_bytes: int
    overhead: Overhead
    is_request_known: bool = True
    is_as_long_as_can_be: bool = False
    unpriced_tier: str = ""
    params: Mapping[str, Any] = NO_PARAMS
    window: int | None = None
    vision: Vision = UNKNOWN
    of_vectors: Tiers | None = None
    batch_share: float = 1.0

    @classmethod
    def of(
        cls,
        endpoint: Endpoint,
        params: Mapping[str, Any],
        wording: Wording = NO_WORDING,
        tiers: Sequence[str] = (),
    ) -> Tariff:
        """Return an endpoint's tariff.

        Args:
            endpoint: with its own prices and parameters, if it has them.
            params: the request parameters of every row.
            wording: what the prompts share.
            tiers: the service tiers that requests may ask for, the first one first; empty: what the parameters say.
        """
        model, base_url, _ = endpoint.real_source
        sent = {**unfolded(params), **endpoint.params} if endpoint.llm is None else request_of(endpoint.llm, params)
        asked = sent or {}
        model = asked.get("model") or model  # `extra_body` of a chat model may name another
        tier = None if asked.get("service_tier") is None else str(asked["service_tier"])
        names = tuple(each or None for each in tiers) or (tier,)
        prices = endpoint.prices or {}
        if "in" in prices:
            priced: Tiers | None = Tiers(given(prices["in"], prices["out"], prices.get("cached")))
        elif endpoint.llm is None and endpoint.base_url == OFFLINE:
            priced = Tiers(given(0, 0))
        else:
            priced = Tiers.of(model, base_url, *names)
        unpriced = "" if priced or price_of(model, base_url) is None else _unpriced_of(model, base_url, names)
        of_vectors = Tiers.of(model, base_url, *names, writes=False) if priced is None else None
        shared = json.dumps([endpoint.source, wording.text, params], sort_keys=True, default=str)
        overhead = Overhead(shared, wording.fixed_bytes, wording.differing)
        if sent is None:
            return cls(endpoint, priced, None, 0, overhead, is_request_known=False, unpriced_tier=unpriced)
        window = context_window_of(model, base_url)
        most = most_completion_tokens(asked, window)
        is_open = most is not None and most_completion_tokens(asked, None) is None
        size = len(json.dumps(asked))
        return cls(
            endpoint,
            priced,
            most,
            size,
            overhead,
            is_as_long_as_can_be=is_open,
            unpriced_tier=unpriced,
            params=asked,
            window=window,
            vision=vision_of(model),
            of_vectors=of_vectors,
        )

    @property
    def price(self) -> Price | None:
        """The price of the tier that requests ask for, or None if it is unknown."""
        return None if self.tiers is None else self.tiers.price

    @property
    def is_free(self) -> bool:
        return self.tiers is not None and not self.tiers.most(NANO, NANO)

    def on(self, terms: Terms, messages: Sequence[Message] = ()) -> Tariff:
        """Return the tariff of a row with terms of its own.

        Args:
            terms: of the row.
            messages: of the row: a completion may be of several prompts, each of which gets answers.
        """
        if terms == NO_TERMS or not self.is_request_known:
            return self
        most = 0 if terms.task is Task.EMBEDDING else self.completion_tokens
        if terms.params and most != 0:
            most = most_completion_tokens({**self.params, **terms.params}, self.window)
        if most and terms.task is Task.COMPLETION:
            most *= prompts_in(messages)
        size = len(json.dumps(dict(terms.params))) if terms.params else 0
        is_open = self.is_as_long_as_can_be and most != 0
        return self._replace(
            tiers=self.tiers or self.of_vectors if terms.task is Task.EMBEDDING else self.tiers,
            completion_tokens=most,
            params_bytes=self.params_bytes + size,
            is_as_long_as_can_be=is_open,
        )

    def in_batches(self) -> Tariff:
        """Return the tariff of requests in batches of the service.

        The endpoint's own `batch` counts first, then the price table, then `batch_share`.
        """
        own = (self.endpoint.prices or {}).get("batch")
        return self._replace(
            tiers=self.tiers and self.tiers.in_batches(own, self.batch_share),
            of_vectors=self.of_vectors and self.of_vectors.in_batches(own, self.batch_share),
        )

    def bound(self, messages: Sequence[Message]) -> Bound:
        """Return the most that a request may use and cost."""
        if self.tiers is None:
            return _UNBOUNDED
        if self.is_free:
            return Bound(cost=0)
        widest = self._widest(messages)
        prompt = None if widest is None else self.overhead.most(messages, widest)
        if prompt is None or self.completion_tokens is None:
            return Bound(prompt, self.completion_tokens)
        cost = self.tiers.most(prompt, self.completion_tokens)
        return Bound(prompt, self.completion_tokens, cost, self.tiers.most_of_answer(prompt, self.completion_tokens))

    def most(self, messages: Sequence[Message]) -> int | None:
        """Return the highest cost of a request, in nano-dollars, or None if nothing bounds it."""
        return self.bound(messages).cost

    def cost(self, completion: Completion, bound: Bound) -> int | None:
        """Return the cost of an answer, in nano-dollars, or None if it is unknown.

        If the server does not report the tokens of the prompt, or of the answer, their maximum is charged. A count of 0
        for a prompt, or for an answer with a text, counts as not reported: servers that do not count send 0.
        """
        if self.tiers is None:
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
            return self.tiers.cost(replace(usage, completion_tokens=given), completion.service_tier)
        return None if bound.prompt_tokens is None else self.tiers.most(bound.prompt_tokens, given)

    def learn(self, messages: Sequence[Message], completion: Completion) -> Iterator[Lesson]:
        """Learn from an answer what later requests may cost; yield the changes."""
        widest = None if self.tiers is None or self.is_free else self._widest(messages)
        if self.tiers is None or widest is None:
            return
        tokens = completion.usage.prompt_tokens
        before = self.overhead.most(messages, widest)
        if tokens and (state := self.overhead.learn(messages, tokens, widest)):
            now = self.overhead.most(messages, widest)
            is_news = now > before <= widest  # a bound that is wide already may widen often
            said = f"counted {tokens:,} tokens for a prompt that could have {before:,} at most"
            yield Lesson(OVERHEAD, json.dumps(state), said if is_news else "")
        if self.tiers.admit(completion.service_tier):
            state = {"source": self.endpoint.source, "tier": completion.service_tier}
            said = f"answered in the service tier {completion.service_tier!r}, which was not asked for"
            yield Lesson(TIER, json.dumps(state), said)

    def recall(self, detail: str) -> None:
        """Learn again what an earlier process learnt, if it concerns this source.

        Args:
            detail: of a lesson.
        """
        with contextlib.suppress(ValueError):  # a disk has changed it
            state = json.loads(detail)
            self.overhead.recall(state)
            match state:
                case {"source": source, "tier": str(tier)} if self.tiers and source == [*self.endpoint.source]:
                    self.tiers.admit(tier)

    @property
    def most_of_answer(self) -> int | None:
        """The highest cost of the answers to one request with any prompt, in nano-dollars."""
        if self.tiers is None or self.completion_tokens is None:
            return None
        return self.tiers.most(0, self.completion_tokens)

    def _widest(self, messages: Sequence[Message]) -> int | None:
        """Return a bound on a prompt's tokens for which nothing has to be learnt, or None if there is none."""
        return most_prompt_tokens(messages, self.params_bytes, self.vision) if self.is_request_known else None


def _unpriced_of(model: str, base_url: str, tiers: Sequence[str | None]) -> str:
    """Return the first tier for which the price table has no price; empty: it has one for each."""
    return next((tier for tier in tiers if tier is not None and price_of(model, base_url, tier) is None), "")


def tariffs_of(
    endpoints: Iterable[Endpoint],
    params: Mapping[str, Any],
    wording: Wording,
    learnt: Sequence[str] = (),
    *,
    tiers: Callable[[Endpoint], Sequence[str]] = lambda _endpoint: (),
) -> list[Tariff]:
    """Return the endpoints' tariffs; those of one source and price learn together.

    Args:
        endpoints: of the pool.
        params: the request parameters of every row.
        wording: what the prompts share.
        learnt: the details of the lessons of earlier processes.
        tiers: returns the service tiers that requests to an endpoint may ask for; default: what the parameters say.
    """
    tariffs: list[Tariff] = []
    first: dict[object, Tariff] = {}
    for endpoint in endpoints:
        names = tiers(endpoint)
        tariff = Tariff.of(endpoint, params, wording, names)
        alike = first.setdefault((endpoint.source, names, *sorted((endpoint.prices or {}).items())), tariff)
        tariffs.append(tariff._replace(tiers=alike.tiers, overhead=alike.overhead, of_vectors=alike.of_vectors))
    for tariff in first.values():
        for detail in learnt:
            tariff.recall(detail)
    return tariffs


def tariffs_by_form(
    endpoints: Sequence[Endpoint],
    params: Mapping[str, Any],
    wording: Wording,
    forms: Mapping[Any, tuple[Mapping[str, Any], str]],
    learnt: Sequence[str] = (),
    *,
    tiers: Callable[[Endpoint], Sequence[str]] = lambda _endpoint: (),
) -> dict[str, list[Tariff]]:
    """Return the endpoints' tariffs for each form of asking: a schema is a part of what a prompt costs.

    Args:
        endpoints: of the pool.
        params: the request parameters of every row.
        wording: what the prompts share.
        forms: by name, the parameters and the line that each adds to a request.
        learnt: the details of the lessons of earlier processes.
        tiers: as in `tariffs_of`.
    """
    found = {}
    for name, (further, line) in forms.items():
        in_form = wording._replace(text=f"{wording.text} {line}")
        made = tariffs_of(endpoints, {**params, **further}, in_form, learnt, tiers=tiers)
        size = len(line.encode("utf-8", "surrogatepass"))
        found[name] = [each._replace(params_bytes=each.params_bytes + size) for each in made]
    return found


def distinct(tariffs: Iterable[Tariff]) -> list[Tariff]:
    """Return tariffs of which no two have the same bounds."""
    kinds = {(id(each.overhead), id(each.tiers), each.completion_tokens, each.params_bytes): each for each in tariffs}
    return [*kinds.values()]


def is_bounded(messages: Sequence[Message], visions: Sequence[Vision] = (UNKNOWN,)) -> bool:
    """Return whether the cost of messages can be bounded in advance: audio cannot, and not all images can.

    Args:
        messages: of a row.
        visions: how the models count images.
    """
    return all(most_prompt_tokens(messages, 0, vision) is not None for vision in visions)

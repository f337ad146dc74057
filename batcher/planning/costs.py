"""What a plan's requests will cost, how far a budget goes, and how long the limits make them take.

Invariant: what is unknown is None and named; an estimate is never called a bound.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from typing import NamedTuple

from batcher.endpoint import Endpoint, by_account
from batcher.journal.reading import Reader
from batcher.money.tariff import Tariff
from batcher.records import Usage
from batcher.words import counted, dollars, duration, option

_TRIAL = 20
"""The rows that the words suggest to ask first: enough for the usual length of an answer."""


class Load(NamedTuple):
    """The requests to send.

    Attributes:
        requests: their number.
        prompt_tokens: of their prompts.
        most: their highest cost in nano-dollars; None if nothing bounds it.
        answer_tokens: of an answer, if that can be known before; else None.
    """

    requests: int
    prompt_tokens: int
    most: int | None
    answer_tokens: float | None

    @property
    def completion_tokens(self) -> int | None:
        """The model tokens of all answers."""
        return None if self.answer_tokens is None else round(self.answer_tokens * self.requests)


class Costs(NamedTuple):
    """The cost of the requests, in nano-dollars.

    Attributes:
        prompts: of their prompts; None if a price is unknown.
        all: of prompts and answers; None if a price or the length of the answers is unknown.
        most: the highest; None if nothing bounds it.
        left: the rest of the budget; None without one.
        enough_for: how many of the requests the rest covers: about, if the cost of all is known; else at least. None
            without a budget, or if nothing bounds the cost.
        missing: what is unknown, and what to do about it, in words.
    """

    prompts: int | None
    all: int | None
    most: int | None
    left: int | None
    enough_for: int | None
    missing: tuple[str, ...]

    def in_words(self, requests: int) -> str:
        if not requests:
            return "none: nothing is sent"
        if self.most == 0:
            return "none: the endpoints are free"
        parts = [*self._costs(), *self.missing]
        if self.most:
            parts.append(f"at most {dollars(self.most)}")
        return "; ".join(parts)

    def _costs(self) -> list[str]:
        if self.prompts is None:
            return []
        prompts = f"{dollars(self.prompts)} for the prompts"
        return [prompts] if self.all is None else [f"about {dollars(self.all)}, {prompts}"]

    def budget_in_words(self, requests: int, noun: str) -> str:
        """Return how far the budget goes; empty without a budget, or if nothing has to be paid.

        Args:
            requests: to be sent.
            noun: what people count: `row`, or `request` if one is sent for several rows.
        """
        if self.left is None or not requests or self.most == 0:
            return ""
        if self.left <= 0:
            return "used up"
        left = f"{dollars(self.left)} left"
        if self.most is not None and self.left * requests < self.most:
            return f"{left}, and one request may cost {dollars(self.most // requests)}"
        if self.enough_for is None:
            return left
        if self.enough_for >= requests:
            return f"{left}, enough for {f'the {noun}' if requests == 1 else f'all {requests:,} {noun}s'}"
        about = "at least" if self.all is None else "about"
        return f"{left}, enough for {about} {self.enough_for:,} of {counted(requests, noun)}"


def tokens_of_an_answer(
    journal: Reader, sources: Collection[int], tariffs: Sequence[Tariff], typical: int | None = None
) -> float | None:
    """Return the model tokens to expect of an answer, or None if they cannot be known before.

    They are the average of the answers that the same sources gave so far, or else those of a typical answer, but no
    more than an answer may have.

    Args:
        journal: holds the answers so far.
        sources: that will be asked.
        tariffs: of the pool.
        typical: model tokens of a typical answer, if labels or a schema tell.
    """
    usual = journal.usual(sources)
    tokens = typical if usual is None else usual.completion_tokens
    if tokens is None:
        return None
    bounds = [tariff.completion_tokens for tariff in tariffs if tariff.completion_tokens is not None]
    return min(tokens, max(bounds)) if len(bounds) == len(tariffs) else tokens


def costs_of(load: Load, tariffs: Sequence[Tariff], left: int | None, how_to_price: str) -> Costs:
    """Return what the requests cost if the endpoints share them evenly.

    Args:
        load: the requests.
        tariffs: of the pool.
        left: the rest of the budget, in nano-dollars, or None.
        how_to_price: the options that give a price.
    """
    if not load.requests:
        return Costs(0, 0, load.most, left, None, ())
    prompts = _cost(load, 0, tariffs)
    whole = None if load.answer_tokens is None else _cost(load, load.completion_tokens or 0, tariffs)
    is_bounded = not any(tariff.is_as_long_as_can_be for tariff in tariffs)
    by = whole or (load.most if is_bounded else None)
    enough_for = None if left is None or not by else min(max(left, 0) * load.requests // by, load.requests)
    return Costs(prompts, whole, load.most, left, enough_for, tuple(_missing(load, tariffs, how_to_price)))


def _cost(load: Load, completion_tokens: int, tariffs: Sequence[Tariff]) -> int | None:
    """Return the cost of all requests with answers of this many model tokens, or None if a price is unknown."""
    prices = [tariff.price for tariff in tariffs if tariff.price]
    if len(prices) < len(tariffs):
        return None
    one = Usage(round(load.prompt_tokens / load.requests), round(completion_tokens / load.requests))
    return round(statistics.mean(price.cost(one) for price in prices) * load.requests)


def _missing(load: Load, tariffs: Sequence[Tariff], how_to_price: str) -> list[str]:
    """Return what is unknown of the cost. Without a price that is all: nothing else can be said in dollars."""
    models = dict.fromkeys(tariff.endpoint.source[:2] for tariff in tariffs)
    unpriced = list(dict.fromkeys(tariff.endpoint.source[:2] for tariff in tariffs if tariff.price is None))
    if unpriced:
        which = "" if len(models) == 1 else f"{len(unpriced)} of {counted(len(models), 'model')}; "
        more = f" and {len(unpriced) - 1} more" if len(unpriced) > 1 else ""
        return [f"the price of {unpriced[0][0]}{more} is unknown ({which}{how_to_price})"]
    found = []
    if load.answer_tokens is None:
        trial = f" ({option('limit', _TRIAL)})" if load.requests > _TRIAL else ""
        found.append(f"answers unknown until some are there{trial}")
    if load.most is None:
        found.append(_unbounded(tariffs))
    return found


def _unbounded(tariffs: Sequence[Tariff]) -> str:
    """Return why nothing bounds the cost, although the prices are known."""
    for tariff in tariffs:
        if not tariff.is_request_known:
            return f"no bound: {type(tariff.endpoint.llm).__name__} does not show before a call what it will send"
        if tariff.completion_tokens is None:
            return f"no bound without {option('param', {'max_tokens': 'N'})}"
    return "no bound, because images or audio have none"


class Further(NamedTuple):
    """The requests to a second endpoint (`--then`).

    Attributes:
        load: one for each row that may go on to it.
        certain: rows that go on for certain, because their answers are there.
        share: of the others that are expected to go on; None if nothing tells.
    """

    load: Load
    certain: int
    share: float | None

    @property
    def expected(self) -> int | None:
        """The requests to expect; None if nothing tells."""
        rest = self.load.requests - self.certain
        if rest and self.share is None:
            return None
        return self.certain + round((self.share or 0.0) * rest)

    @property
    def kept(self) -> int | None:
        """The rows that are not expected to go on."""
        return None if self.expected is None else self.load.requests - self.expected

    def of(self, requests: int) -> Load:
        """Return some of the requests, whose prompts are as long as all of them on the average."""
        tokens = round(self.load.prompt_tokens * requests / max(self.load.requests, 1))
        return self.load._replace(requests=requests, prompt_tokens=tokens)


def with_further(costs: Costs, load: Load, further: Further, tariffs: Sequence[Tariff], how_to_price: str) -> Costs:
    """Return the costs of the first endpoints' requests, and of those to the second one.

    Args:
        costs: of the first endpoints' requests.
        load: those requests.
        further: the requests to the second one.
        tariffs: of the second endpoints.
        how_to_price: the options that give a price.
    """
    if not further.load.requests:
        return costs
    expected = further.expected
    second = costs_of(further.of(further.certain if expected is None else expected), tariffs, None, how_to_price)
    most = None if costs.most is None or further.load.most is None else costs.most + further.load.most
    prompts = None if costs.prompts is None or second.prompts is None else costs.prompts + second.prompts
    whole = None if costs.all is None or second.all is None else costs.all + second.all
    missing = [*dict.fromkeys((*costs.missing, *second.missing))]
    if expected is None:
        whole = None
        missing.append(
            f"how many rows go on to {tariffs[0].endpoint.source.model} is not known until some are answered"
        )
    requests = load.requests or further.load.requests
    by = whole or (most if costs.enough_for is not None else None)
    enough_for = None if costs.left is None or not by else min(max(costs.left, 0) * requests // by, requests)
    return Costs(prompts, whole, most, costs.left, enough_for, tuple(missing))


class Pace(NamedTuple):
    """How fast the limits let the requests leave.

    Attributes:
        seconds: that all of them take; None if an account has no limit.
        bounds: the limit of each account that holds it back most, in words; or the account that has none.
    """

    seconds: float | None
    bounds: tuple[str, ...]

    def in_words(self, requests: int) -> str:
        if not requests:
            return "none: nothing is sent"
        if self.seconds is None:
            return f"as the service allows ({self.bounds[0]})"
        return f"{duration(self.seconds)}, at {' and '.join(dict.fromkeys(self.bounds))}"


def pace_of(endpoints: Sequence[Endpoint], load: Load) -> Pace:
    """Return the pace of the requests under the accounts' limits."""
    if not load.requests:
        return Pace(0.0, ())
    tokens = (load.prompt_tokens + (load.completion_tokens or 0)) / load.requests
    counts = "" if load.answer_tokens is not None else " (prompts alone)"
    accounts = by_account(endpoints)
    rates, bounds = [], []
    for endpoint, *_ in accounts:
        limits = [
            (endpoint.rps, endpoint.rps, "request", "a second"),
            (endpoint.rpm and endpoint.rpm / 60, endpoint.rpm, "request", "a minute"),
            (endpoint.tpm and endpoint.tpm / 60 / tokens, endpoint.tpm, "model token", f"a minute{counts}"),
        ]
        rate, limit, what, time = min((each for each in limits if each[0]), default=(0.0, 0.0, "", ""))
        rates.append(rate or 0.0)
        bounds.append(
            f"{limit:,.10g} {what}{'' if limit == 1 else 's'} {time}{' for each account' if len(accounts) > 1 else ''}"
        )
    if all(rates):
        return Pace(load.requests / sum(rates), tuple(bounds))
    if not any(rates):
        return Pace(None, ("no limit is given",))
    return Pace(None, (f"{accounts[rates.index(0.0)][0].source.model} has no limit",))

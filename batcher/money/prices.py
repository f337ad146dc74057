"""The prices of model tokens, in whole nano-dollars.

Invariant: no request costs more than `Price.most` for its tokens; sums of costs are exact, because every cost is a
whole number, rounded up once per request.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from batcher.records import Usage

if TYPE_CHECKING:
    from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, PriceVariant, Provider, TieredPrices

NANO = 10**9
"""Nano-dollars in a dollar."""

# A rate is a whole number of 10^-24 dollars a token: the table and users give dollars per million tokens, with up to 17
# decimals.
_PER_TOKEN = 10**18
_PER_NANO = 10**15

_DAY_S = 86400
NORMAL_TIER = "default"
"""The service tier of the normal price, in OpenAI's words."""

# Other names of it: of Google and Anthropic, of Anthropic's requests, and of Groq.
_NORMAL_TIERS = ("standard", "standard_only", "on_demand")
# Tiers at the normal price (https://console.groq.com/docs/flex-processing).
_AT_NORMAL_PRICE = {"groq": ("flex",)}


class Rates(NamedTuple):
    """The rates for a prompt of more than `above` model tokens, in 10^-24 dollars: per token, and per request."""

    above: int
    prompt: int
    cached: int
    completion: int
    reasoning: int
    request: int = 0

    def most(self, prompt_tokens: int, completion_tokens: int) -> int:
        return (
            prompt_tokens * max(self.prompt, self.cached)
            + completion_tokens * max(self.completion, self.reasoning)
            + self.request
        )


class Period(NamedTuple):
    """The time when rates apply: from `since` (POSIX seconds) on, each day from `second` (of the UTC day) on."""

    since: float
    second: float
    tiers: tuple[Rates, ...]


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one endpoint's model tokens.

    Attributes:
        source: the origin of the numbers, for people.
        periods: in the order of time; the last one that has begun applies.
    """

    source: str
    periods: tuple[Period, ...]

    def scaled(self, share: float) -> Price:
        """Return the price times a share, above 0 to 1, of each rate. No rate is rounded down."""
        factor = Fraction(str(share))

        def rates(of: Rates) -> Rates:
            return Rates(of.above, *(math.ceil(rate * factor) for rate in of[1:]))

        periods = (each._replace(tiers=tuple(map(rates, each.tiers))) for each in self.periods)
        return Price(self.source, tuple(periods))

    def cost(self, usage: Usage, at: float | None = None) -> int:
        """Return the cost of a request, in nano-dollars, rounded up.

        Tokens read from the server's cache have their own rate, the rest of the prompt the full rate. If the provider
        charges more for tokens that it writes into its cache, the rest of the prompt counts as written, because `usage`
        does not tell: then the result is an upper bound. A prompt longer than a tier's threshold costs that tier's
        rates from its first token on.

        Args:
            usage: what the server reported.
            at: POSIX time of the answer; default: now. It matters if the price depends on the hour or the date.

        Raises:
            ValueError: the server did not report the tokens of the prompt, or of the answer.
        """
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        if prompt is None or completion is None:
            raise ValueError("the usage of a request is not known, so its cost is unknown")
        rates = _tier(self._tiers(at), prompt)
        cached = min(usage.cached_tokens, prompt)
        reasoning = min(usage.reasoning_tokens, completion)
        total = (
            (prompt - cached) * rates.prompt
            + cached * rates.cached
            + (completion - reasoning) * rates.completion
            + reasoning * rates.reasoning
            + rates.request
        )
        return -(-total // _PER_NANO)

    def most(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Return the highest cost of a request with at most these numbers of tokens, in nano-dollars.

        It holds at every hour and date from now on, without a discount for cached tokens, and in the most expensive
        tier that the prompt can reach.
        """
        reachable = self._reachable(prompt_tokens)
        return -(-max(rates.most(prompt_tokens, completion_tokens) for rates in reachable) // _PER_NANO)

    def most_of_answer(self, prompt_tokens: int, completion_tokens: int) -> int | None:
        """Return the part of `most`, in nano-dollars, that does not depend on the prompt's length.

        The rest is proportional to the prompt's length: with a share p of the prompt, a request costs at most this part
        plus p times the rest. That needs one tier and period that is the most expensive both for prompts and for
        answers, which is the case if rates do not fall with the length; otherwise the result is None.
        """
        reachable = self._reachable(prompt_tokens)
        answer = max(rates.most(0, completion_tokens) for rates in reachable)
        prompt = max(rates.most(prompt_tokens, 0) - rates.request for rates in reachable)
        if prompt + answer > max(rates.most(prompt_tokens, completion_tokens) for rates in reachable):
            return None
        return -(-answer // _PER_NANO)

    def _reachable(self, prompt_tokens: int) -> list[Rates]:
        """Return the rates that may apply to a prompt of at most this many tokens, at any time from now on."""
        return [
            rates
            for period in self.periods
            for rates in period.tiers
            if rates.above < prompt_tokens or rates is period.tiers[0]
        ]

    def _tiers(self, at: float | None) -> tuple[Rates, ...]:
        if len(self.periods) > 1:
            at = time.time() if at is None else at
            second = at % _DAY_S
            for since, from_second, tiers in reversed(self.periods):
                if since <= at and from_second <= second:
                    return tiers
        return self.periods[0].tiers


def given(price_in: float, price_out: float, cached: float | None = None) -> Price:
    """Return the price that the user gave.

    Args:
        price_in: US dollars per million prompt tokens, 0 or more.
        price_out: the same for completion tokens.
        cached: the same for prompt tokens read from the server's cache; default: `price_in`.
    """
    prompt, completion = (_rate(Decimal(str(value))) for value in (price_in, price_out))
    from_cache = prompt if cached is None else _rate(Decimal(str(cached)))
    return Price("given", (Period(0, 0, (Rates(0, prompt, from_cache, completion, completion),)),))


def price_of(
    model: str, base_url: str, service_tier: str | None = None, *, writes: bool = True, in_batch: bool = False
) -> Price | None:
    """Return the price of a model in the table that comes with genai-prices, or None if the table has none.

    The base URL decides which provider's price applies. A URL that the table does not know (a relay, the user's own
    server, a service that it leaves out) has no price for any model name: the user has to give it. A model also has no
    price if the table lacks a rate for its prompts or its answers. Images, audio and searches that are charged apart
    from tokens are not included.

    Args:
        model: as the service knows it.
        base_url: of the endpoint.
        service_tier: the request parameter of that name; `auto` counts as the normal tier, which it is unless the
            user's project says otherwise. A tier that the table does not list has no price.
        writes: it is to answer. For embeddings, a model needs no rate for answers.
        in_batch: in a batch of the service, whatever the tier. Without a rate of its own for that it has no price.

    Source: https://github.com/pydantic/genai-prices, as installed; nothing is fetched.
    """
    found = _find(model, base_url)
    if found is None:
        return None
    provider, info = found
    context, variants = None, []
    tier = normal_tier(service_tier)
    # A model that one provider takes over from another only has the other's normal price.
    is_taken_over = info not in provider.models
    if tier == "auto" and is_taken_over:
        return None
    if in_batch or tier not in {NORMAL_TIER, "auto", *_AT_NORMAL_PRICE.get(provider.id, ())}:
        context = {"processing": "batch"} if in_batch else {"service_tier": tier}
        variants = [variant for variant in info.price_variants or () if variant.when == context]
        if not variants or is_taken_over:
            return None
    periods = []
    for since, second in _beginnings(info, variants):
        moment = dt.datetime.fromtimestamp(max(since, _today()) + second, dt.UTC)
        tiers = _tiers_of(info.get_prices(moment, context), writes=writes)
        if tiers is None:
            return None
        periods.append(Period(since, second, tiers))
    return Price(f"genai-prices: {provider.id} {info.id}", tuple(periods))


def tiers_of(model: str, base_url: str) -> list[str]:
    """Return the service tiers in which the table sells a model apart from the normal one.

    Source: as `price_of`.
    """
    found = _find(model, base_url)
    variants = (found[1].price_variants or ()) if found else ()
    named = [variant.when["service_tier"] for variant in variants if set(variant.when) == {"service_tier"}]
    return [tier for tier in dict.fromkeys(named) if tier != NORMAL_TIER]


def normal_tier(service_tier: str | None) -> str:
    """Return a service tier's name; all names of the normal tier, and no name, become `NORMAL_TIER`."""
    return NORMAL_TIER if service_tier is None or service_tier in _NORMAL_TIERS else service_tier


def context_window_of(model: str, base_url: str) -> int | None:
    """Return the most model tokens that a prompt and its answer may have, or None if the table does not say.

    Source: as `price_of`.
    """
    found = _find(model, base_url)
    return found[1].context_window if found else None


def nano_dollars(amount: float) -> int:
    """Return an amount of US dollars in nano-dollars, rounded down."""
    return math.floor(Decimal(str(amount)) * NANO)


def _tier(tiers: tuple[Rates, ...], prompt_tokens: int) -> Rates:
    """Return the rates of the highest tier that a prompt reaches."""
    for rates in reversed(tiers):
        if prompt_tokens > rates.above:
            return rates
    return tiers[0]


def _find(model: str, base_url: str) -> tuple[Provider, ModelInfo] | None:
    """Find a model of the provider at a base URL."""
    parts = urlsplit(base_url)
    if not parts.hostname:
        return None
    from genai_prices.data import providers  # noqa: PLC0415 - loading the table takes 0.2 s

    url = f"https://{parts.hostname}{parts.path}"
    for provider in providers:
        # The table's patterns match the beginning of a URL; api.openai.com.relay.example is another service.
        if re.match(rf"(?:{provider.api_pattern})(?:(?<=[./])|/|$)", url):
            info = provider.find_model(model, all_providers=providers)
            if info is not None:
                return provider, info
    return None


def _today() -> float:
    return time.time() // _DAY_S * _DAY_S


def _beginnings(info: ModelInfo, variants: Sequence[PriceVariant]) -> list[tuple[float, float]]:
    """Return the times at which a model's price may change, in order: a start date, and a second of each day."""
    from genai_prices.types import StartDateConstraint, TimeOfDateConstraint  # noqa: PLC0415 - as above

    changes: list[ConditionalPrice | PriceVariant] = [*variants]
    changes += info.prices if isinstance(info.prices, list) else []
    days, seconds = {0.0}, {0.0}  # an earlier moment counts as today: past prices are not needed
    for change in changes:
        if isinstance(change.constraint, StartDateConstraint):
            day = dt.datetime.combine(change.constraint.start_date, dt.time(), dt.UTC).timestamp()
            days |= {day} if day > _today() else set()
        elif isinstance(change.constraint, TimeOfDateConstraint):
            seconds |= {_second(change.constraint.start_time), _second(change.constraint.end_time)}
    return [(day, second) for day in sorted(days) for second in sorted(seconds)]


def _second(time_of_day: dt.time) -> float:
    """Return the second of the UTC day; a time without a zone is UTC."""
    moment = dt.datetime.combine(dt.date(1970, 1, 2), time_of_day, time_of_day.tzinfo or dt.UTC)
    return moment.timestamp() % _DAY_S


def _tiers_of(prices: ModelPrice, *, writes: bool = True) -> tuple[Rates, ...] | None:
    """Return a model's rates by the length of the prompt, or None if it is not charged by text tokens."""
    from genai_prices.types import TieredPrices  # noqa: PLC0415 - as above

    if prices.input_mtok is None or (writes and prices.output_mtok is None):
        return None
    kinds = [prices.input_mtok, prices.output_mtok, prices.output_reasoning_mtok]
    kinds += [prices.cache_read_mtok, prices.cache_write_mtok]
    thresholds = {tier.start for kind in kinds if isinstance(kind, TieredPrices) for tier in kind.tiers}
    return tuple(_rates(prices, above) for above in (0, *sorted(thresholds)))


def _rates(prices: ModelPrice, above: int) -> Rates:
    def rate(kind: Decimal | TieredPrices | None, otherwise: int = 0) -> int:
        return otherwise if kind is None else _rate(_at(kind, above))

    prompt, completion = rate(prices.input_mtok), rate(prices.output_mtok)
    return Rates(
        above,
        max(prompt, rate(prices.cache_write_mtok)),
        rate(prices.cache_read_mtok, prompt),
        completion,
        rate(prices.output_reasoning_mtok, completion),
        rate(prices.requests_kcount) * 1000,  # dollars per thousand, not per million
    )


def _at(price: Decimal | TieredPrices, above: int) -> Decimal:
    """Return the price in the tier that begins above this number of prompt tokens."""
    if isinstance(price, Decimal):
        return price
    return next((tier.price for tier in reversed(price.tiers) if tier.start <= above), price.base)


def _rate(per_million: Decimal) -> int:
    """Return 10^-24 dollars a token, rounded up, for US dollars per million tokens."""
    return math.ceil(per_million * _PER_TOKEN)

"""Which service tiers the endpoints of a run are asked for (`--tier`), and what their services call them.

Invariant: a tier that a service is known not to have is refused before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from batcher.calls.services import Service, service_at
from batcher.chat_model import request_of
from batcher.endpoint import OFFLINE, Endpoint
from batcher.errors import SettingsError
from batcher.money.prices import price_of, tiers_of
from batcher.params import unfolded
from batcher.settings import TIERS, Settings
from batcher.words import as_given, blamed, option

PARAM = "service_tier"
"""The request parameter that asks for a tier."""

_NONE: Mapping[str, str] = MappingProxyType({})
_ANY = MappingProxyType({name: name for name in TIERS})
# The tiers that a service has for some of its models; the price table lists these.
_OF_MODELS = {"openai": ("flex", "priority")}


def words_at(endpoint: Endpoint) -> Mapping[str, str]:
    """Return the value of the parameter for each tier that an endpoint may be asked for; empty: it has none.

    At a base URL that batcher does not know, and at a server of the user's own, each tier is sent as it is called.
    """
    service = _service_of(endpoint)
    if endpoint.llm is not None and not _is_openai(endpoint):
        return _NONE
    if service is None or not service.base_url.startswith("https:"):
        return _ANY
    missing = {name for name in service.tiers if not _has_model(service, endpoint, name)}
    return {name: word for name, word in service.tiers.items() if name not in missing}


def own_tier(endpoint: Endpoint, settings: Settings) -> str | None:
    """Return the tier that an endpoint's requests ask for by their parameters, whatever `--tier` says."""
    sent = {**unfolded(settings.params), **endpoint.params} if endpoint.llm is None else request_of(endpoint.llm, {})
    value = (sent or {}).get(PARAM)
    return None if value is None else str(value)


class AskedIn(NamedTuple):
    """The service tiers that the requests to an endpoint ask for.

    Attributes:
        names: in the order in which they are tried; none: requests name no tier.
        words: the value of the parameter for each tier that the endpoint may be asked for; none: the requests' own
            parameters say it, or it has no tiers.
    """

    names: tuple[str, ...]
    words: Mapping[str, str]

    @property
    def values(self) -> tuple[str, ...]:
        """The values of the parameter that requests may have."""
        return tuple(self.words.get(name, name) for name in self.names)


def asked_in(endpoint: Endpoint, settings: Settings, *, is_second: bool = False) -> AskedIn:
    """Return the service tiers that the requests to an endpoint ask for.

    Args:
        endpoint: of the pool.
        settings: the options.
        is_second: it is asked only about some rows (`--then`): `--tier` is not about it, its own parameters are.
    """
    own = own_tier(endpoint, settings)
    if own is not None:
        return AskedIn((own,), _NONE)
    return AskedIn((), _NONE) if is_second else AskedIn(settings.tiers, words_at(endpoint))


def has_tier(endpoint: Endpoint, settings: Settings, tier: str) -> bool:
    """Return whether an endpoint may be asked for a tier although the user did not name it: its service has it.

    At a base URL that batcher does not know nothing is known.
    """
    is_known = _service_of(endpoint) is not None and words_at(endpoint) is not _ANY
    return is_known and own_tier(endpoint, settings) is None and tier in words_at(endpoint)


def check_tier(endpoints: Sequence[Endpoint], settings: Settings) -> None:
    """Refuse tiers that the service of an endpoint does not have.

    Args:
        endpoints: those that are asked about every row.
        settings: the options.

    Raises:
        SettingsError: the message names the endpoint, what it has, and what to do.
    """
    if not settings.tiers:
        return
    where = blamed("tier")
    for number, endpoint in enumerate(endpoints, 1):
        if own_tier(endpoint, settings) is not None:
            place = "the chat model in llm=" if endpoint.llm is not None else f"params of endpoint {number}"
            raise SettingsError(f"{where} and {PARAM} in {place} exclude each other: give one of them")
        has = words_at(endpoint)
        for name in settings.tiers:
            if name not in has:
                raise SettingsError(f"{where}: {_refusal(endpoint, name, has)}")


def _service_of(endpoint: Endpoint) -> Service | None:
    base_url = endpoint.real_source.base_url
    return None if base_url == OFFLINE else service_at(base_url)


def _is_openai(endpoint: Endpoint) -> bool:
    """Return whether a chat model speaks OpenAI's protocol, so that it sends the parameter on."""
    return "BaseChatOpenAI" in {each.__name__ for each in type(endpoint.llm).__mro__}


def _has_model(service: Service, endpoint: Endpoint, tier: str) -> bool:
    """Return whether a service may have a tier for a model: prices that the user gave say so."""
    model, base_url, _ = endpoint.real_source
    if tier not in _OF_MODELS.get(service.name, ()) or "in" in (endpoint.prices or {}):
        return True
    # A model of tomorrow is in no table.
    return tier in tiers_of(model, base_url) or price_of(model, base_url) is None


def _refusal(endpoint: Endpoint, tier: str, has: Mapping[str, str]) -> str:
    """Say that an endpoint does not have a tier, what it has, and what to do."""
    service, model = _service_of(endpoint), endpoint.real_source.model
    if endpoint.llm is not None and not _is_openai(endpoint):
        return f"{type(endpoint.llm).__name__} in llm= takes its tier as an argument of its own: leave {tier} out here"
    if service is None:  # such a URL takes any
        raise AssertionError(tier)
    anyway = option("param", {PARAM: tier})
    if not service.tiers:
        return (
            f"batcher knows no service tiers of {service.name}: leave it out, or, if it has {tier} by now, {anyway}"
            " sends that"
        )
    others = f"it has {', '.join(has)}" if has else "it has none"
    if tier in service.tiers:
        prices = f"{option('price_in')} and {option('price_out')}"
        return (
            f"{service.name} sells {model} without the tier {tier}, by the price table; {others}. If it has that by"
            f" now, give its prices ({prices})"
        )
    instead = "default" if "default" in has else next(iter(has), "default")
    return f"{service.name} has no tier {tier}; {others}. {as_given('tier', instead)} would do"

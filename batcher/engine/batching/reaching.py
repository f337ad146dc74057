"""Finds the endpoints of batches again, by what the journal has of them and by the API keys of the environment.

Invariant: a key is sent to the service whose variable holds it alone, and only to the base URL at which the batch was
made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from batcher.calls.endpoints import endpoints_of
from batcher.calls.services import AZURE, service_at
from batcher.endpoint import Endpoint
from batcher.errors import SettingsError
from batcher.records import Source
from batcher.settings import Settings
from batcher.words import as_given, blamed

OPTIONS = ("endpoints", "provider", "base_url", "api_key_env", "header", "price_in", "price_out", "price_batch")
"""The options of a run that say how its services are reached, and what they cost."""


class Asked(NamedTuple):
    """Whom a batch asks.

    Attributes:
        source: as the journal has it; a name may stand in the place of its base URL.
        base_url: its real one.
        numbers: the places in the pool of the endpoints with this source, each of which has its own API key.
    """

    source: Source
    base_url: str
    numbers: tuple[int, ...]


def asked_by(question: Mapping[str, Any], endpoint: int) -> Asked:
    """Return whom a batch asks.

    Args:
        question: as the run recorded it that made the batch.
        endpoint: the endpoint's place in the pool of that run.
    """
    pool = [Source(*each) for each in question["pool"]]
    source = pool[endpoint]
    named = dict(question.get("named", ()))
    numbers = tuple(number for number, each in enumerate(pool) if each == source)
    return Asked(source, named.get(source.base_url, source.base_url), numbers)


def endpoints_for(asked: Asked, given: Mapping[str, Any], env: Mapping[str, str]) -> list[Endpoint]:
    """Return the endpoints at which a batch may be, one for each API key, in their order.

    Args:
        asked: whom the batch asks.
        given: those of `OPTIONS` that the user gives.
        env: the variables.

    Raises:
        SettingsError: a key is missing (the message names the variable), or the options are about another service.
    """
    return _of_options(asked, given, env) if given.get("endpoints") is None else _of_file(asked, given, env)


def _of_file(asked: Asked, given: Mapping[str, Any], env: Mapping[str, str]) -> list[Endpoint]:
    """Return the endpoints of a file, or of a list, that have the source of a batch."""
    known = endpoints_of(Settings.of({name: value for name, value in given.items() if value is not None}), env)
    same = [each for each in known if each.source == asked.source]
    alike = same or [
        each
        for each in known
        if (each.real_source.model, each.real_source.base_url) == (asked.source.model, asked.base_url)
    ]
    if not alike:
        raise SettingsError(
            f"{blamed('endpoints')}: none of them is {asked.source.model} at {asked.base_url}, where a batch is: add it"
        )
    return alike


def _of_options(asked: Asked, given: Mapping[str, Any], env: Mapping[str, str]) -> list[Endpoint]:
    """Return the endpoint of a batch's model and base URL, with the keys of the environment."""
    options = {name: value for name, value in given.items() if value is not None}
    options["model"] = asked.source.model
    service = service_at(asked.base_url)
    if service is not None and service.name == AZURE:  # its base URL has more parts, which come from the environment
        options.setdefault("provider", AZURE)
    if "provider" not in options:
        options.setdefault("base_url", asked.base_url)
    found = endpoints_of(Settings.of(options), env)
    other = next((each.real_source.base_url for each in found if each.real_source.base_url != asked.base_url), None)
    if other is not None:
        name = "base_url" if "base_url" in options else "provider"
        raise SettingsError(
            f"{as_given(name, options[name])}: that is {other}, and a batch of this run is at {asked.base_url}"
        )
    own_name = asked.source.base_url if asked.source.base_url != asked.base_url else None
    return [replace(each, name=own_name) for each in found]

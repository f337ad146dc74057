"""Whom a run asks: models, base URLs, and where the API keys came from, for people and for JSON.

Invariant: it never shows a key, nor the part of a URL that may hold one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from batcher.endpoint import OFFLINE, Endpoint
from batcher.hiding import Key, public_url
from batcher.records import Asked
from batcher.words import counted

_SHOWN = 6


def asked_of(endpoints: Iterable[Endpoint]) -> tuple[Asked, ...]:
    """Return whom the endpoints ask: one item for each model at each base URL, in the order of the pool."""
    groups: dict[tuple[str, str], list[Endpoint]] = {}
    for endpoint in endpoints:
        model, base_url, _ = endpoint.real_source
        groups.setdefault((model, public_url(base_url)), []).append(endpoint)
    return tuple(_asked(model, base_url, group) for (model, base_url), group in groups.items())


def _asked(model: str, base_url: str, endpoints: Sequence[Endpoint]) -> Asked:
    """Return whom endpoints of one model at one base URL ask."""
    origins = Counter(origin for each in endpoints if (origin := _origin(each)))
    missing = dict.fromkeys(
        value.missing
        for each in endpoints
        for value in (each.api_key, *each.headers.values())
        if isinstance(value, Key) and value.missing
    )
    said = tuple(f"{counted(count, 'key')} from {origin}" for origin, count in origins.items())
    return Asked(model, base_url, origins.total(), said, tuple(missing))


def _origin(endpoint: Endpoint) -> str:
    """Return where an endpoint's key came from; empty if it has none, or it is missing."""
    in_header = None if endpoint.api_key else endpoint.key_in_headers
    key = endpoint.api_key or in_header
    if isinstance(key, Key):
        return key.origin
    if key is None:
        return ""
    return "a header" if in_header else "api_key= of the Endpoint"


def in_lines(asked: Sequence[Asked]) -> list[str]:
    """Return a line for each of the first that are asked, and one for the others."""
    lines = [_in_words(each) for each in asked[:_SHOWN]]
    return lines if len(asked) <= _SHOWN else [*lines, f"and {len(asked) - _SHOWN:,} more"]


def _in_words(asked: Asked) -> str:
    if asked.base_url == OFFLINE:
        return f"{asked.model} on the embedded server"
    where = f" at {asked.base_url}" if asked.base_url else ""
    keys = [" and ".join(asked.keys_from)] if asked.keys_from else []
    return ", ".join([f"{asked.model}{where}", *((*keys, *asked.missing) or ["no key"])])

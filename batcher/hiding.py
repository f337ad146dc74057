"""Finds secrets, hides them in texts, and removes them from URLs.

Invariant: a text that is too short for a key is never hidden, because it may be part of any other text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import parse_qsl, urlsplit

SHORTEST = 8
"""The fewest characters of a secret. Placeholders for a key ("0", "EMPTY") are shorter."""

SHORTEST_WORD = 16
"""The fewest characters of a secret that has only letters: local servers accept any word as a key ("placeholder")."""

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASS|AUTH|CREDENTIAL", re.IGNORECASE)


class Secret(str):
    """A text that its `repr` does not show, such as a SecretStr's or an environment variable's."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'...'"


_USER = re.compile(r"(?<=://)[^/?#@\s]*@")


def secrets_among(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts that are long enough to be secrets; the longest first, so that none is cut by a part of it."""
    return tuple(sorted(filter(_may_be_secret, set(texts)), key=lambda text: (-len(text), text)))


def _may_be_secret(text: str) -> bool:
    return len(text) >= (SHORTEST_WORD if text.isalpha() else SHORTEST)


def secrets_in(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return what may be a secret in environment variables, by their names; a list has commas between its keys."""
    values = [value for name, value in variables.items() if _SECRET_NAME.search(name)]
    parts = [part.strip() for value in values for part in value.split(",")]
    return secrets_among([*values, *parts, *(each for value in variables.values() for each in user_of(value))])


def shown(text: str) -> str:
    """Return a text of the user's for a message; one that looks like a key, given in the wrong place, is not shown."""
    looks_like_a_key = bool(secrets_among([text])) and re.fullmatch(r"[\w-]+", text)
    return "(not shown: it looks like an API key)" if looks_like_a_key else repr(text)


def hide(text: str, secrets: Sequence[str]) -> str:
    """Replace each secret with `[API key]`."""
    for secret in secrets:
        text = text.replace(secret, "[API key]")
    return text


def without_user(text: str) -> str:
    """Return a text with user and password removed from its URLs."""
    return _USER.sub("", text)


def public_url(url: str) -> str:
    """Return a URL without user, password, query and fragment, each of which may be a key."""
    return re.split(r"[?#]", without_user(url), maxsplit=1)[0]


def user_of(url: str) -> tuple[str, ...]:
    """Return the user part of a URL: user, password, and both as they are written; empty if it has none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ()
    whole, at, _ = parts.netloc.rpartition("@")
    return (whole, *whole.split(":", 1)) if at else ()


def query_of(url: str) -> list[tuple[str, str]]:
    """Return the parameters in the query of a URL."""
    try:
        return parse_qsl(urlsplit(url).query) if "://" in url else []
    except ValueError:
        return []

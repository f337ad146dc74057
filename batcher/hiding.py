"""What must not be shown: which texts are secrets, and URLs without those that they carry.

Invariant: what is too short to be a secret is none, so that hiding never spoils an ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qsl, urlsplit

SHORTEST = 8
"""Characters of a secret at least. What stands for no key ("0", "EMPTY") is shorter, and part of many other texts."""

SHORTEST_WORD = 16
"""The same of a secret of letters alone: servers of one's own take any word for a key ("anything", "placeholder")."""

_USER = re.compile(r"(?<=://)[^/?#@\s]*@")


def secrets_among(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts that are long enough to be secrets; the longest first, so that none is cut by a part of it."""
    return tuple(sorted(filter(_may_be_secret, set(texts)), key=lambda text: (-len(text), text)))


def _may_be_secret(text: str) -> bool:
    return len(text) >= (SHORTEST_WORD if text.isalpha() else SHORTEST)


def hide(text: str, secrets: Sequence[str]) -> str:
    """Put `[API key]` in the place of each secret."""
    for secret in secrets:
        text = text.replace(secret, "[API key]")
    return text


def without_user(text: str) -> str:
    """Return a text whose URLs have lost user and password."""
    return _USER.sub("", text)


def public_url(url: str) -> str:
    """Return a URL without user, password, query and fragment, each of which may be a key."""
    return re.split(r"[?#]", without_user(url), maxsplit=1)[0]


def user_of(url: str) -> tuple[str, ...]:
    """Return what the user part of a URL holds: user, password and the whole of it; nothing where there is none."""
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

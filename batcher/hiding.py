"""Finds secrets, hides them in texts, and removes them from URLs.

Invariant: a text that is too short for a key, or is a word, is never hidden as a part of another word.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

SHORTEST = 8
"""The fewest characters of a secret. Placeholders for a key ("0", "EMPTY") are shorter."""

SHORTEST_WORD = 16
"""The fewest characters of a secret that has only letters: local servers accept any word as a key ("placeholder")."""

_KEY_NAME = re.compile(
    r"\w*api_?keys?|(?:\w*(?:access|auth|secret)_)?(?:keys?|tokens?)|api_tokens?|secrets?|passwords?|bearer|auth",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASS|AUTH|CREDENTIAL", re.IGNORECASE)


class Secret(str):
    """A text that its `repr` does not show, such as a SecretStr's or an environment variable's."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'...'"


class Key(Secret):
    """An API key, or a header's value, that was read from a variable.

    Attributes:
        origin: the variable and where it is set, as in `API_KEY in .env`; empty if it is not set.
        missing: what to set, if the variable is not set: then this text only stands for the key.
    """

    origin: str
    missing: str

    def __new__(cls, text: str, origin: str = "", missing: str = "") -> Self:
        made = super().__new__(cls, text)
        made.origin, made.missing = origin, missing
        return made


_HIDDEN = "[API key]"
_USER = re.compile(r"(?<=://)[^/?#\s]*@")
# A text of words and numbers: an answer may hold it by chance, unless it is longer than the words of any language.
_ORDINARY = re.compile(r"(?!sk-)(?:[A-Z]?[a-z]+|[A-Z]+|\d+)(?:[-_. ](?:[A-Z]?[a-z]+|[A-Z]+|\d+))*")
_LONGEST_ORDINARY = 23
# What services put before their keys; a JSON web token; the value of a header.
_KEY = re.compile(
    r"sk[-_](?=[\w-]*\d)[\w-]{4,}|(?:sk|gsk|csk|xai|hf|r8|pplx|nvapi|fw|tgp_v1|ghp|github_pat)[-_][\w-]{8,}"
    r"|AIza[\w-]{20,}|AKIA\w{12,}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|[0-9a-f]{32}\.\w{16}|bce-v3/\S{8,}|Bearer \S{8,}"
)


def secrets_among(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts that are long enough to be secrets; the longest first, so that none is cut by a part of it."""
    return longest_first(filter(_may_be_secret, texts))


def _may_be_secret(text: str) -> bool:
    return len(text) >= (SHORTEST_WORD if text.isalpha() else SHORTEST)


def longest_first(secrets: Iterable[str]) -> tuple[str, ...]:
    """Return secrets in the order in which `hide` needs them, each once."""
    return tuple(sorted(set(secrets), key=lambda text: (-len(text), text)))


def unmistakable(secrets: Iterable[str]) -> list[str]:
    """Return the secrets that no answer holds by chance: neither short nor made of words and numbers ("lm-studio")."""
    return [
        each
        for each in secrets
        if _may_be_secret(each) and (len(each) > _LONGEST_ORDINARY or not _ORDINARY.fullmatch(each))
    ]


def secrets_in(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return what may be a secret in environment variables, by their names; a list has commas between its keys."""
    values = [value for name, value in variables.items() if _SECRET_NAME.search(name)]
    parts = [part.strip() for value in values for part in value.split(",")]
    users = [each for value in variables.values() for each in credentials_of(value)]
    proxies = [value for name, value in variables.items() if name.lower().endswith("_proxy")]
    theirs = [each for value in proxies for each in credentials_of_proxy(value)]
    return longest_first([*secrets_among([*values, *parts, *users]), *theirs])


def holds_secret(name: str, value: str) -> bool:
    """Return whether an environment variable may hold a secret, by its name or a URL's password in its value."""
    return bool(_SECRET_NAME.search(name)) or bool(credentials_of(value))


def shown(text: str) -> str:
    """Return a text of the user's for a message; one that looks like a key, given in the wrong place, is not shown."""
    may_be_a_key = bool(secrets_among([text])) and re.fullmatch(r"[\w-]+", text)
    return "(not shown: it looks like an API key)" if may_be_a_key else repr(text)


def names_key(name: str) -> bool:
    """Return whether an option or a parameter of this name would take an API key."""
    return bool(_KEY_NAME.fullmatch(name))


def looks_like_key(text: str) -> bool:
    """Return whether a text can hardly be anything but an API key, by the form that services give to theirs."""
    return bool(_KEY.fullmatch(text.strip()))


def holds_key(text: str) -> bool:
    """Return whether a text has a part that can hardly be anything but an API key."""
    return bool(_KEY.search(text))


def hide(text: str, secrets: Sequence[str]) -> str:
    """Replace each secret with `[API key]`; one that is short or a word only if it stands alone.

    Args:
        text: any.
        secrets: the longest first.
    """
    parts = [text]  # joined at the end: a secret such as "key" is not sought in what stands for another one
    for secret in secrets:
        if _may_be_secret(secret):
            parts = [piece for part in parts for piece in part.split(secret)]
        elif any(secret in part for part in parts):
            alone = re.compile(rf"(?<![\w/-]){re.escape(secret)}(?![\w/-])")
            parts = [piece for part in parts for piece in alone.split(part)]
    return _HIDDEN.join(parts)


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


def credentials_of(url: str) -> tuple[str, ...]:
    """Return user and password of a URL in every form in which they travel: as written, decoded, in a Basic header."""
    user = user_of(url)
    if not user:
        return ()
    return longest_first(filter(None, [*user, *map(unquote, user), basic_of(user[0])]))


def credentials_of_proxy(proxy: str) -> tuple[str, ...]:
    """Return user and password of a proxy, as `credentials_of`; its URL may lack the scheme."""
    return credentials_of(proxy if "://" in proxy else f"http://{proxy}")


def basic_of(user: str) -> str:
    """Return the user part of a URL as HTTP clients send it: decoded, and in Base64 (RFC 7617)."""
    pair = unquote(user) if ":" in user else f"{unquote(user)}:"
    return base64.b64encode(pair.encode("utf-8", "surrogateescape")).decode()


def query_of(url: str) -> list[tuple[str, str]]:
    """Return the parameters in the query of a URL."""
    try:
        return parse_qsl(urlsplit(url).query) if "://" in url else []
    except ValueError:
        return []

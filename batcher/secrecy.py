"""What is secret, and what stands in its place.

Invariant: here alone is decided which strings are secrets; what is none is left in every text as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_SHORTEST = 8


def secrets_of(keys: Iterable[str | None]) -> tuple[str, ...]:
    """Return those of the API keys that no text may show.

    Servers of one's own take any key: "0", "EMPTY", "anything". Such a word is no secret, and to replace it would
    change every text that it happens to stand in.
    """
    return tuple(key for key in keys if key and len(key) >= _SHORTEST and not key.isalpha())


def hide(text: str, secrets: Sequence[str]) -> str:
    """Put `[API key]` in the place of each secret."""
    for secret in secrets:
        text = text.replace(secret, "[API key]")
    return text

"""Which JSON values are the same to a service.

Invariant: two values have the same `plain` form exactly if they differ only in how equal numbers are written.
"""

from __future__ import annotations

import json
from typing import Any


def plain(value: Any) -> Any:
    """Return a value of JSON in which each whole number is an `int`: 0, 0.0, -0.0 and 0e0 are one number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def same(one: Any, other: Any) -> bool:
    """Return whether two values of JSON are the same; to Python, but not to JSON, `True` equals 1."""
    return written(one) == written(other)


def written(value: Any) -> str:
    """Return a value's plain form as text, with the names of objects in order."""
    return json.dumps(plain(value), sort_keys=True, ensure_ascii=False)


def rewritten(text: str) -> str:
    """Return a text of JSON with its value in the plain form; any other text as it is."""
    try:
        return written(json.loads(text))
    except (ValueError, TypeError, RecursionError):  # a disk may have changed a recorded one
        return text


def same_text(one: str, other: str) -> bool:
    """Return whether two texts are equal, or are JSON of the same value."""
    return one == other or rewritten(one) == rewritten(other)

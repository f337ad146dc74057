"""The kinds of values in answer columns, for files that have types (Parquet).

Invariant: a text that `plain` returned is what `text_of` makes of `value_of` it: a cell of a row has one text, from the
journal and from the file.
"""

from __future__ import annotations

import json
import math
from enum import Enum
from typing import Any

from batcher.answer.vectors import packed

_INT64 = 2**63


class Kind(Enum):
    """What a column holds."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    VECTOR = "vector"
    """A list of 32-bit floats; its text is that of `batcher.answer.vectors`."""


def value_of(kind: Kind, text: str) -> str | float | bool | None:
    """Return the value of a column for the text of a cell; None if it is empty, or the column cannot hold it.

    A vector stays a text: columns of vectors are made all at once.
    """
    if kind in {Kind.TEXT, Kind.VECTOR} or not text:
        return text or None
    if kind is Kind.BOOLEAN:
        return {"true": True, "false": False}.get(text.lower())
    try:
        return _number(kind, json.loads(text))
    except (ValueError, OverflowError):
        return None


def _number(kind: Kind, number: Any) -> float | None:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    if kind is Kind.NUMBER:
        return float(number) if math.isfinite(number) else None
    return int(number) if number == int(number) and -_INT64 <= number < _INT64 else None


def text_of(kind: Kind, value: object) -> str:
    """Return the text of a cell with a value; programs may have made 3.0 of 3."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    if kind is Kind.VECTOR and isinstance(value, list):
        return packed(value) or ""
    if kind is Kind.INTEGER and isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False, default=str)


def plain(kind: Kind, text: str) -> str:
    """Return the text that a column has for the text of a cell."""
    return text if kind in {Kind.TEXT, Kind.VECTOR} else text_of(kind, value_of(kind, text))

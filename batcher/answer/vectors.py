"""The vector of an embedding as text: its numbers as little-endian 32-bit floats, in base64 (RFC 4648).

Invariant: a text that `packed` made has the numbers that came, rounded to 32 bits, and reads as these numbers alone.
"""

from __future__ import annotations

import base64
import binascii
import math
import sys
from array import array
from collections.abc import Sequence
from typing import Any

_BYTES = 4  # of a number
_NUMBERS = {int, float}


def packed(numbers: Sequence[Any]) -> str | None:
    """Return a vector as text; None if it is empty, or something in it is no finite number of 32 bits."""
    if not numbers or not {*map(type, numbers)} <= _NUMBERS:
        return None
    try:
        vector = array("f", numbers)
    except OverflowError:  # a whole number that no float can hold
        return None
    if not math.isfinite(sum(vector)):  # 32-bit floats cannot overflow the sum
        return None
    return text_of(_little_endian(vector).tobytes())


def repacked(text: str) -> str | None:
    """Return a vector that came in base64 as the same text that its numbers have; None if it is not one."""
    numbers = unpacked(text)
    return None if numbers is None else packed(numbers.tolist())


def unpacked(text: str) -> array[float] | None:
    """Return the numbers of a vector; None if the text is not one."""
    raw = bytes_of(text)
    if raw is None:
        return None
    vector = array("f")
    vector.frombytes(raw)
    return _little_endian(vector)


def bytes_of(text: str) -> bytes | None:
    """Return the numbers of a vector as little-endian 32-bit floats; None if the text is not one."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if raw and len(raw) % _BYTES == 0 else None


def text_of(raw: bytes) -> str:
    """Return a vector, given as little-endian 32-bit floats, as text."""
    return base64.b64encode(raw).decode()


def _little_endian(vector: array[float]) -> array[float]:
    if sys.byteorder == "big":
        vector.byteswap()
    return vector

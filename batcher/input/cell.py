"""Writes a value of a table as text, for a prompt or a CSV cell.

Invariant: text stays exactly as it is, and equal values always give the same text.
"""

from __future__ import annotations

import json
import math
import re
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from batcher.errors import InputError, in_words
from batcher.nesting import TOO_DEEP, is_too_deep

if TYPE_CHECKING:
    import numpy as np

# Characters that UTF-8 files cannot hold, or few CSV readers accept; the journal keeps the original text.
_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")


def writable(text: str) -> str:
    """Return a text in the form that a file can hold."""
    if text.isascii() and "\0" not in text:  # seven times faster
        return text
    return _UNWRITABLE.sub("\ufffd", text)


def cell(value: object) -> str:
    r"""Write a value as text, for a prompt or a CSV cell.

    Text stays as it is; a missing value (None, NaN, NaT, pandas.NA) is empty; lists, dictionaries, sets (sorted) and
    arrays become JSON, bytes the text they encode (`\xff` if they are not UTF-8), NumPy scalars their Python value (of
    16 or 32 bits the shortest one, 0.1); other values are converted by `str`.

    Raises:
        InputError: it cannot be converted: its own code failed, or it is too large or too deep.
    """
    if type(value) is str:
        return value
    if value is None:
        return ""
    try:
        return _text_of(value)
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a user's own type may raise anything
        kind = type(value).__name__
        raise InputError(f"a value of type {kind} cannot be written as text: {in_words(error)}") from error


def _text_of(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else float.__repr__(value)
    if isinstance(value, int):
        return str(value)
    return _rare_cell(value)


def _rare_cell(value: object) -> str:
    plain = _without_numpy(value)
    if plain is not value:
        return cell(plain)
    if _is_missing(value):
        return ""
    if isinstance(value, str):
        return str.__str__(value)  # a subclass may define another `__str__`
    if isinstance(value, list | tuple | dict | set | frozenset):
        return _json_cell(value)
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def _json_cell(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=_json_part)
    except (TypeError, ValueError):  # keys that JSON does not allow, such as dates, or a list that contains itself
        return str(value)
    if is_too_deep(text):
        raise InputError(f"a value of type {type(value).__name__} cannot be written as text: {TOO_DEEP}")
    if "NaN" in text or "Infinity" in text:  # Python writes them as words that JSON does not allow
        return json.dumps(json.loads(text, parse_constant=lambda _: None), ensure_ascii=False)
    return text


def _json_part(value: object) -> object:
    plain = _without_numpy(value)
    if plain is not value:
        return plain
    if isinstance(value, set | frozenset):
        return sorted(value, key=cell)  # a set's order differs between processes
    return None if _is_missing(value) else cell(value)


def _is_missing(value: object) -> bool:
    """Return whether it is pandas.NA, NaT or a decimal NaN."""
    if isinstance(value, Decimal):
        return value.is_nan()
    pandas = sys.modules.get("pandas")  # its values cannot be here before it is loaded
    return pandas is not None and (value is pandas.NA or value is pandas.NaT)


def _without_numpy(value: object) -> object:
    """Return the Python value of a NumPy scalar, a list for an array, and anything else itself."""
    numpy = sys.modules.get("numpy")  # its values cannot be here before it is loaded
    if numpy is None or not isinstance(value, numpy.ndarray | numpy.generic):
        return value
    if isinstance(value, numpy.ndarray):
        return list(value) if value.ndim else value[()]
    if isinstance(value, numpy.datetime64 | numpy.timedelta64):  # item() would make an integer of nanoseconds
        return None if numpy.isnat(value) else str(value)
    if isinstance(value, numpy.float32 | numpy.float16):
        return shortest(value)
    item: object = value.item()
    return str(item) if isinstance(item, numpy.generic) else item  # long doubles have no Python value


def shortest(number: np.floating[Any]) -> float:
    """Return the shortest number that reads back as a number of 16 or 32 bits: 0.1, not 0.10000000149011612.

    A whole number stays as it is: 71358912 would be 71358910.
    """
    import numpy as np  # noqa: PLC0415 - whoever has such a number has loaded it

    exact = float(number)
    return exact if is_whole(exact) else float(np.format_float_scientific(number))


def is_whole(number: float) -> bool:
    """Return whether it is a whole number that is written with all its digits."""
    return -1e16 < number < 1e16 and number.is_integer()

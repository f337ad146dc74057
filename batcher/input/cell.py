"""Writes a value of a table as text, for a prompt or a CSV cell.

Invariant: text stays exactly as it is, and equal values always give the same text.
"""

from __future__ import annotations

import json
import math
import re

from batcher.errors import InputError, in_words
from batcher.nesting import TOO_DEEP, is_too_deep
from batcher.scalars import is_missing, without_numpy

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
    plain = without_numpy(value)
    if plain is not value:
        return cell(plain)
    if is_missing(value):
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
    plain = without_numpy(value)
    if plain is not value:
        return plain
    if isinstance(value, set | frozenset):
        return sorted(value, key=cell)  # a set's order differs between processes
    return None if is_missing(value) else cell(value)

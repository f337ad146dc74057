"""Checks of the values that a user gives: one for each kind of value.

Invariant: a check returns nothing, or raises a `SettingsError` that begins with the given name of the value.
"""

from __future__ import annotations

import codecs
import difflib
import os
import re
from collections.abc import Mapping
from encodings import aliases
from pathlib import Path

from batcher.errors import SettingsError
from batcher.hiding import looks_like_key
from batcher.visible import holds_controls
from batcher.words import escape_hint, option

# The least and the most of a number: a value beyond them is a slip, and sums or clocks cannot hold it.
_LEAST, _MOST = 1e-6, 10**9
_NAME_BYTES = 255  # of a file or a directory
_LONGEST_SHOWN = 40  # characters of a value in a message
_KEYS_COME_FROM = "API keys come from API_KEY in the environment or .env"
_HIGHEST_PRICE = 1e6  # dollars per million tokens: a higher price is in the wrong unit

# Headers that batcher sends itself, or that HTTP needs to frame a request.
OWN_HEADERS = {"accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host"}
OWN_HEADERS |= {"keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding"}
OWN_HEADERS |= {"upgrade", "x-request-id"}

# Windows refuses these as file names, whatever their ending.
_DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(1, 10)),
}
# A file name may have 255 bytes; `journal_`, `.sqlite-wal` and a temporary file's ending need room.
_KEYWORD_BYTES = 200


def check_number(value: object, where: str) -> None:
    _check_above_0(value, where, "number", (int, float), _LEAST)


def check_duration(value: object, where: str) -> None:
    """Refuse what is no number of seconds; 0 is one."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= _MOST:
        raise SettingsError(f"{where} must be a number of seconds, 0 or more, not {_short(value)}")


def check_count(value: object, where: str) -> None:
    """Refuse what is no whole number, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SettingsError(f"{where} must be a whole number, 0 or more, not {value!r}")


def check_whole(value: object, where: str) -> None:
    _check_above_0(value, where, "whole number", (int,), 1)


def _check_above_0(value: object, where: str, what: str, kinds: tuple[type[int | float], ...], least: float) -> None:
    if not isinstance(value, kinds) or isinstance(value, bool) or not value >= least:
        limit = f"of at least {least:f}" if isinstance(value, float) and 0 < value < least else "above 0"
        raise SettingsError(f"{where} must be a {what} {limit}, not {_short(value)}")
    if value > _MOST:
        raise SettingsError(f"{where} must be a {what} of at most {_MOST:,}, not {_short(value)}")


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."


def check_directory(value: object, where: str) -> None:
    """Refuse what no directory can be called."""
    if not isinstance(value, (str, os.PathLike)):
        raise SettingsError(f"{where} cannot be of type {type(value).__name__}")
    path = os.fspath(value)
    if not path or "\0" in path:
        raise SettingsError(f"{where} must be the path of a directory, not {path!r}")
    if holds_controls(path):
        raise SettingsError(f"{where} must be the path of a directory, not {path!r}{escape_hint(path)}")
    try:
        too_long = [name for name in Path(path).parts if len(os.fsencode(name)) > _NAME_BYTES]
    except UnicodeEncodeError:
        raise SettingsError(f"{where} holds characters that no file system takes: {path!r}") from None
    if too_long:
        raise SettingsError(f"{where} holds a name of more than {_NAME_BYTES} bytes: {too_long[0]:.40}...")


def check_text(value: object, where: str) -> None:
    if not (isinstance(value, str) and value.strip()):
        shown = repr(value) if isinstance(value, str) else f"of type {type(value).__name__}"
        raise SettingsError(f"{where} must be a text that is not empty; it is {shown}")


def check_encoding(value: object, where: str) -> None:
    """Refuse what does not name an encoding of text that Python knows."""
    check_text(value, where)
    name = str(value)
    try:
        b" ".decode(name, "replace")
        codecs.getincrementaldecoder(name)
    except (LookupError, ValueError):
        known = difflib.get_close_matches(name.lower().replace("-", "_"), sorted(set(aliases.aliases.values())), n=1)
        advice = f"did you mean {known[0].replace('_', '-')}?" if known else "gb18030, cp1252 and utf-16 are examples"
        raise SettingsError(f"{where}: there is no encoding {_short(value)}: {advice}") from None


TAB_WORDS = ("tab", "\\t")
"""How a tab may be written where a shell makes it hard to give."""


def check_separator(value: object, where: str) -> None:
    """Refuse what cannot separate the columns of a CSV file."""
    check = value if isinstance(value, str) else ""
    if check in TAB_WORDS:
        return
    if len(check) != 1 or check.isalnum() or check in ' "\r\n':
        raise SettingsError(f"{where} must be one character, such as ; or |, or tab, not {_short(value)}")


def check_model(value: object, where: str) -> None:
    """Refuse what cannot be a model's name; an API key in its place is not shown."""
    check_text(value, where)
    if isinstance(value, str) and looks_like_key(value):
        raise SettingsError(f"{where} looks like an API key, and is not shown: {_KEYS_COME_FROM}")


def check_price(value: object, where: str) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= _HIGHEST_PRICE:
        raise SettingsError(f"{where} must be dollars per million tokens, 0 or more, not {value!r}")


def check_share(value: object, where: str) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= 1:
        raise SettingsError(
            f"{where} must be what a batch costs as a share of the price, above 0 to 1 (0.5: half of it), not {value!r}"
        )


def check_variable(name: str, where: str) -> None:
    """Refuse a text that cannot name a variable, without showing it: it may be an API key."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise SettingsError(f"{where} must be the name of a variable, such as OPENAI_API_KEY, not the key itself")


def check_key(key: object, where: str) -> None:
    if isinstance(key, (list, tuple)) or (isinstance(key, str) and "," in key):
        advice = "make one Endpoint for each, or list them in API_KEY, separated by commas"
        raise SettingsError(f"{where} holds several keys: {advice}")
    if isinstance(key, str) and len(key) > 1 and key[0] == key[-1] and key[0] in "\"'`":
        raise SettingsError(f"{where} has quotation marks around it, as Docker and some shells leave them: remove them")
    if not isinstance(key, str) or not (key.isascii() and key.isprintable()) or " " in key:
        raise SettingsError(f"{where} is not a string, or holds a space or a character that is not allowed in a header")


def check_headers(headers: object, where: str, key_header: str) -> None:
    """Refuse headers that cannot be sent; no value is shown.

    Args:
        headers: the headers, by name. A value may be `env:NAME`.
        where: their name in messages.
        key_header: the header in which the API key goes to this base URL.
    """
    if not isinstance(headers, Mapping) or not all(isinstance(text, str) for pair in headers.items() for text in pair):
        raise SettingsError(f"{where} must hold texts by name, as in {{'X-Team': 'labels', 'X-Key': 'env:TEAM_KEY'}}")
    seen: set[str] = set()
    for name, value in headers.items():
        what = f"{where}: {name!r}"
        if ":" in name:  # "Authorization: Bearer sk-..." in one text
            raise SettingsError(f"{where}: the name of a header holds a colon: give name and value apart")
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise SettingsError(f"{what} cannot be the name of a header")
        if name.lower() in seen:
            raise SettingsError(f"{what} is given twice; case does not matter in the names of headers")
        seen.add(name.lower())
        if name.lower() in OWN_HEADERS:
            raise SettingsError(f"{what} is set by batcher itself: leave it out")
        if name.lower() == "authorization" == key_header.lower():
            raise SettingsError(
                f"{what} carries the API key: give that through api_key or {option('api_key_env')} instead"
            )
        if not value.strip() or value != value.strip() or not (value.isascii() and value.isprintable()):
            raise SettingsError(
                f"{what} has a value that is empty or holds a character that is not allowed in a header"
            )
        if value.startswith("env:"):
            check_variable(value.removeprefix("env:"), f"{what}, after env:,")


def check_file_name(name: str, where: str) -> None:
    """Refuse a name that is not a safe part of a file name on every system."""
    reason = None
    if not name.strip():
        reason = "it is empty"
    elif name.startswith("."):
        reason = "it starts with a dot"
    elif bad := sorted({char for char in name if char in '/\\:*?"<>|' or not char.isprintable()}):
        reason = f"it holds {' '.join(map(repr, bad))}"
    elif name[-1] in ". ":
        reason = "it ends with a dot or a space"
    elif name.partition(".")[0].lower() in _DEVICES:
        reason = "the name is reserved on Windows"
    elif len(name.encode("utf-8", "replace")) > _KEYWORD_BYTES:
        reason = f"it is longer than {_KEYWORD_BYTES} bytes"
    if reason:
        raise SettingsError(f"{where} {name!r} cannot be part of a file name: {reason}; choose another")

"""Parses the JSON of servers, and shows their texts.

Invariant: nothing here raises, for any bytes; a text that is shown is one printable line without API key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from batcher.hiding import hide

LONGEST_MESSAGE = 500
LONGEST_CODE = 80
LONGEST_NUMBER = 40
"""The digits of a number that is shown; Python refuses to read or write more than 4,300."""

MOST_PARTS = 2_000_000
"""The most objects, lists and items of JSON. More take seconds to parse, in which the loop is blocked, and gigabytes,
25 times the JSON itself. An answer of 11,000 tokens with 20 `top_logprobs` each has as many parts."""


_SHORTEST_DATA = 64
# The base64 of a data URL; the beginning, without the data itself, is its first group.
_DATA = re.compile(rf"(data:[\w/+.;=-]*,)[A-Za-z0-9+/=_-]{{{_SHORTEST_DATA},}}")


def without_data(text: str) -> str:
    """Return a text without the data of data URLs, such as those of images: servers repeat them in refusals."""
    return _DATA.sub(r"\1...", text) if "data:" in text else text


def shown_parts(parts: Sequence[Any]) -> str:
    """Return the parts of a message as JSON, without the data of data URLs."""
    return json.dumps([_without_url(part) for part in parts])


def _without_url(part: Any) -> Any:
    match part:
        case {"type": "image_url", "image_url": {"url": str(url)} as image} if len(url) > _SHORTEST_DATA:
            beginning, comma, _ = url[: 2 * _SHORTEST_DATA].partition(",")
            if beginning.startswith("data:") and comma:
                return {**part, "image_url": {**image, "url": f"{beginning},..."}}
    return part


def one_line(text: str, secrets: Sequence[str] = (), longest: int = LONGEST_MESSAGE) -> str:
    """Replace what is not printable, and cut a long text; hide the secrets first, so that none is cut."""
    text = without_data(hide(text, secrets)).strip()
    head = text[: 10 * longest]  # a page of HTML may be large
    folded = " ".join("".join(char if char.isprintable() else " " for char in head).split())
    return folded if len(folded) <= longest and len(head) == len(text) else f"{folded[:longest]} ..."


def has_too_many_parts(raw: bytes) -> bool:
    """Count what begins a part, inside strings too: a text with that many commas is not an answer either."""
    return len(raw) > MOST_PARTS and sum(map(raw.count, (b"{", b"[", b","))) > MOST_PARTS


def json_in(raw: bytes | str) -> Any:
    """Parse JSON; return None if it is not valid or has too many parts."""
    if has_too_many_parts(raw.encode("utf-8", "replace") if isinstance(raw, str) else raw):
        return None
    try:
        text = raw if isinstance(raw, str) else raw.decode(json.detect_encoding(raw), "surrogatepass")
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def json_of(value: object) -> str:
    """Write a value that came as JSON as JSON again."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:  # it was just shallow enough to be read
        return ""


def _whole(digits: str) -> float:
    """Read a whole number; a number too long for Python's `int` becomes a float, so that it does not cost an answer."""
    return int(digits) if len(digits) <= 10 * LONGEST_NUMBER else float(digits)


# Made once: that takes as long as to read a short answer.
_DECODER = json.JSONDecoder(parse_int=_whole)

"""Finds the places of a label in a text, also if it is spelled in a slightly different way.

Invariant: a place holds the label and nothing else, and no part of a longer word.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence

from batcher.answer.spelling import is_written_without_blanks

_MOST = 20  # places that are looked at
_LONGEST = 20_000  # characters of a text that is searched
_GAP = r"[\s_'\-./]{1,3}"  # `card_arrival`, `card arrival`, `Card-Arrival`


def places_of(names: Sequence[str], text: str) -> list[tuple[int, int]]:
    """Return where a text holds one of these names, in order, and without overlaps."""
    if len(text) > _LONGEST:
        return []
    found = (each for name in names for each in _pattern(name).finditer(text))
    places: list[tuple[int, int]] = []
    for start, end in sorted({each.span() for each in found}, key=lambda place: (place[0], -place[1])):
        if not places or start >= places[-1][1]:
            places.append((start, end))
    return places[:_MOST]


@functools.lru_cache(1000)
def _pattern(name: str) -> re.Pattern[str]:
    name = name.strip()
    words = re.split(_GAP, name)
    spelled = [_GAP.join(map(re.escape, words)) if all(words) else re.escape(name)]
    if not name.isascii():
        spelled.append(re.escape(json.dumps(name)[1:-1]))  # `\u6b63`, in JSON
    before = r"(?<![^\W_])" if _is_of_a_word(name[:1]) else ""
    after = r"(?![^\W_])" if _is_of_a_word(name[-1:]) else ""
    return re.compile(f"{before}(?:{'|'.join(spelled)}){after}", re.IGNORECASE)


def _is_of_a_word(char: str) -> bool:
    """Return whether a character at the end of a name is part of a word that blanks part from others."""
    return char.isalnum() and not is_written_without_blanks(ord(char))

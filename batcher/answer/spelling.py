"""The words of a text as labels are compared: without case, punctuation and marks of Markdown.

Invariant: two texts with the same words say the same label, unless labels themselves differ by less than that.
"""

from __future__ import annotations

import re
import unicodedata

_PIECE = 1024  # characters: Python takes time that grows as the square of a text's length to order its accents
_KEPT = "#%&@/\\!"  # punctuation that may make a difference
# A number with its sign; a mark that negates or grades a word; a word; any other sign that is left.
_WORDS = re.compile(
    r"(?<!\S)-{1,2}\d{1,40}(?:[.,:]\d{1,40}){0,4}"
    r"|\d{1,40}(?:[.,:]\d{1,40}){1,4}(?![^\s.,:'-])"
    r"|(?<!\S)!(?=\w)|(?<=\S)-(?!\S)"
    r"|[^\s.,:'!-]+"
)
_SPECIAL = re.compile(r"[\d!]|(?<=\S)-(?!\S)")
_MERE_WORDS = re.compile(r"[^\s.,:'-]+")  # the same for a text without what is special: four times as fast
_BULLET_OR_SIGN = re.compile(r"(?<!\S)- (?=\d)")


class _Signs(dict[int, str]):
    """How a character stands among words, made as it is met: itself, apart from others, or as a blank."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        kind = unicodedata.category(char)
        if char in "\u2019\u02bc":
            sign = "'"
        elif char in "\u2010\u2011\u2212":
            sign = "-"
        elif kind == "Cf":
            sign = ""
        elif char in "`*" or ((kind[0] in "ZP" or kind == "Cc") and char not in _KEPT and char not in ".,:'-!"):
            sign = " "
        elif 0xFE00 <= code <= 0xFE0F:  # how an emoji is drawn
            sign = ""
        elif char == "!" or char in ".,:'-":
            sign = char
        elif kind[0] in "SPC" or is_written_without_blanks(code):
            sign = f" {char} "
        else:
            sign = char
        self[code] = sign
        return sign


_SIGNS = _Signs()


def is_written_without_blanks(code: int) -> bool:
    """Return whether a character is one of Chinese, Japanese, Thai, Lao, Burmese or Khmer."""
    return (
        0x3040 <= code <= 0x30FF
        or 0x3400 <= code <= 0x9FFF
        or 0xF900 <= code <= 0xFAFF
        or 0x20000 <= code <= 0x3FFFF
        or 0x0E00 <= code <= 0x0EFF
        or 0x1000 <= code <= 0x109F
        or 0x1780 <= code <= 0x17FF
    )


def widened(text: str) -> str:
    """Return a text with full-width and other forms of a character made one."""
    if text.isascii():
        return text
    if len(text) <= _PIECE:
        return unicodedata.normalize("NFKC", text)
    return "".join(unicodedata.normalize("NFKC", text[at : at + _PIECE]) for at in range(0, len(text), _PIECE))


def folded(text: str) -> str:
    """Return a text without case, each white space in it as one blank."""
    return " ".join(widened(text).casefold().split())


def words_of(text: str) -> list[str]:
    """Return the words of a text; signs that may make a difference (`+`, `#`, emoji) are words of their own."""
    plain = widened(widened(text).casefold()).translate(_SIGNS)
    if "- " in plain:  # a bullet or a sign: neither is a number's own
        plain = _BULLET_OR_SIGN.sub("--", plain)
    if "'" in plain:
        plain = plain.replace("'", "")
    return (_WORDS if _SPECIAL.search(plain) else _MERE_WORDS).findall(plain)

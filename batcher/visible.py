"""Shows characters that a terminal would obey instead of showing them, or that turn the text around them.

Invariant: what comes out holds none of them; every other character stays as it is.
"""

from __future__ import annotations

import re

# Controls (C0 without the line break, DEL, C1), line and paragraph separators, and what sets the direction of writing.
_OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def harmless(message: str) -> str:
    r"""Return a message with such characters written as Python writes them, such as `\x1b`; its line breaks stay."""
    if message.isascii() and message.isprintable():  # nearly all are
        return message
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), message)


def on_one_line(text: str) -> str:
    r"""Return a user's text, such as a path, for a message: as `harmless`, and a line break is `\n`."""
    return harmless(text).replace("\n", "\\n")


def holds_controls(text: str) -> bool:
    """Return whether a text has a control character, such as a tab or a line break."""
    return _CONTROL.search(text) is not None

"""Text for a page: the one place at which it is escaped.

Invariant: what comes out is plain text wherever it stands, in an element, in an attribute in quotes and in an SVG; it
holds no character that a browser would obey, and every character of it can be written as UTF-8.
"""

from __future__ import annotations

import html

from batcher.visible import harmless


class Html(str):
    """HTML that was made of escaped text."""

    __slots__ = ()


def text(value: str) -> Html:
    """Return a text as HTML; controls, marks that turn the text, and lone surrogates are shown as Python does."""
    return Html(html.escape(whole(value)))


def shown(value: str | Html) -> Html:
    """Return a text as HTML, its lines as lines; what is HTML already stays."""
    return value if isinstance(value, Html) else Html(text(value).replace("\n", "<br>"))


def one_line(value: str) -> Html:
    """Return a text as HTML on one line."""
    return Html(text(value).replace("\n", "\u23ce"))


def whole(value: str) -> str:
    """Return a text with no character that a browser would obey or UTF-8 could not hold."""
    return harmless(value).encode("utf-8", "backslashreplace").decode()


def joined(*parts: str) -> Html:
    """Return pieces of HTML as one."""
    return Html("".join(parts))

"""How results show themselves: as text on a terminal, as a table in a notebook.

Invariant: both are made from the same lines. A table escapes all text, and sets neither a colour nor a font, so that it
is readable on a light and on a dark page.
"""

from __future__ import annotations

import html
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from batcher.visible import harmless

_LABEL = 9  # columns of a label in the text
_WORD = 12  # characters of a word without spaces that are kept, at most
_AS_EMOJI = "\ufe0f"  # makes the character before it two columns wide in some terminals
_LEFT = ' style="text-align: left"'  # JupyterLab sets text to the right


class Line(NamedTuple):
    """A fact with its label; without one it belongs to the fact above. `is_part` if the text shows it below that."""

    label: str
    text: str
    is_part: bool = False


class Readable:
    """A result that IPython and terminals of its kind show as `str` does. `repr` stays that of its dataclass."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        cls._repr_pretty_ = Readable._repr_pretty_  # type: ignore[method-assign] # looked up beside `__repr__`

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """Show it as text in IPython."""
        printer.text(str(self))


class Described(Readable, ABC):
    """A result that is a title and labelled lines."""

    __slots__ = ()

    @abstractmethod
    def _title(self) -> str:
        """Return what stands above the lines."""

    @abstractmethod
    def _lines(self) -> Iterator[Line]:
        """Return the lines."""

    def __str__(self) -> str:
        lines = (
            f"    {each.text}" if each.is_part else f"  {each.label:<{_LABEL}} {each.text}" for each in self._lines()
        )
        return harmless("\n".join([self._title(), *lines]))

    def _repr_html_(self) -> str:
        """Show it as a table in a notebook."""
        return html_table(self._title(), [(each.label, each.text) for each in self._lines()], has_labels=True)


def html_table(
    title: str, rows: Iterable[Sequence[str]], heads: Sequence[str] = (), *, has_labels: bool = False
) -> str:
    """Return a table for a notebook.

    Args:
        title: stands above it; each of its lines is one there.
        rows: their cells, as text.
        heads: of the columns, if they have heads.
        has_labels: the first cell of a row names the row.
    """
    above = f"<div>{'<br>'.join(map(html.escape, harmless(title).splitlines()))}</div>\n" if title else ""
    lines = [_row("th", heads)] if heads else []
    for first, *others in rows:
        label = _cell("th" if has_labels else "td", first)
        lines.append(f"<tr>{label}{''.join(_cell('td', each) for each in others)}</tr>")
    return f"{above}<table>\n" + "\n".join(lines) + "\n</table>"


def _row(kind: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(_cell(kind, each) for each in cells)}</tr>"


def _cell(kind: str, text: str) -> str:
    if not text:
        kind = "td"  # a head without words says nothing to those who hear the page
    shown = html.escape(harmless(text)).replace("\n", "<br>")
    return f"<{kind}{_LEFT}>{shown}</{kind}>"


def width(text: str) -> int:
    """Return the columns that a text takes in a terminal: a Chinese character takes two, an accent alone none."""
    if text.isascii():
        return len(text)
    return sum(_columns(char) for char in text)


def cut(text: str, columns: int) -> str:
    """Return a text that takes at most these columns: if it is longer, its beginning and an ellipsis."""
    if width(text) <= columns:
        return text
    kept, left = [], columns - 1
    for char in text:
        left -= _columns(char)
        if left < 0:
            break
        kept.append(char)
    return "".join(kept).rstrip() + "\u2026" if columns > 0 else ""


def wrapped(start: str, text: str, columns: int) -> Iterator[str]:
    """Yield a text in lines of at most these columns, as far as its words allow it.

    Args:
        start: of the first line; the others are indented by as much.
        text: one line.
        columns: of a line, at most.
    """
    line, is_empty = start, True
    for word in text.split(" "):
        if not is_empty and width(line) + width(word) > columns:
            yield line.rstrip()
            line, is_empty = " " * width(start), True
        line, is_empty = f"{line}{word} ", False
    yield line.rstrip()


def told_apart(names: Iterable[str], columns: int, seen: int | None = None) -> dict[str, str]:
    """Return names short enough for a table, so that those which begin alike still differ.

    Of a long name its beginning is kept; of several that begin alike, also what follows the part that they share.

    Args:
        names: of a table, each on one line.
        columns: that a name may take.
        seen: the columns that surely have a place; default: all of them.
    """
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        alike.setdefault(cut(name, seen or columns), []).append(name)
    return {name: _short(name, _shared(group), columns) for group in alike.values() for name in group}


def _shared(names: Sequence[str]) -> int:
    """Return the characters that names begin with alike, but for those of an unfinished word; 0 for a single name."""
    if len(names) == 1:
        return 0
    least = min(map(len, names))
    same = next((place for place, chars in enumerate(zip(*names, strict=False)) if len({*chars}) > 1), least)
    return max(same - _WORD, names[0].rfind(" ", 0, same) + 1)


def _short(name: str, shared: int, columns: int) -> str:
    start = columns // 4
    if shared <= start + 1:
        return cut(name, columns)
    beginning = f"{name[:start]}\u2026"
    return beginning + cut(name[shared:], columns - width(beginning))


def _columns(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return int(char == _AS_EMOJI)
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1

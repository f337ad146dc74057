"""Tables of a page, which its script can sort and filter.

Invariant: a table has a caption, and heads with a scope; a cell is text, or HTML made of escaped text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from batcher.reports.pages.escape import Html, joined, shown, text
from batcher.reports.pages.frame import boxed


class Num(NamedTuple):
    """A number of a table: None sorts last."""

    value: float | None
    text: str


Cell = str | Html | Num

COUNT, SHORT, NAME, SAID, WIDE, PLAIN = "n", "short", "name", "said", "wide", ""
"""The kinds of columns: numbers, what stays on one line, names, answers beside a wide column, what needs much room, and
all else."""


class Column(NamedTuple):
    """A column: its head, and its kind."""

    head: str
    kind: str = PLAIN


def count(number: int | None) -> Num:
    """Return a count as a cell."""
    return Num(number, "" if number is None else f"{number:,}")


def grid(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, left_out: int = 0) -> Html:
    """Return a table in a box that can be scrolled.

    Args:
        caption: says what it shows.
        columns: from left to right; the first one names the row.
        rows: their cells.
        left_out: rows that are not shown.
    """
    heads = "".join(f'<th scope="col"{_class(each.kind)}>{text(each.head)}</th>' for each in columns)
    body = "\n".join(
        "<tr>"
        + "".join(
            _cell(cell, column.kind, place) for place, (cell, column) in enumerate(zip(row, columns, strict=True))
        )
        + "</tr>"
        for row in rows
    )
    table = (
        f'<table class="grid sorts"><caption>{text(caption)}</caption>\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table>"
    )
    return joined(boxed(table, caption), more(left_out, "row"))


def more(left_out: int, noun: str) -> Html:
    """Return how many are left out; empty if none is."""
    if not left_out:
        return Html()
    return Html(f'<p class="muted">{left_out:,} more {noun}{"" if left_out == 1 else "s"} not shown.</p>')


def _cell(cell: Cell, kind: str, place: int) -> str:
    tag, scope = ("td", "") if place else ("th", ' scope="row"')
    if isinstance(cell, Num):
        own = "" if cell.value is None or not math.isfinite(cell.value) else f"{cell.value:.10g}"
        return f'<{tag}{scope}{_class(kind)} data-v="{own}">{text(cell.text)}</{tag}>'
    inner = cell if isinstance(cell, Html) else f"<bdi>{shown(cell)}</bdi>" if cell else ""
    return f"<{tag}{scope}{_class(kind)}>{inner}</{tag}>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def terms(pairs: Iterable[tuple[str, str | Html]]) -> Html:
    """Return a list of terms, each with what is said of it."""
    inner = "".join(f"<dt>{text(term)}</dt><dd>{shown(said)}</dd>" for term, said in pairs)
    return Html(f"<dl>{inner}</dl>" if inner else "")


def cells(pairs: Iterable[tuple[str, str]]) -> Html:
    """Return cells of a row of the input, each with its column."""
    inner = "".join(f'<div dir="auto"><i>{text(name)}</i><bdi>{shown(value)}</bdi></div>' for name, value in pairs)
    return Html(f'<div class="cells">{inner}</div>' if inner else "")

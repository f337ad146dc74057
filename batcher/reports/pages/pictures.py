"""The pictures of an estimate: shares or numbers with their intervals as an SVG, and counts as a heat table.

Invariant: all text is escaped; nothing is loaded, and no script runs. Text keeps its size however narrow the page is:
horizontal places are percentages. Without any style sheet, `currentColor` and one blue read well on light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from batcher.reports.pages.escape import one_line as _text
from batcher.reports.pages.escape import text, whole
from batcher.tables import told_apart

ACCENT = "var(--batcher-accent, #3b82d6)"
"""The colour of what is estimated: it has enough contrast on white and on black."""

_ROW = 44  # pixels of a mark: a line of text, and the scale below it
_TOP, _BOTTOM = 26, 24  # pixels of the legend and of the axis
_FORM = (
    "display:block;width:calc(100% - 16px);max-width:720px;margin:8px;overflow:visible;"
    "font:13px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif"
)
_NAME = 56  # columns of a name, of which a narrow page cuts off what has no place
_NAMES = "45%"  # of the width: a phone is 390 pixels wide, and the numbers take up to 190 of them
_SEEN = 20  # columns of a name that have a place there
_ENDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0)
_LETTER = 7  # pixels of a letter of the legend, at most on average
_STEPS = 5  # of the axis, at most
_HEAD = 16  # columns of a head in a heat table
_RIGHT, _WRONG = "59,130,214", "224,130,30"  # red, green and blue of a cell: agreement and mistakes
_LIGHTEST, _DARKEST = 0.10, 0.62  # of a cell in a heat table, so that text is readable on it in both themes


class Mark(NamedTuple):
    """A line of a picture.

    Attributes:
        name: what it is about.
        raw: as the model's answers have it; None if they have none.
        value: as estimated; None if there is no estimate.
        low, high: its interval; None if there is none.
        text: the numbers, in words.
    """

    name: str
    raw: float | None
    value: float | None
    low: float | None
    high: float | None
    text: str

    @property
    def ends(self) -> Iterator[float]:
        """Yield its numbers."""
        yield from (each for each in (self.raw, self.value, self.low, self.high) if each is not None)


class Scale(NamedTuple):
    """The numbers of the left and of the right end, and how a number is written at the axis."""

    left: float
    right: float
    written: Callable[[float], str]

    @classmethod
    def of_shares(cls, marks: Iterable[Mark]) -> Scale:
        """Return a scale from 0 to a round share."""
        most = max((each for mark in marks for each in mark.ends), default=1.0)
        return cls(0.0, next((end for end in _ENDS if end >= most), 1.0), lambda share: f"{100 * share:.3g}%")

    @classmethod
    def of_numbers(cls, marks: Iterable[Mark]) -> Scale:
        """Return a scale around all numbers, with round ends."""
        ends = [each for mark in marks for each in mark.ends if math.isfinite(each)] or [0.0, 1.0]
        low, high = min(ends), max(ends)
        step = _round_step((high - low) or abs(high) or 1.0)
        left, right = math.floor(low / step) * step, math.ceil(high / step) * step
        return cls(left, right if right > left else left + step, lambda each: f"{each:.4g}")

    def place(self, number: float) -> str:
        """Return where a number is, as a percentage of the width."""
        span = self.right - self.left or 1.0
        return f"{100 * min(1.0, max(0.0, (number - self.left) / span)):.2f}%"

    @property
    def steps(self) -> list[float]:
        """The numbers at the axis."""
        step = _round_step(self.right - self.left or 1.0)
        count = round((self.right - self.left) / step)
        return [self.left + step * number for number in range(count + 1)]


def _round_step(span: float) -> float:
    """Return 1, 2 or 5 times a power of ten, of which a span has at most `_STEPS`."""
    power = 10.0 ** math.floor(math.log10(span / _STEPS))
    return next(each * power for each in (1, 2, 5, 10) if span / (each * power) <= _STEPS + 1e-9)


def marks_picture(
    title: str, marks: Sequence[Mark], scale: Scale, ring: str = "raw: counted", dot: str = "estimate, 95% interval"
) -> str:
    """Return an SVG with a line for each mark: a ring for the raw number, a dot with its interval for the estimate.

    Args:
        title: what it shows; a screen reader reads it, and the numbers after it.
        marks: from top to bottom.
        scale: of all of them.
        ring: what a ring is.
        dot: what a dot and its bar are.
    """
    height = _TOP + _ROW * len(marks) + _BOTTOM
    is_estimated = any(mark.value is not None for mark in marks)
    said = "; ".join(f"{mark.name}: {mark.text}" for mark in marks)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" height="{height}" fill="currentColor" style="{_FORM}">',
        f"<title>{_text(title)}</title>",
        f"<desc>{_text(said)}</desc>",
        *_legend(ring if any(mark.raw is not None for mark in marks) else "", dot if is_estimated else ""),
        *_axis(scale, height),
    ]
    names = [_on_one_line(mark.name) for mark in marks]
    short = told_apart(names, _NAME, _SEEN)
    for number, (mark, name) in enumerate(zip(marks, names, strict=True)):
        lines += _line(mark, short[name], scale, _TOP + _ROW * number)
    return "\n".join([*lines, "</svg>"])


def _legend(ring: str, dot: str) -> Iterator[str]:
    start = 0
    if ring:
        yield _ring("6", 10)
        yield f'<text x="18" y="14" font-size="12">{_text(ring)}</text>'
        start = 40 + _LETTER * len(ring)
    if dot:
        yield _bar(f"{start + 4}", f"{start + 26}", 10)
        yield _dot(f"{start + 15}", 10)
        yield f'<text x="{start + 34}" y="14" font-size="12">{_text(dot)}</text>'


def _axis(scale: Scale, height: int) -> Iterator[str]:
    bottom = height - _BOTTOM
    for step in scale.steps:
        place = scale.place(step)
        yield (
            f'<line x1="{place}" x2="{place}" y1="{_TOP}" y2="{bottom}" stroke="currentColor" stroke-opacity="0.13"/>'
        )
        anchor = "start" if step == scale.steps[0] else "end" if step == scale.steps[-1] else "middle"
        yield (
            f'<text x="{place}" y="{bottom + 16}" text-anchor="{anchor}" font-size="11" fill-opacity="0.75">'
            f"{_text(scale.written(step))}</text>"
        )


def _line(mark: Mark, shown: str, scale: Scale, top: int) -> Iterator[str]:
    said = f"{mark.name}: {mark.text}"
    yield f"<g><title>{_text(said)}</title>"
    name = f'<text x="0" y="16" style="unicode-bidi:isolate">{text(shown) or "(empty)"}</text>'
    yield f'<svg x="0" y="{top}" width="{_NAMES}" height="22" overflow="hidden">{name}</svg>'
    yield f'<text x="100%" y="{top + 16}" text-anchor="end" font-size="12">{_text(mark.text)}</text>'
    at = top + 30
    yield f'<line x1="0" x2="100%" y1="{at}" y2="{at}" stroke="currentColor" stroke-opacity="0.13"/>'
    if mark.low is not None and mark.high is not None:
        yield _bar(scale.place(mark.low), scale.place(mark.high), at)
    if mark.value is not None:
        yield _dot(scale.place(mark.value), at)
    if mark.raw is not None:
        yield _ring(scale.place(mark.raw), at)
    yield "</g>"


def _bar(left: str, right: str, y: int) -> str:
    return (
        f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" stroke-width="6" stroke-opacity="0.5"'
        f' stroke-linecap="round" style="stroke:{ACCENT}"/>'
    )


def _dot(x: str, y: int) -> str:
    return f'<circle cx="{x}" cy="{y}" r="5.5" style="fill:{ACCENT}"/>'


def _ring(x: str, y: int) -> str:
    return f'<circle cx="{x}" cy="{y}" r="4.5" fill="none" stroke="currentColor" stroke-width="1.8"/>'


def heat_table(
    title: str, rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]], corner: str
) -> str:
    """Return a table of counts, in which a cell is the darker the larger its part of its row is.

    Args:
        title: stands above it.
        rows: their heads.
        columns: their heads.
        counts: of each row, by column.
        corner: stands above the heads of the rows, and says what rows and columns are.
    """
    short = told_apart(map(_on_one_line, (*rows, *columns)), _HEAD)
    heads = "".join(
        f'<th scope="col" title="{_text(name)}" style="writing-mode:vertical-rl;text-align:right;font-weight:normal;'
        f'padding:4px 2px">{_head(name, short)}</th>'
        for name in columns
    )
    body = "\n".join(
        _heat_row(name, _head(name, short), each, columns) for name, each in zip(rows, counts, strict=True)
    )
    return (
        f'<div style="overflow-x:auto" role="group" tabindex="0" aria-label="{_text(title)}">'
        f'<table class="heat" style="border-collapse:collapse;width:auto">'
        f'<caption style="text-align:left;padding:4px 0">{_text(title)}</caption>\n'
        f'<tr><td style="text-align:left;vertical-align:bottom;font-size:85%">{_text(corner)}</td>{heads}</tr>\n'
        f"{body}\n</table></div>"
    )


def _head(name: str, short: Mapping[str, str]) -> str:
    return f"<bdi>{text(short[_on_one_line(name)]) or '(empty)'}</bdi>"


def _heat_row(name: str, head: str, counts: Sequence[int], columns: Sequence[str]) -> str:
    all_of_it = sum(counts) or 1
    cells = "".join(
        _heat_cell(count, count / all_of_it, f"{name} \u2192 {column}: {count}", _RIGHT if column == name else _WRONG)
        for column, count in zip(columns, counts, strict=True)
    )
    style = "text-align:left;font-weight:normal;padding:3px 8px 3px 0"
    return f'<tr><th scope="row" title="{_text(name)}" style="{style}">{head}</th>{cells}</tr>'


def _heat_cell(count: int, part: float, said: str, colour: str) -> str:
    shade = (
        f"background:rgba({colour},{_LIGHTEST + (_DARKEST - _LIGHTEST) * part:.2f})"
        if count
        else "color:var(--muted, inherit)"
    )
    return (
        f'<td title="{_text(said)}" style="text-align:center;min-width:1.6em;padding:3px 6px;{shade}">'
        f"{count or '&middot;'}</td>"
    )


def _on_one_line(name: str) -> str:
    return whole(name).replace("\n", "\u23ce")

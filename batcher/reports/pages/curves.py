"""Pictures of numbers over time, and of how long something took, as SVG.

Invariant: all text is escaped and stands outside of what is stretched, so that it keeps its size on a narrow page; a
picture says in words what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from batcher.reports.pages.escape import Html, text

_HEIGHT = 100  # units of a picture's own height
_PIXELS = 64  # of a picture on the page


class Band(NamedTuple):
    """A part of the time, from 0 to 1, and what was then."""

    start: float
    end: float
    said: str


class Curve(NamedTuple):
    """Numbers over time.

    Attributes:
        title: what they are.
        values: of bins of the same width.
        colour: a variable of the style, such as `--accent`.
        unit: of the numbers, for people.
    """

    title: str
    values: Sequence[float]
    colour: str
    unit: str = ""


def curve_picture(curve: Curve, bands: Iterable[Band] = (), marks: Iterable[Band] = ()) -> Html:
    """Return numbers over time.

    Args:
        curve: the numbers.
        bands: that are shaded behind it.
        marks: moments with a dashed line.
    """
    values = curve.values
    most, mean = max(values, default=0.0), sum(values) / max(len(values), 1)
    unit = f" {curve.unit}" if curve.unit else ""
    said = f"mean {written(mean)}{unit}, most {written(most)}{unit}"
    shapes = [_band(band, len(values)) for band in bands]
    shapes.append(_area(values, most, curve.colour))
    shapes += [_mark(mark, len(values)) for mark in marks]
    return Html(
        f"<figure><figcaption>{text(curve.title)} <span>({text(said)})</span></figcaption>"
        f"{_stretched(f'{curve.title}: {said}', max(len(values), 1), shapes)}</figure>"
    )


def time_axis(labels: Sequence[str]) -> Html:
    """Return what stands below pictures over time: labels from the left to the right end, evenly."""
    return Html(
        f'<div class="axis" aria-hidden="true">{"".join(f"<span>{text(each)}</span>" for each in labels)}</div>'
    )


def histogram_picture(said: str, counts: Sequence[int], marks: Iterable[Band]) -> Html:
    """Return a histogram.

    Args:
        said: what it shows, in words.
        counts: of its bins.
        marks: places with a dashed line, from 0 to 1.
    """
    shapes = [_area(counts, max(counts, default=0), "--accent"), *(_mark(mark, len(counts)) for mark in marks)]
    return _stretched(said, max(len(counts), 1), shapes)


def written(number: float) -> str:
    """Return a number for people: 3 digits, and whole from 100 on."""
    if number >= 99.95:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def _stretched(said: str, width: int, shapes: Iterable[str]) -> Html:
    return Html(
        f'<svg role="img" aria-label="{text(said)}" class="curve" width="100%" height="{_PIXELS}"'
        f' viewBox="0 0 {width} {_HEIGHT}" preserveAspectRatio="none">{"".join(shapes)}</svg>'
    )


def _area(values: Sequence[float], most: float, colour: str) -> str:
    if not values or not most:
        return ""
    steps, before = [], None
    for place, value in enumerate(values):
        height = _HEIGHT - round(_HEIGHT * 0.96 * min(value / most, 1.0), 1) if math.isfinite(value) else _HEIGHT
        if height != before:
            steps.append(f"V{height:g}" if place else f"M0 {_HEIGHT}V{height:g}")
            before = height
        steps.append(f"H{place + 1}")
    line = "".join(steps)
    return (
        f'<path d="{line}V{_HEIGHT}Z" style="fill:var({colour})" fill-opacity="0.25"/>'
        f'<path d="{line}" fill="none" style="stroke:var({colour})" stroke-width="1.5"'
        ' vector-effect="non-scaling-stroke"/>'
    )


def _band(band: Band, width: int) -> str:
    left, right = band.start * width, band.end * width
    return (
        f'<rect x="{left:.2f}" y="0" width="{max(right - left, width / 400):.2f}" height="{_HEIGHT}"'
        f' style="fill:var(--muted)" fill-opacity="0.16"><title>{text(band.said)}</title></rect>'
    )


def _mark(mark: Band, width: int) -> str:
    at = mark.start * width
    return (
        f'<line x1="{at:.2f}" x2="{at:.2f}" y1="0" y2="{_HEIGHT}" style="stroke:var(--text)" stroke-width="1"'
        f' stroke-dasharray="3 3" vector-effect="non-scaling-stroke"><title>{text(mark.said)}</title></line>'
    )

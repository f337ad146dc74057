"""The picture of a report in a notebook: rows by status, and how many rows have each label.

Invariant: all text is escaped, nothing is loaded, and no script runs; each number stands there as text, too.

There is no style sheet: `currentColor` and the colours below read well on light and on dark pages, and horizontal
places are percentages, so that text keeps its size however narrow the page is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from batcher.answer.labels import Labels
from batcher.answer.shape import shape_of_recorded
from batcher.journal.opening import read_journal
from batcher.journal.showing import label_counts
from batcher.output.figures import Figures
from batcher.output.opening import opened
from batcher.reports.pages.escape import one_line, whole
from batcher.tables import told_apart
from batcher.words import counted, percent

_COLOURS = {"ok": "#2da44e", "invalid": "#bf8700", "error": "#e5534b", "left": "currentColor"}
_FAINT = {"left": ' fill-opacity="0.3"'}
_LABEL = "#4a8fdd"
_SVG = 'xmlns="http://www.w3.org/2000/svg"'
_FORM = (
    "display:block;width:calc(100% - 16px);max-width:640px;margin:8px;overflow:visible;"
    "font:13px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif"
)
_MOST_LABELS = 12
_BAR, _LEGEND = 14, 44  # pixels: of the bar of rows by status, and down to the end of its legend
_HEAD, _LINE = 30, 24  # pixels of the line above the labels, and of each label
_NAMES, _BARS, _WIDTH = 38, 40, 36  # per cent: of a name, and where its bar begins and how long it is at most
_NAME, _SEEN = 48, 18  # columns of a name, and those that surely have a place


class LabelCounts(NamedTuple):
    """How many rows have each label.

    Attributes:
        most: the most frequent labels, each with its rows.
        labels: all that a row has, or may have.
        rows: that have one.
    """

    most: tuple[tuple[str, int], ...]
    labels: int
    rows: int


def counts_of(keyword: str, output_dir: Path) -> LabelCounts | None:
    """Count the labels of a run; None if it has none to choose from.

    Raises:
        OutputError: there is no run, or its journal cannot be read.
    """
    with opened(keyword, output_dir, read_journal) as run, run.journal.snapshot():
        shape = run.last().question.get("shape")
        if shape is None or not isinstance(labels := shape_of_recorded(shape), Labels):
            return None
        found = dict(label_counts(run.journal))
    names = dict.fromkeys((*found, *labels.names))
    return LabelCounts(
        tuple((name, found.get(name, 0)) for name in [*names][:_MOST_LABELS]), len(names), sum(found.values())
    )


def picture_of(figures: Figures, counts: LabelCounts | None) -> str:
    """Return the picture, as SVG.

    Args:
        figures: of the run.
        counts: of its labels; None: it has none, or they are not known.
    """
    states = [(name, getattr(figures, name)) for name in _COLOURS]
    states = [(name, rows) for name, rows in states if rows or name == "ok"]
    labels = [] if counts is None else _with_the_others(counts)
    height = _LEGEND + (_HEAD + _LINE * len(labels) if labels else 0)
    said = "; ".join(
        [*(f"{rows:,} {name}" for name, rows in states), *(f"{name}: {rows:,} rows" for name, rows in labels)]
    )
    return "\n".join(
        [
            f'<svg {_SVG} role="img" height="{height}" fill="currentColor" style="{_FORM}">',
            f"<title>{one_line(f'{figures.keyword}: rows by status')}{' and by label' if labels else ''}</title>",
            f"<desc>{one_line(said)}</desc>",
            *_states(states, figures.rows),
            *(_labels(labels, counts) if counts else ()),
            "</svg>",
        ]
    )


def _with_the_others(counts: LabelCounts) -> list[tuple[str, int]]:
    """Return the labels to draw, and behind them those that have no place, as one."""
    left = counts.labels - len(counts.most)
    rows = counts.rows - sum(rows for _, rows in counts.most)
    return [*counts.most, *([(counted(left, "other label"), rows)] if left else [])]


def _states(states: Sequence[tuple[str, int]], rows: int) -> Iterator[str]:
    place = 0.0
    for name, count in states:
        share = 100 * count / (rows or 1)
        yield (
            f'<rect x="{place:.3f}%" y="0" width="{share:.3f}%" height="{_BAR}" fill="{_COLOURS[name]}"'
            f"{_FAINT.get(name, '')}><title>{name}: {count:,} of {rows:,}</title></rect>"
        )
        place += share
    for number, (name, count) in enumerate(states):
        left = f"{25 * number}%"
        yield (
            f'<svg x="{left}" y="20" width="25%" height="24" overflow="visible">'
            f'<rect x="0" y="5" width="10" height="10" fill="{_COLOURS[name]}"{_FAINT.get(name, "")}/>'
            f'<text x="16" y="14">{count:,} {name}</text></svg>'
        )


def _labels(labels: Sequence[tuple[str, int]], counts: LabelCounts) -> Iterator[str]:
    said = f"{counted(counts.rows, 'row')} with a label"
    yield f'<text x="0" y="{_LEGEND + 20}" font-size="12" fill-opacity="0.75">{said}</text>'
    names = [whole(name).replace("\n", "\u23ce") for name, _ in labels]
    short = told_apart(names, _NAME, _SEEN)
    most = max((rows for _, rows in labels), default=0) or 1
    for number, (name, (_, rows)) in enumerate(zip(names, labels, strict=True)):
        top = _LEGEND + _HEAD + _LINE * number
        share = percent(rows / counts.rows) if counts.rows else "0.0%"
        yield f"<g><title>{one_line(name)}: {rows:,} ({share})</title>"
        text = f'<text x="0" y="15" style="unicode-bidi:isolate">{one_line(short[name]) or "(empty)"}</text>'
        yield f'<svg x="0" y="{top}" width="{_NAMES}%" height="22" overflow="hidden">{text}</svg>'
        yield (
            f'<rect x="{_BARS}%" y="{top + 4}" width="{_WIDTH * rows / most:.3f}%" height="14" rx="2" fill="{_LABEL}"/>'
        )
        yield f'<text x="100%" y="{top + 15}" text-anchor="end" font-size="12">{rows:,} ({share})</text></g>'

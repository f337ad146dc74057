"""An estimate as HTML: for a notebook, and as a page of its own.

Invariant: all text is escaped, nothing is loaded from elsewhere, and no script runs.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator

from batcher.quality.estimating import Confusion
from batcher.quality.figures import Figure
from batcher.reports.pages.frame import boxed, whole_page
from batcher.reports.pages.pictures import Mark, Scale, heat_table, marks_picture
from batcher.reports.quality.estimated import Certainty, Estimate, shown_label
from batcher.reports.quality.texts import (
    MOST_LABELS,
    bin_cells,
    facts_of,
    how_sure,
    number,
    quality_cells,
    share_table,
    title_of,
    with_interval,
)
from batcher.tables import html_table
from batcher.words import counted, percent

_MOST_OF_MATRIX = 16
"""Labels of a confusion matrix in a notebook, or opened on a page."""
_MOST_MISTAKES = 30
_MOST_LEAST = 10


def html_of(found: Estimate, *, can_draw: bool = False) -> str:
    """Return an estimate for a cell of a notebook: as much of it as fits there.

    Args:
        found: the estimate.
        can_draw: whether it is shown on a page that draws rows itself.
    """
    facts = html_table(title_of(found), _fact_rows(found, can_draw=can_draw), has_labels=True)
    return "\n".join([facts, *_parts(found, MOST_LABELS)])


def page_of(found: Estimate) -> str:
    """Return an estimate as a whole page."""
    facts = html_table("", _fact_rows(found), has_labels=True)
    return whole_page(f"{found.keyword}: estimate", title_of(found), facts, _parts(found, None), "estimate")


def _fact_rows(found: Estimate, *, can_draw: bool = False) -> list[tuple[str, str]]:
    steps = [("" if place else "next", step) for place, step in enumerate(found.steps)]
    return [*facts_of(found, can_draw=can_draw), *steps]


def _parts(found: Estimate, most: int | None) -> Iterator[str]:
    """Yield the pictures and tables behind the facts.

    Args:
        found: what is shown.
        most: labels to show at most; None: all.
    """
    yield from _quantities(found)
    yield from _shares(found, most)
    yield from _per_label(found, most)
    yield from _confusion(found, is_whole=most is None)
    for each in found.certainty:
        yield from _certainty(each, is_whole=most is None)
    if found.drift is not None:
        yield f'{_heading("Along the run")}<div class="facts">{found.drift._repr_html_()}</div>'


def _quantities(found: Estimate) -> Iterator[str]:
    if not found.quantities:
        return
    yield _heading("The right numbers of all rows" if found.gold else "The model's numbers")
    marks = [_mark(each.name, each.raw, each.figure, number) for each in found.quantities]
    yield marks_picture("Mean and quantiles", marks, Scale.of_numbers(marks))


def _shares(found: Estimate, most: int | None) -> Iterator[str]:
    if not found.labels:
        return
    yield _heading("Share of each label in the whole table")
    marks = [_mark(shown_label(each.label), each.raw, each.share, percent) for each in found.labels[:most]]
    yield marks_picture("Share of each label in the whole table", marks, Scale.of_shares(marks))
    if more := len(found.labels) - len(marks):
        yield f"<p>{counted(more, 'other label')}: <code>labels</code> has all of them.</p>"
    if most is None:
        heads, rows = share_table(found, found.labels)
        yield boxed(f"<details><summary>as a table</summary>{html_table('', rows, heads)}</details>")


def _mark(name: str, raw: float | None, figure: Figure, written: Callable[[float], str]) -> Mark:
    before = "" if raw is None else written(raw)
    text = " \u2192 ".join(each for each in (before, with_interval(figure, written)) if each)
    return Mark(name, raw, figure.value, figure.low, figure.high, text)


def _per_label(found: Estimate, most: int | None) -> Iterator[str]:
    if not found.gold or not found.labels:
        return
    yield _heading("How good the model is at each label")
    heads = ("label", "precision", "recall", "F1")
    rows = [quality_cells(each) for each in found.labels[:most] if each.hand or each.checked]
    yield boxed(html_table("", rows, heads), "figures of each label")


def _confusion(found: Estimate, *, is_whole: bool) -> Iterator[str]:
    confusion, mistakes = found.confusion, found.mistakes
    if not confusion.counted:
        return
    yield _heading("The model's labels and those by hand")
    is_small = len(confusion.model) <= _MOST_OF_MATRIX
    if is_small:
        yield _matrix(confusion)
    if not is_small and mistakes:
        shown = mistakes if is_whole else mistakes[:_MOST_MISTAKES]
        rows = [(shown_label(each.label), shown_label(each.gold), f"{each.rows:,}") for each in shown]
        yield boxed(html_table("The most frequent mistakes", rows, ("the model's", "by hand", "rows")))
    if is_whole and not is_small:
        yield f"<details><summary>the whole matrix</summary>{_matrix(confusion)}</details>"


def _matrix(confusion: Confusion) -> str:
    model, gold = map(shown_label, confusion.model), map(shown_label, confusion.gold)
    return heat_table("Rows with a hand label", [*model], [*gold], confusion.counted, "model \u2193 by hand \u2192")


def _certainty(certain: Certainty, *, is_whole: bool) -> Iterator[str]:
    yield _heading(f"How certain the answers are, by {certain.by}")
    if certain.calibration is not None and certain.calibration.bins:
        marks = [_mark(bin_cells(each)[0], each.score, each.accuracy, percent) for each in certain.calibration.bins]
        title, scale = "Certainty, and the share of right answers", Scale(0.0, 1.0, "{:.0%}".format)
        yield marks_picture(title, marks, scale, f"mean {certain.by}", "right, 95% interval")
    yield f"<p>{html.escape(how_sure(certain))}.</p>"
    rows = [(f"{each.position:,}", f"{each.certainty:.2f}", each.answer) for each in certain.least]
    heads = ("row, from 0", certain.by, "answer")
    yield boxed(html_table("Least certain first", rows[:_MOST_LEAST], heads))
    if is_whole and len(rows) > _MOST_LEAST:
        yield boxed(f"<details><summary>{len(rows):,} rows</summary>{html_table('', rows, heads)}</details>")


def _heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"

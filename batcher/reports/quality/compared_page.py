"""A comparison of two runs as HTML: for a notebook, and as a page of its own.

Invariant: all text is escaped, nothing is loaded from elsewhere, and no script runs.
"""

from __future__ import annotations

from collections.abc import Iterator

from batcher.reports.pages.frame import boxed, whole_page
from batcher.reports.pages.pictures import Mark, Scale, heat_table, marks_picture
from batcher.reports.quality.compared import (
    Compared,
    Difference,
    Ranged,
    facts_of,
    names_of,
    on_one_line,
    sides_of,
    title_of,
    with_interval,
)
from batcher.tables import cut, html_table
from batcher.words import percent

_MOST_OF_TABLE = 16
"""Answers of a table of pairs in a notebook, or opened on a page."""
_LONGEST = 300  # columns of an example


def html_of(found: Compared) -> str:
    """Return a comparison for a cell of a notebook."""
    return "\n".join([html_table(title_of(found), facts_of(found), has_labels=True), *_parts(found)])


def page_of(found: Compared) -> str:
    """Return a comparison as a whole page."""
    title = title_of(found)
    return whole_page(title, title, html_table("", facts_of(found), has_labels=True), _parts(found), "compare")


def _parts(found: Compared) -> Iterator[str]:
    """Yield the pictures and tables behind the facts."""
    names = names_of(found)
    yield boxed(html_table("", sides_of(found), ("", *names), has_labels=True))
    marks = [*_marks(found)]
    if marks:
        yield marks_picture("Accuracy and noise", marks, Scale.of_shares(marks), "counted")
    if found.differences:
        yield "<h2>Rows that differ</h2>"
        rows = [(f"{each.rows:,}", "\n".join([_pair(each), *_examples(each)])) for each in found.differences]
        table = html_table("The most frequent first, with examples", rows, ("rows", " \u2192 ".join(names)))
        yield f'<div class="facts">{table}</div>'
    answers = found.crossed.answers
    if answers and found.differences:
        table = heat_table(
            "Rows by both answers", answers, answers, found.crossed.counts, f"{names[0]} \u2193 {names[1]} \u2192"
        )
        is_small = len(answers) <= _MOST_OF_TABLE
        yield table if is_small else f"<details><summary>all pairs of answers</summary>{table}</details>"


def _marks(found: Compared) -> Iterator[Mark]:
    for name, side in zip(names_of(found), (found.first, found.other), strict=True):
        if side.accuracy is not None:
            yield _mark(f"accuracy of {name}", side.accuracy)
    if found.agreement is not None and (found.first.noise or found.other.noise):
        differ = 1 - found.agreement
        yield Mark("the runs differ", differ, None, None, None, percent(differ))
    for name, side in zip(names_of(found), (found.first, found.other), strict=True):
        if side.noise is not None:
            yield _mark(f"noise of {name}", side.noise.share)


def _mark(name: str, number: Ranged) -> Mark:
    return Mark(name, None, number.value, number.low, number.high, with_interval(number))


def _pair(difference: Difference) -> str:
    return " \u2192 ".join(on_one_line(each) or "(empty)" for each in (difference.answer, difference.other))


def _examples(difference: Difference) -> Iterator[str]:
    for each in difference.examples:
        yield cut(f"row {each.row}: {on_one_line(each.text or '(cells gone)')}", _LONGEST)

"""The top of the report: the number that matters, and the rows by status.

Invariant: a number has its interval beside it; if there is none, one sentence says what would give one.
"""

from __future__ import annotations

from collections.abc import Iterator

from batcher.quality.figures import Figure
from batcher.reports.pages.escape import Html, joined, text
from batcher.reports.quality.estimated import Estimate, Kind
from batcher.reports.quality.texts import number
from batcher.reports.whole.facts import Facts
from batcher.words import counted, percent

STATES = (("ok", "ok"), ("invalid", "invalid"), ("error", "error"), ("left", "no result yet"))
"""The statuses of rows: the name of the figure and of the colour, and the word for it."""


def lead_of(facts: Facts) -> Iterator[Html]:
    """Yield the head of the page."""
    known = [each for each in facts.estimates if each.gold and each.main.value is not None]
    inner = "".join(_number(each) for each in known[:4]) if known else _counts(facts)
    yield joined('<div class="headline">', inner, bar(facts), "</div>")


def _number(found: Estimate) -> Html:
    figure = found.main
    is_mean = found.kind is Kind.NUMBERS
    what = "mean of the right numbers" if is_mean else "of the answers are right"
    value = number(figure.value or 0.0) if is_mean else percent(figure.value or 0.0)
    field = "" if found.field is None else f"{found.field}: "
    how = found.design.words or counted(found.gold, "hand label")
    return Html(
        f'<p class="number">{text(value)}</p><p>{text(f"{field}{what}")}{_interval(figure, is_mean=is_mean)}</p>'
        f'<p class="muted">{text(f"By {how}.")}</p>'
    )


def _interval(figure: Figure, *, is_mean: bool) -> str:
    if figure.low is None or figure.high is None:
        return " (no interval: how the rows with a hand label were chosen is not known)"
    if figure.low == figure.high:
        return ", exactly: every row has a hand label"
    written = number if is_mean else percent
    return text(f"; 95% interval {written(figure.low)} to {written(figure.high)}")


def _counts(facts: Facts) -> Html:
    figures = facts.figures
    done = figures.rows - figures.left
    said = f"{figures.ok:,} of {counted(figures.rows, 'row')}"
    state = "answered as asked" if done == figures.rows else f"answered as asked, {figures.left:,} still to do"
    return Html(f'<p class="number">{text(said)}</p><p>{text(state)}</p><p class="muted">{_step(facts)}</p>')


def _step(facts: Facts) -> str:
    if facts.no_estimate and not facts.estimates:
        return text(facts.no_estimate)
    if any(each.gold for each in facts.estimates):
        return "No row with a hand label has an answer yet: that will say how many are right."
    if not facts.sample:
        return "No hand labels: this says nothing about how many answers are right."
    command, _, then = facts.sample.partition("  # ")
    after = f" ({text(then)})" if then else ""
    what = "To learn how many of them are right, with an interval, label some by hand"
    return f"{what}: <code>{text(command)}</code>{after}."


def bar(facts: Facts) -> Html:
    """Return the rows by status as a bar, and in words."""
    figures = facts.figures
    counts = [(name, word, getattr(figures, name)) for name, word in STATES]
    parts = "".join(
        f'<span class="{name}" style="width:{100 * rows / figures.rows:.3f}%"></span>'
        for name, _, rows in counts
        if rows and figures.rows
    )
    tiles = "".join(
        f'<li><b>{rows:,}</b><i><span class="dot {name}"></span>{text(word)}</i></li>' for name, word, rows in counts
    )
    return Html(f'<div class="states" aria-hidden="true">{parts}</div><ul class="tiles">{tiles}</ul>')

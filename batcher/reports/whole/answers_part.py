"""Answers and how good they are, as parts of the report: shares, raw and corrected, and the confusion matrix.

Invariant: pictures and tables are those of the estimate; lists are bounded, and say what they leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from batcher.quality.estimating import Confusion
from batcher.quality.figures import Figure
from batcher.reports.pages.escape import Html, joined, text
from batcher.reports.pages.grid import COUNT, NAME, Column, Num, count, grid, terms
from batcher.reports.pages.pictures import Mark, Scale, heat_table, marks_picture
from batcher.reports.quality.estimated import Estimate, shown_label
from batcher.reports.quality.texts import facts_of, number, with_interval
from batcher.reports.whole.facts import Facts
from batcher.reports.whole.input_cells import cut
from batcher.words import counted, percent

_MOST_MARKS, _MOST_LABELS = 25, 200
_MOST_OF_MATRIX, _MOST_MISTAKES = 20, 100
_LONGEST = 120  # characters of a label


def shares(facts: Facts) -> Iterator[Html]:
    """Yield the shares of labels, or the figures of numbers, of each estimate."""
    for found in facts.estimates:
        parts = [*_numbers(found), *_labels(found)]
        if parts and found.field is not None:
            yield Html(f"<h3>Field {text(found.field)}</h3>")
        yield from parts
    if facts.no_estimate:
        yield Html(f"<p>{text(facts.no_estimate)}</p>")


def _numbers(found: Estimate) -> Iterator[Html]:
    if found.quantities:
        marks = [_mark(each.name, each.raw, each.figure, number) for each in found.quantities]
        yield Html(marks_picture("Mean and quantiles", marks, Scale.of_numbers(marks)))


def _labels(found: Estimate) -> Iterator[Html]:
    if not found.labels:
        return
    shown = found.labels[:_MOST_MARKS]
    marks = [_mark(cut(shown_label(each.label), _LONGEST), each.raw, each.share, percent) for each in shown]
    yield Html(marks_picture("Share of each label in the whole table", marks, Scale.of_shares(marks)))
    if more := len(found.labels) - len(shown):
        yield Html(f'<p class="muted">{counted(more, "more label")} in the table below.</p>')
    columns = [Column("label", NAME), Column("rows", COUNT), Column("raw share", COUNT)]
    if found.gold:
        columns += [Column(name, COUNT) for name in ("corrected", "from", "to", "precision", "recall", "hand labels")]
    rows = [
        (
            cut(shown_label(each.label), _LONGEST),
            count(each.rows),
            Num(each.raw, percent(each.raw)),
            *(
                (
                    _share(each.share.value),
                    _share(each.share.low),
                    _share(each.share.high),
                    _share(each.precision.value),
                    _share(each.recall.value),
                    count(each.hand),
                )
                if found.gold
                else ()
            ),
        )
        for each in found.labels[:_MOST_LABELS]
    ]
    raw = "raw: as the model's labels have it"
    said = (
        f"Share of each label ({raw}; corrected: by the hand labels, with its 95% interval)"
        if found.gold
        else f"Share of each label ({raw})"
    )
    table = grid(said, columns, rows, left_out=max(0, len(found.labels) - _MOST_LABELS))
    yield joined(f"<details><summary>{counted(len(found.labels), 'label')} as a table</summary>", table, "</details>")


def _share(value: float | None) -> Num:
    return Num(value, "" if value is None else percent(value))


def _mark(name: str, raw: float | None, figure: Figure, written: Callable[[float], str]) -> Mark:
    before = "" if raw is None else written(raw)
    said = " \u2192 ".join(each for each in (before, with_interval(figure, written)) if each)
    return Mark(name, raw, figure.value, figure.low, figure.high, said)


def confusion(facts: Facts) -> Iterator[Html]:
    """Yield what the hand labels say: figures, and the model's labels beside them."""
    for found in facts.estimates:
        if not found.gold:
            continue
        if found.field is not None:
            yield Html(f"<h3>Field {text(found.field)}</h3>")
        yield terms((term, said) for term, said in facts_of(found) if term not in {"warning", "rows"})
        if found.confusion.counted:
            yield from _matrix(found)


def _matrix(found: Estimate) -> Iterator[Html]:
    mistakes, whole = found.mistakes, found.confusion
    part = _most_mistaken(found)
    if len(part.model) and len(part.gold):
        is_part = len(part.model) < len(whole.model) or len(part.gold) < len(whole.gold)
        what = (
            f"Rows with a hand label: the {_MOST_OF_MATRIX} labels with most mistakes"
            if is_part
            else "Rows with a hand label"
        )
        names = [[cut(shown_label(each), _LONGEST) for each in side] for side in (part.model, part.gold)]
        yield Html(heat_table(what, names[0], names[1], part.counted, "model \u2193 by hand \u2192"))
    if mistakes:
        rows = [
            (cut(shown_label(each.label), _LONGEST), cut(shown_label(each.gold), _LONGEST), count(each.rows))
            for each in mistakes[:_MOST_MISTAKES]
        ]
        columns = [Column("the model's", NAME), Column("by hand", NAME), Column("rows", COUNT)]
        left = max(0, len(mistakes) - _MOST_MISTAKES)
        yield grid("The most frequent mistakes", columns, rows, left_out=left)


def _most_mistaken(found: Estimate) -> Confusion:
    """Return the matrix, or if it is large its labels with most mistakes."""
    whole = found.confusion
    if max(len(whole.model), len(whole.gold)) <= _MOST_OF_MATRIX:
        return whole
    counts: dict[str | None, int] = {}
    for each in found.mistakes:
        for label in (each.label, each.gold):
            counts[label] = counts.get(label, 0) + each.rows
    kept = {*sorted(counts, key=lambda label: -counts[label])[:_MOST_OF_MATRIX]}
    model = [place for place, label in enumerate(whole.model) if label in kept]
    gold = [place for place, label in enumerate(whole.gold) if label in kept]
    return Confusion(
        tuple(whole.model[place] for place in model),
        tuple(whole.gold[place] for place in gold),
        tuple(tuple(whole.counted[row][column] for column in gold) for row in model),
        (),
    )

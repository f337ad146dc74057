"""An estimate as text: the number first, then what it rests on, then the tables.

Invariant: a line takes at most 80 columns, unless a label or a file's name alone is longer than its part of it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from batcher.quality.cascade import Bin
from batcher.quality.estimating import LabelFigures
from batcher.quality.figures import Figure
from batcher.reports.quality.estimated import Certainty, Estimate, Kind, shown_label
from batcher.settings import OPTIONS
from batcher.tables import cut, told_apart, width, wrapped
from batcher.visible import harmless, on_one_line
from batcher.words import by_reader, counted, percent

WIDTH = 80
MOST_LABELS = 30
"""Labels that a text or a notebook shows; JSON and the page show all."""

_TERM = 9  # columns of what a line is about, as in `batcher.tables`
_NAME = 22  # columns of a label, at most
_NAME_OF_THREE = 18  # beside three figures with their intervals
_NAME_OF_MATRIX = 12
_MOST_MISTAKES = 10
_MOST_LEAST = 10
_KAPPA = ((0.8, "almost perfect"), (0.6, "substantial"), (0.4, "moderate"), (0.2, "fair"), (0.0, "slight"))
"""Lower ends, and what Landis and Koch (1977) call agreement above them."""


def text_of(found: Estimate) -> str:
    """Return an estimate as text."""
    lines = [title_of(found)]
    lines += [line for term, said in facts_of(found) for line in _fact(term, said)]
    steps = [line for step in found.steps for line in _step(on_one_line(step))]
    lines += [f"  {'' if place else 'next':<{_TERM}} {line}" for place, line in enumerate(steps)]
    for part in (
        _quantities(found),
        _shares(found),
        _per_label(found),
        _confusion(found),
        *map(_certainty, found.certainty),
    ):
        if table := [*part]:
            lines += ["", *table]
    if found.drift is not None:
        lines += ["", *str(found.drift).splitlines()]
    return harmless("\n".join(line.rstrip() for line in lines))


def _step(step: str) -> Iterator[str]:
    """Yield a command; its remark has a line of its own if both are too long for one."""
    command, mark, remark = step.partition("  # ")
    if width(step) + _TERM + 3 <= WIDTH or not mark:
        yield step
    else:
        yield command
        yield f"# {remark}"


def title_of(found: Estimate) -> str:
    """Return the number that says most, with its interval."""
    name = found.keyword if found.field is None else f"{found.keyword}, field {found.field}"
    if not found.design.kind:
        return f"{name}: raw numbers only, because there are no hand labels"
    if not found.gold:
        return f"{name}: raw numbers only: none of the {found.design.drawn:,} rows drawn has a hand label yet"
    what, written = ("mean", number) if found.kind is Kind.NUMBERS else ("accuracy", percent)
    if found.main.value is None:
        return f"{name}: {what} unknown, because no row with a hand label has an answer"
    if found.design.kind == "all":
        return f"{name}: {what} {written(found.main.value)}, exactly: every row has a hand label"
    ends = _ends(found.main, written)
    return f"{name}: {what} {written(found.main.value)}" + (f", 95% interval {ends}" if ends else " (no interval)")


def facts_of(found: Estimate, *, can_draw: bool = False) -> Iterator[tuple[str, str]]:
    """Yield what the numbers rest on, and what they mean, each with a term.

    Args:
        found: the estimate.
        can_draw: whether they are shown on a page that draws rows itself.
    """
    yield from (("warning", each) for each in found.warnings)
    yield "rows", _rows(found)
    if found.design.words:
        yield "by hand", found.design.words
    if found.kind is Kind.NUMBERS and found.accuracy.value is not None:
        yield "equal", f"{with_interval(found.accuracy)} of the answers are the number given by hand"
    if found.distance.value is not None:
        yield (
            "distance",
            f"{with_interval(found.distance, number)} on average between the model's number and that by hand",
        )
    if found.bias.value is not None:
        yield "bias", f"{with_interval(found.bias, signed)}: the model's numbers less those by hand, on average"
    if found.kappa.value is not None:
        yield "kappa", f"{with_interval(found.kappa, index)}: {_in_a_word(found.kappa.value)} (Cohen)"
    if found.alpha.value is not None:
        yield "alpha", f"{with_interval(found.alpha, index)}: {_reliable(found.alpha.value)} (Krippendorff)"
    if found.more:
        yield "to halve", _halving(found, found.more, can_draw)
    if found.few:
        yield "too few", _few(found)
    yield from (("note", each) for each in found.notes)
    if found.export is not None:
        yield "export", str(found.export)


def _rows(found: Estimate) -> str:
    what = {Kind.LABELS: "with a label", Kind.TEXT: "with an answer", Kind.NUMBERS: "with a number"}[found.kind]
    parts = [f"{found.ok:,} {what}"]
    others = (("invalid", found.invalid), ("error", found.error), ("without a result yet", found.left))
    parts += [f"{count:,} {name}" for name, count in others if count]
    return f"{found.rows:,}: {', '.join(parts)}"


def _in_a_word(kappa: float) -> str:
    if kappa < 0:
        return "worse than by chance"
    return f"{next(word for low, word in _KAPPA if kappa >= low)} agreement beyond chance"


def _reliable(alpha: float) -> str:
    if alpha >= 0.8:
        return "reliable"
    return "good enough for tentative conclusions only" if alpha >= 0.667 else "not reliable"


def _halving(found: Estimate, more: int, can_draw: bool) -> str:
    what = "mean" if found.kind is Kind.NUMBERS else "accuracy"
    said = f"about {counted(more, 'more hand label')} would make the interval of the {what} half as wide"
    if found.design.kind != "random":
        return said
    if found.gold + more <= found.design.drawn:
        return f"{said}: that many rows of the sample have none yet"
    size = min(found.rows, found.gold + more)
    return f"{said}: draw more rows, {size:,} in all" if can_draw else f"{said}: {command_of(found, 'sample', size)}"


class OfRun(Protocol):
    """What is about a run."""

    @property
    def keyword(self) -> str: ...

    @property
    def output_dir(self) -> Path: ...


def command_of(found: OfRun, verb: str, n: int | None = None) -> str:
    """Return a command about the run, as the reader would write it."""
    where = "" if str(found.output_dir) == OPTIONS["output_dir"].default else str(found.output_dir)
    words = [shlex.quote(found.keyword), *([f"-n {n}"] if n else []), *([f"-o {shlex.quote(where)}"] if where else [])]
    given = [repr(found.keyword), *([f"{n=}"] if n else []), *([f"output_dir={where!r}"] if where else [])]
    return by_reader(
        command_line=f"batcher {verb} {' '.join(words)}",
        python=f"batcher.{verb}({', '.join(given)})",
    )


def _few(found: Estimate) -> str:
    if len(found.few) == len(found.labels):
        return "hand labels of every label for its precision and recall"
    shown, more = _names(found.few, _NAME)[:5], len(found.few) - 5
    rest = f" and {more} more" if more > 0 else ""
    return f"hand labels for precision and recall of {', '.join(shown)}{rest}"


# -- Tables


def _quantities(found: Estimate) -> Iterator[str]:
    if not found.quantities:
        return
    heads = ("of all rows", "raw", "estimate", "95% interval")
    rows = [(each.name, _value(each.raw, number), *_cells(each.figure, number)) for each in found.quantities]
    columns = len(heads) if found.gold else 2
    yield from _table(heads[:columns], [row[:columns] for row in rows])


def _shares(found: Estimate) -> Iterator[str]:
    if not found.labels:
        return
    shown, left = found.labels[:MOST_LABELS], found.labels[MOST_LABELS:]
    heads, rows = share_table(found, shown)
    yield from _table(heads, rows)
    if left:
        raw = percent(sum(each.raw for each in left))
        more = by_reader(command_line="--json and --html show", python="`labels` has")
        yield f"  {counted(len(left), 'other label')}, together {raw} raw: {more} all"


def share_table(found: Estimate, labels: Iterable[LabelFigures]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return the heads and the lines of the shares: without hand labels, what is counted alone."""
    heads = ("share of all rows", "rows", "raw", "estimate", "95% interval", "by hand")
    columns = len(heads) if found.gold else 3
    rows = [
        (each.label or "(empty)", f"{each.rows:,}", percent(each.raw), *_cells(each.share, percent), f"{each.hand:,}")
        for each in labels
    ]
    return heads[:columns], [row[:columns] for row in rows]


def _per_label(found: Estimate) -> Iterator[str]:
    if found.gold and found.labels:
        rows = [quality_cells(each) for each in found.labels[:MOST_LABELS] if each.hand or each.checked]
        yield from _table(("of each label", "precision", "recall", "F1"), rows, most=_NAME_OF_THREE)


def quality_cells(each: LabelFigures) -> tuple[str, ...]:
    """Return the cells of a label's line, in whole percent."""
    figures = (each.precision, each.recall, each.f1)
    return each.label or "(empty)", *(with_interval(figure, "{:.0%}".format) for figure in figures)


def _confusion(found: Estimate) -> Iterator[str]:
    confusion = found.confusion
    if not confusion.counted:
        return
    heads, names = _names(confusion.gold, _NAME_OF_MATRIX), _names(confusion.model, _NAME)
    head = "model \\ by hand"
    first = max(map(width, [head, *names]))
    if 2 + first + sum(2 + max(width(each), 3) for each in heads) <= WIDTH:
        cells = [(name, *map("{:,}".format, row)) for name, row in zip(names, confusion.counted, strict=True)]
        yield from _table((head, *heads), cells)
        return
    mistakes = found.mistakes
    rows = [(shown_label(each.label), shown_label(each.gold), f"{each.rows:,}") for each in mistakes[:_MOST_MISTAKES]]
    if rows:
        yield from _table(("most frequent mistakes: the model's", "by hand", "rows"), rows, left=2)
    if more := len(mistakes) - len(rows):
        all_of_them = by_reader(command_line="--json and --html show", python="`mistakes` has")
        yield f"  {counted(more, 'other pair')} of labels: {all_of_them} all"


def _certainty(certain: Certainty) -> Iterator[str]:
    if certain.calibration is not None:
        heads = (certain.by, "by hand", "mean", "right", "95% interval")
        yield from _table(heads, [bin_cells(each) for each in certain.calibration.bins])
    yield from _fact("", how_sure(certain))
    if certain.calibration is not None:
        return
    yield f"  least certain first, by {certain.by}; rows are counted from 0"
    for each in certain.least[:_MOST_LEAST]:
        yield f"  row {each.position:>9,}  {each.certainty:.2f}  {cut(on_one_line(each.answer), WIDTH - 24)}"


def how_sure(certain: Certainty) -> str:
    """Return what a certainty means."""
    if certain.calibration is None:
        rows = counted(certain.rows, "row")
        return f"the {certain.by} of {rows} is known; without hand labels it is an order, and no probability"
    if (surer := certain.calibration.surer) is None:
        return "no right answer can be compared with a wrong one"
    return (
        f"of a right and a wrong answer, the right one has the higher {certain.by} in {surer:.0%} of all pairs (50%: it"
        " says nothing)"
    )


def bin_cells(each: Bin) -> tuple[str, ...]:
    """Return the cells of a range of certainty."""
    ends = f"{each.low:.2f}" + (f" to {each.high:.2f}" if each.high > each.low else "")
    return ends, f"{each.hand:,}", f"{each.score:.2f}", *_cells(each.accuracy, percent)


# -- Numbers


def number(value: float) -> str:
    """Return a number of four significant digits."""
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def signed(value: float) -> str:
    """Return a difference of four significant digits."""
    return f"{value:+,.4g}"


def with_interval(figure: Figure, written: Callable[[float], str] = percent) -> str:
    """Return a figure with its interval, if it has one; empty if it is unknown."""
    ends = _ends(figure, written)
    return _value(figure.value, written) + (f" ({ends})" if ends else "")


def index(value: float) -> str:
    """Return kappa or alpha."""
    return f"{value:.2f}"


def _value(value: float | None, written: Callable[[float], str]) -> str:
    return "" if value is None else written(value)


def _ends(figure: Figure, written: Callable[[float], str]) -> str:
    if figure.low is None or figure.high is None or figure.low == figure.high:
        return ""
    return f"{written(figure.low)} to {written(figure.high)}"


def _cells(figure: Figure, written: Callable[[float], str]) -> tuple[str, str]:
    return _value(figure.value, written), _ends(figure, written)


# -- Lines


def _fact(term: str, said: str) -> Iterator[str]:
    return wrapped(f"  {term:<{_TERM}} ", on_one_line(said), WIDTH)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, most: int = _NAME) -> Iterator[str]:
    """Yield the lines of a table; the first columns are names and stand to the left, the others to the right."""
    cells = [*rows]
    names = _names((each for row in cells for each in row[:left]), most)
    lines = [[*heads], *([*names[left * place :][:left], *row[left:]] for place, row in enumerate(cells))]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = [
            cell + " " * (wide - width(cell)) if place < left else " " * (wide - width(cell)) + cell
            for place, (cell, wide) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  " + "  ".join(padded)


def _names(labels: Iterable[str | None], columns: int) -> list[str]:
    """Return labels in at most these columns each, told apart from each other."""
    names = [on_one_line(shown_label(each)) for each in labels]
    short = told_apart(names, columns)
    return [short[each] for each in names]

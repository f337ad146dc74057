"""An estimate as text: the number first, then what it rests on, then the tables.

Invariant: a line takes at most 80 columns, unless a label or a file's name alone is longer than its part of it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence

from batcher.reports.quality.estimated import (
    Bin,
    Certainty,
    Design,
    Estimate,
    Figure,
    Kind,
    LabelQuality,
    Share,
    shown_label,
)
from batcher.tables import cut, width
from batcher.visible import harmless, on_one_line
from batcher.words import by_reader, counted, option, percent

WIDTH = 80
MOST_LABELS = 30
"""Labels that a text or a notebook shows; JSON and the page show all."""

_TERM = 9  # columns of what a line is about, as in `batcher.tables`
_NAME = 24  # columns of a label, at most
_NAME_OF_MATRIX = 12
_MOST_MISTAKES = 10
_MOST_LEAST = 10
_KAPPA = ((0.8, "almost perfect"), (0.6, "substantial"), (0.4, "moderate"), (0.2, "fair"), (0.0, "slight"))
"""Lower ends, and what Landis and Koch (1977) call agreement above them."""


def text_of(found: Estimate) -> str:
    """Return an estimate as text."""
    lines = [title_of(found)]
    lines += [line for term, said in facts_of(found) for line in _wrapped(term, said)]
    lines += [f"  {'' if place else 'next':<{_TERM}} {on_one_line(step)}" for place, step in enumerate(found.steps)]
    for part in (_quantities(found), _shares(found), _per_label(found), _confusion(found), _certainty(found)):
        if table := [*part]:
            lines += ["", *table]
    if found.drift is not None:
        lines += ["", *str(found.drift).splitlines()]
    return harmless("\n".join(line.rstrip() for line in lines))


def title_of(found: Estimate) -> str:
    """Return the number that says most, with its interval."""
    name = found.keyword if found.of_field is None else f"{found.keyword}, field {found.of_field}"
    if found.design is None:
        return f"{name}: raw numbers only, because there are no hand labels"
    if not found.gold:
        return f"{name}: raw numbers only, because none of the {found.design.drawn:,} rows drawn has a hand label yet"
    if found.kind is Kind.NUMBERS:
        mean = next((each.figure for each in found.quantities if each.name == "mean"), None)
        return f"{name}: mean {_long(mean, number)}" if mean else f"{name}: no row has a number"
    if found.accuracy is None:
        return f"{name}: no accuracy, because no row with a hand label has an answer"
    if found.design.kind == "all":
        return f"{name}: accuracy {percent(found.accuracy.value)}, exactly: every row has a hand label"
    return f"{name}: accuracy {_long(found.accuracy, percent)}"


def facts_of(found: Estimate) -> Iterator[tuple[str, str]]:
    """Yield what the numbers rest on, and what they mean, each with a term."""
    yield from (("warning", each) for each in found.warnings)
    yield "rows", _rows(found)
    if found.design is not None:
        yield "by hand", design_in_words(found.design, found.rows)
    if found.kind is Kind.NUMBERS and found.accuracy is not None:
        yield "equal", f"{with_interval(found.accuracy)} of the answers are the number given by hand"
    if found.kappa is not None:
        yield "kappa", f"{with_interval(found.kappa, index)}: {_in_a_word(found.kappa.value)} (Cohen)"
    if found.alpha is not None:
        yield "alpha", f"{with_interval(found.alpha, index)}: {_reliable(found.alpha.value)} (Krippendorff)"
    if found.more is not None:
        yield "to halve", _halving(found)
    if found.few:
        yield "too few", _few(found)
    yield from (("note", each) for each in found.notes)
    if found.export is not None:
        yield "export", str(found.export)


def design_in_words(design: Design, rows: int) -> str:
    """Return how the rows with a hand label were chosen."""
    have = f"; {counted(design.gold, 'has', 'have')} a hand label"
    if design.kind == "random":
        return f"{counted(design.drawn, 'row')} drawn at random of {rows:,} (seed {design.seed}){have}"
    if design.kind == "per label":
        drawn = counted(design.drawn, "row")
        return f"{drawn} drawn at random, by the model's label, of {rows:,} (seed {design.seed}){have}"
    column = f"column {design.column!r}" if design.column is not None else "the table"
    if design.kind == "all":
        return f"{column}: all {counted(design.gold, 'row')}"
    chosen = "chosen at random, as you said" if design.kind == "random column" else "chosen in an unknown way"
    return f"{column}: {counted(design.gold, 'row')} of {rows:,}, {chosen}"


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


def _halving(found: Estimate) -> str:
    more = found.more or 0
    what = "mean" if found.kind is Kind.NUMBERS else "accuracy"
    said = f"about {counted(more, 'more hand label')} would make the interval of the {what} half as wide"
    design = found.design
    if design is None or design.kind != "random":
        return said
    rows = min(found.rows, design.drawn + more)
    return f"{said}: {sample_command(found.keyword, rows)}"


def sample_command(keyword: str, rows: int | None = None, *, read: str | None = None) -> str:
    """Return the command that draws rows, or that reads a file back."""
    what = {"rows": rows} if read is None else {"read": read}
    [(name, value)] = what.items()
    given = f"-n {value}" if name == "rows" else option(name, value)
    return by_reader(
        command_line=f"batcher sample {keyword} {given}", python=f"batcher.sample({keyword!r}, {option(name, value)})"
    )


def _few(found: Estimate) -> str:
    names = [on_one_line(shown_label(each)) for each in found.few]
    shown, more = names[:5], len(names) - 5
    rest = f" and {more} more" if more > 0 else ""
    return f"hand labels for precision and recall of {', '.join(shown)}{rest}"


# -- Tables


def _quantities(found: Estimate) -> Iterator[str]:
    if not found.quantities:
        return
    rows = [
        (
            each.name,
            "" if each.raw is None else number(each.raw),
            "" if each.figure is None else number(each.figure.value),
            "" if each.figure is None else _ends(each.figure, number),
        )
        for each in found.quantities
    ]
    heads = ("of all rows", "raw", "estimate", "95% interval")
    yield from _table(heads if found.gold else heads[:2], [row if found.gold else row[:2] for row in rows])


def _shares(found: Estimate) -> Iterator[str]:
    if not found.shares:
        return
    shown, left = found.shares[:MOST_LABELS], found.shares[MOST_LABELS:]
    heads = ("share of all rows", "rows", "raw", "estimate", "95% interval", "by hand")
    rows = [share_cells(each) for each in shown]
    few = 6 if found.gold else 3
    yield from _table(heads[:few], [row[:few] for row in rows])
    if left:
        yield _others(left)


def share_cells(share: Share) -> tuple[str, ...]:
    """Return the cells of a label's line."""
    estimated = ("", "") if share.share is None else (percent(share.share.value), _ends(share.share, percent))
    by_hand = "" if share.label is None else f"{share.gold:,}"
    return shown_label(share.label), f"{share.rows:,}", percent(share.raw), *estimated, by_hand


def _others(left: Sequence[Share]) -> str:
    raw = percent(sum(each.raw for each in left))
    more = by_reader(command_line="--json and --html show", python="`shares` has")
    return f"  {counted(len(left), 'other label')}, together {raw} raw: {more} all"


def _per_label(found: Estimate) -> Iterator[str]:
    rows = [quality_cells(each) for each in found.per_label[:MOST_LABELS]]
    if rows:
        yield from _table(("how good the model is at", "precision", "recall", "F1"), rows)


def quality_cells(each: LabelQuality) -> tuple[str, ...]:
    """Return the cells of a label's line."""
    return shown_label(each.label), *(_short(figure) for figure in (each.precision, each.recall, each.f1))


def _confusion(found: Estimate) -> Iterator[str]:
    confusion = found.confusion
    if not confusion.gold:
        return
    heads = [_name(each, _NAME_OF_MATRIX) for each in confusion.labels]
    names = [_name(each, _NAME) for each in confusion.gold]
    head = "by hand \\ model"
    first = max(map(width, [head, *names]))
    if 2 + first + sum(2 + max(width(each), 3) for each in heads) <= WIDTH:
        cells = [(name, *map("{:,}".format, row)) for name, row in zip(names, confusion.counts, strict=True)]
        yield from _table((head, *heads), cells)
        return
    mistakes = confusion.mistakes
    rows = [(shown_label(each.gold), shown_label(each.label), f"{each.rows:,}") for each in mistakes[:_MOST_MISTAKES]]
    if rows:
        yield from _table(("most frequent mistakes: by hand", "the model's", "rows"), rows, left=2)
    if more := len(mistakes) - len(rows):
        all_of_them = by_reader(command_line="--json and --html show", python="`confusion` has")
        yield f"  {counted(more, 'other pair')} of labels: {all_of_them} all"


def _certainty(found: Estimate) -> Iterator[str]:
    certain = found.certainty
    if certain is None:
        return
    if certain.bins:
        heads = (f"{certain.by}", "by hand", "mean", "right", "95% interval")
        yield from _table(heads, [bin_cells(each) for each in certain.bins])
        yield ""
    yield f"  least certain first, by {certain.by}, rows from 0{'' if certain.bins else order_only(certain)}:"
    for each in certain.least[:_MOST_LEAST]:
        yield f"  row {each.position:>9,}  {each.certainty:.2f}  {cut(on_one_line(each.answer), WIDTH - 24)}"


def order_only(certain: Certainty) -> str:
    """Return what this certainty means without hand labels."""
    return f" ({counted(certain.rows, 'row has', 'rows have')} it); without hand labels it is an order only"


def bin_cells(each: Bin) -> tuple[str, ...]:
    """Return the cells of a range of certainty."""
    ends = f"{each.low:.2f} to {each.high:.2f}"
    return ends, f"{each.rows:,}", f"{each.certainty:.2f}", percent(each.accuracy.value), _ends(each.accuracy, percent)


# -- Numbers


def number(value: float) -> str:
    """Return a number of four significant digits."""
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def with_interval(figure: Figure, written: Callable[[float], str] = percent) -> str:
    """Return a figure with its interval, if it has one."""
    return written(figure.value) + (f" ({_ends(figure, written)})" if figure.low is not None else "")


def index(value: float) -> str:
    """Return kappa or alpha."""
    return f"{value:.2f}"


def _long(figure: Figure, written: Callable[[float], str]) -> str:
    ends = f", 95% interval {_ends(figure, written)}" if figure.low is not None else ""
    return f"{written(figure.value)}{ends}"


def _ends(figure: Figure, written: Callable[[float], str]) -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"{written(figure.low)} to {written(figure.high)}"


def _short(figure: Figure | None) -> str:
    """Return a share and its interval in whole percent."""
    return "" if figure is None else with_interval(figure, "{:.0%}".format)


# -- Lines


def _wrapped(term: str, said: str) -> Iterator[str]:
    """Yield a term and what is said of it, on as many lines as it takes."""
    indent = " " * (_TERM + 3)
    lines = textwrap.wrap(on_one_line(said), WIDTH - len(indent), break_long_words=False, break_on_hyphens=False)
    for place, line in enumerate(lines or [""]):
        yield f"  {'' if place else term:<{_TERM}} {line}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> Iterator[str]:
    """Yield the lines of a table; the first columns are names and stand to the left, the others to the right."""
    lines = [[*heads], *([*(_name(each, _NAME) for each in row[:left]), *row[left:]] for row in rows)]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = [
            cell + " " * (wide - width(cell)) if place < left else " " * (wide - width(cell)) + cell
            for place, (cell, wide) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  " + "  ".join(padded)


def _name(label: str | None, columns: int) -> str:
    return cut(on_one_line(shown_label(label)), columns)

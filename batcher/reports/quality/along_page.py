"""How answers change along a run, as HTML: small bars for each label, and tables.

Invariant: all text is escaped, nothing is loaded from elsewhere, and no script runs.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from batcher.reports.quality.along import SHOWN, Along, Stretch
from batcher.tables import cut, html_table
from batcher.visible import harmless, on_one_line
from batcher.words import counted, percent

_MOST_ROWS = 8  # labels in a picture
_MOST_CHANGES = 30
_ROW, _TEXT, _BAR = 52, 18, 24  # pixels: of a line of the picture, of its words, and of the highest bar below them
_STYLE = "display:block;width:100%;max-width:720px;font:12px system-ui,sans-serif"
_GAP = 0.12  # between bars, of their width


def html_of(found: Along) -> str:
    """Return tables and a picture."""
    title = f"{counted(found.rows, 'answer')} in {len(found.by_input)} stretches of the table"
    facts = [("" if place else "differs", str(each)) for place, each in enumerate(found.main_changes)]
    facts = facts or [("differs", "no stretch")]
    facts += [("remark", found.remark)] if found.remark else []
    facts += [("warning", each) for each in found.warnings]
    table = html_table(title, facts, has_labels=True)
    parts = [f'<div class="facts">{table}</div>', *_more(found), _picture("in the order of the table", found.by_input)]
    if not found.is_one_order:
        parts.append(_picture("in the order in which they were asked", found.by_time))
    if len(found.by_endpoint) > 1:
        rows = [
            (
                each.name,
                f"{each.rows:,}",
                percent(each.invalid / each.rows) if each.rows else "",
                _seconds(each.seconds),
            )
            for each in found.by_endpoint
        ]
        parts.append(html_table("", rows, ("endpoint", "answers", "invalid", "median latency"), has_labels=True))
    return "\n".join(parts)


def _more(found: Along) -> Iterator[str]:
    """Yield the changes in answers that are not among the first ones, to be opened."""
    rest = found.changes_in_answers[SHOWN:]
    if not rest:
        return
    rows = [(str(each),) for each in rest[:_MOST_CHANGES]]
    what = f"the next {len(rows)} of {counted(len(rest), 'more difference')}"
    what = what if len(rows) < len(rest) else counted(len(rest), "more difference")
    yield f'<details class="facts"><summary>{what} in answers</summary>{html_table("", rows)}</details>'


def _picture(title: str, stretches: Sequence[Stretch]) -> str:
    """Return an SVG with a line of bars for each label, for answers that are no label, and for the latency."""
    lines = [*_lines_of(stretches)]
    # Places are in percent, so that text keeps its size on a narrow page.
    size = f'height="{_ROW * len(lines) + 24}" fill="currentColor" style="{_STYLE}"'
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>',
        f"<title>{_text(f'Answers {title}')}</title>",
        f'<text x="0" y="14" fill-opacity="0.75">{_text(title)}</text>',
    ]
    for place, (name, values, written) in enumerate(lines):
        drawn += _bars(name, [each.name for each in stretches], values, written, 24 + _ROW * place)
    return "\n".join([*drawn, "</svg>"])


_Line = tuple[str, Sequence[float], Callable[[float], str]]


def _lines_of(stretches: Sequence[Stretch]) -> Iterator[_Line]:
    whole: Counter[str] = Counter()
    for each in stretches:
        whole.update(each.labels)
    for label, _ in whole.most_common(_MOST_ROWS):
        yield label or "(empty)", [each.labels.get(label, 0) / max(each.rows, 1) for each in stretches], percent
    if any(each.invalid for each in stretches):
        yield "invalid", [each.invalid / max(each.rows, 1) for each in stretches], percent
    if any(each.seconds for each in stretches):
        yield "median latency", [each.seconds or 0.0 for each in stretches], _seconds


def _bars(
    name: str, stretches: Sequence[str], values: Sequence[float], written: Callable[[float], str], top: int
) -> Iterator[str]:
    highest = max(values) or 1.0
    step, bottom = 100 / len(values), top + _TEXT + _BAR
    yield f'<text x="0" y="{top + 12}">{_text(cut(on_one_line(name), 36))}</text>'
    yield f'<text x="100%" y="{top + 12}" text-anchor="end" fill-opacity="0.75">up to {_text(written(highest))}</text>'
    for place, value in enumerate(values):
        height = _BAR * value / highest
        said = f"{stretches[place]}: {name} {written(value)}"
        yield (
            f'<rect x="{place * step:.2f}%" y="{bottom - height:.1f}" width="{step * (1 - _GAP):.2f}%"'
            f' height="{height:.1f}" fill-opacity="0.55"><title>{_text(said)}</title></rect>'
        )


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2g} s"


def _text(text: str) -> str:
    return html.escape(harmless(on_one_line(text)))

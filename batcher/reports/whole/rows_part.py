"""Rows by status and rows to read, as parts of the report.

Invariant: lists are bounded, and say how many rows they leave out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batcher.reports.pages.escape import Html, joined, text
from batcher.reports.pages.grid import COUNT, SAID, WIDE, Cell, Column, Num, cells, count, grid
from batcher.reports.pages.grid import more as left_out
from batcher.reports.whole.facts import Example, Facts
from batcher.reports.whole.lead import STATES
from batcher.words import counted, percent


def by_status(facts: Facts) -> Iterator[Html]:
    """Yield a table of the rows by status, and what else is counted of rows."""
    figures = facts.figures
    rows: list[Sequence[Cell]] = []
    for name, word in STATES:
        number = getattr(figures, name)
        share = number / figures.rows if figures.rows else 0.0
        dot = Html(f'<span class="dot {name}"></span>{text(word)}')
        rows.append((dot, count(number), Num(share, percent(share) if figures.rows else "")))
    yield grid(
        f"{counted(figures.rows, 'row')}", [Column("status"), Column("rows", COUNT), Column("share", COUNT)], rows
    )
    notes = [
        (figures.cut, "answer was cut off at max_tokens", "answers were cut off at max_tokens"),
        (figures.corrected, "answer was corrected by hand", "answers were corrected by hand"),
        (figures.tied, "vote was tied", "votes were tied"),
        (figures.went_on, "row was answered by the second endpoint", "rows were answered by the second endpoint"),
        (facts.empty, "answer is empty", "answers are empty"),
    ]
    if said := [counted(number, *words) for number, *words in notes if number]:
        yield Html(f"<p>{text('; '.join(said))}.</p>")


def failures(facts: Facts) -> Iterator[Html]:
    """Yield the reasons of failures, and examples of each."""
    if not facts.failures:
        return
    columns = [Column("reason", WIDE), Column("status"), Column("rows", COUNT)]
    rows = [(each.reason, _status(each.status), count(each.rows)) for each in facts.failures]
    yield grid("Rows without an answer that fits, by reason", columns, rows, left_out=facts.failures_left)
    for each in facts.failures:
        if each.examples:
            table = _examples(f"Examples: {each.reason}", each.examples, "what came")
            summary = f"{counted(len(each.examples), 'example')} of: {each.reason}"
            yield joined(f"<details><summary>{text(summary)}</summary>", table, "</details>")


def uncertain(facts: Facts) -> Iterator[Html]:
    """Yield the rows with the least certain answers."""
    for by, rows in facts.uncertain.items():
        if rows:
            yield _examples(f"The least certain by {by}", rows, "answer", certainty=by)
    if facts.split:
        yield _examples(
            "Rows whose answers are not all the same", facts.split, "answer", certainty="agreement", votes="votes"
        )


def disagreeing(facts: Facts) -> Iterator[Html]:
    """Yield the rows whose hand label is not the model's."""
    if facts.disagreeing:
        rows = counted(facts.disagreements, "row has a hand label that is", "rows have a hand label that is")
        yield _examples(f"{rows} not the model's", facts.disagreeing, "the model's", other="by hand")
        yield left_out(facts.disagreements - len(facts.disagreeing), "row")


def corrected(facts: Facts) -> Iterator[Html]:
    """Yield the rows whose answer a person gave."""
    if facts.corrected:
        yield _examples(
            f"{counted(facts.figures.corrected, 'answer')} given by people",
            facts.corrected,
            "before",
            other="by hand",
            note="who, when, why",
        )
        yield left_out(max(0, facts.figures.corrected - len(facts.corrected)), "correction")


def _examples(
    caption: str,
    rows: Sequence[Example],
    answer: str,
    *,
    other: str = "",
    certainty: str = "",
    votes: str = "",
    note: str = "",
) -> Html:
    """Return a table of rows; what has no name is left out."""
    columns = [Column("row", COUNT)]
    columns += [Column(certainty, COUNT)] if certainty else []
    columns += [Column(each, SAID) for each in (answer, other, votes, note) if each]
    has_cells = any(each.cells for each in rows)
    columns += [Column("input", WIDE)] if has_cells else []
    table = []
    for each in rows:
        line: list[Cell] = [count(each.position)]
        line += [Num(each.certainty, f"{each.certainty or 0.0:.2f}")] if certainty else []
        line += [said or "(empty)" for said, name in ((each.answer, answer), (each.other, other)) if name]
        line += [cells((f"{times}\u00a0\u00d7", said) for said, times in each.votes)] if votes else []
        line += [each.note] if note else []
        line += [cells(each.cells)] if has_cells else []
        table.append(line)
    note = "" if has_cells else '<p class="muted">The input\'s cells of these rows are not at hand.</p>'
    return joined(grid(f"{caption} (rows counted from 0)", columns, table), note)


def _status(status: str) -> Html:
    return Html(f'<span class="dot {text(status)}"></span>{text(status)}')

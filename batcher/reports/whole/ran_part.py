"""What ran, as a part of the report.

Invariant: what was not recorded is said to be so, or left out if it was not used.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from batcher.reports.pages.escape import Html, joined, shown, text
from batcher.reports.pages.grid import COUNT, NAME, SHORT, Column, count, grid, terms
from batcher.reports.whole.facts import Facts, Input, Planned, Ran
from batcher.reports.whole.input_cells import cut
from batcher.words import counted, duration

NOT_RECORDED = "not recorded"
_LONGEST_PROMPT = 4000
_MOST_LABELS = 12
_STATES = {
    "unchanged": "the file is unchanged since",
    "changed": "the file has changed since",
    "gone": "the file is gone",
    "": "",
}


def ran(facts: Facts) -> Iterator[Html]:
    """Yield what ran."""
    found = facts.ran
    yield terms(_terms(found))
    if found.prompt is not None:
        yield joined("<h3>Prompt</h3>", f"<pre>{text(cut(found.prompt, _LONGEST_PROMPT))}</pre>")
    if found.system:
        yield joined("<h3>System message</h3>", f"<pre>{text(cut(found.system, _LONGEST_PROMPT))}</pre>")
    yield Html("<h3>Processes</h3>")
    columns = [
        Column("began", SHORT),
        Column("host", NAME),
        Column("at work", COUNT),
        Column("requests", COUNT),
        Column("failed", COUNT),
        Column("ended"),
    ]
    rows = [
        (
            clock(each.started),
            f"{each.host}, process {each.pid}",
            Html(text(duration(each.worked_s))),
            count(each.sent),
            count(each.failed),
            each.outcome or ("" if each.ended else "no end recorded"),
        )
        for each in reversed(found.processes)
    ]
    known = counted(len(found.processes) + found.processes_left, "process", "processes")
    order = ", the latest first" if len(found.processes) > 1 else ""
    yield grid(f"{known} worked on this run{order}", columns, rows, left_out=found.processes_left)


def _terms(found: Ran) -> Iterator[tuple[str, str | Html]]:
    yield "model", joined("<br>".join(shown(each) for each in found.asked)) if found.asked else NOT_RECORDED
    if found.task != "chat":
        yield "task", found.task
    if found.prompt is None:
        yield "prompt", found.prompt_option or "made by a function, or in the rows themselves"
    yield "parameters", found.params or "none"
    if found.labels:
        names = ", ".join(found.labels[:_MOST_LABELS])
        more = len(found.labels) - _MOST_LABELS
        yield "labels", f"{len(found.labels):,}: {names}" + (f" and {more:,} more" if more > 0 else "")
    if found.fields:
        yield "fields", ", ".join(found.fields)
    if found.examples:
        yield "examples", found.examples
    yield from found.more
    yield (
        "input",
        joined("<br>".join(_input(each) for each in found.inputs)) if found.inputs else "in memory, or a pipe",
    )
    if found.inputs_left:
        yield "", f"and {counted(found.inputs_left, 'more file')}"
    if found.rows_hash:
        yield "hash of the rows", joined("<code>", text(found.rows_hash), "</code>")
    if found.columns:
        yield "columns", ", ".join(found.columns[:60]) + (" \u2026" if len(found.columns) > 60 else "")
    if found.output:
        yield "result", found.output
    yield "versions", ", ".join(f"{name} {value}" for name, value in found.versions) or NOT_RECORDED


def _input(each: Input) -> Html:
    digest = f"<br><code>sha256 {text(each.sha256)}</code>" if each.sha256 else f" (hash {NOT_RECORDED})"
    state = f" ({_STATES[each.state]})" if _STATES.get(each.state) else ""
    return joined(shown(each.path), digest, text(state))


def clock(at: float | None) -> str:
    """Return a moment for people; empty if it is not known."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def planned_now(facts: Facts) -> Planned | None:
    """Return the latest process that recorded what it expected."""
    return next((each for each in reversed(facts.ran.processes) if each.is_recorded), None)

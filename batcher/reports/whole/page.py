"""The report as a page: its parts from top to bottom.

Invariant: it shows facts and adds none; every text that is not of batcher is escaped by the modules of `pages`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from batcher.reports.pages.escape import Html, text
from batcher.reports.pages.frame import Section, report_page
from batcher.reports.whole import answers_part, ran_part, rows_part, work_part
from batcher.reports.whole.facts import Facts
from batcher.reports.whole.lead import lead_of
from batcher.words import counted


def page_of(facts: Facts) -> str:
    """Return the report of a run as a whole page."""
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(facts.at))
    sub = f"{facts.state} \u00b7 report of {at} \u00b7 batcher {facts.version}"
    lead = [f'<p class="sub">{text(sub)}</p>', *lead_of(facts)]
    if facts.hints:
        things = counted(len(facts.hints), "thing")
        lead.append(f'<p><a href="#hints">{text(things)} to look at</a>: {text(facts.hints[0].said)}</p>')
    sections = [each for each in _sections(facts) if any(each.parts)]
    return report_page(f"{facts.keyword}: report", facts.keyword, lead, sections, "report")


def _sections(facts: Facts) -> Iterator[Section]:
    yield Section("ran", "What ran", [*ran_part.ran(facts)])
    yield Section("status", "Rows by status", [*rows_part.by_status(facts)])
    yield Section("shares", "Answers", [*answers_part.shares(facts)])
    yield Section("time", "Over time", [*work_part.over_time(facts)])
    yield Section("latency", "How long answers took", [*work_part.latencies(facts)])
    yield Section("money", "Tokens and money", [*work_part.money(facts)])
    yield Section("confusion", "Model against hand labels", [*answers_part.confusion(facts)])
    yield Section("failures", "Failures", [*rows_part.failures(facts)])
    yield Section("uncertain", "Least certain rows", [*rows_part.uncertain(facts)])
    yield Section("disagreeing", "Rows where people and the model differ", [*rows_part.disagreeing(facts)])
    yield Section("corrected", "Corrections by people", [*rows_part.corrected(facts)])
    yield Section("hints", "What to look at", [*_hints(facts)])


def _hints(facts: Facts) -> Iterator[str]:
    if facts.hints:
        items = "".join(
            f"<li><p>{text(each.said)}</p>" + (f"<p>{text(each.advice)}</p>" if each.advice else "") + "</li>"
            for each in facts.hints
        )
        yield Html(f'<ul class="hints">{items}</ul>')

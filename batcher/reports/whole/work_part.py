"""The work over time, how long it took and what it cost, as parts of the report.

Invariant: what is not known is left empty or said to be so; no sum hides that a part of it is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from batcher.output.figures import worker_lost_in_words
from batcher.reports.pages.curves import Band, Curve, curve_picture, histogram_picture, time_axis
from batcher.reports.pages.escape import Html, joined, text
from batcher.reports.pages.grid import COUNT, NAME, SHORT, Cell, Column, Num, count, grid, more
from batcher.reports.whole.facts import Endpoint, Facts, Planned, Timeline
from batcher.reports.whole.ran_part import NOT_RECORDED, clock
from batcher.words import counted, dollars, duration

_NANO = 1e9
_MOST_BATCHES = 100
_STEPS = 4  # of the axis of time


def over_time(facts: Facts) -> Iterator[Html]:
    """Yield what happened over time."""
    found = facts.timeline
    if found is None:
        yield Html("<p>No request was sent.</p>")
        return
    bands = [
        Band(each.start / found.seconds, each.end / found.seconds, _pause(each.who, each.why)) for each in found.pauses
    ]
    marks = [Band(each.place / found.seconds, 0.0, f"a process began at {clock(each.at)}") for each in found.begun]
    yield curve_picture(Curve("Answers a second", found.answered, "--accent"), bands, marks)
    yield curve_picture(Curve("Requests in flight", found.in_flight, "--ok"), bands, marks)
    if any(found.limited):
        yield curve_picture(Curve("Refused as too many (429) a second", found.limited, "--invalid"), bands, marks)
    if any(found.failed):
        yield curve_picture(Curve("Failed otherwise, a second", found.failed, "--error"), bands, marks)
    yield time_axis([_at(found.seconds * step / _STEPS, found.seconds) for step in range(_STEPS + 1)])
    yield Html(f'<p class="muted">{text(_note(found))}</p>')
    if found.pauses:
        columns = [Column("from", COUNT), Column("for", COUNT), Column("what", SHORT), Column("why")]
        rows = [
            (
                Num(each.start, _at(each.start, found.seconds)),
                Num(each.end - each.start, duration(each.end - each.start)),
                each.who,
                each.why,
            )
            for each in sorted(found.pauses)
        ]
        yield grid("Pauses, in time at work", columns, rows)


def _pause(who: str, why: str) -> str:
    return f"paused: {who}{': ' if why else ''}{why}"


def _at(seconds: float, whole: float) -> str:
    return duration(seconds) if whole >= 10 else f"{seconds:.2f} s"


def _note(found: Timeline) -> str:
    said = f"Time is time at work, {_at(found.seconds, found.seconds)} in all, in steps of {found.width:.3g} s"
    if found.begun:
        said += "; a dashed line is where a further process began"
    if found.pauses:
        said += "; shaded is when an endpoint or the run was paused"
    return f"{said}."


def latencies(facts: Facts) -> Iterator[Html]:
    """Yield how long answered requests took, by endpoint."""
    found = facts.endpoints
    timed = [each for each in found.each if each.quantiles]
    if not timed:
        return
    columns = [Column("endpoint", NAME)]
    columns += [Column(name, COUNT) for name in ("answered", "p50", "p90", "p95", "p99", "max")]
    rows: list[Sequence[Cell]] = [
        (each.name, count(each.answered), *(Num(took, _took(took)) for took in each.quantiles)) for each in timed
    ]
    yield grid("Seconds that answered requests took", columns, rows, left_out=found.left_out)
    for each in timed[:8]:
        yield _histogram(each, found.shortest, found.longest)
    yield time_axis([_took(found.shortest * (found.longest / found.shortest) ** (step / 4)) for step in range(5)])
    yield Html('<p class="muted">The scale is logarithmic; dashed lines are p50 and p95.</p>')


def _histogram(each: Endpoint, shortest: float, longest: float) -> Html:
    def place(took: float) -> float:
        return min(1.0, max(0.0, math.log(max(took, 1e-9) / shortest) / math.log(longest / shortest)))

    half, _, p95, *_ = each.quantiles
    said = f"{each.name}: half took {_took(half)} or less, 95% took {_took(p95)} or less"
    marks = [Band(place(half), 0.0, f"p50 {_took(half)}"), Band(place(p95), 0.0, f"p95 {_took(p95)}")]
    return joined(
        f"<figure><figcaption><bdi>{text(each.name)}</bdi></figcaption>",
        histogram_picture(said, each.histogram, marks),
        "</figure>",
    )


def _took(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.2g} ms"


def money(facts: Facts) -> Iterator[Html]:
    """Yield tokens and money, planned against spent, and by endpoint."""
    processes = facts.ran.processes
    if not facts.figures.requests:
        return
    yield Html(f"<p>{text(_in_all(facts))}</p>")
    asked = [each for each in reversed(processes) if each.sent or each.is_recorded]
    for each in asked[:1]:
        yield _planned(each, is_only=len(asked) == 1)
    if len(asked) > 1:
        table = _by_process(asked, facts.ran.processes_left)
        yield joined(f"<details><summary>all {len(asked):,} processes</summary>", table, "</details>")
    if any(not each.is_recorded and each.sent for each in processes):
        yield Html(f'<p class="muted">What a process had planned is {NOT_RECORDED} by older versions of batcher.</p>')
    yield from _by_endpoint(facts)
    yield from batches(facts)


def _planned(each: Planned, *, is_only: bool) -> Html:
    """Return what the latest process had planned, and what it spent."""
    planned = [count(each.requests), count(each.prompt_tokens), count(each.completion_tokens)]
    planned += [_dollars(each.cost_usd), _duration(each.seconds)]
    spent = [count(each.sent), count(each.used_prompt_tokens), count(each.used_completion_tokens)]
    spent += [_dollars(each.spent_usd), _duration(each.worked_s)]
    unknown = "not known" if each.is_recorded else NOT_RECORDED
    names = ("requests", "prompt tokens", "completion tokens", "money", "time")
    rows: list[Sequence[Cell]] = [
        (name, Num(before.value, before.text or unknown), Num(after.value, after.text or "not known"))
        for name, before, after in zip(names, planned, spent, strict=True)
    ]
    columns = [Column("what"), Column("planned", COUNT), Column("spent", COUNT)]
    which = "Planned when the run began" if is_only else f"Planned by the latest process, at {clock(each.started)}"
    return grid(f"{which}, and spent by it", columns, rows)


def _by_process(processes: Sequence[Planned], left_out: int) -> Html:
    columns = [Column("process", SHORT)]
    columns += [
        Column(f"{what}, {when}", COUNT)
        for what in ("requests", "prompt tokens", "completion tokens", "money", "time")
        for when in ("planned", "spent")
    ]
    rows = [
        (
            clock(each.started),
            count(each.requests),
            count(each.sent),
            count(each.prompt_tokens),
            count(each.used_prompt_tokens),
            count(each.completion_tokens),
            count(each.used_completion_tokens),
            _dollars(each.cost_usd),
            _dollars(each.spent_usd),
            _duration(each.seconds),
            _duration(each.worked_s),
        )
        for each in processes
    ]
    return grid("Planned when a process began, and spent by it, the latest first", columns, rows, left_out=left_out)


def _duration(seconds: float | None) -> Num:
    return Num(seconds, "" if seconds is None else duration(seconds))


def _in_all(facts: Facts) -> str:
    figures = facts.figures
    parts = [
        f"{counted(figures.requests, 'request')}: {figures.answered:,} answered, {figures.failed:,} failed"
        + (f", {figures.hedged:,} overtaken by a second request" if figures.hedged else "")
        + (f", {figures.worker_lost:,} at lost workers" if figures.worker_lost else "")
        + (f", {figures.out:,} without an end" if figures.out else "")
    ]
    if figures.worker_lost:
        parts.append(worker_lost_in_words(figures.worker_lost, figures.worker_lost_usd))
    if len(facts.tiers) > 1:
        by_tier = ", ".join(f"{number:,} {tier or 'not said'}" for tier, number in facts.tiers)
        parts.append(f"answers by service tier: {by_tier}")
    if figures.prompt_tokens is not None and figures.completion_tokens is not None:
        parts.append(f"{figures.prompt_tokens:,} prompt and {figures.completion_tokens:,} completion tokens")
    parts.append(f"cost of the answers {_cost(facts)}")
    if figures.uncertain_usd:
        parts.append(f"at most {dollars(round(figures.uncertain_usd * _NANO))} more for requests without an answer")
    budget = facts.ran.processes[-1].budget_usd if facts.ran.processes else None
    if budget is not None:
        parts.append(f"budget {dollars(round(budget * _NANO))}")
    return f"{'; '.join(parts)}."


def _cost(facts: Facts) -> str:
    if facts.figures.cost_usd is not None:
        return dollars(round(facts.figures.cost_usd * _NANO))
    known = [each.cost_usd for each in facts.endpoints.each if each.cost_usd is not None]
    return f"unknown in part, {dollars(round(sum(known) * _NANO))} or more" if known else "unknown"


def _by_endpoint(facts: Facts) -> Iterator[Html]:
    has_overtaken = any(each.overtaken for each in facts.endpoints.each)
    has_lost = any(each.worker_lost for each in facts.endpoints.each)
    columns = [Column("endpoint", NAME)]
    columns += [
        Column(name, COUNT)
        for name in (
            "requests",
            "answered",
            "429",
            "failed otherwise",
            *(["overtaken"] if has_overtaken else []),
            *(["at lost workers"] if has_lost else []),
            "prompt tokens",
            "cached",
            "completion",
            "money",
        )
    ]
    rows: list[tuple[Cell, ...]] = [
        (
            each.name,
            count(each.requests),
            count(each.answered),
            count(each.limited),
            count(each.failed - each.limited),
            *([count(each.overtaken)] if has_overtaken else []),
            *([count(each.worker_lost)] if has_lost else []),
            count(each.prompt_tokens),
            count(each.cached_tokens),
            count(each.completion_tokens),
            _dollars(each.cost_usd),
        )
        for each in facts.endpoints.each
    ]
    yield grid("By endpoint", columns, rows)
    yield more(facts.endpoints.left_out, "endpoint")
    failed = [(each.name, name, number) for each in facts.endpoints.each for name, number in each.failures]
    if failed:
        columns = [Column("endpoint", NAME), Column("how they ended"), Column("requests", COUNT)]
        table = [(name, f"HTTP {how}" if how.isdigit() else how, count(number)) for name, how, number in failed]
        yield grid("Requests that failed", columns, table[:60], left_out=max(0, len(table) - 60))


def batches(facts: Facts) -> Iterator[Html]:
    """Yield the batches of a run, the latest first."""
    found = facts.batches
    if not found:
        return
    columns = [Column("batch", NAME), Column("at", SHORT), Column("state", SHORT)]
    columns += [Column(name, COUNT) for name in ("rows", "answered", "failed", "not asked", "lost")]
    columns += [Column("submitted", SHORT), Column("ended", SHORT), Column("money", COUNT), Column("reserved", COUNT)]
    columns += [Column("odd")]
    rows: list[Sequence[Cell]] = [
        (
            each.service_id or f"number {each.id}",
            each.where,
            each.state,
            count(each.rows),
            count(each.answered),
            count(each.failed),
            count(each.unasked),
            count(each.lost),
            "" if each.submitted is None else clock(each.submitted),
            "" if each.ended is None else clock(each.ended),
            _dollars(each.cost_usd),
            _dollars(each.reserved_usd),
            each.why,
        )
        for each in reversed(found)
    ]
    yield grid("Batches, the latest first", columns, rows[:_MOST_BATCHES], left_out=max(0, len(rows) - _MOST_BATCHES))
    if any(each.is_out for each in found):
        yield Html(
            '<p class="muted">What a batch that is not done counts is what its service said last; a later run, or'
            " batcher cancel, fetches its results.</p>"
        )


def _dollars(amount: float | None) -> Num:
    return Num(amount, "" if amount is None else dollars(round(amount * _NANO)))

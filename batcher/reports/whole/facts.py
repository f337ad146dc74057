"""What is known of a run, as its report shows it.

Invariant: the facts are values; they know neither the journal nor the page, and are bounded however large the run is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from batcher.output.figures import Figures
from batcher.reports.batches import BatchLine
from batcher.reports.quality.estimated import Estimate

Cells = tuple[tuple[str, str], ...]
"""Cells of a row of the input, each with its column."""


class Example(NamedTuple):
    """A row to show.

    Attributes:
        position: of the row, from 0.
        answer: what came of it: its answer, or why it has none.
        cells: of the input, long ones cut; empty if they are not at hand.
        other: what stands beside the answer, such as the hand label; empty if nothing does.
        certainty: of the answer, from 0 to 1; None: not known.
        votes: the answers that it is made of, and how many of each; empty if it is made of one.
        note: who gave the answer, when and why; empty if that is not known, or no person did.
    """

    position: int
    answer: str
    cells: Cells = ()
    other: str = ""
    certainty: float | None = None
    votes: tuple[tuple[str, int], ...] = ()
    note: str = ""


class Failure(NamedTuple):
    """Rows that have no answer that is `ok`, for one reason.

    Attributes:
        reason: in words.
        status: `invalid` or `error`.
        rows: their number.
        examples: a few of them.
    """

    reason: str
    status: str
    rows: int
    examples: tuple[Example, ...] = ()


class Input(NamedTuple):
    """A file that the run read.

    Attributes:
        path: as the run was given it.
        sha256: when the latest process began to ask; empty: not recorded.
        state: what became of it: `unchanged`, `changed`, `gone`, or empty: not known.
    """

    path: str
    sha256: str
    state: str


class Planned(NamedTuple):
    """What a process expected before its first request, and what it then sent; None: not recorded, or not known.

    Attributes:
        id: of the process.
        started, ended: seconds since the epoch; `ended` is None if it has no end.
        host, pid: where it ran.
        outcome: how it ended, in words; empty if that is not known.
        requests, prompt_tokens, completion_tokens: expected.
        cost_usd, seconds: expected.
        budget_usd: the most that the run might spend.
        sent, failed: requests.
        used_prompt_tokens, used_completion_tokens: of the answers.
        spent_usd: for the answers, as far as prices are known.
    """

    id: int
    started: float
    ended: float | None
    host: str
    pid: int
    outcome: str
    is_recorded: bool
    requests: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    seconds: float | None
    budget_usd: float | None
    sent: int
    failed: int
    used_prompt_tokens: int
    used_completion_tokens: int
    spent_usd: float | None
    worked_s: float


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What ran.

    Attributes:
        task: `chat`, `completion` or `embedding`.
        prompt: the template; None: it was a function, or each row had its own.
        prompt_option: how it was given.
        system: message; None: none.
        examples: in the prompts, and their table; empty without them.
        asked: whom, in words, one for each endpoint.
        params: request parameters, as JSON.
        labels: that answers must be of; empty without a list.
        fields: of the schema; empty without one.
        more: further options that decide the answers, each with its value.
        versions: of batcher and what it uses, by name, as the latest process that recorded them had them.
        inputs: the files of the table; empty if it was in memory.
        inputs_left: files that are not in `inputs`.
        rows_hash: of the cells of all rows; empty if the journal has none.
        columns: of the table.
        output: the result file, if it is there.
        processes: that worked on the run, the latest ones.
        processes_left: processes before those.
    """

    task: str
    prompt: str | None
    prompt_option: str
    system: str | None
    examples: str
    asked: tuple[str, ...]
    params: str
    labels: tuple[str, ...]
    fields: tuple[str, ...]
    more: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    inputs: tuple[Input, ...]
    inputs_left: int
    rows_hash: str
    columns: tuple[str, ...]
    output: str
    processes: tuple[Planned, ...]
    processes_left: int


class Pause(NamedTuple):
    """A time in which an endpoint, or the run, sent nothing; in seconds at work from the beginning."""

    start: float
    end: float
    who: str
    why: str


class Begun(NamedTuple):
    """When a further process began: seconds at work from the beginning, and seconds since the epoch."""

    place: float
    at: float


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """What happened over time. Time is time at work: what lies between two processes is left out.

    Attributes:
        seconds: from the beginning to the end.
        width: seconds of a bin.
        answered: answers that came in each bin, a second; a row may have several.
        in_flight: requests in flight in each bin, on average.
        limited: requests a second that were refused as too many (429).
        failed: requests a second that failed otherwise.
        pauses: when something sent nothing.
        begun: when further processes began.
    """

    seconds: float
    width: float
    answered: tuple[float, ...]
    in_flight: tuple[float, ...]
    limited: tuple[float, ...]
    failed: tuple[float, ...]
    pauses: tuple[Pause, ...]
    begun: tuple[Begun, ...]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """What one source of answers did.

    Attributes:
        name: model and base URL, or the endpoint's name.
        requests: that it was sent; each was answered, failed, was overtaken, was out at a worker that was lost, or
            has no end.
        limited: those of the failed ones that were refused as too many (429).
        failures: of the failed ones, by outcome.
        prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens: of its answers.
        cost_usd: for its answers, as far as prices are known; None: no price is known.
        quantiles: seconds that answered requests took: p50, p90, p95, p99, and the most; empty without any.
        histogram: answered requests by how long they took, in bins that grow by the same factor.
        overtaken: requests that another one about the same row overtook (`--hedge`).
        worker_lost: requests that were out at a worker that was lost (`--ray`).
    """

    name: str
    requests: int
    answered: int
    failed: int
    out: int
    limited: int
    failures: tuple[tuple[str, int], ...]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_usd: float | None
    quantiles: tuple[float, ...] = ()
    histogram: tuple[int, ...] = ()
    overtaken: int = 0
    worker_lost: int = 0


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """All sources of answers.

    Attributes:
        each: of them, the one with the most requests first.
        left_out: sources that are not in `each`.
        shortest, longest: seconds at the ends of the histograms; 0 without any.
    """

    each: tuple[Endpoint, ...]
    left_out: int
    shortest: float
    longest: float


class Hint(NamedTuple):
    """Something to look at.

    Attributes:
        rule: the name of the rule that found it.
        said: what was found.
        advice: what to do.
    """

    rule: str
    said: str
    advice: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a run.

    Attributes:
        version: of the batcher that wrote this.
        at: when, in seconds since the epoch.
        state: of the run, as in `status`.
        figures: rows, requests, model tokens, money and time.
        tiers: the service tiers that answered, and how often, if a run asked for one; "": not said.
        ran: what ran.
        estimates: how good the answers are; of a schema one for each field; none of vectors.
        no_estimate: why there is none, or why some are missing; empty if nothing is.
        sample: the command that leads to an interval; empty if there is one, or none is possible.
        counted: rows by answer, the most frequent first, if they are few; for all tasks without an estimate.
        timeline: None if nothing was sent.
        endpoints: that answered.
        failures: the most frequent first.
        failures_left: reasons that are not in `failures`.
        uncertain: the least certain rows, by what says so.
        disagreeing: rows whose hand label is not the model's.
        disagreements: how many of those there are.
        split: rows whose answers are not all the same.
        corrected: rows whose answer a person gave.
        near: labels, and how many invalid rows nearly say each.
        empty: rows that were answered with nothing.
        batches: of the run.
        hints: what to look at.
        notes: on what could not be shown.
    """

    keyword: str
    output_dir: Path
    version: str
    at: float
    state: str
    figures: Figures
    tiers: tuple[tuple[str, int], ...]
    ran: Ran
    estimates: tuple[Estimate, ...]
    no_estimate: str
    sample: str
    timeline: Timeline | None
    endpoints: Endpoints
    failures: tuple[Failure, ...]
    failures_left: int
    uncertain: Mapping[str, tuple[Example, ...]]
    disagreeing: tuple[Example, ...]
    disagreements: int
    split: tuple[Example, ...]
    corrected: tuple[Example, ...]
    near: tuple[tuple[str, int], ...]
    empty: int
    batches: tuple[BatchLine, ...] = ()
    hints: tuple[Hint, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as a dictionary that JSON can hold."""
        found: dict[str, Any] = _as_json(self)
        return found


def _as_json(value: Any) -> Any:
    if isinstance(value, Estimate | Figures):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _as_json(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _as_json(each) for name, each in value._asdict().items()}
    if isinstance(value, Mapping):
        return {name: _as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [*map(_as_json, value)]
    return str(value) if isinstance(value, Path) else value

"""The figures of a run: rows, requests, model tokens, money and time, for its report and its status.

Invariant: they are added up here and nowhere else, from the journal alone; a sum of which a part is unknown is None.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from batcher.journal.entries import Counts, Spent, Totals
from batcher.journal.reading import Reader
from batcher.money.prices import NANO
from batcher.words import counted, dollars, option

_NOTHING = Totals(0, 0, 0, 0, 0, 0, 0, Spent(0, 0, 0, 0))


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a run has done, over all processes that worked on it; `..._now` is the part of the latest process.

    A request is neither a row nor an answer: rows share one with `--dedup`, and need several after failures.

    Attributes:
        keyword: names the run.
        rows, ok, invalid, error: all rows of the run (those that `limit` or `sample` take), and rows by status.
        cut: rows whose answer was cut off at `max_tokens`.
        corrected: rows whose answer a person gave in a chunk file.
        tied: rows of several answers (`samples`) of which another has as many votes, and came later.
        went_on: rows that a second endpoint answered (`then`), because the first answer was not certain enough.
        kept: rows that keep an answer that is not certain enough, because the second endpoint gave none that can be
            used.
        requests: sent; each was `answered`, `failed`, was `hedged` (the answer to a second request about its row, or to
            the first, overtook it), was out at a worker that was lost (`worker_lost`), or is `out`: in flight, or it
            was when its process ended.
        retries: those of the requests that were a further attempt of their process at a row.
        prompt_tokens, completion_tokens: model tokens of the answers; None if a server did not report some.
        cost_usd: US dollars for the answers; None if the price of some is unknown.
        uncertain_usd: the most US dollars that the other requests may be billed; None if a price is unknown.
        worker_lost_usd: the part of that for requests at lost workers; None if a price is unknown.
        unpriced: requests of an unknown price.
        elapsed_s: seconds of work.
    """

    keyword: str
    rows: int
    ok: int
    invalid: int
    error: int
    cut: int = 0
    corrected: int = 0
    tied: int = 0
    went_on: int = 0
    kept: int = 0
    requests: int
    requests_now: int
    answered: int
    answered_now: int
    failed: int
    failed_now: int
    out: int
    out_now: int
    hedged: int = 0
    hedged_now: int = 0
    worker_lost: int = 0
    worker_lost_now: int = 0
    retries: int
    retries_now: int
    prompt_tokens: int | None
    prompt_tokens_now: int | None
    completion_tokens: int | None
    completion_tokens_now: int | None
    cost_usd: float | None
    cost_usd_now: float | None
    uncertain_usd: float | None
    uncertain_usd_now: float | None
    worker_lost_usd: float | None = 0.0
    worker_lost_usd_now: float | None = 0.0
    unpriced: int
    unpriced_now: int
    elapsed_s: float
    elapsed_s_now: float

    @property
    def left(self) -> int:
        """Rows that have no result yet."""
        return self.rows - self.ok - self.invalid - self.error

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, and all else that it says, as a dictionary that JSON can hold."""
        values = asdict(self)
        for name in ("elapsed_s", "elapsed_s_now"):
            values[name] = round(values[name], 3)
        return values


def tied_in_words(rows: int) -> str:
    """Return that of the answers to some rows two had as many votes, and which of them counts."""
    return f"{counted(rows, 'vote was', 'votes were')} tied, and the answer that came first counts"


def went_on_in_words(rows: int, kept: int) -> str:
    """Return how many rows a second endpoint answered, and how many it was asked about in vain."""
    answered = f"{counted(rows, 'row')} answered by the second endpoint"
    if not kept:
        return answered
    keeps = "row keeps its first answer" if kept == 1 else "rows keep their first answers"
    again = option("retry_failed", value=True)
    return f"{answered}; {kept:,} {keeps}, because no other came that can be used ({again} asks again)"


def money_in_words(figures: Figures) -> str:
    """Return what the requests of a run cost; empty if they cost nothing, or nothing is known."""
    parts = [f"{dollars(round(figures.cost_usd * NANO))} for answers"] if figures.cost_usd else []
    parts += [f"at most {dollars(round(figures.uncertain_usd * NANO))} without one"] if figures.uncertain_usd else []
    is_priced = figures.unpriced < figures.requests
    parts += [f"unknown for {counted(figures.unpriced, 'request')}"] if figures.unpriced and is_priced else []
    return ", ".join(parts)


def requests_in_words(figures: Figures) -> str:
    """Return how many requests a run has sent, and how they ended."""
    apart = f" {figures.hedged:,} overtaken," if figures.hedged else ""
    apart += f" {figures.worker_lost:,} at lost workers," if figures.worker_lost else ""
    ended = (
        f"{figures.requests:,}: {figures.answered:,} answered, {figures.failed:,} failed,{apart} {figures.out:,} out"
    )
    if figures.requests_now == figures.requests:
        return ended
    out = f", {figures.out_now:,} out" if figures.out_now else ""
    return f"{ended}; by the latest process {figures.requests_now:,}{out}"


def worker_lost_in_words(requests: int, usd: float | None) -> str:
    """Return how many requests were out at workers that were lost, and what they may cost.

    Args:
        requests: their number.
        usd: the most US dollars that they may be billed; None: not known.
    """
    out = (
        "1 request was out at a worker that was lost"
        if requests == 1
        else (f"{requests:,} requests were out at workers that were lost")
    )
    they = "it" if requests == 1 else "they"
    if usd is None:
        return f"{out}; what {they} may cost is not known"
    return f"{out}; {they} may cost at most {dollars(round(usd * NANO))}" if usd else f"{out}, and cost nothing"


def figures_of(journal: Reader, keyword: str, now: int | None, *, is_at_work: bool) -> dict[str, Any]:
    """Add up the figures of a run, by the names of their fields.

    Args:
        journal: of the run.
        keyword: names the run.
        now: the latest process; None if it has not begun.
        is_at_work: it has not ended.

    Raises:
        OutputError: the journal cannot be read.
    """
    seconds = journal.seconds(now if is_at_work else None)
    whole = journal.totals()
    latest = _NOTHING if now is None else journal.totals(now) if len(seconds) > 1 else whole
    return {
        "keyword": keyword,
        **journal.counts()._asdict(),
        "cut": journal.cut(),
        "corrected": journal.corrected(),
        "tied": journal.tied(),
        **dict(zip(("went_on", "kept"), journal.went_on(), strict=True)),
        **_named(whole, sum(seconds.values())),
        **{f"{name}_now": value for name, value in _named(latest, seconds.get(now or 0, 0.0)).items()},
    }


def without_answers(figures: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a run whose journal is lost, and its answers with it."""
    return figures | {"ok": 0, "invalid": 0, "error": 0, "cut": 0, "corrected": 0, "tied": 0, "went_on": 0, "kept": 0}


def unread(keyword: str, rows: int, requests: int) -> dict[str, Any]:
    """Return the figures of a run whose journal is lost and cannot be read any more.

    Args:
        keyword: names the run.
        rows: of its input.
        requests: that this process has sent; their ends are lost.
    """
    totals = Totals(requests, 0, 0, requests, 0, None, None, Spent(0, 0, requests, requests))
    named = _named(totals, 0.0)
    return (
        {"keyword": keyword, **Counts(rows, 0, 0, 0)._asdict()} | named | {f"{name}_now": named[name] for name in named}
    )


def _named(totals: Totals, seconds: float) -> dict[str, Any]:
    values = totals._asdict()
    spent, lost_most = values.pop("spent"), values.pop("worker_lost_most")
    return values | {
        "cost_usd": None if spent.cost is None else spent.cost / NANO,
        "uncertain_usd": None if spent.unpriced_others else spent.uncertain / NANO,
        "worker_lost_usd": None if lost_most is None else lost_most / NANO,
        "unpriced": spent.unpriced,
        "elapsed_s": seconds,
    }

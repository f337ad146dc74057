"""What a plan shows of the ways of a run: its price by each, and, if it has a deadline, what goes where and the chance.

Invariant: what is not known is None or said to be unknown; a chance is counted from earlier cases, which are named.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from batcher.endpoint import Endpoint
from batcher.journal.paces import Took, durations, rates_of, together
from batcher.journal.reading import Reader
from batcher.moments import moment_in_words
from batcher.money.prices import NANO
from batcher.money.tariff import Tariff
from batcher.money.tiers import Tiers
from batcher.planning.asking import in_batches
from batcher.planning.costs import Load, costs_of, pace_of
from batcher.planning.due import Due
from batcher.planning.job import Job
from batcher.planning.mix import (
    ASSUMED_RATE,
    FLEX_SHARE,
    HARVEST_S,
    PROBES,
    SAFETY,
    TICK_S,
    USEFUL_S,
    Chance,
    Pace,
    Work,
    either,
    idle_s,
    may_fill,
    rate_needed,
    tail_s,
)
from batcher.planning.plan import Plan, asked_by_canary
from batcher.planning.ways import batches_in_words, takes_batches
from batcher.settings import FLEX
from batcher.tables import Line
from batcher.words import counted, dollars, duration, percent

_IN_FLEX = ", in flex as long as that is in time"


@dataclass(frozen=True)
class Mix:
    """The ways of a run, with the price of each for all requests that are left.

    Attributes:
        due: when the run shall be finished, ISO 8601; None: that is not given.
        due_s: seconds until then.
        batch_rows: rows that go into batches at first.
        online_rows: rows that are asked online at once.
        until_s: seconds until rows that have not come back are asked online, at the latest; None without batches.
        batch_usd, flex_usd, online_usd: US dollars of all requests in batches, in the flex tier, online; None: there is
            no such way, or a price or the length of the answers is unknown.
        expected_usd: US dollars if all batches come back in time; None: not known.
        online_s: seconds that all rows would take online.
        rate: rows a second on which that counts.
        rate_from: where it comes from, in words.
        end_s: seconds until the end is expected if no batch comes back in time.
        chance: that the run is finished in time, from 0 to 1; None: nothing tells. If only one of the two next is
            known, it is the least.
        chance_of_batches: that batches alone are in time.
        chance_online: that online requests would be in time instead.
        left_out: why there are no batches; empty if there are.
        lines: the same in words.
    """

    due: str | None
    due_s: float | None
    batch_rows: int
    online_rows: int
    until_s: float | None
    batch_usd: float | None
    flex_usd: float | None
    online_usd: float | None
    expected_usd: float | None
    online_s: float | None = None
    rate: float | None = None
    rate_from: str = ""
    end_s: float | None = None
    chance: float | None = None
    chance_of_batches: float | None = None
    chance_online: float | None = None
    left_out: str = ""
    lines: tuple[tuple[str, str], ...] = ()

    def shown(self) -> Iterator[Line]:
        """Yield what a plan shows of it."""
        yield from (Line(name, text) for name, text in self.lines)


class Prices(NamedTuple):
    """The price of all requests by each way, in nano-dollars; None: no such way, or not known.

    Attributes:
        shares: what each way costs as a share of the price online, by its name, as far as that is known.
    """

    batch: int | None
    flex: int | None
    online: int | None
    shares: Mapping[str, float] = MappingProxyType({})

    @classmethod
    def of(cls, load: Load, batch: Sequence[Tariff], flex: Sequence[Tariff], online: Sequence[Tariff]) -> Prices:
        """Return the prices of requests.

        Args:
            load: the requests.
            batch: the tariffs in batches; none if there are none.
            flex: those in the flex tier; none if there is none.
            online: the others.
        """
        costs = {
            name: costs_of(load, tariffs, None, "")
            for name, tariffs in (("batch", batch), ("flex", flex), ("online", online))
            if tariffs
        }
        prompts = costs["online"].prompts
        shares = {
            name: each.prompts / prompts
            for name, each in costs.items()
            if name != "online" and prompts and each.prompts is not None
        }
        every = {name: each.all for name, each in costs.items()}
        return cls(every.get("batch"), every.get("flex"), every.get("online"), shares)

    def mixed(self, batch_share: float) -> int | None:
        """Return the price if a share of the requests goes into batches."""
        if not batch_share:
            return self.online
        if self.batch is None or (self.online is None and batch_share < 1):
            return None
        return round(self.batch * batch_share + (self.online or 0) * (1 - batch_share))

    def in_words(self, mixed: int | None) -> str:
        """Return the prices, and what the mix costs."""
        names = {"batch": self.batch, "flex": self.flex, "all online": self.online}
        known = [f"{name} {dollars(price)}" for name, price in names.items() if price is not None]
        if not known:
            return ", ".join(
                f"{name} {percent(share)} of all online"
                if share < 1
                else f"{name} as much as online: no discount is known"
                for name, share in self.shares.items()
            )
        if mixed is None or mixed == self.online:
            return ", ".join(known)
        return f"about {dollars(mixed)} if all batches come back in time; by one way alone: {', '.join(known)}"


def mix_of(job: Job, journal: Reader, planned: Plan, load: Load, *, tariffs: Sequence[Tariff]) -> Mix | None:
    """Return the ways of a run; None if it has only one, which nobody asked for.

    Args:
        job: the run.
        journal: knows how fast earlier requests and batches were.
        planned: what is left to do.
        load: the requests to the endpoints that are asked about every row.
        tariffs: of these endpoints.
    """
    if (job.due is None and not job.in_batches) or not load.requests:
        return None
    firsts = [each for each in job.tiers.first if takes_batches(each, job.settings)]
    of_batches = in_batches([each for each in tariffs if each.endpoint in firsts]) if job.in_batches else []
    has_flex = {each for each in job.tiers.first if job.due and FLEX in job.asked_in(each).names}
    flex = [_in_tier(each, FLEX) for each in tariffs if each.endpoint in has_flex]
    usual = [_in_tier(each, None) if each.endpoint in has_flex else each for each in tariffs]
    prices = Prices.of(load, of_batches, flex, usual)
    rows = planned.counts.left
    if job.due is None:
        said = prices.in_words(None)
        lines = (("price", said),) if said else ()
        return Mix(
            due=None,
            due_s=None,
            batch_rows=rows,
            online_rows=0,
            until_s=None,
            batch_usd=_usd(prices.batch),
            flex_usd=None,
            online_usd=_usd(prices.online),
            expected_usd=_usd(prices.batch),
            lines=lines,
        )
    return _by(job, job.due, journal, planned, load=load, prices=prices)


def _in_tier(tariff: Tariff, tier: str | None) -> Tariff:
    """Return the tariff of requests that ask for one service tier alone; a price that the user gave is for any."""
    model, base_url, _ = tariff.endpoint.real_source
    return tariff if "in" in (tariff.endpoint.prices or {}) else tariff._replace(tiers=Tiers.of(model, base_url, tier))


def _usd(nano: int | None) -> float | None:
    return None if nano is None else nano / NANO


def _by(job: Job, due: Due, journal: Reader, planned: Plan, *, load: Load, prices: Prices) -> Mix:
    now, rows = time.time(), planned.counts.left
    left_s, seen = due.at - now, rates_of(journal, planned.first_sources)
    per_row = load.requests / max(rows, 1)
    rate, rate_from = _rate(job.tiers.first, load, seen, per_row)
    bare = Pace(SAFETY * rate)
    has_flex = any(FLEX in job.asked_in(each).names for each in job.tiers.first)
    pace = Pace(
        SAFETY * rate,
        min(HARVEST_S, max(left_s, 0.0) / 4),
        tail_s(bare.online_s(rows), job.settings.attempt_s, max(left_s, 0.0)),
    )
    finished = [each.seconds for each in durations(journal) if each.is_finished]
    useful_s = max(min(finished), TICK_S) if finished else USEFUL_S
    first = _asked_first(job, planned, is_rate_seen=bool(seen))
    in_batch = may_fill(rows - first, left_s, pace, useful_s) if job.in_batches else 0
    work = Work(rows - in_batch, (in_batch,) if in_batch else (), left_s)
    taking_back = pace._replace(rate=FLEX_SHARE * pace.rate) if has_flex else pace
    until_s = max(idle_s(work, taking_back), 0.0) if in_batch else None
    online_s = rows / rate
    # From `until_s` on batches are cancelled: what comes later is no use.
    batches = _of_batches(together(journal), until_s or left_s) if in_batch else Chance(0, 0)
    online = Chance.that_at_least([each / per_row for each in seen], rate_needed(rows, left_s, pace, until_s or 0.0))
    mixed = prices.mixed(in_batch / max(rows, 1))
    end_s = work.online_s(Pace(rate, pace.harvest_s if in_batch else 0.0))
    chance = either(batches, online)
    left_out = batches_in_words(job.tiers.first, job.settings)
    lines = [
        ("by", due.in_words(now)),
        ("mix", _mix_in_words(in_batch, rows - in_batch, now, until_s, left_out) + (_IN_FLEX if has_flex else "")),
        ("price", prices.in_words(mixed)),
        ("online", f"{duration(online_s)} for {counted(rows, 'row')}, {rate_from}"),
        *([("late", _late(now, due, end_s, in_batch=in_batch))] if end_s > left_s else []),
        ("chance", _chance_in_words(chance, batches, online, is_in_batches=bool(in_batch))),
    ]
    return Mix(
        due=due.text,
        due_s=left_s,
        batch_rows=in_batch,
        online_rows=rows - in_batch,
        until_s=until_s,
        batch_usd=_usd(prices.batch),
        flex_usd=_usd(prices.flex),
        online_usd=_usd(prices.online),
        expected_usd=_usd(mixed),
        online_s=online_s,
        rate=rate,
        rate_from=rate_from,
        end_s=end_s,
        chance=chance,
        chance_of_batches=batches.value,
        chance_online=online.value,
        left_out=left_out,
        lines=tuple((name, text) for name, text in lines if text),
    )


def _asked_first(job: Job, planned: Plan, *, is_rate_seen: bool) -> int:
    """Return the rows that are asked online before any goes into a batch: the canary's, or those that show the rate."""
    rows = asked_by_canary(job.settings, planned.counts)
    return rows or (0 if is_rate_seen else min(PROBES, planned.counts.left))


def _rate(endpoints: Sequence[Endpoint], load: Load, seen: Sequence[float], per_row: float) -> tuple[float, str]:
    """Return the rows a second to expect of online requests, and where that comes from."""
    if seen:
        rate = statistics.median(seen)
        where = f"at {rate * 60 / per_row:,.3g} rows a minute, the median of {counted(len(seen), 'earlier span')} of 5m"
    else:
        rate = ASSUMED_RATE
        where = "assumed: 32 requests in flight, of 10 s each; nothing was asked yet"
    limits = pace_of(endpoints, load)
    if limits.seconds and load.requests / limits.seconds < rate:
        rate, where = load.requests / limits.seconds, f"at {' and '.join(dict.fromkeys(limits.bounds))}"
    return rate / per_row, where


def _of_batches(took: Sequence[Took], left_s: float) -> Chance:
    """Return the chance that batches are back in time; those that were cancelled earlier than that say nothing."""
    cases = [each for each in took if each.is_finished or each.seconds >= left_s]
    return Chance(sum(each.is_finished and each.seconds <= left_s for each in cases), len(cases))


def _mix_in_words(in_batch: int, online: int, now: float, until_s: float | None, left_out: str) -> str:
    if not in_batch or until_s is None:
        few = "so few rows are asked at once" if online <= PROBES else "there is no time for batches"
        why = f" ({left_out or few})"
        return f"all {counted(online, 'row')} online{why}"
    if not until_s:
        return (
            f"{counted(online, 'row')} online at once, {counted(in_batch, 'row')} in batches, which are cancelled one"
            " after the other as online requests get to their rows"
        )
    until = moment_in_words(now + until_s, now)
    rest = f"{counted(online, 'row')} online at once, " if online else ""
    all_ = "all " if not online else ""
    return f"{rest}{all_}{counted(in_batch, 'row')} in batches; what is not back by {until} is asked online"


def _late(now: float, due: Due, end_s: float, *, in_batch: int) -> str:
    end = moment_in_words(now + end_s, now)
    if in_batch:
        return f"online alone the end would be at {end}: {moment_in_words(due.at, now)} needs batches that come back"
    return f"{moment_in_words(due.at, now)} cannot be met: the end is expected at {end}"


def _chance_in_words(chance: float | None, batches: Chance, online: Chance, *, is_in_batches: bool) -> str:
    said = []
    if is_in_batches:
        said.append(
            f"in {batches.in_time:,} of {counted(batches.seen, 'earlier run')} with batches all would be in time"
            if batches.seen
            else "no earlier batch tells how long they take"
        )
    said.append(
        f"online requests were fast enough in {online.in_time:,} of {counted(online.seen, 'earlier span')} of 5m"
        if online.seen
        else "no earlier request tells how fast online is"
    )
    if chance is None:
        return f"unknown: {', and '.join(said)}"
    is_least = is_in_batches and (batches.seen == 0 or online.seen == 0)
    return f"{'at least ' if is_least else ''}{percent(chance)}: {', and '.join(said)}"

"""The state of a run, read from its journal, also by another process while the run works.

Invariant: it only reads.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from batcher.journal.entries import LastRun
from batcher.journal.opening import read_journal
from batcher.money.prices import NANO
from batcher.output.figures import Figures, figures_of
from batcher.output.opening import opened
from batcher.words import counted, dollars, duration

_RATE_OVER_S = 60.0


@dataclass(frozen=True, kw_only=True)
class RunStatus(Figures):
    """The state of a run.

    Attributes:
        state: `running`, `done`, `stopped` (it ended early and recorded why) or `killed` (it ended without a record).
        chunks: chunk files written.
        rows_per_s: rows answered a second, over the last minute; 0 if no run is at work.
        left_s: seconds left at that rate, or None.
        failures: rows that ended as `invalid` or `error`, counted by reason, the most frequent first.
        paused: endpoints that do not answer, with the time and the reason; empty if no run is at work.
        reason: why the latest run stopped early, or empty.
        process: host and process id of the latest run.
    """

    state: str
    chunks: int
    rows_per_s: float
    left_s: float | None
    failures: tuple[tuple[str, int], ...]
    paused: tuple[str, ...]
    reason: str
    process: str

    def _money(self) -> str:
        parts = [f"{dollars(round(self.cost_usd * NANO))} for answers"] if self.cost_usd else []
        parts += [f"at most {dollars(round(self.uncertain_usd * NANO))} without one"] if self.uncertain_usd else []
        is_priced = self.unpriced < self.requests
        parts += [f"unknown for {counted(self.unpriced, 'request')}"] if self.unpriced and is_priced else []
        return ", ".join(parts)

    def _requests(self) -> str:
        ended = f"{self.requests:,}: {self.answered:,} answered, {self.failed:,} failed, {self.out:,} out"
        if self.requests_now == self.requests:
            return ended
        out = f", {self.out_now:,} out" if self.out_now else ""
        return f"{ended}; by the latest process {self.requests_now:,}{out}"

    def __str__(self) -> str:
        done = self.rows - self.left
        share = f"{100 * done // self.rows}%" if self.rows else "empty"
        time_left = f", {duration(self.left_s)} left" if self.left_s is not None else ""
        lines = [
            f"{self.keyword}: {self.state} ({self.process})",
            (
                f"  rows      {done:,} of {self.rows:,} ({share}):"
                f" {self.ok:,} ok, {self.invalid:,} invalid, {self.error:,} error"
            ),
            f"  chunks    {self.chunks:,} written",
            f"  requests  {self._requests()}",
        ]
        if money := self._money():
            lines.append(f"  money     {money}")
        if self.state == "running":
            lines.append(f"  rate      {self.rows_per_s:,.1f} rows/s{time_left}")
        lines += [f"  paused    {each}" for each in self.paused]
        if self.cut:
            lines.append(f"  cut off   {counted(self.cut, 'answer')} at max_tokens")
        if self.reason:
            lines.append(f"  because   {self.reason}")
        lines += [f"  failed    {count:,} x {reason}" for reason, count in self.failures]
        return "\n".join(lines)


def status(keyword: str, output_dir: str | os.PathLike[str] = "output") -> RunStatus:
    """Return the state of a keyword's run.

    Raises:
        SettingsError: the keyword is invalid.
        OutputError: there is no journal of that keyword, or it cannot be read.
    """
    with opened(keyword, output_dir, read_journal) as run, run.journal.snapshot():
        journal, last = run.journal, run.last()
        left = journal.left()
        state = _state(last, left)
        is_running = state == "running"
        now = time.time()
        seconds = max(1.0, min(_RATE_OVER_S, now - last.started))
        rate = journal.answered_since(now - seconds) / seconds if is_running else 0.0
        return RunStatus(
            **figures_of(journal, keyword, last.id, is_at_work=is_running),
            state=state,
            chunks=len(journal.chunks()),
            rows_per_s=rate,
            left_s=left / rate if rate else None,
            failures=tuple(journal.failures()),
            paused=tuple(_paused(*each) for each in journal.paused(last.id)) if is_running else (),
            reason=(last.outcome or "") if state == "stopped" else "",
            process=f"host {last.host}, process {last.pid}",
        )


def _paused(at: float, label: str, why: str) -> str:
    return f"{label} since {time.strftime('%H:%M:%S', time.localtime(at))}: {why}"


def _state(last: LastRun, left: int) -> str:
    if last.ended is not None:
        return "stopped" if left else "done"
    return "running" if last.is_at_work else "killed"

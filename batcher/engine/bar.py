"""What the bar shows: the parts of a run's state in words, and those of them that fit into a line.

Invariant: a line takes at most the columns that it is given, and never loses what the run waits for before anything
else but the share that is done.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from batcher.moments import moment_as_text, moment_in_words
from batcher.tables import cut, width
from batcher.words import counted, dollars, duration

ORDER = (
    "share",
    "waiting",
    "late",
    "rows",
    "failed",
    "money",
    "left",
    "name",
    "bar",
    "rate",
    "in flight",
    "tokens",
    "elapsed",
)
"""The parts of the bar, the most important first: what does not fit into the line is left out from the end on."""

_PLACES = (
    "name",
    "share",
    "bar",
    "rows",
    "rate",
    "left",
    "late",
    "money",
    "tokens",
    "failed",
    "in flight",
    "waiting",
    "elapsed",
)
"""The same parts from left to right."""

_NOT_BESIDE = {"name", "share", "elapsed"}

_GAP = "  "
_NARROW = {("name", "share"): " ", ("share", "bar"): "", ("bar", "rows"): "", ("share", "rows"): " "}
_OLD_S = 10.0  # the oldest request in flight is shown from this age on
_NAME, _LEAST_NAME = 12, 4  # columns of the keyword
_LEAST, _MOST = 7, 26  # columns of the drawn bar
_BLOCKS = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589\u2588"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A run at one moment.

    Attributes:
        keyword: names the run.
        rows, ok, invalid, error: all rows, and rows by status.
        requests: sent, over all processes of the run.
        cost: nano-dollars for the answers of all processes; None if a price is unknown.
        tokens: model tokens of this process.
        rate: rows a second, over the last minute.
        in_flight: requests in flight.
        oldest_s: seconds since the oldest of them left.
        waiting_for: what the run waits for; empty if for answers alone.
        lines_out: lines of batches that are at a service: their answers come all at once.
        elapsed_s: seconds since this process began.
        due: when the run shall be finished, and `end`, when it is expected to be, in seconds since the epoch; None: not
            given, not known.
        outlook: whether it will be in time: `in time`, `by batch`, `late` or `unknown`; empty if no time is given.
    """

    keyword: str
    rows: int
    ok: int = 0
    invalid: int = 0
    error: int = 0
    requests: int = 0
    cost: int | None = None
    tokens: int = 0
    rate: float = 0.0
    in_flight: int = 0
    oldest_s: float = 0.0
    waiting_for: str = ""
    lines_out: int = 0
    elapsed_s: float = 0.0
    due: float | None = None
    end: float | None = None
    outlook: str = ""

    @property
    def done(self) -> int:
        return self.ok + self.invalid + self.error

    @property
    def left_s(self) -> float | None:
        """The seconds left at the present rate, or None."""
        return (self.rows - self.done) / self.rate if self.rate else None

    @property
    def share(self) -> int:
        """The percentage of rows that are done, rounded down: 100 means all."""
        return 100 * self.done // self.rows if self.rows else 100

    def facts(self) -> dict[str, object]:
        """Return it by the names of `json_lines.FIELDS`."""
        return {
            "keyword": self.keyword,
            "rows": self.rows,
            "ok": self.ok,
            "invalid": self.invalid,
            "error": self.error,
            "left": self.rows - self.done,
            "requests": self.requests,
            "cost_usd": None if self.cost is None else self.cost / 1e9,
            "rate": round(self.rate, 3),
            "eta_s": None if self.left_s is None else round(self.left_s),
            "in_flight": self.in_flight,
            "waiting_for": self.waiting_for,
            "due": None if self.due is None else moment_as_text(self.due),
            "expected_end": None if self.end is None else moment_as_text(self.end),
            "outlook": self.outlook or None,
        }


def in_words(state: State) -> str:
    """Return a line for a log."""
    left = [f"{duration(state.left_s)} left"] if state.left_s else []
    parts = _parts(state)
    others = [parts[name] for name in ("late", "money", "waiting", "failed", "in flight") if name in parts]
    share = f"{state.done:,} of {counted(state.rows, 'row')} ({state.share}%)"
    rate = [parts["rate"]] if "rate" in parts else []
    return f"{state.keyword}: {', '.join([share, *rate, *left, *others])}"


def beside_the_bar(state: State) -> str:
    """Return what a notebook shows beside the bar that it draws itself."""
    parts = _parts(state)
    return _GAP.join(parts[name] for name in _PLACES if name in parts and name not in _NOT_BESIDE)


def what_matters(state: State) -> tuple[str, ...]:
    """Return what a reader wants to know at once; times and rates change even if nothing happens."""
    parts = _parts(state)
    return tuple(parts.get(name, "") for name in ("rows", "late", "failed", "in flight", "waiting", "money", "tokens"))


def line(state: State, columns: int, *, is_ascii: bool = False) -> str:
    """Return the bar for a terminal.

    Args:
        state: what to show.
        columns: that it may take.
        is_ascii: the terminal shows no other characters.
    """
    parts = _parts(state) | {"bar": _drawn(state, _LEAST, is_ascii=is_ascii)}
    parts["waiting"] = cut(parts.get("waiting", ""), columns - len(f"{parts['share']}{_GAP}"))
    shown: dict[str, str] = {}
    for name in ORDER:
        more = shown | {name: parts[name]} if parts.get(name) else shown
        if name == "name" and (over := width(_joined(more)) - columns) > 0:
            kept = width(parts[name]) - over
            more = shown | {name: cut(parts[name], kept)} if kept >= _LEAST_NAME else shown
        if width(_joined(more)) <= columns:
            shown = more
    if "bar" in shown:
        room = columns - width(_joined(shown))
        shown["bar"] = _drawn(state, min(_LEAST + room, _MOST), is_ascii=is_ascii)
    text = _joined(shown)
    return text.replace("\u2026", "~") if is_ascii else text


def _joined(shown: Mapping[str, str]) -> str:
    """Join parts in their places; the first four stand close together, as in `reviews 45%|███   |9/20`."""
    text, before = "", ""
    for name in _PLACES:
        if name in shown:
            gap = "" if not text else _NARROW.get((before, name), _GAP)
            text, before = f"{text}{gap}{shown[name]}", name
    return text


def _parts(state: State) -> dict[str, str]:
    """Return the parts that have something to say, by their names."""
    oldest = f" ({duration(state.oldest_s)})" if state.oldest_s >= _OLD_S else ""
    failed = state.invalid + state.error
    parts = {
        "name": cut(state.keyword, _NAME),
        "share": f"{state.share}%",
        "rows": f"{state.done:,}/{state.rows:,}",
        "rate": f"{state.rate:,.1f} rows/s" if state.rate or not state.lines_out else "",
        "left": f"{duration(state.left_s)} left" if state.left_s else "",
        "late": _outlook(state),
        "money": dollars(state.cost) if state.cost else "",
        "tokens": f"{_short(state.tokens)} tokens" if state.tokens else "",
        "failed": f"{failed:,} failed" if failed else "",
        "in flight": f"{state.in_flight:,} in flight{oldest}" if state.in_flight or not state.lines_out else "",
        "waiting": state.waiting_for,
        "elapsed": f"after {duration(state.elapsed_s)}",
    }
    return {name: text for name, text in parts.items() if text}


def _outlook(state: State) -> str:
    """Return whether the run will be finished in time, as `by 07:00` or `late: 08:12 (by 07:00)`."""
    if state.due is None:
        return ""
    now = time.time()
    due = f"by {moment_in_words(state.due, now)}"
    if state.outlook in {"", "unknown", "in time"} or state.done == state.rows:
        return due
    if state.outlook == "by batch":
        return f"{due} if batches are"
    return f"late{'' if state.end is None else f': {moment_in_words(state.end, now)}'} ({due})"


def _drawn(state: State, columns: int, *, is_ascii: bool) -> str:
    """Draw the bar, in eighths of a column."""
    cells = columns - 2
    if is_ascii:
        return f"|{'#' * (cells * state.done // max(state.rows, 1)):<{cells}}|"
    whole, part = divmod(8 * cells * state.done // max(state.rows, 1), 8)
    return f"|{_BLOCKS[8] * whole + (_BLOCKS[part] if part else ''):<{cells}}|"


def _short(number: int) -> str:
    """Return a number in three digits or so: `950`, `38k`, `1.2M`."""
    if number < 1000:
        return str(number)
    if number < 999_500:
        return f"{number / 1000:.{1 if number < 9950 else 0}f}k"
    return f"{number / 1e6:,.{1 if number < 9.95e6 else 0}f}M"

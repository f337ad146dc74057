"""The runs of a directory, one line each, read from their journals while they work or afterwards.

Invariant: it only reads, and a journal that cannot be read is a line of the list, not its end.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

from batcher.checks import check_directory
from batcher.errors import OutputError
from batcher.journal.access import log_path
from batcher.journal.entries import ByHand, LastRun
from batcher.journal.locking import Holder, Work, holder_of, is_at_work, is_locked
from batcher.journal.opening import read_journal
from batcher.money.prices import NANO
from batcher.output.directory import Store, journals_in
from batcher.output.shards import unmerged_in
from batcher.reports.batches import batches_of, out_in_words
from batcher.reports.by_hand import unread
from batcher.tables import html_table, width
from batcher.words import blamed, dollars, duration

AT_WORK = frozenset({"running", "paused"})
"""The states of a run whose process is at work."""

_DAY_S = 86400.0
_HEADS = ("keyword", "state", "rows", "ok", "invalid", "error", "left", "money", "last change")


@dataclass(frozen=True)
class RunLine:
    """A run of the list; what cannot be read, or known, is None.

    Attributes:
        state: as in `RunStatus`; or `empty` (a journal in which no run began), `unreadable`, or `shards` (the sum of
            shards that are not merged yet, each of which has a line of its own behind it).
        is_running: whether a process works on it.
        rows, ok, invalid, error, left: all rows, rows by status, and rows without a result.
        cost_usd: US dollars for the answers; None if the price of some is unknown.
        batches_out: batches at services whose results are not fetched yet, and `out` the same in words.
        changed: when the journal was last written, in seconds since the epoch.
        reason: why the journal cannot be read, or empty.
        shard: whose run it is, such as `2-of-8`; empty: it is a whole run, or the sum of all shards.
    """

    keyword: str
    state: str
    is_running: bool | None
    rows: int | None = None
    ok: int | None = None
    invalid: int | None = None
    error: int | None = None
    left: int | None = None
    cost_usd: float | None = None
    changed: float = 0.0
    reason: str = ""
    batches_out: int | None = None
    out: str = ""
    shard: str = ""

    @property
    def name(self) -> str:
        """Which run it is, for people."""
        return f"{self.keyword} {self.shard}".rstrip()

    def _cells(self, now: float) -> tuple[str, ...]:
        counts = (self.rows, self.ok, self.invalid, self.error, self.left)
        money = "" if self.cost_usd is None else dollars(round(self.cost_usd * NANO))
        age = max(now - self.changed, 0.0)
        ago = f"{duration(age)} ago" if age < _DAY_S else time.strftime("%Y-%m-%d %H:%M", time.localtime(self.changed))
        shown = ("" if count is None else f"{count:,}" for count in counts)
        return self.name, self.state, *shown, money, ago


class Runs(Sequence[RunLine]):
    """The runs of a directory, the latest first; it shows itself as a table."""

    def __init__(self, directory: Path, runs: Sequence[RunLine]) -> None:
        self._directory = directory
        self._runs = tuple(runs)

    def __len__(self) -> int:
        return len(self._runs)

    @overload
    def __getitem__(self, index: int) -> RunLine: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[RunLine, ...]: ...

    def __getitem__(self, index: int | slice) -> RunLine | tuple[RunLine, ...]:
        return self._runs[index]

    def to_dict(self) -> dict[str, Any]:
        """Return the runs as a dictionary that JSON can hold."""
        return {"output_dir": str(self._directory), "runs": [asdict(each) for each in self._runs]}

    def __str__(self) -> str:
        if not self._runs:
            return f"{self._directory}: no run"
        table = [_HEADS, *(each._cells(time.time()) for each in self._runs)]  # noqa: SLF001 - a line of this table
        widths = [max(map(width, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(_padded, cells, widths, range(len(cells)))).rstrip() for cells in table]
        return "\n".join([*lines, *self._notes()])

    __repr__ = __str__

    def _notes(self) -> Iterator[str]:
        """Yield what is said of runs below the table, or above it in a notebook."""
        for each in self._runs:
            yield from (f"{each.name}: {said}" for said in (each.reason, each.out) if said)

    def _repr_html_(self) -> str:
        """Show the runs as a table in a notebook."""
        now = time.time()
        reasons = "\n".join(self._notes())
        cells = [each._cells(now) for each in self._runs]  # noqa: SLF001 - as above
        return html_table(reasons, cells, _HEADS, has_labels=True)


def runs_in(directory: Path) -> Runs:
    """Return the runs of a directory, the latest first.

    Raises:
        SettingsError: no directory can be called so.
        OutputError: there is no such directory, or it cannot be read.
    """
    check_directory(directory, blamed("output_dir"))
    try:
        found = journals_in(directory)
        sharded = unmerged_in(directory)
    except FileNotFoundError as error:
        raise OutputError(f"there is no directory {directory} yet, so no run has begun in it") from error
    except OSError as error:
        raise OutputError(f"the output directory {directory} cannot be read: {error.strerror}") from error
    groups = [[_line(Store(directory, keyword))] for keyword in found]
    for keyword, paths in sharded.items():
        stores = [Store(path, keyword) for path in paths]
        if shards := [_line(each, each.directory.name) for each in stores if each.journal_path.exists()]:
            groups.append([_sum(shards), *shards])
    groups.sort(key=lambda lines: -lines[0].changed)
    return Runs(directory, [line for lines in groups for line in lines])


def _sum(shards: Sequence[RunLine]) -> RunLine:
    """Return the line of all shards that have begun; what is not known of one is not known of the sum."""
    sums: dict[str, Any] = {}
    for name in ("rows", "ok", "invalid", "error", "left", "cost_usd", "batches_out"):
        found = [getattr(each, name) for each in shards]
        sums[name] = None if None in found else sum(found)
    at_work = {each.is_running for each in shards}
    is_running = True if True in at_work else None if None in at_work else False
    return RunLine(shards[0].keyword, "shards", is_running, changed=max(each.changed for each in shards), **sums)


def state_of(path: Path, last: LastRun, left: int, by_hand: Sequence[ByHand], holder: Holder | None) -> str:
    """Return the state of a run, as `RunStatus` names it.

    Args:
        path: of its journal.
        last: its latest process.
        left: the rows without a result.
        by_hand: what people changed in that process.
        holder: the process that holds its lock, if it is known.
    """
    if holder and holder.work is Work.PLANS:
        return "planning"
    if last.ended is not None:
        return "stopped" if left else "done"
    at_work = is_at_work(path, last)
    if at_work is None:
        return "unknown"
    if not at_work:
        return "killed"
    switches = [each.is_pause for each in by_hand if each.is_pause or each.is_resumption]
    return "paused" if switches and switches[-1] else "running"


def _line(store: Store, shard: str = "") -> RunLine:
    keyword, path = store.keyword, store.journal_path
    changed = max(_written(path), default=0.0)
    try:
        with read_journal(path) as journal:
            holder, last = holder_of(path), journal.last_run()
            if last is None:
                is_held = is_locked(path)
                return RunLine(keyword, "planning" if is_held else "empty", is_held, changed=changed, shard=shard)
            counts, spent, batches = journal.counts(), journal.spent(), batches_of(journal)
            state = state_of(path, last, counts.left, journal.by_hand(last.id), holder)
            if state not in AT_WORK:
                counts = unread(store, journal, last).counted(counts)
            return RunLine(
                keyword,
                state,
                is_running=None if state == "unknown" else state in {*AT_WORK, "planning"},
                rows=counts.rows,
                ok=counts.ok,
                invalid=counts.invalid,
                error=counts.error,
                left=counts.left,
                cost_usd=None if spent.cost is None else spent.cost / NANO,
                changed=changed,
                batches_out=sum(each.is_out for each in batches),
                out=out_in_words(batches),
                shard=shard,
            )
    except OutputError as error:
        return RunLine(keyword, "unreadable", is_locked(path), changed=changed, reason=str(error), shard=shard)


def _written(path: Path) -> Iterator[float]:
    """Yield when a journal and its log were last written."""
    for each in (path, log_path(path)):
        with contextlib.suppress(OSError):
            yield each.stat().st_mtime


def _padded(text: str, columns: int, column: int) -> str:
    """Pad a cell: words to the left, numbers to the right."""
    space = " " * (columns - width(text))
    return text + space if column < 2 or column == len(_HEADS) - 1 else space + text

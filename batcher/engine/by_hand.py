"""`limit`, `pause` and `resume`: change a run while it works, from another process or thread.

Invariant: they write the control file alone, and say that a change is made only if the running process has recorded it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batcher.checks import check_whole
from batcher.endpoint import AS_STARTED
from batcher.errors import OutputError, SettingsError, outermost
from batcher.journal.entries import BY_HAND, REFUSED_BY_HAND, UNCHANGED_BY_HAND, ByHand, LastRun
from batcher.journal.locking import Work, holder_of, is_at_work
from batcher.journal.opening import read_journal
from batcher.output.control import ControlFile, Wish
from batcher.output.opening import opened
from batcher.settings import OPTIONS
from batcher.tables import Readable
from batcher.words import counted, option

_PATIENCE_S = 15.0  # the running process looks every second
_LOOK_S = 0.2


@dataclass(frozen=True)
class Change(Readable):
    """A change of a run at work.

    Attributes:
        keyword: of the run.
        said: what changed, such as `rpm 600 -> 300`, or that nothing had to.
        is_taken: the running process has recorded it. If False, the run is in the caller's own process, whose loop is
            not held up: it takes the change soon.
        is_changed: something is now other than it was.
    """

    keyword: str
    said: str
    is_taken: bool = True
    is_changed: bool = True

    def __str__(self) -> str:
        if not self.is_changed:
            return f"{self.keyword}: {self.said}"
        how = "running process took it" if self.is_taken else "the run takes it within a second or two"
        return f"{self.keyword}: {self.said} ({how})"


@outermost
def limit(
    keyword: str,
    *,
    rpm: float | str | None = None,
    rps: float | str | None = None,
    tpm: float | str | None = None,
    max_concurrency: int | str | None = None,
    endpoint: int | None = None,
    output_dir: str | os.PathLike[str] = "output",
) -> Change:
    """Change the limits of a run while it works. Requests in flight go on.

    Args:
        keyword: of the run.
        rpm: the most requests per minute, for each account; `"none"` takes back what was set by hand, so that the limit
            is again the one that the run was started with, if any. Limits that are not given stay as they are.
        rps: the most requests per second.
        tpm: the most model tokens per minute.
        max_concurrency: the most requests in flight.
        endpoint: the number of an endpoint, from 1: only the limits of its account; default: of all accounts.
        output_dir: the run's output directory.

    Raises:
        SettingsError: a value cannot be used; nothing is changed.
        OutputError: no process runs it, or the process does not answer.
    """
    given = {"rpm": rpm, "rps": rps, "tpm": tpm, "max_concurrency": max_concurrency}
    limits = {name: value for name, value in given.items() if value is not None}
    if not limits:
        raise SettingsError(f"give at least one of {', '.join(map(option, given))}")
    for name, value in limits.items():
        if value != AS_STARTED:
            OPTIONS[name].check(value)
    if endpoint is not None:
        check_whole(endpoint, option("endpoint"))
        limits["endpoint"] = endpoint
    return ask(keyword, output_dir, "limit", limits)


@outermost
def pause(keyword: str, output_dir: str | os.PathLike[str] = "output") -> Change:
    """Let a run at work send no further request until `resume`. Requests in flight arrive.

    Raises:
        SettingsError: the keyword is invalid.
        OutputError: no process runs it, or the process does not answer.
    """
    return ask(keyword, output_dir, "pause", {})


@outermost
def resume(keyword: str, output_dir: str | os.PathLike[str] = "output") -> Change:
    """Let a paused run go on.

    Raises:
        SettingsError: the keyword is invalid.
        OutputError: no process runs it, or the process does not answer.
    """
    return ask(keyword, output_dir, "resume", {})


def ask(keyword: str, output_dir: str | os.PathLike[str], verb: str, values: Mapping[str, Any]) -> Change:
    """Ask the process that works on a run for something, and wait until it has recorded that.

    Raises:
        SettingsError: it refuses, and nothing is changed.
        OutputError: no process runs it, or the process does not answer.
    """
    with opened(keyword, output_dir, read_journal) as run:
        store, last = run.store, run.journal.last_run()
    path = store.journal_path
    if last is None or is_at_work(path, last) is False:
        if (holder := holder_of(path)) and holder.work is Work.PLANS:
            raise OutputError(f"{keyword!r} is not sending yet: {holder.process} is still planning; try again soon")
        raise OutputError(f"no process runs {keyword!r} in {store.directory}: there is nothing to change")
    endpoint, pool = values.get("endpoint", 1), last.question.get("pool", [])
    if endpoint > max(len(pool), 1):
        raise SettingsError(f"{option('endpoint')}: the run has {counted(len(pool), 'endpoint')}, not {endpoint}")
    file, wish = ControlFile(store.control_path), Wish(uuid.uuid4().hex, last.id, verb, values)
    file.add(wish)
    if last.is_here and last.pid == os.getpid() and _is_in_a_loop():
        said = ", ".join(f"{name} {each if each == AS_STARTED else format(each, 'g')}" for name, each in values.items())
        said = said or verb
        return Change(keyword, said, is_taken=False)
    answer = _answer(path, last, file, wish)
    if answer.is_refused:
        raise SettingsError(f"{answer.said}; nothing was changed")
    return Change(keyword, answer.said, is_changed=answer.kind in BY_HAND)


def _is_in_a_loop() -> bool:
    with contextlib.suppress(RuntimeError):
        return asyncio.get_running_loop() is not None
    return False


def _answer(path: Path, last: LastRun, file: ControlFile, wish: Wish) -> ByHand:
    """Wait for the answer of the running process.

    Raises:
        OutputError: it does not come.
    """
    until = time.monotonic() + _PATIENCE_S
    is_over = False
    while True:
        if found := next((each for each in _answers(path, last.id) if each.request == wish.id), None):
            return found
        if is_over:
            break
        is_over = is_at_work(path, last) is False or time.monotonic() > until
        if is_over:
            file.withdraw(wish)  # it may have been taken just now: look once more
        else:
            file.add(wish)  # another verb may have written over it
            time.sleep(_LOOK_S)
    raise OutputError(
        f"{last.process} has not taken the change, and nothing was changed: it has ended meanwhile, stands still, or"
        " works elsewhere"
    )


def _answers(path: Path, run: int) -> Iterator[ByHand]:
    with contextlib.suppress(OutputError), read_journal(path) as journal:  # it may be written just now
        yield from journal.by_hand(run, (*BY_HAND, UNCHANGED_BY_HAND, REFUSED_BY_HAND))

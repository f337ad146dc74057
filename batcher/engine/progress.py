"""The display of a run at work: a bar in a terminal or a notebook, else a line now and then.

Invariant: it reads counters and never slows a row down; everything goes to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from batcher.records import Status
from batcher.words import counted, duration, say

_BAR_EVERY_S = 0.2
_LINE_EVERY_S = 30.0
_OLD_S = 10.0  # the oldest request in flight is shown from this age on
# The bar and the name are short, so that the reason for waiting fits into a terminal of 80 columns.
_BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar:8}| {n_fmt}/{total_fmt} {elapsed}<{remaining} {rate_fmt}{postfix}"
_NAME_WIDTH = 12


@dataclass
class Tally:
    """The counters of a run for its display, changed by its rows as they end."""

    rows: int = 0
    ok: int = 0
    invalid: int = 0
    error: int = 0
    in_flight: int = 0
    oldest_s: float = 0.0
    waiting_for: str = ""

    @property
    def done(self) -> int:
        return self.ok + self.invalid + self.error

    @property
    def left(self) -> int:
        """Rows that have no result yet."""
        return self.rows - self.done

    def count(self, status: Status, rows: int = 1) -> None:
        """Count rows that have ended."""
        setattr(self, status.value, getattr(self, status.value) + rows)


class Progress:
    """Shows a tally. `say` prints a message without tearing the bar.

    Args:
        keyword: names the bar.
        no_progress: no bar and no lines, messages only.
        quiet: no output at all.
    """

    def __init__(self, keyword: str, *, no_progress: bool = False, quiet: bool = False) -> None:
        self._keyword = keyword
        self._hidden = no_progress or quiet
        self._quiet = quiet
        self._bar: Any = None

    def say(self, message: str) -> None:
        """Show a message to people."""
        if self._quiet:
            return
        with contextlib.suppress(OSError):
            if self._bar is not None:
                self._bar.clear()
            say(message)
            if self._bar is not None:
                self._bar.refresh()

    @contextlib.asynccontextmanager
    async def showing(self, tally: Tally, refresh: Callable[[], None]) -> AsyncIterator[None]:
        """Show a tally while the block runs.

        Args:
            tally: what to show.
            refresh: brings the tally's `in_flight` and `waiting_for` up to date.
        """
        if self._hidden:
            yield
            return
        start = tally.done
        show = self._show_bar if _can_show_bar() else self._show_lines
        shower = asyncio.get_running_loop().create_task(show(tally, refresh, start))
        try:
            yield
        finally:
            shower.cancel()
            await asyncio.gather(shower, return_exceptions=True)
            refresh()
            self._finish(tally)

    async def _show_bar(self, tally: Tally, refresh: Callable[[], None], start: int) -> None:
        name = self._keyword if len(self._keyword) <= _NAME_WIDTH else f"{self._keyword[: _NAME_WIDTH - 1]}\u2026"
        self._bar = _bar_class()(
            total=tally.rows,
            initial=start,
            desc=name,
            unit=" rows",
            dynamic_ncols=True,
            smoothing=0.1,
            bar_format=_BAR_FORMAT,
        )
        while True:
            refresh()
            self._update(tally)
            await asyncio.sleep(_BAR_EVERY_S)

    def _update(self, tally: Tally) -> None:
        self._bar.set_postfix_str(_state(tally), refresh=False)
        self._bar.update(tally.done - self._bar.n)
        self._bar.refresh()

    async def _show_lines(self, tally: Tally, refresh: Callable[[], None], start: int) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            await asyncio.sleep(_LINE_EVERY_S)
            refresh()
            rate = (tally.done - start) / (loop.time() - began)
            left = f", {duration((tally.rows - tally.done) / rate)} left" if rate else ""
            share = 100 * tally.done // max(tally.rows, 1)
            self.say(
                f"{self._keyword}: {tally.done:,} of {counted(tally.rows, 'row')} ({share}%),"
                f" {rate:,.1f} rows/s{left}, {_state(tally)}"
            )

    def _finish(self, tally: Tally) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._update(tally)
                self._bar.close()
            self._bar = None


def _state(tally: Tally) -> str:
    failed = tally.invalid + tally.error
    parts = [tally.waiting_for] if tally.waiting_for else []
    parts += [f"{failed:,} failed"] if failed else []
    oldest = f" ({duration(tally.oldest_s)})" if tally.oldest_s >= _OLD_S else ""
    return ", ".join([*parts, f"{tally.in_flight:,} in flight{oldest}"])


def _in_notebook() -> bool:
    """Return whether a Jupyter kernel runs this code: it can show a bar although its stderr is not a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and "IPKernelApp" in shell.config


def _can_show_bar() -> bool:
    if sys.stderr is None or sys.stderr.closed:  # as under `pythonw`
        return False
    return _in_notebook() or sys.stderr.isatty()


def _bar_class() -> type:
    """Return tqdm's bar for a notebook, if ipywidgets is installed, or for a terminal."""
    if _in_notebook() and importlib.util.find_spec("ipywidgets"):
        from tqdm.notebook import tqdm as notebook_bar  # noqa: PLC0415 - needs ipywidgets

        return notebook_bar
    from tqdm import tqdm as terminal_bar  # noqa: PLC0415 - loaded when a bar is shown

    return terminal_bar

"""Where a run shows itself: in a terminal, in a notebook, in a log for people or in one for programs.

Invariant: a display writes nothing else than it is given, and never raises because its reader has gone.
"""

from __future__ import annotations

import contextlib
import html
import importlib.util
import os
import sys
from typing import Any, Protocol

from batcher.engine.bar import State, beside_the_bar, in_words, line, what_matters
from batcher.json_lines import json_line, now
from batcher.tables import width
from batcher.visible import harmless
from batcher.words import in_notebook, print_err, print_out, say

LINE_EVERY_S = 30.0
_TERMINAL_EVERY_S = 0.2
_NOTEBOOK_EVERY_S = 1.0
_COLUMNS = 80  # of a terminal that does not say how wide it is


class Display(Protocol):
    """A place in which a run shows itself.

    Attributes:
        every_s: seconds from one look at the run to the next.
    """

    every_s: float

    def say(self, message: str, level: str, state: State | None, /) -> None:
        """Show a message.

        Args:
            message: for people.
            level: `info`, `warning` or `error`.
            state: of the run, if it has begun.
        """

    def show(self, state: State, /) -> None:
        """Show the run as it is now."""

    def close(self, state: State, /) -> None:
        """Show the run as it ended; nothing else follows but messages."""


class Messages:
    """Messages alone, on stderr."""

    every_s = LINE_EVERY_S

    def say(self, message: str, level: str, _state: State | None) -> None:
        say(message, level)

    def show(self, state: State) -> None: ...

    def close(self, state: State) -> None: ...


class Lines(Messages):
    """Messages, and now and then a line with the time, on a stderr that is kept in a file."""

    def __init__(self) -> None:
        self._has_begun = False

    def show(self, state: State) -> None:
        if self._has_begun:  # at the beginning there is nothing to tell
            print_err(f"{now()} {in_words(state)}")
        self._has_begun = True


class JsonLines:
    """The same as JSON lines, for programs that read logs."""

    every_s = LINE_EVERY_S

    def __init__(self, keyword: str, *, has_progress: bool) -> None:
        self._keyword = keyword
        self._has_progress = has_progress

    def say(self, message: str, level: str, state: State | None) -> None:
        print_err(json_line("message", level, message, state.facts() if state else {"keyword": self._keyword}))

    def show(self, state: State) -> None:
        if self._has_progress:
            print_err(json_line("progress", "info", in_words(state), state.facts()))

    def close(self, state: State) -> None:
        self.show(state)


class Bar(Messages):
    """A line of a terminal that is written again and again.

    The cursor rests at its beginning. So the line is erased wholly also if the terminal has become narrower meanwhile
    and broken it into several.
    """

    every_s = _TERMINAL_EVERY_S

    def __init__(self) -> None:
        self._shown = ("", 0)
        # A console of Windows may not know the sequence; its lines are padded instead.
        self._erase = "\x1b[J" if os.name == "posix" else ""

    def say(self, message: str, level: str, state: State | None) -> None:
        self._write("", 0)
        super().say(message, level, state)
        if state is not None:
            self.show(state)

    def show(self, state: State) -> None:
        columns = _columns()
        # The last column stays empty: some terminals begin a new line as soon as it is written.
        text = line(state, max(columns - 1, 1), is_ascii=not _can_show("\u2588\u2026"))
        if (text, columns) != self._shown:
            self._write(text, columns)

    def close(self, state: State) -> None:
        self.show(state)
        print_err("")

    def _write(self, text: str, columns: int) -> None:
        if not self._erase:
            text += " " * (width(self._shown[0]) - width(text))
        if text or self._shown[0]:
            print_err(f"{self._erase}{text}\r", end="")
        self._shown = (text, columns)


class NotebookMessages(Messages):
    """Messages alone, in a notebook. They go to stdout: on stderr they would stand on red, as errors do."""

    def say(self, message: str, _level: str, _state: State | None) -> None:
        print_out(harmless(message))


class NotebookBar(NotebookMessages):
    """One output of a cell, replaced at most once a second, and only if something has changed.

    Its last state stays in the notebook's file.
    """

    every_s = _NOTEBOOK_EVERY_S

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown: tuple[str, ...] = ()

    def show(self, state: State) -> None:
        if self._shown != (shown := what_matters(state)):
            self._shown = shown
            self._draw(state)

    def close(self, state: State) -> None:
        self._draw(state)

    def _draw(self, state: State) -> None:
        from IPython.display import display  # noqa: PLC0415 - a notebook has it

        shown = _bundle(state)
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(shown, raw=True)


class WidgetBar(NotebookBar):
    """The bar of tqdm, a widget of a notebook."""

    def close(self, state: State) -> None:
        super().close(state)
        self._handle.close()

    def _draw(self, state: State) -> None:
        from tqdm.notebook import tqdm  # noqa: PLC0415 - it needs ipywidgets

        if self._handle is None:
            # Readers without widgets see the name: the text of a widget is never replaced.
            self._handle = tqdm(total=state.rows, desc=state.keyword, bar_format="{desc}{bar}{postfix}")
        self._handle.n = state.done
        self._handle.set_description_str(f"{state.keyword} {state.share}%", refresh=False)
        self._handle.set_postfix_str(beside_the_bar(state), refresh=False)
        self._handle.refresh()


def _bundle(state: State) -> dict[str, str]:
    """Return the bar for a page of any colour, and in words for readers without pages."""
    text = html.escape(beside_the_bar(state))
    bar = f'<progress value="{state.done}" max="{max(state.rows, 1)}" style="vertical-align: middle"></progress>'
    shown = f"<div>{html.escape(state.keyword)} {state.share}% {bar} {text}</div>"
    return {"text/plain": in_words(state), "text/html": shown}


def chosen(keyword: str, *, has_progress: bool, is_json: bool) -> Display:
    """Return the display for the stderr, or the notebook, of this process.

    Args:
        keyword: names the run.
        has_progress: it shows more than messages.
        is_json: as JSON lines.
    """
    if is_json:
        return JsonLines(keyword, has_progress=has_progress)
    if in_notebook():
        if not has_progress:
            return NotebookMessages()
        return WidgetBar() if _has_widgets() else NotebookBar()
    if not has_progress:
        return Messages()
    return Bar() if _is_terminal() else Lines()


def _has_widgets() -> bool:
    """Return whether the notebook certainly shows widgets.

    Visual Studio Code fetches what draws them from a server, and Colab shows them only while the kernel runs.
    """
    is_elsewhere = "VSCODE_PID" in os.environ or "google.colab" in sys.modules
    return not is_elsewhere and importlib.util.find_spec("ipywidgets") is not None


def _is_terminal() -> bool:
    with contextlib.suppress(ValueError):  # it is closed
        return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return False


def _columns() -> int:
    """Return the present width of the terminal: it may change while the run works."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stderr.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True

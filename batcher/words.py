"""How amounts, durations, counts and options are written for people, and how both output streams are written.

Invariant: what people read goes to stderr, data to stdout; a stream that cannot be written does not stop the work.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import NamedTuple, TextIO

from batcher.json_lines import json_line
from batcher.visible import harmless, holds_controls


def say(message: object, level: str = "info") -> None:
    """Print a message for people, as a JSON line if the command line has `--log-json`.

    Args:
        message: what to print.
        level: `info`, `warning` or `error`.
    """
    if not _readers.json_lines:
        print_err(harmless(str(message)))
        return
    print_err(json_line("message", level, str(message), {"keyword": _readers.keyword}))


def print_err(text: object = "", end: str = "\n") -> None:
    """Print to stderr. If it is closed, or its disk is full, the work goes on without it."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(text, end=end, file=sys.stderr, flush=True)


def print_out(data: object) -> None:
    """Print data to stdout. If it is closed, its reader has gone or its disk is full, the work is done all the same."""
    try:
        print(data, flush=True)
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # as in `batcher status k | head`: the reader wants no more
            say(f"batcher: stdout cannot be written ({error.strerror}): {data}")
        give_up(sys.stdout)


def give_up(stream: TextIO) -> None:
    """Redirect a stream to the null device: the rest of its buffer would fail again at the end of the process."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, or with noun and verb: `1 row`, `1,500 rows`, `1 row is`, `2 rows are`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def dollars(nano: int) -> str:
    """Return an amount in nano-dollars for people: `$0.21`, `$0.0004`, `$1,234.50`.

    It shows cents; below ten cents two significant digits, so that a small amount never looks like zero.
    """
    amount = Decimal(abs(nano)).scaleb(-9)
    whole, _, decimals = f"{amount:,.{max(2, 1 - amount.adjusted())}f}".partition(".")
    return f"{'-' if nano < 0 else ''}${whole}.{decimals.rstrip('0'):0<2}"


def percent(share: float) -> str:
    """Return a share for people: `84.2%`; below 0.1% or above 99.9% with a second decimal, so that few is not none."""
    shown = 100 * share
    if 0 < shown < 0.01:
        return "<0.01%"
    if 99.99 < shown < 100:
        return ">99.99%"
    return f"{shown:.{2 if 0 < shown < 0.1 or 99.9 < shown < 100 else 1}f}%"


def duration(seconds: float) -> str:
    """Return a duration for people: `45s`, `12m 05s`, `3h 20m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    return f"{whole // 3600:,}h {whole % 3600 // 60:02}m"


def elapsed(seconds: float) -> str:
    """Return how long something took: below a minute in tenths of a second, `0.8 s`; else as `duration`."""
    return f"{seconds:.1f} s" if seconds < 59.95 else duration(seconds)


class Place(NamedTuple):
    """Where an option stands that the command line leaves to a file.

    Attributes:
        where: the file, and the line if it is known.
        written: the option as it is written there.
    """

    where: str
    written: str


class _Readers:
    """Counts the command lines that run in this process.

    Without one, messages are for a caller in Python.

    Attributes:
        json_lines: one of them has `--log-json`.
        places: where the options stand that come from a file, by their names in Python.
        keyword: of the run that a command line began last.
    """

    command_lines = 0
    json_lines = False
    places: Mapping[str, Place] = {}
    keyword: str | None = None


_readers = _Readers()


@contextlib.contextmanager
def command_line() -> Iterator[None]:
    """Write options as the command line spells them, in all threads of the process."""
    _readers.command_lines += 1
    _readers.keyword = None
    try:
        yield
    finally:
        _readers.command_lines -= 1
        _readers.json_lines = _readers.json_lines and _readers.command_lines > 0


def begin_json_lines() -> None:
    """Let `say` print JSON lines, in all threads of the process, until its last command line has ended."""
    _readers.json_lines = True


@contextlib.contextmanager
def written_in_file(places: Mapping[str, Place]) -> Iterator[None]:
    """Let messages name the file for the options that come from it, in all threads of the process."""
    before, _readers.places = _readers.places, places
    try:
        yield
    finally:
        _readers.places = before


def blamed(name: str) -> str:
    """Return an option that was given, for the beginning of a message: `--limit`, or `job.toml, line 3: limit`."""
    place = _readers.places.get(name)
    return f"{place.where}: {place.written}" if place else option(name)


def as_given(name: str, value: object = None) -> str:
    """Return an option that was given, for within a sentence: `--limit 5`, or `limit (job.toml, line 3)`."""
    place = _readers.places.get(name)
    return f"{place.written} ({place.where})" if place else option(name, value)


def origin(name: str) -> str:
    """Return the place in a file that a value comes from, for a message that does not begin with its option."""
    return f"{blamed(name)}: " if name in _readers.places else ""


IN_TOML = """in double quotes a backslash begins an escape: write it in 'single quotes', or with /"""


_TOML_HINTS = {
    "Invalid value": '; a text needs quotes: name = "text"',
    **dict.fromkeys(("Unescaped", "Invalid hex value", "Escaped character"), f"; {IN_TOML}"),
}


def toml_hint(error: Exception) -> str:
    """Return what to do about an error of `tomllib`; empty if its own words are all."""
    return next((hint for begin, hint in _TOML_HINTS.items() if str(error).startswith(begin)), "")


def escape_hint(path: str) -> str:
    """Return advice on a path that holds a line break, a tab or the like; empty if it holds none."""
    if not holds_controls(path):
        return ""
    python = 'in a text of Python a backslash begins an escape: write r"...", or /'
    return by_reader(command_line=": it holds a control character", python=f": {python}")


def about(keyword: str) -> None:
    """Let the JSON lines of `say` name this run."""
    _readers.keyword = keyword


def option(name: str, value: object = None) -> str:
    """Return an option as the reader would write it: `--on-change redo`, or `on_change="redo"` in Python.

    It is for messages only: the contents of files must not depend on who started the run.

    Args:
        name: as Python spells it.
        value: the value to show with it, if any; True for an option that is only switched on.
    """
    if not _readers.command_lines:
        return name if value is None else f"{name}={_in_python(value)}"
    flag = "--" + name.rstrip("_").replace("_", "-")  # Python keeps some words, such as `with`, to itself
    if value is None or value is True:
        return flag
    if isinstance(value, Mapping):
        return " ".join(f"{flag} {key}={each}" for key, each in value.items())
    return f"{flag} {value}"


def by_reader(*, command_line: str, python: str) -> str:
    """Return the text for the reader at hand, if the two differ in more than the spelling of an option."""
    return command_line if _readers.command_lines else python


def has_command_line() -> bool:
    """Return whether a command line runs in this process, and so a person may sit before it."""
    return _readers.command_lines > 0


def verb(name: str) -> str:
    """Return a verb as the reader would write it: `batcher run`, or `batcher.run` in Python; in backquotes."""
    return by_reader(command_line=f"`batcher {name}`", python=f"`batcher.{name}`")


def same_command() -> str:
    """Return what goes on with a run: the command line, the call, or the cell of the notebook, given once more."""
    return by_reader(command_line="the same command", python="the same cell" if in_notebook() else "the same call")


def in_notebook() -> bool:
    """Return whether a Jupyter kernel runs this code."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and "IPKernelApp" in shell.config


def _in_python(value: object) -> str:
    if isinstance(value, str) and not value.isupper():  # a placeholder, such as COLUMN, has no quotes
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)}: {each}" for key, each in value.items()) + "}"
    return str(value)

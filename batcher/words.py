"""How durations, options and messages are written for people.

Invariant: what people read goes to stderr; a message that nobody can hear does not stop the work.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping


def say(message: object) -> None:
    """Print a message for people. Nobody may hear it (stderr closed, its disk full), and the work goes on."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(message, file=sys.stderr, flush=True)  # noqa: T201 - this is where people read


def duration(seconds: float) -> str:
    """Return a duration for people: `45s`, `12m 05s`, `3h 20m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    return f"{whole // 3600:,}h {whole % 3600 // 60:02}m"


class _Speech:
    """Who reads the messages of this process: people at a command line, or those who call batcher from Python."""

    is_command_line = False


_speech = _Speech()


@contextlib.contextmanager
def command_line() -> Iterator[None]:
    """Write options as the command line spells them, in all threads of the process."""
    before = _speech.is_command_line
    _speech.is_command_line = True
    try:
        yield
    finally:
        _speech.is_command_line = before


def option(name: str, value: object = None) -> str:
    """Return an option as the reader would write it: `--on-change redo`, or `on_change="redo"` in Python.

    It is for messages alone: what is written into files must not depend on who started the run.

    Args:
        name: as Python spells it.
        value: what to give it, if that is to be said; True for an option that is only switched on.
    """
    if not _speech.is_command_line:
        return name if value is None else f"{name}={_in_python(value)}"
    flag = "--" + name.replace("_", "-")
    if value is None or value is True:
        return flag
    if isinstance(value, Mapping):
        return " ".join(f"{flag} {key}={each}" for key, each in value.items())
    return f"{flag} {value}"


def by_reader(*, command_line: str, python: str) -> str:
    """Return what the reader needs, if it is more than the spelling of an option."""
    return command_line if _speech.is_command_line else python


def _in_python(value: object) -> str:
    if isinstance(value, str) and not value.isupper():  # a placeholder, such as COLUMN, has no quotes
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)}: {each}" for key, each in value.items()) + "}"
    return str(value)

"""How durations and messages are written for people.

Invariant: what people read goes to stderr; a message that nobody can hear does not stop the work.
"""

from __future__ import annotations

import contextlib
import sys


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

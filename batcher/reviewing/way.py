"""Lets what a person waits for go before what is read beside.

Invariant: whoever gives way does so for a moment at most, so that it comes to its end however much is asked.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_MOST_S = 0.1


class Way:
    """Knows whether a person waits for something. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._waiting = 0
        self._change = threading.Condition()

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """Let the block go before others."""
        with self._change:
            self._waiting += 1
        try:
            yield
        finally:
            with self._change:
                self._waiting -= 1
                if not self._waiting:
                    self._change.notify_all()

    def give(self) -> None:
        """Let go first what a person waits for, if there is anything."""
        with self._change:
            self._change.wait_for(lambda: not self._waiting, _MOST_S)

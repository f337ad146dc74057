"""The rehearsed run: a process of its own, which is killed and started again until it ends by itself.

Invariant: no process outlives the rehearsal, and none has a secret, a proxy or a tracer in its environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from batcher.calls.services import SERVICES
from batcher.errors import SettingsError
from batcher.hiding import holds_secret
from batcher.server.batch_rules import Place
from batcher.server.books import Books
from batcher.words import counted, say

KEY_VARIABLE = "BATCHER_REHEARSAL_KEY_"
"""How the variables of the dummy keys begin; their numbers follow, from 1."""

_MOST_STOPS = 10
"""How often a run may stop early by itself; it is started again only if it had got answers since its start."""
_LOOK_S = 0.005  # between two looks at the server's books


_PLACES = {
    Place.CREATE: "a request to make a batch",
    Place.CONTENT: "a request for results",
    Place.UPLOAD: "an upload",
    Place.LOOK: "a question about a batch",
}
"""The requests at which a run that asks by batch is killed, in this order, and what they are called."""


class Moment(NamedTuple):
    """When a run is killed.

    Attributes:
        answers: once the server has sent this number of answers.
        place: or once it has received this request since the run was started.
    """

    answers: int = 0
    place: Place | None = None

    def has_come(self, books: Books, before: Mapping[str, int]) -> bool:
        """Return whether it has come; `before` are the requests about batches before the start."""
        if self.place is not None:
            return books.batches.by_call[self.place] > before.get(self.place, 0)
        return answers_in(books) >= self.answers


def moments_of(rows: int, kills: int, *, by_batch: bool) -> list[Moment]:
    """Return when a run is killed: spread evenly over the answers, or at requests about batches."""
    if by_batch:
        return [Moment(place=[*_PLACES][number % len(_PLACES)]) for number in range(kills)]
    return [Moment(max(rows * number // (kills + 1), 1)) for number in range(1, kills + 1)]


def answers_in(books: Books) -> int:
    """Return the answers that a server has given to requests, and to lines of batches."""
    return books.answered + books.batches.answered


def variables_with(keys: Sequence[str], used: Collection[str] = ()) -> dict[str, str]:
    """Return the environment of the child: no secret, no proxy, no tracing, and the dummy keys.

    Args:
        keys: the dummy keys.
        used: the variables that the endpoints of the real run are made of, whatever their names.
    """
    secret = {name for service in SERVICES.values() for name in service.key_variables} | set(used)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not (name in secret or holds_secret(name, value) or name.lower().endswith("_proxy") or "TRACING" in name)
    }
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    mine = {f"{KEY_VARIABLE}{number}": key for number, key in enumerate(keys, 1)}
    off = {"NO_PROXY": "*", "LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false", "PYTHONIOENCODING": "utf-8"}
    return {**kept, **mine, **off, "PYTHONPATH": paths}


class Child:
    """A run in a process of its own, which is killed and started again until it ends by itself.

    Args:
        command: its command line.
        variables: its environment.
        log: the file that gets what it prints.
        books: of the server that it asks.

    Attributes:
        starts: of the process.
        kills: of it.
        stops: what it said each time that it stopped early by itself.
        working_s: seconds from the first request of each start to its end.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], log: Path, books: Books) -> None:
        self._command = command
        self._variables = variables
        self._log = log
        self._books = books
        self._said_before = 0  # bytes in the log when the latest process started
        self.starts = 0
        self.kills = 0
        self.stops: list[str] = []
        self.working_s = 0.0

    def play(self, moments: Sequence[Moment], *, is_quiet: bool) -> None:
        """Run to the end.

        Args:
            moments: of the kills.
            is_quiet: say nothing of them.

        Raises:
            SettingsError: the run refused its options or its input.
        """
        left = deque(moments)
        while True:
            answered = answers_in(self._books)
            status = self._start(left[0] if left else None)
            if status is None:
                self.kills += 1
                place = left.popleft().place
                if not is_quiet:
                    when = f"at {_PLACES[place]}" if place else f"after {counted(answers_in(self._books), 'answer')}"
                    say(f"Killed ({self.kills} of {len(moments)}) {when}; it starts again.")
            elif status == 2:
                raise SettingsError(self._last_words())
            elif status in {0, 1}:
                return
            else:
                self.stops.append(self._last_words() or f"exit status {status}")
                if len(self.stops) >= _MOST_STOPS or answers_in(self._books) == answered:
                    return

    def _start(self, moment: Moment | None) -> int | None:
        """Start the process and wait for its end; return its exit status, or None if it was killed.

        Args:
            moment: kill it then, but not before it has sent a request.
        """
        self.starts += 1
        self._said_before = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own program
                self._command,
                env=self._variables,
                stdin=subprocess.PIPE,  # its end is the process's end: see `run`
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the rehearsal
            )
        try:
            return self._watched(process, moment)
        finally:
            process.kill()
            process.communicate()

    def _watched(self, process: subprocess.Popen[bytes], moment: Moment | None) -> int | None:
        """Wait for the end of the process or for the moment to kill it, which returns None."""
        books, before, first = self._books, _requests_in(self._books), 0.0
        calls = dict(books.batches.by_call)
        try:
            while process.poll() is None:
                if not first and _requests_in(books) > before:
                    first = time.monotonic()
                if first and moment is not None and moment.has_come(books, calls):
                    return None
                time.sleep(_LOOK_S)
            return process.returncode
        finally:
            self.working_s += time.monotonic() - first if first else 0.0

    def _last_words(self) -> str:
        """Return what the latest process said at its end, or nothing."""
        said = self._log.read_bytes()[self._said_before :].decode("utf-8", "replace")
        return " ".join(said.rpartition("batcher: ")[2].split()) if "batcher: " in said else ""


def _requests_in(books: Books) -> int:
    return books.requests + sum([*books.batches.by_call.values()])


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and a closed terminal interrupt the block as Ctrl-C does, so that no process stays behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) is signal.SIG_DFL}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

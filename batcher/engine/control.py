"""What people change while a run works: its limits, and whether it pauses.

Invariant: a change takes effect as a whole or not at all, is recorded in the journal before it is answered, and never
cancels a request in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from batcher.engine.process import allow_connections
from batcher.engine.progress import Progress
from batcher.engine.window import Window
from batcher.errors import OutputError, SettingsError, in_words
from batcher.journal.entries import BY_HAND, REFUSED_BY_HAND
from batcher.journal.writing import Journal
from batcher.output.control import ControlFile, Wish
from batcher.pool.account import Account
from batcher.pool.pool import Pool
from batcher.words import by_reader, counted, duration, option

_LOOK_S = 1.0
_FAILURES = 3  # looks in a row, after which people are told
_LIMITED, _PAUSED, _RESUMED = BY_HAND
_LIMITS = {"rpm", "rps", "tpm", "max_concurrency"}


class Control:
    """Takes the requests in the control file of a run, and does what they ask for.

    Args:
        keyword: of the run.
        file: the control file.
        journal: records each change.
        pool: has the limits.
        window: asks more rows at once if it may.
        progress: tells people.

    Attributes:
        changes: what was changed, in words, in the order in which it happened.
    """

    def __init__(
        self, keyword: str, file: ControlFile, *, journal: Journal, pool: Pool, window: Window, progress: Progress
    ) -> None:
        self.changes: list[str] = []
        self._keyword = keyword
        self._file = file
        self._journal = journal
        self._pool = pool
        self._window = window
        self._progress = progress
        self._taken: set[str] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Take requests while the block runs; afterwards there is no control file."""
        listener = asyncio.get_running_loop().create_task(self._listen())
        try:
            yield
        finally:
            listener.cancel()
            await asyncio.wait([listener])
            self._file.remove()
        if not listener.cancelled():
            listener.result()

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                if self._file.exists():
                    await self._take()
                failures = 0
            except OSError as error:  # a share that is gone for a while, or a verb of Windows that reads the file
                failures += 1
                if failures == _FAILURES:
                    self._progress.say(f"Changes by hand cannot be read now ({in_words(error)}).", "warning")
            await asyncio.sleep(_LOOK_S)

    async def _take(self) -> None:
        """Do what the file asks for, and record it."""
        for wish in await asyncio.to_thread(self._file.take):
            # One to another run is left from a process that was killed.
            if wish.run == self._journal.run and wish.id not in self._taken:
                self._taken.add(wish.id)
                self._answer(wish)
        with contextlib.suppress(OutputError):  # the rows of the run meet it, too, and end the run
            await self._journal.flush()

    def _answer(self, wish: Wish) -> None:
        try:
            kind, said = self._do(wish)
        except SettingsError as error:
            self._journal.note(REFUSED_BY_HAND, wish.id, str(error))
            return
        self.changes.append(said)
        self._journal.note(kind, wish.id, said)

    def _do(self, wish: Wish) -> tuple[str, str]:
        """Do what a request asks for; return the kind of its event, and what changed.

        Raises:
            SettingsError: it cannot be done, and nothing is changed.
        """
        if wish.verb == "limit":
            said = self._limit(dict(wish.values))
            self._progress.say(f"Changed by hand: {said}.")
            return _LIMITED, said
        if wish.verb == "pause":
            return _PAUSED, self._pause()
        if wish.verb == "resume":
            return _RESUMED, self._resume()
        raise SettingsError(f"this run does not know {wish.verb!r}: it is of another version of batcher")

    def _pause(self) -> str:
        if not self._pool.pause():
            return "paused already"
        resume = by_reader(command_line=f"batcher resume {self._keyword}", python=f'batcher.resume("{self._keyword}")')
        in_flight = counted(self._pool.in_flight, "request")
        self._progress.say(f"Paused by hand: {in_flight} in flight may still arrive; `{resume}` goes on.")
        return "paused"

    def _resume(self) -> str:
        seconds = self._pool.resume()
        if seconds is None:
            return "was not paused"
        self._progress.say(f"Going on, after a pause by hand of {duration(seconds)}.")
        return f"resumed after {duration(seconds)}"

    def _limit(self, limits: dict[str, Any]) -> str:
        number = limits.pop("endpoint", None)
        members = self._pool.members
        if number is not None and number not in range(1, len(members) + 1):
            raise SettingsError(f"{option('endpoint')}: there are {counted(len(members), 'endpoint')}, not {number}")
        if unknown := limits.keys() - _LIMITS:
            raise SettingsError(f"this run has no limit {unknown.pop()!r}")
        accounts = list(dict.fromkeys(each.account for each in (members if number is None else [members[number - 1]])))
        # Each endpoint checks its own limits; the system must allow the connections of all of them.
        changed = [replace(m.endpoint, **limits) if m.account in accounts else m.endpoint for m in members]
        if "max_concurrency" in limits:
            allow_connections(changed)
        said = [f"{name} {_shown(accounts, name)} -> {_number(value)}" for name, value in limits.items()]
        for member, endpoint in zip(members, changed, strict=True):
            member.endpoint = endpoint
        for account in accounts:
            self._pool.limit(account, **limits)
        self._window.widen()
        where = f"endpoint {number}: " if number else ""
        each = f" (each of {len(accounts)} accounts)" if len(accounts) > 1 else ""
        return f"{where}{', '.join(said)}{each}"


def _shown(accounts: Sequence[Account], name: str) -> str:
    """Return the present limits of accounts, each once."""
    return ", ".join(dict.fromkeys(_number(account.given(name)) for account in accounts))


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:,.0f}" if value == int(value) else f"{value:,g}"

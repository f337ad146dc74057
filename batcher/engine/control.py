"""What people change while a run works: its limits, whether it pauses, and that its batches are cancelled.

Invariant: a change takes effect as a whole or not at all, is recorded in the journal before it is answered, and never
cancels a request in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from batcher.endpoint import AS_STARTED
from batcher.engine.batching.batches import Batches
from batcher.engine.batching.submitting import Closed
from batcher.engine.passes import Passes
from batcher.engine.process import allow_connections
from batcher.engine.progress import Progress
from batcher.engine.window import Window
from batcher.errors import BatcherError, OutputError, SettingsError, in_words
from batcher.journal.corrections import Overtaken
from batcher.journal.entries import BY_HAND, OVERTAKEN, REFUSED_BY_HAND, UNCHANGED_BY_HAND
from batcher.journal.sampling import Gold
from batcher.journal.writing import Journal
from batcher.output.control import ControlFile, Wish, decision_of
from batcher.pool.account import Account
from batcher.pool.pool import Pool
from batcher.words import by_reader, counted, duration, option

_LOOK_S, _LOOK_AGAIN_S = 1.0, 0.1
_FAILURES = 3  # looks in a row, after which people are told
_LIMITED, _PAUSED, _RESUMED, _CANCELLED = BY_HAND
_DECISIONS = {"decide", "label"}
_LIMITS = {"rpm", "rps", "tpm", "max_concurrency"}


class Control:
    """Takes the requests in the control file of a run, and does what they ask for.

    Args:
        file: the control file.
        journal: records each change.
        progress: tells people.

    Attributes:
        changes: what was changed, in words, in the order in which it happened.
    """

    def __init__(self, file: ControlFile, journal: Journal, progress: Progress) -> None:
        self.changes: list[str] = []
        self._file = file
        self._journal = journal
        self._progress = progress
        self._steering: Steering | None = None
        self._taken: set[str] = set()
        self._is_watched = False  # a page has asked for something, and may soon ask for more

    def steer(self, steering: Steering | None) -> None:
        """Let this do what people ask about limits and pauses; without one that waits, and decisions do not."""
        self._steering = steering

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
            await asyncio.sleep(_LOOK_AGAIN_S if self._is_watched else _LOOK_S)

    async def _take(self) -> None:
        """Do what the file asks for, and record it."""
        # What has to wait stays in the file: whoever asked for it may take it back meanwhile.
        for wish in await asyncio.to_thread(self._file.take if self._steering else self._file.read):
            # One to another run is left from a process that was killed.
            if wish.run != self._journal.run or wish.id in self._taken:
                continue
            if wish.verb in _DECISIONS:
                self._taken.add(wish.id)
                await self._decide(wish)
            elif self._steering:
                self._taken.add(wish.id)
                self._answer(wish, self._steering)
        with contextlib.suppress(OutputError):  # the rows of the run meet it, too, and end the run
            await self._journal.flush()

    async def _decide(self, wish: Wish) -> None:
        """Record what a person has decided on the page; what cannot be written is not answered."""
        self._is_watched = True
        values = wish.values
        try:
            if wish.verb == "label":
                await self._journal.label([Gold(*each) for each in values["golds"]], wish.id)
            else:
                await self._journal.decide(decision_of(values), wish.id)
        except Overtaken as error:
            self._journal.note(OVERTAKEN, wish.id, "" if error.result is None else str(error.result))
        except SettingsError as error:
            self._journal.note(REFUSED_BY_HAND, wish.id, str(error))
        except (OutputError, TypeError, ValueError, LookupError):  # the page hears nothing, and says so
            return

    def _answer(self, wish: Wish, steering: Steering) -> None:
        try:
            kind, said = steering.do(wish)
        except SettingsError as error:
            kind, said = REFUSED_BY_HAND, str(error)
        if kind in BY_HAND:
            self.changes.append(said)
        self._journal.note(kind, wish.id, said)


class Steering:
    """Changes limits, pauses, and cancels batches.

    Args:
        keyword: of the run.
        pool: has the limits.
        window: asks more rows at once if it may; or the passes of a run with batches.
        progress: tells people.
    """

    def __init__(self, keyword: str, pool: Pool, window: Window | Passes, progress: Progress) -> None:
        self._keyword = keyword
        self._pool = pool
        self._window = window
        self._progress = progress
        self._batches = window.batches if isinstance(window, Passes) else None
        self._cancelling: asyncio.Task[None] | None = None
        self._started = {member: member.endpoint for member in pool.members}

    def do(self, wish: Wish) -> tuple[str, str]:
        """Do what a request asks for; return the kind of its event, and what changed.

        Raises:
            SettingsError: it cannot be done, and nothing is changed.
        """
        if wish.verb == "limit":
            return self._limit(dict(wish.values))
        if wish.verb == "pause":
            return self._pause()
        if wish.verb == "resume":
            return self._resume()
        if wish.verb == "cancel":
            return self._cancel()
        raise SettingsError(f"this run does not know {wish.verb!r}: it is of another version of batcher")

    def _pause(self) -> tuple[str, str]:
        if not self._pool.pause():
            return UNCHANGED_BY_HAND, "paused already: nothing changed"
        resume = by_reader(command_line=f"batcher resume {self._keyword}", python=f'batcher.resume("{self._keyword}")')
        in_flight = counted(self._pool.in_flight, "request")
        self._progress.say(f"Paused by hand: {in_flight} in flight may still arrive; `{resume}` goes on.")
        return _PAUSED, "paused"

    def _resume(self) -> tuple[str, str]:
        seconds = self._pool.resume()
        if seconds is None:
            return UNCHANGED_BY_HAND, "was not paused: nothing changed"
        self._progress.say(f"Going on, after a pause by hand of {duration(seconds)}.")
        return _RESUMED, f"resumed after {duration(seconds)}"

    def _cancel(self) -> tuple[str, str]:
        """Begin to cancel all batches; the run tells what comes of that, and ends when all are fetched."""
        if self._batches is None or not self._batches.open:
            raise SettingsError("the run has no batch at a service: there is nothing to cancel")
        if self._cancelling is not None:
            return UNCHANGED_BY_HAND, "its batches are being cancelled already"
        count, rows = len(self._batches.open), self._batches.rows_out
        said = f"cancelling {counted(count, 'batch', 'batches')} with {counted(rows, 'row')}"
        self._cancelling = asyncio.get_running_loop().create_task(self._cancel_all(self._batches))
        self._progress.say(f"By hand: {said}. What was answered until now is fetched; then the run ends.")
        return _CANCELLED, said

    async def _cancel_all(self, batches: Batches) -> None:
        try:
            await batches.cancel()
        except Closed:  # the run is stopping for another reason: the batches are left as they are
            return
        except BatcherError as error:
            self._progress.say(f"Batches could not be cancelled: {error}", "warning")

    def _limit(self, limits: dict[str, Any]) -> tuple[str, str]:
        number = limits.pop("endpoint", None)
        members = self._pool.members
        if number is not None and number not in range(1, len(members) + 1):
            raise SettingsError(f"{option('endpoint')}: there are {counted(len(members), 'endpoint')}, not {number}")
        if unknown := limits.keys() - _LIMITS:
            raise SettingsError(f"this run has no limit {unknown.pop()!r}")
        accounts = list(dict.fromkeys(each.account for each in (members if number is None else [members[number - 1]])))
        wanted = {account: self._wanted(account, limits) for account in accounts}
        # Each endpoint checks its own limits; the system must allow the connections of all of them.
        changed = [replace(m.endpoint, **wanted.get(m.account, {})) for m in members]
        if "max_concurrency" in limits:
            allow_connections(changed, are_distant=any(each.distant is not None for each in members))
        before = {name: [account.given(name) for account in accounts] for name in limits}
        after = {name: [wanted[account][name] for account in accounts] for name in limits}
        where = f"endpoint {number}: " if number else ""
        each = f" (each of {len(accounts)} accounts)" if len(accounts) > 1 else ""
        if before == after:
            same = ", ".join(f"{name} is {_shown(values)} already" for name, values in after.items())
            return UNCHANGED_BY_HAND, f"{where}{same}{each}: nothing changed"
        said = [
            f"{name} {_shown(before[name])} -> {_shown(after[name])}" for name in limits if before[name] != after[name]
        ]
        for member, endpoint in zip(members, changed, strict=True):
            member.endpoint = endpoint
        for account, values in wanted.items():
            self._pool.limit(account, **values)
        self._window.widen()
        still = self._still_binding(accounts, limits, is_named=number is not None or len(accounts) > 1)
        text = f"{where}{', '.join(said)}{each}{still}"
        self._progress.say(f"Changed by hand: {text}.")
        return _LIMITED, text

    def _wanted(self, account: Account, limits: Mapping[str, Any]) -> dict[str, Any]:
        """Return the new limits of an account."""
        started = next(self._started[member] for member in self._pool.members if member.account is account)
        return {name: getattr(started, name) if value == AS_STARTED else value for name, value in limits.items()}

    def _still_binding(self, accounts: Sequence[Account], limits: Mapping[str, Any], *, is_named: bool) -> str:
        """Return which limits that were not changed hold accounts back more than those that were; empty if none."""
        found: dict[str, None] = {}
        for account in accounts:
            bounds = account.bounds()
            new = min((each.rate for each in bounds if each.name in limits), default=math.inf)
            numbers = [n for n, member in enumerate(self._pool.members, 1) if member.account is account]
            whose = f" of endpoint {', '.join(map(str, numbers))}" if is_named else ""
            for each in bounds:
                is_idle = each.name == "max_concurrency" and account.admits()
                if each.name not in limits and each.rate < new and not is_idle:
                    found[f"{each.text}{whose}"] = None
        verb = "still binds" if len(found) == 1 else "still bind"
        return f"; {', '.join(found)} {verb}" if found else ""


def _shown(values: Sequence[float | None]) -> str:
    """Return the limits of accounts, each once."""
    return ", ".join(dict.fromkeys(map(_number, values)))


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:,.0f}" if value == int(value) else f"{value:,g}"

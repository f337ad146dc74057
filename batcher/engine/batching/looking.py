"""Looks at batches until they are over at their services.

Invariant: a failure to look says nothing of a batch. One that its service does not know is looked for with the other
API keys of its source before it is given up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from batcher.calls.batch_service import Remote, RemoteState
from batcher.engine.batching.filling import Place
from batcher.engine.batching.submitting import Patience, forgetting, is_passing
from batcher.engine.batching.tending import Tended
from batcher.errors import BatcherError
from batcher.journal.writing import Journal
from batcher.pool.blame import GIVES_UP_S
from batcher.records import Failure
from batcher.words import counted, duration, option

_FIRST_LOOK_S, _LONGEST_S, _GROWTH = 1.0, 60.0, 1.5
"""Seconds to the first look at batches, and at most between two; and by how much they grow."""
_KNOWN_S = 600.0
"""The seconds after which a service knows a batch that it has made."""
_KEY_REFUSED = {401, 403}


class Looker:
    """Looks at the batches of a run.

    Args:
        journal: gets what services say.
        places: the endpoints that take batches.
        patience: knows which of them have answered.
        tended: the batches, by their ids in the journal.
        start: starts what runs beside the others.
        give_up: is called if nothing more will be heard of a batch, with the reason.
        news: is set when something has changed.
        keyword: of the run.
        forgets: a batch that its service does not know is given up at once.

    Attributes:
        next_look: the loop's time of the next look.
    """

    def __init__(
        self,
        journal: Journal,
        places: Sequence[Place],
        patience: Patience,
        tended: Mapping[int, Tended],
        *,
        start: Callable[[Coroutine[Any, Any, None]], None],
        give_up: Callable[[Tended, BatcherError], None],
        news: asyncio.Event,
        keyword: str,
        forgets: bool,
    ) -> None:
        self.next_look = 0.0
        self._keyword = keyword
        self._forgets = forgets
        self._journal = journal
        self._places = places
        self._patience = patience
        self._tended = tended
        self._start = start
        self._give_up = give_up
        self._news = news
        self._wakes: dict[Place, asyncio.Event] = {}

    def watch(self, place: Place) -> None:
        """Look at the batches of an endpoint from now on."""
        if place not in self._wakes:
            self._wakes[place] = asyncio.Event()
            self._start(self._poll(place))

    def wake(self, place: Place) -> None:
        """Look soon: a batch of an endpoint was submitted or cancelled."""
        if wake := self._wakes.get(place):
            wake.set()

    def others_of(self, tended: Tended) -> list[Place]:
        """Return the other endpoints of a batch's source: those with other API keys."""
        source = tended.batch.source
        return [each for each in self._places if each is not tended.place and each.member.source == source]

    async def _poll(self, place: Place) -> None:
        """Look at the batches of an endpoint, rarer and rarer until one of them changes hands."""
        loop, wake = asyncio.get_running_loop(), self._wakes[place]
        wait_s = _FIRST_LOOK_S
        failing_since = None
        while True:
            sent = [each for each in self._tended.values() if each.place is place and each.is_watched]
            if not sent:
                wait_s = _FIRST_LOOK_S
                await wake.wait()
                wake.clear()
                continue
            self.next_look = loop.time() + wait_s
            try:
                await asyncio.wait_for(wake.wait(), wait_s)
                wake.clear()
                wait_s = _FIRST_LOOK_S
                continue
            except TimeoutError:
                wait_s = min(wait_s * _GROWTH, _LONGEST_S)
            said = [await self._look(each) for each in sent if each.is_watched and each.batch.id in self._tended]
            failures = [each for each in said if isinstance(each, Failure)]
            wait_s = max(wait_s, *(each.retry_after or 0.0 for each in said), 0.0)
            failing_since = (failing_since or loop.time()) if failures else None
            place.trouble = f"{failures[0]}; again in {duration(wait_s)}" if failures else ""
            if failing_since is not None and loop.time() - failing_since >= GIVES_UP_S:
                raise BatcherError(
                    f"{place.member.label} has not said anything of its batches for"
                    f" {duration(loop.time() - failing_since)}: {failures[0]}"
                )

    async def _look(self, tended: Tended) -> Remote | Failure:
        """Ask about a batch; return what its service says, or the failure."""
        came = await tended.place.service.look(tended.batch.service_id or "")
        if isinstance(came, Remote):
            self._patience.record(tended.place)
            await self.see(tended, came)
            return came
        if came.status == HTTPStatus.NOT_FOUND:
            return await self._look_elsewhere(tended, came)
        if came.status in _KEY_REFUSED and not self._patience.has_answered(tended.place):
            said = f"batch {tended.batch.service_id} cannot be looked at: {str(came).rstrip('.')}"
            key = f"is it the key of the account that made the batch ({option('api_key_env', 'VARIABLE')})?"
            self._give_up(tended, BatcherError(f"{tended.place.member.label}: {said}; {key}"))
            return came
        if not is_passing(came) and came.status is None:
            self._give_up(tended, BatcherError(f"{tended.place.member.label}: {came}"))
        return came

    async def _look_elsewhere(self, tended: Tended, unknown: Failure) -> Remote | Failure:
        """Look for a batch with the other keys of its source; without success, leave it, and say so.

        A service may not know it yet, right after it was created: then the failure is returned.
        """
        batch = tended.batch
        for place in self.others_of(tended):
            came = await place.service.look(batch.service_id or "")
            if isinstance(came, Remote):
                self.move(tended, place)
                await self.see(tended, came)
                return came
        now = asyncio.get_running_loop().time()
        tended.unknown_since = now if tended.unknown_since is None else tended.unknown_since
        is_old = time.time() - (batch.submitted or 0) >= _KNOWN_S or now - tended.unknown_since >= _KNOWN_S
        if not is_old and not self._forgets:
            return unknown
        label = tended.place.member.label
        self._give_up(
            tended,
            BatcherError(
                f"batch {batch.service_id} of {counted(batch.requests, 'line')} is not known at {label}. Was it made"
                " with the key of another account? Give that key. Or is it gone?"
                f" {forgetting(self._keyword)} gives it up, and its rows are asked again"
            ),
        )
        return unknown

    def move(self, tended: Tended, place: Place) -> None:
        """Let another endpoint be asked about a batch."""
        for each, by in ((tended.place, -1), (place, 1)):
            each.open += by
            each.tokens_out += by * tended.batch.tokens
        tended.place = place
        self.watch(place)

    async def see(self, tended: Tended, remote: Remote) -> None:
        """Record what a service says of a batch."""
        tended.remote, tended.unknown_since = remote, None
        tended.was_at_work = tended.was_at_work or remote.state not in {RemoteState.VALIDATING, RemoteState.FAILED}
        batch = tended.batch
        said = remote.said or remote.state.value
        if (batch.service_state, batch.completed, batch.failed) != (said, remote.completed, remote.failed):
            tended.batch = await self._journal.batch_moved(
                batch,
                service_state=said,
                completed=remote.completed,
                failed=remote.failed,
                expires=remote.expires or batch.expires,
            )
            self._news.set()
        if remote.state.is_over:
            tended.over.set()

"""What works in a worker: it makes the calls that it is handed, and keeps what becomes of them until it is asked.

It knows nothing of Ray, so that it can be tried in any process.

Invariant: each call that was taken ends exactly once in the news, and is told to have departed before it ends, if its
request has left. A call is never said to have departed earlier than it did.
"""

from __future__ import annotations

import asyncio
import pickle
import warnings
from collections.abc import Callable
from functools import partial

from batcher.calls.caller import CallCut, Callers, TellingCaller
from batcher.calls.factory import ChatCallers
from batcher.calls.workers.setup import Setup
from batcher.calls.workers.wire import Call, Unpacker, pack_news
from batcher.records import Completion, Failure, Fault

# The longest wait for something to tell.
_SILENCE_S = 1.0


class Hands:
    """Makes calls, each in a task of its own in the running loop.

    Args:
        setup: `Setup.packed`.
        connections: the most connections that may be open at once.
        make: makes the callers; default: `ChatCallers`.

    Attributes:
        remarks: what people should know about how calls are made here.

    Raises:
        SettingsError: an endpoint cannot be used here, such as one whose proxy is wrong.
    """

    def __init__(self, setup: bytes, connections: int, make: Callable[[Setup, int], Callers] | None = None) -> None:
        made: Setup = pickle.loads(setup)  # noqa: S301 - from the process that began the run
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RuntimeWarning)
            self._made = (make or _chat_callers)(made, connections)
            self._callers = [self._made.caller(endpoint) for endpoint in made.endpoints]
        self.remarks = [str(each.message) for each in caught if each.category is RuntimeWarning]
        self._unpacker = Unpacker()
        self._tasks: dict[int, asyncio.Task[Completion | Failure]] = {}
        self._departed: list[int] = []
        self._ended: list[tuple[int, Completion | Failure | None]] = []
        self._has_news = asyncio.Event()

    def take(self, group: bytes) -> None:
        """Begin the calls of a group, and cut off others."""
        calls, cuts = self._unpacker.unpack(group)
        loop = asyncio.get_running_loop()
        for call in calls:
            task = self._tasks[call.id] = loop.create_task(self._make(call))
            task.add_done_callback(partial(self._end, call.id))
        for call_id in cuts:
            if cut := self._tasks.get(call_id):
                cut.cancel()

    async def news(self, gather_s: float) -> bytes:
        """Return what has become of calls since the last time, within a second also if that is nothing.

        Args:
            gather_s: how long what happens after the first of it may still join it, in seconds: fewer, larger groups
                cost both ends less.
        """
        try:
            async with asyncio.timeout(_SILENCE_S):
                await self._has_news.wait()
            await asyncio.sleep(gather_s)
        except TimeoutError:
            pass
        self._has_news.clear()
        departed, self._departed = self._departed, []
        ended, self._ended = self._ended, []
        return pack_news(departed, ended)

    async def close(self) -> None:
        """Cut off all calls, and close the connections."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._made.close()

    async def _make(self, call: Call) -> Completion | Failure:
        def departed() -> None:
            self._departed.append(call.id)
            self._has_news.set()

        caller = self._callers[call.endpoint]
        if isinstance(caller, TellingCaller):
            return await caller.call_telling(call.messages, call.timeout_s, call.params, call.terms, departed)
        # A chat model does not say when it sends.
        departed()
        return await caller.call(call.messages, call.timeout_s, call.params, call.terms)

    def _end(self, call_id: int, task: asyncio.Task[Completion | Failure]) -> None:
        """Keep what a call brought; one that was cut brings a failure with what had come of its answer, or nothing."""
        came: Completion | Failure | None
        try:
            came = task.result()
        except CallCut as cut:
            # Not as an answer: this process does not always know who cut the call, and whether anybody waits for it.
            came = Failure(Fault.WORKER, "the call was cut off", may_be_billed=True, partial=cut.partial)
        except asyncio.CancelledError:
            came = None
        except Exception as error:  # noqa: BLE001 - a fault of batcher's own must end the call, not the worker
            came = Failure(Fault.OTHER, f"a fault in the worker: {type(error).__name__}", may_be_billed=True)
        del self._tasks[call_id]
        self._ended.append((call_id, came))
        self._has_news.set()


def _chat_callers(setup: Setup, connections: int) -> Callers:
    return ChatCallers(
        setup.params, setup.offline_url, setup.most_bytes, connections, setup.streaming, scores=setup.scores
    )

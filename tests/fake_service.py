"""The other side of a run: a service that knows its answers by prompt and keeps its own books."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fake_batches import FakeBatches, queue_of

from batcher.calls.batch_service import BatchLimits
from batcher.endpoint import Endpoint
from batcher.records import NO_PARAMS, NO_TERMS, Completion, Failure, Fault, Message, Terms, Usage
from batcher.server.batch_queue import BatchQueue
from batcher.server.batch_rules import BatchKnobs

BATCH_S = 600.0
"""Seconds that a batch takes."""

_KNOBS = BatchKnobs(latency=BATCH_S)
_LIMITS = BatchLimits(50_000, 200_000_000)


class Call(NamedTuple):
    """A call as the service sees it arrive.

    Attributes:
        prompt: the text of its last message.
        endpoint: the model that was asked.
        nth: how often this prompt has been asked, this call included.
        at: the loop's time.
        params: further request parameters, which ask for labels or fields.
        terms: how the row asks.
        in_batch: it is a line of a batch.
    """

    prompt: str
    endpoint: str
    nth: int
    at: float
    params: Mapping[str, Any] = NO_PARAMS
    terms: Terms = NO_TERMS
    in_batch: bool = False


def answer_to(prompt: str) -> str:
    """Return the one right answer."""
    return f"answer to {prompt}"


def refusal(status: int, retry_after: float | None = None) -> Failure:
    return Failure(Fault.STATUS, f"said the service ({status})", status, retry_after=retry_after)


def _no_failure(_call: Call) -> Completion | Failure | None:
    return None


class Anything(set[str]):
    """The prompts of a service that answers any: `service.prompts = Anything()`."""

    def __contains__(self, _prompt: object) -> bool:
        return True


class Service:
    """Makes the callers of a run, and answers their calls; one service may serve several runs in turn.

    Args:
        prompts: those that it knows; it raises on any other.
        latency: seconds that a call takes.
        instead: what a call gets instead of its answer, or None.
        usage: what a call uses, answered or not.
        batch_knobs: how its batch API behaves.
        batch_limits: what clients know of that.

    Attributes:
        calls: every call, in the order of arrival.
        lines: every line of a batch that was answered or refused, in the order in which that happened.
        asked: how often each prompt was asked, by calls and lines.
        answered: how often a call about each prompt was answered; for lines, see the books of the queue.
        cut: how often a call about each prompt was cancelled.
        used: what each call used, in the order of arrival.
        in_flight, peak: calls under way, now and at most.
    """

    def __init__(
        self,
        prompts: Iterable[str],
        latency: Callable[[Call], float] = lambda _call: 1.0,
        instead: Callable[[Call], Completion | Failure | None] = _no_failure,
        usage: Callable[[Call], Usage] = lambda _call: Usage(prompt_tokens=10, completion_tokens=2),
        *,
        batch_knobs: BatchKnobs = _KNOBS,
        batch_limits: BatchLimits = _LIMITS,
    ) -> None:
        self.prompts = set(prompts)
        self.latency = latency
        self.instead = instead
        self.usage = usage
        self.used: list[Usage] = []
        self.batch_knobs = batch_knobs
        self.batch_limits = batch_limits
        self.calls: list[Call] = []
        self.lines: list[Call] = []
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.cut: Counter[str] = Counter()
        self.in_flight = 0
        self.peak = 0
        self.is_open = False
        self._batches: dict[tuple[str, str], FakeBatches] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._now = self._began = time.time()

    def __call__(self) -> Service:
        self.is_open = True
        return self

    def caller(self, endpoint: Endpoint) -> _Caller:
        return _Caller(self, endpoint.model or "")

    def batches(self, endpoint: Endpoint) -> FakeBatches:
        """Return the batch API of an endpoint; each model has files and batches of its own."""
        place = (endpoint.base_url or "", endpoint.model or "")
        if place not in self._batches:
            queue = queue_of(self, self.batch_knobs)
            self._batches[place] = FakeBatches(self, endpoint.model or "", queue, self.batch_limits)
        return self._batches[place]

    @property
    def queues(self) -> list[BatchQueue]:
        """The files and batches of each endpoint that was asked for a batch, in their order, at the present."""
        queues = [each.queue for each in self._batches.values()]
        for each in queues:
            each.advance()
        return queues

    @property
    def queue(self) -> BatchQueue:
        """The files and batches of the only endpoint."""
        (queue,) = self.queues
        return queue

    @property
    def billed(self) -> Counter[str]:
        """How often an answer to each prompt was billed: answered calls, and lines in the results of batches."""
        return sum((each.books.billed_by_prompt for each in self.queues), Counter(self.answered))

    def clock(self) -> float:
        """Return seconds since the epoch: those of the virtual loop, behind those of the loops before it."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self._now
        if loop is not self._loop:
            self._loop, self._began = loop, self._now - loop.time()
        self._now = self._began + loop.time()
        return self._now

    def pass_by(self, seconds: float) -> None:
        """Let time pass between two runs."""
        self._loop = None
        self._now += seconds

    async def close(self) -> None:
        self.is_open = False

    def times(self, endpoint: str | None = None) -> list[float]:
        """Return the times at which calls arrived, at one endpoint or at any."""
        return [call.at for call in self.calls if endpoint in {None, call.endpoint}]

    async def answer(
        self,
        prompt: str,
        endpoint: str,
        timeout_s: float,
        params: Mapping[str, Any] = NO_PARAMS,
        terms: Terms = NO_TERMS,
    ) -> Completion | Failure:
        assert self.is_open
        assert prompt in self.prompts, f"nobody should have asked {prompt!r}"
        self.asked[prompt] += 1
        call = Call(prompt, endpoint, self.asked[prompt], asyncio.get_running_loop().time(), params, terms)
        self.calls.append(call)
        usage = self.usage(call)
        self.used.append(usage)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            seconds = self.latency(call)
            await asyncio.sleep(min(seconds, timeout_s))
            if seconds > timeout_s:
                return Failure(Fault.TIMEOUT, f"nothing came within {timeout_s:g} s", may_be_billed=True)
            if (other := self.instead(call)) is not None:
                return other
            self.answered[prompt] += 1
            return Completion(answer_to(prompt), "stop", usage)
        except asyncio.CancelledError:
            self.cut[prompt] += 1
            raise
        finally:
            self.in_flight -= 1

    def answer_in_batch(self, prompt: str, endpoint: str, params: Mapping[str, Any]) -> Completion | Failure:
        """Answer a line of a batch; its queue counts it."""
        assert prompt in self.prompts, f"nobody should have asked {prompt!r}"
        self.asked[prompt] += 1
        call = Call(prompt, endpoint, self.asked[prompt], self.clock() - self._began, params, in_batch=True)
        self.lines.append(call)
        if (other := self.instead(call)) is not None:
            return other
        return Completion(answer_to(prompt), "stop", self.usage(call))


class _Caller:
    def __init__(self, service: Service, endpoint: str) -> None:
        self._service = service
        self._endpoint = endpoint

    async def call(
        self,
        messages: Sequence[Message],
        timeout_s: float,
        params: Mapping[str, Any] = NO_PARAMS,
        terms: Terms = NO_TERMS,
    ) -> Completion | Failure:
        params = {**params, **terms.params} if terms.params else params
        return await self._service.answer(messages[-1]["content"], self._endpoint, timeout_s, params, terms)

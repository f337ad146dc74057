"""The crew's own state, in odd orders of events: each worker here tells what the test lets it tell."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import pytest
from virtual_time import run_virtually

from batcher.calls.caller import CallCut
from batcher.calls.workers.crew import Crew
from batcher.calls.workers.hands import Hands
from batcher.calls.workers.setup import Setup
from batcher.calls.workers.wire import Call, Unpacker, pack_news
from batcher.calls.workers.worker import Link, Watcher
from batcher.errors import BatcherError
from batcher.records import Completion, Failure, Fault

QUESTION = [{"role": "user", "content": "q"}]


class ToldLink:
    """A worker that tells what it is told to.

    Attributes:
        calls: ids of those that it got.
        cuts: ids of those that it was to cut off.
    """

    room = 100

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: list[int] = []
        self.cuts: list[int] = []
        self._unpacker = Unpacker()
        self._news: asyncio.Queue[bytes] = asyncio.Queue()

    def send(self, group: bytes) -> None:
        calls, cuts = self._unpacker.unpack(group)
        self.calls += [call.id for call in calls]
        self.cuts += cuts

    async def news(self, gather_s: float) -> bytes:  # noqa: ARG002 - as a link has it
        try:
            async with asyncio.timeout(1):
                return await self._news.get()
        except TimeoutError:
            return pack_news([], [])

    def tell(self, *departed: int, ended: dict[int, Completion | Failure | None] | None = None) -> None:
        self._news.put_nowait(pack_news(departed, [*(ended or {}).items()]))

    def kill(self) -> None:
        pass


class ToldCluster:
    """Has workers from the start."""

    name = "a cluster"

    def __init__(self, *links: ToldLink) -> None:
        self._links = links
        self.watcher: Watcher

    async def start(self, setup: Setup, watcher: Watcher) -> None:  # noqa: ARG002 - as a cluster has it
        self.watcher = watcher
        for link in self._links:
            watcher.joined(link)

    def released(self, link: Link) -> None:
        pass

    async def close(self) -> None:
        pass


class Bench:
    """A crew of two workers, and the calls that it is to make.

    Attributes:
        departures: ids of calls, each time when the engine is told that one has left.
    """

    def __init__(self) -> None:
        self.first, self.second = ToldLink("worker 1"), ToldLink("worker 2")
        self.cluster = ToldCluster(self.first, self.second)
        self.crew = Crew(self.cluster)
        self.departures: list[int] = []

    async def begin(self) -> Bench:
        await self.crew.start(Setup((), {}))
        return self

    def make(self) -> asyncio.Task[Completion | Failure]:
        number = self.crew.new_id()
        call = Call(number, 0, QUESTION, 100.0)
        return asyncio.ensure_future(self.crew.make(call, "a service", lambda: self.departures.append(number)))

    async def one_taken_back(self) -> tuple[asyncio.Task[Completion | Failure], int]:
        """Make a call that does not leave worker 1, until it is taken back because later ones leave worker 2."""
        stuck = self.make()
        await asyncio.sleep(1)
        (number,) = self.first.calls
        await asyncio.sleep(2)
        other = self.make()
        await asyncio.sleep(1)
        (later,) = self.second.calls
        self.second.tell(later, ended={later: Completion("fine")})
        await other
        await asyncio.sleep(14)
        assert self.first.cuts == [number]
        return stuck, number


def in_virtual_time(work: Coroutine[Any, Any, None]) -> None:
    run_virtually(work)


def test_a_call_that_is_taken_back_goes_to_another_worker() -> None:
    async def work() -> None:
        bench = await Bench().begin()
        stuck, number = await bench.one_taken_back()
        bench.first.tell(ended={number: None})
        await asyncio.sleep(1)
        assert number in bench.second.calls
        bench.second.tell(number, ended={number: Completion("answer")})
        assert await stuck == Completion("answer")
        assert bench.departures.count(number) == 1
        await bench.crew.close()

    in_virtual_time(work())


def test_a_call_that_is_taken_back_and_then_cut_is_made_nowhere_else() -> None:
    async def work() -> None:
        bench = await Bench().begin()
        stuck, number = await bench.one_taken_back()
        stuck.cancel()
        await asyncio.sleep(0.1)
        bench.first.tell(ended={number: None})
        await asyncio.gather(stuck, return_exceptions=True)
        await asyncio.sleep(1)
        assert stuck.cancelled()
        assert number not in bench.second.calls
        assert bench.departures.count(number) == 1  # it never will leave: its limits need not wait for it
        await bench.crew.close()

    in_virtual_time(work())


@pytest.mark.parametrize("partial", [None, Completion("half an ans")])
def test_a_call_that_left_before_it_could_be_taken_back_may_be_billed_and_brings_no_answer(
    partial: Completion | None,
) -> None:
    async def work() -> None:
        bench = await Bench().begin()
        stuck, number = await bench.one_taken_back()
        cut = partial and Failure(Fault.WORKER, "it was cut off", may_be_billed=True, partial=partial)
        bench.first.tell(number, ended={number: cut})
        came = await stuck
        assert isinstance(came, Failure)
        assert came.fault is Fault.WORKER
        assert came.may_be_billed
        assert came.partial == partial
        assert bench.departures.count(number) == 1
        assert number not in bench.second.calls
        await bench.crew.close()

    in_virtual_time(work())


def test_a_call_that_a_worker_cuts_off_brings_a_part_of_an_answer_and_never_an_answer() -> None:
    async def work() -> None:
        async def streamed(_call: Call) -> Completion | Failure:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError as cancelled:
                raise CallCut(Completion("half an ans")) from cancelled
            raise AssertionError

        hands: Any = Hands(Setup((), {}).packed(), 1, lambda _setup, _connections: cast("Any", None))
        hands._make = streamed
        bench = await Bench().begin()
        call = bench.make()
        await asyncio.sleep(1)
        (number,) = bench.first.calls
        task = hands._tasks[number] = asyncio.ensure_future(streamed(Call(number, 0, QUESTION, 100.0)))
        task.add_done_callback(lambda ended: hands._end(number, ended))
        await asyncio.sleep(1)
        task.cancel()  # not because this process asked for it
        bench.first._news.put_nowait(await hands.news(0))
        came = await call
        assert isinstance(came, Failure)
        assert came.fault is Fault.WORKER
        assert came.partial == Completion("half an ans")
        await bench.crew.close()

    in_virtual_time(work())


def test_when_the_cluster_is_lost_answers_may_come_for_a_while_and_nothing_more_is_handed_over() -> None:
    async def work() -> None:
        bench = await Bench().begin()
        calls = [bench.make() for _ in range(4)]
        await asyncio.sleep(1)
        first, second = bench.first.calls, bench.second.calls
        lost = BatcherError("the cluster is lost")
        bench.crew.gone(lost)
        with pytest.raises(BatcherError):
            await bench.make()
        answered, unreached, *_ = [*first, *second]
        bench.first.tell(answered, ended={answered: Completion("answer")})
        link = bench.first if unreached in first else bench.second
        link.tell(ended={unreached: Failure(Fault.CONNECTION, "nothing listens there")})  # another one would try
        await asyncio.sleep(1)
        assert [each.result() for each in calls if each.done() and not each.exception()] == [Completion("answer")]
        assert [each.exception() for each in calls if each.done() and each.exception()] == [lost]
        assert len([*bench.first.calls, *bench.second.calls]) == 4
        began = asyncio.get_running_loop().time()
        await asyncio.wait(calls)
        assert [each.exception() for each in calls].count(lost) == 3
        assert asyncio.get_running_loop().time() - began < 10
        await bench.crew.close()

    in_virtual_time(work())


def test_a_call_that_is_cut_when_the_cluster_is_lost_ends_as_cancelled() -> None:
    async def work() -> None:
        bench = await Bench().begin()
        call = bench.make()
        await asyncio.sleep(1)
        call.cancel()
        await asyncio.sleep(0.1)
        bench.crew.gone(BatcherError("the cluster does not answer"))
        await asyncio.gather(call, return_exceptions=True)
        assert call.cancelled()
        await bench.crew.close()

    in_virtual_time(work())

"""A crew over workers that say what a test, or any schedule, lets them say: each call ends once, at one worker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import run_virtually

from batcher.calls.workers.crew import Crew
from batcher.calls.workers.setup import Setup
from batcher.calls.workers.wire import Call, Unpacker, pack_news
from batcher.calls.workers.worker import Link, Watcher
from batcher.records import Completion, Failure, Fault

SERVICE = "http://service"
NO_CONNECTION = Failure(Fault.CONNECTION, "nothing listens there")
RESET = Failure(Fault.CONNECTION, "the connection was reset", may_be_billed=True)
PAGE = Failure(Fault.STATUS, "<html>no</html>", 502, is_page=True)
GARBLED = Failure(Fault.PROTOCOL, "the response is no HTTP", may_be_billed=True)
CUT = Failure(Fault.WORKER, "cut off", may_be_billed=True, partial=Completion("half"))


class Said:
    """A worker that does nothing by itself.

    Attributes:
        has: the ids of calls that it was handed and has not told the end of.
        departed: the ids of those whose requests have left.
        cuts: ids that it was told to cut off.
        taken: all ids that it ever got.
    """

    def __init__(self, name: str, room: int = 1000) -> None:
        self.name = name
        self.room = room
        self.has: list[int] = []
        self.departed: set[int] = set()
        self.cuts: list[int] = []
        self.taken: list[int] = []
        self.is_dead = False
        self._unpacker = Unpacker()
        self._news: asyncio.Queue[bytes] = asyncio.Queue()

    def send(self, group: bytes) -> None:
        calls, cuts = self._unpacker.unpack(group)
        ids = [each.id for each in calls]
        self.has += ids
        self.taken += ids
        self.cuts += cuts

    async def news(self, gather_s: float) -> bytes:  # noqa: ARG002 - a test says when
        try:
            async with asyncio.timeout(1):
                return await self._news.get()
        except TimeoutError:
            return pack_news([], [])

    def leave(self, call_id: int) -> None:
        self.departed.add(call_id)
        self._news.put_nowait(pack_news([call_id], []))

    def end(self, call_id: int, came: Completion | Failure | None) -> None:
        self.has.remove(call_id)
        self._news.put_nowait(pack_news([], [(call_id, came)]))

    def kill(self) -> None:
        self.is_dead = True


class SaidCluster:
    """Has the workers that a test adds."""

    name = "a cluster"

    def __init__(self) -> None:
        self.watcher: Watcher
        self.given_back: list[Link] = []

    async def start(self, setup: Setup, watcher: Watcher) -> None:  # noqa: ARG002 - workers need none here
        self.watcher = watcher

    def released(self, link: Link) -> None:
        self.given_back.append(link)

    async def close(self) -> None:
        pass


class Scene:
    """A crew, its workers, and the calls that were asked for.

    Attributes:
        said: what people were told.
        departures: how often the departure of each call was told.
    """

    def __init__(self) -> None:
        self.cluster = SaidCluster()
        self.said: list[str] = []
        self.crew = Crew(self.cluster, lambda text, _level: self.said.append(text))
        self.links: list[Said] = []
        self.departures: dict[int, int] = {}

    async def begin(self, workers: int) -> None:
        await self.crew.start(Setup((), {}))
        for _ in range(workers):
            self.add()
        await asyncio.sleep(0)

    def add(self) -> Said:
        link = Said(f"worker {len(self.links) + 1}")
        self.links.append(link)
        self.cluster.watcher.joined(link)
        return link

    def ask(
        self, service: str = SERVICE, departed: Callable[[int], None] = lambda _id: None
    ) -> asyncio.Task[Completion | Failure]:
        call = Call(self.crew.new_id(), 0, [], 100.0)

        def left() -> None:
            self.departures[call.id] = self.departures.get(call.id, 0) + 1
            departed(call.id)

        return asyncio.ensure_future(self.crew.make(call, service, left))

    async def asked(self) -> asyncio.Task[Completion | Failure]:
        """Ask for a call, and wait until a worker has it."""
        call = self.ask()
        await asyncio.sleep(0.01)
        return call

    async def at(self, call_id: int) -> Said:
        """Return the worker that has a call."""
        await asyncio.sleep(0.01)
        (link,) = [each for each in self.links if call_id in each.has]
        return link

    async def pass_time(self) -> None:
        """Let requests to the service leave and be answered for 20 s, all but the first one."""
        for _ in range(20):
            other = self.ask()
            await asyncio.sleep(1)
            for link in self.links:
                for call_id in [each for each in link.has if each != 1]:
                    link.leave(call_id)
                    link.end(call_id, Completion("other"))
            await other


def play(work: Callable[[Scene], Coroutine[Any, Any, None]], workers: int = 2) -> None:
    """Let a scene pass in virtual time."""

    async def whole() -> None:
        scene = Scene()
        await scene.begin(workers)
        try:
            await work(scene)
        finally:
            await scene.crew.close()

    run_virtually(whole())


def test_requests_to_one_service_that_leave_take_back_none_to_another() -> None:
    async def work(scene: Scene) -> None:
        call = scene.ask("http://another")
        link = await scene.at(1)
        await scene.pass_time()
        assert not link.cuts
        link.end(1, Completion("whole"))
        assert await call == Completion("whole")

    play(work)


def test_a_failure_without_an_answer_from_the_service_ends_no_rest() -> None:
    async def work(scene: Scene) -> None:
        call = scene.ask()
        first = await scene.at(1)
        first.end(1, NO_CONNECTION)
        other = await scene.at(1)
        other.leave(1)
        other.end(1, Completion("a"))
        await call
        await asyncio.sleep(2)
        calls = [scene.ask() for _ in range(4)]
        await asyncio.sleep(0.01)
        (probe,) = first.has
        first.leave(probe)
        first.end(probe, RESET)
        await asyncio.sleep(0.01)
        assert not [each for each in scene.said if "reaches" in each]
        for call_id in [*other.has]:
            other.end(call_id, Completion("a"))
        await asyncio.wait(calls)

    play(work)


def test_a_worker_is_probed_by_one_call_whatever_becomes_of_earlier_ones() -> None:
    async def work(scene: Scene) -> None:
        calls = [scene.ask()]
        first = await scene.at(1)
        first.leave(1)
        other = next(each for each in scene.links if each is not first)
        while not first.has[1:]:
            calls.append(await scene.asked())
        lost = first.has[1]
        first.end(lost, NO_CONNECTION)
        assert await scene.at(lost) is other
        for call_id in [*other.has]:
            other.leave(call_id)
            other.end(call_id, Completion("a"))
        await asyncio.sleep(2)
        calls += [await scene.asked() for _ in range(4)]
        assert len(first.has) == 2  # the first call, and the probe
        first.end(1, RESET)
        calls += [await scene.asked() for _ in range(4)]
        assert len(first.has) == 1
        for link in scene.links:
            for call_id in [*link.has]:
                link.end(call_id, Completion("a"))
        await asyncio.wait(calls)

    play(work)


def bring(scene: Scene, what: dict[str, Completion | Failure]) -> None:
    """Let each worker, by its name, bring the same for all that it has."""
    for link in scene.links:
        for call_id in [*link.has]:
            link.leave(call_id)
            link.end(call_id, what[link.name])


@pytest.mark.parametrize(("others", "rounds"), [("answers", 3), ("pages among answers", 10)])
def test_pages_are_held_against_a_worker_only_if_they_are_not_what_others_get_too(others: str, rounds: int) -> None:
    async def work(scene: Scene) -> None:
        for number in range(rounds):
            assert not scene.said
            calls = [await scene.asked() for _ in scene.links]
            assert all(link.has for link in scene.links)
            is_paged = others != "answers" and number == 1
            bring(scene, {"worker 1": PAGE, "worker 2": PAGE if is_paged else Completion("a")})
            await asyncio.wait(calls)
        assert [each for each in scene.said if each.startswith("worker 1 does not reach")]

    play(work)


def test_broken_answers_and_pages_that_a_service_sends_to_all_are_held_against_nobody() -> None:
    drawn = random.Random(1)

    async def work(scene: Scene) -> None:
        for _ in range(400):
            calls = [await scene.asked() for _ in scene.links]
            came = {link.name: Completion("a") if drawn.random() < 0.8 else PAGE for link in scene.links}
            bring(scene, came | ({"worker 1": GARBLED} if drawn.random() < 0.5 else {}))
            await asyncio.wait(calls)
            assert not scene.said
        for _ in range(10):
            calls = [await scene.asked() for _ in scene.links]
            bring(scene, {"worker 1": GARBLED, "worker 2": Completion("a")})
            assert set(await asyncio.gather(*calls)) == {GARBLED, Completion("a")}
        assert not scene.said

    play(work)


def test_a_call_that_did_not_get_through_ends_when_the_only_other_worker_drains() -> None:
    async def work(scene: Scene) -> None:
        other, first = scene.links
        calls = []
        for _ in range(2):
            calls.append(scene.ask())
            await asyncio.sleep(0.01)
        # The other worker has as many as it can have, so the call waits for it.
        other.room = len(other.has)
        (mine,) = first.has
        first.end(mine, NO_CONNECTION)
        await asyncio.sleep(0.01)
        assert not [each for each in calls if each.done()]
        scene.cluster.watcher.drains(other)
        await asyncio.sleep(0.01)
        assert [each.result() for each in calls if each.done()] == [NO_CONNECTION]
        for call_id in [*other.has]:
            other.end(call_id, Completion("a"))
        await asyncio.wait(calls)

    play(work)


def test_people_are_told_that_calls_wait_also_if_all_workers_have_to_go() -> None:
    async def work(scene: Scene) -> None:
        first = scene.ask()
        link = await scene.at(1)
        scene.cluster.watcher.drains(link)
        second = scene.ask()
        await asyncio.sleep(0.01)
        assert [each for each in scene.said if "No worker is left" in each]
        link.end(1, Completion("a"))
        assert await first == Completion("a")
        new = scene.add()
        await asyncio.sleep(0.01)
        assert [each for each in scene.said if "going on" in each]
        new.end(2, Completion("b"))
        assert await second == Completion("b")

    play(work, workers=1)


STEPS = [
    "ask",
    "ask",
    "ask",
    "cancel",
    "leave",
    "leave",
    "end",
    "end",
    "fail",
    "cut",
    "kill",
    "drain",
    "add",
    "add",
    "wait",
]


class Schedule:
    """Lets anything happen that can, and looks after each step at what must hold."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.calls: dict[int, asyncio.Task[Completion | Failure]] = {}
        self.at_drain: dict[Said, int] = {}
        self.left: dict[int, Said] = {}
        self.over: dict[int, int] = {}
        self.is_early = False

    def departed(self, call_id: int) -> None:
        """See that a worker has said so, or that none has the call any more: then it never will leave."""
        is_said = any(call_id in link.departed for link in self.scene.links)
        self.is_early |= not is_said and any(call_id in link.has for link in self.scene.links if not link.is_dead)

    async def step(self, what: str, which: int) -> None:
        scene = self.scene
        alive = [each for each in scene.links if not each.is_dead]
        out = [(link, each) for link in alive for each in link.has]
        waits = [each for each in self.calls.values() if not each.done()]
        if what == "ask":
            self.calls[len(self.calls) + 1] = scene.ask(departed=self.departed)
        elif what == "add":
            scene.add()
        elif what == "wait":
            await asyncio.sleep(1 + which)
        elif what == "cancel" and waits:
            waits[which % len(waits)].cancel()
        elif what == "kill" and alive:
            alive[which % len(alive)].is_dead = True
            scene.cluster.watcher.lost(alive[which % len(alive)], "it was killed")
        elif what == "drain" and alive:
            link = alive[which % len(alive)]
            scene.cluster.watcher.drains(link)
            self.at_drain.setdefault(link, len(link.taken))
        elif what == "cut" and (cut := [(link, each) for link, each in out if each in link.cuts]):
            self.tell(what, *cut[which % len(cut)])
        elif out:
            self.tell(what, *out[which % len(out)])
        await asyncio.sleep(0.01)
        self.look()

    def tell(self, what: str, link: Said, call_id: int) -> None:
        if what == "leave":
            if call_id not in link.departed:
                self.left[call_id] = link
                link.leave(call_id)
        elif what == "end":
            link.end(call_id, Completion(f"answer {call_id}"))
        elif what == "fail":
            link.end(call_id, RESET if call_id in link.departed else NO_CONNECTION)
        elif what == "cut" and call_id in link.cuts:
            link.end(call_id, CUT if call_id in link.departed else None)

    def look(self) -> None:
        for link, count in self.at_drain.items():
            assert len(link.taken) == count, "a call to a worker that has to go"
        for call_id, link in self.left.items():
            assert all(each is link or call_id not in each.has for each in self.scene.links if not each.is_dead)
        assert all(count == 1 for count in self.scene.departures.values())
        assert not self.is_early, "told before the worker said so"
        for call_id, task in self.calls.items():
            if task.done():
                times = sum(link.taken.count(call_id) for link in self.scene.links)
                assert self.over.setdefault(call_id, times) == times, "a call that nothing waits for was handed over"

    async def finish(self) -> None:
        """Let the workers that are left answer whatever they have."""
        self.scene.add()
        for _ in range(300):
            await asyncio.sleep(1)
            for link in self.scene.links:
                for call_id in [] if link.is_dead else [*link.has]:
                    link.end(call_id, Completion(f"answer {call_id}"))
            if all(each.done() for each in self.calls.values()):
                break
        else:
            raise AssertionError("a call does not end")
        self.look()
        for call_id, task in self.calls.items():
            if task.cancelled():
                continue
            came = task.result()
            if isinstance(came, Completion):
                assert came.text == f"answer {call_id}"
            else:
                assert came in (NO_CONNECTION, RESET) or came.fault in {Fault.WORKER, Fault.TIMEOUT}
                assert came.may_be_billed or call_id not in self.scene.departures


@settings(max_examples=100)
@given(st.integers(1, 3), st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 20)), min_size=20, max_size=80))
def test_any_schedule_ends_each_call_once_with_its_own_outcome(workers: int, steps: list[tuple[str, int]]) -> None:
    async def work(scene: Scene) -> None:
        schedule = Schedule(scene)
        for what, which in steps:
            await schedule.step(what, which)
        await schedule.finish()

    play(work, workers)

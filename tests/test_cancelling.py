"""A cancelled `arun` stops in order, as `run` does after Ctrl-C: what is in flight arrives, and the journal says so."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Service
from programs import started

import batcher
from batcher.endpoint import Endpoint
from batcher.server.serve import Server, embedded
from batcher.server.simulated import Knobs

PROMPTS = [f"question {number}" for number in range(20)]
ONE = [Endpoint("m", max_concurrency=4)]


def asked_for_ever(call: Any) -> float:
    return 1000.0 if call.prompt in PROMPTS[5:8] else 1.0


# -- In virtual time


def test_what_is_in_flight_arrives_and_the_journal_says_cancelled(lab: Lab) -> None:
    service = Service(PROMPTS)
    with pytest.raises(asyncio.CancelledError):
        lab.run(PROMPTS, service, at={2.5: lab.cancel}, endpoints=ONE, chunk_size=3)
    assert lab.seconds == pytest.approx(3)
    assert (service.answered.total(), service.cut.total()) == (9, 0)
    assert lab.query("SELECT outcome, ended IS NOT NULL FROM runs") == [("cancelled", 1)]
    found = batcher.status("k", lab.directory)
    assert (found.state, found.reason, found.ok) == ("stopped", "cancelled", 9)
    assert lab.run(PROMPTS, service, endpoints=ONE).requests_now == 11


@pytest.mark.parametrize(
    ("grace", "cancelled", "ends"), [(7.5, [2.5], 10.0), (0, [2.5], 2.5), (30.0, [2.5, 4], 4.0), (30.0, [2.5], 32.5)]
)
def test_what_does_not_come_is_cut_after_the_grace_or_at_the_second_cancellation(
    lab: Lab, grace: float, cancelled: list[float], ends: float
) -> None:
    service = Service(PROMPTS, asked_for_ever)
    with pytest.raises(asyncio.CancelledError):
        lab.run(PROMPTS, service, at=dict.fromkeys(cancelled, lab.cancel), endpoints=ONE, grace=grace)
    assert ends <= lab.seconds < ends + 0.5
    assert lab.query("SELECT outcome FROM runs") == [("cancelled",)]
    assert batcher.status("k", lab.directory).ok == service.answered.total()


def test_the_grace_holds_for_a_request_to_stop_too(lab: Lab) -> None:
    with pytest.raises(batcher.Interrupted):
        lab.run(PROMPTS, Service(PROMPTS, asked_for_ever), at={2.5: lab.request_stop}, endpoints=ONE, grace=2)
    assert 4.5 <= lab.seconds < 5


def test_a_run_whose_last_answers_arrive_meanwhile_is_done_and_still_cancelled(lab: Lab) -> None:
    with pytest.raises(asyncio.CancelledError):
        lab.run(PROMPTS[:4], Service(PROMPTS), at={1.5: lab.cancel}, endpoints=ONE)
    assert lab.query("SELECT outcome FROM runs") == [("done",)]
    assert len(lab.rows()) == 4


@pytest.mark.parametrize("grace", [-1, float("nan"), "soon"])
def test_a_grace_that_is_no_length_of_time_is_refused(lab: Lab, grace: Any) -> None:
    with pytest.raises(batcher.SettingsError, match="grace must be a number of seconds, 0 or more"):
        lab.run(PROMPTS, Service([]), grace=grace)


# -- With sockets


@pytest.fixture
def server() -> Iterator[Server]:
    with embedded(Knobs(latency=0.2)) as server:
        yield server


def begun(server: Server, directory: Path, rows: int = 200, **options: Any) -> asyncio.Task[Any]:
    endpoint = Endpoint("m", server.base_url, max_concurrency=4)
    prompts = [f"item {number}" for number in range(rows)]
    run = batcher.arun(prompts, keyword="k", endpoints=[endpoint], output_dir=directory, quiet=True, **options)
    return asyncio.get_running_loop().create_task(run)


async def asked(server: Server, requests: int = 6) -> None:
    while server.books.requests < requests:  # noqa: ASYNC110 - the server is a thread
        await asyncio.sleep(0.01)


def query(directory: Path, question: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(directory / "journal_k.sqlite")) as journal:
        return journal.execute(question).fetchall()


def check_ended_in_order(server: Server, directory: Path) -> None:
    """Nothing was cut, every answer that was sent is there, and why the run ended."""
    assert query(directory, "SELECT outcome FROM runs") == [("cancelled",)]
    kinds = {outcome for (outcome,) in query(directory, "SELECT DISTINCT outcome FROM requests")}
    assert kinds <= {"answered", "unsent"}, "unsent: it was about to leave"
    assert query(directory, "SELECT count(*) FROM results") == [(server.books.requests,)]
    assert batcher.status("k", directory).state == "stopped"


async def by_cancel(server: Server, directory: Path) -> None:
    task = begun(server, directory)
    await asked(server)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def by_timeout(server: Server, directory: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(None) as limit:
            ticking.append(limit)
            await begun(server, directory)

    ticking: list[asyncio.Timeout] = []
    task = asyncio.get_running_loop().create_task(run())
    await asked(server)
    ticking[0].reschedule(asyncio.get_running_loop().time())
    with pytest.raises(TimeoutError):
        await task


async def by_task_group(server: Server, directory: Path) -> None:
    async def fail() -> None:
        await asked(server)
        raise ZeroDivisionError

    async def run() -> None:
        await begun(server, directory)

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(run())
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as failed:
        await both()
    assert [type(each) for each in failed.value.exceptions] == [ZeroDivisionError]


@pytest.mark.parametrize("cancel", [by_cancel, by_timeout, by_task_group])
async def test_however_it_is_cancelled_it_ends_in_order(
    server: Server, tmp_path: Path, cancel: Callable[[Server, Path], Any]
) -> None:
    await cancel(server, tmp_path)
    check_ended_in_order(server, tmp_path)


async def test_a_second_cancellation_does_not_wait(tmp_path: Path) -> None:
    with embedded(Knobs(hang_rate=1)) as server:
        task = begun(server, tmp_path)
        await asked(server, 1)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert query(tmp_path, "SELECT outcome FROM runs") == [("cancelled",)]


SCRIPT = """
import asyncio, sys, batcher
async def main():
    endpoint = batcher.Endpoint("m", sys.argv[1], max_concurrency=4)
    await batcher.arun([f"item {n}" for n in range(200)], keyword="k", endpoints=[endpoint], output_dir="out")
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_in_a_loop_of_the_users_own_ends_in_order(server: Server, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    with started("script.py", server.base_url, cwd=tmp_path) as program:
        while server.books.requests < 6:
            assert program.poll() is None
        program.send_signal(signal.SIGINT)
        said, told = program.communicate()
    assert said == "interrupted\n"
    assert "Stopping: waiting up to 30 s for" in told
    check_ended_in_order(server, tmp_path / "out")


async def abandoned(server: Server, directory: Path) -> None:
    """End the loop by the failure of another task, as `gather` raises it: all tasks of the loop are cancelled then."""

    async def fail() -> None:
        await asked(server)
        raise ZeroDivisionError

    await asyncio.gather(begun(server, directory), fail())


def test_a_run_that_is_still_at_work_when_its_loop_ends_loses_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(abandoned(server, tmp_path))
    check_ended_in_order(server, tmp_path)

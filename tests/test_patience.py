"""Time that this process slept through is not held against others, and what has arrived is read before time is up."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import DeadlockError, VirtualLoop, run_virtually

from batcher.calls.patience import Alarm, Patience, Signs


def stall(seconds: float) -> None:
    """Let the process stand still: its clock goes on, and nothing of it runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.move_on(seconds)


async def wait_for(seconds: float) -> float:
    """Return the seconds until an alarm rings."""
    loop = asyncio.get_running_loop()
    began, rang = loop.time(), asyncio.Event()
    Alarm(seconds, rang.set)
    await rang.wait()
    return loop.time() - began


@given(st.floats(1e-3, 100))
def test_an_alarm_rings_when_its_time_is_up(seconds: float) -> None:
    assert run_virtually(wait_for(seconds))[0] == pytest.approx(seconds, abs=1e-6)


@given(st.floats(0, 0.99), st.floats(0.3, 1e4))
def test_of_a_stall_a_tenth_of_a_second_is_counted_at_most(moment: float, stall_s: float) -> None:
    async def stalled() -> float:
        asyncio.get_running_loop().call_later(moment * 20, stall, stall_s)
        return await wait_for(20)

    waited, _ = run_virtually(stalled())
    assert 20 + stall_s - 0.1 - 1e-6 <= waited <= 20 + stall_s + 1e-6


def test_stalls_that_come_again_and_again_are_not_counted() -> None:
    """The loop stands still for 0.44 s of each 0.5 s: 4 s of 0.06 s and what is counted of each stall."""

    async def stalled() -> float:
        async def stall_often() -> None:
            while True:
                stall(0.44)
                await asyncio.sleep(0.06)

        stalling = asyncio.create_task(stall_often())
        try:
            return await wait_for(4)
        finally:
            stalling.cancel()

    assert run_virtually(stalled())[0] >= 0.5 * 4 / 0.16 - 0.5


def test_nothing_ticks_when_no_alarm_waits() -> None:
    """The loop in virtual time says so when nothing would ever happen again."""

    async def wait_in_vain() -> None:
        async with Patience(60):
            await asyncio.sleep(1)
        Alarm(1, asyncio.Event().set)
        Alarm(2, asyncio.Event().set).cancel()
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError):
        run_virtually(wait_in_vain())


@given(st.floats(0, 100))
def test_an_alarm_rings_in_a_loop_that_is_always_late(lateness: float) -> None:
    waited, _ = run_virtually(wait_for(8), lateness=lambda: lateness)
    assert 8 <= waited <= 8 + 81 * (0.1 + lateness)  # each wake of the loop counts for a tenth of a second


async def test_an_alarm_that_was_cancelled_does_not_ring() -> None:
    rang = asyncio.Event()
    for seconds in (0, 1e-6):
        Alarm(seconds, rang.set).cancel()
    await wait_for(1e-3)
    assert not rang.is_set()


async def test_time_that_is_up_raises_like_a_timeout_of_asyncio() -> None:
    for seconds in (0, 1e-3):
        with pytest.raises(TimeoutError):
            async with Patience(seconds):
                await asyncio.Event().wait()
    async with Patience(60):
        await asyncio.sleep(0)
    with pytest.raises(ValueError, match="of the block"):
        async with Patience(60):
            raise ValueError("of the block")


@pytest.mark.parametrize("size", [1, 2_000_000])
def test_what_had_arrived_in_a_stall_is_read_before_time_is_up(size: int) -> None:
    """A real socket in virtual time: the answer lies in it when the loop runs again, long after its time was up."""

    async def answer() -> int:
        ours, theirs = socket.socketpair()
        with theirs:
            for end in (ours, theirs):
                end.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=ours)
            loop = asyncio.get_running_loop()
            sending = loop.create_task(loop.sock_sendall(theirs, bytes(size)))
            loop.call_soon(stall, 3600)
            async with Patience(1):
                read = await reader.readexactly(size)
            await sending
            writer.close()
        return len(read)

    assert run_virtually(answer())[0] == size


async def heard(gaps: list[float], idle_s: float) -> tuple[float, bool]:
    """Wait for work that gives a sign after each of these seconds; return the seconds, and whether it came to its end.

    A gap below 0 is a stall of the process.
    """
    signs, loop = Signs(), asyncio.get_running_loop()

    async def work() -> None:
        for gap in gaps:
            if gap < 0:
                stall(-gap)
            else:
                await asyncio.sleep(gap)
                signs.hear()

    began = loop.time()
    try:
        await signs.unless_silent(work(), idle_s)
    except TimeoutError:
        return loop.time() - began, False
    return loop.time() - began, True


GAPS = st.lists(st.floats(0.01, 9.9), max_size=30)


@given(GAPS, st.floats(10.1, 1e4), GAPS)
def test_silence_is_counted_from_the_last_sign(before: list[float], silence: float, after: list[float]) -> None:
    (waited, is_whole), _ = run_virtually(heard(before, 10))
    assert is_whole
    assert waited == pytest.approx(sum(before), abs=1e-6)
    (waited, is_whole), _ = run_virtually(heard([*before, silence, *after], 10))
    assert not is_whole
    assert waited == pytest.approx(sum(before) + 10, abs=1e-6)


@given(GAPS, st.floats(10, 1e5), GAPS)
def test_a_stall_of_this_process_is_no_silence(before: list[float], seconds: float, after: list[float]) -> None:
    gaps = [each * 0.98 for each in (*before, -seconds / 0.98, *after)]
    assert run_virtually(heard(gaps, 10))[0][1]

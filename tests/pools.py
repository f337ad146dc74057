"""A pool in virtual time, and calls and rows that pass it."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

from fake_service import Service
from virtual_time import run_virtually

from batcher.calls.caller import Caller
from batcher.endpoint import Endpoint
from batcher.money.tariff import Tariff
from batcher.pool.account import Account, accounts_of
from batcher.pool.blame import History
from batcher.pool.member import Member, Slot
from batcher.pool.pool import Pool
from batcher.records import Completion, Failure, Fault

T = TypeVar("T")


def now() -> float:
    return asyncio.get_running_loop().time()


def member_of(number: int, endpoint: Endpoint, caller: Caller, account: Account | None = None) -> Member:
    return Member(number, endpoint, 0, caller, Tariff.of(endpoint, {}), account=account, is_known=True)


def with_pool(
    endpoints: Sequence[Endpoint],
    work: Callable[[Pool], Awaitable[T]],
    rows_left: Callable[[], float] = lambda: 1e9,
    **clock: Any,
) -> T:
    """Do some work with a pool in virtual time."""

    async def open_and_work() -> T:
        callers = Service([])()
        accounts = accounts_of(endpoints)
        members = [
            member_of(number, endpoint, callers.caller(endpoint), account)
            for number, (endpoint, account) in enumerate(zip(endpoints, accounts, strict=True))
        ]
        async with Pool(members, timeout_s=120, rows_left=rows_left) as pool:
            return await work(pool)

    return run_virtually(open_and_work(), **clock)[0]


Came = Completion | Failure
ANSWER = Completion("fine")


def refused(status: int = 429, retry_after: float | None = None) -> Failure:
    return Failure(Fault.STATUS, "no", status, retry_after=retry_after)


async def taken(pool: Pool, **options: Any) -> Slot:
    """Take the right to make a call, and let it leave."""
    slot = await pool.take(**options)
    assert pool.leave(slot)
    return slot


def end(pool: Pool, slot: Slot, came: Came = ANSWER) -> None:
    pool.record(slot, came)
    pool.release(slot)


async def call(pool: Pool, seconds: float, came: Came = ANSWER, **options: Any) -> Member:
    slot = await taken(pool, **options)
    await asyncio.sleep(seconds)
    end(pool, slot, came)
    return slot.member


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    return await asyncio.gather(*work)


Serve = Callable[[Member, int], Awaitable[Came]]


class Served(NamedTuple):
    """What came of a run of rows: its seconds, the most failures of a row, and calls refused or failed."""

    seconds: float
    failures: int
    refused: int
    members: Sequence[Member]


async def through(pool: Pool, rows: int, serve: Serve, done: list[int]) -> Served:
    """Let as many workers as a run has take rows until each is answered; a 429 counts as no failure of its row."""
    todo = iter(range(rows))
    refusals: list[Came] = []
    failures: Counter[int] = Counter()

    async def attempt(history: History, after: Member | None) -> tuple[Came | None, Member]:
        slot = await pool.take(after=after, failures=history.failures)
        came = None
        try:
            if pool.leave(slot):
                came = await serve(slot.member, history.row)
                pool.record(slot, came, history)
                if isinstance(came, Failure):
                    history.mark(slot.member.standing, slot.left_at)
        finally:
            pool.release(slot)
        return came, slot.member

    async def worker() -> None:
        for row in todo:
            history = History(row)
            came, member = await attempt(history, None)
            while not isinstance(came, Completion):
                refusals.extend([came] if came else [])
                if came and came.status != 429:
                    failures[row] += 1
                    await asyncio.sleep(2.0 ** failures[row])
                came, member = await attempt(history, member)
            done.append(row)

    await together(*(worker() for _ in range(min(2 * pool.capacity, rows))))
    return Served(now(), max(failures.values(), default=0), len(refusals), pool.members)


def serve_rows(endpoints: Sequence[Endpoint], rows: int, serve: Serve, **clock: Any) -> Served:
    done: list[int] = []
    return with_pool(endpoints, lambda pool: through(pool, rows, serve, done), lambda: rows - len(done), **clock)


def lognormal(median: float, sigma: float = 0.8, seed: int = 7) -> Callable[[], float]:
    draw = random.Random(seed)
    return lambda: draw.lognormvariate(math.log(median), sigma)

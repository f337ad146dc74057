"""Money is reserved before it is spent, so that no run exceeds its budget or stops too early."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from virtual_time import run_virtually

from batcher.money.budget import Budget, BudgetClosed, BudgetSpent


@dataclass(frozen=True)
class Request:
    """A request: when it wants to leave, what it may cost, what it does cost, and how long it is under way.

    `cancelled` is the second at which it is given up, wherever it stands then.
    """

    at: int
    bound: int
    cost: int
    seconds: int = 1
    cancelled: int | None = None


async def reserve(budget: Budget, amount: int) -> None:
    """Reserve an amount that stays the same while the request waits."""
    assert await budget.reserve(lambda: amount) == amount


requests = st.integers(1, 12).flatmap(
    lambda bound: st.builds(
        Request,
        at=st.integers(0, 12),
        bound=st.just(bound),
        cost=st.integers(0, bound),
        seconds=st.integers(1, 6),
        cancelled=st.none() | st.integers(0, 25),
    )
)


class Run:
    """Sends requests under a budget, and checks the budget after each event.

    Attributes:
        spent, reserved: by our own books.
        waiting: who waits, by place in the list of requests, in the order of arrival.
        refused: who was told that the budget is spent.
    """

    def __init__(self, limit: int, spent: int, requests: list[Request]) -> None:
        self.limit = limit
        self.spent = spent
        self.reserved = 0
        self.requests = requests
        self.waiting: list[int] = []
        self.refused: list[BudgetSpent] = []
        self.budget = Budget(limit, spent)
        run_virtually(self._work())

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._send(place, request)) for place, request in enumerate(self.requests)]
        for task, request in zip(tasks, self.requests, strict=True):
            if request.cancelled is not None:
                loop.call_at(request.cancelled + 0.2, task.cancel)
        await asyncio.sleep(0.05)
        while tasks:
            self._look()
            await asyncio.sleep(0.1)
            for task in filter(asyncio.Task.done, tasks.copy()):
                tasks.remove(task)
                if not task.cancelled():
                    task.result()

    def _look(self) -> None:
        """The budget is not exceeded, and the first request in line waits only for money that may be returned."""
        assert (self.budget.spent, self.budget.reserved) == (self.spent, self.reserved)
        assert self.spent + self.reserved <= self.limit
        if self.waiting:
            assert self.reserved > 0
            assert self.spent + self.reserved + self.requests[self.waiting[0]].bound > self.limit

    async def _send(self, place: int, request: Request) -> None:
        await asyncio.sleep(request.at + (place + 1) / 1000)  # one after the other
        self.waiting.append(place)
        try:
            await reserve(self.budget, request.bound)
            assert not self.refused
            assert self.waiting[0] == place
        except BudgetSpent as error:
            self.refused.append(error)
            return
        finally:
            self.waiting.remove(place)
        self.reserved += request.bound
        try:
            await asyncio.sleep(request.seconds)
            self.spent += request.cost
            self.budget.settle(request.bound, request.cost)
        except asyncio.CancelledError:
            self.budget.release(request.bound)
            raise
        finally:
            self.reserved -= request.bound


@given(st.integers(0, 30), st.integers(0, 30), st.lists(requests, max_size=12))
@example(10, 0, [Request(0, 6, 6, 3), Request(0, 9, 0), *[Request(0, 1, 1)] * 5])  # a big one before small ones
@example(10, 0, [Request(0, 8, 1, 5), Request(0, 9, 9, cancelled=2), Request(0, 2, 2)])  # the big one gives up
def test_a_run_spends_what_it_may_and_no_more(limit: int, spent: int, requests: list[Request]) -> None:
    run = Run(limit, min(spent, limit), requests)
    assert run.reserved == 0
    for error in run.refused:
        assert error.needed > error.left == limit - run.spent


def asking(budget: Budget, *amounts: int) -> list[asyncio.Task[None]]:
    return [asyncio.get_running_loop().create_task(reserve(budget, amount)) for amount in amounts]


async def turn() -> None:
    """Let every task run as far as it can."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_what_was_not_spent_goes_to_the_next_in_line() -> None:
    budget = Budget(100, spent=40)
    first, second, third = asking(budget, 60, 55, 1)
    await turn()
    assert (first.done(), second.done(), third.done()) == (True, False, False)  # the small one does not overtake
    budget.settle(60, 4)
    await turn()
    assert (second.done(), third.done(), budget.reserved) == (True, True, 56)


async def test_the_budget_ends_for_all_where_the_next_request_does_not_fit() -> None:
    budget = Budget(100)
    await reserve(budget, 90)
    big, small = asking(budget, 50, 1)
    await turn()
    assert not big.done()
    assert not small.done()
    budget.settle(90, 80)
    budget.close()
    for task in (big, small, *asking(budget, 0)):
        with pytest.raises(BudgetSpent) as caught:
            await task
        assert (caught.value.needed, caught.value.left) == (50, 20)
    assert (budget.spent, budget.reserved) == (80, 0)


async def test_a_budget_can_be_spent_to_the_last() -> None:
    budget = Budget(100)
    for _ in range(10):
        await reserve(budget, 10)
        budget.settle(10, 10)
    await reserve(budget, 0)
    assert (budget.spent, budget.limit) == (100, 100)


async def test_a_broken_bound_is_counted_and_ends_the_budget() -> None:
    budget = Budget(100)
    await reserve(budget, 60)
    (waiting,) = asking(budget, 50)
    await turn()
    budget.settle(60, 130)
    with pytest.raises(BudgetSpent) as caught:
        await waiting
    assert (budget.spent, caught.value.left, caught.value.is_old) == (130, -30, False)


async def test_a_budget_that_earlier_calls_have_exceeded_says_so() -> None:
    (refused,) = asking(Budget(100, spent=130), 1)
    with pytest.raises(BudgetSpent) as caught:
        await refused
    assert (caught.value.left, caught.value.is_old) == (-30, True)


async def test_closing_wakes_those_who_wait_and_admits_nobody() -> None:
    budget = Budget(100)
    await reserve(budget, 60)
    waiting = asking(budget, 50, 1)
    await turn()
    budget.close()
    for task in (*waiting, *asking(budget, 1)):
        with pytest.raises(BudgetClosed):
            await task
    budget.settle(60, 20)
    assert (budget.spent, budget.reserved) == (20, 0)


async def test_one_who_gives_up_as_it_is_admitted_loses_no_money() -> None:
    budget = Budget(100)
    await reserve(budget, 60)
    admitted, behind = asking(budget, 90, 80)
    await turn()
    budget.release(60)
    assert budget.reserved == 90
    admitted.cancel()
    await turn()
    assert admitted.cancelled()
    assert behind.done()
    assert budget.reserved == 80


async def test_one_who_gives_up_lets_the_next_one_pass() -> None:
    budget = Budget(100)
    await reserve(budget, 60)
    big, small = asking(budget, 90, 40)
    await turn()
    assert not small.done()
    big.cancel()
    await turn()
    assert (small.done(), budget.reserved) == (True, 100)


async def test_a_request_that_waits_is_admitted_by_what_it_may_cost_now() -> None:
    budget, most = Budget(100), [90]
    await reserve(budget, 60)
    waiting = asyncio.create_task(budget.reserve(lambda: most[0]))
    await turn()
    most[0] = 30  # what others were answered may teach that it costs less
    budget.settle(60, 60)
    assert await waiting == 30
    assert budget.reserved == 30


async def test_a_request_that_waits_and_may_cost_more_by_now_is_refused_by_that_amount() -> None:
    budget, most = Budget(100), [50]
    await reserve(budget, 60)
    waiting = asyncio.create_task(budget.reserve(lambda: most[0]))
    await turn()
    most[0] = 90
    budget.settle(60, 40)
    with pytest.raises(BudgetSpent) as caught:
        await waiting
    assert (caught.value.needed, caught.value.left) == (90, 60)

"""The budget of a run.

Invariant: spent and reserved money together never exceed the limit, as long as no request costs more than its
reservation. Requests are admitted in the order of their arrival, and none waits for money that cannot be returned.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from functools import partial


class BudgetSpent(Exception):
    """The rest of the budget does not cover the next request, and no reservation could return enough.

    Attributes:
        needed: the most that the next request may cost, in nano-dollars.
        left: the rest of the budget, in nano-dollars; negative if it is exceeded.
        is_old: it was exceeded before this process: a request of an earlier one cost more than its reservation, or the
            budget was larger then.
    """

    def __init__(self, needed: int, left: int, *, is_old: bool = False) -> None:
        super().__init__(f"the next request may cost {needed} nano-dollars, and {left} are left")
        self.needed = needed
        self.left = left
        self.is_old = is_old


class BudgetClosed(Exception):
    """The run is stopping: no further request may leave."""


class Budget:
    """Reserves money before a request leaves, and takes back the part that it did not cost.

    All state changes in methods that do not wait, of which `_dispatch` is the last one to run.

    Attributes:
        limit: the budget, in nano-dollars.
        spent: the money spent, earlier calls of the run included.
        reserved: the most that the requests under way may cost.
        was_exceeded: the earlier calls have spent more than the limit.
        comes_back: returns whether money that counts as spent may come back, from batches that are out.
    """

    def __init__(self, limit: int, spent: int = 0) -> None:
        self.limit = limit
        self.spent = spent
        self.reserved = 0
        self.was_exceeded = spent > limit
        self.comes_back: Callable[[], bool] = lambda: False
        self._waiting: collections.deque[tuple[Callable[[], int], asyncio.Future[int]]] = collections.deque()
        self._end: Callable[[], Exception] | None = None

    def __repr__(self) -> str:
        return f"<Budget: {self.spent} spent and {self.reserved} reserved of {self.limit} nano-dollars>"

    @property
    def is_overdrawn(self) -> bool:
        """Whether requests have cost more than their reservations, so that the limit does not cover all of them."""
        return self.spent + self.reserved > self.limit

    async def reserve(self, most: Callable[[], int]) -> int:
        """Wait until the next request can leave; return the amount reserved, to pass to `settle` or `release` later.

        Args:
            most: returns the most that the request may cost, in nano-dollars. It is called again while the request
                waits, because the answers of others may teach that it costs less, or more.

        Raises:
            BudgetSpent: this request, or one before it, does not fit any more.
            BudgetClosed: the run is stopping.
        """
        if not self._waiting and self._end is None and self._fits(amount := most()):
            self.reserved += amount
            return amount
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((most, waiter))
        self._dispatch()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release(waiter.result())  # granted and cancelled in one turn of the loop
            else:
                self._dispatch()  # the next request may fit although this one did not
            raise

    def reserve_spare(self, amount: int, others: int) -> bool:
        """Reserve money for a request that can be done without; return False if others may need the money.

        Args:
            amount: the most that it may cost, in nano-dollars.
            others: what requests that have not been reserved for are likely to cost.
        """
        fits = not self._waiting and self._end is None and self._fits(amount + others)
        self.reserved += amount if fits else 0
        return fits

    def settle(self, reserved: int, cost: int) -> None:
        """Replace a request's reservation by its cost.

        A cost above the reservation is counted in full; if it takes the run beyond its limit, no further request is
        admitted.
        """
        self.reserved -= reserved
        self.spent += cost
        self._dispatch()

    def charge(self, amount: int) -> bool:
        """Count an amount as spent, if it fits and nothing waits; return whether it is."""
        fits = not self._waiting and self._end is None and self._fits(amount)
        self.spent += amount * fits
        return fits

    def release(self, reserved: int) -> None:
        """Take back the reservation of a request that cost nothing."""
        self.settle(reserved, 0)

    def refund(self, amount: int) -> None:
        """Take back money that was counted as spent: an earlier request cost at most the rest."""
        self.spent -= amount
        self._dispatch()

    def close(self) -> None:
        """Admit no more requests; requests under way go on, and still have to be settled."""
        self._end = self._end or BudgetClosed
        self._dispatch()

    def _fits(self, amount: int) -> bool:
        return self.spent + self.reserved + amount <= self.limit

    def _dispatch(self) -> None:
        """Admit waiting requests in order, up to the first that has to wait longer."""
        while self._waiting:
            most, waiter = self._waiting[0]
            if not waiter.done():
                amount = most()
                if self._end is None and not self._fits(amount):
                    if self.reserved or self.comes_back():
                        return
                    self._end = partial(BudgetSpent, amount, self.limit - self.spent, is_old=self.was_exceeded)
                if self._end is None:
                    self.reserved += amount
                    waiter.set_result(amount)
                else:
                    waiter.set_exception(self._end())
            self._waiting.popleft()

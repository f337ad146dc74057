"""The money of a run: reservations before requests leave, and the cost of answers.

Invariant: with a budget no request leaves before its highest cost is reserved. A request that may be billed without an
answer counts with that highest cost.
"""

from __future__ import annotations

from collections.abc import Sequence

from batcher.chat_model import retries_of
from batcher.endpoint import by_account
from batcher.errors import SettingsError
from batcher.money.budget import Budget
from batcher.money.tariff import Tariff
from batcher.records import Message
from batcher.words import dollars, option


class Spending:
    """Reserves and settles the cost of requests.

    Args:
        tariffs: of the pool's endpoints, each of which may take a request.
        limit: the budget of the run with all its resumes, in nano-dollars, or None.
        spent: the money that earlier processes spent, in nano-dollars.

    Attributes:
        spent: the money that this process has spent on answers, in nano-dollars; None once a cost is unknown.

    Raises:
        SettingsError: there is a budget, and the cost of an endpoint's requests cannot be bounded.
    """

    def __init__(self, tariffs: Sequence[Tariff], limit: int | None = None, spent: int = 0) -> None:
        self._tariffs = tariffs
        self._budget = None if limit is None else Budget(limit, spent)
        self.spent: int | None = 0 if all(tariff.price for tariff in tariffs) else None
        if limit is not None:
            for tariff in tariffs:
                check_bounded(tariff)

    async def reserve(self, messages: Sequence[Message]) -> int:
        """Wait until the budget covers a request at any endpoint; return the amount reserved.

        Raises:
            BudgetSpent, BudgetClosed: the request must not leave.
        """
        if self._budget is None:
            return 0
        most = max(tariff.most(messages) or 0 for tariff in self._tariffs)
        await self._budget.reserve(most)
        return most

    def settle(self, reserved: int, cost: int | None) -> None:
        """Replace a request's reservation in the budget by its cost."""
        if self._budget is not None:
            self._budget.settle(reserved, cost or 0)

    def count(self, cost: int | None) -> None:
        """Add an answer's cost to the money spent; after an unknown cost, the sum is unknown."""
        self.spent = None if self.spent is None or cost is None else self.spent + cost

    def close(self) -> None:
        """Let no further request leave."""
        if self._budget is not None:
            self._budget.close()


def note_of_reserves(tariffs: Sequence[Tariff], left: int) -> str:
    """Return a note on the budget's reservations if only the context window bounds the answers; else "".

    Args:
        tariffs: of the pool.
        left: the rest of the budget, in nano-dollars.
    """
    if not any(tariff.is_as_long_as_can_be and not tariff.is_free for tariff in tariffs):
        return ""
    most_at = {each.endpoint: each.most_of_answer or 0 for each in tariffs}
    in_flight = [(keys[0].max_concurrency, max(most_at[key] for key in keys)) for keys in by_account(most_at)]
    most = max(cost for _, cost in in_flight)
    at_once = sum(calls for calls, _ in in_flight)
    lost = min(sum(calls * cost for calls, cost in in_flight), max(left, 0))
    return (
        "Note: without max_tokens an answer may be as long as the model allows. So each request reserves"
        f" {dollars(most)} of the budget or more, and a kill with up to {at_once:,} requests in flight may cost"
        f" {dollars(lost)}. {option('param', {'max_tokens': 'N'})} lowers both."
    )


def check_bounded(tariff: Tariff) -> None:
    """Refuse an endpoint if the cost of its requests cannot be bounded before they leave.

    Raises:
        SettingsError: the cost of its requests cannot be bounded.
    """
    if said := _unbounded(tariff):
        raise SettingsError(f"{option('budget')}: {said}")


def _unbounded(tariff: Tariff) -> str:
    """Return why the cost of requests cannot be bounded and what to do, or "" if it can."""
    model, base_url, _ = tariff.endpoint.source
    llm = tariff.endpoint.llm
    if tariff.price is None:
        place = f"at {base_url} is unknown" if base_url else "is unknown (no base URL)"
        return (
            f"the price of {model} {place}: give {option('price_in')} and"
            f" {option('price_out')} (dollars per million tokens), or prices in the endpoint"
        )
    if tariff.is_free:
        return ""
    if llm is not None and (retries := retries_of(llm)):
        return (
            f"the chat model {model} retries a failed request itself, {retries:g} times, and a budget cannot count its"
            " retries: create it with max_retries=0; batcher does the retries"
        )
    if not tariff.is_request_known:
        return (
            f"{type(llm).__name__} in llm= does not show its request parameters before a call, so a request may cost"
            f" anything: give the model and its base URL instead of llm=, or run without {option('budget')}"
        )
    if tariff.completion_tokens is None:
        return (
            f"nothing bounds how long an answer of {model} may be, so a request may cost anything: give"
            f" {option('param', {'max_tokens': 'N'})}, and other numbers of tokens or answers (n, thinking_budget) as"
            " numbers too"
        )
    return ""

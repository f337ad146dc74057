"""The money of a run: reservations before requests leave, and the cost of answers.

Invariant: with a budget no request leaves before its highest cost is reserved. A request that may be billed without an
answer counts with that highest cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from batcher.chat_model import retries_of
from batcher.endpoint import by_account
from batcher.errors import SettingsError
from batcher.money.budget import Budget, BudgetSpent
from batcher.money.tariff import Tariff, distinct
from batcher.money.vision import UNKNOWN
from batcher.records import NO_TERMS, Bound, Message, Terms
from batcher.words import as_given, blamed, counted, dollars, option

MOST_LOST = 100_000
"""Requests without an answer to remember: a long outage must not fill the memory. The journal has all of them."""


class Spending:
    """Reserves and settles the cost of requests.

    Args:
        tariffs: of the pool's endpoints, each of which may take a request.
        limit: the budget of the run with all its resumes, in nano-dollars, or None.
        spent: the money that earlier processes spent, in nano-dollars, including `lost`.
        lost: requests of earlier processes that were charged at their bounds because they have no answer: key of the
            question, id of the source, and bound.
        by_row: each row was checked by itself, because rows have parameters of their own.
        second: the tariffs of the endpoints of the second tier (`--then`), which are in `tariffs`, too.
        batch: the tariffs of requests in batches.

    Attributes:
        spent: the money that this process has spent on answers, in nano-dollars; None once a cost is unknown.

    Raises:
        SettingsError: there is a budget, and the cost of an endpoint's requests cannot be bounded.
    """

    def __init__(
        self,
        tariffs: Sequence[Tariff],
        limit: int | None = None,
        spent: int = 0,
        lost: Iterable[tuple[bytes, int, Bound]] = (),
        *,
        by_row: bool = False,
        second: Sequence[Tariff] = (),
        batch: Sequence[Tariff] = (),
    ) -> None:
        # Keys of one source share all that a bound depends on.
        first = [each for each in tariffs if all(each is not other for other in second)]
        self._tiers = (distinct(first), distinct(second))
        self._budget = None if limit is None else Budget(limit, spent)
        self._lost: dict[tuple[bytes, int], list[Bound]] = {}
        self._lost_left = MOST_LOST
        # The answers of this process, and what they cost.
        self._answers = self._answers_cost = 0
        for each in lost:
            self.lose(*each)
        self.spent: int | None = 0 if all(tariff.price for tariff in (*tariffs, *batch)) else None
        if limit is not None:
            for tariff in (*tariffs, *batch):
                check_bounded(tariff, by_row=by_row)

    async def reserve(self, messages: Sequence[Message], terms: Terms = NO_TERMS, tier: int = 0) -> int:
        """Wait until the budget covers a request at any endpoint of a tier; return the amount reserved.

        Raises:
            BudgetSpent, BudgetClosed: the request must not leave.
        """
        if self._budget is None:
            return 0
        return await self._budget.reserve(
            lambda: max(tariff.on(terms, messages).most(messages) or 0 for tariff in self._tiers[tier])
        )

    def reserve_spare(self, bound: Bound, rows_left: int) -> int | None:
        """Reserve money for a second request about rows that are asked already (`--hedge`), if there is enough.

        The rows that have no result keep what they are likely to cost, and one request as much as this one may: a
        second request, which may be charged at its bound, must not be why the budget ends a run.

        Args:
            bound: of the request.
            rows_left: the rows without a result.

        Returns:
            The amount reserved; None if the request must not leave.
        """
        if self._budget is None:
            return 0
        most = bound.cost or 0
        likely = math.ceil(self._answers_cost / max(self._answers, 1) * rows_left)
        return most if self._budget.reserve_spare(most, likely + most) else None

    def covers(self, reserved: int, bound: Bound) -> bool:
        """Return whether a reservation still covers a request.

        Its bound may have widened since, or the answers to others may have cost more than was reserved for them.
        """
        return self._budget is None or (reserved >= (bound.cost or 0) and not self._budget.is_overdrawn)

    def settle(self, reserved: int, cost: int | None) -> None:
        """Replace a request's reservation in the budget by its cost."""
        if self._budget is not None:
            self._budget.settle(reserved, cost or 0)

    def lose(self, key: bytes, source: int, bound: Bound) -> None:
        """Remember a request that is charged at its bound, because it may be billed and has no answer."""
        if self._budget is not None and self._lost_left and bound.saving(0):
            self._lost_left -= 1
            self._lost.setdefault((key, source), []).append(bound)

    def refund(self, key: bytes, source: int, prompt_tokens: int | None) -> None:
        """Lower the charges of lost requests after an answer to the same question, which tells the prompt's length.

        The journal lowers them by the same rule, so call this only when the answer is in it.

        Args:
            key: of the question.
            source: the id of the source, which counts a question's tokens always in the same way.
            prompt_tokens: as the server reported them.
        """
        if self._budget is not None and prompt_tokens and (lost := self._lost.pop((key, source), None)):
            self._lost_left += len(lost)
            self._budget.refund(sum(bound.saving(prompt_tokens) for bound in lost))

    def give_back(self, amount: int) -> None:
        """Lower the money spent by what a request cost less than its bound, at which an earlier process charged it.

        Call this only when the journal has its end.

        Args:
            amount: in nano-dollars.
        """
        if self._budget is not None:
            self._budget.refund(amount)

    def count(self, cost: int | None) -> None:
        """Add an answer's cost to the money spent; after an unknown cost, the sum is unknown."""
        self._answers += 1
        self._answers_cost += cost or 0
        self.spent = None if self.spent is None or cost is None else self.spent + cost

    def charge(self, bound: Bound) -> bool:
        """Charge a line of a batch at its bound, if the budget covers it now; return whether it does.

        It may come back in hours only (`give_back`), so nothing waits here.
        """
        return self._budget is None or self._budget.charge(bound.cost or 0)

    def shortage(self, bound: Bound) -> BudgetSpent:
        """Return by what the budget does not cover a line."""
        budget = self._budget
        left = 0 if budget is None else budget.limit - budget.spent - budget.reserved
        return BudgetSpent(bound.cost or 0, left, is_old=budget is not None and budget.was_exceeded)

    def may_come_back(self, asked: Callable[[], bool]) -> None:
        """Let requests wait for money as long as some may come back from batches.

        Args:
            asked: returns whether some may.
        """
        if self._budget is not None:
            self._budget.comes_back = asked

    def look_again(self) -> None:
        """Look at the requests that wait for money: nothing comes back from batches any more."""
        if self._budget is not None:
            self._budget.refund(0)

    def note_of_excess(self) -> str:
        """Return a note on the amount by which the answers of this process have exceeded the budget; else ""."""
        budget = self._budget
        if budget is None or budget.was_exceeded or budget.spent <= budget.limit:
            return ""
        return f"Note: the budget is exceeded by {dollars(budget.spent - budget.limit)}: {_EXCEEDED}."

    def close(self) -> None:
        """Let no further request leave."""
        if self._budget is not None:
            self._budget.close()


_EXCEEDED = "a server charged for more tokens, or for a dearer service tier, than the requests allowed"


def used_up(end: BudgetSpent) -> str:
    """Return why the budget ends a run, in one sentence; if it is exceeded, by how much."""
    if end.left >= 0:
        why = f": the next request may cost {dollars(end.needed)}, and {dollars(end.left)} are left"
    elif end.is_old:
        why = f": with what earlier runs may have cost, it is exceeded by {dollars(-end.left)}"
    else:
        why = f" and exceeded by {dollars(-end.left)}: {_EXCEEDED}"
    return f"the budget is used up{why}"


def note_of_reserves(tariffs: Sequence[Tariff], left: int) -> str:
    """Return a note on the budget's reservations if only the context window bounds the answers, and money is left.

    Args:
        tariffs: of the pool.
        left: the rest of the budget, in nano-dollars.
    """
    if left <= 0 or not any(tariff.is_as_long_as_can_be and not tariff.is_free for tariff in tariffs):
        return ""
    most_at = {each.endpoint: each.most_of_answer or 0 for each in tariffs}
    in_flight = [(keys[0].max_concurrency, max(most_at[key] for key in keys)) for keys in by_account(most_at)]
    most = max(cost for _, cost in in_flight)
    at_once = sum(calls for calls, _ in in_flight)
    lost = min(sum(calls * cost for calls, cost in in_flight), left)
    return (
        "Note: without max_tokens an answer may be as long as the model allows. So each request reserves"
        f" {dollars(most)} of the budget or more, and a kill with up to {counted(at_once, 'request')} in flight may"
        f" cost {dollars(lost)}. {option('param', {'max_tokens': 'N'})} lowers both."
    )


def note_of_tiers(tariffs: Sequence[Tariff]) -> str:
    """Return a note on the first service tier whose price is unknown; else ""."""
    unknown = [_unknown_price(tariff) for tariff in tariffs if tariff.unpriced_tier]
    return f"Note: {unknown[0]}, so the cost is unknown too: give {_prices()}." if unknown else ""


def _unknown_price(tariff: Tariff) -> str:
    """Say whose price is unknown."""
    model, base_url, _ = tariff.endpoint.real_source
    tier = f" in the service tier {tariff.unpriced_tier!r}" if tariff.unpriced_tier else ""
    place = f" at {base_url}{tier} is unknown" if base_url else f"{tier} is unknown (no base URL)"
    return f"the price of {model}{place}"


def _prices() -> str:
    return f"{option('price_in')} and {option('price_out')} (dollars per million tokens), or prices in the endpoint"


def check_bounded(tariff: Tariff, *, has_images: bool = False, by_row: bool = False) -> None:
    """Refuse an endpoint if the cost of its requests cannot be bounded before they leave.

    Args:
        tariff: of the endpoint.
        has_images: requests have images.
        by_row: a row's own parameters may bound its answer, so that each row is checked by itself.

    Raises:
        SettingsError: the cost of its requests cannot be bounded.
    """
    is_by_row = by_row and tariff.is_request_known and tariff.completion_tokens is None
    said = _unbounded(tariff._replace(completion_tokens=0) if is_by_row else tariff)
    if not said and has_images and tariff.vision is UNKNOWN and not tariff.is_free:
        said = (
            f"how many tokens an image has at {tariff.endpoint.real_source.model} is not known, so a request may cost"
            f" anything: run without {as_given('budget')}, and with a few rows first ({option('limit', 20)})"
        )
    if said:
        raise SettingsError(f"{blamed('budget')}: {said}")


def _unbounded(tariff: Tariff) -> str:
    """Return why the cost of requests cannot be bounded and what to do, or "" if it can."""
    model, llm = tariff.endpoint.source.model, tariff.endpoint.llm
    if tariff.price is None:
        without = "leave service_tier out, or " if tariff.unpriced_tier else ""
        return f"{_unknown_price(tariff)}: {without}give {_prices()}"
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
            f" anything: give the model and its base URL instead of llm=, or run without {as_given('budget')}"
        )
    if tariff.completion_tokens is None:
        return (
            f"nothing bounds how long an answer of {model} may be, so a request may cost anything: give"
            f" {option('param', {'max_tokens': 'N'})}, and other numbers of tokens or answers (n, thinking_budget) as"
            " numbers too"
        )
    return ""

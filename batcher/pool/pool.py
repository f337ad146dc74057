"""The queue of rows before the endpoints: it decides which endpoint takes which row next.

Invariant: a row waits in one queue, first come first served, and goes to the endpoint of its tier that can take it
soonest; no account exceeds its limits of calls in flight or per minute. A row that waits holds no slot. A second call
about a row (`--hedge`) gets only a slot that no waiting row could take.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Self

from batcher.calls.batches import Size, smallest
from batcher.money.tokens import Estimator
from batcher.pool.account import Account
from batcher.pool.blame import History
from batcher.pool.limiter import Limiter
from batcher.pool.member import Member, Silence, Slot
from batcher.records import Completion, EndpointCount, Failure, Message

# An endpoint is slow if its answers take this many times as long as those of the fastest.
_SLOW = 2.0


class PoolEmpty(Exception):
    """No endpoint is left, or none of a tier."""


class PoolClosed(Exception):
    """The run is stopping: no further call may leave."""


class ModelGone(Exception):
    """Each endpoint that has a row's model has left the pool, and others are at work; the text says why."""


class _Waiter(NamedTuple):
    """A row in the queue.

    Attributes:
        slot: will hold its slot.
        after: the endpoint at which it was last, or None.
        is_clean: none of its attempts has failed.
        tokens: the tokens that its prompt is estimated to have.
        only: the endpoints that may take it, because they have its model, or are its tier; empty: any.
        lacked: how often a service tier of a source has had no capacity for it.
        beside: the slot of the call that a second call about the row would race with; None: it is no second call.
    """

    slot: asyncio.Future[Slot]
    after: Member | None
    is_clean: bool
    tokens: float | None
    only: tuple[Member, ...] = ()
    lacked: Mapping[tuple[int, str], int] = MappingProxyType({})
    beside: Slot | None = None

    def is_for(self, member: Member) -> bool:
        """Return whether an endpoint may take it."""
        return not self.only or member in self.only


def _use(member: Member) -> tuple[int, int]:
    """Return how much an endpoint is used; the keys of an account take turns by it."""
    return member.in_flight, member.requests


def _nearness(member: Member, first: Member) -> int:
    """Return how much an endpoint has in common with another: 2 the account, 1 the server, 0 neither."""
    if member.account is first.account:
        return 2
    url = member.endpoint.real_source.base_url
    return int(bool(url) and url == first.endpoint.real_source.base_url)


class Pool:
    """Grants slots: each is the right to make one call.

    All state changes in `_dispatch` or in methods that end with it. An account with rate limits has its own task, which
    asks the limiter while a row waits that one of the account's endpoints could take.

    Args:
        members: the endpoints.
        timeout_s: of a call, in seconds.
        estimator: of the model tokens that calls use.
        rows_left: returns the number of rows without a result, so that the last rows avoid slow endpoints.
    """

    def __init__(
        self,
        members: Sequence[Member],
        timeout_s: float = math.inf,
        estimator: Estimator | None = None,
        rows_left: Callable[[], float] = lambda: 1e9,  # a long run
    ) -> None:
        self.members = members
        self._timeout_s = timeout_s
        self._estimator = estimator or Estimator({})
        self._rows_left = rows_left
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._waiting: collections.deque[_Waiter] = collections.deque()
        # Second calls, which wait for slots that are left over.
        self._spares: collections.deque[_Waiter] = collections.deque()
        self._closed = False
        self._paused_at: float | None = None
        self._paused_s = 0.0
        self._fastest_s = 0.0
        # The endpoints of each model, if the pool has several models: a row may name one.
        self._by_model: dict[str, tuple[Member, ...]] = {}
        for member in members:
            model = member.endpoint.real_source.model
            self._by_model[model] = (*self._by_model.get(model, ()), member)
        if len(self._by_model) == 1:
            self._by_model.clear()
        # The endpoints of each tier, if there are several.
        self._tiers: dict[int, tuple[Member, ...]] = {}
        for member in members:
            self._tiers[member.tier] = (*self._tiers.get(member.tier, ()), member)
        if len(self._tiers) == 1:
            self._tiers.clear()
        # A row that names its model has waited: rows in the queue may then not be for every endpoint.
        self._is_routed = False
        self._limits: dict[Account, tuple[float | None, ...]] = {}
        self._counts_tokens = False
        self._unpaced: list[Member] = []
        self._pacers: dict[Account, asyncio.Task[None]] = {}
        for account in dict.fromkeys(member.account for member in members):
            self._pace_by_limits(account)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pacer in self._pacers.values():
            pacer.cancel()
        await asyncio.gather(*self._pacers.values(), return_exceptions=True)

    @property
    def in_flight(self) -> int:
        return sum(member.in_flight for member in self.members)

    @property
    def capacity(self) -> int:
        """Calls that may be in flight at once."""
        at_work = {member.account for member in self.members if member.out is None}
        return sum(account.max_concurrency for account in at_work)

    @property
    def size(self) -> Size:
        """The most that one request for embeddings may hold, at whatever endpoint it is sent."""
        return smallest([member.size for member in self.members if member.out is None])

    def counts(self) -> tuple[EndpointCount, ...]:
        """Return the counts of each endpoint."""
        return tuple(EndpointCount(member.label, member.requests, member.out) for member in self.members)

    def cooldown_s(self) -> float:
        """Return the seconds until an endpoint takes calls again; 0 if one takes calls now."""
        now = self.now()
        return max(0.0, min((m.cooldown_s(now) for m in self.members if m.out is None), default=0.0))

    def of_tier(self, tier: int) -> Sequence[Member]:
        """Return the endpoints of a tier; all, if there is only one tier."""
        return self._tiers.get(tier, self.members)

    def estimate(self, messages: Sequence[Message]) -> float | None:
        """Return the estimated model tokens of a prompt, if an account has a limit of tokens."""
        return self._estimator.prompt(messages) if self._counts_tokens else None

    # -- A call: take, leave, record, release

    def take(
        self,
        *,
        after: Member | None = None,
        failures: int = 0,
        tokens: float | None = None,
        is_next: bool = False,
        model: str = "",
        tier: int = 0,
        lacked: Mapping[tuple[int, str], int] = MappingProxyType({}),
    ) -> Coroutine[Any, Any, Slot]:
        """Queue for the right to make one call, and return what waits for it; it has to be awaited.

        Args:
            after: the endpoint at which the row has failed. The row goes to another endpoint if one is at work.
            failures: its failed attempts. After the first one it goes to the front, so that its chunk can close; then
                others go first.
            tokens: model tokens that the prompt is estimated to have; None counts what calls have used so far.
            is_next: the row goes to the front, because what others are asked depends on it.
            model: an endpoint that has this model takes the row, if there is one in the pool; empty: any endpoint.
            tier: an endpoint of this tier takes the row; rows of a pool with several tiers name no models.
            lacked: how often each service tier of a source (by its id) has had no capacity for the row.

        Raises:
            PoolEmpty: no endpoint is left, or none of the tier.
            PoolClosed: the run is stopping.
            ModelGone: no endpoint with the row's model is left, although there was one.
        """
        only = self._only(model, tier)
        waiter = _Waiter(self._loop.create_future(), after, not failures, tokens, only, lacked)
        # If no endpoint can take the last row in the queue, none can take this row either.
        is_hopeless = (
            not after
            and not is_next
            and len(self._waiting) > 0
            and not self._waiting[-1].after
            and not self._closed
            and self._waiting[-1].only == only
        )
        if only:
            self._is_routed = True
            self._check_is_left(only)
        if is_next or (after and failures <= 1):
            self._waiting.appendleft(waiter)
        else:
            self._waiting.append(waiter)
        if not is_hopeless:
            self._dispatch()
        return self._granted(waiter)

    async def take_spare(
        self,
        beside: Slot,
        *,
        after: Member | None = None,
        tokens: float | None = None,
        model: str = "",
        tier: int = 0,
        lacked: Mapping[tuple[int, str], int] = MappingProxyType({}),
    ) -> Slot:
        """Wait for the right to make a second call about a row, at another endpoint and with a slot that no row needs.

        An endpoint at another server, or of another account, goes first. One that may not answer at all gets none.

        Args:
            beside: the slot of the first call, which is under way.
            after: an endpoint at which the row has failed before: it gets no second call.
            tokens: as in `take`.
            model: as in `take`.
            tier: as in `take`.
            lacked: as in `take`.

        Raises:
            PoolEmpty, PoolClosed: as for `take`.
        """
        slot: asyncio.Future[Slot] = self._loop.create_future()
        waiter = _Waiter(slot, after, False, tokens, self._only(model, tier), lacked, beside)
        self._spares.append(waiter)
        self._dispatch()
        try:
            return await self._granted(waiter)
        finally:
            if waiter in self._spares:
                self._spares.remove(waiter)

    def could_hedge(self, member: Member, model: str = "", tier: int = 0) -> bool:
        """Return whether another endpoint in the pool could make a second call about a row that is asked at one."""
        among = self._only(model, tier) or self.members
        return any(each is not member and each.out is None for each in among)

    async def _granted(self, waiter: _Waiter) -> Slot:
        try:
            return await waiter.slot
        except asyncio.CancelledError:
            if waiter.slot.done() and not waiter.slot.cancelled() and waiter.slot.exception() is None:
                self.release(waiter.slot.result())  # granted and cancelled in one turn of the loop
            raise

    def _only(self, model: str, tier: int) -> tuple[Member, ...]:
        """Return the endpoints that may take a row; empty: any."""
        return self._tiers.get(tier, ()) or (self._by_model.get(model, ()) if model else ())

    def leave(self, slot: Slot) -> bool:
        """Record that the call leaves now; return False if it must not leave any more, and has to be released."""
        now = self.now()
        if self._closed or self.is_paused or not slot.member.is_available(now):
            return False
        slot.member.leave(slot, now)
        return True

    def departed(self, slot: Slot, *, is_known: bool = True) -> None:
        """Record that the request of a call that another process makes has left there, or may have; see `Member`."""
        slot.member.departed(slot, self.now(), is_known=is_known)

    def record(self, slot: Slot, outcome: Completion | Failure, history: History | None = None) -> Silence | None:
        """Record a call's outcome, before its slot is released.

        Args:
            slot: of the call.
            outcome: the completion or the failure.
            history: of the row, without this call; None: it is the row's first.

        Returns:
            A change of its endpoint for people to know, if there is one.
        """
        member, account = slot.member, slot.member.account
        before, of_account_before = member.cooldown_until, account.cooldown_until
        silence = member.record(slot, outcome, history or History(), self.now(), self._timeout_s)
        if isinstance(outcome, Completion):
            self._estimator.learn(outcome.usage)
            self._fastest_s = min(each.latency_s for each in self.members if each.answers)
        if outcome.limits:
            self._pace_by_limits(account)
        self._end_cooldown_in_time(member, before)
        self._end_cooldown_in_time(account, of_account_before)
        return silence

    def release(self, slot: Slot) -> None:
        """Record that the call has ended, or will not be made; doing so again changes nothing."""
        if not slot.is_released:
            slot.is_released = True
            slot.member.release(slot)
            self._dispatch()

    def rest(self, member: Member, most_s: float = math.inf) -> None:
        """Let an endpoint take no call for a while, longer each time until it answers, but no longer than this."""
        self.cool_down(member, min(member.next_rest_s(), most_s))

    def cool_down(self, member: Member, seconds: float) -> None:
        """Let an endpoint take no call for a while."""
        cooldown_until = member.cooldown_until
        member.cool_down(seconds, self.now())
        self._end_cooldown_in_time(member, cooldown_until)

    def _end_cooldown_in_time(self, resting: Member | Account, before: float) -> None:
        if (until := resting.cooldown_until) > before:
            # A pause by hand shortens it: what the server asked for passes meanwhile.
            self._loop.call_at(until + self._loop.time() - self.now(), self._end_cooldown, resting, until)
            self._dispatch()  # to the others

    def _end_cooldown(self, resting: Member | Account, until: float) -> None:
        if resting.cooldown_until == until:  # it was not prolonged
            resting.cooldown_until = 0.0  # the timer may fire early by the clock's resolution, and it fires only once
            self._dispatch()

    def remove(self, member: Member, reason: str) -> bool:
        """Take an endpoint out of the pool for good; return whether it was in it."""
        was_in = member.out is None
        member.out = member.out or reason
        if self._is_routed:
            self._refuse_left_behind()
        self._dispatch()
        return was_in

    def close(self) -> None:
        """Grant no more slots; calls under way go on."""
        self._closed = True
        self._dispatch()

    # -- By hand

    def now(self) -> float:
        """Return the loop's time without the pauses by hand, which no rule counts."""
        return (self._loop.time() if self._paused_at is None else self._paused_at) - self._paused_s

    @property
    def is_paused(self) -> bool:
        return self._paused_at is not None

    def pause(self) -> bool:
        """Grant no slots until `resume`; return False if it is paused already."""
        if self._paused_at is not None:
            return False
        self._paused_at = self._loop.time()
        self._dispatch()
        return True

    def resume(self) -> float | None:
        """Grant slots again; return the seconds of the pause, or None if there was none."""
        if self._paused_at is None:
            return None
        seconds, self._paused_at = self._loop.time() - self._paused_at, None
        self._paused_s += seconds
        self._dispatch()
        return seconds

    def limit(self, account: Account, **limits: Any) -> None:
        """Change the limits of an account that the user gave; calls in flight go on.

        Args:
            account: one of the pool's.
            **limits: the new ones: `rpm`, `rps`, `tpm`, `max_concurrency`.
        """
        account.limit(**limits)
        self._pace_by_limits(account)
        self._dispatch()

    # -- Service tiers

    @property
    def tiers(self) -> tuple[str, ...]:
        """The service tiers that requests of the first tier of endpoints ask for, in the order in which they are tried.

        Empty: they name none. The deadline changes them while the run works (`pool.tiers = ("default",)`): the next
        requests go by the new ones, those under way go on.
        """
        return next((each.tiers.names for each in self.members if not each.tier), ())

    @tiers.setter
    def tiers(self, names: Sequence[str]) -> None:
        for each in self.members:
            if not each.tier:
                each.tiers.names = tuple(names)
        self._dispatch()

    def answers_in(self) -> Counter[str]:
        """Return the answers of this run by the service tier that their requests asked for; "": by those of none."""
        return sum((each.answers for each in dict.fromkeys(each.tiers for each in self.members)), Counter())

    def full(self) -> tuple[str, float] | None:
        """Return a service tier without capacity, and the seconds until it is asked for again; None: each has some.

        0 seconds: it is being asked.
        """
        now = self.now()
        found = [full for each in self.members if each.out is None and (full := each.tiers.full(now))]
        return min(found, key=lambda each: each[1], default=None)

    def full_s(self) -> float:
        """Return the seconds until a service tier without capacity is asked for again; 0: each has capacity."""
        full = self.full()
        return full[1] if full else 0.0

    def has_capacity(self, slot: Slot) -> float | None:
        """Record that a call was answered; return for how many seconds its service tier had no capacity before.

        None: it had some, or people do not know that it had none.
        """
        since = slot.member.tiers.answered(slot.tier, slot.left_at)
        return None if since is None else self.now() - since

    def lacks_capacity(self, slot: Slot, failure: Failure) -> None:
        """Record that the service tier that a call asks for had no capacity: that says nothing else of its endpoint."""
        member = slot.member
        jitter = random.random()  # noqa: S311 - spreads waits, guards nothing
        now = self.now()
        until = member.tiers.refused(slot.tier, slot.left_at, now, jitter, failure.retry_after or 0.0)
        if failure.limits:
            member.account.obey(slot.number, failure.limits, now)
            self._pace_by_limits(member.account)
        if until > now:
            self._loop.call_at(until + self._loop.time() - now, self._reopen, member, slot.tier, until)

    def _reopen(self, member: Member, tier: str, until: float) -> None:
        member.tiers.reopen(tier, until)
        self._dispatch()

    # -- The next row's endpoint

    def _dispatch(self) -> None:
        """Give the oldest waiting rows to the endpoints that can take them now."""
        if self._closed or all(member.out is not None for member in self.members):
            self._refuse(PoolClosed if self._closed else PoolEmpty)
        if self._waiting:
            self._grant_all(self._waiting, self._oldest_for)
        if self._spares:
            self._grant_all(self._spares, self._spare_for)
        for account in self._pacers:
            for member in account.members:
                if self._oldest_for(member) or self._spare_for(member):
                    account.wanted.set()
                    break
            else:
                account.wanted.clear()

    def _grant_all(self, queue: collections.deque[_Waiter], next_for: Callable[[Member], _Waiter | None]) -> None:
        """Give slots of accounts without a limiter to those in a queue, the least used endpoints first."""
        while free := {member: found for member in self._unpaced if (found := next_for(member))}:
            member = min(free, key=_use) if len(free) > 1 else next(iter(free))
            queue.remove(free[member])
            self._grant(free[member], member)

    def _oldest_for(self, member: Member) -> _Waiter | None:
        """Return the oldest row that an endpoint may serve, if it can make a call.

        A row that failed goes to another endpoint if one takes calls. An endpoint in doubt gets a row that has not
        failed before, if there is one.
        """
        if not self._waiting or not self._can_take(member):
            return None
        if member.is_doubted and self._is_worthwhile(member) and (witness := self._witness_for(member)):
            return witness
        for waiter in self._waiting:  # rows that failed are mostly in front
            if waiter.only and member not in waiter.only:
                continue
            if not waiter.after:
                if self._is_worthwhile(member, waiter):
                    return waiter
                if not self._is_routed:
                    return None
            elif waiter.after is not member or not self._others(member, waiter):
                return waiter
        return None

    def _spare_for(self, member: Member) -> _Waiter | None:
        """Return the oldest second call that an endpoint may make, if no row waits for the slot."""
        if not self._spares or self._oldest_for(member) or not self._can_take(member) or member.is_doubted:
            return None
        return next((each for each in self._spares if self._suits(member, each)), None)

    def _suits(self, member: Member, spare: _Waiter) -> bool:
        """Return whether an endpoint is one that a second call should go to, and there is no better one."""
        if spare.beside is None or not self._is_of_use(member, spare):
            return False
        first = spare.beside.member
        near = _nearness(member, first)
        among = spare.only or self.members
        return not near or not any(_nearness(each, first) < near and self._is_of_use(each, spare) for each in among)

    def _is_of_use(self, member: Member, spare: _Waiter) -> bool:
        """Return whether an endpoint may answer a row before its first call does, which is out for some time already.

        The longer a call has been out, the longer it is likely to take from now on, if a few answers take very long.
        """
        now = self.now()
        if spare.beside is None or member in {spare.beside.member, spare.after} or not spare.is_for(member):
            return False
        if not member.is_available(now) or member.is_doubted:
            return False
        return member.latency_s <= max(_SLOW * self._fastest_s, now - spare.beside.left_at)

    def _witness_for(self, member: Member) -> _Waiter | None:
        """Return a row that has not failed; after failures of several the latest, because the next may be as bad."""
        in_order = reversed(self._waiting) if member.is_in_trouble else iter(self._waiting)
        return next((each for each in in_order if each.is_clean and each.is_for(member)), None)

    def _next_of(self, account: Account) -> Member:
        """Return the endpoint whose turn it is in an account: the least used of those that may serve the oldest row."""
        if len(account.members) == 1:
            return account.members[0]
        oldest = {member: self._oldest_for(member) or self._spare_for(member) for member in account.members}
        queue = itertools.chain(self._waiting, self._spares)
        first = next((waiter for waiter in queue if waiter in oldest.values()), None)
        return min((member for member in oldest if oldest[member] is first), key=_use)

    def _pop(self, member: Member) -> _Waiter | None:
        if waiter := self._oldest_for(member):
            self._waiting.remove(waiter)
        elif waiter := self._spare_for(member):
            self._spares.remove(waiter)
        return waiter

    def _can_take(self, member: Member) -> bool:
        return not self._closed and self._paused_at is None and member.can_take(self.now())

    def _others(self, member: Member, waiter: _Waiter | None = None) -> list[Member]:
        """Return the other endpoints that take calls, of those that may take a row, or else of its tier."""
        now = self.now()
        among = waiter.only if waiter and waiter.only else self._tiers.get(member.tier, self.members)
        return [each for each in among if each is not member and each.is_available(now)]

    def _is_worthwhile(self, member: Member, waiter: _Waiter | None = None) -> bool:
        """Return whether this endpoint answers a row before the others could answer all rows that are left."""
        if member.latency_s <= _SLOW * self._fastest_s:
            return True
        others = [other for other in self._others(member, waiter) if other.answers]
        soon_s = _SLOW * min((other.latency_s for other in others), default=math.inf)
        if member.latency_s <= soon_s:
            return True
        s_per_row = (self.now() - self._began) / sum(other.answers for other in others)
        return member.latency_s <= soon_s + self._rows_left() * s_per_row

    def _size(self, waiter: _Waiter, member: Member) -> float:
        """Return the model tokens that a call counts for: without an estimate, the average of the account's calls."""
        return member.account.tokens if waiter.tokens is None else waiter.tokens + self._estimator.answer()

    def _grant(self, waiter: _Waiter, member: Member) -> None:
        if not waiter.slot.done():
            tier = member.tiers.choose(self.now(), lambda name: waiter.lacked.get((member.source, name), 0))
            waiter.slot.set_result(member.reserve(self._size(waiter, member), tier))

    def _refuse(self, error: type[Exception]) -> None:
        while self._waiting or self._spares:
            waiter = (self._waiting or self._spares).popleft()
            if not waiter.slot.done():
                waiter.slot.set_exception(error())

    def _check_is_left(self, only: Sequence[Member]) -> None:
        """Raise if these endpoints have left the pool, and others have not.

        Raises:
            ModelGone: the message says why.
            PoolEmpty: they are a tier.
        """
        if all(each.out is not None for each in only) and any(each.out is None for each in self.members):
            if only in self._tiers.values():
                raise PoolEmpty
            raise ModelGone("; ".join(f"{each.label} has left the pool: {each.out}" for each in only))

    def _refuse_left_behind(self) -> None:
        """Refuse the rows whose model or tier no endpoint has any more; if it was a model, the others go on."""
        for only in {waiter.only for waiter in self._waiting if waiter.only}:
            try:
                self._check_is_left(only)
            except (ModelGone, PoolEmpty) as gone:
                for waiter in [each for each in self._waiting if each.only == only]:
                    self._waiting.remove(waiter)
                    if not waiter.slot.done():
                        waiter.slot.set_exception(type(gone)(*gone.args))

    # -- The pace

    def _pace_by_limits(self, account: Account) -> None:
        """Pace an account by its rate limits, which its server may have changed."""
        if self._limits.get(account) == account.limits:
            return
        self._limits[account] = account.limits
        self._counts_tokens = any(limits[2] for limits in self._limits.values())
        if old := self._pacers.pop(account, None):
            old.cancel()
        if account.limiter and any(account.limits):
            account.limiter.change(*account.limits)
        else:
            account.limiter = Limiter(*account.limits) if any(account.limits) else None
        account.concurrency.is_paced = account.limiter is not None
        self._unpaced = [member for member in self.members if not member.account.limiter]
        if account.limiter:
            self._pacers[account] = self._loop.create_task(self._pace(account, account.limiter))

    async def _pace(self, account: Account, limiter: Limiter) -> None:
        """Grant calls to an account's endpoints as its limiter admits them."""
        while True:
            await account.wanted.wait()
            if not account.wanted.is_set():
                continue  # another account took the row; no turn is spent on it
            await limiter.ready()
            # Meanwhile another account may have taken the row, or this one may be in a cooldown: then the turn is
            # lost rather than kept, because kept turns would leave as a burst later.
            member = self._next_of(account)
            if waiter := self._pop(member):
                await self._admit(waiter, member, limiter)
            self._dispatch()

    async def _admit(self, waiter: _Waiter, member: Member, limiter: Limiter) -> None:
        """Grant a call, whose turn it is, when its tokens fit; meanwhile other accounts serve the rows behind it."""
        fits = False
        try:
            while self._can_take(member) and not fits:
                wait = limiter.wait(self._size(waiter, member))
                fits = not wait
                if wait:
                    await asyncio.sleep(wait)
        finally:
            if fits:
                self._grant(waiter, member)
            else:
                (self._spares if waiter.beside else self._waiting).appendleft(waiter)
                self._dispatch()  # this task may have been cancelled

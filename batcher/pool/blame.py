"""Decides who is to blame for a failed attempt, the row or the endpoint, by what else the endpoint answers.

Invariant: nothing here waits, reads a clock or draws a random number, so that every case can be tested alone. A row is
evidence against one endpoint only, the first that refused it; so it never takes out a second one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from batcher.calls.fate import ACCESS_REFUSED, CONTENT_REFUSED, KEY_REFUSED, Fate, Meaning, meaning_of
from batcher.records import GAVE_UP, Failure, Fault
from batcher.words import counted, duration

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0

REFUSALS = 3
"""The refusals after which a row ends, if other rows were answered meanwhile."""

SEVERAL = 4
"""The different rows, refused one after the other, after which the endpoint rests: it may be the cause."""

LEAVES_S = 1800.0
"""The seconds without an answer after which an endpoint that refuses several rows leaves the pool."""

GIVES_UP_S = 6 * 3600.0
"""The seconds after which a rate limit that no wait has healed takes the endpoint out: it is a month's."""

RATE_LIMITS = 6
"""The refusals for a rate limit after which a row ends, if other rows were answered meanwhile."""

MOST_UNWITNESSED = 100
"""The last rows of a table that may end without another row that shows that their endpoint answers. More of them look
like an account that was closed."""

SAME_AT_ONCE, SAME_ROWS_AT_ONCE = 2, 3
"""The rows that must get the same refusal before an endpoint that has never answered leaves: 2, or 3 if the refusal is
more likely the rows' own."""

# A fresh endpoint that fails, rather than refuses, is given up after failures of this many rows.
_FIRST_ROWS = 3
# A row that met a full limit at each attempt had bad luck, unless the chance of that is below this: it is computed from
# the highest share of refusals meanwhile.
_BAD_LUCK = 1e-6
_LEAST_SHARE = 0.01
# The weight of the latest call in the share of refusals for a rate limit.
_WEIGHT = 1 / 32
# A row that is refused for a rate limit is tried for at least as long: shorter if others were answered beside it.
_NO_MINUTE_S, _NO_HOUR_S = 120.0, 600.0
# The rests after which the refusals are the rows' own, if no other row is left to ask: two or three minutes.
_LAST_RESTS = 8
# Ids of requests, which differ although the words are the same.
_ID = re.compile(r"[\w-]{12,}")
# The statuses of a service that is not up, or is overloaded; 529 is Anthropic's.
OVERLOADED = {503, 529}


@dataclass(frozen=True, slots=True)
class Policy:
    """The user's bounds: the most attempts for a row, its seconds in flight over all of them, and those to a start."""

    max_attempts: int = 6
    deadline: float = 1800.0
    wait_s: float = 600.0


def backoff(attempt: int, jitter: float) -> float:
    """Return the seconds to wait after the given attempt, counted from 1.

    Exponential with "equal jitter": half of the wait is fixed, half is drawn, so that rows that failed together do
    not return together (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """
    ceiling = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempt - 1, 16))
    return ceiling * (0.5 + 0.5 * jitter)


def has_left(failure: Failure) -> bool:
    """Return whether the request may have reached the server, so that the row can be the cause."""
    return failure.may_be_billed or failure.fault not in {Fault.CONNECTION, Fault.UNREACHABLE}


def is_not_up(failure: Failure) -> bool:
    """Return whether a service says, or shows, that it is not at work: at the start it may still be loading."""
    return not has_left(failure) or failure.status in OVERLOADED


class Trial:
    """The rows that were refused, and no call that left later was answered: nothing shows that they are the cause.

    Attributes:
        is_acquitted: the refusals are taken for the rows' own trouble.
    """

    def __init__(self) -> None:
        self.is_acquitted = False
        self._accusers: dict[int, tuple[str, Attempt]] = {}
        self._ended = 0

    @property
    def is_suspicious(self) -> bool:
        """Whether too many rows were refused for the rows to be the cause."""
        return len(self._accusers) >= SEVERAL and not self.is_acquitted

    @property
    def since(self) -> float:
        """The loop's time of the first of these refusals."""
        return min((attempt.now for _, attempt in self._accusers.values()), default=math.inf)

    def accuse(self, row: int, said: str, attempt: Attempt) -> None:
        """Record that a row was refused, for the first time."""
        self._accusers[row] = said, attempt

    def alike(self, said: str) -> int:
        """Return how many of them were told the same."""
        return sum(each == said for each, _ in self._accusers.values())

    def answered(self, left_at: float) -> bool:
        """Record an answer to a call that left then; return whether no accuser is left."""
        if self._accusers:
            left = {row: each for row, each in self._accusers.items() if each[1].left_at >= left_at}
            self._accusers = left
        if not self._accusers:
            self.is_acquitted = False
            self._ended = 0
        return not self._accusers

    def acquit(self) -> None:
        """Take the refusals for the rows' own trouble."""
        self.is_acquitted = self._ended < MOST_UNWITNESSED

    def end_unwitnessed(self) -> None:
        """Record that a row ends although no other row has shown that its endpoint answers."""
        self._ended += 1
        self.is_acquitted = self.is_acquitted and self._ended < MOST_UNWITNESSED


class LimitTime:
    """How long an account has answered no call because of a rate limit; all its keys have the same one."""

    def __init__(self) -> None:
        self._since: float | None = None

    def refused(self, now: float) -> float:
        """Record a refusal for a rate limit; return the seconds since the first one after the last answer."""
        if self._since is None:
            self._since = now
        return now - self._since

    def answered(self) -> None:
        """Record an answer at any of the keys."""
        self._since = None


class Standing:
    """What the answers and refusals of one endpoint say about it.

    Args:
        began: the loop's time at which it was opened.
        is_known: an earlier process got answers from it, by the journal.
        pool: the refusals at all endpoints of the pool; one that refuses is suspect if nothing is answered anywhere.
        limit_time: of its account; default: it shares its account with no other endpoint.

    Attributes:
        answers: its answers in this process.
        answered_left_at: the latest departure of a call that was answered.
        rests: how often it has rested since the last answer.
        limited_share: the share of calls that were refused for a rate limit, a moving average over rows that had not
            been refused before.
    """

    def __init__(
        self,
        began: float = 0.0,
        *,
        is_known: bool = False,
        pool: Trial | None = None,
        limit_time: LimitTime | None = None,
    ) -> None:
        self.began = began
        self.is_known = is_known
        self.answers = 0
        self.answered_left_at = -math.inf
        self.rests = 0
        self.limited_share = 0.0
        self.pool = pool or Trial()
        self._own = Trial()
        self._has_refused = False
        self._rested_at = -math.inf
        self._limit_time = limit_time or LimitTime()
        self._failed: set[int] = set()
        self._failures = 0
        # The last rows that ended by themselves since the last answer, all for one reason.
        self._alike = 0
        self._alike_reason = ""

    @property
    def is_fresh(self) -> bool:
        """Whether it has never answered."""
        return not self.answers and not self.is_known

    @property
    def is_suspect(self) -> bool:
        """Whether several different rows were refused one after the other, and none was answered."""
        is_suspicious = self._own.is_suspicious or (self._has_refused and self.pool.is_suspicious)
        return is_suspicious and not self.pool.is_acquitted

    @property
    def takes_one(self) -> bool:
        """Whether it takes one call at a time, until it answers."""
        return self.is_suspect or self.is_fresh

    def answered(self, left_at: float, *, is_clean: bool = True) -> None:
        """Record an answer.

        Args:
            left_at: the departure of its call.
            is_clean: the row had not failed before.
        """
        self.answers += 1
        self.answered_left_at = max(self.answered_left_at, left_at)
        self._limit_time.answered()
        if is_clean:
            self.limited_share -= _WEIGHT * self.limited_share
        self._alike = 0
        self.pool.answered(left_at)
        if self._own.answered(left_at):
            self.rests = 0
            self._has_refused = False

    def accuse(self, row: int, said: str, attempt: Attempt) -> None:
        """Record that a row was refused here, and nowhere before."""
        self._own.accuse(row, said, attempt)
        self.pool.accuse(row, said, attempt)

    def refuse(self) -> None:
        """Record any refusal."""
        self._has_refused = True

    def ended_alike(self, reason: str) -> int:
        """Record that a row ended for its own fault; return how many rows did so since the last answer."""
        self._alike = self._alike + 1 if reason == self._alike_reason else 1
        self._alike_reason = reason
        return self._alike

    def accused_alike(self, said: str) -> int:
        """Return how many different rows were refused here with the same words."""
        return self._own.alike(said)

    def accused_for_s(self, now: float) -> float:
        """Return the seconds since the first of the refusals for which it is suspect."""
        return now - (self._own.since if self._own.is_suspicious else min(self._own.since, self.pool.since))

    def rest(self, attempt: Attempt) -> bool:
        """Begin a rest, unless the call left before the present one began; return whether it begins."""
        if attempt.left_at <= self._rested_at:
            return False
        self._rested_at = attempt.now
        self.rests += 1
        return True

    def limited_for_s(self, now: float, *, is_clean: bool) -> float:
        """Record a refusal for a rate limit; return the seconds for which its account has answered none of its keys."""
        if is_clean:
            self.limited_share += _WEIGHT * (1 - self.limited_share)
        return self._limit_time.refused(now)

    def failed(self, row: int) -> tuple[int, int]:
        """Record a failure before the first answer; return how many there were, and of how many rows."""
        self._failed.add(row)
        self._failures += 1
        return self._failures, len(self._failed)


class _Mark(NamedTuple):
    """A refusal, or failure, of a row: at which endpoint, and when its call left."""

    standing: Standing
    left_at: float

    @property
    def is_witnessed(self) -> bool:
        """Whether a call that left later was answered there: then the endpoint was well, and the row is the cause."""
        return self.standing.answered_left_at > self.left_at


@dataclass(slots=True)
class History:
    """The attempts at one row.

    Attributes:
        row: its position in the input.
        attempts: attempts used up.
        in_flight_s: seconds in flight over all attempts.
        failures: failed attempts of any kind, used up or not.
        refusals: those of them that may be the row's or the endpoint's fault.
        limits: those of them that were refused for a rate limit.
        is_over: nothing has helped it for long, and no other row can show more: its failures are its own.
    """

    row: int = 0
    attempts: int = 0
    in_flight_s: float = 0.0
    failures: int = 0
    refusals: int = 0
    limits: int = 0
    is_over: bool = False
    _refused: tuple[_Mark, ...] = ()
    _limited: tuple[_Mark, ...] = ()
    _limited_at: float = math.inf
    _share: float = _LEAST_SHARE
    _last: _Mark | None = None
    _is_odd: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether no attempt has failed."""
        return not self.failures

    @property
    def is_odd(self) -> bool:
        """Whether an attempt failed while another row was answered there: its failures say nothing of the endpoint."""
        self._is_odd = self._is_odd or self.is_over or (self._last is not None and self._last.is_witnessed)
        return self._is_odd

    def mark(self, standing: Standing, left_at: float) -> _Mark:
        """Record any failed attempt."""
        self._is_odd = self.is_odd
        self._last = _Mark(standing, left_at)
        self.failures += 1
        return self._last

    def spend(self, seconds: float, *, counts: bool) -> None:
        """Use up an attempt; or give all of them back, if the endpoint answers no row."""
        self.in_flight_s += seconds
        self.attempts = self.attempts + 1 if counts else 0

    def refuse(self, mark: _Mark) -> None:
        """Record a refusal."""
        self.refusals += 1
        self._refused = (*self._refused[1 - REFUSALS :], mark)

    @property
    def is_refused_alone(self) -> bool:
        """Whether it was refused often enough, while other rows were answered."""
        return self.refusals >= REFUSALS and sum(each.is_witnessed for each in self._refused) >= REFUSALS - 1

    def limit(self, mark: _Mark, now: float) -> None:
        """Record a refusal for a rate limit."""
        self.limits += 1
        self._limited_at = min(self._limited_at, now)
        self._share = max(self._share, mark.standing.limited_share)
        self._limited = (*self._limited[1 - RATE_LIMITS :], mark)

    def is_limited_alone(self, now: float, *, is_last: bool) -> bool:
        """Return whether it is refused for a rate limit that leaves room for other rows.

        Args:
            now: the loop's time.
            is_last: no other row can show it; then a limit of a minute must have had time to end.
        """
        if self.limits < RATE_LIMITS or self._share**self.limits > _BAD_LUCK:
            return False
        if now - self._limited_at < (_NO_MINUTE_S if self.is_odd else _NO_HOUR_S):
            return False
        return is_last or sum(each.is_witnessed for each in self._limited) >= RATE_LIMITS - 1


class Attempt(NamedTuple):
    """When a failed call left and ended, by the loop's time."""

    left_at: float
    now: float


class Scene(NamedTuple):
    """What else there is to ask.

    Attributes:
        is_last: every row that can be asked has failed before, so that none can bear witness.
        troubled: the rows that have failed and have no result.
        left: the rows without a result that have not been asked.
        is_shared: several rows share the request, so that each half of them can bear witness.
    """

    is_last: bool = False
    troubled: int = 1
    left: int = 0
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from a failed attempt.

    Attributes:
        reason: the text for the row's error, or for the endpoint's leaving.
        short: the same without the server's message.
        row_ends: the row ends as `error`; else it is tried again.
        wait_s: seconds that the row waits before it queues again.
        rest_s: the most seconds for which the endpoint takes no call; 0: it works on.
        out: why the endpoint leaves the pool, or None.
    """

    reason: str
    short: str
    row_ends: bool = False
    wait_s: float = 0.0
    rest_s: float = 0.0
    out: str | None = None

    @property
    def rests(self) -> bool:
        """Whether the endpoint takes no call for a while."""
        return self.rest_s > 0


# transformers' server says this of an unknown model, LiteLLM's proxy if no key is sent.
_UNTOLD = 500
_MAY_BE = "some servers say no more if the model is unknown or a key is missing"


@dataclass(frozen=True, slots=True)
class Case:
    """A failed attempt, with all that is known of it.

    Attributes:
        failure: how the attempt failed.
        history: the attempts at its row.
        standing: of its endpoint.
        attempt: when its call left and ended.
        scene: what else there is to ask.
        policy: the user's bounds.
        jitter: a number drawn evenly from [0, 1).
        is_silent: the endpoint answers no row at present, so that the row's attempts are not used up.
    """

    failure: Failure
    history: History
    standing: Standing
    attempt: Attempt
    scene: Scene = field(default_factory=Scene)
    policy: Policy = field(default_factory=Policy)
    jitter: float = 0.5
    is_silent: bool = False


def judge(case: Case, seconds: float = 0.0) -> Decision:
    """Record a failed attempt in the row's history and the endpoint's standing, and decide what follows.

    Args:
        case: the attempt.
        seconds: how long it was in flight.
    """
    meaning = meaning_of(case.failure)
    reason = f"{meaning.reason}: {case.failure}"
    said = Decision(reason, meaning.reason)
    mark = case.history.mark(case.standing, case.attempt.left_at)
    if meaning.fate is Fate.ROW_ENDS and _is_beyond_doubt(case, meaning):
        return Decision(reason, meaning.reason, row_ends=True)
    if case.failure.fault is Fault.UNREACHABLE and not case.standing.answers:
        return _leaves(said, reason)
    # At an endpoint that has answered, a host that cannot be reached is an outage on the way there.
    if meaning.fate is Fate.AGAIN or case.failure.fault is Fault.UNREACHABLE:
        return _after_failure(case, said, seconds)
    if meaning.fate is Fate.WAIT:
        return _after_limit(case, said, mark)
    fate = Fate.ROW_REFUSED if meaning.fate is Fate.ROW_ENDS else meaning.fate
    return _after_refusal(case, said, meaning._replace(fate=fate), mark)


def _is_beyond_doubt(case: Case, meaning: Meaning) -> bool:
    """Return whether a row ends at once for its own fault.

    At an endpoint that has never answered the settings may be the cause, and the account if several rows in a row, and
    nothing else, end for the same reason. A response that is too long was paid for: it is never asked for again. It
    shows that key and model are right, as does a filter, which has read the row.
    """
    standing, is_answer = case.standing, case.failure.fault is Fault.TOO_LONG
    standing.is_known = standing.is_known or is_answer or meaning.reason == CONTENT_REFUSED
    if is_answer:
        return True
    return not standing.is_fresh and standing.ended_alike(meaning.reason) < SEVERAL


def _is_untold(failure: Failure) -> bool:
    """Return whether a server fails without a word of the reason."""
    return failure.status == _UNTOLD and failure.is_page


def _leaves(said: Decision, why: str) -> Decision:
    return Decision(said.reason, said.short, out=why)


def _ends(said: Decision, used: str) -> Decision:
    return Decision(f"{said.reason.removesuffix('.')}{GAVE_UP}{used}", said.short, row_ends=True)


def _after_failure(case: Case, said: Decision, seconds: float) -> Decision:
    """Decide after the server's own fault, which uses up an attempt of the row."""
    history, policy, standing = case.history, case.policy, case.standing
    history.spend(seconds, counts=not case.is_silent)
    wait_s = max(backoff(max(history.attempts, 1), case.jitter), min(case.failure.retry_after or 0.0, LONGEST_WAIT_S))
    waits = Decision(said.reason, said.short, wait_s=wait_s)
    if is_not_up(case.failure) and not standing.answers:
        waited_s = case.attempt.now - standing.began
        if waited_s >= policy.wait_s:
            return _leaves(said, f"{said.reason.removesuffix('.')}; it was not up after {duration(waited_s)}")
        left_s = policy.wait_s - waited_s
        return Decision(said.reason, said.short, wait_s=min(wait_s, left_s), rest_s=left_s)
    if standing.is_fresh:
        return _before_any_answer(case, said, wait_s)
    if history.attempts >= policy.max_attempts or history.in_flight_s >= policy.deadline:
        came = case.failure.partial
        had_come = f"; {came.characters:,} characters of the last answer had come" if came else ""
        return _ends(said, f"{counted(history.attempts, 'attempt')}, {history.in_flight_s:.0f} s in flight{had_come}")
    return waits


def _before_any_answer(case: Case, said: Decision, wait_s: float) -> Decision:
    """Decide after a failure of an endpoint that has never answered: mostly it is at fault, and not the row."""
    history, policy = case.history, case.policy
    if _is_untold(case.failure):
        said = replace(said, reason=f"{said.reason.removesuffix('.')} ({_MAY_BE})")
    failures, rows = case.standing.failed(history.row)
    is_late = history.in_flight_s >= policy.deadline
    has_halves = case.scene.is_shared and not is_late
    is_last = case.scene.is_last and not has_halves
    enough = failures >= (policy.max_attempts if is_last else max(policy.max_attempts, _FIRST_ROWS))
    if (enough or is_late) and (is_last or rows >= _FIRST_ROWS):
        return _leaves(said, f"{said.reason.removesuffix('.')}{GAVE_UP}{counted(failures, 'attempt')}")
    if has_halves and history.attempts >= min(policy.max_attempts, _FIRST_ROWS):
        return _ends(said, counted(history.attempts, "attempt"))
    return Decision(said.reason, said.short, wait_s=wait_s, rest_s=math.inf)


def _after_limit(case: Case, said: Decision, mark: _Mark) -> Decision:
    """Decide after a refusal for a rate limit, which uses up no attempt."""
    history, standing, now = case.history, case.standing, case.attempt.now
    asked_s = case.failure.retry_after or 0.0
    limited_s = standing.limited_for_s(now, is_clean=not history.limits)
    if limited_s >= GIVES_UP_S:
        return _leaves(said, f"{said.reason.removesuffix('.')}; no wait has healed it for {duration(limited_s)}")
    history.limit(mark, now)
    is_last = case.scene.is_last and case.scene.troubled < SEVERAL
    if not standing.is_fresh and history.is_limited_alone(now, is_last=is_last):
        others = ", while other rows were answered" if history.is_odd else ""
        return _ends(said, f"{counted(history.limits, 'refusal')}{others}")
    if history.limits == 1:
        return said  # its endpoint waits as long as it is asked to
    wait_s = max(backoff(history.limits - 1, case.jitter), min(asked_s, LONGEST_WAIT_S))
    return Decision(said.reason, said.short, wait_s=wait_s)


def _after_refusal(case: Case, said: Decision, meaning: Meaning, mark: _Mark) -> Decision:
    """Decide after a refusal that may be the row's or the endpoint's."""
    history, standing, scene = case.history, case.standing, case.scene
    text = _without_ids(case.failure) if meaning.fate is Fate.ROW_REFUSED else meaning.reason
    history.refuse(mark)
    standing.refuse()
    if history.refusals == 1:
        standing.accuse(history.row, text, case.attempt)
    if why := _why_it_leaves(case, said, meaning, standing.accused_alike(text)):
        return _leaves(said, why)
    rests = standing.is_suspect and standing.rest(case.attempt)
    if standing.is_suspect and scene.is_last and _are_the_rows_own(case, meaning):
        standing.pool.acquit()
    if history.is_refused_alone:
        return _ends(said, counted(history.refusals, "refusal"))
    is_own = scene.troubled < SEVERAL or standing.pool.is_acquitted or history.is_odd
    if scene.is_last and not standing.is_suspect and is_own and history.refusals >= REFUSALS:
        standing.pool.end_unwitnessed()
        return _ends(said, counted(history.refusals, "refusal"))
    wait_s = backoff(history.refusals, case.jitter)
    return Decision(said.reason, said.short, wait_s=wait_s, rest_s=math.inf if rests else 0.0)


def _are_the_rows_own(case: Case, meaning: Meaning) -> bool:
    """Return whether the last rows of a table have shown long enough that nothing helps them.

    No other row can show whether the endpoint answers. It is asked again for some minutes if the refusal is rather the
    rows' own, or if it is a handful of rows; for half an hour if it is an access that is refused, or if there are rows
    between those that were tried. If more rows are left than may end without a witness, the endpoint is at fault.
    """
    standing, scene = case.standing, case.scene
    if scene.troubled + scene.left > MOST_UNWITNESSED:
        return False
    is_lasting = standing.accused_for_s(case.attempt.now) >= LEAVES_S
    if meaning.fate is Fate.ROW_REFUSED or scene.troubled < SEVERAL:
        return is_lasting or (not scene.left and standing.rests >= _LAST_RESTS)
    return is_lasting and meaning.reason == ACCESS_REFUSED and not standing.is_fresh


def _why_it_leaves(case: Case, said: Decision, meaning: Meaning, alike: int) -> str:
    """Return why an endpoint leaves the pool after a refusal, or "" if it stays.

    Args:
        case: the refusal.
        said: its reason.
        meaning: of the refusal.
        alike: the different rows that were refused in the same words.
    """
    standing, is_last = case.standing, case.scene.is_last
    is_rows_own = meaning.fate is Fate.ROW_REFUSED
    if standing.is_fresh:
        # A table of a few rows, all of which are refused, is finished.
        is_enough = not is_last and alike >= SAME_ROWS_AT_ONCE if is_rows_own else is_last or alike >= SAME_AT_ONCE
    elif not standing.answers and meaning.reason == KEY_REFUSED:
        is_enough = alike >= SEVERAL  # the key may be another one than that of the earlier process
    else:
        is_sure = meaning.fate is Fate.ENDPOINT_OUT
        is_enough = is_sure and (alike >= SAME_AT_ONCE or (is_last and case.history.refusals >= REFUSALS))
    reason = said.reason.removesuffix(".")
    if is_enough:
        return f"{reason} ({alike} different rows were told so)" if alike > 1 else said.reason
    lasted_s = standing.accused_for_s(case.attempt.now)
    if standing.is_suspect and lasted_s >= LEAVES_S and not (is_last and _are_the_rows_own(case, meaning)):
        return f"{reason}; no row was answered for {duration(lasted_s)}"
    return ""


def _without_ids(failure: Failure) -> str:
    """Return what a failure says, without the ids of requests."""
    return _ID.sub(lambda found: "#" if any(map(str.isdigit, found[0])) else found[0], str(failure))

"""Decides what follows from a failed attempt: one pure function over one table.

Invariant: nothing here waits, draws a random number or remembers anything, so that every case can be tested alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import NamedTuple

from batcher.records import GAVE_UP, Failure, Fault
from batcher.words import counted

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0


class Fate(Enum):
    """The three fates of a failed attempt."""

    AGAIN = auto()
    ROW_ENDS = auto()
    ENDPOINT_OUT = auto()


@dataclass(frozen=True, slots=True)
class Policy:
    """The most attempts for a row, and the most seconds in flight over all of them."""

    max_attempts: int = 6
    deadline: float = 1800.0


@dataclass(frozen=True, slots=True)
class Record:
    """The attempts spent on a row, the failed one included.

    Attributes:
        attempts: attempts used up.
        in_flight_s: seconds in flight over all attempts.
    """

    attempts: int = 0
    in_flight_s: float = 0.0

    def after(self, failure: Failure, seconds: float, *, is_silent: bool = False) -> Record:
        """Return the record with one more failed attempt; an attempt refused for a rate limit uses up nothing.

        Args:
            failure: how it failed.
            seconds: how long it was in flight.
            is_silent: its endpoint answers no row at all, so that the row's attempts do not count against it.
        """
        if is_rate_limit(failure):
            return self
        if is_silent:
            return replace(self, attempts=0, in_flight_s=self.in_flight_s + seconds)
        return replace(self, attempts=self.attempts + 1, in_flight_s=self.in_flight_s + seconds)


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision after a failed attempt.

    Attributes:
        fate: which of the three.
        reason: the text for the row's error, or for the endpoint's removal.
        short: the same without the server's message.
        gave_up: the row ends though it could be tried again: its attempts or its time are used up.
        wait_s: seconds that the row waits before it queues again; after a rate limit its endpoint waits, not the row.
    """

    fate: Fate
    reason: str
    short: str
    gave_up: bool = False
    wait_s: float = 0.0


class _Rule(NamedTuple):
    applies: Callable[[Failure], bool]
    fate: Fate
    reason: str


# Phrases that mean an empty account.
_EMPTY = (
    "exceeded_current_quota",  # Moonshot
    "insufficient balance",
    "insufficient_balance",
    "balance is insufficient",  # SiliconFlow
    "insufficient_user_quota",  # one-api and its relatives
    "arrear",  # DashScope: the code Arrearage; Zhipu: "is in arrears"
    "欠费",
    "余额不足",
    "billing_hard_limit",
    "billing hard limit",
    "billoverdue",  # DashScope: PrepaidBillOverdue, PostpaidBillOverdue
    "commoditynotpurchased",
    "freetieronly",
    "free allocated quota exceeded",
    "limit: 0,",  # Gemini, of a model that the account may not use at all
)
# OpenAI's words for an empty account, which DashScope and Gemini also use for a limit per minute.
_QUOTA = ("insufficient_quota", "exceeded your current quota")
# Marks of a limit per minute: a code, a link into DashScope's manual, a time to try again.
_THROTTLED = (
    "throttling",
    "error-code#token-limit",
    "error-code#rate-limit",
    "resource_exhausted",
    "retry in ",
    "retry after ",
    "again in ",
    "again after ",
)
_TOO_LARGE = ("request too large",)
_NO_MODEL = (
    "model_not_found",
    "model not exist",
    "model_not_exist",
    "model does not exist",  # Zhipu, as the next two
    "unknown model",
    "does not exist or you do not have access",
    "模型不存在",
)
_MODERATED = ("flagged", "moderation", "content_filter", "content_policy")
_REDIRECT, _CLIENT_FAULT, _SERVER_FAULT = 300, 400, 500


def _says(failure: Failure, phrases: tuple[str, ...]) -> bool:
    said = f"{failure.code or ''} {failure.message}".lower()
    return any(phrase in said for phrase in phrases)


def _is_out_of_quota(failure: Failure) -> bool:
    if failure.status == 402:
        return True
    if failure.status not in {400, 403, 429}:
        return False
    is_throttled = failure.status == 429 and _says(failure, _THROTTLED)
    return _says(failure, _EMPTY) or (_says(failure, _QUOTA) and not is_throttled)


def _is_too_large(failure: Failure) -> bool:
    """Return whether one request is larger than a minute's limit, and so would always be refused."""
    return failure.status == 429 and _says(failure, _TOO_LARGE)


def is_rate_limit(failure: Failure) -> bool:
    """Return whether an attempt was refused for a rate limit, which does not use up the row's attempts."""
    return failure.status == 429 and not _is_out_of_quota(failure) and not _is_too_large(failure)


# The first rule that applies decides. The status comes first; the body only decides cases that the status leaves open.
_RULES = (
    _Rule(_is_out_of_quota, Fate.ENDPOINT_OUT, "no quota is left"),
    _Rule(_is_too_large, Fate.ROW_ENDS, "the request is larger than the limit of a minute"),
    _Rule(is_rate_limit, Fate.AGAIN, "rate limited"),
    _Rule(lambda f: f.status == 400 and _says(f, _NO_MODEL), Fate.ENDPOINT_OUT, "the model is unknown there"),
    _Rule(lambda f: f.status == 401, Fate.ENDPOINT_OUT, "the API key was refused"),
    _Rule(lambda f: f.status == 403 and _says(f, _MODERATED), Fate.ROW_ENDS, "the content was refused"),
    _Rule(lambda f: f.status in {403, 407}, Fate.ENDPOINT_OUT, "access was refused"),
    _Rule(
        lambda f: f.status in {404, 410},
        Fate.ENDPOINT_OUT,
        "the model or the base URL is unknown there (does it lack /v1?)",
    ),
    _Rule(lambda f: f.status == 405, Fate.ENDPOINT_OUT, "the base URL takes no chat requests"),
    _Rule(lambda f: f.status in {408, 409, 425}, Fate.AGAIN, "the server asked to try again"),
    _Rule(lambda f: (f.status or 0) >= _SERVER_FAULT, Fate.AGAIN, "the server failed"),
    _Rule(lambda f: (f.status or 0) >= _CLIENT_FAULT, Fate.ROW_ENDS, "the request was refused"),
    _Rule(lambda f: (f.status or 0) >= _REDIRECT, Fate.ENDPOINT_OUT, "the base URL leads elsewhere"),
    _Rule(lambda f: f.fault is Fault.TIMEOUT, Fate.AGAIN, "no answer in time"),
    _Rule(lambda f: f.fault is Fault.UNREACHABLE, Fate.ENDPOINT_OUT, "the service cannot be reached"),
    _Rule(lambda f: f.fault is Fault.CONNECTION, Fate.AGAIN, "the connection failed"),
    _Rule(lambda f: f.fault is Fault.PROTOCOL, Fate.AGAIN, "the answer was no chat completion"),
    _Rule(lambda f: f.fault is Fault.MIXED_UP, Fate.AGAIN, "the response belongs to another request"),
    _Rule(lambda f: f.fault is Fault.TOO_LONG, Fate.ROW_ENDS, "the response is too long"),
    _Rule(lambda _: True, Fate.ROW_ENDS, "the call failed"),
)


def decide(failure: Failure, record: Record, policy: Policy, jitter: float) -> Decision:
    """Return the fate of a row whose attempt has just failed.

    Args:
        failure: how the attempt failed.
        record: the attempts spent on the row, this one included.
        policy: the limits of attempts and seconds.
        jitter: a number drawn evenly from [0, 1).
    """
    rule = next(rule for rule in _RULES if rule.applies(failure))
    reason = f"{rule.reason}: {failure}"
    if rule.fate is not Fate.AGAIN:
        return Decision(rule.fate, reason, rule.reason)
    if is_rate_limit(failure):
        return Decision(Fate.AGAIN, reason, rule.reason)
    if record.attempts >= policy.max_attempts or record.in_flight_s >= policy.deadline:
        used = f"{counted(record.attempts, 'attempt')}, {record.in_flight_s:.0f} s in flight"
        return Decision(Fate.ROW_ENDS, f"{reason.removesuffix('.')}{GAVE_UP}{used}", rule.reason, gave_up=True)
    wait = max(backoff(record.attempts, jitter), failure.retry_after or 0.0)
    return Decision(Fate.AGAIN, reason, rule.reason, wait_s=wait)


def backoff(attempt: int, jitter: float) -> float:
    """Return the seconds to wait after the given attempt, counted from 1.

    Exponential with "equal jitter": half of the wait is fixed, half is drawn, so that rows that failed together do
    not return together (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """
    ceiling = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(attempt - 1, 16))
    return ceiling * (0.5 + 0.5 * jitter)

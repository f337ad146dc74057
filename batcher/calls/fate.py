"""What a failure says by itself: one pure function over one table.

Invariant: the status of a response decides first, then the codes of its error object, then a few words of its message,
never words that may be the row's own. What follows for the row and for the endpoint is decided by evidence (`blame`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from batcher.calls.embeddings import NOT_ONE_EACH, UNUSABLE
from batcher.calls.services import AGAIN, CLOSED, EMPTY, FILTERED, FULL, KEY, MODEL, THROTTLE, TOO_LONG, says
from batcher.records import Failure, Fault


class Fate(Enum):
    """The fates of a failed attempt, as far as the failure alone tells.

    `AGAIN` is the server's passing fault, and uses up an attempt; `WAIT` is a rate limit, and uses up none. `ROW_ENDS`
    says that the row's own content is the reason. `ROW_REFUSED` and `ENDPOINT_REFUSES` are a refusal that may be the
    row's or the endpoint's, with the more likely one in its name. `ENDPOINT_OUT` is certain: no wait heals it.
    """

    AGAIN = auto()
    WAIT = auto()
    ROW_ENDS = auto()
    ROW_REFUSED = auto()
    ENDPOINT_REFUSES = auto()
    ENDPOINT_OUT = auto()


class Meaning(NamedTuple):
    """The fate of a failed attempt, and the reason in a few words."""

    fate: Fate
    reason: str


class _Rule(NamedTuple):
    applies: Callable[[Failure], bool]
    fate: Fate
    reason: str


KEY_REFUSED, ACCESS_REFUSED = "the API key was refused", "access was refused"
CONTENT_REFUSED = "the content was refused"

NO_CAPACITY, TIER_REFUSED = "the service tier has no capacity", "the service tier was refused"

# The statuses of a tier without capacity: OpenAI's, Groq's, Google's.
_GROQS = 498
_FULL = {429, _GROQS, 503, 529}
_ORDINARY, _CHEAP = {"", "default", "standard", "on_demand"}, "flex"
# Words for a service that sheds load. It sheds its cheap tiers first, so that they say nothing of its other tiers.
_SHEDS = ("overloaded", "high demand", "unavailable")
_COMMON = {"auto", "default", "standard"}
_OF_TIER = re.compile(r"service[_ -]?tier")
_REFUSES = {400, 403, 404, 422}
_NOT_HAD = ("not support", "unsupported", "not available", "unavailable", "not enabled", "not allowed", "invalid")

# A wait of more seconds than that is no limit, but a refusal.
_NO_LIMIT_S = 8 * 86400.0
_REDIRECT, _CLIENT_FAULT, _SERVER_FAULT = 300, 400, 500
# Statuses whose words are searched. 422, 412 and 405 come from validators and gateways that have no other status.
_WORDY = {400, 402, 403, 405, 406, 409, 412, 422, 424, 429, 451, 498}
# The server, or a proxy, gave up: 424 is TGI's, 498 Groq's, 499 nginx's and Ollama's.
_PASSING = {408, 409, 424, 425, 498, 499}
# one-api, new-api and their relatives mark what they pass on from one of their channels, and then use another one.
_RELAYED = "(request id: "
# Words for an empty account that DashScope, Gemini and relays also use for a limit that passes.
_QUOTA = ("insufficient_quota", "exceeded your current quota")
# Signs of a limit that passes, beside those words.
_PASSING_WORDS = ("retry in ", "retry after ", "again in ", "again after ")


def _has_words(failure: Failure) -> bool:
    """Return whether the error object may be searched: under a 2xx only the error object tells anything."""
    return not failure.is_page and (failure.status is None or failure.status in _WORDY)


def _said(group: str, *statuses: int) -> Callable[[Failure], bool]:
    """Return a test whether the error object says one of a group's words, under any status or one of these."""

    def applies(failure: Failure) -> bool:
        return _has_words(failure) and (not statuses or failure.status in statuses) and says(failure, group)

    return applies


def _is(*statuses: int) -> Callable[[Failure], bool]:
    return lambda failure: failure.status in statuses


def _kind(fault: Fault) -> Callable[[Failure], bool]:
    return lambda failure: failure.status is None and failure.fault is fault


def _is_page(*statuses: int) -> Callable[[Failure], bool]:
    return lambda failure: failure.is_page and failure.status in statuses


def _is_closed(failure: Failure) -> bool:
    return _has_words(failure) and says(failure, CLOSED) and _RELAYED not in failure.message


def _is_empty(failure: Failure) -> bool:
    if not _has_words(failure):
        return False
    if failure.status == 429 and _contains(failure, _QUOTA) and _passes(failure):
        return False
    return _contains(failure, _QUOTA) or says(failure, EMPTY) or says(failure, CLOSED)


def _passes(failure: Failure) -> bool:
    return failure.retry_after is not None or _contains(failure, _PASSING_WORDS) or says(failure, THROTTLE)


def _contains(failure: Failure, phrases: tuple[str, ...]) -> bool:
    said = failure.said
    return any(phrase in said for phrase in phrases)


def _is_passing_limit(failure: Failure) -> bool:
    """Return whether a gateway says with a 403 when a limit is over, or a 2xx holds a refusal for a rate limit."""
    if failure.status == 403:
        return not failure.is_page and (failure.retry_after is not None or says(failure, THROTTLE))
    return failure.status is None and failure.fault is Fault.PROTOCOL and says(failure, THROTTLE)


def _never_again(failure: Failure) -> bool:
    return failure.is_final and (failure.status in _PASSING or (failure.status or 0) >= _SERVER_FAULT)


def _is_no_limit(failure: Failure) -> bool:
    return failure.status in {403, 429} and (failure.retry_after or 0.0) > _NO_LIMIT_S


# The first rule that applies decides.
_RULES = (
    _Rule(_kind(Fault.UNREACHABLE), Fate.ENDPOINT_OUT, "the service cannot be reached"),
    _Rule(_kind(Fault.TIMEOUT), Fate.AGAIN, "no answer in time"),
    _Rule(_kind(Fault.CONNECTION), Fate.AGAIN, "the connection failed"),
    _Rule(_kind(Fault.MIXED_UP), Fate.AGAIN, "the response belongs to another request"),
    _Rule(_kind(Fault.TOO_LONG), Fate.ROW_ENDS, "the response is too long"),
    _Rule(_kind(Fault.OTHER), Fate.ROW_ENDS, "the call failed"),
    _Rule(_never_again, Fate.ROW_REFUSED, "the server failed, and asks not to try again"),
    _Rule(lambda f: (f.status or 0) >= _SERVER_FAULT, Fate.AGAIN, "the server failed"),
    _Rule(_said(TOO_LONG), Fate.ROW_ENDS, "the request is too long"),
    _Rule(_said(FILTERED), Fate.ROW_ENDS, CONTENT_REFUSED),
    _Rule(_is_closed, Fate.ENDPOINT_OUT, "the account is closed or empty"),
    _Rule(_is_empty, Fate.ENDPOINT_REFUSES, "no quota is left"),
    _Rule(_is(402), Fate.ENDPOINT_REFUSES, "no quota is left"),
    _Rule(_said(KEY, 400, 403, 422), Fate.ENDPOINT_REFUSES, KEY_REFUSED),
    _Rule(lambda f: f.status is None and says(f, KEY), Fate.ENDPOINT_REFUSES, KEY_REFUSED),
    _Rule(_said(MODEL, 400, 403, 404, 410, 422), Fate.ENDPOINT_REFUSES, "the model is unknown there"),
    _Rule(_is_no_limit, Fate.ENDPOINT_REFUSES, "no call is admitted for days"),
    _Rule(_is_passing_limit, Fate.WAIT, "rate limited"),
    _Rule(_is(429), Fate.WAIT, "rate limited"),
    _Rule(_said(AGAIN), Fate.AGAIN, "the server asked to try again"),
    _Rule(_is(*_PASSING), Fate.AGAIN, "the server asked to try again"),
    _Rule(lambda f: f.code in {UNUSABLE, NOT_ONE_EACH}, Fate.AGAIN, "the embeddings cannot be used"),
    _Rule(_kind(Fault.PROTOCOL), Fate.AGAIN, "the answer was no chat completion"),
    _Rule(_is(413, 414, 431), Fate.ROW_ENDS, "the request is too long"),
    # A page is a firewall's or a gateway's, which reads what the row says, and never the API's verdict.
    _Rule(_is_page(400, 403, 405, 406, 412, 422), Fate.ROW_REFUSED, "the request was refused, not in the API's words"),
    _Rule(_is(401), Fate.ENDPOINT_REFUSES, KEY_REFUSED),
    _Rule(_is(403), Fate.ENDPOINT_REFUSES, ACCESS_REFUSED),
    _Rule(_is(407), Fate.ENDPOINT_REFUSES, "the proxy wants a user and a password"),
    _Rule(
        _is(404, 410),
        Fate.ENDPOINT_REFUSES,
        "the model or the base URL is unknown there (does it lack /v1?)",
    ),
    _Rule(_is(405), Fate.ENDPOINT_REFUSES, "the base URL takes no chat requests"),
    _Rule(lambda f: (f.status or 0) >= _CLIENT_FAULT, Fate.ROW_REFUSED, "the request was refused"),
    _Rule(lambda f: (f.status or 0) >= _REDIRECT, Fate.ENDPOINT_REFUSES, "the base URL leads elsewhere"),
    _Rule(lambda _: True, Fate.ROW_ENDS, "the call failed"),
)


def meaning_of(failure: Failure) -> Meaning:
    """Return what a failure says by itself."""
    rule = next(rule for rule in _RULES if rule.applies(failure))
    return Meaning(rule.fate, rule.reason)


def is_rate_limit(failure: Failure) -> bool:
    """Return whether an attempt was refused for a rate limit, which does not use up the row's attempts."""
    return meaning_of(failure).fate is Fate.WAIT


def lacks_capacity(failure: Failure, tier: str) -> bool:
    """Return whether a service refuses a request only because the tier that it asks for has no capacity at present.

    Args:
        failure: the refusal.
        tier: that the request asks for. In the ordinary one the same words are about the service.
    """
    if tier in _ORDINARY or failure.status not in _FULL:
        return False
    if failure.status == _GROQS or (not failure.is_page and says(failure, FULL)):
        return True
    return tier == _CHEAP and failure.status == 503 and not failure.is_page and _contains(failure, _SHEDS)


def refuses_tier(failure: Failure, tier: str) -> bool:
    """Return whether a service refuses a request because it does not have the tier, for this model or this account.

    Args:
        failure: the refusal.
        tier: the one that the request asks for.
    """
    if not tier or failure.status not in _REFUSES or failure.is_page:
        return False
    if _OF_TIER.search(failure.said) is not None:
        return True
    # Other refusals have words such as "default" as well: "temperature does not support 0, only the default (1)".
    is_named = tier.lower() not in _COMMON and re.search(rf"\b{re.escape(tier.lower())}\b", failure.said) is not None
    return is_named and any(map(failure.said.count, _NOT_HAD))

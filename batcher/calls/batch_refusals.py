"""Decides what a refused batch means: the queue is full, the file is too large, or the batch can never work.

Invariant: the status decides first, then codes, then few words. What is not known is none of the three: a wait heals
it, or the engine gives up after several. At most one of the three applies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

from batcher.calls.batch_service import BatchError, Remote, RemoteState
from batcher.calls.error_bodies import unquoted
from batcher.calls.fate import KEY_REFUSED, Fate, meaning_of
from batcher.calls.services import CLOSED, EMPTY, KEY, MODEL, says
from batcher.records import Failure, Fault

# Codes of batches that wait for others to end. OpenAI and Azure say the first.
_FULL_CODES = {
    "token_limit_exceeded",
    "enqueued_token_limit_exceeded",
    "batch_enqueued_token_limit",
    "queue_full",
    "too_many_batches",
    "batch_limit_exceeded",
    "concurrent_batch_limit",
    "resource_exhausted",
}
_FULL = re.compile(
    r"enqueued|\bqueue (?:is )?(?:full|limit)|in the queue|too many (?:\w+ )?(?:batch(?:es)?|jobs)\b"
    r"|(?:concurrent|active|running|pending|parallel) (?:batch|job|task)|\bbatch rate limit"
    r"|排队|队列|并行任务|任务数"
)
# The limit of a queue, in the words of OpenAI ("Limit: 2,000,000 enqueued tokens") and of Azure ("enqueued tokens has
# surpassed the configured limit of 30K").
_QUEUE = re.compile(
    r"\blimit(?: is|:)? (?P<most>[\d,]+)(?P<unit>[km]?) (?:enqueued |prompt |queued )?(?P<of>tokens|requests)\b"
    r"|\benqueued (?P<of2>tokens|requests)\b.{0,60}\blimit(?: of| is|:)? (?P<most2>[\d,]+)(?P<unit2>[km]?)\b"
)
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000}
# Codes of files that are too large. Azure says the first for too many lines.
_LARGE_CODES = {"too_many_tasks", "file_too_large", "batch_too_large", "max_file_size_exceeded", "file_size_exceeded"}
_LARGE = re.compile(
    r"too (?:large|big)|too many (?:requests|lines|rows|tasks|records) in"
    r"|(?:file|batch|input|size|lines?|requests|rows|records|inputs)\b.{0,60}\bexceed"
    r"|exceed\w*.{0,60}\b(?:file size|size|lines|requests per|requests in|rows|records|mb|bytes|inputs)\b"
    r"|(?:more than|at most|maximum(?: number)? of|up to) [\d,]+ (?:requests|lines|rows|records|tasks|embedding inputs)"
    r"|文件(?:大小)?(?:过大|超)|行数超|请求数超"
)
# Codes of a batch that is wrong as it stands.
_WRONG_CODES = {
    "model_not_found": "the model is unknown there, or takes no batches",
    "model_mismatch": "lines of the batch name different models",
    "mismatched_model": "lines of the batch name different models",
    "url_mismatch": "its lines ask another path than the batch",
    "invalid_endpoint": "the service takes no batches for this path",
    "empty_file": "its file is empty",
    "empty_batch": "its file is empty",
    "duplicate_custom_id": "two of its lines have one name",
    "invalid_json_line": "a line of its file cannot be read",
    "input_no_permissions": "the service may not read the file",
    "billing_hard_limit_reached": "the account is at a limit that was set for it",
}
_NO_ROUTE = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.GONE)
# What is said of a file that has just been taken, and is known a moment later: OpenAI's words, and Azure's.
_SOON = re.compile(
    r"(?:cannot|can't|could not|unable to) find (?:the )?file|no such file|file\b.{0,60}\bnot (?:be )?found"
    r"|not (?:yet )?(?:processed|ready)|still being"
)


class QueueLimit(NamedTuple):
    """The most that waits in a service's queue.

    Attributes:
        most: tokens or requests.
        in_tokens: whether it counts prompt tokens.
    """

    most: int
    in_tokens: bool


def queue_limit_in(said: str) -> QueueLimit | None:
    """Return the limit that a service names when its queue is full; None: it names none.

    Args:
        said: its words.
    """
    found = _QUEUE.search(said.lower())
    if found is None:
        return None
    most, unit, of = (found[name] or found[f"{name}2"] or "" for name in ("most", "unit", "of"))
    number = most.replace(",", "")[:18]
    return QueueLimit(int(number) * _UNITS[unit], of == "tokens") if number else None


def refused_as_full(said: Remote | Failure) -> bool:
    """Return whether the service has no place for the batch now, so that a wait heals it.

    If no other batch of the account is open, a wait may not heal it: then the batch alone is larger than the queue.

    Args:
        said: a call that failed, or a batch that failed as a whole.
    """
    return any(_is_full(each) for each in _failures(said)) and not refused_for_good(said)


def refused_as_too_large(said: Remote | Failure) -> bool:
    """Return whether the file has more lines or bytes than the service ever takes, so that a half may do.

    Args:
        said: as for `refused_as_full`.
    """
    if refused_as_full(said) or refused_for_good(said):
        return False
    return any(_is_large(each) for each in _failures(said))


def refused_for_good(said: Remote | Failure) -> str:
    """Return why no batch like this can ever work (key, money, model, an unknown address), in words; else "".

    Args:
        said: as for `refused_as_full`.
    """
    return next((why for each in _failures(said) if (why := _for_good(each))), "")


def _failures(said: Remote | Failure) -> list[Failure]:
    """Return a call's failure, or the errors of a batch that failed, as failures without a status."""
    if isinstance(said, Failure):
        return [said]
    return [*_of(said.errors)] if said.state is RemoteState.FAILED else []


def _of(errors: Iterable[BatchError]) -> Iterable[Failure]:
    for error in errors:
        codes = (error.code.lower(),) if error.code else ()
        words = unquoted(error.message).lower()
        yield Failure(Fault.PROTOCOL, error.message, code=error.code or None, codes=codes, words=words)


def _codes(failure: Failure) -> set[str]:
    return {*failure.codes, (failure.code or "").lower()}


def _is_full(failure: Failure) -> bool:
    if failure.status == HTTPStatus.TOO_MANY_REQUESTS:
        return True
    if failure.status not in (None, 400, 403, 409) or failure.is_page:
        return False
    if failure.fault is not Fault.PROTOCOL and failure.status is None:
        return False
    return not _codes(failure).isdisjoint(_FULL_CODES) or bool(_FULL.search(failure.said))


def _is_large(failure: Failure) -> bool:
    if failure.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return True
    if failure.status not in (None, 400, 422) or (failure.status is None and failure.fault is not Fault.PROTOCOL):
        return False
    return not _codes(failure).isdisjoint(_LARGE_CODES) or bool(_LARGE.search(failure.said))


def _for_good(failure: Failure) -> str:
    if failure.fault is Fault.UNREACHABLE:
        return failure.message
    status = failure.status
    if status is not None and (status >= 500 or status in (408, 413)) and status not in _NO_ROUTE:
        return ""
    if status in (None, 400, 404) and _SOON.search(failure.said):
        return ""
    wrong = next((_WRONG_CODES[code] for code in (*failure.codes, failure.code or "") if code in _WRONG_CODES), "")
    meaning = meaning_of(failure)
    if not wrong and (says(failure, CLOSED) or says(failure, EMPTY) or status == HTTPStatus.PAYMENT_REQUIRED):
        wrong = meaning.reason if meaning.fate in (Fate.ENDPOINT_OUT, Fate.ENDPOINT_REFUSES) else ""
    if not wrong and status in (401, 403, 407) and meaning.fate in (Fate.ENDPOINT_OUT, Fate.ENDPOINT_REFUSES):
        wrong = meaning.reason if not _is_full(failure) else ""
    if not wrong and status != HTTPStatus.TOO_MANY_REQUESTS:
        wrong = _WRONG_CODES["model_not_found"] if says(failure, MODEL) else KEY_REFUSED if says(failure, KEY) else ""
    if not wrong and status in _NO_ROUTE:
        wrong = "the service has no batch API at this address, or does not know the file"
    if not wrong and status is not None and 300 <= status < 400:
        wrong = meaning.reason
    return f"{wrong}: {failure}" if wrong else ""

"""Reads a completion as a row's result.

Invariant: an answer that was paid for always gives a result that keeps its text.
"""

from __future__ import annotations

from batcher.answer.json_in_text import IS_CUT_PERHAPS
from batcher.answer.shape import Read, Shape
from batcher.records import Completion, Result, Status

_FILTERED = ("content_filter", "sensitive")  # the second is Zhipu's; Gemini adds what was found
_CUT_BY_FILTER = "a content filter cut the answer off"
CUT = ("length", "max_tokens", "model_length", "max_output_tokens", "max_length")
"""The finish reasons of an answer that was cut off at the most tokens that it may have, in lower case."""


def is_cut(completion: Completion) -> bool:
    """Return whether the answer was cut off at `max_tokens`, or at the model's own limit."""
    return (completion.finish_reason or "").lower() in CUT


def is_whole(completion: Completion) -> bool:
    """Return whether the model came to the end of its answer: it was not cut off, filtered or refused."""
    reason = (completion.finish_reason or "").lower()
    return not (is_cut(completion) or completion.is_open or completion.refusal or reason.startswith(_FILTERED))


def read(completion: Completion, shape: Shape | None = None) -> Result:
    """Return the row's result.

    Args:
        completion: what came.
        shape: what answers must be; None: any text is `ok`.

    A completion that has no text, has only white space or was cut off by a content filter is `invalid`; the error has
    the server's reason, if there is one. It was paid for, so it is not sent again unless the user asks. A completion
    cut off by `max_tokens` is `ok`: the user chose that length.
    """
    text = completion.text or ""
    if (completion.finish_reason or "").lower().startswith(_FILTERED):
        return Result(Status.INVALID, text, f"{_CUT_BY_FILTER} (finish_reason {completion.finish_reason})")
    if text.strip():
        return Result(Status.OK, text, "") if shape is None else _fitted(completion, shape.read(text))
    if completion.refusal:
        return Result(Status.INVALID, text, f"the model refused: {completion.refusal}")
    if completion.is_open or completion.reasoning:
        return Result(Status.INVALID, text, _only_thought(completion))
    return Result(Status.INVALID, text, f"the answer is empty{_ended(completion)}")


def read_found(found: Result, shape: Shape | None) -> Result:
    """Return the result of a row for which a file holds this one, which may have been read as something else.

    An `error` stays, and so does an `invalid` answer without a text, without a reason (a person has said so), or that a
    content filter cut off.
    """
    is_read = found.status is Status.OK or (found.error and not found.error.startswith(_CUT_BY_FILTER))
    if shape is None or found.status is Status.ERROR or not is_read or not found.answer.strip():
        return found
    return read(Completion(found.answer), shape)


def _fitted(completion: Completion, came: Read) -> Result:
    """Return the result of an answer that was read as a label or by a schema."""
    if came.error and is_cut(completion):
        error = came.error.removesuffix(IS_CUT_PERHAPS)
        return Result(came.status, came.answer, f"{error}; it was cut off at max_tokens")
    return Result(came.status, came.answer, came.error)


def _only_thought(completion: Completion) -> str:
    """Return the error of an answer that is nothing but a thought, and what to do."""
    if not is_cut(completion):
        return (
            f"the model only thought{_ended(completion)}: switch thinking off, or the reasoning parser of your server,"
            " which may have taken the answer for a thought"
        )
    used = completion.usage.completion_tokens
    tokens = f"{used:,} tokens, " if used else ""
    what = f"cut off while thinking ({tokens}max_tokens)" if completion.is_open else ""
    what = what or f"the model only thought ({tokens}cut off at max_tokens)"
    return f"{what}: raise max_tokens, or switch thinking off"


def _ended(completion: Completion) -> str:
    return f" (finish_reason {completion.finish_reason})" if completion.finish_reason else ""

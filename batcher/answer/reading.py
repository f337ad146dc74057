"""Reads a completion as a row's result.

Invariant: an answer that was paid for always gives a result that keeps its text.
"""

from __future__ import annotations

from batcher.records import Completion, Result, Status

_FILTERED = ("content_filter", "sensitive")  # the second is Zhipu's


def read(completion: Completion) -> Result:
    """Return the row's result.

    A completion that has no text, has only white space or was cut off by a content filter is `invalid`; the error has
    the server's reason, if there is one. It was paid for, so it is not sent again unless the user asks. A completion
    cut off by `max_tokens` is `ok`: the user chose that length.
    """
    text = completion.text or ""
    if completion.finish_reason in _FILTERED:
        return Result(
            Status.INVALID, text, f"a content filter cut the answer off (finish_reason {completion.finish_reason})"
        )
    if text.strip():
        return Result(Status.OK, text, "")
    if completion.refusal:
        return Result(Status.INVALID, text, f"the model refused: {completion.refusal}")
    reason = f" (finish_reason {completion.finish_reason})" if completion.finish_reason else ""
    return Result(Status.INVALID, text, f"the answer is empty{reason}")

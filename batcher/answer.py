"""What a completion means for its row.

Invariant: an answer that was paid for always ends in a result that keeps its text.
"""

from __future__ import annotations

from batcher.records import Completion, Result, Status


def read(completion: Completion) -> Result:
    """Return the row's result.

    A completion without text, or of white space alone, is `invalid`, and says why where the server said it: it was
    paid for, so it is not bought again unless asked.
    """
    text = completion.text or ""
    if text.strip():
        return Result(Status.OK, text, "")
    if completion.refusal:
        return Result(Status.INVALID, text, f"the model refused: {completion.refusal}")
    reason = f" (finish_reason {completion.finish_reason})" if completion.finish_reason else ""
    return Result(Status.INVALID, text, f"the answer is empty{reason}")

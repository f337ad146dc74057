"""What a completion means for its row.

Invariant: an answer that was paid for always ends in a result that keeps its text.
"""

from __future__ import annotations

from batcher.records import Completion, Result, Status


def read(completion: Completion) -> Result:
    """Return the row's result.

    A completion without text is `invalid`, and says why where the server said it: it was paid for, so it is not
    bought again unless asked.
    """
    if completion.text:
        return Result(Status.OK, completion.text, "")
    reason = f" (finish_reason {completion.finish_reason})" if completion.finish_reason else ""
    return Result(Status.INVALID, "", f"the answer is empty{reason}")

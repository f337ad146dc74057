"""Reads what a service says of batches and files, in whatever dialect.

Invariant: reading never raises, for any JSON; what is shown of it is one printable line without API key.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from batcher.calls.batch_service import NAME, BatchError, Remote, RemoteState
from batcher.calls.texts import LONGEST_CODE, json_of, one_line

# States in the words of several services, in lower case.
_STATES = {
    **{each.value: each for each in RemoteState if each is not RemoteState.UNKNOWN},
    **dict.fromkeys(("in_queue", "queued", "queueing", "pending", "created", "submitted"), RemoteState.VALIDATING),
    **dict.fromkeys(("progress", "running", "processing", "inprogress"), RemoteState.IN_PROGRESS),
    **dict.fromkeys(("complete", "success", "succeeded", "done", "finished"), RemoteState.COMPLETED),
    **dict.fromkeys(("failure", "error"), RemoteState.FAILED),
    **dict.fromkeys(("timeout", "timeout_exceeded", "timed_out"), RemoteState.EXPIRED),
    **dict.fromkeys(("canceling", "cancellation_requested"), RemoteState.CANCELLING),
    **dict.fromkeys(("canceled", "aborted"), RemoteState.CANCELLED),
}
_ENDS = {
    RemoteState.COMPLETED: "completed_at",
    RemoteState.FAILED: "failed_at",
    RemoteState.EXPIRED: "expired_at",
    RemoteState.CANCELLED: "cancelled_at",
}
_MOST_ERRORS = 100
_LATEST_S = 1e11  # a larger number is in milliseconds


class Page(NamedTuple):
    """A page of a list.

    Attributes:
        rows: its objects.
        after: the id after which the next page begins; empty: there is none.
        cursor: the mark of the next page, of a service that has marks; empty: it has none.
    """

    rows: list[dict[str, Any]]
    after: str = ""
    cursor: str = ""


def object_in(said: object) -> dict[str, Any] | None:
    """Return the batch or file that an answer describes: itself, or what SiliconFlow and Together wrap it into."""
    for name in ("data", "job"):
        if isinstance(said, dict) and "id" not in said and isinstance(said.get(name), dict):
            said = said[name]
    return said if isinstance(said, dict) and _text(said.get("id")) else None


def page_in(said: object) -> Page | None:
    """Return a page of a list: an object with `data`, one that wraps such an object, or a list alone."""
    if isinstance(said, dict) and isinstance(said.get("data"), dict):
        said = said["data"]
    rows = said.get("data") if isinstance(said, dict) else said
    if rows is None and isinstance(said, dict) and said.get("object") == "list":
        rows = []  # an empty list of a server that leaves empty lists out
    if not isinstance(rows, list):
        return None
    found = [row for row in rows if isinstance(row, dict) and _text(row.get("id"))]
    if not isinstance(said, dict):
        return Page(found)
    paging = said.get("paging")
    cursor = _text(paging.get("next_cursor")) if isinstance(paging, dict) else ""
    last = _text(said.get("last_id")) or (_text(found[-1]["id"]) if found else "")
    return Page(found, last if said.get("has_more") is True and found else "", cursor)


def remote_in(said: object, secrets: Sequence[str] = ()) -> Remote | None:
    """Return the batch that an answer describes, or None if it describes none."""
    batch = object_in(said)
    if batch is None:
        return None
    spelling = one_line(_text(batch.get("status")) or _text(batch.get("state")), secrets, LONGEST_CODE)
    word = spelling.lower().replace("-", "_").replace(" ", "_").removeprefix("job_state_").removeprefix("batch_state_")
    state = _STATES.get(word, RemoteState.UNKNOWN)
    metadata, counts = batch.get("metadata"), batch.get("request_counts")
    number = counts if isinstance(counts, dict) else {}
    return Remote(
        id=_text(batch["id"]),
        state=state,
        name=_text(metadata.get(NAME)) if isinstance(metadata, dict) else "",
        input_file=_text(batch.get("input_file_id")),
        created=moment(batch.get("created_at")),
        expires=moment(batch.get("expires_at")) or moment(batch.get("job_deadline")),
        ended=_ended(batch, state),
        total=_whole(number.get("total")),
        completed=_whole(number.get("completed")),
        failed=_whole(number.get("failed")),
        output_file=_text(batch.get("output_file_id")),
        error_file=_text(batch.get("error_file_id")),
        errors=tuple(_errors(batch, secrets)),
        said=spelling,
    )


def moment(value: object) -> float | None:
    """Return a time in seconds since the epoch: of a number, or of a date by ISO 8601; None if it is none."""
    if isinstance(value, str):
        try:
            value = float(value) if value.strip().replace(".", "", 1).isdecimal() else _of_date(value)
        except (ValueError, OverflowError):
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e15:
        return None
    return value / 1000 if value > _LATEST_S else float(value)


def _of_date(text: str) -> float:
    date = dt.datetime.fromisoformat(text.strip())
    return (date if date.tzinfo else date.replace(tzinfo=dt.UTC)).timestamp()


def _ended(batch: Mapping[str, Any], state: RemoteState) -> float | None:
    if not state.is_over:
        return None
    names = dict.fromkeys((_ENDS[state], *_ENDS.values(), "canceled_at"))
    return next((at for name in names if (at := moment(batch.get(name)))), None)


def _errors(batch: Mapping[str, Any], secrets: Sequence[str]) -> Iterator[BatchError]:
    """Yield the errors of a batch: in an object with `data` (OpenAI), in a list (Groq), as texts (SiliconFlow)."""
    said = batch.get("errors") or batch.get("error")
    if isinstance(said, dict) and isinstance(said.get("data"), list):
        said = said["data"]
    for error in (said if isinstance(said, list) else [said])[:_MOST_ERRORS]:
        if isinstance(error, dict):
            code, line = error.get("code") or error.get("type"), error.get("line")
            message = error.get("message")
            text = message if isinstance(message, str) else json_of(error)
            at = line if isinstance(line, int) and not isinstance(line, bool) else None
            yield BatchError(one_line(_text(code), secrets, LONGEST_CODE), one_line(text, secrets), at)
        elif isinstance(error, str) and error.strip():
            yield BatchError("", one_line(error, secrets))


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

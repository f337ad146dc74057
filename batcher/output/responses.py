"""The responses to the lines of a requests file: the lines of `all_<keyword>.jsonl`.

Invariant: there is one line for each row, in their order, made of the row's chunk file and the journal alone, so that
it has the same bytes whenever it is made.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batcher.input.request_line import COLUMNS
from batcher.journal.entries import LastRun, Response
from batcher.journal.reading import Reader
from batcher.nesting import is_too_deep
from batcher.output.directory import Store
from batcher.records import Status

_HTTP_OK = 200
_AT_ONCE = 100  # bodies in memory
_ESCAPED = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}


def lines_of_chunks(store: Store, journal: Reader, last: LastRun, rows: int) -> Iterator[bytes]:
    """Yield the lines of a finished run.

    Args:
        store: the files.
        journal: of the run.
        last: the run.
        rows: of the run.

    Raises:
        OutputError: a chunk file cannot be read.
    """
    for start in range(0, rows, last.chunk_size):
        cells = (store.answer_columns.split(line)[0] for line in store.lines_of(start))
        yield from lines_of_rows(store.keyword, journal, start, [*cells])


def lines_of_rows(
    keyword: str, journal: Reader, start: int, cells: Sequence[Sequence[str]], *, before: int = 0
) -> Iterator[bytes]:
    """Yield the lines of rows from a position on.

    Args:
        keyword: of the run.
        journal: of the run.
        start: the position of the first.
        cells: the input's cells of each.
        before: how many rows of the whole run are before those of the journal, if it is that of a shard.
    """
    for at in range(0, len(cells), _AT_ONCE):
        part = cells[at : at + _AT_ONCE]
        responses = journal.responses(start + at, start + at + len(part))
        for position, (row, response) in enumerate(zip(part, responses, strict=True), start + at):
            yield _written(_line(f"{keyword}-{before + position}", dict(zip(COLUMNS, row, strict=False)), response))


def _line(name: str, cells: Mapping[str, str], response: Response | None) -> dict[str, Any]:
    """Return the object of a line."""
    request = _parsed(cells["request"], cells["request"])
    found: dict[str, Any] = {"id": name, "line": _parsed(cells["line"], None)}
    if cells["custom_id"]:
        found["custom_id"] = cells["custom_id"]
    if cells["metadata"]:
        found["metadata"] = _parsed(cells["metadata"], cells["metadata"])
    found |= {"request": request, "response": None, "error": None}
    if response is None:
        return found
    result = response.result
    if result.status is Status.ERROR and not response.is_by_hand:
        is_broken = result.error.startswith((f"line {cells['line']}: ", f"item {cells['line']}: "))
        found["error"] = {"code": "broken_line" if is_broken else "request_failed", "message": result.error}
        return found
    if response.body is not None or not response.is_by_hand:
        body = _body(response, request, result.answer)
        found["response"] = {"status_code": _HTTP_OK, "request_id": response.request_id, "body": body}
    if response.is_by_hand:
        found["corrected"] = {"status": result.status.value, "answer": result.answer, "error": result.error}
    return found


def _body(response: Response, request: Any, answer: str) -> Any:
    """Return the body of a response as it came, or, if it was not kept, one with the answer alone."""
    if response.body is not None:
        try:
            found = _parsed(zlib.decompress(response.body).decode("utf-8", "replace"), None)
        except zlib.error:  # a disk has changed it, which `verify` reports
            found = None
        if found is not None:
            return found
    body: dict[str, Any] = {"id": response.request_id, "model": response.model}
    asked = request if isinstance(request, dict) else {}
    if asked.get("messages") is not None:
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": answer}}
    elif asked.get("input") is not None:
        return {**body, "object": "list", "data": [{"object": "embedding", "index": 0, "embedding": answer}]}
    else:
        choice = {"text": answer}
    return {**body, "choices": [{"index": 0, **choice, "finish_reason": response.finish_reason}]}


def _parsed(text: str, otherwise: Any) -> Any:
    """Return the value of a text of JSON; something else if it is none."""
    if is_too_deep(text):
        return otherwise
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return otherwise


def _written(line: Mapping[str, Any]) -> bytes:
    text = json.dumps(line, ensure_ascii=False)
    try:
        # Characters at which some readers break lines; in JSON they can stand in texts alone.
        return (text.translate(_ESCAPED) + "\n").encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return (json.dumps(line) + "\n").encode()

"""Reads the answers in results files of older scripts: OpenAI's `api_request_parallel_processor.py` and its kin.

Invariant: an answer is read only with the very request that it answers beside it; a line that holds none is counted,
and stops nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from batcher.calls.dialect import answer_in
from batcher.calls.embeddings import inputs_in
from batcher.errors import InputError
from batcher.input.request_line import body_in
from batcher.nesting import is_too_deep
from batcher.records import LARGEST_CELL, Completion, Question, Task

_SHORTEST = 2  # items of a line: the request and the response; its metadata may follow


class OlderResult(NamedTuple):
    """An answer and its question."""

    question: Question
    completion: Completion


class OlderResults:
    """Reads results files, one line at a time.

    Args:
        paths: of the files.

    Attributes:
        answers: how many answers were read.
        others: how many lines hold none: their request failed, or they are no result.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.answers = 0
        self.others = 0

    def __iter__(self) -> Iterator[OlderResult]:
        """Read the files from their beginning.

        Raises:
            InputError: one cannot be read.
        """
        for path in self._paths:
            try:
                with path.open("rb") as file:
                    for line in file:
                        if not line.strip():
                            continue
                        found = _result_in(line)
                        if found is None:
                            self.others += 1
                        else:
                            self.answers += 1
                            yield found
            except OSError as error:
                raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _result_in(line: bytes) -> OlderResult | None:
    """Return the answer in a line; None if there is none."""
    try:
        text = line.decode("utf-8-sig")
        found = None if len(text) > LARGEST_CELL or is_too_deep(text) else json.loads(text)
    except (ValueError, RecursionError):
        return None
    request, response = _parts(found)
    question = body_in(request) if isinstance(response, dict) else None
    if question is None:
        return None
    terms, asked = question.terms, question.messages[0]["content"] if question.terms.task is Task.EMBEDDING else ""
    inputs = inputs_in(asked) if terms.task is Task.EMBEDDING else None
    came = answer_in(200, {}, json.dumps(response).encode(), inputs=inputs)
    return OlderResult(question, came) if isinstance(came, Completion) else None


def _parts(found: Any) -> tuple[Any, Any]:
    """Return the request and the body of the response in a line."""
    if isinstance(found, list) and len(found) >= _SHORTEST:
        return found[0], found[1]  # of a failed request the second is a list of errors
    match found:
        case {"request": request, "response": {"body": body}}:  # a line of batcher's own
            return request, body
    return None, None

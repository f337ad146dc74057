"""The file of a batch: reads and checks its lines.

Invariant: a file passes only if every line of it is a request that the batch can ask; an error names its line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, NamedTuple

from batcher.nesting import is_too_deep

MOST_ERRORS = 50
"""The errors of a batch that are shown."""

_CHARACTERS = 4  # that count as a model token


class Line(NamedTuple):
    """A line of a file.

    Attributes:
        number: from 1.
        custom_id: its name.
        url: the route that it asks.
        body: its request.
    """

    number: int
    custom_id: str
    url: str
    body: dict[str, Any]

    @property
    def model(self) -> str:
        """The model that it asks; empty if it names none."""
        model = self.body.get("model")
        return model if isinstance(model, str) else ""


class LineError(NamedTuple):
    """What is wrong with a batch or with a line of it."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as the protocol has it."""
        return {"code": self.code, "line": self.line, "message": self.message, "param": self.param}


class Checked(NamedTuple):
    """What a file holds: the number of its lines, their prompt tokens, their model, and what is wrong with it."""

    lines: int
    tokens: int
    model: str
    errors: tuple[LineError, ...] = ()


def read_line(raw: bytes, number: int) -> Line | LineError:
    """Read a line of a file."""
    try:
        content = None if is_too_deep(raw.decode("utf-8")) else json.loads(raw)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        return LineError("invalid_json_line", "This line is not parseable as valid JSON.", number)
    custom_id, url, body = content.get("custom_id"), content.get("url"), content.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        return _lacking(number, "custom_id")
    if content.get("method") != "POST":
        return LineError("invalid_method", "The method of this line is not POST.", number, "method")
    if not isinstance(url, str):
        return _lacking(number, "url")
    if not isinstance(body, dict):
        return _lacking(number, "body")
    return Line(number, custom_id, url, body)


def raw_lines(content: IO[bytes], start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not empty, each with the place of the next one."""
    place = start
    while True:
        content.seek(place)
        raw = content.readline()
        if not raw:
            return
        place += len(raw)
        if raw.strip():
            yield place, raw


def check(
    content: IO[bytes],
    url: str,
    model: str,
    most: int,
    see: Callable[[Line], None],
) -> Checked:
    """Check a file.

    Args:
        content: of the file.
        url: that every line must ask.
        model: the only one that is served; empty for any.
        most: lines that a file may have.
        see: is called with each line that is in order.
    """
    errors: list[LineError] = []
    seen: set[str] = set()
    tokens, first = 0, ""
    number = 0
    for number, (_, raw) in enumerate(raw_lines(content), 1):
        line = read_line(raw, number)
        if isinstance(line, Line):
            first = first or line.model
            error = _wrong(line, url, model or first, seen, is_served=not model)
            seen.add(line.custom_id)
            if error is None:
                tokens += tokens_in(line.body)
                see(line)
                continue
            line = error
        if len(errors) < MOST_ERRORS:
            errors.append(line)
    if number > most:
        said = f"The batch input file has {number} requests, and may have {most} at most."
        errors.insert(0, LineError("too_many_tasks", said))
    if not number:
        errors.append(
            LineError("empty_file", "The input file is empty. Please ensure that the batch contains a request.")
        )
    return Checked(number, tokens, first, tuple(errors))


def _wrong(line: Line, url: str, model: str, seen: set[str], *, is_served: bool) -> LineError | None:
    """Return what is wrong with a line beside the lines before it."""
    number = line.number
    if line.custom_id in seen:
        said = f"The custom_id {line.custom_id!r} for this request is a duplicate of another request."
        return LineError("duplicate_custom_id", said, number, "custom_id")
    if line.url != url:
        said = f"The URL {line.url!r} provided for this request does not match the batch endpoint {url!r}."
        return LineError("url_mismatch", said, number, "url")
    if line.model != model:
        if not is_served:
            said = f"The provided model {line.model!r} is not supported by the Batch API: this server has {model!r}."
            return LineError("model_not_found", said, number, "body.model")
        said = f"The model {line.model!r} of this request does not match the rest of the batch ({model!r})."
        return LineError("model_mismatch", said, number, "body.model")
    return None


def _lacking(number: int, name: str) -> LineError:
    return LineError("missing_required_parameter", f"This line has no {name}.", number, name)


def tokens_in(body: Mapping[str, Any]) -> int:
    """Return the prompt tokens of a request, as the queue counts them: from the length of its text."""
    asked = next((body[name] for name in ("messages", "prompt", "input") if name in body), "")
    return max(len(json.dumps(asked, ensure_ascii=False)) // _CHARACTERS, 1)

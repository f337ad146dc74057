"""Reads a streamed completion, of a chat or of a text, as it arrives.

Invariant: a stream with a hole or without an end is a failure, never an answer; however its bytes are cut, it reads the
same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from batcher.calls.choices import (
    Choice,
    body_without_keys,
    broken_off,
    content_of,
    is_used,
    reasoning_of,
    usage_in,
    whole_of,
    without_body,
    without_keys,
)
from batcher.calls.error_bodies import failure_in, is_error
from batcher.calls.logprobs import joined, logprobs_in
from batcher.calls.texts import MOST_PARTS, has_too_many_parts, json_in, json_of, one_line
from batcher.calls.waits import limits_in
from batcher.records import Completion, Failure, Fault

_MOST_CALLS = 10_000  # of tools, in one streamed answer
_MOST_CHOICES = 1_000
_BOM = b"\xef\xbb\xbf"
_STATUS = re.compile(rb":\s?HTTP_STATUS/([45]\d\d)\s*")  # DashScope's comment
_DATA = re.compile(rb"(?:\A|[\r\n])data:")


def is_stream(raw: bytes) -> bool:
    """Return whether a body is a stream: it has a line of `data:`, and does not begin as JSON does."""
    return raw[:1] not in b"{[" and _DATA.search(raw.removeprefix(_BOM)) is not None


class _Streamed:
    """One of the answers in a stream, as far as it has come."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reasoning: list[str] = []
        self.refusals: list[str] = []
        self.logprobs: list[object] = []
        self.role = ""
        self.finish_reason: str | None = None
        self._calls: dict[object, dict[str, Any]] = {}
        self._function = {"name": "", "arguments": ""}

    @property
    def has_text(self) -> bool:
        return any(self.texts) or bool(self._calls)

    def add(self, delta: Mapping[Any, Any]) -> bool:
        """Add what a chunk holds of the answer; return whether that is too much."""
        self.role = self.role or _text(delta.get("role")).lower()
        self.texts.append(content_of(delta.get("content")) or "")
        self.reasoning.append(reasoning_of(delta))
        self.refusals.append(_text(delta.get("refusal")))
        match delta.get("function_call"):
            case {**function}:
                for name in self._function:
                    self._function[name] += _text(function.get(name))
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if len(self._calls) > _MOST_CALLS:
                return True
            if isinstance(call, dict):
                self._join(call)
        return False

    def _join(self, call: dict[Any, Any]) -> None:
        """Join the pieces of a tool call: names and ids come once, arguments in pieces."""
        whole = self._calls.setdefault(str(call.get("index")), {"function": {"arguments": ""}})
        whole |= {name: text for name in ("id", "type") if (text := _text(call.get(name)))}
        match call.get("function"):
            case {**function}:
                whole["function"]["arguments"] += _text(function.get("arguments"))
                if name := _text(function.get("name")):
                    whole["function"]["name"] = name

    def choice(self, index: int) -> Choice:
        text = "".join(self.texts)
        if not text and self._calls:
            text = json_of(list(self._calls.values()))
        if not text and any(self._function.values()):
            text = json_of(self._function)
        refusal, scored = "".join(self.refusals) or None, logprobs_in(joined(self.logprobs))
        return Choice(index, text, self.finish_reason, refusal, "".join(self.reasoning), scored=scored)


class Stream:
    """A streamed completion, folded into the completion that it would have been in one piece.

    Of the event stream format (WHATWG HTML, 9.2.6) the protocol uses `data:`, one JSON object in each event, and
    `[DONE]` in the last. An event ends with an empty line, or with its line if that is a whole object.

    Args:
        wants_all: the request asked for several answers.
    """

    def __init__(self, *, wants_all: bool = False) -> None:
        self._wants_all = wants_all
        self._choices: dict[int, _Streamed] = {}
        self._usage: object = None
        self._raw: list[bytes] = []
        self._line: list[bytes] = []  # the parts of a line that has not ended
        self._ended_with_cr = False
        self._data: list[bytes] = []  # the lines of an event whose object is not whole
        self._is_error_event = False
        self._status = 0
        self._error: bytes | None = None
        self._hole: bytes | None = None
        self._last = b""
        self._id = self._model = self._tier = ""
        self._is_too_much = self._is_done = False

    @property
    def is_whole(self) -> bool:
        """Whether the model has finished. `[DONE]` alone is no proof: relays send it after a broken answer, too."""
        if self._error is not None or self._hole is not None:
            return False
        answers = self._answers()
        return bool(answers) and all(each.finish_reason is not None for each in answers.values())

    def _answers(self) -> dict[int, _Streamed]:
        """Return the answers that are the model's: an older server repeats the question as the first one."""
        return {index: each for index, each in sorted(self._choices.items()) if each.role not in {"user", "system"}}

    def add(self, part: bytes) -> None:
        """Read the next bytes, which may end anywhere in a line."""
        self._raw.append(part)
        if self._ended_with_cr and part:
            part = part.removeprefix(b"\n")
        if not part:
            return
        self._ended_with_cr = part.endswith(b"\r")
        end = max(part.rfind(b"\n"), part.rfind(b"\r")) + 1
        if not end:
            self._line.append(part)
            return
        lines = b"".join([*self._line, part[:end]]).splitlines()
        self._line = [part[end:]] if end < len(part) else []
        for line in lines:
            self._read(line)

    def _read(self, line: bytes) -> None:
        line = line.removeprefix(_BOM)
        if self._is_done:
            return
        if not line:
            self._end_event()
        elif line.startswith(b"data:"):
            self._take(line[5:].strip())
        elif line.startswith(b"event:"):
            self._is_error_event = line[6:].strip() == b"error"
        elif line.startswith(b"{"):
            self._take(line)  # an error that a server writes past its own stream
        elif found := _STATUS.fullmatch(line):
            self._status = int(found[1])

    def _take(self, value: bytes) -> None:
        """Read one line of data: it is an object, or a part of one, or the end."""
        if value == b"[DONE]":
            self._end_event()
            self._is_done = True
        elif self._data or (value and not self._fold_object(value)):
            self._data.append(value)

    def _end_event(self) -> None:
        if self._data:
            value, self._data = b"\n".join(self._data), []
            if not self._fold_object(value):
                self._hole = self._hole or value
        self._is_error_event = False

    def _fold_object(self, value: bytes) -> bool:
        """Fold an object into the answer; return False if it is not one."""
        self._is_too_much = self._is_too_much or has_too_many_parts(value)
        chunk = json_in(value)
        if not isinstance(chunk, dict):
            return False
        if self._is_error_event or is_error(chunk):
            self._error = self._error or value
        else:
            self._fold(chunk)
            self._last = value
        return True

    def _fold(self, chunk: dict[Any, Any]) -> None:
        self._usage = chunk.get("usage") or self._usage
        self._id = self._id or _text(chunk.get("id"))
        self._model = self._model or _text(chunk.get("model"))
        self._tier = _text(chunk.get("service_tier")) or self._tier
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            index = choice.get("index")
            index = index if isinstance(index, int) else 0
            if len(self._choices) >= _MOST_CHOICES and index not in self._choices:
                self._is_too_much = True
                return
            answer = self._choices.setdefault(index, _Streamed())
            match choice:
                case {"finish_reason": str(reason)} if reason not in {"", "null"}:
                    answer.finish_reason = reason
            if found := choice.get("logprobs"):
                answer.logprobs.append(found)
            match choice:
                case {"delta": {**delta}} | {"message": {**delta}}:
                    self._is_too_much = answer.add(delta) or self._is_too_much
                case {"text": str(text)}:  # the completion of a text
                    answer.add({"content": text})

    def answer(self, headers: Mapping[str, str], secrets: Sequence[str] = ()) -> Completion | Failure:
        """Return the answer; an incomplete one is a failure, with what had come of it."""
        self._end()
        if self._is_too_much:
            return too_many_parts()
        if self._error is not None:
            has_answer = any(each.has_text for each in self._choices.values()) or is_used(self._usage)
            failure = failure_in(self._status or 200, headers, self._error, secrets, has_answer=has_answer)
            return replace(failure, partial=self.so_far(secrets))
        is_paid = self._is_done and not self._choices and is_used(self._usage)
        if self._hole is not None or not (self.is_whole or is_paid):
            return replace(self._broken(headers, secrets), partial=self.so_far(secrets))
        completion = self._joined(headers, secrets, raw=body_without_keys(b"".join(self._raw), secrets))
        failure_of_server = broken_off(completion)
        return replace(failure_of_server, partial=self.so_far(secrets)) if failure_of_server else completion

    def so_far(self, secrets: Sequence[str] = ()) -> Completion | None:
        """Return what has come of an answer that is cut off, without its body; None if that is no text at all."""
        completion = self._joined({}, secrets)
        return replace(completion, finish_reason=None) if completion.characters else None

    def _joined(self, headers: Mapping[str, str], secrets: Sequence[str], raw: bytes = b"") -> Completion:
        whole = whole_of(
            [each.choice(index) for index, each in self._answers().items()],
            wants_all=self._wants_all,
            usage=usage_in(self._usage),
            limits=limits_in(headers),
            id=self._id,
            service_tier=self._tier or None,
            model=self._model,
            raw=raw,
        )
        completion = without_keys(whole, secrets)
        # A key that came in pieces would stand in the body.
        if (completion.text, completion.reasoning) != (whole.text, whole.reasoning):
            completion = without_body(completion)
        return completion

    def _end(self) -> None:
        """Read what the last bytes began; an unfinished last line was cut off, which is no hole."""
        line, self._line = b"".join(self._line), []
        value = line.removeprefix(_BOM).removeprefix(b"data:").strip()
        self._is_too_much = self._is_too_much or has_too_many_parts(value)
        if line and (self._data or json_in(value) is not None or value == b"[DONE]"):
            self._read(line)
        self._end_event()

    def _broken(self, headers: Mapping[str, str], secrets: Sequence[str]) -> Failure:
        if self._hole is not None:
            hole = one_line(self._hole.decode("utf-8", "replace"), secrets)
            message = f"the stream is broken: a line of data is not JSON: {hole}"
        else:
            last = one_line(self._last.decode("utf-8", "replace"), secrets) or "nothing"
            message = f"the stream ended before the answer did; the last of it was {last}"
        return Failure(Fault.PROTOCOL, message, limits=limits_in(headers), may_be_billed=True)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def too_many_parts() -> Failure:
    message = f"its JSON has more than {MOST_PARTS:,} parts (logprobs have many)"
    return Failure(Fault.TOO_LONG, message, may_be_billed=True)

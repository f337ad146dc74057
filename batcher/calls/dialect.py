"""Reads responses in the dialects of all servers: completions, whole or streamed, failures, limits and waits.

Invariant: reading never raises, for any bytes; the text that is shown of them is one printable line without API key.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from batcher.hiding import hide, unmistakable
from batcher.records import MOST_TOKENS, Allowance, Completion, Failure, Fault, ServerLimits, Usage

LONGEST_ASKED_S = 3600.0
"""The most seconds that a server can make us wait. Azure asks for a day if a minute is enough, so we ask again after an
hour."""

_LONGEST_MESSAGE = 500
_LONGEST_CODE = 80
# Objects, lists and their items. More JSON than that takes seconds to parse, in which the loop is blocked, and
# gigabytes, 25 times the JSON itself. An answer of 11,000 tokens with 20 `top_logprobs` each has as many parts.
_MOST_PARTS = 2_000_000
_MOST_CALLS = 10_000  # of tools, in one streamed answer
_LONGEST_NUMBER = 40  # digits of a number that is shown; Python refuses to read or write more than 4,300

# The server failed in the middle of its answer: DeepSeek; Zhipu; OpenRouter; vLLM and SGLang.
_BROKEN_OFF = {"insufficient_system_resource", "network_error", "error", "abort"}


def answer_in(status: int, headers: Mapping[str, str], raw: bytes, secrets: Sequence[str] = ()) -> Completion | Failure:
    """Read a response of the server.

    Args:
        status: its HTTP status.
        headers: its headers; their names in lower case, or case-insensitive.
        raw: its body.
        secrets: texts that must not be shown; some servers repeat the API key.
    """
    if 200 <= status < 300:
        if raw.startswith(b"data:"):
            stream = Stream()
            stream.add(raw)
            return stream.answer(headers, secrets)
        if _has_too_many_parts(raw):
            return _too_many_parts()
        completion = completion_in(_json(raw), headers, secrets)
        if completion is not None:
            return _broken_off(completion) or completion
    return failure_in(status, headers, raw, secrets)


# --- a completion ---


def completion_in(body: object, headers: Mapping[str, str], secrets: Sequence[str] = ()) -> Completion | None:
    """Read the first choice of a chat completion, or return None if the body is not one.

    Fields that are not needed are ignored, so that no oddity in them costs an answer.
    """
    match body:
        case {"error": error} if error:
            return None
        case {"choices": [{"message": {**message}, **choice}, *_], **rest}:
            content, reason = message.get("content"), choice.get("finish_reason")
        case _:
            return None
    if content is not None and not isinstance(content, (str, list)):
        return None
    text = "".join(map(_text, content)) if isinstance(content, list) else content
    if not text and (tool_calls := message.get("tool_calls")) and isinstance(tool_calls, list):
        text = json.dumps(tool_calls, ensure_ascii=False)  # the model answered with calls of the user's tools
    refusal = message.get("refusal")
    name, tier = rest.get("id"), rest.get("service_tier")
    completion = Completion(
        text,
        reason if isinstance(reason, str) else None,
        usage_in(rest.get("usage")),
        refusal if isinstance(refusal, str) else None,
        limits_in(headers),
        name if isinstance(name, str) else "",
        tier if isinstance(tier, str) else None,
    )
    return without_keys(completion, secrets)


def without_keys(completion: Completion, secrets: Sequence[str]) -> Completion:
    """Return a completion without API keys, and with a short finish reason."""
    text, reason, refusal = completion.text, completion.finish_reason, completion.refusal
    is_plain = reason is None or (reason.isidentifier() and len(reason) <= _LONGEST_CODE)
    said = (text or "", reason or "", refusal or "")
    if is_plain and not any(secret in each for secret in secrets for each in said):
        return completion
    keys = unmistakable(secrets)  # an answer keeps its words
    return replace(
        completion,
        text=text and hide(text, keys),
        finish_reason=reason and one_line(reason, keys, _LONGEST_CODE),
        refusal=refusal and hide(refusal, keys),
    )


def _text(part: object) -> str:
    """Return the text of a content part; a part of another kind, such as `thinking`, has none."""
    match part:
        case str(text) | {"type": "text", "text": str(text)}:
            return text
    return ""


def _broken_off(completion: Completion) -> Failure | None:
    """Refuse an answer that the server itself reports as broken off; an answer cut by `max_tokens` is accepted."""
    if completion.finish_reason not in _BROKEN_OFF:
        return None
    message = f"the server broke off its answer (finish_reason {completion.finish_reason})"
    return Failure(Fault.PROTOCOL, message, limits=completion.limits, may_be_billed=True)


def usage_in(usage: object) -> Usage:
    """Read the usage of a call; a value that is not a number of model tokens counts as not reported."""
    if not isinstance(usage, dict):
        return Usage()
    asked, given = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    cached = asked.get("cached_tokens") if isinstance(asked, dict) else None
    return used(
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        usage.get("total_tokens"),
        cached or usage.get("prompt_cache_hit_tokens"),
        given.get("reasoning_tokens") if isinstance(given, dict) else None,
    )


def used(prompt: object, completion: object, total: object, cached: object, reasoning: object) -> Usage:
    """Return the billed usage from these counts, each of which may be any value.

    If the total is more than prompt and completion, the rest is reasoning, and is billed like the answer: xAI counts
    reasoning apart from the completion, Gemini does not report it at all. A total alone does not tell the answer's
    share.
    """
    said = {"prompt": prompt, "completion": completion, "total": total, "cached": cached, "reasoning": reasoning}
    implausible = ", ".join(f"{name}_tokens {_shown(value)}" for name, value in said.items() if _is_too_large(value))
    asked, given, both, from_cache, thought = map(_count, said.values())
    from_cache, thought = from_cache or 0, thought or 0
    if asked is not None and given is not None and (beside := (both or 0) - asked - given) > 0:
        given += beside
        thought = max(thought, beside)
    return Usage(asked, given, min(from_cache, asked or 0), min(thought, given or 0), implausible)


def _count(value: object) -> int | None:
    """Return a number of model tokens, or None if no call can use that many, or it is not a number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= MOST_TOKENS:
        return None
    return int(value) if value == int(value) else None


def _is_too_large(value: object) -> bool:
    return isinstance(value, (int, float)) and value > MOST_TOKENS


def _shown(value: object) -> str:
    if isinstance(value, int) and value >= 10**_LONGEST_NUMBER:
        return f"above 10^{_LONGEST_NUMBER}"
    return str(value)


# --- a streamed completion ---


class Stream:
    """A streamed completion, folded into the completion that it would have been in one piece.

    Of the event stream format (WHATWG HTML, 9.2.6) the protocol uses lines of `data:` alone, one JSON object each, and
    `[DONE]` in the last.
    """

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._calls: dict[object, dict[str, Any]] = {}
        self._usage: object = None
        self._error: bytes | None = None
        self._line: list[bytes] = []  # the parts of a line that has not ended
        self._last = b""
        self._id = ""
        self._tier: str | None = None
        self._is_too_much = False
        self.finish_reason: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the model has finished. `[DONE]` alone is no proof: relays send it after a broken answer, too."""
        return self.finish_reason is not None and self._error is None

    def add(self, part: bytes) -> None:
        """Fold the next bytes, which may end anywhere in a line."""
        ended, newline, rest = part.rpartition(b"\n")
        if not newline:
            self._line.append(part)
            return
        lines = b"".join([*self._line, ended]).split(b"\n")
        self._line = [rest]
        for line in lines:
            field, _, value = line.partition(b":")
            if field != b"data":
                continue
            self._is_too_much = self._is_too_much or _has_too_many_parts(value)
            match _json(value):
                case {"error": error} if error:
                    self._error = self._error or value
                case {"object": "error"}:
                    self._error = self._error or value
                case {**chunk}:
                    self._fold(chunk)
                    self._last = value

    def _fold(self, chunk: dict[Any, Any]) -> None:
        self._usage = chunk.get("usage") or self._usage
        self._id = self._id or _text(chunk.get("id"))
        self._tier = _text(chunk.get("service_tier")) or self._tier
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            match choice:
                case {"index": int(index)} if index:
                    continue  # of several answers, the first one counts
                case {"finish_reason": str(reason)} if reason not in {"", "null"}:
                    self.finish_reason = reason
            match choice:
                case {"delta": {**delta}} | {"message": {**delta}}:
                    content = delta.get("content")
                    self._texts += map(_text, content if isinstance(content, list) else [content])
                    self._refusals.append(_text(delta.get("refusal")))
                    self._fold_calls(delta.get("tool_calls"))

    def _fold_calls(self, calls: object) -> None:
        """Join the pieces of tool calls: names and ids come once, arguments in pieces."""
        for call in calls if isinstance(calls, list) else ():
            if not isinstance(call, dict):
                continue
            if len(self._calls) > _MOST_CALLS:
                self._is_too_much = True
                return
            whole = self._calls.setdefault(str(call.get("index")), {"function": {"arguments": ""}})
            whole |= {name: text for name in ("id", "type") if (text := _text(call.get(name)))}
            match call.get("function"):
                case {**function}:
                    whole["function"]["arguments"] += _text(function.get("arguments"))
                    if name := _text(function.get("name")):
                        whole["function"]["name"] = name

    def answer(self, headers: Mapping[str, str], secrets: Sequence[str] = ()) -> Completion | Failure:
        """Return the answer; an incomplete one is a failure."""
        self.add(b"\n")
        if self._is_too_much:
            return _too_many_parts()
        if self._error is not None:
            return failure_in(200, headers, self._error, secrets)
        if not self.is_whole:
            last = one_line(self._last.decode("utf-8", "replace"), secrets) or "nothing"
            message = f"the stream ended before the answer did; the last of it was {last}"
            return Failure(Fault.PROTOCOL, message, limits=limits_in(headers), may_be_billed=True)
        text = "".join(self._texts)
        if not text and self._calls:
            text = json.dumps(list(self._calls.values()), ensure_ascii=False)
        refusal = "".join(self._refusals) or None
        usage, limits = usage_in(self._usage), limits_in(headers)
        completion = Completion(text, self.finish_reason, usage, refusal, limits, self._id, self._tier)
        completion = without_keys(completion, secrets)
        return _broken_off(completion) or completion


# --- a failure ---


def too_long(most_bytes: int) -> Failure:
    """Return the failure of a response that has too many bytes when unpacked."""
    message = f"it is longer than {most_bytes / 1e6:g} MB (--max-response-mb allows more)"
    return Failure(Fault.TOO_LONG, message, may_be_billed=True)


def _too_many_parts() -> Failure:
    message = f"its JSON has more than {_MOST_PARTS:,} parts (logprobs have many)"
    return Failure(Fault.TOO_LONG, message, may_be_billed=True)


def failure_in(status: int, headers: Mapping[str, str], raw: bytes | str, secrets: Sequence[str] = ()) -> Failure:
    """Read a response that is not a completion: an error object in one of its dialects, or any other body.

    Args:
        status: the HTTP status. With a 2xx, some relays put their upstream's status into the body.
        headers: the response's headers; their names in lower case, or case-insensitive.
        raw: the body.
        secrets: texts that must not be shown; some servers repeat the API key in their errors.
    """
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    said, codes = error_of(_json(text))
    if status < 300:
        inner = next((int(code) for code in codes if code.isdecimal() and len(code) == 3 and "400" <= code < "600"), 0)
        status = inner or status
    # A code that only repeats the status would hide a better one.
    code = next((code for code in codes if code != str(status)), codes[0] if codes else None)
    return Failure(
        Fault.PROTOCOL if status < 300 else Fault.STATUS,
        one_line(said or text, secrets) or "an empty body",
        None if status < 300 else status,
        None if code is None else one_line(code, secrets, _LONGEST_CODE),
        wait_in(headers, said or text, time.time()),
        limits_in(headers),
        may_be_billed=status < 300,
    )


def error_of(body: object) -> tuple[str, list[str]]:
    """Return the message of an error body and its codes, the most precise first.

    The dialects: `{"error": {...}}` (OpenAI and most), a list of it (Gemini), `{"error": "..."}` (Ollama), a flat
    object (vLLM before 0.10.1, DashScope), `{"detail": ...}` (FastAPI, and so LLaMA-Factory).
    """
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return "", []
    error = body.get("error")
    holder = error if isinstance(error, dict) else body
    said = error if isinstance(error, str) else None
    said = said or holder.get("message") or holder.get("detail") or holder.get("msg") or ""
    codes = [str(code) for name in _CODES if isinstance(code := holder.get(name), (int, str)) and code]
    if "request_id" in body and "insufficient_quota" in codes:
        # DashScope uses OpenAI's code for an empty account when a limit of tokens per minute is reached. Its manual
        # gives both codes in one entry, and only its responses have a `request_id` beside the error.
        codes.insert(0, "Throttling.AllocationQuota")
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False), codes


_CODES = ("code", "type", "status")


def one_line(text: str, secrets: Sequence[str] = (), longest: int = _LONGEST_MESSAGE) -> str:
    """Replace what is not printable, and cut a long text; hide the secrets first, so that none is cut."""
    text = hide(text, secrets).strip()
    head = text[: 10 * longest]  # a page of HTML may be large
    folded = " ".join("".join(char if char.isprintable() else " " for char in head).split())
    return folded if len(folded) <= longest and len(head) == len(text) else f"{folded[:longest]} ..."


def _has_too_many_parts(raw: bytes) -> bool:
    """Count what begins a part, inside strings too: a text with that many commas is not an answer either."""
    return len(raw) > _MOST_PARTS and sum(map(raw.count, (b"{", b"[", b","))) > _MOST_PARTS


def _json(raw: bytes | str) -> Any:
    """Parse JSON; return None if it is not valid or has too many parts."""
    if _has_too_many_parts(raw.encode("utf-8", "replace") if isinstance(raw, str) else raw):
        return None
    try:
        return json.loads(raw, parse_int=_whole)
    except (ValueError, RecursionError):
        return None


def _whole(digits: str) -> float:
    """Read a whole number; a number too long for Python's `int` becomes a float, so that it does not cost an answer."""
    return int(digits) if len(digits) <= 10 * _LONGEST_NUMBER else float(digits)


# --- a wait, a limit ---

_UNITS = {"n": 1e-9, "u": 1e-6, "µ": 1e-6, "ms": 1e-3, "mil": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(
    r"(\d+(?:\.\d+)?)\s?(ns|[uµ]s|ms|milliseconds?|s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?)(?![a-z])"
)
_SPAN = re.compile(rf"(?:{_PART.pattern}(?:,?\s(?:and\s)?)?)+")
_ASKED = re.compile(rf"\b(?:again|retry) (?:in|after) ({_SPAN.pattern})")
_EPOCH_S, _EPOCH_MS = 1e9, 1e11  # a larger number is a moment, not a length of time


def wait_in(headers: Mapping[str, str], message: str, now: float) -> float | None:
    """Return the seconds that a server asks us to wait, at most `LONGEST_ASKED_S`; None if it does not ask.

    Args:
        headers: the response's headers; their names in lower case, or case-insensitive.
        message: its error message, which is read if no header tells, as in `Please try again in 8.5s`.
        now: the present by this machine's clock, in seconds since the epoch: `Retry-After` may be a date (RFC 9110,
            10.2.3). If the response has a `Date`, that time counts.
    """
    millis = _number(headers.get("retry-after-ms"))
    asked = _seconds(headers, "retry-after", now) if millis is None else millis / 1000
    if asked is None and (words := _ASKED.search(message[:_LONGEST_MESSAGE].lower())):
        asked = _length(words[1])
    return None if asked is None else min(asked, LONGEST_ASKED_S)


def _families(*names: str) -> tuple[tuple[str, ...], ...]:
    """Return the three headers of a limit in each family of names: its size, what is left, when it is full again."""
    return tuple(tuple(name.format(kind) for kind in ("limit", "remaining", "reset")) for name in names)


# OpenAI, Azure, Groq and most; Mistral; without a unit OpenRouter, and the drafts of the IETF.
_REQUESTS = _families("x-ratelimit-{}-requests", "x-ratelimit-{}-req-minute", "x-ratelimit-{}", "ratelimit-{}")
# The same; Mistral and Cerebras.
_TOKENS = _families("x-ratelimit-{}-tokens", "x-ratelimit-{}-tokens-minute")


def limits_in(headers: Mapping[str, str]) -> ServerLimits | None:
    """Read a server's limits from its rate-limit headers; None if there are none.

    No header tells the period of a limit: OpenAI's and Azure's are minutes, Groq's limits of requests are days.

    Args:
        headers: the response's headers; their names in lower case, or case-insensitive.
    """
    requests, tokens = _allowance(headers, _REQUESTS), _allowance(headers, _TOKENS)
    return None if requests is tokens is None else ServerLimits(requests, tokens)


def _allowance(headers: Mapping[str, str], families: Iterable[tuple[str, ...]]) -> Allowance | None:
    for limit, remaining, reset in families:
        left = headers.get(remaining)
        if left is not None:
            reset_s = _seconds(headers, reset, time.time())
            return Allowance(_number(headers.get(limit)), _number(left), reset_s)
    return None


def _seconds(headers: Mapping[str, str], name: str, now: float) -> float | None:
    """Read a header that holds a length of time, or the seconds from the present until a moment.

    The spellings: `20`, `6m0s`, `250ms`, seconds since the epoch or milliseconds since it (OpenRouter), an HTTP date,
    an ISO date.
    """
    text = headers.get(name)
    if not text:
        return None
    value = _number(text)
    if value is not None:
        moment = value / 1000 if value > _EPOCH_MS else value
        return value if value < _EPOCH_S else max(0.0, moment - _present(headers, now))
    text = text.strip()
    if _SPAN.fullmatch(text.lower()):
        return _length(text.lower())
    date = _date(text)
    return None if date is None else max(0.0, date.timestamp() - _present(headers, now))


def _present(headers: Mapping[str, str], now: float) -> float:
    """Return the present by the server's clock, to which its moments refer; by ours if it does not send its time."""
    date = _date(headers.get("date", ""))
    return now if date is None else date.timestamp()


def _date(text: str) -> dt.datetime | None:
    for read in (dt.datetime.fromisoformat, email.utils.parsedate_to_datetime):
        try:
            date = read(text)
        except (ValueError, OverflowError):
            continue
        # Some spellings lack a zone; all of them mean UTC.
        return date if date.tzinfo else date.replace(tzinfo=dt.UTC)
    return None


def _length(span: str) -> float:
    parts = ((float(number), unit) for number, unit in _PART.findall(span))
    return sum(number * (_UNITS.get(unit) or _UNITS.get(unit[:3]) or _UNITS[unit[0]]) for number, unit in parts)


def _number(text: str | None) -> float | None:
    """Read a finite number, 0 or more; None for anything else."""
    try:
        value = float((text or "").partition(",")[0].partition(";")[0])  # the IETF's drafts add the window: `100;w=60`
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None

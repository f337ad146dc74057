"""Reads a response that is no completion: an error object in one of its dialects, a page, or anything else.

Invariant: reading never raises; what is searched for words never quotes the request.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from batcher.calls.texts import LONGEST_CODE, json_in, json_of, one_line
from batcher.calls.waits import limits_in, wait_in
from batcher.records import Failure, Fault, Message

_LONGEST_WORDS = 1000


def failure_in(
    status: int,
    headers: Mapping[str, str],
    raw: bytes | str,
    secrets: Sequence[str] = (),
    *,
    has_answer: bool = False,
) -> Failure:
    """Read a response that is not a completion: an error object in one of its dialects, or any other body.

    Args:
        status: the HTTP status. With a 2xx, some relays put their upstream's status into the body.
        headers: the response's headers; their names in lower case, or case-insensitive.
        raw: the body.
        secrets: texts that must not be shown; some servers repeat the API key in their errors.
        has_answer: a part of an answer came before the error.
    """
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    body = json_in(text)
    error = error_in(body)
    said = unquoted(one_line(error.plain if error.message else text, secrets, 2 * _LONGEST_WORDS))
    inner = _inner_status(error.codes) if status < 300 else status
    codes = list(filter(None, (one_line(code, secrets, LONGEST_CODE) for code in error.codes)))
    # A code that only repeats the status would hide a better one.
    code = next((code for code in codes if code != str(inner)), codes[0] if codes else None)
    return Failure(
        Fault.STATUS if inner else Fault.PROTOCOL,
        one_line(error.message or text, secrets) or "an empty body",
        inner or None,
        code,
        wait_in(headers, said, time.time(), body=body, status=inner),
        limits_in(headers),
        may_be_billed=has_answer or (status < 300 and (not error.is_plain or _holds_an_answer(body))),
        codes=tuple(dict.fromkeys(map(str.lower, codes))),
        words=said.lower()[:_LONGEST_WORDS],
        is_page=status >= 300 and not isinstance(body, dict) and not error.message,
        is_final=headers.get("x-should-retry", "").strip().lower() == "false",
        generated=_generated(body),
    )


def _generated(body: object) -> str:
    """Return what the model wrote, if the service refused to pass it on: Groq, and relays to it."""
    match body:
        case {"error": {"failed_generation": str(text)}}:
            return text
    return ""


def _inner_status(codes: Iterable[str]) -> int:
    """Return the HTTP status among the codes of an error under 200, or 0."""
    return next((int(code) for code in codes if re.fullmatch(r"[45]\d\d", code, re.ASCII)), 0)


def _holds_an_answer(body: object) -> bool:
    """Return whether an error object under 200 stands beside a usage, or a text of the model."""
    match body:
        case {"usage": usage} if usage:
            return True
        case {"choices": [*choices]}:
            return any(_has_text(choice) for choice in choices)
    return False


def _has_text(choice: object) -> bool:
    match choice:
        case {"message": {"content": content}} | {"delta": {"content": content}}:
            return bool(content)
    return False


# --- an error object ---


class Error(NamedTuple):
    """What an error object says.

    Attributes:
        message: as it is shown; empty if there is none.
        plain: the message without what it quotes in fields of their own.
        codes: all codes; first those that stand beside the message, the most precise first.
        is_plain: the body is an error object, beyond doubt.
    """

    message: str = ""
    plain: str = ""
    codes: tuple[str, ...] = ()
    is_plain: bool = False


# By their letters in lower case: a code and a message that stand together, the best one first.
_CODES = ("code", "type", "status", "errortype", "errorcode", "errcode")
_MESSAGES = ("message", "detail", "msg", "errormsg", "errormessage", "errmsg", "faultstring", "title")
# What holds the code and the message, one in another: most; Cloudflare; Tencent; Volcengine's own protocol; Apigee.
_HOLDERS = ("error", "errors", "response", "responsemetadata", "fault")
# The same, unless a message stands beside it: DeepInfra; iFlytek's own protocol.
_HOLDERS_ALONE = ("detail", "header")
# What holds further codes: OpenRouter; Google; Anthropic; Azure.
_MORE = ("metadata", "details", "detail", "innererror", "violations", "error")
_FURTHER = (*_CODES, "reason", "quotaid")
_DEEPEST = 5
_MOST_ITEMS = 50


def error_in(body: object) -> Error:
    """Return what an error body says.

    The dialects: `{"error": {...}}` (OpenAI and most), a list of it (Gemini), `{"error": "..."}` (Ollama, xAI), a flat
    object (vLLM before 0.10.1, DashScope, iFlytek), `{"detail": ...}` (FastAPI), `{"base_resp": ...}` (MiniMax),
    `{"error_code": ...}` (Qianfan), `{"Response": {"Error": ...}}` (Tencent), a text (SiliconFlow), an error in a
    choice (OpenRouter).
    """
    if isinstance(body, list) and body:
        body = body[0]
    if isinstance(body, str):
        return Error(body, body)
    if not isinstance(body, dict):
        return Error()
    holders = list(_holders(body))
    holder = holders[-1]
    said = _said(body, holder)
    best = [*_codes_of(holder)]
    if "request_id" in body and "insufficient_quota" in best:
        # DashScope uses OpenAI's code for an empty account when a limit of tokens per minute is reached. Its manual
        # gives both codes in one entry, and only its responses have a `request_id` beside the error.
        best.insert(0, "Throttling.AllocationQuota")
    raw, upstream = _upstream(holder)
    outer = [code for each in reversed(holders[:-1]) for code in _codes_of(each)]
    codes = dict.fromkeys([*best, *_further(holder), *upstream.codes, *(code for code in outer if code != "error")])
    plain = " ".join(filter(None, (_plain(said), upstream.plain or raw)))
    message = said if isinstance(said, str) else json_of(said) if said else ""
    is_plain = len(holders) > 1 or isinstance(body.get("error"), str) or any(code.lower() not in _FINE for code in best)
    return Error(message, plain, tuple(codes), is_plain=is_plain)


def is_error(body: dict[Any, Any]) -> bool:
    """Return whether an object under 200 is an error: it says so, or it is no answer and has a code of one."""
    match body:
        case {"error": error} if any(error.values()) if isinstance(error, dict) else error:
            return True
        case {"object": "error"} | {"type": "error"}:
            return True
        case {"choices": [*choices]} if choices:
            return any(isinstance(choice, dict) and choice.get("error") for choice in choices)
    error = error_in(body)
    return error.is_plain and bool(error.message)


_FINE = {"0", "200", "ok", "success", "chat.completion", "chat.completion.chunk"}


def _letters(name: object) -> str:
    return "".join(filter(str.isalpha, str(name)[:LONGEST_CODE].lower()))


def _named(holder: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the fields of an object by the letters of their names: `error_code`, `errorCode`, `ErrorCode` are one."""
    named: dict[str, Any] = {}
    for name, value in holder.items():
        if not str(name).startswith("@"):  # Google's types of details
            named.setdefault(_letters(name), value)
    return named


def _holders(body: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
    """Yield the objects that hold the error, one in another, from the body to the one with code and message."""
    holder: dict[Any, Any] | None = body
    for _ in range(_DEEPEST):
        if holder is None:
            return
        yield holder
        holder = _inner(holder)


def _inner(holder: dict[Any, Any]) -> dict[Any, Any] | None:
    match holder:
        case {"choices": [*choices]} if choices:
            errors = (choice.get("error") for choice in choices[:_MOST_ITEMS] if isinstance(choice, dict))
            if found := next((error for error in errors if isinstance(error, dict) and error), None):
                return found
        case {"base_resp": {"status_code": code, "status_msg": message}}:  # MiniMax
            return {"code": code, "message": message} if code else None
    named = _named(holder)
    is_said = any(isinstance(named.get(name), str) for name in ("message", "msg", "error"))
    for name in _HOLDERS if is_said else (*_HOLDERS, *_HOLDERS_ALONE):
        value = named.get(name)
        if isinstance(value, list) and value and isinstance(value[0], dict) and "message" in value[0]:
            value = value[0]
        if isinstance(value, dict) and value:
            return value
    return None


def _said(body: dict[Any, Any], holder: dict[Any, Any]) -> Any:
    """Return the message of an error; it may be of any type."""
    named = _named(holder)
    if isinstance(named.get("error"), str) and named["error"]:
        return named["error"]
    said = next((named[name] for name in _MESSAGES if named.get(name)), None)
    return said or (body.get("message") if holder is not body else None) or ""


def _codes_of(holder: Mapping[Any, Any], names: Sequence[str] = _CODES) -> Iterator[str]:
    named = _named(holder)
    for name in names:
        code = named.get(name)
        is_code = isinstance(code, (int, str)) and not isinstance(code, bool) and code
        if is_code and str(code).lower() not in {"none", "null"}:
            yield str(code)


def _further(holder: object, depth: int = 0) -> Iterator[str]:
    """Yield the codes in the details of an error object, which may lie in one another."""
    if depth == _DEEPEST:
        return
    items = holder if isinstance(holder, list) else [holder]
    for item in items[:_MOST_ITEMS]:
        if isinstance(item, dict):
            if depth:
                yield from _codes_of(item, _FURTHER)
            named = _named(item)
            for name in _MORE:
                yield from _further(named.get(name), depth + 1)


def _upstream(holder: dict[Any, Any]) -> tuple[str, Error]:
    """Return what an upstream said, as OpenRouter passes it on: its text, and its error if that is an error object."""
    match holder:
        case {"metadata": {"raw": str(raw)}}:
            return raw[: 2 * _LONGEST_WORDS], error_in(inner) if isinstance(inner := json_in(raw), dict) else Error()
    return "", Error()


# --- words ---

_SAYING = {*_MESSAGES, "error", "reason"}


def _plain(said: object, depth: int = 0) -> str:
    """Return the message of an error without fields that quote the request, such as `input` in FastAPI's details."""
    if isinstance(said, str):
        return said[: 4 * _LONGEST_WORDS]
    if depth == _DEEPEST:
        return ""
    if isinstance(said, dict):
        return " ".join(_plain(value, depth + 1) for name, value in said.items() if _letters(name) in _SAYING).strip()
    return " ".join(_plain(each, depth + 1) for each in said[:_MOST_ITEMS]).strip() if isinstance(said, list) else ""


# What stands in quotes, to the end of the text if they do not close. An apostrophe in a word opens and closes nothing.
_QUOTED = re.compile(
    r'"(?:\\.|[^"\\])*(?:"|\Z)'
    r"|(?<!\w)'(?:(?:\\.|[^\\])*?'(?!\w)|.*\Z)"
    r"|`[^`]*(?:`|\Z)"
    r"|\u2018.*?(?:\u2019(?!\w)|\Z)"
    r"|\u201c[^\u201d]*(?:\u201d|\Z)"
    r"|«[^»]*(?:»|\Z)|「[^」]*(?:」|\Z)|『[^』]*(?:』|\Z)",
    re.DOTALL,
)
# What follows these is the request's: pydantic writes `input_value=... , input_type=str]`.
_GIVEN = re.compile(r"\b(?:input['\"]?\s?[=:\uff1a]|(?:input_value|prompt)=).*?(?=,? ?input_type=|\Z)", re.IGNORECASE)


def unquoted(message: str) -> str:
    """Return a message without what it quotes of the request."""
    return " ".join(_QUOTED.sub(" ", _GIVEN.sub(" ", message)).split())


_SHORTEST_ECHO, _SHORTEST_WIDE_ECHO = 8, 4
_END_OF_A_QUESTION = 10_000


def without_echo(failure: Failure, messages: Sequence[Message]) -> Failure:
    """Return a failure whose words hold no stretch of the question: some servers repeat it without quotes.

    A stretch has 8 characters, or 4 of those that UTF-8 takes more than one byte for. Of a long question the first
    and the last 10,000 characters are compared: refusals come by the thousands, and this must not slow the others down.
    """
    if not failure.words:
        return failure
    asked = " ".join(_texts(messages))
    if len(asked) > 2 * _END_OF_A_QUESTION:
        asked = f"{asked[:_END_OF_A_QUESTION]} {asked[-_END_OF_A_QUESTION:]}"
    question = " ".join(asked.lower().split())
    words, kept, at = failure.words, [], 0
    while at < len(words):
        size = _echo(words, at, question)
        if not size:
            kept.append(words[at])
        at += size or 1
        if size:
            kept.append(" ")
    return replace(failure, words=" ".join("".join(kept).split()))


def _echo(words: str, at: int, question: str) -> int:
    """Return the length of the stretch of the question that begins at a place in the words; 0 if it is too short."""
    wide = words[at : at + _SHORTEST_WIDE_ECHO]
    size = _SHORTEST_ECHO if any(char.isascii() for char in wide) else _SHORTEST_WIDE_ECHO
    if at + size > len(words) or words[at : at + size] not in question:
        return 0
    while at + size < len(words) and words[at : at + size + 1] in question:
        size += 1
    return size


def _texts(messages: Sequence[Message]) -> Iterator[str]:
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else [content]:
            text = part.get("text") if isinstance(part, dict) else part
            if isinstance(text, str):
                yield text

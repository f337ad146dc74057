"""Reads the choices of a completion, of a chat or of a text, whole: texts, reasoning, usage.

Invariant: reading never raises, for any JSON; what a model answered is kept, whatever its type.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypedDict, Unpack

from batcher.answer.reading import CUT
from batcher.answer.thinking import parted
from batcher.calls.error_bodies import is_error
from batcher.calls.logprobs import logprobs_in
from batcher.calls.texts import LONGEST_CODE, LONGEST_NUMBER, json_of, one_line
from batcher.calls.waits import limits_in
from batcher.hiding import hide, unmistakable
from batcher.records import MOST_TOKENS, Completion, Failure, Fault, ModelToken, ServerLimits, Usage

# The server failed in the middle of its answer: DeepSeek; Zhipu; OpenRouter and Cohere; vLLM and SGLang.
_BROKEN_OFF = {"insufficient_system_resource", "network_error", "error", "abort"}
_NOT_THE_MODEL = {"user", "system"}


class Choice(NamedTuple):
    """One of the answers in a completion.

    Attributes:
        number: its place among them, if the server said it.
        text: as in `Completion`, as are `finish_reason`, `refusal`, `reasoning`, `is_open` and `scored`.
    """

    number: int | None
    text: str | None
    finish_reason: str | None = None
    refusal: str | None = None
    reasoning: str = ""
    is_open: bool = False
    scored: tuple[ModelToken, ...] = ()


def completion_in(
    body: object,
    headers: Mapping[str, str],
    secrets: Sequence[str] = (),
    *,
    wants_all: bool = False,
    raw: bytes = b"",
) -> Completion | None:
    """Read a completion, or return None if the body is not one.

    Fields that are not needed are ignored, so that no oddity in them costs an answer. A completion without a choice,
    but with a usage or an id, was paid for: it has no text.

    Args:
        body: the parsed body.
        headers: the response's headers; their names in lower case, or case-insensitive.
        secrets: texts that must not be shown; some servers repeat the API key.
        wants_all: the request asked for several answers.
        raw: the body to keep, without API keys.
    """
    if not isinstance(body, dict) or "choices" not in body or is_error(body):
        return None
    found = [] if body["choices"] is None else body["choices"]
    if not isinstance(found, list):
        return None
    choices = list(_choices(found))
    is_paid = is_used(body.get("usage")) or (not found and bool(_text(body.get("id"))))
    if not choices and not is_paid:
        return None
    completion = whole_of(
        choices,
        wants_all=wants_all,
        usage=usage_in(body.get("usage")),
        limits=limits_in(headers),
        id=_text(body.get("id")),
        service_tier=_text(body.get("service_tier")) or None,
        model=_text(body.get("model")),
        raw=raw,
    )
    return without_keys(completion, secrets)


def is_used(usage: object) -> bool:
    """Return whether a usage holds any number above 0."""
    return isinstance(usage, dict) and any(isinstance(tokens, (int, float)) and tokens > 0 for tokens in usage.values())


class Rest(TypedDict, total=False):
    """What a completion has besides its choices; see `Completion`."""

    usage: Usage
    limits: ServerLimits | None
    id: str
    service_tier: str | None
    model: str
    raw: bytes


def whole_of(choices: Sequence[Choice], *, wants_all: bool = False, **rest: Unpack[Rest]) -> Completion:
    """Make one completion of its choices.

    If several came, and the request asked for several or the server numbers them, the text is a JSON list of all of
    them. Of others the first one counts. Thoughts in their texts become reasoning.
    """
    as_they_came = _joined(choices, rest, wants_all=wants_all)
    thoughtless = [_without_thoughts(choice) for choice in choices]
    if all(ours is theirs for ours, theirs in zip(thoughtless, choices, strict=True)):
        return as_they_came
    return replace(_joined(thoughtless, rest, wants_all=wants_all), as_it_came=as_they_came)


def _without_thoughts(choice: Choice) -> Choice:
    """Return a choice whose text is the answer alone; itself if no thought is in its text."""
    found = parted(choice.text, is_cut=(choice.finish_reason or "").lower() in CUT) if choice.text else None
    if found is None:
        return choice
    thoughts = dict.fromkeys(filter(None, (choice.reasoning, found.thought)))  # some servers send it in both places
    return choice._replace(text=found.answer, reasoning="\n".join(thoughts), is_open=found.is_open)


def _joined(choices: Sequence[Choice], rest: Rest, *, wants_all: bool) -> Completion:
    numbers = {choice.number for choice in choices} - {None}
    if len(choices) > 1 and (wants_all or len(numbers) == len(choices)):
        return _list_of(sorted(choices, key=lambda choice: choice.number or 0), rest)
    [first] = choices[:1] or [Choice(None, None)]
    return Completion(
        first.text,
        first.finish_reason,
        refusal=first.refusal,
        reasoning=first.reasoning,
        is_open=first.is_open,
        choices=len(choices),
        scored=first.scored,
        **rest,
    )


def _list_of(choices: Sequence[Choice], rest: Rest) -> Completion:
    texts, reasoning = [choice.text or "" for choice in choices], [choice.reasoning for choice in choices]
    return Completion(
        json_of(texts) if any(map(str.strip, texts)) else "",
        _worst(choice.finish_reason for choice in choices),
        refusal=next((choice.refusal for choice in choices if choice.refusal), None),
        reasoning=json_of(reasoning) if any(reasoning) else "",
        is_open=any(choice.is_open for choice in choices) and not any(map(str.strip, texts)),
        choices=len(choices),
        **rest,
    )


def _worst(reasons: Iterable[str | None]) -> str | None:
    """Return the finish reason of several answers: if one did not end by itself, that one's."""
    said = [reason for reason in reasons if reason]
    plain = {"stop", "tool_calls", "function_call", "end_turn", "eos"}
    return next(
        (reason for reason in said if reason.lower() in _BROKEN_OFF),
        next((reason for reason in said if reason.lower() not in plain), said[0] if said else None),
    )


def _choices(found: Iterable[object]) -> Iterator[Choice]:
    """Read the choices that are the model's: an older server repeats the question as the first one."""
    for choice in found:
        match choice:
            case {"message": {"role": str(role)}} if role.lower() in _NOT_THE_MODEL:
                continue
            case {"message": {**message}, **rest}:
                index, reason, refusal = rest.get("index"), rest.get("finish_reason"), message.get("refusal")
                yield Choice(
                    index if isinstance(index, int) and not isinstance(index, bool) else None,
                    text_of(message),
                    reason if isinstance(reason, str) else None,
                    refusal if isinstance(refusal, str) else None,
                    reasoning_of(message),
                    scored=logprobs_in(rest.get("logprobs")),
                )
            case {"message": None, **rest}:
                reason = rest.get("finish_reason")
                yield Choice(None, None, reason if isinstance(reason, str) else None)
            case {"text": str(text), **rest}:  # the completion of a text
                index, reason = rest.get("index"), rest.get("finish_reason")
                yield Choice(
                    index if isinstance(index, int) and not isinstance(index, bool) else None,
                    text,
                    reason if isinstance(reason, str) else None,
                    reasoning=reasoning_of(rest),
                    scored=logprobs_in(rest.get("logprobs")),
                )


def text_of(message: Mapping[Any, Any]) -> str | None:
    """Return the text of a message; None if it has no content at all.

    Content of another type, and calls of tools or of a function without a text, are kept as JSON.
    """
    text = content_of(message.get("content"))
    if text:
        return text
    for name in ("tool_calls", "function_call"):
        if (calls := message.get(name)) and isinstance(calls, (list, dict)):
            return json_of(calls)
    return text


def content_of(content: object) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list) and (not content or any(map(_is_part, content))):
        return "".join(map(_text, content))
    return json_of(content)


def _is_part(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and "type" in value)


def _text(part: object) -> str:
    """Return the text of a content part; a part of another kind, such as `thinking`, has none."""
    match part:
        case str(text) | {"type": "text", "text": str(text)}:
            return text
    return ""


def reasoning_of(message: Mapping[Any, Any]) -> str:
    """Return what the model thought, as DeepSeek, vLLM, OpenRouter, Ollama and Mistral send it, or an empty text."""
    for name in ("reasoning_content", "reasoning", "thinking"):
        if isinstance(said := message.get(name), str) and said:
            return said
    content = message.get("content")
    return "".join(map(_thought, content)) if isinstance(content, list) else ""


def _thought(part: object) -> str:
    match part:
        case {"type": "thinking" | "reasoning", **rest}:
            said = next((rest[name] for name in ("thinking", "reasoning", "text") if rest.get(name)), "")
            return "".join(map(_text, said)) if isinstance(said, list) else _text(said)
    return ""


def without_keys(completion: Completion, secrets: Sequence[str]) -> Completion:
    """Return a completion without API keys, and with a short finish reason."""
    if completion.as_it_came is not None:
        completion = replace(completion, as_it_came=without_keys(completion.as_it_came, secrets))
    text, reason, refusal = completion.text, completion.finish_reason, completion.refusal
    is_plain = reason is None or (reason.isidentifier() and len(reason) <= LONGEST_CODE)
    is_plain = is_plain and completion.model.isprintable() and len(completion.model) <= LONGEST_CODE
    said = (text or "", reason or "", refusal or "", completion.reasoning, completion.model)
    if is_plain and not any(secret in each for secret in secrets for each in said):
        return completion
    keys = unmistakable(secrets)  # an answer keeps its words
    return replace(
        completion,
        text=text and hide(text, keys),
        finish_reason=reason and one_line(reason, keys, LONGEST_CODE),
        refusal=refusal and hide(refusal, keys),
        reasoning=hide(completion.reasoning, keys),
        model=one_line(completion.model, keys, LONGEST_CODE),
    )


def without_body(completion: Completion) -> Completion:
    """Return a completion whose body is not kept."""
    came = completion.as_it_came
    return replace(completion, raw=b"", as_it_came=came and replace(came, raw=b""))


def broken_off(completion: Completion) -> Failure | None:
    """Refuse an answer that the server itself reports as broken off; an answer cut by `max_tokens` is accepted."""
    reason = completion.finish_reason
    if reason is None or reason.lower() not in _BROKEN_OFF:
        return None
    message = f"the server broke off its answer (finish_reason {reason})"
    return Failure(Fault.PROTOCOL, message, limits=completion.limits, may_be_billed=True)


# An escaped character of JSON: a letter, a digit or a mark of ASCII, or a slash.
_ESCAPED = re.compile(rb"\\(?:u00([2-7][0-9a-fA-F])|(.))", re.DOTALL)


def body_without_keys(raw: bytes, secrets: Sequence[str]) -> bytes:
    """Return a body without API keys, in JSON's escapes too."""
    secrets = unmistakable(secrets)
    for secret in secrets:
        raw = raw.replace(secret.encode(), b"[API key]")
    if not secrets or not (b"\\u00" in raw or b"\\/" in raw):
        return raw
    plain = _ESCAPED.sub(_unescaped, raw)
    if any(secret.encode() in plain for secret in secrets):
        for secret in secrets:
            plain = plain.replace(secret.encode(), b"[API key]")
        return plain
    return raw


def _unescaped(found: re.Match[bytes]) -> bytes:
    code, char = found.groups()
    plain = bytes([int(code, 16)]) if code else char if char == b"/" else b""
    return plain if plain and plain not in b'"\\' else found[0]


# --- usage ---


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
    said, implausible = (prompt, completion, total, cached, reasoning), ""
    if any(map(_is_too_large, said)):
        named = zip(("prompt", "completion", "total", "cached", "reasoning"), said, strict=True)
        implausible = ", ".join(f"{name}_tokens {_shown(value)}" for name, value in named if _is_too_large(value))
    asked, given, both, from_cache, thought = map(_count, said)
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
    if isinstance(value, int) and value >= 10**LONGEST_NUMBER:
        return f"above 10^{LONGEST_NUMBER}"
    return str(value)

"""Reads how long a server asks us to wait, and its rate limits: in headers, in error objects, in words.

Invariant: reading never raises; a wait is between 0 and a year.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import re
import time
from collections.abc import Iterable, Iterator, Mapping

from batcher.calls.texts import LONGEST_MESSAGE
from batcher.records import Allowance, ServerLimits

LONGEST_ASKED_S = 3600.0
"""The seconds after which it is worth asking again, whatever a server says. Azure asks for a day if a minute is
enough."""

_LONGEST_S = 366 * 86400.0
_EPOCH_S, _EPOCH_MS = 1e9, 1e11  # a larger number is a moment, not a length of time
_TOO_MANY_REQUESTS = 429

# --- words ---

_UNITS = {"n": 1e-9, "u": 1e-6, "µ": 1e-6, "ms": 1e-3, "mil": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(
    r"(\d{1,15}(?:\.\d{1,15})?)\s?"
    r"(ns|[uµ]s|ms|milliseconds?|s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?)(?![a-z])"
)
_SPAN = re.compile(rf"(?:{_PART.pattern}(?:,?\s(?:and\s)?)?)+")
_CLOCK = re.compile(r"(?:(\d{1,3})[.:d]\s?)?(\d{1,3}):(\d\d):(\d\d)(?!\d)")
_ABOUT = r"(?:about |approximately |at least |another |up to )?"
_ASKED = re.compile(
    r"\b(?:(?:again|retry(?:ing)?|reset(?:s|ting)?|replenished|renew(?:s|ed)|refresh(?:es|ed)|refill(?:s|ed)|available"
    r"|restored|lifted|unblocked) (?:again )?(?:in|after)|retry-after:?|(?:wait|pause|back off)(?: for)?)"
    rf" {_ABOUT}(?:{_SPAN.pattern}|{_CLOCK.pattern})"
)
_UNITS_ZH = {"毫": 1e-3, "秒": 1.0, "分": 60.0, "小": 3600.0, "时": 3600.0, "天": 86400.0, "日": 86400.0}
_PART_ZH = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s?个?(毫秒|秒钟?|分钟?|小时|时|天|日)")
_SPAN_ZH = re.compile(rf"(?:{_PART_ZH.pattern}\s?)+")
_AGAIN_ZH = "重试|再试|再次|尝试|重新|恢复|重置|刷新|解除|解封|继续"
_ASKED_ZH = re.compile(
    rf"(?:等待|等候|稍等)\s?{_SPAN_ZH.pattern}|{_SPAN_ZH.pattern}(?:之|以)?后[^。\uff1b]{{0,8}}(?:{_AGAIN_ZH})"
)

_MOMENT = re.compile(
    r"(?P<year>20\d\d)[-/年](?P<month>\d{1,2})[-/月](?P<day>\d{1,2})(?!\d)日?"
    r"(?:(?: at |, ?|[t ])?(?P<hour>\d{1,2})[:时](?P<minute>\d\d)(?:[:分](?P<second>\d\d))?(?:\.\d+)?)?"
    r"\s?(?P<zone>z\b|utc|gmt|[+-]\d\d:?\d\d)?"
)
_ABOUT_A_MOMENT = re.compile(rf"reset|again|until|regain|available|after|retry|restore|renew|lifted|{_AGAIN_ZH}|前")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_BEIJING = dt.timezone(dt.timedelta(hours=8))


def wait_in(
    headers: Mapping[str, str], message: str, now: float, *, body: object = None, status: int | None = None
) -> float | None:
    """Return the seconds that a server asks us to wait; None if it does not ask.

    A header that asks for more than a year means nothing by it: then it is `LONGEST_ASKED_S`.

    Args:
        headers: the response's headers; their names in lower case, or case-insensitive.
        message: its error message, which is read if no header tells, as in `Please try again in 8.5s`; without what it
            quotes.
        now: the present by this machine's clock, in seconds since the epoch: `Retry-After` may be a date (RFC 9110,
            10.2.3). If the response has a `Date`, that time counts.
        body: its error object, parsed, which may have a field for it.
        status: its HTTP status: only under 429 the reset of a limit without its remaining amount is a wait.
    """
    asked = _in_headers(headers, now)
    if asked is not None:
        return asked if asked <= _LONGEST_S else LONGEST_ASKED_S
    present = _present(headers, now)
    field = next((each for each in _in_body(body, present) if each <= _LONGEST_S), None)
    words = _in_words(message[:LONGEST_MESSAGE].lower(), present)
    if field is not None and words is not None:  # Google's field is the whole seconds of its words
        return words if field <= words < field + 1 else field
    asked = field if words is None else words
    if asked is None and status == _TOO_MANY_REQUESTS:
        asked = _reset_of_429(headers, now)
    return asked if asked is None or asked <= _LONGEST_S else None


def _in_headers(headers: Mapping[str, str], now: float) -> float | None:
    millis = _number(headers.get("retry-after-ms"))
    if millis is not None:
        return millis / 1000
    for name in ("retry-after", "x-ratelimit-reset-after"):
        if (asked := _seconds(headers, name, now)) is not None:
            return asked
    return None


def _reset_of_429(headers: Mapping[str, str], now: float) -> float | None:
    """Read when a limit is whole again; with a remaining amount it is read as that limit (`limits_in`)."""
    for family in ("x-ratelimit", "ratelimit"):
        if headers.get(f"{family}-remaining") is None and (asked := _seconds(headers, f"{family}-reset", now)):
            return asked
    return None


def _in_words(message: str, now: float) -> float | None:
    if asked := _ASKED.search(message):
        span = asked[0]
        clock = _CLOCK.search(span)
        return _clock_length(clock) if clock else _length(span)
    if asked := _ASKED_ZH.search(message):
        return sum(float(number) * _UNITS_ZH[unit[0]] for number, unit in _PART_ZH.findall(asked[0]))
    if not _ABOUT_A_MOMENT.search(message):
        return None
    return next((left for found in _MOMENT.finditer(message) if (left := _moment(found, message) - now) > 0), None)


def _clock_length(found: re.Match[str]) -> float:
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return ((24 * days + hours) * 60 + minutes) * 60 + seconds


def _moment(found: re.Match[str], message: str) -> float:
    """Return a moment in seconds since the epoch; 0 if there is no such moment."""
    zone = found["zone"]
    if zone and zone[0] in "+-":
        sign = -1 if zone[0] == "-" else 1
        offset = sign * (3600 * int(zone[1:3]) + 60 * int(zone[-2:]))
    else:
        offset = 0 if zone or not _CHINESE.search(message) else int(_BEIJING.utcoffset(None).total_seconds())
    parts = (int(found[name] or 0) for name in ("year", "month", "day", "hour", "minute", "second"))
    try:
        return dt.datetime(*parts, tzinfo=dt.UTC).timestamp() - offset  # type: ignore[misc, arg-type]
    except (ValueError, OverflowError):
        return 0.0


# --- fields of an error object ---

# By the letters of their names in lower case; the factor makes seconds of a number.
_FIELDS = {
    **dict.fromkeys(
        ("retryafter", "retryafterseconds", "retryaftersecs", "retryaftersec", "retryafters", "retryin"), 1.0
    ),
    **dict.fromkeys(("retryinseconds", "retrydelay", "retrydelayseconds", "waitseconds", "waittime"), 1.0),
    **dict.fromkeys(("resetafter", "resetin", "resetsin", "resetsinseconds", "resetat", "resetsat"), 1.0),
    **dict.fromkeys(("retryafterms", "retryaftermillis", "retryaftermilliseconds", "retrydelayms"), 1e-3),
}
_HEADERS = {**_FIELDS, "xratelimitresetafter": 1.0, "xratelimitreset": 1.0, "ratelimitreset": 1.0}
# What quotes the request.
_QUOTING = {"input", "ctx", "loc", "messages", "prompt", "flagged_input", "patterns"}
_MOST_FIELDS, _DEEPEST = 200, 6


def _in_body(body: object, now: float) -> Iterator[float]:
    """Yield the waits in the fields of an error object."""
    seen = 0
    level: list[tuple[object, bool]] = [(body, False)]
    for _ in range(_DEEPEST):
        deeper: list[tuple[object, bool]] = []
        for value, are_headers in level:
            items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
            for name, field in items:
                seen += 1
                if seen > _MOST_FIELDS:
                    return
                letters = "".join(filter(str.isalpha, str(name).lower()))
                factor = (_HEADERS if are_headers else _FIELDS).get(letters)
                if factor and (asked := _asked(field, factor, now)) is not None:
                    yield asked
                elif isinstance(field, (dict, list)) and str(name).lower() not in _QUOTING:
                    deeper.append((field, letters == "headers"))
        level = deeper


def _asked(value: object, factor: float, now: float) -> float | None:
    if isinstance(value, dict):  # Google's durations, at times
        value = value.get("seconds")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    asked = _seconds({"asked": str(value)[:LONGEST_MESSAGE]}, "asked", now)
    return asked if asked is None or _number(str(value)) is None else asked * factor


# --- limits ---


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


# --- lengths of time and moments ---


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

"""Moments and spans that a user gives: when a run shall be finished (`by`, `within`).

Invariant: a moment is read once, to seconds since 1970-01-01 00:00 UTC, so that no later change of the clock's zone
moves it; a text that can mean two things is refused, with what to write instead.
"""

from __future__ import annotations

import datetime as dt
import re
import time

from batcher.errors import SettingsError
from batcher.words import by_reader, duration

_DAY = dt.timedelta(days=1)
_LONGEST_S = 400 * 86400.0  # a moment that is farther away is a slip, such as a wrong year
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)", re.IGNORECASE)
_WRITTEN = re.compile(
    r"(?:(\d{4}-\d\d-\d\d)[ T]+)?(\d{1,2}):(\d\d)(?::(\d\d))?\s*(Z|[+-]\d\d(?::?\d\d)?)?", re.IGNORECASE
)
_DAY_ALONE = re.compile(r"\d{4}-\d\d-\d\d")


def check_moment(value: object, where: str) -> None:
    """Refuse what names no moment.

    Raises:
        SettingsError: the message begins with `where`.
    """
    moment_of(value, where, time.time())


def check_span(value: object, where: str) -> None:
    """Refuse what is no span of time.

    Raises:
        SettingsError: the message begins with `where`.
    """
    span_of(value, where)


def moment_of(value: object, where: str, now: float) -> float:
    """Return a moment in seconds since the epoch; a time of day is the next one.

    A time of day is local, or has an offset. If the clock is put back, a local time happens twice: the first one counts
    that is not past. A time that is skipped when the clock is put forward counts as if that had not happened.

    Args:
        value: `07:00`, `2026-12-01 07:00`, either with an offset (`+01:00`, `Z`), a `datetime` or a `time`. Without an
            offset it is local time.
        where: the value's name in messages.
        now: seconds since the epoch.

    Raises:
        SettingsError: it is none of these, or farther away than any run.
    """
    try:
        found = _moment(_read(value.strip()) if isinstance(value, str) else value, now)
    except (ValueError, OverflowError):  # 25:00, or a day that there is not
        found = None
    if found is None:
        if isinstance(value, str) and _DAY_ALONE.fullmatch(value.strip()):
            raise SettingsError(f"{where} {value.strip()} is a day: give the time, too, as in '{value.strip()} 07:00'")
        raise SettingsError(f"{where} must be a time {_moments()}, not {_shown(value)}")
    if abs(found - now) > _LONGEST_S:
        raise SettingsError(f"{where} {_shown(value)} is more than a year away: is the date right?")
    return found


def _read(text: str) -> dt.datetime | dt.time | None:
    """Read a time of day or a moment.

    Raises:
        ValueError: its numbers are no time.
    """
    if not (parts := _WRITTEN.fullmatch(text)):
        return None
    day, hour, minute, second, offset = parts.groups()
    clock = dt.time.fromisoformat(f"{int(hour):02}:{minute}:{second or '00'}{(offset or '').upper()}")
    return dt.datetime.combine(dt.date.fromisoformat(day), clock) if day else clock


def _moment(value: object, now: float) -> float | None:
    if isinstance(value, dt.datetime):
        return max(_both(value), key=lambda at: at > now) if value.tzinfo is None else value.timestamp()
    if isinstance(value, dt.time):
        return _next(value, now)
    return None


def _next(clock: dt.time, now: float) -> float:
    """Return the next moment at which a clock shows a time."""
    today = dt.datetime.fromtimestamp(now, clock.tzinfo).date()
    days = [today + number * _DAY for number in (-1, 0, 1, 2)]
    shown = [dt.datetime.combine(day, clock) for day in days]
    moments = [at for each in shown for at in (_both(each) if each.tzinfo is None else [each.timestamp()])]
    return min(at for at in moments if at > now)


def _both(local: dt.datetime) -> list[float]:
    """Return the moments at which the local clock shows a time: two if it is put back meanwhile."""
    first, second = (local.replace(fold=fold).timestamp() for fold in (0, 1))
    return [first, second] if second > first else [first]


def span_of(value: object, where: str) -> float:
    """Return a span in seconds.

    Args:
        value: `8h`, `90m`, `1h30m`, `2d`, `45s`, or a `timedelta`.
        where: the value's name in messages.

    Raises:
        SettingsError: it is none of these, is not above 0, or is longer than any run.
    """
    seconds: float | None = None
    if isinstance(value, dt.timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        seconds = _written_span(value.strip())
    if seconds is None:
        unit = f": is it {value}h or {value}m?" if _is_number(value) else ""
        raise SettingsError(f"{where} must be a span of time {_spans()}, not {_shown(value)}{unit}")
    if seconds <= 0:
        raise SettingsError(f"{where} must be a span of time above 0, not {_shown(value)}")
    if seconds > _LONGEST_S:
        raise SettingsError(f"{where} {_shown(value)} is more than a year: is the unit right?")
    return seconds


def _written_span(text: str) -> float | None:
    """Return the seconds of a text such as `1h30m`; None if it is none, or has its units in another order."""
    parts = _SPAN.findall(text)
    if not parts or re.sub(r"\s+", "", _SPAN.sub("", text)):
        return None
    sizes = [_UNITS[unit.lower()] for _, unit in parts]
    if sizes != sorted(set(sizes), reverse=True):
        return None
    return sum(float(number) * size for (number, _), size in zip(parts, sizes, strict=True))


def _is_number(value: object) -> bool:
    text = str(value).strip()
    return not isinstance(value, bool) and bool(re.fullmatch(r"\d+(\.\d+)?", text))


def _moments() -> str:
    return by_reader(
        command_line="such as 07:00 or '2026-12-01 07:00' (local, or with an offset: '2026-12-01 07:00+01:00')",
        python="such as '07:00' or '2026-12-01 07:00' (local, or with an offset), or a datetime",
    )


def _spans() -> str:
    return by_reader(command_line="such as 8h, 90m or 1h30m", python="such as '8h', '90m' or '1h30m', or a timedelta")


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."


def past(at: float, now: float) -> str:
    """Return how long ago a moment was, in words."""
    return f"{moment_in_words(at, now)} is past ({duration(now - at)} ago)"


def moment_in_words(at: float, now: float) -> str:
    """Return a moment as the local clock shows it: `07:00`, with the day if it is not within the next 18 hours."""
    local = dt.datetime.fromtimestamp(at).astimezone()
    day = dt.datetime.fromtimestamp(now).astimezone().date()
    clock = f"{local:%H:%M}"
    if local.date() == day or 0 <= at - now < 18 * 3600:
        return clock
    return f"{local:%Y-%m-%d} {clock}"


def ended_in_words(ended: float, due: float) -> str:
    """Return whether what ended was in time, as `finished 5m 02s before 07:00`."""
    is_late = ended > due
    return f"finished {duration(abs(due - ended))} {'after' if is_late else 'before'} {moment_in_words(due, ended)}"


def moment_as_text(at: float) -> str:
    """Return a moment as `2026-12-01T07:00:00+01:00`, in local time."""
    return dt.datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")

"""The rate-limit headers of a server that limits, in OpenAI's format.

Invariant: what they say of a limit of requests a minute is that of a minute that refills evenly, as the limit is kept.
"""

from __future__ import annotations

import math

Headers = list[tuple[bytes, bytes]]


def minute_headers(rpm: float, used: float, wait_s: float = 0.0) -> Headers:
    """Return the headers of a limit of requests a minute.

    Args:
        rpm: the limit.
        used: requests that are not refilled yet.
        wait_s: seconds until a request is admitted again; 0 if this one was.
    """
    if wait_s:
        return rate_headers(rpm, 0, wait_s)
    return rate_headers(rpm, max(math.floor(rpm - used), 0), 60 * used / rpm)


def rate_headers(limit: float, remaining: int, reset_s: float) -> Headers:
    """Return the three headers of a limit of requests."""
    shown = f"{limit:.0f}" if limit == int(limit) else f"{limit:g}"
    values = (("limit", shown), ("remaining", str(remaining)), ("reset", length_of(reset_s)))
    return [(f"x-ratelimit-{name}-requests".encode(), value.encode()) for name, value in values]


def length_of(seconds: float) -> str:
    """Write a length of time as OpenAI does: `0s`, `120ms`, `8.64s`, `6m0s`, `1h0m0s`."""
    millis = math.ceil(seconds * 1000)
    if 0 < millis < 1000:
        return f"{millis}ms"
    minutes, millis = divmod(millis, 60_000)
    hours, minutes = divmod(minutes, 60)
    hour = f"{hours}h" if hours else ""
    return f"{hour}{f'{minutes}m' if hours or minutes else ''}{millis / 1000:g}s"

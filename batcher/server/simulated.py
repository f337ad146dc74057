"""The behaviour of the local server, and the books that it keeps.

Invariant: nothing here is random or depends on a clock: the same seed, prompt and try get the same fate, so that a run
against the simulator can be repeated.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import NormalDist
from typing import Any

from batcher.errors import SettingsError

# --- behaviour ---


@dataclass(frozen=True)
class Knobs:
    """The behaviour of the simulator. Every default is "off": it answers every request at once, with any key.

    Attributes:
        latency: seconds until an answer; the median if `latency_sigma` is not 0.
        latency_sigma: 0 for a fixed latency, else the sigma of a log-normal one.
        rpm: requests a minute that are admitted, for all keys together; further requests get 429 with `Retry-After`. 0
            means no limit.
        max_in_flight: requests in flight; further requests get 429 without `Retry-After`. 0 means no limit.
        error_rate: share of the admitted requests that are answered with 500.
        drop_rate: share of the admitted requests whose connection is cut without a response.
        cut_rate: share of the admitted requests whose connection is cut in the middle of the response.
        hang_rate: share of the admitted requests that are never answered.
        keys: the accepted API keys, empty for any; other keys get 401.
        model: the only model served, empty for any; other models get 404.
        seed: the seed of faults and latencies.

    Raises:
        SettingsError: a knob is out of its range.
    """

    latency: float = 0.0
    latency_sigma: float = 0.0
    rpm: float = 0.0
    max_in_flight: int = 0
    error_rate: float = 0.0
    drop_rate: float = 0.0
    cut_rate: float = 0.0
    hang_rate: float = 0.0
    keys: tuple[str, ...] = field(default=(), repr=False)
    model: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("latency", "latency_sigma", "rpm"):
            _require(_is_number(getattr(self, name)) and getattr(self, name) >= 0, name, "a number, 0 or more")
        fits = isinstance(self.max_in_flight, int) and not isinstance(self.max_in_flight, bool)
        _require(fits and self.max_in_flight >= 0, "max_in_flight", "a whole number, 0 or more")
        rates = ("error_rate", "drop_rate", "cut_rate", "hang_rate")
        for name in rates:
            _require(_is_number(getattr(self, name)) and 0 <= getattr(self, name) <= 1, name, "a share from 0 to 1")
        # A millionth of slack: 0.1 + 0.2 + 0.7 is a little more than 1 in binary.
        fits = sum(getattr(self, name) for name in rates) <= 1 + 1e-6
        _require(fits, " + ".join(rates), "1 at most, since a request has one fate: lower one of them")
        keys_fit = isinstance(self.keys, tuple) and all(isinstance(key, str) and key for key in self.keys)
        _require(keys_fit, "keys", "a tuple of API keys that are not empty")
        _require(isinstance(self.model, str), "model", "a model's name, or empty for any")
        _require(isinstance(self.seed, int), "seed", "a whole number")


def _require(fits: bool, name: str, what: str) -> None:
    if not fits:
        raise SettingsError(f"simulator: {name} must be {what}")


def _is_number(value: object) -> bool:
    # Beyond 1e300 an integer can exceed the range of floats; NaN fails every comparison.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


class Fate(StrEnum):
    """The fate of an admitted request."""

    ANSWER = "answer"
    ERROR = "error"
    DROP = "drop"
    CUT = "cut"
    HANG = "hang"


def draw(knobs: Knobs, prompt: str, turn: int) -> tuple[Fate, float]:
    """Draw a request's fate, and its latency in seconds, from the seed.

    Args:
        knobs: the shares, the latency and the seed.
        prompt: the text asked.
        turn: how many times this prompt was admitted before, so that a retry gets a new draw.
    """
    fate = Fate.ANSWER
    if knobs.error_rate or knobs.drop_rate or knobs.cut_rate or knobs.hang_rate:
        left = _unit("fate", knobs.seed, prompt, turn)
        shares = (
            (Fate.HANG, knobs.hang_rate),
            (Fate.DROP, knobs.drop_rate),
            (Fate.ERROR, knobs.error_rate),
            (Fate.CUT, knobs.cut_rate),
        )
        for candidate, share in shares:
            left -= share
            if left < 0:
                fate = candidate
                break
    latency = knobs.latency
    if latency and knobs.latency_sigma:
        z = NormalDist().inv_cdf(_unit("latency", knobs.seed, prompt, turn))
        latency *= math.exp(min(knobs.latency_sigma * z, 100.0))  # 100: exp overflows at 710
    return fate, latency


def _unit(*parts: object) -> float:
    """Hash the parts to a number between 0 and 1, both excluded, equal in every process."""
    # A prompt may hold half of a surrogate pair; that is allowed.
    text = "\x00".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") % 2**52 + 0.5) / 2**52


# --- books ---

SECONDS_KEPT = 3_600


class Books:
    """The server's own counts, against which a client's counts can be checked.

    Only the server writes them. Each request ends exactly once: when none is in flight, `requests` equals
    `sum(by_status.values()) + dropped + hung + abandoned`.

    Attributes:
        requests: chat requests that arrived.
        answered: requests that were answered with 200.
        requests_by_prompt, answered_by_prompt: both by the text of the last user message.
        by_key: requests by a digest of the API key (`none` without a key).
        by_status: responses by HTTP status.
        in_flight, peak_in_flight: requests in flight now, and the highest number so far.
        dropped: connections cut without a response, or in the middle of one.
        hung: requests that were never answered.
        abandoned: requests whose client left before the answer.
        first_request, last_request: Unix times in seconds, None before the first.
        per_second: requests in each of the last seconds (3,600 at most); the first one kept is second
            `per_second_start` since the first request.

    Args:
        clock: Unix time in seconds.
        by_prompt: whether to count by prompt, which takes memory for each prompt; otherwise those counts stay empty.
    """

    def __init__(self, clock: Callable[[], float] = time.time, *, by_prompt: bool = True) -> None:
        self._clock = clock
        self._by_prompt = by_prompt
        self.reset()

    def reset(self) -> None:
        """Reset all counts except the requests in flight, whose ends go into the new counts."""
        self.requests = 0
        self.answered = 0
        self.requests_by_prompt: dict[str, int] = {}
        self.answered_by_prompt: dict[str, int] = {}
        self.by_key: dict[str, int] = {}
        self.by_status: dict[int, int] = {}
        self.in_flight: int = getattr(self, "in_flight", 0)
        self.peak_in_flight: int = self.in_flight
        self.dropped = 0
        self.hung = 0
        self.abandoned = 0
        self.first_request: float | None = None
        self.last_request: float | None = None
        self.per_second: deque[int] = deque(maxlen=SECONDS_KEPT)
        self.per_second_start = 0
        self._admitted: dict[str, int] = {}

    def arrive(self, prompt: str | None, key: str) -> None:
        """Record a request: its prompt, if it has one, and a digest of its API key."""
        self.requests += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        if prompt is not None and self._by_prompt:
            _add(self.requests_by_prompt, prompt)
        _add(self.by_key, hashlib.sha256(key.encode()).hexdigest()[:12] if key else "none")
        self._tick()

    def admit(self, prompt: str) -> int:
        """Record that a request was admitted; return how many of its prompt were admitted before.

        Without counts by prompt it returns the number of all requests: a retry still gets a new draw, but a run cannot
        be repeated.
        """
        if not self._by_prompt:
            return self.requests
        # Refusals are left out: their number depends on timing, and so the fates would.
        turn = self._admitted.get(prompt, 0)
        self._admitted[prompt] = turn + 1
        return turn

    def respond(self, status: int, prompt: str | None = None) -> None:
        """Record a response, with its prompt if it is an answer."""
        self.in_flight -= 1
        _add(self.by_status, status)
        if prompt is not None:
            self.answered += 1
            if self._by_prompt:
                _add(self.answered_by_prompt, prompt)

    def drop(self) -> None:
        """Record a connection that was cut, with or without half a response."""
        self.in_flight -= 1
        self.dropped += 1

    def hang(self) -> None:
        """Record a request that will not be answered; it is in flight until `let_go`."""
        self.hung += 1

    def let_go(self) -> None:
        """Record that the client of a hung request has left."""
        self.in_flight -= 1

    def abandon(self) -> None:
        """Record that a client left before its answer."""
        self.in_flight -= 1
        self.abandoned += 1

    def _tick(self) -> None:
        now = self._clock()
        if self.first_request is None:
            self.first_request = now
        self.last_request = now
        second = max(int(now - self.first_request), self.per_second_start)
        behind = second - (self.per_second_start + len(self.per_second) - 1)
        if behind > 0:
            kept = len(self.per_second)
            self.per_second.extend([0] * min(behind, SECONDS_KEPT))
            self.per_second_start += max(kept + behind - SECONDS_KEPT, 0)
        # If the clock was set back, the request counts into an earlier second.
        self.per_second[second - self.per_second_start] += 1

    def to_dict(self) -> dict[str, Any]:
        """Copy the counts into a dictionary that JSON can hold; safe to call from another thread."""
        return {
            "requests": self.requests,
            "answered": self.answered,
            "in_flight": self.in_flight,
            "peak_in_flight": self.peak_in_flight,
            "dropped": self.dropped,
            "hung": self.hung,
            "abandoned": self.abandoned,
            "by_status": {str(status): count for status, count in list(self.by_status.items())},
            "by_key": dict(self.by_key),
            "requests_by_prompt": dict(self.requests_by_prompt),
            "answered_by_prompt": dict(self.answered_by_prompt),
            "per_second": list(self.per_second),
            "per_second_start": self.per_second_start,
            "first_request": self.first_request,
            "last_request": self.last_request,
        }


def _add(counts: dict[Any, int], name: str | int) -> None:
    counts[name] = counts.get(name, 0) + 1

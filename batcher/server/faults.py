"""The faults of the local server: which requests meet which fault, by rules that the user gives.

Invariant: what a request meets depends on the rules, the seed, the request and what came before it, never on chance.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

from batcher.errors import SettingsError
from batcher.words import counted

_REDIRECT = 300  # the lowest status that is no success


class Fate(StrEnum):
    """What becomes of a request."""

    ANSWER = "answer"
    ERROR = "error"
    DROP = "drop"
    CUT = "cut"
    EMPTY = "empty"
    LENGTH = "length"
    CHOICES = "choices"
    HOLE = "hole"
    BREAK = "break"
    STALL = "stall"
    HANG = "hang"


class Reply(NamedTuple):
    """A response that is not an answer.

    Attributes:
        status: of HTTP.
        body: a text, sent as it is; anything else, sent as JSON. `{prompt}` and `{model}` in its texts are replaced by
            those of the request.
        headers: besides the length of the body; the type of the content follows from the body if it is not among them.
    """

    status: int
    body: Any = ""
    headers: Mapping[str, str] = {}

    def raw(self, prompt: str, model: str) -> bytes:
        """Return the body for a request."""
        filled = _filled(self.body, {"{prompt}": prompt, "{model}": model})
        # A prompt may hold half of a surrogate pair, which JSON can write and UTF-8 cannot.
        return filled.encode("utf-8", "replace") if isinstance(filled, str) else json.dumps(filled).encode()

    @property
    def header_lines(self) -> list[tuple[bytes, bytes]]:
        """The headers as ASGI has them."""
        lines = {name.lower(): value for name, value in self.headers.items()}
        lines = {"content-type": self._kind} | lines
        return [(name.encode(), value.encode("latin-1")) for name, value in lines.items()]

    @property
    def _kind(self) -> str:
        if not isinstance(self.body, str):
            return "application/json"
        return "text/html; charset=utf-8" if self.body.lstrip().startswith("<") else "text/plain; charset=utf-8"


def _filled(value: Any, words: Mapping[str, str]) -> Any:
    """Replace words in every text of a JSON value."""
    match value:
        case str():
            # In one pass, so that a prompt which holds "{model}" stays as it is.
            return re.sub(r"\{(?:prompt|model)\}", lambda found: words[found[0]], value)
        case list():
            return [_filled(each, words) for each in value]
        case dict():
            return {name: _filled(each, words) for name, each in value.items()}
    return value


class Request(NamedTuple):
    """A request as the rules see it.

    Attributes:
        prompt: the text of its last user message, or of one of its prompts or inputs; of a request for a tunnel
            (CONNECT), the host and the port.
        model: that it asks; empty for a tunnel.
        key: its API key.
        number: its place among all requests, from 1.
        seconds: since the first request.
        is_tunnel: it asks a proxy for a tunnel.
        is_line: it is a line of a batch, for which there is no limit of requests a minute.
        tier: the service tier that it asks for; empty: none.
    """

    prompt: str
    model: str = ""
    key: str = ""
    number: int = 1
    seconds: float = 0.0
    is_tunnel: bool = False
    is_line: bool = False
    tier: str = ""


@dataclass(frozen=True)
class FaultRule:
    """A fault, and the requests that meet it: those for which every condition holds.

    `batcher.server.fault_file` reads rules from a file, and checks them.

    Attributes:
        does: what becomes of the request. `Fate.ERROR` sends `reply`; `Fate.ANSWER` answers, after `delay`.
        reply: the response, for `Fate.ERROR`.
        delay: seconds before that.
        is_paid: the model has made the answer before the fault, so that the service bills it.
        match: a regular expression that the prompt has to contain; empty: any prompt.
        model: the only model; empty: any.
        keys: the only API keys; empty: any.
        start, end: seconds since the first request.
        first, last: the numbers of the requests, counted from 1.
        share: of the prompts, drawn from the prompt itself.
        times: how many requests of a prompt meet it; 0: all.
        after_answers: answers, to `keys`, that have to be sent before.
        rpm: requests a minute, of those for which all else holds, that do not meet it; 0: each meets it.
        name: for people.
        forms: how structured output is treated, by a name of `batcher.server.ways.WAYS`; empty: as for all requests.
        tier: the only service tier that requests ask for; empty: any, and none.

    Raises:
        SettingsError: `reply` does not go with `does`, or `match` is not a regular expression.
    """

    does: Fate
    reply: Reply | None = None
    delay: float = 0.0
    is_paid: bool = False
    match: str = ""
    model: str = ""
    keys: tuple[str, ...] = field(default=(), repr=False)
    start: float = 0.0
    end: float = math.inf
    first: int = 1
    last: float = math.inf
    share: float = 1.0
    times: int = 0
    after_answers: int = 0
    rpm: float = 0.0
    name: str = ""
    forms: str = ""
    tier: str = ""

    def __post_init__(self) -> None:
        if (self.does is Fate.ERROR) == (self.reply is None):
            raise SettingsError("a fault has a reply if it is an error, and else none")
        if self.forms and self.does is not Fate.ANSWER:
            raise SettingsError("a fault that treats forms in another way must answer")
        try:
            re.compile(self.match)
        except (re.error, RecursionError, OverflowError) as error:
            raise SettingsError(f"match is not a regular expression: {error}: {self.match[:60]!r}") from error

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.match)

    @cached_property
    def _refuses_tunnels(self) -> bool:
        # A success would open the tunnel, and an answer cannot be sent through it.
        return self.does in {Fate.HANG, Fate.DROP} or (self.reply is not None and self.reply.status >= _REDIRECT)

    def is_for(self, key: str) -> bool:
        """Return whether it concerns requests with this API key."""
        return not self.keys or key in self.keys

    def fits(self, request: Request, salt: object) -> bool:
        """Return whether every condition holds that needs no memory of other requests.

        Args:
            request: the request.
            salt: goes into the draw of `share`, so that two rules draw different prompts.
        """
        return (
            self.start <= request.seconds < self.end
            and self.first <= request.number <= self.last
            and self.is_for(request.key)
            and (self._refuses_tunnels or not request.is_tunnel)
            and not (request.is_line and self.rpm)
            and self.model in {"", request.model}
            and self.tier in {"", request.tier}
            and (self.share >= 1 or unit("fault", salt, request.prompt) < self.share)
            and (not self.match or self._pattern.search(request.prompt) is not None)
        )

    def __str__(self) -> str:
        return self.name or (str(self.does) if self.reply is None else f"HTTP {self.reply.status}")

    def in_words(self) -> str:
        """Return it with its conditions: `HTTP 403, for prompts that match 'DROP TABLE'`."""
        parts = [f"for {counted(len(self.keys), 'API key')}"] if self.keys else []
        parts += [f"for model {self.model}"] if self.model else []
        parts += [f"in the tier {self.tier}"] if self.tier else []
        parts += [f"for prompts that match {self.match!r}"] if self.match else []
        parts += [f"for {self.share:.3g} of the prompts"] if self.share < 1 else []
        parts += [f"{counted(self.times, 'time')} each"] if self.times else []
        end = f"to {self.end:g} s" if self.end < math.inf else "on"
        parts += [f"from {self.start:g} s {end}"] if self.start or self.end < math.inf else []
        last = f"to {self.last:,.0f}" if self.last < math.inf else "and later ones"
        parts += [f"requests {self.first:,} {last}"] if self.first > 1 or self.last < math.inf else []
        parts += [f"after {counted(self.after_answers, 'answer')}"] if self.after_answers else []
        parts += [f"beyond {self.rpm:g} request{'' if self.rpm == 1 else 's'} a minute"] if self.rpm else []
        parts += [f"{self.delay:g} s late"] if self.delay else []
        return ", ".join([str(self), *parts])


class Bucket:
    """A token bucket: `rpm` requests a minute, and a burst of one second's worth.

    Args:
        rpm: requests a minute; 0 admits all.
        clock: seconds, from any beginning.
    """

    def __init__(self, rpm: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rpm / 60
        self._size = 1 + self._rate
        self._level = self._size
        self._clock = clock
        self._filled = clock()

    @property
    def used(self) -> float:
        """Requests that were admitted and are not refilled yet."""
        return self._size - min(self._level + (self._clock() - self._filled) * self._rate, self._size)

    def take(self) -> float:
        """Admit a request and return 0, or return the seconds until one will be admitted."""
        if not self._rate:
            return 0.0
        now = self._clock()
        self._level = min(self._level + (now - self._filled) * self._rate, self._size)
        self._filled = now
        if self._level < 1:
            return (1 - self._level) / self._rate
        self._level -= 1
        return 0.0


class Met(NamedTuple):
    """A fault that a request has met, the text that met it, and the seconds until its limit admits one again, or 0."""

    number: int
    rule: FaultRule
    prompt: str
    wait_s: float = 0.0

    @property
    def label(self) -> str:
        """Its number in the file and its name."""
        return f"{self.number} {self.rule}"


class _Watched:
    """A rule with what it has to remember: its hits by prompt, the answers, and its limit."""

    def __init__(self, number: int, rule: FaultRule, clock: Callable[[], float]) -> None:
        self._number = number
        self._rule = rule
        self._hits: Counter[str] = Counter()
        self._answers = 0
        self._bucket = Bucket(rule.rpm, clock)

    def meet(self, requests: Iterable[Request], seed: int) -> Met | None:
        """Return what a request meets, which is given once for each of its texts: one of them is enough."""
        if self._answers < self._rule.after_answers:
            return None
        prompt = next((each.prompt for each in requests if self._concerns(each, seed)), None)
        if prompt is None:
            return None
        wait_s = self._bucket.take()
        if self._rule.rpm and not wait_s:
            return None
        if self._rule.times:
            self._hits[prompt] += 1
        return Met(self._number, self._rule, prompt, wait_s)

    def _concerns(self, request: Request, seed: int) -> bool:
        rule = self._rule
        if rule.times and self._hits[request.prompt] >= rule.times:
            return False
        return rule.fits(request, f"{seed} {self._number}")

    def answered(self, key: str) -> None:
        self._answers += self._rule.is_for(key)


class Faults:
    """Finds the fault that a request meets: the first rule whose conditions hold.

    Args:
        rules: in their order.
        seed: draws other prompts for the shares.
        clock: seconds, from any beginning.
    """

    def __init__(self, rules: Sequence[FaultRule], seed: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules = rules
        self._seed = seed
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget all requests: times and counts begin anew."""
        self._requests = 0
        self._first: float | None = None
        self._watched = [_Watched(number, rule, self._clock) for number, rule in enumerate(self._rules, 1)]

    def meet(
        self,
        prompt: str,
        model: str = "",
        key: str = "",
        *,
        further: Sequence[str] = (),
        is_tunnel: bool = False,
        is_line: bool = False,
        tier: str = "",
    ) -> Met | None:
        """Count a request, as `Request` describes it, with its further texts, and return the fault that it meets."""
        if not self._rules:
            return None
        now = self._clock()
        if self._first is None:
            self._first = now
        self._requests += 1
        seconds = now - self._first
        texts = (prompt, *further)
        requests = [Request(text, model, key, self._requests, seconds, is_tunnel, is_line, tier) for text in texts]
        return next(filter(None, (each.meet(requests, self._seed) for each in self._watched)), None)

    def answered(self, key: str) -> None:
        """Count an answer that was sent to an API key."""
        for each in self._watched:
            each.answered(key)


def unit(*parts: object) -> float:
    """Hash the parts to a number between 0 and 1, both excluded, equal in every process."""
    # A prompt may hold half of a surrogate pair; that is allowed.
    text = "\x00".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") % 2**52 + 0.5) / 2**52

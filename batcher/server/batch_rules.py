"""How the local server plays batches: how long they take, how much it takes in, and what goes wrong.

Invariant: what a batch, a line or a request meets depends on the rules, the seed and what came before it, never on
chance.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property

from batcher.errors import SettingsError
from batcher.server.faults import Fate, Reply, unit
from batcher.words import counted, option

DAY_S = 86_400.0


class State(StrEnum):
    """The state of a batch, in OpenAI's words."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether it is the last one."""
        return self in (State.COMPLETED, State.FAILED, State.EXPIRED, State.CANCELLED)


class Place(StrEnum):
    """A request about files or batches, as a rule names it."""

    UPLOAD = "upload"
    FILES = "files"
    FILE = "file"
    CONTENT = "content"
    DELETE = "delete"
    CREATE = "create"
    LIST = "list"
    LOOK = "look"
    CANCEL = "cancel"


CHANGING = (Place.UPLOAD, Place.DELETE, Place.CREATE, Place.CANCEL)
"""Requests that change something, which can be done although their answer is lost."""

HIDDEN = (Place.FILES, Place.LIST, Place.CONTENT)
"""What may show late: an uploaded file, a new batch, the results of a batch that is over."""


class Slip(StrEnum):
    """What becomes of a line of the results."""

    DROP = "drop"
    DOUBLE = "double"
    FOREIGN = "foreign"
    BROKEN = "broken"


@dataclass(frozen=True)
class BatchRule:
    """A fault of the batch API, and what meets it: that for which every condition holds.

    It is one of four: a request about files or batches (`at`), a batch's end (`end`), its results (`lines`), or how
    long it takes (`takes`).

    Attributes:
        at: the request that it is about.
        does: what becomes of that request. `Fate.ERROR` sends `reply`; `Fate.ANSWER` answers, after `delay`.
        reply: the response, for `Fate.ERROR`.
        delay: seconds before that.
        is_done: the request has its effect all the same: the batch is made, the file is kept.
        late: seconds until a file or batch is listed (`at` is `FILES` or `LIST`), or until results show (`CONTENT`).
        end: how a batch ends, whose file is in order.
        answered: the share of its lines that are answered then.
        is_listed: lines without an answer are in the error file; None: only those of a batch that expired.
        code, message: of the error of a batch that fails.
        lines: what becomes of lines of the results.
        takes: seconds that a batch takes; None: as all take.
        match: a regular expression that a line's prompt has to contain, or the prompt of one of a batch's lines.
        model: the only model; empty: any.
        share: of the lines (`lines`), drawn from their prompts.
        first, last: numbers from 1: of the batch, in the order in which they were made, or of the request at `at`.
        start, end_s: seconds since the first request about files or batches.
        times: how many lines, batches or requests meet it; 0: all.
        name: for people.

    Raises:
        SettingsError: these do not go together, or `match` is not a regular expression.
    """

    at: Place | None = None
    does: Fate = Fate.ANSWER
    reply: Reply | None = None
    delay: float = 0.0
    is_done: bool = False
    late: float = 0.0
    end: State | None = None
    answered: float = 0.0
    is_listed: bool | None = None
    code: str = ""
    message: str = ""
    lines: Slip | None = None
    takes: float | None = None
    match: str = ""
    model: str = ""
    share: float = 1.0
    first: int = 1
    last: float = math.inf
    start: float = 0.0
    end_s: float = math.inf
    times: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        given = [self.at is not None, self.end is not None, self.lines is not None, self.takes is not None]
        if sum(given) != 1:
            raise SettingsError("a fault of batches is about a request (at), an end, lines, or what a batch takes")
        if (self.does is Fate.ERROR) == (self.reply is None):
            raise SettingsError("a fault has a reply if it is an error, and else none")
        try:
            re.compile(self.match)
        except (re.error, RecursionError, OverflowError) as error:
            raise SettingsError(f"match is not a regular expression: {error}: {self.match[:60]!r}") from error

    def finds(self, prompt: str) -> bool:
        """Return whether a prompt is one of those that it is for."""
        return not self.match or self._pattern.search(prompt) is not None

    def is_for(self, number: int, seconds: float, model: str = "") -> bool:
        """Return whether the batch or request of this number, time and model meets it."""
        return self.first <= number <= self.last and self.start <= seconds < self.end_s and self.model in {"", model}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.match)

    def __str__(self) -> str:
        return self.name or self._what

    @property
    def _what(self) -> str:
        if self.end:
            said = f"{self.answered:.3g} of the lines answered" if self.answered else "no line answered"
            return f"{self.end}, {said}"
        if self.lines:
            return f"lines: {self.lines}"
        if self.takes is not None:
            return f"takes {self.takes:g} s"
        if self.late:
            return f"{self.at}: shows {self.late:g} s late"
        done = " when it is done" if self.is_done else ""
        what = f"HTTP {self.reply.status}" if self.reply else "slow" if self.does is Fate.ANSWER else str(self.does)
        return f"{self.at}: {what}{done}"

    def in_words(self) -> str:
        """Return it with its conditions."""
        parts = [f"for model {self.model}"] if self.model else []
        parts += [f"for prompts that match {self.match!r}"] if self.match else []
        parts += [f"for {self.share:.3g} of the lines"] if self.share < 1 else []
        end = f"to {self.end_s:g} s" if self.end_s < math.inf else "on"
        parts += [f"from {self.start:g} s {end}"] if self.start or self.end_s < math.inf else []
        of = "requests" if self.at and not self.late else "batches"
        last = f"to {self.last:,.0f}" if self.last < math.inf else "and later ones"
        parts += [f"{of} {self.first:,} {last}"] if self.first > 1 or self.last < math.inf else []
        parts += [counted(self.times, "time")] if self.times else []
        parts += [f"{self.delay:g} s late"] if self.delay else []
        return ", ".join([str(self), *parts])


@dataclass(frozen=True)
class BatchKnobs:
    """How the server plays batches. By default a batch is answered at once, and all fits.

    Attributes:
        latency: seconds that a batch takes.
        idle: share of that time before the first line is answered; the lines then come evenly.
        window: seconds that a completion window of 24 h lasts; other ones accordingly.
        cancelling: seconds until a batch that is being cancelled is cancelled.
        speed: so many times as fast the server's clock goes for batches.
        queue_tokens, queue_requests: prompt tokens and lines of the batches that are not over, at most; 0: any number.
        file_requests, file_bytes: lines and bytes of a file, at most.
        in_order: the results come in the order of the lines, and not shuffled.
        rules: the faults. Of those about requests, ends and times the first that fits decides; each of those about
            lines counts.
        seed: draws.

    Raises:
        SettingsError: a knob is out of its range.
    """

    latency: float = 0.0
    idle: float = 0.0
    window: float = DAY_S
    cancelling: float = 0.0
    speed: float = 1.0
    queue_tokens: int = 0
    queue_requests: int = 0
    file_requests: int = 50_000
    file_bytes: int = 200_000_000
    in_order: bool = False
    rules: tuple[BatchRule, ...] = field(default=(), repr=False)
    seed: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        for name in ("latency", "cancelling"):
            _require(_is_number(getattr(self, name)) and getattr(self, name) >= 0, name, "a time, 0 or more")
        for name in ("window", "speed"):
            _require(_is_number(getattr(self, name)) and getattr(self, name) > 0, name, "above 0")
        _require(_is_number(self.idle) and 0 <= self.idle < 1, "idle", "a share from 0 to below 1")
        for name, least in {"queue_tokens": 0, "queue_requests": 0, "file_requests": 1, "file_bytes": 1}.items():
            value = getattr(self, name)
            fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
            _require(fits, name, f"a whole number, {least} or more")
        _require(isinstance(self.rules, tuple), "faults", "a tuple of BatchRule")

    @property
    def in_words(self) -> str:
        """The knobs that are turned, as the command line spells them; empty if none is."""
        turned = ((each.name, getattr(self, each.name)) for each in fields(self) if each.repr)
        return " ".join(option(f"batch_{name}", value) for name, value in turned if value != getattr(BatchKnobs, name))


def _require(fits: bool, name: str, what: str) -> None:
    if not fits:
        raise SettingsError(f"{option(f'batch_{name}')} must be {what}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


class Rules:
    """Finds the rules that something meets, and remembers how often each was met.

    Args:
        rules: in their order.
        seed: draws other lines for the shares.
        see: is called with the number and name of each rule that is met.
    """

    def __init__(self, rules: tuple[BatchRule, ...], seed: int, see: Callable[[str], None]) -> None:
        self._rules = rules
        self._seed = seed
        self._see = see
        self._requests: Counter[Place] = Counter()
        self._met: Counter[int] = Counter()
        self._seeking = [place for place, rule in enumerate(rules) if rule.match and not rule.lines]

    def found_in(self, prompt: str) -> set[int]:
        """Return the places of the rules for batches whose `match` finds something in a prompt."""
        return {place for place in self._seeking if self._rules[place].finds(prompt)}

    def at(self, place: Place, seconds: float) -> BatchRule | None:
        """Count a request, and return what it meets."""
        self._requests[place] += 1
        number = self._requests[place]
        return self._first(lambda rule: rule.at is place and not rule.late and rule.is_for(number, seconds))

    def late(self, place: Place, number: int, seconds: float) -> float:
        """Return the seconds after which the file or the batch of this number shows; to be asked once for each."""
        rule = self._first(lambda rule: rule.at is place and bool(rule.late) and rule.is_for(number, seconds))
        return rule.late if rule else 0.0

    def end(self, number: int, seconds: float, model: str, found: Collection[int]) -> BatchRule | None:
        """Return how the batch of this number ends; `found` are the rules that its prompts fit."""
        return self._of_batch(lambda rule: rule.end is not None, number, seconds, model, found)

    def takes(self, number: int, seconds: float, model: str, found: Collection[int]) -> float | None:
        """Return the seconds that the batch of this number takes, if a rule says so."""
        rule = self._of_batch(lambda rule: rule.takes is not None, number, seconds, model, found)
        return rule.takes if rule else None

    def slips(self, prompt: str, number: int, seconds: float, model: str) -> list[Slip]:
        """Return what becomes of a line of the results of the batch of this number."""
        found = []
        for place, rule in enumerate(self._rules):
            if rule.lines is None or not rule.is_for(number, seconds, model) or not rule.finds(prompt):
                continue
            if rule.share < 1 and unit("batch fault", self._seed, place, prompt) >= rule.share:
                continue
            if self._meets(place):
                found.append(rule.lines)
        return found

    def _of_batch(
        self, fits: Callable[[BatchRule], bool], number: int, seconds: float, model: str, found: Collection[int]
    ) -> BatchRule | None:
        wanted = {id(self._rules[place]) for place in self._seeking if place not in found}
        return self._first(lambda rule: fits(rule) and rule.is_for(number, seconds, model) and id(rule) not in wanted)

    def _first(self, fits: Callable[[BatchRule], bool]) -> BatchRule | None:
        return next((rule for place, rule in enumerate(self._rules) if fits(rule) and self._meets(place)), None)

    def _meets(self, place: int) -> bool:
        rule = self._rules[place]
        if rule.times and self._met[place] >= rule.times:
            return False
        self._met[place] += 1
        self._see(f"{place + 1} {rule}")
        return True

"""The behaviour of the local server: how soon it answers, and which requests fail.

Invariant: nothing here is random or depends on a clock: the same seed, prompt and try get the same fate, so that a run
against the simulator can be repeated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import cached_property
from statistics import NormalDist

from batcher.errors import SettingsError
from batcher.server.batch_rules import BatchKnobs
from batcher.server.confusion import Confusion
from batcher.server.faults import Fate, FaultRule, unit
from batcher.server.replying import Slips
from batcher.server.ways import WAYS, Way, checked, knob, schedule_of
from batcher.words import option

__all__ = ["Fate", "Knobs", "draw"]


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
        faults: what further requests meet, before anything else is looked at; the first rule that fits decides.
        forms: how structured output is treated, by a name of `batcher.server.ways.WAYS`; `full,200:deepseek` changes
            after 200 requests.
        wrong_labels: share of the prompts that get a wrong label.
        dressed: share of the prompts whose answer is dressed up, if no form holds it.
        confusion: the true labels, and the chances of what the model answers; comes before `wrong_labels`.
        batches: how batches are played.

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
    faults: tuple[FaultRule, ...] = field(default=(), repr=False)
    forms: str = "full"
    wrong_labels: float = 0.0
    dressed: float = 0.0
    confusion: Confusion | None = field(default=None, repr=False)
    batches: BatchKnobs = field(default=BatchKnobs(), repr=False)

    def __post_init__(self) -> None:
        for name in ("latency", "latency_sigma", "rpm"):
            _require(_is_number(getattr(self, name)) and getattr(self, name) >= 0, name, "a number, 0 or more")
        fits = isinstance(self.max_in_flight, int) and not isinstance(self.max_in_flight, bool)
        _require(fits and self.max_in_flight >= 0, "max_in_flight", "a whole number, 0 or more")
        rates = ("error_rate", "drop_rate", "cut_rate", "hang_rate")
        for name in (*rates, "wrong_labels", "dressed"):
            _require(_is_number(getattr(self, name)) and 0 <= getattr(self, name) <= 1, name, "a share from 0 to 1")
        # A millionth of slack: 0.1 + 0.2 + 0.7 is a little more than 1 in binary.
        fits = sum(getattr(self, name) for name in rates) <= 1 + 1e-6
        _require(fits, " + ".join(rates), "1 at most, since a request has one fate: lower one of them")
        keys_fit = isinstance(self.keys, tuple) and all(isinstance(key, str) and key for key in self.keys)
        _require(keys_fit, "keys", "a tuple of API keys that are not empty")
        _require(isinstance(self.model, str), "model", "a model's name, or empty for any")
        _require(isinstance(self.seed, int), "seed", "a whole number")
        faults_fit = isinstance(self.faults, tuple) and all(isinstance(rule, FaultRule) for rule in self.faults)
        _require(faults_fit, "faults", "a tuple of FaultRule")
        _require(isinstance(self.forms, str), "forms", "the name of a way")
        _require(isinstance(self.confusion, Confusion | None), "confusion", "made by confusion_of or read_confusion")
        _require(isinstance(self.batches, BatchKnobs), "batches", "BatchKnobs")
        _ = self._schedule
        for rule in self.faults:
            if rule.forms:
                checked(rule.forms, "simulator: a fault's forms")

    @property
    def in_words(self) -> str:
        """The knobs that are turned, as the command line spells them; empty if none is."""
        turned = ((each.name, getattr(self, each.name)) for each in fields(self) if each.repr)
        said = [option(name, value) for name, value in turned if value != getattr(Knobs, name)]
        return " ".join(filter(None, [*said, self.batches.in_words]))

    @property
    def slips(self) -> Slips:
        """The mistakes of the model."""
        return Slips(self.wrong_labels, self.dressed, self.seed)

    def way_after(self, requests: int) -> Way:
        """Return how the forms are treated after a number of requests."""
        return WAYS[next(name for after, name in reversed(self._schedule) if after <= requests)]

    @cached_property
    def _schedule(self) -> tuple[tuple[int, str], ...]:
        return schedule_of(self.forms)


def _require(fits: bool, name: str, what: str) -> None:
    if not fits:
        raise SettingsError(f"{' + '.join(map(knob, name.split(' + ')))} must be {what}")


def _is_number(value: object) -> bool:
    # Beyond 1e300 an integer can exceed the range of floats; NaN fails every comparison.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def draw(knobs: Knobs, prompt: str, turn: int) -> tuple[Fate, float]:
    """Draw a request's fate, and its latency in seconds, from the seed.

    Args:
        knobs: the shares, the latency and the seed.
        prompt: the text asked.
        turn: how many times this prompt was admitted before, so that a retry gets a new draw.
    """
    fate = Fate.ANSWER
    if knobs.error_rate or knobs.drop_rate or knobs.cut_rate or knobs.hang_rate:
        left = unit("fate", knobs.seed, prompt, turn)
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
        z = NormalDist().inv_cdf(unit("latency", knobs.seed, prompt, turn))
        latency *= math.exp(min(knobs.latency_sigma * z, 100.0))  # 100: exp overflows at 710
    return fate, latency

"""A model whose errors are stated: the true label of each text, and the chances of what the model answers to it.

Invariant: an answer depends on the seed, the model, the prompt, and how often the model has answered it (and, if the
model changes, any other) before; never on chance or a clock.

A test states the truth and the errors, runs batcher against the server for real, and knows what must come out:

    confusion = confusion_of({"truth": {"It broke.": "bad", "A joy.": "good"}, "accuracy": 0.8})
    with embedded(Knobs(confusion=confusion, seed=7)) as server:
        batcher.run(texts, "{text}", labels=["good", "bad"], base_url=server.base_url, model="any", keyword="k")

A seam without a server: `Speaker(confusion, seed=7).say(prompt, "any")` returns the label and its probability.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import NamedTuple, Protocol

from batcher.server.answers import core_of
from batcher.server.faults import unit
from batcher.words import counted

_BEGINNING = 16  # characters of a text by which it is looked up in a prompt
_LEAST = 1e-6  # probability of an answer that is given: its logarithm is sent


class Truth(Protocol):
    """Knows the true labels."""

    def label_in(self, prompt: str) -> str | None:
        """Return the true label of a prompt; None if it is not known."""


class TextTruth:
    """True labels by text: the longest text that the prompt contains counts, of equally long ones the last.

    Args:
        labels: the true label of each text. Texts must not be empty.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = dict(labels)
        self._by_beginning: dict[str, list[str]] = defaultdict(list)
        for text in self._labels:
            self._by_beginning[text[:_BEGINNING]].append(text)
        for texts in self._by_beginning.values():
            texts.sort(key=len, reverse=True)
        self._widths = sorted({len(beginning) for beginning in self._by_beginning}, reverse=True)

    def label_in(self, prompt: str) -> str | None:
        found = ""
        for start in range(len(prompt)):
            for width in self._widths:
                texts = self._by_beginning.get(prompt[start : start + width], ())
                text = next((text for text in texts if prompt.startswith(text, start)), "")
                if len(text) >= max(len(found), 1):
                    found = text
        return self._labels.get(found)


class MarkedTruth:
    """True labels in the prompts themselves.

    Args:
        marker: a regular expression, whose first group is the true label.
    """

    def __init__(self, marker: re.Pattern[str]) -> None:
        self._marker = marker

    def label_in(self, prompt: str) -> str | None:
        found = self._marker.search(prompt)
        return found[1] if found else None


@dataclass(frozen=True)
class Errors:
    """How a model answers.

    Attributes:
        chances: of each answer, by true label; those of a true label add up to 1.
        spread: how unlike the rows of a true label are, from 0 to 1. A row is answered rightly with the chance
            c + spread * (u^((1-c)/c) - c), for the chance c of its label and a number u between 0 and 1 drawn for the
            row, which all models share. The mean over the rows is c: at 1 it is a Beta(c/(1-c), 1) distribution.
        stay: the chance that a prompt which was answered before gets its first answer again; otherwise the answer is
            drawn anew. None: 1 for requests without a temperature or with 0, and 0 for others.
    """

    chances: Mapping[str, Mapping[str, float]]
    spread: float = 0.0
    stay: float | None = None

    @cached_property
    def labels(self) -> frozenset[str]:
        """All true labels, and all answers."""
        return frozenset(self.chances).union(*self.chances.values())


class Stage(NamedTuple):
    """How a model answers once it has given so many answers."""

    after: int
    errors: Errors


@dataclass(frozen=True)
class Confusion:
    """A model, or several, whose errors are stated; `batcher.server.confusion_file` makes it.

    Attributes:
        truth: knows the true labels.
        models: the stages of each model by its name, the first one after 0 answers; those of "" for any other model.
        source: where it is from, for people.
        texts: how many texts have a true label; 0 if a marker says it.
    """

    truth: Truth = field(repr=False)
    models: Mapping[str, tuple[Stage, ...]]
    source: str = ""
    texts: int = 0

    def in_words(self) -> str:
        """Say what is stated."""
        whose = f"{counted(self.texts, 'text')} of {self.source}" if self.texts else f"the prompts, by {self.source}"
        named = [name for name in self.models if name]
        models = f"; {', '.join(named)} {'has' if len(named) == 1 else 'have'} errors of their own" if named else ""
        return f"the true labels of {whose}, answered with the errors that are stated there{models}"


class Spoken(NamedTuple):
    """What the model answers.

    Attributes:
        label: the answer.
        labels: all that there are.
        chances: the probability of the label as the model itself puts it, and of others; they add up to 1. That of the
            label is the chance with which the model answers this row rightly, so that it is calibrated.
    """

    label: str
    labels: Collection[str]
    chances: Mapping[str, float]


class Speaker:
    """Answers prompts as a stated confusion wants it, and counts its answers.

    Args:
        confusion: what is stated.
        seed: draws other answers.
        unknown: is called with each prompt whose true label is not known.
    """

    def __init__(
        self, confusion: Confusion, seed: int = 0, unknown: Callable[[str], None] = lambda _prompt: None
    ) -> None:
        self._confusion = confusion
        self._seed = seed
        self._unknown = unknown
        self.reset()

    def reset(self) -> None:
        """Forget which prompts were answered, and how many."""
        self._by_model: Counter[str] = Counter()
        self._by_prompt: Counter[bytes] = Counter()

    def say(self, prompt: str, model: str = "", temperature: float | None = None) -> Spoken | None:
        """Answer a prompt; None if its true label is not known.

        Args:
            prompt: the text of the last user message.
            model: that is asked.
            temperature: of the request; None if it has none.
        """
        text = core_of(prompt)
        stages = self._confusion.models.get(model) or self._confusion.models[""]
        true = self._confusion.truth.label_in(text)
        number = self._by_model[model]
        errors = next(stage.errors for stage in reversed(stages) if stage.after <= number)
        row = errors.chances.get(true) if true is not None else None
        if true is None or row is None:
            self._unknown(prompt)
            return None
        self._by_model[model] += 1
        right = self._right(text, row.get(true, 0.0), errors.spread)
        nth = self._nth(model, text, errors, temperature)
        said = _drawn(unit("answer", self._seed, model, text, nth), true, right, row)
        return Spoken(said, errors.labels, _shown(said, right, row))

    def _right(self, text: str, chance: float, spread: float) -> float:
        """Return the chance that a row is answered rightly."""
        if not spread or not 0 < chance < 1:
            return chance
        drawn = float(unit("row", self._seed, text) ** ((1 - chance) / chance))
        return chance + spread * (drawn - chance)

    def _nth(self, model: str, text: str, errors: Errors, temperature: float | None) -> int:
        """Return which of its answers a prompt gets: the first one again, or one of its own."""
        asked = blake2b(f"{model}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        before = self._by_prompt[asked]
        self._by_prompt[asked] += 1
        stay = float(not temperature) if errors.stay is None else errors.stay
        return before if before and unit("stay", self._seed, model, text, before) >= stay else 0


def _drawn(number: float, true: str, right: float, row: Mapping[str, float]) -> str:
    """Return the true label with a chance, else another one by their shares in a row of the matrix."""
    others = {label: chance for label, chance in row.items() if label != true and chance > 0}
    if number < right or not others:
        return true
    left = (number - right) / (1 - right) * math.fsum(others.values())
    for label, chance in others.items():
        left -= chance
        if left < 0:
            return label
    return next(reversed(others))  # what is left is a rounding error


def _shown(said: str, right: float, row: Mapping[str, float]) -> dict[str, float]:
    """Return the probabilities of all labels, that of the answer first."""
    chance = min(max(right, _LEAST), 1.0)
    others = {label: each for label, each in row.items() if label != said and each > 0}
    whole = math.fsum(others.values())
    left = {label: (1 - chance) * each / whole for label, each in others.items()}
    return {said: chance if left else 1.0, **{label: each for label, each in left.items() if each > 0}}

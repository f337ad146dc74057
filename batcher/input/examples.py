"""Rows labelled by hand as examples: each is stated before a row as a question and its answer.

Invariant: all rows have the same examples in the same order, so that they share the beginning of their prompts; but a
row that is itself an example never sees its own answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple

from batcher.input.prompt import Renderer
from batcher.records import Message

_INSTRUCTIONS = {"system", "developer"}
"""The roles of messages that stay before the examples."""


class Example(NamedTuple):
    """A row labelled by hand.

    Attributes:
        row: its place in the table of examples, from 0.
        messages: its question, without instructions, and its answer.
        asked: the hash of the question of a row that asks the same.
    """

    row: int
    messages: tuple[Message, ...]
    asked: str

    @classmethod
    def of(cls, row: int, question: Sequence[Message], asked: Sequence[Message], answer: str) -> Example:
        """Make it.

        Args:
            row: its place in the table of examples.
            question: the messages of a row with its values, without what states the labels.
            asked: the messages of a row with its values, as they go out.
            answer: the right one.
        """
        own = question[_instructions(question) :]
        return cls(row, (*own, {"role": "assistant", "content": answer}), _hashed(asked[_instructions(asked) :]))


class Stated(NamedTuple):
    """The messages of a row, with examples before its question.

    Attributes:
        messages: of the row.
        is_example: the row asks what an example asks.
    """

    messages: list[Message]
    is_example: bool = False


@dataclass(frozen=True)
class Examples:
    """The examples of a run.

    Attributes:
        source: the name of their table.
        rows: the number of different examples in the table.
        shown: those that stand before each row, in this order.
        instead: for each of them the one that takes its place before a row that asks the same; None if there is none.
    """

    source: str
    rows: int
    shown: tuple[Example, ...]
    instead: tuple[Example | None, ...]

    @classmethod
    def chosen(
        cls, source: str, found: Iterable[tuple[str, Example]], shots: int, labels: Sequence[str] = ()
    ) -> Examples:
        """Choose examples: one of each label in turn, those of a label in the table's order.

        Args:
            source: the name of their table.
            found: all examples in the table's order, each with its label.
            shots: how many to state.
            labels: in the order of their turns; without them, labels take turns in the order in which they are found.
        """
        groups: dict[str, list[Example]] = {label: [] for label in labels}
        rows = 0
        for label, example in found:
            rows += 1
            if label not in groups and len(groups) > max(shots, len(labels)):
                continue  # its turn would come too late
            if len(group := groups.setdefault(label, [])) <= shots:
                group.append(example)
        turns = [(group, group[turn]) for turn in range(shots + 1) for group in groups.values() if turn < len(group)]
        shown = turns[:shots]
        rows_shown = {example.row for _, example in shown}
        spare = next((example for _, example in turns[shots:]), None)
        return cls(
            source,
            rows,
            tuple(example for _, example in shown),
            tuple(next((each for each in group if each.row not in rows_shown), spare) for group, _ in shown),
        )

    @classmethod
    def recorded_in(cls, question: Mapping[str, Any]) -> Examples | None:
        """Return the examples of a run from its record, made by `recorded`; None if it had none."""
        if (record := question.get("examples")) is None:
            return None
        held = [Example(each["row"], tuple(each["messages"]), each["asked"]) for each in record["held"]]
        instead = tuple(None if place is None else held[place] for place in record["instead"])
        return cls(record["source"], record["of"], tuple(held[: len(instead)]), instead)

    @property
    def recorded(self) -> dict[str, Any]:
        """The examples as the journal records them with the run's question: those that are stated come first."""
        held = self.held
        return {
            "source": self.source,
            "of": self.rows,
            "held": [each._asdict() for each in held],
            "instead": [None if each is None else held.index(each) for each in self.instead],
        }

    @property
    def held(self) -> list[Example]:
        """All examples that a row may have before it, each once."""
        return list({each.row: each for each in (*self.shown, *self.instead) if each}.values())

    @property
    def messages(self) -> list[Message]:
        """The messages of all examples."""
        return _messages(self.held)

    @property
    def texts(self) -> list[str]:
        """The texts of all examples."""
        return _texts(self.messages)

    @property
    def fixed_bytes(self) -> int:
        """The bytes of text that all prompts have of examples, at least: a row may have one less."""
        return sum(map(_text_bytes, self.shown)) - max(map(_text_bytes, self.shown))

    @property
    def largest_bytes(self) -> int:
        """The bytes of text in the largest example: two prompts differ by one example at most."""
        return max(map(_text_bytes, self.held))

    def before(self, render: Renderer) -> Renderer:
        """Return a renderer that states the examples before the question of each row."""
        return lambda values: self.stated(render(values)).messages

    def stated(self, messages: Sequence[Message]) -> Stated:
        """State the examples before the question of a row, behind its instructions."""
        start = _instructions(messages)
        instructions, own = messages[:start], messages[start:]
        place = self._places.get(_hashed(own))
        turns = self._turns if place is None else self._turns_without(place)
        return Stated([*instructions, *turns, *own], place is not None)

    @cached_property
    def _places(self) -> dict[str, int]:
        """The place in `held` of the example that asks the same, by the hash of a question."""
        return {each.asked: place for place, each in enumerate(self.held)}

    @cached_property
    def _turns(self) -> list[Message]:
        return _messages(self.shown)

    def _turns_without(self, place: int) -> list[Message]:
        if place >= len(self.shown):
            return self._turns
        return _messages((*self.shown[:place], self.instead[place], *self.shown[place + 1 :]))


def _messages(examples: Iterable[Example | None]) -> list[Message]:
    return [message for example in examples if example for message in example.messages]


def _texts(messages: Iterable[Message]) -> list[str]:
    return [text for message in messages if isinstance(text := message.get("content"), str)]


def _text_bytes(example: Example) -> int:
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in _texts(example.messages))


def _instructions(messages: Sequence[Message]) -> int:
    """Return how many messages are instructions before the question; the last message is always a part of it."""
    roles = (message["role"] for message in messages[:-1])
    return next((place for place, role in enumerate(roles) if role not in _INSTRUCTIONS), max(len(messages) - 1, 0))


def _hashed(own: Sequence[Message]) -> str:
    """Return the hash of a question; white space does not count, because programs for tables change line ends."""
    text = own[0]["content"] if len(own) == 1 and own[0].keys() == {"role", "content"} else None
    text = text if isinstance(text, str) else json.dumps(own, sort_keys=True)
    return blake2b(" ".join(text.split()).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

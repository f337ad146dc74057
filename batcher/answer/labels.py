"""Labels: the list that every answer must come from, and how a text is read as one of it.

Invariant: a text is read as a label only if it says that label and no other; else it is invalid and stays as it came.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from batcher.answer.decoration import BLANKS, Layer, beginning, is_name, peeled, prefix
from batcher.answer.json_in_text import found
from batcher.answer.kinds import Kind
from batcher.answer.label_list import label_list
from batcher.answer.places import places_of
from batcher.answer.shape import Read
from batcher.answer.spelling import folded, widened, words_of
from batcher.records import Status

_ROOM = 300  # characters: what may stand around a label in a text that says nothing else
_MOST_LINES = 1000  # that begin with `Label:`; a text with more says nothing
_DEEPEST = 3  # levels of JSON in which a label is looked for
_CLOSE = 0.75  # of 1: how alike a slip of the model and its label are
_LONGEST_KEPT, _MOST_KEPT = 200, 10_000  # characters of a text whose reading is kept, and texts: 5 MB
_FEW = 8  # words
_LISTED = re.compile(r"[,;|/\n、，；]|\s(?:and|or|&)\s|[和或与]", re.IGNORECASE)  # noqa: RUF001
_WHOLE_NUMBER = re.compile(r"(-?\d+)\.0+")
_NEGATIONS = {"not", "no", "non", "nor", "neither", "never", "none", "without", "isnt", "un", *"不非没无未别"}


_Said = tuple[str, ...]
"""The labels that a text, or a part of it, says: one, several, or none. "" stands for other words beside a label."""


@dataclass(frozen=True)
class Labels:
    """The labels of a run.

    Attributes:
        names: as the user wrote them.
        descriptions: of labels, by name; some may lack.
        aliases: labels by another text that is read as them.
    """

    names: tuple[str, ...]
    descriptions: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: object, where: str) -> Labels:
        """Return the labels that a user gave.

        Args:
            value: `a,b,c`; `@FILE` (a JSON list or object, or one label a line); a list or tuple; an Enum (its values);
                a dictionary label -> description. With aliases it is
                `{"labels": [...] or {...}, "aliases": {"another text": "label"}}`, in a file as in Python.
            where: the option's name in messages.

        Raises:
            SettingsError: they cannot be labels; it names the file and the line.
        """
        return cls(*label_list(value, where))

    @property
    def fields(self) -> tuple[str, ...]:
        return ()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return ()

    @property
    def recorded(self) -> dict[str, Any]:
        labels = {name: self.descriptions.get(name, "") for name in self.names} if self.descriptions else [*self.names]
        return {"labels": labels} | ({"aliases": dict(self.aliases)} if self.aliases else {})

    @property
    def listed(self) -> str:
        """The labels for a prompt: in one line, or with their descriptions one a line."""
        shown = [*self.names]
        if any(set(name) & set(',"\n\r') or name != name.strip() for name in shown):
            shown = [json.dumps(name, ensure_ascii=False) for name in shown]
        if not self.descriptions:
            return ", ".join(shown)
        described = (self.descriptions.get(name) for name in self.names)
        return "\n".join(
            f"- {name}: {said}" if said else f"- {name}" for name, said in zip(shown, described, strict=True)
        )

    @property
    def line(self) -> str:
        """What a prompt that does not name the labels is told at its end."""
        gap = "\n" if self.descriptions else " "
        return f"Answer with exactly one of these labels and nothing else:{gap}{self.listed}"

    def json_schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"label": {"type": "string", "enum": [*self.names]}},
            "required": ["label"],
            "additionalProperties": False,
        }

    def strict_schema(self) -> dict[str, Any] | None:
        return self.json_schema()

    def cells(self, answer: str) -> tuple[str, ...]:  # noqa: ARG002 - as of every shape
        return ()

    def with_cells(self, answer: str, cells: Sequence[str]) -> str:  # noqa: ARG002
        return answer

    def values(self, answer: str) -> tuple[object, ...]:  # noqa: ARG002
        return ()

    def stated_in(self, text: str) -> bool:
        """Return whether a text holds all labels as whole words, in whatever case."""
        held = {self._spelled[key] for key in self._held(words_of(text))}
        apart = {name for labels in held if len(labels) == 1 for name in labels}
        return all(name in apart or _stands_in(name, text) for name in self.names)

    def read(self, text: str) -> Read:
        """Read an answer's text.

        It says a label if it is that label, whatever stands around it; if JSON in it, or its lines with `Label:` before
        them, say one label and no other; or if its first or last line is a label and the text holds no other one.
        """
        read = self._reads.get(text)
        if read is None:
            said = self._said(text)
            read = self._reads[said[0]] if len(said) == 1 else self._invalid(text, said)
            if len(text) <= _LONGEST_KEPT and len(self._reads) < _MOST_KEPT:
                self._reads[text] = read  # most answers come again
        return read

    def near(self, text: str) -> str:
        said = self._said(text)
        is_one = len([label for label in said if label] or self._named_in(text)) < 2
        return self._near(text) if len(said) != 1 and is_one else ""

    def place(self, text: str, answer: str) -> tuple[int, int] | None:
        if text.strip(BLANKS) == answer:
            start = text.index(answer)
            return start, start + len(answer)
        places = places_of([name for name, label in self._texts if label == answer], text)
        if len(places) <= 1:
            return next(iter(places), None)
        # The first one that decides: with another label there, the text would not be read as this one.
        other = next((name for name in self.names if name != answer), "")
        return next((each for each in places if self.read(_replaced(text, each, other)).answer != answer), None)

    def said_by(self, text: str) -> str | None:
        """Return the label that a text says that says nothing else, or None."""
        said = self._whole(text)
        return said[0] if len(said) == 1 else None

    def _said(self, text: str) -> _Said:
        is_json = text.lstrip(BLANKS)[:1] in {"{", "["}
        said = (self._in_json(text) if is_json else ()) or self._whole(text)
        return said or (() if is_json else self._in_json(text)) or self._in_lines(text)

    # How a text is compared, from the strictest way on. A label that another one equals in a way is not found in it.

    @cached_property
    def _texts(self) -> list[tuple[str, str]]:
        return [*((name, name) for name in self.names), *self.aliases.items()]

    @cached_property
    def _reads(self) -> dict[str, Read]:
        return {name: Read(Status.OK, name, "") for name in self.names}

    @cached_property
    def _exact(self) -> dict[str, tuple[str, ...]]:
        return self._by(lambda text: text.strip(BLANKS))

    @cached_property
    def _wide(self) -> dict[str, tuple[str, ...]]:
        return self._by(_one_blank)

    @cached_property
    def _folded(self) -> dict[str, tuple[str, ...]]:
        return self._by(folded)

    @cached_property
    def _spelled(self) -> dict[str, tuple[str, ...]]:
        spelled = self._by(_spelling)
        spelled.pop("", None)
        return spelled

    @cached_property
    def _is_alike(self) -> bool:
        """Whether words do not tell all labels apart, or a label has none."""
        return "" in self._by(_spelling) or any(len(labels) > 1 for labels in self._spelled.values())

    def _by(self, way: Callable[[str], str]) -> dict[str, tuple[str, ...]]:
        """Return the labels by their texts in a way of comparing: several if it cannot tell them apart."""
        by: dict[str, dict[str, None]] = {}
        for text, label in self._texts:
            by.setdefault(way(text), {})[label] = None
        return {key: tuple(labels) for key, labels in by.items()}

    @cached_property
    def _longest(self) -> int:
        return max(len(text) for text, _ in self._texts)

    @cached_property
    def _kept(self) -> frozenset[str]:
        """The beginnings of labels, and 0 if one begins with a digit: no bullet is looked for there."""
        texts = [text.strip(BLANKS) for text, _ in self._texts]
        return frozenset(["0"] * any(text[0].isdecimal() for text in texts) + [beginning(text) for text in texts])

    @cached_property
    def _by_first_word(self) -> dict[str, list[tuple[str, list[str]]]]:
        """The spellings of labels, and their words, by the first word; the longest first."""
        by: dict[str, list[tuple[str, list[str]]]] = {}
        for key in sorted(self._spelled, key=lambda key: -key.count(" ")):
            by.setdefault(key.partition(" ")[0], []).append((key, key.split(" ")))
        return by

    def _held(self, words: list[str]) -> dict[str, None]:
        """Return the spellings of labels that stand among words; one within a longer one does not count."""
        held: dict[str, None] = {}
        at = 0
        while at < len(words):
            step = 1
            for key, label_words in self._by_first_word.get(words[at], ()):
                if words[at : at + len(label_words)] == label_words:
                    held[key] = None
                    step = len(label_words)
                    break
            at += step
        return held

    def _named_in(self, text: str) -> _Said:
        """Return the labels that stand in a text as whole words, but for those that words do not tell apart."""
        held = (self._spelled[key] for key in self._held(words_of(text)))
        return _united(labels for labels in held if len(labels) == 1)

    def _whole(self, text: str) -> _Said:
        """Return what a text says that says nothing but labels."""
        text = text.strip(BLANKS)
        if len(text) > 2 * self._longest + _ROOM:
            return ()
        alike: _Said = ()
        spelled: _Said = ()
        for layer in peeled(text, self._kept):
            if layer.name and _spelling(layer.name) in self._spelled:
                break  # `answer: question`, and `answer` is a label, too
            labels = self._exact.get(layer.text, ())
            if labels:
                return labels
            if layer.has_other_words:
                spelled = self._spelled.get(_spelling(layer.text), ())
            if len(spelled) != 1 and self._is_alike:
                labels = self._wide.get(_one_blank(layer.text)) or self._folded.get(folded(layer.text)) or ()
            if labels := labels or (spelled if len(spelled) == 1 else ()):
                return self._unlisted(layer.text, labels)
            alike = alike or spelled
        return alike

    def _unlisted(self, text: str, labels: tuple[str, ...]) -> _Said:
        """Return the labels, or those that a text lists which happens to be spelled as they are: `card, arrival`."""
        pieces = [key for piece in _LISTED.split(text) if (key := _spelling(piece))]
        if len(pieces) > 1 and all(piece in self._spelled for piece in pieces):
            return _united(self._spelled[piece] for piece in pieces)
        return labels

    def _in_json(self, text: str) -> _Said:
        if "{" not in text and "[" not in text:
            return ()
        is_list = text.lstrip(BLANKS)[:1] in {"[", "`"}  # elsewhere [1] is a mark in a text
        values = (each.value for each in found(text, repaired=False) if is_list or not isinstance(each.value, list))
        return _united(said for value in values for said in self._in_value(value, _DEEPEST))

    def _in_value(self, value: object, depth: int) -> Iterator[_Said]:
        """Yield what each part of a value says that stands where a label does."""
        if isinstance(value, (dict, list)):
            parts = value if isinstance(value, list) else [value[key] for key in value if is_name(key)]
            for part in parts[:_MOST_LINES] if depth else ():
                yield from self._in_value(part, depth - 1)
        else:
            yield self._stated(value if isinstance(value, str) else json.dumps(value))

    def _stated(self, text: str) -> _Said:
        """Return what a text says that stands where a label does; words beside the label make it say two things."""
        said = self._whole(text)
        held = () if said else self._named_in(text)
        return (*held, "") if held else said

    def _in_lines(self, text: str) -> _Said:
        lines = [line for line in text.splitlines() if line.strip(BLANKS)]
        if len(lines) < 2:
            return ()
        rests = []
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            if (named := prefix(line)) and _spelling(named["name"]) not in self._spelled:
                rest = line[named.end() :]
                rests.append(rest if words_of(rest) else following)
        if len(rests) > _MOST_LINES:
            return ()
        return _united(map(self._stated, rests)) or self._alone(text, lines)

    def _alone(self, text: str, lines: list[str]) -> _Said:
        """Return the label that is alone on the first or the last line, if the text holds no other one."""
        for order in (lines, reversed(lines)):
            line = next((line for line in order if words_of(line)), "")
            said = self._whole(line)
            if len(said) == 1:
                others = [self._spelled[key] for key in self._held(words_of(text))]
                return _united([said, *(labels for labels in others if said[0] not in labels)])
        return ()

    def _invalid(self, text: str, said: _Said) -> Read:
        labels = [label for label in said if label] or [*self._named_in(text)]
        if not text.strip(BLANKS):
            error = "the answer is empty"
        elif len(labels) == 2:
            error = f"two labels: {labels[0]!r} and {labels[1]!r}"
        elif len(labels) > 2:
            error = f"{len(labels)} labels: {labels[0]!r}, {labels[1]!r}, ..."
        elif labels:
            error = f"the answer says more than the label {labels[0]!r}"
        else:
            error = "the answer is not one of the labels"
        return Read(Status.INVALID, text, error)

    def _near(self, text: str) -> str:
        """Return the label that a short text comes close to, if there is one."""
        if len(text) > self._longest + _ROOM:
            return ""
        [*_, inner] = [Layer(""), *peeled(text, self._kept)]
        words = words_of(inner.text)
        if not words or _NEGATIONS.intersection(words):
            return ""
        close = difflib.get_close_matches(" ".join(words), self._spelled, 1, _CLOSE)
        held = [*self._held(words)] if len(words) <= _FEW else []
        keys = close or (held if len(held) == 1 else [])
        labels = self._spelled[keys[0]] if keys else ()
        return labels[0] if len(labels) == 1 else ""


def _one_blank(text: str) -> str:
    return " ".join(widened(text).split())


def _spelling(text: str) -> str:
    spelling = " ".join(words_of(text))
    number = _WHOLE_NUMBER.fullmatch(spelling)
    return number[1] if number else spelling


def _replaced(text: str, place: tuple[int, int], other: str) -> str:
    """Return a text with another label at a place, spelled as in JSON: the place may be in an object."""
    start, end = place
    return f"{text[:start]}{json.dumps(other, ensure_ascii=False)[1:-1]}{text[end:]}"


def _united(parts: Any) -> tuple[str, ...]:
    """Return the labels of all parts, each once, in order."""
    return tuple(dict.fromkeys(label for part in parts for label in part))


def _stands_in(name: str, text: str) -> bool:
    """Return whether a label that its words do not tell apart from others stands in a text as it is written."""
    before, after = (r"(?<!\w)" if name[:1].isalnum() else ""), (r"(?!\w)" if name[-1:].isalnum() else "")
    return re.search(before + re.escape(name) + after, text) is not None

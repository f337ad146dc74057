"""What goes out for a plan's first row, and how long its answer may be.

Invariant: it shows a prompt as it will be sent, with all that the form of asking adds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from batcher.answer.labels import Labels
from batcher.answer.schema import Schema
from batcher.answer.shape import Shape
from batcher.calls.forms import AS_IT_COMES, Wire
from batcher.records import Image, Message

# What is assumed of a text, of a number and of a list if the schema says nothing.
_TEXT = "some words that say in short what was asked for, and why"
_SIMPLE = {"integer": 1234, "number": 12.34, "boolean": False, "null": None}
_ITEMS = 3
_DEEPEST = 4


class First(NamedTuple):
    """The first request of a plan.

    Attributes:
        messages: as they will go out, but for the data of images; none if nothing is sent.
        form: how the answer is asked for, in words; empty if any text will do.
    """

    messages: tuple[Message, ...] = ()
    form: str = ""

    @classmethod
    def of(cls, messages: Sequence[Message], ladder: Sequence[Wire] = ()) -> First:
        wire = ladder[0] if ladder else AS_IT_COMES
        form = wire.form.in_words if wire.form else ""
        shown = tuple(map(_as_shown, wire.messages(messages)))
        return cls(shown, form if len(ladder) < 2 else f"{form} first; the answers decide")

    def lines(self) -> list[str]:
        """Return the prompt line by line; each message begins with its role."""
        found = []
        for message in self.messages:
            content = message.get("content")
            shown = _with_images(content) if isinstance(content, list) else content
            text = shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
            found += f"{message['role']}: {text}".splitlines()
        return found


def _as_shown(message: Message) -> Message:
    """Return a message with the names of images in the place of their data."""
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [part | {"name": part.name} if isinstance(part, Image) else part for part in content]}


def _with_images(parts: list[Any]) -> str | list[Any]:
    """Return what people read of the parts of a message: texts, and names of images in the place of their data."""
    shown: list[str] = []
    for part in parts:
        match part:
            case {"type": "image", "name": str(name), "size": [width, height]}:
                shown.append(f"[image {name}, {width} x {height}]")
            case {"type": "image_url", "image_url": {"url": str(url)}}:
                shown.append(f"[image {'in a data URL' if url.startswith('data:') else url}]")
            case {"type": "text", "text": str(text)}:
                shown.append(text)
            case _:
                return parts
    return "\n".join(shown)


def typical_answer(shape: Shape) -> str:
    """Return an answer of the length to expect: the longest label, or an object with a value for each field."""
    if isinstance(shape, Labels):
        return max(shape.names, key=len)
    return json.dumps(_typical(shape.document), ensure_ascii=False) if isinstance(shape, Schema) else ""


def _typical(schema: Any, depth: int = 0) -> Any:
    """Return a value of the length that a schema lets expect."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return _TEXT
    if choices := schema.get("enum") or ([schema["const"]] if "const" in schema else []):
        return max(choices, key=lambda each: len(str(each)))
    if several := next((schema[name] for name in ("anyOf", "oneOf", "allOf") if schema.get(name)), None):
        return _typical(several[0], depth + 1)
    kinds = schema.get("type", "object" if "properties" in schema else "string")
    kind = kinds[0] if isinstance(kinds, list) and kinds else kinds
    if kind == "object":
        return {name: _typical(each, depth + 1) for name, each in schema.get("properties", {}).items()}
    if kind == "array":
        return [_typical(schema.get("items"), depth + 1)] * _ITEMS
    return _SIMPLE.get(str(kind), _TEXT)

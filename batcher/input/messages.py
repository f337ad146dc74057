"""Small works on the messages of a row.

Invariant: messages are never changed; a longer list is a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batcher.records import Message


def text_of(messages: Sequence[Message]) -> str:
    """Return all text of messages."""
    texts: list[str] = []
    for message in messages:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts += [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "\n".join(texts)


def with_line(messages: Sequence[Message], line: str) -> list[Message]:
    """Add a line to the last message of the user, or to the last message if none is the user's."""
    at = max((number for number, each in enumerate(messages) if each["role"] == "user"), default=len(messages) - 1)
    content: Any = messages[at].get("content")
    is_parted = isinstance(content, list)
    longer = [*content, {"type": "text", "text": line}] if is_parted else f"{content or ''}\n\n{line}"
    return [*messages[:at], {**messages[at], "content": longer}, *messages[at + 1 :]]

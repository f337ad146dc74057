"""Small works on the messages of a row.

Invariant: messages are never changed; a longer list is a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batcher.records import Message


def with_line(messages: Sequence[Message], line: str) -> list[Message]:
    """Add a line to the last message of the user, or to the last message if none is the user's."""
    at = max((number for number, each in enumerate(messages) if each["role"] == "user"), default=len(messages) - 1)
    content: Any = messages[at].get("content")
    is_parted = isinstance(content, list)
    longer = [*content, {"type": "text", "text": line}] if is_parted else f"{content or ''}\n\n{line}"
    return [*messages[:at], {**messages[at], "content": longer}, *messages[at + 1 :]]

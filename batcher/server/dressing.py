"""Dresses an answer up, as models do if nothing holds them to a form: in other case, Markdown, thoughts, prose.

Invariant: a dressed answer holds the answer, once, and is never equal to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable

_THOUGHT = "<think>Several answers are possible. The text decides it.</think>"

LABELS: dict[str, Callable[[str], str]] = {
    "spelled": lambda label: label.replace("_", " ").capitalize(),
    "dot": lambda label: f"{label}.",
    "bold": lambda label: f"**{label}**",
    "named": lambda label: f"label: {label}",
    "thought": lambda label: f"{_THOUGHT} {label}",
    "fenced": lambda label: f"```json\n{_as_json(label)}\n```",
    "prose": lambda label: f"Here is my answer: {_as_json(label)} I hope that this helps.",
}
"""The ways to dress up a label."""

OBJECTS: dict[str, Callable[[str], str]] = {
    "fenced": lambda text: f"```json\n{text}\n```",
    "prose": lambda text: f"Here is the JSON that you asked for:\n\n{text}\n\nI hope that this helps.",
    "thought": lambda text: f"{_THOUGHT}\n{text}",
    "both": lambda text: f"Sure!\n```\n{text}\n```\nI hope that this helps.",
}
"""The ways to dress up JSON."""


def dressed(answer: str, draw: float) -> str:
    """Dress an answer up.

    Args:
        answer: a label, or JSON.
        draw: from 0 to 1, the way to do it.
    """
    ways = OBJECTS if answer.startswith(("{", "[")) else LABELS
    made = [each for each in (way(answer) for way in ways.values()) if each != answer]
    return made[int(draw * len(made)) % len(made)]


def in_prose(answer: str) -> str:
    """Return a sentence that mentions an answer, as a model gives it that was asked for a form and does not know it."""
    return f"I have read it twice, and I think {answer} would describe it best, although one could argue about that."


def _as_json(label: str) -> str:
    return json.dumps({"label": label}, ensure_ascii=False)

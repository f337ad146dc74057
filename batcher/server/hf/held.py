"""Holds an answer to its form, token by token: one of a list of choices, or a JSON object.

Invariant: a whole answer that was held has its form; only one that is cut off at its limit of tokens may not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from batcher.server.forms import Form, Wanted
from batcher.server.hf.json_form import JsonForm
from batcher.server.hf.prompts import tokens_of
from batcher.server.hf.texts import bytes_of
from batcher.server.responses import Refusal, bad


class Held(Protocol):
    """The form of an answer, as far as it has come."""

    def among(self) -> Sequence[int] | None:
        """Return the only tokens that may follow, if they are few."""

    def admits(self, token: int) -> bool:
        """Return whether a token may follow."""

    def take(self, token: int) -> None:
        """Take up the token that follows."""


class AmongTexts:
    """Holds an answer to one of several texts.

    Args:
        texts: the tokens of each.
        end: the token after it.
    """

    def __init__(self, texts: Sequence[Sequence[int]], end: int) -> None:
        self._left = [[*text, end] for text in texts]

    def among(self) -> Sequence[int]:
        return sorted({text[0] for text in self._left})

    def admits(self, token: int) -> bool:
        return any(text[0] == token for text in self._left)

    def take(self, token: int) -> None:
        self._left = [text[1:] for text in self._left if text[0] == token and len(text) > 1]


class AsObject:
    """Holds an answer to a JSON object.

    Args:
        tokenizer: of the model.
        ends: tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._ends = ends
        self._special = frozenset(tokenizer.all_special_ids) | ends
        self._form = JsonForm()

    def among(self) -> Sequence[int] | None:
        return sorted(self._ends) if self._form.is_complete else None

    def admits(self, token: int) -> bool:
        if token in self._special or self._form.is_complete:
            return token in self._ends and self._form.is_complete
        text = bytes_of(self._tokenizer, token)
        return bool(text) and self._form.after(text) is not None

    def take(self, token: int) -> None:
        self._form = self._form.after(bytes_of(self._tokenizer, token)) or self._form


def holder(wanted: Wanted, tokenizer: Any, ends: frozenset[int]) -> Callable[[], Held] | Refusal | None:
    """Return what makes the holder of a form; None if answers are free; a refusal of what cannot be held."""
    if wanted.form is Form.PROMPT:
        return None
    if not ends:
        return bad("This model has no end mark: an answer cannot be held to a form.", "response_format")
    if wanted.choices:
        texts: list[list[int]] = []
        for choice in wanted.choices:
            ids = tokens_of(tokenizer, choice, "choice", is_whole=False)
            if isinstance(ids, Refusal):
                return ids
            texts.append(ids)
        return lambda: AmongTexts(texts, min(ends))
    if wanted.form is Form.JSON:
        return lambda: AsObject(tokenizer, ends)
    said = (
        "response_format of type json_schema is not supported: this server cannot hold an answer to a JSON Schema. It"
        " holds answers to json_object, and to a list of choices (structured_outputs.choice, guided_choice)."
    )
    return bad(said, "response_format.type", "unsupported_value")

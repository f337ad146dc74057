"""Makes the question of a row from its values.

Invariant: a row always has the same question while its values and the options stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable

from batcher.errors import InputError
from batcher.input.prompt import Renderer
from batcher.records import NO_TERMS, Question, Task, Terms, Values

NO_TEXT = "the text is empty, and an empty text has no embedding"
"""The fault of a row that has nothing to embed."""


def asking(render: Renderer, terms: Callable[[Values], Terms] | None = None) -> Callable[[Values], Question]:
    """Return what makes the question of a row.

    Args:
        render: makes its messages.
        terms: makes its terms; None: no row has any of its own.
    """
    if terms is None:
        return lambda values: Question(render(values), NO_TERMS)
    return lambda values: Question(render(values), terms(values))


def asking_for(
    task: Task, render: Renderer, own: Callable[[Values], Terms] | None = None
) -> Callable[[Values], Question]:
    """Return what makes the question of a row in a run with one task.

    Args:
        task: of all rows.
        render: makes their messages; the text of one is the whole question unless it is a chat.
        own: makes the terms of a row; None: no row has any of its own.
    """
    if task is Task.CHAT:
        return asking(render, own)
    shared = Terms(task)

    def ask(values: Values) -> Question:
        messages = render(values)
        text = messages[0].get("content")
        if len(messages) > 1 or not isinstance(text, str):
            raise InputError(f"the prompt must be one text: messages are for a chat, and the task is {task}")
        terms = shared if own is None else own(values)._replace(task=task)
        return Question(messages, terms, NO_TEXT if task is Task.EMBEDDING and not text else "")

    return ask

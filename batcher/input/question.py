"""Makes the question of a row from its values.

Invariant: a row always has the same question while its values and the options stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable

from batcher.errors import InputError
from batcher.input.images import Images
from batcher.input.prompt import Renderer
from batcher.records import NO_TERMS, Question, Task, Terms, Values

NO_TEXT = "the text is empty, and an empty text has no embedding"
"""The fault of a row that has nothing to embed."""


def asking(
    render: Renderer,
    terms: Callable[[Values], Terms] | None = None,
    *,
    task: Task = Task.CHAT,
    images: Images | None = None,
) -> Callable[[Values], Question]:
    """Return what makes the question of a row.

    Args:
        render: makes its messages; the text of one is the whole question unless it is a chat.
        terms: makes its terms; None: no row has any of its own.
        task: of all rows.
        images: puts its images into the messages of a chat; None: no row has any.
    """
    if task is not Task.CHAT:
        return _asking_for(task, render, terms)
    if images is not None:
        return lambda values: _with_images(values, render, terms, images)
    if terms is None:
        return lambda values: Question(render(values), NO_TERMS)
    return lambda values: Question(render(values), terms(values))


def _with_images(values: Values, render: Renderer, terms: Callable[[Values], Terms] | None, images: Images) -> Question:
    messages, fault = images.put(values, render(values))
    return Question(messages, NO_TERMS if terms is None else terms(values), fault)


def _asking_for(task: Task, render: Renderer, terms: Callable[[Values], Terms] | None) -> Callable[[Values], Question]:
    of_all = Terms(task)

    def ask(values: Values) -> Question:
        messages = render(values)
        text = messages[0].get("content")
        if len(messages) > 1 or not isinstance(text, str):
            raise InputError(f"the prompt must be one text: messages are for a chat, and the task is {task}")
        own = of_all if terms is None else terms(values)._replace(task=task)
        return Question(messages, own, NO_TEXT if task is Task.EMBEDDING and not text else "")

    return ask

"""Makes the question of a row from its values.

Invariant: a row always has the same question while its values and the options stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable

from batcher.input.images import Images
from batcher.input.prompt import Renderer
from batcher.records import NO_TERMS, Question, Terms, Values


def asking(
    render: Renderer, terms: Callable[[Values], Terms] | None = None, images: Images | None = None
) -> Callable[[Values], Question]:
    """Return what makes the question of a row.

    Args:
        render: makes its messages.
        terms: makes its terms; None: no row has any of its own.
        images: puts its images into them; None: no row has any.
    """
    if images is not None:
        return lambda values: _with_images(values, render, terms, images)
    if terms is None:
        return lambda values: Question(render(values), NO_TERMS)
    return lambda values: Question(render(values), terms(values))


def _with_images(values: Values, render: Renderer, terms: Callable[[Values], Terms] | None, images: Images) -> Question:
    messages, fault = images.put(values, render(values))
    return Question(messages, NO_TERMS if terms is None else terms(values), fault)

"""Makes the question of a row from its values.

Invariant: a row always has the same question while its values and the options stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable

from batcher.input.prompt import Renderer
from batcher.records import NO_TERMS, Question, Terms, Values


def asking(render: Renderer, terms: Callable[[Values], Terms] | None = None) -> Callable[[Values], Question]:
    """Return what makes the question of a row.

    Args:
        render: makes its messages.
        terms: makes its terms; None: no row has any of its own.
    """
    if terms is None:
        return lambda values: Question(render(values), NO_TERMS)
    return lambda values: Question(render(values), terms(values))

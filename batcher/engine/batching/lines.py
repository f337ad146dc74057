"""The names of batches, of their lines and of their files.

Invariant: a line's name binds it to its question, so that the answer to another line never counts for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from batcher.journal.entries import Line, Request

_DIGITS = 19  # of the largest number of a request, and more than any has
_KEY = 6  # bytes of a row's key in the name of its line


def new_name() -> str:
    """Return a name for a batch, which no other has."""
    return secrets.token_hex(8)


def custom_id(request: Request) -> str:
    """Return the name of a line: the number of its request, and the beginning of its question's key."""
    return f"{request.id}-{request.key[:_KEY].hex()}"


def line_of(name: str, lines: Mapping[int, Line]) -> Line | None:
    """Return the line of a name; None: it is none of these, or the line of another question.

    Args:
        name: of the line, as the service returned it.
        lines: by the numbers of their requests.
    """
    number, _, _ = name.partition("-")
    line = lines.get(int(number)) if number.isascii() and number.isdigit() and len(number) < _DIGITS else None
    return line if line is not None and name == custom_id(line.request) else None

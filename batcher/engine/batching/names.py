"""The names of a batch's lines and of its files.

Invariant: a line's name tells which request of which batch it is, and how that was asked; no two lines have the same.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from batcher.calls.forms import Form

_LINE = re.compile(r"([0-9a-f]{1,64})-([1-9][0-9]{0,17})(?:-([a-z]+))?")


class Named(NamedTuple):
    """What a line's name says.

    Attributes:
        batch: the name of its batch.
        request: the id of its request.
        form: in which it was asked; None: as it comes.
    """

    batch: str
    request: int
    form: Form | None


def custom_id(batch: str, request: int, form: Form | None = None) -> str:
    """Return the name of a line: at most 64 characters, of those that every service takes.

    Args:
        batch: the name of its batch.
        request: the id of its request.
        form: in which it is asked: after a restart nothing else tells.
    """
    return f"{batch}-{request}-{form.value}" if form else f"{batch}-{request}"


def named(custom_id: str) -> Named | None:
    """Return what a line's name says; None: it is not one of ours."""
    found = _LINE.fullmatch(custom_id)
    if found is None:
        return None
    batch, request, form = found.groups()
    if form is not None and form not in Form:
        return None
    return Named(batch, int(request), Form(form) if form else None)


class Part(StrEnum):
    """A file of a batch in the output directory."""

    INPUT = "input"
    OUTPUT = "output"
    ERROR = "error"


def path_of(directory: Path, keyword: str, batch: str, part: Part) -> Path:
    """Return the path of a file of a batch; it is there only while the batch is not over, or is being harvested.

    Args:
        directory: the output directory.
        keyword: of the run.
        batch: the name of the batch.
        part: which file.
    """
    return directory / f"batch_{keyword}_{batch}.{part.value}.jsonl"

"""Decides what a refused batch means: the queue is full, the file is too large, or the batch can never work.

Invariant: the status decides first, then codes, then few words. What is not known is none of the three: a wait heals it, or
the engine gives up after several.
"""

from __future__ import annotations

from batcher.calls.batch_service import Remote
from batcher.records import Failure


def refused_as_full(said: Remote | Failure) -> bool:
    """Return whether the service has no place for the batch now, so that a wait heals it.

    Args:
        said: a call that failed, or a batch that failed as a whole.
    """
    raise NotImplementedError


def refused_as_too_large(said: Remote | Failure) -> bool:
    """Return whether the file has more lines, bytes or tokens than the service ever takes, so that a half may do."""
    raise NotImplementedError


def refused_for_good(said: Remote | Failure) -> str:
    """Return why no batch like this can ever work (key, money, model, an unknown address), in words; else ""."""
    raise NotImplementedError

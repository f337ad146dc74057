"""Compares the model that answered, as the server names it, with the one that was asked for.

Invariant: names that differ only in a path, a date, a size or a suffix are those of one model.
"""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=128)  # it is asked for each answer, and the names are few
def is_another(answered: str, asked: str) -> bool:
    """Return whether an answer is named after another model than the one that was asked for.

    llama.cpp's server, relays and others answer with what they have, whatever they are asked for. `gpt-4o-2024-08-06`
    is `gpt-4o`, `/models/Qwen3-8B.gguf` is `Qwen/Qwen3-8B`, and `llama3:latest` is `llama3`.
    """
    came, wanted = _plain(answered), _plain(asked)
    return bool(came and wanted) and came not in wanted and wanted not in came


def _plain(name: str) -> str:
    """Return the letters and digits of a model's name, without its path."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return "".join(filter(str.isalnum, last.lower()))

"""The keys and values of the running batch: rows join it on the left-padded side, and leave it.

Invariant: a row's entries stand together at the right end of the cache, in their order, so that its masks and positions
are those that it has alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache


def plain_cache() -> DynamicCache:
    """Make a cache that keeps everything, also what is beyond a sliding window: the model's masks hide that."""
    return DynamicCache()


def can_join(cache: Any) -> bool:
    """Return whether rows of such a cache can be put together: all its layers hold keys and values alone."""
    return all(type(layer).__name__ == "DynamicLayer" for layer in cache.layers)


def length_of(cache: Any) -> int:
    """Return how many tokens the longest row of a cache has."""
    return int(cache.get_seq_length())


def keep(cache: Any, rows: list[int], length: int) -> None:
    """Keep rows of a cache, in this order and as often as they are named, and the last `length` entries of each.

    Args:
        cache: is changed.
        rows: their numbers.
        length: of the longest row that is kept.
    """

    def kept(each: torch.Tensor) -> torch.Tensor:
        return each[..., -length:, :].index_select(0, torch.tensor(rows, device=each.device))

    _change(cache, kept)


def join(cache: Any, new: Any) -> None:
    """Put the rows of `new` after those of `cache`; the shorter ones are padded on the left.

    Args:
        cache: is changed.
        new: may be used no more.
    """
    longest = max(length_of(cache), length_of(new))
    for layer, more in zip(cache.layers, new.layers, strict=True):
        layer.keys = torch.cat([_padded(layer.keys, longest), _padded(more.keys, longest)])
        layer.values = torch.cat([_padded(layer.values, longest), _padded(more.values, longest)])


def _padded(each: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(each, (0, 0, length - each.shape[-2], 0))


def _change(cache: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for layer in cache.layers:
        layer.keys, layer.values = change(layer.keys), change(layer.values)

"""Embeddings: the mean of the last hidden layer over the tokens of an input, with length 1.

Invariant: an input's vector does not depend on the inputs that are embedded with it, to within rounding.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from batcher.errors import in_words
from batcher.server.hf.loading import Model
from batcher.words import print_err

if TYPE_CHECKING:
    from batcher.server.hf.engine import Inputs

_MOST = 8_192  # tokens at a time, padding among them


def embed(model: Model, requests: Sequence[Inputs], between: Callable[[], object]) -> None:
    """Embed the inputs of several requests together, and tell each its vectors.

    Args:
        model: in whose thread this is.
        requests: with their inputs.
        between: is called after each step, so that long inputs do not hold up what is being generated.
    """
    ids = [each for request in requests for each in request.ids]
    try:
        vectors: list[list[float]] | str = embedded(model, ids, between)
    except torch.OutOfMemoryError:
        vectors = "the model ran out of memory"
    except Exception as error:  # noqa: BLE001 - a fault of the model must not end the server: it is said, and told
        print_err(traceback.format_exc())
        vectors = f"the model failed: {in_words(error)}"
    at = 0
    for request in requests:
        request.tell(vectors if isinstance(vectors, str) else vectors[at : at + len(request.ids)])
        at += len(request.ids)


def embedded(model: Model, ids: Sequence[Sequence[int]], between: Callable[[], object]) -> list[list[float]]:
    """Return the vectors of inputs, in their order; arguments as of `embed`."""
    vectors: list[list[float]] = [[] for _ in ids]
    for group in _groups(ids):
        longest = max(len(ids[at]) for at in group)
        padded = [[*ids[at], *[0] * (longest - len(ids[at]))] for at in group]
        lengths = torch.tensor([len(ids[at]) for at in group], device=model.device)
        mask = (torch.arange(longest, device=model.device)[None] < lengths[:, None]).long()
        last = model.hidden(torch.tensor(padded, device=model.device), mask).float()
        weights = mask[..., None].to(last.device)
        mean = (last * weights).sum(dim=1) / weights.sum(dim=1)
        for at, vector in zip(group, torch.nn.functional.normalize(mean, dim=-1).tolist(), strict=True):
            vectors[at] = vector
        between()
    return vectors


def _groups(ids: Sequence[Sequence[int]]) -> list[list[int]]:
    """Group inputs of like lengths, each group small enough for one step."""
    groups: list[list[int]] = []
    for at in sorted(range(len(ids)), key=lambda at: -len(ids[at])):
        if groups and len(ids[groups[-1][0]]) * (len(groups[-1]) + 1) <= _MOST:
            groups[-1].append(at)
        else:
            groups.append([at])
    return groups

"""Search with several beams, as transformers does it.

Invariant: it can be left at every step, and other work is done between its steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from batcher.server.hf.choice import Order
from batcher.server.hf.loading import Model


def search(model: Model, order: Order, between: Callable[[], bool]) -> list[list[int]]:
    """Return the best answers to a prompt, the best first, each with the token that ends it.

    Args:
        model: in whose thread this is.
        order: with more than one beam, and no more choices than beams.
        between: is called after each step; it returns True to leave.
    """
    sampling = order.sampling
    how: dict[str, Any] = {}
    if sampling.is_drawn:
        how = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    config = GenerationConfig(
        num_beams=sampling.num_beams,
        num_return_sequences=order.choices,
        max_new_tokens=sampling.max_tokens,
        do_sample=sampling.is_drawn,
        repetition_penalty=sampling.repetition_penalty,
        eos_token_id=sorted(model.ends) or None,
        pad_token_id=min(model.ends, default=0),
        **how,
    )

    class Between(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002 - its names
            return torch.full((input_ids.shape[0],), between(), device=input_ids.device, dtype=torch.bool)

    ids = torch.tensor([list(order.prompt)], device=model.device)
    # The draws of `generate` come from torch's own source, which nothing else here uses.
    torch.manual_seed(sampling.seed if sampling.seed is not None else random.getrandbits(62))
    found = model.network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([Between()]),
    )
    answers = found[:, len(order.prompt) :].tolist()
    return [answer[: _end(answer, model.ends)] for answer in answers]


def _end(answer: list[int], ends: frozenset[int]) -> int:
    return next((at + 1 for at, token in enumerate(answer) if token in ends), len(answer))

"""How the next token of each row is chosen from its logits: greedily, or drawn from what its request leaves over.

Invariant: a row's token depends on its own logits, request and seed alone, whatever other rows are in the batch.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from batcher.server.hf.held import Held


@dataclass(frozen=True)
class Sampling:
    """What a request says about its tokens.

    Attributes:
        max_tokens: at most so many are generated for each choice.
        temperature: 0 takes the likeliest token.
        top_p: only the likeliest tokens with this share of the probability; 1 keeps all.
        top_k: only so many of the likeliest tokens; 0 keeps all.
        num_beams: more than 1 searches with so many beams.
        is_drawn: tokens are drawn, not the likeliest ones taken.
        repetition_penalty: divides the logits of tokens that stand in the prompt or the answer; 1 is off.
        frequency_penalty: is taken off the logit of a token for each time that it stands in the answer.
        presence_penalty: is taken off the logit of a token that stands in the answer.
        logit_bias: is added to the logits of tokens.
        stop: strings that end the answer.
        seed: makes the draws repeatable.
        logprobs: how many of the likeliest tokens are reported with each token; None: not even its own probability.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    num_beams: int = 1
    is_drawn: bool = True
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int | None = None

    def draws(self, index: int) -> random.Random:
        """Return the source of the draws of a choice, by its place among the choices of a request."""
        return random.Random() if self.seed is None else random.Random(f"{self.seed}/{index}")  # noqa: S311 - no secret


class Past(NamedTuple):
    """What a row's next token depends on, apart from its logits.

    Attributes:
        sampling: of its request.
        draws: the source of its draws.
        prompt: its tokens.
        answer: the tokens so far.
        held: the form that the answer is held to; None: it is free.
    """

    sampling: Sampling
    draws: random.Random
    prompt: Sequence[int]
    answer: Sequence[int]
    held: Held | None = None


class Chosen(NamedTuple):
    """A token.

    Attributes:
        token: its number.
        logprob: the logarithm of its probability, before anything that the request asks for.
        top: the likeliest tokens with theirs; empty if the request wants none.
    """

    token: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


def choose(logits: torch.Tensor, rows: Sequence[Past]) -> list[Chosen]:
    """Choose the next token of each row.

    Args:
        logits: one row of them for each of `rows`, over the vocabulary; is changed.
        rows: what they depend on.
    """
    logits = logits.float()
    reported = {at: row.sampling.logprobs for at, row in enumerate(rows) if row.sampling.logprobs is not None}
    raw = torch.log_softmax(logits[list(reported)], dim=-1) if reported else None
    for at, row in enumerate(rows):
        _bend(logits[at], row)
    chosen = [Chosen(token) for token in _picked(logits, rows)]
    for at, row in enumerate(rows):
        # To draw again from the rest is to draw from what is admitted, without a look at the whole vocabulary.
        for _ in range(logits.shape[-1]):
            if row.held is None or row.held.admits(chosen[at].token):
                break
            logits[at, chosen[at].token] = -torch.inf
            chosen[at] = Chosen(_picked(logits[at : at + 1], [row])[0])
    for place, (at, count) in enumerate(reported.items()):
        if raw is not None:
            chosen[at] = _reported(raw[place], chosen[at].token, count or 0)
    return chosen


def _picked(logits: torch.Tensor, rows: Sequence[Past]) -> list[int]:
    tokens = logits.argmax(dim=-1)
    drawn = [at for at, row in enumerate(rows) if row.sampling.is_drawn]
    if drawn:
        tokens[drawn] = _draw(logits[drawn], [rows[at] for at in drawn])
    return [int(token) for token in tokens.tolist()]


def _bend(logits: torch.Tensor, row: Past) -> None:
    """Apply what a request asks for, apart from the draw, to the logits of its row."""
    sampling = row.sampling
    if sampling.repetition_penalty != 1:
        seen = torch.tensor(sorted({*row.prompt, *row.answer}), device=logits.device)
        found, penalty = logits[seen], sampling.repetition_penalty
        logits[seen] = torch.where(found < 0, found * penalty, found / penalty)
    if row.answer and (sampling.frequency_penalty or sampling.presence_penalty):
        counts = Counter(row.answer)
        taken = [count * sampling.frequency_penalty + sampling.presence_penalty for count in counts.values()]
        logits[list(counts)] -= torch.tensor(taken, device=logits.device)
    for token, bias in sampling.logit_bias.items():
        logits[token] += bias
    among = row.held.among() if row.held is not None else None
    if among is not None:
        kept = torch.tensor(among, device=logits.device)
        allowed = logits[kept]
        logits.fill_(-torch.inf)
        logits[kept] = allowed


def _draw(logits: torch.Tensor, rows: Sequence[Past]) -> torch.Tensor:
    """Draw a token for each row: the first whose cumulated probability exceeds a random number."""
    heat = torch.tensor([row.sampling.temperature for row in rows], device=logits.device)
    probabilities = torch.softmax(logits / heat[:, None], dim=-1)
    points = torch.tensor([row.draws.random() for row in rows], dtype=torch.float64, device=logits.device)
    tokens = torch.zeros(len(rows), dtype=torch.long, device=logits.device)
    cut = [at for at, row in enumerate(rows) if row.sampling.top_k or row.sampling.top_p < 1]
    whole = [at for at in range(len(rows)) if at not in set(cut)]
    if whole:
        tokens[whole] = _pick(probabilities[whole], points[whole])
    if cut:  # to sort a vocabulary takes long: only for rows that need it
        ordered, places = probabilities[cut].sort(dim=-1, descending=True, stable=True)
        ordered = _narrowed(ordered, [rows[at].sampling for at in cut])
        picked = _pick(ordered, points[cut])
        tokens[cut] = places.gather(-1, picked[:, None])[:, 0]
    return tokens


def _narrowed(ordered: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """Remove what `top_k` and then `top_p` exclude from probabilities in falling order."""
    device, size = ordered.device, ordered.shape[-1]
    most = torch.tensor([each.top_k or size for each in samplings], device=device)
    ordered = ordered * (torch.arange(size, device=device)[None] < most[:, None])
    ordered = ordered / ordered.sum(dim=-1, keepdim=True)
    share = torch.tensor([each.top_p for each in samplings], device=device)
    before = ordered.cumsum(dim=-1) - ordered
    is_kept = before < share[:, None]
    is_kept[:, 0] = True
    return ordered * is_kept


def _pick(probabilities: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Return the place at which the cumulated probability first exceeds a point of the whole."""
    sums = probabilities.double().cumsum(dim=-1)
    places = torch.searchsorted(sums, (points * sums[:, -1])[:, None], right=True)[:, 0]
    return places.clamp(max=probabilities.shape[-1] - 1)


def _reported(raw: torch.Tensor, token: int, count: int) -> Chosen:
    values, tokens = raw.topk(min(count, raw.shape[-1])) if count else (raw[:0], raw[:0])
    top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return Chosen(token, float(raw[token]), top)

"""How likely a model found its label, by the log-probabilities of the tokens that spell it.

Invariant: no number is given for tokens that may not be those of the label.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from batcher.answer.shape import Shape
from batcher.records import Completion, ModelToken, Result, Status

# What may come behind an answer among its tokens and not in its text: the special ones that end it.
_ENDS = re.compile(rb"\s*(?:<[^<>\s]{1,60}>\s*)*")
# Blanks as tokenizers write them, in the bytes of UTF-8.
_BLANKS = {"▁".encode(): b" ", "Ġ".encode(): b" ", "Ċ".encode(): b"\n"}
_SLACK = 1e-3  # above 0: what rounding makes of the logarithm of 1


class _Spelled(NamedTuple):
    """The tokens of an answer as one text, and where in it each ends."""

    text: bytes
    ends: list[int]


def confidence_of(completion: Completion, result: Result, shape: Shape | None) -> float | None:
    """Return the probability of the tokens that spell an answer's label, from 0 to 1; None if it is not known.

    Each token's probability is given what stands before it, so their product is that of the label, given what the model
    wrote before it.

    Args:
        completion: what came, with the tokens that the model wrote.
        result: as it was read.
        shape: by which it was read.
    """
    text = completion.text or ""
    if not completion.scored or shape is None or result.status is not Status.OK:
        return None
    place = shape.place(text, result.answer)
    if place is None:
        return None
    start, end = (len(_bytes(text[:at])) for at in place)
    for spelled in (_spelled(completion.scored), _with_blanks(completion.scored)):
        if (at := _place_of(_bytes(text), spelled.text)) is not None:
            return _probability(completion.scored, spelled.ends, at + start, at + end)
    return None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _spelled(scored: tuple[ModelToken, ...]) -> _Spelled:
    ends = [0]
    for token in scored:
        ends.append(ends[-1] + len(token.text))
    return _Spelled(b"".join(token.text for token in scored), ends[1:])


def _with_blanks(scored: tuple[ModelToken, ...]) -> _Spelled:
    """Return the same for tokens in which a sign stands for a blank."""
    texts = []
    for token in scored:
        text = token.text
        for sign, blank in _BLANKS.items():
            text = text.replace(sign, blank)
        texts.append(token._replace(text=text))
    return _spelled(tuple(texts))


def _place_of(text: bytes, written: bytes) -> int | None:
    """Return where an answer's text begins among what the model wrote; None if it is not the end of that."""
    answer = text.strip()
    at = written.rfind(answer)
    if not answer or at < 0 or not _ENDS.fullmatch(written, at + len(answer)):
        return None
    return at - (len(text) - len(text.lstrip()))


def _probability(scored: tuple[ModelToken, ...], ends: list[int], start: int, end: int) -> float | None:
    total, begin = 0.0, 0
    for token, stop in zip(scored, ends, strict=True):
        if begin < end and stop > start and stop > begin:
            total += token.logprob
        begin = stop
    return math.exp(min(total, 0.0)) if total <= _SLACK and not math.isinf(total) else None

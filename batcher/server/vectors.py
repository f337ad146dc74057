"""The embeddings of the simulated model.

Invariant: equal texts have equal vectors, different ones different vectors, each of length 1; a shorter vector is the
beginning of a longer one, scaled.
"""

from __future__ import annotations

import hashlib
import math
from array import array

from batcher.server.completions import plain, tokens_in
from batcher.server.requests import EmbeddingRequest, read_embedding
from batcher.server.responses import Refusal, bad

DIMENSIONS = 256
"""Numbers of a vector if a request does not say how many."""

_MOST_DIMENSIONS = 3072
_CONTEXT = 8192  # tokens of an input
_TOGETHER = 300_000  # tokens of a request


def read(raw: bytes, model: str = "") -> EmbeddingRequest | Refusal:
    """Read a request of embeddings, and refuse it if it exceeds what a real service takes."""
    request = read_embedding(raw, model)
    if isinstance(request, Refusal):
        return request
    if request.dimensions and request.dimensions > _MOST_DIMENSIONS:
        return bad(f"'dimensions' must be a whole number from 1 to {_MOST_DIMENSIONS}.", "dimensions")
    lengths = [tokens_in(each) for each in request.inputs]
    if max(lengths) > _CONTEXT:
        said = (
            f"This model's maximum context length is {_CONTEXT} tokens, however you requested {max(lengths)} tokens in"
            f" input {lengths.index(max(lengths))}. Please reduce your prompt."
        )
        return bad(said, "input", "context_length_exceeded")
    if sum(lengths) > _TOGETHER:
        said = f"Requested {sum(lengths)} tokens, max {_TOGETHER} tokens per request."
        return bad(said, "input", "max_tokens_per_request")
    return request


def vector_of(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """Return the vector of a text: numbers that 32-bit floats hold exactly."""
    # A text may hold half of a surrogate pair.
    drawn = array("H", hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(2 * dimensions))
    centred = [number - 32_767.5 for number in drawn]  # never 0, so that the length is not either
    length = math.sqrt(sum(number * number for number in centred))
    return array("f", [number / length for number in centred]).tolist()


def vectors_of(request: EmbeddingRequest) -> list[list[float]]:
    """Return the vectors of a request's inputs."""
    return [vector_of(plain(each), request.dimensions or DIMENSIONS) for each in request.inputs]

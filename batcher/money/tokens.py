"""Counts or estimates the model tokens of a request before it leaves.

Invariant: an estimate is named as one; a value called `most` is a true bound, or None. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batcher.money.vision import UNKNOWN, Picture, Vision, pictures_in, vision_of
from batcher.records import Message, Usage

if TYPE_CHECKING:
    import tiktoken

# Bytes of UTF-8 in a model token. A token is about 4 characters of English (OpenAI's rule of thumb; DeepSeek says 3.3)
# and about 1.7 Chinese ones of 3 bytes each (DeepSeek); 4 bytes fit the first and are on the safe side with the second.
_BYTES_PER_TOKEN = 4
# Tokens that a message, and the beginning of an answer, add in OpenAI's format, without the role (OpenAI cookbook, "How
# to count tokens
# with tiktoken").
_MESSAGE_TOKENS = 3
_ANSWER_TOKENS = 3
# A part of which nothing is known, such as audio: as an image of 1024 x 1024 in high detail at gpt-4o (OpenAI's vision
# guide). The sizes of such parts vary more than the error of this number.
_PART_TOKENS = 765
# More than any known chat template adds: marks around a message; before all messages a default system message, the
# date, and instructions for tools (Llama 3.1's and Qwen's take up to 250).
_MOST_MESSAGE_TOKENS = 16
_MOST_REQUEST_TOKENS = 512
# Parameters that bound an answer's length, and the number of answers: OpenAI and vLLM; Hugging Face; Gemini.
_LENGTHS = ("max_tokens", "max_completion_tokens")
_ANSWERS = ("n", "best_of", "num_return_sequences", "candidate_count", "candidateCount")
# `thinking_budget`, `thinking.budget_tokens`, `reasoning.max_tokens`; and names that some servers prefer to
# `max_tokens`:
# `max_new_tokens`, `maxOutputTokens`, `n_predict`.
_PART_LENGTH = re.compile(r"budget|max.*tokens|n(um)?_predict", re.IGNORECASE)
# Parameters that only describe something, or that the service passes on: a "budget" in them does not bound an answer.
_NO_LENGTHS = {"metadata", "tools", "functions", "tool_choice", "function_call", "response_format", "guided_json"}
_NO_LENGTHS |= {"guided_choice", "structured_outputs", "json_schema", "logit_bias", "user", "store", "prediction"}
_NO_LENGTHS |= {"safety_identifier", "prompt_cache_key", "stop", "messages", "web_search_options"}
_NO_LENGTHS |= {"extra_headers", "extra_query", "headers", "labels", "tags", "litellm_metadata"}
# Characters given to tiktoken at once. Above about half a million spaces its o200k pattern overflows the stack, with an
# error that `except Exception` does not catch. A cut adds a token or two.
_SLICE = 10_000
# The weight of the latest answer in the moving average of their lengths.
_LATEST = 1 / 64


class Table(NamedTuple):
    """One of tiktoken's tables: its URL, and the SHA-256 that tiktoken expects."""

    url: str
    sha256: str


_URL = "https://openaipublic.blob.core.windows.net/encodings"
_CL100K = Table(f"{_URL}/cl100k_base.tiktoken", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7")
_O200K = Table(f"{_URL}/o200k_base.tiktoken", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d")

TABLES = {"cl100k_base": _CL100K, "o200k_base": _O200K, "o200k_harmony": _O200K}
"""The tables by the names of tiktoken's encodings, for every chat model that it knows."""


@dataclass(frozen=True, slots=True)
class Counter:
    """Counts the model tokens of a text.

    Attributes:
        name: `tiktoken` or `estimated`.
        count: returns the model tokens of a text.
        vision: counts those of images.
    """

    name: str
    count: Callable[[str], int]
    vision: Vision = UNKNOWN

    def knowing(self, texts: Iterable[str]) -> Counter:
        """Return a counter that counts these texts only once: they are in every prompt."""
        known = {text: self.count(text) for text in texts}
        if not known:
            return self
        return replace(self, count=lambda text: known[text] if text in known else self.count(text))

    def seeing(self, model: str) -> Counter:
        """Return a counter that counts images as a model does."""
        return replace(self, vision=vision_of(model))


def counter(model: str) -> Counter:
    """Return tiktoken's counter if it knows the model and has its table, else an estimate by the text's length.

    Args:
        model: as the service knows it; a relay's prefix `vendor/` is ignored.
    """
    import tiktoken  # noqa: PLC0415 - only plans and limits of tokens count

    encoding = encoding_of(model)
    if encoding is None or not is_at_hand(TABLES[encoding]):
        return ESTIMATE
    return counter_of(tiktoken.get_encoding(encoding))


def encoding_of(model: str) -> str | None:
    """Return the name of a chat model's encoding, or None if tiktoken does not know the model."""
    import tiktoken  # noqa: PLC0415 - as above

    try:
        encoding = tiktoken.encoding_name_for_model(model.rpartition("/")[2])
    except KeyError:
        return None
    return encoding if encoding in TABLES else None


def counter_of(encoding: tiktoken.Encoding) -> Counter:
    """Return the counter of one of tiktoken's encodings; names of special tokens count as ordinary text."""
    encode = encoding.encode_ordinary

    def count(text: str) -> int:
        if len(text) <= _SLICE:
            return len(encode(text))
        return sum(len(encode(text[start : start + _SLICE])) for start in range(0, len(text), _SLICE))

    return Counter("tiktoken", count)


def is_at_hand(table: Table) -> bool:
    """Return whether a table is complete in tiktoken's cache.

    tiktoken would download a missing table, and delete a damaged one, so it is asked only for complete ones.
    """
    directory = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if directory is None:
        directory = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    if not directory:
        return False  # for tiktoken, an empty name means: no cache
    path = Path(directory) / hashlib.sha1(table.url.encode(), usedforsecurity=False).hexdigest()
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content).hexdigest() == table.sha256


def prompt_tokens(messages: Sequence[Message], counter: Counter) -> int:
    """Return the estimated model tokens of messages.

    Args:
        messages: of one request.
        counter: counts their texts; the marks around the texts are always estimated.
    """
    texts, parts = _pieces(messages)
    other = sum(_part_tokens(part, counter.vision) for part in parts)
    return sum(map(counter.count, texts)) + other + len(messages) * _MESSAGE_TOKENS + _ANSWER_TOKENS


def _part_tokens(part: object, vision: Vision) -> int:
    picture = Picture.of(part)
    return _PART_TOKENS if picture is None else vision.tokens(picture)


def most_prompt_tokens(messages: Sequence[Message], params_bytes: int, vision: Vision = UNKNOWN) -> int | None:
    """Return a number of model tokens that a prompt cannot exceed, or None if nothing bounds one of its parts.

    A model token stands for at least one byte of UTF-8, both in byte-level tokenizers (GPT, Llama 3, Qwen, DeepSeek,
    GLM) and in tokenizers that fall back on bytes (SentencePiece: Gemini, Mistral, Llama 2).

    Args:
        messages: of one request.
        params_bytes: the length of its parameters as JSON: tools and schemas become part of the prompt.
        vision: how the model counts images.
    """
    texts, parts = _pieces(messages)
    other = _most_of_parts(parts, vision) if parts else 0
    if other is None:
        return None
    size = sum(map(_utf8_length, texts)) + other
    return size + params_bytes + len(messages) * _MOST_MESSAGE_TOKENS + _MOST_REQUEST_TOKENS


def _most_of_parts(parts: list[Any], vision: Vision) -> int | None:
    """Return the most model tokens of parts that are not text; None if one is not an image, or nothing bounds it."""
    pictures = pictures_in(parts)
    if pictures is None:
        return None
    bounds = [vision.most(picture) for picture in pictures]
    known = [bound + _MOST_MESSAGE_TOKENS for bound in bounds if bound is not None]  # marks around an image, too
    return sum(known) if len(known) == len(bounds) else None


def text_bytes(messages: Sequence[Message]) -> int | None:
    """Return the bytes of UTF-8 in the texts of messages, or None if they have a part that is not text."""
    texts, parts = _pieces(messages)
    return None if parts else sum(map(_utf8_length, texts))


def most_completion_tokens(params: Mapping[str, Any], context_window: int | None) -> int | None:
    """Return the most model tokens that the answers to one request may have, or None if nothing bounds them.

    A parameter that should be a number but is not bounds nothing: a server may read it in any way.

    Args:
        params: the request parameters. Of `max_tokens` and `max_completion_tokens` the larger one counts, because a
            server may know only one of them. Bounds of a part of the answer, such as thinking, are added; `n` or
            `best_of` multiply the length.
        context_window: the most model tokens of prompt and answer together, which bounds an answer that the parameters
            do not.
    """
    lengths = [params.get(name) for name in _LENGTHS]
    parts = [value for name, value in params.items() if name not in _LENGTHS for value in _parts_in(name, value)]
    whole, beside = _counts(lengths, 1), _counts(parts, 0)
    # DashScope's `max_tokens` does not bound the thinking before an answer.
    thinks_freely = params.get("enable_thinking") and params.get("thinking_budget") is None
    limit = max(whole) + sum(beside) if whole and beside is not None and not thinks_freely else context_window
    answers = _counts([params.get(name) for name in _ANSWERS], 0)
    return None if limit is None or answers is None else limit * max([1, *answers])


def prompts_in(messages: Sequence[Message]) -> int:
    """Return the number of prompts in the request of a completion: a list of model tokens is one."""
    contents = [message["content"] for message in messages]
    return max(sum(len(each) if isinstance(each, list) and not _is_tokens(each) else 1 for each in contents), 1)


def _is_tokens(content: Sequence[object]) -> bool:
    return all(isinstance(each, int) for each in content)


class Estimator:
    """Estimates the tokens of calls, from the length of their prompts and from the answers so far.

    An answer is estimated as the mean plus twice the mean deviation, both moving averages (as RFC 6298 estimates a
    round trip). The calls in flight then hardly ever use more together, and unused tokens are returned with the
    answers.

    Args:
        params: the request parameters of every row; before the first answer, answers count as long as these allow.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._completion: float = most_completion_tokens(params, None) or 0
        self._deviation = 0.0
        self._answers = 0

    def prompt(self, messages: Sequence[Message]) -> float:
        """Return the estimated model tokens of a prompt."""
        return prompt_tokens(messages, ESTIMATE)

    def answer(self) -> float:
        """Return the estimated model tokens of the next answer."""
        return self._completion + 2 * self._deviation

    def learn(self, usage: Usage) -> None:
        """Record the tokens of an answer."""
        if usage.completion_tokens:
            self._answers += 1
            weight = max(1 / self._answers, _LATEST)
            error = usage.completion_tokens - self._completion if self._answers > 1 else 0.0
            self._deviation += weight * (abs(error) - self._deviation)
            self._completion += weight * (usage.completion_tokens - self._completion)


def _counts(values: Sequence[object], least: int) -> list[int] | None:
    """Return values as whole numbers (5.0 as 5) without None; return None if any is something else."""
    given = [value for value in values if value is not None]
    numbers = [int(each) for each in given if isinstance(each, (int, float)) and each >= least and each % 1 == 0]
    return numbers if len(numbers) == len(given) and not any(isinstance(each, bool) for each in given) else None


def _parts_in(name: str, value: object) -> Iterator[object]:
    """Yield the values, anywhere in a parameter, that set the length of a part of the answer."""
    if name in _NO_LENGTHS:
        return
    if isinstance(value, Mapping):
        for inner, each in value.items():
            yield from _parts_in(str(inner), each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _parts_in("", each)
    elif value is not None and _PART_LENGTH.search(name):
        yield value


def _pieces(messages: Sequence[Message]) -> tuple[list[str], list[Any]]:
    """Return the texts that messages send, and the parts that are not text."""
    texts: list[str] = []
    parts: list[Any] = []
    for message in messages:
        for name, value in message.items():
            if isinstance(value, str):
                texts.append(value)
            elif name == "content" and isinstance(value, list):
                for part in value:
                    if isinstance(part, list):  # of model tokens, as below
                        texts += ["0"] * len(part)
                        continue
                    text = _text_of(part)
                    if text is None:
                        parts.append(part)
                    else:
                        texts.append(text)
            elif name in {"content", "audio"} and value is not None:
                parts.append(value)
            elif value is not None:  # mainly tool calls
                texts.append(json.dumps(value, ensure_ascii=False))
    return texts, parts


def _text_of(part: object) -> str | None:
    """Return the text of a part of a message's content, or None if it is something else."""
    if isinstance(part, str):
        return part
    if isinstance(part, int):  # a model token, which counts as one in any way of counting
        return "0"
    if isinstance(part, Mapping) and part.get("type") in {"text", "refusal"}:
        text = part.get(part["type"])
        return text if isinstance(text, str) else None
    return None


def _utf8_length(text: str) -> int:
    # A lone surrogate has three bytes, as has the U+FFFD that a server makes of it.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _estimate(text: str) -> int:
    return -(-_utf8_length(text) // _BYTES_PER_TOKEN)


ESTIMATE = Counter("estimated", _estimate)
"""Counts without a table; cheap enough for every request."""

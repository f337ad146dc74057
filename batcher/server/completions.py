"""What the simulated model makes of a chat or a completion: its choices, cut as the request asks, and their usage.

Invariant: the usage counts the text of all choices that were made, as they were cut.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from batcher.server.answers import answer, call_of, images_of, text_of
from batcher.server.faults import Fate, unit
from batcher.server.replying import Said
from batcher.server.requests import ChatRequest, CompletionRequest, Options, TextOrTokens
from batcher.server.responses import (
    ChatEvents,
    Choice,
    Head,
    TextEvents,
    Token,
    ToolCall,
    Usage,
    chat_completion,
    text_completion,
)

_CHARACTERS = 4  # that count as a model token
_IMAGE_TOKENS = 765  # of any image: as one of 1024 x 1024 at gpt-4o
_SEVERAL = 3  # choices of an answer with more of them than were asked for
_BROKEN = {"error": {"message": "The model failed while it answered (simulated).", "type": "server_error"}}
_PIECES = 20  # of a choice in a stream, at most: enough for a stream of any length
_WORDS = "the a of and to in is it no yes or on so an at as be by do he we"
_OTHERS = tuple(f" {word}" for word in _WORDS.split())  # tokens that might have stood in the place of one


class Made(NamedTuple):
    """The choices for a request."""

    head: Head
    choices: tuple[Choice, ...]
    usage: Usage


def make_chat(request: ChatRequest, number: int, fate: Fate = Fate.ANSWER, said: Said | None = None) -> Made:
    """Answer a chat: a tool call if there are tools to call, else `n` equal texts.

    Args:
        request: the chat.
        number: goes into the completion's id.
        fate: `EMPTY` leaves out the choices, `LENGTH` cuts them off in the middle, `CHOICES` makes several of them.
        said: the answer; default: the simulated model's.
    """
    options = request.options
    called = call_of(request.body, request.tools)
    if called:
        name, whole = called
        text, finish = _cut(whole, options._replace(stop=()), fate)
        ends = {"stop": "function_call" if request.tools.are_functions else "tool_calls"}
        calls = (ToolCall(f"call_sim_{number}", name, text),)
        choice = Choice("", ends.get(finish, finish), None, calls, request.tools.are_functions)
        given = _tokens(len(name) + len(text))
    else:
        said = said or Said(answer(request.body))
        text, finish = _cut(said.text, options, fate)
        choice = Choice(text, finish, _tokens_of(text, options, said))
        given = _tokens(len(text))
    count = _count(options, fate)
    images = sum(len(images_of(message)) for message in request.messages)
    asked = _tokens(sum(len(text_of(message)) for message in request.messages)) + images * _IMAGE_TOKENS
    choices = () if fate is Fate.EMPTY else (choice,) * count
    return Made(_head(f"chatcmpl-sim-{number}", request.model), choices, Usage(asked, count * given))


def make_texts(request: CompletionRequest, number: int, said: Sequence[Said], fate: Fate = Fate.ANSWER) -> Made:
    """Answer a completion: `n` equal texts for each prompt.

    Args:
        request: the completion.
        number: goes into the completion's id.
        said: the answer to each prompt.
        fate: as of a chat.
    """
    options, count = request.options, _count(request.options, fate)
    choices: list[Choice] = []
    asked = given = 0
    for prompt, whole in zip(request.prompts, said, strict=True):
        text, finish = _cut(whole.text, options, fate)
        asked += tokens_in(prompt)
        given += count * _tokens(len(text))
        tokens = _tokens_of(text, options, whole)
        before = plain(prompt) if request.is_echoed else ""
        if before and tokens is not None and options.logprobs is not None:
            first, *rest = _scored(before, options.logprobs)  # nothing stands before the first one
            tokens = (first._replace(logprob=None, top=()), *rest, *tokens)
        choices += [Choice(before + text, finish, tokens)] * count
    made = () if fate is Fate.EMPTY else tuple(choices)
    return Made(_head(f"cmpl-sim-{number}", request.model), made, Usage(asked, given))


def chat_events(made: Made, options: Options, fate: Fate = Fate.ANSWER) -> Iterator[str]:
    """Yield the data of each event of a streamed chat that meets this fate."""
    events = ChatEvents(made.head, with_usage=options.with_usage)

    def all_of() -> Iterator[str]:
        for index, choice in enumerate(made.choices):
            yield events.begin(index)
            if choice.tool_calls:
                yield events.calls(index, choice.tool_calls, are_functions=choice.is_function)
            for text, tokens in _pieces(choice):
                yield events.piece(index, text, tokens)
            yield events.end(index, choice.finish)
        yield from events.usage(made.usage)

    return _met(all_of(), fate)


def text_events(made: Made, options: Options, fate: Fate = Fate.ANSWER) -> Iterator[str]:
    """Yield the data of each event of a streamed completion that meets this fate."""
    events = TextEvents(made.head, with_usage=options.with_usage)

    def all_of() -> Iterator[str]:
        for index, choice in enumerate(made.choices):
            for text, tokens in _pieces(choice):
                yield events.piece(index, text, tokens)
            yield events.end(index, choice.finish)
        yield from events.usage(made.usage)

    return _met(all_of(), fate)


def chat_body(made: Made) -> dict[str, Any]:
    """Return the body of a chat completion."""
    return chat_completion(*made)


def text_body(made: Made) -> dict[str, Any]:
    """Return the body of a text completion."""
    return text_completion(*made)


def plain(prompt: TextOrTokens) -> str:
    """Return a prompt as a text: tokens, which only a tokenizer can read, as numbers."""
    return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))


def tokens_in(prompt: TextOrTokens) -> int:
    """Return how many model tokens a prompt has."""
    return _tokens(len(prompt)) if isinstance(prompt, str) else len(prompt)


def _head(name: str, model: str) -> Head:
    return Head(name, model, int(time.time()))


def _count(options: Options, fate: Fate) -> int:
    return max(options.n, _SEVERAL if fate is Fate.CHOICES else 1)


def _tokens(characters: int) -> int:
    return max(math.ceil(characters / _CHARACTERS), 1)


def _cut(text: str, options: Options, fate: Fate) -> tuple[str, str]:
    """Cut a text off at the limit and at the first stop; return it with the reason for its end."""
    kept = text if options.max_tokens is None else text[: _CHARACTERS * options.max_tokens]
    ends = [place for stop in options.stop if (place := kept.find(stop)) >= 0]
    if fate is Fate.LENGTH:
        kept = kept[: min(ends, default=len(kept))]
        return kept[: max(len(kept) // 2, 1)], "length"
    if ends:
        return kept[: min(ends)], "stop"
    return kept, "length" if len(kept) < len(text) else "stop"


def _tokens_of(text: str, options: Options, said: Said) -> tuple[Token, ...] | None:
    """Return the tokens of an answer as far as it was not cut off, with their log-probabilities if they are wanted."""
    if options.logprobs is None:
        return None
    return _stated(text, said, options.logprobs) if said.chances else _scored(text, options.logprobs)


def _stated(text: str, said: Said, alternatives: int) -> tuple[Token, ...]:
    """Return the tokens of an answer whose chance is stated: the probabilities of its tokens multiply to it.

    Each token has the chance of the texts that begin so, among those that have the same beginning before it. The last
    token of the label also has the chance that the label ends there.
    """
    found: list[Token] = []
    left, total = said.chances, 1.0
    for start in range(0, len(text), _CHARACTERS):
        token = text[start : start + _CHARACTERS]
        there: dict[str, float] = {}
        for other, chance in left.items():
            each = other[start : start + len(token)]
            there[each] = there.get(each, 0.0) + chance
        if start + len(token) >= said.decided:
            left, there[token] = {said.text: 1.0}, said.chances[said.text]
        ranked = sorted(there.items(), key=lambda pair: -pair[1])
        top = [(each, math.log(chance / total)) for each, chance in ranked[:alternatives] if each]
        found.append(Token(token, min(math.log(there[token] / total), 0.0), top))
        left = {other: chance for other, chance in left.items() if other.startswith(token, start)}
        total = there[token]
    return tuple(found)


def _scored(text: str, alternatives: int) -> tuple[Token, ...]:
    """Return the tokens of a text, each with a log-probability and the likeliest tokens at its place."""
    found = []
    for start in range(0, len(text), _CHARACTERS):
        token = text[start : start + _CHARACTERS]
        chance = 0.5 + unit("token", start, token) / 2
        others = [other for other in _OTHERS if other != token][: max(alternatives - 1, 0)]
        # Each other token has half of what is left: together less than 1.
        left = [(other, math.log((1 - chance) * 0.5**place)) for place, other in enumerate(others, 1)]
        top = [(token, math.log(chance)), *left] if alternatives else []
        found.append(Token(token, math.log(chance), top))
    return tuple(found)


def _pieces(choice: Choice) -> Iterator[tuple[str, Sequence[Token] | None]]:
    """Yield the pieces of a choice in a stream, each of whole tokens."""
    if choice.tokens is not None:
        size = math.ceil(len(choice.tokens) / _PIECES)
        for start in range(0, len(choice.tokens), max(size, 1)):
            tokens = choice.tokens[start : start + size]
            yield "".join(token.text for token in tokens), tokens
        return
    size = _CHARACTERS * max(math.ceil(len(choice.text) / (_CHARACTERS * _PIECES)), 1)
    for start in range(0, len(choice.text), size):
        yield choice.text[start : start + size], None


def _met(events: Iterator[str], fate: Fate) -> Iterator[str]:
    """Yield the events of a stream as its fate has them.

    `HOLE` breaks off the second one, which has the first piece of text, so that it is no JSON. Of a stream that is cut
    or falls silent there is the first half; `BREAK` puts an error behind that.
    """
    if fate not in {Fate.BREAK, Fate.CUT, Fate.STALL}:
        for place, event in enumerate(events):
            yield event[: len(event) // 2] if fate is Fate.HOLE and place == 1 else event
        return
    made = list(events)
    yield from made[: max(len(made) // 2, 2)]
    if fate is Fate.BREAK:
        yield json.dumps(_BROKEN)

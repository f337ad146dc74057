"""The kinds of requests that the simulated service answers: chats, completions, embeddings.

Invariant: what is made depends on the request, the way of the service and the model's slips alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from batcher.server.answers import prompt_of
from batcher.server.asgi import CHAT, COMPLETIONS, EMBEDDINGS
from batcher.server.completions import (
    chat_body,
    chat_events,
    make_chat,
    make_texts,
    plain,
    text_body,
    text_events,
    tokens_in,
)
from batcher.server.confusion import Speaker
from batcher.server.faults import Fate, Reply
from batcher.server.forms import Form, Wanted, wanted_of
from batcher.server.replying import Said, Slips, reply_to
from batcher.server.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Options,
    read_chat,
    read_completion,
)
from batcher.server.responses import Refusal, embedding_list
from batcher.server.vectors import read, vectors_of
from batcher.server.ways import Way

Request = ChatRequest | CompletionRequest | EmbeddingRequest

_STREAMED = {Fate.HOLE, Fate.BREAK}  # are of streams, whether one was asked for or not

NOTHING = Wanted(Form.PROMPT)


class Answer(NamedTuple):
    """What is sent for a request that is answered.

    Attributes:
        body: of the response.
        events: the data of each event, if it is to be a stream.
        misfits: the prompts whose answer is not what was asked for.
    """

    body: bytes
    events: Iterator[str] | None = None
    misfits: tuple[str, ...] = ()

    def naming(self, tier: str) -> Answer:
        """Return it with the service tier that served the request; what is no JSON stays as it is."""
        events = None if self.events is None else (_with_tier(data, tier) for data in self.events)
        return self._replace(body=_with_tier(self.body.decode(), tier).encode(), events=events)


def _with_tier(data: str, tier: str) -> str:
    try:
        return json.dumps({**json.loads(data), "service_tier": tier})
    except (ValueError, TypeError):
        return data


class Manner(NamedTuple):
    """How a request is answered.

    Attributes:
        wanted: the form that it asks for.
        way: of the service, to treat forms.
        slips: of the model.
        number: of the answer, which goes into its id.
        speaker: says the labels, if their errors are stated.
    """

    wanted: Wanted
    way: Way
    slips: Slips
    number: int
    speaker: Speaker | None = None

    def reply_to(self, body: Mapping[str, Any], options: Options) -> Said | Reply:
        """Answer a chat, or return the refusal of its answer."""
        spoken = self.speaker.say(prompt_of(body), body["model"], options.temperature) if self.speaker else None
        return reply_to(body, self.wanted, self.way, self.slips, spoken)


class Work(Protocol):
    """One kind of request."""

    route: str

    def read(self, raw: bytes, model: str) -> Request | Refusal:
        """Read a body; the path may name the model."""

    def texts(self, request: Any) -> tuple[str, ...]:
        """Return what is asked: prompts, or inputs."""

    def wanted(self, request: Any) -> Wanted:
        """Return the form that a request asks for."""

    def answer(self, request: Any, fate: Fate, manner: Manner) -> Answer | Reply:
        """Answer a request, or return the refusal that holds the answer."""


class ChatWork:
    """Chats."""

    route = CHAT

    def read(self, raw: bytes, model: str) -> ChatRequest | Refusal:
        return read_chat(raw, model)

    def texts(self, request: ChatRequest) -> tuple[str, ...]:
        return (prompt_of(request.body),)

    def wanted(self, request: ChatRequest) -> Wanted:
        return wanted_of(request.body)

    def answer(self, request: ChatRequest, fate: Fate, manner: Manner) -> Answer | Reply:
        said = manner.reply_to(request.body, request.options)
        if isinstance(said, Reply):
            return said
        made = make_chat(request, manner.number, fate, said)
        is_called = any(choice.tool_calls for choice in made.choices)
        misfits = () if said.fits or is_called else (prompt_of(request.body),)
        if request.options.is_streamed or fate in _STREAMED:
            return Answer(b"", chat_events(made, request.options, fate), misfits)
        return Answer(json.dumps(chat_body(made)).encode(), None, misfits)


class TextWork:
    """Completions: each prompt is answered as a chat of one message."""

    route = COMPLETIONS

    def read(self, raw: bytes, model: str) -> CompletionRequest | Refusal:
        return read_completion(raw, model)

    def texts(self, request: CompletionRequest) -> tuple[str, ...]:
        return tuple(map(plain, request.prompts))

    def wanted(self, request: CompletionRequest) -> Wanted:
        return wanted_of(request.body)

    def answer(self, request: CompletionRequest, fate: Fate, manner: Manner) -> Answer | Reply:
        said: list[Said] = []
        texts = self.texts(request)
        for text in texts:
            reply = manner.reply_to({**request.body, "messages": as_messages(text)}, request.options)
            if isinstance(reply, Reply):
                return reply
            said.append(reply)
        made = make_texts(request, manner.number, said, fate)
        misfits = tuple(text for text, each in zip(texts, said, strict=True) if not each.fits)
        if request.options.is_streamed or fate in _STREAMED:
            return Answer(b"", text_events(made, request.options, fate), misfits)
        return Answer(json.dumps(text_body(made)).encode(), None, misfits)


class EmbeddingWork:
    """Embeddings. Of the fates, `EMPTY` sends no vector, `LENGTH` half of them, `CHOICES` two too many.

    They are never streamed: `HOLE` and `BREAK` send half of the JSON, as if it were whole.
    """

    route = EMBEDDINGS

    def read(self, raw: bytes, model: str) -> EmbeddingRequest | Refusal:
        return read(raw, model)

    def texts(self, request: EmbeddingRequest) -> tuple[str, ...]:
        return tuple(map(plain, request.inputs))

    def wanted(self, request: EmbeddingRequest) -> Wanted:  # noqa: ARG002 - as of the others
        return NOTHING

    def answer(self, request: EmbeddingRequest, fate: Fate, manner: Manner) -> Answer | Reply:  # noqa: ARG002 - as of the others
        vectors = vectors_of(request)
        if fate is Fate.CHOICES:
            vectors += vectors[-1:] * 2
        elif fate in {Fate.EMPTY, Fate.LENGTH}:
            vectors = vectors[: len(vectors) // 2 if fate is Fate.LENGTH else 0]
        tokens = sum(map(tokens_in, request.inputs))
        whole = json.dumps(embedding_list(request.model, vectors, tokens, as_base64=request.as_base64)).encode()
        return Answer(whole[: len(whole) // 2] if fate in _STREAMED else whole)


def as_messages(prompt: str) -> list[dict[str, Any]]:
    """Return a prompt as the messages of a chat."""
    return [{"role": "user", "content": prompt}]

"""The routes of the OpenAI protocol in front of the engine.

Invariant: the event loop only hands work over and waits; a request is read, refused or answered, never dropped.
"""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable, Sequence
from hmac import compare_digest
from typing import Any, Protocol, TypeVar

from batcher.errors import in_words
from batcher.server.asgi import CHAT, COMPLETIONS, EMBEDDINGS, MODELS, Api, Exchange
from batcher.server.hf.answering import FaultError, answer, channel
from batcher.server.hf.asking import ask_chat, ask_completion, ask_embedding
from batcher.server.hf.engine import Engine, Inputs
from batcher.server.hf.loading import Model
from batcher.server.requests import read_chat, read_completion, read_embedding
from batcher.server.responses import Refusal, embedding_list, model_card, model_list
from batcher.words import print_err


class _Named(Protocol):
    """A request that has been read."""

    @property
    def model(self) -> str: ...


_Request = TypeVar("_Request", bound=_Named)
_Asked = TypeVar("_Asked")


class HfApp:
    """Answers requests with a model.

    Args:
        model: is used through the engine; its tokenizer is used here, too.
        engine: has been started.
        name: of the model in responses.
        is_strict: requests that name another model are refused.
        keys: that are accepted; empty: requests need none.
    """

    def __init__(
        self, model: Model, engine: Engine, name: str, *, is_strict: bool = False, keys: Sequence[str] = ()
    ) -> None:
        self._model = model
        self._engine = engine
        self._name = name
        self._is_strict = is_strict
        self._keys = [key.encode() for key in keys]
        self.requests = 0

    @property
    def api(self) -> Api:
        """The ASGI app."""
        return Api(
            {
                ("POST", CHAT): self._chat,
                ("POST", COMPLETIONS): self._complete,
                ("POST", EMBEDDINGS): self._embed,
                ("GET", MODELS): self._models,
                ("GET", "/health"): self._health,
                ("GET", "/stats"): self._stats,
            }
        )

    async def _chat(self, exchange: Exchange) -> None:
        request = await self._open(exchange, read_chat)
        if request is None:
            return
        asked = await self._ask(exchange, ask_chat, request)
        if asked is not None:
            await answer(exchange, self._engine, asked, request.options, self._name)

    async def _complete(self, exchange: Exchange) -> None:
        request = await self._open(exchange, read_completion)
        if request is None:
            return
        asked = await self._ask(exchange, ask_completion, request)
        if asked is not None:
            await answer(exchange, self._engine, asked, request.options, self._name)

    async def _embed(self, exchange: Exchange) -> None:
        request = await self._open(exchange, read_embedding)
        if request is None:
            return
        inputs = await self._ask(exchange, ask_embedding, request)
        if inputs is None:
            return
        with channel(exchange) as news:
            self._engine.embed(Inputs(inputs, news.tell, lambda: news.is_over))
            vectors = await news.get()
            if isinstance(vectors, str):
                await exchange.refuse(FaultError(vectors).refusal)
                return
            body = embedding_list(self._name, vectors, sum(map(len, inputs)), as_base64=request.as_base64)
            await exchange.respond(200, await asyncio.to_thread(_written, body))

    async def _models(self, exchange: Exchange) -> None:
        refusal = self._refuse_key(exchange) or self._refuse_model(exchange.name)
        if refusal:
            await exchange.refuse(refusal)
            return
        found = model_card(self._name) if exchange.name else model_list([self._name])
        await exchange.respond(200, json.dumps(found).encode())

    async def _health(self, exchange: Exchange) -> None:
        await exchange.respond(200, b'{"status": "ok"}')

    async def _stats(self, exchange: Exchange) -> None:
        found = {"requests": self.requests, **self._engine.counts()}
        await exchange.respond(200, json.dumps(found).encode())

    async def _open(self, exchange: Exchange, read: Callable[[bytes, str], _Request | Refusal]) -> _Request | None:
        """Read a request, or refuse it; return None if that is done, or if the client has left."""
        self.requests += 1
        raw = await exchange.read()
        if raw is None:
            return None
        request = self._refuse_key(exchange) or read(raw, exchange.name)
        if not isinstance(request, Refusal) and self._is_strict:
            request = self._refuse_model(request.model) or request
        if isinstance(request, Refusal):
            await exchange.refuse(request)
            return None
        return request

    async def _ask(
        self, exchange: Exchange, ask: Callable[[Model, _Request], _Asked | Refusal], request: _Request
    ) -> _Asked | None:
        """Find out what a request asks of the model, or refuse it; in a thread, because long texts take a while."""
        try:
            asked = await asyncio.to_thread(ask, self._model, request)
        except Exception as error:  # noqa: BLE001 - a fault of a tokenizer or a template is said, and told
            print_err(traceback.format_exc())
            asked = FaultError(in_words(error)).refusal
        if isinstance(asked, Refusal):
            await exchange.refuse(asked)
            return None
        return asked

    def _refuse_key(self, exchange: Exchange) -> Refusal | None:
        given = exchange.key.encode()
        if not self._keys or any(compare_digest(given, key) for key in self._keys):
            return None
        said = "Incorrect API key provided." if given else "You didn't provide an API key."
        return Refusal(401, said, code="invalid_api_key")

    def _refuse_model(self, name: str) -> Refusal | None:
        if name in ("", self._name):
            return None
        said = f"The model {json.dumps(name)} does not exist: this server has {json.dumps(self._name)}."
        return Refusal(404, said, param="model", code="model_not_found")


def _written(body: dict[str, Any]) -> bytes:
    """Write the body of an embeddings response, one vector after another: other threads have their turn in between."""
    head, _, tail = json.dumps(body | {"data": []}).partition('"data": []')
    return f'{head}"data": [{", ".join(map(json.dumps, body["data"]))}]{tail}'.encode()

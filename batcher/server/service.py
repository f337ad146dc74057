"""The simulated service: keys, limits and faults before an answer, and the books of all that.

Invariant: the books are written before the bytes leave, so that they count every answer that a client has.
"""

from __future__ import annotations

import json
import math
from typing import NamedTuple

from batcher.server.asgi import JSON, Exchange, Headers
from batcher.server.batch_model import LineModel
from batcher.server.books import Books
from batcher.server.confusion import Speaker
from batcher.server.faults import Bucket, Fate, Faults, Met, Reply
from batcher.server.forms import Wanted
from batcher.server.rate_headers import minute_headers, rate_headers
from batcher.server.requests import ChatRequest, EmbeddingRequest, Options, Tools
from batcher.server.responses import DONE, INVALID, Refusal, event, model_card, model_list
from batcher.server.simulated import Knobs, draw
from batcher.server.ways import Way, way_of
from batcher.server.work import NOTHING, Answer, ChatWork, EmbeddingWork, Manner, Request, TextWork, Work, as_messages

MODEL = "sim"
"""The name of the served model if `Knobs.model` is empty."""

_TUNNEL = ChatRequest("", [], Options(), Tools(), {})  # a CONNECT request asks nothing
_NO_TUNNEL = Refusal(405, "This server opens no tunnels: begin the base URL with http://")


# The tiers that serve a request which leaves the choice to the service.
_SERVED_BY = {"auto": "default"}


def _tier_of(request: Request) -> str:
    """Return the service tier that a request asks for; empty: none."""
    tier = request.body.get("service_tier")
    return tier if isinstance(tier, str) else ""


class _Asked(NamedTuple):
    """A request that could be read.

    Attributes:
        exchange: its own.
        key: its API key.
        prompt: its texts, as one.
        work: its kind.
        request: as it was read.
        texts: its prompts or inputs.
        wanted: the form that it asks for.
        way: of a fault; None: the server's own.
    """

    exchange: Exchange
    key: str
    prompt: str
    work: Work
    request: Request
    texts: tuple[str, ...] = ()
    wanted: Wanted = NOTHING
    way: Way | None = None


class SimulatedService:
    """Answers the requests of every route.

    Args:
        knobs: how the service behaves.
        books: the counts that it keeps.

    Attributes:
        lines: answers the lines of batches.
    """

    def __init__(self, knobs: Knobs, books: Books) -> None:
        self._knobs = knobs
        self._books = books
        self._bucket = Bucket(knobs.rpm)
        self._faults = Faults(knobs.faults, knobs.seed)
        self._slips = knobs.slips
        self._speaker = Speaker(knobs.confusion, knobs.seed, books.miss_truth) if knobs.confusion else None
        self._admitted = 0  # requests that no fault, key or limit has stopped
        self._number = 0
        self._chats, self._completions, self._embeddings = ChatWork(), TextWork(), EmbeddingWork()
        self.lines = LineModel(knobs, books, self._faults, self._speaker)

    def reset(self) -> None:
        """Let the times and counts of the faults, the requests before a change of forms, and answers begin anew."""
        self._faults.reset()
        self._admitted = 0
        if self._speaker:
            self._speaker.reset()

    async def chat(self, exchange: Exchange) -> None:
        """Answer a chat."""
        await self._serve(exchange, self._chats)

    async def complete(self, exchange: Exchange) -> None:
        """Answer a completion."""
        await self._serve(exchange, self._completions)

    async def embed(self, exchange: Exchange) -> None:
        """Answer an embeddings request."""
        await self._serve(exchange, self._embeddings)

    async def models(self, exchange: Exchange) -> None:
        """List the models, or show the one that the path names."""
        served = self._knobs.model or MODEL
        refusal = self.refuse_key(exchange.key)
        if not refusal and exchange.name and self._knobs.model:
            refusal = self._refuse_model(exchange.name)
        if refusal:
            await exchange.refuse(refusal)
        else:
            shown = model_card(exchange.name) if exchange.name else model_list([served])
            await exchange.respond(200, json.dumps(shown).encode())

    async def refuse_tunnel(self, exchange: Exchange) -> None:
        """Refuse a CONNECT request as the fault that it meets says, or because nothing here speaks TLS."""
        place, key = exchange.path, exchange.key
        self._books.arrive(None, key)
        met = self._faults.meet(place, key=key, is_tunnel=True)
        if not met or await self._goes_on(_Asked(exchange, key, place, self._chats, _TUNNEL), met):
            await self._respond(exchange, _NO_TUNNEL)

    async def _serve(self, exchange: Exchange, work: Work) -> None:
        raw = await exchange.read()
        if raw is None:
            return  # the client left before its request was complete
        key, request = exchange.key, work.read(raw, exchange.name)
        if isinstance(request, Refusal):
            self._books.arrive(None, key, route=work.route)
            await self._respond(exchange, self.refuse_key(key) or request)
            return
        if not request.model:
            request.body["model"] = self._knobs.model or MODEL
            request = request._replace(model=request.body["model"])
        texts = work.texts(request)
        asked = _Asked(exchange, key, texts[0] if len(texts) == 1 else "\n".join(texts), work, request, texts)
        asked = self._arrived(asked, work, request)
        met = self._faults.meet(texts[0], request.model, key, further=texts[1:], tier=_tier_of(request))
        if met and met.rule.forms:
            asked = asked._replace(way=way_of(met.rule.forms))
        if met and not await self._goes_on(asked, met):
            return
        refusal = self.refuse_key(key) or self._refuse_model(request.model) or self._limit(exchange)
        if refusal:
            await self._respond(exchange, refusal)
        else:
            await self._let_through(asked, request)

    def _arrived(self, asked: _Asked, work: Work, request: Request) -> _Asked:
        """Write a request into the books, and read the form that it asks for."""
        if isinstance(request, EmbeddingRequest):
            self._books.arrive(None, asked.key, route=work.route)
            self._books.take_inputs(asked.texts)
            return asked
        self._books.arrive(asked.texts[0], asked.key, *asked.texts[1:], route=work.route)
        asked = asked._replace(wanted=work.wanted(request))
        for text in asked.texts:
            self._books.ask_for(asked.wanted.form, text)
        return asked

    async def _goes_on(self, asked: _Asked, met: Met) -> bool:
        """Let a request meet a fault; return whether it goes on, because the fault only delayed it."""
        rule = met.rule
        if not rule.forms:  # which changes nothing by itself
            self._books.meet(met.label, met.prompt)
        if rule.delay and await asked.exchange.gone(rule.delay):
            self._books.abandon()
        elif rule.does is Fate.ANSWER:
            return True
        elif rule.reply is None:
            await self._happen(asked, rule.does)
        else:
            if rule.is_paid:
                self._books.lose()
            await self._reply(asked, rule.reply, met.prompt, met.wait_s)
        return False

    def refuse_key(self, key: str) -> Refusal | None:
        """Refuse an API key that is not accepted."""
        if not self._knobs.keys or key in self._knobs.keys:
            return None
        said = "Incorrect API key provided." if key else "You didn't provide an API key."
        return Refusal(401, said, INVALID, code="invalid_api_key")

    def _refuse_model(self, wanted: str) -> Refusal | None:
        model = self._knobs.model
        if not model or wanted == model:
            return None
        said = f"The model {json.dumps(wanted)} does not exist: this server has {json.dumps(model)}."
        return Refusal(404, said, INVALID, "model", "model_not_found")

    def _limit(self, exchange: Exchange) -> Refusal | None:
        """Refuse a request that exceeds a limit, and put the state of the limit into the headers of the response."""
        most, rpm = self._knobs.max_in_flight, self._knobs.rpm
        in_flight = self._books.in_flight  # includes this request
        if 0 < most < in_flight:
            exchange.headers += rate_headers(most, 0, 0)
            return Refusal(429, f"Too many requests: {most} at a time.", "requests", code="rate_limit_exceeded")
        wait = self._bucket.take()
        if rpm:
            exchange.headers += minute_headers(rpm, self._bucket.used, wait)
        elif most:
            exchange.headers += rate_headers(most, most - in_flight, 0)
        if wait:
            said = f"Rate limit reached: {rpm:g} request{'' if rpm == 1 else 's'} a minute."
            return Refusal(429, said, "requests", code="rate_limit_exceeded", retry_after=math.ceil(wait))
        return None

    async def _let_through(self, asked: _Asked, request: Request) -> None:
        asked = asked._replace(way=self._way(asked))
        self._admitted += 1
        # A completion has no messages, and a way looks for words in them.
        body = request.body if "messages" in request.body else {"messages": as_messages(asked.prompt), **request.body}
        if refusal := self._way(asked).refusal(asked.wanted, body):
            await self._refuse_form(asked, refusal)
            return
        fate, latency = draw(self._knobs, asked.prompt, self._books.admit(asked.prompt))
        if latency and fate is not Fate.HANG and await asked.exchange.gone(latency):
            self._books.abandon()
        else:
            await self._happen(asked, fate)

    async def _happen(self, asked: _Asked, fate: Fate) -> None:
        """End a request that gets no reply of a fault."""
        if fate is Fate.HANG:
            self._books.hang()
            await asked.exchange.gone()
            self._books.let_go()
        elif fate in {Fate.DROP, Fate.CUT}:
            await self._cut(asked, fate)
        elif fate is Fate.STALL:
            await self._send_half(asked, fate)
            self._books.hang()
            self._books.lose()
            await asked.exchange.gone()
            self._books.let_go()
        elif fate is Fate.ERROR:
            await self._respond(asked.exchange, Refusal(500, "The server had an error (simulated).", "server_error"))
        else:
            await self._answer(asked, fate)

    async def _cut(self, asked: _Asked, fate: Fate) -> None:
        """Cut the connection, with or without half an answer."""
        self._books.drop()
        if fate is Fate.CUT:
            self._books.lose()
            await self._send_half(asked, fate)
        await asked.exchange.cut()

    async def _send_half(self, asked: _Asked, fate: Fate) -> None:
        """Send the first half of an answer."""
        said = self._made(asked, fate)
        if isinstance(said, Reply) or said.events is None:
            body = said.raw(asked.prompt, asked.request.model) if isinstance(said, Reply) else said.body
            headers: Headers = [JSON, (b"content-length", str(len(body)).encode())]
            await asked.exchange.begin(200, headers)
            await asked.exchange.put(body[: len(body) // 2])
            return
        await asked.exchange.begin()
        for data in said.events:
            await asked.exchange.put(event(data))

    async def _answer(self, asked: _Asked, fate: Fate) -> None:
        self._number += 1
        said = self._made(asked, fate)
        if isinstance(said, Reply):
            self._books.lose()  # the refusal holds the answer
            await self._refuse_form(asked, said)
            return
        for prompt in said.misfits:
            self._books.misfit(prompt)
        if fate in {Fate.EMPTY, Fate.HOLE, Fate.BREAK}:
            self._books.respond(200)
            self._books.lose()
        else:
            self._answered(asked)
        if said.events is None:
            await asked.exchange.respond(200, said.body)
            return
        await asked.exchange.begin()
        for data in said.events:
            await asked.exchange.put(event(data))
        await asked.exchange.end(DONE)

    def _made(self, asked: _Asked, fate: Fate) -> Answer | Reply:
        manner = Manner(asked.wanted, self._way(asked), self._slips, self._number, self._speaker)
        answer = asked.work.answer(asked.request, fate, manner)
        tier = _tier_of(asked.request)
        return answer if not tier or isinstance(answer, Reply) else answer.naming(_SERVED_BY.get(tier, tier))

    def _answered(self, asked: _Asked) -> None:
        if isinstance(asked.request, EmbeddingRequest):
            self._books.embed(asked.texts)
        else:
            self._books.respond(200, *asked.texts)
        self._faults.answered(asked.key)

    def _way(self, asked: _Asked) -> Way:
        return asked.way or self._knobs.way_after(self._admitted)

    async def _refuse_form(self, asked: _Asked, reply: Reply) -> None:
        for text in asked.texts:
            self._books.refuse_form(asked.wanted.form, text)
        await self._reply(asked, reply, asked.prompt)

    async def _reply(self, asked: _Asked, reply: Reply, prompt: str, wait_s: float = 0.0) -> None:
        """Send the reply of a fault, with the wait until its limit admits a request again."""
        headers = reply.header_lines
        if wait_s and not any(name == b"retry-after" for name, _ in headers):
            headers.append((b"retry-after", str(math.ceil(wait_s)).encode()))
        self._books.reply(reply.status)
        await asked.exchange.respond(reply.status, reply.raw(prompt, asked.request.model), headers)

    async def _respond(self, exchange: Exchange, refusal: Refusal) -> None:
        self._books.respond(refusal.status)
        await exchange.refuse(refusal)

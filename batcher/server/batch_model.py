"""The simulated model as it answers the lines of batches: by the same rules, with the same faults, as requests.

Invariant: a line that is answered gets the answer that the same request would have got by itself.
"""

from __future__ import annotations

import json

from batcher.server.asgi import CHAT, COMPLETIONS, EMBEDDINGS
from batcher.server.batch_lines import Line, LineError
from batcher.server.batch_queue import LineAnswer
from batcher.server.books import Books
from batcher.server.confusion import Speaker
from batcher.server.faults import Fate, Faults, Reply
from batcher.server.requests import EmbeddingRequest
from batcher.server.responses import Refusal, bad
from batcher.server.simulated import Knobs, draw
from batcher.server.ways import Way, way_of
from batcher.server.work import ChatWork, EmbeddingWork, Manner, Request, TextWork, Work, as_messages

TEST_MODEL, TEST_ROUTE = "batch-test-model", "chat/ds-test"
"""DashScope's model for tests, and the route of its batches: each line gets the same answer."""

_TESTED = "This is a test result."
_TESTED_LINES, _TESTED_BYTES = 100, 2**20  # of a file for it, at most
_WHOLE = {Fate.ANSWER, Fate.EMPTY, Fate.LENGTH, Fate.CHOICES}  # the fates that a response can show
_NO_ANSWER = Refusal(500, "The server had an error (simulated).", "server_error")
_NO_STREAM = bad("Streaming is not supported in a batch.", "stream")


def route_of(url: str) -> str:
    """Return the route that a batch asks, whatever prefix its service has; empty if there is no such route."""
    routes = (CHAT, TEST_ROUTE, COMPLETIONS, EMBEDDINGS)
    return next((route for route in routes if url.startswith("/") and url.endswith(f"/{route}")), "")


class LineModel:
    """Answers the lines of batches.

    Args:
        knobs: of the server.
        books: what requests and lines share: faults, forms, answers that do not fit.
        faults: those of requests.
        speaker: says the labels, if their errors are stated.
    """

    def __init__(self, knobs: Knobs, books: Books, faults: Faults, speaker: Speaker | None) -> None:
        self._knobs = knobs
        self._books = books
        self._faults = faults
        self._speaker = speaker
        self._number = 0
        chats = ChatWork()
        self._works: dict[str, Work] = {
            CHAT: chats,
            TEST_ROUTE: chats,
            COMPLETIONS: TextWork(),
            EMBEDDINGS: EmbeddingWork(),
        }

    def prompts(self, line: Line) -> tuple[str, ...]:
        """Return what a line asks; of one that is no request, nothing."""
        read = self._read(line)
        return () if read is None or isinstance(read[1], Refusal) else read[0].texts(read[1])

    def check(self, url: str, model: str, lines: int, size: int) -> tuple[LineError, ...]:
        """Return what is wrong with a batch of this route, model, number of lines and bytes."""
        if (route_of(url) == TEST_ROUTE) != (model == TEST_MODEL):
            said = f"The model {model!r} cannot be asked at {url!r}: {TEST_MODEL} and /v1/{TEST_ROUTE} go together."
            return (LineError("model_mismatch", said, None, "body.model"),)
        if model == TEST_MODEL and (lines > _TESTED_LINES or size > _TESTED_BYTES):
            said = f"A file for {TEST_MODEL} has {_TESTED_LINES} lines and {_TESTED_BYTES:,} bytes at most."
            return (LineError("too_many_tasks", said),)
        return ()

    def answer(self, line: Line, key: str) -> LineAnswer:
        """Answer a line as if it were a request by itself.

        A fault that cuts a connection, or never answers, is an error of the server in a batch.
        """
        read = self._read(line)
        if read is None:
            return _refused(_NO_ANSWER, ())
        work, request = read
        if isinstance(request, Refusal):
            return _refused(request, ())
        texts = work.texts(request)
        if line.body.get("stream"):
            return _refused(_NO_STREAM, texts)
        return self._tested(line, texts) if line.model == TEST_MODEL else self._asked(work, request, texts, key)

    def _asked(self, work: Work, request: Request, texts: tuple[str, ...], key: str) -> LineAnswer:
        """Answer a request, unless it meets a fault."""
        met = self._faults.meet(texts[0], request.model, key, further=texts[1:], is_line=True)
        way, fate = self._knobs.way_after(self._number), Fate.ANSWER
        if met and met.rule.forms:
            way = way_of(met.rule.forms)
        elif met:
            self._books.meet(met.label, met.prompt)
            fate = met.rule.does
            if met.rule.reply is not None:
                return _replied(met.rule.reply, texts, request)
        drawn, _ = draw(self._knobs, _as_one(texts), self._books.admit(_as_one(texts)))
        if fate not in _WHOLE or drawn is Fate.ERROR:
            return _refused(_NO_ANSWER, texts)
        return self._made(work, request, texts, fate, way)

    def _read(self, line: Line) -> tuple[Work, Request | Refusal] | None:
        work = self._works.get(route_of(line.url))
        return None if work is None else (work, work.read(json.dumps(line.body).encode(), ""))

    def _made(self, work: Work, request: Request, texts: tuple[str, ...], fate: Fate, way: Way) -> LineAnswer:
        self._number += 1
        wanted = work.wanted(request)
        is_form = not isinstance(request, EmbeddingRequest)
        for text in texts if is_form else ():
            self._books.ask_for(wanted.form, text)
        body = request.body if "messages" in request.body else {"messages": as_messages(texts[0]), **request.body}
        manner = Manner(wanted, way, self._knobs.slips, self._number, self._speaker)
        said = way.refusal(wanted, body) or work.answer(request, fate, manner)
        if isinstance(said, Reply):
            for text in texts:
                self._books.refuse_form(wanted.form, text)
            return _replied(said, texts, request)
        for prompt in said.misfits:
            self._books.misfit(prompt)
        usage = json.loads(said.body).get("usage", {})
        return LineAnswer(200, said.body, texts, usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))

    def _tested(self, line: Line, texts: tuple[str, ...]) -> LineAnswer:
        self._number += 1
        usage = {"prompt_tokens": 20, "completion_tokens": 6, "total_tokens": 26}
        message = {"role": "assistant", "content": _TESTED}
        body = {
            "id": f"chatcmpl-sim-batch-{self._number}",
            "object": "chat.completion",
            "created": 0,
            "model": line.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        }
        return LineAnswer(200, json.dumps(body).encode(), texts, 20, 6)


def _as_one(texts: tuple[str, ...]) -> str:
    return texts[0] if len(texts) == 1 else "\n".join(texts)


def _refused(refusal: Refusal, texts: tuple[str, ...]) -> LineAnswer:
    return LineAnswer(refusal.status, refusal.body(), texts)


def _replied(reply: Reply, texts: tuple[str, ...], request: Request) -> LineAnswer:
    raw = reply.raw(texts[0], request.model)
    try:
        json.loads(raw)
    except ValueError:  # a page, or nothing
        raw = json.dumps(raw.decode("utf-8", "replace")).encode()
    return LineAnswer(reply.status, raw, texts)

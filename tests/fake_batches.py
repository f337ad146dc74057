"""The batch API of the fake service, in virtual time, over the queue of the local server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from batcher.calls.batch_service import (
    KEYWORD,
    LINE_CANCELLED,
    LINE_EXPIRED,
    NAME,
    Answer,
    BatchError,
    BatchLimits,
    Remote,
    RemoteState,
)
from batcher.records import NO_PARAMS, NO_TERMS, Completion, Failure, Fault, Message, Terms, Usage
from batcher.server.batch_lines import Line, LineError
from batcher.server.batch_queue import BATCH, BatchQueue, LineAnswer, QueuedBatch, new_file
from batcher.server.batch_rules import CHANGING, BatchKnobs, BatchRule, Place
from batcher.server.faults import Fate
from batcher.server.responses import Refusal

if TYPE_CHECKING:
    from fake_service import Service

T = TypeVar("T")

URL = "/v1/chat/completions"
EPOCH = 1_796_000_000.0
"""What the server's clock says when a virtual loop begins."""


class Asked(NamedTuple):
    """A call of the batch API, as the service sees it arrive.

    Attributes:
        place: what it asks.
        what: the file, the batch or the name that it is about.
        at: the loop's time.
    """

    place: Place
    what: str
    at: float


class FakeBatches:
    """A `BatchService` in virtual time; the service that it belongs to answers its lines.

    Args:
        service: answers, and counts the answers in its own books (`Service.answered`).
        endpoint: the model that is asked.
        queue: the files and batches.
        limits: as the client knows them.
        latency: seconds that a call takes.
        timeout_s: seconds after which a call that hangs has failed; None: never.

    Attributes:
        queue: the files and batches, with their books (`queue.books`).
        asked: every call, in the order of arrival.
    """

    def __init__(
        self,
        service: Service,
        endpoint: str,
        queue: BatchQueue,
        limits: BatchLimits,
        *,
        latency: float = 0.1,
        timeout_s: float | None = 600.0,
    ) -> None:
        self._service = service
        self._endpoint = endpoint
        self.queue = queue
        self.limits = limits
        self.asked: list[Asked] = []
        self._latency = latency
        self._timeout_s = timeout_s

    def line(
        self,
        custom_id: str,
        messages: Sequence[Message],
        params: Mapping[str, Any] = NO_PARAMS,
        terms: Terms = NO_TERMS,
    ) -> bytes:
        body = {"model": self._endpoint, "messages": list(messages), **params, **terms.params}
        return json.dumps({"custom_id": custom_id, "method": "POST", "url": URL, "body": body}).encode() + b"\n"

    def url(self, terms: Terms = NO_TERMS) -> str:  # noqa: ARG002 - it has one alone
        return URL

    def read(self, line: bytes) -> Answer | None:
        try:
            said = json.loads(line)
        except ValueError:
            return None
        response, error = said["response"], said["error"]
        if response is None:
            code = {"batch_expired": LINE_EXPIRED, "batch_cancelled": LINE_CANCELLED}.get(error["code"], error["code"])
            return Answer(said["custom_id"], Failure(Fault.OTHER, error["message"], code=code))
        body = response["body"]
        if response["status_code"] != 200:
            error = body["error"]
            code = error.get("code")
            return Answer(said["custom_id"], Failure(Fault.STATUS, error["message"], response["status_code"], code))
        return Answer(said["custom_id"], _completion(body))

    async def upload(self, path: Path, filename: str) -> str | Failure:
        raw = path.read_bytes()  # noqa: ASYNC240 - the test's own, and small

        def keep() -> str:
            content = new_file()
            content.write(raw)
            return self.queue.add(filename, BATCH, content).id

        if len(raw) > self.queue.limits.file_bytes:
            return _failed(Refusal(413, f"The file is larger than {self.queue.limits.file_bytes} bytes."))
        return await self._ask(Place.UPLOAD, filename, keep)

    async def find_file(self, filename: str) -> str | Failure | None:
        def find() -> str | None:
            return next((each.id for each in self.queue.files(BATCH) if each.filename == filename), None)

        return await self._ask(Place.FILES, filename, find)

    async def create(self, input_file: str, name: str, url: str, keyword: str) -> Remote | Failure:
        def make() -> Remote | Refusal:
            made = self.queue.create(input_file, url, "24h", metadata={NAME: name, KEYWORD: keyword})
            return self._remote(made)

        return await self._ask(Place.CREATE, name, make)

    async def find(self, name: str, input_file: str, since: float) -> list[Remote] | Failure:
        def find() -> list[Remote]:
            there = [each for each in self.queue.batches() if each.created >= since - 3600]
            mine = (each for each in there if each.metadata.get(NAME) == name or each.file.id == input_file)
            return [remote for each in reversed(list(mine)) if isinstance(remote := self._remote(each), Remote)]

        return await self._ask(Place.LIST, name, find)

    async def look(self, batch: str) -> Remote | Failure:
        return await self._ask(Place.LOOK, batch, lambda: self._remote(self.queue.batch(batch)))

    async def cancel(self, batch: str) -> Remote | Failure:
        return await self._ask(Place.CANCEL, batch, lambda: self._remote(self.queue.cancel(batch)))

    async def download(self, file: str, path: Path) -> Failure | None:
        def read() -> bytes | Refusal:
            found = self.queue.file(file)
            return found if isinstance(found, Refusal) else b"".join(found.parts())

        raw = await self._ask(Place.CONTENT, file, read)
        if isinstance(raw, Failure):
            return raw
        path.write_bytes(raw)  # noqa: ASYNC240 - the same
        return None

    async def _ask(self, place: Place, what: str, work: Callable[[], T | Refusal]) -> T | Failure:
        """Make a call, with the fault that it meets."""
        assert self._service.is_open
        self.asked.append(Asked(place, what, asyncio.get_running_loop().time()))
        rule = self.queue.meet(place)
        await asyncio.sleep(self._latency / 2)
        if rule is None or rule.does is Fate.ANSWER:
            await asyncio.sleep(rule.delay if rule else 0.0)
            made = work()
            await asyncio.sleep(self._latency / 2)
            return _failed(made) if isinstance(made, Refusal) else made
        if rule.is_done and place in CHANGING:
            work()
        await asyncio.sleep(rule.delay + self._latency / 2)
        return await self._fail(rule)

    async def _fail(self, rule: BatchRule) -> Failure:
        if rule.does is Fate.HANG:
            await asyncio.sleep(self._timeout_s if self._timeout_s is not None else 1e9)
            return Failure(Fault.TIMEOUT, f"nothing came within {self._timeout_s:g} s", may_be_billed=True)
        if rule.reply is None:
            return Failure(Fault.CONNECTION, "the connection was cut", may_be_billed=True)
        body = rule.reply.body
        error = body.get("error", {}) if isinstance(body, Mapping) else {}
        wait = rule.reply.headers.get("retry-after")
        message = error.get("message", "said the service")
        return Failure(
            Fault.STATUS, message, rule.reply.status, error.get("code"), retry_after=float(wait) if wait else None
        )

    def _remote(self, batch: QueuedBatch | Refusal) -> Remote | Refusal:
        if isinstance(batch, Refusal):
            return batch
        output, error = self.queue.shown_files(batch)
        return Remote(
            batch.id,
            RemoteState(str(batch.state)),
            batch.metadata.get(NAME, ""),
            batch.file.id,
            batch.created,
            batch.expires,
            batch.ended,
            batch.total,
            batch.completed,
            batch.failed,
            output or "",
            error or "",
            tuple(BatchError(each.code, each.message, each.line) for each in batch.errors),
            str(batch.state),
        )


def _failed(refusal: Refusal) -> Failure:
    return Failure(Fault.STATUS, refusal.message, refusal.status, refusal.code)


def _completion(body: Mapping[str, Any]) -> Completion:
    choice, used = body["choices"][0], body["usage"]
    usage = Usage(used["prompt_tokens"], used["completion_tokens"])
    message = choice["message"]
    return Completion(message["content"], choice["finish_reason"], usage, message.get("refusal"), model=body["model"])


class FakeModel:
    """Answers the lines of batches as a fake service answers calls."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def prompts(self, line: Line) -> tuple[str, ...]:
        return (line.body["messages"][-1]["content"],)

    def check(self, _url: str, _model: str, _lines: int, _size: int) -> tuple[LineError, ...]:
        return ()

    def answer(self, line: Line, _key: str) -> LineAnswer:
        model = line.model
        prompts = self.prompts(line)
        said = self._service.answer_in_batch(prompts[0], model, line.body)
        if isinstance(said, Failure):
            error = {"message": said.message, "type": "error", "code": said.code}
            return LineAnswer(said.status or 500, json.dumps({"error": error}).encode(), prompts)
        usage = said.usage
        prompt_tokens, completion_tokens = usage.prompt_tokens or 0, usage.completion_tokens or 0
        message = {"role": "assistant", "content": said.text, "refusal": said.refusal}
        body = {
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": said.finish_reason}],
            "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
        }
        return LineAnswer(200, json.dumps(body).encode(), prompts, prompt_tokens, completion_tokens)


def queue_of(service: Service, knobs: BatchKnobs) -> BatchQueue:
    """Make the queue of a service; its clock is that of whichever virtual loop runs."""
    return BatchQueue(knobs, FakeModel(service), service.clock)

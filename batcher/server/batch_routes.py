"""The routes of files and batches, as OpenAI has them, over the queue.

Invariant: the queue has done what a request asks before its response leaves; a fault may keep the response back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from batcher.nesting import is_too_deep
from batcher.server.asgi import BATCH as ONE_BATCH
from batcher.server.asgi import BATCHES, CANCEL, CONTENT, FILE, FILES, JSON, ClientLeft, Exchange, Handler, Headers
from batcher.server.batch_model import TEST_ROUTE, route_of
from batcher.server.batch_queue import BatchQueue, QueuedBatch, StoredFile, days_in, new_file
from batcher.server.batch_rules import CHANGING, BatchRule, Place, State
from batcher.server.faults import Fate
from batcher.server.multipart import read_form
from batcher.server.responses import Refusal, bad

_ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", f"/v1/{TEST_ROUTE}")
_PURPOSES = ("batch", "assistants", "fine-tune", "vision", "user_data", "evals", "file-extract")
_MOST_BATCHES, _MOST_FILES = 100, 10_000  # of a list
_PAIRS, _KEY, _VALUE = 16, 64, 512  # of metadata: pairs, and characters of each
_PART = 2**16
_BINARY: tuple[bytes, bytes] = (b"content-type", b"application/octet-stream")


class BatchRoutes:
    """Answers the requests about files and batches.

    Args:
        queue: the files and batches.
        refuse_key: returns the refusal of an API key, if it is refused.
    """

    def __init__(self, queue: BatchQueue, refuse_key: Callable[[str], Refusal | None]) -> None:
        self._queue = queue
        self._refuse_key = refuse_key
        self._catching_up: asyncio.Task[None] | None = None

    @property
    def handlers(self) -> dict[tuple[str, str], Handler]:
        """The handlers by method and route."""
        return {
            ("POST", FILES): self._upload,
            ("GET", FILES): self._list_files,
            ("GET", FILE): self._file,
            ("DELETE", FILE): self._delete,
            ("GET", CONTENT): self._content,
            ("POST", BATCHES): self._create,
            ("GET", BATCHES): self._list,
            ("GET", ONE_BATCH): self._look,
            ("POST", CANCEL): self._cancel,
        }

    # --- files ---

    async def _upload(self, exchange: Exchange) -> None:
        with contextlib.ExitStack() as kept:
            content = new_file()
            kept.callback(content.close)
            most = self._queue.limits.file_bytes
            try:
                form = await read_form(exchange.parts(), exchange.content_type, content, most)
            except ClientLeft:
                return
            if not isinstance(form, Refusal):
                form = _lacks(form.fields, form.filename, has_file=form.has_file) or form

            def keep() -> Any:
                if isinstance(form, Refusal):
                    return form
                kept.pop_all()  # it is the queue's
                return _file(self._queue.add(form.filename, form.fields["purpose"], content))

            await self._do(exchange, Place.UPLOAD, keep)

    async def _list_files(self, exchange: Exchange) -> None:
        query = exchange.query

        def listed() -> Any:
            files = self._queue.files(query.get("purpose", ""))
            if query.get("order") == "asc":
                files.reverse()
            return _page(files, query, _MOST_FILES, _MOST_FILES, _file)

        await self._do(exchange, Place.FILES, listed)

    async def _file(self, exchange: Exchange) -> None:
        await self._do(exchange, Place.FILE, lambda: _shown(self._queue.file(exchange.name), _file))

    async def _delete(self, exchange: Exchange) -> None:
        def delete() -> Any:
            return _shown(
                self._queue.delete(exchange.name), lambda file: {"id": file.id, "object": "file", "deleted": True}
            )

        await self._do(exchange, Place.DELETE, delete)

    async def _content(self, exchange: Exchange) -> None:
        await self._do(exchange, Place.CONTENT, lambda: self._queue.file(exchange.name))

    # --- batches ---

    async def _create(self, exchange: Exchange) -> None:
        raw = await exchange.read()
        if raw is None:
            return
        asked = _asked(raw)

        def create() -> Any:
            if isinstance(asked, Refusal):
                return asked
            made = self._queue.create(
                asked["input_file_id"],
                asked["endpoint"],
                asked.get("completion_window") or "24h",
                metadata=asked.get("metadata"),
                key=exchange.key,
            )
            return _shown(made, self._batch)

        await self._do(exchange, Place.CREATE, create)

    async def _list(self, exchange: Exchange) -> None:
        await self._do(
            exchange,
            Place.LIST,
            lambda: _page(self._queue.batches(), exchange.query, 20, _MOST_BATCHES, self._batch),
        )

    async def _look(self, exchange: Exchange) -> None:
        await self._do(exchange, Place.LOOK, lambda: _shown(self._queue.batch(exchange.name), self._batch))

    async def _cancel(self, exchange: Exchange) -> None:
        await exchange.read()
        await self._do(exchange, Place.CANCEL, lambda: _shown(self._queue.cancel(exchange.name), self._batch))

    def _batch(self, batch: QueuedBatch) -> dict[str, Any]:
        """Show a batch as the protocol has it."""
        output, error = self._queue.shown_files(batch)
        ended = {f"{state}_at": _second(batch.ended if batch.state is state else None) for state in _ENDS}
        errors = [each.to_dict() for each in batch.errors]
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.endpoint,
            "model": batch.checked.model or None,
            "errors": {"object": "list", "data": errors} if errors else None,
            "input_file_id": batch.file.id,
            "completion_window": batch.window,
            "status": str(batch.state),
            "output_file_id": output,
            "error_file_id": error,
            "created_at": _second(batch.created),
            "in_progress_at": _second(batch.started),
            "expires_at": _second(batch.expires),
            "finalizing_at": _second(batch.finalizing),
            "cancelling_at": _second(batch.cancelling),
            **ended,
            "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
            "usage": {
                "input_tokens": batch.prompt_tokens,
                "output_tokens": batch.completion_tokens,
                "total_tokens": batch.prompt_tokens + batch.completion_tokens,
            },
            "metadata": batch.metadata or None,
        }

    # --- what all have in common ---

    async def _do(self, exchange: Exchange, place: Place, work: Callable[[], Any]) -> None:
        """Do what a request asks, and respond, as the fault has it that it meets.

        Args:
            exchange: the request.
            place: what it asks.
            work: does it; returns what is to be shown, or a refusal.
        """
        if refusal := self._refuse_key(exchange.key):
            await exchange.refuse(refusal)
            return
        self._catch_up()
        rule = self._queue.meet(place)
        if rule is None:
            await _respond(exchange, work())
            return
        is_lost = rule.does is not Fate.ANSWER
        made = work() if rule.is_done or place not in CHANGING or not is_lost else None
        if rule.delay and await exchange.gone(rule.delay):
            return
        await (_lose(exchange, rule, made) if is_lost else _respond(exchange, made))

    def _catch_up(self) -> None:
        """Let the batches go on to the present, little by little, so that other requests are answered meanwhile."""

        async def go_on() -> None:
            is_behind = True
            while is_behind:
                await asyncio.sleep(0)
                is_behind = self._queue.advance()

        if self._queue.advance() and (self._catching_up is None or self._catching_up.done()):
            self._catching_up = asyncio.create_task(go_on())


_ENDS = tuple(state for state in State if state.is_over)


def _second(at: float | None) -> int | None:
    return None if at is None else int(at)


def _file(file: StoredFile) -> dict[str, Any]:
    """Show a file as the protocol has it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created),
        "expires_at": None,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def _shown(found: Any, show: Callable[[Any], Any]) -> Any:
    return found if isinstance(found, Refusal) else show(found)


def _page(
    found: Sequence[Any], query: Mapping[str, str], usual: int, most: int, show: Callable[[Any], Any]
) -> dict[str, Any] | Refusal:
    """Show a page of a list."""
    given = query.get("limit", str(usual))
    if not given.isascii() or not given.isdigit() or not 1 <= int(given) <= most:
        return bad(f"Invalid limit: expected a whole number from 1 to {most}.", "limit")
    if after := query.get("after"):
        place = next((place for place, each in enumerate(found, 1) if each.id == after), None)
        if place is None:
            return bad(f"Invalid after: there is no {after!r}.", "after")
        found = found[place:]
    page = [show(each) for each in found[: int(given)]]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return {"object": "list", "data": page, **ends, "has_more": len(found) > len(page)}


def _lacks(fields: Mapping[str, str], filename: str, *, has_file: bool) -> Refusal | None:
    """Refuse an upload that lacks something."""
    purpose = fields.get("purpose", "")
    if not has_file or not filename:
        return bad("The form needs a part called 'file' with a filename.", "file")
    if purpose not in _PURPOSES:
        return bad(f"{purpose!r} is not one of {list(_PURPOSES)} - 'purpose'", "purpose")
    if purpose == "batch" and not filename.endswith(".jsonl"):
        return bad("Invalid file format for Batch API. Must be .jsonl", "file")
    return None


def _asked(raw: bytes) -> dict[str, Any] | Refusal:
    """Read the body of a request for a new batch."""
    try:
        body = None if is_too_deep(raw.decode("utf-8")) else json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return bad("We could not parse the JSON body of your request.")
    for name in ("input_file_id", "endpoint"):
        if not isinstance(body.get(name), str) or not body[name]:
            return bad(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    if not route_of(body["endpoint"]):
        supported = ", ".join(map(repr, _ROUTES))
        said = f"Invalid value: '{body['endpoint']}'. Supported values are: {supported}."
        return bad(said, "endpoint", "invalid_value")
    window = body.get("completion_window") or "24h"
    if not isinstance(window, str) or not days_in(window):
        return bad(f"Invalid value: {window!r}. Supported values are: '24h'.", "completion_window", "invalid_value")
    return _wrong_metadata(body.get("metadata")) or body


def _wrong_metadata(metadata: Any) -> Refusal | None:
    if metadata is None:
        return None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        return bad("Invalid type for 'metadata': expected an object of texts.", "metadata", "invalid_type")
    if len(metadata) > _PAIRS:
        said = f"Invalid 'metadata': too many properties. Expected an object with at most {_PAIRS} properties."
        return bad(said, "metadata", "object_above_max_properties")
    for key, value in metadata.items():
        if len(key) > _KEY or len(value) > _VALUE:
            said = f"Invalid 'metadata': keys have {_KEY} characters at most, and values {_VALUE}."
            return bad(said, f"metadata.{key[:_KEY]}", "string_above_max_length")
    return None


async def _respond(exchange: Exchange, made: Any) -> None:
    if isinstance(made, Refusal):
        await exchange.refuse(made)
        return
    length, headers, parts = _written(made)
    await exchange.begin(200, [*headers, (b"content-length", str(length).encode())])
    async for part in parts:
        await exchange.put(part)
    await exchange.end()


def _written(made: Any) -> tuple[int, Headers, AsyncIterator[bytes]]:
    """Return the length, the type and the parts of a response."""

    async def parts(of: StoredFile | bytes) -> AsyncIterator[bytes]:
        if isinstance(of, bytes):
            yield of
            return
        for place in range(0, of.bytes, _PART):
            yield of.read(place, _PART)

    if isinstance(made, StoredFile):
        return made.bytes, [_BINARY], parts(made)
    raw = json.dumps(made).encode()
    return len(raw), [JSON], parts(raw)


async def _lose(exchange: Exchange, rule: BatchRule, made: Any) -> None:
    """Keep a response back, or cut it off."""
    if rule.reply is not None:
        await exchange.respond(rule.reply.status, rule.reply.raw("", ""), rule.reply.header_lines)
        return
    if rule.does in {Fate.CUT, Fate.STALL} and made is not None and not isinstance(made, Refusal):
        length, headers, parts = _written(made)
        await exchange.begin(200, [*headers, (b"content-length", str(length).encode())])
        left = math.ceil(length / 2)
        async for part in parts:
            await exchange.put(part[:left])
            left -= len(part)
            if left <= 0:
                break
    if rule.does in {Fate.HANG, Fate.STALL}:
        await exchange.gone()
    else:
        await exchange.cut()

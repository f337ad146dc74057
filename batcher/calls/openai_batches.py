"""Talks to a service's batch API through the client of OpenAI's SDK.

Invariant: an error of the service or the network becomes a `Failure`, which holds no API key; nothing is sent twice by
itself. The API key goes to the base URL alone. A file that was downloaded is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

from batcher.calls.batch_answers import moment, object_in, page_in, remote_in
from batcher.calls.batch_facts import LARGEST, BatchFacts
from batcher.calls.batch_lines import Lines
from batcher.calls.batch_service import KEYWORD, NAME, Answer, BatchLimits, Remote
from batcher.calls.error_bodies import failure_in, is_error
from batcher.calls.failures import failure_of
from batcher.calls.request_body import PATHS
from batcher.calls.texts import json_in, one_line
from batcher.calls.unreached import perhaps_of_proxy
from batcher.calls.waits import wait_in
from batcher.calls.ways import way_to
from batcher.hiding import public_url
from batcher.records import NO_PARAMS, NO_TERMS, Failure, Fault, Message, Terms

if TYPE_CHECKING:
    import openai

_WHOLE_S = 300.0
"""The most seconds for an answer that is no file."""
_IDLE_S, _UPLOADED_S = 120.0, 900.0
"""The most seconds without a byte; and those after an upload, while the service looks at the file."""
_EARLIER_S = 3600.0
"""By how many seconds the clocks of two machines may differ."""
_MOST_PAGES = 2_000
_MOST_REDIRECTS = 5
_LONGEST_REFUSAL = 2**16  # bytes
_LONGEST_VALUE = 512  # characters of a value of metadata
# The SDK returns a response as it came, not what it makes of it, if a request has this header.
_AS_IT_CAME = {"X-Stainless-Raw-Response": "true"}
_REDIRECTS = {301, 302, 303, 307, 308}
_NO_LIST = {404, 405, 501}


class Place(NamedTuple):
    """Where the batch API of an endpoint is.

    Attributes:
        base_url: below which its routes are.
        query: of each request, such as an `api-version`.
        deployment: the name in a base URL of Azure's, which stands for the model; else empty.
    """

    base_url: str
    query: Mapping[str, str]
    deployment: str

    @classmethod
    def of(cls, base_url: str) -> Place:
        """Return the place for an endpoint's base URL: the batches of Azure's deployments are those of the resource."""
        place, _, query = base_url.partition("?")
        name, _, value = query.partition("=")
        found = re.fullmatch(r"(.*)/deployments/([^/]+)", place)
        base, deployment = (found[1], unquote(found[2])) if found else (place, "")
        return cls(base, {name: value} if name else {}, deployment)


class Link(NamedTuple):
    """The connections to the batch API of an endpoint.

    Attributes:
        client: of the SDK, without retries of its own.
        http_to: returns the HTTP client for a URL, which goes through its proxy.
        headers: with the API key, for the base URL alone.
        instead: headers that the SDK would add itself, and shall not.
        secrets: texts that no message may show.
    """

    client: openai.AsyncOpenAI
    http_to: Callable[[str], Any]
    headers: Mapping[str, str]
    instead: Mapping[str, Any]
    secrets: Sequence[str]

    def __repr__(self) -> str:
        return "<Link>"  # the headers hold the key


class OpenAIBatches:
    """The batch API of one endpoint.

    Args:
        place: of the API.
        link: to it.
        lines: writes and reads lines.
        facts: about the service.
        model: that is asked.
    """

    def __init__(self, place: Place, link: Link, lines: Lines, facts: BatchFacts, model: str) -> None:
        self._place = place
        self._link = link
        self._lines = lines
        self._facts = facts
        self._is_test = bool(model) and model == facts.test[0]

    def __repr__(self) -> str:
        return f"<OpenAIBatches: {self._place.base_url}>"

    @property
    def limits(self) -> BatchLimits:
        limits = self._facts.test_limits if self._is_test else self._facts.limits
        return limits._replace(requests=limits.requests or LARGEST.requests, bytes=limits.bytes or LARGEST.bytes)

    def line(
        self,
        custom_id: str,
        messages: Sequence[Message],
        params: Mapping[str, Any] = NO_PARAMS,
        terms: Terms = NO_TERMS,
    ) -> bytes:
        return self._lines.line(custom_id, self.url(terms), messages, params, terms)

    def url(self, terms: Terms = NO_TERMS) -> str:
        if self._is_test:
            return self._facts.test[1]
        version = re.search(r"/v\d+[a-z0-9]*\Z", self._place.base_url)
        path = self._facts.path or (version[0] if version else "/v1")
        return f"{path.rstrip('/')}/{PATHS[terms.task]}"

    def read(self, line: bytes) -> Answer | None:
        return self._lines.read(line)

    async def upload(self, path: Path, filename: str) -> str | Failure:
        with path.open("rb") as file:
            said = await self._ask(
                "post",
                self._facts.upload,
                body={"purpose": self._facts.purpose, **({"file_name": filename} if self._names_file else {})},
                files=[("file", (filename, file, "application/jsonl"))],
                headers={"Content-Type": "multipart/form-data"},
                seconds=_UPLOADED_S,
            )
        if isinstance(said, Failure):
            return said
        made = object_in(said)
        return str(made["id"]) if made else self._unread(said, "a file")

    @property
    def _names_file(self) -> bool:
        """Whether the name is a field of its own; everywhere else it is the name of the part alone."""
        return self._facts.upload != "/files"

    async def find_file(self, filename: str) -> str | Failure | None:
        found: list[tuple[float, str]] = []
        if not self._facts.lists_files:
            return None
        async for rows in self._pages("/files", {"purpose": self._facts.purpose}):
            if isinstance(rows, Failure):
                return None if rows.status in _NO_LIST else rows
            found += [
                (moment(row.get("created_at", row.get("createdAt"))) or 0.0, str(row["id"]))
                for row in rows
                if filename in (row.get("filename"), row.get("file_name"))
            ]
            if found:  # names are made at random: there is no other file of this name, unless it was sent twice
                break
        return max(found)[1] if found else None

    async def create(self, input_file: str, name: str, url: str, keyword: str) -> Remote | Failure:
        body: dict[str, Any] = {"input_file_id": input_file, "endpoint": url, **self._facts.further}
        if self._facts.window:
            body["completion_window"] = self._facts.window
        if self._facts.keeps_metadata:
            body["metadata"] = {NAME: name, KEYWORD: one_line(keyword)[:_LONGEST_VALUE]}
        said = await self._ask("post", "/batches", body=body, headers={"Idempotency-Key": name})
        if isinstance(said, Failure):
            # After an error of the server, or of a gateway before it, there may be a batch.
            is_open = said.status == HTTPStatus.REQUEST_TIMEOUT or (said.status or 0) >= 500
            return replace(said, may_be_billed=said.may_be_billed or is_open)
        return self._remote(said)

    async def find(self, name: str, input_file: str, since: float) -> list[Remote] | Failure:
        found: dict[str, Remote] = {}
        earliest = since - _EARLIER_S
        async for rows in self._pages("/batches", {"limit": "100"}):
            if isinstance(rows, Failure):
                return rows
            batches = [batch for row in rows if (batch := remote_in(row, self._link.secrets))]
            for batch in batches:
                is_ours = batch.name == name if batch.name else bool(input_file) and batch.input_file == input_file
                if is_ours:
                    found[batch.id] = batch
            times = [batch.created for batch in batches if batch.created]
            # The newest come first, as far as services say anything about it. A list that begins with the oldest is
            # read to its end.
            if times and times == sorted(times, reverse=True) and times[0] < earliest:
                break
        return sorted(found.values(), key=lambda batch: batch.created or 0.0)

    async def look(self, batch: str) -> Remote | Failure:
        heard: dict[str, str] = {}
        remote = self._remote(await self._ask("get", f"/batches/{quote(batch, safe='')}", heard=heard))
        if isinstance(remote, Failure):
            return remote
        return remote._replace(retry_after=wait_in(heard, "", time.time()))

    async def cancel(self, batch: str) -> Remote | Failure:
        return self._remote(await self._ask("post", f"/batches/{quote(batch, safe='')}/cancel"))

    # --- requests ---

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        files: Any = None,
        headers: Mapping[str, str] | None = None,
        heard: dict[str, str] | None = None,
        seconds: float = _IDLE_S,
    ) -> Any:
        """Make a request; return the JSON of its answer, or a failure. `heard` gets the headers of the answer."""
        options: dict[str, Any] = {"headers": {**_AS_IT_CAME, **self._link.instead, **(headers or {})}}
        options["timeout"] = seconds
        if query:
            options["params"] = query
        more: dict[str, Any] = {} if body is None else {"body": body}
        if files:
            more["files"] = files
        ask = getattr(self._link.client, method)
        try:
            async with asyncio.timeout(None if files else _WHOLE_S):
                response = await ask(path, cast_to=object, options=options, **more)
                status, answered, raw = response.status_code, response.headers, response.content
        except Exception as error:  # noqa: BLE001 - the SDK's, or one of the HTTP library's, of which it knows two
            return self._failure(error, seconds)
        if heard is not None:
            heard.update({name.lower(): value for name, value in answered.items()})
        said = json_in(raw)
        is_read = isinstance(said, list) or object_in(said) or page_in(said)
        if not is_read and not (isinstance(said, dict) and not is_error(said)):
            return failure_in(status, answered, raw[:_LONGEST_REFUSAL], self._link.secrets)
        return said

    def _failure(self, error: Exception, seconds: float) -> Failure:
        failure = failure_of(error, seconds, self._link.secrets)
        if failure.status in _REDIRECTS:
            there = public_url(_location(error))
            said = (
                f"the service leads elsewhere, to {one_line(there, self._link.secrets)}" if there else failure.message
            )
            return replace(failure, message=said)
        return failure

    def _remote(self, said: Any) -> Remote | Failure:
        if isinstance(said, Failure):
            return said
        return remote_in(said, self._link.secrets) or self._unread(said, "a batch")

    def _unread(self, said: Any, what: str) -> Failure:
        shown = one_line(str(said), self._link.secrets)
        return Failure(Fault.PROTOCOL, f"the answer does not describe {what}: {shown}", may_be_billed=True)

    async def _pages(self, path: str, query: dict[str, str]) -> AsyncIterator[list[dict[str, Any]] | Failure]:
        """Yield the rows of each page of a list. A page that brings nothing new is the last one."""
        query = query if self._facts.pages else {}
        seen: set[str] = set()
        for _ in range(_MOST_PAGES):
            said = await self._ask("get", path, query=query)
            page = None if isinstance(said, Failure) else page_in(said)
            if page is None:
                yield said if isinstance(said, Failure) else self._unread(said, "a list")
                return
            new = [row for row in page.rows if str(row["id"]) not in seen]
            seen |= {str(row["id"]) for row in new}
            if new:
                yield new
            if page.cursor:
                query = {**query, "cursor": page.cursor}
            elif page.after:
                query = {**query, "after": page.after}
            if not new or not (page.cursor or page.after):
                return

    # --- downloads ---

    async def download(self, file: str, path: Path) -> Failure | None:
        part = path.with_name(f".{path.name}.tmp")
        is_url = file.startswith("https://")
        url = file if is_url else f"{self._place.base_url}/files/{quote(file, safe='')}/content"
        try:
            with part.open("w+b") as into:
                try:
                    failure = await self._fetch(url, into, file=None if is_url else file)
                except OSError:
                    raise  # the local file's: those of the network are the HTTP library's own
                except Exception as error:  # noqa: BLE001 - as above
                    failure = self._failure(error, _IDLE_S)
                if failure is None:
                    into.flush()
                    await asyncio.to_thread(os.fsync, into.fileno())
            if failure is None:
                part.replace(path)
            return failure
        finally:
            part.unlink(missing_ok=True)

    async def _fetch(self, url: str, into: BinaryIO, *, file: str | None) -> Failure | None:
        """Write what is at a URL into a file, after redirects; return why it is not whole."""
        for _ in range(_MOST_REDIRECTS):
            is_own = _origin(url) == _origin(self._place.base_url)
            headers = {**(self._link.headers if is_own else {}), "Accept-Encoding": "identity"}
            query = self._place.query if is_own and file else None
            async with self._link.http_to(url).stream(
                "GET", url, headers=headers, params=query or None, timeout=_IDLE_S, follow_redirects=False
            ) as response:
                location = response.headers.get("location", "")
                if response.status_code not in _REDIRECTS or not location:
                    failure = await self._write(response, into, file)
                    way = replace(way_to(url), secrets=tuple(self._link.secrets))
                    return perhaps_of_proxy(failure, way) if failure else None
            there = urljoin(url, location)
            if urlsplit(url).scheme == "https" and urlsplit(there).scheme != "https":
                return Failure(Fault.PROTOCOL, "the file is to be fetched over an unencrypted connection")
            url = there
        return Failure(Fault.PROTOCOL, f"the file is behind more than {_MOST_REDIRECTS} redirects")

    async def _write(self, response: Any, into: BinaryIO, file: str | None) -> Failure | None:
        status, headers = response.status_code, response.headers
        pieces = response.aiter_bytes()
        async with contextlib.aclosing(pieces):
            first = await anext(pieces, b"")
            while first and len(first) < 64 and (more := await anext(pieces, b"")):
                first += more
            begins = first.removeprefix("\ufeff".encode()).lstrip()[:1]
            if status != HTTPStatus.OK or (begins and begins != b"{"):
                return await self._refused(status, headers, first, pieces)
            written = into.write(first)
            async for piece in pieces:
                written += into.write(piece)
        length = headers.get("content-length", "")
        if not length and "chunked" not in headers.get("transfer-encoding", "").lower() and file:
            length = await self._size_of(file)  # nothing else tells whether the end is missing
        is_packed = headers.get("content-encoding", "identity") not in {"", "identity"}
        if length.isdecimal() and not is_packed and int(length) != written:
            said = f"{written:,} of {int(length):,} bytes of the file came"
            return Failure(Fault.CONNECTION, said)
        return self._error_in(headers, _content(into)) if written < _LONGEST_REFUSAL else None

    async def _refused(
        self, status: int, headers: Mapping[str, str], first: bytes, pieces: AsyncIterator[bytes]
    ) -> Failure:
        """Read what came in place of a file."""
        raw = first
        with contextlib.suppress(Exception):  # the status says enough
            async for piece in pieces:
                raw += piece
                if len(raw) > _LONGEST_REFUSAL:
                    break
        failure = failure_in(status, headers, raw[:_LONGEST_REFUSAL], self._link.secrets)
        if status == HTTPStatus.OK:
            failure = replace(failure, fault=Fault.PROTOCOL, message=f"it is no file of results: {failure.message}")
        return replace(failure, may_be_billed=False)

    def _error_in(self, headers: Mapping[str, str], raw: bytes) -> Failure | None:
        """Return a failure if an error object came in place of lines."""
        said = json_in(raw)
        if isinstance(said, dict) and "custom_id" not in said and is_error(said):
            return replace(failure_in(HTTPStatus.OK, headers, raw, self._link.secrets), may_be_billed=False)
        return None

    async def _size_of(self, file: str) -> str:
        """Return the bytes that a file has at the service; empty if it does not say."""
        said = await self._ask("get", f"/files/{quote(file, safe='')}")
        size = (object_in(said) or {}).get("bytes") if not isinstance(said, Failure) else None
        return str(size) if isinstance(size, int) and size > 0 else ""


def _location(error: Exception) -> str:
    """Return where a response leads that the SDK has made an error of."""
    headers: Mapping[str, str] = getattr(getattr(error, "response", None), "headers", {})
    return headers.get("location", "")


def _content(file: BinaryIO) -> bytes:
    """Return what was written into a file."""
    file.seek(0)
    return file.read()


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower()

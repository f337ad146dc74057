"""Reads a form with a file (multipart/form-data) as it arrives, so that the file is never in memory as a whole.

Invariant: the bytes of the file are those between its part's head and the line break before the next boundary.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.message import Message
from typing import IO

from batcher.server.responses import Refusal, bad

_LONGEST_HEAD = 2**14  # bytes of the head of a part
_LONGEST_FIELD = 2**16


@dataclass
class Form:
    """A form.

    Attributes:
        fields: its texts by name.
        filename: of its file; empty if it has none.
        has_file: it has a part called `file`.
    """

    fields: dict[str, str] = field(default_factory=dict)
    filename: str = ""
    has_file: bool = False


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a form's content type names; empty if it is no form."""
    message = Message()
    message["content-type"] = content_type
    if message.get_content_type() != "multipart/form-data":
        return b""
    return str(message.get_param("boundary") or "").encode("latin-1", "replace")


class _Broken(Exception):
    """The form is not one."""


class _Reader:
    """Finds the parts of a form in its bytes.

    Args:
        parts: the bytes, as they arrive.
        boundary: as the content type names it.
    """

    def __init__(self, parts: AsyncIterator[bytes], boundary: bytes) -> None:
        self._parts = parts
        self._mark = b"\r\n--" + boundary
        self._held = b"\r\n"  # the first boundary may stand at the beginning

    async def skip(self) -> None:
        """Go on behind the next boundary."""
        async for _ in self.until_mark():
            pass

    async def until_mark(self) -> AsyncIterator[bytes]:
        """Yield the bytes before the next boundary, and go on behind it."""
        while True:
            found = self._held.find(self._mark)
            if found >= 0:
                before, self._held = self._held[:found], self._held[found + len(self._mark) :]
                if before:
                    yield before
                return
            kept = len(self._mark) - 1
            if len(self._held) > kept:
                before, self._held = self._held[:-kept], self._held[-kept:]
                yield before
            await self._more()

    async def is_last(self) -> bool:
        """Return whether the boundary that was passed ends the form; else go on behind its line."""
        while len(self._held) < 2:
            await self._more()
        if self._held.startswith(b"--"):
            return True
        while b"\r\n" not in self._held:
            await self._more()
        self._held = self._held.partition(b"\r\n")[2]
        return False

    async def head(self) -> str:
        """Return the head of a part, and go on behind it."""
        while b"\r\n\r\n" not in self._held:
            if len(self._held) > _LONGEST_HEAD:
                raise _Broken
            await self._more()
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        return head.decode("utf-8", "replace")

    async def _more(self) -> None:
        more = await anext(self._parts, None)
        if more is None:
            raise _Broken
        self._held += more


async def read_form(parts: AsyncIterator[bytes], content_type: str, file: IO[bytes], most: int) -> Form | Refusal:
    """Read a form, and write the file in it, the part called `file`, into a local one.

    Args:
        parts: the bytes of the form, as they arrive.
        content_type: of the form.
        file: to write into.
        most: bytes that the file may have.
    """
    boundary = boundary_of(content_type)
    if not boundary:
        return bad("The content type must be multipart/form-data with a boundary.")
    reader, form = _Reader(parts, boundary), Form()
    try:
        await reader.skip()
        while not await reader.is_last():
            head = await reader.head()
            name = _quoted(head, "name")
            if name != "file":
                form.fields[name] = await _text(reader)
                continue
            form.has_file, form.filename = True, _quoted(head, "filename")
            size = 0
            async for part in reader.until_mark():
                size += len(part)
                if size <= most:
                    file.write(part)
            if size > most:
                await _drain(parts)
                return Refusal(413, f"The file has {size:,} bytes, and may have {most:,} at most.", param="file")
    except _Broken:
        return bad("The form breaks off, or is not multipart/form-data.")
    return form


async def _text(reader: _Reader) -> str:
    found = b""
    async for part in reader.until_mark():
        found += part
        if len(found) > _LONGEST_FIELD:
            raise _Broken
    return found.decode("utf-8", "replace")


async def _drain(parts: AsyncIterator[bytes]) -> None:
    """Read on to the end: a client that is still sending would not see the response."""
    async for _ in parts:
        pass


def _quoted(head: str, name: str) -> str:
    """Return a value of a part's `Content-Disposition`, as browsers and Python's clients write it."""
    found = re.search(rf'(?i)^content-disposition:[^\r\n]*;\s*{name}="((?:[^"\\\r\n]|\\.)*)"', head, re.MULTILINE)
    if not found:
        found = re.search(rf"(?i)^content-disposition:[^\r\n]*;\s*{name}=([^;\s]+)", head, re.MULTILINE)
    return re.sub(r"\\(.)", r"\1", found[1]).replace("%22", '"') if found else ""

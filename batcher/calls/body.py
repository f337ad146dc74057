"""The body of a response: unpacked as it comes, and never more of it than a bound.

Invariant: whatever a server sends, no more than the bound is unpacked and kept, and reading ends there.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientResponse

ENCODINGS = "gzip, deflate"
"""What is asked for in `Accept-Encoding`: what Python can unpack step by step in all its releases."""

_PIECE = 2**18  # bytes unpacked at once
_ANY_HEADER = 32 + zlib.MAX_WBITS  # of gzip or zlib
_GZIP = ("gzip", "x-gzip")


class TooLong(Exception):
    """The body has more bytes than the bound."""


class UnknownEncoding(Exception):
    """The body is packed in a way that was not asked for."""


async def parts(response: ClientResponse, most: int) -> AsyncGenerator[bytes, None]:
    """Yield the body as it comes, unpacked; to be closed (`aclosing`) by whoever may not read it to its end.

    Args:
        response: one whose session does not unpack.
        most: bytes that the body may have, unpacked.

    Raises:
        TooLong: it has more.
        UnknownEncoding: it cannot be unpacked.
        aiohttp.ClientPayloadError: it is broken, or broke off.
    """
    if (response.content_length or 0) > most:
        raise TooLong
    length = 0
    async with aclosing(_unpacked(response)) as unpacked:
        async for part in unpacked:
            length += len(part)
            if length > most:
                raise TooLong
            yield part


async def read(response: ClientResponse, most: int) -> bytes:
    """Return the body, unpacked. See `parts` for the arguments and the errors."""
    if "Content-Encoding" not in response.headers:
        length = response.content_length
        if length is not None and length <= most:
            return await response.read()
    async with aclosing(parts(response, most)) as found:
        return b"".join([part async for part in found])


async def beginning(response: ClientResponse, most: int) -> bytes:
    """Return so many bytes of the body at most, unpacked, and do not wait for the rest.

    Raises:
        UnknownEncoding, aiohttp.ClientPayloadError: as `parts`.
    """
    found = b""
    async with aclosing(_unpacked(response)) as unpacked:
        async for part in unpacked:
            found += part
            if len(found) > most:
                break
    return found[:most]


async def _unpacked(response: ClientResponse) -> AsyncGenerator[bytes, None]:
    encoding = _encoding(response)
    if encoding not in {"", "deflate", *_GZIP}:
        raise UnknownEncoding(f"it is compressed with {encoding!r}, which was not asked for")
    unpacker = _Unpacker(is_deflate=encoding == "deflate")
    async for packed in response.content.iter_any():
        for part in unpacker.unpack(packed) if encoding else (packed,):
            yield part
    if not unpacker.is_whole:
        raise aiohttp.ClientPayloadError("the compressed body ends before its end")


def _encoding(response: ClientResponse) -> str:
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


class _Unpacker:
    """Unpacks a body that comes bit by bit, a bounded piece at a time.

    Args:
        is_deflate: it is zlib's format, or as some servers understand the word, its bare stream.
    """

    def __init__(self, *, is_deflate: bool) -> None:
        self._is_deflate = is_deflate
        self._zlib: Any = None

    @property
    def is_whole(self) -> bool:
        """The end has come; of nothing at all as well."""
        return self._zlib is None or self._zlib.eof

    def unpack(self, packed: bytes) -> Iterator[bytes]:
        try:
            yield from self._pieces(packed)
        except zlib.error as error:
            raise aiohttp.ClientPayloadError(f"the body cannot be unpacked: {error}") from error

    def _pieces(self, packed: bytes) -> Iterator[bytes]:
        while packed:
            if self.is_whole:  # it begins here, or it is a gzip of several members
                is_bare = self._is_deflate and packed[0] & 0x0F != zlib.DEFLATED
                self._zlib = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else _ANY_HEADER)
            piece = self._zlib.decompress(packed, _PIECE)
            packed = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
            yield piece
            while len(piece) == _PIECE and not packed and not self._zlib.eof:  # zlib may hold back the end of a match
                piece = self._zlib.decompress(b"", _PIECE)
                yield piece

"""Unpacks the body of a response as it arrives, up to a bound.

Invariant: no more than the bound is unpacked and kept, and reading ends there, for any data from a server.
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
"""The value of `Accept-Encoding`: the encodings that every Python release can unpack step by step."""

_PIECE = 2**18  # bytes unpacked at once
_ANY_HEADER = 32 + zlib.MAX_WBITS  # of gzip or zlib
_GZIP = ("gzip", "x-gzip")


class TooLong(Exception):
    """The body has more bytes than the bound."""


class UnknownEncoding(Exception):
    """The body has an encoding that was not asked for; its text is the server's name of the encoding."""


async def parts(response: ClientResponse, most: int) -> AsyncGenerator[bytes, None]:
    """Yield the body as it arrives, unpacked. Close it (`aclosing`) if it may not be read to its end.

    Args:
        response: from a session that does not unpack.
        most: the most bytes that the body may have, unpacked.

    Raises:
        TooLong: it has more.
        UnknownEncoding: it cannot be unpacked.
        aiohttp.ClientPayloadError: it is damaged or incomplete.
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
    """Return at most `most` bytes of the body, unpacked, and do not wait for the rest.

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
        raise UnknownEncoding(response.headers["Content-Encoding"].strip())
    unpacker = _Unpacker(is_deflate=encoding == "deflate")
    async for packed in response.content.iter_any():
        for part in unpacker.unpack(packed) if encoding else (packed,):
            yield part
    if not unpacker.is_whole:
        raise aiohttp.ClientPayloadError("the compressed body is incomplete")


def _encoding(response: ClientResponse) -> str:
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


class _Unpacker:
    """Unpacks a body piece by piece, as it arrives.

    Args:
        is_deflate: the format is zlib's, or its raw stream, as some servers understand `deflate`.
    """

    def __init__(self, *, is_deflate: bool) -> None:
        self._is_deflate = is_deflate
        self._zlib: Any = None

    @property
    def is_whole(self) -> bool:
        """Whether the end has arrived; also true for an empty body."""
        return self._zlib is None or self._zlib.eof

    def unpack(self, packed: bytes) -> Iterator[bytes]:
        try:
            yield from self._pieces(packed)
        except zlib.error as error:
            raise aiohttp.ClientPayloadError(f"the body cannot be unpacked: {error}") from error

    def _pieces(self, packed: bytes) -> Iterator[bytes]:
        while packed:
            if self.is_whole:  # the start, or a further member of a gzip file
                is_bare = self._is_deflate and packed[0] & 0x0F != zlib.DEFLATED
                self._zlib = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else _ANY_HEADER)
            piece = self._zlib.decompress(packed, _PIECE)
            packed = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
            yield piece
            while len(piece) == _PIECE and not packed and not self._zlib.eof:  # zlib may hold back the end of a match
                piece = self._zlib.decompress(b"", _PIECE)
                yield piece

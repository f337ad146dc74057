"""A body is unpacked as it was packed, and never beyond the bound, for any data from a server."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from canned_server import Reply, Then, canned, http
from hostile_server import bomb, chunked

from batcher.calls import body
from batcher.calls.transport import open_session


async def read(reply: Reply, most: int) -> bytes:
    async with canned(reply) as server, open_session() as session, session.post(server.base_url, data=b"x") as response:
        return await body.read(response, most)


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


TEXT = "你好 👋 ".encode() * 50_000
PACKED = {
    "identity": ("identity", TEXT),
    "gzip": ("gzip", gzip.compress(TEXT)),
    "x-gzip": ("x-gzip", gzip.compress(TEXT)),
    "gzip of two members": ("GZIP", gzip.compress(TEXT[:1000]) + gzip.compress(TEXT[1000:])),
    "deflate": ("deflate", zlib.compress(TEXT)),
    "deflate without a head": ("deflate", bare(TEXT)),
}


@pytest.mark.parametrize("way", PACKED)
async def test_a_body_comes_back_however_it_was_packed_and_framed(way: str) -> None:
    encoding, data = PACKED[way]
    header = f"Content-Encoding: {encoding}"
    pieces = [data[at : at + 777] for at in range(0, len(data), 777)]
    framed = b"".join(chunked(pieces, header)) + b"0\r\n\r\n"
    assert await read(http(200, data, [header]), len(TEXT)) == TEXT
    assert await read(Reply(framed), len(TEXT)) == TEXT
    with pytest.raises(body.TooLong):
        await read(Reply(framed), len(TEXT) - 1)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
async def test_a_body_that_is_packed_in_another_way_is_refused_by_its_name(encoding: str) -> None:
    with pytest.raises(body.UnknownEncoding, match=encoding):
        await read(http(200, b"x", [f"Content-Encoding: {encoding}"]), 100)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_bomb_is_unpacked_no_further_than_the_bound(encoding: str) -> None:
    data = bomb(2**30, encoding)
    assert len(data) < 2**21
    tracemalloc.start()
    with pytest.raises(body.TooLong):
        await read(http(200, data, [f"Content-Encoding: {encoding}"]), 1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", Then.HANG),
        Reply(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + bytes(1001), Then.HANG),
        Reply(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(1001), Then.HANG),
    ],
    ids=["by its length", "chunked", "until the end"],
)
async def test_what_is_too_long_is_not_waited_for(reply: Reply) -> None:
    with pytest.raises(body.TooLong):
        await read(reply, 1000)

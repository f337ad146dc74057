"""Compressed files: known by their endings and first bytes, and unpacked as they are read.

Invariant: an archive that is cut off or damaged is an error, never a shorter table, and is never unpacked whole.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from batcher.errors import InputError

_PACKED = 2**10
"""Bytes of a Zstandard file unpacked at a time: they may become 30,000 times as many."""

FAULTS = (OSError, EOFError, zlib.error, ValueError)
"""What a file that is cut off or damaged may raise while it is read."""


class Packing(NamedTuple):
    """A way to compress a file.

    Attributes:
        name: for people.
        ending: of the files.
        magic: their first bytes.
        opened: opens such a file to read what is in it.
    """

    name: str
    ending: str
    magic: bytes
    opened: Callable[[BinaryIO], Any]


class _Zstandard(io.RawIOBase):
    """Unpacks a Zstandard file; unlike the package's own reader, it notices that the file is cut off."""

    def __init__(self, file: BinaryIO, start: Callable[[], Any]) -> None:
        super().__init__()
        self._file = file
        self._start = start
        self._frame = start()
        self._is_between = True  # no frame has begun
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and self._unpack():
            pass
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _unpack(self) -> bool:
        """Unpack some bytes; return whether there were any."""
        packed = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:  # frames may follow each other
            self._frame, self._is_between = self._start(), True
        packed = packed or self._file.read(_PACKED)
        if not packed:
            if not self._is_between:
                raise EOFError("the file ends within a frame")
            return False
        self._is_between = False
        try:
            self._ready = memoryview(self._frame.decompress(packed))
        except Exception as error:  # the libraries' errors have no common class
            raise OSError(str(error)) from error
        return True


def _zstandard(file: BinaryIO) -> io.BufferedReader:
    return io.BufferedReader(_Zstandard(file, _zstandard_frames()))


def _zstandard_frames() -> Callable[[], Any]:
    """Return the maker of what unpacks a frame: Python's own, from 3.14 on, or the package's."""
    try:
        start: Callable[[], Any] = importlib.import_module("compression.zstd").ZstdDecompressor
    except ImportError:
        try:
            made = importlib.import_module("zstandard").ZstdDecompressor()
        except ImportError as error:
            raise InputError('to read .zst files, install zstandard: pip install "batcher-llm[zstd]"') from error
        return made.decompressobj  # type: ignore[no-any-return]
    return start


PACKINGS = (
    Packing("gzip", ".gz", b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    Packing("bzip2", ".bz2", b"BZh", bz2.BZ2File),
    Packing("Zstandard", ".zst", b"\x28\xb5\x2f\xfd", _zstandard),
)


def packing_by_ending(ending: str) -> Packing | None:
    return next((each for each in PACKINGS if each.ending == ending.lower()), None)


def packing_by_magic(beginning: bytes) -> Packing | None:
    return next((each for each in PACKINGS if beginning.startswith(each.magic)), None)

"""Standard input and pipes: they can be read only once, and a table is read more than once, so they are copied first.

Invariant: the copy is in a temporary file that is gone when nothing refers to it any more.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import sys
import tempfile
import weakref
from pathlib import Path
from typing import BinaryIO

from batcher.errors import InputError

STDIN = "-"
_BLOCK = 2**20
_STANDARD = {STDIN: 0, "/dev/stdin": 0}
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)")


def is_nameless(name: str) -> bool:
    """Return whether a path leads to an open file, and so says nothing of its content."""
    return name in _STANDARD or re.fullmatch(r"/(?:dev|proc/(?:self|\d+))/fd/\d+", name) is not None


class Spool:
    """A file that can be read as often as needed: the one given, or a temporary copy of it, gone with this object.

    Args:
        name: the path of a file or a pipe, or `-`.

    Attributes:
        path: of the file to read, valid in other processes too.

    Raises:
        InputError: it cannot be read, or does not fit on the disk.
    """

    def __init__(self, name: str) -> None:
        found = _DESCRIPTOR.fullmatch(name)
        descriptor = int(found.group(1)) if found else _STANDARD.get(name)
        shown = "standard input" if descriptor == 0 else name
        try:
            if descriptor is None:
                self.path = name
                if not stat.S_ISREG(Path(name).stat().st_mode):
                    with Path(name).open("rb", buffering=0) as pipe:
                        self._copy(pipe, shown)
                return
            if os.isatty(descriptor):
                raise InputError(f"{shown} is the terminal: pipe a table into it, as in `cat data.csv | batcher run -`")
            self.path = f"/proc/{os.getpid()}/fd/{descriptor}"
            if not (_is_at_start(descriptor) and _is_same(self.path, descriptor)):
                with open(descriptor, "rb", buffering=0, closefd=False) as pipe:
                    self._copy(pipe, shown)
        except OSError as error:
            raise InputError(f"{shown} cannot be read: {error.strerror or error}") from error

    def _copy(self, source: BinaryIO, shown: str) -> None:
        count = 0
        with self._temporary() as file:
            try:
                while block := source.read(_BLOCK):
                    file.write(block)
                    count += len(block)
                file.flush()
            except OSError as error:
                folder = tempfile.gettempdir()
                raise InputError(
                    f"{shown} cannot be copied to {folder}: {error.strerror} after {count / 1e6:,.0f} MB,"
                    f" {shutil.disk_usage(folder).free / 1e6:,.0f} MB are free: let TMPDIR name a larger directory, or"
                    " save the table to a file"
                ) from error

    def _temporary(self) -> BinaryIO:
        """Open the copy, and set its path: on Linux it is in no directory, so that no crash leaves it behind."""
        file: BinaryIO = tempfile.TemporaryFile(prefix="batcher-")  # noqa: SIM115
        descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, descriptor)
        self.path = f"/proc/{os.getpid()}/fd/{descriptor}"
        if _is_same(self.path, descriptor):
            return file
        file.close()
        named, self.path = tempfile.mkstemp(prefix="batcher-", suffix=".txt")
        weakref.finalize(self, _remove, self.path)
        return os.fdopen(named, "wb")


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()


def _is_at_start(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode) and os.lseek(descriptor, 0, os.SEEK_CUR) == 0


def _is_same(path: str, descriptor: int) -> bool:
    """Return whether a path leads to an open file: Linux alone has such paths."""
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))  # noqa: PTH116 - the same call as for a descriptor
    return False

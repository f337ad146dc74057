"""Finds the present place of an open file: directories are removed, moved and replaced while a run works.

Invariant: it changes nothing, and never mistakes a file for another one of the same name.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple


class Displaced(NamedTuple):
    """What became of a file that is no longer where it was opened.

    Attributes:
        is_kept: it has only moved, with its directory; else it was removed, or another one is in its place.
        path: where it is now, if that is known.
        is_log: it is the journal's log, which SQLite still has open, and moves into the journal when the run ends.
    """

    is_kept: bool
    path: Path | None = None
    is_log: bool = False


class Place:
    """The place of a file. The file must stay open meanwhile: otherwise another file could get its inode.

    Args:
        path: of the file.

    Raises:
        OSError: it is not there, or its directory cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = identity(path)
        # Windows cannot open a directory, and does not let one be moved or removed while a file in it is open.
        self._directory = os.open(path.absolute().parent, os.O_RDONLY) if os.name == "posix" else None

    def displaced(self) -> Displaced | None:
        """Return what became of the file; None while it is in its place.

        Raises:
            OSError: the file system cannot say.
        """
        if identity(self._path) == self._file:
            return None
        if self._directory is None or identity(self._path.name, self._directory) != self._file:
            return Displaced(is_kept=False)
        return Displaced(is_kept=True, path=self._path_now(self._directory))

    def _path_now(self, directory: int) -> Path | None:
        """Ask Linux for the directory's path; Python has no way to ask other systems."""
        with contextlib.suppress(OSError):
            path = Path(f"/proc/self/fd/{directory}").readlink() / self._path.name
            if identity(path) == self._file:
                return path
        return None

    def close(self) -> None:
        if self._directory is not None:
            os.close(self._directory)


def version_of(path: Path) -> tuple[int, ...]:
    """Return values that change if the file is changed, without reading the file.

    Raises:
        OSError: it is not there.
    """
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def identity(path: str | Path, directory: int | None = None) -> tuple[int, int] | None:
    """Return the numbers that identify a file; None if there is no file.

    Args:
        path: of the file.
        directory: a descriptor of the directory that the path begins in; default: the working directory.

    Raises:
        OSError: the file system cannot say.
    """
    try:
        found = os.stat(path, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino

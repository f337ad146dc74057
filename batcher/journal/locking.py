"""The lock that a run holds beside its journal, and what it says about whether the run is at work.

Invariant: asking changes nothing in the directory, and what a lock cannot say is `None`, never a guess.

The system frees the lock when its process ends in any way. A process id would not do: another process may have it by
now, in a container it is mostly 1, and on another host it means nothing. The holder writes into the lock file who it is
and what it does: the latest run of the journal need not be its own, and is not while a new one is planned.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from batcher.journal.access import log_path
from batcher.journal.entries import LastRun
from batcher.place import identity

# How long a run waits for the lock, in seconds: who asks whether it is held, holds it for some microseconds.
PATIENCE_S, PATIENCE_AGAIN_S, LOOK_AGAIN_S = 0.2, 0.05, 0.01
MOST_PATIENCE_S = 10.0
"""How long a run waits while the lock is held for a moment, again and again: a disk may be slow."""
_SILENT_S = 1.0  # nothing is written for a moment after the lock is taken, and before it is freed

_CONTENDED = {errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK}
# The file systems of Linux that belong to one machine, so that every process that writes there shares its locks.
_LOCAL = {
    "bcachefs",
    "btrfs",
    "ext2",
    "ext3",
    "ext4",
    "f2fs",
    "jfs",
    "overlay",
    "ramfs",
    "reiserfs",
    "tmpfs",
    "xfs",
    "zfs",
}
_MOUNTS = Path("/proc/self/mountinfo")  # proc_pid_mountinfo(5)


# On Windows nobody else can read the byte that is locked: the first.
_BEHIND_THE_LOCK = 1
_MOST_BYTES = 1000


class Work(StrEnum):
    """What the process does that holds a lock."""

    PLANS = "plans"
    """It reads the input, and has begun no run."""

    RUNS = "runs"
    """The latest run of the journal is its own."""

    FETCHES = "fetches"
    """It cancels the batches of the latest run, and fetches what came of them."""

    DECIDES = "decides"
    """It writes what a person has decided, which takes a moment; runs wait for it."""

    READS = "reads"
    """It reads the journal, and keeps runs from writing it meanwhile."""


class Holder(NamedTuple):
    """The process that holds a lock."""

    host: str
    pid: int
    work: Work

    @property
    def is_this_process(self) -> bool:
        return (self.host, self.pid) == (socket.gethostname(), os.getpid())

    @property
    def process(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lock:
    """A lock that this process holds: its file says who holds it. If no run begins, it is left as it was found.

    Args:
        path: of the lock file.
        work: what the process does.
    """

    def __init__(self, path: Path, work: Work) -> None:
        self.path = path
        self._file = identity(path)
        self._found = b""
        self._times = (0, 0)
        # It is for people: what cannot be read or written, as on a full disk, harms no run.
        with contextlib.suppress(OSError), self._opened() as file:
            found = os.fstat(file.fileno())
            self._times = found.st_atime_ns, found.st_mtime_ns
            file.seek(_BEHIND_THE_LOCK)
            self._found = file.read(_MOST_BYTES)
        self.says(work)

    def says(self, work: Work) -> None:
        """Say what the process does now."""
        self._work = work
        with contextlib.suppress(OSError), self._opened() as file:
            _write(file, json.dumps(Holder(socket.gethostname(), os.getpid(), work)).encode())

    def clear(self) -> None:
        """Say nothing any more, before the lock is freed."""
        with contextlib.suppress(OSError), self._opened() as file:
            if self._work in {
                Work.RUNS,
                Work.FETCHES,
                Work.DECIDES,
            }:  # what a killed run has left there misleads who looks just now
                _write(file, b"")
            else:
                _write(file, self._found)
                os.utime(self.path, ns=self._times)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[FileIO]:
        """Open the file.

        Raises:
            OSError: it cannot be opened, or is another process's by now.
        """
        with self.path.open("r+b", buffering=0) as file:
            found = os.fstat(file.fileno())
            if (found.st_dev, found.st_ino) != self._file:
                raise FileNotFoundError
            yield file


def _write(file: FileIO, content: bytes) -> None:
    file.truncate(0)
    if content:
        file.seek(_BEHIND_THE_LOCK)
        file.write(content)


def holder_of(path: Path) -> Holder | None:
    """Return the process that holds the lock of a journal; None if none does, or if it is not known.

    Args:
        path: of the journal.
    """
    # What is written there may be left from a process that was killed: it counts only while the lock is held.
    found = _said(path) if is_locked(path) else None
    return found if found and is_locked(path) and _said(path) == found else None


def _said(path: Path) -> Holder | None:
    """Return who is written into the lock file of a journal; None if nobody is."""
    try:
        with lock_path(path).open("rb", buffering=0) as file:
            file.seek(_BEHIND_THE_LOCK)
            host, pid, work = json.loads(file.read(_MOST_BYTES))
        return Holder(str(host), int(pid), Work(work))
    except (OSError, ValueError, TypeError):  # an older batcher has it and writes nothing, or it is freed just now
        return None


class Patience:
    """Says how long to wait for a lock that others hold, from what each look at it shows.

    Decisions hold it for a moment each, and may follow one another: they are waited for. A process that holds it
    longer, such as a run, is seen at two looks; one that says nothing, which an older batcher does, for a second.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._silent_since: float | None = None
        self._holder: Holder | None = None

    def is_over(self, path: Path) -> bool:
        """Look at the lock of a journal that could not be taken, and return whether to give up."""
        now = time.monotonic()
        if now - self._began > MOST_PATIENCE_S:
            return True
        holder, before = holder_of(path), self._holder
        self._holder = holder
        if holder is not None:
            self._silent_since = None
            return holder.work is not Work.DECIDES and holder == before
        if not is_locked(path):  # freed just now
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
        return self._silent_since is not None and now - self._silent_since > _SILENT_S


def lock_path(path: Path) -> Path:
    """Return the path of a journal's lock file."""
    return path.with_name(f".{path.stem}.lock")


def is_at_work(path: Path, last: LastRun) -> bool | None:
    """Return whether the latest run of a journal is at work; None if this machine cannot know.

    Args:
        path: of the journal.
        last: its latest run.
    """
    if last.ended is not None:
        return False
    if (holder := holder_of(path)) and holder.work is not Work.RUNS:
        return False  # it was killed: else this process would not have got its lock
    is_held = is_locked(path)
    if is_held is False and not (last.is_here or _is_local(path)):
        return None  # the file system may not carry locks from one host to another
    return is_held


def is_locked(path: Path) -> bool | None:
    """Return whether a process holds the lock of a journal; None if that cannot be known.

    Args:
        path: of the journal.
    """
    try:
        descriptor = os.open(lock_path(path), os.O_RDONLY)
    except FileNotFoundError:  # removed, or left behind by who copied the directory: a run at work has a log
        return None if log_path(path).exists() else False
    except OSError:
        return None
    try:
        return _is_held(descriptor)
    except OSError as error:
        return True if error.errno in _CONTENDED else None
    finally:
        os.close(descriptor)


if sys.platform == "win32":

    def _is_held(descriptor: int) -> bool:
        """Take the lock for a moment; an `OSError` says that another process has it."""
        import msvcrt  # noqa: PLC0415 - Windows alone has it

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        return False

else:

    def _is_held(descriptor: int) -> bool:
        """Share the lock for a moment; an `OSError` says that another process has it for itself."""
        import fcntl  # noqa: PLC0415 - Windows has none

        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False


def _is_local(path: Path) -> bool:
    """Return whether a path is certainly on a file system of this machine alone."""
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        return kind_of(path.resolve().parent, mounts) in _LOCAL
    except OSError:
        return False


def kind_of(directory: Path, mounts: str) -> str:
    """Return the kind of a directory's file system, such as `ext4` or `nfs4`; empty if it is not known.

    Args:
        directory: without symbolic links.
        mounts: the file systems that are mounted, as `/proc/self/mountinfo` has them.
    """
    kinds: dict[Path, str] = {}
    for line in mounts.splitlines():
        mounted, _, described = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mounted.split(" ")[4])
        kinds[Path(point)] = described.split(" ")[0]
    return next((kinds[each] for each in (directory, *directory.parents) if each in kinds), "")

"""Opens the journal's files: for reading, without leaving a trace, or for writing, as the only writer.

Invariant: nothing is written until it is certain that file and log belong together and no other process writes them.

SQLite keeps the latest commits in a log beside the file (`-wal`) until it moves them into the file, and an index of the
log (`-shm`) for programs that have the file open. A log beside a different state of its file would corrupt both. So
each commit raises a generation number in the first page of the file, and the log then holds it as well.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sqlite3
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, NamedTuple

from batcher.errors import OutputError
from batcher.journal.schema import (
    GENERATIONS,
    connect,
    generation_in,
    generation_of,
    give_generation,
    make_durable,
    uri_of,
)
from batcher.place import version_of

# The log's format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
_HEAD = struct.Struct(">8I")  # magic, version, page size, number, two salts, two checksums
_FRAME = struct.Struct(">6I")  # page, pages of the file after a commit or 0, the salts of the head, two checksums
_MAGIC = (0x377F0682, 0x377F0683)
_START_OF_PAGE = 64  # bytes, the generation among them

_WAIT_S = 3.0
"""Seconds to wait until no other program has a journal open; `status` needs less time, `verify` or a browser more."""
# A run may end, or its log begin anew, while we look; that takes a few milliseconds.
_LOOKS = 10
_LOOK_AGAIN_S = 0.01


class _State(NamedTuple):
    """The state of a file without its log: its generation, and its number of pages."""

    generation: int = 0
    pages: int = 0


class Log(NamedTuple):
    """The contents of a log.

    Attributes:
        head: its first bytes, which change when it begins anew.
        commits: the number of commits.
        first, last: the first and the last generation in it; None if it has none.
        pages: the file's number of pages after the last commit.
    """

    head: bytes = b""
    commits: int = 0
    first: int | None = None
    last: int | None = None
    pages: int = 0

    def fits(self, file: _State) -> bool:
        """Return whether it belongs to a file; none, some or all of its commits may have been moved there."""
        if not self.commits:
            return True
        if self.first is None or self.last is None:  # no commit of ours: another program's, and the file did not grow
            return self.pages == file.pages
        if not file.generation or not self.first:  # an older batcher gave none
            return not file.generation and not self.last
        return (file.generation - self.first + 1) % GENERATIONS <= (self.last - self.first + 1) % GENERATIONS


class Opened(NamedTuple):
    """A journal that is open for reading.

    Attributes:
        db: a connection that has read already, so that SQLite does not remove the log.
        uri: opens it a second time meanwhile.
        watched: the file's state, if only `is_as_before` can detect that it was written meanwhile.
        is_copy: it is a copy of the journal.
    """

    db: sqlite3.Connection
    uri: str
    watched: tuple[int, ...] | None = None
    is_copy: bool = False


def log_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _index_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-shm")


def log_of(path: Path) -> Log:
    """Read the log of a journal; a missing or invalid log counts as empty."""
    try:
        with log_path(path).open("rb") as file:
            return _read_log(file)
    except FileNotFoundError:
        return Log()


def _read_log(file: BinaryIO) -> Log:
    head = file.read(_HEAD.size)
    log, latest = Log(head), None
    for page, size, start in _frames(file, head):
        if page == 1:
            latest = generation_in(start)
        if size:
            first = latest if log.first is None else log.first
            log = Log(head, log.commits + 1, first, latest, size)
    return log


def _frames(file: BinaryIO, head: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the pages in a log: the number of each, the file's size if it ends a commit, and the page's first bytes."""
    if len(head) < _HEAD.size:
        return
    magic, _, page_size, _, *salts, _, _ = _HEAD.unpack(head)
    if magic not in _MAGIC:
        return
    end = file.seek(0, 2)
    step = _FRAME.size + page_size
    for start in itertools.takewhile(lambda start: start + step <= end, itertools.count(_HEAD.size, step)):
        file.seek(start)
        frame = file.read(_FRAME.size + _START_OF_PAGE)
        page, size, *own, _, _ = _FRAME.unpack_from(frame)
        if own != salts:  # left from before the log began anew
            return
        yield page, size, frame[_FRAME.size :]


def _state_of(path: Path) -> _State:
    """Return the state of a file without its log.

    SQLite opens it, because closing any other descriptor of the file would drop the locks that SQLite has on it in this
    process (POSIX). SQLite itself keeps such a descriptor until those locks are released.
    """
    if not path.exists():
        return _State()
    with closing(connect(path, "immutable=1")) as db:
        _take_as_it_is(db)
        return _State(generation_of(db), int(db.execute("PRAGMA page_count").fetchone()[0]))


def _take_as_it_is(db: sqlite3.Connection) -> None:
    """Let SQLite read a file that is shorter than its header says: a kill can leave it so, and the log has the rest."""
    db.execute("PRAGMA writable_schema = ON")


def check_pair(path: Path) -> Log:
    """Check that a journal's log belongs to it, and return the log; write nothing.

    Raises:
        OutputError: the log does not belong to the journal's present state.
    """
    while True:
        file = _state_of(path)
        log = log_of(path)
        if log.fits(file):
            return log
        # Meanwhile a run may have moved the log into the file and begun a new one.
        if _state_of(path) == file and log_of(path).head == log.head:
            raise OutputError(_mismatch(path))


def _mismatch(path: Path) -> str:
    log, index = log_path(path), _index_path(path).name
    lost = "the answers that only this log has are then lost"
    if not path.exists():
        return (
            f"the journal {path} is gone, but its log {log.name} is there: put the journal that belongs to it back; or"
            f" move {log.name} and {index} away to begin without it ({lost})"
        )
    return (
        f"the log {log} does not belong to the journal beside it: {path.name} is an older copy, or the log is another"
        f" journal's. Put the journal that belongs to it back; or move {log.name} and {index} away to go on with"
        f" {path.name} as it is ({lost})"
    )


def open_to_read(path: Path, stack: contextlib.ExitStack, *, beside_writer: bool = False) -> Opened:
    """Open a journal for reading; its directory stays as it is, and a run may be writing it.

    Args:
        path: of the journal.
        stack: closes all that is opened.
        beside_writer: this process writes the journal, too. SQLite opens the index of the log once for the process: as
            long as somebody has it open for reading alone, nothing can be written.

    Raises:
        OutputError: the log is not that of the journal.
        sqlite3.Error, OSError: it cannot be read.
    """
    for look in itertools.count(1):
        log = check_pair(path)
        if log.head and not log.commits and look < _LOOKS:
            time.sleep(_LOOK_AGAIN_S)  # if a run is just beginning a new log, it will soon have a commit
            continue
        try:
            with contextlib.ExitStack() as opened:
                file = _opened(path, log, opened, beside_writer=beside_writer)
                file.db.execute("SELECT count(*) FROM sqlite_master").fetchone()
                stack.push(opened.pop_all())
                return file
        except (sqlite3.OperationalError, OSError, OutputError):
            # A run may have ended meanwhile, and removed its log.
            if look >= _LOOKS or log_of(path) == log:
                raise
    raise AssertionError


def _opened(path: Path, log: Log, stack: contextlib.ExitStack, *, beside_writer: bool) -> Opened:
    watched, is_copy = None, False
    if not log.commits:
        # SQLite would create a log and an index even to read a file that no process writes.
        watched, mode = version_of(path), "immutable=1"
    elif _index_path(path).exists():
        mode = "mode=ro" if beside_writer else "mode=ro&readonly_shm=1"
    else:
        path, mode, is_copy = _copy(path, log, stack), "mode=rw", True
    db = stack.enter_context(closing(connect(path, mode)))
    db.execute("PRAGMA query_only = ON")
    return Opened(db, uri_of(path, mode), watched, is_copy)


def _copy(path: Path, log: Log, stack: contextlib.ExitStack) -> Path:
    """Copy a journal and its log to a directory in which SQLite may create an index."""
    copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="batcher-"))) / path.name
    with closing(connect(path, "immutable=1")) as db, closing(sqlite3.connect(copy)) as target:
        _take_as_it_is(db)
        db.backup(target)
    shutil.copyfile(log_path(path), log_path(copy))
    if log_of(path) != log:
        raise OutputError(f"the journal {path} was written while it was copied: do it again")
    return copy


def is_as_before(path: Path, opened: Opened) -> bool:
    """Return whether a journal was not written while it was read."""
    return opened.watched is None or opened.watched == version_of(path)


def claim(path: Path) -> bool:
    """Hold a journal exclusively for a moment, and give it a generation if it has none.

    Every program that has it open holds a lock of SQLite on it, in this process or another, even if it is stopped or
    its lock file is gone. Commits that a killed run left in the log are moved into the file.

    Returns:
        Whether no other program had it open.
    """
    with closing(connect(path, "mode=rwc", _WAIT_S)) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")  # before other pragmas, some of which read the file
        if not _begins(db, "EXCLUSIVE"):
            return False
        make_durable(db)
        if not generation_of(db):
            give_generation(db)
        return True


def is_for_reading_only(path: Path) -> bool:
    """Return whether the programs that have a journal open only read it; False for one without a generation."""
    with closing(connect(path, "mode=rw", _WAIT_S)) as db:
        return generation_of(db) > 0 and _begins(db, "IMMEDIATE")


def _begins(db: sqlite3.Connection, kind: str) -> bool:
    """Return whether a transaction of this kind can begin now."""
    try:
        db.executescript(f"BEGIN {kind}; ROLLBACK;")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            return False
        raise
    return True

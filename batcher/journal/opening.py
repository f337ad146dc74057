"""Opening a journal: for a run, to read, to verify, or to rehearse a plan in a copy.

Invariant: one process writes a journal, any number may read it, and a refused journal is left as it is.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from batcher.errors import KeywordBusy, OutputError
from batcher.journal.access import check_pair, claim, is_for_reading_only, log_path, open_to_read
from batcher.journal.deciding import Pen
from batcher.journal.entries import JOINED, LastRun
from batcher.journal.evidence import Evidence
from batcher.journal.locking import (
    LOOK_AGAIN_S,
    PATIENCE_AGAIN_S,
    PATIENCE_S,
    Lock,
    Patience,
    Work,
    holder_of,
    lock_path,
)
from batcher.journal.matching import Planner, Rehearsal
from batcher.journal.reading import Reader
from batcher.journal.sampling import SampleReader
from batcher.journal.schema import (
    as_output_errors,
    bring_up_to_date,
    busy_if_read,
    check_readable,
    check_whole,
    connect,
    copy,
    make_durable,
    raise_generation,
    read_as_newest,
    version_of,
)
from batcher.journal.scores import ScoreReader
from batcher.journal.statements import NOTE
from batcher.journal.watching import Watch
from batcher.journal.writing import Journal
from batcher.place import Place

_AnyReader = TypeVar("_AnyReader", bound=Reader)


def open_journal(path: Path) -> Journal:
    """Open a journal for a run, or create one. A refused journal is left as it is.

    A new journal in which no run begins is removed when it is closed, so that a refused run leaves no file.

    Raises:
        OutputError: it cannot be opened, is not a journal, was written by a newer batcher, is damaged, or its log
            belongs to another journal.
        KeywordBusy: another process, which the message names, is writing it.
    """
    with as_output_errors(path, "opened"), _closed_on_failure() as stack:
        check_pair(path)  # first of all, because even the lock leaves a file there
        has_lock = lock_path(path).exists()
        lock = _lock(path, stack, Work.PLANS)
        lock_place = stack.enter_context(closing(Place(lock.path)))
        made = None if path.exists() else _Made(path, lock_place, has_lock=has_lock)
        if made:
            stack.push(made.end)
        _check(path)
        has_log = log_path(path).exists()
        if not claim(path):
            _check_no_run_writes(path, has_log=has_log)
        db = stack.enter_context(closing(connect(path, "mode=rw")))
        db.execute("PRAGMA journal_mode = WAL")
        make_durable(db)
        bring_up_to_date(db, version_of(db, path))
        place = stack.enter_context(closing(Place(path)))
        watch = stack.enter_context(closing(Watch(path, place, lock_place)))
        reader = stack.enter_context(closing(connect(path, "mode=ro")))
        journal = Journal(path, db, reader, stack, watch=watch, lock=lock)
        if made:
            made.journal = journal
        return journal


def read_journal(path: Path, *, alone: bool = False) -> Reader:
    """Open a journal for reading; a run may be writing it. Nothing in its directory changes.

    Args:
        path: of the journal.
        alone: keep runs from writing it meanwhile.

    Raises:
        OutputError: it is missing, is not a journal, was written by another version, or its log belongs to another
            journal.
        KeywordBusy: with `alone`, a run is writing it.
    """
    return _read(path, Reader, alone=alone)


def read_samples(path: Path, *, alone: bool = False) -> SampleReader:
    """Open a journal like `read_journal`, for reading the samples too."""
    # Who keeps runs from writing records what people have labelled.
    return _read(path, SampleReader, alone=alone, beside_writer=alone)


def read_kind(path: Path, kind: type[_AnyReader]) -> _AnyReader:
    """Open a journal like `read_journal`, with a reader of another kind, in a process that may write it meanwhile."""
    return _read(path, kind, beside_writer=True)


def read_scores(path: Path) -> ScoreReader:
    """Open a journal like `read_journal`, for reading the scores of answers too."""
    return _read(path, ScoreReader)


def open_to_decide(path: Path) -> Pen:
    """Open a journal that no run has open, to write what people have decided; close it at once: runs wait for that.

    Raises:
        OutputError: as for `read_journal`; or it cannot be written.
        KeywordBusy: a run is writing it, or is being planned.
    """
    with as_output_errors(path, "written"), _closed_on_failure() as stack:
        check_pair(path)
        _lock(path, stack, Work.DECIDES)
        if _seems_at_work_here(path) and not claim(path):
            _check_no_run_writes(path)
        db = stack.enter_context(closing(connect(path, "mode=rw")))
        version = version_of(db, path)
        check_readable(version, path)
        make_durable(db)
        with busy_if_read(path):
            bring_up_to_date(db, version)
        return Pen(path, db, stack)


@contextlib.contextmanager
def kept_from_runs(path: Path) -> Iterator[None]:
    """Keep runs from writing a journal, or beginning one, while it is made of others.

    Raises:
        OutputError: it cannot be locked.
        KeywordBusy: a run is writing it.
    """
    with contextlib.ExitStack() as stack:
        with as_output_errors(path, "written"):
            check_pair(path)
            _lock(path, stack, Work.DECIDES)
            if path.exists() and _seems_at_work_here(path) and not claim(path):
                _check_no_run_writes(path)
        yield


def record_joined(path: Path, run: int, name: str, sha256: bytes) -> None:
    """Record a result file in a journal of any version that is open to be read alone; read nothing from it afterwards.

    Args:
        path: of the journal.
        run: its latest run.
        name: of the file.
        sha256: of the file.

    Raises:
        OutputError: it cannot be written.
    """
    with as_output_errors(path, "written"), closing(connect(path, "mode=rw")) as db:
        make_durable(db)
        db.execute("BEGIN IMMEDIATE")
        raise_generation(db)
        db.execute(NOTE, (run, time.time(), JOINED, name, sha256.hex()))
        db.execute("COMMIT")


def read_evidence(path: Path) -> Evidence:
    """Open a journal to verify it; a run may be writing it. Nothing in its directory changes.

    Raises:
        OutputError: as for `read_journal`.
    """
    return _read(path, Evidence)


def rehearse(path: Path) -> Planner:
    """Open a copy to plan in, without the answers' texts; neither the journal nor its directory is written.

    If it does not fit into memory, SQLite uses an unnamed file, which is removed with the process.

    Raises:
        OutputError: the journal cannot be read, or was written by another version, or its log belongs to another
            journal.
    """
    with as_output_errors(path, "read"), _closed_on_failure() as stack:
        opened = open_to_read(path, stack) if path.exists() or check_pair(path).commits else None
        db = sqlite3.connect("file:", uri=True, check_same_thread=False, isolation_level=None)
        stack.enter_context(closing(db))
        bring_up_to_date(db, 0)
        if opened:
            db.execute("ATTACH ? AS original", (opened.uri,))
            version = version_of(db, path, "original")
            check_readable(version, path)
            copy(db, version)
        return (Rehearsal if opened else Planner)(path, db, db, stack, opened=opened)


@contextlib.contextmanager
def _closed_on_failure() -> Iterator[contextlib.ExitStack]:
    """Yield a stack that is closed if the block fails; otherwise the object that the block made closes it."""
    with contextlib.ExitStack() as failed:
        stack = failed.enter_context(contextlib.ExitStack())
        yield stack
        failed.pop_all()


def _read(path: Path, kind: type[_AnyReader], *, alone: bool = False, beside_writer: bool = False) -> _AnyReader:
    with as_output_errors(path, "read"), _closed_on_failure() as stack:
        if alone:
            check_pair(path)
            _lock(path, stack, Work.READS)
            if _seems_at_work_here(path) and not claim(path):
                _check_no_run_writes(path)
        opened = open_to_read(path, stack, beside_writer=beside_writer)
        version = version_of(opened.db, path)
        check_readable(version, path)
        read_as_newest(opened.db, version)
        return kind(path, opened.db, stack, opened=opened)


def _check(path: Path) -> None:
    """Refuse a file that is not a journal, or is newer or damaged.

    Raises:
        OutputError: it is one of these.
    """
    if not path.exists():
        return
    with contextlib.ExitStack() as stack:
        opened = open_to_read(path, stack)
        version_of(opened.db, path)
        check_whole(opened.db, path)


def _lock(path: Path, stack: contextlib.ExitStack, work: Work) -> Lock:
    """Become the only process that writes a journal; the system frees the lock when the process ends in any way.

    Args:
        path: of the journal.
        stack: frees the lock.
        work: what the process does with it.

    Raises:
        KeywordBusy: another process, or another run in this one, writes it.
        OutputError: it cannot be locked.
    """
    # SQLite's own locks are on the journal itself, and closing another descriptor of it would drop them.
    lock = FileLock(lock_path(path))
    patience, seconds = Patience(), PATIENCE_S
    while True:
        try:
            lock.acquire(timeout=seconds, poll_interval=LOOK_AGAIN_S)
            break
        except Timeout:
            if patience.is_over(path):
                raise _busy(path) from None
            seconds = PATIENCE_AGAIN_S
        except OSError as error:
            raise OutputError(f"{path} cannot be locked: {error.strerror}") from error
    stack.callback(lock.release)
    held = Lock(Path(lock.lock_file), work)
    stack.callback(held.clear)
    return held


class _Made:
    """A journal that this process makes: if no run begins in it, its end leaves no file.

    Attributes:
        journal: once it is open.
    """

    def __init__(self, path: Path, lock: Place, *, has_lock: bool) -> None:
        self.journal: Journal | None = None
        self._path = path
        self._lock = lock
        self._has_lock = has_lock  # the lock file was there before, and stays

    def end(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Remove the closed files, under the lock, unless a run began in them or another program has them."""
        has_begun = self.journal is not None and self.journal.has_begun
        with contextlib.suppress(OSError):  # if a file stays, it is in nothing's way
            if has_begun or isinstance(error, KeywordBusy) or self._lock.displaced():
                return
            for ending in ("", "-wal", "-shm", "-journal"):
                self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
            if not self._has_lock:
                lock_path(self._path).unlink()


def _busy(path: Path) -> KeywordBusy:
    """Return the error about a journal whose lock is held; it names the process, and says what to do about it."""
    holder = holder_of(path)
    if holder and holder.is_this_process and holder.work is not Work.READS:
        return KeywordBusy(f"{path}: another run in this process has it: await it or cancel it")
    last = _last_run_of(path)
    writer = holder or (last if last and last.ended is None else None)
    process = writer.process if writer else "another process"
    return KeywordBusy(f"{path} is being written by {process}: wait for its end, or stop it")


def _last_run_of(path: Path) -> LastRun | None:
    try:
        with read_journal(path) as journal:
            return journal.last_run()
    except OutputError:
        return None


def _check_no_run_writes(path: Path, *, has_log: bool = True) -> None:
    """Refuse to continue while a run whose lock file was removed is at work; programs that only read are allowed.

    Args:
        path: of a journal that another program has open.
        has_log: its log exists. Without it the journal cannot tell what the other program does.

    Raises:
        KeywordBusy: a run is at work, or is being planned; or the journal cannot be brought up to date meanwhile.
    """
    last = _last_run_of(path)
    if last and last.may_be_at_work:
        is_ours = last.is_here and last.pid == os.getpid()
        process = "another run in this process" if is_ours else last.process
        advice = "await it or cancel it" if is_ours else "wait for its end, or stop it"
        raise KeywordBusy(f"{path} is being written by {process}, though its lock file is gone: {advice}")
    if not has_log or not is_for_reading_only(path):
        raise KeywordBusy(
            f"{path} is open in another program, such as a run, a database browser or a notebook: close it there, or"
            " wait for its end"
        )


def _seems_at_work_here(path: Path) -> bool:
    """Return whether a run whose lock file is gone may be at work here; its process id may be another's by now."""
    last = _last_run_of(path)
    return last is not None and last.is_here and last.may_be_at_work and log_path(path).exists()

"""The directory of a rehearsal, which its end removes unless it is kept.

Invariant: nothing is removed but what a rehearsal has made.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from batcher.errors import KeywordBusy, OutputError
from batcher.journal.opening import read_journal
from batcher.output.csv_file import sha256_of
from batcher.output.directory import Store, set_aside
from batcher.words import as_given, say

_MARK = ".rehearsal"
"""The file by which a directory is known as a rehearsal's, which the next one may remove."""


class Directory:
    """The directory of a rehearsal.

    Attributes:
        path: its path.
        is_kept: it stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_kept = False

    def keep(self) -> None:
        self.is_kept = True


@contextlib.contextmanager
def made(output_dir: Path, keyword: str) -> Iterator[Directory]:
    """Make a directory for a rehearsal, in the place of an earlier one, and remove it unless it is kept.

    Raises:
        OutputError: it cannot be made, or something else has its name.
        KeywordBusy: another process rehearses this keyword.
    """
    path = output_dir / f"rehearsal_{keyword}"
    new = [each for each in (output_dir, *output_dir.parents) if not each.exists()]
    lock = FileLock(output_dir / f".rehearsal_{keyword}.lock")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with lock.acquire(blocking=False):
            try:
                _make_anew(path, keyword)
                directory = Directory(path)
                try:
                    yield directory
                finally:
                    if not directory.is_kept:
                        shutil.rmtree(path, ignore_errors=True)
            finally:
                with contextlib.suppress(OSError):  # Windows keeps a file that is open
                    Path(lock.lock_file).unlink()
    except Timeout:
        raise KeywordBusy(f"another process rehearses {keyword!r} in {output_dir}: wait for its end") from None
    except OSError as error:
        raise OutputError(f"{path} cannot be used: {error}") from error
    finally:
        with contextlib.suppress(OSError):  # they hold files: something is kept, or another process writes there
            for each in new:
                each.rmdir()


def _make_anew(path: Path, keyword: str) -> None:
    if path.exists():
        if not (path / _MARK).is_file():
            raise OutputError(
                f"{path} is not the directory of a rehearsal: move it away, or choose another {as_given('output_dir')}"
            )
        if _has_changed(Store(path, keyword)):
            say(f"The result in {path} was changed since it was written: the directory is kept as {set_aside(path)}.")
        else:
            shutil.rmtree(path)
    path.mkdir()
    (path / _MARK).write_text("batcher removes this directory with the next rehearsal.\n", encoding="utf-8")


def _has_changed(store: Store) -> bool:
    """Return whether a person has changed the result of a rehearsal that was kept."""
    there = [path for path in store.results() if path.exists()]
    try:
        with read_journal(store.journal_path) as journal:
            return any(sha256_of(path) not in journal.joined(path.name) for path in there)
    except OutputError:  # without its journal it cannot be known
        return bool(there)

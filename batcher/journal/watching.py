"""Checks whether a journal, its log and its lock file are still in their places while a run writes it.

Invariant: it changes nothing.
"""

from __future__ import annotations

from pathlib import Path

from batcher.errors import OutputError
from batcher.journal.access import log_path
from batcher.journal.schema import as_output_errors
from batcher.place import Displaced, Place


class Watch:
    """Checks whether a journal is in its place.

    Args:
        path: of the journal.
        place: the journal's place when it was opened.
        lock: the lock file's place then.

    Attributes:
        displaced: what became of the journal, if it was no longer in its place when `look` was last called.
    """

    def __init__(self, path: Path, place: Place, lock: Place) -> None:
        self._path = path
        self._place = place
        self._lock = lock
        self._log: Place | None = None
        self.displaced: Displaced | None = None

    def close(self) -> None:
        if self._log:
            self._log.close()

    def look(self) -> None:
        """Check the place again.

        Raises:
            OutputError: the file system cannot say.
        """
        with as_output_errors(self._path, "found"):
            self.displaced = self._place.displaced() or self._displaced_log()

    def check(self) -> None:
        """Raise if the journal was not in its place at the last `look`.

        Raises:
            OutputError: it was removed, replaced or moved.
        """
        if self.displaced:
            raise self._error(self.displaced)

    def check_is_there(self) -> None:
        """Raise if the journal was removed or replaced; one that has moved can still be written.

        Raises:
            OutputError: it was removed or replaced.
        """
        if self.displaced and not self.displaced.is_kept:
            raise self._error(self.displaced)

    def check_lock(self) -> None:
        """Check whether the lock file is in its place.

        Raises:
            OutputError: it is not, and another process may have locked a new one.
        """
        with as_output_errors(self._path, "locked"):
            if self._lock.displaced():
                raise OutputError(f"the lock file of {self._path} was removed: run it again")

    def _displaced_log(self) -> Displaced | None:
        """Return what became of a log that was removed or replaced: other processes would not see its commits."""
        if self._log is None and log_path(self._path).exists():  # it exists from the first commit on
            self._log = Place(log_path(self._path))
        return Displaced(is_kept=True, is_log=True) if self._log and self._log.displaced() else None

    def _error(self, displaced: Displaced) -> OutputError:
        if displaced.is_log:
            return OutputError(
                f"the log {log_path(self._path)} of the journal was removed or replaced while the run worked"
            )
        if not displaced.is_kept:
            return OutputError(f"the journal {self._path} was removed or replaced while the run worked")
        now = displaced.path or "wherever its directory is"
        return OutputError(
            f"the journal {self._path} is {now} now: its directory was moved, or the working directory changed, while"
            " the run worked"
        )

"""The control file: what people ask of a run at work, beside its journal.

Invariant: it is written whole and renamed; a request names the run that it is for, so that no other run acts on it.

The verbs write it, and the running process, which alone writes the journal, takes it away before it reads the requests:
what is asked meanwhile is in a new file. If two verbs write at the same time, one request may be lost: each looks
whether its own is there until it is answered.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from batcher.journal.entries import Decision
from batcher.output.csv_file import replace
from batcher.place import identity
from batcher.records import Result, Status


class Wish(NamedTuple):
    """What a person asks of a run at work.

    Attributes:
        id: tells it from others.
        run: the number of the run in its journal.
        verb: `limit`, `pause`, `resume` or `cancel`; `decide` or `label`: a person did that on the page.
        values: of `limit`: the new limits by name, each a number or `AS_STARTED`; and `endpoint` if they are for one
            alone. Of `decide`: the fields of a `Decision`; of `label`: `golds`, the fields of each `Gold`.
    """

    id: str
    run: int
    verb: str
    values: Mapping[str, Any]


def decision_of(values: Mapping[str, Any]) -> Decision:
    """Return the decision in the values of `decide`.

    Raises:
        TypeError, ValueError: they are no decision.
    """
    made = Decision(**values)
    if made.result is None:
        return made
    status, answer, error = made.result
    return made._replace(result=Result(Status(status), str(answer), str(error)))


class ControlFile:
    """The requests to a run that it has not taken yet.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._taken = path.with_name(f".{path.name}.taken")

    def exists(self) -> bool:
        """Return whether there is anything to take: one look at the directory, without reading.

        Raises:
            OSError: the file system cannot say.
        """
        return identity(self._path) is not None

    def take(self) -> list[Wish]:
        """Remove the file, and return its requests.

        Raises:
            OSError: it cannot be removed.
        """
        with contextlib.suppress(FileNotFoundError):  # withdrawn just now
            self._path.replace(self._taken)
        wishes = ControlFile(self._taken).read()
        self._taken.unlink(missing_ok=True)
        return wishes

    def read(self) -> list[Wish]:
        """Return the requests; none if the file is gone, or holds something else."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return [Wish(str(each["id"]), int(each["run"]), str(each["verb"]), dict(each["values"])) for each in found]
        except (OSError, ValueError, TypeError, LookupError):
            return []

    def add(self, wish: Wish) -> None:
        """Add a request, unless it is there; requests to other runs are dropped.

        Raises:
            OutputError: the file cannot be written.
        """
        there = [each for each in self.read() if each.run == wish.run]
        if wish.id not in {each.id for each in there}:
            self._write([*there, wish], wish.id)

    def withdraw(self, wish: Wish) -> None:
        """Take a request back."""
        left = [each for each in self.read() if each.run == wish.run and each.id != wish.id]
        if left:
            self._write(left, wish.id)
        else:
            self.remove()

    def remove(self) -> None:
        for path in (self._path, self._taken):
            with contextlib.suppress(OSError):  # a file that stays is for this run alone
                path.unlink(missing_ok=True)

    def _write(self, wishes: Sequence[Wish], name: str) -> None:
        content = json.dumps([each._asdict() for each in wishes]).encode()
        replace(self._path, lambda file: file.write(content), name)

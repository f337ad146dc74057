"""Reads the files with the results of a batch, some lines at a time.

Invariant: a line that cannot be read is returned as such, with its number; memory is bound by the lines of one group.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

from batcher.calls.batch_service import Answer
from batcher.records import Failure, Fault

_LINES, _BYTES = 250, 4_000_000
"""The most lines, and about the most bytes, of a group."""
_BEGINNING = 4096  # bytes of a line that is too long, among which its name is looked for
_NAME = re.compile(rb'"custom_id"\s*:\s*"([^"\\]{1,200})"')
_SHOWN = 60  # characters of a line that cannot be read


class Found(NamedTuple):
    """A line of a file.

    Attributes:
        number: of the line, from 1.
        offset: where it begins, in bytes.
        answer: what it says; None: it is the result of no line.
        beginning: of its text, if it is the result of no line.
    """

    number: int
    offset: int
    answer: Answer | None
    beginning: str = ""


class ResultFile:
    """An output or error file, downloaded.

    Args:
        path: of the file.
        kind: `output` or `error`, for people.
        read: reads a line.
        most_bytes: of a line; a longer one is not read.
    """

    def __init__(self, path: Path, kind: str, read: Callable[[bytes], Answer | None], most_bytes: int) -> None:
        self.path = path
        self.kind = kind
        self._read = read
        self._most_bytes = most_bytes

    def groups(self) -> Generator[list[Found]]:
        """Yield its lines, some at a time; empty ones are left out.

        Raises:
            OSError: it cannot be read.
        """
        group: list[Found] = []
        with self.path.open("rb") as file:
            number, size = 0, 0
            while True:
                offset = file.tell()
                line = file.readline(self._most_bytes)
                if not line:
                    break
                number += 1
                is_whole = line.endswith(b"\n") or len(line) < self._most_bytes
                while not is_whole:
                    rest = file.readline(self._most_bytes)
                    is_whole = rest.endswith(b"\n") or len(rest) < self._most_bytes
                    line = line[:_BEGINNING]  # of a line that is too long
                size += file.tell() - offset
                if line.strip():
                    group.append(self._found(number, offset, line, is_too_long=file.tell() - offset > self._most_bytes))
                if len(group) >= _LINES or size >= _BYTES:
                    yield group
                    group, size = [], 0
        if group:
            yield group

    def at(self, offsets: dict[int, int]) -> list[Found]:
        """Read lines again.

        Args:
            offsets: where each begins, by its number.

        Raises:
            OSError: it cannot be read.
        """
        found = []
        with self.path.open("rb") as file:
            for number, offset in offsets.items():
                file.seek(offset)
                line = file.readline(self._most_bytes)
                is_too_long = not line.endswith(b"\n") and len(line) == self._most_bytes
                found.append(self._found(number, offset, line, is_too_long=is_too_long))
        return found

    def _found(self, number: int, offset: int, line: bytes, *, is_too_long: bool) -> Found:
        answer = self._too_long(line) if is_too_long else self._read(line)
        beginning = "" if answer else line[: 4 * _SHOWN].decode("utf-8", "replace").strip()[:_SHOWN]
        return Found(number, offset, answer, beginning)

    def _too_long(self, line: bytes) -> Answer | None:
        """Return what is known of a line that is too long to be read: its name stands near its beginning."""
        if not (name := _NAME.search(line, 0, _BEGINNING)):
            return None
        said = f"its line has more than {self._most_bytes / 1e6:,.2g} MB (--max-response-mb allows more)"
        return Answer(name[1].decode("utf-8", "replace"), Failure(Fault.TOO_LONG, said, may_be_billed=True))

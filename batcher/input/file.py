"""A table in a file, and the file itself: found, opened as bytes, and the run's name that its name gives.

Invariant: a file is only read, and opened anew for each pass.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from batcher.errors import InputError
from batcher.input.compressed import packing_by_ending
from batcher.input.dataset import Dataset
from batcher.input.spool import STDIN, is_nameless
from batcher.place import version_of
from batcher.visible import on_one_line
from batcher.words import escape_hint

_ENDING = re.compile(r"\.[A-Za-z]{2,8}(?:\.(?:gz|bz2|zst))?\*?$")  # of a path


class FileDataset(Dataset):
    """A table in a file.

    Args:
        name: its path as it was given, for messages.
        path: of the file that is read, if it is another one.

    Attributes:
        path: of the file that is read.
    """

    def __init__(self, name: str, path: str | None = None) -> None:
        self.name = on_one_line(name)
        self.path = path or name
        self.paths = (Path(self.path),)
        self.is_copy = on_one_line(self.path) != self.name or is_nameless(name)
        self._version = _version(self.path)

    def has_changed(self) -> bool:
        return _version(self.path) != self._version


def _version(name: str) -> tuple[int, ...] | None:
    try:
        return version_of(Path(name))
    except OSError:  # it is gone
        return None


def check_is_file(name: str) -> None:
    """Refuse a path without a file or a pipe."""
    if name == STDIN:
        return
    try:
        Path(name).stat()
    except FileNotFoundError as error:
        shown = on_one_line(name)
        if "://" in name:
            raise InputError(f"{shown}: is a URL: download the file, and give its path") from error
        if "\n" in name and not _ENDING.search(name):
            raise InputError(
                "the input is a text of several lines and no path: write it to a file, or give"
                " pandas.read_csv(io.StringIO(text))"
            ) from error
        raise InputError(f"{shown}: there is no such file{escape_hint(name)}") from error
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the path
        raise InputError(f"{on_one_line(name)}: cannot be opened: {error}{escape_hint(name)}") from error


def keyword_of(path: str | os.PathLike[str]) -> str | None:
    """Return the name that a file gives to its run: its own, without its endings; None if it has none, as stdin."""
    name = os.fsdecode(path)
    if is_nameless(name):
        return None
    last = Path(name)
    return last.with_suffix("").stem if packing_by_ending(last.suffix) else last.stem


def ending_of(path: Path) -> str:
    """Return the ending of a file that says what is in it: without that of its compression."""
    return (path.with_suffix("") if packing_by_ending(path.suffix) else path).suffix

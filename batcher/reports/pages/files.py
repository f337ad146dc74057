"""The files that pages are written to.

Invariant: no file is overwritten but a page of batcher, and a page is there whole or not at all.
"""

from __future__ import annotations

import os
from pathlib import Path

from batcher.errors import SettingsError
from batcher.output.csv_file import as_output_errors, replace
from batcher.settings import home_expanded
from batcher.words import as_given, blamed, option

GENERATOR = '<meta name="generator" content="batcher">'
"""By this a page is known again, which a later one may replace."""


def path_of(value: object, name: str) -> Path:
    """Return the path of a file to write, that a user gave for an option.

    Raises:
        SettingsError: it is none.
    """
    if not isinstance(value, (str, os.PathLike)) or not (path := os.fspath(value)) or "\0" in path:
        raise SettingsError(f"{blamed(name)} must be the path of a file, not {value!r:.80}")
    return Path(home_expanded(path))


def page_path(given: object) -> Path:
    """Return the path of a page to write, after a check that it may be written.

    Raises:
        SettingsError: it is no path, another file is there, or there is no such directory.
    """
    path, where = path_of(given, "html"), as_given("html")
    if not path.parent.is_dir():
        raise SettingsError(f"{where}: there is no directory {path.parent}")
    check_replaceable(path, f"{where}: ")
    return path


def check_replaceable(path: Path, where: str) -> None:
    """Raise `SettingsError` if something is there that is no page of batcher."""
    if path.is_dir():
        raise SettingsError(f"{where}{path} is a directory: name a file")
    if path.exists() and not (path.is_file() and _is_page(path)):  # a pipe would be waited for
        other = "name another file" if where else f"name another file with {option('html')}"
        raise SettingsError(f"{where}{path} is there, and is no page of batcher: {other}")


def _is_page(path: Path) -> bool:
    with as_output_errors(path, "read"), path.open("rb") as file:
        return GENERATOR.encode() in file.read(1000)


def write_page(path: Path, page: str) -> None:
    """Write a page.

    Raises:
        OutputError: the disk is full, the directory is read-only, ...
    """
    content = page.encode("utf-8", "backslashreplace")
    replace(path, lambda file: file.write(content))

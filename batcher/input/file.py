"""A table in a file, and the file itself: opened as bytes, and the words for bytes that are no text.

Invariant: a file is only read, and opened anew for each pass.
"""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path
from typing import BinaryIO

from batcher.errors import InputError
from batcher.input.dataset import Dataset
from batcher.place import version_of


class FileDataset(Dataset):
    """A table in a file.

    Args:
        name: its path as it was given.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.paths = (Path(name),)
        self._version = _version(name)

    def has_changed(self) -> bool:
        return _version(self.name) != self._version


def _version(name: str) -> tuple[int, ...] | None:
    try:
        return version_of(Path(name))
    except OSError:  # it is gone
        return None


def open_bytes(name: str) -> BinaryIO:
    """Open a file, and skip its byte order mark, if it has one."""
    try:
        mode = Path(name).stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{name}: is a directory: give the path of one file")
        if not stat.S_ISREG(mode):
            raise InputError(f"{name}: is not a regular file: the table is read more than once, save it to a file")
        file = Path(name).open("rb")  # noqa: SIM115 - every caller closes it
    except FileNotFoundError as error:
        if name == "-":
            raise InputError("-: standard input cannot be read twice, as a table is: save it to a file") from error
        raise InputError(f"{name}: there is no such file") from error
    except (OSError, ValueError) as error:  # a ValueError is a NUL in the path
        raise InputError(f"{name}: cannot be opened: {error}") from error
    if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        file.seek(0)
    return file


def not_utf8(name: str, line: int, error: UnicodeDecodeError) -> InputError:
    """Return the error about a byte that is not UTF-8, with what to do."""
    if line == 1 and error.object[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
        advice = 'this is UTF-16 (Excel\'s "Unicode Text"): save it as "CSV UTF-8"'
    else:
        advice = (
            'save it as "CSV UTF-8" in Excel, or read it in Python, from GBK for example with pandas.read_csv(path,'
            ' encoding="gbk"), and give the DataFrame'
        )
        if os.name == "posix":
            advice += "; or convert it, from GBK for example with `iconv -f GBK -t UTF-8`"
    return InputError(f"{name}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8: {advice}")

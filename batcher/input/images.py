"""Puts the images that a cell names into the messages of its row, and loads them when the request leaves.

Invariant: a question holds what identifies its images (`records.Image`), never their data: they are read to be hashed
when a question is made, and are read again, checked against that hash and decoded just before the request leaves.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from batcher.errors import InputError
from batcher.input.column_names import column_index
from batcher.input.dataset import Dataset
from batcher.input.picture import Look, Unusable, check_pillow, look_at, prepared, scaled
from batcher.records import OF_AN_IMAGE, Image, Message, Values
from batcher.scalars import is_missing, without_numpy
from batcher.settings import Settings, home_expanded
from batcher.visible import on_one_line
from batcher.words import blamed, option

MOST_BYTES = 20_000_000
"""The most bytes that the images of a request may have as text: what most services take."""

_LARGEST_FILE = 2**28
"""The most bytes of a file that is read: no image that may be decoded has as many."""
_REMEMBERED = 4096
"""The files whose hash is remembered as long as they stay the same: rows that share an image read it once."""
_READERS = 8
"""Threads that read files ahead: more than a disk needs, and enough for most file servers."""
_LONGEST_NAME = 200
_URL = re.compile(r"https?://", re.IGNORECASE)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_DATA_URL = re.compile(r"data:([^,]{0,200}),", re.IGNORECASE)
# How the base64 of a JPEG, PNG, GIF and WebP begins.
_BASE64 = re.compile(r"(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR)[A-Za-z0-9+/=\s]{100}")
_OF_A_STRUCT = {"bytes", "path"}


class _Given(NamedTuple):
    """An image as a cell gives it.

    Attributes:
        name: for people.
        content: its bytes, the path of its file, or a URL.
        is_url: it is one for the service to fetch.
    """

    name: str
    content: bytes | str
    is_url: bool = False


class Images:
    """Puts images into the messages of rows.

    Args:
        column: the name of the column that names them.
        columns: of the table.
        root: the directory in which relative paths begin.
        longest: the most pixels of the longer side of an image; 0: any number.
        detail: how closely the service shall look; None: as it likes.

    Raises:
        InputError: there is no such column.
        SettingsError: Pillow is not installed.
    """

    def __init__(
        self, column: str, columns: Sequence[str], root: Path, longest: int, detail: str | None = None
    ) -> None:
        check_pillow()
        self.column = column
        self._index = column_index(column, columns, blamed("image_column"))
        self._root = root
        self._longest = longest
        self._detail = detail

    @classmethod
    def of(cls, settings: Settings, dataset: Dataset) -> Images | None:
        """Return what the options ask for; None: no images."""
        if settings.image_column is None:
            return None
        return cls(settings.image_column, dataset.columns, root_of(dataset), settings.image_size, settings.image_detail)

    @classmethod
    def recorded_in(cls, question: Mapping[str, Any], dataset: Dataset) -> Images | None:
        """Return the images of a run from its record, made by `recorded`; None if it had none."""
        if (record := question.get("images")) is None:
            return None
        return cls(record["column"], dataset.columns, root_of(dataset), record["size"], record["detail"])

    @property
    def recorded(self) -> dict[str, Any]:
        """How the journal records it with the run's question."""
        return {"column": self.column, "size": self._longest, "detail": self._detail}

    def put(self, values: Values, messages: list[Message]) -> tuple[list[Message], str]:
        """Put a row's images before the text of its last user message.

        Returns:
            The messages, and why the row cannot be asked; empty if it can.

        Raises:
            InputError: there are images, and no message of a user.
        """
        parts, fault = self._parts(values[self._index])
        if not parts:
            return messages, fault
        at = max((number for number, each in enumerate(messages) if each["role"] == "user"), default=None)
        if at is None:
            raise InputError("there is no message of the role user that the image could belong to")
        content = messages[at].get("content")
        text = content if isinstance(content, list) else [{"type": "text", "text": content}] if content else []
        return [*messages[:at], {**messages[at], "content": [*parts, *text]}, *messages[at + 1 :]], fault

    def look_ahead(self, rows: Sequence[Values]) -> None:
        """Read the images of rows in several threads, so that `put` finds what it needs."""
        for _ in self._readers.map(self._parts, (values[self._index] for values in rows)):
            pass

    def as_text(self, value: object) -> str:
        """Return a cell as a text that means the same in a file at any place."""
        try:
            found = [self._portable(each) for each in _given_in(value)]
        except Unusable:
            found = ["an image that cannot be read"]
        return found[0] if len(found) == 1 else json.dumps(found) if found else ""

    def _portable(self, given: _Given) -> str:
        if isinstance(given.content, bytes):
            return f"data:;base64,{base64.b64encode(given.content).decode()}"
        return given.content if given.is_url else os.path.abspath(self._path(given.content))  # noqa: PTH100

    @cached_property
    def _readers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_READERS, "batcher-images")

    def _parts(self, value: object) -> tuple[list[Message], str]:
        """Return the parts of a cell's images, and what is wrong with the first that cannot be sent."""
        parts: list[Message] = []
        faults: list[str] = []
        try:
            for given in _given_in(value):
                try:
                    parts.append(self._part(given))
                except Unusable as fault:
                    faults.append(f"{OF_AN_IMAGE}{given.name}: {fault}")
                    parts.append({"type": "image", "unusable": _identity(given.content)})
        except Unusable as fault:
            return [{"type": "image", "unusable": type(value).__name__}], f"column {self.column!r}: {fault}"
        return parts, faults[0] if faults else ""

    def _part(self, given: _Given) -> Message:
        detail = {} if self._detail is None else {"detail": self._detail}
        if given.is_url:
            return {"type": "image_url", "image_url": {"url": given.content, **detail}}
        content = given.content
        if isinstance(content, bytes):
            look = look_at(content)
        else:
            content = str(self._path(content))
            look = self._look_at_file(content, given.content)
        size = scaled(look.width, look.height, self._longest)
        return Image({"type": "image", "sha256": look.sha256, "size": [*size], **detail}, given.name, content)

    def _look_at_file(self, path: str, given: object) -> Look:
        try:
            return _look_at_file(path, _stamp(path))
        except FileNotFoundError as error:
            root = "the working directory" if self._root == Path() else _shown(str(self._root))
            where = "" if path == given else f" in {root}"
            raise Unusable(f"there is no such file{where}") from error

    def _path(self, text: str) -> Path:
        return self._root / home_expanded(text)


def root_of(dataset: Dataset) -> Path:
    """Return the directory in which relative paths begin: that of the input's files, else the working directory."""
    parents = set() if dataset.is_copy else {path.parent for path in dataset.paths}
    if len(parents) < 2:
        return next(iter(parents), Path())
    return Path(os.path.commonpath([os.path.abspath(each) for each in parents]))  # noqa: PTH100 - a link stays one


# --- what a cell holds ---


def _given_in(value: object) -> Iterator[_Given]:
    """Yield the images that a cell names.

    Raises:
        Unusable: the cell holds something else.
    """
    value = without_numpy(value)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _listed(value)
    for each in value if isinstance(value, list | tuple) else [value]:
        yield from _one_in(without_numpy(each))


def _one_in(value: object) -> Iterator[_Given]:
    """Yield the image that a value gives; none if it is empty.

    Raises:
        Unusable: it is something else.
    """
    name = "in the cell"
    if isinstance(value, Mapping) and value.keys() & _OF_A_STRUCT:  # as `datasets` keeps an image
        path = value.get("path")
        name = _shown(path) if isinstance(path, str) and path else name
        value = path if value.get("bytes") is None else value["bytes"]
    if value is None or is_missing(value) or (isinstance(value, float) and math.isnan(value)):
        return
    if isinstance(value, bytes | bytearray | memoryview):
        yield _Given(name, bytes(value))
    elif isinstance(value, str | os.PathLike):
        text = os.fsdecode(os.fspath(value))
        if text.strip():
            yield _of_text(text)
    else:
        kind = type(value)
        is_pillow = kind.__module__.startswith("PIL.")
        hint = ": give the path of its file, or the bytes that its save() writes" if is_pillow else ""
        raise Unusable(f"a value of type {kind.__qualname__} is not a path, a URL or the bytes of an image{hint}")


def _listed(text: str) -> object:
    """Return the list that a text holds as JSON, or else the text itself: a path may begin with a bracket."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, list) and all(each is None or isinstance(each, str) for each in found) else text


def _of_text(text: str) -> _Given:
    if _URL.match(text.lstrip()):
        return _Given(_shown(text.strip()), text.strip(), is_url=True)
    if found := _DATA_URL.match(text.lstrip()):
        return _Given("in a data URL", _decoded(text.lstrip()[found.end() :], found[1]))
    if text.lower().startswith("file:"):
        from urllib.request import url2pathname  # noqa: PLC0415 - slow to load

        return _Given(_shown(text), url2pathname(urlsplit(text).path))
    if scheme := _SCHEME.match(text):
        raise Unusable(f"{scheme[0]} is not read: give a path, an http(s) URL or a data URL")
    if _BASE64.match(text):
        raise Unusable("this is base64 without its beginning: write data:image/jpeg;base64, before it")
    return _Given(_shown(text), text)


def _decoded(data: str, kind: str) -> bytes:
    if not kind.lower().rstrip().endswith(";base64"):
        return unquote_to_bytes(data)
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unusable(f"the base64 of a data URL is damaged: {error}") from error


def _identity(content: bytes | str) -> str:
    return content if isinstance(content, str) else hashlib.sha256(content).hexdigest()


def _shown(text: str) -> str:
    text = on_one_line(text)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}..."


# --- files ---

_Stamp = tuple[int, int, int]
"""What changes with a file: the time of its last change in nanoseconds, its bytes and its inode."""


def _stamp(path: str) -> _Stamp:
    """Return what changes with a file.

    Raises:
        FileNotFoundError: there is no such file.
        Unusable: it cannot be one of an image.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - a path may hold a NUL
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise Unusable(f"the file cannot be read: {_why(error)}") from error
    if not stat.S_ISREG(found.st_mode):
        raise Unusable("this is a directory" if stat.S_ISDIR(found.st_mode) else "this is not a regular file")
    if found.st_size > _LARGEST_FILE:
        raise Unusable(f"a file of {_megabytes(found.st_size)} is too large for an image")
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise Unusable("the file is gone") from error
    except (OSError, ValueError) as error:
        raise Unusable(f"the file cannot be read: {_why(error)}") from error


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


@lru_cache(_REMEMBERED)
def _look_at_file(path: str, _unchanged: _Stamp) -> Look:
    return look_at(_read(path))


# --- what leaves ---


def holds_images(messages: Iterable[Message]) -> bool:
    """Return whether messages have images that have to be loaded."""
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and any(isinstance(part, Image) for part in content):
            return True
    return False


def loaded(messages: Sequence[Message]) -> list[Message]:
    """Return messages with each image as a data URL, as they leave. It takes a while: call it in a thread.

    Raises:
        Unusable: an image has changed, is damaged or too large; the text names it.
    """
    size = 0
    found: list[Message] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            parts = [_sent(part) if isinstance(part, Image) else part for part in content]
            size += sum(
                len(made["image_url"]["url"])
                for part, made in zip(content, parts, strict=True)
                if isinstance(part, Image)
            )
            message = {**message, "content": parts}  # noqa: PLW2901 - the row's own message stays as it is
        found.append(message)
    if size > MOST_BYTES:
        raise Unusable(
            f"the images make a request of {_megabytes(size)}, and services take about"
            f" {_megabytes(MOST_BYTES)}: give a smaller {option('image_size', 'N')}"
        )
    return found


def _sent(image: Image) -> Message:
    width, height = image["size"]
    try:
        kind, data = prepared(_unchanged(image), (width, height))
    except Unusable as fault:
        raise Unusable(f"{OF_AN_IMAGE}{image.name}: {fault}") from fault
    url = {"url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}
    return {"type": "image_url", "image_url": url | {name: image[name] for name in ("detail",) if name in image}}


def _unchanged(image: Image) -> bytes:
    content = _read(image.content) if isinstance(image.content, str) else image.content
    if hashlib.sha256(content).hexdigest() != image["sha256"]:
        raise Unusable("the file was changed while the run worked: run it again")
    return content

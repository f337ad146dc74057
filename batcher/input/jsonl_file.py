"""A table in a JSON file: one object a line (JSONL), or one array of objects.

Invariant: a line or an item that is not a whole object ends the pass with its place.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from typing import Any

from batcher.errors import InputError
from batcher.input.dataset import columns_of
from batcher.input.file import FileDataset
from batcher.input.json_form import advice, advice_on_items, is_wrapped
from batcher.input.text_file import TextFile
from batcher.nesting import TOO_DEEP, is_too_deep
from batcher.records import LARGEST_CELL, Values

_JSON_NAMES = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
_JSON_BEGINNINGS = {"[": "a list", '"': "a string", "t": "true or false", "f": "true or false", "n": "null"}
_BLANK = " \t\n\r\x0b\x0c"
_LONGEST_ITEM = 4 * LARGEST_CELL  # characters
_ONE_A_LINE = "each line must be one JSON object"

Rows = Generator[dict[str, object], None, None]


class JsonlDataset(FileDataset):
    """A file of JSON objects, one a line or all in one array. Values keep their type; a key that a row lacks is None.

    Args:
        text: the file.
        kind: the ending that files of its kind have: `.jsonl` or `.json`.
    """

    def __init__(self, text: TextFile, kind: str = ".jsonl") -> None:
        super().__init__(text.name, text.path)
        self._text = text
        self._may_wrap = kind not in {".jsonl", ".ndjson"}
        self._objects = self._items if text.beginning.lstrip(_BLANK).startswith("[") else self._lines
        text.forget_beginning()
        found: dict[str, None] = {}  # a set that keeps the order of first appearance
        rows, last = 0, None
        # Duplicate keys are searched for in the first pass only: the check makes reading 50% slower.
        for row in self._objects(json.JSONDecoder(object_pairs_hook=unique_keys)):
            rows, last = rows + 1, row
            if not found.keys() >= row.keys():
                found.update(dict.fromkeys(row))
        if self._may_wrap and rows == 1 and last and is_wrapped(last):
            raise self._wrapped(last)
        self.columns = columns_of(self.name, found)

    def _rows(self) -> Generator[Values, None, None]:
        columns = self.columns
        for row in self._objects(json.JSONDecoder()):
            yield tuple(map(row.get, columns))

    def _wrapped(self, found: dict[str, object]) -> InputError:
        return InputError(f"{self.name}: holds one object instead of rows: {advice(self.name, found)}")

    def _whole(self) -> dict[str, object] | None:
        """Return the object that the file is; None if it is something else, or very long."""
        text = ""
        with closing(self._text.blocks()) as blocks:
            for block in blocks:
                text += block
                if len(text) > _LONGEST_ITEM:
                    return None
        try:
            found = _decoded(text.strip(_BLANK), json.JSONDecoder())
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def _lines(self, decoder: json.JSONDecoder) -> Rows:
        """Read one object a line."""
        number = 0
        with self._text.damage_first(), closing(self._text.whole_lines()) as blocks:
            for block in blocks:
                for number, line in enumerate(io.StringIO(block, newline="\n"), number + 1):  # noqa: B020 - it goes on
                    text = line.rstrip(_BLANK)  # else an error at the end would be on "line 2"
                    if text:
                        try:
                            row = _decoded(text, decoder)
                        except (ValueError, RecursionError) as error:
                            raise self._fault(text, number, error) from error
                        if not isinstance(row, dict):
                            kind = _JSON_NAMES.get(type(row), "a number")
                            raise InputError(f"{self.name}, line {number}: {_ONE_A_LINE}, this one is {kind}")
                        yield row

    def _fault(self, text: str, number: int, error: ValueError | RecursionError) -> InputError:
        place = f"{self.name}, line {number}"
        if not isinstance(error, json.JSONDecodeError):  # a number that Python refuses, or our own refusal
            return InputError(f"{place}: the JSON cannot be read: {error}")
        what = f"{place}, column {error.colno}: not JSON: {error.msg}: {_ONE_A_LINE}"
        is_open = text.lstrip(_BLANK).startswith("{") and error.pos >= len(text)
        if is_open and number == 1 and self._may_wrap and (found := self._whole()) and is_wrapped(found):
            return self._wrapped(found)
        if is_open:
            what += "; this one does not end on its line (`jq -c .` writes it on one)"
        elif number == 1 and not text.lstrip(_BLANK).startswith(("{", "[", '"')):
            what += "; if it is a CSV file, let its name end in .csv"
        return InputError(what)

    def _items(self, decoder: json.JSONDecoder) -> Rows:
        """Read the objects of an array."""
        with self._text.damage_first(), closing(self._text.blocks()) as blocks:
            buffer = _Buffer(self.name, blocks)
            buffer.take("[")
            if buffer.next() == "]":
                buffer.take("]")
            else:
                is_last = False
                while not is_last:
                    yield buffer.item(decoder)
                    is_last = buffer.next() == "]"
                    buffer.take("]" if is_last else ",")
            if buffer.next():
                raise buffer.error("there is text after the end of the array")


class _Buffer:
    """The part of a JSON text around the place where it is read.

    Args:
        name: of the file, for messages.
        blocks: the text.
    """

    _between = re.compile(r"[ \t\n\r]*")

    def __init__(self, name: str, blocks: Generator[str, None, None]) -> None:
        self._name = name
        self._blocks = blocks
        self._text = ""
        self._at = 0
        self._line = 1  # of the beginning of `_text`
        self._before = 0  # characters of that line before it

    def next(self) -> str:
        """Return the next character that is not blank, or nothing at the end."""
        while True:
            found = self._between.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, wanted: str) -> None:
        if self.next() != wanted:
            raise self.error(f"not JSON: {wanted!r} is missing")
        self._at += 1

    def item(self, decoder: json.JSONDecoder) -> dict[str, object]:
        """Read an object."""
        beginning = self.next()
        if beginning != "{":
            if not beginning or beginning in "]},":
                raise self.error("not JSON: an object is missing")
            what = _JSON_BEGINNINGS.get(beginning, "a number or no JSON")
            way = advice_on_items(self._name, beginning)
            raise self.error(f"each item of the array must be an object, this one is {what}{way}")
        while True:
            try:
                row, end = decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # A text that goes on in the next block fails at its end, or where an unfinished string began.
                is_open = error.msg.startswith("Unterminated string") or len(self._text) - error.pos < 12
                behind = error.pos - self._at
                if not (is_open and self._more()):
                    raise self.error(f"not JSON: {error.msg}", self._at + behind) from error
                continue
            except (ValueError, RecursionError) as error:  # a number that Python refuses, or our own refusal
                raise self.error(f"the JSON cannot be read: {error}") from error
            if is_too_deep(self._text[self._at : end]):
                raise self.error(f"the JSON cannot be read: {TOO_DEEP}")
            self._at = end
            return dict(row)

    def _more(self) -> bool:
        """Drop what was read, and read on until the text is twice as long; return False at the end of the file."""
        line_end = self._text.rfind("\n", 0, self._at)
        self._before = self._at - line_end - 1 + (self._before if line_end < 0 else 0)
        self._line += self._text.count("\n", 0, self._at)
        pieces, self._at = [self._text[self._at :]], 0
        wanted = size = len(pieces[0])
        if size > _LONGEST_ITEM:
            raise self.error(f"an object has more than {_LONGEST_ITEM:,} characters")
        for block in self._blocks:
            pieces.append(block)
            size += len(block)
            if size > wanted * 2:
                break
        self._text = "".join(pieces)
        return len(self._text) > wanted

    def error(self, what: str, at: int | None = None) -> InputError:
        """Return an error with its place: where the text is read, unless it is given."""
        at = self._at if at is None else at
        line = self._line + self._text.count("\n", 0, at)
        line_end = self._text.rfind("\n", 0, at)
        column = at - line_end + (self._before if line_end < 0 else 0)
        return InputError(f"{self._name}, line {line}, column {column}: {what}")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object of any level; refuse a key that is there twice, because one value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [repr(key) for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueError(f"an object has more than one key {', '.join(twice)}: rename all but one")
    return found


def _decoded(text: str, decoder: json.JSONDecoder) -> object:
    if is_too_deep(text):
        raise ValueError(TOO_DEEP)
    row: object = decoder.decode(text)
    return row

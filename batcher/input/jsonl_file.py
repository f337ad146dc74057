"""A table in a JSONL file: one JSON object a line.

Invariant: a line that is not a whole object ends the pass with its number.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator

from batcher.errors import InputError
from batcher.input.dataset import columns_of
from batcher.input.file import FileDataset, not_utf8, open_bytes
from batcher.nesting import TOO_DEEP, is_too_deep
from batcher.records import Values

_JSON_NAMES = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}


class JsonlDataset(FileDataset):
    """A file with one JSON object a line. Values keep their type; a key that a row lacks is None."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        found: dict[str, None] = {}  # a set that keeps the order of first appearance
        # Duplicate keys are searched for in the first pass only: the check makes reading 50% slower.
        for row in self._objects(json.JSONDecoder(object_pairs_hook=_object)):
            if not found.keys() >= row.keys():
                found.update(dict.fromkeys(row))
        self.columns = columns_of(name, found)

    def _rows(self) -> Generator[Values, None, None]:
        columns = self.columns
        for row in self._objects(json.JSONDecoder()):
            yield tuple(map(row.get, columns))

    def _objects(self, decoder: json.JSONDecoder) -> Generator[dict[str, object], None, None]:
        with open_bytes(self.name) as file:
            for number, line in enumerate(file, start=1):
                try:
                    text = line.rstrip().decode()  # else an error at the end would be on "line 2"
                    row = _decoded(text, decoder) if text else None
                except UnicodeDecodeError as error:
                    raise not_utf8(self.name, number, error) from error
                except json.JSONDecodeError as error:
                    raise InputError(
                        f"{self.name}, line {number}, column {error.colno}: not JSON: {error.msg}: "
                        "each line must be one JSON object"
                    ) from error
                except (ValueError, RecursionError) as error:  # a number that Python refuses, or our own refusal
                    raise InputError(f"{self.name}, line {number}: the JSON cannot be read: {error}") from error
                if isinstance(row, dict):
                    yield row
                elif text:
                    raise InputError(
                        f"{self.name}, line {number}: each line must be one JSON object, "
                        f"this one is {_JSON_NAMES.get(type(row), 'a number')}"
                    )


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
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

"""Which bytes may follow in an answer that must be a JSON object.

Invariant: whatever is accepted can be continued to a JSON object, and what is complete is one.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Self

_SPACE = frozenset(b" \t\n\r")
_MOST_SPACE = 2_000  # bytes in all: a model that writes nothing else would never end
_DIGITS = frozenset(b"0123456789")
_HEX = frozenset(b"0123456789abcdefABCDEF")
_WORDS = (b"true", b"false", b"null")
_PART_OF_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)?(?:(?<=[0-9])\.[0-9]*)?(?:(?<=[0-9])[eE][-+]?[0-9]*)?")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_DEEPEST = 64


class JsonForm(NamedTuple):
    """How far an object has come.

    Attributes:
        expected: what may come: `object` (the beginning), `value`, `item` (a value or the end of an array), `key`,
            `first key` (a key or the end of the object), `colon`, `comma`, `end` (nothing more).
        opened: `{` and `[` that are not closed yet.
        part: the bytes so far of a string (its last escape alone), a number or a word.
        inside: `string`, `key string`, `number`, `word` or nothing.
        spaces: bytes of white space between its parts.
    """

    expected: str = "object"
    opened: bytes = b""
    part: bytes = b""
    inside: str = ""
    spaces: int = 0

    @property
    def is_complete(self) -> bool:
        return self.expected == "end"

    def after(self, text: bytes) -> Self | None:
        """Return the state after further bytes; None if they do not belong to an object."""
        state: Self | None = self
        for byte in text:
            state = state.step(byte) if state is not None else None
            if state is None:
                return None
        return state

    def step(self, byte: int) -> Self | None:
        """Return the state after one more byte; None if it does not belong there."""
        if self.inside.endswith("string"):
            return self._in_string(byte)
        if self.inside == "word":
            return self._in_word(byte)
        if self.inside == "number":
            if _PART_OF_NUMBER.fullmatch(self.part + bytes([byte])):
                return self._replace(part=self.part + bytes([byte]))
            return self._closed().step(byte) if _NUMBER.fullmatch(self.part) else None
        if byte in _SPACE:
            return self._replace(spaces=self.spaces + 1) if self.spaces < _MOST_SPACE else None
        return self._begin(byte)

    def _begin(self, byte: int) -> Self | None:
        """Take a byte outside of strings, numbers and words."""
        character = chr(byte)
        if character in "}]" and self.opened:
            is_pair = self.opened[-1:] + bytes([byte]) in (b"{}", b"[]")
            may_end = self.expected in {"comma", "first key" if character == "}" else "item"}
            return self._closed(self.opened[:-1]) if is_pair and may_end else None
        if self.expected == "comma" and character == ",":
            return self._replace(expected="key" if self.opened.endswith(b"{") else "value")
        if self.expected == "colon" and character == ":":
            return self._replace(expected="value")
        if self.expected in {"key", "first key"} and character == '"':
            return self._replace(inside="key string", part=b"")
        if self.expected == "object" and character == "{":
            return self._replace(opened=b"{", expected="first key")
        return self._value(byte) if self.expected in {"value", "item"} else None

    def _value(self, byte: int) -> Self | None:
        if byte in b"{[" and len(self.opened) < _DEEPEST:
            return self._replace(opened=self.opened + bytes([byte]), expected="first key" if byte == 0x7B else "item")
        if byte == 0x22:  # a quotation mark
            return self._replace(inside="string", part=b"")
        if byte in _DIGITS or byte == 0x2D:  # a minus sign
            return self._replace(inside="number", part=bytes([byte]))
        if any(word[0] == byte for word in _WORDS):
            return self._replace(inside="word", part=bytes([byte]))
        return None

    def _in_string(self, byte: int) -> Self | None:
        if self.part:  # an escape
            part = self.part + bytes([byte])
            if len(part) == 2 and byte != 0x75:  # u
                return self._replace(part=b"") if byte in b'"\\/bfnrt' else None
            if len(part) > 2 and byte not in _HEX:
                return None
            return self._replace(part=b"" if len(part) == 6 else part)
        if byte == 0x22:
            is_key = self.inside == "key string"
            return self._replace(inside="", expected="colon") if is_key else self._closed()
        if byte < 0x20:
            return None
        return self._replace(part=b"\\") if byte == 0x5C else self

    def _in_word(self, byte: int) -> Self | None:
        part = self.part + bytes([byte])
        if part in _WORDS:
            return self._closed()
        return self._replace(part=part) if any(word.startswith(part) for word in _WORDS) else None

    def _closed(self, opened: bytes | None = None) -> Self:
        """Return the state after a value; `opened` is what is open then, if its end has closed something."""
        opened = self.opened if opened is None else opened
        return self._replace(opened=opened, inside="", part=b"", expected="comma" if opened else "end")

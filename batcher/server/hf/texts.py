"""The text of a choice as its tokens come: whole characters, without end marks, up to a stop string.

Invariant: the pieces, joined, are the text of the whole; nothing that may yet be a part of a stop string or of a
character leaves.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

_BEFORE = 5  # tokens of the prompt that are decoded with the first ones: some tokenizers drop a space at the beginning
_MOST_HELD = 64  # tokens: no character has so many, but a model may write bytes that are none
_BROKEN = "\ufffd"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Text:
    """The text of one choice.

    Args:
        tokenizer: of the model.
        prompt: the tokens before it.
        stops: strings that end it, and do not belong to it.
        is_trimmed: white space at its beginning does not belong to it.
    """

    def __init__(
        self, tokenizer: Any, prompt: Sequence[int], stops: Sequence[str] = (), *, is_trimmed: bool = False
    ) -> None:
        self.whole = ""
        self.is_stopped = False
        self._tokenizer = tokenizer
        self._stops = stops
        self._is_trimmed = is_trimmed
        self._sent = 0
        # The tokens whose text is not yet known to be whole, and those before them: both are decoded again.
        self._ids = list(prompt[-_BEFORE:])
        self._known = len(self._ids)

    def push(self, token: int) -> None:
        """Add a token's text, once it is known to be whole."""
        self._ids.append(token)
        text, before = self._decode(self._ids), self._decode(self._ids[: self._known])
        is_whole = not text.endswith(_BROKEN) or len(self._ids) - self._known > _MOST_HELD
        if len(text) > len(before) and is_whole:
            self._add(text[len(before) :])
            del self._ids[: self._known]
            self._known = len(self._ids)

    def end(self) -> None:
        """Add what is left, though it may be half a character."""
        self._add(self._decode(self._ids)[len(self._decode(self._ids[: self._known])) :])
        self._ids = []
        self._known = 0

    def take(self, *, is_last: bool = False) -> str:
        """Return the text that can leave and has not yet; at the end all of it."""
        until = len(self.whole) - (0 if is_last or self.is_stopped else self._doubtful())
        piece = self.whole[self._sent : until]
        self._sent = max(until, self._sent)
        return piece

    def _add(self, text: str) -> None:
        if self.is_stopped:
            return
        if self._is_trimmed and not self.whole:
            text = text.lstrip()
        start = max(len(self.whole) - max(map(len, self._stops), default=0), self._sent)
        self.whole += text
        found = [place for stop in self._stops if (place := self.whole.find(stop, start)) >= 0]
        if found:
            self.whole = self.whole[: min(found)]
            self.is_stopped = True

    def _doubtful(self) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        most = min(max(map(len, self._stops), default=1) - 1, len(self.whole) - self._sent)
        for size in range(most, 0, -1):
            if any(stop.startswith(self.whole[-size:]) for stop in self._stops):
                return size
        return 0

    def _decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)


def bytes_of(tokenizer: Any, token: int) -> bytes:
    """Return the bytes that a token stands for, also if they are not a whole character."""
    name = tokenizer.convert_ids_to_tokens(token)
    if name is None:  # a row of the embeddings beyond the vocabulary
        return b""
    if match := _BYTE.fullmatch(name):
        return bytes([int(match[1], 16)])
    text = str(tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if _BROKEN in text and all(character in _byte_table() for character in name):
        return bytes(_byte_table()[character] for character in name)
    if name.startswith("\u2581") and not text.startswith(" "):
        text = f" {text}"  # decoded alone, the token loses its space
    return text.encode("utf-8", "replace")


@functools.cache
def _byte_table() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes (GPT-2): printable ones stand for themselves."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}

"""The encoding of a text: a byte order mark or valid UTF-8 is certain, anything else is refused with the likely name.

Invariant: no text is decoded in an encoding that is only likely.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from typing import NamedTuple

from batcher.errors import InputError
from batcher.input.likely import Damage, Likely, holds_utf8, likely_encoding
from batcher.words import as_given, by_reader, option

BEGINNING = 2**16
"""Bytes at the beginning of a text that are looked at before it is read."""

# UTF-32 stands first: its little-endian mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_WESTERN = {"cp1252", "iso8859-1", "iso8859-15"}
_MARK = "\ufeff"
_MANY = 2  # characters beyond ASCII, beside which one byte is a damage and no line in another encoding
# What switches from ASCII to other characters: no other text has it.
_SHIFTS = {b"\x1b$B": "iso2022_jp", b"\x1b$@": "iso2022_jp", b"\x1b$)C": "iso2022_kr"}


class Encoding(NamedTuple):
    """The encoding of a text.

    Attributes:
        codec: its name in Python.
        mark: the bytes of its byte order mark.
        given: its name as the user gave it, or None if it was found.
    """

    codec: str
    mark: int = 0
    given: str | None = None

    @classmethod
    def of(cls, name: str, beginning: bytes, given: str | None = None) -> Encoding:
        """Find the encoding of a text.

        Args:
            name: of the text, for messages.
            beginning: its first bytes, at least `BEGINNING` if it has as many.
            given: the encoding that the user gives, if any.

        Raises:
            InputError: it is not certain, or it is certainly not the one given.
        """
        mark = next((mark for mark in _MARKS if beginning.startswith(mark)), b"")
        if given is None:
            unmarked = None if mark else _without_mark(beginning)
            if unmarked:
                raise InputError(
                    f"{name}: looks like {unmarked.upper()} without a byte order mark: add"
                    f" {option('input_encoding', unmarked)}"
                )
            if shifted := next((codec for shift, codec in _SHIFTS.items() if shift in beginning and not mark), None):
                raise InputError(f"{name}: is in {shifted}: add {option('input_encoding', shifted)}")
            return cls(_MARKS.get(mark, "utf-8"), len(mark))
        codec = codecs.lookup(given).name.removesuffix("-sig")
        if mark:
            if not _MARKS[mark].startswith(codec):
                raise _contradicts(name, f"begins with the byte order mark of {_MARKS[mark].upper()}", given)
            return cls(_MARKS[mark], len(mark), given)
        if not codec.startswith("utf") and holds_utf8(beginning, is_western=codec in _WESTERN):
            raise _contradicts(name, f"has text in UTF-8, of which {given} would make nonsense", given)
        if codec in {"utf-16", "utf-32"}:  # Python would take the byte order of this machine
            codec = _without_mark(beginning) or f"{codec}-le"
        return cls(codec, 0, given)

    @property
    def is_wide(self) -> bool:
        """Whether it is UTF-16 or UTF-32, in which only a few programs, such as Excel, write tables."""
        return self.codec.startswith(("utf-16", "utf-32"))

    def misfit(
        self, place: str, column: int, error: UnicodeDecodeError, again: Callable[[], Iterable[bytes]]
    ) -> InputError:
        """Return the error about a byte that does not fit the encoding.

        Args:
            place: the name of the text, with the line.
            column: of the byte, in characters from 1.
            error: the misfit.
            again: reads the whole text again, in pieces.
        """
        byte = error.object[error.start]
        what = f"{place}: byte 0x{byte:02x} is not {self.given or self.codec.upper()}"
        if self.given is not None:
            return InputError(f"{what}: give another {as_given('input_encoding')}, or mend this line")
        if self.is_wide:
            return InputError(f"{what}, although the byte order mark says so: is the file cut off?")
        damage, likely = Damage.of(again()), likely_encoding(again())
        is_end = error.reason == "unexpected end of data"
        if damage.bad == 1 and is_end and damage.good:
            return InputError(
                f"{place}: the file ends within a character (byte 0x{byte:02x} in column {column}), and all else is"
                " UTF-8: it is cut off: copy or download it again"
            )
        if damage.bad == 1 and damage.good >= _MANY and likely.is_mixed:
            return InputError(
                f"{place}: byte 0x{byte:02x} in column {column} is not UTF-8, and all else is: mend this character, and"
                " save the file as UTF-8"
            )
        cut = " (or is the file cut off? It may end within a character of UTF-8)" if is_end else ""
        return InputError(f"{what}{_advice(likely)}{cut}")


def is_wide(beginning: bytes, given: str | None = None) -> bool:
    """Return whether a text is in UTF-16 or UTF-32, by its byte order mark or as the user says."""
    marked = next((_MARKS[mark] for mark in _MARKS if beginning.startswith(mark)), "")
    return (marked or (codecs.lookup(given).name if given else "")).startswith(("utf-16", "utf-32"))


def _contradicts(name: str, why: str, given: str) -> InputError:
    return InputError(f"{name}: {why}: leave out {as_given('input_encoding', given)}")


def _advice(found: Likely) -> str:
    if found.is_mixed:
        line = f" (this one is likely {found.described})" if found.codec else ""
        return (
            f", but other lines are{line}: lines in two encodings were joined into one file; convert them to UTF-8"
            " before joining"
        )
    if not found.codec:
        return ", and no other encoding that batcher looks for fits: write it anew as UTF-8"
    return (
        f": it is likely {found.described}: add {option('input_encoding', found.codec)}, or save it as UTF-8"
        ' ("CSV UTF-8" in Excel)'
    )


def decoded(name: str, content: bytes, given: str | None = None) -> str:
    """Decode a short text, such as a prompt's file.

    Args:
        name: of the text, for messages.
        content: its bytes.
        given: the encoding that the user gives for the input, for a text that is not certainly in another one.

    Raises:
        InputError: its encoding is not certain.
    """
    has_mark = any(content.startswith(mark) for mark in _MARKS)
    encoding = Encoding.of(name, content, None if has_mark or is_valid_utf8(content) else given)
    try:
        return content[encoding.mark :].decode(encoding.codec).removeprefix(_MARK)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        what = f"{name}, line {line}: byte 0x{error.object[error.start]:02x} is not {given or encoding.codec.upper()}"
        found = likely_encoding([content])
        if not found.codec or found.is_mixed:
            raise InputError(f"{what}: save it as UTF-8") from error
        with_input = by_reader(command_line="INPUT has", python="the table has")
        raise InputError(
            f"{what}: it is likely {found.described}: save it as UTF-8, or add"
            f" {option('input_encoding', found.codec)} if {with_input} that encoding, too"
        ) from error


def _without_mark(beginning: bytes) -> str | None:
    """Return the name of a wide encoding, if every other byte of a text, or more of them, is zero."""
    zeros = [beginning[start::4].count(0) for start in range(4)]
    quarter = len(beginning) // 4
    if quarter < 1:
        return None
    if zeros[2] >= quarter and zeros[3] >= quarter:
        return "utf-32-le"
    if zeros[0] >= quarter and zeros[1] >= quarter:
        return "utf-32-be"
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    if min(even, odd) == 0 and max(even, odd) > quarter:
        return "utf-16-le" if odd else "utf-16-be"
    return None


def is_valid_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True

"""A text file: unpacked, decoded and cut at its line ends, a block at a time.

Invariant: an error names the line at which it is found, and all lines before it are handed out first.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from batcher.errors import InputError
from batcher.input.compressed import FAULTS, Packing, packing_by_magic
from batcher.input.encodings import BEGINNING, Encoding
from batcher.input.formats import AGAIN, format_of, is_no_text
from batcher.input.spool import Spool
from batcher.records import LARGEST_CELL

_BLOCK = 2**16  # bytes, unpacked
_LONGEST_LINE = 4 * LARGEST_CELL  # characters


class TextFile:
    """A text file, which may be compressed.

    Args:
        name: of the file, for messages.
        path: of the file, or the copy to read instead.
        packing: how it is compressed.
        given: the encoding that the user gives, if any.
        encoding: what the bytes are decoded in, whatever they are; default: what `given` or the text itself says.

    Attributes:
        beginning: the first characters, at most `BEGINNING` bytes, until `forget_beginning`.
        is_whole: they are all.
        raw_beginning: the first bytes, likewise.
        encoding: of the text.

    Raises:
        InputError: it cannot be read, or its encoding is not certain.
    """

    def __init__(
        self,
        name: str,
        path: str | Spool,
        packing: Packing | None = None,
        given: str | None = None,
        *,
        encoding: Encoding | None = None,
    ) -> None:
        self.name = name
        self.path = path if isinstance(path, str) else path.path
        self._spool = path  # gone with this object
        self.packing = packing
        raw = bytearray()
        try:
            with closing(self._pieces()) as pieces:
                for piece in pieces:
                    raw += piece
                    if len(raw) >= BEGINNING:
                        break
        except _Broken as broken:
            raise self._broken(broken, 1) from broken
        self.raw_beginning = bytes(raw[:BEGINNING])
        self.is_whole = len(raw) < BEGINNING
        self._check_is_text(given, is_certain=encoding is not None)
        self.encoding = encoding or Encoding.of(name, self.raw_beginning, given)
        self.beginning = self._decoded_beginning()

    def _check_is_text(self, given: str | None, *, is_certain: bool) -> None:
        """Refuse a file that is named like a text file but has the first bytes of another format."""
        if self.packing and (inner := packing_by_magic(self.raw_beginning)):
            raise InputError(f"{self.name}: is a {inner.name} file inside a {self.packing.name} file: unpack it first")
        found = format_of(self.raw_beginning, None if self.packing else self.path)
        if found and self.packing:
            raise InputError(f"{self.name}: holds {found.what}: unpack it, and {found.way(Path(self.name).stem)}")
        if found:
            raise InputError(f"{self.name}: is {found.refusal(self.name)}")
        if not given and not is_certain and is_no_text(self.raw_beginning):
            raise InputError(f"{self.name}: holds no text, and is of no format that batcher knows: is it damaged?")

    def _decoded_beginning(self) -> str:
        decoder = codecs.getincrementaldecoder(self.encoding.codec)("replace")
        return decoder.decode(self.raw_beginning[self.encoding.mark :], self.is_whole).removeprefix("\ufeff")

    def forget_beginning(self) -> None:
        """Free its memory: a table may have thousands of files."""
        self.beginning, self.raw_beginning = "", b""

    def _pieces(self) -> Generator[bytes, None, None]:
        """Read the file, unpacked."""
        with ExitStack() as stack:
            try:
                file: Any = stack.enter_context(Path(self.path).open("rb"))
                if self.packing:
                    file = stack.enter_context(self.packing.opened(file))
            except (OSError, ValueError) as error:
                raise InputError(f"{self.name}: cannot be opened: {error}") from error
            while True:
                try:
                    piece = file.read(_BLOCK)
                except FAULTS as error:
                    raise _Broken(error) from error
                if not piece:
                    return
                yield piece

    def _broken(self, broken: _Broken, line: int | None = None) -> InputError:
        place = self.name if line is None else f"{self.name}, line {line} or one of the next"
        if self.packing is None:
            return InputError(f"{place}: cannot be read: {broken.error}")
        what = "is cut off" if isinstance(broken.error, EOFError) else "is damaged"
        return InputError(f"{place}: the {self.packing.name} file {what}: {AGAIN}")

    def blocks(self, line_end: str = "\n") -> Generator[str, None, None]:
        """Read the text in blocks, cut anywhere.

        Args:
            line_end: by which lines are counted.

        Raises:
            InputError: a byte does not fit the encoding, or the file is damaged.
        """
        decoder = codecs.getincrementaldecoder(self.encoding.codec)()
        before, done = decoder.getstate(), 0
        try:
            with closing(self._pieces()) as pieces:
                for piece in _and_the_end(pieces):
                    before = decoder.getstate()
                    text = decoder.decode(piece if done else piece[self.encoding.mark :], not piece)
                    yield text if done else text.removeprefix("\ufeff")
                    done += 1
        except UnicodeDecodeError as error:
            decoder.setstate(before)
            good = decoder.decode(error.object[len(before[0]) : error.start])
            yield good
            line, column = self._place_after(done, line_end, good)
            place = f"{self.name}, line {line}"
            raise self.encoding.misfit(place, column, error, self._pieces) from error
        except _Broken as broken:
            raise self._broken(broken, self._place_after(done, line_end)[0]) from broken

    @contextmanager
    def damage_first(self) -> Iterator[None]:
        """Raise an error about a damaged archive instead of one about the text that it gave."""
        try:
            yield
        except InputError as error:
            if self.packing and not isinstance(error.__cause__, _Broken):
                try:
                    with closing(self._pieces()) as pieces:
                        deque(pieces, maxlen=0)
                except _Broken as broken:
                    raise self._broken(broken) from error
            raise

    def _place_after(self, done: int, line_end: str, more: str = "") -> tuple[int, int]:
        """Return the line and the column after some blocks and more text, from 1: only an error needs them."""
        line, column = 1, 1
        with closing(self.blocks(line_end)) as texts:
            for text in chain(islice(texts, done), [more]):
                line += text.count(line_end)
                behind = len(text) - text.rfind(line_end) - 1
                column = behind + 1 if line_end in text else column + len(text)
        return line, column

    def whole_lines(self, line_end: str = "\n") -> Generator[str, None, None]:
        """Read the text in blocks that end with a line's end; only the last may lack one.

        Raises:
            InputError: as `blocks`, or a line is too long.
        """
        held: list[str] = []
        size = 0
        with closing(self.blocks(line_end)) as texts:
            for text in texts:
                end = text.rfind(line_end) + 1
                if end:
                    yield "".join((*held, text[:end]))
                    held, size = [], 0
                held.append(text[end:])
                size += len(text) - end
                if size > _LONGEST_LINE:
                    raise InputError(f"{self.name}: a line has more than {_LONGEST_LINE:,} characters")
        if rest := "".join(held):
            yield rest


class _Broken(Exception):
    """The file cannot be read to its end.

    Attributes:
        error: why.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _and_the_end(pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield from pieces
    yield b""

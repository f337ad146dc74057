"""A requests file as a table: each line that is not blank is a row, whatever it holds.

Invariant: only a file that cannot be read to its end stops a pass; a broken line is a row whose question has a fault.
At most one line is in memory, and of a line that is too long its beginning.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

from batcher.input.compressed import Packing
from batcher.input.dataset import Dataset
from batcher.input.encodings import Encoding, is_wide
from batcher.input.file import FileDataset, ending_of
from batcher.input.in_memory import DictionariesDataset
from batcher.input.request_line import COLUMNS, RequestText, broken, read_item, read_line, request_in
from batcher.input.several import SeveralDataset
from batcher.input.spool import Spool
from batcher.input.text_file import TextFile
from batcher.records import LARGEST_CELL, Values

_BLANK = " \t\n\r\x0b\x0c\ufeff"
_BYTES = "latin-1"  # each character is a byte
_MOST = LARGEST_CELL
"""The most bytes of a line; in an encoding of two or four bytes a character, the most characters."""
_SHOWN = 1000  # of a line that has more
MOST_MODELS = 100
"""Models that the lines of a file may name without being named to batcher."""
_MOST_COUNTED = 1000
_OTHERS = "of another name"
_JSON = {".jsonl", ".ndjson", ".json", ""}  # the endings of files with a JSON object on each line


class Survey(NamedTuple):
    """What the lines of a requests file are, all together.

    Attributes:
        rows: their number.
        models: how many name each model; `""`: how many name none.
        broken: how many are no requests.
        first_broken: what is wrong with the first of them.
        streamed: how many ask for a stream.
        is_array: they are one JSON array.
    """

    rows: int
    models: Counter[str]
    broken: int
    first_broken: str
    streamed: int
    is_array: bool = False


class RequestsDataset(Dataset):
    """Requests as a table."""

    columns = COLUMNS


def surveyed(parts: Iterable[Iterable[Values]]) -> Survey:
    """Look at each row of a requests file."""
    models: Counter[str] = Counter()
    rows = broken = streamed = 0
    first = ""
    beginning: RequestText | None = None
    cell: RequestText | None = None
    for part in parts:
        for values in part:
            cell = request_in(values)
            beginning = cell if beginning is None else beginning
            rows += 1
            if fault := cell.question.fault:
                first, broken = first or fault, broken + 1
                continue
            streamed += cell.is_streamed
            model = cell.question.terms.model
            models[model if model in models or len(models) < _MOST_COUNTED else _OTHERS] += 1
    return Survey(rows, models, broken, first, streamed, is_array=cell is not None and _is_array(beginning, cell))


def _is_array(first: RequestText | None, last: RequestText) -> bool:
    """Return whether lines are those of one JSON array of objects, by the first and the last of them."""
    return (
        first is not None
        and first is not last
        and bool(first.question.fault and last.question.fault)
        and re.fullmatch(r"\[(\{.*[^\]])?", first, re.DOTALL) is not None
        and re.fullmatch(r"(.*\})?\s*\]", last, re.DOTALL) is not None
    )


class RequestsFile(FileDataset, RequestsDataset):
    """A file with a request on each line.

    Args:
        name: of the file, for messages.
        path: of the file, or the copy to read instead.
        packing: how it is compressed.
        given: the encoding that the user gives, if any.

    Raises:
        InputError: it is of another format, or cannot be read.
    """

    def __init__(self, name: str, path: Spool, packing: Packing | None, given: str | None) -> None:
        text = TextFile(name, path, packing, encoding=Encoding(_BYTES))
        self._is_wide = is_wide(text.raw_beginning, given)
        if self._is_wide:  # its lines do not end with the byte of a line's end
            text = TextFile(name, path, packing, given)
        FileDataset.__init__(self, text.name, text.path)
        self._text = text
        self._codec = "utf-8" if given is None else codecs.lookup(given).name.removesuffix("-sig")
        self._is_given = given is not None
        text.forget_beginning()

    def _rows(self) -> Generator[Values, None, None]:
        number = 0
        with self._text.damage_first(), closing(_cut(self._text.blocks())) as lines:
            for number, (line, length) in enumerate(lines, 1):
                if row := self._row(number, line, length):
                    yield row

    def _row(self, number: int, line: str, length: int) -> Values | None:
        """Return the row of a line; None of a blank one."""
        if length > len(line):
            said = f"it has {length:,} {'characters' if self._is_wide else 'bytes'}, and a request may have {_MOST:,}"
            return broken(number, line, said)
        if self._is_wide:
            text = line
        else:
            raw = line.encode(_BYTES)
            try:
                text = raw.decode(self._codec)
            except UnicodeDecodeError as error:
                return broken(number, raw.decode(self._codec, "backslashreplace"), self._misfit(error))
        text = text.strip(_BLANK)
        return read_line(number, text) if text else None

    def _misfit(self, error: UnicodeDecodeError) -> str:
        # The same words for each reader: they are a part of the question, and stand in files.
        what = (
            f"byte 0x{error.object[error.start]:02x} (byte {error.start + 1} of the line) is not {self._codec.upper()}"
        )
        if self._is_given:
            return f"{what}: give another --input-encoding, or mend the line"
        return f"{what}: write the line in UTF-8, or name the file's encoding with --input-encoding"


def _cut(blocks: Iterator[str]) -> Generator[tuple[str, int], None, None]:
    """Yield each line, and its length; of a line that is too long the beginning."""
    held: list[str] = []
    size = 0
    for block in blocks:
        *whole, rest = block.split("\n")
        for line in whole:
            length = size + len(line)
            yield ("".join((*held, line)) if length <= _MOST else "".join((*held, line))[:_SHOWN]), length
            held, size = [], 0
        size += len(rest)
        if size <= _MOST:
            held.append(rest)
        elif held:
            held = ["".join(held)[:_SHOWN]]
    if size:
        line = "".join(held)
        yield (line if size <= _MOST else line[:_SHOWN]), size


class SeveralRequests(SeveralDataset, RequestsDataset):
    """Requests files, read one after the other."""


class RequestsList(RequestsDataset):
    """Requests in memory: dictionaries, or the texts of lines.

    Args:
        items: can be read as often as needed.
    """

    def __init__(self, items: Iterable[object]) -> None:
        self.name = f"the {type(items).__name__}"
        self._items = items

    def _rows(self) -> Generator[Values, None, None]:
        for number, item in enumerate(self._items, 1):
            yield read_item(number, item)


def looks_like_requests(dataset: Dataset) -> bool:
    """Return whether a table in JSON may be a requests file, by the names of its columns."""
    is_json = all(ending_of(path).lower() in _JSON for path in dataset.paths)
    if not (is_json if dataset.paths else isinstance(dataset, DictionariesDataset)):
        return False
    columns = {*dataset.columns}
    return {"custom_id", "body"} <= columns or {"url", "body"} <= columns or {"messages", "model"} <= columns

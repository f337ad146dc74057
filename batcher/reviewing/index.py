"""What filters and counts need of every row, in columns of numbers: about 22 bytes a row, and 12 a request.

Invariant: what it says of a row is what the journal had when the row was read last; rows that are not read yet are in
no count. Texts are held once, and only as many as a list of labels may have.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batcher.answer.shape import Shape
from batcher.journal.certainty import AGREEMENT, CONFIDENCE, certainties, kinds_of_certainty
from batcher.journal.looking import LONGEST_LABEL, InShort, Latest, RowReader, reason_of
from batcher.journal.schema import text_of
from batcher.records import Status

Bits = NDArray[np.bool_]

STATUSES = ("", Status.OK.value, Status.INVALID.value, Status.ERROR.value)
"""How a row can have ended, in the order of their codes; empty: it has no result yet."""
CERTAINTIES = (AGREEMENT, CONFIDENCE)
MOST_TEXTS = 5_000
"""Different answers, reasons or texts of a field that are told apart; the others are counted in none of the lists."""
_NONE, OTHER = -1, -2
"""Codes: of a row without such a text, and of a text that has no number."""
_CODE = {status: code for code, status in enumerate(STATUSES)}
_AT_ONCE = 2_000  # rows between two looks at whether to stop, or to wait for a request
_CORRECTED, _SAMPLED, _DISAGREES = 1, 2, 4  # flags


class Codes:
    """Numbers for texts."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._codes: dict[str | None, int] = {None: _NONE}

    def of(self, text: str) -> int:
        """Return the number of a text, a new one if it has none yet."""
        code = self._codes.get(text)
        if code is None:
            if len(self.texts) >= MOST_TEXTS or len(text) > LONGEST_LABEL:
                return OTHER
            code = self._codes[text] = len(self.texts)
            self.texts.append(text)
        return code

    def of_all(self, texts: Sequence[str | bytes | None]) -> list[int]:
        """Return the numbers of texts; that of None is its own."""
        codes = self._codes
        try:
            return [codes[text] for text in texts]  # type: ignore[index]
        except KeyError:
            return [_NONE if text is None else self._of_stored(text) for text in texts]

    def _of_stored(self, text: str | bytes) -> int:
        # Bytes that were cut may end within a character.
        return OTHER if isinstance(text, bytes) and len(text) > LONGEST_LABEL else self.of(text_of(text))

    def known(self, text: str) -> int | None:
        """Return the number of a text; None if it has none."""
        return self._codes.get(text)


class Sampled(NamedTuple):
    """Rows of the sample: all, and those that people have labelled otherwise than the model."""

    positions: Sequence[int] = ()
    disagreeing: Sequence[int] = ()


class Index:
    """Columns of numbers for all rows of a plan.

    Args:
        rows: of the plan.
        shape: reads the fields of answers; None: they have none.
        is_vector: the answers are embeddings, which are no labels.

    Attributes:
        rows: the same.
        done: rows that are read, from the first.
        latest: what the journal had before it was read; None until all rows are read.
        certainties: what is known of answers.
        answers, reasons: the texts of codes.
        fields: the texts of codes, by field.
    """

    def __init__(self, rows: int, shape: Shape | None = None, *, is_vector: bool = False) -> None:
        self.rows = rows
        self.done = 0
        self.latest: Latest | None = None
        self.certainties: tuple[str, ...] = ()
        self.answers, self.reasons = Codes(), Codes()
        self._shape = shape
        self._is_vector = is_vector
        self.fields = {name: Codes() for name in (shape.fields if shape else ())}
        self.status = np.zeros(rows, np.int8)
        self.result = np.zeros(rows, np.int64)
        self.answer = np.full(rows, _NONE, np.int16)
        self.reason = np.full(rows, _NONE, np.int16)
        self.of_fields = {name: np.full(rows, _NONE, np.int16) for name in self.fields}
        self.flags = np.zeros(rows, np.uint8)
        self.sure: dict[str, NDArray[np.float32]] = {}
        self.requests = RequestIndex()
        self._lock = threading.Lock()

    # -- Filling

    def build(self, reader: RowReader, sampled: Sampled, stops: Callable[[], bool]) -> bool:
        """Read all rows; return whether it came to the end, and was not stopped."""
        latest = reader.latest()
        open_ = reader.open_requests(latest.run, 0)
        lines = reader.each_in_short(**self._needs)
        while block := list(islice(lines, _AT_ONCE)):
            if stops():
                return False
            self._put(block)
            self.done = min(block[-1][0] + 1, self.rows)
        self.done = self.rows
        self.certainties = tuple(kinds_of_certainty(reader))
        for kind in self.certainties:
            values = np.full(self.rows, np.nan, np.float32)
            for position, value in certainties(reader, kind):
                if position < self.rows:
                    values[position] = value
            self.sure[kind] = values
        self.mark(sampled)
        self.requests.add(reader.each_request())
        # Each result that came during this pass belongs to one of these, or to a later request.
        self.requests.open = {*open_, *self.requests.after(latest.request)}
        self.latest = latest
        return True

    def _put(self, block: Sequence[InShort]) -> None:
        block = [line for line in block if line[0] < self.rows]
        if not block:
            return
        positions, results, statuses, answers, errors, by_hand = zip(*block, strict=True)
        columns: list[tuple[NDArray[Any], list[int]]] = [
            (self.status, [_CODE[each] for each in statuses]),
            (self.result, [each or 0 for each in results]),
            (self.reason, [_NONE if each is None else self.reasons.of(reason_of(text_of(each))) for each in errors]),
            (self.answer, [OTHER] * len(block) if self._is_vector else self.answers.of_all(answers)),
            *zip(self.of_fields.values(), self._fields_in(answers), strict=True),
        ]
        at = np.array(positions, np.int64)
        with self._lock:
            for column, codes in columns:
                column[at] = codes
            self.flags[at] = self.flags[at] & ~np.uint8(_CORRECTED) | np.array(by_hand, np.uint8) * _CORRECTED

    def _fields_in(self, answers: Sequence[str | bytes | None]) -> list[list[int]]:
        """Return the codes of the fields of answers, by field."""
        if self._shape is None or not self.fields:
            return []
        nothing = (None,) * len(self.fields)
        cells = [nothing if each is None else self._shape.cells(text_of(each)) for each in answers]
        return [
            codes.of_all(texts) for codes, texts in zip(self.fields.values(), zip(*cells, strict=True), strict=True)
        ]

    def renew(self, reader: RowReader, positions: Iterable[int]) -> None:
        """Read rows again."""
        wanted = sorted({each for each in positions if each < self.done})
        if not wanted:
            return
        self._put(reader.in_short(wanted, **self._needs))
        for kind in self.certainties or tuple(kinds_of_certainty(reader)):
            if kind not in self.sure:
                self.sure[kind] = np.full(self.rows, np.nan, np.float32)
            self.sure[kind][wanted] = np.nan
            for position, value in certainties(reader, kind, wanted):
                self.sure[kind][position] = value
        self.certainties = tuple(self.sure)

    @property
    def _needs(self) -> dict[str, bool]:
        return {"is_whole": bool(self.fields), "has_answers": not self._is_vector}

    def mark(self, sampled: Sampled) -> None:
        """Take what is in the sample."""
        with self._lock:
            self.flags &= np.uint8(_CORRECTED)
            for positions, flag in ((sampled.positions, _SAMPLED), (sampled.disagreeing, _DISAGREES)):
                at = np.array([each for each in positions if each < self.rows], np.int64)
                self.flags[at] |= np.uint8(flag)

    # -- Asking

    def has(self, flag: int) -> Bits:
        """Return which of the rows read have a flag."""
        found: Bits = np.bitwise_and(self.flags[: self.done], flag) != 0
        return found

    @property
    def corrected(self) -> Bits:
        return self.has(_CORRECTED)

    @property
    def sampled(self) -> Bits:
        return self.has(_SAMPLED)

    @property
    def disagreeing(self) -> Bits:
        return self.has(_DISAGREES)

    def below(self, kind: str, most: float) -> Bits:
        """Return which of the rows read have a certainty below a number; those without one have not."""
        values = self.sure.get(kind)
        if values is None:
            return np.zeros(self.done, np.bool_)
        found: Bits = np.less(values[: self.done], most)
        return found

    def is_in_sample(self, position: int) -> bool:
        return position < self.done and bool(self.flags[position] & _SAMPLED)

    def certainty(self, kind: str, position: int) -> float | None:
        """Return how certain the answer of a row is, to four digits; None if that is not known."""
        values = self.sure.get(kind)
        if values is None or np.isnan(values[position]):
            return None
        return float(f"{float(values[position]):.4g}")


def tallied(column: NDArray[np.int16], codes: Codes, shown: Bits | None, most: int) -> list[tuple[str, int]]:
    """Return how many rows have each text, the most frequent first.

    Args:
        column: the codes of rows.
        codes: their texts.
        shown: which rows count; None: all.
        most: texts to return.
    """
    if not codes.texts:
        return []
    counted = column if shown is None else column[shown]
    counts = np.bincount(counted[counted >= 0], minlength=len(codes.texts))
    order = np.argsort(-counts, kind="stable")[:most]
    return [(codes.texts[code], int(counts[code])) for code in order if counts[code]]


class RequestIndex:
    """Where the requests for each row are, which the journal has in the order in which they left.

    Attributes:
        last: the highest id of a request.
        open: the ids of requests that had no end when the journal was read last.
    """

    def __init__(self) -> None:
        self._ids = np.zeros(0, np.int64)
        self._positions = np.zeros(0, np.int64)
        self._later: dict[int, list[int]] = {}
        self.last = 0
        self.open: set[int] = set()

    def add(self, found: Iterator[tuple[int, int]]) -> None:
        """Take all requests; replaces those that it had."""
        pairs = np.fromiter(found, np.dtype("i8,i8"))
        order = np.argsort(pairs["f1"], kind="stable")
        self._ids, self._positions = pairs["f0"][order], pairs["f1"][order]
        self._later = {}
        self.last = int(pairs["f0"][-1]) if len(pairs) else 0

    def append(self, found: Iterable[tuple[int, int]]) -> set[int]:
        """Take further requests; return the positions of their rows."""
        positions = set()
        for number, position in found:
            self._later.setdefault(position, []).append(number)
            positions.add(position)
            self.last = max(self.last, number)
        return positions

    def after(self, number: int) -> list[int]:
        """Return the ids after one."""
        return [*map(int, self._ids[self._ids > number])]

    def at(self, position: int) -> list[int]:
        """Return the ids of the requests for the row at a position."""
        start, stop = np.searchsorted(self._positions, [position, position + 1])
        return [*map(int, self._ids[start:stop]), *self._later.get(position, ())]


def as_counts(column: NDArray[np.int8], shown: Bits | None) -> dict[str, int]:
    """Return how many rows have each status."""
    counts = np.bincount(column if shown is None else column[shown], minlength=len(STATUSES))
    return {status: int(counts[code]) for code, status in enumerate(STATUSES)}


def codes_of(texts: Iterable[str], codes: Codes) -> tuple[list[int], list[str]]:
    """Return the codes of texts, and the texts that have none."""
    found: Mapping[str, Any] = {text: codes.known(text) for text in texts}
    return [code for code in found.values() if code is not None], [text for text, code in found.items() if code is None]

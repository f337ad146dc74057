"""The marks of a row: a hash of each of its cells, by which rows are compared.

Invariant: equal cells have equal marks in every process, and marks are only compared column by column, by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from batcher.input.cell import cell, writable
from batcher.records import Values

# 64 bits: among ten million different texts, two have the same mark in one of 300,000 tables.
_MARK_BYTES = 8
_TAG_BYTES = 4
EMPTY = sha256(b"").digest()[:_MARK_BYTES]
"""The mark of an empty cell."""

# The columns from this one on share a mark, so that the marks of a very wide row take at most half a kilobyte.
_LAST_MARK = 61


class Marks:
    """Makes the marks of a table's rows: four bytes for the table's column names, then eight for each cell.

    Args:
        columns: of the table, in its order.

    Attributes:
        tag: the first four bytes of the marks of every row.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        names = "\0".join(self.columns).encode("utf-8", "surrogatepass")
        self.tag = sha256(names).digest()[:_TAG_BYTES]
        self._places = {name: min(place, _LAST_MARK) for place, name in enumerate(self.columns)}

    def of(self, values: Values) -> bytes:
        """Return the marks of a row, made from its cells as a file holds them."""
        texts = [writable(cell(value)) for value in values]
        if len(texts) > _LAST_MARK + 1:
            texts[_LAST_MARK:] = ["".join(f"{len(text)}:{text}" for text in texts[_LAST_MARK:])]
        return self.tag + b"".join([sha256(text.encode()).digest()[:_MARK_BYTES] for text in texts])

    @property
    def alone(self) -> tuple[str, ...]:
        """The columns whose mark is theirs alone."""
        return self.columns if len(self.columns) <= _LAST_MARK + 1 else self.columns[:_LAST_MARK]

    def starts(self, names: Iterable[str]) -> list[int] | None:
        """Return the offsets of the marks of columns, or None if the table lacks one of them."""
        places = [self._places.get(name) for name in names]
        known = [place for place in places if place is not None]
        return [_TAG_BYTES + _MARK_BYTES * place for place in known] if len(known) == len(places) else None

    def differing(self, before: bytes, now: bytes) -> list[str]:
        """Return the columns in which two rows of this table differ."""
        return [name for name in self.columns if self.cut(before, [name]) != self.cut(now, [name])]

    def cut(self, marks: bytes, names: Iterable[str]) -> bytes:
        """Return the marks of some columns of a row; empty if the row is of a table with other columns."""
        starts = self.starts(names) if marks.startswith(self.tag) else None
        return b"".join(marks[start : start + _MARK_BYTES] for start in starts or ())


@dataclass(frozen=True)
class Comparison:
    """Compares the rows of a plan with the rows of the last plan.

    Attributes:
        now: makes the marks of the rows.
        asked: the columns that their questions use.
        before: makes the marks of the last plan's table, or None if that plan kept no marks.
        asked_before: the columns that its questions used.
        asked_ever: the columns that any question of this keyword used.
        id_column: the column that identifies a row, if the user names one.
    """

    now: Marks
    asked: tuple[str, ...] = ()
    before: Marks | None = None
    asked_before: tuple[str, ...] = ()
    asked_ever: tuple[str, ...] = ()
    id_column: str | None = None

    @property
    def others_before(self) -> tuple[str, ...]:
        """The columns of the last plan's table that its questions did not use."""
        return tuple(name for name in self.before.columns if name not in self.asked_before) if self.before else ()

    def sql(self, names: Iterable[str]) -> str:
        """Return the SQL expression that joins the marks of some columns into one value, from a row's `cells`.

        It is NULL if the row's table lacks one of the columns, or is neither this plan's nor the last one's.
        """
        names = list(names)
        cases = []
        for tag, marks in {each.tag: each for each in (self.before, self.now) if each}.items():
            starts = marks.starts(names)
            if starts is not None:
                parts = " || ".join(f"substr(cells, {start + 1}, {_MARK_BYTES})" for start in starts) or "x''"
                cases.append(f"WHEN x'{tag.hex()}' THEN {parts}")
        return f"CASE substr(cells, 1, {_TAG_BYTES}) {' '.join(cases)} END" if cases else "NULL"

    def may_keep(self, before: bytes, now: bytes) -> bool:
        """Return whether two rows agree in the columns of every question so far, or cannot be compared."""
        made_by = self._made_by(before)
        return made_by is None or made_by.cut(before, self.asked_ever) == self.now.cut(now, self.asked_ever)

    def _made_by(self, marks: bytes | None) -> Marks | None:
        return next((each for each in (self.now, self.before) if each and (marks or b"").startswith(each.tag)), None)

    def differing(self, before: bytes | None, now: bytes) -> int:
        """Return which of the `asked` columns differ between the marks of two rows, as a bit mask in their order.

        It is 0 if they cannot be compared.
        """
        made_by, mask = self._made_by(before), 0
        for bit, name in enumerate(self.asked[: _LAST_MARK + 1]):
            had = made_by.cut(before, [name]) if made_by and before else b""
            mask |= bool(had and had != self.now.cut(now, [name])) << bit
        return mask

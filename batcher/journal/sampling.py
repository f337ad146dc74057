"""The sample to be labelled by hand: what the journal has of it, and the statements that add to it.

Invariant: a row that was drawn stays drawn, and a hand label stays recorded; a draw and the chances that it changes are
one transaction.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from batcher.input.marks import Comparison, Marks
from batcher.journal.committing import Statement
from batcher.journal.corrections import AS_ANSWERED
from batcher.journal.entries import Counts
from batcher.journal.reading import Reader
from batcher.journal.schema import (
    IN_SCOPE,
    as_output_errors,
    bound,
    bring_up_to_date,
    busy_if_read,
    connect,
    make_durable,
    raise_generation,
    text_of,
    version_of,
)
from batcher.records import Status, Stratum

RANDOM, PER_LABEL = "random", "per label"
"""The designs of a draw."""
TYPED = "keyboard"
"""The origin of a hand label that was typed."""

_AT_ONCE = 1000  # rows in memory
_LABEL = "iif(a.status = 'ok', a.answer, NULL)"


class Draw(NamedTuple):
    """A draw, as it was made; the fields are those of the table `draws`."""

    id: int
    at: float
    design: str
    rows: int
    seed: int
    strata: tuple[Stratum, ...]

    @property
    def is_per_label(self) -> bool:
        return self.design == PER_LABEL

    @property
    def population(self) -> int:
        """The rows that could be drawn."""
        return sum(each.rows for each in self.strata)


class DrawnRow(NamedTuple):
    """A row that was drawn; the fields are those of the table `drawn`."""

    id: int
    draw: int
    position: int
    key: bytes
    cells: bytes
    label: str | None
    chance: float


class Gold(NamedTuple):
    """The latest hand label of a row that was drawn; its text is empty if it was taken back.

    Attributes:
        drawn: `DrawnRow.id`.
        text: of the label.
        origin: the file that had it; `TYPED`, or `corrections.REVIEW`.
        at: when it was recorded, in seconds since the epoch; 0: it is not yet.
        who: the name of the person; empty if it is not known.
        note: what the person says about it.
    """

    drawn: int
    text: str
    origin: str
    at: float = 0.0
    who: str = ""
    note: str = ""


class RowNow(NamedTuple):
    """A row of the present plan.

    Attributes:
        position: of the row.
        key: of its question.
        cells: its marks; empty if version 1 of the journal wrote them.
        label: its answer if it is `ok`, else None.
    """

    position: int
    key: bytes
    cells: bytes
    label: str | None


class SampleReader(Reader):
    """Reads a journal with the samples in it; a row's answer is here what the model said, before any correction."""

    def draws(self) -> list[Draw]:
        """Return the draws, the first one first."""
        found = self._all("SELECT id, at, design, rows, seed, strata FROM draws ORDER BY id")
        return [
            Draw(number, at, design, rows, seed, tuple(Stratum(*each) for each in json.loads(strata)))
            for number, at, design, rows, seed, strata in found
        ]

    def drawn(self) -> list[DrawnRow]:
        """Return the rows that were drawn, in the order of the sample's file."""
        found = self._all("SELECT id, draw, position, key, coalesce(cells, x''), label, chance FROM drawn ORDER BY id")
        return [
            DrawnRow(number, draw, position, key, cells, _text(label), chance)
            for number, draw, position, key, cells, label, chance in found
        ]

    def gold(self) -> dict[int, Gold]:
        """Return the latest hand label of each row that was drawn and ever had one, by `DrawnRow.id`."""
        latest = "SELECT max(id) FROM gold GROUP BY drawn"
        found = self._all(
            f"SELECT drawn, at, gold, origin, coalesce(who, ''), coalesce(note, '') FROM gold WHERE id IN ({latest})"
        )
        return {
            drawn: Gold(drawn, text_of(text), text_of(origin), at, *map(text_of, said))
            for drawn, at, text, origin, *said in found
        }

    def earlier_gold(self) -> dict[int, set[str]]:
        """Return the hand labels that each row had before its latest one, by `DrawnRow.id`; they may be empty."""
        found = self._all("SELECT drawn, gold FROM gold WHERE id NOT IN (SELECT max(id) FROM gold GROUP BY drawn)")
        earlier: dict[int, set[str]] = {}
        for drawn, text in found:
            earlier.setdefault(drawn, set()).add(text_of(text))
        return earlier

    def last_ids(self) -> tuple[int, int]:
        """Return the highest ids of a draw and of a drawn row; 0 without one."""
        [(draw, drawn)] = self._all("SELECT (SELECT max(id) FROM draws), (SELECT max(id) FROM drawn)")
        return draw or 0, drawn or 0

    def population(
        self, columns: Sequence[str], without: Collection[bytes], *, has_labels: bool
    ) -> Iterator[tuple[bytes, int, str | None]]:
        """Read the marks, the position and the label of each row, in the order of marks and positions.

        Args:
            columns: whose marks are read.
            without: the keys of rows to leave out.
            has_labels: read the labels; else there are none.
        """
        is_whole = tuple(columns) == self._marks_now().columns
        cut = "substr(r.cells, 5)" if is_whole else self._cut(columns)
        joined = " LEFT JOIN results a ON a.id = r.result" if has_labels else ""
        return (
            (marks, position, _text(label))
            for marks, position, label in self._each(
                f"SELECT coalesce({cut}, r.key) AS mark, r.position, {_LABEL if has_labels else 'NULL'}"
                f" FROM {AS_ANSWERED} r"
                f"{joined} WHERE r.{IN_SCOPE}{_without(without)} ORDER BY mark, r.position"
            )
        )

    def size(self, without: Collection[bytes]) -> int:
        """Count the rows, without those of some keys."""
        return int(self._all(f"SELECT count(*) FROM rows r WHERE {IN_SCOPE}{_without(without)}")[0][0])

    def answered(self) -> Counts:
        """Count the rows by how they ended, before any correction."""
        ended = dict(
            self._all(
                f"SELECT a.status, count(*) FROM {AS_ANSWERED} r JOIN results a ON a.id = r.result"
                f" WHERE r.{IN_SCOPE} GROUP BY a.status"
            )
        )
        return Counts(self.scope(), *(ended.get(each.value, 0) for each in (Status.OK, Status.INVALID, Status.ERROR)))

    def answers(self, without: Collection[bytes] = (), columns: Sequence[str] = ()) -> Iterator[tuple[int, Any, bytes]]:
        """Read the position of each row, its answer or None if that is not `ok`, and the marks of some columns.

        Args:
            without: the keys of rows to leave out.
            columns: whose marks are read.
        """
        for position, label, marks in self._each(
            f"SELECT r.position, {_LABEL}, coalesce({self._cut(columns)}, x'') FROM {AS_ANSWERED} r"
            f" LEFT JOIN results a ON a.id = r.result WHERE r.{IN_SCOPE}{_without(without)} ORDER BY r.position"
        ):
            yield position, _text(label), marks

    def counted(
        self, without: Collection[bytes], columns: Sequence[str] = (), *, most: int = -1
    ) -> dict[tuple[str | None, bytes], int]:
        """Count the rows by their answers, None for rows without one that is `ok`, and the marks of some columns.

        Args:
            without: the keys of rows to leave out.
            columns: whose marks count.
            most: return at most this many of the pairs; all if negative.
        """
        found = self._all(
            f"SELECT {_LABEL} AS label, coalesce({self._cut(columns)}, x'') AS mark, count(*) FROM {AS_ANSWERED} r"
            f" LEFT JOIN results a ON a.id = r.result WHERE r.{IN_SCOPE}{_without(without)} GROUP BY 1, 2 LIMIT {most}"
        )
        return {(_text(label), mark): rows for label, mark, rows in found}

    def rows_at(self, positions: Iterable[int]) -> dict[int, RowNow]:
        """Return the rows of the present plan at some positions."""
        found = self.look_up(
            f"SELECT r.position, r.key, coalesce(r.cells, x''), {_LABEL} FROM {AS_ANSWERED} r"
            f" LEFT JOIN results a ON a.id = r.result WHERE r.{IN_SCOPE} AND r.position IN ({{}})",
            sorted({*positions}),
        )
        return {position: RowNow(position, key, cells, _text(label)) for position, key, cells, label in found}

    def tables(self) -> dict[bytes, Marks]:
        """Return what made the marks of each table that was ever asked about, by its tag."""
        made = (Marks(question["table"]) for question in self.questions() if question.get("table"))
        return {each.tag: each for each in made}

    def places(self, drawn: Sequence[DrawnRow]) -> dict[int, RowNow]:
        """Find rows that were drawn again in the present plan, by `DrawnRow.id`; those that are gone are left out.

        A row is known by its cells; rows with equal cells are taken in order. A row of which a cell has changed is
        known by its question.
        """
        cut = _Cutting(self._marks_now(), self.tables())
        at_home = self.rows_at(each.position for each in drawn)
        found: dict[int, RowNow] = {}
        for each in drawn:
            home = at_home.get(each.position)
            if home and cut.known_by(each) == cut.of(each.cells[:4], home.cells) != b"":
                found[each.id] = home
        lost = sorted((each for each in drawn if each.id not in found), key=lambda each: each.position)
        if lost:
            self._find(lost, cut, found)
        return found

    def _find(self, lost: Sequence[DrawnRow], cut: _Cutting, found: dict[int, RowNow]) -> None:
        """Look for rows that are not where they were, in order."""
        most = len(lost) + len(found)  # of equal rows, as many may be another's
        wanted = {(each.cells[:4], cut.known_by(each)): list[int]() for each in lost if cut.known_by(each)}
        tags = {tag for tag, _ in wanted}
        by_key = {each.key: list[int]() for each in lost}
        for position, key, cells in self._each(
            f"SELECT position, key, coalesce(cells, x'') FROM rows WHERE {IN_SCOPE} ORDER BY position"
        ):
            for tag in tags:
                places = wanted.get((tag, cut.of(tag, cells)))
                if places is not None and len(places) < most:
                    places.append(position)
            places = by_key.get(key)
            if places is not None and len(places) < most:
                places.append(position)
        taken = {each.position for each in found.values()}
        chosen: dict[int, int] = {}
        for kind in ("cells", "key"):
            for each in lost:
                own = wanted.get((each.cells[:4], cut.known_by(each))) if kind == "cells" else by_key[each.key]
                place = next((each for each in own or () if each not in taken), None)
                if each.id not in chosen and place is not None:
                    taken.add(place)
                    chosen[each.id] = place
        rows = self.rows_at(chosen.values())
        found |= {number: rows[place] for number, place in chosen.items()}

    def _cut(self, columns: Sequence[str]) -> str:
        """Return the SQL expression of the marks of some columns of a row."""
        return f"CAST({Comparison(self._marks_now()).sql(columns)} AS BLOB)" if columns else "x''"

    def _marks_now(self) -> Marks:
        last = self.last_run()
        return Marks((last.question if last else {}).get("table", ()))

    def _each(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Read the lines that a query finds, a few at a time."""
        with self._asking():
            cursor = self._reader.execute(query)
        with closing(cursor):
            while True:
                with self._asking():
                    lines = cursor.fetchmany(_AT_ONCE)
                if not lines:
                    return
                yield from lines


class _Cutting:
    """Cuts what two tables have in common out of marks.

    Args:
        now: makes the marks of the present table.
        tables: make those of all tables.
    """

    def __init__(self, now: Marks, tables: Mapping[bytes, Marks]) -> None:
        self._now = now
        self._tables = tables
        self._common: dict[bytes, list[str]] = {}

    def known_by(self, row: DrawnRow) -> bytes:
        """Return the marks by which a drawn row is known; empty if its table has nothing in common with the present."""
        if row.cells[:4] == self._now.tag:
            return row.cells
        made_by = self._tables.get(row.cells[:4])
        return made_by.cut(row.cells, self._names(made_by)) if made_by else b""

    def of(self, tag: bytes, cells: bytes) -> bytes:
        """Return the same marks of a present row, for a drawn row whose table has this tag."""
        if tag == self._now.tag:
            return cells
        made_by = self._tables.get(tag)
        return self._now.cut(cells, self._names(made_by)) if made_by else b""

    def _names(self, table: Marks) -> list[str]:
        if table.tag not in self._common:
            shared = {*self._now.alone} & {*table.alone}
            self._common[table.tag] = [name for name in table.columns if name in shared]
        return self._common[table.tag]


def chances_of_labelled(
    draws: Sequence[Draw], drawn: Sequence[DrawnRow], here: Collection[int], labelled: Collection[int]
) -> dict[int, float]:
    """Return the chance of each row to be drawn and labelled by hand, by `DrawnRow.id`.

    People label a file from its top, and the rows of a later draw stand below those of an earlier one. So each draw has
    its own share of labelled rows, and a row had its chance in parts: that of the first draw, and with each later one
    what it had there more.

    Args:
        draws: all of them.
        drawn: the rows of all.
        here: the ids of those that are in the table.
        labelled: of these, the ids of those with a hand label.
    """
    shares = []
    for each in draws:
        own = [row.id for row in drawn if row.draw == each.id and row.id in here]
        shares.append(sum(number in labelled for number in own) / len(own) if own else 1.0)
    by_stratum = [{stratum.label: stratum.chance for stratum in each.strata} for each in draws]
    whole = len(labelled) / len(here) if here else 1.0

    def share(label: str | None) -> float:
        reached = have = 0.0
        for each, chances, part in zip(draws, by_stratum, shares, strict=True):
            more = max(chances.get(label if each.is_per_label else None, 0.0) - reached, 0.0)
            reached, have = reached + more, have + more * part
        return have / reached if reached else whole

    of_label = {label: share(label) for label in {row.label for row in drawn}}
    return {row.id: row.chance * of_label[row.label] for row in drawn}


def _without(keys: Collection[bytes]) -> str:
    values = ", ".join(f"x'{each.hex()}'" for each in keys)
    return f" AND r.key NOT IN ({values})" if values else ""


def _text(value: Any) -> str | None:
    return None if value is None else text_of(value)


# -- Writing


def drawing(draw: Draw, rows: Iterable[DrawnRow], now: Iterable[DrawnRow]) -> Iterator[Statement]:
    """Yield the statements that record a draw.

    Args:
        draw: what was asked, and what it took.
        rows: those that no earlier draw had.
        now: those that one had, with their present labels and chances.
    """
    strata = json.dumps(draw.strata, ensure_ascii=True)
    yield (
        "INSERT INTO draws (id, at, design, rows, seed, strata) VALUES (?, ?, ?, ?, ?, ?)",
        (draw.id, draw.at, draw.design, draw.rows, draw.seed, strata),
    )
    for each in rows:
        label = None if each.label is None else bound(each.label)
        yield (
            "INSERT INTO drawn (id, draw, position, key, cells, label, chance) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (each.id, each.draw, each.position, each.key, each.cells, label, each.chance),
        )
    for each in now:
        label = None if each.label is None else bound(each.label)
        yield "UPDATE drawn SET label = ?, chance = ? WHERE id = ?", (label, each.chance, each.id)


def labelling(golds: Iterable[Gold]) -> Iterator[Statement]:
    """Yield the statements that record hand labels."""
    at = time.time()
    for each in golds:
        said = (bound(text) if text else None for text in (each.who, each.note))
        values = (each.drawn, at, bound(each.text), bound(each.origin), *said)
        yield "INSERT INTO gold (drawn, at, gold, origin, who, note) VALUES (?, ?, ?, ?, ?, ?)", values


def record(path: Path, statements: Iterable[Statement]) -> None:
    """Write statements into a journal that is open to be read alone, all or none; read nothing from it afterwards.

    Args:
        path: of the journal, in any version.
        statements: those of `drawing` and `labelling`.

    Raises:
        OutputError: it cannot be written.
    """
    with as_output_errors(path, "written"), closing(connect(path, "mode=rw")) as db, busy_if_read(path):
        make_durable(db)
        bring_up_to_date(db, version_of(db, path))
        db.execute("BEGIN IMMEDIATE")
        raise_generation(db)
        for statement, values in statements:
            db.execute(statement, values)
        db.execute("COMMIT")

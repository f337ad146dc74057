"""The labels that people wrote into the file of a sample, or into a copy of it, and that the journal does not have yet.

Invariant: it only reads; a file is read as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from batcher.answer.gold import Golds, examples_in, gold_of, is_known
from batcher.answer.shape import shape_of_recorded
from batcher.input.dataset import Dataset
from batcher.journal.corrections import REVIEW
from batcher.journal.entries import LastRun
from batcher.journal.sampling import TYPED, DrawnRow, Gold, RowNow, SampleReader
from batcher.output.cells_at import cells_at
from batcher.output.directory import Store
from batcher.output.sample_file import Found, Line, SampleFile

_AT_A_DESK = frozenset({REVIEW, TYPED})
"""The origins of labels that were given row by row, and not in a file."""


class Source(NamedTuple):
    """What a file says, and its path."""

    found: Found
    path: Path


class HandLabels:
    """Reads what people label by hand.

    Args:
        store: the files of the run.
        journal: of the run.
        last: the run.
        data: the input, if the user gave it.

    Attributes:
        golds: reads a label.
        file: reads and writes the sample's file.
        without: the keys of rows that no sample has.
        older: rows of which `changes` has left a label out, because it is older than the journal's, and its file.
    """

    def __init__(self, store: Store, journal: SampleReader, last: LastRun, data: Dataset | None = None) -> None:
        self._store, self._journal, self._last, self._data = store, journal, last, data
        recorded, column = last.question.get("shape"), gold_of(last.question)
        self.golds = Golds(None if recorded is None else shape_of_recorded(recorded))
        self.table = tuple(last.question.get("table", ()))
        self.file = SampleFile(self.table, self.golds, column["column"] if column else None)
        self.without = examples_in(last.question)
        self.older: dict[int, Path] = {}

    def places(self, drawn: Sequence[DrawnRow]) -> dict[int, RowNow]:
        """Return where rows that were drawn are now, but for those that a sample must not have any more."""
        found = self._journal.places(drawn)
        return {number: row for number, row in found.items() if row.key not in self.without}

    def lines(self, drawn: Sequence[DrawnRow], places: Mapping[int, RowNow]) -> dict[int, Line]:
        """Return the rows of the sample with their cells, as far as these are known.

        Raises:
            InputError: the given input is not the run's.
        """
        planned = {row.position: row.cells for row in places.values()}
        cells = cells_at(self._store, self._journal, self._last, planned, self._data)
        tables = self._journal.tables()
        return {
            each.id: Line(
                each.id,
                cells.get(places[each.id].position) if each.id in places else None,
                each.cells,
                tables.get(each.cells[:4]),
                is_gone=each.id not in places,
            )
            for each in drawn
        }

    def own(self, lines: Mapping[int, Line]) -> Source | None:
        """Read the file of the sample; return None if there is none.

        Raises:
            OutputError: it cannot be read.
        """
        path = self._store.sample_path
        return Source(self.file.read(path, lines), path) if path.exists() else None

    def changes(self, sources: Sequence[Source], gold: Mapping[int, Gold]) -> list[Gold]:
        """Return the hand labels that files add to those of the journal; where they differ, the last file counts.

        A label that was given on the page or in a terminal stays if a file has what the row had before it: the file is
        an older copy. `older` then has the row.
        """
        own, changes = self._store.sample_path, dict[int, Gold]()
        earlier = self._journal.earlier_gold() if any(each.origin in _AT_A_DESK for each in gold.values()) else {}
        self.older.clear()
        for found, path in sources:
            origin = path.name if path == own or path.name != own.name else f"{path.absolute().parent.name}/{path.name}"
            for number, texts in found.gold.items():
                before = changes.get(number) or gold.get(number) or Gold(number, "", "")
                if path == own and before.origin != own.name and path.stat().st_mtime < before.at:
                    continue  # it was to be written again with that label, and was not
                had = earlier.get(number, ()) if before.origin in _AT_A_DESK else ()
                new = self._without_older(texts, had)
                if len(new) < len(texts) and self._after(before, texts, is_own=path == own) != before.text:
                    self.older[number] = path
                text = self._after(before, new, is_own=path == own)
                if text != before.text:
                    changes[number] = Gold(number, text, origin, note=before.note)
        return [*changes.values()]

    def _without_older(self, texts: Mapping[str, str], earlier: Iterable[str]) -> dict[str, str]:
        """Return the texts of a line without those that the row has had before, by field."""
        had = [self.by_field(each) for each in earlier]
        return {name: text for name, text in texts.items() if not any(each.get(name) == text for each in had)}

    def unread(self, drawn: Sequence[DrawnRow], places: Mapping[int, RowNow], gold: Mapping[int, Gold]) -> list[Gold]:
        """Return the hand labels that people wrote into the file of the sample since it was read.

        Raises:
            InputError, OutputError: it cannot be read.
        """
        if self.is_read(gold):
            return []
        own = self.own(self.lines(drawn, places))
        return [] if own is None else self.changes([own], gold)

    def is_read(self, gold: Mapping[int, Gold]) -> bool:
        """Return whether the file of the sample, if there is one, has the hand labels of the journal, and no others."""
        there = self.file.as_written(self._store.sample_path)
        had = {number: self.by_field(each.text) for number, each in gold.items() if each.text}
        return there is None or {number: texts for number, texts in there.items() if texts} == {
            number: texts for number, texts in had.items() if number in there
        }

    def by_field(self, gold: str) -> dict[str, str]:
        """Return the hand label of a row as a file has it: of a schema by field, else under ""."""
        if not self.golds.fields:
            return {"": gold} if gold else {}
        found = {name: Golds.of_field(gold, name) for name in self.golds.fields}
        return {name: text for name, text in found.items() if text}

    def _after(self, before: Gold, texts: Mapping[str, str], *, is_own: bool) -> str:
        """Return the hand label of a row after a file was read.

        A `?` takes a label back, and so does an empty cell of the sample's own file, if the label was read there: an
        older copy of the file takes back none that came from elsewhere.
        """
        had = self.by_field(before.text)
        for field, text in texts.items():
            if is_known(text):
                had[field] = text
            elif text == "?" or (is_own and before.origin == self._store.sample_path.name):
                had.pop(field, None)
        return self.golds.joined(had) if self.golds.fields else had.get("", "")

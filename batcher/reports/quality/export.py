"""`--export`: the whole table with a pseudo-outcome for each label, of which regressions and means are right.

Invariant: the mean of a pseudo-outcome over the table is the difference estimator of its label's share. A chunk is the
most in memory, beside the rows that were drawn.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from batcher.answer.kinds import Kind as Column
from batcher.errors import OutputError, SettingsError
from batcher.journal.sampling import SampleReader
from batcher.output.directory import Store
from batcher.output.exporting import Added, Wider, check_target, export
from batcher.output.file_format import Block
from batcher.output.opening import PastRun
from batcher.output.so_far import SoFar, input_of
from batcher.reports.quality.estimated import Estimate, Kind
from batcher.reports.quality.labelled import COLUMN, GoldRow, Labelled, LabelledRun
from batcher.reports.quality.numeric import number_of
from batcher.words import as_given, counted

PSEUDO = "pseudo"


class Exported(NamedTuple):
    """What was written: the file, and what to know about it."""

    path: Path
    notes: tuple[str, ...]


class Exporting:
    """Writes the table of a run with its pseudo-outcomes.

    For a label k and a row i with the model's label, and the hand label if it was drawn, the pseudo-outcome is
    ``[model is k] + ([hand is k] - [model is k]) * drawn / chance``. Its expectation over draws is ``[hand is k]`` for
    every row, whatever mistakes the model makes; so a regression on it is that on the right labels, without bias
    (Egami, Hinck, Stewart and Wei 2023, "Using imperfect surrogates for downstream inference"). The sum of the formula
    over the table is the difference estimator (Särndal, Swensson and Wretman 1992, section 6.3).

    Args:
        run: of which the table is.
        reads: its labels.
        found: the rows with a hand label.
        estimate: of the run.
    """

    def __init__(self, run: PastRun[SampleReader], reads: LabelledRun, found: Labelled, estimate: Estimate) -> None:
        self._run = run
        self._reads = reads
        self._found = found
        self._estimate = estimate
        self._labels = [each.label for each in estimate.labels]
        self._is_number = estimate.kind is Kind.NUMBERS
        self._chances = _chances(found)
        self._usual = 0.0
        self._usual_cells: dict[str | None, list[str]] = {}
        self._never = 0

    def write(self, path: Path) -> Exported:
        """Write the table.

        Raises:
            SettingsError: the file may not be written, there is nothing that a pseudo-outcome could be made of.
            OutputError: cells of the input are in no file, or the disk is full.
        """
        self._check()
        last = self._run.last()
        dataset = input_of(last.question) if self._estimate.left else None
        so_far = SoFar(self._run.store, self._run.journal, last, dataset)
        added, renamed = self._added(so_far.store)
        check_target(path, [each.name for each in added[:3]])
        if self._is_number:
            self._usual = _mean(self._reads)
        with (
            closing(self._reads.answers()) as labels,
            closing(self._reads.gold_rows(self._found)) as golds,
            closing(self._rows(so_far, labels, _Golds(golds))) as rows,
        ):
            export(path, so_far.store, added, rows)
        return Exported(path, tuple(self._notes(renamed)))

    def _check(self) -> None:
        where, kind = as_given("export"), self._found.kind
        if self._estimate.kind is Kind.TEXT:
            raise SettingsError(f"{where}: the answers are free text, and a pseudo-outcome is of labels or of numbers")
        if not self._found.gold:
            steps = "; then ".join(self._estimate.steps)
            raise SettingsError(f"{where}: a pseudo-outcome is made of hand labels, and there are none: {steps}")
        if kind == "unknown":
            raise SettingsError(
                f"{where}: a pseudo-outcome needs the chance of each row to be labelled by hand, and how the rows of"
                f" column {self._found.column!r} were chosen is not known"
            )

    def _added(self, store: Store) -> tuple[list[Added], list[str]]:
        """Return the further columns, and the names of those that have another name because the table has theirs."""
        gold = Column.NUMBER if self._is_number else Column.TEXT
        names = [("gold", gold), ("drawn", Column.INTEGER), ("chance", Column.NUMBER)]
        pseudo = [PSEUDO] if self._is_number else [f"{PSEUDO}_{label}" for label in self._labels]
        names += [(name, Column.NUMBER) for name in pseudo]
        taken, prefix = {*store.all_columns}, store.answer_columns.answer
        made = [Added(f"{prefix}_{name}" if name in taken else name, kind) for name, kind in names]
        if twin := next((each.name for each in made if each.name in taken), None):
            raise SettingsError(f"{as_given('export')}: the table has a column {twin!r} already")
        return made, [each.name for each, (name, _) in zip(made, names, strict=True) if each.name != name]

    def _rows(
        self, so_far: SoFar, labels: Iterator[tuple[int, str | None]], golds: _Golds
    ) -> Generator[Wider, None, None]:
        """Yield the rows, chunk by chunk.

        Args:
            so_far: their cells.
            labels: the position and the model's label of each row that counts, in order.
            golds: the rows with a hand label.
        """
        upcoming = next(labels, None)
        for part in so_far.parts():
            if part.inputs is None:
                raise OutputError(
                    f"{as_given('export')}: the cells of row {part.start} are in no file yet: finish the run first"
                )
            more = []
            for position in range(part.start, part.start + len(part.answers)):
                if upcoming is None or upcoming[0] != position:  # it asks what an example in the prompt asks
                    more.append(["", "0", "", *[""] * (1 if self._is_number else len(self._labels))])
                    continue
                more.append(self._cells(upcoming[1], golds.at(position)))
                upcoming = next(labels, None)
            yield Wider(Block(part.inputs, part.values, part.answers), more)

    def _cells(self, label: str | None, row: GoldRow | None) -> list[str]:
        """Return the further cells of a row."""
        is_any_text = self._estimate.kind is Kind.LABELS and not self._found.labels
        if is_any_text and label is not None:
            label = label.strip()
        if row is None and (chance := self._chance(label)) is None:
            self._never += 1
        if row is not None:
            gold = row.gold.strip() if is_any_text else row.gold
            return self._made(label, gold, row.chance or 1.0)
        if self._is_number:
            return self._made(label, None, chance)
        if label not in self._usual_cells:  # most rows are like others
            self._usual_cells[label] = self._made(label, None, chance)
        return self._usual_cells[label]

    def _made(self, label: str | None, gold: str | None, chance: float | None) -> list[str]:
        if self._is_number:
            own, right = number_of(label), number_of(gold)
            outcomes = [_pseudo(self._usual if own is None else own, right, chance)]
        else:
            rights = [None if gold is None else float(gold == each) for each in self._labels]
            outcomes = [
                _pseudo(float(label == each), right, chance) for each, right in zip(self._labels, rights, strict=True)
            ]
        written = "" if chance is None else repr(chance)
        return [gold or "", str(int(gold is not None)), written, *map(_text, outcomes)]

    def _chance(self, label: str | None) -> float | None:
        """Return the chance of a row without a hand label to have one."""
        if self._found.source == COLUMN:
            return self._found.chance
        return self._chances.get(label if self._found.kind == "per label" else None)

    def _notes(self, renamed: Sequence[str]) -> Iterator[str]:
        if self._never:
            rows = counted(self._never, "row", "rows")
            yield f"{rows} of the export could not be drawn: their pseudo-outcome is what the model says, uncorrected"
        if renamed:
            yield f"the table has columns of these names, so the export's are {', '.join(map(repr, renamed))}"


class _Golds:
    """The rows with a hand label, by position, which only rises."""

    def __init__(self, rows: Iterator[GoldRow]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def at(self, position: int) -> GoldRow | None:
        while self._next is not None and self._next.position < position:
            self._next = next(self._rows, None)
        return self._next if self._next is not None and self._next.position == position else None


def _chances(found: Labelled) -> dict[str | None, float]:
    """Return the chance of a row by its label; of a draw from all rows under None."""
    by_label: dict[str | None, float] = {}
    for each in found.sampled:
        if each.chance is not None:
            by_label[each.label if found.kind == "per label" else None] = each.chance
    return by_label


def _pseudo(own: float, right: float | None, chance: float | None) -> float:
    return own if right is None or not chance else own + (right - own) / chance


def _text(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)


def _mean(reads: LabelledRun) -> float:
    """Return the mean of the model's numbers: what stands for a row without one."""
    total, rows = 0.0, 0
    for _, answer in reads.answers():
        if (number := number_of(answer)) is not None:
            total, rows = total + number, rows + 1
    return total / rows if rows else 0.0


def default_path(store: Store) -> Path:
    """Return the path of an export that has no name."""
    return store.directory / f"export_{store.keyword}.csv"

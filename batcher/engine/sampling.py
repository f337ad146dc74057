"""`sample`: draws rows to be labelled by hand, and reads the labels that people gave.

Invariant: what people wrote into a sample's file is in the journal before the file is written again; no other process
works on the keyword meanwhile, and nothing is recorded unless all of it is.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from batcher.answer.gold import is_known
from batcher.checks import check_whole
from batcher.errors import InputError, OutputError, SettingsError, outermost
from batcher.input.marks import Marks
from batcher.journal.opening import read_samples
from batcher.journal.sampling import (
    PER_LABEL,
    RANDOM,
    Draw,
    DrawnRow,
    Gold,
    RowNow,
    SampleReader,
    drawing,
    labelling,
    record,
)
from batcher.output.csv_file import replace as replaced
from batcher.output.directory import Store, set_aside
from batcher.output.hand_labels import HandLabels, Source
from batcher.output.opening import PastRun, opened
from batcher.output.sample_file import Found, Line
from batcher.output.so_far import input_of
from batcher.quality.drawing import Candidate, Numbers, chance_in, draw
from batcher.records import Stratum, Task
from batcher.settings import home_expanded
from batcher.shards import Part
from batcher.tables import Described
from batcher.tables import Line as Shown
from batcher.words import as_given, by_reader, counted, option

if TYPE_CHECKING:
    from batcher.input.opening import Data

_MOST_SHOWN = 20  # labels in a table


@dataclass(frozen=True)
class Sample(Described):
    """A sample of a run's rows, which people label by hand.

    Attributes:
        keyword: of the run.
        path: of the file with the rows.
        rows: that were drawn and are in the table.
        new: of them, those that this call has drawn.
        labelled: of them, those with a hand label.
        read: hand labels that this call has read, and that the journal did not have.
        taken_back: hand labels that this call has taken back.
        gone: rows that were drawn and are in the table no more.
        seed: of the draws.
        population: the rows that could be drawn.
        strata: of the latest draw: the model's label, rows, and how many of them were drawn.
        notes: what else to know.
    """

    keyword: str
    path: Path
    rows: int
    new: int
    labelled: int
    read: int
    taken_back: int
    gone: int
    seed: int
    population: int
    strata: tuple[Stratum, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def waiting(self) -> int:
        """Rows without a hand label."""
        return self.rows - self.labelled

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dictionary that JSON can hold."""
        names = ("keyword", "rows", "new", "labelled", "waiting", "read", "taken_back", "gone", "seed", "population")
        strata = [{"label": each.label, "rows": each.rows, "drawn": each.drawn} for each in self.strata]
        values = {name: getattr(self, name) for name in names}
        return {**values, "path": str(self.path), "strata": strata, "notes": [*self.notes]}

    def _title(self) -> str:
        return f"{self.keyword}: a sample of {counted(self.rows, 'row')}, drawn from {self.population:,}"

    def _lines(self) -> Iterator[Shown]:
        yield Shown("file", str(self.path))
        yield Shown("labelled", f"{self.labelled:,} by hand, {self.waiting:,} to do")
        if self.new:
            yield Shown("drawn", f"{self.new:,} now (seed {self.seed})")
        if self.read or self.taken_back:
            back = f", {self.taken_back:,} taken back" if self.taken_back else ""
            yield Shown("read", counted(self.read, "new hand label") + back)
        if len(self.strata) > 1:
            for number, each in enumerate(self.strata[:_MOST_SHOWN]):
                name = "(no label)" if each.label is None else each.label
                yield Shown("" if number else "of each", f"{name}: {each.drawn:,} of {each.rows:,}", is_part=number > 0)
            if (rest := len(self.strata) - _MOST_SHOWN) > 0:
                yield Shown("", f"and {counted(rest, 'other label')}", is_part=True)
        for note in self.notes:
            yield Shown("note", note)


@outermost
def sample(
    keyword: str,
    n: int | None = None,
    *,
    per_label: bool = False,
    seed: int | None = None,
    read: str | os.PathLike[str] | None = None,
    data: Data | None = None,
    output_dir: str | os.PathLike[str] = "output",
) -> Sample:
    """Draw rows at random to be labelled by hand, and read the labels that people gave.

    The rows are in `sample_<keyword>.csv`, in random order and without the model's answers, with an empty column `gold`
    (of a schema one for each field). Whatever people have written there is read first, and stays.

    Args:
        keyword: names the run.
        n: rows of the sample; a larger number later adds rows. Without it, nothing is drawn.
        per_label: draw `n` rows of each label of the model, and of the rows without a label.
        seed: decides, with the keyword and the rows, which ones are drawn; default: 0, or that of the first draw.
        read: a file to read hand labels from: a sample's file, as a spreadsheet saved it (CSV, or .xlsx).
        data: the run's input, if it is not where it was, or was in memory.
        output_dir: the run's output directory.

    Raises:
        SettingsError: an option cannot be used, such as another seed than that of the first draw.
        InputError: the input is not the run's.
        OutputError: there is no run, or a file cannot be read: a line is another row than it says, or a hand label
            cannot be an answer. Nothing is recorded then.
        KeywordBusy: a run is at work.
    """
    if n is not None:
        check_whole(n, by_reader(command_line="-n", python="n"))
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
        raise SettingsError(f"{as_given('seed')} must be a whole number from 0")
    if per_label and n is None:
        raise SettingsError(f"{_flag('per_label')} says how rows are drawn: give {_flag('n')}, too")
    with opened(keyword, output_dir, functools.partial(read_samples, alone=True)) as run:
        return _Sampling(run, data).work(n, per_label=per_label, seed=seed, read=read)


def _flag(name: str) -> str:
    return by_reader(
        command_line="-n" if name == "n" else f"--{name.replace('_', '-')}", python="n" if name == "n" else f"{name}="
    )


def write_file(
    store: Store,
    hand: HandLabels,
    lines: Mapping[int, Line],
    gold: Mapping[int, Gold],
    *,
    own: Found | None,
    encoding: str,
) -> list[str]:
    """Write the file of a sample, unless it holds the same rows and hand labels already; return what to know about it.

    Args:
        store: the files of the run.
        hand: knows the columns.
        lines: the rows of the sample.
        gold: their hand labels.
        own: what the file there says, which the journal has by now; None: there is none.
        encoding: of the file.

    Raises:
        OutputError: it cannot be written.
    """
    path, shown = store.sample_path, [each for each in lines.values() if not each.is_gone]
    labels = {each.id: hand.by_field(gold[each.id].text) if each.id in gold else {} for each in shown}
    if any(each.cells is None for each in shown):
        return [f"{path.name} is not written again, because the input is not where it was"]
    notes = []
    if own is not None:
        there = {
            number: {name: text for name, text in texts.items() if is_known(text)} for number, texts in own.gold.items()
        }
        if there.keys() >= labels.keys() and all(there[number] == own for number, own in labels.items()):
            return []
        if own.more:
            copy = set_aside(path)
            notes.append(f"your file, with column {', '.join(map(repr, own.more))}, is kept as {copy}")
    content = hand.file.content(shown, labels, encoding)
    replaced(path, lambda file: file.write(content))
    return notes


def notes_on_older(hand: HandLabels) -> list[str]:
    """Return what to know about labels in files that are older than those of the journal."""
    if not hand.older:
        return []
    number, path = next(iter(hand.older.items()))
    rows = counted(len(hand.older), "row has", "rows have")
    said = f"{rows} a label in {path.name} that is older than the one given on the page or in a terminal"
    return [f"{said}, such as row {number}: the newer one stays. To go back, label the row there again"]


class _Now(NamedTuple):
    """The sample as it will be.

    Attributes:
        drawn: all rows that were ever drawn.
        places: where those are that are in the table, by `DrawnRow.id`.
        draws: all draws.
        new: rows of the latest draw that no earlier one had.
    """

    drawn: list[DrawnRow]
    places: dict[int, RowNow]
    draws: list[Draw]
    new: list[DrawnRow]


class _Sampling:
    """Draws and reads the sample of a run, whose journal no other process writes meanwhile."""

    def __init__(self, run: PastRun[SampleReader], data: Data | None) -> None:
        self._store, self._journal, self._last = run.store, run.journal, run.last()
        question = self._last.question
        if question.get("task") == Task.EMBEDDING:
            raise SettingsError(
                f"the answers of {self._store.keyword!r} are vectors, which cannot be labelled by hand: sample a run"
                " whose answers are texts"
            )
        if not question.get("table"):
            raise OutputError(
                f"{self._store.journal_path} was written by an older batcher: run its command once, which asks nothing"
                " anew"
            )
        given = None if data is None else input_of(question, data)
        self._hand = HandLabels(self._store, self._journal, self._last, given)
        self._notes: list[str] = []

    def work(self, n: int | None, *, per_label: bool, seed: int | None, read: str | os.PathLike[str] | None) -> Sample:
        """Do all that is asked."""
        draws, drawn = self._journal.draws(), self._journal.drawn()
        if n is None and not draws:
            raise SettingsError(f"no sample of {self._store.keyword!r} was drawn yet: give {_flag('n')}")
        places = self._hand.places(drawn)
        now = _Now(drawn, places, draws, [])
        if n is not None:
            now = self._draw(now, n, per_label=per_label, seed=seed)
        elif seed is not None:
            self._check_seed(draws, seed)
        lines, gold = self._lines(now), self._journal.gold()
        sources = self._read(read, lines)
        changes = self._hand.changes(sources, gold)
        after = gold | {each.drawn: each for each in changes}
        statements = [*labelling(changes)]
        if len(now.draws) > len(draws):
            statements = [
                *drawing(now.draws[-1], now.new, [each for each in now.drawn if each.id in places]),
                *statements,
            ]
        if statements:
            record(self._store.journal_path, statements)
        own = next((each.found for each in sources if each.path == self._store.sample_path), None)
        encoding = self._last.question.get("encoding", "utf-8")
        self._notes += notes_on_older(self._hand)
        self._notes += write_file(self._store, self._hand, lines, after, own=own, encoding=encoding)
        return self._sample(now, gold, changes, after)

    # -- Drawing

    def _check_seed(self, draws: list[Draw], seed: int | None) -> int:
        if not draws:
            return seed or 0
        if seed is not None and seed != draws[0].seed:
            raise SettingsError(
                f"the sample was drawn with {option('seed', draws[0].seed)}, and a larger one holds it only with the"
                " same: leave the option out"
            )
        return draws[0].seed

    def _draw(self, now: _Now, n: int, *, per_label: bool, seed: int | None) -> _Now:
        """Draw rows; return the sample with them."""
        seed = self._check_seed(now.draws, seed)
        if per_label and not self._hand.golds.labels:
            raise SettingsError(
                f"{_flag('per_label')}: the run {self._store.keyword!r} has no list of labels: leave it out"
            )
        rows = self._journal.population(self._columns(now.drawn), self._hand.without, has_labels=per_label)
        took = draw(Numbers(self._store.keyword, seed).each(rows, per_label=per_label), n)
        if not took.rows:
            raise OutputError(f"the run {self._store.keyword!r} has no rows that could be drawn")
        last_draw, last_row = self._journal.last_ids()
        design = PER_LABEL if per_label else RANDOM
        made = Draw(last_draw + 1, time.time(), design, n, seed, tuple(took.strata))
        self._note_population()
        if now.draws and (now.draws[-1].design, now.draws[-1].strata) == (made.design, made.strata):
            self._notes.append("the sample has these rows already")
            return now
        chances = {each.label: each.chance for each in took.strata}

        def known(row: DrawnRow) -> DrawnRow:
            place = now.places.get(row.id)
            if place is None:
                return row
            own = place.label if per_label else None
            return row._replace(label=self._label(place), chance=max(row.chance, chances.get(own, 0.0)))

        drawn = [known(each) for each in now.drawn]
        added, places = self._added(took.rows, now, made, last_row)
        return _Now([*drawn, *added], {**now.places, **places}, [*now.draws, made], added)

    def _added(
        self, rows: Iterable[Candidate], now: _Now, made: Draw, last_row: int
    ) -> tuple[list[DrawnRow], dict[int, RowNow]]:
        """Return the rows of a draw that no earlier one has, in the order of the file, and where they are."""
        taken = {each.position for each in now.places.values()}
        numbers = Numbers(self._store.keyword, made.seed)
        new = sorted(
            (each for each in rows if each.position not in taken), key=lambda each: numbers.order(each.position)
        )
        at = self._journal.rows_at(each.position for each in new)
        added, places = [], {}
        for number, each in enumerate(new, last_row + 1):
            row = at[each.position]
            earlier = (
                chance_in(before.strata, each.number, row.label if before.is_per_label else None)
                for before in now.draws
            )
            own = next(stratum.chance for stratum in made.strata if stratum.label == each.label)
            chance = max([own, *earlier])
            added.append(DrawnRow(number, made.id, row.position, row.key, row.cells, self._label(row), chance))
            places[number] = row
        return added, places

    def _label(self, row: RowNow) -> str | None:
        return row.label if self._hand.golds.labels else None

    def _columns(self, drawn: list[DrawnRow]) -> tuple[str, ...]:
        """Return the columns whose cells decide about a row: those of the table at the first draw.

        Raises:
            OutputError: the table lacks one of them.
        """
        now = Marks(self._hand.table)
        if not drawn or drawn[0].cells[:4] in {now.tag, b""}:
            return self._hand.table
        first = self._journal.tables().get(drawn[0].cells[:4])
        lost = [name for name in first.columns if name not in now.alone or name not in first.alone] if first else [""]
        if first is None or lost:
            raise OutputError(
                f"the table has no column {lost[0]!r} any more, which decided with the others which rows were drawn, so"
                " that a larger sample would not hold the present one: put the column back and run again, which asks"
                " nothing anew if the prompt does not use it"
            )
        return first.columns

    def _note_population(self) -> None:
        """Say what the rows are that are drawn from."""
        journal, question = self._journal, self._last.question
        if left := journal.left():
            self._notes.append(
                f"{counted(left, 'row has', 'rows have')} no result yet, and {'counts' if left == 1 else 'count'} as"
                " without a label: draw again with the same number when the run is done"
            )
        if question.get("limit") is not None or question.get("sample"):
            how = option("limit") if question.get("limit") is not None else option("sample")
            self._notes.append(f"drawn from the {counted(journal.scope(), 'row')} of the run ({how}), not from all")
        if question.get("shard"):
            said = f"drawn from {Part.recorded_in(question['shard']).in_words()}, and not from the others"
            self._notes.append(f"{said}: a shard with a sample of its own cannot be merged")
        if examples := journal.scope() - journal.size(self._hand.without):
            asks = counted(examples, "row asks", "rows ask")
            self._notes.append(f"{asks} what an example in the prompt asks, and cannot be drawn")

    # -- The files

    def _lines(self, now: _Now) -> dict[int, Line]:
        """Return the rows of the sample with their cells.

        Raises:
            InputError: there are new rows, and the cells of some are not to be had.
        """
        lines = self._hand.lines(now.drawn, now.places)
        missing = sum(1 for each in lines.values() if each.cells is None and not each.is_gone)
        if missing and now.new:
            those = counted(missing, "row of the sample", "rows of the sample")
            raise InputError(
                f"the cells of {those} cannot be read: the input is not where it was, or has changed, and no chunk file"
                f" has them: give the input {by_reader(command_line='as a second argument', python='as data=')}, or run"
                " again"
            )
        return lines

    def _read(self, read: str | os.PathLike[str] | None, lines: Mapping[int, Line]) -> list[Source]:
        """Read the file of the sample, and the file that the user gives."""
        given = None if read is None else Path(home_expanded(read))
        if given is not None and not given.exists():
            raise OutputError(f"{given}: there is no such file")
        own = self._hand.own(lines)
        sources = [] if own is None else [own]
        if given is not None and (own is None or given.resolve() != own.path.resolve()):
            sources.append(Source(self._hand.file.read(given, lines), given))
        return sources

    # -- What is said

    def _sample(self, now: _Now, gold: Mapping[int, Gold], changes: list[Gold], after: Mapping[int, Gold]) -> Sample:
        gone = len(now.drawn) - len(now.places)
        if gone:
            lost = sum(
                1 for each in now.drawn if each.id not in now.places and each.id in after and after[each.id].text
            )
            with_gold = f", {lost:,} of them with a hand label" if lost else ""
            self._notes.append(
                f"{counted(gone, 'row that was', 'rows that were')} drawn"
                f" {'is' if gone == 1 else 'are'} in the table no more, or changed{with_gold}"
            )
        taken_back = sum(1 for each in changes if not each.text)
        changed = sum(1 for each in changes if each.text and each.drawn in gold and gold[each.drawn].text)
        if changed:
            self._notes.append(f"{counted(changed, 'hand label is', 'hand labels are')} another than before")
        clashes = [name for name in (self._hand.file.id_column, *self._hand.file.fields) if name.endswith("_")]
        if clashes and now.new:
            taken = ", ".join(repr(name.rstrip("_")) for name in clashes)
            ours = ", ".join(map(repr, clashes))
            self._notes.append(f"the input has a column {taken} of its own, so the file's is {ours}")
        return Sample(
            self._store.keyword,
            self._store.sample_path,
            rows=len(now.places),
            new=len(now.new),
            labelled=sum(1 for number in now.places if number in after and after[number].text),
            read=sum(1 for each in changes if each.text),
            taken_back=taken_back,
            gone=gone,
            seed=now.draws[-1].seed,
            population=now.draws[-1].population,
            strata=now.draws[-1].strata,
            notes=tuple(self._notes),
        )

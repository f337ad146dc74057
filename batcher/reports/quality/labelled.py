"""The rows of a run by the model's label, and the rows that people have labelled, with the chance of each.

Invariant: it only reads; a row with a hand label is found by its cells, never by its position alone, and rows that ask
what an example in the prompt asks are in none of the counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as of_class
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from batcher.answer.gold import Golds, gold_of, is_known
from batcher.errors import BatcherError, OutputError, SettingsError
from batcher.input.cell import cell, writable
from batcher.input.dataset import Dataset
from batcher.input.marks import EMPTY, Marks
from batcher.input.selection import Selection
from batcher.journal.entries import LastRun
from batcher.journal.sampling import Draw, SampleReader, chances_of_labelled
from batcher.output.hand_labels import HandLabels
from batcher.output.opening import PastRun
from batcher.output.so_far import input_of
from batcher.words import by_reader, counted

SAMPLE, COLUMN = "sample", "column"
"""Where the hand labels come from: rows that `batcher sample` drew, or a column of the table (`--gold`)."""
_MOST_ANSWERS = 10_000
"""Different answers that are counted; texts may be as many as rows."""
_AT_ONCE = 1000  # rows in memory


class GoldRow(NamedTuple):
    """A row with a hand label.

    Attributes:
        position: of the row in the run, from 0.
        label: the model's label or answer, of a schema's field its text; None: the row has none that is `ok`.
        gold: the hand label.
        chance: of the row to be drawn and labelled, over all draws; 1 in a table that is labelled as a whole; of a
            column that was labelled at random the same for all; None: not known.
    """

    position: int
    label: str | None
    gold: str
    chance: float | None


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The rows of a run, and what people say about some of them.

    Attributes:
        rows: all rows, without those of examples.
        examples: rows that ask what an example in the prompt asks: they are in no other number.
        labels: the run's, in its order; empty if it has no list of labels.
        counts: rows by the model's label, under None those without one; None if there are more than 10,000 answers.
        source: `sample` or `column`; empty: there are no hand labels, and nothing was drawn.
        kind: how the rows were chosen: `random` or `per label` (drawn), `all`, `random column` or `unknown` (a column);
            empty as `source`.
        column: of the table that has the hand labels.
        seed: of the draws.
        drawn: rows that were drawn, or that have a hand label in the column.
        pairs: rows with a hand label by the model's label and it; None if there are more than 10,000 pairs.
        sampled: rows with a hand label, if they were drawn; empty for a column (see `gold_rows`).
        waiting: rows that were drawn and have no hand label yet.
        gone: rows that were drawn and are in the table no more, whether they have a hand label or not.
        never: rows that no draw could take, because they were added to the table later; if rows are gone, estimated.
        design: all that in words.
        notes: what else to know.
    """

    rows: int
    examples: int = 0
    labels: tuple[str, ...] = ()
    counts: Mapping[str | None, int] | None = None
    source: str = ""
    kind: str = ""
    column: str | None = None
    seed: int | None = None
    drawn: int = 0
    pairs: Mapping[tuple[str | None, str], int] | None = of_class(default_factory=dict)
    sampled: tuple[GoldRow, ...] = ()
    waiting: int = 0
    gone: int = 0
    never: int = 0
    design: str = ""
    notes: tuple[str, ...] = ()

    @property
    def gold(self) -> int:
        """Rows with a hand label."""
        return self.drawn if self.source == COLUMN else len(self.sampled)

    @property
    def chance(self) -> float | None:
        """The chance of each row to have a hand label in the column; None if it is not known, or it is no column."""
        if self.kind == "random column":
            return self.gold / self.rows
        return 1.0 if self.kind == "all" else None


class LabelledRun:
    """Reads the labels and the hand labels of a run.

    Args:
        run: opened with `journal.opening.read_samples`; the caller holds a snapshot.
        field: of the schema, that it is about; None without a schema, or if that has one field alone.
        data: the input, if the hand labels are in a column, are texts, and the input is not where it was.

    Raises:
        SettingsError: there is no such field, or a schema and no field.
    """

    def __init__(self, run: PastRun[SampleReader], field: str | None = None, data: Dataset | None = None) -> None:
        self.journal = run.journal
        self.last: LastRun = run.last()
        self._keyword = run.store.keyword
        self.field = field
        self._data = data
        self._hand = HandLabels(run.store, run.journal, self.last, data)
        self.golds, self.without = self._hand.golds, self._hand.without
        self._column = gold_of(self.last.question)
        self._check_field()

    def found(self) -> Labelled:
        """Return what there is: of the column if each row has a hand label there, or if the sample has none.

        Raises:
            InputError, OutputError: the input or the journal cannot be read.
        """
        if self._column and self._column["drawn"] == "all":
            return self._of_column()
        sample = self.of_sample()
        return sample if sample.gold or not self._column else self._of_column()

    def without_gold(self) -> Labelled:
        """Return the rows by the model's label alone."""
        return Labelled(**self._common)

    def gold_rows(self, found: Labelled) -> Generator[GoldRow, None, None]:
        """Yield the rows with a hand label, in the order of their positions; of a column they may be all rows."""
        if found.source == COLUMN:
            yield from self._rows_of_column(found.chance)
        else:
            yield from sorted(found.sampled, key=lambda each: each.position)

    def answers(self) -> Generator[tuple[int, str | None], None, None]:
        """Read the position and the label or answer of each row; of a schema's field its text."""
        for position, answer, _ in self.journal.answers(self.without):
            yield position, self.label_of(answer)

    def _check_field(self) -> None:
        fields = self.golds.fields
        how = by_reader(command_line="--field NAME", python="field=")
        if self.field is None and len(fields) == 1:
            self.field = fields[0]
        if self.field is None and fields:
            raise SettingsError(f"the answers have {len(fields)} fields: give {how}, one of {', '.join(fields)}")
        if self.field is not None and self.field not in fields:
            said = f"it is one of {', '.join(fields)}" if fields else "the answers have no fields: leave it out"
            raise SettingsError(f"{how}: there is no field {self.field!r}; {said}")

    def label_of(self, answer: str | None) -> str | None:
        """Return what an answer says of the field, or the answer."""
        if answer is None or self.field is None:
            return answer
        return self._field_of(answer)

    @cached_property
    def _field_of(self) -> Callable[[str], str | None]:
        """Reads the field of an answer; many rows have the same answer."""
        shape, place = self.golds.shape, self.golds.fields.index(self.field or "")

        @lru_cache(_MOST_ANSWERS)
        def read(answer: str) -> str | None:
            return (shape.cells(answer)[place] if shape else "") or None

        return read

    # -- The model's labels

    def _counts(self) -> dict[str | None, int] | None:
        if self.field is None:
            found = self.journal.counted(self.without, most=_MOST_ANSWERS + 1)
            return None if len(found) > _MOST_ANSWERS else {label: rows for (label, _), rows in found.items()}
        counts: Counter[str | None] = Counter()
        for _, label in self.answers():
            counts[label] += 1
            if len(counts) > _MOST_ANSWERS:
                return None
        return dict(counts)

    @cached_property
    def _common(self) -> dict[str, Any]:
        """What is the same wherever the hand labels are."""
        rows = self.journal.size(self.without)
        examples = self.journal.scope() - rows
        notes = []
        if examples:
            said = counted(examples, "row asks", "rows ask")
            notes.append(f"{said} what an example in the prompt asks, and count nowhere")
        return {
            "rows": rows,
            "examples": examples,
            "labels": self.golds.labels,
            "counts": self._counts(),
            "notes": tuple(notes),
        }

    # -- The sample

    def of_sample(self) -> Labelled:
        """Return what people say about the rows that were drawn."""
        common, draws, drawn = {**self._common}, self.journal.draws(), self.journal.drawn()
        if not draws:
            return Labelled(**common)
        here, golds = self._hand.places(drawn), self.journal.gold()
        try:
            golds |= {each.drawn: each for each in self._hand.unread(drawn, here, golds)}
        except BatcherError as error:
            common["notes"] += (f"what was written into the sample's file since it was read does not count: {error}",)
        texts = {number: Golds.of_field(golds[number].text, self.field) for number in here if number in golds}
        texts = {number: text for number, text in texts.items() if text}
        chances = chances_of_labelled(draws, drawn, here, texts)
        sampled = [
            GoldRow(here[number].position, self.label_of(here[number].label), texts[number], chances[number])
            for number in (each.id for each in drawn)
            if number in texts
        ]
        is_per_label = any(each.is_per_label for each in draws)
        gone = len(drawn) - len(here)
        never = never_drawn(draws[-1], common["rows"], len(drawn), gone)
        return Labelled(
            **common,
            source=SAMPLE,
            kind="per label" if is_per_label else "random",
            seed=draws[0].seed,
            drawn=len(drawn),
            pairs=Counter((each.label, each.gold) for each in sampled),
            sampled=tuple(sampled),
            waiting=len(here) - len(sampled),
            gone=gone,
            never=never,
            design=design_of(draws, len(drawn), len(sampled)),
        )

    # -- A column of the table

    def _of_column(self) -> Labelled:
        column = self._column or {}
        common, how = self._common, column["drawn"]
        pairs = self._pairs_by_marks() if self._texts is not None else self._pairs_by_rows()
        gold = sum(pairs.values()) if pairs is not None else sum(1 for _ in self._rows_of_column(None))
        chosen = {"all": "each row has one", "random": "of rows chosen at random"}
        words = chosen.get(how, "how they were chosen is unknown")
        return Labelled(
            **common,
            source=COLUMN,
            kind="random column" if how == "random" else how,
            column=column["column"],
            drawn=gold,
            pairs=pairs,
            design=f"{counted(gold, 'hand label')} in column {column['column']!r}: {words}",
        )

    @cached_property
    def _texts(self) -> dict[bytes, str] | None:
        """The hand label by the mark of its cell; None if the marks do not tell."""
        texts, name = (self._column or {}).get("texts"), (self._column or {}).get("column")
        marks = Marks(self.last.question.get("table", ()))
        if texts is None or name not in marks.alone:
            return None
        one = Marks([name])
        return {one.of((text,))[len(one.tag) :]: label for text, label in texts.items()}

    def _pairs_by_marks(self) -> dict[tuple[str | None, str], int]:
        texts = self._texts or {}
        found: Counter[tuple[str | None, str]] = Counter()
        for (label, mark), rows in self.journal.counted(self.without, [self._named]).items():
            if texts.get(mark):
                found[self.label_of(label), texts[mark]] += rows
            elif mark not in texts and mark != EMPTY:
                raise OutputError(f"the journal {self.journal.path} does not know what is in column {self._named!r}")
        return dict(found)

    def _pairs_by_rows(self) -> dict[tuple[str | None, str], int] | None:
        found: Counter[tuple[str | None, str]] = Counter()
        for each in self._rows_of_column(None):
            found[each.label, each.gold] += 1
            if len(found) > _MOST_ANSWERS:
                return None
        return dict(found)

    @property
    def _named(self) -> str:
        return str((self._column or {})["column"])

    def _rows_of_column(self, chance: float | None) -> Iterator[GoldRow]:
        if (texts := self._texts) is not None:
            for position, answer, mark in self.journal.answers(self.without, [self._named]):
                if gold := texts.get(mark):
                    yield GoldRow(position, self.label_of(answer), gold, chance)
            return
        cells = self._cells()
        for position, answer, mark in self.journal.answers(self.without, [self._named]):
            _, text, read = next((each for each in cells if each[0] == position), (position, "", b""))
            if mark and read != mark:
                raise OutputError(
                    f"column {self._named!r} of the input has changed since the run, in row {position} (counted from"
                    " 0): run it again, which asks nothing anew"
                )
            gold = Golds.of_field(self.golds.read_whole(text), self.field) if is_known(text) else ""
            if gold:
                yield GoldRow(position, self.label_of(answer), gold, chance)

    def _cells(self) -> Iterator[tuple[int, str, bytes]]:
        """Read the column in the input: the position, the text and its mark, which other columns may share."""
        dataset = self._data or input_of(self.last.question)
        if dataset is None:
            how = by_reader(
                command_line="put it back there",
                python="put it back there; or if it was in memory, give it to `batcher.estimate` as data=",
            )
            raise OutputError(
                f"the hand labels are in column {self._named!r} of the input, which is not where it was: {how}"
            )
        if self._named not in dataset.columns:
            raise OutputError(f"{dataset.name} has no column {self._named!r}, which had the hand labels")
        place, marks = dataset.columns.index(self._named), Marks(dataset.columns)
        one = Marks([self._named])
        for start, rows in Selection.recorded_in(self.last.question, dataset, self._keyword).slices(_AT_ONCE):
            for position, values in enumerate(rows, start):
                text = writable(cell(values[place]))
                is_alone = self._named in marks.alone
                read = one.of((text,)) if is_alone else marks.cut(marks.of(values), [self._named])
                yield position, text, read.removeprefix(one.tag) if is_alone else read


def never_drawn(latest: Draw, rows: int, drawn: int, gone: int) -> int:
    """Return how many rows no draw could take.

    Args:
        latest: the latest draw.
        rows: in the table now.
        drawn: rows that were ever drawn.
        gone: how many of them are in the table no more; as many of the others will be gone, in proportion.
    """
    left = round(latest.population * (1 - gone / drawn)) if drawn else latest.population
    return max(rows - left, 0)


def design_of(draws: Sequence[Draw], drawn: int, gold: int) -> str:
    """Return in words how the rows of a sample were chosen."""
    ways = dict.fromkeys("the same number for each label of the model" if each.is_per_label else "" for each in draws)
    ways.pop("", None)
    how = f"drawn at random of {draws[-1].population:,} (seed {draws[0].seed})" + (
        f", {', '.join(ways)}" if ways else ""
    )
    mixed = " and of all rows" if ways and not all(each.is_per_label for each in draws) else ""
    return f"{counted(drawn, 'row')} {how}{mixed}; {gold:,} labelled by hand"

"""How good the answers of a run are: the numbers, with their intervals.

Invariant: an estimate is a value: it reads nothing. A number without an interval has None for its ends, and a note says
why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from batcher.tables import Readable

LEVEL = 0.95
"""The level of all intervals."""


class Kind(StrEnum):
    """What the answers are."""

    LABELS = "labels"
    TEXT = "text"
    NUMBERS = "numbers"


class Figure(NamedTuple):
    """An estimated number, and its 95% interval; `low` and `high` are None if it has none."""

    value: float
    low: float | None = None
    high: float | None = None

    def __float__(self) -> float:
        """Return the number alone."""
        return self.value


class Design(NamedTuple):
    """How the rows with a hand label were chosen.

    Attributes:
        kind: `random` or `per label` (drawn by `batcher sample`), or of a column of the table: `random column`, `all`
            or `unknown`.
        drawn: rows that were drawn, or that have a hand label in the table.
        gold: those of them that have a hand label.
        seed: of the draw; None if the table had the labels.
        column: of the table that has the labels, if it was one.
    """

    kind: str
    drawn: int
    gold: int
    seed: int | None = None
    column: str | None = None


class Share(NamedTuple):
    """The rows of a label in the whole table.

    Attributes:
        label: the label; None: the rows without one.
        rows: that the model gave this label.
        raw: their share of all rows.
        share: the share of rows of which the label is right; None without hand labels.
        gold: rows with this hand label.
    """

    label: str | None
    rows: int
    raw: float
    share: Figure | None
    gold: int


class LabelQuality(NamedTuple):
    """How good the model is at one label.

    Attributes:
        label: the label.
        precision: of the rows that the model gave it, the share of which it is right.
        recall: of the rows of which it is right, the share that the model gave it.
        f1: the harmonic mean of both.
        gold: rows with this hand label.
        labelled: rows with a hand label that the model gave this label.
        is_few: there are too few of either for an interval that says something.
    """

    label: str
    precision: Figure | None
    recall: Figure | None
    f1: Figure | None
    gold: int
    labelled: int
    is_few: bool


class Cell(NamedTuple):
    """Rows with a hand label, counted by it and by the model's label, which is None if they have none."""

    gold: str
    label: str | None
    rows: int


class Confusion(NamedTuple):
    """Rows with a hand label, counted by it and by the model's.

    Attributes:
        gold: the hand labels.
        labels: the model's; None: rows without one.
        counts: rows, for each hand label by the model's.
    """

    gold: tuple[str, ...] = ()
    labels: tuple[str | None, ...] = ()
    counts: tuple[tuple[int, ...], ...] = ()

    @property
    def mistakes(self) -> list[Cell]:
        """The pairs of different labels, the most frequent first."""
        cells = [
            Cell(gold, label, rows)
            for gold, counts in zip(self.gold, self.counts, strict=True)
            for label, rows in zip(self.labels, counts, strict=True)
            if rows and gold != label
        ]
        return sorted(cells, key=lambda each: -each.rows)


class Quantity(NamedTuple):
    """A number that describes all answers, such as their mean.

    Attributes:
        name: `mean`, or a quantile, such as `median` or `quantile 0.1`.
        raw: of the model's answers; None if there is none.
        figure: of the right answers; None without hand labels.
    """

    name: str
    raw: float | None
    figure: Figure | None


class Bin(NamedTuple):
    """Rows with a hand label whose certainty is in a range.

    Attributes:
        low, high: the ends of the range.
        rows: with a hand label.
        certainty: the mean of theirs.
        accuracy: the share of them that are right.
    """

    low: float
    high: float
    rows: int
    certainty: float
    accuracy: Figure


class Uncertain(NamedTuple):
    """A row whose answer is not certain: its position from 0, its answer, and how certain that is, from 0 to 1."""

    position: int
    answer: str
    certainty: float


@dataclass(frozen=True, kw_only=True)
class Certainty:
    """What `agreement` or `confidence` says about the answers.

    Attributes:
        by: which of the two.
        rows: that have one.
        bins: how often answers are right, by certainty; empty without hand labels.
        least: the rows with the least certain answers, the least certain first.
    """

    by: str
    rows: int
    bins: tuple[Bin, ...] = ()
    least: tuple[Uncertain, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Estimate(Readable):
    """How good the answers of a run are, and what that means for the whole table.

    Attributes:
        keyword: names the run.
        of_field: the field of the schema, if the estimate is about one.
        kind: what the answers are.
        rows, ok, invalid, error, left: all rows, and rows by status; `left` have none yet.
        design: how the rows with a hand label were chosen; None without hand labels.
        accuracy: the share of right answers among the rows that have one; None without hand labels. Of text and of
            numbers: the share of answers that are the same as by hand.
        shares: of each label in the whole table, the most frequent first; of text and numbers empty.
        per_label: precision, recall and F1 of each label.
        confusion: rows with a hand label, by it and by the model's.
        kappa: Cohen's, between the model and the hand labels.
        alpha: Krippendorff's, between them.
        quantities: of numbers the mean and quantiles; else empty.
        more: how many more hand labels halve the interval of the accuracy, or of the mean; None if it has none.
        few: labels with too few hand labels for precision and recall.
        certainty: of answers that have an agreement or a confidence.
        drift: how answers change along the run.
        seed: of the numbers drawn for the intervals.
        warnings: what makes the numbers doubtful.
        notes: what else to know about them.
        steps: the commands that lead to an interval, if there is none.
        export: the file that was written.
    """

    keyword: str
    of_field: str | None = None
    kind: Kind = Kind.LABELS
    rows: int
    ok: int
    invalid: int
    error: int
    left: int
    design: Design | None = None
    accuracy: Figure | None = None
    shares: tuple[Share, ...] = ()
    per_label: tuple[LabelQuality, ...] = ()
    confusion: Confusion = field(default_factory=Confusion)
    kappa: Figure | None = None
    alpha: Figure | None = None
    quantities: tuple[Quantity, ...] = ()
    more: int | None = None
    certainty: Certainty | None = None
    drift: Any = None
    seed: int = 0
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    export: Path | None = None

    @property
    def gold(self) -> int:
        """Rows with a hand label."""
        return 0 if self.design is None else self.design.gold

    @property
    def few(self) -> tuple[str, ...]:
        """Labels with too few hand labels for their own figures."""
        return tuple(each.label for each in self.per_label if each.is_few)

    def __str__(self) -> str:
        from batcher.reports.quality.texts import text_of  # noqa: PLC0415 - it needs this module

        return text_of(self)

    def _repr_html_(self) -> str:
        """Show tables and pictures in a notebook."""
        from batcher.reports.quality.page import html_of  # noqa: PLC0415 - it needs this module

        return html_of(self)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as a dictionary that JSON can hold."""
        names = ("keyword", "of_field", "kind", "rows", "ok", "invalid", "error", "left", "gold", "more", "seed")
        values: dict[str, Any] = {name: getattr(self, name) for name in names}
        values |= {"kind": self.kind.value, "level": LEVEL}
        values["design"] = None if self.design is None else self.design._asdict()
        values |= {name: _plain(getattr(self, name)) for name in ("accuracy", "kappa", "alpha")}
        for name in ("shares", "per_label", "quantities"):
            values[name] = [_named(each) for each in getattr(self, name)]
        values["confusion"] = {name: [*each] for name, each in self.confusion._asdict().items()}
        values["few"] = [*self.few]
        values["certainty"] = None if self.certainty is None else _certainty(self.certainty)
        values["drift"] = None if self.drift is None else self.drift.to_dict()
        values |= {name: [*getattr(self, name)] for name in ("warnings", "notes", "steps")}
        values["export"] = None if self.export is None else str(self.export)
        return values


def _certainty(found: Certainty) -> dict[str, Any]:
    lists = {"bins": found.bins, "least": found.least}
    return {"by": found.by, "rows": found.rows} | {name: [_named(each) for each in lists[name]] for name in lists}


def _named(values: Any) -> dict[str, Any]:
    return {name: _plain(value) for name, value in values._asdict().items()}


def _plain(value: Any) -> Any:
    return value._asdict() if isinstance(value, Figure) else value


def shown_label(label: str | None) -> str:
    """Return a label for people; None is written as no label can look: without quotes, in brackets."""
    return "(no label)" if label is None else label or "(empty)"


def confusion_of(counts: Mapping[tuple[str, str | None], int], order: Sequence[str | None]) -> Confusion:
    """Arrange the counts of pairs.

    Args:
        counts: rows, by their hand label and the model's.
        order: of the labels; those that do not occur are left out.
    """
    occurring = {each for pair in counts for each in pair}
    labels = tuple(each for each in order if each in occurring)
    gold = tuple(each for each in labels if each is not None)
    return Confusion(gold, labels, tuple(tuple(counts.get((own, each), 0) for each in labels) for own in gold))

"""How good the answers of a run are: the numbers, with their intervals.

Invariant: an estimate is a value: it reads nothing. A number without an interval has None for its ends, and a note says
why.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from dataclasses import field as described
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from batcher.quality.cascade import Calibration
from batcher.quality.estimating import Confusion, LabelFigures
from batcher.quality.figures import LEVEL, UNKNOWN, Figure
from batcher.reports.quality.along import Along
from batcher.tables import Readable


class Kind(StrEnum):
    """What the answers are."""

    LABELS = "labels"
    TEXT = "text"
    NUMBERS = "numbers"


class Design(NamedTuple):
    """How the rows with a hand label were chosen.

    Attributes:
        kind: `random` or `per label` (drawn by `batcher sample`), or of a column of the table: `random column`, `all`
            or `unknown`; empty: there are no hand labels, and nothing was drawn.
        drawn: rows that were drawn, or that have a hand label in the table.
        gold: those of them that have a hand label.
        seed: of the draw; None if it was none.
        column: of the table that has the hand labels, if it is one.
        words: all that in words.
    """

    kind: str = ""
    drawn: int = 0
    gold: int = 0
    seed: int | None = None
    column: str | None = None
    words: str = ""


class Mistake(NamedTuple):
    """Rows with a hand label that is not the model's, which is None if they have none."""

    label: str | None
    gold: str
    rows: int


class Quantity(NamedTuple):
    """A number that describes all answers, such as their mean.

    Attributes:
        name: `mean`, or a quantile, such as `median`.
        raw: of the model's answers; None if there is none.
        figure: of the right answers.
    """

    name: str
    raw: float | None
    figure: Figure


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
        calibration: how often answers are right, by certainty; None without hand labels.
        least: the rows with the least certain answers, the least certain first.
    """

    by: str
    rows: int
    calibration: Calibration | None = None
    least: tuple[Uncertain, ...] = ()


_NO_DESIGN = Design()
_NO_CONFUSION = Confusion((), (), (), ())


@dataclass(frozen=True, kw_only=True)
class Estimate(Readable):
    """How good the answers of a run are, and what that means for the whole table.

    Attributes:
        keyword: names the run.
        output_dir: of the run.
        field: of the schema, if the estimate is about one.
        kind: what the answers are.
        rows, ok, invalid, error, left: all rows, and rows by status; `left` have none yet.
        design: how the rows with a hand label were chosen.
        accuracy: the share of right answers among the rows that have one. Of text and of numbers: of answers that are
            the same as by hand.
        labels: what is known of each label, the most frequent of the model first; of text and numbers empty.
        confusion: rows with a hand label, by the model's label and by it.
        kappa: Cohen's, between the model and the hand labels.
        alpha: Krippendorff's, between them.
        quantities: of numbers the mean and quantiles; else empty.
        bias: of numbers, the mean of the model's less those by hand.
        distance: of numbers, the mean distance of the two.
        certainty: of answers that have an agreement or a confidence, for each of them.
        drift: how answers change along the run; None if it has too few.
        seed: of the numbers drawn for the intervals.
        warnings: what makes the numbers doubtful.
        notes: what else to know about them.
        steps: the commands that lead to an interval, if there is none.
        export: the file that was written.
    """

    keyword: str
    output_dir: Path
    field: str | None = None
    kind: Kind = Kind.LABELS
    rows: int
    ok: int
    invalid: int
    error: int
    left: int
    design: Design = _NO_DESIGN
    accuracy: Figure = UNKNOWN
    labels: tuple[LabelFigures, ...] = ()
    confusion: Confusion = _NO_CONFUSION
    kappa: Figure = UNKNOWN
    alpha: Figure = UNKNOWN
    quantities: tuple[Quantity, ...] = ()
    bias: Figure = UNKNOWN
    distance: Figure = UNKNOWN
    certainty: tuple[Certainty, ...] = ()
    drift: Along | None = None
    seed: int = 0
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    export: Path | None = described(default=None, compare=False)

    @property
    def gold(self) -> int:
        """Rows with a hand label."""
        return self.design.gold

    @property
    def shares(self) -> dict[str, Figure]:
        """The share of each label in the whole table; `labels` has the raw one beside it."""
        return {each.label: each.share for each in self.labels}

    @property
    def per_label(self) -> dict[str, LabelFigures]:
        """Precision, recall, F1 and more of each label."""
        return {each.label: each for each in self.labels}

    @property
    def few(self) -> tuple[str, ...]:
        """Labels with too few hand labels for their own figures."""
        return tuple(each.label for each in self.labels if each.few) if self.gold else ()

    @property
    def more(self) -> int | None:
        """How many more hand labels would halve the interval of the number that is named first."""
        return self.main.more

    @property
    def main(self) -> Figure:
        """The number that is named first: the accuracy, of numbers their mean."""
        if self.kind is Kind.NUMBERS:
            return next((each.figure for each in self.quantities), UNKNOWN)
        return self.accuracy

    @property
    def mistakes(self) -> list[Mistake]:
        """The pairs of different labels, the most frequent first."""
        cells = [
            Mistake(label, gold, rows)
            for label, counts in zip(self.confusion.model, self.confusion.counted, strict=True)
            for gold, rows in zip(self.confusion.gold, counts, strict=True)
            if rows and gold != label
        ]
        return sorted(cells, key=lambda each: -each.rows)

    def __str__(self) -> str:
        from batcher.reports.quality.texts import text_of  # noqa: PLC0415 - it needs this module

        return text_of(self)

    def _repr_html_(self) -> str:
        """Show tables and pictures in a notebook."""
        from batcher.reports.quality.estimated_page import html_of  # noqa: PLC0415 - it needs this module

        return html_of(self)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as a dictionary that JSON can hold."""
        names = ("keyword", "field", "rows", "ok", "invalid", "error", "left", "gold", "more", "seed")
        values: dict[str, Any] = {name: getattr(self, name) for name in names}
        values |= {"kind": self.kind.value, "level": LEVEL, "design": self.design._asdict()}
        values |= {
            name: asdict(getattr(self, name))
            for name in ("accuracy", "kappa", "alpha", "bias", "distance", "confusion")
        }
        values["labels"] = [asdict(each) for each in self.labels]
        values["quantities"] = [each._asdict() | {"figure": asdict(each.figure)} for each in self.quantities]
        values["certainty"] = [_certainty(each) for each in self.certainty]
        values["drift"] = None if self.drift is None else self.drift.to_dict()
        values |= {name: getattr(self, name) for name in ("few", "warnings", "notes", "steps")}
        values["output_dir"] = str(self.output_dir)
        values["export"] = None if self.export is None else str(self.export)
        return {name: _as_json(value) for name, value in values.items()}


def _as_json(value: Any) -> Any:
    """Return a value as JSON gives it back: its tuples as lists."""
    if isinstance(value, dict):
        return {name: _as_json(each) for name, each in value.items()}
    return [*map(_as_json, value)] if isinstance(value, (list, tuple)) else value


def _certainty(found: Certainty) -> dict[str, Any]:
    return {
        "by": found.by,
        "rows": found.rows,
        "calibration": None if found.calibration is None else asdict(found.calibration),
        "least": [each._asdict() for each in found.least],
    }


def shown_label(label: str | None) -> str:
    """Return a label for people; rows without one, and the empty text, are in brackets."""
    return "(no label)" if label is None else label or "(empty)"

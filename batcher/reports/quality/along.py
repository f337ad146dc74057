"""How answers change along a run: the numbers, and how they are shown.

Invariant: it is a value and reads nothing. All text in a page is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from batcher.tables import Readable, cut, width, wrapped
from batcher.visible import harmless, on_one_line
from batcher.words import counted, option, percent, verb

_COLUMNS = 80  # of a line of the text
SHOWN = 5
"""Changes that a text or a notebook shows."""
_LEAST_NAME = 12  # columns of a label in a line
_ALONG = {
    "input": "along the table",
    "time": "by time",
    "part": "between parts of the table",
    "endpoint": "between endpoints",
}


class Stretch(NamedTuple):
    """Rows that belong together: a stretch of the input or of time, or those of an endpoint.

    Attributes:
        name: in words.
        rows: with an answer.
        invalid: those of them whose answer is no label, or does not fit.
        labels: rows by label; empty if the answers are no labels.
        seconds: the median from the request to the answer, to 9%; None if it is not known.
    """

    name: str
    rows: int
    invalid: int
    labels: Mapping[str, int]
    seconds: float | None


class Change(NamedTuple):
    """A stretch that differs from the others.

    Attributes:
        by: `input` or `time`; of accuracies `part` (of the table) or `endpoint`.
        of: `label`, `status`, `latency`, or `accuracy` (of rows with a hand label).
        stretch: its name; None: the stretches differ, and none of them stands out.
        label: the label, the status, or `right` or `wrong`; None for a latency.
        rows: of the stretch.
        here: the share of the label in the stretch, or the median latency in seconds.
        elsewhere: the same of all other stretches.
        p: of the test, corrected for all looks.
    """

    by: str
    of: str
    stretch: str | None
    label: str | None
    rows: int
    here: float | None
    elsewhere: float | None
    p: float

    def __str__(self) -> str:
        return self._in_words(self.label or "")

    def in_columns(self, columns: int) -> str:
        """Return it in words; a label that is too long for the columns is cut, and no number is."""
        label = self.label or ""
        too_wide = width(str(self)) - columns
        return self._in_words(cut(label, max(width(label) - too_wide, _LEAST_NAME)) if too_wide > 0 else label)

    def _in_words(self, label: str) -> str:
        what = {"label": "labels", "status": "invalid answers", "latency": "latency", "accuracy": "accuracies"}[self.of]
        if self.stretch is None or self.here is None or self.elsewhere is None:
            return f"{what} differ {_ALONG[self.by]}"
        if self.of == "latency":
            return f"{self.stretch}: median latency {self.here:.2g} s, elsewhere {self.elsewhere:.2g} s"
        if self.of == "accuracy":
            here, elsewhere = (each if self.label == "right" else 1 - each for each in (self.here, self.elsewhere))
            rows = f"{self.rows:,} hand labels"
            return f"{self.stretch}: accuracy {percent(here)} by {rows}, elsewhere {percent(elsewhere)}"
        name = repr(label) if self.of == "label" else label
        return f"{self.stretch}: {name} {percent(self.here)}, elsewhere {percent(self.elsewhere)}"


@dataclass(frozen=True, kw_only=True)
class Along(Readable):
    """How answers change along a run.

    Attributes:
        rows: with an answer.
        labels: the different answers; empty if they are no labels.
        by_input, by_time: stretches of about as many rows, in the order of the table, and in that of the requests.
        by_endpoint: the rows of each endpoint.
        is_one_order: rows were asked in the order of the table, so that both orders are one.
        changes: stretches that differ from the others, the largest difference first. The order of the table may be the
            reason.
        warnings: rows that differ from those beside them in the table, which its order cannot explain.
    """

    rows: int
    labels: tuple[str, ...]
    by_input: tuple[Stretch, ...]
    by_time: tuple[Stretch, ...]
    by_endpoint: tuple[Stretch, ...]
    is_one_order: bool
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]

    @property
    def changes_in_answers(self) -> tuple[Change, ...]:
        """The changes of labels and of invalid answers."""
        return tuple(each for each in self.changes if each.of in {"label", "status"})

    @property
    def changes_in_accuracy(self) -> tuple[Change, ...]:
        """The changes of accuracy, by the hand labels."""
        return tuple(each for each in self.changes if each.of == "accuracy")

    @property
    def remark(self) -> str:
        """What the changes may mean, in words; empty if answers do not change."""
        if not self.changes_in_answers:
            return ""
        return (
            "The table's own order may be the reason, if it is sorted. To find out, ask some rows once more:"
            f" {verb('run')} with {option('repeat_sample', 100)}, then {verb('compare')}"
        )

    @property
    def main_changes(self) -> tuple[Change, ...]:
        """The changes to show first: all of accuracies, the largest of answers, and that of the latency."""
        latency = [each for each in self.changes if each.of == "latency"][:1]
        return (*self.changes_in_accuracy, *self.changes_in_answers[:SHOWN], *latency)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as a dictionary that JSON can hold."""
        values = asdict(self) | {"remark": self.remark}
        for name in ("by_input", "by_time", "by_endpoint"):
            values[name] = [each._asdict() | {"labels": dict(each.labels)} for each in getattr(self, name)]
        values["changes"] = [each._asdict() for each in self.changes]
        return values | {name: [*values[name]] for name in ("labels", "warnings")}

    def __str__(self) -> str:
        return harmless("\n".join(self._lines()))

    def _lines(self) -> Iterator[str]:
        size = len(self.by_input)
        yield f"along the run: {counted(self.rows, 'answer')} in {size} stretches of the table"
        if not self.changes:
            yield "  no stretch differs from the others"
        for each in self.main_changes:
            yield cut(f"  {on_one_line(each.in_columns(_COLUMNS - 2))}", _COLUMNS)
        if (more := len(self.changes_in_answers) - SHOWN) > 0:
            yield f"  and {counted(more, 'more difference')} in answers"
        for text in filter(None, (self.remark, *(f"warning: {each}" for each in self.warnings))):
            yield from wrapped("  ", on_one_line(text), _COLUMNS)
        if len(self.by_endpoint) > 1:
            yield from map(_endpoint, self.by_endpoint)

    def _repr_html_(self) -> str:
        """Show tables and a picture in a notebook."""
        from batcher.reports.quality.along_page import html_of  # noqa: PLC0415 - it needs this module

        return html_of(self)


def _endpoint(found: Stretch) -> str:
    latency = "" if found.seconds is None else f", median latency {found.seconds:.2g} s"
    said = f"{counted(found.rows, 'answer')}, {percent(found.invalid / max(found.rows, 1))} invalid{latency}"
    return f"  {cut(on_one_line(found.name), _COLUMNS - len(said) - 4)}: {said}"

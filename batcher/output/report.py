"""The report of a run, and its answers as a Series or a DataFrame.

Invariant: a report is a value: it describes the run at its end, and reads nothing but what the run left.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from batcher.errors import BatcherError, InputError, OutputError
from batcher.output.figures import (
    Figures,
    money_in_words,
    requests_in_words,
    tied_in_words,
    went_on_in_words,
    worker_lost_in_words,
)
from batcher.output.frames import Frames
from batcher.records import Asked, EndpointCount
from batcher.tables import Line, Readable, html_table
from batcher.visible import harmless
from batcher.words import counted, dollars, elapsed

if TYPE_CHECKING:
    import pandas as pd

    from batcher.output.vector_column import Matrix
    from batcher.reports.quality.estimated import Estimate
    from batcher.reports.whole.inline import InlineReport

_NOT_OF_A_RUN = "this report was not made by a run, so there is nothing to read"


class Telling(Protocol):
    """What else can be said about a run: it is read and computed when somebody asks for it."""

    def estimate(self, keyword: str, output_dir: Path, *, seed: int, field: str | None) -> Estimate:
        """Return how good the answers are."""

    def picture(self, report: Report, output_dir: Path | None) -> str:
        """Return a picture of the report, as SVG; without a directory of its figures alone."""

    def page(self, keyword: str, output_dir: Path) -> InlineReport:
        """Return the page of the run."""


@dataclass(frozen=True, kw_only=True)
class Report(Figures, Readable):
    """The report of a run. In a notebook it is a picture and a table.

    Attributes:
        status: `done`, or `stopped` if rows are left.
        output: `all_<keyword>.csv`, of a requests file `all_<keyword>.jsonl`; None if rows are left.
        asks: whom this process asked, and where the API keys came from; empty if no row was left.
        endpoints: the endpoints of this process, in the pool's order.
        by_hand: what `batcher limit`, `pause` and `resume` changed in this process.
    """

    status: str
    output: Path | None
    asks: tuple[Asked, ...] = ()
    endpoints: tuple[EndpointCount, ...] = ()
    by_hand: tuple[str, ...] = ()
    # Not a field: it is no part of the report's text, of its JSON, or of what makes two reports equal.
    _frames: ClassVar[Frames | None] = None
    _telling: ClassVar[Telling | None] = None

    def with_frames(self, frames: Frames, telling: Telling | None = None) -> Self:
        """Let the report read its rows and answers, and tell what else can be said; return the report."""
        object.__setattr__(self, "_frames", frames)
        object.__setattr__(self, "_telling", telling)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dictionary that JSON can hold."""
        return super().to_dict() | {"output": None if self.output is None else str(self.output)}

    @property
    def answers(self) -> pd.Series[str]:
        """The answers, read from the result: `df["label"] = report.answers` puts each beside its own row.

        It has the index of the DataFrame or Series that was given, and one answer for each row that was asked; the
        answer is empty if the row has none, or none yet. If only a part was asked and labels occur more than once, it
        has all rows, and the answers of the others are missing.

        It warns if the DataFrame is gone and its labels may stand for other rows by now.

        Raises:
            InputError, OutputError: as for `frame`.
        """
        return self._read().answers()

    def matrix(self) -> Matrix:
        """Return the vectors of embeddings as a NumPy array of 32-bit floats: a row for each row that was asked.

        The rows are in the order of the input. A row without a vector is NaN in all columns.

        Raises:
            SettingsError: the run did not ask for embeddings.
            OutputError: as for `frame`; or the vectors have different lengths.
        """
        return self._read().matrix()

    def frame(self) -> pd.DataFrame:
        """Return the rows with their answers; the answers are text, exactly as in the file, or lists of numbers.

        It has the index of the DataFrame or Series that was given, and its columns; a table from elsewhere is read as
        text, or from the Parquet files of a finished run in its types. If rows are left, it holds what there is: the
        status of a row without a result is empty, and if the input is gone, cells that are in no file are missing.

        It warns of labels that occur more than once, and as `answers` does.

        Raises:
            InputError: the DataFrame, or another input of which rows are left, was changed since the run began; or only
                a part of a table was asked in which labels occur more than once.
            OutputError: another run has worked in the directory since, a file is gone, or the run was stopped before
                anything was sent.
        """
        return self._read().frame()

    def accuracy(self, *, seed: int = 0, field: str | None = None) -> Estimate:
        """Return how good the answers are, from the rows with a hand label: `batcher.estimate` of this run.

        Args:
            seed: of the numbers drawn for the intervals.
            field: of the schema that it is about, if the answers have several.

        Raises:
            SettingsError: the answers have several fields, or no such one.
            InputError: there are no hand labels yet; the message says how to get them.
            OutputError: another run has worked in the directory since, or the journal cannot be read.
        """
        telling, directory = self._told()
        found = telling.estimate(self.keyword, directory, seed=seed, field=field)
        if not found.gold:
            raise InputError(f"{self.keyword} has no hand labels yet: {'; '.join(found.steps)}")
        return found

    def html(self) -> InlineReport:
        """Return the page that `batcher.report` writes, to show it in a cell of a notebook; no file is written.

        Raises:
            OutputError: another run has worked in the directory since, the journal cannot be read, or the run was
                stopped before anything was sent.
        """
        telling, directory = self._told()
        return telling.page(self.keyword, directory)

    def _told(self) -> tuple[Telling, Path]:
        directory = self._read().checked_directory()
        if self._telling is None:
            raise OutputError(_NOT_OF_A_RUN)
        return self._telling, directory

    def _read(self) -> Frames:
        if self._frames is None:
            raise OutputError(_NOT_OF_A_RUN)
        return self._frames

    def __str__(self) -> str:
        parts = [f"{self.ok:,} ok"]
        parts += [f"{count:,} {name}" for name, count in (("invalid", self.invalid), ("error", self.error)) if count]
        parts += [f"{self.left:,} left"] if self.left else []
        done = f"{counted(self.requests, 'request')} in {elapsed(self.elapsed_s)}{_cost(self.cost_usd)}"
        if self.requests_now != self.requests:
            done += f" (now {self.requests_now:,} in {elapsed(self.elapsed_s_now)}{_cost(self.cost_usd_now)})"
        where = f" -> {self.output}" if self.output else ""
        cut = f"; {counted(self.cut, 'answer was', 'answers were')} cut off at max_tokens" if self.cut else ""
        cut += f"; {counted(self.corrected, 'answer')} corrected by hand" if self.corrected else ""
        cut += f"; {tied_in_words(self.tied)}" if self.tied else ""
        cut += f"; {went_on_in_words(self.went_on, self.kept)}" if self.went_on or self.kept else ""
        if self.worker_lost:
            cut += f"; {worker_lost_in_words(self.worker_lost, self.worker_lost_usd)}"
        by_hand = f"; by hand: {', '.join(self.by_hand)}" if self.by_hand else ""
        return f"{self.keyword}: {counted(self.rows, 'row')}, {', '.join(parts)}; {done}{cut}{by_hand}{where}"

    def _lines(self) -> Iterator[Line]:
        states = f"{self.ok:,} ok, {self.invalid:,} invalid, {self.error:,} error"
        yield Line("rows", f"{self.rows:,}: {states}" + (f", {self.left:,} left" if self.left else ""))
        if self.corrected:
            yield Line("corrected", f"{counted(self.corrected, 'answer')} by hand")
        if self.cut:
            yield Line("cut off", f"{counted(self.cut, 'answer')} at max_tokens")
        if self.tied:
            yield Line("tied", tied_in_words(self.tied))
        if self.went_on or self.kept:
            yield Line("went on", went_on_in_words(self.went_on, self.kept))
        retries = f" ({counted(self.retries, 'further attempt')})" if self.retries else ""
        yield Line("requests", requests_in_words(self) + retries)
        tokens = (self.prompt_tokens, "prompt"), (self.completion_tokens, "completion")
        yield Line("tokens", ", ".join(f"{'unknown' if n is None else f'{n:,}'} {name}" for n, name in tokens))
        yield Line("money", self._money())
        if self.worker_lost:
            yield Line("workers", worker_lost_in_words(self.worker_lost, self.worker_lost_usd))
        now = f" (now {elapsed(self.elapsed_s_now)})" if self.requests_now != self.requests else ""
        yield Line("time", elapsed(self.elapsed_s) + now)
        yield from (Line("asked", f"{each.model} at {each.base_url or 'its own place'}") for each in self.asks)
        yield from (Line("lost", f"{each.endpoint}: {each.out}") for each in self.endpoints if each.out)
        yield from (Line("by hand", each) for each in self.by_hand)
        if self.output:
            yield Line("result", str(self.output))

    def _money(self) -> str:
        money = money_in_words(self) or ("unknown" if self.cost_usd is None else "nothing")
        if self.requests_now == self.requests or not self.cost_usd_now:
            return money
        return f"{money} (now {dollars(round(self.cost_usd_now * 1e9))})"

    def _repr_html_(self) -> str:
        """Show the report as a picture and a table in a notebook."""
        left = f", {counted(self.left, 'row')} left" if self.left else ""
        title = html.escape(harmless(f"{self.keyword}: {self.status}{left}"))
        table = html_table("", [(each.label, each.text) for each in self._lines()], has_labels=True)
        return f"<div>{title}</div>\n{self._picture()}\n{table}"

    def _picture(self) -> str:
        """Return the picture; without the labels if the journal has no longer what the report is about."""
        if self._telling is None:
            return ""
        try:
            directory = self._read().checked_directory()
        except BatcherError:
            directory = None
        return self._telling.picture(self, directory)


def _cost(usd: float | None) -> str:
    return f", {dollars(round(usd * 1e9))}" if usd else ""

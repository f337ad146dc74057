"""The report of a run, and its result as a DataFrame.

Invariant: a report is a value: it describes the run at its end, and reads nothing but the result.
"""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batcher.records import EndpointCount
from batcher.words import counted, dollars, elapsed

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Report:
    """The report of a run.

    Attributes:
        status: `done`, or `stopped` if rows are left.
        rows: rows of the input (of its first `limit` rows).
        ok, invalid, error: rows by status, answers of earlier runs included.
        requests: requests sent by this call of `run`.
        retries: requests among them that were a further attempt at a row.
        prompt_tokens, completion_tokens: model tokens that the servers reported in this call of `run`.
        cut: rows whose answer was cut off at `max_tokens`, answers of earlier runs included.
        cost_usd: the cost in US dollars of the answers of this call of `run`; None if a price is unknown.
        elapsed_s: seconds from start to end.
        output: `all_<keyword>.csv`, or None if rows are left.
        endpoints: requests counted per endpoint, in the pool's order.
        by_hand: what `batcher limit`, `pause` and `resume` changed in this call of `run`.
    """

    status: str
    keyword: str
    rows: int
    ok: int
    invalid: int
    error: int
    requests: int
    retries: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    elapsed_s: float
    output: Path | None
    endpoints: tuple[EndpointCount, ...] = ()
    cut: int = 0
    by_hand: tuple[str, ...] = ()

    @property
    def left(self) -> int:
        """Rows that have no result yet."""
        return self.rows - self.ok - self.invalid - self.error

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dictionary that JSON can hold."""
        values = asdict(self)
        values["output"] = None if self.output is None else str(self.output)
        values["elapsed_s"] = round(self.elapsed_s, 3)
        return values

    def frame(self) -> pd.DataFrame:
        """Read the result as a DataFrame; every column holds text, exactly as in the file.

        Raises:
            FileNotFoundError: rows are left, so there is no result file yet.
        """
        if self.output is None:
            left = f"{counted(self.left, 'row')} of '{self.keyword}' {'is' if self.left == 1 else 'are'} left"
            raise FileNotFoundError(f"{left}: run it again, then read it")
        import pandas as pd  # noqa: PLC0415 - pandas takes a second to load, and few callers want it

        return pd.read_csv(self.output, dtype=str, keep_default_na=False)

    def __str__(self) -> str:
        parts = [f"{self.ok:,} ok"]
        parts += [f"{count:,} {name}" for name, count in (("invalid", self.invalid), ("error", self.error)) if count]
        parts += [f"{self.left:,} left"] if self.left else []
        cost = f", {dollars(round(self.cost_usd * 1e9))}" if self.cost_usd else ""
        where = f" -> {self.output}" if self.output else ""
        cut = f"; {counted(self.cut, 'answer was', 'answers were')} cut off at max_tokens" if self.cut else ""
        by_hand = f"; by hand: {', '.join(self.by_hand)}" if self.by_hand else ""
        return (
            f"{self.keyword}: {counted(self.rows, 'row')}, {', '.join(parts)};"
            f" {counted(self.requests, 'request')} in {elapsed(self.elapsed_s)}{cost}{cut}{by_hand}{where}"
        )

    def _repr_html_(self) -> str:
        """Show the report as a small table in a notebook."""
        shown = {key: value for key, value in self.to_dict().items() if key != "endpoints"}
        cells = "".join(f"<tr><th>{key}</th><td>{html.escape(str(value))}</td></tr>" for key, value in shown.items())
        return f"<table>{cells}</table>"

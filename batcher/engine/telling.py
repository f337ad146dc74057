"""What a report of a run can tell beyond its figures: it asks the package `reports`, which is above that of the report.

Invariant: nothing is loaded, read or computed before somebody asks for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from batcher.errors import BatcherError
from batcher.output.report import Report

if TYPE_CHECKING:
    from batcher.reports.quality.estimated import Estimate
    from batcher.reports.whole.inline import InlineReport


class OfReports:
    """Tells what the package `reports` finds."""

    def estimate(self, keyword: str, output_dir: Path, *, seed: int, field: str | None) -> Estimate:
        """Return how good the answers are, by `batcher.estimate`."""
        from batcher.reports.quality.estimate import estimate  # noqa: PLC0415 - NumPy is slow to load

        return estimate(keyword, output_dir, seed=seed, field=field)

    def picture(self, report: Report, output_dir: Path | None) -> str:
        """Return a picture of the report; without a directory, or if its journal cannot be read, without labels."""
        from batcher.reports.card import counts_of, picture_of  # noqa: PLC0415 - few runs are shown in a notebook

        try:
            counts = None if output_dir is None else counts_of(report.keyword, output_dir)
        except BatcherError:
            counts = None
        return picture_of(report, counts)

    def page(self, keyword: str, output_dir: Path) -> InlineReport:
        """Return the page of the run."""
        from batcher.reports.whole.inline import inline  # noqa: PLC0415 - NumPy is slow to load

        return inline(keyword, output_dir)

"""The page of a run in a cell of a notebook.

Invariant: it is the page that `batcher.report` writes, and no file is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from batcher.reports.whole.report import framed, page_of_run
from batcher.tables import Readable
from batcher.words import verb


@dataclass(frozen=True)
class InlineReport(Readable):
    """The page of a run; in a notebook it shows itself in a frame.

    Attributes:
        keyword: names the run.
        page: as HTML.
    """

    keyword: str
    page: str

    def __str__(self) -> str:
        return f"the report of {self.keyword}: a notebook shows it as a page, and {verb('report')} writes it to a file"

    def __repr__(self) -> str:
        return f"{type(self).__name__}(keyword={self.keyword!r}, page=...)"

    def _repr_html_(self) -> str:
        """Show the page in a notebook."""
        return framed(self.page, self.keyword)


def inline(keyword: str, output_dir: Path) -> InlineReport:
    """Return the page of a run.

    Raises:
        OutputError: there is no run, or its journal cannot be read.
    """
    return InlineReport(keyword, page_of_run(keyword, output_dir))

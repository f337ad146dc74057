"""`report`: the report of a run as one page.

Invariant: it only reads, but for the page, which is there whole or not at all, and replaces nothing but a page.
"""

from __future__ import annotations

import html as escaping
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batcher.errors import outermost
from batcher.journal.opening import read_samples
from batcher.output.opening import opened
from batcher.reports.pages.escape import whole
from batcher.reports.pages.files import check_replaceable, page_path, write_page
from batcher.reports.whole.facts import Facts
from batcher.reports.whole.gathering import gathered
from batcher.reports.whole.page import page_of

_FRAME = "width:100%;height:85vh;min-height:480px;max-height:1100px;border:1px solid #8c959f;border-radius:6px"


@dataclass(frozen=True)
class WrittenReport:
    """The report of a run.

    Attributes:
        path: of the page.
        facts: that it shows.
    """

    path: Path
    facts: Facts

    def to_dict(self) -> dict[str, Any]:
        """Return path and facts as a dictionary that JSON can hold."""
        return {"path": str(self.path)} | self.facts.to_dict()

    def __str__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        """Show the page in a notebook."""
        return framed(page_of(self.facts), self.facts.keyword)


@outermost
def report(
    keyword: str,
    output_dir: str | os.PathLike[str] = "output",
    *,
    html: str | os.PathLike[str] | None = None,
) -> WrittenReport:
    """Write what happened in a run to a page: `report_<keyword>.html` in the output directory.

    The page is one file, with its pictures and tables, which loads nothing: open it in a browser, send it, print it.

    Args:
        keyword: names the run.
        output_dir: the run's output directory.
        html: another file to write the page to.

    Raises:
        SettingsError: the keyword is invalid, or a file that is no page of batcher is where the page is to be written.
        OutputError: there is no run, its journal cannot be read, or the page cannot be written.
    """
    given = None if html is None else page_path(html)
    with opened(keyword, output_dir, read_samples) as run, run.journal.snapshot():
        path = given or run.store.report_path
        if given is None:
            check_replaceable(path, "")
        facts = gathered(run)
    write_page(path, page_of(facts))
    return WrittenReport(path, facts)


def page_of_run(keyword: str, output_dir: str | os.PathLike[str] = "output") -> str:
    """Return the page of a run, as `report` writes it, without writing a file.

    Raises:
        SettingsError, OutputError: as for `report`.
    """
    with opened(keyword, output_dir, read_samples) as run, run.journal.snapshot():
        return page_of(gathered(run))


def framed(page: str, keyword: str) -> str:
    """Return a page for a cell of a notebook: in a frame, so that the notebook's style and its own do not mix."""
    title = escaping.escape(f"report of {whole(keyword)}")
    return (
        f'<iframe title="{title}" sandbox="allow-scripts" style="{_FRAME}"'
        f' srcdoc="{escaping.escape(whole_page_text(page))}"></iframe>'
    )


def whole_page_text(page: str) -> str:
    """Return a page that every encoding can hold."""
    return page.encode("utf-8", "backslashreplace").decode()

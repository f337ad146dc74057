"""Takes the pictures of the documentation, with `python tests/pictures.py`.

Invariant: they show the page that the commands of docs/review.md lead to.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

from browser import NARROW, Visit, launched
from pages import Session, blocks_of, steps_of
from PIL import Image
from playwright.sync_api import Page, expect
from programs import ROOT, table
from review_page import Reviewed, correct, opened, press, reviewed

PICTURES = ROOT / "docs" / "pictures"
_REVIEW = ROOT / "docs" / "review.md"
_LABELLED = 37
_COLOURS = 256
_HEAD = 430  # pixels of a report before the paths and versions of this machine


def _run_blocks(session: Session) -> None:
    """Run what stands in the page, but for what waits for Ctrl-C."""
    for block in blocks_of(_REVIEW):
        if block.file:
            session.write(block.file, block.text)
        elif block.info == "console":
            for command, shown in steps_of(block.text):
                if "^C" not in shown:
                    session.run(command)


def _take(page: Page, name: str) -> None:
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shot.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE).save(PICTURES / f"{name}.png", optimize=True)


def _label(page: Page, served: Reviewed, topics: dict[str, str], count: int) -> None:
    """Draw 100 rows, and label some of them rightly."""
    expect(page.locator("#draw-button")).to_be_visible()
    page.locator("#draw-button").press("Enter")
    for number in range(1, count + 1):
        expect(page.locator("#sample-title")).to_have_text(f"Row {number} of the sample")
        label = topics[page.locator("#sample-text dd").first.inner_text()]
        key = page.get_by_role("button", name=label, exact=True).get_attribute("aria-keyshortcuts")
        assert key
        press(page, key, "Enter")
    expect(page.locator("#sample-count")).to_have_text(f"{count} of 100 labelled")


def take(folder: Path, visit: Visit) -> None:
    """Take the pictures.

    Args:
        folder: in which the commands run.
        visit: the windows.
    """
    topics = {row["message"]: row["topic"] for row in table(ROOT / "data" / "topics.csv")}
    with contextlib.ExitStack() as stack:
        session = Session(folder, stack)
        _run_blocks(session)
        served = stack.enter_context(reviewed(visit, session.folder, "messages"))
        page = opened(visit, served)
        press(page, "/")
        page.keyboard.type("card")
        rows = [(row["message"], row["infer"]) for row in served.result()]
        wrong = [at for at, (message, answer) in enumerate(rows) if "card" in message and answer != topics[message]]
        page.goto(f"{served.url}?text=card&row={wrong[1]}")
        correct(page, topics[rows[wrong[1]][0]], why="as the customer says")
        expect(page.locator("#row-undo")).to_be_visible()
        page.reload()
        expect(page.locator("#row-undo")).to_be_visible()
        _take(page, "review-rows")
        page.goto(f"{served.url}?view=sample")
        _label(page, served, topics, _LABELLED)
        expect(page.locator("#sample-sent")).to_have_text("")
        _take(page, "review-sample")
        phone = visit.open(f"{served.url}?view=sample", width=NARROW, dark=True)
        expect(phone.locator("#sample-title")).to_be_visible()
        _take(phone, "review-phone")
        session.run("batcher report messages\n")
        _take(visit.open(session.folder / "output" / "report_messages.html", height=_HEAD), "report")
    visit.end()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name, launched() as browser:
        take(Path(name), Visit(browser))

"""The report in a real browser: nothing runs, nothing is loaded, and axe-core finds nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Lab
from test_whole_report import HARM, WORSE, hostile_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

CHROMIUM = Path("/usr/bin/chromium")
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
]

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium at /usr/bin/chromium")


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """Start a browser for one test: its loop would be in the way of other tests."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=str(CHROMIUM), args=QUIET)
        yield found
        found.close()


@pytest.fixture
def hostile(lab: Lab) -> Path:
    path = lab.directory.parent / "report.html"
    path.write_text(hostile_run(lab, HARM, WORSE), encoding="utf-8")
    return path


def opened(browser: Browser, path: Path, said: list[str], **options: Any) -> Page:
    """Open a page, and note everything that it should not do."""

    def dismiss(dialog: Dialog) -> None:
        said.append(f"dialog {dialog.message}")
        dialog.dismiss()

    page = browser.new_page(**options)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", dismiss)
    page.on("request", lambda request: said.extend({request.url} - {path.as_uri()}))
    page.goto(path.as_uri())
    return page


def test_text_that_means_harm_does_nothing_and_the_page_is_accessible(hostile: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    said: list[str] = []
    with launched() as browser:
        for width, scheme in ((1280, "light"), (390, "dark")):
            page = opened(browser, hostile, said, viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
            assert page.evaluate("document.documentElement.scrollWidth") == width
            found = axe.run(page).response["violations"]
            assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
            page.close()
    assert said == []


def test_tables_are_sorted_and_filtered_by_keyboard_and_without_a_script_there_is_no_dead_control(
    hostile: Path,
) -> None:
    with launched() as browser:
        page = opened(browser, hostile, [])
        table = page.locator("#disagreeing ~ .scroll table")
        table.locator("thead button").first.focus()
        for order in ("descending", "ascending"):
            page.keyboard.press("Enter")
            assert table.locator("thead th").first.get_attribute("aria-sort") == order
            rows = [int(each) for each in table.locator("tbody th").all_inner_texts()]
            assert rows == sorted(rows, reverse=order == "descending")
        page.locator("#disagreeing ~ .filter input").fill("row 11")
        assert table.locator("tbody tr:visible th").all_inner_texts() == ["11"]
        assert page.locator("#disagreeing ~ .filter output").inner_text().startswith("1 of ")
        plain = browser.new_context(java_script_enabled=False).new_page()
        plain.goto(hostile.as_uri())
        assert plain.locator("button, input").count() == 0
        assert plain.locator("h2").count() == page.locator("h2").count() >= 8

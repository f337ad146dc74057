"""The report in a real browser: no text does anything, and its tables are sorted and filtered by keyboard."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import NARROW, WIDE, Visit, check
from conftest import Lab
from test_whole_report import HARM, WORSE, hostile_run


@pytest.fixture(scope="module", autouse=True)
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report, made before the browser starts: it leaves no other loop running beside its own."""
    folder = tmp_path_factory.mktemp("report")
    path = folder / "report.html"
    path.write_text(hostile_run(Lab(folder / "output"), HARM, WORSE), encoding="utf-8")
    return path


def test_text_that_means_harm_does_nothing_and_the_page_is_accessible(hostile: Path, visit: Visit) -> None:
    for width, dark in ((WIDE, False), (NARROW, True)):
        page = visit.open(hostile, width=width, dark=dark)
        page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
        check(page)


def test_tables_are_sorted_and_filtered_by_keyboard_and_without_a_script_there_is_no_dead_control(
    hostile: Path, visit: Visit
) -> None:
    page = visit.open(hostile)
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
    plain = visit.open(hostile, scripts=False)
    assert plain.locator("button, input").count() == 0
    assert plain.locator("h2").count() == page.locator("h2").count() >= 8

"""The pages that batcher writes, in a real browser: on a wide screen and a telephone, light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import NARROW, WIDE, Visit, check
from conftest import Lab
from test_compare import hostile
from test_estimate_shown import evil, made, mood

from batcher.quality.estimating import Sampled
from batcher.reports.quality.compared_page import page_of as compared_page
from batcher.reports.quality.estimated_page import page_of as estimated_page

NAMES = ["estimate", "many labels", "hostile", "compared"]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, made before the browser starts: it leaves no other loop running beside its own."""
    folder = tmp_path_factory.mktemp("pages")
    labels = [f"label_number_{number:02}_of_a_long_list" for number in range(30)]
    many = made({each: 100 - place for place, each in enumerate(labels)}, [Sampled(each, each, 0.1) for each in labels])
    compared = hostile(Lab(folder / "output"))
    pages = [estimated_page(mood()), estimated_page(many), estimated_page(evil()), compared_page(compared)]
    for name, page in zip(NAMES, pages, strict=True):
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_accessible_and_fits_in_light_and_dark_without_a_word_on_the_console(
    folder: Path, visit: Visit, name: str
) -> None:
    for width, dark in ((WIDE, False), (NARROW, True)):
        page = visit.open(folder / f"{name}.html", width=width, dark=dark)
        check(page)
        page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
        check(page)

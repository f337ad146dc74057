"""The page of a run in a real browser, when things are not as usual: what it says, and what it keeps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from browser import Visit, check
from PIL import Image
from playwright.sync_api import expect
from programs import call, table, write_table
from review_page import opened, press, reviewed, sample, saved

LABELS = ["cat", "dog", "bird"]
AWAY = r"Failed to load resource|ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE"

ROWS_READ = "performance.getEntriesByType('resource').filter(one => one.name.includes('sample/rows')).length > 1"


def offline(folder: Path, name: str, *options: str) -> None:
    """Run a table with answers of no service at all, under its own name."""
    done = call("run", f"{name}.csv", "--provider", "offline", "--keyword", name, "--quiet", *options, cwd=folder)
    assert done.status == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_table(folder / "few.csv", ["text"], [[f"text {at}"] for at in range(12)])
    write_table(folder / "none.csv", ["text"], [])
    for at in range(4):
        Image.new("RGB", (40, 30), (at * 60, 90, 120)).save(folder / f"{at}.png")
    write_table(folder / "pictures.csv", ["path", "text"], [[f"{at}.png", f"picture {at}"] for at in range(4)])
    labels = ("--labels", ",".join(LABELS))
    offline(folder, "few", "-p", "{text}", *labels)
    offline(folder, "none", "-p", "{text}", *labels)
    offline(folder, "pictures", "-p", "{text}", *labels, "--image-column", "path")
    write_table(folder / "drawn.csv", ["text"], [[f"text {at}"] for at in range(4)])
    offline(folder, "drawn", "-p", "{text}", *labels)
    sample(folder, "drawn", 3)
    write_table(folder / "vectors.csv", ["text"], [["one"], ["two"]])
    offline(folder, "vectors", "-p", "{text}", "--task", "embedding")
    return folder


def test_labels_that_could_not_be_saved_are_taken_to_the_page_of_the_next_start(folder: Path, visit: Visit) -> None:
    visit.expect(AWAY)
    texts = []
    with reviewed(visit, folder, "few") as served:
        page = visit.open(f"{served.url}?view=sample")
        page.locator("#draw-n").fill("5")
        press(page, "Enter")
        expect(page.locator("#sample-title")).to_have_text("Row 1 of the sample")
        page.wait_for_function(ROWS_READ)  # the first, and those that are read ahead
        served.program.kill()
        served.program.wait()
        for number, key in enumerate("123", start=1):
            expect(page.locator("#sample-title")).to_have_text(f"Row {number} of the sample")
            texts.append(page.locator("#sample-text dd").inner_text())
            press(page, key, "Enter")
        expect(page.locator("#sample-sent")).to_contain_text("3 labels not saved yet")
        check(page)
        with reviewed(visit, folder, "few") as again:
            page.locator("#sample-link").fill(f"  {again.url}\n")
            page.locator("#sample-link").press("Enter")
            page.wait_for_url(re.compile(re.escape(again.url)))
            expect(page.locator("#messages")).to_contain_text("Saved from the page before: 3 labels.")
            saved(page, 3)
            expect(page.locator("#sample-count")).to_have_text("3 of 5 labelled")
            assert "labels=" not in page.url
    assert call("sample", "few", cwd=folder).status == 0
    golds = {row["text"]: row["gold"] for row in table(folder / "output" / "sample_few.csv") if row["gold"]}
    assert golds == dict(zip(texts, LABELS, strict=True))


def test_labels_of_another_run_are_not_taken(folder: Path, visit: Visit) -> None:
    labels = json.dumps({"keyword": "other", "labels": [{"drawn": 1, "gold": "cat", "note": ""}]})
    with reviewed(visit, folder, "few") as served:
        page = visit.open(f"{served.url}?view=sample#labels={labels}")
        expect(page.locator("#messages")).to_contain_text("1 label of the run 'other' came with this link")
        assert "sample/label" not in {path for path, _ in visit.answers(f"{served.url}api/")}


def test_back_does_not_open_a_row_that_was_closed(folder: Path, visit: Visit) -> None:
    with reviewed(visit, folder, "few") as served:
        page = opened(visit, served, "?status=ok")
        page.locator("#rows-body a").first.click()
        expect(page.locator("#row-title")).to_have_text("Row 0")
        press(page, "j", "j")
        expect(page.locator("#row-title")).to_have_text("Row 2")
        press(page, "Escape")
        expect(page.locator("#row")).to_be_hidden()
        expect(page).to_have_url(f"{served.url}?status=ok")
        press(page, "Enter")  # at the line that was left
        expect(page.locator("#row-title")).to_have_text("Row 2")
        page.go_back()
        expect(page.locator("#row")).to_be_hidden()
        page.go_forward()
        expect(page.locator("#row-title")).to_have_text("Row 2")
        press(page, "Escape", "Enter")  # faster than the browser goes back
        expect(page.locator("#row-title")).to_have_text("Row 2")
        expect(page).to_have_url(f"{served.url}?status=ok&row=2")
        press(page, "Escape")
        expect(page).to_have_url(f"{served.url}?status=ok")
        page.go_back()
        expect(page).to_have_url("about:blank")


def test_a_row_that_a_link_has_opened_is_closed_without_leaving_the_page(folder: Path, visit: Visit) -> None:
    with reviewed(visit, folder, "few") as served:
        page = opened(visit, served, "?row=3")
        expect(page.locator("#row-title")).to_have_text("Row 3")
        press(page, "Escape")
        expect(page.locator("#row")).to_be_hidden()
        expect(page).to_have_url(re.compile(re.escape(served.url)))


def test_a_link_that_leads_nowhere_says_so_and_leads_back(folder: Path, visit: Visit) -> None:
    visit.expect("40[04]")
    with reviewed(visit, folder, "few") as served:
        page = visit.open(f"{served.url}?status=done&agreement_below=low")
        expect(page.locator("#rows-empty")).to_contain_text(
            "This link has a filter that cannot be used: status must be ok"
        )
        expect(page.locator("#chips")).to_contain_text("agreement below low")
        page.locator("#empty-clear").click()
        expect(page.locator("#rows-total")).to_have_text("12 rows")
        page.goto(f"{served.url}?from=500")
        expect(page.locator("#rows-empty")).to_contain_text("There is no row from this number on.")
        page.locator("#empty-clear").click()
        expect(page.locator("#rows-body tr")).to_have_count(12)
        page.goto(f"{served.url}?row=500")
        expect(page.locator("#row-body")).to_contain_text("There is no row at position 500; the run has 12.")
        expect(page.locator("#row-correct")).to_be_disabled()


def test_a_run_without_rows_has_no_filters_to_remove_and_nothing_to_draw(folder: Path, visit: Visit) -> None:
    with reviewed(visit, folder, "none") as served:
        page = visit.open(served.url)
        expect(page.locator("#rows-empty")).to_have_text("This run has no rows.", use_inner_text=True)
        page.locator("#tab-sample").click()
        expect(page.locator("#draw-why")).to_have_text("There is no row to draw yet.")
        expect(page.locator("#draw-button")).to_be_hidden()


def test_vectors_are_named_not_shown(folder: Path, visit: Visit) -> None:
    with reviewed(visit, folder, "vectors") as served:
        page = opened(visit, served, "?row=0")
        expect(page.locator("#row-body .part.answer")).to_contain_text(re.compile(r"a vector of \d+ numbers"))
        expect(page.locator("#rows-body .answer").first).to_have_text("vector")
        expect(page.locator("#row-correct")).to_be_hidden()
        expect(page.locator("#row-heard")).to_have_text("Row 0: ok")


def test_a_picture_is_seen_in_the_row_and_while_it_is_labelled(folder: Path, visit: Visit) -> None:
    drawn = "e => e.decode().then(() => e.naturalWidth)"
    with reviewed(visit, folder, "pictures") as served:
        page = opened(visit, served, "?row=1")
        assert page.locator("#row-body .pictures img").evaluate(drawn) == 40
        page.goto(f"{served.url}?view=sample")
        page.locator("#draw-button").click()
        assert page.locator("#sample-text > .pictures img").evaluate(drawn) == 40


def test_an_export_that_fails_says_so_on_the_page(folder: Path, visit: Visit) -> None:
    visit.expect(AWAY)
    with reviewed(visit, folder, "few") as served:
        page = opened(visit, served)
        served.program.kill()
        served.program.wait()
        page.locator("#export-csv").click()
        expect(page.locator("#messages")).to_contain_text("batcher does not answer")


def test_whether_hand_labels_differ_is_counted_only_if_it_is_asked(visit: Visit, tmp_path: Path) -> None:
    write_table(tmp_path / "own.csv", ["text"], [[f"text {at}"] for at in range(6)])
    offline(tmp_path, "own", "-p", "{text}", "--labels", ",".join(LABELS))
    with reviewed(visit, tmp_path, "own") as served:
        page = visit.open(f"{served.url}?view=sample")
        page.locator("#draw-button").click()
        for row in (1, 2):
            expect(page.locator("#sample-title")).to_have_text(f"Row {row} of the sample")
            press(page, "1", "Enter")
        saved(page, 2)
        page.goto(served.url)
        option = page.locator("#filter-marks label", has_text="Hand label differs")
        expect(option.locator(".count")).to_have_text("")
        option.click()
        expect(option.locator(".count")).to_have_text(re.compile(r"\d"))


def test_a_row_that_cannot_be_read_yet_is_never_labelled_in_place_of_another(folder: Path, visit: Visit) -> None:
    visit.expect(r"failed: GET .*sample/rows|Failed to load resource")
    with reviewed(visit, folder, "drawn") as served:
        page = opened(visit, served)
        page.route("**/api/sample/rows*", lambda route: route.abort("connectionrefused"))
        page.locator("#tab-sample").click()
        page.locator("#messages").get_by_text("batcher does not answer").wait_for()
        press(page, "1", "Enter")
        saved(page, 0)
        page.unroute("**/api/sample/rows*")
        page.get_by_role("button", name="Show the next row").click()
        expect(page.locator("#sample-title")).to_have_text("Row 1 of the sample")
        press(page, "1", "Enter")
        saved(page, 1)

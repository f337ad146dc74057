"""The rows of a run are read, filtered and corrected in a real browser, also beside a real run."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from browser import NARROW, WIDE, Visit, check
from playwright.sync_api import Locator, Page, expect
from programs import call, finish, local_server, started, table, write_table
from review_page import (
    EVIL_ANSWER,
    EVIL_COLUMN,
    EVIL_LABELS,
    HOSTILE,
    KEYS,
    TOPICS,
    Reviewed,
    copied,
    correct,
    label_some,
    make_hostile,
    make_messages,
    opened,
    press,
    reviewed,
    saved,
    serving,
    tab_to,
)

ROWS = 240


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_messages(folder, 25)
    label_some(folder, "messages", TOPICS)
    return folder


@pytest.fixture(scope="module")
def hostile_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    make_hostile(folder)
    return folder


@pytest.fixture
def hostile(hostile_runs: Path, tmp_path: Path) -> Path:
    return copied(hostile_runs, tmp_path)


@pytest.fixture
def folder(runs: Path, tmp_path: Path) -> Path:
    return copied(runs, tmp_path)


@pytest.fixture(scope="module")
def shared(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reviewed]:
    """A page for all tests that change nothing."""
    with serving(copied(runs, tmp_path_factory.mktemp("shared")), "messages") as served:
        yield served


def line(page: Page, position: int) -> Locator:
    return page.locator(f'#rows-body tr[data-position="{position}"]')


def answer(page: Page) -> Locator:
    """The answer of the row that is open."""
    return page.locator("#row-body .part.answer .big")


def total(page: Page, rows: int) -> None:
    """Wait until the filters show this number of rows."""
    shown = f"{rows} of {ROWS} rows" if rows != ROWS else f"{ROWS} rows"
    expect(page.locator("#rows-total")).to_have_text(re.compile(rf"^{shown}\b"))


def other_than(label: str) -> str:
    return next(each for each in TOPICS if each != label)


def corrected(page: Page, label: str) -> None:
    """Wait until the open row shows a correction."""
    expect(page.locator("#correct")).to_have_count(0)
    expect(answer(page)).to_have_text(label)
    expect(page.locator("#row-undo")).to_be_visible()


# -- Reading


def test_the_list_and_the_rows_are_read_by_keyboard_and_the_next_rows_are_there_before_they_are_opened(
    shared: Reviewed, visit: Visit
) -> None:
    page, rows = opened(visit, shared), shared.result()
    total(page, ROWS)
    press(page, "j", "j", "j", "k")
    with page.expect_response(re.compile("api/rowset")):  # the rows behind it
        press(page, "Enter")
    expect(page.locator("#row-title")).to_have_text("Row 1")
    expect(answer(page)).to_have_text(rows[1]["infer"])
    expect(page.locator("#row-body .cells").first).to_contain_text(rows[1]["message"])
    page.get_by_text("Prompt as sent").click()
    expect(page.locator("#row-body")).to_contain_text(f"What is this message to a bank about? {rows[1]['message']}")
    expect(page.locator("#row-body")).to_contain_text("2 attempts")
    asked = len(visit.answers(f"{shared.url}api/row/"))
    for position in range(2, 21):
        press(page, "j")
        expect(page.locator("#row-title")).to_have_text(f"Row {position}")
        expect(answer(page)).to_have_text(rows[position]["infer"])
    assert len(visit.answers(f"{shared.url}api/row/")) == asked
    press(page, "Escape")
    expect(page.locator("#row")).to_be_hidden()
    expect(line(page, 20)).to_have_class(re.compile("is-current"))
    press(page, "n")
    expect(line(page, 200)).to_be_visible()
    expect(page.locator("#rows-body tr")).to_have_count(ROWS - 200)
    page.go_back()
    expect(line(page, 0)).to_be_visible()


Row = dict[str, str]


def below(row: Row, column: str) -> bool:
    """Return whether a label is uncertain; an answer that is no label is found by its status."""
    return row["infer_status"] == "ok" and row[column] != "" and float(row[column]) < 0.7


FILTERS: list[tuple[str, str, str, Callable[[Row], bool]]] = [
    ("status", "invalid", 'input[name=status][value="invalid"]', lambda row: row["infer_status"] == "invalid"),
    ("status", "error", 'input[name=status][value="error"]', lambda row: row["infer_status"] == "error"),
    ("label", "card_lost", 'input[name=label][value="card_lost"]', lambda row: row["infer"] == "card_lost"),
    ("corrected", "1", "input[name=corrected]", lambda row: row["infer_by"] == "hand"),
    ("sample", "1", "input[name=sample]", lambda row: "gold" in row),
    ("disagree", "1", "input[name=disagree]", lambda row: row.get("gold", "") not in ("", row["infer"])),
    ("agreement_below", "0.7", "#filter-agreement_below", lambda row: below(row, "infer_agreement")),
    ("confidence_below", "0.7", "#filter-confidence_below", lambda row: below(row, "infer_confidence")),
]  # fmt: skip


def test_each_filter_is_set_by_keyboard_and_shows_and_counts_the_rows_that_the_files_name(
    folder: Path, visit: Visit
) -> None:
    with reviewed(visit, folder, "messages") as served:
        page = opened(visit, served, "?row=4")
        correct(page, other_than(served.result()[4]["infer"]))
        expect(page.locator("#row-undo")).to_be_visible()
        press(page, "Escape")
        page.locator("#files-write").click()
        expect(page.locator("#files")).to_be_hidden()
        rows, drawn = served.result(), table(folder / "output" / "sample_messages.csv")
        gold = {row["message"]: row["gold"] for row in drawn}
        rows = [row | ({"gold": gold[row["message"]]} if row["message"] in gold else {}) for row in rows]
        page.goto(served.url)
        total(page, ROWS)
        press(page, "f")
        for _, _, box, _ in FILTERS:  # in the order of the page: one way with Tab reaches them all
            tab_to(page, page.locator(box))
        for name, value, box, fits in FILTERS:
            count = sum(map(fits, rows))
            assert 0 < count < ROWS, name
            said = page.locator(".option", has=page.locator(box)).locator(".count")
            expect(said).to_have_text("" if name == "disagree" else str(count))  # unasked, it would end the blindness
            page.locator(box).focus()
            press(page, "Space")
            total(page, count)
            expect(said).to_have_text(str(count))
            assert parse_qs(urlsplit(page.url).query) == {name: [value]}
            page.reload()
            total(page, count)
            shown = page.locator("#rows-body tr").evaluate_all("all => all.map(one => Number(one.dataset.position))")
            assert shown == [position for position, row in enumerate(rows) if fits(row)]
            page.go_back()
            total(page, ROWS)


def test_filters_join_and_each_count_is_of_the_rows_that_the_others_show(shared: Reviewed, visit: Visit) -> None:
    page, rows = opened(visit, shared), shared.result()
    press(page, "/")
    page.keyboard.type("CARD")
    names = ("id", "channel", "message", "infer", "infer_error")
    found = [row for row in rows if any("card" in row[name].lower() for name in names)]
    total(page, len(found))
    press(page, "Escape", "f")
    tab_to(page, page.locator('input[name=label][value="card_lost"]'))
    press(page, "Space")
    total(page, sum(row["infer"] == "card_lost" for row in found))
    assert parse_qs(urlsplit(page.url).query) == {"text": ["CARD"], "label": ["card_lost"]}
    for label in ("card_lost", "card_delivery", "pin_forgotten"):
        count = page.locator(".option", has=page.locator(f'input[name=label][value="{label}"]')).locator(".count")
        expect(count).to_have_text(str(sum(row["infer"] == label for row in found)))
    page.go_back()
    total(page, len(found))
    page.get_by_role("button", name="Remove the filter text: CARD").press("Enter")
    total(page, ROWS)


def test_what_is_exported_is_what_the_filters_show(shared: Reviewed, visit: Visit) -> None:
    page = opened(visit, shared, "?status=ok&label=card_lost")
    with page.expect_download() as download:
        page.locator("#export-csv").press("Enter")
    exported = Path(download.value.path()).read_text(encoding="utf-8")
    assert download.value.suggested_filename == "review_messages.csv"
    rows = list(csv.DictReader(io.StringIO(exported, newline=""), strict=True))
    assert rows == [row for row in shared.result() if row["infer"] == "card_lost"]


def test_two_runs_side_by_side_show_the_rows_that_differ_and_no_others(shared: Reviewed, visit: Visit) -> None:
    page = visit.open(f"{shared.url}?view=sides")
    page.locator("#sides-other").select_option("again")
    expect(page.locator("#sides-body tr").first).to_be_visible()
    shown = page.locator("#sides-body tr").evaluate_all("all => all.map(one => Number(one.dataset.position))")
    both = list(zip(shared.result(), table(shared.folder / "output" / "all_again.csv"), strict=True))
    names = ("infer", "infer_status")
    assert shown == [at for at, (one, other) in enumerate(both) if any(one[name] != other[name] for name in names)]
    page.reload()
    expect(page.locator("#sides-body tr")).to_have_count(len(shown))


# -- Correcting


def test_a_correction_survives_a_run_with_other_chunks_and_is_taken_back_as_easily(folder: Path, visit: Visit) -> None:
    before = table(folder / "output" / "all_messages.csv")
    right = other_than(before[7]["infer"])
    with reviewed(visit, folder, "messages") as served:
        page = opened(visit, served, "?row=7")
        expect(answer(page)).to_have_text(before[7]["infer"])
        correct(page, right, why="a card, not \N{LEFT DOUBLE QUOTATION MARK}an account\N{RIGHT DOUBLE QUOTATION MARK}")
        corrected(page, right)
        for word in ("Ada", "a card, not", before[7]["infer"], right):
            expect(page.locator("#row-body .past li").first).to_contain_text(word)
        expect(line(page, 7).locator(".answer")).to_have_text(right)
        expect(line(page, 7).locator(".mark").first).to_have_text("by hand")
        expect(page.locator("#files-pending")).to_have_text("1 change not in the files yet")
    again(folder, "--chunk-size", "70")
    rows = table(folder / "output" / "all_messages.csv")
    assert (rows[7]["infer"], rows[7]["infer_by"]) == (right, "hand")
    assert [{**row, "infer_by": ""} for row in rows if row["infer_by"] != "hand"] == [
        {**row, "infer_by": ""} for row in before if row["id"] != rows[7]["id"]
    ]
    with reviewed(visit, folder, "messages") as served:
        page = opened(visit, served, "?corrected=1&row=7")
        corrected(page, right)
        press(page, "u")
        expect(answer(page)).to_have_text(before[7]["infer"])
        expect(page.locator("#row-undo")).to_be_hidden()
        expect(page.locator("#row-body .past li")).to_have_count(2)
    again(folder)
    rows = table(folder / "output" / "all_messages.csv")
    assert rows[7]["infer_by"] != "hand"
    assert [{**row, "infer_by": ""} for row in rows] == [{**row, "infer_by": ""} for row in before]


def again(folder: Path, *options: str) -> None:
    """Run the job once more; it sends no request."""
    done = call("run", "--config", "messages.toml", "--param", "temperature=1", "--quiet", *options, cwd=folder)
    assert done.status in (0, 1), done.stderr
    done = call("verify", "messages", cwd=folder)
    assert done.status == 0, done.stdout + done.stderr


def test_two_tabs_see_each_other_and_a_row_that_is_corrected_in_both_loses_nothing(folder: Path, visit: Visit) -> None:
    visit.expect("409")
    with reviewed(visit, folder, "messages") as served:
        one = opened(visit, served, "?row=3")
        other = visit.beside(one, f"{served.url}?row=3")
        was = served.result()[3]["infer"]
        first, second = [label for label in TOPICS if label != was][:2]
        expect(answer(other)).to_have_text(was)
        correct(one, first)
        corrected(one, first)
        corrected(other, first)
        expect(line(other, 3).locator(".mark").first).to_have_text("by hand")
        press(other, "e", KEYS[second])  # the form is open while the other tab takes the correction back
        press(one, "u")
        expect(answer(one)).to_have_text(was)
        press(other, "Enter")
        expect(other.locator(".said-here")).to_contain_text(was)
        expect(other.get_by_role("button", name="Save mine")).to_be_focused()
        press(other, "Enter")
        corrected(other, second)
        corrected(one, second)
        expect(one.locator("#row-body .past li")).to_have_count(3)


def test_what_is_acknowledged_survives_the_death_of_the_page_s_process(folder: Path, visit: Visit) -> None:
    visit.expect("ERR_CONNECTION|ERR_INCOMPLETE_CHUNKED|ERR_EMPTY_RESPONSE|ERR_SOCKET|ERR_NETWORK")
    with reviewed(visit, folder, "messages") as served:
        page = opened(visit, served, "?row=5")
        right = other_than(served.result()[5]["infer"])
        correct(page, right)
        corrected(page, right)
        served.program.kill()
        served.program.wait()
        expect(page.locator("#lost")).to_be_visible()
        check(page)
    assert call("verify", "messages", cwd=folder).status != 0  # the files do not have it yet
    done = call("merge", "messages", cwd=folder)
    assert done.status == 0, done.stderr
    row = table(folder / "output" / "all_messages.csv")[5]
    assert (row["infer"], row["infer_by"]) == (right, "hand")
    assert call("verify", "messages", cwd=folder).status == 0


def test_a_run_at_work_is_watched_paused_and_resumed_and_takes_a_correction(tmp_path: Path, visit: Visit) -> None:
    texts = [f"Message {number}" for number in range(300)]
    write_table(tmp_path / "slow.csv", ["text"], [[text] for text in texts])
    options = ("slow.csv", "--prompt", "One of: a, b. {text}", "--labels", "a,b", "--model", "any", "--quiet")
    with (
        local_server(cwd=tmp_path) as server,
        started("run", *options, "--base-url", server.base_url, "--rps", "8", cwd=tmp_path) as run,
    ):
        server.wait_for(3)
        with reviewed(visit, tmp_path, "slow") as served:
            page = visit.open(f"{served.url}?row=0")
            expect(answer(page)).to_have_text(re.compile("a|b"))
            expect(page.locator("#strip-state")).to_have_text("Running")
            expect(page.locator("#strip-words")).to_contain_text("rows/s")
            page.locator("#pause").press("Enter")
            expect(page.locator("#strip-state")).to_have_text("Paused")
            check(page)
            was = answer(page).inner_text()
            page.locator("#row-title").focus()
            press(page, "e", {"a": "2", "b": "1"}[was], "Enter")
            corrected(page, {"a": "b", "b": "a"}[was])
            page.goto(f"{served.url}?row=299")
            expect(page.locator("#row-body .badge").first).to_have_text("no answer yet")
            page.locator("#pause").press("Enter")
            expect(page.locator("#strip-state")).to_have_text("Running")
            assert call("limit", "slow", "--rps", "500", cwd=tmp_path).status == 0
            expect(answer(page)).to_have_text(re.compile("a|b"))  # it comes while the row is open
            expect(page.locator("#strip")).to_be_hidden()
        done = finish(run)
    assert done.status == 0, done.stderr
    rows = table(tmp_path / "output" / "all_slow.csv")
    assert (rows[0]["infer"], rows[0]["infer_by"]) == ({"a": "b", "b": "a"}[was], "hand")
    assert len(rows) == 300
    assert call("verify", "slow", cwd=tmp_path).status == 0


# -- Text from others, and how it looks


# Elements in which U+202E could turn the words around it.
_TURNED = """() => [...document.querySelectorAll("body *")]
    .filter(one => [...one.childNodes].some(each => each.nodeType === 3 && each.data.includes("\u202e")))
    .filter(one => !one.closest("[dir=auto], bdi")).map(one => one.outerHTML)"""


def test_text_from_data_and_models_is_text_wherever_it_stands(hostile: Path, visit: Visit) -> None:
    with reviewed(visit, hostile, "hostile") as served:
        page, rows = visit.open(f"{served.url}?row=0"), served.result()
        expect(page.locator("#rows-body tr")).to_have_count(len(HOSTILE))
        for position, text in enumerate(HOSTILE):
            if position:
                press(page, "j")
            expect(page.locator("#row-title")).to_have_text(f"Row {position}")
            body = page.locator("#row-body")
            expect(body).to_contain_text(text)
            expect(body).to_contain_text(EVIL_COLUMN)
            expect(body).to_contain_text(rows[position]["infer"] or "refused")
            page.locator("#row-body details").evaluate_all("all => all.forEach(one => one.open = true)")
            assert page.evaluate(_TURNED) == []
        page.goto(f"{served.url}?label={EVIL_ANSWER}&reason={HOSTILE[1]}&text={HOSTILE[3]}")
        expect(page.locator("#chips li").first).to_be_visible()
        press(page, "/")
        page.keyboard.insert_text(HOSTILE[0])
        expect(page.locator("#chips")).to_contain_text(HOSTILE[0])


def test_what_people_write_is_text_too(hostile: Path, visit: Visit) -> None:
    with reviewed(visit, hostile, "hostile") as served:
        page = visit.open(f"{served.url}?row=0")
        expect(page.locator("#row-title")).to_have_text("Row 0")
        press(page, "e", "2")
        tab_to(page, page.locator("#correct-why"))
        page.keyboard.insert_text(HOSTILE[1] + HOSTILE[2])
        press(page, "Enter")
        expect(page.locator("#row-body .past li").first).to_contain_text(HOSTILE[1])
        expect(answer(page)).to_have_text(EVIL_LABELS[1])
        page.goto(f"{served.url}?view=sample")
        expect(page.locator("#sample-title")).to_be_visible()
        press(page, "1", "n")
        page.keyboard.insert_text(HOSTILE[0])
        press(page, "Enter", "Enter")
        saved(page, 1)
        page.goto(f"{served.url}?view=sample&result=1")
        expect(page.locator("#outcome-estimate")).to_contain_text(EVIL_LABELS[0])
        expect(page.locator("#outcome-body tr")).to_have_count(1)
        assert page.evaluate(_TURNED) == []
        assert page.locator("svg[onload], img, script:not([src])").count() == 0


def test_on_a_telephone_rows_are_filtered_and_corrected_by_touch(folder: Path, visit: Visit) -> None:
    with reviewed(visit, folder, "messages") as served:
        page = opened(visit, served, width=NARROW)
        found = [at for at, row in enumerate(served.result()) if row["infer"] == "card_lost"]
        page.locator("#filters-button").tap()
        page.locator('input[name=label][value="card_lost"]').tap()
        total(page, len(found))
        page.locator("#filters-close").tap()
        line(page, found[1]).tap()
        expect(page.locator("#row-title")).to_have_text(f"Row {found[1]}")
        page.locator("#row-correct").tap()
        page.locator("#correct").get_by_role("button", name="exchange_rate").tap()
        check(page)
        page.get_by_role("button", name="Save the correction").tap()
        corrected(page, "exchange_rate")
        page.locator("#row-close").tap()
        expect(line(page, found[1]).locator(".answer")).to_have_text("exchange_rate")


VIEWS = {
    "?label=card_lost": "#rows-body tr",
    "?status=invalid&status=error&row=5": "#row-body .part.answer",
    "?view=sample": "#sample-title",
    "?view=sample&result=1": "#outcome-body tr",
    "?view=sides&other=again": "#sides-body tr",
}


@pytest.mark.parametrize(("width", "dark"), [(WIDE, False), (NARROW, True)], ids=["wide and light", "narrow and dark"])
def test_each_view_is_accessible_and_fits(shared: Reviewed, visit: Visit, width: int, dark: bool) -> None:
    page = visit.open(shared.url, width=width, dark=dark)
    for view, shown in VIEWS.items():
        page.goto(shared.url + view)
        expect(page.locator(shown).first).to_be_visible()
        check(page)
    press(page, "?")
    expect(page.locator("#keys")).to_be_visible()
    check(page)

"""A sample is labelled blind, in a real browser and by keyboard alone."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from browser import Visit
from playwright.sync_api import Page, expect
from programs import call, table
from review_page import INTENTS, TOPICS, copied, make_intents, make_messages, press, reviewed, saved

KEYS = "123456789ABCDFGHILMOPQRTVWXYZ"
DRAWN = 30


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_messages(folder, DRAWN)
    make_intents(folder)
    return folder


@pytest.fixture
def folder(runs: Path, tmp_path: Path) -> Path:
    return copied(runs, tmp_path)


def text_of(page: Page) -> str:
    return page.locator("#sample-text").inner_text()


def at(page: Page, number: int) -> None:
    """Wait until a row of the sample is shown."""
    expect(page.locator("#sample-title")).to_have_text(f"Row {number} of the sample")


def counted(page: Page, text: str) -> None:
    expect(page.locator("#sample-count")).to_have_text(text)


def by_hand(folder: Path, keyword: str) -> dict[str, str]:
    """Have the hand labels written into the sample's file, and read them: by the cell that was labelled."""
    done = call("sample", keyword, cwd=folder)
    assert done.status == 0, done.stderr
    text = "message" if keyword == "messages" else "text"
    return {row[text]: row["gold"] for row in table(folder / "output" / f"sample_{keyword}.csv")}


def test_thirty_rows_are_labelled_by_keyboard_and_the_model_s_label_is_never_shown(folder: Path, visit: Visit) -> None:
    messages = [row["message"] for row in table(folder / "output" / "sample_messages.csv")]
    draw = random.Random(4)
    typed: dict[str, str] = {}
    with reviewed(visit, folder, "messages") as served:
        page = visit.open(f"{served.url}?view=sample")
        for number in range(1, DRAWN + 1):
            at(page, number)
            [message] = [each for each in messages if each in text_of(page)]
            shown = page.locator("body").inner_text()
            assert [label for label in TOPICS if shown.count(label) != 1] == []  # each on its own button alone
            typed[message] = draw.choice(TOPICS)
            press(page, KEYS[TOPICS.index(typed[message])].lower(), "Enter")
        expect(page.locator("#sample-end-title")).to_have_text(f"All {DRAWN} rows are labelled")
        counted(page, f"{DRAWN} of {DRAWN} labelled")
        expect(page.locator("#sample-width")).to_have_text(re.compile(r"± \d+\.\d points"))
        saved(page, DRAWN)
        answers = visit.answers(f"{served.url}api/")
    assert {path for path, _ in answers} == {"run", "sample", "sample/rows", "sample/label"}
    rows = "".join(text for path, text in answers if path == "sample/rows")
    assert [each for each in (*TOPICS, "answer", "status", "agreement", "login trouble") if f'"{each}"' in rows] == []
    assert by_hand(folder, "messages") == typed
    model = {row["message"]: row["infer"] if row["infer_status"] == "ok" else None for row in served.result()}
    found = json.loads(call("estimate", "messages", "--json", cwd=folder).stdout)
    confusion = found["confusion"]
    pairs = Counter(
        {
            (label, gold): count
            for label, line in zip(confusion["model"], confusion["counted"], strict=True)
            for gold, count in zip(confusion["gold"], line, strict=True)
        }
    )
    assert +pairs == Counter((model[message], label) for message, label in typed.items())


def test_a_label_is_taken_back_a_row_is_skipped_and_a_note_is_kept(folder: Path, visit: Visit) -> None:
    with reviewed(visit, folder, "messages") as served:
        page = visit.open(f"{served.url}?view=sample")
        at(page, 1)
        first = text_of(page)
        press(page, "1", "Enter")
        at(page, 2)
        counted(page, f"1 of {DRAWN} labelled")
        press(page, "u")
        at(page, 1)
        counted(page, f"0 of {DRAWN} labelled")
        press(page, "s")
        at(page, 2)
        counted(page, f"0 of {DRAWN} labelled, 1 skipped")
        press(page, "2", "n")
        page.keyboard.type('unclear: "card" ؟ 1u2s')
        press(page, "Enter", "Enter")
        at(page, 3)
        counted(page, f"1 of {DRAWN} labelled, 1 skipped")
        saved(page, 1)
        page.goto(f"{served.url}?view=sample")  # another day: what was skipped comes at its turn
        counted(page, f"1 of {DRAWN} labelled")
        at(page, 1)
        assert text_of(page) == first
        press(page, "ArrowRight")
        at(page, 2)
        expect(page.locator("#sample-note")).to_have_value('unclear: "card" ؟ 1u2s')
        expect(page.get_by_role("button", name="card_delivery")).to_have_attribute("aria-pressed", "true")
    labels = [label for label in by_hand(folder, "messages").values() if label]
    assert labels == ["card_delivery"]


def test_of_77_labels_one_is_found_and_chosen_by_typing(folder: Path, visit: Visit) -> None:
    with reviewed(visit, folder, "intents") as served:
        page = visit.open(f"{served.url}?view=sample")
        typed = {}
        for number in range(1, 6):
            at(page, number)
            [intent] = [each for each in INTENTS if each in text_of(page)]
            typed[f"Message {INTENTS.index(intent)} is about {intent}"] = intent
            what, how = intent.split("_")
            page.keyboard.type(f"{how} {what}"[:4])
            expect(page.get_by_role("option", name=intent)).to_be_visible()
            page.keyboard.type(f"{how} {what}"[4:])
            expect(page.get_by_role("option").first).to_have_attribute("data-label", intent)
            press(page, "Enter")
            expect(page.locator(".chosen")).to_have_text(f"Label: {intent}")
            press(page, "Enter")
        expect(page.locator("#sample-end-title")).to_have_text("All 5 rows are labelled")
        saved(page, 5)
    assert by_hand(folder, "intents") == typed

"""What a person decides on the page stays with its row, whatever ordinary commands do, and can be taken back."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from fake_service import Anything, Service, answer_to

import batcher
from batcher.errors import SettingsError
from batcher.journal.opening import read_journal
from batcher.output.directory import Store
from batcher.output.joining import merge
from batcher.records import Completion, Result, Status
from batcher.reviewing.deciding import Changed, Decided, Decisions

TEXTS = [f"item {number}" for number in range(12)]
PROMPT = "{text}"


def write(path: Path, texts: Sequence[str] = TEXTS, *more: str) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "text", *more], *([text.split()[-1], text, *more] for text in texts)])
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "table.csv")


@pytest.fixture
def done(lab: Lab, table: Path) -> Lab:
    lab.run(table, Service(TEXTS), PROMPT, chunk_size=5)
    return lab


def page(lab: Lab, who: str = "Ada") -> Decisions:
    return Decisions(Store(lab.directory, "k"), who)


def now(lab: Lab, position: int) -> int | None:
    with read_journal(lab.directory / "journal_k.sqlite") as journal:
        [state] = journal.states(position, position + 1)
        return state.result


def ok(answer: str) -> Result:
    return Result(Status.OK, answer, "")


def correct(lab: Lab, position: int, answer: str, why: str = "") -> Decided:
    return asyncio.run(page(lab).correct(position, now(lab, position), ok(answer), why))


def undo(lab: Lab, position: int) -> Decided:
    return asyncio.run(page(lab).undo(position, now(lab, position) or 0))


def finish(lab: Lab) -> str:
    return asyncio.run(page(lab).finish())


def answers(lab: Lab, column: str = "infer") -> dict[str, str]:
    return {row["text"]: row[column] for row in lab.rows(encoding="utf-8-sig")}


def expected(texts: Sequence[str] = TEXTS, **corrected: str) -> dict[str, str]:
    by_hand = {name.replace("_", " "): answer for name, answer in corrected.items()}
    return {text: by_hand.get(text, answer_to(text)) for text in texts}


def verified(lab: Lab, table: Path | None = None) -> batcher.Verification:
    found = batcher.verify("k", table, output_dir=lab.directory)
    assert found.findings == ()
    return found


def copies(lab: Lab) -> list[str]:
    return sorted(each.name for each in lab.directory.iterdir() if "bak" in each.name)


def test_a_correction_is_in_the_journal_at_once_and_in_the_files_when_they_are_written(done: Lab, table: Path) -> None:
    before = done.files()
    decided = correct(done, 7, "by hand", "it was sarcasm")
    assert (decided.via, decided.result) == ("journal", now(done, 7))
    assert done.files() == before
    assert page(done).pending() == 1
    [line] = done.query("SELECT who, why, origin, is_undo FROM corrections")
    assert line == ("Ada", "it was sarcasm", "review", 0)
    assert finish(done)
    assert answers(done) == expected(item_7="by hand")
    assert answers(done, "infer_by") == {text: "hand" if text == "item 7" else "m" for text in TEXTS}
    assert page(done).pending() == 0
    assert verified(done, table).ok
    assert verified(done).ok
    assert copies(done) == []
    assert batcher.status("k", done.directory).corrected == 1


def test_one_that_is_taken_back_leaves_the_same_bytes(lab: Lab, table: Path) -> None:
    lab.run(table, Service(TEXTS), PROMPT, chunk_size=5, with_="raw,by,finish,attempts,model")
    before = lab.files()
    correct(lab, 7, "by hand")
    finish(lab)
    assert lab.files() != before
    undo(lab, 7)
    assert page(lab).pending() == 1
    finish(lab)
    assert lab.files() == before
    assert verified(lab, table).ok
    assert batcher.status("k", lab.directory).corrected == 0
    assert lab.run(table, Service([]), PROMPT, chunk_size=5, with_="raw,by,finish,attempts,model").requests_now == 0
    assert lab.files() == before


def test_decisions_about_one_row_follow_one_another(done: Lab, table: Path) -> None:
    correct(done, 7, "first")
    correct(done, 7, "second")
    undo(done, 7)
    finish(done)
    assert answers(done) == expected()
    undo(done, 7)
    finish(done)
    assert answers(done) == expected(item_7="second")
    undo(done, 7)
    correct(done, 7, answer_to("item 7"))
    finish(done)
    assert answers(done) == expected()
    assert answers(done, "infer_by")["item 7"] == "hand"
    assert verified(done, table).ok
    assert done.query("SELECT is_undo FROM corrections ORDER BY id DESC") == [(0,), (0,), (1,), (1,), (1,), (0,)]


def test_who_has_seen_another_answer_is_told_and_nothing_is_written(done: Lab) -> None:
    seen = now(done, 7)
    correct(done, 7, "first")
    with pytest.raises(Changed) as caught:
        asyncio.run(page(done).correct(7, seen, ok("second")))
    assert caught.value.result == now(done, 7)
    with pytest.raises(Changed):
        asyncio.run(page(done).undo(7, seen or 0))
    assert done.query("SELECT count(*) FROM corrections") == [(1,)]


def test_what_cannot_be_decided_is_refused_in_words(done: Lab, lab: Lab) -> None:
    with pytest.raises(SettingsError, match="no row 12"):
        asyncio.run(page(done).correct(12, None, ok("x")))
    with pytest.raises(SettingsError, match="row 7 is not corrected"):
        undo(done, 7)
    assert done.query("SELECT count(*) FROM corrections") == [(0,)]


def test_only_a_label_of_the_run_corrects_a_label(lab: Lab, table: Path) -> None:
    labelled = Service([], instead=lambda _call: Completion("good", "stop"))
    labelled.prompts = Anything()
    lab.run(table, labelled, PROMPT, labels=["good", "bad"])
    with pytest.raises(SettingsError, match="'worse' is none of the 2 labels"):
        correct(lab, 7, "worse")
    correct(lab, 7, "bad")
    finish(lab)
    assert answers(lab)["item 7"] == "bad"
    assert verified(lab, table).ok


COMMANDS: dict[str, tuple[dict[str, Any], str]] = {
    "another chunk size": ({"chunk_size": 3}, "infer"),
    "the same again": ({"chunk_size": 5}, "infer"),
    "another column": ({"chunk_size": 5, "answer_column": "label"}, "label"),
    "more beside the answers": ({"chunk_size": 5, "with_": "model"}, "infer"),
    "another encoding": ({"chunk_size": 5, "encoding": "utf-8-sig"}, "infer"),
    "retry-failed": ({"chunk_size": 5, "retry_failed": True}, "infer"),
    "dedup": ({"chunk_size": 5, "dedup": True}, "infer"),
}


@pytest.mark.parametrize("is_followed", [False, True], ids=["", "files written"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_correction_is_in_the_files_after(done: Lab, table: Path, command: str, is_followed: bool) -> None:
    options, column = COMMANDS[command]
    correct(done, 7, "by hand")
    correct(done, 2, "for a while")
    undo(done, 2)
    if is_followed:
        finish(done)
    report = done.run(table, Service([]), PROMPT, **options)
    assert (report.requests_now, report.ok, report.corrected) == (0, 12, 1)
    assert answers(done, column) == expected(item_7="by hand")
    assert answers(done, f"{column}_by")["item 7"] == "hand"
    assert list(report.frame()[f"{column}_by"]).count("hand") == 1
    assert verified(done, table).ok
    assert copies(done) == []


ROWS: dict[str, Sequence[str]] = {
    "a row in front": ["new", *TEXTS],
    "another order": TEXTS[::-1],
    "fewer rows": TEXTS[2:9],
}


@pytest.mark.parametrize("name", ROWS)
def test_a_correction_moves_with_its_row(done: Lab, table: Path, name: str) -> None:
    correct(done, 7, "by hand")
    correct(done, 3, "for a while")
    undo(done, 3)
    done.run(write(table, ROWS[name]), Service(["new"]), PROMPT, chunk_size=5)
    assert answers(done) == expected(ROWS[name], item_7="by hand")
    done.run(write(table), Service([]), PROMPT, chunk_size=5, on_change="redo")
    assert answers(done) == expected(item_7="by hand")
    assert verified(done, table).ok
    assert copies(done) == []


def test_merge_lets_the_files_follow(done: Lab, table: Path) -> None:
    correct(done, 7, "by hand")
    merge("k", done.directory, partial=True)
    partly = {row["text"]: (row["infer"], row["infer_by"]) for row in done.rows("partial")}
    assert partly["item 7"] == ("by hand", "hand")
    assert partly["item 6"] == (answer_to("item 6"), "m")
    merge("k", done.directory)
    assert answers(done) == expected(item_7="by hand")
    assert verified(done, table).ok

"""What a person decides on the page stays with its row, whatever ordinary commands do, and can be taken back."""

from __future__ import annotations

import asyncio
import csv
import json
import random
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Lab
from fake_service import Anything, Call, Service, answer_to
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import COMPARISON

import batcher
from batcher.endpoint import Endpoint
from batcher.errors import Interrupted, KeywordBusy, SettingsError
from batcher.journal.entries import Decision
from batcher.journal.opening import open_journal, open_to_decide, read_journal
from batcher.journal.sampling import Gold
from batcher.output.control import ControlFile, Wish
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
        return next((state.result for state in journal.states(position, position + 1)), None)


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


# -- `verify`


def kinds(lab: Lab, table: Path | None = None) -> set[str]:
    return {each.kind for each in batcher.verify("k", table, output_dir=lab.directory).findings}


def test_verify_says_which_rows_the_files_lack_and_what_to_do(done: Lab, table: Path) -> None:
    correct(done, 7, "by hand")
    [finding] = batcher.verify("k", table, output_dir=done.directory).findings
    assert (finding.kind, finding.rows) == ("file-behind", ((7, 7),))
    assert "`batcher.merge`" in finding.what
    undo(done, 7)
    assert kinds(done) == set()


FORGED = {
    "INSERT INTO corrections VALUES (-9, 1.0, '', '', 'review', 0, NULL)",
    "INSERT INTO corrections VALUES (8, 1.0, '', '', 'review', 0, NULL)",
    "UPDATE corrections SET is_undo = 1 WHERE id = -1",
    "UPDATE corrections SET is_undo = 0 WHERE id = -2",
    "UPDATE corrections SET at = 'yesterday' WHERE id = -2",
    "DELETE FROM rereads WHERE id = -1",
}


@pytest.mark.parametrize("change", sorted(FORGED))
def test_verify_finds_a_forged_line(done: Lab, change: str) -> None:
    correct(done, 7, "by hand")
    undo(done, 7)
    finish(done)
    assert kinds(done) == set()
    done.change(change)
    assert "correction-other" in kinds(done)


def test_verify_finds_a_correction_that_was_changed_in_the_journal(done: Lab) -> None:
    correct(done, 7, "by hand")
    finish(done)
    done.change("UPDATE results SET answer = 'by a foot' WHERE id = -1")
    assert "changed" in kinds(done)
    done.change("UPDATE results SET answer = 'by hand' WHERE id = -1")
    assert kinds(done) == set()


# -- Files that people change


def edit(path: Path, text: str, answer: str) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    for line in lines:
        if line[header.index("text")] == text:
            line[header.index("infer")] = answer
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])


@pytest.mark.parametrize("by", ["run", "finish", "merge"])
def test_a_file_that_a_person_has_changed_meanwhile_gives_its_corrections_too(done: Lab, table: Path, by: str) -> None:
    correct(done, 7, "on the page")
    edit(done.path(5), "item 6", "in the file")
    assert kinds(done, table) == {"file-behind"}
    planned = batcher.plan(
        table, PROMPT, keyword="k", output_dir=done.directory, endpoints=[Endpoint("m")], chunk_size=5
    )
    assert str(planned).startswith("k: 12 rows: 12 answered (2 by hand), 0 new")
    assert batcher.status("k", done.directory).corrected == 2
    if by == "run":
        done.run(table, Service([]), PROMPT, chunk_size=5)
    elif by == "merge":
        merge("k", done.directory)
    else:
        finish(done)
    assert answers(done) == expected(item_7="on the page", item_6="in the file")
    assert answers(done, "infer_by")["item 6"] == "hand"
    assert verified(done, table).ok
    assert copies(done) == []
    origins = dict(done.query("SELECT id, origin FROM corrections"))
    assert sorted(origins.values()) == ["5_k.csv", "review"]


def test_a_row_whose_correction_was_taken_back_is_counted_when_its_file_corrects_it(done: Lab, table: Path) -> None:
    correct(done, 7, "on the page")
    undo(done, 7)
    finish(done)
    edit(done.path(5), "item 7", "in the file")
    assert batcher.status("k", done.directory).corrected == 1
    assert done.run(table, Service([]), PROMPT, chunk_size=5).corrected == 1
    assert verified(done, table).ok


def test_a_row_that_is_corrected_in_its_file_after_the_page_has_the_later_answer(done: Lab, table: Path) -> None:
    correct(done, 7, "on the page")
    edit(done.path(5), "item 7", "in the file")
    finish(done)
    assert answers(done) == expected(item_7="in the file")
    undo(done, 7)
    done.run(table, Service([]), PROMPT, chunk_size=5)
    assert answers(done) == expected()
    assert verified(done, table).ok


# -- Beside a run at work


def deciding(lab: Lab, position: int, answer: str | None, who: str = "Ada", run: int = 1) -> Callable[[], None]:
    """Ask the run at work for a decision, as the page does."""

    def ask() -> None:
        found = None if answer is None else ok(answer)
        decision = Decision(position, now(lab, position), found, who, "")
        wish = Wish(f"{position} {answer} {random.random()}", run, "decide", decision._asdict())
        ControlFile(lab.directory / "control_k.json").add(wish)

    return ask


def test_a_run_at_work_takes_decisions_and_its_files_have_them_in_the_end(lab: Lab, table: Path) -> None:
    at = {
        3.1: deciding(lab, 1, "by hand"),
        3.2: deciding(lab, 0, "for a while"),
        8.1: deciding(lab, 0, None),
        8.2: deciding(lab, 6, "also by hand"),
        8.3: deciding(lab, 99, "of no row"),
    }
    service = Service(TEXTS)
    report = lab.run(table, service, PROMPT, at, chunk_size=5, endpoints=[Endpoint("m", max_concurrency=1)])
    assert (report.ok, report.corrected, len(service.calls)) == (12, 2, 12)
    assert answers(lab) == expected(item_1="by hand", item_6="also by hand")
    assert [row["infer_by"] for row in lab.rows()].count("hand") == 2
    assert list(report.frame()["infer_by"]).count("hand") == 2
    assert verified(lab, table).ok
    assert copies(lab) == []
    said = lab.query("SELECT kind, detail FROM events WHERE kind LIKE '%by hand' AND kind NOT LIKE 'corr%' ORDER BY id")
    assert said[:4] == [("decided by hand", str(-number)) for number in range(1, 5)]
    assert said[4:] == [("refused by hand", "the run has no row 99")]
    before = lab.files()
    assert lab.run(table, Service([]), PROMPT, chunk_size=5).requests_now == 0
    assert lab.files() == before


def test_a_run_tells_who_saw_another_answer(lab: Lab, table: Path) -> None:
    at = {3.1: deciding(lab, 1, "first"), 3.2: deciding(lab, 1, "second"), 3.3: deciding(lab, 1, "third")}
    lab.run(table, Service(TEXTS), PROMPT, at, endpoints=[Endpoint("m", max_concurrency=1)])
    said = lab.query("SELECT kind, detail FROM events WHERE kind LIKE '%by hand' AND kind NOT LIKE 'corr%' ORDER BY id")
    assert said == [("decided by hand", "-1"), ("overtaken by hand", "-1"), ("overtaken by hand", "-1")]
    assert answers(lab)["item 1"] == "first"


def test_what_was_decided_before_a_run_stopped_is_in_the_files_of_the_next(lab: Lab, table: Path) -> None:
    at = {3.1: deciding(lab, 1, "by hand"), 8.0: lab.request_stop}
    with pytest.raises(Interrupted):
        lab.run(table, Service(TEXTS), PROMPT, at, chunk_size=3, endpoints=[Endpoint("m", max_concurrency=1)])
    merge("k", lab.directory, partial=True)
    partly = {row["text"]: row["infer"] for row in lab.rows("partial")}
    assert partly["item 1"] == "by hand"
    correct(lab, 0, "also by hand")
    lab.run(table, Service(TEXTS[7:]), PROMPT, chunk_size=3)
    assert answers(lab) == expected(item_0="also by hand", item_1="by hand")
    assert verified(lab, table).ok


def test_hand_labels_have_who_gave_them_also_beside_a_run(done: Lab, table: Path) -> None:
    batcher.sample("k", 3, output_dir=done.directory)
    golds = [Gold(1, "good", "", note="sure"), Gold(2, "", "")]
    assert asyncio.run(page(done).label(golds)).via == "journal"
    with pytest.raises(SettingsError, match="no row 9"):
        asyncio.run(page(done).label([Gold(9, "good", "")]))
    values = {"golds": [[2, "bad", "review", 0.0, "Bea", ""]]}
    wish = Wish("label", 2, "label", values)
    at = {1.0: lambda: ControlFile(done.directory / "control_k.json").add(wish)}
    more = write(table, [*TEXTS, "new"])
    done.run(more, Service(["new"], lambda _call: 9.0), PROMPT, at)
    found = done.query("SELECT drawn, gold, origin, who, note FROM gold ORDER BY id")
    assert found == [
        (1, "good", "review", "Ada", "sure"),
        (2, "", "review", "Ada", None),
        (2, "bad", "review", "Bea", None),
    ]


# -- Other runs


def test_a_run_of_several_answers_keeps_its_votes_when_a_correction_is_taken_back(lab: Lab, table: Path) -> None:
    def vote(call: Call) -> Completion:
        return Completion("good" if call.nth % 3 or call.prompt.startswith("item 7") else "bad", "stop")

    service = Service([], instead=vote)
    service.prompts = Anything()
    options: dict[str, Any] = {"labels": ["good", "bad"], "samples": 3, "with_": "agreement,votes,by", "chunk_size": 5}
    lab.run(table, service, PROMPT, **options)
    before = lab.files()
    assert {row["infer_agreement"] for row in lab.rows()} > {"1"}
    for position in (2, 7):
        correct(lab, position, "bad")
        undo(lab, position)
    correct(lab, 4, "bad")
    finish(lab)
    assert verified(lab, table).ok
    undo(lab, 4)
    assert lab.run(table, Service([]), PROMPT, **options).requests_now == 0
    assert lab.files() == before
    assert verified(lab, table).ok
    correct(lab, 4, "bad")
    more = Service([], instead=vote)
    more.prompts = Anything()
    report = lab.run(table, more, PROMPT, **options | {"samples": 5})
    assert report.requests_now == 2 * 11
    assert (lab.rows()[4]["infer"], lab.rows()[4]["infer_by"]) == ("bad", "hand")
    assert verified(lab, table).ok


@pytest.mark.parametrize("is_undone", [True, False])
@pytest.mark.parametrize("row", [0, 3])
def test_rows_that_share_answers_get_more_of_them_beside_a_corrected_one(lab: Lab, row: int, is_undone: bool) -> None:
    def vote(call: Call) -> Completion:
        return Completion("good" if call.nth % 3 else "bad", "stop")

    service = Service([], instead=vote)
    service.prompts = Anything()
    frame = pd.DataFrame({"text": ["same", "b", "c", "same", "d", "same"]})
    options: dict[str, Any] = {"labels": ["good", "bad"], "samples": 3, "with_": "votes,by", "dedup": True}
    lab.run(frame, service, PROMPT, **options)
    for samples in (5, 7):
        correct(lab, row, "bad")
        if is_undone:
            undo(lab, row)
        assert lab.run(frame, service, PROMPT, **options | {"samples": samples}).requests_now == 2 * 4
        assert verified(lab).ok
        by = [each["infer_by"] for each in lab.rows()]
        assert [number for number, each in enumerate(by) if each == "hand"] == ([] if is_undone else [row])
    assert lab.run(frame, Service([]), PROMPT, **options | {"samples": 7}).requests_now == 0


def test_a_second_endpoint_is_not_asked_about_a_corrected_row_nor_again_about_others(lab: Lab, table: Path) -> None:
    def sure(call: Call) -> Completion:
        return Completion("good" if call.endpoint == "big" or call.nth % 2 else "bad", "stop")

    service = Service([], instead=sure)
    service.prompts = Anything()
    options: dict[str, Any] = {
        "labels": ["good", "bad"],
        "samples": 2,
        "then": Endpoint("big"),
        "threshold": 0.9,
        "with_": "by,votes",
    }
    lab.run(table, service, PROMPT, **options)
    before = lab.files()
    assert {row["infer_by"] for row in lab.rows()} == {"big"}
    correct(lab, 3, "bad")
    undo(lab, 3)
    assert lab.run(table, Service([]), PROMPT, **options).requests_now == 0
    assert lab.files() == before
    correct(lab, 3, "bad")
    assert lab.run(table, Service([]), PROMPT, **options).requests_now == 0
    assert lab.rows()[3]["infer_by"] == "hand"
    assert verified(lab, table).ok


def test_of_rows_that_share_an_answer_only_the_corrected_one_changes(lab: Lab) -> None:
    frame = pd.DataFrame({"id": list("abcd"), "text": ["same", "same", "same", "other"]})
    service = Service(["same", "other"])
    lab.run(frame, service, PROMPT, dedup=True)
    correct(lab, 1, "by hand")
    correct(lab, 0, "for a while")
    undo(lab, 0)
    for rows in ([0, 1, 2, 3], [3, 0, 1, 2], [2, 1, 0, 3]):
        assert lab.run(frame.iloc[rows], Service([]), PROMPT, dedup=True).requests_now == 0
        assert {row["id"]: row["infer"] for row in lab.rows()} == {
            "a": "answer to same",
            "b": "by hand",
            "c": "answer to same",
            "d": "answer to other",
        }
    assert verified(lab).ok


def test_a_corrected_row_whose_question_changes_is_asked_and_a_correction_of_another_stays(
    done: Lab, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    correct(done, 7, "by hand")
    correct(done, 3, "also by hand")
    finish(done)
    texts = [text if text != "item 7" else "item 7 anew" for text in TEXTS]
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *([number, text] for number, text in enumerate(texts))])
    service = Service(["item 7 anew"])
    done.run(table, service, PROMPT, chunk_size=5, on_change="redo", quiet=False, no_progress=True)
    assert len(service.calls) == 1
    assert answers(done) == expected(texts, item_3="also by hand")
    assert "1 answer by hand belongs to a row that is asked again" in capsys.readouterr().err
    assert copies(done) == ["5_k.csv.bak"]
    done.run(write(table), Service([]), PROMPT, chunk_size=5, on_change="redo")
    assert answers(done) == expected(item_7="by hand", item_3="also by hand")


def test_a_kept_answer_is_kept_again_when_its_correction_is_taken_back(done: Lab, table: Path) -> None:
    done.run(table, Service([]), "Once more: {text}", chunk_size=5, on_change="reuse")
    before = done.files()
    [(proof,)] = done.query("SELECT substr(is_kept, 1, 1) FROM rows WHERE position = 7")
    correct(done, 7, "by hand")
    correct(done, 7, "by hand again")
    finish(done)
    assert answers(done) == expected(item_7="by hand again")
    assert verified(done, table).ok
    undo(done, 7)
    finish(done)
    assert answers(done) == expected()
    assert done.query("SELECT substr(is_kept, 1, 1) FROM rows WHERE position = 7") == [(proof,)]
    assert verified(done, table).ok
    done.run(table, Service([]), "Once more: {text}", chunk_size=5)
    assert [row["infer"] for row in done.rows()] == [*expected().values()]
    assert before.keys() == done.files().keys()


def test_other_labels_leave_a_correction_and_what_is_behind_it(lab: Lab, table: Path) -> None:
    service = Service([], instead=lambda _call: Completion("good", "stop"))
    service.prompts = Anything()
    lab.run(table, service, "{text}", labels=["good", "bad"], with_="by")
    correct(lab, 7, "bad")
    correct(lab, 3, "bad")
    undo(lab, 3)
    for labels in (["good", "bad", "ugly"], ["good", "bad"]):
        assert lab.run(table, Service([]), "{text}", labels=labels, with_="by", on_change="reuse").requests_now == 0
        assert answers(lab) == {text: "bad" if text == "item 7" else "good" for text in TEXTS}
        assert verified(lab, table).ok
    undo(lab, 7)
    assert lab.run(table, Service([]), "{text}", labels=["good", "bad"], with_="by").requests_now == 0
    assert answers(lab) == dict.fromkeys(TEXTS, "good")
    assert verified(lab, table).ok


def test_a_column_of_the_table_with_that_name_stays_and_it_is_said(
    lab: Lab, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.DataFrame({"text": TEXTS, "infer_by": "me"})
    lab.run(frame, Service(TEXTS), PROMPT)
    correct(lab, 7, "by hand")
    assert "The table has a column 'infer_by' already" in finish(lab)
    assert answers(lab) == expected(item_7="by hand")
    assert {row["infer_by"] for row in lab.rows()} == {"me"}
    lab.run(frame, Service([]), PROMPT, quiet=False, no_progress=True)
    assert "The table has a column 'infer_by' already" in capsys.readouterr().err
    assert verified(lab).ok


SCHEMA = {
    "type": "object",
    "properties": {"tone": {"enum": ["good", "bad"]}, "stars": {"type": "integer"}},
    "required": ["tone", "stars"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("file_format", ["csv", "parquet"])
def test_a_field_is_corrected_and_the_files_keep_their_types(lab: Lab, file_format: str) -> None:
    frame = pd.DataFrame({"number": range(12), "text": TEXTS})
    service = Service([], instead=lambda _call: Completion('{"tone": "good", "stars": 4}', "stop"))
    service.prompts = Anything()
    options: dict[str, Any] = {"schema": SCHEMA, "format": file_format, "chunk_size": 5}
    lab.run(frame, service, PROMPT, **options)
    with pytest.raises(SettingsError, match="stays as it is"):
        correct(lab, 7, '{"tone": "worse", "stars": 4}')
    correct(lab, 7, '{"tone": "bad", "stars": 1}')
    finish(lab)
    path = lab.directory / f"all_k.{file_format}"
    found = pd.read_parquet(path) if file_format == "parquet" else pd.read_csv(path)
    assert [*found["infer_tone"]] == ["good"] * 7 + ["bad"] + ["good"] * 4
    assert [*found["infer_stars"]] == [4] * 7 + [1] + [4] * 4
    assert [*found["infer_by"]].count("hand") == 1
    assert verified(lab).ok
    before = path.read_bytes()
    lab.run(frame, Service([]), PROMPT, **options)
    assert path.read_bytes() == before


def test_an_estimate_counts_what_the_model_said(lab: Lab, table: Path) -> None:
    service = Service([], instead=lambda _call: Completion("good", "stop"))
    service.prompts = Anything()
    lab.run(table, service, PROMPT, labels=["good", "bad"])
    batcher.sample("k", 12, output_dir=lab.directory)
    drawn = lab.query("SELECT id, position FROM drawn")
    golds = [Gold(number, "bad" if position < 6 else "good", "") for number, position in drawn]
    asyncio.run(page(lab).label(golds))
    before = batcher.estimate("k", lab.directory).to_dict() | {"notes": []}
    for position in range(6):
        correct(lab, position, "bad")
    correct(lab, 0, "good")
    undo(lab, 1)
    undo(lab, 2)
    undo(lab, 2)
    after = batcher.estimate("k", lab.directory).to_dict()
    assert after | {"notes": []} == before
    assert "5 answers were corrected by hand" in after["notes"][0]


def test_a_line_of_a_requests_file_has_the_correction_beside_its_response(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    asked = ({"custom_id": text, "messages": [{"role": "user", "content": text}]} for text in TEXTS)
    path.write_text("".join(f"{json.dumps(each)}\n" for each in asked))
    body = b'{"choices": [{"message": {"content": "good"}}]}'
    service = Service(TEXTS, instead=lambda _call: Completion("good", "stop", raw=body))
    lab.run(path, service, requests=True)
    result = lab.directory / "all_k.jsonl"
    before = result.read_bytes()
    correct(lab, 7, "by hand")
    finish(lab)
    found = [json.loads(line) for line in result.read_text().splitlines()]
    assert [each.get("corrected", {}).get("answer") for each in found] == [None] * 7 + ["by hand"] + [None] * 4
    assert found[7]["response"]["body"]["choices"][0]["message"]["content"] == "good"
    assert verified(lab, path).ok
    undo(lab, 7)
    finish(lab)
    assert result.read_bytes() == before


def test_vectors_are_not_corrected(lab: Lab) -> None:
    lab.run(["one"], Service(["one"]))
    lab.change("UPDATE runs SET question = json_set(question, '$.task', 'embedding')")
    with pytest.raises(SettingsError, match="vectors"):
        correct(lab, 0, "by hand")


# -- Any order


class Rows:
    """What the rows of a table should have, by their texts, kept without batcher.

    Attributes:
        texts: of the rows, in order; each is a row of its own.
        by_hand: the latest answer of a person to each text that ever had one, and whether it is taken back.
        asked: the texts that were ever asked.
    """

    def __init__(self) -> None:
        self.texts = TEXTS[:6]
        self.by_hand: dict[str, tuple[str, bool]] = {}
        self.asked: set[str] = set()

    def answers(self) -> dict[str, str]:
        held = {text: answer for text, (answer, is_undone) in self.by_hand.items() if not is_undone}
        return {text: held.get(text, answer_to(text)) for text in self.texts}


STEPS = st.one_of(
    st.tuples(st.just("correct"), st.integers(0, 5), st.sampled_from(["x", "y", 'a,"b"\n'])),
    st.tuples(st.just("undo"), st.integers(0, 5), st.none()),
    st.tuples(st.just("run"), st.sampled_from([2, 3, 6, 100]), st.sampled_from([{}, {"with_": "raw,attempts"}])),
    st.tuples(st.just("run"), st.sampled_from([2, 3]), st.sampled_from([{"dedup": True}, {"retry_failed": True}])),
    st.tuples(st.just("rebuild"), st.sampled_from([2, 3, 6]), st.none()),
    st.tuples(st.just("move"), st.permutations(range(6)), st.none()),
    st.tuples(st.just("change"), st.integers(0, 5), st.sampled_from(["anew", "again"])),
    st.tuples(st.just("edit"), st.integers(0, 5), st.sampled_from(["z", "w"])),
    st.tuples(st.just("finish"), st.none(), st.none()),
)


class Table:
    """A table under the keyword `k` that people and commands change, each step checked against `Rows`."""

    def __init__(self, folder: Path) -> None:
        self.lab, self.rows, self.size = Lab(folder / "output"), Rows(), 3
        self.path = folder / "table.csv"

    def check(self) -> None:
        assert answers(self.lab) == self.rows.answers()
        assert [row["text"] for row in self.lab.rows()] == self.rows.texts
        assert verified(self.lab, self.path).ok

    def run(self, size: int | None = None, options: dict[str, Any] | None = None) -> None:
        rows = self.rows
        self.size = size or self.size
        new = set(rows.texts) - rows.asked
        with self.path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["text"], *([text] for text in rows.texts)])
        given: dict[str, Any] = {"chunk_size": self.size, "on_change": "redo", **(options or {})}
        report = self.lab.run(self.path, Service(new), PROMPT, **given)
        rows.asked |= new
        assert report.requests_now == len(new)
        assert report.corrected == sum(text in rows.by_hand and not rows.by_hand[text][1] for text in rows.texts)
        self.check()

    def correct(self, position: int, answer: str) -> None:
        correct(self.lab, position, answer)
        self.rows.by_hand[self.rows.texts[position]] = answer, False

    def undo(self, position: int, _: None) -> None:
        text = self.rows.texts[position]
        if text not in self.rows.by_hand:
            with pytest.raises(SettingsError):
                undo(self.lab, position)
            return
        undo(self.lab, position)
        answer, is_undone = self.rows.by_hand[text]
        self.rows.by_hand[text] = answer, not is_undone

    def edit(self, position: int, answer: str) -> None:
        start = position - position % self.size
        if self.lab.rows(start)[position - start]["infer"] != answer:
            edit(self.lab.path(start), self.rows.texts[position], answer)
            self.rows.by_hand[self.rows.texts[position]] = answer, False
        self.run()

    def finish(self, _: None, __: None) -> None:
        finish(self.lab)
        self.check()

    def move(self, places: Sequence[int], _: None) -> None:
        self.rows.texts = [self.rows.texts[each] for each in places]
        self.run()

    def change(self, position: int, more: str) -> None:
        changed = f"{' '.join(self.rows.texts[position].split()[:2])} {more}"
        if changed not in self.rows.texts:
            self.rows.texts[position] = changed
        self.run()

    def rebuild(self, size: int, _: None) -> None:
        finish(self.lab)  # what only a file has would be lost with it
        for path in self.lab.directory.glob("[0-9a]*_k.csv"):
            path.unlink()
        self.run(size)


@settings(max_examples=10)
@given(steps=st.lists(STEPS, min_size=2, max_size=9))
def test_whatever_people_and_commands_do_each_row_has_the_latest_answer_of_a_person(
    steps: list[tuple[str, Any, Any]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = Table(Path(folder))
        table.run()
        for step, *what in steps:
            getattr(table, step)(*what)


# -- Ends in the middle


def test_a_file_that_was_written_before_the_process_ended_holds_no_corrections_of_its_own(
    done: Lab, table: Path
) -> None:
    correct(done, 7, "by hand")
    correct(done, 2, "for a while")
    finish(done)
    undo(done, 2)
    journal = done.directory / "journal_k.sqlite"
    as_it_was = journal.read_bytes()
    finish(done)
    after = done.files()
    journal.write_bytes(as_it_was)
    finish(done)
    assert done.files() == after
    assert done.query("SELECT count(*) FROM corrections") == [(3,)]
    assert verified(done, table).ok
    journal.write_bytes(as_it_was)
    done.run(table, Service([]), PROMPT, chunk_size=5)
    assert done.files() == after
    assert done.query("SELECT count(*) FROM corrections") == [(3,)]


def test_files_of_which_some_have_the_column_already_all_get_it(done: Lab, table: Path) -> None:
    before = {start: done.path(start).read_bytes() for start in (0, 10)}
    chunks = done.query("SELECT start, origin, sha256 FROM chunks")
    correct(done, 7, "by hand")
    finish(done)
    after = done.files()
    for start, origin, sha256 in chunks:
        if start in before:
            done.path(start).write_bytes(before[start])
            is_made = f"origin = x'{origin.hex()}', sha256 = x'{sha256.hex()}'"
            done.change(f"UPDATE chunks SET {is_made} WHERE start = {start}")  # noqa: S608 - constants of this file
    assert kinds(done, table) == {"file-behind"}
    merge("k", done.directory, partial=True)
    assert [row["infer_by"] for row in done.rows("partial")].count("hand") == 1
    done.path("partial").unlink()
    merge("k", done.directory)
    assert done.files() == after
    assert verified(done, table).ok


def test_a_run_that_plans_or_does_not_answer_is_waited_for_and_then_named(done: Lab) -> None:
    before, seen = Decisions(Store(done.directory, "k"), "Ada", patience_s=0.3), now(done, 7)
    with open_journal(done.directory / "journal_k.sqlite") as journal:
        with pytest.raises(KeywordBusy, match=r"'k' is being planned by process .*: decide again when it sends"):
            asyncio.run(before.correct(7, seen, ok("by hand")))
        with journal.planning(COMPARISON):
            journal.start_run(5, {})
        with pytest.raises(KeywordBusy, match="'k' does not answer"):
            asyncio.run(before.correct(7, seen, ok("by hand")))
        with pytest.raises(KeywordBusy, match="it writes the files itself when it ends"):
            finish(done)
    assert not (done.directory / "control_k.json").exists()
    correct(done, 7, "by hand")


async def test_decisions_of_one_page_wait_for_one_another(done: Lab) -> None:
    own, seen = page(done), [now(done, position) for position in range(12)]
    made = await asyncio.gather(*(own.correct(at, seen[at], ok(f"by hand {at}")) for at in range(12)))
    assert {each.result for each in made} == {*range(-12, 0)}
    undone = await asyncio.gather(*(own.undo(0, made[0].result or 0) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in undone] == [Decided, Changed, Changed]
    assert own.pending() == 12


def test_a_report_has_a_correction_before_and_after_the_files_do(lab: Lab) -> None:
    frame = pd.DataFrame({"text": TEXTS}, index=[*"abcdefghijkl"])
    report = lab.run(frame, Service(TEXTS), PROMPT, chunk_size=5)
    assert "infer_by" not in report.frame()
    correct(lab, 7, "by hand")
    for _ in range(2):
        assert report.frame()["infer"]["h"] == report.answers["h"] == "by hand"
        finish(lab)
    more = pd.DataFrame({"text": [*TEXTS, "new", "newer"]})
    with pytest.raises(Interrupted) as stopped:
        lab.run(more, Service(["new", "newer"], lambda _call: 9.0), PROMPT, at={1.0: lab.request_stop}, grace=0)
    correct(lab, 3, "also by hand")
    found = stopped.value.report.frame()
    assert ([*found["infer_by"]].count("hand"), found["infer"][3], found["infer"][7]) == (2, "also by hand", "by hand")


def test_cells_that_no_file_can_hold_are_taken_from_the_input_again(lab: Lab) -> None:
    frame = pd.DataFrame({"text": [f"item {number}" for number in range(6)], "note": ["a\0b"] + 5 * ["plain"]})
    texts = [*frame["text"]]
    at = {2.1: deciding(lab, 0, "by hand")}
    one: dict[str, Any] = {"endpoints": [Endpoint("m", max_concurrency=1)]}
    report = lab.run(frame, Service(texts), PROMPT, at, chunk_size=3, **one)
    assert [*report.frame()["infer_by"]] == ["hand", *5 * ["m"]]
    assert [row["infer"] for row in lab.rows()] == ["by hand", *map(answer_to, texts[1:])]
    assert verified(lab).ok
    assert copies(lab) == []


def test_a_run_waits_while_a_decision_is_written(done: Lab, table: Path) -> None:
    pen = open_to_decide(done.directory / "journal_k.sqlite")
    closing = threading.Timer(0.5, pen.close)  # longer than a run waits for others
    closing.start()
    assert done.run(table, Service([]), PROMPT, chunk_size=5).requests_now == 0
    closing.join()


def test_a_correction_is_in_files_of_another_format_and_back(done: Lab, table: Path) -> None:
    correct(done, 7, "by hand")
    for file_format in ("parquet", "csv"):
        assert done.run(table, Service([]), PROMPT, chunk_size=5, format=file_format).requests_now == 0
        correct(done, 3, file_format)
        finish(done)
        path = done.directory / f"all_k.{file_format}"
        found = pd.read_parquet(path) if file_format == "parquet" else pd.read_csv(path)
        held = dict(zip(found["text"], found["infer"], strict=True))
        assert held == expected(item_7="by hand", item_3=file_format)
        assert [*found["infer_by"]].count("hand") == 2
        assert verified(done, table).ok
    assert copies(done) == []


def test_two_runs_are_compared_by_what_their_models_said(lab: Lab, table: Path) -> None:
    service = Service([], instead=lambda call: Completion({"m": "good", "n": "bad"}[call.endpoint], "stop"))
    service.prompts = Anything()
    for keyword, model in (("k", "m"), ("other", "n")):
        lab.run(table, service, PROMPT, labels=["good", "bad"], keyword=keyword, endpoints=[Endpoint(model)])
    before = batcher.compare("k", "other", output_dir=lab.directory).to_dict() | {"notes": []}
    for position in range(6):
        correct(lab, position, "bad")
    undo(lab, 0)
    assert batcher.compare("k", "other", output_dir=lab.directory).to_dict() | {"notes": []} == before


def test_an_answer_that_was_replaced_in_one_row_is_read_again_for_the_others_that_share_it(lab: Lab) -> None:
    frame = pd.DataFrame({"id": ["a", "b"], "text": ["same", "same"]})
    service = Service([], instead=lambda _call: Completion("ugly", "stop"))
    service.prompts = Anything()
    options: dict[str, Any] = {"dedup": True, "on_change": "reuse"}
    assert lab.run(frame, service, "{text}", labels=["good", "bad"], **options).invalid == 2
    correct(lab, 0, "good")
    report = lab.run(frame, Service([]), "{text}", labels=["good", "bad", "ugly"], **options)
    assert (report.requests_now, report.ok) == (0, 2)
    assert [row["infer"] for row in lab.rows()] == ["good", "ugly"]
    assert verified(lab).ok

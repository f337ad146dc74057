"""The sample on the page: labelled blind, row by row, beside the sample's file and other tabs."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Lab
from labelled_runs import run_with
from page_client import Client, page_of

import batcher
from batcher.errors import KeywordBusy
from batcher.journal.opening import read_journal
from batcher.journal.schema import raise_generation
from batcher.reports.quality.narrowing import Widths, how_many_more

LABELS = ["good", "bad", "ugly"]
ROWS = 60
SEED = 5


def answers_of(rows: int) -> list[str]:
    """Return what the model says: labels, and sometimes none."""
    drawn = random.Random(SEED)
    return [drawn.choice([*LABELS, *LABELS, *LABELS, "neither"]) for _ in range(rows)]


ANSWERS = answers_of(ROWS)


def truth(position: int) -> str:
    """Return the right label of a row: mostly the model's."""
    return LABELS[position % 3] if position % 4 == 0 or ANSWERS[position] not in LABELS else ANSWERS[position]


@pytest.fixture
def done(lab: Lab) -> Lab:
    """A run whose rows have labels."""
    run_with(lab, ANSWERS, labels=LABELS)
    return lab


@pytest.fixture
def drawn(done: Lab) -> Lab:
    """A run of which 30 rows were drawn."""
    batcher.sample("k", 30, output_dir=done.directory)
    return done


def cells_of(row: Mapping[str, Any]) -> list[str]:
    return [text for _, text in row["cells"]]


def number_of(row: Mapping[str, Any]) -> int:
    return int(cells_of(row)[0].removeprefix("row "))


def label(client: Client, number: int, **given: Any) -> Any:
    reply = client.post("api/sample/label", drawn=number, **given)
    assert reply.status == 200, reply
    return reply.json


def label_all(client: Client, most: int | None = None) -> None:
    numbers = [each["drawn"] for each in client.get("api/sample")["rows"] if not each["is_done"]][:most]
    for row in client.get("api/sample/rows", at=",".join(map(str, numbers)))["rows"]:
        label(client, row["drawn"], gold=truth(number_of(row)))


def sample_file(lab: Lab) -> Path:
    return lab.directory / "sample_k.csv"


def in_file(lab: Lab) -> dict[int, str]:
    with sample_file(lab).open(encoding="utf-8", newline="") as file:
        return {int(each["sample_row"]): each["gold"] for each in csv.DictReader(file) if each["gold"] not in {"", "?"}}


def in_journal(lab: Lab) -> dict[int, str]:
    query = "SELECT drawn, gold FROM gold WHERE id IN (SELECT max(id) FROM gold GROUP BY drawn) AND gold <> ''"
    return dict(lab.query(query))


def write_into(lab: Lab, golds: Mapping[int, str], *, later_s: float = 10.0, start: bytes | None = None) -> None:
    """Write into the file as a person does, some time later.

    Args:
        lab: of the run.
        golds: by row.
        later_s: when, after now.
        start: the file as it was opened; default: as it is.
    """
    path = sample_file(lab)
    lines = list(csv.reader((path.read_bytes() if start is None else start).decode().splitlines()))
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(lines[0])
        out.writerows([*line[:-1], golds.get(int(line[0]), line[-1])] for line in lines[1:])
    os.utime(path, (time.time() + later_s,) * 2)


# -- Blind


def texts_in(found: Any) -> Iterator[str]:
    """Yield every text and name in a reply."""
    if isinstance(found, dict):
        for name, value in found.items():
            yield name
            yield from texts_in(value)
    elif isinstance(found, list):
        for each in found:
            yield from texts_in(each)
    else:
        yield str(found)


@pytest.mark.parametrize("per_label", [False, True])
def test_no_reply_has_anything_that_the_model_said(lab: Lab, per_label: bool) -> None:
    secret = {f"row {number}": f"secret{number % 3}" for number in range(ROWS)}
    run_with(lab, [*secret.values()], labels=[*{*secret.values()}, "other"], chunk_size=7)
    batcher.sample("k", 9, per_label=per_label, output_dir=lab.directory)
    with page_of(lab.directory) as (client, _):
        whole = client.get("api/sample")
        labels = whole.pop("labels")
        numbers = [each["drawn"] for each in whole["rows"]]
        rows = client.get("api/sample/rows", at=",".join(map(str, numbers)))
        given = label(client, numbers[0], gold="other")
        given.pop("gold")
        again = client.get("api/sample/rows", at=str(numbers[0]))
    assert len(labels) == 4
    # Every prompt names all labels, in the same words.
    prompts = [each.pop("prompt")[-1]["parts"][0]["text"] for each in (*rows["rows"], *again["rows"])]
    assert len({text.partition("\n")[2] for text in prompts}) == 1
    for reply in (whole, rows, given, again):
        said = {*texts_in(reply)}
        assert not any("secret" in text for text in said)
        assert said.isdisjoint({"ok", "invalid", "error", "status", "answer", "confidence", "agreement", "chance"})
        assert said.isdisjoint({"label", "stratum", "strata", "is_corrected", "by", "reasoning", "raw"})


def test_two_samples_that_differ_only_in_what_the_model_said_look_the_same(tmp_path: Path) -> None:
    """The labels of people are the same, and are all the model's in one run, and never in the other."""
    seen = []
    for name, answer in (("right", "good"), ("wrong", "bad")):
        lab = Lab(tmp_path / name)
        run_with(lab, [answer] * ROWS, labels=LABELS)
        batcher.sample("k", 30, output_dir=lab.directory)
        with page_of(lab.directory) as (client, _):
            said = [client.get("api/sample")]
            numbers = [each["drawn"] for each in said[0]["rows"]]
            said.append(client.get("api/sample/rows", at=",".join(map(str, numbers))))
            said += [label(client, number, gold="good") for number in numbers[:9]]
        seen.append(json.dumps(said))
    assert seen[0] == seen[1]


def test_a_width_does_not_tell_whether_the_last_label_is_the_models(drawn: Lab) -> None:
    with page_of(drawn.directory) as (client, _):
        label_all(client, 10)
        first = until(client, lambda found: found["width_at"] == 10)
        numbers = [each["drawn"] for each in first["rows"]]
        for text in (*LABELS, ""):
            label(client, numbers[9], gold=text)
            assert client.get("api/sample")["widths"] == first["widths"]
        label(client, numbers[10], gold="bad")
        assert client.get("api/sample")["widths"] == first["widths"]


def until(client: Client, is_there: Callable[[Any], bool]) -> Any:
    """Return the sample as soon as it is as expected: widths are taken beside all else."""
    end = time.monotonic() + 60
    while not is_there(found := client.get("api/sample")):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


# -- Labelling


def test_thirty_rows_labelled_on_the_page_give_the_estimate_of_their_labels(drawn: Lab) -> None:
    with page_of(drawn.directory) as (client, _):
        before = client.get("api/sample")
        assert (before["done"], before["todo"], before["width"], before["population"]) == (0, 30, None, ROWS)
        label_all(client)
        found = until(client, lambda found: found["width_at"] == 30)
        result = client.get("api/sample/result")
    made = batcher.estimate("k", drawn.directory)
    assert (found["done"], found["todo"]) == (30, 0)
    assert [labels for labels, _ in found["widths"]] == [10, 20, 30]
    assert made.gold == 30
    assert made.accuracy.low is not None
    assert made.accuracy.high is not None
    assert found["width"] == pytest.approx(50 * (made.accuracy.high - made.accuracy.low), rel=0.15)
    assert found["halves"]["draw"] == 30 + found["halves"]["labels"]
    wrong = {
        position for (position,) in drawn.query("SELECT position FROM drawn") if ANSWERS[position] != truth(position)
    }
    assert {each["position"] for each in result["disagreements"]} == wrong
    assert result["total"] == len(wrong)
    for each in result["disagreements"]:
        model = ANSWERS[each["position"]]
        assert each["model"] == (model if model in LABELS else None)
        assert each["gold"] == truth(each["position"])
    assert "accuracy" in result["title"]
    assert "<table" in result["estimate"]
    assert "<svg" in result["estimate"]
    assert "half as wide: draw more rows, " in result["estimate"]  # the page has a button for it: it needs no command
    assert "batcher.sample" not in result["estimate"]


def test_the_rows_come_in_the_order_of_the_file_with_their_cells_and_prompts(drawn: Lab) -> None:
    with sample_file(drawn).open(encoding="utf-8", newline="") as file:
        lines = [*csv.reader(file)][1:]
    with page_of(drawn.directory) as (client, _):
        numbers = [each["drawn"] for each in client.get("api/sample")["rows"]]
        rows = client.get("api/sample/rows", at=",".join(map(str, numbers)))["rows"]
    assert [[str(row["drawn"]), *cells_of(row), row["gold"]] for row in rows] == lines
    assert [row["prompt"][-1]["parts"][0]["text"].partition("\n")[0] for row in rows] == [*map(first_cell, rows)]
    assert all(row["is_here"] and row["why"] == "" for row in rows)


def first_cell(row: Mapping[str, Any]) -> str:
    return cells_of(row)[0]


@pytest.mark.parametrize(("typed", "read"), [("good", "good"), (" Good ", "good"), ("2", None), ("goood", None)])
def test_a_near_miss_is_read_or_refused_as_in_the_file(drawn: Lab, typed: str, read: str | None) -> None:
    with page_of(drawn.directory) as (client, _):
        reply = client.post("api/sample/label", drawn=1, gold=typed)
        if read is None:
            assert (reply.status, reply.json["kind"]) == (400, "invalid")
            assert "none of the labels" in reply.json["error"]
            assert in_journal(drawn) == {}
        else:
            assert reply.json["gold"] == read
            assert in_journal(drawn) == {1: read}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"drawn": 99, "gold": "good"}, "no row 99"),
        ({"drawn": "1", "gold": "good"}, "whole number"),
        ({"drawn": 1, "gold": 3}, "a text"),
        ({"drawn": 1, "golds": {"x": "good"}}, "a text"),
        ({"drawn": 1, "gold": "good", "note": 7}, "note"),
    ],
)
def test_what_is_no_label_is_refused_in_words(drawn: Lab, body: dict[str, Any], said: str) -> None:
    with page_of(drawn.directory) as (client, _):
        reply = client.post("api/sample/label", **body)
    assert reply.status == 400
    assert said in reply.json["error"]
    assert in_journal(drawn) == {}


def test_a_label_is_undone_by_the_one_before_it(drawn: Lab) -> None:
    with page_of(drawn.directory) as (client, _):
        first = label(client, 1, gold="good", note="easy")
        second = label(client, 1, gold="bad", note="or not")
        assert (first["earlier"]["gold"], second["earlier"]["gold"], second["earlier"]["note"]) == ("", "good", "easy")
        undone = label(client, 1, gold=second["earlier"]["gold"], note=second["earlier"]["note"])
        assert (undone["gold"], undone["note"], undone["done"]) == ("good", "easy", 1)
        taken_back = label(client, 1, gold="")
        assert (taken_back["gold"], taken_back["done"], taken_back["todo"]) == ("", 0, 30)
    assert [gold for (gold,) in drawn.query("SELECT gold FROM gold ORDER BY id")] == ["good", "bad", "good", ""]
    assert {who for (who,) in drawn.query("SELECT who FROM gold")} == {"ada"}


def test_a_note_is_kept_with_a_label_and_without_one(drawn: Lab) -> None:
    with page_of(drawn.directory) as (client, _):
        assert label(client, 1, note="unclear")["done"] == 0
        assert label(client, 2, gold="bad", note=" two topics ")["note"] == "two topics"
        assert label(client, 2, gold="good")["note"] == "two topics"
        found = client.get("api/sample/rows", at="1,2")["rows"]
        marked = [each["drawn"] for each in client.get("api/sample")["rows"] if each["has_note"]]
    assert [(each["gold"], each["note"]) for each in found] == [("", "unclear"), ("good", "two topics")]
    assert marked == [1, 2]
    assert batcher.estimate("k", drawn.directory).gold == 1
    assert batcher.verify("k", [f"row {number}" for number in range(ROWS)], output_dir=drawn.directory).ok


def test_the_fields_of_a_schema_are_labelled_each_for_itself(lab: Lab) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}, "stars": {"type": "integer"}},
        "required": ["mood", "stars"],
    }
    answers = [json.dumps({"mood": "good" if number % 3 else "bad", "stars": number % 5}) for number in range(20)]
    run_with(lab, answers, schema=schema)
    batcher.sample("k", 12, output_dir=lab.directory)
    with page_of(lab.directory) as (client, _):
        assert client.get("api/sample")["fields"] == ["mood", "stars"]
        half = label(client, 1, golds={"mood": "Good"})
        assert (half["golds"], half["done"]) == ({"mood": "good", "stars": ""}, 0)
        assert label(client, 1, golds={"mood": "good", "stars": " 3"})["done"] == 1
        wrong = client.post("api/sample/label", drawn=2, golds={"mood": "middling"})
        unknown = client.post("api/sample/label", drawn=2, golds={"colour": "red"})
        for number in range(2, 13):
            label(client, number, golds={"mood": "bad", "stars": "1"})
        moods = client.get("api/sample/result", field="mood")
        stars = client.get("api/sample/result", field="stars")
    assert wrong.status == unknown.status == 400
    assert "mood" in wrong.json["error"]
    assert "colour" in unknown.json["error"]
    assert (moods["field"], stars["field"], moods["fields"]) == ("mood", "stars", ["mood", "stars"])
    assert {each["gold"] for each in moods["disagreements"]} <= {"bad", "good"}
    assert all(each["model"] != each["gold"] for each in (*moods["disagreements"], *stars["disagreements"]))


@pytest.mark.parametrize("answers", [["long text", "other text"], ["1.5", "2"]], ids=["texts", "numbers"])
def test_any_text_is_a_label_if_the_run_has_none(lab: Lab, answers: Sequence[str]) -> None:
    run_with(lab, [answers[number % 2] + " x" * (number if "t" in answers[0] else 0) for number in range(20)])
    batcher.sample("k", 10, output_dir=lab.directory)
    with page_of(lab.directory) as (client, _):
        assert client.get("api/sample")["labels"] is None
        for number in range(1, 11):
            assert label(client, number, gold=f" {answers[0]} ")["gold"] == answers[0]
        assert until(client, lambda found: found["width_at"] == 10)["width"] > 0
        assert client.get("api/sample/result")["total"] > 0


def test_a_run_without_a_sample_draws_one_from_the_page(done: Lab) -> None:
    with page_of(done.directory) as (client, _):
        empty = client.get("api/sample")
        assert (empty["exists"], empty["can_draw"], empty["population"], empty["rows"]) == (False, True, ROWS, [])
        small = client.post("api/sample/draw", n=10, per_label=False).json
        label(client, 1, gold="good")
        large = client.post("api/sample/draw", n=20, per_label=False).json
        by_label = client.post("api/sample/draw", n=10, per_label=True).json
        refused = client.post("api/sample/draw", n=0, per_label=False)
    assert (len(small["rows"]), len(large["rows"]), large["done"]) == (10, 20, 1)
    assert large["rows"][0] == {"drawn": 1, "is_done": True, "is_here": True, "has_note": False}
    assert len(by_label["rows"]) > 20
    assert by_label["design"] == "per label"
    assert refused.status == 400
    assert in_file(done) == {1: "good"}


def test_rows_that_are_gone_or_without_cells_cannot_be_labelled_and_say_why(tmp_path: Path) -> None:
    lab, table = Lab(tmp_path / "output"), tmp_path / "table.csv"
    table.write_text("text\n" + "".join(f"row {number}\n" for number in range(20)), encoding="utf-8")
    answers = {f"row {number}": "good" for number in range(20)}
    from labelled_runs import answering  # noqa: PLC0415

    lab.run(str(table), answering(answers), "{text}", labels=LABELS)
    batcher.sample("k", 20, output_dir=lab.directory)
    table.write_text("text\n" + "".join(f"row {number}\n" for number in range(15)), encoding="utf-8")
    lab.run(str(table), answering(answers), "{text}", labels=LABELS)
    with page_of(lab.directory) as (client, _):
        found = client.get("api/sample")
        lost = [each["drawn"] for each in found["rows"] if not each["is_here"]]
        assert (len(lost), found["total"]) == (5, 15)
        [row] = client.get("api/sample/rows", at=str(lost[0]))["rows"]
        assert "no more" in row["why"]
        assert client.post("api/sample/label", drawn=lost[0], gold="good").status == 400


# -- The sample's file


@contextmanager
def labelled_by(lab: Lab, golds: Mapping[int, str]) -> Iterator[Client]:
    """Give labels on the page."""
    with page_of(lab.directory) as (client, _):
        for number, gold in golds.items():
            label(client, number, gold=gold)
        yield client


def test_the_file_has_the_labels_of_the_page_when_it_ends(drawn: Lab) -> None:
    with labelled_by(drawn, {1: "good", 2: "bad"}):
        pass
    assert in_file(drawn) == in_journal(drawn) == {1: "good", 2: "bad"}
    before = sample_file(drawn).read_bytes()
    assert batcher.sample("k", output_dir=drawn.directory).read == 0
    assert sample_file(drawn).read_bytes() == before


def test_labels_in_the_file_are_read_when_the_page_begins_and_while_it_is_there(drawn: Lab) -> None:
    write_into(drawn, {3: "Ugly"})
    with labelled_by(drawn, {}) as client:
        assert client.get("api/sample")["done"] == 1
        write_into(drawn, {4: "bad"})
        label(client, 5, gold="good")
        assert client.get("api/sample")["done"] == 3
    assert in_file(drawn) == in_journal(drawn) == {3: "ugly", 4: "bad", 5: "good"}
    assert dict(drawn.query("SELECT origin, who FROM gold")) == {"sample_k.csv": None, "review": "ada"}


class Conflict:
    """What happens to row 1, in turn, and the label that it has in the end.

    Args:
        steps: `page X`: labelled on the page; `file X`: written into the file as it is; `old X`: saved from a copy
            that was opened at first; `read`: `batcher sample` is called.
        label: in journal and file at the end.
        name: of the case.
    """

    def __init__(self, steps: Sequence[str], label: str, name: str) -> None:
        self.steps, self.label, self.name = steps, label, name


CONFLICTS = [
    Conflict(["file good", "page bad"], "bad", "the page is later"),
    Conflict(["page bad", "file good"], "good", "the file is later and says something new"),
    Conflict(["file good", "read", "page bad", "old good"], "bad", "an old copy has the label before"),
    Conflict(["file good", "read", "page bad", "old good", "read"], "bad", "an old copy is read by the command"),
    Conflict(["page good", "page bad", "old good"], "bad", "an old copy has a label that the page has replaced"),
    Conflict(["page bad", "old "], "bad", "an old copy without a label"),
    Conflict(["file good", "read", "page ", "old good"], "", "a label that was taken back stays so"),
    Conflict(["file good", "read", "page bad", "file ugly"], "ugly", "a new label in the file counts"),
    Conflict(["file good", "read", "file bad", "read", "file good"], "good", "within the file its last word counts"),
    Conflict(["file good", "read", "file "], "", "a label of the file is taken back in the file"),
    Conflict(["page bad", "file ?"], "", "a question mark takes any label back"),
]


@pytest.mark.parametrize("conflict", CONFLICTS, ids=lambda each: each.name)
def test_neither_a_label_of_the_page_nor_one_of_the_file_is_lost(drawn: Lab, conflict: Conflict) -> None:
    opened = sample_file(drawn).read_bytes()
    for number, step in enumerate(conflict.steps):
        verb, _, text = step.partition(" ")
        if verb == "page":
            with labelled_by(drawn, {1: text, 2: "good"}):
                pass
        elif verb == "read":
            batcher.sample("k", output_dir=drawn.directory)
        else:
            start = opened if verb == "old" else None
            write_into(drawn, {1: text, 3: "ugly"}, later_s=10.0 + number, start=start)
    said = batcher.sample("k", output_dir=drawn.directory)
    assert in_journal(drawn).get(1, "") == conflict.label
    assert in_file(drawn) == in_journal(drawn)
    texts = {step.partition(" ")[2] for step in conflict.steps} - {"", "?"}
    assert texts <= {gold for (gold,) in drawn.query("SELECT gold FROM gold WHERE drawn = 1")}
    if any(step.startswith(("file", "old")) for step in conflict.steps):
        assert in_journal(drawn)[3] == "ugly", "the rest of the file counts"
    is_old = conflict.steps[-1] == "old good"
    assert any("older than the one" in note for note in said.notes) == is_old


def test_a_file_that_cannot_be_read_is_left_as_it_is_and_the_journal_has_the_labels(drawn: Lab) -> None:
    write_into(drawn, {3: "no label at all"})
    broken = sample_file(drawn).read_bytes()
    with labelled_by(drawn, {1: "good"}) as client:
        assert "no label at all" in client.get("api/sample")["problem"]
    assert sample_file(drawn).read_bytes() == broken
    assert in_journal(drawn) == {1: "good"}
    write_into(drawn, {3: "bad"}, later_s=20)
    with labelled_by(drawn, {}) as client:
        assert client.get("api/sample")["problem"] == ""
    assert in_file(drawn) == in_journal(drawn) or in_journal(drawn) == {1: "good", 3: "bad"}


def test_a_label_stays_if_the_page_is_killed_before_the_file_has_it(drawn: Lab, tmp_path: Path) -> None:
    write_into(drawn, {1: "good", 2: "ugly"}, later_s=-60)
    with labelled_by(drawn, {1: "bad"}):
        left = Lab(shutil.copytree(drawn.directory, tmp_path / "left"))
    batcher.sample("k", output_dir=left.directory)
    assert in_file(left) == in_journal(left) == {1: "bad", 2: "ugly"}


def test_a_lost_file_is_written_again(drawn: Lab) -> None:
    sample_file(drawn).unlink()
    with labelled_by(drawn, {1: "good"}):
        pass
    assert in_file(drawn) == {1: "good"}


# -- Widths


@pytest.mark.parametrize(
    ("rows", "steps"),
    [
        (4, []),
        (5, [5]),
        (9, [9]),
        (12, [12]),
        (15, [10, 15]),
        (24, [10, 24]),
        (31, [10, 20, 31]),
        (40, [10, 20, 30, 40]),
    ],
)
def test_widths_are_taken_after_ten_labels_and_at_the_end_but_not_close_together(rows: int, steps: list[int]) -> None:
    widths, taken = Widths(), []
    for done in range(rows + 1):
        if widths.is_due(done, rows):
            widths.take([], dict.fromkeys(range(done), "x"), rows)
            taken.append(done)
    assert taken == steps


def test_how_many_more_labels_it_takes_goes_by_their_number_alone() -> None:
    assert how_many_more(0, 30, 1000, 30)[1] is None
    said, halves = how_many_more(30, 30, 10**6, 30)
    assert halves == (90, 120)
    assert "90 more labels would halve" in said
    assert "draw 90 more" in said
    assert how_many_more(30, 200, 10**6, 200)[1] == (90, 200)
    assert how_many_more(60, 60, 60, 60) == ("All rows of the table are labelled.", None)


# -- Several tabs, other commands


def test_of_two_pages_the_later_label_counts_and_nothing_is_lost(drawn: Lab) -> None:
    with page_of(drawn.directory, "ada") as (ada, _), page_of(drawn.directory, "bob") as (bob, _):
        label(ada, 1, gold="good")
        label(bob, 2, gold="bad")
        label(bob, 1, gold="ugly")
        label(ada, 3, gold="good")
        assert ada.get("api/sample")["done"] == bob.get("api/sample")["done"] == 3
        [row] = ada.get("api/sample/rows", at="1")["rows"]
        assert (row["gold"], row["who"]) == ("ugly", "bob")
    assert in_file(drawn) == in_journal(drawn) == {1: "ugly", 2: "bad", 3: "good"}
    assert len(drawn.query("SELECT * FROM gold")) == 4


def test_a_draw_in_a_terminal_shows_on_the_page(drawn: Lab) -> None:
    with page_of(drawn.directory) as (client, _):
        label(client, 1, gold="good")
        batcher.sample("k", 40, output_dir=drawn.directory)
        assert len(client.get("api/sample")["rows"]) == 40
        label(client, 40, gold="bad")
    assert in_file(drawn) == in_journal(drawn) == {1: "good", 40: "bad"}


def test_of_labels_from_all_sides_at_once_each_that_was_acknowledged_is_in_the_journal(drawn: Lab) -> None:
    acknowledged: list[tuple[int, str]] = []

    def tab(client: Client, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(15):
            number, gold = chance.randint(1, 30), chance.choice(LABELS)
            reply = client.post("api/sample/label", drawn=number, gold=gold, note=str(seed))
            assert reply.status in {200, 423}, reply
            if reply.status == 200:
                acknowledged.append((number, gold))

    def terminal() -> None:
        for rows in (31, 32, 33):
            with contextlib.suppress(KeywordBusy):
                batcher.sample("k", rows, output_dir=drawn.directory)

    with page_of(drawn.directory, "ada") as (ada, _), page_of(drawn.directory, "bob") as (bob, _):
        with ThreadPoolExecutor(5) as pool:
            work = [pool.submit(tab, client, seed) for seed, client in enumerate((ada, ada, bob, bob))]
            work.append(pool.submit(terminal))
        for each in work:
            each.result()
        assert ada.get("api/sample")["done"] == bob.get("api/sample")["done"] == len(in_journal(drawn))
    assert len(acknowledged) > 30
    written = Counter(drawn.query("SELECT drawn, gold FROM gold"))
    assert not Counter(set(acknowledged)) - written
    batcher.sample("k", output_dir=drawn.directory)
    assert in_file(drawn) == in_journal(drawn)


def left_behind(lab: Lab, directory: Path) -> Lab:
    """Return a copy of a run's directory as a killed process leaves it: with a log beside the journal."""
    path = lab.directory / "journal_k.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db, read_journal(path):
        db.execute("BEGIN IMMEDIATE")
        raise_generation(db)
        db.execute("COMMIT")
        return Lab(shutil.copytree(lab.directory, directory))


def test_a_label_is_recorded_while_the_page_reads_the_journal_that_a_killed_run_left(
    drawn: Lab, tmp_path: Path
) -> None:
    lab = left_behind(drawn, tmp_path / "left")
    assert (lab.directory / "journal_k.sqlite-wal").exists()
    with page_of(lab.directory) as (client, served), served.page.looks.reader() as (reader, _):
        assert reader.scope() == ROWS
        label(client, 1, gold="good")
    assert in_journal(lab) == {1: "good"}


def test_a_label_waits_until_another_part_of_the_process_has_read_the_journal(drawn: Lab, tmp_path: Path) -> None:
    lab = left_behind(drawn, tmp_path / "left")
    with ThreadPoolExecutor(1) as pool, page_of(lab.directory) as (client, _):
        with read_journal(lab.directory / "journal_k.sqlite") as reader:
            assert reader.scope() == ROWS
            labelling = pool.submit(label, client, 1, gold="good")
            with contextlib.suppress(TimeoutError):
                labelling.result(0.5)
        assert labelling.result()["gold"] == "good"
    assert in_journal(lab) == {1: "good"}


def test_a_sample_is_read_from_a_journal_that_a_reader_has_left_with_a_log(drawn: Lab, tmp_path: Path) -> None:
    lab = left_behind(drawn, tmp_path / "left")
    write_into(lab, {1: "good"})
    assert batcher.sample("k", output_dir=lab.directory).read == 1
    assert in_journal(lab) == {1: "good"}

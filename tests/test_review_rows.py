"""The list of rows with its filters, and one row, as the page gets them."""

from __future__ import annotations

import csv
import json
import math
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from conftest import Lab
from fake_service import Anything, Service, refusal
from page_client import Client, page_of, said

from batcher.records import Completion, Failure, Usage
from batcher.reviewing.search import Search

LABELS = ["good", "bad", "so so"]
ROWS = 450


def answer(number: int) -> str | Failure:
    if number % 90 == 7:
        return "who knows"
    return refusal(418) if number % 90 == 8 else LABELS[number % 3]


def table(directory: Path) -> Path:
    path = directory / "rooms.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["id", "text"], *([f"007{number}", f"Room {number}, 房间 ÄRGER\n<b>\u202e"] for number in range(ROWS))]
        )
    return path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("run")
    lab = Lab(folder / "output")
    answers = {f"Is it good? Room {number}, 房间 ÄRGER\n<b>\u202e": answer(number) for number in range(ROWS)}
    lab.run(table(folder), said(answers), "Is it good? {text}", labels=LABELS, chunk_size=100, max_attempts=1)
    return lab


@pytest.fixture(scope="module")
def client(ran: Lab) -> Iterator[Client]:
    with page_of(ran.directory) as (client, _):
        client.rows()
        yield client


def test_the_run_is_described(client: Client) -> None:
    run = client.get("api/run")

    assert (run["keyword"], run["who"], run["rows"], run["labels"]) == ("k", "ada", ROWS, LABELS)
    assert (run["columns"], run["prompt_columns"], run["answer_column"]) == (["id", "text"], ["text"], "infer")
    assert (run["at_work"], run["fields"], run["schema"], run["pending"], run["trouble"]) == (False, [], None, 0, "")


def test_pages_follow_one_another(client: Client) -> None:
    seen: list[int] = []
    start: int | None = 0
    while start is not None:
        page = client.rows(**{"from": start})
        assert page["before"] == len(seen)
        seen += [row["position"] for row in page["rows"]]
        start = page["next"]

    assert seen == [*range(ROWS)]
    assert client.rows(**{"from": 400})["previous"] == 200
    assert client.rows()["last"] == 400
    assert client.positions(**{"from": 10_000}) == []


def test_a_row_of_the_list_has_its_cells_and_its_answer_as_they_are(client: Client) -> None:
    [row] = client.rows(limit=1, **{"from": 3})["rows"]

    assert row["cells"] == ["0073", "Room 3, 房间 ÄRGER\n<b>\u202e"]
    assert (row["status"], row["answer"], row["error"], row["by"]) == ("ok", "good", "", "m")
    assert (row["is_corrected"], row["in_sample"], row["agreement"], row["confidence"]) == (False, False, None, None)


def test_filters_by_status_and_label_show_these_rows(client: Client) -> None:
    expected = [number for number in range(ROWS) if answer(number) == "bad"]

    assert client.positions(label="bad", limit=1000) == expected
    assert client.positions(status="invalid") == [7, 97, 187, 277, 367]
    assert client.positions(status=["invalid", "error"], limit=3) == [7, 8, 97]
    assert client.positions(status="ok", label=["bad", "good"], limit=2) == [0, 1]
    assert client.positions(status="none") == client.positions(label="never said") == []


def test_each_count_is_of_the_rows_that_all_other_filters_show(client: Client) -> None:
    plain = client.rows()["counts"]
    filtered = client.rows(label="bad", status="ok")

    ok = [answer(number) for number in range(ROWS) if isinstance(answer(number), str) and number % 90 != 7]
    assert plain["status"] == {"ok": len(ok), "invalid": 5, "error": 5, "": 0}
    assert plain["label"] == [[label, ok.count(label)] for label in sorted(LABELS, key=lambda each: -ok.count(each))]
    assert filtered["counts"]["label"] == plain["label"]
    assert filtered["counts"]["status"] == {"ok": ok.count("bad"), "invalid": 0, "error": 0, "": 0}
    assert filtered["total"] == ok.count("bad")


def test_failed_rows_are_counted_and_filtered_by_their_reason(client: Client) -> None:
    reasons = dict(client.rows()["counts"]["reason"])
    [refused] = [reason for reason in reasons if "418" in reason]

    assert sorted(reasons.values()) == [5, 5]
    assert client.positions(reason=refused) == [8, 98, 188, 278, 368]
    assert "gave up" not in refused


@pytest.mark.parametrize(
    ("text", "positions"),
    [("room 44,", [44]), ("ärger", [0, 1]), ("房间", [0, 1]), ("WHO KNOWS", [7, 97]), ("said the service", [8, 98])],
)
def test_text_is_found_in_cells_answers_and_errors_whatever_its_case(
    client: Client, text: str, positions: list[int]
) -> None:
    assert client.positions(text=text, limit=2) == positions


def test_text_is_found_beside_other_filters_and_not_across_cells(client: Client) -> None:
    assert client.positions(text="room 1", label="bad", limit=3) == [1, 10, 13]
    assert client.positions(text="0073Room") == []


@pytest.mark.parametrize(
    "query",
    [
        {"status": "fine"},
        {"agreement_below": "x"},
        {"confidence_below": "1.5"},
        {"from": "-1"},
        {"limit": "many"},
        {"field.mood": "x"},
        {"from": "9" * 30},
    ],
)
def test_a_filter_that_cannot_be_read_is_named(client: Client, query: dict[str, str]) -> None:
    reply = client.fetch("api/rows", **query)

    assert (reply.status, reply.json["kind"]) == (400, "invalid")
    assert next(iter(query)).removeprefix("field.") in reply.json["error"]


def test_an_address_with_too_many_filters_is_refused(client: Client) -> None:
    reply = client.fetch("api/rows", label=["x"] * 1001)

    assert (reply.status, reply.json["kind"]) == (400, "invalid")


def test_a_row_has_its_prompt_as_it_was_sent_and_its_attempts(client: Client) -> None:
    row = client.get("api/row/3")

    [message] = row["prompt"]
    assert message["role"] == "user"
    assert message["parts"][0]["text"].startswith("Is it good? Room 3, 房间 ÄRGER\n<b>\u202e")
    assert row["cells"] == [["id", "0073"], ["text", "Room 3, 房间 ÄRGER\n<b>\u202e"]]
    [attempt] = row["attempts"]
    assert (attempt["outcome"], attempt["model"], attempt["prompt_tokens"]) == ("answered", "m", 10)
    assert (row["raw"], row["answer"], row["history"], row["sample"]) == ("good", "good", [], None)


def test_a_failed_row_has_what_came_and_why_it_failed(client: Client) -> None:
    invalid, error = client.get("api/row/7"), client.get("api/row/8")

    assert (invalid["status"], invalid["raw"], invalid["is_corrected"]) == ("invalid", "who knows", False)
    assert invalid["error"]
    assert error["status"] == "error"
    assert "418" in error["error"]
    assert error["attempts"][-1]["outcome"] == "418"


def test_the_next_rows_come_together(client: Client) -> None:
    rows = client.get("api/rowset", at="5,449,99999,6")["rows"]

    assert [row["position"] for row in rows] == [5, 449, 6]
    assert rows[0] == client.get("api/row/5")
    assert client.fetch("api/rowset", at=",".join(map(str, range(51)))).status == 400


@pytest.mark.parametrize(("path", "status"), [("api/row/450", 404), ("api/row/-1", 400), ("api/row/x", 400)])
def test_a_row_that_is_not_there_is_said(client: Client, path: str, status: int) -> None:
    assert client.fetch(path).status == status


def test_answers_in_fields_are_filtered_by_each(lab: Lab) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}, "stars": {"type": "integer"}},
        "required": ["mood"],
    }
    answers: dict[str, str | Failure] = {
        "a": '{"mood": "good", "stars": 5}',
        "b": '{"mood": "bad", "stars": 1}',
        "c": '{"mood": "good"}',
    }
    lab.run(pd.DataFrame({"text": [*answers]}), said(answers), "{text}", schema=schema)
    with page_of(lab.directory) as (client, _):
        run, page = client.get("api/run"), client.rows(field__mood="good")
        assert run["fields"] == ["mood", "stars"]
        assert run["schema"]["mood"] == {"enum": ["good", "bad"]}
        assert [row["position"] for row in page["rows"]] == [0, 2]
        assert page["rows"][0]["fields"] == {"mood": "good", "stars": "5"}
        assert page["counts"]["fields"]["mood"] == [["good", 2], ["bad", 1]]
        assert page["counts"]["fields"]["stars"] == [["5", 1], ["", 1]]
        assert client.positions(field__mood="good", field__stars="5") == [0]
        assert client.get("api/row/2")["fields"] == {"mood": "good", "stars": ""}


def test_texts_of_any_length_and_kind_are_shown(lab: Lab) -> None:
    answers: dict[str, str | Failure] = {
        "long": "x" * 5000,
        "lone": "half \ud83d of a pair",
        "script": "<script>alert(1)</script>",
    }
    lab.run(pd.DataFrame({"text": [*answers]}), said(answers), "{text}")
    with page_of(lab.directory) as (client, _):
        rows = client.rows()["rows"]
        assert [row["answer"] for row in rows] == ["x" * 300 + "…", answers["lone"], answers["script"]]
        assert client.get("api/row/0")["answer"] == answers["long"]
        assert client.rows()["counts"]["label_other"] == 1
        assert client.positions(label="x" * 5000) == [0]
        assert client.positions(label="<script>alert(1)</script>") == [2]


def test_a_prompt_that_a_function_made_is_not_guessed(lab: Lab) -> None:
    lab.run(pd.DataFrame({"text": ["a"]}), said({"A": "yes"}), lambda row: row["text"].upper())
    with page_of(lab.directory) as (client, _):
        client.rows()
        row = client.get("api/row/0")
        assert row["prompt"] is None
        assert "function" in row["prompt_why"]


def test_a_table_in_memory_is_read_in_the_chunk_files(lab: Lab) -> None:
    texts = [f"text {number}" for number in range(25)]
    lab.run(pd.DataFrame({"text": texts}), said(dict.fromkeys(texts, "yes")), "{text}", chunk_size=10)
    with page_of(lab.directory) as (client, _):
        assert [row["cells"] for row in client.rows()["rows"]] == [[text] for text in texts]
        [message] = client.get("api/row/17")["prompt"]
        assert message["parts"] == [{"text": "text 17"}]


def test_rows_whose_cells_are_gone_say_so_and_an_input_that_is_given_brings_them(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "rooms.csv"
    path.write_text("text\na\nb\n", encoding="utf-8")
    lab.run(path, said({"a": "yes", "b": "no"}), "{text}")
    moved = path.rename(tmp_path / "moved.csv")
    lab.path(0).unlink()
    lab.path().unlink()

    with page_of(lab.directory) as (client, _):
        assert [row["cells"] for row in client.rows()["rows"]] == [None, None]
        row = client.get("api/row/0")
        assert (row["cells"], row["prompt"], row["answer"]) == (None, None, "yes")
        assert "Give the input" in row["cells_why"]
    with page_of(lab.directory, data=moved) as (client, _):
        assert [row["cells"] for row in client.rows()["rows"]] == [["a"], ["b"]]


def test_a_row_that_was_changed_in_the_input_is_not_shown_as_another(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "rooms.csv"
    path.write_text("text\na\nb\nc\n", encoding="utf-8")
    lab.run(path, said({"a": "1", "b": "2", "c": "3"}), "{text}")
    path.write_text("text\na\nchanged\nc\n", encoding="utf-8")

    with page_of(lab.directory) as (client, _):
        assert [row["cells"] for row in client.rows()["rows"]] == [["a"], ["b"], ["c"]]  # from the chunk file
        lab.path(0).unlink()
    with page_of(lab.directory) as (client, _):
        assert [row["cells"] for row in client.rows()["rows"]] == [["a"], None, ["c"]]


def test_several_answers_to_a_row_are_its_votes(lab: Lab) -> None:
    answers = iter(["yes", "no", "yes"])
    service = Service((), instead=lambda _call: Completion(next(answers), "stop", Usage(3, 1)))
    service.prompts = Anything()
    lab.run(pd.DataFrame({"text": ["a"]}), service, "{text}", labels=["yes", "no"], samples=3)
    with page_of(lab.directory) as (client, _):
        [row] = client.rows()["rows"]
        assert math.isclose(row["agreement"], 2 / 3, abs_tol=1e-3)
        assert client.positions(agreement_below=0.7) == [0]
        assert client.positions(agreement_below=0.6) == []
        assert client.rows()["counts"]["agreement_below"] == 1
        votes = client.get("api/row/0")["votes"]
        assert sorted(vote["answer"] for vote in votes) == ["no", "yes", "yes"]


def test_a_journal_that_an_older_batcher_wrote_is_shown(ran: Lab, tmp_path: Path) -> None:
    shutil.copytree(ran.directory, tmp_path / "old")
    with closing(sqlite3.connect(tmp_path / "old" / "journal_k.sqlite")) as db:
        stamp = db.execute("PRAGMA user_version").fetchone()[0]
        db.execute("DROP TABLE corrections")
        for column in ("who", "note"):
            db.execute(f"ALTER TABLE gold DROP COLUMN {column}")
        db.execute(f"PRAGMA user_version = {stamp & ~0xFF | 8}")
        db.commit()
    with page_of(tmp_path / "old") as (client, _):
        assert client.rows(limit=2)["total"] == ROWS
        assert client.get("api/row/3")["answer"] == "good"


def test_a_journal_that_is_damaged_further_on_is_said(ran: Lab, tmp_path: Path) -> None:
    shutil.copytree(ran.directory, tmp_path / "torn")
    journal = tmp_path / "torn" / "journal_k.sqlite"
    with closing(sqlite3.connect(journal)) as db:
        [page] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'results'").fetchone()
        [size] = db.execute("PRAGMA page_size").fetchone()
    content = bytearray(journal.read_bytes())
    content[(page - 1) * size : page * size] = b"x" * size
    journal.write_bytes(content)
    with page_of(tmp_path / "torn") as (client, served):
        while not served.page.view.trouble:
            assert not served.page.view.indexed.is_set()
        for path in ("api/run", "api/rows", "api/row/3"):
            reply = client.fetch(path)
            assert (reply.status, reply.json["kind"]) == (500, "internal")
            assert "journal_k.sqlite cannot be read" in reply.json["error"]


def test_json_is_ascii(client: Client) -> None:
    reply = client.fetch("api/rows", limit=1)

    assert reply.body.isascii()
    assert json.loads(reply.body)["rows"][0]["cells"][1].startswith("Room 0, 房间")


class Changing:
    """A table and a journal in one; while it is searched, the answer of a row changes."""

    def __init__(self) -> None:
        self.texts = dict.fromkeys(range(4), "old")
        self.search = Search("new", 4)

    def text_of(self, start: int, stop: int) -> str:
        return " ".join(self.between(start, stop).values())

    def between(self, start: int, stop: int) -> dict[int, str]:
        found = {at: self.texts[at] for at in range(start, stop)}
        if stop - start > 1 and self.texts[1] == "old":
            self.texts[1] = "new"
            self.search.renew(self, self, [1])  # type: ignore[arg-type]
        return found

    def look(self, _work: object) -> str:
        return ""


def test_a_row_that_changes_while_it_is_searched_is_searched_again() -> None:
    table = Changing()
    table.search.go_on(table, table, 4)  # type: ignore[arg-type]

    assert [*map(bool, table.search.hits)] == [False, True, False, False]


def test_a_text_that_no_row_can_have_is_refused(lab: Lab) -> None:
    lab.run(["a", "b"], said({"a": "x", "b": "y"}), "{text}")
    with page_of(lab.directory) as (client, _):
        assert client.fetch("api/rows", text="a\0").status == 400

"""What people change on the page, what other processes change beside it, and the rows as a file."""

from __future__ import annotations

import csv
import io
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Lab
from page_client import page_of, said
from pyarrow import parquet

from batcher.records import Failure

LABELS = ["good", "bad"]
TEXTS = [f"room {number}" for number in range(30)]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rooms.csv"
    path.write_text("id,text\n" + "".join(f"00{n},{text}\n" for n, text in enumerate(TEXTS)), encoding="utf-8")
    return path


def answers(label: str = "good") -> dict[str, str | Failure]:
    return {f"{text}.": label if number else "bad" for number, text in enumerate(TEXTS)}


@pytest.fixture
def ran(lab: Lab, table: Path) -> Lab:
    lab.run(table, said(answers()), "{text}.", labels=LABELS, chunk_size=10)
    return lab


def wait(until: Callable[[], Any]) -> Any:
    """Wait until something is so; only the test's timeout ends the wait."""
    while not (found := until()):
        time.sleep(0.02)
    return found


def test_a_correction_is_shown_at_once_and_taken_back_as_easily(ran: Lab) -> None:
    with page_of(ran.directory) as (client, _):
        client.rows()
        row = client.get("api/row/3")
        reply = client.post("api/correct", position=3, seen=row["result"], answer="bad", why="I was there").json
        assert (reply["row"]["answer"], reply["row"]["is_corrected"], reply["via"]) == ("bad", True, "journal")
        assert client.positions(label="bad") == [0, 3]
        assert client.positions(corrected=1) == [3]
        assert client.get("api/run")["pending"] == 1
        [step] = reply["row"]["history"]
        assert (step["who"], step["why"], step["origin"], step["is_undo"]) == ("ada", "I was there", "review", False)
        assert (step["from"]["answer"], step["to"]["answer"]) == ("good", "bad")

        undone = client.post("api/undo", position=3, seen=reply["row"]["result"]).json["row"]
        assert (undone["answer"], undone["is_corrected"], len(undone["history"])) == ("good", False, 2)
        assert undone["history"][1]["is_undo"]
        assert client.positions(corrected=1) == []


def test_the_end_of_the_page_writes_the_files_that_it_changed(ran: Lab) -> None:
    with page_of(ran.directory) as (client, served):
        client.post("api/correct", position=3, seen=client.get("api/row/3")["result"], answer="bad", why="")
    assert served.said
    assert (ran.rows()[3]["infer"], ran.rows()[3]["infer_by"]) == ("bad", "hand")

    with page_of(ran.directory) as (client, served):
        assert client.get("api/run")["pending"] == 0
    assert not served.said


def test_the_files_are_written_when_the_person_asks(ran: Lab) -> None:
    with page_of(ran.directory) as (client, _):
        client.post("api/correct", position=3, seen=client.get("api/row/3")["result"], answer="bad", why="")
        assert client.post("api/files").json["said"]
        assert ran.rows()[3]["infer"] == "bad"


def test_a_row_that_another_tab_has_changed_is_shown_and_not_written_over(ran: Lab) -> None:
    with page_of(ran.directory) as (client, _):
        seen = client.get("api/row/3")["result"]
        client.post("api/correct", position=3, seen=seen, answer="bad", why="")
        reply = client.post("api/correct", position=3, seen=seen, answer="good", why="")
        assert (reply.status, reply.json["kind"]) == (409, "changed")
        assert reply.json["row"]["answer"] == "bad"
        assert len(client.get("api/row/3")["history"]) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"position": 3, "seen": 1, "answer": "god"}, "did you mean 'good'"),
        ({"position": 3, "seen": 1, "answer": ["bad"]}, "answer must be a text"),
        ({"position": 3, "seen": "1", "answer": "bad"}, "seen must be"),
        ({"position": "3", "seen": 1, "answer": "bad"}, "position must be"),
        ({"position": 3, "seen": 1, "fields": {"mood": "bad"}}, "fields must be"),
    ],
)
def test_what_is_no_answer_of_the_run_is_refused_in_words(ran: Lab, body: dict[str, Any], words: str) -> None:
    with page_of(ran.directory) as (client, _):
        reply = client.post("api/correct", **body)
        assert (reply.status, reply.json["kind"]) == (400, "invalid")
        assert words in reply.json["error"]


def test_one_field_of_an_answer_is_corrected_and_the_others_stay(lab: Lab) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": LABELS}, "stars": {"type": "integer"}},
        "required": ["mood", "stars"],
    }
    lab.run(pd.DataFrame({"text": ["a"]}), said({"a": '{"mood": "good", "stars": 5}'}), "{text}", schema=schema)
    with page_of(lab.directory) as (client, _):
        client.rows()
        seen = client.get("api/row/0")["result"]
        row = client.post("api/correct", position=0, seen=seen, fields={"stars": "2"}, why="").json["row"]
        assert row["fields"] == {"mood": "good", "stars": "2"}
        assert client.positions(field__stars="2") == [0]
        wrong = client.post("api/correct", position=0, seen=row["result"], fields={"mood": "fine"}, why="")
        assert wrong.status == 400
        gone = client.post("api/correct", position=0, seen=row["result"], fields={"stars": ""}, why="")
        assert gone.status == 400


def test_a_run_that_works_beside_the_page_is_followed(lab: Lab, table: Path) -> None:
    lab.run(table, said(answers()), "{text}.", labels=LABELS, limit=10)
    with page_of(lab.directory) as (client, served):
        assert client.rows()["counts"]["status"]["ok"] == 10
        lab.run(table, said(answers()), "{text}.", labels=LABELS)
        page = wait(lambda: found if (found := client.rows())["counts"]["status"]["ok"] == len(TEXTS) else None)
        assert page["counts"]["label"] == [["good", 29], ["bad", 1]]
        assert client.get("api/row/29")["attempts"]
        assert served.page.view.last.id == 2


def test_corrections_of_another_page_are_followed(ran: Lab) -> None:
    with page_of(ran.directory) as (client, _), page_of(ran.directory, "bob") as (other, _):
        client.rows()
        other.rows()
        other.post("api/correct", position=7, seen=other.get("api/row/7")["result"], answer="bad", why="")
        wait(lambda: client.positions(corrected=1) == [7])
        assert client.get("api/row/7")["history"][0]["who"] == "bob"


def test_results_are_followed_one_by_one_while_a_run_writes_them(ran: Lab) -> None:
    """Change the journal as a run does: requests that were open get their ends, and rows their results."""
    with page_of(ran.directory) as (client, served):
        client.rows()
        with closing(sqlite3.connect(ran.directory / "journal_k.sqlite", isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(
                "INSERT INTO requests (id, run, endpoint, source, position, key, sent)"
                " SELECT 1000, 1, 0, 1, 5, key, 1 FROM rows WHERE position = 5"
            )
            served.page._stamp = None
            wait(lambda: 1000 in served.page.view.index.requests.open)
            assert client.positions(label="bad") == [0]
            db.execute("UPDATE requests SET ended = 2, outcome = 'answered' WHERE id = 1000")
            db.execute(
                "INSERT INTO results (id, key, source, status, answer, error)"
                " SELECT 1000, key, 1, 'ok', 'bad', '' FROM rows WHERE position = 5"
            )
            db.execute("UPDATE rows SET result = 1000 WHERE position = 5")
            wait(lambda: client.positions(label="bad") == [0, 5])
        assert [each["outcome"] for each in client.get("api/row/5")["attempts"]] == ["answered", "answered"]


def cells_of(content: bytes) -> list[list[str]]:
    return [*csv.reader(io.StringIO(content.decode(), newline=""), strict=True)]


def test_the_rows_that_filters_show_are_exported_in_the_columns_of_the_result(ran: Lab) -> None:
    with page_of(ran.directory) as (client, _):
        whole = client.fetch("api/export")
        some = client.fetch("api/export", text="room 2", label="good")
    assert whole.body == ran.path().read_bytes()
    assert "review_k.csv" in whole.headers["content-disposition"]
    lines = cells_of(some.body)
    assert lines[0] == cells_of(whole.body)[0]
    assert [line[1] for line in lines[1:]] == ["room 2", *(f"room 2{n}" for n in range(10))]


def test_an_export_says_which_answers_are_a_persons_as_the_files_do(ran: Lab) -> None:
    with page_of(ran.directory) as (client, _):
        client.post("api/correct", position=3, seen=client.get("api/row/3")["result"], answer="bad", why="")
        content = client.fetch("api/export").body
    assert content == ran.path().read_bytes()
    assert cells_of(content)[4][-1] == "hand"


def test_text_survives_an_export_exactly(lab: Lab) -> None:
    texts = ["=1+1", "NA", "007", 'a "quoted", text', "two\nlines", "\ufeffx", "مرحبا 你好", "", " "]
    lab.run(pd.DataFrame({"text": texts}), said({"": "=SUM(A1)"}), "x{text}")
    with page_of(lab.directory) as (client, _):
        client.rows()
        content = client.fetch("api/export").body
        typed = client.fetch("api/export", format="parquet").body
    assert content == lab.path().read_bytes()
    assert [line[0] for line in cells_of(content)[1:]] == texts
    assert parquet.read_table(io.BytesIO(typed)).column("text").to_pylist() == texts


def test_an_export_as_parquet_has_the_types_of_the_run(lab: Lab) -> None:
    frame = pd.DataFrame(
        {
            "text": ["a", "b", "c"],
            "n": [1, 2, 3],
            "x": [0.5, None, 1e300],
            "at": pd.Series(["2026-01-01", "2026-01-02", None], dtype="datetime64[ns]"),
            "is": [True, False, True],
            "tags": [["p", "q"], [], None],
        }
    )
    lab.run(frame, said({"": "yes"}), "{text}", format="parquet", with_=["tokens"])
    with page_of(lab.directory) as (client, _):
        client.rows()
        found = parquet.read_table(io.BytesIO(client.fetch("api/export", format="parquet").body))
    whole = parquet.read_table(lab.directory / "all_k.parquet")
    assert found.schema.equals(whole.schema)
    assert found.equals(whole)


def test_an_unfinished_run_is_exported_as_far_as_it_is(lab: Lab, table: Path) -> None:
    lab.run(table, said(answers()), "{text}.", labels=LABELS, limit=3)
    with page_of(lab.directory) as (client, _):
        assert len(cells_of(client.fetch("api/export").body)) == 4


@pytest.mark.parametrize("query", [{"format": "xlsx"}, {"status": "fine"}])
def test_an_export_that_cannot_be_made_is_said(ran: Lab, query: dict[str, str]) -> None:
    with page_of(ran.directory) as (client, _):
        assert client.fetch("api/export", **query).status == 400


def test_rows_without_cells_are_not_exported_as_if_they_were_empty(lab: Lab, table: Path) -> None:
    lab.run(table, said(answers()), "{text}.", labels=LABELS)
    table.unlink()
    lab.path(0).unlink()
    lab.path().unlink()
    with page_of(lab.directory) as (client, _):
        reply = client.fetch("api/export")
        assert (reply.status, reply.json["kind"]) == (400, "invalid")
        assert "30 of these 30 rows" in reply.json["error"]

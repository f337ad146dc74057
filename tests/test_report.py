"""A report can be read by people, by JSON and by a notebook."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from batcher.output.report import Report
from batcher.records import EndpointCount

DONE = Report(
    status="done",
    keyword="数学",
    rows=1500,
    ok=1497,
    invalid=2,
    error=1,
    requests=1510,
    retries=10,
    prompt_tokens=30_000,
    completion_tokens=4_500,
    cost_usd=1.25,
    elapsed_s=61.23456,
    output=Path("output/all_数学.csv"),
    endpoints=(EndpointCount("endpoint 1 (m)", 1510, "HTTP 401"),),
)
STOPPED = dataclasses.replace(DONE, status="stopped", ok=1000, invalid=0, error=0, cost_usd=None, output=None)


def test_a_report_reads_as_one_sentence() -> None:
    said = f"数学: 1,500 rows, 1,497 ok, 2 invalid, 1 error; 1,510 requests in 61.2 s, $1.25 -> {DONE.output}"
    assert str(DONE) == said
    assert str(STOPPED) == "数学: 1,500 rows, 1,000 ok, 500 left; 1,510 requests in 61.2 s"


def test_rows_without_a_result_are_left() -> None:
    assert (DONE.left, STOPPED.left) == (0, 500)


def test_a_report_is_one_json_object() -> None:
    back = json.loads(json.dumps(DONE.to_dict()))
    assert back["elapsed_s"] == 61.235
    assert back["output"] == str(DONE.output)
    assert back["endpoints"] == [{"endpoint": "endpoint 1 (m)", "requests": 1510, "out": "HTTP 401"}]
    assert set(back) == {field.name for field in dataclasses.fields(Report)}
    assert STOPPED.to_dict()["output"] is None


def test_a_notebook_shows_the_report_as_a_table_that_no_keyword_can_break() -> None:
    shown = dataclasses.replace(DONE, keyword="<b>&", output=None)._repr_html_()
    assert "<tr><th>keyword</th><td>&lt;b&gt;&amp;</td></tr>" in shown
    assert "<b>" not in shown


def test_a_frame_holds_the_text_of_the_file_exactly(tmp_path: Path) -> None:
    rows = [[text, "", "ok"] for text in ("NA", "None", "007", " a ", 'say "hi"', "a,b", "one\ntwo", "1.10", "😀", "")]
    path = tmp_path / "all_k.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["text", "infer", "infer_status"], *rows])
    frame = dataclasses.replace(DONE, output=path).frame()
    assert list(frame.columns) == ["text", "infer", "infer_status"]
    assert frame.to_numpy().tolist() == rows


def test_there_is_no_frame_before_every_row_has_a_result() -> None:
    with pytest.raises(FileNotFoundError, match="500 rows of '数学' are left: run it again"):
        STOPPED.frame()


def test_a_report_cannot_be_changed() -> None:
    name = "rows"
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(DONE, name, None)

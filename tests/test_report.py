"""A report can be read by people, by JSON and by a notebook."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
from journals import figures

from batcher.errors import OutputError
from batcher.output.directory import Store
from batcher.output.frames import Frames, Kept
from batcher.output.report import Report
from batcher.records import EndpointCount

DONE = Report(
    **figures(
        keyword="数学",
        rows=1500,
        ok=1497,
        invalid=2,
        error=1,
        requests=1510,
        answered=1500,
        failed=10,
        retries=10,
        prompt_tokens=30_000,
        completion_tokens=4_500,
        cost_usd=1.25,
        elapsed_s=61.23456,
    ),
    status="done",
    output=Path("output/all_数学.csv"),
    endpoints=(EndpointCount("endpoint 1 (m)", 1510, "HTTP 401"),),
)
STOPPED = dataclasses.replace(
    DONE, status="stopped", ok=1000, invalid=0, error=0, cost_usd=None, cost_usd_now=None, output=None
)


def row_of(label: str, text: str) -> str:
    """Return a row of a table in a notebook."""
    left = ' style="text-align: left"'
    return f"<tr><th{left}>{label}</th><td{left}>{text}</td></tr>"


def test_a_report_reads_as_one_sentence() -> None:
    said = f"数学: 1,500 rows, 1,497 ok, 2 invalid, 1 error; 1,510 requests in 1m 01s, $1.25 -> {DONE.output}"
    assert str(DONE) == said
    assert str(STOPPED) == "数学: 1,500 rows, 1,000 ok, 500 left; 1,510 requests in 1m 01s"


@pytest.mark.parametrize(
    ("cost_usd", "elapsed_s", "said"),
    [
        (12345.67, 31_285.4, "in 8h 41m, $12,345.67 ->"),
        (0.0004, 0.84, "in 0.8 s, $0.0004 ->"),
        (0.0, 59.9, "in 59.9 s ->"),
        (None, 59.96, "in 1m 00s ->"),
    ],
)
def test_money_and_time_of_a_report_read_well(cost_usd: float | None, elapsed_s: float, said: str) -> None:
    assert said in str(dataclasses.replace(DONE, cost_usd=cost_usd, elapsed_s=elapsed_s))


def test_one_row_and_one_request_are_written_in_the_singular() -> None:
    one = dataclasses.replace(DONE, rows=1, ok=1, invalid=0, error=0, requests=1, requests_now=1, output=None)
    assert str(one) == "数学: 1 row, 1 ok; 1 request in 1m 01s, $1.25"


def test_rows_without_a_result_are_left() -> None:
    assert (DONE.left, STOPPED.left) == (0, 500)


def test_a_report_is_one_json_object() -> None:
    back = json.loads(json.dumps(DONE.to_dict()))
    assert back["elapsed_s"] == 61.235
    assert back["output"] == str(DONE.output)
    assert back["endpoints"] == [{"endpoint": "endpoint 1 (m)", "requests_now": 1510, "out": "HTTP 401"}]
    assert set(back) == {field.name for field in dataclasses.fields(Report)}
    assert STOPPED.to_dict()["output"] is None


def test_a_notebook_shows_the_report_as_a_table_that_no_keyword_can_break() -> None:
    shown = dataclasses.replace(DONE, keyword="<b>&", output=None)._repr_html_()
    assert shown.startswith("<div>&lt;b&gt;&amp;: done</div>\n")
    assert "<b>" not in shown
    assert row_of("rows", "1,500: 1,497 ok, 2 invalid, 1 error") in shown
    assert row_of("lost", "endpoint 1 (m): HTTP 401") in shown


def test_the_part_of_this_process_stands_beside_the_whole_run() -> None:
    resumed = dataclasses.replace(DONE, requests_now=1, cost_usd_now=0.0005, elapsed_s_now=0.04, output=None)
    assert str(resumed).endswith("; 1,510 requests in 1m 01s, $1.25 (now 1 in 0.0 s, $0.0005)")
    shown = resumed._repr_html_()
    counts = "1,510: 1,500 answered, 10 failed, 0 out; by the latest process 1 (10 further attempts)"
    assert row_of("requests", counts) in shown
    assert row_of("money", "$1.25 for answers (now $0.0005)") in shown
    assert row_of("time", "1m 01s (now 0.0 s)") in shown
    assert "_now" not in shown


def test_a_notebook_says_of_an_unknown_cost_that_it_is_unknown() -> None:
    assert row_of("money", "unknown") in STOPPED._repr_html_()
    assert "None" not in STOPPED._repr_html_()
    assert row_of("rows", "1,500: 1,000 ok, 0 invalid, 0 error, 500 left") in STOPPED._repr_html_()


def test_a_frame_holds_the_text_of_the_file_exactly(tmp_path: Path) -> None:
    texts = ("NA", "None", "007", " a ", 'say "hi"', "a,b", "one\ntwo", "1.10", "😀", "")
    rows = [[text, "", "ok", ""] for text in texts]
    path = tmp_path / "all_k.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["text", "infer", "infer_status", "infer_error"], *rows])
    frames = Frames(Store(tmp_path, "k", ["text"]), None, len(rows), Kept(), is_whole=True)
    frame = dataclasses.replace(DONE, output=path).with_frames(frames).frame()
    assert list(frame.columns) == ["text", "infer", "infer_status", "infer_error"]
    assert frame.to_numpy().tolist() == rows


def test_a_report_that_no_run_made_has_nothing_to_read() -> None:
    with pytest.raises(OutputError, match="not made by a run"):
        STOPPED.frame()


def test_a_report_cannot_be_changed() -> None:
    name = "rows"
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(DONE, name, None)

"""A report's answers beside the caller's own rows: whatever the index is, right or refused."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Lab
from fake_service import Call, Service, answer_to, refusal

import batcher
from batcher.endpoint import Endpoint
from batcher.errors import InputError, Interrupted, OutputError
from batcher.output.report import Report

ROWS = 12
TEXTS = [f"item {number}" for number in range(ROWS)]


def table(index: Any = None) -> pd.DataFrame:
    days = pd.date_range("2026-01-01", periods=ROWS, freq="D")
    columns = {"id": range(ROWS), "text": TEXTS, "day": days, "share": [number / 8 for number in range(ROWS)]}
    return pd.DataFrame(columns, index=index)


def ask(lab: Lab, data: Any, **options: Any) -> Report:
    chosen: dict[str, Any] = {"chunk_size": 5, "endpoints": [Endpoint("m", max_concurrency=2)]} | options
    return lab.run(data, Service(TEXTS), "{text}", **chosen)


def asked_partly(lab: Lab, data: Any, **options: Any) -> Report:
    with pytest.raises(Interrupted) as stopped:
        ask(lab, data, at={3.5: lab.request_stop}, **options)
    return stopped.value.report


def is_right(frame: pd.DataFrame, column: str = "infer") -> bool:
    return frame[column].tolist() == [answer_to(text) for text in frame["text"]]


INDEXES: dict[str, Callable[[], pd.DataFrame]] = {
    "as it comes": table,
    "shuffled": lambda: table().sample(frac=1, random_state=5),
    "filtered": lambda: table().iloc[::2].drop(index=4),
    "strings": lambda: table([f"row {number:02}" for number in range(ROWS)][::-1]),
    "days": lambda: table(pd.date_range("2026-03-01", periods=ROWS, freq="h")[::-1]),
    "categories": lambda: table(pd.CategoricalIndex([f"c{number}" for number in range(ROWS)])),
    "several levels": lambda: table(pd.MultiIndex.from_product([list("abc"), range(4)])).sample(frac=1, random_state=1),
}


@pytest.mark.parametrize("made", INDEXES.values(), ids=INDEXES)
def test_answers_stand_beside_their_own_rows_whatever_the_index_is(lab: Lab, made: Callable[[], pd.DataFrame]) -> None:
    df = made()
    report = ask(lab, df, answer_column="label")
    assert report.answers.name == "label"
    assert report.answers.index.equals(df.index)
    assert is_right(df.join(report.frame()[["label"]]), "label")
    shuffled = df.sample(frac=1, random_state=9)
    shuffled["label"] = report.answers
    assert is_right(shuffled, "label")
    df["label"] = report.answers
    assert is_right(df, "label")
    frame = report.frame()
    assert frame.index.equals(df.index)
    assert [*frame] == ["id", "text", "day", "share", "label", "label_status", "label_error"]
    pd.testing.assert_frame_equal(frame[["id", "text", "day", "share", "label"]], df)


def test_labels_that_occur_twice_go_by_the_rows_or_are_refused_by_pandas_and_a_note_warns_of_join(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    df = pd.concat([table().iloc[:6], table().iloc[6:].set_axis(range(6))])
    report = ask(lab, df, quiet=False, no_progress=True)
    df["label"] = report.answers
    assert is_right(df, "label")
    assert "labels of the index occur more than once" not in capsys.readouterr().err
    assert is_right(report.frame())
    assert 'df["label"] = report.answers' in capsys.readouterr().err
    moved = df.sample(frac=1, random_state=3)
    with pytest.raises(ValueError, match="duplicate labels"):
        moved["label"] = report.answers


@pytest.mark.parametrize("index", [None, [f"row {number}" for number in range(ROWS)]])
def test_a_series_and_a_limit_keep_the_labels_of_the_rows_that_were_asked(lab: Lab, index: Any) -> None:
    df = table(index).sample(frac=1, random_state=2)
    report = ask(lab, df["text"], limit=7)
    assert report.answers.index.equals(df.index[:7])
    assert is_right(report.frame())
    df["label"] = report.answers
    assert is_right(df[:7], "label")
    assert df["label"][7:].isna().all()


def test_other_inputs_have_row_numbers_and_text(lab: Lab, tmp_path: Path) -> None:
    table().to_csv(tmp_path / "t.csv", index=False)
    for number, data in enumerate([TEXTS, tmp_path / "t.csv"]):
        report = ask(lab, data, keyword=f"k{number}")
        assert report.answers.tolist() == [answer_to(text) for text in TEXTS]
        frame = report.frame()
        assert is_right(frame)
        assert frame.index.equals(pd.RangeIndex(ROWS))
        assert {type(value) for column in frame for value in frame[column]} == {str}


def add_row(df: pd.DataFrame) -> None:
    df.loc[ROWS] = pd.Series({"id": ROWS, "text": "new", "day": pd.Timestamp(0), "share": 0.0})


def sort(df: pd.DataFrame) -> None:
    df.iloc[:] = df.iloc[::-1].to_numpy()
    df.index = df.index[::-1]


# Tables that are changed in place, as in older notebooks.
CHANGES: dict[str, tuple[Callable[[pd.DataFrame], object], str]] = {
    "a row more": (add_row, "it had 12 rows, and has 13 rows now"),
    "rows fewer": (lambda df: df.drop(index=[3, 4], inplace=True), "it had 12 rows, and has 10 rows now"),  # noqa: PD002
    "other order": (sort, "its index was replaced"),
    "another index": (lambda df: df.set_index("id", drop=False, inplace=True), "its index was replaced"),  # noqa: PD002
    "numbered anew": (lambda df: df.reset_index(drop=True, inplace=True), "its index was replaced"),  # noqa: PD002
}


@pytest.mark.filterwarnings("ignore:The inplace keyword")
@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
def test_a_table_whose_rows_were_changed_is_refused_with_what_to_do(
    lab: Lab, change: Callable[[pd.DataFrame], object], said: str, *, is_whole: bool
) -> None:
    df = table()
    report = (ask if is_whole else asked_partly)(lab, df)
    df["note"] = "columns may be added"
    assert len(report.answers) == len(report.frame()) == ROWS
    del df["note"]
    change(df)
    for read in (report.frame, lambda: report.answers):
        with pytest.raises(InputError, match=f"the DataFrame was changed since the run began: {said}.* call run with"):
            read()


def test_columns_whose_values_were_changed_are_shown_as_they_were_sent(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    df = table()
    report = ask(lab, df, quiet=False, no_progress=True)
    capsys.readouterr()
    df["text"] = df["text"].str.upper()
    df.columns = pd.Index(["id", "text", "day", "part"])
    del df["day"]
    frame = report.frame()
    assert is_right(frame)
    assert capsys.readouterr().err.startswith("Note: the values in 'text' were changed since the run: ")
    assert frame["id"].tolist() == [*range(ROWS)]
    partly = asked_partly(lab, df := table(), keyword="k2")
    df["text"] = df["text"].str.upper()
    with pytest.raises(InputError, match=r"row 0 .* has changed since it was asked \(column 'text'\)"):
        partly.frame()


def fail_once(call: Call) -> Any:
    return refusal(400) if call.prompt in TEXTS[1:3] else None


@pytest.mark.parametrize("made", [table, lambda: TEXTS, lambda: table()["text"]], ids=["frame", "list", "series"])
def test_the_frame_of_an_interrupted_run_has_what_there_is(lab: Lab, made: Callable[[], Any]) -> None:
    data = made()
    with pytest.raises(Interrupted) as stopped:
        lab.run(
            data, Service(TEXTS, instead=fail_once), "{text}", chunk_size=5, at={4.5: lab.request_stop},
            endpoints=[Endpoint("m", max_concurrency=2)],
        )  # fmt: skip
    report = stopped.value.report
    frame = report.frame()
    assert frame["text"].tolist() == TEXTS
    counted = frame["infer_status"].value_counts()
    assert (counted["ok"], counted[""], counted.get("error", 0)) == (report.ok, report.left, report.error)
    answered = frame[frame["infer_status"] == "ok"]
    assert is_right(answered)
    assert report.answers.tolist() == frame["infer"].tolist()
    assert set(frame["infer"][frame["infer_status"] != "ok"]) == {""}
    lab.run(data, Service(TEXTS), "{text}", chunk_size=5, retry_failed=True)
    for read in (report.frame, lambda: report.answers):
        with pytest.raises(OutputError, match=r"another run of 'k' has worked in .* since: use its report"):
            read()


def test_the_frame_of_a_stopped_run_over_a_file_reads_the_file_again(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table().to_csv("t.csv", index=False)
    report = asked_partly(lab, "t.csv")
    assert report.frame()["text"].tolist() == TEXTS
    lab.path(0).write_bytes(lab.path(0).read_bytes().replace(b"answer to item 2", b"corrected"))
    assert report.frame()["infer"][2] == report.answers[2] == "corrected"
    assert pickle.loads(pickle.dumps(report)).frame().equals(report.frame())  # noqa: S301 - our own
    Path("t.csv").write_text(Path("t.csv").read_text().replace("item 9", "item nine"))
    with pytest.raises(InputError, match=r"t\.csv, row 9 .* has changed since it was asked"):
        report.frame()
    assert len(report.answers) == ROWS


def test_a_report_keeps_the_index_and_not_the_table_and_a_pickled_one_neither(lab: Lab) -> None:
    df = table([f"row {number}" for number in range(ROWS)])
    index = df.index
    report = ask(lab, df)
    assert report.answers.index.is_(index), "its memory is shared"
    assert "row 7" not in f"{report!r}{report.to_dict()}{report._repr_html_()}"
    pickled = pickle.dumps(report)
    assert b"row 7" not in pickled
    back = pickle.loads(pickled)  # noqa: S301 - our own
    assert back == report
    assert copy.copy(report).answers.index.is_(index)
    for read in (back.frame, lambda: pickle.loads(pickle.dumps(back)).answers):  # noqa: S301 - our own
        with pytest.raises(InputError, match="was pickled, and the index of the DataFrame is not in it"):
            read()
    gone = weakref.ref(df)
    del df
    gc.collect()
    assert gone() is None
    assert report.answers.index.is_(index)
    frame = report.frame()
    assert is_right(frame)
    assert frame["id"].tolist() == [str(number) for number in range(ROWS)], "text, as in the file"


def test_of_an_interrupted_run_whose_table_is_gone_the_answers_are_there(lab: Lab) -> None:
    report = asked_partly(lab, table(TEXTS))
    gc.collect()
    with pytest.raises(InputError, match=r"the DataFrame is gone, .*report\.answers"):
        report.frame()
    assert all(answer in {"", answer_to(str(text))} for text, answer in report.answers.items())


def anew(lab: Lab) -> None:
    for path in lab.directory.iterdir():
        path.unlink()
    ask(lab, table()[::-1])


def rewrite(lab: Lab, change: Callable[[list[str]], list[str]]) -> None:
    header, *lines = lab.path().read_text().splitlines()
    lab.path().write_text("\n".join([header, *change(lines), ""]))


REPLACED: dict[str, tuple[Callable[[Lab], object], str]] = {
    "by another run": (lambda lab: ask(lab, table()[::-1]), "another run of 'k' has worked in"),
    "with its journal": (anew, "another run of 'k' has worked in"),
    "removed": (lambda lab: lab.path().unlink(), r"all_k\.csv is gone: `batcher\.merge` writes it again"),
    "sorted": (lambda lab: rewrite(lab, lambda lines: lines[::-1]), r"all_k\.csv, line 2, column 'id'"),
    "cut": (lambda lab: rewrite(lab, lambda lines: lines[:-1]), r"all_k\.csv has other rows than the run"),
    "longer": (lambda lab: rewrite(lab, lambda lines: [*lines, lines[0]]), r"all_k\.csv has other rows than the run"),
    "all removed": (lambda lab: shutil.rmtree(lab.directory), "there is no run 'k'"),
}


@pytest.mark.parametrize(("replace", "said"), REPLACED.values(), ids=REPLACED)
def test_a_result_that_is_not_the_runs_any_more_is_refused(
    lab: Lab, replace: Callable[[Lab], object], said: str
) -> None:
    df = table()
    report = ask(lab, df)
    replace(lab)
    for read in (report.frame, lambda: report.answers):
        with pytest.raises(OutputError, match=said):
            read()


def test_labels_corrected_by_hand_are_in_the_answers_after_a_merge_and_the_folder_may_change(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lab.directory = Path(os.path.relpath(lab.directory))
    report = ask(lab, frame := table())
    lab.path(5).write_bytes(lab.path(5).read_bytes().replace(b"answer to item 7", b"corrected"))
    batcher.merge("k", lab.directory)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert report.answers[7] == report.frame()["infer"][7] == "corrected"
    assert len(frame) == ROWS


def texts_of_all_kinds() -> Iterator[Any]:
    yield from ["NA", "", None, "a,b", "two\nlines", "a\rb", "nul\0nul", "\ud800 half", 1.5, float("nan"), [1, None]]


def test_cells_that_a_file_writes_otherwise_are_still_known_as_unchanged(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    df = pd.DataFrame({"text": TEXTS[:11], "kind": [*texts_of_all_kinds()]}, dtype=object)
    df["whole"] = pd.array([1, None, *range(9)], dtype="Int64")
    df["group"] = pd.Categorical([None, *"abcdefghij"])
    report = ask(lab, df, quiet=False, no_progress=True)
    capsys.readouterr()
    pd.testing.assert_frame_equal(report.frame()[[*df]], df)
    assert capsys.readouterr().err == ""
    assert lab.rows()[6]["kind"] == "nul\ufffdnul"


def test_answers_of_a_frame_that_is_gone_and_was_numbered_warn_of_other_rows(lab: Lab) -> None:
    frame = pd.DataFrame({"text": TEXTS})
    report = lab.run(frame, Service(TEXTS), "{text}")
    assert list(report.answers) == [f"answer to {text}" for text in TEXTS]
    frame = frame[frame["text"] != TEXTS[0]].reset_index(drop=True)
    with pytest.warns(UserWarning, match="the DataFrame that was given to run is gone, .* numbered anew"):
        assert len(report.answers) == len(TEXTS)


def test_answers_of_a_filtered_frame_that_is_gone_need_no_warning(lab: Lab) -> None:
    report = lab.run(pd.DataFrame({"text": TEXTS})[1:], Service(TEXTS), "{text}")
    gc.collect()
    assert list(report.answers.index) == list(range(1, len(TEXTS)))

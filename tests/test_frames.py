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
import polars as pl
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


def ask(lab: Lab, data: Any, prompt: Any = "{text}", **options: Any) -> Report:
    chosen: dict[str, Any] = {"chunk_size": 5, "endpoints": [Endpoint("m", max_concurrency=2)]} | options
    return lab.run(data, Service(TEXTS), prompt, **chosen)


def asked_partly(lab: Lab, data: Any, stop: float = 3.5, **options: Any) -> Report:
    with pytest.raises(Interrupted) as stopped:
        ask(lab, data, at={stop: lab.request_stop}, **options)
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
    "numbers and texts": lambda: table([1, "b", None, 2.5, ("t", 1), *"uvwxyz", float("nan")]),
    "intervals": lambda: table(pd.IntervalIndex.from_breaks(range(ROWS + 1))).iloc[::-1],
    "several levels": lambda: table(pd.MultiIndex.from_product([list("abc"), range(4)])).sample(frac=1, random_state=1),
}


@pytest.mark.parametrize("made", INDEXES.values(), ids=INDEXES)
def test_answers_stand_beside_their_own_rows_whatever_the_index_is(lab: Lab, made: Callable[[], pd.DataFrame]) -> None:
    df = made()
    report = ask(lab, df, answer_column="label")
    assert report.answers.name == "label"
    assert report.answers.index.equals(df.index)
    shuffled = df.sample(frac=1, random_state=9)
    for given in (df, shuffled, shuffled[:5]):
        put_beside = [
            given.join(report.frame()[["label"]]),
            given.assign(label=report.answers),
            given.assign(label=report.frame()["label"]),
            given.merge(report.frame()[["label"]], left_index=True, right_index=True),
        ]
        assert all(is_right(each, "label") and len(each) == len(given) for each in put_beside)
    assert is_right(pd.concat([df, report.answers], axis=1), "label")
    df["label"] = report.answers
    assert is_right(df, "label")
    frame = report.frame()
    assert frame.index.equals(df.index)
    assert [*frame] == ["id", "text", "day", "share", "label", "label_status", "label_error"]
    pd.testing.assert_frame_equal(frame[["id", "text", "day", "share", "label"]], df)


def test_labels_that_occur_twice_go_by_the_rows_or_are_refused_by_pandas_and_a_warning_tells_of_join(lab: Lab) -> None:
    df = pd.concat([table().iloc[:6], table().iloc[6:].set_axis(range(6))])
    report = ask(lab, df)
    df["label"] = report.answers
    assert is_right(df, "label")
    with pytest.warns(UserWarning, match=r'labels of the DataFrame .* df\["label"\] = report\.answers') as warned:
        assert is_right(report.frame())
    assert warned[0].filename == __file__
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


REPEATED: dict[str, Callable[[], pd.DataFrame]] = {
    "concat": lambda: pd.concat([table()[:6], table()[6:].set_axis(range(6))]),
    "beyond the limit": lambda: table([*range(ROWS - 1), 0]),
    "sorted": lambda: table([number // 2 for number in range(ROWS)]),
    "one label": lambda: table(["a"] * ROWS),
    "no labels": lambda: table([None] * ROWS),
    "days": lambda: table(pd.DatetimeIndex(["2026-01-01", "2026-01-02"] * 6)),
    "categories": lambda: table(pd.CategoricalIndex([*"abcdef"] * 2)),
    "several levels": lambda: table(pd.MultiIndex.from_product([["a", None], [1, 2], [3, 3, 4]])),
}


@pytest.mark.parametrize(("part", "is_whole"), [("limit", True), ("sample", False)])
@pytest.mark.parametrize("made", REPEATED.values(), ids=REPEATED)
def test_if_a_part_is_asked_of_a_table_with_equal_labels_no_other_row_gets_an_answer(
    lab: Lab, made: Callable[[], pd.DataFrame], part: str, *, is_whole: bool
) -> None:
    df = made()
    report = ask(lab, df, **{part: 7}) if is_whole else asked_partly(lab, df, 2.5, **{part: 7})
    for read in (lambda: report.answers, lambda: pd.concat([df, report.answers], axis=1)["infer"]):
        df["label"] = read()
        asked = df[df["label"].notna()]
        assert len(asked) == report.rows == 7
        answered = asked[asked["label"] != ""]
        assert is_right(answered, "label")
        assert len(answered) == report.ok
    with pytest.raises(InputError, match=r"labels of the DataFrame occur more than once, and 7 of 12 rows .*answers"):
        report.frame()


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


def test_columns_that_no_prompt_uses_may_change_and_are_shown_as_they_were(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    df = table()
    report = ask(lab, df, quiet=False, no_progress=True)
    capsys.readouterr()
    df["id"] += 100
    df.columns = pd.Index(["id", "text", "day", "part"])
    del df["day"]
    frame = report.frame()
    assert is_right(frame)
    assert capsys.readouterr().err.startswith("Note: the values in 'id' were changed since the run: ")
    assert frame["id"].tolist() == [str(number) for number in range(ROWS)]
    assert report.answers.tolist() == frame["infer"].tolist()
    partly = asked_partly(lab, df := table(), keyword="k2")
    df["id"] += 100
    assert len(partly.answers) == ROWS
    with pytest.raises(InputError, match=r"row 0 .* has changed since it was asked \(column 'id'\)"):
        partly.frame()


@pytest.mark.parametrize("options", [{}, {"limit": 7}, {"sample": 7}], ids=["all", "limit", "sample"])
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_table_whose_texts_were_moved_to_other_rows_is_refused(
    lab: Lab, options: dict[str, int], *, is_whole: bool
) -> None:
    df = table([f"row {number}" for number in range(ROWS)])
    report = ask(lab, df, **options) if is_whole else asked_partly(lab, df, 2.5, **options)
    df["text"] = df["text"].to_numpy()[::-1].copy()
    for read in (report.frame, lambda: report.answers):
        with pytest.raises(InputError, match=r"row \d+ .*'text'"):
            read()


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
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert report.frame()["text"].tolist() == TEXTS
    csv = tmp_path / "t.csv"
    csv.write_text(csv.read_text().replace("item 9", "item nine"))
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


def test_of_an_interrupted_run_whose_table_is_gone_the_rows_of_chunk_files_and_all_answers_are_there(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    report = asked_partly(lab, table(TEXTS), quiet=False, no_progress=True)
    gc.collect()
    capsys.readouterr()
    frame = report.frame()
    assert capsys.readouterr().err.startswith("Note: the cells of 7 rows are missing: the input is gone")
    assert is_right(frame[:5])
    assert frame["text"][5:].isna().all()
    assert frame["infer"].tolist() == report.answers.tolist()
    assert report.answers.iloc[5] == answer_to(TEXTS[5])
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
    df["short"] = pd.array([number / 10 for number in range(11)], dtype="float32")
    by_all_columns: Any = lambda row: row["text"]  # noqa: E731 - which ones a function uses is not known
    partly = asked_partly(lab, df, prompt=by_all_columns)
    assert len(partly.answers) == len(partly.frame()) == len(df)
    report = ask(lab, df, prompt=by_all_columns, quiet=False, no_progress=True)
    capsys.readouterr()
    pd.testing.assert_frame_equal(report.frame()[[*df]], df)
    assert len(report.answers) == len(df)
    assert capsys.readouterr().err == ""
    assert lab.rows()[6]["kind"] == "nul\ufffdnul"


def test_answers_of_a_frame_that_is_gone_and_was_numbered_warn_of_other_rows(lab: Lab) -> None:
    frame = pd.DataFrame({"text": TEXTS})
    report = lab.run(frame, Service(TEXTS), "{text}")
    assert list(report.answers) == [f"answer to {text}" for text in TEXTS]
    frame = frame[frame["text"] != TEXTS[0]].reset_index(drop=True)
    for read in (report.frame, lambda: report.answers):
        with pytest.warns(UserWarning, match="the DataFrame that was given to run is gone, .* numbered anew") as warned:
            assert len(read()) == len(TEXTS)
        assert warned[0].filename == __file__


def test_answers_of_a_shuffled_frame_that_is_gone_warn_of_other_rows_too(lab: Lab) -> None:
    df = table().sample(frac=1, random_state=4)
    report = ask(lab, df)
    df = df.reset_index(drop=True)
    with pytest.warns(UserWarning, match="numbered anew"):
        assert not is_right(df.assign(label=report.answers), "label")


def test_answers_of_a_frame_that_is_gone_and_has_equal_labels_warn_of_another_order(lab: Lab) -> None:
    df = table([number // 2 for number in range(ROWS)])
    report = ask(lab, df)
    df = df.iloc[[1, 0, *range(2, ROWS)]]
    with pytest.warns(UserWarning, match="its labels occur more than once: the answers go by the order of its rows"):
        assert not is_right(df.assign(label=report.answers), "label")


def test_a_column_needs_no_variable_of_its_own(lab: Lab) -> None:
    df = table()
    report = ask(lab, df["text"])
    df["label"] = report.answers
    assert is_right(df, "label")
    assert is_right(df.join(report.frame()[["infer"]]))
    df = df.assign(more=1).drop(columns="id")
    assert is_right(df.assign(label=report.answers), "label")
    partly = asked_partly(lab, df["text"], keyword="k2")
    frame = partly.frame()
    assert frame["text"].tolist() == TEXTS
    assert frame["infer"].tolist() == partly.answers.tolist()
    df = df[1:].reset_index(drop=True)
    del frame
    gc.collect()
    for read in (report.frame, lambda: partly.answers):
        with pytest.warns(UserWarning, match="the Series that was given to run is gone, .* numbered anew"):
            assert len(read()) == ROWS


def test_a_series_whose_rows_were_changed_is_refused(lab: Lab) -> None:
    texts = table()["text"]
    report = ask(lab, texts)
    texts.iloc[:2] = texts.iloc[1::-1].to_numpy()
    with pytest.raises(InputError, match=r"the Series was changed since the run began: row 0 .*'text'"):
        assert report.answers.tolist()


def test_answers_of_a_filtered_frame_that_is_gone_need_no_warning(lab: Lab) -> None:
    report = lab.run(pd.DataFrame({"text": TEXTS})[1:], Service(TEXTS), "{text}")
    gc.collect()
    assert list(report.answers.index) == list(range(1, len(TEXTS)))


def test_a_table_that_got_its_answers_is_still_the_one_that_was_asked(lab: Lab) -> None:
    frame, rows = table()[["text", "id"]], [{"text": text, "id": text[-1]} for text in TEXTS]
    in_polars = pl.DataFrame({"text": TEXTS, "id": range(ROWS)})
    for number, data in enumerate((frame, rows, in_polars, in_polars.to_arrow())):
        keyword = f"k{number}"
        report = ask(lab, data, keyword=keyword)
        answers = report.answers.tolist()
        if data is frame:
            frame.insert(0, "label", report.answers)
        elif data is rows:
            data = [{"label": answer, **row} for row, answer in zip(rows, answers, strict=True)]  # noqa: PLW2901
        elif data is in_polars:
            data = in_polars.with_columns(label=pl.Series(answers))  # noqa: PLW2901
        else:
            data = data.append_column("label", [answers])  # noqa: PLW2901
        assert batcher.verify(keyword, data, output_dir=lab.directory).ok
        lab.directory.joinpath(f"5_{keyword}.csv").unlink()
        partial = batcher.merge(keyword, lab.directory, partial=True, data=data)
        assert partial.read_bytes() == lab.directory.joinpath(f"all_{keyword}.csv").read_bytes()
    frame.loc[3, "text"] = "another"
    assert not batcher.verify("k0", frame, output_dir=lab.directory).ok


def test_a_run_that_is_stopped_while_it_plans_has_no_rows_and_says_so(lab: Lab) -> None:
    df = table()
    lab.request_stop()
    with pytest.raises(Interrupted, match=r"before anything was sent; the same call begins anew$") as stopped:
        ask(lab, df)
    for read in (stopped.value.report.frame, lambda: stopped.value.report.answers):
        with pytest.raises(OutputError, match="this run was stopped before anything was sent, and has no rows yet"):
            read()
    partly = asked_partly(lab, df)
    moved = df[::-1]
    saved = rf"before anything was sent; {partly.ok} of 12 rows are saved, and the same call goes on"
    lab.request_stop()
    with pytest.raises(Interrupted, match=saved) as again:
        ask(lab, moved)
    with pytest.raises(OutputError, match=r"this run was stopped before .* `batcher\.merge` with partial=True"):
        again.value.report.frame()

"""A sheet of a workbook is read as a person sees it, and what cannot be read so is named with its cell."""

from __future__ import annotations

import datetime as dt
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import batcher
from batcher.errors import InputError
from batcher.input.dataset import Dataset
from batcher.input.opening import Reading, open_dataset
from batcher.records import Values


def rows_of(table: Dataset, size: int = 3) -> list[Values]:
    return [row for part in table.slices(size) for row in part.rows]


def workbook(folder: Path, rows: list[list[Any]], change: Callable[[Any], object] = lambda _: None) -> Path:
    """Write a workbook with openpyxl; `change` may do more with its sheet."""
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "Reviews"
    for row in rows:
        sheet.append(row)
    change(sheet)
    path = folder / "t.xlsx"
    book.save(path)
    return path


def fault(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        rows_of(open_dataset(path))
    return str(caught.value).removeprefix(str(path))


SHOWN: list[tuple[Any, str, str]] = [
    ("007", "General", "007"),
    (7, "General", "7"),
    (7.0, "General", "7"),
    (7, "00000", "00007"),
    (0.1 + 0.2, "General", "0.3"),
    (-1.5, "0.00", "-1.5"),
    (12345678901234, "General", "12345678901234"),
    (1e20, "General", "1e+20"),
    (True, "General", "TRUE"),
    ("#N/A", "General", "#N/A"),
    (dt.date(2024, 5, 1), "d.m.yy", "2024-05-01"),
    (pd.Timestamp("2024-05-01 12:30"), "d/m/yy h:mm", "2024-05-01 12:30:00"),
    (pd.Timestamp("2024-05-01"), "yyyy-mm-dd h:mm", "2024-05-01 00:00:00"),
    (dt.time(1, 2, 3), "h:mm:ss", "01:02:03"),
    (dt.timedelta(hours=26, minutes=5), "[h]:mm:ss", "26:05:00"),
    ("one\ntwo", "General", "one\ntwo"),
    ("a_x000D_\nb", "General", "a\r\nb"),
    ("数 😀", "General", "数 😀"),
]


def test_a_cell_is_the_text_that_a_person_sees(tmp_path: Path) -> None:
    def form(sheet: Any) -> None:
        for number, (_, number_format, _) in enumerate(SHOWN, 2):
            sheet.cell(number, 1).number_format = number_format

    path = workbook(tmp_path, [["v", "n"], *([value, "x"] for value, _, _ in SHOWN)], form)
    assert rows_of(open_dataset(path)) == [(shown, "x") for _, _, shown in SHOWN]


def test_a_table_may_stand_anywhere_and_empty_rows_and_columns_end_it(tmp_path: Path) -> None:
    def form(sheet: Any) -> None:
        sheet["F40"].number_format = "0.00"  # a cell without a value

    path = workbook(tmp_path, [[], [None, "a", "b"], [None, 1, None], [], [None, None, 2]], form)
    table = open_dataset(path)
    assert (table.columns, table.sheet) == (("a", "b"), "Reviews")
    assert rows_of(table, 2) == [("1", ""), ("", ""), ("", "2")]
    assert table.where(2) == f"{path}, sheet 'Reviews', row 2 (counted from 0; row 5 of the sheet)"


def test_merged_cells_below_each_other_share_their_text(tmp_path: Path) -> None:
    def form(sheet: Any) -> None:
        sheet.merge_cells("A2:A4")
        sheet.merge_cells("A5:B5")

    path = workbook(tmp_path, [["kind", "n"], ["x", 1], [None, 2], [None, None], ["y"], ["z", 5]], form)
    assert rows_of(open_dataset(path)) == [("x", "1"), ("x", "2"), ("x", ""), ("y", ""), ("z", "5")]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([["a", None, "b"], [1, 2, 3]], "cell B1 is empty: it must hold the name of its column"),
        ([["a", "b", "a"], [1, 2, 3]], "cells A1 and C1 both name a column 'a': rename one"),
        ([["a"], [1], [2, "?"]], "cell B3 has a value, but cell B1 gives its column no name"),
        ([["Title"], ["a", "b"], [1, 2]], "cell B2 has a value, but cell B1 gives its column no name"),
        ([["a"], ["=1+1"]], "cell A2 holds a formula that was never computed: open the file in Excel"),
        ([], "the sheet is empty: its first row must hold the names of the columns"),
    ],
)
def test_a_cell_that_makes_no_table_is_named(tmp_path: Path, rows: list[list[Any]], said: str) -> None:
    assert fault(workbook(tmp_path, rows)).startswith(f", sheet 'Reviews': {said}")


def with_computed(path: Path, cells: bytes) -> Path:
    """Put cells into the place of the formula `A1+1`, as a spreadsheet program writes them with their values."""
    changed = path.with_name("computed.xlsx")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name).replace(b' fullCalcOnLoad="1"', b"")
            new.writestr(name, content.replace(b"<f>A1+1</f><v />", cells).replace(b"<f>A1+1</f><v></v>", cells))
    return changed


@pytest.mark.parametrize(
    ("value", "shown"), [(b"<v>2</v>", "2"), (b"<v>0</v>", "0"), (b"<v>2.5000000000000004</v>", "2.5")]
)
def test_a_formula_is_its_computed_value(tmp_path: Path, value: bytes, shown: str) -> None:
    path = with_computed(workbook(tmp_path, [["n"], ["=A1+1"], [3]]), b"<f>A1+1</f>" + value)
    assert rows_of(open_dataset(path)) == [(shown,), ("3",)]


def test_the_first_sheet_that_is_shown_is_read_or_the_one_that_is_named(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.append(["hidden"])
    book.active.sheet_state = "hidden"
    for name in ("Shown", "Other"):
        book.create_sheet(name).append([name.lower()])
    book.active = 1
    path = tmp_path / "t.xlsx"
    book.save(path)
    assert open_dataset(path).columns == ("shown",)
    assert open_dataset(path, Reading(sheet="Other")).columns == ("other",)
    with pytest.raises(InputError, match=r"has no sheet 'other'; its sheets are: .*; did you mean 'Other'\?"):
        open_dataset(path, Reading(sheet="other"))


def test_what_is_no_workbook_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    for content, said in [
        (b"a,b\n1,2\n", ": cannot be read as an Excel workbook: "),
        (b"", ": cannot be read as an Excel workbook: "),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" * 80, ": is encrypted, or an .xls file with another ending: save it"),
    ]:
        path.write_bytes(content)
        assert fault(path).startswith(said)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "no workbook")
    assert fault(path).startswith(": cannot be read as an Excel workbook: ")


def test_without_openpyxl_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workbook(tmp_path, [["a"]])
    monkeypatch.setitem(sys.modules, "openpyxl.reader.excel", None)
    assert fault(path) == ': a workbook needs openpyxl: pip install "batcher-llm[excel]"'


def test_a_run_on_a_sheet_is_verified_on_that_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = workbook(tmp_path, [["n"]], lambda sheet: sheet.parent.create_sheet("More"))
    book = openpyxl.load_workbook(path)
    for row in (["text"], ["good"], [7]):
        book["More"].append(row)
    book.save(path)
    report = batcher.run(path, "One of: a, b. {text}", sheet="More", provider="offline", quiet=True)
    assert (report.keyword, list(report.frame()["text"])) == ("t", ["good", "7"])
    assert batcher.verify("t", path).ok
    (tmp_path / "a.csv").write_text("text\nx\n")
    with pytest.raises(batcher.SettingsError, match=r"sheet: .*a\.csv is no workbook: leave the option out"):
        batcher.plan(tmp_path / "a.csv", "{text}", sheet="More", provider="offline")


some_text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8).filter(
    lambda text: "_x" not in text and not text.startswith("=")
)


@given(st.lists(st.tuples(some_text, st.integers(0, 10**15)), min_size=1, max_size=6))
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_pandas_writes_comes_back(tmp_path: Path, rows: list[tuple[str, int]]) -> None:
    path = tmp_path / "pandas.xlsx"
    pd.DataFrame(rows, columns=["text", "n"]).to_excel(path, index=False, engine="openpyxl")
    back = pd.read_excel(path, dtype=str, keep_default_na=False)
    assert rows_of(open_dataset(path)) == list(back.itertuples(index=False, name=None))


def test_memory_does_not_grow_with_the_sheet(tmp_path: Path) -> None:
    peaks = []
    for count in (3_000, 12_000):
        book = openpyxl.Workbook(write_only=True)
        sheet = book.create_sheet("S")
        for number in range(count):
            sheet.append([number, 0.5])
        path = tmp_path / f"{count}.xlsx"
        book.save(path)
        rows_of(open_dataset(path))
        tracemalloc.start()
        for _ in open_dataset(path).slices(100):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 20_000


@pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice is not installed")
def test_a_workbook_that_libreoffice_saved_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("n,when,text\n1,2024-05-01,a\n2,2024-05-02,b\n")
    command = ["soffice", "--headless", "--convert-to", "xlsx", "t.csv"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert rows_of(open_dataset(tmp_path / "t.xlsx")) == [("1", "2024-05-01", "a"), ("2", "2024-05-02", "b")]

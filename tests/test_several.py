"""A table in several files is read file by file, and what does not belong to it is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import batcher
from batcher.cli import main
from batcher.errors import InputError
from batcher.input.dataset import Dataset
from batcher.input.opening import open_dataset
from batcher.records import Values

pl: Any = pytest.importorskip("polars")


def rows_of(table: Dataset, size: int = 3) -> list[Values]:
    return [row for part in table.slices(size) for row in part.rows]


def saved(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def fault(data: Any) -> str:
    with pytest.raises(InputError) as caught:
        rows_of(open_dataset(data))
    return str(caught.value)


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of three files, with what programs leave beside them."""
    monkeypatch.chdir(tmp_path)
    saved(Path("d/b.csv"), "id,text\n3,c\n")
    saved(Path("d/a.csv"), "id,text\n1,a\n2,b\n")
    saved(Path("d/more/c.csv"), "text,id\nd,4\n")
    for name in (
        "~$a.csv",
        ".~lock.a.csv#",
        "a.csv~",
        "#a.csv#",
        "Icon\r",
        "desktop.ini",
        ".hidden.csv",
        "_SUCCESS",
        ".DS_Store",
        "_temporary/x.csv",
        "Thumbs.db",
        ".git/config",
    ):
        saved(Path("d", name), "?")
    return Path("d")


ALL = [("1", "a"), ("2", "b"), ("3", "c"), ("4", "d")]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("d", ALL),
        (Path("d"), ALL),
        ("d/", ALL),
        ("d/**/*.csv", ALL),
        ("d/*", ALL),
        ("d/[ab].csv", ALL[:3]),
        ([Path("d/b.csv"), Path("d/a.csv")], [ALL[2], *ALL[:2]]),
        ((Path("d/more"), Path("d/?.csv")), [("d", "4"), ("a", "1"), ("b", "2"), ("c", "3")]),
        ([Path("d/b.csv")], [ALL[2]]),
    ],
)
def test_files_are_read_one_after_the_other_in_their_order(shards: Path, data: Any, expected: list[Values]) -> None:
    for size in (1, 2, 9):
        assert rows_of(open_dataset(data), size) == expected


def test_a_list_of_strings_is_a_list_of_texts(shards: Path) -> None:
    assert rows_of(open_dataset(["d/a.csv", "d/b.csv"])) == [("d/a.csv",), ("d/b.csv",)]
    assert fault([Path("d/a.csv"), "d/b.csv"]) == "the list, item 1: must be a Path, as others are, not of type str"


def test_a_row_is_named_by_its_file_and_its_place_in_it(shards: Path) -> None:
    table = open_dataset("d")
    rows_of(table)
    assert [table.where(position) for position in (1, 2, 3)] == [
        f"{Path('d/a.csv')}, row 1 (counted from 0)",
        f"{Path('d/b.csv')}, row 0 (counted from 0)",
        f"{Path('d/more/c.csv')}, row 0 (counted from 0)",
    ]
    saved(Path("d/b.csv"), "id,text\n3,c\n4\n")
    assert fault("d").startswith(f"{Path('d/b.csv')}, line 3: the row has 1 field")


def test_a_limit_reads_no_further_than_it_must(shards: Path) -> None:
    saved(Path("d/b.csv"), "id,text\n3\n")
    assert [part.rows for part in open_dataset("d").slices(10, 2)] == [ALL[:2]]


def test_a_file_with_other_columns_is_named_with_the_difference(shards: Path) -> None:
    saved(Path("d/b.csv"), "id,note,by\n3,c,d\n")
    assert fault("d") == (
        f"{Path('d/b.csv')} lacks 'text' and has 'note', 'by' besides, compared with the columns of {Path('d/a.csv')}:"
        " all files of one table need the same columns"
    )


def test_files_of_different_formats_are_named(shards: Path) -> None:
    saved(Path("d/README.md"), "# Data")
    assert fault("d").startswith(f"{Path('d/README.md')} and {Path('d/a.csv')} are of different formats")
    assert rows_of(open_dataset("d/*.csv")) == ALL[:3]


def test_what_holds_no_table_is_refused(shards: Path) -> None:
    Path("empty").mkdir()
    saved(Path("delta/_delta_log/0.json"), "{}")
    assert fault("empty") == "empty: holds no file to read"
    assert fault("d/*.tsv") == "d/*.tsv: matches no file"
    assert fault("e/*.csv") == "e/*.csv: matches no file: there is no directory e"
    assert fault("delta").startswith("delta: is a Delta table")
    assert fault([Path("d/a.csv"), Path("d")]) == f"{Path('d/a.csv')} is given twice: its rows would be sent twice"
    assert fault([Path("d/a.csv"), Path("x.csv")]) == "x.csv: there is no such file"


def test_an_empty_file_among_others_is_named_or_holds_no_row(shards: Path) -> None:
    saved(Path("d/empty.csv"), "")
    assert fault("d") == f"{Path('d/empty.csv')}: the file is empty: its first line must hold the names of the columns"
    for name, content in (("a", ""), ("b", '{"id": 1}\n'), ("c", "\n"), ("d", '{"id": 2}\n')):
        saved(Path(f"j/{name}.jsonl"), content)
    assert rows_of(open_dataset("j")) == [(1,), (2,)]


@pytest.mark.parametrize("name", ["~$book.xlsx", ".~lock.book.xlsx#"])
def test_the_mark_of_an_open_file_is_told(shards: Path, name: str) -> None:
    saved(Path("x", name), "?")
    assert (
        fault(Path("x", name))
        == f"{Path('x', name)}: only shows that a program has book.xlsx open: give {Path('x/book.xlsx')}"
    )


def test_standard_input_is_given_once_and_alone(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for inputs in (["-", "-"], ["d/a.csv", "-"]):
        assert main(["plan", *inputs, "--keyword", "k", "--prompt", "{text}", "--provider", "offline"]) == 2
        assert "-: standard input is a table of its own: give no other INPUT beside it" in capsys.readouterr().err


def test_a_file_of_a_name_like_a_pattern_is_that_file(shards: Path) -> None:
    saved(Path("a[1].csv"), "id\n7\n")
    assert rows_of(open_dataset("a[1].csv")) == [("7",)]


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_links_are_followed_but_not_in_circles(shards: Path) -> None:
    Path("linked").symlink_to("d/more")
    assert rows_of(open_dataset("linked")) == [("d", "4")]
    Path("d/up").symlink_to(Path("d").absolute())
    assert fault("d") == f"{Path('d/up')}: is a link to a directory that it is in"


def test_partitions_become_columns(tmp_path: Path) -> None:
    frame = pl.DataFrame({"text": ["a", "b", "c"], "year": [2023, 2024, 2024], "说": ["x y", "x/y", None]})
    pandas = frame.to_pandas()
    pandas.to_parquet(tmp_path / "pandas", partition_cols=["year", "说"])
    frame.select("text", "year").write_parquet(tmp_path / "polars", partition_by="year")
    table = open_dataset(tmp_path / "pandas")
    assert table.columns == ("text", "year", "说")
    assert rows_of(table) == [("a", "2023", "x y"), ("c", "2024", None), ("b", "2024", "x/y")]
    rows = rows_of(open_dataset(f"{tmp_path}/polars/year=*/*.parquet"))
    assert [(text, str(year)) for text, year in rows] == [("a", "2023"), ("b", "2024"), ("c", "2024")]
    lists = [sorted((tmp_path / "pandas").glob(f"year={year}/*/*.parquet")) for year in (2023, 2024)]
    assert rows_of(open_dataset([path for each in lists for path in each])) == rows_of(table)
    assert "lacks 'year'" in fault([*lists[0], saved_parquet(tmp_path / "plain.parquet")])


def saved_parquet(path: Path) -> Path:
    pd.DataFrame({"text": ["x"]}).to_parquet(path)
    return path


def test_a_run_notices_files_that_change_come_or_go(shards: Path) -> None:
    for change in (
        lambda: saved(Path("d/z.csv"), "id,text\n9,z\n"),
        lambda: Path("d/z.csv").unlink(),
        lambda: saved(Path("d/b.csv"), "id,text\n3,other\n"),
    ):
        table = open_dataset("d")
        assert not table.has_changed()
        change()
        assert table.has_changed()
    table = open_dataset("d")
    new = saved(Path("d/z.csv"), "id,text\n9,z\n")
    with pytest.raises(
        InputError, match=f"^d: {new} is new since the input was opened: start again".replace("\\", ".")
    ):
        rows_of(table)


def test_a_directory_runs_from_python_and_is_verified(shards: Path) -> None:
    report = batcher.run("d", "One of: a, b. {text}", provider="offline", quiet=True)
    assert (report.keyword, list(report.frame()["id"])) == ("d", ["1", "2", "3", "4"])
    assert batcher.verify("d", [Path("d/a.csv"), Path("d/b.csv"), Path("d/more")]).ok
    with pytest.raises(batcher.SettingsError, match=r"has no file name to name the run after: give keyword="):
        batcher.plan("d/*.csv", "{text}", provider="offline")
    for data in ("d", "d/**/*.csv", "d/*/*.csv"):
        with pytest.raises(batcher.SettingsError, match="the files of the run would become a part of the input"):
            batcher.plan(data, "{text}", provider="offline", keyword="k", output_dir="d/out")


def test_the_command_line_takes_several_inputs(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from batcher.cli import main  # noqa: PLC0415

    options = ["--prompt", "{text}", "--keyword", "k", "--provider", "offline", "--quiet"]
    assert main(["run", "d/b.csv", "d/a.csv", *options]) == 0
    assert main(["verify", "k", "d/b.csv", "d/a.csv"]) == 0
    assert main(["verify", "k", "d/*.csv"]) == 1, "another order"
    capsys.readouterr()
    assert main(["plan", "d", *options, "--output-dir", "new", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 4
    assert main(["rehearse", "d/*.csv", *options, "--kills", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3


def test_a_tilde_is_the_home_directory(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(shards.absolute().parent))
    monkeypatch.setenv("USERPROFILE", str(shards.absolute().parent))
    saved(Path("p.txt"), "One of: a, b. {text}")
    report = batcher.run(Path("~/d/a.csv"), prompt_file="~/p.txt", output_dir="~/out", provider="offline", quiet=True)
    assert report.output == shards.absolute().parent / "out" / "all_a.csv"
    assert batcher.verify("a", "~/d/*a.csv", output_dir="~/out").ok
    assert batcher.status("a", "~/out").state == "done"
    assert fault("~nobody-of-this-name/x.csv").startswith("~nobody-of-this-name/x.csv: there is no such file")

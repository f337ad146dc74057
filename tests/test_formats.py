"""A file of a format that batcher does not read is told what it is and what to do, in no library's words."""

from __future__ import annotations

import gzip
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather, orc

from batcher.errors import InputError
from batcher.input.opening import open_dataset
from batcher.words import command_line

pytest.importorskip("openpyxl")

FRAME = pd.DataFrame({"id": [1, 2], "text": ["good", "bad"]})
TABLE = pa.table({"id": [1, 2], "text": ["good", "bad"]})


def fault(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_dataset(path)
    return str(caught.value).removeprefix(str(path))


def stream(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, TABLE.schema) as writer:
        writer.write_table(TABLE)


def database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        FRAME.to_sql("t", db)


def zipped(*names: str, kind: str = "") -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for name in [*(["mimetype"] if kind else []), *names]:
                file.writestr(name, kind if name == "mimetype" else "x")

    return write


def office(name: str) -> Callable[[Path], object]:
    """Return what writes a container of Office with a stream of a name."""
    return lambda path: path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + name.encode("utf-16-le"))


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


ODS = "application/vnd.oasis.opendocument.spreadsheet"

KINDS: list[tuple[str, Callable[[Path], object], str, str]] = [
    (".dta", lambda path: FRAME.to_stata(path, write_index=False), "a Stata file", "pandas.read_stata("),
    (".pkl", FRAME.to_pickle, "a pickle", "pandas.read_pickle("),
    (".arrow", stream, "an Arrow stream", "pyarrow.ipc.open_stream("),
    (".feather", lambda path: feather.write_feather(TABLE, path), "an Arrow or Feather file", "read_table("),
    (".orc", lambda path: orc.write_table(TABLE, path), "an ORC file", "pandas.read_orc("),
    (".npy", lambda path: np.save(path, np.array(["a"])), "a NumPy array", "numpy.load("),
    (".db", database, "an SQLite database", "pandas.read_sql("),
    (".sav", content(b"$FL2@(#) SPSS DATA FILE" + bytes(99)), "an SPSS file", "pandas.read_spss("),
    (".xls", office("Workbook"), "an old Excel workbook (.xls)", "save it as .xlsx, or give pandas.read_excel("),
    (".doc", office("WordDocument"), "a Word document", "one row for each text"),
    (".docx", zipped("word/document.xml"), "a Word document", "one row for each text"),
    (".ods", zipped("content.xml", kind=ODS), "an OpenDocument spreadsheet (.ods)", "pandas.read_excel("),
    (".numbers", zipped("Index/Document.iwa"), "a spreadsheet of Apple's Numbers", "export it as .xlsx or CSV"),
    (".xlsb", zipped("xl/workbook.bin"), "a binary Excel workbook (.xlsb)", "pandas.read_excel("),
    (".zip", zipped("a.csv", "b.csv"), "a ZIP file", "unpack it first"),
    (".pdf", content(b"%PDF-1.7\n\x00"), "a PDF document", "one row for each text"),
    (
        ".html",
        lambda path: (FRAME.to_html(path) and None) or path.write_text("<html></html>"),
        "a web page",
        "read_html(",
    ),
]


@pytest.mark.parametrize(("ending", "write", "what", "way"), KINDS, ids=[kind[0] for kind in KINDS])
def test_a_format_is_named_with_the_way_whatever_the_ending_is(
    tmp_path: Path, ending: str, write: Callable[[Path], object], what: str, way: str
) -> None:
    path = tmp_path / f"t{ending}"
    write(path)
    said = fault(path)
    assert said.startswith(f": is {what}")
    assert way in said
    for other in (".csv", ".json", ".unknown"):
        renamed = path.rename(tmp_path / f"t{other}")
        assert fault(renamed).startswith(f": is {what}")
        renamed.rename(path)
    for other, beginning in (
        (".xlsx", "cannot be read as an Excel workbook: it "),
        (".parquet", "cannot be read as Parquet: it "),
    ):
        renamed = path.rename(tmp_path / f"t{other}")
        assert fault(renamed).removeprefix(": ").removeprefix(beginning).startswith(f"is {what}")
        renamed.rename(path)
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    if ending not in {".doc", ".xls"}:  # their kind stands at another place in the file
        assert fault(packed).startswith((f": holds {what}", ": holds an Excel workbook or another ZIP file"))


def test_the_command_that_is_shown_writes_the_table_and_no_file_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("mine")
    FRAME.to_stata(tmp_path / "t.dta", write_index=False)
    with command_line(), pytest.raises(InputError) as caught:
        open_dataset(tmp_path / "t.dta")
    code = str(caught.value).split('python -c "')[1].removesuffix('"')
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "t.csv").read_text() == "mine"
    assert [part.rows for part in open_dataset(tmp_path / "t_table.csv").slices(5)] == [[("1", "good"), ("2", "bad")]]


def test_a_workbook_and_a_parquet_file_that_are_misnamed_cut_off_locked_or_empty_are_told(tmp_path: Path) -> None:
    FRAME.to_excel(tmp_path / "t.xlsx", index=False)
    FRAME.to_parquet(tmp_path / "t.parquet")
    for ending, name in ((".xlsx", "an Excel workbook"), (".parquet", "a Parquet file")):
        whole = (tmp_path / f"t{ending}").read_bytes()
        path = tmp_path / f"u{ending}"
        reading = f": cannot be read as {'Parquet' if ending == '.parquet' else 'an Excel workbook'}: "
        for data, said in (
            (whole[: len(whole) // 2], "the file is cut off or damaged: copy or download it again, or save it anew"),
            (b"", "the file is empty: copy or download it again"),
            (b"id,text\n1,a\n", "it is a text file: if it is CSV, let its name end in .csv"),
            (b'[{"id": 1}]', "it is a text file: if it is JSON, let its name end in .json"),
            (gzip.compress(whole, mtime=0), "it is a gzip file: unpack it first"),
        ):
            path.write_bytes(data)
            assert fault(path) == reading + said
        for other in (".csv", ".json", ".txt"):
            (tmp_path / f"v{other}").write_bytes(whole)
            said = fault(tmp_path / f"v{other}")
            assert said.startswith(f": is {name}: ")
            assert said.endswith(f"in {ending}")
    office("EncryptedPackage")(tmp_path / "locked.xlsx")
    assert fault(tmp_path / "locked.xlsx").startswith(": is an Excel workbook with a password: save it without")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("t.csv", b'[{"id": 1}]', "holds JSON, not CSV: let its name end in .json"),
        ("t.tsv", b'{"id": 1}\n{"id": 2}\n', "holds JSON, not TSV: let its name end in .json"),
        ("t.json", b"id,text\n1,a\n", "one JSON object; if it is a CSV file, let its name end in .csv"),
        ("t.csv", bytes(500), "holds no text, and is of no format that batcher knows: is it damaged?"),
        ("t.csv", bytes(range(256)) * 9, "holds no text, and is of no format that batcher knows: is it damaged?"),
        ("t.csv.gz", b"", "the file is empty: copy or download it again"),
        ("t.xls", b"id\ttext\n1\ta\n", "it is a text file: if it is CSV, let its name end in .csv"),
        ("t.xls", b"", "the file is empty: copy or download it again"),
        ("t.parquet.gz", gzip.compress(b"PAR1", mtime=0), "unpack it first: only texts are read as .gz"),
    ],
)  # fmt: skip
def test_other_files_that_are_not_what_their_names_say_are_told(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert said in fault(path)


def test_a_table_whose_first_column_is_named_like_a_format_is_read(tmp_path: Path) -> None:
    for name in ("PAR1", "ORC", "ARROW1", "Obj", "RDX", "GIF8"):
        path = tmp_path / "t.csv"
        path.write_text(f"{name},text\n1,a\n")
        assert open_dataset(path).columns == (name, "text")

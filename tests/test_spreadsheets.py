"""A chunk file that came back from a spreadsheet is read with its corrections, or the true reason is named."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Lab
from fake_service import Service

import batcher
from batcher.errors import OutputError, RunStopped
from batcher.output.joining import merge
from batcher.output.spreadsheet import Likeness, Reformatting
from batcher.records import Completion

HEADER = ["id", "text", "score", "day", "flag"]
ROWS = [
    ["007", "好的, 不错", "0.5", "2024-01-05", "true"],
    ["008", 'two\nlines "quoted"', "12345678901234567890", "2024-11-30", "false"],
    ["009", "café", "1e3", "2023-02-01", "true"],
    ["010", "plain", "3,5", "2024-02-01", ""],
]
ANSWERS = ["正面", "负面", "=good", "中性"]
CORRECTED = [*ANSWERS[:3], "by hand"]

# The file of these rows as LibreOffice 7.4 saves it, in GB18030, in UTF-8 with `;`, as "Unicode text", in Windows-1252.
_OFFICE = (
    "id;text;score;day;flag;infer;infer_status;infer_error\n"
    "7;好的, 不错;0.5;2024-01-05;TRUE;正面;ok;\n"
    '8;"two\nlines ""quoted""";1.23456789012346E+019;2024-11-30;FALSE;负面;ok;\n'
    "9;café;1000;2023-02-01;TRUE;#NAME?;ok;\n"
    "10;plain;3,5;2024-02-01;;by hand;ok;\n"
)


def office(encoding: str, separator: str) -> bytes:
    lines = [*csv.reader(io.StringIO(_OFFICE, newline=""), delimiter=";")]
    saved = io.StringIO(newline="")
    csv.writer(saved, delimiter=separator, lineterminator="\n").writerows(lines)
    text = saved.getvalue()
    if encoding == "cp1252":
        text = "".join(char if ord(char) < 256 else "?" for char in text)
    return text.encode(encoding)


Lines = list[list[str]]


def saved(
    content: bytes,
    change: Callable[[Lines], object] = list,
    *,
    encoding: str = "utf-8",
    head: str = "",
    **dialect: Any,
) -> bytes:
    """Return a chunk file as another program saves it, with the last answer corrected."""
    lines = [*csv.reader(io.StringIO(content.decode(), newline=""))]
    lines[4][5] = "by hand"
    change(lines)
    file = io.StringIO(newline="")
    csv.writer(file, **{"lineterminator": "\r\n"} | dialect).writerows(lines)
    return (head + file.getvalue()).encode(encoding)


def without(*names: str) -> Callable[[Lines], None]:
    def change(lines: Lines) -> None:
        places = [lines[0].index(name) for name in names]
        lines[:] = [[cell for place, cell in enumerate(line) if place not in places] for line in lines]

    return change


def moved(lines: Lines) -> None:
    lines[:] = [[*line[5:], *line[:5]] for line in lines]


def with_notes(lines: Lines) -> None:
    lines[:] = [[line[0], note, *line[1:], "", ""] for line, note in zip(lines, ["note", *"abcd"], strict=True)]
    lines[0][-2:] = ["", ""]


def with_blank_lines(lines: Lines) -> None:
    lines[:] = [lines[0], [""] * 8, *lines[1:3], [], *lines[3:], [""] * 8]


def as_excel(lines: Lines) -> None:
    """Reformat cells as Excel does: it shows six digits, dates in the order of the country, and drops empty ends."""
    for line in lines[1:]:
        line[0] = str(int(line[0]))
        year, month, day = line[3].split("-")
        line[3] = f"{int(day)}/{int(month)}/{year}"
        line[4] = line[4].upper()
    lines[2][2] = "1.23457E+19"
    lines[3][2] = "1000"
    for line in lines[1:]:
        del line[7]


def as_pandas(content: bytes, **options: Any) -> bytes:
    frame = pd.read_csv(io.BytesIO(content))
    frame.loc[3, "infer"] = "by hand"
    made: bytes = frame.to_csv(**options).encode()
    return made


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "LibreOffice, GB18030": lambda _: office("gb18030", ","),
    "LibreOffice, ;": lambda _: office("utf-8", ";"),
    "LibreOffice, Unicode text": lambda _: office("utf-16", "\t"),
    "LibreOffice, Windows-1252": lambda _: office("cp1252", ";"),
    "pandas": lambda content: as_pandas(content, index=False),
    "pandas, with its index": as_pandas,
    "Excel, GBK": lambda content: saved(content, as_excel, encoding="gbk"),
    "Excel, Windows with ;": lambda content: saved(content, as_excel, encoding="utf-8-sig", delimiter=";"),
    "Excel, sep=": lambda content: saved(content, head="sep=;\r\n", delimiter=";"),
    "columns moved": lambda content: saved(content, moved),
    "a column dropped": lambda content: saved(content, without("text")),
    "the status dropped": lambda content: saved(content, without("infer_status", "infer_error")),
    "columns added": lambda content: saved(content, with_notes),
    "UTF-16 without a mark": lambda content: saved(content, encoding="utf-16-le"),
    "blank lines with separators": lambda content: saved(content, with_blank_lines),
    "quotes, line ends": lambda content: saved(content, quoting=csv.QUOTE_ALL),
}
PLAIN = {"quotes, line ends"}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "table.csv", ROWS)


def write(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return path


def ask(
    lab: Lab, table: Path, answers: Sequence[str] = ANSWERS, rows: Sequence[Sequence[str]] = ROWS, **how: Any
) -> Any:
    texts = [row[1] for row in rows]
    by_text = dict(zip(texts, answers, strict=True))
    service = Service(texts, instead=lambda call: Completion(by_text[call.prompt]))
    return lab.run(table, service, "{text}", chunk_size=4, **how)


@pytest.fixture
def done(lab: Lab, table: Path) -> Lab:
    assert ask(lab, table).ok == 4
    return lab


def again(lab: Lab, table: Path, **how: Any) -> Any:
    return lab.run(table, Service([]), "{text}", chunk_size=4, **how)


@pytest.mark.parametrize("form", FORMS)
def test_the_corrections_are_read_and_the_inputs_cells_are_the_inputs(
    done: Lab, table: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    back = FORMS[form](done.path(0).read_bytes())
    done.path(0).write_bytes(back)
    assert again(done, table, quiet=False, no_progress=True).requests_now == 0
    assert [[row[name] for name in HEADER] for row in done.rows()] == ROWS
    assert [row["infer"] for row in done.rows()] == CORRECTED
    assert {(row["infer_status"], row["infer_error"]) for row in done.rows()} == {("ok", "")}
    said = capsys.readouterr().err
    if form in PLAIN:
        assert done.path(0).read_bytes() == back
        assert "came back" not in said
    else:
        assert done.files()["0_k.csv.bak"] == back
        assert f"{done.path(0)} came back " in said
        assert "; 1 row was corrected. It is written in its own form again" in said
        assert done.rows(0) == done.rows()
    files = done.files()
    again(done, table)
    merge("k", done.directory)
    assert done.files() == files
    found = batcher.verify("k", table, output_dir=done.directory)
    assert (found.findings, found.corrected) == ((), ((str(done.path(0)), 1, 1),))


def test_plan_accepts_what_run_accepts(done: Lab, table: Path) -> None:
    done.path(0).write_bytes(FORMS["Excel, GBK"](done.path(0).read_bytes()))
    files = done.files()
    found = batcher.plan(table, "{text}", endpoints=[batcher.Endpoint("m")], keyword="k", output_dir=done.directory)
    assert found.to_dict()["rows"] == 4
    assert done.files() == files


def test_the_columns_of_with_are_the_journals_if_they_were_dropped(lab: Lab, table: Path) -> None:
    answer = Completion("yes", "stop", model="m-1")
    service = Service([row[1] for row in ROWS], instead=lambda _call: answer)
    lab.run(table, service, "{text}", chunk_size=4, with_=["model", "finish_reason"])
    before = lab.rows()
    lab.path(0).write_bytes(saved(lab.path(0).read_bytes(), without("infer_status", "infer_model"), encoding="gbk"))
    again(lab, table, with_=["model", "finish_reason"])
    before[3]["infer"] = "by hand"
    assert lab.rows() == before
    assert {row["infer_model"] for row in before} == {"m-1"}


# -- What is not certain


def sort(lines: Lines) -> None:
    lines[1:] = reversed(lines[1:])


def swap(lines: Lines) -> None:
    lines[1], lines[2] = lines[2], lines[1]


def answer_twice(lines: Lines) -> None:
    lines[:] = [[*line, line[5]] for line in lines]


def other_name(lines: Lines) -> None:
    lines[0][5] = "label"


REFUSED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "sorted": (
        lambda content: saved(content, sort, encoding="gbk"),
        r"0_k\.csv cannot be read: it is not UTF-8, and in no encoding .*: line 2, column 'id': the file has '010'",
    ),
    "two rows swapped": (
        lambda content: saved(content, swap, delimiter=";"),
        r"0_k\.csv, line 2, column 'id': the file has '008', the input has '007'\. In a chunk file only answers",
    ),
    "a row removed": (
        lambda content: saved(content, lambda lines: lines.pop(2), delimiter=";"),
        r"0_k\.csv cannot be read: it has 3 rows, and the chunk 4; the first that is not in its place is in line 3",
    ),
    "a row added": (
        lambda content: saved(content, lambda lines: lines.append(lines[-1]), delimiter=";"),
        r"0_k\.csv cannot be read: it has 5 rows, and the chunk 4; put it right",
    ),
    "the answers removed": (
        lambda content: saved(content, without("infer")),
        r"0_k\.csv cannot be read: its columns are 'id', .*, and 'infer' is not among them",
    ),
    "the answers renamed": (lambda content: saved(content, other_name), "'infer' is not among them"),
    "the answers twice": (
        lambda content: saved(content, answer_twice),
        r"it has 2 columns 'infer'",
    ),
    "all of the input removed": (
        lambda content: saved(content, without(*HEADER)),
        r"lines 2 and 3: the columns that are left, as they are saved, are the same in both",
    ),
    "a line cut": (
        lambda content: saved(content).rpartition(b"ok,")[0],
        r"line 6: 7 fields, the header has 8",
    ),
    "an open quote": (lambda content: saved(content).replace(b"by hand", b'"by hand'), r"line 6: unexpected end"),
    "another number": (
        lambda content: saved(content, lambda lines: lines[1].__setitem__(0, "70"), delimiter=";"),
        "the file has '70', the input has '007'",
    ),
    "another date": (
        lambda content: saved(content, lambda lines: lines[1].__setitem__(3, "6/1/2024"), delimiter=";"),
        "column 'day': the file has '6/1/2024', the input has '2024-01-05'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_otherwise_the_run_stops_with_the_reason_and_nothing_is_made_anew(done: Lab, table: Path, name: str) -> None:
    spoil, said = REFUSED[name]
    before = done.files()
    done.path(0).write_bytes(spoil(before["0_k.csv"]))
    files, journal = done.files(), done.journal()
    for verb in (
        lambda: again(done, table),
        lambda: batcher.plan(
            table, "{text}", keyword="k", endpoints=[batcher.Endpoint("m")], output_dir=done.directory
        ),
    ):
        with pytest.raises(OutputError, match=said) as caught:
            verb()
        assert "or move the file away, and `batcher.run` writes it again from the journal" in str(caught.value)
    assert (done.files(), done.journal()) == (files, journal)
    done.path(0).unlink()
    again(done, table)
    assert done.files() == before


def test_an_encoding_that_nothing_shows_is_not_guessed(lab: Lab, tmp_path: Path) -> None:
    rows = [[f"{number}", f"text {number}", "", "", ""] for number in range(4)]
    table = write(tmp_path / "table.csv", rows)
    ask(lab, table, [*"abcd"], rows)
    lab.path(0).write_bytes(lab.path(0).read_bytes().replace(b",d,", ",好,".encode("gbk")))
    with pytest.raises(OutputError, match=r"it is not UTF-8, and nothing shows in which encoding it is \(gb18030, "):
        again(lab, table)
    lab.path(0).unlink()
    again(lab, table)
    assert len(lab.rows()) == 4


def test_an_encoding_is_certain_by_the_answers_that_nobody_changed(lab: Lab, tmp_path: Path) -> None:
    rows = [[f"{number}", f"text {number}", "", "", ""] for number in range(4)]
    table = write(tmp_path / "table.csv", rows)
    ask(lab, table, ["好", "坏", "好", "坏"], rows)
    text = lab.path(0).read_text("utf-8").replace("3,,,,坏", "3,,,,中").replace("text 3,,,,坏", "text 3,,,,中")
    lab.path(0).write_bytes(text.encode("gbk"))
    again(lab, table)
    assert [row["infer"] for row in lab.rows()] == ["好", "坏", "好", "中"]


def test_rows_that_cannot_be_told_apart_without_a_column_are_not_guessed(lab: Lab, tmp_path: Path) -> None:
    rows = [[number, f"text {number}", "same", "2024-01-01", ""] for number in "1234"]
    table = write(tmp_path / "table.csv", rows)
    ask(lab, table, [*"abcd"], rows)
    lab.path(0).write_bytes(saved(lab.path(0).read_bytes(), without("id", "text")))
    with pytest.raises(OutputError, match="lines 2 and 3: the columns that are left, as they are saved, are the same"):
        again(lab, table)


# -- Without the input, and while the run works


@pytest.mark.parametrize(
    "form", ["columns moved", "columns added", "blank lines with separators", "Excel, sep=", "UTF-16 without a mark"]
)
def test_merge_reads_what_holds_every_cell_of_the_input(done: Lab, form: str) -> None:
    done.path(0).write_bytes(back := FORMS[form](done.path(0).read_bytes()))
    merge("k", done.directory)
    assert [row["infer"] for row in done.rows()] == CORRECTED
    assert [[row[name] for name in HEADER] for row in done.rows()] == ROWS
    assert done.files()["0_k.csv.bak"] == back


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("LibreOffice, ;", "column 'id': the cell differs from the input's"),
        ("a column dropped", "it has no column 'text'; `batcher run`, which reads the input, may know its rows"),
    ],
)
def test_merge_leaves_the_rest_to_run(done: Lab, table: Path, form: str, said: str) -> None:
    done.path(0).write_bytes(FORMS[form](done.path(0).read_bytes()))
    files = done.files()
    with pytest.raises(OutputError, match=re.escape(said)):
        merge("k", done.directory)
    assert done.files() == files
    again(done, table)
    assert [row["infer"] for row in done.rows()] == CORRECTED


def test_a_file_that_comes_back_while_the_run_works_is_read_too(lab: Lab, tmp_path: Path) -> None:
    rows = [*ROWS, *([f"{number}", f"text {number}", "", "", ""] for number in range(4))]
    table = write(tmp_path / "table.csv", rows)
    by_text = dict(zip([row[1] for row in rows], [*ANSWERS, *"abcd"], strict=True))
    service = Service(
        by_text,
        lambda call: 100 if call.prompt == "text 3" else 1,
        instead=lambda call: Completion(by_text[call.prompt]),
    )

    def come_back() -> None:
        lab.path(0).write_bytes(FORMS["Excel, GBK"](lab.path(0).read_bytes()))

    lab.run(table, service, "{text}", chunk_size=4, at={50: come_back})
    assert [row["infer"] for row in lab.rows()] == [*CORRECTED, *"abcd"]

    def be_cut() -> None:
        lab.path(0).write_bytes(lab.path(0).read_bytes()[:-20])

    with pytest.raises(RunStopped, match="was changed while the run worked, and is damaged: line 6: "):
        lab.run(table, service, "{text}", chunk_size=4, keyword="k", at={50: be_cut}, on_change="redo", system="Again.")


# -- Real programs


@pytest.mark.skipif(not shutil.which("soffice"), reason="LibreOffice is not installed")
@pytest.mark.parametrize("code", ["44,34,85", "59,34,76", "9,34,65535"], ids=["GB18030", "UTF-8", "UTF-16"])
def test_libreoffice_itself(done: Lab, table: Path, tmp_path: Path, code: str) -> None:
    program = ["soffice", f"-env:UserInstallation=file://{tmp_path}/profile", "--headless"]
    reads = "--infilter=Text - txt - csv (StarCalc):44,34,76,1"
    writes = f"csv:Text - txt - csv (StarCalc):{code},1,,0,false,true,false"
    source = tmp_path / "0_k.csv"
    source.write_bytes(done.path(0).read_bytes().replace("中性".encode(), b"by hand"))
    outdir = ["--outdir", str(done.directory)]
    subprocess.run([*program, reads, "--convert-to", writes, *outdir, str(source)], check=True, capture_output=True)
    again(done, table)
    assert [row["infer"] for row in done.rows()] == CORRECTED
    assert [[row[name] for name in HEADER] for row in done.rows()] == ROWS


# -- Cells


@pytest.mark.parametrize(
    ("original", "found", "expected"),
    [
        ("007", "7", Likeness.SAME),
        ("1.50", "1.5", Likeness.SAME),
        ("5", "5.0", Likeness.SAME),
        ("1e3", "1,000", Likeness.SAME),
        ("12345678901234567890", "1.23457E+19", Likeness.LOSSY),
        ("12345678901234567890", "12345678901234500000", Likeness.LOSSY),
        ("12345678901234567", "1.2345678901234568e+16", Likeness.LOSSY),
        ("0.123456789012", "0.123456789", Likeness.LOSSY),
        ("123456", "123457", Likeness.OTHER),
        ("7", "70", Likeness.OTHER),
        ("1.5", "15", Likeness.OTHER),
        ("12345678", "1E+07", Likeness.OTHER),
        ("a\r\nb", "a\nb", Likeness.SAME),
        ("True", "TRUE", Likeness.SAME),
        ("true", "WRONG", Likeness.OTHER),
        ("-x", "#NAME?", Likeness.LOSSY),
        ("x", "#NAME?", Likeness.OTHER),
        ("NA", "", Likeness.LOSSY),
        ("no", "", Likeness.OTHER),
        ("x" * 40_000, "x" * 32_767, Likeness.LOSSY),
        ("x" * 40_000, "x" * 32_766, Likeness.OTHER),
        ("2024-01-05", "1/5/2024", Likeness.SAME),
        ("2024-01-05", "05.01.2024", Likeness.SAME),
        ("2024-01-05 10:30:00", "2024/1/5 10:30", Likeness.SAME),
        ("2024-01-05 10:30:00", "2024/1/5", Likeness.OTHER),
        ("2024-01-05", "2024/1/6", Likeness.OTHER),
        ("", "0", Likeness.OTHER),
        ("1", "", Likeness.OTHER),
    ],
)
def test_what_a_spreadsheet_makes_of_a_cell(original: str, found: str, expected: Likeness) -> None:
    assert Reformatting("utf-8", ",").likeness(original, found) is expected


def test_the_dates_of_a_column_have_one_order() -> None:
    column = Reformatting("utf-8", ",")
    assert column.likeness("2024-01-25", "25/1/2024")
    assert column.likeness("2024-03-04", "4/3/2024")
    assert not column.likeness("2024-03-04", "3/4/2024")


def test_a_decimal_comma_is_one_where_commas_do_not_separate() -> None:
    assert Reformatting("utf-8", ";").likeness("1234.5", "1.234,5") is Likeness.SAME
    assert Reformatting("utf-8", ",").likeness("1234.5", "1.234,5") is Likeness.OTHER

"""The labels that people write into a sample's file are read as spreadsheets save them, each for its own row."""

from __future__ import annotations

import csv
import io
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from conftest import Lab
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sampling import TABLE, found, run, sample, write

from batcher.answer.gold import Golds
from batcher.answer.labels import Labels
from batcher.answer.schema import Schema
from batcher.errors import OutputError
from batcher.input.marks import Marks
from batcher.output.sample_file import Line, SampleFile

LABELS = ["good", "bad", "très moche"]
SCHEMA = {
    "type": "object",
    "properties": {
        "mood": {"type": "string", "enum": ["happy", "sad"]},
        "score": {"type": "number"},
        "is_spam": {"type": "boolean"},
        "why": {"type": "string"},
    },
    "required": ["mood", "score", "is_spam"],
    "additionalProperties": False,
}

Cells = list[list[str]]


@pytest.fixture
def drawn(lab: Lab, tmp_path: Path) -> Lab:
    rows = [[f"00{number}", f"item {number}, né", f"{number / 7:.12f}"] for number in range(30)]
    run(lab, write(tmp_path / "table.csv", rows, ["id", "text", "weight"]), labels=LABELS)
    sample(lab, 12)
    return lab


def cells_of(lab: Lab) -> Cells:
    with lab.path("sample").open(encoding="utf-8", newline="") as file:
        return [*csv.reader(file)]


def gold_of(lab: Lab) -> dict[str, str]:
    """Return the hand labels of the journal, by the row's number in the sample."""
    with_gold = "SELECT drawn, gold FROM gold WHERE id IN (SELECT max(id) FROM gold GROUP BY drawn) AND gold <> ''"
    return {str(number): gold for number, gold in lab.query(with_gold)}


def filled(cells: Cells) -> tuple[Cells, dict[str, str]]:
    """Label the first rows of a file; return it, and what is expected of it."""
    header, *rows = [[*row] for row in cells]
    expected = {}
    for number, row in enumerate(rows[:9]):
        row[header.index("gold")] = expected[row[0]] = LABELS[number % 3]
    return [header, *rows], expected


def as_csv(cells: Cells, encoding: str = "utf-8", **dialect: Any) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, **dialect).writerows(cells)
    return file.getvalue().encode(encoding)


def without_zeros(cells: Cells) -> Cells:
    """Do what a spreadsheet does to numbers: it drops zeros in front, and shows fewer digits."""
    return [
        cells[0],
        *([row[0], row[1].lstrip("0") or "0", row[2], f"{float(row[3]):.9g}", *row[4:]] for row in cells[1:]),
    ]


def moved(cells: Cells) -> Cells:
    order = [*range(len(cells[0]))]
    random.Random(3).shuffle(order)
    return [[row[place] for place in order] for row in cells]


def sorted_by_text(cells: Cells) -> Cells:
    return [cells[0], *sorted(cells[1:], key=lambda row: row[2])]


CHANGES: dict[str, Callable[[Cells], bytes]] = {
    "as it was": as_csv,
    "semicolons": lambda cells: as_csv(cells, delimiter=";"),
    "tabs in UTF-16": lambda cells: as_csv(cells, "utf-16", delimiter="\t"),
    "byte order mark": lambda cells: as_csv(cells, "utf-8-sig"),
    "cp1252 with semicolons": lambda cells: as_csv(cells, "cp1252", delimiter=";"),
    "everything quoted": lambda cells: as_csv(cells, quoting=csv.QUOTE_ALL, lineterminator="\n"),
    "numbers": lambda cells: as_csv(without_zeros(cells)),
    "columns moved": lambda cells: as_csv(moved(cells)),
    "rows sorted": lambda cells: as_csv(sorted_by_text(cells)),
    "empty columns and rows": lambda cells: as_csv([[*row, "", ""] for row in cells] + [[""] * 7] * 3),
    "rows without the empty cells at their ends": lambda cells: as_csv([row if row[-1] else row[:-1] for row in cells]),
    "a column less": lambda cells: as_csv([[*row[:3], *row[4:]] for row in cells]),
    "whole numbers with a zero": lambda cells: as_csv([cells[0], *([f"{row[0]}.0", *row[1:]] for row in cells[1:])]),
    "the line of the separator": lambda cells: b"sep=;\r\n" + as_csv(cells, delimiter=";"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("is_own", [True, False])
def test_what_a_spreadsheet_does_to_the_file_changes_no_hand_label(
    drawn: Lab, tmp_path: Path, change: Callable[[Cells], bytes], is_own: bool
) -> None:
    cells, expected = filled(cells_of(drawn))
    path = drawn.path("sample") if is_own else tmp_path / "from a colleague.CSV"
    path.write_bytes(change(cells))
    report = sample(drawn, read=path)
    assert gold_of(drawn) == expected
    assert (report.read, report.labelled, report.waiting) == (9, 9, 3)
    assert sample(drawn, 15).labelled == 9
    assert {row[0]: row[-1] for row in cells_of(drawn)[1:] if row[-1]} == expected


def test_the_rows_of_a_file_may_be_deleted(drawn: Lab, tmp_path: Path) -> None:
    cells, expected = filled(cells_of(drawn))
    (tmp_path / "part.txt").write_bytes(as_csv([cells[0], *cells[3:6]], "utf-16", delimiter="\t"))
    assert sample(drawn, read=tmp_path / "part.txt").labelled == 3
    assert gold_of(drawn).items() <= expected.items()
    assert len(cells_of(drawn)) == 13


def test_a_workbook_is_read(drawn: Lab, tmp_path: Path) -> None:
    cells, expected = filled(cells_of(drawn))
    book = openpyxl.Workbook()
    for row in cells:
        book.active.append([int(row[0]), int(row[1]), *row[2:]] if row[0].isdigit() else row)
    book.save(tmp_path / "sample.xlsx")
    assert sample(drawn, read=tmp_path / "sample.xlsx").read == 9
    assert gold_of(drawn) == expected


def test_chinese_labels_are_read_in_the_encoding_of_a_chinese_system(lab: Lab, tmp_path: Path) -> None:
    run(lab, write(tmp_path / "table.csv", TABLE[:5]), labels=["正面", "负面"])
    sample(lab, 5)
    cells = [[*row[:-1], row[-1] or "正面"] for row in cells_of(lab)]
    lab.path("sample").write_bytes(as_csv(cells, "gbk"))
    assert sample(lab).labelled == 5
    assert {*gold_of(lab).values()} == {"正面"}


@settings(max_examples=30)
@given(st.randoms(use_true_random=False))
def test_each_hand_label_stays_with_its_row_in_whatever_order_rows_and_columns_come(chance: random.Random) -> None:
    import tempfile  # noqa: PLC0415 - one directory for each example

    names = ["id", "text"]
    file, marks = SampleFile(names, Golds(Labels.of(LABELS, "--labels"))), Marks(names)
    lines = [Line(number, cells, marks.of(tuple(cells)), marks) for number, cells in enumerate(TABLE[:15], 1)]
    labels = {each.id: {"": chance.choice([*LABELS, ""])} for each in lines}
    header, *rows = csv.reader(io.StringIO(file.content(lines, labels, "utf-8").decode()))
    chance.shuffle(rows)
    rows = rows[: chance.randrange(1, 16)]
    order = [*range(len(header))]
    chance.shuffle(order)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "sample.csv"
        path.write_bytes(
            as_csv([[row[place] for place in order] for row in [header, *rows]], delimiter=chance.choice(",;\t"))
        )
        read = file.read(path, {each.id: each for each in lines})
    assert read.gold == {int(row[0]): labels[int(row[0])] for row in rows}


# -- What cannot be read


def changed(lab: Lab, change: Callable[[Cells], Cells]) -> str:
    """Change the file, and return why it is refused; nothing was read or written then."""
    path, before = lab.path("sample"), lab.journal()
    path.write_bytes(as_csv(change(filled(cells_of(lab))[0])))
    content = path.read_bytes()
    with pytest.raises(OutputError) as refused:
        sample(lab, 20)
    assert lab.journal() == before
    assert path.read_bytes() == content
    return str(refused.value)


def with_gold(line: int, gold: str) -> Callable[[Cells], Cells]:
    return lambda cells: [[*row[:-1], gold if number == line else row[-1]] for number, row in enumerate(cells, 1)]


def test_a_label_that_is_none_is_named_with_its_line_and_what_was_meant(drawn: Lab) -> None:
    said = changed(drawn, with_gold(4, "godo"))
    assert "sample_k.csv: line 4, column 'gold': 'godo' is none of the labels: did you mean 'good'?" in said
    assert "Nothing was read: put it right, or leave the cell empty" in said
    assert "'xyz' is none of the labels ('good', 'bad', 'très moche')" in changed(drawn, with_gold(5, "xyz"))


def test_all_wrong_labels_are_named_at_once_up_to_five(drawn: Lab) -> None:
    said = changed(drawn, lambda cells: [cells[0], *([*row[:-1], "xyz"] for row in cells[1:])])
    assert [f"line {number}, column 'gold'" in said for number in range(2, 8)] == [True] * 5 + [False]
    assert "and 7 other lines" in said


def test_a_line_whose_cells_are_those_of_another_row_is_refused(drawn: Lab) -> None:
    def swapped(cells: Cells) -> Cells:
        ids = [row[0] for row in cells]
        ids[2], ids[3] = ids[3], ids[2]
        return [[number, *row[1:]] for number, row in zip(ids, cells, strict=True)]

    said = changed(drawn, swapped)
    assert "line 3 is not row 3 of the sample, as it says: in column 'id'" in said
    assert "sort whole lines" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda cells: [cells[0], ["99", *cells[1][1:]]], "line 2: the sample has no row 99"),
        (lambda cells: [cells[0], ["", *cells[1][1:]]], "line 2: its 'sample_row' is empty"),
        (lambda cells: [cells[0], ["one", *cells[1][1:]]], "line 2: the sample has no row one"),
        (lambda cells: [*cells, cells[2]], "lines 3 and 14 are both row 2 of the sample"),
        (lambda cells: [row[1:] for row in cells], "'sample_row' is not among them"),
        (lambda cells: [row[:-1] for row in cells], "it has no column 'gold'"),
        (lambda cells: [[*row, row[-1]] for row in cells], "it has 2 columns 'gold'"),
        (lambda cells: [*cells[:3], [*cells[3], "more"]], "line 4: 6 fields, the header has 5"),
        (lambda _cells: [["nothing"]], "its columns are 'nothing', and 'sample_row' is not among them"),
    ],
)
def test_what_is_no_file_of_the_sample_is_refused(drawn: Lab, change: Callable[[Cells], Cells], said: str) -> None:
    assert said in changed(drawn, change)


def test_the_file_of_another_run_is_refused(drawn: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path / "other")
    run(
        other, write(tmp_path / "other.csv", [["1", f"item {n}, né", "2"] for n in range(30)], ["id", "text", "weight"])
    )
    sample(other, 12)
    with pytest.raises(OutputError, match="is not row 1 of the sample"):
        sample(drawn, read=other.path("sample"))


# -- What a cell says


def test_labels_are_read_as_answers_are(lab: Lab, tmp_path: Path) -> None:
    run(lab, write(tmp_path / "table.csv", TABLE), labels={"labels": LABELS, "aliases": {"fine": "good"}})
    sample(lab, 6)
    said = [" GOOD ", "Fine", "bad.", "TRÈS MOCHE", "?", ""]
    cells = [[*row[:-1], gold] for row, gold in zip(cells_of(lab), ["gold", *said], strict=True)]
    lab.path("sample").write_bytes(as_csv(cells))
    sample(lab)
    assert gold_of(lab) == {"1": "good", "2": "good", "3": "bad", "4": "très moche"}


def test_the_latest_label_counts_and_all_are_kept(drawn: Lab, tmp_path: Path) -> None:
    said = []
    for label in ("good", "bad"):
        (tmp_path / "sample.csv").write_bytes(as_csv(with_gold(2, label)(cells_of(drawn))))
        said.append(str(sample(drawn, read=tmp_path / "sample.csv")))
    assert ["1 hand label is another than before" in each for each in said] == [False, True]
    assert drawn.query("SELECT drawn, gold, origin FROM gold ORDER BY id") == [
        (1, "good", "sample.csv"),
        (1, "bad", "sample.csv"),
    ]


def test_a_question_mark_takes_a_label_back_and_so_does_a_cell_that_was_emptied(drawn: Lab, tmp_path: Path) -> None:
    cells, _ = filled(cells_of(drawn))
    drawn.path("sample").write_bytes(as_csv(cells))
    sample(drawn)
    emptied = with_gold(2, "")(with_gold(3, "?")(cells))
    (tmp_path / "other.csv").write_bytes(as_csv(emptied))
    report = sample(drawn, read=tmp_path / "other.csv")
    assert report.taken_back == 1
    assert {"1", "2"} & {*gold_of(drawn)} == {"1"}
    drawn.path("sample").write_bytes(as_csv(emptied))
    assert sample(drawn).taken_back == 1
    assert not {"1", "2"} & {*gold_of(drawn)}
    assert found(drawn).gold == 7


def test_an_older_copy_of_the_file_takes_nothing_back_that_came_from_elsewhere(drawn: Lab, tmp_path: Path) -> None:
    before = drawn.path("sample").read_bytes()
    cells, expected = filled(cells_of(drawn))
    (tmp_path / "other.csv").write_bytes(as_csv(cells))
    sample(drawn, read=tmp_path / "other.csv")
    drawn.path("sample").write_bytes(before)
    assert sample(drawn).taken_back == 0
    assert gold_of(drawn) == expected
    assert {row[0]: row[-1] for row in cells_of(drawn)[1:] if row[-1]} == expected


def test_a_colleagues_half_of_the_file_takes_nothing_back_although_it_has_the_same_name(
    drawn: Lab, tmp_path: Path
) -> None:
    cells, expected = filled(cells_of(drawn))
    drawn.path("sample").write_bytes(as_csv(cells))
    sample(drawn)
    (tmp_path / "theirs").mkdir()
    path = tmp_path / "theirs" / "sample_k.csv"
    half = [[*row[:-1], "bad" if row[0] in {"11", "12"} else ""] for row in cells[1:]]
    path.write_bytes(as_csv([cells[0], *half]))
    report = sample(drawn, read=path)
    assert (report.read, report.taken_back) == (2, 0)
    assert gold_of(drawn) == {**expected, "11": "bad", "12": "bad"}
    assert drawn.query("SELECT DISTINCT origin FROM gold ORDER BY 1") == [("sample_k.csv",), ("theirs/sample_k.csv",)]


def test_a_file_that_was_not_written_again_does_not_win_over_a_later_label(drawn: Lab, tmp_path: Path) -> None:
    cells, _ = filled(cells_of(drawn))
    drawn.path("sample").write_bytes(as_csv(cells))
    sample(drawn)
    before, saved = drawn.path("sample").read_bytes(), drawn.path("sample").stat()
    (tmp_path / "other.csv").write_bytes(as_csv(with_gold(2, "bad")(cells)))
    sample(drawn, read=tmp_path / "other.csv")
    drawn.path("sample").write_bytes(before)
    os.utime(drawn.path("sample"), ns=(saved.st_atime_ns, saved.st_mtime_ns))
    assert sample(drawn).read == 0
    assert gold_of(drawn)["1"] == cells_of(drawn)[1][-1] == "bad"
    drawn.path("sample").write_bytes(before)
    assert sample(drawn).read == 1
    assert gold_of(drawn)["1"] == "good"


def test_notes_of_people_are_kept_beside_when_the_file_is_written_again(drawn: Lab) -> None:
    cells, expected = filled(cells_of(drawn))
    drawn.path("sample").write_bytes(as_csv([[*row, "note" if row is cells[0] else "hm"] for row in cells]))
    assert sample(drawn).labelled == 9  # the file needs not be written
    assert "hm" in drawn.path("sample").read_text("utf-8")
    report = sample(drawn, 20)
    copy = drawn.directory / "sample_k.csv.bak"
    assert "hm" in copy.read_text("utf-8")
    assert f"your file, with column 'note', is kept as {copy}" in str(report)
    assert gold_of(drawn) == expected


def test_a_field_of_a_schema_has_a_column_of_its_own(lab: Lab, tmp_path: Path) -> None:
    table = write(tmp_path / "table.csv", TABLE)
    run(lab, table, labels=None, schema=SCHEMA)
    sample(lab, 4)
    header, *rows = cells_of(lab)
    assert header[3:] == ["gold_mood", "gold_score", "gold_is_spam", "gold_why"]
    said = [["Happy", "1", "TRUE", "x, y"], ["sad", "2,5", "false", ""], ["", "", "", ""], ["", "3.5", "?", ""]]
    lab.path("sample").write_bytes(
        as_csv([header, *([*row[:3], *gold] for row, gold in zip(rows, said, strict=True))], delimiter=";")
    )
    assert sample(lab).labelled == 3
    assert gold_of(lab) == {
        "1": '{"mood": "happy", "score": "1", "is_spam": "true", "why": "x, y"}',
        "2": '{"mood": "sad", "score": "2.5", "is_spam": "false"}',
        "4": '{"score": "3.5"}',
    }
    assert sorted(each.gold for each in found(lab, field="score").sampled) == ["1", "2.5", "3.5"]
    assert found(lab, field="mood").waiting == 2
    lab.path("sample").write_bytes(as_csv([header, [*rows[0][:3], "angry", "", "", ""]]))
    with pytest.raises(OutputError, match="line 2, column 'gold_mood': 'angry' cannot be 'mood'"):
        sample(lab)


def test_any_text_is_right_if_the_run_has_no_labels(lab: Lab, tmp_path: Path) -> None:
    run(lab, write(tmp_path / "table.csv", TABLE), labels=None)
    sample(lab, 3)
    cells = [[*row[:-1], gold] for row, gold in zip(cells_of(lab), ["gold", " a, b ", "7,5", ""], strict=True)]
    lab.path("sample").write_bytes(as_csv(cells, delimiter=";"))
    sample(lab)
    assert gold_of(lab) == {"1": "a, b", "2": "7.5"}


def test_a_field_is_read_by_its_own_part_of_the_schema() -> None:
    shared = {"$defs": {"mood": SCHEMA["properties"]["mood"]}, "properties": {"mood": {"$ref": "#/$defs/mood"}}}  # type: ignore[index]
    golds = Golds(Schema.of({"type": "object", **shared, "required": ["mood"]}, "--schema"))
    assert golds.read("SAD", "mood") == "sad"
    assert golds.read_whole('{"mood": "Happy"}') == '{"mood": "happy"}'
    assert golds.read_whole('{"mood": null}') == ""


# -- Before it is read


def test_a_report_counts_what_stands_in_the_file_already(drawn: Lab) -> None:
    cells, expected = filled(cells_of(drawn))
    journal = drawn.journal()
    for content in (as_csv(cells, lineterminator="\n"), as_csv(sorted_by_text(cells), "cp1252", delimiter=";")):
        drawn.path("sample").write_bytes(content)
        assert sorted(each.gold for each in found(drawn).sampled) == sorted(expected.values())
    assert drawn.journal() == journal
    drawn.path("sample").write_bytes(as_csv(with_gold(4, "godo")(cells)))
    now = found(drawn)
    assert now.gold == 0
    assert "what was written into the sample's file since it was read does not count" in now.notes[0]
    assert "'godo' is none of the labels" in now.notes[0]


def test_a_file_from_before_the_table_was_edited_is_still_read(drawn: Lab, tmp_path: Path) -> None:
    cells, expected = filled(cells_of(drawn))
    rows = [[f"new {number}", f"item {number}, né", f"{number / 7:.12f}"] for number in range(30)]
    run(drawn, write(tmp_path / "table.csv", rows, ["id", "text", "weight"]), labels=LABELS)
    drawn.path("sample").write_bytes(as_csv(cells))
    assert sample(drawn).labelled == 9
    assert gold_of(drawn) == expected


def test_a_line_of_a_row_that_is_gone_is_read_by_what_it_was(drawn: Lab, tmp_path: Path) -> None:
    cells, expected = filled(cells_of(drawn))
    lost = cells[1][2]
    rows = [[f"00{number}", f"item {number}, né", f"{number / 7:.12f}"] for number in range(30)]
    kept = [row for row in rows if row[1] != lost]
    run(drawn, write(tmp_path / "table.csv", kept, ["id", "text", "weight"]), labels=LABELS, on_change="redo")
    other = [cells[0], [*cells[1][:2], "another", *cells[1][3:]], *cells[2:]]
    drawn.path("sample").write_bytes(as_csv(other))
    with pytest.raises(OutputError, match="delete the line, for the row is in the table no more"):
        sample(drawn)
    drawn.path("sample").write_bytes(as_csv(cells))
    report = sample(drawn)
    assert (report.gone, report.labelled, report.read) == (1, 8, 9)
    assert gold_of(drawn) == expected
    sample(drawn, 14)
    assert lost not in [row[2] for row in cells_of(drawn)]


def test_hand_labels_are_read_although_the_input_is_gone_and_the_file_stays(lab: Lab, tmp_path: Path) -> None:
    table = write(tmp_path / "table.csv", TABLE)
    run(lab, table)
    sample(lab, 4)
    table.unlink()
    for path in lab.directory.glob("[0-9]*_k.csv"):
        path.unlink()
    cells = [[*row[:-1], row[-1] or "good"] for row in cells_of(lab)]
    content = as_csv(cells, delimiter=";")
    lab.path("sample").write_bytes(content)
    assert sample(lab).labelled == 4
    assert lab.path("sample").read_bytes() == content

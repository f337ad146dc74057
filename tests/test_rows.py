"""Each pass of `verify` can be run alone, on rows that a test makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batcher.answer.columns import AnswerColumns
from batcher.journal.entries import RowRecord
from batcher.output.directory import Store
from batcher.reports.verification.findings import Found, Kind
from batcher.reports.verification.lines import Lines
from batcher.reports.verification.result_file import check_result
from batcher.reports.verification.rows import Row, checked

HEADER = "text,infer,infer_status,infer_error\n"


def row(position: int, answer: str) -> Row:
    made = Row(position, AnswerColumns())
    made.cells, made.ending = [f"text {position}"], [answer, "ok", ""]
    return made


def rows(*answers: str) -> Iterator[Row]:
    return (row(position, answer) for position, answer in enumerate(answers))


def written(directory: Path, *answers: str) -> Store:
    store = Store(directory, "k", ["text"])
    lines = [f"text {position},{answer},ok,\n" for position, answer in enumerate(answers)]
    store.all_path.write_text(HEADER + "".join(lines))
    return store


def kinds(found: Found) -> dict[str, tuple[tuple[int, int], ...]]:
    return {each.kind: each.rows for each in found.findings()}


def failing(kind: Kind, *positions: int) -> Callable[[Row], Kind | None]:
    return lambda each: kind if each.position in positions else None


def test_a_row_is_named_by_the_first_check_that_it_fails() -> None:
    found = Found()
    checks = [failing(Kind.CHANGED, 1), failing(Kind.INPUT_OTHER, 1, 2)]
    passed = list(checked(rows("a", "b", "c"), checks, found))
    assert kinds(found) == {"changed": ((1, 1),), "input-other": ((2, 2),)}
    assert [each.is_named for each in passed] == [False, True, True]


def test_a_result_that_cannot_be_joined_from_chunk_files_is_compared_with_the_rows(tmp_path: Path) -> None:
    found = Found()
    check_result(rows("a", "b", "c"), written(tmp_path, "a", "other", "c"), [0], found, is_read=False)
    assert kinds(found) == {"all-other": ((1, 1),)}


@pytest.mark.parametrize(("edited", "expected"), [(False, {"all-other": ((0, 0),)}), (True, {})])
def test_a_row_whose_chunk_file_was_edited_may_stand_in_the_result_as_it_was(
    tmp_path: Path, edited: bool, expected: dict[str, object]
) -> None:
    found = Found()
    before = RowRecord(0, b"k", None, None, 1, 1, b"k", 1, 1, None, b"ok", b"before", b"")
    changed = Row(0, AnswerColumns(), before)
    changed.cells, changed.ending, changed.is_edited = ["text 0"], ["by hand", "ok", ""], edited
    check_result(iter([changed]), written(tmp_path, "before"), [0], found, is_read=True)
    assert kinds(found) == expected


def test_a_file_gives_the_lines_before_the_place_where_it_breaks(tmp_path: Path) -> None:
    path = tmp_path / "0_k.csv"
    path.write_text(HEADER + "a,yes,ok,\nb,no\n")
    lines = Lines(path, AnswerColumns())
    assert lines.error is None
    assert list(lines) == [(2, ["a"], ["yes", "ok", ""], [])]
    assert "line 3: 2 fields" in str(lines.error)


def test_a_missing_file_has_no_header_and_no_lines(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "0_k.csv", AnswerColumns())
    assert (lines.header, list(lines)) == ([], [])
    assert "No such file" in str(lines.error)

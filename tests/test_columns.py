"""One module names, counts, splits and fills the answer columns."""

from __future__ import annotations

import pytest

from batcher.answer.columns import COUNT, AnswerColumns, cells_of, result_of, split
from batcher.records import Result, Status


def test_the_answer_column_names_all_and_infer_is_the_default() -> None:
    assert [*AnswerColumns()] == ["infer", "infer_status", "infer_error"]
    assert [*AnswerColumns("label")] == ["label", "label_status", "label_error"]
    assert AnswerColumns("label").status == "label_status"


@pytest.mark.parametrize("answer", ["infer", "标签", "a_status", ""])
def test_a_header_that_ends_with_answer_columns_is_recognised(answer: str) -> None:
    columns = AnswerColumns(answer)
    assert AnswerColumns.ending([*columns]) == AnswerColumns.ending(["id", "text", *columns]) == columns


@pytest.mark.parametrize(
    "header",
    [
        [],
        ["infer"],
        ["infer_status", "infer_error"],
        ["infer", "infer_error", "infer_status"],
        ["infer", "infer_status", "infer_error", "note"],
        ["infer", "label_status", "label_error"],
    ],
)
def test_a_header_that_ends_otherwise_has_no_answer_columns(header: list[str]) -> None:
    assert AnswerColumns.ending(header) is None


@pytest.mark.parametrize("status", Status)
def test_a_result_comes_back_from_its_cells(status: Status) -> None:
    result = Result(status, "yes, 数", "why")
    cells = cells_of(result)
    assert len(cells) == COUNT == len([*AnswerColumns()])
    assert split(["1", "a", *cells]) == (["1", "a"], [*cells])
    assert result_of(split(["1", "a", *cells])[1]) == result


def test_cells_with_another_status_are_no_result() -> None:
    with pytest.raises(ValueError, match="fine"):
        result_of(["yes", "fine", ""])

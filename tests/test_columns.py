"""One module names, counts, splits and fills the answer columns."""

from __future__ import annotations

import pytest

from batcher.answer.columns import AnswerColumns
from batcher.records import Beside, Result, Status


def test_the_answer_column_names_all_and_infer_is_the_default() -> None:
    assert [*AnswerColumns()] == ["infer", "infer_status", "infer_error"]
    assert [*AnswerColumns("label")] == ["label", "label_status", "label_error"]
    assert AnswerColumns("label").status == "label_status"


EXTRAS: list[tuple[str, ...]] = [(), ("reasoning",), ("reasoning", "model", "finish")]


@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("answer", ["infer", "标签", "a_status", ""])
def test_a_header_that_ends_with_answer_columns_is_recognised(answer: str, extras: tuple[str, ...]) -> None:
    columns = AnswerColumns(answer, extras)
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
        ["infer", "infer_status", "infer_error", "infer_note"],
        ["infer", "infer_status", "infer_error", "label_model"],
    ],
)
def test_a_header_that_ends_otherwise_has_no_answer_columns(header: list[str]) -> None:
    assert AnswerColumns.ending(header) is None


def test_the_last_answer_columns_of_a_header_count() -> None:
    first, second = AnswerColumns("a", ("model",)), AnswerColumns("b")
    assert AnswerColumns.ending([*first, *second]) == second
    assert AnswerColumns.ending([*second, *first]) == first


@pytest.mark.parametrize("extras", EXTRAS)
@pytest.mark.parametrize("status", Status)
def test_a_result_comes_back_from_its_cells(status: Status, extras: tuple[str, ...]) -> None:
    result, columns = Result(status, "yes, 数", "why"), AnswerColumns(extras=extras)
    cells = columns.cells_of(result, Beside(reasoning="hm", model="m-1", finish="stop"))
    assert len(cells) == len(columns) == len([*columns]) == 3 + len(extras)
    assert columns.split(["1", "a", *cells]) == (["1", "a"], [*cells])
    assert columns.result_of(columns.split(["1", "a", *cells])[1]) == result
    assert cells[3:] == ("hm", "m-1", "stop")[: len(extras)]


def test_cells_with_another_status_are_no_result() -> None:
    with pytest.raises(ValueError, match="fine"):
        AnswerColumns().result_of(["yes", "fine", ""])

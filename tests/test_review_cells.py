"""The temporary copy of a table's cells."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batcher.errors import DiskFull, OutputError
from batcher.journal.cells import Cells


@pytest.fixture
def cells() -> Iterator[Cells]:
    made = Cells()
    yield made
    made.close()


def test_rows_come_back_as_they_were(cells: Cells) -> None:
    rows = {0: ["a", "", "two\nlines"], 7: ["", "", ""], 2: ["\x01", "房间", "x" * 10_000]}
    cells.add(rows.items())

    assert cells.at([0, 2, 7, 8]) == rows
    assert cells.between(1, 8) == {2: "\x01\0房间\0" + "x" * 10_000, 7: "\0\0"}
    assert cells.missing(0, 4) == [1, 3]
    assert cells.count() == 3


def test_a_row_that_is_added_again_is_replaced(cells: Cells) -> None:
    cells.add([(1, ["old"])])
    cells.add([(1, ["new"])])

    assert cells.at([1]) == {1: ["new"]}


def test_many_rows_are_asked_for_at_once(cells: Cells) -> None:
    cells.add((number, [str(number)]) for number in range(5000))

    assert cells.at([*range(0, 5000, 2)]) == {number: [str(number)] for number in range(0, 5000, 2)}


def test_a_full_disk_leaves_what_is_there(cells: Cells) -> None:
    cells.add([(0, ["kept"])])
    cells._db.execute("PRAGMA max_page_count = 8")

    with pytest.raises(DiskFull, match="temporary copy"):
        cells.add((number, ["x" * 1000]) for number in range(1, 1000))

    assert cells.count() == 1
    assert cells.at([0, 1]) == {0: ["kept"]}
    cells.add([(1, ["small"])])
    assert cells.at([1]) == {1: ["small"]}


def test_a_copy_that_is_closed_says_so() -> None:
    cells = Cells()
    cells.close()

    with pytest.raises(OutputError, match="temporary copy"):
        cells.at([0])

"""The demo: a table that can be made again, and marks that add up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from programs import ROOT, call, table

from batcher.demo import ROWS, mark, sums, write_table


def test_the_table_in_the_repository_is_what_the_generator_makes(tmp_path: Path) -> None:
    write_table(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (ROOT / "data" / "arithmetic.csv").read_bytes()
    rows = table(ROOT / "data" / "arithmetic.csv")
    assert len(rows) == ROWS == 1000
    assert all(re.fullmatch(r"\d+ [-+*] \d+ [-+*] \d+", row["expression"]) for row in rows)
    assert all(eval(row["expression"]) == int(row["result"]) for row in rows)  # noqa: S307 - sums of our own
    assert list(sums(3)) == list(sums(3))


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('{"result": 42}', "right"),
        ('{"result": 42.0}', "right"),
        ('{"result": "42"}', "right"),
        ('{"result": 41}', "wrong"),
        ("42", "unparsable"),
        ('{"result": null}', "unparsable"),
        ('{"answer": 42}', "unparsable"),
        ("The result is 42.", "unparsable"),
        ("", "unparsable"),
    ],
)
def test_an_answer_is_right_wrong_or_unparsable(answer: str, found: str) -> None:
    assert mark(answer, "42") == found


def test_the_demo_labels_marks_and_lists(tmp_path: Path) -> None:
    for _ in range(2):  # the second time nothing is left to ask
        done = call("demo", cwd=tmp_path)
        assert done.status == 0, done.stderr
        marks = re.search(r"accuracy .*: ([\d,]+) right, ([\d,]+) unparsable, ([\d,]+) wrong", done.stdout)
        assert marks
        assert sum(int(count.replace(",", "")) for count in marks.groups()) == ROWS
        listed = [line.split()[-1] for line in done.stdout.partition("$ ls output\n")[2].splitlines()]
        names = ["0_arithmetic.csv", "500_arithmetic.csv", "all_arithmetic.csv", "journal_arithmetic.sqlite"]
        assert listed == names
    assert len(table(tmp_path / "output" / "all_arithmetic.csv")) == ROWS

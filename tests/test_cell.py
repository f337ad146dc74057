"""A value has the same text everywhere: in a prompt, in a file, in this process and in the next."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from decimal import Decimal
from enum import Enum
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.input.cell import cell

AWKWARD = ["NA", "None", "007", " a ", 'say "hi"', "a,b\tc", "one\ntwo", "\r\n", "\0", "😀", "\ud800", "数学计算", ""]


class Colour(str, Enum):  # noqa: UP042 - the kind whose str() is not its text
    RED = "red"


LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((text, text) for text in AWKWARD),
        (None, ""),
        (float("nan"), ""),
        (np.float32("nan"), ""),
        (Decimal("NaN"), ""),
        (pd.NaT, ""),
        (pd.NA, ""),
        (np.datetime64("NaT", "ns"), ""),
        (True, "True"),
        (7, "7"),
        (10**400, "1" + "0" * 400),
        (1.0, "1.0"),
        (1e300, "1e+300"),
        (float("inf"), "inf"),
        (np.float64(1.5), "1.5"),
        (np.float32(0.5), "0.5"),
        (np.longdouble(1.5), "1.5"),
        (np.int64(3), "3"),
        (np.bool_(True), "True"),
        (np.str_("x"), "x"),
        (Colour.RED, "red"),
        (np.datetime64("2024-05-01T12:00:00", "ns"), "2024-05-01T12:00:00.000000000"),
        (pd.Timestamp("2024-05-01 12:00"), "2024-05-01 12:00:00"),
        (dt.date(2024, 5, 1), "2024-05-01"),
        (Decimal("1.10"), "1.10"),
        ("数".encode(), "数"),
        (b"a\xff", "a\\xff"),
        (bytearray(b"x"), "x"),
        ([1, "数", None, True], '[1, "数", null, true]'),
        (("a", 1), '["a", 1]'),
        ({"k": ["v", {"n": 1.5}]}, '{"k": ["v", {"n": 1.5}]}'),
        ({"b": 1, "a": 2}, '{"b": 1, "a": 2}'),
        (np.array([[1, 2], [3, 4]]), "[[1, 2], [3, 4]]"),
        (np.array(5), "5"),
        (np.array(["x", None, b"y"], dtype=object), '["x", null, "y"]'),
        ([np.int64(1), pd.NA, pd.NaT, Decimal("1.10")], '[1, null, null, "1.10"]'),
        ([1.5, float("nan"), float("inf"), "NaN"], '[1.5, null, null, "NaN"]'),
        (np.array([1.5, np.nan]), "[1.5, null]"),
        ([dt.date(2024, 5, 1), np.datetime64("2024-05-01")], '["2024-05-01", "2024-05-01"]'),
        ({"b", "a", "c"}, '["a", "b", "c"]'),
        ([frozenset({10, 9})], "[[10, 9]]"),
        ({(1, 2): "x"}, "{(1, 2): 'x'}"),
        (LOOP, "[[...]]"),
    ],
)
def test_a_value_becomes_this_text(value: object, text: str) -> None:
    written_as = cell(value)
    assert written_as == text
    assert type(written_as) is str


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.lists(json_values) | st.dictionaries(st.text(), json_values))
def test_nested_values_can_be_read_back_as_json(value: object) -> None:
    assert json.loads(cell(value)) == value


def test_a_set_reads_the_same_in_every_process() -> None:
    program = "from batcher.input.cell import cell; print(cell({f'word {n}' for n in range(9)}))"
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said == [json.dumps([f"word {n}" for n in range(9)]) + "\n"] * 2

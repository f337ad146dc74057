"""Tables in the memory of other programs are read like the same rows in a file."""

from __future__ import annotations

import csv
import gc
import io
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import batcher
from batcher.errors import InputError
from batcher.input.cell import cell
from batcher.input.dataset import Dataset
from batcher.input.opening import open_dataset
from batcher.records import Values

pl: Any = pytest.importorskip("polars")


def rows_of(table: Dataset, size: int = 3) -> list[Values]:
    return [row for part in table.slices(size) for row in part.rows]


def cells_of(data: Any) -> list[list[str]]:
    return [list(map(cell, row)) for row in rows_of(open_dataset(data))]


def fault(data: Any) -> str:
    with pytest.raises(InputError) as caught:
        rows_of(open_dataset(data))
    return str(caught.value)


# --- the same rows in every container --------------------------------------------------------------


def as_dictionaries(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Unlike `to_dict`, with NumPy's own numbers."""
    return [{str(name): frame[name].iloc[number] for name in frame} for number in range(len(frame))]


def as_parquet(frame: pd.DataFrame, folder: Path) -> Path:
    frame.to_parquet(folder / "t.parquet")
    return folder / "t.parquet"


def as_partitions(frame: pd.DataFrame, folder: Path) -> str:
    """Two files, of which polars writes one."""
    half = len(frame) // 2
    frame.iloc[:half].to_parquet(folder / "part-0.parquet")
    pl.from_pandas(frame.iloc[half:]).write_parquet(folder / "part-1.parquet")
    return str(folder / "part-*.parquet")


CONTAINERS: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "pandas": lambda frame, _: frame,
    "pandas with Arrow": lambda frame, _: pa.Table.from_pandas(frame).to_pandas(types_mapper=pd.ArrowDtype),
    "polars": lambda frame, _: pl.from_pandas(frame),
    "Table": lambda frame, _: pa.Table.from_pandas(frame),
    "RecordBatch": lambda frame, _: pa.RecordBatch.from_pandas(frame),
    "dictionaries": lambda frame, _: as_dictionaries(frame),
    "tuple": lambda frame, _: tuple(as_dictionaries(frame)),
    "stream": lambda frame, _: Stream(pa.Table.from_pandas(frame)),
    "parquet": as_parquet,
    "partitions": as_partitions,
}


class Stream:
    """What only speaks the Arrow protocol, as tables of many libraries do."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


some_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(["NA", "007", "", "\r\n"])
some_rows = st.lists(
    st.tuples(some_text, st.integers(-(2**62), 2**62), st.floats(width=32), st.booleans()), min_size=1, max_size=7
)


@given(some_rows)
@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_frame_is_the_same_table_in_every_container(tmp_path: Path, rows: list[tuple[Any, ...]]) -> None:
    frame = pd.DataFrame(rows, columns=["text", "n", "x", "flag"]).astype({"x": "float32"})
    expected = [[row[0], str(row[1]), cell(np.float32(row[2])), str(row[3])] for row in rows]
    for name, contained in CONTAINERS.items():
        table = open_dataset(contained(frame, tmp_path))
        assert table.columns == ("text", "n", "x", "flag"), name
        for size in (2, 100):
            assert [list(map(cell, row)) for row in rows_of(table, size)] == expected, name


def test_a_series_of_polars_and_an_array_are_one_column() -> None:
    assert open_dataset(pl.Series("note", ["a"])).columns == ("note",)
    for data in (pl.Series(["a", None]), pa.array(["a", None]), pa.chunked_array([["a"], [None]])):
        table = open_dataset(data)
        assert (table.columns, rows_of(table)) == (("text",), [("a",), (None,)])


def test_dictionaries_have_the_columns_of_all_of_them() -> None:
    rows: list[dict[Any, Any]] = [{"b": 1}, {"a": "x", "b": 2}, {3: None}]
    table = open_dataset(rows)
    assert (table.name, table.columns) == ("the list", ("b", "a", "3"))
    rows.append({})
    assert rows_of(table) == [(1, None, None), (2, "x", None), (None, None, None)]
    assert rows_of(open_dataset({"k": {"a": 1}}.values())) == [(1,)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([{"a": 1}, "b"], "the list, row 1 (counted from 0): must be a dictionary, as the first is, not of type str"),
        (["a", {"b": 1}], "the list, row 1 (counted from 0): must be a string, not of type dict"),
        ([{"1": 1, 1: 2}], "the list: more than one column is named '1'"),
        ({"a": [1]}, "cannot read a table from builtins.dict: give pandas.DataFrame(data)"),
        ({"a", "b"}, "cannot read a table from builtins.set: give sorted(data): a set has another order"),
        (b"t.csv", "cannot read a table from builtins.bytes: give the path of a file as text"),
        (np.array(["x"]), "cannot read a table from numpy.ndarray: give data.tolist() if it holds texts, or pandas."),
        (np.array("x"), "cannot read a table from numpy.ndarray: give data.tolist() if it holds texts, or pandas."),
        (pd.Index(["x"]), "cannot read a table from pandas.Index: give data.to_series()"),
        (
            [("a", 1)],
            "the list, row 0 (counted from 0): must be a string, not of type tuple: give pandas.DataFrame(data",
        ),
        (["a", None], "the list, row 1 (counted from 0): must be a string, not of type NoneType: a missing text is"),
        ([1], "the list, row 0 (counted from 0): must be a string, not of type int: list(map(str, data))"),
        ([pd.DataFrame()], "the list, row 0 (counted from 0): must be a string, not of type DataFrame: give one table"),
        (
            pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])),
            "the DataFrame: the columns are a MultiIndex",
        ),
        (
            pd.DataFrame([[1, 2]], columns=[1, "1"]),
            "the DataFrame: more than one column is named '1': rename all but one",
        ),
        ("https://x.test/t.csv", "https://x.test/t.csv: is a URL: download the file"),
        ("text\na\n", "the input is a text of several lines and no path"),
        (pl.LazyFrame({"a": [1]}), "cannot read a table from polars.LazyFrame: call .collect() on it"),
    ],
)
def test_what_is_no_table_is_refused_with_what_to_give(data: Any, said: str) -> None:
    assert fault(data).startswith(said)


class Once(Stream):
    """Gives another stream the second time, as what holds a reader does."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        table, self._table = self._table, self._table.slice(1)
        return table.__arrow_c_stream__(requested_schema)


def test_what_can_be_read_only_once_is_refused() -> None:
    table = pa.table({"a": [1, 2, 3]})
    rows: Iterator[dict[str, int]] = ({"a": number} for number in range(3))
    for data in (table.to_reader(), rows, iter([{"a": 1}]), Once(table)):
        assert f"the {type(data).__name__} can be read only once" in fault(data)
    assert next(rows) == {"a": 0}, "nothing was taken from it"


def test_what_was_opened_to_be_read_once_is_answered_with_what_to_give(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text\na\n")
    with path.open() as file, path.open("rb") as raw:
        for data, said in (
            (file, ("TextIOWrapper", "give the path of")),
            (raw, ("BufferedReader", "give the path of")),
            (csv.DictReader(file), ("DictReader", "give list(")),
            (csv.reader(file), ("reader", "give the path of")),
            (io.StringIO("a"), ("StringIO", "give pandas.")),
            (zip("a", "b", strict=True), ("zip", "give")),
        ):  # fmt: skip
            name, way = said
            assert fault(data).startswith(
                f"the {name} can be read only once, and batcher reads a table more than once: {way}"
            )
        assert rows_of(open_dataset(list(csv.DictReader(file)))) == [("a",)]


class Growing:
    """Holds one row more at each pass."""

    def __init__(self) -> None:
        self.rows: list[dict[str, int]] = []

    def __iter__(self) -> Iterator[dict[str, int]]:
        self.rows.append({"a": 1})
        return iter(list(self.rows))


def test_dictionaries_that_become_more_between_two_passes_are_noticed() -> None:
    assert "the Growing can be read only once" in fault(Growing())


# --- numbers of 32 and 16 bits ---------------------------------------------------------------------

TENTH = {"x": [0.1, None], "of": [[0.1, 2.5], None], "by": [{"k": 0.1, "n": 1}, None], "deep": [[{"k": [0.1]}], []]}
SHORT = [["0.1", "[0.1, 2.5]", '{"k": 0.1, "n": 1}', '[{"k": [0.1]}]'], ["", "", "", "[]"]]


@pytest.mark.parametrize("kind", [pa.float32(), pa.float16()])
def test_a_tenth_of_few_bits_is_a_tenth(tmp_path: Path, kind: pa.DataType) -> None:
    inner = pa.struct([("k", pa.list_(kind))])
    types = [kind, pa.list_(kind), pa.struct([("k", kind), ("n", pa.int8())]), pa.list_(inner)]
    dtype = np.float16 if kind == pa.float16() else np.float32

    def narrow(value: Any) -> Any:
        """Make the floats narrow; older releases of Arrow take no others for 16 bits."""
        if isinstance(value, dict):
            return {key: narrow(each) for key, each in value.items()}
        if isinstance(value, list):
            return list(map(narrow, value))
        return dtype(value) if isinstance(value, float) else value

    arrays = [pa.array(narrow(values), of) for values, of in zip(TENTH.values(), types, strict=True)]
    table = pa.table(arrays, names=list(TENTH))
    parquet.write_table(table, tmp_path / "t.parquet")
    assert cells_of(table) == SHORT
    assert cells_of(tmp_path / "t.parquet") == SHORT
    if kind == pa.float32():
        assert cells_of(pl.from_arrow(table)) == SHORT
        assert cells_of(pd.read_parquet(tmp_path / "t.parquet", dtype_backend="pyarrow")) == SHORT
    # Of a struct pandas makes a dictionary of Python's numbers, which no longer tells their bits.
    assert cells_of(pd.read_parquet(tmp_path / "t.parquet")[["x", "of"]]) == [row[:2] for row in SHORT]


def test_frames_of_every_kind_of_narrow_number_are_short() -> None:
    narrow = np.array([0.1, 1e20, 71358912], "float32")
    frame = pd.DataFrame({
        "a": narrow,
        "b": pd.array(narrow, "Float32"),
        "c": pd.Series(narrow, dtype=pd.ArrowDtype(pa.float32())),
        "d": pd.Categorical(narrow),
        "e": pd.Series(list(narrow), dtype=object),
        "f": [np.array([each]) for each in narrow],
    })  # fmt: skip
    assert cells_of(frame) == [[*[text] * 5, f"[{text}]"] for text in ("0.1", "1e+20", "71358912.0")]
    assert cells_of(pd.DataFrame({"h": np.array([0.1, np.nan], "float16")})) == [["0.1"], [""]]
    assert cells_of(pa.table({"m": pa.array([[("k", 0.1)]], pa.map_(pa.string(), pa.float32()))})) == [['[["k", 0.1]]']]
    views = pa.array([[0.1, None]], pa.large_list(pa.float32()))
    assert cells_of(pa.table({"v": views, "d": pa.array([0.1], pa.float32()).dictionary_encode()})) == [
        ["[0.1, null]", "0.1"]
    ]


@given(st.floats(width=32))
@settings(deadline=None)
def test_a_short_number_reads_back_as_the_same(number: float) -> None:
    [[text]] = cells_of(pa.table({"x": pa.array([number], pa.float32())}))
    assert text == cell(np.float32(number))
    assert number != number or np.float32(text) == np.float32(number)  # noqa: PLR0124 - NaN is no number


def test_a_run_shows_the_number_in_prompts_and_in_the_file(tmp_path: Path) -> None:
    asked: list[float] = []

    def prompt(row: dict[str, Any]) -> str:
        asked.append(row["x"])
        return "One of: a, b."

    frame = pl.DataFrame({"x": [0.1]}, schema={"x": pl.Float32})
    report = batcher.run(frame, prompt, keyword="k", provider="offline", output_dir=tmp_path, quiet=True)
    assert (set(asked), list(report.frame()["x"])) == ({0.1}, ["0.1"])
    assert batcher.verify("k", frame, prompt, output_dir=tmp_path).ok


def test_a_table_in_memory_of_any_kind_is_rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"text": ["a\r\n", 5, np.float32(0.1), "数", "\ud800"]})
    done = batcher.rehearse(table, keyword="k", kills=0, quiet=True)
    assert (done.rows, done.disagreements, done.verified) == (5, (), True)


# --- other libraries, if they are here -------------------------------------------------------------


def test_a_dataset_of_hugging_face_is_read_in_its_order() -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"n": list(range(1000)), "x": [0.1] * 1000})
    data = data.cast_column("x", datasets.Value("float32")).shuffle(seed=1)
    table = open_dataset(data)
    assert rows_of(table) == [(number, 0.1) for number in data["n"]]
    assert [row[:1] for row in rows_of(open_dataset(data.to_iterable_dataset()))] == [(n,) for n in data["n"]]
    assert 'give one of its splits, as in data["train"]' in fault(datasets.DatasetDict(train=data))


def test_a_relation_of_duckdb_is_asked_anew_for_each_pass() -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        table = open_dataset(connection.sql("SELECT range AS n, 'x' || range AS t FROM range(3000)"))
        assert table.columns == ("n", "t")
        for size in (500, 7):
            assert rows_of(table, size) == [(number, f"x{number}") for number in range(3000)]


# --- memory ----------------------------------------------------------------------------------------


def test_reading_arrow_and_polars_takes_a_slice_of_memory() -> None:
    peaks = []
    for count in (4_000, 80_000):
        table = pa.table({"id": range(count), "text": ["x" * 50] * count})
        for data in (table, pl.from_arrow(table), Stream(table)):
            dataset = open_dataset(data)
            rows_of(dataset)  # what is loaded once is loaded now
            before = pa.total_allocated_bytes()
            gc.collect()
            tracemalloc.start()
            for _ in dataset.slices(100):
                pass
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert pa.total_allocated_bytes() <= before + 2**20
    assert max(peaks[3:]) < 1.2 * max(peaks[:3]) + 20_000

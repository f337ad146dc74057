"""Every row of a table is read exactly, and an error names the place of the fault."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
import os
import subprocess
import sys
import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from batcher.errors import InputError
from batcher.input.cell import cell
from batcher.input.dataset import Dataset
from batcher.input.opening import open_dataset
from batcher.records import Values

SHARED = Path(__file__).parents[2] / "shared" / "data"

AWKWARD = [
    "NA",
    "None",
    "007",
    " a ",
    'say "hi"',
    "a,b\tc",
    "one\ntwo",
    "\r\n",
    "\r",
    "\0",
    "😀",
    "数学计算",
    "",
]


def rows_of(table: Dataset, size: int = 3) -> list[Values]:
    return [row for part in table.slices(size) for row in part.rows]


def saved(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet_file(folder: Path, table: pa.Table, **options: Any) -> Path:
    path = folder / "table.parquet"
    parquet.write_table(table, path, **options)
    return path


def fault(data: object) -> str:
    """Read a table to its end and return the error's message."""
    with pytest.raises(InputError) as caught:
        rows_of(open_dataset(data))  # type: ignore[arg-type] # some are wrong on purpose
    return str(caught.value)


def fault_in(folder: Path, name: str, content: str | bytes) -> str:
    """Read a broken file; its message must begin with its path, which is cut off."""
    path = saved(folder, name, content)
    message = fault(path)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


# --- slices: every kind of table -------------------------------------------------------------------


@pytest.fixture(params=["csv", "tsv", "jsonl", "parquet", "frame", "series", "list"])
def seven_rows(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    """Seven rows of one column, `text`, in every kind of table."""
    texts = [f"t{number}" for number in range(7)]
    frame = pd.DataFrame({"text": texts})
    match request.param:
        case "csv" | "tsv":
            return open_dataset(saved(tmp_path, f"t.{request.param}", "\n".join(["text", *texts])))
        case "jsonl":
            return open_dataset(saved(tmp_path, "t.jsonl", "\n".join(json.dumps({"text": t}) for t in texts)))
        case "parquet":
            return open_dataset(parquet_file(tmp_path, pa.table({"text": texts}), row_group_size=2))
        case "frame":
            return open_dataset(frame)
        case "series":
            return open_dataset(frame["text"])
        case _:
            return open_dataset(texts)


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 8, 1000])
def test_every_slice_is_full_but_the_last(seven_rows: Dataset, size: int) -> None:
    parts = list(seven_rows.slices(size))
    assert seven_rows.columns == ("text",)
    assert [part.start for part in parts] == list(range(0, 7, size))
    assert [len(part.rows) for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert [row for part in parts for row in part.rows] == [(f"t{number}",) for number in range(7)]


def test_slices_start_afresh_on_each_call(seven_rows: Dataset) -> None:
    first, second = seven_rows.slices(2), seven_rows.slices(3)
    assert next(first).rows == [("t0",), ("t1",)]
    assert next(second).rows == [("t0",), ("t1",), ("t2",)]
    assert next(first).start == 2
    assert len(rows_of(seven_rows)) == 7


@pytest.mark.parametrize(("limit", "lengths"), [(0, []), (1, [1]), (4, [2, 2]), (5, [2, 2, 1]), (99, [2, 2, 2, 1])])
def test_a_limit_ends_the_table_early(seven_rows: Dataset, limit: int, lengths: list[int]) -> None:
    assert [len(part.rows) for part in seven_rows.slices(2, limit)] == lengths


def test_a_slice_without_rows_is_refused(seven_rows: Dataset) -> None:
    with pytest.raises(ValueError, match="at least one row, not 0"):
        seven_rows.slices(0)


def test_a_message_names_a_row_by_its_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, "reviews.csv", "a\n1\n")
    monkeypatch.chdir(tmp_path)
    assert open_dataset("reviews.csv").where(17) == "reviews.csv, row 17 (counted from 0)"
    assert open_dataset(Path("reviews.csv")).name == "reviews.csv"
    assert open_dataset(["a"]).where(0) == "the list, row 0 (counted from 0)"


def test_a_table_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [], "b": []})
    empty: list[tuple[Any, tuple[str, ...]]] = [
        (saved(tmp_path, "t.csv", "a,b"), ("a", "b")),
        (saved(tmp_path, "t.tsv", "a\tb\r\n"), ("a", "b")),
        (saved(tmp_path, "t.jsonl", ""), ()),
        (parquet_file(tmp_path, pa.table(frame)), ("a", "b")),
        (frame, ("a", "b")),
        (pd.DataFrame(), ()),
        (pd.Series([], dtype=str), ("text",)),
        ([], ("text",)),
    ]
    for data, columns in empty:
        table = open_dataset(data)
        assert (table.columns, list(table.slices(2))) == (columns, [])


# --- CSV and TSV -----------------------------------------------------------------------------------


def written(rows: list[list[str]], delimiter: str, line_end: str) -> bytes:
    """Write a CSV with every cell quoted: csv.writer leaves a lone carriage return bare otherwise."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue().encode()


some_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(AWKWARD)


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    """Make a header and up to eight rows."""
    header = draw(st.lists(some_text.filter(bool), min_size=1, max_size=4, unique=True))
    width = len(header)
    return [header, *draw(st.lists(st.lists(some_text, min_size=width, max_size=width), max_size=8))]


@given(
    tables(),
    st.sampled_from([(".csv", ","), (".TSV", "\t")]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back_cell_for_cell(
    tmp_path: Path, rows: list[list[str]], kind: tuple[str, str], line_end: str, mark: bytes
) -> None:
    ending, delimiter = kind
    table = open_dataset(saved(tmp_path, "t" + ending, mark + written(rows, delimiter, line_end)))
    assert table.columns == tuple(rows[0])
    for size in range(1, len(rows) + 1):
        assert rows_of(table, size) == [tuple(row) for row in rows[1:]]


def test_unquoted_text_stays_as_it_stands(tmp_path: Path) -> None:
    path = saved(tmp_path, "t.csv", 'a,b\nNA,None\n007, x \n1.10,a "quoted" word\n"",😀\n,')
    expected = [("NA", "None"), ("007", " x "), ("1.10", 'a "quoted" word'), ("", "😀"), ("", "")]
    assert rows_of(open_dataset(path)) == expected


def test_a_cell_may_be_a_whole_document(tmp_path: Path) -> None:
    document = "words, \n" * 200_000
    path = saved(tmp_path, "t.csv", written([["a"], [document]], ",", "\n"))
    assert rows_of(open_dataset(path)) == [(document,)]


def test_a_higher_limit_of_other_code_is_left_alone(tmp_path: Path) -> None:
    before = csv.field_size_limit(2**30)
    try:
        rows_of(open_dataset(saved(tmp_path, "t.csv", "a\n1\n")))
        assert csv.field_size_limit() == 2**30
    finally:
        csv.field_size_limit(before)


def test_a_blank_line_is_no_row_as_in_pandas(tmp_path: Path) -> None:
    for content in ("\na,b\n1,2\n\n\r\n3,4\n\n", 'a\n\n""\nx\n\n'):
        path = saved(tmp_path, "t.csv", content)
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        assert rows_of(open_dataset(path)) == list(frame.itertuples(index=False, name=None))


def test_a_byte_order_mark_is_not_part_of_the_first_name(tmp_path: Path) -> None:
    assert open_dataset(saved(tmp_path, "t.csv", b"\xef\xbb\xbfa,b\n1,2")).columns == ("a", "b")
    assert open_dataset(saved(tmp_path, "t.jsonl", b'\xef\xbb\xbf{"a": 1}')).columns == ("a",)


@pytest.mark.parametrize(
    ("content", "place", "what"),
    [
        ("a,b\n1,2\n1,2,3\n", ", line 3: ", "the row has 3 fields, the header has 2"),
        ("a,b\n1,2\n\n1\n", ", line 4: ", "the row has 1 field, the header has 2"),
        ('a,b\n"x\ny",2\n"p\nq\nr"\n1,2\n', ", line 4: ", "the row has 1 field, the header has 2"),
        ('a,b\n1,2\n"3,4\n5,6\n', ", line 3: ", "a quote that opens in this row is never closed"),
        ('a,b\n1,2\n3,"4\n5" x\n', ", line 3: ", "there is text after a closing quote"),
        (b'a,b\n1,2\n3,"x\n\xc4\xe3\xba\xc3"\n', ", line 4: ", "byte 0xc4 is not UTF-8"),
        (b"", ": ", "the file is empty"),
        (b"\xef\xbb\xbf\n\n", ": ", "the file is empty"),
        ("a,b,a,b,c\n", ": ", "more than one column is named 'a', 'b'"),
        ('a,"",b\n', ": ", "column 2 of 3 has no name"),
    ],
)
def test_a_broken_csv_is_named_with_its_place(tmp_path: Path, content: str | bytes, place: str, what: str) -> None:
    message = fault_in(tmp_path, "t.csv", content)
    assert message.startswith(place)
    assert what in message


def test_a_quote_never_closed_does_not_swallow_the_memory(tmp_path: Path) -> None:
    path = saved(tmp_path, "t.csv", b'a\n1\n"' + (b"x" * 2**20 + b"\n") * 33)
    assert "line 3: a cell has more than 33,554,432 characters" in fault(path)


def test_a_broken_row_behind_the_limit_is_not_looked_at(tmp_path: Path) -> None:
    table = open_dataset(saved(tmp_path, "t.csv", "a\n1\n2\n3,4\n"))
    assert [part.rows for part in table.slices(10, 2)] == [[("1",), ("2",)]]


def test_a_header_that_changes_between_two_passes_is_noticed(tmp_path: Path) -> None:
    table = open_dataset(saved(tmp_path, "t.csv", "a,b\n1,2\n"))
    saved(tmp_path, "t.csv", "b,a\n1,2\n")
    with pytest.raises(InputError, match="the header has changed"):
        list(table.slices(1))


# --- JSONL -----------------------------------------------------------------------------------------


def test_jsonl_columns_are_all_keys_in_order_of_first_appearance(tmp_path: Path) -> None:
    path = saved(tmp_path, "t.jsonl", '{"b": 1}\n\n{"a": null, "b": 2}\r\n  \n{"c": 3}')
    table = open_dataset(path)
    assert table.columns == ("b", "a", "c")
    assert rows_of(table) == [(1, None, None), (2, None, None), (None, None, 3)]


def test_jsonl_values_keep_their_type(tmp_path: Path) -> None:
    values = ["007", 1, 1.5, True, None, [1, "x"], {"k": [None]}, 10**400, "\ud800", "a\u2028b\r\n", "数"]
    path = saved(tmp_path, "t.jsonl", "".join(json.dumps({"v": value}) + "\n" for value in values))
    back = [value for (value,) in rows_of(open_dataset(path))]
    assert back == values
    assert [type(value) for value in back] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("line", "place", "what"),
    [
        ('{"a": 1', ", line 3, column 8: ", "not JSON: Expecting ',' delimiter"),
        ("{'a': 1}", ", line 3, column 2: ", "not JSON"),
        ('{"a": 1} {"a": 2}', ", line 3, column 10: ", "not JSON: Extra data"),
        ("[1, 2]", ", line 3: ", "this one is a list"),
        ('"text"', ", line 3: ", "this one is a string"),
        ("null", ", line 3: ", "this one is null"),
        ("false", ", line 3: ", "this one is true or false"),
        ("0", ", line 3: ", "this one is a number"),
        ('{"a": ' + "9" * 5000 + "}", ", line 3: ", "the JSON cannot be read: Exceeds the limit"),
        ('{"a": ' + "[" * 980 + "]" * 980 + "}", ", line 3: ", "the JSON cannot be read: it is nested deeper than 200"),
        ('{"a": 1, "a": 1}', ", line 3: ", "an object has more than one key 'a': rename all but one"),
        ('{"a": {"b": 1, "b": 2, "c": 1, "c": 3}}', ", line 3: ", "an object has more than one key 'b', 'c'"),
        ('{"": 1}', ": ", "column 2 of 2 has no name"),
    ],
)
def test_a_broken_jsonl_is_named_with_its_place(tmp_path: Path, line: str, place: str, what: str) -> None:
    message = fault_in(tmp_path, "t.jsonl", '{"a": 0}\n\n' + line + '\n{"a": 9}\n')
    assert message.startswith(place)
    assert what in message


def test_jsonl_nested_deeper_than_python_goes_is_named_with_its_place(tmp_path: Path) -> None:
    assert ", line 1: the JSON cannot be read" in fault_in(tmp_path, "t.jsonl", '{"a": ' + "[" * 200_000)


# --- Parquet ---------------------------------------------------------------------------------------


def test_parquet_values_are_python_values_of_their_type(tmp_path: Path) -> None:
    noon = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)
    columns: dict[str, tuple[pa.DataType, list[object]]] = {
        "text": (pa.string(), ["NA", None, "数"]),
        "int": (pa.int64(), [1, None, 2**62]),
        "flag": (pa.bool_(), [True, None, False]),
        "list": (pa.list_(pa.int32()), [[1, 2], None, []]),
        "struct": (pa.struct([("k", pa.string())]), [{"k": "v"}, None, {"k": None}]),
        "time": (pa.timestamp("ms", "UTC"), [noon, None, noon]),
        "money": (pa.decimal128(9, 2), [Decimal("1.10"), None, Decimal("2.00")]),
        "bytes": (pa.binary(), [b"\xff", None, b""]),
        "kind": (pa.dictionary(pa.int8(), pa.string()), ["x", None, "x"]),
    }
    path = parquet_file(tmp_path, pa.table({name: pa.array(v, t) for name, (t, v) in columns.items()}))
    table = open_dataset(path)
    assert table.columns == tuple(columns)
    assert rows_of(table, 2) == list(zip(*(values for _, values in columns.values()), strict=True))


def test_slices_of_parquet_cross_its_batches_and_row_groups(tmp_path: Path) -> None:
    path = parquet_file(tmp_path, pa.table({"n": list(range(2000))}), row_group_size=700)
    parts = list(open_dataset(path).slices(300))
    assert [len(part.rows) for part in parts] == [300] * 6 + [200]
    assert [value for part in parts for (value,) in part.rows] == list(range(2000))


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    assert fault_in(tmp_path, "t.parquet", "a,b\n1,2\n").startswith(": cannot be read as Parquet: ")
    assert fault_in(tmp_path, "t.parquet", b"").startswith(": cannot be read as Parquet: ")


def test_parquet_broken_inside_is_named_with_its_place(tmp_path: Path) -> None:
    path = parquet_file(tmp_path, pa.table({"t": [f"{n:09}" for n in range(1000)]}), use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[50:2000] = b"\xff" * 1950
    assert ", row 0 (counted from 0) or one of the next: cannot be read: " in fault_in(
        tmp_path, "t.parquet", bytes(content)
    )


def test_a_parquet_value_that_python_cannot_hold_is_named_with_its_place(tmp_path: Path) -> None:
    times = pa.array([0] * 300 + [2**60], pa.timestamp("us"))
    message = fault(parquet_file(tmp_path, pa.table({"t": times})))
    assert "table.parquet, row 256 (counted from 0) or one of the next: cannot be read: " in message


def test_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert "more than one column is named 'a'" in fault(parquet_file(tmp_path, table))


# --- DataFrame, Series, list -----------------------------------------------------------------------


def test_a_dataframe_is_read_without_its_index_and_left_unchanged() -> None:
    frame = pd.DataFrame({"text": ["x", "y", "z"], 7: [1, 2, 3]}, index=["r", "r", "s"])
    before = frame.copy(deep=True)
    table = open_dataset(frame)
    assert (table.name, table.columns) == ("the DataFrame", ("text", "7"))
    assert rows_of(table, 2) == [("x", 1), ("y", 2), ("z", 3)]
    pd.testing.assert_frame_equal(frame, before)


def test_a_long_dataframe_comes_in_order() -> None:
    rows = rows_of(open_dataset(pd.DataFrame({"n": range(10_000)})), 999)
    assert rows == [(number,) for number in range(10_000)]


def test_dataframe_columns_must_have_one_text_name_each() -> None:
    assert fault(pd.DataFrame([[1, 2]], columns=[1, "1"])).startswith(
        "the DataFrame: more than one column is named '1'"
    )
    assert "the columns are a MultiIndex" in fault(pd.DataFrame({("a", "b"): [1]}))
    assert "has 2 rows but no column" in fault(pd.DataFrame(index=[0, 1]))


@pytest.mark.parametrize(
    ("name", "column"), [(None, "text"), ("review", "review"), (0, "0"), (("a", "b"), "('a', 'b')")]
)
def test_a_series_is_one_column_of_its_name(name: object, column: str) -> None:
    series: pd.Series[Any] = pd.Series(["x", None], name=name, index=[5, 5], dtype=object)
    table = open_dataset(series)
    assert (table.name, table.columns) == ("the Series", (column,))
    assert [(cell(value),) for (value,) in rows_of(table)] == [("x",), ("",)]


def test_a_list_holds_strings_only() -> None:
    assert fault(["a", "b", 3]) == (
        "the list, row 2 (counted from 0): must be a string, not of type int: list(map(str, data)) makes texts of all"
    )


def test_a_list_changed_later_is_read_as_it_was() -> None:
    texts = ["a"]
    table = open_dataset(texts)
    texts.append("b")
    assert rows_of(table) == [("a",)]


@pytest.mark.parametrize("data", [None, 5, {}.keys(), dict, open])
def test_anything_else_is_refused_with_what_is_accepted(data: object) -> None:
    message = fault(data)
    assert type(data).__qualname__ in message
    assert "give the path of a file (.csv, .tsv, .txt, .jsonl" in message


# --- paths -----------------------------------------------------------------------------------------


def test_a_path_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name, what in [
        ("none.csv", "there is no such file"),
        ("folder.csv", "holds no file to read"),
        ("a\0b.csv", "cannot be opened"),
        ("x" * 300 + ".csv", "cannot be opened"),
    ]:
        shown = str(tmp_path / name).replace("\0", "\\x00")
        assert fault(tmp_path / name).startswith(f"{shown}: {what}")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is unreadable to root")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, "t.csv", "a\n1\n")
    path.chmod(0)
    assert fault(path).startswith(f"{path}: cannot be opened: ")


def test_an_unknown_ending_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    assert fault_in(tmp_path, "t.dat", "") == (
        ": the ending .dat is not known: batcher reads .csv, .tsv, .txt, .jsonl, .json, .parquet and .xlsx; the texts"
        " also as .gz, .bz2 and .zst"
    )


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"a\n1\n", mtime=0), " is a gzip file: name it t."),
        (b"PK\x03\x04\x14\x00", ": is an Excel workbook or another ZIP file: let its name end in .xlsx"),
        (b"PAR1\x15\x04", ": is a Parquet file: save it to a file whose name ends in .parquet"),
    ],
)
def test_a_file_of_another_format_is_known_by_its_first_bytes(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    assert fault_in(tmp_path, name, content).startswith(said)


def test_a_file_without_an_ending_is_refused(tmp_path: Path) -> None:
    assert "the file name has no ending" in fault_in(tmp_path, "table", "")


def test_a_file_that_vanishes_between_two_passes_is_named(tmp_path: Path) -> None:
    for path in (saved(tmp_path, "t.csv", "a\n1\n"), parquet_file(tmp_path, pa.table({"a": [1]}))):
        table = open_dataset(path)
        path.unlink()
        with pytest.raises(InputError, match=path.name):
            list(table.slices(1))


# --- real tables, memory, import -------------------------------------------------------------------


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared tables are not part of the project")
@pytest.mark.parametrize(
    ("name", "columns", "rows"),
    [("banking77_test.csv", ("text", "category"), 3080), ("gsm8k_test.jsonl", ("question", "answer"), 1319)],
)
def test_a_real_table_is_read_whole(name: str, columns: tuple[str, ...], rows: int) -> None:
    table = open_dataset(SHARED / name)
    assert table.columns == columns
    read = rows_of(table, 500)
    assert len(read) == rows
    if name.endswith(".csv"):
        frame = pd.read_csv(SHARED / name, dtype=str, keep_default_na=False)
    else:
        frame = pd.read_json(SHARED / name, lines=True, dtype=False)
    assert read == list(frame.itertuples(index=False, name=None))


def peak_of_reading(path: Path) -> int:
    tracemalloc.start()
    try:
        for _ in open_dataset(path).slices(100):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, ending: str) -> None:
    peaks = []
    for count in (2_000, 40_000):
        frame = pd.DataFrame({"id": range(count), "text": "x" * 200})
        path = tmp_path / f"{count}.{ending}"
        match ending:
            case "csv":
                frame.to_csv(path, index=False)
            case "jsonl":
                frame.to_json(path, orient="records", lines=True)
            case _:
                frame.to_parquet(path)
        rows_of(open_dataset(path))  # what is loaded once, such as modules, is loaded now
        peaks.append(peak_of_reading(path))
    assert peaks[1] < 1.2 * peaks[0] + 20_000


@pytest.mark.parametrize("data", ["'t.csv'", "'t.jsonl'", "['a']"])
def test_reading_text_loads_neither_pandas_nor_pyarrow(tmp_path: Path, data: str) -> None:
    saved(tmp_path, "t.csv", "a\n1\n")
    saved(tmp_path, "t.jsonl", '{"a": 1}\n')
    program = (
        "import sys; from batcher.input.opening import open_dataset; from batcher.input.cell import cell\n"
        f"[cell(value) for part in open_dataset({data}).slices(1) for row in part.rows for value in row]\n"
        "print([name for name in ('pandas', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"

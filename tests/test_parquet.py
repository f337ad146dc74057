"""`--format parquet`: the files have types, and all else is as with CSV."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import Lab
from fake_service import Call, Service
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import batcher
from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.errors import OutputError, SettingsError
from batcher.input.cell import cell, writable
from batcher.input.opening import open_dataset
from batcher.input.types import Types, texts_of
from batcher.records import Completion, Usage

SCHEMA = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "score": {"type": "integer"},
        "share": {"type": ["number", "null"]},
        "is_good": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["reason", "score", "is_good"],
}
OPTIONS: dict[str, Any] = {"chunk_size": 3, "endpoints": [Endpoint("m", max_concurrency=2)], "format": "parquet"}
TEXTS = [f"item {number}" for number in range(7)]
PROMPT = "ask {text}"


def answer(call: Call) -> Completion:
    number = int(call.prompt.split()[-1])
    fields = {
        "reason": f"so, {number}",
        "score": number,
        "share": number / 2,
        "is_good": number % 2 == 0,
        "tags": ["a"],
    }
    if number == 3:
        del fields["share"], fields["tags"]
    return Completion(json.dumps(fields), "stop", Usage(10, 2), model="m-1")


def service() -> Service:
    return Service([f"ask {text}" for text in TEXTS], instead=answer)


def table_of() -> pa.Table:
    day = dt.datetime(2024, 1, 1, 12, 30, tzinfo=dt.UTC)
    return pa.table(
        {
            "text": TEXTS,
            "small": pa.array([1, None, 3, 4, 5, 6, 2**31 - 1], pa.int32()),
            "float": pa.array([0.1, None, float("nan"), 1e300, -0.0, 2.0, 3.5]),
            "short": pa.array([0.1, 0.2, None, 4.0, 5.0, 6.0, 7.0], pa.float32()),
            "flag": [True, False, None, True, True, True, True],
            "at": pa.array(
                [day, None, *[day + dt.timedelta(days=each) for each in range(5)]], pa.timestamp("us", "UTC")
            ),
            "day": pa.array([day.date()] * 7),
            "price": pa.array([decimal.Decimal("1.10")] * 7),
            "words": [["a", None], [], None, ["x"], ["y"], ["z"], ["w"]],
            "pair": [{"a": 1, "b": "x"}, None, {"a": None, "b": ""}, *[{"a": 1, "b": "y"}] * 4],
            "kind": pa.array(["u", "v", None, "u", "u", "u", "u"]).dictionary_encode(),
            "raw": pa.array([b"a", b"\xff", None, b"", b"b", b"c", b"d"]),
            "note": ["", None, "NA", "a,b", "two\nlines", "x", "y"],
        }
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.parquet"
    parquet.write_table(table_of(), path)
    return path


def run(lab: Lab, data: Any, asked: Service | None = None, **options: Any) -> batcher.Report:
    return lab.run(data, asked or Service([]), PROMPT, **OPTIONS | {"schema": SCHEMA} | options)


def path_of(lab: Lab, part: int | str = "all") -> Path:
    return lab.directory / f"{part}_k.parquet"


def result(lab: Lab, part: int | str = "all") -> pa.Table:
    return parquet.read_table(path_of(lab, part))


def files(lab: Lab) -> dict[str, bytes]:
    names = [each for each in lab.directory.iterdir() if "journal" not in each.name]
    return {each.name: each.read_bytes() for each in sorted(names)}


def hashes(lab: Lab) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files(lab).items()}


def is_verified(lab: Lab, data: Any = None) -> bool:
    found = batcher.verify("k", data, output_dir=lab.directory)
    assert found.findings == ()
    return found.ok


@pytest.fixture
def done(lab: Lab, table: Path) -> Lab:
    run(lab, table, service())
    return lab


# -- Types


def test_columns_keep_the_types_of_a_parquet_file_and_fields_have_those_of_the_schema(done: Lab, table: Path) -> None:
    assert set(files(done)) == {"0_k.parquet", "3_k.parquet", "6_k.parquet", "all_k.parquet"}
    given, made = parquet.read_table(table), result(done)
    for name in given.schema.names:
        column = given[name].cast(pa.string()) if name == "kind" else given[name]
        assert made.schema.field(name).type == column.type
        assert str(made[name].to_pylist()) == str(column.to_pylist())
    types = {field.name: str(field.type) for field in made.schema if field.name.startswith("infer")}
    assert types == {
        "infer": "string",
        "infer_reason": "string",
        "infer_score": "int64",
        "infer_share": "double",
        "infer_is_good": "bool",
        "infer_tags": "string",
        "infer_status": "string",
        "infer_error": "string",
    }
    assert made["infer_score"].to_pylist() == [*range(7)]
    assert made["infer_share"].to_pylist() == [0.0, 0.5, 1.0, None, 2.0, 2.5, 3.0]
    assert made["infer_is_good"].to_pylist() == [True, False] * 3 + [True]
    assert made["infer_tags"].to_pylist()[2:4] == ['["a"]', None]
    assert pa.concat_tables([result(done, start) for start in (0, 3, 6)]).equals(made) or made["float"].null_count == 1
    assert is_verified(done, table)
    assert is_verified(done)


def test_pandas_and_polars_read_the_same(done: Lab) -> None:
    frame, other = pd.read_parquet(path_of(done)), pl.read_parquet(path_of(done))
    assert [*frame.columns] == other.columns
    assert [*frame["infer_score"]] == other["infer_score"].to_list() == [*range(7)]
    assert frame["infer_share"].dtype == float
    assert (other["at"].dtype, other["words"].dtype) == (pl.Datetime("us", "UTC"), pl.List(pl.String))
    assert other["pair"].to_list()[0] == {"a": 1, "b": "x"}


FRAME = pd.DataFrame(
    {
        "text": TEXTS,
        "whole": range(7),
        "part": [0.5, None, *[1.0] * 5],
        "maybe": pd.array([1, None, 3, 4, 5, 6, 7], "Int64"),
        "mixed": [1, "a", None, 2.5, (1, 2), {1}, b"x"],
        "day": pd.date_range("2024-01-01", periods=7, tz="Asia/Shanghai"),
        "kind": pd.Categorical(["a", "b", None, "a", "a", "a", "a"]),
        "span": pd.to_timedelta(range(7), unit="s"),
        "same": [{"a": 1}] * 7,
        "other": [{"a": 1}, {"b": 2}, *[None] * 5],
        "list": [[1, 2], [], None, [3], [4], [5], [6]],
        "half": pd.Series(["\ud800", "nul\0", *"abcde"], dtype=object),
    }
).set_axis(list("tuvwxyz"))


def test_a_dataframe_keeps_the_types_that_give_its_values_back(lab: Lab) -> None:
    report = run(lab, FRAME, service())
    types = {field.name: str(field.type) for field in result(lab).schema}
    expected = {"whole": "int64", "part": "double", "maybe": "int64", "mixed": "string", "kind": "string"}
    expected |= {"span": "string", "other": "string", "half": "string"}
    assert {name: types[name] for name in expected} == expected
    assert types["day"].endswith("tz=Asia/Shanghai]")
    assert types["same"].startswith("struct<a: int64>")
    assert types["list"].startswith("list<")
    assert result(lab)["part"].null_count == result(lab)["maybe"].null_count == 1
    assert is_verified(lab, FRAME)
    assert is_verified(lab)
    frame = report.frame()
    assert frame[[*FRAME.columns]].equals(FRAME)
    assert [*frame["infer_score"]] == [*range(7)]
    assert [*report.answers] == [answer(Call(text, "m", 1, 0.0)).text for text in TEXTS]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "polars"])
def test_the_columns_of_a_text_file_are_text(lab: Lab, tmp_path: Path, kind: str) -> None:
    data: Any = tmp_path / f"t.{kind}"
    rows = pl.DataFrame({"text": TEXTS, "n": [1, None, *range(5)]})
    if kind == "csv":
        rows.write_csv(data)
    elif kind == "jsonl":
        rows.write_ndjson(data)
    else:
        data = rows
    run(lab, data, service())
    column = result(lab)["n"]
    if kind == "polars":
        assert column.to_pylist() == [1, None, *range(5)]
    else:
        assert column.to_pylist() == ["1", "" if kind == "csv" else None, *"01234"]
    assert is_verified(lab, data)
    assert is_verified(lab)


def test_files_of_one_table_share_their_types(lab: Lab, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number, kind in enumerate((pa.int64(), pa.int32())):
        folder = data / f"year={number}"
        folder.mkdir(parents=True)
        rows = {"text": TEXTS[number * 3 : number * 3 + 3], "n": pa.array([1, 2, 3], kind), "m": pa.array([1, 2, 3])}
        parquet.write_table(pa.table(rows), folder / "x.parquet")
    run(lab, data, service())
    schema = result(lab).schema
    assert [str(schema.field(name).type) for name in ("n", "m", "year")] == ["string", "int64", "string"]
    assert is_verified(lab, data)


def test_the_files_may_not_become_a_part_of_the_input(lab: Lab, tmp_path: Path) -> None:
    lab.directory.mkdir()
    parquet.write_table(pa.table({"text": TEXTS}), lab.directory / "x.parquet")
    with pytest.raises(SettingsError, match="would become a part of the input"):
        run(lab, lab.directory / "*.parquet")


def test_numbers_that_a_column_cannot_hold_are_missing_and_stay_in_the_answer(lab: Lab) -> None:
    def large(call: Call) -> Completion:
        return Completion(f'{{"reason": "", "score": 1{"0" * 30}, "is_good": true, "share": 1{"0" * 400}}}')

    run(lab, TEXTS[:1], Service(["ask item 0"], instead=large))
    made = result(lab)
    assert made["infer_score"].to_pylist() == made["infer_share"].to_pylist() == [None]
    assert "0" * 30 in made["infer"][0].as_py()
    assert is_verified(lab)


# -- Kills and resumes


@pytest.mark.parametrize("moments", [[1.5], [2.5], [1.5, 1.5], [3.5]])
def test_a_resumed_run_writes_the_same_bytes(lab: Lab, tmp_path: Path, table: Path, moments: list[float]) -> None:
    whole = Lab(tmp_path / "whole")
    run(whole, table, service())
    for moment in moments:
        with contextlib.suppress(KeyboardInterrupt):
            lab.run(table, service(), PROMPT, at={moment: lab.request_stop}, schema=SCHEMA, **OPTIONS)
    run(lab, table, service())
    assert hashes(lab) == hashes(whole)
    path_of(lab, 3).unlink()
    path_of(lab).unlink()
    run(lab, table)
    assert hashes(lab) == hashes(whole)


def test_the_result_does_not_depend_on_the_size_of_the_chunks(lab: Lab, table: Path, tmp_path: Path) -> None:
    run(lab, table, service())
    before = hashes(lab)["all_k.parquet"]
    run(lab, table, chunk_size=2)
    assert set(files(lab)) == {"0_k.parquet", "2_k.parquet", "4_k.parquet", "6_k.parquet", "all_k.parquet"}
    assert hashes(lab)["all_k.parquet"] == before
    assert is_verified(lab, table)


def test_a_large_result_has_row_groups_of_one_size(lab: Lab) -> None:
    texts = [f"item {number}" for number in range(20_000)]
    dataset = pl.DataFrame({"text": texts})
    lab.run(
        dataset,
        Service(texts, latency=lambda _call: 0.001),
        "{text}",
        chunk_size=3000,
        endpoints=[Endpoint("m", max_concurrency=1000)],
        format="parquet",
    )
    data = parquet.ParquetFile(path_of(lab)).metadata
    assert [data.row_group(number).num_rows for number in range(data.num_row_groups)] == [8192, 8192, 3616]
    assert result(lab)["text"].to_pylist() == texts


# -- Merge, partial results, reports


def test_merge_makes_the_same_result_and_facts_have_types(done: Lab, table: Path) -> None:
    before = hashes(done)
    path_of(done).unlink()
    assert batcher.merge("k", done.directory) == path_of(done)
    assert hashes(done) == before
    batcher.merge("k", done.directory, with_="tokens,model,latency")
    made = result(done)
    assert made.schema.names[-3:] == ["infer_tokens", "infer_latency", "infer_model"]
    assert made["infer_tokens"].to_pylist() == [12] * 7
    assert [str(kind) for kind in made.schema.types[-3:]] == ["int64", "double", "string"]
    assert is_verified(done, table)
    assert is_verified(done)
    run(done, table)
    assert hashes(done) == before


def test_with_puts_typed_facts_into_every_file(lab: Lab, table: Path) -> None:
    run(lab, table, service(), with_="tokens,cost", endpoints=[Endpoint("m", prices={"in": 1, "out": 1})])
    assert result(lab, 0)["infer_cost"].to_pylist() == [1.2e-05] * 3
    assert is_verified(lab, table)
    assert is_verified(lab)


def test_a_partial_result_has_the_types_too(lab: Lab, table: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(lab, table, service(), at={2.5: lab.request_stop})
    assert path_of(lab, 0).exists()
    path = batcher.merge("k", lab.directory, partial=True, with_="tokens")
    made = parquet.read_table(path)
    assert path == path_of(lab, "partial")
    assert str(made["float"].to_pylist()) == str(table_of()["float"].to_pylist())
    assert {*made["infer_status"].to_pylist()} == {"ok", ""}
    assert made["infer_tokens"].null_count == made["infer_status"].to_pylist().count("")
    table.rename(table.with_name("moved.parquet"))
    batcher.merge("k", lab.directory, partial=True)
    assert parquet.read_table(path).num_rows == 3


def test_a_report_reads_the_result_and_what_is_there_so_far(lab: Lab, table: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(lab, table, service(), at={2.5: lab.request_stop})
    report = run(lab, table, service())
    frame = report.frame()
    assert [*frame["infer_score"]] == [*range(7)]
    assert frame["flag"][0] is True
    assert [*report.answers] == result(lab)["infer"].to_pylist()


# -- Corrections by hand


def correct_with_pandas(path: Path) -> None:
    frame = pd.read_parquet(path)
    frame.loc[1, "infer_score"] = 99
    frame.to_parquet(path)


def correct_with_polars(path: Path) -> None:
    frame = pl.read_parquet(path)
    score = pl.when(pl.col("infer_score") == 4).then(99).otherwise(pl.col("infer_score"))
    frame.with_columns(score.alias("infer_score")).write_parquet(path)


def correct_with_pyarrow(path: Path) -> None:
    rows = parquet.read_table(path)
    place = rows.schema.get_field_index("infer_score")
    parquet.write_table(rows.set_column(place, rows.schema.field(place), pa.array([3, 99, 5])), path)


def correct_in_another_order(path: Path) -> None:
    frame = pl.read_parquet(path)
    frame = frame.with_columns(pl.col("infer_score").cast(pl.Float64)).select("infer_score", "text", "infer")
    score = pl.when(pl.col("infer_score") == 4).then(99.0).otherwise(pl.col("infer_score"))
    frame.with_columns(score.alias("infer_score")).write_parquet(path)


CORRECT = [correct_with_pandas, correct_with_polars, correct_with_pyarrow, correct_in_another_order]


@pytest.fixture
def simple(lab: Lab) -> tuple[Lab, pl.DataFrame]:
    data = pl.DataFrame({"text": TEXTS, "n": [1, None, 3, 4, 5, 6, 7], "f": [0.5] * 7})
    run(lab, data, service())
    return lab, data


@pytest.mark.parametrize("correct", CORRECT)
def test_corrections_in_a_chunk_file_are_taken_in(
    simple: tuple[Lab, pl.DataFrame], correct: Callable[[Path], None]
) -> None:
    lab, data = simple
    before = result(lab)
    correct(path_of(lab, 3))
    checked = batcher.verify("k", data, output_dir=lab.directory)
    if correct is not correct_in_another_order:
        assert [each.rows for each in checked.corrected] == [1]
        assert {each.kind for each in checked.findings} <= {"all-other"}
    report = run(lab, data)
    assert (report.requests_now, report.corrected) == (0, 1)
    made = result(lab)
    assert made["infer_score"].to_pylist() == [0, 1, 2, 3, 99, 5, 6]
    assert json.loads(made["infer"][4].as_py())["score"] == 99
    assert made.schema.equals(before.schema)
    assert made.drop_columns(["infer", "infer_score"]).equals(before.drop_columns(["infer", "infer_score"]))
    assert is_verified(lab, data)
    after = hashes(lab)
    run(lab, data)
    assert hashes(lab) == after


@pytest.mark.parametrize("correct", CORRECT[:3])
def test_merge_takes_corrections_in_without_the_input(
    simple: tuple[Lab, pl.DataFrame], correct: Callable[[Path], None]
) -> None:
    lab, data = simple
    before = result(lab)
    correct(path_of(lab, 3))
    batcher.merge("k", lab.directory)
    assert result(lab)["infer_score"].to_pylist() == [0, 1, 2, 3, 99, 5, 6]
    assert result(lab).schema.equals(before.schema)
    batcher.merge("k", lab.directory, partial=True)
    assert result(lab, "partial").equals(result(lab))
    assert run(lab, data).corrected == 1
    assert is_verified(lab, data)


def test_a_cell_of_the_input_that_was_changed_is_refused(simple: tuple[Lab, pl.DataFrame]) -> None:
    lab, data = simple
    frame = pl.read_parquet(path_of(lab, 3))
    frame.with_columns(n=pl.lit(8)).write_parquet(path_of(lab, 3))
    with pytest.raises(OutputError, match="column 'n': the file has '8', the input has '4'"):
        run(lab, data)
    found = batcher.verify("k", data, output_dir=lab.directory)
    assert {each.kind for each in found.findings} >= {"file-cells"}


def test_a_result_that_was_changed_is_kept(simple: tuple[Lab, pl.DataFrame]) -> None:
    lab, data = simple
    pl.read_parquet(path_of(lab)).with_columns(infer=pl.lit("mine")).write_parquet(path_of(lab))
    edited = path_of(lab).read_bytes()
    assert {each.kind for each in batcher.verify("k", data, output_dir=lab.directory).findings} == {"all-other"}
    run(lab, data)
    assert files(lab)["all_k.parquet.bak"] == edited
    assert is_verified(lab, data)


def test_a_damaged_file_is_named_and_written_again(simple: tuple[Lab, pl.DataFrame]) -> None:
    lab, data = simple
    before = hashes(lab)
    path_of(lab, 3).write_bytes(path_of(lab, 3).read_bytes()[:-100])
    path_of(lab).write_bytes(b"PAR1")
    kinds = {each.kind for each in batcher.verify("k", data, output_dir=lab.directory).findings}
    assert kinds == {"file-broken", "all-broken"}
    with pytest.raises(OutputError, match=r"3_k\.parquet cannot be read"):
        run(lab, data)
    path_of(lab, 3).unlink()
    run(lab, data)
    assert {name: each for name, each in hashes(lab).items() if "bak" not in name} == before


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_corrected_field_is_counted_with_and_without_the_input(lab: Lab, table: Path, form: str) -> None:
    run(lab, table, service(), format=form)
    if form == "parquet":
        correct_with_polars(path_of(lab, 3))
    else:
        lab.path(3).write_text(lab.path(3).read_text().replace(',"so, 4",4,', ',"so, 4",99,'))
    for data in (table, None):
        found = batcher.verify("k", data, output_dir=lab.directory)
        assert [each.rows for each in found.corrected] == [1]
        assert found.ok
    assert batcher.status("k", lab.directory).corrected == 1
    assert run(lab, table, format=form).corrected == 1
    assert is_verified(lab, table)
    assert is_verified(lab)


# -- Another format


@pytest.mark.parametrize("order", [("csv", "parquet"), ("parquet", "csv")])
def test_another_format_is_written_from_the_journal_and_replaces_the_first(
    lab: Lab, table: Path, tmp_path: Path, order: tuple[str, str]
) -> None:
    run(lab, table, service(), format=order[0])
    assert {Path(name).suffix for name in files(lab)} == {f".{order[0]}"}
    assert run(lab, table, format=order[1]).requests_now == 0
    other = Lab(tmp_path / "other")
    run(other, table, service(), format=order[1])
    assert hashes(lab) == hashes(other)
    assert is_verified(lab, table)
    assert is_verified(lab)


def test_corrections_in_files_of_the_first_format_come_along(lab: Lab, table: Path) -> None:
    run(lab, table, service(), format="csv", schema=None)
    chunk = lab.path(3)
    chunk.write_text(chunk.read_text().replace(json.dumps(answer(Call("4", "m", 1, 0.0)).text)[1:-1], "x"))
    lines = lab.path(6).read_text()
    lab.path(6).write_text(lines[: lines.rindex('"{')] + "mine,ok,\n")
    lab.path().write_text("mine")
    report = run(lab, table, schema=None)
    assert (report.requests_now, report.corrected) == (0, 1)
    assert result(lab)["infer"].to_pylist()[6] == "mine"
    assert {name for name in files(lab) if not name.endswith(".parquet")} == {"all_k.csv.bak"}
    assert is_verified(lab, table)


def test_a_run_stopped_after_the_format_changed_goes_on(lab: Lab, table: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(lab, table, service(), at={1.5: lab.request_stop}, format="csv")
    assert lab.path(0).exists()
    with pytest.raises(KeyboardInterrupt):
        run(lab, table, service(), at={0.5: lab.request_stop})
    run(lab, table, service())
    assert set(files(lab)) == {"0_k.parquet", "3_k.parquet", "6_k.parquet", "all_k.parquet"}
    assert is_verified(lab, table)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_files_without_their_journal_are_adopted_whatever_their_format(lab: Lab, table: Path, form: str) -> None:
    run(lab, table, service(), format=form)
    (lab.directory / "journal_k.sqlite").unlink()
    assert run(lab, table).requests_now == 0
    assert result(lab)["infer_score"].to_pylist() == [*range(7)]
    assert is_verified(lab, table)


def test_the_command_line_knows_the_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "t.csv"
    table.write_text("text\na\nb\n")
    arguments = [
        "run",
        str(table),
        "--prompt",
        "{text}",
        "--provider",
        "offline",
        "-o",
        str(tmp_path / "out"),
        "--quiet",
    ]
    assert main([*arguments, "--format", "parqet"]) == 2
    assert "--format must be one of csv, parquet, not 'parqet': did you mean parquet?" in capsys.readouterr().err
    assert main([*arguments, "--format", "parquet"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'all_t.parquet'}\n"


# -- What goes in comes out

SCALARS = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint8": st.integers(0, 255),
    "double": st.floats(),
    "float": st.floats(width=32),
    "bool": st.booleans(),
    "string": st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    "binary": st.binary(),
    "date32": st.dates(),
    "timestamp[us]": st.datetimes(),
    "time64[us]": st.times(),
}


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_what_goes_in_comes_out(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*SCALARS]))
    kind = {"date32": pa.date32()}.get(name) or pa.type_for_alias(name)
    form = data.draw(st.sampled_from(["plain", "list", "struct"]))
    values: st.SearchStrategy[Any] = st.none() | SCALARS[name]
    if form == "list":
        kind, values = pa.list_(kind), st.none() | st.lists(values, max_size=3)
    elif form == "struct":
        kind, values = pa.struct({"a": kind}), st.none() | st.fixed_dictionaries({"a": values})
    given_rows = pa.table({"c": pa.array(data.draw(st.lists(values, min_size=1, max_size=5)), kind)})
    dataset = open_dataset(given_rows)
    types = dataset.types()
    [(_, rows)] = dataset.slices(10)
    [array] = types.arrays(rows)
    assert str(array.to_pylist()) == str(given_rows["c"].to_pylist())
    buffer = pa.BufferOutputStream()
    parquet.write_table(pa.table([array], schema=types.schema), buffer)
    back = parquet.read_table(pa.BufferReader(buffer.getvalue()))["c"].combine_chunks()
    assert [*texts_of(back)] == [writable(cell(value)) for (value,) in rows]


def test_types_are_the_same_after_the_journal() -> None:
    for data in (FRAME, table_of()):
        types = open_dataset(data).types()
        again = Types.recorded_in({"types": types.recorded})
        assert again is not None
        assert (again.schema, again.recorded) == (types.schema, types.recorded)
    assert Types.recorded_in({}) is None


def test_a_process_that_was_killed_while_it_wrote_another_format_leaves_no_trace(lab: Lab, table: Path) -> None:
    """Every file of the new format is there, and the journal knows none of them."""
    run(lab, table, service(), format="csv")
    journal, csv_files = (lab.directory / "journal_k.sqlite").read_bytes(), lab.files()
    run(lab, table)
    before = hashes(lab)
    for is_left in (False, True):
        (lab.directory / "journal_k.sqlite").write_bytes(journal)
        for name, content in csv_files.items() if is_left else ():
            (lab.directory / name).write_bytes(content)
        report = run(lab, table)
        assert (report.requests_now, report.corrected) == (0, 0)
        kept = {name: each for name, each in hashes(lab).items() if ".bak" not in name}
        assert kept == before
        assert is_verified(lab, table)
    assert all(csv_files[name.removesuffix(".bak")] == each for name, each in files(lab).items() if ".bak" in name)

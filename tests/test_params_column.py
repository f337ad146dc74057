"""Columns that hold request parameters of their row, and a word about columns that look as if they did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Lab
from fake_service import Service

import batcher
from batcher.endpoint import Endpoint
from batcher.errors import ChangedError, InputError, SettingsError

TEXTS = ["a", "b", "c"]


def asked(lab: Lab, table: Any, columns: Any, **options: Any) -> list[tuple[str, dict[str, Any]]]:
    service = Service(TEXTS)
    lab.run(table, service, "{text}", params_column=columns, **options)
    return sorted((call.prompt, dict(call.params)) for call in service.calls)


def csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_column_with_the_name_of_a_parameter_gives_its_value_typed_as_json(lab: Lab, tmp_path: Path) -> None:
    path = csv(
        tmp_path / "t.csv",
        "text,temperature,max_tokens,stop,logit_bias",
        'a,0.2,50,END,"{""7"": -1}"',
        'b,1,,"[""x"", ""y""]",',
        "c,,7,5,",
    )
    assert asked(lab, path, ["temperature", "max_tokens", "stop", "logit_bias"]) == [
        ("a", {"temperature": 0.2, "max_tokens": 50, "stop": "END", "logit_bias": {"7": -1}}),
        ("b", {"temperature": 1, "stop": ["x", "y"]}),
        ("c", {"max_tokens": 7, "stop": 5}),
    ]
    assert batcher.verify("k", path, output_dir=lab.directory).ok


def test_another_column_holds_an_object_of_parameters(lab: Lab) -> None:
    table = [
        {"text": "a", "params": {"seed": 1, "extra_body": {"x": [1]}}},
        {"text": "b", "params": '{"top_p": 0.5}'},
        {"text": "c", "params": None},
    ]
    wanted = [("a", {"seed": 1, "x": [1]}), ("b", {"top_p": 0.5}), ("c", {})]
    assert asked(lab, table, "params") == wanted


def test_numbers_of_a_frame_are_the_same_question_as_their_text(lab: Lab, tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": TEXTS, "temperature": [0.2, 1.0, None], "max_tokens": [50, None, 7]})
    wanted = [("a", {"temperature": 0.2, "max_tokens": 50}), ("b", {"temperature": 1}), ("c", {"max_tokens": 7})]
    assert asked(lab, frame, "temperature, max_tokens") == wanted
    path = csv(tmp_path / "t.csv", "text,temperature,max_tokens", "a,0.2,50", "b,1,", "c,,7")
    assert asked(lab, path, "temperature,max_tokens") == []


def test_parameters_are_a_part_of_the_question_and_name_what_changed(lab: Lab) -> None:
    table = [{"text": text, "seed": number} for number, text in enumerate(TEXTS)]
    assert [params for _, params in asked(lab, table, "seed")] == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    table[1]["seed"] = 7
    with pytest.raises(ChangedError, match="column seed changed"):
        asked(lab, table, "seed")
    assert asked(lab, table, "seed", on_change="redo") == [("b", {"seed": 7})]


def test_a_model_column_is_routed_and_a_strange_model_is_named(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    table = [{"text": text, "model": model} for text, model in zip(TEXTS, ["y", "x", "z"], strict=True)]
    service = Service(TEXTS)
    lab.run(
        table,
        service,
        "{text}",
        params_column="model",
        endpoints=[Endpoint("x"), Endpoint("y")],
        quiet=False,
    )
    by_prompt = {call.prompt: call.endpoint for call in service.calls}
    assert (by_prompt["a"], by_prompt["b"]) == ("y", "x")
    assert "1 row names the model z, which no endpoint has: it is asked at any of x, y." in capsys.readouterr().err
    assert all("model" not in call.params for call in service.calls)


def test_models_of_rows_become_endpoints_if_no_option_names_one(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODEL", raising=False)
    csv(tmp_path / "t.csv", "text,model,p", "a,x,", "b,y,", 'c,x,"{""seed"": 1}"')
    found = batcher.plan("t.csv", "{text}", params_column=["model", "p"], base_url="http://127.0.0.1:1/v1")
    assert [each.model for each in found.asks] == ["x", "y"]


@pytest.mark.parametrize(
    ("columns", "line", "said"),
    [
        ("temperature", "hot", "row 1 (counted from 0): column 'temperature': temperature must be a number, not 'hot'"),
        ("max_tokens", "1.5", "max_tokens must be a whole number, not 1.5"),
        ("logprobs", "True", "the value is no JSON: write logprobs=true"),
        ("params", "hot", "each cell must hold an object of parameters"),
        ("params", "[1]", "a cell must hold an object of parameters, not [1]"),
        ("params", '{"temprature": 1}', "did you mean 'temperature'?"),
        ("params", '{"messages": []}', "'messages' is not a parameter that can be set here"),
        ("params", '{"timeout": 5}', "is an option of the SDK"),
        ("model", '"  "', "it must be the name of a model"),
    ],
)
def test_a_wrong_value_names_row_and_column_before_anything_is_sent(
    lab: Lab, columns: str, line: str, said: str
) -> None:
    table = [{"text": "a", columns: ""}, {"text": "b", columns: line if line != '"  "' else "x\ny"}]
    with pytest.raises(InputError) as caught:
        asked(lab, table, columns)
    assert said in str(caught.value)
    assert not lab.directory.exists() or not list(lab.directory.glob("*.csv"))


def test_a_parameter_given_by_two_columns_is_refused(lab: Lab) -> None:
    with pytest.raises(InputError, match="another column gives seed, too"):
        asked(lab, [{"text": "a", "seed": 1, "p": {"seed": 2}}], ["seed", "p"])


def test_a_missing_column_is_named(lab: Lab) -> None:
    with pytest.raises(InputError, match="temprature"):
        asked(lab, [{"text": "a", "temperature": 1}], "temprature")


@pytest.mark.parametrize(("column", "value"), [("response_format", {"type": "json_object"}), ("p", {"n": 3})])
def test_what_labels_set_themselves_is_refused(lab: Lab, column: str, value: object) -> None:
    table = [{"text": "a", column: value}]
    with pytest.raises(InputError, match=r"and labels exclude each other"):
        asked(lab, table, column, labels=["x", "y"])
    assert len(asked(lab, table, column)) == 1


def test_a_budget_counts_a_rows_own_max_tokens(lab: Lab) -> None:
    priced: dict[str, Any] = {"endpoints": [Endpoint("m", prices={"in": 1, "out": 1})], "budget": 1}
    table: list[dict[str, Any]] = [{"text": "a", "max_tokens": 5}, {"text": "b", "max_tokens": None}]
    with pytest.raises(InputError, match=r"row 1 .*nothing bounds how long its answer may be"):
        asked(lab, table, "max_tokens", **priced)
    table[1]["max_tokens"] = 5
    assert len(asked(lab, table, "max_tokens", **priced)) == 2


def test_a_prompt_without_a_hole_may_differ_by_parameters_alone(lab: Lab) -> None:
    service = Service(["Say hello"])
    table = [{"seed": 1}, {"seed": 2}]
    assert lab.run(table, service, "Say hello", params_column="seed").ok == 2


def test_columns_named_like_parameters_are_met_with_a_word(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    def said(table: list[dict[str, Any]], prompt: str = "{text}", **options: Any) -> str:
        lab.run(table, Service([*TEXTS, "d"]), prompt, quiet=False, on_change="redo", **options)
        return capsys.readouterr().err

    table = [{"text": "a", "model": "m", "temperature": 0, "seed": 1, "note": "x"}]
    assert (
        "the columns model, temperature and seed have the names of request parameters, and are not sent: params_column="
        '"model,temperature,seed" sends them' in said(table)
    )
    one = said([{"text": "b", "max_tokens": 5}])
    assert "the column max_tokens has the name of a request parameter, and is not sent: params_column=" in one
    assert "params_column" not in said([{"text": "c", "temperature": "c"}], "{temperature}")
    assert "params_column" not in said([{"text": "a", "seed": 3}], params_column="seed")
    requests = [{"custom_id": "1", "body": {"messages": []}, "text": "d"}]
    assert "looks like a requests file: requests=True asks each line as it stands" in said(requests)


def test_columns_may_be_named_one_by_one_on_the_command_line(tmp_path: Path, monkeypatch: Any) -> None:
    from batcher.cli import main  # noqa: PLC0415 - for this test alone

    monkeypatch.chdir(tmp_path)
    csv(tmp_path / "t.csv", "text,temperature,seed", "a,0.2,1")
    options = ["--prompt", "{text}", "--provider", "offline", "--params-column", "temperature", "--params-column=seed"]
    assert main(["plan", "t.csv", *options]) == 0
    (tmp_path / "batcher.toml").write_text(
        'input = "t.csv"\nprompt = "{text}"\nprovider = "offline"\nparams_column = ["temperature", "seed"]\n'
    )
    assert main(["plan", "--json"]) == 0


def test_an_option_without_a_column_is_refused() -> None:
    values: list[Any] = ["", "a,,b", [], 5]
    for value in values:
        with pytest.raises(SettingsError, match="params_column"):
            batcher.plan([{"text": "a"}], "{text}", params_column=value, keyword="k")


def test_json_objects_of_a_column_are_recorded_for_verify(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [{"text": text, "p": {"seed": number, "x": None}} for number, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked(lab, path, "p")
    assert batcher.verify("k", path, output_dir=lab.directory).ok
    rows[0]["p"] = {"seed": 9}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert not batcher.verify("k", path, output_dir=lab.directory).ok

"""A request parameter is what was meant, or is refused with what to write; equal numbers are one question."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from fake_service import Service
from faults import fault
from hypothesis import given
from hypothesis import strategies as st

import batcher
from batcher.calls.endpoints import endpoints_of
from batcher.cli import main
from batcher.endpoint import Endpoint
from batcher.equality import plain, same
from batcher.errors import ChangedError
from batcher.input.key import keyer
from batcher.params import PARAMS, param_of, unfolded
from batcher.settings import Settings

if TYPE_CHECKING:
    from conftest import Lab

TEXTS = ["a", "b", "c", "d"]


# -- What is meant for a client


@pytest.mark.parametrize(
    ("params", "flat"),
    [
        ({"extra_body": {"enable_thinking": False}}, {"enable_thinking": False}),
        ({"model_kwargs": {"top_k": 1}, "temperature": 0}, {"top_k": 1, "temperature": 0}),
        ({"model_kwargs": {"extra_body": {"a": 1}}}, {"a": 1}),
        ({"extra_body": {"timeout": 5}}, {"timeout": 5}),
        ({"extra_body": None, "n": 2}, {"n": 2}),
    ],
)
def test_what_a_client_unfolds_is_unfolded(params: dict[str, Any], flat: dict[str, Any], tmp_path: Path) -> None:
    assert Settings(param=params).params == flat
    assert Endpoint("m", params=params).params == flat
    if None not in params.values():
        table = "{" + ", ".join(f"{name} = {_toml(value)}" for name, value in params.items()) + "}"
        (tmp_path / "e.toml").write_text(f'[[endpoint]]\nmodel = "m"\nparams = {table}\nbase_url = "http://h/v1"\n')
        [endpoint] = endpoints_of(Settings(endpoints=tmp_path / "e.toml"), {})
        assert endpoint.params == flat


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + "}"
    return json.dumps(value)


def test_a_chat_model_takes_extra_body_itself() -> None:
    settings = Settings(param={"extra_body": {"a": 1}, "timeout": 5}, endpoints=[Endpoint(llm=object())])
    assert settings.params == {"extra_body": {"a": 1}, "timeout": 5}


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"extra_body": {"a": 1}, "a": 1}, "'a' is given twice, once in extra_body"),
        ({"extra_body": {"a": 1}, "model_kwargs": {"a": 2}}, "'a' is given twice, once in model_kwargs"),
        ({"extra_body": "enable_thinking"}, "extra_body must hold parameters by name"),
        ({"extra_body": {"model": "x"}}, "'model' is not a parameter that can be set here: use model"),
        ({"timeout": 5}, "use timeout (to send it all the same: "),
        ({"request_timeout": 5}, "use timeout"),
        ({"max_retries": 0}, "use max_attempts"),
        ({"extra_headers": {"X-A": "b"}}, "use header"),
        ({"base_url": "http://h"}, "use base_url"),
        ({"extra_query": {"a": "b"}}, "a request has no query"),
        ({"streaming": True}, "the parameter is `stream`"),
    ],
)
def test_what_is_for_a_client_alone_is_refused_by_name(params: dict[str, Any], said: str) -> None:
    assert said in fault(lambda: Settings(param=params))
    assert said in fault(lambda: Endpoint("m", params=params))


def test_parameters_of_a_request_stay_what_they_are() -> None:
    params = {"stream": True, "stream_options": {"include_usage": True}, "n": 2, "metadata": {"a": "b"}, "user": "u"}
    assert unfolded(params) == Settings(param=params).params == params


# -- Slips


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("temprature", "temperature"),
        ("Temperature", "temperature"),
        ("tempreature", "temperature"),
        ("temperature ", "temperature"),
        (" temperature", "temperature"),
        ("max_token", "max_tokens"),
        ("max-tokens", "max_tokens"),
        ("max tokens", "max_tokens"),
        ("maxTokens", "max_tokens"),
        ("topp", "top_p"),
        ("N", "n"),
        ("enable_thinkng", "enable_thinking"),
        ("chat_template_kwarg", "chat_template_kwargs"),
        ("repetiton_penalty", "repetition_penalty"),
        ("timout", "timeout"),
        ("extrabody", "extra_body"),
        ("massages", "messages"),
    ],
)
def test_a_slip_in_a_name_is_refused_with_what_was_meant_and_how_to_send_it_all_the_same(name: str, meant: str) -> None:
    said = fault(lambda: Settings(param={name: 1}))
    assert said.startswith(
        f"param: there is no parameter {name!r}; did you mean {meant!r}? If the service really takes"
    )
    assert said.endswith(f'"extra_body": {{"{name}": ...}}')
    assert fault(lambda: Endpoint("m", params={name: 1})).startswith(f"params: there is no parameter {name!r}")
    anyway = {"extra_body": {name: 1}}
    assert Settings(param=anyway).params == {name: 1}
    made = Endpoint("m", params=anyway)
    assert replace(made, api_key="k").params == replace(made, rpm=5).params == {name: 1}, "once checked, it stays"


@pytest.mark.parametrize(
    "name",
    [
        "x",
        "top_a",
        "mode",
        "num_ctx",
        "keep_alive",
        "do_sample",
        "min_tokens",
        "presence",
        "format",
        "random_seed",
        "评分",
    ],
)
def test_a_name_that_is_like_no_known_one_is_sent(name: str) -> None:
    assert Settings(param={name: 1 if name != "do_sample" else True}).params


def test_no_known_name_is_a_slip_for_another() -> None:
    for name in PARAMS:
        assert Settings(param={name: None}).params == {name: None}


@pytest.mark.parametrize("name", ["my parameter", "my\tparameter", " parameter", "param\u200beter"])
def test_a_name_with_a_space_is_refused(name: str) -> None:
    assert "no parameter has one in its name" in fault(lambda: Settings(param={name: 1}))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"temperature": "hot"}, "temperature must be a number, not 'hot'"),
        ({"temperature": ""}, "temperature must be a number, not ''"),
        ({"temperature": True}, "temperature must be a number, not True"),
        ({"top_p": [1]}, "top_p must be a number, not [1]"),
        ({"max_tokens": "200"}, "max_tokens must be a whole number, not '200'"),
        ({"max_tokens": 1.5}, "max_tokens must be a whole number, not 1.5"),
        ({"stream": 1}, "stream must be true or false, not 1"),
        ({"enable_thinking": "off"}, "enable_thinking must be true or false, not 'off'"),
        ({"response_format": "json_object"}, "response_format must be an object, with names and values, not 'json"),
        ({"tools": {}}, "tools must be a list, not {}"),
        ({"seed": "sk-" + "a1" * 20}, "seed must be a whole number, not what looks like an API key"),
    ],
)
def test_a_value_of_another_type_than_the_protocol_has_is_refused(params: dict[str, Any], said: str) -> None:
    assert fault(lambda: Settings(param=params)).startswith(f"param: {said}")
    assert fault(lambda: Endpoint("m", params=params)).startswith(f"params: {said}")
    assert Settings(param={"extra_body": params}).params == params


def test_a_value_within_the_protocol_is_sent_as_it_is() -> None:
    params = {"temperature": 9, "top_p": None, "max_tokens": 5.0, "stop": ["a"], "logprobs": 5, "user": 1}
    assert Settings(param=params).params == params


# -- Values of NumPy and pandas


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (np.float32(0.1), "0.1"),
        (np.float16(0.1), "0.1"),
        (np.float64(0.5), "0.5"),
        (np.int64(3), "3"),
        (np.bool_(True), "true"),
        (np.str_("a"), '"a"'),
        (np.array(0.5), "0.5"),
        (np.array(["a", "b"]), '["a", "b"]'),
        ({"a": [np.float32(0.1), {"b": np.int8(1)}]}, '{"a": [0.1, {"b": 1}]}'),
        ({np.int64(50256): -100}, '{"50256": -100}'),
        (MappingProxyType({"a": (1,)}), '{"a": [1]}'),
        (pd.Series([1.5]).iloc[0], "1.5"),
    ],
)
def test_values_of_numpy_are_sent_as_the_numbers_that_they_are(value: Any, sent: str) -> None:
    assert json.dumps(Settings(param={"x": value}).params["x"]) == sent
    assert json.dumps(Endpoint("m", params={"x": value}).params["x"]) == sent
    assert json.dumps(Settings(param={"x": value}, endpoints=[Endpoint(llm=object())]).params["x"]) == sent


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (pd.NA, "x is <NA>"),
        (pd.NaT, "x is NaT"),
        (np.float32("nan"), "x is nan"),
        (float("inf"), "x is inf"),
        (Decimal("NaN"), "x is NaN"),
        ({"y": [1, np.nan]}, "x: y, item 1 is nan"),
        (pd.Timestamp(0), "x is of type Timestamp"),
        (np.datetime64("NaT"), "x is of type datetime64"),
        (Decimal("0.5"), "x is of type Decimal"),
        ({"a"}, "x is of type set"),
        (pd.Series([1]), "x is of type Series"),
    ],
)
def test_what_no_request_can_hold_is_refused_by_its_name(value: Any, said: str) -> None:
    message = f"the parameters cannot be written as JSON: {said}"
    assert fault(lambda: Settings(param={"x": value})) == f"param: {message}"
    assert fault(lambda: Endpoint("m", params={"x": value})) == f"params: {message}"


# -- Values of the command line


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5", 0.5),
        ("-1e3", -1000.0),
        ("true", True),
        ("null", None),
        ('"True"', "True"),
        ('["a"]', ["a"]),
        ("low", "low"),
        ("none", "none"),
        ("</s>", "</s>"),
        ("2024-10-21", "2024-10-21"),
        ("3f2a-77", "3f2a-77"),
        ("gpt-4", "gpt-4"),
        ("Trueish", "Trueish"),
        ("", ""),
        (".", "."),
        ("-", "-"),
    ],
)
def test_a_value_is_json_or_a_text(text: str, value: object) -> None:
    assert param_of("x", text, "--param") == value


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("{'a': False}", '{"a": false}'),
        ("True", "true"),
        ("FALSE", "false"),
        ("None", "null"),
        ("0,5", "0.5"),
        (".5", "0.5"),
        ("1.", "1.0"),
        ("1_000", "1000"),
        ("1,000", "1000"),
        ("+1", "1"),
        ("007", "7"),
        ("0x10", "16"),
        ("\uff10\uff0e\uff15", "0.5"),
        ("\u22121", "-1"),
        ("('a', 'b')", '["a", "b"]'),
        ("'stop'", '"stop"'),
        ("1e", ""),
        ("[1,2", ""),
        ("{a: 1}", ""),
        ("NaN", ""),
        ("-Infinity", ""),
        ("inf", ""),
        ('"abc', ""),
        ("\u201cabc\u201d", ""),
        ("[END]", ""),
        ('{"a": NaN}', ""),
    ],
)
def test_what_only_looks_like_json_is_refused_with_what_to_write(text: str, instead: str) -> None:
    said = fault(lambda: param_of("x", text, "--param"))
    assert said.startswith(f"--param x={text}")
    assert "the value is no JSON" in said
    before, _, as_text = said.rpartition(", or for the text ")
    assert (": write " in before) == bool(instead)
    if instead:
        assert shlex.split(before.rpartition(": write ")[2]) == [f"x={instead}"], "as a shell reads it"
    [as_text] = shlex.split(as_text)
    assert param_of("x", as_text.removeprefix("x="), "--param") == text, "the way that the message names"


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.booleans() | st.none() | st.text())
def test_what_json_writes_comes_back(value: object) -> None:
    assert param_of("x", json.dumps(value), "--param") == value


def test_the_command_line_refuses_a_wrong_value_and_a_parameter_given_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("text\na\n")
    job = ["plan", "t.csv", "--prompt", "{text}", "--provider", "offline"]
    assert main([*job, "--param", "temperature=0,5"]) == 2
    assert "--param temperature=0,5: the value is no JSON: write temperature=0.5" in capsys.readouterr().err
    assert main([*job, "--param", "n=1", "--param", "n=2"]) == 2
    assert "--param n is given twice" in capsys.readouterr().err
    assert main([*job, "--param", 'stop="True"', "--param", 'extra_body={"timeout": 3, "temprature": 0}']) == 0
    capsys.readouterr()
    for wrong, said in (
        (
            "temprature=0",
            """did you mean 'temperature'? If the service really takes it, write --param 'extra_body={"t""",
        ),
        (
            "temperature=",
            "--param temperature= has no value: leave it out, or write 'temperature=\"\"' for an empty text",
        ),
        ("stop= ", "--param stop= has no value: "),
        ("temperature=hot", "--param: temperature must be a number, not 'hot'"),
        (" top_p=1", "--param: there is no parameter ' top_p'; did you mean 'top_p'?"),
    ):
        assert main([*job, "--param", wrong]) == 2
        assert said in capsys.readouterr().err


def test_a_parameter_that_is_sent_all_the_same_is_rehearsed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("text\na\nb\n")
    Path("e.toml").write_text(
        '[[endpoint]]\nmodel = "m"\nbase_url = "http://h/v1"\nparams = { extra_body = { max_token = 5 } }\n'
    )
    job = ["rehearse", "t.csv", "--prompt", "{text}", "--endpoints", "e.toml", "--kills", "0", "--quiet"]
    assert main([*job, "--param", 'extra_body={"temprature": 0}']) == 0, capsys.readouterr().err


# -- Equal numbers


@given(st.recursive(st.integers() | st.floats(allow_nan=False, allow_infinity=False), st.lists, max_leaves=4))
def test_equal_numbers_are_the_same_and_others_are_not(value: Any) -> None:
    assert plain(value) == value
    assert same({"a": [value]}, {"a": [plain(value)]})
    assert not same({"a": value}, {"a": [value]})
    assert not same(True, 1)


SPELLINGS: list[Any] = [0, 0.0, -0.0]


@pytest.mark.parametrize("first", SPELLINGS)
@pytest.mark.parametrize("second", SPELLINGS)
def test_equal_numbers_are_one_question(lab: Lab, first: float, second: float) -> None:
    service = Service(TEXTS)
    lab.run(
        TEXTS,
        service,
        param={"temperature": first, "x": {"y": [first]}},
        endpoints=[Endpoint("m", params={"seed": first})],
    )
    report = lab.run(
        TEXTS,
        service,
        param={"temperature": second, "x": {"y": [second]}},
        endpoints=[Endpoint("m", params={"seed": second})],
    )
    assert (report.requests_now, report.ok) == (0, 4)
    assert batcher.verify("k", TEXTS, output_dir=lab.directory).ok
    assert len(lab.query("SELECT DISTINCT key FROM rows")) == 4


def test_a_journal_with_another_spelling_in_its_keys_goes_on(lab: Lab) -> None:
    """An older batcher made keys of the parameters as they were written."""
    half = Service(TEXTS[:2])
    lab.run(TEXTS[:2], half, param={"temperature": 0.0})
    key = keyer({"temperature": 0.0})
    for position, text in enumerate(TEXTS[:2]):
        old = key([{"role": "user", "content": text}]).hex()
        at = f"SET key = x'{old}' WHERE position = {position}"
        lab.change(f"UPDATE requests {at}")
        lab.change(f"UPDATE rows {at}")
    lab.change("UPDATE results SET seal = NULL, key = (SELECT key FROM requests q WHERE q.id = results.id)")
    lab.change("""UPDATE runs SET question = json_set(question, '$.params', json('{"temperature": 0.0}'))""")
    for temperature in (0, 0.0):
        service = Service(TEXTS)
        report = lab.run(TEXTS, service, param={"temperature": temperature})
        assert report.ok == 4
        assert {call.prompt for call in service.calls} <= {"c", "d"}
        found = batcher.verify("k", TEXTS, output_dir=lab.directory)
        assert found.ok, found
    with pytest.raises(ChangedError, match=r"\(parameter temperature was 0.0, is 0.5\)"):
        lab.run(TEXTS, Service([]), param={"temperature": 0.5})


# -- The reason for a change


def test_an_answer_is_compared_with_the_run_that_asked_it(lab: Lab) -> None:
    lab.run(TEXTS, Service(TEXTS), param={"temperature": 0})
    lab.run(TEXTS, Service(TEXTS), param={"temperature": 1}, limit=2, on_change="redo")
    with pytest.raises(ChangedError, match=r"2 answered to another question \(parameter temperature was 0, is 1\)"):
        lab.run(TEXTS, Service([]), param={"temperature": 1})


def test_an_answer_that_was_kept_is_asked_again_for_what_changed_before(lab: Lab) -> None:
    lab.run(TEXTS, Service(TEXTS), param={"temperature": 0})
    lab.run(TEXTS, Service([]), param={"temperature": 1}, on_change="reuse")
    said = batcher.plan(
        TEXTS,
        keyword="k",
        output_dir=lab.directory,
        endpoints=[Endpoint("m")],
        param={"temperature": 1},
        on_change="redo",
    )
    assert said.reasons == ("parameter temperature was 0, is 1",)


def test_another_way_to_ask_the_same_is_no_reason(lab: Lab) -> None:
    lab.run(TEXTS, Service(TEXTS), "{text}")
    with pytest.raises(ChangedError, match=r"1 answered to another question \(column text changed\)"):
        lab.run(["a", "b", "c", "x"], Service([]), prompt_column="text")


def test_a_text_that_reads_like_a_number_is_told_from_it(lab: Lab) -> None:
    lab.run(TEXTS, Service(TEXTS), param={"mode": "1", "user": True})
    said = r'\(parameter mode was "1", is 1; parameter user was true, is 1\)'
    with pytest.raises(ChangedError, match=said):
        lab.run(TEXTS, Service([]), param={"mode": 1, "user": 1})


def test_a_source_that_left_and_a_question_that_changed_are_told_apart(lab: Lab) -> None:
    lab.run(TEXTS, Service(TEXTS), "{text}")
    with pytest.raises(ChangedError, match=r"4 answered to another question \(model was m, is n\)"):
        lab.run(TEXTS, Service([]), prompt_column="text", endpoints=[Endpoint("n")])

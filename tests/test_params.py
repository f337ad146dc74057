"""A request parameter is what was meant, or is refused with what to write; equal numbers are one question."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from batcher.params import param_of, unfolded
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
    assert main([*job, "--param", 'stop="True"', "--param", 'extra_body={"timeout": 3}']) == 0


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
    lab.run(TEXTS, Service(TEXTS), param={"seed": "1", "stream": True})
    said = r'\(parameter seed was "1", is 1; parameter stream was true, is 1\)'
    with pytest.raises(ChangedError, match=said):
        lab.run(TEXTS, Service([]), param={"seed": 1, "stream": 1})


def test_a_source_that_left_and_a_question_that_changed_are_told_apart(lab: Lab) -> None:
    lab.run(TEXTS, Service(TEXTS), "{text}")
    with pytest.raises(ChangedError, match=r"4 answered to another question \(model was m, is n\)"):
        lab.run(TEXTS, Service([]), prompt_column="text", endpoints=[Endpoint("n")])

"""How likely a model finds its label, from the log-probabilities of the tokens that spell it (`--with confidence`)."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from canned_server import CannedServer, canned, completion, http, stream
from langchain_core.language_models import FakeListChatModel
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

import batcher
from batcher.answer.confidence import confidence_of
from batcher.answer.labels import Labels
from batcher.answer.schema import Schema
from batcher.answer.shape import Shape
from batcher.calls.factory import ChatCallers
from batcher.calls.logprobs import logprobs_in
from batcher.calls.streaming import Added
from batcher.endpoint import Endpoint
from batcher.records import NO_PARAMS, Completion, Failure, Fault, ModelToken, Result, Status, Task, Terms
from batcher.server.serve import embedded
from batcher.server.simulated import Knobs

LABELS = Labels(("positive", "negative", "card_arrival", "正面", "👍 yes"), aliases={"up": "positive"})
Tokens = Sequence[tuple[str | bytes, float]]


def scored(tokens: Tokens) -> tuple[ModelToken, ...]:
    """Make tokens of their texts and probabilities."""
    return tuple(
        ModelToken(text if isinstance(text, bytes) else text.encode(), math.log(chance)) for text, chance in tokens
    )


def found(text: str, tokens: Tokens, shape: Shape = LABELS) -> float | None:
    read = shape.read(text)
    return confidence_of(Completion(text, scored=scored(tokens)), Result(*read), shape)


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("positive", [("positive", 0.5)], 0.5),
        (" positive\n", [(" pos", 0.5), ("itive", 0.5), ("\n", 0.1)], 0.25),
        # What the model was made to write, and what comes behind the label, do not count.
        ('{"label": "positive"}', [('{"label', 0.1), ('": "', 0.1), ("posit", 0.5), ("ive", 0.6), ('"}', 0.2)], 0.3),
        ("**Label:** Card Arrival", [("**Label:**", 0.3), (" Card", 0.5), (" Arrival", 0.4)], 0.2),
        ('```json\n["negative"]\n```', [('```json\n["', 0.3), ("negative", 0.7), ('"]\n```', 0.2)], 0.7),
        ('{"label":"\\u6b63\\u9762"}', [('{"label":"', 0.3), ("\\u6b63", 0.5), ("\\u9762", 0.5), ('"}', 1)], 0.25),
        ("up", [("up", 0.4)], 0.4),
        # The label stands where the answer says it, not where it is only named.
        (
            '{"reason":"it sounds positive","label":"positive"}',
            [('{"reason":"it sounds ', 0.3), ("positive", 0.9), ('","label":"', 1), ("positive", 0.25), ('"}', 1)],
            0.25,
        ),
        (
            "Label: positive\n\nBecause it is positive.",
            [("Label: ", 0.3), ("positive", 0.5), ("\n\nBecause it is ", 1), ("positive", 0.9), (".", 1)],
            0.5,
        ),
        # Bytes of one character over several tokens; thoughts before the answer; special tokens behind it.
        ("正面", [(b"\xe6\xad", 0.5), (b"\xa3", 0.5), ("面", 0.5)], 0.125),
        ("👍 yes", [(b"\xf0\x9f", 0.5), (b"\x91\x8d", 0.5), (" yes", 0.5)], 0.125),
        ("positive", [("<think>positive? ", 0.1), ("no</think>", 0.1), ("positive", 0.5), ("<|im_end|>", 0.9)], 0.5),
        # Blanks as some servers send them.
        ("card arrival", [("▁card", 0.5), ("▁arrival", 0.5), ("</s>", 0.5)], 0.25),
        ("card arrival", [("card", 0.5), ("Ġarrival", 0.5)], 0.25),
    ],
)
def test_the_tokens_that_spell_the_label_are_multiplied(text: str, tokens: Tokens, expected: float) -> None:
    assert found(text, tokens) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("positive", []),
        ("positive", [("negative", 0.5)]),
        ("positive", [("positive", 0.5), (" or so", 0.5)]),
        ("正面", [("\ufffd", 0.5), ("面", 0.5)]),
        ("neither", [("neither", 0.5)]),
        ("positive negative", [("positive", 0.5), (" negative", 0.5)]),
        ("positive", [("positive", 1.5)]),
    ],
)
def test_no_number_is_given_for_tokens_that_may_not_be_the_labels(text: str, tokens: Tokens) -> None:
    assert found(text, tokens) is None


def test_a_number_that_is_none_or_a_shape_without_labels_gives_none() -> None:
    for number in (math.nan, -math.inf):
        came = Completion("positive", scored=(ModelToken(b"positive", number),))
        assert confidence_of(came, Result(Status.OK, "positive", ""), LABELS) is None
    schema = Schema.of({"type": "object", "properties": {"a": {"type": "string"}}}, "schema")
    text = '{"a": "positive"}'
    assert found(text, [(text, 0.5)], schema) is None
    assert confidence_of(Completion("x", scored=scored([("x", 0.5)])), Result(Status.OK, "x", ""), None) is None


ODD: tuple[Any, ...] = (None, 5, [], {}, {"content": None}, "content")


@pytest.mark.parametrize(
    ("logprobs", "expected"),
    [
        ({"content": [{"token": "a", "logprob": -1, "bytes": None}]}, [(b"a", -1.0)]),
        ({"content": [{"token": "\\xe4", "logprob": -1.5, "bytes": [228]}], "refusal": None}, [(b"\xe4", -1.5)]),
        ({"tokens": ["bytes:\\xe4\\xbd", "b"], "token_logprobs": [-1.0, -2.0]}, [(b"\xe4\xbd", -1.0), (b"b", -2.0)]),
        ({"content": [{"token": "a", "logprob": -1}, {"token": 5, "logprob": -1}]}, []),
        ({"content": [{"token": "a", "bytes": [97]}]}, []),
        ({"content": [{"token": "a", "logprob": -1, "bytes": [999, "x"]}]}, [(b"a", -1.0)]),
        ({"tokens": ["a"], "token_logprobs": []}, []),
        *((odd, []) for odd in ODD),
    ],
)
def test_the_log_probabilities_of_any_response_are_read_or_left(logprobs: Any, expected: list[Any]) -> None:
    assert [tuple(each) for each in logprobs_in(logprobs)] == expected


@pytest.mark.parametrize("number", [None, "x", 10**400])
def test_a_log_probability_that_is_no_number_is_unknown(number: Any) -> None:
    [token] = logprobs_in({"content": [{"token": "a", "logprob": number}]})
    assert math.isnan(token.logprob)


# -- What is asked for, and what services make of it


def given(logprob: float = -0.5) -> dict[str, Any]:
    return {"content": [{"token": "positive", "logprob": logprob, "bytes": None, "top_logprobs": []}]}


def answered(**logprobs: Any) -> Any:
    body = completion("positive", usage={"prompt_tokens": 3, "completion_tokens": 1})
    body["choices"][0] |= logprobs
    return http(200, body)


SCORED = answered(logprobs=given())


def run(server: CannedServer | Any, folder: Path, **options: Any) -> batcher.Report:
    endpoint = Endpoint("m", server.base_url, api_key="k", prices={"in": 1.0, "out": 1.0})
    texts = [{"text": f"text {number}"} for number in range(options.pop("rows", 5))]
    chosen: dict[str, Any]
    chosen = {"keyword": "k", "output_dir": folder, "endpoints": [endpoint], "quiet": True, "canary": 0}
    chosen |= {"labels": ["positive", "negative"], "with_": "confidence", "structured": "prompt"}
    return batcher.run(texts, "Label: {text}", **(chosen | options))


def query(folder: Path, question: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "journal_k.sqlite")) as journal:
        return journal.execute(question).fetchall()


def column(folder: Path) -> list[str]:
    with (folder / "all_k.csv").open(encoding="utf-8", newline="") as file:
        return [row["infer_confidence"] for row in csv.DictReader(file)]


def asked(server: CannedServer) -> list[Any]:
    return [each.json.get("logprobs") for each in server.asked]


async def called(server: CannedServer, params: Any = NO_PARAMS, terms: Terms | None = None, times: int = 1) -> Any:
    callers = ChatCallers(params, scores=True)
    caller = callers.caller(Endpoint("m", server.base_url))
    try:
        hello = [{"role": "user", "content": "hello"}]
        return [await caller.call(hello, 60, NO_PARAMS, terms or Terms()) for _ in range(times)][-1]
    finally:
        await callers.close()


async def test_a_chat_a_stream_and_a_completion_are_asked_for_log_probabilities_and_read() -> None:
    expected = (ModelToken(b"positive", -0.5),)
    async with canned(SCORED) as server:
        assert (await called(server)).scored == expected
        assert (await called(server, {"logprobs": False})).scored == expected
        assert asked(server) == [True, False]
    parts = [
        {"index": 0, "delta": {"content": text}, "logprobs": {"content": [{"token": text, "logprob": -0.5}]}}
        for text in ("pos", "itive")
    ]
    ending = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    async with canned(stream(*({"choices": [each]} for each in [*parts, ending]))) as server:
        came = await called(server, {"stream": True})
        assert came.scored == (ModelToken(b"pos", -0.5), ModelToken(b"itive", -0.5))
    text = {"text": "positive", "finish_reason": "stop", "logprobs": {"tokens": ["positive"], "token_logprobs": [-0.5]}}
    async with canned(http(200, {"id": "c", "choices": [text]})) as server:
        assert (await called(server, terms=Terms(Task.COMPLETION))).scored == expected
        assert asked(server) == [1]


NAMED = http(403, {"error": {"message": "You are not allowed to request logprobs from this model"}})
VAGUE = http(400, {"error": {"message": "Extra inputs are not permitted"}})


@pytest.mark.parametrize("refusal", [NAMED, VAGUE])
async def test_a_service_that_refuses_log_probabilities_is_asked_without_them(refusal: Any) -> None:
    async with canned(refusal) as server:
        failure = await called(server)
        assert (failure.left_out, failure.may_be_billed) == ("logprobs", False)
    async with canned(refusal, answered()) as server:
        assert (await called(server, times=3)).text == "positive"
        assert asked(server) == [True, None, None]


def test_a_guess_that_does_not_help_is_taken_back_and_the_next_is_made() -> None:
    added, vague = Added({}, is_wanted=True, scores=True), Failure(Fault.STATUS, "bad request", 400)
    every = ("stream", "stream_options", "logprobs")
    assert (added.refused(vague, every), [*added.params]) == ("stream_options", ["stream", "logprobs"])
    assert (added.refused(vague, [*added.params]), {*added.params}) == ("logprobs", {"stream", "stream_options"})
    assert (added.refused(vague, [*added.params]), {*added.params}) == ("", {*every})
    assert added.refused(vague, every) == ""


def test_the_users_own_parameter_is_never_left_out() -> None:
    added = Added({"logprobs": True}, scores=True)
    assert added.refused(Failure(Fault.STATUS, "no logprobs", 400), ()) == ""
    assert added.params == {}


# -- Whole runs


async def test_the_confidence_is_journalled_with_the_answer_and_reaches_the_files(tmp_path: Path) -> None:
    async with canned(SCORED) as server:
        rows, options = arguments(tmp_path, server)
        report = await batcher.arun(*rows, **options)
        assert (report.ok, asked(server)) == (5, [True] * 5)
    assert query(tmp_path, "SELECT DISTINCT round(confidence, 6) FROM responses") == [(0.606531,)]
    assert column(tmp_path) == ["0.6065"] * 5
    assert batcher.verify("k", rows[0], output_dir=tmp_path).ok


def arguments(folder: Path, server: Any = None, **options: Any) -> tuple[tuple[Any, str], dict[str, Any]]:
    rows = [{"text": f"text {number}"} for number in range(5)]
    chosen: dict[str, Any] = {"keyword": "k", "output_dir": folder, "quiet": True, "canary": 0, "structured": "prompt"}
    chosen |= {"labels": ["positive", "negative"], "with_": "confidence"}
    if server is not None:
        chosen["endpoints"] = [Endpoint("m", server.base_url, api_key="k", prices={"in": 1.0, "out": 1.0})]
    return (rows, "Label: {text}"), chosen | options


async def test_a_service_that_ignores_or_refuses_them_is_named_once_and_loses_no_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, reply, said in (
        ("ignores", [answered(logprobs=None)], "ignores logprobs: none came."),
        ("refuses", [NAMED, answered()], "so its answers have no confidence."),
    ):
        folder = tmp_path / name
        async with canned(*reply) as server:
            rows, options = arguments(folder, server, quiet=False, no_progress=True)
            report = await batcher.arun(*rows, **options)
            assert (report.ok, report.error) == (5, 0)
        printed = capsys.readouterr().err
        assert printed.count(said) == 1
        assert "ignores logprobs" not in printed or name == "ignores"
        assert column(folder) == [""] * 5


def test_asking_for_it_later_asks_nothing_again(tmp_path: Path) -> None:
    with embedded(Knobs()) as server:
        run(server, tmp_path, with_=None)
        report = run(server, tmp_path, rows=8)
        assert (report.ok, server.books.requests) == (8, 8)
    known = [bool(each) for each in column(tmp_path)]
    assert known == [False] * 5 + [True] * 3
    shares = [float(each) for each in column(tmp_path) if each]
    assert all(0 < each <= 1 for each in shares)


@pytest.mark.parametrize("options", [{"stream": True}, {"structured": "auto"}, {"task": "completion"}])
def test_it_is_that_of_the_body_however_the_label_is_asked_for(tmp_path: Path, options: dict[str, Any]) -> None:
    with embedded(Knobs()) as server:
        report = run(server, tmp_path, **options)
    assert report.ok == 5
    assert all(column(tmp_path))


def test_a_parquet_file_has_it_as_a_number(tmp_path: Path) -> None:
    with embedded(Knobs()) as server:
        run(server, tmp_path, format="parquet")
    table = pyarrow.parquet.read_table(tmp_path / "all_k.parquet")
    assert str(table.schema.field("infer_confidence").type) == "double"
    assert all(0 < each <= 1 for each in table["infer_confidence"].to_pylist())


def test_without_labels_it_is_not_asked_for_and_the_plan_says_that_it_stays_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with embedded(Knobs()) as server:
        run(server, tmp_path, labels=None, structured="auto", quiet=False, no_progress=True)
    assert "infer_confidence stays empty: it is the probability of a label" in capsys.readouterr().err
    assert column(tmp_path) == [""] * 5


async def test_a_chat_model_of_the_users_own_is_asked_if_it_is_one_of_openais(tmp_path: Path) -> None:
    async with canned(SCORED) as server:
        llm = ChatOpenAI(model="m", base_url=server.base_url, api_key=SecretStr("k"), max_retries=0)
        rows, options = arguments(tmp_path, endpoints=[Endpoint(llm=llm)])
        assert (await batcher.arun(*rows, **options)).ok == 5
        assert asked(server) == [True] * 5
    assert column(tmp_path) == ["0.6065"] * 5
    other = arguments(tmp_path / "other", endpoints=[Endpoint(llm=FakeListChatModel(responses=["positive"]))])
    assert (await batcher.arun(*other[0], **other[1])).ok == 5
    assert column(tmp_path / "other") == [""] * 5


async def test_a_chat_model_whose_service_refuses_them_is_asked_without() -> None:
    async with canned(NAMED, answered()) as server:
        llm = ChatOpenAI(model="m", base_url=server.base_url, api_key=SecretStr("k"), max_retries=0)
        callers = ChatCallers({}, scores=True)
        caller = callers.caller(Endpoint(llm=llm))
        came = [await caller.call([{"role": "user", "content": "hello"}], 60) for _ in range(2)]
        await callers.close()
        assert isinstance(came[0], Failure)
        assert isinstance(came[1], Completion)
        assert json.dumps(asked(server)) == "[true, null]"

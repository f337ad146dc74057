"""A parameter that a service accepts and ignores is noticed, once, and only if that is certain."""

from __future__ import annotations

import json
from typing import Any

import pytest
from canned_server import CannedServer, Reply, canned, completion, http, stream
from conftest import Lab
from fake_service import Service, answer_to

import batcher
from batcher.calls.dialect import answer_in
from batcher.calls.factory import ChatCallers
from batcher.calls.ignored import Ignored, Watch, ignored
from batcher.endpoint import Endpoint
from batcher.records import Completion, Usage

OBJECT = {"type": "json_object"}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
LONG = "word " * 100


def came(text: str | None, finish: str | None = "stop", used: int | None = None, **more: Any) -> Completion:
    return Completion(text, finish, Usage(3, used, reasoning_tokens=more.pop("thought", 0)), **more)


@pytest.mark.parametrize(
    ("params", "answer", "said"),
    [
        ({"n": 3}, came("a"), "n: 1 answer came where 3 were asked for"),
        ({"n": 3}, came('["a", "b"]', choices=2), "n: 2 answers came where 3 were asked for"),
        ({"logprobs": True}, came("a", raw=b'{"choices": [{"logprobs": null}]}'), "logprobs: none came"),
        ({"logprobs": True, "top_logprobs": 2}, came("a", raw=b'{"logprobs": {"content": []}}'), "logprobs: none came"),
        (
            {"logprobs": True},
            came("a", raw=json.dumps({"content": '"logprob": -1'}).encode()),
            "logprobs: none came",
        ),
        ({"response_format": OBJECT}, came("Sure! {}"), "response_format: an answer came that is no JSON"),
        ({"response_format": SCHEMA}, came("```json\n{}\n```"), "response_format: an answer came that is no JSON"),
        (
            {"n": 2, "response_format": OBJECT},
            came('["{}", "no"]', choices=2),
            "response_format: an answer came that is no JSON",
        ),
        ({"stop": "END"}, came("this END and more"), "stop: an answer goes on after 'END'"),
        ({"stop": ["x", "\n\n"]}, came("one\n\ntwo"), "stop: an answer goes on after '\\n\\n'"),
        ({"max_tokens": 20}, came(LONG, used=100), "max_tokens: an answer has 100 tokens where 20 were allowed"),
        ({"max_completion_tokens": 20, "max_tokens": 5}, came(LONG, "length", 100), "max_completion_tokens: an answer"),
        ({"max_tokens": 20}, came(LONG, used=300, thought=200), "max_tokens: an answer has 100 tokens"),
        ({"max_tokens": 10, "n": 2}, came(json.dumps([LONG, LONG]), used=200, choices=2), "max_tokens: an answer has"),
    ],
)
def test_an_answer_that_shows_that_a_parameter_was_ignored_is_noticed(
    params: dict[str, Any], answer: Completion, said: str
) -> None:
    [found] = ignored(params, answer)
    assert f"{found.name}: {found.said}".startswith(said)


@pytest.mark.parametrize(
    ("params", "answer"),
    [
        ({"n": 1}, came("a")),
        ({"n": None, "stop": None, "max_tokens": None, "response_format": None, "logprobs": None}, came("a")),
        ({"n": True, "stop": [1, ""], "max_tokens": "9", "response_format": "json", "logprobs": False}, came("a")),
        ({"n": 2}, came('["a", "b"]', choices=2)),
        ({"n": 2}, came(None, choices=0)),
        ({"logprobs": True}, came("a", raw=b'{"logprobs": {"content": [{"token": "a", "logprob": -0.5}]}}')),
        ({"logprobs": 2}, came("a", raw=b'{"logprobs": {"token_logprobs": [null, -0.5]}}')),
        ({"logprobs": True}, came("a")),  # what the service sent is not seen
        ({"logprobs": True}, came("", raw=b"{}")),
        ({"logprobs": True}, came("[]", "tool_calls", raw=b"{}")),
        ({"response_format": OBJECT}, came('{"a": 1}')),
        ({"response_format": {"type": "text"}}, came("a")),
        ({"response_format": OBJECT}, came('{"a": ', "length")),
        ({"response_format": OBJECT}, came("I cannot", refusal="I cannot")),
        ({"response_format": OBJECT}, came(" ")),
        ({"n": 2, "response_format": OBJECT}, came('["{}", "[1]"]', choices=2)),
        ({"stop": "END"}, came("this END")),
        ({"stop": "END"}, came("this")),
        ({"stop": "END", "include_stop_str_in_output": True}, came("this END END")),
        ({"stop": "END", "min_tokens": 100}, came("this END of it")),
        ({"max_tokens": 20}, came(LONG[:60], "length", 20)),
        ({"max_tokens": 20}, came(LONG, used=37)),  # it may count marks
        ({"max_tokens": 20}, came("yes", used=900)),  # it may have thought
        ({"max_tokens": 20}, came(LONG, used=900, reasoning="hm")),
        ({"max_tokens": 20}, came(LONG)),
        ({"max_tokens": 60, "n": 2}, came(json.dumps([LONG, LONG]), used=120, choices=2)),
    ],
)
def test_nothing_is_said_of_an_answer_that_may_be_as_asked_for(params: dict[str, Any], answer: Completion) -> None:
    assert ignored(params, answer) == []


def test_each_is_said_once_and_not_looked_for_when_it_was_honoured() -> None:
    watch = Watch({"n": 2, "stop": "END", "response_format": OBJECT})
    assert [each.name for each in watch.look(came("a END b"))] == ["n", "response_format", "stop"]
    assert watch.look(came("a END b")) == []
    watch = Watch({"response_format": OBJECT})
    assert [watch.look(came("{}")) for _ in range(3)] == [[]] * 3
    assert watch.look(came("a slip")) == []


def test_parameters_of_a_row_of_its_own_are_looked_at_as_well() -> None:
    watch = Watch({"n": 2})
    assert watch.look(came("a"), {"n": 1}) == []
    assert watch.look(came("a"), {"stop": "x"}) == [Ignored("n", "1 answer came where 2 were asked for")]
    assert [each.name for each in watch.look(came("a x b"), {"stop": "x"})] == ["stop"]
    assert watch.look(came("a x b"), {"stop": "x", "n": 3}) == []


def piece(content: str, logprobs: object = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": "stop", "logprobs": logprobs}]}


LOGPROBS = {"content": [{"token": "fine", "logprob": -0.1, "top_logprobs": []}]}


def replies() -> list[tuple[Reply, bool]]:
    whole = completion("fine")
    whole["choices"][0]["logprobs"] = LOGPROBS
    return [
        (http(200, whole), False),
        (http(200, completion("fine")), True),
        (stream(piece("fine", LOGPROBS)), False),
        (stream(piece("fine")), True),
    ]


@pytest.mark.parametrize(("reply", "is_ignored"), replies())
async def test_log_probabilities_are_found_in_a_response_and_in_a_stream(reply: Reply, *, is_ignored: bool) -> None:
    async with canned(reply) as server:
        assert (ignored({"logprobs": True}, await answer_of(server)) != []) == is_ignored


async def answer_of(server: CannedServer) -> Completion:
    callers = ChatCallers({"stream": True, "logprobs": True})
    came = await callers.caller(Endpoint("m", server.base_url)).call([{"role": "user", "content": "x"}], 60)
    await callers.close()
    assert isinstance(came, Completion)
    return came


def test_the_number_of_answers_is_read() -> None:
    body = completion("a")
    body["choices"] *= 2
    for index, choice in enumerate([dict(each) for each in body["choices"]]):
        body["choices"][index] = {**choice, "index": index}
    for wants_all in (True, False):
        answer = answer_in(200, {}, json.dumps(body).encode(), wants_all=wants_all)
        assert isinstance(answer, Completion)
        assert answer.choices == 2


def test_a_run_says_it_once_for_each_service_and_status_shows_it(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [f"row {number}" for number in range(30)]
    endpoints = [Endpoint("m", "http://somewhere/v1", api_key=key) for key in ("a", "b")]
    endpoints.append(Endpoint("other", "http://elsewhere/v1", api_key="c", params={"n": 1}))
    service = Service(rows)
    lab.run(rows, service, "{text}", param={"n": 3}, endpoints=endpoints, quiet=False, no_progress=True)
    said = "m at http://somewhere/v1 ignores n: 1 answer came where 3 were asked for"
    assert capfd.readouterr().err.count("ignores") == 1
    assert lab.query("SELECT subject, detail FROM events WHERE kind = 'ignored'") == [
        ("m at http://somewhere/v1", "n: 1 answer came where 3 were asked for")
    ]
    assert batcher.status("k", lab.directory).notes == (said,)
    assert {row["infer"] for row in lab.rows()} == set(map(answer_to, rows))

"""The simulated server as OpenAI's own client, older clients and other services' clients see it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import math
import struct
from collections import Counter
from typing import TYPE_CHECKING, Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from server_client import Reply, chat, request, stats_when

from batcher.calls.services import SERVICES
from batcher.calls.waits import limits_in
from batcher.server.answers import answer
from batcher.server.asgi import place_of
from batcher.server.faults import Fate, FaultRule
from batcher.server.faults import Reply as FaultReply
from batcher.server.rate_headers import length_of
from batcher.server.serve import Server, embedded
from batcher.server.simulated import Knobs

if TYPE_CHECKING:
    from collections.abc import Iterator

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
HELLO: Any = [{"role": "user", "content": "hello"}]
# What the echo of "hello" is, in tokens of four characters.
ECHO = answer({"messages": HELLO})


@pytest.fixture
def server() -> Iterator[Server]:
    with embedded(Knobs()) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with client_of(server) as made:
        yield made


@contextlib.contextmanager
def client_of(server: Server, path: str = "/v1", **options: Any) -> Iterator[openai.OpenAI]:
    base_url = server.base_url.removesuffix("/v1") + path
    with openai.OpenAI(base_url=base_url, api_key="k", max_retries=0, **options) as made:
        yield made


def post(server: Server, path: str, body: object) -> Reply:
    return request(server.base_url, "POST", path, json.dumps(body).encode())


# --- chats ---


@pytest.mark.parametrize("stop", ["o", ["zzz", "o"], ["h", "o"]])
def test_a_stop_ends_the_answer_and_is_no_part_of_it(client: openai.OpenAI, stop: Any) -> None:
    for stream in (False, True):
        text, ends = _chat_text(client, stop=stop, stream=stream)
        assert text == ECHO[: min(ECHO.index(each) for each in [*stop] if each in ECHO)]
        assert ends == ["stop"]


def _chat_text(client: openai.OpenAI, *, stream: bool, **options: Any) -> tuple[str, list[str]]:
    if not stream:
        [choice] = client.chat.completions.create(model="m", messages=HELLO, **options).choices
        return choice.message.content or "", [choice.finish_reason]
    chunks = [*client.chat.completions.create(model="m", messages=HELLO, stream=True, **options)]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    return text, [end for chunk in chunks if (end := chunk.choices[0].finish_reason)]


def test_a_limit_before_the_stop_ends_the_answer_by_its_length(client: openai.OpenAI) -> None:
    [choice] = client.chat.completions.create(model="m", messages=HELLO, max_tokens=1, stop="hello").choices
    assert (choice.message.content, choice.finish_reason) == (ECHO[:4], "length")


@pytest.mark.parametrize("top", [None, 0, 3])
def test_log_probabilities_come_with_every_token_as_a_whole_and_in_a_stream(
    client: openai.OpenAI, top: int | None
) -> None:
    options: dict[str, Any] = {"logprobs": True} | ({} if top is None else {"top_logprobs": top})
    [choice] = client.chat.completions.create(model="m", messages=HELLO, **options).choices
    assert choice.logprobs
    tokens = choice.logprobs.content or []
    assert "".join(token.token for token in tokens) == ECHO
    assert b"".join(bytes(token.bytes or []) for token in tokens).decode() == ECHO
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == (top or 0)
        assert sum(math.exp(other.logprob) for other in token.top_logprobs) <= 1
        assert not top or token.top_logprobs[0].token == token.token
    streamed = client.chat.completions.create(model="m", messages=HELLO, stream=True, **options)
    pieces = [chunk.choices[0].logprobs for chunk in streamed]
    assert [token for piece in pieces if piece for token in piece.content or []] == tokens


@pytest.mark.parametrize(
    "choice", [None, "auto", "required", "any", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_tool_is_called_with_arguments_that_fit_its_schema(client: openai.OpenAI, choice: Any) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    options: Any = {"model": "m", "messages": HELLO, "tools": [other, TOOL] if isinstance(choice, dict) else [TOOL]}
    options |= {} if choice is None else {"tool_choice": choice}
    whole: Any = client.chat.completions.create(**options).choices[0]
    [call] = whole.message.tool_calls
    assert (whole.finish_reason, whole.message.content, call.function.name) == ("tool_calls", None, "weather")
    arguments = json.loads(call.function.arguments)
    assert isinstance(arguments["city"], str)
    assert isinstance(arguments["days"], int)
    assert arguments["unit"] in {"C", "F"}
    events: list[Any] = [event.choices[0] for event in client.chat.completions.create(**options, stream=True)]
    calls = [each for event in events for each in event.delta.tool_calls or []]
    assert "".join(each.function.arguments for each in calls) == call.function.arguments
    assert events[-1].finish_reason == "tool_calls"


def test_no_tool_is_called_that_is_not_wanted_or_has_been_called(client: openai.OpenAI) -> None:
    create: Any = client.chat.completions.create
    assert create(model="m", messages=HELLO, tools=[TOOL], tool_choice="none").choices[0].message.content == ECHO
    call = create(model="m", messages=HELLO, tools=[TOOL]).choices[0].message
    result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "sunny"}
    after = create(model="m", messages=[*HELLO, call, result], tools=[TOOL]).choices[0]
    assert (after.finish_reason, after.message.tool_calls) == ("stop", None)


def test_the_tool_that_the_prompt_names_is_called(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": name}} for name in ("alpha", "beta", "gamma")]
    for name in ("alpha", "beta", "gamma"):
        asked: Any = [{"role": "user", "content": f"call {name} now"}]
        message: Any = client.chat.completions.create(model="m", messages=asked, tools=tools).choices[0].message
        assert message.tool_calls[0].function.name == name


def test_functions_are_called_as_older_clients_expect_it(server: Server) -> None:
    function = TOOL["function"]
    for wanted in ({}, {"function_call": "auto"}, {"function_call": {"name": "weather"}}):
        choice = chat(server.base_url, functions=[function], **wanted).json["choices"][0]
        assert choice["finish_reason"] == "function_call"
        assert choice["message"]["function_call"]["name"] == "weather"
        assert json.loads(choice["message"]["function_call"]["arguments"])["city"]
    assert chat(server.base_url, functions=[function], function_call="none").text == ECHO


def test_a_structured_answer_by_a_tool_holds_the_right_label(server: Server) -> None:
    schema = {"title": "labelled", "type": "object", "properties": {"label": {"enum": ["a", "b"]}}}
    model = ChatOpenAI(model="m", base_url=server.base_url, api_key="k", max_retries=0)  # type: ignore[arg-type]
    said = model.with_structured_output(schema, method="function_calling").invoke("One of: a, b. Text")
    assert said == {"label": answer({"messages": [{"role": "user", "content": "One of: a, b. Text"}]})}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "user", "content": None}], "messages.[0].content"),
        ([{"role": "user"}], "messages.[0].content"),
        ([*HELLO, {"role": "assistant", "content": None}], "messages.[1].content"),
        ([{"role": "user", "content": []}], "messages.[0].content"),
        ([{"role": "user", "content": {"text": "p"}}], "messages.[0].content"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages.[0].content"),
        ([{"role": "human", "content": "p"}], "messages.[0].role"),
        ("", "messages"),
    ],
)
def test_a_message_without_a_text_is_refused(server: Server, messages: object, param: str) -> None:
    reply = post(server, "/v1/chat/completions", {"model": "m", "messages": messages})
    assert (reply.status, reply.json["error"]["param"]) == (400, param)
    assert server.books.answered == 0


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"num_beams": 0}, "num_beams"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"do_sample": 1}, "do_sample"),
        ({"seed": 1.5}, "seed"),
        ({"stop": 7}, "stop"),
        ({"stop": [None]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [7]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name"),
        ({"tools": [{"type": "retrieval", "function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [TOOL["function"]], "function_call": "required"}, "function_call"),
    ],
)
def test_a_parameter_out_of_its_range_is_refused_by_its_name(
    server: Server, options: dict[str, Any], param: str
) -> None:
    reply = chat(server.base_url, **options)
    assert (reply.status, reply.json["error"]["param"], reply.json["error"]["type"]) == (
        400,
        param,
        "invalid_request_error",
    )


def test_parameters_of_local_models_and_empty_ones_are_taken(server: Server) -> None:
    local: Any = {"top_k": 40, "num_beams": 4, "repetition_penalty": 1.1, "do_sample": True, "seed": 7, "stop": None}
    assert chat(server.base_url, temperature=2, top_p=0, n=None, logprobs=None, **local).text == ECHO


# --- older clients ---


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "message": "hello"}], "repetition_penalty": 1.0},
        {"messages": [{"role": "user", "content": "", "message": "hello"}]},
        {"messages": "hello"},
        {"messages": HELLO},
        {"model": None, "messages": [{"content": "hello"}]},
    ],
)
def test_a_chat_of_an_older_client_is_answered(server: Server, body: object) -> None:
    reply = post(server, "/v1/chat/completions", body)
    assert (reply.status, reply.text, reply.json["model"]) == (200, ECHO, "sim")
    assert server.books.requests_by_prompt == {"hello": 1}


def test_a_completion_without_a_model_is_answered_by_the_one_that_is_served() -> None:
    with embedded(Knobs(model="llama")) as server:
        for path, body in (("completions", {"prompt": "2 + 3"}), ("chat/completions", {"messages": "2 + 3"})):
            reply = post(server, f"/v1/{path}", body)
            assert (reply.status, reply.json["model"]) == (200, "llama")
        assert post(server, "/v1/embeddings", {"input": "text"}).json["model"] == "llama"


# --- completions ---


def test_every_prompt_of_a_completion_is_answered_n_times(client: openai.OpenAI, server: Server) -> None:
    made = client.completions.create(model="m", prompt=["2 + 3", "hello"], n=2)
    assert [choice.text for choice in made.choices] == ["5", "5", ECHO, ECHO]
    assert [choice.index for choice in made.choices] == [0, 1, 2, 3]
    assert made.usage
    assert made.usage.prompt_tokens == 2 + 2
    assert made.usage.completion_tokens == 2 * (1 + math.ceil(len(ECHO) / 4))
    assert server.books.requests_by_prompt == server.books.answered_by_prompt == {"2 + 3": 1, "hello": 1}
    assert server.books.by_route == {"completions": 1}


def test_a_completion_is_cut_scored_and_echoed_as_asked(client: openai.OpenAI) -> None:
    made = client.completions.create(model="m", prompt="hello", max_tokens=2, logprobs=2, echo=True).choices[0]
    assert (made.text, made.finish_reason) == (f"hello{ECHO[:8]}", "length")
    assert made.logprobs
    assert made.logprobs.tokens == ["hell", "o", ECHO[:4], ECHO[4:8]]
    assert made.logprobs.text_offset == [0, 4, 5, 9]
    assert made.logprobs.token_logprobs
    assert made.logprobs.token_logprobs[0] is None
    assert [len(top) for top in (made.logprobs.top_logprobs or [])[1:]] == [2, 2, 2]
    assert client.completions.create(model="m", prompt="hello", stop=["h"]).choices[0].text == ECHO[: ECHO.index("h")]


def test_a_streamed_completion_adds_up_and_ends_with_its_usage(client: openai.OpenAI) -> None:
    options: Any = {"model": "m", "prompt": ["hello", "one two three"], "logprobs": 1}
    whole = client.completions.create(**options)
    *chunks, last = client.completions.create(**options, stream=True, stream_options={"include_usage": True})
    for choice in whole.choices:
        parts = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert parts[-1].finish_reason == choice.finish_reason
        offsets = [place for part in parts if part.logprobs for place in part.logprobs.text_offset or []]
        assert choice.logprobs
        assert offsets == choice.logprobs.text_offset
    assert (last.choices, last.usage) == ([], whole.usage)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": ["a", 7]}, "prompt"),
        ({"prompt": ["a"] * 2049}, "prompt"),
        ({"prompt": "p", "logprobs": 6}, "logprobs"),
        ({"prompt": "p", "logprobs": True}, "logprobs"),
        ({"prompt": "p", "n": 3, "best_of": 2}, "best_of"),
        ({"prompt": "p", "suffix": "end"}, "suffix"),
        ({"prompt": "p", "max_tokens": 0}, "max_tokens"),
    ],
)
def test_a_wrong_completion_is_told_why(server: Server, body: dict[str, Any], param: str) -> None:
    reply = post(server, "/v1/completions", {"model": "m", **body})
    assert (reply.status, reply.json["error"]["param"]) == (400, param)
    assert (server.books.by_status, server.books.in_flight) == ({400: 1}, 0)


# --- embeddings ---


def test_embeddings_are_of_length_1_and_equal_for_equal_texts_alone(client: openai.OpenAI) -> None:
    texts = ["one", "two", "one", "a somewhat longer text", " ", "你好"]
    made = client.embeddings.create(model="m", input=texts)
    vectors = [each.embedding for each in made.data]
    assert [each.index for each in made.data] == [*range(6)]
    assert {len(vector) for vector in vectors} == {256}
    assert all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-6) for vector in vectors)
    assert vectors[0] == vectors[2]
    assert len({tuple(vector) for vector in vectors}) == 5
    assert made.usage.prompt_tokens == made.usage.total_tokens == 1 + 1 + 1 + 6 + 1 + 1
    again = client.embeddings.create(model="m", input="two", encoding_format="float").data[0].embedding
    assert again == pytest.approx(vectors[1], abs=1e-9)


def test_fewer_dimensions_are_the_beginning_of_more(client: openai.OpenAI) -> None:
    short, whole = (
        client.embeddings.create(model="m", input="text", dimensions=size).data[0].embedding for size in (8, 3072)
    )
    assert (len(short), len(whole)) == (8, 3072)
    assert math.isclose(math.hypot(*short), 1, rel_tol=1e-6)
    length = math.hypot(*whole[:8])
    assert short == pytest.approx([each / length for each in whole[:8]], abs=1e-6)


def test_the_base64_of_an_embedding_is_its_floats(server: Server) -> None:
    plain, packed = (
        post(server, "/v1/embeddings", {"model": "m", "input": "text", "encoding_format": form}).json["data"][0]
        for form in ("float", "base64")
    )
    assert [*struct.unpack("<256f", base64.b64decode(packed["embedding"]))] == plain["embedding"]


@pytest.mark.parametrize("given", [[1, 2, 3], [[1, 2], [3]]])
def test_tokens_are_embedded_too(client: openai.OpenAI, given: Any) -> None:
    made = client.embeddings.create(model="m", input=given)
    assert len(made.data) == (2 if isinstance(given[0], list) else 1)
    assert made.usage.prompt_tokens == 3


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "You must provide"),
        ({"input": ""}, "Invalid 'input': input cannot be an empty string."),
        ({"input": ["a", "", "b"]}, "Invalid 'input[1]': input cannot be an empty string."),
        ({"input": []}, "not empty"),
        ({"input": [[]]}, "empty"),
        ({"input": {"a": 1}}, "must be a text"),
        ({"input": ["a", None]}, r"'input[1]' must be"),
        ({"input": ["a"] * 2049}, "a list of 2048 at most is taken, and this one has 2049"),
        ({"input": ["a", "b " * 20_000]}, "maximum context length is 8192 tokens, however you requested 10000 tokens"),
        ({"input": ["b" * 30_000] * 41}, "Requested 307500 tokens, max 300000 tokens per request"),
        ({"input": "a", "dimensions": 0}, "'dimensions' must be"),
        ({"input": "a", "dimensions": 4000}, "'dimensions' must be"),
        ({"input": "a", "encoding_format": "hex"}, "'encoding_format' must be"),
    ],
)
def test_a_wrong_embeddings_request_is_told_why(server: Server, body: dict[str, Any], said: str) -> None:
    reply = post(server, "/v1/embeddings", {"model": "m", **body})
    assert reply.status == 400
    assert said in reply.json["error"]["message"]
    assert (server.books.embedded, server.books.by_status) == (0, {400: 1})


def test_the_books_count_every_input(server: Server, client: openai.OpenAI) -> None:
    for texts in (["a", "b"], ["b", "c", "c"]):
        client.embeddings.create(model="m", input=texts)
    stats = request(server.base_url, "GET", "/stats").json
    assert (stats["requests"], stats["answered"], stats["inputs"], stats["embedded"]) == (2, 2, 5, 5)
    assert stats["inputs_by_text"] == stats["embedded_by_text"] == {"a": 1, "b": 2, "c": 2}
    assert stats["requests_by_prompt"] == {}


def test_without_counts_by_prompt_inputs_are_counted_as_a_number_alone() -> None:
    with embedded() as server:
        post(server, "/v1/embeddings", {"input": ["a", "b"]})
        assert (server.books.embedded, server.books.embedded_by_text) == (2, {})


# --- faults of completions and embeddings ---


def refusing(**rule: Any) -> Knobs:
    return Knobs(faults=(FaultRule(Fate.ERROR, FaultReply(400, {"error": {"message": "no: {prompt}"}}), **rule),))


def test_one_input_at_fault_refuses_its_request_and_no_other() -> None:
    with embedded(refusing(match="^bad")) as server:
        statuses = [
            post(server, "/v1/embeddings", {"input": texts}).status for texts in (["a", "bad 1"], ["a"], ["b", "c"])
        ]
        assert statuses == [400, 200, 200]
        reply = post(server, "/v1/embeddings", {"input": ["x", "bad 2", "bad 3"]})
        assert reply.json["error"]["message"] == "no: bad 2"
        assert server.books.faults_by_prompt == {"bad 1": 1, "bad 2": 1}
        assert server.books.embedded_by_text == {"a": 1, "b": 1, "c": 1}


def test_a_share_of_the_inputs_is_at_fault_whatever_stands_beside_them() -> None:
    texts = [f"text {number}" for number in range(40)]
    with embedded(refusing(share=0.1)) as server:
        bad = {text for text in texts if post(server, "/v1/embeddings", {"input": text}).status == 400}
        good = [text for text in texts if text not in bad]
        assert 0 < len(bad) < 20
        assert post(server, "/v1/embeddings", {"input": good}).status == 200
        assert {post(server, "/v1/embeddings", {"input": [*good, text]}).status for text in bad} == {400}


def test_a_fault_that_passes_is_met_once_by_each_text() -> None:
    with embedded(refusing(match="bad", times=1)) as server:
        body = {"input": ["a", "bad"]}
        assert [post(server, "/v1/embeddings", body).status for _ in range(3)] == [400, 200, 200]
        assert [post(server, "/v1/completions", {"prompt": "bad too"}).status for _ in range(2)] == [400, 200]


def test_keys_limits_rates_and_models_hold_on_every_route() -> None:
    routes: dict[str, dict[str, Any]] = {
        "chat/completions": {"messages": HELLO},
        "completions": {"prompt": "hello"},
        "embeddings": {"input": "hello"},
    }
    for knobs, status in (
        (Knobs(keys=("k",)), 401),
        (Knobs(error_rate=1), 500),
        (Knobs(model="other"), 404),
    ):
        with embedded(knobs) as server:
            for path, body in routes.items():
                assert post(server, f"/v1/{path}", {"model": "m", **body}).status == status
            assert server.books.by_status == {status: 3}
            assert server.books.by_route == dict.fromkeys(routes, 1)
    with embedded(Knobs(rpm=0.06)) as server:
        statuses = [post(server, f"/v1/{path}", body).status for path, body in routes.items()]
        assert statuses == [200, 429, 429]


@pytest.mark.parametrize(("fate", "vectors"), [(Fate.EMPTY, 0), (Fate.LENGTH, 2), (Fate.CHOICES, 6), (Fate.ANSWER, 4)])
def test_an_answer_with_too_few_or_too_many_vectors_can_be_had(fate: Fate, vectors: int) -> None:
    with embedded(Knobs(faults=(FaultRule(fate),))) as server:
        reply = post(server, "/v1/embeddings", {"input": ["a", "b", "c", "d"]})
        assert len(reply.json["data"]) == vectors
        choices = post(server, "/v1/completions", {"prompt": "hello"}).json["choices"]
        assert len(choices) == {Fate.EMPTY: 0, Fate.CHOICES: 3}.get(fate, 1)


def test_a_hole_leaves_half_the_json_of_an_embedding() -> None:
    with embedded(Knobs(faults=(FaultRule(Fate.HOLE),))) as server:
        reply = post(server, "/v1/embeddings", {"input": "a"})
        with pytest.raises(json.JSONDecodeError):
            _ = reply.json
        assert (reply.status, server.books.lost, server.books.answered) == (200, 1, 0)


@pytest.mark.parametrize(
    ("path", "body"), [("chat/completions", {"messages": HELLO}), ("completions", {"prompt": "hello"})]
)
def test_a_stream_that_is_cut_has_sent_its_first_events(path: str, body: dict[str, Any]) -> None:
    with embedded(Knobs(cut_rate=1)) as server:
        with pytest.raises(http.client.IncompleteRead) as whole:
            post(server, f"/v1/{path}", body)
        assert whole.value.partial.startswith(b'{"id": ')
        with pytest.raises(http.client.IncompleteRead) as streamed:
            post(server, f"/v1/{path}", {**body, "stream": True})
        *events, last = streamed.value.partial.removesuffix(b"\n\n").split(b"\n\n")
        assert events
        assert all(json.loads(event.removeprefix(b"data: "))["choices"] for event in [*events, last])
        assert b"[DONE]" not in last
        assert (server.books.dropped, server.books.lost, server.books.answered) == (2, 2, 0)


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_a_stream_that_breaks_ends_with_an_error_behind_its_first_half(path: str) -> None:
    with embedded(Knobs(faults=(FaultRule(Fate.BREAK),))) as server:
        reply = post(server, f"/v1/{path}", {"prompt": "hello", "messages": HELLO, "stream": True})
        *events, error, done = reply.body.split(b"\n\n")[:-1]
        assert len(events) > 1
        assert json.loads(error.removeprefix(b"data: "))["error"]["type"] == "server_error"
        assert done == b"data: [DONE]"
        assert (server.books.lost, server.books.answered) == (1, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_stalls_has_begun(stream: bool) -> None:
    with embedded(Knobs(faults=(FaultRule(Fate.STALL),))) as server:
        connection = http.client.HTTPConnection(server.base_url.removesuffix("/v1").removeprefix("http://"))
        with contextlib.closing(connection):
            body = json.dumps({"prompt": "hello", "stream": stream})
            connection.request("POST", "/v1/completions", body)
            assert connection.getresponse().read(30).startswith(b"data: {" if stream else b"{")
            stats_when(server.base_url, "hung", 1)
        stats = stats_when(server.base_url, "in_flight", 0)
        assert (stats["lost"], stats["answered"], stats["by_status"]) == (1, 0, {})


# --- prefixes of the services ---


def test_every_service_is_played_below_its_own_path() -> None:
    for service in SERVICES.values():
        if service.base_url.startswith("http"):
            path = service.base_url.split("//")[1].partition("/")[2].replace("DEPLOYMENT", "gpt-4o")
            name = "gpt-4o" if "gpt-4o" in path else ""
            for route in ("chat/completions", "completions", "embeddings", "models"):
                assert place_of(f"/{path}/{route}") == (route, name), service.name


@pytest.mark.parametrize(
    "prefix",
    ["/api/paas/v4", "/compatible-mode/v1", "/v1/openai", "/openai/v1", "/api/coding/paas/v4", "/v1beta/openai"],
)
def test_the_official_client_works_below_the_prefix_of_another_service(server: Server, prefix: str) -> None:
    with client_of(server, prefix) as client:
        assert client.chat.completions.create(model="m", messages=HELLO).choices[0].message.content == ECHO
        assert client.completions.create(model="m", prompt="hello").choices[0].text == ECHO
        assert len(client.embeddings.create(model="m", input="hello").data) == 1
        assert [model.id for model in client.models.list()] == ["sim"]
        assert client.models.retrieve("any/model").id == "any/model"


def test_a_deployment_of_azure_is_the_model_and_its_key_is_read() -> None:
    with (
        embedded(Knobs(keys=("secret",), model="my-gpt")) as server,
        openai.AzureOpenAI(
            azure_endpoint=server.base_url.removesuffix("/v1"), api_key="secret", api_version="2024-10-21"
        ) as azure,
    ):
        assert azure.chat.completions.create(model="my-gpt", messages=HELLO).model == "my-gpt"
        assert len(azure.embeddings.create(model="my-gpt", input=["a", "b"]).data) == 2
        with pytest.raises(openai.NotFoundError):
            azure.chat.completions.create(model="other", messages=HELLO)
        # The deployment counts, whatever the body says.
        path = "/openai/deployments/other/chat/completions?api-version=2024-10-21"
        reply = post(server, path, {"model": "my-gpt", "messages": HELLO})
        assert reply.status == 401  # without a key


@pytest.mark.parametrize(
    "path", ["/chat/completions", "/v1/chat/completions/chat/completions", "/v9/embeddings", "/v1/v1/completions", "/"]
)
def test_a_wrong_path_is_not_found(server: Server, path: str) -> None:
    reply = post(server, path, {"messages": HELLO})
    assert (reply.status, reply.json["error"]["type"]) == (404, "invalid_request_error")


def test_a_known_path_refuses_another_method_and_answers_head(server: Server) -> None:
    assert request(server.base_url, "GET", "/v1/embeddings").status == 405
    assert request(server.base_url, "POST", "/v1/models", b"").status == 405
    head = request(server.base_url, "HEAD", "/health")
    assert (head.status, head.body) == (200, b"")


def test_the_models_of_a_server_with_keys_need_one() -> None:
    with embedded(Knobs(keys=("k",), model="llama")) as server:
        assert request(server.base_url, "GET", "/v1/models").status == 401
        assert request(server.base_url, "GET", "/v1/models", key="k").json["data"][0]["id"] == "llama"
        assert request(server.base_url, "GET", "/v1/models/other", key="k").status == 404


# --- the headers of its limits ---


def test_a_limit_of_a_minute_is_told_as_openai_does() -> None:
    with embedded(Knobs(rpm=600)) as server:
        replies = [chat(server.base_url) for _ in range(8)]
        assert {reply.headers["x-ratelimit-limit-requests"] for reply in replies} == {"600"}
        left = [int(reply.headers["x-ratelimit-remaining-requests"]) for reply in replies]
        assert all(580 < each < 600 for each in left)
        found = limits_in(replies[-1].headers)
        assert found
        assert found.requests
        assert found.requests.reset_s
        assert 0 < found.requests.reset_s < 2
    with embedded(Knobs()) as server:
        assert not [name for name in chat(server.base_url).headers if name.startswith("x-ratelimit")]


def test_a_refusal_by_a_limit_says_that_nothing_is_left() -> None:
    with embedded(Knobs(rpm=0.06)) as server:
        _, reply = chat(server.base_url), chat(server.base_url)
        assert reply.headers["x-ratelimit-limit-requests"] == "0.06"
        assert reply.headers["x-ratelimit-remaining-requests"] == "0"
        found = limits_in(reply.headers)
        assert found
        assert found.requests
        assert found.requests.reset_s == pytest.approx(int(reply.headers["retry-after"]), abs=1.5)


def test_a_limit_in_flight_is_told_without_a_time() -> None:
    with embedded(Knobs(max_in_flight=3)) as server:
        headers = chat(server.base_url).headers
        values = [headers[f"x-ratelimit-{name}-requests"] for name in ("limit", "remaining", "reset")]
        assert values == ["3", "2", "0s"]


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0s"), (0.0004, "1ms"), (0.12, "120ms"), (1, "1s"), (8.64, "8.64s"), (360, "6m0s"), (3_601.5, "1h0m1.5s")],
)
def test_a_length_of_time_is_written_as_openai_does_and_read_back(seconds: float, written: str) -> None:
    assert length_of(seconds) == written
    headers = {"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": written}
    found = limits_in(headers)
    assert found
    assert found.requests
    assert found.requests.reset_s == pytest.approx(seconds, abs=0.001)


def test_as_many_inputs_as_a_request_may_have_are_all_in_the_books(server: Server, client: openai.OpenAI) -> None:
    texts = [f"text {number}" for number in range(2048)]
    made = client.embeddings.create(model="m", input=texts)
    assert len(made.data) == 2048
    assert server.books.embedded_by_text == Counter(texts)

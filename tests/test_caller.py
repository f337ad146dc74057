from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from canned_server import Reply, Then, canned, closed_port, completion, http
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tracers.context import collect_runs
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from batcher.caller import ChatCallers
from batcher.config import Endpoint
from batcher.errors import SettingsError
from batcher.records import Completion, Failure, Fault, Message, Usage
from batcher.serve import Server, embedded
from batcher.sim_answer import answer

KEY = "sk-5ecret/With+all=kinds"
HELLO = [{"role": "user", "content": "hello"}]
OK = http(200, completion("fine", usage={"prompt_tokens": 3, "completion_tokens": 1}))
FINE = Completion("fine", "stop", Usage(3, 1))
LONG = 60.0  # seconds that no test waits


async def called(endpoint: Endpoint, messages: list[Message] = HELLO, timeout_s: float = LONG, **params: Any) -> Any:
    callers = ChatCallers(params)
    try:
        return await callers.caller(endpoint).call(messages, timeout_s)
    finally:
        await callers.close()


async def sent(messages: list[Message], model: str = "m", **params: Any) -> Any:
    """Return the body that goes over the wire."""
    async with canned(OK) as server:
        assert await called(Endpoint(model, server.base_url), messages, **params) == FINE
    (request,) = server.asked
    return request.json


# --- what goes over the wire ---

TOOL_CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a":  1}'}, "index": 0}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "system", "content": "Be kind."},
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": ""},
        {"role": "user", "content": "emoji 👋🏽, 汉字, half \ud83d of a pair, \x00"},
        {"role": "user", "content": "hello", "name": "ann", "unknown": {"deep": [1, None]}},
        {"role": "user", "content": [{"type": "text", "text": "what is this?"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iV"}}]},
        {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}, {"type": "thinking"}]},
        {"role": "assistant", "content": "yes", "prefix": True, "reasoning_content": "because"},
        {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{no"}}]},
        {"role": "assistant", "tool_calls": [TOOL_CALL]},
        {"role": "tool", "content": "3", "tool_call_id": "1", "name": "add"},
        {"role": "function", "content": "3", "name": "add"},
    ],
)
@pytest.mark.parametrize("model", ["m", "o3-mini"])
async def test_a_message_goes_out_as_the_user_wrote_it(message: Message, model: str) -> None:
    before = repr(message)
    assert await sent([message], model) == {"model": model, "messages": [message]}
    assert repr(message) == before


@pytest.mark.parametrize("model", ["m", "gpt-4o-mini", "o1", "o3-mini", "gpt-5", "gpt-5-pro", "codex-mini"])
async def test_a_parameter_goes_out_under_the_name_that_the_user_wrote(model: str) -> None:
    params = {
        "max_tokens": 20,
        "max_completion_tokens": 30,
        "temperature": 0,
        "top_p": 1.0,
        "top_k": 40,
        "n": 2,
        "stop": ["\n"],
        "seed": None,
        "logprobs": True,
        "reasoning": {"effort": "low"},
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
        "tools": [{"type": "function", "function": {"name": "add"}}],
        "metadata": {"a": "b"},
        "extra_body": {"a": 1},
        "timeout": 3,
    }
    assert await sent(HELLO, model, **params) == {"model": model, "messages": HELLO, **params}
    assert await sent(HELLO, model) == {"model": model, "messages": HELLO}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": JSON, "extra": JSON}), min_size=1))
def test_any_message_goes_out_as_it_is(messages: list[Message]) -> None:
    assert asyncio.run(sent(messages))["messages"] == messages


async def test_an_endpoint_has_parameters_of_its_own() -> None:
    async with canned(OK) as server:
        endpoint = Endpoint("m", server.base_url, params={"temperature": 1, "top_k": 3})
        assert await called(endpoint, temperature=0, max_tokens=5) == FINE
    body = server.asked[0].json
    assert body == {"model": "m", "messages": HELLO, "temperature": 1, "top_k": 3, "max_tokens": 5}


async def test_an_offline_endpoint_is_answered_by_the_embedded_server(server: Server) -> None:
    callers = ChatCallers({}, server.base_url)
    completion = await callers.caller(Endpoint("m", "offline")).call([{"role": "user", "content": "2 + 3"}], LONG)
    await callers.close()
    assert isinstance(completion, Completion)
    assert completion.text == "5"


# --- many calls ---


@pytest.fixture
def server() -> Iterator[Server]:
    with embedded() as running:
        yield running


async def test_each_of_500_concurrent_calls_gets_the_answer_to_its_own_prompt(server: Server) -> None:
    prompts = [f"Say something about {number}" for number in range(500)]
    callers = ChatCallers({})
    caller = callers.caller(Endpoint("m", server.base_url))
    asked = [[{"role": "user", "content": prompt}] for prompt in prompts]
    completions = await asyncio.gather(*(caller.call(messages, LONG) for messages in asked))
    await callers.close()
    expected = [answer({"messages": messages}) for messages in asked]
    assert len(set(expected)) > 1
    assert [completion.text for completion in completions if isinstance(completion, Completion)] == expected
    assert server.books.answered == 500


def test_one_event_loop_after_another_can_call(server: Server) -> None:
    for _ in range(3):
        assert isinstance(asyncio.run(called(Endpoint("m", server.base_url))), Completion)


async def test_calls_share_connections_and_start_no_thread() -> None:
    async with canned(OK) as server:
        callers = ChatCallers({})
        caller, other = (callers.caller(Endpoint("m", server.base_url, api_key=key)) for key in ("one", "two"))
        threads = threading.active_count()
        for _ in range(5):
            assert await caller.call(HELLO, LONG) == await other.call(HELLO, LONG) == FINE
        assert threading.active_count() == threads
        await callers.close()
    assert server.connections == 1
    assert [request.headers["authorization"][-3:] for request in server.asked] == ["one", "two"] * 5


async def test_a_cache_of_langchain_is_left_alone() -> None:
    set_llm_cache(InMemoryCache())
    try:
        async with canned(OK) as server:
            for _ in range(2):
                await called(Endpoint("m", server.base_url))
    finally:
        set_llm_cache(None)
    assert len(server.asked) == 2


async def test_langchain_and_its_tracers_see_each_call() -> None:
    async with canned(OK) as server:
        with collect_runs() as seen:
            assert await called(Endpoint("m", server.base_url), [{"role": "user", "content": "half \ud83d"}]) == FINE
    (run,) = seen.traced_runs
    assert run.outputs is not None
    assert run.outputs["generations"][0][0]["text"] == "fine"


# --- failures ---


async def test_what_the_transport_says_is_the_failure() -> None:
    async with canned(http(429, {"error": {"message": "Slow down", "code": "limit"}}, ["Retry-After: 3"])) as server:
        failure = await called(Endpoint("m", server.base_url))
    assert failure == Failure(Fault.STATUS, "Slow down", 429, "limit", 3.0)


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n{"])
async def test_an_answer_that_does_not_come_in_time_is_a_timeout_and_hangs_up(begun: bytes) -> None:
    async with canned(Reply(begun, Then.HANG)) as server:
        callers = ChatCallers({})
        failure = await callers.caller(Endpoint("m", server.base_url)).call(HELLO, 0.05)
        assert failure == Failure(Fault.TIMEOUT, "nothing came within 0.05 s")
        await server.left.wait()
        await callers.close()


async def test_a_cancelled_call_raises_and_hangs_up() -> None:
    async with canned(Reply(b"", Then.HANG)) as server:
        callers = ChatCallers({})
        call = asyncio.ensure_future(callers.caller(Endpoint("m", server.base_url)).call(HELLO, LONG))
        await server.came.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.left.wait()
        await callers.close()


async def test_nothing_shows_the_api_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with canned(http(401, f"Not with {KEY}")) as server:
        callers = ChatCallers({})
        endpoint = Endpoint("m", server.base_url, api_key=KEY)
        caller: Any = callers.caller(endpoint)
        failure = await caller.call(HELLO, LONG)
        await callers.close()
    llm = caller._llm
    shown = [repr(each) for each in (failure, endpoint, callers, caller, llm, vars(llm), vars(caller))]
    shown += [str(failure), str(llm), str(llm._serialized), repr(llm.model_dump())]
    assert not [text for text in (*shown, caplog.text) if KEY in text]
    assert failure.message == "Not with [API key]"


# --- models of the user's own ---


USAGE = UsageMetadata(input_tokens=2, output_tokens=1, total_tokens=3)


class Model(BaseChatModel):
    """Does what it was made to do."""

    outcome: Any
    secret: SecretStr = SecretStr(KEY)

    @property
    def _llm_type(self) -> str:
        return "test"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        assert messages
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return ChatResult(generations=[ChatGeneration(message=each) for each in self.outcome])


@pytest.fixture
async def http_client() -> AsyncIterator[Any]:
    async with openai.DefaultAsyncHttpxClient(trust_env=False) as client:
        yield client


def own(client: Any, base_url: str, **options: Any) -> Endpoint:
    options = {"max_retries": 0, "api_key": KEY, **options}
    return Endpoint(llm=ChatOpenAI(model="mine", base_url=base_url, http_async_client=client, **options))


async def test_a_chat_model_of_the_users_own_answers() -> None:
    assert await called(Endpoint(llm=FakeListChatModel(responses=["one"]))) == Completion("one")


async def test_a_chatopenai_of_the_users_own_answers_with_the_runs_parameters(http_client: Any) -> None:
    async with canned(OK) as server:
        assert await called(own(http_client, server.base_url), temperature=0, stop=["."]) == FINE
    (request,) = server.asked
    assert request.json == {"model": "mine", "messages": HELLO, "temperature": 0, "stop": ["."], "stream": False}
    assert request.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("message", "read"),
    [
        (AIMessage("yes", response_metadata={"finish_reason": "length"}), Completion("yes", "length")),
        (AIMessage("yes", response_metadata={"stop_reason": "end_turn"}), Completion("yes", "end_turn")),
        (AIMessage([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), Completion("ab")),
        (AIMessage(""), Completion(None)),
        (AIMessage("yes", usage_metadata=USAGE), Completion("yes", None, Usage(2, 1))),
    ],
)
async def test_a_message_of_any_model_is_read(message: AIMessage, read: Completion) -> None:
    assert await called(Endpoint(llm=Model(outcome=[message]))) == read


def said(status: int, code: str, *headers: str) -> Reply:
    return http(status, {"error": {"message": f"said with {KEY}", "code": code}}, headers)


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (said(401, "bad_key"), Failure(Fault.STATUS, "said with [API key]", 401, "bad_key")),
        (said(429, "limit", "Retry-After: 3"), Failure(Fault.STATUS, "said with [API key]", 429, "limit", 3.0)),
        (said(400, "too_long"), Failure(Fault.STATUS, "said with [API key]", 400, "too_long")),
        (http(500, "<p>\nsorry"), Failure(Fault.STATUS, "<p> sorry", 500)),
        (Reply(b"", Then.CLOSE), Failure(Fault.CONNECTION, "Server disconnected without sending a response.")),
        (Reply(b"", Then.HANG), Failure(Fault.TIMEOUT, "Request timed out.")),
    ],
    ids=["401", "429", "400", "500", "closed", "hung"],
)
async def test_a_failure_of_the_sdk_is_read(http_client: Any, reply: Reply, failure: Failure) -> None:
    async with canned(reply) as server:
        assert await called(own(http_client, server.base_url, timeout=0.2)) == failure


async def test_the_sdk_is_cut_off_in_time(http_client: Any) -> None:
    async with canned(Reply(b"", Then.HANG)) as server:
        failure = await called(own(http_client, server.base_url), timeout_s=0.1)
        await server.left.wait()
    assert failure == Failure(Fault.TIMEOUT, "nothing came within 0.1 s")


async def test_the_sdk_finds_nobody(http_client: Any) -> None:
    failure = await called(own(http_client, f"http://127.0.0.1:{closed_port()}/v1"))
    assert failure == Failure(Fault.CONNECTION, "All connection attempts failed")


class TransportError(Exception):
    """Named as that of httpx, on which the SDKs of other providers build."""


class TimeoutException(TransportError):
    pass


class WithStatus(Exception):
    def __init__(self, status_code: int, response: object = None) -> None:
        super().__init__("said by the class")
        self.status_code = status_code
        self.response = response


class Unread:
    headers = {"Retry-After": "4"}  # noqa: RUF012 - a canned response

    @property
    def text(self) -> str:
        raise RuntimeError("the body was not read")


def wrapped(cause: Exception) -> Exception:
    error = RuntimeError(f"wrapped with {KEY}")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (TimeoutError(), Failure(Fault.TIMEOUT, "nothing came within 60 s")),
        (wrapped(TimeoutException()), Failure(Fault.TIMEOUT, "wrapped with [API key]")),
        (wrapped(TransportError("no route")), Failure(Fault.CONNECTION, "no route")),
        (ConnectionResetError(), Failure(Fault.CONNECTION, "ConnectionResetError")),
        (WithStatus(404), Failure(Fault.STATUS, "said by the class", 404)),
        (WithStatus(503, Unread()), Failure(Fault.STATUS, "said by the class", 503, None, 4.0)),
        (ValueError(f"odd\n{KEY}"), Failure(Fault.OTHER, "ValueError: odd [API key]")),
        (KeyError("x" * 600), Failure(Fault.OTHER, "KeyError: '" + "x" * 489 + " ...")),
        (StopAsyncIteration(), Failure(Fault.OTHER, "StopAsyncIteration:")),
    ],
)
async def test_an_error_of_any_model_is_read(error: Exception, failure: Failure) -> None:
    assert await called(Endpoint(llm=Model(outcome=error))) == failure


async def test_a_model_that_generates_nothing_is_a_failure() -> None:
    failure = await called(Endpoint(llm=Model(outcome=[])))
    assert failure == Failure(Fault.PROTOCOL, "the model returned no generation")


async def test_a_message_that_langchain_does_not_take_is_a_failure() -> None:
    failure = await called(Endpoint(llm=Model(outcome=[])), [{"role": "tool", "content": "no id"}])
    assert (failure.fault, failure.message.split(":")[0]) == (Fault.OTHER, "KeyError")


async def test_what_is_no_chat_model_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"Endpoint\(llm=...\) takes a LangChain chat model, not str"):
        await called(Endpoint(llm="gpt-4o"))
